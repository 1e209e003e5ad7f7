// SPDX-License-Identifier: GPL-2.0

//! The lease of direct mappings, in all states that few mappings, users and breaks can bring it to.
//!
//! The specification is [`World`]: a list of mappings, of which each either has the memory or has
//! lost it. It knows no epochs and no counts. Every operation is tried in every state on both, and
//! must give the same answer and the same promises. What several threads make of it is in
//! `tests/lease`.

use rpmem_host_tests::logic::lease::{
    left, wait_for_holders, Blocked, Breaker, Denied, Kind, Lease, Left, Reason, Status, Tag, Wake,
    LAST_EPOCH,
};
use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    io::Write,
};

/// How far the enumeration goes.
const MAPPINGS: usize = 4;
const USERS: usize = 2;
const TIMES_READ_ONLY: u8 = 2;

fn kinds() -> impl Iterator<Item = Kind> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(direct, writable)| Kind { direct, writable })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Mapping {
    direct: bool,
    writable: bool,
    /// A break has taken the memory from it, for good.
    lost: bool,
    /// What the lease gave it: never looked into.
    bits: usize,
}

impl Mapping {
    fn tag(&self) -> Tag {
        Tag::from_bits(self.bits)
    }
}

/// What the lease is to do, said in the words of Documentation/mmap.md.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    mappings: Vec<Mapping>,
    /// Users in the kernel, by whether they write.
    users: Vec<bool>,
    breaking: Option<Reason>,
    time_over: bool,
    removed: bool,
    read_only: bool,
    /// Nobody wants it read-only any more: it is so for want of epochs.
    owed: bool,
    /// Breaks so far, and those since there was no mapping at all when it became writable again.
    times_read_only: u8,
    epochs: u8,
}

fn hits(reason: Reason, writable: bool) -> bool {
    match reason {
        Reason::Remove => true,
        Reason::ReadOnly => writable,
    }
}

impl World {
    fn admits(&self, direct: bool, writable: bool) -> Result<(), Denied> {
        if direct && self.breaking.is_some_and(|reason| hits(reason, writable)) {
            Err(Denied::Busy)
        } else if self.removed || self.breaking == Some(Reason::Remove) {
            Err(Denied::Gone)
        } else if self.read_only && writable {
            Err(Denied::ReadOnly)
        } else {
            Ok(())
        }
    }

    fn mappings_waited_for(&self) -> usize {
        let waited = |m: &&Mapping| {
            m.direct && !m.lost && self.breaking.is_some_and(|reason| hits(reason, m.writable))
        };
        self.mappings.iter().filter(waited).count()
    }

    fn blocked(&self) -> Blocked {
        let Some(reason) = self.breaking else {
            return Blocked::No;
        };
        if self.mappings_waited_for() != 0 && !self.time_over {
            Blocked::ByMappings
        } else if reason == Reason::ReadOnly && self.users.contains(&true) {
            Blocked::ByUsers
        } else {
            Blocked::No
        }
    }

    fn is_noticed(&self) -> bool {
        let users = |reason| self.users.iter().any(|writes| hits(reason, *writes));
        self.mappings_waited_for() != 0 || self.breaking.is_some_and(users)
    }

    /// Whether a breaker that sleeps has to be woken.
    fn can_finish(&self) -> bool {
        self.breaking.is_some() && self.blocked() == Blocked::No
    }

    fn take_from(&mut self, reason: Reason, direct: bool) {
        for m in &mut self.mappings {
            m.lost |= m.direct == direct && hits(reason, m.writable);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Map(Kind),
    Copy(usize),
    Unmap(usize),
    Take(bool),
    Put(usize),
    Begin(Reason),
    Expire,
    Finish,
    WritableAgain,
}

/// The lease, and what it is to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pair {
    lease: Lease,
    world: World,
}

impl Pair {
    fn new() -> Self {
        Self {
            lease: Lease::default(),
            world: World {
                mappings: Vec::new(),
                users: Vec::new(),
                breaking: None,
                time_over: false,
                removed: false,
                read_only: false,
                owed: false,
                times_read_only: 0,
                epochs: 0,
            },
        }
    }

