// SPDX-License-Identifier: GPL-2.0
//! The block node: every byte, every alignment, flushes, limits, accounting, read-only,
//! partitions. Driver-independent: what holds for rpmem holds for nd_pmem.

use crate::support::ctx::{Ctx, Outcome, Test, TestResult, EXT4_NOT_LAZY};
use crate::support::disk::{self, errno, Buf, Rng, MIB, PAGE};
use crate::support::sys::{self, Map};
use crate::{check, check_eq};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    block_whole_device => whole_device,
    block_odd_sizes => odd_sizes,
    block_direct_alignment => direct_alignment,
    block_vectored => vectored,
    block_multi_page_bvec => multi_page_bvec,
    block_beyond_end => beyond_end,
    block_fio_verify => fio_verify,
    block_flush_counted => flush_counted,
    block_flush_ext4 => flush_ext4,
    block_limits_pageless => limits_pageless,
    block_limits_paged => limits_paged,
    block_accounting => accounting,
    block_write_cache => write_cache,
    block_badblocks => badblocks,
    block_region_read_only => region_read_only,
    block_unarmed_dimm => unarmed_dimm,
    block_partitions => partitions,
    block_partition_dax => partition_dax,
    block_sector_4096 => sector_4096,
};

const MNT: &str = "/mnt/pmem";

fn name(dev: &str) -> &str {
    dev.trim_start_matches("/dev/")
}

fn whole_device(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    let size = disk::size(&f)?;
    disk::fill(&f, 100, 0, size)?;
    disk::drop_cache(&f)?;
    // Once around the page cache and once through it.
    disk::verify(&f, 100, 0, size)?;
    disk::verify(&disk::open(&dev)?, 100, 0, size)?;
    // The very last sector, alone.
    let mut last = Buf::page(512);
    f.read_exact_at(last.bytes_mut(), size - 512)?;
    let tail = (size - 1) % MIB + 1;
    let mut want = vec![0; tail as usize];
    sys::pattern(100 + (size - 1) / MIB, &mut want);
    check_eq!(last.bytes(), &want[tail as usize - 512..]);
    Ok(())
}

/// Random writes against a copy in memory, around the middle of the device.
fn odd_sizes(c: &mut Ctx) -> TestResult {
    const LEN: usize = 1 << 20;
    let dev = c.pmem()?;
    let direct = disk::direct(&dev)?;
    let at = disk::size(&direct)? / 2 / 4096 * 4096;
    // A margin on both sides, which nothing may touch.
    let mut model = vec![0u8; LEN];
    sys::pattern(200, &mut model);
    let mut whole = Buf::page(LEN);
    whole.bytes_mut().copy_from_slice(&model);
    direct.write_all_at(whole.bytes(), at)?;

    let buffered = disk::open(&dev)?;
    let mut rng = Rng(12345);
    let mut data = vec![0; 40_000];
    for i in 0..150 {
        let sizes = [1, 7, 511, 513, 1000, 4095, 4097, 12_289, 39_999];
        let len = sizes[rng.below(sizes.len() as u64) as usize];
        let from = 8192 + rng.below((LEN - 16384 - len) as u64) as usize;
        sys::pattern(1000 + i, &mut data[..len]);
        buffered.write_all_at(&data[..len], at + from as u64)?;
        model[from..from + len].copy_from_slice(&data[..len]);
    }
    disk::drop_cache(&buffered)?;
    // O_DIRECT in sectors: every count from 1 to 17, every place in the page.
    let mut sectors = Buf::page(17 * 512);
    for i in 0..136u64 {
        let len = 512 * (1 + i as usize % 17);
        let from = 8192 + 512 * (i as usize % 8) + PAGE * rng.below(200) as usize;
        sys::pattern(5000 + i, &mut sectors.bytes_mut()[..len]);
        direct.write_all_at(&sectors.bytes()[..len], at + from as u64)?;
        model[from..from + len].copy_from_slice(&sectors.bytes()[..len]);
    }
    disk::drop_cache(&buffered)?;
    direct.read_exact_at(whole.bytes_mut(), at)?;
    check_eq!(
        whole.bytes().iter().zip(&model).position(|(a, b)| a != b),
        None,
        "first wrong byte, O_DIRECT"
    );
    // Odd reads through the page cache.
    let mut from = 0;
    while from < LEN {
        let len = (1 + rng.below(9999) as usize).min(LEN - from);
        buffered.read_exact_at(&mut data[..len], at + from as u64)?;
        check!(
            data[..len] == model[from..from + len],
            "{len} bytes at {from:#x} differ"
        );
        from += len;
    }
    Ok(())
}

