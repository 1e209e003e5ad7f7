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

use super::{
    address_space::AddressSpace,
    memremap::{
        Folios,
        Frames, //
    }, //
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

/// What happened to a fault: as the core has it, so that nothing is translated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FaultResult(bindings::vm_fault_t);

impl FaultResult {
    /// The access can go on.
    pub(crate) const NO_PAGE: Self = Self(bindings::vm_fault_reason_VM_FAULT_NOPAGE);
    /// No entry of this size.
    pub(crate) const FALLBACK: Self = Self(bindings::vm_fault_reason_VM_FAULT_FALLBACK);
    /// SIGBUS, BUS_ADRERR.
    pub(crate) const SIGBUS: Self = Self(bindings::vm_fault_reason_VM_FAULT_SIGBUS);
    /// SIGBUS, BUS_MCEERR_AR, for one page.
    pub(crate) const HWPOISON: Self = Self(bindings::vm_fault_reason_VM_FAULT_HWPOISON);
    /// No memory for page tables.
    pub(crate) const OOM: Self = Self(bindings::vm_fault_reason_VM_FAULT_OOM);

    /// The C value.
    pub(super) fn code(self) -> bindings::vm_fault_t {
        self.0
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
#[derive(Clone, Copy)]
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

    /// Has instructions in these be what its users fetch, if it may fetch any. The core does that for
    /// pages, not for what is special.
    fn sync_instructions(&self, frames: &Frames<'_>) {
        if self.flags() & bindings::VM_EXEC as bindings::vm_flags_t != 0 {
            frames.sync_instructions();
        }
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
        frames.users().as_raw() == space
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
    /// With `marks` there is a mark for each page, or one for all of them, from before its entry until that
    /// can have been unmapped: who takes a mark away and unmaps the page then has seen all stores to it.
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
            _ => return (FaultResult::SIGBUS, 0),
        };
        let pages = frames.pages().min(room);
        if marks.is_some_and(|marks| !marks.are_for(pages)) {
            return (FaultResult::SIGBUS, 0);
        }
        let marks = marks.map(|marks| marks.to_raw());
        self.sync_instructions(&frames);
        // SAFETY: By the type invariants the VMA is locked and one of page frames; the range is in it
        // and in one page table, that of the fault if there is one. The frames are memory that is
        // mapped write-back while they are borrowed, and their entries are taken away from this
        // address space when that ends. There are as many marks as pages, checked above, and all
        // accesses to them are atomic.
        let done = unsafe {
            bindings::rpmem_helper_insert_pfns(
                self.0.as_ptr(),
                self.fault_near(address, near),
                address as usize,
                frames.first().0 as usize,
                pages as usize,
                write,
                marks
                    .as_ref()
                    .map_or(core::ptr::null(), core::ptr::from_ref),
            )
        };
        if done {
            return (FaultResult::NO_PAGE, pages);
        }
        frames.users().wait_for_move();
        (FaultResult::NO_PAGE, 0)
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
            _ => return (FaultResult::SIGBUS, 0),
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
        (FaultResult(code), done as u64)
    }
}

impl<'a> DeviceVma<'a> {
    /// Answers stores if `write`, or loads, from user address `from` up to `to` with entries of a PMD: `answer`
    /// does, as it would a fault at the first page of each. That ends where it makes none, at the end of the
    /// mapping, and where there is no table of such entries. Gives the address up to which it is done.
    /// Context: may sleep, mmap lock held.
    pub(super) fn populate_huge(
        &self,
        from: u64,
        to: u64,
        write: bool,
        answer: impl for<'b> Fn(Fault<'b>) -> FaultResult,
    ) -> u64 {
        let huge = (bindings::PAGE_SIZE as u64) << PMD_ORDER;
        let table = (bindings::PAGE_SIZE as u64) << PUD_ORDER;
        let area = self.area();
        let to = to.min(area.end).min((from | (table - 1)).saturating_add(1));
        if from < area.start || from & (huge - 1) != 0 {
            return from;
        }
        // SAFETY: By the type invariants the VMA is locked; the address is in it.
        let mut pmd = unsafe { bindings::rpmem_helper_find_pmd(self.0.as_ptr(), from as usize) };
        let mut at = from;
        while !pmd.is_null() && to.saturating_sub(at) >= huge {
            let mut vmf: bindings::vm_fault = pin_init::zeroed();
            vmf.__bindgen_anon_1.vma = self.0.as_ptr();
            vmf.__bindgen_anon_1.address = at as usize;
            vmf.pmd = pmd;
            if write {
                vmf.flags = bindings::fault_flag_FAULT_FLAG_WRITE;
            }
            // SAFETY: All that `Fault` and what makes entries of a PMD look at is there: the VMA, which is
            // locked, an address in it, and the place of the entry. It is there for as long as `answer` runs.
            let fault = unsafe { Fault::from_raw(NonNull::from(&mut vmf), *self) };
            if answer(fault) != FaultResult::NO_PAGE {
                break;
            }
            // SAFETY: Tables of PMDs stay while the VMA is locked, and this is a place in one.
            if !unsafe { bindings::rpmem_helper_is_huge(pmd) } {
                break;
            }
            at += huge;
            pmd = pmd.wrapping_add(1);
        }
        at
    }
}

