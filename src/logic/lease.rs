// SPDX-License-Identifier: GPL-2.0

//! The lease of direct mappings: who holds the memory of a device, and how it is taken back.
//!
//! C counterpart: `__break_lease()` in `fs/locks.c`, for files. A device cannot use that: leases of
//! the VFS are for regular files, and end with the file, not with the last mapping.
//!
//! A break goes `begin`, then [`wait_for_holders`], then `finish`. Ordinary mappings lose the memory
//! when it begins, direct ones when it is finished. All of [`Lease`] is under one lock; faults look
//! at the [`Gate`] alone, which is published after each change of it.
//!
//! Nobody can take the memory from users in the kernel. A break for [`Reason::ReadOnly`] waits for
//! those that write. One for [`Reason::Remove`] does not: the memory is kept for them.

/// Why a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The memory goes away: all mappings end.
    Remove,
    /// It becomes read-only: mappings that could be written to end.
    ReadOnly,
}

/// What a mapping is to the lease: it stays so for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// In the direct window: holds the lease.
    pub direct: bool,
    /// Writable, or can become so (`VM_MAYWRITE`).
    pub writable: bool,
}

/// Why there is no new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// `EBUSY`: a break is under way.
    Busy,
    /// `ENXIO`: the memory has gone, or is going.
    Gone,
    /// `EACCES`: it is read-only.
    ReadOnly,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Held,
    Breaking { reason: Reason, expired: bool },
    Gone,
}

/// Which mappings of those that could be written to are served: those of the present epoch. Each
/// break for [`Reason::ReadOnly`] ends one.
pub type Epoch = u8;

/// The last epoch. When it ends, nothing can be mapped for writing any more: that is after 63 times
/// read-only, and until there is no mapping left.
pub const LAST_EPOCH: Epoch = 62;

/// What a mapping carries: its kind and epoch, in the low bits of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Its kind.
    pub kind: Kind,
    /// The epoch that it was made in; 0 if it cannot be written to.
    pub epoch: Epoch,
}

/// The epoch of what is no mapping yet, in the bits of a tag.
const NO_EPOCH: Epoch = 63;

impl Tag {
    /// That of a mapping that is being made: it is neither served nor counted.
    pub fn pending(kind: Kind) -> Self {
        let epoch = NO_EPOCH;
        Self { kind, epoch }
    }

    /// Whether it is that of a mapping that has been made.
    pub fn is_counted(&self) -> bool {
        self.epoch != NO_EPOCH
    }

    /// The alignment that the pointer needs, bytes.
    pub const ALIGN: usize = 256;

    /// The bits: less than [`Tag::ALIGN`].
    pub fn to_bits(self) -> usize {
        let bits = usize::from(self.kind.direct)
            | (usize::from(self.kind.writable) << 1)
            | (usize::from(self.epoch) << 2);
        bits & (Self::ALIGN - 1)
    }

    /// The tag with these bits.
    pub fn from_bits(bits: usize) -> Self {
        Self {
            kind: Kind {
                direct: bits & 1 != 0,
                writable: bits & 2 != 0,
            },
            epoch: (bits >> 2) as Epoch & 0x3f,
        }
    }
}

/// What faults are let through, in a number that can be read without a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// Whether ordinary mappings are served, and direct ones.
    open: [bool; 2],
    /// The epochs of the two.
    epoch: [Epoch; 2],
}

impl Gate {
    /// Whether a mapping may be given entries.
    pub fn serves(&self, tag: Tag) -> bool {
        Self::lets(self.to_bits(), tag.to_bits())
    }

    /// As a number: for each kind, a byte with the tag of those that are served. If there are none, it is that
    /// of another kind.
    pub fn to_bits(self) -> u32 {
        u32::from_le_bytes([0, 1, 2, 3].map(|kind| {
            let direct = usize::from(kind & 1);
            let now = if kind & 2 != 0 { self.epoch[direct] } else { 0 };
            if self.open[direct] && now != NO_EPOCH {
                kind | (now << 2)
            } else {
                !kind
            }
        }))
    }

    /// Whether the gate with the number `gate` lets a mapping have entries whose tag has these bits: a few
    /// instructions of each fault.
    #[inline(always)]
    pub fn lets(gate: u32, tag: usize) -> bool {
        (gate >> (8 * (tag & 3))) as u8 == tag as u8
    }
}

/// Whether a break can have an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blocked {
    /// By nobody: it can be finished.
    No,
    /// By holders that it takes the memory from at the end of the grace time.
    ByMappings,
    /// By users in the kernel that write, while it becomes read-only: nobody can take it from them.
    ByUsers,
}

/// What a holder can read about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Mappings are what they promise to be.
    Held,
    /// They are being taken back.
    Breaking(Reason),
    /// They have been, all of them.
    Broken,
}

