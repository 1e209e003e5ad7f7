// SPDX-License-Identifier: GPL-2.0

//! Write-back of the node: what `WriteTracker` asks of the device, and who asks without a user's msync(2).

use super::{
    super::{
        pmem::DaxDevice,
        write_tracking::Medium, //
    },
    Node, //
};
use crate::{
    abstractions::{
        platform,
        trace, //
    },
    logic::geometry::{
        Pfn,
        Pgoff,
        PAGE_SHIFT, //
    }, //
};
use core::ops::Range;
use kernel::{
    device::Device,
    prelude::*, //
};

impl Node {
    /// Writes back what users have stored and not made durable: for a clean way down, after which there is
    /// nobody who could. Context: may sleep.
    pub(super) fn write_back_all(&self, dev: &Device) {
        let result = self.tracker.write_back_dirty(0..self.limits.pages, self);
        // Unbinding has done it.
        if let Some(err) = result.err().filter(|_| self.live.is_alive()) {
            dev_err!(dev, "write-back failed: {}\n", err.to_errno());
        }
    }

    /// Programs that go on after a sleep take what they had stored for stored, durable or not: so it has to be
    /// on the medium before the power goes, or the host of virtio-pmem may.
    pub(super) fn write_back_for_sleep(&self, dev: &Device) -> Result {
        let Some(live) = self.live.enter() else {
            return Ok(());
        };
        let region = live.data().region();
        if region.has_cache() {
            platform::write_back_caches();
        }
        region.flush().map_err(|err| {
            dev_err!(dev, "no sleep, flush failed: {}\n", err.to_errno());
            // The one error after which a hibernation that is nearly done is taken back.
            EBUSY
        })
    }

    /// Whether any of `pages` is pinned.
    pub(super) fn are_pinned(&self, dax: &DaxDevice, pages: Range<u64>) -> bool {
        let first = Pfn(self.pfns.pfn.0 + pages.start);
        dax.data()
            .mapping()
            .folios(first, pages.end - pages.start)
            .is_ok_and(|folios| folios.are_pinned())
    }
}

impl Medium for Node {
    fn unmap_tracked(&self, pages: Range<u64>) {
        self.space.unmap(pages.start, pages.end - pages.start);
    }

    fn are_pinned(&self, pages: Range<u64>) -> Result<bool> {
        let live = self.live.enter().ok_or(EIO)?;
        Ok(Node::are_pinned(self, &live, pages))
    }

    fn flush_cache(&self, pages: Range<u64>) -> Result {
        /// Pages for which unbinding, and others on this CPU, have to wait.
        const STEP: u64 = 512;
        let mut at = pages.start;
        while at < pages.end {
            let live = self.live.enter().ok_or(EIO)?;
            let next = (at + STEP).min(pages.end);
            let sector = Pgoff(at).to_sector().ok_or(EIO)?;
            let len = (next - at) << PAGE_SHIFT;
            let offset = live.data().geometry().sector_to_offset(sector, len)?;
            live.flush_cache(offset, usize::try_from(len)?)?;
            drop(live);
            platform::cond_resched();
            at = next;
        }
        let len = (pages.end - pages.start) << PAGE_SHIFT;
        trace::write_back(&self.name, pages.start << PAGE_SHIFT, len);
        Ok(())
    }

    fn flush(&self) -> Result {
        let live = self.live.enter().ok_or(EIO)?;
        live.data().region().flush()
    }
}
