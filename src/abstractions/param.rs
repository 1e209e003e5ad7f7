// SPDX-License-Identifier: GPL-2.0

//! The module parameter `exclude`, a text that sysfs can change at any time.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h); the parameter itself
//! is in `src/c/param.c`, as the `module!` macro has numbers only, which sysfs does not show.

use crate::{
    bindings,
    logic::exclude, //
};
use kernel::{
    ffi::{
        c_char,
        c_int, //
    },
    prelude::*,
    str::BStr,
    types::NotThreadSafe, //
};

/// The value of `exclude`, which does not change while this lives.
pub(crate) struct Excluded {
    list: &'static CStr,
    // A lock is given back by the task that took it.
    _task: NotThreadSafe,
}

impl Excluded {
    /// Context: may sleep, takes `kernel_param_lock()` of the module until it is dropped.
    pub(crate) fn lock() -> Self {
        // SAFETY: No conditions but the context.
        let list = unsafe { bindings::rpmem_helper_exclude_lock() };
        // SAFETY: It is a valid string until the lock is given back, and `list()` borrows `self`.
        let list = unsafe { CStr::from_char_ptr(list) };
        Self {
            list,
            _task: NotThreadSafe,
        }
    }

    /// The list, for [`exclude::excludes`].
    pub(crate) fn list(&self) -> &[u8] {
        self.list.to_bytes()
    }
}

impl Drop for Excluded {
    fn drop(&mut self) {
        // SAFETY: `lock` took it, in this task, as `Self` is not `Send`.
        unsafe { bindings::rpmem_helper_exclude_unlock() };
    }
}

/// # Safety
///
/// For `exclude_set()` only.
#[no_mangle]
pub(crate) unsafe extern "C" fn rpmem_rust_exclude_check(list: *const c_char) -> c_int {
    // SAFETY: `exclude_set()` passes a string that stays as it is during the call.
    let list = unsafe { CStr::from_char_ptr(list) };
    match exclude::check(list.to_bytes()) {
        Ok(()) => 0,
        Err(word) => {
            pr_err!(
                "exclude: '{}' is no mode, namespace, region or UUID\n",
                BStr::from_bytes(word)
            );
            EINVAL.to_errno()
        }
    }
}
