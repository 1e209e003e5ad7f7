// SPDX-License-Identifier: GPL-2.0

//! Regions of libnvdimm: flush, poison, and what a region promises.
//!
//! C header: [`include/linux/libnvdimm.h`](srctree/include/linux/libnvdimm.h)
//!
//! Staging module until it can move to `kernel::nd::region`.
//!
//! # Who keeps whom alive
//!
//! A namespace device (or the btt, pfn or dax device on it) has a reference to its parent, the region
//! device, until it is removed (`device_del()`), and not until it is freed; the region has one to the
//! bus likewise. But what frees them looks at their parents. So a [`Region`] holds all three, and lets
//! go of them in that order. It is dropped before the device is unbound: nothing that can stay for
//! longer, such as pinned pages, has one.
//!
//! # Examples
//!
//! The KUnit tests at the end of this file, on a `TestBus` of `kunit.rs`.

use super::{
    badblocks::Badblocks,
    bio::Bio,
    deferred_drop::{
        self,
        Provider, //
    },
    device_raw, //
};
use crate::bindings;
use kernel::{
    device::{
        Core,
        Device, //
    },
    error::to_result,
    ffi::c_int,
    prelude::*,
    sync::aref::ARef, //
};

/// A region: the DIMMs behind a namespace, and the flush that makes writes to them durable. Fields are
/// dropped in this order.
///
/// # Invariants
///
/// `ptr` is the region that is the parent of `child`, and `parents` are its device and that of its bus.
pub(crate) struct Region {
    pub(super) ptr: *mut bindings::nd_region,
    child: ARef<Device>,
    /// `None` for tests, whose bus stays.
    parents: Option<(ARef<Device>, ARef<Device>)>,
}

// SAFETY: `struct nd_region` may be used from any thread: flush and poison functions lock by
// themselves.
unsafe impl Send for Region {}
// SAFETY: As above.
unsafe impl Sync for Region {}

impl Region {
    /// The region of a device that is being bound.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. Context: may sleep.
    pub(crate) fn of(dev: &Device<Core<'_>>) -> Result<Self> {
        deferred_drop::watch_removals(dev)?;
        // SAFETY: `dev` is a device on the libnvdimm bus of a type whose parent is a region:
        // namespace or one of the personalities. It is bound, so that none of the three has been
        // removed, and all have references.
        unsafe {
            let region = (*device_raw(dev)).parent;
            // INVARIANT: As said.
            Ok(Self {
                ptr: bindings::to_nd_region(region),
                child: Device::get_device(device_raw(dev)),
                parents: Some((
                    Device::get_device(region),
                    Device::get_device((*region).parent),
                )),
            })
        }
    }

