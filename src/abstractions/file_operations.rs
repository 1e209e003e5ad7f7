// SPDX-License-Identifier: GPL-2.0

//! What a character device implements whose files can be mapped, and `struct file_operations` in front of it.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! Staging module until it can move to `kernel::fs`. `kernel::miscdevice` has only the
//! deprecated `->mmap`, no `->fsync` and no `->get_unmapped_area`.
//!
//! # Who keeps whom alive
//!
//! See [`super::chrdev`]: the data of a device outlives its files.
//!
//! # Examples
//!
//! `Node` in `src/driver/map.rs` implements the operations.

use super::{
    fasync::Fasync,
    mmap::{
        self,
        PreparedVma,
        VmaDesc, //
    },
    sysfs,
    vm, //
};
use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    device::Device,
    error::from_result,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong, //
    },
    fs::File,
    prelude::*,
    sync::poll::{
        PollCondVar,
        PollTable, //
    },
    types::Opaque,
    uaccess::UserPtr,
    ThisModule, //
};

/// A mapping that is asked for: the arguments of mmap(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    /// As the caller gave them.
    pub(crate) flags: u64,
    /// File offset in pages.
    pub(crate) pgoff: u64,
    /// In pages, rounded up.
    pub(crate) pages: u64,
}

/// What poll(2) says of a file: readable and writable, as read(2) and write(2) fail at once, and
/// who waits for that before the call (io_uring) shall not wait for ever. `kernfs_generic_poll()` in
/// `fs/kernfs/file.c` says it for the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Nothing to say.
    None,
    /// As well EPOLLPRI.
    Notice,
    /// As well EPOLLPRI, EPOLLERR and EPOLLHUP, for good.
    Gone,
}

impl Event {
    fn mask(self) -> bindings::__poll_t {
        let more = match self {
            Event::None => 0,
            Event::Notice => bindings::EPOLLPRI,
            Event::Gone => bindings::EPOLLPRI | bindings::EPOLLERR | bindings::EPOLLHUP,
        };
        bindings::DEFAULT_POLLMASK | more
    }
}

/// What a driver of a character device implements, on the data of a device.
pub(crate) trait Operations: vm::Operations {
    /// The module that open files keep loaded.
    const OWNER: &'static ThisModule;

    /// Attributes of the device in sysfs.
    const GROUPS: &'static sysfs::AttributeGroups<Self>;

    /// The end of the file for lseek(2), in bytes. Context: any.
    fn size(&self) -> u64;

    /// The device is opened. Context: may sleep.
    ///
    /// # Errors
    ///
    /// Any; the file is then not open.
    fn open(&self, dev: &Device, writable: bool) -> Result;

    /// A file ends: its last descriptor is closed and its last mapping gone. Context: may sleep.
    fn release(&self, dev: &Device);

    /// Looks at a request before a mapping is made. Gives the physical address of its first byte,
    /// to which the user address is aligned for huge entries. Context: may sleep, mmap lock held.
    ///
    /// # Errors
    ///
    /// Any; mmap(2) then fails with it.
    fn check_mmap(&self, dev: &Device, request: Request) -> Result<u64>;

    /// Makes the mapping. What [`Operations::check_mmap`] has seen may have changed. Context: as above.
    ///
    /// # Errors
    ///
    /// As above.
    fn mmap_prepare(&self, dev: &Device, area: VmaDesc<'_, Self>) -> Result<PreparedVma>;

    /// Makes stores from byte `first` to byte `last` of the file durable. Context: may sleep.
    ///
    /// # Errors
    ///
    /// Any; msync(2) and fsync(2) then fail with it.
    fn fsync(&self, first: u64, last: u64) -> Result;

    /// The system is about to sleep or to hibernate; no user's task runs any more, all devices still do.
    /// Context: may sleep, lock of the device held.
    ///
    /// # Errors
    ///
    /// Any; the system then stays awake.
    fn prepare_sleep(&self, dev: &Device) -> Result;

    /// ioctl(2). Context: may sleep.
    ///
    /// # Errors
    ///
    /// `ENOTTY` for an unknown `command`.
    fn ioctl(&self, command: u32, argument: UserPtr) -> Result;

    /// What poll(2) says. Context: may sleep.
    fn event(&self) -> Event;

    /// Is notified when that changes.
    fn event_changed(&self) -> &PollCondVar;

    /// Who wants a signal then.
    fn fasync(&self) -> &Fasync;
}

/// A device with its data.
#[pin_data]
pub(super) struct Inner<T> {
    #[pin]
    pub(super) data: T,
    #[pin]
    pub(super) dev: Opaque<bindings::device>,
    #[pin]
    pub(super) cdev: Opaque<bindings::cdev>,
    pub(super) minor: u32,
}

impl<T> Inner<T> {
    /// # Safety
    ///
    /// `dev` is that of a live `Inner<T>`.
    pub(super) unsafe fn of_device(dev: *mut bindings::device) -> *mut Self {
        // SAFETY: Guaranteed by the caller.
        unsafe { kernel::container_of!(Opaque::cast_from(dev), Self, dev) }.cast_mut()
    }

