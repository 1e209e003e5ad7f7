// SPDX-License-Identifier: GPL-2.0
//! What the queue says of itself, and what it counts.

use super::{fio, name, MNT};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, errno, Buf, MIB, PAGE};
use crate::support::sys;
use crate::{check, check_eq};
use std::fs;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    block_limits_pageless => limits_pageless,
    block_limits_paged => limits_paged,
    block_accounting => accounting,
    block_sector_4096 => sector_4096,
};

fn limits(c: &Ctx, dev: &str, dax: &str, more: &[(&str, &str)]) -> TestResult {
    let common = [
        ("queue/physical_block_size", "4096"),
        ("queue/minimum_io_size", "4096"),
        ("queue/optimal_io_size", "0"),
        ("queue/max_sectors_kb", "4096"),
        ("queue/max_segments", "128"),
        ("queue/max_segment_size", "65536"),
        ("queue/dma_alignment", "511"),
        ("queue/write_cache", "write back"),
        ("queue/fua", "0"),
        ("queue/dax", dax),
        ("queue/rotational", "0"),
        ("queue/iostats", "0"),
        ("queue/add_random", "0"),
        ("queue/stable_writes", "0"),
        ("queue/zoned", "none"),
        ("queue/discard_max_bytes", "0"),
        ("queue/write_zeroes_max_bytes", "0"),
        ("queue/io_poll", "0"),
        ("removable", "0"),
        ("ro", "0"),
        ("hidden", "0"),
        ("alignment_offset", "0"),
        ("badblocks", ""),
    ];
    let mut wrong = Vec::new();
    for (attr, want) in common.iter().chain(more) {
        let is = c.disk_attr(dev, attr)?;
        if is != *want {
            wrong.push(format!("{attr} is {is:?}, must be {want:?}"));
        }
    }
    check!(wrong.is_empty(), "{}", wrong.join("; "));
    let f = disk::open(dev)?;
    let mut n = 0i32;
    disk::ioctl(&f, disk::BLKPBSZGET, &mut n)?;
    check_eq!(n, 4096, "BLKPBSZGET");
    Ok(())
}

const SECTOR_512: &[(&str, &str)] = &[
    ("queue/logical_block_size", "512"),
    ("queue/hw_sector_size", "512"),
    // The largest number of bytes that 32 bits hold, in whole sectors.
    ("queue/max_hw_sectors_kb", "2147483647"),
];

fn limits_pageless(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    limits(c, &dev, "0", SECTOR_512)?;
    // No pages, no DAX: the file system must be told so.
    c.mkfs("ext4", &dev)?;
    fs::create_dir_all(MNT)?;
    c.fails(&["mount", "-o", "dax=always", &dev, MNT])?;
    c.dmesg_has("DAX unsupported by block device")
}

fn limits_paged(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    limits(c, &dev, "1", SECTOR_512)
}

/// Fields of /sys/block/NAME/stat: reads, sectors read, writes, sectors written.
fn stat(c: &Ctx, dev: &str) -> TestResult<[u64; 4]> {
    let text = c.disk_attr(dev, "stat")?;
    let v: Vec<u64> = text
        .split_whitespace()
        .filter_map(|s| s.parse().ok())
        .collect();
    check!(v.len() >= 17, "stat: {text}");
    Ok([v[0], v[2], v[4], v[6]])
}

