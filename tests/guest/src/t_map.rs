// SPDX-License-Identifier: GPL-2.0
//! /dev/rpmemN: the contract of Documentation/mmap.md.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{
    check_gone, check_refused, faults, faults_for, Here, DIRECT_WINDOW, MAP_DIRECT, RW, SYNC,
};
use crate::support::ring::Ring;
use crate::support::sys::{self, Caught, Map, MAP_SHARED_VALIDATE, MAP_SYNC};
use crate::support::tools::{self, errno, Peer, Probe, GOT_SIGBUS, HUGE};
use crate::{check, check_eq, fail};
use libc::{MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

pub const TESTS: &[Test] = crate::tests! {
    map_node => node,
    map_flags => flags,
    map_strict => strict,
    map_ranges => ranges,
    map_bytes => bytes,
    map_huge => huge,
    map_high => high,
    map_gigantic => gigantic,
    map_gup => gup,
    map_access => access,
    map_exclusive => exclusive,
    map_vma => vma,
    map_fork => fork,
    map_msync => msync,
    map_msync_cost => msync_cost,
    map_prefault => prefault,
    map_prefault_rights => prefault_rights,
    map_crate => application_crate,
    map_kselftest => kselftest,
    map_header => header,
    map_ptrace => ptrace,
    map_poison_gigantic => poison_gigantic,
    map_read_only => read_only,
    map_unbind => unbind,
    map_unbind_many => unbind_many,
    map_poison => poison,
    map_memory_failure => memory_failure,
    map_direct_flag => direct_flag,
    map_direct_header => direct_header,
};

const PAGE: usize = 4096;

fn no_validate(flag: i32) -> i32 {
    MAP_SHARED | flag
}

fn node(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let m = std::fs::metadata(&h.node)?;
    check!(
        m.file_type().is_char_device(),
        "{}: no character device",
        h.node
    );
    check_eq!(m.permissions().mode() & 0o7777, 0o600, "mode");
    check_eq!((m.uid(), m.gid()), (0, 0), "owner");

    // A child of the device that the driver is bound to, in a class of its own.
    let place = std::fs::canonicalize(&h.sysfs)?;
    let want = format!("/{}/rpmem/r{}", h.space.nd, h.space.disk);
    check!(
        place.to_string_lossy().ends_with(&want),
        "{} is not at {want}",
        place.display()
    );
    let uevent = c.read(format!("{}/uevent", h.sysfs))?;
    check!(
        uevent.contains(&format!("DEVNAME=r{}", h.space.disk)),
        "uevent: {uevent}"
    );

    let disk = disk::attr_u64(c, &h.space.disk, "size")? * 512;
    check_eq!(h.attr(c, "size")?, disk / 4096 * 4096, "size");
    let pages = tools::has_pages(c, &h.space)?;
    check_eq!(h.attr(c, "page_backed")?, u64::from(pages), "page_backed");
    check_eq!(h.attr(c, "synchronous")?, 1, "synchronous");
    let huge = if pages { HUGE } else { tools::without_pages() };
    check_eq!(h.attr(c, "huge_page")?, huge as u64, "huge_page");
    check_eq!(h.mappings(c)?, 0, "mappings");

    let f = h.open()?;
    let info = tools::rpmem_info(&f, 32)?;
    check_eq!(info.argsz, 32);
    check_eq!(info.size, h.attr(c, "size")?, "info.size");
    check_eq!(info.huge_page, huge as u64, "info.huge_page");
    check_eq!(info.flags, 1 | if pages { 2 } else { 0 }, "info.flags");
    check_eq!(errno(&tools::rpmem_info(&f, 31)), libc::EINVAL, "argsz 31");
    check_eq!(tools::rpmem_info(&f, 4096)?.argsz, 32, "a newer caller");
    check_eq!(
        errno(&tools::ioctl_raw(&f, 0xbdff, std::ptr::null_mut::<u8>())),
        libc::ENOTTY,
        "an unknown ioctl"
    );
    check_eq!(
        errno(&tools::ioctl_raw(&f, 0xbd00, std::ptr::null_mut::<u8>())),
        libc::EFAULT,
        "no argument"
    );
    // Not a file to read or write.
    check_eq!(errno(&f.read_at(&mut [0; 8], 0)), libc::EINVAL, "read");
    check_eq!(errno(&f.write_at(&[0; 8], 0)), libc::EINVAL, "write");
    // io_uring(7) polls before it reads; this must not be a wait without end.
    let ready = libc::POLLIN | libc::POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM;
    check_eq!(sys::poll(&f, ready | libc::POLLPRI, 0)?, ready, "poll");
    let ring = Ring::new().map_err(|e| io::Error::from_raw_os_error(-e as i32))?;
    let mut bytes = [0u8; 8];
    for (what, opcode) in [("read", 22), ("write", 23)] {
        let head = opcode | ((f.as_raw_fd() as u64) << 32);
        let r = ring.run([head, 0, bytes.as_mut_ptr() as u64, 8, 0, 0, 0, 0]);
        check_eq!(r, -i64::from(libc::EINVAL), "io_uring: {what}");
    }
    drop(ring);

    let map = Map::new(&f, 0, PAGE, RW, MAP_SHARED)?;
    let more = h.open()?;
    let again = Map::new(&more, 4096, PAGE, PROT_READ, SYNC)?;
    check_eq!(h.mappings(c)?, 2, "mappings");
    drop((map, again));
    check_eq!(h.mappings(c)?, 0, "mappings");
    Ok(())
}

fn flags(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    c.mark_dmesg();
    let direct = native(c)?;
    let unknown = 0x4000_0000u32 as i32 | 0x80_0000;
    for (what, flags, want) in [
        ("private", MAP_PRIVATE, libc::EINVAL),
        ("private, sync", MAP_PRIVATE | MAP_SYNC, libc::EINVAL),
        ("private, direct", MAP_PRIVATE | MAP_DIRECT, libc::EINVAL),
        ("shared", MAP_SHARED, 0),
        ("shared, sync", no_validate(MAP_SYNC), libc::EINVAL),
        ("shared, direct", no_validate(MAP_DIRECT), libc::EINVAL),
        (
            "shared, sync, direct",
            no_validate(MAP_SYNC | MAP_DIRECT),
            libc::EINVAL,
        ),
        ("validate", MAP_SHARED_VALIDATE, 0),
        ("validate, sync", SYNC, 0),
        ("validate, direct", MAP_SHARED_VALIDATE | MAP_DIRECT, direct),
        ("validate, sync, direct", SYNC | MAP_DIRECT, direct),
        (
            "validate, unknown",
            MAP_SHARED_VALIDATE | unknown,
            libc::EOPNOTSUPP,
        ),
        ("validate, sync, unknown", SYNC | unknown, libc::EOPNOTSUPP),
        ("shared, unknown", MAP_SHARED | unknown, 0),
        ("shared, populate", MAP_SHARED | libc::MAP_POPULATE, 0),
        ("sync, locked", SYNC | libc::MAP_LOCKED, 0),
    ] {
        for (window, offset) in [("", 0), (" in the direct window", DIRECT_WINDOW)] {
            let got = errno(&Map::new(&f, offset, PAGE, RW, flags));
            check_eq!(got, want, "{what}{window}");
        }
    }
    for (said, flags) in [
        ("mmap refused: private mappings", MAP_PRIVATE),
        (
            "need MAP_SHARED_VALIDATE instead of MAP_SHARED",
            no_validate(MAP_SYNC),
        ),
    ] {
        c.until_said(said, || {
            check_eq!(errno(&Map::new(&f, 0, PAGE, RW, flags)), libc::EINVAL);
            Ok(())
        })?;
    }

    // What the mapping is stands in its flags.
    let sync = Map::new(&f, 0, PAGE, RW, SYNC)?;
    let plain = Map::new(&f, 0, PAGE, RW, MAP_SHARED_VALIDATE)?;
    let of = |m: &Map| tools::smaps_text(c, m.as_ptr() as usize, "VmFlags");
    let (sync, plain) = (of(&sync)?, of(&plain)?);
    let has = |flags: &str, flag: &str| flags.split(' ').any(|f| f == flag);
    // Page frames, unless there are pages for it.
    let frames = h.attr(c, "pinnable")? == 0;
    check!(
        has(&sync, "sf") && has(&sync, "pf") == frames && has(&sync, "dd") == frames,
        "sync: {sync}"
    );
    check!(
        !has(&plain, "sf") && has(&plain, "pf") == frames,
        "plain: {plain}"
    );
    check!(!has(&sync, "mm") && !has(&plain, "mm"), "mixed maps");
    Ok(())
}

/// With strict_validate=1.
fn strict(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    for (what, flags, want) in [
        ("validate", MAP_SHARED_VALIDATE, libc::EINVAL),
        ("validate, sync", SYNC, 0),
        ("shared", MAP_SHARED, 0),
        ("shared, sync", no_validate(MAP_SYNC), libc::EINVAL),
    ] {
        check_eq!(errno(&Map::new(&f, 0, PAGE, RW, flags)), want, "{what}");
    }
    Ok(())
}

fn ranges(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let size = h.attr(c, "size")?;
    let page = PAGE as u64;
    for (offset, len, want) in [
        (0, page, 0),
        (page, page, 0),
        (page, 3 * page, 0),
        (3 * page, HUGE as u64 + 5 * page, 0),
        (size - page, page, 0),
        (0, size, 0),
        (page, size - page, 0),
        // A length is in whole pages.
        (size - page, 1, 0),
        (0, size + page, libc::EINVAL),
        (page, size, libc::EINVAL),
        (size, page, libc::EINVAL),
        (size - page, page + 1, libc::EINVAL),
        (DIRECT_WINDOW - page, page, libc::EINVAL),
        (DIRECT_WINDOW - page, 2 * page, libc::EINVAL),
        (DIRECT_WINDOW, page, 0),
        (DIRECT_WINDOW, size, 0),
        (DIRECT_WINDOW + size - page, page, 0),
        (DIRECT_WINDOW + size - page, 2 * page, libc::EINVAL),
        (DIRECT_WINDOW + size, page, libc::EINVAL),
        (2 * DIRECT_WINDOW, page, libc::EINVAL),
        (DIRECT_WINDOW / 2, page, libc::EINVAL),
        (1, page, libc::EINVAL),
        (512, page, libc::EINVAL),
    ] {
        for flags in [MAP_SHARED, SYNC] {
            let map = Map::new(&f, offset, len as usize, RW, flags);
            check_eq!(errno(&map), want, "{len} bytes at {offset:#x}");
            if let Ok(map) = map {
                // First and last page are what they should be.
                let _ = (map.read8(0), map.read8(len as usize - 1));
            }
        }
    }
    Ok(())
}

/// The disk and all kinds of mappings show the same bytes.
fn bytes(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let dev = disk::direct(&h.space.dev())?;
    let len = 3 * HUGE;
    for (seed, offset) in [(1u64, 0u64), (2, 5 * PAGE as u64), (3, HUGE as u64 + 4096)] {
        disk::fill(&dev, seed, offset, len as u64)?;
        let f = h.open()?;
        for (base, flags) in [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)] {
            let mut map = Map::new(&f, base + offset, len, RW, flags)?;
            let mut want = disk::Buf::page(len);
            dev.read_exact_at(want.bytes_mut(), offset)?;
            check!(map.slice() == want.bytes(), "reading, flags {flags:#x}");

            // And back: a store at each page, in an order that jumps.
            let mut at = 0;
            for i in 0..len / PAGE {
                at = (at + 769) % (len / PAGE);
                map.slice_mut()[at * PAGE + i % PAGE] = i as u8 ^ 0x5a;
                want.bytes_mut()[at * PAGE + i % PAGE] = i as u8 ^ 0x5a;
            }
            map.persist(0, len);
            let mut back = disk::Buf::page(len);
            dev.read_exact_at(back.bytes_mut(), offset)?;
            check!(back.bytes() == want.bytes(), "storing, flags {flags:#x}");
        }
        drop(f);
    }
    Ok(())
}

