// SPDX-License-Identifier: GPL-2.0

//! The info block of fsdax and devdax namespaces: 4 KiB at offset 4 KiB of the namespace,
//! untrusted.
//!
//! C counterpart: `struct nd_pfn_sb` in `drivers/nvdimm/pfn.h` and `nd_pfn_validate()` in
//! `drivers/nvdimm/pfn_devs.c`. Everything that libnvdimm refuses is refused here. Two things are
//! stricter: a block that carries the signature but is damaged is an error, not "no info block"
//! (libnvdimm then offers the raw namespace, with the block itself as data), and a block that
//! describes more pages than the namespace holds is an error too. What another writer made is not
//! damage: libnvdimm does not look at the major version, and image builders leave it zero.

/// Offset of the info block in the namespace, in bytes.
pub const OFFSET: u64 = 4096;

/// Offset of the uuid of the personality in the info block, in bytes.
pub const UUID_AT: u64 = 16;

/// Size of the info block in bytes.
pub const SIZE: usize = 4096;

/// Bytes at the start of a namespace that belong to info blocks (`nd_info_block_reserve()`).
pub const RESERVE: u64 = 8192;

const PFN_SIGNATURE: &[u8; 16] = b"NVDIMM_PFN_INFO\0";
const DAX_SIGNATURE: &[u8; 16] = b"NVDIMM_DAX_INFO\0";
const CHECKSUM_AT: usize = SIZE - 8;

/// Which driver the namespace is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// File systems: ndctl mode fsdax.
    Fsdax,
    /// Device DAX: ndctl mode devdax.
    Devdax,
}

/// Where the struct pages are (`enum nd_pfn_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageMapLocation {
    /// In system memory: `ndctl --map=mem`.
    Ram,
    /// On the medium, between the info block and the data: `ndctl --map=dev`.
    Pmem,
}

/// A verified info block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoBlock {
    /// Which driver the namespace is for.
    pub kind: Kind,
    /// Where the struct pages are.
    pub map: PageMapLocation,
    /// The uuid of this personality, not of the namespace.
    pub uuid: [u8; 16],
    /// Bytes from the start of the mapping (`start_pad` into the namespace) to the data.
    pub data_offset: u64,
    /// Bytes at the start of the namespace that are not mapped.
    pub start_pad: u32,
    /// Bytes at the end of the namespace that are not mapped.
    pub end_trunc: u32,
    /// Alignment of the data in bytes, a power of two.
    pub align: u64,
}

/// What the info block is checked against: the namespace that carries it.
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    /// Physical address of the first byte.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// Uuid from the label; all zero without labels.
    pub uuid: [u8; 16],
}

/// What the info block is checked against: the kernel that runs.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Page size in bytes.
    pub page_size: u64,
    /// `sizeof(struct page)`.
    pub page_struct_size: u64,
    /// `memremap_compat_align()` in bytes, a power of two.
    pub compat_align: u64,
}

/// Why an info block was refused: what is wrong, the value found and the value or limit expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is wrong, for the log.
    pub what: &'static str,
    /// The value on the medium.
    pub found: u64,
    /// The value or limit that was expected.
    pub expected: u64,
}

fn damage<T>(what: &'static str, found: u64, expected: u64) -> Result<T, Damage> {
    Err(Damage {
        what,
        found,
        expected,
    })
}

fn bytes<const N: usize>(block: &[u8; SIZE], at: usize) -> [u8; N] {
    let mut out = [0; N];
    // All callers pass constant positions inside the block.
    if let Some(src) = block.get(at..at + N) {
        out.copy_from_slice(src);
    }
    out
}

fn le16(block: &[u8; SIZE], at: usize) -> u64 {
    u16::from_le_bytes(bytes(block, at)).into()
}

fn le32(block: &[u8; SIZE], at: usize) -> u32 {
    u32::from_le_bytes(bytes(block, at))
}

fn le64(block: &[u8; SIZE], at: usize) -> u64 {
    u64::from_le_bytes(bytes(block, at))
}

fn aligned(value: u64, align: u64) -> bool {
    value & (align - 1) == 0
}

