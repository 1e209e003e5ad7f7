// SPDX-License-Identifier: GPL-2.0

//! Struct pages for physical memory that is not system RAM.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h)
//!
//! Staging module until it can move to `kernel::mm::memremap`.
//!
//! Nothing is device-managed: the driver core frees a Rust driver's data before devres runs
//! (`device_unbind_cleanup()`), so that a `struct dev_pagemap` in that data would be used after it
//! is freed.
//!
//! # Lock order
//!
//! `memory_failure` of the pagemap runs under `mf_mutex` and takes `dax_srcu` (read).
//! [`Pages::set_holder`] is a plain store; who clears it waits for `dax_srcu` (`kill_dax()`)
//! before the holder goes.
//!
//! # Examples
//!
//! The KUnit tests at the end of this file and of `memremap.rs`.

use super::{
    errno::eopnotsupp,
    hibernation::Hindrance,
    numa_node,
    platform,
    withdrawal::{
        File,
        MemoryUser,
        Withdrawal, //
    }, //
};
use crate::bindings;
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    device::{
        Core,
        Device, //
    },
    error::from_err_ptr,
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
    types::Opaque, //
};

/// What a range with struct pages is made from.
pub(crate) struct PageMapRange(bindings::dev_pagemap);

impl PageMapRange {
    /// Pages for the physical addresses from `first` to `last` (inclusive), in system memory.
    pub(crate) fn new(first: u64, last: u64) -> Self {
        let mut this = Self::empty();
        this.0.nr_range = 1;
        // SAFETY: The union holds plain integers only; writing makes the range its valid member.
        *unsafe { this.0.__bindgen_anon_1.range.as_mut() } = bindings::range {
            start: first,
            end: last,
        };
        this
    }

    /// For libnvdimm to describe range and altmap in ([`super::nd_namespace::RawAccess::setup_pfn`]).
    pub(super) fn empty() -> Self {
        // SAFETY: All-zero bytes are a valid `struct dev_pagemap`: integers, null pointers, no
        // callbacks.
        Self(unsafe { core::mem::zeroed() })
    }

    /// The C structure.
    pub(super) fn as_mut_ptr(&mut self) -> *mut bindings::dev_pagemap {
        &mut self.0
    }

    /// First physical address and length in bytes.
    pub(crate) fn range(&self) -> (u64, u64) {
        // SAFETY: The union is zeroed or holds a range (`nr_range` is 1): plain integers in any
        // case.
        let range = unsafe { self.0.__bindgen_anon_1.range.as_ref() };
        (range.start, (range.end - range.start).saturating_add(1))
    }

    /// Whether the pages are on the medium itself.
    pub(crate) fn on_medium(&self) -> bool {
        self.0.flags & bindings::PGMAP_ALTMAP_VALID != 0
    }

    /// The same range with its pages in system memory. Where they would be on the medium, nothing is
    /// written; what is there has a struct page as well.
    pub(crate) fn in_system_memory(mut self) -> Self {
        self.0.flags &= !bindings::PGMAP_ALTMAP_VALID;
        self
    }
}

/// What the struct pages of a range are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageUse {
    /// Files of a file system: MEMORY_DEVICE_FS_DAX.
    FsDax,
    /// Mappings of the device, in folios of 2^`.0` pages: MEMORY_DEVICE_GENERIC.
    Generic(u32),
}

/// A `struct dev_pagemap` with what its callback needs.
#[pin_data]
struct PageMap {
    #[pin]
    pgmap: Opaque<bindings::dev_pagemap>,
    /// Who is told of memory failures, or null.
    holder: Atomic<*mut bindings::dax_device>,
    /// Physical address of the first byte of the DAX device.
    data_phys: u64,
    page_use: PageUse,
    /// Its struct pages are on the medium.
    _hindrance: Option<Hindrance>,
}

impl PageMap {
    const OPS: bindings::dev_pagemap_ops = bindings::dev_pagemap_ops {
        memory_failure: Some(Self::memory_failure_callback),
        ..pin_init::zeroed()
    };

    /// The pages of the device. Those in front of the data hold the page map itself and may not have
    /// a struct page.
    fn pages(&self) -> Range<u64> {
        // SAFETY: The union holds a range: plain integers.
        let end = unsafe { (*self.pgmap.get()).__bindgen_anon_1.range.as_ref() }.end;
        self.data_phys >> bindings::PAGE_SHIFT..(end >> bindings::PAGE_SHIFT) + 1
    }

