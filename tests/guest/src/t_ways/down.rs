// SPDX-License-Identifier: GPL-2.0
//! Nothing that was stored is dropped when the machine goes down in good order: by cache line, in boots with
//! `durable`. Claims are made before, and judged when the last instruction has been executed.
//!
//! In use are a node of each kind with mappings that nobody has msynced, disks that were written to and not
//! flushed, and an ext4 with DAX, mounted, with mapped files.

use super::{mode, on_first_cpu};
use crate::support::ctx::{self, Ctx, Test, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::durable::{self, Down, Medium};
use crate::support::hibernate::hibernate as hibernate_now;
use crate::support::kexec::{load_again, start};
use crate::support::node::DIRECT_WINDOW;
use crate::support::sys::{self, Map, RW, SYNC};
use crate::support::tools::{self, PAGE};
use crate::{check, check_eq};
use libc::MAP_SHARED;
use std::fs::File;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    durable_restart => |c| goes_down(c, ctx::Down::Restart),
    durable_power_off => |c| goes_down(c, ctx::Down::PowerOff),
    durable_sleep => sleep,
    durable_hibernate => |c| hibernate(c, "shutdown"),
    durable_hibernate_by_firmware => |c| hibernate(c, "platform"),
    durable_kexec => kexec,
    durable_after_kexec => after_kexec,
};

const MNT: &str = "/mnt/down";
/// What each has of the medium, and what of it is stored to: no whole pages.
const ROOM: usize = 16 * PAGE;
const AT: usize = PAGE - 512;
const LEN: usize = 6 * PAGE;
/// Where the disk is written to, beside the mappings of its node.
const ON_DISK: u64 = 16 << 20;

/// How it was stored, where, the physical address of it and its length.
struct Line {
    store: &'static str,
    place: String,
    start: u64,
    len: usize,
}

/// What has been stored, and what it was stored by, still open.
struct Stored {
    lines: Vec<Line>,
    maps: Vec<Map>,
    files: Vec<File>,
}

impl Stored {
    fn map(&mut self, f: &File, offset: u64, flags: i32) -> TestResult<()> {
        let mut m = Map::new(f, offset, ROOM, RW, flags)?;
        sys::pattern(offset ^ 1, &mut m.slice_mut()[AT..AT + LEN]);
        self.maps.push(m);
        Ok(())
    }

    fn add(&mut self, store: &'static str, place: String, start: u64, len: usize) {
        self.lines.push(Line {
            store,
            place,
            start,
            len,
        });
    }

    fn new(c: &Ctx) -> TestResult<Stored> {
        // The one that goes down last: it takes the caches of others with it.
        on_first_cpu();
        let mut s = Stored {
            lines: Vec::new(),
            maps: Vec::new(),
            files: Vec::new(),
        };
        for space in tools::spaces(c)? {
            let medium = Medium::of(c, &space)?;
            let mode = mode(c, &space)?;
            if space.nd.starts_with("pfn") {
                s.mounted(c, &space, &medium)?;
                continue;
            }
            if c.driver == "rpmem" {
                let node = format!("/dev/r{}", space.disk);
                c.wait_exists(&node)?;
                let f = File::options().read(true).write(true).open(&node)?;
                let mut kinds = vec![
                    ("plain", 0, MAP_SHARED),
                    ("direct", DIRECT_WINDOW, medium.synchronous()),
                ];
                if !medium.of_host {
                    kinds.push(("synchronous", 0, SYNC));
                }
                for (n, (kind, window, flags)) in kinds.into_iter().enumerate() {
                    let offset = (n * ROOM) as u64;
                    s.map(&f, window + offset, flags)?;
                    let place = format!("/dev/rpmemN, {mode}, {kind} mapping");
                    let at = medium.start + offset + AT as u64;
                    s.add("store, nothing asked for", place, at, LEN);
                }
                s.files.push(f);
            }
            if !space.nd.starts_with("dax") {
                let f = disk::direct(&space.dev())?;
                f.write_all_at(Buf::pattern(ROOM, 3).bytes(), ON_DISK)?;
                s.files.push(f);
                let place = format!("/dev/pmemN, {mode}");
                let at = medium.start + ON_DISK;
                s.add("O_DIRECT write(2), not flushed", place, at, ROOM);
            }
        }
        Ok(s)
    }

