// SPDX-License-Identifier: GPL-2.0
//! Life cycle: binding, unbinding, loading and unloading, at rest and in the middle of things.
//!
//! What is promised: an unbind under I/O, a mount or a mapping ends in I/O errors and SIGBUS for
//! the users, in nothing else; what was on the medium is there at the next bind; nothing is leaked.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::sys::{self, Map};
use crate::support::tools::{self, names, Peer, Probe, Space, HUGE, PAGE};
use crate::{check, check_eq, fail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

pub const TESTS: &[Test] = crate::tests! {
    life_create => create,
    life_create_mounted => create_mounted,
    life_flush => flush,
    life_bind_raw => |c| bind_cycles(c, Kind::Raw),
    life_bind_mem => |c| bind_cycles(c, Kind::Mem),
    life_bind_dev => |c| bind_cycles(c, Kind::Dev),
    life_load => load_cycles,
    life_busy => busy,
    life_readers => readers,
    life_region => region,
    life_read_only => read_only,
    life_ext4_cycles => |c| mounted_cycles(c, "ext4"),
    life_xfs_cycles => |c| mounted_cycles(c, "xfs"),
    life_ext4_idle => |c| under(c, "ext4", idle),
    life_xfs_idle => |c| under(c, "xfs", idle),
    life_ext4_mapped => |c| under(c, "ext4", mapped),
    life_xfs_mapped => |c| under(c, "xfs", mapped),
    life_ext4_direct_io => |c| under(c, "ext4", direct_io),
    life_xfs_direct_io => |c| under(c, "xfs", direct_io),
    life_ext4_faults => |c| under(c, "ext4", faults),
    life_xfs_faults => |c| under(c, "xfs", faults),
    life_ext4_pinned => |c| under(c, "ext4", pinned),
    life_xfs_pinned => |c| under(c, "xfs", pinned),
    life_ext4_killed => |c| under(c, "ext4", killed),
    life_xfs_killed => |c| under(c, "xfs", killed),
    life_xfs_reflinked => |c| under(c, "xfs", reflinked),
    life_ext4_rebound => |c| under(c, "ext4", rebound),
    life_xfs_rebound => |c| under(c, "xfs", rebound),
    life_pageless_mount => pageless_mount,
    life_shutdown => shutdown,
    life_after_shutdown => after_shutdown,
};

const MNT: &str = "/mnt/life";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Raw,
    Mem,
    Dev,
}

/// The namespaces of these tests, as small as may be: struct pages take their time.
fn create(c: &mut Ctx) -> TestResult {
    create_sized(c, "64M")
}

/// xfs wants more.
fn create_mounted(c: &mut Ctx) -> TestResult {
    create_sized(c, "384M")
}

fn create_sized(c: &Ctx, dev_size: &str) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "raw", "-s", "64M", "-n", "raw"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "64M", "-n", "mem"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", dev_size, "-n", "dev"])?;
    check_eq!(tools::spaces(c)?.len(), 3);
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        check_eq!(
            c.bound_to(&s.nd).as_deref(),
            Some(c.driver_name()),
            "driver of {}",
            s.nd
        );
    }
    Ok(())
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

// Leaks.

/// What the kernel holds, as far as it tells.
struct Holdings {
    slabs: BTreeMap<String, (u64, u64)>,
    vmalloc: BTreeMap<String, (u64, u64)>,
    iomem: String,
    modules: BTreeMap<String, String>,
    entries: BTreeMap<&'static str, Vec<String>>,
    available: u64,
    percpu: u64,
}

/// Folders that have an entry for each disk, DAX device or module that there is.
const FOLDERS: &[&str] = &[
    "/sys/block",
    "/sys/class/block",
    "/sys/kernel/debug/block",
    "/sys/kernel/slab",
    "/sys/bus/nd/devices",
    "/sys/devices/virtual/block",
    "/dev",
];

