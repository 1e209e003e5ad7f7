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

use super::{
    badblocks::Badblocks,
    compat,
    device_raw,
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

/// A bio that the driver owns and has to end: dropping it without [`Bio::end`] fails it with an I/O
/// error.
///
/// # Invariants
///
/// The pointer is to a bio that was submitted to a disk of this driver and has not been ended.
pub(crate) struct Bio(NonNull<bindings::bio>);

/// A physically contiguous piece of memory that belongs to a bio.
///
/// # Invariants
///
/// `addr` is valid for reads and writes of `len` bytes for the lifetime `'bio`. The bytes may
/// change at any time (user memory under O_DIRECT), so no Rust reference to them is made.
pub(crate) struct Segment<'bio> {
    addr: NonNull<u8>,
    len: usize,
    _bio: PhantomData<&'bio Bio>,
}

impl Segment<'_> {
    /// A piece of memory that is not a bio's.
    ///
    /// # Safety
    ///
    /// `addr` is valid for reads and writes of `len` bytes for as long as the result lives.
    pub(super) unsafe fn from_raw(addr: NonNull<u8>, len: usize) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self {
            addr,
            len,
            _bio: PhantomData,
        }
    }

    /// The address of the first byte.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Cuts off and returns the first `len` bytes, or all if there are fewer.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        let len = len.min(self.len);
        // INVARIANT: The two parts do not overlap and lie inside the old segment.
        let head = Segment {
            addr: self.addr,
            len,
            _bio: PhantomData,
        };
        // SAFETY: `len` is at most `self.len`, and the segment is one allocation for that length.
        self.addr = unsafe { self.addr.add(len) };
        self.len -= len;
        head
    }
}

/// Token of a bio whose I/O is being accounted; see [`Bio::start_accounting`].
#[must_use]
pub(crate) struct Accounting(Option<usize>);

impl Bio {
    /// Takes ownership of a bio.
    ///
    /// # Safety
    ///
    /// `bio` was submitted to a disk of this driver, has not been ended, and the caller gives it
    /// up.
    pub(super) unsafe fn from_raw(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self(bio)
    }

    /// Gives up ownership: whoever has the pointer ends the bio.
    pub(super) fn into_raw(self) -> NonNull<bindings::bio> {
        core::mem::ManuallyDrop::new(self).0
    }

    fn opf(&self) -> u32 {
        // SAFETY: By the type invariants the bio is valid; `bi_opf` does not change while we own
        // it.
        unsafe { (*self.0.as_ptr()).bi_opf }
    }

    /// Whether data goes to the device (`op_is_write()`).
    pub(crate) fn is_write(&self) -> bool {
        self.opf() & bindings::REQ_OP_WRITE != 0
    }

    /// Whether earlier writes have to be durable before this bio starts.
    pub(crate) fn is_preflush(&self) -> bool {
        self.opf() & bindings::REQ_PREFLUSH != 0
    }

    /// Whether this write has to be durable before the bio ends.
    pub(crate) fn is_fua(&self) -> bool {
        self.opf() & bindings::REQ_FUA != 0
    }

    /// Starts I/O accounting, where the queue has it switched on and the kernel counts such bios.
    pub(crate) fn start_accounting(&self) -> Accounting {
        if !compat::FLUSH_IS_A_WRITE && self.len() == 0 {
            return Accounting(None);
        }
        let bio = self.0.as_ptr();
        // SAFETY: By the type invariants the bio is valid, and the queue it was submitted to stays
        // alive while it is not ended.
        let on = unsafe {
            (*(*(*bio).bi_bdev).bd_queue).limits.features & bindings::BLK_FEAT_IO_STAT != 0
        };
        // SAFETY: As above.
        Accounting(on.then(|| unsafe { bindings::bio_start_io_acct(bio) }))
    }

    /// Ends the accounting that [`Bio::start_accounting`] began.
    pub(crate) fn end_accounting(&self, accounting: Accounting) {
        if let Accounting(Some(start)) = accounting {
            let bio = self.0.as_ptr();
            // SAFETY: By the type invariants the bio is valid; `start` is from
            // `bio_start_io_acct()`.
            unsafe { bindings::bio_end_io_acct_remapped(bio, start, (*bio).bi_bdev) };
        }
    }

