// SPDX-License-Identifier: GPL-2.0
//! See `t_durable`.

use super::{Fault, Lines, Right, LINE};
use crate::check_eq;
use crate::support::ctx::{Ctx, TestResult};
use crate::support::durable::{self, State};
use core::arch::asm;

/// No store goes past the caches.
pub const PAST: Option<Right> = None;

macro_rules! instruction {
    ($name:ident, $($text:literal),+) => {
        pub fn $name(p: *mut u8) {
            // SAFETY: the caller has mapped 64 bytes there, which no reference is to.
            unsafe {
                asm!($($text),+, p = in(reg) p, v = in(reg) 1u64, out("x12") _, out("x13") _,
                    out("v0") _, out("p0") _, options(nostack));
            }
        }
    };
}

instruction!(store, "str {v}, [{p}]");
instruction!(store_pair, "stp {v}, {v}, [{p}]");
instruction!(store_past, "stnp {v}, {v}, [{p}]");
instruction!(store_release, "stlr {v}, [{p}]");
instruction!(
    store_exclusive,
    "2: ldxr x12, [{p}]",
    "stxr w13, {v}, [{p}]",
    "cbnz w13, 2b"
);
instruction!(add, ".arch_extension lse", "ldaddal {v}, x12, [{p}]");
instruction!(
    store_vector,
    ".arch_extension sve",
    "ptrue p0.b",
    "dup z0.b, {v:w}",
    "st1b z0.b, p0, [{p}]"
);
instruction!(zero, "/* {v} */ dc zva, {p}");
instruction!(cvadp, "/* {v} */ sys #3, c7, c13, #1, {p}");
instruction!(cvap, "/* {v} */ sys #3, c7, c12, #1, {p}");
instruction!(cvac, "/* {v} */ dc cvac, {p}");
instruction!(civac, "/* {v} */ dc civac, {p}");
instruction!(cvau, "/* {v} */ dc cvau, {p}");
pub use cvadp as write_back;

macro_rules! fence {
    ($name:ident, $text:literal) => {
        pub fn $name() {
            // SAFETY: orders memory accesses.
            unsafe { asm!($text, options(nostack)) };
        }
    };
}

fence!(dsb, "dsb sy");
fence!(dsb_st, "dsb st");
fence!(dsb_ld, "dsb ld");
fence!(dsb_ish, "dsb ish");
fence!(dsb_osh, "dsb osh");
fence!(dmb, "dmb sy");
fence!(isb, "isb");
pub use dsb as fence;

pub const FAULTS: &[Fault] = &[
    ("no dc", State::Stored, |p| {
        store(p);
        dsb();
    }),
    ("no dsb after dc cvadp", State::Written, |p| {
        store(p);
        cvadp(p);
    }),
    ("no dsb after dc cvap", State::Written, |p| {
        store(p);
        cvap(p);
    }),
    ("dmb for dsb", State::Written, |p| {
        store(p);
        cvadp(p);
        dmb();
    }),
    ("isb for dsb", State::Written, |p| {
        store(p);
        cvadp(p);
        isb();
    }),
    ("dsb st for dsb sy", State::Written, |p| {
        store(p);
        cvadp(p);
        dsb_st();
    }),
    ("dsb ld for dsb sy", State::Written, |p| {
        store(p);
        cvadp(p);
        dsb_ld();
    }),
    ("dsb ish for dsb sy", State::Written, |p| {
        store(p);
        cvadp(p);
        dsb_ish();
    }),
    ("dsb osh for dsb sy", State::Written, |p| {
        store(p);
        cvadp(p);
        dsb_osh();
    }),
    ("an atomic instruction for dsb", State::Written, |p| {
        add(p);
        cvadp(p);
        add(p.wrapping_add(LINE));
    }),
    ("stores with order for dsb", State::Written, |p| {
        store(p);
        cvadp(p);
        store_exclusive(p.wrapping_add(LINE));
        store_release(p.wrapping_add(LINE));
    }),
    ("dc cvac for dc cvap", State::Stored, |p| {
        store(p);
        cvac(p);
        dsb();
    }),
    ("dc civac for dc cvap", State::Stored, |p| {
        store(p);
        civac(p);
        dsb();
    }),
    ("dc cvau for dc cvap", State::Stored, |p| {
        store(p);
        cvau(p);
        dsb();
    }),
    ("the wrong line written back", State::Stored, |p| {
        store(p);
        cvadp(p.wrapping_add(LINE));
        dsb();
    }),
    ("store after the dc", State::Stored, |p| {
        store(p);
        cvadp(p);
        store(p);
        dsb();
    }),
    ("store after the dsb", State::Stored, |p| {
        store(p);
        cvadp(p);
        dsb();
        store(p);
    }),
    ("dc zva after the dsb", State::Stored, |p| {
        store(p);
        cvadp(p);
        dsb();
        zero(p);
    }),
    ("dsb before the dc", State::Written, |p| {
        store(p);
        dsb();
        cvadp(p);
    }),
    ("no dc after stnp", State::Stored, |p| {
        store_past(p);
        dsb();
    }),
    ("no dc after dc zva", State::Stored, |p| {
        zero(p.wrapping_add(LINE - 1));
        dsb();
    }),
    ("store across lines, one written back", State::Stored, |p| {
        let first = p.wrapping_sub(4);
        store(first);
        cvadp(first);
        dsb();
    }),
    (
        "a pair across lines, one written back",
        State::Stored,
        |p| {
            let first = p.wrapping_sub(8);
            store_pair(first);
            cvadp(first);
            dsb();
        },
    ),
    (
        "a vector across lines, one written back",
        State::Stored,
        |p| {
            let first = p.wrapping_sub(1);
            store_vector(first);
            cvadp(first);
            dsb();
        },
    ),
    ("no store", State::Untouched, |p| {
        cvadp(p);
        dsb();
    }),
];

