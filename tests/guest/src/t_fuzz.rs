// SPDX-License-Identifier: GPL-2.0
//! Random system calls on the device nodes, while an administrator binds, unbinds, mounts, unmounts
//! and reloads: see `fuzz/program.rs` for the programs, `calls.rs` for what they are made of.
//!
//! The programs follow from the seed; what they meet depends on the scheduler. One round alone, in
//! `make shell FIXTURE=nfit-label`, with every call printed:
//!
//!     rpmem-guest fuzz --seed 1234 --round 5 --trace
//!
//! After each round: every process has ended, nothing is left of the driver after an unbind, and
//! disks, their sizes and the bytes that no program may write are as before.

use crate::fuzz::admin::{self, ADMIN};
use crate::fuzz::calls::Hope;
use crate::fuzz::machine::{self, At, Machine, FILE_SIZE, MACHINE, NODES, SPACES};
use crate::fuzz::program::{self, Deed, Round, KEPT_END, KEPT_START};
use crate::fuzz::{others, run};
use crate::support::ctx::{self, Ctx, Outcome, Test, TestResult};
use crate::support::{disk, tools};
use crate::{check, check_eq, fail};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = crate::tests! {
    fuzz_same_seed => same_seed,
    fuzz_nodes => nodes,
    fuzz_high => high,
};

const USAGE: &str = "usage: rpmem-guest fuzz --seed S [--round R] [--rounds N] [--trace | --print]";

/// Rounds of the short form, and seconds of the long one.
const ROUNDS: u64 = 2;
const LONG: Duration = Duration::from_secs(20 * 60);
/// Seconds for all processes of a round to end. They need some, and on a busy host many times as many;
/// the harness would end the test a little later, and cannot say which calls are under way.
const DEADLINE: Duration = Duration::from_secs(600);
/// When they are killed if one waits for what may never come.
const PATIENCE: Duration = Duration::from_secs(40);

/// The sub-command.
pub fn main(args: &[&str]) -> i32 {
    if args.contains(&"--print") {
        return match Asked::new(args) {
            Ok(a) => {
                for n in a.first..a.first + a.rounds {
                    let r = Round::new(a.seed, n);
                    let text = r.text();
                    print!("{text}");
                    println!(
                        "round {n}: {} calls, {:016x}",
                        r.calls(),
                        program::hash(&text)
                    );
                }
                0
            }
            Err(e) => {
                eprintln!("{e}\n{USAGE}");
                2
            }
        };
    }
    if std::env::var_os("RPMEM_DRIVER").is_none() {
        std::env::set_var("RPMEM_DRIVER", "rpmem");
    }
    crate::support::ctx::run(&Test {
        name: "fuzz",
        run: by_hand,
    })
}

struct Asked {
    seed: u64,
    first: u64,
    rounds: u64,
    trace: bool,
}

impl Asked {
    fn new(args: &[&str]) -> Result<Asked, String> {
        let mut a = Asked {
            seed: 0,
            first: 0,
            rounds: ROUNDS,
            trace: false,
        };
        let mut it = args.iter();
        while let Some(arg) = it.next() {
            let mut number = || {
                let n = it.next().and_then(|n| n.parse().ok());
                n.ok_or(format!("{arg} needs a number"))
            };
            match *arg {
                "--seed" => a.seed = number()?,
                "--round" => (a.first, a.rounds) = (number()?, 1),
                "--rounds" => a.rounds = number()?,
                "--trace" => a.trace = true,
                "--print" => {}
                _ => return Err(format!("unknown argument {arg}")),
            }
        }
        Ok(a)
    }
}

fn by_hand(c: &mut Ctx) -> TestResult {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let a = Asked::new(&args).map_err(|e| format!("{e}\n{USAGE}"))?;
    c.seed = a.seed;
    run::trace(a.trace);
    let bench = Bench::new(c)?;
    for n in a.first..a.first + a.rounds {
        bench.round(c, n)?;
    }
    bench.report();
    Ok(())
}

