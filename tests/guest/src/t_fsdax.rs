// SPDX-License-Identifier: GPL-2.0
//! File systems with DAX on a namespace with struct pages: what applications may rely on.
//!
//! Each test has the file system for itself. It runs on whatever namespace with pages the fixture
//! has; on an NVDIMM with labels it makes one.

use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::node;
use crate::support::peer::{self, Peer};
use crate::support::sys::{self, Caught, Map, RW};
use crate::support::tools::{self, HUGE, PAGE};
use crate::support::trace;
use crate::{check, check_eq, fail};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    fsdax_ext4_map_sync => |c| on(c, "ext4", map_sync),
    fsdax_xfs_map_sync => |c| on(c, "xfs", map_sync),
    fsdax_ext4_map_sync_refused => |c| on(c, "ext4", map_sync_refused),
    fsdax_xfs_map_sync_refused => |c| on(c, "xfs", map_sync_refused),
    fsdax_ext4_map_direct_refused => |c| on(c, "ext4", map_direct_refused),
    fsdax_xfs_map_direct_refused => |c| on(c, "xfs", map_direct_refused),
    fsdax_ext4_huge => |c| on(c, "ext4", huge),
    fsdax_xfs_huge => |c| on(c, "xfs", huge),
    fsdax_ext4_odirect => |c| on(c, "ext4", odirect),
    fsdax_xfs_odirect => |c| on(c, "xfs", odirect),
    fsdax_ext4_fork => |c| on(c, "ext4", fork),
    fsdax_xfs_fork => |c| on(c, "xfs", fork),
    fsdax_ext4_address_space => |c| on(c, "ext4", address_space),
    fsdax_xfs_address_space => |c| on(c, "xfs", address_space),
    fsdax_ext4_private => |c| on(c, "ext4", private),
    fsdax_xfs_private => |c| on(c, "xfs", private),
    fsdax_ext4_truncate => |c| on(c, "ext4", truncate),
    fsdax_xfs_truncate => |c| on(c, "xfs", truncate),
    fsdax_ext4_zeroes => |c| on(c, "ext4", zeroes),
    fsdax_xfs_zeroes => |c| on(c, "xfs", zeroes),
    fsdax_xfs_reflink => |c| on(c, "xfs", reflink),
    fsdax_ext4_cut => |c| on(c, "ext4", cut),
    fsdax_xfs_cut => |c| on(c, "xfs", cut),
    fsdax_ext4_after_cut => |c| after_cut(c, "ext4"),
    fsdax_xfs_after_cut => |c| after_cut(c, "xfs"),
    fsdax_pageless => pageless,
};

const MNT: &str = "/mnt/dax";
/// Says which file system an earlier test of this boot has made.
const MADE: &str = "/run/rpmem-fsdax";
const LEN: usize = 4 << 20;

fn path(name: &str) -> String {
    format!("{MNT}/{name}")
}

/// Run a test on a mounted file system, and take it down cleanly.
fn on(c: &mut Ctx, fs: &str, test: fn(&Ctx) -> TestResult) -> TestResult {
    // Page map in memory for one file system, on the medium for the other: both are served.
    let map = if fs == "ext4" { "mem" } else { "dev" };
    let s = tools::dax_space(c, &["-M", map])?;
    check_eq!(
        c.bound_to(&s.nd).as_deref(),
        Some(c.driver_name()),
        "driver of {}",
        s.nd
    );
    // A test that failed may have left its mount behind.
    while c.run(&["umount", "-q", MNT])?.status == 0 {}
    if std::fs::read_to_string(MADE).unwrap_or_default() != fs {
        tools::mkfs_dax(c, fs, &s.dev())?;
        std::fs::write(MADE, fs)?;
    }
    c.mount(&s.dev(), MNT, "dax")?;
    if fs == "xfs" {
        // Files get extents of 2 MiB, or the log decides where small ones go.
        c.ok(&["xfs_io", "-c", "extsize 2m", MNT])?;
    }
    test(c)?;
    c.umount(MNT)?;
    let log = c.dmesg()?;
    for bad in [
        "DAX unsupported",
        "Turning off DAX",
        "I/O error",
        "Corruption",
    ] {
        check!(!log.contains(bad), "the kernel log says {bad:?}:\n{log}");
    }
    Ok(())
}