/// The lease of a device. See the head of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    state: State,
    read_only: bool,
    /// It is read-only for want of an epoch alone: until there is no mapping left.
    owed: bool,
    /// Direct mappings, and users in the kernel; of both those that only read, and that write.
    mappings: [u64; 2],
    users: [u64; 2],
    gate: Gate,
}

impl Default for Lease {
    fn default() -> Self {
        Self::new()
    }
}

impl Lease {
    /// That of a device that nobody has mapped.
    pub const fn new() -> Self {
        Self {
            state: State::Held,
            read_only: false,
            owed: false,
            mappings: [0; 2],
            users: [0; 2],
            gate: Gate {
                open: [true; 2],
                epoch: [0; 2],
            },
        }
    }

    /// What to publish.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// What to tell holders.
    pub fn status(&self) -> Status {
        match self.state {
            State::Held => Status::Held,
            State::Breaking { reason, .. } => Status::Breaking(reason),
            State::Gone => Status::Broken,
        }
    }

    /// Whether mappings cannot be written to.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Direct mappings and users in the kernel that there are.
    pub fn holders(&self) -> u64 {
        self.mappings.iter().chain(&self.users).sum()
    }

    /// Whether there may be a new mapping of that kind.
    ///
    /// # Errors
    ///
    /// See [`Denied`].
    pub fn admit(&self, kind: Kind) -> Result<(), Denied> {
        let hit = |reason| reason == Reason::Remove || kind.writable;
        match self.state {
            State::Gone => Err(Denied::Gone),
            State::Breaking { reason, .. } if hit(reason) && kind.direct => Err(Denied::Busy),
            State::Breaking {
                reason: Reason::Remove,
                ..
            } => Err(Denied::Gone),
            _ if kind.writable && self.read_only => Err(Denied::ReadOnly),
            _ => Ok(()),
        }
    }

    /// A new mapping: gives the tag that it carries from now on.
    ///
    /// # Errors
    ///
    /// See [`Denied`]; there is then no mapping.
    pub fn map(&mut self, kind: Kind) -> Result<Tag, Denied> {
        self.admit(kind)?;
        let epoch = match kind.writable {
            true => self.gate.epoch[usize::from(kind.direct)],
            false => 0,
        };
        let tag = Tag { kind, epoch };
        self.copy(tag);
        Ok(tag)
    }

    /// A mapping was copied, by fork or by a cut through it. Nothing refuses that; the copy of one
    /// that has been ended is no holder.
    pub fn copy(&mut self, tag: Tag) {
        if tag.kind.direct && self.gate.serves(tag) {
            self.mappings[usize::from(tag.kind.writable)] += 1;
        }
    }

    /// A mapping ended; `mapped` says whether there is any other one, also of those that a break has
    /// ended. Gives whether a break waits for that.
    pub fn unmap(&mut self, tag: Tag, mapped: bool) -> bool {
        if tag.kind.direct && self.gate.serves(tag) {
            self.mappings[usize::from(tag.kind.writable)] -= 1;
        }
        if self.owed && !mapped {
            self.writable_again(mapped);
        }
        self.may_finish()
    }

    /// A user in the kernel takes the lease.
    ///
    /// # Errors
    ///
    /// See [`Denied`].
    pub fn add_user(&mut self, writable: bool) -> Result<(), Denied> {
        self.admit(Kind {
            direct: true,
            writable,
        })?;
        self.users[usize::from(writable)] += 1;
        Ok(())
    }

    /// A user in the kernel gives it back, also after it is gone. Whether a break waits for that.
    pub fn remove_user(&mut self, writable: bool) -> bool {
        self.users[usize::from(writable)] -= 1;
        self.may_finish()
    }

    fn may_finish(&self) -> bool {
        matches!(self.state, State::Breaking { .. }) && self.blocked() == Blocked::No
    }

    /// Begins a break. From now on there are no new mappings of the kinds that it hits, and the
    /// ordinary ones of them are not served.
    ///
    /// `false` if there is nothing to do: it was broken before, or is read-only already. Also while
    /// another break is under way, which this one does not join: one break at a time.
    pub fn begin(&mut self, reason: Reason) -> bool {
        if reason == Reason::ReadOnly {
            self.owed = false;
        }
        match reason {
            _ if self.state != State::Held => return false,
            Reason::ReadOnly if self.read_only => return false,
            Reason::Remove => self.gate.open[0] = false,
            Reason::ReadOnly => {
                self.read_only = true;
                self.gate.epoch[0] += 1;
            }
        }
        self.state = State::Breaking {
            reason,
            expired: false,
        };
        true
    }

    /// Who keeps the break under way from its end.
    pub fn blocked(&self) -> Blocked {
        let State::Breaking { reason, expired } = self.state else {
            return Blocked::No;
        };
        if !expired && self.hit(&self.mappings) != 0 {
            Blocked::ByMappings
        } else if reason == Reason::ReadOnly && self.hit(&self.users) != 0 {
            Blocked::ByUsers
        } else {
            Blocked::No
        }
    }

