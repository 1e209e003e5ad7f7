// SPDX-License-Identifier: GPL-2.0
//! /dev/rpmemN: the contract of Documentation/mmap.md.

pub mod access;
pub mod confined;
pub mod prefault;
pub mod request;
pub mod revoke;
pub mod tracking;
pub mod write_back;

use crate::support::ctx::{Ctx, TestResult};
use crate::support::sys::{self, Caught, Map};
use crate::{check_eq, fail};

/// A store at `at` ends in this signal.
fn check_sig(m: &Map, at: usize, signal: i32, what: &str) -> TestResult {
    match sys::caught(|| {
        m.write8(at, 1);
        0
    })? {
        Caught::Fault(f) => {
            check_eq!(f.signal, signal, "{what}: at {at:#x}");
            check_eq!(f.addr, m.as_ptr() as usize + at, "{what}: address");
        }
        other => fail!("{what}: store at {at:#x}: {other:?}"),
    }
    Ok(())
}

/// What a valid MAP_DIRECT ends in: on kernels with the patches of qemu/kernels, which are all but
/// Debian's own, no error. Neither the driver nor mmap(2) is asked, they are under test.
fn native(c: &Ctx) -> TestResult<i32> {
    let ours = c.read("/proc/sys/kernel/osrelease")?.contains("-rpmem-");
    check_eq!(ours, c.flavour != "stock", "a kernel of this name");
    Ok(if ours { 0 } else { libc::EOPNOTSUPP })
}
