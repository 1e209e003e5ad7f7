// SPDX-License-Identifier: GPL-2.0

//! Kernel mappings of physical memory that is not system RAM.
//!
//! C headers: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! [`include/linux/io.h`](srctree/include/linux/io.h)
//!
//! Staging module until it can move to `kernel::mm::memremap`.
//!
//! A [`Mapping`] is the owner's view of [`Memory`], for as long as the device is bound. What users of its
//! pages need after that is the [`Memory`] alone.
//!
//! # Examples
//!
//! The KUnit tests at the end of this file, on ranges without memory and on a `Ram` of `kunit.rs`.

use super::{
    address_space::AddressSpace,
    bio::{
        Bio,
        Segment, //
    },
    memory::{
        Backing,
        Hold,
        Memory,
        Remapped, //
    },
    pagemap::{
        all_folios,
        PageMapRange,
        PageUse,
        Pages, //
    },
    resource::MemRegion, //
};
use crate::{
    bindings,
    logic::geometry::Pfn, //
};
use core::ptr::NonNull;
use kernel::{
    device::{
        Core,
        Device, //
    },
    error::to_result,
    ffi::{
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc, //
};

/// What files of users' mappings are called.
const USERS: &CStr = c"[rpmem]";

/// A write-back mapping of a physical range into the kernel.
///
/// The bytes behind it may be changed at any time by others (user mappings, other bios), and
/// reading them may raise a machine check: so no Rust reference to them is ever made, and they are
/// accessed by the kernel's copy functions for persistent memory alone.
///
/// # Invariants
///
/// `addr` is valid for `len` bytes for as long as `memory` lives; physical address `phys` is there. Page
/// tables have entries of it only in `users`, and only while it lives: [`Frames`] are needed to make
/// them, which borrow it, and the drop of `memory` begins with taking them away.
pub(crate) struct Mapping {
    addr: NonNull<u8>,
    phys: u64,
    len: usize,
    /// log2 of the pages of a folio, if there are any for mappings of the device.
    folio_order: Option<u32>,
    /// That of `memory`, at hand for faults.
    users: Arc<AddressSpace>,
    memory: Arc<Memory>,
}

// SAFETY: The mapping is not tied to a thread; access goes through copy functions on raw memory.
unsafe impl Send for Mapping {}
// SAFETY: As above; concurrent copies may tear as they may on any shared medium, there are no
// references.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at physical address `phys`, without struct pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the range cannot be mapped. Context: may sleep.
    pub(crate) fn remap(phys: u64, len: usize) -> Result<Self> {
        let users = Arc::pin_init(AddressSpace::new(USERS), GFP_KERNEL)?;
        let (remapped, addr) = Remapped::new(phys, len)?;
        // INVARIANT: The address is valid for `len` bytes until `remapped` is dropped.
        Ok(Self {
            addr,
            phys,
            len,
            folio_order: None,
            users: users.clone(),
            memory: Memory::new(Backing::Remap { _addr: remapped }, users)?,
        })
    }

    /// Maps `range` with struct pages for `page_use`, on the NUMA node of `dev`; `data_phys` is the
    /// physical address of the first byte of the DAX device.
    ///
    /// # Errors
    ///
    /// See [`Pages::register`]. Context: may sleep, for long.
    pub(crate) fn pages(
        range: PageMapRange,
        page_use: PageUse,
        data_phys: u64,
        dev: &Device<Core<'_>>,
    ) -> Result<Self> {
        let (phys, len) = range.range();
        let len = usize::try_from(len)?;
        let (pages, addr) = Pages::register(range, page_use, data_phys, dev)?;
        let folio_order = pages.folio_order();
        let users = match folio_order {
            Some(_) => Arc::pin_init(AddressSpace::of_folios(USERS), GFP_KERNEL)?,
            None => Arc::pin_init(AddressSpace::new(USERS), GFP_KERNEL)?,
        };
        // INVARIANT: The address is valid for `len` bytes until `pages` is dropped.
        Ok(Self {
            addr,
            phys,
            len,
            folio_order,
            users: users.clone(),
            memory: Memory::new(Backing::Pages(pages), users)?,
        })
    }

    /// Whether the range has struct pages.
    pub(crate) fn has_pages(&self) -> bool {
        self.memory.pages().is_some()
    }

    /// log2 of the pages of the folios that mappings of the device can have; `None` if they are not
    /// for that.
    pub(crate) fn folio_order(&self) -> Option<u32> {
        self.folio_order
    }

    /// `pages` pages of the mapping, from `pfn` on, with their folios.
    ///
    /// # Errors
    ///
    /// `EIO` if they are not all in the mapping, or if that has no [`Mapping::folio_order`].
    pub(crate) fn folios(&self, pfn: Pfn, pages: u64) -> Result<Folios<'_>> {
        let order = self.folio_order.ok_or(EIO)?;
        // INVARIANT: Checked just now.
        Ok(Folios {
            frames: self.frames(pfn, pages)?,
            order,
        })
    }

    /// Where users can map it, and nowhere else.
    pub(crate) fn users(&self) -> &Arc<AddressSpace> {
        &self.users
    }

    /// What there is of it until its last user has gone.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Keeps the claim on its physical range until its last user has gone.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it has one.
    pub(crate) fn keep_claim(&self, claim: MemRegion) -> Result {
        if self.memory.keep_claim(claim) {
            Ok(())
        } else {
            Err(EBUSY)
        }
    }

    /// The address at which the kernel has its first byte.
    pub(super) fn start(&self) -> *const c_void {
        self.addr.as_ptr().cast_const().cast()
    }

    /// Says who is told of memory failures in the pages. To take a holder back, clear it with null
    /// and wait for a grace period of `dax_srcu` before it is freed.
    ///
    /// # Safety
    ///
    /// `holder` is null, or valid until it has been cleared and a grace period has passed.
    pub(super) unsafe fn set_holder(&self, holder: *mut bindings::dax_device) {
        if let Some(pages) = self.memory.pages() {
            // SAFETY: Guaranteed by the caller.
            unsafe { pages.set_holder(holder) };
        }
    }

    fn at(&self, offset: usize, len: usize) -> Result<NonNull<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(EIO);
        }
        // SAFETY: By the type invariants the mapping is valid for `self.len` bytes.
        Ok(unsafe { self.addr.add(offset) })
    }

    /// The kernel address of the byte at `offset`, at which `len` bytes are mapped: for C code that
    /// does its own copying. Valid for as long as `self` lives.
    ///
    /// # Errors
    ///
    /// `EIO` if the range is not all in the mapping.
    pub(crate) fn address(&self, offset: usize, len: usize) -> Result<NonNull<c_void>> {
        Ok(self.at(offset, len)?.cast())
    }

    /// Keeps `len` bytes at `offset` where they are, for as long as the result lives. Not after the
    /// memory was given up.
    ///
    /// # Errors
    ///
    /// `EIO` if the range is not all in the mapping.
    pub(crate) fn hold(&self, offset: usize, len: usize) -> Result<Hold> {
        let addr = self.address(offset, len)?;
        // SAFETY: The address is that of bytes in the mapping.
        Ok(unsafe { self.memory.hold(addr) })
    }

    /// `pages` page frames of the mapping, from `pfn` on.
    ///
    /// # Errors
    ///
    /// `EIO` if they are not all in the mapping.
    pub(crate) fn frames(&self, pfn: Pfn, pages: u64) -> Result<Frames<'_>> {
        let offset = (pfn.0 << bindings::PAGE_SHIFT).wrapping_sub(self.phys);
        let len = pages.checked_mul(bindings::PAGE_SIZE as u64).ok_or(EIO)?;
        let addr = self.at(usize::try_from(offset)?, usize::try_from(len)?)?;
        // INVARIANT: Checked just now.
        Ok(Frames {
            first: pfn,
            pages,
            addr,
            users: &self.users,
        })
    }

    /// Stores the segment at `offset`, past the CPU caches: durable after the region's flush.
    ///
    /// # Errors
    ///
    /// `EIO` if it does not all fit in the mapping.
    pub(crate) fn write(&self, offset: usize, from: &Segment<'_>) -> Result {
        let to = self.at(offset, from.len())?.as_ptr();
        // SAFETY: `to` is valid for writes of the segment's length, checked by `at`; the segment is
        // valid for reads.
        unsafe {
            bindings::rpmem_helper_memcpy_flushcache(to.cast(), from.as_ptr().cast(), from.len())
        };
        Ok(())
    }

    /// Carries out all of `bio` from `offset` on, as [`Mapping::read`] and [`Mapping::write`] do.
    ///
    /// # Errors
    ///
    /// `EIO` on a machine check, or if it does not all fit in the mapping.
    pub(crate) fn transfer(&self, offset: usize, bio: &Bio) -> Result {
        let start = self.at(offset, bio.len())?.as_ptr();
        let write = bio.is_write();
        bio.for_each_segment(|done, segment| {
            // SAFETY: The pieces of a bio are as long as that in sum, so that each of them is in the
            // range that `at` has checked; the segment is valid for reads and writes.
            let left = unsafe {
                let medium = start.add(done);
                let (memory, len) = (segment.as_ptr(), segment.len());
                if write {
                    bindings::rpmem_helper_memcpy_flushcache(medium.cast(), memory.cast(), len);
                    0
                } else {
                    bindings::rpmem_helper_copy_mc_to_kernel(memory.cast(), medium.cast(), len)
                }
            };
            if left == 0 {
                Ok(())
            } else {
                Err(EIO)
            }
        })
    }

    /// Stores zeroes in one page at `offset`, past the CPU caches.
    ///
    /// # Errors
    ///
    /// `EIO` if the page is not all in the mapping.
    pub(crate) fn zero_page(&self, offset: usize) -> Result {
        let to = self.at(offset, bindings::PAGE_SIZE)?.as_ptr();
        // SAFETY: `to` is valid for writes of a page, checked by `at`; the zero page is one page
        // long.
        unsafe {
            bindings::rpmem_helper_memcpy_flushcache(
                to.cast(),
                bindings::rpmem_helper_zero_page(),
                bindings::PAGE_SIZE,
            )
        };
        Ok(())
    }

    /// Fills the segment from `offset` on; survives machine checks.
    ///
    /// # Errors
    ///
    /// `EIO` on a machine check, or if the range is not all in the mapping.
    pub(crate) fn read(&self, offset: usize, to: &Segment<'_>) -> Result {
        let from = self.at(offset, to.len())?.as_ptr();
        // SAFETY: `from` is valid for reads of the segment's length, checked by `at`; the segment
        // is valid for writes.
        let left = unsafe {
            bindings::rpmem_helper_copy_mc_to_kernel(to.as_ptr().cast(), from.cast(), to.len())
        };
        if left == 0 {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// Copies from `iter` to `offset`, past the CPU caches; gives the number of bytes copied.
    ///
    /// # Safety
    ///
    /// `iter` is a valid source iterator over memory that was checked by its maker.
    pub(super) unsafe fn write_iter(
        &self,
        offset: usize,
        len: usize,
        iter: *mut bindings::iov_iter,
    ) -> Result<usize> {
        let to = self.at(offset, len)?.as_ptr();
        // SAFETY: `to` is valid for writes of `len` bytes, checked by `at`; `iter` by the caller.
        Ok(unsafe { bindings::_copy_from_iter_flushcache(to.cast(), len, iter) })
    }

    /// Where in the mapping a kernel address is, as an offset in bytes; `None` if it is not in it.
    pub(super) fn offset_of(&self, addr: *mut c_void) -> Option<usize> {
        let offset = (addr as usize).checked_sub(self.addr.as_ptr() as usize)?;
        (offset < self.len).then_some(offset)
    }

    /// After poison in `len` bytes at `offset`, physical address `phys`, was cleared: lets the kernel
    /// reach the pages again, and drops stale cache lines. `phys` and `offset` are of the same byte.
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `EIO` if the range is not all in the mapping; those of `clear_mce_nospec()`.
    pub(crate) fn poison_cleared(&self, offset: usize, phys: u64, len: usize) -> Result {
        let addr = self.at(offset, len)?.as_ptr();
        if self.is_linear() {
            // A machine check takes the very page out of the map, whichever is marked for it, and it
            // does so after that one was: only the page itself tells. For one that is there nothing
            // happens. A part of it will do: what is stored next has to arrive.
            let end = (phys + len as u64).div_ceil(bindings::PAGE_SIZE as u64);
            for pfn in phys >> bindings::PAGE_SHIFT..end {
                // SAFETY: The page is in the mapping, which is in the linear map: that is what the
                // function changes.
                to_result(unsafe { bindings::rpmem_helper_clear_mce_nospec(pfn as c_ulong) })?;
            }
        }
        // SAFETY: `addr` is valid for `len` bytes, checked by `at`.
        unsafe { bindings::arch_invalidate_pmem(addr.cast(), len) };
        Ok(())
    }

    /// After `len` bytes at `offset` have left the list of what is bad: takes the mark of a memory
    /// failure off the pages that have nothing bad left. `is_bad` says whether anything in a range
    /// is: offset and length in bytes.
    pub(crate) fn poison_forgotten(
        &self,
        offset: usize,
        len: usize,
        is_bad: impl Fn(usize, usize) -> bool,
    ) {
        let Some(pages) = self.memory.pages() else {
            return;
        };
        pages.clear_hwpoison(self.phys + offset as u64, len, |phys, len| {
            // In the mapping, as its pages are.
            is_bad(phys.wrapping_sub(self.phys) as usize, len)
        });
    }

    /// Whether it is in the kernel's linear map, from which a machine check takes pages: with struct
    /// pages it is, but for the memory that stands for NVDIMMs in `tests/nfit`.
    fn is_linear(&self) -> bool {
        if !self.has_pages() {
            return false;
        }
        // SAFETY: No conditions.
        !unsafe { bindings::is_vmalloc_addr(self.start()) }
    }
}

/// Page frames that are mapped into the kernel, at `addr`, write-back, for the lifetime `'a`: mappings of
/// them by users have that cache mode as well.
///
/// # Invariants
///
/// As it says.
#[derive(Clone, Copy)]
pub(crate) struct Frames<'a> {
    first: Pfn,
    pages: u64,
    addr: NonNull<u8>,
    users: &'a AddressSpace,
}

