// SPDX-License-Identifier: GPL-2.0
//! Namespaces in devdax mode: /dev/rpmemN with pages that can be pinned.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{faults_for, Node, DIRECT_WINDOW};
use crate::support::peer::Peer;
use crate::support::ring::Ring;
use crate::support::sys::{self, Caught, Map, FOREVER, PAGE, RW, SYNC};
use crate::support::tools::{self, errno, HUGE};
use crate::support::trace::Probe;
use crate::{check, check_eq, fail};
use libc::{MAP_SHARED, POLLPRI, PROT_READ};
use std::fs::File;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    devdax_create => create,
    devdax_entries => entries,
    devdax_small => small,
    devdax_gigantic => gigantic,
    devdax_pins => pins,
    devdax_split => split,
    devdax_msync => msync,
    devdax_memory_failure => memory_failure,
    devdax_poison => poison,
    devdax_unbind_pinned => unbind_pinned,
    devdax_unbind_killed => unbind_killed,
    devdax_hand_over => hand_over,
    devdax_ndctl => ndctl,
    devdax_unbind_direct => unbind_direct,
};

/// All kinds of mappings: offset of the window, flags.
const KINDS: [(u64, i32); 3] = [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)];

/// Three namespaces: struct pages in memory and on the medium, and with small pages. The first is
/// the one that most tests use.
fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for (n, options) in [
        ["-M", "mem", "-a", "2M", "-s", "256M"],
        ["-M", "dev", "-a", "2M", "-s", "64M"],
        ["-M", "mem", "-a", "4K", "-s", "64M"],
    ]
    .into_iter()
    .enumerate()
    {
        let mut argv = vec!["-m", "devdax"];
        argv.extend_from_slice(&options);
        c.create_namespace(&argv)?;
        let h = Node::nth(c, n)?;
        check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"));
        check!(h.space.nd.starts_with("dax"), "{} is bound", h.space.nd);
        check_eq!(h.attr(c, "page_backed")?, 1, "page_backed");
        check_eq!(h.attr(c, "pinnable")?, 1, "pinnable");
        let align = if options[3] == "2M" { HUGE } else { PAGE } as u64;
        check_eq!(h.attr(c, "huge_page")?, align, "huge_page");
        check_eq!(h.attr(c, "align")?, align, "align");
        // No files by direct access in it; blocks as anywhere.
        check_eq!(c.disk_attr(&h.space.disk, "queue/dax")?, "0", "queue/dax");
        let disk = disk::attr_u64(c, &h.space.disk, "size")? * 512;
        check_eq!(h.attr(c, "size")?, disk, "size");
    }
    let list = c.ok(&["ndctl", "list", "-N"])?;
    check_eq!(list.matches("\"mode\":\"devdax\"").count(), 3, "{list}");
    check_eq!(list.matches("\"state\":\"disabled\"").count(), 0, "{list}");
    Ok(())
}

