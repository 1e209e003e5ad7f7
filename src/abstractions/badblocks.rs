// SPDX-License-Identifier: GPL-2.0

//! Lists of bad sectors.
//!
//! C header: [`include/linux/badblocks.h`](srctree/include/linux/badblocks.h)
//!
//! Staging module until it can move to `kernel::block::badblocks`.

use crate::bindings;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// A list of bad sectors (units of 512 bytes), safe for use from any context: the C code takes a
/// sequence lock, readers never sleep.
///
/// # Invariants
///
/// The inner `struct badblocks` was initialised by `badblocks_init()`.
#[pin_data(PinnedDrop)]
pub(crate) struct Badblocks {
    #[pin]
    inner: Opaque<bindings::badblocks>,
}

// SAFETY: All operations on `struct badblocks` are serialised by its own lock, and it is not tied
// to a thread.
unsafe impl Send for Badblocks {}
// SAFETY: As above.
unsafe impl Sync for Badblocks {}

impl Badblocks {
    /// An empty list. Not device-managed, unlike `devm_init_badblocks()`: driver data is freed
    /// before devres runs.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        // INVARIANT: `badblocks_init()` initialises the structure, or fails.
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|ptr: *mut bindings::badblocks| {
                // SAFETY: `ptr` is valid for writes of the whole structure, and all-zero bytes are
                // what `badblocks_init()` expects to find in the fields that it does not set.
                unsafe { ptr.write_bytes(0, 1) };
                // SAFETY: `ptr` is valid and zeroed, and it is pinned until `badblocks_exit()`.
                to_result(unsafe { bindings::badblocks_init(ptr, 1) })
            }),
        })
    }

    /// The C structure, for functions that fill it or show it.
    pub(crate) fn as_raw(&self) -> *mut bindings::badblocks {
        self.inner.get()
    }

    /// Whether no sector is known to be bad. A hint: the list may change at any time.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: By the type invariants the structure is initialised. `count` is an aligned int
        // that C readers also test without the lock (`is_bad_pmem()`).
        unsafe { core::ptr::addr_of!((*self.as_raw()).count).read_volatile() == 0 }
    }

    /// The first bad sector among the `sectors` sectors from `start` on, if any.
    pub(crate) fn first_bad(&self, start: u64, sectors: u64) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let (mut bad, mut count) = (0, 0);
        // SAFETY: By the type invariants the structure is initialised; the out-pointers are to
        // locals.
        let found = unsafe {
            bindings::badblocks_check(self.as_raw(), start, sectors, &mut bad, &mut count)
        };
        (found != 0).then_some(bad)
    }

    /// Forgets the `sectors` sectors from `start` on.
    pub(crate) fn clear(&self, start: u64, sectors: u64) {
        // SAFETY: By the type invariants the structure is initialised. A failure (no room to split
        // a range) leaves sectors marked bad, which is on the safe side.
        unsafe { bindings::badblocks_clear(self.as_raw(), start, sectors) };
    }
}

#[pinned_drop]
impl PinnedDrop for Badblocks {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the structure is initialised; nobody uses it any more.
        unsafe { bindings::badblocks_exit(self.as_raw()) };
    }
}
