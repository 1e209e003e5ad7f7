// SPDX-License-Identifier: GPL-2.0
//! Mappings whose memory goes away: read-only, unbound, failed.

use super::check_sig;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{check_gone, faults, faults_for, Node, DIRECT_WINDOW};
use crate::support::peer::{Peer, GOT_SIGBUS};
use crate::support::sys::{self, Caught, Map, PAGE, RW, SYNC};
use crate::support::tools::{self, errno, HUGE};
use crate::support::uapi;
use crate::{check, check_eq, fail};
use libc::{MAP_SHARED, PROT_READ};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    map_poison_gigantic => poison_gigantic,
    map_read_only => read_only,
    map_unbind => unbind,
    map_unbind_many => unbind_many,
    map_poison => poison,
    map_memory_failure => memory_failure,
};

/// One bad page in a range of 1 GiB: what is left is mapped as large as it can be.
fn poison_gigantic(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let gib = 1usize << 30;
    let bad = 7 * HUGE + 3 * PAGE;
    let phys = h.resource(c)?;
    let m = Map::new(&f, 0, 2 * gib, RW, SYNC)?;
    m.write8(bad, 1);
    tools::inject_mce(c, phys + bad as u64)?;
    c.wait_for("the bad sector", || {
        c.disk_attr(&h.space.disk, "badblocks")
            .is_ok_and(|s| !s.is_empty())
    })?;
    tools::wait_poisoned(c, &m, bad)?;
    // Twice in each huge page, so that each size has its own number of faults.
    let before = faults();
    for at in (0..2 * gib).step_by(HUGE / 2) {
        m.write8(at, 1);
    }
    // 511 huge pages, two pages of the huge page with the bad one, and the second GiB as one entry;
    // and the program's own. With huge pages for the second GiB, or pages for the first: 1024 more
    // or so.
    let n = faults() - before;
    check!((514..530).contains(&n), "{n} faults");
    for at in (7 * HUGE..8 * HUGE).step_by(PAGE).filter(|at| *at != bad) {
        m.write8(at, 1);
    }
    // Entries of 2 MiB that are made for one fault end where it is.
    let m = Map::new(&f, 0, 2 * gib, RW, SYNC)?;
    for (from, done, why) in [
        (0, bad, libc::EHWPOISON),
        (bad + PAGE, 2 * gib - bad - PAGE, 0),
    ] {
        check_eq!(
            uapi::rpmem_prefault(&f, &m, from, (2 * gib - from) as u64, 1),
            (done as u64, why),
            "from {from:#x}"
        );
    }
    Ok(())
}

/// A region that is read-only.
fn read_only(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    check_eq!(
        errno(
            &h.open()
                .map_err(|_| io::Error::from_raw_os_error(libc::EROFS))
        ),
        libc::EROFS
    );
    check_eq!(
        errno(&File::options().read(true).write(true).open(&h.path)),
        libc::EROFS,
        "open for writing"
    );
    check!(
        tools::open_flags(h.space.dev(), libc::O_EXCL).is_ok() || {
            let f = File::open(h.space.dev())?;
            disk::size(&f)? > 0
        },
        "a refused open leaves no claim"
    );
    let f = File::open(&h.path)?;
    for flags in [MAP_SHARED, SYNC] {
        check_eq!(
            errno(&Map::new(&f, 0, PAGE, RW, flags)),
            libc::EACCES,
            "PROT_WRITE"
        );
        let m = Map::new(&f, 0, 2 * HUGE, PROT_READ, flags)?;
        check_eq!(faults_for(&m, false), tools::faults_without_pages(2));
        // SAFETY: our mapping.
        let r = unsafe { libc::mprotect(m.as_ptr().cast(), PAGE, RW) };
        check_eq!(
            (r, io::Error::last_os_error().raw_os_error()),
            (-1, Some(libc::EACCES))
        );
        check_sig(&m, 5, libc::SIGSEGV, "read-only")?;
    }
    Ok(())
}

