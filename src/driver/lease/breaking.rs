// SPDX-License-Identifier: GPL-2.0

//! The break of a lease: notice, the wait for holders, the end.
//!
//! C counterpart: `__break_lease()` in `fs/locks.c`.
//!
//! # Lock order
//!
//! The one who breaks the lease waits on `changed` with `inner` alone, and, unless it is BLKROSET, with the
//! device lock of the namespace.

use super::{
    DeviceLease,
    Inner, //
};
use crate::{
    abstractions::trace,
    logic::{
        lease::{
            self,
            wait_for_holders,
            wait_for_other_breaks,
            Blocked,
            Breaker,
            Lease,
            Left,
            Reason,
            Waiter,
            Wake, //
        },
        mmap::Window, //
    }, //
};
use kernel::{
    device::Device,
    prelude::*,
    sync::{
        atomic::Relaxed,
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        poll::PollCondVar,
        CondVarTimeoutResult, //
    },
    time::{
        msecs_to_jiffies,
        Instant, //
    }, //
};

/// Who makes memory read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The region, for all of its namespaces.
    Region,
    /// An administrator, for the disk (BLKROSET).
    Disk,
}

/// Why the lease is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Unbind,
    ReadOnly(By),
}

impl Cause {
    fn reason(self) -> Reason {
        match self {
            Cause::Unbind => Reason::Remove,
            Cause::ReadOnly(_) => Reason::ReadOnly,
        }
    }
}

/// For events.
fn word(reason: Reason) -> &'static CStr {
    match reason {
        Reason::Remove => c"remove",
        Reason::ReadOnly => c"read-only",
    }
}

/// As events have it: -1 is for ever.
fn ms(left: Left) -> i64 {
    match left {
        Left::Forever => -1,
        Left::Ms(ms) => i64::try_from(ms).unwrap_or(i64::MAX),
    }
}

impl DeviceLease {
    /// The memory goes away: takes it back from its users, from ordinary mappings at once, from
    /// direct ones when they have gone or their grace time is over, or when the caller gets a
    /// signal. Users in the kernel are told, and keep it until they give it back.
    ///
    /// `unmap` has to wait for faults under way, and then to unmap. If nobody holds the lease but
    /// pages are `pinned`, there is notice as well.
    pub(in crate::driver) fn remove(
        &self,
        dev: &Device,
        pinned: &dyn Fn() -> bool,
        unmap: &dyn Fn(Window),
    ) {
        let inner = self.lock_after_other_breaks();
        self.break_lease(dev, inner, Cause::Unbind, pinned, unmap);
    }

    /// The region is read-only from now on, or not any more. In the first case takes the memory
    /// back, as above, from mappings that could be written to.
    pub(in crate::driver) fn set_region_read_only(
        &self,
        dev: &Device,
        read_only: bool,
        unmap: &dyn Fn(Window),
    ) {
        let inner = self.lock_after_other_breaks();
        self.set_read_only(dev, inner, By::Region, read_only, unmap);
    }

    /// The same for the disk, which an administrator asks for.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller gets a signal while another break is under way.
    pub(in crate::driver) fn set_disk_read_only(
        &self,
        dev: &Device,
        read_only: bool,
        unmap: &dyn Fn(Window),
    ) -> Result {
        let mut inner = self.lock_to_break();
        while inner.is_breaking() {
            if self.changed.wait_interruptible(&mut inner) {
                return Err(EINTR);
            }
        }
        self.set_read_only(dev, inner, By::Disk, read_only, unmap);
        Ok(())
    }