    /// The region and the device of a bus that is there for tests, and has to outlive the result.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn of_bus(bus: &super::kunit::TestBus) -> Self {
        // INVARIANT: Not the parent; kept alive by the bus.
        Self {
            ptr: bus.region(),
            child: bus.child().get(),
            parents: None,
        }
    }

    /// The region as what physical memory goes with when it is removed. `None` if the `len` bytes at
    /// `start` are the machine's own, which its firmware has described, and stay.
    pub(crate) fn provider(&self, start: u64, len: u64) -> Option<Provider> {
        let parents = self.parents.as_ref()?;
        if self.can_vanish() {
            // CXL describes its memory as firmware does, for as long as it is there.
            return Some(Provider::new(&parents.0));
        }
        let is_own = |kind| {
            // SAFETY: No conditions.
            let found = unsafe {
                bindings::region_intersects(
                    start,
                    len as usize,
                    bindings::IORESOURCE_MEM as usize,
                    kind as usize,
                )
            };
            found == bindings::REGION_INTERSECTS as c_int
        };
        if is_own(bindings::IORES_DESC_PERSISTENT_MEMORY)
            || is_own(bindings::IORES_DESC_PERSISTENT_MEMORY_LEGACY)
        {
            return None;
        }
        Some(Provider::new(&parents.0))
    }

    /// See [`can_vanish`].
    pub(crate) fn can_vanish(&self) -> bool {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { can_vanish(self.ptr) }
    }

    /// The device whose region this is.
    pub(crate) fn child(&self) -> &Device {
        &self.child
    }

    /// The NUMA node of the memory; -1 (`NUMA_NO_NODE`) if it has none.
    pub(crate) fn numa_node(&self) -> i32 {
        // SAFETY: The device is valid.
        unsafe { bindings::rpmem_helper_dev_to_node(device_raw(&self.child)) }
    }

    /// Whether there is an explicit flush that FUA needs; an error if durability cannot be
    /// guaranteed.
    pub(crate) fn has_flush(&self) -> Result<bool> {
        // SAFETY: By the type invariants `ptr` is valid.
        let ret = unsafe { bindings::nvdimm_has_flush(self.ptr) };
        to_result(ret.min(0)).map(|()| ret > 0)
    }

    /// Whether it is read-only. The disk can differ: `nvdimm_check_and_set_ro()` leaves one alone that
    /// is read-only by BLKROSET, which can take that back.
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { (&raw const (*self.ptr).ro).read_volatile() != 0 }
    }

    /// Whether CPU caches are not durable, so that dirty lines must be written back.
    pub(crate) fn has_cache(&self) -> bool {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { bindings::nvdimm_has_cache(self.ptr) != 0 }
    }

    /// Whether stores are durable once they are out of the CPU caches, without a flush by the host
    /// (virtio-pmem needs one): the condition of MAP_SYNC.
    pub(crate) fn is_sync(&self) -> bool {
        // SAFETY: By the type invariants `ptr` is valid.
        unsafe { bindings::is_nvdimm_sync(self.ptr) }
    }

    /// Makes all earlier writes durable; returns when they are.
    ///
    /// # Errors
    ///
    /// Those of the region's flush, `EIO` mostly. Context: may sleep where the region is
    /// asynchronous.
    pub(crate) fn flush(&self) -> Result {
        // SAFETY: By the type invariants `ptr` is valid; without a bio the flush completes
        // synchronously.
        to_result(unsafe { bindings::nvdimm_flush(self.ptr, core::ptr::null_mut()) })
    }

    /// Makes all earlier writes durable on behalf of `bio`. Gives the bio back with the result, or
    /// `None` if the region has queued the flush and will end the bio itself.
    pub(crate) fn flush_bio(&self, bio: Bio) -> Option<(Bio, Result)> {
        let raw = bio.into_raw();
        // SAFETY: By the type invariants `ptr` is valid. `raw` is a bio that we own; it stays ours
        // unless the answer is `NVDIMM_FLUSH_ASYNC`.
        let ret = unsafe { bindings::nvdimm_flush(self.ptr, raw.as_ptr()) };
        if ret == bindings::NVDIMM_FLUSH_ASYNC {
            return None;
        }
        // SAFETY: We own `raw`, as above.
        Some((unsafe { Bio::from_raw(raw) }, to_result(ret)))
    }

    /// Fills `badblocks` with what the bus knows of the physical range from `range.0` to `range.1`
    /// (inclusive). Context: may sleep, takes the bus lock.
    pub(crate) fn populate_badblocks(&self, badblocks: &Badblocks, range: (u64, u64)) {
        let range = bindings::range {
            start: range.0,
            end: range.1,
        };
        badblocks.on_behalf_of(&self.child, |bad| {
            // SAFETY: By the type invariants `ptr` is valid, and `bad` is initialised.
            unsafe { bindings::nvdimm_badblocks_populate(self.ptr, bad, &range) }
        });
    }

    /// Asks the platform to clear poison in `len` bytes at physical address `phys`; gives the
    /// number of bytes cleared.
    ///
    /// # Errors
    ///
    /// `ENXIO` if the range is not known to the bus, and those of the platform. Context: may sleep.
    pub(crate) fn clear_poison(&self, phys: u64, len: u32) -> Result<u64> {
        // SAFETY: `child` is a device on the libnvdimm bus.
        let cleared = unsafe { bindings::nvdimm_clear_poison(device_raw(&*self.child), phys, len) };
        u64::try_from(cleared).map_err(|_| Error::from_errno(cleared as c_int))
    }
}

