// SPDX-License-Identifier: GPL-2.0

//! The libnvdimm bus: drivers, namespaces, regions.
//!
//! C headers: [`include/linux/nd.h`](srctree/include/linux/nd.h),
//! [`include/linux/libnvdimm.h`](srctree/include/linux/libnvdimm.h)
//!
//! Staging module until it can move to `kernel::nd`.
//!
//! # Who keeps whom alive
//!
//! A namespace device (or the btt, pfn or dax device on it) has a reference to its parent, the region
//! device, until it is removed (`device_del()`), and not until it is freed; the region has one to the
//! bus likewise. But what frees them looks at their parents. So a [`Region`] holds all three, and lets
//! go of them in that order. It is dropped before the device is unbound: nothing that can stay for
//! longer, such as pinned pages, has one. A [`Namespace`] borrows the bound device: libnvdimm does not change resource, claim or uuid of a
//! namespace while a driver is bound to it or to the device that claims it.

use super::{
    badblocks::Badblocks,
    bio::Bio,
    block::{
        self,
        NewDisk, //
    },
    deferred_drop::{
        self,
        Provider, //
    },
    device_raw,
    errno::eopnotsupp,
    pagemap::PageMapRange, //
};
use crate::bindings;
use kernel::{
    device::{
        self,
        Core,
        CoreInternal,
        Device, //
    },
    driver,
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    ffi::c_int,
    prelude::*,
    sync::aref::ARef,
    types::Opaque,
    ThisModule, //
};

/// Device types that a driver binds, as a mask of `ND_DRIVER_*`.
pub(crate) const NAMESPACE_IO: usize = bindings::DRIVER_NAMESPACE_IO;
/// Namespaces described by labels.
pub(crate) const NAMESPACE_PMEM: usize = bindings::DRIVER_NAMESPACE_PMEM;

/// Namespaces in devdax mode.
pub(crate) const DAX_PMEM: usize = bindings::DRIVER_DAX_PMEM;

/// An event that libnvdimm tells the driver of a bound device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The bus knows of new bad ranges.
    RevalidatePoison,
    /// A property of the region, such as read-only, has changed.
    RevalidateRegion,
}

/// A driver for devices of the libnvdimm bus.
///
/// All callbacks run in process context with the device lock held, and may sleep.
pub(crate) trait Driver {
    /// The driver's data of a bound device. Dropped after `remove` and before devres runs.
    type Data: Send + Sync + 'static;

    /// Mask of `NAMESPACE_*`.
    const TYPES: usize;

