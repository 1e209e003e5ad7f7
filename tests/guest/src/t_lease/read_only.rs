// SPDX-License-Identifier: GPL-2.0
//! Breaks that leave the memory readable.

use super::{
    direct, gone, gone_for, heard, kill, lease, listen, noticed, on_signal, set_disk_read_only,
    sleeps_in, state_of, still, tried, works, How, Leased,
};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::DIRECT_WINDOW;
use crate::support::peer::Peer;
use crate::support::sys::{self, Caught, Map, RW, SYNC};
use crate::support::tools::{errno, HUGE, PAGE};
use crate::support::uapi::{LEASE_BROKEN, LEASE_HELD, LEASE_READ_ONLY};
use crate::{check, check_eq, fail};
use libc::{MAP_SHARED, POLLPRI, PROT_READ};
use std::fs::File;
use std::io;

pub const TESTS: &[Test] = crate::tests! {
    lease_read_only => read_only,
    lease_disk_read_only => disk_read_only,
    lease_epochs => epochs,
    lease_turns => turns,
};

/// The region becomes read-only.
fn read_only(c: &mut Ctx) -> TestResult {
    becomes_read_only(c, How::ReadOnly, "the region became read-only")
}

/// The disk does.
fn disk_read_only(c: &mut Ctx) -> TestResult {
    becomes_read_only(c, How::Disk, "the disk is being made read-only")?;

    // A partition is not the disk, and the node does not know it.
    let n = Leased::new(c)?;
    c.sh(&format!(
        "printf 'label: dos\\nstart=2048, size=16384\\n' | sfdisk -q {}",
        n.space.dev()
    ))?;
    let part = format!("{}p1", n.space.dev());
    c.wait_exists(&part)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let m = direct(&f, 0, HUGE)?;
    set_disk_read_only(&part, 1)?;
    works(&m, 0, "with a partition that is read-only")?;
    check_eq!(lease(&f)?.state, LEASE_HELD);
    drop((m, f));
    c.ok(&["wipefs", "-a", &n.space.dev()])?;
    c.ok(&["blockdev", "--rereadpt", &n.space.dev()])?;

    // More often than there are epochs: once no mapping is left, they begin anew.
    let f = n.open()?;
    let dead = direct(&f, 0, HUGE)?;
    dead.write8(0, 1);
    n.grace(c, "0")?;
    let toggle = || -> TestResult {
        set_disk_read_only(&n.space.dev(), 1)?;
        set_disk_read_only(&n.space.dev(), 0)?;
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
    let n = Leased::new(c)?;
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
    let n = Leased::new(c)?;
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
    let n = Leased::new(c)?;
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
