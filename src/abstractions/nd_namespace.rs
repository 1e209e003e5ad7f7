// SPDX-License-Identifier: GPL-2.0

//! Namespaces of libnvdimm, and the personalities that claim them.
//!
//! C headers: [`include/linux/nd.h`](srctree/include/linux/nd.h),
//! [`include/linux/libnvdimm.h`](srctree/include/linux/libnvdimm.h)
//!
//! Staging module until it can move to `kernel::nd::namespace`.
//!
//! # Who keeps whom alive
//!
//! A [`Namespace`] borrows the device under probe: libnvdimm does not change resource, claim or uuid of a
//! namespace while a driver is bound to it or to the device that claims it.
//!
//! # Examples
//!
//! `probe_namespace()` in `src/driver/device.rs`.

use super::{
    block::{
        self,
        NewDisk, //
    },
    device_raw,
    errno::eopnotsupp,
    nd_region::{
        self,
        Region, //
    },
    pagemap::PageMapRange, //
};
use crate::bindings;
use kernel::{
    device::{
        self,
        Core,
        Device, //
    },
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// What a libnvdimm device is: the namespace itself, or a personality that claims it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    /// The namespace device.
    Namespace,
    /// Sector mode.
    Btt,
    /// Fsdax mode.
    Pfn,
    /// Devdax mode.
    Dax,
}

impl Personality {
    /// The personality of a device on the libnvdimm bus.
    pub(crate) fn of(dev: &Device<Core<'_>>) -> Self {
        let raw = device_raw(dev);
        // SAFETY: `raw` is valid for as long as `dev` is; the functions look at its type alone.
        let (btt, pfn, dax) = unsafe {
            (
                bindings::rpmem_helper_is_nd_btt(raw),
                bindings::is_nd_pfn(raw),
                bindings::rpmem_helper_is_nd_dax(raw),
            )
        };
        match (btt, pfn, dax) {
            (true, _, _) => Self::Btt,
            (_, true, _) => Self::Pfn,
            (_, _, true) => Self::Dax,
            _ => Self::Namespace,
        }
    }
}

/// A namespace, as seen from the device that is being bound: itself or the one that claims it.
///
/// # Invariants
///
/// `ndns` is valid for `'a`, and its properties do not change in that time.
pub(crate) struct Namespace<'a> {
    dev: &'a Device<device::Bound>,
    ndns: *mut bindings::nd_namespace_common,
}

/// Which personalities may claim a namespace (`enum nvdimm_claim_class`, from the label).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimClass {
    /// Any.
    None,
    /// Fsdax only.
    Pfn,
    /// Devdax only.
    Dax,
    /// Sector mode, or one that this kernel does not know.
    Other,
}

impl<'a> Namespace<'a> {
    /// Starts the probe of `dev`: finds the namespace and checks that it may be bound
    /// (`nvdimm_namespace_common_probe()`).
    ///
    /// # Errors
    ///
    /// `EBUSY` if the raw personality is bound; `ENXIO` if another device claims the namespace;
    /// `EACCES` if a DIMM is locked; `ENODEV` if the namespace is smaller than a page or has no
    /// uuid; `EOPNOTSUPP` if it is misaligned for struct pages. Context: may sleep, takes the lock
    /// of the namespace device.
    pub(crate) fn probe(dev: &'a Device<Core<'_>>) -> Result<Self> {
        // SAFETY: `dev` is a device on the libnvdimm bus that is being probed.
        let ndns = unsafe { bindings::nvdimm_namespace_common_probe(device_raw(dev)) };
        let ndns = from_err_ptr(ndns)?;
        // INVARIANT: The probed device is the namespace or holds the claim on it; both keep it
        // alive and unchanged while the device is bound, which `Device<Bound>` stands for.
        Ok(Self { dev, ndns })
    }

    fn io(&self) -> *mut bindings::nd_namespace_io {
        // SAFETY: By the type invariants `ndns` is valid; every namespace that the bus offers to
        // drivers of `NAMESPACE_IO` and `NAMESPACE_PMEM` is embedded in a `struct nd_namespace_io`.
        unsafe { bindings::rpmem_helper_to_nd_namespace_io(self.ndns) }
    }