/// The programs of a seed are the same in every process, and others for another seed or round.
fn same_seed(c: &mut Ctx) -> TestResult {
    let print = |seed: u64, round: u64| {
        let (s, r) = (seed.to_string(), round.to_string());
        c.ok(&[
            "rpmem-guest",
            "fuzz",
            "--print",
            "--seed",
            &s,
            "--round",
            &r,
        ])
    };
    for round in [0, 1, 2] {
        let one = print(c.seed, round)?;
        check!(one.lines().count() > 100, "a short program: {one}");
        check_eq!(
            print(c.seed, round)?,
            one,
            "round {round} of seed {} again",
            c.seed
        );
        check!(
            print(c.seed + 1, round)? != one,
            "another seed, the same program"
        );
        check!(
            print(c.seed, round + 1)? != one,
            "another round, the same program"
        );
    }
    Ok(())
}

/// With five levels of page tables.
fn high(c: &mut Ctx) -> TestResult {
    check!(machine::has_high(), "four levels of page tables");
    nodes(c)
}

fn nodes(c: &mut Ctx) -> TestResult {
    let bench = Bench::new(c)?;
    // CLOCK: how much is done, and no verdict.
    let start = Instant::now();
    let mut n = 0;
    // A busy host makes fewer rounds in that time: those that are rare are waited for.
    while if c.long {
        start.elapsed() < LONG || !never().is_empty()
    } else {
        n < ROUNDS
    } {
        bench.round(c, n)?;
        n += 1;
    }
    println!("{n} rounds in {:.0} s", start.elapsed().as_secs_f64());
    bench.report();
    bench.covered(c.long)?;
    for (space, kind) in bench.machine.disk.iter().zip(SPACES) {
        match kind.fs {
            Some("ext4") => {
                // One with errors, as after a shutdown, leaves its orphans to fsck.
                let dev = format!("/dev/{space}");
                let preen = c.run(&["fsck.ext4", "-p", "-f", &dev])?;
                // What it leaves as it is and yet says 0 or 1 to is advice, such as a
                // shorter extent tree; an error that it leaves makes the status 4.
                let known = [
                    "rphan",
                    "has zero dtime",
                    "CLEARED.",
                    " files (",
                    "  IGNORED.",
                ];
                let harmless = |l: &str| known.iter().any(|k| l.contains(k));
                check!(
                    preen.status <= 1 && preen.out.lines().all(harmless),
                    "{preen}"
                );
                c.ok(&["fsck.ext4", "-n", "-f", &dev])?
            }
            Some(_) => c.ok(&["xfs_repair", "-n", &format!("/dev/{space}")])?,
            None => String::new(),
        };
    }
    Ok(())
}

/// The machine that the programs run on, and what has to stay as it is.
struct Bench {
    machine: &'static Machine,
    /// /proc/iomem with no namespace bound.
    iomem: String,
    sizes: Vec<u64>,
    seed: u64,
}

const MNT: &str = "/mnt/fuzz";
const KEPT: u64 = 0x6b657074;