fn holdings(c: &Ctx) -> TestResult<Holdings> {
    // What RCU, caches and per-CPU lists still hold is no leak.
    // SAFETY: no arguments.
    unsafe { libc::sync() };
    c.write("/proc/sys/vm/drop_caches", "3")?;
    // Unloading a module makes vmalloc give up the addresses that it frees lazily.
    c.ok(&["modprobe", "brd", "rd_nr=0"])?;
    c.rmmod("brd")?;
    for _ in 0..3 {
        for cache in fs::read_dir("/sys/kernel/slab")?.flatten() {
            let _ = fs::write(cache.path().join("shrink"), "1");
        }
        // A grace period (MEMBARRIER_CMD_GLOBAL), for what shrinking gave to RCU.
        // SAFETY: no pointers.
        let r = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
        check!(r == 0, "membarrier: {}", io::Error::last_os_error());
    }
    tools::drain_lists(c)?;

    let mut slabs = BTreeMap::new();
    for l in c.read("/proc/slabinfo")?.lines().skip(2) {
        let w: Vec<&str> = l.split_whitespace().collect();
        if let [name, active, _, size, ..] = w[..] {
            if let (Ok(a), Ok(s)) = (active.parse(), size.parse()) {
                slabs.insert(name.to_string(), (a, s));
            }
        }
    }
    check!(
        slabs.len() > 20,
        "/proc/slabinfo has {} caches",
        slabs.len()
    );

    let mut vmalloc: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for l in c.read("/proc/vmallocinfo")?.lines() {
        let mut w = l.split_whitespace().skip(1);
        let size: u64 = w.next().and_then(|s| s.parse().ok()).unwrap_or(0);
        let who = w.next().unwrap_or("?");
        // Offsets in functions do not matter.
        let who = who.split('+').next().unwrap_or(who);
        // Stacks belong to processes that come and go, and are cached; freed ranges are no leak.
        if [
            "dup_task_struct",
            "copy_process",
            "kernel_clone",
            "unpurged",
        ]
        .contains(&who)
        {
            continue;
        }
        let e = vmalloc.entry(who.to_string()).or_default();
        *e = (e.0 + 1, e.1 + size);
    }
    check!(!vmalloc.is_empty(), "/proc/vmallocinfo is empty");

    let mut modules = BTreeMap::new();
    for l in c.read("/proc/modules")?.lines() {
        let w: Vec<&str> = l.split(' ').collect();
        modules.insert(w[0].to_string(), w[2].to_string());
    }
    let mut entries = BTreeMap::new();
    for dir in FOLDERS {
        entries.insert(*dir, names(dir));
    }
    // Named by device numbers, which change.
    let bdi = names("/sys/class/bdi").len();
    entries.insert("/sys/class/bdi", vec![format!("{bdi} entries")]);
    let meminfo = |key: &str| -> TestResult<u64> {
        let all = c.read("/proc/meminfo")?;
        let l = all
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .unwrap_or_default();
        let n = l
            .trim_start_matches(':')
            .trim_end_matches("kB")
            .trim()
            .parse();
        n.map_err(|_| format!("/proc/meminfo: {key} {l:?}").into())
    };
    Ok(Holdings {
        slabs,
        vmalloc,
        iomem: c.read("/proc/iomem")?,
        modules,
        entries,
        available: meminfo("MemAvailable")?,
        percpu: meminfo("Percpu")?,
    })
}

/// What grew by about as much as `cycles` leaks of one object each: by three quarters of that. Other
/// traffic (the test's own processes) adds less: what it needs, it needed in the warm-up.
fn grown(before: &Holdings, after: &Holdings, cycles: usize) -> BTreeMap<String, String> {
    let mut bad = BTreeMap::new();
    let limit = cycles as u64 * 3 / 4;
    for (name, (n, size)) in &after.slabs {
        let was = before.slabs.get(name).map_or(0, |x| x.0);
        if *n > was + limit {
            bad.insert(
                format!("slab {name}"),
                format!("{was} objects of {size} bytes, now {n}"),
            );
        }
    }
    for (who, (n, bytes)) in &after.vmalloc {
        let (was, was_bytes) = before.vmalloc.get(who).copied().unwrap_or_default();
        if *n > was || *bytes > was_bytes {
            bad.insert(
                format!("vmalloc {who}"),
                format!("{was} ranges, {was_bytes} bytes, now {n}, {bytes}"),
            );
        }
    }
    // 16 KiB a cycle are less than the page map of the smallest namespace.
    if after.available + 16 * (cycles as u64) < before.available {
        bad.insert(
            "MemAvailable".into(),
            format!("{} kB, now {} kB", before.available, after.available),
        );
    }
    if after.percpu > before.percpu + limit {
        bad.insert(
            "Percpu".into(),
            format!("{} kB, now {} kB", before.percpu, after.percpu),
        );
    }
    println!(
        "{cycles} cycles: MemAvailable {:+} kB, Percpu {:+} kB, slab {:+} objects",
        after.available as i64 - before.available as i64,
        after.percpu as i64 - before.percpu as i64,
        after.slabs.values().map(|x| x.0 as i64).sum::<i64>()
            - before.slabs.values().map(|x| x.0 as i64).sum::<i64>(),
    );
    bad
}

/// What must be the same at any time.
fn must_be_the_same(before: &Holdings, after: &Holdings) -> TestResult {
    check_eq!(after.iomem, before.iomem, "/proc/iomem");
    check_eq!(after.modules, before.modules, "references of modules");
    for (dir, was) in &before.entries {
        check_eq!(&after.entries[dir], was, "entries of {dir}");
    }
    Ok(())
}

/// How often a cycle is repeated.
fn cycles(c: &Ctx) -> usize {
    c.rounds(10, 100) as usize
}

/// How often what a cycle has left behind must grow before that is a leak.
const ROUNDS: usize = 8;

