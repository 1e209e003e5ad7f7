// SPDX-License-Identifier: GPL-2.0
//! Processes that work in step with the test.

use crate::fail;
use crate::support::ctx::TestResult;
use std::io;

/// Exit status of a process whose access ended in SIGBUS, and one that nothing else gives.
pub const GOT_SIGBUS: i32 = 77;

/// A child process that works in step with the test: each side can wait for a word of the other.
/// Killed when dropped.
pub struct Peer {
    pid: i32,
    to: i32,
    from: i32,
}

/// The child's end.
pub struct Link {
    rx: i32,
    tx: i32,
}

impl Link {
    /// Tell the test that this point is reached.
    pub fn say(&self) {
        // SAFETY: one byte to a pipe of ours.
        unsafe { libc::write(self.tx, [b'.'].as_ptr().cast(), 1) };
    }

    /// Wait for the test's word; its end is the end of this process.
    pub fn hear(&self) {
        let mut b = 0u8;
        // SAFETY: one byte from a pipe of ours.
        unsafe {
            if libc::read(self.rx, (&raw mut b).cast(), 1) != 1 {
                libc::_exit(0);
            }
        }
    }
}

extern "C" fn on_bus(_: i32) {
    // SAFETY: async-signal-safe.
    unsafe { libc::_exit(GOT_SIGBUS) };
}

impl Peer {
    /// Run `f` in a forked child; what it returns is the exit status. SIGBUS ends it with
    /// GOT_SIGBUS.
    pub fn start(f: impl FnOnce(&Link) -> i32) -> TestResult<Peer> {
        let (mut down, mut up) = ([0i32; 2], [0i32; 2]);
        // SAFETY: pipes and fork of a process with one thread; the child only runs `f` and exits.
        unsafe {
            if libc::pipe2(down.as_mut_ptr(), libc::O_CLOEXEC) != 0
                || libc::pipe2(up.as_mut_ptr(), libc::O_CLOEXEC) != 0
            {
                return Err(io::Error::last_os_error().into());
            }
            match libc::fork() {
                -1 => Err(io::Error::last_os_error().into()),
                0 => {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::close(down[1]);
                    libc::close(up[0]);
                    libc::signal(
                        libc::SIGBUS,
                        on_bus as extern "C" fn(i32) as libc::sighandler_t,
                    );
                    let link = Link {
                        rx: down[0],
                        tx: up[1],
                    };
                    libc::_exit(f(&link))
                }
                pid => {
                    libc::close(down[0]);
                    libc::close(up[1]);
                    Ok(Peer {
                        pid,
                        to: down[1],
                        from: up[0],
                    })
                }
            }
        }
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn say(&self) {
        // SAFETY: one byte to a pipe of ours; a dead reader is noticed by `hear` and `wait`.
        unsafe { libc::write(self.to, [b'.'].as_ptr().cast(), 1) };
    }

    /// Wait for the child's word.
    pub fn hear(&self) -> TestResult {
        let mut b = 0u8;
        // SAFETY: one byte from a pipe of ours.
        if unsafe { libc::read(self.from, (&raw mut b).cast(), 1) } != 1 {
            fail!("the child ended early, with {}", self.status_left()?);
        }
        Ok(())
    }

    /// How the child has ended, which `wait` and `ended` say after this as well.
    fn status_left(&self) -> TestResult<i32> {
        // SAFETY: a child of this process; fills a siginfo of ours.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let (id, how) = (self.pid as libc::id_t, libc::WEXITED | libc::WNOWAIT);
            if libc::waitid(libc::P_PID, id, &mut info, how) != 0 {
                return Err(io::Error::last_os_error().into());
            }
            match info.si_code {
                libc::CLD_EXITED => Ok(info.si_status()),
                _ => Ok(128 + info.si_status()),
            }
        }
    }

    /// Take the words that are there, without waiting for one.
    pub fn drain(&self) -> TestResult {
        let mut b = [0u8; 256];
        loop {
            let mut p = libc::pollfd {
                fd: self.from,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one pollfd; reads into a buffer of that size.
            unsafe {
                if libc::poll(&mut p, 1, 0) != 1 || p.revents & libc::POLLIN == 0 {
                    return Ok(());
                }
                if libc::read(self.from, b.as_mut_ptr().cast(), b.len()) <= 0 {
                    return Ok(());
                }
            }
        }
    }

    /// The exit status, 128 + signal if it was killed.
    pub fn wait(mut self) -> TestResult<i32> {
        let s = self.reap(0)?;
        self.pid = 0;
        Ok(s.unwrap_or(-1))
    }

    /// The exit status if it has ended.
    pub fn ended(&mut self) -> TestResult<Option<i32>> {
        let s = self.reap(libc::WNOHANG)?;
        if s.is_some() {
            self.pid = 0;
        }
        Ok(s)
    }

    fn reap(&self, flags: i32) -> TestResult<Option<i32>> {
        let mut status = 0;
        // SAFETY: a child of this process.
        let r = unsafe { libc::waitpid(self.pid, &mut status, flags) };
        match r {
            0 => Ok(None),
            r if r < 0 => Err(io::Error::last_os_error().into()),
            _ if libc::WIFSIGNALED(status) => Ok(Some(128 + libc::WTERMSIG(status))),
            _ => Ok(Some(libc::WEXITSTATUS(status))),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SAFETY: closes what start() opened; the child is ours until it is reaped.
        unsafe {
            libc::close(self.to);
            libc::close(self.from);
            if self.pid > 0 {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}
