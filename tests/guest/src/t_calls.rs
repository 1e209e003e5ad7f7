// SPDX-License-Identifier: GPL-2.0
//! /dev/rpmemN: what the tables of Documentation/mmap.md say of each call, row by row, where no test
//! of t_map, t_lease or t_devdax shows it already.

use crate::support::ctx::{self, Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{faults_for, Node, DIRECT_WINDOW};
use crate::support::sys::{self, Caught, Map, PAGE, RW, SYNC};
use crate::support::tools::{self, errno, HUGE};
use crate::support::uapi::{self, LEASE_REMOVE};
use crate::{check, check_eq};
use libc::{c_void, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    calls_open_gone => open_gone,
    calls_read_only_file => read_only_file,
    calls_buffers => buffers,
    calls_lock => lock,
    calls_advice => advice,
    calls_cut => cut,
    calls_mremap => mremap,
    calls_qemu => qemu,
    calls_seek => seek,
    calls_pfn => pfn,
    calls_store => store,
    calls_survives => survives,
};

/// All kinds of mappings: what it is called, offset of the window, flags.
const KINDS: [(&str, u64, i32); 3] = [
    ("plain", 0, MAP_SHARED),
    ("sync", 0, SYNC),
    ("direct", DIRECT_WINDOW, SYNC),
];

fn part(m: &Map, at: usize) -> *mut c_void {
    m.as_ptr().wrapping_add(at).cast()
}

/// What mremap(2) says: the new place, or the errno.
fn moved(from: *mut c_void, len: usize, new: usize, to: Option<*mut c_void>) -> Result<usize, i32> {
    let flags = libc::MREMAP_MAYMOVE | to.map_or(0, |_| libc::MREMAP_FIXED);
    // SAFETY: the callers own both places, and have no references into them.
    let p = unsafe { libc::mremap(from, len, new, flags, to.unwrap_or(std::ptr::null_mut())) };
    match p {
        libc::MAP_FAILED => Err(io::Error::last_os_error().raw_os_error().unwrap_or(-1)),
        p => Ok(p as usize),
    }
}

/// Whether a store, or a load, ends in this signal; 0: in none.
fn check_signal(m: &Map, at: usize, write: bool, signal: i32, what: &str) -> TestResult {
    let caught = sys::caught(|| {
        if write {
            m.write8(at, 1);
        } else {
            m.read8(at);
        }
        0
    })?;
    let got = match caught {
        Caught::Fault(f) => f.signal,
        _ => 0,
    };
    check_eq!(got, signal, "{what}: {caught:?} at {at:#x}");
    Ok(())
}

/// Who opens the node late: in the grace time of direct mappings, and when the namespace has gone.
fn open_gone(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    c.write(format!("{}/lease_break_time", h.sysfs), "-1")?;
    // The node itself is gone in the end; this is a name for it that stays.
    let path = tools::open_flags(&h.path, libc::O_PATH)?;
    let name = format!("/proc/self/fd/{}", path.as_raw_fd());
    let open = |write| File::options().read(true).write(write).open(&name);
    let f = h.open()?;
    let direct = Map::new(&f, DIRECT_WINDOW, PAGE, RW, SYNC)?;
    // A thread: a child would hold the mapping that it waits for.
    let nd = h.space.nd.clone();
    let unbinding = tools::unbind_beside(nd);
    c.wait_for("the break", || {
        uapi::rpmem_lease(&f, 32).is_ok_and(|lease| lease.state == LEASE_REMOVE)
    })?;
    for write in [false, true] {
        let late = open(write)?;
        check_eq!(uapi::rpmem_lease(&late, 32)?.state, LEASE_REMOVE);
        for (kind, base, flags) in KINDS {
            let want = if kind == "direct" {
                libc::EBUSY
            } else {
                libc::ENXIO
            };
            let got = errno(&Map::new(&late, base, PAGE, PROT_READ, flags));
            check_eq!(got, want, "{kind}, by a file of the grace time");
        }
    }
    drop((direct, f));
    check!(unbinding.join().unwrap_or(false), "unbind");
    for write in [false, true] {
        check_eq!(errno(&open(write)), libc::ENXIO, "when it has gone");
    }
    h.space.bind(c)?;
    c.wait_exists(&h.path)
}

/// A file that is open for reading.
fn read_only_file(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = File::open(&h.path)?;
    for (kind, base, flags) in KINDS {
        for prot in [PROT_WRITE, RW] {
            let got = errno(&Map::new(&f, base, PAGE, prot, flags));
            check_eq!(got, libc::EACCES, "{kind}: mmap for {prot}");
        }
        let m = Map::new(&f, base, 2 * HUGE, PROT_READ, flags)?;
        m.read8(HUGE);
        // SAFETY: our mapping, and no reference into it.
        let r = unsafe { libc::mprotect(part(&m, 0), PAGE, RW) };
        let e = io::Error::last_os_error().raw_os_error();
        check_eq!((r, e), (-1, Some(libc::EACCES)), "{kind}: mprotect");
        check_signal(&m, HUGE, true, libc::SIGSEGV, kind)?;
        check_signal(&m, HUGE, false, 0, kind)?;
    }
    Ok(())
}

/// A buffer of calls that copy is memory like any other, mapped already or not.
fn buffers(c: &mut Ctx) -> TestResult {
    const LEN: usize = 3 * PAGE;
    const AT: usize = 100;
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let file = tools::file_of("/tmp/calls", LEN)?;
    let fd = file.as_raw_fd();
    let (a, b) = UnixStream::pair()?;
    let mut want = vec![0; LEN];
    sys::pattern(41, &mut want);
    for (kind, base, flags) in KINDS {
        for touched in [false, true] {
            // Each call meets pages that no other has touched.
            let fresh = || -> TestResult<Map> {
                let m = Map::new(&f, base, 2 * HUGE, RW, flags)?;
                for at in (0..m.len()).step_by(PAGE).filter(|_| touched) {
                    m.write8(at, m.read8(at));
                }
                Ok(m)
            };
            for (what, into) in [
                ("pread", true),
                ("recv", true),
                ("preadv", true),
                ("pwrite", false),
                ("send", false),
                ("pwritev", false),
            ] {
                // What is read from is right, what is written to is not yet.
                let zeroes = vec![0; LEN];
                let (medium, other) = if into {
                    (&zeroes, &want)
                } else {
                    (&want, &zeroes)
                };
                fresh()?.slice_mut()[AT..AT + LEN].copy_from_slice(medium);
                file.write_all_at(other, 0)?;
                let m = fresh()?;
                let p = part(&m, AT);
                let io = libc::iovec {
                    iov_base: p,
                    iov_len: LEN,
                };
                // SAFETY: the kernel checks the addresses, EFAULT tells.
                let n = unsafe {
                    match what {
                        "pread" => libc::pread(fd, p, LEN, 0),
                        "recv" => {
                            libc::send(a.as_raw_fd(), want.as_ptr().cast(), LEN, 0);
                            libc::recv(b.as_raw_fd(), p, LEN, libc::MSG_WAITALL)
                        }
                        "preadv" => libc::preadv(fd, &io, 1, 0),
                        "pwrite" => libc::pwrite(fd, p, LEN, 0),
                        "send" => libc::send(a.as_raw_fd(), p, LEN, 0),
                        _ => libc::pwritev(fd, &io, 1, 0),
                    }
                };
                let what = format!("{kind}, touched {touched}: {what}");
                check_eq!(n, LEN as isize, "{what}: {}", io::Error::last_os_error());
                let mut got = vec![0; LEN];
                if into {
                    got.copy_from_slice(&m.slice()[AT..AT + LEN]);
                } else if what.ends_with("send") {
                    (&b).read_exact(&mut got)?;
                } else {
                    file.read_exact_at(&mut got, 0)?;
                }
                check!(got == want, "{what}: bytes");
            }
        }
    }
    Ok(())
}

/// Locking and populating succeed; where there are no pages they do nothing.
fn lock(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let frames = h.attr(c, "pinnable")? == 0;
    for (kind, base, flags) in KINDS {
        let untouched = {
            let m = Map::new(&f, base, 2 * HUGE, RW, flags)?;
            faults_for(&m, false)
        };
        check!(untouched > 0, "{kind}: {untouched} faults");
        let want = if frames { untouched } else { 0 };
        for more in [libc::MAP_LOCKED, libc::MAP_POPULATE] {
            let m = Map::new(&f, base, 2 * HUGE, RW, flags | more)?;
            check_eq!(faults_for(&m, false), want, "{kind}: flag {more:#x}");
        }
        let m = Map::new(&f, base, 2 * HUGE, RW, flags)?;
        // SAFETY: our mapping.
        unsafe {
            check_eq!(libc::mlock(part(&m, 0), m.len()), 0, "{kind}: mlock");
        }
        check_eq!(faults_for(&m, false), want, "{kind}: mlock");
        // SAFETY: as above.
        unsafe {
            check_eq!(libc::munlock(part(&m, 0), m.len()), 0, "{kind}: munlock");
            let onfault = libc::MLOCK_ONFAULT;
            check_eq!(
                libc::mlock2(part(&m, 0), PAGE, onfault),
                0,
                "{kind}: mlock2"
            );
        }
    }
    Ok(())
}

/// What advice about merging ends in: a kernel without KSM does not know it.
fn mergeable() -> i32 {
    if Path::new("/sys/kernel/mm/ksm").exists() {
        0
    } else {
        libc::EINVAL
    }
}

/// madvise(2) of page frames.
fn advice(c: &mut Ctx) -> TestResult {
    const COLLAPSE: i32 = 25;
    const GUARD_INSTALL: i32 = 102;
    const GUARD_REMOVE: i32 = 103;
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    for (kind, base, flags) in KINDS {
        let m = Map::new(&f, base, 2 * HUGE, RW, flags)?;
        for touched in [false, true] {
            if touched {
                faults_for(&m, true);
            }
            for (advice, want) in [
                (libc::MADV_NORMAL, 0),
                (libc::MADV_RANDOM, 0),
                (libc::MADV_SEQUENTIAL, 0),
                (libc::MADV_WILLNEED, 0),
                (libc::MADV_DONTFORK, 0),
                (libc::MADV_DOFORK, libc::EINVAL),
                (libc::MADV_MERGEABLE, mergeable()),
                (libc::MADV_UNMERGEABLE, mergeable()),
                (libc::MADV_HUGEPAGE, 0),
                (libc::MADV_DONTDUMP, 0),
                (libc::MADV_REMOVE, libc::ENODEV),
                (libc::MADV_DONTNEED, libc::EINVAL),
                (libc::MADV_FREE, libc::EINVAL),
                (libc::MADV_COLD, libc::EINVAL),
                (libc::MADV_PAGEOUT, libc::EINVAL),
                (libc::MADV_POPULATE_READ, libc::EINVAL),
                (libc::MADV_POPULATE_WRITE, libc::EINVAL),
                (libc::MADV_DODUMP, libc::EINVAL),
                (libc::MADV_WIPEONFORK, libc::EINVAL),
                (libc::MADV_KEEPONFORK, 0),
                (COLLAPSE, libc::EINVAL),
                (libc::MADV_HWPOISON, libc::EFAULT),
                (libc::MADV_SOFT_OFFLINE, libc::EFAULT),
                (GUARD_INSTALL, libc::EINVAL),
                (GUARD_REMOVE, libc::EINVAL),
                (9999, libc::EINVAL),
            ] {
                let got = errno(&m.madvise(advice));
                check_eq!(got, want, "{kind}, touched {touched}: madvise {advice}");
            }
        }
        // Nothing of it took anything away; a plain one may have given one page table up by itself.
        let moved = i64::from(flags == MAP_SHARED && h.attr(c, "pinnable")? == 0);
        let faults = faults_for(&m, true);
        check!((0..=moved).contains(&faults), "{kind}: {faults} faults");
        let m = Map::new(&f, base, 2 * HUGE, RW, flags)?;
        m.madvise(libc::MADV_NOHUGEPAGE)?;
        check_eq!(faults_for(&m, false), 2 * 512 / 64, "{kind}: NOHUGEPAGE");
        m.madvise(libc::MADV_DONTFORK)?;
        // Which is tried in a child.
        check_signal(&m, 0, false, libc::SIGSEGV, "DONTFORK")?;
    }
    Ok(())
}

/// munmap and mprotect of any page of a mapping whose entries are as large as they can be.
fn cut(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    let len = 4 * HUGE;
    disk::fill(&dev, 51, 0, len as u64)?;
    let mut want = disk::Buf::page(len);
    dev.read_exact_at(want.bytes_mut(), 0)?;
    let last = len / PAGE - 1;
    for (kind, base, flags) in KINDS {
        for (first, pages) in [
            (0, 1),
            (1, 1),
            (255, 2),
            (511, 1),
            (511, 2),
            (512, 512),
            (700, 600),
            (last, 1),
            (0, last),
        ] {
            let hole = first * PAGE..(first + pages) * PAGE;
            let what = format!("{kind}: {pages} pages from {first} on");
            let same = |m: &Map, but: &std::ops::Range<usize>| {
                (0..len)
                    .step_by(PAGE)
                    .filter(|at| !but.contains(at))
                    .all(|at| m.read8(at + 7) == want.bytes()[at + 7])
            };
            let whole = || -> TestResult<Map> {
                let m = Map::new(&f, base, len, RW, flags)?;
                faults_for(&m, false);
                Ok(m)
            };
            let m = whole()?;
            // SAFETY: parts of our mappings, and no references into them.
            let r = unsafe { libc::munmap(part(&m, hole.start), hole.len()) };
            check_eq!(r, 0, "{what}: munmap");
            check!(same(&m, &hole), "{what}: munmap");
            for at in [hole.start, hole.end - 1] {
                check_signal(&m, at, false, libc::SIGSEGV, &what)?;
            }
            drop(m);

            let m = whole()?;
            // SAFETY: as above.
            let protect = |prot| unsafe { libc::mprotect(part(&m, hole.start), hole.len(), prot) };
            check_eq!(protect(PROT_READ), 0, "{what}: mprotect");
            check!(same(&m, &(0..0)), "{what}: mprotect");
            check_signal(&m, hole.start, true, libc::SIGSEGV, &what)?;
            check_eq!(protect(PROT_NONE), 0, "{what}: mprotect to none");
            check_signal(&m, hole.end - 1, false, libc::SIGSEGV, &what)?;
            check_eq!(protect(RW), 0, "{what}: mprotect back");
            check!(same(&m, &(0..0)), "{what}: mprotect back");
            m.write8(hole.start + 7, want.bytes()[hole.start + 7]);
        }
        check_eq!(h.mappings(c)?, 0, "{kind}: mappings");
    }
    disk::verify(&dev, 51, 0, len as u64)
}

/// mremap moves and shrinks, and nothing else.
fn mremap(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    c.write("/proc/sys/fs/lease-break-time", "0")?;
    let dev = disk::direct(&h.space.dev())?;
    let len = 4 * HUGE;
    disk::fill(&dev, 61, 0, len as u64)?;
    let mut want = disk::Buf::page(len);
    dev.read_exact_at(want.bytes_mut(), 0)?;
    for (kind, base, flags) in KINDS {
        let m = Map::new(&f, base, len, RW, flags)?;
        faults_for(&m, false);
        let start = part(&m, 0);
        // What it may not do leaves it as it was.
        for (what, old, new, to) in [
            ("growing", len, len + PAGE, None),
            ("growing a part", HUGE, 2 * HUGE, None),
            ("a second one", 0, HUGE, None),
        ] {
            check_eq!(
                moved(start, old, new, to),
                Err(libc::EFAULT),
                "{kind}: {what}"
            );
        }
        let room = tools::anonymous(2 * len)?;
        let place = part(&room, 0);
        let grown = moved(start, HUGE, 2 * HUGE, Some(place));
        check_eq!(grown, Err(libc::EFAULT), "{kind}: growing elsewhere");
        check_eq!(faults_for(&m, false), 0, "{kind}: faults");

        // Two pages less; a part of it elsewhere, where it is not aligned.
        let less = moved(start, len, len - 2 * PAGE, None);
        check_eq!(less, Ok(start as usize), "{kind}: shrinking");
        check_signal(&m, len - 1, false, libc::SIGSEGV, kind)?;
        check_eq!(
            m.read8(len - 2 * PAGE - 1),
            want.bytes()[len - 2 * PAGE - 1]
        );
        let place = part(&room, 5 * PAGE);
        let got = moved(part(&m, HUGE), HUGE, HUGE, Some(place));
        check_eq!(got, Ok(place as usize), "{kind}: moving");
        check_signal(&m, HUGE, false, libc::SIGSEGV, kind)?;
        for at in (0..HUGE).step_by(PAGE) {
            let got = room.read8(5 * PAGE + at + 3);
            check_eq!(got, want.bytes()[HUGE + at + 3], "{kind}: {at:#x}");
        }
        room.write8(5 * PAGE + 9, 0x5a);
        room.persist(5 * PAGE, PAGE);
        let mut page = disk::Buf::page(PAGE);
        dev.read_exact_at(page.bytes_mut(), HUGE as u64)?;
        check_eq!(page.bytes()[9], 0x5a, "{kind}: stored after moving");
        room.write8(5 * PAGE + 9, want.bytes()[HUGE + 9]);
        room.persist(5 * PAGE, PAGE);
        drop((room, m));
        check_eq!(h.mappings(c)?, 0, "{kind}: mappings");
    }
    disk::verify(&dev, 61, 0, len as u64)?;
    drop(dev);

    // The memory has gone.
    let maps: Vec<Map> = KINDS
        .iter()
        .map(|(_, base, flags)| Map::new(&f, *base, HUGE, RW, *flags))
        .collect::<io::Result<_>>()?;
    let room = tools::anonymous(HUGE)?;
    h.space.unbind(c)?;
    for (m, (kind, ..)) in maps.iter().zip(KINDS) {
        let got = moved(part(m, 0), HUGE, HUGE, Some(part(&room, 0)));
        check_eq!(got, Err(libc::ENXIO), "{kind}: moving what has gone");
        let got = moved(part(m, 0), HUGE, PAGE, None);
        check_eq!(
            got,
            Ok(part(m, 0) as usize),
            "{kind}: shrinking what has gone"
        );
    }
    drop((maps, f));
    h.space.bind(c)?;
    c.wait_exists(&h.path)
}

/// The node has a size: for lseek(2), for those who ask sysfs, and for a program that maps all of a file.
fn seek(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let size = h.attr(c, "size")? as i64;
    check!(size > 0 && size % PAGE as i64 == 0, "{size}");
    let f = h.open()?;
    let to = |offset: i64, whence: i32| -> Result<i64, i32> {
        // SAFETY: a descriptor of ours.
        match unsafe { libc::lseek(f.as_raw_fd(), offset, whence) } {
            -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(-1)),
            at => Ok(at),
        }
    };
    use libc::{EINVAL, ENXIO, SEEK_CUR, SEEK_DATA, SEEK_END, SEEK_HOLE, SEEK_SET};
    for (offset, whence, want) in [
        (0, SEEK_CUR, Ok(0)),
        (0, SEEK_END, Ok(size)),
        (0, SEEK_CUR, Ok(size)),
        (-4096, SEEK_CUR, Ok(size - 4096)),
        (8192, SEEK_CUR, Err(EINVAL)),
        (0, SEEK_CUR, Ok(size - 4096)),
        (size, SEEK_SET, Ok(size)),
        (size + 1, SEEK_SET, Err(EINVAL)),
        (-1, SEEK_SET, Err(EINVAL)),
        (-size - 1, SEEK_END, Err(EINVAL)),
        (i64::MAX, SEEK_CUR, Err(EINVAL)),
        (i64::MIN, SEEK_END, Err(EINVAL)),
        (DIRECT_WINDOW as i64, SEEK_SET, Err(EINVAL)),
        (12345, SEEK_DATA, Ok(12345)),
        (0, SEEK_HOLE, Ok(size)),
        (size, SEEK_DATA, Err(ENXIO)),
        (size, SEEK_HOLE, Err(ENXIO)),
        (-1, SEEK_DATA, Err(ENXIO)),
        (0, 99, Err(EINVAL)),
        (0, SEEK_SET, Ok(0)),
    ] {
        check_eq!(to(offset, whence), want, "lseek({offset}, {whence})");
    }
    // As a program does that knows files only.
    let end = to(0, SEEK_END).unwrap_or(0) as usize;
    let all = Map::new(&f, 0, end, RW, MAP_SHARED)?;
    all.write8(end - 1, 7);
    all.read8(0);
    drop(all);

    let node = c.read(format!("{}/device/numa_node", h.sysfs))?;
    check_eq!(c.read(format!("{}/numa_node", h.sysfs))?, node);
    let resource = format!("{}/resource", h.sysfs);
    let mode = std::fs::metadata(&resource)?.mode();
    check_eq!(mode & 0o777, 0o400, "who may read {resource}");
    let start = c.read(&resource)?;
    let start = u64::from_str_radix(start.trim_start_matches("0x"), 16).unwrap_or(0);
    let iomem = c.read("/proc/iomem")?;
    let inside = iomem.lines().any(|line| {
        let range = line.split(" : ").next().unwrap_or_default().trim();
        range.split_once('-').is_some_and(|(from, to)| {
            let [from, to] = [from, to].map(|n| u64::from_str_radix(n, 16).unwrap_or(0));
            line.contains("namespace")
                && (from..=to).contains(&start)
                && to - start >= size as u64 - 1
        })
    });
    check!(inside, "{start:#x} is in no namespace:\n{iomem}");
    Ok(())
}

