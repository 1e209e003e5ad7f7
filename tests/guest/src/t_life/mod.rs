// SPDX-License-Identifier: GPL-2.0
//! Life cycle: binding, unbinding, loading and unloading, at rest and in the middle of things.
//!
//! What is promised: an unbind under I/O, a mount or a mapping ends in I/O errors and SIGBUS for
//! the users, in nothing else; what was on the medium is there at the next bind; nothing is leaked.

pub mod bind;
mod holdings;
pub mod mounted;
pub mod shutdown;

use crate::support::ctx::{Ctx, TestResult};
use crate::support::durable;
use crate::support::peer::{self, Peer};
use crate::support::sys;
use crate::support::tools::{self, Space};
use crate::support::trace::Probe;
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

const MNT: &str = "/mnt/life";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raw,
    Mem,
    Dev,
}

fn space(c: &Ctx, kind: Kind) -> TestResult<Space> {
    let name = match kind {
        Kind::Raw => "raw",
        Kind::Mem => "mem",
        Kind::Dev => "dev",
    };
    c.settle();
    for ns in c.namespaces() {
        if c.read(c.nd(&ns).join("alt_name"))? != name {
            continue;
        }
        let holder = c.read(c.nd(&ns).join("holder"))?;
        let nd = if holder.is_empty() { ns } else { holder };
        // A test that failed may have left it without driver.
        if c.bound_to(&nd).is_none() {
            c.bind(c.driver_name(), &nd)?;
        }
        let disk = c.disk_of(&nd)?;
        return Ok(Space { nd, disk });
    }
    fail!("no namespace named {name}")
}

// I/O in the background.

/// Errors that a user sees while the disk goes and comes.
fn expected_error(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::EIO | libc::ENOSPC)
    )
}

/// Reads and writes the last MiB of a disk until it is killed, through the page cache and past it:
/// opens it again when it has gone. Exits with 1 on an error that is not to be expected, with 2 on
/// wrong data. Says a word after each pass that was complete.
fn disk_io(dev: &str, direct: bool, link: &peer::Link) -> i32 {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let Ok(mut buf) = tools::anonymous(1 << 20) else {
        return 3;
    };
    let seed = 80 + u64::from(direct);
    sys::pattern(seed, buf.slice_mut());
    let Ok(back) = tools::anonymous(1 << 20) else {
        return 3;
    };
    let offset = if direct { 32 << 20 } else { 40 << 20 };
    loop {
        let pass = || -> io::Result<bool> {
            use std::os::unix::fs::OpenOptionsExt;
            let f = File::options()
                .read(true)
                .write(true)
                .custom_flags(flags)
                .open(dev)?;
            for _ in 0..4 {
                if tools::pwrite_raw(&f, buf.as_ptr(), 1 << 20, offset)? != 1 << 20 {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                if !direct {
                    f.sync_data()?;
                }
                if tools::pread_raw(&f, back.as_ptr(), 1 << 20, offset)? != 1 << 20 {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                if sys::pattern_differs(seed, back.slice()).is_some() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        match pass() {
            Ok(true) => link.say(),
            Ok(false) => return 2,
            Err(e) if expected_error(&e) => {}
            Err(e) => {
                println!("{dev}: {e}");
                return 1;
            }
        }
    }
}

/// The workers are alive, and did some work: none has ended with an error.
fn still_running(workers: &mut [Peer]) -> TestResult {
    for w in workers {
        if let Some(status) = w.ended()? {
            fail!("a worker ended with {status} (1: unexpected error, 2: wrong data)");
        }
        w.drain()?;
    }
    Ok(())
}

fn seal(s: &Space) -> TestResult<u64> {
    let f = tools::open_rw(s.dev())?;
    let mut data = vec![0; 4 << 20];
    sys::pattern(90, &mut data);
    f.write_all_at(&data, 8 << 20)?;
    f.sync_all()?;
    durable::written(&f, 8 << 20, data.len() as u64, "fsync(2)")?;
    Ok(8 << 20)
}

fn sealed(s: &Space, at: u64) -> TestResult {
    let f = File::open(s.dev())?;
    let mut data = vec![0; 4 << 20];
    f.read_exact_at(&mut data, at)?;
    check_eq!(
        sys::pattern_differs(90, &data),
        None,
        "data of {} after it all",
        s.dev()
    );
    Ok(())
}

fn refused_with_ebusy(c: &Ctx, why: &str) -> TestResult {
    let r = c.try_rmmod(c.driver_name());
    // What delete_module(2) says without O_NONBLOCK's wait; rmmod(8) puts it in words.
    check_eq!(tools::errno(&r), libc::EAGAIN, "rmmod with {why}");
    let said = c.fails(&["rmmod", c.driver_name()])?;
    check!(said.contains("is in use"), "rmmod with {why}: {said}");
    check!(
        c.module_loaded(c.driver_name()),
        "the module went with {why}"
    );
    Ok(())
}

const KEPT: usize = 4 << 20;

/// A file whose contents have to survive everything.
fn keep(c: &Ctx) -> TestResult<String> {
    let path = format!("{MNT}/kept");
    let mut data = vec![0; KEPT];
    sys::pattern(91, &mut data);
    fs::write(&path, &data)?;
    c.ok(&["sync", "-f", MNT])?;
    Ok(path)
}

fn kept() -> TestResult {
    let data = fs::read(format!("{MNT}/kept"))?;
    check_eq!(data.len(), KEPT);
    check_eq!(
        sys::pattern_differs(91, &data),
        None,
        "the file that was kept"
    );
    Ok(())
}

fn check_fs(c: &Ctx, fs: &str, s: &Space) -> TestResult {
    match fs {
        "ext4" => c.ok(&["fsck.ext4", "-n", "-f", &s.dev()])?,
        _ => c.ok(&["xfs_repair", "-n", &s.dev()])?,
    };
    Ok(())
}

/// Counts the flushes that the driver asks of libnvdimm.
fn flushes(c: &Ctx) -> TestResult<Probe> {
    Probe::new(c, "rpmem_life_flush", "nvdimm_flush")
}
