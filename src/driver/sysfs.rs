// SPDX-License-Identifier: GPL-2.0

//! Attributes of the disk: `dax/write_cache`.
//!
//! C counterpart: `pmem_attribute_groups` in `drivers/nvdimm/pmem.c`.

use super::pmem::DaxDevice;
use crate::abstractions::{
    disk_attributes::{
        attribute,
        BoolAttribute, //
    },
    sysfs::{
        self,
        AttributeGroup,
        AttributeGroups, //
    }, //
};
use kernel::prelude::*;

/// Whether fsync on a DAX file system writes back CPU caches.
struct WriteCache;

impl BoolAttribute<DaxDevice> for WriteCache {
    const NAME: &'static CStr = c"write_cache";

    fn show(disk: &DaxDevice) -> bool {
        disk.write_cache()
    }

    fn store(disk: &DaxDevice, value: bool) {
        disk.set_write_cache(value);
    }
}

sysfs::attributes! {
    static DAX_ATTRIBUTES: DaxDevice = attribute[WriteCache];
}
static DAX_GROUP: AttributeGroup<DaxDevice> = AttributeGroup::new(Some(c"dax"), &DAX_ATTRIBUTES);

/// The attribute groups of the disk.
pub(crate) static GROUPS: AttributeGroups<DaxDevice> = AttributeGroups::new(&DAX_GROUP);
