// SPDX-License-Identifier: GPL-2.0
//! The lease of direct mappings: notice, grace, and what is left when it is broken.
//!
//! Who takes the memory away is a thread, and the test goes on beside it. A forked child has the
//! mappings of its parent, and holds the lease by them: children are started before there are any,
//! where that matters.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::sys::{
    self, Caught, FileSignal, Map, BUS_ADRERR, FOREVER, MAP_SHARED_VALIDATE, MAP_SYNC,
};
use crate::support::tools::{
    self, errno, Lease, Link, Peer, Probe, Space, GOT_SIGBUS, HUGE, LEASE_BROKEN, LEASE_HELD,
    LEASE_READ_ONLY, LEASE_REMOVE, PAGE,
};
use crate::{check, check_eq, fail};
use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, POLLERR, POLLHUP, POLLPRI, PROT_NONE,
    PROT_READ, PROT_WRITE,
};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = crate::tests! {
    lease_notice => notice,
    lease_stale_fd => stale_fd,
    lease_owner_race => owner_race,
    lease_release => release,
    lease_fork => fork,
    lease_grace => grace,
    lease_grace_disguised => grace_disguised,
    lease_during => during,
    lease_expiry => expiry,
    lease_signal => signal,
    lease_region => region,
    lease_read_only => read_only,
    lease_disk_read_only => disk_read_only,
    lease_epochs => epochs,
    lease_turns => turns,
    lease_polite => polite,
    lease_holders_bounded => holders_bounded,
    lease_many => many,
    lease_race => race,
};

const RW: i32 = PROT_READ | PROT_WRITE;
const SYNC: i32 = MAP_SHARED_VALIDATE | MAP_SYNC;
const DIRECT_WINDOW: u64 = 1 << 60;
/// Milliseconds for what must not happen.
const A_WHILE: i32 = 30;
const DEFAULT_GRACE: &str = "/proc/sys/fs/lease-break-time";

/// The node of the first namespace.
struct Node {
    space: Space,
    path: String,
    sysfs: String,
    region: String,
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

impl Node {
    fn new(c: &Ctx) -> TestResult<Node> {
        let Some(space) = tools::spaces(c)?.into_iter().next() else {
            fail!("no disk");
        };
        let path = format!("/dev/r{}", space.disk);
        c.wait_exists(&path)?;
        let sysfs = format!("/sys/class/rpmem/r{}", space.disk);
        let [region] = c.regions().try_into().map_err(|_| "one region expected")?;
        Ok(Node {
            space,
            path,
            sysfs,
            region,
        })
    }

    fn open(&self) -> TestResult<File> {
        Ok(File::options().read(true).write(true).open(&self.path)?)
    }

    fn attr(&self, c: &Ctx, name: &str) -> TestResult<String> {
        c.read(format!("{}/{name}", self.sysfs))
    }

    fn grace(&self, c: &Ctx, seconds: &str) -> TestResult {
        c.write(format!("{}/lease_break_time", self.sysfs), seconds)
    }

    /// The lines of `holders`, sorted.
    fn holders(&self, c: &Ctx) -> TestResult<Vec<String>> {
        let text = self.attr(c, "holders")?;
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
                let disk = self.disk();
                Box::new(move || set_disk_read_only(&disk, 1))
            }
        }
    }

    fn disk(&self) -> String {
        format!("/dev/{}", self.space.disk)
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
            How::Disk => Ok(set_disk_read_only(&self.disk(), 0)?),
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
    Ok(tools::rpmem_lease(f, 32)?)
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

/// Waits, in a child, for one signal, and for no second one until the test says so.
fn is_told(l: &Link, signal: i32, fd: Option<i32>) -> i32 {
    l.say();
    let Ok(Some(got)) = sys::next_signal(&[signal], true) else {
        return 1;
    };
    if fd.is_some_and(|fd| got != told(signal, fd)) {
        return 2;
    }
    l.say();
    l.hear();
    match sys::next_signal(&[signal], false) {
        Ok(None) => 0,
        _ => 3,
    }
}

fn epoll(files: &[(&File, u32)]) -> TestResult<OwnedFd> {
    // SAFETY: a new descriptor that the OwnedFd owns; events of ours.
    unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        check!(fd >= 0, "epoll_create1: {}", io::Error::last_os_error());
        let fd = OwnedFd::from_raw_fd(fd);
        for (n, (f, events)) in files.iter().enumerate() {
            let mut e = libc::epoll_event {
                events: *events,
                u64: n as u64,
            };
            let r = libc::epoll_ctl(
                fd.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                f.as_raw_fd(),
                &raw mut e,
            );
            check!(r == 0, "epoll_ctl: {}", io::Error::last_os_error());
        }
        Ok(fd)
    }
}

/// The events of one that has a single file; 0 if there are none in that time.
fn epoll_events(fd: &OwnedFd, ms: i32) -> TestResult<u32> {
    let mut e = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: room for one event.
    match unsafe { libc::epoll_wait(fd.as_raw_fd(), &raw mut e, 1, ms) } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => Ok(0),
        _ => Ok(e.events),
    }
}

fn notice(c: &mut Ctx) -> TestResult {
    const PRI: u32 = libc::EPOLLPRI as u32;
    const GONE: u32 = PRI | (libc::EPOLLERR | libc::EPOLLHUP) as u32;
    let n = Node::new(c)?;
    let (mine, theirs) = (libc::SIGRTMIN() + 1, libc::SIGRTMIN() + 2);
    sys::block_signals(&[mine, theirs, libc::SIGIO]);
    for how in ALL {
        n.grace(c, "-1")?;
        let (f, to_other, to_group) = (n.open()?, n.open()?, n.open()?);
        check_eq!(errno(&tools::rpmem_lease(&f, 31)), libc::EINVAL, "argsz 31");
        check_eq!(tools::rpmem_lease(&f, 4096)?.argsz, 32, "a newer caller");
        let before = lease(&f)?.breaks;

        let other = Peer::start(|l| is_told(l, theirs, Some(to_other.as_raw_fd())))?;
        let mut group = Vec::new();
        for _ in 0..2 {
            let leader = group.first().map_or(0, Peer::pid);
            group.push(Peer::start(|l| {
                // SAFETY: no pointers.
                if unsafe { libc::setpgid(0, leader) } != 0 {
                    return 4;
                }
                is_told(l, libc::SIGIO, None)
            })?);
            // The group is there before the next one joins it.
            group[group.len() - 1].hear()?;
        }
        other.hear()?;
        sys::signal_events(&f, std::process::id() as i32, mine)?;
        sys::signal_events(&to_other, other.pid(), theirs)?;
        sys::signal_events(&to_group, -group[0].pid(), 0)?;

        let m = direct(&f, 0, HUGE)?;
        m.write8(0, 1);
        let held = Lease {
            argsz: 32,
            state: LEASE_HELD,
            breaks: before,
            reserved: 0,
            left: 0,
            holders: 1,
        };
        check_eq!(lease(&f)?, held);
        check_eq!(sys::poll(&f, POLLPRI, 0)?, 0, "poll before");
        let level = epoll(&[(&f, PRI)])?;
        let edge = epoll(&[(&f, PRI | libc::EPOLLET as u32)])?;
        check_eq!(epoll_events(&level, 0)?, 0, "epoll before");
        check_eq!(epoll_events(&edge, 0)?, 0, "epoll before");

        let b = n.begin(how);
        // Also without a look at the state before.
        check_eq!(epoll_events(&edge, FOREVER)?, PRI, "an edge");
        noticed(&f)?;
        let got = sys::next_signal(&[mine], true)?;
        check_eq!(got, Some(told(mine, f.as_raw_fd())), "own signal");
        for p in group.iter().chain([&other]) {
            p.hear()?;
        }
        let breaking = Lease {
            state: how.states().0,
            breaks: before + 1,
            left: -1,
            ..held
        };
        check_eq!(lease(&f)?, breaking);
        // Another file of the device is told the same.
        check_eq!(lease(&to_other)?, breaking);
        check_eq!(sys::poll(&to_other, POLLPRI, 0)?, POLLPRI);
        // For as long as it lasts; an edge is one.
        for _ in 0..3 {
            check_eq!(sys::poll(&f, POLLPRI, 0)?, POLLPRI, "poll, again");
            check_eq!(epoll_events(&level, 0)?, PRI, "epoll, again");
        }
        check_eq!(epoll_events(&edge, 0)?, 0, "no second edge");

        // What is left goes down, and nothing else does.
        n.grace(c, "300")?;
        let mut left = lease(&f)?.left;
        check!((1..=300_000).contains(&left), "left: {left} ms");
        for _ in 0..3 {
            let mut next = Ok(breaking);
            c.wait_for("less time that is left", || {
                next = tools::rpmem_lease(&f, 32);
                next.as_ref().map_or(true, |l| l.left < left)
            })?;
            let next = next?;
            check_eq!(
                next,
                Lease {
                    left: next.left,
                    ..breaking
                },
                "later"
            );
            check!((1..left).contains(&next.left), "left: {next:?}");
            left = next.left;
        }
        still(&f, &b, "given back")?;
        drop(m);
        b.end(c)?;
        let after = Lease {
            state: how.states().1,
            left: 0,
            holders: 0,
            ..breaking
        };
        check_eq!(lease(&f)?, after);
        let (poll, events) = match how {
            How::Remove => (POLLPRI | POLLERR | POLLHUP, GONE),
            How::ReadOnly | How::Disk => (0, 0),
        };
        for _ in 0..2 {
            check_eq!(sys::poll(&f, POLLPRI, 0)?, poll, "poll after");
            check_eq!(epoll_events(&level, 0)?, events, "epoll after");
        }
        check_eq!(epoll_events(&edge, 0)?, events, "the edge after");
        check_eq!(sys::next_signal(&[mine], false)?, None, "a second signal");
        for p in group.into_iter().chain([other]) {
            p.say();
            check_eq!(p.wait()?, 0, "what another process was told");
        }
        n.again(c, how)?;
    }

    // Without a holder there is nothing to give notice of; who polls hears of the end.
    let f = n.open()?;
    sys::signal_events(&f, std::process::id() as i32, mine)?;
    let plain = Map::new(&f, 0, PAGE, RW, MAP_SHARED)?;
    plain.write8(0, 1);
    let b = n.begin(How::ReadOnly);
    b.end(c)?;
    n.again(c, How::ReadOnly)?;
    check_eq!(lease(&f)?.state, LEASE_HELD);
    let b = n.begin(How::Remove);
    let got = sys::poll(&f, POLLPRI, FOREVER)?;
    check!(got & POLLPRI != 0, "poll: {got:#x}");
    b.end(c)?;
    check_eq!(sys::poll(&f, 0, FOREVER)?, POLLERR | POLLHUP, "poll");
    check_eq!(lease(&f)?.breaks, 0, "breaks without a holder");
    check_eq!(sys::next_signal(&[mine], false)?, None, "a signal");
    n.again(c, How::Remove)
}

