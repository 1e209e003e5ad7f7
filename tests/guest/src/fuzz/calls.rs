// SPDX-License-Identifier: GPL-2.0
//! What the fuzzer knows: nodes, system calls, ioctls, and what an administrator does. A new node
//! is a line of `NODES` (with a class of ioctls of its own, if it has them, in `IOCTLS`).
//!
//! Left out on purpose, as they are no interface of a node and end every program: FIFREEZE and
//! EXT4_IOC_SHUTDOWN (all wait for a thaw), MADV_HWPOISON and MADV_SOFT_OFFLINE (take memory of
//! the machine away), FS_IMMUTABLE_FL (the next round could not write its files).

use crate::fuzz::program::{Arg, Val, BAD, FDS, GIB, KEPT_END, KEPT_START, LARGE, MAPS, SPACING};
use crate::fuzz::{others, run, users};
use crate::support::ring::Ring;
use crate::support::sys::call;
use libc::{
    SYS_close, SYS_copy_file_range, SYS_dup, SYS_fadvise64, SYS_fallocate, SYS_fcntl,
    SYS_fdatasync, SYS_flock, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex,
    SYS_lseek, SYS_madvise, SYS_mincore, SYS_mlock2, SYS_mmap, SYS_mprotect, SYS_mremap, SYS_msync,
    SYS_munlock, SYS_munmap, SYS_open, SYS_pread64, SYS_preadv2, SYS_process_vm_readv,
    SYS_process_vm_writev, SYS_pwrite64, SYS_pwritev2, SYS_read, SYS_readahead, SYS_sendfile,
    SYS_splice, SYS_sync_file_range, SYS_vmsplice, SYS_write,
};
use std::ffi::CString;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::OnceLock;
use Arg::{
    Aligned, Any, Buf, Fd, FdSlot, Flags, Is, LargeSlot, Len, Map, MapSlot, Off, One, PipeRead,
    Range, Whole,
};
use Run::{Call, Own};
use To::{Answer, Bytes, Number, Span, Values};

/// A namespace of the fuzzer: what it is made with, and the file system on it.
pub struct SpaceKind {
    pub name: &'static str,
    pub options: &'static [&'static str],
    pub fs: Option<&'static str>,
}

pub const SPACES: &[SpaceKind] = &[
    SpaceKind {
        name: "raw",
        options: &["-m", "raw", "-s", "64M"],
        fs: None,
    },
    SpaceKind {
        name: "paged",
        options: &["-m", "fsdax", "-M", "mem", "-s", "64M"],
        fs: None,
    },
    SpaceKind {
        name: "ext4",
        options: &["-m", "fsdax", "-M", "mem", "-s", "64M"],
        fs: Some("ext4"),
    },
    SpaceKind {
        name: "xfs",
        options: &["-m", "fsdax", "-M", "dev", "-s", "320M"],
        fs: Some("xfs"),
    },
    // Its first byte is at a multiple of 1 GiB, as it is made first.
    SpaceKind {
        name: "large",
        options: &["-m", "raw", "-s", "2304M"],
        fs: None,
    },
];

/// Where a node is: of a namespace (by its place in `SPACES`) the disk, its first partition, a file
/// on it, an attribute of the disk.
#[derive(Clone, Copy)]
pub enum At {
    Disk(usize),
    Partition(usize),
    File(usize, &'static str),
    Attribute(usize, &'static str),
    /// The node that maps the disk.
    Map(usize),
}

pub struct Node {
    pub name: &'static str,
    pub at: At,
    /// May be opened for writing. A disk with a file system on it may not.
    pub writable: bool,
    pub ioctls: u32,
}

/// Classes of ioctls.
const BLK: u32 = 1;
const BLK_MOUNTED: u32 = 2;
const FILE: u32 = 4;
const MAP: u32 = 8;

/// Offset at which a node of class MAP shows its bytes a second time.
const DIRECT_WINDOW: u64 = 1 << 60;
const NONE: u32 = 0;

const fn node(name: &'static str, at: At, writable: bool, ioctls: u32) -> Node {
    Node {
        name,
        at,
        writable,
        ioctls,
    }
}

pub const NODES: &[Node] = &[
    node("raw", At::Disk(0), true, BLK),
    node("raw/map", At::Map(0), true, MAP),
    node("ext4/f0", At::File(2, "f0"), true, FILE),
    node("paged", At::Disk(1), true, BLK),
    node("paged/map", At::Map(1), true, MAP),
    node("xfs/f0", At::File(3, "f0"), true, FILE),
    node("ext4", At::Disk(2), false, BLK_MOUNTED),
    node("ext4/f1", At::File(2, "f1"), true, FILE),
    node(
        "raw/write_cache",
        At::Attribute(0, "dax/write_cache"),
        true,
        NONE,
    ),
    node("xfs/f1", At::File(3, "f1"), true, FILE),
    node("xfs", At::Disk(3), false, BLK_MOUNTED),
    node("large/map", At::Map(4), true, MAP),
    node("raw/p1", At::Partition(0), true, BLK),
    node(
        "paged/badblocks",
        At::Attribute(1, "badblocks"),
        false,
        NONE,
    ),
];

/// What the machine has for the tables.
#[derive(Debug, Default)]
pub struct Machine {
    /// By their place in SPACES: disk, mount point.
    pub disk: Vec<String>,
    pub mount: Vec<String>,
    /// By their place in NODES.
    pub path: Vec<CString>,
    pub size: Vec<u64>,
    pub driver: String,
    pub params: String,
    pub regions: Vec<String>,
}

pub static MACHINE: OnceLock<Machine> = OnceLock::new();

pub fn machine() -> &'static Machine {
    MACHINE.get().expect("set before the first program runs")
}

/// Lengths of files at the start of a round.
pub const FILE_SIZE: u64 = 8 << 20;

// Memory of a process: its mappings in an arena at one of two places, and a buffer below both.
const LOW: u64 = 0x2000_0000_0000;
/// Needs five levels of page tables.
const HIGH: u64 = 1 << 52;
/// With the gaps between large places.
const ARENA_LEN: u64 = (2 * LARGE as u64 + 2) * GIB;

static ARENA: AtomicU64 = AtomicU64::new(LOW);

const BUFFER: u64 = LOW - (64 << 20);
const BUFFER_LEN: u64 = 1 << 20;
const PAGE: u64 = 4096;
const NO_ACCESS: u64 = BUFFER + BUFFER_LEN;
const READ_ONLY: u64 = NO_ACCESS + PAGE;

static FD: [AtomicI32; FDS] = [const { AtomicI32::new(-1) }; FDS];

static FD_NODE: [AtomicUsize; FDS] = [const { AtomicUsize::new(0) }; FDS];

static PIPE: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2];

pub fn arena() -> u64 {
    ARENA.load(SeqCst)
}

/// Whether there are five levels of page tables.
pub fn has_high() -> bool {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let r = call(SYS_mmap, [HIGH, PAGE, 0, flags, u64::MAX, 0]);
    if r == HIGH as i64 {
        call(SYS_munmap, [HIGH, PAGE, 0, 0, 0, 0]);
    }
    r == HIGH as i64
}

/// The memory that programs use, and their pipe; once for each process that is not a child of one
/// that has them.
pub fn set_up_process(high: bool) -> Result<(), String> {
    ARENA.store(if high && has_high() { HIGH } else { LOW }, SeqCst);
    let rw = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let fixed = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let none = u64::MAX;
    for (at, len, prot) in [
        (BUFFER, BUFFER_LEN, rw),
        (NO_ACCESS, PAGE, 0),
        (READ_ONLY, PAGE, libc::PROT_READ as u64),
    ] {
        let r = call(SYS_mmap, [at, len, prot, fixed, none, 0]);
        if r != at as i64 {
            return Err(format!("mmap of the buffer: {r}"));
        }
    }
    // SAFETY: no handler.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let mut p = [0i32; 2];
    // SAFETY: an array of two descriptors.
    if unsafe { libc::pipe2(p.as_mut_ptr(), libc::O_NONBLOCK) } != 0 {
        return Err("pipe".into());
    }
    PIPE[0].store(p[0], SeqCst);
    PIPE[1].store(p[1], SeqCst);
    Ok(())
}