/// `body` a few times, then `cycles` times with a look at what the kernel holds before and after.
///
/// Caches that fill up to a bound (per-CPU lists of pages, sheaves of objects that wait for RCU)
/// look like growth. They stop at their bound; a leak does not. So red is what grows in each of
/// `ROUNDS`.
fn cycle(c: &Ctx, cycles: usize, mut body: impl FnMut(usize) -> TestResult) -> TestResult {
    let mut done = 0;
    let mut run = |n: usize| -> TestResult {
        for _ in 0..n {
            body(done)?;
            done += 1;
        }
        Ok(())
    };
    run(1 + cycles / 10)?;
    let mut before = holdings(c)?;
    let mut suspects: Option<BTreeMap<String, String>> = None;
    for _ in 0..ROUNDS {
        // CLOCK: only shown.
        let start = Instant::now();
        run(cycles)?;
        println!("{cycles} cycles in {:.1} s", start.elapsed().as_secs_f64());
        let after = holdings(c)?;
        must_be_the_same(&before, &after)?;
        let mut now = grown(&before, &after, cycles);
        if let Some(s) = &suspects {
            now.retain(|k, _| s.contains_key(k));
        }
        if now.is_empty() {
            return Ok(());
        }
        println!("grown: {now:?}");
        suspects = Some(now);
        before = after;
    }
    fail!("grown in each of {ROUNDS} rounds of {cycles} cycles: {suspects:?}")
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
fn disk_io(dev: &str, direct: bool, link: &tools::Link) -> i32 {
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

/// Unbind and bind, over and over, with readers and writers on the disk.
fn bind_cycles(c: &mut Ctx, kind: Kind) -> TestResult {
    let s = space(c, kind)?;
    let at = seal(&s)?;
    let resting = c.read("/proc/iomem")?;
    cycle(c, cycles(c) / 2, |_| {
        s.unbind(c)?;
        check!(
            !Path::new(&format!("/sys/block/{}", s.disk)).exists(),
            "a disk without driver"
        );
        s.bind(c)
    })?;
    check_eq!(c.read("/proc/iomem")?, resting);
    let dev = s.dev();
    let mut workers = vec![
        Peer::start(|link| disk_io(&dev, true, link))?,
        Peer::start(|link| disk_io(&dev, false, link))?,
    ];
    for n in 0..cycles(c) {
        if n % 5 == 0 {
            // I/O is really going on.
            for w in &workers {
                w.hear()?;
            }
        }
        s.unbind(c)?;
        s.bind(c)?;
        still_running(&mut workers)?;
    }
    for w in &workers {
        w.hear()?;
    }
    drop(workers);
    sealed(&s, at)
}

/// The removal of the driver flushes, even a disk that nobody has written to.
fn flush(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        let flushes = flushes(c)?;
        s.unbind(c)?;
        check_eq!(
            flushes.count_by(c, std::process::id() as i32)?,
            1,
            "flushes by the unbind"
        );
        drop(flushes);
        s.bind(c)?;
    }
    Ok(())
}

/// Unload and load, with I/O in between: an unload that meets an open disk is refused with EBUSY
/// and does nothing.
fn load_cycles(c: &mut Ctx) -> TestResult {
    let all = [
        space(c, Kind::Raw)?,
        space(c, Kind::Mem)?,
        space(c, Kind::Dev)?,
    ];
    let ats: Vec<u64> = all.iter().map(seal).collect::<TestResult<_>>()?;
    let params = c.params.clone();
    cycle(c, cycles(c) / 2, |_| {
        c.rmmod(c.driver_name())?;
        check!(
            c.disks().is_empty(),
            "disks without driver: {:?}",
            c.disks()
        );
        c.insmod_rpmem(&params)?;
        for s in &all {
            c.wait_exists(s.dev())?;
        }
        Ok(())
    })?;
    // Each worker opens a disk, says so, and when it has been told to go on, reads and closes it.
    let mut workers = Vec::new();
    for s in &all {
        let dev = s.dev();
        workers.push(Peer::start(|link| loop {
            link.hear();
            let mut data = vec![0; 1 << 20];
            let r = File::open(&dev).and_then(|f| {
                link.say();
                link.hear();
                (0..4).try_for_each(|n| f.read_exact_at(&mut data, (8 + n) << 20))
            });
            if let Err(e) = r {
                println!("{dev}: {e}");
                return 1;
            }
        })?);
    }
    let mut refused = 0;
    for _ in 0..cycles(c) {
        for w in &workers {
            w.say();
        }
        for w in &workers {
            w.hear()?;
        }
        let r = c.try_rmmod(c.driver_name());
        check_eq!(tools::errno(&r), libc::EAGAIN, "rmmod with open disks");
        for w in &workers {
            w.say();
        }
        c.wait_for("an unload between two users", || {
            match c.try_rmmod(c.driver_name()) {
                Ok(()) => true,
                Err(_) => {
                    refused += 1;
                    false
                }
            }
        })?;
        c.insmod_rpmem(&params)?;
        for s in &all {
            c.wait_exists(s.dev())?;
        }
        for w in &mut workers {
            check_eq!(w.ended()?, None, "a worker has ended");
        }
    }
    println!("{refused} more refusals with workers on the disks");
    drop(workers);
    for (s, at) in all.iter().zip(ats) {
        c.wait_exists(s.dev())?;
        sealed(s, at)?;
    }
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

/// rmmod is refused as long as anybody has the disk, and goes through afterwards.
fn busy(c: &mut Ctx) -> TestResult {
    let raw = space(c, Kind::Raw)?;
    let mem = space(c, Kind::Mem)?;
    let f = File::open(raw.dev())?;
    refused_with_ebusy(c, "an open disk")?;
    drop(f);
    c.mkfs("ext4", &mem.dev())?;
    c.mount(&mem.dev(), MNT, "dax")?;
    refused_with_ebusy(c, "a mounted file system")?;
    let g = tools::open_rw(format!("{MNT}/f"))?;
    g.set_len(4 << 20)?;
    let m = Map::sync(&g, 0, 4 << 20)?;
    m.write8(0, 1);
    // The file system of an unmounted but busy mount lives on, and so does the disk.
    c.ok(&["umount", "-l", MNT])?;
    drop(g);
    refused_with_ebusy(c, "a mapping of a detached file system")?;
    m.write8(PAGE, 2);
    check_eq!((m.read8(0), m.read8(PAGE)), (1, 2));
    drop(m);
    let name = c.driver_name().to_string();
    c.wait_for("rmmod after the last user", || c.try_rmmod(&name).is_ok())?;
    check!(c.disks().is_empty());
    c.insmod_rpmem(&c.params)?;
    check_eq!(tools::spaces(c)?.len(), 3);
    Ok(())
}

/// Openers and readers of sysfs, as udev is one, while the disk comes and goes.
fn readers(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem] {
        let s = space(c, kind)?;
        let sys = format!("/sys/block/{}", s.disk);
        let mut workers = Vec::new();
        workers.push(Peer::start(|link| {
            let files = [
                "badblocks",
                "dax/write_cache",
                "size",
                "ro",
                "stat",
                "queue/dax",
                "uevent",
            ];
            loop {
                let mut all = true;
                for f in files {
                    match fs::read(format!("{sys}/{f}")) {
                        Ok(_) => {}
                        Err(e) if expected_error(&e) => all = false,
                        Err(e) => {
                            println!("{f}: {e}");
                            return 1;
                        }
                    }
                }
                if all {
                    link.say();
                }
            }
        })?);
        workers.push(Peer::start(|link| loop {
            for v in ["0", "1"] {
                match fs::OpenOptions::new()
                    .write(true)
                    .open(format!("{sys}/dax/write_cache"))
                {
                    Ok(f) => match f.write_at(v.as_bytes(), 0) {
                        Ok(_) => link.say(),
                        Err(e) if expected_error(&e) => {}
                        Err(e) => {
                            println!("write_cache: {e}");
                            return 1;
                        }
                    },
                    Err(e) if expected_error(&e) => {}
                    // The folder is there, the attribute is not yet or no longer.
                    Err(e) => {
                        println!("write_cache: {e}");
                        return 1;
                    }
                }
            }
        })?);
        let dev = s.dev();
        workers.push(Peer::start(|link| loop {
            match File::open(&dev) {
                Ok(f) => {
                    link.say();
                    drop(f);
                }
                Err(e) if expected_error(&e) => {}
                Err(e) => {
                    println!("open: {e}");
                    return 1;
                }
            }
        })?);
        for n in 0..30 {
            if n % 10 == 0 {
                for w in &workers {
                    w.hear()?;
                }
            }
            s.unbind(c)?;
            s.bind(c)?;
            still_running(&mut workers)?;
        }
        drop(workers);
        // A file of a disk that is gone, kept open: nothing but errors, and a new disk beside it.
        let old = File::open(s.dev())?;
        let attr = File::open(format!("{sys}/badblocks"))?;
        s.unbind(c)?;
        let mut b = vec![0; PAGE];
        let r = old.read_at(&mut b, 1 << 20);
        check!(
            matches!(&r, Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::ENXIO | libc::ENODEV)))
                || matches!(&r, Ok(0)),
            "read of a disk that is gone: {r:?}"
        );
        check_eq!(
            tools::errno(&attr.read_at(&mut b, 0)),
            libc::ENODEV,
            "sysfs of a disk that is gone"
        );
        s.bind(c)?;
        let new = File::open(s.dev())?;
        new.read_exact_at(&mut b, 1 << 20)?;
        check!(
            old.read_at(&mut b, 1 << 20).is_err() || old.read_at(&mut b, 1 << 20)? == 0,
            "the old file works again"
        );
    }
    Ok(())
}