/// Whether the memory can go before its users are told. CXL does that when a memory device is removed, be
/// it in good order: `__cxl_decoder_detach()` switches the decoders off, and then releases the region.
///
/// # Safety
///
/// `region` is valid.
pub(super) unsafe fn can_vanish(region: *const bindings::nd_region) -> bool {
    // SAFETY: Guaranteed by the caller. What is asked for is set before the region is registered, and
    // others may change in the same word.
    let flags = unsafe { (&raw const (*region).flags).read_volatile() };
    flags & bindings::REGION_CXL != 0
}

#[kernel::macros::kunit_tests(rpmem_nd_region)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        TestBio,
        TestBus,
        PREFLUSH,
        WRITE, //
    };

    #[test]
    fn flushes_give_their_result() -> Result {
        let bus = TestBus::new()?;
        let region = Region::of_bus(&bus);
        region.flush()?;
        assert_eq!(bus.flushes(), 1);
        bus.set_flush_result(ENOMEM.to_errno());
        assert_eq!(region.flush(), Err(ENOMEM));
        // libnvdimm makes all others one.
        bus.set_flush_result(ENXIO.to_errno());
        assert_eq!(region.flush(), Err(EIO));
        assert_eq!(bus.flushes(), 3);
        Ok(())
    }

    #[test]
    fn a_flushed_bio_comes_back_with_the_result() -> Result {
        let bus = TestBus::new()?;
        let region = Region::of_bus(&bus);
        for (answer, expected) in [(0, Ok(())), (EIO.to_errno(), Err(EIO))] {
            bus.set_flush_result(answer);
            let test = TestBio::new(WRITE | PREFLUSH, 0)?;
            let Some((bio, result)) = region.flush_bio(test.submit()) else {
                return Err(EINVAL);
            };
            assert_eq!((result, test.result()), (expected, None));
            bio.end(result);
            assert_eq!(test.result(), Some(expected));
        }
        Ok(())
    }

    #[test]
    fn a_bio_that_the_region_keeps_is_not_ended() -> Result {
        let bus = TestBus::new()?;
        let region = Region::of_bus(&bus);
        bus.set_flush_result(bindings::NVDIMM_FLUSH_ASYNC);
        let test = TestBio::new(WRITE | PREFLUSH, 0)?;
        assert!(region.flush_bio(test.submit()).is_none());
        assert_eq!(test.result(), None);
        Ok(())
    }

    #[test]
    fn a_region_without_dimms_promises_nothing() -> Result {
        let bus = TestBus::new()?;
        let region = Region::of_bus(&bus);
        assert_eq!(region.has_flush(), Err(ENXIO));
        assert!(!region.has_cache() && !region.is_sync());
        Ok(())
    }

    #[test]
    fn memory_of_cxl_can_vanish() -> Result {
        let bus = TestBus::new()?;
        let region = Region::of_bus(&bus);
        assert!(!region.can_vanish());
        bus.set_cxl();
        assert!(region.can_vanish());
        Ok(())
    }

    #[test]
    fn poison_is_cleared_as_far_as_the_firmware_does() -> Result {
        let bus = TestBus::new()?;
        let region = Region::of_bus(&bus);
        let phys = 64 << 30;
        assert_eq!(region.clear_poison(phys, 4096), Ok(4096));
        bus.set_clear_limit(512);
        assert_eq!(region.clear_poison(phys, 4096), Ok(512));
        bus.set_clear_limit(0);
        assert_eq!(region.clear_poison(phys, 4096), Ok(0));
        // Not a whole number of the firmware's units.
        assert_eq!(region.clear_poison(phys + 1, 4096), Err(ENXIO));
        assert_eq!(region.clear_poison(phys, 100), Err(ENXIO));
        Ok(())
    }
}
