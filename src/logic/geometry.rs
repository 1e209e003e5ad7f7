// SPDX-License-Identifier: GPL-2.0

//! Where the bytes of a namespace are: sectors, page offsets, pfns and offsets into the kernel
//! mapping, and the conversions between them.
//!
//! ```text
//!             |<- start_pad ->|<----------- mapping, map_len ----------->|<- end_trunc ->|
//!                             |<- data_offset ->|<------- len ---------->|
//! phys        res.start       map_phys          data_phys
//! sector                                        0
//! ```
//!
//! C counterpart: `to_sect()`, `to_offset()`, `pmem_to_phys()` in `drivers/nvdimm/pmem.c`. That
//! file counts pfns from `res.start` and addresses from `res.start + start_pad`; here both count
//! from the mapping, so that a legacy namespace with padding at its start translates alike for
//! block I/O and DAX.

/// log2 of the unit of [`Sector`], 512 bytes.
pub const SECTOR_SHIFT: u32 = 9;

/// log2 of the page size in bytes.
pub const PAGE_SHIFT: u32 = 12;

/// The page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// A position on the block device, in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sector(pub u64);

/// A position on the DAX device, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pgoff(pub u64);

/// A physical page frame number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(pub u64);

/// Why a position has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The position, or its end, is outside the device.
    OutOfRange,
    /// The position is not at the start of a page.
    Unaligned,
    /// The description of the device contradicts itself or does not fit in 64 bits.
    Invalid,
}

impl Pgoff {
    /// The first sector of the page; `None` if it does not fit in 64 bits.
    pub const fn to_sector(self) -> Option<Sector> {
        if self.0 > u64::MAX >> (PAGE_SHIFT - SECTOR_SHIFT) {
            return None;
        }
        Some(Sector(self.0 << (PAGE_SHIFT - SECTOR_SHIFT)))
    }
}

/// log2 of the pages of the folios for data that is to be mapped at an alignment of `align` bytes, a
/// power of two: the largest one among `orders` (from large to small) whose folios, laid out from
/// physical address `first` on, begin at the data and end at the end of it; 0 if there is none.
/// `first` is where struct pages begin, `data` the first byte of data, `end` the byte after the last.
///
/// device-dax takes that of `align` in any case (`dev_dax_probe()` in `drivers/dax/device.c`).
pub fn folio_order(align: u64, first: u64, data: u64, end: u64, orders: &[u32]) -> u32 {
    let borders = first | data | end;
    orders
        .iter()
        .copied()
        .find(|order| {
            let size = PAGE_SIZE << order;
            size <= align && borders & (size - 1) == 0
        })
        .unwrap_or(0)
}

/// The placement of a device's data in physical memory and in its kernel mapping.
///
/// # Invariants
///
/// `data_phys - data_offset + map_len` fits in 64 bits and does not wrap on the way, `data_offset` and
/// the bytes of `sectors`, which is not 0, are at most `map_len` together, which fits in `usize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    data_phys: u64,
    sectors: u64,
    data_offset: u64,
    map_len: u64,
}

impl Geometry {
    /// Describes a device whose kernel mapping covers `map_len` bytes at physical address
    /// `map_phys` and whose sector 0 is `data_offset` bytes into it. A partial sector at the end is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`GeometryError::Invalid`] if the range wraps, is larger than an address space, or holds no
    /// whole sector.
    pub fn new(map_phys: u64, map_len: u64, data_offset: u64) -> Result<Self, GeometryError> {
        let end = map_phys.checked_add(map_len);
        let len = map_len.checked_sub(data_offset);
        match (end, len, usize::try_from(map_len)) {
            (Some(_), Some(len), Ok(_)) if len >> SECTOR_SHIFT != 0 => Ok(Self {
                // In front of `end`.
                data_phys: map_phys + data_offset,
                sectors: len >> SECTOR_SHIFT,
                data_offset,
                map_len,
            }),
            _ => Err(GeometryError::Invalid),
        }
    }

    /// The capacity in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The same in bytes.
    fn len(&self) -> u64 {
        self.sectors << SECTOR_SHIFT
    }

    /// Where the kernel mapping begins.
    fn map_phys(&self) -> u64 {
        self.data_phys - self.data_offset
    }

    /// Where in the kernel mapping sector 0 is, as an offset in bytes.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The physical address of the first byte of data.
    pub fn data_phys(&self) -> u64 {
        self.data_phys
    }

    /// The physical range that badblocks of this device are taken from: first and last byte.
    pub fn data_range(&self) -> (u64, u64) {
        (self.data_phys, self.map_phys() + (self.map_len - 1))
    }

    /// Where in the kernel mapping the `bytes` bytes from `sector` on are, as an offset in bytes.
    ///
    /// # Errors
    ///
    /// [`GeometryError::OutOfRange`] if they are not all on the device.
    #[inline]
    pub fn sector_to_offset(&self, sector: Sector, bytes: u64) -> Result<usize, GeometryError> {
        let out = GeometryError::OutOfRange;
        let left = self.sectors.checked_sub(sector.0).ok_or(out)?;
        if bytes > left << SECTOR_SHIFT {
            return Err(out);
        }
        // By the type invariants the sum is at most `map_len`, which fits.
        Ok((self.data_offset + (sector.0 << SECTOR_SHIFT)) as usize)
    }

    /// The pfn that holds `sector`, and how many pages from there on are on the device and linear.
    ///
    /// # Errors
    ///
    /// [`GeometryError::OutOfRange`] if not even one whole page is left;
    /// [`GeometryError::Unaligned`] if `sector` is not at the start of a physical page.
    #[inline]
    pub fn sector_to_pfn(&self, sector: Sector) -> Result<(Pfn, u64), GeometryError> {
        let out = GeometryError::OutOfRange;
        let left = self.sectors.checked_sub(sector.0).ok_or(out)?;
        let pages = left >> (PAGE_SHIFT - SECTOR_SHIFT);
        if pages == 0 {
            return Err(out);
        }
        // By the type invariants this does not wrap: the sector is on the device.
        let phys = self.data_phys.wrapping_add(sector.0 << SECTOR_SHIFT);
        if phys & (PAGE_SIZE - 1) != 0 {
            return Err(GeometryError::Unaligned);
        }
        Ok((Pfn(phys >> PAGE_SHIFT), pages))
    }

    /// Where in the kernel mapping the page `pfn` is, as an offset in bytes.
    ///
    /// # Errors
    ///
    /// [`GeometryError::OutOfRange`] if the page is not wholly in the data of this device.
    #[inline]
    pub fn pfn_to_offset(&self, pfn: Pfn) -> Result<usize, GeometryError> {
        let out = GeometryError::OutOfRange;
        if pfn.0 > u64::MAX >> PAGE_SHIFT {
            return Err(out);
        }
        let rel = (pfn.0 << PAGE_SHIFT)
            .checked_sub(self.data_phys)
            .ok_or(out)?;
        if rel > self.len().checked_sub(PAGE_SIZE).ok_or(out)? {
            return Err(out);
        }
        // By the type invariants the sum is at most `map_len`.
        Ok(self.data_offset.wrapping_add(rel) as usize)
    }

    /// The physical address of the byte at `offset` in the kernel mapping.
    ///
    /// # Errors
    ///
    /// [`GeometryError::OutOfRange`] beyond the end of the mapping.
    pub fn offset_to_phys(&self, offset: usize) -> Result<u64, GeometryError> {
        if offset as u64 >= self.map_len {
            return Err(GeometryError::OutOfRange);
        }
        Ok(self.map_phys() + offset as u64)
    }
}
