// SPDX-License-Identifier: GPL-2.0

//! Geometry: no arithmetic overflows, nothing leaves the device, conversions agree.
//! (Tests are built with overflow checks.)

use proptest::prelude::*;
use rpmem_host_tests::logic::geometry::*;

/// Numbers around everything interesting: 0, powers of two, the end of the address space.
fn hostile() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..16u64,
        (0..64u32, -4i64..5).prop_map(|(bit, d)| (1u64 << bit).wrapping_add_signed(d)),
        (0..1024u64).prop_map(|d| u64::MAX - d),
    ]
}

/// A device that can exist: page-aligned start, any length.
fn device() -> impl Strategy<Value = (Geometry, u64, u64, u64)> {
    (0..1u64 << 40, 1..1u64 << 44, any::<prop::sample::Index>()).prop_filter_map(
        "holds a sector",
        |(page, len, at)| {
            let phys = page << PAGE_SHIFT;
            let offset = at.index(len as usize) as u64 & !(PAGE_SIZE - 1);
            Geometry::new(phys, len, offset)
                .ok()
                .map(|g| (g, phys, len, offset))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hostile_numbers_never_overflow(phys in hostile(), len in hostile(), offset in hostile(),
                                      sector in hostile(), bytes in hostile(), pfn in hostile()) {
        let _ = Pgoff(sector).to_sector();
        if let Ok(g) = Geometry::new(phys, len, offset) {
            let _ = (g.sectors(), g.data_phys(), g.data_range());
            let _ = g.sector_to_offset(Sector(sector), bytes);
            let _ = g.sector_to_pfn(Sector(sector));
            let _ = g.pfn_to_offset(Pfn(pfn));
            let _ = g.offset_to_phys(pfn as usize);
        }
    }

    #[test]
    fn invalid_ranges_are_refused(phys in hostile(), len in hostile(), offset in hostile()) {
        let ok = phys.checked_add(len).is_some() && offset <= len && len - offset >= 512;
        prop_assert_eq!(Geometry::new(phys, len, offset).is_ok(), ok);
    }

    #[test]
    fn transfers_stay_inside_the_data((g, _, len, offset) in device(), sector in hostile(), bytes in hostile(),
                                      at_end in any::<bool>(), back in 0..9u64, over in -1025i64..1026) {
        let capacity = g.sectors() * 512;
        // Half of the time around the last byte.
        let (sector, bytes) = if at_end {
            let back = back.min(g.sectors());
            (g.sectors() - back, (back * 512).saturating_add_signed(over))
        } else {
            (sector, bytes)
        };
        prop_assert!(capacity <= len - offset && len - offset - capacity < 512);
        match g.sector_to_offset(Sector(sector), bytes) {
            Ok(at) => {
                prop_assert_eq!(at as u64, offset + sector * 512);
                prop_assert!(at as u64 + bytes <= offset + capacity);
            }
            Err(err) => {
                prop_assert_eq!(err, GeometryError::OutOfRange);
                let end = u128::from(sector) * 512 + u128::from(bytes);
                prop_assert!(end > u128::from(capacity));
            }
        }
    }

    #[test]
    fn pfn_and_offset_agree((g, phys, _, offset) in device(), page in any::<prop::sample::Index>()) {
        let pages = g.sectors() / 8;
        prop_assume!(pages > 0);
        let page = page.index(pages as usize) as u64;
        let (pfn, linear) = g.sector_to_pfn(Sector(page * 8)).unwrap();
        prop_assert_eq!(pfn.0 << PAGE_SHIFT, phys + offset + page * PAGE_SIZE);
        prop_assert_eq!(linear, pages - page);
        let at = g.pfn_to_offset(pfn).unwrap();
        prop_assert_eq!(at, g.sector_to_offset(Sector(page * 8), PAGE_SIZE).unwrap());
        prop_assert_eq!(g.offset_to_phys(at).unwrap(), pfn.0 << PAGE_SHIFT);
        // Not one page more.
        prop_assert!(g.pfn_to_offset(Pfn(pfn.0 + linear)).is_err());
        prop_assert_eq!(g.sector_to_pfn(Sector(page * 8 + 1)).is_ok(), false);
    }

    #[test]
    fn foreign_pfns_have_no_offset((g, phys, _, offset) in device(), pfn in hostile()) {
        let first = (phys + offset) >> PAGE_SHIFT;
        let inside = pfn >= first && pfn - first < g.sectors() / 8;
        prop_assert_eq!(g.pfn_to_offset(Pfn(pfn)).is_ok(), inside);
    }
}

#[test]
fn every_sector_of_small_devices() {
    for len in 0..=5 * PAGE_SIZE / 256 {
        let len = len * 256;
        for offset in [0, PAGE_SIZE, 2 * PAGE_SIZE] {
            let Ok(g) = Geometry::new(7 * PAGE_SIZE, len, offset) else {
                assert!(len < offset + 512);
                continue;
            };
            let data = len - offset;
            assert_eq!(g.sectors(), data / 512);
            assert_eq!(
                g.data_range(),
                (7 * PAGE_SIZE + offset, 7 * PAGE_SIZE + len - 1)
            );
            for s in 0..g.sectors() + 10 {
                for n in 0..12 {
                    let fits = s + n <= g.sectors();
                    assert_eq!(g.sector_to_offset(Sector(s), n * 512).is_ok(), fits);
                }
                let whole = s % 8 == 0 && s + 8 <= g.sectors();
                assert_eq!(g.sector_to_pfn(Sector(s)).is_ok(), whole);
            }
        }
    }
}

#[test]
fn unaligned_start_has_no_pfns() {
    let g = Geometry::new(0x1000_0200, 1 << 20, 0).unwrap();
    assert_eq!(g.sector_to_pfn(Sector(0)), Err(GeometryError::Unaligned));
    assert_eq!(g.sector_to_pfn(Sector(7)).unwrap().0, Pfn(0x10001));
}
