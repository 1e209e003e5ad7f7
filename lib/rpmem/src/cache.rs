// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing CPU caches back, with the best instruction that the CPU has. Needs no `std`.
//!
//! This is for memory that is durable once it is out of the CPU caches, however it was mapped.
//! [`Map`](crate::Map) calls it where it is right, and only there.

use core::sync::atomic::{AtomicU8, Ordering};

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("rpmem knows how to write back the caches of x86-64 and of arm64 alone");

/// From this length on [`copy`] uses non-temporal stores, in bytes. x86-64 alone has those.
///
/// `cargo run --release --example threshold` measures both ways. On an AMD EPYC with clwb, with memory that
/// is not in the caches, 256 bytes at the border of a line took 105 ns with and 171 ns without them.
/// Elsewhere there was no difference up to 256 bytes (170 ns); 512 bytes took 161 ns with and 180 ns
/// without, 64 KiB half the time. What has gone past the caches has to be read from memory again, so that
/// short copies go through them.
pub const NON_TEMPORAL: usize = 256;

/// The instruction that writes a cache line back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Instruction {
    /// x86-64: keeps the line in the cache; needs a fence.
    Clwb = 1,
    /// x86-64: evicts the line; needs a fence.
    ClflushOpt,
    /// x86-64: evicts the line, one after the other.
    Clflush,
    /// arm64 from ARMv8.5 on: cleans to the point of deep persistence, so that what keeps memory alive
    /// for a while may fail as well; needs a barrier. Where there is no such point it is [`DcCvap`](Self::DcCvap).
    DcCvadp,
    /// arm64: cleans to the point of persistence; needs a barrier.
    DcCvap,
    /// arm64 before ARMv8.2: cleans to the point of coherency, as the kernel does there, msync(2)
    /// included: see [`reaches_persistence`](Self::reaches_persistence).
    DcCvac,
}

impl Instruction {
    const ALL: [Self; 6] = [
        Self::Clwb,
        Self::ClflushOpt,
        Self::Clflush,
        Self::DcCvadp,
        Self::DcCvap,
        Self::DcCvac,
    ];

    /// The best one that this CPU has.
    pub fn best() -> Self {
        static BEST: AtomicU8 = AtomicU8::new(0);
        let known = BEST.load(Ordering::Relaxed);
        if let Some(best) = Self::ALL.into_iter().find(|how| *how as u8 == known) {
            return best;
        }
        let best = detect();
        BEST.store(best as u8, Ordering::Relaxed);
        best
    }

    /// Its mnemonic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clwb => "clwb",
            Self::ClflushOpt => "clflushopt",
            Self::Clflush => "clflush",
            Self::DcCvadp => "dc cvadp",
            Self::DcCvap => "dc cvap",
            Self::DcCvac => "dc cvac",
        }
    }

    /// Whether the CPU promises that what this has written back survives the end of the power, where it
    /// is memory that does. [`DcCvac`](Self::DcCvac) ends where all that access memory agree, and nothing
    /// says that this is behind every cache: ask who has made the machine.
    pub fn reaches_persistence(self) -> bool {
        self != Self::DcCvac
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn detect() -> Instruction {
    use core::arch::x86_64::__cpuid_count;
    // Newer compilers know that it is safe.
    #[allow(unused_unsafe)]
    // SAFETY: Every x86-64 CPU has CPUID; leaf 7 is there if leaf 0 says so.
    let ebx = unsafe {
        if __cpuid_count(0, 0).eax < 7 {
            return Instruction::Clflush;
        }
        __cpuid_count(7, 0).ebx
    };
    if ebx & (1 << 24) != 0 {
        Instruction::Clwb
    } else if ebx & (1 << 23) != 0 {
        Instruction::ClflushOpt
    } else {
        Instruction::Clflush
    }
}

#[cfg(all(target_arch = "aarch64", feature = "std", not(miri)))]
fn detect() -> Instruction {
    // Asks AT_HWCAP and AT_HWCAP2.
    if std::arch::is_aarch64_feature_detected!("dpb2") {
        Instruction::DcCvadp
    } else if std::arch::is_aarch64_feature_detected!("dpb") {
        Instruction::DcCvap
    } else {
        Instruction::DcCvac
    }
}

#[cfg(all(target_arch = "aarch64", not(feature = "std"), not(miri)))]
fn detect() -> Instruction {
    let isar1: u64;
    // SAFETY: Every CPU has the register; where programs cannot read it, Linux does it for them.
    unsafe {
        core::arch::asm!("mrs {}, id_aa64isar1_el1", out(reg) isar1,
            options(nomem, nostack, preserves_flags, pure));
    }
    match isar1 & 0xf {
        0 => Instruction::DcCvac,
        1 => Instruction::DcCvap,
        _ => Instruction::DcCvadp,
    }
}

#[cfg(miri)]
fn detect() -> Instruction {
    Instruction::Clflush
}

/// Bytes of a cache line, as the instructions count them.
#[cfg(any(target_arch = "x86_64", miri))]
fn line() -> usize {
    64
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
fn line() -> usize {
    let ctr: usize;
    // SAFETY: Programs may read the register.
    unsafe {
        core::arch::asm!("mrs {}, ctr_el0", out(reg) ctr,
            options(nomem, nostack, preserves_flags, pure));
    }
    4 << ((ctr >> 16) & 0xf)
}

/// Writes one line back.
///
/// # Safety
///
/// The CPU has the instruction, and the line is mapped.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn write_back(how: Instruction, line: usize) {
    use core::arch::asm;
    // SAFETY: By the caller; no data changes.
    unsafe {
        match how {
            Instruction::Clwb => {
                asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            Instruction::ClflushOpt => {
                asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
            }
            _ => asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags)),
        }
    }
}

