// SPDX-License-Identifier: GPL-2.0

//! Drivers on the libnvdimm bus.
//!
//! C header: [`include/linux/nd.h`](srctree/include/linux/nd.h)
//!
//! Staging module until it can move to `kernel::nd`.
//!
//! # Who keeps whom alive
//!
//! The driver core frees a driver's data, [`Driver::Data`], after `remove` and before devres runs: nothing
//! that is device-managed may refer to it.
//!
//! # Examples
//!
//! `Fake` in the KUnit tests at the end of this file is the smallest driver.

use crate::bindings;
use kernel::{
    device::{
        Core,
        CoreInternal,
        Device, //
    },
    driver,
    error::{
        from_result,
        to_result, //
    },
    ffi::c_int,
    prelude::*,
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

#[kernel::macros::kunit_tests(rpmem_nd)]
mod tests {
    use super::*;
    use crate::abstractions::{
        compat,
        kunit::{
            TestBus,
            Trace, //
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
}
