// SPDX-License-Identifier: GPL-2.0
//! Flushes, counted at the disk, and the cache that a disk says it has.

use super::{name, pwritev, MNT};
use crate::support::arch::MEMCPY_FLUSHCACHE;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, errno, Buf, PAGE};
use crate::support::durable;
use crate::support::trace::TRACING;
use crate::{check, check_eq};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    block_flush_counted => flush_counted,
    block_flush_ext4 => flush_ext4,
    block_write_cache => write_cache,
};

/// Records, in order, what the block layer hands to a disk and what its driver makes of it.
struct Tracer {
    dir: String,
}

impl Tracer {
    fn new(c: &Ctx, dev: &str) -> TestResult<Tracer> {
        let rdev = {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(dev)?.rdev()
        };
        // SAFETY: arithmetic on a number.
        let (major, minor) = unsafe { (libc::major(rdev), libc::minor(rdev)) };
        let probes = format!("{TRACING}/kprobe_events");
        c.write(&probes, "p:rpmemt/flush nvdimm_flush bio=$arg2:x64")?;
        fs::OpenOptions::new()
            .append(true)
            .open(&probes)
            .and_then(|mut f| {
                use std::io::Write;
                let copy = format!("p:rpmemt/copy {MEMCPY_FLUSHCACHE} len=$arg3:u64");
                f.write_all(copy.as_bytes())
            })
            .map_err(|e| format!("kprobe on {MEMCPY_FLUSHCACHE}: {e}"))?;
        let t = Tracer {
            dir: format!("{TRACING}/instances/rpmemt"),
        };
        fs::create_dir(&t.dir)?;
        c.write(format!("{}/buffer_size_kb", t.dir), "2048")?;
        let queue = format!("{}/events/block/block_bio_queue", t.dir);
        c.write(
            format!("{queue}/filter"),
            &format!("dev == {}", (major << 20) | minor),
        )?;
        c.write(format!("{queue}/enable"), "1")?;
        c.write(format!("{}/events/rpmemt/enable", t.dir), "1")?;
        Ok(t)
    }

    /// Forget what was recorded.
    fn restart(&self) -> TestResult {
        // The truncation empties the buffer.
        File::create(format!("{}/trace", self.dir))?;
        Ok(())
    }

    /// What this thread did, and nobody else.
    fn own(&self, c: &Ctx) -> TestResult<Vec<(String, String, String)>> {
        // SAFETY: no arguments.
        let own = unsafe { libc::gettid() }.to_string();
        let mut events = self.events(c)?;
        events.retain(|e| e.0 == own);
        Ok(events)
    }

    /// (pid, event, arguments) in order.
    fn events(&self, c: &Ctx) -> TestResult<Vec<(String, String, String)>> {
        let text = c.read(format!("{}/trace", self.dir))?;
        let mut v = Vec::new();
        for l in text.lines() {
            if let Some(n) = l.split("entries-in-buffer/entries-written: ").nth(1) {
                let n = n.split_whitespace().next().unwrap_or_default();
                let (have, all) = n.split_once('/').unwrap_or_default();
                check_eq!(have, all, "events were lost");
            }
            if l.starts_with('#') {
                continue;
            }
            // "  name-123  [000] d.... 12.345678: event: (where) arguments"
            let Some((head, rest)) = l.split_once(": ") else {
                continue;
            };
            let Some((event, args)) = rest.split_once(": ") else {
                continue;
            };
            let task = head.split(" [").next().unwrap_or_default().trim();
            let pid = task.rsplit('-').next().unwrap_or_default();
            v.push((pid.into(), event.trim().into(), args.trim().into()));
        }
        Ok(v)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/events/enable", self.dir), "0");
        let _ = fs::remove_dir(&self.dir);
        let _ = fs::write(format!("{TRACING}/kprobe_events"), "");
    }
}

#[derive(Debug, Default)]
struct Flushes {
    bios: usize,
    preflush: usize,
    fua: usize,
    copies: usize,
}