    /// The first sector (512 bytes) of the device that the bio is about.
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: By the type invariants the bio is valid, and nobody else changes its iterator.
        unsafe { (*self.0.as_ptr()).bi_iter.bi_sector }
    }

    /// The length of the bio's data in bytes.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: As in `sector`.
        unsafe { (*self.0.as_ptr()).bi_iter.bi_size as usize }
    }

    /// Calls `f` with each piece of the bio's data and its position in bytes from the start of the
    /// bio, until it fails.
    ///
    /// Pieces are as long as they are physically contiguous, not cut at pages as by
    /// `bio_for_each_segment()`.
    pub(crate) fn for_each_segment(
        &self,
        mut f: impl FnMut(usize, Segment<'_>) -> Result,
    ) -> Result {
        // SAFETY: By the type invariants the bio is valid, and nobody else changes its iterator.
        let (vecs, iter) = unsafe { ((*self.0.as_ptr()).bi_io_vec, (*self.0.as_ptr()).bi_iter) };
        let (mut idx, mut skip) = (iter.bi_idx as usize, compat::bvec_offset(&iter));
        let (mut left, mut done) = (iter.bi_size, 0);

        while left != 0 {
            // SAFETY: While `bi_size` bytes are left, `bi_idx` is an index into the bio's table.
            let vec = unsafe { vecs.add(idx) };
            // SAFETY: As above, and entries do not change while the bio is in flight.
            let len = unsafe { (*vec).bv_len }.saturating_sub(skip).min(left);

            if bindings::FLUSH_DCACHE {
                // SAFETY: `vec` is a valid entry.
                unsafe { flush_dcache(vec) };
            }
            // SAFETY: `vec` is a valid entry. There is no highmem (checked in shim.c), so its pages
            // have one contiguous kernel mapping; `skip` is at most its length.
            let addr = unsafe {
                bindings::rpmem_helper_bvec_virt(vec)
                    .cast::<u8>()
                    .add(skip as usize)
            };
            // INVARIANT: The bio owns its pages until it is ended, and it outlives this call.
            let segment = Segment {
                addr: NonNull::new(addr).ok_or(EIO)?,
                len: len as usize,
                _bio: PhantomData,
            };
            f(done, segment)?;

            left -= len;
            done += len as usize;
            skip = 0;
            idx += 1;
        }
        Ok(())
    }

    /// Ends the bio with the given result.
    pub(crate) fn end(self, result: Result) {
        let bio = self.into_raw().as_ptr();
        if let Err(err) = result {
            // SAFETY: We own the bio. The function is pure.
            unsafe { (*bio).bi_status = bindings::errno_to_blk_status(err.to_errno()) };
        }
        // SAFETY: We own the bio and give it up.
        unsafe { bindings::bio_endio(bio) };
    }
}

impl Drop for Bio {
    fn drop(&mut self) {
        // INVARIANT: The bio is ours to end, and `self` is not used afterwards.
        Bio(self.0).end(Err(EIO));
    }
}

/// Keeps data caches coherent, on architectures where that takes a call (not x86).
///
/// # Safety
///
/// `vec` is a valid entry of a bio in flight.
unsafe fn flush_dcache(vec: *mut bindings::bio_vec) {
    // SAFETY: Guaranteed by the caller.
    let vec = unsafe { *vec };
    let pages = (vec.bv_offset as usize + vec.bv_len as usize).div_ceil(bindings::PAGE_SIZE);
    for i in 0..pages {
        // SAFETY: The entry covers that many consecutive pages.
        unsafe { bindings::rpmem_helper_flush_dcache_page(vec.bv_page.add(i)) };
    }
}

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
            bindings::__blk_alloc_disk(&mut lim, node(dev), kernel::static_lock_class!().as_ptr())
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

/// The NUMA node of a device (`dev_to_node()`).
pub(super) fn node(dev: &Device<Core<'_>>) -> i32 {
    #[cfg(CONFIG_NUMA)]
    // SAFETY: The device is valid; the node does not change while a driver is bound.
    return unsafe { (*device_raw(dev)).numa_node };
    #[cfg(not(CONFIG_NUMA))]
    {
        let _ = dev;
        bindings::NUMA_NO_NODE
    }
}

#[kernel::macros::kunit_tests(rpmem_block)]
mod tests {
    use super::*;
    use crate::abstractions::{
        errno::eopnotsupp,
        kunit::{
            transfer,
            Ram,
            TestBio,
            TestDevice,
            TestDisk,
            Trace,
            FUA,
            PREFLUSH,
            RAM_SIZE,
            READ,
            WRITE, //
        }, //
    };

