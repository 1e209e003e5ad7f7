// SPDX-License-Identifier: GPL-2.0

//! DAX devices: direct access to the memory behind a disk.
//!
//! C header: [`include/linux/dax.h`](srctree/include/linux/dax.h)
//!
//! Staging module until it can move to `kernel::dax`.
//!
//! C has one `->direct_access` that answers with a kernel address and a pfn. Here the two
//! translations are apart,
//! [`Operations::sector_to_pfn`] and [`Operations::pfn_to_virt`], and the glue asks only for what
//! its caller wants.
//!
//! # Who keeps whom alive
//!
//! A [`Device`] holds a reference to its data (`T: Operations`). C code calls the operations under
//! `dax_read_lock()` after it has seen the device alive; `kill_dax()` marks it dead and waits for
//! all such sections. The reference is dropped after that. A file system may hold the C `struct
//! dax_device` for longer: it then gets `-ENXIO`.
//!
//! # Lock order
//!
//! `dax_srcu` (read) is outside everything that the operations take. `kill_dax()` waits for it,
//! hence is never called by who holds a lock that the operations take.
//!
//! # Examples
//!
//! `Fake` in the KUnit tests at the end of this file implements the operations on system memory; they use it
//! as file systems do.

use super::{
    block::{
        self,
        NewDisk, //
    },
    memremap::Mapping, //
};
use crate::{
    bindings,
    logic::geometry::{
        Pfn,
        Pgoff,
        Sector,
        PAGE_SIZE, //
    }, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_long,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::Arc, //
};

/// What the caller of a translation is going to do (`enum dax_access_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessMode {
    /// Load and store.
    Access,
    /// Overwrite pages that may be poisoned, with [`Operations::recovery_write`].
    RecoveryWrite,
}

/// The operations of a DAX device. All are called under `dax_read_lock()` and concurrently; they
/// may sleep.
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// The pfn that holds `sector` (512 bytes, at the start of a page), and how many pages from
    /// there on are linear and may be accessed, at least 1. `nr_pages` is what the caller can use.
    ///
    /// # Errors
    ///
    /// `ERANGE` outside the device; `EHWPOISON` if bad sectors are in the way of an ordinary
    /// access.
    fn sector_to_pfn(&self, sector: Sector, nr_pages: u64, mode: AccessMode) -> Result<(Pfn, u64)>;

    /// The kernel address of the page `pfn`, one that [`Operations::sector_to_pfn`] gave.
    ///
    /// # Errors
    ///
    /// `ERANGE` if the pfn is not of this device.
    fn pfn_to_virt(&self, pfn: Pfn) -> Result<NonNull<c_void>>;

    /// Fills `nr_pages` pages from `pgoff` on with zeroes, past the CPU caches.
    ///
    /// # Errors
    ///
    /// `ERANGE` outside the device; `EIO` if poison in the range could not be cleared.
    fn zero_page_range(&self, pgoff: Pgoff, nr_pages: u64) -> Result;

    /// Writes `bytes` bytes of `source` at byte `offset` of the kernel mapping, of which page
    /// `pgoff` is the first, and clears poison there before. Gives the number of bytes written: 0
    /// if that was not possible.
    fn recovery_write(
        &self,
        pgoff: Pgoff,
        offset: usize,
        bytes: usize,
        source: Source<'_>,
    ) -> usize;

    /// The kernel mapping of the device, whose memory failures go to the file system that holds it.
    fn mapping(&self) -> &Mapping;
}

/// The bytes that a recovery write gets: a `struct iov_iter`.
///
/// # Invariants
///
/// The iterator is valid for `'a`, and nobody else uses it.
pub(crate) struct Source<'a>(*mut bindings::iov_iter, PhantomData<&'a ()>);

#[cfg(CONFIG_KUNIT = "y")]
impl<'a> Source<'a> {
    /// The bytes of a valid iterator.
    pub(super) fn new(iter: &'a mut bindings::iov_iter) -> Self {
        // INVARIANT: The exclusive reference makes sure that nobody else uses it.
        Self(iter, PhantomData)
    }
}