fn must_sigbus(m: &Map, at: usize) -> TestResult {
    for write in [false, true] {
        let r = sys::caught(|| {
            if write {
                m.write8(at, 1);
            }
            m.read8(at)
        })?;
        match r {
            Caught::Fault(f) => {
                check_eq!((f.signal, f.code), (libc::SIGBUS, sys::BUS_ADRERR));
                check_eq!(f.addr, m.as_ptr() as usize + at);
            }
            other => fail!("{other:?} instead of SIGBUS at {at:#x}, write {write}"),
        }
    }
    Ok(())
}

/// `-o dax` and MAP_SYNC are accepted and mean it: the file is a DAX one, the mapping is
/// synchronous, stores are in the file at once, and the file's bytes are those of the medium.
fn map_sync(c: &Ctx) -> TestResult {
    let options = c.ok(&["findmnt", "-no", "OPTIONS", MNT])?;
    check!(
        options
            .trim()
            .split(',')
            .any(|o| o == "dax" || o == "dax=always"),
        "mounted with {options}"
    );
    let f = tools::open_rw(path("sync"))?;
    f.set_len(LEN as u64)?;
    check!(tools::is_dax(&f)?, "STATX_ATTR_DAX is not set");
    let mut m = Map::sync(&f, 0, LEN)?;
    let flags = tools::smaps_text(c, m.as_ptr() as usize, "VmFlags")?;
    check!(
        flags.split(' ').any(|x| x == "sf"),
        "VmFlags {flags} lack sf"
    );
    sys::pattern(11, m.slice_mut());
    m.persist(0, LEN);
    let mut back = vec![0; LEN];
    f.read_exact_at(&mut back, 0)?;
    check_eq!(sys::pattern_differs(11, &back), None, "read after store");
    f.write_all_at(b"written", 3 * PAGE as u64 + 5)?;
    check_eq!(
        &m.slice()[3 * PAGE + 5..][..7],
        b"written",
        "load after write"
    );
    // fsync and msync of a mapping with dirty pages.
    m.write8(PAGE, 0x42);
    m.msync()?;
    f.sync_all()?;
    // A page-cache copy would be told by a second mount of the same bytes only; ask the medium.
    let at = c.sh(&format!(
        "filefrag -e -b4096 {} | awk '$1 == \"0:\" {{ print $4 + 0 }}'",
        path("sync")
    ))?;
    let block: u64 = at.trim().parse().map_err(|_| format!("filefrag: {at:?}"))?;
    let source = c.ok(&["findmnt", "-no", "SOURCE", MNT])?;
    let disk = tools::open_flags(source.trim(), libc::O_DIRECT)?;
    let buf = tools::anonymous(2 * PAGE)?;
    check_eq!(
        tools::pread_raw(&disk, buf.as_ptr(), 2 * PAGE, block * PAGE as u64)?,
        2 * PAGE
    );
    check_eq!(
        buf.slice(),
        &m.slice()[..2 * PAGE],
        "the medium at block {block}"
    );
    Ok(())
}

/// MAP_SYNC where it cannot be had is refused with EOPNOTSUPP, never ignored.
fn map_sync_refused(c: &Ctx) -> TestResult {
    let source = c.ok(&["findmnt", "-no", "SOURCE", MNT])?;
    c.umount(MNT)?;
    c.mount(source.trim(), MNT, "dax=never")?;
    for file in [path("nodax"), "/tmp/nodax".into()] {
        let f = tools::open_rw(&file)?;
        f.set_len(LEN as u64)?;
        check!(!tools::is_dax(&f)?, "{file} is a DAX file");
        check_eq!(
            tools::errno(&Map::sync(&f, 0, PAGE)),
            libc::EOPNOTSUPP,
            "MAP_SYNC on {file}"
        );
        // Without the flag the same mapping is fine.
        Map::new(&f, 0, PAGE, RW, sys::MAP_SHARED_VALIDATE)?.write8(0, 1);
    }
    // A flag that nobody knows is refused on a DAX mount as well.
    c.umount(MNT)?;
    c.mount(source.trim(), MNT, "dax")?;
    let f = tools::open_rw(path("nodax"))?;
    let unknown = Map::new(&f, 0, PAGE, RW, sys::MAP_SHARED_VALIDATE | 0x0080_0000);
    check_eq!(tools::errno(&unknown), libc::EOPNOTSUPP, "unknown flag");
    drop(Map::sync(&f, 0, PAGE)?);
    Ok(())
}