    /// No attributes.
    static GROUPS: AttributeGroups<TestDisk> = AttributeGroups::none();

    #[test]
    fn operations_and_flags_are_told_apart() -> Result {
        for (opf, write, preflush, fua) in [
            (READ, false, false, false),
            (WRITE, true, false, false),
            (WRITE | FUA, true, false, true),
            (WRITE | PREFLUSH, true, true, false),
            (WRITE | PREFLUSH | FUA, true, true, true),
        ] {
            let test = TestBio::new(opf, 77)?;
            let bio = test.submit();
            assert_eq!(
                (bio.is_write(), bio.is_preflush(), bio.is_fua()),
                (write, preflush, fua)
            );
            assert_eq!(bio.sector(), 77);
            assert_eq!(bio.len(), 0);
            bio.end(Ok(()));
        }
        Ok(())
    }

    /// Position, place in the memory, and length of each piece of the bio.
    fn pieces(bio: &Bio, ram: &Ram) -> Result<KVec<(usize, usize, usize)>> {
        let mut found = KVec::new();
        bio.for_each_segment(|done, segment| {
            let at = segment.as_ptr() as usize - ram.at(0) as usize;
            found.push((done, at, segment.len()), GFP_KERNEL)?;
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn segments_are_the_pieces_in_their_order() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        // The second one spans pages.
        test.add(&ram, 8192, 512);
        test.add(&ram, 1024, 6000);
        test.add(&ram, 0, 488);
        let bio = test.submit();
        assert_eq!(bio.len(), 7000);
        assert!(*pieces(&bio, &ram)? == [(0, 8192, 512), (512, 1024, 6000), (6512, 0, 488)]);
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn what_is_done_already_is_left_out() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        test.add(&ram, 8192, 512);
        test.add(&ram, 1024, 6144);
        test.add(&ram, 0, 512);
        test.advance(1024);
        let bio = test.submit();
        assert_eq!((bio.sector(), bio.len()), (2, 6144));
        assert!(*pieces(&bio, &ram)? == [(0, 1536, 5632), (5632, 0, 512)]);
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn the_first_failure_ends_the_walk() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        test.add(&ram, 8192, 512);
        test.add(&ram, 0, 512);
        let bio = test.submit();
        let mut calls = 0;
        let result = bio.for_each_segment(|_, _| {
            calls += 1;
            Err(ENXIO)
        });
        assert_eq!((result, calls), (Err(ENXIO), 1));
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn segments_are_split_without_loss() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        test.add(&ram, 4096, 1000);
        let bio = test.submit();
        bio.for_each_segment(|_, mut segment| {
            let at = |segment: &Segment<'_>| segment.as_ptr() as usize - ram.at(0) as usize;
            let head = segment.split_to(600);
            assert_eq!((at(&head), head.len()), (4096, 600));
            assert_eq!((at(&segment), segment.len()), (4696, 400));
            let rest = segment.split_to(4096);
            assert_eq!((at(&rest), rest.len(), segment.len()), (4696, 400, 0));
            assert_eq!(segment.split_to(1).len(), 0);
            Ok(())
        })?;
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn results_reach_the_submitter() -> Result {
        for result in [Ok(()), Err(EIO), Err(eopnotsupp()), Err(ENOMEM)] {
            let test = TestBio::new(WRITE, 0)?;
            let bio = test.submit();
            assert_eq!(test.result(), None);
            bio.end(result);
            assert_eq!(test.result(), Some(result));
        }
        Ok(())
    }

    #[test]
    fn a_forgotten_bio_fails() -> Result {
        let test = TestBio::new(WRITE, 0)?;
        drop(test.submit());
        assert_eq!(test.result(), Some(Err(EIO)));
        Ok(())
    }

    #[test]
    fn a_bio_given_away_is_not_ended() -> Result {
        let test = TestBio::new(WRITE, 0)?;
        let raw = test.submit().into_raw();
        assert_eq!(test.result(), None);
        // SAFETY: Given up just now.
        unsafe { Bio::from_raw(raw) }.end(Ok(()));
        assert_eq!(test.result(), Some(Ok(())));
        Ok(())
    }

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