/// Entries are as large as they can be, wherever a mapping starts, and whatever kind it is of.
fn entries(c: &mut Ctx) -> TestResult {
    for n in [0, 1] {
        let h = Node::nth(c, n)?;
        let f = h.open()?;
        let (huge, page) = (HUGE as u64, PAGE as u64);
        for (offset, len, least, most, size) in [
            (0, 8 * huge, 8, 8, HUGE),
            (4 * huge, 8 * huge, 8, 8, HUGE),
            (page, 8 * huge, 7 + 2, 7 + 16, PAGE),
            (huge - page, 2 * page, 1, 2, PAGE),
            (0, huge - page, 8, 9, PAGE),
        ] {
            for write in [false, true] {
                for (base, flags) in KINDS {
                    let what = format!("{len:#x} at {offset:#x}, write {write}, {flags:#x}");
                    let m = Map::new(&f, base + offset, len as usize, RW, flags)?;
                    if len >= 2 * huge {
                        check_eq!(m.as_ptr() as u64 % huge, offset % huge, "{what}: alignment");
                    }
                    let kib = tools::smaps(c, m.as_ptr() as usize, "KernelPageSize")?;
                    check_eq!(kib, size as u64 / 1024, "{what}: KernelPageSize");
                    let n = faults_for(&m, write);
                    check!((least..=most).contains(&n), "{what}: {n} faults");
                    check_eq!(faults_for(&m, true), 0, "{what}: once more");
                    let rss = tools::smaps(c, m.as_ptr() as usize, "Rss")?;
                    check_eq!(rss, len / 1024, "{what}: Rss");
                    drop(m);
                    // All at once.
                    let populate = flags | libc::MAP_POPULATE;
                    let m = Map::new(&f, base + offset, len as usize, RW, populate)?;
                    check_eq!(faults_for(&m, true), 0, "{what}: populated");
                }
            }
        }
        // By an application that does not want huge pages: device-dax has SIGBUS for it.
        let m = Map::new(&f, 0, 2 * HUGE, RW, SYNC)?;
        m.madvise(libc::MADV_NOHUGEPAGE)?;
        check_eq!(faults_for(&m, true), 2 * 512 / 64, "MADV_NOHUGEPAGE");
        // For once, entries can be dropped.
        m.madvise(libc::MADV_DONTNEED)?;
        check_eq!(faults_for(&m, true), 2 * 512 / 64, "MADV_DONTNEED");
        for advice in [libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE] {
            let m = Map::new(&f, 0, 3 * HUGE + PAGE, RW, MAP_SHARED)?;
            m.madvise(advice)?;
            check_eq!(faults_for(&m, true), 0, "madvise {advice}");
        }
    }
    Ok(())
}

/// A namespace with small pages.
fn small(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 2)?;
    let f = h.open()?;
    for (base, flags) in KINDS {
        let m = Map::new(&f, base, 4 * HUGE, RW, flags)?;
        check_eq!(faults_for(&m, true), 4 * 512 / 64, "{flags:#x}");
        let kib = tools::smaps(c, m.as_ptr() as usize, "KernelPageSize")?;
        check_eq!(kib, 4, "KernelPageSize");
    }
    Ok(())
}

/// On a device for which device-dax would make entries of 1 GiB: Linux can neither move nor zap those of
/// folios safely.
fn gigantic(c: &mut Ctx) -> TestResult {
    const GIB: usize = 1 << 30;
    c.init_labels()?;
    c.create_namespace(&["-m", "devdax", "-M", "mem", "-a", "1G", "-s", "3G"])?;
    let h = Node::nth(c, 0)?;
    check_eq!(h.attr(c, "align")?, HUGE as u64, "align");
    check_eq!(h.attr(c, "huge_page")?, HUGE as u64, "huge_page");
    let f = h.open()?;
    let m = Map::new(&f, 0, GIB, RW, SYNC)?;
    check_eq!(m.as_ptr() as usize % HUGE, 0, "alignment");
    check_eq!(faults_for(&m, true), (GIB / HUGE) as i64, "one GiB");
    let kib = tools::smaps(c, m.as_ptr() as usize, "KernelPageSize")?;
    check_eq!(kib, 2 << 10, "KernelPageSize");
    check!(tools::uring_register(m.as_ptr(), 4 * HUGE).is_ok(), "pin");
    // A hole: what is around it is mapped again, by the page.
    // SAFETY: a part of our mapping.
    let r = unsafe { libc::munmap(m.as_ptr().add(HUGE).cast(), PAGE) };
    check_eq!(r, 0);
    m.write8(3 * HUGE, 8);
    m.write8(HUGE + PAGE, 9);
    drop(m);
    let m = Map::new(&f, PAGE as u64, 4 * HUGE, RW, MAP_SHARED)?;
    check_eq!(m.read8(3 * HUGE - PAGE), 8);
    check_eq!(m.read8(HUGE), 9);
    drop(m);
    // Not by this thread: the kernel ends its ring, and so the pins, on its way back to user space.
    let nd = h.space.nd.clone();
    let unbind = tools::unbind_beside(nd);
    check!(unbind.join().unwrap_or(false), "unbind");
    h.space.bind(c)
}

