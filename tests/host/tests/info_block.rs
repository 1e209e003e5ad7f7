// SPDX-License-Identifier: GPL-2.0

//! The info block parser against hostile bytes, and against an oracle that follows
//! `nd_pfn_validate()` check by check.

use proptest::prelude::*;
use rpmem_host_tests::logic::info_block::*;

const UUID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const PLATFORM: Platform = Platform {
    page_size: 4096,
    page_struct_size: 64,
    compat_align: 2 << 20,
};
const NAMESPACE: Namespace = Namespace {
    start: 4 << 30,
    size: 256 << 20,
    uuid: UUID,
};

/// The fields of a block, in clear.
#[derive(Clone, Debug)]
struct Fields {
    signature: [u8; 16],
    parent: [u8; 16],
    major: u16,
    minor: u16,
    data_offset: u64,
    npfns: u64,
    mode: u32,
    start_pad: u32,
    end_trunc: u32,
    align: u32,
    page_size: u32,
    page_struct_size: u16,
}

fn good() -> Fields {
    Fields {
        signature: *b"NVDIMM_PFN_INFO\0",
        parent: UUID,
        major: 1,
        minor: 4,
        data_offset: 2 << 20,
        npfns: (254 << 20) / 4096,
        mode: 1,
        start_pad: 0,
        end_trunc: 0,
        align: 2 << 20,
        page_size: 4096,
        page_struct_size: 64,
    }
}

impl Fields {
    fn bytes(&self) -> [u8; SIZE] {
        let mut b = [0; SIZE];
        b[..16].copy_from_slice(&self.signature);
        b[16..32].copy_from_slice(&[0xab; 16]);
        b[32..48].copy_from_slice(&self.parent);
        b[52..54].copy_from_slice(&self.major.to_le_bytes());
        b[54..56].copy_from_slice(&self.minor.to_le_bytes());
        b[56..64].copy_from_slice(&self.data_offset.to_le_bytes());
        b[64..72].copy_from_slice(&self.npfns.to_le_bytes());
        b[72..76].copy_from_slice(&self.mode.to_le_bytes());
        b[76..80].copy_from_slice(&self.start_pad.to_le_bytes());
        b[80..84].copy_from_slice(&self.end_trunc.to_le_bytes());
        b[84..88].copy_from_slice(&self.align.to_le_bytes());
        b[88..92].copy_from_slice(&self.page_size.to_le_bytes());
        b[92..94].copy_from_slice(&self.page_struct_size.to_le_bytes());
        let sum = checksum(&b);
        b[SIZE - 8..].copy_from_slice(&sum.to_le_bytes());
        b
    }
}

/// What `nd_pfn_validate()` and `__nvdimm_setup_pfn()` accept, in 128-bit arithmetic, without
/// checksum and signature; and the two things in which the parser is stricter.
fn oracle(f: &Fields, ns: &Namespace, devdax: bool) -> bool {
    let (pad, trunc) = if f.minor < 1 {
        (0, 0)
    } else {
        (f.start_pad as i128, f.end_trunc as i128)
    };
    let align = if f.minor < 2 { 0 } else { f.align as i128 };
    let (page_size, struct_size) = if f.minor < 4 {
        (4096, 64)
    } else {
        (f.page_size as i128, f.page_struct_size as i128)
    };
    let (start, size, offset) = (ns.start as i128, ns.size as i128, f.data_offset as i128);
    if f.parent != ns.uuid || !(1..=2).contains(&f.mode) {
        return false;
    }
    let pmem = f.mode == 2;
    if pmem && (page_size > 4096 || struct_size < 64) {
        return false;
    }
    // __nvdimm_setup_pfn(): offset < reserve; an underflow of altmap->free for map=dev.
    if offset < 8192 {
        return false;
    }
    let align = if align == 0 {
        1i128 << (127 - offset.leading_zeros())
    } else {
        align
    };
    // IS_ALIGNED() means nothing for other numbers.
    if align & (align - 1) != 0 {
        return false;
    }
    if devdax && ![4096, 2 << 20, 1 << 30].contains(&align) {
        return false;
    }
    let libnvdimm = align <= size
        && offset < size
        && (start + offset + pad) % align == 0
        && offset % 4096 == 0
        && (start + pad) % (2 << 20) == 0
        && (start + size - trunc) % (2 << 20) == 0
        && offset < size - pad - trunc;
    // Stricter: the layout's version, and the number of pages.
    libnvdimm && f.major == 1 && f.npfns as i128 * page_size <= size - pad - trunc - offset
}

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
            let mut f = good();
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

