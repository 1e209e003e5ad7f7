// SPDX-License-Identifier: GPL-2.0

//! Bio-based block devices.
//!
//! C headers: [`include/linux/bio.h`](srctree/include/linux/bio.h),
//! [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)
//!
//! Staging module until it can move to `kernel::block::{bio, disk}`. `kernel::block::mq` is for
//! request-based drivers: it sets no `submit_bio`, no parent and no owner.
//!
//! # Who keeps whom alive
//!
//! A [`GenDisk`] holds a reference to the driver's data (`T: Operations`) and lends it to
//! `submit_bio` and to sysfs attributes. `del_gendisk()` waits for bios that are in `submit_bio`
//! (they hold the queue usage counter) and for sysfs; the reference is dropped after it. An open
//! file keeps the `struct gendisk`, not the data: bios that come later fail in `bio_queue_enter()`.
//! Open files hold [`Operations::OWNER`], so that the module cannot go while there are any.
//!
//! # Examples
//!
//! `TestDisk` in `kunit.rs` is a driver with a disk over system memory.

use super::{
    badblocks::Badblocks,
    bio::Bio,
    device_raw,
    numa_node,
    sysfs::AttributeGroups, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    device::{
        Core,
        Device, //
    },
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable,
    ThisModule, //
};

/// What a bio-based block driver implements, on the data that all parties to a disk share.
pub(crate) trait Operations: Send + Sync + Sized + 'static {
    /// The module that open files of the disk keep loaded.
    const OWNER: &'static ThisModule;

    /// Carries out `bio` and ends it, now or later. Context: process context, may sleep unless the
    /// bio says REQ_NOWAIT; called concurrently.
    fn submit_bio(this: ArcBorrow<'_, Self>, bio: Bio);

    /// The list shown as `badblocks` in sysfs.
    fn badblocks(&self) -> &Badblocks;

    /// The disk or a partition of it is opened; `exclusive` is with O_EXCL, or for somebody who
    /// claims it (a mount, another driver). Context: may sleep, `open_mutex` of the disk held.
    ///
    /// # Errors
    ///
    /// Any; it is then not open.
    fn open(&self, _exclusive: bool) -> Result {
        Ok(())
    }

    /// An administrator wants the whole disk to be read-only, or not any more (`BLKROSET`): it is
    /// when this has returned. The disk is open, but its data may have gone. Context: may sleep, no
    /// locks held.
    ///
    /// # Errors
    ///
    /// Any; it stays as it is then.
    fn set_read_only(_disk: DiskNumber, _read_only: bool) -> Result {
        Ok(())
    }
}

/// Properties of a new disk: those of `struct queue_limits` that drivers of memory-like devices
/// set.
pub(crate) struct Limits {
    /// In bytes, a power of two from 512 to the page size.
    pub(crate) logical_block_size: u32,
    /// In bytes, a power of two, not less than `logical_block_size`.
    pub(crate) physical_block_size: u32,
    /// Writes may be volatile until a flush.
    pub(crate) write_cache: bool,
    /// The device honours FUA.
    pub(crate) fua: bool,
    /// File systems may use DAX.
    pub(crate) dax: bool,
    /// I/O completes in `submit_bio`.
    pub(crate) synchronous: bool,
}

/// A disk that has been allocated and that nobody sees yet.
///
/// # Invariants
///
/// `disk` is from `__blk_alloc_disk()` and has not been added; `disk->private_data` is from
/// `Arc::<T>::into_foreign()`.
pub(crate) struct NewDisk<T: Operations> {
    disk: NonNull<bindings::gendisk>,
    _ops: PhantomData<T>,
}

/// A live disk. Dropping it removes the disk: waits for I/O in flight, then drops the data.
///
/// # Invariants
///
/// `disk` was added by `device_add_disk()`; `disk->private_data` is from
/// `Arc::<T>::into_foreign()`.
pub(crate) struct GenDisk<T: Operations> {
    disk: NonNull<bindings::gendisk>,
    _ops: PhantomData<T>,
}

// SAFETY: A `struct gendisk` is not tied to a thread, and `T` is `Send + Sync`.
unsafe impl<T: Operations> Send for GenDisk<T> {}
// SAFETY: Methods on `&GenDisk` call functions that lock by themselves.
unsafe impl<T: Operations> Sync for GenDisk<T> {}

