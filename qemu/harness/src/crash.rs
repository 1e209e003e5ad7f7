// SPDX-License-Identifier: GPL-2.0
//! From a recording of persistent memory (record.rs): the states that a power cut could leave it in.
//!
//! The model is that of Documentation/durability.md. Of a line, what is durable is there. Of what was stored
//! since, by way of the caches, the first so many stores are there, in program order, or none; of
//! stores past the caches any are, alone. A store is whole inside of 8 bytes. So a moment has as many states as
//! the product of those of its lines.
//!
//! From one event that makes something durable to the next there are ever more states, and none is lost. So
//! the moments before each of those, and the end, have all.

use crate::record::{Event, Recording};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

const LINE: usize = 64;
const WORD: usize = 8;

/// A part of a store, inside of one word of 8 bytes.
#[derive(Clone, Debug)]
struct Piece {
    at: u8,
    len: u8,
    bytes: [u8; WORD],
    /// The CPU whose fence makes it durable, if it went past the caches.
    past: Option<u8>,
    /// The CPUs that have written the line back since; the fence of one will do.
    back: u32,
    /// Past the caches, and a fence has come after it.
    fenced: bool,
    done: bool,
    /// Pieces that went past the caches with the same number are there together.
    unit: usize,
}

#[derive(Clone, Debug)]
struct Line {
    durable: [u8; LINE],
    /// In program order; the first one is not done.
    pieces: Vec<Piece>,
}

impl Line {
    /// Whether a store is still in a cache.
    fn is_dirty(&self) -> bool {
        let waits = |p: &Piece| p.past.is_none() && p.back == 0 && !p.done;
        self.pieces.iter().any(waits)
    }

    /// Takes what is done, and whether it took anything.
    fn settle(&mut self) -> bool {
        let n = self.pieces.iter().take_while(|p| p.done).count();
        for p in self.pieces.drain(..n) {
            apply(&mut self.durable, &p);
        }
        n > 0
    }
}

fn apply(line: &mut [u8; LINE], p: &Piece) {
    let (at, len) = (usize::from(p.at), usize::from(p.len));
    line[at..at + len].copy_from_slice(&p.bytes[..len]);
}

/// What is chosen for itself at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    /// How many of so many pieces of the line went by way of the caches and are there.
    Prefix(usize, u32),
    /// Whether the pieces with this number are there.
    Unit(usize),
}

impl Slot {
    /// The last one of its values is that all are there.
    fn last(&self) -> u32 {
        match self {
            Slot::Prefix(_, n) => *n,
            Slot::Unit(_) => 1,
        }
    }
}

/// What of a write past the caches is there together: see Documentation/durability.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    /// Words of 8 bytes.
    Words,
    /// What one write stores to a block, as the disk gives its size.
    Blocks,
}

const BLOCK: usize = 4096;

/// The numbers of the units, in the order of their pieces, and how many pieces each has.
#[derive(Debug, Default)]
struct Units {
    of: Vec<usize>,
    pieces: Vec<u32>,
}

/// A write past the caches that may go on, in the same block: where, which unit, and the CPUs of which it has
/// pieces without a fence.
struct Begun {
    end: usize,
    unit: usize,
    unfenced: u32,
}

impl Units {
    /// A write goes on where it has stopped, after an interrupt perhaps, and on another CPU. What is acknowledged was
    /// not being written.
    fn new(events: &[Event], whole: Whole) -> Units {
        let mut units = Units::default();
        let mut begun: Vec<Begun> = Vec::new();
        for event in events {
            match event {
                Event::Store {
                    at,
                    bytes,
                    cpu,
                    past: true,
                } => {
                    for (at, word) in words(*at, bytes.get()) {
                        let found = begun.iter().position(|b| b.end == at);
                        let before = found.map(|n| begun.swap_remove(n));
                        let (unit, unfenced) = match before {
                            Some(b) => (b.unit, b.unfenced),
                            None => {
                                units.pieces.push(0);
                                (units.pieces.len() - 1, 0)
                            }
                        };
                        units.of.push(unit);
                        units.pieces[unit] += 1;
                        let end = at + word.len();
                        if whole == Whole::Blocks && end % BLOCK != 0 {
                            begun.push(Begun {
                                end,
                                unit,
                                unfenced: unfenced | (1 << cpu),
                            });
                        }
                    }
                }
                Event::Fence { cpu } => {
                    begun.iter_mut().for_each(|b| b.unfenced &= !(1 << cpu));
                }
                Event::Acknowledged(_) => begun.retain(|b| b.unfenced != 0),
                _ => {}
            }
        }
        units
    }
}

