// SPDX-License-Identifier: GPL-2.0
//! What the fuzzer's processes do to each other: they pass descriptors, and look at and change each
//! other's memory.

use crate::fuzz::machine::{arena, fd, machine, node_of, put_fd, value};
use crate::fuzz::own;
use crate::fuzz::program::{Val, GROUPS};
use crate::fuzz::run::shared;
use crate::support::sys::call;
use libc::{SYS_close, SYS_process_madvise, SYS_ptrace, SYS_wait4};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

/// The group that this process belongs to.
static GROUP: AtomicUsize = AtomicUsize::new(0);

/// By group, the ends of a socket for descriptors: to send to it, and for it to receive.
static MAIL: [[AtomicI32; 2]; GROUPS] = [const { [const { AtomicI32::new(-1) }; 2] }; GROUPS];

const ESRCH: i64 = -(libc::ESRCH as i64);

/// The sockets, as the processes of a round inherit them. What is on its way goes with the last of
/// those.
pub struct Mail;

impl Mail {
    pub fn new() -> Result<Mail, String> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        for ends in &MAIL {
            let mut p = [0i32; 2];
            // SAFETY: an array of two descriptors.
            let r = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, p.as_mut_ptr()) };
            if r != 0 {
                return Err(format!("socketpair: {}", std::io::Error::last_os_error()));
            }
            for (end, new) in ends.iter().zip(p) {
                end.store(new, SeqCst);
            }
        }
        Ok(Mail)
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        for end in MAIL.iter().flatten() {
            call(SYS_close, [end.load(SeqCst) as u64, 0, 0, 0, 0, 0]);
        }
    }
}

pub fn register(g: usize) {
    GROUP.store(g, SeqCst);
    let (pid, at) = &shared().groups[g];
    at.store(arena(), SeqCst);
    pid.store(std::process::id(), SeqCst);
}

pub fn unregister(g: usize) {
    shared().groups[g].0.store(0, SeqCst);
}

/// The process of a group that runs, or this one.
fn neighbour(n: u64) -> (u64, u64) {
    let (pid, at) = &shared().groups[n as usize % GROUPS];
    match pid.load(SeqCst) {
        0 => (u64::from(std::process::id()), arena()),
        pid => (u64::from(pid), at.load(SeqCst)),
    }
}

/// A process, and the address of a mapping in it.
pub fn there(v: Val, n: u64) -> (u64, u64) {
    let (pid, base) = neighbour(n);
    let at = value(v, v);
    match v {
        Val::Map(..) | Val::Large(..) => (pid, at - arena() + base),
        _ => (pid, at),
    }
}

/// With a descriptor of a process.
fn with_pidfd(pid: u64, f: impl FnOnce(u64) -> i64) -> i64 {
    let p = call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]);
    if p < 0 {
        return p;
    }
    let r = f(p as u64);
    call(SYS_close, [p as u64, 0, 0, 0, 0, 0]);
    r
}

pub fn madvise(v: &[Val]) -> i64 {
    let (pid, at) = there(v[0], value(v[3], v[0]));
    let (len, advice) = (value(v[1], v[0]), value(v[2], v[0]));
    if !own::may_advise(at, len, advice) {
        return -i64::from(libc::EINVAL);
    }
    let iov = [at, len];
    with_pidfd(pid, |p| {
        call(
            SYS_process_madvise,
            [p, iov.as_ptr() as u64, 1, advice, 0, 0],
        )
    })
}

/// A descriptor that another process has, if it is of a node.
pub fn pidfd_getfd(v: &[Val]) -> i64 {
    let (pid, _) = neighbour(value(v[1], v[0]));
    let which = 3 + value(v[2], v[0]) % 24;
    let r = with_pidfd(pid, |p| call(libc::SYS_pidfd_getfd, [p, which, 0, 0, 0, 0]));
    if r < 0 {
        return r;
    }
    let to = std::fs::read_link(format!("/proc/self/fd/{r}")).unwrap_or_default();
    let to = to.to_string_lossy();
    let to = to.strip_suffix(" (deleted)").unwrap_or(&to);
    let mut paths = machine().path.iter();
    match paths.position(|p| p.to_bytes() == to.as_bytes()) {
        Some(n) => put_fd(v[0], r, n),
        None => {
            call(SYS_close, [r as u64, 0, 0, 0, 0, 0]);
        }
    }
    r
}

