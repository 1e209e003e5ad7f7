// SPDX-License-Identifier: GPL-2.0
//! Plain mappings, MAP_SHARED alone, whose stores are tracked: what finding out costs, in instructions, in
//! faults and in page tables.

use super::{Rows, Target, AREA, GIB};
use crate::support::bench::{bulk, each, Side, Window, HUGE, PAGE};
use crate::support::ctx::TestResult;
use crate::support::sys;

/// Faults of this process so far.
fn faults() -> u64 {
    // SAFETY: the structure is ours.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        (usage.ru_minflt + usage.ru_majflt) as u64
    }
}

/// A store to each `step` bytes of 1 GiB, of which nothing waits to be written back: instructions of one, and faults
/// and bytes of page tables of all; the least of so many times.
fn stores(t: &Target, row: &str, step: usize, times: usize) -> TestResult<Rows> {
    let w = Window::new(GIB, HUGE, 0)?;
    let n = GIB / step;
    let mut least = [f64::MAX; 3];
    for _ in 0..times {
        w.unmap();
        if t.side == Side::Ours {
            t.file.sync_all()?;
        }
        let before = (faults(), sys::page_tables()?);
        w.map(&t.file, 0, 0, GIB, libc::MAP_SHARED)?;
        let (cost, ()) = bulk(&t.label(row), n, || {
            (0..GIB).step_by(step).for_each(|at| w.store(at));
        });
        let after = (faults(), sys::page_tables()?);
        let all = [
            cost as f64 / n as f64,
            (after.0 - before.0) as f64,
            (after.1 - before.1) as f64,
        ];
        least = std::array::from_fn(|i| all[i].min(least[i]));
    }
    let names = ["", ".faults", ".tables"];
    let rows = names.into_iter().zip(least);
    Ok(rows
        .map(|(name, value)| (t.key(&format!("{row}{name}")), value))
        .collect())
}

/// The first store to a page after msync(2), of mappings of one page and of a large one, per page. device-dax
/// has no msync(2) and no such fault: of it, it is the first store.
fn after_msync(t: &Target, n: usize) -> TestResult<Rows> {
    let w = Window::new(n * PAGE, HUGE, PAGE)?;
    let single = || -> TestResult {
        for i in 0..n {
            w.map(&t.file, i * PAGE, (i * PAGE) as u64, PAGE, libc::MAP_SHARED)?;
        }
        Ok(())
    };
    let clean = |w: &Window, len: usize| match t.side {
        Side::Theirs => Ok(()),
        Side::Ours => {
            (0..len).step_by(PAGE).for_each(|at| w.store(at));
            w.msync(len)
        }
    };
    single()?;
    clean(&w, n * PAGE)?;
    let row = "after_msync.one";
    let value = each(&t.label(row), n, |i| {
        w.store(i * PAGE);
        Ok(())
    })?;
    let mut rows = vec![(t.key(row), value)];
    drop(w);
    let w = Window::new(AREA, HUGE, 0)?;
    w.map(&t.file, 0, 0, AREA, libc::MAP_SHARED)?;
    clean(&w, AREA)?;
    let row = "after_msync.all";
    let (cost, ()) = bulk(&t.label(row), AREA / PAGE, || {
        (0..AREA).step_by(PAGE).for_each(|at| w.store(at));
    });
    rows.push((t.key(row), cost as f64 / (AREA / PAGE) as f64));
    Ok(rows)
}

/// With device-dax on a node whose entries are of 4 KiB, as such mappings know each page.
pub fn group(t: &Target, samples: usize) -> TestResult<Rows> {
    let mut rows = stores(t, "plain.dense", PAGE, 1)?;
    rows.extend(stores(t, "plain.sparse", HUGE, 3)?);
    rows.extend(after_msync(t, samples)?);
    Ok(rows)
}