impl Bench {
    fn new(c: &mut Ctx) -> TestResult<Bench> {
        run::share()?;
        ctx::rearrange_memory(true);
        // Nobody here gives the lease of direct mappings back for an unbind.
        c.write("/proc/sys/fs/lease-break-time", "0")?;
        // Orphans come back to this process, so none is overlooked.
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        // What is ours there can be looked at by all.
        for dir in ["/sys/kernel/debug", "/sys/kernel/tracing"] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
        let mut m = Machine {
            driver: c.driver.clone(),
            params: c.params.clone(),
            ..Machine::default()
        };
        let fresh = admin::carrier(0).is_none();
        if fresh {
            c.init_labels()?;
        }
        // File systems are mounted on a file system that takes no files: what finds none mounted
        // does not fill the memory of the machine.
        fs::create_dir_all(MNT)?;
        if !Path::new(&format!("{MNT}/ext4")).exists() {
            c.ok(&["mount", "-t", "tmpfs", "tmpfs", MNT])?;
            for s in SPACES {
                fs::create_dir_all(format!("{MNT}/{}", s.name))?;
            }
            c.ok(&["mount", "-o", "remount,ro", MNT])?;
        }
        if fresh {
            // The last one is to be at the start of the region.
            for s in SPACES.iter().rev() {
                let name = format!("fuzz-{}", s.name);
                let mut options = s.options.to_vec();
                options.extend(["-n", &name]);
                c.create_namespace(&options)?;
            }
            // A region that is set up anew numbers its namespaces anew, in the order that memcmp() has
            // for addresses (`cmp_dpa()`, drivers/nvdimm/namespace_devs.c), with their lowest bytes
            // first: not as they were made, if the region is across a multiple of 4 GiB.
            for region in c.regions() {
                let r = admin::set_up_region(&region);
                check!(r >= 0, "{region}: {r}");
            }
        }
        for s in SPACES {
            let name = format!("fuzz-{}", s.name);
            let Some(nd) = admin::carrier(m.disk.len()) else {
                fail!("no namespace {name}: start with a fresh label area");
            };
            let disk = c.disk_of(&nd)?;
            let dev = format!("/dev/{disk}");
            m.mount.push(format!("{MNT}/{}", s.name));
            match s.fs {
                // dax_insert_entry() (fs/dax.c) puts the folio of a shared extent that is faulted in
                // again, and warns if somebody has pinned it, whatever the driver.
                Some("xfs") => tools::mkfs_xfs(c, "-m reflink=0", &dev)?,
                Some(fs) => tools::mkfs_dax(c, fs, &dev)?,
                None => disk::fill(
                    &disk::direct(&dev)?,
                    KEPT,
                    KEPT_START,
                    KEPT_END - KEPT_START,
                )?,
            }
            m.disk.push(disk);
        }
        m.regions = c.regions();
        let mut sizes = Vec::new();
        for d in &m.disk {
            sizes.push(disk::attr_u64(c, d, "size")? * 512);
        }
        for n in NODES {
            let (path, size) = match n.at {
                At::Disk(s) => (format!("/dev/{}", m.disk[s]), sizes[s]),
                At::Partition(s) => (format!("/dev/{}p1", m.disk[s]), 4 << 20),
                At::File(s, f) => (format!("{}/{f}", m.mount[s]), FILE_SIZE),
                At::Map(s) => (format!("/dev/r{}", m.disk[s]), sizes[s]),
                At::Attribute(s, a) => (format!("/sys/block/{}/{a}", m.disk[s]), 4096),
            };
            m.path.push(CString::new(path).unwrap_or_default());
            m.size.push(size);
        }
        let mut bench = Bench {
            machine: MACHINE.get_or_init(|| m),
            iomem: String::new(),
            sizes,
            seed: c.seed,
        };
        bench.mount_all(c)?;
        for (mnt, kind) in bench.machine.mount.iter().zip(SPACES) {
            if kind.fs.is_some() {
                let f = tools::open_rw(format!("{mnt}/kept"))?;
                disk::fill(&f, KEPT, 0, KEPT_END - KEPT_START)?;
                f.sync_all()?;
            }
        }
        bench.umount_all(c)?;
        bench.unbind_all(c)?;
        bench.iomem = c.read("/proc/iomem")?;
        bench.bind_all(c)?;
        // Leaks of the boot are none of this test's.
        let _ = fs::write("/sys/kernel/debug/kmemleak", "clear");
        Ok(bench)
    }

    fn with_fs(&self) -> impl Iterator<Item = usize> {
        (0..SPACES.len()).filter(|n| SPACES[*n].fs.is_some())
    }

    fn mount_all(&self, _: &Ctx) -> TestResult {
        for n in self.with_fs() {
            let r = admin::mount(self.machine, n);
            check!(r == 0, "mount of {}: {r}", self.machine.disk[n]);
        }
        Ok(())
    }

    /// Everything that is mounted on the mount points. The administrator may have mounted twice.
    fn umount_all(&self, c: &Ctx) -> TestResult {
        for n in self.with_fs() {
            let mut last = 0;
            c.wait_for(&format!("umount of {}", self.machine.mount[n]), || {
                last = admin::umount(self.machine, n, 0);
                last == -i64::from(libc::EINVAL)
            })?;
        }
        Ok(())
    }

