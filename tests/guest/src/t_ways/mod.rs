// SPDX-License-Identifier: GPL-2.0
//! Ways of storing, and what acknowledges them as durable: each with each, in boots with `durable`.
//! Documentation/durability.md has what came of it.
//!
//! Each combination has lines of its own, which begin and end in the middle of a page. If there are
//! several CPUs one of them stores, and another one acknowledges.

pub mod block;
pub mod down;

use crate::support::arch::WRITES_BACK;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::durable::{self, Medium};
use crate::support::node::{Node, DIRECT_WINDOW};
use crate::support::peer::Peer;
use crate::support::ring::Ring;
use crate::support::sys::{self, Map, RW, SYNC};
use crate::support::tools::{self, Space, PAGE};
use crate::support::uapi;
use crate::{check, check_eq, fail};
use libc::{MAP_SHARED, PROT_READ};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

pub const TESTS: &[Test] = crate::tests! {
    durable_create => create,
    durable_node => node,
    durable_left => left,
    durable_disk => block,
    durable_dax => device_dax,
    durable_ext4 => |c| file_system(c, "ext4"),
    durable_xfs => |c| file_system(c, "xfs"),
};

/// What one combination has of the medium.
const ROOM: usize = 16 * PAGE;
/// What of it is stored to: parts of two pages, and one in between.
const AT: usize = PAGE - 512;
const LEN: usize = PAGE + 1024;

fn on_first_cpu() {
    tools::pin_to(0);
}

fn on_last_cpu() {
    tools::pin_to(std::thread::available_parallelism().map_or(0, |n| n.get() - 1));
}

fn bytes(n: usize) -> Vec<u8> {
    let mut b = vec![0; LEN];
    sys::pattern(n as u64 + 1, &mut b);
    b
}

// Mappings.

/// A mapping of the device, and what is to be stored there.
struct Mapped<'a> {
    c: &'a Ctx,
    file: &'a File,
    /// Of this combination in the file, without the offset of a window.
    offset: u64,
    flags: i32,
    /// Of mappings that need no system call, where there can be some.
    synchronous: i32,
    map: Map,
    bytes: Vec<u8>,
}

impl Mapped<'_> {
    fn at(&self) -> *mut u8 {
        self.map.as_ptr().wrapping_add(AT)
    }

    fn store(&mut self) {
        self.map.slice_mut()[AT..AT + LEN].copy_from_slice(&self.bytes);
    }

    /// The same bytes in a file.
    fn source(&self) -> TestResult<File> {
        let f = tools::file_of("/tmp/source", LEN)?;
        f.write_all_at(&self.bytes, 0)?;
        Ok(f)
    }
}

/// Which mappings it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    All,
    /// Those that can be pinned.
    Pinnable,
    /// Those of /dev/rpmemN.
    Node,
}

