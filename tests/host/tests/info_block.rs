// SPDX-License-Identifier: GPL-2.0

//! The info block parser against hostile bytes, and against libnvdimm's own `nd_pfn_validate()` and
//! `nvdimm_setup_pfn()`: values of every field around their limits, all combinations of some, and
//! blocks that libnvdimm makes.

mod common;

use proptest::prelude::*;
use rpmem_host_tests::{
    check,
    libnvdimm::{Libnvdimm, StructPage},
    logic::info_block::*,
    sample::*,
};

const PLATFORM: Platform = Platform {
    page_size: 4096,
    page_struct_size: 64,
    compat_align: 2 << 20,
};

fn fields() -> impl Strategy<Value = Fields> {
    // One or two fields off at a time finds more than all at random.
    let sizes = prop_oneof![
        any::<u64>(),
        (0..40u32, -2i64..3).prop_map(|(b, d)| (1u64 << b).wrapping_add_signed(d)),
        (0..300u64).prop_map(|m| m << 20),
        Just(8192),
        Just(4096),
    ];
    (
        sizes.clone(),
        sizes.clone(),
        sizes.clone(),
        sizes,
        any::<u16>(),
        0..6u16,
        0..5u32,
        prop::collection::vec(0..10usize, 0..3),
    )
        .prop_map(|(a, b, c, d, w, minor, mode, pick)| {
            let mut f = Fields::default();
            for which in pick {
                match which {
                    0 => f.data_offset = a,
                    1 => f.npfns = b,
                    2 => f.start_pad = c as u32,
                    3 => f.end_trunc = d as u32,
                    4 => f.align = a as u32,
                    5 => f.page_size = b as u32,
                    6 => f.page_struct_size = w,
                    7 => f.minor = minor,
                    8 => f.mode = mode,
                    _ => f.major = w % 3,
                }
            }
            f
        })
}

fn libnvdimm() -> impl Strategy<Value = Libnvdimm> {
    let namespace = prop_oneof![
        3 => Just(NAMESPACE),
        1 => (0..1u64 << 30, 0..1u64 << 20)
            .prop_map(|(s, n)| Namespace { start: s << 12, size: n << 12, uuid: UUID }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(start, size)| Namespace {
            start,
            // A namespace does not wrap.
            size: size.min(u64::MAX - start),
            uuid: UUID
        }),
    ];
    let compat_align = prop_oneof![3 => Just(2u64 << 20), 1 => Just(4096), 1 => Just(1 << 30)];
    (namespace, compat_align, any::<bool>()).prop_map(|(namespace, compat_align, larger)| {
        let struct_page = match larger {
            true => StructPage::Bytes96,
            false => StructPage::Bytes64,
        };
        Libnvdimm {
            namespace,
            compat_align,
            struct_page,
            devdax: false,
        }
    })
}

proptest! {
    #![proptest_config(common::config())]

    #[test]
    fn accepts_what_libnvdimm_accepts(f in fields(), libnvdimm in libnvdimm(),
                                      devdax in any::<bool>()) {
        let mut f = f;
        if devdax {
            f.signature = *b"NVDIMM_DAX_INFO\0";
        }
        check::parse_as_libnvdimm(&f.bytes(), &libnvdimm);
    }

    #[test]
    fn any_platform(f in fields(), libnvdimm in libnvdimm(), page in 0..63u32, compat in 0..63u32,
                    page_struct_size in 0..200u64) {
        let platform = Platform {
            page_size: 1 << page,
            page_struct_size,
            compat_align: 1 << compat,
        };
        check::parse_anywhere(&f.bytes(), &libnvdimm.namespace, &platform);
    }

    #[test]
    fn takes_what_libnvdimm_makes(start in 0..1u64 << 25, size in 0..1u64 << 12, shift in 0..10u32,
                                  larger in any::<bool>(), map in any::<bool>(), align in 0..3usize,
                                  devdax in any::<bool>()) {
        // Multiples of 2 MiB: others get no info block.
        let (start, size) = (start << 21, (size >> shift) << 21);
        let libnvdimm = Libnvdimm {
            namespace: Namespace { start, size, uuid: UUID },
            struct_page: if larger { StructPage::Bytes96 } else { StructPage::Bytes64 },
            devdax,
            ..LIBNVDIMM
        };
        let align = [4 << 10, 2 << 20, 1 << 30][align];
        let map = if map { PageMapLocation::Pmem } else { PageMapLocation::Ram };
        let made = check::create_as_libnvdimm(&libnvdimm, map, align);
        // Not for nothing: where there is room, there is one.
        let room = size >= (8 << 20).max(3 * align) && start % align == 0;
        let supported = !(larger && map == PageMapLocation::Pmem);
        prop_assert!(made || !(room && supported), "{:?} {:?} {:#x}", libnvdimm, map, align);
    }

    #[test]
    fn random_bytes_are_no_block_or_damaged(seed in any::<[u8; 32]>(), signed in any::<bool>(),
                                            summed in any::<bool>()) {
        let mut b = [0; SIZE];
        for (i, x) in b.iter_mut().enumerate() {
            *x = seed[i % 32].wrapping_mul(i as u8 | 1).wrapping_add((i >> 8) as u8);
        }
        if signed {
            b[..16].copy_from_slice(b"NVDIMM_PFN_INFO\0");
        }
        if summed {
            let sum = checksum(&b);
            b[SIZE - 8..].copy_from_slice(&sum.to_le_bytes());
        }
        let parsed = parse(&b, &NAMESPACE, &PLATFORM);
        let kinds: [&[u8]; 2] = [b"NVDIMM_PFN_INFO\0", b"NVDIMM_DAX_INFO\0"];
        // An intact one is of another namespace.
        let intact = b[SIZE - 8..] == checksum(&b).to_le_bytes();
        prop_assert_eq!(parsed == Ok(None), intact || !kinds.contains(&&b[..16]));
        prop_assert!(!matches!(parsed, Ok(Some(_))));
    }
}

