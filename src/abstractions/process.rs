// SPDX-License-Identifier: GPL-2.0

//! Processes by their address space.
//!
//! C header: [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)
//!
//! Staging module until it can move to `kernel::task`.
//!
//! # Examples
//!
//! `DeviceLease::for_each_holder()` in `src/driver/lease/holders.rs`.

use super::vma::MmId;
use crate::bindings;
use kernel::str::CStr;

/// Whose number of a process is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// That of the caller's pid namespace, where not every process has one.
    OfCaller,
    /// That of the first pid namespace, as the kernel log has it.
    OfKernel,
}

/// An address space, and a process that uses it once [`find`] has found one.
#[repr(transparent)]
pub(crate) struct Process(bindings::rpmem_process);

impl Process {
    /// That of an address space, not yet looked for.
    pub(crate) fn of(mm: MmId) -> Self {
        Self(bindings::rpmem_process {
            mm: mm.0,
            pid: 0,
            comm: [0; bindings::TASK_COMM_LEN as usize],
        })
    }

    /// The address space.
    pub(crate) fn mm(&self) -> MmId {
        MmId(self.0.mm)
    }

    /// Number and name, if it was found: neither one that is about to end, nor one that has no
    /// number in that pid namespace.
    pub(crate) fn found(&self) -> Option<(i32, &str)> {
        let name = CStr::from_bytes_until_nul(&self.0.comm).unwrap_or_default();
        (self.0.pid != 0).then_some((self.0.pid, name.to_str().unwrap_or("?")))
    }
}

/// Looks for all of them, which are in the order of their address spaces, in one walk over the
/// processes; over none if there is nothing to look for. Context: any; it takes as long as there are
/// processes.
pub(crate) fn find(all: &mut [Process], numbers: Numbers) {
    if all.is_empty() {
        return;
    }
    // SAFETY: So many structures, in that order. CAST: `Process` is a transparent wrapper.
    unsafe {
        bindings::rpmem_helper_processes(
            all.as_mut_ptr().cast(),
            all.len(),
            numbers == Numbers::OfKernel,
        )
    };
}
