// SPDX-License-Identifier: GPL-2.0

//! Mappings of a device by users, and faults in them: page frames, without struct pages or as if without, or
//! folios.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Staging module until it can move to `kernel::mm::virt`, which has VMAs of pages (`VmaMixedMap`) alone.
//!
//! # Lock order
//!
//! Faults run under the lock of the VMA or the mmap lock, both outside of everything that the
//! operations take; the locks of page tables are taken inside.
//!
//! # Examples
//!
//! `Node::insert_pages()` in `src/driver/map/fault.rs` makes entries of both kinds.

use super::memremap::{
    Folios,
    Frames, //
};
use crate::{
    bindings,
    logic::fault::Area, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_void,
    prelude::*,
    sync::atomic::Atomic, //
};

/// log2 of the pages that an entry of a PMD covers.
pub(crate) const PMD_ORDER: u32 = bindings::RPMEM_PMD_ORDER;
/// log2 of the pages that an entry of a PUD covers.
pub(crate) const PUD_ORDER: u32 = bindings::RPMEM_PUD_ORDER;

/// What happened to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultResult {
    /// The access can go on.
    NoPage,
    /// No entry of this size.
    Fallback,
    /// SIGBUS, BUS_ADRERR.
    Sigbus,
    /// SIGBUS, BUS_MCEERR_AR, for one page.
    HwPoison,
    /// No memory for page tables.
    Oom,
}

impl FaultResult {
    /// The C value.
    pub(super) fn code(self) -> bindings::vm_fault_t {
        match self {
            FaultResult::NoPage => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            FaultResult::Fallback => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            FaultResult::Sigbus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            FaultResult::HwPoison => bindings::vm_fault_reason_VM_FAULT_HWPOISON,
            FaultResult::Oom => bindings::vm_fault_reason_VM_FAULT_OOM,
        }
    }

    /// What that value of an insertion means.
    fn of(code: bindings::vm_fault_t) -> Self {
        match code {
            bindings::vm_fault_reason_VM_FAULT_NOPAGE => FaultResult::NoPage,
            bindings::vm_fault_reason_VM_FAULT_FALLBACK => FaultResult::Fallback,
            bindings::vm_fault_reason_VM_FAULT_OOM => FaultResult::Oom,
            _ => FaultResult::Sigbus,
        }
    }
}

/// Which address space of a process: a number that is its own for as long as it has a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MmId(pub(super) usize);

/// The private data of a mapping: its owner, and a tag in the bits that the alignment of that leaves.
pub(super) fn tagged<T>(owner: *const T, tag: usize) -> *mut c_void {
    owner
        .cast_mut()
        .cast::<u8>()
        .wrapping_add(tag & (align_of::<T>() - 1))
        .cast()
}

/// The owner in the private data of a mapping.
pub(super) fn untagged<T>(private: *mut c_void) -> *const T {
    let tag = private as usize & (align_of::<T>() - 1);
    private.cast::<u8>().wrapping_sub(tag).cast_const().cast()
}

/// A mapping made by [`super::mmap::VmaDesc`], while it cannot change.
///
/// # Invariants
///
/// The pointer is to such a mapping, and its lock or the mmap lock is held for `'a`.
pub(crate) struct DeviceVma<'a>(NonNull<bindings::vm_area_struct>, PhantomData<&'a ()>);

