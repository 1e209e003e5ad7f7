// SPDX-License-Identifier: GPL-2.0

//! Loads of atomic variables without a function call.
//!
//! C header: [`include/asm-generic/barrier.h`](srctree/include/asm-generic/barrier.h)
//!
//! `kernel::sync::atomic` calls a C helper for each, which a fault would do eight times, for what is
//! one instruction. Staging module until kernels have their helpers inlined.
//!
//! # Examples
//!
//! `DeviceLease::serves()` in `src/driver/lease.rs` reads what `publish()` there has stored.

use core::sync::atomic::{
    AtomicI32,
    AtomicU32,
    AtomicU64,
    Ordering, //
};
use kernel::sync::atomic::Atomic;

/// Loads of an [`Atomic`].
pub(crate) trait Load {
    /// What is loaded.
    type Value;

    /// As `READ_ONCE()`.
    fn read_once(&self) -> Self::Value;

    /// As `smp_load_acquire()`.
    fn load_acquire(&self) -> Self::Value;
}

macro_rules! loads {
    ($($value:ty, $atomic:ty;)*) => {
        $(
            impl Load for Atomic<$value> {
                type Value = $value;

                #[inline(always)]
                fn read_once(&self) -> $value {
                    // SAFETY: The variable is valid and aligned, and all accesses to it are atomic
                    // and of that size.
                    unsafe { <$atomic>::from_ptr(self.as_ptr()) }.load(Ordering::Relaxed)
                }

                #[inline(always)]
                fn load_acquire(&self) -> $value {
                    // SAFETY: As above.
                    unsafe { <$atomic>::from_ptr(self.as_ptr()) }.load(Ordering::Acquire)
                }
            }
        )*
    };
}

loads! {
    i32, AtomicI32;
    u32, AtomicU32;
    u64, AtomicU64;
}
