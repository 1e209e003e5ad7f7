// SPDX-License-Identifier: GPL-2.0

//! The lease that the direct mappings of a device hold, and its break.
//!
//! The rules are in [`crate::logic::lease`]; `Documentation/map_direct.md` is the contract.
//!
//! # Lock order
//!
//! `inner` is taken inside of the mmap lock (mappings come and go), and nothing that can want that
//! lock is done under it. The one who breaks the lease waits on `changed` with `inner` alone, and,
//! unless it is BLKROSET, with the device lock of the namespace.

use crate::{
    abstractions::{
        atomic::Load,
        fasync::Fasync,
        file_operations::Event,
        platform,
        process::{
            self,
            Numbers,
            Process, //
        },
        range::RangeUser,
        trace,
        vma::MmId, //
    },
    logic::{
        lease::{
            self,
            wait_for_holders,
            wait_for_other_breaks,
            Blocked,
            Breaker,
            Denied,
            Gate,
            Kind,
            Lease,
            Left,
            Reason,
            Status,
            Tag,
            Waiter,
            Wake, //
        },
        mmap::Window, //
    }, //
};
use core::fmt::Write;
use kernel::{
    device::Device,
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
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        poll::PollCondVar,
        CondVarTimeoutResult,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    }, //
};

/// What `fs.lease-break-time` is if nobody has changed it, in seconds.
const LEASE_BREAK_TIME: i32 = 45;
/// No grace time has been set for the device: it is that of the kernel.
const UNSET: i32 = i32::MIN;
/// Processes that a line each is printed for.
const NAMED_IN_LOG: usize = 8;
/// The same in sysfs, where all has to fit into a page.
const NAMED_IN_SYSFS: usize = 64;

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
    /// Who says that the memory is read-only, by [`By`].
    read_only: [bool; 2],
}

/// Another module that holds a range.
struct KernelUser {
    user: RangeUser,
    writable: bool,
    told: bool,
}

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

    /// Whether a mapping may be given entries. For faults, which [`DeviceLease::break_lease`] waits for
    /// before it unmaps. Context: any.
    pub(super) fn serves(&self, tag: Tag) -> bool {
        Gate::from_bits(self.gate.load_acquire()).serves(tag)
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

    /// The memory goes away: takes it back from its users, from ordinary mappings at once, from
    /// direct ones when they have gone or their grace time is over, or when the caller gets a
    /// signal. Users in the kernel are told, and keep it until they give it back.
    ///
    /// `unmap` has to wait for faults under way, and then to unmap. If nobody holds the lease but
    /// pages are `pinned`, there is notice as well.
    pub(super) fn remove(&self, dev: &Device, pinned: &dyn Fn() -> bool, unmap: &dyn Fn(Window)) {
        let inner = self.lock_after_other_breaks();
        self.break_lease(dev, inner, Cause::Unbind, pinned, unmap);
    }

    /// The region is read-only from now on, or not any more. In the first case takes the memory
    /// back, as above, from mappings that could be written to.
    pub(super) fn set_region_read_only(
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
    pub(super) fn set_disk_read_only(
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

    fn log_holders(&self, dev: &Device) {
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

    /// The device node is open, or not any more. Context: any, as the next.
    pub(super) fn set_claimed(&self, claimed: bool) {
        self.claimed.store(claimed.into(), Release);
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.claimed.load(Acquire) != 0
    }

    /// Says why the disk cannot be claimed, if not too often.
    pub(super) fn refuse_claim(&self, dev: &Device) {
        if platform::may_log() {
            dev_notice!(
                dev,
                "cannot be mounted, disabled or held: its rpmem node is open\n"
            );
            self.log_holders(dev);
        }
    }

    /// The contents of `holders` in sysfs.
    pub(super) fn show_holders(&self, out: &mut dyn Write) -> core::fmt::Result {
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
