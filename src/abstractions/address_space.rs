// SPDX-License-Identifier: GPL-2.0

//! An address space of its own for the mappings of a device, so that they can be found.
//!
//! C headers: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Staging module until it can move to `kernel::mm`.
//!
//! # Entries of 1 GiB
//!
//! `zap_pud_range()` looks twice whether there is an entry of that size, and takes one that comes in
//! between for a damaged table: it clears it, and flushes no TLB. So a fault that makes such an entry
//! excludes unmapping in the same address space. What the core does by itself needs no such care, as
//! it holds the VMA for writing, and refuses `MADV_DONTNEED` on page frames.
//!
//! # Page tables that move
//!
//! Whoever moves a page table excludes unmapping as well: while the table is nowhere, unmapping would find
//! nothing, when TLBs still have what was in it.
//!
//! # Examples
//!
//! `Mapping` in `memremap.rs` makes one, and `Node::unmap_window()` in `src/driver/map.rs` unmaps in it.

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    new_mutex,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    }, //
};

/// The address space of an anonymous inode. Not of the inode of the device node: there can be many
/// of those for one device.
///
/// # Invariants
///
/// The file is from `anon_inode_create_getfile()`, and the reference is ours; the mapping is its own.
#[pin_data(PinnedDrop)]
pub(crate) struct AddressSpace {
    file: NonNull<bindings::file>,
    mapping: NonNull<bindings::address_space>,
    /// Inside of the mmap lock and the locks of VMAs, outside of the lock of the address space and of
    /// those of page tables.
    #[pin]
    unmap_lock: Mutex<()>,
}

// SAFETY: A `struct file` is reference counted and not tied to a thread.
unsafe impl Send for AddressSpace {}
// SAFETY: Methods on `&AddressSpace` call functions that lock by themselves.
unsafe impl Sync for AddressSpace {}

/// Nobody opens the file: it has no operations, and no owner, which would keep the module loaded.
struct NoOperations(bindings::file_operations);

// SAFETY: Never changed.
unsafe impl Sync for NoOperations {}

static NO_OPERATIONS: NoOperations = NoOperations(pin_init::zeroed());

impl AddressSpace {
    /// An address space without mappings.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENFILE`. Context: may sleep.
    pub(crate) fn new(name: &'static CStr) -> impl PinInit<Self, Error> {
        Self::with(name, false)
    }

    /// The same for a device whose mappings have folios: what the core asks the inode for is that of
    /// device-dax, `dax_lock_folio()` and `vma_is_dax()` for two.
    ///
    /// # Errors
    ///
    /// As above.
    pub(crate) fn of_folios(name: &'static CStr) -> impl PinInit<Self, Error> {
        Self::with(name, true)
    }

    #[expect(clippy::disallowed_methods, reason = "`as_char_ptr` is not const")]
    fn with(name: &'static CStr, folios: bool) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            // SAFETY: The name is a string, the operations are static; there is no private data.
            let file = from_err_ptr(unsafe {
                bindings::anon_inode_create_getfile(
                    name.as_ptr().cast(),
                    &NO_OPERATIONS.0,
                    core::ptr::null_mut(),
                    bindings::O_RDWR as i32,
                    core::ptr::null(),
                )
            })?;
            let file = NonNull::new(file).ok_or(ENOMEM)?;
            // SAFETY: A file of `anon_inode_create_getfile()` has an inode, which belongs to it alone
            // and which nobody else has seen yet.
            let mapping = unsafe {
                let mapping = (*file.as_ptr()).f_mapping;
                if folios {
                    let inode = (*mapping).host;
                    (*inode).i_mode = (bindings::S_IFCHR | 0o600) as bindings::umode_t;
                    (*inode).i_flags |= bindings::S_DAX;
                }
                NonNull::new_unchecked(mapping)
            };
            // INVARIANT: Made just now.
            Ok(try_pin_init!(Self {
                file,
                mapping,
                unmap_lock <- new_mutex!(()),
            }? Error))
        })
    }

    /// The C structure.
    pub(super) fn as_raw(&self) -> *mut bindings::address_space {
        self.mapping.as_ptr()
    }

    /// Excludes unmapping, for the time in which an entry of 1 GiB is made or a page table moved. Context:
    /// may sleep.
    pub(super) fn exclude_unmap(&self) -> Guard<'_, (), MutexBackend> {
        self.unmap_lock.lock()
    }

    /// Waits if a page table is being moved: the places that it comes from and goes to get no entry
    /// meanwhile. Context: may sleep.
    pub(super) fn wait_for_move(&self) {
        // SAFETY: By the type invariants the address space is valid; the word is written as a whole.
        let moving = unsafe { (&raw const (*(*self.as_raw()).host).i_private).read_volatile() };
        if !moving.is_null() {
            drop(self.exclude_unmap());
        }
    }

    /// Takes `pages` pages from file offset `pgoff` (in pages) on out of every page table. Context:
    /// may sleep.
    pub(crate) fn unmap(&self, pgoff: u64, pages: u64) {
        let _guard = self.unmap_lock.lock();
        // SAFETY: By the type invariants the address space is valid.
        unsafe {
            bindings::unmap_mapping_pages(self.as_raw(), pgoff as usize, pages as usize, true)
        };
    }

    /// Takes everything out of every page table. Context: may sleep.
    pub(crate) fn unmap_all(&self) {
        let _guard = self.unmap_lock.lock();
        // SAFETY: As above; 0 pages stand for all that follow.
        unsafe { bindings::unmap_mapping_pages(self.as_raw(), 0, 0, true) };
    }
}

#[pinned_drop]
impl PinnedDrop for AddressSpace {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the reference is ours. It is given up at once and not by
        // deferred work, which could find the operations gone with the module.
        unsafe { bindings::__fput_sync(self.file.as_ptr()) };
    }
}
