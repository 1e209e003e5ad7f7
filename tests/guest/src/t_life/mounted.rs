// SPDX-License-Identifier: GPL-2.0
//! The same under a mount.

use super::holdings::{cycle, cycles};
use super::{check_fs, keep, kept, refused_with_ebusy, space, Kind, KEPT, MNT};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::peer::{self, Peer};
use crate::support::sys::{self, Map};
use crate::support::tools::{self, Space, HUGE, PAGE};
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    life_ext4_cycles => |c| mounted_cycles(c, "ext4"),
    life_xfs_cycles => |c| mounted_cycles(c, "xfs"),
    life_ext4_idle => |c| under(c, "ext4", idle),
    life_xfs_idle => |c| under(c, "xfs", idle),
    life_ext4_mapped => |c| under(c, "ext4", mapped),
    life_xfs_mapped => |c| under(c, "xfs", mapped),
    life_ext4_direct_io => |c| under(c, "ext4", direct_io),
    life_xfs_direct_io => |c| under(c, "xfs", direct_io),
    life_ext4_faults => |c| under(c, "ext4", faults),
    life_xfs_faults => |c| under(c, "xfs", faults),
    life_ext4_pinned => |c| under(c, "ext4", pinned),
    life_xfs_pinned => |c| under(c, "xfs", pinned),
    life_ext4_killed => |c| under(c, "ext4", killed),
    life_xfs_killed => |c| under(c, "xfs", killed),
    life_xfs_reflinked => |c| under(c, "xfs", reflinked),
    life_ext4_rebound => |c| under(c, "ext4", rebound),
    life_xfs_rebound => |c| under(c, "xfs", rebound),
    life_pageless_mount => pageless_mount,
};

// Under a mount.

fn fs_space(c: &Ctx, fs: &str) -> TestResult<Space> {
    space(c, if fs == "ext4" { Kind::Mem } else { Kind::Dev })
}

fn fresh(c: &Ctx, fs: &str, s: &Space) -> TestResult {
    while c.run(&["umount", "-q", MNT])?.status == 0 {}
    tools::mkfs_dax(c, fs, &s.dev())?;
    c.mount(&s.dev(), MNT, "dax")
}

/// What is left of a file system whose disk went: errors.
fn must_be_dead() -> TestResult {
    // Cached names may be there still; data and new files are not.
    let r = fs::write(format!("{MNT}/new"), b"x").and_then(|()| {
        let f = File::open(format!("{MNT}/new"))?;
        f.sync_all()
    });
    match r {
        Ok(()) => fail!("the file system of a disk that is gone takes new files"),
        Err(e) => check!(
            matches!(
                e.raw_os_error(),
                Some(libc::EIO | libc::EROFS | libc::ENODEV | libc::ENXIO)
            ),
            "new file: {e}"
        ),
    }
    Ok(())
}

/// Mount, use, unbind, unmount, bind, over and over: with a file open and mapped each time.
fn mounted_cycles(c: &mut Ctx, fs: &str) -> TestResult {
    let s = fs_space(c, fs)?;
    fresh(c, fs, &s)?;
    keep(c)?;
    c.umount(MNT)?;
    cycle(c, cycles(c) / 2, |n| {
        c.mount(&s.dev(), MNT, "dax")?;
        if n % 5 == 0 {
            kept()?;
        }
        let f = tools::open_rw(format!("{MNT}/busy"))?;
        f.set_len(KEPT as u64)?;
        let m = Map::sync(&f, 0, KEPT)?;
        m.write8(n * PAGE % KEPT, 1);
        s.unbind(c)?;
        check!(f.sync_all().is_err(), "fsync on a disk that is gone");
        drop((m, f));
        c.umount(MNT)?;
        s.bind(c)
    })?;
    c.mount(&s.dev(), MNT, "dax")?;
    kept()?;
    c.umount(MNT)?;
    check_fs(c, fs, &s)
}

/// A file system, something that uses it while the driver is unbound, and the aftermath: the
/// mount is dead, is unmounted, the namespace is bound again, and everything is there.
fn under(c: &mut Ctx, fs: &str, using: fn(&Ctx, &Space) -> TestResult) -> TestResult {
    let s = fs_space(c, fs)?;
    fresh(c, fs, &s)?;
    keep(c)?;
    using(c, &s)?;
    must_be_dead()?;
    refused_with_ebusy(c, "a mount whose disk is gone")?;
    c.umount(MNT)?;
    if !Path::new(&s.dev()).exists() {
        s.bind(c)?;
    }
    c.mount(&s.dev(), MNT, "dax")?;
    kept()?;
    c.umount(MNT)?;
    check_fs(c, fs, &s)
}

