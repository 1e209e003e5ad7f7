// SPDX-License-Identifier: GPL-2.0

//! Memory of the node that other modules hold: `include/linux/rpmem.h`.

use super::Node;
use crate::{
    abstractions::{
        memory::Hold,
        range::{
            self,
            RangeUser, //
        }, //
    },
    logic::{
        geometry::{
            Pgoff,
            PAGE_SHIFT,
            PAGE_SIZE, //
        },
        mmap, //
    }, //
};
use kernel::prelude::*;

impl range::Operations for Node {
    fn get(&self, user: RangeUser, offset: u64, len: u64, write: bool) -> Result<(Hold, u64)> {
        if (offset | len) & (PAGE_SIZE - 1) != 0 {
            return Err(EINVAL);
        }
        // Revoking waits for this, and the memory is given up after that: there are no holds that come
        // later.
        let live = self.live.enter().ok_or(ENXIO)?;
        let at = mmap::locate(&self.limits, offset >> PAGE_SHIFT, len >> PAGE_SHIFT)
            .map_err(|_| EINVAL)?;
        let pmem = live.data();
        let sector = Pgoff(at.first).to_sector().ok_or(EINVAL)?;
        let start = pmem.geometry().sector_to_offset(sector, len)?;
        let hold = pmem.mapping().hold(start, usize::try_from(len)?)?;
        let phys = pmem.geometry().offset_to_phys(start)?;
        self.lease.add_user(user, write)?;
        Ok((hold, phys))
    }

    fn put(&self, user: &RangeUser, write: bool) {
        self.lease.remove_user(user, write);
    }
}
