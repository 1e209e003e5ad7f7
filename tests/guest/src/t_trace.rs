// SPDX-License-Identifier: GPL-2.0
//! Events in tracefs and counters in debugfs: Documentation/tracing.md. Those of poison: t_nfit.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{Node, DIRECT_WINDOW};
use crate::support::sys::{self, Caught, Map, FOREVER, RW, SYNC};
use crate::support::tools::{self, errno, HUGE, PAGE};
use crate::support::trace::{self, Trace};
use crate::support::uapi;
use crate::{check, check_eq, fail};
use libc::{MAP_SHARED, POLLPRI};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    trace_faults => faults,
    trace_ranges => ranges,
    trace_way_down => way_down,
    trace_lease => lease,
    trace_counters => counters,
};

/// What a fault says.
fn fault(h: &Node, m: &Map, how: &str, at: usize, pgoff: usize, rest: &str) -> String {
    let address = m.as_ptr() as usize + at;
    let disk = &h.space.disk;
    format!("r{disk} {how} address {address:#x} pgoff {pgoff:#x} order {rest}")
}

fn sigbus(m: &Map, at: usize) -> TestResult {
    match sys::caught(|| m.read8(at))? {
        Caught::Fault(f) if f.signal == libc::SIGBUS => Ok(()),
        other => fail!("no SIGBUS: {other:?}"),
    }
}

fn faults(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let trace = Trace::on(c, "rpmem/rpmem_fault")?;
    let plain = Map::new(&f, HUGE as u64, HUGE, RW, MAP_SHARED)?;
    let (at, page) = (5 * PAGE, 512 + 5);
    plain.read8(at + 7);
    let mut want = vec![fault(&h, &plain, "read", at, page, "9 NOPAGE")];
    check_eq!(without_pud(trace.said(c)?), want, "a load");
    // Stores are tracked by the page.
    plain.write8(at, 1);
    want.push(fault(&h, &plain, "write", at, page, "9 FALLBACK"));
    want.push(fault(&h, &plain, "write", at, page, "0 NOPAGE"));
    check_eq!(without_pud(trace.said(c)?), want, "a store");
    let sync = Map::new(&f, HUGE as u64, 2 * HUGE, RW, SYNC)?;
    sync.write8(HUGE + at, 1);
    sync.read8(HUGE + 2 * at);
    let there = fault(
        &h,
        &sync,
        "write",
        HUGE + at,
        HUGE / PAGE + page,
        "9 NOPAGE",
    );
    want.push(there);
    check_eq!(without_pud(trace.said(c)?), want, "2 MiB");

    h.space.unbind(c)?;
    sigbus(&plain, at)?;
    let want = fault(&h, &plain, "read", at, page, "0 SIGBUS");
    check_eq!(trace.said(c)?.last(), Some(&want), "after the unbind");
    // What is off says nothing.
    drop(trace);
    let before = trace::said(c, "rpmem_fault")?.len();
    sigbus(&plain, at)?;
    check_eq!(trace::said(c, "rpmem_fault")?.len(), before, "off");
    drop((plain, sync, f));
    h.space.bind(c)
}

fn ranges(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let name = format!("r{}", h.space.disk);
    let sync = Map::new(&f, 0, 2 * HUGE, RW, SYNC)?;
    let trace = Trace::on(c, "rpmem/rpmem_prefault")?;
    let done = uapi::rpmem_prefault(&f, &sync, HUGE, HUGE as u64, 1);
    check_eq!(done, (HUGE as u64, 0));
    let at = sync.as_ptr() as usize + HUGE;
    let want = vec![format!("{name} start {at:#x} len {HUGE:#x}")];
    check_eq!(trace.said(c)?, want, "prefault");
    drop((trace, sync));
    // What that has left to be written back.
    f.sync_all()?;

    let plain = Map::new(&f, 0, HUGE, RW, MAP_SHARED)?;
    for page in [3, 4, 5, 9] {
        plain.write8(page * PAGE, 1);
    }
    let trace = Trace::on(c, "rpmem/rpmem_write_back")?;
    plain.msync()?;
    let range = |first: usize, pages: usize| {
        let (start, len) = (first * PAGE, pages * PAGE);
        format!("{name} start {start:#x} len {len:#x}")
    };
    check_eq!(trace.said(c)?, vec![range(3, 3), range(9, 1)], "msync");
    Ok(())
}

