// SPDX-License-Identifier: MIT OR Apache-2.0
//! Power cuts: what the log does is recorded, and for each moment of it every image is tried that the medium
//! could hold if the power failed then.
//!
//! The model: a store is of aligned words of 8 bytes, each of which gets to the medium as a whole, at any time
//! from then on, in any order. It is certain to be there after a flush of its line and a drain that
//! come after it. That is less than x86-64 promises, where stores to one line keep their order, and what
//! arm64 does.

use crate::log::{Error, Identity, Log};
use rpmem::Memory;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

const LINE: usize = 64;
/// More images than that are not tried for one moment: the test would take too long.
const IMAGES: u32 = 1 << 16;

#[derive(Clone, Debug, PartialEq)]
enum Op {
    /// Of bytes inside of one word.
    Store(usize, Vec<u8>),
    /// Of a line.
    Flush(usize),
    Drain,
    /// The program has been told that what it did last is durable.
    Acknowledge,
}

/// Memory that records what is done to it.
struct Recorder {
    bytes: RefCell<Vec<u8>>,
    ops: RefCell<Vec<Op>>,
}

impl Recorder {
    fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: RefCell::new(bytes.to_vec()),
            ops: RefCell::default(),
        }
    }

    fn did(&self, op: Op) {
        self.ops.borrow_mut().push(op);
    }
}

impl Memory for Recorder {
    fn size(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn load(&self, at: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes.borrow()[at..at + bytes.len()]);
    }

    fn store(&self, mut at: usize, mut bytes: &[u8]) {
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        while !bytes.is_empty() {
            let (word, rest) = bytes.split_at(bytes.len().min(8 - at % 8));
            self.did(Op::Store(at, word.to_vec()));
            (at, bytes) = (at + word.len(), rest);
        }
    }

    fn flush(&self, at: usize, len: usize) -> io::Result<()> {
        for line in at / LINE..(at + len).div_ceil(LINE) {
            self.did(Op::Flush(line));
        }
        Ok(())
    }

    fn drain(&self) -> io::Result<()> {
        self.did(Op::Drain);
        Ok(())
    }
}

/// What is on the medium for certain, and what may be.
#[derive(Clone)]
struct Medium {
    bytes: Vec<u8>,
    /// Stores, and whether their line has been flushed since.
    pending: Vec<(usize, Vec<u8>, bool)>,
}

impl Medium {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Store(at, word) => self.pending.push((*at, word.clone(), false)),
            Op::Flush(line) => {
                let of_line = |store: &&mut (usize, _, bool)| store.0 / LINE == *line;
                self.pending
                    .iter_mut()
                    .filter(of_line)
                    .for_each(|store| store.2 = true);
            }
            Op::Drain => {
                let (done, pending) = self.pending.drain(..).partition(|store| store.2);
                self.pending = pending;
                let done: Vec<_> = done;
                for (at, word, _) in done {
                    self.bytes[at..at + word.len()].copy_from_slice(&word);
                }
            }
            Op::Acknowledge => {}
        }
    }

    /// Everything that it could hold after a power cut.
    fn images(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let all = 1_u32.checked_shl(self.pending.len() as u32).unwrap_or(0);
        assert!((1..=IMAGES).contains(&all), "{} stores", self.pending.len());
        (0..all).map(|subset| {
            let mut image = self.bytes.clone();
            for (n, (at, word, _)) in self.pending.iter().enumerate() {
                if (subset >> n) & 1 != 0 {
                    image[*at..at + word.len()].copy_from_slice(word);
                }
            }
            image
        })
    }
}

type Records = Vec<Vec<u8>>;

fn open(memory: &Recorder) -> Result<(Records, Log<&Recorder>), Error> {
    let mut records = Records::new();
    let log = Log::open(memory, |record| records.push(record.to_vec()))?;
    Ok((records, log))
}

/// Old bytes that look like nothing, and like nothing else.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

const IDENTITY: Identity = *b"the log of today";

/// Around words and lines, and nothing at all.
fn records() -> Records {
    let lengths = [5, 0, 8, 40, 1, 72, 16, 33];
    lengths.iter().map(|len| noise(*len)).collect()
}

/// A medium with what was there before, and what making a log on it and appending all records does.
fn trace(before: &[u8]) -> Vec<Op> {
    let memory = Recorder::new(before);
    let mut log = Log::format(&memory, IDENTITY).unwrap();
    memory.did(Op::Acknowledge);
    for record in records() {
        log.append(&record).unwrap();
        memory.did(Op::Acknowledge);
    }
    memory.ops.into_inner()
}

