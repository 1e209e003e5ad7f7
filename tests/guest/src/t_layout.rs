// SPDX-License-Identifier: GPL-2.0
//! Where the bytes are: padding and page maps of fsdax namespaces, and the copy functions that
//! carry the data. rpmem only: nd_pmem counts the padding at the start differently for DAX.

use crate::support::arch::MEMCPY_FLUSHCACHE;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf, Marks, MIB};
use crate::support::infoblock::{self as block, Block};
use crate::support::namespace::{active, bind_raw, fresh, unbind_raw};
use crate::support::sys::Map;
use crate::support::tools;
use crate::support::trace::TRACING;
use crate::{check, check_eq};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    layout_padding => padding,
    layout_page_map => page_map,
    layout_copies => copies,
};

const MNT: &str = "/mnt/layout";

/// A legacy namespace with padding at both ends: the disk is what is between, block I/O and DAX
/// agree where that is, and nothing outside is written.
fn padding(c: &mut Ctx) -> TestResult {
    const PAD: u64 = 2 * MIB;
    for location in ["mem", "dev"] {
        fresh(c)?;
        let ns = c.create_namespace(&["-m", "fsdax", "-M", location, "-s", "64M"])?;
        let size = c.read_u64(c.nd(&ns).join("size"))?;
        let dev = format!("/dev/{}", c.disk_of(&active(c, &ns)?)?);

        // The pads get a pattern, the block says that they are pads.
        bind_raw(c, &ns)?;
        let f = disk::direct(&dev)?;
        let mut b: Block = block::read_block(&dev)?;
        let data_offset = block::u64_at(&b, block::DATA_OFFSET);
        let data = size - 2 * PAD - data_offset;
        disk::fill(&f, 1, 16 << 10, PAD - (16 << 10))?;
        disk::fill(&f, 2, size - PAD, PAD)?;
        block::put(&mut b, block::START_PAD, PAD, 4);
        block::put(&mut b, block::END_TRUNC, PAD, 4);
        block::put(&mut b, block::NPFNS, data / 4096, 8);
        block::seal(&mut b);
        let mut page = Buf::page(b.len());
        page.bytes_mut().copy_from_slice(&b);
        f.write_all_at(page.bytes(), 4096)?;
        drop(f);
        unbind_raw(c, &ns)?;
        // ENXIO: the personality takes it.
        let _ = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&ns);
        c.settle();
        let holder = active(c, &ns)?;
        check!(holder.starts_with("pfn"), "holder of {ns}: {holder}");
        let disk = c.disk_of(&holder)?;
        check_eq!(
            disk::attr_u64(c, &disk, "size")? * 512,
            data,
            "map={location}"
        );

        // What a mapping stores, the block node reads.
        tools::mkfs_dax(c, "ext4", &dev)?;
        c.mount(&dev, MNT, "dax")?;
        let f = tools::file_of(&format!("{MNT}/file"), 4 << 20)?;
        let mut map = Map::sync(&f, 0, 4 << 20)?;
        crate::support::sys::pattern(7, map.slice_mut());
        map.persist(0, 4 << 20);
        drop((map, f));
        c.umount(MNT)?;
        c.mount(&dev, MNT, "dax=never")?;
        let text = fs::read(format!("{MNT}/file"))?;
        check_eq!(
            crate::support::sys::pattern_differs(7, &text),
            None,
            "map={location}"
        );
        c.umount(MNT)?;
        let marks = Marks::new(9000);
        marks.write(&dev)?;

        // Sector 0 is where it should be, the last sector too, and the pads are untouched.
        bind_raw(c, &ns)?;
        let f = disk::direct(&dev)?;
        disk::verify(&f, marks.seed, PAD + data_offset, 256 << 10)?;
        disk::verify(&f, marks.seed + 2000, size - PAD - (256 << 10), 256 << 10)?;
        disk::verify(&f, 1, 16 << 10, PAD - (16 << 10))?;
        disk::verify(&f, 2, size - PAD, PAD)?;
        drop(f);
        unbind_raw(c, &ns)?;
    }
    fresh(c)
}

