// SPDX-License-Identifier: GPL-2.0
//! What an address space with mappings of the device has to look like: which page of the device is
//! where, with which rights, and what an access does. It knows Documentation/mmap.md, not the driver.

use super::table::{Kind, Memory, PAGE};
use crate::support::node::DIRECT_WINDOW;
use crate::support::sys::{BUS_ADRERR, BUS_MCEERR_AR};
use libc::{EACCES, PROT_READ, PROT_WRITE, SIGBUS, SIGSEGV};
use std::ops::Range;

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The device from this byte on.
    Device { offset: u64, kind: Kind },
    /// Memory of the process, zeroes.
    Anonymous,
}

/// A mapping, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub start: u64,
    pub end: u64,
    pub backing: Backing,
    pub prot: i32,
    /// Whether the file is open for writing.
    pub may_write: bool,
    /// Whether the device still serves it.
    pub alive: bool,
    /// Whether a child gets it.
    pub inherited: bool,
}

impl Area {
    fn part(&self, range: Range<u64>) -> Area {
        let mut part = Area {
            start: range.start,
            end: range.end,
            ..*self
        };
        if let Backing::Device { offset, .. } = &mut part.backing {
            *offset += range.start - self.start;
        }
        part
    }
}

/// What an access ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This byte of the device.
    Device(u64),
    /// Memory of the process.
    Anonymous,
    /// A signal: number, code, least significant bit of what is damaged.
    Signal(i32, i32, i32),
}

/// A line of /proc/PID/maps: addresses, rights as they stand there, offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub range: Range<u64>,
    pub rights: String,
    pub offset: u64,
}

impl Line {
    /// Neighbours that one mapping could be are one: some are merged by the kernel and some not.
    pub fn joined(lines: Vec<Line>) -> Vec<Line> {
        let mut joined: Vec<Line> = Vec::new();
        for l in lines {
            match joined.last_mut() {
                Some(last)
                    if last.range.end == l.range.start
                        && last.rights == l.rights
                        && (last.offset + (last.range.end - last.range.start) == l.offset
                            || l.rights.ends_with('p')) =>
                {
                    last.range.end = l.range.end;
                }
                _ => joined.push(l),
            }
        }
        joined
    }
}

/// The mappings of a process, in order.
#[derive(Clone, Debug, Default)]
pub struct Space {
    areas: Vec<Area>,
    /// Pages of the device, by their first byte, with a bad block.
    pub bad: Vec<u64>,
}

impl Space {
    pub fn map(&mut self, area: Area) {
        self.unmap(area.start..area.end);
        self.areas.push(area);
        self.areas.sort_by_key(|a| a.start);
    }

    pub fn unmap(&mut self, range: Range<u64>) {
        self.take(range);
    }

    /// Removes a range; what was there.
    fn take(&mut self, range: Range<u64>) -> Vec<Area> {
        let (mut kept, mut taken) = (Vec::new(), Vec::new());
        for a in self.areas.drain(..) {
            let (start, end) = (a.start.max(range.start), a.end.min(range.end));
            if start >= end {
                kept.push(a);
                continue;
            }
            taken.push(a.part(start..end));
            for rest in [a.start..start, end..a.end] {
                if !rest.is_empty() {
                    kept.push(a.part(rest));
                }
            }
        }
        kept.sort_by_key(|a| a.start);
        self.areas = kept;
        taken
    }

    fn change(&mut self, range: Range<u64>, f: impl Fn(&mut Area)) {
        for mut a in self.take(range) {
            f(&mut a);
            self.map(a);
        }
    }

    /// mprotect; its errno.
    pub fn protect(&mut self, range: Range<u64>, prot: i32) -> i32 {
        let denied = |a: &Area| a.start < range.end && range.start < a.end && !a.may_write;
        if prot & PROT_WRITE != 0 && self.areas.iter().any(denied) {
            return EACCES;
        }
        self.change(range, |a| a.prot = prot);
        0
    }

    /// mremap to a place of the same length.
    pub fn shift(&mut self, range: Range<u64>, to: u64) {
        let from = range.start;
        let moved = self.take(range);
        for a in moved {
            let start = a.start - from + to;
            self.map(Area {
                end: start + (a.end - a.start),
                start,
                ..a
            });
        }
    }

    /// remap_file_pages: an ordinary mapping of another place, but that a window stays what it is. The
    /// rights are those of the first page.
    pub fn show(&mut self, range: Range<u64>, offset: u64, memory: Memory) {
        let Some(first) = self.at(range.start).copied() else {
            return;
        };
        let kind = match (first.backing, memory) {
            (Backing::Device { kind, .. }, Memory::Frames) if kind == Kind::Direct => kind,
            _ => Kind::Plain,
        };
        self.map(Area {
            start: range.start,
            end: range.end,
            backing: Backing::Device { offset, kind },
            ..first
        });
    }

    pub fn keep_from_children(&mut self, range: Range<u64>) {
        self.change(range, |a| a.inherited = false);
    }

