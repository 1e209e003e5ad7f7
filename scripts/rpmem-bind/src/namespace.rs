// SPDX-License-Identifier: GPL-2.0

//! The namespaces of the nd bus, as sysfs shows them.

use crate::{
    exclude::{
        self,
        Mode, //
    },
    parse,
    sys::{
        self,
        Kind,
        Number,
        Sys, //
    }, //
};
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    }, //
};

/// A device node of a namespace.
#[derive(Clone, Debug)]
pub struct Node {
    /// In sysfs.
    pub name: String,
    pub kind: Kind,
    pub number: Number,
    pub dir: PathBuf,
    /// A partition goes with its disk.
    pub is_partition: bool,
}

impl Node {
    fn read(dir: &Path, kind: Kind, is_partition: bool) -> Result<Self, String> {
        let number = sys::read(dir.join("dev")).and_then(|text| Number::parse(&text));
        Ok(Node {
            name: sys::name_of(dir).unwrap_or_default(),
            kind,
            number: number.ok_or_else(|| format!("{}: no device number", dir.display()))?,
            dir: dir.into(),
            is_partition,
        })
    }

    /// The name below `/dev`.
    pub fn in_dev(&self) -> String {
        self.name.replace('!', "/")
    }
}

/// A namespace and what serves it.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    pub region: String,
    pub mode: Mode,
    /// Bytes.
    pub size: u64,
    /// Of the device below, or of the label.
    pub uuid: Option<String>,
    uuids: [[u8; 16]; 2],
    /// The device that a driver binds: the namespace or the personality (btt, pfn, dax) that claims it.
    pub device: String,
    pub driver: Option<String>,
    /// The disk with its partitions, and character devices.
    pub nodes: Vec<Node>,
    /// What could not be read: there may be more nodes.
    pub unseen: Option<String>,
}

impl Namespace {
    /// All of the bus but for the seeds of new ones.
    pub fn all(sys: &Sys) -> Result<Vec<Self>, String> {
        let mut names: Vec<_> = sys::entries(&sys.bus().join("devices"))?
            .iter()
            .filter_map(|path| sys::name_of(path))
            .collect();
        names.sort_by_key(|name| parse::numbers(name));
        Ok(names
            .iter()
            .filter_map(|name| Self::read(sys, name))
            .collect())
    }

    /// One of them.
    pub fn read(sys: &Sys, name: &str) -> Option<Self> {
        if !name.starts_with("namespace") || name.contains('/') {
            return None;
        }
        let dir = sys.nd(name);
        let size = number(&dir.join("size")).filter(|&size| size > 0)?;
        let holder = sys::read(dir.join("holder")).filter(|holder| !holder.is_empty());
        let device = holder.unwrap_or_else(|| name.into());
        let on = sys.nd(&device);
        let text = |dir: &Path| sys::read(dir.join("uuid")).filter(|uuid| !uuid.is_empty());
        let bytes = |uuid: &Option<String>| parse::uuid(uuid.as_deref().unwrap_or_default());
        let (label, own) = (text(&dir), text(&on));
        let (nodes, unseen) = match nodes(&on) {
            Ok(nodes) => (nodes, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Some(Namespace {
            name: name.into(),
            region: fs::canonicalize(&dir)
                .ok()
                .and_then(|dir| sys::name_of(dir.parent()?))
                .unwrap_or_default(),
            mode: match sys::read(dir.join("mode"))?.as_str() {
                "memory" => Mode::Fsdax,
                "dax" => Mode::Devdax,
                "safe" => Mode::Sector,
                _ => Mode::Raw,
            },
            size: number(&on.join("size")).unwrap_or(size),
            uuids: [bytes(&label), bytes(&own)],
            uuid: own.or(label),
            driver: sys::link_name(on.join("driver")),
            nodes,
            device,
            unseen,
        })
    }

    pub fn mode_name(&self) -> &'static str {
        match self.mode {
            Mode::Raw => "raw",
            Mode::Fsdax => "fsdax",
            Mode::Sector => "sector",
            Mode::Devdax => "devdax",
        }
    }

    pub fn disk(&self) -> Option<&Node> {
        self.disks().next()
    }

    pub fn disks(&self) -> impl Iterator<Item = &Node> {
        let is_disk = |node: &&Node| node.kind == Kind::Block && !node.is_partition;
        self.nodes.iter().filter(is_disk)
    }

    pub fn chardev(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.kind == Kind::Char)
    }

    /// Whether rpmem leaves it to another driver, with that list.
    pub fn is_excluded(&self, list: &str) -> bool {
        exclude::excludes(list.as_bytes(), &self.to_words(), self.mode)
    }

    /// The same, also if its mode is not known yet: nobody has read its info block.
    pub fn stays_excluded(&self, list: &str) -> bool {
        match self.device == self.name {
            true => exclude::excludes_in_any_mode(list.as_bytes(), &self.to_words()),
            false => self.is_excluded(list),
        }
    }

    fn to_words(&self) -> exclude::Namespace<'_> {
        exclude::Namespace {
            name: self.name.as_bytes(),
            region: self.region.as_bytes(),
            uuids: self.uuids,
        }
    }
}

fn number(file: &Path) -> Option<u64> {
    let text = sys::read(file)?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The device nodes that the driver of a device offers, by what sysfs calls a disk, a partition and a
/// character device: names say nothing.
fn nodes(device: &Path) -> Result<Vec<Node>, String> {
    let mut nodes = Vec::new();
    for disk in sys::entries(&device.join("block"))? {
        nodes.push(Node::read(&disk, Kind::Block, false)?);
        for part in sys::entries(&disk)? {
            if part.join("partition").exists() {
                nodes.push(Node::read(&part, Kind::Block, true)?);
            }
        }
    }
    // Of device-dax, on a bus of its own; of rpmem, in the directory of its class.
    for child in directories(device)? {
        if child.join("dev").exists() {
            nodes.push(Node::read(&child, Kind::Char, false)?);
        } else if !child.ends_with("block") {
            for grandchild in directories(&child)? {
                if grandchild.join("dev").exists() {
                    nodes.push(Node::read(&grandchild, Kind::Char, false)?);
                }
            }
        }
    }
    Ok(nodes)
}

/// Without links to them, which lead to other devices.
fn directories(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut all = sys::entries(dir)?;
    all.retain(|path| fs::symlink_metadata(path).is_ok_and(|file| file.is_dir()));
    Ok(all)
}
