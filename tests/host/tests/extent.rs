// SPDX-License-Identifier: GPL-2.0

//! Direct access in the presence of bad sectors: the whole of a small domain.

use rpmem_host_tests::logic::extent::*;
use rpmem_host_tests::logic::geometry::Sector;

#[test]
fn all_small_extents() {
    for page in 0..4u64 {
        let start = page * 8;
        for requested in 1..=4u64 {
            assert_eq!(
                dax_extent(Sector(start), requested, None, false),
                DaxExtent::Pages(requested)
            );
            assert_eq!(
                dax_extent(Sector(start), requested, None, true),
                DaxExtent::Pages(requested)
            );
            // The first bad sector may lie in front of the start: the list knows ranges.
            for sector in 0..start + requested * 8 {
                let bad = Some(Sector(sector));
                assert_eq!(
                    dax_extent(Sector(start), requested, bad, false),
                    DaxExtent::HwPoison
                );
                let DaxExtent::Pages(pages) = dax_extent(Sector(start), requested, bad, true)
                else {
                    panic!("a recovery write is refused")
                };
                // As pmem.c: PHYS_PFN(PAGE_ALIGN((first_bad - sector) << SECTOR_SHIFT)), at least
                // 1.
                let distance = sector.saturating_sub(start) * 512;
                assert_eq!(pages, (distance.next_multiple_of(4096) / 4096).max(1));
                assert!((1..=requested).contains(&pages));
            }
        }
    }
}

#[test]
fn sector_counts_saturate() {
    assert_eq!(pages_to_sectors(0), 0);
    assert_eq!(pages_to_sectors(3), 24);
    assert_eq!(pages_to_sectors(u64::MAX), u64::MAX);
}
