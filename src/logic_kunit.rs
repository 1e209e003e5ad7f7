// SPDX-License-Identifier: GPL-2.0

//! The pure logic inside the kernel, against numbers and info blocks that C code makes. On the host
//! it is tried with far more of them (`tests/host`).

#[kernel::macros::kunit_tests(rpmem_geometry)]
mod geometry {
    use crate::logic::geometry::*;
    use kernel::prelude::*;
    use GeometryError::*;

    const PHYS: u64 = 4 << 30;
    const MIB: u64 = 1 << 20;

    /// 16 MiB mapped, of which the first two are in front of the data.
    fn device() -> Result<Geometry> {
        Ok(Geometry::new(PHYS, 16 * MIB, 2 * MIB)?)
    }

    #[test]
    fn a_device_is_where_it_was_put() -> Result {
        let g = device()?;
        assert_eq!(g.sectors(), 14 * MIB / 512);
        assert_eq!(g.data_offset(), 2 * MIB);
        assert_eq!(g.data_phys(), PHYS + 2 * MIB);
        assert_eq!(g.data_range(), (PHYS + 2 * MIB, PHYS + 16 * MIB - 1));
        Ok(())
    }

    #[test]
    fn impossible_devices_are_refused() {
        for (phys, len, offset) in [
            (PHYS, 0, 0),
            (PHYS, 511, 0),
            (PHYS, MIB, MIB),
            (PHYS, MIB, MIB - 511),
            (PHYS, MIB, MIB + 1),
            (PHYS, MIB, u64::MAX),
            (u64::MAX, 512, 0),
            (1, u64::MAX, 0),
        ] {
            assert_eq!(Geometry::new(phys, len, offset), Err(Invalid));
        }
        assert!(Geometry::new(PHYS, MIB, MIB - 512).is_ok());
        assert!(Geometry::new(u64::MAX - 512, 512, 0).is_ok());
    }

    #[test]
    fn transfers_end_with_the_device() -> Result {
        let g = device()?;
        let (end, at) = (g.sectors(), |sector, bytes| {
            g.sector_to_offset(Sector(sector), bytes)
        });
        assert_eq!(at(0, 0), Ok(2 << 20));
        assert_eq!(at(0, 14 * MIB), Ok(2 << 20));
        assert_eq!(at(0, 14 * MIB + 1), Err(OutOfRange));
        assert_eq!(at(end - 1, 512), Ok((16 << 20) - 512));
        assert_eq!(at(end - 1, 513), Err(OutOfRange));
        assert_eq!(at(end, 0), Ok(16 << 20));
        assert_eq!(at(end, 1), Err(OutOfRange));
        assert_eq!(at(end + 1, 0), Err(OutOfRange));
        assert_eq!(at(u64::MAX, u64::MAX), Err(OutOfRange));
        // Its position in bytes wraps to 0.
        assert_eq!(at(1 << 55, 512), Err(OutOfRange));
        Ok(())
    }

    #[test]
    fn pages_end_with_the_device() -> Result {
        let g = device()?;
        let first = (PHYS + 2 * MIB) >> PAGE_SHIFT;
        let pages = 14 * MIB / PAGE_SIZE;
        let pfn = |sector| g.sector_to_pfn(Sector(sector));
        assert_eq!(pfn(0), Ok((Pfn(first), pages)));
        assert_eq!(pfn(8), Ok((Pfn(first + 1), pages - 1)));
        assert_eq!(pfn(g.sectors() - 8), Ok((Pfn(first + pages - 1), 1)));
        assert_eq!(pfn(g.sectors()), Err(OutOfRange));
        assert_eq!(pfn(u64::MAX), Err(OutOfRange));
        assert_eq!(pfn(1), Err(Unaligned));
        assert_eq!(pfn(7), Err(Unaligned));

        let offset = |pfn| g.pfn_to_offset(Pfn(pfn));
        assert_eq!(offset(first), Ok(2 << 20));
        assert_eq!(offset(first + pages - 1), Ok((16 << 20) - 4096));
        assert_eq!(offset(first - 1), Err(OutOfRange));
        assert_eq!(offset(first + pages), Err(OutOfRange));
        // Its position in bytes wraps to the first page.
        assert_eq!(offset(first + (1 << 52)), Err(OutOfRange));
        Ok(())
    }