/// The checksum that the block should carry: Fletcher-64 over its little-endian 32-bit words, with
/// the checksum field taken as zero (`nd_sb_checksum()`).
pub fn checksum(block: &[u8; SIZE]) -> u64 {
    let (mut lo, mut hi) = (0u32, 0u64);
    for (i, word) in block.chunks_exact(4).enumerate() {
        if i * 4 < CHECKSUM_AT {
            lo = lo.wrapping_add(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
        hi = hi.wrapping_add(lo.into());
    }
    (hi << 32) | u64::from(lo)
}

/// Whether a block has the signature of an info block, be it of this namespace or not.
pub fn is_signed(block: &[u8; SIZE]) -> bool {
    kind(block).is_some()
}

fn kind(block: &[u8; SIZE]) -> Option<Kind> {
    match &bytes::<16>(block, 0) {
        PFN_SIGNATURE => Some(Kind::Fsdax),
        DAX_SIGNATURE => Some(Kind::Devdax),
        _ => None,
    }
}

/// Parses and verifies the info block of a namespace. `Ok(None)`: there is none, without signature or
/// intact but with the uuid of another namespace. That one is part of the contents: a virtual machine
/// whose NVDIMM this namespace is writes it, and so did who had the namespace before it got its label.
///
/// # Errors
///
/// [`Damage`] if the signature is there and anything else is not as it must be.
pub fn parse(
    block: &[u8; SIZE],
    namespace: &Namespace,
    platform: &Platform,
) -> Result<Option<InfoBlock>, Damage> {
    let Some(kind) = kind(block) else {
        return Ok(None);
    };

    let (stored, computed) = (le64(block, CHECKSUM_AT), checksum(block));
    if stored != computed {
        return damage("checksum", stored, computed);
    }
    if bytes::<16>(block, 32) != namespace.uuid {
        return Ok(None);
    }
    let fields = Fields::read(block, platform);
    let map = page_map(block, &fields, platform)?;
    if fields.data_offset < RESERVE {
        return damage(
            "data offset inside the info block",
            fields.data_offset,
            RESERVE,
        );
    }
    let align = alignment(kind, &fields, namespace, platform)?;
    let mapped = mapped_range(&fields, align, namespace, platform)?;

    // The number of pages is in units of the page size of the kernel that made the block.
    let npfns = le64(block, 64);
    match npfns.checked_mul(fields.page_size) {
        Some(len) if len <= mapped - fields.data_offset => (),
        _ => {
            return damage(
                "size, more pages than the namespace holds",
                npfns,
                (mapped - fields.data_offset) / fields.page_size.max(1),
            )
        }
    }

    Ok(Some(InfoBlock {
        kind,
        map,
        uuid: bytes(block, 16),
        data_offset: fields.data_offset,
        start_pad: fields.start_pad,
        end_trunc: fields.end_trunc,
        align,
    }))
}

/// Fields that a minor version brought in, with what holds without them, and where the data begins.
struct Fields {
    start_pad: u32,
    end_trunc: u32,
    align: u64,
    page_size: u64,
    page_struct_size: u64,
    data_offset: u64,
}

impl Fields {
    fn read(block: &[u8; SIZE], platform: &Platform) -> Fields {
        let minor = le16(block, 54);
        let (start_pad, end_trunc) = if minor < 1 {
            (0, 0)
        } else {
            (le32(block, 76), le32(block, 80))
        };
        let align = if minor < 2 {
            0
        } else {
            u64::from(le32(block, 84))
        };
        let (page_size, page_struct_size) = if minor < 4 {
            (platform.page_size, 64)
        } else {
            (u64::from(le32(block, 88)), le16(block, 92))
        };
        Fields {
            start_pad,
            end_trunc,
            align,
            page_size,
            page_struct_size,
            data_offset: le64(block, 56),
        }
    }
}

/// Where the page map is. On the medium it has room for what this kernel puts there.
fn page_map(
    block: &[u8; SIZE],
    fields: &Fields,
    platform: &Platform,
) -> Result<PageMapLocation, Damage> {
    match le32(block, 72) {
        1 => return Ok(PageMapLocation::Ram),
        2 => {}
        mode => return damage("mode (1 map=mem, 2 map=dev)", mode.into(), 2),
    }
    if fields.page_size > platform.page_size {
        return damage(
            "page size of the page map",
            fields.page_size,
            platform.page_size,
        );
    }
    if fields.page_struct_size < platform.page_struct_size {
        return damage(
            "struct page size of the page map",
            fields.page_struct_size,
            platform.page_struct_size,
        );
    }
    Ok(PageMapLocation::Pmem)
}

/// The alignment in bytes: that of the data offset, if none is given.
fn alignment(
    kind: Kind,
    fields: &Fields,
    namespace: &Namespace,
    platform: &Platform,
) -> Result<u64, Damage> {
    let align = match fields.align {
        0 => 1 << fields.data_offset.ilog2(),
        align => align,
    };
    if !align.is_power_of_two() {
        return damage("alignment, not a power of two", align, platform.page_size);
    }
    if kind == Kind::Devdax && ![4 << 10, 2 << 20, 1 << 30].contains(&align) {
        return damage("alignment, not a page size", align, 2 << 20);
    }
    if align > namespace.size {
        return damage("alignment beyond the namespace", align, namespace.size);
    }
    Ok(align)
}

/// The bytes between the padding at both ends, the info block included.
fn mapped_range(
    fields: &Fields,
    align: u64,
    namespace: &Namespace,
    platform: &Platform,
) -> Result<u64, Damage> {
    let data_offset = fields.data_offset;
    if data_offset >= namespace.size {
        return damage(
            "data offset beyond the namespace",
            data_offset,
            namespace.size,
        );
    }

    let (pad, trunc) = (u64::from(fields.start_pad), u64::from(fields.end_trunc));
    let Some(mapped) = namespace
        .size
        .checked_sub(pad)
        .and_then(|rest| rest.checked_sub(trunc))
    else {
        return damage("padding beyond the namespace", pad + trunc, namespace.size);
    };
    if data_offset >= mapped {
        return damage("data offset beyond the mapped range", data_offset, mapped);
    }
    let (Some(data), Some(end)) = (
        namespace
            .start
            .checked_add(pad)
            .and_then(|start| start.checked_add(data_offset)),
        namespace.start.checked_add(namespace.size),
    ) else {
        return damage("namespace beyond the address space", namespace.start, 0);
    };
    if !aligned(data, align) || !aligned(data_offset, platform.page_size) {
        return damage("data offset, misaligned", data_offset, align);
    }
    if !aligned(namespace.start + pad, platform.compat_align) {
        return damage(
            "start of the mapped range, misaligned",
            namespace.start + pad,
            platform.compat_align,
        );
    }
    if !aligned(end - trunc, platform.compat_align) {
        return damage(
            "end of the mapped range, misaligned",
            end - trunc,
            platform.compat_align,
        );
    }
    Ok(mapped)
}