/// As above. By number: assemblers know `dc cvap` and `dc cvadp` for those that have them alone.
///
/// # Safety
///
/// As above.
#[cfg(all(target_arch = "aarch64", not(miri)))]
unsafe fn write_back(how: Instruction, line: usize) {
    use core::arch::asm;
    // SAFETY: By the caller; no data changes.
    unsafe {
        match how {
            Instruction::DcCvap => {
                asm!("sys #3, c7, c12, #1, {}", in(reg) line, options(nostack, preserves_flags));
            }
            Instruction::DcCvadp => {
                asm!("sys #3, c7, c13, #1, {}", in(reg) line, options(nostack, preserves_flags));
            }
            _ => asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)),
        }
    }
}

/// # Safety
///
/// None.
#[cfg(miri)]
unsafe fn write_back(_: Instruction, _: usize) {}

/// Starts to write the lines of `memory` back; [`drain`] waits for it.
pub fn flush(memory: &[u8]) {
    // SAFETY: What there is a reference to is mapped.
    unsafe { flush_ptr(memory.as_ptr(), memory.len()) };
}

/// As [`flush`], for memory that others may change, to which there can be no reference.
///
/// # Safety
///
/// `len` bytes from `ptr` on are mapped.
pub unsafe fn flush_ptr(ptr: *const u8, len: usize) {
    if len == 0 {
        return;
    }
    let how = Instruction::best();
    let step = line();
    let end = ptr as usize + len;
    let mut line = ptr as usize & !(step - 1);
    while line < end {
        // SAFETY: The CPU has it; a byte of the line is mapped, by the caller.
        unsafe { write_back(how, line) };
        line += step;
    }
}

/// Waits until what [`flush`] and [`copy`] have started is done.
pub fn drain() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: A fence.
    unsafe {
        core::arch::asm!("sfence", options(nostack, preserves_flags));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: A barrier.
    unsafe {
        core::arch::asm!("dsb sy", options(nostack, preserves_flags));
    }
}

/// Makes `memory` durable: [`flush`], and [`drain`].
///
/// ```
/// let memory = [1, 2, 3];
/// rpmem::cache::persist(&memory); // durable, if it was persistent memory
/// ```
pub fn persist(memory: &[u8]) {
    flush(memory);
    drain();
}

/// Stores `bytes` at `to`, and starts to write them back, or past the caches from [`NON_TEMPORAL`] on;
/// [`drain`] waits for it.
///
/// # Safety
///
/// As many bytes from `to` on are mapped, can be written to, and do not overlap `bytes`. Nobody has a
/// reference to them.
pub unsafe fn copy(to: *mut u8, bytes: &[u8]) {
    if bytes.len() < NON_TEMPORAL {
        // SAFETY: By the caller.
        unsafe { copy_through(to, bytes) };
    } else {
        // SAFETY: By the caller.
        unsafe { copy_past(to, bytes) };
    }
}

/// As [`copy`], always through the caches.
///
/// # Safety
///
/// As of [`copy`].
pub unsafe fn copy_through(to: *mut u8, bytes: &[u8]) {
    // SAFETY: By the caller.
    unsafe {
        store(to, bytes);
        flush_ptr(to, bytes.len());
    }
}

/// As [`copy`], past the caches where that can be done: whole lines of 64 bytes on x86-64.
///
/// # Safety
///
/// As of [`copy`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub unsafe fn copy_past(to: *mut u8, bytes: &[u8]) {
    use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    let head = (to as usize).wrapping_neg() % 64;
    let (head, rest) = bytes.split_at(head.min(bytes.len()));
    let (body, tail) = rest.split_at(rest.len() & !63);
    // SAFETY: Three parts of what the caller vouches for. The middle one begins at a line; every x86-64
    // CPU has SSE2.
    unsafe {
        copy_through(to, head);
        let mut at = to.add(head.len());
        for line in body.chunks_exact(64) {
            for quarter in 0..4 {
                let from: *const __m128i = line.as_ptr().cast();
                let to: *mut __m128i = at.cast();
                _mm_stream_si128(to.add(quarter), _mm_loadu_si128(from.add(quarter)));
            }
            at = at.add(64);
        }
        copy_through(at, tail);
    }
}

