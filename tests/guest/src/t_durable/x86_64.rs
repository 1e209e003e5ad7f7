// SPDX-License-Identifier: GPL-2.0
//! See `t_durable`.

use super::{Fault, Lines, Right, LINE};
use crate::check;
use crate::support::ctx::{Ctx, TestResult};
use crate::support::durable::{self, Medium, State};
use crate::support::node::Node;
use crate::support::sys::{MAP_SHARED_VALIDATE, MAP_SYNC};
use crate::support::tools::PAGE;
use core::arch::asm;
use std::os::fd::AsRawFd;

macro_rules! instruction {
    ($name:ident, $text:literal) => {
        pub fn $name(p: *mut u8) {
            // SAFETY: the caller has mapped 64 bytes there, which no reference is to.
            unsafe { asm!($text, p = in(reg) p, v = in(reg) 1u64, options(nostack)) };
        }
    };
}

instruction!(store, "mov [{p}], {v}");
instruction!(store_past, "movnti [{p}], {v}");
instruction!(clwb, "/* {v} */ clwb [{p}]");
instruction!(clflushopt, "/* {v} */ clflushopt [{p}]");
instruction!(clflush, "/* {v} */ clflush [{p}]");

macro_rules! fence {
    ($name:ident, $text:literal) => {
        pub fn $name() {
            // SAFETY: orders memory accesses; what it stores to is on the stack.
            unsafe { asm!($text, out("rax") _, out("rcx") _, out("rdx") _) };
        }
    };
}

fence!(sfence, "sfence");
fence!(mfence, "mfence");
fence!(lfence, "lfence");
fence!(locked, "lock or dword ptr [rsp - 8], 0");
fence!(xchg, "xchg [rsp - 8], eax");
fence!(cpuid, "push rbx; xor eax, eax; cpuid; pop rbx");

pub use clwb as write_back;
pub use sfence as fence;

/// A store past the caches.
pub const PAST: Option<Right> = Some(("movnti", store_past));

/// A 16-byte store past the caches.
fn store_past_16(p: *mut u8) {
    // SAFETY: as of `instruction`.
    unsafe { asm!("movntdq [{p}], xmm0", p = in(reg) p, options(nostack)) };
}

pub const FAULTS: &[Fault] = &[
    ("no flush", State::Stored, |p| {
        store(p);
        sfence();
    }),
    ("no fence after clwb", State::Written, |p| {
        store(p);
        clwb(p);
    }),
    ("no fence after clflushopt", State::Written, |p| {
        store(p);
        clflushopt(p);
    }),
    ("lfence for sfence", State::Written, |p| {
        store(p);
        clwb(p);
        lfence();
    }),
    ("no fence after movnti", State::Written, store_past),
    ("no fence after movntdq", State::Written, store_past_16),
    ("the wrong line flushed", State::Stored, |p| {
        store(p);
        clwb(p.wrapping_add(LINE));
        sfence();
    }),
    ("store after the flush", State::Stored, |p| {
        store(p);
        clwb(p);
        store(p);
        sfence();
    }),
    ("store after the fence", State::Stored, |p| {
        store(p);
        clwb(p);
        sfence();
        store(p);
    }),
    ("store after clflush", State::Stored, |p| {
        store(p);
        clflush(p);
        store(p);
        sfence();
    }),
    ("fence before the flush", State::Written, |p| {
        store(p);
        sfence();
        clwb(p);
    }),
    ("store after movnti", State::Stored, |p| {
        store_past(p);
        store(p);
        sfence();
    }),
    ("movnti to a line in the cache", State::Stored, |p| {
        store(p);
        store_past(p);
        sfence();
    }),
    ("movnti after the fence", State::Written, |p| {
        store(p);
        clwb(p);
        sfence();
        store_past(p);
    }),
    ("store across lines, one flushed", State::Stored, |p| {
        let first = p.wrapping_sub(4);
        store(first);
        clwb(first);
        sfence();
    }),
    ("no store", State::Untouched, |p| {
        clwb(p);
        sfence();
    }),
    ("a locked instruction for sfence", State::ByLock, |p| {
        store(p);
        clwb(p);
        locked();
    }),
    ("xchg for sfence", State::ByLock, |p| {
        store(p);
        clwb(p);
        xchg();
    }),
    ("cpuid for sfence", State::ByLock, |p| {
        store(p);
        clwb(p);
        cpuid();
    }),
];