fn huge(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let huge = HUGE as u64;
    let page = PAGE as u64;
    let map = |offset, len: u64, flags| Map::new(&f, offset, len as usize, RW, flags);
    // How many faults there must be, at most: an entry per huge page, and one per 64 pages at the
    // ends.
    for (offset, len, least, most) in [
        (0, 8 * huge, 8, 8),
        (4 * huge, 8 * huge, 8, 8),
        (page, 8 * huge, 7 + 2, 7 + 16),
        (huge - page, 2 * page, 1, 2),
        (0, huge - page, 8, 9),
    ] {
        for write in [false, true] {
            for base in [0, DIRECT_WINDOW] {
                let m = map(base + offset, len, SYNC)?;
                check_eq!(
                    (m.as_ptr() as u64) % huge,
                    if len >= 2 * huge {
                        offset % huge
                    } else {
                        m.as_ptr() as u64 % huge
                    },
                    "alignment"
                );
                let n = faults_for(&m, write);
                check!(
                    (least..=most).contains(&n),
                    "{len:#x} at {offset:#x}, write {write}: {n} faults"
                );
                check_eq!(faults_for(&m, true), 0, "once more");
            }
        }
    }
    // A plain mapping: fault-around when it reads, and one fault for each page stored to.
    let m = map(0, 2 * huge, MAP_SHARED)?;
    check_eq!(faults_for(&m, false), 2 * 512 / 64, "reading");
    check_eq!(faults_for(&m, true), 2 * 512, "storing");
    drop(m);
    // One that cannot be written is huge.
    let ro = File::open(&h.node)?;
    let m = Map::new(&ro, 0, 2 * HUGE, PROT_READ, MAP_SHARED)?;
    check_eq!(faults_for(&m, false), 2, "read-only");
    // MADV_NOHUGEPAGE is heeded.
    let m = map(0, 2 * huge, SYNC)?;
    m.madvise(libc::MADV_NOHUGEPAGE)?;
    check_eq!(faults_for(&m, true), 2 * 512 / 64, "MADV_NOHUGEPAGE");
    Ok(())
}

/// On a device with room for entries of 1 GiB.
/// Addresses that need five levels of page tables.
fn high(c: &mut Ctx) -> TestResult {
    const HIGH: usize = 1 << 52;
    std::fs::write("/proc/sys/fs/lease-break-time", "0")?;
    let h = Here::new(c)?;
    let f = h.open()?;
    let entry = h.attr(c, "huge_page")? as usize;
    let len = entry + HUGE;
    let cpu = c.read("/proc/cpuinfo")?;
    check!(cpu.contains(" la57"), "four levels of page tables");
    let kinds = [
        ("plain", 0, MAP_SHARED),
        ("sync", 0, SYNC),
        ("direct", DIRECT_WINDOW, SYNC),
    ];
    // Each where no page table is yet: an entry of the first level is 1 << 48 bytes.
    for (n, (kind, offset, flags)) in kinds.into_iter().enumerate() {
        let addr = HIGH + (n << 48);
        let ro = Map::near(addr, &f, offset, len, PROT_READ, flags)?;
        check_eq!(ro.as_ptr() as usize, addr, "{kind}, read-only");
        check_eq!(
            tools::rpmem_prefault(&f, &ro, 0, PAGE as u64, 1),
            (0, libc::EFAULT),
            "{kind}: prefault of stores to a read-only one"
        );
        drop(ro);
        let m = Map::near(addr, &f, offset, len, RW, flags)?;
        check_eq!(m.as_ptr() as usize, addr, "{kind}");
        m.write8(len - 1, 1 + n as u8);
        check_eq!(m.read8(PAGE), m.read8(PAGE), "{kind}");
        let (all, want) = (len as u64, (len as u64, 0));
        check_eq!(tools::rpmem_prefault(&f, &m, 0, all, 0), want, "{kind}");
        let done = tools::rpmem_prefault(&f, &m, entry, HUGE as u64, 1);
        check_eq!(done, (HUGE as u64, 0), "{kind}, write");
        m.msync()?;
        let mut b = disk::Buf::page(PAGE);
        disk::direct(&h.space.dev())?.read_exact_at(b.bytes_mut(), (len - PAGE) as u64)?;
        check_eq!(b.bytes()[PAGE - 1], 1 + n as u8, "{kind}: what was stored");
        // The child has it as well.
        match sys::caught(|| m.read8(len - 1))? {
            Caught::Returned(v) => check_eq!(v, 1 + n as u8, "{kind}: in a child"),
            other => fail!("{kind}, in a child: {other:?}"),
        }
    }
    let mut maps = Vec::new();
    for (n, (_, offset, flags)) in kinds.into_iter().enumerate() {
        let m = Map::near(HIGH + (n << 48), &f, offset, len, RW, flags)?;
        m.write8(0, 1);
        maps.push(m);
    }
    h.space.unbind(c)?;
    for m in &maps {
        check_gone(m, 0)?;
        check_gone(m, len - 1)?;
    }
    drop((maps, f));
    h.space.bind(c)?;
    Ok(())
}

fn gigantic(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    check_eq!(h.attr(c, "huge_page")?, 1 << 30, "huge_page");
    let gib = 1usize << 30;
    let touch = |m: &Map| {
        let before = faults();
        for at in (0..m.len()).step_by(HUGE / 2) {
            m.write8(at, 7);
        }
        faults() - before
    };
    let size = h.attr(c, "size")? as usize;
    let m = Map::new(&f, 0, gib, RW, SYNC)?;
    check_eq!(m.as_ptr() as usize % gib, 0, "alignment");
    check_eq!(touch(&m), 1, "one GiB");
    // A hole in the middle: what is left is mapped again, smaller.
    // SAFETY: a part of our mapping.
    let r = unsafe { libc::munmap(m.as_ptr().add(HUGE).cast(), HUGE) };
    check_eq!(r, 0);
    let before = faults();
    for i in (0..512).filter(|i| *i != 1) {
        m.write8(i * HUGE, 8);
    }
    check_eq!(faults() - before, 511, "after munmap");
    drop(m);
    // Not aligned to 1 GiB: entries of 2 MiB where it cannot be, of 1 GiB where it can.
    let m = Map::new(&f, HUGE as u64, size - HUGE, RW, SYNC)?;
    let head = (gib - HUGE) / HUGE;
    let whole = (size - gib) / gib;
    let tail = (size % gib) / HUGE;
    // Twice in each 2 MiB.
    let small = h.attr(c, "page_backed")? == 0 && tools::without_pages() == PAGE;
    let each = if small { 2 } else { 1 };
    let faults = (head + tail) * each + whole;
    check_eq!(touch(&m) as usize, faults, "from 2 MiB on");
    // What was stored is where it belongs.
    let dev = disk::direct(&h.space.dev())?;
    let mut b = disk::Buf::page(PAGE);
    for at in [0, gib - HUGE, gib] {
        dev.read_exact_at(b.bytes_mut(), (at + HUGE) as u64)?;
        check_eq!(b.bytes()[0], 7, "at {at:#x}");
    }
    Ok(())
}