/// Nobody has a file open.
fn idle(c: &Ctx, s: &Space) -> TestResult {
    s.unbind(c)
}

/// A file that is open and mapped by two processes: SIGBUS for both, whether they had touched a
/// page or not, in small and huge pages, shared and private.
fn mapped(c: &Ctx, s: &Space) -> TestResult {
    let len = 3 * HUGE;
    let f = tools::file_of(&format!("{MNT}/mapped"), len)?;
    // What was never written needs no disk to be read, so all is written.
    f.write_all_at(&vec![0; len], 0)?;
    let m = Map::sync(&f, 0, len)?;
    // The first 4 MiB are mapped, the rest is not touched.
    for at in (0..HUGE).step_by(PAGE) {
        m.write8(at, 1);
    }
    m.write8(HUGE, 1);
    let private = Map::new(
        &f,
        0,
        len,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE,
    )?;
    private.write8(0, 0x77);
    check_eq!(private.read8(PAGE), 1);
    let mut children = Vec::new();
    for at in [0, PAGE + 3, HUGE, 2 * HUGE, len - 1] {
        for write in [false, true] {
            children.push(Peer::start(|link| {
                m.read8(0);
                m.read8(HUGE + 1);
                link.say();
                link.hear();
                if write {
                    m.write8(at, 1);
                }
                i32::from(m.read8(at))
            })?);
        }
    }
    for child in &children {
        child.hear()?;
    }
    s.unbind(c)?;
    for (n, child) in children.into_iter().enumerate() {
        child.say();
        check_eq!(
            child.wait()?,
            peer::GOT_SIGBUS,
            "access {n} after the unbind"
        );
    }
    // The test's own mapping, and what a system call makes of it.
    match sys::caught(|| m.read8(0))? {
        sys::Caught::Fault(x) => check_eq!((x.signal, x.code), (libc::SIGBUS, sys::BUS_ADRERR)),
        other => fail!("{other:?} instead of SIGBUS"),
    }
    let zero = File::open("/dev/zero")?;
    check_eq!(
        tools::errno(&tools::pread_raw(&zero, m.as_ptr(), PAGE, 0)),
        libc::EFAULT
    );
    // A private copy is the process's own, what had not been copied is gone.
    check_eq!(private.read8(0), 0x77, "a page that was copied");
    match sys::caught(|| private.read8(PAGE))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS in a private mapping"),
    }
    check!(f.sync_all().is_err(), "fsync");
    let mut b = [0; 16];
    check!(
        f.read_at(&mut b, 0).is_err(),
        "read of a file whose disk is gone"
    );
    // Still mapped when the namespace is bound again: the old mapping stays dead.
    s.bind(c)?;
    match sys::caught(|| m.read8(0))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS after the next bind"),
    }
    Ok(())
}

/// Direct I/O of files, and direct I/O of a foreign disk on the mapping, in flight.
fn direct_io(c: &Ctx, s: &Space) -> TestResult {
    c.ok(&["modprobe", "brd", "rd_nr=1", "rd_size=16384"])?;
    c.wait_exists("/dev/ram0")?;
    let len = 4 << 20;
    let f = tools::file_of(&format!("{MNT}/buffer"), len)?;
    let m = Map::sync(&f, 0, len)?;
    let workers = vec![
        // Ends with an error from the file: the disk is gone, or the DAX device is.
        Peer::start(|link| {
            let Ok(d) = tools::open_flags(format!("{MNT}/direct"), libc::O_DIRECT) else {
                return 3;
            };
            let Ok(buf) = tools::anonymous(len) else {
                return 3;
            };
            loop {
                let r = tools::pwrite_raw(&d, buf.as_ptr(), len, 0)
                    .and_then(|_| tools::pread_raw(&d, buf.as_ptr(), len, 0));
                match r {
                    Ok(n) if n == len => link.say(),
                    Ok(_) => {}
                    Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::ENXIO)) => {
                        return 0
                    }
                    Err(e) => {
                        println!("direct I/O of a file: {e}");
                        return 1;
                    }
                }
            }
        })?,
        // Ends with EFAULT from the mapping.
        Peer::start(|link| {
            let Ok(d) = tools::open_flags("/dev/ram0", libc::O_DIRECT) else {
                return 3;
            };
            loop {
                let r = tools::pwrite_raw(&d, m.as_ptr(), len, 0)
                    .and_then(|_| tools::pread_raw(&d, m.as_ptr(), len, 0));
                match r {
                    Ok(n) if n == len => link.say(),
                    Ok(_) => {}
                    Err(e) if e.raw_os_error() == Some(libc::EFAULT) => return 0,
                    Err(e) => {
                        println!("direct I/O on the mapping: {e}");
                        return 1;
                    }
                }
            }
        })?,
    ];
    for w in &workers {
        w.hear()?;
    }
    s.unbind(c)?;
    for (n, w) in workers.into_iter().enumerate() {
        check_eq!(w.wait()?, 0, "worker {n}");
    }
    Ok(())
}

