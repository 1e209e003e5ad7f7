// SPDX-License-Identifier: GPL-2.0

//! Attributes of disks in sysfs.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)
//!
//! Staging module until it can move to `kernel::block::disk`.
//!
//! # Examples
//!
//! `Flag` in the KUnit tests at the end of this file is an attribute of a `TestDisk`.

use super::{
    block::{
        GenDisk,
        Operations, //
    },
    sysfs::{
        Attribute,
        Dirent, //
    }, //
};
use crate::bindings;
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

/// The C structure for `A`.
#[expect(clippy::disallowed_methods, reason = "`as_char_ptr` is not const")]
pub(crate) const fn attribute<T: Operations, A: BoolAttribute<T>>() -> Attribute<T> {
    let mut attr: bindings::device_attribute = pin_init::zeroed();
    attr.attr.name = A::NAME.as_ptr().cast();
    attr.attr.mode = 0o644;
    attr.__bindgen_anon_1.show = Some(show_callback::<T, A>);
    attr.__bindgen_anon_2.store = Some(store_callback::<T, A>);
    // SAFETY: Groups of `T` are used for disks that serve `T` alone (`NewDisk::<T>::add`).
    unsafe { Attribute::from_raw(attr) }
}

/// # Safety
///
/// `dev` is the device of a live disk that serves `T`.
unsafe fn data<'a, T: Operations>(
    dev: *mut bindings::device,
) -> <Arc<T> as ForeignOwnable>::Borrowed<'a> {
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
unsafe extern "C" fn show_callback<T: Operations, A: BoolAttribute<T>>(
    dev: *mut bindings::device,
    _attr: *mut bindings::device_attribute,
    buf: *mut c_char,
) -> isize {
    // SAFETY: `dev_attr_show()` is called while the disk is live, and the group was registered
    // for `T` (`AttributeGroups<T>` in `NewDisk::<T>::add()`).
    let data = unsafe { data::<T>(dev) };
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
unsafe extern "C" fn store_callback<T: Operations, A: BoolAttribute<T>>(
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
    let data = unsafe { data::<T>(dev) };
    A::store(&data, value);
    len as isize
}

/// The attribute `name` of a disk; `None` if there is none.
pub(crate) fn file_of<T: Operations>(disk: &GenDisk<T>, name: &CStr) -> Option<Dirent> {
    // SAFETY: The disk is live, hence so is its device and the folder of that in sysfs.
    unsafe {
        let part0 = (*disk.as_raw()).part0;
        Dirent::get((*part0).bd_device.kobj.sd, name)
    }
}

#[kernel::macros::kunit_tests(rpmem_sysfs)]
mod tests {
    use super::*;
    use crate::abstractions::{
        kunit::{
            TestDevice,
            TestDisk, //
        },
        sysfs::{
            AttributeGroup,
            AttributeGroups,
            Attributes, //
        }, //
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

    static FLAG: Attribute<TestDisk> = attribute::<TestDisk, Flag>();
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
            show_callback::<TestDisk, Flag>(
                &raw mut (*part0).bd_device,
                FLAG.as_raw(),
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
            store_callback::<TestDisk, Flag>(
                &raw mut (*part0).bd_device,
                FLAG.as_raw(),
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
        assert!(file_of(&disk, c"folder").is_some());
        assert!(file_of(&disk, c"flag").is_none());
        let badblocks = file_of(&disk, c"badblocks");
        assert!(badblocks.is_some());
        // A file may be told about after the disk has gone.
        drop(disk);
        if let Some(file) = badblocks {
            file.notify();
        }
        Ok(())
    }
}
