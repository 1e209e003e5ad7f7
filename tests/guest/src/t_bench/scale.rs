// SPDX-License-Identifier: GPL-2.0
//! How costs grow: with threads, with mappings, with namespaces that are bound, with their size. The host makes
//! percentages of the least of it.

use super::{label, least, Spaces, Target, ALIGNMENTS, GIB, MIB, SAMPLES};
use crate::support::bench::{
    calibrate, cost, create, each, fact, give, median, name, quiet, report, Profile, Side, Window,
    HUGE, PAGE, TURNS,
};
use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::tools;
use std::fs::File;

const THREADS: [usize; 4] = [1, 2, 4, 8];
/// Bytes that the threads of one measurement map together.
const SHARED: usize = 64 * MIB;
/// Other mappings of the device.
const MAPPINGS: [usize; 3] = [1, 64, 4096];
/// Namespaces.
const SPACES: usize = 16;

/// Bytes of memory that the kernel has free, with nothing in its per-CPU lists and caches that it
/// could give back.
fn free_memory(c: &Ctx) -> TestResult<i64> {
    c.write("/proc/sys/vm/drop_caches", "3")?;
    tools::drain_lists(c)?;
    let text = c.read("/proc/meminfo")?;
    let line = text.lines().find(|l| l.starts_with("MemFree:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<i64>().ok());
    Ok(kib.ok_or("no MemFree")? * 1024)
}

/// Binding of namespaces without struct pages, of growing sizes.
pub fn probe(c: &mut Ctx) -> TestResult {
    calibrate()?;
    c.modprobe("nd_pmem")?;
    quiet(c)?;
    for (pass, side) in TURNS {
        for nd in c.namespaces() {
            let driver = name(side, "nd_pmem");
            let size = c.read_u64(c.nd(&nd).join("size"))? / GIB as u64;
            let file = format!("/sys/bus/nd/drivers/{driver}/bind");
            let mut samples = Vec::new();
            let mut bytes = i64::MAX;
            // The first time after the other driver is not like those that follow.
            for turn in 0..8 {
                if let Some(now) = c.bound_to(&nd) {
                    c.unbind(&now, &nd)?;
                }
                c.settle();
                let before = free_memory(c)?;
                let (cost, result) = cost(|| c.write(&file, &nd));
                result?;
                c.settle();
                if turn > 0 {
                    samples.push(cost);
                    bytes = bytes.min(before - free_memory(c)?);
                }
            }
            report(pass, side, &format!("probe.{size}g"), median(&mut samples));
            if side == Side::Ours {
                let node = tools::open_rw(format!("/dev/r{}", c.disk_of(&nd)?))?;
                for (row, value) in at_end(&node, size as usize * GIB)? {
                    report(pass, side, &format!("probe.{row}.{size}g"), value);
                }
            }
            fact(
                &format!("probe.{size}g.{driver}.memory.{pass}"),
                &bytes.to_string(),
            );
        }
    }
    Ok(())
}

/// Pages near the end of a node, by a plain mapping: the fault, msync(2) of it, fsync(2) of all of the node.
fn at_end(f: &File, size: usize) -> TestResult<Vec<(&'static str, f64)>> {
    const PAGES: usize = 64;
    let w = Window::new(PAGES * PAGE, HUGE, PAGE)?;
    let mut samples = [(); 3].map(|()| Vec::new());
    for i in 0..PAGES {
        let at = i * PAGE;
        let offset = (size - (i + 1) * MIB) as u64;
        w.map(f, at, offset, PAGE, libc::MAP_SHARED)?;
        samples[0].push(cost(|| w.store(at)).0);
        let (msync, result) = cost(|| w.msync_at(at, PAGE));
        result?;
        samples[1].push(msync);
        w.store(at);
        let (fsync, result) = cost(|| f.sync_all());
        result?;
        samples[2].push(fsync);
    }
    let rows = ["fault", "msync", "fsync"].into_iter().zip(samples);
    Ok(rows.map(|(row, mut of)| (row, median(&mut of))).collect())
}

/// Has so many threads work at the same time, on two CPUs. Per operation, of all CPUs together.
fn together(window: &str, count: usize, operations: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(count + 1);
    let cost = std::thread::scope(|scope| {
        for i in 0..count {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                tools::pin_to(i % 2);
                barrier.wait();
                barrier.wait();
                work(i);
                barrier.wait();
            });
        }
        barrier.wait();
        let profile = Profile::of(window, operations);
        let (cost, ()) = cost(|| {
            barrier.wait();
            barrier.wait();
        });
        drop(profile);
        cost
    });
    cost as f64 / operations as f64
}

