// SPDX-License-Identifier: GPL-2.0

//! What has to be written back: which pages users have stored to through mappings.
//!
//! C counterpart: `dax_writeback_mapping_range()` in `fs/dax.c` with the tags of the page cache, which a
//! device does not have.
//!
//! # Protocol
//!
//! A mapping that can be written is of one of two kinds, each with a set of its own:
//!
//! - *Tracked* mappings have entries that are read-only until a store. A fault makes entries writable and marks
//!   them under one lock, that of the page table that they are in (`rpmem_helper_insert_pfns()` and
//!   `rpmem_helper_insert_pmd()`, with the [`Marks`] given here). Where stores are few each page has a mark, in
//!   `dirty_pages`; where they are many its unit has one, in `dense_units`: `src/logic/tracking.rs` says when. Write-back
//!   first drains the mark from its set, then unmaps what it is for, which takes the same lock, then flushes the
//!   CPU caches. A fault that came before loses its entry, after its stores and before the flush; a later one
//!   marks it again. So what has no mark and is not being written back has no writable entry.
//! - *Untracked* mappings have entries of any size, writable at once, and are not unmapped. Before such an
//!   entry is made, its units of [`UNIT`] pages are added to `dirty_units`
//!   ([`WriteTracker::mark_units`]). As long as such a mapping lives, or somebody has pinned the pages, stores
//!   can go on: write-back flushes the unit and puts it back into the set. `untracked_mappings` counts these
//!   mappings. A mapping is counted ([`WriteTracker::opened`]) before it adds a unit, and write-back reads the
//!   count after it has drained the unit: it misses none.
//!
//! One write-back at a time drains the sets (`writeback`) and flushes the caches; the flush of the medium that
//! ends each covers what others have drained before. After an error what was drained is lost from the sets:
//! the medium has gone.
//!
//! When nobody is left to ask for it, the driver writes back by itself: at the last close, when it unbinds, when
//! the device becomes read-only, and at shutdown ([`WriteTracker::write_back_dirty`]).
//!
//! # Lock order
//!
//! `writeback` is taken with no other lock of this driver held, and without the mmap lock. Inside of it is what
//! [`Medium`] takes: the SRCU domain of the node, and locks of page tables.

use super::dirty::{
    DirtySet,
    DrainedChunk,
    CHUNK, //
};
use crate::{
    abstractions::vma::Marks,
    logic::{
        dirty::runs,
        geometry::Pfn,
        tracking::UNIT, //
    }, //
};
use core::ops::Range;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Mutex, //
    }, //
};

/// Where the pages are. Ranges are of pages of the device. Context: may sleep.
pub(super) trait Medium {
    /// Takes pages out of the page tables of tracked mappings.
    fn unmap_tracked(&self, pages: Range<u64>);

    /// Whether somebody has pinned any of them.
    ///
    /// # Errors
    ///
    /// `EIO` if the medium has gone.
    fn are_pinned(&self, pages: Range<u64>) -> Result<bool>;

    /// Writes back the CPU caches.
    ///
    /// # Errors
    ///
    /// As above.
    fn flush_cache(&self, pages: Range<u64>) -> Result;

    /// Makes durable what has left the CPU caches.
    ///
    /// # Errors
    ///
    /// As above, and that of the region.
    fn flush(&self) -> Result;
}

/// What write-back drains from sets.
struct Drained {
    first: KBox<DrainedChunk>,
    second: KBox<DrainedChunk>,
}

/// The pages of a device that have to be written back: see the head of this file.
#[pin_data]
pub(super) struct WriteTracker {
    pages: u64,
    #[pin]
    writeback: Mutex<Drained>,
    dirty_pages: DirtySet,
    dense_units: DirtySet,
    dirty_units: DirtySet,
    /// The place of the first page in its unit. Units begin where an entry of a PMD can.
    skew: u64,
    /// Mappings, and how many of them are not tracked.
    mappings: Atomic<i64>,
    untracked_mappings: Atomic<i64>,
}