/// The parts of a store that are whole.
fn words(mut at: usize, mut rest: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let (word, more) = rest.split_at(rest.len().min(WORD - at % WORD));
        let part = (at, word);
        (at, rest) = (at + word.len(), more);
        (!word.is_empty()).then_some(part)
    })
}

/// The range at a moment.
struct Medium {
    base: Vec<u8>,
    /// Those that are not as in `base`.
    lines: BTreeMap<usize, Line>,
    /// Those that have something that is not durable.
    open: BTreeSet<usize>,
    /// Those of which more is durable than `take_durable` has seen.
    fresh: BTreeSet<usize>,
    units: Units,
    /// Pieces past the caches so far; of each unit, those that were stored, and those that were fenced.
    past: usize,
    stored: Vec<u32>,
    fenced: Vec<u32>,
}

impl Medium {
    fn new(recording: &Recording, whole: Whole) -> Medium {
        let units = Units::new(&recording.events, whole);
        let n = units.pieces.len();
        Medium {
            base: recording.base.clone(),
            lines: BTreeMap::new(),
            open: BTreeSet::new(),
            fresh: BTreeSet::new(),
            units,
            past: 0,
            stored: vec![0; n],
            fenced: vec![0; n],
        }
    }

    fn line(&mut self, at: usize) -> &mut Line {
        let base = &self.base;
        self.lines.entry(at).or_insert_with(|| Line {
            durable: base[at..at + LINE].try_into().expect("a line"),
            pieces: Vec::new(),
        })
    }