impl Source<'_> {
    /// Stores the next `len` bytes at `offset` of `mapping`, past the CPU caches; gives the number
    /// stored.
    ///
    /// # Errors
    ///
    /// `EIO` if they do not fit in the mapping.
    pub(crate) fn write_to(self, mapping: &Mapping, offset: usize, len: usize) -> Result<usize> {
        // SAFETY: By the type invariants the iterator is valid and ours.
        unsafe { mapping.write_iter(offset, len, self.0) }
    }
}

/// A DAX device that serves `T`.
///
/// # Invariants
///
/// `ptr` is from `alloc_dax()` with `data` as its private pointer.
pub(crate) struct Device<T: Operations> {
    ptr: NonNull<bindings::dax_device>,
    data: Arc<T>,
}

// SAFETY: `struct dax_device` is not tied to a thread, and `T` is `Send + Sync`.
unsafe impl<T: Operations> Send for Device<T> {}
// SAFETY: Methods on `&Device` change flag bits atomically.
unsafe impl<T: Operations> Sync for Device<T> {}

impl<T: Operations> Device<T> {
    const OPS: bindings::dax_operations = bindings::dax_operations {
        direct_access: Some(Self::direct_access_callback),
        zero_page_range: Some(Self::zero_page_range_callback),
        recovery_write: Some(Self::recovery_write_callback),
    };

    /// Allocates a DAX device that nobody can look up yet; see [`Host`].
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn new(data: Arc<T>) -> Result<Self> {
        // SAFETY: The operations are static, and fit the private pointer, which `data` keeps valid
        // until the device is killed.
        let ptr = from_err_ptr(unsafe {
            bindings::alloc_dax(Arc::as_ptr(&data).cast_mut().cast(), &Self::OPS)
        })?;
        // INVARIANT: Allocated just now. A success is never a null pointer.
        Ok(Self {
            ptr: NonNull::new(ptr).ok_or(ENOMEM)?,
            data,
        })
    }

    /// The data that the device serves.
    pub(crate) fn data(&self) -> &Arc<T> {
        &self.data
    }

    /// Says that stores are durable without a flush by the host, so that MAP_SYNC is possible.
    pub(crate) fn set_synchronous(&self) {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { bindings::set_dax_synchronous(self.ptr.as_ptr()) };
    }

    /// Says that writes go past the CPU caches, and that reads are safe from machine checks.
    pub(crate) fn set_nocache_nomc(&self) {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { bindings::set_dax_nocache(self.ptr.as_ptr()) };
        // SAFETY: As above.
        unsafe { bindings::set_dax_nomc(self.ptr.as_ptr()) };
    }

    /// Whether fsync writes back CPU caches.
    pub(crate) fn set_write_cache(&self, on: bool) {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { bindings::dax_write_cache(self.ptr.as_ptr(), on) };
    }

    /// Whether fsync writes back CPU caches.
    pub(crate) fn write_cache(&self) -> bool {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { bindings::dax_write_cache_enabled(self.ptr.as_ptr()) }
    }

    /// Writes back the CPU caches over `len` bytes at `offset` of the mapping, unless that is
    /// switched off (`write_cache`).
    ///
    /// # Errors
    ///
    /// `EIO` if they are not all in the mapping.
    pub(crate) fn flush_cache(&self, offset: usize, len: usize) -> Result {
        let addr = self.data.mapping().address(offset, len)?;
        // SAFETY: By the type invariants `ptr` is valid; the address is for `len` bytes.
        unsafe { bindings::dax_flush(self.ptr.as_ptr(), addr.as_ptr(), len) };
        Ok(())
    }

    /// Ends the claim of a file system on the device, as if it had let go of it itself, so that
    /// `kill_dax()` does not tell it.
    ///
    /// That call is of no use and does harm. Linux 7.2's `xfs_dax_notify_failure()` computes the
    /// length of extents in all but the last allocation group with an overflow, and loops for 2^32
    /// pages; ext4 does not listen. The file system learns from the end of the disk
    /// (`bdev_mark_dead()`), and the pagemap revokes the pages ([`Mapping`]).
    ///
    /// Nobody becomes the holder any more: one that came after this would be told of the end, and meet
    /// `WARN_ON()` when the former one lets go.
    fn release_holder(&self) {
        let dax = self.ptr.as_ptr();
        // SAFETY: The device is valid.
        let holder = unsafe { bindings::dax_holder(dax) };
        if !holder.is_null() {
            // SAFETY: The device is valid. `fs_put_dax()` compares the holder before it clears it,
            // and allows for it to be gone; it drops a reference, which is the one taken here and
            // not the holder's.
            unsafe {
                bindings::ihold(bindings::dax_inode(dax));
                bindings::fs_put_dax(dax, holder);
            }
        }
    }

