// SPDX-License-Identifier: GPL-2.0
//! What all of this has left behind: nothing.

use crate::check;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::tools;
use std::io;

pub const TESTS: &[Test] = crate::tests! {
    fault_leaks => leaks,
};

// Leaks.

/// Objects in use in a slab cache.
fn objects(c: &Ctx, cache: &str) -> TestResult<u64> {
    let dir = format!("/sys/kernel/slab/{cache}");
    for _ in 0..3 {
        // A grace period (MEMBARRIER_CMD_GLOBAL), for what is freed by RCU.
        // SAFETY: no pointers.
        let r = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
        check!(r == 0, "membarrier: {}", io::Error::last_os_error());
        c.write(format!("{dir}/shrink"), "1")?;
    }
    let text = c.read(format!("{dir}/objects"))?;
    let n = text.split(' ').next().unwrap_or_default().parse();
    n.map_err(|_| format!("{dir}/objects: {text:?}").into())
}

/// After all of the above: every reference is back, and no memory is lost.
fn leaks(c: &mut Ctx) -> TestResult {
    let all = tools::spaces(c)?;
    check!(!all.is_empty());
    // Inodes are freed by RCU, whose callbacks run when the kernel finds the time.
    let has_inodes = |n: u64| {
        c.wait_for(&format!("{n} DAX inodes"), || {
            objects(c, "dax_cache").is_ok_and(|now| now == n)
        })
    };
    // Of each disk its own, and the one by which its end waits for readers.
    has_inodes(1 + 2 * all.len() as u64)?;
    for s in &all {
        s.unbind(c)?;
    }
    c.wait_unused("rpmem")?;
    c.rmmod("rpmem")?;
    // One is the root of their file system.
    has_inodes(1)?;
    check!(!c.read("/proc/iomem")?.contains("rpmem"));
    // The scan for lost memory follows at the end of the boot.
    Ok(())
}
