// SPDX-License-Identifier: GPL-2.0
//! How holders are told: poll(2), epoll(7), signals.

use super::{direct, exec_sleep, lease, noticed, still, told, How, Leased, ALL};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::peer::{Link, Peer};
use crate::support::sys::{self, Map, FOREVER, RW};
use crate::support::tools::{errno, HUGE, PAGE};
use crate::support::uapi::{self, Lease, LEASE_HELD};
use crate::{check, check_eq};
use libc::{MAP_SHARED, POLLERR, POLLHUP, POLLPRI};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

pub const TESTS: &[Test] = crate::tests! {
    lease_notice => notice,
    lease_stale_fd => stale_fd,
    lease_owner_race => owner_race,
};

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
    let n = Leased::new(c)?;
    let (mine, theirs) = (libc::SIGRTMIN() + 1, libc::SIGRTMIN() + 2);
    sys::block_signals(&[mine, theirs, libc::SIGIO]);
    for how in ALL {
        n.grace(c, "-1")?;
        let (f, to_other, to_group) = (n.open()?, n.open()?, n.open()?);
        check_eq!(errno(&uapi::rpmem_lease(&f, 31)), libc::EINVAL, "argsz 31");
        check_eq!(uapi::rpmem_lease(&f, 4096)?.argsz, 32, "a newer caller");
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
                next = uapi::rpmem_lease(&f, 32);
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
fn named(c: &Ctx, n: &Leased, signal: i32) -> TestResult<Option<i32>> {
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
    let n = Leased::new(c)?;
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
    let n = Leased::new(c)?;
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
