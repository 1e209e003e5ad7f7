// SPDX-License-Identifier: GPL-2.0
//! Thin wrappers of system calls and instructions that tests need: mappings, flushing, signals
//! of a fault, I/O ports. All `unsafe` of the guest programs that is not a plain call is here.

use crate::support::arch::{self, rpmem_probe_end, rpmem_probe_load, rpmem_probe_store};
use crate::support::durable::{self, By};
use rpmem::cache::{self, Instruction};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

pub const MAP_SHARED_VALIDATE: i32 = 0x3;
pub const MAP_SYNC: i32 = 0x80000;

pub const PAGE: usize = 4096;
pub const HUGE: usize = 2 << 20;

/// What most mappings are asked for.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// For mappings that need no system call to be made durable.
pub const SYNC: i32 = MAP_SHARED_VALIDATE | MAP_SYNC;

/// A system call; the negative errno of a failure, as the kernel gives it. That its addresses are good is for
/// the caller to know, or for the kernel to refuse.
pub fn call(nr: i64, a: [u64; 6]) -> i64 {
    // SAFETY: by the caller.
    let r = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if r == -1 {
        return -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    r
}

/// A mapping that is undone when dropped.
pub struct Map {
    ptr: *mut u8,
    len: usize,
}

impl Map {
    /// `prot` and `flags` are passed on as they are.
    pub fn new(f: &File, offset: u64, len: usize, prot: i32, flags: i32) -> io::Result<Map> {
        Map::near(0, f, offset, len, prot, flags)
    }

    /// At `addr` if there is room, else where the kernel likes it.
    pub fn near(
        addr: usize,
        f: &File,
        offset: u64,
        len: usize,
        prot: i32,
        flags: i32,
    ) -> io::Result<Map> {
        // SAFETY: the address is no more than a wish, so no mapping of this process is replaced.
        let p = unsafe {
            libc::mmap(
                addr as *mut libc::c_void,
                len,
                prot,
                flags,
                f.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map { ptr: p.cast(), len })
    }

    /// Readable and writable, MAP_SHARED_VALIDATE | MAP_SYNC.
    pub fn sync(f: &File, offset: u64, len: usize) -> io::Result<Map> {
        Map::new(
            f,
            offset,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            MAP_SHARED_VALIDATE | MAP_SYNC,
        )
    }

    /// Readable and writable, MAP_SHARED.
    pub fn shared(f: &File, offset: u64, len: usize) -> io::Result<Map> {
        Map::new(
            f,
            offset,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr
    }

    /// Touching a byte that has no medium behind it is a SIGBUS: see `caught`.
    pub fn slice(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as self and is `len` bytes long.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    pub fn slice_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; &mut self makes it the only reference of this process.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }

    /// Volatile, so that the access really happens.
    pub fn read8(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.ptr.add(at).read_volatile() }
    }

    pub fn write8(&self, at: usize, v: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.ptr.add(at).write_volatile(v) }
    }

    pub fn msync(&self) -> io::Result<()> {
        durable::stored(self.ptr, self.len, By::Msync, || {
            // SAFETY: the range is this mapping.
            match unsafe { libc::msync(self.ptr.cast(), self.len, libc::MS_SYNC) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }

    pub fn madvise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the range is this mapping; its contents are shared, so none is lost.
        match unsafe { libc::madvise(self.ptr.cast(), self.len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Write the range back from the CPU caches and wait for it, without any system call.
    pub fn persist(&self, at: usize, len: usize) -> Instruction {
        assert!(at + len <= self.len);
        persist(self.ptr.wrapping_add(at), len)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: unmaps what new() mapped, once.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

/// A page of memory that is there and stays, for good.
pub fn locked_page() -> io::Result<*mut u8> {
    // SAFETY: the kernel chooses the address.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE,
            -1,
            0,
        )
    };
    match p {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        p => Ok(p.cast()),
    }
}

/// Write the range back from the CPU caches and wait for it.
pub fn persist(p: *mut u8, len: usize) -> Instruction {
    let made: Result<(), std::convert::Infallible> = durable::stored(p, len, By::Cpu, || {
        // SAFETY: the caller has mapped it.
        unsafe { cache::flush_ptr(p, len) };
        cache::drain();
        Ok(())
    });
    let Ok(()) = made;
    Instruction::best()
}

/// What a signal handler was told about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fault {
    pub signal: i32,
    pub code: i32,
    pub addr: usize,
    /// Least significant bit of the damaged range (BUS_MCEERR_*), else 0.
    pub addr_lsb: i32,
}

pub const BUS_ADRERR: i32 = 2;
pub const BUS_MCEERR_AR: i32 = 4;

/// End of a function that ran in a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caught {
    /// It returned this.
    Returned(u8),
    Fault(Fault),
    Killed(i32),
}

static mut FAULT_PIPE: i32 = -1;

/// What a siginfo says.
///
/// # Safety
///
/// `info` is that of a SIGBUS or a SIGSEGV.
unsafe fn fault_of(signal: i32, info: *const libc::siginfo_t) -> Fault {
    // SAFETY: by the caller. With 64 bits si_addr_lsb is the 16 bits that follow si_addr.
    unsafe {
        let lsb = if signal == libc::SIGBUS && (*info).si_code >= BUS_MCEERR_AR {
            i32::from(*info.cast::<u8>().add(24).cast::<i16>())
        } else {
            0
        };
        Fault {
            signal,
            code: (*info).si_code,
            addr: (*info).si_addr() as usize,
            addr_lsb: lsb,
        }
    }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; write and _exit are async-signal-safe.
    unsafe {
        let f = fault_of(signal, info);
        libc::write(
            FAULT_PIPE,
            (&raw const f).cast(),
            std::mem::size_of::<Fault>(),
        );
        libc::_exit(99);
    }
}

/// Run `f` in a forked child and say how it ended: a SIGBUS or SIGSEGV comes back in detail.
pub fn caught(f: impl FnOnce() -> u8) -> io::Result<Caught> {
    let mut fds = [0i32; 2];
    // SAFETY: pipe and fork of a process with one thread; the child only runs `f` and exits.
    unsafe {
        if libc::pipe(fds.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                FAULT_PIPE = fds[1];
                let mut sa: libc::sigaction = std::mem::zeroed();
                sa.sa_sigaction = on_fault as usize;
                sa.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGBUS, &sa, std::ptr::null_mut());
                libc::sigaction(libc::SIGSEGV, &sa, std::ptr::null_mut());
                let v = f();
                libc::write(fds[1], (&raw const v).cast(), 1);
                libc::_exit(0);
            }
            pid => {
                libc::close(fds[1]);
                let mut fault = Fault {
                    signal: 0,
                    code: 0,
                    addr: 0,
                    addr_lsb: 0,
                };
                let size = std::mem::size_of::<Fault>();
                let n = libc::read(fds[0], (&raw mut fault).cast(), size);
                libc::close(fds[0]);
                let mut status = 0;
                while libc::waitpid(pid, &mut status, 0) < 0 {
                    let e = io::Error::last_os_error();
                    if e.kind() != io::ErrorKind::Interrupted {
                        return Err(e);
                    }
                }
                if libc::WIFSIGNALED(status) {
                    return Ok(Caught::Killed(libc::WTERMSIG(status)));
                }
                if n == 1 {
                    return Ok(Caught::Returned(*(&raw const fault).cast::<u8>()));
                }
                if n as usize == size {
                    return Ok(Caught::Fault(fault));
                }
                Err(io::Error::other("the child ended without a word"))
            }
        }
    }
}

static mut PROBED: Option<Fault> = None;

extern "C" fn on_probe(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo and the registers of this thread, the only one.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let at = arch::program_counter(context) as usize;
        if at == rpmem_probe_load as usize || at == rpmem_probe_store as usize {
            PROBED = Some(fault_of(signal, info));
            arch::go_on_at(context, rpmem_probe_end as usize as u64);
        } else {
            // The access is made again, and ends the process.
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

/// Has `probe_load` and `probe_store` work in this process, which has one thread.
pub fn catch_probes() {
    // SAFETY: a handler for an action of ours.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = on_probe as usize;
        sa.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &sa, std::ptr::null_mut());
        libc::sigaction(libc::SIGSEGV, &sa, std::ptr::null_mut());
    }
}

/// The signal of the last access, if it got one.
fn probed() -> Option<Fault> {
    // SAFETY: the handler has run on this thread, if at all.
    unsafe { (&raw mut PROBED).replace(None) }
}

/// Loads 8 bytes, from any address, after `catch_probes`.
pub fn probe_load(addr: u64) -> Result<u64, Fault> {
    // SAFETY: if there is nothing the handler says so.
    let value = unsafe { rpmem_probe_load(addr as usize) };
    probed().map_or(Ok(value), Err)
}

/// Stores 8 bytes to an address at which is nothing that the program itself uses.
pub fn probe_store(addr: u64, value: u64) -> Result<(), Fault> {
    // SAFETY: as above.
    unsafe { rpmem_probe_store(addr as usize, value) };
    probed().map_or(Ok(()), Err)
}

/// What a wait is given that lasts until something comes, or the harness ends the test: no wait for
/// what must come is shorter, as nobody in the guest knows how busy the host is.
pub const FOREVER: i32 = -1;

/// What poll(2) says of a file; 0 if nothing comes in that time. POLLERR and POLLHUP are always asked
/// for.
pub fn poll(f: &File, events: i16, ms: i32) -> io::Result<i16> {
    let mut p = libc::pollfd {
        fd: f.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd.
    match unsafe { libc::poll(&mut p, 1, ms) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(p.revents),
    }
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: fills a set of ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for s in signals {
            libc::sigaddset(&mut set, *s);
        }
        set
    }
}

/// Blocks signals of this thread, and of those that it starts: see `next_signal`.
pub fn block_signals(signals: &[i32]) {
    let set = signal_set(signals);
    // SAFETY: a set of ours.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// Blocks all signals of this thread. One that is ignored as SIGCHLD is, and comes while another
/// thread has it blocked, as fork(3) does for a moment, would end an interruptible wait of this one.
pub fn block_all_signals() {
    // SAFETY: fills a set of ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
}

/// What a signal of `fasync` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSignal {
    pub signal: i32,
    pub code: i32,
    pub band: i64,
    pub fd: i32,
}

/// The next of these blocked signals: of those that are there, or waits for one.
pub fn next_signal(signals: &[i32], wait: bool) -> io::Result<Option<FileSignal>> {
    let set = signal_set(signals);
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let time = match wait {
        true => std::ptr::null(),
        false => &raw const at_once,
    };
    // SAFETY: a set, a siginfo and a time of ours; with 64 bits si_band and si_fd are at 16 and 24.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        loop {
            if libc::sigtimedwait(&set, &mut info, time) >= 0 {
                break;
            }
            let e = io::Error::last_os_error();
            match e.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                Some(libc::EINTR) => {}
                _ => return Err(e),
            }
        }
        let at = (&raw const info).cast::<u8>();
        Ok(Some(FileSignal {
            signal: info.si_signo,
            code: info.si_code,
            band: at.add(16).cast::<i64>().read_unaligned(),
            fd: at.add(24).cast::<i32>().read_unaligned(),
        }))
    }
}

