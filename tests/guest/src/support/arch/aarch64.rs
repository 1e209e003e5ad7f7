// SPDX-License-Identifier: GPL-2.0
//! See `arch`.

use super::MAGIC;

/// The serial port of the kernel's log.
pub const CONSOLE: &str = "/dev/ttyAMA0";
/// That of KTAP, on PCI.
pub const CHANNEL: &str = "/dev/ttyS0";

/// The function that memcpy_flushcache() is in the end.
pub const MEMCPY_FLUSHCACHE: &str = "memcpy_flushcache";
/// And copy_mc_to_kernel().
pub const COPY_MC_TO_KERNEL: &str = "memcpy";

/// What makes stores to persistent memory durable, in the text of claims.
pub const WRITES_BACK: &str = "dc cvadp, dsb sy";

/// A function that returns 42.
pub const RETURNS_42: [u8; 8] = [0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];
/// What the driver has CPUs fetch instructions anew by, if they have to be told.
pub const SYNCS_INSTRUCTIONS: Option<&str> = Some("rpmem_helper_sync_instructions");

/// Bytes of the largest entry of page tables that page frames can have.
pub const LARGEST_ENTRY: u64 = 2 << 20;

/// Numbers of system calls that libc does not have everywhere.
pub const SYS_FADVISE64: i64 = 223;
pub const SYS_SENDFILE: i64 = 71;

/// Ends the machine with this code, by semihosting.
pub fn end_machine(code: u8) {
    const EXIT_EXTENDED: u64 = 0x20;
    const APPLICATION_EXIT: u64 = 0x20026;
    // As isa-debug-exit would.
    let why = [APPLICATION_EXIT, u64::from(code) << 1 | 1];
    // SAFETY: the emulator ends, or the instruction is a fault, which ends this process.
    unsafe {
        std::arch::asm!("hlt #0xf000", inout("x0") EXIT_EXTENDED => _, in("x1") &raw const why,
            options(nostack));
    }
}

/// The virtual counter: under `-icount shift=0`, instructions executed so far, as the CPU `max` has it count
/// nanoseconds.
pub fn counter() -> u64 {
    let now;
    // SAFETY: programs may read the register.
    unsafe { std::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) now, options(nostack, nomem)) };
    now
}

/// A request to the plugins of the harness: no register is set, without them.
pub fn request<const WHAT: u32>(a: u64, b: u64) {
    // SAFETY: the instruction does nothing; who looks at it reads the memory that it is told of.
    unsafe {
        std::arch::asm!("movz xzr, #0x5200 + {what}, lsl #48", what = const WHAT, in("x0") a,
            in("x1") b, options(readonly, nostack));
    }
}

std::arch::global_asm!(
    ".globl rpmem_probe_load, rpmem_probe_store, rpmem_probe_end",
    "rpmem_probe_load:",
    "ldr x0, [x0]",
    "ret",
    "rpmem_probe_store:",
    "str x1, [x0]",
    "rpmem_probe_end:",
    "ret",
);

/// Where a thread goes on after a signal.
pub fn program_counter(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.pc
}

/// Has it go on there.
pub fn go_on_at(context: &mut libc::ucontext_t, at: u64) {
    context.uc_mcontext.pc = at;
}

/// Where `touch` goes on after a fault, if that is what the thread was at.
pub fn end_of_touch(context: &libc::ucontext_t) -> Option<u64> {
    let regs = &context.uc_mcontext.regs;
    (regs[9] == MAGIC).then_some(regs[10])
}

/// Reads or changes a byte; false if there is no memory, of whatever kind.
///
/// # Safety
///
/// A handler has a fault go on at the end. A write is to where nothing of Rust's is.
pub unsafe fn touch(addr: u64, write: bool) -> bool {
    let ok: u64;
    // SAFETY: by the caller; `ok` is still 0 after a fault.
    unsafe {
        std::arch::asm!(
            "adr x10, 3f",
            "mov x9, {magic}",
            "mov x11, #0",
            "cbnz {write}, 2f",
            "ldrb w12, [{addr}]",
            "mov x11, #1",
            "b 3f",
            "2:",
            "ldxrb w12, [{addr}]",
            "add w12, w12, #1",
            "stxrb w13, w12, [{addr}]",
            "cbnz w13, 2b",
            "mov x11, #1",
            "3:",
            "mov x9, #0",
            addr = in(reg) addr,
            write = in(reg) u64::from(write),
            magic = in(reg) MAGIC,
            out("x9") _,
            out("x10") _,
            out("x11") ok,
            out("x12") _,
            out("x13") _,
        );
    }
    ok != 0
}

/// Two instructions a turn.
pub fn spin(turns: u64) {
    // SAFETY: counts a register down.
    unsafe {
        core::arch::asm!("2:", "subs {n}, {n}, #1", "b.ne 2b", n = inout(reg) turns => _,
            options(nomem, nostack));
    }
}

/// Writes these lines back from the CPU caches, as the kernel does: `dcache_clean_pop()`.
///
/// # Safety
///
/// They are mapped, and the CPU has `dc cvap`.
pub unsafe fn write_back(start: usize, end: usize) {
    // SAFETY: by the caller; nothing is read or written. The instruction is by its number, as the
    // assembler has a name for it from ARMv8.2 on only.
    unsafe {
        core::arch::asm!("mrs {line}, ctr_el0", "ubfx {line}, {line}, #16, #4", "mov {four}, #4",
            "lsl {line}, {four}, {line}", "2:", "sys #3, c7, c12, #1, {at}", "add {at}, {at}, {line}",
            "cmp {at}, {end}", "b.lo 2b", "dsb sy", line = out(reg) _, four = out(reg) _,
            at = inout(reg) start => _, end = in(reg) end, options(nostack));
    }
}

/// Stores 7 to five bytes, and adds 1000 to a word by one instruction, or a pair of them.
///
/// # Safety
///
/// Both are mapped, and there is no reference to them.
pub unsafe fn repeated_and_locked_stores(bytes: *mut u8, word: *mut u32) {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    // SAFETY: by the caller.
    unsafe {
        for n in 0..5 {
            bytes.add(n).write_volatile(7);
        }
        AtomicU32::from_ptr(word).fetch_add(1000, SeqCst);
    }
}
