// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing CPU caches back, with the best instruction that the CPU has.

use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of a cache line.
const LINE: usize = 64;

/// The instruction that writes a cache line back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Instruction {
    /// Keeps the line in the cache; needs a fence.
    Clwb = 1,
    /// Evicts the line; needs a fence.
    ClflushOpt,
    /// Evicts the line, one after the other.
    Clflush,
}

impl Instruction {
    /// The best one that this CPU has.
    pub fn best() -> Self {
        static BEST: AtomicU8 = AtomicU8::new(0);
        match BEST.load(Ordering::Relaxed) {
            1 => Self::Clwb,
            2 => Self::ClflushOpt,
            3 => Self::Clflush,
            _ => {
                let best = Self::detect();
                BEST.store(best as u8, Ordering::Relaxed);
                best
            }
        }
    }

    fn detect() -> Self {
        use std::arch::x86_64::__cpuid_count;
        // SAFETY: Every x86-64 CPU has CPUID; leaf 7 is there if leaf 0 says so.
        let ebx = unsafe {
            if __cpuid_count(0, 0).eax < 7 {
                return Self::Clflush;
            }
            __cpuid_count(7, 0).ebx
        };
        if ebx & (1 << 24) != 0 {
            Self::Clwb
        } else if ebx & (1 << 23) != 0 {
            Self::ClflushOpt
        } else {
            Self::Clflush
        }
    }

    /// Its mnemonic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clwb => "clwb",
            Self::ClflushOpt => "clflushopt",
            Self::Clflush => "clflush",
        }
    }
}

/// Starts to write back the lines of `len` bytes at `ptr`, which are mapped.
pub(crate) fn write_back(ptr: *mut u8, len: usize) {
    use std::arch::asm;
    let how = Instruction::best();
    let end = ptr as usize + len;
    let mut line = ptr as usize & !(LINE - 1);
    while line < end {
        // SAFETY: The CPU has the instruction; it changes no data, and the line is mapped.
        unsafe {
            match how {
                Instruction::Clwb => {
                    asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags))
                }
                Instruction::ClflushOpt => {
                    asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags))
                }
                Instruction::Clflush => {
                    asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags))
                }
            }
        }
        line += LINE;
    }
}

/// Waits for the lines that are on their way.
pub(crate) fn fence() {
    // SAFETY: A fence.
    unsafe { std::arch::asm!("sfence", options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_one_that_the_cpu_has() {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        let best = Instruction::best();
        assert_eq!(best, Instruction::best());
        assert!(has(best.name()) || best == Instruction::Clflush);
        assert!(best == Instruction::Clwb || !has("clwb"));
        let mut bytes = [7u8; 200];
        write_back(bytes.as_mut_ptr().wrapping_add(3), 150);
        fence();
        assert_eq!(bytes, [7; 200]);
    }
}