pub const RIGHT: &[Right] = &[
    ("store; clwb, sfence", |p| {
        store(p);
        clwb(p);
        sfence();
    }),
    ("store; clflushopt, mfence", |p| {
        store(p);
        clflushopt(p);
        mfence();
    }),
    ("store; clflush", |p| {
        store(p);
        clflush(p);
    }),
    ("movnti; sfence", |p| {
        store_past(p);
        sfence();
    }),
    ("movntdq; mfence", |p| {
        store_past_16(p);
        mfence();
    }),
    ("store; clwb, a locked instruction", |p| {
        store(p);
        clwb(p);
        locked();
    }),
    ("store; clwb, xchg", |p| {
        store(p);
        clwb(p);
        xchg();
    }),
    ("store; clwb, cpuid", |p| {
        store(p);
        clwb(p);
        cpuid();
    }),
    ("store; clwb twice, sfence", |p| {
        store(p);
        clwb(p);
        clwb(p);
        sfence();
    }),
    ("movnti, clwb; sfence", |p| {
        store_past(p);
        clwb(p);
        sfence();
    }),
];

/// All kinds of addresses that a flush can have: what is not understood is not flushed.
pub fn operands(c: &Ctx) -> TestResult {
    let mut lines = Lines::new(c)?;
    macro_rules! form {
        ($text:literal, |$p:ident| $($operands:tt)*) => {{
            let ($p, phys) = lines.next();
            store($p);
            // SAFETY: a flush of what is mapped.
            unsafe { asm!($text, "sfence", $($operands)*) };
            let text = $text.replace("; ", ", ");
            durable::claim(&format!("store; {text}, sfence; mapping"), phys, LINE as u64);
        }};
    }
    form!("clwb [rax]", |p| in("rax") p);
    form!("sub {p}, rsp; clwb [rsp + {p}]", |p| p = inout(reg) p => _);
    form!("xchg rbp, {p}; clwb [rbp - 77]; xchg rbp, {p}",
        |p| p = inout(reg) p.wrapping_add(77) => _);
    form!("clwb [r12]", |p| in("r12") p);
    form!("clwb [r13]", |p| in("r13") p);
    form!("clwb [rdx - 128]", |p| in("rdx") p.wrapping_add(128));
    form!("clwb [r9 + 1193046]", |p| in("r9") p.wrapping_sub(1193046));
    form!("clwb [rcx + 8*r10]", |p| in("rcx") p.wrapping_sub(800), in("r10") 100u64);
    form!("clwb [r8 + 4*rdi - 5]", |p| in("r8") p.wrapping_sub(395), in("rdi") 100u64);
    form!("clwb [2*r14 + 64]", |p| in("r14") (p as u64 - 64) / 2);
    form!("clflush [rsi + r15]", |p| in("rsi") p.wrapping_sub(7), in("r15") 7u64);
    form!("clflushopt fs:[r11]", |p| in("r11") p as u64 - thread_pointer());
    relative(c)
}

/// Relative to the instruction itself: `clwb [rip + 4089]; sfence; ret`, in a page before the medium.
fn relative(c: &Ctx) -> TestResult {
    const CODE: [u8; 12] = [
        0x66, 0x0f, 0xae, 0x35, 0xf8, 0x0f, 0, 0, 0x0f, 0xae, 0xf8, 0xc3,
    ];
    let h = Node::new(c)?;
    let f = h.open()?;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let (anonymous, at) = (
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        std::ptr::null_mut(),
    );
    // SAFETY: two pages of this test's own, the second one of which becomes one of the medium; what is
    // called is code.
    let p = unsafe {
        let page = libc::mmap(at, 2 * PAGE, rw | libc::PROT_EXEC, anonymous, -1, 0);
        check!(page != libc::MAP_FAILED, "mmap");
        let page = page.cast::<u8>();
        std::ptr::copy_nonoverlapping(CODE.as_ptr(), page, CODE.len());
        let (fixed, fd) = (
            MAP_SHARED_VALIDATE | MAP_SYNC | libc::MAP_FIXED,
            f.as_raw_fd(),
        );
        let p = libc::mmap(page.add(PAGE).cast(), PAGE, rw, fixed, fd, 2 << 20);
        check!(p != libc::MAP_FAILED, "mmap of the medium");
        store(p.cast());
        std::mem::transmute::<*mut u8, extern "C" fn()>(page)();
        p
    };
    let medium = Medium::of(c, &h.space)?;
    medium.acknowledged(
        "store; clwb relative to rip, sfence; mapping",
        2 << 20,
        LINE,
    );
    // SAFETY: as above.
    unsafe { libc::munmap(p.cast::<u8>().sub(PAGE).cast(), 2 * PAGE) };
    Ok(())
}

fn thread_pointer() -> u64 {
    let p: u64;
    // SAFETY: the first word there is its own address.
    unsafe { asm!("mov {}, fs:[0]", out(reg) p, options(nostack, readonly)) };
    p
}
