// SPDX-License-Identifier: GPL-2.0
//! The lease of direct mappings: notice, grace, and what is left when it is broken.
//!
//! Who takes the memory away is a thread, and the test goes on beside it. A forked child has the
//! mappings of its parent, and holds the lease by them: children are started before there are any,
//! where that matters.

pub mod grace;
pub mod holders;
pub mod notice;
pub mod race;
pub mod read_only;

use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk;
use crate::support::node::{Node, DIRECT_WINDOW};
use crate::support::sys::{self, Caught, FileSignal, Map, BUS_ADRERR, FOREVER, RW, SYNC};
use crate::support::tools::{errno, PAGE};
use crate::support::uapi::{self, Lease, LEASE_BROKEN, LEASE_HELD, LEASE_READ_ONLY, LEASE_REMOVE};
use crate::{check, check_eq, fail};
use libc::POLLPRI;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Milliseconds for what must not happen.
const A_WHILE: i32 = 30;

/// The node of the first namespace, and the region that has it.
struct Leased {
    node: Node,
    region: String,
}

impl Deref for Leased {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// What takes the memory away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Remove,
    /// The region becomes read-only.
    ReadOnly,
    /// The disk does: blockdev --setro.
    Disk,
}

impl How {
    /// The state of the lease meanwhile, and afterwards.
    fn states(self) -> (u32, u32) {
        match self {
            How::Remove => (LEASE_REMOVE, LEASE_BROKEN),
            How::ReadOnly | How::Disk => (LEASE_READ_ONLY, LEASE_HELD),
        }
    }
}

const ALL: [How; 3] = [How::ReadOnly, How::Disk, How::Remove];

impl Leased {
    fn new(c: &Ctx) -> TestResult<Leased> {
        let node = Node::new(c)?;
        let [region] = c.regions().try_into().map_err(|_| "one region expected")?;
        Ok(Leased { node, region })
    }

    fn grace(&self, c: &Ctx, seconds: &str) -> TestResult {
        c.write(format!("{}/lease_break_time", self.sysfs), seconds)
    }

    /// The lines of `holders`, sorted.
    fn holders(&self, c: &Ctx) -> TestResult<Vec<String>> {
        let text = self.text(c, "holders")?;
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        Ok(lines)
    }

    fn read_only_file(&self) -> String {
        format!("/sys/bus/nd/devices/{}/read_only", self.region)
    }

    /// Takes the memory away.
    fn breaker(&self, how: How) -> Act {
        match how {
            How::Remove => write("/sys/bus/nd/drivers/rpmem/unbind".into(), &self.space.nd),
            How::ReadOnly => write(self.read_only_file(), "1"),
            How::Disk => {
                let disk = self.space.dev();
                Box::new(move || set_disk_read_only(&disk, 1))
            }
        }
    }

    fn begin(&self, how: How) -> Break {
        Break::new(self.breaker(how))
    }

    /// The memory is there again.
    fn again(&self, c: &Ctx, how: How) -> TestResult {
        match how {
            How::Remove => {
                self.space.bind(c)?;
                c.wait_exists(&self.path)
            }
            How::ReadOnly => c.write(self.read_only_file(), "0"),
            How::Disk => Ok(set_disk_read_only(&self.space.dev(), 0)?),
        }
    }
}

type Act = Box<dyn Fn() -> io::Result<()> + Send>;

fn write(file: String, text: &str) -> Act {
    let text = text.to_string();
    Box::new(move || put(&file, &text))
}

fn set_disk_read_only(disk: &str, mut value: i32) -> io::Result<()> {
    disk::ioctl(&File::open(disk)?, disk::BLKROSET, &mut value)
}

fn put(file: &str, text: &str) -> io::Result<()> {
    File::options()
        .write(true)
        .open(file)?
        .write_all(text.as_bytes())
}

/// A break under way.
struct Break(JoinHandle<io::Result<Duration>>);

impl Break {
    fn new(act: Act) -> Break {
        Break(thread::spawn(move || {
            // None ends the grace time: see `signal` for that.
            sys::block_all_signals();
            // CLOCK: it may not be shorter than the grace time.
            let start = Instant::now();
            act()?;
            Ok(start.elapsed())
        }))
    }

    fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Its end, which has to come soon; how long it took.
    fn end(self, c: &Ctx) -> TestResult<Duration> {
        Ok(self.outcome(c)??)
    }

    /// The same for one that may fail.
    fn outcome(self, c: &Ctx) -> TestResult<io::Result<Duration>> {
        c.wait_for("the end of the break", || self.is_over())?;
        match self.0.join() {
            Ok(r) => Ok(r),
            Err(_) => fail!("the thread that breaks the lease has panicked"),
        }
    }
}

