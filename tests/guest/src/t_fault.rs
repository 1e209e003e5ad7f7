// SPDX-License-Identifier: GPL-2.0
//! Fault injection, with the kernel's own tools: allocations that fail one after the other while
//! a namespace is bound or unbound, requests that fail on a live disk, and functions of the driver
//! that fail on command.
//!
//! What is promised: a bind that fails leaves nothing behind, and the next one succeeds; a bind
//! that succeeds in spite of a failed allocation gives a disk that works.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::ctx::{Outcome, Test};
use crate::support::disk::{self, Buf};
use crate::support::namespace::{active, release};
use crate::support::tools::{self, errno, names, Space, PAGE};
use crate::{check, check_eq, fail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

pub const TESTS: &[Test] = crate::tests! {
    fault_start => start,
    fault_bind => |c| bind_series(c, Kind::Whole, (30, 25)),
    fault_create => create,
    fault_bind_raw => |c| bind_series(c, Kind::Raw, (40, 35)),
    fault_bind_mem => |c| bind_series(c, Kind::Mem, (20, 16)),
    fault_bind_dev => |c| bind_series(c, Kind::Dev, (22, 18)),
    fault_claim => claim_series,
    fault_mount => mount_series,
    fault_unbind => unbind_series,
    fault_load => load_series,
    fault_read_only => read_only_series,
    fault_requests => requests,
    fault_functions => functions,
    fault_leaks => leaks,
};

const DEBUG: &str = "/sys/kernel/debug";
const AUTOPROBE: &str = "/sys/bus/nd/drivers_autoprobe";
const MNT: &str = "/mnt/fault";
const BIND: &str = "/sys/bus/nd/drivers/rpmem/bind";
const UNBIND: &str = "/sys/bus/nd/drivers/rpmem/unbind";

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
struct Shot {
    result: io::Result<()>,
    /// Whether an allocation failed; if not, there were fewer of them,
    hit: bool,
    /// by so many.
    left: usize,
    /// The functions that asked for it, innermost first; empty where the kernel is told not to
    /// warn (__GFP_NOWARN).
    chain: Vec<String>,
}

impl Shot {
    fn in_driver(&self) -> bool {
        self.chain.iter().any(|f| f.ends_with("[rpmem]"))
    }

    fn in_function(&self, name: &str) -> bool {
        self.chain.iter().any(|f| f.split('+').next() == Some(name))
    }

    /// The innermost functions, `depth` of them.
    fn place(&self, depth: usize) -> String {
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
struct Aim<'a> {
    what: &'a str,
    /// How many distinct call chains it must meet, and how many of those through the driver.
    floor: (usize, usize),
    /// How many allocations at the end are not sampled in the short form.
    tail: usize,
    /// A function of the kernel whose allocations are of another series. In the short form, a few
    /// of them are enough.
    elsewhere: &'a str,
    /// As `TOLERANT`.
    tolerant: &'a [&'a str],
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
fn series(
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

// What is there.

/// Folders that show what a bound namespace makes, or leaves.
const FOLDERS: &[&str] = &[
    "/sys/block",
    "/sys/class/block",
    "/sys/class/bdi",
    "/sys/class/dax",
    "/sys/bus/dax/devices",
    "/sys/bus/nd/devices",
    "/sys/devices/virtual/block",
    "/sys/devices/virtual/bdi",
    "/sys/kernel/debug/block",
    "/sys/kernel/debug/bdi",
    "/sys/kernel/slab",
    "/dev",
];

/// Everything by which a namespace that is not bound could show.
fn rest(c: &Ctx, nd: &str) -> TestResult<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for dir in FOLDERS {
        all.insert(dir.to_string(), names(dir).join(" "));
    }
    let nd = c.nd(nd);
    all.insert("attributes".into(), names(&nd).join(" "));
    all.insert("/proc/iomem".into(), c.read("/proc/iomem")?);
    for module in ["rpmem", "libnvdimm"] {
        let refs = c.read(format!("/sys/module/{module}/refcnt"));
        all.insert(format!("references to {module}"), refs.unwrap_or_default());
    }
    Ok(all)
}

fn must_rest(c: &Ctx, nd: &str, before: &BTreeMap<String, String>) -> TestResult {
    let differ = || -> TestResult<Option<String>> {
        let now = rest(c, nd)?;
        let d = before.iter().find(|(k, v)| now.get(*k) != Some(v));
        Ok(d.map(|(k, v)| format!("{k}:\n{}\nwas:\n{v}", now[k])))
    };
    check_eq!(c.bound_to(nd), None, "driver of {nd}");
    // The end of a block device's number is known to others after a grace period.
    let mut last = String::new();
    c.wait_for("what is left behind to go", || match differ() {
        Ok(None) => true,
        other => {
            let left = format!("left behind: {other:?}");
            if left != last {
                println!("{left}");
                last = left;
            }
            false
        }
    })
}

/// What a disk that works shows: files in sysfs, the debug folder, the node.
fn shape(s: &Space) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let disk = format!("/sys/block/{}", s.disk);
    for dir in ["", "/queue", "/dax", "/integrity"] {
        for n in names(format!("{disk}{dir}")) {
            all.insert(format!("{disk}{dir}/{n}"));
        }
    }
    for p in [
        format!("/dev/{}", s.disk),
        format!("{DEBUG}/block/{}", s.disk),
    ] {
        if Path::new(&p).exists() {
            all.insert(p);
        }
    }
    all
}

/// Where the smallest disk here has room behind a file system.
const IO_AT: u64 = 13 << 20;

/// A file system in front of `IO_AT`.
fn mkfs(c: &Ctx, s: &Space) -> TestResult {
    c.mkfs_ext4(&s.dev(), Some("12M"))?;
    Ok(())
}

/// Mounts what `mkfs` made; ext4 refuses if there is no direct access.
fn dax_works(c: &Ctx, s: &Space) -> TestResult {
    c.mount(&s.dev(), MNT, "dax=always")?;
    let f = File::create(format!("{MNT}/f"))?;
    let dax = tools::is_dax(&f);
    drop(f);
    c.umount(MNT)?;
    check!(dax?, "a file without direct access");
    Ok(())
}

/// Writes and reads through a node of our own: without memory devtmpfs makes none.
fn io_works(c: &Ctx, s: &Space, seed: u64) -> TestResult {
    let number = c.disk_attr(&s.disk, "dev")?;
    let (major, minor) = number.split_once(':').unwrap_or_default();
    let number = libc::makedev(major.parse().unwrap_or(0), minor.parse().unwrap_or(0));
    let node = c"/run/fault-node";
    // SAFETY: a NUL-terminated string.
    let r = unsafe { libc::mknod(node.as_ptr(), libc::S_IFBLK | 0o600, number) };
    check!(r == 0, "mknod: {}", io::Error::last_os_error());
    let path = node.to_string_lossy().into_owned();
    let io = || -> TestResult {
        let f = disk::direct(&path)?;
        let want = Buf::pattern(PAGE, seed);
        let mut got = Buf::page(PAGE);
        f.write_all_at(want.bytes(), IO_AT)?;
        f.sync_all()?;
        f.read_exact_at(got.bytes_mut(), IO_AT)?;
        check!(got.bytes() == want.bytes(), "other data than was written");
        Ok(())
    };
    let r = io();
    fs::remove_file(&path)?;
    r
}

/// A file for writing, so that writing to it is all that is done with failing allocations.
fn writer(path: &str, text: &str) -> TestResult<impl FnMut() -> io::Result<()>> {
    let f = File::options()
        .write(true)
        .open(path)
        .map_err(|e| format!("{path}: {e}"))?;
    let text = text.to_string();
    Ok(move || f.write_all_at(text.as_bytes(), 0))
}

// Namespaces.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Without labels: all of the region.
    Whole,
    Raw,
    Mem,
    Dev,
}

