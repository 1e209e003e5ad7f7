// SPDX-License-Identifier: GPL-2.0
//! The node, and what a request for a mapping is answered: flags, ranges, MAP_DIRECT.

use super::native;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{check_refused, Node, DIRECT_WINDOW, MAP_DIRECT};
use crate::support::peer::Peer;
use crate::support::ring::Ring;
use crate::support::sys::{self, Map, MAP_SHARED_VALIDATE, MAP_SYNC, PAGE, RW, SYNC};
use crate::support::tools::{self, errno, HUGE};
use crate::support::uapi;
use crate::{check, check_eq};
use libc::{MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PROT_READ};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};

pub const TESTS: &[Test] = crate::tests! {
    map_node => node,
    map_flags => flags,
    map_strict => strict,
    map_ranges => ranges,
    map_crate => application_crate,
    map_kselftest => kselftest,
    map_header => header,
    map_direct_flag => direct_flag,
    map_direct_header => direct_header,
};

fn no_validate(flag: i32) -> i32 {
    MAP_SHARED | flag
}

fn node(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let m = std::fs::metadata(&h.path)?;
    check!(
        m.file_type().is_char_device(),
        "{}: no character device",
        h.path
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
    let info = uapi::rpmem_info(&f, 32)?;
    check_eq!(info.argsz, 32);
    check_eq!(info.size, h.attr(c, "size")?, "info.size");
    check_eq!(info.huge_page, huge as u64, "info.huge_page");
    check_eq!(info.flags, 1 | if pages { 2 } else { 0 }, "info.flags");
    check_eq!(errno(&uapi::rpmem_info(&f, 31)), libc::EINVAL, "argsz 31");
    check_eq!(uapi::rpmem_info(&f, 4096)?.argsz, 32, "a newer caller");
    check_eq!(
        errno(&uapi::ioctl_raw(&f, 0xbdff, std::ptr::null_mut::<u8>())),
        libc::ENOTTY,
        "an unknown ioctl"
    );
    check_eq!(
        errno(&uapi::ioctl_raw(&f, 0xbd00, std::ptr::null_mut::<u8>())),
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
    let h = Node::new(c)?;
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
    let h = Node::new(c)?;
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
    let h = Node::new(c)?;
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

/// The crate for applications.
fn application_crate(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let device = rpmem::Device::open(&h.path)?;
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
    let device = rpmem::Device::open_read_only(&h.path)?;
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
    let h = Node::new(c)?;
    let out = c.ok(&["rpmem-populate", &h.path])?;
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
            .arg(&h.path)
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
    let info = uapi::rpmem_info(&h.open()?, 32)?;
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

/// mm/pfnmap of the kernel's own selftests.
fn kselftest(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let r = c.run(&["kselftest-pfnmap", "--", &h.path])?;
    for l in r.out.lines().chain(r.err.lines()) {
        println!("{l}");
    }
    check_eq!(r.status, 0, "status");
    let want = "# Totals: pass:6 fail:0 xfail:0 xpass:0 skip:0 error:0";
    check!(r.out.lines().any(|l| l == want), "no line {want}");
    Ok(())
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
    let h = Node::new(c)?;
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
    let read_only = File::open(&h.path)?;
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
fn direct_stays(c: &Ctx, h: &Node, f: &File) -> TestResult {
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
    let h = Node::new(c)?;
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
        (&*h.path, MAP_SHARED, 0, (none, 0)),
        (&*h.path, SYNC, 0, (none, 0)),
        (&*h.path, SYNC, DIRECT_WINDOW, (window, 0)),
        (&*h.path, MAP_SHARED, DIRECT_WINDOW, (window, 0)),
        (&*h.path, validated, 0, (best, 0)),
        (&*h.path, validated | MAP_SYNC, PAGE as u64, (best, 0)),
        (&*h.path, validated | libc::MAP_POPULATE, 0, (best, 0)),
        (&*h.path, validated, DIRECT_WINDOW, (best, 0)),
        (&*h.path, validated, size, invalid),
        (&*h.path, validated, DIRECT_WINDOW + size, invalid),
        (&*h.path, validated, 1, invalid),
        (&*h.path, validated | unknown, 0, unsupported),
        (&*h.path, MAP_SHARED | MAP_DIRECT, 0, invalid),
        (&*h.path, MAP_PRIVATE | MAP_DIRECT, 0, invalid),
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

    let device = rpmem::Device::open(&h.path)?;
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
