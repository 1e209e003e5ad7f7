// SPDX-License-Identifier: GPL-2.0

//! rpmem: a driver for persistent memory that takes the place of `nd_pmem` on a libnvdimm
//! namespace.
//!
//! - [`abstractions`]: what the kernel crate does not have yet; all `unsafe` code.
//! - [`logic`]: arithmetic and parsing without kernel types, tested on the host too.
//! - [`driver`]: the driver itself.

mod abstractions;
mod bindings;
mod driver;
// `pub` for the host tests, which are another crate.
#[expect(unreachable_pub)]
mod logic;
#[cfg(CONFIG_KUNIT = "y")]
mod logic_kunit;

use abstractions::{
    chrdev,
    deferred_drop,
    hibernation,
    layout,
    nd,
    platform,
    trace, //
};
use kernel::{
    driver::Registration,
    prelude::*, //
};

#[pin_data]
struct Module {
    #[pin]
    _registration: Registration<nd::Adapter<driver::device::Driver>>,
    _layout: layout::Proven,
    // What the driver has left to it ends before the module does.
    _queue: deferred_drop::Queue,
    // Bound devices may be in its way, and memory in the queue.
    #[pin]
    _hibernation: hibernation::Notifier,
    // The devices that the driver makes are of this class.
    _class: chrdev::Class,
    // They have the events of all devices.
    _counters: trace::Counters,
    // And ask how long a break waits.
    _lease_break_time: platform::LeaseBreakTime,
}

impl kernel::InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before anything looks into a structure.
            _layout: layout::Proven::new()?,
            _hibernation <- hibernation::Notifier::new(),
            _queue: deferred_drop::Queue::new()?,
            _class: chrdev::Class::register()?,
            _counters: trace::Counters::new(),
            _lease_break_time: platform::LeaseBreakTime::new(),
            _registration <- Registration::new(
                <LocalModule as kernel::ModuleMetadata>::NAME,
                module,
            ),
        })
    }
}

module! {
    type: Module,
    name: "rpmem",
    authors: ["The rpmem authors"],
    description: "Persistent memory block device with DAX",
    license: "GPL v2",
    alias: ["nd:t4*", "nd:t5*", "nd:t7*", "pmem"],
    params: {
        strict_validate: u8 {
            default: 0,
            description: "1: mmap(MAP_SHARED_VALIDATE) of /dev/rpmemN without MAP_SYNC is EINVAL",
        },
    },
}