    fn mounted(&mut self, c: &Ctx, space: &tools::Space, medium: &Medium) -> TestResult {
        c.mount(&space.dev(), MNT, "dax=always")?;
        for (name, flags) in [("plain", MAP_SHARED), ("synchronous", SYNC)] {
            let path = format!("{MNT}/{name}");
            let f = tools::file_of(&path, ROOM)?;
            check!(tools::is_dax(&f)?, "{path}: no DAX");
            f.write_all_at(Buf::pattern(ROOM, 7).bytes(), 0)?;
            f.sync_all()?;
            self.map(&f, 0, flags)?;
            for page in (0..AT + LEN).step_by(PAGE) {
                let at = page.max(AT);
                let start = medium.start + disk::block_of(&f, at as u64)?;
                let place = format!("ext4, {name} mapping");
                self.add("store, nothing asked for", place, start, PAGE - at % PAGE);
            }
            self.files.push(f);
        }
        Ok(())
    }

    /// That all of it is durable then; of files if they have been synced.
    fn claim_later(&self, c: &Ctx, by: &str, synced: &str) {
        for l in &self.lines {
            // Whose driver knows nothing of sleep. It is shut down as any other one.
            if c.driver == "nd_pmem" && l.place.ends_with("virtio-pmem") && synced.is_empty() {
                let text = format!("{}; (nothing) {by}; {}", l.store, l.place);
                durable::count_later(&text, l.start, l.len as u64);
                continue;
            }
            let with = if l.place.starts_with("ext4") {
                synced
            } else {
                ""
            };
            let text = format!("{}; {with}{by}; {}", l.store, l.place);
            // Disks and file systems leave the fence to a locked instruction, of the CPU that has stored.
            let fenced = l.place.starts_with("/dev/rpmemN");
            durable::claim_later(&text, l.start, l.len as u64, fenced);
        }
    }

    /// It is still there, and goes on.
    fn goes_on(&mut self) -> TestResult {
        for m in &mut self.maps {
            check!(
                m.slice()[AT..AT + LEN].iter().any(|b| *b != 0),
                "what was stored"
            );
            m.slice_mut()[AT..AT + LEN].fill(0x5a);
            m.msync()?;
        }
        Ok(())
    }

    fn end(self, c: &Ctx) -> TestResult {
        drop(self);
        c.umount(MNT)
    }
}

/// As on every host before it goes down.
fn sync() {
    // SAFETY: no arguments.
    unsafe { libc::sync() };
}

fn follow_again() -> TestResult {
    Ok(durable::follow_regions()?)
}

fn goes_down(c: &mut Ctx, how: ctx::Down) -> TestResult {
    let stored = Stored::new(c)?;
    sync();
    let by = match how {
        ctx::Down::Restart => "restart",
        ctx::Down::PowerOff => "power off",
    };
    stored.claim_later(c, by, "sync(2), ");
    durable::down(Down::Off);
    c.goes_down(how)
}

/// Suspend to RAM. The kernel itself syncs file systems.
fn sleep(c: &mut Ctx) -> TestResult {
    let mut stored = Stored::new(c)?;
    c.write("/sys/power/mem_sleep", "deep")?;
    stored.claim_later(c, "suspend to RAM", "");
    durable::down(Down::Reset);
    c.ask_monitor("wake")?;
    c.write("/sys/power/state", "mem")?;
    follow_again()?;
    stored.goes_on()?;
    stored.end(c)
}

/// The same.
fn hibernate(c: &mut Ctx, mode: &str) -> TestResult {
    let mut stored = Stored::new(c)?;
    stored.claim_later(c, &format!("hibernation, mode {mode}"), "");
    durable::down(Down::Off);
    hibernate_now(c, mode)?;
    follow_again()?;
    stored.goes_on()?;
    stored.end(c)
}

/// Until the other kernel is about to run.
fn kexec(c: &mut Ctx) -> TestResult {
    load_again(c, "", 0)?;
    let symbols = c.read("/proc/kallsyms")?;
    let line = symbols.lines().find(|l| l.ends_with(" machine_kexec"));
    let address = line.and_then(|l| u64::from_str_radix(l.split(' ').next()?, 16).ok());
    let address = address.filter(|a| *a != 0).ok_or("no machine_kexec")?;
    let stored = Stored::new(c)?;
    sync();
    stored.claim_later(c, "kexec", "sync(2), ");
    durable::down(Down::Reached(address));
    start()
}

/// The next kernel finds it.
fn after_kexec(c: &mut Ctx) -> TestResult {
    let mut found = 0;
    for space in tools::spaces(c)? {
        if space.nd.starts_with("pfn") || space.nd.starts_with("dax") {
            continue;
        }
        let f = disk::direct(&space.dev())?;
        let mut b = Buf::page(ROOM);
        f.read_exact_at(b.bytes_mut(), ON_DISK)?;
        check!(b.bytes() == Buf::pattern(ROOM, 3).bytes(), "{}", space.disk);
        found += 1;
    }
    check_eq!(found, 2, "disks");
    Ok(())
}
