// SPDX-License-Identifier: GPL-2.0

//! How finely stores to a mapping are tracked: which pages a store makes writable, and which page table
//! is given up for another.
//!
//! No C counterpart. `vmw_bo_dirty_scan()` in `drivers/gpu/drm/vmwgfx/vmwgfx_page_dirty.c` chooses between
//! faults and the dirty bits of page tables for all of an object at a time.
//!
//! # What it costs
//!
//! In sixteenths of what it costs to write back a page. msync takes a page's entry away and writes it back, at
//! [`PAGE_COST`], if it is marked, stored to or not; a unit that is marked as one, at [`UNIT_COST`]. To mark each
//! page at its first store is the best that can be done where stores are few, and to mark units at
//! theirs where they are many.
//!
//! # What is promised
//!
//! Whatever the order of stores and msyncs, msync costs at most twice what it would by the better of
//! these two for each unit:
//!
//! - Pages that are marked number at most twice those that have been stored to. A store beside pages that are
//!   marked, as stores in order are, marks more than its own page: up to twice as many as they are, and no more
//!   than there are dirty entries for.
//! - A unit is marked when [`DENSE`] of its pages have been stored to, which would have cost half of
//!   that by the page.
//! - The first store after a dense unit marks [`HEAD_START`] pages, which the saving by that unit pays for, once
//!   in each mapping.

use core::ops::Range;

/// Pages of a unit: of an entry of a PMD.
pub const UNIT: u64 = 512;

/// What one page costs msync: `Documentation/performance.md` has the measurements.
pub const PAGE_COST: u64 = 24;

/// What a unit costs msync.
pub const UNIT_COST: u64 = UNIT * 16;

/// Pages marked by the first store after a dense unit.
pub const HEAD_START: u64 = 32;

/// Pages stored to with which a unit is marked as one. Twice what they cost by the page pays for the unit,
/// and for the head start of the next one.
pub const DENSE: u64 = (UNIT_COST + HEAD_START * PAGE_COST).div_ceil(2 * PAGE_COST);

/// Page tables that 32 places have at most.
pub const TABLES: u32 = 8;

/// What a store makes writable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// These pages, each with a mark.
    Pages(Range<u64>),
    /// All that there is of the unit, with one mark.
    Unit,
}

/// A unit, as far as it is mapped by one page table.
#[derive(Clone, Debug)]
pub struct Place {
    /// The pages that can be mapped: at most [`UNIT`].
    pub pages: Range<u64>,
    /// How many of them are marked.
    pub marked: u64,
    /// How many of those are known to have been stored to.
    pub dirty: u64,
    /// Whether it has the page table of a dense unit.
    pub head_start: bool,
}

/// Answers a store to `page`, one of the place, which is not writable. `is_marked` tells of others in its place.
pub fn grant(place: &Place, page: u64, is_marked: impl Fn(u64) -> bool) -> Grant {
    let stored = place.dirty + 1;
    if stored >= DENSE {
        return Grant::Unit;
    }
    if place.marked == 0 {
        let pages = if place.head_start { HEAD_START } else { 1 };
        return Grant::Pages(page..page.saturating_add(pages).min(place.pages.end));
    }
    let most = (2 * stored).saturating_sub(place.marked).max(1);
    // Pages that are marked between this one and `end`, as many as matter.
    let run = |end: u64, other: fn(u64, u64) -> u64| {
        let left = page.abs_diff(end).min(most.div_ceil(2));
        (1..=left)
            .take_while(|n| is_marked(other(page, *n)))
            .count() as u64
    };
    let before = run(place.pages.start, |page, n| page - n);
    if before != 0 {
        let pages = most.min(2 * before);
        return Grant::Pages(page..page.saturating_add(pages).min(place.pages.end));
    }
    let after = run(place.pages.end.saturating_sub(1), |page, n| page + n);
    let pages = most.min(2 * after).max(1);
    let start = (page + 1).saturating_sub(pages).max(place.pages.start);
    Grant::Pages(start..page + 1)
}

/// Which of the page tables near a place that needs one it takes: by the numbers of bits in `tables`, where the
/// place itself is `at`, one of the 32 places from `block` on; and whether that is the one of the dense unit
/// before. `is_dense` tells of units with one mark, which can have a huge entry instead.
///
/// `turn` gives another number each time, so that two places that are needed at once do not take each other's for
/// ever.
pub fn victim(
    tables: u64,
    at: u32,
    block: u32,
    turn: impl FnOnce() -> u32,
    is_dense: impl Fn(u32) -> bool,
) -> Option<(u32, bool)> {
    let dense = |n: &u32| tables.checked_shr(*n).unwrap_or(0) & 1 == 1 && is_dense(*n);
    if let Some(n) = [at.wrapping_sub(1), at.wrapping_add(1)]
        .iter()
        .find(|n| dense(n))
    {
        return Some((*n, *n < at));
    }
    let mut left = tables & (u64::from(u32::MAX).checked_shl(block).unwrap_or(0));
    let count = left.count_ones();
    if count < TABLES {
        return None;
    }
    for _ in 0..turn() % count {
        left &= left - 1;
    }
    Some((left.trailing_zeros(), false))
}
