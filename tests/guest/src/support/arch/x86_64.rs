// SPDX-License-Identifier: GPL-2.0
//! See `arch`.

use super::MAGIC;
use std::fs::File;

/// The serial port of the kernel's log.
pub const CONSOLE: &str = "/dev/ttyS0";
/// That of KTAP.
pub const CHANNEL: &str = "/dev/ttyS1";

/// The function that memcpy_flushcache() is in the end.
pub const MEMCPY_FLUSHCACHE: &str = "__memcpy_flushcache";
/// And copy_mc_to_kernel().
pub const COPY_MC_TO_KERNEL: &str = "copy_mc_to_kernel";

/// What makes stores to persistent memory durable, in the text of claims.
pub const WRITES_BACK: &str = "clwb, sfence";

/// A function that returns 42.
pub const RETURNS_42: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];
/// What the driver has CPUs fetch instructions anew by, if they have to be told.
pub const SYNCS_INSTRUCTIONS: Option<&str> = None;

/// Bytes of the largest entry of page tables that page frames can have.
pub const LARGEST_ENTRY: u64 = 1 << 30;

/// Numbers of system calls that libc does not have everywhere.
pub const SYS_FADVISE64: i64 = libc::SYS_fadvise64;
pub const SYS_SENDFILE: i64 = libc::SYS_sendfile;

/// isa-debug-exit.
const EXIT_PORT: u16 = 0xf4;

/// Ends the machine with this code: through /dev/port, or directly where there is none.
pub fn end_machine(code: u8) {
    use std::os::unix::fs::FileExt;
    if let Ok(f) = File::options().write(true).open("/dev/port") {
        if f.write_all_at(&[code], u64::from(EXIT_PORT)).is_ok() {
            return;
        }
    }
    // SAFETY: iopl(3) allows the instruction; the port is QEMU's exit device.
    unsafe {
        if libc::iopl(3) == 0 {
            std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") code, options(nostack, nomem));
        }
    }
}

/// The time-stamp counter: under `-icount shift=0`, instructions executed so far.
pub fn counter() -> u64 {
    // SAFETY: the instruction is part of the architecture.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A request to the plugins of the harness: a nop, without them.
pub fn request<const WHAT: u32>(a: u64, b: u64) {
    // SAFETY: the instruction does nothing; who looks at it reads the memory that it is told of.
    unsafe {
        core::arch::asm!(".byte 0x0f, 0x1f, 0x80", ".long 0x52504d00 + {what}", what = const WHAT,
            in("rdi") a, in("rsi") b, options(readonly, nostack));
    }
}

std::arch::global_asm!(
    ".globl rpmem_probe_load, rpmem_probe_store, rpmem_probe_end",
    "rpmem_probe_load:",
    "mov rax, [rdi]",
    "ret",
    "rpmem_probe_store:",
    "mov [rdi], rsi",
    "rpmem_probe_end:",
    "ret",
);

/// Where a thread goes on after a signal.
pub fn program_counter(context: &libc::ucontext_t) -> u64 {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64
}

/// Has it go on there.
pub fn go_on_at(context: &mut libc::ucontext_t, at: u64) {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] = at as i64;
}

/// Where `touch` goes on after a fault, if that is what the thread was at.
pub fn end_of_touch(context: &libc::ucontext_t) -> Option<u64> {
    let regs = &context.uc_mcontext.gregs;
    let is_touch = regs[libc::REG_R10 as usize] as u64 == MAGIC;
    is_touch.then_some(regs[libc::REG_R11 as usize] as u64)
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
            "lea r11, [rip + 3f]",
            "mov r10, {magic}",
            "xor eax, eax",
            "test {write}, {write}",
            "jnz 2f",
            "mov cl, byte ptr [{addr}]",
            "mov eax, 1",
            "jmp 3f",
            "2:",
            "lock inc byte ptr [{addr}]",
            "mov eax, 1",
            "3:",
            "xor r10d, r10d",
            addr = in(reg) addr,
            write = in(reg) u64::from(write),
            magic = in(reg) MAGIC,
            out("rax") ok,
            out("rcx") _,
            out("r10") _,
            out("r11") _,
        );
    }
    ok != 0
}

/// Two instructions a turn.
pub fn spin(turns: u64) {
    // SAFETY: counts a register down.
    unsafe {
        core::arch::asm!("2:", "dec {n}", "jnz 2b", n = inout(reg) turns => _,
            options(nomem, nostack));
    }
}

/// Writes these lines back from the CPU caches, as the kernel does.
///
/// # Safety
///
/// They are mapped.
pub unsafe fn write_back(start: usize, end: usize) {
    // SAFETY: by the caller; nothing is read or written.
    unsafe {
        core::arch::asm!("2:", "clwb [{at}]", "add {at}, 64", "cmp {at}, {end}", "jb 2b",
            "sfence", at = inout(reg) start => _, end = in(reg) end, options(nostack));
    }
}

/// Stores 7 to five bytes by one instruction, and adds 1000 to a word by another.
///
/// # Safety
///
/// Both are mapped, and there is no reference to them.
pub unsafe fn repeated_and_locked_stores(bytes: *mut u8, word: *mut u32) {
    // SAFETY: by the caller.
    unsafe {
        std::arch::asm!("mov rcx, 5", "rep stosb", inout("rdi") bytes => _, in("al") 7u8,
            out("rcx") _);
        std::arch::asm!("lock add dword ptr [{}], 1000", in(reg) word);
    }
}
