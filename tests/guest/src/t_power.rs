// SPDX-License-Identifier: GPL-2.0
//! Sleep, hibernation and other kernels, with mappings and dirty pages alive: the contract of
//! Documentation/power.md.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::hibernate::{hibernate, swap_on};
use crate::support::kexec::{load_again, start, KEXEC_FILE_ON_CRASH};
use crate::support::node::DIRECT_WINDOW;
use crate::support::sys::{self, Map, PAGE};
use crate::support::tools::{self, errno};
use crate::support::trace::Trace;
use crate::support::uapi::{self, LEASE_HELD};
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::io::Read;

pub const TESTS: &[Test] = crate::tests! {
    power_create => create,
    power_create_on_medium => create_on_medium,
    power_ram => ram,
    power_off_by_firmware => off_by_firmware,
    power_off => off,
    power_refused => refused,
    power_disabled => disabled,
    power_kexec => kexec,
    power_after_kexec => found,
    power_panic => panic,
    power_in_crash_kernel => in_crash_kernel,
    power_after_panic => found,
};

const PART: usize = 64 * PAGE;
const MNT: &str = "/mnt/pmem";
/// Where the direct mapping of a node is.
const DIRECT: u64 = 8 << 20;

/// Seeds of what is written back before the event, of what is not, and of what comes after it.
const KEPT: u64 = 1;
const DIRTY: u64 = 2;
const AFTER: u64 = 3;

fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "256M"])?;
    c.create_namespace(&["-m", "raw", "-s", "64M"])?;
    c.create_namespace(&["-m", "devdax", "-M", "mem", "-s", "128M"])?;
    let s = space(c, "pfn")?;
    tools::mkfs_dax(c, "ext4", &format!("/dev/{}", s.disk))
}

/// The struct pages are on the medium.
fn create_on_medium(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "256M"])?;
    let s = space(c, "pfn")?;
    tools::mkfs_dax(c, "ext4", &s.dev())
}

fn space(c: &Ctx, nd: &str) -> TestResult<tools::Space> {
    let all = tools::spaces(c)?;
    match all.iter().find(|s| s.nd.starts_with(nd)) {
        Some(s) => Ok(s.clone()),
        None => fail!("no disk of {nd}: {all:?}"),
    }
}

/// A file or a node, with what is in a mapping of it.
struct Mapped {
    name: String,
    file: File,
    map: Map,
    /// MAP_SYNC, of a node in the direct window: what is stored there is durable at once.
    direct: Option<Map>,
}

impl Mapped {
    fn new(name: &str, file: File, sync: bool, direct: bool) -> TestResult<Mapped> {
        let map = match sync {
            true => Map::sync(&file, 0, 2 * PART)?,
            false => Map::shared(&file, 0, 2 * PART)?,
        };
        let direct = match direct {
            true => Some(Map::sync(&file, DIRECT_WINDOW + DIRECT, PART)?),
            false => None,
        };
        Ok(Mapped {
            name: name.to_string(),
            file,
            map,
            direct,
        })
    }

    /// A part that is written back, one that is not, and one that needs not be.
    fn fill(&mut self) -> TestResult {
        sys::pattern(KEPT, &mut self.map.slice_mut()[..PART]);
        self.map.msync()?;
        if let Some(d) = &mut self.direct {
            sys::pattern(KEPT, d.slice_mut());
            d.persist(0, PART);
        }
        sys::pattern(DIRTY, &mut self.map.slice_mut()[PART..]);
        Ok(())
    }

    fn check(&self) -> TestResult {
        let name = &self.name;
        let halves = self.map.slice().split_at(PART);
        check_eq!(sys::pattern_differs(KEPT, halves.0), None, "{name}: kept");
        check_eq!(sys::pattern_differs(DIRTY, halves.1), None, "{name}: dirty");
        if let Some(d) = &self.direct {
            check_eq!(
                sys::pattern_differs(KEPT, d.slice()),
                None,
                "{name}: direct"
            );
        }
        Ok(())
    }

    /// All that can be done with it still can.
    fn works(&mut self) -> TestResult {
        self.map.msync()?;
        self.file.sync_all()?;
        for map in [Some(&mut self.map), self.direct.as_mut()]
            .into_iter()
            .flatten()
        {
            sys::pattern(AFTER, &mut map.slice_mut()[..PART]);
            map.msync()?;
        }
        // In a new mapping, and with new page tables.
        let again = Map::shared(&self.file, 0, PART)?;
        check_eq!(
            sys::pattern_differs(AFTER, again.slice()),
            None,
            "{}",
            self.name
        );
        if self.direct.is_some() {
            let lease = uapi::rpmem_lease(&self.file, 32)?;
            check_eq!(
                (lease.state, lease.holders),
                (LEASE_HELD, 1),
                "{}",
                self.name
            );
        }
        // As before, for the next event.
        self.fill()
    }
}

