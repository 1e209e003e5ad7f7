// SPDX-License-Identifier: GPL-2.0
//! RPMEM_PREFAULT.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::{faults_for, Node, DIRECT_WINDOW};
use crate::support::sys::{self, Caught, Map, PAGE, RW, SYNC};
use crate::support::tools::{self, HUGE};
use crate::support::uapi;
use crate::{check, check_eq};
use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
use std::io;

pub const TESTS: &[Test] = crate::tests! {
    map_prefault => prefault,
    map_prefault_huge => prefault_huge,
    map_prefault_rights => prefault_rights,
};

fn prefault(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let len = 3 * HUGE;
    for (what, offset, flags, write) in [
        ("sync", 0, SYNC, true),
        ("sync, not aligned", 5 * PAGE as u64, SYNC, true),
        ("sync, read", PAGE as u64, SYNC, false),
        ("plain", 0, MAP_SHARED, true),
        ("direct", DIRECT_WINDOW, SYNC, true),
    ] {
        let m = Map::new(&f, offset, len, RW, flags)?;
        let done = uapi::rpmem_prefault(&f, &m, 0, len as u64, u32::from(write));
        check_eq!(done, (len as u64, 0), "{what}");
        check_eq!(faults_for(&m, write), 0, "{what}: faults afterwards");
        // Again is no error.
        let done = uapi::rpmem_prefault(&f, &m, 0, len as u64, u32::from(write));
        check_eq!(done, (len as u64, 0), "{what}: again");
    }
    // Units that were prefaulted for stores take them by one fault each, until they are written back.
    f.sync_all()?;
    let m = Map::new(&f, 0, len, RW, MAP_SHARED)?;
    check_eq!(
        uapi::rpmem_prefault(&f, &m, 0, len as u64, 0),
        (len as u64, 0)
    );
    check_eq!(faults_for(&m, false), 0, "plain, read");
    // Where pages can be pinned, stores are not tracked one by one.
    let tracked = h.attr(c, "pinnable")? == 0;
    check_eq!(faults_for(&m, true) != 0, tracked, "and then stored to");

    let ro = Map::new(&f, 0, len, PROT_READ, SYNC)?;
    let (page, all) = (PAGE as u64, len as u64);
    for (what, m, offset, len, flags, want) in [
        ("an unknown flag", &m, 0, page, 2, (0, libc::EINVAL)),
        ("half a page", &m, 0, 100, 0, (0, libc::EINVAL)),
        ("no address of a page", &m, 100, page, 0, (0, libc::EINVAL)),
        ("nothing", &m, 0, 0, 0, (0, 0)),
        (
            "stores to a read-only one",
            &ro,
            0,
            page,
            1,
            (0, libc::EFAULT),
        ),
        ("reads of a read-only one", &ro, 0, all, 0, (all, 0)),
    ] {
        check_eq!(
            uapi::rpmem_prefault(&f, m, offset, len, flags),
            want,
            "{what}"
        );
    }
    // What cannot be is not begun: large entries are still possible.
    let ro = Map::new(&f, 0, len, PROT_READ, SYNC)?;
    for at in (0..len).step_by(HUGE) {
        let done = uapi::rpmem_prefault(&f, &ro, at, page, 1);
        check_eq!(done, (0, libc::EFAULT), "stores at {at:#x}");
    }
    check_eq!(faults_for(&ro, false), (len / HUGE) as i64, "and then read");
    // Over the end of a mapping, and memory of others.
    // SAFETY: a part of our mapping.
    unsafe { libc::munmap(m.as_ptr().add(HUGE).cast(), PAGE) };
    check_eq!(
        uapi::rpmem_prefault(&f, &m, 0, len as u64, 0),
        (HUGE as u64, libc::ENOMEM),
        "a hole"
    );
    let other = tools::anonymous(HUGE)?;
    check_eq!(
        uapi::rpmem_prefault(&f, &other, 0, page, 0),
        (0, libc::EINVAL),
        "memory of others"
    );
    Ok(())
}

