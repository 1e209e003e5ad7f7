// SPDX-License-Identifier: GPL-2.0
//! Runs the combinations of a mode, one after the other, each in a process of its own.

use super::board::{in_child, os, wait, witness, Board, Check, MAGIC, VERIFY, WORDS};
use super::model::Space;
use super::table::{
    self, Call, Combination, Cut, Extent, Layout, Memory, Mode, On, GIB, HUGE, PAGE, PLACE,
};
use super::work::{maps, Device, End, Scene, Work};
use crate::support::ctx::{Ctx, TestResult};
use crate::support::sys;
use crate::{check, check_eq, fail};
use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE};
use std::time::Instant;

/// Seconds, by its own clock, after which a combination hangs.
const PATIENCE: u32 = 300;
/// Failures after which the rest is not tried.
const ENOUGH: usize = 8;
const CORE: &str = "/tmp/core-of-cross";
/// A variable of the environment: the number of the only combination to run.
pub const ONE: &str = "RPMEM_CROSS";
/// Of how many parts the short form is one.
const SHORT_SHARDS: usize = 24;

/// Where a mapping is; where the device has no room for entries of that size, as for smaller ones.
fn layout(extent: &Extent, entry: u64) -> Option<Layout> {
    extent.layout(entry).or_else(|| extent.layout(HUGE))
}

/// A combination, in a process of its own.
fn combination(scene: &Scene, c: &Combination, prefault: bool) -> Check {
    // CLOCK: long, and only to say which one hangs.
    // SAFETY: a clock of this process.
    unsafe { libc::alarm(PATIENCE) };
    sys::catch_probes();
    for at in scene.warm {
        sys::probe_load(*at).ok();
    }
    let layout = layout(&scene.extent, c.entry).ok_or("no room")?;
    let cut = layout.cut(c.cut, c.entry).ok_or("no such cut")?;
    let mut work = Work {
        scene,
        layout,
        space: Space::default(),
        addresses: layout.interesting(&cut, c.entry),
    };
    if !scene.mode.offers(c.kind) {
        let e = scene.map_at(c.kind, layout.start..layout.end, layout.offset);
        return match e {
            libc::EOPNOTSUPP => Ok(()),
            e => Err(format!("mmap: errno {e}, must be EOPNOTSUPP")),
        };
    }
    sys::page_tables()?;
    maps()?;
    let before = sys::page_tables()?;
    work.map(c.kind)?;
    let size = work.make_entry(c, prefault && c.row.call != Call::Cannot)?;
    if size != scene.mode.made(c.kind, c.entry) {
        return Err(format!("an entry of {size:#x} bytes"));
    }
    work.touch()?;
    if c.row.on != On::Range && c.row.call != Call::BadBlock && c.cut != Cut::Whole {
        let len = (cut.end - cut.start) as usize;
        // SAFETY: a part of a mapping of ours.
        if unsafe { libc::mprotect(cut.start as *mut _, len, PROT_READ) } != 0 {
            return Err(os("mprotect"));
        }
        work.space.protect(cut.clone(), PROT_READ);
        work.touch()?;
    }
    let end = work.call(c, &cut)?;
    work.check()?;
    match end {
        End::Unmapped => {
            // SAFETY: nothing else is there.
            let r =
                unsafe { libc::munmap(PLACE.start as *mut _, (PLACE.end - PLACE.start) as usize) };
            if r != 0 {
                return Err(os("munmap"));
            }
            let after = sys::page_tables()?;
            if after != before {
                return Err(format!("page tables: {before:#x} bytes, then {after:#x}"));
            }
            Ok(())
        }
        End::Exit => Ok(()),
        // SAFETY: all of these end the process.
        End::Exec => unsafe {
            let (program, none) = (c"/usr/bin/true", std::ptr::null());
            libc::execv(program.as_ptr(), [program.as_ptr(), none].as_ptr());
            Err(os("execv"))
        },
        End::Kill => unsafe {
            libc::raise(libc::SIGKILL);
            Err(os("raise"))
        },
        End::CoreDump => unsafe {
            let all = libc::rlimit {
                rlim_cur: libc::RLIM_INFINITY,
                rlim_max: libc::RLIM_INFINITY,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &all);
            libc::abort()
        },
    }
}

/// What a process that ended so was to end with, and left behind.
fn check_end(c: &Combination, status: i32) -> Check {
    let want = match c.row.call {
        Call::Kill => libc::SIGKILL,
        Call::CoreDump => libc::SIGABRT | 0x80,
        _ => 0,
    };
    if status != want {
        return Err(format!("the process ended with {status:#x}"));
    }
    if c.row.call == Call::CoreDump {
        let core = std::fs::read(CORE).map_err(|e| format!("{CORE}: {e}"))?;
        std::fs::remove_file(CORE).map_err(|e| format!("{CORE}: {e}"))?;
        let ours = |w: &&[u8]| w[4..] == (MAGIC as u32).to_le_bytes();
        let words = core.chunks_exact(8).filter(ours).count();
        // Some are on the stack.
        if words >= WORDS as usize / 2 {
            return Err(format!("{words} words of the medium are in the core"));
        }
    }
    Ok(())
}

/// What the program itself has in memory, an address in each page table.
fn warm() -> TestResult<Vec<u64>> {
    let text = std::fs::read_to_string("/proc/self/maps")?;
    let mut all = Vec::new();
    for l in text.lines().filter(|l| !l.contains("[v")) {
        let mut words = l.split([' ', '-']);
        let mut next = || u64::from_str_radix(words.next().unwrap_or_default(), 16).unwrap_or(0);
        let (mut at, end) = (next(), next());
        while l.contains(" r") && at < end {
            all.push(at);
            at = (at + HUGE) & !(HUGE - 1);
        }
    }
    Ok(all)
}