/// get_user_pages works: for a moment, for long, for direct I/O.
fn pins(c: &mut Ctx) -> TestResult {
    let other = Node::nth(c, 1)?;
    let dev = disk::direct(&other.space.dev())?;
    let mut want = disk::Buf::page(2 * HUGE);
    let buffer = tools::anonymous(HUGE)?;
    for n in [0, 2] {
        disk::fill(&dev, 31, 0, 2 * HUGE as u64)?;
        dev.read_exact_at(want.bytes_mut(), 0)?;
        let h = Node::nth(c, n)?;
        let f = h.open()?;
        for (base, flags) in KINDS {
            for len in [2 * HUGE, HUGE - PAGE] {
                for touched in [false, true] {
                    let what = format!("namespace {n}, {flags:#x}, {len:#x}, touched {touched}");
                    let m = Map::new(&f, base, len, RW, flags)?;
                    if touched {
                        m.write8(0, 1);
                        m.write8(PAGE, 1);
                    }
                    let p = m.as_ptr();
                    let done = tools::pread_raw(&dev, p, len, 0)?;
                    check_eq!(done, len, "{what}: O_DIRECT read into it");
                    check!(m.slice() == &want.bytes()[..len], "{what}: bytes");
                    let done = tools::pwrite_raw(&dev, p, len, 0)?;
                    check_eq!(done, len, "{what}: O_DIRECT write from it");
                    let mine = std::process::id() as i32;
                    for write in [false, true] {
                        let done = tools::process_vm(mine, p, buffer.as_ptr(), PAGE, write)?;
                        check_eq!(done, PAGE, "{what}: process_vm, write {write}");
                    }
                    check_eq!(tools::vmsplice(p, PAGE)?, PAGE, "{what}: vmsplice");
                    tools::futex_wake_shared(p)?;
                    tools::uring_register(p, len)
                        .map_err(|e| format!("{what}: io_uring buffers: {e}"))?;
                    let mem = File::options()
                        .read(true)
                        .write(true)
                        .open("/proc/self/mem")?;
                    mem.write_all_at(&[0x42; 3 * PAGE], p as u64 + 100)?;
                    check!(
                        m.slice()[100..100 + 3 * PAGE].iter().all(|b| *b == 0x42),
                        "{what}: mem"
                    );
                }
            }
        }
        // One that may not be written to.
        let ro = File::open(&h.path)?;
        let m = Map::new(&ro, 0, HUGE, PROT_READ, MAP_SHARED)?;
        check_eq!(
            errno(&tools::pread_raw(&dev, m.as_ptr(), PAGE, 0)),
            libc::EFAULT,
            "O_DIRECT read into a read-only one"
        );
        check_eq!(
            errno(&tools::uring_register(m.as_ptr(), PAGE)),
            libc::EFAULT,
            "io_uring buffers in a read-only one"
        );
        check_eq!(tools::pwrite_raw(&dev, m.as_ptr(), PAGE, 0)?, PAGE);
    }
    Ok(())
}