/// MAP_DIRECT is not for files: neither mmap(2) nor rpmem_mmap() ignores it.
fn map_direct_refused(c: &Ctx) -> TestResult {
    let f = tools::open_rw(path("direct"))?;
    f.set_len(LEN as u64)?;
    check!(tools::is_dax(&f)?, "STATX_ATTR_DAX is not set");
    node::check_refused(&f, "a DAX file")?;
    for (flags, errno) in [("0x200003", 95), ("0x280003", 95), ("0x200001", 22)] {
        let out = c.ok(&[
            "rpmem-populate",
            &path("direct"),
            flags,
            "0",
            "0x1000000000000000",
        ])?;
        let lines = format!("0 {errno}\n0 {errno}");
        check_eq!(out.trim(), lines, "rpmem_mmap, {flags}");
    }
    Ok(())
}

/// Counts the faults of DAX files while it lives.
struct Faults {
    huge: trace::Trace,
    small: trace::Trace,
    /// What is written back becomes read-only, and faults once more.
    _quiet: tools::Quiet,
}

impl Faults {
    fn trace(c: &Ctx) -> TestResult<Faults> {
        Ok(Faults {
            huge: trace::Trace::on(c, "fs_dax/dax_pmd_fault_done")?,
            small: trace::Trace::on(c, "fs_dax/dax_pte_fault_done")?,
            _quiet: tools::Quiet::new(c)?,
        })
    }

    /// Faults that were served with 2 MiB, and all of 4 KiB.
    fn count(&self, c: &Ctx) -> TestResult<(usize, usize)> {
        let huge = self.huge.lines(c)?;
        // A synchronous fault maps after the journal has been written (NEEDDSYNC).
        let served = |l: &&String| l.ends_with("NOPAGE") || l.ends_with("NEEDDSYNC");
        let n = huge.iter().filter(served).count();
        if n != huge.len() {
            println!("{}", huge.join("\n"));
        }
        Ok((n, self.small.lines(c)?.len()))
    }
}

/// Huge entries: one fault per 2 MiB, and all of it is mapped.
fn huge(c: &Ctx) -> TestResult {
    let len = 4 * HUGE;
    let f = tools::file_of(&path("huge"), len)?;
    let m = Map::sync(&f, 0, len)?;
    check_eq!(m.as_ptr() as usize % HUGE, 0, "address of the mapping");
    let faults = Faults::trace(c)?;
    for at in (0..len).step_by(HUGE) {
        m.write8(at + 12345, 0x77);
    }
    // Nothing is left to fault in.
    for at in (0..len).step_by(PAGE) {
        m.write8(at, 0x66);
    }
    check_eq!(faults.count(c)?, (4, 0), "faults of 2 MiB and of 4 KiB");
    drop(faults);
    for at in (0..len).step_by(HUGE) {
        check_eq!(
            (m.read8(at), m.read8(at + 1), m.read8(at + 12345)),
            (0x66, 0, 0x77)
        );
    }
    // A page in the middle of a huge entry goes: the rest of it stays what it was.
    // SAFETY: a page of the mapping that is not used any more.
    let r = unsafe { libc::munmap(m.as_ptr().add(HUGE + 16 * PAGE).cast(), PAGE) };
    check_eq!(r, 0, "munmap of a page");
    check_eq!(m.read8(HUGE + 12345), 0x77);
    m.write8(HUGE + 12345, 0x78);
    let mut b = [0];
    f.read_exact_at(&mut b, HUGE as u64 + 12345)?;
    check_eq!(b[0], 0x78, "read after store next to the gap");
    Ok(())
}