    /// The data behind a C device, `None` if it has been killed in the meantime.
    ///
    /// # Safety
    ///
    /// Called from an operation of a device made by [`Device::new`], under the caller's
    /// `dax_read_lock()`.
    unsafe fn borrow<'a>(dax_dev: *mut bindings::dax_device) -> Option<&'a T> {
        // SAFETY: The caller passes a valid device. Its private pointer is to a `T` that lives
        // until `kill_dax()` has waited for this section.
        unsafe { bindings::dax_get_private(dax_dev).cast::<T>().as_ref() }
    }

    /// # Safety
    ///
    /// For `dax_direct_access()` only, under `dax_read_lock()`: `dax_dev` is valid, the
    /// out-pointers are null or valid.
    unsafe extern "C" fn direct_access_callback(
        dax_dev: *mut bindings::dax_device,
        pgoff: c_ulong,
        nr_pages: c_long,
        mode: bindings::dax_access_mode,
        kaddr: *mut *mut c_void,
        pfn_out: *mut c_ulong,
    ) -> c_long {
        // SAFETY: `dax_direct_access()` is called under `dax_read_lock()`.
        let Some(data) = (unsafe { Self::borrow(dax_dev) }) else {
            return ENXIO.to_errno() as c_long;
        };
        let mode = match mode {
            bindings::dax_access_mode_DAX_RECOVERY_WRITE => AccessMode::RecoveryWrite,
            _ => AccessMode::Access,
        };

        let translate = || -> Result<c_long> {
            let sector = Pgoff(pgoff as u64).to_sector().ok_or(ERANGE)?;
            // `dax_direct_access()` lets no negative number through.
            let (pfn, pages) = data.sector_to_pfn(sector, nr_pages as u64, mode)?;
            if !kaddr.is_null() {
                let addr = data.pfn_to_virt(pfn)?;
                // SAFETY: `dax_direct_access()` passes null or a valid out-pointer.
                unsafe { *kaddr = addr.as_ptr() };
            }
            if !pfn_out.is_null() {
                // SAFETY: As above.
                unsafe { *pfn_out = pfn.0 as c_ulong };
            }
            // There are fewer pages than bytes.
            Ok(pages as c_long)
        };
        translate().unwrap_or_else(|err| err.to_errno() as c_long)
    }

