// SPDX-License-Identifier: GPL-2.0
//! What differs between architectures: each has a file with all of this, and nothing else in the
//! program, but for tests of instructions of one, asks for any.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub use aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

extern "C" {
    /// Loads 8 bytes, by its first instruction.
    pub fn rpmem_probe_load(addr: usize) -> u64;
    /// Stores 8 bytes, by its first instruction.
    pub fn rpmem_probe_store(addr: usize, value: u64);
    /// Where both of them end.
    pub fn rpmem_probe_end();
}

/// In a register of `touch`, while it may fault.
const MAGIC: u64 = 0x7270_6d65_6d66_757a;
