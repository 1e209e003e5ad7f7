// SPDX-License-Identifier: GPL-2.0

//! Page faults of the node, and what else comes from its mappings.
//!
//! C counterpart: `dev_dax_huge_fault()` in `drivers/dax/device.c`.
//!
//! A fault of a page goes down: `fault_page` (may it be served), `map_page` (is there poison, what else is
//! near), `insert_pages` (which kind of entry). One that a huge entry may answer is `fault_huge`, in which
//! instructions count.

use super::{
    super::pmem::DaxDevice,
    Node, //
};
use crate::{
    abstractions::{
        address_space::AddressSpace,
        bio::Segment,
        compat,
        dax::{
            AccessMode,
            Operations as _, //
        },
        errno::ehwpoison,
        memremap::Mapping,
        platform,
        vm,
        vma::{
            DeviceVma,
            Fault,
            FaultResult,
            MmId,
            PMD_ORDER,
            PUD_ORDER, //
        }, //
    },
    logic::{
        dirty::{
            mask,
            WORD, //
        },
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
            Window, //
        },
        tracking::{
            grant,
            victim,
            Grant,
            Place,
            UNIT, //
        }, //
    }, //
};
use core::ops::Range;
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

/// Pages that a fault of one page brings in at most.
const FAULT_AROUND: u64 = 64;

impl Node {
    /// Whether the lease lets a mapping have entries.
    #[inline(always)]
    fn serves(&self, vma: &DeviceVma<'_>) -> bool {
        self.lease.serves(vma.tag::<Node>())
    }

    /// Whether one entry may map 2^`order` pages of this memory.
    #[inline(always)]
    pub(super) fn may_have(&self, order: u32) -> bool {
        match order {
            0 => true,
            // An entry is for a whole folio, or for a page of it.
            _ if self.folios.is_some_and(|folio| folio != order) => false,
            PMD_ORDER => self.page_backed || compat::PMD_WITHOUT_PAGES,
            _ => platform::HAS_PUD_ENTRIES,
        }
    }

    /// The largest order of an entry, for `huge_page` in sysfs.
    pub(super) fn largest_order(&self) -> u32 {
        [PUD_ORDER, PMD_ORDER]
            .into_iter()
            .filter(|order| self.may_have(*order))
            .find(|order| {
                let pages = 1u64 << order;
                let head = self.pfns.pfn.0.wrapping_neg() & (pages - 1);
                self.pfns.pages.checked_sub(head) >= Some(pages)
            })
            .unwrap_or(0)
    }