/// get_user_pages is refused, at once and always.
fn gup(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    let other = tools::anonymous(HUGE)?;
    for (what, base, flags, len) in [
        ("4 KiB entries, plain", 0, MAP_SHARED, HUGE - PAGE),
        ("4 KiB entries, sync", 0, SYNC, HUGE - PAGE),
        ("2 MiB entries", 0, SYNC, HUGE),
        ("2 MiB entries, direct", DIRECT_WINDOW, SYNC, HUGE),
    ] {
        let m = Map::new(&f, base, len, RW, flags)?;
        // Not mapped, then mapped.
        for touched in [false, true] {
            if touched {
                m.write8(0, 1);
                m.write8(PAGE, 1);
            }
            let p = m.as_ptr();
            check_eq!(
                errno(&tools::pread_raw(&dev, p, PAGE, 0)),
                libc::EFAULT,
                "{what}: O_DIRECT read into it"
            );
            check_eq!(
                errno(&tools::pwrite_raw(&dev, p, PAGE, 0)),
                libc::EFAULT,
                "{what}: O_DIRECT write from it"
            );
            let mine = std::process::id() as i32;
            for write in [false, true] {
                check_eq!(
                    errno(&tools::process_vm(mine, p, other.as_ptr(), PAGE, write)),
                    libc::EFAULT,
                    "{what}: process_vm, write {write}"
                );
            }
            check_eq!(
                errno(&tools::vmsplice(p, PAGE)),
                libc::EFAULT,
                "{what}: vmsplice"
            );
            check_eq!(
                errno(&tools::uring_register(p, 2 * PAGE)),
                libc::EFAULT,
                "{what}: io_uring buffers"
            );
            check_eq!(
                errno(&tools::futex_wake_shared(p)),
                libc::EFAULT,
                "{what}: shared futex"
            );
        }
        // As the buffer of a plain read or write it is memory like any other.
        let file = tools::file_of("/tmp/gup", 2 * PAGE)?;
        check_eq!(
            tools::pread_raw(&file, m.as_ptr(), PAGE, 0)?,
            PAGE,
            "{what}: read"
        );
        check_eq!(
            tools::pwrite_raw(&file, m.as_ptr(), PAGE, 0)?,
            PAGE,
            "{what}: write"
        );
    }
    Ok(())
}

/// ptrace and /proc/pid/mem, through vm_ops->access.
fn access(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    disk::fill(&dev, 11, 0, 2 * HUGE as u64)?;
    let mem = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let copies = Probe::own(c, "mapaccess", "__memcpy_flushcache size=%dx:u64")?;
    let flushes = Probe::own(c, "mapflush", "nvdimm_flush")?;
    for (base, flags) in [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)] {
        let m = Map::new(&f, base + PAGE as u64, HUGE, RW, flags)?;
        let at = m.as_ptr() as u64;
        let mut got = vec![0; 10000];
        mem.read_exact_at(&mut got, at + 100)?;
        check!(got == m.slice()[100..10100], "reading");

        copies.restart()?;
        mem.write_all_at(&[0x77; 5000], at + 4000)?;
        check_eq!(
            copies.values(c, "size")?.iter().sum::<u64>(),
            5000,
            "bytes stored past the caches"
        );
        check!(flushes.count(c)? >= 1, "flushes");
        check!(m.slice()[4000..9000].iter().all(|b| *b == 0x77), "stored");
        check!(
            m.slice()[3999] != 0x77 || m.slice()[9000] != 0x77,
            "no more than that"
        );
        drop(m);
        disk::fill(&dev, 11, 0, 2 * HUGE as u64)?;
        // What a program cannot write itself it cannot write by the back door.
        let read_only = File::open(&h.node)?;
        for (f, prot) in [(&read_only, PROT_READ), (&f, PROT_READ), (&f, PROT_NONE)] {
            let m = Map::new(f, base + PAGE as u64, HUGE, prot, flags)?;
            let at = m.as_ptr() as u64;
            check_eq!(
                errno(&mem.write_all_at(&[0x77; 5000], at + 4000)),
                libc::EIO
            );
            mem.read_exact_at(&mut got, at + 100)?;
        }
        disk::verify(&dev, 11, 0, 2 * HUGE as u64)?;
    }
    drop((copies, flushes));
    // By another process.
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
    m.write8(5, 0x42);
    let p = Peer::start(|l| {
        l.say();
        l.hear();
        i32::from(m.read8(6) == 0x43)
    })?;
    p.hear()?;
    let mem = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", p.pid()))?;
    let mut b = [0];
    mem.read_exact_at(&mut b, m.as_ptr() as u64 + 5)?;
    check_eq!(b[0], 0x42);
    mem.write_all_at(&[0x43], m.as_ptr() as u64 + 6)?;
    p.say();
    check_eq!(p.wait()?, 1, "seen by the process");
    Ok(())
}

/// A file system and a mapping never share a namespace.
fn exclusive(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let dev = h.space.dev();
    c.mkfs("ext4", &dev)?;
    let exclusive = || tools::open_flags(&dev, libc::O_EXCL);
    let f = h.open()?;
    let m = Map::new(&f, 0, PAGE, RW, SYNC)?;
    for held in ["file and mapping", "mapping", "another file"] {
        let out = c.fails(&["mount", &dev, "/mnt/pmem"])?;
        check!(out.contains("Can't open blockdev"), "{held}: mount: {out}");
        c.fails(&["mkfs.ext4", "-q", &dev])?;
        check!(exclusive().is_err(), "{held}: O_EXCL");
        // In devdax mode libndctl does not ask: devdax_ndctl.
        if !h.space.nd.starts_with("dax") {
            let ns = h.space.namespace(c)?;
            let out = c.fails(&["ndctl", "disable-namespace", &ns])?;
            check!(out.contains("busy"), "{held}: {ns}: {out}");
        }
        check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"), "{held}");
        // Others can map it, too.
        drop(Map::new(&h.open()?, 0, PAGE, RW, MAP_SHARED)?);
        if held == "file and mapping" {
            // SAFETY: the descriptor is not used any more; the mapping holds the file.
            unsafe { libc::close(f.as_raw_fd()) };
        }
    }
    std::mem::forget(f);
    check_eq!(m.read8(0), m.read8(0));
    drop(m);
    check!(exclusive().is_ok(), "the claim ends with the last mapping");

    c.mount(&dev, "/mnt/pmem", "defaults")?;
    c.mark_dmesg();
    check_eq!(
        errno(&File::open(&h.node)),
        libc::EBUSY,
        "while it is mounted"
    );
    // Not more than so many messages in so many seconds.
    c.wait_for("a message", || {
        File::open(&h.node).is_err() && c.dmesg_has("open refused").is_ok()
    })?;
    c.umount("/mnt/pmem")?;
    let held = exclusive()?;
    check_eq!(errno(&File::open(&h.node)), libc::EBUSY, "while it is held");
    drop(held);
    check!(h.open().is_ok(), "free again");
    Ok(())
}

/// What the calls on mappings do.
fn vma(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    disk::fill(&dev, 21, 0, 4 * HUGE as u64)?;
    for (flags, class) in [(MAP_SHARED, "plain"), (SYNC, "sync")] {
        let m = Map::new(&f, 0, 4 * HUGE, RW, flags)?;
        let p = m.as_ptr();
        faults_for(&m, true);

        // Locking succeeds and means nothing; advice is for page cache.
        // SAFETY: ranges of our mapping.
        unsafe {
            check_eq!(libc::mlock(p.cast(), PAGE), 0, "{class}: mlock");
            check_eq!(libc::munlock(p.cast(), PAGE), 0, "{class}: munlock");
        }
        for (advice, want) in [
            (libc::MADV_NORMAL, 0),
            (libc::MADV_SEQUENTIAL, 0),
            (libc::MADV_DONTFORK, 0),
            (libc::MADV_DOFORK, libc::EINVAL),
            (libc::MADV_DONTNEED, libc::EINVAL),
            (libc::MADV_FREE, libc::EINVAL),
            (libc::MADV_REMOVE, libc::ENODEV),
            (libc::MADV_COLD, libc::EINVAL),
            (libc::MADV_PAGEOUT, libc::EINVAL),
            (libc::MADV_DODUMP, libc::EINVAL),
            (libc::MADV_POPULATE_READ, libc::EINVAL),
            (libc::MADV_POPULATE_WRITE, libc::EINVAL),
        ] {
            let got = errno(&m.madvise(advice));
            check_eq!(got, want, "{class}: madvise {advice}");
        }

        // A protection that is taken back and given again.
        m.write8(9, 0x31);
        // SAFETY: a range of our mapping; nobody has a reference into it.
        unsafe {
            check_eq!(libc::mprotect(p.cast(), HUGE, PROT_READ), 0);
        }
        check_eq!(m.read8(9), 0x31);
        check_sig(&m, 9, libc::SIGSEGV, class)?;
        // SAFETY: as above.
        unsafe {
            check_eq!(libc::mprotect(p.cast(), HUGE, PROT_NONE), 0);
            check_eq!(libc::mprotect(p.cast(), HUGE, RW), 0);
        }
        m.write8(9, 0x32);

        // mremap: it moves and shrinks, it does not grow.
        // SAFETY: the kernel chooses the place, and `m` is given up below.
        unsafe {
            let grown = libc::mremap(p.cast(), 4 * HUGE, 5 * HUGE, libc::MREMAP_MAYMOVE);
            check_eq!(grown, libc::MAP_FAILED, "{class}: growing");
            check_eq!(
                io::Error::last_os_error().raw_os_error(),
                Some(libc::EFAULT)
            );
            let copy = libc::mremap(p.cast(), 0, HUGE, libc::MREMAP_MAYMOVE);
            check_eq!(copy, libc::MAP_FAILED, "{class}: a second one");

            let to = Map::new(&f, 0, 8 * HUGE, PROT_NONE, MAP_SHARED)?;
            let target = to.as_ptr().add(HUGE + PAGE);
            let moved = libc::mremap(
                p.add(HUGE).cast(),
                HUGE,
                HUGE,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                target,
            );
            check_eq!(moved.cast(), target, "{class}: moving");
            for at in [0, PAGE, HUGE - 1] {
                let want = {
                    let mut b = disk::Buf::page(PAGE);
                    dev.read_exact_at(b.bytes_mut(), (HUGE + at / PAGE * PAGE) as u64)?;
                    b.bytes()[at % PAGE]
                };
                check_eq!(target.add(at).read_volatile(), want, "{class}: moved bytes");
            }
            target.add(PAGE).write_volatile(0x66);
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            sys::persist(target.add(PAGE), 1);
            let mut b = disk::Buf::page(PAGE);
            dev.read_exact_at(b.bytes_mut(), (HUGE + PAGE) as u64)?;
            check_eq!(b.bytes()[0], 0x66, "{class}: stored after moving");
            drop(to);

            // Partly unmapped in the middle of a huge page.
            check_eq!(libc::munmap(p.add(2 * HUGE + PAGE).cast(), PAGE), 0);
        }
        check_eq!(m.read8(2 * HUGE), m.read8(2 * HUGE));
        m.write8(2 * HUGE + 2 * PAGE, 0x55);
        check_sig(&m, 2 * HUGE + PAGE, libc::SIGSEGV, class)?;
        check_sig(&m, HUGE, libc::SIGSEGV, class)?;
        drop(m);
        check_eq!(h.mappings(c)?, 0, "{class}: mappings");
    }
    // A core has nothing of it.
    for (base, flags) in [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)] {
        core(c, &f, base, flags)?;
    }
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
    // MAP_FIXED over a part of it, of another place.
    // SAFETY: replaces a part of our mapping.
    let r = unsafe {
        libc::mmap(
            m.as_ptr().add(PAGE).cast(),
            PAGE,
            RW,
            SYNC | MAP_FIXED,
            f.as_raw_fd(),
            HUGE as i64,
        )
    };
    check!(r != libc::MAP_FAILED, "MAP_FIXED");
    let mut b = disk::Buf::page(PAGE);
    dev.read_exact_at(b.bytes_mut(), HUGE as u64)?;
    check_eq!(m.read8(PAGE + 77), b.bytes()[77], "MAP_FIXED");
    Ok(())
}

