// SPDX-License-Identifier: GPL-2.0

//! Planning of page faults: which entry of which size answers a fault.
//!
//! C counterpart: `__dev_dax_pte_fault()`, `__dev_dax_pmd_fault()` and `__dev_dax_pud_fault()` in
//! `drivers/dax/device.c`.

use super::geometry::{
    Pfn,
    PAGE_SHIFT, //
};
use core::ops::Range;

/// A mapping, as far as faults are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    /// First user address, at the start of a page.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// The page of the device that is at `start`.
    pub first: u64,
}

/// Memory that can be mapped: `pages` pages from `pfn` on.
#[derive(Clone, Copy, Debug)]
pub struct PfnRange {
    /// The first page.
    pub pfn: Pfn,
    /// How many there are.
    pub pages: u64,
}

/// Pages to map: `pages` of them from user address `address` on, which are those of the device from
/// `page` on and have the frame numbers from `pfn` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The user address of the first.
    pub address: u64,
    /// Their place on the device, in pages.
    pub page: u64,
    /// Their frame number.
    pub pfn: Pfn,
    /// How many.
    pub pages: u64,
}

impl Run {
    /// What is around this page of a mapping: `pages`, which it is one of, and which the mapping and the memory
    /// have.
    pub fn cut(&self, pages: &Range<u64>) -> Run {
        let before = self.page.saturating_sub(pages.start);
        Run {
            address: self.address.wrapping_sub(before << PAGE_SHIFT),
            page: self.page - before,
            pfn: Pfn(self.pfn.0.wrapping_sub(before)),
            pages: pages.end.saturating_sub(pages.start),
        }
    }
}

/// The answer to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Map these pages.
    Map(Run),
    /// Not with an entry of this size: try a smaller one.
    Fallback,
    /// There is nothing at this address.
    Sigbus,
    /// There is poison at this address.
    HwPoison,
}

/// Plans an entry of 2^`order` pages for a fault at `address`.
///
/// `is_bad` tells whether there is poison in so many pages from a page of the device on.
pub fn plan(
    area: &Area,
    pfns: &PfnRange,
    address: u64,
    order: u32,
    is_bad: impl FnOnce(u64, u64) -> bool,
) -> Plan {
    let miss = if order == 0 {
        Plan::Sigbus
    } else {
        Plan::Fallback
    };
    // Larger than any address space.
    if order >= u64::BITS - PAGE_SHIFT {
        return miss;
    }
    let pages = 1u64 << order;
    let bytes = pages << PAGE_SHIFT;
    let start = address & !(bytes - 1);
    if start < area.start || area.end < start || area.end - start < bytes {
        return miss;
    }
    let Some(page) = ((start - area.start) >> PAGE_SHIFT).checked_add(area.first) else {
        return miss;
    };
    if page > pfns.pages || pfns.pages - page < pages {
        return miss;
    }
    // The memory exists, so its frame numbers do not wrap.
    let pfn = pfns.pfn.0.wrapping_add(page);
    if pfn & (pages - 1) != 0 {
        return miss;
    }
    if is_bad(page, pages) {
        return if order == 0 {
            Plan::HwPoison
        } else {
            Plan::Fallback
        };
    }
    Plan::Map(Run {
        address: start,
        page,
        pfn: Pfn(pfn),
        pages,
    })
}

/// Widens the answer to a fault of one page to the pages around it: an aligned block of `around`
/// pages (a power of two), cut to the mapping and to the memory. If there is poison in that, it
/// stays with the one page.
pub fn widen(
    area: &Area,
    pfns: &PfnRange,
    one: Run,
    around: u64,
    is_bad: impl FnOnce(u64, u64) -> bool,
) -> Run {
    let block = (around << PAGE_SHIFT) - 1;
    let low = (one.address & !block).max(area.start);
    let high = (one.address | block).saturating_add(1).min(area.end);
    // The one page lies between the two.
    let before = ((one.address - low) >> PAGE_SHIFT).min(one.page);
    let after = ((high - one.address) >> PAGE_SHIFT).min(pfns.pages - one.page);
    let wide = Run {
        address: one.address - (before << PAGE_SHIFT),
        page: one.page - before,
        pfn: Pfn(one.pfn.0 - before),
        pages: before + after,
    };
    if is_bad(wide.page, wide.pages) {
        one
    } else {
        wide
    }
}