    fn store(&mut self, at: usize, bytes: &[u8], cpu: u8, past: bool) {
        let start = at / LINE * LINE;
        let mut piece = Piece {
            at: (at - start) as u8,
            len: bytes.len() as u8,
            bytes: [0; WORD],
            past: None,
            back: 0,
            fenced: false,
            done: false,
            unit: 0,
        };
        piece.bytes[..bytes.len()].copy_from_slice(bytes);
        if past {
            piece.unit = self.units.of[self.past];
            self.past += 1;
            self.stored[piece.unit] += 1;
            // What is in a cache takes it up.
            match self.line(start).is_dirty() {
                true => self.fenced[piece.unit] += 1,
                false => piece.past = Some(cpu),
            }
        }
        self.line(start).pieces.push(piece);
        self.open.insert(start);
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Store {
                at,
                bytes,
                cpu,
                past,
            } => {
                for (at, word) in words(*at, bytes.get()) {
                    self.store(at, word, *cpu, *past);
                }
            }
            Event::WrittenBack { at, cpu } => {
                for p in &mut self.line(at / LINE * LINE).pieces {
                    p.back |= u32::from(p.past.is_none()) << cpu;
                }
            }
            Event::Flushed { at } => {
                let at = at / LINE * LINE;
                let cached = |p: &&mut Piece| p.past.is_none();
                let line = self.line(at);
                line.pieces
                    .iter_mut()
                    .filter(cached)
                    .for_each(|p| p.done = true);
                self.settle(&[at]);
            }
            Event::Fence { cpu } => {
                for at in &self.open {
                    let line = self.lines.get_mut(at).expect("one that is open");
                    for p in &mut line.pieces {
                        p.done |= (p.back >> cpu) & 1 != 0;
                        if p.past == Some(*cpu) && !p.fenced {
                            p.fenced = true;
                            self.fenced[p.unit] += 1;
                        }
                    }
                }
                let is_over =
                    |p: &Piece| p.fenced && self.fenced[p.unit] == self.units.pieces[p.unit];
                let mut changed = Vec::new();
                for at in &self.open {
                    let line = self.lines.get_mut(at).expect("one that is open");
                    for p in &mut line.pieces {
                        p.done |= is_over(p);
                    }
                    if line.pieces.iter().any(|p| p.done) {
                        changed.push(*at);
                    }
                }
                self.settle(&changed);
            }
            Event::Acknowledged(_) | Event::Labels { .. } => {}
        }
    }

    fn settle(&mut self, changed: &[usize]) {
        for at in changed {
            let line = self.line(*at);
            let moved = line.settle();
            if line.pieces.is_empty() {
                self.open.remove(at);
            }
            if moved {
                self.fresh.insert(*at);
            }
        }
    }

    /// Whether this event would make something durable. What is written to the label area is.
    fn shrinks(&self, event: &Event) -> bool {
        let any = |of: &dyn Fn(&Piece) -> bool| {
            let open = self.open.iter().map(|at| &self.lines[at]);
            open.flat_map(|l| &l.pieces).any(|p| !p.done && of(p))
        };
        match event {
            Event::Flushed { at } => self
                .lines
                .get(&(at / LINE * LINE))
                .is_some_and(|l| l.pieces.iter().any(|p| !p.done && p.past.is_none())),
            Event::Fence { cpu } => {
                any(&|p| (p.past == Some(*cpu) && !p.fenced) || (p.back >> cpu) & 1 != 0)
            }
            Event::Labels { .. } => true,
            _ => false,
        }
    }

    /// What is durable by now and was not when this was called last.
    fn take_durable(&mut self) -> Vec<(usize, [u8; LINE])> {
        let fresh = std::mem::take(&mut self.fresh);
        fresh
            .into_iter()
            .map(|at| (at, self.lines[&at].durable))
            .collect()
    }

    fn slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut units = BTreeSet::new();
        for at in &self.open {
            let pieces = || self.lines[at].pieces.iter().filter(|p| !p.done);
            let cached = pieces().filter(|p| p.past.is_none()).count() as u32;
            if cached > 0 {
                slots.push(Slot::Prefix(*at, cached));
            }
            let units_here = pieces().filter(|p| p.past.is_some()).map(|p| p.unit);
            units.extend(units_here.filter(|u| self.stored[*u] == self.units.pieces[*u]));
        }
        slots.extend(units.into_iter().map(Slot::Unit));
        slots
    }

    /// The lines that are not what is durable, if this is chosen of the slots.
    fn state(&self, slots: &[Slot], choice: &[u32]) -> Vec<(usize, [u8; LINE])> {
        let mut prefixes = BTreeMap::new();
        let mut units = HashSet::new();
        for (slot, chosen) in slots.iter().zip(choice) {
            match slot {
                Slot::Prefix(at, _) => drop(prefixes.insert(*at, *chosen)),
                Slot::Unit(unit) if *chosen == 1 => drop(units.insert(*unit)),
                Slot::Unit(_) => {}
            }
        }
        let mut state = Vec::new();
        for at in &self.open {
            let line = &self.lines[at];
            let mut left = prefixes.get(at).copied().unwrap_or(0);
            let mut bytes = line.durable;
            for p in &line.pieces {
                let is_there = match p.past {
                    _ if p.done => true,
                    Some(_) => units.contains(&p.unit),
                    None if left == 0 => false,
                    None => {
                        left -= 1;
                        true
                    }
                };
                if is_there {
                    apply(&mut bytes, p);
                }
            }
            if bytes != line.durable {
                state.push((*at, bytes));
            }
        }
        state
    }
}

/// xorshift64*.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// One choice of the slots: of five kinds, as a fault may show in the one and in no other.
fn draw(rng: &mut Rng, slots: &[Slot]) -> Vec<u32> {
    let all = |last: bool| -> Vec<u32> {
        let one = |s: &Slot| if last { s.last() } else { 0 };
        slots.iter().map(one).collect()
    };
    let n = slots.len() as u64;
    match rng.below(8) {
        0 => all(rng.below(2) == 1),
        // All but one, or one alone.
        kind @ (1 | 2) if n > 0 => {
            let mut choice = all(kind == 1);
            let at = rng.below(n) as usize;
            choice[at] = rng.below(u64::from(slots[at].last()) + 1) as u32;
            choice
        }
        // All up to some place, as if the caches were written out in this order.
        3 if n > 0 => {
            let at = rng.below(n) as usize;
            let mut choice = all(true);
            choice[at..].fill(0);
            choice
        }
        // Of each line nothing or everything.
        4 | 5 => slots
            .iter()
            .map(|s| s.last() * rng.below(2) as u32)
            .collect(),
        _ => {
            let any = |s: &Slot| rng.below(u64::from(s.last()) + 1) as u32;
            slots.iter().map(any).collect()
        }
    }
}

