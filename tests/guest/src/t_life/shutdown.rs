// SPDX-License-Identifier: GPL-2.0
//! The end of the machine.

use super::{check_fs, flushes, keep, kept, KEPT, MNT};
use crate::check_eq;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::peer::Peer;
use crate::support::sys::{self, Map};
use crate::support::tools;
use std::fs;

pub const TESTS: &[Test] = crate::tests! {
    life_shutdown => shutdown,
    life_after_shutdown => after_shutdown,
};

// The end of the machine.

/// Shut down by the kernel's own rules, with the driver bound to all modes, a file system mounted and
/// a file mapped: the driver flushes, and nothing is lost. The machine is cut off when the NVDIMM bus is
/// shut down: nothing in a halted machine could ask for it.
fn shutdown(c: &mut Ctx) -> TestResult {
    let s = tools::dax_space(c, &["-M", "mem"])?;
    c.create_namespace(&["-m", "sector", "-s", "64M"])?;
    check_eq!(tools::spaces(c)?.len(), 3, "fsdax, raw and sector");
    tools::mkfs_dax(c, "ext4", &s.dev())?;
    c.mount(&s.dev(), MNT, "dax")?;
    keep(c)?;
    let f = tools::file_of(&format!("{MNT}/mapped"), KEPT)?;
    let mut m = Map::sync(&f, 0, KEPT)?;
    sys::pattern(92, m.slice_mut());
    m.persist(0, KEPT);

    // The kernel names each device that it shuts down, and takes its time.
    c.write("/sys/module/kernel/parameters/initcall_debug", "1")?;
    c.write("/proc/sys/kernel/printk_delay", "10")?;
    let flushes = flushes(c)?;
    c.mark_dmesg();
    let halt = Peer::start(|_| {
        // SAFETY: ends the machine.
        unsafe { libc::reboot(libc::RB_HALT_SYSTEM) };
        1
    })?;
    c.wait_for("the bus to be shut down", || {
        c.dmesg().is_ok_and(|log| log.contains("ndbus0: shutdown"))
    })?;
    c.write("/proc/sys/kernel/printk_delay", "1000")?;
    c.dmesg_has(&format!("{}: shutdown", s.nd))?;
    check_eq!(
        flushes.count_by(c, halt.pid())?,
        tools::spaces(c)?.len(),
        "flushes by the shutdown"
    );
    c.power_cut()
}

fn after_shutdown(c: &mut Ctx) -> TestResult {
    let s = tools::dax_space(c, &[])?;
    c.mount(&s.dev(), MNT, "dax")?;
    kept()?;
    let data = fs::read(format!("{MNT}/mapped"))?;
    check_eq!(data.len(), KEPT);
    check_eq!(
        sys::pattern_differs(92, &data),
        None,
        "the file that was mapped"
    );
    c.umount(MNT)?;
    check_fs(c, "ext4", &s)
}
