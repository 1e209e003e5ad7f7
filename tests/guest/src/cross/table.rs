// SPDX-License-Identifier: GPL-2.0
//! The cross product, as data: modes, kinds of mappings, sizes of entries, calls, cuts. What calls
//! answer is what Documentation/mmap.md says, and Linux where it says nothing.

use crate::support::arch::LARGEST_ENTRY;
use crate::support::sys::{self, RW};
use libc::{
    EACCES, EFAULT, EINVAL, EIO, ENODEV, MADV_COLD, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP,
    MADV_DONTFORK, MADV_DONTNEED, MADV_FREE, MADV_HUGEPAGE, MADV_HWPOISON, MADV_MERGEABLE,
    MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
    MADV_RANDOM, MADV_REMOVE, MADV_SEQUENTIAL, MADV_SOFT_OFFLINE, MADV_UNMERGEABLE, MADV_WILLNEED,
    PROT_NONE, PROT_READ,
};

pub const PAGE: u64 = 4096;
pub const HUGE: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;

// Not in the crate for every C library.
const MADV_WIPEONFORK: i32 = 18;
const MADV_KEEPONFORK: i32 = 19;
const MADV_DONTNEED_LOCKED: i32 = 24;
const MADV_COLLAPSE: i32 = 25;
const MADV_GUARD_INSTALL: i32 = 102;
const MADV_GUARD_REMOVE: i32 = 103;
const UFFD_MINOR_SHMEM: u64 = 1 << 10;
const UFFD_WP_ASYNC: u64 = 1 << 15;
const UFFD_RWP: u64 = 1 << 17;

/// What mappings are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Page frames, that cannot be pinned.
    Frames,
    /// Folios: the namespace is in devdax mode.
    Folios,
}

/// A namespace, and how to make it if it does not exist.
#[derive(Debug)]
pub struct Mode {
    pub name: &'static str,
    pub memory: Memory,
    pub synchronous: bool,
    /// The largest entry of a mapping whose stores are not tracked by the page.
    pub largest: u64,
    /// The first series in which it may have entries of 2 MiB: see Documentation/upstream-bugs.md.
    pub huge_since: (u32, u32),
    /// For `ndctl create-namespace`.
    pub create: &'static [&'static str],
}

