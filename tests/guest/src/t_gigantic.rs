// SPDX-License-Identifier: GPL-2.0
//! Entries of 1 GiB, cut, moved and shared: what Linux itself does with them is not enough.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::{faults_for, Node, DIRECT_WINDOW};
use crate::support::sys::{self, Caught, Map, PAGE, RW, SYNC};
use crate::support::tools::{self, HUGE};
use crate::{check, check_eq};
use libc::{c_void, MAP_SHARED, PROT_READ};
use std::sync::atomic::{AtomicBool, Ordering};

pub const TESTS: &[Test] = crate::tests! {
    map_gigantic_cuts => cuts,
    map_gigantic_moves => moves,
    map_gigantic_fork => fork,
    map_gigantic_races => races,
    upstream_mremap_gigantic => upstream_mremap,
};

const GIB: usize = 1 << 30;

/// A mapping with one entry of 1 GiB, and what is in its pages.
struct Whole {
    map: Map,
    seed: u8,
}

/// Pages that are looked at, as offsets.
const PLACES: [usize; 7] = [
    0,
    PAGE,
    HUGE - PAGE,
    HUGE,
    GIB / 2 + 5 * PAGE,
    GIB - HUGE,
    GIB - PAGE,
];

impl Whole {
    fn new(h: &Node, base: u64, seed: u8) -> TestResult<Whole> {
        let map = Map::new(&h.open()?, base, GIB, RW, SYNC)?;
        check_eq!(map.as_ptr() as usize % GIB, 0, "alignment");
        check_eq!(faults_for(&map, true), 1, "one entry");
        for (n, at) in PLACES.iter().enumerate() {
            map.write8(*at, seed + n as u8);
        }
        Ok(Whole { map, seed })
    }

    /// What is mapped at `base` has the bytes that belong there, but for the pages in `gone`.
    fn check(&self, what: &str, base: *mut u8, gone: &[usize]) -> TestResult {
        for (n, at) in PLACES.iter().enumerate() {
            let got = sys::caught(|| {
                // SAFETY: a byte of a mapping, or a fault that is caught.
                unsafe { base.wrapping_add(*at).read_volatile() }
            })?;
            if gone.contains(at) {
                let fault = matches!(got, Caught::Fault(f) if f.signal == libc::SIGSEGV);
                check!(fault, "{what}: {at:#x}: {got:?}");
            } else {
                check_eq!(
                    got,
                    Caught::Returned(self.seed + n as u8),
                    "{what}: {at:#x}"
                );
            }
        }
        Ok(())
    }
}

/// Each way in which a VMA is cut, at the first, a middle and the last page of the entry.
fn cuts(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    type Cut = fn(*mut c_void) -> bool;
    // SAFETY: all of them: a page of a mapping of ours.
    let ways: [(&str, Cut, bool); 7] = [
        ("munmap", |p| unsafe { libc::munmap(p, PAGE) == 0 }, true),
        (
            "mprotect",
            |p| unsafe { libc::mprotect(p, PAGE, PROT_READ) == 0 },
            false,
        ),
        (
            "PROT_NONE",
            |p| unsafe { libc::mprotect(p, PAGE, libc::PROT_NONE) == 0 },
            true,
        ),
        (
            "NOHUGEPAGE",
            |p| unsafe { libc::madvise(p, PAGE, libc::MADV_NOHUGEPAGE) == 0 },
            false,
        ),
        (
            "DONTFORK, of two pages",
            |p| unsafe { libc::madvise(p, 2 * PAGE, libc::MADV_DONTFORK) == 0 },
            true,
        ),
        (
            "SEQUENTIAL",
            |p| unsafe { libc::madvise(p, PAGE, libc::MADV_SEQUENTIAL) == 0 },
            false,
        ),
        (
            "mremap to less",
            |p| unsafe {
                libc::mremap(p.wrapping_byte_sub(PAGE), 2 * PAGE, PAGE, 0) != libc::MAP_FAILED
            },
            true,
        ),
    ];
    for base in [0, DIRECT_WINDOW] {
        for (n, (what, cut, gone)) in ways.iter().enumerate() {
            for at in [0, GIB / 2 + 5 * PAGE, GIB - PAGE] {
                // It begins a page before, and two pages are in the mapping.
                let shift = usize::from(at == 0 && *what == "mremap to less");
                let at = if at == GIB - PAGE && what.contains("two") {
                    at - PAGE
                } else {
                    at + shift * PAGE
                };
                let what = format!("{what} at {at:#x} of {base:#x}");
                let w = Whole::new(&h, base, n as u8 * 16)?;
                check!(cut(w.map.as_ptr().wrapping_add(at).cast()), "{what}");
                let lost: &[usize] = match gone {
                    true if what.contains("two") => &[at, at + PAGE],
                    true => &[at],
                    false => &[],
                };
                w.check(&what, w.map.as_ptr(), lost)?;
                // Once more, from the smaller entries that there are now.
                w.check(&what, w.map.as_ptr(), lost)?;
            }
        }
    }
    check_eq!(h.attr(c, "mappings")?, 0);
    Ok(())
}

