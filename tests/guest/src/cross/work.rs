// SPDX-License-Identifier: GPL-2.0
//! The process of a combination: it maps, has the entry made, calls, and then makes every access that the
//! model has an opinion on.

use super::board::{damage, errno, in_child, os, wait, Board, Check, STORE, VERIFY, WORDS};
use super::model::{Access, Area, Backing, Line, Space};
use super::table::{
    Call, Combination, Cut, Extent, Kind, Layout, Memory, Mode, AWAY, GIB, HUGE, PAGE, PLACE,
};
use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk::{self, BLKROSET};
use crate::support::node::{Node, DIRECT_WINDOW};
use crate::support::peer::Peer;
use crate::support::sys::{self, Fault, MAP_SHARED_VALIDATE, MAP_SYNC, RW};
use crate::support::tools;
use crate::support::uapi;
use libc::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_READ,
};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::SeqCst;

// Not in the crate for every C library.
const SYS_MSEAL: libc::c_long = 462;

/// The device, as it is bound just now.
pub(super) struct Device {
    pub(super) here: Node,
    pub(super) rw: File,
    pub(super) ro: File,
    pub(super) mappings: File,
}

impl Device {
    pub(super) fn new(c: &Ctx) -> TestResult<Device> {
        let here = Node::nth(c, 0)?;
        let rw = here.open()?;
        let ro = File::open(&here.path)?;
        let mappings = File::open(format!("{}/mappings", here.sysfs))?;
        Ok(Device {
            here,
            rw,
            ro,
            mappings,
        })
    }

    pub(super) fn mappings(&self) -> TestResult<u64> {
        let mut b = [0; 32];
        let n = self.mappings.read_at(&mut b, 0)?;
        let text = std::str::from_utf8(&b[..n]).unwrap_or_default();
        let n = text.trim().parse();
        Ok(n.map_err(|_| format!("mappings: {text:?}"))?)
    }
}

/// What a combination is run with.
pub(super) struct Scene<'a> {
    pub(super) mode: &'a Mode,
    pub(super) extent: Extent,
    pub(super) board: &'a Board,
    pub(super) device: &'a Device,
    pub(super) witness: Option<&'a Peer>,
    /// Page tables of one small page, of which there is no other in `PLACE`: bytes.
    pub(super) depth: u64,
    /// Addresses that the program uses itself.
    pub(super) warm: &'a [u64],
}

/// How a combination ends its process.
pub(super) enum End {
    /// With nothing mapped.
    Unmapped,
    Exec,
    Exit,
    Kill,
    CoreDump,
}

/// The work of one process.
pub(super) struct Work<'a> {
    pub(super) scene: &'a Scene<'a>,
    pub(super) layout: Layout,
    pub(super) space: Space,
    /// Addresses to look at.
    pub(super) addresses: Vec<u64>,
}

impl Scene<'_> {
    pub(super) fn file(&self, kind: Kind) -> &File {
        match kind {
            Kind::PlainRead => &self.device.ro,
            _ => &self.device.rw,
        }
    }

    /// mmap of a part of the device at an address; its errno.
    pub(super) fn map_at(&self, kind: Kind, range: Range<u64>, offset: u64) -> i32 {
        let (window, flags) = match kind {
            Kind::Plain | Kind::PlainRead => (0, MAP_SHARED),
            Kind::Sync => (0, MAP_SHARED_VALIDATE | MAP_SYNC),
            Kind::Direct => (DIRECT_WINDOW, MAP_SHARED_VALIDATE | MAP_SYNC),
        };
        let prot = if kind == Kind::PlainRead {
            PROT_READ
        } else {
            RW
        };
        // SAFETY: an address that nothing else of this program is at.
        let p = unsafe {
            libc::mmap(
                range.start as *mut _,
                (range.end - range.start) as usize,
                prot,
                flags | MAP_FIXED,
                self.file(kind).as_raw_fd(),
                (window + offset) as libc::off_t,
            )
        };
        if p == libc::MAP_FAILED {
            return errno();
        }
        0
    }

    pub(super) fn ask(&self, command: u64, range: Range<u64>) -> Check {
        let Some(witness) = self.witness else {
            return Ok(());
        };
        self.board.ask(witness, command, range)
    }
}