fn space(c: &Ctx, kind: Kind) -> TestResult<Space> {
    let name = match kind {
        Kind::Whole => "",
        Kind::Raw => "raw",
        Kind::Mem => "mem",
        Kind::Dev => "dev",
    };
    // A test that failed may have left it without driver.
    c.load_driver()?;
    c.settle();
    for ns in c.namespaces() {
        let label = c.read(c.nd(&ns).join("alt_name")).unwrap_or_default();
        if label != name {
            continue;
        }
        let holder = c.read(c.nd(&ns).join("holder"))?;
        let nd = if holder.is_empty() { ns } else { holder };
        if c.bound_to(&nd).is_none() {
            c.bind("rpmem", &nd)?;
        }
        let disk = c.disk_of(&nd)?;
        return Ok(Space { nd, disk });
    }
    fail!("no namespace named {name:?}")
}

fn start(c: &mut Ctx) -> TestResult {
    check_eq!(c.driver_name(), "rpmem");
    // From here on every leak counts; those of the boot are not ours.
    c.write(format!("{DEBUG}/kmemleak"), "clear")
}

fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "raw", "-s", "16M", "-n", "raw"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "16M", "-n", "mem"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "16M", "-n", "dev"])?;
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"), "{}", s.nd);
        let dax = if kind == Kind::Raw { "0" } else { "1" };
        check_eq!(c.disk_attr(&s.disk, "queue/dax")?, dax, "{kind:?}");
    }
    Ok(())
}

