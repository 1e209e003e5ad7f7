// SPDX-License-Identifier: GPL-2.0

//! The lease that the direct mappings of a device hold, and its break.
//!
//! The rules are in [`crate::logic::lease`]; `Documentation/map_direct.md` is the contract.
//!
//! # Lock order
//!
//! `inner` is taken inside of the mmap lock (mappings come and go), and nothing that can want that
//! lock is done under it. `Documentation/lifetimes.md` has the order of all locks.

mod breaking;
mod holders;

use crate::{
    abstractions::{
        atomic::Load,
        fasync::Fasync,
        file_operations::Event,
        platform,
        range::RangeUser,
        vma::MmId, //
    },
    logic::lease::{
        self,
        Denied,
        Gate,
        Kind,
        Lease,
        Left,
        Status,
        Tag, //
    }, //
};
use core::fmt::Write;
use kernel::{
    new_mutex,
    new_poll_condvar,
    prelude::*,
    rbtree::RBTree,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        poll::PollCondVar,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// What `fs.lease-break-time` is if nobody has changed it, in seconds.
const LEASE_BREAK_TIME: i32 = 45;
/// No grace time has been set for the device: it is that of the kernel.
const UNSET: i32 = i32::MIN;
/// Mappings of a process.
struct Holder {
    mappings: u32,
    direct: u32,
}

struct Inner {
    lease: Lease,
    holders: RBTree<MmId, Holder>,
    /// How many of them.
    processes: usize,
    /// Mappings that there was no memory for in `holders`.
    unnamed: u64,
    began: Instant<Monotonic>,
    users: KVec<KernelUser>,
    /// Who says that the memory is read-only: region, disk (`breaking::By`).
    read_only: [bool; 2],
}

/// Another module that holds a range.
struct KernelUser {
    user: RangeUser,
    writable: bool,
    told: bool,
}

/// What [`DeviceLease::info`] gives.
pub(super) struct LeaseInfo {
    pub(super) status: Status,
    pub(super) breaks: u32,
    pub(super) holders: u64,
    /// Of the grace time, while the lease is being broken.
    pub(super) left: Left,
}

/// The lease of a device.
#[pin_data]
pub(crate) struct DeviceLease {
    #[pin]
    inner: Mutex<Inner>,
    /// A holder has gone, or the lease is in another state, or the grace time is another.
    #[pin]
    changed: PollCondVar,
    fasync: Fasync,
    gate: Atomic<u32>,
    /// In seconds; -1 is for ever.
    grace: Atomic<i32>,
    /// What it is by default, as far as that is known.
    default_grace: Atomic<i32>,
    breaks: Atomic<u32>,
    /// Whether the device node is open, so that nobody else may claim the disk.
    claimed: Atomic<i32>,
}

fn errno(denied: Denied) -> Error {
    match denied {
        Denied::Busy => EBUSY,
        Denied::Gone => ENXIO,
        Denied::ReadOnly => EACCES,
    }
}

impl Inner {
    fn is_breaking(&self) -> bool {
        matches!(self.lease.status(), Status::Breaking(_))
    }

    /// Whether there is any mapping, also of those that have lost the memory.
    fn is_mapped(&self) -> bool {
        self.unnamed != 0 || !self.holders.is_empty()
    }

    fn add(&mut self, mm: MmId, direct: bool) -> Result {
        let direct = u32::from(direct);
        if let Some(holder) = self.holders.get_mut(&mm) {
            holder.mappings += 1;
            holder.direct += direct;
            return Ok(());
        }
        let holder = Holder {
            mappings: 1,
            direct,
        };
        self.holders.try_create_and_insert(mm, holder, GFP_KERNEL)?;
        self.processes += 1;
        Ok(())
    }

    fn remove(&mut self, mm: MmId, direct: bool) {
        match self.holders.get_mut(&mm) {
            None => self.unnamed -= 1,
            Some(holder) if holder.mappings == 1 => {
                self.holders.remove(&mm);
                self.processes -= 1;
            }
            Some(holder) => {
                holder.mappings -= 1;
                // The direct one may have been among those without a name.
                holder.direct = holder.direct.saturating_sub(u32::from(direct));
            }
        }
    }
}

impl DeviceLease {
    /// A lease that nobody holds; of memory that is `read_only` or not.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner {
                lease: Lease::new(),
                holders: RBTree::new(),
                processes: 0,
                unnamed: 0,
                began: Instant::now(),
                users: KVec::new(),
                read_only: [false; 2],
            }),
            changed <- new_poll_condvar!(),
            fasync: Fasync::new(),
            gate: Atomic::new(Lease::new().gate().to_bits()),
            grace: Atomic::new(UNSET),
            default_grace: Atomic::new(LEASE_BREAK_TIME),
            breaks: Atomic::new(0),
            claimed: Atomic::new(0),
        })
    }

    pub(super) fn changed(&self) -> &PollCondVar {
        &self.changed
    }

    pub(super) fn fasync(&self) -> &Fasync {
        &self.fasync
    }

    /// Whether a mapping whose tag has these bits may be given entries. For faults, which a break waits for
    /// before it unmaps. Context: any.
    pub(super) fn serves(&self, tag: usize) -> bool {
        Gate::lets(self.gate.load_acquire(), tag)
    }

    fn publish(&self, inner: &Inner) {
        self.gate.store(inner.lease.gate().to_bits(), Release);
    }

    /// Whether mappings cannot be written to. Context: may sleep, as all that follow.
    pub(super) fn is_read_only(&self) -> bool {
        self.inner.lock().lease.is_read_only()
    }

    /// Whether a mapping may be made.
    ///
    /// # Errors
    ///
    /// `EBUSY` while the lease is being broken, `ENXIO` after that, `EACCES` if it is for writing
    /// and the memory read-only.
    pub(super) fn admit(&self, kind: Kind) -> Result {
        self.inner.lock().lease.admit(kind).map_err(errno)
    }

    /// A new mapping of `mm`.
    ///
    /// # Errors
    ///
    /// As above, and `ENOMEM`.
    pub(super) fn map(&self, kind: Kind, mm: MmId) -> Result<Tag> {
        let mut inner = self.inner.lock();
        inner.lease.admit(kind).map_err(errno)?;
        inner.add(mm, kind.direct)?;
        inner.lease.map(kind).map_err(errno)
    }

    /// A copy of a mapping, in `mm`.
    pub(super) fn copy(&self, tag: Tag, mm: MmId) {
        let mut inner = self.inner.lock();
        if inner.add(mm, tag.kind.direct).is_err() {
            inner.unnamed += 1;
        }
        inner.lease.copy(tag);
    }

    /// A mapping of `mm` has ended.
    pub(super) fn unmap(&self, tag: Tag, mm: MmId) {
        let mut inner = self.inner.lock();
        inner.remove(mm, tag.kind.direct);
        let mapped = inner.is_mapped();
        let gate = inner.lease.gate();
        let wake = inner.lease.unmap(tag, mapped);
        if inner.lease.gate() != gate {
            self.publish(&inner);
        }
        drop(inner);
        if wake {
            self.changed.notify_all();
        }
    }

    /// Another module holds a range.
    ///
    /// # Errors
    ///
    /// As [`DeviceLease::map`].
    pub(super) fn add_user(&self, user: RangeUser, writable: bool) -> Result {
        let mut inner = self.inner.lock();
        inner.users.reserve(1, GFP_KERNEL)?;
        inner.lease.add_user(writable).map_err(errno)?;
        inner.users.push(
            KernelUser {
                user,
                writable,
                told: false,
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    /// It does not use it any more.
    pub(super) fn remove_user(&self, user: &RangeUser, writable: bool) {
        let mut inner = self.inner.lock();
        inner.users.retain(|other| other.user != *user);
        let wake = inner.lease.remove_user(writable);
        drop(inner);
        if wake {
            self.changed.notify_all();
        }
    }

    /// The device node is open, or not any more. Context: any, as the next.
    pub(super) fn set_claimed(&self, claimed: bool) {
        self.claimed.store(claimed.into(), Release);
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Acquire) != 0
    }

    /// What a holder can ask for.
    pub(super) fn info(&self) -> LeaseInfo {
        let inner = self.inner.lock();
        LeaseInfo {
            status: inner.lease.status(),
            breaks: self.breaks.load(Relaxed),
            holders: inner.lease.holders(),
            left: self.left(&inner),
        }
    }

    /// What to tell poll(2).
    pub(super) fn event(&self) -> Event {
        match self.inner.lock().lease.status() {
            Status::Held => Event::None,
            Status::Breaking(_) => Event::Notice,
            Status::Broken => Event::Gone,
        }
    }

    fn left(&self, inner: &Inner) -> Left {
        let elapsed = u64::try_from(inner.began.elapsed().as_millis()).unwrap_or(0);
        lease::left(self.grace(), elapsed)
    }

    /// The grace time in seconds; negative if it is for ever.
    fn grace(&self) -> i32 {
        match self.grace.load(Relaxed) {
            UNSET => self.default_grace.load(Relaxed),
            grace => grace,
        }
    }

    fn refresh_default_grace(&self) {
        if let Ok(grace) = platform::lease_break_time() {
            self.default_grace.store(grace, Relaxed);
        }
    }

    /// The contents of `lease_break_time` in sysfs.
    pub(super) fn show_grace(&self, out: &mut dyn Write) -> core::fmt::Result {
        self.refresh_default_grace();
        writeln!(out, "{}", self.grace())
    }

    /// Sets the grace time, of a break under way as well.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not a number of seconds from -1 on.
    pub(super) fn store_grace(&self, text: &[u8]) -> Result {
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        let grace: i32 = text.trim().parse().map_err(|_| EINVAL)?;
        if grace < -1 {
            return Err(EINVAL);
        }
        let inner = self.inner.lock();
        self.grace.store(grace, Relaxed);
        drop(inner);
        self.changed.notify_all();
        Ok(())
    }
}
