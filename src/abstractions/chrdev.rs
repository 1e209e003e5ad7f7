// SPDX-License-Identifier: GPL-2.0

//! Character devices.
//!
//! C headers: [`include/linux/cdev.h`](srctree/include/linux/cdev.h),
//! [`include/linux/device/class.h`](srctree/include/linux/device/class.h)
//!
//! Staging module until it can move to `kernel::chrdev`.
//!
//! # Who keeps whom alive
//!
//! A device is a `struct device` with a `struct cdev` and the driver's data in one allocation. An
//! open file holds the cdev, which holds the device (`cdev_set_parent()`); a mapping holds its file.
//! So the data outlives all of them, and dropping a [`Registration`] only takes the name away: files
//! that are open stay so. They also hold [`Operations::OWNER`].
//!
//! # Examples
//!
//! `BoundNode` in `src/driver/map.rs` registers a device, and `set_disk_read_only()` there finds it.

use super::{
    device_raw,
    file_operations::{
        Files,
        Inner,
        Operations, //
    }, //
};
use crate::bindings;
use core::ptr::NonNull;
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
        c_int,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

/// Devices that there can be at a time.
const MINORS: u32 = 1 << bindings::MINORBITS;

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
                    bindings::cdev_init(cdev, Files::<T>::FOPS);
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

    extern "C" fn prepare_callback(dev: *mut bindings::device) -> c_int {
        // SAFETY: `device_prepare()` passes a device of this type, hence that of an `Inner<T>`, to which
        // `dpm_prepare()` holds a reference.
        let inner = unsafe { &*Inner::<T>::of_device(dev) };
        from_result(|| inner.data.prepare_sleep(inner.device()).map(|()| 0))
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
