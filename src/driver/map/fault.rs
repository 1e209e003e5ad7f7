// SPDX-License-Identifier: GPL-2.0

//! Page faults of the node, and what else comes from its mappings.
//!
//! C counterpart: `dev_dax_huge_fault()` in `drivers/dax/device.c`.
//!
//! A fault goes down: `fault` (may it be served), `place` (which pages), `answer` (is there poison, what
//! else is near), `insert` (which kind of entry).

use super::{
    super::blk::Disk,
    Node, //
};
use crate::{
    abstractions::{
        block::Segment,
        compat,
        dax::{
            AccessMode,
            Operations as _, //
        },
        errno::ehwpoison,
        space::AddressSpace,
        vm::{
            self,
            Fault,
            Mapped,
            MmId,
            Outcome,
            PMD_ORDER, //
        }, //
    },
    logic::{
        fault::{
            plan,
            widen,
            Area,
            Plan,
            Run, //
        },
        geometry::{
            Pfn,
            Pgoff,
            PAGE_SHIFT,
            PAGE_SIZE, //
        },
        lease::Tag,
        mmap::{
            self,
            DIRECT_WINDOW, //
        }, //
    }, //
};
use kernel::prelude::*;

/// Pages that a fault of one page brings in at most.
const FAULT_AROUND: u64 = 64;

impl Node {
    /// Whether the lease lets a mapping have entries.
    fn serves(&self, mapping: &Mapped<'_>) -> bool {
        self.leases.serves(tag(mapping))
    }

    /// Whether one entry may map 2^`order` pages of this memory.
    pub(super) fn may_have(&self, order: u32) -> bool {
        match order {
            0 => true,
            // An entry is for a whole folio, or for a page of it.
            _ if self.folios.is_some_and(|folio| folio != order) => false,
            PMD_ORDER => self.page_backed || compat::PMD_WITHOUT_PAGES,
            _ => true,
        }
    }

    /// The frame of a page of the device.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(in crate::driver) fn frame(&self, page: u64) -> Result<Pfn> {
        let sector = Pgoff(page).to_sector().ok_or(ERANGE)?;
        let disk = self.live.enter().ok_or(ENXIO)?;
        let (pfn, _) = disk.data().sector_to_pfn(sector, 1, AccessMode::Access)?;
        Ok(pfn)
    }

    /// The mapping, with `first` a page of the device.
    fn area(&self, mapping: &Mapped<'_>) -> Option<Area> {
        let mut area = mapping.area();
        let pages = (area.end - area.start) >> PAGE_SHIFT;
        area.first = mmap::locate(&self.limits, area.first, pages).ok()?.first;
        Some(area)
    }

    /// Whether the `pages` pages from `page` on cannot be mapped by one entry.
    fn is_bad(&self, disk: &Disk, page: u64, pages: u64) -> bool {
        // The usual case.
        if disk.data().badblocks().is_empty() {
            return false;
        }
        Pgoff(page).to_sector().is_none_or(|sector| {
            disk.data()
                .sector_to_pfn(sector, pages, AccessMode::Access)
                .is_err()
        })
    }

    /// Maps `run`, or the pages of it that are in one page table, with entries of one page; gives how
    /// many pages it was.
    #[inline(always)]
    fn insert(
        &self,
        disk: &Disk,
        mapping: &Mapped<'_>,
        run: Run,
        write: bool,
        near: Option<&Fault<'_>>,
    ) -> Result<(Outcome, u64)> {
        let pages = run.page..run.page + run.pages;
        let tracked = mapping.is_tracked();
        let (marks, len) = if tracked && write {
            let (marks, len) = self.tracker.marks(&pages)?;
            (Some(marks), len)
        } else {
            // Entries of mappings that are not tracked are writable at once.
            if !tracked && mapping.may_write() {
                self.tracker.touch(run.page, run.pages)?;
            }
            (None, run.pages)
        };
        let memory = disk.data().mapping();
        if mapping.has_folios() {
            let folios = memory.folios(run.pfn, len)?;
            return Ok(mapping.insert_folios(run.address, folios, write, near));
        }
        let frames = memory.frames(run.pfn, len)?;
        Ok(mapping.insert(run.address, frames, write, marks, near))
    }

    /// What an entry of 2^`order` pages for a fault would map. Nothing that it depends on changes, so
    /// that most of those that are too large end here, without a lock.
    fn place(&self, fault: &Fault<'_>, order: u32) -> Option<(Area, Run)> {
        let mapping = fault.mapping();
        // Stores are tracked by the page.
        if order != 0 && mapping.is_tracked() && mapping.may_write() || !self.may_have(order) {
            return None;
        }
        let area = self.area(mapping)?;
        match plan(&area, &self.memory, fault.address(), order, |_, _| false) {
            Plan::Map(run) => Some((area, run)),
            _ => None,
        }
    }

    fn answer(
        &self,
        disk: &Disk,
        fault: &Fault<'_>,
        order: u32,
        (area, run): (Area, Run),
    ) -> Result<Outcome> {
        let mapping = fault.mapping();
        let is_bad = |page, pages| self.is_bad(disk, page, pages);
        if order == 0 {
            // Stores are tracked by the page; what else is near is mapped with it.
            let write = fault.is_write();
            let wide = if mapping.is_tracked() && write {
                run
            } else {
                widen(&area, &self.memory, run, FAULT_AROUND, is_bad)
            };
            if wide == run && is_bad(run.page, run.pages) {
                return Ok(Outcome::HwPoison);
            }
            return Ok(self.insert(disk, mapping, wide, write, Some(fault))?.0);
        }
        if is_bad(run.page, run.pages) {
            return Ok(Outcome::Fallback);
        }
        if mapping.may_write() {
            self.tracker.touch(run.page, run.pages)?;
        }
        let memory = disk.data().mapping();
        if mapping.has_folios() {
            let folio = memory.folios(run.pfn, run.pages)?;
            return Ok(fault.insert_folio(folio, order, fault.is_write()));
        }
        let frames = memory.frames(run.pfn, run.pages)?;
        Ok(fault.insert_huge(frames, order, fault.is_write()))
    }
}

