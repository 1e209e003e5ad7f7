// SPDX-License-Identifier: GPL-2.0

//! Direct access to the memory of a namespace.
//!
//! C counterpart: `__pmem_direct_access()`, `pmem_dax_zero_page_range()` and
//! `pmem_recovery_write()` in `drivers/nvdimm/pmem.c`.

use super::pmem::Pmem;
use crate::{
    abstractions::{
        dax::{
            AccessMode,
            Operations,
            Source, //
        },
        errno::ehwpoison,
        memremap::Mapping, //
    },
    logic::{
        extent::{
            dax_extent,
            pages_to_sectors,
            DaxExtent, //
        },
        geometry::{
            Pfn,
            Pgoff,
            Sector,
            PAGE_SIZE, //
        }, //
    }, //
};
use core::ptr::NonNull;
use kernel::{
    ffi::c_void,
    prelude::*, //
};

impl Pmem {
    /// How many of `nr_pages` pages from `sector` on may be accessed; `None` if poison is in the way.
    #[cold]
    fn good_pages(&self, sector: Sector, nr_pages: u64, mode: AccessMode) -> Option<u64> {
        let bad = self
            .badblocks()
            .first_bad(sector.0, pages_to_sectors(nr_pages))
            .map(Sector);
        match dax_extent(sector, nr_pages, bad, mode == AccessMode::RecoveryWrite) {
            DaxExtent::Pages(pages) => Some(pages),
            DaxExtent::HwPoison => None,
        }
    }
}

impl Operations for Pmem {
    #[inline]
    fn sector_to_pfn(&self, sector: Sector, nr_pages: u64, mode: AccessMode) -> Result<(Pfn, u64)> {
        let (pfn, linear) = self.geometry().sector_to_pfn(sector)?;
        if self.badblocks().is_empty() {
            return Ok((pfn, linear));
        }
        self.good_pages(sector, nr_pages, mode)
            .map(|pages| (pfn, pages.min(linear)))
            .ok_or_else(ehwpoison)
    }

    #[inline]
    fn pfn_to_virt(&self, pfn: Pfn) -> Result<NonNull<c_void>> {
        let offset = self.geometry().pfn_to_offset(pfn)?;
        self.mapping().address(offset, PAGE_SIZE as usize)
    }

    fn zero_page_range(&self, pgoff: Pgoff, nr_pages: u64) -> Result {
        let sector = pgoff.to_sector().ok_or(ERANGE)?;
        let bytes = nr_pages.checked_mul(PAGE_SIZE).ok_or(ERANGE)?;
        let start = self.geometry().sector_to_offset(sector, bytes)?;
        for page in 0..nr_pages as usize {
            self.zero_page(start + page * PAGE_SIZE as usize)?;
        }
        Ok(())
    }

    fn recovery_write(
        &self,
        pgoff: Pgoff,
        offset: usize,
        bytes: usize,
        source: Source<'_>,
    ) -> usize {
        // The pages that the write touches, as an offset in the mapping and a length.
        let in_page = offset % PAGE_SIZE as usize;
        let Some(len) = bytes
            .checked_add(in_page)
            .and_then(|len| len.checked_next_multiple_of(PAGE_SIZE as usize))
        else {
            return 0;
        };
        let Some(Ok(start)) = pgoff
            .to_sector()
            .map(|sector| self.geometry().sector_to_offset(sector, len as u64))
        else {
            return 0;
        };

        if !self.is_bad(start, len) {
            return source.write_to(self.mapping(), offset, bytes).unwrap_or(0);
        }
        // Only whole pages can be recovered. Readers are held off until the data is there: the
        // sectors leave the list last.
        if in_page != 0 || bytes != len {
            return 0;
        }
        match self.clear_poison(start, len) {
            Ok(cleared) if cleared == len => {
                let written = source.write_to(self.mapping(), offset, bytes).unwrap_or(0);
                self.forget_bad(start, cleared);
                written
            }
            _ => 0,
        }
    }

    fn mapping(&self) -> &Mapping {
        Pmem::mapping(self)
    }
}