/// Has events of a file signal its owner: SIGIO, or what is given.
pub fn signal_events(f: &File, owner: i32, signal: i32) -> io::Result<()> {
    let fd = f.as_raw_fd();
    // SAFETY: an open descriptor; no pointers.
    unsafe {
        if libc::fcntl(fd, libc::F_SETOWN, owner) != 0
            || libc::fcntl(fd, F_SETSIG, signal) != 0
            || libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

const F_SETSIG: i32 = 10;

/// Repeatable bytes, different for each seed and offset.
pub fn pattern(seed: u64, buf: &mut [u8]) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in buf.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        chunk.copy_from_slice(&x.to_le_bytes()[..chunk.len()]);
    }
}

/// Offset of the first byte that is not the pattern's.
pub fn pattern_differs(seed: u64, buf: &[u8]) -> Option<usize> {
    let mut want = vec![0; buf.len()];
    pattern(seed, &mut want);
    if want == buf {
        return None;
    }
    want.iter().zip(buf).position(|(a, b)| a != b)
}

/// The series of the kernel that runs, such as 7.3; the newest one if it does not say.
pub fn series() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let digits = |c: char| !c.is_ascii_digit();
    let mut numbers = text.split(digits).map(|n| n.parse().unwrap_or(u32::MAX));
    let mut next = || numbers.next().unwrap_or(u32::MAX);
    (next(), next())
}