fn direct_alignment(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    // The block layer's default: what the bus would need, not what memory needs.
    let mask = disk::attr_u64(c, name(&dev), "queue/dma_alignment")? as usize;
    check_eq!(mask, 511);
    let len = 5 * PAGE + 512;
    for (i, shift) in (0..PAGE).step_by(mask + 1).enumerate() {
        let mut out = Buf::new(len, shift);
        sys::pattern(300 + i as u64, out.bytes_mut());
        f.write_all_at(out.bytes(), 512 * i as u64)?;
        // Back into a buffer of another alignment.
        let mut back = Buf::new(len, (shift + 1536) % PAGE);
        f.read_exact_at(back.bytes_mut(), 512 * i as u64)?;
        check_eq!(
            sys::pattern_differs(300 + i as u64, back.bytes()),
            None,
            "buffer at {shift} in its page"
        );
    }
    for shift in [1, 4, 256, 511] {
        let b = Buf::new(PAGE, shift);
        let r = f.write_at(b.bytes(), 0);
        check_eq!(errno(&r), libc::EINVAL, "a buffer at {shift} in its page");
    }
    let b = Buf::page(PAGE);
    check_eq!(errno(&f.write_at(&b.bytes()[..100], 0)), libc::EINVAL);
    check_eq!(errno(&f.write_at(b.bytes(), 100)), libc::EINVAL);
    Ok(())
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

fn vectored(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    let lens = [
        512,
        PAGE,
        1536,
        3 * PAGE + 512,
        512,
        7 * 512,
        64 << 10,
        1024,
    ];
    let shifts = [0, 512, 3584, 1024, 2048, 512, 0, 3072];
    let total: usize = lens.iter().sum();
    let mut model = vec![0; total];
    sys::pattern(400, &mut model);
    let mut bufs = Vec::new();
    let mut done = 0;
    for (len, shift) in lens.iter().zip(shifts) {
        let mut b = Buf::new(*len, shift);
        b.bytes_mut().copy_from_slice(&model[done..done + len]);
        done += len;
        bufs.push(b);
    }
    let at = 3 * MIB + 512;
    let parts: Vec<IoSlice> = bufs.iter().map(|b| IoSlice::new(b.bytes())).collect();
    check_eq!(pwritev(&f, &parts, at, 0)?, total);
    let mut back = vec![0; total];
    disk::open(&dev)?.read_exact_at(&mut back, at)?;
    check!(back == model, "the parts were not written in order");

    // And back into parts of other sizes.
    let mut bufs: Vec<Buf> = lens.iter().rev().map(|l| Buf::new(*l, 512)).collect();
    let mut parts: Vec<libc::iovec> = bufs
        .iter_mut()
        .map(|b| libc::iovec {
            iov_base: b.bytes_mut().as_mut_ptr().cast(),
            iov_len: b.bytes().len(),
        })
        .collect();
    // SAFETY: the parts point into `bufs`, which lives on and is not touched meanwhile.
    let n = unsafe {
        libc::preadv(
            f.as_raw_fd(),
            parts.as_mut_ptr(),
            parts.len() as i32,
            at as libc::off_t,
        )
    };
    check_eq!(n, total as isize);
    let back: Vec<u8> = bufs.iter().flat_map(|b| b.bytes().to_vec()).collect();
    check!(back == model, "the parts were not read in order");
    Ok(())
}

/// Transfers whose memory is physically contiguous over many pages: one bvec has them all.
fn multi_page_bvec(c: &mut Ctx) -> TestResult {
    const HUGE: usize = 2 << 20;
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    // SAFETY: an anonymous mapping at an address of the kernel's choice, unmapped at exit.
    let mem = unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            2 * HUGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        check!(p != libc::MAP_FAILED);
        let p = p.cast::<u8>();
        let p = p.add(p.align_offset(HUGE));
        check_eq!(libc::madvise(p.cast(), HUGE, libc::MADV_HUGEPAGE), 0);
        std::slice::from_raw_parts_mut(p, HUGE)
    };
    sys::pattern(500, mem);
    let smaps = c.read("/proc/self/smaps")?;
    let huge = smaps
        .lines()
        .filter_map(|l| l.strip_prefix("AnonHugePages:"))
        .any(|v| v.trim() != "0 kB");
    check!(huge, "no huge page: the test would prove nothing");

    for (len, skip, at) in [
        (HUGE, 0, 0),
        (1 << 20, 0, MIB),
        (1 << 20, 512, 5 * MIB + 512),
        (HUGE - 1536, 1024, 8 * MIB + 3584),
    ] {
        f.write_all_at(&mem[skip..skip + len], at)?;
        let mut back = vec![0; len];
        disk::open(&dev)?.read_exact_at(&mut back, at)?;
        check!(
            back == mem[skip..skip + len],
            "{len} bytes at {at:#x} differ"
        );
    }
    // Reads into contiguous memory.
    let mut want = Buf::page(HUGE);
    f.read_exact_at(want.bytes_mut(), 8 * MIB)?;
    mem.fill(0);
    f.read_exact_at(mem, 8 * MIB)?;
    check!(mem == want.bytes(), "a read of 2 MiB differs");
    Ok(())
}