/// The errno of a call that gives -1 for a failure.
pub(super) fn result(r: i64) -> i32 {
    if r == -1 {
        errno()
    } else {
        0
    }
}

/// The lines of /proc/self/maps in `PLACE`.
pub(super) fn maps() -> Check<Vec<Line>> {
    let text = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    let hex = |s: &str| u64::from_str_radix(s, 16).map_err(|_| format!("maps: {s}"));
    let mut lines = Vec::new();
    for l in text.lines() {
        let mut words = l.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (range, rights, offset) = (next(), next(), next());
        let (start, end) = range.split_once('-').unwrap_or_default();
        let start = hex(start)?;
        if PLACE.contains(&start) {
            lines.push(Line {
                range: start..hex(end)?,
                rights: rights.into(),
                offset: hex(offset)?,
            });
        }
    }
    Ok(Line::joined(lines))
}

impl Work<'_> {
    pub(super) fn map(&mut self, kind: Kind) -> Check {
        let l = self.layout;
        for (range, offset) in [
            (l.start..l.end, l.offset),
            (l.end..l.next_end, l.next_offset),
        ] {
            match self.scene.map_at(kind, range.clone(), offset) {
                0 => {}
                e => return Err(format!("mmap: {}", io::Error::from_raw_os_error(e))),
            }
            let writes = kind != Kind::PlainRead;
            self.space.map(Area {
                start: range.start,
                end: range.end,
                backing: Backing::Device { offset, kind },
                prot: if writes { RW } else { PROT_READ },
                may_write: writes,
                alive: true,
                inherited: true,
            });
        }
        Ok(())
    }

    /// A load, and what it has to be.
    pub(super) fn load(&self, at: u64, whole: bool) -> Check {
        let got = sys::probe_load(at);
        let page = match self.space.access(at, false) {
            Access::Device(page) => page,
            Access::Anonymous => return expect(at, "load", got == Ok(0), &got, "zero"),
            Access::Signal(signal, code, lsb) => {
                return signalled(at, "load", got.map(|_| ()), (signal, code, lsb))
            }
        };
        let Some(cell) = self.scene.board.value(page) else {
            return Err(format!("{at:#x}: nobody knows page {page:#x}"));
        };
        let want = cell.load(SeqCst);
        let what = format!("{want:#x} of the device at {page:#x}");
        expect(at, "load", got == Ok(want), &got, &what)?;
        if whole {
            // SAFETY: a page that could be read just now.
            let words = unsafe { std::slice::from_raw_parts(at as *const u64, WORDS as usize) };
            if let Some((n, w)) = damage(page, words) {
                return Err(format!("{at:#x}: word {n} of {page:#x} is {w:#x}"));
            }
        }
        Ok(())
    }

    pub(super) fn store(&self, at: u64) -> Check {
        match self.space.access(at, true) {
            Access::Device(page) => {
                let Some(cell) = self.scene.board.value(page) else {
                    return Err(format!("{at:#x}: nobody knows page {page:#x}"));
                };
                let value = self.scene.board.fresh(page);
                let got = sys::probe_store(at, value);
                expect(at, "store", got == Ok(()), &got, "a store")?;
                cell.store(value, SeqCst);
                Ok(())
            }
            // It stays as it is.
            Access::Anonymous => {
                let got = sys::probe_store(at, 0);
                expect(at, "store", got == Ok(()), &got, "a store")
            }
            Access::Signal(signal, code, lsb) => {
                signalled(at, "store", sys::probe_store(at, 0), (signal, code, lsb))
            }
        }
    }

    /// Every access, everywhere, and what the kernel says of the mappings.
    pub(super) fn check(&self) -> Check {
        for at in &self.addresses {
            self.load(*at, true)?;
        }
        for at in &self.addresses {
            self.store(*at)?;
        }
        for at in &self.addresses {
            self.load(*at, false)?;
        }
        let (got, want) = (maps()?, self.space.lines(self.scene.mode.memory));
        if got != want {
            return Err(format!("maps: {got:x?}, must be {want:x?}"));
        }
        self.scene.ask(VERIFY, 0..0)
    }

    /// Has the entry made that the combination is about, and nothing else; its size.
    pub(super) fn make_entry(&self, c: &Combination, prefault: bool) -> Check<u64> {
        let before = sys::page_tables()?;
        let at = self.layout.entry;
        if prefault {
            let write = u32::from(c.kind != Kind::PlainRead);
            let file = self.scene.file(c.kind);
            let len = self.scene.mode.made(c.kind, c.entry);
            let done = uapi::prefault_at(file, at as usize, len, write);
            if done != (len, 0) {
                return Err(format!("RPMEM_PREFAULT: {done:?}"));
            }
        } else if c.kind == Kind::PlainRead {
            self.load(at, true)?;
        } else {
            self.store(at)?;
        }
        let tables = sys::page_tables()? - before;
        match self.scene.depth.checked_sub(tables) {
            Some(0) => Ok(PAGE),
            Some(0x1000) => Ok(HUGE),
            Some(0x2000) => Ok(GIB),
            _ => Err(format!("page tables of {tables:#x} bytes for one entry")),
        }
    }

    pub(super) fn touch(&self) -> Check {
        self.addresses.iter().try_for_each(|at| {
            if let Access::Device(_) = self.space.access(*at, true) {
                self.store(*at)
            } else {
                self.load(*at, false)
            }
        })
    }

    /// The parts of the device that a range shows.
    pub(super) fn on_device(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let l = &self.layout;
        [l.start..l.end, l.end..l.next_end]
            .iter()
            .filter_map(|a| {
                let (start, end) = (a.start.max(range.start), a.end.min(range.end));
                let first = l.device(start);
                (start < end).then(|| first..first + (end - start))
            })
            .collect()
    }

    pub(super) fn inside<'a>(&'a self, range: &'a Range<u64>) -> impl Iterator<Item = u64> + 'a {
        let all = self.addresses.iter().copied();
        all.filter(move |at| range.contains(at))
    }

    /// Makes the call, and tells the model.
    pub(super) fn call(&mut self, c: &Combination, cut: &Range<u64>) -> Check<End> {
        let memory = self.scene.mode.memory;
        let (at, len) = (
            cut.start as *mut libc::c_void,
            (cut.end - cut.start) as usize,
        );
        let want = c.row.errno(memory, c.kind);
        let mut end = End::Unmapped;
        // SAFETY: all of these act on `PLACE`, which nothing but these accesses uses.
        let got = unsafe {
            match c.row.call {
                Call::Cannot => 0,
                Call::Munmap => {
                    self.space.unmap(cut.clone());
                    result(libc::munmap(at, len).into())
                }
                Call::Protect(all) => {
                    let mut last = 0;
                    for prot in all {
                        let model = self.space.protect(cut.clone(), *prot);
                        last = result(libc::mprotect(at, len, *prot).into());
                        if model != last {
                            return Err(format!("mprotect: errno {last}, must be {model}"));
                        }
                    }
                    last
                }
                Call::Grow => {
                    let more = len + PAGE as usize;
                    result(libc::mremap(at, len, more, MREMAP_MAYMOVE) as i64)
                }
                Call::Shrink => {
                    let start = self.layout.start;
                    let (old, new) = (cut.end - start, cut.start - start);
                    self.space.unmap(cut.clone());
                    let p = libc::mremap(start as *mut _, old as usize, new as usize, 0);
                    result(p as i64)
                }
                Call::Move(by) => {
                    let to = cut.start + AWAY + by;
                    let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
                    let p = libc::mremap(at, len, len, flags, to as *mut libc::c_void);
                    // More than one mapping at a time only moves to places that nobody has a say in.
                    if c.cut == Cut::Across {
                        let e = result(p as i64);
                        return if e == libc::EFAULT {
                            self.look_away(cut, to);
                            Ok(end)
                        } else {
                            Err(format!("mremap of two: errno {e}"))
                        };
                    }
                    if p as u64 == to {
                        self.space.shift(cut.clone(), to);
                    }
                    self.look_away(cut, to);
                    result(p as i64)
                }
                Call::Duplicate => {
                    result(libc::mremap(at, 0, PAGE as usize, MREMAP_MAYMOVE) as i64)
                }
                Call::DontUnmap => {
                    const MREMAP_DONTUNMAP: i32 = 4;
                    let flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
                    let e = result(libc::mremap(at, len, len, flags, 0) as i64);
                    if c.cut == Cut::Across && e == libc::EFAULT {
                        want
                    } else {
                        e
                    }
                }
                Call::Advise(advice) => {
                    if advice == libc::MADV_DONTFORK {
                        self.space.keep_from_children(cut.clone());
                    }
                    result(libc::madvise(at, len, advice).into())
                }
                Call::ProcessAdvise(advice) => process_advise(at, len, advice),
                Call::Lock => result(libc::mlock(at, len).into()),
                Call::LockOnFault => result(libc::syscall(libc::SYS_mlock2, at, len, 1)),
                Call::Unlock => {
                    let first = result(libc::mlock(at, len).into());
                    first.max(result(libc::munlock(at, len).into()))
                }
                Call::Fork => self.fork()?,
                Call::ForkWithout => {
                    let e = result(libc::madvise(at, len, libc::MADV_DONTFORK).into());
                    self.space.keep_from_children(cut.clone());
                    e.max(self.fork()?)
                }
                Call::Replace => {
                    self.space.map(Area {
                        start: cut.start,
                        end: cut.end,
                        backing: Backing::Anonymous,
                        prot: RW,
                        may_write: true,
                        alive: true,
                        inherited: true,
                    });
                    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
                    let p = libc::mmap(at, len, RW, flags | libc::MAP_NORESERVE, -1, 0);
                    result(p as i64)
                }
                Call::RemapFilePages => {
                    let window = memory == Memory::Frames && c.kind == Kind::Direct;
                    let offset = self.layout.offset + if window { DIRECT_WINDOW } else { 0 };
                    let page = offset / PAGE;
                    let r = libc::syscall(libc::SYS_remap_file_pages, at, len, 0, page, 0);
                    if r == 0 {
                        self.space.show(cut.clone(), self.layout.offset, memory);
                    }
                    result(r)
                }
                Call::MsyncElsewhere => {
                    for part in self.on_device(cut) {
                        self.scene.ask(STORE, part)?;
                    }
                    0
                }
                Call::Msync => result(libc::msync(at, len, libc::MS_SYNC).into()),
                Call::Fsync => result(libc::fsync(self.scene.device.rw.as_raw_fd()).into()),
                Call::Prefault { write } => {
                    // Of small entries not too many.
                    let most = if self.scene.mode.made(c.kind, HUGE) == PAGE {
                        4 * HUGE
                    } else {
                        u64::MAX
                    };
                    let file = self.scene.file(c.kind);
                    let len = (cut.end - cut.start).min(most);
                    let done = uapi::prefault_at(file, cut.start as usize, len, u32::from(write));
                    if done.1 == 0 && done.0 != len {
                        return Err(format!("RPMEM_PREFAULT did {:#x} of {len:#x}", done.0));
                    }
                    done.1
                }
                Call::Mem { write } => self.mem(cut, write)?,
                Call::Ptrace => self.ptrace(cut)?,
                Call::ClearRefs(what) => write_errno("/proc/self/clear_refs", what),
                Call::Pagemap => self.pagemap(cut)?,
                Call::PagemapScan => self.pagemap_scan(cut)?,
                Call::Proc(path) => disk::errno(&std::fs::read(path)),
                Call::Mincore => {
                    let len = len.min(64 << 20);
                    let mut v = vec![0u8; len / PAGE as usize];
                    result(libc::mincore(at, len, v.as_mut_ptr()).into())
                }
                Call::Userfault { mode, features } => userfault(cut, mode, features)?,
                Call::Seal => {
                    end = End::Exit;
                    let e = result(libc::syscall(SYS_MSEAL, at, len, 0));
                    sealed(cut)?;
                    e
                }
                Call::Bind { flags } => {
                    const MPOL_BIND: i32 = 2;
                    let nodes = [1u64; 1];
                    let (nodes, bits) = (nodes.as_ptr(), u64::BITS);
                    result(libc::syscall(
                        libc::SYS_mbind,
                        at,
                        len,
                        MPOL_BIND,
                        nodes,
                        bits,
                        flags,
                    ))
                }
                Call::ThpDisable => {
                    result(libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0).into())
                }
                Call::CoreDump => {
                    end = End::CoreDump;
                    0
                }
                Call::Exec => {
                    end = End::Exec;
                    0
                }
                Call::Exit => {
                    end = End::Exit;
                    0
                }
                Call::Kill => {
                    end = End::Kill;
                    0
                }
                Call::Unbind => {
                    let h = &self.scene.device.here;
                    self.space.revoke();
                    write_errno("/sys/bus/nd/drivers/rpmem/unbind", &h.space.nd)
                }
                Call::ReadOnly => {
                    let h = &self.scene.device.here;
                    let disk = File::open(h.space.dev()).map_err(|e| e.to_string())?;
                    let mut on = 1i32;
                    disk::ioctl(&disk, BLKROSET, &mut on).map_err(|e| e.to_string())?;
                    self.space.revoke_writers();
                    self.check()?;
                    // For good.
                    on = 0;
                    disk::errno(&disk::ioctl(&disk, BLKROSET, &mut on))
                }
                Call::BadBlock => {
                    let h = &self.scene.device.here;
                    let bad = self.layout.device(cut.start);
                    let text = format!("{} 8", bad / 512);
                    let file = format!("/sys/block/{}/badblocks", h.space.disk);
                    // An entry that is there stays: nobody has told the driver.
                    let e = write_errno(&file, &text);
                    let all = self.layout.start..self.layout.next_end;
                    let size = (all.end - all.start) as usize;
                    if libc::munmap(all.start as *mut _, size) != 0 {
                        return Err(os("munmap"));
                    }
                    self.space.unmap(all);
                    self.map(c.kind)?;
                    self.space.bad = vec![bad];
                    e
                }
            }
        };
        if got != want {
            return Err(format!("errno {got}, must be {want}"));
        }
        Ok(end)
    }

    /// What was in a range is, or could be, at another place.
    pub(super) fn look_away(&mut self, range: &Range<u64>, to: u64) {
        let moved: Vec<u64> = self.inside(range).map(|at| at - range.start + to).collect();
        self.addresses.extend(moved);
        self.addresses.push(to + (range.end - range.start));
    }

    /// A child that has what it inherits looks at all of it.
    pub(super) fn fork(&self) -> Check<i32> {
        let child = in_child(|| {
            let work = Work {
                scene: self.scene,
                layout: self.layout,
                space: self.space.fork(),
                addresses: self.addresses.clone(),
            };
            work.check().map_err(|e| format!("in the child: {e}"))
        })?;
        wait(child).and_then(|status| match status {
            0 => Ok(0),
            s => Err(format!("the child ended with {s:#x}")),
        })
    }

    /// Loads or stores by /proc/self/mem; the first errno.
    pub(super) fn mem(&self, cut: &Range<u64>, write: bool) -> Check<i32> {
        let file = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let file = file.map_err(|e| format!("/proc/self/mem: {e}"))?;
        for at in self.inside(cut) {
            let Access::Device(page) = self.space.access(at, false) else {
                continue;
            };
            let Some(cell) = self.scene.board.value(page) else {
                continue;
            };
            if write {
                let value = self.scene.board.fresh(page);
                match disk::errno(&file.write_all_at(&value.to_le_bytes(), at)) {
                    0 => cell.store(value, SeqCst),
                    e => return Ok(e),
                }
                continue;
            }
            let mut b = [0; 8];
            match disk::errno(&file.read_exact_at(&mut b, at)) {
                0 => {}
                e => return Ok(e),
            }
            let (got, want) = (u64::from_le_bytes(b), cell.load(SeqCst));
            if got != want {
                return Err(format!("mem at {at:#x}: {got:#x}, must be {want:#x}"));
            }
        }
        Ok(0)
    }

    /// Looks into a child, and stores there; the first errno.
    pub(super) fn ptrace(&self, cut: &Range<u64>) -> Check<i32> {
        // SAFETY: a child that stops at once; the kernel checks addresses in it.
        unsafe {
            let child = in_child(|| {
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                libc::raise(libc::SIGSTOP);
                Ok(())
            })?;
            let status = wait(child)?;
            if !libc::WIFSTOPPED(status) {
                return Err(format!("the child did not stop: {status:#x}"));
            }
            let mut first = 0;
            for at in self.inside(cut) {
                let Access::Device(page) = self.space.access(at, false) else {
                    continue;
                };
                let Some(cell) = self.scene.board.value(page) else {
                    continue;
                };
                let got = libc::ptrace(libc::PTRACE_PEEKDATA, child, at, 0) as u64;
                if got != cell.load(SeqCst) {
                    return Err(os(&format!("peek at {at:#x}: {got:#x}")));
                }
                let value = self.scene.board.fresh(page);
                if libc::ptrace(libc::PTRACE_POKEDATA, child, at, value) == 0 {
                    cell.store(value, SeqCst);
                } else {
                    first = errno();
                    break;
                }
            }
            libc::kill(child, libc::SIGKILL);
            wait(child)?;
            Ok(first)
        }
    }

    /// Nothing in it says that there are pages, where there are none.
    pub(super) fn pagemap(&self, cut: &Range<u64>) -> Check<i32> {
        let file = File::open("/proc/self/pagemap").map_err(|e| e.to_string())?;
        let most = HUGE.min(cut.end - cut.start);
        let mut b = vec![0u8; (most / PAGE * 8) as usize];
        for at in [cut.start, cut.end - most] {
            let read = file.read_exact_at(&mut b, at / PAGE * 8);
            read.map_err(|e| format!("pagemap: {e}"))?;
            let present = b.chunks(8).any(|w| w[7] & 0x80 != 0);
            if present && self.scene.mode.memory == Memory::Frames {
                return Err("pagemap shows pages".into());
            }
        }
        Ok(0)
    }

    pub(super) fn pagemap_scan(&self, cut: &Range<u64>) -> Check<i32> {
        const PAGEMAP_SCAN: u64 = 0xc060_6610;
        const IS_PRESENT: u64 = 1 << 3;
        /// Of Linux 7.2, and PAGE_IS_ACCESSED of 7.3.
        const ALL: u64 = (1 << 9) - 1;
        const IS_ACCESSED: u64 = 1 << 9;
        let file = File::open("/proc/self/pagemap").map_err(|e| e.to_string())?;
        let scan = |all_of: u64, any_of: u64| {
            let mut regions = [0u64; 3 * 16];
            let mut argument = [0u64; 12];
            argument[0] = 96;
            argument[2] = cut.start;
            argument[3] = cut.end;
            argument[5] = regions.as_mut_ptr() as u64;
            argument[6] = 16;
            argument[9] = all_of;
            argument[10] = any_of;
            argument[11] = all_of | any_of;
            // SAFETY: an argument of that size, with room for 16 regions.
            unsafe { libc::ioctl(file.as_raw_fd(), PAGEMAP_SCAN as _, &mut argument) }
        };
        let mut any = scan(0, ALL | IS_ACCESSED);
        if any < 0 && errno() == libc::EINVAL {
            any = scan(0, ALL);
        }
        for r in [any, scan(IS_PRESENT, 0)] {
            if r < 0 {
                return Ok(errno());
            }
            if r > 0 && self.scene.mode.memory == Memory::Frames {
                return Err("PAGEMAP_SCAN shows pages".into());
            }
        }
        Ok(0)
    }
}