/// Where stores to pages are remembered.
#[derive(Clone, Copy)]
pub(crate) struct Marks<'a> {
    /// The bits.
    pub(crate) bits: &'a [Atomic<u64>],
    /// The bit of the first page.
    pub(crate) first: u64,
    /// Whether there is one bit for all pages, instead of one for each.
    pub(crate) is_one: bool,
    /// Becomes 1 when a bit is set, after it.
    pub(crate) any: &'a Atomic<i32>,
}

impl Marks<'_> {
    /// Whether there are that many, in what there is of bits.
    fn are_for(&self, pages: u64) -> bool {
        let marks = if self.is_one { 1 } else { pages };
        self.bits.len() as u64 * 64 >= self.first.saturating_add(marks)
    }

    fn to_raw(self) -> bindings::rpmem_marks {
        bindings::rpmem_marks {
            bits: self.bits.as_ptr().cast_mut().cast(),
            first: self.first as usize,
            step: usize::from(!self.is_one),
            any: self.any.as_ptr(),
        }
    }
}

/// The page tables near the place of a fault, that has none.
pub(crate) struct TablesNear {
    /// A bit for each place that has one, which is for this mapping alone, and which is its own.
    pub(crate) tables: u64,
    /// The place of the fault.
    pub(crate) at: u32,
    /// The place where the 32 begin that it is one of.
    pub(crate) block: u32,
    /// The user address of the first place.
    first: u64,
}