/// A region that is disabled takes its disks along, and they come back with it.
fn region(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Mem)?;
    let at = seal(&s)?;
    let region = match c.regions().as_slice() {
        [one] => one.clone(),
        other => fail!("one region expected: {other:?}"),
    };
    let opened = File::open(s.dev())?;
    for n in 0..10 {
        c.write("/sys/bus/nd/drivers/nd_region/unbind", &region)?;
        check!(
            c.disks().is_empty(),
            "disks without region: {:?}",
            c.disks()
        );
        c.write("/sys/bus/nd/drivers/nd_region/bind", &region)?;
        c.settle();
        check_eq!(tools::spaces(c)?.len(), 3, "disks, round {n}");
    }
    drop(opened);
    // The polite way.
    c.ok(&["ndctl", "disable-region", &region])?;
    c.ok(&["ndctl", "enable-region", &region])?;
    let s = space(c, Kind::Mem)?;
    sealed(&s, at)
}

/// Read-only of the region reaches the disks of a bound driver, there and back; a disk that is
/// bound while the region is read-only is so from the start.
fn read_only(c: &mut Ctx) -> TestResult {
    let region = c.nd(&c.regions()[0]).join("read_only");
    let all = [
        space(c, Kind::Raw)?,
        space(c, Kind::Mem)?,
        space(c, Kind::Dev)?,
    ];
    let expect = |want: &str| -> TestResult {
        for s in &all {
            let ro = format!("/sys/block/{}/ro", s.disk);
            c.wait_for(&format!("{ro} to be {want}"), || {
                c.read(&ro).is_ok_and(|v| v == want)
            })?;
        }
        Ok(())
    };
    expect("0")?;
    let f = tools::open_rw(all[0].dev())?;
    c.write(&region, "1")?;
    expect("1")?;
    // A file that was open for writing before is refused, too.
    let page = vec![0x5a; PAGE];
    check_eq!(
        tools::errno(&f.write_at(&page, 0)),
        libc::EPERM,
        "write to a disk that has become read-only"
    );
    drop(f);
    all[1].unbind(c)?;
    all[1].bind(c)?;
    expect("1")?;
    c.write(&region, "0")?;
    expect("0")?;
    let f = tools::open_rw(all[1].dev())?;
    f.write_all_at(&page, 16 << 20)?;
    f.sync_all()?;
    Ok(())
}