fn bind_series(c: &mut Ctx, kind: Kind, floor: (usize, usize)) -> TestResult {
    let s = space(c, kind)?;
    s.unbind(c)?;
    s.bind(c)?;
    let whole = shape(&s);
    let has_pages = tools::has_pages(c, &s)?;
    if has_pages {
        mkfs(c, &s)?;
        dax_works(c, &s)?;
    }
    s.unbind(c)?;
    let before = rest(c, &s.nd)?;
    let mut op = writer(BIND, &s.nd)?;
    let unbind = || -> TestResult {
        s.unbind(c)?;
        must_rest(c, &s.nd, &before)
    };
    let mut judge = |n: usize, shot: &Shot| -> TestResult {
        if shot.result.is_err() {
            must_rest(c, &s.nd, &before)?;
            if !c.long && n % 8 != 0 {
                return Ok(());
            }
            s.bind(c)?;
            check_eq!(shape(&s), whole, "after a bind that failed");
        } else {
            check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"));
            let now = shape(&s);
            for lost in whole.difference(&now) {
                let allowed = (lost.starts_with("/dev/")
                    && shot.in_function("devtmpfs_create_node"))
                    || lost.starts_with(DEBUG);
                check!(allowed, "{lost} is missing");
            }
            // Later ones fail in the core, which does not know of direct access.
            let of_disk = shot.in_function("add_disk_fwnode");
            if has_pages && shot.hit && !of_disk && Path::new(&s.dev()).exists() {
                dax_works(c, &s)?;
            }
        }
        io_works(c, &s, n as u64)?;
        unbind()
    };
    let aim = Aim {
        what: &format!("bind {kind:?}"),
        floor,
        elsewhere: match kind {
            Kind::Mem | Kind::Dev => "add_disk_fwnode",
            Kind::Whole | Kind::Raw => "",
        },
        ..Aim::default()
    };
    series(c, &aim, &mut op, &mut judge)?;
    s.bind(c)
}