    #[test]
    fn a_partial_page_at_the_end_has_no_pfn() -> Result {
        let g = Geometry::new(PHYS, 3 * PAGE_SIZE + 1000, 0)?;
        assert_eq!(g.sectors(), 25);
        assert_eq!(g.sector_to_pfn(Sector(16)).map(|(_, pages)| pages), Ok(1));
        assert_eq!(g.sector_to_pfn(Sector(24)), Err(OutOfRange));
        assert_eq!(
            g.pfn_to_offset(Pfn((PHYS >> PAGE_SHIFT) + 3)),
            Err(OutOfRange)
        );
        Ok(())
    }

    #[test]
    fn addresses_end_with_the_mapping() -> Result {
        let g = device()?;
        assert_eq!(g.offset_to_phys(0), Ok(PHYS));
        assert_eq!(g.offset_to_phys((16 << 20) - 1), Ok(PHYS + 16 * MIB - 1));
        assert_eq!(g.offset_to_phys(16 << 20), Err(OutOfRange));
        assert_eq!(g.offset_to_phys(usize::MAX), Err(OutOfRange));
        Ok(())
    }

    #[test]
    fn page_offsets_do_not_wrap() {
        assert_eq!(Pgoff(3).to_sector(), Some(Sector(24)));
        assert_eq!(Pgoff(u64::MAX >> 3).to_sector(), Some(Sector(u64::MAX - 7)));
        assert_eq!(Pgoff((u64::MAX >> 3) + 1).to_sector(), None);
        assert_eq!(Pgoff(u64::MAX).to_sector(), None);
    }

    #[test]
    fn errors_have_their_numbers() {
        assert_eq!(Error::from(OutOfRange), ERANGE);
        assert_eq!(Error::from(Unaligned), ENXIO);
        assert_eq!(Error::from(Invalid), EINVAL);
    }
}

#[kernel::macros::kunit_tests(rpmem_extent)]
mod extent {
    use crate::logic::{
        extent::*,
        geometry::Sector, //
    };
    use DaxExtent::*;

    /// Extents of eight pages from sector 80 on.
    fn extent(bad: Option<u64>, recovery: bool) -> DaxExtent {
        dax_extent(Sector(80), 8, bad.map(Sector), recovery)
    }

    #[test]
    fn without_bad_sectors_all_is_given() {
        assert_eq!(extent(None, false), Pages(8));
        assert_eq!(extent(None, true), Pages(8));
    }

    #[test]
    fn an_ordinary_access_meets_no_bad_sector() {
        for bad in [0, 79, 80, 88, 143] {
            assert_eq!(extent(Some(bad), false), HwPoison);
        }
    }

    #[test]
    fn a_recovery_write_gets_what_is_in_front() {
        // A bad sector in the middle of a page is of the run in front of it.
        for (bad, pages) in [
            (80, 1),
            (81, 1),
            (88, 1),
            (89, 2),
            (95, 2),
            (96, 2),
            (143, 8),
        ] {
            assert_eq!(extent(Some(bad), true), Pages(pages));
        }
        // A bad range that starts in front of the access.
        assert_eq!(extent(Some(7), true), Pages(1));
    }

    /// Extents of a recovery write, one behind the other, tile the range that was asked for.
    #[test]
    fn recovery_tiles_the_range() {
        for bad in 0..64 {
            let mut page = 0;
            let mut steps = 0;
            while page < 8 {
                let left = 8 - page;
                // What is behind has been recovered.
                let bad = Some(bad).filter(|bad| *bad >= page * 8).map(Sector);
                let Pages(pages) = dax_extent(Sector(page * 8), left, bad, true) else {
                    break;
                };
                assert!((1..=left).contains(&pages));
                page += pages;
                steps += 1;
            }
            assert_eq!(page, 8);
            assert!(steps <= 3);
        }
    }

