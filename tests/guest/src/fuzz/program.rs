// SPDX-License-Identifier: GPL-2.0
//! Programs of the fuzzer: drawn from a seed, the same for the same seed on every machine.
//!
//! Nothing here looks at the machine: what depends on it (the size of a disk, the number of a
//! descriptor) stays symbolic until the program runs.

use crate::fuzz::admin::ADMIN;
use crate::fuzz::calls::KINDS;
use crate::fuzz::ioctls::IOCTLS;
use crate::fuzz::machine::{At, NODES};
use std::fmt;

/// Descriptors and mappings that the threads of a process share.
pub const FDS: usize = 8;
pub const MAPS: usize = 6;
/// Addresses that each mapping has for itself; no call about addresses reaches beyond the last.
pub const SPACING: u64 = 16 << 20;

/// Larger places behind those, for entries of 1 GiB: with a gap behind each, to be moved to in part.
pub const LARGE: usize = 3;
pub const GIB: u64 = 1 << 30;

/// No program writes to these bytes of any node; see `Machine::guard`.
pub const KEPT_START: u64 = 32 << 20;
pub const KEPT_END: u64 = 36 << 20;

/// splitmix64
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64, round: u64, strand: u64) -> Rng {
        let mut r = Rng(seed);
        for v in [round, strand] {
            r.0 = r.next() ^ v.wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        r
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick(&mut self, list: &[u64]) -> u64 {
        list[self.below(list.len() as u64) as usize]
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// What an argument of a call may be.
#[derive(Clone, Copy)]
pub enum Arg {
    /// An open descriptor.
    Fd,
    /// The place of a descriptor, to be filled.
    FdSlot,
    Node,
    /// Offset and length of I/O.
    Off,
    Len,
    /// Memory to read to or to write from: a buffer, a mapping, a bad pointer.
    Buf,
    /// A mapping, its place, and a length of addresses.
    Map,
    MapSlot,
    LargeSlot,
    Range,
    /// Offset and length to map: of more than most calls look at.
    Aligned,
    Whole,
    /// One of these, or a combination of them.
    One(&'static [u64]),
    Flags(&'static [u64]),
    Is(u64),
    /// The pipe of the process, to read from.
    PipeRead,
    /// Any number.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Val {
    Num(u64),
    Fd(u8),
    Node(u8),
    /// Relative to the end of the node.
    End(i32),
    Buf(u32),
    Map(u8, u32),
    /// The same in a large place.
    Large(u8, u32),
    Bad(u8),
    Pipe(u8),
}

impl fmt::Display for Val {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Val::Num(n) if n < 10 => write!(f, "{n}"),
            Val::Num(n) => write!(f, "{n:#x}"),
            Val::Fd(n) => write!(f, "fd{n}"),
            Val::Node(n) => f.write_str(NODES[n as usize].name),
            Val::End(d) => write!(f, "end{d:+}"),
            Val::Buf(d) => write!(f, "buf+{d:#x}"),
            Val::Map(n, d) => write!(f, "map{n}+{d:#x}"),
            Val::Large(n, d) => write!(f, "large{n}+{d:#x}"),
            Val::Bad(n) => write!(f, "bad{n}"),
            Val::Pipe(n) => write!(f, "pipe{n}"),
        }
    }
}

/// Kinds of bad pointers, see `Machine::bad`.
pub const BAD: u64 = 6;

/// A page of a large place: where it, or an entry of 2 MiB, begins and ends, and any.
fn large(rng: &mut Rng) -> Val {
    let huge = rng.below(512) * (2 << 20);
    let at = match rng.below(10) {
        0..=2 => 0,
        3 => 4096,
        4 => GIB - 4096,
        5 => huge,
        6 => huge + (2 << 20) - 4096,
        _ => rng.below(GIB / 4096) * 4096,
    };
    Val::Large(rng.below(LARGE as u64) as u8, at as u32)
}

fn draw(rng: &mut Rng, arg: Arg, wild: bool) -> Val {
    // A wild call has some arguments in order, or it would fail at the first check.
    let wild = wild && rng.percent(50);
    match arg {
        Arg::Fd | Arg::FdSlot => Val::Fd(rng.below(FDS as u64) as u8),
        Arg::Node => Val::Node(rng.below(NODES.len() as u64) as u8),
        Arg::Off | Arg::Aligned if wild => match rng.below(20) {
            0..=7 => Val::End(rng.pick(&[
                -4097i32 as u64,
                -4096i32 as u64,
                -513i32 as u64,
                -512i32 as u64,
                -1i32 as u64,
                0,
                1,
                511,
                512,
                4096,
                1 << 20,
            ]) as i32),
            8..=11 => Val::Num(rng.pick(&[
                KEPT_START - 4096,
                KEPT_START - 512,
                KEPT_START - 1,
                KEPT_START,
                KEPT_END - 1,
                KEPT_END,
                KEPT_END + 1,
            ])),
            12..=15 => Val::Num(rng.below(64 << 20)),
            _ => Val::Num(rng.pick(&[
                1,
                511,
                4095,
                1 << 31,
                1 << 40,
                i64::MAX as u64 - 4095,
                i64::MAX as u64,
                1 << 63,
                u64::MAX - 4095,
                u64::MAX,
            ])),
        },
        Arg::Off => match rng.below(8) {
            0 => Val::End(-(4096 * (1 + rng.below(256) as i32))),
            1 => Val::Num(rng.below(64 << 11) * 512),
            2 => Val::Num(rng.below(32) * (2 << 20)),
            _ => Val::Num(rng.below(1024) * 4096),
        },
        Arg::Aligned => Val::Num(match rng.below(4) {
            0 => rng.below(1024) * 4096,
            1 => rng.below(24) * (2 << 20),
            _ => 0,
        }),
        Arg::Len if wild => Val::Num(rng.pick(&[
            0,
            1,
            511,
            513,
            4095,
            4097,
            (1 << 20) - 1,
            (1 << 20) + 1,
            1 << 31,
            1 << 40,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 4095,
            u64::MAX,
        ])),
        Arg::Len => Val::Num(rng.pick(&[512, 4096, 4096, 8192, 12288, 65536, 1 << 20])),
        Arg::Buf if rng.percent(5) => large(rng),
        Arg::Buf if wild => match rng.below(3) {
            0 => Val::Buf(rng.pick(&[1, 511, 512, 4095, (1 << 20) - 1, (1 << 20) - 512]) as u32),
            1 => Val::Map(rng.below(MAPS as u64) as u8, rng.below(SPACING) as u32),
            _ => Val::Bad(rng.below(BAD) as u8),
        },
        Arg::Buf => match rng.below(4) {
            0 => Val::Map(rng.below(MAPS as u64) as u8, (rng.below(256) * 4096) as u32),
            _ => Val::Buf((rng.below(4) * 4096) as u32),
        },
        Arg::Map if rng.percent(35) => large(rng),
        Arg::Map if wild => match rng.below(4) {
            // Not the last two, which are to stay as they are.
            0 => Val::Bad(rng.below(BAD - 2) as u8),
            1 => Val::Map(rng.below(MAPS as u64) as u8, rng.below(4096) as u32),
            _ => Val::Map(
                rng.below(MAPS as u64) as u8,
                (rng.below(SPACING / 4096) * 4096) as u32,
            ),
        },
        Arg::Map => Val::Map(
            rng.below(MAPS as u64) as u8,
            rng.pick(&[0, 0, 0, 0, 4096, 32768, 2 << 20]) as u32,
        ),
        Arg::LargeSlot => Val::Large(rng.below(LARGE as u64) as u8, 0),
        Arg::MapSlot if rng.percent(15) => large(rng),
        Arg::MapSlot => Val::Map(rng.below(MAPS as u64) as u8, 0),
        // From the arena on a length either stays in it or wraps: behind it is the memory of the
        // fuzzer itself.
        Arg::Range | Arg::Whole if wild => Val::Num(rng.pick(&[
            0,
            1,
            4095,
            4097,
            (2 << 20) + 1,
            SPACING,
            u64::MAX - 4095,
            u64::MAX,
        ])),
        Arg::Range => Val::Num(rng.pick(&[4096, 4096, 8192, 65536, 2 << 20])),
        Arg::Whole => Val::Num(rng.pick(&[65536, 1 << 20, 2 << 20, 4 << 20])),
        Arg::One(list) if wild && rng.percent(30) => {
            Val::Num(rng.pick(list) ^ (1 << rng.below(32)))
        }
        Arg::One(list) => Val::Num(rng.pick(list)),
        Arg::Flags(list) => {
            let mut v = rng.pick(list);
            if wild || rng.percent(20) {
                v |= rng.pick(list);
            }
            if wild && rng.percent(30) {
                v ^= 1 << rng.below(32);
            }
            Val::Num(v)
        }
        Arg::Is(n) => Val::Num(n),
        Arg::PipeRead => Val::Pipe(0),
        Arg::Any => Val::Num(rng.next() >> 16),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    pub kind: usize,
    pub vals: [Val; 6],
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let k = &KINDS[self.kind];
        write!(f, "{}(", k.name)?;
        for (n, v) in self.vals[..k.args.len()].iter().enumerate() {
            write!(f, "{}{v}", if n > 0 { ", " } else { "" })?;
        }
        f.write_str(")")
    }
}

/// Lengths for addresses in a large place. Often all are the same: who moves something may not want
/// less of it.
fn lengthen(rng: &mut Rng, args: &[Arg], vals: &mut [Val; 6]) {
    const LENGTHS: &[u64] = &[4096, 8192, 2 << 20, 2 << 20, GIB / 2, GIB, GIB];
    let (same, all) = (rng.percent(60), rng.pick(LENGTHS));
    for (v, a) in vals.iter_mut().zip(args) {
        if matches!(a, Arg::Range) {
            *v = Val::Num(if same { all } else { rng.pick(LENGTHS) });
        }
    }
}

fn op(rng: &mut Rng, kind: usize, wild: bool) -> Op {
    let mut vals = [Val::Num(0); 6];
    for (v, a) in vals.iter_mut().zip(KINDS[kind].args) {
        *v = draw(rng, *a, wild);
    }
    if vals.iter().any(|v| matches!(v, Val::Large(..))) {
        lengthen(rng, KINDS[kind].args, &mut vals);
    }
    Op { kind, vals }
}

fn kind_named(name: &str) -> usize {
    let k = KINDS.iter().position(|k| k.name == name);
    k.unwrap_or_else(|| panic!("no call {name}"))
}

fn node_named(name: &str) -> usize {
    let n = NODES.iter().position(|n| n.name == name);
    n.unwrap_or_else(|| panic!("no node {name}"))
}

/// What a process starts with: descriptors of some nodes, and mappings of them.
fn prologue(rng: &mut Rng, ops: &mut Vec<Op>) {
    let (open, map, touch) = (kind_named("open"), kind_named("mmap"), kind_named("touch"));
    // Of partitions, there are none yet.
    let nodes = (0..NODES.len()).filter(|n| !matches!(NODES[*n].at, At::Partition(_)));
    let nodes: Vec<usize> = nodes.collect();
    let first = rng.below(nodes.len() as u64) as usize;
    for n in 0..FDS {
        let mut o = op(rng, open, false);
        o.vals[0] = Val::Fd(n as u8);
        o.vals[1] = Val::Node(nodes[(first + n) % nodes.len()] as u8);
        ops.push(o);
    }
    // Before anything else is in the page tables around it.
    let (map_large, prefault) = (kind_named("mmap_large"), kind_named("prefault_large"));
    for n in 0..LARGE {
        let mut o = op(rng, map_large, false);
        o.vals[0] = Val::Large(n as u8, 0);
        let kind = if rng.percent(50) { prefault } else { touch };
        let mut next = op(rng, kind, false);
        next.vals[0] = o.vals[0];
        // What fails there must not look for tables that are not there: stores to what is read-only.
        if n == 0 && rng.percent(60) {
            (o.vals[3], o.vals[4]) = (N1, SYNC);
            next = op(rng, prefault, false);
            (next.vals[0], next.vals[2]) = (o.vals[0], N1);
        }
        ops.extend([o, next]);
    }
    for n in 0..MAPS {
        let mut o = op(rng, map, false);
        o.vals[0] = Val::Map(n as u8, 0);
        o.vals[1] = Val::Fd(n as u8);
        ops.push(o);
        ops.push(op(rng, touch, false));
    }
}

/// `n` calls as they come, by their weights.
pub fn calls(rng: &mut Rng, n: u64) -> Vec<Op> {
    let sum: u64 = KINDS.iter().map(|k| k.often).sum();
    let mut ops = Vec::new();
    for _ in 0..n {
        let mut at = rng.below(sum);
        let mut kind = 0;
        while at >= KINDS[kind].often {
            at -= KINDS[kind].often;
            kind += 1;
        }
        let wild = rng.percent(40);
        ops.push(op(rng, kind, wild));
    }
    ops
}

/// Something that the administrator of the machine does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    pub kind: usize,
    pub arg: u64,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}({:#x})", ADMIN[self.kind].name, self.arg)
    }
}

/// Who runs a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum User {
    #[default]
    Root,
    /// Somebody else, with the descriptors of root, or with what he may open himself.
    Heir,
    Other,
    /// Somebody else with a user and a mount namespace of his own.
    Apart,
}

/// A process with threads and children that share its descriptors and mappings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its mappings are above 1 << 47, if the machine has five levels of page tables.
    pub high: bool,
    pub user: User,
    pub first: Vec<Op>,
    pub threads: Vec<Vec<Op>>,
    /// Each has a second thread, which the end of the first one takes along.
    pub children: Vec<[Vec<Op>; 2]>,
}

