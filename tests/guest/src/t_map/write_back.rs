// SPDX-License-Identifier: GPL-2.0
//! What is written back, and when.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::{faults_for, Node, DIRECT_WINDOW};
use crate::support::peer::Peer;
use crate::support::sys::{Map, PAGE, RW, SYNC};
use crate::support::tools::HUGE;
use crate::support::trace::Probe;
use crate::{check, check_eq};
use libc::{MAP_SHARED, PROT_READ};

pub const TESTS: &[Test] = crate::tests! {
    map_msync => msync,
    map_msync_cost => msync_cost,
};

fn msync(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let wb = Probe::own(c, "mapwb", "arch_wb_cache_pmem size=$arg2:u64")?;
    let flush = Probe::own(c, "mapmsync", "nvdimm_flush")?;
    let restart = || -> TestResult {
        wb.restart()?;
        flush.restart()
    };
    let written = || -> TestResult<u64> { Ok(wb.values(c, "size")?.iter().sum()) };
    // What others have left.
    f.sync_all()?;
    let m = Map::new(&f, 0, 4 * HUGE, RW, MAP_SHARED)?;
    m.msync()?;
    restart()?;
    m.msync()?;
    check_eq!(written()?, 0, "nothing stored");
    check!(flush.count(c)? >= 1, "each msync ends with a flush");

    // Reading is not storing.
    faults_for(&m, false);
    restart()?;
    m.msync()?;
    check_eq!(written()?, 0, "only read");

    for at in [0, 7 * PAGE, 9 * PAGE, HUGE + 3 * PAGE, 4 * HUGE - 1] {
        m.write8(at, at as u8);
    }
    restart()?;
    // Only of the range asked for.
    // SAFETY: a range of our mapping.
    let r = unsafe { libc::msync(m.as_ptr().add(7 * PAGE).cast(), PAGE, libc::MS_SYNC) };
    check_eq!(r, 0);
    check_eq!(written()?, PAGE as u64, "one page of three");
    restart()?;
    m.msync()?;
    check_eq!(written()?, 4 * PAGE as u64, "the others");
    restart()?;
    m.msync()?;
    check_eq!(written()?, 0, "nothing is left");
    // What was written back is seen again when it is stored to again, by whatever mapping.
    m.write8(7 * PAGE, 1);
    let second = Map::new(&h.open()?, PAGE as u64, HUGE, RW, MAP_SHARED)?;
    second.write8(PAGE, 2);
    restart()?;
    f.sync_all()?;
    check_eq!(written()?, 2 * PAGE as u64, "fsync");
    // Also after a change of protection.
    m.write8(7 * PAGE, 1);
    // SAFETY: nobody has a reference into it.
    unsafe {
        check_eq!(libc::mprotect(m.as_ptr().cast(), HUGE, PROT_READ), 0);
        check_eq!(libc::mprotect(m.as_ptr().cast(), HUGE, RW), 0);
    }
    m.write8(7 * PAGE, 2);
    restart()?;
    f.sync_data()?;
    check_eq!(written()?, PAGE as u64, "after mprotect");
    m.write8(7 * PAGE, 3);
    restart()?;
    f.sync_data()?;
    check_eq!(written()?, PAGE as u64, "after mprotect and fsync");
    // And after fork, by the child.
    m.write8(0, 1);
    f.sync_data()?;
    restart()?;
    let p = Peer::start(|_| {
        m.write8(0, 5);
        0
    })?;
    check_eq!(p.wait()?, 0);
    m.msync()?;
    check_eq!(written()?, PAGE as u64, "stored by a child");
    drop((m, second));

    // A sync mapping: its msync writes back what it has touched, as often as it is called.
    let m = Map::new(&f, 0, 4 * HUGE, RW, SYNC)?;
    m.write8(HUGE + 5, 1);
    for _ in 0..2 {
        restart()?;
        m.msync()?;
        check_eq!(written()?, HUGE as u64, "sync mapping");
    }
    let d = Map::new(&f, DIRECT_WINDOW + 2 * HUGE as u64, HUGE, RW, SYNC)?;
    d.write8(0, 1);
    restart()?;
    d.msync()?;
    check_eq!(written()?, HUGE as u64, "direct mapping");
    drop((m, d));
    restart()?;
    f.sync_all()?;
    check_eq!(written()?, 2 * HUGE as u64, "once more when they are gone");
    restart()?;
    f.sync_all()?;
    check_eq!(written()?, 0, "and then no more");
    // What is remembered as a whole is written back as a whole, when a part of it is asked for.
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
    m.write8(HUGE - 1, 1);
    drop(m);
    let m = Map::new(&f, 0, PAGE, RW, MAP_SHARED)?;
    restart()?;
    m.msync()?;
    check_eq!(written()?, HUGE as u64, "a part of 2 MiB");
    Ok(())
}

/// Instructions are not counted here; the work is: bytes written back, and time as a ratio.
fn msync_cost(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let size = h.attr(c, "size")? as usize;
    check!(size >= 1 << 30, "{size:#x} bytes");
    let m = Map::new(&f, 0, 1 << 30, RW, MAP_SHARED)?;
    let time = |store: &dyn Fn()| -> TestResult<u128> {
        store();
        // CLOCK: the least of many is compared with one that is a thousand times as long.
        let start = std::time::Instant::now();
        m.msync()?;
        Ok(start.elapsed().as_nanos())
    };
    m.msync()?;
    let all = time(&|| {
        faults_for(&m, true);
    })?;
    let mut one = u128::MAX;
    for i in 0..20 {
        one = one.min(time(&|| m.write8(i * 5 * HUGE, 1))?);
    }
    println!(
        "msync of 1 GiB takes as long as {} of one page of it",
        all / one
    );
    check!(one * 1000 < all, "one page: {one} ns, all: {all} ns");
    Ok(())
}
