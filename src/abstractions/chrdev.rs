// SPDX-License-Identifier: GPL-2.0

//! Character devices whose files can be mapped.
//!
//! C headers: [`include/linux/cdev.h`](srctree/include/linux/cdev.h),
//! [`include/linux/device/class.h`](srctree/include/linux/device/class.h),
//! [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! Staging module until it can move to `kernel::chrdev`. `kernel::miscdevice` has only the
//! deprecated `->mmap`, no `->fsync` and no `->get_unmapped_area`.
//!
//! # Who keeps whom alive
//!
//! A device is a `struct device` with a `struct cdev` and the driver's data in one allocation. An
//! open file holds the cdev, which holds the device (`cdev_set_parent()`); a mapping holds its file.
//! So the data outlives all of them, and dropping a [`Registration`] only takes the name away: files
//! that are open stay so. They also hold [`Operations::OWNER`].

use super::{
    device_raw,
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
use core::{
    fmt::Write,
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    device::{
        Core,
        Device, //
    },
    error::{
        from_result,
        to_result, //
    },
    ffi::{
        c_char,
        c_int,
        c_long,
        c_uint,
        c_ulong,
        c_void, //
    },
    fs::File,
    prelude::*,
    str::NullTerminatedFormatter,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        poll::{
            PollCondVar,
            PollTable, //
        }, //
    },
    types::Opaque,
    uaccess::UserPtr,
    ThisModule, //
};

/// Devices that there can be at a time.
const MINORS: u32 = 1 << bindings::MINORBITS;

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

/// Gets a range of memory of a device for another module: its file, offset and length in bytes, whether
/// for writing, and what belongs to that module.
type Get = unsafe fn(
    NonNull<bindings::file>,
    u64,
    u64,
    bool,
    NonNull<bindings::rpmem_range_ops>,
    *mut c_void,
) -> Result<NonNull<bindings::rpmem_range>>;

/// How other modules hold memory of devices with `T`.
///
/// # Invariants
///
/// The function may be called for an open file of such a device and operations that stay valid until
/// the range is given back.
pub(crate) struct Ranges<T>(Get, PhantomData<fn(T)>);

impl<T> Ranges<T> {
    /// # Safety
    ///
    /// `get` keeps the type invariants.
    pub(super) const unsafe fn new(get: Get) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self(get, PhantomData)
    }
}

/// What a driver of a character device implements, on the data of a device.
pub(crate) trait Operations: vm::Operations {
    /// The module that open files keep loaded.
    const OWNER: &'static ThisModule;

    /// Attributes of the device in sysfs.
    const GROUPS: &'static sysfs::AttributeGroups<Self>;

    /// How other modules hold its memory.
    const RANGES: &'static Ranges<Self>;

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

/// Major number of the devices; 0 while there is none.
static MAJOR: Atomic<u32> = Atomic::new(0);

/// A C structure with a lock of its own, for a `static`.
#[repr(transparent)]
struct Storage<T>(Opaque<T>);

// SAFETY: Only used for structures that lock by themselves.
unsafe impl<T> Sync for Storage<T> {}

static CLASS: Storage<bindings::class> = Storage(Opaque::new(class()));
static NUMBERS: Storage<bindings::ida> = Storage(Opaque::zeroed());

#[expect(clippy::disallowed_methods, reason = "`as_char_ptr` is not const")]
const fn class() -> bindings::class {
    let mut class: bindings::class = pin_init::zeroed();
    class.name = c"rpmem".as_ptr().cast();
    class
}

/// The class of the devices, and the numbers for them.
///
/// # Invariants
///
/// Class and numbers are registered.
pub(crate) struct Class(());

impl Class {
    /// Registers the class `rpmem`. At most once at a time.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `EBUSY`, `ENOMEM`. Context: may sleep.
    pub(crate) fn register() -> Result<Self> {
        // SAFETY: The structure is static and zeroed, or was destroyed, and nobody uses it yet.
        unsafe { bindings::rpmem_helper_ida_init(NUMBERS.0.get()) };
        let mut first = 0;
        // SAFETY: The name is a static string, the out-pointer is to a local.
        to_result(unsafe {
            bindings::alloc_chrdev_region(&mut first, 0, MINORS, c"rpmem".as_char_ptr())
        })?;
        // SAFETY: The class is static, complete, and not registered.
        let ret = to_result(unsafe { bindings::class_register(CLASS.0.get()) });
        if let Err(err) = ret {
            // SAFETY: Allocated just now.
            unsafe { bindings::unregister_chrdev_region(first, MINORS) };
            return Err(err);
        }
        MAJOR.store(first >> bindings::MINORBITS, Relaxed);
        // INVARIANT: Registered just now.
        Ok(Self(()))
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        let first = MAJOR.xchg(0, Relaxed) << bindings::MINORBITS;
        // SAFETY: By the type invariants class and numbers are registered. There are no devices:
        // open files hold the module, and the drivers that make devices are unregistered before.
        unsafe {
            bindings::class_unregister(CLASS.0.get());
            bindings::unregister_chrdev_region(first, MINORS);
            bindings::ida_destroy(NUMBERS.0.get());
        }
    }
}

/// A device with its data.
#[pin_data]
struct Inner<T> {
    #[pin]
    data: T,
    #[pin]
    dev: Opaque<bindings::device>,
    #[pin]
    cdev: Opaque<bindings::cdev>,
    minor: u32,
}

impl<T> Inner<T> {
    /// # Safety
    ///
    /// `dev` is that of a live `Inner<T>`.
    unsafe fn of_device(dev: *mut bindings::device) -> *mut Self {
        // SAFETY: Guaranteed by the caller.
        unsafe { kernel::container_of!(Opaque::cast_from(dev), Self, dev) }.cast_mut()
    }