const N0: Val = Val::Num(0);
const N1: Val = Val::Num(1);
const N2: Val = Val::Num(2);
const N3: Val = Val::Num(3);
const PAGE: Val = Val::Num(4096);
const LONG: Val = Val::Num(65536);
const FD: Val = Val::Fd(0);
const MAP: Val = Val::Map(0, 0);
const ANON: Val = Val::Map(1, 0);
const BUF: Val = Val::Buf(0);
const LARGE0: Val = Val::Large(0, 0);
const SYNC: Val = Val::Num(0x80003);

/// What the first descriptors are of, in `GOOD`.
const GOOD_NODES: &[&str] = &["ext4/f0", "ext4/f1", "raw/map"];

/// Calls that succeed, of kinds that rarely do with arguments as they come: on two files of one
/// file system, then on the node that maps a disk, whose mapping is cut in two.
const GOOD: &[(&str, &[Val])] = &[
    ("mmap", &[MAP, FD, N0, LONG, N3, N1]),
    ("mmap_anonymous", &[ANON, LONG, N3, N2]),
    ("touch", &[MAP, N1, Val::Num(4), PAGE]),
    ("touch", &[ANON, N1, Val::Num(4), PAGE]),
    ("write", &[FD, BUF, PAGE, N0]),
    ("pwrite", &[FD, BUF, PAGE, N0]),
    ("pwritev2", &[FD, BUF, PAGE, N0, N2]),
    ("preadv2", &[FD, BUF, PAGE, N0, N0]),
    ("fallocate", &[FD, N0, N0, PAGE]),
    ("copy_file_range", &[FD, N0, Val::Fd(1), N0, PAGE]),
    ("sendfile", &[FD, N0, Val::Fd(1), N0, PAGE]),
    ("splice_from", &[FD, N0, PAGE, N2]),
    ("splice_to", &[FD, N0, PAGE, N2]),
    ("pipe_drain", &[]),
    ("vmsplice", &[MAP, PAGE, N2]),
    ("io_uring_rw", &[FD, BUF, PAGE, N0, Val::Num(22), N0]),
    ("io_uring_rw", &[FD, BUF, PAGE, N0, Val::Num(23), N0]),
    ("io_uring_buffers", &[ANON, PAGE]),
    ("process_vm_readv", &[MAP, BUF, PAGE]),
    ("process_vm_writev", &[MAP, BUF, PAGE]),
    ("proc_mem_read", &[MAP, BUF, PAGE]),
    ("proc_mem_write", &[MAP, BUF, PAGE]),
    ("ptrace_peek", &[MAP, N1]),
    ("futex_wake", &[MAP, N0]),
    ("userfaultfd", &[ANON, PAGE, N1]),
    ("mincore", &[MAP, PAGE]),
    ("mprotect", &[MAP, PAGE, N3]),
    ("madvise", &[MAP, PAGE, Val::Num(4)]),
    ("msync", &[MAP, PAGE, Val::Num(4)]),
    ("mlock", &[MAP, PAGE, N0]),
    ("munlock", &[MAP, PAGE]),
    ("mremap", &[MAP, LONG, LONG, N3, Val::Map(2, 0)]),
    ("munmap", &[Val::Map(2, 0), LONG]),
    ("ftruncate", &[FD, LONG]),
    ("send_fd", &[FD, N0]),
    ("receive_fd", &[FD]),
    ("process_madvise", &[ANON, PAGE, Val::Num(20)]),
    (
        "mmap_large",
        &[LARGE0, Val::Num(GIB), Val::Num(GIB), N3, SYNC],
    ),
    ("prefault_large", &[LARGE0, Val::Num(GIB), N1]),
    ("mmap", &[MAP, Val::Fd(2), N0, LONG, N3, N1]),
    ("touch", &[MAP, N1, Val::Num(4), PAGE]),
    ("msync", &[MAP, PAGE, Val::Num(4)]),
    ("mprotect", &[MAP, PAGE, N1]),
];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub number: u64,
    pub groups: Vec<Group>,
    pub admins: Vec<Vec<Deed>>,
}

