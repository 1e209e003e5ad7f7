// SPDX-License-Identifier: GPL-2.0

//! Attributes of devices in sysfs.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/device.h`](srctree/include/linux/device.h)
//!
//! Staging module until it can move to `kernel::sysfs`.
//!
//! # Examples
//!
//! `src/driver/sysfs.rs` is an attribute in a folder of its own.

use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// The C structure of an attribute, for a `static`.
#[repr(transparent)]
pub(crate) struct Attribute<T>(bindings::device_attribute, PhantomData<fn(T)>);

// SAFETY: sysfs reads the structure and does not change it.
unsafe impl<T> Sync for Attribute<T> {}

impl<T> Attribute<T> {
    /// An attribute with callbacks of its own.
    ///
    /// # Safety
    ///
    /// The callbacks are for devices that [`AttributeGroups<T>`] is used for.
    pub(super) const unsafe fn from_raw(attr: bindings::device_attribute) -> Self {
        Self(attr, PhantomData)
    }

    /// The C structure, as sysfs passes it to the callbacks.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn as_raw(&'static self) -> *mut bindings::device_attribute {
        (&raw const self.0).cast_mut()
    }

    const fn as_ptr(&'static self) -> *mut bindings::attribute {
        (&raw const self.0.attr).cast_mut()
    }
}

/// A null-terminated list of attributes, for a `static`.
pub(crate) struct Attributes<T, const N: usize>([*mut bindings::attribute; N], PhantomData<fn(T)>);

// SAFETY: sysfs reads the list and does not change it.
unsafe impl<T, const N: usize> Sync for Attributes<T, N> {}

impl<T, const N: usize> Attributes<T, N> {
    /// A list of `M` attributes; `N` is one more.
    pub(crate) const fn new<const M: usize>(attrs: [&'static Attribute<T>; M]) -> Self {
        const { assert!(N == M + 1) };
        let mut list = [core::ptr::null_mut(); N];
        let mut i = 0;
        while i < M {
            list[i] = attrs[i].as_ptr();
            i += 1;
        }
        Self(list, PhantomData)
    }
}

/// Makes a list of attributes, as it counts them, and the C structure of each.
///
/// ```ignore
/// sysfs::attributes! {
///     static LIST: Node = attribute[Size, NumaNode];
/// }
/// ```
///
/// `attribute` is the function that makes the structure: that of `device_attributes` or of
/// `disk_attributes`.
macro_rules! attributes {
    (static $list:ident: $data:ty = $make:ident[$($attr:ty),+ $(,)?];) => {
        static $list: $crate::abstractions::sysfs::Attributes<
            $data,
            { [$(stringify!($attr)),+].len() + 1 },
        > = $crate::abstractions::sysfs::Attributes::new([$({
            static ATTRIBUTE: $crate::abstractions::sysfs::Attribute<$data> =
                $make::<$data, $attr>();
            &ATTRIBUTE
        }),+]);
    };
}
pub(crate) use attributes;

/// A folder of attributes, for a `static`.
pub(crate) struct AttributeGroup<T>(bindings::attribute_group, PhantomData<fn(T)>);

// SAFETY: sysfs reads the structure and does not change it.
unsafe impl<T> Sync for AttributeGroup<T> {}

impl<T> AttributeGroup<T> {
    /// The attributes `attrs` in a folder `name`, or in that of the device.
    #[expect(clippy::disallowed_methods, reason = "`as_char_ptr` is not const")]
    pub(crate) const fn new<const N: usize>(
        name: Option<&'static CStr>,
        attrs: &'static Attributes<T, N>,
    ) -> Self {
        let mut group: bindings::attribute_group = pin_init::zeroed();
        if let Some(name) = name {
            group.name = name.as_ptr().cast();
        }
        group.__bindgen_anon_2.attrs = attrs.0.as_ptr().cast_mut();
        Self(group, PhantomData)
    }
}

/// A null-terminated list of groups, for a `static`.
pub(crate) struct AttributeGroups<T>([*const bindings::attribute_group; 2], PhantomData<fn(T)>);

// SAFETY: sysfs reads the list and does not change it.
unsafe impl<T> Sync for AttributeGroups<T> {}

impl<T> AttributeGroups<T> {
    /// A list of one.
    pub(crate) const fn new(group: &'static AttributeGroup<T>) -> Self {
        Self([&raw const group.0, core::ptr::null()], PhantomData)
    }

    /// An empty list.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) const fn none() -> Self {
        Self([core::ptr::null(); 2], PhantomData)
    }

    /// For `device_add_disk()` and `device_add()`.
    pub(super) fn as_ptr(&'static self) -> *mut *const bindings::attribute_group {
        self.0.as_ptr().cast_mut()
    }
}

/// A sysfs file whose watchers (poll) can be told that it has changed.
///
/// # Invariants
///
/// The pointer is a reference from `sysfs_get_dirent()`.
pub(crate) struct Dirent(NonNull<bindings::kernfs_node>);

// SAFETY: A kernfs node is reference counted and not tied to a thread.
unsafe impl Send for Dirent {}
// SAFETY: `kernfs_notify()` may be called from any context.
unsafe impl Sync for Dirent {}

impl Dirent {
    /// The file `name` in `folder`; `None` if there is none.
    ///
    /// # Safety
    ///
    /// `folder` is one of a live device.
    pub(super) unsafe fn get(folder: *mut bindings::kernfs_node, name: &CStr) -> Option<Self> {
        // SAFETY: Guaranteed by the caller.
        let node = unsafe { bindings::rpmem_helper_sysfs_get_dirent(folder, name.as_char_ptr()) };
        // INVARIANT: A reference from `sysfs_get_dirent()`.
        NonNull::new(node).map(Self)
    }

    /// Wakes the watchers of the file. Context: any.
    pub(crate) fn notify(&self) {
        // SAFETY: By the type invariants we hold a reference.
        unsafe { bindings::rpmem_helper_sysfs_notify_dirent(self.0.as_ptr()) };
    }
}

impl Drop for Dirent {
    fn drop(&mut self) {
        // SAFETY: By the type invariants we hold a reference, and give it up.
        unsafe { bindings::rpmem_helper_sysfs_put(self.0.as_ptr()) };
    }
}