/// The namespace device finds the info block and hands over to a pfn device. It never has a disk
/// itself, however little memory there is.
///
/// Devices are not probed by themselves meanwhile: where `async_schedule_dev_domain()` lacks
/// memory, it registers the pfn device at once, and the probe of that waits for the lock of the
/// namespace, which the caller holds: a deadlock in the core, with any driver.
fn claim_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Mem)?;
    let mut ns = None;
    for n in c.namespaces() {
        if c.read(c.nd(&n).join("holder"))? == s.nd {
            ns = Some(n);
        }
    }
    let ns = ns.ok_or("no namespace is claimed")?;
    c.write(AUTOPROBE, "0")?;
    let resting = || -> TestResult<String> {
        release(c, &ns)?;
        c.read("/proc/iomem")
    };
    let before = resting()?;
    let mut bind = writer(BIND, &ns)?;
    let mut op = || match bind() {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        other => other,
    };
    let mut judge = |n: usize, shot: &Shot| -> TestResult {
        c.settle();
        check_eq!(c.bound_to(&ns), None, "{ns}: info block and disk");
        if active(c, &ns)? == ns {
            check!(shot.hit, "{ns} was not claimed");
            check_eq!(c.read("/proc/iomem")?, before);
            if !c.long && n % 8 != 0 {
                return Ok(());
            }
            let again = c.try_write(BIND)(&ns);
            check_eq!(errno(&again), libc::ENXIO, "a second bind of {ns}");
            c.settle();
        }
        let s = Space {
            nd: active(c, &ns)?,
            disk: s.disk.clone(),
        };
        check!(s.nd != ns, "{ns} was not claimed");
        s.bind(c)?;
        io_works(c, &s, n as u64)?;
        check_eq!(resting()?, before);
        Ok(())
    };
    let aim = Aim {
        what: "claim",
        floor: (6, 4),
        // Fails with ENXIO, like a bind that has handed over.
        tolerant: &["devm_memremap"],
        ..Aim::default()
    };
    let r = series(c, &aim, &mut op, &mut judge);
    c.write(AUTOPROBE, "1")?;
    if active(c, &ns)? == ns {
        check_eq!(errno(&c.try_write(BIND)(&ns)), libc::ENXIO);
    }
    space(c, Kind::Mem)?;
    r
}

fn unbind_series(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem] {
        let s = space(c, kind)?;
        s.unbind(c)?;
        let before = rest(c, &s.nd)?;
        s.bind(c)?;
        let mut op = writer(UNBIND, &s.nd)?;
        let mut judge = |n: usize, shot: &Shot| -> TestResult {
            if shot.result.is_ok() {
                must_rest(c, &s.nd, &before)?;
                s.bind(c)?;
            }
            check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"));
            io_works(c, &s, n as u64)
        };
        let aim = Aim {
            what: &format!("unbind {kind:?}"),
            floor: (4, 3),
            ..Aim::default()
        };
        series(c, &aim, &mut op, &mut judge)?;
    }
    Ok(())
}

/// Loading the module, with nothing bound by it: what binding needs is in the other series.
fn load_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Raw)?;
    c.rmmod("rpmem")?;
    let before = rest(c, &s.nd)?;
    let ko = File::open(crate::support::ctx::init_ko())?;
    let params = std::ffi::CString::new(c.params.as_str()).map_err(|e| e.to_string())?;
    c.write(AUTOPROBE, "0")?;
    let mut op = || -> io::Result<()> {
        // SAFETY: an open descriptor and a NUL-terminated string that live through the call.
        match unsafe { libc::syscall(libc::SYS_finit_module, ko.as_raw_fd(), params.as_ptr(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let mut judge = |_: usize, shot: &Shot| -> TestResult {
        if shot.result.is_ok() {
            check!(Path::new("/sys/bus/nd/drivers/rpmem").exists());
            c.rmmod("rpmem")?;
        }
        check!(!Path::new("/sys/module/rpmem").exists(), "half a module");
        check!(
            !Path::new("/sys/bus/nd/drivers/rpmem").exists(),
            "half a driver"
        );
        must_rest(c, &s.nd, &before)
    };
    let aim = Aim {
        what: "load",
        floor: (15, 4),
        // The driver's part comes last.
        tail: 40,
        // Files bind and unbind of the driver; instruments of the kernel, of which lockdep has a name
        // for a queue; fs.lease-break-time, without which leases have the time that is its default.
        tolerant: &[
            "bus_add_driver",
            "ei_module_callback",
            "kunit_module_notify",
            "trace_module_notify",
            "alloc_workqueue_noprof",
            "rpmem_helper_lease_init",
        ],
        ..Aim::default()
    };
    let r = series(c, &aim, &mut op, &mut judge);
    c.write(AUTOPROBE, "1")?;
    r?;
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"));
        io_works(c, &s, 1)?;
    }
    Ok(())
}

/// A change of the region's state reaches the driver by notify().
fn read_only_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Raw)?;
    let region = c.nd(&c.regions()[0]).join("read_only");
    let region = region.to_string_lossy().into_owned();
    let mut op = writer(&region, "1")?;
    let mut judge = |_: usize, shot: &Shot| -> TestResult {
        let want = if shot.result.is_ok() { "1" } else { "0" };
        check_eq!(c.read(&region)?, want, "the region's read_only");
        check_eq!(c.disk_attr(&s.disk, "ro")?, want, "the disk's ro");
        c.write(&region, "0")?;
        check_eq!(c.disk_attr(&s.disk, "ro")?, "0", "the disk's ro");
        Ok(())
    };
    let aim = Aim {
        what: "read_only",
        floor: (2, 0),
        ..Aim::default()
    };
    series(c, &aim, &mut op, &mut judge)
}

