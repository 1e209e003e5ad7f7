// SPDX-License-Identifier: GPL-2.0

//! Which pages of a device users have stored to since they were last written back.
//!
//! The set is in levels, so that it costs memory and time in proportion to what was stored to: groups
//! of chunks, a flag per chunk, and bits in chunks. Groups and bits are allocated on the first store to
//! them, so that an empty set of a large device is small. The first chunks are in no group: that is all
//! that a set of units of 2 MiB has up to 4 TiB, and one look-up less for each fault.

use crate::{
    abstractions::{
        atomic::Load,
        vma::Marks, //
    },
    logic::dirty::{
        all_set,
        mask,
        WORD, //
    }, //
};
use core::ops::Range;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Mutex,
        SetOnce, //
    }, //
};

/// Words of a chunk, which is a page of memory.
const WORDS: usize = 512;
/// Bits of a chunk.
pub(super) const CHUNK: u64 = WORDS as u64 * WORD;

/// Chunks of a group: of pages, 64 GiB.
const GROUP: usize = 512;

/// Chunks in no group.
const FIRST: usize = 64;

/// The bits of a chunk that was drained.
pub(super) type DrainedChunk = [u64; WORDS];

/// Where drained numbers are.
pub(super) struct DrainedWords {
    /// The number of the first bit.
    pub(super) first: u64,
    /// The words that may have any.
    pub(super) words: Range<usize>,
}

struct Chunk {
    bits: SetOnce<KBox<[Atomic<u64>; WORDS]>>,
    /// Whether any of them may be set.
    any: Atomic<i32>,
}

type Group = SetOnce<KVBox<[Chunk; GROUP]>>;

/// A set of numbers, those of pages or of larger units.
pub(super) struct DirtySet {
    first: KVVec<Chunk>,
    groups: KVVec<Group>,
    /// How many chunks there are, in groups that exist or not.
    chunks: u64,
    init_lock: Pin<KBox<Mutex<()>>>,
}

impl Chunk {
    const fn new() -> Self {
        Self {
            bits: SetOnce::new(),
            any: Atomic::new(0),
        }
    }
}

