// SPDX-License-Identifier: GPL-2.0
//! More of what is acknowledged, cache line by cache line, in boots with `durable`: namespaces in sector mode,
//! blocks that file systems zero or copy, and bad blocks that a write clears.

use super::{mode, on_first_cpu, on_last_cpu, Way, Written, DIRECT, FILE_WAYS};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::durable::{self, Medium};
use crate::support::ring::Ring;
use crate::support::sys::Map;
use crate::support::tools::{self, PAGE};
use crate::{check, check_eq};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    durable_sector => sector,
    durable_zeroed_ext4 => |c| zeroed(c, "ext4"),
    durable_zeroed_xfs => |c| zeroed(c, "xfs"),
    durable_poison => poison,
};

/// What one combination has of a disk.
const ROOM: usize = 16 * PAGE;
const MNT: &str = "/mnt/durable";

// Namespaces in sector mode.

/// Ways that only these acknowledge: the block translation table has no state that is not on the medium.
const SECTOR_WAYS: &[Way] = &[
    ("O_DIRECT write(2)", "its return", |w| {
        w.write(&w.open(DIRECT)?)
    }),
    ("io_uring(7) write", "its completion", |w| {
        let f = w.open(DIRECT)?;
        let ring = Ring::new().map_err(|e| format!("io_uring: {e}"))?;
        const WRITE: u64 = 23;
        let head = WRITE | ((f.as_raw_fd() as u64) << 32);
        let from = w.bytes.bytes().as_ptr() as u64;
        let n = ring.run([head, w.offset, from, w.len as u64, 0, 0, 0, 0]);
        check_eq!(n, w.len as i64, "io_uring");
        Ok(())
    }),
    ("BLKZEROOUT", "its return", |w| {
        Ok(disk::ioctl(
            &w.open(0)?,
            disk::BLKZEROOUT,
            &mut [w.offset, w.len as u64],
        )?)
    }),
];

/// All of the namespace below, data, map and flog, wherever they are.
fn sector(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for size in ["512", "4096"] {
        c.create_namespace(&["-m", "sector", "-l", size, "-s", "64M"])?;
    }
    for space in tools::spaces(c)? {
        check!(
            space.nd.starts_with("btt"),
            "{} has {}",
            space.nd,
            space.disk
        );
        let size = disk::attr_u64(c, &space.disk, "queue/logical_block_size")?;
        let place = format!("a disk with sectors of {size} bytes, by BTT");
        let below = c.nd(&space.namespace(c)?);
        let (start, len) = (
            c.read_u64(below.join("resource"))?,
            c.read_u64(below.join("size"))?,
        );
        let claim = |text: &str| durable::claim_rest(&format!("{text}; {place}"), start, len);
        claim("making of it; bind");
        let path = space.dev();
        let mut offset = 0;
        for (store, by, way) in FILE_WAYS.iter().chain(SECTOR_WAYS) {
            let w = Written {
                c,
                path: &path,
                offset,
                len: 2 * PAGE,
                bytes: Buf::pattern(ROOM, offset),
            };
            on_first_cpu();
            way(&w).map_err(|e| format!("{store}; {by}; {place}: {e:?}"))?;
            claim(&format!("{store}; {by}"));
            offset += ROOM as u64;
        }
    }
    Ok(())
}

// What file systems store by themselves.

/// What is done to a file of `ROOM` bytes, and which of its bytes that stores to.
type Zeroing = (
    &'static str,
    fn(&File, &str, &Ctx) -> TestResult,
    usize,
    usize,
);

fn fallocate(f: &File, mode: i32, at: usize, len: usize) -> TestResult {
    // SAFETY: an open file.
    let r = unsafe { libc::fallocate(f.as_raw_fd(), mode, at as i64, len as i64) };
    check_eq!(r, 0, "fallocate {mode:#x}: {}", io::Error::last_os_error());
    Ok(())
}

/// Parts of a page that stays.
const PART: usize = 512;
const PART_LEN: usize = 1024;

const ZEROED: &[Zeroing] = &[
    (
        "FALLOC_FL_ZERO_RANGE of a part of a page",
        |f, _, _| {
            let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(f, mode, PAGE + PART, PART_LEN)
        },
        PAGE + PART,
        PART_LEN,
    ),
    (
        "FALLOC_FL_PUNCH_HOLE of a part of a page",
        |f, _, _| {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            fallocate(f, mode, PAGE + PART, PART_LEN)
        },
        PAGE + PART,
        PART_LEN,
    ),
    (
        "truncate(2) in the middle of a page",
        |f, _, _| Ok(f.set_len((PAGE + PART) as u64)?),
        PAGE + PART,
        PAGE - PART,
    ),
];