    /// log2 of the pages, of which the first one is marked for a memory failure in any of them: those
    /// of a folio (`mf_generic_kill_procs()`), and for files those of an entry, which may have been
    /// cut since (`mf_dax_kill_procs()`).
    fn marked_orders(&self) -> impl Iterator<Item = u32> {
        let orders = match self.page_use {
            PageUse::FsDax => [Some(0), Some(bindings::RPMEM_PMD_ORDER)],
            PageUse::Generic(order) => [Some(order), None],
        };
        orders.into_iter().flatten()
    }

    /// # Safety
    ///
    /// For `memory_failure_dev_pagemap()` only: `pgmap` is the one of a live `PageMap`, and the
    /// pages are in it.
    unsafe extern "C" fn memory_failure_callback(
        pgmap: *mut bindings::dev_pagemap,
        pfn: c_ulong,
        nr_pages: c_ulong,
        mf_flags: c_int,
    ) -> c_int {
        // SAFETY: `memory_failure_dev_pagemap()` holds a reference to a live pagemap with these
        // ops, and those are all in a `PageMap`.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(pgmap), Self, pgmap) };
        let phys = (pfn as u64) << bindings::PAGE_SHIFT;
        let len = (nr_pages as u64) << bindings::PAGE_SHIFT;
        let Some(offset) = phys.checked_sub(this.data_phys) else {
            // The page map on the medium itself has failed; no file is in it.
            return eopnotsupp().to_errno();
        };

        // SAFETY: No conditions.
        let id = unsafe { bindings::dax_read_lock() };
        let holder = this.holder.load(Acquire);
        let ret = if holder.is_null() {
            eopnotsupp().to_errno()
        } else {
            // SAFETY: The holder is valid until a grace period of `dax_srcu`, which we hold for
            // reading, has passed since it was cleared.
            unsafe { bindings::dax_holder_notify_failure(holder, offset, len, mf_flags) }
        };
        // SAFETY: `id` is from `dax_read_lock()`.
        unsafe { bindings::dax_read_unlock(id) };
        ret
    }
}

/// Registered pages: `memremap_pages()`. Nobody uses them any more when this is dropped.
///
/// # Invariants
///
/// The pagemap is registered.
pub(super) struct Pages(Pin<KBox<PageMap>>);

impl Pages {
    /// Maps `range` with struct pages for `page_use`, on the NUMA node of `dev`: gives the kernel's address of
    /// it, which is valid until the pages are dropped. `data_phys` is the physical address of the first byte of
    /// the DAX device.
    ///
    /// # Errors
    ///
    /// Those of `memremap_pages()`: `ENOMEM`, `EINVAL` for a range that overlaps memory or is
    /// misaligned; `EBUSY` while the system hibernates, for pages on the medium. Context: may sleep, for long.
    pub(super) fn register(
        range: PageMapRange,
        page_use: PageUse,
        data_phys: u64,
        dev: &Device<Core<'_>>,
    ) -> Result<(Self, NonNull<u8>)> {
        let hindrance = range.on_medium().then(Hindrance::new).transpose();
        let hindrance = hindrance.inspect_err(|_| {
            dev_err!(dev, "the system is about to hibernate: bind it later\n");
        })?;
        let mut raw = range.0;
        raw.type_ = match page_use {
            PageUse::FsDax => bindings::memory_type_MEMORY_DEVICE_FS_DAX,
            PageUse::Generic(order) => {
                raw.vmemmap_shift = order as c_ulong;
                bindings::memory_type_MEMORY_DEVICE_GENERIC
            }
        };
        raw.ops = &PageMap::OPS;

        let map = KBox::pin_init(
            try_pin_init!(PageMap {
                pgmap: Opaque::new(raw),
                holder: Atomic::new(core::ptr::null_mut()),
                data_phys,
                page_use,
                _hindrance: hindrance,
            }),
            GFP_KERNEL,
        )?;
        let ptr = map.pgmap.get();
        // SAFETY: `ptr` is valid, and not shared yet. Any address of our own serves to tell owners
        // apart.
        unsafe { (*ptr).owner = ptr.cast() };
        // SAFETY: `ptr` is pinned and stays valid until `memunmap_pages()`.
        let addr = from_err_ptr(unsafe { bindings::memremap_pages(ptr, numa_node(dev)) })?;
        // INVARIANT: Registered just now.
        let this = Self(map);
        Ok((this, NonNull::new(addr.cast()).ok_or(ENOMEM)?))
    }

    /// The first page of the device, as a pfn.
    pub(super) fn first(&self) -> u64 {
        self.0.pages().start
    }