fn beyond_end(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let buffered = disk::open(&dev)?;
    let direct = disk::direct(&dev)?;
    let size = disk::size(&direct)?;
    check_eq!(disk::attr_u64(c, name(&dev), "size")? * 512, size);
    disk::fill(&direct, 600, size - MIB, MIB)?;
    disk::drop_cache(&buffered)?;

    let mut b = Buf::pattern(2 * PAGE, 7);
    for (f, how) in [(&buffered, "buffered"), (&direct, "O_DIRECT")] {
        for at in [size, size + 512, size + (1 << 40)] {
            let r = f.write_at(b.bytes(), at);
            check_eq!(errno(&r), libc::ENOSPC, "{how} write at {at:#x}");
            check_eq!(f.read_at(b.bytes_mut(), at)?, 0, "{how} read at {at:#x}");
        }
        // Across the end: only what is on the device.
        let at = size - 512;
        check_eq!(
            f.read_at(b.bytes_mut(), at)?,
            512,
            "{how} read across the end"
        );
        let keep = Buf::pattern(2 * PAGE, 8);
        check_eq!(
            f.write_at(keep.bytes(), at)?,
            512,
            "{how} write across the end"
        );
        f.sync_all()?;
        let mut last = Buf::page(512);
        direct.read_exact_at(last.bytes_mut(), at)?;
        check_eq!(last.bytes(), &keep.bytes()[..512]);
        disk::verify(&direct, 600, size - MIB, MIB - 512)?;
    }
    // Zeroing beyond the end, and discarding at all.
    let r = disk::ioctl(&direct, disk::BLKZEROOUT, &mut [size - 4096, 8192]);
    check_eq!(errno(&r), libc::EINVAL, "BLKZEROOUT across the end");
    let r = disk::ioctl(&direct, disk::BLKDISCARD, &mut [0u64, 4096]);
    check_eq!(errno(&r), libc::EOPNOTSUPP, "BLKDISCARD");
    disk::ioctl(&direct, disk::BLKZEROOUT, &mut [size - 4096, 4096])?;
    let mut end = Buf::pattern(2 * PAGE, 9);
    direct.read_exact_at(end.bytes_mut(), size - 2 * PAGE as u64)?;
    check!(end.bytes()[PAGE..].iter().all(|b| *b == 0), "BLKZEROOUT");
    check!(end.bytes()[..PAGE].iter().any(|b| *b != 0));
    Ok(())
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

fn fio_verify(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    fio(c, &dev, "512-13k")
}

/// Records, in order, what the block layer hands to a disk and what its driver makes of it.
struct Tracer {
    dir: String,
}

const TRACING: &str = "/sys/kernel/tracing";

impl Tracer {
    fn new(c: &Ctx, dev: &str) -> TestResult<Tracer> {
        let rdev = {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(dev)?.rdev()
        };
        // SAFETY: arithmetic on a number.
        let (major, minor) = unsafe { (libc::major(rdev), libc::minor(rdev)) };
        let probes = format!("{TRACING}/kprobe_events");
        c.write(&probes, "p:rpmemt/flush nvdimm_flush bio=%si:x64")?;
        fs::OpenOptions::new()
            .append(true)
            .open(&probes)
            .and_then(|mut f| {
                use std::io::Write;
                f.write_all(b"p:rpmemt/copy __memcpy_flushcache len=%dx:u64")
            })
            .map_err(|e| format!("kprobe on __memcpy_flushcache: {e}"))?;
        let t = Tracer {
            dir: format!("{TRACING}/instances/rpmemt"),
        };
        fs::create_dir(&t.dir)?;
        c.write(format!("{}/buffer_size_kb", t.dir), "2048")?;
        let queue = format!("{}/events/block/block_bio_queue", t.dir);
        c.write(
            format!("{queue}/filter"),
            &format!("dev == {}", (major << 20) | minor),
        )?;
        c.write(format!("{queue}/enable"), "1")?;
        c.write(format!("{}/events/rpmemt/enable", t.dir), "1")?;
        Ok(t)
    }

    /// Forget what was recorded.
    fn restart(&self) -> TestResult {
        // The truncation empties the buffer.
        File::create(format!("{}/trace", self.dir))?;
        Ok(())
    }

    /// What this thread did, and nobody else.
    fn own(&self, c: &Ctx) -> TestResult<Vec<(String, String, String)>> {
        // SAFETY: no arguments.
        let own = unsafe { libc::gettid() }.to_string();
        let mut events = self.events(c)?;
        events.retain(|e| e.0 == own);
        Ok(events)
    }

    /// (pid, event, arguments) in order.
    fn events(&self, c: &Ctx) -> TestResult<Vec<(String, String, String)>> {
        let text = c.read(format!("{}/trace", self.dir))?;
        let mut v = Vec::new();
        for l in text.lines() {
            if let Some(n) = l.split("entries-in-buffer/entries-written: ").nth(1) {
                let n = n.split_whitespace().next().unwrap_or_default();
                let (have, all) = n.split_once('/').unwrap_or_default();
                check_eq!(have, all, "events were lost");
            }
            if l.starts_with('#') {
                continue;
            }
            // "  name-123  [000] d.... 12.345678: event: (where) arguments"
            let Some((head, rest)) = l.split_once(": ") else {
                continue;
            };
            let Some((event, args)) = rest.split_once(": ") else {
                continue;
            };
            let task = head.split(" [").next().unwrap_or_default().trim();
            let pid = task.rsplit('-').next().unwrap_or_default();
            v.push((pid.into(), event.trim().into(), args.trim().into()));
        }
        Ok(v)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/events/enable", self.dir), "0");
        let _ = fs::remove_dir(&self.dir);
        let _ = fs::write(format!("{TRACING}/kprobe_events"), "");
    }
}

#[derive(Debug, Default)]
struct Flushes {
    bios: usize,
    preflush: usize,
    fua: usize,
    copies: usize,
}

/// Check, for every bio, that the bus was flushed as often and as early or late as it asked.
fn check_flushes(events: &[(String, String, String)]) -> TestResult<Flushes> {
    let mut sum = Flushes::default();
    // Per task: what has to come yet of the bio before.
    #[derive(Default)]
    struct State {
        bio: String,
        preflush: bool,
        fua: bool,
        data: bool,
        copied: bool,
    }
    let mut tasks: HashMap<&str, State> = HashMap::new();
    fn done(s: &State) -> TestResult {
        check!(!s.preflush, "no flush before the data of: {}", s.bio);
        check!(!s.fua, "no flush after the data of: {}", s.bio);
        check!(s.copied || !s.data, "no data was copied for: {}", s.bio);
        Ok(())
    }
    for (pid, event, args) in events {
        let s = tasks.entry(pid).or_default();
        match event.as_str() {
            "block_bio_queue" => {
                done(s)?;
                // "259,0 FWFS 8 + 8 [comm]"
                let mut words = args.split(' ').skip(1);
                let rwbs = words.next().unwrap_or_default();
                let sectors = words.nth(2).unwrap_or_default();
                let (pre, op) = match rwbs.strip_prefix('F') {
                    Some(op) => (true, op),
                    None => (false, rwbs),
                };
                let write = op.starts_with('W');
                *s = State {
                    bio: args.clone(),
                    preflush: pre,
                    fua: write && op[1..].contains('F'),
                    data: write && sectors != "0",
                    copied: false,
                };
                sum.bios += 1;
                sum.preflush += usize::from(s.preflush);
                sum.fua += usize::from(s.fua);
            }
            "flush" => {
                if args.ends_with("bio=0x0") {
                    check!(s.preflush, "an extra flush after: {}", s.bio);
                    check!(!s.copied, "a flush too late: {}", s.bio);
                    s.preflush = false;
                } else {
                    check!(s.fua, "an extra flush after: {}", s.bio);
                    check!(s.copied, "a flush too early: {}", s.bio);
                    s.fua = false;
                }
            }
            // Others copy with it too; only what follows a write with data counts.
            "copy" if s.data => {
                check!(!s.preflush, "data before the flush: {}", s.bio);
                s.copied = true;
                sum.copies += 1;
            }
            _ => {}
        }
    }
    for s in tasks.values() {
        done(s)?;
    }
    println!("{sum:?}");
    Ok(sum)
}

fn flush_counted(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let direct = disk::direct(&dev)?;
    let dsync = disk::open_flags(&dev, libc::O_DIRECT | libc::O_DSYNC)?;
    let b = Buf::pattern(2 * PAGE, 3);
    let t = Tracer::new(c, &dev)?;

    // Plain writes flush nothing.
    for i in 0..8 {
        direct.write_all_at(b.bytes(), i * 8192)?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (8, 0, 0), "plain writes");
    check!(n.copies >= 8, "copies: {}", n.copies);

    // Each fsync is one flush.
    t.restart()?;
    for _ in 0..5 {
        direct.sync_all()?;
        direct.sync_data()?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (10, 10, 0), "fsync, fdatasync");

    // Each O_DSYNC write is one FUA bio; the sync that follows it is a flush.
    t.restart()?;
    for i in 0..7 {
        dsync.write_all_at(b.bytes(), i * 8192)?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (14, 7, 7), "O_DSYNC");

    // The same for single writes of a plain descriptor.
    t.restart()?;
    for i in 0..3 {
        pwritev(
            &direct,
            &[IoSlice::new(b.bytes())],
            i * 8192,
            libc::RWF_DSYNC,
        )?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (6, 3, 3), "RWF_DSYNC");
    Ok(())
}

/// A journal asks for a flush before and after its commit record. Everybody's I/O counts: it is looked at
/// when the file system has gone, and with it all who may be in the middle of some.
fn flush_ext4(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "defaults")?;
    let t = Tracer::new(c, &dev)?;
    let mut f = File::create(format!("{MNT}/f"))?;
    for i in 0..6u8 {
        use std::io::Write;
        f.write_all(&[i; 5000])?;
        f.sync_all()?;
    }
    drop(f);
    c.umount(MNT)?;
    let n = check_flushes(&t.events(c)?)?;
    check!(n.preflush >= 6, "flushes before: {}", n.preflush);
    check!(n.fua >= 6, "flushes after: {}", n.fua);
    Ok(())
}

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

