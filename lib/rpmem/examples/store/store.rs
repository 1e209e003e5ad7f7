// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small key-value store on persistent memory: what was acknowledged is there after a power cut, and what was
//! not is there as a whole or not at all.
//!
//! | bytes | |
//! |---|---|
//! | 0 | header: magic, version, number of slots, identity, checksum |
//! | 64 | slots, one for each key: two copies of 128 bytes |
//!
//! Numbers are little-endian words. A copy is a checksum, which covers the identity, a generation, two lengths, a
//! key and a value. A change is written over the older copy, with the next generation, and acknowledged when it is
//! durable. Of two copies that are valid the newer one counts, and a torn one is not valid. A key of no
//! bytes stands for nothing: that is how one is removed.

use rpmem::Memory;
use std::collections::BTreeMap;
use std::{fmt, io};

const MAGIC: &[u8; 8] = b"rpmemkvs";
const VERSION: u64 = 1;
const HEADER: usize = 64;
const COPY: usize = 128;
const SLOT: usize = 2 * COPY;
/// Checksum, generation, lengths.
const HEAD: usize = 24;

/// Bytes of a key and its value, together, at most.
pub const ROOM: usize = COPY - HEAD;

/// What makes a store different from all others.
pub type Identity = [u8; 16];

/// Why there is no store, or no room in it.
#[derive(Debug)]
pub enum Error {
    /// Something else, or another version of this, or a part.
    NotAStore,
    /// No slot is left, or no memory for one.
    Full,
    /// A key of no bytes, or more than [`ROOM`] of both.
    Length,
    /// The memory could not be made durable.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAStore => f.write_str("no store of this version"),
            Self::Full => f.write_str("the store is full"),
            Self::Length => write!(f, "a key, and {ROOM} bytes with its value at most"),
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

/// A copy that is valid.
struct Valid {
    generation: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A store, and what is in it.
pub struct Store<M> {
    memory: M,
    identity: Identity,
    /// The generation of each slot; 0 if it was never used.
    generations: Vec<u64>,
    /// Keys, with their slot and value.
    entries: BTreeMap<Vec<u8>, (usize, Vec<u8>)>,
}

impl<M: Memory> Store<M> {
    /// Makes an empty store of all the memory, whatever is there.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if the memory is too small.
    pub fn format(memory: M, identity: Identity) -> Result<Self, Error> {
        let slots = memory.size().saturating_sub(HEADER) / SLOT;
        if slots == 0 {
            return Err(Error::Full);
        }
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&(slots as u64).to_le_bytes());
        header[24..40].copy_from_slice(&identity);
        let sum = checksum(&[&header[..40]]);
        header[40..48].copy_from_slice(&sum.to_le_bytes());
        memory.store(0, &header);
        memory.persist(0, HEADER)?;
        Self::open(memory)
    }

    /// Opens a store.
    ///
    /// # Errors
    ///
    /// [`Error::NotAStore`]. Nothing is written in any case.
    pub fn open(memory: M) -> Result<Self, Error> {
        if memory.size() < HEADER {
            return Err(Error::NotAStore);
        }
        let mut header = [0; HEADER];
        memory.load(0, &mut header);
        let room = (memory.size() - HEADER) / SLOT;
        let slots = usize::try_from(word(&header, 16)).unwrap_or(usize::MAX);
        if &header[..8] != MAGIC
            || word(&header, 8) != VERSION
            || word(&header, 40) != checksum(&[&header[..40]])
            || slots > room
        {
            return Err(Error::NotAStore);
        }
        let mut store = Self {
            identity: header[24..40].try_into().unwrap(),
            memory,
            generations: vec![0; slots],
            entries: BTreeMap::new(),
        };
        for slot in 0..slots {
            let copies = [0, 1].map(|n| store.copy(slot, n));
            let newest = copies.into_iter().flatten().max_by_key(|c| c.generation);
            if let Some(Valid {
                generation,
                key,
                value,
            }) = newest
            {
                store.generations[slot] = generation;
                if !key.is_empty() {
                    store.entries.insert(key, (slot, value));
                }
            }
        }
        Ok(store)
    }

    /// One of the two copies of a slot, if it is valid.
    fn copy(&self, slot: usize, n: usize) -> Option<Valid> {
        let mut copy = [0; COPY];
        self.memory.load(HEADER + slot * SLOT + n * COPY, &mut copy);
        let (key, value) = (length(&copy, 16)?, length(&copy, 20)?);
        let end = HEAD + key.checked_add(value).filter(|n| *n <= ROOM)?;
        (word(&copy, 0) == self.checksum(slot, &copy)).then(|| Valid {
            generation: word(&copy, 8),
            key: copy[HEAD..HEAD + key].to_vec(),
            value: copy[HEAD + key..end].to_vec(),
        })
    }

    fn checksum(&self, slot: usize, copy: &[u8; COPY]) -> u64 {
        checksum(&[&self.identity, &(slot as u64).to_le_bytes(), &copy[8..]])
    }

    /// Makes this the newer copy of the slot.
    fn write(&mut self, slot: usize, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let generation = self.generations[slot] + 1;
        let mut copy = [0; COPY];
        copy[8..16].copy_from_slice(&generation.to_le_bytes());
        copy[16..20].copy_from_slice(&(key.len() as u32).to_le_bytes());
        copy[20..24].copy_from_slice(&(value.len() as u32).to_le_bytes());
        copy[HEAD..HEAD + key.len()].copy_from_slice(key);
        copy[HEAD + key.len()..][..value.len()].copy_from_slice(value);
        let sum = self.checksum(slot, &copy);
        copy[..8].copy_from_slice(&sum.to_le_bytes());
        let at = HEADER + slot * SLOT + generation as usize % 2 * COPY;
        self.memory.store(at, &copy);
        self.memory.persist(at, COPY)?;
        self.generations[slot] = generation;
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(|(_, value)| value.as_slice())
    }

