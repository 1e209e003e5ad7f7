// SPDX-License-Identifier: MIT OR Apache-2.0
//! A log on persistent memory that no power cut tears. There is one writer at a time.
//!
//! | bytes | |
//! |---|---|
//! | 0 | header: magic, version, size, identity, checksum |
//! | 64 | how far the log is known to reach |
//! | 128 | records: checksum, length, data, filled up to words of 8 bytes |
//!
//! Numbers are little-endian words. The checksum of a record covers that of the one before, and the first
//! one that of the header: what an older log, or a record that was torn, has left behind the end is not
//! taken for a record. A record is acknowledged when it is durable as a whole; there is nothing else to
//! be written for it, in no order.
//!
//! The end is where the next record is not valid. If records that were acknowledged come after it, the
//! memory is damaged, which is not the same: that is what the word behind the header is for. It becomes
//! durable with the record after, at no cost.

use rpmem::Memory;
use std::{fmt, io};

const MAGIC: &[u8; 8] = b"rpmemlog";
const VERSION: u64 = 1;
/// Where the number is that says how far the log is known to reach.
const KNOWN: usize = 64;
/// Where records begin.
const FIRST: usize = 128;
/// Checksum and length of a record.
const HEAD: usize = 16;

/// What makes a log different from all others.
pub type Identity = [u8; 16];

/// Why there is no log, or no more of it.
#[derive(Debug)]
pub enum Error {
    /// Something else, or nothing: no header. Zeroes are no proof that the memory is not in use: a file
    /// system may leave the first kilobyte alone.
    NotALog,
    /// A log of another version.
    Version(u64),
    /// A header that has changed.
    Header,
    /// A log of this many bytes in a smaller memory.
    Cut(u64),
    /// A record that was acknowledged is not valid: it is at this offset.
    Damaged(usize),
    /// No room.
    Full,
    /// The memory could not be made durable.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALog => f.write_str("no log; what is there may be in use by somebody else"),
            Self::Version(version) => write!(f, "a log of version {version}, not {VERSION}"),
            Self::Header => f.write_str("a log with a damaged header"),
            Self::Cut(size) => write!(f, "a log of {size} bytes, which are not all there"),
            Self::Damaged(at) => write!(f, "the record at {at} is damaged"),
            Self::Full => f.write_str("the log is full"),
            Self::Io(err) => err.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        Self::Io(err)
    }
}

/// A log, which ends where the next record will be.
#[derive(Debug)]
pub struct Log<M> {
    memory: M,
    identity: Identity,
    size: usize,
    end: usize,
    /// The checksum of the last record.
    last: u64,
}

impl<M: Memory> Log<M> {
    /// Makes an empty log of all the memory, whatever is there.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if the memory is too small.
    pub fn format(memory: M, identity: Identity) -> Result<Self, Error> {
        let size = memory.size() & !7;
        if size < FIRST + HEAD {
            return Err(Error::Full);
        }
        let mut header = [0; FIRST];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&(size as u64).to_le_bytes());
        header[24..40].copy_from_slice(&identity);
        let last = checksum(&[&header[..56]]);
        header[56..64].copy_from_slice(&last.to_le_bytes());
        memory.store(0, &header);
        memory.persist(0, FIRST)?;
        Ok(Self {
            memory,
            identity,
            size,
            end: FIRST,
            last,
        })
    }

    /// Opens a log, and gives each of its records to `replay`, in order.
    ///
    /// # Errors
    ///
    /// For what is not a log of this kind, or damaged. Nothing is written to it in any case.
    pub fn open(memory: M, mut replay: impl FnMut(&[u8])) -> Result<Self, Error> {
        if memory.size() < FIRST + HEAD {
            return Err(Error::NotALog);
        }
        let mut header = [0; KNOWN];
        memory.load(0, &mut header);
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        if &header[..8] != MAGIC {
            return Err(Error::NotALog);
        }
        // What comes after it may be different in other versions.
        if word(8) != VERSION {
            return Err(Error::Version(word(8)));
        }
        if word(56) != checksum(&[&header[..56]]) {
            return Err(Error::Header);
        }
        let size = match usize::try_from(word(16)) {
            Ok(size) if size <= memory.size() => size,
            _ => return Err(Error::Cut(word(16))),
        };
        let mut log = Self {
            identity: header[24..40].try_into().unwrap(),
            size,
            end: FIRST,
            last: word(56),
            memory,
        };
        let mut data = Vec::new();
        while let Some((end, sum)) = log.next(&mut data) {
            replay(&data);
            (log.end, log.last) = (end, sum);
        }
        if log.word(KNOWN) > log.end as u64 {
            return Err(Error::Damaged(log.end));
        }
        Ok(log)
    }

    /// The record at the end, if one is there: where it ends, and its checksum.
    fn next(&self, data: &mut Vec<u8>) -> Option<(usize, u64)> {
        let room = self.size.checked_sub(self.end + HEAD)?;
        let (sum, len) = (self.word(self.end), self.word(self.end + 8));
        // Of a torn record it is any number.
        let len = usize::try_from(len).ok().filter(|len| *len <= room)?;
        data.resize(len, 0);
        self.memory.load(self.end + HEAD, data);
        (sum == self.checksum(data)).then(|| (self.end + taken(len), sum))
    }

    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        self.memory.load(at, &mut word);
        u64::from_le_bytes(word)
    }

    /// Of a record after the last one.
    fn checksum(&self, data: &[u8]) -> u64 {
        let len = data.len() as u64;
        checksum(&[&self.last.to_le_bytes(), &len.to_le_bytes(), data])
    }

    /// What makes it different from all others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Appends a record. When this returns, no power cut takes it away.
    ///
    /// # Errors
    ///
    /// [`Error::Full`]; [`Error::Io`]: it may be there, or not.
    pub fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        if taken(data.len()) > self.size - self.end {
            return Err(Error::Full);
        }
        let sum = self.checksum(data);
        let mut record = vec![0; taken(data.len())];
        record[..8].copy_from_slice(&sum.to_le_bytes());
        record[8..HEAD].copy_from_slice(&(data.len() as u64).to_le_bytes());
        record[HEAD..HEAD + data.len()].copy_from_slice(data);
        self.memory.store(self.end, &record);
        self.memory.flush(self.end, record.len())?;
        // Of the record before.
        self.memory.flush(KNOWN, 8)?;
        self.memory.drain()?;
        self.end += record.len();
        self.last = sum;
        // Not before the record is durable: it says that it is.
        self.memory.store(KNOWN, &(self.end as u64).to_le_bytes());
        Ok(())
    }
}

/// Bytes that a record takes.
fn taken(len: usize) -> usize {
    HEAD + len.div_ceil(8) * 8
}

/// CRC-64 of xz, of all parts together.
fn checksum(parts: &[&[u8]]) -> u64 {
    let byte = |crc: u64, byte: &u8| {
        (0..8).fold(crc ^ u64::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xc96c_5795_d787_0f42 & (crc & 1).wrapping_neg())
        })
    };
    !parts.iter().copied().flatten().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_xz() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0x995d_c9bb_df19_39fa);
    }
}