/// Struct pages are on the medium with map=dev, and not with map=mem: the space in front of the data
/// gets a pattern, which they overwrite or leave alone.
fn page_map(c: &mut Ctx) -> TestResult {
    const SIZE: u64 = 896 * MIB;
    // 64 bytes for each page.
    let pages = SIZE / 4096 * 64;
    for (location, on_medium) in [("mem", false), ("dev", true)] {
        fresh(c)?;
        let ns = c.create_namespace(&["-m", "fsdax", "-M", location, "-s", &format!("{SIZE}")])?;
        let holder = active(c, &ns)?;
        let disk = c.disk_of(&holder)?;
        let in_front = SIZE - disk::attr_u64(c, &disk, "size")? * 512;
        check!(
            (in_front > pages) == on_medium,
            "map={location}: {in_front} bytes in front of the data, {pages} of struct pages"
        );
        // Behind the info blocks.
        let (at, len) = (16 << 10, in_front - (16 << 10));
        bind_raw(c, &ns)?;
        disk::fill(&disk::direct(&format!("/dev/{disk}"))?, 5, at, len)?;
        unbind_raw(c, &ns)?;
        // ENXIO: the personality takes it.
        let _ = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&ns);
        c.settle();
        c.disk_of(&active(c, &ns)?)?;
        bind_raw(c, &ns)?;
        let mut now = Buf::page(len as usize);
        disk::direct(&format!("/dev/{disk}"))?.read_exact_at(now.bytes_mut(), at)?;
        unbind_raw(c, &ns)?;
        let changed: u64 = now
            .bytes()
            .chunks(MIB as usize)
            .enumerate()
            .map(|(i, now)| {
                let mut was = vec![0; now.len()];
                crate::support::sys::pattern(5 + i as u64, &mut was);
                let pairs = now.chunks(4096).zip(was.chunks(4096));
                4096 * pairs.filter(|(a, b)| a != b).count() as u64
            })
            .sum();
        println!(
            "map={location}: {changed} bytes of the medium hold {pages} bytes of struct pages"
        );
        if on_medium {
            check!(changed > pages * 3 / 4, "map=dev: {changed} bytes changed");
        } else {
            check_eq!(changed, 0, "map=mem: bytes changed");
        }
    }
    fresh(c)
}

/// Reads go through the copy that survives machine checks, writes past the caches: counted at
/// the functions themselves, with the lengths.
fn copies(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    c.write(
        format!("{TRACING}/kprobe_events"),
        "p:layout/copy_mc copy_mc_to_kernel len=$arg3:u64",
    )?;
    let probes = File::options()
        .append(true)
        .open(format!("{TRACING}/kprobe_events"))?;
    use std::io::Write;
    let past = format!("p:layout/flushcache {MEMCPY_FLUSHCACHE} len=$arg3:u64");
    (&probes).write_all(past.as_bytes())?;
    c.write(format!("{TRACING}/events/layout/enable"), "1")?;

    let sum = |event: &str| -> TestResult<u64> {
        let text = c.read(format!("{TRACING}/trace"))?;
        let me = format!("-{}", std::process::id());
        Ok(text
            .lines()
            .filter(|l| l.contains(&format!(" {event}: ")))
            .filter(|l| {
                l.split_whitespace()
                    .next()
                    .is_some_and(|w| w.ends_with(&me))
            })
            .filter_map(|l| l.rsplit("len=").next()?.trim().parse::<u64>().ok())
            .sum())
    };
    let result = (|| -> TestResult {
        for len in [512, 4096, 64 << 10, 1 << 20] {
            let mut b = Buf::pattern(len, len as u64);
            File::create(format!("{TRACING}/trace"))?;
            f.write_all_at(b.bytes(), MIB)?;
            check_eq!(
                sum("flushcache")?,
                len as u64,
                "bytes written past the caches"
            );
            check_eq!(sum("copy_mc")?, 0, "a write of {len} bytes");
            File::create(format!("{TRACING}/trace"))?;
            f.read_exact_at(b.bytes_mut(), MIB)?;
            check_eq!(sum("copy_mc")?, len as u64, "bytes read safely");
            check_eq!(sum("flushcache")?, 0, "a read of {len} bytes");
        }
        Ok(())
    })();
    c.write(format!("{TRACING}/events/layout/enable"), "0")?;
    c.write(format!("{TRACING}/kprobe_events"), "")?;
    result
}
