// SPDX-License-Identifier: GPL-2.0

//! Who has mappings or ranges of a device: for the log and for sysfs.

use super::DeviceLease;
use crate::abstractions::{
    platform,
    process::{
        self,
        Numbers,
        Process, //
    },
    range::RangeUser, //
};
use core::fmt::Write;
use kernel::{
    device::Device,
    prelude::*, //
};

/// Processes that a line each is printed for.
const NAMED_IN_LOG: usize = 8;
/// The same in sysfs, where all has to fit into a page.
const NAMED_IN_SYSFS: usize = 64;

impl DeviceLease {
    /// At most `max` of the holders, and how many others there are. What is done under the lock that
    /// every mmap(2), munmap(2) and fork(2) takes has a bound.
    fn some_holders(&self, max: usize) -> (KVec<Process>, KVec<RangeUser>, u64) {
        // Without memory, all of them are others.
        let mut processes = KVec::with_capacity(max, GFP_KERNEL).unwrap_or_default();
        let mut users = KVec::with_capacity(max, GFP_KERNEL).unwrap_or_default();
        let inner = self.inner.lock();
        for mm in inner.holders.keys().take(max.min(processes.capacity())) {
            let _ = processes.push_within_capacity(Process::of(*mm));
        }
        let room = users.capacity().min(max - processes.len());
        for user in inner.users.iter().take(room) {
            let _ = users.push_within_capacity(user.user.clone());
        }
        let others = inner.processes - processes.len() + inner.users.len() - users.len();
        let others = inner.unnamed + others as u64;
        (processes, users, others)
    }

    /// Calls `line` for each of at most `max` processes with mappings: number, name, direct
    /// mappings, all mappings; for other modules the number is 0. Gives how many others there are.
    /// Not for callers that hold `inner`.
    fn for_each_holder<E>(
        &self,
        max: usize,
        numbers: Numbers,
        mut line: impl FnMut(i32, &str, u32, u32) -> Result<(), E>,
    ) -> Result<u64, E> {
        let (mut processes, users, mut others) = self.some_holders(max);
        process::find(&mut processes, numbers);
        for process in &processes {
            let Some((pid, name)) = process.found() else {
                others += 1;
                continue;
            };
            // It may have gone, and another one have its address space.
            let inner = self.inner.lock();
            let holder = inner.holders.get(&process.mm());
            let Some((direct, all)) = holder.map(|holder| (holder.direct, holder.mappings)) else {
                continue;
            };
            drop(inner);
            line(pid, name, direct, all)?;
        }
        for user in &users {
            line(0, user.name().to_str().unwrap_or("?"), 1, 1)?;
        }
        Ok(others)
    }

    /// Prints who holds the memory, as far as there is room for.
    pub(super) fn log_holders(&self, dev: &Device) {
        let others =
            self.for_each_holder(NAMED_IN_LOG, Numbers::OfKernel, |pid, comm, direct, all| {
                dev_notice!(
                    dev,
                    "held by {} (pid {}): {} direct of {} mappings\n",
                    comm,
                    pid,
                    direct,
                    all
                );
                Ok::<_, Error>(())
            });
        if let Ok(others @ 1..) = others {
            dev_notice!(dev, "and by {} others: see holders in sysfs\n", others);
        }
    }

    /// Says why the disk cannot be claimed, if not too often.
    pub(in crate::driver) fn refuse_claim(&self, dev: &Device) {
        if platform::may_log() {
            dev_notice!(
                dev,
                "cannot be mounted, disabled or held: its rpmem node is open\n"
            );
            self.log_holders(dev);
        }
    }

    /// The contents of `holders` in sysfs.
    pub(in crate::driver) fn show_holders(&self, out: &mut dyn Write) -> core::fmt::Result {
        let others = self.for_each_holder(
            NAMED_IN_SYSFS,
            Numbers::OfCaller,
            |pid, comm, direct, all| writeln!(out, "{pid} {direct} {all} {comm}"),
        )?;
        if others != 0 {
            writeln!(out, "and {others} others")?;
        }
        Ok(())
    }
}
