// SPDX-License-Identifier: GPL-2.0

//! Geometry: no arithmetic overflows, nothing leaves the device, conversions agree with each other,
//! with a model in 128 bits and with `pmem.c`. (Tests are built with overflow checks.)

mod common;

use proptest::prelude::*;
use rpmem_host_tests::check::{self, Positions};
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

/// A device, and a position in it or at most a little out of it.
fn device() -> impl Strategy<Value = Positions> {
    (
        (0..1u64 << 40, 512..1u64 << 44, any::<prop::sample::Index>()),
        (any::<prop::sample::Index>(), any::<bool>(), -1025i64..1026),
    )
        .prop_map(|((page, map_len, at), (to, at_end, over))| {
            let map_phys = page << PAGE_SHIFT;
            let data_offset = at.index(map_len as usize) as u64 & !(PAGE_SIZE - 1);
            let sectors = (map_len - data_offset) / 512;
            let sector = match at_end {
                true => sectors - to.index(10).min(sectors as usize) as u64,
                false => to.index(sectors as usize + 1) as u64,
            };
            let left = (sectors - sector) * 512;
            Positions {
                map_phys,
                map_len,
                data_offset,
                sector,
                bytes: left.saturating_add_signed(over),
                pfn: (map_phys + data_offset + sector * 512) >> PAGE_SHIFT,
                offset: (data_offset + sector * 512).saturating_add_signed(over),
            }
        })
}

proptest! {
    #![proptest_config(common::config())]

    #[test]
    fn hostile_devices_and_positions(map_phys in hostile(), map_len in hostile(),
                                     data_offset in hostile(), sector in hostile(),
                                     bytes in hostile(), pfn in hostile(), offset in hostile()) {
        check::geometry(&Positions { map_phys, map_len, data_offset, sector, bytes, pfn, offset });
    }

    #[test]
    fn hostile_positions_on_a_device(p in device(), sector in hostile(), bytes in hostile(),
                                     pfn in hostile(), offset in hostile()) {
        check::geometry(&Positions { sector, bytes, pfn, offset, ..p });
    }

    #[test]
    fn folios_cover_the_data(align in 12..40u32, first in 0..1u64 << 30, data in 0..1u64 << 20,
                             len in 1..1u64 << 20, coarse in 0..20u32) {
        // In pages, with some zeroes at the end.
        let round = |n: u64| n >> coarse << coarse;
        let (first, data, len) = (round(first), round(data), round(len).max(1 << coarse));
        let (data, end) = (first + data, first + data + len);
        let [first, data, end] = [first, data, end].map(|n| n << PAGE_SHIFT);
        let order = folio_order(1 << align, first, data, end, &[18, 9]);
        prop_assert!([0, 9, 18].contains(&order));
        let fits = |order: u32| {
            let size = PAGE_SIZE << order;
            size <= 1 << align && [first, data, end].iter().all(|n| n % size == 0)
        };
        prop_assert!(order == 0 || fits(order));
        // There is no larger one.
        for larger in [9, 18].into_iter().filter(|n| *n > order) {
            prop_assert!(!fits(larger));
        }
    }

    #[test]
    fn positions_around_the_end(p in device(), page in any::<bool>(), past in 0..3u64) {
        check::geometry(&p);
        // At the start of a page, and pages next to the last one.
        let sector = if page { p.sector & !7 } else { p.sector };
        check::geometry(&Positions { sector, pfn: (p.pfn + past).saturating_sub(1), ..p });
    }
}

#[test]
fn everything_on_small_devices() {
    for phys in [0, 7 * PAGE_SIZE, 7 * PAGE_SIZE + 512] {
        for len in (0..=4 * PAGE_SIZE).step_by(256) {
            for data_offset in [0, 512, PAGE_SIZE, 2 * PAGE_SIZE] {
                for n in 0..40 {
                    for bytes in (0..=3 * PAGE_SIZE).step_by(512) {
                        check::geometry(&Positions {
                            map_phys: phys,
                            map_len: len,
                            data_offset,
                            sector: n,
                            bytes,
                            pfn: n,
                            offset: n * 512 + bytes % 513,
                        });
                    }
                }
            }
        }
    }
}

/// Devices that end with the address space, or would go over it.
#[test]
fn the_end_of_the_address_space() {
    for back in 0..20 {
        for len in (0..20 * 512).step_by(256) {
            for n in 0..20 {
                check::geometry(&Positions {
                    map_phys: u64::MAX - back * 512,
                    map_len: len,
                    data_offset: n % 3 * 512,
                    sector: n,
                    bytes: u64::MAX - n,
                    pfn: (u64::MAX >> PAGE_SHIFT) - n % 4,
                    offset: len.saturating_sub(n),
                });
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

#[test]
fn a_padded_namespace_says_what_it_says() {
    // 1 MiB, the first 8 KiB not mapped, data 16 KiB into the mapping.
    let g = Geometry::new(0x1000_2000, (1 << 20) - 0x2000, 0x4000).unwrap();
    assert_eq!(g.sectors(), ((1 << 20) - 0x6000) / 512);
    assert_eq!(g.data_range(), (0x1000_6000, 0x100f_ffff));
    assert_eq!(g.sector_to_offset(Sector(3), 512), Ok(0x4600));
    assert_eq!(g.sector_to_pfn(Sector(8)), Ok((Pfn(0x10007), 0xf9)));
    assert_eq!(g.pfn_to_offset(Pfn(0x10007)), Ok(0x5000));
    assert_eq!(g.offset_to_phys(0x5000), Ok(0x1000_7000));
}
