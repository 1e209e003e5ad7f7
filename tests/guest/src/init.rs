// SPDX-License-Identifier: GPL-2.0
//! Process 1 of the guest: sets the machine up, runs the plan, reports, ends QEMU. On a Debian host it is a
//! service, and has its own processes alone in its cgroup.
//!
//! Channels: one serial port carries KTAP and nothing else, the kernel log goes to another, and the
//! end is a byte written to isa-debug-exit. Anything that goes wrong here ends the machine in
//! a way that the harness takes for a failure.

use crate::support::arch;
use crate::support::bench::request;
use crate::support::ctx::{self, ASK_DOWN, ASK_POWER_CUT, EXIT_SKIP, SKIP_PREFIX};
use crate::support::durable;
use crate::support::tools;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const FINISHED: u8 = 0x10;
const FAILED: u8 = 0x11;
/// The plan where the initramfs is Debian's, as qemu/harness/src/qemu.rs names it.
const FIRMWARE_PLAN: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/rpmem/plan/raw";
/// Diagnostic lines of one test that are kept.
const MAX_LINES: usize = 1000;

#[derive(Default)]
struct Plan {
    mode: String,
    driver: String,
    params: String,
    power_cut: bool,
    resume: String,
    fault: String,
    flavour: String,
    seed: String,
    long: bool,
    nfit_test: bool,
    ndctl: bool,
    coverage: bool,
    durable: bool,
    tests: Vec<String>,
}

fn parse(text: &str) -> Result<Plan, String> {
    let mut p = Plan::default();
    for line in text.lines() {
        let (key, val) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "mode" => p.mode = val.into(),
            "driver" => p.driver = val.into(),
            "params" => p.params = val.into(),
            "end" => p.power_cut = val == "power-cut",
            "resume" => p.resume = val.into(),
            "fault" => p.fault = val.into(),
            "flavour" => p.flavour = val.into(),
            "seed" => p.seed = val.into(),
            "long" => p.long = true,
            "nfit-test" => p.nfit_test = true,
            "ndctl" => p.ndctl = true,
            "coverage" => p.coverage = true,
            "durable" => p.durable = true,
            "test" if !val.is_empty() => p.tests.push(val.into()),
            _ => return Err(format!("bad line: {line}")),
        }
    }
    Ok(p)
}

/// The KTAP channel. Writes are complete on the wire when they return. What comes from the other end
/// is `timeout N`: test N is to end. Only the harness knows what time the machine has had.
struct Tap {
    file: File,
    heard: Vec<u8>,
}

impl Tap {
    fn open() -> std::io::Result<Tap> {
        // A terminal that is the session's own stops processes in the background that wait for it.
        let f = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(arch::CHANNEL)?;
        // SAFETY: termios calls on an open terminal with a struct of our own.
        unsafe {
            let mut t: libc::termios = std::mem::zeroed();
            libc::tcgetattr(f.as_raw_fd(), &mut t);
            libc::cfmakeraw(&mut t);
            libc::cfsetspeed(&mut t, libc::B115200);
            libc::tcsetattr(f.as_raw_fd(), libc::TCSANOW, &t);
        }
        Ok(Tap {
            file: f,
            heard: Vec::new(),
        })
    }

    fn line(&mut self, text: &str) {
        let _ = self.file.write_all(format!("{text}\n").as_bytes());
    }

    fn drain(&self) {
        // SAFETY: an open terminal.
        unsafe { libc::tcdrain(self.file.as_raw_fd()) };
    }

    /// Takes what is there to be read; whether that ends this test.
    fn is_late(&mut self, number: usize) -> bool {
        let mut buf = [0; 256];
        let n = self.file.read(&mut buf).unwrap_or(0);
        self.heard.extend_from_slice(&buf[..n]);
        let mut late = false;
        while let Some(end) = self.heard.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            late |= line == format!("timeout {number}\n").as_bytes();
        }
        late
    }
}