/// Whatever a file system makes of it, the disk below is as before.
fn mount_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Mem)?;
    mkfs(c, &s)?;
    fs::create_dir_all(MNT)?;
    let dev = std::ffi::CString::new(s.dev()).map_err(|e| e.to_string())?;
    let at = std::ffi::CString::new(MNT).map_err(|e| e.to_string())?;
    let mut op = || -> io::Result<()> {
        // SAFETY: NUL-terminated strings that live through the call.
        match unsafe {
            libc::mount(
                dev.as_ptr(),
                at.as_ptr(),
                c"ext4".as_ptr(),
                0,
                c"dax=always".as_ptr().cast(),
            )
        } {
            0 => Ok(()),
            // A file system says what it likes if memory is short.
            _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        }
    };
    let mut judge = |n: usize, shot: &Shot| -> TestResult {
        if shot.result.is_err() {
            return Ok(());
        }
        let path = format!("{MNT}/f");
        fs::write(&path, n.to_string())?;
        check!(tools::is_dax(&File::open(&path)?)?, "no DAX");
        check_eq!(fs::read_to_string(&path)?, n.to_string());
        c.umount(MNT)
    };
    let aim = Aim {
        what: "mount",
        floor: (20, 0),
        // Mounts are judged by whether they work.
        tolerant: &["do_new_mount"],
        ..Aim::default()
    };
    series(c, &aim, &mut op, &mut judge)?;
    s.unbind(c)?;
    s.bind(c)?;
    io_works(c, &s, 1)
}

// Failing requests.

/// Every request to a disk fails while this lives.
struct FailingDisk(String);

impl FailingDisk {
    fn new(c: &Ctx, s: &Space) -> TestResult<FailingDisk> {
        let dir = format!("{DEBUG}/fail_make_request");
        for (attr, value) in [("probability", "100"), ("interval", "1"), ("verbose", "0")] {
            c.write(format!("{dir}/{attr}"), value)?;
        }
        c.write(format!("{dir}/times"), "-1")?;
        let attr = format!("/sys/block/{}/make-it-fail", s.disk);
        c.write(&attr, "1")?;
        Ok(FailingDisk(attr))
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "0");
        let _ = fs::write(format!("{DEBUG}/fail_make_request/probability"), "0");
    }
}

const BLKRRPART: u64 = 0x125f;

