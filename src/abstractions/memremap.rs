// SPDX-License-Identifier: GPL-2.0

//! Kernel mappings of physical memory that is not system RAM.
//!
//! C headers: [`include/linux/memremap.h`](srctree/include/linux/memremap.h),
//! [`include/linux/io.h`](srctree/include/linux/io.h),
//! [`include/linux/ioport.h`](srctree/include/linux/ioport.h)
//!
//! Staging module until it can move to `kernel::mm::memremap`.
//!
//! Nothing here refers to a device, which can go before the last user of a page does. Nothing is
//! device-managed: the driver core frees a Rust driver's data before devres runs
//! (`device_unbind_cleanup()`), so that a `struct dev_pagemap` in that data would be used after it
//! is freed.
//!
//! # Lock order
//!
//! `memory_failure` of the pagemap runs under `mf_mutex` and takes `dax_srcu` (read).
//! [`Mapping::set_holder`] is a plain store; who clears it waits for `dax_srcu` (`kill_dax()`)
//! before the holder goes.

use super::{
    address_space::AddressSpace, //
    block::{
        node,
        Bio,
        Segment, //
    },
    deferred_drop::Withdraw,
    errno::eopnotsupp,
    hibernation::Hindrance,
    platform,
};
use crate::{
    bindings,
    logic::geometry::Pfn, //
};
use core::{
    ops::Range,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    new_mutex,
    prelude::*,
    str::CString,
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
    },
    types::Opaque, //
};

/// An exclusive claim on a physical range in `/proc/iomem`. It can outlive the device whose name it
/// bears.
///
/// # Invariants
///
/// The range was taken by `request_mem_region()`, with `_name`.
pub(crate) struct MemRegion {
    start: u64,
    len: u64,
    _name: CString,
}

impl MemRegion {
    /// Takes `len` bytes at physical address `start`, as `name`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if anybody has a part of it; `ENOMEM`. Context: may sleep.
    pub(crate) fn request(start: u64, len: u64, name: &CStr) -> Result<Self> {
        let name = CString::try_from(name)?;
        // SAFETY: The name is a string, which does not move and lives as long as the result.
        let res =
            unsafe { bindings::rpmem_helper_request_mem_region(start, len, name.as_char_ptr()) };
        if res.is_null() {
            return Err(EBUSY);
        }
        // INVARIANT: Withdrawal just now.
        Ok(Self {
            start,
            len,
            _name: name,
        })
    }
}

impl Drop for MemRegion {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the range is ours.
        unsafe { bindings::rpmem_helper_release_mem_region(self.start, self.len) };
    }
}

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

    /// For libnvdimm to describe range and altmap in ([`super::nd::RawAccess::setup_pfn`]).
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
}

/// What the struct pages of a range are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageUse {
    /// Files of a file system: MEMORY_DEVICE_FS_DAX.
    FsDax,
    /// Mappings of the device, in folios of 2^`.0` pages: MEMORY_DEVICE_GENERIC.
    Generic(u32),
}