    #[test]
    fn sectors_saturate() {
        assert_eq!(pages_to_sectors(0), 0);
        assert_eq!(pages_to_sectors(3), 24);
        assert_eq!(pages_to_sectors(u64::MAX >> 3), u64::MAX - 7);
        assert_eq!(pages_to_sectors(u64::MAX), u64::MAX);
    }
}

#[kernel::macros::kunit_tests(rpmem_info_block)]
mod info_block {
    use crate::{
        abstractions::{
            kunit::{
                info_block_of,
                Info, //
            },
            platform, //
        },
        logic::{
            geometry,
            info_block::*, //
        }, //
    };
    use kernel::prelude::*;

    const UUID: [u8; 16] = *b"0123456789abcdef";
    const PARENT: [u8; 16] = *b"FEDCBA9876543210";
    const MIB: u64 = 1 << 20;

    fn namespace() -> Namespace {
        Namespace {
            start: 4 << 30,
            size: 256 * MIB,
            uuid: PARENT,
        }
    }

    /// The kernel that runs.
    fn this_kernel() -> Platform {
        Platform {
            page_size: geometry::PAGE_SIZE,
            page_struct_size: platform::PAGE_STRUCT_SIZE,
            compat_align: platform::memremap_compat_align(),
        }
    }

    fn good() -> Info {
        Info {
            dataoff: 8 * MIB,
            npfns: 248 * MIB / geometry::PAGE_SIZE,
            mode: 2,
            start_pad: 0,
            end_trunc: 0,
            align: 2 << 20,
            page_size: geometry::PAGE_SIZE as u32,
            page_struct_size: platform::PAGE_STRUCT_SIZE as u16,
            version_major: 1,
            version_minor: 4,
            devdax: false,
            uuid: UUID,
            parent_uuid: PARENT,
        }
    }

    fn parsed(info: &Info) -> Result<core::result::Result<Option<InfoBlock>, Damage>> {
        let (block, _) = info_block_of(info)?;
        Ok(parse(&block, &namespace(), &this_kernel()))
    }