/// A huge entry that a call cuts is mapped again in small ones; nothing is lost or left behind.
fn split(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    disk::fill(&dev, 32, 0, 4 * HUGE as u64)?;
    let mut want = disk::Buf::page(4 * HUGE);
    dev.read_exact_at(want.bytes_mut(), 0)?;
    for (base, flags) in KINDS {
        let map = || -> TestResult<Map> {
            let m = Map::new(&f, base, 4 * HUGE, RW, flags)?;
            check_eq!(faults_for(&m, false), 4);
            Ok(m)
        };
        let same = |m: &Map, but: std::ops::Range<usize>| {
            (0..4 * HUGE)
                .step_by(PAGE)
                .filter(|at| !but.contains(at))
                .all(|at| m.read8(at + 5) == want.bytes()[at + 5])
        };
        let hole = HUGE + 7 * PAGE..HUGE + 9 * PAGE;
        let start = |m: &Map| m.as_ptr().wrapping_add(hole.start).cast();
        // SAFETY: parts of our mapping, and no reference into it.
        unsafe {
            let m = map()?;
            check_eq!(libc::munmap(start(&m), hole.len()), 0);
            check!(same(&m, hole.clone()), "munmap");
            let m = map()?;
            check_eq!(libc::mprotect(start(&m), hole.len(), PROT_READ), 0);
            check!(same(&m, 0..0), "mprotect");
            let killed = sys::caught(|| {
                m.write8(hole.start, 1);
                0
            })?;
            check!(
                matches!(killed, Caught::Fault(f) if f.signal == libc::SIGSEGV),
                "{killed:?}"
            );
            let m = map()?;
            let room = tools::anonymous(hole.len())?;
            let to = libc::mremap(
                start(&m),
                hole.len(),
                hole.len(),
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                room.as_ptr(),
            );
            check!(to != libc::MAP_FAILED, "mremap");
            check!(same(&m, hole.clone()), "mremap");
            check!(
                room.slice() == &want.bytes()[hole.clone()],
                "what was moved"
            );
            drop(room);
            // It cannot grow.
            let m = map()?;
            let r = libc::mremap(m.as_ptr().cast(), 4 * HUGE, 5 * HUGE, libc::MREMAP_MAYMOVE);
            check!(r == libc::MAP_FAILED, "mremap to more");
        }
    }
    check_eq!(h.mappings(c)?, 0, "mappings");
    drop((f, dev));
    // Would wait for any reference that was lost.
    h.space.unbind(c)?;
    h.space.bind(c)
}

/// What could have been stored to is written back: by the unit, for as long as anybody can.
fn msync(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let wb = Probe::own(c, "daxwb", "arch_wb_cache_pmem size=$arg2:u64")?;
    let flush = Probe::own(c, "daxmsync", "nvdimm_flush")?;
    let written = || -> TestResult<usize> {
        let sum = wb.values(c, "size")?.iter().sum::<u64>();
        wb.restart()?;
        Ok(sum as usize)
    };
    f.sync_all()?;
    for (base, flags) in KINDS {
        f.sync_all()?;
        written()?;
        let m = Map::new(&f, base, 4 * HUGE, RW, flags)?;
        flush.restart()?;
        m.msync()?;
        check!(flush.count(c)? >= 1, "each msync ends with a flush");
        check_eq!(written()?, 0, "nothing stored");
        m.write8(HUGE + 5, 1);
        m.msync()?;
        check_eq!(written()?, HUGE, "one unit");
        m.write8(HUGE + 6, 1);
        f.sync_all()?;
        check_eq!(written()?, HUGE, "and again");
        // Pinned, and then not mapped any more: the ring can go on writing.
        let ring = Ring::new().map_err(|e| format!("io_uring: {e}"))?;
        check_eq!(ring.register(m.as_ptr().wrapping_add(HUGE), PAGE), 0);
        drop(m);
        f.sync_all()?;
        check_eq!(written()?, HUGE, "pinned");
        f.sync_all()?;
        check_eq!(written()?, HUGE, "pinned, again");
        drop(ring);
        c.wait_for("the end of the ring", || {
            f.sync_all().is_ok() && written().is_ok_and(|n| n == 0)
        })?;
        // One that cannot be written leaves no trace.
        let ro = File::open(&h.path)?;
        let m = Map::new(&ro, base, HUGE, PROT_READ, flags)?;
        faults_for(&m, false);
        f.sync_all()?;
        check_eq!(written()?, 0, "only read");
    }
    Ok(())
}