pub const GROUPS: usize = 3;
const LENGTH: u64 = 36;

impl Round {
    pub fn new(seed: u64, number: u64) -> Round {
        if number == 0 {
            return Round::calm(seed);
        }
        let mut rng = Rng::new(seed, number, u64::MAX);
        let mut r = Round {
            number,
            ..Round::default()
        };
        for g in 0..GROUPS as u64 {
            let strand = |n: u64| Rng::new(seed, number, g * 16 + n);
            let mut group = Group {
                high: rng.percent(50),
                user: match rng.below(8) {
                    0 => User::Heir,
                    1 => User::Other,
                    2 => User::Apart,
                    _ => User::Root,
                },
                ..Group::default()
            };
            prologue(&mut strand(0), &mut group.first);
            for t in 0..1 + rng.below(2) {
                group.threads.push(calls(&mut strand(1 + t), LENGTH));
            }
            for c in 0..rng.below(2) {
                group.children.push([
                    calls(&mut strand(4 + 2 * c), LENGTH / 2),
                    calls(&mut strand(5 + 2 * c), LENGTH),
                ]);
            }
            r.groups.push(group);
        }
        let sum: u64 = ADMIN.iter().map(|k| k.often).sum();
        for a in 0..1 + rng.below(2) {
            let mut rng = Rng::new(seed, number, 1000 + a);
            let mut deeds = Vec::new();
            for _ in 0..5 + rng.below(5) {
                let mut at = rng.below(sum);
                let mut kind = 0;
                while at >= ADMIN[kind].often {
                    at -= ADMIN[kind].often;
                    kind += 1;
                }
                let arg = rng.next() >> 32;
                deeds.push(Deed { kind, arg });
            }
            r.admins.push(deeds);
        }
        r
    }