/// Many entries of 2 MiB: on both sides of an end of a table of them, with one page table in front of them and one
/// behind; and none where the user wants none, though one is there already.
fn prefault_huge(c: &mut Ctx) -> TestResult {
    const UNITS: usize = 100;
    const PMDS: usize = 1 << 30;
    let h = Node::new(c)?;
    let f = h.open()?;
    let room = tools::anonymous(2 * PMDS)?;
    // 30 units in front of the end of a table, less a page, and the rest behind it.
    let end = (room.as_ptr() as usize + 31 * HUGE).next_multiple_of(PMDS);
    let at = end - 30 * HUGE - PAGE;
    drop(room);
    let len = PAGE + UNITS * HUGE + PAGE;
    for (flags, write) in [
        (SYNC, true),
        (SYNC, false),
        (MAP_SHARED, true),
        (MAP_SHARED, false),
    ] {
        let what = format!("{flags:#x}, write {write}");
        let m = Map::near(at, &f, (HUGE - PAGE) as u64, len, RW, flags)?;
        check_eq!(m.as_ptr() as usize, at, "{what}: where there was room");
        let before = sys::page_tables()?;
        let done = uapi::rpmem_prefault(&f, &m, 0, len as u64, u32::from(write));
        check_eq!(done, (len as u64, 0), "{what}");
        // Two of PTEs, and of PMDs at most as many; not one for each unit.
        let tables = (sys::page_tables()? - before) / PAGE as u64;
        check!((2..=4).contains(&tables), "{what}: {tables} page tables");
        check_eq!(faults_for(&m, write), 0, "{what}: faults afterwards");
        f.sync_all()?;
    }
    let m = Map::near(at, &f, (HUGE - PAGE) as u64, len, RW, SYNC)?;
    m.write8(PAGE, 1);
    // SAFETY: our mapping.
    let advised = unsafe { libc::madvise(m.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) };
    check_eq!(advised, 0);
    let before = sys::page_tables()?;
    let done = uapi::rpmem_prefault(&f, &m, PAGE, (UNITS * HUGE) as u64, 1);
    check_eq!(
        done,
        ((UNITS * HUGE) as u64, 0),
        "advised against huge pages"
    );
    let tables = (sys::page_tables()? - before) / PAGE as u64;
    check!(
        tables >= UNITS as u64 - 1,
        "advised against huge pages: {tables} page tables"
    );
    Ok(())
}

/// Rights are taken away by all means that there are, for the range and for this thread, before and
/// meanwhile: the call comes to an end, with what it says done.
fn prefault_rights(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let (len, all) = (2 * HUGE + 3 * PAGE, (2 * HUGE + 3 * PAGE) as u64);
    for flags in [SYNC, MAP_SHARED] {
        let m = Map::new(&f, 0, len, RW, flags)?;
        let protect = |prot: i32, key: i64| {
            // SAFETY: our mapping, and no reference into it.
            unsafe { libc::syscall(libc::SYS_pkey_mprotect, m.as_ptr(), len, prot, key) }
        };
        let prefault = |write| uapi::rpmem_prefault(&f, &m, 0, all, write);
        for (prot, read, write) in [
            (libc::PROT_NONE, (0, libc::EFAULT), (0, libc::EFAULT)),
            (PROT_READ, (all, 0), (0, libc::EFAULT)),
            (PROT_WRITE, (0, libc::EFAULT), (all, 0)),
            (libc::PROT_EXEC, (0, libc::EFAULT), (0, libc::EFAULT)),
            (RW, (all, 0), (all, 0)),
        ] {
            check_eq!(protect(prot, -1), 0);
            check_eq!(
                (prefault(0), prefault(1)),
                (read, write),
                "rights {prot:#x}"
            );
        }
        // Protection keys are for the accesses of a thread, which may get the right at any time.
        for rights in [1, 2] {
            // SAFETY: no pointers.
            let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, rights) };
            if key < 0 {
                println!("no protection keys: {}", io::Error::last_os_error());
                continue;
            }
            let m = Map::new(&f, 0, len, RW, flags)?;
            // SAFETY: as above.
            let r = unsafe { libc::syscall(libc::SYS_pkey_mprotect, m.as_ptr(), len, RW, key) };
            check_eq!(r, 0, "pkey_mprotect");
            for write in [0, 1] {
                let done = uapi::rpmem_prefault(&f, &m, 0, all, write);
                check_eq!(done, (all, 0), "rights {rights} of a key, write {write}");
            }
            let denied = sys::caught(|| {
                m.write8(PAGE, 1);
                0
            })?;
            check!(
                matches!(denied, Caught::Fault(f) if f.signal == libc::SIGSEGV),
                "a store: {denied:?}"
            );
            // SAFETY: as above; nothing has the key any more.
            unsafe {
                libc::syscall(libc::SYS_pkey_mprotect, m.as_ptr(), len, RW, 0);
                libc::syscall(libc::SYS_pkey_free, key);
            }
            check_eq!(faults_for(&m, true), 0, "with the right");
        }
    }
    // Somebody takes away at full speed what is made, where that is allowed, and rights.
    let m = Map::new(&f, 0, len, RW, SYNC)?;
    let (start, stop) = (
        m.as_ptr() as usize,
        std::sync::atomic::AtomicBool::new(false),
    );
    std::thread::scope(|s| -> TestResult {
        let other = s.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // SAFETY: our mapping, which outlives the scope, and no reference into it.
                unsafe {
                    let at = start as *mut libc::c_void;
                    libc::madvise(at, len, libc::MADV_DONTNEED);
                    libc::mprotect(at, len, PROT_READ);
                    libc::mprotect(at, len, RW);
                }
            }
        });
        let mut ends = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let (done, err) = uapi::rpmem_prefault(&f, &m, 0, all, 1);
            ends.insert(err);
            check!(
                done <= all && (done == all) == (err == 0),
                "{done} bytes, {err}"
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        check!(other.join().is_ok(), "the other thread");
        println!("ends: {ends:?}");
        let known = [0, libc::EFAULT, libc::EAGAIN];
        check!(ends.iter().all(|e| known.contains(e)), "ends: {ends:?}");
        Ok(())
    })
}