impl DirtySet {
    /// An empty set of numbers below `len`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(len: u64) -> Result<Self> {
        let chunks = len.div_ceil(CHUNK);
        let count = usize::try_from(chunks.div_ceil(GROUP as u64))?;
        let few = usize::try_from(chunks)?.min(FIRST);
        let mut first = KVVec::with_capacity(few, GFP_KERNEL)?;
        for _ in 0..few {
            first.push(Chunk::new(), GFP_KERNEL)?;
        }
        let mut groups = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            groups.push(SetOnce::new(), GFP_KERNEL)?;
        }
        Ok(Self {
            first,
            groups,
            chunks,
            init_lock: KBox::pin_init(new_mutex!(()), GFP_KERNEL)?,
        })
    }

    /// The group that a chunk is in, and its place there.
    fn group(&self, chunk: u64) -> Option<(&Group, usize)> {
        let group = self.groups.get((chunk / GROUP as u64) as usize)?;
        Some((group, (chunk % GROUP as u64) as usize))
    }

    /// The chunk with this number, if it is there.
    #[inline(always)]
    fn get(&self, at: u64) -> Option<&Chunk> {
        match self.first.get(at as usize) {
            Some(chunk) => Some(chunk),
            None => self.get_in_group(at),
        }
    }

    #[inline(never)]
    fn get_in_group(&self, at: u64) -> Option<&Chunk> {
        let (group, place) = self.group(at)?;
        Some(&group.as_ref()?[place])
    }

    /// The chunk that `number` is in. Context: may sleep.
    fn chunk(&self, number: u64) -> Result<(&Chunk, &[Atomic<u64>; WORDS])> {
        let at = number / CHUNK;
        if at >= self.chunks {
            return Err(ERANGE);
        }
        let chunk = match self.first.get(at as usize) {
            Some(chunk) => chunk,
            None => {
                let (group, place) = self.group(at).ok_or(ERANGE)?;
                let chunks = self.get_or_init(group, || {
                    KVBox::init(pin_init::init_array_from_fn(|_| Chunk::new()), GFP_KERNEL)
                })?;
                &chunks[place]
            }
        };
        let bits = self.get_or_init(&chunk.bits, || {
            let bits = pin_init::init_array_from_fn(|_| Atomic::new(0));
            KBox::init(bits, GFP_KERNEL)
        })?;
        Ok((chunk, bits))
    }

    /// What is in `place`, made if it is not there. Context: may sleep.
    fn get_or_init<'a, T>(
        &self,
        place: &'a SetOnce<T>,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<&'a T> {
        if let Some(value) = place.as_ref() {
            return Ok(value);
        }
        // One at a time: who finds another one at it sleeps until the value is there.
        let _guard = self.init_lock.lock();
        if place.as_ref().is_none() {
            place.populate(make()?);
        }
        place.as_ref().ok_or(ENOMEM)
    }

    /// Whether [`DirtySet::add`] would find all numbers from `first` to `last` there; if they are in
    /// several chunks, the answer is no.
    pub(super) fn contains(&self, first: u64, last: u64) -> bool {
        let at = first / CHUNK;
        if last / CHUNK != at {
            return false;
        }
        let Some(chunk) = self.get(at) else {
            return false;
        };
        let Some(bits) = chunk.bits.as_ref() else {
            return false;
        };
        let word = |n: u64| bits[(n % WORDS as u64) as usize].read_once();
        all_set(first, last, word) && chunk.any.read_once() != 0
    }

    /// As [`DirtySet::contains`], for one number.
    #[inline(always)]
    pub(super) fn has(&self, number: u64) -> bool {
        let Some(chunk) = self.get(number / CHUNK) else {
            return false;
        };
        let Some(bits) = chunk.bits.as_ref() else {
            return false;
        };
        let word = bits[(number / WORD % WORDS as u64) as usize].read_once();
        word >> (number % WORD) & 1 == 1 && chunk.any.read_once() != 0
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
            is_one: false,
            any: &chunk.any,
        };
        Ok((marks, (CHUNK - first).min(range.end - range.start)))
    }

    /// Where one number is added by who makes its entry: see [`DirtySet::marks`].
    pub(super) fn mark(&self, number: u64) -> Result<Marks<'_>> {
        let (marks, _) = self.marks(&(number..number + 1))?;
        Ok(Marks {
            is_one: true,
            ..marks
        })
    }

    /// Which numbers from `first` on are there, as far as they are in its chunk: a bit for each.
    pub(super) fn members(&self, first: u64) -> [u64; 8] {
        let Some(bits) = self
            .get(first / CHUNK)
            .and_then(|chunk| chunk.bits.as_ref())
        else {
            return [0; 8];
        };
        let word = |n: u64| bits.get(n as usize).map_or(0, |word| word.read_once());
        let (at, shift) = (first % CHUNK / WORD, first % WORD);
        core::array::from_fn(|n| {
            let at = at + n as u64;
            // Two shifts, as one by all bits of a word is none.
            word(at) >> shift | (word(at + 1) << 1) << (WORD - 1 - shift)
        })
    }

    /// Removes the numbers in `range`. Context: may sleep.
    pub(super) fn remove(&self, range: &Range<u64>, scratch: &mut DrainedChunk) {
        let mut at = range.start;
        while let Some((next, _)) = self.drain_chunk(at, range, scratch) {
            at = next;
        }
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
            // After the bits, see `drain_chunk`.
            if chunk.any.load(Relaxed) == 0 {
                chunk.any.store(1, Release);
            }
            at = (word + 1) * WORD;
        }
        Ok(())
    }

    /// Drains the numbers in `range` from the first chunk from number `from` on that has any:
    /// gives the first number of the next chunk, and where those are in `drained`, whose first bit is
    /// a number of its own.
    pub(super) fn drain_chunk(
        &self,
        from: u64,
        range: &Range<u64>,
        drained: &mut DrainedChunk,
    ) -> Option<(u64, DrainedWords)> {
        let mut next = from.max(range.start) / CHUNK;
        let last = range.end.div_ceil(CHUNK).min(self.chunks);
        while next < last {
            let at = next;
            let Some(chunk) = self.get(at) else {
                next = (at / GROUP as u64 + 1) * GROUP as u64;
                continue;
            };
            next += 1;
            // Most of them: without a call.
            if chunk.any.read_once() == 0 {
                continue;
            }
            let Some(bits) = chunk.bits.as_ref() else {
                continue;
            };
            // A store that comes between is seen below, or sets the flag again.
            if chunk.any.xchg(0, Full) == 0 {
                continue;
            }
            let (mut found, mut left) = (0..0, false);
            for (n, word) in bits.iter().enumerate() {
                let mut old = word.read_once();
                // Most of them: without a look at the range.
                drained[n] = 0;
                if old == 0 {
                    continue;
                }
                let mask = mask(at * WORDS as u64 + n as u64, range);
                while old & mask != 0 {
                    match word.cmpxchg(old, old & !mask, Full) {
                        Ok(_) => break,
                        Err(now) => old = now,
                    }
                }
                drained[n] = old & mask;
                left |= old & !mask != 0;
                if drained[n] != 0 {
                    found = if found.is_empty() { n } else { found.start }..n + 1;
                }
            }
            if left {
                chunk.any.store(1, Relaxed);
            }
            if !found.is_empty() {
                let first = at * CHUNK + found.start as u64 * WORD;
                return Some((
                    (at + 1) * CHUNK,
                    DrainedWords {
                        first,
                        words: found,
                    },
                ));
            }
        }
        None
    }
}

#[kernel::macros::kunit_tests(rpmem_dirty_set)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_where_groups_begin_and_end() -> Result {
        const LEN: u64 = (GROUP as u64 + 90) * CHUNK;
        let set = DirtySet::new(LEN)?;
        let numbers = [
            0,
            CHUNK - 1,
            FIRST as u64 * CHUNK - 1,
            FIRST as u64 * CHUNK,
            GROUP as u64 * CHUNK - 1,
            GROUP as u64 * CHUNK,
            LEN - 1,
        ];
        for number in numbers {
            assert!(!set.has(number) && !set.contains(number, number));
            set.add(number..number + 1)?;
            assert!(set.has(number) && set.contains(number, number));
            assert_eq!(set.members(number)[0] & 1, 1);
        }
        assert!(set.add(LEN..LEN + 1) == Err(ERANGE) && !set.has(LEN));
        let mut drained = KBox::init(pin_init::init_zeroed(), GFP_KERNEL)?;
        let mut at = 0;
        let mut left = numbers.iter().copied();
        while let Some((next, found)) = set.drain_chunk(at, &(0..LEN), &mut drained) {
            for run in crate::logic::dirty::runs(&drained[found.words]) {
                for number in run {
                    assert_eq!(Some(found.first + number), left.next());
                }
            }
            at = next;
        }
        assert_eq!(left.next(), None);
        assert!(!numbers.iter().any(|number| set.has(*number)));
        Ok(())
    }
}
