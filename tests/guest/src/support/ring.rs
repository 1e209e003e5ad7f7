// SPDX-License-Identifier: GPL-2.0
//! A ring of io_uring(7).

use crate::support::sys::call;
use libc::{SYS_mmap, SYS_munmap};
use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

/// A ring of io_uring(7) for one request at a time, of the thread that made it. It has no descriptor: another
/// thread could close the number that a request names, and the ring that gets it next would then wait
/// for itself.
pub struct Ring {
    /// Among the rings that the thread has registered.
    index: u64,
    /// A page of queues and one of submission entries.
    memory: u64,
    params: [u32; 30],
    /// Requests so far.
    done: Cell<u32>,
}

/// Completions are polled for.
pub const SETUP_IOPOLL: u32 = 1;
const PAGE: u64 = 4096;
const RING_LEN: u64 = 2 * PAGE;
// Of <linux/io_uring.h>.
const SETUP_NO_MMAP: u32 = 1 << 14;
const SETUP_REGISTERED_FD_ONLY: u32 = 1 << 15;
const ENTER_GETEVENTS: u64 = 1;
const ENTER_REGISTERED_RING: u64 = 1 << 4;
const REGISTER_BUFFERS: u64 = 0;
const UNREGISTER_RING_FDS: u64 = 21;
const REGISTER_USE_REGISTERED_RING: u64 = 1 << 31;

impl Ring {
    pub fn new() -> Result<Ring, i64> {
        Ring::with(0)
    }

    /// With flags as [`SETUP_IOPOLL`].
    pub fn with(flags: u32) -> Result<Ring, i64> {
        let (prot, shared) = (
            (libc::PROT_READ | libc::PROT_WRITE) as u64,
            (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64,
        );
        let memory = call(SYS_mmap, [0, RING_LEN, prot, shared, u64::MAX, 0]);
        if memory < 0 {
            return Err(memory);
        }
        let memory = memory as u64;
        let mut params = [0u32; 30];
        params[2] = SETUP_NO_MMAP | SETUP_REGISTERED_FD_ONLY | flags;
        // user_addr of the submission entries (18), of the queues (28).
        for (at, page) in [(18, memory + PAGE), (28, memory)] {
            (params[at], params[at + 1]) = (page as u32, (page >> 32) as u32);
        }
        let p = params.as_mut_ptr() as u64;
        let index = call(libc::SYS_io_uring_setup, [2, p, 0, 0, 0, 0]);
        if index < 0 {
            call(SYS_munmap, [memory, RING_LEN, 0, 0, 0, 0]);
            return Err(index);
        }
        Ok(Ring {
            index: index as u64,
            memory,
            params,
            done: Cell::new(0),
        })
    }

    fn io_uring_register(&self, opcode: u64, arg: u64) -> i64 {
        call(
            libc::SYS_io_uring_register,
            [
                self.index,
                opcode | REGISTER_USE_REGISTERED_RING,
                arg,
                1,
                0,
                0,
            ],
        )
    }

    /// A long-term pin of memory, until the ring ends. 0 or a negative errno.
    pub fn register(&self, p: *const u8, len: usize) -> i64 {
        let iov = [p as u64, len as u64];
        self.io_uring_register(REGISTER_BUFFERS, iov.as_ptr() as u64)
    }

    /// A word of the queues, at an offset that the kernel gave.
    fn word(&self, at: u64) -> *mut u32 {
        (self.memory + at) as *mut u32
    }

    /// Submit a request and wait for its result.
    pub fn run(&self, sqe: [u64; 8]) -> i64 {
        let p = &self.params;
        let n = self.done.get();
        // Of the submission queue: tail (11), mask (12), array (16). Of the completion queue: head (20), mask
        // (22), entries (25), of which `res` is the third word.
        // SAFETY: offsets that the kernel gave for this ring, whose queues have room for two.
        unsafe {
            ((self.memory + PAGE) as *mut [u64; 8]).write_volatile(sqe);
            let slot = n & self.word(u64::from(p[12])).read_volatile();
            self.word(u64::from(p[16]) + 4 * u64::from(slot))
                .write_volatile(0);
            self.word(u64::from(p[11]))
                .write_volatile(n.wrapping_add(1));
        }
        std::sync::atomic::fence(SeqCst);
        let flags = ENTER_GETEVENTS | ENTER_REGISTERED_RING;
        let enter = |submit| {
            call(
                libc::SYS_io_uring_enter,
                [self.index, submit, 1, flags, 0, 0],
            )
        };
        let mut r = enter(1);
        // SAFETY: the tail of the completion queue (21), as above.
        while r >= 0 && unsafe { self.word(u64::from(p[21])).read_volatile() } == n {
            // A request that is polled for and has gone to a worker is not waited for.
            r = enter(0);
        }
        if r < 0 {
            return r;
        }
        self.done.set(n.wrapping_add(1));
        // SAFETY: as above.
        unsafe {
            let slot = n & self.word(u64::from(p[22])).read_volatile();
            let res = self
                .word(u64::from(p[25]) + 16 * u64::from(slot) + 8)
                .read_volatile();
            self.word(u64::from(p[20]))
                .write_volatile(n.wrapping_add(1));
            i64::from(res as i32)
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // struct io_uring_rsrc_update: offset, reserved, data.
        let which = [self.index as u32, 0, 0, 0];
        self.io_uring_register(UNREGISTER_RING_FDS, which.as_ptr() as u64);
        call(SYS_munmap, [self.memory, RING_LEN, 0, 0, 0, 0]);
    }
}