impl<T: Operations> NewDisk<T> {
    const FOPS: bindings::block_device_operations = bindings::block_device_operations {
        owner: T::OWNER.as_ptr(),
        submit_bio: Some(Self::submit_bio_callback),
        open: Some(Self::open_callback),
        set_read_only: Some(Self::set_read_only_callback),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// For `blkdev_roset()` only.
    unsafe extern "C" fn set_read_only_callback(
        bdev: *mut bindings::block_device,
        read_only: bool,
    ) -> c_int {
        // SAFETY: `blkdev_roset()` passes an open block device, which keeps the `struct gendisk`.
        let (number, whole) = unsafe { ((*bdev).bd_dev, (*(*bdev).bd_disk).part0) };
        if !core::ptr::eq(bdev, whole) {
            return 0;
        }
        from_result(|| {
            T::set_read_only(DiskNumber(number), read_only)?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// For `blkdev_get_whole()` only.
    unsafe extern "C" fn open_callback(
        disk: *mut bindings::gendisk,
        mode: bindings::blk_mode_t,
    ) -> c_int {
        // SAFETY: `blkdev_get_whole()` passes a live disk with these operations, whose data is from
        // `Arc::<T>::into_foreign()` and stays until it has gone (`del_gendisk()`).
        let data = unsafe { Arc::<T>::borrow((*disk).private_data.cast()) };
        from_result(|| {
            data.open(mode & bindings::BLK_OPEN_EXCL != 0)?;
            Ok(0)
        })
    }

    /// Allocates a disk on the NUMA node of `dev`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for limits that the block layer refuses; `ENOMEM`. Context: may sleep.
    pub(crate) fn new(
        dev: &Device<Core<'_>>,
        limits: &Limits,
        sectors: u64,
        data: Arc<T>,
    ) -> Result<Self> {
        let feature = |on: bool, bit| if on { bit } else { 0 };
        let mut lim = bindings::queue_limits {
            logical_block_size: limits.logical_block_size,
            physical_block_size: limits.physical_block_size,
            max_hw_sectors: u32::MAX,
            features: feature(limits.write_cache, bindings::BLK_FEAT_WRITE_CACHE)
                | feature(limits.fua, bindings::BLK_FEAT_FUA)
                | feature(limits.dax, bindings::BLK_FEAT_DAX)
                | feature(limits.synchronous, bindings::BLK_FEAT_SYNCHRONOUS),
            ..pin_init::zeroed()
        };
        // SAFETY: `lim` is valid and the lock class is static.
        let disk = from_err_ptr(unsafe {
            bindings::__blk_alloc_disk(
                &mut lim,
                numa_node(dev),
                kernel::static_lock_class!().as_ptr(),
            )
        })?;
        // SAFETY: The disk is valid and ours alone.
        unsafe {
            (*disk).fops = &Self::FOPS;
            // The list outlives the disk's life in sysfs: that ends before the reference is
            // dropped.
            (*disk).bb = data.badblocks().as_raw().cast();
            (*disk).private_data = data.into_foreign().cast();
        }
        // SAFETY: The disk is valid.
        unsafe { bindings::set_capacity(disk, sectors) };
        // INVARIANT: Allocated and filled above. A success is never a null pointer.
        Ok(Self {
            disk: NonNull::new(disk).ok_or(ENOMEM)?,
            _ops: PhantomData,
        })
    }

    /// The name, for what gives it one: null-terminated.
    pub(super) fn name_mut(&mut self) -> &mut [u8; bindings::DISK_NAME_LEN as usize] {
        // SAFETY: By the type invariants the disk is valid and ours alone.
        unsafe { &mut (*self.disk.as_ptr()).disk_name }
    }

    /// Names the disk; one with a namespace is named by that.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn set_name(&mut self, name: &CStr) {
        for (to, from) in self.name_mut().iter_mut().zip(name.to_bytes_with_nul()) {
            *to = *from;
        }
    }

    /// The C disk, as key of the registry of DAX hosts.
    pub(super) fn as_raw(&self) -> *mut bindings::gendisk {
        self.disk.as_ptr()
    }

    /// Makes the disk visible, as a child of `parent` with the given sysfs attributes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST` if the name is taken; the disk is given back, so that who refers to it
    /// can go before it. Context: may sleep; scans for partitions.
    pub(crate) fn add(
        self,
        parent: &Device<Core<'_>>,
        groups: &'static AttributeGroups<T>,
    ) -> Result<GenDisk<T>, (Error, Self)> {
        // SAFETY: By the type invariants the disk is complete and has not been added; `parent` is a
        // valid device; the attribute groups are static, and made for the data of this disk.
        let ret = unsafe {
            bindings::device_add_disk(device_raw(parent), self.disk.as_ptr(), groups.as_ptr())
        };
        if let Err(err) = to_result(ret) {
            return Err((err, self));
        }
        let disk = core::mem::ManuallyDrop::new(self).disk;
        // INVARIANT: Added just now.
        Ok(GenDisk {
            disk,
            _ops: PhantomData,
        })
    }

    /// # Safety
    ///
    /// For `__submit_bio()` only: `bio` is valid, was submitted to a live disk of type
    /// `GenDisk<T>` whose queue usage counter the caller holds, and is given up to this function.
    unsafe extern "C" fn submit_bio_callback(bio: *mut bindings::bio) {
        // SAFETY: `__submit_bio()` passes a valid bio for a live disk of this type, whose
        // `private_data` is from `into_foreign()`; the queue usage counter that it holds keeps the
        // data until this returns.
        let data = unsafe { Arc::<T>::borrow((*(*(*bio).bi_bdev).bd_disk).private_data.cast()) };
        if let Some(bio) = NonNull::new(bio) {
            // SAFETY: `__submit_bio()` gives the bio up to the driver.
            T::submit_bio(data, unsafe { Bio::from_raw(bio) });
        }
    }
}

impl<T: Operations> Drop for NewDisk<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the disk was not added, so that this is the last
        // reference, and `private_data` is from `into_foreign()`.
        unsafe {
            let data = (*self.disk.as_ptr()).private_data;
            bindings::put_disk(self.disk.as_ptr());
            drop(Arc::<T>::from_foreign(data.cast()));
        }
    }
}

impl<T: Operations> GenDisk<T> {
    /// The C disk.
    pub(super) fn as_raw(&self) -> *mut bindings::gendisk {
        self.disk.as_ptr()
    }