type Store = (&'static str, For, fn(&mut Mapped) -> TestResult);

const STORES: &[Store] = &[
    ("store", For::All, |m| {
        m.store();
        Ok(())
    }),
    ("store after a load", For::All, |m| {
        for at in (0..ROOM).step_by(PAGE) {
            m.map.read8(at);
        }
        m.store();
        Ok(())
    }),
    ("store, again after an msync", For::All, |m| {
        m.store();
        m.map.msync()?;
        m.store();
        Ok(())
    }),
    ("store by a child", For::All, |m| {
        child(|| {
            m.store();
            true
        })
    }),
    ("store after fork, by the parent", For::All, |m| {
        m.store();
        let p = Peer::start(|l| {
            l.say();
            l.hear();
            0
        })?;
        p.hear()?;
        m.store();
        p.say();
        check_eq!(p.wait()?, 0);
        Ok(())
    }),
    (
        "store by another process, mapping of its own",
        For::All,
        |m| {
            child(|| {
                let Ok(mut own) = Map::new(m.file, m.offset, ROOM, RW, m.flags) else {
                    return false;
                };
                own.slice_mut()[AT..AT + LEN].copy_from_slice(&m.bytes);
                true
            })
        },
    ),
    ("store by another process, direct window", For::Node, |m| {
        child(|| {
            let Ok(mut own) = Map::new(m.file, DIRECT_WINDOW + m.offset, ROOM, RW, m.synchronous)
            else {
                return false;
            };
            own.slice_mut()[AT..AT + LEN].copy_from_slice(&m.bytes);
            own.persist(AT, LEN);
            true
        })
    }),
    ("store, mremap", For::All, |m| {
        m.store();
        let new = tools::anonymous(ROOM)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both mappings are this test's own, and end as one of the new place.
        let p = unsafe { libc::mremap(m.map.as_ptr().cast(), ROOM, ROOM, flags, new.as_ptr()) };
        check!(p != libc::MAP_FAILED, "{}", io::Error::last_os_error());
        std::mem::forget(std::mem::replace(&mut m.map, new));
        Ok(())
    }),
    ("store, mprotect", For::All, |m| {
        m.store();
        // SAFETY: a mapping of this test's own.
        let r = unsafe { libc::mprotect(m.map.as_ptr().cast(), ROOM, PROT_READ) };
        check_eq!(r, 0, "mprotect");
        Ok(())
    }),
    ("read(2) into it", For::All, |m| {
        let n = tools::pread_raw(&m.source()?, m.at(), LEN, 0)?;
        check_eq!(n, LEN);
        Ok(())
    }),
    ("/proc/self/mem", For::All, |m| {
        let mem = tools::open_rw("/proc/self/mem")?;
        mem.write_all_at(&m.bytes, m.at() as u64)?;
        Ok(())
    }),
    ("ptrace(2)", For::All, |m| {
        let p = Peer::start(|l| {
            l.hear();
            0
        })?;
        poke(p.pid(), m.at(), &m.bytes)?;
        p.say();
        check_eq!(p.wait()?, 0);
        Ok(())
    }),
    ("RPMEM_PREFAULT, store", For::Node, |m| {
        const WRITE: u32 = 1;
        let done = uapi::rpmem_prefault(m.file, &m.map, 0, ROOM as u64, WRITE);
        check_eq!(done, (ROOM as u64, 0), "RPMEM_PREFAULT");
        m.store();
        Ok(())
    }),
    ("process_vm_writev(2)", For::Pinnable, |m| {
        let own = std::process::id() as i32;
        let from = m.bytes.as_mut_ptr();
        let n = tools::process_vm(own, m.map.as_ptr().wrapping_add(AT), from, LEN, true)?;
        check_eq!(n, LEN);
        Ok(())
    }),
    ("O_DIRECT read(2) into it", For::Pinnable, |m| {
        let f = ram(m.c, &m.bytes)?;
        let n = tools::pread_raw(&f, m.at(), LEN, 0)?;
        check_eq!(n, LEN);
        Ok(())
    }),
    ("fixed buffer of io_uring(7)", For::Pinnable, |m| {
        let f = ram(m.c, &m.bytes)?;
        let ring = Ring::new().map_err(|e| format!("io_uring: {e}"))?;
        check_eq!(ring.register(m.map.as_ptr(), ROOM), 0, "register");
        const READ_FIXED: u64 = 4;
        let head = READ_FIXED | ((f.as_raw_fd() as u64) << 32);
        let n = ring.run([head, 0, m.at() as u64, LEN as u64, 0, 0, 0, 0]);
        check_eq!(n, LEN as i64, "READ_FIXED");
        Ok(())
    }),
];

type Acknowledge = (&'static str, fn(&Mapped) -> io::Result<()>);

/// For mappings of every kind.
const ACKNOWLEDGE: &[Acknowledge] = &[
    ("msync(2)", |m| m.map.msync()),
    ("msync(2) of its pages", |m| {
        // SAFETY: a part of a mapping of this test's own.
        match unsafe { libc::msync(m.map.as_ptr().cast(), 3 * PAGE, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }),
    ("fsync(2)", |m| m.file.sync_all()),
    ("fdatasync(2)", |m| m.file.sync_data()),
];

/// For synchronous ones.
const FLUSH: Acknowledge = (WRITES_BACK, |m| {
    // A CPU faults pages in that it is to write back. QEMU does not.
    for at in (AT..AT + LEN).step_by(PAGE).chain([AT + LEN - 1]) {
        m.map.read8(at);
    }
    m.map.persist(AT, LEN);
    Ok(())
});

/// For what the kernel itself stores on behalf of others.
const RETURN: Acknowledge = ("its return", |_| Ok(()));
const BY_KERNEL: [&str; 2] = ["/proc/self/mem", "ptrace(2)"];

/// A process that does so and says whether it worked.
fn child(f: impl FnOnce() -> bool) -> TestResult {
    let p = Peer::start(|_| i32::from(!f()))?;
    check_eq!(p.wait()?, 0, "the other process");
    Ok(())
}

/// A disk of ordinary memory that begins with these bytes, for O_DIRECT.
fn ram(c: &Ctx, bytes: &[u8]) -> TestResult<File> {
    c.ok(&["modprobe", "brd", "rd_nr=1", "rd_size=1024"])?;
    c.wait_exists("/dev/ram0")?;
    tools::open_rw("/dev/ram0")?.write_all_at(bytes, 0)?;
    tools::open_rw("/dev/ram0")?.sync_all()?;
    tools::open_flags("/dev/ram0", libc::O_DIRECT)
}

fn poke(pid: i32, at: *mut u8, bytes: &[u8]) -> TestResult {
    // SAFETY: the child is ours, and stopped before it is looked into.
    unsafe {
        check_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0), 0);
        check_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0), 0);
        let mut status = 0;
        check_eq!(libc::waitpid(pid, &mut status, libc::__WALL), pid);
        for (n, word) in bytes.chunks(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().map_err(|_| "not a word")?);
            let r = libc::ptrace(libc::PTRACE_POKEDATA, pid, at as usize + 8 * n, word);
            check_eq!(r, 0, "PTRACE_POKEDATA");
        }
        check_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0), 0);
    }
    Ok(())
}

