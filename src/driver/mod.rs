// SPDX-License-Identifier: GPL-2.0

//! The driver: how the abstractions and the logic make a pmem block device.

#![deny(unsafe_code)]

mod blk;
mod daxops;
pub(crate) mod device;
mod dirty;
#[cfg(CONFIG_KUNIT = "y")]
mod kunit;
mod lease;
mod map;
mod pmem;
mod sysfs;
mod write_tracking;