    /// The frame of a page of the device.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(in crate::driver) fn frame(&self, page: u64) -> Result<Pfn> {
        let sector = Pgoff(page).to_sector().ok_or(ERANGE)?;
        let live = self.live.enter().ok_or(ENXIO)?;
        let (pfn, _) = live.data().sector_to_pfn(sector, 1, AccessMode::Access)?;
        Ok(pfn)
    }

    /// The pages that an entry of 2^`order` pages for an address of a mapping would map, if there may be one.
    /// Nothing that it depends on changes, so that most of those that are too large end here, without a lock.
    #[inline(always)]
    fn plan(&self, vma: &DeviceVma<'_>, address: u64, order: u32) -> Option<(Area, Run)> {
        if !self.may_have(order) {
            return None;
        }
        let area = area(vma);
        match plan(&area, &self.pfns, address, order, |_, _| false) {
            Plan::Map(run) => Some((area, run)),
            _ => None,
        }
    }

    /// Whether the `pages` pages from `page` on cannot be mapped by one entry.
    fn is_bad(&self, dax: &DaxDevice, page: u64, pages: u64) -> bool {
        // The usual case.
        if dax.data().badblocks().is_empty() {
            return false;
        }
        Pgoff(page).to_sector().is_none_or(|sector| {
            dax.data()
                .sector_to_pfn(sector, pages, AccessMode::Access)
                .is_err()
        })
    }

    /// Maps `run`, or the pages of it that are in one page table, with entries of one page; gives how
    /// many pages it was.
    #[inline(always)]
    fn insert_pages(
        &self,
        dax: &DaxDevice,
        vma: &DeviceVma<'_>,
        run: Run,
        write: bool,
        near: Option<&Fault<'_>>,
    ) -> Result<(FaultResult, u64)> {
        let pages = run.page..run.page + run.pages;
        let tracked = vma.is_tracked();
        let (marks, len) = if tracked && write {
            let (marks, len) = self.tracker.marks(&pages)?;
            (Some(marks), len)
        } else {
            // Entries of mappings that are not tracked are writable at once.
            if !tracked && vma.may_write() {
                self.tracker.mark_units(run.page, run.pages)?;
            }
            (None, run.pages)
        };
        let memory = dax.data().mapping();
        if vma.has_folios() {
            let folios = memory.folios(run.pfn, len)?;
            return Ok(vma.insert_folios(run.address, folios, write, near));
        }
        let frames = memory.frames(run.pfn, len)?;
        Ok(vma.insert(run.address, frames, write, marks, near))
    }

    /// Answers a store to a page of a tracked mapping, whose entry is not writable: `one` is the page.
    #[inline(never)]
    fn insert_stored(
        &self,
        dax: &DaxDevice,
        fault: &Fault<'_>,
        area: &Area,
        one: Run,
    ) -> Result<FaultResult> {
        // What there is in its page table, of its unit.
        let wide = widen(area, &self.pfns, one, UNIT, |_, _| false);
        let near = self.tracker.pages_near(one.page);
        let pages = wide.page.max(near.start)..(wide.page + wide.pages).min(near.end);
        let is_dense = self.tracker.is_dense(one.page);
        let head_start = self.take_table(fault, one, is_dense);
        let (mut run, mut unit) = if is_dense {
            (one.cut(&pages), true)
        } else {
            match self.grant(fault, one, &pages, head_start) {
                Grant::Unit => (one.cut(&pages), true),
                Grant::Pages(pages) => (one.cut(&pages), false),
            }
        };
        if self.is_bad(dax, run.page, run.pages) {
            if self.is_bad(dax, one.page, one.pages) {
                return Ok(FaultResult::HWPOISON);
            }
            (run, unit) = (one, false);
        }
        let (marks, len) = if unit {
            (self.tracker.unit_mark(run.page)?, run.pages)
        } else {
            self.tracker.marks(&(run.page..run.page + run.pages))?
        };
        let frames = dax.data().mapping().frames(run.pfn, len)?;
        let vma = fault.vma();
        Ok(vma
            .insert(run.address, frames, true, Some(marks), Some(fault))
            .0)
    }

    /// What a store to `one` makes writable, of `pages`.
    fn grant(&self, fault: &Fault<'_>, one: Run, pages: &Range<u64>, head_start: bool) -> Grant {
        let len = pages.end - pages.start;
        let mut marks = self.tracker.marked(pages.start);
        for (word, n) in marks.iter_mut().zip(0..) {
            *word &= mask(n, &(0..len));
        }
        let marked = marks.iter().map(|word| u64::from(word.count_ones())).sum();
        let dirty = match marked {
            0 => 0,
            _ => fault.count_dirty(one.cut(pages).address, &marks, len),
        };
        let place = Place {
            pages: pages.clone(),
            marked,
            dirty,
            head_start,
        };
        grant(&place, one.page, |page| {
            let at = page.wrapping_sub(pages.start);
            at < len && marks[(at / WORD) as usize] >> (at % WORD) & 1 == 1
        })
    }

    /// Has the fault take the page table of another place, if it needs one and there are enough; whether that
    /// was the dense unit before. If its own is dense and gets no huge entry, neither would others that are.
    fn take_table(&self, fault: &Fault<'_>, one: Run, is_dense: bool) -> bool {
        let near = fault.tables_near();
        if near.tables == 0 {
            return false;
        }
        let can_be_huge = !is_dense
            && self.may_have(PMD_ORDER)
            && (one.address >> PAGE_SHIFT ^ one.pfn.0) % UNIT == 0;
        let is_dense = |at: u32| {
            let page = one.page + u64::from(at) * UNIT;
            page.checked_sub(u64::from(near.at) * UNIT)
                .is_some_and(|page| can_be_huge && self.tracker.is_dense(page))
        };
        // Any number will do that is not always the same.
        let turn = || self.moves.fetch_add(1, Relaxed) as u32;
        match victim(near.tables, near.at, near.block, turn, is_dense) {
            Some((from, head_start)) => fault.move_table(&self.space, &near, from) && head_start,
            None => false,
        }
    }

    /// Answers a fault with entries of one page, of which `one` is that of the fault.
    fn map_page(
        &self,
        dax: &DaxDevice,
        fault: &Fault<'_>,
        area: &Area,
        one: Run,
    ) -> Result<FaultResult> {
        let vma = fault.vma();
        let write = fault.is_write();
        if write && vma.is_tracked() {
            return self.insert_stored(dax, fault, area, one);
        }
        // What else is near is mapped with it.
        let is_bad = |page, pages| self.is_bad(dax, page, pages);
        let wide = widen(area, &self.pfns, one, FAULT_AROUND, is_bad);
        if wide == one && is_bad(one.page, one.pages) {
            return Ok(FaultResult::HWPOISON);
        }
        Ok(self.insert_pages(dax, vma, wide, write, Some(fault))?.0)
    }

    #[inline(never)]
    fn fault_page(&self, fault: Fault<'_>) -> FaultResult {
        let vma = fault.vma();
        let Some((area, one)) = self.plan(vma, fault.address(), 0) else {
            return FaultResult::SIGBUS;
        };
        let Some(live) = self.live.enter() else {
            return FaultResult::SIGBUS;
        };
        if !self.serves(vma) {
            return FaultResult::SIGBUS;
        }
        match self.map_page(&live, &fault, &area, one) {
            Ok(outcome) => outcome,
            Err(ENOMEM) => FaultResult::OOM,
            Err(_) => FaultResult::SIGBUS,
        }
    }

    #[inline(never)]
    fn fault_huge<const ORDER: u32>(&self, fault: Fault<'_>) -> FaultResult {
        let vma = fault.vma();
        let Some((_, run)) = self.plan(vma, fault.address(), ORDER) else {
            return FaultResult::FALLBACK;
        };
        let Some(live) = self.live.enter() else {
            return FaultResult::FALLBACK;
        };
        if !self.serves(vma) || self.is_bad(&live, run.page, run.pages) {
            return FaultResult::FALLBACK;
        }
        let memory = live.data().mapping();
        if vma.may_write() {
            if vma.is_tracked() {
                return self.map_tracked(memory, fault, ORDER, run.page, run.pfn);
            }
            match self.tracker.mark_units(run.page, run.pages) {
                Ok(()) => (),
                Err(ENOMEM) => return FaultResult::OOM,
                Err(_) => return FaultResult::FALLBACK,
            }
        }
        if vma.has_folios() {
            match memory.folios(run.pfn, run.pages) {
                Ok(folio) => fault.insert_folio(folio, ORDER, fault.is_write()),
                Err(_) => FaultResult::FALLBACK,
            }
        } else {
            match memory.frames(run.pfn, run.pages) {
                Ok(frames) => fault.insert_huge(frames, ORDER, fault.is_write()),
                Err(_) => FaultResult::FALLBACK,
            }
        }
    }

    /// Answers a fault in a mapping whose stores are tracked with a huge entry: there are marks for pages, and
    /// for what an entry of a PMD maps, if that is dense.
    #[inline(never)]
    fn map_tracked(
        &self,
        memory: &Mapping,
        fault: Fault<'_>,
        order: u32,
        page: u64,
        pfn: Pfn,
    ) -> FaultResult {
        let write = fault.is_write();
        if order != PMD_ORDER || (write && !self.tracker.is_dense(page)) {
            return FaultResult::FALLBACK;
        }
        let mark = match write {
            true => self.tracker.unit_mark(page).map(Some),
            false => Ok(None),
        };
        match (mark, memory.frames(pfn, 1 << PMD_ORDER)) {
            (Ok(mark), Ok(frames)) => fault.insert_marked(frames, order, write, mark),
            (Err(ENOMEM), _) => FaultResult::OOM,
            _ => FaultResult::FALLBACK,
        }
    }
}