const fn frames(name: &'static str, largest: u64, create: &'static [&'static str]) -> Mode {
    Mode {
        name,
        memory: Memory::Frames,
        synchronous: true,
        // Not all architectures have entries of 1 GiB.
        largest: if largest < LARGEST_ENTRY {
            largest
        } else {
            LARGEST_ENTRY
        },
        huge_since: (0, 0),
        create,
    }
}

const fn folios(name: &'static str, largest: u64, create: &'static [&'static str]) -> Mode {
    Mode {
        name,
        memory: Memory::Folios,
        synchronous: true,
        largest,
        huge_since: (0, 0),
        create,
    }
}

/// The only one without struct pages.
pub const RAW: Mode = Mode {
    huge_since: (7, 3),
    ..frames("raw", GIB, &[])
};
pub const E820: Mode = frames("e820", GIB, &[]);
pub const FSDAX: Mode = frames("fsdax", GIB, &["-m", "fsdax", "-M", "mem", "-s", "2560M"]);
pub const DEVDAX_4K: Mode = folios(
    "devdax, align 4K",
    PAGE,
    &["-m", "devdax", "-M", "mem", "-a", "4K", "-s", "2560M"],
);
pub const DEVDAX_2M: Mode = folios(
    "devdax, align 2M",
    HUGE,
    &["-m", "devdax", "-M", "mem", "-a", "2M", "-s", "2560M"],
);
/// Its memory allows 1 GiB, but the kernel cannot cut entries of that size.
pub const DEVDAX_1G: Mode = folios(
    "devdax, align 1G",
    HUGE,
    &["-m", "devdax", "-M", "mem", "-a", "1G"],
);
pub const VIRTIO: Mode = Mode {
    name: "virtio-pmem",
    memory: Memory::Frames,
    synchronous: false,
    largest: HUGE,
    huge_since: (0, 0),
    create: &[],
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// MAP_SHARED.
    Plain,
    /// The same, of a file that is open for reading.
    PlainRead,
    /// MAP_SHARED_VALIDATE | MAP_SYNC.
    Sync,
    /// The same, in the direct window.
    Direct,
}

pub const KINDS: [Kind; 4] = [Kind::Sync, Kind::Direct, Kind::PlainRead, Kind::Plain];

/// Sizes of the largest entry that is present.
pub const ENTRIES: [u64; 3] = [GIB, HUGE, PAGE];

impl Mode {
    /// Whether there are mappings of that kind.
    pub fn offers(&self, kind: Kind) -> bool {
        self.synchronous || !matches!(kind, Kind::Sync | Kind::Direct)
    }

    /// The largest entry that one can have.
    pub fn largest(&self, kind: Kind) -> u64 {
        match (self.memory, kind) {
            // Stores are tracked by the page.
            (Memory::Frames, Kind::Plain) => PAGE,
            _ => self.largest,
        }
    }

    /// The size of the entry that a mapping gets where there is room for one of `entry` bytes.
    pub fn made(&self, kind: Kind, entry: u64) -> u64 {
        match entry.min(self.largest(kind)) {
            HUGE if sys::series() < self.huge_since => PAGE,
            made => made,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// 1 GiB, aligned as the entry of that size is.
    Gigabyte,
    /// 2 MiB, aligned.
    Huge,
    /// Some pages.
    Pages,
    /// A page of the entry.
    First,
    Middle,
    Last,
    /// The mapping.
    Whole,
    /// The end of one mapping and the start of the next.
    Across,
}

pub const CUTS: [Cut; 8] = [
    Cut::Middle,
    Cut::Huge,
    Cut::Pages,
    Cut::First,
    Cut::Last,
    Cut::Across,
    Cut::Gigabyte,
    Cut::Whole,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Shows that an entry of the size cannot be.
    Cannot,
    Munmap,
    /// mprotect to each in turn.
    Protect(&'static [i32]),
    Grow,
    Shrink,
    /// MREMAP_FIXED, this far from a place with the same alignment.
    Move(u64),
    /// mremap of no bytes.
    Duplicate,
    DontUnmap,
    Advise(i32),
    ProcessAdvise(i32),
    Lock,
    LockOnFault,
    Unlock,
    Fork,
    /// MADV_DONTFORK, and fork.
    ForkWithout,
    /// MAP_FIXED of anonymous memory.
    Replace,
    RemapFilePages,
    /// Another process stores to it by a plain mapping, and takes the entries away by msync.
    MsyncElsewhere,
    Msync,
    Fsync,
    Prefault {
        write: bool,
    },
    /// /proc/self/mem
    Mem {
        write: bool,
    },
    Ptrace,
    /// /proc/self/clear_refs
    ClearRefs(&'static str),
    Pagemap,
    PagemapScan,
    /// A file about the process is read.
    Proc(&'static str),
    Mincore,
    /// UFFDIO_REGISTER, by a descriptor that has asked for these features if the kernel has them.
    Userfault {
        mode: u64,
        features: u64,
    },
    Seal,
    /// mbind to the node that all memory is of.
    Bind {
        flags: u32,
    },
    ThpDisable,
    CoreDump,
    Exec,
    Exit,
    Kill,
    Unbind,
    ReadOnly,
    BadBlock,
}

/// What a call acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// What is cut.
    Range,
    /// The process: the cut is read-only by then, a mapping of its own.
    Process,
    /// The device: it is bound anew after it.
    Device,
}

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub call: Call,
    pub on: On,
    /// Errno, 0 if none, for mappings of frames and of folios that may be written to.
    pub frames: i32,
    pub folios: i32,
    /// The same for one that may not.
    pub read_only: Option<i32>,
    /// What a kernel has that knows the call; the others answer EINVAL.
    pub needs: Option<&'static str>,
}

impl Row {
    const fn same(name: &'static str, call: Call, on: On) -> Row {
        Row {
            name,
            call,
            on,
            frames: 0,
            folios: 0,
            read_only: None,
            needs: None,
        }
    }

    const fn range(name: &'static str, call: Call) -> Row {
        Row::same(name, call, On::Range)
    }

    const fn process(name: &'static str, call: Call) -> Row {
        Row::same(name, call, On::Process)
    }

    const fn device(name: &'static str, call: Call) -> Row {
        Row::same(name, call, On::Device)
    }

    const fn fails(self, frames: i32, folios: i32) -> Row {
        Row {
            frames,
            folios,
            ..self
        }
    }

    const fn if_read_only(self, errno: i32) -> Row {
        Row {
            read_only: Some(errno),
            ..self
        }
    }

    const fn if_there(self, needs: &'static str) -> Row {
        Row {
            needs: Some(needs),
            ..self
        }
    }

    const fn userfault(name: &'static str, mode: u64, features: u64) -> Row {
        Row::range(name, Call::Userfault { mode, features }).fails(EINVAL, EINVAL)
    }

    const fn advice(name: &'static str, advice: i32, frames: i32, folios: i32) -> Row {
        Row::range(name, Call::Advise(advice)).fails(frames, folios)
    }

    /// What it answers.
    pub fn errno(&self, memory: Memory, kind: Kind) -> i32 {
        let is_there = |path| std::path::Path::new(path).exists();
        if !self.needs.is_none_or(is_there) {
            return EINVAL;
        }
        match (self.read_only, kind, memory) {
            (Some(e), Kind::PlainRead, _) => e,
            (_, _, Memory::Frames) => self.frames,
            (_, _, Memory::Folios) => self.folios,
        }
    }
}

const KSM: &str = "/sys/kernel/mm/ksm";
/// Instead of an errno: this would spoil the medium, or the machine, for all that comes later.
pub const UNTRIED: i32 = -1;

pub static CANNOT: Row = Row::range("no entry of that size", Call::Cannot);

pub static ROWS: &[Row] = &[
    Row::range("munmap", Call::Munmap),
    Row::range("mprotect to read", Call::Protect(&[PROT_READ])),
    Row::range("mprotect to none", Call::Protect(&[PROT_NONE])),
    Row::range("mprotect and back", Call::Protect(&[PROT_NONE, RW])).if_read_only(EACCES),
    Row::range("mprotect to read and back", Call::Protect(&[PROT_READ, RW])).if_read_only(EACCES),
    Row::range("mremap to more", Call::Grow).fails(EFAULT, EFAULT),
    Row::range("mremap to less", Call::Shrink),
    Row::range("mremap elsewhere", Call::Move(0)),
    Row::range("mremap elsewhere, 2 MiB on", Call::Move(HUGE)),
    Row::range("mremap elsewhere, a page on", Call::Move(PAGE)),
    Row::range("mremap of nothing", Call::Duplicate).fails(EFAULT, EFAULT),
    Row::range("mremap, MREMAP_DONTUNMAP", Call::DontUnmap).fails(EINVAL, EINVAL),
    Row::advice("MADV_NORMAL", MADV_NORMAL, 0, 0),
    Row::advice("MADV_RANDOM", MADV_RANDOM, 0, 0),
    Row::advice("MADV_SEQUENTIAL", MADV_SEQUENTIAL, 0, 0),
    Row::advice("MADV_WILLNEED", MADV_WILLNEED, 0, 0),
    Row::advice("MADV_DONTNEED", MADV_DONTNEED, EINVAL, 0),
    Row::advice("MADV_DONTNEED_LOCKED", MADV_DONTNEED_LOCKED, EINVAL, 0),
    Row::advice("MADV_FREE", MADV_FREE, EINVAL, EINVAL),
    Row::advice("MADV_REMOVE", MADV_REMOVE, ENODEV, ENODEV).if_read_only(EACCES),
    Row::advice("MADV_DONTFORK", MADV_DONTFORK, 0, 0),
    Row::advice("MADV_DOFORK", MADV_DOFORK, EINVAL, EINVAL),
    Row::advice("MADV_HWPOISON", MADV_HWPOISON, EFAULT, UNTRIED),
    Row::advice("MADV_SOFT_OFFLINE", MADV_SOFT_OFFLINE, EFAULT, EIO),
    Row::advice("MADV_MERGEABLE", MADV_MERGEABLE, 0, 0).if_there(KSM),
    Row::advice("MADV_UNMERGEABLE", MADV_UNMERGEABLE, 0, 0).if_there(KSM),
    Row::advice("MADV_HUGEPAGE", MADV_HUGEPAGE, 0, 0),
    Row::advice("MADV_NOHUGEPAGE", MADV_NOHUGEPAGE, 0, 0),
    Row::advice("MADV_DONTDUMP", MADV_DONTDUMP, 0, 0),
    Row::advice("MADV_DODUMP", MADV_DODUMP, EINVAL, EINVAL),
    Row::advice("MADV_WIPEONFORK", MADV_WIPEONFORK, EINVAL, EINVAL),
    Row::advice("MADV_KEEPONFORK", MADV_KEEPONFORK, 0, 0),
    Row::advice("MADV_COLD", MADV_COLD, EINVAL, 0),
    Row::advice("MADV_PAGEOUT", MADV_PAGEOUT, EINVAL, 0),
    Row::advice("MADV_POPULATE_READ", MADV_POPULATE_READ, EINVAL, 0),
    Row::advice("MADV_POPULATE_WRITE", MADV_POPULATE_WRITE, EINVAL, 0).if_read_only(EINVAL),
    Row::advice("MADV_COLLAPSE", MADV_COLLAPSE, EINVAL, EINVAL),
    Row::advice("MADV_GUARD_INSTALL", MADV_GUARD_INSTALL, EINVAL, EINVAL),
    Row::advice("MADV_GUARD_REMOVE", MADV_GUARD_REMOVE, EINVAL, EINVAL),
    Row::range("process_madvise, MADV_COLD", Call::ProcessAdvise(MADV_COLD)).fails(EINVAL, 0),
    Row::range(
        "process_madvise, MADV_WILLNEED",
        Call::ProcessAdvise(MADV_WILLNEED),
    ),
    Row::range(
        "process_madvise, MADV_DONTNEED",
        Call::ProcessAdvise(MADV_DONTNEED),
    )
    .fails(EINVAL, 0),
    Row::range("mlock", Call::Lock),
    Row::range("mlock2, MLOCK_ONFAULT", Call::LockOnFault),
    Row::range("munlock", Call::Unlock),
    Row::process("fork", Call::Fork),
    Row::range("MADV_DONTFORK and fork", Call::ForkWithout),
    Row::range("MAP_FIXED of other memory", Call::Replace),
    // Linux has it for mappings that could be written to.
    Row::range("remap_file_pages", Call::RemapFilePages).if_read_only(EINVAL),
    Row::range("msync by another process", Call::MsyncElsewhere),
    Row::range("msync", Call::Msync),
    Row::process("fsync", Call::Fsync),
    Row::range("RPMEM_PREFAULT", Call::Prefault { write: false }),
    Row::range("RPMEM_PREFAULT to write", Call::Prefault { write: true }).if_read_only(EFAULT),
    Row::range("/proc/self/mem, read", Call::Mem { write: false }),
    Row::range("/proc/self/mem, write", Call::Mem { write: true }).if_read_only(EIO),
    Row::range("ptrace", Call::Ptrace).if_read_only(EIO),
    Row::process("clear_refs: soft-dirty", Call::ClearRefs("4")),
    Row::process("clear_refs: all", Call::ClearRefs("1")),
    Row::range("pagemap", Call::Pagemap),
    Row::range("PAGEMAP_SCAN", Call::PagemapScan),
    Row::process("smaps", Call::Proc("/proc/self/smaps")),
    Row::process("numa_maps", Call::Proc("/proc/self/numa_maps")),
    Row::range("mincore", Call::Mincore),
    Row::userfault("userfaultfd, missing", 1, 0),
    Row::userfault("userfaultfd, write-protect", 1 << 1, 0),
    // For any other file, that needs nothing of the driver.
    Row::userfault("userfaultfd, write-protect alone", 1 << 1, UFFD_WP_ASYNC),
    Row::userfault("userfaultfd, minor", 1 << 2, UFFD_MINOR_SHMEM),
    // Of Linux 7.3; on others there is no such mode.
    Row::userfault("userfaultfd, read-write-protect", 1 << 3, UFFD_RWP),
    Row::range("mseal", Call::Seal),
    Row::range("mbind", Call::Bind { flags: 0 }),
    Row::range("mbind, MPOL_MF_STRICT", Call::Bind { flags: 1 }),
    Row::range(
        "mbind, MPOL_MF_STRICT, MPOL_MF_MOVE",
        Call::Bind { flags: 3 },
    ),
    Row::process("PR_SET_THP_DISABLE", Call::ThpDisable),
    Row::process("core dump", Call::CoreDump),
    Row::process("exec", Call::Exec),
    Row::process("exit", Call::Exit),
    Row::process("SIGKILL", Call::Kill),
    Row::device("unbind", Call::Unbind),
    Row::device("read-only", Call::ReadOnly),
    Row::device("bad block", Call::BadBlock),
];

/// One of all.
#[derive(Clone, Copy, Debug)]
pub struct Combination {
    pub row: &'static Row,
    pub kind: Kind,
    pub entry: u64,
    pub cut: Cut,
}

impl std::fmt::Display for Combination {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let size = match self.entry {
            GIB => "1 GiB",
            HUGE => "2 MiB",
            _ => "4 KiB",
        };
        let (row, kind, cut) = (self.row.name, self.kind, self.cut);
        write!(f, "{row}: {kind:?}, entries of {size}, cut {cut:?}")
    }
}

/// Where a mapping and its neighbour are on the device and in memory, in bytes. The neighbour shows
/// another part of the device, so that the two are never one.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub start: u64,
    pub end: u64,
    /// Where `start` is on the device.
    pub offset: u64,
    /// The end of the neighbour, which begins at `end`.
    pub next_end: u64,
    pub next_offset: u64,
    /// Where the entry in question is.
    pub entry: u64,
}

/// The addresses that a process uses, which have page tables of their own on all levels.
pub const PLACE: std::ops::Range<u64> = 32 << 39..33 << 39;
/// From there to what is moved.
pub const AWAY: u64 = 64 * GIB;

/// The first byte of the device in memory, and its length.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub phys: u64,
    pub size: u64,
}

impl Extent {
    fn place(&self, unit: u64) -> Option<u64> {
        let mut at = self.phys.next_multiple_of(unit.min(GIB)) - self.phys;
        if at < HUGE {
            at += unit.min(GIB);
        }
        (at + unit + 4 * HUGE <= self.size).then_some(at)
    }

    /// Whether an entry of 1 GiB has room.
    pub fn is_large(&self) -> bool {
        self.place(GIB).is_some()
    }

    /// Where mappings are that can have entries of `entry` bytes, and no larger ones.
    pub fn layout(&self, entry: u64) -> Option<Layout> {
        let unit = if self.is_large() { GIB } else { 8 * HUGE };
        if entry > unit {
            return None;
        }
        let at = match unit {
            GIB => self.place(GIB)?,
            // An alignment of 2 MiB is enough.
            _ => {
                let at = self.phys.next_multiple_of(HUGE) - self.phys + HUGE;
                (at + unit + 4 * HUGE <= self.size).then_some(at)?
            }
        };
        // Entries of half that size have to be where larger ones cannot.
        let skew = if entry == GIB { 0 } else { entry };
        let first = PLACE.start + 8 * GIB + skew;
        Some(Layout {
            start: first - HUGE,
            end: first + unit,
            offset: at - HUGE,
            next_end: first + unit + 2 * HUGE,
            next_offset: at + unit + 2 * HUGE,
            entry: match entry {
                GIB => first,
                HUGE => first + 2 * HUGE,
                _ => first + 2 * HUGE + 5 * PAGE,
            },
        })
    }
}

impl Layout {
    /// What a cut is; nothing where it is the same as another one.
    pub fn cut(&self, cut: Cut, entry: u64) -> Option<std::ops::Range<u64>> {
        let e = self.entry;
        let page = |at: u64| Some(at..at + PAGE);
        match cut {
            Cut::Gigabyte => {
                let start = self.start + HUGE;
                (self.end - start == GIB).then_some(start..start + GIB)
            }
            Cut::Huge if entry == GIB => Some(e + 2 * HUGE..e + 3 * HUGE),
            Cut::Huge => {
                let start = self.start + 3 * HUGE;
                Some(start..start + HUGE)
            }
            Cut::Pages => match entry {
                GIB => Some(e + 4 * HUGE - 2 * PAGE..e + 4 * HUGE + 3 * PAGE),
                HUGE => Some(e + 3 * PAGE..e + 8 * PAGE),
                _ => Some(e - 2 * PAGE..e + 3 * PAGE),
            },
            Cut::First => page(e),
            Cut::Middle if entry > PAGE => page(e + entry / 2),
            Cut::Last if entry > PAGE => page(e + entry - PAGE),
            Cut::Middle | Cut::Last => None,
            Cut::Whole => Some(self.start..self.end),
            Cut::Across => Some(self.end - 3 * PAGE..self.end + 2 * PAGE),
        }
    }

    /// The byte of the device that an address shows.
    pub fn device(&self, at: u64) -> u64 {
        if at < self.end {
            at - self.start + self.offset
        } else {
            at - self.end + self.next_offset
        }
    }

    /// The addresses, of pages, at which something could be different.
    pub fn interesting(&self, cut: &std::ops::Range<u64>, entry: u64) -> Vec<u64> {
        let (e, middle) = (self.entry, ((cut.start + cut.end) / 2) & !(PAGE - 1));
        let mut v = vec![
            self.start,
            self.end - PAGE,
            self.end,
            self.next_end - PAGE,
            e,
            e + PAGE,
            e + entry / 2,
            e + entry - PAGE,
            e + entry,
            cut.start - PAGE,
            cut.start,
            cut.start + PAGE,
            middle,
            cut.end - PAGE,
            cut.end,
            (cut.end + HUGE) & !(HUGE - 1),
        ];
        v.iter_mut().for_each(|at| *at &= !(PAGE - 1));
        v.retain(|at| (self.start..self.next_end).contains(at));
        v.sort();
        v.dedup();
        v
    }
}

/// All combinations of a mode, in an order that never changes.
pub fn all(mode: &Mode, extent: &Extent) -> Vec<Combination> {
    let mut v = Vec::new();
    for row in [&CANNOT].into_iter().chain(ROWS) {
        for kind in KINDS {
            for entry in ENTRIES {
                let can = mode.offers(kind) && mode.made(kind, entry) == entry;
                if can == (row.call == Call::Cannot) {
                    continue;
                }
                if !can {
                    v.push(Combination {
                        row,
                        kind,
                        entry,
                        cut: Cut::Whole,
                    });
                    continue;
                }
                let Some(layout) = extent.layout(entry) else {
                    continue;
                };
                for cut in CUTS {
                    let valid = layout.cut(cut, entry).is_some()
                        && row.errno(mode.memory, kind) != UNTRIED
                        // Memory that is cut at its start would have no length.
                        && !(row.call == Call::Shrink && cut == Cut::Whole);
                    if valid {
                        v.push(Combination {
                            row,
                            kind,
                            entry,
                            cut,
                        });
                    }
                }
            }
        }
    }
    v
}

/// Shard `i` of `n`, by index: every row is in every shard.
pub fn shard(all: &[Combination], i: usize, n: usize) -> Vec<usize> {
    let mut chosen = Vec::new();
    let (mut start, mut row) = (0, 0);
    while start < all.len() {
        let same = |c: &&Combination| std::ptr::eq(c.row, all[start].row);
        let len = all[start..].iter().take_while(same).count();
        // Each row begins elsewhere, so that a shard has all kinds, entries and cuts.
        let first = (i + row * 5) % n.min(len);
        chosen.extend((first..len).step_by(n).map(|k| start + k));
        start += len;
        row += 1;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENTS: [(&Mode, Extent); 4] = [
        (&RAW, extent(4 * GIB, 5 * GIB / 2)),
        (&E820, extent(1008 << 20, 1048 << 20)),
        (&DEVDAX_2M, extent(4 * GIB + HUGE, 5 * GIB / 2 - HUGE)),
        (&VIRTIO, extent(4 * GIB, 384 << 20)),
    ];

    const fn extent(phys: u64, size: u64) -> Extent {
        Extent { phys, size }
    }

    #[test]
    fn places() {
        for (mode, extent) in EXTENTS {
            assert_eq!(extent.is_large(), mode.name != VIRTIO.name);
            for entry in ENTRIES {
                let Some(l) = extent.layout(entry) else {
                    assert!(!extent.is_large() && entry == GIB);
                    continue;
                };
                // One of that size is possible, and no larger one.
                let apart = (extent.phys + l.offset).wrapping_sub(l.start);
                assert_eq!(apart % entry, 0);
                let larger = entry * 512;
                assert!(apart % larger != 0 || l.end - l.start < larger, "{entry}");
                assert!(PLACE.contains(&l.start) && PLACE.contains(&(l.next_end + AWAY + HUGE)));
                assert!(l.next_offset + (l.next_end - l.end) <= extent.size);
                for cut in CUTS {
                    let Some(r) = l.cut(cut, entry) else {
                        continue;
                    };
                    assert!(r.start % PAGE == 0 && r.end % PAGE == 0 && r.start < r.end);
                    assert!(l.start <= r.start && r.end <= l.next_end, "{cut:?}");
                    assert_eq!(r.end > l.end, cut == Cut::Across);
                    let seen = l.interesting(&r, entry);
                    assert!(seen.contains(&r.start) && seen.contains(&(r.end - PAGE)));
                }
            }
        }
    }

    #[test]
    fn every_row_is_in_every_shard() {
        for (mode, extent) in EXTENTS {
            let all = all(mode, &extent);
            let n = 24;
            let mut seen = vec![false; all.len()];
            for i in 0..n {
                let chosen = shard(&all, i, n);
                let has = |row: &Row| chosen.iter().any(|k| std::ptr::eq(all[*k].row, row));
                for row in ROWS {
                    let tried = row.errno(mode.memory, Kind::Plain) != UNTRIED;
                    assert_eq!(has(row), tried, "{}: {}", mode.name, row.name);
                }
                chosen.iter().for_each(|k| seen[*k] = true);
            }
            assert!(seen.iter().all(|s| *s), "{}", mode.name);
        }
    }
}