    /// Does it to both. Gives whether a breaker is woken.
    fn step(&mut self, op: Op) -> bool {
        let Self { lease, world } = self;
        let mut woken = false;
        match op {
            Op::Map(kind) => {
                let expected = world.admits(kind.direct, kind.writable);
                let tag = lease.map(kind);
                assert_eq!(tag.map(|_| ()), expected);
                if let Ok(tag) = tag {
                    assert_eq!(tag.kind, kind);
                    assert!(tag.to_bits() < Tag::ALIGN);
                    assert_eq!(Tag::from_bits(tag.to_bits()), tag);
                    world.mappings.push(Mapping {
                        direct: kind.direct,
                        writable: kind.writable,
                        lost: false,
                        bits: tag.to_bits(),
                    });
                }
            }
            Op::Copy(at) => {
                let copy = world.mappings[at];
                lease.copy(copy.tag());
                world.mappings.push(copy);
            }
            Op::Unmap(at) => {
                let tag = world.mappings.remove(at).tag();
                let mapped = !world.mappings.is_empty();
                woken = lease.unmap(tag, mapped);
                if world.owed && !mapped {
                    world.read_only = false;
                    world.owed = false;
                    world.epochs = 0;
                }
                assert_eq!(
                    woken,
                    world.can_finish(),
                    "a wake-up is lost, or for nothing"
                );
            }
            Op::Take(writable) => {
                let expected = world.admits(true, writable);
                assert_eq!(lease.add_user(writable), expected);
                if expected.is_ok() {
                    world.users.push(writable);
                }
            }
            Op::Put(at) => {
                woken = lease.remove_user(world.users.remove(at));
                assert_eq!(
                    woken,
                    world.can_finish(),
                    "a wake-up is lost, or for nothing"
                );
            }
            Op::Begin(reason) => {
                world.owed &= reason != Reason::ReadOnly;
                let nothing_to_do = world.breaking.is_some()
                    || world.removed
                    || (reason == Reason::ReadOnly && world.read_only);
                assert_eq!(lease.begin(reason), !nothing_to_do);
                if !nothing_to_do {
                    world.breaking = Some(reason);
                    world.time_over = false;
                    world.take_from(reason, false);
                    if reason == Reason::ReadOnly {
                        world.read_only = true;
                        world.times_read_only += 1;
                        world.epochs += 1;
                    }
                }
            }
            Op::Expire => {
                let new = world.breaking.is_some() && !world.time_over;
                assert_eq!(lease.expire(), new);
                world.time_over = true;
            }
            Op::Finish => {
                let done = world.can_finish();
                assert_eq!(lease.finish(), done);
                if let (true, Some(reason)) = (done, world.breaking) {
                    world.take_from(reason, true);
                    world.breaking = None;
                    world.removed |= reason == Reason::Remove;
                }
            }
            Op::WritableAgain => {
                let mapped = !world.mappings.is_empty();
                if !mapped {
                    world.epochs = 0;
                }
                let possible = world.epochs <= LAST_EPOCH;
                assert_eq!(lease.writable_again(mapped), possible);
                world.read_only = !possible;
                world.owed = !possible;
            }
        }
        // Of no meaning without a break: not two states for one.
        world.time_over &= world.breaking.is_some();
        world.mappings.sort();
        world.users.sort();
        woken
    }

    /// All that the lease says about itself, and its promises to each mapping.
    fn check(&self) {
        let Self { lease, world } = self;
        let gate = lease.gate();
        for m in &world.mappings {
            assert_eq!(gate.serves(m.tag()), !m.lost, "{m:?}");
        }
        let direct = world.mappings.iter().filter(|m| m.direct && !m.lost);
        assert_eq!(lease.holders(), (direct.count() + world.users.len()) as u64);
        assert_eq!(lease.blocked(), world.blocked());
        assert_eq!(lease.is_noticed(), world.is_noticed());
        assert_eq!(lease.is_read_only(), world.read_only);
        assert_eq!(
            lease.status(),
            match world.breaking {
                Some(reason) => Status::Breaking(reason),
                None if world.removed => Status::Broken,
                None => Status::Held,
            }
        );
        for kind in kinds() {
            assert_eq!(lease.admit(kind), world.admits(kind.direct, kind.writable));
            // Of what fails while it is made.
            let pending = Tag::pending(kind);
            assert_eq!(Tag::from_bits(pending.to_bits()), pending);
            assert!(pending.to_bits() < Tag::ALIGN && !gate.serves(pending));
            let mut same = *lease;
            same.copy(pending);
            same.unmap(pending, true);
            assert_eq!(same, *lease);
        }
    }