fn kmsg(text: &str) {
    let _ = fs::write("/dev/kmsg", format!("<6>{text}\n"));
}

fn quit(code: u8) -> ! {
    // SAFETY: no arguments.
    unsafe { libc::sync() };
    arch::end_machine(code);
    hang()
}

fn hang() -> ! {
    loop {
        // CLOCK: the harness ends it.
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Unless something is mounted there: an initramfs hands over what it has.
fn mount(src: &str, at: &str, kind: &str) {
    let c = |s: &str| std::ffi::CString::new(s).expect("no NUL");
    let _ = fs::create_dir_all(at);
    let fs_of = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let at_path = Path::new(at);
    if at_path.parent().is_some_and(|p| fs_of(p) != fs_of(at_path)) {
        return;
    }
    let (s, a, k) = (c(src), c(at), c(kind));
    // SAFETY: NUL-terminated strings that live through the call.
    unsafe { libc::mount(s.as_ptr(), a.as_ptr(), k.as_ptr(), 0, std::ptr::null()) };
}

/// Where the kernel's modules are.
fn modules_dir() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("/usr/lib/modules/{}", release.trim())
}

/// The modules there, one a line, with those that they need.
fn index(dir: &str) -> String {
    fs::read_to_string(format!("{dir}/modules.dep")).unwrap_or_default()
}

/// Load modules with what they depend on, without a process for each: those are slow to start
/// in an emulated machine. Whatever this does not understand is left to modprobe.
fn load_modules(names: &[&str]) -> Result<(), String> {
    let dir = modules_dir();
    let index = index(&dir);
    let stem = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split('.').next().unwrap_or(file).replace('-', "_")
    };
    let loaded = |name: &str| Path::new("/sys/module").join(name).join("refcnt").exists();
    let mut rest = Vec::new();
    for name in names {
        if loaded(&name.replace('-', "_")) {
            continue;
        }
        let line = index.lines().find(|l| {
            l.split(':')
                .next()
                .is_some_and(|p| stem(p) == name.replace('-', "_"))
        });
        let Some((path, deps)) = line.and_then(|l| l.split_once(':')) else {
            rest.push(*name);
            continue;
        };
        // What is needed first stands last.
        let files = deps.split_whitespace().rev().chain([path]);
        for f in files {
            if loaded(&stem(f)) {
                continue;
            }
            if ctx::insmod(&Path::new(&dir).join(f), "").is_err() {
                rest.push(*name);
                break;
            }
        }
    }
    if rest.is_empty() {
        return Ok(());
    }
    let out = Command::new("modprobe")
        .arg("-a")
        .args(&rest)
        .output()
        .map_err(|e| format!("modprobe: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!(
        "modprobe {}: {}",
        rest.join(" "),
        String::from_utf8_lossy(&out.stderr).trim()
    ))
}

/// Modules that a .ko file says it depends on.
fn depends(ko: &[u8]) -> Vec<String> {
    let tag = b"\0depends=";
    let Some(at) = ko.windows(tag.len()).position(|w| w == tag) else {
        return Vec::new();
    };
    let list = ko[at + tag.len()..]
        .split(|b| *b == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|d| !d.is_empty())
        .map(str::to_string)
        .collect()
}

fn load_driver(p: &Plan) -> Result<(), String> {
    match p.driver.as_str() {
        "none" | "" => Ok(()),
        "nd_pmem" => load_modules(&["nd_pmem"]),
        "rpmem" => {
            let ko = ctx::init_ko();
            let image = fs::read(ko).map_err(|e| format!("{ko}: {e}"))?;
            let deps = depends(&image);
            load_modules(&deps.iter().map(String::as_str).collect::<Vec<_>>())?;
            ctx::insmod(Path::new(ko), &p.params)
        }
        other => Err(format!("unknown driver {other}")),
    }
}