    /// log2 of the pages of the folios that mappings of the device can have; `None` if the pages are not
    /// for that.
    pub(super) fn folio_order(&self) -> Option<u32> {
        match self.0.page_use {
            PageUse::Generic(order) => Some(order),
            PageUse::FsDax => None,
        }
    }

    /// See [`super::memremap::Mapping::set_holder`].
    ///
    /// # Safety
    ///
    /// As there.
    pub(super) unsafe fn set_holder(&self, holder: *mut bindings::dax_device) {
        self.0.holder.store(holder, Release);
    }

    /// Takes the pages from its users, as far as that takes no wait for them, from `withdrawal.next` on:
    /// `Ok` if none is left. `memunmap_pages()` does not: user page tables and files would go on
    /// referring to struct pages that are gone. Context: may sleep.
    ///
    /// No new references come up: nothing is mapped, and faults fail, as the DAX device is dead.
    pub(super) fn withdraw(&self, withdrawal: &mut Withdrawal) -> Result<(), MemoryUser> {
        let end = self.0.pages().end;
        while withdrawal.next < end {
            // SAFETY: The page is in the pagemap, which is registered: it has a struct page.
            let (folio, pages) = unsafe {
                let page = bindings::rpmem_helper_pfn_to_page(withdrawal.next as c_ulong);
                let folio = bindings::rpmem_helper_page_folio(page);
                (folio, bindings::rpmem_helper_folio_nr_pages(folio) as u64)
            };
            match self.0.page_use {
                PageUse::Generic(_) => Self::withdraw_folio(folio)?,
                PageUse::FsDax => self.withdraw_from_file(folio, withdrawal)?,
            }
            withdrawal.next = (withdrawal.next | (pages - 1)) + 1;
            platform::cond_resched();
        }
        Ok(())
    }

    /// Takes a folio off the address space that it was mapped from, unless it is pinned.
    fn withdraw_folio(folio: *mut bindings::folio) -> Result<(), MemoryUser> {
        // SAFETY: The folio is of pages in the pagemap, which have one reference when nobody uses them
        // (`__init_zone_device_page()`).
        if unsafe { bindings::rpmem_helper_folio_ref_count(folio) } > 1 {
            return Err(MemoryUser::Pin);
        }
        // SAFETY: As above; nobody else has a reference.
        unsafe { bindings::rpmem_helper_folio_clear_mapping(folio) };
        Ok(())
    }

    /// Takes all pages out of the file that a folio is of, unless one is pinned.
    fn withdraw_from_file(
        &self,
        folio: *mut bindings::folio,
        withdrawal: &mut Withdrawal,
    ) -> Result<(), MemoryUser> {
        if let Some(pfn) = withdrawal.pinned {
            // SAFETY: The page is in the pagemap.
            let pinned = unsafe {
                let page = bindings::rpmem_helper_pfn_to_page(pfn as c_ulong);
                bindings::rpmem_helper_folio_ref_count(bindings::rpmem_helper_page_folio(page)) != 0
            };
            if pinned {
                return Err(MemoryUser::Pin);
            }
            withdrawal.pinned = None;
        }
        let Some(file) = File::of(folio)? else {
            return Ok(());
        };
        if let Some(page) = file.take_pages() {
            withdrawal.keep(file);
            // SAFETY: A page of a file has a pfn.
            let pfn = unsafe { bindings::rpmem_helper_page_to_pfn(page) } as u64;
            withdrawal.pinned = self.0.pages().contains(&pfn).then_some(pfn);
            return Err(MemoryUser::Pin);
        }
        withdrawal.let_go(file);
        // The entries of the file are gone. Else it is not as we think: it is looked at again later.
        match File::of(folio)? {
            None => Ok(()),
            Some(file) => {
                withdrawal.let_go(file);
                Err(MemoryUser::Other)
            }
        }
    }

    /// Keeps the files that have pinned pages, in `withdrawal`: nobody waits for their pins who has them
    /// evicted. Takes all pages out of page tables. Context: may sleep.
    pub(super) fn keep_pinned_files(&self, withdrawal: &mut Withdrawal) {
        if self.0.page_use != PageUse::FsDax {
            return;
        }
        all_folios(self.0.pages(), |folio| {
            // SAFETY: The folio is of pages in the pagemap.
            let (in_use, mapping) = unsafe {
                (
                    bindings::rpmem_helper_folio_ref_count(folio) != 0,
                    bindings::rpmem_helper_folio_mapping(folio),
                )
            };
            if !in_use || withdrawal.has(mapping) {
                return true;
            }
            if let Ok(Some(file)) = File::of(folio) {
                if file.pinned_page().is_some() {
                    withdrawal.keep(file);
                } else {
                    withdrawal.let_go(file);
                }
            }
            true
        });
    }