    /// The name of the namespace device, which is that of the claim on its memory.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: By the type invariants `ndns` is valid.
        unsafe { Device::<device::Normal>::from_raw(&raw mut (*self.ndns).dev) }.name()
    }

    /// First and last physical address.
    pub(crate) fn resource(&self) -> (u64, u64) {
        // SAFETY: By the type invariants the namespace is valid and its resource does not change.
        let res = unsafe { (*self.io()).res };
        (res.start, res.end)
    }

    /// The uuid from the label; all zero without labels.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        // SAFETY: By the type invariants `ndns` is valid; the function gives a pointer to 16 bytes
        // that stay valid as the uuid does not change.
        unsafe { (*bindings::nd_dev_to_uuid(&raw mut (*self.ndns).dev)).b }
    }

    /// The name of the region that it is in.
    pub(crate) fn region_name(&self) -> &CStr {
        // SAFETY: By the type invariants `ndns` is valid; the region is its parent, which stays for as
        // long as it does.
        unsafe { Device::<device::Normal>::from_raw((*self.ndns).dev.parent) }.name()
    }

    /// Whether the memory can go before its users are told, see [`nd_region::can_vanish`].
    pub(crate) fn can_vanish(&self) -> bool {
        // SAFETY: By the type invariants `ndns` is valid; the region is its parent, which stays for as
        // long as it does.
        unsafe { nd_region::can_vanish(bindings::to_nd_region((*self.ndns).dev.parent)) }
    }

    /// The uuid that the btt, pfn or dax device under probe was given, by its info block or by userspace.
    pub(crate) fn personality_uuid(&self) -> Option<[u8; 16]> {
        self.pfn_uuid().or_else(|| {
            let raw = device_raw(self.dev);
            // SAFETY: The device is valid; if it is a btt device, its uuid does not change under its
            // lock, which probe holds.
            let uuid = unsafe { bindings::rpmem_helper_btt_uuid(raw).as_ref() };
            uuid.map(|uuid| uuid.b)
        })
    }

    /// The uuid that the pfn or dax device under probe was given, by its info block or by userspace.
    pub(crate) fn pfn_uuid(&self) -> Option<[u8; 16]> {
        let pfn = pfn_of(self.dev)?;
        // SAFETY: The device is valid; its uuid does not change under its lock, which probe holds.
        unsafe { Some((*pfn).uuid.as_ref()?.b) }
    }

    /// Whether personalities are to be ignored (sysfs `force_raw`).
    pub(crate) fn force_raw(&self) -> bool {
        // SAFETY: By the type invariants `ndns` is valid.
        unsafe { (*self.ndns).force_raw != 0 }
    }

    /// Which personalities may claim the namespace.
    pub(crate) fn claim_class(&self) -> ClaimClass {
        // SAFETY: By the type invariants `ndns` is valid.
        match unsafe { (*self.ndns).claim_class } {
            bindings::nvdimm_claim_class_NVDIMM_CCLASS_NONE => ClaimClass::None,
            bindings::nvdimm_claim_class_NVDIMM_CCLASS_PFN => ClaimClass::Pfn,
            bindings::nvdimm_claim_class_NVDIMM_CCLASS_DAX => ClaimClass::Dax,
            _ => ClaimClass::Other,
        }
    }

    /// Logical sector size in bytes: 512 or 4096.
    pub(crate) fn sector_size(&self) -> u32 {
        // SAFETY: By the type invariants `ndns` is valid.
        unsafe { bindings::pmem_sector_size(self.ndns) }
    }

    /// Whether the region wants struct pages for namespaces without info block, as those of e820
    /// and virtio-pmem do.
    pub(crate) fn should_map_pages(&self) -> bool {
        // SAFETY: The device is valid.
        unsafe { bindings::pmem_should_map_pages(device_raw(self.dev)) }
    }

    /// Names the disk of the namespace: `pmemN`, `pmemN.M`.
    pub(crate) fn name_disk<T: block::Operations>(&self, disk: &mut NewDisk<T>) {
        // SAFETY: By the type invariants `ndns` is valid; the function writes at most
        // `DISK_NAME_LEN` bytes.
        unsafe {
            bindings::nvdimm_namespace_disk_name(self.ndns, disk.name_mut().as_mut_ptr().cast())
        };
    }

    /// Opens the first `size` bytes for [`RawAccess::read`].
    ///
    /// # Errors
    ///
    /// `ENODEV` if the namespace is smaller; `EBUSY` if the range is taken; `ENOMEM`. Context: may
    /// sleep.
    pub(crate) fn enable(&self, size: u64) -> Result<RawAccess<'_, 'a>> {
        let (first, last) = self.resource();
        if last - first < size - 1 {
            dev_err!(
                self.dev,
                "namespace is smaller than {} bytes, no device\n",
                size
            );
            return Err(ENODEV);
        }
        // SAFETY: The device is being probed and the namespace is valid.
        to_result(unsafe {
            bindings::devm_namespace_enable(device_raw(self.dev), self.ndns, size)
        })?;
        // INVARIANT: Enabled just now.
        Ok(RawAccess { ns: self, size })
    }
}