    /// Round 0: every call with arguments that are in order, several times, every ioctl on every
    /// node that has it, and nobody disturbs. What never succeeds here is broken in the fuzzer, or
    /// in what is tested.
    fn calm(seed: u64) -> Round {
        let mut rng = Rng::new(seed, 0, 0);
        let mut ops = Vec::new();
        prologue(&mut rng, &mut ops);
        for (kind, k) in KINDS.iter().enumerate() {
            for _ in 0..k.calm {
                ops.push(op(&mut rng, kind, false));
            }
        }
        let (open, close, ioctl) = (kind_named("open"), kind_named("close"), kind_named("ioctl"));
        // Nobody is to have a disk for himself.
        for n in 0..FDS {
            let mut o = op(&mut rng, close, false);
            o.vals[0] = Val::Fd(n as u8);
            ops.push(o);
        }
        for (n, node) in NODES.iter().enumerate() {
            let fd = Val::Fd((n % FDS) as u8);
            let mut o = op(&mut rng, open, false);
            (o.vals[0], o.vals[1], o.vals[2]) = (fd, Val::Node(n as u8), Val::Num(0));
            ops.push(o);
            let all = IOCTLS.iter().filter(|i| i.classes & node.ioctls != 0);
            let all = all.count();
            for which in 0..2 * all {
                let mut o = op(&mut rng, ioctl, false);
                (o.vals[0], o.vals[1]) = (fd, Val::Num(which as u64));
                if which < all {
                    // Of values to choose from, one that every ioctl takes.
                    o.vals[4] = Val::Num(33);
                }
                ops.push(o);
            }
        }
        for (n, name) in GOOD_NODES.iter().enumerate() {
            let mut o = op(&mut rng, open, false);
            let node = node_named(name) as u8;
            (o.vals[0], o.vals[1], o.vals[2]) = (Val::Fd(n as u8), Val::Node(node), N0);
            ops.push(o);
        }
        for (name, args) in GOOD {
            let mut o = op(&mut rng, kind_named(name), false);
            o.vals[..args.len()].copy_from_slice(args);
            ops.push(o);
        }
        let group = Group {
            high: true,
            threads: vec![ops],
            ..Group::default()
        };
        Round {
            groups: vec![group],
            ..Round::default()
        }
    }