pub const RIGHT: &[Right] = &[
    ("store; dc cvadp, dsb sy", |p| {
        store(p);
        cvadp(p);
        dsb();
    }),
    ("store; dc cvap, dsb sy", |p| {
        store(p);
        cvap(p);
        dsb();
    }),
    ("store; dc cvap, dc cvadp, dsb sy", |p| {
        store(p);
        cvap(p);
        cvadp(p);
        dsb();
    }),
    ("stp; dc cvadp, dsb sy", |p| {
        store_pair(p);
        cvadp(p);
        dsb();
    }),
    ("stnp; dc cvadp, dsb sy", |p| {
        store_past(p);
        cvadp(p);
        dsb();
    }),
    ("stxr; dc cvadp, dsb sy", |p| {
        store_exclusive(p);
        cvadp(p);
        dsb();
    }),
    ("ldadd; dc cvadp, dsb sy", |p| {
        add(p);
        cvadp(p);
        dsb();
    }),
    ("st1b; dc cvadp, dsb sy", |p| {
        store_vector(p);
        cvadp(p);
        dsb();
    }),
    ("dc zva; dc cvadp, dsb sy", |p| {
        zero(p);
        cvadp(p);
        dsb();
    }),
];

/// All registers, addresses inside of a line, and tagged ones: what is not understood is not written back.
pub fn operands(c: &Ctx) -> TestResult {
    let mut lines = Lines::new(c)?;
    // What "dc zva" stores to is for the checker to know.
    let block: u64;
    // SAFETY: programs may read the register.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) block, options(nomem, nostack)) };
    check_eq!(4 << block, LINE, "bytes of a block");

    let mut claim = |form: &str, write_back: &dyn Fn(*mut u8)| {
        let (p, phys) = lines.next();
        store(p);
        write_back(p);
        let text = format!("store; {form}, dsb sy; mapping");
        durable::claim(&text, phys, LINE as u64);
    };
    macro_rules! registers {
        ($($r:literal)+) => {$(
            claim(concat!("dc cvadp, ", $r), &|p| {
                // SAFETY: of what is mapped; the register is what it was.
                unsafe {
                    asm!(concat!("mov x1, ", $r), concat!("mov ", $r, ", x0"),
                        concat!("sys #3, c7, c13, #1, ", $r), concat!("mov ", $r, ", x1"), "dsb sy",
                        in("x0") p, out("x1") _, options(nostack));
                }
            });
        )+};
    }
    registers!("x2" "x3" "x4" "x5" "x6" "x7" "x8" "x9" "x10" "x11" "x12" "x13" "x14" "x15" "x16");
    registers!("x17" "x18" "x19" "x20" "x21" "x22" "x23" "x24" "x25" "x26" "x27" "x28" "x29" "x30");
    claim("dc cvap, x0", &|p| {
        // SAFETY: as above.
        unsafe { asm!("sys #3, c7, c12, #1, x0", "dsb sy", in("x0") p, options(nostack)) };
    });
    claim("dc cvap, x1", &|p| {
        // SAFETY: as above.
        unsafe { asm!("sys #3, c7, c12, #1, x1", "dsb sy", in("x1") p, options(nostack)) };
    });
    let written_back = |at: *mut u8| {
        cvadp(at);
        dsb();
    };
    claim("dc cvadp of its last byte", &|p| {
        written_back(p.wrapping_add(LINE - 1))
    });
    claim("dc cvadp with a tag", &|p| {
        written_back(p.map_addr(|at| at | 0x5a << 56))
    });
    claim("dc cvadp with a tag like the kernel's", &|p| {
        written_back(p.map_addr(|at| at | 0xff << 56))
    });
    Ok(())
}