/// Everything before the plan; an error here is a bail-out.
fn set_up() -> Result<Plan, String> {
    mount("proc", "/proc", "proc");
    mount("sysfs", "/sys", "sysfs");
    mount("devtmpfs", "/dev", "devtmpfs");
    mount("tmpfs", "/tmp", "tmpfs");
    mount("tmpfs", "/run", "tmpfs");
    mount("devpts", "/dev/pts", "devpts");
    mount("debugfs", "/sys/kernel/debug", "debugfs");
    mount("tracefs", "/sys/kernel/tracing", "tracefs");
    // By this name tests and users find the program.
    let _ = std::os::unix::fs::symlink("/init", "/usr/bin/rpmem-guest");
    std::env::set_var("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    std::env::set_var("HOME", "/root");
    std::env::set_var("LC_ALL", "C");
    // From here on the whole kernel log goes to the console.
    let _ = fs::write("/proc/sys/kernel/printk", "8");
    let _ = fs::write("/proc/sys/kernel/sysrq", "1");
    ctx::rearrange_memory(false);
    kmsg("rpmem-test: init");
    let text = fs::read_to_string("/plan").or_else(|_| {
        // Not in the project's own initramfs.
        let _ = load_modules(&["qemu_fw_cfg"]);
        fs::read_to_string(FIRMWARE_PLAN).map_err(|e| format!("{FIRMWARE_PLAN}: {e}"))
    })?;
    parse(&text)
}

/// The drivers of tools/testing/nvdimm, linked to its wrappers, instead of those that they are
/// built from; and its NVDIMMs.
fn load_nfit_test(p: &Plan) -> Result<(), String> {
    let load = |name: &str| {
        let ko = format!("/nfit/{name}.ko");
        let image = fs::read(&ko).map_err(|e| format!("{ko}: {e}"))?;
        let deps = depends(&image);
        load_modules(&deps.iter().map(String::as_str).collect::<Vec<_>>())?;
        ctx::insmod(Path::new(&ko), "")
    };
    ["nfit_test_iomap", "libnvdimm", "nd_btt"]
        .into_iter()
        .try_for_each(load)?;
    // The first driver that is there gets the namespaces; nfit_test needs nd_pmem.
    if p.driver == "rpmem" {
        load_driver(p)?;
    }
    ["nd_pmem", "nfit", "device_dax", "dax_pmem", "nfit_test"]
        .into_iter()
        .try_for_each(load)?;
    ctx::settle();
    Ok(())
}

/// The driver, and nothing that has namespaces: ndctl's own tests load nfit_test by modprobe.
fn load_for_ndctl(p: &Plan) -> Result<(), String> {
    let status = Command::new("depmod")
        .status()
        .map_err(|e| format!("depmod: {e}"))?;
    if !status.success() {
        return Err(format!("depmod: {status}"));
    }
    load_driver(p)
}

/// Tells the plugin qemu/harness/cover.c where the functions are by which it follows the module.
fn tell_coverage() -> Result<(), String> {
    let symbols = fs::read_to_string("/proc/kallsyms").map_err(|e| format!("kallsyms: {e}"))?;
    let address = |name: &str| {
        let line = symbols
            .lines()
            .find(|l| l.split_whitespace().nth(2) == Some(name));
        let word = line.and_then(|l| l.split_whitespace().next());
        let address = word.and_then(|w| u64::from_str_radix(w, 16).ok());
        let address = address.filter(|a| *a != 0);
        address.ok_or_else(|| format!("/proc/kallsyms has no address of {name}"))
    };
    request::<5>(address("do_init_module")?, 0);
    request::<6>(address("module_enable_rodata_ro_after_init")?, 0);
    request::<7>(address("free_module")?, 0);
    Ok(())
}

fn set_up_driver(p: &Plan) -> Result<(), String> {
    if p.coverage {
        tell_coverage()?;
    }
    if p.ndctl {
        return load_for_ndctl(p);
    }
    if p.nfit_test {
        return load_nfit_test(p);
    }
    // The providers of namespaces; what drives a namespace is the plan's decision.
    load_modules(&["nfit", "nd_btt"])?;
    // Other architectures have no e820.
    if index(&modules_dir()).contains("/nd_e820.ko") {
        load_modules(&["nd_e820"])?;
    }
    if tools::has_virtio_pmem() {
        load_modules(&["virtio_pci", "virtio_pmem"])?;
    }
    // PCI_CLASS_MEMORY_CXL, with the interface that CXL has for it.
    if tools::has_pci("class", "0x050210") {
        load_modules(&["cxl_acpi", "cxl_pci", "cxl_mem", "cxl_pmem"])?;
    }
    // Kernels without huge pages have no device-dax.
    if p.driver == "nd_pmem" && index(&modules_dir()).contains("/device_dax.ko") {
        load_modules(&["dax_pmem", "device_dax"])?;
    }
    ctx::settle();
    // The system that is to go on has the memory elsewhere in its address space.
    if p.durable && p.resume.is_empty() {
        durable::follow_regions()?;
    }
    load_driver(p)?;
    ctx::settle();
    Ok(())
}

/// Goes on with the system that has hibernated on the first disk: then it does not return. Where none has,
/// this one starts.
fn try_resume() -> Result<(), String> {
    load_modules(&["virtio_pci", "virtio_blk"])?;
    let file = format!("/sys/block/{}/dev", ctx::SWAP);
    let number = fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?;
    let resume = "/sys/power/resume";
    fs::write(resume, number.trim()).map_err(|e| format!("{resume}: {e}"))
}

/// The test at whose end this kernel was started by another one, see `Ctx::next_kernel`.
fn started_by() -> usize {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut words = line.split_whitespace();
    let number = words.find_map(|w| w.strip_prefix(ctx::STARTED_BY));
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Seconds since the kernel has started.
fn uptime() -> String {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_string()
}

fn describe(tap: &mut Tap, p: &Plan, booted: &str) {
    let version = fs::read_to_string("/proc/version").unwrap_or_default();
    tap.line(&format!("# rpmem: kernel {}", version.trim()));
    tap.line(&format!("# rpmem: driver {} {}", p.driver, p.params));
    tap.line(&format!("# rpmem: seed {}", p.seed));
    tap.line(&format!(
        "# rpmem: booted at {booted}, ready at {} s of uptime",
        uptime()
    ));
    let module = format!("/sys/module/{}", p.driver);
    let mut set: Vec<String> = fs::read_dir(format!("{module}/parameters"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| {
            let v = fs::read_to_string(e.path()).unwrap_or_default();
            format!("{}={}", e.file_name().to_string_lossy(), v.trim())
        })
        .collect();
    set.sort();
    if !set.is_empty() {
        tap.line(&format!("# rpmem: module parameters {}", set.join(" ")));
    }
    if let Ok(v) = fs::read_to_string(format!("{module}/srcversion")) {
        tap.line(&format!("# rpmem: module srcversion {}", v.trim()));
    }
}

pub fn main() -> i32 {
    let plan = set_up();
    let booted = uptime();
    let mut tap = match Tap::open() {
        Ok(t) => t,
        Err(e) => {
            kmsg(&format!("rpmem-test: {}: {e}", arch::CHANNEL));
            quit(FAILED)
        }
    };
    let bail = |tap: &mut Tap, why: String| -> ! {
        tap.line(&format!("Bail out! {why}"));
        tap.drain();
        quit(FAILED)
    };
    let plan = match plan {
        Ok(p) => p,
        Err(e) => bail(&mut tap, e),
    };
    if plan.mode == "shell" {
        shell(&plan);
    }
    let mut is_set_up = false;
    if !plan.resume.is_empty() {
        is_set_up = plan.resume == "bound";
        let set_up = if is_set_up {
            set_up_driver(&plan)
        } else {
            Ok(())
        };
        if let Err(e) = set_up.and_then(|()| try_resume()) {
            bail(&mut tap, e);
        }
    }
    let done = started_by();
    match done.checked_sub(1).map(|n| plan.tests.get(n)) {
        None => {
            tap.line("KTAP version 1");
            tap.line(&format!("1..{}", plan.tests.len()));
        }
        Some(Some(name)) => tap.line(&format!("ok {done} {name}")),
        Some(None) => bail(&mut tap, format!("there is no test {done}")),
    }
    if !is_set_up {
        if let Err(e) = set_up_driver(&plan) {
            bail(&mut tap, e);
        }
    }
    if plan.durable && !plan.resume.is_empty() {
        if let Err(e) = durable::follow_regions() {
            bail(&mut tap, e);
        }
    }
    describe(&mut tap, &plan, &booted);
    if plan.durable {
        std::env::set_var("RPMEM_DURABLE", "1");
    }
    std::env::set_var("RPMEM_DRIVER", &plan.driver);
    std::env::set_var("RPMEM_PARAMS", &plan.params);
    std::env::set_var("RPMEM_FLAVOUR", &plan.flavour);
    std::env::set_var("RPMEM_SEED", &plan.seed);
    if plan.long {
        std::env::set_var("RPMEM_LONG", "1");
    }

    for (n, name) in plan.tests.iter().enumerate().skip(done) {
        if plan.fault == "drop-last" && n + 1 == plan.tests.len() {
            break;
        }
        run_test(&mut tap, n + 1, name);
        if plan.fault == "hang" {
            hang();
        }
    }
    if plan.power_cut {
        // No sync: the medium must be what the tests made it.
        tap.line("# rpmem: cut the power now");
        tap.drain();
        hang();
    }
    leaks(&mut tap);
    tap.line("# rpmem: end of run");
    tap.drain();
    quit(if plan.fault == "wrong-code" {
        FAILED
    } else {
        FINISHED
    })
}

/// Let kmemleak look for what the tests lost; its message in the kernel log is what counts, here
/// are the details.
fn leaks(tap: &mut Tap) {
    const FILE: &str = "/sys/kernel/debug/kmemleak";
    if !Path::new(FILE).exists() {
        return;
    }
    let scan = || {
        if let Err(e) = fs::write(FILE, "scan") {
            kmsg(&format!("BUG: rpmem-test: kmemleak cannot scan: {e}"));
        }
    };
    // An object is reported when two scans agree on it, and by then it is older than this.
    const MIN_AGE: Duration = Duration::from_millis(5100);
    // CLOCK: kmemleak's own, which waits for no condition.
    let start = Instant::now();
    scan();
    std::thread::sleep(MIN_AGE.saturating_sub(start.elapsed()));
    scan();
    let found = fs::read_to_string(FILE).unwrap_or_default();
    for line in found.lines().take(200) {
        tap.line(&format!("# kmemleak: {line}"));
    }
    tap.line("# rpmem: scanned for leaks");
}

/// Processes that are no kernel threads, nor this one: they belong to the test. Where this is a service, those
/// of its cgroup do.
fn others() -> Vec<i32> {
    let own = std::process::id() as i32;
    let cgroup = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let ours = (own != 1).then(|| cgroup("self"));
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().to_string_lossy().into_owned();
            let pid = name.parse::<i32>().ok()?;
            fs::read_link(e.path().join("exe")).ok()?;
            let in_test = ours.as_ref().map_or(pid > 2, |ours| cgroup(&name) == *ours);
            (pid != own && in_test).then_some(pid)
        })
        .collect()
}

/// Says where the processes of a test are that does not end.
fn stuck(tap: &mut Tap) {
    for pid in others() {
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let (name, stat) = (read("comm"), read("stat"));
            let state = stat.rsplit_once(") ").map_or("", |s| s.1);
            let state = state.split(' ').next().unwrap_or_default();
            tap.line(&format!(
                "# rpmem: {pid} {} is in state {state}",
                name.trim()
            ));
            for line in read("stack").lines().take(12) {
                tap.line(&format!("# rpmem:     {line}"));
            }
        }
    }
}