    /// The program in words, one call a line.
    pub fn text(&self) -> String {
        use fmt::Write;
        let mut t = String::new();
        let mut part = |name: String, ops: &[Op]| {
            let _ = writeln!(t, "{name}:");
            for o in ops {
                let _ = writeln!(t, "  {o}");
            }
        };
        for (g, group) in self.groups.iter().enumerate() {
            let (high, user) = (group.high, group.user);
            let place = if high { "high" } else { "low" };
            part(format!("process {g} ({place}, {user:?})"), &group.first);
            for (n, ops) in group.threads.iter().enumerate() {
                part(format!("process {g} thread {n}"), ops);
            }
            for (n, ops) in group.children.iter().enumerate() {
                part(format!("process {g} child {n}"), &ops[0]);
                part(format!("process {g} child {n} thread"), &ops[1]);
            }
        }
        for (n, deeds) in self.admins.iter().enumerate() {
            let _ = writeln!(t, "administrator {n}:");
            for d in deeds {
                let _ = writeln!(t, "  {d}");
            }
        }
        t
    }

    pub fn calls(&self) -> usize {
        let g = |g: &Group| {
            g.threads.iter().map(Vec::len).sum::<usize>()
                + g.children
                    .iter()
                    .map(|c| c[0].len() + c[1].len())
                    .sum::<usize>()
        };
        self.groups.iter().map(g).sum()
    }
}

/// FNV-1a, for a word about a program in a log.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_calls_are_what_they_say() {
        let ext4 = |name| matches!(NODES[node_named(name)].at, At::File(2, _));
        assert!(ext4(GOOD_NODES[0]) && ext4(GOOD_NODES[1]));
        assert!(matches!(NODES[node_named(GOOD_NODES[2])].at, At::Map(_)));
        for (name, args) in GOOD {
            assert!(args.len() <= KINDS[kind_named(name)].args.len(), "{name}");
        }
    }

    #[test]
    fn same_seed_same_program() {
        for round in 0..20 {
            let a = Round::new(7, round);
            assert_eq!(a, Round::new(7, round));
            assert_ne!(a.text(), Round::new(8, round).text());
            assert_ne!(a.text(), Round::new(7, round + 1).text());
        }
    }
}
