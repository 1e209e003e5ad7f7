// SPDX-License-Identifier: GPL-2.0

//! Memory of a device that other modules hold: what is behind `include/linux/rpmem.h`.

use super::chrdev;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    ffi::c_void,
    prelude::*,
    str::CStr, //
};

/// What a driver whose memory can be held implements.
pub(crate) trait Operations: Sized {
    /// Lets a user hold `len` bytes from `offset` on: says where they are, in the kernel and
    /// physically, and remembers `user` until it is given back. Context: may sleep.
    ///
    /// # Errors
    ///
    /// See `rpmem_range_get()`.
    fn get(&self, user: User, offset: u64, len: u64, write: bool)
        -> Result<(NonNull<c_void>, u64)>;

    /// The user does not use it any more. Waits for a call of [`User::broken`] under way in another
    /// task. Context: may sleep.
    fn put(&self, user: User, write: bool);
}

/// A range that is held.
///
/// # Invariants
///
/// `file` is an open file of a device that `put` is for; the reference is ours.
#[repr(C)]
struct Range {
    /// What the user sees: at the start, so that a pointer to it is one to all of it.
    public: bindings::rpmem_range,
    ops: NonNull<bindings::rpmem_range_ops>,
    file: NonNull<bindings::file>,
    put: unsafe fn(NonNull<bindings::file>, User, bool),
}

/// A user of a range, until it gives that back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User(NonNull<bindings::rpmem_range>);

// SAFETY: Users of ranges are not tied to a thread.
unsafe impl Send for User {}
// SAFETY: As above.
unsafe impl Sync for User {}

impl User {
    fn range(&self) -> &Range {
        // SAFETY: The range is freed after `Operations::put`, where the driver forgets its user.
        unsafe { self.0.cast::<Range>().as_ref() }
    }

    /// Tells the user that the memory is about to be taken away. It gives the range back in the
    /// call, or later: the driver must not use `self` afterwards unless it has not been given back.
    /// Context: may sleep, no locks.
    pub(crate) fn broken(self) {
        // SAFETY: The operations are valid for as long as the range is held
        // (`rpmem_range_get()`), which it is up to this call.
        let broken = unsafe { self.range().ops.as_ref() }.broken;
        if let Some(broken) = broken {
            // SAFETY: As above.
            unsafe { broken(self.0.as_ptr()) };
        }
    }

    /// The name of the user's module.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: As above; a module is valid while its operations are, and its name is a string.
        unsafe {
            CStr::from_char_ptr(bindings::rpmem_helper_module_name(
                self.range().ops.as_ref().owner,
            ))
        }
    }
}

/// `put` of a range of a device of type `T`.
///
/// # Safety
///
/// `file` is an open file of such a device.
unsafe fn put<T: chrdev::Operations + Operations>(
    file: NonNull<bindings::file>,
    user: User,
    write: bool,
) {
    // SAFETY: Guaranteed by the caller.
    unsafe { chrdev::Registration::<T>::data_of_file(file.as_ref()) }.put(user, write);
}

/// Gets a range of a device of type `T`, for `file`.
pub(super) type Get = unsafe fn(
    NonNull<bindings::file>,
    u64,
    u64,
    bool,
    NonNull<bindings::rpmem_range_ops>,
    *mut c_void,
) -> Result<NonNull<bindings::rpmem_range>>;

/// See [`Get`].
///
/// # Safety
///
/// `file` is an open file of such a device. `ops` stays valid until the range is given back.
pub(super) unsafe fn get<T: chrdev::Operations + Operations>(
    file: NonNull<bindings::file>,
    offset: u64,
    len: u64,
    write: bool,
    ops: NonNull<bindings::rpmem_range_ops>,
    private: *mut c_void,
) -> Result<NonNull<bindings::rpmem_range>> {
    // SAFETY: Guaranteed by the caller.
    let (data, mode) = unsafe {
        (
            chrdev::Registration::<T>::data_of_file(file.as_ref()),
            file.as_ref().f_mode,
        )
    };
    if write && mode & bindings::FMODE_WRITE == 0 {
        return Err(EBADF);
    }
    // INVARIANT: The reference is taken below, before anybody can drop the range.
    let range = KBox::new(
        Range {
            public: bindings::rpmem_range {
                addr: core::ptr::null_mut(),
                phys: 0,
                len,
                writable: write,
                private,
            },
            ops,
            file,
            put: put::<T>,
        },
        GFP_KERNEL,
    )?;
    // SAFETY: The file is open.
    unsafe { bindings::rpmem_helper_get_file(file.as_ptr()) };
    let range = KBox::into_raw(range);
    // SAFETY: A box is never null, and its first field is `public`.
    let user = User(unsafe { NonNull::new_unchecked(range.cast()) });
    match data.get(user, offset, len, write) {
        Ok((addr, phys)) => {
            // SAFETY: The range is ours until its user has it.
            unsafe {
                (*range).public.addr = addr.as_ptr();
                (*range).public.phys = phys;
            }
            Ok(user.0)
        }
        Err(err) => {
            // SAFETY: From above, both.
            unsafe {
                bindings::fput(file.as_ptr());
                drop(KBox::from_raw(range));
            }
            Err(err)
        }
    }
}

/// # Safety
///
/// For `rpmem_range_get()` only.
#[no_mangle]
pub(crate) unsafe extern "C" fn rpmem_rust_range_get(
    file: *mut bindings::file,
    offset: u64,
    len: u64,
    write: bool,
    ops: *const bindings::rpmem_range_ops,
    private: *mut c_void,
) -> *mut bindings::rpmem_range {
    let range = (|| {
        let file = NonNull::new(file).ok_or(EINVAL)?;
        let ops = NonNull::new(ops.cast_mut()).ok_or(EINVAL)?;
        // SAFETY: `rpmem_range_get()` passes an open file.
        let get = chrdev::range_of(unsafe { file.as_ref() }).ok_or(EINVAL)?;
        // SAFETY: As above, and it is of a device that `get` is for; the caller keeps the
        // operations.
        unsafe { get(file, offset, len, write, ops, private) }
    })();
    match range {
        Ok(range) => range.as_ptr(),
        Err(err) => err.to_ptr(),
    }
}

/// # Safety
///
/// For `rpmem_range_put()` only.
#[no_mangle]
pub(crate) unsafe extern "C" fn rpmem_rust_range_put(range: *mut bindings::rpmem_range) {
    let Ok(Some(public)) = from_err_ptr(range).map(NonNull::new) else {
        return;
    };
    let range = public.cast::<Range>();
    // SAFETY: `rpmem_range_put()` passes a range of `get`, which nobody uses any more once the
    // driver has forgotten its user.
    unsafe {
        let (file, put, write) = {
            let range = range.as_ref();
            (range.file, range.put, range.public.writable)
        };
        put(file, User(public), write);
        drop(KBox::from_raw(range.as_ptr()));
        bindings::fput(file.as_ptr());
    }
}