fn requests(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem] {
        let s = space(c, kind)?;
        let dev = s.dev();
        let part = format!("/sys/block/{0}/{0}p1", s.disk);
        c.sh(&format!(
            "printf 'label: dos\\nstart=2048, size=16384\\n' | sfdisk -q {dev}"
        ))?;
        c.wait_exists(&part)?;
        let mut page = Buf::pattern(PAGE, 1);
        let f = disk::direct(&dev)?;

        let failing = FailingDisk::new(c, &s)?;
        let at = 3 << 20;
        check_eq!(
            errno(&f.read_exact_at(page.bytes_mut(), at)),
            libc::EIO,
            "{kind:?}, read"
        );
        check_eq!(
            errno(&f.write_all_at(page.bytes(), at)),
            libc::EIO,
            "{kind:?}, write"
        );
        check_eq!(errno(&f.sync_all()), libc::EIO, "{kind:?}, flush");
        drop(f);
        let f = disk::open(&dev)?;
        let read = f.read_exact_at(page.bytes_mut(), 5 << 20);
        check_eq!(errno(&read), libc::EIO, "{kind:?}, buffered read");
        f.write_all_at(page.bytes(), 6 << 20)?;
        check_eq!(errno(&f.sync_all()), libc::EIO, "{kind:?}, fsync");
        disk::ioctl(&f, disk::BLKFLSBUF, &mut 0u64)?;
        // What cannot be read is not a partition table without partitions.
        let scan = disk::ioctl(&f, BLKRRPART, &mut 0u64);
        check_eq!(errno(&scan), libc::EIO, "{kind:?}, partition scan");
        drop(f);
        c.fails(&["mkfs.ext4", "-q", "-F", &dev])?;
        fs::create_dir_all(MNT)?;
        for fs in ["ext4", "xfs"] {
            c.fails(&["mount", "-t", fs, &dev, MNT])?;
        }

        s.unbind(c)?;
        s.bind(c)?;
        check_eq!(c.disk_attr(&s.disk, "make-it-fail")?, "0", "of a new disk");
        c.wait_exists(&part)?;
        drop(failing);
        io_works(c, &s, 2)?;
        c.ok(&["wipefs", "-aq", "-f", &dev])?;
        c.mkfs("ext4", &dev)?;
        c.mount(&dev, MNT, "defaults")?;
        c.umount(MNT)?;
    }
    Ok(())
}

// Failing functions.

/// One call of a function fails, the `nth` from now on.
struct FailingCall<'a> {
    c: &'a Ctx,
    name: &'static str,
}

impl FailingCall<'_> {
    fn new<'a>(
        c: &'a Ctx,
        name: &'static str,
        value: i64,
        nth: u64,
    ) -> TestResult<FailingCall<'a>> {
        let dir = format!("{DEBUG}/fail_function");
        c.write(format!("{dir}/inject"), name)
            .map_err(|_| format!("{name} has no error injection"))?;
        let this = FailingCall { c, name };
        c.write(format!("{dir}/{name}/retval"), &format!("{value:#x}"))?;
        // `space` is what may go through before, and one.
        for (attr, value) in [
            ("probability", 100),
            ("interval", 1),
            ("verbose", 0),
            ("space", nth),
            ("times", 1),
        ] {
            c.write(format!("{dir}/{attr}"), &value.to_string())?;
        }
        Ok(this)
    }

    /// Whether it has failed.
    fn hit(&self) -> TestResult<bool> {
        Ok(self.c.read_u64(format!("{DEBUG}/fail_function/times"))? == 0)
    }
}

impl Drop for FailingCall<'_> {
    fn drop(&mut self) {
        let _ = fs::write(format!("{DEBUG}/fail_function/probability"), "0");
        let _ = fs::write(
            format!("{DEBUG}/fail_function/inject"),
            format!("!{}", self.name),
        );
    }
}

const REQUEST_MEM_REGION: &str = "rpmem_helper_request_mem_region";
const READ_BYTES: &str = "rpmem_helper_nvdimm_read_bytes";
const COPY_MC: &str = "rpmem_helper_copy_mc_to_kernel";
const GET_DIRENT: &str = "rpmem_helper_sysfs_get_dirent";
const NO_INFO_BLOCK: &str = "info block cannot be read (-5), no device; \
                             write 1 to force_raw in sysfs to use the raw namespace";