fn write_cache(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let path = format!("/sys/block/{}/dax/write_cache", name(&dev));
    let get = |c: &Ctx| c.read(&path);
    let set = c.try_write(&path);
    check_eq!(get(c)?, "1", "CPU caches of this machine are not durable");
    for (text, want) in [
        ("0", "0"),
        ("1", "1"),
        ("n", "0"),
        ("on", "1"),
        ("off\n", "0"),
        ("y", "1"),
    ] {
        set(text)?;
        check_eq!(get(c)?, want, "after {text:?}");
    }
    for text in ["2", "x", "", "-1", "write back"] {
        // A write of nothing never reaches the driver.
        if text.is_empty() {
            continue;
        }
        check_eq!(errno(&set(text)), libc::EINVAL, "{text:?}");
        check_eq!(get(c)?, "1", "after {text:?}");
    }
    use std::os::unix::fs::PermissionsExt;
    check_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o644);
    Ok(())
}

/// Sectors marked bad by hand: reads fail, so do writes where the platform clears no poison.
fn badblocks(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let dev = c.pmem()?;
    let path = format!("/sys/block/{}/badblocks", name(&dev));
    check_eq!(c.read(&path)?, "", "no platform reported errors");
    let f = disk::direct(&dev)?;
    disk::fill(&f, 900, 0, MIB)?;
    c.write(&path, "1001 2")?;
    check_eq!(c.read(&path)?, "1001 2");
    let mut b = Buf::page(MIB as usize);
    for (sector, count, want) in [
        (1000, 1, 0),
        (1001, 1, libc::EIO),
        (1002, 1, libc::EIO),
        (1003, 1, 0),
        (1000, 8, libc::EIO),
        (0, 2048, libc::EIO),
        (0, 1001, 0),
        (1003, 1045, 0),
    ] {
        let r = f.read_at(&mut b.bytes_mut()[..count * 512], sector * 512);
        check_eq!(errno(&r), want, "{count} sectors from {sector}");
    }
    let r = f.write_at(&b.bytes()[..512], 1001 * 512);
    check_eq!(errno(&r), libc::EIO, "nobody clears poison here");
    drop(f);
    // The list is the bus's: a new bind has none.
    let driver = c.driver.clone();
    c.unbind(&driver, &ns)?;
    c.bind(&driver, &ns)?;
    let dev = c.pmem()?;
    check_eq!(c.read(&path)?, "");
    disk::verify(&disk::direct(&dev)?, 900, 0, MIB)
}

