// SPDX-License-Identifier: GPL-2.0
//! An operation again and again, each time with the next allocation that fails.

use super::DEBUG;
use crate::support::ctx::{Ctx, Outcome, TestResult};
use crate::{check, fail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

// Failing allocations.

/// Caches of the kernel's own instruments, which are not what is tested: kmemleak would take each
/// allocation that it watches from a reserve, and debug objects would switch themselves off.
const INSTRUMENTS: &[&str] = &[
    "kmemleak_object",
    "kmemleak_scan_area",
    "debug_objects_cache",
];

/// Lets the n-th allocation of this task fail, and says which one that was.
struct Injector {
    nth: File,
    log: File,
}

/// More allocations than any operation has.
const NO_END: usize = 100_000;

/// What became of an operation with a failing allocation.
pub struct Shot {
    pub result: io::Result<()>,
    /// Whether an allocation failed; if not, there were fewer of them,
    pub hit: bool,
    /// by so many.
    pub left: usize,
    /// The functions that asked for it, innermost first; empty where the kernel is told not to
    /// warn (__GFP_NOWARN).
    pub chain: Vec<String>,
}

impl Shot {
    pub fn in_driver(&self) -> bool {
        self.chain.iter().any(|f| f.ends_with("[rpmem]"))
    }

    pub fn in_function(&self, name: &str) -> bool {
        self.chain.iter().any(|f| f.split('+').next() == Some(name))
    }

    /// The innermost functions, `depth` of them.
    pub fn place(&self, depth: usize) -> String {
        if self.chain.is_empty() {
            return "(silent)".into();
        }
        let name = |f: &String| match f.ends_with("[rpmem]") {
            true => "rpmem".to_string(),
            false => f.split('+').next().unwrap_or_default().to_string(),
        };
        let mut v: Vec<String> = self.chain.iter().take(depth).map(name).collect();
        v.dedup();
        v.join(" < ")
    }
}

impl Injector {
    fn new(c: &Ctx) -> TestResult<Injector> {
        for attr in ["failslab", "fail_page_alloc"] {
            c.write(format!("{DEBUG}/{attr}/ignore-gfp-wait"), "N")?;
            c.write(format!("{DEBUG}/{attr}/probability"), "0")?;
            c.write(format!("{DEBUG}/{attr}/verbose"), "2")?;
        }
        c.write(format!("{DEBUG}/fail_page_alloc/ignore-gfp-highmem"), "N")?;
        c.write(format!("{DEBUG}/fail_page_alloc/min-order"), "0")?;
        let mut caches = 0;
        for cache in fs::read_dir("/sys/kernel/slab")?.flatten() {
            let name = cache.file_name().to_string_lossy().into_owned();
            let on = !INSTRUMENTS.contains(&name.as_str());
            c.write(cache.path().join("failslab"), if on { "1" } else { "0" })?;
            caches += 1;
        }
        check!(caches > 50, "{caches} slab caches");
        c.write(format!("{DEBUG}/failslab/cache-filter"), "Y")?;
        // The stack of each injection goes to the log, at the level of messages that name none,
        // but not to the console: that is slow. What a splat says has a level of its own.
        c.write("/proc/sys/kernel/printk", "7 7 1 7")?;
        let nth = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
            .map_err(|e| format!("/proc/thread-self/fail-nth: {e}"))?;
        let mut log = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        log.seek(SeekFrom::End(0))?;
        Ok(Injector { nth, log })
    }

    /// Run `op` with its `n`-th allocation failing.
    fn shoot(&mut self, n: usize, op: &mut dyn FnMut() -> io::Result<()>) -> TestResult<Shot> {
        self.take_log()?;
        let arm = n.to_string();
        let mut left = [0u8; 16];
        self.nth.write_all_at(arm.as_bytes(), 0)?;
        let result = op();
        let got = self.nth.read_at(&mut left, 0);
        self.nth.write_all_at(b"0", 0)?;
        let left = String::from_utf8_lossy(&left[..got?]).trim().to_string();
        let left = left.parse().map_err(|_| format!("fail-nth: {left:?}"))?;
        let hit = left == 0;
        let log = self.take_log()?;
        let told = log
            .iter()
            .filter(|l| l.contains("FAULT_INJECTION: forcing a failure"))
            .count();
        check!(
            told <= usize::from(hit),
            "{told} failures in the log for one that was asked for"
        );
        Ok(Shot {
            result,
            hit,
            left,
            chain: chain(&log),
        })
    }

    /// Messages of the kernel since the last call.
    fn take_log(&mut self) -> TestResult<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0u8; 8192];
        loop {
            match self.log.read(&mut record) {
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]).into_owned();
                    let text = text.split_once(';').map_or("", |x| x.1);
                    // Lines that follow are properties of the record.
                    lines.push(text.lines().next().unwrap_or_default().to_string());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(lines),
                // Overwritten before it was read: the next one is there.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(e) => fail!("/dev/kmsg: {e}"),
            }
        }
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        let _ = fs::write("/proc/sys/kernel/printk", "8 4 1 7");
    }
}

