// SPDX-License-Identifier: MIT OR Apache-2.0
//! From which length on non-temporal stores are faster than stores and a flush: `threshold [DEVICE]`.
//!
//! Without a device it measures ordinary memory. Each copy is waited for, and goes to another place than
//! those before, far more than the caches hold: at the border of a line, or 8 bytes behind it. For each
//! length it says the best of some rounds, as others may use the machine.

use std::io;
use std::time::Instant;

/// Bytes that are written to, from a cache line on.
const LEN: usize = 256 << 20;
const ROUNDS: usize = 50;
const COPIES: usize = 2000;

fn main() -> io::Result<()> {
    let map;
    let mut vec;
    let memory = match std::env::args().nth(1) {
        Some(path) => {
            let device = rpmem::Device::open(path)?;
            map = device.map(0, LEN)?;
            map.as_mut_ptr()
        }
        None => {
            vec = vec![0; LEN + 64];
            let skip = vec.as_ptr().align_offset(64);
            vec[skip..].as_mut_ptr()
        }
    };
    // What is there already, so that no page fault is measured.
    for at in (0..LEN).step_by(4096) {
        // SAFETY: Inside of the memory, which nobody else knows.
        unsafe { memory.add(at).write_volatile(1) };
    }
    let name = rpmem::cache::Instruction::best().name();
    println!("ns with {name}: bytes; at a line, through and past the caches; behind it");
    for len in [64, 128, 192, 256, 320, 384, 512, 768, 1024, 4096, 65536] {
        let bytes = vec![0x5a; len];
        let best = |past, behind| {
            let rounds = (0..ROUNDS).map(|_| round(memory, &bytes, past, behind));
            rounds.min().unwrap_or(0)
        };
        let [through, past] = [best(false, 0), best(true, 0)];
        let [through_8, past_8] = [best(false, 8), best(true, 8)];
        println!("{len:6}; {through:6} {past:6}; {through_8:6} {past_8:6}");
    }
    Ok(())
}

/// Nanoseconds of a copy.
fn round(memory: *mut u8, bytes: &[u8], past: bool, behind: usize) -> u128 {
    let copies = COPIES.min(LEN / bytes.len() / 2);
    let slots = (LEN - 64) / bytes.len().next_multiple_of(64);
    let start = Instant::now();
    for n in 0..copies {
        // In no order that a prefetcher follows.
        let slot = n * 7919 % slots;
        // SAFETY: Inside of the memory, which nobody else knows.
        unsafe {
            let to = memory.add(slot * bytes.len().next_multiple_of(64) + behind);
            if past {
                rpmem::cache::copy_past(to, bytes);
            } else {
                rpmem::cache::copy_through(to, bytes);
            }
        }
        rpmem::cache::drain();
    }
    start.elapsed().as_nanos() / copies as u128
}