/// Processes that do nothing but fault, in small and huge pages, in several files, while the
/// driver is unbound, many times over.
fn faults(c: &Ctx, s: &Space) -> TestResult {
    for round in 0..8 {
        if round > 0 {
            c.umount(MNT)?;
            s.bind(c)?;
            c.mount(&s.dev(), MNT, "dax")?;
        }
        let mut workers = Vec::new();
        for n in 0..4usize {
            let path = format!("{MNT}/faults{n}");
            workers.push(Peer::start(|link| {
                let len = 2 * HUGE;
                let Ok(f) = tools::file_of(&path, len) else {
                    return 3;
                };
                let Ok(m) = Map::sync(&f, 0, len) else {
                    return 3;
                };
                let step = if n % 2 == 0 { PAGE } else { HUGE };
                for pass in 0.. {
                    for at in (0..len).step_by(step) {
                        m.write8(at, pass as u8);
                    }
                    if pass == 1 {
                        link.say();
                    }
                    if m.madvise(libc::MADV_DONTNEED).is_err() {
                        return 4;
                    }
                }
                0
            })?);
        }
        for w in &workers {
            w.hear()?;
        }
        s.unbind(c)?;
        for (n, w) in workers.into_iter().enumerate() {
            check_eq!(w.wait()?, peer::GOT_SIGBUS, "worker {n}, round {round}");
        }
    }
    Ok(())
}

/// A page that the kernel holds for a user (in a pipe): the unbind waits for it, as its memory
/// cannot go, and ends when it is given back.
fn pinned(c: &Ctx, s: &Space) -> TestResult {
    let f = tools::file_of(&format!("{MNT}/pinned"), HUGE)?;
    let m = Map::sync(&f, 0, HUGE)?;
    m.write8(PAGE, 0x21);
    let pipe = tools::pin_in_pipe(&m)?;
    // Only this process holds the pipe, not the one that unbinds.
    let unbind = Peer::start(|_| {
        // SAFETY: the child's copies.
        unsafe {
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }
        i32::from(s.unbind(c).is_err())
    })?;
    unbind_waits(c, s, &unbind)?;
    nobody_else_waits(c, s)?;
    // The page is what it was, though nobody can map it any more.
    let mut b = vec![0u8; PAGE];
    // SAFETY: a buffer of that size.
    let n = unsafe { libc::read(pipe[0], b.as_mut_ptr().cast(), PAGE) };
    check_eq!(
        (n, b[0], b[1]),
        (PAGE as isize, 0x21, 0),
        "the page in the pipe"
    );
    check_eq!(unbind.wait()?, 0, "the unbind");
    // SAFETY: closes the test's pipe.
    unsafe {
        libc::close(pipe[0]);
        libc::close(pipe[1]);
    }
    match sys::caught(|| m.read8(PAGE))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS"),
    }
    Ok(())
}

/// While an unbind waits for a pin: everybody else goes on, and the namespace cannot be bound.
fn nobody_else_waits(c: &Ctx, s: &Space) -> TestResult {
    let listed = c.ok(&["ndctl", "list", "-RNDi"])?;
    check!(listed.contains("\"namespaces\""), "{listed}");
    let dev = fs::canonicalize(c.nd(&s.nd))?;
    let region = dev.parent().ok_or("no region")?;
    for dir in [&*dev, region] {
        for entry in fs::read_dir(dir)?.flatten() {
            // Some have nothing to say.
            let _ = fs::read(entry.path());
        }
    }
    // All namespaces of the region are told.
    let other = space(c, Kind::Raw)?;
    for read_only in ["1", "0"] {
        c.write(region.join("read_only"), read_only)?;
        check_eq!(c.disk_attr(&other.disk, "ro")?, read_only);
    }
    let bind = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver_name()));
    check_eq!(tools::errno(&bind(&s.nd)), libc::EBUSY, "bind");
    c.dmesg_has(&format!("pages are in use since {} was unbound", s.nd))
}

/// The disk has gone, and the one who unbinds sleeps.
fn unbind_waits(c: &Ctx, s: &Space, unbind: &Peer) -> TestResult {
    let stat = format!("/proc/{}/stat", unbind.pid());
    let gone = format!("/sys/block/{}", s.disk);
    c.wait_for("the unbind to wait", || {
        let state = c.read(&stat).unwrap_or_default();
        let state = state.rsplit(") ").next().unwrap_or_default().chars().next();
        matches!(state, Some('S' | 'D')) && !Path::new(&gone).exists()
    })
}