/// Zeroed by the file system, then made durable by fsync(2) of the file.
fn zeroed(c: &mut Ctx, fs: &str) -> TestResult {
    let space = tools::dax_space(c, &[])?;
    let medium = Medium::of(c, &space)?;
    tools::mkfs_dax(c, fs, &space.dev())?;
    c.mount(&space.dev(), MNT, "dax=always")?;
    for (n, (store, make, at, len)) in ZEROED.iter().enumerate() {
        for dirty in [false, true] {
            let path = format!("{MNT}/{n}-{dirty}");
            let f = tools::file_of(&path, ROOM)?;
            check!(tools::is_dax(&f)?, "{path}: no DAX");
            f.write_all_at(Buf::pattern(ROOM, 7).bytes(), 0)?;
            f.sync_all()?;
            let phys = medium.start + disk::block_of(&f, *at as u64)?;
            let text = format!("write(2); fsync(2); {fs}, blocks to be zeroed");
            durable::claim(&text, phys, *len as u64);
            on_first_cpu();
            // A page that has stores of a mapping to be written back, or none.
            let m = Map::shared(&f, 0, ROOM)?;
            if dirty {
                m.write8(*at - 1, 1);
            }
            make(&f, &path, c).map_err(|e| format!("{store}; {fs}: {e:?}"))?;
            on_last_cpu();
            f.sync_all()?;
            let after = if dirty { ", after a store to it" } else { "" };
            durable::claim(
                &format!("{store}{after}; fsync(2); {fs}, zeroed in place"),
                phys,
                *len as u64,
            );
        }
    }
    if fs == "xfs" {
        unshared(c, &medium)?;
    }
    c.umount(MNT)?;
    Ok(())
}

/// A copy of blocks that the file system makes by itself, and that Linux up to 7.3 forgets to write back:
/// `dax_unshare_iter()`.
fn unshared(c: &Ctx, medium: &Medium) -> TestResult {
    let (path, copy) = (format!("{MNT}/shared"), format!("{MNT}/copy"));
    let f = tools::file_of(&path, ROOM)?;
    f.write_all_at(Buf::pattern(ROOM, 8).bytes(), 0)?;
    f.sync_all()?;
    c.ok(&["cp", "--reflink=always", &path, &copy])?;
    const UNSHARE_RANGE: i32 = 0x40;
    fallocate(&f, UNSHARE_RANGE, 0, ROOM)?;
    f.sync_all()?;
    let phys = medium.start + disk::block_of(&f, 0)?;
    let text = "FALLOC_FL_UNSHARE_RANGE; (without effect) fsync(2); xfs, a copy";
    durable::count(text, phys, PAGE as u64);
    Ok(())
}

// Bad blocks.

/// A write that clears bad blocks: by the disk, and by the file system, whose recovery the driver writes. This
/// memory has nobody who would clear them but the write itself.
fn poison(c: &mut Ctx) -> TestResult {
    let [space] = tools::spaces(c)?
        .try_into()
        .map_err(|v| format!("disks: {v:?}"))?;
    let medium = Medium::of(c, &space)?;
    let file = format!("/sys/block/{}/badblocks", space.disk);
    let bad = |sector: u64, n: u64| c.write(&file, &format!("{sector} {n}"));
    let none = || -> TestResult {
        check_eq!(c.disk_attr(&space.disk, "badblocks")?, "", "bad blocks");
        Ok(())
    };
    let path = space.dev();
    let place = format!("/dev/pmemN, {}, bad blocks", mode(c, &space)?);
    for (n, (store, by, way)) in FILE_WAYS.iter().enumerate() {
        let w = Written {
            c,
            path: &path,
            offset: (n * ROOM) as u64,
            len: 2 * PAGE,
            bytes: Buf::pattern(ROOM, n as u64),
        };
        bad(w.offset / 512 + 1, 9)?;
        on_first_cpu();
        way(&w).map_err(|e| format!("{store}; {by}; {place}: {e:?}"))?;
        none()?;
        medium.acknowledged(&format!("{store}; {by}; {place}"), w.offset, w.len);
    }
    for fs in ["ext4", "xfs"] {
        tools::mkfs_dax(c, fs, &space.dev())?;
        c.mount(&space.dev(), MNT, "dax=always")?;
        for (n, (store, by, way)) in FILE_WAYS.iter().enumerate() {
            let path = format!("{MNT}/{n}");
            let f = tools::file_of(&path, ROOM)?;
            check!(tools::is_dax(&f)?, "{path}: no DAX");
            f.write_all_at(Buf::pattern(ROOM, 7).bytes(), 0)?;
            f.sync_all()?;
            let w = Written {
                c,
                path: &path,
                offset: PAGE as u64,
                len: 2 * PAGE,
                bytes: Buf::pattern(ROOM, n as u64),
            };
            let at = disk::block_of(&f, w.offset)?;
            bad(at / 512 + 1, 9)?;
            let mut byte = [0];
            check_eq!(
                tools::errno(&f.read_at(&mut byte, w.offset)),
                libc::EIO,
                "{path}: bad"
            );
            on_first_cpu();
            way(&w).map_err(|e| format!("{store}; {by}; {fs}: {e:?}"))?;
            none()?;
            let text = format!("{store}; {by}; {fs}, bad blocks");
            medium.acknowledged(&text, at, PAGE);
            medium.acknowledged(&text, disk::block_of(&f, w.offset + PAGE as u64)?, PAGE);
        }
        c.umount(MNT)?;
    }
    Ok(())
}