impl<'a> Frames<'a> {
    /// Where users may have entries of them; those are taken away when `'a` is over.
    pub(super) fn users(&self) -> &'a AddressSpace {
        self.users
    }

    /// The first frame.
    pub(super) fn first(&self) -> Pfn {
        self.first
    }

    /// How many there are.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Has CPUs that will be let fetch instructions from them fetch what was stored there.
    pub(super) fn sync_instructions(&self) {
        let len = self.pages as usize * bindings::PAGE_SIZE;
        if bindings::SYNCS_INSTRUCTIONS {
            // SAFETY: By the type invariants the frames are mapped there.
            unsafe { bindings::rpmem_helper_sync_instructions(self.addr.as_ptr().cast(), len) };
        }
    }
}

/// Pages in folios that are for mappings of the device, for the lifetime `'a`.
///
/// # Invariants
///
/// As it says; the folios are of 2^`order` pages each.
#[derive(Clone, Copy)]
pub(crate) struct Folios<'a> {
    frames: Frames<'a>,
    order: u32,
}

impl Folios<'_> {
    /// Their frames.
    pub(super) fn frames(&self) -> &Frames<'_> {
        &self.frames
    }

    /// log2 of the pages of each folio.
    pub(crate) fn order(&self) -> u32 {
        self.order
    }

    /// Whether anybody may have pinned one of them, or is about to.
    pub(crate) fn are_pinned(&self) -> bool {
        let first = self.frames.first.0;
        !all_folios(first..first + self.frames.pages, |folio| {
            // SAFETY: By the type invariants the folio is of pages in a pagemap.
            !unsafe { bindings::rpmem_helper_folio_maybe_dma_pinned(folio) }
        })
    }
}