/// memory_failure() reaches those who have the page in a mapping, by its one place in the address
/// space, whichever window they have mapped.
fn memory_failure(c: &mut Ctx) -> TestResult {
    for (n, lsb) in [(0, 21), (2, 12)] {
        let h = Node::nth(c, n)?;
        let phys = h.resource(c)?;
        for (i, (base, flags)) in KINDS.into_iter().enumerate() {
            let f = h.open()?;
            // Another page each time: it stays poisoned.
            let page = (2 + i) * HUGE + 9 * PAGE;
            // It has been mapped in all other ways before.
            for (other, flags) in KINDS.into_iter().filter(|kind| *kind != (base, flags)) {
                Map::new(&f, other + page as u64, PAGE, RW, flags)?.write8(0, 1);
            }
            let with = Map::new(&f, base + HUGE as u64, 8 * HUGE, RW, flags)?;
            let at = page - HUGE;
            let got = sys::caught(|| {
                with.write8(at, 1);
                let told = std::fs::write(
                    "/sys/devices/system/memory/hard_offline_page",
                    format!("{:#x}", phys + page as u64),
                );
                u8::from(told.is_ok())
            })?;
            match got {
                Caught::Fault(got) => check_eq!(
                    (got.signal, got.addr_lsb),
                    (libc::SIGBUS, lsb),
                    "namespace {n}, {flags:#x}"
                ),
                other => fail!("namespace {n}, {flags:#x}: {other:?}"),
            }
        }
        // The struct pages are new ones.
        h.space.unbind(c)?;
        h.space.bind(c)?;
    }
    Ok(())
}

/// The kernel takes a page that a machine check was for out of its own map, and marks the first one of
/// the folio. A write that clears the poison can reach it again, and the mark goes with the last bad
/// page. (What QEMU reports is a deferred error, as AMD's memory controllers do.)
fn poison(c: &mut Ctx) -> TestResult {
    /// As in the fixture.
    const FOLIO: u64 = 0x2060_0000;
    c.create_namespace(&["-f", "-e", "namespace0.0", "-m", "devdax", "-M", "mem"])?;
    let h = Node::new(c)?;
    let start = FOLIO - h.resource(c)?;
    let f = h.open()?;
    // memory_failure() handles what has been mapped.
    Map::new(&f, start, HUGE, RW, SYNC)?.write8(0, 1);
    drop(f);
    let dev = disk::direct(&h.space.dev())?;
    disk::fill(&dev, 35, start, HUGE as u64)?;

    // No file shows the flags of such pages: what is seen is how often a mark goes.
    let unmarked = Probe::new(
        c,
        "daxunmark",
        "rpmem_helper_test_and_clear_hwpoison%return was=$retval:s32",
    )?;
    let marked = || -> TestResult<bool> { Ok(unmarked.values(c, "was")?.iter().sum::<u64>() == 0) };
    let page = |n: u64| start + n * PAGE as u64;
    let read = |n| errno(&dev.read_exact_at(disk::Buf::page(PAGE).bytes_mut(), page(n)));
    let write = |n, len| {
        let data = disk::Buf::pattern(len, n);
        errno(&dev.write_all_at(data.bytes(), page(n)))
    };
    let taken = Probe::new(c, "daxpoison", "set_mce_nospec%return ret=$retval:s32")?;
    let bad = |n| -> TestResult {
        taken.restart()?;
        c.ask_monitor(&format!("poison-{n}"))?;
        c.wait_for("the machine check", || taken.count(c).is_ok_and(|n| n != 0))?;
        check_eq!(taken.values(c, "ret")?, [0], "page {n} leaves the map");
        // Firmware for this memory tells nobody.
        let sectors = format!("{} 8", page(n) / 512);
        c.write(format!("/sys/block/{}/badblocks", h.space.disk), &sectors)
    };
    // Banks are read as often as that.
    let interval = "/sys/devices/system/machinecheck/machinecheck0/check_interval";
    c.write(interval, "1")?;

    bad(5)?;
    bad(9)?;
    check_eq!((read(4), read(6)), (0, 0), "their neighbours");
    check_eq!(write(5, PAGE), 0, "a write to the first bad page");
    check_eq!(read(5), 0, "it can be read");
    check!(marked()?, "another page is bad");
    // Less than a page: the rest of it stays bad.
    check_eq!(write(9, 512), 0, "a write to a part of the second one");
    check_eq!(read(9), libc::EIO, "the rest of it");
    check!(marked()?, "and so is the page");
    check_eq!(write(9, PAGE), 0, "a write to all of it");
    check!(!marked()?, "none is bad");
    for n in [5, 9] {
        let mut data = disk::Buf::page(PAGE);
        dev.read_exact_at(data.bytes_mut(), page(n))?;
        check_eq!(sys::pattern_differs(n, data.bytes()), None, "page {n}");
    }
    Ok(())
}