    /// # Safety
    ///
    /// For `dax_zero_page_range()` only, under `dax_read_lock()`: `dax_dev` is valid.
    unsafe extern "C" fn zero_page_range_callback(
        dax_dev: *mut bindings::dax_device,
        pgoff: c_ulong,
        nr_pages: usize,
    ) -> c_int {
        // SAFETY: `dax_zero_page_range()` is called under `dax_read_lock()`.
        let Some(data) = (unsafe { Self::borrow(dax_dev) }) else {
            return ENXIO.to_errno();
        };
        match data.zero_page_range(Pgoff(pgoff as u64), nr_pages as u64) {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// For `dax_recovery_write()` only, under `dax_read_lock()`: `dax_dev` and `iter` are valid.
    unsafe extern "C" fn recovery_write_callback(
        dax_dev: *mut bindings::dax_device,
        pgoff: c_ulong,
        addr: *mut c_void,
        bytes: usize,
        iter: *mut bindings::iov_iter,
    ) -> usize {
        // SAFETY: `dax_recovery_write()` is called under `dax_read_lock()`.
        let Some(data) = (unsafe { Self::borrow(dax_dev) }) else {
            return 0;
        };
        // `addr` is what `direct_access` answered, plus the offset in its page.
        let Some(offset) = data.mapping().offset_of(addr) else {
            return 0;
        };
        // INVARIANT: `dax_recovery_write()` passes a valid iterator for the time of the call.
        data.recovery_write(
            Pgoff(pgoff as u64),
            offset,
            bytes,
            Source(iter, PhantomData),
        )
    }
}

impl<T: Operations> Drop for Device<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `ptr` is valid and ours. Killing it (again, if it had a
        // host) makes sure that nobody uses the data any more, whoever else holds a reference to
        // the C device.
        unsafe { bindings::kill_dax(self.ptr.as_ptr()) };
        // SAFETY: This is the reference from `alloc_dax()`.
        unsafe { bindings::put_dax(self.ptr.as_ptr()) };
    }
}

/// Waits, when it is dropped, for all who are between `dax_read_lock()` and `dax_read_unlock()` then.
/// The core does so when a device is killed, whichever, and has no other function for it.
///
/// # Invariants
///
/// The pointer is from `alloc_dax()`; nobody else knows the device.
struct Readers(NonNull<bindings::dax_device>);

impl Readers {
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    fn new() -> Result<Self> {
        // SAFETY: Without operations nobody asks for data.
        let ptr = unsafe { bindings::alloc_dax(core::ptr::null_mut(), core::ptr::null()) };
        let ptr = from_err_ptr(ptr)?;
        // INVARIANT: Allocated just now.
        Ok(Self(NonNull::new(ptr).ok_or(ENOMEM)?))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the device is valid and ours. Nobody holds it.
        unsafe { bindings::kill_dax(self.0.as_ptr()) };
        // SAFETY: This is the reference from `alloc_dax()`.
        unsafe { bindings::put_dax(self.0.as_ptr()) };
    }
}

/// The link from a disk to its DAX device, by which file systems find it. Dropping it kills the
/// device: new translations fail, and those under way are waited for. Files that have pinned pages
/// are kept from then on: the end of the disk has idle ones evicted, and must not wait for pins.
///
/// Drop it before the [`block::GenDisk`], so that no file system finds the device of a disk that
/// goes.
///
/// # Invariants
///
/// `disk` is there, and registered as host of `dax`.
pub(crate) struct Host<T: Operations> {
    dax: Arc<Device<T>>,
    disk: *mut bindings::gendisk,
    /// There is no failing when it is needed.
    readers: Option<Readers>,
}

// SAFETY: `struct gendisk` and `struct dax_device` are not tied to a thread.
unsafe impl<T: Operations> Send for Host<T> {}
// SAFETY: As above.
unsafe impl<T: Operations> Sync for Host<T> {}

impl<T: Operations> Host<T> {
    /// Makes `dax` the device of `disk`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EBUSY` if the disk has one. Context: may sleep.
    pub(crate) fn new<D: block::Operations>(
        dax: Arc<Device<T>>,
        disk: &NewDisk<D>,
    ) -> Result<Self> {
        let disk = disk.as_raw();
        let readers = Some(Readers::new()?);
        // SAFETY: Both pointers are valid.
        to_result(unsafe { bindings::dax_add_host(dax.ptr.as_ptr(), disk) })?;
        // SAFETY: Our drop clears the holder, and `kill_dax()` waits for a grace period, before
        // `dax` goes.
        unsafe { dax.data.mapping().set_holder(dax.ptr.as_ptr()) };
        // INVARIANT: Registered just now.
        Ok(Self { dax, disk, readers })
    }
}

impl<T: Operations> Drop for Host<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `disk` is registered; the function uses it as a key.
        unsafe { bindings::dax_remove_host(self.disk) };
        // SAFETY: Null is always allowed.
        unsafe { self.dax.data.mapping().set_holder(core::ptr::null_mut()) };
        // Who has found the device before becomes its holder in the same section, or not at all
        // (`fs_dax_get_by_bdev()`). Holders only go from here on.
        drop(self.readers.take());
        self.dax.release_holder();
        // SAFETY: The device is valid.
        unsafe { bindings::kill_dax(self.dax.ptr.as_ptr()) };
        // SAFETY: By the type invariants the disk is there.
        if unsafe { bindings::rpmem_helper_disk_is_open(self.disk) } {
            self.dax.data.mapping().memory().keep_pinned_files();
        }
    }
}

const _: () = assert!(
    PAGE_SIZE == bindings::PAGE_SIZE as u64,
    "rpmem is for kernels with pages of 4 KiB"
);