impl DeviceVma<'_> {
    /// # Safety
    ///
    /// `vma` is such a mapping, and stays as it is for as long as the result lives.
    pub(super) unsafe fn from_raw(vma: NonNull<bindings::vm_area_struct>) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self(vma, PhantomData)
    }

    /// Where it is, with `first` the file offset in pages of its start.
    pub(crate) fn area(&self) -> Area {
        let vma = self.0.as_ptr();
        // SAFETY: By the type invariants the VMA is valid and does not change.
        unsafe {
            Area {
                start: (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_start as u64,
                end: (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_end as u64,
                first: (*vma).vm_pgoff as u64,
            }
        }
    }

    /// Whether stores to it are tracked page by page.
    pub(crate) fn is_tracked(&self) -> bool {
        // SAFETY: By the type invariants the VMA is valid, and has operations.
        unsafe { (*(*self.0.as_ptr()).vm_ops).pfn_mkwrite.is_some() }
    }

    /// Whether it is one of folios.
    pub(crate) fn has_folios(&self) -> bool {
        // SAFETY: By the type invariants the VMA is valid, and has operations.
        unsafe { (*(*self.0.as_ptr()).vm_ops).pagesize.is_some() }
    }

    fn flags(&self) -> bindings::vm_flags_t {
        // SAFETY: By the type invariants the VMA is valid.
        unsafe { (*self.0.as_ptr()).__bindgen_anon_2.vm_flags }
    }

    /// Whether it is writable now.
    pub(super) fn is_writable(&self) -> bool {
        self.flags() & bindings::VM_WRITE as bindings::vm_flags_t != 0
    }

    /// Whether it is writable, or can become so.
    pub(crate) fn may_write(&self) -> bool {
        self.flags() & bindings::VM_MAYWRITE as bindings::vm_flags_t != 0
    }

    /// The tag that it carries, for an owner of type `T`.
    pub(crate) fn tag<T>(&self) -> usize {
        // SAFETY: By the type invariants the VMA is valid.
        let private = unsafe { (*self.0.as_ptr()).vm_private_data };
        private as usize & (align_of::<T>() - 1)
    }

    /// The address space that it is in.
    pub(crate) fn mm(&self) -> MmId {
        // SAFETY: By the type invariants the VMA is valid, hence in use and not waiting to be freed.
        MmId(unsafe { (*self.0.as_ptr()).vm_mm } as usize)
    }

    /// Whether entries of these may be made here.
    fn takes(&self, frames: &Frames<'_>) -> bool {
        // SAFETY: By the type invariants the VMA is valid; a mapping has a file.
        let space = unsafe { (*(*self.0.as_ptr()).vm_file).f_mapping };
        frames.users().is_some_and(|users| users.as_raw() == space)
    }

    /// How many pages there are from user address `address` on, up to the end of the mapping or of
    /// the page table. `None` outside of the mapping.
    fn room(&self, address: u64) -> Option<u64> {
        let area = self.area();
        let table = (address | (((bindings::PAGE_SIZE as u64) << PMD_ORDER) - 1)).saturating_add(1);
        (area.start..area.end)
            .contains(&address)
            .then(|| (area.end.min(table) - address) >> bindings::PAGE_SHIFT)
    }

    /// Maps `frames` from user address `address` on with entries of one page, up to the end of the
    /// mapping or of the page table. Entries that are there are kept, and made writable if it is by a
    /// store. Gives how many pages it was for: none if there is a huge entry, or no page table and
    /// no fault that could bring one; the access is tried again then.
    ///
    /// With `marks` there is a mark for each page, from before its entry until that can have been
    /// unmapped: who takes a mark away and unmaps the page then has seen all stores to it.
    ///
    /// If it is for a fault in this mapping, that is `near`: the page table is its own.
    pub(crate) fn insert(
        &self,
        address: u64,
        frames: Frames<'_>,
        write: bool,
        marks: Option<Marks<'_>>,
        near: Option<&Fault<'_>>,
    ) -> (FaultResult, u64) {
        let room = match self.room(address) {
            Some(room) if !self.has_folios() && self.takes(&frames) => room,
            _ => return (FaultResult::Sigbus, 0),
        };
        let pages = frames.pages().min(room);
        let (bits, first, any) = match marks {
            None => (core::ptr::null_mut(), 0, core::ptr::null_mut()),
            Some(marks) => {
                if marks.bits.len() as u64 * 64 < marks.first.saturating_add(pages) {
                    return (FaultResult::Sigbus, 0);
                }
                (
                    marks.bits.as_ptr().cast_mut().cast(),
                    marks.first as usize,
                    marks.any.as_ptr(),
                )
            }
        };
        // SAFETY: By the type invariants the VMA is locked and one of page frames; the range is in it
        // and in one page table, that of the fault if there is one. The frames are memory that is
        // mapped write-back while they are borrowed, and their entries are taken away from this
        // address space when that ends. There are as many bits as pages, checked above, and all
        // accesses to them are atomic.
        let done = unsafe {
            bindings::rpmem_helper_insert_pfns(
                self.0.as_ptr(),
                self.fault_near(address, near),
                address as usize,
                frames.first().0 as usize,
                pages as usize,
                write,
                bits,
                first,
                any,
            )
        };
        (FaultResult::NoPage, if done { pages } else { 0 })
    }

    /// The C structure of the fault, if `address` is in the same page table.
    fn fault_near(&self, address: u64, near: Option<&Fault<'_>>) -> *mut bindings::vm_fault {
        match near {
            Some(fault)
                if fault.vma.0 == self.0
                    && (address ^ fault.address()) >> (bindings::PAGE_SHIFT + PMD_ORDER) == 0 =>
            {
                fault.vmf.as_ptr()
            }
            _ => core::ptr::null_mut(),
        }
    }

    /// Maps `folios` from user address `address` on with entries of one page, as
    /// [`DeviceVma::insert`] does.
    pub(crate) fn insert_folios(
        &self,
        address: u64,
        folios: Folios<'_>,
        write: bool,
        near: Option<&Fault<'_>>,
    ) -> (FaultResult, u64) {
        let frames = folios.frames();
        let room = match self.room(address) {
            Some(room) if self.has_folios() && self.takes(frames) => room,
            _ => return (FaultResult::Sigbus, 0),
        };
        let pages = frames.pages().min(room);
        let mut done = 0;
        // SAFETY: By the type invariants the VMA is locked, and it is one of folios; the range is in
        // it and in one page table, that of the fault if there is one. The pages have folios for that
        // while they are borrowed, and lose their entries in this address space when that ends.
        let code = unsafe {
            bindings::rpmem_helper_insert_pages(
                self.0.as_ptr(),
                self.fault_near(address, near),
                address as usize,
                frames.first().0 as usize,
                pages as usize,
                write,
                &mut done,
            )
        };
        (FaultResult::of(code), done as u64)
    }
}

/// Where stores to pages are remembered.
#[derive(Clone, Copy)]
pub(crate) struct Marks<'a> {
    /// A bit per page.
    pub(crate) bits: &'a [Atomic<u64>],
    /// The bit of the first page.
    pub(crate) first: u64,
    /// Becomes 1 when a bit is set, after it.
    pub(crate) any: &'a Atomic<i32>,
}