/// A mapping of `part` bytes for each thread, of a range of its own.
fn windows(f: &File, flags: i32, count: usize, part: usize) -> TestResult<Vec<Window>> {
    let one = |i: usize| {
        let w = Window::new(part, HUGE, PAGE)?;
        w.map(f, 0, (i * part) as u64, part, flags)?;
        Ok(w)
    };
    (0..count).map(one).collect()
}

/// Stores to each `step` bytes of `len`: by as much as one fault may make entries for.
#[derive(Clone, Copy)]
pub struct Stores {
    pub len: usize,
    pub step: usize,
}

/// Has so many threads make such stores.
pub fn faults(t: &Target, flags: i32, count: usize, by: Stores, row: &str) -> TestResult<f64> {
    let part = by.len / count;
    let windows = windows(&t.file, flags, count, part)?;
    let window = label(t.side, row);
    Ok(together(&window, count, by.len / by.step, |i| {
        (0..part)
            .step_by(by.step)
            .for_each(|at| windows[i].store(at));
    }))
}

/// Has so many threads store to a page and call msync(2) for it.
fn msyncs(t: &Target, count: usize) -> TestResult<f64> {
    const TIMES: usize = 2048;
    // What others have left is looked through, too.
    t.file.sync_all()?;
    let windows = windows(&t.file, libc::MAP_SHARED, count, 8 * MIB)?;
    let window = label(t.side, "scale.msync");
    Ok(together(&window, count, TIMES, |i| {
        for _ in 0..TIMES / count {
            windows[i].store(0);
            windows[i].msync(PAGE).expect("msync(2) of a mapping");
        }
    }))
}

/// Has so many threads read pages of a disk.
fn reads(f: &File, side: Side, count: usize) -> f64 {
    const TIMES: usize = 2048;
    let part = SHARED / count;
    together(&label(side, "scale.io"), count, TIMES, |i| {
        let mut buf = Buf::page(PAGE);
        let at = buf.bytes_mut().as_mut_ptr();
        for n in 0..TIMES / count {
            let offset = (i * part + n * PAGE) as u64;
            let done = tools::pread_raw(f, at, PAGE, offset);
            assert_eq!(done.ok(), Some(PAGE));
        }
    })
}

/// Threads that work on disjoint ranges of one device, on two CPUs.
pub fn threads(c: &mut Ctx) -> TestResult {
    calibrate()?;
    let spaces = Spaces::create(c, &ALIGNMENTS[..1])?;
    let disk = create(c, &["-m", "raw", "-s", "64M"])?;
    c.modprobe("nd_pmem")?;
    quiet(c)?;
    for (pass, side) in TURNS {
        let (t, by) = match side {
            Side::Theirs => (
                spaces.devdax(c, 0, side)?,
                Stores {
                    len: SHARED,
                    step: PAGE,
                },
            ),
            Side::Ours => (
                spaces.raw(c)?,
                Stores {
                    len: GIB,
                    step: 64 * PAGE,
                },
            ),
        };
        give(c, &disk, name(side, "nd_pmem"))?;
        let f = disk::direct(&format!("/dev/{}", c.disk_of(&disk)?))?;
        for count in THREADS {
            let row = "threads";
            let value = least(|| faults(&t, t.flags, count, by, row))?;
            report(pass, side, &format!("{row}.{count}"), value);
            let value = least(|| Ok(reads(&f, side, count)))?;
            report(pass, side, &format!("scale.io.{count}"), value);
            // device-dax has neither.
            if side == Side::Ours {
                let row = "threads.plain";
                let value = least(|| faults(&t, libc::MAP_SHARED, count, by, row))?;
                report(pass, side, &format!("{row}.{count}"), value);
                let value = least(|| msyncs(&t, count))?;
                report(pass, side, &format!("scale.msync.{count}"), value);
            }
        }
    }
    Ok(())
}

