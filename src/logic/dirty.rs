// SPDX-License-Identifier: GPL-2.0

//! Which pages have been stored to: sets of pages, as bits in words.
//!
//! C counterpart: `PAGECACHE_TAG_DIRTY` in the page cache of a DAX file (`fs/dax.c`), which a device
//! without file does not have.

use core::ops::Range;

/// Bits in a word.
pub const WORD: u64 = u64::BITS as u64;

/// The bits of word number `word` that lie in `range` (positions of bits from word 0 on).
pub fn mask(word: u64, range: &Range<u64>) -> u64 {
    let first = word.saturating_mul(WORD);
    let low = range.start.saturating_sub(first).min(WORD);
    let high = range.end.saturating_sub(first).min(WORD);
    if low >= high {
        return 0;
    }
    u64::MAX >> (WORD - (high - low)) << low
}

/// Whether the bits from position `first` to `last`, which is not in front of it, are all ones;
/// `word` gives the words by their numbers. Without a range for each word: faults ask.
#[inline]
pub fn all_set(first: u64, last: u64, word: impl Fn(u64) -> u64) -> bool {
    let head = u64::MAX << (first % WORD);
    let tail = u64::MAX >> (WORD - 1 - last % WORD);
    let (mut n, end) = (first / WORD, last / WORD);
    if n == end {
        return head & tail & !word(n) == 0;
    }
    let mut missing = head & !word(n) | tail & !word(end);
    n += 1;
    while n < end {
        missing |= !word(n);
        n += 1;
    }
    missing == 0
}

/// The runs of ones in `words`, as ranges of positions, from low to high. Runs go on over the
/// borders of words.
pub fn runs(words: &[u64]) -> Runs<'_> {
    Runs { words, at: 0 }
}

/// See [`runs`].
pub struct Runs<'a> {
    words: &'a [u64],
    at: u64,
}

impl Runs<'_> {
    /// The first position from `from` on whose bit is `bit`, or the end.
    fn next_is(&self, from: u64, bit: bool) -> u64 {
        let end = self.words.len() as u64 * WORD;
        let mut at = from;
        while at < end {
            let word = self.words[(at / WORD) as usize];
            let word = if bit { word } else { !word } >> (at % WORD);
            if word != 0 {
                return at + u64::from(word.trailing_zeros());
            }
            at = (at / WORD + 1) * WORD;
        }
        end
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let start = self.next_is(self.at, true);
        let end = self.next_is(start, false);
        self.at = end;
        (start < end).then_some(start..end)
    }
}