/// The mapping as buffer of direct I/O, in both directions: the device works on the pages of the
/// namespace. Small and huge entries; a foreign disk, and a namespace if there is a second one.
fn odirect(c: &Ctx) -> TestResult {
    c.ok(&["modprobe", "brd", "rd_nr=1", "rd_size=16384"])?;
    let mut disks = vec!["/dev/ram0".to_string()];
    for s in tools::spaces(c)? {
        if !tools::has_pages(c, &s)? {
            disks.push(s.dev());
        }
    }
    let f = tools::file_of(&path("odirect"), LEN)?;
    let mut m = Map::sync(&f, 0, LEN)?;
    let inner = PAGE + 512;
    let part = LEN - HUGE - 3 * PAGE;
    for (n, disk) in disks.iter().enumerate() {
        println!("direct I/O with {disk}");
        c.wait_exists(disk)?;
        let d = tools::open_flags(disk, libc::O_DIRECT)?;
        let seed = 20 + 2 * n as u64;
        // From the mapping. 512 bytes into a page, too: a bio of many segments.
        sys::pattern(seed, m.slice_mut());
        check_eq!(tools::pwrite_raw(&d, m.as_ptr(), LEN, 0)?, LEN);
        let buf = tools::anonymous(LEN)?;
        check_eq!(tools::pread_raw(&d, buf.as_ptr(), LEN, 0)?, LEN);
        check_eq!(
            sys::pattern_differs(seed, buf.slice()),
            None,
            "{disk} after a write from the mapping"
        );
        check_eq!(
            tools::pwrite_raw(&d, m.as_ptr().wrapping_add(inner), part, 0)?,
            part
        );
        check_eq!(tools::pread_raw(&d, buf.as_ptr(), part, 0)?, part);
        check_eq!(
            &buf.slice()[..part],
            &m.slice()[inner..inner + part],
            "unaligned part"
        );
        // To the mapping.
        let mut other = tools::anonymous(LEN)?;
        sys::pattern(seed + 1, other.slice_mut());
        check_eq!(tools::pwrite_raw(&d, other.as_ptr(), LEN, 0)?, LEN);
        check_eq!(tools::pread_raw(&d, m.as_ptr(), LEN, 0)?, LEN);
        check_eq!(
            sys::pattern_differs(seed + 1, m.slice()),
            None,
            "the mapping after a read from {disk}"
        );
        let mut back = vec![0; LEN];
        f.read_exact_at(&mut back, 0)?;
        check_eq!(
            sys::pattern_differs(seed + 1, &back),
            None,
            "the file after a read from {disk}"
        );
    }
    // Direct I/O of the DAX file itself, with another part of it as the buffer.
    let d = tools::open_flags(path("odirect"), libc::O_DIRECT)?;
    let half = LEN / 2;
    let first = m.slice()[..half].to_vec();
    check_eq!(tools::pwrite_raw(&d, m.as_ptr(), half, half as u64)?, half);
    check_eq!(&m.slice()[half..], &first[..], "second half");
    // Another process reads this one's mapping.
    let me = std::process::id() as i32;
    let mut copy = vec![0u8; HUGE + 77];
    // SAFETY: both ranges are valid; the kernel checks the remote one.
    let n = unsafe {
        let l = libc::iovec {
            iov_base: copy.as_mut_ptr().cast(),
            iov_len: copy.len(),
        };
        let r = libc::iovec {
            iov_base: m.as_ptr().add(33).cast(),
            iov_len: copy.len(),
        };
        libc::process_vm_readv(me, &l, 1, &r, 1, 0)
    };
    check_eq!(n, copy.len() as isize, "process_vm_readv");
    check_eq!(&copy[..], &m.slice()[33..33 + copy.len()]);
    Ok(())
}

