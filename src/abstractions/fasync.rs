// SPDX-License-Identifier: GPL-2.0

//! Signals to those who want to know of an event on a file (`O_ASYNC`, `F_SETOWN`, `F_SETSIG`).
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! Staging module until it can move to `kernel::fs`.
//!
//! # Examples
//!
//! `DeviceLease` in `src/driver/lease.rs` signals those who have asked for it.

use crate::bindings;
use core::cell::UnsafeCell;
use kernel::ffi::c_int;

/// The files whose owners want a signal.
///
/// # Invariants
///
/// A list that only `fasync_helper()` changes.
pub(crate) struct Fasync(UnsafeCell<*mut bindings::fasync_struct>);

// SAFETY: `fasync_helper()` and `kill_fasync()` lock by themselves.
unsafe impl Send for Fasync {}
// SAFETY: As above.
unsafe impl Sync for Fasync {}

impl Fasync {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Null is the empty list.
        Self(UnsafeCell::new(core::ptr::null_mut()))
    }

    /// Sends SIGIO, or what `F_SETSIG` asked for: an event of highest priority, on the descriptor
    /// that `O_ASYNC` was set with. Context: any.
    pub(crate) fn signal(&self) {
        // SAFETY: By the type invariants this is such a list.
        unsafe {
            bindings::kill_fasync(
                self.0.get(),
                bindings::SIGIO as c_int,
                bindings::POLL_PRI as c_int,
            )
        };
    }

    /// # Safety
    ///
    /// For `->fasync` only: the arguments are those of that, of a file that keeps `self` alive.
    pub(super) unsafe fn set(&self, fd: c_int, file: *mut bindings::file, on: c_int) -> c_int {
        // SAFETY: By the type invariants and as the caller guarantees; the file leaves the list
        // before it ends (`__fput()`).
        unsafe { bindings::fasync_helper(fd, file, on, self.0.get()) }
    }

    /// A descriptor of `file` was closed. If it is the one that a signal would name, there are no
    /// more signals: the file may live on in mappings, and the number soon be another file.
    ///
    /// # Safety
    ///
    /// For `->flush` only.
    pub(super) unsafe fn closed(&self, file: *mut bindings::file) {
        // SAFETY: Guaranteed by the caller; the list is one of `fasync_helper()`.
        if unsafe { bindings::rpmem_helper_fasync_closed(file, self.0.get()) } {
            // SAFETY: As in `set`.
            unsafe { bindings::fasync_helper(-1, file, 0, self.0.get()) };
        }
    }
}