fn functions(c: &mut Ctx) -> TestResult {
    let all = [
        space(c, Kind::Raw)?,
        space(c, Kind::Mem)?,
        space(c, Kind::Dev)?,
    ];
    for s in &all {
        s.unbind(c)?;
        let before = rest(c, &s.nd)?;
        let bind = c.try_write(BIND);
        let is_raw = s.nd.starts_with("namespace");

        // (function, its result, call, errno of the bind, message)
        let mut cases = vec![(
            REQUEST_MEM_REGION,
            0,
            1,
            libc::EBUSY,
            "could not reserve region",
        )];
        if is_raw {
            cases.push((READ_BYTES, -5, 1, libc::EOPNOTSUPP, NO_INFO_BLOCK));
        } else {
            // The uuid alone, which only decides how strictly the block is read.
            cases.push((READ_BYTES, -5, 1, 0, ""));
            cases.push((READ_BYTES, -5, 2, libc::EOPNOTSUPP, NO_INFO_BLOCK));
            // After libnvdimm has read it.
            cases.push((READ_BYTES, -5, 3, libc::EOPNOTSUPP, NO_INFO_BLOCK));
        }
        cases.push((GET_DIRENT, 0, 1, 0, "'badblocks' notification disabled"));
        // The partition scan, which can do without.
        cases.push((COPY_MC, 1, 1, 0, ""));
        for (name, value, nth, want, message) in cases {
            let what = format!("{}, {name} call {nth}", s.nd);
            c.mark_dmesg();
            let call = FailingCall::new(c, name, value, nth)?;
            check_eq!(errno(&bind(&s.nd)), want, "{what}");
            check!(call.hit()?, "{what}: has not failed");
            drop(call);
            c.dmesg_has(message)?;
            if want != 0 {
                must_rest(c, &s.nd, &before)?;
                s.bind(c)?;
            }
            io_works(c, s, nth)?;
            s.unbind(c)?;
            must_rest(c, &s.nd, &before)?;
        }

        // What the message says can be done.
        if is_raw {
            let force = c.nd(&s.nd).join("force_raw");
            let call = FailingCall::new(c, READ_BYTES, -5, 1)?;
            c.write(&force, "1")?;
            s.bind(c)?;
            check!(!call.hit()?, "{}: read in spite of force_raw", s.nd);
            io_works(c, s, 7)?;
            s.unbind(c)?;
            c.write(&force, "0")?;
        }
        s.bind(c)?;

        // On a live disk: the caller has the error, the next read the data.
        io_works(c, s, 8)?;
        let f = disk::direct(&s.dev())?;
        let mut page = Buf::page(PAGE);
        let call = FailingCall::new(c, COPY_MC, 1, 1)?;
        let read = f.read_exact_at(page.bytes_mut(), IO_AT);
        check_eq!(errno(&read), libc::EIO, "{}: a read that fails", s.nd);
        check!(call.hit()?);
        drop(call);
        f.read_exact_at(page.bytes_mut(), IO_AT)?;
        check!(page.bytes() == Buf::pattern(PAGE, 8).bytes(), "other data");
    }
    Ok(())
}

// Leaks.

/// Objects in use in a slab cache.
fn objects(c: &Ctx, cache: &str) -> TestResult<u64> {
    let dir = format!("/sys/kernel/slab/{cache}");
    for _ in 0..3 {
        // A grace period (MEMBARRIER_CMD_GLOBAL), for what is freed by RCU.
        // SAFETY: no pointers.
        let r = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
        check!(r == 0, "membarrier: {}", io::Error::last_os_error());
        c.write(format!("{dir}/shrink"), "1")?;
    }
    let text = c.read(format!("{dir}/objects"))?;
    let n = text.split(' ').next().unwrap_or_default().parse();
    n.map_err(|_| format!("{dir}/objects: {text:?}").into())
}

/// After all of the above: every reference is back, and no memory is lost.
fn leaks(c: &mut Ctx) -> TestResult {
    let all = tools::spaces(c)?;
    check!(!all.is_empty());
    // Inodes are freed by RCU, whose callbacks run when the kernel finds the time.
    let has_inodes = |n: u64| {
        c.wait_for(&format!("{n} DAX inodes"), || {
            objects(c, "dax_cache").is_ok_and(|now| now == n)
        })
    };
    // Of each disk its own, and the one by which its end waits for readers.
    has_inodes(1 + 2 * all.len() as u64)?;
    for s in &all {
        s.unbind(c)?;
    }
    c.wait_unused("rpmem")?;
    c.rmmod("rpmem")?;
    // One is the root of their file system.
    has_inodes(1)?;
    check!(!c.read("/proc/iomem")?.contains("rpmem"));
    // The scan for lost memory follows at the end of the boot.
    Ok(())
}
