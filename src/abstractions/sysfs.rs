// SPDX-License-Identifier: GPL-2.0

//! Attributes of devices in sysfs.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/device.h`](srctree/include/linux/device.h)
//!
//! Staging module until it can move to `kernel::sysfs`.

use super::block::{
    GenDisk,
    Operations, //
};
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_char,
    prelude::*,
    sync::Arc,
    types::ForeignOwnable, //
};

/// A boolean attribute of a disk that serves `T`, readable by all and writable by root.
pub(crate) trait BoolAttribute<T: Operations> {
    /// File name.
    const NAME: &'static CStr;

    /// The value. Context: may sleep; the disk is live.
    fn show(data: &T) -> bool;

    /// Sets the value. Context: as for `show`.
    fn store(data: &T, value: bool);
}

/// The C structure of an attribute, for a `static`.
#[repr(transparent)]
pub(crate) struct Attribute<T>(bindings::device_attribute, PhantomData<fn(T)>);

// SAFETY: sysfs reads the structure and does not change it.
unsafe impl<T> Sync for Attribute<T> {}

impl<T: Operations> Attribute<T> {
    /// The C structure for `A`.
    #[expect(clippy::disallowed_methods, reason = "`as_char_ptr` is not const")]
    pub(crate) const fn new<A: BoolAttribute<T>>() -> Self {
        let mut attr: bindings::device_attribute = pin_init::zeroed();
        attr.attr.name = A::NAME.as_ptr().cast();
        attr.attr.mode = 0o644;
        attr.__bindgen_anon_1.show = Some(Self::show_callback::<A>);
        attr.__bindgen_anon_2.store = Some(Self::store_callback::<A>);
        Self(attr, PhantomData)
    }

    /// # Safety
    ///
    /// `dev` is the device of a live disk that serves `T`.
    unsafe fn data<'a>(dev: *mut bindings::device) -> <Arc<T> as ForeignOwnable>::Borrowed<'a> {
        // SAFETY: The caller guarantees that this is a live disk of type `GenDisk<T>`, which holds
        // its data until sysfs has let go of the attribute (`del_gendisk()`).
        unsafe {
            Arc::<T>::borrow(
                (*bindings::rpmem_helper_dev_to_disk(dev))
                    .private_data
                    .cast(),
            )
        }
    }

    /// # Safety
    ///
    /// For `dev_attr_show()` only: `dev` is the device of a live disk that serves `T`, `buf` a
    /// page.
    unsafe extern "C" fn show_callback<A: BoolAttribute<T>>(
        dev: *mut bindings::device,
        _attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: `dev_attr_show()` is called while the disk is live, and the group was registered
        // for `T` (`AttributeGroups<T>` in `NewDisk::<T>::add()`).
        let data = unsafe { Self::data(dev) };
        let digit = if A::show(&data) { b'1' } else { b'0' };
        // SAFETY: sysfs gives a buffer of a page.
        unsafe {
            buf.write(digit as c_char);
            buf.add(1).write(b'\n' as c_char);
        }
        2
    }

    /// # Safety
    ///
    /// For `dev_attr_store()` only: `dev` is the device of a live disk that serves `T`, `buf` a
    /// null-terminated string of `len` bytes.
    unsafe extern "C" fn store_callback<A: BoolAttribute<T>>(
        dev: *mut bindings::device,
        _attr: *mut bindings::device_attribute,
        buf: *const c_char,
        len: usize,
    ) -> isize {
        let mut value = false;
        // SAFETY: sysfs gives a null-terminated string.
        let ret = unsafe { bindings::kstrtobool(buf, &mut value) };
        if ret != 0 {
            return ret as isize;
        }
        // SAFETY: As in `show_callback`.
        let data = unsafe { Self::data(dev) };
        A::store(&data, value);
        len as isize
    }
}

