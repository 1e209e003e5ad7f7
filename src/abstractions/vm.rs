// SPDX-License-Identifier: GPL-2.0

//! Mappings of page frames, without struct pages or as if without, and of folios.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Staging module until it can move to `kernel::mm::virt`. `VmaNew` there is for the deprecated
//! `->mmap`, and knows neither VM_PFNMAP nor operations.
//!
//! # Lock order
//!
//! Faults run under the lock of the VMA or the mmap lock, both outside of everything that the
//! operations take; the locks of page tables are taken inside.

use super::{
    address_space::AddressSpace,
    bio::Segment,
    errno::{
        ehwpoison,
        eopnotsupp, //
    },
    memremap::{
        Folios,
        Frames,
        Mapping, //
    },
    platform,
    trace, //
};
use crate::{
    bindings,
    logic::{
        fault::Area,
        geometry::Pfn, //
    }, //
};
use core::{
    marker::PhantomData,
    num::NonZero,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_uint,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc, //
    },
    types::Opaque, //
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
    fn code(self) -> bindings::vm_fault_t {
        match self {
            FaultResult::NoPage => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            FaultResult::Fallback => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            FaultResult::Sigbus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            FaultResult::HwPoison => bindings::vm_fault_reason_VM_FAULT_HWPOISON,
            FaultResult::Oom => bindings::vm_fault_reason_VM_FAULT_OOM,
        }
    }

    fn of(code: bindings::vm_fault_t) -> Self {
        match code {
            bindings::vm_fault_reason_VM_FAULT_NOPAGE => FaultResult::NoPage,
            bindings::vm_fault_reason_VM_FAULT_FALLBACK => FaultResult::Fallback,
            bindings::vm_fault_reason_VM_FAULT_OOM => FaultResult::Oom,
            _ => FaultResult::Sigbus,
        }
    }
}

/// What a driver with mappings implements.
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// Answers a fault with entries of 2^`order` pages, or with [`FaultResult::Fallback`] if `order` is
    /// not 0. Context: may sleep; called concurrently, for one mapping as well.
    fn fault(&self, fault: &Fault<'_>, order: u32) -> FaultResult;

    /// Maps pages from user address `from` on with entries of one page, ahead of any access, as far
    /// as they are linear and in the page table that is there, and at most up to `to`. Gives the
    /// address up to which that is done. Context: may sleep, mmap lock held.
    ///
    /// # Errors
    ///
    /// `EHWPOISON`, `EFAULT` if not even one page can be mapped; `EAGAIN` without a page table;
    /// `ENOMEM`.
    fn populate(&self, vma: &DeviceVma<'_>, from: u64, to: u64, write: bool) -> Result<u64>;

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
    /// [`VmaDesc::map_frames`]: gives the one that it carries from now on. Context: may sleep, mmap
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

/// Which address space of a process: a number that is its own for as long as it has a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MmId(pub(super) usize);

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
                &Table::<T>::TRACKED.0
            } else {
                &Table::<T>::UNTRACKED.0
            },
        )
    }

    /// Makes it a mapping of folios, which can be pinned, with faults answered by the owner. Stores
    /// are not tracked; it carries `tag` as above. Its file offset is the page of the device that it
    /// starts at.
    pub(crate) fn map_folios(self, tag: usize) -> PreparedVma {
        // SAFETY: By the type invariants the pointer is valid and ours.
        unsafe { bindings::rpmem_helper_vma_desc_set_dontexpand(self.0) };
        self.finish(tag, &Table::<T>::FOLIOS.0)
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

/// The private data of a mapping: its owner, and a tag in the bits that the alignment of that leaves.
fn tagged<T>(owner: *const T, tag: usize) -> *mut c_void {
    owner
        .cast_mut()
        .cast::<u8>()
        .wrapping_add(tag & (align_of::<T>() - 1))
        .cast()
}

/// The owner in the private data of a mapping.
fn untagged<T>(private: *mut c_void) -> *const T {
    let tag = private as usize & (align_of::<T>() - 1);
    private.cast::<u8>().wrapping_sub(tag).cast_const().cast()
}

/// A mapping made by [`VmaDesc::map_frames`] or [`VmaDesc::map_folios`], while it cannot change.
///
/// # Invariants
///
/// The pointer is to such a mapping, and its lock or the mmap lock is held for `'a`.
pub(crate) struct DeviceVma<'a>(NonNull<bindings::vm_area_struct>, PhantomData<&'a ()>);