/// What is in use over the event.
struct Live {
    all: Vec<Mapped>,
    mounted: Option<tools::Space>,
}

impl Live {
    fn new(c: &Ctx) -> TestResult<Live> {
        let mut live = Live {
            all: Vec::new(),
            mounted: None,
        };
        let mut found = Vec::new();
        for s in tools::spaces(c)? {
            found.push(s.nd.split('.').next().unwrap_or_default().to_string());
            if s.nd.starts_with("pfn") {
                c.mount(&s.dev(), MNT, "dax=always")?;
                let file = tools::file_of(&format!("{MNT}/plain"), 2 * PART)?;
                check!(tools::is_dax(&file)?, "no DAX");
                live.all.push(Mapped::new("a file", file, false, false)?);
                let file = tools::file_of(&format!("{MNT}/sync"), 2 * PART)?;
                live.all
                    .push(Mapped::new("a file, MAP_SYNC", file, true, false)?);
                live.mounted = Some(s);
            } else if c.driver == "rpmem" {
                let node = format!("/dev/r{}", s.disk);
                c.wait_exists(&node)?;
                let file = File::options().read(true).write(true).open(&node)?;
                let sync = c.read_u64(format!("/sys/class/rpmem/r{}/synchronous", s.disk))? == 1;
                live.all.push(Mapped::new(&node, file, false, sync)?);
            }
        }
        println!("in use: {found:?}, {} mapped", live.all.len());
        for m in &mut live.all {
            m.fill()?;
        }
        Ok(live)
    }

    fn check(&self) -> TestResult {
        self.all.iter().try_for_each(Mapped::check)
    }

    /// After the event: nothing is missing, what was dirty still is, and everything works.
    fn goes_on(&mut self, c: &Ctx) -> TestResult {
        self.check()?;
        if c.driver == "rpmem" {
            let node = self.all.iter().find(|m| m.direct.is_some());
            if let Some(node) = node {
                let back = Trace::on(c, "rpmem/rpmem_write_back")?;
                node.map.msync()?;
                let said = back.lines(c)?;
                let dirty = format!(" start {PART:#x} len {PART:#x}");
                check!(
                    matches!(said.as_slice(), [one] if one.ends_with(&dirty)),
                    "written back after the event: {said:?}"
                );
            }
        }
        for m in &mut self.all {
            m.works()?;
        }
        Ok(())
    }

    fn end(self, c: &Ctx) -> TestResult {
        drop(self.all);
        if let Some(s) = self.mounted {
            c.umount(MNT)?;
            c.ok(&["e2fsck", "-f", "-n", &s.dev()])?;
        }
        for s in tools::spaces(c)? {
            s.unbind(c)?;
            s.bind(c)?;
        }
        Ok(())
    }
}

/// Goes to sleep, and has to come back.
fn sleep(c: &mut Ctx, go: impl Fn(&Ctx) -> TestResult) -> TestResult {
    let mut live = Live::new(c)?;
    for _ in 0..2 {
        go(c)?;
        live.goes_on(c)?;
    }
    live.end(c)?;
    check_eq!(c.read("/sys/power/suspend_stats/fail")?, "0", "failures");
    Ok(())
}

/// Suspend to RAM.
fn ram(c: &mut Ctx) -> TestResult {
    c.write("/sys/power/mem_sleep", "deep")?;
    sleep(c, |c| {
        c.ask_monitor("wake")?;
        c.write("/sys/power/state", "mem")
    })
}

fn over_hibernation(c: &mut Ctx, mode: &str) -> TestResult {
    let mut live = Live::new(c)?;
    hibernate(c, mode)?;
    live.goes_on(c)?;
    live.end(c)
}

fn off_by_firmware(c: &mut Ctx) -> TestResult {
    over_hibernation(c, "platform")
}

fn off(c: &mut Ctx) -> TestResult {
    over_hibernation(c, "shutdown")
}