#[kernel::macros::kunit_tests(rpmem_memremap)]
mod tests {
    use super::*;
    use crate::abstractions::deferred_drop::Withdraw;
    use crate::abstractions::kunit::{
        claim_nothing,
        with_iter,
        with_segment,
        Ram,
        TestDevice,
        Trace,
        RAM_SIZE, //
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn addresses_are_those_of_the_mapping() -> Result {
        let ram = Ram::new(0)?;
        let mapping = ram.map()?;
        assert!(!mapping.has_pages());
        let at = |offset, len| mapping.address(offset, len).map(|addr| addr.as_ptr());
        assert_eq!(at(0, RAM_SIZE), Ok(ram.at(0)));
        assert_eq!(at(4096, RAM_SIZE - 4096), Ok(ram.at(4096)));
        assert_eq!(at(RAM_SIZE - 1, 1), Ok(ram.at(RAM_SIZE - 1)));
        assert!(at(RAM_SIZE, 0).is_ok());
        for (offset, len) in [
            (0, RAM_SIZE + 1),
            (1, RAM_SIZE),
            (RAM_SIZE, 1),
            (RAM_SIZE + 1, 0),
            (usize::MAX, 2),
            (2, usize::MAX),
            (usize::MAX, usize::MAX),
        ] {
            assert_eq!(at(offset, len), Err(EIO));
        }
        Ok(())
    }

    #[test]
    fn offsets_are_those_of_the_mapping() -> Result {
        let ram = Ram::new(0)?;
        let mapping = ram.map()?;
        assert_eq!(mapping.offset_of(ram.at(0)), Some(0));
        assert_eq!(mapping.offset_of(ram.at(5001)), Some(5001));
        assert_eq!(mapping.offset_of(ram.at(RAM_SIZE - 1)), Some(RAM_SIZE - 1));
        let base = ram.at(0);
        assert_eq!(mapping.offset_of(base.wrapping_byte_add(RAM_SIZE)), None);
        assert_eq!(mapping.offset_of(base.wrapping_byte_sub(1)), None);
        assert_eq!(mapping.offset_of(core::ptr::null_mut()), None);
        Ok(())
    }

    #[test]
    fn bytes_go_where_they_belong() -> Result {
        let (medium, memory) = (Ram::new(0x11)?, Ram::new(0x22)?);
        let mapping = medium.map()?;
        with_segment(&memory, 0, 700, |segment| mapping.write(4000, &segment))?;
        assert!(medium.is(4000, 4700, 0x22));
        assert!(medium.is(0, 4000, 0x11) && medium.is(4700, RAM_SIZE, 0x11));
        with_segment(&memory, 8192, 512, |segment| mapping.read(3900, &segment))?;
        assert!(memory.is(8192, 8292, 0x11) && memory.is(8292, 8704, 0x22));
        mapping.zero_page(4096)?;
        assert!(medium.is(4000, 4096, 0x22) && medium.is(4096, 8192, 0));
        assert!(medium.is(8192, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn nothing_is_copied_across_the_end() -> Result {
        let (medium, memory) = (Ram::new(0x11)?, Ram::new(0x22)?);
        let mapping = medium.map()?;
        let (at, len) = (RAM_SIZE - 100, 101);
        let write = |segment: Segment<'_>| mapping.write(at, &segment);
        assert_eq!(with_segment(&memory, 0, len, write), Err(EIO));
        let read = |segment: Segment<'_>| mapping.read(at, &segment);
        assert_eq!(with_segment(&memory, 0, len, read), Err(EIO));
        assert_eq!(mapping.zero_page(RAM_SIZE - 4095), Err(EIO));
        assert_eq!(mapping.poison_cleared(at, medium.phys(), len), Err(EIO));
        // SAFETY: The iterator is valid.
        let iter = with_iter(&memory, len, |iter| unsafe {
            mapping.write_iter(at, len, iter)
        });
        assert_eq!(iter, Err(EIO));
        assert!(medium.is(0, RAM_SIZE, 0x11) && memory.is(0, RAM_SIZE, 0x22));
        Ok(())
    }

    #[test]
    fn an_iterator_gives_what_it_has() -> Result {
        let (medium, memory) = (Ram::new(0x11)?, Ram::new(0x22)?);
        let mapping = medium.map()?;
        // SAFETY: The iterator is valid.
        let iter = with_iter(&memory, 100, |iter| unsafe {
            mapping.write_iter(50, 4096, iter)
        });
        assert_eq!(iter, Ok(100));
        assert!(medium.is(50, 150, 0x22));
        assert!(medium.is(0, 50, 0x11) && medium.is(150, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn a_range_without_memory_is_mapped_and_unmapped() -> Result {
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(MIB, dev.name())?;
        let mapping = Mapping::remap(start, MIB as usize)?;
        assert!(!mapping.has_pages());
        let (trace, ()) = Trace::of(|| drop(mapping))?;
        assert!(trace.is(&[c"memunmap"]));
        Ok(())
    }

    #[test]
    fn what_is_held_stays_mapped() -> Result {
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(MIB, dev.name())?;
        let mapping = Mapping::remap(start, MIB as usize)?;
        let holds = [mapping.hold(0, 4096)?, mapping.hold(4096, 4096)?];
        let addresses = [mapping.address(0, 1)?, mapping.address(4096, 1)?];
        assert_eq!(holds.each_ref().map(Hold::address), addresses);
        assert_eq!(mapping.hold(4096, MIB as usize).err(), Some(EIO));
        let memory = mapping.memory().clone();
        let (trace, ()) = Trace::of(|| {
            drop(mapping);
            for hold in holds {
                assert!(!Withdraw::withdraw(&memory));
                drop(hold);
            }
        })?;
        assert!(trace.is(&[]));
        assert!(Withdraw::withdraw(&memory));
        let (trace, ()) = Trace::of(|| drop(memory))?;
        assert!(trace.is(&[c"memunmap"]));
        Ok(())
    }

    /// Maps the range twice with struct pages: what the first left behind would stop the second.
    #[test]
    fn a_range_gets_struct_pages_and_loses_them() -> Result {
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(4 * MIB, dev.name())?;
        for _ in 0..2 {
            let range = PageMapRange::new(start, start + 4 * MIB - 1);
            let mapping = Mapping::pages(range, PageUse::FsDax, start + MIB, dev.core())?;
            assert!(mapping.has_pages());
            assert_eq!(mapping.len as u64, 4 * MIB);
            let (trace, ()) = Trace::of(|| drop(mapping))?;
            assert!(trace.is(&[c"memunmap_pages"]));
        }
        Ok(())
    }

    #[test]
    fn a_range_gets_folios_and_loses_them() -> Result {
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(8 * MIB, dev.name())?;
        let (pfn, pages) = (Pfn(start >> 12), 8 * MIB >> 12);
        for order in [0, 9] {
            let range = PageMapRange::new(start, start + 8 * MIB - 1);
            let mapping = Mapping::pages(range, PageUse::Generic(order), start, dev.core())?;
            assert_eq!(mapping.folio_order(), Some(order));
            let folios = mapping.folios(pfn, pages)?;
            assert_eq!(folios.order(), order);
            assert!(mapping.folios(pfn, pages + 1).is_err());
            let mut count = 0;
            all_folios(pfn.0 + 3..pfn.0 + pages, |folio| {
                // SAFETY: The folio is of pages in the pagemap.
                assert_eq!(unsafe { bindings::rpmem_helper_folio_ref_count(folio) }, 1);
                count += 1;
                true
            });
            assert_eq!(
                count,
                if order == 0 {
                    pages - 3
                } else {
                    pages >> order
                }
            );
            assert!(!folios.are_pinned());
        }
        // Those for files have none.
        let range = PageMapRange::new(start, start + 8 * MIB - 1);
        let mapping = Mapping::pages(range, PageUse::FsDax, start, dev.core())?;
        assert_eq!(mapping.folio_order(), None);
        assert_eq!(mapping.folios(pfn, 1).err(), Some(EIO));
        Ok(())
    }

    /// Pages 5 and 9 of two megabytes fail, and are repaired one after the other.
    #[test]
    fn a_repaired_page_is_mapped_and_the_last_one_takes_the_mark() -> Result {
        const PAGE: usize = bindings::PAGE_SIZE;
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(8 * MIB, dev.name())?;
        let first = ((start + 2 * MIB) >> bindings::PAGE_SHIFT) as c_ulong;
        for (page_use, large) in [
            (PageUse::FsDax, false),
            (PageUse::FsDax, true),
            (PageUse::Generic(0), false),
            (PageUse::Generic(9), true),
        ] {
            let range = PageMapRange::new(start, start + 8 * MIB - 1);
            let mapping = Mapping::pages(range, page_use, start + 2 * MIB, dev.core())?;
            let mark = |page: c_ulong| first + if large { 0 } else { page };
            // SAFETY: The pages are in the pagemap, and the linear map has them.
            let (fail, is_marked, is_mapped) = unsafe {
                (
                    |page| bindings::rpmem_kunit_fail_page(first + page, mark(page)),
                    |page| bindings::rpmem_kunit_is_marked(mark(page)),
                    |page| bindings::rpmem_kunit_is_mapped(first + page),
                )
            };
            assert_eq!((fail(5), fail(9)), (0, 0));
            assert!(!is_mapped(5) && is_mapped(6) && !is_mapped(9));
            let at = |page| 2 * MIB as usize + page * PAGE;
            let repair = |page: usize, bad: Option<usize>| -> Result {
                let phys = start + at(page) as u64;
                mapping.poison_cleared(at(page) + 512, phys + 512, 512)?;
                mapping.poison_forgotten(at(page) + 512, 512, |from, len| {
                    bad.is_some_and(|bad| (from..from + len).contains(&at(bad)))
                });
                Ok(())
            };
            repair(5, Some(9))?;
            assert!(is_mapped(5) && !is_mapped(9));
            assert_eq!((is_marked(5), is_marked(9)), (large, true));
            repair(9, Some(9))?;
            assert!(is_mapped(9) && is_marked(9));
            repair(9, None)?;
            assert!(is_mapped(9) && !is_marked(5) && !is_marked(9));
            // What is not marked, and there, stays so; so does what is beside the data.
            mapping.poison_cleared(at(9), start + at(9) as u64, 3 * PAGE)?;
            mapping.poison_forgotten(8 * MIB as usize - PAGE, PAGE, |_, _| false);
            assert_eq!(
                mapping.poison_cleared(8 * MIB as usize, start, PAGE),
                Err(EIO)
            );
        }
        Ok(())
    }
}
