// SPDX-License-Identifier: GPL-2.0

//! Which pages of a device users have stored to since they were last written back.
//!
//! The set is in two levels, so that it costs memory and time in proportion to what was stored to:
//! a flag per chunk, and bits in chunks that are allocated on the first store to them.

use crate::{
    abstractions::vm::Marks,
    logic::dirty::{
        mask,
        WORD, //
    }, //
};
use core::ops::Range;
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        SetOnce, //
    }, //
};

/// Words of a chunk, which is a page of memory.
const WORDS: usize = 512;
/// Bits of a chunk.
pub(super) const CHUNK: u64 = WORDS as u64 * WORD;

/// The bits of a chunk, taken out.
pub(super) type Taken = [u64; WORDS];

struct Chunk {
    bits: SetOnce<KBox<[Atomic<u64>; WORDS]>>,
    /// Whether any of them may be set.
    any: Atomic<i32>,
}

/// A set of numbers, those of pages or of larger units.
pub(super) struct Dirty(KVVec<Chunk>);

impl Dirty {
    /// An empty set of numbers below `len`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(len: u64) -> Result<Self> {
        let mut chunks = KVVec::new();
        for _ in 0..len.div_ceil(CHUNK) {
            let chunk = Chunk {
                bits: SetOnce::new(),
                any: Atomic::new(0),
            };
            chunks.push(chunk, GFP_KERNEL)?;
        }
        Ok(Self(chunks))
    }

    /// The chunk that `number` is in. Context: may sleep.
    fn chunk(&self, number: u64) -> Result<(&Chunk, &[Atomic<u64>; WORDS])> {
        let chunk = self.0.get((number / CHUNK) as usize).ok_or(ERANGE)?;
        loop {
            if let Some(bits) = chunk.bits.as_ref() {
                return Ok((chunk, bits));
            }
            let bits = KBox::init(pin_init::init_array_from_fn(|_| Atomic::new(0)), GFP_KERNEL)?;
            // If somebody else was faster, theirs is used, once it is there.
            chunk.bits.populate(bits);
        }
    }

    /// Where the numbers in `range` are added by who makes their entries, and how many of them there
    /// are: the others are in another chunk. Context: may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ERANGE` if the first is not below the length.
    pub(super) fn marks(&self, range: &Range<u64>) -> Result<(Marks<'_>, u64)> {
        let (chunk, bits) = self.chunk(range.start)?;
        let first = range.start % CHUNK;
        let marks = Marks {
            bits,
            first,
            any: &chunk.any,
        };
        Ok((marks, (CHUNK - first).min(range.end - range.start)))
    }

    /// Adds the numbers in `range`. What is there already is not written again: that is a cache
    /// line shared by all CPUs. Context: may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `ERANGE` if they are not all below the length.
    pub(super) fn add(&self, range: Range<u64>) -> Result {
        let mut at = range.start;
        while at < range.end {
            let (chunk, bits) = self.chunk(at)?;
            let word = at / WORD;
            let new = mask(word, &range);
            let bits = &bits[(word % WORDS as u64) as usize];
            let mut old = bits.load(Relaxed);
            while old & new != new {
                match bits.cmpxchg(old, old | new, Full) {
                    Ok(_) => break,
                    Err(now) => old = now,
                }
            }
            // After the bits, see `take`.
            if chunk.any.load(Relaxed) == 0 {
                chunk.any.store(1, Release);
            }
            at = (word + 1) * WORD;
        }
        Ok(())
    }

    /// Takes the numbers in `range` out of the first chunk from number `from` on that has any:
    /// gives the first number of that chunk. They are in `taken`, counted from there.
    pub(super) fn take(&self, from: u64, range: &Range<u64>, taken: &mut Taken) -> Option<u64> {
        let first = from.max(range.start) / CHUNK;
        let last = range.end.div_ceil(CHUNK).min(self.0.len() as u64);
        for at in first..last {
            let chunk = &self.0[at as usize];
            let Some(bits) = chunk.bits.as_ref() else {
                continue;
            };
            // A store that comes between is seen below, or sets the flag again.
            if chunk.any.xchg(0, Full) == 0 {
                continue;
            }
            let (mut found, mut left) = (false, false);
            for (n, word) in bits.iter().enumerate() {
                let mask = mask(at * WORDS as u64 + n as u64, range);
                let mut old = word.load(Relaxed);
                while old & mask != 0 {
                    match word.cmpxchg(old, old & !mask, Full) {
                        Ok(_) => break,
                        Err(now) => old = now,
                    }
                }
                taken[n] = old & mask;
                found |= taken[n] != 0;
                left |= old & !mask != 0;
            }
            if left {
                chunk.any.store(1, Relaxed);
            }
            if found {
                return Some(at * CHUNK);
            }
        }
        None
    }
}