/// The number of the file that the break names in its signal, if there is one.
fn named(c: &Ctx, n: &Node, signal: i32) -> TestResult<Option<i32>> {
    n.begin(How::ReadOnly).end(c)?;
    let got = sys::next_signal(&[signal], false)?;
    check_eq!(
        sys::next_signal(&[signal], false)?.is_some(),
        false,
        "a second one"
    );
    n.again(c, How::ReadOnly)?;
    Ok(got.map(|s| s.fd))
}

fn close(fd: i32) {
    // SAFETY: a descriptor of the test, which does not use it afterwards.
    unsafe { libc::close(fd) };
}

fn dup(fd: i32) -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::dup(fd) }
}

/// A signal names a descriptor: never one that has been closed.
fn stale_fd(c: &mut Ctx) -> TestResult {
    type Deed = fn(i32, i32) -> TestResult<(Option<i32>, Vec<i32>)>;
    let n = Node::new(c)?;
    let signal = libc::SIGRTMIN() + 1;
    let pid = std::process::id() as i32;
    sys::block_signals(&[signal]);
    n.grace(c, "0")?;
    let null = File::open("/dev/null")?;
    // What is done with the registered descriptor: which one is named then, and what to close.
    let deeds: &[(&str, Deed)] = &[
        ("nothing", |fd, _| Ok((Some(fd), vec![fd]))),
        ("closed", |fd, _| {
            close(fd);
            Ok((None, vec![]))
        }),
        ("closed, and the number is another file", |fd, null| {
            close(fd);
            // SAFETY: the number is free.
            let again = unsafe { libc::dup2(null, fd) };
            check_eq!(again, fd);
            Ok((None, vec![fd]))
        }),
        ("replaced", |fd, null| {
            // SAFETY: nobody uses the old file by this number.
            let again = unsafe { libc::dup2(null, fd) };
            check_eq!(again, fd);
            Ok((None, vec![fd]))
        }),
        ("close_range", |fd, _| {
            // SAFETY: no pointers.
            let r = unsafe { libc::syscall(libc::SYS_close_range, fd, fd, 0) };
            check_eq!(r, 0);
            Ok((None, vec![]))
        }),
        ("closed, with a dup", |fd, _| {
            let other = dup(fd);
            close(fd);
            Ok((None, vec![other]))
        }),
        ("a dup was closed", |fd, _| {
            close(dup(fd));
            Ok((Some(fd), vec![fd]))
        }),
        ("closed, and a dup asks anew", |fd, _| {
            let other = dup(fd);
            close(fd);
            // SAFETY: no pointers.
            let r = unsafe { libc::fcntl(other, libc::F_SETFL, libc::O_ASYNC) };
            check_eq!(r, 0);
            Ok((Some(other), vec![other]))
        }),
        ("not wanted any more", |fd, _| {
            // SAFETY: no pointers.
            let r = unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
            check_eq!(r, 0);
            Ok((None, vec![fd]))
        }),
        ("closed by a child", |fd, _| {
            let p = Peer::start(|_| {
                close(fd);
                0
            })?;
            check_eq!(p.wait()?, 0);
            Ok((Some(fd), vec![fd]))
        }),
        ("a child has exited", |fd, _| {
            check_eq!(Peer::start(|_| 0)?.wait()?, 0);
            Ok((Some(fd), vec![fd]))
        }),
    ];
    for (what, deed) in deeds {
        let f = n.open()?;
        let m = direct(&f, 0, PAGE)?;
        m.write8(0, 1);
        sys::signal_events(&f, pid, signal)?;
        let (want, rest) = deed(f.into_raw_fd(), null.as_raw_fd())?;
        check_eq!(named(c, &n, signal)?, want, "{what}");
        rest.into_iter().for_each(close);
        drop(m);
    }

    // The owner exits: it is not signalled, and nobody else is; the file can have another owner.
    let f = n.open()?;
    let p = Peer::start(|_| {
        let own = std::process::id() as i32;
        i32::from(sys::signal_events(&f, own, signal).is_err())
    })?;
    check_eq!(p.wait()?, 0);
    let m = direct(&f, 0, PAGE)?;
    check_eq!(named(c, &n, signal)?, None, "the owner has exited");
    drop(m);
    let m = direct(&f, 0, PAGE)?;
    // SAFETY: no pointers.
    unsafe { libc::fcntl(f.as_raw_fd(), libc::F_SETFL, 0) };
    sys::signal_events(&f, pid, signal)?;
    check_eq!(named(c, &n, signal)?, Some(f.as_raw_fd()), "another owner");
    drop((f, m));

    // The owner is another program now, without the descriptor.
    let f = n.open()?;
    let mut p = Peer::start(|l| {
        let own = std::process::id() as i32;
        if sys::signal_events(&f, own, signal).is_err() {
            return 1;
        }
        l.say();
        exec_sleep()
    })?;
    p.hear()?;
    let m = direct(&f, 0, PAGE)?;
    let dir = format!("/proc/{}", p.pid());
    let comm = || c.read(format!("{dir}/comm"));
    c.wait_for("exec", || comm().is_ok_and(|s| s == "sleep"))?;
    check_eq!(named(c, &n, signal)?, None, "after exec");
    // It would wait there, as the signal is blocked.
    let status = c.read(format!("{dir}/status"))?;
    for set in ["SigPnd", "ShdPnd"] {
        let line = status.lines().find(|l| l.starts_with(set)).unwrap_or("");
        check!(line.ends_with(&"0".repeat(16)), "after exec: {line}");
    }
    check_eq!(p.ended()?, None, "the program");
    drop((m, p));
    Ok(())
}

/// Descriptors are closed while the one who was to get the signals is forgotten. Of use on a kernel
/// that watches over freed memory.
fn owner_race(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    let f = n.open()?;
    sys::signal_events(&f, std::process::id() as i32, libc::SIGURG)?;
    let closer = Peer::start(|l| {
        l.say();
        loop {
            close(dup(f.as_raw_fd()));
        }
    })?;
    closer.hear()?;
    for _ in 0..c.rounds(200, 10_000) {
        let gone = Peer::start(|_| 0)?;
        // Until it is reaped, it can be named; then nobody else has its number.
        // SAFETY: no pointers.
        let set = unsafe { libc::fcntl(f.as_raw_fd(), libc::F_SETOWN, gone.pid()) };
        check_eq!(set, 0, "F_SETOWN");
        check_eq!(gone.wait()?, 0, "a child");
    }
    Ok(())
}

/// Another program that does nothing. Does not return unless it fails.
fn exec_sleep() -> i32 {
    let program = c"/usr/bin/sleep";
    let arguments = [program.as_ptr(), c"1000".as_ptr(), std::ptr::null()];
    // SAFETY: a list that ends with a null pointer.
    unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) }
}

/// Pages of `release`.
const PAGES: usize = 8;

/// A mapping of that many pages, of which the function given unmaps all but the last bit. It calls
/// the other one after each step that must not end the break.
type Way = fn(*mut u8, &dyn Fn(&str, usize) -> TestResult) -> TestResult;

