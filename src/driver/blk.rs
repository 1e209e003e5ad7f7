// SPDX-License-Identifier: GPL-2.0

//! Block I/O: bios are carried out in the context of their submitter.
//!
//! C counterpart: `pmem_submit_bio()` in `drivers/nvdimm/pmem.c`.

use super::{
    map,
    pmem::{
        DaxDevice,
        Pmem, //
    }, //
};
use crate::{
    abstractions::{
        badblocks::Badblocks,
        bio::Bio,
        block::{
            DiskNumber,
            Operations, //
        },
        compat::THIS_MODULE, //
    },
    logic::geometry::Sector, //
};
use kernel::{
    prelude::*,
    sync::ArcBorrow, //
};

impl Operations for DaxDevice {
    const OWNER: &'static ThisModule = THIS_MODULE;

    fn submit_bio(this: ArcBorrow<'_, Self>, bio: Bio) {
        let pmem = this.data();

        if bio.is_preflush() {
            if let Err(err) = pmem.region().flush() {
                return bio.end(Err(err));
            }
        }

        let accounting = bio.start_accounting();
        let result = transfer(pmem, &bio);
        bio.end_accounting(accounting);

        if result.is_ok() && bio.is_fua() {
            // The region ends the bio itself if it has to ask its host first.
            if let Some((bio, result)) = pmem.region().flush_bio(bio) {
                bio.end(result);
            }
            return;
        }
        bio.end(result);
    }

    fn badblocks(&self) -> &Badblocks {
        self.data().badblocks()
    }

    fn open(&self, exclusive: bool) -> Result {
        let pmem = self.data();
        if exclusive && pmem.lease().is_claimed() {
            pmem.lease().refuse_claim(pmem.region().child());
            return Err(EBUSY);
        }
        Ok(())
    }

    fn set_read_only(disk: DiskNumber, read_only: bool) -> Result {
        map::set_disk_read_only(disk, read_only)
    }
}

fn transfer(pmem: &Pmem, bio: &Bio) -> Result {
    // A flush.
    if bio.len() == 0 {
        return Ok(());
    }
    let start = pmem
        .geometry()
        .sector_to_offset(Sector(bio.sector()), bio.len() as u64)
        .map_err(|_| EIO)?;

    if pmem.badblocks().is_empty() {
        return pmem.mapping().transfer(start, bio);
    }
    if bio.is_write() {
        bio.for_each_segment(|done, segment| pmem.write(start + done, segment))
    } else {
        bio.for_each_segment(|done, segment| pmem.read(start + done, &segment))
    }
}
