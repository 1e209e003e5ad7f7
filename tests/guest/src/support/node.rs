// SPDX-License-Identifier: GPL-2.0
//! /dev/rpmemN, the node of a namespace, and what its mappings must do.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::peer::Peer;
use crate::support::sys::{self, Caught, Map, BUS_ADRERR, MAP_SHARED_VALIDATE, RW, SYNC};
use crate::support::tools::{self, errno, Space, PAGE};
use crate::{check_eq, fail};
use std::fs::File;

pub const MAP_DIRECT: i32 = 0x20_0000;
/// The offset from which on a node has its bytes once more, for direct mappings.
pub const DIRECT_WINDOW: u64 = 1 << 60;

/// The node of a namespace.
pub struct Node {
    pub space: Space,
    /// /dev/rpmem0
    pub path: String,
    pub sysfs: String,
}

impl Node {
    /// The first one.
    pub fn new(c: &Ctx) -> TestResult<Node> {
        Node::nth(c, 0)
    }

    pub fn nth(c: &Ctx, n: usize) -> TestResult<Node> {
        let Some(space) = tools::spaces(c)?.into_iter().nth(n) else {
            fail!("no disk number {n}");
        };
        let path = format!("/dev/r{}", space.disk);
        c.wait_exists(&path)?;
        let sysfs = format!("/sys/class/rpmem/r{}", space.disk);
        Ok(Node { space, path, sysfs })
    }

    pub fn open(&self) -> TestResult<File> {
        Ok(File::options().read(true).write(true).open(&self.path)?)
    }

    /// An attribute as it reads.
    pub fn text(&self, c: &Ctx, name: &str) -> TestResult<String> {
        c.read(format!("{}/{name}", self.sysfs))
    }

    /// One that is a number.
    pub fn attr(&self, c: &Ctx, name: &str) -> TestResult<u64> {
        c.read_u64(format!("{}/{name}", self.sysfs))
    }

    /// Physical address of the first byte of the namespace.
    pub fn resource(&self, c: &Ctx) -> TestResult<u64> {
        let text = c.read(c.nd(&self.space.nd).join("resource"))?;
        u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)
            .map_err(|_| format!("resource: {text}").into())
    }

    pub fn mappings(&self, c: &Ctx) -> TestResult<u64> {
        self.attr(c, "mappings")
    }
}

/// ptrace(2) of a child that shares the mapping reads and writes it, at 16 and at 24.
pub fn check_debugged(m: &Map) -> TestResult {
    m.write8(16, 0x21);
    let p = Peer::start(|l| {
        l.say();
        l.hear();
        i32::from(m.read8(24) == 0x65)
    })?;
    p.hear()?;
    let at = m.as_ptr() as usize;
    // SAFETY: the child is ours, and stopped before it is looked into.
    unsafe {
        check_eq!(libc::ptrace(libc::PTRACE_SEIZE, p.pid(), 0, 0), 0);
        check_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, p.pid(), 0, 0), 0);
        let mut status = 0;
        check_eq!(libc::waitpid(p.pid(), &mut status, libc::__WALL), p.pid());
        let peeked = libc::ptrace(libc::PTRACE_PEEKDATA, p.pid(), at + 16, 0);
        check_eq!(peeked & 0xff, 0x21, "peek");
        let poked = libc::ptrace(libc::PTRACE_POKEDATA, p.pid(), at + 24, 0x65);
        check_eq!(poked, 0, "poke");
        check_eq!(libc::ptrace(libc::PTRACE_DETACH, p.pid(), 0, 0), 0);
    }
    p.say();
    check_eq!(p.wait()?, 1, "what was poked");
    Ok(())
}

/// Page faults of this thread so far.
pub fn faults() -> i64 {
    // SAFETY: fills a structure of ours.
    unsafe {
        let mut r: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut r);
        r.ru_minflt + r.ru_majflt
    }
}

pub fn touch(map: &Map, write: bool) {
    for at in (0..map.len()).step_by(PAGE) {
        if write {
            map.write8(at, 1);
        } else {
            map.read8(at);
        }
    }
}

/// Not inlined, so that it is the same code each time.
#[inline(never)]
fn count_faults(map: &Map, write: bool) -> i64 {
    let before = faults();
    touch(map, write);
    faults() - before
}

/// Faults that it takes to touch the pages of a mapping, one by one.
pub fn faults_for(map: &Map, write: bool) -> i64 {
    // Code and stack are there then, which take faults as well: all of them, also where the kernel did
    // not map what is around a page because somebody had it locked.
    if let Ok(other) = tools::anonymous(PAGE) {
        count_faults(&other, write);
    }
    count_faults(map, write)
}

pub fn check_gone(m: &Map, at: usize) -> TestResult {
    match sys::caught(|| m.read8(at))? {
        Caught::Fault(f) => {
            check_eq!((f.signal, f.code), (libc::SIGBUS, BUS_ADRERR), "at {at:#x}");
            check_eq!(f.addr, m.as_ptr() as usize + at);
        }
        other => fail!("read at {at:#x}: {other:?}"),
    }
    Ok(())
}

/// Whether MAP_DIRECT with a file that does not know it is refused, and ignored where the kernel
/// ignores all it does not know.
pub fn check_refused(f: &File, what: &str) -> TestResult {
    for flags in [MAP_SHARED_VALIDATE, SYNC] {
        let got = errno(&Map::new(f, 0, PAGE, RW, flags | MAP_DIRECT));
        check_eq!(got, libc::EOPNOTSUPP, "{what}: flags {flags:#x}");
    }
    check_eq!(
        errno(&Map::new(f, 0, PAGE, RW, MAP_SHARED_VALIDATE)),
        0,
        "{what}"
    );
    Ok(())
}
