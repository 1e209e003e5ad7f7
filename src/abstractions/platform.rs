// SPDX-License-Identifier: GPL-2.0

//! Properties of the running kernel that layouts on the medium are checked against.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/memremap.h`](srctree/include/linux/memremap.h)

use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// `sizeof(struct page)` in bytes.
pub(crate) const PAGE_STRUCT_SIZE: u64 = bindings::PAGE_STRUCT_SIZE as u64;

/// Whether page tables have entries of 1 GiB, for a PUD. Those of arm64 have none so far.
pub(crate) const HAS_PUD_ENTRIES: bool = bindings::HAS_PUD_ENTRIES;

/// The alignment in bytes, a power of two, that ranges with struct pages need on every kernel.
pub(crate) fn memremap_compat_align() -> u64 {
    // SAFETY: No conditions.
    unsafe { bindings::memremap_compat_align() as u64 }
}

/// Writes all CPU caches back to memory, where the end of their power would be the end of what they have: a
/// guest's have that of the host. On arm64 firmware does it, where it says that they are persistent. Context:
/// may sleep.
pub(crate) fn write_back_caches() {
    // SAFETY: No conditions but the context.
    unsafe { bindings::rpmem_helper_write_back_caches() };
}

/// Whether a message about a request of a user may be logged now: not too many are.
pub(crate) fn may_log() -> bool {
    // SAFETY: No conditions.
    unsafe { bindings::rpmem_helper_ratelimit() != 0 }
}

/// Lets others have the CPU, if they wait for it. Context: process, no lock held.
pub(crate) fn cond_resched() {
    // SAFETY: No conditions but the context.
    unsafe { bindings::rpmem_helper_cond_resched() };
}

/// Access to `fs.lease-break-time`, while it lives.
pub(crate) struct LeaseBreakTime(());

impl LeaseBreakTime {
    /// Gets it, if there is any. At most once at a time. Context: may sleep.
    pub(crate) fn new() -> Self {
        // SAFETY: Nobody has called it, or what it got has been given back.
        unsafe { bindings::rpmem_helper_lease_init() };
        Self(())
    }
}

impl Drop for LeaseBreakTime {
    fn drop(&mut self) {
        // SAFETY: Got by `new`. The module has no device any more, hence nobody who asks.
        unsafe { bindings::rpmem_helper_lease_exit() };
    }
}

/// `fs.lease-break-time`, in seconds. Context: may sleep; the module has a [`LeaseBreakTime`].
///
/// # Errors
///
/// `ENOENT` if there is no such setting; `EINVAL`.
pub(crate) fn lease_break_time() -> Result<i32> {
    // SAFETY: No conditions but the context.
    let time = unsafe { bindings::rpmem_helper_lease_break_time() };
    to_result(time)?;
    Ok(time)
}