fn is_ro(c: &Ctx, dev: &str) -> TestResult<bool> {
    let f = File::open(dev)?;
    let mut ro = -1i32;
    disk::ioctl(&f, disk::BLKROGET, &mut ro)?;
    let attr = c.disk_attr(dev, "ro")?;
    check_eq!(attr, ro.to_string(), "ro in sysfs and BLKROGET");
    Ok(ro == 1)
}

/// Nothing changes a disk that is read-only.
fn check_refuses_writes(c: &Ctx, dev: &str) -> TestResult {
    let r = File::options().read(true).write(true).open(dev);
    if let Ok(f) = &r {
        let b = Buf::pattern(PAGE, 666);
        check_eq!(
            errno(&f.write_at(b.bytes(), 0)),
            libc::EPERM,
            "buffered write"
        );
        let f = disk::direct(dev)?;
        check_eq!(
            errno(&f.write_at(b.bytes(), 0)),
            libc::EPERM,
            "O_DIRECT write"
        );
        let r = disk::ioctl(&f, disk::BLKZEROOUT, &mut [0u64, 4096]);
        check_eq!(errno(&r), libc::EPERM, "BLKZEROOUT");
    } else {
        check_eq!(errno(&r), libc::EACCES, "open for writing");
    }
    c.fails(&["mkfs.ext4", "-q", "-F", dev])?;
    // The user's own flag cannot override the region's.
    let f = File::open(dev)?;
    disk::ioctl(&f, disk::BLKROSET, &mut 0i32)?;
    check!(is_ro(c, dev)?, "BLKROSET made a read-only disk writable");
    Ok(())
}