/// Unbinding waits for those who have pinned pages, tells them, and says in the log for whom.
fn unbind_pinned(c: &mut Ctx) -> TestResult {
    let signal = libc::SIGRTMIN() + 1;
    sys::block_signals(&[signal]);
    for mapped in [false, true] {
        let h = Node::nth(c, 0)?;
        c.mark_dmesg();
        let dev = disk::direct(&h.space.dev())?;
        disk::fill(&dev, 33, 0, HUGE as u64)?;
        drop(dev);
        let f = h.open()?;
        let peer = Peer::start(|l| {
            let Ok(m) = Map::new(&f, 0, 2 * HUGE, RW, MAP_SHARED) else {
                return 1;
            };
            let Ok(ring) = Ring::new() else {
                return 2;
            };
            if ring.register(m.as_ptr(), 2 * HUGE) != 0 {
                return 3;
            }
            let m = mapped.then_some(m);
            l.say();
            l.hear();
            drop((m, ring));
            l.say();
            l.hear();
            0
        })?;
        peer.hear()?;
        sys::signal_events(&f, std::process::id() as i32, signal)?;
        let nd = h.space.nd.clone();
        let unbind = tools::unbind_beside(nd);
        // The memory has gone from mappings, and there is notice.
        check_eq!(
            sys::poll(&f, POLLPRI, FOREVER)? & POLLPRI,
            POLLPRI,
            "notice, mapped {mapped}"
        );
        check!(
            sys::next_signal(&[signal], true)?.is_some(),
            "a signal, mapped {mapped}"
        );
        c.wait_for("a message", || {
            c.dmesg_has("waiting for pinned pages").is_ok()
        })?;
        check!(!unbind.is_finished(), "unbound in spite of pins");
        check_eq!(errno(&Map::new(&f, 0, PAGE, RW, SYNC)), libc::ENXIO, "mmap");
        peer.say();
        peer.hear()?;
        c.wait_for("the unbind", || unbind.is_finished())?;
        check!(unbind.join().unwrap_or(false), "unbind");
        drop((peer, f));
        h.space.bind(c)?;
        let h = Node::nth(c, 0)?;
        let dev = disk::direct(&h.space.dev())?;
        disk::verify(&dev, 33, 0, HUGE as u64)?;
    }
    Ok(())
}

/// A process that pins two large pages of a node until it is told to let go, or does with them what
/// `then` does.
fn pinning(f: &File, then: impl FnOnce() -> i32) -> TestResult<Peer> {
    let peer = Peer::start(|l| {
        let Ok(m) = Map::new(f, 0, 2 * HUGE, RW, MAP_SHARED) else {
            return 1;
        };
        m.write8(HUGE, 1);
        let Ok(ring) = Ring::new() else {
            return 2;
        };
        if ring.register(m.as_ptr(), 2 * HUGE) != 0 {
            return 3;
        }
        // The pins alone: mapping and file would hold the module.
        drop(m);
        // SAFETY: the child's copy, which it does not use any more.
        unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(f)) };
        l.say();
        l.hear();
        then()
    })?;
    peer.hear()?;
    Ok(peer)
}

