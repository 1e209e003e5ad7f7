// SPDX-License-Identifier: GPL-2.0
//! What the plugin durable.c has written down of ranges of persistent memory: what they held, each store
//! to them, each flush and fence, and what the guest had acknowledged by then.
//!
//! It fails closed: a recording counts if what it replays to is what the guest found in the end, to the
//! byte. Stores that the plugin does not see, as those of devices, make it useless.

use std::path::Path;

const MAGIC: &[u8] = b"rpmemrec";
const PAGE: usize = 4096;
/// Bytes before what belongs to an event.
const HEAD: usize = 12;

/// At most 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    len: u8,
    bytes: [u8; 16],
}

impl Bytes {
    pub fn new(from: &[u8]) -> Option<Bytes> {
        let mut bytes = [0; 16];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        let len = from.len() as u8;
        Some(Bytes { len, bytes })
    }

    pub fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Places are offsets in the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Store {
        at: usize,
        bytes: Bytes,
        cpu: u8,
        /// Past the caches.
        past: bool,
    },
    /// clwb or clflushopt of the line there.
    WrittenBack { at: usize, cpu: u8 },
    /// clflush of it, which needs no fence.
    Flushed { at: usize },
    /// By name, or what drains the same buffers.
    Fence { cpu: u8 },
    /// What the text says is acknowledged.
    Acknowledged(String),
    /// What was written to the label area from an offset on, as a whole; it is durable.
    Labels { at: usize, bytes: Vec<u8> },
}

#[derive(Debug)]
pub struct Recording {
    pub name: String,
    /// What the range held at first.
    pub base: Vec<u8>,
    pub events: Vec<Event>,
}

/// Of a range whose contents are still told, or compared.
struct Reading {
    start: u64,
    recording: Recording,
    /// What the stores so far make of the base.
    now: Vec<u8>,
    /// Bytes of the contents that were told.
    told: usize,
}

impl Reading {
    fn end(self) -> Result<Recording, String> {
        let name = &self.recording.name;
        match self.told == 2 * self.now.len() {
            true => Ok(self.recording),
            false => Err(format!("{name}: not told what is there in the end")),
        }
    }

    fn contents(&mut self, at: usize, page: &[u8]) -> Result<(), String> {
        let (size, name) = (self.now.len(), &self.recording.name);
        if self.told >= 2 * size || at != self.told % size || size % PAGE != 0 {
            return Err(format!("{name}: contents out of turn"));
        }
        let zeroes = [0; PAGE];
        let page = if page.is_empty() { &zeroes } else { page };
        let here = at..at + PAGE;
        if page.len() != PAGE {
            return Err(format!("{name}: contents of {} bytes", page.len()));
        }
        if self.told < size {
            if !self.recording.events.is_empty() {
                return Err(format!("{name}: stores before all of the contents"));
            }
            self.recording.base[here.clone()].copy_from_slice(page);
            self.now[here].copy_from_slice(page);
        } else if let Some(n) = (0..PAGE).find(|n| self.now[at + n] != page[*n]) {
            let what = "there is something that the recording does not have";
            return Err(format!("{name}: {what}, at {:#x}", at + n));
        }
        self.told += PAGE;
        Ok(())
    }
}

/// All recordings of a file.
pub fn read(path: &Path) -> Result<Vec<Recording>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Vec<Recording>, String> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or("not a recording")?;
    let mut all = Vec::new();
    let mut reading: Option<Reading> = None;
    while !rest.is_empty() {
        let (head, more) = rest.split_at_checked(HEAD).ok_or("a part of an event")?;
        let at = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
        let len = usize::from(u16::from_le_bytes([head[8], head[9]]));
        let (event, cpu) = (head[10], head[11]);
        let (data, more) = more.split_at_checked(len).ok_or("a part of an event")?;
        rest = more;
        if event == 1 {
            let (size, name) = data.split_at_checked(8).ok_or("a range without a size")?;
            let size = u64::from_le_bytes(size.try_into().expect("8 bytes")) as usize;
            all.extend(reading.take().map(Reading::end).transpose()?);
            reading = Some(Reading {
                start: at,
                recording: Recording {
                    name: String::from_utf8_lossy(name).into_owned(),
                    base: vec![0; size],
                    events: Vec::new(),
                },
                now: vec![0; size],
                told: 0,
            });
            continue;
        }
        let r = reading.as_mut().ok_or("an event of no range")?;
        let place = at.wrapping_sub(r.start) as usize;
        let inside = place.checked_add(len).is_some_and(|end| end <= r.now.len());
        if matches!(event, 2..=6) && !inside {
            return Err(format!("{}: {at:#x} is outside", r.recording.name));
        }
        r.recording.events.push(match event {
            2 => {
                r.contents(place, data)?;
                continue;
            }
            3 | 4 => {
                let bytes = Bytes::new(data).ok_or("a store that is too long")?;
                r.now[place..place + len].copy_from_slice(bytes.get());
                Event::Store {
                    at: place,
                    bytes,
                    cpu,
                    past: event == 4,
                }
            }
            5 => Event::WrittenBack { at: place, cpu },
            6 => Event::Flushed { at: place },
            7 | 8 => Event::Fence { cpu },
            9 => Event::Acknowledged(String::from_utf8_lossy(data).into_owned()),
            10 => Event::Labels {
                at: at as usize,
                bytes: data.to_vec(),
            },
            other => return Err(format!("an event {other}")),
        });
    }
    all.extend(reading.map(Reading::end).transpose()?);
    if all.is_empty() {
        return Err("nothing was recorded".into());
    }
    Ok(all)
}

