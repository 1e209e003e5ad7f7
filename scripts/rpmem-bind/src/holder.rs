// SPDX-License-Identifier: GPL-2.0

//! Who uses a namespace, as far as the kernel shows it. Nothing here opens a device.

use crate::{
    namespace::Node,
    parse,
    sys::{
        self,
        Kind,
        Number,
        Sys, //
    }, //
};
use serde::Serialize;
use std::{
    collections::{
        HashMap,
        HashSet, //
    },
    fmt,
    fs,
    io,
    path::{
        Path,
        PathBuf, //
    },
    process, //
};

/// How a node is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    Mounted,
    Swap,
    /// Of another block device.
    Part,
    /// Given to other hosts.
    Exported,
    /// A process has it open or mapped.
    InUse,
    SystemRam,
    /// Opened with O_EXCL, and nothing else is known.
    Claimed,
}

/// One use of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub why: Why,
    /// The node, as in sysfs.
    pub dev: String,
    /// Mount point, device, or name of the process.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Of the process, or of one in whose mount namespace it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

impl Holder {
    /// What is known of a disk that cannot be opened with O_EXCL.
    pub fn claimed(disk: &Node) -> Self {
        Holder {
            why: Why::Claimed,
            dev: disk.in_dev(),
            by: String::new(),
            pid: None,
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> String {
        let Holder { dev, by, .. } = self;
        match (self.why, self.pid) {
            (Why::Mounted, None) => format!("Unmount it first: umount {by}"),
            (Why::Mounted, Some(pid)) => {
                format!("Unmount it first: nsenter -t {pid} -m umount {by}")
            }
            (Why::Swap, _) => format!("Switch it off first: swapoff /dev/{dev}"),
            (Why::Part, _) => "Take that down first.".into(),
            (Why::Exported, _) => "Take it out of that target first.".into(),
            (Why::InUse, _) => "End it first.".into(),
            (Why::SystemRam, _) => {
                format!("Take it back first: daxctl reconfigure-device -m devdax -f {dev}")
            }
            (Why::Claimed, _) => "By what sysfs does not show: a SCSI target, or a mount that was \
                                  detached while files of it are open."
                .into(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { dev, by, .. } = self;
        match (self.why, self.pid) {
            (Why::Mounted, None) => write!(f, "/dev/{dev} is mounted at {by}"),
            (Why::Mounted, Some(pid)) => write!(
                f,
                "/dev/{dev} is mounted at {by} (in the mount namespace of pid {pid})"
            ),
            (Why::Swap, _) => write!(f, "/dev/{dev} is swap"),
            (Why::Part, _) => write!(f, "/dev/{dev} is part of {by}"),
            (Why::Exported, _) => write!(f, "/dev/{dev} is exported by {by}"),
            (Why::InUse, pid) => write!(
                f,
                "/dev/{dev} is in use by {by} (pid {})",
                pid.unwrap_or_default()
            ),
            (Why::SystemRam, _) => write!(f, "{dev} is system memory"),
            (Why::Claimed, _) => write!(f, "/dev/{dev} is claimed in the kernel"),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Look {
    pub holders: Vec<Holder>,
    /// The first thing that could not be looked at; there may be more holders.
    pub unseen: Option<String>,
}

impl Look {
    /// Who holds these nodes.
    pub fn at<'a>(sys: &Sys, nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let nodes: Vec<&Node> = nodes.into_iter().collect();
        let mut looking = Looking {
            sys,
            known: nodes
                .iter()
                .map(|node| ((node.kind, node.number), *node))
                .collect(),
            found: Look::default(),
        };
        if nodes.is_empty() {
            return looking.found;
        }
        looking.mounts();
        looking.swap();
        for node in nodes {
            looking.holders(node);
        }
        looking.loops();
        looking.nvme_target();
        looking.processes();
        looking.found
    }

    /// Those of one node.
    pub fn of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Holder> {
        let name = node.in_dev();
        self.holders.iter().filter(move |h| h.dev == name)
    }

    fn unseen(&mut self, why: impl fmt::Display) {
        self.unseen.get_or_insert_with(|| why.to_string());
    }
}

struct Looking<'a> {
    sys: &'a Sys,
    known: HashMap<(Kind, Number), &'a Node>,
    found: Look,
}

impl<'a> Looking<'a> {
    fn add(&mut self, node: &Node, why: Why, by: impl Into<String>, pid: Option<u32>) {
        let holder = Holder {
            why,
            dev: node.in_dev(),
            by: by.into(),
            pid,
        };
        if !self.found.holders.contains(&holder) {
            self.found.holders.push(holder);
        }
    }

    /// The node that a path of somebody else's leads to. A path that leads nowhere may be that of a node
    /// which was removed, or of another mount namespace: then its name has to do.
    fn by_path(&self, path: &str) -> Option<&'a Node> {
        if !path.starts_with('/') {
            return None;
        }
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        match sys::node_at(Path::new(path)) {
            Ok(node) => self.known.get(&node?).copied(),
            Err(_) => {
                let name = path.strip_prefix("/dev/")?;
                self.known.values().find(|n| n.in_dev() == name).copied()
            }
        }
    }

    fn process_dirs(&mut self) -> Vec<(u32, PathBuf)> {
        let all = sys::entries(&self.sys.proc).unwrap_or_else(|why| {
            self.found.unseen(why);
            Vec::new()
        });
        all.into_iter()
            .filter_map(|dir| Some((sys::name_of(&dir)?.parse().ok()?, dir)))
            .collect()
    }

    /// In this mount namespace, and in those of other processes.
    fn mounts(&mut self) {
        let own = self.sys.proc.join("self");
        match fs::read(own.join("mountinfo")) {
            Ok(text) => self.mounts_in(&text, None),
            Err(e) => self.found.unseen(format_args!(
                "{}: {e}: is /proc mounted?",
                own.join("mountinfo").display()
            )),
        }
        // What is in this one need not be told again of copies.
        let told: HashSet<String> = self.found.holders.iter().map(|h| h.dev.clone()).collect();
        let mut namespaces = HashSet::from([fs::read_link(own.join("ns/mnt")).ok()]);
        for (pid, dir) in self.process_dirs() {
            let namespace = fs::read_link(dir.join("ns/mnt")).ok();
            if namespace.is_some() && !namespaces.insert(namespace) {
                continue;
            }
            match fs::read(dir.join("mountinfo")) {
                Ok(text) => self.mounts_in(&text, Some((pid, &told))),
                Err(e) if sys::is_gone(&e) => (),
                Err(e) => self.found.unseen(format_args!("mounts of pid {pid}: {e}")),
            }
        }
    }

    fn mounts_in(&mut self, text: &[u8], elsewhere: Option<(u32, &HashSet<String>)>) {
        let text = String::from_utf8_lossy(text);
        let mounts = match parse::mounts(&text) {
            Ok(mounts) => mounts,
            Err(line) => return self.found.unseen(format_args!("mountinfo: {line:?}")),
        };
        for mount in mounts {
            // A file system of several devices has a number of its own.
            let node = match self.known.get(&(Kind::Block, mount.number)) {
                Some(node) => Some(*node),
                None if elsewhere.is_none() => self.by_path(&mount.source),
                None => None,
            };
            let Some(node) = node.filter(|node| node.kind == Kind::Block) else {
                continue;
            };
            match elsewhere {
                None => self.add(node, Why::Mounted, mount.at, None),
                Some((_, told)) if told.contains(&node.in_dev()) => (),
                Some((pid, _)) => {
                    let is_told = |h: &Holder| h.dev == node.in_dev() && h.by == mount.at;
                    if !self.found.holders.iter().any(is_told) {
                        self.add(node, Why::Mounted, mount.at, Some(pid));
                    }
                }
            }
        }
    }

    fn swap(&mut self) {
        // A kernel without swap has no such file.
        for path in parse::swaps(&sys::read(self.sys.proc.join("swaps")).unwrap_or_default()) {
            if let Some(node) = self.by_path(&path) {
                self.add(node, Why::Swap, "", None);
            }
        }
    }

    /// What sysfs shows of the node itself.
    fn holders(&mut self, node: &Node) {
        if node.kind == Kind::Char {
            let driver = self.sys.sysfs.join("bus/dax/devices").join(&node.name);
            if sys::link_name(driver.join("driver")).as_deref() == Some("kmem") {
                self.add(node, Why::SystemRam, "", None);
            }
            return;
        }
        match sys::entries(&node.dir.join("holders")) {
            Ok(holders) => {
                for holder in holders {
                    let mut by = sys::name_of(&holder).unwrap_or_default();
                    if let Some(name) = sys::read(holder.join("dm/name")) {
                        by = format!("{by} ({name})");
                    }
                    self.add(node, Why::Part, by, None);
                }
            }
            Err(why) => self.found.unseen(why),
        }
    }

    /// Loop devices do not claim what they are backed by.
    fn loops(&mut self) {
        let disks = sys::entries(&self.sys.sysfs.join("class/block")).unwrap_or_else(|why| {
            self.found.unseen(why);
            Vec::new()
        });
        for disk in disks {
            let back = sys::read(disk.join("loop/backing_file"));
            if let Some(node) = back.and_then(|path| self.by_path(&path)) {
                let by = sys::name_of(&disk).unwrap_or_default();
                self.add(node, Why::Part, by, None);
            }
        }
    }

    /// Nor does the NVMe target.
    fn nvme_target(&mut self) {
        let all = self.sys.sysfs.join("kernel/config/nvmet/subsystems");
        let list = |dir: &Path| sys::entries(dir).unwrap_or_default();
        for subsystem in list(&all) {
            for space in list(&subsystem.join("namespaces")) {
                let on = sys::read(space.join("enable")).is_some_and(|on| on != "0");
                let path = sys::read(space.join("device_path")).filter(|_| on);
                if let Some(node) = path.and_then(|path| self.by_path(&path)) {
                    let by = sys::name_of(&subsystem).unwrap_or_default();
                    self.add(node, Why::Exported, by, None);
                }
            }
        }
    }

    /// Processes that have a node open or mapped, but for this one.
    fn processes(&mut self) {
        // Most processes map the same libraries: what their inodes are is asked once.
        let mut inodes = HashMap::new();
        for (pid, dir) in self.process_dirs() {
            if pid == process::id() {
                continue;
            }
            let done = self.open_files(&dir).and_then(|mut nodes| {
                nodes.extend(self.mapped_files(&dir, &mut inodes)?);
                Ok(nodes)
            });
            match done {
                Ok(nodes) => {
                    let comm = sys::read(dir.join("comm")).unwrap_or_default();
                    for node in nodes {
                        self.add(node, Why::InUse, comm.as_str(), Some(pid));
                    }
                }
                Err(e) if sys::is_gone(&e) => (),
                Err(e) => self.found.unseen(format_args!("files of pid {pid}: {e}")),
            }
        }
    }

    fn open_files(&self, process: &Path) -> io::Result<Vec<&'a Node>> {
        let mut nodes = Vec::new();
        for file in fs::read_dir(process.join("fd"))? {
            match sys::node_at(&file?.path()) {
                Ok(node) => nodes.extend(node.and_then(|node| self.known.get(&node))),
                Err(e) if sys::is_gone(&e) => (),
                Err(e) => return Err(e),
            }
        }
        Ok(nodes)
    }

    fn mapped_files(
        &self,
        process: &Path,
        inodes: &mut HashMap<(String, String), Option<&'a Node>>,
    ) -> io::Result<Vec<&'a Node>> {
        let text = fs::read(process.join("maps"))?;
        let text = String::from_utf8_lossy(&text);
        let mut nodes = Vec::new();
        for mapping in parse::mappings(&text) {
            let inode = (mapping.inode.0.to_string(), mapping.inode.1.to_string());
            let node = match inodes.get(&inode) {
                Some(node) => *node,
                None => {
                    let link = process.join("map_files").join(&mapping.range);
                    let node = match sys::node_at(&link) {
                        Ok(node) => node.and_then(|node| self.known.get(&node).copied()),
                        // Cut or gone since.
                        Err(e) if sys::is_gone(&e) => self.by_path(mapping.path),
                        // One's own process without privileges.
                        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                            self.by_path(mapping.path)
                        }
                        Err(e) => return Err(e),
                    };
                    inodes.insert(inode, node);
                    node
                }
            };
            nodes.extend(node);
        }
        Ok(nodes)
    }
}
