// SPDX-License-Identifier: GPL-2.0

//! Mapped memory that can outlive its device.
//!
//! C headers: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! [`include/linux/io.h`](srctree/include/linux/io.h)
//!
//! The driver's own: the part of a mapping that stays for as long as somebody has pinned its pages or holds
//! it. Nothing here refers to a device, which can go before the last user of a page does.

use super::{
    address_space::AddressSpace,
    deferred_drop::Withdraw,
    pagemap::Pages,
    resource::MemRegion,
    withdrawal::{
        MemoryUser,
        Withdrawal, //
    }, //
};
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    ffi::c_void,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        Mutex,
        SetOnce, //
    }, //
};

/// `memremap()`, at that address: no struct pages. Nobody uses it any more when this is dropped.
///
/// # Invariants
///
/// The address is from `memremap()`.
pub(super) struct Remapped(NonNull<u8>);

impl Remapped {
    /// Maps `len` bytes at physical address `phys`: gives the address as well, which is valid for that many
    /// bytes until this is dropped.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the range cannot be mapped. Context: may sleep.
    pub(super) fn new(phys: u64, len: usize) -> Result<(Self, NonNull<u8>)> {
        // SAFETY: No conditions; the function refuses ranges that it cannot map.
        let addr = unsafe { bindings::memremap(phys, len, bindings::ARCH_MEMREMAP_PMEM) };
        let addr = NonNull::new(addr.cast()).ok_or(ENOMEM)?;
        // INVARIANT: From `memremap()`.
        Ok((Self(addr), addr))
    }
}

impl Drop for Remapped {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the address is from `memremap()`.
        unsafe { bindings::memunmap(self.0.as_ptr().cast()) }
    }
}

/// How a range is mapped into the kernel.
pub(super) enum Backing {
    /// Without struct pages.
    Remap { _addr: Remapped },
    /// With struct pages.
    Pages(Pages),
}

/// Keeps memory mapped into the kernel, also when its device has gone.
///
/// # Invariants
///
/// It is counted in `count`. `addr` is valid until it is not any more: the [`Memory`] waits for that.
pub(crate) struct Hold {
    addr: NonNull<c_void>,
    // Not the memory itself, which goes where its last user is waited for, and not in the last hold.
    count: Arc<Atomic<i32>>,
}

// SAFETY: Nothing of it is tied to a thread.
unsafe impl Send for Hold {}

impl Hold {
    /// The kernel address of its first byte.
    pub(super) fn address(&self) -> NonNull<c_void> {
        self.addr
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // What was done with the memory is done before it goes.
        self.count.fetch_sub(1, Release);
    }
}

/// Memory that is mapped into the kernel, for as long as anybody uses it: what is left of a
/// [`super::memremap::Mapping`] when its device has gone.
///
/// It refers to no device.
#[pin_data(PinnedDrop)]
pub(crate) struct Memory {
    backing: Backing,
    /// Where users have mapped it. Pages refer to it for as long as they are pinned.
    users: Arc<AddressSpace>,
    /// Given up when it is not mapped any more.
    claim: SetOnce<MemRegion>,
    /// How many [`Hold`]s there are.
    holds: Arc<Atomic<i32>>,
    #[pin]
    withdrawal: Mutex<Withdrawal>,
}

// SAFETY: Nothing of it is tied to a thread.
unsafe impl Send for Memory {}
// SAFETY: What changes is under a lock.
unsafe impl Sync for Memory {}

impl Memory {
    /// What is mapped by `backing`, used by nobody; users can map it in `users`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(super) fn new(backing: Backing, users: Arc<AddressSpace>) -> Result<Arc<Self>> {
        let next = match &backing {
            Backing::Remap { .. } => 0,
            Backing::Pages(pages) => pages.first(),
        };
        let holds = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                backing,
                users,
                claim: SetOnce::new(),
                holds,
                withdrawal <- new_mutex!(Withdrawal::new(next)),
            }),
            GFP_KERNEL,
        )
    }

    /// The pages, if it has any.
    pub(super) fn pages(&self) -> Option<&Pages> {
        match &self.backing {
            Backing::Pages(pages) => Some(pages),
            Backing::Remap { .. } => None,
        }
    }

    /// Keeps the claim on its physical range: `false` if it has one.
    pub(super) fn keep_claim(&self, claim: MemRegion) -> bool {
        self.claim.populate(claim)
    }

    /// Keeps it. Not after it was given up.
    ///
    /// # Safety
    ///
    /// `addr` is in it.
    pub(super) unsafe fn hold(&self, addr: NonNull<c_void>) -> Hold {
        let count = self.holds.clone();
        // The caller has the mapping: whoever lets go of that says so to the one who looks at the count.
        count.fetch_add(1, Relaxed);
        // INVARIANT: Counted just now; the address is in the memory, guaranteed by the caller.
        Hold { addr, count }
    }

    /// Keeps the files that have pinned pages until nobody has: before the disk goes, which has idle
    /// files evicted, and that waits for pins. The DAX device is dead. Context: may sleep.
    pub(crate) fn keep_pinned_files(&self) {
        if let Backing::Pages(pages) = &self.backing {
            pages.keep_pinned_files(&mut self.withdrawal.lock());
        }
    }

    fn withdraw(&self) -> Result<(), (MemoryUser, u64)> {
        let mut withdrawal = self.withdrawal.lock();
        if !withdrawal.unmapped {
            self.users.unmap_all();
            withdrawal.unmapped = true;
        }
        // First of all: who has a hold may make new references to pages. There are no new holds
        // ([`Memory::hold`]).
        if self.holds.load(Acquire) != 0 {
            return Err((MemoryUser::Module, withdrawal.next));
        }
        if let Backing::Pages(pages) = &self.backing {
            pages
                .withdraw(&mut withdrawal)
                .map_err(|user| (user, withdrawal.next))?;
        }
        Ok(())
    }
}

impl Withdraw for Arc<Memory> {
    fn withdraw(&self) -> bool {
        Memory::withdraw(self).is_ok() && self.withdrawal.lock().holds_nothing()
    }

    fn wait(&self) {
        Memory::wait(self);
    }
}

impl Memory {
    /// Waits until nobody uses it. Context: process, no locks.
    fn wait(&self) {
        /// In milliseconds.
        const MOMENT: u32 = 1000;
        const LONG: u32 = 10_000;
        const STEP: u32 = 10;
        let mut waited = 0u32;
        while let Err((user, pfn)) = self.withdraw() {
            // Nothing is woken when the last pin of such a page goes.
            //
            // SAFETY: We are in process context and hold no lock.
            unsafe { bindings::msleep(STEP) };
            waited = waited.saturating_add(STEP);
            match (user, waited) {
                (MemoryUser::Module, MOMENT) => {
                    pr_warn!("held by another module: waiting for it\n")
                }
                (MemoryUser::Pin, MOMENT) => pr_notice!(
                    "waiting for pinned pages from pfn {:#x} on: {}\n",
                    pfn,
                    "who uses them for RDMA, io_uring or O_DIRECT has to let go"
                ),
                (MemoryUser::Other, LONG) => pr_warn!(
                    "waiting for files that use pfn {:#x}: unmount the file system\n",
                    pfn
                ),
                _ => (),
            }
        }
        let mut withdrawal = self.withdrawal.lock();
        let held = withdrawal.release();
        drop(withdrawal);
        drop(held);
    }
}

#[pinned_drop]
impl PinnedDrop for Memory {
    fn drop(self: Pin<&mut Self>) {
        self.wait();
    }
}
