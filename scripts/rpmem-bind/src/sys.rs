// SPDX-License-Identifier: GPL-2.0

//! Where the kernel shows what it has, and reading it.

use rustix::{
    fs::{
        AtFlags,
        FileType,
        StatxFlags,
        CWD, //
    },
    io::Errno, //
};
use std::{
    env,
    fmt,
    fs,
    io::{
        self,
        Write, //
    },
    path::{
        Path,
        PathBuf, //
    }, //
};

/// Where sysfs, procfs and the device nodes are, and where this tool keeps what it has moved.
pub struct Sys {
    pub sysfs: PathBuf,
    pub proc: PathBuf,
    pub dev: PathBuf,
    pub run: PathBuf,
}

impl Sys {
    /// Those of this host. `RPMEM_SYSFS` and `RPMEM_RUN` are for tests.
    pub fn host() -> Self {
        let or = |name: &str, path: &str| env::var_os(name).unwrap_or(path.into()).into();
        Sys {
            sysfs: or("RPMEM_SYSFS", "/sys"),
            proc: "/proc".into(),
            dev: "/dev".into(),
            run: or("RPMEM_RUN", "/run"),
        }
    }

    /// The bus of libnvdimm.
    pub fn bus(&self) -> PathBuf {
        self.sysfs.join("bus/nd")
    }

    /// A device on that bus.
    pub fn nd(&self, device: &str) -> PathBuf {
        self.bus().join("devices").join(device)
    }

    /// A driver of that bus.
    pub fn driver(&self, driver: &str) -> PathBuf {
        self.bus().join("drivers").join(driver)
    }

    /// The parameter of rpmem.ko that names what it leaves to other drivers.
    pub fn exclude(&self) -> PathBuf {
        self.sysfs.join("module/rpmem/parameters/exclude")
    }

    /// Which driver a namespace had before it was first moved.
    pub fn record(&self, namespace: &str) -> PathBuf {
        self.records().join(namespace)
    }

    pub fn records(&self) -> PathBuf {
        self.run.join("rpmem-bind")
    }
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    pub major: u32,
    pub minor: u32,
}

impl Number {
    /// Of a text such as `259:0`, as in sysfs and in mountinfo.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Number {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Block device or character device: the numbers of one say nothing about the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Block,
    Char,
}

/// What the file is the node of, if it is one. Asks no server: what hangs there is not our business.
///
/// # Errors
///
/// As statx(2).
pub fn node_at(path: &Path) -> io::Result<Option<(Kind, Number)>> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let file = rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE)?;
    let kind = match FileType::from_raw_mode(file.stx_mode.into()) {
        FileType::BlockDevice => Kind::Block,
        FileType::CharacterDevice => Kind::Char,
        _ => return Ok(None),
    };
    let number = Number {
        major: file.stx_rdev_major,
        minor: file.stx_rdev_minor,
    };
    Ok(Some((kind, number)))
}

/// Whether the error says that what was looked at has ended meanwhile. A process that is ending answers
/// EINVAL for its mounts.
pub fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::SRCH, Errno::INVAL, Errno::NODEV]
        .iter()
        .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}

/// The text of a file without the space around it; `None` if it cannot be read.
pub fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&text).trim().to_string())
}

/// The last part of what a link points to.
pub fn link_name(path: impl AsRef<Path>) -> Option<String> {
    name_of(&fs::read_link(path).ok()?)
}

/// The last part of a path.
pub fn name_of(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// What is in a directory, in the order of the names; nothing if there is no such directory.
///
/// # Errors
///
/// As opendir(3) and readdir(3), with the path.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let wrong = |e: io::Error| format!("{}: {e}", dir.display());
    let listing = match fs::read_dir(dir) {
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        listing => listing.map_err(wrong)?,
    };
    let mut all = listing
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(wrong)?;
    all.sort();
    Ok(all)
}

/// Writes a line by one write(2), as the attributes of sysfs want it. It is not tried again after a signal.
///
/// # Errors
///
/// As open(2) and write(2).
pub fn write_line(path: &Path, text: &str) -> io::Result<()> {
    let line = format!("{text}\n");
    let written = fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write(line.as_bytes())?;
    match written == line.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}