    /// The device.
    pub(super) fn device(&self) -> &Device {
        // SAFETY: The device is initialised and lives as long as `self`. CAST: `Device` is a
        // transparent wrapper of `Opaque<bindings::device>`.
        unsafe { &*self.dev.get().cast::<Device>() }
    }
}

/// A `struct file_operations` for the files of devices with `T`.
pub(super) struct Files<T>(PhantomData<fn(T)>);

impl<T: Operations> Files<T> {
    /// The C structure.
    pub(super) const FOPS: &'static bindings::file_operations = &bindings::file_operations {
        owner: T::OWNER.as_ptr(),
        fop_flags: bindings::FOP_MMAP_SYNC | bindings::FOP_MMAP_DIRECT,
        open: Some(Self::open_callback),
        release: Some(Self::release_callback),
        mmap_prepare: Some(Self::mmap_prepare_callback),
        get_unmapped_area: Some(Self::get_unmapped_area_callback),
        fsync: Some(Self::fsync_callback),
        poll: Some(Self::poll_callback),
        fasync: Some(Self::fasync_callback),
        flush: Some(Self::flush_callback),
        unlocked_ioctl: Some(Self::ioctl_callback),
        compat_ioctl: bindings::compat_ptr_ioctl,
        llseek: Some(Self::llseek_callback),
        ..pin_init::zeroed()
    };

    /// The data of the device that `file` is of; `None` if it is not of a device with `T`. The module has
    /// other files (debugfs): its name in the operations says nothing.
    ///
    /// # Safety
    ///
    /// `file` is open.
    pub(super) unsafe fn data_of(file: &bindings::file) -> Option<&T> {
        if !core::ptr::eq(file.f_op, Self::FOPS) {
            return None;
        }
        // SAFETY: With these operations it was opened by `open_callback`.
        Some(&unsafe { Self::of_file(file) }.data)
    }

    /// # Safety
    ///
    /// `file` is one that `open_callback` has opened.
    unsafe fn of_file<'a>(file: *const bindings::file) -> &'a Inner<T> {
        // SAFETY: `open_callback` put an `Inner<T>` there, which the file keeps alive.
        unsafe { &*(*file).private_data.cast::<Inner<T>>() }
    }

