// SPDX-License-Identifier: GPL-2.0

//! Breaks against all that holders do meanwhile. Each test names every outcome that there is, and
//! each of them must be met: a model that never gets into a race shows nothing.

use loom::{
    model::Builder,
    thread::{self, JoinHandle},
};
use rpmem_lease_tests::{
    device::Device,
    lease::{Denied, Kind, Left, Reason},
};
use std::{
    collections::BTreeSet,
    fmt::Debug,
    io::Write,
    rc::Rc,
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        Arc, Mutex, PoisonError,
    },
};

const DIRECT: Kind = Kind {
    direct: true,
    writable: true,
};
const DIRECT_READER: Kind = Kind {
    direct: true,
    writable: false,
};
const ORDINARY: Kind = Kind {
    direct: false,
    writable: true,
};

/// All that comes out of `scene`, over all interleavings; with `preemptions`, over those in which a
/// thread that could go on has to stop at most so many times.
fn outcomes<T: Debug + 'static>(
    name: &str,
    preemptions: Option<usize>,
    expected: impl IntoIterator<Item = T>,
    scene: fn() -> T,
) {
    let count = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let mut builder = Builder::new();
    builder.max_branches = 10_000;
    builder.preemption_bound = preemptions;
    let (runs, all) = (count.clone(), seen.clone());
    builder.check(move || {
        let outcome = scene();
        runs.fetch_add(1, Relaxed);
        all.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(format!("{outcome:?}"));
    });
    // Not by println!, which is only seen when a test fails.
    let count = count.load(Relaxed);
    writeln!(std::io::stderr(), "{name}: {count} interleavings").expect("stderr");
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let expected = expected.into_iter().map(|outcome| format!("{outcome:?}"));
    assert_eq!(*seen, BTreeSet::from_iter(expected));
}

fn run<T: 'static>(
    device: &Rc<Device>,
    thread: impl FnOnce(&Device) -> T + 'static,
) -> JoinHandle<T> {
    let device = device.clone();
    thread::spawn(move || thread(&device))
}

fn end<T>(thread: JoinHandle<T>) -> T {
    thread.join().expect("no panic")
}

#[test]
fn a_removal_waits_for_a_holder() {
    outcomes("holder", None, [true, false], || {
        let device = Device::new(Left::Forever);
        let holder = device.map(DIRECT).expect("free");
        let ordinary = device.map(ORDINARY).expect("free");
        let thread = run(&device, move |device| {
            let served = device.access(&ordinary);
            assert!(device.access(&holder), "the break cannot finish");
            device.unmap(holder);
            served
        });
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        let served = end(thread);
        device.check(0);
        served
    });
}

#[test]
fn a_removal_waits_for_both_sides_of_a_fork() {
    outcomes("fork", None, [()], || {
        let device = Device::new(Left::Forever);
        let parent = device.map(DIRECT).expect("free");
        let again = device.clone();
        let thread = run(&device, move |device| {
            let child = device.fork(&parent);
            let thread = run(&again, move |device| {
                assert!(device.access(&child), "the break cannot finish");
                device.unmap(child);
            });
            device.unmap(parent);
            thread
        });
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        end(end(thread));
        device.check(0);
    });
}

#[test]
fn a_copy_of_what_ends_ends() {
    let all = [[true, true], [true, false], [false, false]];
    outcomes("fork of what ends", None, all, || {
        let device = Device::new(Left::Ms(0));
        let parent = device.map(DIRECT).expect("free");
        let thread = run(&device, move |device| {
            let first = device.access(&parent);
            let child = device.fork(&parent);
            let second = device.access(&child);
            [first, second]
        });
        assert_eq!(device.take_back(Reason::Remove), Some(true));
        let served = end(thread);
        device.check(0);
        served
    });
}

#[test]
fn the_time_ends_a_wait_for_one_who_stays() {
    let all = [[true, true], [true, false], [false, false]];
    outcomes("time", None, all, || {
        let device = Device::new(Left::Ms(1));
        let holder = device.map(DIRECT).expect("free");
        let holder = run(&device, move |device| {
            [device.access(&holder), device.access(&holder)]
        });
        let clock = run(&device, Device::time_is_over);
        assert_eq!(device.take_back(Reason::Remove), Some(true));
        end(clock);
        let served = end(holder);
        device.check(0);
        served
    });
}