fn namespace() -> impl Strategy<Value = Namespace> {
    prop_oneof![
        3 => Just(NAMESPACE),
        1 => (0..1u64 << 30, 0..1u64 << 20).prop_map(|(s, n)| Namespace { start: s << 12, size: n << 12, uuid: UUID }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(start, size)| Namespace {
            start,
            // A namespace does not wrap.
            size: size.min(u64::MAX - start),
            uuid: UUID
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepts_what_the_oracle_accepts(f in fields(), ns in namespace(), devdax in any::<bool>()) {
        let mut f = f;
        if devdax {
            f.signature = *b"NVDIMM_DAX_INFO\0";
        }
        let parsed = parse(&f.bytes(), &ns, &PLATFORM);
        prop_assert_eq!(matches!(parsed, Ok(Some(_))), oracle(&f, &ns, devdax), "{:?} {:?}", f, parsed);
    }

    #[test]
    fn accepted_layouts_fit(f in fields(), ns in namespace()) {
        if let Ok(Some(b)) = parse(&f.bytes(), &ns, &PLATFORM) {
            let padding = u64::from(b.start_pad) + u64::from(b.end_trunc);
            prop_assert!(padding < ns.size);
            prop_assert!(b.data_offset >= RESERVE && b.data_offset < ns.size - padding);
            prop_assert!(b.align.is_power_of_two());
        }
    }

    #[test]
    fn random_bytes_are_no_block_or_damaged(seed in any::<[u8; 32]>(), signed in any::<bool>(), summed in any::<bool>()) {
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
        prop_assert_eq!(parsed == Ok(None), b[..16] != *b"NVDIMM_PFN_INFO\0" && b[..16] != *b"NVDIMM_DAX_INFO\0");
        prop_assert!(!matches!(parsed, Ok(Some(_))));
    }
}

#[test]
fn every_single_bit_counts() {
    let good = good().bytes();
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
    let mut f = good();
    f.mode = 2;
    f.data_offset = 6 << 20;
    f.npfns = (250 << 20) / 4096;
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

#[test]
fn reasons_are_given() {
    let why = |change: &dyn Fn(&mut Fields)| {
        let mut f = good();
        change(&mut f);
        parse(&f.bytes(), &NAMESPACE, &PLATFORM).unwrap_err()
    };
    let d = why(&|f| f.major = 2);
    assert_eq!((d.what, d.found, d.expected), ("major version", 2, 1));
    let d = why(&|f| f.parent[0] = 9);
    assert_eq!(
        (d.found, d.expected),
        (0x0902_0304_0506_0708, 0x0102_0304_0506_0708)
    );
    assert_eq!(why(&|f| f.mode = 0).what, "mode (1 map=mem, 2 map=dev)");
    assert_eq!(
        why(&|f| f.data_offset = 300 << 20).what,
        "data offset beyond the namespace"
    );
    assert_eq!(
        why(&|f| f.npfns += 1).what,
        "size, more pages than the namespace holds"
    );
    assert_eq!(
        why(&|f| f.end_trunc = 256 << 20).what,
        "data offset beyond the mapped range"
    );
    assert_eq!(
        why(&|f| f.end_trunc = u32::MAX).what,
        "padding beyond the namespace"
    );
}

/// Against a second implementation, word by word as `nd_fletcher64()` does it; that the kernel
/// agrees is shown in the guest, where it writes the blocks that the module reads.
#[test]
fn checksum_is_fletcher64() {
    let b = good().bytes();
    let (mut lo, mut hi) = (0u32, 0u64);
    for i in 0..SIZE / 4 {
        let mut w = u32::from_le_bytes(b[i * 4..i * 4 + 4].try_into().unwrap());
        if i >= SIZE / 4 - 2 {
            w = 0;
        }
        lo = lo.wrapping_add(w);
        hi += u64::from(lo);
    }
    assert_eq!(checksum(&b), (hi << 32) | u64::from(lo));
}