// Under a mount.

fn fs_space(c: &Ctx, fs: &str) -> TestResult<Space> {
    space(c, if fs == "ext4" { Kind::Mem } else { Kind::Dev })
}

fn fresh(c: &Ctx, fs: &str, s: &Space) -> TestResult {
    while c.run(&["umount", "-q", MNT])?.status == 0 {}
    tools::mkfs_dax(c, fs, &s.dev())?;
    c.mount(&s.dev(), MNT, "dax")
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

/// What is left of a file system whose disk went: errors.
fn must_be_dead() -> TestResult {
    // Cached names may be there still; data and new files are not.
    let r = fs::write(format!("{MNT}/new"), b"x").and_then(|()| {
        let f = File::open(format!("{MNT}/new"))?;
        f.sync_all()
    });
    match r {
        Ok(()) => fail!("the file system of a disk that is gone takes new files"),
        Err(e) => check!(
            matches!(
                e.raw_os_error(),
                Some(libc::EIO | libc::EROFS | libc::ENODEV | libc::ENXIO)
            ),
            "new file: {e}"
        ),
    }
    Ok(())
}

/// Mount, use, unbind, unmount, bind, over and over: with a file open and mapped each time.
fn mounted_cycles(c: &mut Ctx, fs: &str) -> TestResult {
    let s = fs_space(c, fs)?;
    fresh(c, fs, &s)?;
    keep(c)?;
    c.umount(MNT)?;
    cycle(c, cycles(c) / 2, |n| {
        c.mount(&s.dev(), MNT, "dax")?;
        if n % 5 == 0 {
            kept()?;
        }
        let f = tools::open_rw(format!("{MNT}/busy"))?;
        f.set_len(KEPT as u64)?;
        let m = Map::sync(&f, 0, KEPT)?;
        m.write8(n * PAGE % KEPT, 1);
        s.unbind(c)?;
        check!(f.sync_all().is_err(), "fsync on a disk that is gone");
        drop((m, f));
        c.umount(MNT)?;
        s.bind(c)
    })?;
    c.mount(&s.dev(), MNT, "dax")?;
    kept()?;
    c.umount(MNT)?;
    check_fs(c, fs, &s)
}

fn check_fs(c: &Ctx, fs: &str, s: &Space) -> TestResult {
    match fs {
        "ext4" => c.ok(&["fsck.ext4", "-n", "-f", &s.dev()])?,
        _ => c.ok(&["xfs_repair", "-n", &s.dev()])?,
    };
    Ok(())
}

/// A file system, something that uses it while the driver is unbound, and the aftermath: the
/// mount is dead, is unmounted, the namespace is bound again, and everything is there.
fn under(c: &mut Ctx, fs: &str, using: fn(&Ctx, &Space) -> TestResult) -> TestResult {
    let s = fs_space(c, fs)?;
    fresh(c, fs, &s)?;
    keep(c)?;
    using(c, &s)?;
    must_be_dead()?;
    refused_with_ebusy(c, "a mount whose disk is gone")?;
    c.umount(MNT)?;
    if !Path::new(&s.dev()).exists() {
        s.bind(c)?;
    }
    c.mount(&s.dev(), MNT, "dax")?;
    kept()?;
    c.umount(MNT)?;
    check_fs(c, fs, &s)
}

/// Nobody has a file open.
fn idle(c: &Ctx, s: &Space) -> TestResult {
    s.unbind(c)
}

/// A file that is open and mapped by two processes: SIGBUS for both, whether they had touched a
/// page or not, in small and huge pages, shared and private.
fn mapped(c: &Ctx, s: &Space) -> TestResult {
    let len = 3 * HUGE;
    let f = tools::file_of(&format!("{MNT}/mapped"), len)?;
    // What was never written needs no disk to be read, so all is written.
    f.write_all_at(&vec![0; len], 0)?;
    let m = Map::sync(&f, 0, len)?;
    // The first 4 MiB are mapped, the rest is not touched.
    for at in (0..HUGE).step_by(PAGE) {
        m.write8(at, 1);
    }
    m.write8(HUGE, 1);
    let private = Map::new(
        &f,
        0,
        len,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE,
    )?;
    private.write8(0, 0x77);
    check_eq!(private.read8(PAGE), 1);
    let mut children = Vec::new();
    for at in [0, PAGE + 3, HUGE, 2 * HUGE, len - 1] {
        for write in [false, true] {
            children.push(Peer::start(|link| {
                m.read8(0);
                m.read8(HUGE + 1);
                link.say();
                link.hear();
                if write {
                    m.write8(at, 1);
                }
                i32::from(m.read8(at))
            })?);
        }
    }
    for child in &children {
        child.hear()?;
    }
    s.unbind(c)?;
    for (n, child) in children.into_iter().enumerate() {
        child.say();
        check_eq!(
            child.wait()?,
            tools::GOT_SIGBUS,
            "access {n} after the unbind"
        );
    }
    // The test's own mapping, and what a system call makes of it.
    match sys::caught(|| m.read8(0))? {
        sys::Caught::Fault(x) => check_eq!((x.signal, x.code), (libc::SIGBUS, sys::BUS_ADRERR)),
        other => fail!("{other:?} instead of SIGBUS"),
    }
    let zero = File::open("/dev/zero")?;
    check_eq!(
        tools::errno(&tools::pread_raw(&zero, m.as_ptr(), PAGE, 0)),
        libc::EFAULT
    );
    // A private copy is the process's own, what had not been copied is gone.
    check_eq!(private.read8(0), 0x77, "a page that was copied");
    match sys::caught(|| private.read8(PAGE))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS in a private mapping"),
    }
    check!(f.sync_all().is_err(), "fsync");
    let mut b = [0; 16];
    check!(
        f.read_at(&mut b, 0).is_err(),
        "read of a file whose disk is gone"
    );
    // Still mapped when the namespace is bound again: the old mapping stays dead.
    s.bind(c)?;
    match sys::caught(|| m.read8(0))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS after the next bind"),
    }
    Ok(())
}