/// Kinds of mappings: the name, the window, flags.
type Kind = (&'static str, u64, i32);

/// All ways of one device. A `peer` of another driver may refuse some; what is then not durable is shown.
fn mappings(
    c: &Ctx,
    file: &File,
    medium: &Medium,
    place: &str,
    kinds: &[Kind],
    includes: &dyn Fn(For) -> bool,
    peer: bool,
) -> TestResult {
    let mut offset = 0;
    for (kind, window, flags) in kinds {
        for (store, of, make) in STORES {
            if !includes(*of) {
                continue;
            }
            let flush = (*flags == SYNC).then_some(FLUSH);
            // Where there are pages the kernel stores to them, as a program would.
            let own = BY_KERNEL.contains(store) && !includes(For::Pinnable);
            let own = own.then_some(RETURN);
            for (by, acknowledge) in ACKNOWLEDGE.iter().copied().chain(flush).chain(own) {
                let mut m = Mapped {
                    c,
                    file,
                    offset,
                    flags: *flags,
                    synchronous: medium.synchronous(),
                    map: Map::new(file, window + offset, ROOM, RW, *flags)?,
                    bytes: bytes(offset as usize),
                };
                on_first_cpu();
                let made = make(&mut m);
                on_last_cpu();
                let text = format!("{store}; {by}; {place}, {kind} mapping");
                offset += ROOM as u64;
                match made {
                    Err(e) if peer => {
                        println!("{text}: {e:?}");
                        continue;
                    }
                    result => result?,
                }
                let refused = acknowledge(&m);
                let at = medium.start + offset - ROOM as u64 + AT as u64;
                match refused {
                    Err(e) if peer => {
                        println!("{text}: {e}");
                        durable::count(
                            &format!("{store}; (refused) {by}; {place}, {kind} mapping"),
                            at,
                            LEN as u64,
                        );
                    }
                    result => {
                        result.map_err(|e| format!("{text}: {e}"))?;
                        durable::claim_fenced(&text, at, LEN as u64);
                    }
                }
                check!(m.map.slice()[AT..AT + LEN] == m.bytes[..], "{text}: bytes");
            }
        }
    }
    Ok(())
}

/// Mode of a namespace, for the table.
fn mode(c: &Ctx, space: &Space) -> TestResult<&'static str> {
    if tools::is_of_host(space)? {
        return Ok("virtio-pmem");
    }
    Ok(match space.nd.split_at(3).0 {
        "dax" => "devdax",
        _ if tools::has_pages(c, space)? => "fsdax",
        _ => "raw",
    })
}

/// A namespace in devdax mode, beside those of the tests of file systems.
fn create(c: &mut Ctx) -> TestResult {
    // device-dax has no mapping of less than the alignment.
    let align = if c.driver == "nd_pmem" { "4K" } else { "2M" };
    c.create_namespace(&["-m", "devdax", "-s", "128M", "-a", align])?;
    Ok(())
}

