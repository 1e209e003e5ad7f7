// SPDX-License-Identifier: GPL-2.0
//! Calls that take more than their arguments: what they are given is checked, or what they did is noted.

use crate::fuzz::calls::MUST_NOT;
use crate::fuzz::ioctls::RPMEM_PREFAULT;
use crate::fuzz::machine::{
    arena, fd, guard, machine, node_of, put_fd, value, ARENA_LEN, BUFFER, FD, MAP, NODES, PAGE,
};
use crate::fuzz::program::{Val, GIB, KEPT_END, KEPT_START, LARGE, SPACING};
use crate::fuzz::{others, run};
use crate::support::arch::SYS_SENDFILE;
use crate::support::node::DIRECT_WINDOW;
use crate::support::ring::Ring;
use crate::support::sys::call;
use libc::{
    SYS_close, SYS_copy_file_range, SYS_dup, SYS_fcntl, SYS_flock, SYS_futex, SYS_lseek,
    SYS_madvise, SYS_mincore, SYS_mmap, SYS_mremap, SYS_munmap, SYS_openat, SYS_pread64,
    SYS_preadv2, SYS_process_vm_readv, SYS_process_vm_writev, SYS_pwrite64, SYS_pwritev2, SYS_read,
    SYS_splice, SYS_vmsplice, SYS_write,
};
use std::ffi::CString;
use std::sync::atomic::Ordering::SeqCst;

/// For openat(2): the working directory.
const HERE: u64 = libc::AT_FDCWD as u64;

pub fn open(v: &[Val]) -> i64 {
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
        SYS_openat,
        [HERE, path, access | flags | libc::O_CLOEXEC as u64, 0, 0, 0],
    );
    if r >= 0 {
        put_fd(v[0], r, n);
    }
    r
}

pub fn close(v: &[Val]) -> i64 {
    let Val::Fd(n) = v[0] else { return 0 };
    let old = FD[n as usize].swap(-1, SeqCst);
    call(SYS_close, [old as i64 as u64, 0, 0, 0, 0, 0])
}