/// The `struct nd_pfn` of a pfn or dax device.
fn pfn_of(dev: &Device<device::Bound>) -> Option<*mut bindings::nd_pfn> {
    let dev = device_raw(dev);
    // SAFETY: The device is valid, and of the type that is asked for.
    unsafe {
        if bindings::is_nd_pfn(dev) {
            Some(bindings::to_nd_pfn(dev))
        } else if bindings::rpmem_helper_is_nd_dax(dev) {
            Some(bindings::rpmem_helper_nd_dax_to_pfn(dev))
        } else {
            None
        }
    }
}

/// The start of a namespace, readable through libnvdimm (`nsio_rw_bytes()`: checks bad blocks, is
/// machine-check safe).
///
/// # Invariants
///
/// The namespace is enabled by `devm_namespace_enable()` for the device under probe.
pub(crate) struct RawAccess<'n, 'a> {
    ns: &'n Namespace<'a>,
    size: u64,
}

impl RawAccess<'_, '_> {
    /// Fills `buf` from byte `offset` of the namespace on.
    ///
    /// # Errors
    ///
    /// `EFAULT` beyond the enabled range; `EIO` on a bad block or a machine check.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result {
        if offset
            .checked_add(buf.len() as u64)
            .is_none_or(|end| end > self.size)
        {
            return Err(EFAULT);
        }
        // SAFETY: By the type invariants the namespace is enabled, hence `ndns->rw_bytes` is set;
        // `buf` is valid for writes of its length.
        to_result(unsafe {
            bindings::rpmem_helper_nvdimm_read_bytes(
                self.ns.ndns,
                offset,
                buf.as_mut_ptr().cast(),
                buf.len(),
            )
        })
    }

    /// Runs one of `nd_btt_probe()`, `nd_pfn_probe()` and `nd_dax_probe()`: looks for the info
    /// block of a personality and, if it is there, registers the device that claims the namespace.
    /// `true` if so.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the block is there but cannot be used by this kernel; `ENOMEM`, which leaves
    /// open whether it is there. Context: may sleep.
    pub(crate) fn probe_personality(&self, personality: Personality) -> Result<bool> {
        let (dev, ndns) = (device_raw(self.ns.dev), self.ns.ndns);
        // SAFETY: The device is being probed, and by the type invariants the namespace is enabled.
        let ret = unsafe {
            match personality {
                Personality::Namespace => return Ok(false),
                Personality::Btt => bindings::rpmem_helper_nd_btt_probe(dev, ndns),
                Personality::Pfn => bindings::nd_pfn_probe(dev, ndns),
                Personality::Dax => bindings::rpmem_helper_nd_dax_probe(dev, ndns),
            }
        };
        match to_result(ret) {
            Ok(()) => Ok(true),
            Err(err) if err == eopnotsupp() || err == ENOMEM => Err(err),
            Err(_) => Ok(false),
        }
    }

    /// Lets libnvdimm set up the pfn or dax device under probe: verifies the info block or, on a device
    /// that userspace has just configured and whose namespace has none, writes it; clears errors in
    /// the page map on the medium; describes range and altmap in a pagemap. Gives the access back.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device under probe is not a configured pfn or dax device; those of
    /// `nvdimm_setup_pfn()` otherwise. Context: may sleep.
    pub(crate) fn setup_pfn(self) -> Result<(Self, PageMapRange)> {
        let pfn = pfn_of(self.ns.dev).ok_or(ENODEV)?;
        let mut range = PageMapRange::empty();

        // On failure the namespace may be enabled or not: devres, which runs when the probe fails,
        // knows.
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `pfn` is of the device under probe, and by the type invariants its namespace is
        // enabled. `range` is zeroed and is filled with plain values only.
        to_result(unsafe { bindings::nvdimm_setup_pfn(pfn, range.as_mut_ptr()) })?;
        // INVARIANT: On success the namespace is enabled, with at least the size that it had.
        Ok((core::mem::ManuallyDrop::into_inner(this), range))
    }
}

