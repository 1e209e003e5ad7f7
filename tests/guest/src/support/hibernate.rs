// SPDX-License-Identifier: GPL-2.0
//! Hibernation on the first disk that is no persistent memory.

use crate::support::ctx::{self, Ctx, TestResult};

/// The disk on which the system hibernates.
pub fn swap_on(c: &Ctx) -> TestResult<String> {
    c.modprobe("virtio_blk")?;
    let swap = format!("/dev/{}", ctx::SWAP);
    c.wait_exists(&swap)?;
    if c.read("/proc/swaps")?.lines().count() == 1 {
        c.ok(&["mkswap", &swap])?;
        c.ok(&["swapon", &swap])?;
    }
    Ok(swap)
}

/// Hibernates in that mode of `/sys/power/disk`.
pub fn hibernate(c: &Ctx, mode: &str) -> TestResult {
    let swap = swap_on(c)?;
    c.write("/sys/power/disk", mode)?;
    // No more than must be.
    c.write("/sys/power/image_size", "0")?;
    c.off_and_on()?;
    c.write("/sys/power/state", "disk")?;
    c.ok(&["swapoff", &swap])?;
    Ok(())
}