impl vm::Operations for Node {
    fn name(&self) -> &CStr {
        &self.name
    }

    fn folio_order(&self) -> Option<u32> {
        self.folios
    }

    fn pgoff(&self, pfn: Pfn, start: u64) -> Option<u64> {
        const WINDOW: u64 = Window::Direct.pgoff();
        let page = pfn.0.checked_sub(self.pfns.pfn.0)?;
        (page < self.pfns.pages).then_some(if start >= WINDOW { WINDOW + page } else { page })
    }

    #[inline(always)]
    fn fault(&self, fault: Fault<'_>, order: u32) -> FaultResult {
        match order {
            0 => self.fault_page(fault),
            PMD_ORDER => self.fault_huge::<PMD_ORDER>(fault),
            PUD_ORDER => self.fault_huge::<PUD_ORDER>(fault),
            _ => FaultResult::FALLBACK,
        }
    }

    fn populate(&self, vma: &DeviceVma<'_>, from: u64, to: u64, write: bool) -> Result<u64> {
        let live = self.live.enter().ok_or(EFAULT)?;
        if !self.serves(vma) {
            return Err(EFAULT);
        }
        let one = match plan(&area(vma), &self.pfns, from, 0, |page, n| {
            self.is_bad(&live, page, n)
        }) {
            Plan::Map(run) => run,
            Plan::HwPoison => return Err(ehwpoison()),
            _ => return Err(EFAULT),
        };
        let wanted = (to - from) >> PAGE_SHIFT;
        let mut run = Run {
            pages: wanted.min(self.pfns.pages - one.page),
            ..one
        };
        if let Some(bad) = self.first_bad(&live, run.page..run.page + run.pages) {
            run.pages = bad - run.page;
        }
        match self.insert_pages(&live, vma, run, write, None)? {
            (FaultResult::NO_PAGE, 0) => Err(EAGAIN),
            (FaultResult::NO_PAGE, pages) => Ok(run.address + (pages << PAGE_SHIFT)),
            (FaultResult::OOM, _) => Err(ENOMEM),
            _ => Err(EFAULT),
        }
    }

