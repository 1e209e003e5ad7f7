// SPDX-License-Identifier: GPL-2.0

//! Values that can be taken away while readers, which may sleep, use them.
//!
//! C header: [`include/linux/srcu.h`](srctree/include/linux/srcu.h)
//!
//! Staging module until it can move to `kernel::sync`. `kernel::revocable::Revocable` is the same
//! for readers that do not sleep.
//!
//! # Examples
//!
//! The KUnit test at the end of this file; `Node::live` in `src/driver/map.rs`.

use super::atomic::Load;
use crate::bindings;
use core::{
    cell::UnsafeCell,
    ops::Deref, //
};
use kernel::{
    error::to_result,
    ffi::c_int,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed,
        Release, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

/// A value that readers use until it is revoked.
///
/// # Invariants
///
/// `srcu` was initialised by `init_srcu_struct()`. `value` is `Some` while `alive` is not 0, and is
/// only changed by the one that has set `alive` to 0, after all readers have left.
#[pin_data(PinnedDrop)]
pub(crate) struct SrcuRevocable<T> {
    #[pin]
    srcu: Opaque<bindings::srcu_struct>,
    alive: Atomic<i32>,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: An SRCU domain is not tied to a thread.
unsafe impl<T: Send> Send for SrcuRevocable<T> {}
// SAFETY: Readers share `&T`, and the one that revokes drops the `T`.
unsafe impl<T: Send + Sync> Sync for SrcuRevocable<T> {}

// What these do beside calling a function is for lockdep.
#[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
use bindings::{
    __srcu_read_lock as srcu_read_lock,
    __srcu_read_unlock as srcu_read_unlock, //
};
#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
use bindings::{
    rpmem_helper_srcu_read_lock as srcu_read_lock,
    rpmem_helper_srcu_read_unlock as srcu_read_unlock, //
};

/// The right to use a value: revoking waits for it to be dropped.
pub(crate) struct Guard<'a, T> {
    owner: &'a SrcuRevocable<T>,
    idx: c_int,
    // Who enters has to leave.
    _not_send: NotThreadSafe,
}

impl<T> SrcuRevocable<T> {
    /// A value that is there.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn new(value: T) -> impl PinInit<Self, Error> {
        // INVARIANT: `init_srcu_struct()` initialises the structure, or fails.
        try_pin_init!(Self {
            srcu <- Opaque::try_ffi_init(|ptr: *mut bindings::srcu_struct| {
                // SAFETY: `ptr` is valid for writes and pinned until `cleanup_srcu_struct()`.
                to_result(unsafe { bindings::rpmem_helper_init_srcu_struct(ptr) })
            }),
            alive: Atomic::new(1),
            value: UnsafeCell::new(Some(value)),
        })
    }

    /// Uses the value; `None` once it has been revoked. Context: any in which the caller may be
    /// preempted; the guard may be held across sleeping, but not across [`Self::synchronize`].
    pub(crate) fn enter(&self) -> Option<Guard<'_, T>> {
        // SAFETY: By the type invariants the domain is initialised.
        let idx = unsafe { srcu_read_lock(self.srcu.get()) };
        let guard = Guard {
            owner: self,
            idx,
            _not_send: NotThreadSafe,
        };
        (self.alive.load_acquire() != 0).then_some(guard)
    }

    /// Waits until all guards that exist now have been dropped. Context: may sleep.
    pub(crate) fn synchronize(&self) {
        // SAFETY: By the type invariants the domain is initialised.
        unsafe { bindings::synchronize_srcu_expedited(self.srcu.get()) };
    }

    /// Lets nobody in any more, waits for those who are, and gives the value back; `None` if it was
    /// revoked before. Context: may sleep.
    pub(crate) fn revoke(&self) -> Option<T> {
        if self.alive.xchg(0, Release) == 0 {
            return None;
        }
        self.synchronize();
        // SAFETY: By the type invariants the value is ours: `alive` was not 0, we have set it to 0,
        // and every reader that saw it before that has left.
        unsafe { (*self.value.get()).take() }
    }

    /// Whether the value has not been revoked. A hint: it may be at any time.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Relaxed) != 0
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants of the owner the value is there and does not change while
        // this guard exists, which was made when `alive` was not 0.
        match unsafe { &*self.owner.value.get() } {
            Some(value) => value,
            None => unreachable!(),
        }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: `idx` is from `srcu_read_lock()` of this domain.
        unsafe { srcu_read_unlock(self.owner.srcu.get(), self.idx) };
    }
}

#[pinned_drop]
impl<T> PinnedDrop for SrcuRevocable<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the domain is initialised; there are no readers, since
        // guards borrow `self`.
        unsafe { bindings::cleanup_srcu_struct(self.srcu.get()) };
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kernel::macros::kunit_tests(rpmem_srcu)]
mod tests {
    use super::*;
    use kernel::sync::Arc;

    #[test]
    fn a_revoked_value_is_given_back_and_nobody_gets_in() -> Result {
        let value = Arc::new(7, GFP_KERNEL)?;
        let revocable = KBox::pin_init(SrcuRevocable::new(value.clone()), GFP_KERNEL)?;
        {
            let guard = revocable.enter().ok_or(ENXIO)?;
            assert_eq!(**guard, 7);
        }
        assert!(revocable.is_alive());
        assert!(revocable.revoke().is_some());
        assert!(!revocable.is_alive() && revocable.enter().is_none());
        // Once, and it was all that there was beside ours.
        assert!(revocable.revoke().is_none());
        assert!(Arc::into_unique_or_drop(value).is_some());
        Ok(())
    }
}