    /// Binds `dev`. Resources taken through devres are released if this fails.
    ///
    /// The bus moves on to the next seed device of the region on success and on `EOPNOTSUPP`.
    fn probe(dev: &Device<Core<'_>>) -> impl PinInit<Self::Data, Error>;

    /// The device is about to be unbound; `data` is dropped afterwards.
    fn remove(dev: &Device<Core<'_>>, data: Pin<&Self::Data>);

    /// The system goes down.
    fn shutdown(dev: &Device<Core<'_>>, data: Pin<&Self::Data>);

    /// See [`Event`].
    fn notify(dev: &Device<Core<'_>>, data: Pin<&Self::Data>, event: Event);
}

/// Adapter between [`Driver`] and `struct nd_device_driver`, for [`driver::Registration`].
pub(crate) struct Adapter<T: Driver>(T);

// SAFETY:
// - `bindings::nd_device_driver` is a C type declared as `repr(C)`.
// - `T::Data` is the type of the driver's device private data: only `probe_callback` sets it.
// - `struct nd_device_driver` embeds a `struct device_driver` at the offset given.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T> {
    type DriverType = bindings::nd_device_driver;
    type DriverData<'bound> = T::Data;
    const DEVICE_DRIVER_OFFSET: usize = core::mem::offset_of!(Self::DriverType, drv);
}

// SAFETY: `unregister` is called by `Registration` only after `register` has succeeded for the same
// object.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        drv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        module: &'static ThisModule,
    ) -> Result {
        let ptr = drv.get();

        // SAFETY: The structure is valid and not shared before it is registered.
        unsafe {
            (*ptr).drv.name = name.as_char_ptr();
            (*ptr).type_ = T::TYPES;
            (*ptr).probe = Some(Self::probe_callback);
            (*ptr).remove = Some(Self::remove_callback);
            (*ptr).shutdown = Some(Self::shutdown_callback);
            (*ptr).notify = Some(Self::notify_callback);
        }

        // SAFETY: `ptr` stays valid and pinned until `unregister`; `name` and `module` are static.
        to_result(unsafe {
            bindings::__nd_driver_register(ptr, module.as_ptr(), name.as_char_ptr())
        })
    }

    unsafe fn unregister(drv: &Opaque<Self::DriverType>) {
        // SAFETY: The caller guarantees that `register` succeeded, hence `drv.drv` is registered.
        unsafe { bindings::driver_unregister(&raw mut (*drv.get()).drv) }
    }
}

impl<T: Driver> Adapter<T> {
    extern "C" fn probe_callback(dev: *mut bindings::device) -> c_int {
        // SAFETY: `nvdimm_bus_probe()` passes a valid device that stays so during the callback.
        let dev = unsafe { &*dev.cast::<Device<CoreInternal<'_>>>() };

        from_result(|| {
            dev.set_drvdata(T::probe(dev))?;
            Ok(0)
        })
    }

    extern "C" fn remove_callback(dev: *mut bindings::device) {
        // SAFETY: `nvdimm_bus_remove()` passes a valid device that stays so during the callback.
        let dev = unsafe { &*dev.cast::<Device<CoreInternal<'_>>>() };
        // SAFETY: The bus calls this after a successful `probe_callback`, which stored a `T::Data`.
        T::remove(dev, unsafe { dev.drvdata_borrow::<T::Data>() });
    }

    extern "C" fn shutdown_callback(dev: *mut bindings::device) {
        // SAFETY: `nvdimm_bus_shutdown()` passes a valid device that stays so during the callback.
        let dev = unsafe { &*dev.cast::<Device<CoreInternal<'_>>>() };
        // SAFETY: `nvdimm_bus_shutdown()` calls this with the device lock held
        // (`device_shutdown()`) and a driver set, hence after `probe_callback` has succeeded and
        // before the data is dropped.
        T::shutdown(dev, unsafe { dev.drvdata_borrow::<T::Data>() });
    }

    extern "C" fn notify_callback(dev: *mut bindings::device, event: bindings::nvdimm_event) {
        // SAFETY: `nd_device_notify()` passes a valid device that stays so during the callback.
        let dev = unsafe { &*dev.cast::<Device<CoreInternal<'_>>>() };
        // SAFETY: `nd_device_notify()` calls this with the device lock held and a driver set, hence
        // after `probe_callback` has succeeded and before the data is dropped.
        let data = unsafe { dev.drvdata_borrow::<T::Data>() };

        match event {
            bindings::nvdimm_event_NVDIMM_REVALIDATE_POISON => {
                T::notify(dev, data, Event::RevalidatePoison)
            }
            bindings::nvdimm_event_NVDIMM_REVALIDATE_REGION => {
                T::notify(dev, data, Event::RevalidateRegion)
            }
            _ => dev_warn!(dev, "notify: unknown event {}\n", event),
        }
    }
}

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

/// A region: the DIMMs behind a namespace, and the flush that makes writes to them durable. Fields are
/// dropped in this order.
///
/// # Invariants
///
/// `ptr` is the region that is the parent of `child`, and `parents` are its device and that of its bus.
pub(crate) struct Region {
    ptr: *mut bindings::nd_region,
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

#[kernel::macros::kunit_tests(rpmem_nd)]
mod tests {
    use super::*;
    use crate::abstractions::{
        compat,
        kunit::{
            TestBio,
            TestBus,
            Trace,
            PREFLUSH,
            WRITE, //
        }, //
    };
    use kernel::driver::Registration;

    /// A driver for devices of a type that does not exist.
    struct Fake<const TYPES: usize>;

    impl<const TYPES: usize> Driver for Fake<TYPES> {
        type Data = ();

        const TYPES: usize = TYPES;

        fn probe(_dev: &Device<Core<'_>>) -> impl PinInit<Self::Data, Error> {
            Err::<(), _>(ENODEV)
        }

        fn remove(_dev: &Device<Core<'_>>, _data: Pin<&Self::Data>) {}

        fn shutdown(_dev: &Device<Core<'_>>, _data: Pin<&Self::Data>) {}

        fn notify(_dev: &Device<Core<'_>>, _data: Pin<&Self::Data>, _event: Event) {}
    }

    type Pinned<const TYPES: usize> = Pin<KBox<Registration<Adapter<Fake<TYPES>>>>>;

    const NAME: &CStr = c"rpmem-kunit";
    /// Beyond the types that libnvdimm has.
    const NO_DEVICE: usize = 1 << 31;

    fn register<const TYPES: usize>() -> Result<Pinned<TYPES>> {
        KBox::pin_init(Registration::new(NAME, compat::THIS_MODULE), GFP_KERNEL)
    }

    #[test]
    fn a_driver_is_registered_until_it_is_dropped() -> Result {
        let bus = TestBus::new()?;
        assert!(!bus.has_driver(NAME));
        for _ in 0..2 {
            let driver = register::<NO_DEVICE>()?;
            assert!(bus.has_driver(NAME));
            let (trace, ()) = Trace::of(|| drop(driver))?;
            assert!(trace.is(&[c"driver_unregister"]));
            assert!(!bus.has_driver(NAME));
        }
        Ok(())
    }

    #[test]
    fn a_refused_driver_is_not_unregistered() -> Result {
        let bus = TestBus::new()?;
        let (trace, refused) = Trace::of(|| register::<0>().err())?;
        assert_eq!(refused, Some(EINVAL));
        assert!(trace.is(&[]));
        assert!(!bus.has_driver(NAME));

        let driver = register::<NO_DEVICE>()?;
        let (trace, refused) = Trace::of(|| register::<NO_DEVICE>().err())?;
        assert_eq!(refused, Some(EBUSY));
        assert!(trace.is(&[]));
        assert!(bus.has_driver(NAME));
        drop(driver);
        assert!(!bus.has_driver(NAME));
        Ok(())
    }

    #[test]
    fn the_drivers_of_the_bus_have_their_names() -> Result {
        let bus = TestBus::new()?;
        assert!(bus.has_driver(c"rpmem"));
        assert!(!bus.has_driver(c"rpmem2"));
        Ok(())
    }

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

    #[test]
    fn other_devices_are_no_personality() -> Result {
        let bus = TestBus::new()?;
        assert_eq!(Personality::of(bus.child().core()), Personality::Namespace);
        Ok(())
    }
}