impl DeviceVma<'_> {
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
    fn is_writable(&self) -> bool {
        self.flags() & bindings::VM_WRITE as bindings::vm_flags_t != 0
    }

    /// Whether it is writable, or can become so.
    pub(crate) fn may_write(&self) -> bool {
        self.flags() & bindings::VM_MAYWRITE as bindings::vm_flags_t != 0
    }

    /// The tag that it carries, for an owner of type `T`.
    pub(crate) fn tag<T: Operations>(&self) -> usize {
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

/// A `struct vm_operations_struct` for a `static`.
struct Table<T>(bindings::vm_operations_struct, PhantomData<fn(T)>);

// SAFETY: The core reads the table and does not change it.
unsafe impl<T> Sync for Table<T> {}

impl<T: Operations> Table<T> {
    const UNTRACKED: &'static Self = &Self(Self::table(false), PhantomData);
    const TRACKED: &'static Self = &Self(Self::table(true), PhantomData);
    const FOLIOS: &'static Self = &Self(Self::table_of_folios(), PhantomData);

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
    unsafe fn owner_if_any<'a>(vma: NonNull<bindings::vm_area_struct>) -> Option<&'a T> {
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
    /// `vma` was made by [`VmaDesc::map_frames`] for `T`.
    unsafe fn owner<'a>(vma: *mut bindings::vm_area_struct) -> &'a T {
        // SAFETY: `map_frames` put a `T` there, which outlives the mapping.
        unsafe { &*untagged::<T>((*vma).vm_private_data) }
    }

    /// # Safety
    ///
    /// `vmf` is a fault in a mapping made by [`VmaDesc::map_frames`] for `T`.
    unsafe fn handle_fault(vmf: *mut bindings::vm_fault, order: u32) -> bindings::vm_fault_t {
        // SAFETY: Guaranteed by the caller.
        let vma = unsafe { (*vmf).__bindgen_anon_1.vma };
        let (Some(vmf), Some(area)) = (NonNull::new(vmf), NonNull::new(vma)) else {
            return FaultResult::Sigbus.code();
        };
        // INVARIANT: Guaranteed by the caller; a fault holds the lock of its VMA, or the mmap lock.
        let fault = Fault {
            vmf,
            vma: DeviceVma(area, PhantomData),
        };
        // SAFETY: Guaranteed by the caller.
        let owner = unsafe { Self::owner(vma) };
        owner.fault(&fault, order).code()
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
        // INVARIANT: As above; the mmap lock is held.
        let mapping = DeviceVma(vma, PhantomData);
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
        // INVARIANT: As above; its callers hold the mmap lock.
        let area = DeviceVma(vma, PhantomData).area();
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
        // SAFETY: `call_vma_mapped()` passes what `map_frames` has set, in a valid place.
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
            // INVARIANT: As above; nobody else knows the new mapping, or the mmap lock is held.
            let mapping = DeviceVma(vma, PhantomData);
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
            // INVARIANT: As above; nobody else can find the mapping any more.
            owner.closed(&DeviceVma(vma, PhantomData));
        }
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

/// Maps what `owner` has at the user addresses from `start` to `end` of the calling process, with
/// the largest entries that are possible, writable ones if `write`. Gives the address up to which
/// that is done, and why it stopped if that is not `end`.
///
/// # Errors
///
/// `ENOMEM` where nothing is mapped, or without memory for page tables; `EINVAL` where something else
/// is; `EFAULT` where an access would be refused, `EHWPOISON` on poison; `EINTR`; `EAGAIN` if entries
/// are taken away as fast as they are made. Context: may sleep; takes the mmap lock.
pub(crate) fn prefault<T: Operations>(
    owner: &T,
    start: u64,
    end: u64,
    write: bool,
) -> (u64, Result) {
    let task = kernel::current!();
    let Some(mm) = task.mm() else {
        return (start, Err(EFAULT));
    };
    let mut at = start;
    while at < end {
        match prefault_some(owner, mm, at, end, write) {
            Ok(done) => at += done.get(),
            Err(err) => return (at, Err(err)),
        }
    }
    (at.min(end), Ok(()))
}

/// Maps some entries from `at` on, as many as others can wait for who want the mmap lock for
/// themselves; gives how many bytes that was. What makes it stop is found again where it stopped.
fn prefault_some<T: Operations>(
    owner: &T,
    mm: &kernel::mm::MmWithUser,
    at: u64,
    end: u64,
    write: bool,
) -> Result<NonZero<u64>> {
    /// Times that an entry is made in vain.
    const TRIES: usize = 64;
    for _ in 0..TRIES {
        let to = prefault_locked(owner, mm, at, end, write)?;
        platform::cond_resched();
        if let Some(done) = to.checked_sub(at).and_then(NonZero::new) {
            return Ok(done);
        }
    }
    Err(EAGAIN)
}

/// As [`prefault_some`], once: gives the address up to which that is done, `at` if the first entry
/// is gone again already.
fn prefault_locked<T: Operations>(
    owner: &T,
    mm: &kernel::mm::MmWithUser,
    at: u64,
    end: u64,
    write: bool,
) -> Result<u64> {
    const STEPS: usize = 16;
    let guard = mm.mmap_read_lock();
    let vma = guard.vma_lookup(at as usize).ok_or(ENOMEM)?.as_ptr();
    let vma = NonNull::new(vma).ok_or(EINVAL)?;
    // SAFETY: The mmap lock is held, so the VMA is valid and does not change.
    match unsafe { Table::<T>::owner_if_any(vma) } {
        Some(other) if core::ptr::eq(other, owner) => (),
        _ => return Err(EINVAL),
    }
    // INVARIANT: The operations are those of `map_frames`, and the mmap lock is held.
    let vma = DeviceVma(vma, PhantomData);
    let stop = end.min(vma.area().end);
    let mut done = at;
    for _ in 0..STEPS {
        let step = if kernel::current!().signal_pending() {
            Err(EINTR)
        } else {
            prefault_step(owner, mm, &vma, done, end, write)
        };
        match step {
            Ok(next) if next != done => done = next,
            Err(err) if done == at => return Err(err),
            _ => break,
        }
        if done >= stop {
            break;
        }
    }
    Ok(done)
}

/// Maps one entry, or a run of small ones, at `at`; gives the address after it, or `at` if it is
/// gone again. `vma` is of `mm`, whose lock is held.
fn prefault_step<T: Operations>(
    owner: &T,
    mm: &kernel::mm::MmWithUser,
    vma: &DeviceVma<'_>,
    at: u64,
    end: u64,
    write: bool,
) -> Result<u64> {
    let mut flags = bindings::fault_flag_FAULT_FLAG_REMOTE;
    if write {
        flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
    }
    // SAFETY: By the type invariants of the mapping the lock is held. Without a place to say so the
    // fault does not drop it.
    to_result(unsafe {
        bindings::fixup_user_fault(mm.as_raw(), at as usize, flags, core::ptr::null_mut())
    })
    .map_err(|err| {
        // It does not tell poison from other reasons.
        if err == EFAULT && owner.is_poisoned(vma, at) {
            ehwpoison()
        } else {
            err
        }
    })?;
    // SAFETY: As above.
    let size = unsafe { bindings::rpmem_helper_entry_size(mm.as_raw(), at as usize, write) } as u64;
    if size == 0 {
        return Ok(at);
    }
    let next = (at | (size - 1)) + 1;
    if size != bindings::PAGE_SIZE as u64 {
        return Ok(next);
    }
    // There is a page table now, so that the rest of it takes no faults.
    let table = (at | (((bindings::PAGE_SIZE as u64) << PMD_ORDER) - 1)) + 1;
    let to = table.min(end).min(vma.area().end);
    if next >= to {
        return Ok(next);
    }
    // What cannot be mapped is found by the next fault.
    Ok(owner.populate(vma, next, to, write).unwrap_or(next))
}

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
        // INVARIANT: It is one of ours; the lock of the address space is held, so that the VMA stays
        // as it is.
        let area = DeviceVma(vma, PhantomData).area();
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