fn region_read_only(c: &mut Ctx) -> TestResult {
    let r = toggle_region(c);
    // Whatever went wrong, the tests after this one can write.
    c.write("/sys/bus/nd/devices/region0/read_only", "0")?;
    r
}

fn toggle_region(c: &mut Ctx) -> TestResult {
    // Behind the file system.
    const AT: u64 = 80 * MIB;
    let ns = c.namespace()?;
    let dev = c.pmem()?;
    let disk = name(&dev).to_string();
    let ro = |c: &Ctx, v: &str| c.write("/sys/bus/nd/devices/region0/read_only", v);
    c.ok(&["mkfs.ext4", "-q", "-F", "-E", EXT4_NOT_LAZY, &dev, "64M"])?;
    c.sh(&format!(
        "mkdir -p {MNT}; mount {dev} {MNT}; echo content > {MNT}/f; umount {MNT}"
    ))?;
    let marks = disk::Buf::pattern(PAGE, 77);
    let f = disk::direct(&dev)?;
    f.write_all_at(marks.bytes(), AT)?;
    check!(!is_ro(c, &dev)?);
    let open_before = disk::direct(&dev)?;

    ro(c, "1")?;
    check!(is_ro(c, &dev)?, "the region went read-only, {disk} did not");
    c.dmesg_has("read-only, marking")?;
    check_refuses_writes(c, &dev)?;
    let r = open_before.write_at(Buf::pattern(PAGE, 78).bytes(), AT);
    check_eq!(errno(&r), libc::EPERM, "a descriptor that was open before");
    let mut b = Buf::page(PAGE);
    open_before.read_exact_at(b.bytes_mut(), AT)?;
    check_eq!(sys::pattern_differs(77, b.bytes()), None);
    drop((f, open_before));
    let out = c.sh(&format!(
        "mount -o ro {dev} {MNT}; cat {MNT}/f; findmnt -n -o OPTIONS {MNT}; umount {MNT}"
    ))?;
    check!(out.starts_with("content\nro"), "a mount with -o ro: {out}");
    // mount(8) falls back to a read-only mount and says so.
    let out = c.sh(&format!(
        "mount -o rw {dev} {MNT} 2>&1; findmnt -n -o OPTIONS {MNT}; umount {MNT}"
    ))?;
    check!(
        out.contains("mounted read-only")
            && out.lines().last().is_some_and(|l| l.starts_with("ro")),
        "a mount with -o rw: {out}"
    );

    // A disk that is made while the region is read-only.
    let driver = c.driver.clone();
    c.unbind(&driver, &ns)?;
    c.bind(&driver, &ns)?;
    check!(is_ro(c, &c.pmem()?)?, "bound on a read-only region");
    check_refuses_writes(c, &dev)?;

    ro(c, "0")?;
    check!(
        !is_ro(c, &dev)?,
        "the region is writable again, {disk} is not"
    );
    let f = disk::direct(&dev)?;
    f.write_all_at(Buf::pattern(PAGE, 79).bytes(), AT)?;
    // The user's own flag, on a writable region.
    disk::ioctl(&f, disk::BLKROSET, &mut 1i32)?;
    check!(is_ro(c, &dev)?, "BLKROSET 1");
    check_eq!(errno(&f.write_at(b.bytes(), AT)), libc::EPERM);
    disk::ioctl(&f, disk::BLKROSET, &mut 0i32)?;
    check!(!is_ro(c, &dev)?, "BLKROSET 0");
    f.read_exact_at(b.bytes_mut(), AT)?;
    check_eq!(sys::pattern_differs(79, b.bytes()), None);
    Ok(())
}

