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

    /// Ends the claim of a file system on the device, as if it had let go of it itself, so that
    /// `kill_dax()` does not tell it.
    ///
    /// That call is of no use and does harm. Linux 7.2's `xfs_dax_notify_failure()` computes the
    /// length of extents in all but the last allocation group with an overflow, and loops for 2^32
    /// pages; ext4 does not listen. The file system learns from the end of the disk
    /// (`bdev_mark_dead()`), and the pagemap revokes the pages ([`Mapping`]).
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
            let (pfn, pages) = data.sector_to_pfn(sector, u64::try_from(nr_pages)?, mode)?;
            if !kaddr.is_null() {
                let addr = data.pfn_to_virt(pfn)?;
                // SAFETY: `dax_direct_access()` passes null or a valid out-pointer.
                unsafe { *kaddr = addr.as_ptr() };
            }
            if !pfn_out.is_null() {
                // SAFETY: As above.
                unsafe { *pfn_out = pfn.0 as c_ulong };
            }
            Ok(c_long::try_from(pages).unwrap_or(c_long::MAX))
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

/// The link from a disk to its DAX device, by which file systems find it. Dropping it kills the
/// device: new translations fail, and those under way are waited for.
///
/// Drop it before the [`block::GenDisk`], so that no file system finds the device of a disk that
/// goes.
///
/// # Invariants
///
/// `disk` is registered as host of `dax`.
pub(crate) struct Host<T: Operations> {
    dax: Arc<Device<T>>,
    /// Key in the registry, never dereferenced here.
    disk: *mut bindings::gendisk,
}

// SAFETY: The pointer is a key alone.
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
        // SAFETY: Both pointers are valid.
        to_result(unsafe { bindings::dax_add_host(dax.ptr.as_ptr(), disk) })?;
        // SAFETY: Our drop clears the holder, and `kill_dax()` waits for a grace period, before
        // `dax` goes.
        unsafe { dax.data.mapping().set_holder(dax.ptr.as_ptr()) };
        // INVARIANT: Registered just now.
        Ok(Self { dax, disk })
    }
}

impl<T: Operations> Drop for Host<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `disk` is registered; the function uses it as a key.
        unsafe { bindings::dax_remove_host(self.disk) };
        // SAFETY: Null is always allowed.
        unsafe { self.dax.data.mapping().set_holder(core::ptr::null_mut()) };
        self.dax.release_holder();
        // SAFETY: The device is valid.
        unsafe { bindings::kill_dax(self.dax.ptr.as_ptr()) };
    }
}

const _: () = assert!(PAGE_SIZE == bindings::PAGE_SIZE as u64);
