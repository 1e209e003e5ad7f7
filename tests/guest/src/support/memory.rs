// SPDX-License-Identifier: GPL-2.0
//! Memory of `lib/rpmem` that does not always make durable what it says.

use rpmem::Memory;
use std::cell::Cell;
use std::io;

/// Leaves out flushes, or what waits for them, while it is told to.
pub struct Faulty<'a> {
    memory: &'a dyn Memory,
    pub flushes: Cell<bool>,
    pub drains: Cell<bool>,
}

impl<'a> Faulty<'a> {
    /// One that leaves out nothing yet.
    pub fn new(memory: &'a dyn Memory) -> Faulty<'a> {
        Faulty {
            memory,
            flushes: Cell::new(true),
            drains: Cell::new(true),
        }
    }
}

impl Memory for Faulty<'_> {
    fn size(&self) -> usize {
        self.memory.size()
    }

    fn load(&self, at: usize, bytes: &mut [u8]) {
        self.memory.load(at, bytes);
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        self.memory.store(at, bytes);
    }

    fn flush(&self, at: usize, len: usize) -> io::Result<()> {
        match self.flushes.get() {
            true => self.memory.flush(at, len),
            false => Ok(()),
        }
    }

    fn drain(&self) -> io::Result<()> {
        match self.drains.get() {
            true => self.memory.drain(),
            false => Ok(()),
        }
    }
}