/// A process that dumps core with a mapping: the core has its memory, but not the medium.
fn core(c: &Ctx, f: &File, base: u64, flags: i32) -> TestResult {
    const FILE: &str = "/tmp/core-of-map";
    c.write("/proc/sys/kernel/core_pattern", FILE)?;
    let mut other = tools::anonymous(PAGE)?;
    let p = Peer::start(|_| {
        let Ok(mut m) = Map::new(f, base, HUGE, RW, flags) else {
            return 1;
        };
        sys::pattern(77, m.slice_mut());
        sys::pattern(78, other.slice_mut());
        // SAFETY: ends this process.
        unsafe {
            let all = libc::rlimit {
                rlim_cur: libc::RLIM_INFINITY,
                rlim_max: libc::RLIM_INFINITY,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &all);
            libc::abort()
        }
    })?;
    check_eq!(p.wait()?, 128 + libc::SIGABRT, "end of the process");
    let core = std::fs::read(FILE)?;
    std::fs::remove_file(FILE)?;
    let has = |seed| {
        let mut bytes = [0; 64];
        sys::pattern(seed, &mut bytes);
        core.windows(64).any(|w| w == bytes)
    };
    check!(has(78), "the core lacks ordinary memory");
    check!(!has(77), "the core has the medium");
    Ok(())
}

/// A store at `at` ends in this signal.
fn check_sig(m: &Map, at: usize, signal: i32, what: &str) -> TestResult {
    match sys::caught(|| {
        m.write8(at, 1);
        0
    })? {
        Caught::Fault(f) => {
            check_eq!(f.signal, signal, "{what}: at {at:#x}");
            check_eq!(f.addr, m.as_ptr() as usize + at, "{what}: address");
        }
        other => fail!("{what}: store at {at:#x}: {other:?}"),
    }
    Ok(())
}

/// Fork, exec, exit, descriptors that are closed or passed on.
fn fork(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    for flags in [MAP_SHARED, SYNC] {
        let f = h.open()?;
        let m = Map::new(&f, 0, 2 * HUGE, RW, flags)?;
        m.write8(0, 1);
        m.write8(HUGE, 1);
        let p = Peer::start(|l| {
            // Both see what the other stores, in pages mapped before and after.
            let inherited = m.read8(0);
            m.write8(1, 2);
            m.write8(HUGE + PAGE, 3);
            l.say();
            l.hear();
            let back = m.read8(2);
            l.say();
            l.hear();
            i32::from(inherited == 1 && back == 4)
        })?;
        p.hear()?;
        check_eq!(h.mappings(c)?, 2, "after fork");
        check_eq!((m.read8(1), m.read8(HUGE + PAGE)), (2, 3));
        m.write8(2, 4);
        // The descriptor goes first, then the parent's mapping; the child's stays.
        drop(f);
        p.say();
        p.hear()?;
        drop(m);
        check_eq!(h.mappings(c)?, 1, "the child's");
        check!(
            tools::open_flags(h.space.dev(), libc::O_EXCL).is_err(),
            "the child holds the claim"
        );
        p.say();
        check_eq!(p.wait()?, 1, "the child's view");
        check_eq!(h.mappings(c)?, 0, "after exit");
        check!(
            tools::open_flags(h.space.dev(), libc::O_EXCL).is_ok(),
            "the claim ends"
        );
    }
    // Killed, with mappings.
    let f = h.open()?;
    let p = Peer::start(|l| {
        let m = Map::sync(&f, 0, HUGE);
        if let Ok(m) = &m {
            m.write8(0, 1);
        }
        l.say();
        l.hear();
        0
    })?;
    p.hear()?;
    check_eq!(h.mappings(c)?, 1);
    drop(p);
    check_eq!(h.mappings(c)?, 0, "after SIGKILL");
    // Another program.
    let p = Peer::start(|l| {
        let _m = Map::sync(&f, 0, HUGE);
        l.say();
        l.hear();
        let program = c"/usr/bin/sleep";
        let arguments = [program.as_ptr(), c"1000".as_ptr(), std::ptr::null()];
        // SAFETY: a list that ends with a null pointer.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) }
    })?;
    p.hear()?;
    check_eq!(h.mappings(c)?, 1);
    p.say();
    c.wait_for("the mapping to end with exec", || {
        h.mappings(c).is_ok_and(|n| n == 0)
    })?;
    drop(p);
    // A descriptor that came from another process.
    let (a, b) = std::os::unix::net::UnixStream::pair()?;
    let p = Peer::start(|l| {
        l.hear();
        let got = tools::receive_fd(&b).and_then(|f| Map::sync(&f, 0, PAGE));
        i32::from(got.is_ok_and(|m| m.read8(3) == 0x29))
    })?;
    let m = Map::sync(&f, 0, PAGE)?;
    m.write8(3, 0x29);
    tools::send_fd(&a, &f)?;
    drop((f, m));
    p.say();
    check_eq!(p.wait()?, 1, "a descriptor that was passed on");
    Ok(())
}

fn msync(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let wb = Probe::own(c, "mapwb", "arch_wb_cache_pmem size=%si:u64")?;
    let flush = Probe::own(c, "mapmsync", "nvdimm_flush")?;
    let restart = || -> TestResult {
        wb.restart()?;
        flush.restart()
    };
    let written = || -> TestResult<u64> { Ok(wb.values(c, "size")?.iter().sum()) };
    // What others have left.
    f.sync_all()?;
    let m = Map::new(&f, 0, 4 * HUGE, RW, MAP_SHARED)?;
    m.msync()?;
    restart()?;
    m.msync()?;
    check_eq!(written()?, 0, "nothing stored");
    check!(flush.count(c)? >= 1, "each msync ends with a flush");

    // Reading is not storing.
    faults_for(&m, false);
    restart()?;
    m.msync()?;
    check_eq!(written()?, 0, "only read");

    for at in [0, 7 * PAGE, 8 * PAGE, HUGE + 3 * PAGE, 4 * HUGE - 1] {
        m.write8(at, at as u8);
    }
    restart()?;
    // Only of the range asked for.
    // SAFETY: a range of our mapping.
    let r = unsafe { libc::msync(m.as_ptr().add(7 * PAGE).cast(), PAGE, libc::MS_SYNC) };
    check_eq!(r, 0);
    check_eq!(written()?, PAGE as u64, "one page of three");
    restart()?;
    m.msync()?;
    check_eq!(written()?, 4 * PAGE as u64, "the others");
    restart()?;
    m.msync()?;
    check_eq!(written()?, 0, "nothing is left");
    // What was written back is seen again when it is stored to again, by whatever mapping.
    m.write8(7 * PAGE, 1);
    let second = Map::new(&h.open()?, PAGE as u64, HUGE, RW, MAP_SHARED)?;
    second.write8(PAGE, 2);
    restart()?;
    f.sync_all()?;
    check_eq!(written()?, 2 * PAGE as u64, "fsync");
    // Also after a change of protection.
    m.write8(7 * PAGE, 1);
    // SAFETY: nobody has a reference into it.
    unsafe {
        check_eq!(libc::mprotect(m.as_ptr().cast(), HUGE, PROT_READ), 0);
        check_eq!(libc::mprotect(m.as_ptr().cast(), HUGE, RW), 0);
    }
    m.write8(7 * PAGE, 2);
    restart()?;
    f.sync_data()?;
    check_eq!(written()?, PAGE as u64, "after mprotect");
    m.write8(7 * PAGE, 3);
    restart()?;
    f.sync_data()?;
    check_eq!(written()?, PAGE as u64, "after mprotect and fsync");
    // And after fork, by the child.
    m.write8(0, 1);
    f.sync_data()?;
    restart()?;
    let p = Peer::start(|_| {
        m.write8(0, 5);
        0
    })?;
    check_eq!(p.wait()?, 0);
    m.msync()?;
    check_eq!(written()?, PAGE as u64, "stored by a child");
    drop((m, second));

    // A sync mapping: its msync writes back what it has touched, as often as it is called.
    let m = Map::new(&f, 0, 4 * HUGE, RW, SYNC)?;
    m.write8(HUGE + 5, 1);
    for _ in 0..2 {
        restart()?;
        m.msync()?;
        check_eq!(written()?, HUGE as u64, "sync mapping");
    }
    let d = Map::new(&f, DIRECT_WINDOW + 2 * HUGE as u64, HUGE, RW, SYNC)?;
    d.write8(0, 1);
    restart()?;
    d.msync()?;
    check_eq!(written()?, HUGE as u64, "direct mapping");
    drop((m, d));
    restart()?;
    f.sync_all()?;
    check_eq!(written()?, 2 * HUGE as u64, "once more when they are gone");
    restart()?;
    f.sync_all()?;
    check_eq!(written()?, 0, "and then no more");
    // What is remembered as a whole is written back as a whole, when a part of it is asked for.
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
    m.write8(HUGE - 1, 1);
    drop(m);
    let m = Map::new(&f, 0, PAGE, RW, MAP_SHARED)?;
    restart()?;
    m.msync()?;
    check_eq!(written()?, HUGE as u64, "a part of 2 MiB");
    Ok(())
}

