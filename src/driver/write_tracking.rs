// SPDX-License-Identifier: GPL-2.0

//! What has to be written back: which pages users have stored to through mappings.
//!
//! C counterpart: `dax_writeback_mapping_range()` in `fs/dax.c` with the tags of the page cache, which a
//! device does not have.
//!
//! # Protocol
//!
//! There are two sets, for two kinds of mappings that can be written:
//!
//! - *Tracked* mappings have entries of one page, read-only until the first store. `stored` has a page
//!   before its entry is writable: the fault adds it ([`WriteTracker::marks`]) under the lock of the page
//!   table that the entry is in, together with the entry (`rpmem_helper_insert_pfns()`). Write-back takes
//!   the page out of the set and then unmaps it, under the same lock. So a fault that has added the page
//!   before that has its entry unmapped, after its stores and before the flush; one that comes later
//!   adds the page again. A page that is neither in the set nor in the hands of a write-back has no
//!   writable entry.
//! - *Untracked* mappings have entries of any size, writable at once, and are not unmapped. `touched` has
//!   the units of 2^[`COARSE`] pages that such an entry was made in: it is added to before the entry is made
//!   ([`WriteTracker::touch`]). Stores can go on as long as there is such a mapping, or somebody has
//!   pinned the pages: then write-back flushes the unit and puts it back. `untracked` counts these mappings.
//!   One that has touched a unit was counted before that ([`WriteTracker::opened`]), and write-back reads the
//!   count after it has taken the unit: it misses none.
//!
//! Write-backs take from the sets one after the other (`writeback`), and have the caches written back before the
//! next one does; the flush of the medium that each ends with covers what others have taken before. After an
//! error what was taken is not in the sets any more: the medium has gone.
//!
//! On a clean way down nobody will ask: the last close, unbinding, a device that becomes read-only, and
//! shutdown write back by themselves ([`WriteTracker::write_back_stored`]).
//!
//! # Lock order
//!
//! `writeback` is taken inside of nothing of this driver, without the mmap lock; inside of it what
//! [`Medium`] takes: the SRCU domain of the node, and locks of page tables.

use super::dirty::{
    Dirty,
    Taken,
    CHUNK, //
};
use crate::{
    abstractions::vm::Marks,
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

/// log2 of the pages of the unit in which stores to untracked mappings are remembered.
const COARSE: u32 = 9;

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
    writeback: Mutex<KBox<Taken>>,
    stored: Dirty,
    touched: Dirty,
    /// Mappings, and how many of them are not tracked.
    mappings: Atomic<i64>,
    untracked: Atomic<i64>,
}

impl WriteTracker {
    /// One for a device of that many pages, none of them stored to.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(super) fn new(pages: u64) -> Result<impl PinInit<Self>> {
        let stored = Dirty::new(pages)?;
        let touched = Dirty::new(pages.div_ceil(1 << COARSE))?;
        let taken = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        Ok(pin_init!(Self {
            pages,
            writeback <- new_mutex!(taken),
            stored,
            touched,
            mappings: Atomic::new(0),
            untracked: Atomic::new(0),
        }))
    }

    /// One more mapping, which has no entries yet. Context: any.
    pub(super) fn opened(&self, tracked: bool) {
        self.mappings.fetch_add(1, Relaxed);
        if !tracked {
            // Before it touches anything, see `write_back`.
            self.untracked.fetch_add(1, Full);
        }
    }

    /// A mapping has gone, and its entries with it. Context: any.
    pub(super) fn closed(&self, tracked: bool) {
        self.mappings.fetch_sub(1, Relaxed);
        if !tracked {
            self.untracked.fetch_sub(1, Release);
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
    /// See [`Dirty::marks`].
    #[inline(always)]
    pub(super) fn marks(&self, pages: &Range<u64>) -> Result<(Marks<'_>, u64)> {
        self.stored.marks(pages)
    }

    /// Remembers that pages of an untracked mapping could be stored to, before their entry is made.
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// See [`Dirty::add`].
    pub(super) fn touch(&self, first: u64, pages: u64) -> Result {
        let (first, last) = (first >> COARSE, (first + (pages - 1)) >> COARSE);
        if self.touched.has(first, last) {
            return Ok(());
        }
        self.touched.add(first..last + 1)
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
    pub(super) fn write_back_stored(&self, pages: Range<u64>, medium: &impl Medium) -> Result {
        if self.clean(pages, medium)? {
            medium.flush()?;
        }
        Ok(())
    }

    /// Writes back the CPU caches of what has been stored to; gives whether there was any.
    fn clean(&self, pages: Range<u64>, medium: &impl Medium) -> Result<bool> {
        let mut any = false;
        let mut taken = self.writeback.lock();
        let mut at = pages.start;
        while let Some(first) = self.stored.take(at, &pages, &mut taken) {
            any = true;
            // Marks are made under the lock of the page table that the entry is in. So what has been
            // taken is unmapped below, and the next store to it is marked again.
            for run in runs(&**taken) {
                let run = first + run.start..first + run.end;
                medium.unmap_tracked(run.clone());
                medium.flush_cache(run)?;
            }
            at = first + CHUNK;
        }

        let units = pages.start >> COARSE..pages.end.div_ceil(1 << COARSE);
        let mut at = units.start;
        while let Some(first) = self.touched.take(at, &units, &mut taken) {
            any = true;
            // Mappings that are not tracked can go on with stores: as long as there are any, what
            // was touched stays in the set. One that has touched a unit that is taken now was
            // counted before that.
            let live = self.untracked.load(Acquire) != 0;
            for run in runs(&**taken) {
                let run = first + run.start..first + run.end;
                let pages = run.start << COARSE..(run.end << COARSE).min(self.pages);
                // So can those who have pinned pages, after the mapping has gone.
                if live || medium.are_pinned(pages.clone())? {
                    self.touched.add(run)?;
                }
                // All of it: what is left out would not be in the set any more.
                medium.flush_cache(pages)?;
            }
            at = first + CHUNK;
        }
        Ok(any)
    }
}