/// mremap(2): the old place has nothing, for nobody; the new one all of it.
fn moves(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    for shift in [0, HUGE, PAGE] {
        let w = Whole::new(&h, 0, 1)?;
        // Somebody else has the same, and goes on.
        let other = Whole::new(&h, DIRECT_WINDOW, 1)?;
        let room = tools::anonymous(3 * GIB)?;
        let to = (room.as_ptr() as usize).next_multiple_of(GIB) + shift;
        let old = w.map.as_ptr();
        // SAFETY: our mapping, to a place that we have reserved.
        let p = unsafe {
            libc::mremap(
                old.cast(),
                GIB,
                GIB,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                to as *mut c_void,
            )
        };
        check_eq!(p as usize, to, "shifted by {shift:#x}");
        w.check("at the old place", old, &PLACES)?;
        w.check("at the new place", p.cast(), &[])?;
        // SAFETY: a byte of the mapping that was moved.
        unsafe { p.cast::<u8>().add(PAGE).write_volatile(77) };
        check_eq!(other.map.read8(PAGE), 77, "shifted by {shift:#x}");
    }
    check_eq!(h.attr(c, "mappings")?, 0);
    Ok(())
}

/// A child gets what it is to have, and not what the parent keeps from it.
fn fork(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let w = Whole::new(&h, 0, 1)?;
    // `check` forks for each place.
    w.check("all of it", w.map.as_ptr(), &[])?;
    let part = w.map.as_ptr().wrapping_add(HUGE);
    // SAFETY: a part of our mapping.
    let r = unsafe { libc::madvise(part.cast(), HUGE, libc::MADV_DONTFORK) };
    check_eq!(r, 0);
    w.check("without a part", w.map.as_ptr(), &[HUGE])?;
    check_eq!(w.map.read8(HUGE), 1 + 3, "the parent has it");
    Ok(())
}

/// Entries of 1 GiB come while others take parts of them away: by msync of a plain mapping, by cuts
/// and moves of their own.
fn races(c: &mut Ctx) -> TestResult {
    const ROUNDS: usize = 1000;
    let h = Node::new(c)?;
    let f = h.open()?;
    let w = Whole::new(&h, 0, 1)?;
    let plain = Map::new(&f, (GIB / 2) as u64, HUGE, RW, MAP_SHARED)?;
    let done = AtomicBool::new(false);
    let start = w.map.as_ptr() as usize;
    std::thread::scope(|s| {
        for at in [0, GIB - PAGE] {
            let done = &done;
            s.spawn(move || {
                let mut sum = 0u64;
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: a byte of the mapping, which stays.
                    sum += u64::from(unsafe { (start as *const u8).add(at).read_volatile() });
                }
                sum
            });
        }
        let result = (|| -> TestResult {
            for n in 0..ROUNDS {
                // Of those that are looked at, one gets what it has.
                plain.write8(n % 512 * PAGE, (n % 512) as u8);
                plain.msync()?;
                let moving = Map::new(&f, DIRECT_WINDOW, GIB, RW, SYNC)?;
                check_eq!(moving.read8(0), 1);
                // SAFETY: a page of our mapping.
                unsafe { libc::munmap(moving.as_ptr().add((1 + n) * PAGE).cast(), PAGE) };
                check_eq!(moving.read8(GIB - PAGE), 1 + 6);
            }
            Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        result
    })?;
    w.check("afterwards", w.map.as_ptr(), &[])
}

/// device-dax, and what Linux does with its entries of 1 GiB. If this fails, a kernel has been mended:
/// `Documentation/upstream-bugs.md`.
fn upstream_mremap(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "devdax", "-M", "mem", "-a", "1G", "-s", "3G"])?;
    c.wait_exists("/dev/dax0.0")?;
    let f = tools::open_rw("/dev/dax0.0")?;
    let m = Map::new(&f, 0, GIB, RW, MAP_SHARED)?;
    check_eq!(faults_for(&m, true), 1, "one entry");
    c.mark_dmesg();
    let room = tools::anonymous(3 * GIB)?;
    let to = (room.as_ptr() as usize).next_multiple_of(GIB);
    // SAFETY: our mapping, to a place that we have reserved.
    let p = unsafe {
        libc::mremap(
            m.as_ptr().cast(),
            GIB,
            GIB,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            to as *mut c_void,
        )
    };
    check_eq!(p as usize, to);
    c.dmesg_has(": bad pud ")
}