/// Instructions are not counted here; the work is: bytes written back, and time as a ratio.
fn msync_cost(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let size = h.attr(c, "size")? as usize;
    check!(size >= 1 << 30, "{size:#x} bytes");
    let m = Map::new(&f, 0, 1 << 30, RW, MAP_SHARED)?;
    let time = |store: &dyn Fn()| -> TestResult<u128> {
        store();
        // CLOCK: the least of many is compared with one that is a thousand times as long.
        let start = std::time::Instant::now();
        m.msync()?;
        Ok(start.elapsed().as_nanos())
    };
    m.msync()?;
    let all = time(&|| {
        faults_for(&m, true);
    })?;
    let mut one = u128::MAX;
    for i in 0..20 {
        one = one.min(time(&|| m.write8(i * 5 * HUGE, 1))?);
    }
    println!(
        "msync of 1 GiB takes as long as {} of one page of it",
        all / one
    );
    check!(one * 1000 < all, "one page: {one} ns, all: {all} ns");
    Ok(())
}

fn prefault(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let len = 3 * HUGE;
    for (what, offset, flags, write) in [
        ("sync", 0, SYNC, true),
        ("sync, not aligned", 5 * PAGE as u64, SYNC, true),
        ("sync, read", PAGE as u64, SYNC, false),
        ("plain", 0, MAP_SHARED, true),
        ("direct", DIRECT_WINDOW, SYNC, true),
    ] {
        let m = Map::new(&f, offset, len, RW, flags)?;
        let done = tools::rpmem_prefault(&f, &m, 0, len as u64, u32::from(write));
        check_eq!(done, (len as u64, 0), "{what}");
        check_eq!(faults_for(&m, write), 0, "{what}: faults afterwards");
        // Again is no error.
        let done = tools::rpmem_prefault(&f, &m, 0, len as u64, u32::from(write));
        check_eq!(done, (len as u64, 0), "{what}: again");
    }
    let m = Map::new(&f, 0, len, RW, MAP_SHARED)?;
    check_eq!(
        tools::rpmem_prefault(&f, &m, 0, len as u64, 0),
        (len as u64, 0)
    );
    check_eq!(faults_for(&m, false), 0, "plain, read");
    // Where pages can be pinned, stores are not tracked one by one.
    let tracked = h.attr(c, "pinnable")? == 0;
    check_eq!(
        faults_for(&m, true),
        if tracked { (len / PAGE) as i64 } else { 0 },
        "and then stored to"
    );

    let ro = Map::new(&f, 0, len, PROT_READ, SYNC)?;
    let (page, all) = (PAGE as u64, len as u64);
    for (what, m, offset, len, flags, want) in [
        ("an unknown flag", &m, 0, page, 2, (0, libc::EINVAL)),
        ("half a page", &m, 0, 100, 0, (0, libc::EINVAL)),
        ("no address of a page", &m, 100, page, 0, (0, libc::EINVAL)),
        ("nothing", &m, 0, 0, 0, (0, 0)),
        (
            "stores to a read-only one",
            &ro,
            0,
            page,
            1,
            (0, libc::EFAULT),
        ),
        ("reads of a read-only one", &ro, 0, all, 0, (all, 0)),
    ] {
        check_eq!(
            tools::rpmem_prefault(&f, m, offset, len, flags),
            want,
            "{what}"
        );
    }
    // What cannot be is not begun: large entries are still possible.
    let ro = Map::new(&f, 0, len, PROT_READ, SYNC)?;
    for at in (0..len).step_by(HUGE) {
        let done = tools::rpmem_prefault(&f, &ro, at, page, 1);
        check_eq!(done, (0, libc::EFAULT), "stores at {at:#x}");
    }
    check_eq!(faults_for(&ro, false), (len / HUGE) as i64, "and then read");
    // Over the end of a mapping, and memory of others.
    // SAFETY: a part of our mapping.
    unsafe { libc::munmap(m.as_ptr().add(HUGE).cast(), PAGE) };
    check_eq!(
        tools::rpmem_prefault(&f, &m, 0, len as u64, 0),
        (HUGE as u64, libc::ENOMEM),
        "a hole"
    );
    let other = tools::anonymous(HUGE)?;
    check_eq!(
        tools::rpmem_prefault(&f, &other, 0, page, 0),
        (0, libc::EINVAL),
        "memory of others"
    );
    Ok(())
}

/// Rights are taken away by all means that there are, for the range and for this thread, before and
/// meanwhile: the call comes to an end, with what it says done.
fn prefault_rights(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let (len, all) = (2 * HUGE + 3 * PAGE, (2 * HUGE + 3 * PAGE) as u64);
    for flags in [SYNC, MAP_SHARED] {
        let m = Map::new(&f, 0, len, RW, flags)?;
        let protect = |prot: i32, key: i64| {
            // SAFETY: our mapping, and no reference into it.
            unsafe { libc::syscall(libc::SYS_pkey_mprotect, m.as_ptr(), len, prot, key) }
        };
        let prefault = |write| tools::rpmem_prefault(&f, &m, 0, all, write);
        for (prot, read, write) in [
            (libc::PROT_NONE, (0, libc::EFAULT), (0, libc::EFAULT)),
            (PROT_READ, (all, 0), (0, libc::EFAULT)),
            (PROT_WRITE, (0, libc::EFAULT), (all, 0)),
            (libc::PROT_EXEC, (0, libc::EFAULT), (0, libc::EFAULT)),
            (RW, (all, 0), (all, 0)),
        ] {
            check_eq!(protect(prot, -1), 0);
            check_eq!(
                (prefault(0), prefault(1)),
                (read, write),
                "rights {prot:#x}"
            );
        }
        // Protection keys are for the accesses of a thread, which may get the right at any time.
        for rights in [1, 2] {
            // SAFETY: no pointers.
            let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, rights) };
            if key < 0 {
                println!("no protection keys: {}", io::Error::last_os_error());
                continue;
            }
            let m = Map::new(&f, 0, len, RW, flags)?;
            // SAFETY: as above.
            let r = unsafe { libc::syscall(libc::SYS_pkey_mprotect, m.as_ptr(), len, RW, key) };
            check_eq!(r, 0, "pkey_mprotect");
            for write in [0, 1] {
                let done = tools::rpmem_prefault(&f, &m, 0, all, write);
                check_eq!(done, (all, 0), "rights {rights} of a key, write {write}");
            }
            let denied = sys::caught(|| {
                m.write8(PAGE, 1);
                0
            })?;
            check!(
                matches!(denied, Caught::Fault(f) if f.signal == libc::SIGSEGV),
                "a store: {denied:?}"
            );
            // SAFETY: as above; nothing has the key any more.
            unsafe {
                libc::syscall(libc::SYS_pkey_mprotect, m.as_ptr(), len, RW, 0);
                libc::syscall(libc::SYS_pkey_free, key);
            }
            check_eq!(faults_for(&m, true), 0, "with the right");
        }
    }
    // Somebody takes away at full speed what is made, where that is allowed, and rights.
    let m = Map::new(&f, 0, len, RW, SYNC)?;
    let (start, stop) = (
        m.as_ptr() as usize,
        std::sync::atomic::AtomicBool::new(false),
    );
    std::thread::scope(|s| -> TestResult {
        let other = s.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // SAFETY: our mapping, which outlives the scope, and no reference into it.
                unsafe {
                    let at = start as *mut libc::c_void;
                    libc::madvise(at, len, libc::MADV_DONTNEED);
                    libc::mprotect(at, len, PROT_READ);
                    libc::mprotect(at, len, RW);
                }
            }
        });
        let mut ends = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let (done, err) = tools::rpmem_prefault(&f, &m, 0, all, 1);
            ends.insert(err);
            check!(
                done <= all && (done == all) == (err == 0),
                "{done} bytes, {err}"
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        check!(other.join().is_ok(), "the other thread");
        println!("ends: {ends:?}");
        let known = [0, libc::EFAULT, libc::EAGAIN];
        check!(ends.iter().all(|e| known.contains(e)), "ends: {ends:?}");
        Ok(())
    })
}