    /// # Safety
    ///
    /// For `chrdev_open()` only.
    unsafe extern "C" fn open_callback(
        inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> c_int {
        // SAFETY: `chrdev_open()` passes the inode of a cdev with these operations, hence in an
        // `Inner<T>`, to which it holds a reference for the file.
        let inner = unsafe {
            let cdev = (*inode).__bindgen_anon_5.i_cdev;
            kernel::container_of!(Opaque::cast_from(cdev), Inner<T>, cdev)
        };
        // SAFETY: As above; the file is not shared yet.
        let (inner_ref, mode) = unsafe { (&*inner, (*file).f_mode) };
        from_result(|| {
            inner_ref
                .data
                .open(inner_ref.device(), mode & bindings::FMODE_WRITE != 0)?;
            // SAFETY: As above. The address space lives as long as the data, see the head of this
            // file.
            unsafe {
                (*file).private_data = inner.cast_mut().cast();
                (*file).f_mapping = inner_ref.data.space().as_raw();
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// For `__fput()` only.
    unsafe extern "C" fn release_callback(
        _inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> c_int {
        // SAFETY: `__fput()` passes a file that was opened.
        let inner = unsafe { Self::of_file(file) };
        inner.data.release(inner.device());
        0
    }

    /// # Safety
    ///
    /// For `__get_unmapped_area()` only.
    unsafe extern "C" fn get_unmapped_area_callback(
        file: *mut bindings::file,
        addr: c_ulong,
        len: c_ulong,
        pgoff: c_ulong,
        flags: c_ulong,
    ) -> c_ulong {
        // SAFETY: `__get_unmapped_area()` passes an open file.
        let inner = unsafe { Self::of_file(file) };
        let request = Request {
            flags: flags as u64,
            pgoff: pgoff as u64,
            pages: (len as u64).div_ceil(bindings::PAGE_SIZE as u64),
        };
        match inner.data.check_mmap(inner.device(), request) {
            // SAFETY: The file is open, and the caller holds the mmap lock.
            Ok(phys) => unsafe { mmap::unmapped_area(file, addr, len, pgoff, flags, phys) },
            Err(err) => err.to_errno() as c_ulong,
        }
    }

    /// # Safety
    ///
    /// For `__mmap_region()` only.
    unsafe extern "C" fn mmap_prepare_callback(desc: *mut bindings::vm_area_desc) -> c_int {
        // SAFETY: `call_mmap_prepare()` passes a valid description of a mapping of an open file.
        let inner = unsafe { Self::of_file((*desc).file) };
        // SAFETY: As above; the file keeps the data alive.
        let area = unsafe { VmaDesc::from_raw(desc, &inner.data) };
        match inner.data.mmap_prepare(inner.device(), area) {
            Ok(PreparedVma { .. }) => 0,
            Err(err) => err.to_errno(),
        }
    }

    /// # Safety
    ///
    /// For `vfs_fsync_range()` only.
    unsafe extern "C" fn fsync_callback(
        file: *mut bindings::file,
        first: bindings::loff_t,
        last: bindings::loff_t,
        _datasync: c_int,
    ) -> c_int {
        // SAFETY: `vfs_fsync_range()` passes an open file.
        let inner = unsafe { Self::of_file(file) };
        from_result(|| {
            inner.data.fsync(first as u64, last as u64)?;
            Ok(0)
        })
    }

    /// All of it is data (`SEEK_DATA`), which a hole (`SEEK_HOLE`) ends.
    ///
    /// # Safety
    ///
    /// For `vfs_llseek()` only.
    unsafe extern "C" fn llseek_callback(
        file: *mut bindings::file,
        offset: bindings::loff_t,
        whence: c_int,
    ) -> bindings::loff_t {
        // SAFETY: `vfs_llseek()` passes an open file.
        let size = unsafe { Self::of_file(file) }.data.size() as bindings::loff_t;
        // SAFETY: As above; the function locks the position by itself.
        unsafe { bindings::generic_file_llseek_size(file, offset, whence, size, size) }
    }

    /// # Safety
    ///
    /// For `vfs_poll()` only.
    unsafe extern "C" fn poll_callback(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: `vfs_poll()` passes an open file, whose position nobody shares, and a table that
        // is valid or null.
        let (data, file, table) = unsafe {
            (
                &Self::of_file(file).data,
                File::from_raw_file(file),
                PollTable::from_raw(table),
            )
        };
        table.register_wait(file, data.event_changed());
        data.event().mask()
    }

    /// # Safety
    ///
    /// For `setfl()` and `__fput()` only.
    unsafe extern "C" fn fasync_callback(fd: c_int, file: *mut bindings::file, on: c_int) -> c_int {
        // SAFETY: `setfl()` and `__fput()` pass an open file, which keeps the data alive.
        unsafe { Self::of_file(file).data.fasync().set(fd, file, on) }
    }

    /// # Safety
    ///
    /// For `filp_flush()` only.
    unsafe extern "C" fn flush_callback(
        file: *mut bindings::file,
        _id: bindings::fl_owner_t,
    ) -> c_int {
        // SAFETY: `filp_flush()` passes an open file.
        unsafe { Self::of_file(file).data.fasync().closed(file) };
        0
    }

    /// # Safety
    ///
    /// For `vfs_ioctl()` only.
    unsafe extern "C" fn ioctl_callback(
        file: *mut bindings::file,
        command: c_uint,
        argument: c_ulong,
    ) -> c_long {
        // SAFETY: `vfs_ioctl()` passes an open file.
        let inner = unsafe { Self::of_file(file) };
        match inner.data.ioctl(command, UserPtr::from_addr(argument)) {
            Ok(()) => 0,
            Err(err) => err.to_errno() as c_long,
        }
    }
}

/// The data of the device that an open file is of.
///
/// # Safety
///
/// `private` is that of an open file of a device that serves `T`, and stays so for `'a`.
#[cfg(CONFIG_KUNIT = "y")]
pub(super) unsafe fn data_of_private<'a, T>(private: *mut kernel::ffi::c_void) -> &'a T {
    // SAFETY: Guaranteed by the caller.
    unsafe { &(*private.cast::<Inner<T>>()).data }
}