fn unbind(c: &mut Ctx) -> TestResult {
    // Nobody gives the lease of direct mappings back: see t_lease.
    std::fs::write("/proc/sys/fs/lease-break-time", "0")?;
    let h = Node::new(c)?;
    for _ in 0..3 {
        let f = h.open()?;
        let plain = Map::new(&f, 0, 2 * HUGE, RW, MAP_SHARED)?;
        let sync = Map::new(&f, 0, 2 * HUGE, RW, SYNC)?;
        let direct = Map::new(&f, DIRECT_WINDOW, 2 * HUGE, RW, SYNC)?;
        for m in [&plain, &sync, &direct] {
            m.write8(0, 1);
            m.write8(HUGE, 1);
        }
        h.space.unbind(c)?;
        c.wait_gone(&h.path)?;
        for m in [&plain, &sync, &direct] {
            for at in [0, PAGE, HUGE, 2 * HUGE - 1] {
                check_gone(m, at)?;
            }
            check_eq!(errno(&m.msync()), libc::EIO, "msync");
        }
        check_eq!(errno(&Map::new(&f, 0, PAGE, RW, SYNC)), libc::ENXIO, "mmap");
        check_eq!(errno(&f.sync_all()), libc::EIO, "fsync");
        let mem = File::open("/proc/self/mem")?;
        check_eq!(
            errno(&mem.read_at(&mut [0], plain.as_ptr() as u64)),
            libc::EIO,
            "mem"
        );
        check_eq!(
            uapi::rpmem_prefault(&f, &sync, 0, PAGE as u64, 1),
            (0, libc::EFAULT),
            "prefault"
        );

        // The namespace is free for others, and for us again; what is left stays dead.
        h.space.bind(c)?;
        let again = Node::new(c)?;
        check_eq!(again.mappings(c)?, 0);
        let g = again.open()?;
        let fresh = Map::new(&g, 0, 2 * HUGE, RW, SYNC)?;
        fresh.write8(0, 9);
        for m in [&plain, &sync, &direct] {
            check_gone(m, 0)?;
        }
        drop((plain, sync, direct, f));
        check_eq!(fresh.read8(0), 9);
        // The module stays as long as any of it lives.
        drop(fresh);
        drop(g);
    }
    let f = h.open()?;
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with an open file");
    let m = Map::new(&f, 0, PAGE, RW, SYNC)?;
    drop(f);
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with a mapping");
    h.space.unbind(c)?;
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with a dead mapping");
    drop(m);
    c.rmmod("rpmem")?;
    c.insmod_rpmem("")?;
    Node::new(c)?.open()?;
    Ok(())
}

/// Many mappings in many processes, that fault all the time.
fn unbind_many(c: &mut Ctx) -> TestResult {
    const PROCESSES: usize = 8;
    const EACH: usize = 125;
    let h = Node::new(c)?;
    let size = h.attr(c, "size")?;
    std::fs::write("/proc/sys/fs/lease-break-time", "0")?;
    for round in 0..c.rounds(4, 200) as usize {
        let f = h.open()?;
        let mut peers = Vec::new();
        for n in 0..PROCESSES {
            let seed = (round * PROCESSES + n) as u64;
            peers.push(Peer::start(|l| {
                let mut x = seed | (1 << 40);
                let mut random = || {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    x
                };
                let mut maps = Vec::new();
                for _ in 0..EACH {
                    let pages = 1 + random() % 1500;
                    let at = random() % (size / 4096 - pages) * 4096;
                    let (base, flags) =
                        [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)][random() as usize % 3];
                    match Map::new(&f, base + at, (pages * 4096) as usize, RW, flags) {
                        Ok(m) => maps.push(m),
                        Err(_) => return 1,
                    }
                }
                l.say();
                loop {
                    let m = &maps[random() as usize % EACH];
                    let at = random() as usize % m.len();
                    if random() % 4 == 0 {
                        m.write8(at, 1);
                    } else {
                        m.read8(at);
                    }
                    if random() % 256 == 0 && m.msync().is_err() {
                        // The device has gone; what was mapped goes at any moment.
                        loop {
                            m.read8(at);
                        }
                    }
                }
            })?);
        }
        for p in &peers {
            p.hear()?;
        }
        check_eq!(h.mappings(c)?, (PROCESSES * EACH) as u64, "mappings");
        h.space.unbind(c)?;
        for p in peers {
            check_eq!(p.wait()?, GOT_SIGBUS, "round {round}: end of a process");
        }
        drop(f);
        h.space.bind(c)?;
        c.wait_exists(&h.path)?;
    }
    Ok(())
}