/// Check, for every bio, that the bus was flushed as often and as early or late as it asked.
fn check_flushes(events: &[(String, String, String)]) -> TestResult<Flushes> {
    let mut sum = Flushes::default();
    // Per task: what has to come yet of the bio before.
    #[derive(Default)]
    struct State {
        bio: String,
        preflush: bool,
        fua: bool,
        data: bool,
        copied: bool,
    }
    let mut tasks: HashMap<&str, State> = HashMap::new();
    fn done(s: &State) -> TestResult {
        check!(!s.preflush, "no flush before the data of: {}", s.bio);
        check!(!s.fua, "no flush after the data of: {}", s.bio);
        check!(s.copied || !s.data, "no data was copied for: {}", s.bio);
        Ok(())
    }
    for (pid, event, args) in events {
        let s = tasks.entry(pid).or_default();
        match event.as_str() {
            "block_bio_queue" => {
                done(s)?;
                // "259,0 FWFS 8 + 8 [comm]"
                let mut words = args.split(' ').skip(1);
                let rwbs = words.next().unwrap_or_default();
                let sectors = words.nth(2).unwrap_or_default();
                let (pre, op) = match rwbs.strip_prefix('F') {
                    Some(op) => (true, op),
                    None => (false, rwbs),
                };
                let write = op.starts_with('W');
                *s = State {
                    bio: args.clone(),
                    preflush: pre,
                    fua: write && op[1..].contains('F'),
                    data: write && sectors != "0",
                    copied: false,
                };
                sum.bios += 1;
                sum.preflush += usize::from(s.preflush);
                sum.fua += usize::from(s.fua);
            }
            "flush" => {
                if args.ends_with("bio=0x0") {
                    check!(s.preflush, "an extra flush after: {}", s.bio);
                    check!(!s.copied, "a flush too late: {}", s.bio);
                    s.preflush = false;
                } else {
                    check!(s.fua, "an extra flush after: {}", s.bio);
                    check!(s.copied, "a flush too early: {}", s.bio);
                    s.fua = false;
                }
            }
            // Others copy with it too; only what follows a write with data counts.
            "copy" if s.data => {
                check!(!s.preflush, "data before the flush: {}", s.bio);
                s.copied = true;
                sum.copies += 1;
            }
            _ => {}
        }
    }
    for s in tasks.values() {
        done(s)?;
    }
    println!("{sum:?}");
    Ok(sum)
}

fn flush_counted(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let direct = disk::direct(&dev)?;
    let dsync = disk::open_flags(&dev, libc::O_DIRECT | libc::O_DSYNC)?;
    let b = Buf::pattern(2 * PAGE, 3);
    let t = Tracer::new(c, &dev)?;

    // Plain writes flush nothing.
    for i in 0..8 {
        direct.write_all_at(b.bytes(), i * 8192)?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (8, 0, 0), "plain writes");
    check!(n.copies >= 8, "copies: {}", n.copies);

    // Each fsync is one flush.
    t.restart()?;
    for _ in 0..5 {
        direct.sync_all()?;
        direct.sync_data()?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (10, 10, 0), "fsync, fdatasync");

    // Each O_DSYNC write is one FUA bio; the sync that follows it is a flush.
    t.restart()?;
    for i in 0..7 {
        dsync.write_all_at(b.bytes(), i * 8192)?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (14, 7, 7), "O_DSYNC");
    durable::written(&dsync, 0, 6 * 8192 + 2 * PAGE as u64, "O_DSYNC")?;

    // The same for single writes of a plain descriptor.
    t.restart()?;
    for i in 0..3 {
        pwritev(
            &direct,
            &[IoSlice::new(b.bytes())],
            i * 8192,
            libc::RWF_DSYNC,
        )?;
    }
    let n = check_flushes(&t.own(c)?)?;
    check_eq!((n.bios, n.preflush, n.fua), (6, 3, 3), "RWF_DSYNC");
    durable::written(&direct, 0, 2 * 8192 + 2 * PAGE as u64, "RWF_DSYNC")?;
    Ok(())
}

/// A journal asks for a flush before and after its commit record. Everybody's I/O counts: it is looked at
/// when the file system has gone, and with it all who may be in the middle of some.
fn flush_ext4(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "defaults")?;
    let t = Tracer::new(c, &dev)?;
    let mut f = File::create(format!("{MNT}/f"))?;
    for i in 0..6u8 {
        use std::io::Write;
        f.write_all(&[i; 5000])?;
        f.sync_all()?;
    }
    drop(f);
    c.umount(MNT)?;
    let n = check_flushes(&t.events(c)?)?;
    check!(n.preflush >= 6, "flushes before: {}", n.preflush);
    check!(n.fua >= 6, "flushes after: {}", n.fua);
    Ok(())
}

fn write_cache(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let path = format!("/sys/block/{}/dax/write_cache", name(&dev));
    let get = |c: &Ctx| c.read(&path);
    let set = c.try_write(&path);
    check_eq!(get(c)?, "1", "CPU caches of this machine are not durable");
    for (text, want) in [
        ("0", "0"),
        ("1", "1"),
        ("n", "0"),
        ("on", "1"),
        ("off\n", "0"),
        ("y", "1"),
    ] {
        set(text)?;
        check_eq!(get(c)?, want, "after {text:?}");
    }
    for text in ["2", "x", "", "-1", "write back"] {
        // A write of nothing never reaches the driver.
        if text.is_empty() {
            continue;
        }
        check_eq!(errno(&set(text)), libc::EINVAL, "{text:?}");
        check_eq!(get(c)?, "1", "after {text:?}");
    }
    use std::os::unix::fs::PermissionsExt;
    check_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o644);
    Ok(())
}