fn node(c: &mut Ctx) -> TestResult {
    for n in 0..tools::spaces(c)?.len() {
        let h = Node::nth(c, n)?;
        let file = h.open()?;
        let pinnable = h.attr(c, "pinnable")? == 1;
        let medium = Medium::of(c, &h.space)?;
        let mut kinds = vec![
            ("plain", 0, MAP_SHARED),
            ("direct", DIRECT_WINDOW, medium.synchronous()),
        ];
        if !medium.of_host {
            kinds.push(("synchronous", 0, SYNC));
        }
        let place = format!("/dev/rpmemN, {}", mode(c, &h.space)?);
        let includes = |of| of != For::Pinnable || pinnable;
        mappings(c, &file, &medium, &place, &kinds, &includes, false)?;
    }
    Ok(())
}

/// A mapping and its file, if they are still there.
type Open = Option<(Map, File)>;

/// What comes after a store, and whether that is then durable.
type After = (
    &'static str,
    bool,
    fn(&Ctx, &Node, Open) -> TestResult<Open>,
);

const AFTERS: &[After] = &[
    ("munmap(2), the last close(2)", true, |_, _, _| Ok(None)),
    ("the last close(2), rmmod", true, |c, _, open| {
        drop(open);
        c.rmmod("rpmem")?;
        Ok(None)
    }),
    ("unbind", true, |c, h, open| {
        h.space.unbind(c)?;
        Ok(open)
    }),
    ("the region is disabled", true, |c, _, open| {
        for region in c.regions() {
            c.unbind("nd_region", &region)?;
        }
        Ok(open)
    }),
    ("the region is read-only", true, |c, _, open| {
        for region in c.regions() {
            c.write(c.nd(&region).join("read_only"), "1")?;
        }
        Ok(open)
    }),
    ("the disk is read-only", true, |_, h, open| {
        let disk = disk::open(&h.space.dev())?;
        disk::ioctl(&disk, disk::BLKROSET, &mut 1i32)?;
        Ok(open)
    }),
    ("(nothing) sync(2)", false, |_, _, open| {
        // SAFETY: no arguments.
        unsafe { libc::sync() };
        Ok(open)
    }),
    ("(nothing) fsync(2) of the disk", false, |_, h, open| {
        disk::open(&h.space.dev())?.sync_all()?;
        Ok(open)
    }),
];

/// Whatever has been done there, it is as before.
fn up_again(c: &Ctx, space: &Space) -> TestResult {
    if !std::path::Path::new("/sys/module/rpmem").exists() {
        c.insmod_rpmem("")?;
    }
    for region in c.regions() {
        if c.bound_to(&region).is_none() {
            c.bind("nd_region", &region)?;
        }
        c.write(c.nd(&region).join("read_only"), "0")?;
    }
    if c.bound_to(&space.nd).is_none() {
        space.bind(c)?;
    }
    c.wait_exists(space.dev())?;
    disk::ioctl(&disk::open(&space.dev())?, disk::BLKROSET, &mut 0i32)?;
    Ok(())
}

/// What mappings have stored and nobody has asked for: durable on a clean way down; how much of it is in
/// the caches otherwise is shown.
fn left(c: &mut Ctx) -> TestResult {
    let mut offset = 0;
    for (kind, flags) in [("plain", MAP_SHARED), ("synchronous", SYNC)] {
        for (by, is_durable, after) in AFTERS {
            let h = Node::new(c)?;
            let medium = Medium::of(c, &h.space)?;
            let place = format!("/dev/rpmemN, {}, {kind} mapping", mode(c, &h.space)?);
            let text = format!("store, nothing asked for; {by}; {place}");
            let file = h.open()?;
            let mut map = Map::new(&file, offset, ROOM, RW, flags)?;
            map.slice_mut()[AT..AT + LEN].copy_from_slice(&bytes(offset as usize));
            let open = after(c, &h, Some((map, file))).map_err(|e| format!("{text}: {e:?}"))?;
            let at = medium.start + offset + AT as u64;
            if *is_durable {
                durable::claim_fenced(&text, at, LEN as u64);
            } else {
                durable::count(&text, at, LEN as u64);
            }
            drop(open);
            up_again(c, &h.space)?;
            offset += ROOM as u64;
        }
    }
    Ok(())
}