pub fn fd(v: Val) -> u64 {
    match v {
        Val::Fd(n) => FD[n as usize].load(SeqCst) as i64 as u64,
        _ => u64::MAX,
    }
}

pub fn node_of(v: Val) -> usize {
    match v {
        Val::Fd(n) => FD_NODE[n as usize].load(SeqCst),
        _ => 0,
    }
}

pub fn put_fd(v: Val, new: i64, node: usize) {
    if let Val::Fd(n) = v {
        FD_NODE[n as usize].store(node, SeqCst);
        let old = FD[n as usize].swap(new as i32, SeqCst);
        if old >= 0 {
            call(SYS_close, [old as u64, 0, 0, 0, 0, 0]);
        }
    }
}

fn bad(n: u8) -> u64 {
    // Null, a low address, the kernel's, a non-canonical one, no access, read-only.
    [0, 8, 0xffff_8880_0000_1000, 1 << 63, NO_ACCESS, READ_ONLY][n as usize % BAD as usize]
}

/// The number for a value; `of` is the descriptor that an offset belongs to.
pub fn value(v: Val, of: Val) -> u64 {
    match v {
        Val::Num(n) => n,
        Val::Fd(_) => fd(v),
        Val::Node(n) => u64::from(n),
        Val::End(d) => (machine().size[node_of(of)] as i64 + i64::from(d)) as u64,
        Val::Buf(d) => BUFFER + u64::from(d),
        Val::Map(n, d) => arena() + u64::from(n) * SPACING + u64::from(d),
        Val::Large(n, d) => arena() + (2 * u64::from(n) + 1) * GIB + u64::from(d),
        Val::Bad(n) => bad(n),
        Val::Pipe(n) => PIPE[n as usize].load(SeqCst) as i64 as u64,
    }
}

/// Keep a write off the bytes that are to stay as they are.
fn guard(off: u64, len: u64) -> (u64, u64) {
    if off >= KEPT_END || off.saturating_add(len) <= KEPT_START || len == 0 {
        return (off, len);
    }
    if off < KEPT_START {
        return (off, KEPT_START - off);
    }
    (KEPT_END + off % PAGE, len)
}