pub fn dup(v: &[Val]) -> i64 {
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
    let new = call(SYS_openat, [HERE, path.as_ptr() as u64, flags, 0, 0, 0]);
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

pub fn write(v: &[Val]) -> i64 {
    let (buf, len) = (value(v[1], v[0]), value(v[2], v[0]));
    at_position(v[0], v[3], len, |to, len| {
        call(SYS_write, [to, buf, len, 0, 0, 0])
    })
}

pub fn sendfile(v: &[Val]) -> i64 {
    let mut from = value(v[1], v[0]);
    let at = &raw mut from as u64;
    at_position(v[2], v[3], value(v[4], v[0]), |to, len| {
        call(SYS_SENDFILE, [to, fd(v[0]), at, len, 0, 0])
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

pub fn preadv2(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    vectored(SYS_preadv2, v, n(1), n(2), n(3))
}

pub fn pwritev2(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    let (off, len) = guard(n(3), n(2));
    if off == u64::MAX {
        // At the position of the descriptor, wherever that is.
        return -i64::from(libc::EINVAL);
    }
    vectored(SYS_pwritev2, v, n(1), len, off)
}

pub fn copy_file_range(v: &[Val]) -> i64 {
    let mut from = value(v[1], v[0]);
    let (mut to, len) = guard(value(v[3], v[2]), value(v[4], v[0]));
    let (a, b) = (&raw mut from as u64, &raw mut to as u64);
    call(SYS_copy_file_range, [fd(v[0]), a, fd(v[2]), b, len, 0])
}

pub fn splice_from(v: &[Val]) -> i64 {
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

pub fn splice_to(v: &[Val]) -> i64 {
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
pub fn vmsplice(v: &[Val]) -> i64 {
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
pub fn flock(v: &[Val]) -> i64 {
    let how = value(v[1], v[0]) | libc::LOCK_NB as u64;
    call(SYS_flock, [fd(v[0]), how, 0, 0, 0, 0])
}

/// Never waits, either.
pub fn futex_wake(v: &[Val]) -> i64 {
    let op = libc::FUTEX_WAKE as u64 | (value(v[1], v[0]) & 0x80);
    call(SYS_futex, [value(v[0], v[0]), op, 1, 0, 0, 0])
}

/// Who gets SIGIO, which is ignored: this process, or nobody.
pub fn fcntl_setown(v: &[Val]) -> i64 {
    let owner = match value(v[1], v[0]) & 3 {
        0 => 0,
        _ => u64::from(std::process::id()),
    };
    call(SYS_fcntl, [fd(v[0]), libc::F_SETOWN as u64, owner, 0, 0, 0])
}

/// Never waits.
pub fn poll(v: &[Val]) -> i64 {
    let mut p = libc::pollfd {
        fd: fd(v[0]) as i32,
        events: value(v[1], v[0]) as i16,
        revents: 0,
    };
    let at_once = [0u64; 2];
    let (files, time) = (&raw mut p as u64, &raw const at_once as u64);
    call(libc::SYS_ppoll, [files, 1, time, 0, 0, 0])
}

pub fn mmap(v: &[Val]) -> i64 {
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

pub fn mmap_anonymous(v: &[Val]) -> i64 {
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

pub fn mremap(v: &[Val]) -> i64 {
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
        SYS_openat,
        [HERE, path, (access | libc::O_CLOEXEC) as u64, 0, 0, 0],
    );
    if file < 0 {
        return file;
    }
    let r = f(file as u64);
    call(SYS_close, [file as u64, 0, 0, 0, 0, 0]);
    r
}

pub fn mmap_large(v: &[Val]) -> i64 {
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

pub fn prefault_large(v: &[Val]) -> i64 {
    let n = |i: usize| value(v[i], v[0]);
    let mut arg = [32 | (n(2) << 32), n(0) & !(PAGE - 1), n(1), 0];
    let p = arg.as_mut_ptr() as u64;
    with_large(false, |f| {
        call(libc::SYS_ioctl, [f, RPMEM_PREFAULT, p, 0, 0, 0])
    })
}

/// Not from a bad address up to the arena and beyond, where the memory of the fuzzer itself is, and not
/// to poison pages, which may be anybody's.
pub fn madvise(v: &[Val]) -> i64 {
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

pub fn touch(v: &[Val]) -> i64 {
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

pub fn process_vm_readv(v: &[Val]) -> i64 {
    process_vm(SYS_process_vm_readv, v)
}

pub fn process_vm_writev(v: &[Val]) -> i64 {
    process_vm(SYS_process_vm_writev, v)
}

fn proc_mem(nr: i64, v: &[Val]) -> i64 {
    let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
    let f = call(
        SYS_openat,
        [HERE, c"/proc/self/mem".as_ptr() as u64, flags, 0, 0, 0],
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

pub fn proc_mem_read(v: &[Val]) -> i64 {
    proc_mem(SYS_pread64, v)
}

pub fn proc_mem_write(v: &[Val]) -> i64 {
    proc_mem(SYS_pwrite64, v)
}

/// A word of a stopped child, which has the mappings, too.
pub fn ptrace_peek(v: &[Val]) -> i64 {
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
pub fn userfaultfd(v: &[Val]) -> i64 {
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

pub fn io_uring_rw(v: &[Val]) -> i64 {
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
pub fn io_uring_buffers(v: &[Val]) -> i64 {
    let ring = match Ring::new() {
        Ok(r) => r,
        Err(e) => return e,
    };
    ring.register(value(v[0], v[0]) as *const u8, value(v[1], v[0]) as usize)
}

/// A child with a short program of its own, on the descriptors and mappings of its parent.
pub fn fork(v: &[Val]) -> i64 {
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
pub fn fork_without(v: &[Val]) -> i64 {
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