#[test]
fn the_time_ends_together_with_the_last_mapping() {
    outcomes("time and munmap", None, [true, false], || {
        let device = Device::new(Left::Forever);
        let holder = device.map(DIRECT).expect("free");
        let holder = run(&device, move |device| device.unmap(holder));
        let clock = run(&device, Device::time_is_over);
        let left = device.take_back(Reason::Remove).expect("the first");
        end(clock);
        end(holder);
        device.check(0);
        left
    });
}

#[test]
fn a_signal_ends_no_wait_for_users() {
    outcomes("signal", None, [true], || {
        let device = Device::new(Left::Forever);
        let holder = device.map(DIRECT).expect("free");
        device.take(true).expect("free");
        let user = run(&device, move |device| {
            device.access_in_kernel(true);
            device.put(true);
        });
        let signal = run(&device, Device::signal);
        let left = device.take_back(Reason::ReadOnly).expect("the first");
        assert!(!device.access(&holder));
        end(user);
        end(signal);
        device.check(0);
        left
    });
}

#[test]
fn read_only_waits_for_mappings_and_users() {
    outcomes("read-only, mapping and user", None, [()], || {
        let device = Device::new(Left::Forever);
        let holder = device.map(DIRECT).expect("free");
        device.take(true).expect("free");
        let holder = run(&device, move |device| {
            assert!(device.access(&holder), "the break cannot finish");
            device.unmap(holder);
        });
        let user = run(&device, move |device| {
            device.access_in_kernel(true);
            device.put(true);
        });
        assert_eq!(device.take_back(Reason::ReadOnly), Some(false));
        end(holder);
        end(user);
        device.check(0);
    });
}

#[test]
fn a_removal_does_not_wait_for_users() {
    outcomes("user that stays", None, [()], || {
        let device = Device::new(Left::Forever);
        device.take(true).expect("free");
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        device.check(1);
        let user = run(&device, move |device| {
            device.access_in_kernel(true);
            device.put(true);
        });
        device.give_up();
        end(user);
        device.check(0);
    });
}

#[test]
fn a_removal_waits_for_mappings_and_keeps_memory_for_users() {
    outcomes("mapping and user", Some(5), [()], || {
        let device = Device::new(Left::Forever);
        let holder = device.map(DIRECT).expect("free");
        device.take(false).expect("free");
        let holder = run(&device, move |device| {
            assert!(device.access(&holder), "the break cannot finish");
            device.unmap(holder);
        });
        let user = run(&device, move |device| {
            device.access_in_kernel(false);
            device.put(false);
        });
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        device.give_up();
        end(holder);
        end(user);
        device.check(0);
    });
}

#[test]
fn a_new_mapping_meets_a_removal() {
    let all = [Ok(()), Err(Denied::Busy), Err(Denied::Gone)];
    outcomes("new mapping", None, all, || {
        let device = Device::new(Left::Forever);
        let thread = run(&device, |device| {
            let mapping = device.map(DIRECT)?;
            assert!(device.access(&mapping), "the break cannot finish");
            device.unmap(mapping);
            Ok(())
        });
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        let outcome = end(thread);
        device.check(0);
        outcome
    });
}

#[test]
fn a_new_ordinary_mapping_meets_a_removal() {
    let all = [Ok(true), Ok(false), Err(Denied::Gone)];
    outcomes("new ordinary mapping", None, all, || {
        let device = Device::new(Left::Forever);
        let thread = run(&device, |device| {
            let mapping = device.map(ORDINARY)?;
            Ok(device.access(&mapping))
        });
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        let outcome = end(thread);
        device.check(0);
        outcome
    });
}

#[test]
fn a_new_user_meets_a_removal() {
    let all = [Ok(()), Err(Denied::Busy), Err(Denied::Gone)];
    outcomes("new user", None, all, || {
        let device = Device::new(Left::Ms(0));
        let holder = device.map(DIRECT).expect("free");
        let thread = run(&device, |device| {
            device.take(true)?;
            device.access_in_kernel(true);
            device.put(true);
            Ok(())
        });
        assert_eq!(device.take_back(Reason::Remove), Some(true));
        assert!(!device.access(&holder));
        device.give_up();
        let outcome = end(thread);
        device.check(0);
        outcome
    });
}