/// A signal ends the wait for pins, not the need for it: who unbinds what he has pinned himself can be
/// killed, and the memory is held until nobody uses it.
fn unbind_killed(c: &mut Ctx) -> TestResult {
    let unbind = "/sys/bus/nd/drivers/rpmem/unbind";
    let bind = "/sys/bus/nd/drivers/rpmem/bind";
    let waiting = |c: &Ctx| {
        c.wait_for("a message", || {
            c.dmesg_has("waiting for pinned pages").is_ok()
        })
    };
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let h = Node::nth(c, 0)?;
        disk::fill(&disk::direct(&h.space.dev())?, 34, 0, HUGE as u64)?;
        c.mark_dmesg();
        let f = h.open()?;
        let nd = h.space.nd.clone();
        let peer = pinning(&f, || i32::from(std::fs::write(unbind, &nd).is_err()))?;
        peer.say();
        waiting(c)?;
        // SAFETY: no pointers; a child of this process.
        check_eq!(unsafe { libc::kill(peer.pid(), signal) }, 0);
        check_eq!(peer.wait()?, 128 + signal, "the one who has pinned it");
        c.dmesg_has("a signal ends the wait for users of its pages")?;
        c.wait_for("the end of the pins", || {
            c.try_write(bind)(&h.space.nd).is_ok()
        })?;
        drop(f);
        let h = Node::nth(c, 0)?;
        disk::verify(&disk::direct(&h.space.dev())?, 34, 0, HUGE as u64)?;
    }

    // What somebody else has pinned stays reserved, and holds the module, till he lets go.
    let h = Node::nth(c, 0)?;
    c.mark_dmesg();
    let f = h.open()?;
    let peer = pinning(&f, || 0)?;
    let nd = h.space.nd.clone();
    let other = Peer::start(|_| i32::from(std::fs::write(unbind, &nd).is_err()))?;
    waiting(c)?;
    // SAFETY: as above.
    check_eq!(unsafe { libc::kill(other.pid(), libc::SIGKILL) }, 0);
    check_eq!(other.wait()?, 128 + libc::SIGKILL, "the one who unbinds");
    drop(f);
    for _ in 0..2 {
        let got = c.try_write(bind)(&h.space.nd);
        check_eq!(errno(&got), libc::EBUSY, "bind");
        c.dmesg_has("pages are in use since dax0.0 was unbound")?;
    }
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with pinned pages");
    peer.say();
    check_eq!(peer.wait()?, 0, "the one who has pinned it");
    c.wait_for("the end of the pins", || {
        c.try_write(bind)(&h.space.nd).is_ok()
    })?;
    // When udev has looked at the disk.
    Node::nth(c, 0)?;
    c.wait_unused("rpmem")?;
    c.rmmod("rpmem")?;
    c.insmod_rpmem("")?;
    Node::nth(c, 0)?;
    Ok(())
}

/// Direct mappings go on working until they are given back, pins included.
fn unbind_direct(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    c.write(format!("{}/lease_break_time", h.sysfs), "-1")?;
    let f = h.open()?;
    let plain = Map::new(&f, 0, 2 * HUGE, RW, SYNC)?;
    let direct = Map::new(&f, DIRECT_WINDOW, 2 * HUGE, RW, SYNC)?;
    for m in [&plain, &direct] {
        m.write8(0, 1);
        m.write8(HUGE, 1);
    }
    let nd = h.space.nd.clone();
    let unbind = tools::unbind_beside(nd);
    check_eq!(sys::poll(&f, POLLPRI, FOREVER)?, POLLPRI, "notice");
    let gone = |m: &Map| -> TestResult<bool> {
        let end = sys::caught(|| m.read8(0))?;
        Ok(matches!(end, Caught::Fault(f) if f.signal == libc::SIGBUS))
    };
    check!(gone(&plain)?, "an ordinary mapping is revoked at once");
    // What was mapped, what was not, and what can be pinned.
    for at in [0, HUGE, 2 * HUGE - 1] {
        direct.write8(at, 7);
        check_eq!(direct.read8(at), 7);
    }
    tools::uring_register(direct.as_ptr(), HUGE)?;
    check!(!unbind.is_finished(), "unbound in spite of the lease");
    drop(direct);
    c.wait_for("the unbind", || unbind.is_finished())?;
    check!(unbind.join().unwrap_or(false), "unbind");
    check!(gone(&plain)?, "an ordinary mapping, for good");
    drop((plain, f));
    h.space.bind(c)
}