    fn unbind_all(&self, c: &Ctx) -> TestResult {
        for n in 0..SPACES.len() {
            let r = admin::unbind(self.machine, n);
            check!(r >= 0, "unbind of {}: {r}", self.machine.disk[n]);
        }
        check!(
            c.disks().is_empty(),
            "disks without driver: {:?}",
            c.disks()
        );
        Ok(())
    }

    /// The disk of a namespace, which is bound if it was not, and the device that carries it.
    fn bound(&self, c: &Ctx, n: usize) -> TestResult<(String, String)> {
        let disk = &self.machine.disk[n];
        let Some(nd) = admin::carrier(n) else {
            fail!("the namespace of {disk} is gone");
        };
        if c.bound_to(&nd).is_none() {
            let r = admin::bind(self.machine, n);
            check!(r >= 0, "bind of {nd} for {disk}: {r}");
        }
        Ok((c.disk_of(&nd)?, nd))
    }

    fn bind_all(&self, c: &Ctx) -> TestResult {
        for (n, disk) in self.machine.disk.iter().enumerate() {
            let (found, nd) = self.bound(c, n)?;
            check_eq!(&found, disk, "disk of {nd}");
        }
        Ok(())
    }

    /// A namespace gets the number that it had, and the disk its name, if nothing refers to the device
    /// that it was before: rmmod(8) does for a moment (`driver_detach()`, drivers/base/dd.c), in which
    /// another administrator may set up the region. A reference that is lost stays, and its number with
    /// it, also when nobody else is there: `bind_all()` tells.
    fn old_names(&self, c: &Ctx) -> TestResult {
        for (n, disk) in self.machine.disk.iter().enumerate() {
            if self.bound(c, n)?.0 != *disk {
                println!("result: {disk} has another name: its region is set up once more");
                for region in &self.machine.regions {
                    let r = admin::set_up_region(region);
                    check!(r >= 0, "{region}: {r}");
                }
                break;
            }
        }
        Ok(())
    }

    /// Files as a round finds them: new ones, of the size that they have in `FILE_SIZE`.
    fn files(&self) -> TestResult {
        for pass in 0..2 {
            for n in NODES {
                let At::File(s, name) = n.at else { continue };
                let path = format!("{}/{name}", self.machine.mount[s]);
                if pass == 0 {
                    // Makes room for all.
                    let _ = fs::remove_file(&path);
                } else {
                    let f = tools::file_of(&path, FILE_SIZE as usize)?;
                    f.write_all_at(&vec![0x5a; 1 << 20], 0)?;
                    f.set_permissions(fs::Permissions::from_mode(0o666))?;
                }
            }
        }
        Ok(())
    }

    fn round(&self, c: &Ctx, number: u64) -> TestResult {
        let r = Round::new(self.seed, number);
        let what = format!("fuzz: seed {} round {number}", self.seed);
        let _ = fs::write("/dev/kmsg", format!("<6>{what}\n"));
        // CLOCK: only shown.
        let start = Instant::now();
        self.play(c, &r)
            .and_then(|()| self.check(c))
            .map_err(|e| match e {
                Outcome::Fail(why) => Outcome::Fail(format!("{what}: {why}")),
                skip => skip,
            })?;
        // The long form has more rounds than the log has lines.
        if number < 20 || number % 20 == 0 {
            let (calls, hash) = (r.calls(), program::hash(&r.text()));
            let s = start.elapsed().as_secs_f64();
            println!("{what}: {calls} calls, {hash:016x}, {s:.1} s");
        }
        Ok(())
    }

