// SPDX-License-Identifier: GPL-2.0

//! Exclusive claims on ranges of physical memory.
//!
//! C header: [`include/linux/ioport.h`](srctree/include/linux/ioport.h)
//!
//! Staging module until it can move to `kernel::io::resource`, whose claims borrow the device that they are
//! for: this one can outlive it.
//!
//! # Examples
//!
//! The KUnit tests at the end of this file.

use crate::bindings;
use kernel::{
    prelude::*,
    str::CString, //
};

/// An exclusive claim on a physical range in `/proc/iomem`. It can outlive the device whose name it
/// bears.
///
/// # Invariants
///
/// The range was taken by `request_mem_region()`, with `_name`.
pub(crate) struct MemRegion {
    start: u64,
    len: u64,
    _name: CString,
}

impl MemRegion {
    /// Takes `len` bytes at physical address `start`, as `name`.
    ///
    /// # Errors
    ///
    /// `EBUSY` if anybody has a part of it; `ENOMEM`. Context: may sleep.
    pub(crate) fn request(start: u64, len: u64, name: &CStr) -> Result<Self> {
        let name = CString::try_from(name)?;
        // SAFETY: The name is a string, which does not move and lives as long as the result.
        let res =
            unsafe { bindings::rpmem_helper_request_mem_region(start, len, name.as_char_ptr()) };
        if res.is_null() {
            return Err(EBUSY);
        }
        // INVARIANT: Withdrawal just now.
        Ok(Self {
            start,
            len,
            _name: name,
        })
    }
}

impl Drop for MemRegion {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the range is ours.
        unsafe { bindings::rpmem_helper_release_mem_region(self.start, self.len) };
    }
}

#[kernel::macros::kunit_tests(rpmem_resource)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        claim_nothing,
        TestDevice,
        Trace, //
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_range_is_claimed_once() -> Result {
        let dev = TestDevice::new()?;
        let (start, claim) = claim_nothing(4 * MIB, dev.name())?;
        // All, the first page, the last page, across the end, more than all.
        for (at, len) in [
            (start, 4 * MIB),
            (start, 4096),
            (start + 4 * MIB - 4096, 4096),
            (start + 4 * MIB - 4096, 8192),
            (start - 4096, 5 * MIB),
        ] {
            assert_eq!(MemRegion::request(at, len, dev.name()).err(), Some(EBUSY));
        }
        // What was refused has left nothing behind, and the neighbours are free.
        drop(MemRegion::request(start - 4096, 4096, dev.name())?);
        drop(MemRegion::request(start + 4 * MIB, 4096, dev.name())?);
        assert_eq!(
            MemRegion::request(start, 4 * MIB, dev.name()).err(),
            Some(EBUSY)
        );
        drop(claim);
        drop(MemRegion::request(start, 4 * MIB, dev.name())?);
        Ok(())
    }

    #[test]
    fn claims_are_released_once() -> Result {
        let dev = TestDevice::new()?;
        let (start, claim) = claim_nothing(MIB, dev.name())?;
        let (trace, refused) = Trace::of(|| MemRegion::request(start, MIB, dev.name()).err())?;
        assert_eq!(refused, Some(EBUSY));
        assert!(trace.is(&[c"__request_region"]));
        let (trace, ()) = Trace::of(|| drop(claim))?;
        assert!(trace.is(&[c"__release_region"]));
        Ok(())
    }

    #[test]
    fn a_claim_outlives_the_device_whose_name_it_bears() -> Result {
        let dev = TestDevice::new()?;
        let (start, claim) = claim_nothing(MIB, dev.name())?;
        assert!(*claim._name == *dev.name());
        assert_eq!((claim.start, claim.len), (start, MIB));
        drop(dev);
        // The name is looked at.
        assert_eq!(MemRegion::request(start, MIB, c"other").err(), Some(EBUSY));
        Ok(())
    }
}
