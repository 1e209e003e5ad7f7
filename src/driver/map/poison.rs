// SPDX-License-Identifier: GPL-2.0

//! Bad sectors under mappings of the node.
//!
//! C counterpart: `nd_pmem_notify()` in `drivers/nvdimm/pmem.c`, which leaves mappings to the file system.

use super::{
    super::pmem::DaxDevice,
    Node, //
};
use crate::{
    abstractions::{
        platform,
        trace, //
    },
    logic::{
        geometry::{
            Pgoff,
            PAGE_SHIFT,
            PAGE_SIZE, //
        },
        mmap::Window, //
    }, //
};
use core::ops::Range;

impl Node {
    /// Has `update` add to the list of bad sectors: no entries stay over those that it has then.
    /// Context: may sleep.
    pub(super) fn change_badblocks(&self, update: impl FnOnce()) {
        update();
        let Some(dax) = self.live.enter().map(|live| live.dax.clone()) else {
            return;
        };
        self.unmap_bad(&dax, |bad| {
            trace::poison_found(&self.name, bad << PAGE_SHIFT, PAGE_SIZE)
        });
        // Faults under way may have planned with the list of before; later ones have the new one.
        self.live.synchronize();
        self.unmap_bad(&dax, |_| ());
    }

    /// Takes the bad pages out of all page tables, and tells `found` of each.
    fn unmap_bad(&self, dax: &DaxDevice, found: impl Fn(u64)) {
        let mut page = 0;
        while let Some(bad) = self.first_bad(dax, page..self.pfns.pages) {
            self.unmap(bad..bad + 1);
            found(bad);
            page = bad + 1;
            platform::cond_resched();
        }
    }

    /// The first page in `pages` that has a bad sector.
    pub(super) fn first_bad(&self, dax: &DaxDevice, pages: Range<u64>) -> Option<u64> {
        let start = Pgoff(pages.start).to_sector()?.0;
        let len = Pgoff(pages.end - pages.start).to_sector()?.0;
        let bad = dax.data().badblocks().first_bad(start, len)?;
        Some(bad >> (PAGE_SHIFT - 9))
    }

    /// Takes pages out of all page tables.
    fn unmap(&self, pages: Range<u64>) {
        let len = pages.end - pages.start;
        self.space.unmap(pages.start, len);
        self.space.unmap(Window::Direct.pgoff() + pages.start, len);
    }
}
