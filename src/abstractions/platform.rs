// SPDX-License-Identifier: GPL-2.0

//! Properties of the running kernel that layouts on the medium are checked against.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/memremap.h`](srctree/include/linux/memremap.h)

use crate::bindings;

/// `sizeof(struct page)` in bytes.
pub(crate) const PAGE_STRUCT_SIZE: u64 = bindings::PAGE_STRUCT_SIZE as u64;

/// The alignment in bytes, a power of two, that ranges with struct pages need on every kernel.
pub(crate) fn memremap_compat_align() -> u64 {
    // SAFETY: No conditions.
    unsafe { bindings::memremap_compat_align() as u64 }
}
