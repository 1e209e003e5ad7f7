// SPDX-License-Identifier: GPL-2.0

//! Lists of bad sectors.
//!
//! C header: [`include/linux/badblocks.h`](srctree/include/linux/badblocks.h)
//!
//! Staging module until it can move to `kernel::block::badblocks`.
//!
//! # Examples
//!
//! The KUnit tests at the end of this file.

use super::device_raw;
use crate::bindings;
use kernel::{
    device::Device,
    error::to_result,
    new_mutex,
    prelude::*,
    sync::Mutex,
    types::Opaque, //
};

/// A list of bad sectors (units of 512 bytes), safe for use from any context: the C code takes a
/// sequence lock, readers never sleep.
///
/// # Invariants
///
/// The inner `struct badblocks` was initialised by `badblocks_init()`. Its `dev` is null, but for the
/// device that a call of [`Badblocks::on_behalf_of`] has borrowed; that call holds `naming`.
#[pin_data(PinnedDrop)]
pub(crate) struct Badblocks {
    #[pin]
    inner: Opaque<bindings::badblocks>,
    #[pin]
    naming: Mutex<()>,
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
            naming <- new_mutex!(()),
        })
    }

    /// The C structure, for functions that fill it or show it.
    pub(crate) fn as_raw(&self) -> *mut bindings::badblocks {
        self.inner.get()
    }

    /// Calls `fill` with the C structure, for functions that say whose bad sectors they have found:
    /// those of `dev`. The list may outlive the device, and so forgets it again. Context: may sleep.
    pub(crate) fn on_behalf_of<R>(
        &self,
        dev: &Device,
        fill: impl FnOnce(*mut bindings::badblocks) -> R,
    ) -> R {
        let _guard = self.naming.lock();
        // SAFETY: By the type invariants the structure is initialised. In C only `set_badblock()` and
        // `devm_exit_badblocks()` read `dev` of a list that is in use: the former when `fill` calls
        // for it, the latter never. The lock keeps other writers out.
        unsafe { (*self.as_raw()).dev = device_raw(dev) };
        let ret = fill(self.as_raw());
        // INVARIANT: `dev` is null when the borrow ends.
        // SAFETY: As above.
        unsafe { (*self.as_raw()).dev = core::ptr::null_mut() };
        ret
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
        // What C gives is where the range of bad sectors starts, which may be before `start`.
        (found != 0).then_some(bad.max(start))
    }

    /// Marks the `sectors` sectors from `start` on as bad; `false` if the list is full.
    #[cfg(CONFIG_KUNIT = "y")]
    #[must_use]
    pub(crate) fn mark(&self, start: u64, sectors: u64) -> bool {
        // SAFETY: By the type invariants the structure is initialised.
        unsafe { bindings::badblocks_set(self.as_raw(), start, sectors, 1) }
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

#[kernel::macros::kunit_tests(rpmem_badblocks)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        TestDevice,
        Trace, //
    };

    /// A list with the sectors from 100 to 163 bad.
    fn list() -> Result<Pin<KBox<Badblocks>>> {
        let bad = KBox::pin_init(Badblocks::new(), GFP_KERNEL)?;
        if !bad.mark(100, 64) {
            return Err(EINVAL);
        }
        Ok(bad)
    }

    #[test]
    fn an_empty_list_has_no_bad_sector() -> Result {
        let bad = KBox::pin_init(Badblocks::new(), GFP_KERNEL)?;
        assert!(bad.is_empty());
        assert_eq!(bad.first_bad(0, u64::MAX >> 1), None);
        bad.clear(0, 8);
        assert!(bad.is_empty());
        Ok(())
    }

    #[test]
    fn ranges_end_where_they_end() -> Result {
        let bad = list()?;
        assert!(!bad.is_empty());
        assert_eq!(bad.first_bad(0, 100), None);
        assert_eq!(bad.first_bad(164, 1000), None);
        assert_eq!(bad.first_bad(0, 101), Some(100));
        assert_eq!(bad.first_bad(0, 1000), Some(100));
        assert_eq!(bad.first_bad(100, 64), Some(100));
        // The rest of a range that starts in front of what was asked for.
        assert_eq!(bad.first_bad(163, 1), Some(163));
        assert_eq!(bad.first_bad(104, 1000), Some(104));
        Ok(())
    }

    #[test]
    fn the_first_of_two_ranges_is_found() -> Result {
        let bad = list()?;
        assert!(bad.mark(300, 1));
        assert_eq!(bad.first_bad(0, 1000), Some(100));
        assert_eq!(bad.first_bad(164, 1000), Some(300));
        assert_eq!(bad.first_bad(301, 1000), None);
        Ok(())
    }

    #[test]
    fn clearing_the_middle_splits() -> Result {
        let bad = list()?;
        bad.clear(120, 8);
        assert_eq!(bad.first_bad(120, 8), None);
        assert!(bad.first_bad(119, 1).is_some());
        assert_eq!(bad.first_bad(120, 9), Some(128));
        assert!(bad.first_bad(163, 1).is_some());
        bad.clear(0, 1000);
        assert!(bad.is_empty());
        Ok(())
    }

    #[test]
    fn clearing_an_edge_leaves_the_rest() -> Result {
        let bad = list()?;
        bad.clear(90, 20);
        assert_eq!(bad.first_bad(0, 110), None);
        assert_eq!(bad.first_bad(0, 1000), Some(110));
        bad.clear(160, 100);
        assert!(bad.first_bad(159, 1).is_some());
        assert_eq!(bad.first_bad(160, 1000), None);
        Ok(())
    }

    #[test]
    fn a_list_forgets_the_device() -> Result {
        let bad = list()?;
        let device = TestDevice::new()?;
        // SAFETY: The list is initialised, and the test's own.
        let dev = || unsafe { (*bad.as_raw()).dev };
        assert!(dev().is_null());
        let named = bad.on_behalf_of(&device.get(), |_| dev());
        assert!(named == device_raw(&device.get()));
        assert!(dev().is_null());
        Ok(())
    }

    #[test]
    fn a_dropped_list_is_freed() -> Result {
        let bad = list()?;
        let (trace, ()) = Trace::of(|| drop(bad))?;
        assert!(trace.is(&[c"badblocks_exit"]));
        Ok(())
    }
}