/// Kill what a test left behind, in its group or outside of it, and collect every dead child.
fn kill_group(pid: i32) {
    // SAFETY: signals to a process group that this process made.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    // One that cannot be killed ends the boot: the harness waits for the next line only so long.
    loop {
        for p in others() {
            // SAFETY: as above.
            unsafe { libc::kill(p, libc::SIGKILL) };
        }
        // SAFETY: reaps any child of process 1.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
            r if r < 0 => break,
            // CLOCK: how often it is looked at.
            0 => std::thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
    }
}

fn run_test(tap: &mut Tap, number: usize, name: &str) {
    tap.line(&format!("# rpmem: start {name}"));
    kmsg(&format!("rpmem-test: start {name}"));
    let child = Command::new("/proc/self/exe")
        .args(["run-test", name])
        .env("RPMEM_TEST", number.to_string())
        // The kernel writes to glibc's area for rseq(2) when it moves a thread: a fault at any moment, if
        // the page is shared with a child.
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match child {
        Ok(c) => c,
        Err(e) => {
            tap.line(&format!("# fail: cannot run a test: {e}"));
            tap.line(&format!("not ok {number} {name}"));
            return;
        }
    };
    let pid = child.id() as i32;
    let fds = [
        child.stdout.take().map(std::os::fd::OwnedFd::from),
        child.stderr.take().map(std::os::fd::OwnedFd::from),
    ];
    let mut partial: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut open = [true, true];
    let mut lines = 0;
    let mut skip = String::new();
    let mut last = "nothing".to_string();
    let mut timed_out = false;
    let mut status = None;
    loop {
        let input = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut polls = Vec::new();
        for (i, f) in fds.iter().enumerate() {
            if let (true, Some(f)) = (open[i], f) {
                polls.push((i, input(f.as_raw_fd())));
            }
        }
        let mut raw: Vec<libc::pollfd> = polls.iter().map(|p| p.1).collect();
        raw.push(input(tap.file.as_raw_fd()));
        // SAFETY: an array of pollfd with its length.
        let ready = unsafe { libc::poll(raw.as_mut_ptr(), raw.len() as libc::nfds_t, 10) };
        let told = raw.pop().is_some_and(|r| r.revents & libc::POLLIN != 0);
        if told && tap.is_late(number) && status.is_none() {
            timed_out = true;
            stuck(tap);
            break;
        }
        for (p, r) in polls.iter().zip(&raw) {
            if r.revents == 0 {
                continue;
            }
            let mut buf = [0u8; 4096];
            // SAFETY: reads into a buffer of that size.
            let n = unsafe { libc::read(r.fd, buf.as_mut_ptr().cast(), buf.len()) };
            if n <= 0 {
                open[p.0] = false;
                continue;
            }
            let part = partial.entry(p.0).or_default();
            part.extend_from_slice(&buf[..n as usize]);
            while let Some(nl) = part.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = part.drain(..=nl).collect();
                diagnostic(tap, number, name, &line, &mut lines, &mut skip);
                last = String::from_utf8_lossy(&line).into_owned();
            }
        }
        if status.is_none() {
            status = child.try_wait().ok().flatten();
        }
        // A process that the test left behind may hold the pipe: the test's own end counts, and
        // what it wrote before is in the pipe by then.
        if status.is_some() && ready <= 0 {
            break;
        }
        if status.is_some() && !open[0] && !open[1] {
            break;
        }
    }
    kill_group(pid);
    for (_, rest) in partial {
        if !rest.is_empty() {
            diagnostic(tap, number, name, &rest, &mut lines, &mut skip);
        }
    }
    if timed_out {
        let last = last.trim_end();
        tap.line(&format!("# rpmem: timeout; it said last: {last}"));
        tap.line(&format!("not ok {number} {name}"));
    } else {
        use std::os::unix::process::ExitStatusExt;
        match status.map(|s| (s.code(), s.signal())) {
            Some((Some(0), _)) => tap.line(&format!("ok {number} {name}")),
            Some((Some(EXIT_SKIP), _)) => tap.line(&format!("ok {number} {name} # SKIP {skip}")),
            Some((_, Some(sig))) => {
                tap.line(&format!("# fail: the test was killed by signal {sig}"));
                tap.line(&format!("not ok {number} {name}"));
            }
            _ => tap.line(&format!("not ok {number} {name}")),
        }
    }
    kmsg(&format!("rpmem-test: end {name}"));
}

