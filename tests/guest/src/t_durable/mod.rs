// SPDX-License-Identifier: GPL-2.0
//! Durability at the cache line, in boots with `durable`: faults that the checker has to see, and
//! every way of storing with every acknowledgement. See Documentation/durability.md.

use crate::check;
use crate::support::arch::WRITES_BACK;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::durable::{self, Medium, State};
use crate::support::node::Node;
use crate::support::sys::Map;
use crate::support::tools::{self, PAGE};
use std::sync::atomic::{AtomicU32, Ordering};

/// Instructions that store, write back and fence; faults in their use; operands.
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod instructions;
use instructions::{fence, store, write_back, FAULTS, PAST, RIGHT};

pub const TESTS: &[Test] = crate::tests! {
    durable_planted => planted,
    durable_operands => |c| instructions::operands(c),
    durable_planted_beside => planted_beside,
};

const LINE: usize = 64;
/// A fault is planted so often: an interrupt in the middle of it may fence.
const TIMES: usize = 8;

/// What the fault is, what the line at `p` is left in, how. The one behind it is there to be used.
type Fault = (&'static str, State, fn(*mut u8));

/// The same without a fault: what it is, and how.
type Right = (&'static str, fn(*mut u8));

/// A mapping whose lines are handed out, each once.
struct Lines {
    map: Map,
    phys: u64,
    next: usize,
}

impl Lines {
    fn new(c: &Ctx) -> TestResult<Lines> {
        let h = Node::new(c)?;
        let map = Map::sync(&h.open()?, 0, 1 << 20)?;
        for at in (0..map.len()).step_by(PAGE) {
            map.read8(at);
        }
        Ok(Lines {
            map,
            phys: Medium::of(c, &h.space)?.start,
            next: LINE,
        })
    }

    /// One with two others around it; where it is.
    fn next(&mut self) -> (*mut u8, u64) {
        self.next += 3 * LINE;
        assert!(self.next + 2 * LINE <= self.map.len());
        // A fault would be a fence.
        self.map.write8(self.next - LINE, 1);
        (
            self.map.as_ptr().wrapping_add(self.next),
            self.phys + self.next as u64,
        )
    }
}

fn planted(c: &mut Ctx) -> TestResult {
    let mut lines = Lines::new(c)?;
    for (what, state, make) in FAULTS {
        for _ in 0..TIMES {
            let (p, phys) = lines.next();
            let text = format!("planted: {what}");
            durable::planted(&text, phys, LINE as u64, *state, || make(p));
        }
    }
    for (what, make) in RIGHT {
        let (p, phys) = lines.next();
        make(p);
        durable::claim(&format!("{what}; mapping"), phys, LINE as u64);
    }
    Ok(())
}

/// `here` on this CPU, then `there` on another one.
fn in_turn(here: impl FnOnce(), there: impl FnOnce() + Send) {
    let turn = AtomicU32::new(0);
    // No system call from when it begins: a wait would fence.
    let until = |n| {
        while turn.load(Ordering::Acquire) != n {
            core::hint::spin_loop();
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| {
            tools::pin_to(1);
            turn.store(1, Ordering::Release);
            until(2);
            there();
            turn.store(3, Ordering::Release);
        });
        tools::pin_to(0);
        until(1);
        here();
        turn.store(2, Ordering::Release);
        until(3);
    });
}

/// An address that another thread may have.
#[derive(Clone, Copy)]
struct Place(*mut u8);
// SAFETY: it is in a mapping that outlives the threads, and is used by asm alone.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    fn get(&self) -> *mut u8 {
        self.0
    }
}

fn planted_beside(c: &mut Ctx) -> TestResult {
    let cpus = std::thread::available_parallelism()?.get();
    check!(cpus > 1, "one CPU");
    let mut lines = Lines::new(c)?;
    // A fence by chance is more likely, as it takes two threads.
    for _ in 0..2 * TIMES {
        let (p, phys) = lines.next();
        let p = Place(p);
        let one = || {
            store(p.get());
            write_back(p.get());
        };
        let text = "planted: flushed by one CPU, fenced by another";
        let planted = || durable::planted(text, phys, LINE as u64, State::Written, fence);
        in_turn(one, planted);

        if let Some((name, store_past)) = PAST {
            let (p, phys) = lines.next();
            let p = Place(p);
            let text = format!("planted: {name} by one CPU, fenced by another");
            let planted = || durable::planted(&text, phys, LINE as u64, State::Written, fence);
            in_turn(|| store_past(p.get()), planted);
        }

        let (p, phys) = lines.next();
        let p = Place(p);
        let one = || {
            store(p.get());
            write_back(p.get());
            fence();
        };
        let again = || {
            let make = || store(p.get());
            let text = "planted: stored to by another CPU afterwards";
            durable::planted(text, phys, LINE as u64, State::Stored, make);
        };
        in_turn(one, again);

        let (p, phys) = lines.next();
        let p = Place(p);
        let other = || {
            write_back(p.get());
            fence();
            let text = format!("store; {WRITES_BACK} by another CPU; mapping");
            durable::claim(&text, phys, LINE as u64);
        };
        in_turn(|| store(p.get()), other);
    }
    Ok(())
}