impl<T> Attribute<T> {
    /// An attribute with callbacks of its own.
    ///
    /// # Safety
    ///
    /// The callbacks are for devices that [`AttributeGroups<T>`] is used for.
    pub(super) const unsafe fn from_raw(attr: bindings::device_attribute) -> Self {
        Self(attr, PhantomData)
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
    /// The attribute `name` of a disk; `None` if there is none.
    pub(crate) fn of_disk<T: Operations>(disk: &GenDisk<T>, name: &CStr) -> Option<Self> {
        // SAFETY: The disk is live, hence so is its device and the folder of that in sysfs.
        let node = unsafe {
            let part0 = (*disk.as_raw()).part0;
            bindings::rpmem_helper_sysfs_get_dirent((*part0).bd_device.kobj.sd, name.as_char_ptr())
        };
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

#[kernel::macros::kunit_tests(rpmem_sysfs)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        TestDevice,
        TestDisk, //
    };

    struct Flag;

    impl BoolAttribute<TestDisk> for Flag {
        const NAME: &'static CStr = c"flag";

        fn show(data: &TestDisk) -> bool {
            data.flag()
        }

        fn store(data: &TestDisk, value: bool) {
            data.set_flag(value);
        }
    }

    static FLAG: Attribute<TestDisk> = Attribute::new::<Flag>();
    static ATTRIBUTES: Attributes<TestDisk, 2> = Attributes::new([&FLAG]);
    static GROUP: AttributeGroup<TestDisk> = AttributeGroup::new(Some(c"folder"), &ATTRIBUTES);
    static GROUPS: AttributeGroups<TestDisk> = AttributeGroups::new(&GROUP);

    fn disk(dev: &TestDevice, data: Arc<TestDisk>) -> Result<GenDisk<TestDisk>> {
        let disk = TestDisk::disk(dev, data)?;
        disk.add(dev.core(), &GROUPS).map_err(|(err, _)| err)
    }

    /// What the attribute shows.
    fn show(disk: &GenDisk<TestDisk>) -> [u8; 3] {
        let mut buf = [0; 3];
        // SAFETY: The disk is live, and what is shown has two bytes.
        let len = unsafe {
            let part0 = (*disk.as_raw()).part0;
            Attribute::<TestDisk>::show_callback::<Flag>(
                &raw mut (*part0).bd_device,
                (&raw const FLAG.0).cast_mut(),
                buf.as_mut_ptr().cast(),
            )
        };
        buf[2] = len as u8;
        buf
    }

    fn store(disk: &GenDisk<TestDisk>, text: &CStr) -> isize {
        // SAFETY: The disk is live, and the text ends with a null byte.
        unsafe {
            let part0 = (*disk.as_raw()).part0;
            Attribute::<TestDisk>::store_callback::<Flag>(
                &raw mut (*part0).bd_device,
                (&raw const FLAG.0).cast_mut(),
                text.as_char_ptr(),
                text.to_bytes().len(),
            )
        }
    }

    #[test]
    fn an_attribute_shows_and_stores() -> Result {
        let dev = TestDevice::new()?;
        let data = TestDisk::new()?;
        let disk = disk(&dev, data.clone())?;
        assert_eq!(show(&disk), *b"0\n\x02");
        assert_eq!(store(&disk, c"1\n"), 2);
        assert!(data.flag());
        assert_eq!(show(&disk), *b"1\n\x02");
        assert_eq!(store(&disk, c"maybe"), EINVAL.to_errno() as isize);
        assert!(data.flag());
        assert_eq!(store(&disk, c"off"), 3);
        assert!(!data.flag());
        Ok(())
    }

    #[test]
    fn files_of_a_disk_are_found_by_name() -> Result {
        let dev = TestDevice::new()?;
        let disk = disk(&dev, TestDisk::new()?)?;
        assert!(Dirent::of_disk(&disk, c"folder").is_some());
        assert!(Dirent::of_disk(&disk, c"flag").is_none());
        let badblocks = Dirent::of_disk(&disk, c"badblocks");
        assert!(badblocks.is_some());
        // A file may be told about after the disk has gone.
        drop(disk);
        if let Some(file) = badblocks {
            file.notify();
        }
        Ok(())
    }
}