/// A process that unbinds what it has pinned itself waits for itself, until it is killed.
fn killed(c: &Ctx, s: &Space) -> TestResult {
    let unbind = Peer::start(|_| {
        let pinned = || -> TestResult {
            let f = tools::file_of(&format!("{MNT}/killed"), HUGE)?;
            let m = Map::sync(&f, 0, HUGE)?;
            m.write8(PAGE, 0x21);
            tools::pin_in_pipe(&m)?;
            s.unbind(c)
        };
        i32::from(pinned().is_err())
    })?;
    unbind_waits(c, s, &unbind)?;
    // SAFETY: no pointers; a child of this process.
    check_eq!(unsafe { libc::kill(unbind.pid(), libc::SIGKILL) }, 0);
    check_eq!(unbind.wait()?, 128 + libc::SIGKILL, "the one who unbinds");
    let bind = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver_name()));
    c.wait_for("the end of the pin", || bind(&s.nd).is_ok())?;
    c.wait_exists(s.dev())
}

/// Pages that several files share, mapped through two of them: they do not name their files, so the
/// unbind waits, says what for, and ends with the mount.
fn reflinked(c: &Ctx, s: &Space) -> TestResult {
    // Before the mappings are made, which it would inherit.
    let unbind = Peer::start(|link| {
        link.hear();
        i32::from(s.unbind(c).is_err())
    })?;
    let f = tools::file_of(&format!("{MNT}/origin"), HUGE)?;
    f.write_all_at(&vec![3; HUGE], 0)?;
    f.sync_all()?;
    c.sh(&format!(
        "cd {MNT}; for n in 1 2 3; do cp --reflink=always origin copy$n; done; sync -f ."
    ))?;
    let g = tools::open_rw(format!("{MNT}/copy1"))?;
    let (m, n) = (Map::shared(&f, 0, HUGE)?, Map::shared(&g, 0, HUGE)?);
    for at in (0..HUGE).step_by(PAGE) {
        check_eq!((m.read8(at), n.read8(at)), (3, 3));
    }
    unbind.say();
    c.wait_for("the message", || {
        c.dmesg()
            .is_ok_and(|log| log.contains("waiting for files that use pfn"))
    })?;
    // The memory is there as long as it is mapped.
    check_eq!((m.read8(0), n.read8(PAGE)), (3, 3));
    drop((m, n, f, g));
    must_be_dead()?;
    c.umount(MNT)?;
    check_eq!(unbind.wait()?, 0, "the unbind");
    // As the other tests leave it.
    s.bind(c)?;
    c.mount(&s.dev(), MNT, "dax")?;
    s.unbind(c)
}

/// The namespace is bound again while the dead mount is still there: a new disk, that works, next
/// to the old file system, that does not.
fn rebound(c: &Ctx, s: &Space) -> TestResult {
    let f = tools::file_of(&format!("{MNT}/f"), HUGE)?;
    let m = Map::sync(&f, 0, HUGE)?;
    m.write8(0, 1);
    s.unbind(c)?;
    s.bind(c)?;
    let d = tools::open_rw(s.dev())?;
    let mut b = vec![0; PAGE];
    d.read_exact_at(&mut b, 0)?;
    match sys::caught(|| m.read8(0))? {
        sys::Caught::Fault(x) => check_eq!(x.signal, libc::SIGBUS),
        other => fail!("{other:?} instead of SIGBUS"),
    }
    s.unbind(c)
}

/// The same without pages: a mount with data in the page cache, being written to.
fn pageless_mount(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Raw)?;
    while c.run(&["umount", "-q", MNT])?.status == 0 {}
    c.mkfs("ext4", &s.dev())?;
    c.mount(&s.dev(), MNT, "defaults")?;
    keep(c)?;
    let f = tools::open_rw(format!("{MNT}/dirty"))?;
    let worker = Peer::start(|link| {
        let data = vec![7; 1 << 20];
        loop {
            match f.write_all_at(&data, 0).and_then(|()| f.sync_all()) {
                Ok(()) => link.say(),
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::EIO | libc::EROFS | libc::ENODEV)
                    ) =>
                {
                    return 0
                }
                Err(e) => {
                    println!("{e}");
                    return 1;
                }
            }
        }
    })?;
    worker.hear()?;
    s.unbind(c)?;
    check_eq!(worker.wait()?, 0, "the writer");
    drop(f);
    must_be_dead()?;
    refused_with_ebusy(c, "a mount whose disk is gone")?;
    c.umount(MNT)?;
    s.bind(c)?;
    c.mount(&s.dev(), MNT, "defaults")?;
    kept()?;
    c.umount(MNT)
}