/// The crate for applications.
fn application_crate(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let device = rpmem::Device::open(&h.node)?;
    let info = device.info()?;
    check_eq!(info.size, h.attr(c, "size")?);
    let huge = tools::without_pages() as u64;
    check_eq!((info.huge_page, info.synchronous), (huge, true));
    check_eq!((info.page_backed, info.pinnable), (false, false));
    let map = device.map(0, 2 * HUGE)?;
    check_eq!(device.prefault(&map)?, 2 * HUGE);
    map.store(4090, b"over the border");
    map.persist(4090, 15);
    map.store_u64(HUGE, 0x1122_3344_5566_7788);
    map.flush(HUGE, 8);
    let long: Vec<u8> = (0..5 * PAGE).map(|n| (n * 13) as u8).collect();
    map.copy_from_slice(HUGE + PAGE - 3, &long);
    map.drain();
    let direct = device.map_direct(0, 2 * HUGE)?;
    let mut bytes = [0; 15];
    direct.load(4090, &mut bytes);
    check_eq!(&bytes, b"over the border");
    check_eq!(direct.load_u64(HUGE), 0x1122_3344_5566_7788);
    let mut back = vec![0; long.len()];
    direct.load(HUGE + PAGE - 3, &mut back);
    check!(back == long, "a long copy");
    let plain = device.map_plain(0, PAGE)?;
    plain.store(0, &[7]);
    plain.persist(0, 1)?;
    check_eq!(
        errno(&device.map(info.size, PAGE)),
        libc::EINVAL,
        "behind the end"
    );
    let region = c.nd(&h.space.nd).canonicalize()?;
    // Not there if the platform does not say.
    let said = c
        .read(region.join("../persistence_domain"))
        .unwrap_or_default();
    let want = match said.trim() {
        "cpu_cache" => rpmem::Domain::CpuCache,
        "memory_controller" => rpmem::Domain::MemoryController,
        _ => rpmem::Domain::Unknown,
    };
    check_eq!(device.persistence_domain(), want, "{said}");
    println!("result: persistence domain {want:?}");
    drop((map, direct, plain, device));
    // To be read alone, also as far as the kernel is concerned.
    let device = rpmem::Device::open_read_only(&h.node)?;
    let map = device.map_read_only(0, HUGE)?;
    check_eq!(device.prefault(&map)?, HUGE);
    let mut byte = [0];
    map.load(0, &mut byte);
    check_eq!(byte, [7]);
    check_eq!(errno(&device.map(0, PAGE)), libc::EACCES, "for reading");
    drop((map, device));
    // The first page of the medium, on the disk.
    let mut b = disk::Buf::page(PAGE);
    disk::direct(&h.space.dev())?.read_exact_at(b.bytes_mut(), 0)?;
    check_eq!(b.bytes()[0], 7);
    Ok(())
}

/// The header, from C, for 64 and for 32 bits.
fn header(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let out = c.ok(&["rpmem-populate", &h.node])?;
    let lines: Vec<&str> = out.lines().collect();
    check_eq!(lines.len(), 4, "{out}");
    check_eq!(lines[..2], ["0", "0"], "faults after MAP_POPULATE");
    check!(
        lines[2].parse().is_ok_and(|n: u32| n > 2),
        "faults without: {}",
        lines[2]
    );
    check_eq!(lines[3], "Invalid argument", "MAP_PRIVATE");

    let answers = |bits: &str| -> TestResult<Vec<i64>> {
        let out = std::process::Command::new(format!("rpmem-answers{bits}"))
            .arg(&h.node)
            .output()?;
        check!(out.status.success(), "answers{bits}: {:?}", out.status);
        let words = out.stdout.chunks_exact(8);
        Ok(words
            .map(|w| i64::from_ne_bytes(w.try_into().expect("8 bytes")))
            .collect())
    };
    let (long, short) = (answers("64")?, answers("32")?);
    check_eq!(short, long, "32-bit callers");
    // And they are what they should be.
    let info = tools::rpmem_info(&h.open()?, 32)?;
    let size = info.size as i64;
    check_eq!(
        long[..8],
        [
            0,
            0,
            32,
            i64::from(info.flags),
            size,
            info.huge_page as i64,
            0,
            -22
        ]
    );
    check_eq!(long[8..10], [-14, -25], "no argument, unknown");
    check_eq!(long[10..15], [-22, -22, -95, -22, 0], "mmap");
    let len = 4 << 20;
    check_eq!(long[15..19], [0, len, 0, 4096], "prefault");
    check_eq!(
        long[19..27],
        [-22, -1, -22, -1, -22, -1, -22, -1],
        "bad arguments"
    );
    check_eq!(long[27..31], [-12, 4096, 0, 0], "a hole; msync, fsync");
    let direct = -i64::from(native(c)?);
    check_eq!(long[31..35], [-22, -22, direct, direct], "MAP_DIRECT");
    let done = if direct == 0 { [0, 4096] } else { [-22, -1] };
    check_eq!(long[35..37], done, "prefault of such a mapping");
    check_eq!(long[37..], [-22], "MAP_DIRECT behind the end");
    Ok(())
}

/// A debugger.
fn ptrace(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
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
        check_eq!(
            libc::ptrace(libc::PTRACE_PEEKDATA, p.pid(), at + 16, 0) & 0xff,
            0x21
        );
        check_eq!(
            libc::ptrace(libc::PTRACE_POKEDATA, p.pid(), at + 24, 0x65),
            0
        );
        check_eq!(libc::ptrace(libc::PTRACE_DETACH, p.pid(), 0, 0), 0);
    }
    p.say();
    check_eq!(p.wait()?, 1, "what was poked");
    Ok(())
}

/// One bad page in a range of 1 GiB: what is left is mapped as large as it can be.
fn poison_gigantic(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let gib = 1usize << 30;
    let bad = 7 * HUGE + 3 * PAGE;
    let phys = h.resource(c)?;
    let m = Map::new(&f, 0, 2 * gib, RW, SYNC)?;
    m.write8(bad, 1);
    tools::inject_mce(c, phys + bad as u64)?;
    c.wait_for("the bad sector", || {
        c.disk_attr(&h.space.disk, "badblocks")
            .is_ok_and(|s| !s.is_empty())
    })?;
    tools::wait_poisoned(c, &m, bad)?;
    // Twice in each huge page, so that each size has its own number of faults.
    let before = faults();
    for at in (0..2 * gib).step_by(HUGE / 2) {
        m.write8(at, 1);
    }
    // 511 huge pages, two pages of the huge page with the bad one, and the second GiB as one entry;
    // and the program's own. With huge pages for the second GiB, or pages for the first: 1024 more
    // or so.
    let n = faults() - before;
    check!((514..530).contains(&n), "{n} faults");
    for at in (7 * HUGE..8 * HUGE).step_by(PAGE).filter(|at| *at != bad) {
        m.write8(at, 1);
    }
    Ok(())
}

/// mm/pfnmap of the kernel's own selftests.
fn kselftest(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let r = c.run(&["kselftest-pfnmap", "--", &h.node])?;
    for l in r.out.lines().chain(r.err.lines()) {
        println!("{l}");
    }
    check_eq!(r.status, 0, "status");
    let want = "# Totals: pass:6 fail:0 xfail:0 xpass:0 skip:0 error:0";
    check!(r.out.lines().any(|l| l == want), "no line {want}");
    Ok(())
}

/// A region that is read-only.
fn read_only(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    check_eq!(
        errno(
            &h.open()
                .map_err(|_| io::Error::from_raw_os_error(libc::EROFS))
        ),
        libc::EROFS
    );
    check_eq!(
        errno(&File::options().read(true).write(true).open(&h.node)),
        libc::EROFS,
        "open for writing"
    );
    check!(
        tools::open_flags(h.space.dev(), libc::O_EXCL).is_ok() || {
            let f = File::open(h.space.dev())?;
            disk::size(&f)? > 0
        },
        "a refused open leaves no claim"
    );
    let f = File::open(&h.node)?;
    for flags in [MAP_SHARED, SYNC] {
        check_eq!(
            errno(&Map::new(&f, 0, PAGE, RW, flags)),
            libc::EACCES,
            "PROT_WRITE"
        );
        let m = Map::new(&f, 0, 2 * HUGE, PROT_READ, flags)?;
        check_eq!(faults_for(&m, false), tools::faults_without_pages(2));
        // SAFETY: our mapping.
        let r = unsafe { libc::mprotect(m.as_ptr().cast(), PAGE, RW) };
        check_eq!(
            (r, io::Error::last_os_error().raw_os_error()),
            (-1, Some(libc::EACCES))
        );
        check_sig(&m, 5, libc::SIGSEGV, "read-only")?;
    }
    Ok(())
}