/// The system calls that QEMU 10.0 makes for `-object memory-backend-file,mem-path=/dev/rpmem0`, as
/// strace(1) shows them, with share, pmem, prealloc, merge, dump=off and align=2M.
fn qemu(c: &mut Ctx) -> TestResult {
    const LEN: usize = 32 * HUGE;
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    // The size is asked for as of device-dax, which this is not, then by lseek(2). What is wanted must
    // not be more.
    let number = c.read(format!("{}/dev", h.sysfs))?;
    let class = format!("/sys/dev/char/{}/subsystem", number.trim());
    let class = std::fs::read_link(class)?;
    check!(!class.ends_with("dax"), "{}", class.display());
    // SAFETY: a descriptor of ours.
    let end = unsafe { libc::lseek(f.as_raw_fd(), 0, libc::SEEK_END) };
    check_eq!(end as u64, h.attr(c, "size")?, "lseek");
    check!(end as usize >= LEN, "{end} bytes");
    let populate = match h.attr(c, "pinnable")? {
        0 => libc::EINVAL,
        _ => 0,
    };
    for (what, flags, base, want) in [
        ("pmem=on", SYNC, 0, 0),
        ("pmem=on,offset=2M", SYNC, HUGE as u64, 0),
        ("pmem=on,offset=1E", SYNC, DIRECT_WINDOW, 0),
        ("pmem=off", MAP_SHARED, 0, 0),
        ("share=off", MAP_PRIVATE, 0, libc::EINVAL),
    ] {
        // A place of which a part is aligned, and the mapping there.
        let room = tools::anonymous(LEN + HUGE)?;
        let skip = part(&room, 0).align_offset(HUGE);
        let place = part(&room, skip);
        let fixed = flags | libc::MAP_FIXED;
        // SAFETY: replaces a part of a mapping of ours, to which there are no references.
        let p = unsafe { libc::mmap(place, LEN, RW, fixed, f.as_raw_fd(), base as i64) };
        let got = io::Error::last_os_error().raw_os_error().unwrap_or(-1);
        if want != 0 {
            check_eq!((p, got), (libc::MAP_FAILED, want), "{what}");
            continue;
        }
        check_eq!(p, place, "{what}: {got}");
        for (advice, want) in [
            (libc::MADV_HUGEPAGE, 0),
            (libc::MADV_DONTFORK, 0),
            (libc::MADV_MERGEABLE, mergeable()),
            (libc::MADV_DONTDUMP, 0),
            // If that is EINVAL it touches each page.
            (libc::MADV_POPULATE_WRITE, populate),
        ] {
            // SAFETY: as above.
            let r = unsafe { libc::madvise(place, LEN, advice) };
            let got = io::Error::last_os_error().raw_os_error().unwrap_or(-1);
            check_eq!(if r == 0 { 0 } else { got }, want, "{what}: {advice}");
        }
        for at in (skip..skip + LEN).step_by(PAGE) {
            room.write8(at, room.read8(at));
        }
        drop(room);
        check_eq!(h.mappings(c)?, 0, "{what}: mappings");
    }
    Ok(())
}

