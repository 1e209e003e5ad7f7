// SPDX-License-Identifier: GPL-2.0

//! What a driver with mappings implements, and `struct vm_operations_struct` in front of it.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Staging module until it can move to `kernel::mm::virt`, which has no operations.
//!
//! # Who keeps whom alive
//!
//! A mapping has its owner, of type `T`, as private data, and holds the file that keeps that alive.
//!
//! # Lock order
//!
//! All operations run under the lock of the VMA or the mmap lock, but for [`Operations::pgoff`], which runs
//! under the lock of the address space.
//!
//! # Examples
//!
//! `src/driver/map/fault.rs` implements the operations.

use super::{
    address_space::AddressSpace,
    bio::Segment,
    trace,
    vma::{
        tagged,
        untagged,
        DeviceVma,
        Fault,
        FaultResult,
        MmId,
        PUD_ORDER, //
    }, //
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
    ffi::{
        c_int,
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*, //
};

/// What a driver with mappings implements.
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// Answers a fault with entries of 2^`order` pages, or with [`FaultResult::FALLBACK`] if `order` is
    /// not 0. Context: may sleep; called concurrently, for one mapping as well.
    fn fault(&self, fault: Fault<'_>, order: u32) -> FaultResult;

    /// Maps pages from user address `from` on with entries of one page, ahead of any access, as far
    /// as they are linear and in the page table that is there, and at most up to `to`. Gives the
    /// address up to which that is done. Context: may sleep, mmap lock held.
    ///
    /// # Errors
    ///
    /// `EHWPOISON`, `EFAULT` if not even one page can be mapped; `EAGAIN` without a page table;
    /// `ENOMEM`.
    fn populate(&self, vma: &DeviceVma<'_>, from: u64, to: u64, write: bool) -> Result<u64>;

    /// All that an entry of a PMD of a tracked mapping at user address `address` would map is going to be
    /// written. Context: as above.
    fn expect_stores(&self, vma: &DeviceVma<'_>, address: u64);

    /// Whether there is poison in the page at user address `address`. Context: as above.
    fn is_poisoned(&self, vma: &DeviceVma<'_>, address: u64) -> bool;

    /// The name of the device, for events. Context: any.
    fn name(&self) -> &CStr;

    /// log2 of the pages of the folios that mappings have, if they have any.
    fn folio_order(&self) -> Option<u32>;

    /// The file offset in pages at which a mapping has `pfn`, if that is of this device; `start`
    /// is the offset of the mapping's own start. Context: atomic.
    fn pgoff(&self, pfn: Pfn, start: u64) -> Option<u64>;

    /// Moves bytes between `buffer` and the page of the device at `page`, from byte `offset` of it
    /// on, for a debugger. They are in one page; only writable mappings are written.
    ///
    /// # Errors
    ///
    /// `EIO` if there is nothing or poison.
    fn access(
        &self,
        vma: &DeviceVma<'_>,
        page: u64,
        offset: usize,
        buffer: &Segment<'_>,
        write: bool,
    ) -> Result;

    /// mmap(2) has made a mapping of the calling process, with the `tag` given to
    /// [`super::mmap::VmaDesc::map_frames`]: gives the one that it carries from now on. Context: may sleep, mmap
    /// lock held.
    ///
    /// # Errors
    ///
    /// Any: mmap(2) fails with it, and the mapping is closed, with its first tag.
    fn mapped(&self, tracked: bool, tag: usize, mm: MmId) -> Result<usize>;

    /// A mapping came to be by fork, or by a cut through another one, with the tag of that. Context:
    /// as above.
    fn opened(&self, vma: &DeviceVma<'_>);

    /// A mapping ended. Context: as above.
    fn closed(&self, vma: &DeviceVma<'_>);

    /// The address space that has the mappings of the device.
    fn space(&self) -> &AddressSpace;
}

/// A `struct vm_operations_struct` for a `static`.
pub(super) struct Table<T>(bindings::vm_operations_struct, PhantomData<fn(T)>);

// SAFETY: The core reads the table and does not change it.
unsafe impl<T> Sync for Table<T> {}

impl<T: Operations> Table<T> {
    pub(super) const UNTRACKED: &'static Self = &Self(Self::table(false), PhantomData);
    pub(super) const TRACKED: &'static Self = &Self(Self::table(true), PhantomData);
    pub(super) const FOLIOS: &'static Self = &Self(Self::table_of_folios(), PhantomData);

    /// The C structure.
    pub(super) fn as_raw(&self) -> &bindings::vm_operations_struct {
        &self.0
    }

    /// Debuggers read and write folios without our help.
    const fn table_of_folios() -> bindings::vm_operations_struct {
        let mut ops = Self::table(false);
        ops.access = None;
        // They have no entries that the core cannot cut.
        ops.may_split = None;
        ops.pagesize = Some(Self::pagesize_callback);
        ops
    }

    const fn table(tracked: bool) -> bindings::vm_operations_struct {
        let mut ops: bindings::vm_operations_struct = pin_init::zeroed();
        ops.fault = Some(Self::fault_callback);
        ops.huge_fault = Some(Self::huge_fault_callback);
        ops.map_pages = Some(Self::map_pages_callback);
        ops.access = Some(Self::access_callback);
        ops.open = Some(Self::open_callback);
        ops.close = Some(Self::close_callback);
        ops.may_split = Some(Self::may_split_callback);
        if tracked {
            ops.mapped = Some(Self::mapped_callback::<true>);
            ops.pfn_mkwrite = Some(Self::fault_callback);
        } else {
            ops.mapped = Some(Self::mapped_callback::<false>);
        }
        ops
    }

    /// The owner of a mapping, if that is one of `T`. It may be half made still: memory failure finds
    /// it before the core has set its operations and private data (`vma_link_file()`,
    /// `set_vma_user_defined_fields()`).
    ///
    /// # Safety
    ///
    /// `vma` is valid for `'a`.
    pub(super) unsafe fn owner_if_any<'a>(vma: NonNull<bindings::vm_area_struct>) -> Option<&'a T> {
        // SAFETY: Guaranteed by the caller; the core stores whole words.
        let (ops, private) = unsafe {
            (
                (&raw const (*vma.as_ptr()).vm_ops).read_volatile(),
                (&raw const (*vma.as_ptr()).vm_private_data).read_volatile(),
            )
        };
        let ours = [&Self::TRACKED.0, &Self::UNTRACKED.0, &Self::FOLIOS.0];
        if private.is_null() || !ours.iter().any(|table| core::ptr::eq(*table, ops)) {
            return None;
        }
        // SAFETY: Mappings with these operations are from `VmaDesc::finish()`, which put a `T` there
        // that outlives them.
        Some(unsafe { &*untagged::<T>(private) })
    }

    /// # Safety
    ///
    /// `vma` was made by [`super::mmap::VmaDesc`] for `T`.
    unsafe fn owner<'a>(vma: *mut bindings::vm_area_struct) -> &'a T {
        // SAFETY: `VmaDesc` put a `T` there, which outlives the mapping.
        unsafe { &*untagged::<T>((*vma).vm_private_data) }
    }

    /// # Safety
    ///
    /// `vmf` is a fault in a mapping made by [`super::mmap::VmaDesc`] for `T`.
    #[inline(always)]
    unsafe fn handle_fault(vmf: *mut bindings::vm_fault, order: u32) -> bindings::vm_fault_t {
        // SAFETY: Guaranteed by the caller.
        let vma = unsafe { (*vmf).__bindgen_anon_1.vma };
        // SAFETY: Neither is null, guaranteed by the caller.
        let (vmf, area) = unsafe { (NonNull::new_unchecked(vmf), NonNull::new_unchecked(vma)) };
        // SAFETY: Guaranteed by the caller; a fault holds the lock of its VMA, or the mmap lock.
        let fault = unsafe { Fault::from_raw(vmf, DeviceVma::from_raw(area)) };
        // SAFETY: Guaranteed by the caller.
        let owner = unsafe { Self::owner(vma) };
        owner.fault(fault, order).code()
    }

    /// As [`Self::handle_fault`], and tells of it. Nothing on the usual way has to be kept for that.
    ///
    /// # Safety
    ///
    /// As there.
    #[cold]
    #[inline(never)]
    unsafe fn handle_fault_traced(
        vmf: *mut bindings::vm_fault,
        order: u32,
    ) -> bindings::vm_fault_t {
        // SAFETY: Guaranteed by the caller.
        let result = unsafe { Self::handle_fault(vmf, order) };
        // SAFETY: Guaranteed by the caller; handling it leaves the lock of the VMA alone.
        unsafe {
            let owner = Self::owner((*vmf).__bindgen_anon_1.vma);
            trace::fault(owner.name(), vmf, order, result);
        }
        result
    }

    /// # Safety
    ///
    /// For `__do_fault()` and `wp_pfn_shared()` only.
    unsafe extern "C" fn fault_callback(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: `__do_fault()` and `wp_pfn_shared()` pass a fault in a mapping with this table.
        unsafe {
            if trace::fault_is_on() {
                return Self::handle_fault_traced(vmf, 0);
            }
            Self::handle_fault(vmf, 0)
        }
    }

    /// # Safety
    ///
    /// For `create_huge_pmd()`, `create_huge_pud()` and their like only.
    unsafe extern "C" fn huge_fault_callback(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // SAFETY: `create_huge_pmd()` passes a fault in a mapping with this table.
        unsafe {
            if trace::fault_is_on() {
                return Self::handle_fault_traced(vmf, order);
            }
            Self::handle_fault(vmf, order)
        }
    }

    /// That there is such a callback lets the core call `->fault` under the lock of the VMA alone
    /// (`vmf_can_call_fault()`). It may not sleep, as page tables want, so it leaves all to that.
    ///
    /// # Safety
    ///
    /// No conditions.
    unsafe extern "C" fn map_pages_callback(
        _vmf: *mut bindings::vm_fault,
        _start: c_ulong,
        _end: c_ulong,
    ) -> bindings::vm_fault_t {
        0
    }

    /// # Safety
    ///
    /// For `__access_remote_vm()` only: `buf` is of `len` bytes.
    unsafe extern "C" fn access_callback(
        vma: *mut bindings::vm_area_struct,
        addr: c_ulong,
        buf: *mut c_void,
        len: c_int,
        write: c_int,
    ) -> c_int {
        // SAFETY: `__access_remote_vm()` passes a mapping with this table.
        let owner = unsafe { Self::owner(vma) };
        let (Some(vma), Some(buf)) = (NonNull::new(vma), NonNull::new(buf.cast::<u8>())) else {
            return EFAULT.to_errno();
        };
        // SAFETY: As above; the mmap lock is held.
        let mapping = unsafe { DeviceVma::from_raw(vma) };
        // It is asked to write wherever get_user_pages() refuses, also by force.
        if write != 0 && !mapping.is_writable() {
            return EFAULT.to_errno();
        }
        let area = mapping.area();
        let offset = addr % bindings::PAGE_SIZE;
        let len = (len.max(0) as usize).min(bindings::PAGE_SIZE - offset);
        // SAFETY: `buf` is valid for that long.
        let buffer = unsafe { Segment::from_raw(buf, len) };
        let page = area.first + ((addr as u64 - area.start) >> bindings::PAGE_SHIFT);
        match owner.access(&mapping, page, offset, &buffer, write != 0) {
            Ok(()) => len as c_int,
            Err(err) => err.to_errno(),
        }
    }

    /// What entries a mapping has if nothing is in the way: KVM wants to know.
    ///
    /// # Safety
    ///
    /// For `vma_kernel_pagesize()` only.
    unsafe extern "C" fn pagesize_callback(vma: *mut bindings::vm_area_struct) -> c_ulong {
        // SAFETY: `vma_kernel_pagesize()` passes a mapping with this table.
        let owner = unsafe { Self::owner(vma) };
        let Some(vma) = NonNull::new(vma) else {
            return bindings::PAGE_SIZE;
        };
        // SAFETY: `vma_kernel_pagesize()` passes a mapping with this table; its callers hold the mmap lock.
        let area = unsafe { DeviceVma::from_raw(vma) }.area();
        let size = (bindings::PAGE_SIZE as u64) << owner.folio_order().unwrap_or(0);
        let place = area.start | area.end | (area.first << bindings::PAGE_SHIFT);
        if place & (size - 1) == 0 {
            size as c_ulong
        } else {
            bindings::PAGE_SIZE
        }
    }

    /// # Safety
    ///
    /// For `call_vma_mapped()` only.
    unsafe extern "C" fn mapped_callback<const TRACKED: bool>(
        _start: c_ulong,
        _end: c_ulong,
        _pgoff: c_ulong,
        _file: *const bindings::file,
        private: *mut *mut c_void,
    ) -> c_int {
        let Some(mm) = kernel::current!().mm().map(|mm| MmId(mm.as_raw() as usize)) else {
            return EFAULT.to_errno();
        };
        // SAFETY: `call_vma_mapped()` passes what `VmaDesc` has set, in a valid place.
        let old = unsafe { *private };
        let owner = untagged::<T>(old);
        let tag = old as usize & (align_of::<T>() - 1);
        // SAFETY: As above; the owner outlives the mapping.
        match unsafe { &*owner }.mapped(TRACKED, tag, mm) {
            Ok(tag) => {
                // SAFETY: The place is valid.
                unsafe { *private = tagged(owner, tag) };
                0
            }
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// For `__split_vma()` and `prep_move_vma()` only: the mmap lock is held for writing.
    unsafe extern "C" fn may_split_callback(
        vma: *mut bindings::vm_area_struct,
        addr: c_ulong,
    ) -> c_int {
        // SAFETY: `__split_vma()` passes a mapping with this table, of page frames.
        unsafe { bindings::rpmem_helper_cut_pud(vma, addr) };
        0
    }

    /// # Safety
    ///
    /// For fork, split and mremap only (`dup_mmap()`, `__split_vma()`, `copy_vma()`).
    unsafe extern "C" fn open_callback(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The core passes a mapping with this table.
        let owner = unsafe { Self::owner(vma) };
        if let Some(vma) = NonNull::new(vma) {
            // SAFETY: As above; nobody else knows the new mapping, or the mmap lock is held.
            let mapping = unsafe { DeviceVma::from_raw(vma) };
            owner.opened(&mapping);
            // `move_page_tables()` takes an entry of 1 GiB for a damaged table. It finds none: the
            // mapping that moves is locked for writing already.
            //
            // SAFETY: As above.
            if unsafe { bindings::rpmem_helper_is_moved(vma.as_ptr()) } {
                let area = mapping.area();
                let pages = (area.end - area.start) >> bindings::PAGE_SHIFT;
                if pages >> PUD_ORDER != 0 && !mapping.has_folios() {
                    owner.space().unmap(area.first, pages);
                }
            }
        }
    }

    /// # Safety
    ///
    /// For `vma_close()` only.
    unsafe extern "C" fn close_callback(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The core passes a mapping with this table.
        let owner = unsafe { Self::owner(vma) };
        if let Some(vma) = NonNull::new(vma) {
            // SAFETY: As above; nobody else can find the mapping any more.
            owner.closed(&unsafe { DeviceVma::from_raw(vma) });
        }
    }
}