/// The ways of device-dax, which refuses msync(2) and fsync(2).
fn device_dax(c: &mut Ctx) -> TestResult {
    let names = tools::names("/sys/bus/dax/devices");
    let [name] = names.as_slice() else {
        fail!("one device expected, there are {names:?}");
    };
    let file = tools::open_rw(format!("/dev/{name}"))?;
    let start = c.read_u64(format!("/sys/bus/dax/devices/{name}/resource"))?;
    let kinds = [("shared", 0, MAP_SHARED), ("synchronous", 0, SYNC)];
    let includes = |of| of != For::Node;
    let of_host = false;
    let medium = Medium { start, of_host };
    mappings(c, &file, &medium, "/dev/daxX.Y", &kinds, &includes, true)
}

// Disks.

/// A disk, and the bytes that a combination writes to it at some offset.
struct Written<'a> {
    c: &'a Ctx,
    path: &'a str,
    offset: u64,
    len: usize,
    bytes: Buf,
}

impl Written<'_> {
    fn open(&self, flags: i32) -> TestResult<File> {
        disk::open_flags(self.path, flags)
    }

    fn write(&self, f: &File) -> TestResult {
        Ok(f.write_all_at(&self.bytes.bytes()[..self.len], self.offset)?)
    }

    /// pwritev2(2) with a flag for this write alone.
    fn write_with(&self, f: &File, flags: i32) -> TestResult {
        let io = libc::iovec {
            iov_base: self.bytes.bytes().as_ptr().cast_mut().cast(),
            iov_len: self.len,
        };
        // SAFETY: a buffer of that length.
        let n = unsafe { libc::pwritev2(f.as_raw_fd(), &io, 1, self.offset as i64, flags) };
        check_eq!(n, self.len as isize, "{}", io::Error::last_os_error());
        Ok(())
    }
}

/// A store and the acknowledgement of it.
type Way = (&'static str, &'static str, fn(&Written) -> TestResult);

/// Written through one file and acknowledged by another one, as by another CPU.
macro_rules! then {
    ($flags:expr, $w:ident, |$f:ident| $sync:expr) => {
        |$w| {
            let f = $w.open($flags)?;
            $w.write(&f)?;
            on_last_cpu();
            let $f = f;
            let _: () = $sync;
            Ok(())
        }
    };
}

const DIRECT: i32 = libc::O_DIRECT;

const FILE_WAYS: &[Way] = &[
    ("write(2)", "fsync(2)", then!(0, w, |f| f.sync_all()?)),
    ("write(2)", "fdatasync(2)", then!(0, w, |f| f.sync_data()?)),
    (
        "write(2)",
        "fsync(2) of another file",
        then!(0, w, |_f| w.open(0)?.sync_all()?),
    ),
    ("write(2)", "O_SYNC", then!(libc::O_SYNC, w, |_f| ())),
    ("write(2)", "O_DSYNC", then!(libc::O_DSYNC, w, |_f| ())),
    ("write(2)", "RWF_DSYNC", |w| {
        w.write_with(&w.open(0)?, libc::RWF_DSYNC)
    }),
    (
        "O_DIRECT write(2)",
        "fsync(2)",
        then!(DIRECT, w, |f| f.sync_all()?),
    ),
    (
        "O_DIRECT write(2)",
        "fdatasync(2)",
        then!(DIRECT, w, |f| f.sync_data()?),
    ),
    (
        "O_DIRECT write(2)",
        "O_SYNC",
        then!(DIRECT | libc::O_SYNC, w, |_f| ()),
    ),
    (
        "O_DIRECT write(2)",
        "O_DSYNC",
        then!(DIRECT | libc::O_DSYNC, w, |_f| ()),
    ),
    ("O_DIRECT write(2)", "RWF_DSYNC", |w| {
        w.write_with(&w.open(DIRECT)?, libc::RWF_DSYNC)
    }),
    (
        "O_DIRECT write(2)",
        "fdatasync(2) by another process",
        |w| {
            w.write(&w.open(DIRECT)?)?;
            on_last_cpu();
            child(|| w.open(0).is_ok_and(|f| f.sync_data().is_ok()))
        },
    ),
    ("io_uring(7) write", "RWF_DSYNC", |w| {
        let f = w.open(DIRECT)?;
        let ring = Ring::new().map_err(|e| format!("io_uring: {e}"))?;
        const WRITE: u64 = 23;
        let head = WRITE | ((f.as_raw_fd() as u64) << 32);
        let len = w.len as u64 | ((libc::RWF_DSYNC as u64) << 32);
        let from = w.bytes.bytes().as_ptr() as u64;
        let n = ring.run([head, w.offset, from, len, 0, 0, 0, 0]);
        check_eq!(n, w.len as i64, "io_uring");
        Ok(())
    }),
    ("io_uring(7) write", "FSYNC of it", |w| {
        let f = w.open(DIRECT)?;
        w.write(&f)?;
        on_last_cpu();
        let ring = Ring::new().map_err(|e| format!("io_uring: {e}"))?;
        const FSYNC: u64 = 3;
        let n = ring.run([FSYNC | ((f.as_raw_fd() as u64) << 32), 0, 0, 0, 0, 0, 0, 0]);
        check_eq!(n, 0, "io_uring");
        Ok(())
    }),
];