/// What a boot has recorded, in a line each.
pub fn figures(all: &[Recording]) -> Vec<String> {
    let figure = |r: &Recording| {
        let count = |of: fn(&Event) -> bool| r.events.iter().filter(|e| of(e)).count();
        let labels = match count(|e| matches!(e, Event::Labels { .. })) {
            0 => String::new(),
            n => format!(", {n} label writes"),
        };
        format!(
            "recorded {}: {} stores, {} flushes, {} fences, {} acknowledged{labels}",
            r.name,
            count(|e| matches!(e, Event::Store { .. })),
            count(|e| matches!(e, Event::WrittenBack { .. } | Event::Flushed { .. })),
            count(|e| matches!(e, Event::Fence { .. })),
            count(|e| matches!(e, Event::Acknowledged(_))),
        )
    };
    all.iter().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u8, at: u64, data: &[u8]) -> Vec<u8> {
        let mut e = at.to_le_bytes().to_vec();
        e.extend((data.len() as u16).to_le_bytes());
        e.extend([kind, 1]);
        e.extend(data);
        e
    }

    const AT: u64 = 1 << 32;

    fn begin() -> Vec<u8> {
        let mut name = (PAGE as u64).to_le_bytes().to_vec();
        name.extend(b"x");
        event(1, AT, &name)
    }

    fn file(events: &[Vec<u8>]) -> Vec<u8> {
        [MAGIC, &events.concat()].concat()
    }

    fn refused(events: &[Vec<u8>], why: &str) {
        let err = parse(&file(events)).unwrap_err();
        assert!(err.contains(why), "{err}");
    }

    #[test]
    fn what_is_replayed_is_there_in_the_end() {
        let mut page = vec![7; PAGE];
        let base = event(2, AT, &page);
        page[8..10].copy_from_slice(b"ab");
        let end = event(2, AT, &page);
        let store = event(4, AT + 8, b"ab");
        let all = parse(&file(&[
            begin(),
            base.clone(),
            store.clone(),
            event(5, AT, b""),
            event(6, AT + 64, b""),
            event(7, 0, b""),
            event(10, 5, b"label"),
            event(9, 0, b"done"),
            end.clone(),
        ]))
        .unwrap();
        assert_eq!((all.len(), all[0].name.as_str()), (1, "x"));
        assert_eq!(all[0].base, vec![7; PAGE]);
        let want = [
            Event::Store {
                at: 8,
                bytes: Bytes::new(b"ab").unwrap(),
                cpu: 1,
                past: true,
            },
            Event::WrittenBack { at: 0, cpu: 1 },
            Event::Flushed { at: 64 },
            Event::Fence { cpu: 1 },
            Event::Labels {
                at: 5,
                bytes: b"label".to_vec(),
            },
            Event::Acknowledged("done".into()),
        ];
        assert_eq!(all[0].events, want);
        let missed = "something that the recording does not have, at 0x8";
        refused(&[begin(), base.clone(), end.clone()], missed);
        refused(&[begin(), base.clone(), store.clone()], "in the end");
        refused(&[begin(), store.clone(), base, end], "before all");
    }

    #[test]
    fn what_is_cut_or_strange_is_refused() {
        let page = event(2, AT, b"");
        assert!(parse(&file(&[begin(), page.clone(), page.clone()])).is_ok());
        refused(&[], "nothing");
        refused(&[vec![1; 5]], "a part");
        refused(&[begin()[..HEAD + 4].to_vec()], "a part");
        refused(&[page.clone()], "no range");
        refused(&[begin(), event(2, AT + 1, b"")], "out of turn");
        refused(
            &[begin(), page.clone(), event(3, AT + 4095, b"ab")],
            "outside",
        );
        refused(&[begin(), page.clone(), event(3, AT - 1, b"a")], "outside");
        refused(&[begin(), page, event(99, AT, b"")], "an event 99");
        assert!(parse(b"rpmem").is_err());
        assert_eq!(Bytes::new(&[0; 17]), None);
    }
}
