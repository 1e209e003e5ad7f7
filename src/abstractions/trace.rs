// SPDX-License-Identifier: GPL-2.0

//! Events for tracefs, and the counters of them in debugfs.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)
//!
//! Staging module until it can move to `kernel::tracepoint`: `declare_trace!` there is for tracepoints
//! that `kernel::bindings` has. `src/c/trace.h` has ours; `Documentation/tracing.md` says what they
//! mean. While an event is off, a nop is all that there is of it.
//!
//! # Examples
//!
//! `rpmem_prefault` in `src/c/trace.h` is an event, and [`prefault`] tells of it.

use crate::bindings;
use kernel::{
    ffi::c_uint,
    prelude::*, //
};

/// Whether somebody wants to know: a branch by the static key of a tracepoint, or, where the kernel's
/// headers come without what that branch is made of, a look at the key.
macro_rules! is_on {
    ($tracepoint:ident) => {{
        #[cfg(rpmem_static_branch)]
        // SAFETY: The key is that of a tracepoint, which C defines.
        unsafe {
            kernel::jump_label::static_branch_unlikely!(
                bindings::$tracepoint,
                bindings::tracepoint,
                key
            )
        }
        #[cfg(not(rpmem_static_branch))]
        {
            let tracepoint = core::ptr::addr_of!(bindings::$tracepoint);
            // SAFETY: Of a tracepoint that C defines, only the address of its key is taken.
            let key = unsafe { core::ptr::addr_of!((*tracepoint).key) };
            // SAFETY: That key lives as long as the module; C reads it atomically.
            unsafe { bindings::static_key_count(key.cast_mut().cast()) > 0 }
        }
    }};
}

/// Whether faults are to be told of. Context: any.
#[inline(always)]
pub(super) fn fault_is_on() -> bool {
    is_on!(__tracepoint_rpmem_fault)
}

/// Tells of a fault on the device `name` that was answered with `result`, if [`fault_is_on`].
///
/// # Safety
///
/// `vmf` is a fault in progress.
pub(super) unsafe fn fault(
    name: &CStr,
    vmf: *const bindings::vm_fault,
    order: c_uint,
    result: bindings::vm_fault_t,
) {
    // SAFETY: The name ends with a null byte, and the caller guarantees that the fault is valid.
    unsafe { bindings::rust_do_trace_rpmem_fault(name.as_char_ptr(), vmf, order, result) };
}

macro_rules! range_events {
    ($($doc:literal, $name:ident, $tracepoint:ident, $emit:ident;)*) => {
        $(
            #[doc = $doc]
            /// In bytes. Context: any.
            #[inline(always)]
            pub(crate) fn $name(name: &CStr, start: u64, len: u64) {
                if is_on!($tracepoint) {
                    // SAFETY: The name ends with a null byte.
                    unsafe { bindings::$emit(name.as_char_ptr(), start, len) };
                }
            }
        )*
    };
}

range_events! {
    "User addresses of the device `name` have been mapped ahead of any access.",
    prefault, __tracepoint_rpmem_prefault, rust_do_trace_rpmem_prefault;
    "A part of the device `name` has been written back.",
    write_back, __tracepoint_rpmem_write_back, rust_do_trace_rpmem_write_back;
    "The bus has told of poison in the namespace `name`: which was asked for in this range.",
    poison_notify, __tracepoint_rpmem_poison_notify, rust_do_trace_rpmem_poison_notify;
    "There is poison in this part of the device `name`, which users lose.",
    poison_found, __tracepoint_rpmem_poison_found, rust_do_trace_rpmem_poison_found;
    "Poison in this part of the namespace `name` has been cleared.",
    poison_clear, __tracepoint_rpmem_poison_clear, rust_do_trace_rpmem_poison_clear;
}

macro_rules! lease_events {
    ($($doc:literal, $name:ident, $tracepoint:ident, $emit:ident;)*) => {
        $(
            #[doc = $doc]
            /// `left` is what there is of the grace time, in milliseconds; -1 is for ever.
            /// Context: any.
            pub(crate) fn $name(name: &CStr, reason: &CStr, holders: u64, left: i64) {
                if is_on!($tracepoint) {
                    // SAFETY: Both strings end with a null byte.
                    unsafe {
                        bindings::$emit(name.as_char_ptr(), reason.as_char_ptr(), holders, left)
                    };
                }
            }
        )*
    };
}

lease_events! {
    "A break of the lease on the device `name` has begun.",
    lease_break, __tracepoint_rpmem_lease_break, rust_do_trace_rpmem_lease_break;
    "A break of the lease on the device `name` is over, with so many holders left.",
    lease_end, __tracepoint_rpmem_lease_end, rust_do_trace_rpmem_lease_end;
}

/// The counters in debugfs, while it lives.
pub(crate) struct Counters(());

impl Counters {
    /// Makes their files. At most once at a time. Context: may sleep.
    pub(crate) fn new() -> Self {
        // SAFETY: There are none yet.
        unsafe { bindings::rpmem_helper_counters_init() };
        Self(())
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        // SAFETY: Made by `new`. The module has no device any more, hence no fault.
        unsafe { bindings::rpmem_helper_counters_exit() };
    }
}