const DISK_WAYS: &[Way] = &[
    (
        "O_DIRECT write(2) of one sector at a time",
        "O_DSYNC",
        |w| {
            let f = w.open(DIRECT | libc::O_DSYNC)?;
            for at in (0..w.len).step_by(512) {
                f.write_all_at(&w.bytes.bytes()[at..at + 512], w.offset + at as u64)?;
            }
            Ok(())
        },
    ),
    ("BLKZEROOUT", "fsync(2)", |w| {
        let f = w.open(0)?;
        disk::ioctl(&f, disk::BLKZEROOUT, &mut [w.offset, w.len as u64])?;
        on_last_cpu();
        Ok(f.sync_all()?)
    }),
    ("store to a mapping of the disk", "msync(2)", |w| {
        let f = w.open(0)?;
        let page = w.offset / PAGE as u64 * PAGE as u64;
        let mut m = Map::shared(&f, page, ROOM)?;
        let at = (w.offset - page) as usize;
        m.slice_mut()[at..at + w.len].copy_from_slice(&w.bytes.bytes()[..w.len]);
        on_last_cpu();
        Ok(m.msync()?)
    }),
    ("write(2)", "sync(2)", |w| {
        w.write(&w.open(0)?)?;
        on_last_cpu();
        // SAFETY: no arguments.
        unsafe { libc::sync() };
        Ok(())
    }),
];

/// Those of a disk, in whole sectors.
fn block(c: &mut Ctx) -> TestResult {
    for space in tools::spaces(c)? {
        let medium = Medium::of(c, &space)?;
        let place = format!("/dev/pmemN, {}", mode(c, &space)?);
        let path = space.dev();
        let sector = disk::attr_u64(c, &space.disk, "queue/logical_block_size")? as usize;
        let mut room = disk::attr_u64(c, &space.disk, "size")? * 256 / ROOM as u64 * ROOM as u64;
        for (store, by, way) in FILE_WAYS.iter().chain(DISK_WAYS) {
            let offset = room + (PAGE as u64).next_multiple_of(sector as u64) - sector as u64;
            let w = Written {
                c,
                path: &path,
                offset,
                len: 2 * sector + PAGE,
                bytes: Buf::pattern(ROOM, room),
            };
            on_first_cpu();
            let text = format!("{store}; {by}; {place}");
            way(&w).map_err(|e| format!("{text}: {e:?}"))?;
            // Which writes what is dirty, and flushes no disk.
            if medium.of_host && *by == "sync(2)" {
                let text = format!("{store}; (nothing) {by}; {place}");
                durable::count(&text, medium.start + offset, w.len as u64);
            } else {
                medium.acknowledged(&text, offset, w.len);
            }
            room += ROOM as u64;
        }
    }
    Ok(())
}

// Files.

const MNT: &str = "/mnt/durable";