/// A page fault.
///
/// # Invariants
///
/// The pointer is to a fault in progress in `vma`, or to what is like one, see [`DeviceVma::populate_huge`].
#[derive(Clone, Copy)]
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
    #[inline(always)]
    fn is_whole(&self, frames: &Frames<'_>, order: u32) -> bool {
        let pages = 1u64 << order;
        frames.pages() == pages && frames.first().0 & (pages - 1) == 0 && self.vma.takes(frames)
    }

    /// The page tables near its place, which has none and is about to get one.
    pub(crate) fn tables_near(&self) -> TablesNear {
        let mut first = 0;
        // SAFETY: By the type invariants this is a fault in a VMA, which is locked.
        let tables = unsafe { bindings::rpmem_helper_tables_near(self.vmf.as_ptr(), &mut first) };
        let first = first as u64;
        let number = |address: u64| address >> (bindings::PAGE_SHIFT + PMD_ORDER);
        let at = (number(self.address()) - number(first)) as u32;
        TablesNear {
            tables,
            at,
            block: at.saturating_sub((number(self.address()) % 32) as u32),
            first,
        }
    }

    /// Gives the place of this fault the page table of another place: what was mapped there loses its
    /// entries. `space` is the one that the mapping is in. Gives whether that could be. Context: may sleep.
    pub(crate) fn move_table(&self, space: &AddressSpace, near: &TablesNear, from: u32) -> bool {
        // SAFETY: By the type invariants the mapping has a file.
        let own = unsafe { (*(*self.vma.0.as_ptr()).vm_file).f_mapping };
        if !core::ptr::eq(space.as_raw(), own)
            || near.tables.checked_shr(from).is_none_or(|t| t & 1 == 0)
        {
            return false;
        }
        let from = near.first + (u64::from(from) << (bindings::PAGE_SHIFT + PMD_ORDER));
        let _guard = space.exclude_unmap();
        // SAFETY: By the type invariants this is a fault in a VMA, which is locked; `TablesNear` is of
        // places in the table of PMDs that this is in, and those with page tables lie in the VMA. Nobody
        // unmaps, or moves another one.
        unsafe { bindings::rpmem_helper_move_table(self.vmf.as_ptr(), from as usize) }
    }

    /// How many of `pages` pages from user address `address` on have been stored to since they got their
    /// entries, as far as the page table tells: that of this fault, where they are. The bits in `which` say
    /// which of them count.
    pub(crate) fn count_dirty(&self, address: u64, which: &[u64; 8], pages: u64) -> u64 {
        let same_table = |at: u64| (at ^ self.address()) >> (bindings::PAGE_SHIFT + PMD_ORDER) == 0;
        let last = address + (pages.max(1) - 1) * bindings::PAGE_SIZE as u64;
        if pages > 512 || !same_table(address) || !same_table(last) {
            return 0;
        }
        // SAFETY: By the type invariants this is a fault in a VMA, which is locked; the pages are in its
        // page table, checked above, and there is a bit for each.
        unsafe {
            bindings::rpmem_helper_count_dirty(
                self.vmf.as_ptr(),
                address as usize,
                which.as_ptr().cast(),
                pages as usize,
            ) as u64
        }
    }

    /// Maps `frames` with one entry of 2^`order` pages. Fails with [`FaultResult::FALLBACK`] for any
    /// other than the orders of PMD and PUD. Context: may sleep.
    #[inline(always)]
    pub(crate) fn insert_huge(&self, frames: Frames<'_>, order: u32, write: bool) -> FaultResult {
        let Some(users) = self.takes_huge(&frames, order) else {
            return FaultResult::FALLBACK;
        };
        match order {
            PMD_ORDER => self.insert_pmd(users, &frames, write, core::ptr::null()),
            PUD_ORDER => {
                let _guard = users.exclude_unmap();
                let (pfn, vmf) = (frames.first().0 as usize, self.vmf.as_ptr());
                // SAFETY: As in `insert_pmd`; nobody unmaps in this address space meanwhile.
                FaultResult(unsafe { bindings::rpmem_helper_insert_pud(vmf, pfn, write) })
            }
            _ => FaultResult::FALLBACK,
        }
    }

    /// The same for the order of PMD alone. With `mark`, that is there from before the entry until it can have
    /// been unmapped.
    pub(crate) fn insert_marked(
        &self,
        frames: Frames<'_>,
        order: u32,
        write: bool,
        mark: Option<Marks<'_>>,
    ) -> FaultResult {
        let Some(users) = self.takes_huge(&frames, order) else {
            return FaultResult::FALLBACK;
        };
        if order != PMD_ORDER || mark.is_some_and(|mark| !mark.is_one || !mark.are_for(1)) {
            return FaultResult::FALLBACK;
        }
        match mark.map(|mark| mark.to_raw()) {
            Some(mark) => self.insert_pmd(users, &frames, write, &mark),
            None => self.insert_pmd(users, &frames, write, core::ptr::null()),
        }
    }

    /// Where the entries of `frames` are, if one of 2^`order` pages can be for all of them; instructions in them
    /// are then what its users fetch.
    #[inline(always)]
    fn takes_huge<'b>(&self, frames: &Frames<'b>, order: u32) -> Option<&'b AddressSpace> {
        if self.vma.has_folios() || !self.is_whole(frames, order) {
            return None;
        }
        self.vma.sync_instructions(frames);
        Some(frames.users())
    }

    /// `mark` is null, or one whose bit is there.
    #[inline(always)]
    fn insert_pmd(
        &self,
        users: &AddressSpace,
        frames: &Frames<'_>,
        write: bool,
        mark: *const bindings::rpmem_marks,
    ) -> FaultResult {
        let (pfn, vmf) = (frames.first().0 as usize, self.vmf.as_ptr());
        // SAFETY: By the type invariants this is a fault in a VMA, which is locked, of page frames, as
        // `takes_huge` has seen; the frame is aligned, and memory that is mapped write-back while it is
        // borrowed, and its entries are taken away from this address space when that ends. That
        // the entry lies in the VMA follows from the core's call of `->huge_fault` for it. All accesses to the
        // mark are atomic.
        let code = unsafe { bindings::rpmem_helper_insert_pmd(vmf, pfn, write, mark) };
        if code == bindings::vm_fault_reason_VM_FAULT_RETRY {
            users.wait_for_move();
            return FaultResult::NO_PAGE;
        }
        FaultResult(code)
    }

    /// Maps a folio of 2^`order` pages with one entry. Fails with [`FaultResult::FALLBACK`] if `folios`
    /// is not one of that order, or for any other than that of PMD: the core mistakes an entry of
    /// 1 GiB for a damaged table if it comes while MADV_DONTNEED looks (see `address_space.rs`), which nobody
    /// can forbid, and mremap(2) does so always.
    #[inline(always)]
    pub(crate) fn insert_folio(&self, folios: Folios<'_>, order: u32, write: bool) -> FaultResult {
        if order != PMD_ORDER
            || folios.order() != order
            || !self.vma.has_folios()
            || !self.is_whole(folios.frames(), order)
        {
            return FaultResult::FALLBACK;
        }
        let pfn = folios.frames().first().0;
        // SAFETY: By the type invariants this is a fault in a VMA of folios, which is locked; that
        // the entry lies in the VMA follows from the core's call of `->huge_fault` for it. The
        // folio is there while it is borrowed, and loses its entries when that ends.
        FaultResult(unsafe {
            bindings::rpmem_helper_insert_folio(self.vmf.as_ptr(), pfn as usize, write)
        })
    }
}