/// Bytes of page tables for one small page in `PLACE`, all of which go with it.
fn depth() -> TestResult<u64> {
    let before = sys::page_tables()?;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    // SAFETY: nothing else is there.
    unsafe {
        let rw = PROT_READ | PROT_WRITE;
        let p = libc::mmap(PLACE.start as *mut _, PAGE as usize, rw, flags, -1, 0);
        check!(p != libc::MAP_FAILED, "{}", os("mmap"));
        p.cast::<u64>().write_volatile(1);
        let depth = sys::page_tables()? - before;
        check_eq!(libc::munmap(p, PAGE as usize), 0);
        check_eq!(
            sys::page_tables()?,
            before,
            "page tables of anonymous memory"
        );
        Ok(depth)
    }
}

/// The namespace is what the table says.
fn check_mode(c: &Ctx, mode: &Mode, device: &Device) -> TestResult<Extent> {
    let h = &device.here;
    let folios = mode.memory == Memory::Folios;
    check_eq!(h.attr(c, "pinnable")?, u64::from(folios), "pinnable");
    let synchronous = u64::from(mode.synchronous);
    check_eq!(h.attr(c, "synchronous")?, synchronous, "synchronous");
    check_eq!(h.attr(c, "huge_page")?, mode.largest, "huge_page");
    let extent = Extent {
        phys: h.resource(c)?,
        size: h.attr(c, "size")?,
    };
    let large = mode.largest == GIB;
    check!(
        extent.is_large() || !large,
        "no room for 1 GiB: {extent:x?}"
    );
    Ok(extent)
}

/// All of a mode, or in the short form a part in which each row is.
pub fn run(c: &mut Ctx, mode: &'static Mode) -> TestResult {
    // CLOCK: only shown.
    let begin = Instant::now();
    if !mode.create.is_empty() {
        c.init_labels()?;
        c.create_namespace(mode.create)?;
    }
    // Nobody gives the lease of direct mappings back.
    c.write("/proc/sys/fs/lease-break-time", "0")?;
    c.write("/proc/sys/kernel/core_pattern", CORE)?;
    let mut device = Device::new(c)?;
    let extent = check_mode(c, mode, &device)?;
    let all = table::all(mode, &extent);
    let one = std::env::var(ONE).ok().and_then(|n| n.parse().ok());
    let chosen = match one {
        Some(n) => vec![n],
        None if c.long => (0..all.len()).collect(),
        None => table::shard(&all, 0, SHORT_SHARDS),
    };
    let mut pages = Vec::new();
    for combination in &all {
        let Some(l) = layout(&extent, combination.entry) else {
            continue;
        };
        let Some(cut) = l.cut(combination.cut, combination.entry) else {
            continue;
        };
        for at in l.interesting(&cut, combination.entry) {
            pages.push(l.device(at));
            if cut.contains(&at) {
                // Where remap_file_pages brings it.
                pages.push(l.offset + (at - cut.start));
            }
        }
    }
    pages.sort();
    pages.dedup();
    println!(
        "{}: {extent:x?}, {} of {} combinations, {} pages",
        mode.name,
        chosen.len(),
        all.len(),
        pages.len()
    );
    let board = Board::new(pages)?;
    let (depth, warm) = (depth()?, warm()?);
    let start = |device: &Device| witness(&device.here.path, extent.size, &board);
    let mut peer = Some(start(&device)?);
    let mut failures = Vec::new();
    let mut slowest = (0, String::new());
    for n in &chosen {
        let Some(combination) = all.get(*n) else {
            fail!("there is no number {n}");
        };
        if combination.row.on == On::Device {
            peer = None;
        }
        let mappings = device.mappings()?;
        let scene = Scene {
            mode,
            extent,
            board: &board,
            device: &device,
            witness: peer.as_ref(),
            depth,
            warm: &warm,
        };
        // CLOCK: only shown.
        let at = Instant::now();
        let mut done = in_child(|| self::combination(&scene, combination, n % 2 == 1))
            .and_then(wait)
            .and_then(|status| check_end(combination, status));
        // After an unbind there is nothing that could say.
        if combination.row.call != Call::Unbind {
            let left = device.mappings()?;
            if done.is_ok() && left != mappings {
                done = Err(format!("{left} mappings, there were {mappings}"));
            }
        }
        if combination.row.on == On::Device {
            let space = device.here.space.clone();
            drop(device);
            if combination.row.call != Call::Unbind || c.bound_to(&space.nd).is_some() {
                space.unbind(c)?;
            }
            space.bind(c)?;
            device = Device::new(c)?;
            peer = Some(start(&device)?);
        } else if done.is_ok() {
            done = scene.ask(VERIFY, 0..0);
        }
        let ms = at.elapsed().as_millis();
        if ms > slowest.0 {
            slowest = (ms, combination.to_string());
        }
        if let Err(why) = done {
            println!("number {n}, {combination}: {why}");
            failures.push(format!("number {n}, {combination}"));
            if failures.len() >= ENOUGH {
                break;
            }
        }
    }
    drop(peer);
    check!(
        failures.is_empty(),
        "{} combinations: {}",
        failures.len(),
        failures[0]
    );
    check_eq!(device.mappings()?, 0, "mappings");
    let h = device.here;
    drop((device.rw, device.ro, device.mappings));
    h.space.unbind(c)?;
    h.space.bind(c)?;
    println!(
        "result: cross: {} combinations of {}, mode {}, {} s",
        chosen.len(),
        all.len(),
        mode.name,
        begin.elapsed().as_secs()
    );
    println!("the slowest: {} ms, {}", slowest.0, slowest.1);
    Ok(())
}