/// All choices, in order; the caller knows that they are few.
fn every(slots: &[Slot]) -> Vec<Vec<u32>> {
    let mut all = vec![vec![]];
    for slot in slots {
        let longer = |c: Vec<u32>| {
            (0..=slot.last()).map(move |n| {
                let mut c = c.clone();
                c.push(n);
                c
            })
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// How many states a moment has; the largest number for more than that.
fn count(slots: &[Slot]) -> u64 {
    let times = |n: u64, s: &Slot| n.saturating_mul(u64::from(s.last()) + 1);
    slots.iter().fold(1, times)
}

/// What is chosen, by moment: the event that it comes before.
struct Plan {
    choices: BTreeMap<usize, Vec<Vec<u32>>>,
    /// Moments that have states which no other one has.
    moments: usize,
    /// All states that there are, and whether these are all of them.
    all: u64,
    complete: bool,
}

/// At most `n` states of a recording, different ones; at least one of each moment, if `n` is enough for that.
fn plan(recording: &Recording, whole: Whole, n: u64, seed: u64) -> Plan {
    let mut moments: Vec<(usize, Vec<Slot>)> = Vec::new();
    // Between two acknowledgements, with nothing done: what the first one says has a moment of its own, and
    // few have, so those come first.
    let mut quiet = Vec::new();
    let mut is_quiet = false;
    let mut medium = Medium::new(recording, whole);
    for (at, event) in recording.events.iter().enumerate() {
        let ends_quiet = is_quiet && matches!(event, Event::Acknowledged(_));
        if ends_quiet {
            quiet.push(moments.len());
        }
        if ends_quiet || medium.shrinks(event) {
            moments.push((at, medium.slots()));
        }
        match event {
            Event::Acknowledged(_) => is_quiet = true,
            Event::Store { .. } | Event::Labels { .. } => is_quiet = false,
            _ => {}
        }
        medium.apply(event);
    }
    moments.push((recording.events.len(), medium.slots()));
    let all = moments
        .iter()
        .fold(0, |sum: u64, m| sum.saturating_add(count(&m.1)));
    let complete = all <= n;
    let mut chosen: BTreeMap<usize, BTreeSet<Vec<u32>>> = BTreeMap::new();
    if complete {
        for (at, slots) in &moments {
            chosen.insert(*at, every(slots).into_iter().collect());
        }
    }
    // A seed of 0 would draw the same for ever.
    let mut rng = Rng(seed ^ 0x9e37_79b9_7f4a_7c15 | 1);
    let (mut left, mut turns) = (if complete { 0 } else { n }, 64 * n);
    // Each moment has its turn before chance decides, if there are as many turns.
    let each = 0..if n >= moments.len() as u64 {
        moments.len()
    } else {
        0
    };
    let mut first = quiet.into_iter().chain(each);
    while left > 0 && turns > 0 {
        turns -= 1;
        let moment = first.next();
        let (at, slots) =
            &moments[moment.unwrap_or_else(|| rng.below(moments.len() as u64) as usize)];
        let choice = draw(&mut rng, slots);
        left -= u64::from(chosen.entry(*at).or_default().insert(choice));
    }
    Plan {
        choices: chosen
            .into_iter()
            .map(|(at, c)| (at, c.into_iter().collect()))
            .collect(),
        moments: moments.len(),
        all,
        complete,
    }
}

/// A file of states for the guest's `crash.rs`. Numbers are little-endian.
///
/// `rpmemsts`; then for each recording the length of what follows, of 8 bytes, and events: a byte, and
///
/// - `b`: a page of the base: where, of 8 bytes, and the page; others are zeroes.
/// - `d`: what is durable of a line from now on: where, and the line.
/// - `a`: a text of so many bytes, 2 of them, is acknowledged.
/// - `l`: from now on the label area has, where, of 8 bytes, so many, of 2, bytes.
/// - `s`: a state: its number and the moment, of 8 bytes, how many lines of it are not what is durable, of 4,
///   and those, as of `d`.
struct States<W>(W);

const PAGE: usize = 4096;

impl<W: Write + Seek> States<W> {
    fn new(mut to: W) -> std::io::Result<States<W>> {
        to.write_all(b"rpmemsts")?;
        Ok(States(to))
    }

    fn line(&mut self, at: usize, line: &[u8; LINE]) -> std::io::Result<()> {
        self.0.write_all(&(at as u64).to_le_bytes())?;
        self.0.write_all(line)
    }

    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&(bytes.len() as u16).to_le_bytes())?;
        self.0.write_all(bytes)
    }

    /// Adds those of a recording that are planned, or one alone; how many it has added.
    fn add(
        &mut self,
        r: &Recording,
        whole: Whole,
        plan: &Plan,
        only: Option<u64>,
    ) -> std::io::Result<u64> {
        let start = self.0.stream_position()?;
        self.0.write_all(&[0; 8])?;
        self.bytes(r.name.as_bytes())?;
        self.0.write_all(&(r.base.len() as u64).to_le_bytes())?;
        for (n, page) in r.base.chunks(PAGE).enumerate() {
            if page.iter().any(|b| *b != 0) {
                self.0.write_all(b"b")?;
                self.0.write_all(&((n * PAGE) as u64).to_le_bytes())?;
                self.0.write_all(page)?;
            }
        }
        let mut medium = Medium::new(r, whole);
        let (mut number, mut added, mut said) = (0u64, 0, 0);
        for moment in 0..=r.events.len() {
            for choice in plan.choices.get(&moment).into_iter().flatten() {
                number += 1;
                if only.is_some_and(|only| only != number) {
                    continue;
                }
                for event in &r.events[said..moment] {
                    match event {
                        Event::Acknowledged(text) => {
                            self.0.write_all(b"a")?;
                            self.bytes(text.as_bytes())?;
                        }
                        Event::Labels { at, bytes } => {
                            self.0.write_all(b"l")?;
                            self.0.write_all(&(*at as u64).to_le_bytes())?;
                            self.bytes(bytes)?;
                        }
                        _ => {}
                    }
                }
                said = moment;
                for (at, line) in medium.take_durable() {
                    self.0.write_all(b"d")?;
                    self.line(at, &line)?;
                }
                added += 1;
                let lines = medium.state(&medium.slots(), choice);
                self.0.write_all(b"s")?;
                self.0.write_all(&number.to_le_bytes())?;
                self.0.write_all(&(moment as u64).to_le_bytes())?;
                self.0.write_all(&(lines.len() as u32).to_le_bytes())?;
                for (at, line) in lines {
                    self.line(at, &line)?;
                }
            }
            if let Some(event) = r.events.get(moment) {
                medium.apply(event);
            }
        }
        let end = self.0.stream_position()?;
        self.0.seek(SeekFrom::Start(start))?;
        self.0.write_all(&(end - start - 8).to_le_bytes())?;
        self.0.seek(SeekFrom::Start(end))?;
        Ok(added)
    }

    fn finish(mut self) -> std::io::Result<W> {
        self.0.write_all(&[0; 8])?;
        self.0.flush()?;
        Ok(self.0)
    }
}

/// What a boot is given.
pub struct Wish<'a> {
    /// States of each recording, at most.
    pub states: u64,
    pub seed: u64,
    /// The one that is wanted of each, by its number.
    pub only: Option<u64>,
    /// Recordings of which a block that is written past the caches is whole.
    pub blocks: &'a [String],
}

