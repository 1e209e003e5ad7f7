// SPDX-License-Identifier: GPL-2.0
//! The machine of the fuzzer, its nodes, and the process that a program runs in.

use crate::fuzz::program::{Val, BAD, FDS, GIB, KEPT_END, KEPT_START, LARGE, SPACING};
use crate::support::sys::call;
use libc::{SYS_close, SYS_mmap, SYS_munmap};
use std::ffi::CString;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize};
use std::sync::OnceLock;

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
        options: &["-m", "fsdax", "-M", "dev", "-s", "384M"],
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
pub const BLK: u32 = 1;
pub const BLK_MOUNTED: u32 = 2;
pub const FILE: u32 = 4;
pub const MAP: u32 = 8;

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
pub const ARENA_LEN: u64 = (2 * LARGE as u64 + 2) * GIB;

static ARENA: AtomicU64 = AtomicU64::new(LOW);

pub const BUFFER: u64 = LOW - (64 << 20);
pub const BUFFER_LEN: u64 = 1 << 20;
pub const PAGE: u64 = 4096;
const NO_ACCESS: u64 = BUFFER + BUFFER_LEN;
pub const READ_ONLY: u64 = NO_ACCESS + PAGE;

pub static FD: [AtomicI32; FDS] = [const { AtomicI32::new(-1) }; FDS];

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

pub fn bad(n: u8) -> u64 {
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
pub fn guard(off: u64, len: u64) -> (u64, u64) {
    if off >= KEPT_END || off.saturating_add(len) <= KEPT_START || len == 0 {
        return (off, len);
    }
    if off < KEPT_START {
        return (off, KEPT_START - off);
    }
    (KEPT_END + off % PAGE, len)
}