fn unmap(p: *mut u8, page: usize, pages: usize) -> TestResult {
    // SAFETY: a range of the mapping that the test has given up.
    let r = unsafe { libc::munmap(p.add(page * PAGE).cast(), pages * PAGE) };
    check_eq!(r, 0, "munmap");
    Ok(())
}

const WAYS: &[(&str, Way)] = &[
    ("at once", |p, _| unmap(p, 0, PAGES)),
    ("a hole first", |p, still| {
        unmap(p, 2, 1)?;
        still("head and tail", 2)?;
        unmap(p, 0, 2)?;
        still("the tail", 1)?;
        unmap(p, 3, PAGES - 3)
    }),
    ("page by page", |p, still| {
        for page in (1..PAGES).rev() {
            unmap(p, page, 1)?;
        }
        still("one page", 1)?;
        unmap(p, 0, 1)
    }),
    ("mremap", |p, still| {
        // SAFETY: the mapping is given up, and the new place reserved just now.
        unsafe {
            let r = libc::mremap(p.cast(), PAGES * PAGE, PAGE, 0);
            check_eq!(r.cast::<u8>(), p, "mremap to one page");
            still("shrunk", 1)?;
            let to = libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS,
                -1,
                0,
            );
            check!(to != libc::MAP_FAILED, "room");
            let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let moved = libc::mremap(p.cast(), PAGE, PAGE, how, to);
            check_eq!(moved, to, "mremap to another place");
            still("moved", 1)?;
            moved.cast::<u8>().write_volatile(3);
            check_eq!(libc::munmap(moved, PAGE), 0);
        }
        Ok(())
    }),
    ("MAP_FIXED over it", |p, still| {
        let over = |page: usize, pages: usize| -> TestResult {
            // SAFETY: over a mapping that the test has given up.
            let r = unsafe {
                libc::mmap(
                    p.add(page * PAGE).cast(),
                    pages * PAGE,
                    RW,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                    -1,
                    0,
                )
            };
            check!(r != libc::MAP_FAILED, "MAP_FIXED");
            Ok(())
        };
        over(1, PAGES - 1)?;
        still("the first page", 1)?;
        over(0, 1)?;
        unmap(p, 0, PAGES)
    }),
    ("protected", |p, still| {
        // SAFETY: the mapping is given up.
        unsafe {
            check_eq!(libc::mprotect(p.cast(), PAGE, PROT_NONE), 0);
            check_eq!(libc::mprotect(p.add(PAGE).cast(), PAGE, PROT_READ), 0);
        }
        still("of three protections", 3)?;
        unmap(p, 2, PAGES - 2)?;
        still("that cannot be written to now", 2)?;
        unmap(p, 0, 2)
    }),
];

/// The break waits for the last byte, and not longer.
fn release(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    for how in ALL {
        for (what, way) in WAYS {
            let what = format!("{how:?}, {what}");
            n.grace(c, "-1")?;
            let (f, g) = (n.open()?, n.open()?);
            let m = direct(&g, HUGE - 2 * PAGE, PAGES * PAGE)?;
            m.write8(0, 1);
            let b = n.begin(how);
            noticed(&f)?;
            drop(g);
            still(&f, &b, &format!("{what}: close"))?;
            let p = m.as_ptr();
            std::mem::forget(m);
            way(p, &|step, holders| {
                still(&f, &b, &format!("{what}: {step}"))?;
                check_eq!(lease(&f)?.holders, holders as u64, "{what}: {step}");
                Ok(())
            })?;
            b.end(c)?;
            check_eq!(lease(&f)?.holders, 0, "{what}");
            n.again(c, how)?;
        }
        // Other processes.
        type End = fn() -> i32;
        let ends: &[(&str, Option<End>)] = &[
            ("exit", Some(|| 0)),
            ("exec", Some(exec_sleep)),
            ("SIGKILL", None),
        ];
        for (what, end) in ends {
            let what = format!("{how:?}, {what}");
            n.grace(c, "-1")?;
            let f = n.open()?;
            let p = Peer::start(|l| {
                let Ok(m) = direct(&f, 0, HUGE) else { return 1 };
                m.write8(0, 1);
                l.say();
                l.hear();
                m.write8(PAGE, 1);
                l.say();
                l.hear();
                end.map_or(2, |end| end())
            })?;
            p.hear()?;
            let b = n.begin(how);
            noticed(&f)?;
            p.say();
            p.hear()?;
            still(&f, &b, &what)?;
            match end {
                Some(_) => p.say(),
                // SAFETY: no pointers; a child of this process.
                None => check_eq!(unsafe { libc::kill(p.pid(), libc::SIGKILL) }, 0),
            }
            b.end(c)?;
            drop(p);
            n.again(c, how)?;
        }
    }
    Ok(())
}

/// Fork shares the lease.
fn fork(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let m = direct(&f, 0, HUGE)?;
    let plain = Map::new(&f, 0, HUGE, RW, MAP_SHARED)?;
    let apart = direct(&f, 2 * HUGE, HUGE)?;
    apart.madvise(libc::MADV_DONTFORK)?;
    for m in [&m, &plain, &apart] {
        m.write8(0, 1);
    }
    // A child that goes on with what it got, and gives it back when it is told to.
    let child = |l: &Link| {
        l.say();
        for _ in 0..2 {
            l.hear();
            m.write8(7, m.read8(6));
            m.write8(HUGE - 1, 1);
            l.say();
        }
        l.hear();
        unmap(m.as_ptr(), 0, HUGE / PAGE).map_or(1, |()| {
            l.say();
            l.hear();
            0
        })
    };
    let first = Peer::start(child)?;
    first.hear()?;
    check_eq!(lease(&f)?.holders, 3, "with that of a child");
    listen(&f)?;
    let b = n.begin(How::Remove);
    heard(&f)?;
    // One more, in the middle of it; what has ended stays so.
    let second = Peer::start(child)?;
    second.hear()?;
    check_eq!(lease(&f)?.holders, 4, "with a second child");
    gone(&plain, 0, "a plain one after fork")?;
    m.write8(6, 0x36);
    for p in [&first, &second] {
        p.say();
        p.hear()?;
    }
    check_eq!(m.read8(7), 0x36, "seen by all");
    let p = m.as_ptr();
    std::mem::forget(m);
    unmap(p, 0, HUGE / PAGE)?;
    drop(apart);
    still(&f, &b, "the children's")?;
    check_eq!(lease(&f)?.holders, 2, "the children's");
    for p in [&first, &second] {
        p.say();
        p.hear()?;
    }
    first.say();
    first.hear()?;
    still(&f, &b, "the second child's")?;
    second.say();
    second.hear()?;
    b.end(c)?;
    for p in [first, second] {
        p.say();
        check_eq!(p.wait()?, 0, "a child");
    }
    drop((f, plain));
    n.again(c, How::Remove)?;

    // A copy of what a break has ended is dead, and holds nothing.
    n.grace(c, "0")?;
    let f = n.open()?;
    let m = direct(&f, 0, 4 * PAGE)?;
    m.write8(0, 1);
    n.begin(How::ReadOnly).end(c)?;
    n.again(c, How::ReadOnly)?;
    let p = Peer::start(|l| {
        l.say();
        l.hear();
        m.write8(0, 1);
        1
    })?;
    p.hear()?;
    check_eq!(lease(&f)?.holders, 0, "copies of a dead one");
    let live = direct(&f, 0, PAGE)?;
    n.grace(c, "-1")?;
    let b = n.begin(How::Remove);
    noticed(&f)?;
    drop(live);
    b.end(c)?;
    p.say();
    check_eq!(p.wait()?, GOT_SIGBUS, "a copy of a dead one");
    n.again(c, How::Remove)
}