    /// After `len` bytes at physical address `phys` have left the list of what is bad: takes the mark of a
    /// memory failure off the pages that have nothing bad left. `is_bad` says whether anything in a range is:
    /// physical address and length in bytes.
    pub(super) fn clear_hwpoison(
        &self,
        phys: u64,
        len: usize,
        is_bad: impl Fn(u64, usize) -> bool,
    ) {
        let end = (phys + len as u64).div_ceil(bindings::PAGE_SIZE as u64);
        for pfn in phys >> bindings::PAGE_SHIFT..end {
            for order in self.0.marked_orders() {
                // The first of the pages of a folio or an entry is marked for all of them.
                let first = pfn >> order << order;
                let whole = first..first + (1 << order);
                if !(self.0.pages().start <= whole.start && whole.end <= self.0.pages().end) {
                    continue;
                }
                if is_bad(first << bindings::PAGE_SHIFT, bindings::PAGE_SIZE << order) {
                    continue;
                }
                // SAFETY: The page is in the pagemap, which is registered.
                unsafe {
                    let page = bindings::rpmem_helper_pfn_to_page(first as c_ulong);
                    bindings::rpmem_helper_test_and_clear_hwpoison(page);
                }
            }
        }
    }
}

impl Drop for Pages {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the pagemap is registered.
        unsafe { bindings::memunmap_pages(self.0.pgmap.get()) }
    }
}

/// Calls `f` with each folio among `pages`, which are in the pagemap, until that gives `false`.
pub(super) fn all_folios(
    pages: Range<u64>,
    mut f: impl FnMut(*mut bindings::folio) -> bool,
) -> bool {
    let mut pfn = pages.start;
    while pfn < pages.end {
        // SAFETY: The page is in the pagemap, which is registered: it has a struct page.
        let (folio, next) = unsafe {
            let page = bindings::rpmem_helper_pfn_to_page(pfn as c_ulong);
            let folio = bindings::rpmem_helper_page_folio(page);
            let len = bindings::rpmem_helper_folio_nr_pages(folio) as u64;
            (folio, (pfn | (len - 1)) + 1)
        };
        if !f(folio) {
            return false;
        }
        platform::cond_resched();
        pfn = next;
    }
    true
}

#[kernel::macros::kunit_tests(rpmem_pagemap)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        claim_nothing,
        TestDevice, //
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn ranges_say_what_they_are() {
        let range = PageMapRange::new(0x4000_0000, 0x403f_ffff);
        assert_eq!(range.range(), (0x4000_0000, 0x40_0000));
        assert!(!range.on_medium());
        assert_eq!(range.0.nr_range, 1);
        let mut range = PageMapRange::new(0, u64::MAX);
        // The length does not fit in 64 bits.
        assert_eq!(range.range(), (0, u64::MAX));
        // SAFETY: The structure is valid.
        unsafe { (*range.as_mut_ptr()).flags |= bindings::PGMAP_ALTMAP_VALID };
        assert!(range.on_medium());
        assert!(!range.in_system_memory().on_medium());
    }

    #[test]
    fn failures_without_a_holder_are_nobodys() -> Result {
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(4 * MIB, dev.name())?;
        let range = PageMapRange::new(start, start + 4 * MIB - 1);
        let pages = Pages::register(range, PageUse::FsDax, start + MIB, dev.core())?.0;
        for phys in [start, start + MIB, start + 3 * MIB] {
            let pfn = (phys >> bindings::PAGE_SHIFT) as c_ulong;
            // SAFETY: The pagemap is live, and the page is in it.
            let ret = unsafe { PageMap::memory_failure_callback(pages.0.pgmap.get(), pfn, 1, 0) };
            assert_eq!(ret, eopnotsupp().to_errno());
        }
        Ok(())
    }

    #[test]
    fn a_refused_pagemap_leaves_nothing_behind() -> Result {
        let dev = TestDevice::new()?;
        // Beyond what any x86 can address.
        let start = 1 << 53;
        let range = || PageMapRange::new(start, start + 4 * MIB - 1);
        for _ in 0..2 {
            let pages = Pages::register(range(), PageUse::FsDax, start, dev.core());
            assert_eq!(pages.err(), Some(EINVAL));
        }
        Ok(())
    }
}
