// SPDX-License-Identifier: GPL-2.0
//! Fault injection, with the kernel's own tools: allocations that fail one after the other while
//! a namespace is bound or unbound, requests that fail on a live disk, and functions of the driver
//! that fail on command.
//!
//! What is promised: a bind that fails leaves nothing behind, and the next one succeeds; a bind
//! that succeeds in spite of a failed allocation gives a disk that works.

pub mod functions;
pub mod leaks;
pub mod namespaces;
pub mod requests;
mod series;

use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::tools::{self, names, Space, PAGE};
use crate::{check, check_eq, fail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const DEBUG: &str = "/sys/kernel/debug";
const AUTOPROBE: &str = "/sys/bus/nd/drivers_autoprobe";
const MNT: &str = "/mnt/fault";
const BIND: &str = "/sys/bus/nd/drivers/rpmem/bind";
const UNBIND: &str = "/sys/bus/nd/drivers/rpmem/unbind";

// What is there.

/// Folders that show what a bound namespace makes, or leaves.
const FOLDERS: &[&str] = &[
    "/sys/block",
    "/sys/class/block",
    "/sys/class/bdi",
    "/sys/class/dax",
    "/sys/bus/dax/devices",
    "/sys/bus/nd/devices",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/bdi",
    "/sys/kernel/debug/block",
    "/sys/kernel/debug/bdi",
    "/sys/kernel/slab",
    "/dev",
];

/// Everything by which a namespace that is not bound could show.
fn rest(c: &Ctx, nd: &str) -> TestResult<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for dir in FOLDERS {
        all.insert(dir.to_string(), names(dir).join(" "));
    }
    let nd = c.nd(nd);
    all.insert("attributes".into(), names(&nd).join(" "));
    all.insert("/proc/iomem".into(), c.read("/proc/iomem")?);
    for module in ["rpmem", "libnvdimm"] {
        let refs = c.read(format!("/sys/module/{module}/refcnt"));
        all.insert(format!("references to {module}"), refs.unwrap_or_default());
    }
    Ok(all)
}

fn must_rest(c: &Ctx, nd: &str, before: &BTreeMap<String, String>) -> TestResult {
    let differ = || -> TestResult<Option<String>> {
        let now = rest(c, nd)?;
        let d = before.iter().find(|(k, v)| now.get(*k) != Some(v));
        Ok(d.map(|(k, v)| format!("{k}:\n{}\nwas:\n{v}", now[k])))
    };
    check_eq!(c.bound_to(nd), None, "driver of {nd}");
    // The end of a block device's number is known to others after a grace period.
    let mut last = String::new();
    c.wait_for("what is left behind to go", || match differ() {
        Ok(None) => true,
        other => {
            let left = format!("left behind: {other:?}");
            if left != last {
                println!("{left}");
                last = left;
            }
            false
        }
    })
}

/// What a disk that works shows: files in sysfs, the debug folder, the node.
fn shape(s: &Space) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let disk = format!("/sys/block/{}", s.disk);
    for dir in ["", "/queue", "/dax", "/integrity"] {
        for n in names(format!("{disk}{dir}")) {
            all.insert(format!("{disk}{dir}/{n}"));
        }
    }
    for p in [
        format!("/dev/{}", s.disk),
        format!("{DEBUG}/block/{}", s.disk),
    ] {
        if Path::new(&p).exists() {
            all.insert(p);
        }
    }
    all
}

/// Where the smallest disk here has room behind a file system.
const IO_AT: u64 = 13 << 20;

/// A file system in front of `IO_AT`.
fn mkfs(c: &Ctx, s: &Space) -> TestResult {
    c.mkfs_ext4(&s.dev(), Some("12M"))?;
    Ok(())
}

/// Mounts what `mkfs` made; ext4 refuses if there is no direct access.
fn dax_works(c: &Ctx, s: &Space) -> TestResult {
    c.mount(&s.dev(), MNT, "dax=always")?;
    let f = File::create(format!("{MNT}/f"))?;
    let dax = tools::is_dax(&f);
    drop(f);
    c.umount(MNT)?;
    check!(dax?, "a file without direct access");
    Ok(())
}

/// Writes and reads through a node of our own: without memory devtmpfs makes none.
fn io_works(c: &Ctx, s: &Space, seed: u64) -> TestResult {
    let number = c.disk_attr(&s.disk, "dev")?;
    let (major, minor) = number.split_once(':').unwrap_or_default();
    let number = libc::makedev(major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
    let node = c"/run/fault-node";
    // SAFETY: a NUL-terminated string.
    let r = unsafe { libc::mknod(node.as_ptr(), libc::S_IFBLK | 0o600, number) };
    check!(r == 0, "mknod: {}", io::Error::last_os_error());
    let path = node.to_string_lossy().into_owned();
    let io = || -> TestResult {
        let f = disk::direct(&path)?;
        let want = Buf::pattern(PAGE, seed);
        let mut got = Buf::page(PAGE);
        f.write_all_at(want.bytes(), IO_AT)?;
        f.sync_all()?;
        f.read_exact_at(got.bytes_mut(), IO_AT)?;
        check!(got.bytes() == want.bytes(), "other data than was written");
        Ok(())
    };
    let r = io();
    fs::remove_file(&path)?;
    r
}

/// A file for writing, so that writing to it is all that is done with failing allocations.
fn writer(path: &str, text: &str) -> TestResult<impl FnMut() -> io::Result<()>> {
    let f = File::options()
        .write(true)
        .open(path)
        .map_err(|e| format!("{path}: {e}"))?;
    let text = text.to_string();
    Ok(move || f.write_all_at(text.as_bytes(), 0))
}

// Namespaces.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Without labels: all of the region.
    Whole,
    Raw,
    Mem,
    Dev,
}

fn space(c: &Ctx, kind: Kind) -> TestResult<Space> {
    let name = match kind {
        Kind::Whole => "",
        Kind::Raw => "raw",
        Kind::Mem => "mem",
        Kind::Dev => "dev",
    };
    // A test that failed may have left it without driver.
    c.load_driver()?;
    c.settle();
    for ns in c.namespaces() {
        let label = c.read(c.nd(&ns).join("alt_name")).unwrap_or_default();
        if label != name {
            continue;
        }
        let holder = c.read(c.nd(&ns).join("holder"))?;
        let nd = if holder.is_empty() { ns } else { holder };
        if c.bound_to(&nd).is_none() {
            c.bind("rpmem", &nd)?;
        }
        let disk = c.disk_of(&nd)?;
        return Ok(Space { nd, disk });
    }
    fail!("no namespace named {name:?}")
}