/// A child shares the mapping: each sees what the other stores, and the child keeps it when the
/// parent has unmapped.
fn fork(_: &Ctx) -> TestResult {
    let f = tools::file_of(&path("fork"), LEN)?;
    let m = Map::sync(&f, 0, LEN)?;
    for at in (0..LEN).step_by(PAGE) {
        m.write8(at, 1);
    }
    let child = Peer::start(|link| {
        for at in (0..LEN).step_by(PAGE) {
            if m.read8(at) != 1 {
                return 1;
            }
            m.write8(at, 2);
        }
        link.say();
        link.hear();
        // A page that was never touched and one that was; the parent's mapping is gone.
        if m.read8(PAGE) != 3 {
            return 2;
        }
        m.write8(PAGE + 1, 4);
        m.write8(LEN - 1, 5);
        0
    })?;
    child.hear()?;
    for at in (0..LEN).step_by(PAGE) {
        check_eq!(m.read8(at), 2, "the child's store at {at:#x}");
    }
    m.write8(PAGE, 3);
    drop(m);
    child.say();
    check_eq!(child.wait()?, 0, "the child");
    let mut b = vec![0; LEN];
    f.read_exact_at(&mut b, 0)?;
    check_eq!(
        (b[PAGE], b[PAGE + 1], b[LEN - 1]),
        (3, 4, 5),
        "the child's stores after the parent's munmap"
    );
    Ok(())
}

fn libc_ok(r: i32, what: &str) -> TestResult {
    check!(r == 0, "{what}: {}", io::Error::last_os_error());
    Ok(())
}

/// mprotect, mremap, madvise, mlock on a mapping with huge entries.
fn address_space(c: &Ctx) -> TestResult {
    let f = tools::file_of(&path("space"), LEN)?;
    let mut m = Map::sync(&f, 0, LEN)?;
    sys::pattern(31, m.slice_mut());
    let at = m.as_ptr();

    // One page read-only, within a huge entry: a store there is a SIGSEGV, next to it is not.
    // SAFETY: mprotect, mlock and mremap of the test's own mapping.
    libc_ok(
        unsafe { libc::mprotect(at.add(5 * PAGE).cast(), PAGE, libc::PROT_READ) },
        "mprotect",
    )?;
    match sys::caught(|| {
        m.write8(5 * PAGE, 1);
        0
    })? {
        Caught::Fault(x) => check_eq!((x.signal, x.addr), (libc::SIGSEGV, at as usize + 5 * PAGE)),
        other => fail!("{other:?} instead of SIGSEGV"),
    }
    let (before, inside) = (m.read8(4 * PAGE), m.read8(5 * PAGE));
    m.write8(4 * PAGE, !before);
    m.write8(4 * PAGE, before);
    check_eq!(m.read8(5 * PAGE), inside);
    libc_ok(
        unsafe { libc::mprotect(at.add(5 * PAGE).cast(), PAGE, RW) },
        "mprotect back",
    )?;
    m.write8(5 * PAGE, inside);

    // The pages are the file's: throwing the entries away loses nothing.
    m.madvise(libc::MADV_DONTNEED)?;
    check_eq!(
        tools::smaps(c, at as usize, "Rss")?,
        0,
        "Rss after MADV_DONTNEED"
    );
    check_eq!(
        sys::pattern_differs(31, m.slice()),
        None,
        "after MADV_DONTNEED"
    );
    m.madvise(libc::MADV_WILLNEED)?;
    m.madvise(libc::MADV_DONTFORK)?;
    match sys::caught(|| m.read8(0))? {
        Caught::Fault(x) => check_eq!(x.signal, libc::SIGSEGV, "child after MADV_DONTFORK"),
        other => fail!("{other:?} in a child after MADV_DONTFORK"),
    }
    m.madvise(libc::MADV_DOFORK)?;
    libc_ok(unsafe { libc::mlock(at.cast(), LEN) }, "mlock")?;
    libc_ok(unsafe { libc::munlock(at.cast(), LEN) }, "munlock")?;

    // A move takes the entries along; the old place is empty.
    let len = LEN - HUGE;
    let target = tools::anonymous(2 * LEN)?;
    let to = (target.as_ptr() as usize).next_multiple_of(HUGE);
    // SAFETY: as above; the old range is given up by the test, the new one is in its reservation.
    let moved = unsafe {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        libc::mremap(at.cast(), len, len, flags, to)
    };
    check!(
        moved != libc::MAP_FAILED,
        "mremap: {}",
        io::Error::last_os_error()
    );
    // SAFETY: `len` bytes were moved there.
    let there = unsafe { std::slice::from_raw_parts(moved.cast::<u8>(), len) };
    let mut all = vec![0; LEN];
    sys::pattern(31, &mut all);
    check!(there == &all[..len], "the moved mapping has other bytes");
    check!(
        m.slice()[len..] == all[len..],
        "what was not moved has other bytes"
    );
    match sys::caught(|| m.read8(0))? {
        Caught::Fault(x) => check_eq!(x.signal, libc::SIGSEGV, "the old place"),
        other => fail!("{other:?} at the old place"),
    }
    // Growing beyond the file is allowed, the bytes there are not.
    // SAFETY: as above.
    let grown = unsafe { libc::mremap(moved, len, len + LEN, libc::MREMAP_MAYMOVE) };
    check!(
        grown != libc::MAP_FAILED,
        "mremap to grow: {}",
        io::Error::last_os_error()
    );
    // SAFETY: mapped, and the first part as before.
    let there = unsafe { std::slice::from_raw_parts(grown.cast::<u8>(), LEN) };
    check!(there == &all[..], "the grown mapping has other bytes");
    // SAFETY: the child expects the fault.
    let r = sys::caught(|| unsafe { grown.cast::<u8>().add(LEN).read_volatile() })?;
    check!(
        matches!(r, Caught::Fault(x) if x.signal == libc::SIGBUS),
        "{r:?} beyond the end of the file"
    );
    // SAFETY: the test's own.
    unsafe { libc::munmap(grown, len + LEN) };

    // A hole punched through the mapping.
    let m = Map::shared(&f, 0, LEN)?;
    m.madvise(libc::MADV_REMOVE)?;
    check!(
        m.slice().iter().all(|b| *b == 0),
        "bytes left after MADV_REMOVE"
    );
    Ok(())
}

