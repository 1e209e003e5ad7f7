// SPDX-License-Identifier: GPL-2.0

//! The memory of a bound namespace, and how it is read and written.
//!
//! C counterpart: `struct pmem_device`, `pmem_do_read()`, `pmem_do_write()` and
//! `pmem_clear_poison()` in `drivers/nvdimm/pmem.c`.

use super::lease::DeviceLease;
use crate::{
    abstractions::{
        badblocks::Badblocks,
        bio::Segment,
        dax,
        memremap::Mapping,
        nd_region::Region,
        resource::MemRegion,
        sysfs::Dirent,
        trace, //
    },
    logic::geometry::{
        Geometry,
        GeometryError,
        PAGE_SIZE,
        SECTOR_SHIFT, //
    }, //
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        SetOnce, //
    }, //
};

/// The memory of a bound namespace. Shared by disk and DAX device; it goes with the last of them, before
/// the namespace is unbound. What users of its pages need after that is [`Mapping::memory`].
#[pin_data]
pub(crate) struct Pmem {
    #[pin]
    badblocks: Badblocks,
    /// The `badblocks` file of the disk, set once that is live.
    badblocks_file: SetOnce<Dirent>,
    geometry: Geometry,
    mapping: Mapping,
    region: Region,
    lease: Arc<DeviceLease>,
}

/// What disk and node serve: the DAX device, and through it the memory.
pub(crate) type DaxDevice = dax::Device<Pmem>;

impl From<GeometryError> for Error {
    fn from(err: GeometryError) -> Self {
        match err {
            GeometryError::OutOfRange => ERANGE,
            GeometryError::Unaligned => ENXIO,
            GeometryError::Invalid => EINVAL,
        }
    }
}

impl Pmem {
    /// Memory that was claimed and mapped, with the bad sectors that the bus knows of.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` if the mapping has another claim. Context: may sleep.
    pub(crate) fn new(
        geometry: Geometry,
        mapping: Mapping,
        claim: MemRegion,
        region: Region,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            badblocks <- Badblocks::new(),
            badblocks_file: SetOnce::new(),
            geometry,
            mapping: {
                mapping.keep_claim(claim)?;
                mapping
            },
            region,
            lease: Arc::pin_init(DeviceLease::new(), GFP_KERNEL)?,
        })
    }

    pub(crate) fn badblocks(&self) -> &Badblocks {
        &self.badblocks
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// The lease of those who map it.
    pub(crate) fn lease(&self) -> &Arc<DeviceLease> {
        &self.lease
    }

    /// Remembers the `badblocks` file of the disk, to wake its watchers on a change.
    pub(crate) fn watch_badblocks(&self, file: Dirent) {
        self.badblocks_file.populate(file);
    }

    /// Takes over the bad sectors that the bus knows of, and tells watchers. Context: may sleep.
    pub(crate) fn revalidate_badblocks(&self) {
        self.region
            .populate_badblocks(&self.badblocks, self.geometry.data_range());
        let len = self.geometry.sectors() << SECTOR_SHIFT;
        trace::poison_notify(self.region.child().name(), 0, len);
        self.notify_badblocks();
    }

    fn notify_badblocks(&self) {
        if let Some(file) = self.badblocks_file.as_ref() {
            file.notify();
        }
    }

    /// The sector of the byte at `offset` in the mapping.
    fn sector_at(&self, offset: usize) -> u64 {
        (offset as u64 - self.geometry.data_offset()) >> SECTOR_SHIFT
    }

    /// Whether there is a bad sector in the `len` bytes at `offset` of the mapping.
    pub(crate) fn is_bad(&self, offset: usize, len: usize) -> bool {
        self.badblocks
            .first_bad(self.sector_at(offset), (len as u64) >> SECTOR_SHIFT)
            .is_some()
    }

    /// Fills `to` from `offset` of the mapping on.
    ///
    /// # Errors
    ///
    /// `EIO` for a bad sector, known or found now.
    pub(crate) fn read(&self, offset: usize, to: &Segment<'_>) -> Result {
        if !self.badblocks.is_empty() && self.is_bad(offset, to.len()) {
            return Err(EIO);
        }
        self.mapping.read(offset, to)
    }

    /// Stores `from` at `offset` of the mapping; clears poison that is in the way, page by page, as
    /// firmware does not clear large ranges reliably.
    ///
    /// # Errors
    ///
    /// `EIO` if poison could not be cleared: what is in front of it has been written.
    pub(crate) fn write(&self, offset: usize, mut from: Segment<'_>) -> Result {
        if self.badblocks.is_empty() {
            return self.mapping.write(offset, &from);
        }
        let mut offset = offset;
        while from.len() != 0 {
            let part = from.split_to(PAGE_SIZE as usize - offset % PAGE_SIZE as usize);
            self.clear_if_bad(offset, part.len())?;
            self.mapping.write(offset, &part)?;
            offset += part.len();
        }
        Ok(())
    }

    /// Stores zeroes in the page at `offset` of the mapping.
    ///
    /// # Errors
    ///
    /// `EIO` if poison could not be cleared.
    pub(crate) fn zero_page(&self, offset: usize) -> Result {
        self.clear_if_bad(offset, PAGE_SIZE as usize)?;
        self.mapping.zero_page(offset)
    }

    fn clear_if_bad(&self, offset: usize, len: usize) -> Result {
        if !self.is_bad(offset, len) {
            return Ok(());
        }
        let cleared = self.clear_poison(offset, len).map_err(|_| EIO)?;
        self.forget_bad(offset, cleared);
        if cleared < len {
            return Err(EIO);
        }
        Ok(())
    }

    /// Asks the platform to clear poison in `len` bytes at `offset` of the mapping; gives the
    /// number of bytes cleared. The sectors stay in the list, see [`Pmem::forget_bad`].
    pub(crate) fn clear_poison(&self, offset: usize, len: usize) -> Result<usize> {
        let phys = self.geometry.offset_to_phys(offset)?;
        let cleared = self.region.clear_poison(phys, u32::try_from(len)?)?;
        let cleared = usize::try_from(cleared)?.min(len);
        if cleared != 0 {
            self.mapping.poison_cleared(offset, phys, cleared)?;
            let start = offset as u64 - self.geometry.data_offset();
            trace::poison_clear(self.region.child().name(), start, cleared as u64);
        }
        Ok(cleared)
    }

    /// Takes `len` bytes at `offset` of the mapping off the list of bad sectors.
    pub(crate) fn forget_bad(&self, offset: usize, len: usize) {
        let sectors = (len as u64) >> SECTOR_SHIFT;
        if sectors != 0 {
            self.badblocks.clear(self.sector_at(offset), sectors);
            // In this order: of two that do so for one folio, the second one sees nothing bad.
            self.mapping
                .poison_forgotten(offset, len, |offset, len| self.is_bad(offset, len));
            self.notify_badblocks();
        }
    }
}