    /// The name, `pmemN`.
    pub(crate) fn name(&self) -> Result<&CStr> {
        // SAFETY: By the type invariants the disk is live; its name does not change any more.
        let name = unsafe { &(*self.disk.as_ptr()).disk_name };
        CStr::from_bytes_until_nul(name).map_err(|_| EINVAL)
    }

    /// What stands for the disk in [`OpenDisk::exclusive`].
    pub(crate) fn number(&self) -> DiskNumber {
        // SAFETY: By the type invariants the disk is live; its number does not change any more.
        unsafe { DiskNumber((*(*self.disk.as_ptr()).part0).bd_dev) }
    }

    /// Takes read-only over from the region (`nvdimm_check_and_set_ro()`). Context: may sleep.
    ///
    /// The disk's parent has to be a child of a region, as that of a disk made by a
    /// [`super::nd::Driver`] is.
    pub(crate) fn check_and_set_ro(&self) {
        // SAFETY: By the type invariants the disk is live.
        unsafe { bindings::nvdimm_check_and_set_ro(self.disk.as_ptr()) };
    }
}

impl<T: Operations> Drop for GenDisk<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the disk is live and `private_data` is from
        // `into_foreign()`. Nobody uses the data after `del_gendisk()`: see the head of this file.
        unsafe {
            let data = (*self.disk.as_ptr()).private_data;
            bindings::del_gendisk(self.disk.as_ptr());
            bindings::put_disk(self.disk.as_ptr());
            drop(Arc::<T>::from_foreign(data.cast()));
        }
    }
}

/// The number of a disk (`dev_t`): no other one has it for as long as this one is registered or open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskNumber(bindings::dev_t);

/// An open disk.
///
/// # Invariants
///
/// The file is from `bdev_file_open_by_dev()`, and the reference is ours.
pub(crate) struct OpenDisk(NonNull<bindings::file>);

// SAFETY: A `struct file` is reference counted and not tied to a thread.
unsafe impl Send for OpenDisk {}

impl OpenDisk {
    fn open(disk: DiskNumber, holder: *mut c_void) -> Result<Self> {
        // SAFETY: The holder is only compared; there are no holder operations.
        let file = from_err_ptr(unsafe {
            bindings::bdev_file_open_by_dev(
                disk.0,
                bindings::BLK_OPEN_READ,
                holder,
                core::ptr::null(),
            )
        })?;
        // INVARIANT: Opened just now. A success is never a null pointer.
        NonNull::new(file).map(Self).ok_or(ENXIO)
    }