/// A page fault.
///
/// # Invariants
///
/// The pointer is to a fault in progress in `vma`.
pub(crate) struct Fault<'a> {
    vmf: NonNull<bindings::vm_fault>,
    vma: DeviceVma<'a>,
}

impl<'a> Fault<'a> {
    /// # Safety
    ///
    /// `vmf` is a fault in progress in `vma`.
    pub(super) unsafe fn from_raw(vmf: NonNull<bindings::vm_fault>, vma: DeviceVma<'a>) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self { vmf, vma }
    }

    /// The mapping.
    pub(crate) fn vma(&self) -> &DeviceVma<'a> {
        &self.vma
    }

    /// The user address, at the start of a page.
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: By the type invariants the fault is valid.
        unsafe { (*self.vmf.as_ptr()).__bindgen_anon_1.address as u64 }
    }

    /// Whether it is by a store.
    pub(crate) fn is_write(&self) -> bool {
        // SAFETY: By the type invariants the fault is valid.
        let flags = unsafe { (*self.vmf.as_ptr()).flags };
        flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0
    }

    /// Whether one entry of 2^`order` pages can be for these.
    fn is_whole(&self, frames: &Frames<'_>, order: u32) -> bool {
        let pages = 1u64 << order;
        frames.pages() == pages && frames.first().0 & (pages - 1) == 0 && self.vma.takes(frames)
    }

    /// Maps `frames` with one entry of 2^`order` pages. Fails with [`FaultResult::Fallback`] for any
    /// other than the orders of PMD and PUD. Context: may sleep.
    pub(crate) fn insert_huge(&self, frames: Frames<'_>, order: u32, write: bool) -> FaultResult {
        let (pfn, vmf) = (frames.first().0 as usize, self.vmf.as_ptr());
        if self.vma.has_folios() || !self.is_whole(&frames, order) {
            return FaultResult::Fallback;
        }
        let code = match (order, frames.users()) {
            // SAFETY: By the type invariants this is a fault in a VMA of page frames, which is
            // locked; the frame is aligned, and memory that is mapped write-back while it is
            // borrowed, and its entries are taken away from this address space when that ends. That
            // the entry lies in the VMA follows from the core's call of `->huge_fault` for it.
            (PMD_ORDER, _) => unsafe { bindings::rpmem_helper_insert_pmd(vmf, pfn, write) },
            (PUD_ORDER, Some(users)) => {
                let _guard = users.lock_gigantic();
                // SAFETY: As above; nobody unmaps in this address space meanwhile.
                unsafe { bindings::rpmem_helper_insert_pud(vmf, pfn, write) }
            }
            _ => return FaultResult::Fallback,
        };
        FaultResult::of(code)
    }

    /// Maps a folio of 2^`order` pages with one entry. Fails with [`FaultResult::Fallback`] if `folios`
    /// is not one of that order, or for any other than that of PMD: the core mistakes an entry of
    /// 1 GiB for a damaged table if it comes while MADV_DONTNEED looks (see `address_space.rs`), which nobody
    /// can forbid, and mremap(2) does so always.
    pub(crate) fn insert_folio(&self, folios: Folios<'_>, order: u32, write: bool) -> FaultResult {
        if order != PMD_ORDER
            || folios.order() != order
            || !self.vma.has_folios()
            || !self.is_whole(folios.frames(), order)
        {
            return FaultResult::Fallback;
        }
        let pfn = folios.frames().first().0;
        // SAFETY: By the type invariants this is a fault in a VMA of folios, which is locked; that
        // the entry lies in the VMA follows from the core's call of `->huge_fault` for it. The
        // folio is there while it is borrowed, and loses its entries when that ends.
        FaultResult::of(unsafe {
            bindings::rpmem_helper_insert_folio(self.vmf.as_ptr(), pfn as usize, write)
        })
    }
}