pub(super) fn expect(
    at: u64,
    what: &str,
    ok: bool,
    got: &dyn std::fmt::Debug,
    want: &str,
) -> Check {
    match ok {
        true => Ok(()),
        false => Err(format!("{what} at {at:#x}: {got:x?}, must be {want}")),
    }
}

pub(super) fn signalled(
    at: u64,
    what: &str,
    got: Result<(), Fault>,
    want: (i32, i32, i32),
) -> Check {
    let same = |f: &Fault| (f.signal, f.code, f.addr_lsb) == want && f.addr as u64 == at;
    let ok = got.as_ref().is_err_and(same);
    expect(at, what, ok, &got, &format!("signal {want:?}"))
}

pub(super) fn process_advise(at: *mut libc::c_void, len: usize, advice: i32) -> i32 {
    let io = libc::iovec {
        iov_base: at,
        iov_len: len,
    };
    // SAFETY: a vector of one; the pidfd is closed here.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        let r = libc::syscall(libc::SYS_process_madvise, fd, &io, 1, advice, 0);
        let e = result(r);
        libc::close(fd as i32);
        e
    }
}

/// Nothing takes a sealed range away, or changes it.
fn sealed(cut: &Range<u64>) -> Check {
    let (at, len) = (
        cut.start as *mut libc::c_void,
        (cut.end - cut.start) as usize,
    );
    let away = (cut.start + AWAY) as *mut libc::c_void;
    let anonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    let moves = MREMAP_MAYMOVE | MREMAP_FIXED;
    // Of several mappings, mremap would say that before.
    let page = PAGE as usize;
    // SAFETY: all of these act on `PLACE`, which nothing but the accesses of the test uses.
    let all = unsafe {
        [
            ("munmap", result(libc::munmap(at, len).into())),
            ("mprotect", result(libc::mprotect(at, len, 0).into())),
            (
                "mremap",
                result(libc::mremap(at, page, page, moves, away) as i64),
            ),
            (
                "mmap",
                result(libc::mmap(at, len, RW, anonymous, -1, 0) as i64),
            ),
        ]
    };
    for (what, e) in all {
        if e != libc::EPERM {
            return Err(format!("{what} of what is sealed: errno {e}"));
        }
    }
    Ok(())
}

