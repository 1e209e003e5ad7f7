// SPDX-License-Identifier: GPL-2.0

//! Holding a disk for oneself alone, as mount(8) and mkfs(8) do.

use crate::{
    namespace::Node,
    sys::{
        self,
        Kind,
        Sys, //
    }, //
};
use rustix::{
    fs::{
        FileType,
        Mode,
        OFlags,
        CWD, //
    },
    io::Errno, //
};
use std::{
    fs,
    io,
    os::fd::OwnedFd,
    path::{
        Path,
        PathBuf, //
    },
    process, //
};

/// A disk that nobody else can claim, nor any of its partitions, until this is dropped.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "held, not used")] OwnedFd);

/// Why a disk was not claimed.
#[derive(Debug)]
pub enum Error {
    /// Somebody else has claimed it: EBUSY.
    Held,
    Other(String),
}

impl Claim {
    /// Opens the disk with O_EXCL, for reading: a close after writing would be an event for udev.
    ///
    /// The name below `/dev` counts only if it is that device. Otherwise a node is made for as long as it
    /// takes to open it.
    pub fn new(sys: &Sys, disk: &Node) -> Result<Self, Error> {
        let path = sys.dev.join(disk.in_dev());
        let wanted = Some((Kind::Block, disk.number));
        if sys::node_at(&path).is_ok_and(|node| node == wanted) {
            return Self::open(&path, disk);
        }
        let mut last = Error::Other(String::new());
        // A directory may be on a file system without device nodes, as /run is.
        for dir in [&sys.dev, &sys.run, Path::new("/tmp")] {
            last = match TemporaryNode::new(dir, disk) {
                Ok(node) => match Self::open(&node.0, disk) {
                    Err(Error::Other(why)) => Error::Other(why),
                    done => return done,
                },
                Err(e) => Error::Other(format!("a node for it in {}: {e}", dir.display())),
            };
        }
        Err(last)
    }

    fn open(path: &Path, disk: &Node) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| match e {
            Errno::BUSY => Error::Held,
            e => Error::Other(format!("{}: {}", path.display(), io::Error::from(e))),
        })?;
        // The name may have got another device meanwhile.
        let opened = rustix::fs::fstat(&file).map_err(|e| Error::Other(e.to_string()))?;
        let is_block = FileType::from_raw_mode(opened.st_mode) == FileType::BlockDevice;
        if !is_block || opened.st_rdev != number_of(disk) {
            let why = format!("{} is no longer {}", path.display(), disk.number);
            return Err(Error::Other(why));
        }
        Ok(Claim(file))
    }
}

fn number_of(disk: &Node) -> u64 {
    rustix::fs::makedev(disk.number.major, disk.number.minor)
}

/// Removed when it is dropped.
struct TemporaryNode(PathBuf);

impl TemporaryNode {
    fn new(dir: &Path, disk: &Node) -> io::Result<Self> {
        let path = dir.join(format!(".rpmem-bind-{}", process::id()));
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &path, FileType::BlockDevice, mode, number_of(disk))?;
        Ok(TemporaryNode(path))
    }
}

impl Drop for TemporaryNode {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
