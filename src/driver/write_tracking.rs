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
//! - *Tracked* mappings have entries of one page, read-only until the first store. A fault makes an entry
//!   writable and adds its page to `dirty_pages` under one lock, that of the page table that the entry is in
//!   (`rpmem_helper_insert_pfns()`, with the marks that [`WriteTracker::marks`] gives). Write-back first
//!   drains the page from the set, then unmaps it, which takes the same lock, then flushes the CPU caches. A
//!   fault that came before loses its entry, after its stores and before the flush; a later one adds the
//!   page again. So a page that is neither in the set nor being written back has no writable entry.
//! - *Untracked* mappings have entries of any size, writable at once, and are not unmapped. Before such an
//!   entry is made, its units of 2^[`UNIT_ORDER`] pages are added to `dirty_units`
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
    logic::dirty::runs, //
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

/// log2 of the pages of a unit, in which stores to untracked mappings are remembered.
const UNIT_ORDER: u32 = 9;

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

/// The pages of a device that have to be written back: see the head of this file.
#[pin_data]
pub(super) struct WriteTracker {
    pages: u64,
    #[pin]
    writeback: Mutex<KBox<DrainedChunk>>,
    dirty_pages: DirtySet,
    dirty_units: DirtySet,
    /// Mappings, and how many of them are not tracked.
    mappings: Atomic<i64>,
    untracked_mappings: Atomic<i64>,
}

impl WriteTracker {
    /// One for a device of that many pages, none of them stored to.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(super) fn new(pages: u64) -> Result<impl PinInit<Self>> {
        let dirty_pages = DirtySet::new(pages)?;
        let dirty_units = DirtySet::new(pages.div_ceil(1 << UNIT_ORDER))?;
        let drained = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        Ok(pin_init!(Self {
            pages,
            writeback <- new_mutex!(drained),
            dirty_pages,
            dirty_units,
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

    /// Where pages of a tracked mapping are added, by who makes their writable entries, and how many of
    /// them there are. Context: may sleep.
    ///
    /// # Errors
    ///
    /// See [`DirtySet::marks`].
    #[inline(always)]
    pub(super) fn marks(&self, pages: &Range<u64>) -> Result<(Marks<'_>, u64)> {
        self.dirty_pages.marks(pages)
    }

    /// Remembers that pages of an untracked mapping could be stored to, before their entry is made.
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// See [`DirtySet::add`].
    pub(super) fn mark_units(&self, first: u64, pages: u64) -> Result {
        let (first, last) = (first >> UNIT_ORDER, (first + (pages - 1)) >> UNIT_ORDER);
        if self.dirty_units.contains(first, last) {
            return Ok(());
        }
        self.dirty_units.add(first..last + 1)
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
        let mut any = false;
        let mut drained = self.writeback.lock();
        let mut at = pages.start;
        while let Some(first) = self.dirty_pages.drain_chunk(at, &pages, &mut drained) {
            any = true;
            // Pages are added under the lock of the page table that their entry is in, which unmapping
            // takes: the next store to any of them adds it again.
            for run in runs(&**drained) {
                let run = first + run.start..first + run.end;
                medium.unmap_tracked(run.clone());
                medium.flush_cache(run)?;
            }
            at = first + CHUNK;
        }

        let units = pages.start >> UNIT_ORDER..pages.end.div_ceil(1 << UNIT_ORDER);
        let mut at = units.start;
        while let Some(first) = self.dirty_units.drain_chunk(at, &units, &mut drained) {
            any = true;
            // Stores through untracked mappings can go on: while there are any, units stay in the set.
            // One that has added a unit which is drained now was counted before that.
            let live = self.untracked_mappings.load(Acquire) != 0;
            for run in runs(&**drained) {
                let run = first + run.start..first + run.end;
                let pages = run.start << UNIT_ORDER..(run.end << UNIT_ORDER).min(self.pages);
                // So can those who have pinned pages, after the mapping has gone.
                if live || medium.are_pinned(pages.clone())? {
                    self.dirty_units.add(run)?;
                }
                // All of it: what is left out would not be in the set any more.
                medium.flush_cache(pages)?;
            }
            at = first + CHUNK;
        }
        Ok(any)
    }
}