    fn play(&self, c: &Ctx, r: &Round) -> TestResult {
        self.mount_all(c)?;
        self.files()?;
        run::forget_positions();
        let s = run::shared();
        s.running.store(r.groups.len() as u32, SeqCst);
        if r.number % 2 != 0 {
            for n in 0..SPACES.len() {
                let e = admin::open_to_all(self.machine, n);
                check!(e == 0, "chmod of the node of {}: {e}", self.machine.disk[n]);
            }
        }
        let mail = others::Mail::new()?;
        // Ready, and go: the end of the pipes.
        let (ready, go) = (pipe()?, pipe()?);
        let mut names = Vec::new();
        for (g, group) in r.groups.iter().enumerate() {
            let pid = run::process(|| {
                close(ready.0);
                close(go.1);
                run::group(g, group, || {
                    close(ready.1);
                    wait_end(go.0);
                })
            })?;
            names.push((pid, format!("process {g}")));
        }
        for (a, deeds) in r.admins.iter().enumerate() {
            let total = r.calls();
            let pid = run::process(|| {
                close(ready.0);
                close(ready.1);
                close(go.1);
                wait_end(go.0);
                run::admin(a, deeds, total)
            })?;
            names.push((pid, format!("administrator {a}")));
        }
        drop(mail);
        close(ready.1);
        wait_end(ready.0);
        close(go.1);
        close(go.0);
        self.wait(c, names, r.groups.len())?;
        if r.number == 0 {
            self.tour(c)?;
        }
        run::verdict().map_err(Outcome::Fail)
    }

    /// Wait until every process of the round, whoever made it, has ended.
    fn wait(&self, c: &Ctx, mut names: Vec<(i32, String)>, groups: usize) -> TestResult {
        // CLOCK: long, and only to say what hangs.
        let end = Instant::now() + DEADLINE;
        let mut look = Instant::now() + PATIENCE;
        let mut killed = false;
        let mut programs = groups;
        let mut cleaner = false;
        loop {
            let mut status = 0;
            // SAFETY: children of this process.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid < 0 {
                return Ok(());
            }
            if pid == 0 {
                // CLOCK: as above.
                if Instant::now() > end {
                    stuck();
                    fail!("not ended after {DEADLINE:?}: {names:?}; see above");
                }
                // CLOCK: those that it finds never end; the rest is left alone.
                if Instant::now() > look {
                    look += PATIENCE / 8;
                    killed |= kill_those_who_never_end(c, &names);
                }
                // CLOCK: how often it is looked at.
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            if let Some(i) = names.iter().position(|(p, _)| *p == pid) {
                let (_, name) = names.remove(i);
                check!(
                    status == 0 || killed && status == libc::SIGKILL && is_program(&name),
                    "{name} ended with wait status {status:#x}"
                );
                programs -= usize::from(is_program(&name));
            }
            // An unbind may be waiting for the end of files that share extents, and those for the
            // end of their file system.
            if programs == 0 && !cleaner && !names.is_empty() {
                cleaner = true;
                let pid = run::process(|| {
                    for n in self.with_fs() {
                        while admin::umount(self.machine, n, 0) == 0 {}
                    }
                    0
                })?;
                names.push((pid, "the last umount".into()));
            }
        }
    }

    /// Each deed of an administrator, in an order in which all of them succeed.
    fn tour(&self, c: &Ctx) -> TestResult {
        let order = [
            ("attribute_read", 0),
            ("attribute_write", 0),
            ("lease_break_time", 0),
            ("open_to_all", 0),
            ("sync", 0),
            ("drop_caches", 0),
            ("umount", 0),
            ("umount_lazily", 1),
            ("read_only", 0),
            ("unbind", 0),
            ("bind", 0),
            ("unbind_and_bind", 1),
            ("mount", 0),
            ("umount", 0),
            ("region", 0),
            ("reload", 0),
        ];
        for (n, (name, arg)) in order.into_iter().enumerate() {
            if name == "reload" {
                c.settle();
                self.bind_all(c)?;
                c.wait_unused(c.driver_name())?;
            }
            let kind = ADMIN.iter().position(|k| k.name == name).unwrap_or(0);
            let r = run::perform(60, n, &Deed { kind, arg }, self.machine);
            check!(r >= 0, "{name}: {r}");
        }
        Ok(())
    }