    /// What can happen next, within the bounds.
    fn ops(&self, times_read_only: u8) -> Vec<Op> {
        let mut ops = vec![Op::Expire, Op::Finish, Op::WritableAgain];
        ops.push(Op::Begin(Reason::Remove));
        if self.world.times_read_only < times_read_only {
            ops.push(Op::Begin(Reason::ReadOnly));
        }
        let mappings = self.world.mappings.len();
        let users = self.world.users.len();
        ops.extend((0..mappings).map(Op::Unmap));
        ops.extend((0..users).map(Op::Put));
        if mappings < MAPPINGS {
            ops.extend(kinds().map(Op::Map));
            ops.extend((0..mappings).map(Op::Copy));
        }
        if users < USERS {
            ops.extend([Op::Take(false), Op::Take(true)]);
        }
        ops
    }
}

/// Every state that can be reached from `start`, breadth first: a failure has taken the shortest
/// way.
fn enumerate(name: &str, start: Pair, times_read_only: u8, every: impl Fn(&Pair)) {
    let mut known: HashSet<Pair> = HashSet::from([start.clone()]);
    let mut ways: Vec<(usize, Option<Op>, Pair)> = vec![(0, None, start)];
    let mut queue = VecDeque::from([0]);
    let mut transitions = 0_u64;
    while let Some(at) = queue.pop_front() {
        let state = ways[at].2.clone();
        for op in state.ops(times_read_only) {
            let mut next = state.clone();
            let new = {
                let _way = OnPanic(|| {
                    let mut way = vec![op];
                    let mut back = at;
                    while let (from, Some(op), _) = ways[back] {
                        way.push(op);
                        back = from;
                    }
                    way.reverse();
                    format!("the way to it: {way:?}")
                });
                next.step(op);
                next.check();
                let new = !known.contains(&next);
                if new {
                    every(&next);
                }
                new
            };
            transitions += 1;
            if new {
                known.insert(next.clone());
                queue.push_back(ways.len());
                ways.push((at, Some(op), next));
            }
        }
    }
    let states = known.len();
    say(&format!(
        "{name}: {states} states, {transitions} transitions"
    ));
    assert!(states > 5_000, "the enumeration has lost its way");
}

/// Says something when a test fails below it.
struct OnPanic<F: Fn() -> String>(F);

impl<F: Fn() -> String> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0());
        }
    }
}

/// Prints it, for tests that pass, too.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr");
}

/// What goes on while a breaker sleeps: holders end in some order, and the time is over, or a
/// signal comes, after some of that.
#[derive(Clone, Copy, Debug)]
struct Scene {
    users_first: bool,
    /// After so many holders have ended; `None` is never.
    end_of_patience: Option<usize>,
    signal: bool,
    /// The breaker is woken each time, and not only when it has to be.
    spurious: bool,
}

struct Asleep {
    pair: Pair,
    scene: Scene,
    ended: usize,
    /// Whether the breaker has been told that its patience is over.
    told: bool,
}

impl Asleep {
    fn patience_is_over(&self) -> bool {
        self.scene
            .end_of_patience
            .is_some_and(|at| at <= self.ended)
    }

    /// The next holder ends. Gives whether that wakes the breaker.
    fn end_of_one(&mut self) -> bool {
        let world = &self.pair.world;
        let (mappings, users) = (world.mappings.len(), world.users.len());
        let op = if users != 0 && (self.scene.users_first || mappings == 0) {
            Op::Put(users - 1)
        } else {
            assert_ne!(mappings, 0, "the breaker sleeps for ever");
            Op::Unmap(mappings - 1)
        };
        self.ended += 1;
        self.pair.step(op) || self.scene.spurious
    }

    fn tell(&mut self) {
        assert!(!self.told, "the breaker goes on waiting for mappings");
        self.told = true;
        self.pair.world.time_over = true;
    }
}

impl Breaker for Asleep {
    fn lease(&mut self) -> &mut Lease {
        &mut self.pair.lease
    }

    fn left(&mut self) -> Left {
        match self.scene {
            Scene { signal: true, .. } => Left::Forever,
            Scene {
                end_of_patience: None,
                ..
            } => Left::Forever,
            _ if !self.patience_is_over() => Left::Ms(1),
            _ => {
                self.tell();
                Left::Ms(0)
            }
        }
    }