fn grace(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    let kernel = c.read(DEFAULT_GRACE)?;
    let file = format!("{}/lease_break_time", n.sysfs);
    let meta = std::fs::metadata(&file)?;
    check_eq!(meta.mode() & 0o7777, 0o644, "mode");
    check_eq!((meta.uid(), meta.gid()), (0, 0), "owner");
    // A fresh device has the kernel's, whatever that is.
    n.space.unbind(c)?;
    n.again(c, How::Remove)?;
    for seconds in [kernel.as_str(), "7", "0", "1"] {
        c.write(DEFAULT_GRACE, seconds)?;
        check_eq!(n.attr(c, "lease_break_time")?, seconds, "the kernel's");
    }
    let f = n.open()?;
    let m = direct(&f, 0, PAGE)?;
    let took = n.begin(How::ReadOnly).end(c)?;
    check!(took >= Duration::from_secs(1), "the kernel's 1 s: {took:?}");
    drop(m);
    n.again(c, How::ReadOnly)?;
    c.write(DEFAULT_GRACE, &kernel)?;

    for (text, want) in [("12", "12"), (" 3\n", "3"), ("0", "0"), ("-1\n", "-1")] {
        n.grace(c, text)?;
        check_eq!(n.attr(c, "lease_break_time")?, want, "{text:?}");
    }
    c.write(DEFAULT_GRACE, "7")?;
    check_eq!(n.attr(c, "lease_break_time")?, "-1", "not the kernel's now");
    c.write(DEFAULT_GRACE, &kernel)?;
    for bad in [
        "x",
        "\n",
        "-2",
        "-",
        "1x",
        "1 2",
        "1.5",
        "0x10",
        "1e9",
        "2147483648",
        "-2147483648",
        "99999999999999999999",
        "\u{ff}",
    ] {
        let got = c.try_write(&file)(bad);
        check_eq!(errno(&got), libc::EINVAL, "{bad:?}");
        check_eq!(n.attr(c, "lease_break_time")?, "-1", "after {bad:?}");
    }

    // What a break makes of it: set before, or while it waits.
    let ms = Duration::from_millis;
    for (before, while_waiting, least) in [
        ("0", None, ms(0)),
        ("1", None, ms(1000)),
        ("-1", Some("0"), ms(0)),
        ("-1", Some("1"), ms(1000)),
        ("1000", Some("0"), ms(0)),
    ] {
        // A second each is enough.
        let hows = if least.is_zero() { &ALL[..] } else { &ALL[2..] };
        for how in hows.iter().copied() {
            let what = format!("{how:?}, {before}, {while_waiting:?}");
            n.grace(c, before)?;
            let f = n.open()?;
            let m = direct(&f, 0, HUGE)?;
            m.write8(0, 1);
            let b = n.begin(how);
            if let Some(other) = while_waiting {
                noticed(&f)?;
                still(&f, &b, &what)?;
                n.grace(c, other)?;
            }
            let took = b.end(c)?;
            check!(took >= least, "{what}: {took:?}");
            gone(&m, 0, &what)?;
            n.again(c, how)?;
        }
    }
    // It belongs to the device: the next one begins with the kernel's.
    check_eq!(n.attr(c, "lease_break_time")?, kernel, "after bind");
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

/// Mounts something in new namespaces: what is there, this process alone sees.
fn bind_over(namespaces: i32, what: &str, at: &str) -> io::Result<()> {
    let (what, at) = (CString::new(what)?, CString::new(at)?);
    // SAFETY: strings that end with a zero byte; nothing else is read.
    let done = unsafe {
        libc::unshare(namespaces) == 0
            && libc::mount(
                what.as_ptr(),
                at.as_ptr(),
                std::ptr::null(),
                libc::MS_BIND,
                std::ptr::null(),
            ) == 0
    };
    match done {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

/// The kernel's grace time is the kernel's, whatever the reader has mounted in its place.
fn grace_disguised(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    let kernel = c.read(DEFAULT_GRACE)?;
    // A fresh device has the kernel's.
    n.space.unbind(c)?;
    n.again(c, How::Remove)?;
    let attribute = format!("{}/lease_break_time", n.sysfs);
    c.write(DEFAULT_GRACE, "7")?;
    let (number, fifo) = ("/lease-number", "/lease-fifo");
    std::fs::write(number, "99\n")?;
    // SAFETY: a string that ends with a zero byte.
    let made = unsafe { libc::mkfifo(c"/lease-fifo".as_ptr(), 0o666) };
    check_eq!(made, 0, "mkfifo");
    // Not every other kernel has user namespaces: root has to do for a user there.
    let anybody = c.flavour == "stock";
    for disguise in [fifo, number] {
        let mut reader = Peer::start(|_| {
            let done = match anybody {
                true => become_a_user().and_then(|()| {
                    bind_over(
                        libc::CLONE_NEWUSER | libc::CLONE_NEWNS,
                        disguise,
                        DEFAULT_GRACE,
                    )
                }),
                false => bind_over(libc::CLONE_NEWNS, disguise, DEFAULT_GRACE),
            };
            if done.is_err() {
                return 1;
            }
            match std::fs::read_to_string(&attribute) {
                Ok(text) if text == "7\n" => 0,
                Ok(_) => 2,
                Err(_) => 3,
            }
        })?;
        let mut end = None;
        c.wait_for("a number from the attribute", || {
            end = reader.ended().ok().flatten();
            end.is_some()
        })?;
        check_eq!(end, Some(0), "behind {disguise}");
    }
    c.write(DEFAULT_GRACE, &kernel)?;
    // Nobody is left in the attribute.
    n.begin(How::Remove).end(c)?;
    n.again(c, How::Remove)
}

/// Maps, and says how that ended.
fn tried(f: &File, base: u64, prot: i32, flags: i32) -> i32 {
    errno(&Map::new(f, base, PAGE, prot, flags))
}

/// ptrace of a child that shares a mapping.
fn debugged(m: &Map) -> TestResult {
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

/// What goes on in the grace time, and what does not.
fn during(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let len = 4 * HUGE;
    let peer = |l: &Link, base: u64, flags: i32| {
        let Ok(m) = Map::new(&f, base, len, RW, flags) else {
            return 1;
        };
        m.write8(0, 1);
        l.say();
        l.hear();
        // What was mapped before, and what was not.
        m.write8(0, 2);
        m.write8(3 * HUGE + 5 * PAGE, 2);
        l.say();
        l.hear();
        0
    };
    let others = [
        Peer::start(|l| peer(l, 0, MAP_SHARED))?,
        Peer::start(|l| peer(l, 0, SYNC))?,
        Peer::start(|l| peer(l, DIRECT_WINDOW, SYNC))?,
    ];
    for p in &others {
        p.hear()?;
    }
    let [other_plain, other_sync, other_direct] = others;
    let plain = Map::new(&f, 0, len, RW, MAP_SHARED)?;
    let sync = Map::new(&f, 0, len, RW, SYNC)?;
    let mut huge = direct(&f, 0, len)?;
    // Not aligned: small pages.
    let small = direct(&f, PAGE, HUGE - PAGE)?;
    for m in [&plain, &sync, &huge, &small] {
        m.write8(0, 1);
    }
    listen(&f)?;
    let b = n.begin(How::Remove);
    heard(&f)?;
    for (m, what) in [(&plain, "plain"), (&sync, "sync")] {
        for at in [0, PAGE, 2 * HUGE, len - 1] {
            gone(m, at, what)?;
        }
    }
    for p in [&other_plain, &other_sync, &other_direct] {
        p.say();
    }
    check_eq!(other_plain.wait()?, GOT_SIGBUS, "plain, of another process");
    check_eq!(other_sync.wait()?, GOT_SIGBUS, "sync, of another process");
    other_direct.hear()?;

    for at in [0, 77, HUGE, 2 * HUGE + PAGE, len - 1] {
        works(&huge, at, "huge")?;
    }
    for at in [0, PAGE, 300 * PAGE, HUGE - PAGE - 1] {
        works(&small, at, "small")?;
    }
    huge.msync()?;
    let mem = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let place = huge.as_ptr() as u64 + 3 * HUGE as u64;
    mem.write_all_at(&[0x51], place)?;
    check_eq!(huge.read8(3 * HUGE), 0x51, "stored through mem");
    mem.read_exact_at(&mut [0], place + 1)?;
    debugged(&huge)?;
    for m in [&plain, &sync] {
        let got = mem.read_at(&mut [0], m.as_ptr() as u64);
        check_eq!(errno(&got), libc::EIO, "mem, of an ordinary one");
        check_eq!(
            tools::rpmem_prefault(&f, m, 0, PAGE as u64, 1),
            (0, libc::EFAULT),
            "prefault, of an ordinary one"
        );
    }
    let fresh = 4 * PAGE;
    check_eq!(
        tools::rpmem_prefault(&f, &small, fresh, PAGE as u64, 1),
        (PAGE as u64, 0),
        "prefault"
    );
    check_eq!(
        tools::rpmem_prefault(&f, &huge, 0, len as u64, 1),
        (len as u64, 0),
        "prefault of all"
    );
    for prot in [PROT_READ, RW] {
        check_eq!(tried(&f, DIRECT_WINDOW, prot, SYNC), libc::EBUSY, "direct");
        check_eq!(tried(&f, 0, prot, SYNC), libc::ENXIO, "sync");
        check_eq!(tried(&f, 0, prot, MAP_SHARED), libc::ENXIO, "plain");
    }
    still(&f, &b, "after all of that")?;
    sys::pattern(5, huge.slice_mut());
    huge.persist(0, len);

    drop((huge, small));
    still(&f, &b, "that of another process")?;
    other_direct.say();
    check_eq!(other_direct.wait()?, 0, "direct, of another process");
    b.end(c)?;
    for prot in [PROT_READ, RW] {
        for (base, flags) in [(DIRECT_WINDOW, SYNC), (0, SYNC), (0, MAP_SHARED)] {
            check_eq!(tried(&f, base, prot, flags), libc::ENXIO, "afterwards");
        }
    }
    check_eq!(errno(&f.sync_all()), libc::EIO, "fsync");
    check_eq!(errno(&File::open(&n.path)), libc::ENOENT, "the node");
    drop((f, plain, sync));
    n.again(c, How::Remove)?;
    // What was stored in the grace time is on the medium.
    let mut got = disk::Buf::page(len);
    disk::direct(&n.space.dev())?.read_exact_at(got.bytes_mut(), 0)?;
    check_eq!(sys::pattern_differs(5, got.bytes()), None, "on the medium");
    Ok(())
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

/// The grace time passes: who holds on loses the memory for good, and nobody else waits.
fn expiry(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    let f = n.open()?;
    let m = direct(&f, 0, 2 * HUGE)?;
    let stopped = Peer::start(|l| {
        m.write8(HUGE, 1);
        l.say();
        l.hear();
        m.write8(HUGE, 2);
        1
    })?;
    stopped.hear()?;
    kill(stopped.pid(), libc::SIGSTOP)?;
    c.wait_for("the holder to stop", || {
        state_of(stopped.pid()) == Some('T')
    })?;
    m.write8(0, 1);
    n.grace(c, "1")?;
    c.mark_dmesg();
    let b = n.begin(How::Remove);
    noticed(&f)?;
    let left = lease(&f)?.left;
    check!((0..=1000).contains(&left), "left: {left} ms");
    let took = b.end(c)?;
    check!(took >= Duration::from_secs(1), "took {took:?}");
    c.dmesg_has("lease broken with 2 mappings left")?;
    check_eq!(lease(&f)?.state, LEASE_BROKEN);
    for at in [0, PAGE, HUGE, 2 * HUGE - 1] {
        gone(&m, at, "after the grace time")?;
    }
    n.again(c, How::Remove)?;
    let fresh = direct(&n.open()?, 0, 2 * HUGE)?;
    works(&fresh, 0, "a new one")?;
    for at in [0, HUGE] {
        gone(&m, at, "after bind")?;
    }
    check_eq!(tried(&f, 0, RW, MAP_SHARED), libc::ENXIO, "the old file");
    // What is cut off it, or moved, is as dead.
    unmap(m.as_ptr(), 1, 1)?;
    gone(&m, 2 * PAGE, "the tail")?;
    kill(stopped.pid(), libc::SIGCONT)?;
    stopped.say();
    check_eq!(stopped.wait()?, GOT_SIGBUS, "the stopped holder");
    works(&fresh, HUGE, "a new one")?;
    // The end of the dead ones is nothing to the new device.
    let g = n.open()?;
    check_eq!(lease(&g)?.holders, 1, "holders");
    drop((m, f));
    check_eq!(lease(&g)?.holders, 1, "holders");
    drop(fresh);
    check_eq!(lease(&g)?.holders, 0, "holders");
    Ok(())
}

extern "C" fn on_signal(_: i32) {}

/// The one who breaks the lease can be interrupted, and then it is broken at once.
fn signal(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    for (grace, signal, handled) in [
        ("-1", libc::SIGTERM, false),
        ("-1", libc::SIGUSR1, true),
        ("1000", libc::SIGKILL, false),
    ] {
        for how in ALL {
            let what = format!("{how:?}, grace {grace}, signal {signal}");
            let act = n.breaker(how);
            // Before there are mappings for it to hold.
            let p = Peer::start(|l| {
                if handled {
                    // SAFETY: a handler that does nothing.
                    unsafe {
                        libc::signal(
                            signal,
                            on_signal as extern "C" fn(i32) as libc::sighandler_t,
                        )
                    };
                }
                l.say();
                l.hear();
                i32::from(act().is_err())
            })?;
            p.hear()?;
            n.grace(c, grace)?;
            let f = n.open()?;
            let m = direct(&f, 0, HUGE)?;
            m.write8(0, 1);
            c.mark_dmesg();
            p.say();
            noticed(&f)?;
            // It waits, and is not on its way there.
            c.wait_for("the breaker to sleep", || state_of(p.pid()) == Some('S'))?;
            works(&m, PAGE, &what)?;
            kill(p.pid(), signal)?;
            let end = p.wait()?;
            check_eq!(end, if handled { 0 } else { 128 + signal }, "{what}");
            gone(&m, 0, &what)?;
            let log = c.dmesg()?;
            for text in ["a signal ends the grace", "lease broken with 1 mappings"] {
                check!(log.contains(text), "the log lacks {text:?}: {log}");
            }
            n.again(c, how)?;
        }
    }
    Ok(())
}

/// The region goes away underneath.
fn region(c: &mut Ctx) -> TestResult {
    let driver = "/sys/bus/nd/drivers/nd_region";
    for grace in ["-1", "1"] {
        let n = Node::new(c)?;
        n.grace(c, grace)?;
        let f = n.open()?;
        let m = direct(&f, 0, HUGE)?;
        m.write8(0, 1);
        // The tool asks first.
        let tool = c.run(&["ndctl", "disable-region", &n.region])?;
        check!(tool.err.contains("disabled 0 regions"), "{tool}");
        check_eq!(c.bound_to(&n.region).as_deref(), Some("nd_region"));
        check_eq!(lease(&f)?.breaks, 0, "breaks");
        let b = Break::new(write(format!("{driver}/unbind"), &n.region));
        noticed(&f)?;
        if grace == "-1" {
            check_eq!(lease(&f)?.state, LEASE_REMOVE);
            works(&m, PAGE, "in the grace time")?;
            still(&f, &b, "before it is given back")?;
            drop(m);
            b.end(c)?;
            check_eq!(lease(&f)?.state, LEASE_BROKEN);
            put(&format!("{driver}/bind"), &n.region)?;
            continue;
        }
        let took = b.end(c)?;
        check!(took >= Duration::from_secs(1), "took {took:?}");
        gone(&m, 0, "without its region")?;
        put(&format!("{driver}/bind"), &n.region)?;
        let n = Node::new(c)?;
        gone(&m, 0, "with the region again")?;
        works(&direct(&n.open()?, 0, HUGE)?, 0, "a new one")?;
    }
    Ok(())
}

/// The region becomes read-only.
fn read_only(c: &mut Ctx) -> TestResult {
    becomes_read_only(c, How::ReadOnly, "the region became read-only")
}

/// The disk does.
fn disk_read_only(c: &mut Ctx) -> TestResult {
    becomes_read_only(c, How::Disk, "the disk is being made read-only")?;

    // A partition is not the disk, and the node does not know it.
    let n = Node::new(c)?;
    c.sh(&format!(
        "printf 'label: dos\\nstart=2048, size=16384\\n' | sfdisk -q {}",
        n.disk()
    ))?;
    let part = format!("{}p1", n.disk());
    c.wait_exists(&part)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let m = direct(&f, 0, HUGE)?;
    set_disk_read_only(&part, 1)?;
    works(&m, 0, "with a partition that is read-only")?;
    check_eq!(lease(&f)?.state, LEASE_HELD);
    drop((m, f));
    c.ok(&["wipefs", "-a", &n.disk()])?;
    c.ok(&["blockdev", "--rereadpt", &n.disk()])?;

    // More often than there are epochs: once no mapping is left, they begin anew.
    let f = n.open()?;
    let dead = direct(&f, 0, HUGE)?;
    dead.write8(0, 1);
    n.grace(c, "0")?;
    let toggle = || -> TestResult {
        set_disk_read_only(&n.disk(), 1)?;
        set_disk_read_only(&n.disk(), 0)?;
        Ok(())
    };
    for _ in 0..63 {
        toggle()?;
        gone(&dead, 0, "made read-only")?;
    }
    check_eq!(tried(&f, 0, RW, MAP_SHARED), libc::EACCES, "no epoch left");
    drop(dead);
    toggle()?;
    works(&direct(&f, 0, HUGE)?, 0, "without those of before")
}

/// Read-only and back until no epoch is left: writing waits for the last mapping, and for nothing
/// else.
fn epochs(c: &mut Ctx) -> TestResult {
    const EPOCHS: usize = 63;
    let n = Node::new(c)?;
    n.grace(c, "0")?;
    let f = n.open()?;
    let may_write = || match direct(&f, 0, PAGE) {
        Ok(m) => {
            m.write8(0, 1);
            0
        }
        Err(e) => e.raw_os_error().unwrap_or(0),
    };
    let turn = |c: &Ctx| -> TestResult {
        n.begin(How::Disk).end(c)?;
        n.again(c, How::Disk)
    };
    let readers = || -> TestResult<[Map; 2]> {
        let map = |at| Map::new(&f, at, PAGE, PROT_READ, SYNC);
        Ok([map(0)?, map(PAGE as u64)?])
    };
    let used_up = |c: &Ctx| -> TestResult<[Map; 2]> {
        let all = readers()?;
        for _ in 0..EPOCHS {
            check_eq!(may_write(), 0, "an epoch is left");
            turn(c)?;
        }
        check_eq!(may_write(), libc::EACCES, "no epoch is left");
        Ok(all)
    };
    c.mark_dmesg();
    let [first, second] = used_up(c)?;
    c.dmesg_has("was read-only too often")?;
    drop(first);
    check_eq!(may_write(), libc::EACCES, "one mapping is left");
    drop(second);
    check_eq!(may_write(), 0, "no mapping is left");

    // By now somebody wants it read-only again.
    let all = used_up(c)?;
    n.begin(How::Disk).end(c)?;
    drop(all);
    check_eq!(may_write(), libc::EACCES, "read-only");
    n.again(c, How::Disk)?;
    check_eq!(may_write(), 0, "writable again");
    Ok(())
}

/// Breakers take turns.
fn turns(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let hold = || -> TestResult<Map> {
        let m = direct(&f, 0, HUGE)?;
        m.write8(0, 1);
        Ok(m)
    };
    // It is read-only for as long as one of the two says so, whoever was first.
    for first in [How::ReadOnly, How::Disk] {
        for last in [How::ReadOnly, How::Disk] {
            let other = |how| match how {
                How::Disk => How::ReadOnly,
                _ => How::Disk,
            };
            n.begin(first).end(c)?;
            n.begin(other(first)).end(c)?;
            for (how, want) in [(other(last), libc::EACCES), (last, 0)] {
                n.again(c, how)?;
                let got = tried(&f, DIRECT_WINDOW, RW, SYNC);
                check_eq!(got, want, "{first:?} first, {last:?} last: without {how:?}");
            }
        }
    }
    // Also one that begins while the other one waits.
    let m = hold()?;
    let first = n.begin(How::Disk);
    noticed(&f)?;
    let second = n.begin(How::ReadOnly);
    still(&f, &first, "held")?;
    check!(!second.is_over(), "it takes turns");
    drop(m);
    first.end(c)?;
    second.end(c)?;
    for (how, want) in [(How::Disk, libc::EACCES), (How::ReadOnly, 0)] {
        n.again(c, how)?;
        check_eq!(tried(&f, DIRECT_WINDOW, RW, SYNC), want, "without {how:?}");
    }

    // A signal to the one who waits for its turn: blockdev gives up. Unbinding cannot, and ends the
    // patience of the other one.
    for (how, call) in [(How::Disk, libc::SYS_ioctl), (How::Remove, libc::SYS_write)] {
        let act = n.breaker(how);
        let p = Peer::start(|l| {
            // SAFETY: a handler that does nothing.
            unsafe {
                libc::signal(
                    libc::SIGUSR1,
                    on_signal as extern "C" fn(i32) as libc::sighandler_t,
                )
            };
            l.say();
            l.hear();
            errno(&act())
        })?;
        p.hear()?;
        let m = hold()?;
        let first = n.begin(How::Disk);
        noticed(&f)?;
        p.say();
        c.wait_for("the next one to sleep", || {
            sleeps_in(p.pid(), call) && state_of(p.pid()) == Some('S')
        })?;
        still(&f, &first, "the next one waits")?;
        kill(p.pid(), libc::SIGUSR1)?;
        if how == How::Disk {
            check_eq!(p.wait()?, libc::EINTR, "blockdev --setro");
            still(&f, &first, "the next one has given up")?;
            drop(m);
            first.end(c)?;
            n.again(c, How::Disk)?;
        } else {
            check_eq!(p.wait()?, 0, "unbind");
            first.end(c)?;
            gone(&m, 0, "unbound")?;
            check_eq!(lease(&f)?.state, LEASE_BROKEN);
        }
    }
    n.again(c, How::Remove)
}

/// What holders see of it, and what the log says.
fn becomes_read_only(c: &mut Ctx, how: How, log: &str) -> TestResult {
    let n = Node::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let r = File::open(&n.path)?;
    let map = |f: &File, base: u64, prot: i32, flags: i32| Map::new(f, base, HUGE, prot, flags);
    // Could be written to, as the file is open for that: by mprotect(2).
    let held = [
        map(&f, DIRECT_WINDOW, RW, SYNC)?,
        map(&f, DIRECT_WINDOW, PROT_READ, SYNC)?,
    ];
    let ordinary = [
        map(&f, 0, RW, MAP_SHARED)?,
        map(&f, 0, RW, SYNC)?,
        map(&f, 0, PROT_READ, MAP_SHARED)?,
    ];
    let readers = [
        map(&r, DIRECT_WINDOW, PROT_READ, SYNC)?,
        map(&r, 0, PROT_READ, SYNC)?,
        map(&r, 0, PROT_READ, MAP_SHARED)?,
    ];
    for m in held.iter().chain(&ordinary).chain(&readers) {
        m.read8(0);
    }
    check_eq!(lease(&f)?.holders, 3, "direct ones");
    listen(&f)?;
    c.mark_dmesg();
    let b = n.begin(how);
    heard(&f)?;
    let during = lease(&f)?;
    check_eq!(
        (during.state, during.left),
        (LEASE_READ_ONLY, -1),
        "{during:?}"
    );
    c.dmesg_has(&format!("{log}: waiting for 3 holders"))?;
    let [both, alone] = [&[false, true][..], &[false]];
    let ordinary = [
        (&ordinary[0], both),
        (&ordinary[1], both),
        (&ordinary[2], alone),
    ];
    for (m, writes) in ordinary {
        gone_for(m, 0, "ordinary, writable", writes)?;
        gone_for(m, 9 * PAGE, "ordinary, writable", writes)?;
    }
    works(&held[0], 0, "direct")?;
    works(&held[0], 300 * PAGE, "direct")?;
    held[1].read8(300 * PAGE);
    let reading = |when: &str| -> TestResult {
        for m in &readers {
            for at in [0, HUGE - 1] {
                match sys::caught(|| m.read8(at))? {
                    Caught::Returned(_) => {}
                    other => fail!("{when}: a reader: {other:?}"),
                }
            }
        }
        Ok(())
    };
    reading("during")?;
    // New ones, meanwhile and afterwards.
    let fresh = |direct: i32| -> TestResult<[Map; 2]> {
        check_eq!(tried(&f, DIRECT_WINDOW, RW, SYNC), direct, "direct");
        check_eq!(tried(&f, 0, RW, SYNC), libc::EACCES, "sync");
        check_eq!(tried(&f, 0, RW, MAP_SHARED), libc::EACCES, "plain");
        let made = [
            map(&f, DIRECT_WINDOW, PROT_READ, SYNC)?,
            map(&f, 0, PROT_READ, MAP_SHARED)?,
        ];
        for m in &made {
            m.read8(0);
            // SAFETY: our mapping.
            let r = unsafe { libc::mprotect(m.as_ptr().cast(), PAGE, RW) };
            let e = io::Error::last_os_error().raw_os_error();
            check_eq!((r, e), (-1, Some(libc::EACCES)), "mprotect");
        }
        Ok(made)
    };
    let early = fresh(libc::EBUSY)?;
    still(&f, &b, "nothing given back")?;
    let [one, two] = held;
    drop(one);
    still(&f, &b, "the one that could be written to")?;
    drop(two);
    b.end(c)?;
    let after = lease(&f)?;
    // Of readers: that of `readers`, and the new one.
    check_eq!(
        (after.state, after.holders, after.breaks),
        (LEASE_HELD, 2, during.breaks),
        "{after:?}"
    );
    check_eq!(sys::poll(&f, POLLPRI, 0)?, 0, "poll");
    drop(fresh(libc::EACCES)?);
    reading("after")?;
    let open = File::options().read(true).write(true).open(&n.path);
    check_eq!(errno(&open), libc::EROFS, "open for writing");
    // Said once more, it is no news.
    n.begin(how).end(c)?;
    check_eq!(lease(&f)?, after, "once more");

    n.again(c, how)?;
    for (m, writes) in ordinary {
        gone_for(m, 0, "writable again, an old one", writes)?;
    }
    reading("writable again")?;
    for (base, flags) in [(DIRECT_WINDOW, SYNC), (0, SYNC), (0, MAP_SHARED)] {
        works(&map(&f, base, RW, flags)?, 0, "a new one")?;
    }
    drop((n.open()?, early));

    // In time, none is given back; then, with a dead direct one left, both kinds of break again.
    n.grace(c, "0")?;
    let dead = direct(&f, 0, HUGE)?;
    dead.write8(0, 1);
    n.begin(how).end(c)?;
    gone(&dead, 0, "after the grace time")?;
    n.again(c, how)?;
    gone(&dead, 0, "writable again")?;
    n.grace(c, "-1")?;
    check_eq!(lease(&f)?.holders, 1, "the reader");
    n.begin(how).end(c)?;
    n.again(c, how)?;
    let b = n.begin(How::Remove);
    noticed(&f)?;
    still(&f, &b, "the reader holds it")?;
    for at in [0, HUGE - 1] {
        readers[0].read8(at);
    }
    drop(readers);
    b.end(c)?;
    gone(&dead, 0, "unbound")?;
    drop((dead, f, r));
    n.again(c, How::Remove)
}

/// A process with mappings, and what `holders` says of it.
fn holder(f: &File, name: &std::ffi::CStr, direct_ones: usize, others: usize) -> TestResult<Peer> {
    let p = Peer::start(|l| {
        // SAFETY: a name that ends with a zero byte.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        let mut maps = Vec::new();
        for n in 0..direct_ones + others {
            let base = if n < direct_ones { DIRECT_WINDOW } else { 0 };
            match Map::new(f, base + (n * PAGE) as u64, PAGE, RW, SYNC) {
                Ok(m) => maps.push(m),
                Err(_) => return 1,
            }
        }
        l.say();
        l.hear();
        0
    })?;
    p.hear()?;
    Ok(p)
}

/// Tools that ask are told no; administrators are told who has the memory.
fn polite(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    let f = n.open()?;
    let m = direct(&f, 0, HUGE)?;
    drop(f);
    let ns = n.space.namespace(c)?;
    let out = c.fails(&["ndctl", "disable-namespace", &ns])?;
    check!(out.contains("busy"), "{ns}: {out}");
    check_eq!(c.bound_to(&n.space.nd).as_deref(), Some("rpmem"));
    let got = c.try_rmmod("rpmem");
    check_eq!(errno(&got), libc::EAGAIN, "rmmod");
    works(&m, 0, "after that")?;
    drop(m);

    let f = n.open()?;
    check_eq!(lease(&f)?.breaks, 0, "no break was begun");
    check_eq!(n.holders(c)?, [""; 0], "nobody");
    let first = holder(&f, c"holder one", 2, 3)?;
    let second = holder(&f, c"holder-two", 0, 1)?;
    let want = |lines: &[(i32, &str)]| {
        let mut v: Vec<String> = lines.iter().map(|(p, l)| format!("{p} {l}")).collect();
        v.sort();
        v
    };
    let (a, b) = (first.pid(), second.pid());
    let two = want(&[(a, "2 5 holder one"), (b, "0 1 holder-two")]);
    check_eq!(n.holders(c)?, two);
    check_eq!(n.attr(c, "mappings")?, "6");
    // A child has its own line, and its own name.
    let own = std::process::id() as i32;
    let comm = c.read("/proc/self/comm")?;
    let m = direct(&f, 0, HUGE)?;
    let child = Peer::start(|l| {
        // SAFETY: a name that ends with a zero byte.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"a child".as_ptr()) };
        // Cut in three.
        if unmap(m.as_ptr(), 5, 1).is_err() {
            return 1;
        }
        l.say();
        l.hear();
        0
    })?;
    child.hear()?;
    let mine = format!("1 1 {comm}");
    let four = want(&[
        (a, "2 5 holder one"),
        (b, "0 1 holder-two"),
        (own, &mine),
        (child.pid(), "2 2 a child"),
    ]);
    check_eq!(n.holders(c)?, four);
    check_eq!(lease(&f)?.holders, 5);
    drop((second, child));
    check_eq!(
        n.holders(c)?,
        want(&[(a, "2 5 holder one"), (own, &mine)]),
        "after exit"
    );

    // More of them than the log names.
    let mut many = Vec::new();
    for _ in 0..8 {
        many.push(holder(&f, c"one of many", 1, 0)?);
    }
    // Their copies of the test's own.
    for p in &many {
        let line = format!("{} 2 2 one of many", p.pid());
        check!(n.holders(c)?.contains(&line), "no line {line}");
    }
    n.grace(c, "1000")?;
    c.mark_dmesg();
    let brk = n.begin(How::Remove);
    noticed(&f)?;
    let first_says = n.holders(c)?;
    check_eq!(first_says.len(), 10, "in a break");
    n.grace(c, "0")?;
    brk.end(c)?;
    let log = c.dmesg()?;
    for text in [
        "the namespace is being unbound: waiting up to 1000 s for 19 holders",
        "(pid ",
        "and by 2 others: see holders in sysfs",
        "lease broken with 19 mappings left",
    ] {
        check!(log.contains(text), "the log lacks {text:?}:\n{log}");
    }
    let named: Vec<&str> = log.lines().filter(|l| l.contains("held by ")).collect();
    check_eq!(named.len(), 8, "lines: {named:#?}");
    for l in named {
        let known = many
            .iter()
            .map(|p| format!("held by one of many (pid {}): 2 direct of 2", p.pid()))
            .chain([
                format!("held by holder one (pid {a}): 2 direct of 5"),
                format!("held by {comm} (pid {own}): 1 direct of 1"),
            ])
            .any(|want| l.contains(&want));
        check!(known, "a line of the log: {l}");
    }
    drop((first, many, m, f));
    n.again(c, How::Remove)?;
    check_eq!(n.holders(c)?, [""; 0], "a fresh device");
    Ok(())
}

/// Who asks for the holders gets a page of them, by one look at the processes, and is root.
fn holders_bounded(c: &mut Ctx) -> TestResult {
    const NAMED: usize = 64;
    const PROCESSES: usize = NAMED + 6;
    let n = Node::new(c)?;
    let file = format!("{}/holders", n.sysfs);
    let meta = std::fs::metadata(&file)?;
    check_eq!(meta.mode() & 0o7777, 0o400, "mode");
    check_eq!((meta.uid(), meta.gid()), (0, 0), "owner");
    let user = Peer::start(|_| match become_a_user().and_then(|()| File::open(&file)) {
        Err(e) => e.raw_os_error().unwrap_or(0),
        Ok(_) => 0,
    })?;
    check_eq!(user.wait()?, libc::EACCES, "for others");

    let look = Probe::new(c, "processes", "rpmem_helper_processes")?;
    check_eq!(n.holders(c)?, [""; 0], "nobody");
    check_eq!(look.count(c)?, 0, "looks at the processes, for nobody");
    let f = n.open()?;
    let mut all = Vec::new();
    for _ in 0..PROCESSES {
        all.push(holder(&f, c"one of many", 1, 0)?);
    }
    let lines = n.holders(c)?;
    check_eq!(lines.len(), NAMED + 1, "{lines:#?}");
    check!(
        lines.contains(&format!("and {} others", PROCESSES - NAMED)),
        "{lines:#?}"
    );
    for line in lines.iter().filter(|l| !l.starts_with("and ")) {
        let known = all
            .iter()
            .any(|p| *line == format!("{} 1 1 one of many", p.pid()));
        check!(known, "{line}");
    }
    check_eq!(look.count(c)?, 1, "looks at the processes");
    drop(look);
    // One that has died is not named, nor is a zombie.
    all.truncate(2);
    check_eq!(n.holders(c)?.len(), 2, "after exit");
    Ok(())
}

/// Half of many processes give the memory back in time.
fn many(c: &mut Ctx) -> TestResult {
    const PROCESSES: usize = 8;
    const EACH: usize = 100;
    let n = Node::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let mut peers = Vec::new();
    for number in 0..PROCESSES {
        peers.push(Peer::start(|l| {
            let mut maps = Vec::new();
            for i in 0..EACH {
                let len = if i % 10 == 0 { HUGE } else { 3 * PAGE };
                let Ok(m) = direct(&f, (number * EACH + i) * PAGE, len) else {
                    return 1;
                };
                m.write8(2 * PAGE, 1);
                maps.push(m);
            }
            l.say();
            if sys::poll(&f, POLLPRI, FOREVER).ok() != Some(POLLPRI) {
                return 2;
            }
            if number % 2 == 0 {
                drop(maps);
                return 0;
            }
            // Uses them for as long as it can.
            loop {
                for m in &maps {
                    m.write8(PAGE, 2);
                }
                // CLOCK: whether this one ever runs is nobody's business.
                let _ = sys::poll(&f, 0, 1);
            }
        })?);
    }
    for p in &peers {
        p.hear()?;
    }
    check_eq!(lease(&f)?.holders, (PROCESSES * EACH) as u64, "holders");
    c.mark_dmesg();
    let b = n.begin(How::Remove);
    c.wait_for("half of the holders", || {
        tools::rpmem_lease(&f, 32).is_ok_and(|l| l.holders == (PROCESSES * EACH / 2) as u64)
    })?;
    still(&f, &b, "with the other half")?;
    check_eq!(n.holders(c)?.len(), PROCESSES / 2, "processes");
    n.grace(c, "1")?;
    let took = b.end(c)?;
    check!(took >= Duration::from_secs(1), "took {took:?}");
    for (number, p) in peers.into_iter().enumerate() {
        let want = if number % 2 == 0 { 0 } else { GOT_SIGBUS };
        check_eq!(p.wait()?, want, "process {number}");
    }
    c.dmesg_has(&format!(
        "lease broken with {} mappings left",
        PROCESSES * EACH / 2
    ))?;
    drop(f);
    n.again(c, How::Remove)
}

/// Random numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        // Seeds that are near each other are far apart.
        let mut r = Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        r.below(2);
        r
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// A process of `race`: does with its mappings what can be done, until it loses them.
struct Racer<'a> {
    f: &'a File,
    /// Not 0 once the break is over: from then on, no access may work.
    over: &'a Map,
    random: Random,
    /// Address and pages.
    maps: Vec<(*mut u8, usize)>,
}

/// What a racer says that it has seen wrong, by its exit status.
const WRONG: &[(i32, &str)] = &[
    (3, "an access worked when the break was over"),
    (4, "mmap: an unexpected errno"),
    (5, "munmap failed"),
    (6, "mremap failed"),
    (7, "a child ended in an unexpected way"),
];

impl Racer<'_> {
    fn run(&mut self, l: &Link) -> i32 {
        for _ in 0..3 {
            self.map();
        }
        l.say();
        loop {
            let over = self.over.read8(0) != 0;
            if over && self.maps.is_empty() {
                return 0;
            }
            let r = match self.random.below(12) {
                0 | 1 => self.map(),
                2 => self.unmap(),
                3 => self.remap(),
                4 => self.fork(),
                5 => self.call(),
                _ => self.touch(),
            };
            if r != 0 {
                return r;
            }
            if over && !self.maps.is_empty() {
                self.access(0, 0, true);
                return 3;
            }
        }
    }

    fn map(&mut self) -> i32 {
        if self.maps.len() > 8 {
            return 0;
        }
        let pages = 1 + self.random.below(700);
        let at = self.random.below(64 << 20 >> 12) as u64 * PAGE as u64;
        let kinds = [
            (DIRECT_WINDOW, SYNC),
            (DIRECT_WINDOW, SYNC),
            (0, SYNC),
            (0, MAP_SHARED),
        ];
        let (base, flags) = kinds[self.random.below(4)];
        match Map::new(self.f, base + at, pages * PAGE, RW, flags) {
            Ok(m) => {
                self.maps.push((m.as_ptr(), pages));
                std::mem::forget(m);
                0
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EBUSY | libc::ENXIO | libc::EACCES) => 0,
                _ => 4,
            },
        }
    }

    fn access(&self, map: usize, page: usize, write: bool) {
        let at = self.maps[map].0.wrapping_add(page * PAGE + 9);
        // SAFETY: a page of a mapping of this process; SIGBUS ends it.
        unsafe {
            if write {
                at.write_volatile(1);
            } else {
                at.read_volatile();
            }
        }
    }

    fn touch(&mut self) -> i32 {
        if self.maps.is_empty() {
            return 0;
        }
        let n = self.random.below(self.maps.len());
        for _ in 0..8 {
            let page = self.random.below(self.maps[n].1);
            let write = self.random.below(2) == 0;
            self.access(n, page, write);
        }
        0
    }

    /// A part of a mapping, or all of it.
    fn unmap(&mut self) -> i32 {
        if self.maps.is_empty() {
            return 0;
        }
        let n = self.random.below(self.maps.len());
        let (p, pages) = self.maps[n];
        let first = self.random.below(pages);
        let count = match self.random.below(3) {
            0 => pages - first,
            _ => 1 + self.random.below(pages - first),
        };
        if unmap(p, first, count).is_err() {
            return 5;
        }
        self.maps.swap_remove(n);
        let end = first + count;
        for (first, last) in [(0, first), (end, pages)] {
            if first < last {
                self.maps.push((p.wrapping_add(first * PAGE), last - first));
            }
        }
        0
    }

    /// A mapping moves and shrinks.
    fn remap(&mut self) -> i32 {
        if self.maps.is_empty() {
            return 0;
        }
        let n = self.random.below(self.maps.len());
        let (p, pages) = self.maps[n];
        let left = 1 + self.random.below(pages);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: a mapping of this process, to a place that it has reserved.
        let to = unsafe {
            let to = libc::mmap(
                std::ptr::null_mut(),
                left * PAGE,
                PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS,
                -1,
                0,
            );
            if to == libc::MAP_FAILED {
                return 6;
            }
            libc::mremap(p.cast(), pages * PAGE, left * PAGE, how, to)
        };
        if to == libc::MAP_FAILED {
            // Without the device there is no new place for a dead mapping; it has shrunk before.
            self.maps[n].1 = left;
            return match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENXIO) => 0,
                _ => 6,
            };
        }
        self.maps[n] = (to.cast(), left);
        0
    }

    /// A child that uses what it got, or gives a part of it back, and ends.
    fn fork(&mut self) -> i32 {
        // SAFETY: one thread; the child is reaped.
        unsafe {
            match libc::fork() {
                -1 => 7,
                0 => {
                    self.random = Random::new(self.random.below(1 << 30) as u64);
                    self.touch();
                    self.unmap();
                    self.touch();
                    libc::_exit(0)
                }
                pid => {
                    let mut status = 0;
                    libc::waitpid(pid, &mut status, 0);
                    let ended = libc::WIFEXITED(status);
                    match libc::WEXITSTATUS(status) {
                        0 | GOT_SIGBUS if ended => 0,
                        _ => 7,
                    }
                }
            }
        }
    }

    /// Calls whose answers depend on the moment.
    fn call(&mut self) -> i32 {
        let _ = sys::poll(self.f, POLLPRI, 0);
        let _ = tools::rpmem_lease(self.f, 32);
        if let Some((p, pages)) = self.maps.first().copied() {
            let len = pages * PAGE;
            // SAFETY: a mapping of this process, and no reference into it.
            unsafe {
                libc::msync(p.cast(), len, libc::MS_SYNC);
                // All of it: of a part, one mapping would become two, which mremap(2) refuses.
                libc::mprotect(p.cast(), len, PROT_READ);
                libc::mprotect(p.cast(), len, RW);
            }
            let mut prefault = tools::Prefault {
                argsz: 32,
                flags: 1,
                addr: p as u64,
                len: len as u64,
                done: 0,
            };
            let _ = tools::ioctl_raw(self.f, 0xbd01, &mut prefault);
        }
        0
    }
}