pub enum Run {
    /// The arguments as they are.
    Call(i64),
    Own(fn(&[Val]) -> i64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hope {
    /// Of many calls, some succeed.
    Success,
    /// None does, and one that did were a bug.
    Failure,
    /// Whatever.
    Any,
}

pub struct Kind {
    pub name: &'static str,
    pub args: &'static [Arg],
    pub run: Run,
    pub often: u64,
    /// How many of them in a tour of the calm round.
    pub calm: u64,
    /// Arguments that are offset and length of a write.
    pub guard: Option<(usize, usize)>,
    /// Argument that is the address of data, and whether they are read from there.
    pub data: Option<(usize, bool)>,
    pub hope: Hope,
}

const fn kind(name: &'static str, run: Run, args: &'static [Arg]) -> Kind {
    Kind {
        name,
        args,
        run,
        often: 4,
        calm: 3,
        guard: None,
        data: None,
        hope: Hope::Success,
    }
}

impl Kind {
    const fn often(mut self, n: u64) -> Kind {
        self.often = n;
        self
    }

    const fn calm(mut self, n: u64) -> Kind {
        self.calm = n;
        self
    }

    const fn guard(mut self, off: usize, len: usize) -> Kind {
        self.guard = Some((off, len));
        self
    }

    const fn fills(mut self, n: usize) -> Kind {
        self.data = Some((n, false));
        self
    }

    const fn takes(mut self, n: usize) -> Kind {
        self.data = Some((n, true));
        self
    }

    const fn hope(mut self, h: Hope) -> Kind {
        self.hope = h;
        self
    }
}

/// What an operation of our own says that saw what must not be.
pub const MUST_NOT: i64 = i64::MIN;

/// Run an operation; its result, and whether it did what it must not.
pub fn run(k: &Kind, vals: &[Val]) -> (i64, bool) {
    let r = match k.run {
        Run::Own(f) => match f(vals) {
            MUST_NOT => return (1, true),
            r => r,
        },
        Run::Call(nr) => {
            let mut a = [0; 6];
            for (n, v) in vals.iter().enumerate() {
                a[n] = value(*v, vals[0]);
            }
            if let Some((off, len)) = k.guard {
                (a[off], a[len]) = guard(a[off], a[len]);
            }
            call(nr, a)
        }
    };
    // From or to memory that is not there, nothing can be moved. What is read-only can be read.
    let bad = |(n, from): (usize, bool)| match vals[n] {
        Val::Bad(b) => !from || bad(b) != READ_ONLY,
        _ => false,
    };
    let moved = k.data.is_some_and(bad) && r > 0;
    (r, moved || (k.hope == Hope::Failure && r >= 0))
}

const OPEN: &[u64] = &[
    0,
    0,
    0,
    libc::O_DIRECT as u64,
    libc::O_DIRECT as u64,
    libc::O_DIRECT as u64,
    libc::O_SYNC as u64,
    libc::O_DSYNC as u64,
    libc::O_APPEND as u64,
    libc::O_NONBLOCK as u64,
    libc::O_EXCL as u64,
    libc::O_TRUNC as u64,
    libc::O_NOATIME as u64,
];
const PROT: &[u64] = &[3, 3, 3, 1, 2, 0, 7];
const SYNC: u64 = 0x80003;
const MMAP: &[u64] = &[
    1,
    1,
    1,
    2,
    2,
    3,
    SYNC,
    SYNC,
    1 | libc::MAP_POPULATE as u64,
    1 | libc::MAP_LOCKED as u64,
    1 | libc::MAP_NORESERVE as u64,
];
/// Mostly those that can have large entries: what is not synchronous and can be written has small ones.
const MMAP_LARGE: &[u64] = &[1, 3, SYNC, SYNC, SYNC, SYNC, SYNC | 0x20_0000];
/// Below KEPT_END a mapping is read-only.
const OFFSET_LARGE: &[u64] = &[
    0,
    0,
    DIRECT_WINDOW,
    GIB,
    GIB,
    GIB,
    GIB | DIRECT_WINDOW,
    GIB | DIRECT_WINDOW,
    GIB + (2 << 20),
    GIB + PAGE,
    2 * GIB,
];
const LEN_LARGE: &[u64] = &[GIB, GIB, GIB, GIB, GIB - PAGE, 64 << 20, 2 << 20];
const RWF: &[u64] = &[0, 0, 1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80];
const ADVICE: &[u64] = &[
    0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 102, 103,
];

pub const KINDS: &[Kind] = &[
    kind("open", Own(open), &[FdSlot, Arg::Node, Flags(OPEN)]).often(10),
    kind("close", Own(close), &[FdSlot]).often(2),
    kind("dup", Own(dup), &[Fd, FdSlot]),
    kind(
        "fcntl_setfl",
        Call(SYS_fcntl),
        &[
            Fd,
            Is(libc::F_SETFL as u64),
            Flags(&[
                0,
                libc::O_DIRECT as u64,
                libc::O_APPEND as u64,
                libc::O_NONBLOCK as u64,
                libc::O_ASYNC as u64,
            ]),
        ],
    ),
    kind("fcntl_setown", Own(fcntl_setown), &[Fd, Any]).often(2),
    kind("poll", Own(poll), &[Fd, Any]).often(2),
    kind(
        "lseek",
        Call(SYS_lseek),
        &[Fd, Off, One(&[0, 0, 1, 2, 3, 4])],
    ),
    kind("read", Call(SYS_read), &[Fd, Buf, Len]).fills(1),
    kind("write", Own(write), &[Fd, Buf, Len, Off]).takes(1),
    kind("pread", Call(SYS_pread64), &[Fd, Buf, Len, Off])
        .fills(1)
        .often(8),
    kind("pwrite", Call(SYS_pwrite64), &[Fd, Buf, Len, Off])
        .takes(1)
        .guard(3, 2)
        .often(8),
    kind("preadv2", Own(preadv2), &[Fd, Buf, Len, Off, Flags(RWF)])
        .fills(1)
        .calm(5),
    kind("pwritev2", Own(pwritev2), &[Fd, Buf, Len, Off, Flags(RWF)])
        .takes(1)
        .calm(5),
    kind(
        "fallocate",
        Call(SYS_fallocate),
        &[
            Fd,
            One(&[0, 0, 1, 2, 3, 8, 0x10, 0x11, 0x20, 0x40]),
            Off,
            Len,
        ],
    )
    .guard(2, 3)
    .calm(6),
    kind("ftruncate", Call(SYS_ftruncate), &[Fd, Off]).calm(6),
    kind("fsync", Call(SYS_fsync), &[Fd]),
    kind("fdatasync", Call(SYS_fdatasync), &[Fd]),
    kind(
        "sync_file_range",
        Call(SYS_sync_file_range),
        &[Fd, Off, Len, Flags(&[0, 1, 2, 4])],
    ),
    kind(
        "fadvise",
        Call(SYS_fadvise64),
        &[Fd, Off, Len, One(&[0, 1, 2, 3, 4, 5])],
    ),
    kind("readahead", Call(SYS_readahead), &[Fd, Off, Len]),
    kind("fstat", Call(SYS_fstat), &[Fd, Is(BUFFER)]).often(1),
    kind("fstatfs", Call(SYS_fstatfs), &[Fd, Is(BUFFER)]).often(1),
    kind("flock", Own(flock), &[Fd, One(&[1, 2, 8])]).often(1),
    kind(
        "copy_file_range",
        Own(copy_file_range),
        &[Fd, Off, Fd, Off, Len],
    )
    .calm(12),
    kind("sendfile", Own(sendfile), &[Fd, Off, Fd, Off, Len]).calm(6),
    kind(
        "splice_from",
        Own(splice_from),
        &[Fd, Off, Len, Flags(&[2, 3, 6])],
    )
    .calm(6),
    kind(
        "splice_to",
        Own(splice_to),
        &[Fd, Off, Len, Flags(&[2, 3, 6])],
    )
    .calm(6),
    kind("vmsplice", Own(vmsplice), &[Map, Len, Flags(&[2, 3])]).calm(6),
    kind(
        "pipe_drain",
        Call(SYS_read),
        &[PipeRead, Is(BUFFER), Is(BUFFER_LEN)],
    )
    .often(6),
    kind(
        "mmap",
        Own(mmap),
        &[MapSlot, Fd, Aligned, Whole, One(PROT), One(MMAP)],
    )
    .often(16),
    kind(
        "mmap_anonymous",
        Own(mmap_anonymous),
        &[MapSlot, Whole, One(PROT), One(&[1, 2])],
    )
    .often(2),
    kind(
        "mmap_large",
        Own(mmap_large),
        &[
            LargeSlot,
            One(OFFSET_LARGE),
            One(LEN_LARGE),
            One(PROT),
            One(MMAP_LARGE),
        ],
    )
    .often(10),
    kind(
        "prefault_large",
        Own(prefault_large),
        &[Map, Range, One(&[0, 1, 1])],
    )
    .often(5)
    .calm(6),
    kind("munmap", Call(SYS_munmap), &[Map, Range]).often(4),
    kind(
        "mremap",
        Own(mremap),
        &[Map, Range, Range, One(&[0, 1, 1, 3, 3, 5, 7]), MapSlot],
    )
    .calm(8),
    kind("mprotect", Call(SYS_mprotect), &[Map, Range, One(PROT)]).calm(6),
    kind("madvise", Own(madvise), &[Map, Range, One(ADVICE)])
        .often(8)
        .calm(8),
    kind("msync", Call(SYS_msync), &[Map, Range, Flags(&[1, 2, 4])]).calm(6),
    kind("mlock", Call(SYS_mlock2), &[Map, Range, One(&[0, 1])])
        .often(2)
        .calm(6),
    kind("munlock", Call(SYS_munlock), &[Map, Range]).calm(6),
    kind("mincore", Call(SYS_mincore), &[Map, Range, Is(BUFFER)])
        .often(2)
        .calm(6),
    kind(
        "touch",
        Own(touch),
        &[
            Map,
            One(&[0, 0, 1]),
            One(&[1, 4, 16]),
            One(&[4096, 4097, 2 << 20]),
        ],
    )
    .often(24)
    .calm(8),
    kind(
        "process_vm_readv",
        Own(process_vm_readv),
        &[Map, Buf, Len, Any],
    )
    .calm(6),
    kind(
        "process_vm_writev",
        Own(process_vm_writev),
        &[Map, Buf, Len, Any],
    )
    .calm(6),
    kind(
        "process_madvise",
        Own(others::madvise),
        &[Map, Range, One(ADVICE), Any],
    )
    .calm(6),
    kind("send_fd", Own(others::send_fd), &[Fd, Any]),
    kind("receive_fd", Own(others::receive_fd), &[FdSlot]),
    kind("pidfd_getfd", Own(others::pidfd_getfd), &[FdSlot, Any, Any]).calm(20),
    kind("ptrace_other", Own(others::ptrace), &[Map, Any, Any]),
    kind("visit", Own(users::visit), &[Any]).often(2).calm(2),
    kind("proc_mem_read", Own(proc_mem_read), &[Map, Buf, Len]).calm(6),
    kind("proc_mem_write", Own(proc_mem_write), &[Map, Buf, Len]).calm(6),
    kind("ptrace_peek", Own(ptrace_peek), &[Map, Any])
        .often(1)
        .calm(6),
    kind("futex_wake", Own(futex_wake), &[Map, One(&[0, 0x80])])
        .often(2)
        .calm(6),
    kind(
        "userfaultfd",
        Own(userfaultfd),
        &[Map, Range, One(&[1, 2, 3, 8])],
    )
    .often(2)
    .calm(8),
    kind(
        "io_uring_rw",
        Own(io_uring_rw),
        &[Fd, Buf, Len, Off, One(&[22, 22, 23, 23, 3, 17]), Flags(RWF)],
    )
    .often(3)
    .calm(8),
    kind("io_uring_buffers", Own(io_uring_buffers), &[Map, Range])
        .often(2)
        .calm(8),
    kind("fork", Own(fork), &[Any]).often(3),
    kind("fork_without", Own(fork_without), &[Map, Range])
        .often(3)
        .calm(6),
    kind("ioctl", Own(ioctl), &[Fd, Any, Off, Len, Any])
        .often(30)
        .calm(4),
    kind("ioctl_bad_pointer", Own(ioctl_bad_pointer), &[Fd, Any, Any])
        .often(6)
        .hope(Hope::Failure),
    kind("ioctl_unknown", Own(ioctl_unknown), &[Fd, Any, Any])
        .often(6)
        .hope(Hope::Failure),
];

fn open(v: &[Val]) -> i64 {
    let Val::Node(n) = v[1] else { return 0 };
    let n = n as usize;
    let flags = value(v[2], v[0]) & !(libc::O_CREAT | libc::O_PATH | 0o20000000) as u64;
    let access = match flags & 3 {
        _ if !NODES[n].writable => 0,
        0 => libc::O_RDWR as u64,
        a => a - 1,
    };
    let flags = flags
        & !3
        & if access == 0 {
            !(libc::O_TRUNC as u64)
        } else {
            u64::MAX
        };
    let path = machine().path[n].as_ptr() as u64;
    let r = call(
        SYS_open,
        [path, access | flags | libc::O_CLOEXEC as u64, 0, 0, 0, 0],
    );
    if r >= 0 {
        put_fd(v[0], r, n);
    }
    r
}

fn close(v: &[Val]) -> i64 {
    let Val::Fd(n) = v[0] else { return 0 };
    let old = FD[n as usize].swap(-1, SeqCst);
    call(SYS_close, [old as i64 as u64, 0, 0, 0, 0, 0])
}

fn dup(v: &[Val]) -> i64 {
    let r = call(SYS_dup, [fd(v[0]), 0, 0, 0, 0, 0]);
    if r >= 0 {
        put_fd(v[1], r, node_of(v[0]));
    }
    r
}

/// The node of a descriptor opened anew: with a position, or a right, of its own.
fn again(of: Val, flags: i32, f: impl FnOnce(u64) -> i64) -> i64 {
    let Ok(path) = CString::new(format!("/proc/self/fd/{}", fd(of) as i32)) else {
        return 0;
    };
    let flags = (flags | libc::O_CLOEXEC) as u64;
    let new = call(SYS_open, [path.as_ptr() as u64, flags, 0, 0, 0, 0]);
    if new < 0 {
        return new;
    }
    let r = f(new as u64);
    call(SYS_close, [new as u64, 0, 0, 0, 0, 0]);
    r
}

/// A file description that is only read can be shared; one to write through is new, or another
/// thread might move its position into what must be kept.
fn writable(v: Val) -> bool {
    NODES[node_of(v)].writable
}

/// Writes at a position, through a description of its own.
fn at_position(to: Val, off: Val, len: u64, f: impl FnOnce(u64, u64) -> i64) -> i64 {
    if !writable(to) {
        return -i64::from(libc::EBADF);
    }
    let (off, len) = guard(value(off, to), len);
    again(to, libc::O_WRONLY, |new| {
        let r = call(SYS_lseek, [new, off, 0, 0, 0, 0]);
        if r < 0 {
            return r;
        }
        f(new, len)
    })
}

fn write(v: &[Val]) -> i64 {
    let (buf, len) = (value(v[1], v[0]), value(v[2], v[0]));
    at_position(v[0], v[3], len, |to, len| {
        call(SYS_write, [to, buf, len, 0, 0, 0])
    })
}

fn sendfile(v: &[Val]) -> i64 {
    let mut from = value(v[1], v[0]);
    let at = &raw mut from as u64;
    at_position(v[2], v[3], value(v[4], v[0]), |to, len| {
        call(SYS_sendfile, [to, fd(v[0]), at, len, 0, 0])
    })
}

/// Two pieces, the second next to the first.
fn vectored(nr: i64, v: &[Val], buf: u64, len: u64, off: u64) -> i64 {
    let part = len / 2;
    let iov = [buf, part, buf.wrapping_add(part), len - part];
    call(
        nr,
        [fd(v[0]), iov.as_ptr() as u64, 2, off, 0, value(v[4], v[0])],
    )
}

fn preadv2(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    vectored(SYS_preadv2, v, n(1), n(2), n(3))
}

fn pwritev2(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    let (off, len) = guard(n(3), n(2));
    if off == u64::MAX {
        // At the position of the descriptor, wherever that is.
        return -i64::from(libc::EINVAL);
    }
    vectored(SYS_pwritev2, v, n(1), len, off)
}

fn copy_file_range(v: &[Val]) -> i64 {
    let mut from = value(v[1], v[0]);
    let (mut to, len) = guard(value(v[3], v[2]), value(v[4], v[0]));
    let (a, b) = (&raw mut from as u64, &raw mut to as u64);
    call(SYS_copy_file_range, [fd(v[0]), a, fd(v[2]), b, len, 0])
}

fn splice_from(v: &[Val]) -> i64 {
    let mut off = value(v[1], v[0]);
    let to = value(Val::Pipe(1), v[0]);
    let flags = value(v[3], v[0]) | 2;
    call(
        SYS_splice,
        [
            fd(v[0]),
            &raw mut off as u64,
            to,
            0,
            value(v[2], v[0]),
            flags,
        ],
    )
}

fn splice_to(v: &[Val]) -> i64 {
    // Something to splice.
    call(
        SYS_write,
        [value(Val::Pipe(1), v[0]), BUFFER, 4 * PAGE, 0, 0, 0],
    );
    let (mut off, len) = guard(value(v[1], v[0]), value(v[2], v[0]));
    let from = value(Val::Pipe(0), v[0]);
    let flags = value(v[3], v[0]) | 2;
    call(
        SYS_splice,
        [from, 0, fd(v[0]), &raw mut off as u64, len, flags],
    )
}

/// Pages of a mapping in a pipe, and out of it again. They are held no longer than that: truncate()
/// waits for them with the lock of the file held (dax_break_layout(), for ext4 in ext4_setattr()),
/// for ever if they are in a pipe that only the waiting process would empty. That is so with DAX
/// on any driver.
fn vmsplice(v: &[Val]) -> i64 {
    let mut p = [0i32; 2];
    let flags = (libc::O_NONBLOCK | libc::O_CLOEXEC) as u64;
    let r = call(libc::SYS_pipe2, [p.as_mut_ptr() as u64, flags, 0, 0, 0, 0]);
    if r < 0 {
        return r;
    }
    let (from, to) = (p[0] as u64, p[1] as u64);
    let iov = [value(v[0], v[0]), value(v[1], v[0])];
    let flags = value(v[2], v[0]) | 2;
    let r = call(SYS_vmsplice, [to, iov.as_ptr() as u64, 1, flags, 0, 0]);
    call(SYS_read, [from, BUFFER, PAGE, 0, 0, 0]);
    for fd in [from, to] {
        call(SYS_close, [fd, 0, 0, 0, 0, 0]);
    }
    r
}

/// Never waits: two threads that wait for each other's locks would do so for ever.
fn flock(v: &[Val]) -> i64 {
    let how = value(v[1], v[0]) | libc::LOCK_NB as u64;
    call(SYS_flock, [fd(v[0]), how, 0, 0, 0, 0])
}

/// Never waits, either.
fn futex_wake(v: &[Val]) -> i64 {
    let op = libc::FUTEX_WAKE as u64 | (value(v[1], v[0]) & 0x80);
    call(SYS_futex, [value(v[0], v[0]), op, 1, 0, 0, 0])
}

/// Who gets SIGIO, which is ignored: this process, or nobody.
fn fcntl_setown(v: &[Val]) -> i64 {
    let owner = match value(v[1], v[0]) & 3 {
        0 => 0,
        _ => u64::from(std::process::id()),
    };
    call(SYS_fcntl, [fd(v[0]), libc::F_SETOWN as u64, owner, 0, 0, 0])
}

/// Never waits.
fn poll(v: &[Val]) -> i64 {
    let mut p = libc::pollfd {
        fd: fd(v[0]) as i32,
        events: value(v[1], v[0]) as i16,
        revents: 0,
    };
    call(libc::SYS_poll, [&raw mut p as u64, 1, 0, 0, 0, 0])
}

fn mmap(v: &[Val]) -> i64 {
    let at = value(v[0], v[0]);
    let (mut off, len) = (value(v[2], v[1]), value(v[3], v[0]));
    if NODES[node_of(v[1])].ioctls == MAP && (off / PAGE) % 3 == 1 {
        off |= DIRECT_WINDOW;
    }
    let mut prot = value(v[4], v[0]);
    let mut flags = value(v[5], v[0]) & !(libc::MAP_FIXED_NOREPLACE | libc::MAP_ANONYMOUS) as u64;
    flags &= !(libc::MAP_GROWSDOWN as u64);
    // What is longer than its place goes where the kernel wants it, and goes again.
    if len <= SPACING {
        flags |= libc::MAP_FIXED as u64;
    } else {
        flags &= !((libc::MAP_FIXED | libc::MAP_POPULATE | libc::MAP_LOCKED) as u64);
    }
    let hint = if len <= SPACING { at } else { 0 };
    // Nobody writes through a descriptor that is read-only, whatever mprotect and mremap do later.
    // The direct window shows the same bytes.
    let inside = off & (DIRECT_WINDOW - 1);
    let kept = inside < KEPT_END && inside.saturating_add(SPACING.max(len)) > KEPT_START;
    // Without this, most mappings of it were refused.
    if (kept || !writable(v[1])) && prot & 4 == 0 && flags & 3 != 2 {
        prot &= !(libc::PROT_WRITE as u64);
    }
    let map = |from: u64| {
        let r = call(SYS_mmap, [hint, len, prot, flags, from, off]);
        if r > 0 && len > SPACING {
            call(SYS_munmap, [r as u64, len, 0, 0, 0, 0]);
        }
        r
    };
    if kept {
        return again(v[1], libc::O_RDONLY, map);
    }
    map(fd(v[1]))
}

fn mmap_anonymous(v: &[Val]) -> i64 {
    let len = value(v[1], v[0]);
    if len > SPACING {
        return -i64::from(libc::ENOMEM);
    }
    let flags = value(v[3], v[0]) & 3 | (libc::MAP_ANONYMOUS | libc::MAP_FIXED) as u64;
    call(
        SYS_mmap,
        [
            value(v[0], v[0]),
            len,
            value(v[2], v[0]),
            flags,
            u64::MAX,
            0,
        ],
    )
}

fn mremap(v: &[Val]) -> i64 {
    // From the start of a place only, so that what is mapped there stays inside of the range that
    // mmap has looked at. From a large place any part may move, but to another such only, and without
    // growing.
    let (mut from, mut to) = (v[0], v[4]);
    let (old, mut new) = (value(v[1], v[0]), value(v[2], v[0]));
    match (from, to) {
        (Val::Large(..), Val::Map(n, _)) => to = Val::Large(n % LARGE as u8, 0),
        (Val::Map(n, delta), _) => from = Val::Map(n, delta % PAGE as u32),
        (Val::Large(..), _) => {}
        _ => return call(SYS_mremap, [value(from, from), PAGE, PAGE, 0, 0, 0]),
    }
    if matches!(to, Val::Large(..)) {
        new = new.min(old);
    }
    let (from, to) = (value(from, from), value(to, to));
    let r = call(SYS_mremap, [from, old, new, value(v[3], v[0]), to, 0]);
    if r > 0 && !(arena()..arena() + ARENA_LEN).contains(&(r as u64)) {
        call(SYS_munmap, [r as u64, new, 0, 0, 0, 0]);
    }
    r
}

/// The large namespace, opened for this call: for reading what is to be kept.
fn with_large(writable: bool, f: impl FnOnce(u64) -> i64) -> i64 {
    let n = NODES.iter().position(|n| n.name == "large/map");
    let path = machine().path[n.unwrap_or(0)].as_ptr() as u64;
    let access = if writable {
        libc::O_RDWR
    } else {
        libc::O_RDONLY
    };
    let file = call(
        SYS_open,
        [path, (access | libc::O_CLOEXEC) as u64, 0, 0, 0, 0],
    );
    if file < 0 {
        return file;
    }
    let r = f(file as u64);
    call(SYS_close, [file as u64, 0, 0, 0, 0, 0]);
    r
}

fn mmap_large(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    let (at, off, len, mut prot) = (n(0), n(1), n(2), n(3));
    let flags = n(4) & !(libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let flags = flags & !(libc::MAP_GROWSDOWN as u64) | libc::MAP_FIXED as u64;
    if len > GIB {
        return -i64::from(libc::ENOMEM);
    }
    let kept = off & (DIRECT_WINDOW - 1) < KEPT_END;
    if kept {
        prot &= !(libc::PROT_WRITE as u64);
    }
    with_large(!kept, |f| call(SYS_mmap, [at, len, prot, flags, f, off]))
}

fn prefault_large(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    let mut arg = [32 | (n(2) << 32), n(0) & !(PAGE - 1), n(1), 0];
    let p = arg.as_mut_ptr() as u64;
    with_large(false, |f| {
        call(libc::SYS_ioctl, [f, RPMEM_PREFAULT, p, 0, 0, 0])
    })
}

/// Not from a bad address up to the arena and beyond, where the memory of the fuzzer itself is, and not
/// to poison pages, which may be anybody's.
fn madvise(v: &[Val]) -> i64 {
    let (at, len, advice) = (value(v[0], v[0]), value(v[1], v[0]), value(v[2], v[0]));
    if !may_advise(at, len, advice) {
        return -i64::from(libc::EINVAL);
    }
    call(SYS_madvise, [at, len, advice, 0, 0, 0])
}

pub fn may_advise(at: u64, len: u64, advice: u64) -> bool {
    let own = at < BUFFER && at.checked_add(len).is_some_and(|end| end > BUFFER);
    !own && !matches!(advice as i32, libc::MADV_HWPOISON | libc::MADV_SOFT_OFFLINE)
}

fn touch(v: &[Val]) -> i64 {
    let at = value(v[0], v[0]);
    let (write, n, step) = (
        value(v[1], v[0]) & 1,
        value(v[2], v[0]) % 64,
        value(v[3], v[0]),
    );
    let mut good = 0;
    for i in 0..n.max(1) {
        let at = at.wrapping_add(i.wrapping_mul(step));
        good += i64::from(run::touch(at, write != 0));
    }
    match good {
        0 => -i64::from(libc::EFAULT),
        n => n,
    }
}

fn process_vm(nr: i64, v: &[Val]) -> i64 {
    let len = value(v[2], v[0]).min(1 << 20);
    let (pid, at) = others::there(v[0], value(v[3], v[0]));
    let remote = [at, len];
    let local = [value(v[1], v[0]), len];
    let (l, r) = (local.as_ptr() as u64, remote.as_ptr() as u64);
    call(nr, [pid, l, 1, r, 1, 0])
}

fn process_vm_readv(v: &[Val]) -> i64 {
    process_vm(SYS_process_vm_readv, v)
}

fn process_vm_writev(v: &[Val]) -> i64 {
    process_vm(SYS_process_vm_writev, v)
}

fn proc_mem(nr: i64, v: &[Val]) -> i64 {
    let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
    let f = call(
        SYS_open,
        [c"/proc/self/mem".as_ptr() as u64, flags, 0, 0, 0, 0],
    );
    if f < 0 {
        return f;
    }
    let a = [
        f as u64,
        value(v[1], v[0]),
        value(v[2], v[0]).min(1 << 20),
        value(v[0], v[0]),
        0,
        0,
    ];
    let r = call(nr, a);
    call(SYS_close, [f as u64, 0, 0, 0, 0, 0]);
    r
}

fn proc_mem_read(v: &[Val]) -> i64 {
    proc_mem(SYS_pread64, v)
}

fn proc_mem_write(v: &[Val]) -> i64 {
    proc_mem(SYS_pwrite64, v)
}

/// A word of a stopped child, which has the mappings, too.
fn ptrace_peek(v: &[Val]) -> i64 {
    let at = value(v[0], v[0]);
    // SAFETY: the child only stops; the parent reaps it.
    unsafe {
        let parent = libc::getpid();
        let pid = libc::fork();
        if pid == 0 {
            // The parent may be ended at any time, and would leave it stopped.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != parent {
                libc::_exit(0);
            }
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
            libc::_exit(0);
        }
        if pid < 0 {
            return -i64::from(libc::EAGAIN);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
        let mut word = 0u64;
        let a = [
            libc::PTRACE_PEEKDATA.into(),
            pid as u64,
            at,
            &raw mut word as u64,
            0,
            0,
        ];
        let r = call(libc::SYS_ptrace, a);
        if value(v[1], v[0]) & 1 != 0 && r >= 0 {
            call(
                libc::SYS_ptrace,
                [libc::PTRACE_POKEDATA.into(), pid as u64, at, word, 0, 0],
            );
        }
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
        r
    }
}

/// Registers a mapping, protects it if it is for that, and takes it back before anybody waits for an
/// answer.
fn userfaultfd(v: &[Val]) -> i64 {
    const UFFDIO_API: u64 = 0xc018_aa3f;
    const UFFDIO_REGISTER: u64 = 0xc020_aa00;
    const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
    /// Of Linux 7.3.
    const UFFDIO_RWPROTECT: u64 = 0xc018_aa09;
    const FEATURE_RWP: u64 = 1 << 17;
    let (at, len, mode) = (value(v[0], v[0]), value(v[1], v[0]), value(v[2], v[0]));
    let features = if mode & 8 != 0 { FEATURE_RWP } else { 0 };
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    let u = call(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0]);
    if u < 0 {
        return u;
    }
    let u = u as u64;
    let ask = |number, argument: &mut [u64]| {
        let at = argument.as_mut_ptr() as u64;
        call(libc::SYS_ioctl, [u, number, at, 0, 0, 0])
    };
    let mut r = ask(UFFDIO_API, &mut [0xaa, features, 0]);
    if r == 0 {
        r = ask(UFFDIO_REGISTER, &mut [at, len, mode, 0]);
    }
    if r == 0 && mode & !1 != 0 {
        let number = if mode & 8 != 0 {
            UFFDIO_RWPROTECT
        } else {
            UFFDIO_WRITEPROTECT
        };
        r = ask(number, &mut [at, len, 1]);
    }
    call(SYS_close, [u, 0, 0, 0, 0, 0]);
    r
}

fn io_uring_rw(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    let (opcode, f) = (n(4) & 0xff, n(0) & 0xffff_ffff);
    let (mut off, mut len) = (n(3), n(2).min(u64::from(u32::MAX)));
    let write = matches!(opcode, 17 | 23);
    if write {
        (off, len) = guard(off, len);
    }
    // Any other request is none of a node's, and a position is not ours to know.
    if !matches!(opcode, 3 | 17 | 22 | 23) || (write && off == u64::MAX) {
        return -i64::from(libc::EINVAL);
    }
    let head = opcode | (f << 32);
    let ring = match Ring::new() {
        Ok(r) => r,
        Err(e) => return e,
    };
    match opcode {
        // FSYNC has no buffer, FALLOCATE has its length where others have their buffer.
        3 => ring.run([head, 0, 0, 0, 0, 0, 0, 0]),
        17 => ring.run([head, off, len, 0, 0, 0, 0, 0]),
        _ => ring.run([head, off, n(1), len | (n(5) << 32), 0, 0, 0, 0]),
    }
}

/// A long-term pin of a mapping, as far as the kernel grants it.
fn io_uring_buffers(v: &[Val]) -> i64 {
    let ring = match Ring::new() {
        Ok(r) => r,
        Err(e) => return e,
    };
    ring.register(value(v[0], v[0]) as *const u8, value(v[1], v[0]) as usize)
}

/// A child with a short program of its own, on the descriptors and mappings of its parent.
fn fork(v: &[Val]) -> i64 {
    // SAFETY: the child runs its program and ends; the parent reaps it.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            run::offspring(value(v[0], v[0]));
            libc::_exit(0);
        }
        if pid < 0 {
            return -i64::from(libc::EAGAIN);
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        if status != 0 {
            run::lost("a forked child", status);
        }
    }
    0
}

/// A child without the memory, which it must then not have.
fn fork_without(v: &[Val]) -> i64 {
    let (at, len) = (value(v[0], v[0]) & !(PAGE - 1), value(v[1], v[0]));
    let dontfork = libc::MADV_DONTFORK as u64;
    if len < PAGE || !may_advise(at, len, dontfork) {
        return -i64::from(libc::EINVAL);
    }
    let r = call(SYS_madvise, [at, len, dontfork, 0, 0, 0]);
    if r < 0 {
        return r;
    }
    let child = || {
        // Another thread may have put something there in between: what counts is what the child has.
        for page in [at, at + ((len / 2) & !(PAGE - 1)), at + len - PAGE] {
            let hole = call(SYS_mincore, [page, PAGE, BUFFER, 0, 0, 0]) == -i64::from(libc::ENOMEM);
            if hole && run::touch(page, false) {
                run::say(&format!("{page:#x} can be read, and is not mapped"));
                return 1;
            }
        }
        0
    };
    let Ok(pid) = run::process(child) else {
        return -i64::from(libc::EAGAIN);
    };
    match run::end_of(pid) {
        0 => 0,
        _ => MUST_NOT,
    }
}

#[derive(Clone, Copy)]
enum To {
    /// A number instead of a pointer.
    Number,
    /// Room for an answer, or this many values to take.
    Answer,
    Values(&'static [u64]),
    /// Offset and length of a write.
    Bytes,
    /// Offset and length without effect on contents.
    Span,
    Partition(u32),
    Fiemap,
    Clone,
    Prefault,
}

pub struct Ioctl {
    pub name: &'static str,
    nr: u64,
    pub classes: u32,
    to: To,
    pub hope: Hope,
}

const fn io(name: &'static str, nr: u64, classes: u32, to: To) -> Ioctl {
    Ioctl {
        name,
        nr,
        classes,
        to,
        hope: Hope::Success,
    }
}

const fn any(mut i: Ioctl) -> Ioctl {
    i.hope = Hope::Any;
    i
}

const RPMEM_PREFAULT: u64 = 0xbd01;

const ALL_BLK: u32 = BLK | BLK_MOUNTED;

pub const IOCTLS: &[Ioctl] = &[
    io("BLKROSET", 0x125d, BLK, Values(&[0, 0, 0, 1])),
    io("BLKROGET", 0x125e, ALL_BLK, Answer),
    io("BLKRRPART", 0x125f, BLK, Number),
    io("BLKGETSIZE", 0x1260, ALL_BLK, Answer),
    io("BLKFLSBUF", 0x1261, ALL_BLK, Number),
    io("BLKRASET", 0x1262, ALL_BLK, Number),
    io("BLKRAGET", 0x1263, ALL_BLK, Answer),
    io("BLKFRASET", 0x1264, ALL_BLK, Number),
    io("BLKFRAGET", 0x1265, ALL_BLK, Answer),
    io("BLKSECTGET", 0x1267, ALL_BLK, Answer),
    io("BLKSSZGET", 0x1268, ALL_BLK, Answer),
    io("BLKPG_ADD_PARTITION", 0x1269, BLK, To::Partition(1)),
    // Nodes of partitions are opened often, so this one is refused often.
    any(io("BLKPG_DEL_PARTITION", 0x1269, BLK, To::Partition(2))),
    any(io("BLKPG_RESIZE_PARTITION", 0x1269, BLK, To::Partition(3))),
    io("BLKBSZGET", 0x8008_1270, ALL_BLK, Answer),
    io(
        "BLKBSZSET",
        0x4008_1271,
        BLK,
        // None of more than a page: page_cache_ra_order() (mm/readahead.c) may meet another one with
        // folios that are too small for it, on any disk (Documentation/testing.md).
        Values(&[512, 1024, 4096, 4096, 0, 1, 3000, 2048, 131_072, 1 << 31]),
    ),
    io("BLKGETSIZE64", 0x8008_1272, ALL_BLK, Answer),
    // Persistent memory has nothing to discard, and no zones.
    any(io("BLKDISCARD", 0x1277, ALL_BLK, Bytes)),
    any(io("BLKSECDISCARD", 0x127d, ALL_BLK, Bytes)),
    any(io("BLKREPORTZONE", 0xc010_1282, ALL_BLK, Answer)),
    any(io("BLKRESETZONE", 0x4010_1283, ALL_BLK, Bytes)),
    any(io("BLKGETZONESZ", 0x8004_1284, ALL_BLK, Answer)),
    any(io("BLKGETNRZONES", 0x8004_1285, ALL_BLK, Answer)),
    io("BLKIOMIN", 0x1278, ALL_BLK, Answer),
    io("BLKIOOPT", 0x1279, ALL_BLK, Answer),
    io("BLKALIGNOFF", 0x127a, ALL_BLK, Answer),
    io("BLKPBSZGET", 0x127b, ALL_BLK, Answer),
    io("BLKDISCARDZEROES", 0x127c, ALL_BLK, Answer),
    io("BLKROTATIONAL", 0x127e, ALL_BLK, Answer),
    io("BLKZEROOUT", 0x127f, BLK, Bytes),
    io("BLKGETDISKSEQ", 0x8008_1280, ALL_BLK, Answer),
    // The driver has no geometry to tell, no removable medium, no persistent reservations.
    any(io("HDIO_GETGEO", 0x301, ALL_BLK, Answer)),
    any(io("CDROMEJECT", 0x5309, ALL_BLK, Number)),
    any(io("SG_IO", 0x2285, ALL_BLK, Answer)),
    any(io("IOC_PR_CLEAR", 0x4010_70cd, ALL_BLK, Values(&[0, 1]))),
    any(io("IOC_OPAL_GET_STATUS", 0x8008_70ec, ALL_BLK, Answer)),
    io("FS_IOC_GETFLAGS", 0x8008_6601, FILE, Answer),
    io(
        "FS_IOC_SETFLAGS",
        0x4008_6602,
        FILE,
        Values(&[0, 0x80, 0x0200_0000]),
    ),
    any(io("FS_IOC_GETVERSION", 0x8008_7601, FILE, Answer)),
    io("FS_IOC_FIEMAP", 0xc020_660b, FILE, To::Fiemap),
    io("FS_IOC_FSGETXATTR", 0x801c_581f, FILE, Answer),
    any(io("FIBMAP", 1, FILE, Values(&[0, 1, 1 << 20, u64::MAX]))),
    io("FIGETBSZ", 2, FILE, Answer),
    io("FIONREAD", 0x541b, FILE, Answer),
    any(io("FITRIM", 0xc018_5879, FILE, Span)),
    io("RPMEM_INFO", 0xbd00, MAP, Values(&[32, 32, 0, u64::MAX])),
    io("RPMEM_LEASE", 0xbd02, MAP, Values(&[32, 32, 0, u64::MAX])),
    any(io("RPMEM_PREFAULT", RPMEM_PREFAULT, MAP, To::Prefault)),
    // ext4 has no shared extents.
    any(io("FICLONE", 0x4004_9409, FILE, To::Clone)),
];

/// The one of these that a program drew.
fn ioctl_of(node: usize, draw: u64) -> Option<usize> {
    let class = NODES[node].ioctls;
    let fit = |i: &usize| IOCTLS[*i].classes & class != 0;
    let n = (0..IOCTLS.len()).filter(fit).count() as u64;
    (0..IOCTLS.len())
        .filter(fit)
        .nth(draw.checked_rem(n)? as usize)
}

fn ioctl(v: &[Val]) -> i64 {
    let node = node_of(v[0]);
    let Some(n) = ioctl_of(node, value(v[1], v[0])) else {
        // Nodes without any: whatever there is for others.
        return call(libc::SYS_ioctl, [fd(v[0]), 0x1272, BUFFER, 0, 0, 0]);
    };
    let i = &IOCTLS[n];
    let (mut off, mut len) = (value(v[2], v[0]), value(v[3], v[0]));
    let any = value(v[4], v[0]);
    let mut arg = [0u64; 64];
    let p = arg.as_mut_ptr() as u64;
    let mut name = [0u64; 20];
    let pointer = match i.to {
        Number => any % 256,
        Answer => p,
        Values(list) => {
            arg[0] = list[(any % list.len() as u64) as usize];
            p
        }
        Bytes => {
            (off, len) = guard(off, len);
            arg[0] = off;
            arg[1] = len;
            p
        }
        Span => {
            arg[0] = off;
            arg[1] = len;
            p
        }
        To::Partition(op) => {
            let (mut at, mut long) = (off & !511, (4 << 20) | (len & 0xfff));
            // A partition over what is kept would move what the guard looks at.
            if at < KEPT_END && at.saturating_add(long) > KEPT_START || any & 7 != 0 {
                (at, long) = (40 << 20, 4 << 20);
            }
            name[0] = at;
            name[1] = long;
            name[2] = if any & 0x30 == 0 { any % 300 } else { 1 };
            arg[0] = u64::from(op);
            arg[1] = 152;
            arg[2] = name.as_ptr() as u64;
            p
        }
        To::Fiemap => {
            arg[0] = off;
            arg[1] = len;
            // Flags, number of extents to tell.
            arg[2] = any & 3;
            arg[3] = (any >> 8) & 7;
            p
        }
        To::Clone => fd(Val::Fd((any % FDS as u64) as u8)),
        To::Prefault => {
            // Mostly what could work.
            arg[0] = if any & 7 == 0 { any >> 3 } else { 32 };
            arg[0] |= ((any >> 8) % 3) << 32;
            let place = match (any >> 40) & 3 {
                0 => Val::Large((any >> 16) as u8 % LARGE as u8, 0),
                _ => Val::Map((any >> 16) as u8 % MAPS as u8, 0),
            };
            arg[1] = value(place, v[0]).wrapping_add((any >> 24) & 3);
            arg[2] = len & if any & 0x30 == 0 { u64::MAX } else { !0xfff };
            p
        }
    };
    let r = call(libc::SYS_ioctl, [fd(v[0]), i.nr, pointer, 0, 0, 0]);
    run::count(KINDS.len() + n, r);
    r
}

fn ioctl_bad_pointer(v: &[Val]) -> i64 {
    let node = node_of(v[0]);
    let Some(n) = ioctl_of(node, value(v[1], v[0])) else {
        return -i64::from(libc::ENOTTY);
    };
    let i = &IOCTLS[n];
    if matches!(i.to, Number | To::Clone) {
        return -i64::from(libc::EFAULT);
    }
    // The read-only page has zeroes for values, which some take.
    let at = bad((value(v[2], v[0]) % (BAD - 1)) as u8);
    let r = call(libc::SYS_ioctl, [fd(v[0]), i.nr, at, 0, 0, 0]);
    // Answers that the kernel gives without a pointer.
    if r >= 0 && i.hope == Hope::Any {
        return -i64::from(libc::EFAULT);
    }
    r
}

fn ioctl_unknown(v: &[Val]) -> i64 {
    // Of a type that no driver has.
    let nr = (value(v[1], v[0]) & 0xffff_00ff) | 0xee00;
    let arg = if value(v[2], v[0]) & 1 == 0 {
        BUFFER
    } else {
        value(v[2], v[0])
    };
    call(libc::SYS_ioctl, [fd(v[0]), nr, arg, 0, 0, 0])
}

// The administrator.

pub struct AdminKind {
    pub name: &'static str,
    pub often: u64,
    pub run: fn(&Machine, u64) -> i64,
}

const fn admin(name: &'static str, often: u64, run: fn(&Machine, u64) -> i64) -> AdminKind {
    AdminKind { name, often, run }
}

pub const ADMIN: &[AdminKind] = &[
    admin("unbind", 4, |m, n| unbind(m, place(n))),
    admin("bind", 4, |m, n| bind(m, place(n))),
    admin("unbind_and_bind", 4, |m, n| {
        let r = unbind(m, place(n));
        bind(m, place(n)).min(r)
    }),
    admin("mount", 5, |m, n| mount(m, 2 + n as usize % 2)),
    admin("umount", 3, |m, n| umount(m, 2 + n as usize % 2, 0)),
    admin("umount_lazily", 1, |m, n| {
        umount(m, 2 + n as usize % 2, libc::MNT_DETACH)
    }),
    admin("attribute_read", 3, attribute_read),
    admin("attribute_write", 4, attribute_write),
    admin("lease_break_time", 1, |m, n| {
        let values = ["0", "1", "0", "x"];
        let value = values[(n >> 8) as usize % values.len()];
        let disk = &m.disk[place(n)];
        put(
            &format!("/sys/class/rpmem/r{disk}/lease_break_time"),
            value.as_bytes(),
        )
    }),
    admin("open_to_all", 2, |m, n| open_to_all(m, place(n))),
    admin("read_only", 2, |m, n| {
        let region = &m.regions[n as usize % m.regions.len()];
        let file = format!("/sys/bus/nd/devices/{region}/read_only");
        put(&file, b"1").min(put(&file, b"0"))
    }),
    admin("region", 1, |m, n| {
        set_up_region(&m.regions[n as usize % m.regions.len()])
    }),
    admin("reload", 2, |m, _| reload(m)),
    admin("sync", 1, |_, _| call(libc::SYS_sync, [0; 6])),
    admin("drop_caches", 2, |_, _| {
        put("/proc/sys/vm/drop_caches", b"3")
    }),
];

/// Disable and enable a region, one administrator at a time and with its devices settled in
/// between. nd_region_remove() (drivers/nvdimm/region.c) does not see devices that
/// nd_device_register() (drivers/nvdimm/bus.c) has yet to add: they would stay, beside those of the
/// next time with the same labels, whatever the driver.
pub fn set_up_region(region: &str) -> i64 {
    use std::os::fd::AsRawFd;
    let dir = match std::fs::File::open(format!("/sys/bus/nd/devices/{region}")) {
        Ok(f) => f,
        Err(e) => return errno(e),
    };
    let lock = [dir.as_raw_fd() as u64, libc::LOCK_EX as u64, 0, 0, 0, 0];
    let r = call(SYS_flock, lock);
    if r < 0 {
        return r;
    }
    crate::support::ctx::settle();
    let dir = "/sys/bus/nd/drivers/nd_region";
    let r = put(&format!("{dir}/unbind"), region.as_bytes());
    let r = r.min(put(&format!("{dir}/bind"), region.as_bytes()));
    crate::support::ctx::settle();
    r
}

/// Everybody may open the node of a namespace, until it is bound anew.
pub fn open_to_all(m: &Machine, n: usize) -> i64 {
    use std::os::unix::fs::PermissionsExt;
    let all = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(format!("/dev/r{}", m.disk[n]), all).map_or_else(errno, |()| 0)
}

fn place(n: u64) -> usize {
    n as usize % SPACES.len()
}

fn errno(e: std::io::Error) -> i64 {
    -i64::from(e.raw_os_error().unwrap_or(1))
}

fn put(file: &str, text: &[u8]) -> i64 {
    use std::io::Write;
    let f = std::fs::OpenOptions::new().write(true).open(file);
    match f.and_then(|mut f| f.write(text)) {
        Ok(n) => n as i64,
        Err(e) => errno(e),
    }
}

/// The device that carries the disk of a namespace: it gets another name whenever the region is
/// set up anew.
pub fn carrier(n: usize) -> Option<String> {
    let dir = std::path::Path::new("/sys/bus/nd/devices");
    let word = |dev: &str, file: &str| -> Option<String> {
        let text = std::fs::read_to_string(dir.join(dev).join(file)).ok()?;
        Some(text.trim().to_string())
    };
    let name = format!("fuzz-{}", SPACES[n].name);
    std::fs::read_dir(dir).ok()?.flatten().find_map(|e| {
        let dev = e.file_name().to_string_lossy().into_owned();
        if word(&dev, "alt_name")? != name {
            return None;
        }
        let holder = word(&dev, "holder")?;
        Some(if holder.is_empty() { dev } else { holder })
    })
}

/// Write the name of the device of a namespace to a file of the driver.
fn tell_driver(m: &Machine, n: usize, file: &str) -> i64 {
    let Some(nd) = carrier(n) else {
        return -i64::from(libc::ENODEV);
    };
    put(
        &format!("/sys/bus/nd/drivers/{}/{file}", m.driver),
        nd.as_bytes(),
    )
}

pub fn unbind(m: &Machine, n: usize) -> i64 {
    tell_driver(m, n, "unbind")
}

pub fn bind(m: &Machine, n: usize) -> i64 {
    tell_driver(m, n, "bind")
}

/// Mount a disk, unless a file system of a disk of this name lives: if that disk has been unbound
/// and is back, the new file system would register in /proc and sysfs by the name that the old one
/// has still, of which proc_register() (fs/proc/generic.c, from jbd2_journal_init_inode()) and
/// sysfs_warn_dup() (fs/sysfs/dir.c) warn. That is so with any disk that is pulled out under ext4
/// or xfs, whatever its driver.
pub fn mount(m: &Machine, n: usize) -> i64 {
    let disk = &m.disk[n];
    let names = [
        format!("/proc/fs/jbd2/{disk}-8"),
        format!("/sys/fs/ext4/{disk}"),
        format!("/sys/fs/xfs/{disk}"),
    ];
    if names.iter().any(|n| std::path::Path::new(n).exists()) {
        return -i64::from(libc::EBUSY);
    }
    let c = |s: String| CString::new(s).unwrap_or_default();
    let fs = c(SPACES[n].fs.unwrap_or_default().to_string());
    let (dev, at) = (c(format!("/dev/{}", m.disk[n])), c(m.mount[n].clone()));
    let a = [
        dev.as_ptr() as u64,
        at.as_ptr() as u64,
        fs.as_ptr() as u64,
        0,
    ];
    call(
        libc::SYS_mount,
        [a[0], a[1], a[2], a[3], c"dax".as_ptr() as u64, 0],
    )
}

pub fn umount(m: &Machine, n: usize, flags: i32) -> i64 {
    let at = CString::new(m.mount[n].as_str()).unwrap_or_default();
    call(
        libc::SYS_umount2,
        [at.as_ptr() as u64, flags as u64, 0, 0, 0, 0],
    )
}

fn attribute_read(m: &Machine, n: u64) -> i64 {
    const OF_DISK: &[&str] = &[
        "badblocks",
        "dax/write_cache",
        "size",
        "ro",
        "stat",
        "inflight",
        "range",
        "queue/dax",
        "queue/write_cache",
        "queue/fua",
        "queue/logical_block_size",
        "queue/stable_writes",
        "integrity/format",
        "uevent",
    ];
    const OF_ND: &[&str] = &[
        "size",
        "resource",
        "uuid",
        "mode",
        "modalias",
        "holder",
        "numa_node",
    ];
    let (space, pick) = (place(n), (n >> 8) as usize);
    let file = match pick % (OF_DISK.len() + OF_ND.len()) {
        i if i < OF_DISK.len() => format!("/sys/block/{}/{}", m.disk[space], OF_DISK[i]),
        i => format!(
            "/sys/bus/nd/devices/{}/{}",
            carrier(space).unwrap_or_default(),
            OF_ND[i - OF_DISK.len()]
        ),
    };
    std::fs::read(file).map_or_else(errno, |b| b.len() as i64)
}

/// Attributes of the disk, valid values and others. Those of the namespace would make another one
/// of it.
fn attribute_write(m: &Machine, n: u64) -> i64 {
    const FILES: &[(&str, &[&str])] = &[
        (
            "dax/write_cache",
            &["0", "1", "1\n", "2", "x", "", "on", "-1"],
        ),
        ("queue/read_ahead_kb", &["0", "128", "4294967295", "x"]),
        ("queue/iostats", &["0", "1", "2"]),
        ("queue/nomerges", &["0", "2"]),
        ("queue/write_cache", &["write through", "write back", "x"]),
        ("queue/max_sectors_kb", &["4", "1280", "0", "99999999"]),
        ("queue/rotational", &["0", "1"]),
        ("uevent", &["change", "add", "x"]),
        ("badblocks", &["0 8", "x"]),
    ];
    let (space, pick) = (place(n), (n >> 8) as usize);
    let (file, values) = FILES[pick % FILES.len()];
    let value = values[(n >> 16) as usize % values.len()];
    put(
        &format!("/sys/block/{}/{file}", m.disk[space]),
        value.as_bytes(),
    )
}

/// rmmod, which is refused while anybody has a disk open, and insmod.
fn reload(m: &Machine) -> i64 {
    let name = CString::new(m.driver.as_str()).unwrap_or_default();
    let flags = libc::O_NONBLOCK as u64;
    let r = call(
        libc::SYS_delete_module,
        [name.as_ptr() as u64, flags, 0, 0, 0, 0],
    );
    if r < 0 {
        return r;
    }
    load(m)
}

pub fn load(m: &Machine) -> i64 {
    use std::os::fd::AsRawFd;
    if m.driver != "rpmem" {
        let r = std::process::Command::new("modprobe")
            .arg(&m.driver)
            .status();
        return r.map_or_else(errno, |s| -i64::from(s.code().unwrap_or(1)));
    }
    let params = CString::new(m.params.as_str()).unwrap_or_default();
    match std::fs::File::open(crate::support::ctx::init_ko()) {
        Ok(f) => {
            let f = f.as_raw_fd() as u64;
            call(
                libc::SYS_finit_module,
                [f, params.as_ptr() as u64, 0, 0, 0, 0],
            )
        }
        Err(e) => errno(e),
    }
}