    /// What is wrong with a block that `change` has spoilt.
    fn why(change: impl FnOnce(&mut Info)) -> Result<&'static str> {
        let mut info = good();
        change(&mut info);
        Ok(match parsed(&info)? {
            Ok(_) => "nothing",
            Err(damage) => damage.what,
        })
    }

    #[test]
    fn a_good_block_says_what_c_put_in() -> Result {
        let expected = InfoBlock {
            kind: Kind::Fsdax,
            map: PageMapLocation::Pmem,
            uuid: UUID,
            data_offset: 8 * MIB,
            start_pad: 0,
            end_trunc: 0,
            align: 2 * MIB,
        };
        assert_eq!(parsed(&good())?, Ok(Some(expected)));

        let other = Info {
            mode: 1,
            start_pad: 4 << 20,
            end_trunc: 2 << 20,
            npfns: 242 * MIB / geometry::PAGE_SIZE,
            align: 4096,
            devdax: true,
            ..good()
        };
        let expected = InfoBlock {
            kind: Kind::Devdax,
            map: PageMapLocation::Ram,
            start_pad: 4 << 20,
            end_trunc: 2 << 20,
            align: 4096,
            ..expected
        };
        assert_eq!(parsed(&other)?, Ok(Some(expected)));
        Ok(())
    }

    #[test]
    fn the_checksum_is_libnvdimms() -> Result {
        let (mut block, sum) = info_block_of(&good())?;
        assert_eq!(checksum(&block), sum);
        // The checksum itself is left out of it.
        block[SIZE - 1] ^= 0xff;
        assert_eq!(checksum(&block), sum);
        block[SIZE - 9] ^= 1;
        assert!(checksum(&block) != sum);
        Ok(())
    }

    #[test]
    fn any_change_is_damage() -> Result {
        let (mut block, _) = info_block_of(&good())?;
        for at in [
            16,
            32,
            52,
            56,
            64,
            72,
            76,
            84,
            92,
            94,
            2000,
            SIZE - 9,
            SIZE - 8,
            SIZE - 1,
        ] {
            block[at] ^= 0x80;
            let damage = parse(&block, &namespace(), &this_kernel()).err();
            assert_eq!(damage.map(|damage| damage.what), Some("checksum"));
            block[at] ^= 0x80;
        }
        assert!(matches!(
            parse(&block, &namespace(), &this_kernel()),
            Ok(Some(_))
        ));
        Ok(())
    }

    #[test]
    fn no_signature_is_no_block() -> Result {
        let (mut block, _) = info_block_of(&good())?;
        block[0] ^= 1;
        assert_eq!(parse(&block, &namespace(), &this_kernel()), Ok(None));
        block.fill(0);
        assert_eq!(parse(&block, &namespace(), &this_kernel()), Ok(None));
        Ok(())
    }

    #[test]
    fn what_is_not_for_this_kernel_is_refused() -> Result {
        let page = "page size of the page map";
        assert_eq!(why(|info| info.page_size *= 2)?, page);
        let page_struct = "struct page size of the page map";
        assert_eq!(why(|info| info.page_struct_size -= 1)?, page_struct);
        // Older versions did not say.
        assert_eq!(
            why(|info| {
                info.version_minor = 3;
                info.page_size = 1;
                info.page_struct_size = 1;
            })?,
            "nothing"
        );
        Ok(())
    }

    #[test]
    fn a_block_of_another_namespace_is_contents() -> Result {
        let mut info = good();
        info.parent_uuid[15] ^= 1;
        let (block, _) = info_block_of(&info)?;
        assert_eq!(parse(&block, &namespace(), &this_kernel()), Ok(None));
        assert!(is_signed(&block));
        // The personality's own uuid is free, and so is the major version.
        assert_eq!(why(|info| info.uuid[15] ^= 1)?, "nothing");
        assert_eq!(why(|info| info.version_major = 2)?, "nothing");
        Ok(())
    }

    #[test]
    fn modes_are_known_or_refused() -> Result {
        let mode = "mode (1 map=mem, 2 map=dev)";
        assert_eq!(why(|info| info.mode = 0)?, mode);
        assert_eq!(why(|info| info.mode = 3)?, mode);
        assert_eq!(why(|info| info.mode = 1)?, "nothing");
        Ok(())
    }

    #[test]
    fn data_starts_inside_the_namespace() -> Result {
        let inside = "data offset inside the info block";
        assert_eq!(why(|info| info.dataoff = 0)?, inside);
        assert_eq!(why(|info| info.dataoff = RESERVE - 1)?, inside);
        let beyond = "data offset beyond the namespace";
        assert_eq!(why(|info| info.dataoff = 256 << 20)?, beyond);
        assert_eq!(why(|info| info.dataoff = u64::MAX)?, beyond);
        let misaligned = "data offset, misaligned";
        assert_eq!(why(|info| info.dataoff += 4096)?, misaligned);
        Ok(())
    }

    #[test]
    fn alignments_are_possible() -> Result {
        let power = "alignment, not a power of two";
        assert_eq!(why(|info| info.align = 3)?, power);
        let size = "alignment beyond the namespace";
        assert_eq!(why(|info| info.align = 512 << 20)?, size);
        let page = "alignment, not a page size";
        assert_eq!(
            why(|info| {
                info.devdax = true;
                info.align = 4 << 20;
            })?,
            page
        );
        Ok(())
    }

    #[test]
    fn padding_leaves_room_for_data() -> Result {
        let padding = "padding beyond the namespace";
        assert_eq!(why(|info| info.end_trunc = u32::MAX)?, padding);
        let mapped = "data offset beyond the mapped range";
        assert_eq!(why(|info| info.start_pad = 248 << 20)?, mapped);
        let start = "start of the mapped range, misaligned";
        assert_eq!(
            why(|info| {
                info.align = 4096;
                info.start_pad = 4096;
            })?,
            start
        );
        let end = "end of the mapped range, misaligned";
        assert_eq!(why(|info| info.end_trunc = 4096)?, end);
        Ok(())
    }

    #[test]
    fn pages_fit_in_the_namespace() -> Result {
        let size = "size, more pages than the namespace holds";
        assert_eq!(why(|info| info.npfns += 1)?, size);
        assert_eq!(why(|info| info.npfns = u64::MAX)?, size);
        assert_eq!(why(|info| info.end_trunc = 2 << 20)?, size);
        Ok(())
    }
}