    /// The lock, with the grace time known if it is of interest.
    fn lock_to_break(&self) -> Guard<'_, Inner, MutexBackend> {
        let inner = self.inner.lock();
        if inner.lease.holders() == 0 {
            return inner;
        }
        drop(inner);
        self.refresh_default_grace();
        self.inner.lock()
    }

    /// The lock when no other break is under way. A signal to the caller, whose own break cannot be
    /// put off, ends the grace time of the other one.
    fn lock_after_other_breaks(&self) -> Guard<'_, Inner, MutexBackend> {
        let mut next = NextBreaker {
            inner: self.lock_to_break(),
            changed: &self.changed,
        };
        wait_for_other_breaks(&mut next);
        next.inner
    }

    fn set_read_only(
        &self,
        dev: &Device,
        mut inner: Guard<'_, Inner, MutexBackend>,
        by: By,
        read_only: bool,
        unmap: &dyn Fn(Window),
    ) {
        inner.read_only[by as usize] = read_only;
        if inner.read_only != [false; 2] {
            self.break_lease(dev, inner, Cause::ReadOnly(by), &|| false, unmap);
            return;
        }
        let mapped = inner.is_mapped();
        if !inner.lease.writable_again(mapped) {
            dev_warn!(
                dev,
                "was read-only too often: no writable mappings until all have been unmapped\n"
            );
        }
        self.publish(&inner);
    }

    /// A break, when no other one is under way.
    fn break_lease(
        &self,
        dev: &Device,
        mut inner: Guard<'_, Inner, MutexBackend>,
        cause: Cause,
        pinned: &dyn Fn() -> bool,
        unmap: &dyn Fn(Window),
    ) {
        let reason = cause.reason();
        if !inner.lease.begin(reason) {
            return;
        }
        inner.began = Instant::now();
        self.publish(&inner);
        for user in &mut inner.users {
            user.told = false;
        }
        let noticed = inner.lease.is_noticed();
        let waits = inner.lease.blocked() != Blocked::No;
        let name = dev.name();
        let grace = lease::left(self.grace(), 0);
        let holders = inner.lease.holders();
        trace::lease_break(name, word(reason), holders, ms(grace));
        if noticed {
            self.breaks.fetch_add(1, Relaxed);
        }
        drop(inner);
        if noticed {
            self.log_break(dev, holders, cause, waits);
        }
        unmap(Window::Ordinary);
        if noticed || pinned() {
            self.changed.notify_all();
            self.fasync.signal();
            self.tell_users(reason);
        }

        let mut wait = ActiveBreaker {
            inner: self.inner.lock(),
            device_lease: self,
            dev,
            warned: false,
        };
        let expired = wait_for_holders(&mut wait);
        let left = wait.inner.lease.holders();
        let users = wait.inner.users.len() as u64;
        trace::lease_end(name, word(reason), left, ms(wait.left()));
        if expired {
            dev_notice!(dev, "lease broken with {} mappings left\n", left - users);
        } else if waits {
            dev_notice!(dev, "lease given back\n");
        }
        wait.inner.lease.finish();
        self.publish(&wait.inner);
        drop(wait);
        self.changed.notify_all();
        unmap(Window::Direct);
    }

    fn log_break(&self, dev: &Device, count: u64, cause: Cause, waits: bool) {
        let why = match cause {
            Cause::Unbind => "the namespace is being unbound",
            Cause::ReadOnly(By::Region) => "the region became read-only",
            Cause::ReadOnly(By::Disk) => "the disk is being made read-only",
        };
        match lease::left(self.grace(), 0) {
            _ if !waits => dev_notice!(dev, "{}: {} other modules hold it\n", why, count),
            Left::Forever => dev_notice!(dev, "{}: waiting for {} holders\n", why, count),
            Left::Ms(ms) => dev_notice!(
                dev,
                "{}: waiting up to {} s for {} holders\n",
                why,
                ms / 1000,
                count
            ),
        }
        self.log_holders(dev);
    }

    /// Tells the users in the kernel that a break for `reason` hits.
    fn tell_users(&self, reason: Reason) {
        loop {
            let mut inner = self.inner.lock();
            let next = inner
                .users
                .iter_mut()
                .find(|user| !user.told && (reason == Reason::Remove || user.writable));
            let Some(next) = next else {
                return;
            };
            next.told = true;
            let user = next.user.clone();
            drop(inner);
            user.broken();
        }
    }
}

/// One who waits for the break of another one to end.
struct NextBreaker<'a> {
    inner: Guard<'a, Inner, MutexBackend>,
    changed: &'a PollCondVar,
}

impl Waiter for NextBreaker<'_> {
    fn lease(&mut self) -> &mut Lease {
        &mut self.inner.lease
    }

    fn wait(&mut self) -> Wake {
        match self.changed.wait_interruptible(&mut self.inner) {
            true => Wake::Signal,
            false => Wake::Again,
        }
    }

    fn wait_on(&mut self) {
        self.changed.wait(&mut self.inner);
    }

    fn wake(&mut self) {
        self.changed.notify_all();
    }
}

/// The one who breaks the lease.
struct ActiveBreaker<'a> {
    inner: Guard<'a, Inner, MutexBackend>,
    device_lease: &'a DeviceLease,
    dev: &'a Device,
    /// That users in the kernel are waited for.
    warned: bool,
}

impl Breaker for ActiveBreaker<'_> {
    fn lease(&mut self) -> &mut Lease {
        &mut self.inner.lease
    }

    fn left(&mut self) -> Left {
        self.device_lease.left(&self.inner)
    }

    fn wait_for_mappings(&mut self, left: Left) -> Wake {
        let changed = &self.device_lease.changed;
        let signal = match left {
            Left::Forever => changed.wait_interruptible(&mut self.inner),
            Left::Ms(ms) => {
                let ms = u32::try_from(ms).unwrap_or(u32::MAX);
                matches!(
                    changed.wait_interruptible_timeout(&mut self.inner, msecs_to_jiffies(ms)),
                    CondVarTimeoutResult::Signal { .. }
                )
            }
        };
        if signal {
            dev_notice!(self.dev, "a signal ends the grace time\n");
            return Wake::Signal;
        }
        Wake::Again
    }

    fn wait_for_users(&mut self) {
        if !self.warned {
            dev_warn!(self.dev, "held by another module: waiting for it\n");
            self.warned = true;
        }
        self.device_lease.changed.wait(&mut self.inner);
    }
}