fn accounting(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    let mut b = Buf::pattern(16 << 10, 1);
    let mut io = |reads: u64, writes: u64| -> TestResult {
        for i in 0..writes {
            f.write_all_at(&b.bytes()[..12 << 10], i * 16384)?;
        }
        for i in 0..reads {
            f.read_exact_at(b.bytes_mut(), i * 16384)?;
        }
        Ok(())
    };
    let delta = |a: [u64; 4], b: [u64; 4]| -> Vec<u64> { (0..4).map(|i| b[i] - a[i]).collect() };
    let idle = |c: &Ctx| -> TestResult {
        let v = c.disk_attr(&dev, "inflight")?;
        check_eq!(
            v.split_whitespace().collect::<Vec<_>>(),
            ["0", "0"],
            "inflight"
        );
        Ok(())
    };

    // Off until somebody wants it.
    let queue = format!("/sys/block/{}/queue/iostats", name(&dev));
    c.write(&queue, "1")?;
    let before = stat(c, &dev)?;
    io(7, 5)?;
    check_eq!(
        delta(before, stat(c, &dev)?),
        [7, 7 * 32, 5, 5 * 24],
        "reads, sectors read, writes, sectors written"
    );
    idle(c)?;

    // A flush without data is no write.
    let before = stat(c, &dev)?;
    f.sync_all()?;
    let d = delta(before, stat(c, &dev)?);
    check_eq!((d[1], d[3]), (0, 0), "sectors of a flush");

    c.write(&queue, "0")?;
    let before = stat(c, &dev)?;
    io(3, 3)?;
    check_eq!(delta(before, stat(c, &dev)?), [0, 0, 0, 0], "iostats=0");
    idle(c)?;
    c.write(&queue, "1")?;
    let before = stat(c, &dev)?;
    io(1, 2)?;
    check_eq!(delta(before, stat(c, &dev)?), [1, 32, 2, 48], "iostats=1");

    // Several at once, some of which fail: nothing stays in flight.
    let size = disk::size(&f)?;
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let f = &f;
            s.spawn(move || {
                let mut b = Buf::pattern(PAGE, t);
                for i in 0..50 {
                    let _ = f.write_at(b.bytes(), (t * 50 + i) * 4096);
                    let _ = f.read_at(b.bytes_mut(), size - 4096 + i % 2 * 4096);
                }
            });
        }
    });
    idle(c)?;
    c.write(&queue, "0")
}

/// Sectors of 4096 bytes, chosen in the label.
fn sector_4096(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    let ns = c.create_namespace(&["-m", "raw", "-s", "64M", "--sector-size=4096"])?;
    let dev = c.pmem()?;
    disk::check_sizes(c, &ns, name(&dev))?;
    limits(
        c,
        &dev,
        "0",
        &[
            ("queue/logical_block_size", "4096"),
            ("queue/hw_sector_size", "4096"),
            ("queue/max_hw_sectors_kb", "2147483644"),
        ],
    )?;
    let f = disk::direct(&dev)?;
    let mut n = 0i32;
    disk::ioctl(&f, disk::BLKSSZGET, &mut n)?;
    check_eq!(n, 4096, "BLKSSZGET");
    let mut b = Buf::pattern(PAGE, 4);
    check_eq!(
        errno(&f.write_at(&b.bytes()[..512], 0)),
        libc::EINVAL,
        "a write of 512 bytes"
    );
    check_eq!(
        errno(&f.read_at(&mut b.bytes_mut()[..2048], 0)),
        libc::EINVAL
    );
    check_eq!(
        errno(&f.read_at(b.bytes_mut(), 512)),
        libc::EINVAL,
        "at 512"
    );
    let size = disk::size(&f)?;
    check_eq!(errno(&f.write_at(b.bytes(), size)), libc::ENOSPC);
    disk::fill(&f, 40, 0, size)?;
    disk::drop_cache(&f)?;
    disk::verify(&f, 40, 0, size)?;
    // Less than a sector goes through the page cache.
    let buffered = disk::open(&dev)?;
    buffered.write_all_at(b"odd", 12_345)?;
    disk::drop_cache(&buffered)?;
    f.read_exact_at(b.bytes_mut(), 12_288)?;
    check_eq!(&b.bytes()[57..60], b"odd");
    let mut want = vec![0; MIB as usize];
    sys::pattern(40, &mut want);
    check!(b.bytes()[..57] == want[12_288..12_345] && b.bytes()[60..] == want[12_348..16_384]);
    fio(c, &dev, "4k-20k")?;
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "defaults")?;
    c.sh(&format!(
        "echo hello > {MNT}/f; umount {MNT}; mount {dev} {MNT}; grep -q hello {MNT}/f"
    ))?;
    c.umount(MNT)
}