/// MAP_PRIVATE: copies on write, from small and huge entries.
fn private(_: &Ctx) -> TestResult {
    let f = tools::file_of(&path("private"), LEN)?;
    let mut shared = Map::sync(&f, 0, LEN)?;
    sys::pattern(41, shared.slice_mut());
    let p = Map::new(&f, 0, LEN, RW, libc::MAP_PRIVATE)?;
    let (kept, written) = (7 * PAGE + 1, 9 * PAGE + 1);
    let original = p.read8(written);
    p.write8(written, !original);
    check_eq!(
        (p.read8(written), shared.read8(written)),
        (!original, original),
        "after a private store"
    );
    // What was not written is still the file's, what was is not.
    let other = !p.read8(kept);
    shared.write8(kept, other);
    shared.write8(written, original.wrapping_add(1));
    check_eq!(
        (p.read8(kept), p.read8(written)),
        (other, !original),
        "after shared stores"
    );
    // The rest of the copied page came along.
    check_eq!(
        &p.slice()[9 * PAGE + 2..10 * PAGE],
        &shared.slice()[9 * PAGE + 2..10 * PAGE]
    );
    let child = Peer::start(|_| {
        p.write8(written, 0x55);
        i32::from(p.read8(written) != 0x55)
    })?;
    check_eq!(child.wait()?, 0);
    check_eq!(p.read8(written), !original, "the child's copy is its own");
    // Direct I/O into a private mapping copies, too.
    let d = tools::open_flags(path("private"), libc::O_DIRECT)?;
    let page = 20 * PAGE;
    let before = shared.slice()[page..page + PAGE].to_vec();
    check_eq!(
        tools::pread_raw(&d, p.as_ptr().wrapping_add(page), PAGE, 0)?,
        PAGE
    );
    check_eq!(
        &p.slice()[page..page + PAGE],
        &shared.slice()[..PAGE],
        "read into a private page"
    );
    check_eq!(
        &shared.slice()[page..page + PAGE],
        &before[..],
        "the file under it"
    );
    Ok(())
}