    fn expect_stores(&self, vma: &DeviceVma<'_>, address: u64) {
        if let Some((_, run)) = self.plan(vma, address, PMD_ORDER) {
            // Without memory for that it is tracked by the page.
            let _ = self.tracker.expect_dense(run.page);
        }
    }

    fn is_poisoned(&self, vma: &DeviceVma<'_>, address: u64) -> bool {
        let Some(live) = self.live.enter() else {
            return false;
        };
        let plan = plan(&area(vma), &self.pfns, address, 0, |page, n| {
            self.is_bad(&live, page, n)
        });
        plan == Plan::HwPoison && self.serves(vma)
    }

    fn space(&self) -> &AddressSpace {
        &self.space
    }

    fn access(
        &self,
        vma: &DeviceVma<'_>,
        page: u64,
        offset: usize,
        buffer: &Segment<'_>,
        write: bool,
    ) -> Result {
        let live = self.live.enter().ok_or(EIO)?;
        if !self.serves(vma) {
            return Err(EIO);
        }
        let page = mmap::locate(&self.limits, page, 1).map_err(|_| EIO)?.first;
        let sector = Pgoff(page).to_sector().ok_or(EIO)?;
        let pmem = live.data();
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
        let tag = self.lease.map(Tag::from_bits(tag).kind, mm)?;
        self.tracker.opened(tracked);
        Ok(tag.to_bits())
    }

    fn opened(&self, vma: &DeviceVma<'_>) {
        self.lease.copy(tag(vma), vma.mm());
        self.tracker.opened(vma.is_tracked());
    }

    fn closed(&self, vma: &DeviceVma<'_>) {
        let tag = tag(vma);
        if !tag.is_counted() {
            return;
        }
        self.lease.unmap(tag, vma.mm());
        self.tracker.closed(vma.is_tracked());
    }
}

/// A mapping, with `first` a page of the device: since mmap(2), which has seen to it, it has at most become
/// smaller.
#[inline(always)]
fn area(vma: &DeviceVma<'_>) -> Area {
    let area = vma.area();
    Area {
        first: mmap::page_at(area.first),
        ..area
    }
}

/// What the lease knows a mapping by.
fn tag(vma: &DeviceVma<'_>) -> Tag {
    Tag::from_bits(vma.tag::<Node>())
}