/// Functions between a caller that needs memory and the injection.
const ALLOCATORS: &[&str] = &[
    "dump_stack",
    "should_fail",
    "__should_fail",
    "fail_dump",
    "kmem_cache_alloc",
    "__kmem_cache",
    "kmalloc",
    "__kmalloc",
    "__do_kmalloc",
    "krealloc",
    "__kvmalloc",
    "kvmalloc",
    "kvrealloc",
    "alloc_pages",
    "__alloc_pages",
    "alloc_frozen",
    "__alloc_frozen",
    "__folio_alloc",
    "folio_alloc",
    "alloc_slab",
    "allocate_slab",
    "new_slab",
    "___slab",
    "__slab",
    "refill_",
    "alloc_from_pcs",
    "__pcs",
    "get_free_pages",
    "get_zeroed_page",
    "__vmalloc",
    "vmalloc",
    "kmemdup",
    "kstrdup",
    "kvasprintf",
    "kasprintf",
    "kasan",
    "stack_depot",
    "kmemleak",
    "prepare_alloc",
];

/// The chain of callers in the first report of the fault injection.
fn chain(log: &[String]) -> Vec<String> {
    log.iter()
        .skip_while(|l| !l.contains("FAULT_INJECTION: forcing a failure"))
        .skip_while(|l| !l.contains("Call Trace:"))
        .skip(1)
        .take_while(|l| !l.contains("</TASK>"))
        .map(|l| l.trim())
        // Frames with a question mark are guesses.
        .filter(|l| !l.starts_with('?') && l.contains("+0x"))
        .map(|l| {
            let (place, module) = l.split_once(' ').unwrap_or((l, ""));
            let place = place.split('/').next().unwrap_or(place);
            format!("{place} {module}").trim().to_string()
        })
        .skip_while(|f| ALLOCATORS.iter().any(|a| f.starts_with(a)))
        .collect()
}

/// Functions of the kernel that give another errno than ENOMEM if memory is short.
const ERRNOS: &[(&str, i32)] = &[
    ("devm_memremap", libc::ENXIO),
    // Null is all that these can say: for their callers the range is taken.
    ("__request_region", libc::EBUSY),
    ("__devm_request_region", libc::EBUSY),
    ("module_add_driver", libc::EINVAL),
    // The disk has no name then, which device_add() refuses.
    ("__add_disk", libc::EINVAL),
    // In nd_pfn_probe(), which then takes no info block; rpmem does not go on without it.
    ("devm_kmalloc", libc::EOPNOTSUPP),
];

/// Functions of the kernel that do without, or say nothing, if memory is short. An error that the
/// driver has lost would be an allocation that is in none of them, and yet no failure.
const TOLERANT: &[&str] = &[
    "kobject_uevent_env",
    "devtmpfs_create_node",
    "debugfs_start_creating",
    "__debugfs_create_file",
    "debugfs_create_dir",
    "rand_initialize_disk",
    // No partitions are found.
    "disk_scan_partitions",
    // The namespace is not of their kind, for all they know.
    "nd_btt_probe",
    "nd_pfn_probe",
    "nd_dax_probe",
    // kmalloc() first, then vmalloc().
    "rust_helper_kvrealloc_node_align",
    // Reserves.
    "preload_this_cpu_lock",
    "__pcs_replace_empty_main",
    // A cache for bios of a size that there was none of is not in /sys/kernel/slab then.
    "sysfs_slab_add",
    "__lookup_slow",
];

/// What a series is about.
#[derive(Default)]
pub struct Aim<'a> {
    pub what: &'a str,
    /// How many distinct call chains it must meet, and how many of those through the driver.
    pub floor: (usize, usize),
    /// How many allocations at the end are not sampled in the short form.
    pub tail: usize,
    /// A function of the kernel whose allocations are of another series. In the short form, a few
    /// of them are enough.
    pub elsewhere: &'a str,
    /// As `TOLERANT`.
    pub tolerant: &'a [&'a str],
}

