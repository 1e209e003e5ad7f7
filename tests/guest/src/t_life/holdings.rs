// SPDX-License-Identifier: GPL-2.0
//! What the system holds for namespaces, before and after.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::tools::{self, names};
use crate::{check, check_eq, fail};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::time::Instant;

// Leaks.

/// What the kernel holds, as far as it tells.
struct Holdings {
    slabs: BTreeMap<String, (u64, u64)>,
    vmalloc: BTreeMap<String, (u64, u64)>,
    iomem: String,
    modules: BTreeMap<String, String>,
    entries: BTreeMap<&'static str, Vec<String>>,
    available: u64,
    percpu: u64,
}

/// Folders that have an entry for each disk, DAX device or module that there is.
const FOLDERS: &[&str] = &[
    "/sys/block",
    "/sys/class/block",
    "/sys/kernel/debug/block",
    "/sys/kernel/slab",
    "/sys/bus/nd/devices",
    "/sys/devices/virtual/block",
    "/dev",
];

fn holdings(c: &Ctx) -> TestResult<Holdings> {
    // What RCU, caches and per-CPU lists still hold is no leak.
    // SAFETY: no arguments.
    unsafe { libc::sync() };
    c.write("/proc/sys/vm/drop_caches", "3")?;
    // Unloading a module makes vmalloc give up the addresses that it frees lazily.
    c.ok(&["modprobe", "brd", "rd_nr=0"])?;
    c.rmmod("brd")?;
    for _ in 0..3 {
        for cache in fs::read_dir("/sys/kernel/slab")?.flatten() {
            let _ = fs::write(cache.path().join("shrink"), "1");
        }
        // A grace period (MEMBARRIER_CMD_GLOBAL), for what shrinking gave to RCU.
        // SAFETY: no pointers.
        let r = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
        check!(r == 0, "membarrier: {}", io::Error::last_os_error());
    }
    tools::drain_lists(c)?;

    let mut slabs = BTreeMap::new();
    for l in c.read("/proc/slabinfo")?.lines().skip(2) {
        let w: Vec<&str> = l.split_whitespace().collect();
        if let [name, active, _, size, ..] = w[..] {
            if let (Ok(a), Ok(s)) = (active.parse(), size.parse()) {
                slabs.insert(name.to_string(), (a, s));
            }
        }
    }
    check!(
        slabs.len() > 20,
        "/proc/slabinfo has {} caches",
        slabs.len()
    );

    let mut vmalloc: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for l in c.read("/proc/vmallocinfo")?.lines() {
        let mut w = l.split_whitespace().skip(1);
        let size: u64 = w.next().and_then(|s| s.parse().ok()).unwrap_or(0);
        let who = w.next().unwrap_or("?");
        // Offsets in functions do not matter.
        let who = who.split('+').next().unwrap_or(who);
        // Stacks belong to processes that come and go, and are cached; freed ranges are no leak.
        if [
            "dup_task_struct",
            "copy_process",
            "kernel_clone",
            "unpurged",
        ]
        .contains(&who)
        {
            continue;
        }
        let e = vmalloc.entry(who.to_string()).or_default();
        *e = (e.0 + 1, e.1 + size);
    }
    check!(!vmalloc.is_empty(), "/proc/vmallocinfo is empty");

    let mut modules = BTreeMap::new();
    for l in c.read("/proc/modules")?.lines() {
        let w: Vec<&str> = l.split(' ').collect();
        modules.insert(w[0].to_string(), w[2].to_string());
    }
    let mut entries = BTreeMap::new();
    for dir in FOLDERS {
        entries.insert(*dir, names(dir));
    }
    // Named by device numbers, which change.
    let bdi = names("/sys/class/bdi").len();
    entries.insert("/sys/class/bdi", vec![format!("{bdi} entries")]);
    let meminfo = |key: &str| -> TestResult<u64> {
        let all = c.read("/proc/meminfo")?;
        let l = all
            .lines()
            .find_map(|l| l.strip_prefix(key))
            .unwrap_or_default();
        let n = l
            .trim_start_matches(':')
            .trim_end_matches("kB")
            .trim()
            .parse();
        n.map_err(|_| format!("/proc/meminfo: {key} {l:?}").into())
    };
    Ok(Holdings {
        slabs,
        vmalloc,
        iomem: c.read("/proc/iomem")?,
        modules,
        entries,
        available: meminfo("MemAvailable")?,
        percpu: meminfo("Percpu")?,
    })
}

