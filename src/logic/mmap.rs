// SPDX-License-Identifier: GPL-2.0

//! What mmap(2) of the character device may ask for, and what it gets.
//!
//! C counterpart: the flag checks of `do_mmap()` in `mm/mmap.c`, which pass to a driver only what
//! they know, and `__check_vma()` in `drivers/dax/device.c`.

use super::geometry::PAGE_SIZE;
use core::ops::Range;

/// The part of the flags of mmap(2) that is the type of the mapping (`MAP_TYPE`).
pub const MAP_TYPE: u64 = 0xf;
/// `MAP_SHARED`: flags that the kernel does not know are ignored.
pub const MAP_SHARED: u64 = 1;
/// `MAP_SHARED_VALIDATE`: they are refused.
pub const MAP_SHARED_VALIDATE: u64 = 3;
/// `MAP_SYNC`.
pub const MAP_SYNC: u64 = 0x8_0000;
/// `MAP_DIRECT`, of `include/uapi/linux/rpmem.h`.
pub const MAP_DIRECT: u64 = 0x20_0000;

/// Offset in bytes at which the bytes of the device appear a second time: what is mapped from here
/// on is a direct mapping.
pub const DIRECT_WINDOW: u64 = 1 << 60;

/// A part of the file that has all bytes of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// From its start on: ordinary mappings, plain or synchronous.
    Ordinary,
    /// From [`DIRECT_WINDOW`] on: direct mappings.
    Direct,
}

impl Window {
    /// The file offset at which it starts, in pages.
    pub const fn pgoff(self) -> u64 {
        match self {
            Window::Ordinary => 0,
            Window::Direct => DIRECT_WINDOW / PAGE_SIZE,
        }
    }
}

/// What a mapping promises. It follows from the flag of mmap(2) and the offset, and stays as it is
/// for as long as the mapping lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Stores are durable after msync(2) or fsync(2).
    Plain,
    /// Stores are durable once they are out of the CPU caches.
    Sync,
    /// As `Sync`, from the direct window.
    Direct,
}

/// Why a mapping is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `EINVAL`: MAP_PRIVATE.
    Private,
    /// `EINVAL`: MAP_SYNC or MAP_DIRECT with MAP_SHARED, where the kernel ignores the flag.
    NotValidated,
    /// `EINVAL`: MAP_SHARED_VALIDATE without a flag to validate, and the administrator wants one.
    NothingToValidate,
    /// `EOPNOTSUPP`: MAP_SYNC on a region whose writes need a flush by its host.
    NotSynchronous,
    /// `EINVAL`: not all of it is on the device, or it is empty or not in pages.
    OutOfRange,
}

impl Refusal {
    /// What to tell the user.
    pub fn reason(self) -> &'static str {
        match self {
            Refusal::Private => "private mappings are not possible, use MAP_SHARED_VALIDATE",
            Refusal::NotValidated => {
                "MAP_SYNC and MAP_DIRECT need MAP_SHARED_VALIDATE instead of MAP_SHARED"
            }
            Refusal::NothingToValidate => {
                "strict_validate is set, and MAP_SHARED_VALIDATE comes without MAP_SYNC"
            }
            Refusal::NotSynchronous => "no MAP_SYNC: writes to this region need a flush, use msync",
            Refusal::OutOfRange => "offset and length are not inside the device",
        }
    }
}

/// What a mapping is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Pages that can be mapped.
    pub pages: u64,
    /// Whether stores are durable without a flush by the host of the region.
    pub synchronous: bool,
}

/// The part of a device that a mapping covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first page on the device, in pages.
    pub first: u64,
    /// Length in pages.
    pub pages: u64,
    /// Whether it is in the direct window.
    pub direct: bool,
}

/// The file offset in pages that a mapping with MAP_DIRECT at `pgoff` gets: MAP_DIRECT means the
/// direct window, which may also have been asked for by its offset.
pub fn direct(pgoff: u64) -> u64 {
    const WINDOW: u64 = Window::Direct.pgoff();
    if pgoff < WINDOW {
        WINDOW + pgoff
    } else {
        pgoff
    }
}

/// The page of the device at the file offset `pgoff` (in pages), in either window.
#[inline(always)]
pub fn page_at(pgoff: u64) -> u64 {
    pgoff.checked_sub(Window::Direct.pgoff()).unwrap_or(pgoff)
}

/// Where on the device `pages` pages from the file offset `pgoff` (in pages) on are.
///
/// # Errors
///
/// [`Refusal::OutOfRange`] if they are not all in one of the two windows.
pub fn locate(device: &Device, pgoff: u64, pages: u64) -> Result<Extent, Refusal> {
    const WINDOW: u64 = Window::Direct.pgoff();
    let (first, direct) = match pgoff.checked_sub(WINDOW) {
        Some(first) => (first, true),
        None => (pgoff, false),
    };
    let fits = device
        .pages
        .checked_sub(first)
        .is_some_and(|left| pages <= left);
    if pages == 0 || !fits || device.pages > WINDOW {
        return Err(Refusal::OutOfRange);
    }
    Ok(Extent {
        first,
        pages,
        direct,
    })
}

/// The pages of the device among the bytes from `first` to `last` (inclusive) of the file, in
/// either window.
pub fn pages_of(device: &Device, first: u64, last: u64) -> Range<u64> {
    let (first, last) = match first.checked_sub(DIRECT_WINDOW) {
        Some(first) => (first, last.saturating_sub(DIRECT_WINDOW)),
        None => (first, last),
    };
    let start = (first / PAGE_SIZE).min(device.pages);
    let end = (last / PAGE_SIZE).saturating_add(1).min(device.pages);
    start..end.max(start)
}

/// Checks the flags of mmap(2) as the caller gave them. If it is `strict`, MAP_SHARED_VALIDATE needs
/// something to validate.
///
/// Flags that the kernel itself refuses or that mean nothing to this device are let through.
///
/// # Errors
///
/// See [`Refusal`].
pub fn check_flags(flags: u64, strict: bool) -> Result<(), Refusal> {
    let new = flags & (MAP_SYNC | MAP_DIRECT);
    match flags & MAP_TYPE {
        MAP_SHARED if new != 0 => Err(Refusal::NotValidated),
        MAP_SHARED => Ok(()),
        MAP_SHARED_VALIDATE if new == 0 && strict => Err(Refusal::NothingToValidate),
        MAP_SHARED_VALIDATE => Ok(()),
        _ => Err(Refusal::Private),
    }
}

/// The class of a mapping whose flags have been checked.
///
/// # Errors
///
/// [`Refusal::NotSynchronous`].
pub fn class(device: &Device, extent: &Extent, sync: bool) -> Result<Class, Refusal> {
    match (extent.direct, sync) {
        (_, true) if !device.synchronous => Err(Refusal::NotSynchronous),
        (true, _) => Ok(Class::Direct),
        (false, true) => Ok(Class::Sync),
        (false, false) => Ok(Class::Plain),
    }
}