/// A registered `struct dev_pagemap`.
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

    /// Calls `f` with each folio among `pages`, which are in the pagemap, until that gives `false`.
    fn all_folios(pages: Range<u64>, mut f: impl FnMut(*mut bindings::folio) -> bool) -> bool {
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

    /// Takes the pages from its users, as far as that takes no wait for them, from `withdrawal.next` on:
    /// `Ok` if none is left. `memunmap_pages()` does not: user page tables and files would go on
    /// referring to struct pages that are gone. Context: may sleep.
    ///
    /// No new references come up: nothing is mapped, and faults fail, as the DAX device is dead.
    fn withdraw(&self, withdrawal: &mut Withdrawal) -> Result<(), MemoryUser> {
        let end = self.pages().end;
        while withdrawal.next < end {
            // SAFETY: The page is in the pagemap, which is registered: it has a struct page.
            let (folio, pages) = unsafe {
                let page = bindings::rpmem_helper_pfn_to_page(withdrawal.next as c_ulong);
                let folio = bindings::rpmem_helper_page_folio(page);
                (folio, bindings::rpmem_helper_folio_nr_pages(folio) as u64)
            };
            match self.page_use {
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
            withdrawal.pinned = self.pages().contains(&pfn).then_some(pfn);
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
    fn keep_pinned_files(&self, withdrawal: &mut Withdrawal) {
        if self.page_use != PageUse::FsDax {
            return;
        }
        Self::all_folios(self.pages(), |folio| {
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

/// Who still uses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemoryUser {
    /// A module that has a [`Hold`].
    Module,
    /// Somebody who has pinned it, or another one of its file.
    Pin,
    /// A file that cannot be told from the page.
    Other,
}

/// An active reference to a super block: it is not shut down by an unmount.
///
/// # Invariants
///
/// The reference is ours.
struct SuperBlock(NonNull<bindings::super_block>);

// SAFETY: The reference is not tied to a thread.
unsafe impl Send for SuperBlock {}

impl SuperBlock {
    /// Lets go of it, unless it is the last one, which unmounts the file system.
    fn let_go(self) -> Result<(), Self> {
        // SAFETY: By the type invariants the reference is ours.
        if unsafe { bindings::rpmem_helper_super_put_unless_last(self.0.as_ptr()) } {
            core::mem::forget(self);
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl Drop for SuperBlock {
    /// Context: may sleep, and unmounts if it is the last one, which waits for pins: no locks.
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::deactivate_super(self.0.as_ptr()) };
    }
}

/// A reference to the inode of a file with DAX pages. It goes before that to its super block.
///
/// # Invariants
///
/// The reference is ours.
struct Inode(NonNull<bindings::inode>);

// SAFETY: The reference is not tied to a thread.
unsafe impl Send for Inode {}

impl Drop for Inode {
    /// Context: may sleep, and for the last reference waits for pins of the file.
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::iput(self.0.as_ptr()) };
    }
}

/// A file with DAX pages, and its file system. Fields are dropped in this order.
struct File {
    inode: Inode,
    sb: SuperBlock,
}

impl File {
    /// The one that a folio is of; `None` if nobody uses that.
    ///
    /// # Errors
    ///
    /// [`MemoryUser::Other`] if there is a user that cannot be told.
    fn of(folio: *mut bindings::folio) -> Result<Option<Self>, MemoryUser> {
        let guard = kernel::sync::rcu::read_lock();
        // SAFETY: The folio is of pages in the pagemap.
        let mapping = unsafe { bindings::rpmem_helper_folio_mapping(folio) };
        if !mapping.is_null() {
            // SAFETY: A folio is taken off its mapping before the inode that this belongs to is freed,
            // and inodes are freed after an RCU grace period, as are super blocks after them.
            let (inode, sb) = unsafe {
                let inode = (*mapping).host;
                (inode, (*inode).i_sb)
            };
            // The super block first: an inode that is held when the last active reference has gone is
            // in the way of the unmount.
            //
            // SAFETY: As above.
            if !unsafe { bindings::rpmem_helper_super_get(sb) } {
                return Err(MemoryUser::Other);
            }
            // SAFETY: As above; an inode without users is not given.
            let inode = NonNull::new(unsafe { bindings::igrab(inode) });
            drop(guard);
            // INVARIANT: Got just now.
            let sb = SuperBlock(NonNull::new(sb).ok_or(MemoryUser::Other)?);
            // If there is none, it is being evicted, and its pages with it.
            //
            // INVARIANT: As above.
            let inode = Inode(inode.ok_or(MemoryUser::Other)?);
            return Ok(Some(Self { inode, sb }));
        }
        drop(guard);
        // A page that several files share (reflink) does not say which; they let go of it when they
        // are evicted, as idle ones were when the disk went.
        //
        // SAFETY: The folio is of pages in the pagemap.
        let in_use = unsafe {
            bindings::rpmem_helper_folio_share(folio) != 0
                || bindings::rpmem_helper_folio_ref_count(folio) != 0
        };
        if in_use {
            Err(MemoryUser::Other)
        } else {
            Ok(None)
        }
    }

    fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants the inode is valid.
        unsafe { (*self.inode.0.as_ptr()).i_mapping }
    }

    /// Takes the pages of the file out of page tables; gives one that is pinned.
    fn pinned_page(&self) -> Option<*mut bindings::page> {
        let mapping = self.mapping();
        // Faults hold this lock shared from before they translate until their entry is in the page
        // tables (`filemap_invalidate_lock_shared()`), so that none is under way.
        //
        // SAFETY: The lock is part of the inode, which is valid by the type invariants.
        let page = unsafe {
            let lock = &raw mut (*mapping).invalidate_lock;
            bindings::down_write(lock);
            let page = bindings::dax_layout_busy_page_range(mapping, 0, i64::MAX);
            bindings::up_write(lock);
            page
        };
        (!page.is_null()).then_some(page)
    }

    /// Takes the pages out of page tables and out of the file, unless one is pinned: gives that.
    fn take_pages(&self) -> Option<*mut bindings::page> {
        if let Some(page) = self.pinned_page() {
            return Some(page);
        }
        let (inode, mapping) = (self.inode.0.as_ptr(), self.mapping());
        // What is pinned by now stays, and is found at the next look.
        //
        // SAFETY: As above. Without a callback this does not wait.
        unsafe {
            let lock = &raw mut (*mapping).invalidate_lock;
            bindings::down_write(lock);
            let _ = bindings::dax_break_layout(inode, 0, i64::MAX, None);
            bindings::up_write(lock);
        }
        None
    }
}

/// How far the pages have been taken from their users.
struct Withdrawal {
    /// No page in front of it is used; a pfn.
    next: u64,
    /// A pinned page of the file that the one at `next` is of; a pfn.
    pinned: Option<u64>,
    /// Held until nobody uses a page.
    files: KVec<File>,
    /// Those that are unmounted then.
    unmounted: KVec<SuperBlock>,
    /// MemoryUser page tables have been cleared.
    unmapped: bool,
}

impl Withdrawal {
    /// Keeps a file that has pinned pages.
    fn keep(&mut self, file: File) {
        if self.has(file.mapping()) {
            return self.let_go(file);
        }
        // Without memory, who evicts it waits.
        let _ = self.files.push(file, GFP_KERNEL);
    }

    fn has(&self, mapping: *mut bindings::address_space) -> bool {
        self.files.iter().any(|file| file.mapping() == mapping)
    }

    /// Lets go of a file that has no pinned pages or is kept, but does not unmount its file system.
    fn let_go(&mut self, file: File) {
        let File { inode, sb } = file;
        drop(inode);
        if let Err(sb) = sb.let_go() {
            let _ = self.unmounted.push(sb, GFP_KERNEL);
        }
    }

    /// Whether all that is held can be let go of without a wait.
    fn holds_nothing(&self) -> bool {
        self.files.is_empty() && self.unmounted.is_empty()
    }
}

/// How a range is mapped into the kernel. Nobody uses it any more when this is dropped.
enum Backing {
    /// `memremap()`, at that address: no struct pages.
    Remap(NonNull<u8>),
    /// `memremap_pages()`.
    Pages(Pin<KBox<PageMap>>),
}

impl Drop for Backing {
    fn drop(&mut self) {
        match self {
            // SAFETY: The address is from `memremap()`.
            Backing::Remap(addr) => unsafe { bindings::memunmap(addr.as_ptr().cast()) },
            // SAFETY: The pagemap was registered by `memremap_pages()`.
            Backing::Pages(map) => unsafe { bindings::memunmap_pages(map.pgmap.get()) },
        }
    }
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
/// [`Mapping`] when its device has gone.
///
/// It refers to no device.
#[pin_data(PinnedDrop)]
pub(crate) struct Memory {
    backing: Backing,
    /// Where users have mapped it. Pages refer to it for as long as they are pinned.
    users: SetOnce<Arc<AddressSpace>>,
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
    fn new(backing: Backing) -> Result<Arc<Self>> {
        let next = match &backing {
            Backing::Remap(_) => 0,
            Backing::Pages(map) => map.pages().start,
        };
        let holds = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                backing,
                users: SetOnce::new(),
                claim: SetOnce::new(),
                holds,
                withdrawal <- new_mutex!(Withdrawal {
                    next,
                    pinned: None,
                    files: KVec::new(),
                    unmounted: KVec::new(),
                    unmapped: false,
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// Keeps the files that have pinned pages until nobody has: before the disk goes, which has idle
    /// files evicted, and that waits for pins. The DAX device is dead. Context: may sleep.
    pub(crate) fn keep_pinned_files(&self) {
        if let Backing::Pages(map) = &self.backing {
            map.keep_pinned_files(&mut self.withdrawal.lock());
        }
    }

    fn withdraw(&self) -> Result<(), (MemoryUser, u64)> {
        let mut withdrawal = self.withdrawal.lock();
        if !withdrawal.unmapped {
            if let Some(users) = self.users.as_ref() {
                users.unmap_all();
            }
            withdrawal.unmapped = true;
        }
        // First of all: who has a hold may make new references to pages. There are no new holds
        // ([`Mapping::hold`]).
        if self.holds.load(Acquire) != 0 {
            return Err((MemoryUser::Module, withdrawal.next));
        }
        if let Backing::Pages(map) = &self.backing {
            map.withdraw(&mut withdrawal)
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
        let held = (
            core::mem::take(&mut withdrawal.files),
            core::mem::take(&mut withdrawal.unmounted),
        );
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
    /// Those of `memory`, at hand for faults.
    users: SetOnce<Arc<AddressSpace>>,
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
        // SAFETY: No conditions; the function refuses ranges that it cannot map.
        let addr = unsafe { bindings::memremap(phys, len, bindings::ARCH_MEMREMAP_PMEM) };
        let addr = NonNull::new(addr.cast()).ok_or(ENOMEM)?;
        // INVARIANT: `memremap()` gives an address valid for `len` bytes until `memunmap()`.
        Ok(Self {
            addr,
            phys,
            len,
            users: SetOnce::new(),
            memory: Memory::new(Backing::Remap(addr))?,
        })
    }

    /// Maps `range` with struct pages for `page_use`, on the NUMA node of `dev`; `data_phys` is the
    /// physical address of the first byte of the DAX device.
    ///
    /// # Errors
    ///
    /// Those of `memremap_pages()`: `ENOMEM`, `EINVAL` for a range that overlaps memory or is
    /// misaligned. Context: may sleep, for long.
    pub(crate) fn pages(
        range: PageMapRange,
        page_use: PageUse,
        data_phys: u64,
        dev: &kernel::device::Device<kernel::device::Core<'_>>,
    ) -> Result<Self> {
        let (phys, len) = range.range();
        let len = usize::try_from(len)?;
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
        let addr = from_err_ptr(unsafe { bindings::memremap_pages(ptr, node(dev)) })?;
        // INVARIANT: `memremap_pages()` gives the address of the range, valid until
        // `memunmap_pages()`.
        Ok(Self {
            addr: NonNull::new(addr.cast()).ok_or(ENOMEM)?,
            phys,
            len,
            users: SetOnce::new(),
            memory: Memory::new(Backing::Pages(map))?,
        })
    }

    /// Whether the range has struct pages.
    pub(crate) fn has_pages(&self) -> bool {
        matches!(self.memory.backing, Backing::Pages(_))
    }

    /// log2 of the pages of the folios that mappings of the device can have; `None` if they are not
    /// for that.
    pub(crate) fn folio_order(&self) -> Option<u32> {
        match &self.memory.backing {
            Backing::Pages(map) => match map.page_use {
                PageUse::Generic(order) => Some(order),
                PageUse::FsDax => None,
            },
            Backing::Remap(_) => None,
        }
    }

    /// `pages` pages of the mapping, from `pfn` on, with their folios.
    ///
    /// # Errors
    ///
    /// `EIO` if they are not all in the mapping, or if that has no [`Mapping::folio_order`].
    pub(crate) fn folios(&self, pfn: Pfn, pages: u64) -> Result<Folios<'_>> {
        let order = self.folio_order().ok_or(EIO)?;
        // INVARIANT: Checked just now.
        Ok(Folios {
            frames: self.frames(pfn, pages)?,
            order,
        })
    }

    /// Lets users map it, in `space` alone.
    ///
    /// # Errors
    ///
    /// `EBUSY` if they can do so in another one.
    pub(crate) fn set_users(&self, space: Arc<AddressSpace>) -> Result {
        if self.memory.users.populate(space.clone()) && self.users.populate(space) {
            Ok(())
        } else {
            Err(EBUSY)
        }
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
        if self.memory.claim.populate(claim) {
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
        if let Backing::Pages(map) = &self.memory.backing {
            map.holder.store(holder, Release);
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
        let count = self.memory.holds.clone();
        // The caller has `self`: whoever lets go of that says so to the one who looks at the count.
        count.fetch_add(1, Relaxed);
        // INVARIANT: Counted just now; the address is that of bytes in the mapping.
        Ok(Hold { addr, count })
    }

    /// `pages` page frames of the mapping, from `pfn` on.
    ///
    /// # Errors
    ///
    /// `EIO` if they are not all in the mapping.
    pub(crate) fn frames(&self, pfn: Pfn, pages: u64) -> Result<Frames<'_>> {
        let offset = (pfn.0 << bindings::PAGE_SHIFT).wrapping_sub(self.phys);
        let len = pages.checked_mul(bindings::PAGE_SIZE as u64).ok_or(EIO)?;
        self.at(usize::try_from(offset)?, usize::try_from(len)?)?;
        // INVARIANT: Checked just now.
        Ok(Frames {
            first: pfn,
            pages,
            users: self.users.as_ref().map(|space| &**space),
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
        let Backing::Pages(map) = &self.memory.backing else {
            return;
        };
        let phys = self.phys + offset as u64;
        let end = (phys + len as u64).div_ceil(bindings::PAGE_SIZE as u64);
        for pfn in phys >> bindings::PAGE_SHIFT..end {
            for order in map.marked_orders() {
                // The first of the pages of a folio or an entry is marked for all of them.
                let first = pfn >> order << order;
                let whole = first..first + (1 << order);
                if !(map.pages().start <= whole.start && whole.end <= map.pages().end) {
                    continue;
                }
                // In the mapping, as its pages are.
                let start = (first << bindings::PAGE_SHIFT).wrapping_sub(self.phys) as usize;
                if is_bad(start, bindings::PAGE_SIZE << order) {
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

/// Page frames that are mapped into the kernel, write-back, for the lifetime `'a`: mappings of them
/// by users have that cache mode as well.
///
/// # Invariants
///
/// As it says.
#[derive(Clone, Copy)]
pub(crate) struct Frames<'a> {
    first: Pfn,
    pages: u64,
    users: Option<&'a AddressSpace>,
}

impl<'a> Frames<'a> {
    /// Where users may have entries of them, if anywhere; those are taken away when `'a` is over.
    pub(super) fn users(&self) -> Option<&'a AddressSpace> {
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
        !PageMap::all_folios(first..first + self.frames.pages, |folio| {
            // SAFETY: By the type invariants the folio is of pages in a pagemap.
            !unsafe { bindings::rpmem_helper_folio_maybe_dma_pinned(folio) }
        })
    }
}

#[kernel::macros::kunit_tests(rpmem_memremap)]
mod tests {
    use super::*;
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
    fn a_range_is_claimed_once() -> Result {
        let dev = TestDevice::new()?;
        let (start, claim) = claim_nothing(4 * MIB, dev.name())?;
        // All, the first page, the last page, across the end, more than all.
        for (at, len) in [
            (start, 4 * MIB),
            (start, 4096),
            (start + 4 * MIB - 4096, 4096),
            (start + 4 * MIB - 4096, 8192),
            (start - 4096, 5 * MIB),
        ] {
            assert_eq!(MemRegion::request(at, len, dev.name()).err(), Some(EBUSY));
        }
        // What was refused has left nothing behind, and the neighbours are free.
        drop(MemRegion::request(start - 4096, 4096, dev.name())?);
        drop(MemRegion::request(start + 4 * MIB, 4096, dev.name())?);
        assert_eq!(
            MemRegion::request(start, 4 * MIB, dev.name()).err(),
            Some(EBUSY)
        );
        drop(claim);
        drop(MemRegion::request(start, 4 * MIB, dev.name())?);
        Ok(())
    }

    #[test]
    fn claims_are_released_once() -> Result {
        let dev = TestDevice::new()?;
        let (start, claim) = claim_nothing(MIB, dev.name())?;
        let (trace, refused) = Trace::of(|| MemRegion::request(start, MIB, dev.name()).err())?;
        assert_eq!(refused, Some(EBUSY));
        assert!(trace.is(&[c"__request_region"]));
        let (trace, ()) = Trace::of(|| drop(claim))?;
        assert!(trace.is(&[c"__release_region"]));
        Ok(())
    }

    #[test]
    fn a_claim_outlives_the_device_whose_name_it_bears() -> Result {
        let dev = TestDevice::new()?;
        let (start, claim) = claim_nothing(MIB, dev.name())?;
        assert!(*claim._name == *dev.name());
        assert_eq!((claim.start, claim.len), (start, MIB));
        drop(dev);
        // The name is looked at.
        assert_eq!(MemRegion::request(start, MIB, c"other").err(), Some(EBUSY));
        Ok(())
    }

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
            PageMap::all_folios(pfn.0 + 3..pfn.0 + pages, |folio| {
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

    #[test]
    fn failures_without_a_holder_are_nobodys() -> Result {
        let dev = TestDevice::new()?;
        let (start, _claim) = claim_nothing(4 * MIB, dev.name())?;
        let range = PageMapRange::new(start, start + 4 * MIB - 1);
        let mapping = Mapping::pages(range, PageUse::FsDax, start + MIB, dev.core())?;
        let Backing::Pages(map) = &mapping.memory.backing else {
            return Err(EINVAL);
        };
        for phys in [start, start + MIB, start + 3 * MIB] {
            let pfn = (phys >> bindings::PAGE_SHIFT) as c_ulong;
            // SAFETY: The pagemap is live, and the page is in it.
            let ret = unsafe { PageMap::memory_failure_callback(map.pgmap.get(), pfn, 1, 0) };
            assert_eq!(ret, eopnotsupp().to_errno());
        }
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

    #[test]
    fn a_refused_pagemap_leaves_nothing_behind() -> Result {
        let dev = TestDevice::new()?;
        // Beyond what any x86 can address.
        let start = 1 << 53;
        let range = || PageMapRange::new(start, start + 4 * MIB - 1);
        for _ in 0..2 {
            let mapping = Mapping::pages(range(), PageUse::FsDax, start, dev.core());
            assert_eq!(mapping.err(), Some(EINVAL));
        }
        Ok(())
    }
}
