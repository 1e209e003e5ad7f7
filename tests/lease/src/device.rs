// SPDX-License-Identifier: GPL-2.0

//! A device, its mappings and their page tables: the steps of `src/driver/lease.rs` and of mm/,
//! each under the lock that it has there.

use crate::{
    lease::{
        wait_for_holders, wait_for_other_breaks, Breaker, Denied, Gate, Kind, Lease, Left, Reason,
        Tag, Waiter, Wake,
    },
    srcu::Srcu,
};
use loom::{
    cell::UnsafeCell,
    sync::{
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Relaxed, Release},
        },
        Condvar, Mutex, MutexGuard,
    },
    thread::yield_now,
};
use std::{cell::Cell, rc::Rc};

/// A VMA, with one page.
pub struct Mapping {
    tag: Tag,
    /// Whether there is an entry in the page table, under its lock.
    entry: Mutex<bool>,
}

/// What is under the lock of the lease.
pub struct Locked {
    lease: Lease,
    /// What is left of the grace time.
    left: Left,
    /// The one who waits has got a signal.
    signal: bool,
}

/// Who uses memory, and who takes it away. It has no lock: loom sees it if the two are not in an
/// order that others have made.
#[derive(Default)]
struct Memory {
    users: UnsafeCell<()>,
    taken: Cell<bool>,
}

impl Memory {
    fn access(&self) {
        self.users.with(|_| ());
        assert!(!self.taken.get(), "access to memory that has been taken");
    }

    fn take(&self, taken: bool) {
        self.users.with_mut(|_| ());
        self.taken.set(taken);
    }
}

/// A device.
pub struct Device {
    locked: Mutex<Locked>,
    changed: Condvar,
    gate: AtomicU32,
    faults: Srcu,
    /// The VMAs of the file, under `i_mmap_rwsem`; a copy comes behind its original.
    tree: Mutex<Vec<Rc<Mapping>>>,
    /// To load from and to store to, through ordinary mappings and direct ones.
    memory: [[Memory; 2]; 2],
    /// The same for users in the kernel, and how many of them hold it.
    held: [Memory; 2],
    holds: AtomicU32,
    /// For breakers alone: that of before may still be taking memory when the next one begins.
    taking: Mutex<()>,
}