#[test]
fn read_only_is_for_those_who_write() {
    outcomes("read-only", None, [()], || {
        let device = Device::new(Left::Forever);
        let writer = device.map(DIRECT).expect("free");
        let reader = device.map(DIRECT_READER).expect("free");
        let thread = run(&device, move |device| {
            assert!(device.access(&writer), "the break cannot finish");
            device.unmap(writer);
            assert!(device.access(&reader), "no break hits it");
            reader
        });
        assert_eq!(device.take_back(Reason::ReadOnly), Some(false));
        assert_eq!(device.map(DIRECT).err(), Some(Denied::ReadOnly));
        let reader = end(thread);
        assert!(device.access(&reader), "no break hits it");
        device.check(1);
    });
}

#[test]
fn read_only_ends_ordinary_mappings_at_once() {
    let all = [[true, true], [true, false], [false, false]];
    outcomes("read-only, ordinary", None, all, || {
        let device = Device::new(Left::Forever);
        let ordinary = device.map(ORDINARY).expect("free");
        let holder = device.map(DIRECT).expect("free");
        let thread = run(&device, move |device| {
            let served = [device.access(&ordinary), device.access(&ordinary)];
            device.unmap(holder);
            served
        });
        assert_eq!(device.take_back(Reason::ReadOnly), Some(false));
        let served = end(thread);
        device.check(0);
        served
    });
}

#[test]
fn what_has_been_ended_is_nothing_to_the_next_break() {
    let all = [(true, true), (true, false), (false, true)];
    outcomes("two breaks", None, all, || {
        let device = Device::new(Left::Ms(0));
        let writer = device.map(DIRECT).expect("free");
        let thread = run(&device, move |device| {
            let served = device.access(&writer);
            device.unmap(writer);
            served
        });
        let left = device.take_back(Reason::ReadOnly).expect("the first");
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        let served = end(thread);
        device.check(0);
        (served, left)
    });
}

#[test]
fn breakers_take_turns() {
    let all = [Some(false), None];
    outcomes("turns", Some(5), all, || {
        let device = Device::new(Left::Forever);
        let writer = device.map(DIRECT).expect("free");
        let holder = run(&device, move |device| {
            assert!(device.access(&writer), "no break can finish");
            device.unmap(writer);
        });
        let read_only = run(&device, |device| device.take_back(Reason::ReadOnly));
        assert_eq!(device.take_back(Reason::Remove), Some(false));
        // Nothing to do if the memory had gone.
        let outcome = end(read_only);
        end(holder);
        device.check(0);
        outcome
    });
}

#[test]
fn a_signal_to_the_next_breaker_ends_the_patience_of_the_first() {
    outcomes("signal to the next", None, [true, false], || {
        let device = Device::new(Left::Forever);
        let writer = device.map(DIRECT).expect("free");
        let read_only = run(&device, |device| device.take_back(Reason::ReadOnly));
        drop(device.turn(true));
        // It may not have begun when the signal came.
        device.unmap(writer);
        let left = end(read_only).expect("the only one");
        device.check(0);
        left
    });
}

#[test]
fn two_signals_to_those_who_wait_do_not_wake_each_other_for_ever() {
    outcomes("two signals", Some(2), [Some(false)], || {
        let device = Device::new(Left::Forever);
        device.take(true).expect("free");
        let read_only = run(&device, |device| device.take_back(Reason::ReadOnly));
        let others = [(), ()].map(|()| run(&device, |device| drop(device.turn(true))));
        // The user goes on until both have had their signal.
        device.put(true);
        others.map(end);
        let left = end(read_only);
        device.check(0);
        left
    });
}

#[test]
fn what_has_been_ended_stays_so_when_it_is_writable_again() {
    outcomes("writable again", None, [true, false], || {
        let device = Device::new(Left::Ms(0));
        let old = device.map(DIRECT).expect("free");
        let thread = run(&device, move |device| {
            let copy = device.fork(&old);
            device.access(&copy)
        });
        assert_eq!(device.take_back(Reason::ReadOnly), Some(true));
        device.writable_again();
        let new = device.map(DIRECT).expect("writable again");
        assert!(device.access(&new), "no break hits it");
        let served = end(thread);
        device.check(1);
        served
    });
}
