// SPDX-License-Identifier: GPL-2.0

//! Attributes of the character devices in sysfs.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/device.h`](srctree/include/linux/device.h)
//!
//! Staging module until it can move to `kernel::chrdev`.
//!
//! # Invariants
//!
//! An attribute for `T` is shown for devices with `T` alone: that is what its type says
//! ([`sysfs::AttributeGroups`], [`Operations::GROUPS`]).
//!
//! # Examples
//!
//! `src/driver/map/attributes.rs`: some that are read, one that is written, two for root alone.

use super::{
    file_operations::{
        Inner,
        Operations, //
    },
    sysfs, //
};
use crate::bindings;
use core::fmt::Write;
use kernel::{
    ffi::c_char,
    prelude::*,
    str::NullTerminatedFormatter, //
};

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