/// Truncation under a mapping: SIGBUS beyond the new end, zeroes when the file grows again.
fn truncate(_: &Ctx) -> TestResult {
    let f = tools::file_of(&path("truncate"), LEN)?;
    let m = Map::sync(&f, 0, LEN)?;
    for at in (0..LEN).step_by(PAGE) {
        m.write8(at, 9);
        m.write8(at + 100, 9);
    }
    let end = HUGE + 3 * PAGE + 50;
    f.set_len(end as u64)?;
    for at in [HUGE + 4 * PAGE, LEN - 1] {
        must_sigbus(&m, at)?;
    }
    check_eq!(
        (m.read8(HUGE + 3 * PAGE), m.read8(HUGE)),
        (9, 9),
        "in front of the end"
    );
    f.set_len(LEN as u64)?;
    check_eq!(
        m.read8(HUGE + 3 * PAGE + 100),
        0,
        "the tail of the last page"
    );
    check!(
        m.slice()[end..].iter().all(|b| *b == 0),
        "old bytes came back"
    );
    // All of it, with the mapping in use by another process.
    let child = Peer::start(|link| {
        m.write8(0, 1);
        link.say();
        link.hear();
        i32::from(m.read8(0))
    })?;
    child.hear()?;
    f.set_len(0)?;
    child.say();
    check_eq!(
        child.wait()?,
        peer::GOT_SIGBUS,
        "access of another process after truncation to nothing"
    );
    Ok(())
}

/// What a file does not hold is zero, whatever the medium held: holes, unwritten extents, punched
/// and zeroed ranges, through mapping and read alike.
fn zeroes(c: &Ctx) -> TestResult {
    // Old bytes all over the free space that the next file gets.
    let f = tools::file_of(&path("old"), 4 * LEN)?;
    let m = Map::sync(&f, 0, 4 * LEN)?;
    for at in (0..4 * LEN).step_by(64) {
        m.write8(at, 0xee);
    }
    m.persist(0, 4 * LEN);
    drop((m, f));
    std::fs::remove_file(path("old"))?;
    c.ok(&["sync", "-f", MNT])?;

    let f = tools::file_of(&path("zeroes"), 4 * LEN)?;
    let m = Map::sync(&f, 0, 4 * LEN)?;
    // Read faults first, then stores into some pages: small ones and huge ones.
    check_eq!(m.read8(PAGE), 0);
    m.write8(PAGE + 7, 1);
    m.write8(LEN + 7, 1);
    let count = |m: &Map| m.slice().iter().filter(|b| **b != 0).count();
    check_eq!(count(&m), 2, "bytes that are not zero in a fresh file");
    let (start, len) = (LEN as u64 + 100, LEN as u64);
    for mode in [
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        libc::FALLOC_FL_ZERO_RANGE,
    ] {
        for at in (0..4 * LEN).step_by(PAGE / 2) {
            m.write8(at, 0xdd);
        }
        // SAFETY: an open file.
        let r = unsafe { libc::fallocate(f.as_raw_fd(), mode, start as i64, len as i64) };
        libc_ok(r, "fallocate")?;
        let mut read = vec![0; 4 * LEN];
        f.read_exact_at(&mut read, 0)?;
        check!(
            read == m.slice(),
            "mapping and read differ after mode {mode:#x}"
        );
        for at in (0..4 * LEN).step_by(PAGE / 2) {
            let zeroed = (start..start + len).contains(&(at as u64));
            check_eq!(
                read[at],
                if zeroed { 0 } else { 0xdd },
                "byte {at:#x}, mode {mode:#x}"
            );
        }
    }
    Ok(())
}

/// Files that share blocks: a store through a mapping of one does not change the other.
fn reflink(c: &Ctx) -> TestResult {
    let (a, b) = (path("origin"), path("clone"));
    let _ = std::fs::remove_file(&b);
    let f = tools::file_of(&a, LEN)?;
    let mut m = Map::sync(&f, 0, LEN)?;
    sys::pattern(61, m.slice_mut());
    c.ok(&["cp", "--reflink=always", &a, &b])?;
    let g = tools::open_rw(&b)?;
    let n = Map::sync(&g, 0, LEN)?;
    check_eq!(sys::pattern_differs(61, n.slice()), None, "the clone");
    let was = n.read8(PAGE);
    n.write8(PAGE, !was);
    n.write8(HUGE + PAGE, 0x11);
    check_eq!(
        sys::pattern_differs(61, m.slice()),
        None,
        "the origin after stores to the clone"
    );
    check_eq!((n.read8(PAGE), n.read8(HUGE + PAGE)), (!was, 0x11));
    // And the other way, with the page shared still.
    let was = n.read8(3 * PAGE);
    m.write8(3 * PAGE, !was);
    check_eq!(
        n.read8(3 * PAGE),
        was,
        "the clone after a store to the origin"
    );
    let mut back = vec![0; LEN];
    f.read_exact_at(&mut back, 0)?;
    check!(back == m.slice(), "read and mapping of the origin differ");
    g.read_exact_at(&mut back, 0)?;
    check!(back == n.slice(), "read and mapping of the clone differ");
    Ok(())
}