impl Device {
    /// One that nobody has mapped, and its grace time.
    pub fn new(left: Left) -> Rc<Self> {
        let lease = Lease::new();
        Rc::new(Self {
            gate: AtomicU32::new(lease.gate().to_bits()),
            locked: Mutex::new(Locked {
                lease,
                left,
                signal: false,
            }),
            changed: Condvar::new(),
            faults: Srcu::default(),
            tree: Mutex::new(Vec::new()),
            memory: Default::default(),
            held: Default::default(),
            holds: AtomicU32::new(0),
            taking: Mutex::new(()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Locked> {
        self.locked.lock().expect("no panic")
    }

    fn publish(&self, locked: &Locked) {
        self.gate.store(locked.lease.gate().to_bits(), Release);
    }

    fn wake(&self, wake: bool) {
        if wake {
            self.changed.notify_all();
        }
    }

    fn insert(&self, tag: Tag) -> Rc<Mapping> {
        let mapping = Rc::new(Mapping {
            tag,
            entry: Mutex::new(false),
        });
        self.tree.lock().expect("no panic").push(mapping.clone());
        mapping
    }

    /// mmap(2).
    pub fn map(&self, kind: Kind) -> Result<Rc<Mapping>, Denied> {
        let tag = self.lock().lease.map(kind)?;
        Ok(self.insert(tag))
    }

    /// fork(2), as `dup_mmap()` does it: `->open`, then the tree, then the entries.
    pub fn fork(&self, mapping: &Mapping) -> Rc<Mapping> {
        self.lock().lease.copy(mapping.tag);
        let copy = self.insert(mapping.tag);
        let entry = mapping.entry.lock().expect("no panic");
        *copy.entry.lock().expect("no panic") = *entry;
        drop(entry);
        copy
    }

    /// munmap(2): the entries, the tree, then `->close`.
    pub fn unmap(&self, mapping: Rc<Mapping>) {
        *mapping.entry.lock().expect("no panic") = false;
        let mut tree = self.tree.lock().expect("no panic");
        tree.retain(|other| !Rc::ptr_eq(other, &mapping));
        let mapped = !tree.is_empty();
        drop(tree);
        let wake = self.lock().lease.unmap(mapping.tag, mapped);
        self.wake(wake);
    }

    fn use_memory(&self, Kind { direct, writable }: Kind) {
        self.memory[usize::from(direct)][usize::from(writable)].access();
    }

    /// A load or a store through the mapping. `false` is a SIGBUS.
    pub fn access(&self, mapping: &Mapping) -> bool {
        // The lock stands for the TLB, too: no entry is taken away in the middle of an access.
        let entry = mapping.entry.lock().expect("no panic");
        if *entry {
            self.use_memory(mapping.tag.kind);
            return true;
        }
        drop(entry);
        self.faults.read(|| {
            let served = Gate::lets(self.gate.load(Acquire), mapping.tag.to_bits());
            if served {
                let mut entry = mapping.entry.lock().expect("no panic");
                *entry = true;
                self.use_memory(mapping.tag.kind);
            }
            served
        })
    }

    /// A user in the kernel.
    pub fn take(&self, writable: bool) -> Result<(), Denied> {
        self.faults.read(|| {
            self.holds.fetch_add(1, Relaxed);
            let taken = self.lock().lease.add_user(writable);
            if taken.is_err() {
                self.holds.fetch_sub(1, Release);
            }
            taken
        })
    }

    /// What it does with the memory.
    pub fn access_in_kernel(&self, writable: bool) {
        self.held[usize::from(writable)].access();
    }

    /// And its end.
    pub fn put(&self, writable: bool) {
        let wake = self.lock().lease.remove_user(writable);
        self.wake(wake);
        self.holds.fetch_sub(1, Release);
    }

    /// After a removal: the memory is given up, and goes when nobody holds it any more.
    pub fn give_up(&self) {
        self.faults.synchronize();
        while self.holds.load(Acquire) != 0 {
            yield_now();
        }
        for held in &self.held {
            held.take(true);
        }
    }

    /// The grace time is over: it has passed, or has been changed to nothing.
    pub fn time_is_over(&self) {
        self.lock().left = Left::Ms(0);
        self.wake(true);
    }

    /// The breaker gets a signal.
    pub fn signal(&self) {
        self.lock().signal = true;
        self.wake(true);
    }

    /// `unmap_mapping_range()` over one of the windows.
    fn zap(&self, direct: bool) {
        for mapping in &*self.tree.lock().expect("no panic") {
            if mapping.tag.kind.direct == direct {
                *mapping.entry.lock().expect("no panic") = false;
            }
        }
    }

    fn take_memory(&self, reason: Reason, direct: bool) {
        let _taking = self.taking.lock().expect("no panic");
        let [load, store] = &self.memory[usize::from(direct)];
        store.take(true);
        if reason == Reason::Remove {
            load.take(true);
        } else if direct {
            self.held[1].take(true);
        }
    }

    /// Waits for the end of a break that is under way. One who gets a signal meanwhile ends its grace
    /// time.
    pub fn turn(&self, signal: bool) -> MutexGuard<'_, Locked> {
        let mut turn = Turn {
            device: self,
            locked: Some(self.lock()),
            signal,
        };
        wait_for_other_breaks(&mut turn);
        turn.locked.take().expect("not in the middle of a wait")
    }

    /// Takes the memory back. Gives whether direct mappings were left; `None` if there was nothing
    /// to do.
    pub fn take_back(&self, reason: Reason) -> Option<bool> {
        let mut locked = self.turn(false);
        if !locked.lease.begin(reason) {
            return None;
        }
        self.publish(&locked);
        drop(locked);
        self.faults.synchronize();
        self.zap(false);
        self.take_memory(reason, false);

        let mut waiting = Waiting {
            device: self,
            locked: Some(self.lock()),
        };
        let left = wait_for_holders(&mut waiting);
        let locked = waiting.locked();
        assert!(locked.lease.finish(), "nobody is in the way");
        self.publish(locked);
        drop(waiting);
        self.changed.notify_all();
        self.faults.synchronize();
        self.zap(true);
        self.take_memory(reason, true);
        Some(left)
    }

    /// The memory can be written to again.
    pub fn writable_again(&self) {
        for memory in self.memory.iter().chain([&self.held]) {
            memory[1].take(false);
        }
        let mut locked = self.lock();
        // Loom's scenes are short: there are epochs enough.
        assert!(locked.lease.writable_again(true));
        self.publish(&locked);
    }

    /// When all has come to rest: no entry is left that a break was to take away, and there are as
    /// many holders as said.
    pub fn check(&self, holders: u64) {
        let locked = self.lock();
        let gate = locked.lease.gate();
        assert_eq!(self.gate.load(Acquire), gate.to_bits());
        assert_eq!(locked.lease.holders(), holders);
        for mapping in &*self.tree.lock().expect("no panic") {
            let entry = *mapping.entry.lock().expect("no panic");
            assert!(!entry || gate.serves(mapping.tag), "an entry is left");
        }
    }
}

/// One who waits for the break of another one, with the lock of the lease.
struct Turn<'a> {
    device: &'a Device,
    /// `None` in the middle of a wait.
    locked: Option<MutexGuard<'a, Locked>>,
    /// A signal is pending: no wait that a signal ends lasts.
    signal: bool,
}

impl Waiter for Turn<'_> {
    fn lease(&mut self) -> &mut Lease {
        &mut self
            .locked
            .as_mut()
            .expect("not in the middle of a wait")
            .lease
    }

    fn wait(&mut self) -> Wake {
        if self.signal {
            return Wake::Signal;
        }
        self.wait_on();
        Wake::Again
    }

    fn wait_on(&mut self) {
        let guard = self.locked.take().expect("not in the middle of a wait");
        self.locked = Some(self.device.changed.wait(guard).expect("no panic"));
    }

    fn wake(&mut self) {
        self.device.changed.notify_all();
    }
}

/// The breaker, with the lock of the lease.
struct Waiting<'a> {
    device: &'a Device,
    /// `None` in the middle of a wait.
    locked: Option<MutexGuard<'a, Locked>>,
}

impl Waiting<'_> {
    fn locked(&mut self) -> &mut Locked {
        self.locked.as_mut().expect("not in the middle of a wait")
    }

    fn wait(&mut self) {
        let guard = self.locked.take().expect("not in the middle of a wait");
        self.locked = Some(self.device.changed.wait(guard).expect("no panic"));
    }
}

impl Breaker for Waiting<'_> {
    fn lease(&mut self) -> &mut Lease {
        &mut self.locked().lease
    }

    fn left(&mut self) -> Left {
        self.locked().left
    }

    fn wait_for_mappings(&mut self, _left: Left) -> Wake {
        if !self.locked().signal {
            self.wait();
        }
        match self.locked().signal {
            true => Wake::Signal,
            false => Wake::Again,
        }
    }

    fn wait_for_users(&mut self) {
        self.wait();
    }
}