/// Direct I/O of files, and direct I/O of a foreign disk on the mapping, in flight.
fn direct_io(c: &Ctx, s: &Space) -> TestResult {
    c.ok(&["modprobe", "brd", "rd_nr=1", "rd_size=16384"])?;
    c.wait_exists("/dev/ram0")?;
    let len = 4 << 20;
    let f = tools::file_of(&format!("{MNT}/buffer"), len)?;
    let m = Map::sync(&f, 0, len)?;
    let workers = vec![
        // Ends with an error from the file: the disk is gone, or the DAX device is.
        Peer::start(|link| {
            let Ok(d) = tools::open_flags(format!("{MNT}/direct"), libc::O_DIRECT) else {
                return 3;
            };
            let Ok(buf) = tools::anonymous(len) else {
                return 3;
            };
            loop {
                let r = tools::pwrite_raw(&d, buf.as_ptr(), len, 0)
                    .and_then(|_| tools::pread_raw(&d, buf.as_ptr(), len, 0));
                match r {
                    Ok(n) if n == len => link.say(),
                    Ok(_) => {}
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::ENXIO)) => {
                        return 0
                    }
                    Err(e) => {
                        println!("direct I/O of a file: {e}");
                        return 1;
                    }
                }
            }
        })?,
        // Ends with EFAULT from the mapping.
        Peer::start(|link| {
            let Ok(d) = tools::open_flags("/dev/ram0", libc::O_DIRECT) else {
                return 3;
            };
            loop {
                let r = tools::pwrite_raw(&d, m.as_ptr(), len, 0)
                    .and_then(|_| tools::pread_raw(&d, m.as_ptr(), len, 0));
                match r {
                    Ok(n) if n == len => link.say(),
                    Ok(_) => {}
                    Err(e) if e.raw_os_error() == Some(libc::EFAULT) => return 0,
                    Err(e) => {
                        println!("direct I/O on the mapping: {e}");
                        return 1;
                    }
                }
            }
        })?,
    ];
    for w in &workers {
        w.hear()?;
    }
    s.unbind(c)?;
    for (n, w) in workers.into_iter().enumerate() {
        check_eq!(w.wait()?, 0, "worker {n}");
    }
    Ok(())
}

/// Processes that do nothing but fault, in small and huge pages, in several files, while the
/// driver is unbound, many times over.
fn faults(c: &Ctx, s: &Space) -> TestResult {
    for round in 0..8 {
        if round > 0 {
            c.umount(MNT)?;
            s.bind(c)?;
            c.mount(&s.dev(), MNT, "dax")?;
        }
        let mut workers = Vec::new();
        for n in 0..4usize {
            let path = format!("{MNT}/faults{n}");
            workers.push(Peer::start(|link| {
                let len = 2 * HUGE;
                let Ok(f) = tools::file_of(&path, len) else {
                    return 3;
                };
                let Ok(m) = Map::sync(&f, 0, len) else {
                    return 3;
                };
                let step = if n % 2 == 0 { PAGE } else { HUGE };
                for pass in 0.. {
                    for at in (0..len).step_by(step) {
                        m.write8(at, pass as u8);
                    }
                    if pass == 1 {
                        link.say();
                    }
                    if m.madvise(libc::MADV_DONTNEED).is_err() {
                        return 4;
                    }
                }
                0
            })?);
        }
        for w in &workers {
            w.hear()?;
        }
        s.unbind(c)?;
        for (n, w) in workers.into_iter().enumerate() {
            check_eq!(w.wait()?, tools::GOT_SIGBUS, "worker {n}, round {round}");
        }
    }
    Ok(())
}

