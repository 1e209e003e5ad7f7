// SPDX-License-Identifier: GPL-2.0
//! The ioctls of /dev/rpmemN, as include/uapi/linux/rpmem.h has them.

use crate::support::sys::Map;
use crate::support::tools::errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct rpmem_info` of include/uapi/linux/rpmem.h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Info {
    pub argsz: u32,
    pub flags: u32,
    pub size: u64,
    pub huge_page: u64,
    pub reserved: u64,
}

/// `struct rpmem_prefault` of include/uapi/linux/rpmem.h.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Prefault {
    pub argsz: u32,
    pub flags: u32,
    pub addr: u64,
    pub len: u64,
    pub done: u64,
}

/// `struct rpmem_lease` of include/uapi/linux/rpmem.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lease {
    pub argsz: u32,
    pub state: u32,
    pub breaks: u32,
    pub reserved: u32,
    pub left: i64,
    pub holders: u64,
}

pub const LEASE_HELD: u32 = 0;
pub const LEASE_REMOVE: u32 = 1;
pub const LEASE_READ_ONLY: u32 = 2;
pub const LEASE_BROKEN: u32 = 3;

pub fn ioctl_raw<T>(f: &File, request: u64, arg: *mut T) -> io::Result<()> {
    // SAFETY: the kernel checks the address, EFAULT tells.
    match unsafe { libc::ioctl(f.as_raw_fd(), request as _, arg) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// RPMEM_INFO, by a caller that takes the structure for `argsz` bytes long.
pub fn rpmem_info(f: &File, argsz: u32) -> io::Result<Info> {
    let mut info = Info {
        argsz,
        ..Default::default()
    };
    ioctl_raw(f, 0xbd00, &mut info)?;
    Ok(info)
}

/// RPMEM_LEASE, by a caller that takes the structure for `argsz` bytes long.
pub fn rpmem_lease(f: &File, argsz: u32) -> io::Result<Lease> {
    let mut lease = Lease {
        argsz,
        // What the kernel does not fill in is seen.
        reserved: u32::MAX,
        ..Lease::default()
    };
    ioctl_raw(f, 0xbd02, &mut lease)?;
    Ok(lease)
}

/// RPMEM_PREFAULT of a part of a mapping: bytes done, and the errno.
pub fn rpmem_prefault(f: &File, m: &Map, offset: usize, len: u64, flags: u32) -> (u64, i32) {
    prefault_at(f, m.as_ptr() as usize + offset, len, flags)
}

/// The same at an address.
pub fn prefault_at(f: &File, addr: usize, len: u64, flags: u32) -> (u64, i32) {
    let mut arg = Prefault {
        argsz: 32,
        flags,
        addr: addr as u64,
        len,
        done: 0,
    };
    let r = ioctl_raw(f, 0xbd01, &mut arg);
    (arg.done, errno(&r))
}