#[kernel::macros::kunit_tests(rpmem_lease)]
mod lease {
    use crate::logic::lease::*;

    const fn kind(direct: bool, writable: bool) -> Kind {
        Kind { direct, writable }
    }

    #[test]
    fn tags_and_gates_are_numbers() {
        for bits in 0..Tag::ALIGN {
            assert_eq!(Tag::from_bits(bits).to_bits(), bits);
        }
        let gate = Lease::new().gate().to_bits();
        let open = Tag {
            kind: kind(false, false),
            epoch: 0,
        };
        assert!(Gate::lets(gate, open.to_bits()));
        assert!(!Gate::lets(gate, Tag::pending(open.kind).to_bits()));
    }

    #[test]
    fn a_break_waits_for_direct_mappings() {
        let mut lease = Lease::new();
        let (direct, plain) = (lease.map(kind(true, true)), lease.map(kind(false, true)));
        let (Ok(direct), Ok(plain)) = (direct, plain) else {
            panic!("no mapping");
        };
        assert!(lease.begin(Reason::Remove));
        assert_eq!(lease.blocked(), Blocked::ByMappings);
        assert!(lease.gate().serves(direct) && !lease.gate().serves(plain));
        assert_eq!(lease.map(kind(true, false)), Err(Denied::Busy));
        assert_eq!(lease.map(kind(false, false)), Err(Denied::Gone));
        assert!(!lease.finish());
        assert!(lease.unmap(direct, true) && lease.finish());
        assert_eq!(lease.map(kind(true, false)), Err(Denied::Gone));
    }

    #[test]
    fn users_in_the_kernel_outlast_a_removal() {
        let mut lease = Lease::new();
        assert!(lease.add_user(true).is_ok() && lease.begin(Reason::ReadOnly));
        assert_eq!(lease.blocked(), Blocked::ByUsers);
        assert!(!lease.finish() && lease.remove_user(true) && lease.finish());
        assert!(lease.add_user(false).is_ok() && lease.begin(Reason::Remove));
        assert!(lease.is_noticed() && lease.finish());
        assert_eq!(
            (lease.add_user(false), lease.holders()),
            (Err(Denied::Gone), 1)
        );
        assert!(!lease.remove_user(false));
        assert_eq!(lease.holders(), 0);
    }

    #[test]
    fn what_was_revoked_stays_so() {
        let mut lease = Lease::new();
        let (Ok(write), Ok(read)) = (lease.map(kind(true, true)), lease.map(kind(true, false)))
        else {
            panic!("no mapping");
        };
        assert!(lease.begin(Reason::ReadOnly));
        lease.expire();
        assert!(lease.finish());
        assert!(!lease.gate().serves(write) && lease.gate().serves(read));
        assert_eq!(lease.map(kind(true, true)), Err(Denied::ReadOnly));
        assert!(lease.writable_again(true));
        assert!(!lease.gate().serves(write) && lease.map(kind(true, true)).is_ok());
        // It is no holder any more, either.
        assert_eq!(lease.holders(), 2);
    }
}