    /// Opens a disk that nobody holds exclusively. Calls `take_over` while nobody can: from then on
    /// [`Operations::open`] has to refuse those who want to.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is mounted or held; `ENXIO` if it has gone. Context: may sleep; takes the
    /// `open_mutex` of the disk.
    pub(crate) fn exclusive<T>(
        disk: DiskNumber,
        holder: &T,
        take_over: impl FnOnce(),
    ) -> Result<Self> {
        let claim = Self::open(disk, core::ptr::from_ref(holder).cast_mut().cast())?;
        let this = Self::open(disk, core::ptr::null_mut())?;
        take_over();
        drop(claim);
        Ok(this)
    }

    /// Whether the disk is read-only.
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: By the type invariants the file is that of a block device.
        unsafe { bindings::rpmem_helper_bdev_file_read_only(self.0.as_ptr()) }
    }
}

impl Drop for OpenDisk {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the file is ours.
        unsafe { bindings::bdev_fput(self.0.as_ptr()) };
    }
}

#[kernel::macros::kunit_tests(rpmem_block)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        transfer,
        Ram,
        TestDevice,
        TestDisk,
        Trace,
        RAM_SIZE,
        READ,
        WRITE, //
    };

    /// No attributes.
    static GROUPS: AttributeGroups<TestDisk> = AttributeGroups::none();

    #[test]
    fn a_disk_that_was_not_added_lets_go_of_its_data() -> Result {
        let dev = TestDevice::new()?;
        let data = TestDisk::new()?;
        let disk = TestDisk::disk(&dev, data.clone())?;
        let (trace, ()) = Trace::of(|| drop(disk))?;
        assert!(trace.is(&[c"put_disk"]));
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn refused_limits_let_go_of_the_data() -> Result {
        let dev = TestDevice::new()?;
        let data = TestDisk::new()?;
        let limits = Limits {
            logical_block_size: 3000,
            ..TestDisk::LIMITS
        };
        let disk = NewDisk::new(dev.core(), &limits, TestDisk::SECTORS, data.clone());
        assert_eq!(disk.err(), Some(EINVAL));
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn limits_are_those_asked_for() -> Result {
        let dev = TestDevice::new()?;
        let features = |limits: &Limits| -> Result<u32> {
            let disk = NewDisk::new(dev.core(), limits, TestDisk::SECTORS, TestDisk::new()?)?;
            // SAFETY: The disk is valid.
            let limits = unsafe { &(*(*disk.as_raw()).queue).limits };
            Ok(limits.features)
        };
        let all = bindings::BLK_FEAT_WRITE_CACHE
            | bindings::BLK_FEAT_FUA
            | bindings::BLK_FEAT_DAX
            | bindings::BLK_FEAT_SYNCHRONOUS;
        let on = features(&TestDisk::LIMITS)?;
        assert_eq!(on & all, all);
        let off = features(&Limits {
            write_cache: false,
            fua: false,
            dax: false,
            synchronous: false,
            ..TestDisk::LIMITS
        })?;
        assert_eq!(off & all, 0);
        Ok(())
    }

    #[test]
    fn a_disk_serves_bios_until_it_is_dropped() -> Result {
        let dev = TestDevice::new()?;
        let data = TestDisk::new()?;
        let disk = TestDisk::disk(&dev, data.clone())?;
        let disk = disk.add(dev.core(), &GROUPS).map_err(|(err, _)| err)?;

        let ram = Ram::new(0x5a)?;
        let before = data.bios();
        transfer(&disk, 8, &ram, 0, 4096, WRITE)?;
        transfer(&disk, 8, &ram, 8192, 1024, READ)?;
        transfer(&disk, 0, &ram, 12288, 4096, READ)?;
        assert_eq!(data.bios(), before + 3);
        assert!(ram.is(8192, 9216, 0x5a) && ram.is(12288, RAM_SIZE, 0));
        // The block layer keeps what is outside away from the driver.
        let end = TestDisk::SECTORS;
        assert_eq!(transfer(&disk, end, &ram, 0, 512, READ), Err(EIO));
        assert_eq!(data.bios(), before + 3);

        let (trace, ()) = Trace::of(|| drop(disk))?;
        assert!(trace.is(&[c"del_gendisk", c"put_disk"]));
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn the_last_user_of_the_data_is_the_disk() -> Result {
        let dev = TestDevice::new()?;
        let disk = TestDisk::disk(&dev, TestDisk::new()?)?;
        let disk = disk.add(dev.core(), &GROUPS).map_err(|(err, _)| err)?;
        let (trace, ()) = Trace::of(|| drop(disk))?;
        assert!(trace.is(&[c"del_gendisk", c"put_disk", c"badblocks_exit", c"memunmap"]));
        Ok(())
    }
}