/// How VFIO and KVM find page frames: tests/module looks up an address of ours as they do.
fn pfn(c: &mut Ctx) -> TestResult {
    const FOLLOW: &str = "/sys/module/rpmem_user/parameters/follow";
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let medium =
        h.resource(c)? + c.read_u64(c.nd(&h.space.nd).join("size"))? - h.attr(c, "size")?;
    c.write("/proc/sys/fs/lease-break-time", "0")?;
    ctx::insmod(Path::new("/rpmem_user.ko"), "")?;
    let look = |m: &Map, at: usize, mode: char| -> TestResult<i32> {
        let text = format!("{:#x} {mode}", m.as_ptr() as usize + at);
        let got = errno(&c.try_write(FOLLOW)(&text));
        if got == 0 {
            check_eq!(
                c.read_u64(FOLLOW)?,
                medium + at as u64,
                "{text}: where it is"
            );
        }
        Ok(got)
    };
    for (kind, base, flags) in KINDS {
        let m = Map::new(&f, base, 4 * HUGE, RW, flags)?;
        // Nothing is mapped: the look-up faults it in, to be read or to be stored to.
        check_eq!(look(&m, 0, 'w')?, 0, "{kind}: for writing");
        check_eq!(look(&m, HUGE + PAGE, 'r')?, 0, "{kind}: for reading");
        // Plain mappings: what was read is mapped to be read alone, and its neighbours with it.
        let want = if kind == "plain" { libc::EFAULT } else { 0 };
        check_eq!(look(&m, HUGE + PAGE, 'w')?, want, "{kind}: read before");
        check_eq!(look(&m, HUGE + 5 * PAGE, 'w')?, want, "{kind}: a neighbour");
        m.write8(HUGE + 5 * PAGE, 1);
        check_eq!(look(&m, HUGE + 5 * PAGE, 'w')?, 0, "{kind}: stored to");
        m.msync()?;
        check_eq!(look(&m, HUGE + 5 * PAGE, 'w')?, 0, "{kind}: after msync");
        let m = Map::new(&f, base, HUGE, PROT_READ, flags)?;
        check_eq!(look(&m, 0, 'r')?, 0, "{kind}: read-only");
        check_eq!(look(&m, 0, 'w')?, libc::EFAULT, "{kind}: read-only");
    }
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
    check_eq!(look(&m, 0, 'w')?, 0);
    h.space.unbind(c)?;
    check_eq!(look(&m, 0, 'w')?, libc::EFAULT, "after unbinding");
    drop((m, f));
    c.rmmod("rpmem_user")?;
    h.space.bind(c)
}

