// SPDX-License-Identifier: GPL-2.0

//! mmap(2) of a device: where a mapping goes, and what it becomes.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Staging module until it can move to `kernel::mm::virt`. `VmaNew` there is for the deprecated
//! `->mmap`, and knows neither VM_PFNMAP nor operations.
//!
//! # Lock order
//!
//! The mmap lock is held throughout.
//!
//! # Examples
//!
//! `Node::mmap_prepare()` in `src/driver/map.rs`.

use super::{
    memremap::Mapping,
    vm::{
        Operations,
        Table, //
    },
    vma::{
        tagged,
        PMD_ORDER,
        PUD_ORDER, //
    }, //
};
use crate::bindings;
use kernel::ffi::c_ulong;

/// A mapping that is being made.
///
/// # Invariants
///
/// The pointer is valid for `'a`, and nobody else uses it. The owner is the data of the device that
/// the file is of, and outlives that.
pub(crate) struct VmaDesc<'a, T>(*mut bindings::vm_area_desc, &'a T);

/// The proof that a [`VmaDesc`] has been set up.
pub(crate) struct PreparedVma {
    _made_here: (),
}

impl<'a, T: Operations> VmaDesc<'a, T> {
    /// # Safety
    ///
    /// For `->mmap_prepare` only: `desc` is valid for `'a`, and `owner` for as long as its file.
    pub(super) unsafe fn from_raw(desc: *mut bindings::vm_area_desc, owner: &'a T) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self(desc, owner)
    }

    /// The file offset in pages.
    pub(crate) fn pgoff(&self) -> u64 {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { (*self.0).pgoff as u64 }
    }

    /// The length in pages.
    pub(crate) fn pages(&self) -> u64 {
        // SAFETY: By the type invariants the pointer is valid.
        let bytes = unsafe { (*self.0).end - (*self.0).start };
        (bytes / bindings::PAGE_SIZE) as u64
    }

    /// Whether it is shared: MAP_SHARED or MAP_SHARED_VALIDATE.
    pub(crate) fn is_shared(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { bindings::rpmem_helper_vma_desc_shared(self.0) }
    }

    /// Whether MAP_SYNC was given, with whatever type.
    pub(crate) fn is_sync(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { bindings::rpmem_helper_vma_desc_sync(self.0) }
    }

    /// Whether it is to be writable now.
    pub(crate) fn is_writable(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { bindings::rpmem_helper_vma_desc_write(self.0) }
    }

    /// Whether it can become writable.
    pub(crate) fn may_write(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { bindings::rpmem_helper_vma_desc_may_write(self.0) }
    }

    /// It cannot become writable, for mprotect(2) neither.
    pub(crate) fn deny_write(&mut self) {
        // SAFETY: By the type invariants the pointer is valid and ours.
        unsafe { bindings::rpmem_helper_vma_desc_clear_may_write(self.0) };
    }

    /// Whether MAP_DIRECT was given, with MAP_SHARED_VALIDATE: on a kernel that knows it.
    pub(crate) fn is_direct(&self) -> bool {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { bindings::rpmem_helper_vma_desc_direct(self.0) }
    }

    /// Moves it to another file offset, in pages: faults, the address space and `/proc` see that
    /// one.
    pub(crate) fn set_pgoff(&mut self, pgoff: u64) {
        // SAFETY: By the type invariants the pointer is valid and ours; `call_mmap_prepare()` takes
        // a changed offset over.
        unsafe { (*self.0).pgoff = pgoff as usize };
    }

    /// Makes it a mapping of page frames of `memory`, without struct pages as far as anybody can see,
    /// with faults answered by the owner. If it is `tracked`, pages start read-only and the first
    /// store to each is a fault. It carries `tag`, of which as many bits are kept as the alignment of
    /// `T` leaves.
    pub(crate) fn map_frames(self, memory: &Mapping, tracked: bool, tag: usize) -> PreparedVma {
        // SAFETY: By the type invariants the pointer is valid and ours; the address is one of the
        // kernel's for as long as the memory is borrowed.
        unsafe { bindings::rpmem_helper_vma_desc_set_pfnmap(self.0, memory.start()) };
        self.finish(
            tag,
            if tracked {
                Table::<T>::TRACKED.as_raw()
            } else {
                Table::<T>::UNTRACKED.as_raw()
            },
        )
    }

    /// Makes it a mapping of folios, which can be pinned, with faults answered by the owner. Stores
    /// are not tracked; it carries `tag` as above. Its file offset is the page of the device that it
    /// starts at.
    pub(crate) fn map_folios(self, tag: usize) -> PreparedVma {
        // SAFETY: By the type invariants the pointer is valid and ours.
        unsafe { bindings::rpmem_helper_vma_desc_set_dontexpand(self.0) };
        self.finish(tag, Table::<T>::FOLIOS.as_raw())
    }

    fn finish(self, tag: usize, ops: &'static bindings::vm_operations_struct) -> PreparedVma {
        // SAFETY: By the type invariants the pointer is valid and ours, and the owner outlives the
        // file, which the mapping holds. The table is static, and one for `T`.
        unsafe {
            (*self.0).private_data = tagged(core::ptr::from_ref(self.1), tag);
            (*self.0).vm_ops = ops;
        }
        PreparedVma { _made_here: () }
    }
}

/// Where to map `len` bytes of `file` from page `pgoff` on, such that the user address is aligned
/// as the physical address `phys` is: to the largest entry that fits. An address, or an errno.
///
/// # Safety
///
/// For `->get_unmapped_area` only: the arguments are those of that.
pub(super) unsafe fn unmapped_area(
    file: *mut bindings::file,
    addr: c_ulong,
    len: c_ulong,
    pgoff: c_ulong,
    flags: c_ulong,
    phys: u64,
) -> c_ulong {
    // SAFETY: Guaranteed by the caller.
    let get = |addr, len| unsafe { bindings::mm_get_unmapped_area(file, addr, len, pgoff, flags) };
    if flags & bindings::MAP_FIXED as c_ulong == 0 && addr == 0 {
        for order in [PUD_ORDER, PMD_ORDER] {
            let size = bindings::PAGE_SIZE << order;
            // A mapping in which no entry of this size fits needs no alignment to it.
            let head = (phys as usize).wrapping_neg() & (size - 1);
            if len < head || len - head < size {
                continue;
            }
            // Room to move the start.
            let Some(padded) = len.checked_add(size) else {
                continue;
            };
            let start = get(0, padded);
            if start & (bindings::PAGE_SIZE - 1) == 0 {
                return start + ((phys as usize).wrapping_sub(start) & (size - 1));
            }
        }
    }
    get(addr, len)
}
