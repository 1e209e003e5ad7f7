// SPDX-License-Identifier: GPL-2.0

//! Direct access with bad sectors anywhere.

#![no_main]

use rpmem_fuzz::{fuzz_target, Input};
use rpmem_host_tests::check::{extent, extents_tile};

/// Flags; page, number of pages, first bad sector; a map of bad sectors.
fn run(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.byte();
    let (page, requested, bad) = (input.number(), input.number(), input.number());
    let bad = match flags & 3 {
        0 => None,
        1 => Some(bad),
        // Among the sectors asked for, or close to them.
        _ => {
            let from = page & (u64::MAX >> 12);
            let range = requested.saturating_add(2).saturating_mul(8);
            Some((from * 8).saturating_add(bad % range).saturating_sub(8))
        }
    };
    extent(page, requested, bad, flags & 4 != 0);
    let map = u128::from(input.number()) | (u128::from(input.number()) << 64);
    extents_tile(page >> 12, requested % 17, map);
}

fuzz_target!(run);