const CUT_LEN: usize = 12 << 20;

/// Files at the time of the cut: blocks allocated by the faults of MAP_SYNC alone, and a huge one.
fn cut_files() -> [(String, u64); 2] {
    [(path("cut-sparse"), 71), (path("cut-huge"), 72)]
}

fn store_and_flush(f: &File, seed: u64) -> TestResult<Map> {
    let mut m = Map::sync(f, 0, CUT_LEN)?;
    // From the end to the start, so that the file system cannot allocate in one go.
    let mut want = vec![0; CUT_LEN];
    sys::pattern(seed, &mut want);
    for at in (0..CUT_LEN).step_by(HUGE / 2).rev() {
        m.slice_mut()[at..at + HUGE / 2].copy_from_slice(&want[at..at + HUGE / 2]);
        m.persist(at, HUGE / 2);
    }
    Ok(m)
}

/// MAP_SYNC stores, flushed by the CPU alone, and the power fails.
fn cut(c: &Ctx) -> TestResult {
    let [(sparse, a), (huge, b)] = cut_files();
    let f = tools::open_rw(&sparse)?;
    f.set_len(CUT_LEN as u64)?;
    let _m = store_and_flush(&f, a)?;
    let g = tools::file_of(&huge, CUT_LEN)?;
    let faults = Faults::trace(c)?;
    let _n = store_and_flush(&g, b)?;
    check_eq!(
        faults.count(c)?,
        (CUT_LEN / HUGE, 0),
        "faults of 2 MiB and of 4 KiB"
    );
    c.power_cut()
}

fn after_cut(c: &mut Ctx, fs: &str) -> TestResult {
    let s = tools::dax_space(c, &[])?;
    c.mount(&s.dev(), MNT, "dax")?;
    for (file, seed) in cut_files() {
        let data = std::fs::read(&file)?;
        check_eq!(data.len(), CUT_LEN, "size of {file}");
        check_eq!(sys::pattern_differs(seed, &data), None, "{file}");
    }
    c.umount(MNT)?;
    match fs {
        "ext4" => c.ok(&["fsck.ext4", "-n", "-f", &s.dev()])?,
        _ => c.ok(&["xfs_repair", "-n", &s.dev()])?,
    };
    Ok(())
}

/// A raw namespace without pages: `-o dax` is refused with a reason in the log (ext4), or turned
/// off with one (xfs, whose rule that is), and MAP_SYNC there is refused.
fn pageless(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    check_eq!(c.disk_attr(&dev, "queue/dax")?, "0");
    tools::mkfs_dax(c, "ext4", &dev)?;
    c.mark_dmesg();
    match c.mount(&dev, MNT, "dax") {
        Err(Outcome::Fail(why)) => println!("{why}"),
        _ => fail!("ext4 -o dax was accepted"),
    }
    c.dmesg_has("DAX unsupported by block device")?;
    c.mount(&dev, MNT, "defaults")?;
    c.umount(MNT)?;
    c.ok(&["mkfs.xfs", "-q", "-f", &dev])?;
    c.mark_dmesg();
    c.mount(&dev, MNT, "dax")?;
    c.dmesg_has("DAX unsupported by block device. Turning off DAX.")?;
    let f = tools::open_rw(path("f"))?;
    f.set_len(LEN as u64)?;
    check!(!tools::is_dax(&f)?, "a DAX file without pages");
    check_eq!(
        tools::errno(&Map::sync(&f, 0, PAGE)),
        libc::EOPNOTSUPP,
        "MAP_SYNC"
    );
    drop(f);
    c.umount(MNT)
}