fn unbind(c: &mut Ctx) -> TestResult {
    // Nobody gives the lease of direct mappings back: see t_lease.
    std::fs::write("/proc/sys/fs/lease-break-time", "0")?;
    let h = Here::new(c)?;
    for _ in 0..3 {
        let f = h.open()?;
        let plain = Map::new(&f, 0, 2 * HUGE, RW, MAP_SHARED)?;
        let sync = Map::new(&f, 0, 2 * HUGE, RW, SYNC)?;
        let direct = Map::new(&f, DIRECT_WINDOW, 2 * HUGE, RW, SYNC)?;
        for m in [&plain, &sync, &direct] {
            m.write8(0, 1);
            m.write8(HUGE, 1);
        }
        h.space.unbind(c)?;
        c.wait_gone(&h.node)?;
        for m in [&plain, &sync, &direct] {
            for at in [0, PAGE, HUGE, 2 * HUGE - 1] {
                check_gone(m, at)?;
            }
            check_eq!(errno(&m.msync()), libc::EIO, "msync");
        }
        check_eq!(errno(&Map::new(&f, 0, PAGE, RW, SYNC)), libc::ENXIO, "mmap");
        check_eq!(errno(&f.sync_all()), libc::EIO, "fsync");
        let mem = File::open("/proc/self/mem")?;
        check_eq!(
            errno(&mem.read_at(&mut [0], plain.as_ptr() as u64)),
            libc::EIO,
            "mem"
        );
        check_eq!(
            tools::rpmem_prefault(&f, &sync, 0, PAGE as u64, 1),
            (0, libc::EFAULT),
            "prefault"
        );

        // The namespace is free for others, and for us again; what is left stays dead.
        h.space.bind(c)?;
        let again = Here::new(c)?;
        check_eq!(again.mappings(c)?, 0);
        let g = again.open()?;
        let fresh = Map::new(&g, 0, 2 * HUGE, RW, SYNC)?;
        fresh.write8(0, 9);
        for m in [&plain, &sync, &direct] {
            check_gone(m, 0)?;
        }
        drop((plain, sync, direct, f));
        check_eq!(fresh.read8(0), 9);
        // The module stays as long as any of it lives.
        drop(fresh);
        drop(g);
    }
    let f = h.open()?;
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with an open file");
    let m = Map::new(&f, 0, PAGE, RW, SYNC)?;
    drop(f);
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with a mapping");
    h.space.unbind(c)?;
    check!(c.try_rmmod("rpmem").is_err(), "rmmod with a dead mapping");
    drop(m);
    c.rmmod("rpmem")?;
    c.insmod_rpmem("")?;
    Here::new(c)?.open()?;
    Ok(())
}

/// Many mappings in many processes, that fault all the time.
fn unbind_many(c: &mut Ctx) -> TestResult {
    const PROCESSES: usize = 8;
    const EACH: usize = 125;
    let h = Here::new(c)?;
    let size = h.attr(c, "size")?;
    std::fs::write("/proc/sys/fs/lease-break-time", "0")?;
    for round in 0..c.rounds(4, 200) as usize {
        let f = h.open()?;
        let mut peers = Vec::new();
        for n in 0..PROCESSES {
            let seed = (round * PROCESSES + n) as u64;
            peers.push(Peer::start(|l| {
                let mut x = seed | (1 << 40);
                let mut random = || {
                    x ^= x << 13;
                    x ^= x >> 7;
                    x ^= x << 17;
                    x
                };
                let mut maps = Vec::new();
                for _ in 0..EACH {
                    let pages = 1 + random() % 1500;
                    let at = random() % (size / 4096 - pages) * 4096;
                    let (base, flags) =
                        [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)][random() as usize % 3];
                    match Map::new(&f, base + at, (pages * 4096) as usize, RW, flags) {
                        Ok(m) => maps.push(m),
                        Err(_) => return 1,
                    }
                }
                l.say();
                loop {
                    let m = &maps[random() as usize % EACH];
                    let at = random() as usize % m.len();
                    if random() % 4 == 0 {
                        m.write8(at, 1);
                    } else {
                        m.read8(at);
                    }
                    if random() % 256 == 0 && m.msync().is_err() {
                        // The device has gone; what was mapped goes at any moment.
                        loop {
                            m.read8(at);
                        }
                    }
                }
            })?);
        }
        for p in &peers {
            p.hear()?;
        }
        check_eq!(h.mappings(c)?, (PROCESSES * EACH) as u64, "mappings");
        h.space.unbind(c)?;
        for p in peers {
            check_eq!(p.wait()?, GOT_SIGBUS, "round {round}: end of a process");
        }
        drop(f);
        h.space.bind(c)?;
        c.wait_exists(&h.node)?;
    }
    Ok(())
}

/// A machine check in the medium, which the kernel is told of (mce-inject): the bus learns of bad
/// sectors.
fn poison(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let bad = HUGE + 5 * PAGE;
    let phys = h.resource(c)?;
    let maps: Vec<Map> = [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)]
        .into_iter()
        .map(|(base, flags)| Map::new(&f, base, 4 * HUGE, RW, flags))
        .collect::<io::Result<_>>()?;
    for m in &maps {
        faults_for(m, true);
    }
    tools::inject_mce(c, phys + bad as u64)?;
    c.wait_for("the bad sector", || {
        c.disk_attr(&h.space.disk, "badblocks")
            .is_ok_and(|s| !s.is_empty())
    })?;
    for m in &maps {
        tools::wait_poisoned(c, m, bad + 77)?;
        check_sig(m, bad, libc::SIGBUS, "a store")?;
        // The neighbours are there, as small pages; the others as they were.
        for at in (HUGE..2 * HUGE).step_by(PAGE).filter(|at| *at != bad) {
            m.write8(at, 1);
        }
    }
    // A new mapping: huge where there is no poison.
    let m = Map::new(&f, 0, 4 * HUGE, RW, SYNC)?;
    let before = faults();
    for at in (0..4 * HUGE).step_by(PAGE).filter(|at| *at != bad) {
        m.write8(at, 1);
    }
    let n = faults() - before;
    let others = tools::faults_without_pages(3);
    check!((others + 8..=others + 8 + 64).contains(&n), "{n} faults");
    let done = tools::rpmem_prefault(&f, &m, 0, 4 * HUGE as u64, 1);
    check_eq!(done, (bad as u64, libc::EHWPOISON), "prefault");
    let mem = File::open("/proc/self/mem")?;
    let at = m.as_ptr() as u64 + bad as u64;
    check_eq!(errno(&mem.read_at(&mut [0], at)), libc::EIO, "mem");
    Ok(())
}

/// memory_failure() on a page-less pfn reaches those who have mapped it.
fn memory_failure(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let phys = h.resource(c)?;
    let page = 3 * HUGE + 9 * PAGE;
    for (base, flags) in [(0, MAP_SHARED), (0, SYNC), (DIRECT_WINDOW, SYNC)] {
        // One that has the page, and one that has others.
        let with = Map::new(&f, base + HUGE as u64, 4 * HUGE, RW, flags)?;
        let without = Map::new(&f, base, HUGE, RW, flags)?;
        let at = page - HUGE;
        let child = |m: &Map, at: usize| -> TestResult<Caught> {
            Ok(sys::caught(|| {
                m.write8(at, 1);
                let told = std::fs::write(
                    "/sys/devices/system/memory/hard_offline_page",
                    format!("{:#x}", phys + page as u64),
                );
                u8::from(told.is_ok())
            })?)
        };
        match child(&with, at)? {
            Caught::Fault(got) => check_eq!(
                (got.signal, got.addr, got.addr_lsb),
                (libc::SIGBUS, with.as_ptr() as usize + at, 12),
                "who has mapped it"
            ),
            other => fail!("who has mapped it: {other:?}"),
        }
        drop(with);
        check!(
            matches!(child(&without, 0)?, Caught::Returned(_)),
            "who has mapped other pages"
        );
    }
    Ok(())
}

/// What a valid MAP_DIRECT ends in: on kernels with the patches of qemu/kernels, which are all but
/// Debian's own, no error. Neither the driver nor mmap(2) is asked, they are under test.
pub fn native(c: &Ctx) -> TestResult<i32> {
    let ours = c.read("/proc/sys/kernel/osrelease")?.contains("-rpmem-");
    check_eq!(ours, c.flavour != "stock", "a kernel of this name");
    Ok(if ours { 0 } else { libc::EOPNOTSUPP })
}

/// File offset and flags of the mapping of this process that starts at `addr`.
fn mapped_at(c: &Ctx, addr: usize) -> TestResult<(u64, String)> {
    let maps = c.read("/proc/self/maps")?;
    let line = maps
        .lines()
        .find(|l| l.starts_with(&format!("{addr:x}-")))
        .ok_or_else(|| format!("no mapping starts at {addr:#x}:\n{maps}"))?;
    let offset = line.split_whitespace().nth(2).unwrap_or_default();
    let offset = u64::from_str_radix(offset, 16).map_err(|_| format!("maps: {line}"))?;
    Ok((offset, tools::smaps_text(c, addr, "VmFlags")?))
}