#[test]
fn every_single_bit_counts() {
    let good = Fields::default().bytes();
    assert!(matches!(parse(&good, &NAMESPACE, &PLATFORM), Ok(Some(_))));
    for bit in 0..SIZE * 8 {
        let mut b = good;
        b[bit / 8] ^= 1 << (bit % 8);
        match parse(&b, &NAMESPACE, &PLATFORM) {
            // A broken signature is no signature.
            Ok(None) => assert!(bit < 16 * 8),
            Err(d) => assert_eq!(d.what, "checksum"),
            Ok(Some(_)) => panic!("bit {bit} does not count"),
        }
    }
}

#[test]
fn a_good_block_says_what_it_says() {
    let f = Fields {
        mode: 2,
        data_offset: 6 << 20,
        npfns: (250 << 20) / 4096,
        ..Fields::default()
    };
    assert_eq!(
        parse(&f.bytes(), &NAMESPACE, &PLATFORM),
        Ok(Some(InfoBlock {
            kind: Kind::Fsdax,
            map: PageMapLocation::Pmem,
            uuid: [0xab; 16],
            data_offset: 6 << 20,
            start_pad: 0,
            end_trunc: 0,
            align: 2 << 20,
        }))
    );
}

/// Every combination of these values, 0.1 million: each check at its limit while the others hold
/// and while they do not.
#[test]
fn all_combinations_at_the_limits() {
    let (mib, size) = (1u64 << 20, NAMESPACE.size);
    let mut accepted = [[0u32; 2]; 2];
    for devdax in [false, true] {
        for mode in 0..4u32 {
            for minor in 0..5 {
                for data_offset in [0, 4096, 8192, 12288, 12289, 2 * mib, size - 4096, size] {
                    for (start_pad, end_trunc) in [
                        (0, 0),
                        (0, 4096),
                        (2 << 20, 0),
                        (2 << 20, 2 << 20),
                        (4096, 0),
                        (254 << 20, 2 << 20),
                        (0, 254 << 20),
                        (0, u32::MAX),
                    ] {
                        for align in [0, 3, 4096, 8192, 2 << 20, 1 << 30] {
                            for (page_size, page_struct_size) in
                                [(4096, 64), (4096, 63), (8192, 64), (0, 0)]
                            {
                                let mapped = size - u64::from(start_pad);
                                let room = mapped.saturating_sub(u64::from(end_trunc));
                                let most = room.saturating_sub(data_offset) / 4096;
                                for npfns in [most, most + 1] {
                                    let mut f = Fields {
                                        mode,
                                        minor,
                                        data_offset,
                                        start_pad,
                                        end_trunc,
                                        align,
                                        page_size,
                                        page_struct_size,
                                        npfns,
                                        ..Fields::default()
                                    };
                                    if devdax {
                                        f.signature = *b"NVDIMM_DAX_INFO\0";
                                    }
                                    let found = check::parse_as_libnvdimm(&f.bytes(), &LIBNVDIMM);
                                    if let Some(found) = found {
                                        let on_medium = found.map == PageMapLocation::Pmem;
                                        accepted[usize::from(devdax)][usize::from(on_medium)] += 1;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    // Not for nothing: some of every kind are good.
    assert!(accepted.iter().flatten().all(|n| *n > 50), "{accepted:?}");
}

#[test]
fn other_writers_and_other_namespaces() {
    let parsed = |change: &dyn Fn(&mut Fields)| {
        let mut f = Fields::default();
        change(&mut f);
        let block = f.bytes();
        assert!(is_signed(&block));
        parse(&block, &NAMESPACE, &PLATFORM)
    };
    let good = parsed(&|_| ()).expect("good");
    assert!(good.is_some());
    for major in [0, 2, u16::MAX] {
        assert_eq!(parsed(&|f| f.major = major), Ok(good), "{major}");
    }
    for byte in [0, 7, 15] {
        assert_eq!(parsed(&|f| f.parent[byte] ^= 1), Ok(None), "{byte}");
    }
    // What image builders write (Kata Containers, PMEM-CSI): version 0.2, no pages, no uuids.
    let unlabelled = Namespace {
        uuid: [0; 16],
        ..NAMESPACE
    };
    let f = Fields {
        major: 0,
        minor: 2,
        npfns: 0,
        parent: [0; 16],
        ..Fields::default()
    };
    let found = parse(&f.bytes(), &unlabelled, &PLATFORM).expect("intact");
    assert_eq!(found.map(|found| found.data_offset), Some(f.data_offset));
}

#[test]
fn reasons_are_given() {
    let refused = |namespace: &Namespace, change: &dyn Fn(&mut Fields)| {
        let mut f = Fields::default();
        change(&mut f);
        parse(&f.bytes(), namespace, &PLATFORM).unwrap_err()
    };
    let why = |change: &dyn Fn(&mut Fields)| refused(&NAMESPACE, change);
    assert_eq!(why(&|f| f.mode = 0).what, "mode (1 map=mem, 2 map=dev)");
    let d = why(&|f| (f.mode, f.page_size) = (2, 65536));
    assert_eq!(
        (d.what, d.found, d.expected),
        ("page size of the page map", 65536, 4096)
    );
    let d = why(&|f| (f.mode, f.page_struct_size) = (2, 56));
    assert_eq!(
        (d.what, d.found, d.expected),
        ("struct page size of the page map", 56, 64)
    );
    let d = why(&|f| f.data_offset = 4096);
    assert_eq!(
        (d.what, d.found, d.expected),
        ("data offset inside the info block", 4096, 8192)
    );
    assert_eq!(
        why(&|f| f.align = 3 << 20).what,
        "alignment, not a power of two"
    );
    assert_eq!(
        why(
            &|f| (f.signature[7], f.signature[8], f.signature[9], f.align) =
                (b'D', b'A', b'X', 8192)
        )
        .what,
        "alignment, not a page size"
    );
    let d = why(&|f| f.align = 1 << 30);
    assert_eq!(
        (d.what, d.found, d.expected),
        ("alignment beyond the namespace", 1 << 30, 256 << 20)
    );
    assert_eq!(
        why(&|f| f.data_offset = 300 << 20).what,
        "data offset beyond the namespace"
    );
    assert_eq!(
        why(&|f| f.end_trunc = u32::MAX).what,
        "padding beyond the namespace"
    );
    assert_eq!(
        why(&|f| f.end_trunc = 256 << 20).what,
        "data offset beyond the mapped range"
    );
    let at_the_end = Namespace {
        start: u64::MAX - (256 << 20) + 1,
        ..NAMESPACE
    };
    assert_eq!(
        refused(&at_the_end, &|_| ()).what,
        "namespace beyond the address space"
    );
    let d = why(&|f| f.data_offset += 4096);
    assert_eq!(
        (d.what, d.found, d.expected),
        ("data offset, misaligned", (2 << 20) + 4096, 2 << 20)
    );
    let d = why(&|f| (f.start_pad, f.align) = (4096, 4096));
    assert_eq!(d.what, "start of the mapped range, misaligned");
    assert_eq!((d.found, d.expected), ((4 << 30) + 4096, 2 << 20));
    let d = why(&|f| f.end_trunc = 4096);
    assert_eq!(d.what, "end of the mapped range, misaligned");
    assert_eq!(
        (d.found, d.expected),
        ((4 << 30) + (256 << 20) - 4096, 2 << 20)
    );
    let d = why(&|f| f.npfns += 1);
    assert_eq!(d.what, "size, more pages than the namespace holds");
    assert_eq!((d.found, d.expected), (65025, 65024));
    assert_eq!(
        why(&|f| f.npfns = u64::MAX).what,
        "size, more pages than the namespace holds"
    );
}
