// SPDX-License-Identifier: GPL-2.0

//! Abstractions that the kernel crate does not have yet: staging modules until they can move there.
//!
//! | file | would be | C header |
//! |---|---|---|
//! | `atomic.rs` | `kernel::sync::atomic` | `include/asm-generic/barrier.h` |
//! | `errno.rs` | `kernel::error::code` | `include/uapi/asm-generic/errno.h` |
//! | `compat.rs` | driver's own | `src/c/compat.h` |
//! | `layout.rs` | driver's own | `include/uapi/linux/btf.h` |
//! | `param.rs` | driver's own | `include/linux/moduleparam.h` |
//! | `trace.rs` | `kernel::tracepoint` | `include/linux/tracepoint.h` |
//! | `platform.rs` | driver's own | `include/linux/{mm_types,memremap}.h` |
//! | `address_space.rs` | `kernel::mm` | `include/linux/{anon_inodes,mm}.h` |
//! | `hibernation.rs` | `kernel::power` | `include/linux/suspend.h` |
//! | `fasync.rs` | `kernel::fs` | `include/linux/fs.h` |
//! | `srcu.rs` | `kernel::sync::srcu` | `include/linux/srcu.h` |
//! | `deferred_drop.rs` | driver's own | `include/linux/workqueue.h` |
//! | `sysfs.rs` | `kernel::sysfs` | `include/linux/{sysfs,device}.h` |
//! | `badblocks.rs` | `kernel::block::badblocks` | `include/linux/badblocks.h` |
//! | `bio.rs` | `kernel::block::bio` | `include/linux/bio.h` |
//! | `block.rs` | `kernel::block::disk` | `include/linux/blkdev.h` |
//! | `disk_attributes.rs` | `kernel::block::disk` | `include/linux/blkdev.h` |
//! | `resource.rs` | `kernel::io::resource` | `include/linux/ioport.h` |
//! | `withdrawal.rs` | driver's own | `include/linux/dax.h` |
//! | `pagemap.rs` | `kernel::mm::memremap` | `include/linux/memremap.h` |
//! | `memory.rs` | driver's own | `include/linux/{memremap,io}.h` |
//! | `memremap.rs` | `kernel::mm::memremap` | `include/linux/{memremap,io}.h` |
//! | `dax.rs` | `kernel::dax` | `include/linux/dax.h` |
//! | `vma.rs` | `kernel::mm::virt` | `include/linux/mm.h` |
//! | `vm.rs` | `kernel::mm::virt` | `include/linux/mm.h` |
//! | `mmap.rs` | `kernel::mm::virt` | `include/linux/mm.h` |
//! | `prefault.rs` | `kernel::mm::virt` | `include/linux/mm.h` |
//! | `pfn_space.rs` | `kernel::mm` | `include/linux/memory-failure.h` |
//! | `process.rs` | `kernel::task` | `include/linux/sched/signal.h` |
//! | `file_operations.rs` | `kernel::fs` | `include/linux/fs.h` |
//! | `device_attributes.rs` | `kernel::chrdev` | `include/linux/{sysfs,device}.h` |
//! | `chrdev.rs` | `kernel::chrdev` | `include/linux/{cdev,device/class}.h` |
//! | `range.rs` | driver's own | `include/linux/rpmem.h` |
//! | `kunit.rs` | driver's own | `include/kunit/test.h` |
//! | `nd_region.rs` | `kernel::nd::region` | `include/linux/libnvdimm.h` |
//! | `nd_namespace.rs` | `kernel::nd::namespace` | `include/linux/{nd,libnvdimm}.h` |
//! | `nd.rs` | `kernel::nd` | `include/linux/nd.h` |
//!
//! A file imports those alone that stand above it, and what is to move to the kernel crate says which C source it
//! mirrors, and where an example of its use is compiled: `scripts/check layers`.
//!
//! `kunit.rs` is what the KUnit tests share. They stand at the end of the files that they test, and may import what
//! they like; with them a file may be longer than 500 lines.
//!
//! This is the only hand-written `unsafe` Rust of the module. Nothing here uses `crate::driver`.

pub(crate) mod address_space;
pub(crate) mod atomic;
pub(crate) mod badblocks;
pub(crate) mod bio;
pub(crate) mod block;
pub(crate) mod chrdev;
pub(crate) mod compat;
pub(crate) mod dax;
pub(crate) mod deferred_drop;
pub(crate) mod device_attributes;
pub(crate) mod disk_attributes;
pub(crate) mod errno;
pub(crate) mod fasync;
pub(crate) mod file_operations;
pub(crate) mod hibernation;
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod kunit;
pub(crate) mod layout;
pub(crate) mod memory;
pub(crate) mod memremap;
pub(crate) mod mmap;
pub(crate) mod nd;
pub(crate) mod nd_namespace;
pub(crate) mod nd_region;
pub(crate) mod pagemap;
pub(crate) mod param;
pub(crate) mod pfn_space;
pub(crate) mod platform;
pub(crate) mod prefault;
pub(crate) mod process;
pub(crate) mod range;
pub(crate) mod resource;
pub(crate) mod srcu;
pub(crate) mod sysfs;
pub(crate) mod trace;
pub(crate) mod vm;
pub(crate) mod vma;
pub(crate) mod withdrawal;

use crate::bindings;
use kernel::device::{Core, Device, DeviceContext};

/// The C `struct device *` of a device; `kernel::device::Device::as_raw` is private to the kernel
/// crate.
fn device_raw<C: DeviceContext>(dev: &Device<C>) -> *mut bindings::device {
    // CAST: `Device` is a transparent wrapper of `Opaque<bindings::device>`.
    core::ptr::from_ref(dev).cast_mut().cast()
}

/// The NUMA node of a device (`dev_to_node()`).
fn numa_node(dev: &Device<Core<'_>>) -> i32 {
    #[cfg(CONFIG_NUMA)]
    // SAFETY: The device is valid; the node does not change while a driver is bound.
    return unsafe { (*device_raw(dev)).numa_node };
    #[cfg(not(CONFIG_NUMA))]
    {
        let _ = dev;
        bindings::NUMA_NO_NODE
    }
}
