// SPDX-License-Identifier: GPL-2.0
//! What accesses to a mapping do: loads, stores, faults, and what the kernel does for others.

use super::check_sig;
use crate::support::arch::{MEMCPY_FLUSHCACHE, RETURNS_42, SYNCS_INSTRUCTIONS};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::{check_debugged, check_gone, faults, faults_for, Node, DIRECT_WINDOW};
use crate::support::peer::Peer;
use crate::support::sys::{self, Caught, Map, PAGE, RW, SYNC};
use crate::support::tools::{self, errno, HUGE};
use crate::support::trace::Probe;
use crate::support::uapi;
use crate::{check, check_eq, fail};
use libc::{MAP_FIXED, MAP_SHARED, PROT_EXEC, PROT_NONE, PROT_READ};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    map_bytes => bytes,
    map_huge => huge,
    map_high => high,
    map_gigantic => gigantic,
    map_gup => gup,
    map_access => access,
    map_exec => exec,
    map_exclusive => exclusive,
    map_vma => vma,
    map_fork => fork,
    map_ptrace => ptrace,
};

/// The disk and all kinds of mappings show the same bytes.
fn bytes(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
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
    let h = Node::new(c)?;
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
    // A plain mapping: huge when it reads; what stores do is `tracking.rs`.
    let m = map(0, 2 * huge, MAP_SHARED)?;
    check_eq!(faults_for(&m, false), 2, "reading");
    drop(m);
    // One that cannot be written is huge.
    let ro = File::open(&h.path)?;
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
    let h = Node::new(c)?;
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
            uapi::rpmem_prefault(&f, &ro, 0, PAGE as u64, 1),
            (0, libc::EFAULT),
            "{kind}: prefault of stores to a read-only one"
        );
        drop(ro);
        let m = Map::near(addr, &f, offset, len, RW, flags)?;
        check_eq!(m.as_ptr() as usize, addr, "{kind}");
        m.write8(len - 1, 1 + n as u8);
        check_eq!(m.read8(PAGE), m.read8(PAGE), "{kind}");
        let (all, want) = (len as u64, (len as u64, 0));
        check_eq!(uapi::rpmem_prefault(&f, &m, 0, all, 0), want, "{kind}");
        let done = uapi::rpmem_prefault(&f, &m, entry, HUGE as u64, 1);
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
    let h = Node::new(c)?;
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
    let h = Node::new(c)?;
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

/// Instructions that were written to the disk run from a mapping; where CPUs fetch them by another
/// cache than they store by, the driver sees to it, for entries of all sizes.
fn exec(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    let mut code = disk::Buf::page(PAGE);
    code.bytes_mut()[..RETURNS_42.len()].copy_from_slice(&RETURNS_42);
    dev.write_all_at(code.bytes(), HUGE as u64)?;
    let synced = SYNCS_INSTRUCTIONS
        .map(|function| Probe::own(c, "mapexec", function))
        .transpose()?;
    let rx = PROT_READ | PROT_EXEC;
    for (what, len) in [("a page", PAGE), ("all of an entry", HUGE)] {
        let m = Map::new(&f, HUGE as u64, len, rx, SYNC)?;
        // SAFETY: what is there is such a function.
        let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(m.as_ptr()) };
        check_eq!(function(), 42, "{what}");
        if let Some(synced) = &synced {
            check!(
                synced.count(c)? >= 1,
                "{what}: instructions were not synced"
            );
            synced.restart()?;
        }
        drop(m);
        let m = Map::new(&f, HUGE as u64, len, PROT_READ, SYNC)?;
        check_eq!(m.slice()[0], RETURNS_42[0]);
        if let Some(synced) = &synced {
            check_eq!(synced.count(c)?, 0, "{what} without instructions");
        }
    }
    Ok(())
}

/// ptrace and /proc/pid/mem, through vm_ops->access.
fn access(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    let f = h.open()?;
    let dev = disk::direct(&h.space.dev())?;
    disk::fill(&dev, 11, 0, 2 * HUGE as u64)?;
    let mem = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    let copies = Probe::own(
        c,
        "mapaccess",
        &format!("{MEMCPY_FLUSHCACHE} size=$arg3:u64"),
    )?;
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
        let read_only = File::open(&h.path)?;
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
    let h = Node::new(c)?;
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
        errno(&File::open(&h.path)),
        libc::EBUSY,
        "while it is mounted"
    );
    // Not more than so many messages in so many seconds.
    c.wait_for("a message", || {
        File::open(&h.path).is_err() && c.dmesg_has("open refused").is_ok()
    })?;
    c.umount("/mnt/pmem")?;
    let held = exclusive()?;
    check_eq!(errno(&File::open(&h.path)), libc::EBUSY, "while it is held");
    drop(held);
    check!(h.open().is_ok(), "free again");
    Ok(())
}

/// What the calls on mappings do.
fn vma(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
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

/// Fork, exec, exit, descriptors that are closed or passed on.
fn fork(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
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

/// A debugger.
fn ptrace(c: &mut Ctx) -> TestResult {
    let f = Node::new(c)?.open()?;
    check_debugged(&Map::new(&f, 0, HUGE, RW, SYNC)?)
}