/// Writes the file of states for what was recorded; a line for each recording.
pub fn make(recordings: &[Recording], wish: &Wish, to: &Path) -> Result<Vec<String>, String> {
    let ctx = |e| format!("{}: {e}", to.display());
    // The disk stays as long as it is.
    let file = File::options().write(true).open(to).map_err(ctx)?;
    let size = file.metadata().map_err(ctx)?.len();
    let mut states = States::new(BufWriter::new(file)).map_err(ctx)?;
    let mut figures = Vec::new();
    for r in recordings {
        let whole = match wish.blocks.contains(&r.name) {
            true => Whole::Blocks,
            false => Whole::Words,
        };
        let plan = plan(r, whole, wish.states, wish.seed);
        let n = states.add(r, whole, &plan, wish.only).map_err(ctx)?;
        let of = match (plan.complete, plan.all) {
            (true, _) => "all there are".into(),
            (_, u64::MAX) => "2^64 or more".into(),
            (_, all) => format!("{all}"),
        };
        figures.push(format!(
            "crash states of {}: {n} of {of}, at {} of {} moments, seed {}",
            r.name,
            plan.choices.len(),
            plan.moments,
            wish.seed
        ));
    }
    let mut file = states.finish().map_err(ctx)?;
    match file.stream_position().map_err(ctx)? > size {
        true => Err(format!("{}: {size} bytes will not do", to.display())),
        false => Ok(figures),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Bytes;
    use std::io::Cursor;

    fn store(at: usize, byte: u8) -> Event {
        bytes(at, &[byte], false)
    }

    fn bytes(at: usize, bytes: &[u8], past: bool) -> Event {
        let bytes = Bytes::new(bytes).unwrap();
        let cpu = 0;
        Event::Store {
            at,
            bytes,
            cpu,
            past,
        }
    }

    fn back(at: usize) -> Event {
        Event::WrittenBack { at, cpu: 0 }
    }

    const FENCE: Event = Event::Fence { cpu: 0 };

    fn recording(events: Vec<Event>) -> Recording {
        Recording {
            name: "x".into(),
            base: vec![0; 3 * PAGE],
            events,
        }
    }

    /// How many there are, and the file.
    fn written(r: &Recording, whole: Whole, plan: &Plan, only: Option<u64>) -> (u64, Vec<u8>) {
        let mut states = States::new(Cursor::new(Vec::new())).unwrap();
        let n = states.add(r, whole, plan, only).unwrap();
        (n, states.finish().unwrap().into_inner())
    }

    /// What the first bytes of some lines are, in all states, with how much is acknowledged: by the file.
    fn images<const N: usize>(
        r: &Recording,
        whole: Whole,
        at: [usize; N],
    ) -> BTreeSet<(u64, [u8; N])> {
        let plan = plan(r, whole, 1 << 16, 0);
        assert!(plan.complete);
        let (n, file) = written(r, whole, &plan, None);
        assert_eq!(n, plan.all);
        let mut rest = &file[8 + 8 + 2 + 1 + 8..file.len() - 8];
        let mut image = vec![0; 3 * PAGE];
        let (mut acknowledged, mut all) = (0, BTreeSet::new());
        fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
            let (some, more) = rest.split_at(n);
            *rest = more;
            some
        }
        let number = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word) as usize
        };
        while !rest.is_empty() {
            match take(&mut rest, 1)[0] {
                b'a' => {
                    let len = number(take(&mut rest, 2));
                    take(&mut rest, len);
                    acknowledged += 1;
                }
                b'd' => {
                    let at = number(take(&mut rest, 8));
                    image[at..at + LINE].copy_from_slice(take(&mut rest, LINE));
                }
                b's' => {
                    take(&mut rest, 16);
                    let mut here = image.clone();
                    for _ in 0..number(take(&mut rest, 4)) {
                        let at = number(take(&mut rest, 8));
                        here[at..at + LINE].copy_from_slice(take(&mut rest, LINE));
                    }
                    all.insert((acknowledged, at.map(|at| here[at])));
                }
                other => panic!("{other}"),
            }
        }
        all
    }

    fn of<const N: usize>(events: Vec<Event>, at: [usize; N]) -> BTreeSet<(u64, [u8; N])> {
        images(&recording(events), Whole::Words, at)
    }

    fn set<const N: usize>(all: &[(u64, [u8; N])]) -> BTreeSet<(u64, [u8; N])> {
        all.iter().copied().collect()
    }

    #[test]
    fn stores_to_a_line_keep_their_order() {
        let want = set(&[(0, [0, 0]), (0, [1, 0]), (0, [1, 2])]);
        assert_eq!(of(vec![store(0, 1), store(8, 2)], [0, 8]), want);
    }

    #[test]
    fn what_is_acknowledged_has_a_moment() {
        let says = |text: &str| Event::Acknowledged(text.into());
        let mut events = Vec::new();
        for n in 0..40 {
            events.extend([store(n * 64, 1), back(n * 64), FENCE]);
        }
        let quiet = events.len() + 2;
        // The fence is somebody else's.
        events.extend([says("is"), FENCE, says("to")]);
        events.extend([store(0, 2), back(0), FENCE]);
        let r = recording(events);
        for seed in 0..20 {
            let plan = plan(&r, Whole::Words, 2, seed);
            assert!(plan.choices.contains_key(&quiet), "{:?}", plan.choices);
        }
    }

    #[test]
    fn no_moment_is_left_out() {
        // Ten lines wait at each of many fences, so that there are too many states for chance alone.
        let mut events = Vec::new();
        for n in 0..40 {
            events.extend((0..10).map(|line| store(n * 64 % PAGE + line * 64 % PAGE, 1)));
            events.extend([back(n * 64), FENCE]);
        }
        let r = recording(events);
        let few = plan(&r, Whole::Words, 41, 1);
        assert!(!few.complete);
        assert_eq!((few.moments, few.choices.len()), (41, 41));
    }

    #[test]
    fn labels_have_a_place_among_stores() {
        let labels = |n: u8| Event::Labels {
            at: 9,
            bytes: vec![n; 2],
        };
        let r = recording(vec![store(0, 1), labels(5), back(0), FENCE, labels(6)]);
        let plan = plan(&r, Whole::Words, 100, 0);
        // Before each of both, before the fence, and in the end.
        assert_eq!((plan.moments, plan.all), (4, 2 + 2 + 1 + 1));
        let (_, file) = written(&r, Whole::Words, &plan, None);
        let place = |n: u8| {
            let event = [b"l\x09\0\0\0\0\0\0\0\x02\0", &[n; 2][..]].concat();
            file.windows(event.len()).position(|w| w == event).unwrap()
        };
        let states = |from: usize, to: usize| {
            let is = |w: &&[u8]| w[0] == b's' && w[2..] == [0; 7];
            file[from..to].windows(9).filter(is).count()
        };
        let (first, second) = (place(5), place(6));
        let all = [
            states(0, first),
            states(first, second),
            states(second, file.len()),
        ];
        assert_eq!(all, [2, 3, 1]);
    }

    #[test]
    fn lines_do_not() {
        let want = set(&[(0, [0, 0]), (0, [1, 0]), (0, [0, 2]), (0, [1, 2])]);
        assert_eq!(of(vec![store(0, 1), store(64, 2)], [0, 64]), want);
        // As many words of what goes past the caches.
        let past = vec![bytes(0, &[1], true), bytes(8, &[2], true)];
        assert_eq!(of(past, [0, 8]), want);
    }

    #[test]
    fn a_store_is_whole_inside_of_a_word() {
        let whole = vec![bytes(0, &[1; 8], false)];
        assert_eq!(of(whole, [0, 7]), set(&[(0, [0, 0]), (0, [1, 1])]));
        let parts = set(&[(0, [0, 0]), (0, [1, 0]), (0, [1, 1])]);
        assert_eq!(of(vec![bytes(7, &[1; 2], false)], [7, 8]), parts);
        assert_eq!(of(vec![bytes(0, &[1; 16], false)], [0, 8]), parts);
        // Of two lines.
        let lines = vec![bytes(63, &[1; 2], false)];
        let want = set(&[(0, [0, 0]), (0, [1, 0]), (0, [0, 1]), (0, [1, 1])]);
        assert_eq!(of(lines, [63, 64]), want);
    }

    #[test]
    fn a_flush_and_a_fence_make_durable() {
        let done = Event::Acknowledged("1".into());
        let all = vec![store(0, 1), back(0), FENCE, done.clone(), store(0, 2)];
        let want = set(&[(0, [0]), (0, [1]), (1, [1]), (1, [2])]);
        assert_eq!(of(all, [0]), want);
        // One of both is not enough, nor the wrong order, nor another CPU's fence.
        let none = set(&[(1, [0]), (1, [1])]);
        for events in [
            vec![store(0, 1), back(0)],
            vec![store(0, 1), FENCE],
            vec![store(0, 1), FENCE, back(0)],
            vec![store(0, 1), back(64), FENCE],
            vec![store(0, 1), back(0), Event::Fence { cpu: 1 }],
            vec![back(0), store(0, 1), FENCE],
        ] {
            let events = events.into_iter().chain([done.clone()]).collect();
            assert_eq!(of(events, [0]), none);
        }
        let flushed = vec![store(0, 1), Event::Flushed { at: 0 }, done.clone()];
        assert_eq!(of(flushed, [0]), set(&[(0, [0]), (0, [1]), (1, [1])]));
        let past = vec![bytes(0, &[1], true), FENCE, done];
        assert_eq!(of(past, [0]), set(&[(0, [0]), (0, [1]), (1, [1])]));
    }

    #[test]
    fn what_is_stored_after_a_flush_is_not_in_it() {
        let events = vec![store(0, 1), back(0), store(0, 2), FENCE, store(64, 3)];
        let before = [(0, [0, 0]), (0, [1, 0]), (0, [2, 0])];
        let after = [(0, [1, 3]), (0, [2, 3])];
        assert_eq!(
            of(events, [0, 64]),
            set(&[&before[..], &after[..]].concat())
        );
    }

    #[test]
    fn what_a_cache_holds_takes_up_what_would_go_past() {
        let events = vec![store(0, 1), bytes(8, &[2], true), FENCE];
        assert_eq!(
            of(events, [0, 8]),
            set(&[(0, [0, 0]), (0, [1, 0]), (0, [1, 2])])
        );
    }

    /// A write of a block, in words, and of the rest of one.
    fn block(at: usize, byte: u8) -> impl Iterator<Item = Event> {
        let words = (at..(at + 1).next_multiple_of(BLOCK)).step_by(8);
        words.map(move |at| bytes(at, &[byte; 8], true))
    }

    fn blocks<const N: usize>(events: Vec<Event>, at: [usize; N]) -> BTreeSet<(u64, [u8; N])> {
        images(&recording(events), Whole::Blocks, at)
    }

    #[test]
    fn blocks_are_whole_if_they_are_to_be() {
        let two = block(0, 1).chain(block(4096, 2)).collect();
        let want = [[0; 4], [1, 1, 0, 0], [0, 0, 2, 2], [1, 1, 2, 2]].map(|i| (0, i));
        assert_eq!(blocks(two, [0, 4095, 4096, 8191]), set(&want));
        // The same one twice is two writes.
        let twice = block(0, 1).chain(block(0, 2)).collect();
        assert_eq!(blocks(twice, [0]), set(&[(0, [0]), (0, [1]), (0, [2])]));
    }

    #[test]
    fn a_block_is_whole_if_it_was_interrupted() {
        let mut events: Vec<_> = block(0, 1).collect();
        // By a fence and by another write; it goes on on another CPU.
        events.splice(9..9, [FENCE, bytes(8192, &[7; 8], true)]);
        for event in &mut events[11..] {
            let Event::Store { cpu, .. } = event else {
                panic!()
            };
            *cpu = 1;
        }
        let both = [[0, 0, 0], [1, 1, 0], [0, 0, 7], [1, 1, 7]].map(|i| (0, i));
        assert_eq!(blocks(events.clone(), [0, 4095, 8192]), set(&both));
        // It is durable when all of it is, and not by one fence.
        events.extend([Event::Fence { cpu: 1 }, Event::Acknowledged("1".into())]);
        let done = [[1, 1, 0], [1, 1, 7]].map(|i| (1, i));
        let all = set(&[&both[..], &done[..]].concat());
        assert_eq!(blocks(events, [0, 4095, 8192]), all);
    }

    #[test]
    fn what_was_acknowledged_does_not_wait_for_the_rest_of_its_block() {
        let part = [
            bytes(0, &[1; 8], true),
            FENCE,
            Event::Acknowledged("1".into()),
        ];
        let events = part.into_iter().chain(block(8, 2)).collect();
        let want = [(0, [0, 0]), (0, [1, 0]), (1, [1, 0]), (1, [1, 2])];
        assert_eq!(blocks(events, [0, 4095]), set(&want));
    }

    /// No state of any moment is missing from those of the moments that are looked at.
    #[test]
    fn moments_in_between_have_no_others() {
        let mut rng = Rng(7);
        for _ in 0..200 {
            let events: Vec<Event> = (0..12)
                .map(|n| match rng.below(6) {
                    0 | 1 => store(64 * rng.below(2) as usize, n + 1),
                    2 => bytes(64 * rng.below(2) as usize, &[n + 1], true),
                    3 => back(64 * rng.below(2) as usize),
                    4 => Event::Flushed { at: 0 },
                    _ => FENCE,
                })
                .collect();
            let all = of(events.clone(), [0, 64]);
            for n in 0..events.len() {
                let part = of(events[..n].to_vec(), [0, 64]);
                assert!(part.is_subset(&all), "{events:?}: {n}");
            }
        }
    }

    #[test]
    fn samples_are_different_and_follow_from_the_seed() {
        let events = (0..20).map(|n| store(64 * n, 1)).chain([back(0), FENCE]);
        let r = recording(events.collect());
        let a = plan(&r, Whole::Words, 100, 5);
        assert!(!a.complete && a.all > 1 << 20 && a.moments == 2);
        assert_eq!(a.choices.values().map(Vec::len).sum::<usize>(), 100);
        assert_eq!(a.choices, plan(&r, Whole::Words, 100, 5).choices);
        assert_ne!(a.choices, plan(&r, Whole::Words, 100, 6).choices);
        // One of them is the same alone.
        let (n, all) = written(&r, Whole::Words, &a, None);
        let (one, alone) = written(&r, Whole::Words, &a, Some(77));
        assert_eq!((n, one), (100, 1));
        assert!(alone.len() < all.len());
    }
}