/// What grew by about as much as `cycles` leaks of one object each: by three quarters of that. Other
/// traffic (the test's own processes) adds less: what it needs, it needed in the warm-up.
fn grown(before: &Holdings, after: &Holdings, cycles: usize) -> BTreeMap<String, String> {
    let mut bad = BTreeMap::new();
    let limit = cycles as u64 * 3 / 4;
    for (name, (n, size)) in &after.slabs {
        let was = before.slabs.get(name).map_or(0, |x| x.0);
        if *n > was + limit {
            bad.insert(
                format!("slab {name}"),
                format!("{was} objects of {size} bytes, now {n}"),
            );
        }
    }
    for (who, (n, bytes)) in &after.vmalloc {
        let (was, was_bytes) = before.vmalloc.get(who).copied().unwrap_or_default();
        if *n > was || *bytes > was_bytes {
            bad.insert(
                format!("vmalloc {who}"),
                format!("{was} ranges, {was_bytes} bytes, now {n}, {bytes}"),
            );
        }
    }
    // 16 KiB a cycle are less than the page map of the smallest namespace.
    if after.available + 16 * (cycles as u64) < before.available {
        bad.insert(
            "MemAvailable".into(),
            format!("{} kB, now {} kB", before.available, after.available),
        );
    }
    if after.percpu > before.percpu + limit {
        bad.insert(
            "Percpu".into(),
            format!("{} kB, now {} kB", before.percpu, after.percpu),
        );
    }
    println!(
        "{cycles} cycles: MemAvailable {:+} kB, Percpu {:+} kB, slab {:+} objects",
        after.available as i64 - before.available as i64,
        after.percpu as i64 - before.percpu as i64,
        after.slabs.values().map(|x| x.0 as i64).sum::<i64>()
            - before.slabs.values().map(|x| x.0 as i64).sum::<i64>(),
    );
    bad
}

/// What must be the same at any time.
fn must_be_the_same(before: &Holdings, after: &Holdings) -> TestResult {
    check_eq!(after.iomem, before.iomem, "/proc/iomem");
    check_eq!(after.modules, before.modules, "references of modules");
    for (dir, was) in &before.entries {
        check_eq!(&after.entries[dir], was, "entries of {dir}");
    }
    Ok(())
}

/// How often a cycle is repeated.
pub fn cycles(c: &Ctx) -> usize {
    c.rounds(10, 100) as usize
}

/// How often what a cycle has left behind must grow before that is a leak.
const ROUNDS: usize = 8;

/// `body` a few times, then `cycles` times with a look at what the kernel holds before and after.
///
/// Caches that fill up to a bound (per-CPU lists of pages, sheaves of objects that wait for RCU)
/// look like growth. They stop at their bound; a leak does not. So red is what grows in each of
/// `ROUNDS`.
pub fn cycle(c: &Ctx, cycles: usize, mut body: impl FnMut(usize) -> TestResult) -> TestResult {
    let mut done = 0;
    let mut run = |n: usize| -> TestResult {
        for _ in 0..n {
            body(done)?;
            done += 1;
        }
        Ok(())
    };
    run(1 + cycles / 10)?;
    let mut before = holdings(c)?;
    let mut suspects: Option<BTreeMap<String, String>> = None;
    for _ in 0..ROUNDS {
        // CLOCK: only shown.
        let start = Instant::now();
        run(cycles)?;
        println!("{cycles} cycles in {:.1} s", start.elapsed().as_secs_f64());
        let after = holdings(c)?;
        must_be_the_same(&before, &after)?;
        let mut now = grown(&before, &after, cycles);
        if let Some(s) = &suspects {
            now.retain(|k, _| s.contains_key(k));
        }
        if now.is_empty() {
            return Ok(());
        }
        println!("grown: {now:?}");
        suspects = Some(now);
        before = after;
    }
    fail!("grown in each of {ROUNDS} rounds of {cycles} cycles: {suspects:?}")
}
