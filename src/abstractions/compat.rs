// SPDX-License-Identifier: GPL-2.0

//! What differs between the series of Linux, for Rust. The C side has `src/c/compat.h`; nothing
//! else of the driver knows a version.
//!
//! `src/Kbuild` sets `linux_7_3` for Linux 7.3 and everything later.

use crate::bindings;
use kernel::{
    module_param::{
        ModuleParam,
        ModuleParamAccess, //
    },
    prelude::*, //
};

/// The module itself (`THIS_MODULE`).
pub(crate) const THIS_MODULE: &ThisModule = {
    #[cfg(linux_7_3)]
    {
        kernel::module::this_module::<crate::LocalModule>()
    }
    #[cfg(not(linux_7_3))]
    {
        &crate::THIS_MODULE
    }
};

/// Whether a bio without data, a flush, counts as a write in the statistics of its disk, as it does
/// with `nd_pmem` until Linux 7.3.
pub(crate) const FLUSH_IS_A_WRITE: bool = cfg!(not(linux_7_3));

/// Whether entries of 2 MiB may map memory without struct pages.
///
/// Until Linux 7.3, mbind(2) with MPOL_MF_STRICT takes what such an entry maps for a folio
/// (`queue_folios_pmd()` in `mm/mempolicy.c`), and asks no driver before: an oops. Entries of 1 GiB
/// are zapped on its way (`split_huge_pud()`), those of a page are asked whether they are special.
pub(crate) const PMD_WITHOUT_PAGES: bool = cfg!(linux_7_3);

/// The value of a module parameter.
pub(crate) fn parameter<T: ModuleParam>(parameter: &'static ModuleParamAccess<T>) -> T {
    #[cfg(linux_7_3)]
    {
        parameter.value()
    }
    #[cfg(not(linux_7_3))]
    {
        *parameter.value()
    }
}

/// How many bytes of the entry `bi_idx` the iterator has passed.
pub(crate) fn bvec_offset(iter: &bindings::bvec_iter) -> u32 {
    #[cfg(linux_7_3)]
    {
        iter.bi_offset
    }
    #[cfg(not(linux_7_3))]
    {
        iter.bi_bvec_done
    }
}

/// The device of a faux device.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) fn faux_device(registration: &kernel::faux::Registration) -> &kernel::device::Device {
    #[cfg(linux_7_3)]
    {
        let faux: &kernel::faux::Device<_> = registration.as_ref();
        let device: &kernel::device::Device<kernel::device::Bound> = faux.as_ref();
        device
    }
    #[cfg(not(linux_7_3))]
    {
        registration.as_ref()
    }
}