#[kernel::macros::kunit_tests(rpmem_dax)]
mod tests {
    use super::*;
    use crate::abstractions::{
        errno::ehwpoison,
        kunit::{
            with_iter,
            Ram,
            TestDevice,
            TestDisk,
            Trace,
            RAM_SIZE, //
        }, //
    };
    use core::ptr;
    use kernel::{
        sync::{
            atomic::{
                Atomic,
                Relaxed, //
            },
            Completion, //
        },
        workqueue, //
    };

    /// Four pages, of which the last one is bad. Counts how often an address is asked for.
    struct Fake {
        // Unmapped before the memory goes.
        mapping: Mapping,
        ram: Ram,
        virt: Atomic<i32>,
        recovered: Atomic<usize>,
    }

    const PAGES: u64 = (RAM_SIZE / bindings::PAGE_SIZE) as u64;

    impl Fake {
        fn new() -> Result<Arc<Self>> {
            let ram = Ram::new(0x11)?;
            let fake = Fake {
                mapping: ram.map()?,
                ram,
                virt: Atomic::new(0),
                recovered: Atomic::new(usize::MAX),
            };
            Ok(Arc::new(fake, GFP_KERNEL)?)
        }

        fn pfn(&self) -> u64 {
            self.ram.phys() >> bindings::PAGE_SHIFT
        }

        /// The kernel address of a page, as a number.
        fn address(&self, page: usize) -> usize {
            self.ram.at(page * bindings::PAGE_SIZE) as usize
        }
    }

    impl Operations for Fake {
        fn sector_to_pfn(&self, sector: Sector, _: u64, mode: AccessMode) -> Result<(Pfn, u64)> {
            let page = sector.0 / 8;
            match (page, mode) {
                (0..=2, _) => Ok((Pfn(self.pfn() + page), PAGES - page)),
                (3, AccessMode::RecoveryWrite) => Ok((Pfn(self.pfn() + page), 1)),
                (3, AccessMode::Access) => Err(ehwpoison()),
                _ => Err(ERANGE),
            }
        }

        fn pfn_to_virt(&self, pfn: Pfn) -> Result<NonNull<c_void>> {
            self.virt.fetch_add(1, Relaxed);
            let page = (pfn.0 - self.pfn()) as usize;
            self.mapping
                .address(page * bindings::PAGE_SIZE, bindings::PAGE_SIZE)
        }

        fn zero_page_range(&self, pgoff: Pgoff, nr_pages: u64) -> Result {
            if pgoff.0 + nr_pages > PAGES {
                return Err(ERANGE);
            }
            self.mapping
                .zero_page(pgoff.0 as usize * bindings::PAGE_SIZE)
        }

        fn recovery_write(
            &self,
            _: Pgoff,
            offset: usize,
            bytes: usize,
            source: Source<'_>,
        ) -> usize {
            self.recovered.store(offset, Relaxed);
            source.write_to(&self.mapping, offset, bytes).unwrap_or(0)
        }

        fn mapping(&self) -> &Mapping {
            &self.mapping
        }
    }

    const ACCESS: bindings::dax_access_mode = bindings::dax_access_mode_DAX_ACCESS;
    const RECOVERY: bindings::dax_access_mode = bindings::dax_access_mode_DAX_RECOVERY_WRITE;

    /// Calls `f` with the C device under `dax_read_lock()`, as file systems do.
    fn locked<R>(dev: &Device<Fake>, f: impl FnOnce(*mut bindings::dax_device) -> R) -> R {
        // SAFETY: No conditions.
        let id = unsafe { bindings::dax_read_lock() };
        let result = f(dev.ptr.as_ptr());
        // SAFETY: `id` is from `dax_read_lock()`.
        unsafe { bindings::dax_read_unlock(id) };
        result
    }

    fn access(
        dev: &Device<Fake>,
        pgoff: usize,
        nr_pages: isize,
        mode: bindings::dax_access_mode,
        kaddr: *mut *mut c_void,
        pfn: *mut usize,
    ) -> isize {
        // SAFETY: The device is valid; the out-pointers are null or to locals of the caller.
        locked(dev, |dev| unsafe {
            bindings::dax_direct_access(dev, pgoff, nr_pages, mode, kaddr, pfn)
        })
    }