    fn device(&self) -> &Device {
        // SAFETY: The device is initialised and lives as long as `self`. CAST: `Device` is a
        // transparent wrapper of `Opaque<bindings::device>`.
        unsafe { &*self.dev.get().cast::<Device>() }
    }
}

/// The operations of a device's files, and how other modules hold its memory.
struct Table {
    file: bindings::file_operations,
    range: Get,
}

/// That of the devices of this module, which are of one kind; null before the first.
static TABLE: Atomic<*const Table> = Atomic::new(core::ptr::null());

/// How to hold memory of the device that `file` is of; `None` if it is not of a device of this
/// module. The module has other files (debugfs): its name in the operations says nothing.
pub(super) fn range_of(file: &bindings::file) -> Option<Get> {
    // SAFETY: Null, or a constant (`Registration::new`).
    let table = unsafe { TABLE.load(Relaxed).as_ref() }?;
    core::ptr::eq(file.f_op, &table.file).then_some(table.range)
}

/// A registered device. Dropping it takes the name away, see the head of this file.
///
/// # Invariants
///
/// The pointer is to a device that was added, and holds a reference.
pub(crate) struct Registration<T: Operations>(NonNull<Inner<T>>);

// SAFETY: A `struct device` is reference counted and not tied to a thread, and `T` is `Send + Sync`.
unsafe impl<T: Operations> Send for Registration<T> {}
// SAFETY: As above.
unsafe impl<T: Operations> Sync for Registration<T> {}

impl<T: Operations> Registration<T> {
    /// Makes a device `name` with `data`, a child of `parent`.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the name is taken, `ENOSPC`, `ENOMEM`, those of `data`. Context: may sleep; needs
    /// a [`Class`].
    pub(crate) fn new(
        parent: &Device<Core<'_>>,
        name: &CStr,
        data: impl PinInit<T, Error>,
    ) -> Result<Self> {
        // SAFETY: A class is registered, so the numbers are initialised.
        let minor = unsafe {
            bindings::ida_alloc_range(NUMBERS.0.get(), 0, MINORS - 1, bindings::GFP_KERNEL)
        };
        to_result(minor)?;
        TABLE.store(Self::TABLE, Relaxed);
        let minor = minor as u32;

        let inner = KBox::pin_init(
            try_pin_init!(Inner {
                data <- data,
                // SAFETY: The structure is valid, zeroed, and pinned until its release.
                dev <- Opaque::ffi_init(|dev: *mut bindings::device| unsafe {
                    dev.write_bytes(0, 1);
                    bindings::device_initialize(dev);
                }),
                // SAFETY: As above; the operations are static.
                cdev <- Opaque::ffi_init(|cdev: *mut bindings::cdev| unsafe {
                    bindings::cdev_init(cdev, Self::FOPS);
                    (*cdev).owner = T::OWNER.as_ptr();
                }),
                minor,
            }? Error),
            GFP_KERNEL,
        )
        // SAFETY: Allocated above.
        .inspect_err(|_| unsafe { bindings::ida_free(NUMBERS.0.get(), minor) })?;

        // SAFETY: Pinned data is not moved out: the pointer is only given back to a box to be
        // dropped.
        let inner = KBox::into_raw(unsafe { Pin::into_inner_unchecked(inner) });
        // SAFETY: `inner` is valid and ours; from here on the device is dropped by its reference
        // count. `dev_set_name()` copies the name.
        let ret = unsafe {
            let dev = (*inner).dev.get();
            (*dev).release = Some(Self::release_device_callback);
            (*dev).class = CLASS.0.get();
            (*dev).type_ = Self::TYPE;
            (*dev).parent = device_raw(parent);
            (*dev).groups = T::GROUPS.as_ptr();
            (*dev).devt = MAJOR.load(Relaxed) << bindings::MINORBITS | minor;
            to_result(bindings::dev_set_name(
                dev,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            ))
            .and_then(|()| to_result(bindings::cdev_device_add((*inner).cdev.get(), dev)))
        };
        if let Err(err) = ret {
            // SAFETY: The reference is ours, from `device_initialize()`.
            unsafe { bindings::put_device((*inner).dev.get()) };
            return Err(err);
        }
        // INVARIANT: Added just now. A box is never null.
        NonNull::new(inner).map(Self).ok_or(ENOMEM)
    }