/// A descriptor of userfaultfd with these features; those that there are.
fn userfault_open(features: u64) -> Check<(OwnedFd, u64)> {
    const UFFDIO_API: u64 = 0xc018_aa3f;
    // SAFETY: a new descriptor, and an argument of the size that the number says.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) as i32;
        if fd < 0 {
            return Err(os("userfaultfd"));
        }
        let fd = OwnedFd::from_raw_fd(fd);
        let mut api = [0xaau64, features, 0];
        if libc::ioctl(fd.as_raw_fd(), UFFDIO_API as _, &mut api) != 0 {
            return Err(os("UFFDIO_API"));
        }
        Ok((fd, api[1]))
    }
}

/// UFFDIO_REGISTER; its errno. Memory that has the mode if the kernel has it shows that the range is
/// what is refused.
pub(super) fn userfault(range: &Range<u64>, mode: u64, features: u64) -> Check<i32> {
    const UFFDIO_REGISTER: u64 = 0xc020_aa00;
    let (_, there) = userfault_open(0)?;
    let known = there & features == features;
    let (fd, _) = userfault_open(if known { features } else { 0 })?;
    let register = |start: u64, len: u64| {
        let mut register = [start, len, mode, 0];
        // SAFETY: an argument of the size that the number says.
        result(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER as _, &mut register).into() })
    };
    let shared = tools::anonymous(PAGE as usize).map_err(|e| format!("{e:?}"))?;
    let other = register(shared.as_ptr() as u64, PAGE);
    if (other == 0) != known {
        return Err(format!("shared memory: errno {other}, features {there:#x}"));
    }
    Ok(register(range.start, range.end - range.start))
}

pub(super) fn write_errno(path: &str, text: &str) -> i32 {
    disk::errno(&std::fs::write(path, text))
}