fn diagnostic(
    tap: &mut Tap,
    number: usize,
    name: &str,
    line: &[u8],
    lines: &mut usize,
    skip: &mut String,
) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    if text == ASK_POWER_CUT {
        tap.line(&format!("ok {number} {name}"));
        tap.line("# rpmem: cut the power now");
        tap.drain();
        return;
    }
    if let Some(how) = text.strip_prefix(ASK_DOWN).and_then(|n| n.parse().ok()) {
        tap.line(&format!("ok {number} {name}"));
        tap.line("# rpmem: the machine goes down now");
        tap.drain();
        // SAFETY: ends the machine.
        unsafe { libc::reboot(how) };
        hang();
    }
    if let Some(why) = text.strip_prefix(SKIP_PREFIX) {
        *skip = why.to_string();
        return;
    }
    *lines += 1;
    // The reason of a failure is kept however much came before.
    if *lines < MAX_LINES || text.starts_with("fail: ") {
        tap.line(&format!("# {text}"));
    } else if *lines == MAX_LINES {
        tap.line("# rpmem: more output is left out");
    }
}

/// An interactive shell on the console; its end is the end of the machine.
fn shell(p: &Plan) -> ! {
    if let Err(e) = set_up_driver(p) {
        eprintln!("rpmem: {e}");
    }
    let _ = fs::write("/proc/sys/kernel/printk", "5");
    println!(
        "rpmem: driver {}; `exit` ends the machine, so does Ctrl-A X",
        p.driver
    );
    let open = || File::options().read(true).write(true).open(arch::CONSOLE);
    if let (Ok(i), Ok(o), Ok(e)) = (open(), open(), open()) {
        let mut c = Command::new("bash");
        c.args(["--norc", "-i"])
            .env("PS1", "rpmem-guest# ")
            .env("TERM", "vt100");
        c.stdin(i).stdout(o).stderr(e).current_dir("/");
        // SAFETY: setsid and ioctl are async-signal-safe; descriptor 0 is the terminal.
        unsafe {
            c.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 1);
                Ok(())
            });
        }
        match c.spawn() {
            Ok(mut child) => {
                let _ = child.wait();
            }
            Err(e) => eprintln!("rpmem: bash: {e}"),
        }
    }
    quit(FINISHED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        let p = parse(
            "mode test\ndriver rpmem\nparams a=1 b=2\nend power-cut\nresume bare\ntest x\ntest y\n",
        )
        .unwrap();
        assert_eq!(p.driver, "rpmem");
        assert_eq!(p.params, "a=1 b=2");
        assert!(p.power_cut);
        assert_eq!(p.resume, "bare");
        assert_eq!(p.tests, ["x", "y"]);
        assert_eq!(depends(b"x\0depends=a,b_c\0y=1\0"), ["a", "b_c"]);
        assert!(depends(b"x\0depends=\0").is_empty());
        assert!(parse("tset x\n").is_err());
        assert!(parse("test\n").is_err());
    }
}