/// Breaks, while processes do what they can with their mappings.
fn race(c: &mut Ctx) -> TestResult {
    let n = Node::new(c)?;
    let rounds = if c.long { 500 } else { 10 };
    println!("seed {}, {rounds} rounds", c.seed);
    // What the kernel sends to a group of processes without a parent in which some are stopped.
    sys::block_signals(&[libc::SIGHUP]);
    let over = tools::anonymous(PAGE)?;
    for round in 0..rounds {
        one_race(c, &n, &over, round).map_err(|e| match e {
            crate::support::ctx::Outcome::Fail(why) => format!("round {round}: {why}").into(),
            skip => skip,
        })?;
    }
    // No file, mapping or process holds the module, once those that were killed have ended.
    c.wait_unused("rpmem")?;
    c.rmmod("rpmem")?;
    c.insmod_rpmem("")?;
    Node::new(c)?.open()?;
    Ok(())
}

fn one_race(c: &Ctx, n: &Node, over: &Map, round: u64) -> TestResult {
    let mut random = Random::new(c.seed.wrapping_mul(1000).wrapping_add(round));
    let how = ALL[random.below(3)];
    // At times another one wants it as well.
    let also = (random.below(3) == 0).then(|| ALL[random.below(3)]);
    let grace = ["0", "0", "-1", "-1", "-1", "1"][random.below(6)];
    over.write8(0, 0);
    n.grace(c, grace)?;
    let f = n.open()?;
    let before = lease(&f)?.breaks;
    let mut peers = Vec::new();
    for _ in 0..2 + random.below(3) {
        let seed = random.below(1 << 30) as u64;
        peers.push(Peer::start(|l| {
            let mut racer = Racer {
                f: &f,
                over,
                random: Random::new(seed),
                maps: Vec::new(),
            };
            racer.run(l)
        })?);
    }
    for p in &peers {
        p.hear()?;
    }
    let breaks: Vec<Break> = [Some(how), also]
        .into_iter()
        .flatten()
        .map(|how| n.begin(how))
        .collect();
    let mut killed = vec![false; peers.len()];
    for _ in 0..random.below(4) {
        let victim = random.below(peers.len());
        match random.below(4) {
            0 => {
                kill(peers[victim].pid(), libc::SIGKILL)?;
                killed[victim] = true;
            }
            1 => kill(peers[victim].pid(), libc::SIGSTOP)?,
            2 => kill(peers[victim].pid(), libc::SIGCONT)?,
            // CLOCK: the notice, the end, or some time.
            _ => {
                sys::poll(&f, POLLPRI, 5)?;
            }
        }
    }
    if grace == "-1" {
        // Unless it is over: who has held it was killed.
        let _ = n.grace(c, "0");
    }
    // Where it is unbound, nothing may be left for the other one.
    let unbound = how == How::Remove || also == Some(How::Remove);
    for b in breaks {
        match b.outcome(c)? {
            Err(e) if !unbound => return Err(e.into()),
            _ => {}
        }
    }
    over.write8(0, 1);
    for (p, killed) in peers.into_iter().zip(killed) {
        kill(p.pid(), libc::SIGCONT)?;
        let end = p.wait()?;
        let fine = end == 0 || end == GOT_SIGBUS || (killed && end == 128 + libc::SIGKILL);
        let why = WRONG.iter().find(|w| w.0 == end).map_or("", |w| w.1);
        check!(
            fine,
            "{how:?}, {also:?}, grace {grace}: a process ended with {end} {why}"
        );
    }
    let state = lease(&f)?;
    let want = if unbound { LEASE_BROKEN } else { LEASE_HELD };
    check_eq!((state.state, state.holders), (want, 0), "{state:?}");
    check!(state.breaks <= before + 2, "{state:?}");
    // The node first.
    if unbound {
        n.again(c, How::Remove)?;
    }
    for how in [Some(how), also].into_iter().flatten() {
        if how != How::Remove {
            n.again(c, how)?;
        }
    }
    // Children of those that were killed need not have ended yet.
    c.wait_for("the end of all mappings", || {
        n.attr(c, "mappings").is_ok_and(|s| s == "0")
    })?;
    check_eq!(n.holders(c)?, [""; 0], "holders");
    Ok(())
}