/// A machine check in the medium, which the kernel is told of (mce-inject): the bus learns of bad
/// sectors.
fn poison(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let bad = HUGE + 5 * PAGE;
    let phys = h.resource(c)?;
    let maps: Vec<Map> = [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)]
        .into_iter()
        .map(|(base, flags)| Map::new(&f, base, 4 * HUGE, RW, flags))
        .collect::<io::Result<_>>()?;
    for m in &maps {
        faults_for(m, true);
    }
    tools::inject_mce(c, phys + bad as u64)?;
    c.wait_for("the bad sector", || {
        c.disk_attr(&h.space.disk, "badblocks")
            .is_ok_and(|s| !s.is_empty())
    })?;
    for m in &maps {
        tools::wait_poisoned(c, m, bad + 77)?;
        check_sig(m, bad, libc::SIGBUS, "a store")?;
        // The neighbours are there, as small pages; the others as they were.
        for at in (HUGE..2 * HUGE).step_by(PAGE).filter(|at| *at != bad) {
            m.write8(at, 1);
        }
    }
    // A new mapping: huge where there is no poison.
    let m = Map::new(&f, 0, 4 * HUGE, RW, SYNC)?;
    let before = faults();
    for at in (0..4 * HUGE).step_by(PAGE).filter(|at| *at != bad) {
        m.write8(at, 1);
    }
    let n = faults() - before;
    let others = tools::faults_without_pages(3);
    check!((others + 8..=others + 8 + 64).contains(&n), "{n} faults");
    let done = uapi::rpmem_prefault(&f, &m, 0, 4 * HUGE as u64, 1);
    check_eq!(done, (bad as u64, libc::EHWPOISON), "prefault");
    let mem = File::open("/proc/self/mem")?;
    let at = m.as_ptr() as u64 + bad as u64;
    check_eq!(errno(&mem.read_at(&mut [0], at)), libc::EIO, "mem");
    Ok(())
}

/// memory_failure() on a page-less pfn reaches those who have mapped it.
fn memory_failure(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let phys = h.resource(c)?;
    let page = 3 * HUGE + 9 * PAGE;
    for (base, flags) in [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)] {
        // One that has the page, and one that has others.
        let with = Map::new(&f, base + HUGE as u64, 4 * HUGE, RW, flags)?;
        let without = Map::new(&f, base, HUGE, RW, flags)?;
        let at = page - HUGE;
        let child = |m: &Map, at: usize| -> TestResult<Caught> {
            Ok(sys::caught(|| {
                m.write8(at, 1);
                let told = std::fs::write(
                    "/sys/devices/system/memory/hard_offline_page",
                    format!("{:#x}", phys + page as u64),
                );
                u8::from(told.is_ok())
            })?)
        };
        match child(&with, at)? {
            Caught::Fault(got) => check_eq!(
                (got.signal, got.addr, got.addr_lsb),
                (libc::SIGBUS, with.as_ptr() as usize + at, 12),
                "who has mapped it"
            ),
            other => fail!("who has mapped it: {other:?}"),
        }
        drop(with);
        check!(
            matches!(child(&without, 0)?, Caught::Returned(_)),
            "who has mapped other pages"
        );
    }
    Ok(())
}