impl Drop for RawAccess<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the namespace is enabled for this device.
        unsafe { bindings::devm_namespace_disable(device_raw(self.ns.dev), self.ns.ndns) };
    }
}

/// A btt device whose disk is there: libnvdimm's own block translation table.
///
/// # Invariants
///
/// `nvdimm_namespace_attach_btt()` has succeeded for `dev`, which stays bound to the driver for as long
/// as this lives; `ndns` is the namespace that it claims.
pub(crate) struct Btt {
    dev: ARef<Device>,
    ndns: *mut bindings::nd_namespace_common,
}

// SAFETY: The functions called lock by themselves, or run under the device lock.
unsafe impl Send for Btt {}
// SAFETY: As above.
unsafe impl Sync for Btt {}

impl Btt {
    /// Makes the disk of the btt device `dev`, which is under probe and claims `namespace`. What is
    /// dropped is the disk: before the driver is unbound, as it is with the driver's data.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is not configured, `ENXIO` if the namespace is too small, `ENOMEM`, those
    /// of `btt_init()`. Context: may sleep.
    pub(crate) fn attach(dev: &Device<Core<'_>>, namespace: &Namespace<'_>) -> Result<Self> {
        if Personality::of(dev) != Personality::Btt {
            return Err(ENODEV);
        }
        // SAFETY: By the type invariants of `Namespace` it is valid, and claimed by `dev`, which is a
        // btt device.
        to_result(unsafe { bindings::rpmem_helper_attach_btt(namespace.ndns) })?;
        // INVARIANT: Attached just now.
        Ok(Self {
            // SAFETY: `dev` is valid with a non-zero reference count.
            dev: unsafe { Device::get_device(device_raw(dev)) },
            ndns: namespace.ndns,
        })
    }

    /// Makes the disk read-only or writable, as the region is. Context: device lock held.
    pub(crate) fn check_and_set_ro(&self) {
        // SAFETY: By the type invariants the btt is attached, and so has a disk.
        unsafe {
            bindings::nvdimm_check_and_set_ro(bindings::rpmem_helper_btt_disk(device_raw(
                &self.dev,
            )))
        };
    }

    /// Takes over the bad ranges that the bus knows of. Context: device lock held; takes the bus lock.
    pub(crate) fn revalidate_badblocks(&self, region: &Region) {
        // SAFETY: By the type invariants the namespace is valid and enabled, so that its list of bad
        // blocks is initialised.
        unsafe {
            let io = bindings::rpmem_helper_to_nd_namespace_io(self.ndns);
            let range = bindings::range {
                start: (*io).res.start,
                end: (*io).res.end,
            };
            bindings::nvdimm_badblocks_populate(region.ptr, &raw mut (*io).bb, &range);
        }
    }
}

impl Drop for Btt {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the btt is attached.
        unsafe { bindings::rpmem_helper_detach_btt(device_raw(&self.dev)) };
    }
}

#[kernel::macros::kunit_tests(rpmem_nd_namespace)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::TestBus;

    #[test]
    fn other_devices_are_no_personality() -> Result {
        let bus = TestBus::new()?;
        assert_eq!(Personality::of(bus.child().core()), Personality::Namespace);
        Ok(())
    }
}
