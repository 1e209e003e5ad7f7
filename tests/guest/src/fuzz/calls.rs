// SPDX-License-Identifier: GPL-2.0
//! The system calls of programs.

use crate::fuzz::ioctls::{ioctl, ioctl_bad_pointer, ioctl_unknown};
use crate::fuzz::machine::{bad, guard, value, BUFFER, BUFFER_LEN, PAGE, READ_ONLY};
use crate::fuzz::own::{
    close, copy_file_range, dup, fcntl_setown, flock, fork, fork_without, futex_wake,
    io_uring_buffers, io_uring_rw, madvise, mmap, mmap_anonymous, mmap_large, mremap, open, poll,
    preadv2, prefault_large, proc_mem_read, proc_mem_write, process_vm_readv, process_vm_writev,
    ptrace_peek, pwritev2, sendfile, splice_from, splice_to, touch, userfaultfd, vmsplice, write,
};
use crate::fuzz::program::{Arg, Val, GIB};
use crate::fuzz::{others, users};
use crate::support::arch::SYS_FADVISE64;
use crate::support::node::DIRECT_WINDOW;
use crate::support::sys::call;
use libc::{
    SYS_fallocate, SYS_fcntl, SYS_fdatasync, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate,
    SYS_lseek, SYS_mincore, SYS_mlock2, SYS_mprotect, SYS_msync, SYS_munlock, SYS_munmap,
    SYS_pread64, SYS_pwrite64, SYS_read, SYS_readahead, SYS_sync_file_range,
};
use Arg::{
    Aligned, Any, Buf, Fd, FdSlot, Flags, Is, LargeSlot, Len, Map, MapSlot, Off, One, PipeRead,
    Range, Whole,
};
use Run::{Call, Own};

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
        Call(SYS_FADVISE64),
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