/// As [`copy`], past the caches where that can be done: not here.
///
/// # Safety
///
/// As of [`copy`].
#[cfg(any(target_arch = "aarch64", miri))]
pub unsafe fn copy_past(to: *mut u8, bytes: &[u8]) {
    // SAFETY: By the caller.
    unsafe { copy_through(to, bytes) };
}

/// Stores bytes: words that are aligned at `to` at once, in order.
///
/// # Safety
///
/// As of [`copy`].
pub(crate) unsafe fn store(to: *mut u8, bytes: &[u8]) {
    let head = (to as usize).wrapping_neg() % 8;
    let (head, rest) = bytes.split_at(head.min(bytes.len()));
    let words = rest.chunks_exact(8);
    let tail = words.remainder();
    // SAFETY: Each byte is one of those that the caller vouches for, each word is aligned.
    unsafe {
        let mut at = to;
        for byte in head {
            at.write_volatile(*byte);
            at = at.add(1);
        }
        for word in words {
            at.cast::<u64>()
                .write_volatile(word.as_ptr().cast::<u64>().read_unaligned());
            at = at.add(8);
        }
        for byte in tail {
            at.write_volatile(*byte);
            at = at.add(1);
        }
    }
}

/// Loads bytes: words that are aligned at `from` at once, in order.
///
/// # Safety
///
/// As many bytes from `from` on are mapped, and do not overlap `bytes`.
#[cfg_attr(not(feature = "std"), allow(dead_code))]
pub(crate) unsafe fn load(from: *const u8, bytes: &mut [u8]) {
    let head = (from as usize).wrapping_neg() % 8;
    let (head, rest) = bytes.split_at_mut(head.min(bytes.len()));
    let mut words = rest.chunks_exact_mut(8);
    // SAFETY: Each byte is one of those that the caller vouches for, each word is aligned.
    unsafe {
        let mut at = from;
        for byte in head {
            *byte = at.read_volatile();
            at = at.add(1);
        }
        for word in &mut words {
            word.copy_from_slice(&at.cast::<u64>().read_volatile().to_ne_bytes());
            at = at.add(8);
        }
        for byte in words.into_remainder() {
            *byte = at.read_volatile();
            at = at.add(1);
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn the_best_is_one_that_the_cpu_has() {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |name: &str| flags.split_whitespace().any(|flag| flag == name);
        let best = Instruction::best();
        assert_eq!(best, Instruction::best());
        assert!(has(best.name()) || best == Instruction::Clflush);
        assert!(best == Instruction::Clwb || !has("clwb"));
    }

    #[test]
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    fn the_best_is_one_that_the_cpu_has() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let features = text.lines().find(|line| line.starts_with("Features"));
        let has = |name: &str| features.unwrap().split_whitespace().any(|f| f == name);
        let best = Instruction::best();
        assert_eq!(best, Instruction::best());
        assert_eq!(best == Instruction::DcCvadp, has("dcpodp"));
        assert_eq!(best.reaches_persistence(), has("dcpop"));
        assert!(line().is_power_of_two() && (16..=2048).contains(&line()));
    }

    #[test]
    fn flushing_changes_nothing() {
        let bytes = [7u8; 200];
        persist(&bytes[3..153]);
        persist(&bytes[3..3]);
        assert_eq!(bytes, [7; 200]);
    }

    /// Every alignment and length around words, lines and the threshold, and nothing beside it.
    #[test]
    fn copies_are_whole() {
        let lengths = (0..=20).chain([63, 64, 65, 127, 255, 256, 257, 320, 700]);
        let source: Vec<u8> = (0..1024u32).map(|n| (n * 7 + 1) as u8).collect();
        for len in lengths {
            for at in (0..70).step_by(if cfg!(miri) { 35 } else { 1 }) {
                for from in [0, 1, 5] {
                    let bytes = &source[from..from + len];
                    let mut memory = std::vec![0xee_u8; 1024];
                    // SAFETY: It is there, and ours.
                    unsafe { copy(memory.as_mut_ptr().add(at), bytes) };
                    drain();
                    assert_eq!(&memory[at..at + len], bytes, "{len} at {at}");
                    let beside = memory[..at].iter().chain(&memory[at + len..]);
                    assert!(beside.copied().all(|b| b == 0xee), "{len} at {at}");
                    let mut back = std::vec![0; len];
                    // SAFETY: As above.
                    unsafe { load(memory.as_ptr().add(at), &mut back) };
                    assert_eq!(back, bytes, "{len} at {at}");
                }
            }
        }
    }
}
