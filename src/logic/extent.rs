// SPDX-License-Identifier: GPL-2.0

//! How far an access may go when there are bad sectors.
//!
//! C counterpart: `__pmem_direct_access()` in `drivers/nvdimm/pmem.c`.

use super::geometry::{Sector, PAGE_SHIFT, SECTOR_SHIFT};

/// log2 of sectors per page.
const SECTORS_PER_PAGE_SHIFT: u32 = PAGE_SHIFT - SECTOR_SHIFT;

/// The answer to "may pages from here on be accessed directly?" when bad sectors are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaxExtent {
    /// So many pages (at least 1) may be accessed.
    Pages(u64),
    /// A bad sector is among the pages asked for: `-EHWPOISON`.
    HwPoison,
}

/// The number of 512-byte sectors in `pages` pages, as far as it can be counted.
pub fn pages_to_sectors(pages: u64) -> u64 {
    pages.saturating_mul(1 << SECTORS_PER_PAGE_SHIFT)
}

/// Plans a direct access to `requested` pages from the page-aligned `start` on, where `first_bad`
/// is the first bad sector among them (`None`: all are good).
///
/// An ordinary access that would touch a bad sector is refused. A recovery write gets the good
/// pages in front of the bad one, or the bad page alone: firmware clears poison reliably page by
/// page only.
pub fn dax_extent(
    start: Sector,
    requested: u64,
    first_bad: Option<Sector>,
    recovery: bool,
) -> DaxExtent {
    let Some(bad) = first_bad else {
        return DaxExtent::Pages(requested);
    };
    if !recovery {
        return DaxExtent::HwPoison;
    }
    // Pages wholly in front of the bad sector, counted as `pmem.c` does: a page that the bad sector
    // is in the middle of belongs to the good run there, hence is the last of the stride.
    let sectors = bad.0.saturating_sub(start.0);
    let pages = sectors.div_ceil(1 << SECTORS_PER_PAGE_SHIFT);
    DaxExtent::Pages(pages.max(1))
}