/// Where each kind of mapping stores before the power is cut, and how much.
const STORED: usize = HUGE + 3 * PAGE;

fn stored_at(n: usize) -> u64 {
    ((2 * n + 1) * HUGE + 5 * PAGE) as u64
}

/// What is out of the CPU caches, or has been synced, needs no unmapping, closing or shutting down.
fn store(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    for (n, (_, base, flags)) in KINDS.into_iter().enumerate() {
        let mut m = Map::new(&f, base + stored_at(n), STORED, RW, flags)?;
        sys::pattern(70 + n as u64, m.slice_mut());
        if flags == MAP_SHARED {
            m.msync()?;
        } else {
            m.persist(0, STORED);
        }
        std::mem::forget(m);
    }
    c.power_cut()
}

/// After the next boot.
fn survives(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    let mut block = disk::Buf::page(STORED);
    for (n, (kind, ..)) in KINDS.into_iter().enumerate() {
        let seed = 70 + n as u64;
        dev.read_exact_at(block.bytes_mut(), stored_at(n))?;
        let wrong = sys::pattern_differs(seed, block.bytes());
        check_eq!(wrong, None, "{kind}: on the disk");
        let m = Map::new(&f, stored_at(n), STORED, PROT_READ, SYNC)?;
        check_eq!(
            sys::pattern_differs(seed, m.slice()),
            None,
            "{kind}: mapped"
        );
    }
    Ok(())
}
