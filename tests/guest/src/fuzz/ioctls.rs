// SPDX-License-Identifier: GPL-2.0
//! The ioctls of the nodes, and those that none has.

use crate::fuzz::calls::{Hope, KINDS};
use crate::fuzz::machine::{
    bad, fd, guard, node_of, value, BLK, BLK_MOUNTED, BUFFER, FILE, MAP, NODES,
};
use crate::fuzz::program::{Val, BAD, FDS, KEPT_END, KEPT_START, LARGE, MAPS};
use crate::fuzz::run;
use crate::support::sys::call;
use To::{Answer, Bytes, Number, Span, Values};

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

pub const RPMEM_PREFAULT: u64 = 0xbd01;

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

pub fn ioctl(v: &[Val]) -> i64 {
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

pub fn ioctl_bad_pointer(v: &[Val]) -> i64 {
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

pub fn ioctl_unknown(v: &[Val]) -> i64 {
    // Of a type that no driver has.
    let nr = (value(v[1], v[0]) & 0xffff_00ff) | 0xee00;
    let arg = if value(v[2], v[0]) & 1 == 0 {
        BUFFER
    } else {
        value(v[2], v[0])
    };
    call(libc::SYS_ioctl, [fd(v[0]), nr, arg, 0, 0, 0])
}
