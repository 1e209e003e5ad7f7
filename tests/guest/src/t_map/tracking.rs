// SPDX-License-Identifier: GPL-2.0
//! How finely stores to plain mappings are tracked: entries, page tables, and what msync writes back.
//! The policy is `src/logic/tracking.rs`; tests/host has its properties.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::{faults_for, Node};
use crate::support::sys::{self, Map, PAGE, RW};
use crate::support::tools::HUGE;
use crate::support::trace::Trace;
use crate::{check, check_eq};
use libc::MAP_SHARED;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub const TESTS: &[Test] = crate::tests! {
    track_dense => dense,
    track_sparse => sparse,
    track_moved => moved,
    track_races => races,
};

/// Faults by which stores in order make a unit writable: the first one, and those that follow one.
const FIRST: i64 = 9;
const NEXT: i64 = 5;

/// What msync writes back: runs of pages, by their first and number.
fn msync(c: &Ctx, m: &Map) -> TestResult<Vec<(u64, u64)>> {
    let trace = Trace::on(c, "rpmem/rpmem_write_back")?;
    m.msync()?;
    let number =
        |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).map_err(|e| e.to_string());
    let mut runs = Vec::new();
    for event in trace.said(c)? {
        let words: Vec<&str> = event.split_whitespace().collect();
        check!(words.len() == 5, "{event}");
        let page = PAGE as u64;
        runs.push((number(words[2])? / page, number(words[4])? / page));
    }
    Ok(runs)
}

fn map(c: &mut Ctx, most: usize) -> TestResult<(Node, Map, usize)> {
    let h = Node::new(c)?;
    let units = most.min(h.attr(c, "size")? as usize / HUGE);
    let f = h.open()?;
    f.sync_all()?;
    let m = Map::new(&f, 0, units * HUGE, RW, MAP_SHARED)?;
    Ok((h, m, units))
}

/// Stores to each page, in order: few faults and page tables, and entries of 2 MiB.
fn dense(c: &mut Ctx) -> TestResult {
    let (_h, m, units) = map(c, 512)?;
    let before = sys::page_tables()?;
    let n = faults_for(&m, true);
    // Nobody gives the first one in a table of PMDs a head start.
    let least = FIRST + NEXT * (units as i64 - 1);
    let starts = 1 + units as i64 / 512;
    check!(
        (least..=least + starts * (FIRST - NEXT)).contains(&n),
        "{n} faults for {units} units"
    );
    let grown = sys::page_tables()?.saturating_sub(before);
    check!(grown <= 5 * PAGE as u64, "{grown} bytes of page tables");
    // All but the last have given up their page table, and are huge when they are stored to again.
    let again = faults_for(&m, true);
    check!(
        (units as i64 - 1 - starts..units as i64).contains(&again),
        "{again} once more"
    );
    check_eq!(faults_for(&m, true), 0, "and then no more");
    check_eq!(
        msync(c, &m)?,
        vec![(0, (units * 512) as u64)],
        "all of it, once"
    );
    check_eq!(msync(c, &m)?, vec![], "nothing is left");
    // And in the reverse order.
    for at in (0..units * HUGE).rev().step_by(PAGE) {
        m.write8(at, 1);
    }
    let grown = sys::page_tables()?.saturating_sub(before);
    check!(
        grown <= 5 * PAGE as u64,
        "{grown} bytes, in the reverse order"
    );
    check_eq!(
        msync(c, &m)?,
        vec![(0, (units * 512) as u64)],
        "the reverse order"
    );
    Ok(())
}

/// One store in each 2 MiB: page tables are bounded, and nothing else is written back.
fn sparse(c: &mut Ctx) -> TestResult {
    let (_h, m, units) = map(c, 1024)?;
    check!(units >= 32, "{units} units");
    let before = sys::page_tables()?;
    let page = |unit: usize| unit * 512 + unit * 7 % 512;
    for unit in 0..units {
        m.write8(page(unit) * PAGE, unit as u8);
    }
    let grown = sys::page_tables()?.saturating_sub(before);
    // Eight in 32, the tables of PMDs, and what else this process has done.
    let most = ((units.div_ceil(32) + 1) * 8 + units.div_ceil(512) + 1 + 2) * PAGE;
    check!(grown <= most as u64, "{grown} bytes for {units} units");
    for unit in 0..units {
        check_eq!(m.read8(page(unit) * PAGE), unit as u8);
    }
    let want: Vec<_> = (0..units).map(|unit| (page(unit) as u64, 1)).collect();
    check_eq!(msync(c, &m)?, want, "what was stored to");
    check_eq!(msync(c, &m)?, vec![], "nothing is left");
    Ok(())
}

