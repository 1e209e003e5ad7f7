// SPDX-License-Identifier: GPL-2.0

//! Hostile devices and positions.

#![no_main]

use rpmem_fuzz::{fuzz_target, Input};
use rpmem_host_tests::check::{geometry, Positions};

/// Flags; address, length and data offset of the device; sector, length, pfn, offset.
fn run(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.byte();
    let mut p = Positions {
        map_phys: input.number(),
        map_len: input.number(),
        data_offset: input.number(),
        sector: input.number(),
        bytes: input.number(),
        pfn: input.number(),
        offset: input.number(),
    };
    // Numbers that hit the device are rare among all: bring them near.
    if flags & 1 != 0 {
        p.map_len = p.map_len.min(u64::MAX - p.map_phys);
        p.data_offset %= p.map_len.max(1);
    }
    if let (true, Some(g)) = (flags & 2 != 0, geometry(&p)) {
        p.sector %= g.sectors() + 2;
        let left = g.sectors().saturating_sub(p.sector) * 512;
        p.bytes %= left.saturating_add(513);
        p.pfn = (g.data_phys() >> 12) + p.pfn % (g.sectors() / 8 + 2);
        p.offset %= p.map_len.max(1);
    }
    geometry(&p);
}

fuzz_target!(run);