/// Of files that are there, and mapped.
const MAPPED_WAYS: &[Way] = &[
    ("store to a MAP_SYNC mapping", WRITES_BACK, |w| {
        let m = file_map(w, SYNC)?;
        on_last_cpu();
        m.persist(w.offset as usize, w.len);
        Ok(())
    }),
    ("store to a MAP_SYNC mapping", "msync(2)", |w| {
        let m = file_map(w, SYNC)?;
        on_last_cpu();
        Ok(m.msync()?)
    }),
    ("store to a MAP_SHARED mapping", "msync(2)", |w| {
        let m = file_map(w, MAP_SHARED)?;
        on_last_cpu();
        Ok(m.msync()?)
    }),
    ("store to a MAP_SHARED mapping", "fsync(2)", |w| {
        let _m = file_map(w, MAP_SHARED)?;
        on_last_cpu();
        Ok(w.open(0)?.sync_all()?)
    }),
    (
        "store to a MAP_SHARED mapping, munmap",
        "fdatasync(2)",
        |w| {
            drop(file_map(w, MAP_SHARED)?);
            on_last_cpu();
            Ok(w.open(0)?.sync_data()?)
        },
    ),
    ("store to a MAP_SHARED mapping", "syncfs(2)", |w| {
        let _m = file_map(w, MAP_SHARED)?;
        on_last_cpu();
        // SAFETY: an open file.
        check_eq!(unsafe { libc::syncfs(w.open(0)?.as_raw_fd()) }, 0, "syncfs");
        Ok(())
    }),
    (
        "store to a MAP_SHARED mapping by a child",
        "fsync(2)",
        |w| {
            child(|| file_map(w, MAP_SHARED).is_ok())?;
            on_last_cpu();
            Ok(w.open(0)?.sync_all()?)
        },
    ),
    ("store to a copy that shares extents", "fsync(2)", |w| {
        let copy = format!("{}.copy", w.path);
        let how = "--reflink=auto";
        w.c.ok(&["cp", how, w.path, &copy])?;
        std::fs::rename(copy, w.path)?;
        let _m = file_map(w, MAP_SHARED)?;
        on_last_cpu();
        Ok(w.open(0)?.sync_all()?)
    }),
    ("fallocate(2), zeroing in place", "fsync(2)", |w| {
        let f = w.open(0)?;
        let both = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        // Less than a page of it: blocks are not replaced by unwritten ones.
        let (at, len) = (w.offset as i64, (w.len / 2) as i64);
        // SAFETY: an open file.
        let r = unsafe { libc::fallocate(f.as_raw_fd(), both, at, len) };
        check_eq!(r, 0, "{}", io::Error::last_os_error());
        w.write(&f)?;
        on_last_cpu();
        Ok(f.sync_all()?)
    }),
];

/// Maps the file and stores to it.
fn file_map(w: &Written, flags: i32) -> TestResult<Map> {
    let f = w.open(0)?;
    check!(tools::is_dax(&f)?, "{}: no DAX", w.path);
    let mut m = Map::new(&f, 0, ROOM, RW, flags)?;
    let at = w.offset as usize;
    m.slice_mut()[at..at + w.len].copy_from_slice(&w.bytes.bytes()[..w.len]);
    Ok(m)
}

/// Files of a file system with DAX: new ones, and such as were written before.
fn file_system(c: &mut Ctx, fs: &str) -> TestResult {
    let space = tools::dax_space(c, &[])?;
    let medium = Medium::of(c, &space)?;
    tools::mkfs_dax(c, fs, &space.dev())?;
    c.mount(&space.dev(), MNT, "dax=always")?;
    let on = if medium.of_host {
        " on virtio-pmem"
    } else {
        ""
    };
    let ways = FILE_WAYS.iter().chain(MAPPED_WAYS);
    for (n, (store, by, way)) in ways.enumerate() {
        if medium.of_host && store.contains("MAP_SYNC") {
            continue;
        }
        for new in [true, false] {
            let path = format!("{MNT}/{n}-{new}");
            let f = File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            match new {
                true => f.set_len(ROOM as u64)?,
                false => f.write_all_at(Buf::pattern(ROOM, 7).bytes(), 0)?,
            }
            f.sync_all()?;
            let w = Written {
                c,
                path: &path,
                offset: PAGE as u64,
                len: 2 * PAGE,
                bytes: Buf::pattern(ROOM, n as u64),
            };
            on_first_cpu();
            let kind = if new { "new blocks" } else { "old blocks" };
            let text = format!("{store}; {by}; {fs}{on}, {kind}");
            way(&w).map_err(|e| format!("{text}: {e:?}"))?;
            // Asking for the blocks may write, but not to these lines.
            for page in 0..w.len / PAGE {
                let file = disk::open(&path)?;
                let phys = medium.start + disk::block_of(&file, w.offset + (page * PAGE) as u64)?;
                durable::claim(&text, phys, PAGE as u64);
            }
        }
    }
    c.umount(MNT)?;
    let size = disk::size(&disk::open(&space.dev())?)?;
    durable::claim_rest(
        &format!("all that {fs} has; umount; {fs}{on}"),
        medium.start,
        size,
    );
    Ok(())
}