/// A page that the kernel holds for a user (in a pipe): the unbind waits for it, as its memory
/// cannot go, and ends when it is given back.
fn pinned(c: &Ctx, s: &Space) -> TestResult {
    let f = tools::file_of(&format!("{MNT}/pinned"), HUGE)?;
    let m = Map::sync(&f, 0, HUGE)?;
    m.write8(PAGE, 0x21);
    let pipe = tools::pin_in_pipe(&m)?;
    // Only this process holds the pipe, not the one that unbinds.
    let unbind = Peer::start(|_| {
        // SAFETY: the child's copies.
        unsafe {
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }
        i32::from(s.unbind(c).is_err())
    })?;
    unbind_waits(c, s, &unbind)?;
    nobody_else_waits(c, s)?;
    // The page is what it was, though nobody can map it any more.
    let mut b = vec![0u8; PAGE];
    // SAFETY: a buffer of that size.
    let n = unsafe { libc::read(pipe[0], b.as_mut_ptr().cast(), PAGE) };
    check_eq!(
        (n, b[0], b[1]),
        (PAGE as isize, 0x21, 0),
        "the page in the pipe"
    );
    check_eq!(unbind.wait()?, 0, "the unbind");
    // SAFETY: closes the test's pipe.
    unsafe {
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    match sys::caught(|| m.read8(PAGE))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS"),
    }
    Ok(())
}

/// While an unbind waits for a pin: everybody else goes on, and the namespace cannot be bound.
fn nobody_else_waits(c: &Ctx, s: &Space) -> TestResult {
    let listed = c.ok(&["ndctl", "list", "-RNDi"])?;
    check!(listed.contains("\"namespaces\""), "{listed}");
    let dev = fs::canonicalize(c.nd(&s.nd))?;
    let region = dev.parent().ok_or("no region")?;
    for dir in [&*dev, region] {
        for entry in fs::read_dir(dir)?.flatten() {
            // Some have nothing to say.
            let _ = fs::read(entry.path());
        }
    }
    // All namespaces of the region are told.
    let other = space(c, Kind::Raw)?;
    for read_only in ["1", "0"] {
        c.write(region.join("read_only"), read_only)?;
        check_eq!(c.disk_attr(&other.disk, "ro")?, read_only);
    }
    let bind = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver_name()));
    check_eq!(tools::errno(&bind(&s.nd)), libc::EBUSY, "bind");
    c.dmesg_has(&format!("pages are in use since {} was unbound", s.nd))
}

/// The disk has gone, and the one who unbinds sleeps.
fn unbind_waits(c: &Ctx, s: &Space, unbind: &Peer) -> TestResult {
    let stat = format!("/proc/{}/stat", unbind.pid());
    let gone = format!("/sys/block/{}", s.disk);
    c.wait_for("the unbind to wait", || {
        let state = c.read(&stat).unwrap_or_default();
        let state = state.rsplit(") ").next().unwrap_or_default().chars().next();
        matches!(state, Some('S' | 'D')) && !Path::new(&gone).exists()
    })
}

/// A process that unbinds what it has pinned itself waits for itself, until it is killed.
fn killed(c: &Ctx, s: &Space) -> TestResult {
    let unbind = Peer::start(|_| {
        let pinned = || -> TestResult {
            let f = tools::file_of(&format!("{MNT}/killed"), HUGE)?;
            let m = Map::sync(&f, 0, HUGE)?;
            m.write8(PAGE, 0x21);
            tools::pin_in_pipe(&m)?;
            s.unbind(c)
        };
        i32::from(pinned().is_err())
    })?;
    unbind_waits(c, s, &unbind)?;
    // SAFETY: no pointers; a child of this process.
    check_eq!(unsafe { libc::kill(unbind.pid(), libc::SIGKILL) }, 0);
    check_eq!(unbind.wait()?, 128 + libc::SIGKILL, "the one who unbinds");
    let bind = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver_name()));
    c.wait_for("the end of the pin", || bind(&s.nd).is_ok())?;
    c.wait_exists(s.dev())
}

/// Pages that several files share, mapped through two of them: they do not name their files, so the
/// unbind waits, says what for, and ends with the mount.
fn reflinked(c: &Ctx, s: &Space) -> TestResult {
    // Before the mappings are made, which it would inherit.
    let unbind = Peer::start(|link| {
        link.hear();
        i32::from(s.unbind(c).is_err())
    })?;
    let f = tools::file_of(&format!("{MNT}/origin"), HUGE)?;
    f.write_all_at(&vec![3; HUGE], 0)?;
    f.sync_all()?;
    c.sh(&format!(
        "cd {MNT}; for n in 1 2 3; do cp --reflink=always origin copy$n; done; sync -f ."
    ))?;
    let g = tools::open_rw(format!("{MNT}/copy1"))?;
    let (m, n) = (Map::shared(&f, 0, HUGE)?, Map::shared(&g, 0, HUGE)?);
    for at in (0..HUGE).step_by(PAGE) {
        check_eq!((m.read8(at), n.read8(at)), (3, 3));
    }
    unbind.say();
    c.wait_for("the message", || {
        c.dmesg()
            .is_ok_and(|log| log.contains("waiting for files that use pfn"))
    })?;
    // The memory is there as long as it is mapped.
    check_eq!((m.read8(0), n.read8(PAGE)), (3, 3));
    drop((m, n, f, g));
    must_be_dead()?;
    c.umount(MNT)?;
    check_eq!(unbind.wait()?, 0, "the unbind");
    // As the other tests leave it.
    s.bind(c)?;
    c.mount(&s.dev(), MNT, "dax")?;
    s.unbind(c)
}

