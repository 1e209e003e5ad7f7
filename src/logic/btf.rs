// SPDX-License-Identifier: GPL-2.0

//! BTF, the kernel's description of its own types, as far as it says where members of structures
//! are.
//!
//! C counterpart: `struct btf_type` in `include/uapi/linux/btf.h`. Also compiled into
//! `btf_facts.rs`, which looks at the kernel that a module is built for.

/// Size of the part of the header that all versions have, in bytes.
const HEADER: usize = 24;
const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
/// `BTF_KIND_STRUCT`.
pub const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const KIND_LAST: u32 = 19;

/// What is wrong with the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The header is not that of BTF, or points out of the data.
    Header,
    /// The types end within one, or one is of a kind that is not known.
    Types,
    /// There are structures of that name that differ.
    Ambiguous,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is no structure of that name.
    NoStructure,
    /// The structure has no such member.
    NoMember,
    /// The member is a bit field.
    BitField,
    /// At that byte of the structure.
    At(u32),
}

/// The types of the kernel's image or, with those as their base, of a module.
#[derive(Clone, Copy, Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    base_strings: &'a [u8],
}

/// One type.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// Where its name stands, for [`Btf::name`].
    pub name: u32,
    /// `BTF_KIND_*`.
    pub kind: u32,
    /// The number of a type, or the size in bytes.
    #[allow(dead_code)] // Only btf_facts.rs looks at it.
    pub size_or_type: u32,
    /// What follows: members, parameters.
    pub rest: &'a [u8],
    flag: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    /// BTF with the base that it was made for, if it has one.
    ///
    /// # Errors
    ///
    /// [`Error::Header`].
    pub fn parse(data: &'a [u8], base: Option<&Btf<'a>>) -> Result<Self, Error> {
        Self::sections(data, base).ok_or(Error::Header)
    }

    fn sections(data: &'a [u8], base: Option<&Btf<'a>>) -> Option<Self> {
        let start = word(data, 0)?;
        let header = word(data, 4)? as usize;
        if start & 0xffff != u32::from(MAGIC) || (start >> 16) & 0xff != 1 || header < HEADER {
            return None;
        }
        let section = |at: usize| {
            let from = header.checked_add(word(data, at)? as usize)?;
            let to = from.checked_add(word(data, at + 4)? as usize)?;
            data.get(from..to)
        };
        Some(Self {
            types: section(8)?,
            strings: section(16)?,
            base_strings: base.map_or(&[], |base| base.strings),
        })
    }

    /// The name that stands there, without the zero that ends it; empty if there is none.
    pub fn name(&self, offset: u32) -> &'a [u8] {
        let offset = offset as usize;
        let at = match offset.checked_sub(self.base_strings.len()) {
            Some(own) => self.strings.get(own..),
            None => self.base_strings.get(offset..),
        };
        at.and_then(|at| at.split(|&byte| byte == 0).next())
            .unwrap_or(&[])
    }

    /// All types, in the order of their numbers, without those of the base.
    pub fn types(&self) -> Types<'a> {
        Types { left: self.types }
    }

    /// Where the member of a structure is.
    ///
    /// # Errors
    ///
    /// [`Error::Types`], [`Error::Ambiguous`].
    pub fn place(&self, structure: &[u8], member: &[u8]) -> Result<Place, Error> {
        let mut place = Place::NoStructure;
        for one in self.types() {
            let one = one?;
            if one.kind != KIND_STRUCT || self.name(one.name) != structure {
                continue;
            }
            let here = self.member(&one, member);
            if place != Place::NoStructure && place != here {
                return Err(Error::Ambiguous);
            }
            place = here;
        }
        Ok(place)
    }

    /// Where the member is that the image or these modules tell of: each has the structures that it
    /// uses. The image, with a hundred thousand types, is looked at if no module has the structure.
    ///
    /// # Errors
    ///
    /// [`Error::Types`], [`Error::Ambiguous`].
    pub fn place_in(
        image: &Self,
        modules: &[Self],
        structure: &[u8],
        member: &[u8],
    ) -> Result<Place, Error> {
        let mut answer = Place::NoStructure;
        for btf in modules {
            let place = btf.place(structure, member)?;
            if answer == Place::NoStructure {
                answer = place;
            } else if place != Place::NoStructure && place != answer {
                return Err(Error::Ambiguous);
            }
        }
        match answer {
            Place::NoStructure => image.place(structure, member),
            answer => Ok(answer),
        }
    }

    fn member(&self, structure: &Type<'_>, member: &[u8]) -> Place {
        for one in structure.rest.chunks_exact(12) {
            let (Some(name), Some(bits)) = (word(one, 0), word(one, 8)) else {
                break;
            };
            if self.name(name) != member {
                continue;
            }
            // With the flag, the upper byte is the size of a bit field.
            return match bits {
                bits if bits % 8 != 0 || (structure.flag && bits >> 24 != 0) => Place::BitField,
                bits => Place::At(bits / 8),
            };
        }
        Place::NoMember
    }
}

/// Iterator of [`Btf::types`]. It ends with an error at what it cannot read.
pub struct Types<'a> {
    left: &'a [u8],
}

impl<'a> Types<'a> {
    fn one(&self) -> Option<(Type<'a>, &'a [u8])> {
        let (name, info, size_or_type) = (
            word(self.left, 0)?,
            word(self.left, 4)?,
            word(self.left, 8)?,
        );
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        let rest = match kind {
            KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
            KIND_ARRAY => 12,
            KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => count * 12,
            KIND_ENUM | KIND_FUNC_PROTO => count * 8,
            1..=KIND_LAST => 0,
            _ => return None,
        };
        let (rest, left) = self.left.get(12..)?.split_at_checked(rest)?;
        let one = Type {
            name,
            kind,
            size_or_type,
            rest,
            flag: info >> 31 != 0,
        };
        Some((one, left))
    }
}

impl<'a> Iterator for Types<'a> {
    type Item = Result<Type<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        match self.one() {
            Some((one, left)) => {
                self.left = left;
                Some(Ok(one))
            }
            None => {
                self.left = &[];
                Some(Err(Error::Types))
            }
        }
    }
}