impl vm::Operations for Node {
    fn name(&self) -> &CStr {
        &self.name
    }

    fn folio_order(&self) -> Option<u32> {
        self.folios
    }

    fn pgoff(&self, pfn: Pfn, mapping: u64) -> Option<u64> {
        const WINDOW: u64 = DIRECT_WINDOW >> PAGE_SHIFT;
        let page = pfn.0.checked_sub(self.memory.pfn.0)?;
        (page < self.memory.pages).then_some(if mapping >= WINDOW {
            WINDOW + page
        } else {
            page
        })
    }

    fn fault(&self, fault: &Fault<'_>, order: u32) -> Outcome {
        let miss = if order == 0 {
            Outcome::Sigbus
        } else {
            Outcome::Fallback
        };
        let Some(place) = self.place(fault, order) else {
            return miss;
        };
        let Some(disk) = self.live.enter() else {
            return miss;
        };
        if !self.serves(fault.mapping()) {
            return miss;
        }
        match self.answer(&disk, fault, order, place) {
            Ok(outcome) => outcome,
            Err(ENOMEM) => Outcome::Oom,
            Err(_) => miss,
        }
    }

    fn fill(&self, mapping: &Mapped<'_>, from: u64, to: u64, write: bool) -> Result<u64> {
        let disk = self.live.enter().ok_or(EFAULT)?;
        if !self.serves(mapping) {
            return Err(EFAULT);
        }
        let area = self.area(mapping).ok_or(EFAULT)?;
        let one = match plan(&area, &self.memory, from, 0, |page, n| {
            self.is_bad(&disk, page, n)
        }) {
            Plan::Map(run) => run,
            Plan::HwPoison => return Err(ehwpoison()),
            _ => return Err(EFAULT),
        };
        let wanted = (to - from) >> PAGE_SHIFT;
        let mut run = Run {
            pages: wanted.min(self.memory.pages - one.page),
            ..one
        };
        if let Some(bad) = self.first_bad(&disk, run.page..run.page + run.pages) {
            run.pages = bad - run.page;
        }
        match self.insert(&disk, mapping, run, write, None)? {
            (Outcome::Mapped, 0) => Err(EAGAIN),
            (Outcome::Mapped, pages) => Ok(run.address + (pages << PAGE_SHIFT)),
            (Outcome::Oom, _) => Err(ENOMEM),
            _ => Err(EFAULT),
        }
    }

    fn is_poisoned(&self, mapping: &Mapped<'_>, address: u64) -> bool {
        let (Some(disk), Some(area)) = (self.live.enter(), self.area(mapping)) else {
            return false;
        };
        let plan = plan(&area, &self.memory, address, 0, |page, n| {
            self.is_bad(&disk, page, n)
        });
        plan == Plan::HwPoison && self.serves(mapping)
    }

    fn space(&self) -> &AddressSpace {
        &self.space
    }

    fn access(
        &self,
        mapping: &Mapped<'_>,
        page: u64,
        offset: usize,
        buffer: &Segment<'_>,
        write: bool,
    ) -> Result {
        let disk = self.live.enter().ok_or(EIO)?;
        if !self.serves(mapping) {
            return Err(EIO);
        }
        let page = mmap::locate(&self.limits, page, 1).map_err(|_| EIO)?.first;
        let sector = Pgoff(page).to_sector().ok_or(EIO)?;
        let pmem = disk.data();
        let start = pmem.geometry().sector_to_offset(sector, PAGE_SIZE)?;
        if pmem.is_bad(start, PAGE_SIZE as usize) {
            return Err(EIO);
        }
        if write {
            pmem.mapping().write(start + offset, buffer)?;
            pmem.region().flush()
        } else {
            pmem.mapping().read(start + offset, buffer)
        }
    }

    fn mapped(&self, tracked: bool, tag: usize, mm: MmId) -> Result<usize> {
        let tag = self.leases.map(Tag::from_bits(tag).kind, mm)?;
        self.tracker.opened(tracked);
        Ok(tag.to_bits())
    }

    fn opened(&self, mapping: &Mapped<'_>) {
        self.leases.copy(tag(mapping), mapping.mm());
        self.tracker.opened(mapping.is_tracked());
    }

    fn closed(&self, mapping: &Mapped<'_>) {
        let tag = tag(mapping);
        if !tag.is_born() {
            return;
        }
        self.leases.unmap(tag, mapping.mm());
        self.tracker.closed(mapping.is_tracked());
    }
}

/// What the lease knows a mapping by.
fn tag(mapping: &Mapped<'_>) -> Tag {
    Tag::from_bits(mapping.tag::<Node>())
}