    /// Whether the break under way hits anybody who is to have notice.
    pub fn is_noticed(&self) -> bool {
        self.hit(&self.mappings) + self.hit(&self.users) != 0
    }

    /// How many of those the break under way hits.
    fn hit(&self, counts: &[u64; 2]) -> u64 {
        match self.state {
            State::Breaking {
                reason: Reason::Remove,
                ..
            } => counts[0] + counts[1],
            State::Breaking {
                reason: Reason::ReadOnly,
                ..
            } => counts[1],
            State::Held | State::Gone => 0,
        }
    }

    /// The grace time is over: mappings do not hold the break up any more. `false` if that is nothing
    /// new, or there is no break.
    pub fn expire(&mut self) -> bool {
        match &mut self.state {
            State::Breaking { expired, .. } => !core::mem::replace(expired, true),
            State::Held | State::Gone => false,
        }
    }

    /// Ends the break: the direct mappings that it hits are not served any more. `false` if it is
    /// still blocked, or there is none.
    pub fn finish(&mut self) -> bool {
        let State::Breaking { reason, .. } = self.state else {
            return false;
        };
        if self.blocked() != Blocked::No {
            return false;
        }
        self.state = match reason {
            Reason::Remove => {
                self.gate.open[1] = false;
                self.mappings = [0; 2];
                State::Gone
            }
            Reason::ReadOnly => {
                self.gate.epoch[1] = self.gate.epoch[0];
                self.mappings[1] = 0;
                State::Held
            }
        };
        true
    }

    /// The memory can be written to again; mappings that a break has ended stay so. `mapped` says
    /// whether there is any mapping, also of those: without, epochs begin anew. `false` if there is
    /// no epoch left for new ones: it can then be written to when the last mapping has ended.
    pub fn writable_again(&mut self, mapped: bool) -> bool {
        if !mapped {
            self.gate.epoch = [0; 2];
        }
        self.owed = self.gate.epoch[0] > LAST_EPOCH;
        self.read_only = self.owed;
        !self.owed
    }
}

/// How long a break waits for mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Until they end.
    Forever,
    /// At most so many milliseconds.
    Ms(u64),
}

/// What is left of a grace time of `seconds` (-1 is for ever) after `elapsed_ms`.
pub fn left(seconds: i32, elapsed_ms: u64) -> Left {
    match u64::try_from(seconds) {
        Err(_) => Left::Forever,
        Ok(seconds) => Left::Ms((seconds * 1000).saturating_sub(elapsed_ms)),
    }
}

/// How a wait came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something may have changed, or the time is over.
    Again,
    /// The task that waits got a signal.
    Signal,
}

/// A lease whose lock is held, and what it takes to wait for a change of it.
pub trait Breaker {
    /// The lease.
    fn lease(&mut self) -> &mut Lease;

    /// What is left of the grace time now.
    fn left(&mut self) -> Left;

    /// Waits, without the lock, for a holder to end, for at most that time.
    fn wait_for_mappings(&mut self, left: Left) -> Wake;

    /// Waits, without the lock, for a user in the kernel to end. No signal ends that.
    fn wait_for_users(&mut self);
}

/// Waits until the break can be finished: until no mapping is left that it hits, or the grace time is
/// over, or a signal has ended the patience of the one who waits; and for users in the kernel, unless
/// the memory is kept for them. Gives whether mappings are left.
pub fn wait_for_holders(breaker: &mut impl Breaker) -> bool {
    loop {
        match breaker.lease().blocked() {
            Blocked::No => break,
            Blocked::ByUsers => breaker.wait_for_users(),
            Blocked::ByMappings => {
                let left = breaker.left();
                if left == Left::Ms(0) || breaker.wait_for_mappings(left) == Wake::Signal {
                    breaker.lease().expire();
                }
            }
        }
    }
    let lease = breaker.lease();
    lease.hit(&lease.mappings) != 0
}

/// One who is to break the lease and holds its lock, and what it takes to wait for the end of the
/// break of another one.
pub trait Waiter {
    /// The lease.
    fn lease(&mut self) -> &mut Lease;

    /// Waits, without the lock, for a change of the lease.
    fn wait(&mut self) -> Wake;

    /// The same, and no signal ends that.
    fn wait_on(&mut self);

    /// Wakes all who wait.
    fn wake(&mut self);
}

/// Waits until no other break is under way. A signal to the one who waits ends the grace time of
/// each that is, once: users in the kernel may go on for long, and of two who wait none may wake the
/// other for nothing.
pub fn wait_for_other_breaks(waiter: &mut impl Waiter) {
    let mut signalled = false;
    while matches!(waiter.lease().status(), Status::Breaking(_)) {
        if !signalled {
            signalled = waiter.wait() == Wake::Signal;
        } else if waiter.lease().expire() {
            waiter.wake();
        } else {
            waiter.wait_on();
        }
    }
}