    /// What holds after every round.
    fn check(&self, c: &Ctx) -> TestResult {
        self.umount_all(c)?;
        if !c.module_loaded(c.driver_name()) {
            let r = admin::load(self.machine);
            check!(r >= 0, "insmod: {r}");
        }
        c.settle();
        self.old_names(c)?;
        self.bind_all(c)?;
        c.wait_unused(c.driver_name())?;
        self.unbind_all(c)?;
        check_eq!(
            c.read("/proc/iomem")?,
            self.iomem,
            "/proc/iomem without a driver"
        );
        let mut last = Vec::new();
        c.wait_for("tasks in state D to go on", || {
            let stuck = asleep();
            if stuck != last {
                println!("tasks in state D: {stuck:?}");
                last = stuck;
            }
            last.is_empty()
        })?;
        self.bind_all(c)?;
        self.mount_all(c)?;
        for (n, kind) in SPACES.iter().enumerate() {
            let name = &self.machine.disk[n];
            let size = disk::attr_u64(c, name, "size")? * 512;
            check_eq!(size, self.sizes[n], "size of {name}");
            let nd = admin::carrier(n).unwrap_or_default();
            let told = c.read_u64(c.nd(&nd).join("size"))?;
            check_eq!(size, told, "size of {name} and of {nd}");
            check_eq!(c.disk_attr(name, "ro")?, "0", "{name} is read-only");
            let holders = fs::read_dir(format!("/sys/block/{name}/holders"))?.count();
            check_eq!(holders, 0, "holders of {name}");
            let kept = KEPT_END - KEPT_START;
            let r = match kind.fs {
                Some(_) => {
                    let path = format!("{}/kept", self.machine.mount[n]);
                    disk::verify(&fs::File::open(path)?, KEPT, 0, kept)
                }
                None => disk::verify(
                    &disk::direct(&format!("/dev/{name}"))?,
                    KEPT,
                    KEPT_START,
                    kept,
                ),
            };
            if let Err(Outcome::Fail(why)) = r {
                fail!("what was to be kept on {}: {why}", kind.name);
            }
        }
        self.umount_all(c)
    }

    /// What was called, how often with success, and which errors there were.
    fn report(&self) {
        let s = run::shared();
        for n in 0..run::counters() {
            let (ok, failed) = (s.ok[n].load(SeqCst), s.failed[n].load(SeqCst));
            let mut line = format!("{:22} {ok:6} ok {failed:6} failed", run::counter_name(n));
            for (e, count) in s.errnos[n].iter().enumerate() {
                let count = count.load(SeqCst);
                if count > 0 {
                    line += &format!(" {e}:{count}");
                }
            }
            println!("{line}");
        }
    }

    /// A call that never succeeds tests nothing. The short form has not time enough for all that are
    /// rare.
    fn covered(&self, all: bool) -> TestResult {
        let never = never();
        println!("never succeeded, or never happened: {never:?}");
        check!(
            never.len() <= if all { 0 } else { 5 },
            "calls that never succeeded, or never happened: {never:?}"
        );
        Ok(())
    }
}

/// Calls that never succeeded, or never happened.
fn never() -> Vec<&'static str> {
    let s = run::shared();
    (0..run::counters())
        .filter(|&n| {
            let (ok, failed) = (s.ok[n].load(SeqCst), s.failed[n].load(SeqCst));
            ok + failed == 0 || (ok == 0 && run::hope(n) == Hope::Success)
        })
        .map(run::counter_name)
        .collect()
}

fn pipe() -> TestResult<(i32, i32)> {
    let mut p = [0; 2];
    // SAFETY: an array of two descriptors.
    let r = unsafe { libc::pipe2(p.as_mut_ptr(), libc::O_CLOEXEC) };
    check!(r == 0, "pipe: {}", std::io::Error::last_os_error());
    Ok((p[0], p[1]))
}

fn close(fd: i32) {
    // SAFETY: an end of a pipe of `play`.
    unsafe { libc::close(fd) };
}

/// Wait until all have closed the other end.
fn wait_end(fd: i32) {
    let mut b = 0u8;
    // SAFETY: one byte from a pipe of `play`.
    unsafe { libc::read(fd, (&raw mut b).cast(), 1) };
    close(fd);
}

