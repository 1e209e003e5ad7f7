// SPDX-License-Identifier: GPL-2.0

//! Direct access in the presence of bad sectors: the whole of a small domain, and numbers of any
//! size, against `__pmem_direct_access()`.

mod common;

use proptest::prelude::*;
use rpmem_host_tests::{check, logic::extent::*, logic::geometry::Sector};

#[test]
fn all_small_extents() {
    for page in 0..4 {
        for requested in 1..=4 {
            for recovery in [false, true] {
                check::extent(page, requested, None, recovery);
                for bad in 0..(page + requested) * 8 {
                    check::extent(page, requested, Some(bad), recovery);
                }
            }
        }
    }
}

#[test]
fn recovery_writes_tile() {
    // Each page: good, or bad in its first, second, last or every sector.
    const BAD: [u128; 5] = [0, 1, 2, 0x80, 0xff];
    for page in [0, 1, u64::MAX >> 12] {
        for pages in 0..=5 {
            for mut pattern in 0..5u32.pow(pages) {
                let mut bad = 0;
                for i in 0..pages {
                    bad |= BAD[pattern as usize % 5] << (i * 8);
                    pattern /= 5;
                }
                check::extents_tile(page, pages.into(), bad);
            }
        }
    }
}

#[test]
fn a_bad_page_is_given_alone() {
    let recover = |bad| dax_extent(Sector(80), 4, Some(Sector(bad)), true);
    assert_eq!(recover(80), DaxExtent::Pages(1));
    assert_eq!(recover(88), DaxExtent::Pages(1));
    assert_eq!(recover(89), DaxExtent::Pages(2));
    assert_eq!(recover(96), DaxExtent::Pages(2));
    // A bad range that begins in front of the start.
    assert_eq!(recover(3), DaxExtent::Pages(1));
}

proptest! {
    #![proptest_config(common::config())]

    #[test]
    fn extents_of_any_size(page in any::<u64>(), shift in 0..64u32, requested in any::<u64>(),
                           bad in prop::option::of(any::<u64>()), near in any::<bool>(),
                           recovery in any::<bool>()) {
        let page = page >> shift;
        let requested = requested >> shift;
        // Half of the time among the sectors asked for.
        let bad = match bad {
            Some(bad) if near => {
                let sectors = pages_to_sectors(requested).max(1);
                Some(((page & (u64::MAX >> 12)) * 8).saturating_add(bad % sectors))
            }
            other => other,
        };
        check::extent(page, requested, bad, recovery);
    }

    #[test]
    fn recovery_writes_tile_any_sectors(page in 0..1u64 << 52, pages in 0..17u64,
                                        a in any::<u128>(), b in any::<u128>(),
                                        c in any::<u128>()) {
        // Few bad sectors, some, and many.
        check::extents_tile(page, pages, a & b & c);
        check::extents_tile(page, pages, a & b);
        check::extents_tile(page, pages, a | b);
    }
}
