// SPDX-License-Identifier: GPL-2.0
//! The block node: every byte, every alignment, flushes, limits, accounting, read-only,
//! partitions. Driver-independent: what holds for rpmem holds for nd_pmem.

pub mod flush;
pub mod io;
pub mod limits;
pub mod partitions;
pub mod read_only;

use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk::{self, MIB};
use crate::{check, check_eq};
use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsRawFd;

const MNT: &str = "/mnt/pmem";

fn name(dev: &str) -> &str {
    dev.trim_start_matches("/dev/")
}

fn pwritev(f: &File, parts: &[IoSlice], at: u64, flags: i32) -> std::io::Result<usize> {
    // SAFETY: IoSlice has the layout of iovec; the slices live through the call.
    let n = unsafe {
        libc::pwritev2(
            f.as_raw_fd(),
            parts.as_ptr().cast(),
            parts.len() as i32,
            at as libc::off_t,
            flags,
        )
    };
    if n < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(n as usize)
}

fn fio(c: &Ctx, dev: &str, block: &str) -> TestResult {
    // Each job in a part of its own; the odd block sizes cross pages.
    let size = disk::size(&disk::open(dev)?)? / 5 / MIB;
    let part = format!("--offset_increment={size}m");
    let common = [
        "fio",
        &format!("--filename={dev}"),
        "--size=3m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--rw=randwrite",
        &part,
        &format!("--blocksize_range={block}"),
        "--randseed=1",
        "--thread",
        "--group_reporting",
        "--output-format=terse",
    ];
    for how in [
        &[
            "--name=direct",
            "--direct=1",
            "--numjobs=4",
            "--ioengine=psync",
        ][..],
        &[
            "--name=aio",
            "--direct=1",
            "--numjobs=3",
            "--ioengine=libaio",
            "--iodepth=16",
        ],
        &[
            "--name=cache",
            "--numjobs=3",
            "--ioengine=psync",
            "--fsync=16",
        ],
    ] {
        let argv: Vec<&str> = common.iter().chain(how).copied().collect();
        let out = c.ok(&argv)?;
        // Field 5 is the sum of errors; 6 and 47 are KiB read and written.
        let fields: Vec<&str> = out.lines().last().unwrap_or_default().split(';').collect();
        let field = |n: usize| fields.get(n).and_then(|s| s.parse::<u64>().ok());
        let (errors, read, written) = (field(4), field(5), field(46));
        println!("{}: read {read:?} KiB, written {written:?} KiB", how[0]);
        check_eq!(errors, Some(0), "fio errors: {out}");
        check!(written >= Some(3 * 3 * 1024), "written: {written:?} KiB");
        check!(read >= written, "verified {read:?} KiB of {written:?}");
    }
    Ok(())
}