fn direct(f: &File, offset: usize, len: usize) -> io::Result<Map> {
    Map::new(f, DIRECT_WINDOW + offset as u64, len, RW, SYNC)
}

fn lease(f: &File) -> TestResult<Lease> {
    Ok(uapi::rpmem_lease(f, 32)?)
}

/// Waits until the break has begun.
fn noticed(f: &File) -> TestResult {
    check_eq!(sys::poll(f, POLLPRI, FOREVER)?, POLLPRI, "notice");
    Ok(())
}

/// The break goes on waiting, and the mapping goes on working.
fn still(f: &File, b: &Break, what: &str) -> TestResult {
    // With the read-only reason, the end is seen by the state alone.
    // CLOCK: a wait for what must not come.
    check_eq!(sys::poll(f, 0, A_WHILE)?, 0, "{what}: poll");
    let state = lease(f)?.state;
    check!(
        state == LEASE_REMOVE || state == LEASE_READ_ONLY,
        "{what}: state {state}"
    );
    check!(!b.is_over(), "{what}: the break is over");
    Ok(())
}

/// Accesses end in SIGBUS, for good.
fn gone(m: &Map, at: usize, what: &str) -> TestResult {
    gone_for(m, at, what, &[false, true])
}

/// The same, for one that can be written to or not.
fn gone_for(m: &Map, at: usize, what: &str, writes: &[bool]) -> TestResult {
    for write in writes.iter().copied() {
        let access = || match write {
            true => {
                m.write8(at, 1);
                0
            }
            false => m.read8(at),
        };
        match sys::caught(access)? {
            Caught::Fault(f) => {
                let addr = m.as_ptr() as usize + at;
                check_eq!(
                    (f.signal, f.code, f.addr),
                    (libc::SIGBUS, BUS_ADRERR, addr),
                    "{what}: at {at:#x}, write {write}"
                );
            }
            other => fail!("{what}: access to {at:#x}, write {write}: {other:?}"),
        }
    }
    Ok(())
}

/// Accesses work.
fn works(m: &Map, at: usize, what: &str) -> TestResult {
    let value = m.read8(at).wrapping_add(1);
    m.write8(at, value);
    check_eq!(m.read8(at), value, "{what}: at {at:#x}");
    Ok(())
}

const POLL_PRI: i32 = 5;
/// POLLPRI and POLLRDBAND.
const BAND_PRI: i64 = 0x82;

/// Has a break signal this process, which is what `heard` waits for.
fn listen(f: &File) -> TestResult {
    sys::block_signals(&[libc::SIGRTMIN() + 1]);
    let own = std::process::id() as i32;
    Ok(sys::signal_events(f, own, libc::SIGRTMIN() + 1)?)
}

/// Waits until ordinary mappings have ended: the signal comes then, the state says so a little
/// before.
fn heard(f: &File) -> TestResult {
    let signal = libc::SIGRTMIN() + 1;
    let got = sys::next_signal(&[signal], true)?;
    check_eq!(got, Some(told(signal, f.as_raw_fd())), "signal");
    Ok(())
}

fn told(signal: i32, fd: i32) -> FileSignal {
    FileSignal {
        signal,
        code: POLL_PRI,
        band: BAND_PRI,
        fd,
    }
}

/// Another program that does nothing. Does not return unless it fails.
fn exec_sleep() -> i32 {
    let program = c"/usr/bin/sleep";
    let arguments = [program.as_ptr(), c"1000".as_ptr(), std::ptr::null()];
    // SAFETY: a list that ends with a null pointer.
    unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) }
}

fn unmap(p: *mut u8, page: usize, pages: usize) -> TestResult {
    // SAFETY: a range of the mapping that the test has given up.
    let r = unsafe { libc::munmap(p.add(page * PAGE).cast(), pages * PAGE) };
    check_eq!(r, 0, "munmap");
    Ok(())
}

/// Becomes a user without privileges.
fn become_a_user() -> io::Result<()> {
    // SAFETY: numbers, in a process with one thread.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(1000, 1000, 1000) == 0
            && libc::setresuid(1000, 1000, 1000) == 0
    };
    match done {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

/// Maps, and says how that ended.
fn tried(f: &File, base: u64, prot: i32, flags: i32) -> i32 {
    errno(&Map::new(f, base, PAGE, prot, flags))
}

/// State letter of a process, as in /proc/pid/stat.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process sleeps in that system call.
fn sleeps_in(pid: i32, call: libc::c_long) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/syscall"))
        .is_ok_and(|text| text.split(' ').next() == Some(&call.to_string()))
}

fn kill(pid: i32, signal: i32) -> TestResult {
    // SAFETY: no pointers; a child of this process, or its group.
    check_eq!(unsafe { libc::kill(pid, signal) }, 0, "kill");
    Ok(())
}

extern "C" fn on_signal(_: i32) {}