/// A thread stores on and on where a page table is taken from, on a CPU that knows the entry.
fn moved(c: &mut Ctx) -> TestResult {
    let (_h, m, _) = map(c, 8)?;
    for unit in [0, 2, 4, 6] {
        let page = unit * 512 + 5;
        (0..512).for_each(|n| m.write8((unit * 512 + n) * PAGE, 1));
        let (stored, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| -> TestResult {
            let (at, stored, done) = (m.as_ptr() as usize + page * PAGE, &stored, &done);
            let thread = scope.spawn(move || {
                while !done.load(Ordering::Acquire) {
                    // SAFETY: a byte of the mapping, which outlives the thread.
                    unsafe { (at as *mut u8).write_volatile(2) };
                    stored.fetch_add(1, Ordering::Release);
                }
            });
            let some_more = || {
                let seen = stored.load(Ordering::Acquire);
                while stored.load(Ordering::Acquire) < seen + 2 {
                    std::thread::yield_now();
                }
            };
            some_more();
            m.write8((unit + 1) * HUGE, 1);
            // SAFETY: our mapping, and nobody has a reference into it.
            let r = unsafe { libc::msync(m.as_ptr().cast(), 8 * HUGE, libc::MS_SYNC) };
            some_more();
            done.store(true, Ordering::Release);
            check!(thread.join().is_ok(), "the thread");
            check_eq!(r, 0, "msync");
            Ok(())
        })?;
        let written = msync(c, &m)?;
        let has = |(first, n): &(u64, u64)| (*first..first + n).contains(&(page as u64));
        check!(written.iter().any(has), "unit {unit}: {written:?}");
    }
    Ok(())
}

/// Threads that take each other's page tables, one that writes back and one that cuts the mapping: a byte
/// that is stored after it was written back is written back again.
fn races(c: &mut Ctx) -> TestResult {
    let (h, m, units) = map(c, 64)?;
    check!(units >= 32, "{units} units");
    let done = AtomicBool::new(false);
    let rounds = 400;
    std::thread::scope(|scope| -> TestResult {
        let stores: Vec<_> = (0..3usize)
            .map(|thread| {
                let (base, done) = (m.as_ptr() as usize, &done);
                scope.spawn(move || {
                    let mut at = thread + 1;
                    for round in 0..rounds {
                        // Alone, a run, and across units.
                        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let unit = (at >> 33) % (units - 1);
                        let (start, len) = match round % 3 {
                            0 => (unit * HUGE + (at >> 20) % 512 * PAGE, 1),
                            1 => (unit * HUGE + (at >> 20) % 256 * PAGE, 256),
                            _ => ((unit + 1) * HUGE - PAGE, 2),
                        };
                        for page in 0..len {
                            let at = base + start + page * PAGE + thread;
                            // SAFETY: a byte of the mapping, which outlives the thread.
                            unsafe { (at as *mut u8).write_volatile(round as u8) };
                        }
                    }
                    done.store(true, Ordering::Relaxed);
                })
            })
            .collect();
        while !done.load(Ordering::Relaxed) {
            // Not of `Map`, which claims what has been stored, when threads go on storing.
            // SAFETY: our mapping, and nobody has a reference into it.
            let r = unsafe {
                libc::madvise(m.as_ptr().cast(), HUGE, libc::MADV_RANDOM);
                libc::msync(m.as_ptr().cast(), units * HUGE, libc::MS_SYNC)
            };
            check_eq!(r, 0, "msync");
        }
        for thread in stores {
            check!(thread.join().is_ok(), "a thread");
        }
        Ok(())
    })?;
    m.msync()?;
    check_eq!(msync(c, &m)?, vec![], "nothing is left");
    // Each page is seen when it is stored to once more, whatever its entry has been through.
    for unit in 0..units {
        for page in [0, 255, 511] {
            m.write8(unit * HUGE + page * PAGE, 77);
        }
    }
    let written = msync(c, &m)?;
    let has = |page: u64| {
        written
            .iter()
            .any(|(first, n)| (*first..first + n).contains(&page))
    };
    for unit in 0..units as u64 {
        for page in [0, 255, 511] {
            check!(
                has(unit * 512 + page),
                "page {page} of unit {unit}: {written:?}"
            );
        }
    }
    drop((m, h));
    Ok(())
}
