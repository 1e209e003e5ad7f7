// SPDX-License-Identifier: GPL-2.0

//! The BTF reader: what it finds in an image and a module, and that no bytes stop it. That it reads
//! a real kernel as pahole does is in `tests/build/run`.

use proptest::prelude::*;
use rpmem_host_tests::logic::btf::*;

/// BTF under construction.
#[derive(Default)]
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
    base: u32,
}

impl Blob {
    fn image() -> Self {
        Self {
            strings: vec![0],
            ..Self::default()
        }
    }

    fn module(image: &Self) -> Self {
        Self {
            base: image.strings.len() as u32,
            ..Self::default()
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        let at = self.base + self.strings.len() as u32;
        self.strings.extend(text.bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend(word.to_le_bytes());
        }
    }

    /// A structure: names by their places, offsets in bits.
    fn structure(&mut self, name: u32, flag: bool, members: &[(u32, u32)]) {
        self.words(&[
            name,
            (u32::from(flag) << 31) | (KIND_STRUCT << 24) | members.len() as u32,
            64,
        ]);
        for (name, bits) in members {
            self.words(&[*name, 1, *bits]);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0x9f, 0xeb, 1, 0];
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        for word in [24, 0, types, types, strings] {
            all.extend(u32::to_le_bytes(word));
        }
        all.extend(&self.types);
        all.extend(&self.strings);
        all
    }
}

/// An image, and a module that has some of its names from there.
fn kernel() -> (Vec<u8>, Vec<u8>) {
    let mut image = Blob::image();
    let (int, id, other) = (
        image.string("int"),
        image.string("id"),
        image.string("other"),
    );
    // One of each kind, with what follows it.
    for (kind, count, rest) in [
        (1, 0, 1),
        (2, 0, 0),
        (3, 0, 3),
        (5, 1, 3),
        (6, 2, 4),
        (7, 0, 0),
        (8, 0, 0),
        (9, 0, 0),
        (10, 0, 0),
        (11, 0, 0),
        (12, 0, 0),
        (13, 2, 4),
        (14, 0, 1),
        (15, 1, 3),
        (16, 0, 0),
        (17, 0, 1),
        (18, 0, 0),
        (19, 1, 3),
    ] {
        image.words(&[int, (kind << 24) | count, 4]);
        image.words(&vec![0; rest]);
    }
    image.structure(other, false, &[(id, 32)]);

    let mut module = Blob::module(&image);
    let (region, ro, bits) = (
        module.string("nd_region"),
        module.string("ro"),
        module.string("bits"),
    );
    module.structure(
        region,
        true,
        &[(id, 0), (ro, 936 * 8), (bits, (3 << 24) | 7496)],
    );
    (image.bytes(), module.bytes())
}

/// Of an image and modules.
fn place(all: &[Btf<'_>], structure: &str, member: &str) -> Result<Place, Error> {
    let (image, modules) = all.split_first().unwrap();
    Btf::place_in(image, modules, structure.as_bytes(), member.as_bytes())
}

#[test]
fn finds_members() {
    let (image, module) = kernel();
    let image = Btf::parse(&image, None).unwrap();
    let all = [image, Btf::parse(&module, Some(&image)).unwrap()];
    for (structure, member, at) in [
        ("nd_region", "ro", Place::At(936)),
        ("nd_region", "id", Place::At(0)),
        ("nd_region", "bits", Place::BitField),
        ("nd_region", "r", Place::NoMember),
        ("nd_regio", "ro", Place::NoStructure),
        ("int", "id", Place::NoStructure),
        ("other", "id", Place::At(4)),
    ] {
        assert_eq!(
            place(&all, structure, member),
            Ok(at),
            "{structure}.{member}"
        );
    }
    // Names of the module are not those of the image.
    assert_eq!(place(&all[..1], "nd_region", "ro"), Ok(Place::NoStructure));
}

#[test]
fn two_of_one_name() {
    let build = |second: u32| {
        let mut image = Blob::image();
        let (btt, disk) = (image.string("btt"), image.string("btt_disk"));
        image.structure(btt, false, &[(disk, 0)]);
        image.structure(btt, false, &[(disk, second)]);
        image.bytes()
    };
    let (same, other) = (build(0), build(64));
    let same = Btf::parse(&same, None).unwrap();
    let other = Btf::parse(&other, None).unwrap();
    assert_eq!(place(&[same], "btt", "btt_disk"), Ok(Place::At(0)));
    assert_eq!(place(&[other], "btt", "btt_disk"), Err(Error::Ambiguous));
    // Nor in two modules.
    let mut third = Blob::image();
    let (btt, disk) = (third.string("btt"), third.string("btt_disk"));
    third.structure(btt, false, &[(disk, 64)]);
    let third = third.bytes();
    let third = Btf::parse(&third, None).unwrap();
    assert_eq!(
        place(&[other, same, third], "btt", "btt_disk"),
        Err(Error::Ambiguous)
    );
    // What a module says of its own is not looked for in the image.
    assert_eq!(place(&[other, third], "btt", "btt_disk"), Ok(Place::At(8)));
}

#[test]
fn unknown_kinds_and_odd_offsets() {
    let mut image = Blob::image();
    let (btt, disk) = (image.string("btt"), image.string("btt_disk"));
    image.structure(btt, false, &[(disk, 4)]);
    let bytes = image.bytes();
    let read = Btf::parse(&bytes, None).unwrap();
    assert_eq!(place(&[read], "btt", "btt_disk"), Ok(Place::BitField));
    image.words(&[0, 20 << 24, 0]);
    let bytes = image.bytes();
    let read = Btf::parse(&bytes, None).unwrap();
    assert_eq!(place(&[read], "btt", "btt_disk"), Err(Error::Types));
}

#[test]
fn every_cut_and_every_flipped_bit() {
    let (image, module) = kernel();
    for end in 0..image.len() {
        assert_eq!(
            Btf::parse(&image[..end], None).err(),
            Some(Error::Header),
            "{end} bytes"
        );
    }
    for bit in 0..image.len() * 8 {
        let mut image = image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        if let Ok(image) = Btf::parse(&image, None) {
            if let Ok(module) = Btf::parse(&module, Some(&image)) {
                let _ = place(&[image, module], "nd_region", "ro");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(types in prop::collection::vec(any::<u8>(), 0..200), strings in any::<[u8; 8]>()) {
        let blob = Blob { types, strings: strings.to_vec(), base: 0 };
        let bytes = blob.bytes();
        let btf = Btf::parse(&bytes, None).unwrap();
        let _ = place(&[btf], "", "");
        prop_assert!(btf.types().count() <= blob.types.len() / 12 + 1);
    }
}