/// With struct pages on the medium the system does not hibernate, in no mode, and goes on.
fn refused(c: &mut Ctx) -> TestResult {
    let mut live = Live::new(c)?;
    swap_on(c)?;
    for mode in ["platform", "shutdown"] {
        c.write("/sys/power/disk", mode)?;
        let said = c.try_write("/sys/power/state")("disk");
        check_eq!(errno(&said), libc::EBUSY, "{mode}");
    }
    c.dmesg_has("no hibernation: 1 namespaces have their struct pages on the medium")?;
    // By a program, which makes and stores the image itself.
    let program = || File::open("/dev/snapshot");
    check_eq!(errno(&program()), libc::EBUSY, "by a program");
    live.goes_on(c)?;
    live.end(c)?;

    // And the other way round.
    let s = space(c, "pfn")?;
    s.unbind(c)?;
    let begun = program()?;
    let bind = c.try_write("/sys/bus/nd/drivers/rpmem/bind");
    check_eq!(errno(&bind(&s.nd)), libc::EBUSY, "bound too late");
    c.dmesg_has("the system is about to hibernate: bind it later")?;
    drop(begun);
    s.bind(c)?;
    program()
        .map(drop)
        .err()
        .ok_or("it could hibernate again")?;
    Ok(())
}

/// As the message of the refusal says: disabled, the namespace is in nobody's way.
fn disabled(c: &mut Ctx) -> TestResult {
    let s = space(c, "pfn")?;
    s.unbind(c)?;
    hibernate(c, "shutdown")?;
    s.bind(c)?;
    let mut live = Live::new(c)?;
    live.goes_on(c)?;
    live.end(c)
}

/// Another kernel is started, with everything in use.
fn kexec(c: &mut Ctx) -> TestResult {
    load_again(c, "", 0)?;
    let _live = Live::new(c)?;
    start()
}

/// The kernel panics, with everything in use, and the crash kernel is started.
fn panic(c: &mut Ctx) -> TestResult {
    load_again(c, " maxcpus=1 nr_cpus=1 reset_devices", KEXEC_FILE_ON_CRASH)?;
    let _live = Live::new(c)?;
    c.write("/proc/sysrq-trigger", "c")?;
    fail!("it lives on")
}

/// Finds what was in use there, whatever has become of it, and that it can be used again.
fn found(c: &mut Ctx) -> TestResult {
    look(c)?;
    let mut live = Live::new(c)?;
    live.goes_on(c)?;
    live.end(c)
}

/// All that the kernel before has stored, durable or not: the power was always on.
fn look(c: &Ctx) -> TestResult {
    let is = |data: &[u8], seed, what: &str| -> TestResult {
        check_eq!(sys::pattern_differs(seed, data), None, "{what}");
        Ok(())
    };
    for s in tools::spaces(c)? {
        if s.nd.starts_with("pfn") {
            c.mount(&s.dev(), MNT, "dax=always")?;
            for file in ["plain", "sync"] {
                let data = fs::read(format!("{MNT}/{file}"))?;
                check_eq!(data.len(), 2 * PART);
                is(&data[..PART], KEPT, &format!("{file}, written back"))?;
                is(&data[PART..], DIRTY, &format!("{file}, dirty"))?;
            }
            c.umount(MNT)?;
            c.ok(&["e2fsck", "-f", "-n", &s.dev()])?;
        } else if c.driver == "rpmem" {
            let node = format!("/dev/r{}", s.disk);
            c.wait_exists(&node)?;
            let file = File::options().read(true).write(true).open(&node)?;
            let map = Map::shared(&file, 0, 2 * PART)?;
            is(&map.slice()[..PART], KEPT, &format!("{node}, written back"))?;
            is(&map.slice()[PART..], DIRTY, &format!("{node}, dirty"))?;
            if c.read_u64(format!("/sys/class/rpmem/r{}/synchronous", s.disk))? == 1 {
                let map = Map::shared(&file, DIRECT, PART)?;
                is(map.slice(), KEPT, &format!("{node}, direct"))?;
            }
        }
    }
    Ok(())
}

/// The crash kernel has the namespaces, and the image of the one that crashed. It only looks.
fn in_crash_kernel(c: &mut Ctx) -> TestResult {
    let mut magic = [0; 4];
    File::open("/proc/vmcore")?.read_exact(&mut magic)?;
    check_eq!(&magic, b"\x7fELF", "/proc/vmcore");
    let bound: Vec<_> = tools::spaces(c)?.into_iter().map(|s| s.nd).collect();
    println!("result: bound in the crash kernel: {bound:?}");
    check_eq!(bound.len(), if c.driver == "rpmem" { 4 } else { 3 });
    look(c)
}
