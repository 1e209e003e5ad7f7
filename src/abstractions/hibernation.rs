// SPDX-License-Identifier: GPL-2.0

//! Hibernation, which some memory does not outlive.
//!
//! C header: [`include/linux/suspend.h`](srctree/include/linux/suspend.h)
//!
//! Staging module until it can move to `kernel::power`.
//!
//! # Examples
//!
//! `Pages` in `pagemap.rs` has a [`Hindrance`] while its struct pages are on the medium.

use crate::bindings;
use kernel::{
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    types::Opaque, //
};

/// How many [`Hindrance`]s there are, or [`UNDER_WAY`].
static STATE: Atomic<u64> = Atomic::new(0);

/// A hibernation has begun: until it is over there are no hindrances.
const UNDER_WAY: u64 = u64::MAX;

/// Answers the kernel when it is about to hibernate.
///
/// # Invariants
///
/// The block is registered by `register_pm_notifier()`.
#[pin_data(PinnedDrop)]
pub(crate) struct Notifier {
    #[pin]
    block: Opaque<bindings::notifier_block>,
}

// SAFETY: A notifier is not tied to a thread.
unsafe impl Send for Notifier {}
// SAFETY: Nothing can be done with a shared one.
unsafe impl Sync for Notifier {}

impl Notifier {
    /// Registers it. At most one at a time. Context: may sleep.
    ///
    /// # Errors
    ///
    /// `EEXIST`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        // INVARIANT: Registered here, or there is none.
        try_pin_init!(Self {
            block <- Opaque::try_ffi_init(|block: *mut bindings::notifier_block| {
                // SAFETY: The block is valid for writes, and pinned from now on.
                to_result(unsafe {
                    block.write(bindings::notifier_block {
                        notifier_call: Some(Self::call),
                        ..pin_init::zeroed()
                    });
                    bindings::rpmem_helper_register_pm_notifier(block)
                })
            }),
        })
    }

    /// Context: may sleep.
    extern "C" fn call(
        _block: *mut bindings::notifier_block,
        event: c_ulong,
        _data: *mut c_void,
    ) -> c_int {
        match event as u32 {
            bindings::PM_HIBERNATION_PREPARE => match STATE.cmpxchg(0, UNDER_WAY, Full) {
                Ok(_) => bindings::NOTIFY_OK as c_int,
                Err(count) => {
                    pr_err!(
                        "no hibernation: {} namespaces have their struct pages on the medium, where the kernel that resumes would make new ones; disable them, or make them anew with 'ndctl create-namespace -M mem'\n",
                        count
                    );
                    bindings::NOTIFY_BUSY
                }
            },
            bindings::PM_POST_HIBERNATION => {
                // It is not there if it was this block that said no.
                let _ = STATE.cmpxchg(UNDER_WAY, 0, Full);
                bindings::NOTIFY_OK as c_int
            }
            _ => bindings::NOTIFY_DONE as c_int,
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Notifier {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the block is registered.
        unsafe { bindings::rpmem_helper_unregister_pm_notifier(self.block.get()) };
    }
}

/// While there is one, the system does not hibernate.
///
/// # Invariants
///
/// It is counted in [`STATE`].
pub(crate) struct Hindrance(());

impl Hindrance {
    /// # Errors
    ///
    /// `EBUSY` while the system is on its way into hibernation. Context: any.
    pub(crate) fn new() -> Result<Self> {
        let mut count = STATE.load(Relaxed);
        while count != UNDER_WAY {
            match STATE.cmpxchg(count, count + 1, Full) {
                // INVARIANT: Counted just now.
                Ok(_) => return Ok(Self(())),
                Err(now) => count = now,
            }
        }
        Err(EBUSY)
    }
}

impl Drop for Hindrance {
    fn drop(&mut self) {
        // By the type invariants it is one of those that are counted, hence no hibernation under way.
        STATE.fetch_add(u64::MAX, Full);
    }
}
