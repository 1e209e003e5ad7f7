// SPDX-License-Identifier: GPL-2.0

//! Entries of a mapping before its first access.
//!
//! C counterpart: `populate_vma_page_range()` in [`mm/gup.c`](srctree/mm/gup.c).
//!
//! Staging module until it can move to `kernel::mm::virt`. `MADV_POPULATE_WRITE` refuses page frames.
//!
//! # Lock order
//!
//! The mmap lock is taken for reading, for some entries at a time.
//!
//! # Examples
//!
//! `RPMEM_PREFAULT` in `src/driver/map/ioctl.rs`.

use super::{
    errno::ehwpoison,
    platform,
    vm::{
        Operations,
        Table, //
    },
    vma::{
        DeviceVma,
        PMD_ORDER, //
    }, //
};
use crate::bindings;
use core::{
    num::NonZero,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Entries of a PMD that are made for one fault.
const AT_ONCE: u64 = 32;

/// Bytes of an entry of a PMD.
const HUGE: u64 = (bindings::PAGE_SIZE as u64) << PMD_ORDER;

/// Maps what `owner` has at the user addresses from `start` to `end` of the calling process, with
/// the largest entries that are possible, writable ones if `write`. Gives the address up to which
/// that is done, and why it stopped if that is not `end`.
///
/// # Errors
///
/// `ENOMEM` where nothing is mapped, or without memory for page tables; `EINVAL` where something else
/// is; `EFAULT` where an access would be refused, `EHWPOISON` on poison; `EINTR`; `EAGAIN` if entries
/// are taken away as fast as they are made. Context: may sleep; takes the mmap lock.
pub(crate) fn prefault<T: Operations>(
    owner: &T,
    start: u64,
    end: u64,
    write: bool,
) -> (u64, Result) {
    let task = kernel::current!();
    let Some(mm) = task.mm() else {
        return (start, Err(EFAULT));
    };
    let mut at = start;
    while at < end {
        match prefault_some(owner, mm, at, end, write) {
            Ok(done) => at += done.get(),
            Err(err) => return (at, Err(err)),
        }
    }
    (at.min(end), Ok(()))
}

/// Maps some entries from `at` on, as many as others can wait for who want the mmap lock for
/// themselves; gives how many bytes that was. What makes it stop is found again where it stopped.
fn prefault_some<T: Operations>(
    owner: &T,
    mm: &kernel::mm::MmWithUser,
    at: u64,
    end: u64,
    write: bool,
) -> Result<NonZero<u64>> {
    /// Times that an entry is made in vain.
    const TRIES: usize = 64;
    for _ in 0..TRIES {
        let to = prefault_locked(owner, mm, at, end, write)?;
        platform::cond_resched();
        if let Some(done) = to.checked_sub(at).and_then(NonZero::new) {
            return Ok(done);
        }
    }
    Err(EAGAIN)
}

/// As [`prefault_some`], once: gives the address up to which that is done, `at` if the first entry
/// is gone again already.
fn prefault_locked<T: Operations>(
    owner: &T,
    mm: &kernel::mm::MmWithUser,
    at: u64,
    end: u64,
    write: bool,
) -> Result<u64> {
    const STEPS: usize = 16;
    let guard = mm.mmap_read_lock();
    let vma = guard.vma_lookup(at as usize).ok_or(ENOMEM)?.as_ptr();
    let vma = NonNull::new(vma).ok_or(EINVAL)?;
    // SAFETY: The mmap lock is held, so the VMA is valid and does not change.
    match unsafe { Table::<T>::owner_if_any(vma) } {
        Some(other) if core::ptr::eq(other, owner) => (),
        _ => return Err(EINVAL),
    }
    // SAFETY: The operations are those of `VmaDesc`, and the mmap lock is held.
    let vma = unsafe { DeviceVma::from_raw(vma) };
    let stop = end.min(vma.area().end);
    let mut done = at;
    for _ in 0..STEPS {
        let step = if kernel::current!().signal_pending() {
            Err(EINTR)
        } else {
            prefault_step(owner, mm, &vma, done, stop, write)
        };
        match step {
            Ok(next) if next != done => done = next,
            Err(err) if done == at => return Err(err),
            _ => break,
        }
        if done >= stop {
            break;
        }
    }
    Ok(done)
}

/// Maps one entry at `at`, and some more of its size, up to `end`, where `vma` ends or before; gives the address
/// after them, or `at` if that entry is gone again. `vma` is of `mm`, whose lock is held.
fn prefault_step<T: Operations>(
    owner: &T,
    mm: &kernel::mm::MmWithUser,
    vma: &DeviceVma<'_>,
    at: u64,
    end: u64,
    write: bool,
) -> Result<u64> {
    let expect_stores = |at: u64| {
        if write && vma.is_tracked() && at % HUGE == 0 && end - at >= HUGE {
            owner.expect_stores(vma, at);
        }
    };
    expect_stores(at);
    let mut flags = bindings::fault_flag_FAULT_FLAG_REMOTE;
    if write {
        flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
    }
    // SAFETY: By the type invariants of the mapping the lock is held. Without a place to say so the
    // fault does not drop it.
    to_result(unsafe {
        bindings::fixup_user_fault(mm.as_raw(), at as usize, flags, core::ptr::null_mut())
    })
    .map_err(|err| {
        // It does not tell poison from other reasons.
        if err == EFAULT && owner.is_poisoned(vma, at) {
            ehwpoison()
        } else {
            err
        }
    })?;
    // SAFETY: As above.
    let size = unsafe { bindings::rpmem_helper_entry_size(mm.as_raw(), at as usize, write) } as u64;
    if size == 0 {
        return Ok(at);
    }
    let next = (at | (size - 1)) + 1;
    if size == HUGE {
        // There is a table of them now, so that those behind it take no faults.
        let to = end.min(next + (AT_ONCE - 1) * HUGE);
        return Ok(vma.populate_huge(next, to, write, |fault| {
            expect_stores(fault.address());
            owner.fault(fault, PMD_ORDER)
        }));
    }
    if size != bindings::PAGE_SIZE as u64 {
        return Ok(next);
    }
    // There is a page table now, so that the rest of it takes no faults.
    let table = (at | (HUGE - 1)) + 1;
    let to = table.min(end);
    if next >= to {
        return Ok(next);
    }
    // What cannot be mapped is found by the next fault.
    Ok(owner.populate(vma, next, to, write).unwrap_or(next))
}