    /// The data of the device.
    pub(crate) fn data(&self) -> &T {
        // SAFETY: By the type invariants the device is valid.
        unsafe { &(*self.0.as_ptr()).data }
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        // SAFETY: As above.
        unsafe { self.0.as_ref() }.device()
    }

    // libnvdimm's devices take no part in power management: their drivers are not asked.
    const TYPE: &'static bindings::device_type = &bindings::device_type {
        pm: &bindings::dev_pm_ops {
            prepare: Some(Self::prepare_callback),
            ..pin_init::zeroed()
        },
        ..pin_init::zeroed()
    };

    const FOPS: &'static bindings::file_operations = &Self::TABLE.file;

    const TABLE: &'static Table = &Table {
        range: T::RANGES.0,
        file: Self::FILE,
    };

    const FILE: bindings::file_operations = bindings::file_operations {
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

    extern "C" fn prepare_callback(dev: *mut bindings::device) -> c_int {
        // SAFETY: `device_prepare()` passes a device of this type, hence that of an `Inner<T>`, to which
        // `dpm_prepare()` holds a reference.
        let inner = unsafe { &*Inner::<T>::of_device(dev) };
        from_result(|| inner.data.prepare_sleep(inner.device()).map(|()| 0))
    }

    /// The data of the device that a file is of.
    ///
    /// # Safety
    ///
    /// `file` is one that `open_callback` has opened.
    pub(super) unsafe fn data_of_file(file: &bindings::file) -> &T {
        // SAFETY: Guaranteed by the caller.
        &unsafe { Self::of_file(file) }.data
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
    /// For `device_release()` only.
    unsafe extern "C" fn release_device_callback(dev: *mut bindings::device) {
        // SAFETY: `device_release()` passes a device with this callback, hence in an `Inner<T>`,
        // to which nobody has a reference any more; it is from `KBox::into_raw()`.
        let inner = unsafe { KBox::from_raw(Inner::<T>::of_device(dev)) };
        // SAFETY: The number was allocated for this device.
        unsafe { bindings::ida_free(NUMBERS.0.get(), inner.minor) };
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

impl<T: Operations> Drop for Registration<T> {
    fn drop(&mut self) {
        let inner = self.0.as_ptr();
        // SAFETY: By the type invariants the device was added and the reference is ours.
        unsafe {
            bindings::cdev_device_del((*inner).cdev.get(), (*inner).dev.get());
            bindings::put_device((*inner).dev.get());
        }
    }
}

/// A device that was registered when it was found, and is kept since.
///
/// # Invariants
///
/// The pointer is to a device that was added, and holds a reference.
pub(crate) struct Handle<T: Operations>(NonNull<Inner<T>>);

impl<T: Operations> Handle<T> {
    /// Finds the registered device whose data `wanted` says yes to. Context: may sleep; needs a
    /// [`Class`].
    pub(crate) fn find<F: FnMut(&T) -> bool>(mut wanted: F) -> Option<Self> {
        // SAFETY: The class is registered; the callback gets the closure that it is for, which
        // outlives the call.
        let dev = unsafe {
            bindings::class_find_device(
                CLASS.0.get(),
                core::ptr::null(),
                (&raw mut wanted).cast_const().cast(),
                Some(Self::find_callback::<F>),
            )
        };
        let dev = NonNull::new(dev)?;
        // SAFETY: The callback has said yes to this device, so that it is in an `Inner<T>`.
        // INVARIANT: The reference that was taken for the caller is ours.
        NonNull::new(unsafe { Inner::<T>::of_device(dev.as_ptr()) }).map(Self)
    }

    /// # Safety
    ///
    /// For `class_find_device()` only, as [`Handle::find`] calls it: `wanted` is its closure.
    unsafe extern "C" fn find_callback<F: FnMut(&T) -> bool>(
        dev: *mut bindings::device,
        wanted: *const c_void,
    ) -> c_int {
        // SAFETY: `class_find_device()` passes a valid device. Which data a device of this class has
        // is told by its attributes, which are made for that data (`Operations::GROUPS`).
        if unsafe { (*dev).groups } != T::GROUPS.as_ptr() {
            return 0;
        }
        // SAFETY: As above; the iteration holds the device. Guaranteed by the caller.
        let (data, wanted) = unsafe {
            (
                &(*Inner::<T>::of_device(dev)).data,
                &mut *wanted.cast_mut().cast::<F>(),
            )
        };
        wanted(data).into()
    }

    /// The data of the device.
    pub(crate) fn data(&self) -> &T {
        // SAFETY: By the type invariants the device is valid.
        unsafe { &(*self.0.as_ptr()).data }
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        // SAFETY: As above.
        unsafe { self.0.as_ref() }.device()
    }
}

impl<T: Operations> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::put_device((*self.0.as_ptr()).dev.get()) };
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

/// An attribute of a device.
pub(crate) trait DeviceAttribute<T> {
    /// File name.
    const NAME: &'static CStr;

    /// Whether root alone may read it.
    const PRIVATE: bool = false;

    /// Takes over what is written to it, without the newline; `None` if it is read-only. Context:
    /// may sleep; the device is registered.
    const STORE: Option<fn(&T, &[u8]) -> Result> = None;

    /// What is in it: up to a page. Context: as above.
    ///
    /// # Errors
    ///
    /// If it does not fit.
    fn show(data: &T, out: &mut dyn Write) -> core::fmt::Result;
}

/// The C structure for `A`.
#[expect(clippy::disallowed_methods, reason = "`as_char_ptr` is not const")]
pub(crate) const fn attribute<T: Operations, A: DeviceAttribute<T>>() -> sysfs::Attribute<T> {
    let mut attr: bindings::device_attribute = pin_init::zeroed();
    attr.attr.name = A::NAME.as_ptr().cast();
    attr.attr.mode = if A::PRIVATE { 0o400 } else { 0o444 };
    attr.__bindgen_anon_1.show = Some(show_callback::<T, A>);
    if A::STORE.is_some() {
        attr.attr.mode |= 0o200;
        attr.__bindgen_anon_2.store = Some(store_callback::<T, A>);
    }
    // SAFETY: Groups of `T` are used for devices with `T` alone (`Operations::GROUPS`).
    unsafe { sysfs::Attribute::from_raw(attr) }
}

/// # Safety
///
/// For `dev_attr_show()` only: `dev` is that of an `Inner<T>`, `buf` a page.
unsafe extern "C" fn show_callback<T: Operations, A: DeviceAttribute<T>>(
    dev: *mut bindings::device,
    _attr: *mut bindings::device_attribute,
    buf: *mut c_char,
) -> isize {
    // SAFETY: `dev_attr_show()` is called for a device that has this attribute, in an `Inner<T>`.
    let data = unsafe { &(*Inner::<T>::of_device(dev)).data };
    // SAFETY: sysfs gives a buffer of a page.
    let page = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), bindings::PAGE_SIZE) };
    let Some(mut text) = NullTerminatedFormatter::new(page) else {
        return 0;
    };
    match A::show(data, &mut text) {
        // SAFETY: The formatter has terminated the string.
        Ok(()) => unsafe { bindings::strlen(buf) as isize },
        Err(_) => EIO.to_errno() as isize,
    }
}

/// # Safety
///
/// For `dev_attr_store()` only: `dev` is that of an `Inner<T>`, `buf` is of `len` bytes.
unsafe extern "C" fn store_callback<T: Operations, A: DeviceAttribute<T>>(
    dev: *mut bindings::device,
    _attr: *mut bindings::device_attribute,
    buf: *const c_char,
    len: usize,
) -> isize {
    // SAFETY: `dev_attr_store()` is called for a device that has this attribute, in an `Inner<T>`.
    let data = unsafe { &(*Inner::<T>::of_device(dev)).data };
    // SAFETY: sysfs gives a buffer of that length.
    let text = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), len) };
    let result = match A::STORE {
        Some(store) => store(data, text.strip_suffix(b"\n").unwrap_or(text)),
        None => Err(EIO),
    };
    match result {
        Ok(()) => len as isize,
        Err(err) => err.to_errno() as isize,
    }
}