/// ndctl asks for an exclusive open in the other modes only, also of a namespace that dax_pmem has: it takes
/// this one away under its users. What is in it stays, and who asks (rpmem-bind) is told who has it.
fn ndctl(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let ns = h.space.namespace(c)?;
    let f = h.open()?;
    let m = Map::new(&f, 0, HUGE, RW, MAP_SHARED)?;
    m.write8(3, 0x5c);
    f.sync_all()?;
    let out = c.fails(&["rpmem-bind", &ns, "dax_pmem"])?;
    check!(out.contains(&format!("{} is in use by", h.path)), "{out}");
    check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"));
    let r = c.run(&["ndctl", "disable-namespace", &ns])?;
    check_eq!(r.status, 0, "{r}");
    check_eq!(c.bound_to(&h.space.nd), None);
    let caught = sys::caught(|| m.read8(3))?;
    check!(
        matches!(caught, Caught::Fault(f) if f.signal == libc::SIGBUS),
        "{caught:?}"
    );
    drop((m, f));
    c.ok(&["ndctl", "enable-namespace", &ns])?;
    let h = Node::nth(c, 0)?;
    let m = Map::new(&h.open()?, 0, HUGE, RW, SYNC)?;
    check_eq!(m.read8(3), 0x5c);
    Ok(())
}

/// From dax_pmem and back, by the script: the same bytes, and never under somebody who has it mapped.
fn hand_over(c: &mut Ctx) -> TestResult {
    const TOOL: &str = "rpmem-bind";
    c.modprobe("device_dax")?;
    c.modprobe("dax_pmem")?;
    let ns = "namespace0.0";
    for n in 0..2u64 {
        let h = Node::nth(c, 0)?;
        let f = h.open()?;
        let m = Map::new(&f, 0, 4 * HUGE, RW, SYNC)?;
        disk::fill(&disk::direct(&h.space.dev())?, 50 + n, 0, HUGE as u64)?;
        let mut want = disk::Buf::page(HUGE);
        want.bytes_mut().copy_from_slice(&m.slice()[..HUGE]);
        for held in [true, false] {
            let out = c.fails(&[TOOL, ns, "dax_pmem"])?;
            check!(
                out.contains(&format!("{} is in use by", h.path)),
                "held {held}: {out}"
            );
            if held {
                // The mapping alone.
                // SAFETY: the descriptor is not used any more.
                unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(&f)) };
            }
        }
        std::mem::forget(f);
        drop(m);
        check!(
            c.fails(&[TOOL, ns, "nd_pmem"])?.contains("devdax mode"),
            "nd_pmem"
        );
        let out = c.ok(&[TOOL, ns, "dax_pmem"])?;
        check_eq!(out, format!("{ns}: rpmem -> dax_pmem, /dev/dax0.0\n"));
        check!(c
            .ok(&[TOOL])?
            .contains(&format!("{ns} devdax driver=dax_pmem")));
        c.wait_exists("/dev/dax0.0")?;
        let f = tools::open_rw("/dev/dax0.0")?;
        let m = Map::new(&f, 0, 2 * HUGE, RW, MAP_SHARED)?;
        check!(&m.slice()[..HUGE] == want.bytes(), "bytes under dax_pmem");
        m.write8(5, 0x77);
        let out = c.fails(&[TOOL, ns, "rpmem"])?;
        check!(out.contains("/dev/dax0.0 is in use by"), "{out}");
        drop((m, f));
        let out = c.ok(&[TOOL, ns, "rpmem"])?;
        let dev = h.space.dev();
        check_eq!(out, format!("{ns}: dax_pmem -> rpmem, {dev}\n"));
        let h = Node::nth(c, 0)?;
        let m = Map::new(&h.open()?, 0, HUGE, RW, SYNC)?;
        check_eq!(m.read8(5), 0x77, "a byte of the other driver");
        check!(m.slice()[6..] == want.bytes()[6..], "the others");
    }
    Ok(())
}
