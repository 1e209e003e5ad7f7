// SPDX-License-Identifier: GPL-2.0
//! The time that holders are given: how long, who sets it, and what happens meanwhile.

use super::{
    become_a_user, direct, gone, heard, kill, lease, listen, noticed, on_signal, put, state_of,
    still, tried, unmap, works, write, Break, How, Leased, ALL,
};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{check_debugged, DIRECT_WINDOW};
use crate::support::peer::{Link, Peer, GOT_SIGBUS};
use crate::support::sys::{self, Map, RW, SYNC};
use crate::support::tools::{errno, HUGE, PAGE};
use crate::support::uapi::{self, LEASE_BROKEN, LEASE_REMOVE};
use crate::{check, check_eq};
use libc::{MAP_SHARED, PROT_READ};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

pub const TESTS: &[Test] = crate::tests! {
    lease_grace => grace,
    lease_grace_disguised => grace_disguised,
    lease_during => during,
    lease_expiry => expiry,
    lease_signal => signal,
    lease_region => region,
};

const DEFAULT_GRACE: &str = "/proc/sys/fs/lease-break-time";

fn grace(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
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
        check_eq!(n.text(c, "lease_break_time")?, seconds, "the kernel's");
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
        check_eq!(n.text(c, "lease_break_time")?, want, "{text:?}");
    }
    c.write(DEFAULT_GRACE, "7")?;
    check_eq!(n.text(c, "lease_break_time")?, "-1", "not the kernel's now");
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
        check_eq!(n.text(c, "lease_break_time")?, "-1", "after {bad:?}");
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
    check_eq!(n.text(c, "lease_break_time")?, kernel, "after bind");
    Ok(())
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
    let n = Leased::new(c)?;
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

/// What goes on in the grace time, and what does not.
fn during(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
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
    check_debugged(&huge)?;
    for m in [&plain, &sync] {
        let got = mem.read_at(&mut [0], m.as_ptr() as u64);
        check_eq!(errno(&got), libc::EIO, "mem, of an ordinary one");
        check_eq!(
            uapi::rpmem_prefault(&f, m, 0, PAGE as u64, 1),
            (0, libc::EFAULT),
            "prefault, of an ordinary one"
        );
    }
    let fresh = 4 * PAGE;
    check_eq!(
        uapi::rpmem_prefault(&f, &small, fresh, PAGE as u64, 1),
        (PAGE as u64, 0),
        "prefault"
    );
    check_eq!(
        uapi::rpmem_prefault(&f, &huge, 0, len as u64, 1),
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

/// The grace time passes: who holds on loses the memory for good, and nobody else waits.
fn expiry(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
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

/// The one who breaks the lease can be interrupted, and then it is broken at once.
fn signal(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
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
        let n = Leased::new(c)?;
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
        let n = Leased::new(c)?;
        gone(&m, 0, "with the region again")?;
        works(&direct(&n.open()?, 0, HUGE)?, 0, "a new one")?;
    }
    Ok(())
}