    fn wait_for_mappings(&mut self, left: Left) -> Wake {
        assert_ne!(left, Left::Ms(0), "there is no time to wait");
        assert_eq!(self.pair.world.blocked(), Blocked::ByMappings);
        while !self.patience_is_over() {
            if self.end_of_one() {
                return Wake::Again;
            }
        }
        if !self.scene.signal {
            return Wake::Again;
        }
        self.tell();
        Wake::Signal
    }

    fn wait_for_users(&mut self) {
        assert_eq!(self.pair.world.blocked(), Blocked::ByUsers);
        while !self.end_of_one() {}
    }
}

/// From a state in a break, its end is reached: whoever ends first, with or without an end of the
/// patience, and not before everybody has been waited for who can keep it up.
fn the_break_ends(pair: &Pair) {
    let Some(reason) = pair.world.breaking else {
        return;
    };
    let holders = pair.world.mappings.len() + pair.world.users.len();
    for users_first in [false, true] {
        for end_of_patience in (0..=holders).map(Some).chain([None]) {
            for (signal, spurious) in [(false, false), (true, false), (false, true), (true, true)] {
                let scene = Scene {
                    users_first,
                    end_of_patience,
                    signal,
                    spurious,
                };
                let _scene = OnPanic(|| format!("from {pair:?}, in {scene:?}"));
                let mut breaker = Asleep {
                    pair: pair.clone(),
                    scene,
                    ended: 0,
                    told: pair.world.time_over,
                };
                let left_over = wait_for_holders(&mut breaker);
                let Asleep { mut pair, told, .. } = breaker;
                pair.check();
                assert!(pair.world.can_finish(), "it does not wait for all");
                assert_eq!(left_over, pair.world.mappings_waited_for() != 0);
                assert!(told || !left_over);
                pair.step(Op::Finish);
                pair.check();
                assert_eq!(pair.world.mappings_waited_for(), 0);
                assert_eq!(pair.world.removed, reason == Reason::Remove);
            }
        }
    }
}

#[test]
fn every_state_keeps_its_promises() {
    enumerate("lease", Pair::new(), TIMES_READ_ONLY, the_break_ends);
}

/// Read-only and back so often that there are two epochs left.
#[test]
fn every_state_at_the_end_of_the_epochs() {
    let mut start = Pair::new();
    let mut seen = BTreeSet::new();
    // Without any mapping they would begin anew.
    start.step(Op::Map(Kind {
        direct: false,
        writable: false,
    }));
    for _ in 0..LAST_EPOCH - 1 {
        for kind in kinds().filter(|kind| kind.writable) {
            start.step(Op::Map(kind));
        }
        // Nothing that was made before has the tag of something new.
        let all = std::mem::take(&mut start.world.mappings);
        for m in all {
            if !m.writable {
                start.world.mappings.push(m);
                continue;
            }
            assert!(seen.insert(m.bits));
            start.lease.unmap(m.tag(), true);
        }
        for op in [Op::Begin(Reason::ReadOnly), Op::Finish, Op::WritableAgain] {
            start.step(op);
            start.check();
        }
        let gate = start.lease.gate();
        for bits in &seen {
            assert!(!gate.serves(Tag::from_bits(*bits)));
        }
    }
    let last = start.world.times_read_only + 2;
    assert_eq!(last, LAST_EPOCH + 1);
    assert_eq!(start.world.epochs, LAST_EPOCH - 1);
    enumerate("lease, last epochs", start, last, the_break_ends);
}

#[test]
fn without_a_break_nobody_waits() {
    let mut breaker = Asleep {
        pair: Pair::new(),
        scene: Scene {
            users_first: false,
            end_of_patience: None,
            signal: false,
            spurious: false,
        },
        ended: 0,
        told: false,
    };
    breaker.pair.step(Op::Map(Kind {
        direct: true,
        writable: true,
    }));
    assert!(!wait_for_holders(&mut breaker));
    assert_eq!(breaker.ended, 0);
}

#[test]
fn what_is_left_of_the_grace_time() {
    assert_eq!(left(-1, u64::MAX), Left::Forever);
    assert_eq!(left(i32::MIN, 0), Left::Forever);
    for seconds in [0, 1, 45, i32::MAX] {
        let all = seconds as u64 * 1000;
        for elapsed in [0, 1, 999, 1000, 44_999, 45_000, all, all + 1, u64::MAX] {
            let expected = i128::from(all) - i128::from(elapsed);
            let Left::Ms(ms) = left(seconds, elapsed) else {
                panic!("it ends");
            };
            assert_eq!(i128::from(ms), expected.max(0));
        }
    }
}