/// Every task, as a folder of /proc.
fn tasks() -> Vec<std::path::PathBuf> {
    let list = |d: std::path::PathBuf| fs::read_dir(d).into_iter().flatten().flatten();
    let number = |e: &fs::DirEntry| e.file_name().to_string_lossy().parse::<u32>().is_ok();
    list("/proc".into())
        .filter(number)
        .flat_map(|p| list(p.path().join("task")))
        .map(|t| t.path())
        .collect()
}

fn state(task: &Path) -> Option<(String, char)> {
    let stat = fs::read_to_string(task.join("stat")).ok()?;
    let (name, rest) = stat.split_once(" (")?.1.rsplit_once(") ")?;
    Some((name.to_string(), rest.chars().next()?))
}

fn asleep() -> Vec<String> {
    let mut v = Vec::new();
    for t in tasks() {
        if let Some((name, 'D')) = state(&t) {
            v.push(format!("{} {name}", t.display()));
        }
    }
    v
}

fn is_program(name: &str) -> bool {
    name.starts_with("process")
}

/// Kills the programs among `names` if one of them, or of their children, has met one of two things
/// that never end but by a signal, with any driver (Documentation/testing.md): dax_break_layout()
/// waits, with the lock of the file held, for a page that has been faulted in again, maybe by who waits
/// for that lock; MAP_POPULATE of a disk tries again for ever what cannot be read. A reference to a page
/// that is lost would be seen all the same: the unbind after the round waits for it, too.
fn kill_those_who_never_end(c: &Ctx, names: &[(i32, String)]) -> bool {
    let log = c.dmesg().unwrap_or_default();
    let unread = log
        .lines()
        .rev()
        .take(12)
        .any(|l| l.contains("async page read"));
    let me = fs::read_link("/proc/self/exe").ok();
    let pid = |t: &Path| t.iter().nth(2)?.to_str()?.parse::<i32>().ok();
    let never_ends = |t: &Path| {
        let stack = fs::read_to_string(t.join("stack")).unwrap_or_default();
        let runs = unread
            && state(t).is_some_and(|(_, s)| s == 'R')
            && fs::read_link(t.join("exe")).ok() == me
            && pid(t).is_some_and(|p| p != 1 && p != std::process::id() as i32);
        stack.contains("_wait_dax_page+") || runs
    };
    let waiting: Vec<i32> = tasks()
        .iter()
        .filter(|t| never_ends(t))
        .filter_map(|t| pid(t))
        .collect();
    if waiting.is_empty() {
        return false;
    }
    println!(
        "result: killed, as {waiting:?} wait for pages, or populate what cannot be read: {names:?}"
    );
    // Parents first: they would say that a child was lost.
    let programs = names.iter().filter(|(_, n)| is_program(n)).map(|(p, _)| *p);
    for p in programs.chain(waiting) {
        // SAFETY: a process that is a child of this one, or has such a parent.
        unsafe { libc::kill(p, libc::SIGKILL) };
    }
    // Administrators keep in step with none.
    run::shared().running.store(0, SeqCst);
    true
}

/// Where the tasks of this program are that have not ended.
fn stuck() {
    println!(
        "operations under way (strand:number@process):{}",
        run::positions()
    );
    let me = fs::read_link("/proc/self/exe").ok();
    for t in tasks() {
        let pid = t
            .components()
            .nth(2)
            .map(|c| c.as_os_str().to_string_lossy().into_owned());
        let own = pid == Some("1".into()) || pid == Some(std::process::id().to_string());
        let exe = fs::read_link(t.join("exe")).ok();
        // A task that is exiting has lost its program.
        let dying = state(&t).is_some_and(|(_, s)| s == 'D');
        if own || (exe != me && !dying) {
            continue;
        }
        println!("{} {:?}", t.display(), state(&t));
        for f in ["syscall", "stack"] {
            for l in fs::read_to_string(t.join(f)).unwrap_or_default().lines() {
                println!("    {l}");
            }
        }
        // Its threads have the same files.
        if t.file_name().and_then(|n| n.to_str()) == pid.as_deref() {
            for fd in fs::read_dir(t.join("fd")).into_iter().flatten().flatten() {
                let to = fs::read_link(fd.path()).unwrap_or_default();
                println!("    {:?} -> {}", fd.file_name(), to.display());
            }
        }
    }
}
