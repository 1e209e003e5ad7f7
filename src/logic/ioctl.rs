// SPDX-License-Identifier: GPL-2.0

//! The arguments of ioctl(2) on the character device, as bytes.
//!
//! C header: `include/uapi/linux/rpmem.h` of this project. Both structures start with `argsz`, their size as
//! the caller knows it: a later kernel may know more than the caller, and the reverse.

use super::lease::{
    Left,
    Reason,
    Status, //
};

/// `RPMEM_INFO`.
pub const INFO: u32 = command(0);
/// `RPMEM_PREFAULT`.
pub const PREFAULT: u32 = command(1);
/// `RPMEM_LEASE`.
pub const LEASE: u32 = command(2);

/// `sizeof(struct rpmem_info)`.
pub const INFO_SIZE: usize = 32;
/// `sizeof(struct rpmem_prefault)`.
pub const PREFAULT_SIZE: usize = 32;
/// `sizeof(struct rpmem_lease)`.
pub const LEASE_SIZE: usize = 32;

/// `RPMEM_INFO_SYNC`.
pub const INFO_SYNC: u32 = 1;
/// `RPMEM_INFO_PAGES`.
pub const INFO_PAGES: u32 = 2;
/// `RPMEM_INFO_PINNABLE`.
pub const INFO_PINNABLE: u32 = 4;
/// `RPMEM_PREFAULT_WRITE`.
pub const PREFAULT_WRITE: u32 = 1;

/// `RPMEM_LEASE_HELD`.
pub const LEASE_HELD: u32 = 0;
/// `RPMEM_LEASE_REMOVE`.
pub const LEASE_REMOVE: u32 = 1;
/// `RPMEM_LEASE_READ_ONLY`.
pub const LEASE_READ_ONLY: u32 = 2;
/// `RPMEM_LEASE_BROKEN`.
pub const LEASE_BROKEN: u32 = 3;

/// `_IO(0xbd, nr)`.
const fn command(nr: u32) -> u32 {
    (0xbd << 8) | nr
}

/// Why an argument is refused: `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentError {
    /// `argsz` is less than the first version of the structure.
    Short,
    /// A flag that is not known.
    UnknownFlag,
    /// Address or length not in pages, or the range wraps.
    Range,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u64::from(u32_at(bytes, at + 4)) << 32) | u64::from(u32_at(bytes, at))
}

/// `struct rpmem_prefault`: maps pages ahead of any access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefault {
    /// First user address, at the start of a page.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// Whether they are to be writable.
    pub write: bool,
}

impl Prefault {
    /// Takes the bytes of the structure apart.
    ///
    /// # Errors
    ///
    /// See [`ArgumentError`].
    pub fn parse(bytes: &[u8; PREFAULT_SIZE], page_size: u64) -> Result<Self, ArgumentError> {
        if u32_at(bytes, 0) < PREFAULT_SIZE as u32 {
            return Err(ArgumentError::Short);
        }
        let flags = u32_at(bytes, 4);
        if flags & !PREFAULT_WRITE != 0 {
            return Err(ArgumentError::UnknownFlag);
        }
        let (start, len) = (u64_at(bytes, 8), u64_at(bytes, 16));
        let end = start.checked_add(len).ok_or(ArgumentError::Range)?;
        if (start | len) & (page_size - 1) != 0 {
            return Err(ArgumentError::Range);
        }
        Ok(Self {
            start,
            end,
            write: flags & PREFAULT_WRITE != 0,
        })
    }
}

/// `struct rpmem_lease`: whether direct mappings are being taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its state.
    pub status: Status,
    /// Breaks that holders were told of, since the namespace was bound.
    pub breaks: u32,
    /// Direct mappings and users in the kernel.
    pub holders: u64,
    /// What is left of the grace time, if it is being broken.
    pub left: Left,
}

impl Lease {
    /// The bytes of the structure.
    pub fn to_bytes(self) -> [u8; LEASE_SIZE] {
        let (state, left) = match (self.status, self.left) {
            (Status::Held, _) => (LEASE_HELD, 0),
            (Status::Broken, _) => (LEASE_BROKEN, 0),
            (Status::Breaking(reason), left) => (
                match reason {
                    Reason::Remove => LEASE_REMOVE,
                    Reason::ReadOnly => LEASE_READ_ONLY,
                },
                match left {
                    Left::Forever => -1,
                    Left::Ms(ms) => i64::try_from(ms).unwrap_or(i64::MAX),
                },
            ),
        };
        let mut bytes = [0; LEASE_SIZE];
        bytes[..4].copy_from_slice(&(LEASE_SIZE as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&state.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.breaks.to_le_bytes());
        bytes[16..24].copy_from_slice(&left.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.holders.to_le_bytes());
        bytes
    }
}

/// The offset of `done` in `struct rpmem_prefault`.
pub const PREFAULT_DONE: usize = 24;

/// `struct rpmem_info`: what the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes that can be mapped.
    pub size: u64,
    /// The largest entry that a mapping can have, in bytes.
    pub huge_page: u64,
    /// Whether MAP_SYNC is possible.
    pub synchronous: bool,
    /// Whether there are struct pages.
    pub page_backed: bool,
    /// Whether get_user_pages works on mappings.
    pub pinnable: bool,
}

impl Info {
    /// The bytes of the structure.
    pub fn to_bytes(self) -> [u8; INFO_SIZE] {
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        let flags = flag(self.synchronous, INFO_SYNC)
            | flag(self.page_backed, INFO_PAGES)
            | flag(self.pinnable, INFO_PINNABLE);
        let mut bytes = [0; INFO_SIZE];
        bytes[..4].copy_from_slice(&(INFO_SIZE as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.huge_page.to_le_bytes());
        bytes
    }
}
