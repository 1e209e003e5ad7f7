// SPDX-License-Identifier: GPL-2.0
//! File systems with DAX: each is mounted, which recovers it, and has all that was acknowledged by fsync(2), by
//! O_DSYNC, by a flush of a MAP_SYNC mapping.

use super::operations::{self as ops, Model, Op};
use super::{range, record, space};
use crate::support::crash::{self, Alias};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::{check, check_eq};
use std::io;

pub const TESTS: &[Test] = crate::tests! {
    crash_record_ext4 => |c| record_files(c, "ext4"),
    crash_ext4 => |c| files(c, "ext4", false),
    crash_ext4_torn => |c| files(c, "ext4", true),
    crash_record_xfs => |c| record_files(c, "xfs"),
    crash_xfs => |c| files(c, "xfs", false),
    crash_xfs_torn => |c| files(c, "xfs", true),
};

const MNT: &str = "/mnt/crash";
/// Every so many states the file system is checked as a whole.
const FSCK: u64 = 20;

/// What a file system has of its namespace: the journal of xfs takes 12 MiB.
fn size(fs: &str) -> usize {
    match fs {
        "ext4" => 16 << 20,
        _ => 24 << 20,
    }
}

fn all_of(c: &Ctx) -> Vec<Op> {
    ops::operations(c.seed, c.rounds(40, 300))
}

/// Without a process for each: there are many.
fn mount(dev: &str, fs: &str) -> TestResult {
    let c = |s: &str| std::ffi::CString::new(s).expect("no NUL");
    let (d, m, f, o) = (c(dev), c(MNT), c(fs), c("dax=always"));
    // SAFETY: strings that live through the call.
    let r = unsafe { libc::mount(d.as_ptr(), m.as_ptr(), f.as_ptr(), 0, o.as_ptr().cast()) };
    check!(r == 0, "mount {fs}: {}", io::Error::last_os_error());
    Ok(())
}

fn umount() -> TestResult {
    // SAFETY: as above.
    let r = unsafe { libc::umount(c"/mnt/crash".as_ptr()) };
    check!(r == 0, "umount: {}", io::Error::last_os_error());
    Ok(())
}

fn record_files(c: &mut Ctx, fs: &str) -> TestResult {
    let space = space(c, fs)?;
    let dev = space.dev();
    let range = (range(c, &space.nd)?.0, size(fs));
    // What was there before must not be seen in a file.
    Alias::new(c)?.get_mut(range.0, range.1).fill(0xee);
    match fs {
        "ext4" => drop(c.mkfs_ext4(&dev, Some("16M"))?),
        // As small as the tests of the kernel have it.
        _ => drop(c.sh(&format!("mkfs.xfs --unsupported -q -f -d size=24m {dev}"))?),
    }
    disk::open(&dev)?.sync_all()?;
    std::fs::create_dir_all(MNT)?;
    let operations = all_of(c);
    record(c, fs, range, |recording| {
        mount(&dev, fs)?;
        ops::prepare(MNT)?;
        recording.acknowledged("directories");
        for (n, op) in operations.iter().enumerate() {
            op.run(MNT, n as u64)
                .map_err(|e| format!("operation {n}, {op:?}: {e:?}"))?;
            recording.acknowledged(&format!("{n}"));
        }
        umount()
    })
}

/// With `torn` blocks file systems may refuse to be mounted: they rely on whole ones. What they show is right all the
/// same.
fn files(c: &mut Ctx, fs: &str, torn: bool) -> TestResult {
    let space = space(c, fs)?;
    let (dev, phys, len) = (space.dev(), range(c, &space.nd)?.0, size(fs));
    std::fs::create_dir_all(MNT)?;
    // It tells of each mount.
    c.write("/proc/sys/kernel/printk", "5")?;
    let operations = all_of(c);
    let mut refused = 0;
    let all = crash::explore(c, fs, phys, len, |number, acknowledged| {
        match mount(&dev, fs) {
            Err(_) if torn => {
                refused += 1;
                return Ok(());
            }
            mounted => mounted?,
        }
        let looked = look_at_files(acknowledged.len(), &operations);
        let errors = match fs {
            "ext4" => c.read(format!("/sys/fs/ext4/{}/errors_count", space.disk))?,
            _ => "0".into(),
        };
        umount()?;
        looked?;
        check_eq!(errors, "0", "errors of ext4");
        if number % FSCK == 0 && !torn {
            match fs {
                "ext4" => c.ok(&["fsck.ext4", "-n", "-f", &dev])?,
                _ => c.ok(&["xfs_repair", "-n", "-o", "force_geometry", &dev])?,
            };
        }
        Ok(())
    })?;
    if torn {
        println!("result: {fs}: {refused} of these states are refused by mount(2)");
    }
    all.is_right()
}

fn look_at_files(acknowledged: usize, operations: &[Op]) -> TestResult {
    let Some(done) = acknowledged.checked_sub(1) else {
        return Ok(());
    };
    let mut model = Model::new();
    for (n, op) in operations[..done].iter().enumerate() {
        op.apply(&mut model, n as u64);
    }
    let found = ops::found(MNT)?;
    match operations.get(done) {
        Some(op) => op.check_begun(&model, &found, done as u64)?,
        None => check!(found == model, "{}", ops::difference(&model, &found)),
    }
    // Life goes on.
    let later = format!("{MNT}/later");
    std::fs::write(&later, b"later")?;
    check_eq!(std::fs::read(&later)?, b"later");
    Ok(())
}