/// The namespace is bound again while the dead mount is still there: a new disk, that works, next
/// to the old file system, that does not.
fn rebound(c: &Ctx, s: &Space) -> TestResult {
    let f = tools::file_of(&format!("{MNT}/f"), HUGE)?;
    let m = Map::sync(&f, 0, HUGE)?;
    m.write8(0, 1);
    s.unbind(c)?;
    s.bind(c)?;
    let d = tools::open_rw(s.dev())?;
    let mut b = vec![0; PAGE];
    d.read_exact_at(&mut b, 0)?;
    match sys::caught(|| m.read8(0))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS"),
    }
    s.unbind(c)
}

/// The same without pages: a mount with data in the page cache, being written to.
fn pageless_mount(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Raw)?;
    while c.run(&["umount", "-q", MNT])?.status == 0 {}
    c.mkfs("ext4", &s.dev())?;
    c.mount(&s.dev(), MNT, "defaults")?;
    keep(c)?;
    let f = tools::open_rw(format!("{MNT}/dirty"))?;
    let worker = Peer::start(|link| {
        let data = vec![7; 1 << 20];
        loop {
            match f.write_all_at(&data, 0).and_then(|()| f.sync_all()) {
                Ok(()) => link.say(),
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EIO | libc::EROFS | libc::ENODEV)
                    ) =>
                {
                    return 0
                }
                Err(e) => {
                    println!("{e}");
                    return 1;
                }
            }
        }
    })?;
    worker.hear()?;
    s.unbind(c)?;
    check_eq!(worker.wait()?, 0, "the writer");
    drop(f);
    must_be_dead()?;
    refused_with_ebusy(c, "a mount whose disk is gone")?;
    c.umount(MNT)?;
    s.bind(c)?;
    c.mount(&s.dev(), MNT, "defaults")?;
    kept()?;
    c.umount(MNT)
}

// The end of the machine.

/// Shut down by the kernel's own rules, with the driver bound to all modes, a file system mounted and
/// a file mapped: the driver flushes, and nothing is lost. The machine is cut off when the NVDIMM bus is
/// shut down: nothing in a halted machine could ask for it.
fn shutdown(c: &mut Ctx) -> TestResult {
    let s = tools::dax_space(c, &["-M", "mem"])?;
    c.create_namespace(&["-m", "sector", "-s", "64M"])?;
    check_eq!(tools::spaces(c)?.len(), 3, "fsdax, raw and sector");
    tools::mkfs_dax(c, "ext4", &s.dev())?;
    c.mount(&s.dev(), MNT, "dax")?;
    keep(c)?;
    let f = tools::file_of(&format!("{MNT}/mapped"), KEPT)?;
    let mut m = Map::sync(&f, 0, KEPT)?;
    sys::pattern(92, m.slice_mut());
    m.persist(0, KEPT);

    // The kernel names each device that it shuts down, and takes its time.
    c.write("/sys/module/kernel/parameters/initcall_debug", "1")?;
    c.write("/proc/sys/kernel/printk_delay", "10")?;
    let flushes = flushes(c)?;
    c.mark_dmesg();
    let halt = Peer::start(|_| {
        // SAFETY: ends the machine.
        unsafe { libc::reboot(libc::RB_HALT_SYSTEM) };
        1
    })?;
    c.wait_for("the bus to be shut down", || {
        c.dmesg().is_ok_and(|log| log.contains("ndbus0: shutdown"))
    })?;
    c.write("/proc/sys/kernel/printk_delay", "1000")?;
    c.dmesg_has(&format!("{}: shutdown", s.nd))?;
    check_eq!(
        flushes.count_by(c, halt.pid())?,
        tools::spaces(c)?.len(),
        "flushes by the shutdown"
    );
    c.power_cut()
}

/// Counts the flushes that the driver asks of libnvdimm.
fn flushes(c: &Ctx) -> TestResult<Probe> {
    Probe::new(c, "rpmem_life_flush", "nvdimm_flush")
}

fn after_shutdown(c: &mut Ctx) -> TestResult {
    let s = tools::dax_space(c, &[])?;
    c.mount(&s.dev(), MNT, "dax")?;
    kept()?;
    let data = fs::read(format!("{MNT}/mapped"))?;
    check_eq!(data.len(), KEPT);
    check_eq!(
        sys::pattern_differs(92, &data),
        None,
        "the file that was mapped"
    );
    c.umount(MNT)?;
    check_fs(c, "ext4", &s)
}