    #[test]
    fn both_outputs_are_given() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let (mut kaddr, mut pfn) = (ptr::null_mut(), 0);
        assert_eq!(access(&dev, 1, 100, ACCESS, &mut kaddr, &mut pfn), 3);
        assert_eq!(pfn as u64, dev.data.pfn() + 1);
        assert_eq!(kaddr as usize, dev.data.address(1));
        // The core clamps to what was asked for.
        assert_eq!(access(&dev, 1, 2, ACCESS, &mut kaddr, &mut pfn), 2);
        Ok(())
    }

    #[test]
    fn the_pfn_alone_makes_no_address() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let mut pfn = 0;
        assert_eq!(access(&dev, 2, 1, ACCESS, ptr::null_mut(), &mut pfn), 1);
        assert_eq!(pfn as u64, dev.data.pfn() + 2);
        assert_eq!(dev.data.virt.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn the_address_alone_is_given() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let mut kaddr = ptr::null_mut();
        assert_eq!(access(&dev, 0, 1, ACCESS, &mut kaddr, ptr::null_mut()), 1);
        assert_eq!(kaddr as usize, dev.data.address(0));
        assert_eq!(dev.data.virt.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn the_extent_alone_makes_no_address() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let none = ptr::null_mut();
        assert_eq!(access(&dev, 1, 9, ACCESS, none, ptr::null_mut()), 3);
        assert_eq!(dev.data.virt.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn errors_leave_the_outputs_alone() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let (mut kaddr, mut pfn) = (ptr::null_mut(), 7);
        let mut failing = |pgoff| access(&dev, pgoff, 1, ACCESS, &mut kaddr, &mut pfn);
        let erange = ERANGE.to_errno() as isize;
        assert_eq!(failing(4), erange);
        // Beyond what sectors can count.
        assert_eq!(failing(usize::MAX), erange);
        assert_eq!(failing(3), ehwpoison().to_errno() as isize);
        assert_eq!((kaddr, pfn), (ptr::null_mut(), 7));
        Ok(())
    }

    #[test]
    fn the_mode_reaches_the_driver() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let mut pfn = 0;
        assert_eq!(access(&dev, 3, 1, RECOVERY, ptr::null_mut(), &mut pfn), 1);
        assert_eq!(pfn as u64, dev.data.pfn() + 3);
        Ok(())
    }

    #[test]
    fn pages_are_zeroed_and_no_others() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let zero = |pgoff| {
            // SAFETY: The device is valid.
            locked(&dev, |dev| unsafe {
                bindings::dax_zero_page_range(dev, pgoff, 1)
            })
        };
        assert_eq!(zero(1), 0);
        assert_eq!(zero(4), ERANGE.to_errno());
        let ram = &dev.data.ram;
        assert!(ram.is(0, 4096, 0x11) && ram.is(4096, 8192, 0) && ram.is(8192, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn recovery_writes_get_the_offset_of_their_address() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let source = Ram::new(0x22)?;
        let write = |addr: usize, bytes: usize| {
            with_iter(&source, bytes, |iter| {
                // SAFETY: Device and iterator are valid; the address is the driver's to check.
                locked(&dev, |dev| unsafe {
                    bindings::dax_recovery_write(dev, 0, addr as *mut c_void, bytes, iter)
                })
            })
        };
        let (fake, base) = (&dev.data, dev.data.address(0));
        assert_eq!(write(base + 5000, 100), 100);
        assert_eq!(fake.recovered.load(Relaxed), 5000);
        assert!(fake.ram.is(5000, 5100, 0x22));
        assert!(fake.ram.is(0, 5000, 0x11) && fake.ram.is(5100, RAM_SIZE, 0x11));
        // Does not fit.
        assert_eq!(write(base + RAM_SIZE - 10, 11), 0);
        assert!(fake.ram.is(5100, RAM_SIZE, 0x11));
        Ok(())
    }

    #[test]
    fn recovery_writes_to_other_memory_are_refused() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let source = Ram::new(0x22)?;
        let base = dev.data.address(0);
        for addr in [0, base - 1, base + RAM_SIZE, usize::MAX] {
            let written = with_iter(&source, 16, |iter| {
                // SAFETY: As above.
                locked(&dev, |dev| unsafe {
                    bindings::dax_recovery_write(dev, 0, addr as *mut c_void, 16, iter)
                })
            });
            assert_eq!(written, 0);
        }
        // The driver was not asked.
        assert_eq!(dev.data.recovered.load(Relaxed), usize::MAX);
        Ok(())
    }

    #[test]
    fn a_killed_device_answers_enxio() -> Result {
        let dev = Device::new(Fake::new()?)?;
        // SAFETY: The device is valid.
        unsafe { bindings::kill_dax(dev.ptr.as_ptr()) };
        let (mut kaddr, mut pfn) = (ptr::null_mut(), 7);
        let enxio = ENXIO.to_errno();
        assert_eq!(
            access(&dev, 0, 1, ACCESS, &mut kaddr, &mut pfn),
            enxio as isize
        );
        assert_eq!((kaddr, pfn), (ptr::null_mut(), 7));
        // SAFETY: The device is valid.
        let ret = locked(&dev, |dev| unsafe {
            bindings::dax_zero_page_range(dev, 0, 1)
        });
        assert_eq!(ret, enxio);
        Ok(())
    }

    #[test]
    fn a_dropped_device_is_killed_and_lets_go_of_its_data() -> Result {
        let data = Fake::new()?;
        let dev = Device::new(data.clone())?;
        let (trace, ()) = Trace::of(|| drop(dev))?;
        assert!(trace.is(&[c"kill_dax", c"put_dax"]));
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn the_data_goes_after_the_device() -> Result {
        let dev = Device::new(Fake::new()?)?;
        let (trace, ()) = Trace::of(|| drop(dev))?;
        assert!(trace.is(&[c"kill_dax", c"put_dax", c"memunmap"]));
        Ok(())
    }

    #[test]
    fn flags_are_those_of_the_core() -> Result {
        let dev = Device::new(Fake::new()?)?;
        assert!(!dev.write_cache());
        dev.set_write_cache(true);
        assert!(dev.write_cache());
        dev.set_write_cache(false);
        assert!(!dev.write_cache());
        // SAFETY: The device is valid.
        let synchronous = || unsafe { bindings::dax_synchronous(dev.ptr.as_ptr()) };
        assert!(!synchronous());
        dev.set_synchronous();
        assert!(synchronous());
        Ok(())
    }

    /// A file system on the disk, if that has a DAX device.
    struct Holder {
        dax: NonNull<bindings::dax_device>,
        told: Atomic<i32>,
    }

    impl Holder {
        const OPS: bindings::dax_holder_operations = bindings::dax_holder_operations {
            notify_failure: Some(Self::notify_failure),
        };

        /// # Safety
        ///
        /// For `dax_holder_notify_failure()` only.
        unsafe extern "C" fn notify_failure(
            dax: *mut bindings::dax_device,
            _offset: u64,
            _len: u64,
            _flags: c_int,
        ) -> c_int {
            // SAFETY: The device is valid, and its holder is a `Holder`.
            let this = unsafe { bindings::dax_holder(dax).cast::<Holder>().as_ref() };
            if let Some(this) = this {
                this.told.fetch_add(1, Relaxed);
            }
            0
        }

        fn of(disk: *mut bindings::gendisk) -> Result<KBox<Self>> {
            let mut this = KBox::new(
                Holder {
                    dax: NonNull::dangling(),
                    told: Atomic::new(0),
                },
                GFP_KERNEL,
            )?;
            let mut start = 0;
            let holder: *mut Holder = &mut *this;
            // SAFETY: The disk is valid; the holder is pinned by its box.
            let dax = unsafe {
                bindings::fs_dax_get_by_bdev((*disk).part0, &mut start, holder.cast(), &Self::OPS)
            };
            this.dax = NonNull::new(dax).ok_or(ENODEV)?;
            Ok(this)
        }

        /// Lets go of the device; how often the holder was told of failures.
        fn put(mut self: KBox<Self>) -> i32 {
            let holder: *mut Holder = &mut *self;
            // SAFETY: Got by `of`.
            unsafe { bindings::fs_put_dax(self.dax.as_ptr(), holder.cast()) };
            self.told.load(Relaxed)
        }
    }

    /// Whether a file system finds a DAX device.
    fn found(disk: &NewDisk<TestDisk>) -> bool {
        Holder::of(disk.as_raw()).map(Holder::put).is_ok()
    }

    #[test]
    fn a_host_is_found_until_it_is_dropped() -> Result {
        let dev = TestDevice::new()?;
        let disk = TestDisk::disk(&dev, TestDisk::new()?)?;
        let data = Fake::new()?;
        let dax = Arc::new(Device::new(data.clone())?, GFP_KERNEL)?;
        assert!(!found(&disk));
        let host = Host::new(dax.clone(), &disk)?;
        assert!(found(&disk));
        let (trace, ()) = Trace::of(|| drop(host))?;
        // That of another device waits for readers.
        assert!(trace.is(&[c"dax_remove_host", c"kill_dax", c"put_dax", c"kill_dax"]));
        assert!(!found(&disk));
        // The device is dead although it is still there.
        let mut pfn = 0;
        assert_eq!(
            access(&dax, 0, 1, ACCESS, ptr::null_mut(), &mut pfn),
            ENXIO.to_errno() as isize
        );
        assert!(Arc::into_unique_or_drop(dax).is_some());
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn a_disk_has_one_host() -> Result {
        let dev = TestDevice::new()?;
        let disk = TestDisk::disk(&dev, TestDisk::new()?)?;
        let first = Arc::new(Device::new(Fake::new()?)?, GFP_KERNEL)?;
        let _host = Host::new(first, &disk)?;
        let second = Arc::new(Device::new(Fake::new()?)?, GFP_KERNEL)?;
        let (trace, refused) = Trace::of(|| Host::new(second.clone(), &disk).err())?;
        assert_eq!(refused, Some(EBUSY));
        // Neither the device nor the first host was touched; what waits for readers has gone.
        assert!(trace.is(&[c"dax_add_host", c"kill_dax", c"put_dax"]));
        assert!(found(&disk));
        let mut pfn = 0;
        assert_eq!(access(&second, 0, 1, ACCESS, ptr::null_mut(), &mut pfn), 1);
        assert!(Arc::into_unique_or_drop(second).is_some());
        Ok(())
    }

    #[test]
    fn a_holder_is_told_of_failures_and_not_of_the_end() -> Result {
        let dev = TestDevice::new()?;
        let disk = TestDisk::disk(&dev, TestDisk::new()?)?;
        let dax = Arc::new(Device::new(Fake::new()?)?, GFP_KERNEL)?;
        let host = Host::new(dax.clone(), &disk)?;
        let holder = Holder::of(disk.as_raw())?;
        // SAFETY: The device is valid.
        let told = unsafe { bindings::dax_holder_notify_failure(dax.ptr.as_ptr(), 0, 4096, 0) };
        assert_eq!((told, holder.told.load(Relaxed)), (0, 1));
        drop(host);
        drop(disk);
        drop(dax);
        // The holder's reference keeps the C device, which is dead.
        assert_eq!(holder.put(), 1);
        Ok(())
    }

    /// A file system has looked the device up before it lost its disk, and takes it afterwards. (What
    /// it finds then is the device of another disk, which stays registered.)
    #[test]
    fn who_finds_the_device_in_time_is_not_told_of_the_end() -> Result {
        let dev = TestDevice::new()?;
        let other = TestDevice::new()?;
        let disk = TestDisk::disk(&dev, TestDisk::new()?)?;
        let late = TestDisk::disk(&other, TestDisk::new()?)?;
        let dax = Arc::new(Device::new(Fake::new()?)?, GFP_KERNEL)?;
        let host = Host::new(dax.clone(), &disk)?;
        // SAFETY: Both pointers are valid.
        to_result(unsafe { bindings::dax_add_host(dax.ptr.as_ptr(), late.as_raw()) })?;

        let done = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let signal = done.clone();
        let holder = locked(&dax, |_| {
            workqueue::system().try_spawn(GFP_KERNEL, move || {
                drop(host);
                signal.complete_all();
            })?;
            while found(&disk) {
                // SAFETY: Readers of `dax_srcu` may sleep.
                unsafe { bindings::msleep(1) };
            }
            // SAFETY: As above. It would go on by now if it did not wait for us.
            unsafe { bindings::msleep(50) };
            Holder::of(late.as_raw())
        });
        done.wait_for_completion();
        // SAFETY: The disk is registered; the function uses it as a key.
        unsafe { bindings::dax_remove_host(late.as_raw()) };
        assert_eq!(holder.map(Holder::put), Ok(0));
        Ok(())
    }
}