/// One page, while so many others of the device are mapped and have been stored to: the fault, msync(2), munmap(2).
fn beside(t: &Target, others: usize) -> TestResult<Vec<(&'static str, f64)>> {
    const STEP: usize = 16 * PAGE;
    let flags = libc::MAP_SHARED;
    let all = Window::new(others * PAGE, HUGE, PAGE)?;
    for i in 0..others {
        all.map(&t.file, i * PAGE, (i * STEP) as u64, PAGE, flags)?;
        all.store(i * PAGE);
    }
    let w = Window::new(SAMPLES * PAGE, HUGE, PAGE)?;
    for i in 0..SAMPLES {
        w.map(&t.file, i * PAGE, (i * STEP + PAGE) as u64, PAGE, flags)?;
    }
    let one = |row: &'static str, f: &dyn Fn(usize) -> TestResult| {
        let value = each(&t.label(&format!("beside.{row}")), SAMPLES, f)?;
        TestResult::Ok((row, value))
    };
    let mut rows = vec![one("fault", &|i| {
        w.store(i * PAGE);
        Ok(())
    })?];
    if t.side == Side::Ours {
        all.msync(others * PAGE)?;
        w.msync(SAMPLES * PAGE)?;
        rows.push(one("msync", &|i| {
            w.store(i * PAGE);
            w.msync_at(i * PAGE, PAGE)
        })?);
    }
    rows.push(one("munmap", &|i| {
        w.unmap_at(i * PAGE, PAGE);
        Ok(())
    })?);
    Ok(rows)
}

/// Namespaces without struct pages that are bound one after the other: what the first one costs, and the last one;
/// and what a fault of the first one does then.
fn bound(c: &Ctx, all: &[String], side: Side) -> TestResult<Vec<(String, f64)>> {
    const TIMES: usize = 5;
    let driver = name(side, "nd_pmem");
    let file = format!("/sys/bus/nd/drivers/{driver}/bind");
    let mut samples = [(); 2].map(|()| Vec::new());
    let mut rows = Vec::new();
    for turn in 0..=TIMES {
        for nd in all {
            if let Some(now) = c.bound_to(nd) {
                c.unbind(&now, nd)?;
            }
        }
        for (i, nd) in all.iter().enumerate() {
            c.settle();
            let (cost, result) = cost(|| c.write(&file, nd));
            result?;
            // The first time after the other driver is not like those that follow.
            if turn > 0 && i == 0 {
                samples[0].push(cost);
            } else if turn > 0 && i + 1 == all.len() {
                samples[1].push(cost);
            }
            let is_end = i == 0 || i + 1 == all.len();
            if turn == TIMES && is_end && side == Side::Ours {
                c.settle();
                let t = Target::open(format!("/dev/r{}", c.disk_of(&all[0])?), side, "raw")?;
                let value = t.one_page("fault4k.bound", true, SAMPLES)?;
                rows.push((format!("fault.spaces.{}", i + 1), value));
            }
        }
        c.settle();
    }
    for (n, of) in [1, all.len()].into_iter().zip(&mut samples) {
        rows.push((format!("bind.spaces.{n}"), median(of)));
    }
    Ok(rows)
}

/// Many mappings of one device, and many namespaces.
pub fn many(c: &mut Ctx) -> TestResult {
    calibrate()?;
    let spaces = Spaces::create(c, &[("4K", "512M")])?;
    let others = (0..SPACES).map(|_| create(c, &["-m", "raw", "-s", "64M"]));
    let others = others.collect::<TestResult<Vec<_>>>()?;
    c.modprobe("nd_pmem")?;
    quiet(c)?;
    for (pass, side) in TURNS {
        let t = match side {
            Side::Theirs => spaces.devdax(c, 0, side)?,
            Side::Ours => spaces.raw(c)?,
        };
        for n in MAPPINGS {
            for (row, value) in beside(&t, n)? {
                report(pass, side, &format!("scale.{row}.mappings.{n}"), value);
            }
        }
        for (row, value) in bound(c, &others, side)? {
            report(pass, side, &format!("scale.{row}"), value);
        }
    }
    Ok(())
}
