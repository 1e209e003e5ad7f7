// SPDX-License-Identifier: GPL-2.0

//! Memory failures in page frames without struct pages.
//!
//! C header: [`include/linux/memory-failure.h`](srctree/include/linux/memory-failure.h)
//!
//! Staging module until it can move to `kernel::mm`.
//!
//! # Lock order
//!
//! The callback runs under the lock of the list of such frames and that of the address space.
//!
//! # Examples
//!
//! `Node::new()` in `src/driver/map.rs`.

use super::{
    address_space::AddressSpace,
    errno::eopnotsupp,
    vm::{
        Operations,
        Table, //
    },
    vma::DeviceVma, //
};
use crate::{
    bindings,
    logic::geometry::Pfn, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// Page frames without struct pages that users have mapped, registered such that a memory failure in
/// them reaches those users: SIGBUS, BUS_MCEERR_AR.
///
/// # Invariants
///
/// `inner` is registered.
#[pin_data(PinnedDrop)]
pub(crate) struct PfnSpace<T> {
    #[pin]
    inner: Opaque<bindings::pfn_address_space>,
    _space: Arc<AddressSpace>,
    _owner: PhantomData<fn(T)>,
}

// SAFETY: The structure is only used under the locks of memory failure.
unsafe impl<T> Send for PfnSpace<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for PfnSpace<T> {}

impl<T: Operations> PfnSpace<T> {
    /// Registers `pages` frames from `first` on, which are mapped by the mappings in `space` that
    /// belong to a `T`. `None` on a kernel that does not handle memory failures.
    ///
    /// # Errors
    ///
    /// `EBUSY` if one of them is registered already; `ENOMEM`. Context: may sleep.
    pub(crate) fn register(
        space: Arc<AddressSpace>,
        first: Pfn,
        pages: u64,
    ) -> Result<Option<Pin<KBox<Self>>>> {
        let mapping = space.as_raw();
        let init = try_pin_init!(Self {
            // INVARIANT: Registered, or the initialisation fails.
            inner <- Opaque::try_ffi_init(|ptr: *mut bindings::pfn_address_space| {
                // SAFETY: `ptr` is valid for writes, and pinned until it is unregistered; the
                // address space lives as long.
                to_result(unsafe {
                    ptr.write_bytes(0, 1);
                    (*ptr).node.start = first.0 as usize;
                    (*ptr).node.last = (first.0 + (pages - 1)) as usize;
                    (*ptr).mapping = mapping;
                    (*ptr).pfn_to_vma_pgoff = Some(Self::pgoff_callback);
                    bindings::register_pfn_address_space(ptr)
                })
            }),
            _space: space,
            _owner: PhantomData,
        }? Error);
        match KBox::pin_init(init, GFP_KERNEL) {
            Ok(this) => Ok(Some(this)),
            Err(err) if err == eopnotsupp() => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// # Safety
    ///
    /// For `collect_procs_pfn()` only.
    unsafe extern "C" fn pgoff_callback(
        vma: *mut bindings::vm_area_struct,
        pfn: c_ulong,
        pgoff: *mut c_ulong,
    ) -> c_int {
        let Some(vma) = NonNull::new(vma) else {
            return EFAULT.to_errno();
        };
        // SAFETY: `collect_procs_pfn()` passes a valid mapping.
        let Some(owner) = (unsafe { Table::<T>::owner_if_any(vma) }) else {
            return EFAULT.to_errno();
        };
        // SAFETY: It is one of ours; the lock of the address space is held, so that the VMA stays
        // as it is.
        let area = unsafe { DeviceVma::from_raw(vma) }.area();
        // A process for which the caller does not find an address is killed without a word.
        let end = area.first + ((area.end - area.start) >> bindings::PAGE_SHIFT);
        match owner.pgoff(Pfn(pfn as u64), area.first) {
            Some(found) if (area.first..end).contains(&found) => {
                // SAFETY: The out-pointer is valid.
                unsafe { pgoff.write(found as c_ulong) };
                0
            }
            _ => EFAULT.to_errno(),
        }
    }
}

#[pinned_drop]
impl<T> PinnedDrop for PfnSpace<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants it is registered.
        unsafe { bindings::unregister_pfn_address_space(self.inner.get()) };
    }
}