    /// What a child has.
    pub fn fork(&self) -> Space {
        let mut child = self.clone();
        child.areas.retain(|a| a.inherited);
        child
    }

    /// The device has gone.
    pub fn revoke(&mut self) {
        self.areas.iter_mut().for_each(|a| a.alive = false);
    }

    /// The device has become read-only.
    pub fn revoke_writers(&mut self) {
        let writers = self.areas.iter_mut().filter(|a| a.may_write);
        writers.for_each(|a| a.alive = false);
    }

    pub fn at(&self, addr: u64) -> Option<&Area> {
        self.areas.iter().find(|a| (a.start..a.end).contains(&addr))
    }

    /// What a load or a store does.
    pub fn access(&self, addr: u64, write: bool) -> Access {
        let Some(area) = self.at(addr) else {
            return Access::Signal(SIGSEGV, SEGV_MAPERR, 0);
        };
        let right = if write { PROT_WRITE } else { PROT_READ };
        if area.prot & right == 0 {
            return Access::Signal(SIGSEGV, SEGV_ACCERR, 0);
        }
        let Backing::Device { offset, .. } = area.backing else {
            return Access::Anonymous;
        };
        if !area.alive {
            return Access::Signal(SIGBUS, BUS_ADRERR, 0);
        }
        let at = offset + (addr - area.start);
        if self.bad.contains(&(at & !(PAGE - 1))) {
            return Access::Signal(SIGBUS, BUS_MCEERR_AR, 12);
        }
        Access::Device(at)
    }

    /// What /proc/PID/maps says.
    pub fn lines(&self, memory: Memory) -> Vec<Line> {
        let line = |a: &Area| {
            let right = |bit, c| if a.prot & bit != 0 { c } else { '-' };
            let (shared, offset) = match a.backing {
                Backing::Anonymous => ('p', 0),
                Backing::Device { offset, kind } => {
                    // Folios have one offset only.
                    let window = kind == Kind::Direct && memory == Memory::Frames;
                    ('s', offset + if window { DIRECT_WINDOW } else { 0 })
                }
            };
            Line {
                range: a.start..a.end,
                rights: [right(PROT_READ, 'r'), right(PROT_WRITE, 'w'), '-', shared]
                    .iter()
                    .collect(),
                offset,
            }
        };
        Line::joined(self.areas.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::PROT_NONE;

    const RW: i32 = PROT_READ | PROT_WRITE;

    fn space() -> Space {
        let mut s = Space::default();
        s.map(Area {
            start: 0x10000,
            end: 0x20000,
            backing: Backing::Device {
                offset: 0x4000,
                kind: Kind::Sync,
            },
            prot: RW,
            may_write: true,
            alive: true,
            inherited: true,
        });
        s
    }

    #[test]
    fn a_hole() {
        let mut s = space();
        s.unmap(0x12000..0x13000);
        assert_eq!(s.access(0x11ff8, true), Access::Device(0x5ff8));
        let none = Access::Signal(SIGSEGV, SEGV_MAPERR, 0);
        assert_eq!(s.access(0x12000, false), none);
        assert_eq!(s.access(0x13000, false), Access::Device(0x7000));
        assert_eq!(s.access(0x20000, false), none);
        let lines = s.lines(Memory::Frames);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[1].range.start, lines[1].offset), (0x13000, 0x7000));
    }

    #[test]
    fn rights() {
        let mut s = space();
        assert_eq!(s.protect(0x11000..0x12000, PROT_READ), 0);
        assert_eq!(s.protect(0x14000..0x15000, PROT_NONE), 0);
        let denied = Access::Signal(SIGSEGV, SEGV_ACCERR, 0);
        assert_eq!(s.access(0x11000, true), denied);
        assert_eq!(s.access(0x11000, false), Access::Device(0x5000));
        assert_eq!(s.access(0x14000, false), denied);
        assert_eq!(s.lines(Memory::Frames).len(), 5);
        assert_eq!(s.protect(0x11000..0x15000, RW), 0);
        assert_eq!(s.lines(Memory::Frames).len(), 1);
        s.revoke();
        let gone = Access::Signal(SIGBUS, BUS_ADRERR, 0);
        assert_eq!(s.access(0x11000, true), gone);
    }

    #[test]
    fn elsewhere() {
        let mut s = space();
        s.shift(0x11000..0x13000, 0x40000);
        assert_eq!(s.access(0x40000, true), Access::Device(0x5000));
        assert_eq!(s.access(0x41000, true), Access::Device(0x6000));
        assert!(s.at(0x11000).is_none());
        s.keep_from_children(0x40000..0x41000);
        assert!(s.fork().at(0x40000).is_none());
        assert!(s.fork().at(0x41000).is_some());
        assert!(s.at(0x40000).is_some());
        s.show(0x13000..0x15000, 0, Memory::Frames);
        assert_eq!(s.access(0x14000, true), Access::Device(0x1000));
        s.bad = vec![0x1000];
        let bad = Access::Signal(SIGBUS, BUS_MCEERR_AR, 12);
        assert_eq!(s.access(0x14008, true), bad);
    }
}