/// Tries every power cut. How many images there were, or what is wrong with one of them. `old` is what
/// the log that was there before has in it.
fn power_cuts(before: &[u8], ops: &[Op], old: Option<&Records>) -> Result<usize, String> {
    let all = records();
    let mut medium = Medium {
        bytes: before.to_vec(),
        pending: Vec::new(),
    };
    let mut acknowledged = 0;
    let mut tried = 0;
    for n in 0..=ops.len() {
        for image in medium.images() {
            tried += 1;
            let memory = Recorder::new(&image);
            let wrong = |what: &str| Err(format!("{what}, in a power cut before step {n}"));
            match (acknowledged, open(&memory)) {
                // It is being made.
                (0, Err(_)) => continue,
                (0, Ok((found, _))) if Some(&found) == old => continue,
                (0, Ok((found, log))) => {
                    if !found.is_empty() || log.identity() != IDENTITY {
                        return wrong("something else");
                    }
                }
                (_, Err(err)) => return wrong(&err.to_string()),
                (done, Ok((found, mut log))) => {
                    // The one that was being appended may be there as a whole.
                    if found != all[..done - 1] && Some(&*found) != all.get(..done) {
                        return wrong(&format!("{found:?}"));
                    }
                    // Life goes on, over what a torn record has left.
                    log.append(b"later").unwrap();
                    let (again, _) = open(&memory).map_err(|err| err.to_string())?;
                    if again[..again.len() - 1] != *found || again.last().unwrap() != b"later" {
                        return wrong("what comes later is not there");
                    }
                }
            }
        }
        let Some(op) = ops.get(n) else { break };
        medium.apply(op);
        acknowledged += usize::from(*op == Op::Acknowledge);
    }
    assert_eq!(acknowledged, all.len() + 1);
    Ok(tried)
}

/// An older log with other records, as long as the new one.
fn older() -> (Vec<u8>, Records) {
    let memory = Recorder::new(&noise(1024));
    let mut log = Log::format(&memory, *b"that of last wee").unwrap();
    let old: Records = (30..38_u8).map(|n| vec![n; usize::from(n)]).collect();
    for record in &old {
        log.append(record).unwrap();
    }
    (memory.bytes.into_inner(), old)
}

#[test]
fn what_was_acknowledged_is_there() {
    let (log, old) = older();
    for (before, old) in [
        (vec![0; 1024], None),
        (noise(1024), None),
        (log, Some(&old)),
    ] {
        let tried = power_cuts(&before, &trace(&before), old).unwrap();
        assert!(tried > 10_000, "{tried} images");
    }
}

/// The checker finds each flush and each drain that is forgotten, but for the one flush that nothing
/// depends on.
#[test]
fn each_flush_and_drain_is_needed() {
    let before = noise(1024);
    let ops = trace(&before);
    let mut removed = BTreeMap::new();
    let made = ops.iter().position(|op| *op == Op::Acknowledge);
    for (n, op) in ops.iter().enumerate() {
        // Of how far the log is known to reach.
        let known = *op == Op::Flush(1) && Some(n) > made;
        if !matches!(op, Op::Flush(_) | Op::Drain) || known && removed.contains_key("known") {
            continue;
        }
        let mut less = ops.clone();
        less.remove(n);
        let found = power_cuts(&before, &less, None).is_err();
        assert_eq!(found, !known, "{op:?}, step {n}");
        let kind = match op {
            Op::Drain => "drain",
            _ if known => "known",
            _ => "flush",
        };
        *removed.entry(kind).or_insert(0) += 1;
    }
    assert!(removed["drain"] == 9 && removed["flush"] > 9, "{removed:?}");
}

#[test]
fn others_are_refused() {
    let refused = |bytes: &[u8]| {
        let memory = Recorder::new(bytes);
        let err = open(&memory).err();
        assert!(memory.ops.borrow().is_empty(), "it was written to");
        err
    };
    assert!(matches!(refused(&[]), Some(Error::NotALog)));
    assert!(matches!(refused(&noise(1024)), Some(Error::NotALog)));
    // As ext4 leaves it.
    assert!(matches!(refused(&[0; 1024]), Some(Error::NotALog)));
    let (log, _) = older();
    assert!(refused(&log).is_none());
    let mut other = log.clone();
    other[8] = 2;
    assert!(matches!(refused(&other), Some(Error::Version(2))));
    for at in 16..64 {
        let mut damaged = log.clone();
        damaged[at] ^= 1;
        assert!(matches!(refused(&damaged), Some(Error::Header)), "{at}");
    }
    assert!(matches!(refused(&log[..512]), Some(Error::Cut(1024))));
    let memory = Recorder::new(&[0; 143]);
    assert!(matches!(Log::format(&memory, IDENTITY), Err(Error::Full)));
}

/// A record that was acknowledged and has changed is not the end of the log.
#[test]
fn damage_is_not_an_end() {
    let (log, old) = older();
    let mut at = 128;
    // Of the last one nobody knows, if it was not followed by another.
    for record in &old[..old.len() - 1] {
        let len = 16 + record.len();
        for byte in at..at + len {
            let mut damaged = log.clone();
            damaged[byte] ^= 0x10;
            let got = open(&Recorder::new(&damaged)).map(|_| ());
            assert!(
                matches!(got, Err(Error::Damaged(found)) if found == at),
                "{byte}: {got:?}"
            );
        }
        at += 16 + record.len().div_ceil(8) * 8;
    }
}

#[test]
fn it_is_full_when_it_is() {
    let memory = Recorder::new(&[0; 256]);
    let mut log = Log::format(&memory, IDENTITY).unwrap();
    assert!(matches!(log.append(&[1; 113]), Err(Error::Full)));
    log.append(&[1; 90]).unwrap();
    assert!(matches!(log.append(&[1]), Err(Error::Full)));
    log.append(b"").unwrap();
    assert!(matches!(log.append(b""), Err(Error::Full)));
    assert_eq!(open(&memory).unwrap().0, [vec![1; 90], vec![]]);
    // The last byte.
    let memory = Recorder::new(&[0; 256]);
    let mut log = Log::format(&memory, IDENTITY).unwrap();
    log.append(&[1; 112]).unwrap();
    assert_eq!(open(&memory).unwrap().0, [vec![1; 112]]);
}
