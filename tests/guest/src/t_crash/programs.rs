// SPDX-License-Identifier: GPL-2.0
//! Programs on /dev/rpmemN: what people copy, as it is and with faults in it.

use super::{range, record, space};
use crate::log::{Identity, Log};
use crate::store::{self, Store};
use crate::support::crash::{self, Explored};
use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::memory::Faulty;
use crate::{check, check_eq};
use rpmem::{Device, Memory};
use std::collections::BTreeMap;

pub const TESTS: &[Test] = crate::tests! {
    crash_record_log => |c| record_program(c, &LOG, true, true),
    crash_log => |c| look_at_program(c, &LOG)?.is_right(),
    crash_record_store => |c| record_program(c, &STORE, true, true),
    crash_store => |c| look_at_program(c, &STORE)?.is_right(),
    crash_record_planted => record_planted,
    crash_planted => planted,
};

const IDENTITY: Identity = *b"that of the test";
/// Bytes that a program has.
const ROOM: usize = 64 << 10;

struct Program {
    name: &'static str,
    /// Where it is in its namespace.
    at: u64,
    /// Makes what is there and does so many operations; says when each is acknowledged.
    run: fn(&dyn Memory, &mut dyn FnMut()) -> TestResult,
    /// What was acknowledged is there; the one that was being done is there or not.
    look: fn(&dyn Memory, usize) -> TestResult,
}

fn entry(n: usize) -> Vec<u8> {
    (0..n * 37 % 300).map(|k| (n * 31 + k) as u8).collect()
}

const OPERATIONS: usize = 100;

const LOG: Program = Program {
    name: "the log of lib/rpmem",
    at: 0,
    run: |memory, acknowledged| {
        let mut log = Log::format(memory, IDENTITY)?;
        acknowledged();
        for n in 0..OPERATIONS {
            log.append(&entry(n))?;
            acknowledged();
        }
        Ok(())
    },
    look: |memory, done| {
        let mut found = Vec::new();
        let log = Log::open(memory, |entry| found.push(entry.to_vec()));
        let Some(done) = done.checked_sub(1) else {
            // It was being made.
            check!(log.is_err() || found.is_empty(), "{} entries", found.len());
            return Ok(());
        };
        let mut log = log?;
        check!(
            found.len() == done || found.len() == done + 1,
            "{} entries of {done}",
            found.len()
        );
        for (n, found) in found.iter().enumerate() {
            check!(*found == entry(n), "entry {n}");
        }
        // Life goes on, over what a torn entry has left.
        log.append(b"later")?;
        let mut last = Vec::new();
        let mut all = 0;
        Log::open(memory, |entry| {
            last = entry.to_vec();
            all += 1;
        })?;
        check!(last == b"later", "what comes later");
        check_eq!(all, found.len() + 1);
        Ok(())
    },
};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The store after so many changes; new keys, old ones, and none once more.
fn entries(changes: usize) -> Entries {
    let mut all = Entries::new();
    for n in 0..changes {
        let (key, value) = change(n);
        match value {
            Some(value) => all.insert(key, value),
            None => all.remove(&key),
        };
    }
    all
}

fn change(n: usize) -> (Vec<u8>, Option<Vec<u8>>) {
    let key = format!("key {}", n * 7 % 13).into_bytes();
    let mut value = entry(n + 3);
    value.truncate(store::ROOM - key.len());
    (key, (n % 5 != 4).then_some(value))
}

const STORE: Program = Program {
    name: "the store of lib/rpmem",
    at: 1 << 20,
    run: |memory, acknowledged| {
        let mut store = Store::format(memory, IDENTITY)?;
        acknowledged();
        for n in 0..OPERATIONS {
            match change(n) {
                (key, Some(value)) => store.put(&key, &value)?,
                (key, None) => drop(store.remove(&key)?),
            }
            acknowledged();
        }
        Ok(())
    },
    look: |memory, done| {
        let found = |memory| -> Result<Entries, store::Error> {
            let store = Store::open(memory)?;
            let all = store.iter().map(|(k, v)| (k.to_vec(), v.to_vec()));
            Ok(all.collect())
        };
        let before = found(memory);
        let Some(done) = done.checked_sub(1) else {
            check!(before.is_err() || before.is_ok_and(|b| b.is_empty()));
            return Ok(());
        };
        let mut before = before?;
        check!(
            before == entries(done) || before == entries(done + 1),
            "{} entries, which are not those of {done} changes",
            before.len()
        );
        let mut store = Store::open(memory)?;
        store.put(b"later", b"1")?;
        check_eq!(store.get(b"later"), Some(&b"1"[..]));
        before.insert(b"later".to_vec(), b"1".to_vec());
        check!(found(memory)? == before, "what comes later");
        Ok(())
    },
};

fn with_memory<T>(
    c: &Ctx,
    p: &Program,
    f: impl FnOnce(&dyn Memory, (u64, usize)) -> TestResult<T>,
) -> TestResult<T> {
    let space = space(c, "programs")?;
    let (start, _) = range(c, &space.nd)?;
    let device = Device::open(format!("/dev/r{}", space.disk))?;
    let map = device.map(p.at, ROOM)?;
    f(&map, (start + p.at, ROOM))
}

fn record_program(c: &Ctx, p: &Program, flush: bool, drain: bool) -> TestResult {
    with_memory(c, p, |memory, range| {
        // Page faults would be fences.
        let mut bytes = vec![0; ROOM];
        memory.load(0, &mut bytes);
        let memory = Faulty::new(memory);
        memory.flushes.set(flush);
        memory.drains.set(drain);
        record(c, p.name, range, |recording| {
            let mut n = 0;
            (p.run)(&memory, &mut || {
                recording.acknowledged(&format!("{n}"));
                n += 1;
            })
        })
    })
}

fn look_at_program(c: &Ctx, p: &Program) -> TestResult<Explored> {
    with_memory(c, p, |memory, (phys, len)| {
        crash::explore(c, p.name, phys, len, |_, acknowledged| {
            (p.look)(memory, acknowledged.len())
        })
    })
}

/// What is left out of both.
const PLANTED: [(Program, bool, bool); 4] = [
    (
        Program {
            name: "a log without flushes",
            at: 2 << 20,
            ..LOG
        },
        false,
        true,
    ),
    (
        Program {
            name: "a log without fences",
            at: 3 << 20,
            ..LOG
        },
        true,
        false,
    ),
    (
        Program {
            name: "a store without flushes",
            at: 4 << 20,
            ..STORE
        },
        false,
        true,
    ),
    (
        Program {
            name: "a store without fences",
            at: 5 << 20,
            ..STORE
        },
        true,
        false,
    ),
];

fn record_planted(c: &mut Ctx) -> TestResult {
    for (program, flush, drain) in &PLANTED {
        record_program(c, program, *flush, *drain)?;
    }
    Ok(())
}

fn planted(c: &mut Ctx) -> TestResult {
    for (program, _, _) in &PLANTED {
        look_at_program(c, program)?.is_wrong()?;
    }
    Ok(())
}

impl From<store::Error> for Outcome {
    fn from(err: store::Error) -> Self {
        Outcome::Fail(err.to_string())
    }
}