/// A DIMM that reports that it cannot save its contents: its region starts read-only.
fn unarmed_dimm(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let dev = format!("/dev/{}", c.disk_of(&ns)?);
    check_eq!(c.read("/sys/bus/nd/devices/region0/read_only")?, "1");
    check!(is_ro(c, &dev)?, "{dev} is writable");
    check_refuses_writes(c, &dev)?;
    let mut b = Buf::pattern(PAGE, 1);
    File::open(&dev)?.read_exact_at(b.bytes_mut(), 0)?;
    check!(
        b.bytes().iter().all(|b| *b == 0),
        "the medium was written to"
    );
    Ok(())
}

/// Wait until partition devices are there, or gone.
fn wait_partitions(c: &Ctx, disk: &str, want: &[&str]) -> TestResult {
    let have = || {
        let mut v: Vec<String> = fs::read_dir(format!("/sys/block/{disk}"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with(disk))
            .collect();
        v.sort();
        v
    };
    c.wait_for(&format!("partitions {want:?}"), || have() == want)?;
    for p in want {
        c.wait_exists(format!("/dev/{p}"))?;
    }
    Ok(())
}

fn partitions(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let disk = name(&dev).to_string();
    let part = |n: u32| format!("{dev}p{n}");
    // The second begins and ends inside a page.
    let table =
        "label: gpt\nstart=2048, size=40960\nstart=43009, size=8191\nstart=53248, size=40960\n";
    c.sh(&format!("printf '{table}' | sfdisk -q --wipe=always {dev}"))?;
    let names = [
        format!("{disk}p1"),
        format!("{disk}p2"),
        format!("{disk}p3"),
    ];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    wait_partitions(c, &disk, &names)?;
    let listed = c.ok(&["partx", "--show", "-g", "-o", "NR,START,SECTORS", &dev])?;
    let listed: Vec<Vec<&str>> = listed
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    check_eq!(
        listed,
        [
            ["1", "2048", "40960"],
            ["2", "43009", "8191"],
            ["3", "53248", "40960"]
        ]
    );

    let whole = disk::direct(&dev)?;
    let end3 = (53248 + 40960) * 512;
    disk::fill(&whole, 700, MIB, end3 - MIB)?;
    // What is written to a partition is at its place on the disk, and nothing else is.
    let p2 = disk::direct(&part(2))?;
    check_eq!(disk::size(&p2)?, 8191 * 512);
    disk::fill(&p2, 800, 0, 8191 * 512)?;
    p2.sync_all()?;
    let r = p2.write_at(Buf::page(512).bytes(), 8191 * 512);
    check_eq!(errno(&r), libc::ENOSPC, "beyond the end of a partition");
    check_eq!(p2.write_at(Buf::pattern(PAGE, 1).bytes(), 8190 * 512)?, 512);
    disk::fill(&p2, 800, 0, 8191 * 512)?;
    disk::verify(&whole, 800, 43009 * 512, 8191 * 512)?;
    let mut all = Buf::page((end3 - MIB) as usize);
    whole.read_exact_at(all.bytes_mut(), MIB)?;
    for (i, chunk) in all.bytes().chunks(MIB as usize).enumerate() {
        let at = MIB * (1 + i as u64);
        let mut want = vec![0; chunk.len()];
        sys::pattern(700 + i as u64, &mut want);
        let (lo, hi) = (43009 * 512, (43009 + 8191) * 512);
        for (n, (a, b)) in chunk.iter().zip(&want).enumerate() {
            let pos = at + n as u64;
            if a != b && !(lo..hi).contains(&pos) {
                crate::fail!("byte {pos:#x} outside of the partition changed");
            }
        }
    }
    // Accounted at the partition, with the disk's totals.
    let stat = |p: &str| c.read(format!("/sys/block/{disk}/{p}/stat"));
    let writes = |s: &str| {
        s.split_whitespace()
            .nth(4)
            .and_then(|n| n.parse::<u64>().ok())
    };
    c.write(format!("/sys/block/{disk}/queue/iostats"), "1")?;
    let before = writes(&stat(names[1])?);
    p2.write_all_at(Buf::page(PAGE).bytes(), 0)?;
    check_eq!(
        writes(&stat(names[1])?),
        before.map(|n| n + 1),
        "writes of p2"
    );
    drop(p2);

    c.mkfs("ext4", &part(1))?;
    c.mount(&part(1), MNT, "defaults")?;
    c.sh(&format!(
        "head -c 3000000 /dev/urandom > {MNT}/f; sync; s=$(cksum < {MNT}/f); umount {MNT}; mount {} {MNT}; [ \"$s\" = \"$(cksum < {MNT}/f)\" ]",
        part(1)
    ))?;
    // While one is mounted, the table cannot be read again; others go on.
    c.fails(&["blockdev", "--rereadpt", &dev])?;
    c.umount(MNT)?;
    c.ok(&["fsck.ext4", "-n", "-f", &part(1)])?;

    // Partitions come back with a new bind, and go with the table.
    let ns = c.namespace()?;
    let driver = c.driver.clone();
    drop(whole);
    c.unbind(&driver, &ns)?;
    check!(!Path::new(&format!("/dev/{}", names[0])).exists());
    c.bind(&driver, &ns)?;
    wait_partitions(c, &disk, &names)?;
    c.ok(&["sfdisk", "-q", "--delete", &dev, "2"])?;
    wait_partitions(c, &disk, &[names[0], names[2]])?;
    c.ok(&["wipefs", "-aq", "-f", &dev])?;
    c.ok(&["blockdev", "--rereadpt", &dev])?;
    wait_partitions(c, &disk, &[])
}

/// fs-dax on a partition that begins at a page; not on one that does not.
fn partition_dax(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let disk = name(&dev).to_string();
    let table = "label: gpt\nstart=4096, size=131072\nstart=143361, size=65536\n";
    c.sh(&format!("printf '{table}' | sfdisk -q --wipe=always {dev}"))?;
    let (p1, p2) = (format!("{disk}p1"), format!("{disk}p2"));
    wait_partitions(c, &disk, &[&p1, &p2])?;
    let (p1, p2) = (format!("/dev/{p1}"), format!("/dev/{p2}"));

    c.mkfs("ext4", &p1)?;
    c.mount(&p1, MNT, "dax=always")?;
    let path = format!("{MNT}/f");
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    let len = 4 << 20;
    f.set_len(len as u64)?;
    let mut m = Map::sync(&f, 0, len)?;
    sys::pattern(11, m.slice_mut());
    m.persist(0, len);
    drop(m);
    drop(f);
    c.umount(MNT)?;
    // Where the file system says the file is, counted from the start of the partition, it is.
    let blocks = c.ok(&["debugfs", "-R", "bmap /f 1000", &p1])?;
    let block: u64 = blocks
        .trim()
        .parse()
        .map_err(|_| Outcome::Fail(format!("bmap: {blocks}")))?;
    let mut want = vec![0; len];
    sys::pattern(11, &mut want);
    let mut b = Buf::page(PAGE);
    disk::direct(&dev)?.read_exact_at(b.bytes_mut(), 4096 * 512 + block * 4096)?;
    check!(
        b.bytes() == &want[1000 * PAGE..1001 * PAGE],
        "block 1000 of the file is elsewhere"
    );

    c.mkfs("ext4", &p2)?;
    c.fails(&["mount", "-o", "dax=always", &p2, MNT])?;
    c.mount(&p2, MNT, "defaults")?;
    c.umount(MNT)?;
    c.ok(&["wipefs", "-aq", "-f", &dev])?;
    c.ok(&["blockdev", "--rereadpt", &dev])?;
    wait_partitions(c, &disk, &[])
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