/// One descriptor and a word about it.
#[repr(C)]
struct Parcel {
    head: libc::cmsghdr,
    fd: i32,
    pad: i32,
}

fn message(nr: i64, socket: &AtomicI32, node: &mut u64, parcel: &mut Parcel) -> i64 {
    let mut iov = libc::iovec {
        iov_base: (&raw mut *node).cast(),
        iov_len: size_of::<u64>(),
    };
    // SAFETY: all zeroes is an empty message.
    let mut m: libc::msghdr = unsafe { std::mem::zeroed() };
    m.msg_iov = &raw mut iov;
    m.msg_iovlen = 1;
    m.msg_control = (&raw mut *parcel).cast();
    m.msg_controllen = size_of::<Parcel>() as _;
    let flags = (libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) as u64;
    let socket = socket.load(SeqCst) as u64;
    let r = call(nr, [socket, &raw const m as u64, flags, 0, 0, 0]);
    if r >= 0 && m.msg_controllen < size_of::<libc::cmsghdr>() {
        return -i64::from(libc::ENODATA);
    }
    r
}

fn parcel(fd: i32) -> Parcel {
    // SAFETY: all zeroes is a valid header.
    let mut head: libc::cmsghdr = unsafe { std::mem::zeroed() };
    head.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<i32>()) as _;
    head.cmsg_level = libc::SOL_SOCKET;
    head.cmsg_type = libc::SCM_RIGHTS;
    Parcel { head, fd, pad: 0 }
}

pub fn send_fd(v: &[Val]) -> i64 {
    let to = &MAIL[value(v[1], v[0]) as usize % GROUPS][0];
    let mut node = node_of(v[0]) as u64;
    message(
        libc::SYS_sendmsg,
        to,
        &mut node,
        &mut parcel(fd(v[0]) as i32),
    )
}

pub fn receive_fd(v: &[Val]) -> i64 {
    let (mut node, mut p) = (0, parcel(-1));
    let from = &MAIL[GROUP.load(SeqCst)][1];
    let r = message(libc::SYS_recvmsg, from, &mut node, &mut p);
    if r >= 0 && p.fd >= 0 {
        put_fd(v[0], i64::from(p.fd), node as usize);
    }
    r
}

/// Stops another process, looks at a word of it, and lets it go on. Only one of a group before this
/// one's: two that stop each other would wait for ever.
pub fn ptrace(v: &[Val]) -> i64 {
    let Some(which) = value(v[1], v[0]).checked_rem(GROUP.load(SeqCst) as u64) else {
        return ESRCH;
    };
    if shared().groups[which as usize].0.load(SeqCst) == 0 {
        return ESRCH;
    }
    let (pid, at) = there(v[0], which);
    let request =
        |what: u32, at: u64, data: u64| call(SYS_ptrace, [u64::from(what), pid, at, data, 0, 0]);
    let r = request(libc::PTRACE_SEIZE, 0, 0);
    if r < 0 {
        return r;
    }
    request(libc::PTRACE_INTERRUPT, 0, 0);
    let mut status = 0i32;
    let all = libc::__WALL as u64;
    let ended = call(SYS_wait4, [pid, &raw mut status as u64, all, 0, 0, 0]);
    if ended < 0 || !libc::WIFSTOPPED(status) {
        return ESRCH;
    }
    let mut word = 0u64;
    let r = request(libc::PTRACE_PEEKDATA, at, &raw mut word as u64);
    if value(v[2], v[0]) & 1 != 0 && r >= 0 {
        request(libc::PTRACE_POKEDATA, at, word);
    }
    // A signal that it was about to get, of a fault for instance, is still to come.
    let signal = match status >> 16 {
        0 => libc::WSTOPSIG(status) as u64,
        _ => 0,
    };
    request(libc::PTRACE_DETACH, 0, signal);
    r
}