/// What nobody has made durable is written back when there will be nobody who could.
fn way_down(c: &mut Ctx) -> TestResult {
    for way in ["close", "read-only", "unbind"] {
        let h = Node::nth(c, 0)?;
        let name = format!("r{}", h.space.disk);
        let f = h.open()?;
        f.sync_all()?;
        let plain = Map::new(&f, 0, HUGE, RW, MAP_SHARED)?;
        let sync = Map::new(&f, HUGE as u64, HUGE, RW, SYNC)?;
        for page in [3, 4, 5] {
            plain.write8(page * PAGE, 1);
        }
        sync.write8(7, 1);
        let trace = Trace::on(c, "rpmem/rpmem_write_back")?;
        let mut used = Some((f, plain, sync));
        match way {
            "close" => used = None,
            "read-only" => {
                let disk = File::open(h.space.dev())?;
                disk::ioctl(&disk, disk::BLKROSET, &mut 1i32)?;
                disk::ioctl(&disk, disk::BLKROSET, &mut 0i32)?;
            }
            _ => h.space.unbind(c)?,
        }
        let range = |first: usize, pages: usize| {
            let (start, len) = (first * PAGE, pages * PAGE);
            format!("{name} start {start:#x} len {len:#x}")
        };
        check_eq!(trace.said(c)?, vec![range(3, 3), range(512, 512)], "{way}");
        drop((trace, used));
        if way == "unbind" {
            h.space.bind(c)?;
            c.wait_exists(&h.path)?;
        }
    }
    Ok(())
}

/// The part of an event before what is left of the grace time, and that.
fn left(event: &str) -> TestResult<(&str, i64)> {
    let parts = event.split_once(" left ");
    let parsed = parts.and_then(|(head, left)| Some((head, left.parse().ok()?)));
    parsed.ok_or_else(|| format!("bad event: {event}").into())
}

fn lease(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let name = format!("r{}", h.space.disk);
    let grace = format!("{}/lease_break_time", h.sysfs);
    // Given back in time, and taken when it is over.
    for (seconds, polite) in [("1000", true), ("0", false)] {
        let begin = Trace::on(c, "rpmem/rpmem_lease_break")?;
        let end = Trace::on(c, "rpmem/rpmem_lease_end")?;
        let f = h.open()?;
        let mut held = Some(Map::new(&f, DIRECT_WINDOW, HUGE, RW, SYNC)?);
        c.write(&grace, seconds)?;
        let breaker = tools::unbind_beside(h.space.nd.clone());
        check_eq!(
            sys::poll(&f, POLLPRI, FOREVER)? & POLLPRI,
            POLLPRI,
            "notice"
        );
        if polite {
            held = None;
        }
        check!(breaker.join().unwrap_or(false), "unbind");
        let (begun, ended) = (begin.said(c)?, end.said(c)?);
        check_eq!((begun.len(), ended.len()), (1, 1), "{begun:?} {ended:?}");
        let given = seconds.parse::<i64>().unwrap_or(0) * 1000;
        let want = (format!("{name} remove holders 1"), given);
        let (head, ms) = left(&begun[0])?;
        check_eq!((head.to_string(), ms), want, "the begin");
        let (head, ms) = left(&ended[0])?;
        let holders = if polite { 0 } else { 1 };
        check_eq!(head, format!("{name} remove holders {holders}"), "the end");
        let possible = if polite { 1..given + 1 } else { 0..1 };
        check!(possible.contains(&ms), "left at the end: {ms}");
        drop((begin, end, held, f));
        h.space.bind(c)?;
        c.wait_exists(&h.path)?;
    }
    Ok(())
}

const COUNTERS: &str = "/sys/kernel/debug/rpmem";

/// Without a fault of 1 GiB, which is tried where no table of that size is yet: that is for the
/// addresses to decide.
fn without_pud(said: Vec<String>) -> Vec<String> {
    let pud = |s: &String| s.ends_with(" 18 FALLBACK");
    said.into_iter().filter(|s| !pud(s)).collect()
}

fn counts(c: &Ctx) -> TestResult<BTreeMap<String, u64>> {
    let text = c.read(format!("{COUNTERS}/counters"))?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_string(), value.parse().ok()?))
    };
    let all: Option<BTreeMap<_, _>> = text.lines().map(pair).collect();
    all.ok_or_else(|| format!("bad counters: {text}").into())
}