impl WriteTracker {
    /// One for a device of that many pages from `first` on, none of them stored to.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(super) fn new(first: Pfn, pages: u64) -> Result<impl PinInit<Self>> {
        let skew = first.0 % UNIT;
        let units = (skew + pages).div_ceil(UNIT);
        let dirty_pages = DirtySet::new(pages)?;
        let dense_units = DirtySet::new(units)?;
        let dirty_units = DirtySet::new(units)?;
        let chunk = || KBox::init(pin_init::init_zeroed(), GFP_KERNEL);
        let drained = Drained {
            first: chunk()?,
            second: chunk()?,
        };
        Ok(pin_init!(Self {
            pages,
            writeback <- new_mutex!(drained),
            dirty_pages,
            dense_units,
            dirty_units,
            skew,
            mappings: Atomic::new(0),
            untracked_mappings: Atomic::new(0),
        }))
    }

    /// One more mapping, which has no entries yet. Context: any.
    pub(super) fn opened(&self, tracked: bool) {
        self.mappings.fetch_add(1, Relaxed);
        if !tracked {
            // Before it touches anything, see `write_back`.
            self.untracked_mappings.fetch_add(1, Full);
        }
    }

    /// A mapping has gone, and its entries with it. Context: any.
    pub(super) fn closed(&self, tracked: bool) {
        self.mappings.fetch_sub(1, Relaxed);
        if !tracked {
            self.untracked_mappings.fetch_sub(1, Release);
        }
    }

    /// How many mappings there are.
    pub(super) fn mappings(&self) -> i64 {
        self.mappings.load(Relaxed).max(0)
    }

    /// The unit that a page is in.
    #[inline(always)]
    fn unit(&self, page: u64) -> u64 {
        // Far below 2^64.
        page.wrapping_add(self.skew) / UNIT
    }

    /// The pages of units.
    fn pages_of(&self, units: &Range<u64>) -> Range<u64> {
        let page = |unit: u64| (unit * UNIT).saturating_sub(self.skew).min(self.pages);
        page(units.start)..page(units.end)
    }

    /// The pages of a tracked mapping that one call of [`WriteTracker::marks`] can be for: those of the unit that
    /// `page` is in.
    pub(super) fn pages_near(&self, page: u64) -> Range<u64> {
        let unit = self.unit(page);
        let pages = self.pages_of(&(unit..unit + 1));
        let chunk = page / CHUNK * CHUNK;
        pages.start.max(chunk)..pages.end.min(chunk + CHUNK)
    }

    /// Where pages of a tracked mapping are marked, by who makes their writable entries, and how many of
    /// them there are. Context: may sleep.
    ///
    /// # Errors
    ///
    /// See [`DirtySet::marks`].
    #[inline(always)]
    pub(super) fn marks(&self, pages: &Range<u64>) -> Result<(Marks<'_>, u64)> {
        self.dirty_pages.marks(pages)
    }

    /// Where the unit of a page is marked, as above: for entries of pages of that unit.
    ///
    /// # Errors
    ///
    /// See [`DirtySet::marks`].
    pub(super) fn unit_mark(&self, page: u64) -> Result<Marks<'_>> {
        self.dense_units.mark(self.unit(page))
    }

    /// The unit of a page is going to be stored to so much. Context: may sleep.
    ///
    /// # Errors
    ///
    /// See [`DirtySet::add`].
    pub(super) fn expect_dense(&self, page: u64) -> Result {
        let unit = self.unit(page);
        self.dense_units.add(unit..unit + 1)
    }

    /// Whether the unit of a page has been stored to so much that it has a mark as a whole.
    #[inline(always)]
    pub(super) fn is_dense(&self, page: u64) -> bool {
        self.dense_units.has(self.unit(page))
    }

    /// Which pages from `first` on are marked, as far as they are of the unit that this is in: a bit for each.
    pub(super) fn marked(&self, first: u64) -> [u64; 8] {
        self.dirty_pages.members(first)
    }

    /// Remembers that pages of an untracked mapping could be stored to, before their entry is made.
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// See [`DirtySet::add`].
    #[inline(always)]
    pub(super) fn mark_units(&self, first: u64, pages: u64) -> Result {
        // The usual case.
        let unit = self.unit(first);
        let rest = UNIT - (first.wrapping_add(self.skew)) % UNIT;
        if pages <= rest && self.dirty_units.has(unit) {
            return Ok(());
        }
        self.mark_more_units(first, pages)
    }

    #[inline(never)]
    fn mark_more_units(&self, first: u64, pages: u64) -> Result {
        let (unit, last) = (self.unit(first), self.unit(first + (pages - 1)));
        if self.dirty_units.contains(unit, last) {
            return Ok(());
        }
        self.dirty_units.add(unit..last + 1)
    }

    /// Makes durable what has been stored to `pages`, and what has left the CPU caches before. Context: may
    /// sleep, without the mmap lock.
    ///
    /// # Errors
    ///
    /// Those of [`Medium`]; `ENOMEM`.
    pub(super) fn write_back(&self, pages: Range<u64>, medium: &impl Medium) -> Result {
        self.clean(pages, medium)?;
        medium.flush()
    }

    /// Makes durable what has been stored to `pages`: asks for nothing if that is nothing. Otherwise as
    /// [`WriteTracker::write_back`].
    pub(super) fn write_back_dirty(&self, pages: Range<u64>, medium: &impl Medium) -> Result {
        if self.clean(pages, medium)? {
            medium.flush()?;
        }
        Ok(())
    }

    /// Writes back the CPU caches of what has been stored to; gives whether there was any.
    fn clean(&self, pages: Range<u64>, medium: &impl Medium) -> Result<bool> {
        if pages.is_empty() {
            return Ok(false);
        }
        let mut any = false;
        let mut guard = self.writeback.lock();
        let Drained {
            first: drained,
            second: scratch,
        } = &mut *guard;
        let units = self.unit(pages.start)..self.unit(pages.end - 1) + 1;
        let mut at = units.start;
        while let Some((next, found)) = self.dense_units.drain_chunk(at, &units, drained) {
            any = true;
            for run in runs(&drained[found.words]) {
                let pages = self.pages_of(&(found.first + run.start..found.first + run.end));
                // What was marked by the page is written back with it.
                self.dirty_pages.remove(&pages, scratch);
                medium.unmap_tracked(pages.clone());
                medium.flush_cache(pages)?;
            }
            at = next;
        }

        let mut at = pages.start;
        while let Some((next, found)) = self.dirty_pages.drain_chunk(at, &pages, drained) {
            any = true;
            // Pages are added under the lock of the page table that their entry is in, which unmapping
            // takes: the next store to any of them adds it again.
            for run in runs(&drained[found.words]) {
                let run = found.first + run.start..found.first + run.end;
                medium.unmap_tracked(run.clone());
                medium.flush_cache(run)?;
            }
            at = next;
        }

        let mut at = units.start;
        while let Some((next, found)) = self.dirty_units.drain_chunk(at, &units, drained) {
            any = true;
            // Stores through untracked mappings can go on: while there are any, units stay in the set.
            // One that has added a unit which is drained now was counted before that.
            let live = self.untracked_mappings.load(Acquire) != 0;
            for run in runs(&drained[found.words]) {
                let run = found.first + run.start..found.first + run.end;
                let pages = self.pages_of(&run);
                // So can those who have pinned pages, after the mapping has gone.
                if live || medium.are_pinned(pages.clone())? {
                    self.dirty_units.add(run)?;
                }
                // All of it: what is left out would not be in the set any more.
                medium.flush_cache(pages)?;
            }
            at = next;
        }
        Ok(any)
    }
}