    /// All keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries
            .iter()
            .map(|(key, (_, value))| (key.as_slice(), value.as_slice()))
    }

    /// Gives a key a value. When this returns, no power cut takes it away.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::Length`]; [`Error::Io`]: it may be so, or as before.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key.is_empty() || key.len().saturating_add(value.len()) > ROOM {
            return Err(Error::Length);
        }
        let slot = match self.entries.get(key) {
            Some((slot, _)) => *slot,
            None => self.unused().ok_or(Error::Full)?,
        };
        self.write(slot, key, value)?;
        self.entries.insert(key.to_vec(), (slot, value.to_vec()));
        Ok(())
    }

    fn unused(&self) -> Option<usize> {
        let mut used = vec![false; self.generations.len()];
        for (slot, _) in self.entries.values() {
            used[*slot] = true;
        }
        used.iter().position(|used| !used)
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: it may be there, or not.
    pub fn remove(&mut self, key: &[u8]) -> Result<bool, Error> {
        let Some((slot, _)) = self.entries.get(key) else {
            return Ok(false);
        };
        self.write(*slot, b"", b"")?;
        self.entries.remove(key);
        Ok(true)
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn length(bytes: &[u8], at: usize) -> Option<usize> {
    let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    usize::try_from(length).ok()
}

/// FNV-1a of all parts together: it tells what is torn from what is whole, not who has changed it.
fn checksum(parts: &[&[u8]]) -> u64 {
    let byte = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Ram(RefCell<Vec<u8>>);

    impl Memory for &Ram {
        fn size(&self) -> usize {
            self.0.borrow().len()
        }

        fn load(&self, at: usize, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0.borrow()[at..at + bytes.len()]);
        }

        fn store(&self, at: usize, bytes: &[u8]) {
            self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }

        fn flush(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn drain(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ram(slots: usize) -> Ram {
        Ram(RefCell::new(vec![0x5a; HEADER + slots * SLOT]))
    }

    fn found(ram: &Ram) -> Vec<(Vec<u8>, Vec<u8>)> {
        let store = Store::open(ram).unwrap();
        let all = store.iter().map(|(k, v)| (k.to_vec(), v.to_vec()));
        all.collect()
    }

    #[test]
    fn what_was_put_is_there() {
        let ram = ram(2);
        let mut store = Store::format(&ram, *b"the store of now").unwrap();
        assert_eq!(store.get(b"a"), None);
        for n in 0..5 {
            store.put(b"a", &[n]).unwrap();
        }
        store.put(b"b", &[7; ROOM - 1]).unwrap();
        assert!(matches!(store.put(b"c", b""), Err(Error::Full)));
        assert!(matches!(store.put(b"", b"c"), Err(Error::Length)));
        assert!(matches!(store.put(b"b", &[0; ROOM]), Err(Error::Length)));
        assert_eq!(store.get(b"a"), Some(&[4][..]));
        let b = (b"b".to_vec(), vec![7; ROOM - 1]);
        assert_eq!(found(&ram), [(b"a".to_vec(), vec![4]), b.clone()]);
        let mut store = Store::open(&ram).unwrap();
        assert!(store.remove(b"a").unwrap() && !store.remove(b"a").unwrap());
        assert_eq!(found(&ram), [b.clone()]);
        store.put(b"c", b"").unwrap();
        assert_eq!(found(&ram), [b, (b"c".to_vec(), vec![])]);
        // A new one has nothing of the old.
        Store::format(&ram, *b"the one of later").unwrap();
        assert_eq!(found(&ram), []);
    }

    #[test]
    fn a_copy_that_is_torn_is_as_if_it_were_not_there() {
        let ram = ram(1);
        let mut store = Store::format(&ram, *b"the store of now").unwrap();
        store.put(b"a", &[1; 100]).unwrap();
        let old = ram.0.borrow().clone();
        store.put(b"a", &[2; 100]).unwrap();
        let new = ram.0.borrow().clone();
        for cut in (0..new.len()).step_by(8) {
            ram.0.borrow_mut()[..cut].copy_from_slice(&new[..cut]);
            ram.0.borrow_mut()[cut..].copy_from_slice(&old[cut..]);
            let whole = new[cut..] == old[cut..];
            let want = if whole { [2; 100] } else { [1; 100] };
            assert_eq!(found(&ram), [(b"a".to_vec(), want.to_vec())], "{cut}");
        }
    }

    #[test]
    fn others_are_refused() {
        let refused = |ram: &Ram| matches!(Store::open(ram), Err(Error::NotAStore));
        assert!(matches!(Store::format(&ram(0), [0; 16]), Err(Error::Full)));
        assert!(refused(&ram(1)) && refused(&Ram::default()));
        let ram = ram(3);
        Store::format(&ram, [0; 16]).unwrap();
        for at in 0..48 {
            ram.0.borrow_mut()[at] ^= 1;
            assert!(refused(&ram), "{at}");
            ram.0.borrow_mut()[at] ^= 1;
        }
        ram.0.borrow_mut().truncate(HEADER + 2 * SLOT);
        assert!(refused(&ram));
    }
}