/// A number of /proc/self/status, in bytes.
pub fn status(field: &str) -> Result<u64, String> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let kib = line.and_then(|l| {
        l.trim_matches([':', ' ', '\t', 'k', 'B'])
            .parse::<u64>()
            .ok()
    });
    Ok(kib.ok_or_else(|| format!("no {field} in {text}"))? << 10)
}

/// All that this process has of page tables.
pub fn page_tables() -> Result<u64, String> {
    status("VmPTE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let mut a = vec![0; 1003];
        pattern(7, &mut a);
        assert_eq!(pattern_differs(7, &a), None);
        assert!(pattern_differs(8, &a).is_some());
        a[1001] ^= 1;
        assert_eq!(pattern_differs(7, &a), Some(1001));
    }

    #[test]
    fn probes_go_on() {
        catch_probes();
        let mut word = 7u64;
        let at = (&raw mut word) as u64;
        assert_eq!(probe_load(at), Ok(7));
        assert_eq!(probe_store(at, 8), Ok(()));
        assert_eq!(probe_load(at), Ok(8));
        for r in [probe_load(0x1000).map(|_| ()), probe_store(0x1000, 1)] {
            let f = r.unwrap_err();
            assert_eq!((f.signal, f.code, f.addr), (libc::SIGSEGV, 1, 0x1000));
        }
        assert_eq!(probe_load(at), Ok(8));
    }

    #[test]
    fn faults_are_told() {
        assert_eq!(caught(|| 5).unwrap(), Caught::Returned(5));
        // SAFETY: an address that nothing is mapped at, in a child that expects the fault.
        let r =
            caught(|| unsafe { std::ptr::with_exposed_provenance::<u8>(0x1000).read_volatile() });
        match r.unwrap() {
            Caught::Fault(f) => assert_eq!((f.signal, f.addr), (libc::SIGSEGV, 0x1000)),
            other => panic!("{other:?}"),
        }
    }
}