/// MAP_DIRECT as a flag of mmap(2), on kernels that know it and on those that do not.
fn direct_flag(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let f = h.open()?;
    let want = native(c)?;
    let size = h.attr(c, "size")?;
    let validated = MAP_SHARED_VALIDATE | MAP_DIRECT;
    let page = PAGE as u64;
    for (what, flags) in [("direct", validated), ("direct, sync", SYNC | MAP_DIRECT)] {
        for (offset, len, want) in [
            (0, page, want),
            (5 * page, HUGE as u64, want),
            (size - page, page, want),
            (DIRECT_WINDOW, page, want),
            (DIRECT_WINDOW + 5 * page, HUGE as u64, want),
            (size, page, libc::EINVAL),
            (size - page, 2 * page, libc::EINVAL),
            (DIRECT_WINDOW - page, page, libc::EINVAL),
            (DIRECT_WINDOW - page, 2 * page, libc::EINVAL),
            (DIRECT_WINDOW + size, page, libc::EINVAL),
            (2 * DIRECT_WINDOW, page, libc::EINVAL),
        ] {
            let got = errno(&Map::new(&f, offset, len as usize, RW, flags));
            check_eq!(got, want, "{what}: {len:#x} bytes at {offset:#x}");
        }
    }
    // Where it is not validated it is not ignored, and it allows nothing.
    for kind in [MAP_SHARED, MAP_PRIVATE] {
        for offset in [0, DIRECT_WINDOW] {
            let got = errno(&Map::new(&f, offset, PAGE, RW, kind | MAP_DIRECT));
            check_eq!(got, libc::EINVAL, "type {kind} at {offset:#x}");
        }
    }
    let read_only = File::open(&h.node)?;
    let got = errno(&Map::new(&read_only, 0, PAGE, RW, validated));
    let denied = if want == 0 { libc::EACCES } else { want };
    check_eq!(got, denied, "a file that is open for reading");
    // Files that do not know it.
    let other = tools::file_of("/tmp/direct", 2 * PAGE)?;
    check_refused(&other, "tmpfs")?;
    check_refused(
        &File::options().read(true).write(true).open("/dev/zero")?,
        "zero",
    )?;
    let disk = tools::open_flags(h.space.dev(), 0)?;
    check_refused(&disk, "the disk")?;
    if want != 0 {
        return Ok(());
    }

    // It is the direct window that is mapped, and stores reach the medium.
    let medium = disk::direct(&h.space.dev())?;
    disk::fill(&medium, 17, 0, 4 * HUGE as u64)?;
    for (n, flags) in [validated, SYNC | MAP_DIRECT].into_iter().enumerate() {
        for base in [0, DIRECT_WINDOW] {
            let offset = HUGE as u64 + 3 * page;
            let m = Map::new(&f, base + offset, 2 * HUGE, RW, flags)?;
            let (at, vm) = mapped_at(c, m.as_ptr() as usize)?;
            check_eq!(at, DIRECT_WINDOW + offset, "offset in /proc/self/maps");
            let has = |flag: &str| vm.split(' ').any(|x| x == flag);
            check!(has("di") && has("pf"), "VmFlags: {vm}");
            check_eq!(has("sf"), flags & MAP_SYNC != 0, "VmFlags: {vm}");
            let mut b = disk::Buf::page(PAGE);
            for i in [0, 100, HUGE / PAGE, 2 * HUGE / PAGE - 1] {
                m.write8(i * PAGE + 9, 0xd0 + n as u8);
                m.persist(i * PAGE, PAGE);
                medium.read_exact_at(b.bytes_mut(), offset + (i * PAGE) as u64)?;
                check!(b.bytes() == &m.slice()[i * PAGE..][..PAGE], "page {i}");
                check_eq!(b.bytes()[9], 0xd0 + n as u8, "page {i}");
            }
        }
    }
    let sync = Map::new(&f, 0, PAGE, RW, SYNC)?;
    let window = Map::new(&f, DIRECT_WINDOW, PAGE, RW, SYNC)?;
    for m in [&sync, &window] {
        let (_, vm) = mapped_at(c, m.as_ptr() as usize)?;
        check!(!vm.split(' ').any(|x| x == "di"), "without it: {vm}");
    }
    drop((sync, window));
    direct_stays(c, &h, &f)
}

/// The flag is the mapping's for life, and no merge takes it away or gives it.
fn direct_stays(c: &Ctx, h: &Here, f: &File) -> TestResult {
    let direct = |addr: usize| -> TestResult<(u64, bool)> {
        let (offset, vm) = mapped_at(c, addr)?;
        Ok((offset, vm.split(' ').any(|x| x == "di")))
    };
    let at = |page: usize| DIRECT_WINDOW + (page * PAGE) as u64;
    let m = Map::new(f, 0, 16 * PAGE, RW, SYNC | MAP_DIRECT)?;
    let p = m.as_ptr() as usize;
    let part = |from: usize| (p + from * PAGE) as *mut libc::c_void;
    // SAFETY: parts of a mapping of ours to which there are no references.
    unsafe {
        check_eq!(libc::mprotect(part(4), 4 * PAGE, PROT_READ), 0, "mprotect");
        check_eq!(libc::mlock(part(8), 4 * PAGE), 0, "mlock");
    }
    check_eq!(direct(p)?, (at(0), true), "in front of mprotect");
    check_eq!(direct(p + 4 * PAGE)?, (at(4), true), "mprotect");
    check_eq!(direct(p + 8 * PAGE)?, (at(8), true), "behind it");
    // SAFETY: as above.
    let (moved, r) = unsafe {
        let r = libc::mprotect(part(4), 4 * PAGE, RW);
        let to = libc::mremap(part(12), 4 * PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE);
        check!(to == part(12), "mremap that shrinks");
        let free = tools::anonymous(2 * PAGE)?;
        let to = free.as_ptr();
        std::mem::forget(free);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        (libc::mremap(part(12), 2 * PAGE, 2 * PAGE, flags, to), r)
    };
    check!(
        moved != libc::MAP_FAILED,
        "mremap: {}",
        io::Error::last_os_error()
    );
    check_eq!(r, 0, "mprotect back");
    check_eq!(direct(moved as usize)?, (at(12), true), "mremap");
    let child = Peer::start(|_| i32::from(direct(p).is_ok_and(|d| d == (at(0), true))))?;
    check_eq!(child.wait()?, 1, "fork");
    // SAFETY: mapped by mremap, not used any more.
    unsafe { libc::munmap(moved, 2 * PAGE) };
    drop(m);

    // Neighbours in address and offset, one with the flag and one without.
    let room = Map::new(f, 0, 4 * PAGE, RW, SYNC)?;
    let place = |page: usize, offset: u64, flags: i32| -> TestResult {
        // SAFETY: replaces a page of a mapping of ours.
        let p = unsafe {
            let p = room.as_ptr().add(page * PAGE).cast();
            let flags = flags | MAP_FIXED;
            libc::mmap(p, PAGE, RW, flags, f.as_raw_fd(), offset as libc::off_t)
        };
        check!(p != libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Ok(())
    };
    place(0, at(0), SYNC)?;
    place(1, PAGE as u64, SYNC | MAP_DIRECT)?;
    place(2, at(2), SYNC | MAP_DIRECT)?;
    place(3, at(3), SYNC)?;
    for (page, flag) in [false, true, true, false].into_iter().enumerate() {
        let got = direct(room.as_ptr() as usize + page * PAGE)?;
        check_eq!(got, (at(page), flag), "neighbour {page}");
    }
    drop(room);
    check_eq!(h.mappings(c)?, 0, "mappings that are left");
    Ok(())
}

/// rpmem_mmap() and the crate say how a mapping became direct; neither gives the window of a device
/// to another file.
fn direct_header(c: &mut Ctx) -> TestResult {
    let h = Here::new(c)?;
    let (flag, none) = (1, 0);
    let window = 2;
    let best = if native(c)? == 0 { flag } else { window };
    let size = h.attr(c, "size")?;
    let validated = MAP_SHARED_VALIDATE | MAP_DIRECT;
    std::fs::write("/tmp/file", [0; 2 * PAGE])?;
    let unsupported = (none, libc::EOPNOTSUPP);
    let invalid = (none, libc::EINVAL);
    let unknown = 0x80_0000;
    for (file, flags, offset, want) in [
        (&*h.node, MAP_SHARED, 0, (none, 0)),
        (&*h.node, SYNC, 0, (none, 0)),
        (&*h.node, SYNC, DIRECT_WINDOW, (window, 0)),
        (&*h.node, MAP_SHARED, DIRECT_WINDOW, (window, 0)),
        (&*h.node, validated, 0, (best, 0)),
        (&*h.node, validated | MAP_SYNC, PAGE as u64, (best, 0)),
        (&*h.node, validated | libc::MAP_POPULATE, 0, (best, 0)),
        (&*h.node, validated, DIRECT_WINDOW, (best, 0)),
        (&*h.node, validated, size, invalid),
        (&*h.node, validated, DIRECT_WINDOW + size, invalid),
        (&*h.node, validated, 1, invalid),
        (&*h.node, validated | unknown, 0, unsupported),
        (&*h.node, MAP_SHARED | MAP_DIRECT, 0, invalid),
        (&*h.node, MAP_PRIVATE | MAP_DIRECT, 0, invalid),
        ("/tmp/file", MAP_SHARED, 0, (none, 0)),
        ("/tmp/file", MAP_SHARED, DIRECT_WINDOW, (none, 0)),
        ("/tmp/file", validated, 0, unsupported),
        ("/tmp/file", validated, DIRECT_WINDOW, unsupported),
        ("/tmp/file", MAP_SHARED | MAP_DIRECT, 0, invalid),
    ] {
        let (flags, offset) = (format!("{flags:#x}"), format!("{offset:#x}"));
        let out = c.ok(&["rpmem-populate", file, &flags, &offset])?;
        let what = format!("{file}: {flags} at {offset}");
        check_eq!(out.trim(), format!("{} {}", want.0, want.1), "{what}");
    }

    let device = rpmem::Device::open(&h.node)?;
    let best = if best == flag {
        rpmem::Via::Flag
    } else {
        rpmem::Via::Window
    };
    let map = device.map(0, PAGE)?;
    check_eq!(mapped_at(c, map.as_ptr() as usize)?.0, 0);
    // Its type would not say that it is direct.
    let got = errno(&device.map(DIRECT_WINDOW, PAGE));
    check_eq!(got, libc::EINVAL, "in the window");
    for offset in [0, DIRECT_WINDOW] {
        let m = device.map_direct(offset, PAGE)?;
        check_eq!(m.via(), best, "{offset:#x}");
        let (at, _) = mapped_at(c, m.as_ptr() as usize)?;
        check_eq!(at, DIRECT_WINDOW, "{offset:#x}");
    }
    for offset in [size, DIRECT_WINDOW + size, 1, u64::MAX] {
        let got = errno(&device.map_direct(offset, PAGE));
        check_eq!(got, libc::EINVAL, "{offset:#x}");
    }
    let file = rpmem::Device::open("/tmp/file")?;
    for offset in [0, DIRECT_WINDOW] {
        let got = errno(&file.map_direct(offset, PAGE));
        check_eq!(got, libc::EOPNOTSUPP, "a file, {offset:#x}");
    }
    Ok(())
}