/// What has been added since `before`, where that is not 0; `before` becomes what there is now.
fn added(c: &Ctx, before: &mut BTreeMap<String, u64>) -> TestResult<Vec<(String, u64)>> {
    let now = counts(c)?;
    let more = now.iter().map(|(name, n)| (name.clone(), n - before[name]));
    let more = more.filter(|(_, n)| *n != 0).collect();
    *before = now;
    Ok(more)
}

fn named(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter().map(|(name, n)| (name.to_string(), *n)).collect()
}

fn counters(c: &mut Ctx) -> TestResult {
    let enable = format!("{COUNTERS}/enable");
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    // What is there from before is not to be written back below.
    f.sync_all()?;
    let mut before = counts(c)?;
    check_eq!(c.read(&enable)?, "0");
    let plain = Map::new(&f, 0, HUGE, RW, MAP_SHARED)?;
    // A page table, whose entries are of one page.
    plain.write8(HUGE - 1, 1);
    plain.msync()?;
    check_eq!(added(c, &mut before)?, [], "off");

    check_eq!(errno(&c.try_write(&enable)("2")), libc::EINVAL);
    c.write(&enable, "1")?;
    c.write(&enable, "1")?;
    check_eq!(c.read(&enable)?, "1");
    // Further apart than what one fault brings in, and where a page table is.
    for page in [128, 256, 384] {
        plain.read8(page * PAGE);
    }
    check_eq!(added(c, &mut before)?, named(&[("fault_pte", 3)]), "loads");
    for page in [0, 64, 384] {
        plain.write8(page * PAGE, 1);
    }
    check_eq!(added(c, &mut before)?, named(&[("fault_pte", 3)]), "stores");
    plain.msync()?;
    check_eq!(added(c, &mut before)?, named(&[("write_back_pages", 3)]));
    let fresh = Map::new(&f, HUGE as u64, HUGE, RW, MAP_SHARED)?;
    fresh.write8(0, 1);
    let more = added(c, &mut before)?;
    let want = [1, 2].map(|n| named(&[("fault_fallback", n), ("fault_pte", 1)]));
    check!(want.contains(&more), "a store: {more:?}");
    // They are a second one who looks at the events.
    drop(Trace::on(c, "rpmem/rpmem_fault")?);
    let sync = Map::new(&f, 0, 4 * HUGE, RW, SYNC)?;
    sync.write8(PAGE, 1);
    // See `without_pud`.
    let one_pud = |mut more: Vec<(String, u64)>| {
        more.retain(|m| *m != ("fault_fallback".into(), 1));
        more
    };
    check_eq!(one_pud(added(c, &mut before)?), named(&[("fault_pmd", 1)]));
    let done = uapi::rpmem_prefault(&f, &sync, HUGE, 2 * HUGE as u64, 1);
    check_eq!(done, (2 * HUGE as u64, 0));
    // The second one is made for the same fault.
    let want = named(&[("fault_pmd", 1), ("prefault_pages", 1024)]);
    check_eq!(one_pud(added(c, &mut before)?), want, "prefault");

    // Files and mappings that outlive the namespace.
    h.space.unbind(c)?;
    sigbus(&plain, PAGE)?;
    let more = added(c, &mut before)?;
    check!(more.contains(&("fault_sigbus".into(), 1)), "{more:?}");
    c.write(&enable, "0")?;
    sigbus(&plain, PAGE)?;
    check_eq!(added(c, &mut before)?, [], "off again");
    drop((plain, fresh, sync, f));

    // The module goes with its counters on, and comes back without.
    c.write(&enable, "1")?;
    let file = std::fs::File::open(&enable)?;
    check_eq!(errno(&c.try_rmmod("rpmem")), libc::EAGAIN, "enable is open");
    drop(file);
    c.rmmod("rpmem")?;
    check!(!Path::new(COUNTERS).exists(), "{COUNTERS} is still there");
    c.load_driver()?;
    c.wait_exists(&h.path)?;
    check_eq!(c.read(&enable)?, "0");
    check!(counts(c)?.values().all(|n| *n == 0), "{:?}", counts(c)?);
    Ok(())
}