/// What a series of failing allocations met.
#[derive(Default)]
struct Met {
    shots: usize,
    silent: usize,
    /// Distinct call chains, and those of them that lead through the driver.
    chains: BTreeSet<Vec<String>>,
    in_driver: BTreeSet<Vec<String>>,
    errnos: BTreeMap<i32, BTreeMap<String, usize>>,
    unexpected: Vec<String>,
    tolerated: BTreeMap<String, usize>,
}

/// Lets the first, the second, ... allocation of `op` fail until it needs no more of them. `judge`
/// looks at what each left behind and puts everything back in its place. `op` may fail with
/// ENOMEM, or as in `ERRNOS`. In the short form, runs of allocations at one and the same place are
/// sampled.
pub fn series(
    c: &Ctx,
    aim: &Aim,
    op: &mut dyn FnMut() -> io::Result<()>,
    judge: &mut dyn FnMut(usize, &Shot) -> TestResult,
) -> TestResult {
    let (what, floor) = (aim.what, aim.floor);
    let mut injector = Injector::new(c)?;
    let mut met = Met::default();
    let (mut last, mut run) = (String::new(), 0);
    // CLOCK: only shown.
    let began = Instant::now();
    let mut n = 1;
    let whole = injector.shoot(NO_END, op)?;
    let all = NO_END - whole.left;
    judge(0, &whole)?;
    loop {
        let shot = injector.shoot(n, op)?;
        let place = shot.place(3);
        let at = |why: String| -> Outcome {
            let all = shot.chain.join("\n    ");
            Outcome::Fail(format!("{what}, allocation {n}: {why}\n    {all}"))
        };
        match &shot.result {
            Err(e) => {
                let e = e.raw_os_error().unwrap_or(-1);
                let places = met.errnos.entry(e).or_default();
                *places.entry(place.clone()).or_default() += 1;
                let known = |r: &(&str, i32)| r.1 == e && shot.in_function(r.0);
                if e != libc::ENOMEM && !ERRNOS.iter().any(known) {
                    met.unexpected
                        .push(format!("errno {e}, {}", shot.chain.join(" < ")));
                }
                if !shot.hit {
                    return Err(at(format!("errno {e} without a failed allocation")));
                }
            }
            Ok(()) if shot.hit => {
                *met.tolerated.entry(shot.place(7)).or_default() += 1;
                let mut known = TOLERANT.iter().chain(aim.tolerant);
                let known = shot.chain.is_empty() || known.any(|f| shot.in_function(f));
                if !known {
                    met.unexpected
                        .push(format!("no error, {}", shot.chain.join(" < ")));
                }
            }
            Ok(()) => {}
        }
        if let Err(Outcome::Fail(why)) = judge(n, &shot) {
            return Err(at(why));
        }
        if !shot.hit {
            break;
        }
        met.shots += 1;
        if shot.chain.is_empty() {
            met.silent += 1;
        } else {
            met.chains.insert(shot.chain.clone());
        }
        if shot.in_driver() {
            met.in_driver.insert(shot.chain.clone());
        }
        run = if place == last { run + 1 } else { 0 };
        last = place;
        n += if c.long || n + aim.tail >= all {
            1
        } else if shot.in_function(aim.elsewhere) {
            16
        } else {
            1 << (run / 2).min(4)
        };
        check!(n < NO_END, "{what}: no end of allocations");
    }
    println!(
        "{what}: {} of {} allocations failed, {} of them silently; {} call chains, {} of them \
         through the driver; {:.1} s",
        met.shots,
        all,
        met.silent,
        met.chains.len(),
        met.in_driver.len(),
        began.elapsed().as_secs_f64()
    );
    for (e, places) in &met.errnos {
        println!("    errno {e}: {}", places.values().sum::<usize>());
        for (place, count) in places.iter().filter(|_| *e != libc::ENOMEM) {
            println!("        {count} x {place}");
        }
    }
    for (place, count) in &met.tolerated {
        println!("    tolerated: {count} x {place}");
    }
    check!(
        met.unexpected.is_empty(),
        "{what}: {}",
        met.unexpected.join("\n")
    );
    let met = (met.chains.len(), met.in_driver.len());
    check!(
        met.0 >= floor.0 && met.1 >= floor.1,
        "{what}: (call chains, those through the driver) are {met:?}, must be at least {floor:?}"
    );
    Ok(())
}
