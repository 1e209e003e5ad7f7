// SPDX-License-Identifier: GPL-2.0
//! Operations on files, each of which is durable when it is over; what a file system holds after them; and what it
//! may hold of one that was not over.

use crate::support::ctx::TestResult;
use crate::support::disk::{Buf, Rng};
use crate::support::sys::{self, Map};
use crate::support::tools;
use crate::{check, check_eq, fail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Names in the file system, with what is in the files.
pub type Model = BTreeMap<String, Vec<u8>>;

const NAMES: [&str; 7] = ["a", "b", "c", "d/a", "d/b", "e/a", "e/b"];
const DIRECTORIES: [&str; 2] = ["d", "e"];
/// Bytes of a file, at most.
const LEN: u64 = 24 << 10;

/// How bytes get to a file, and what makes them durable.
#[derive(Clone, Copy, Debug)]
pub enum How {
    Fsync,
    Fdatasync,
    Dsync,
    DirectDsync,
    /// A shared mapping; msync(2).
    Mapping,
    /// MAP_SYNC; clwb, sfence.
    Synchronous,
}

#[derive(Clone, Debug)]
pub enum Op {
    Create(&'static str, u64),
    Write(&'static str, u64, u64, How),
    Truncate(&'static str, u64),
    /// Blocks for this range, beyond the end as well.
    Allocate(&'static str, u64, u64),
    Zero(&'static str, u64, u64),
    Punch(&'static str, u64, u64),
    Rename(&'static str, &'static str),
    Remove(&'static str),
}

/// So many, each of which can be done after those before it.
pub fn operations(seed: u64, n: u64) -> Vec<Op> {
    let mut rng = Rng(seed ^ 0xc4a5_4000 | 1);
    let mut model = Model::new();
    let mut all = Vec::new();
    for n in 0..n {
        let name = NAMES[rng.below(NAMES.len() as u64) as usize];
        let other = NAMES[rng.below(NAMES.len() as u64) as usize];
        let (at, len) = (rng.below(LEN / 2), 1 + rng.below(LEN / 2));
        let size = model.get(name).map(|bytes| bytes.len() as u64);
        let op = match (size, rng.below(16)) {
            (None, _) => Op::Create(name, rng.below(LEN)),
            (Some(_), 0) => Op::Remove(name),
            (Some(_), 1 | 2) if name != other => Op::Rename(name, other),
            (Some(_), 3) => Op::Truncate(name, rng.below(LEN)),
            (Some(_), 4) => Op::Allocate(name, at, len),
            (Some(_), 5) => Op::Zero(name, at, len),
            (Some(_), 6) => Op::Punch(name, at, len),
            (Some(size), kind) => match kind % 6 {
                0 => Op::Write(name, at, len, How::Fsync),
                1 => Op::Write(name, at, len, How::Fdatasync),
                2 => Op::Write(name, at, len, How::Dsync),
                3 => {
                    let (at, len) = (at / 512 * 512, len.next_multiple_of(512));
                    Op::Write(name, at, len, How::DirectDsync)
                }
                kind if size > 1 => {
                    let at = at % (size - 1);
                    let how = if kind == 4 {
                        How::Mapping
                    } else {
                        How::Synchronous
                    };
                    Op::Write(name, at, len.min(size - at), how)
                }
                _ => Op::Write(name, at, len, How::Fsync),
            },
        };
        op.apply(&mut model, n);
        all.push(op);
    }
    all
}

/// The directories; they are durable then.
pub fn prepare(root: &str) -> TestResult {
    for name in DIRECTORIES {
        fs::create_dir(format!("{root}/{name}"))?;
    }
    Ok(File::open(root)?.sync_all()?)
}

fn bytes(n: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    sys::pattern(n + 1, &mut bytes);
    bytes
}

fn sync_directory(path: &str) -> TestResult {
    let (directory, _) = path.rsplit_once('/').unwrap_or((path, ""));
    Ok(File::open(directory)?.sync_all()?)
}

fn allocate(f: &File, mode: i32, at: u64, len: u64) -> TestResult {
    // SAFETY: an open file.
    let r = unsafe { libc::fallocate(f.as_raw_fd(), mode, at as i64, len as i64) };
    check_eq!(r, 0, "fallocate: {}", io::Error::last_os_error());
    Ok(f.sync_all()?)
}

/// Makes room up to `end`.
fn grow(file: &mut Vec<u8>, end: u64) {
    file.resize(file.len().max(end as usize), 0);
}

fn put(file: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let end = at as usize + bytes.len();
    grow(file, end as u64);
    file[at as usize..end].copy_from_slice(bytes);
}

impl Op {
    /// Does it; when this returns it is durable.
    pub fn run(&self, root: &str, n: u64) -> TestResult {
        let path = |name: &str| format!("{root}/{name}");
        let open = |name: &str, flags| tools::open_flags(path(name), flags);
        match *self {
            Op::Create(name, len) => {
                let f = File::create_new(path(name))?;
                f.write_all_at(&bytes(n, len), 0)?;
                f.sync_all()?;
                sync_directory(&path(name))
            }
            Op::Write(name, at, len, how) => write(&open(name, flags_of(how))?, n, at, len, how),
            Op::Truncate(name, len) => {
                let f = open(name, 0)?;
                f.set_len(len)?;
                Ok(f.sync_all()?)
            }
            Op::Allocate(name, at, len) => allocate(&open(name, 0)?, 0, at, len),
            Op::Zero(name, at, len) => {
                allocate(&open(name, 0)?, libc::FALLOC_FL_ZERO_RANGE, at, len)
            }
            Op::Punch(name, at, len) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                allocate(&open(name, 0)?, mode, at, len)
            }
            Op::Rename(from, to) => {
                fs::rename(path(from), path(to))?;
                sync_directory(&path(from))?;
                sync_directory(&path(to))
            }
            Op::Remove(name) => {
                fs::remove_file(path(name))?;
                sync_directory(&path(name))
            }
        }
    }

    pub fn apply(&self, model: &mut Model, n: u64) {
        let zero = |file: &mut Vec<u8>, at: u64, len: u64| {
            let end = file.len().min((at + len) as usize);
            if let Some(range) = file.get_mut(at as usize..end) {
                range.fill(0);
            }
        };
        match *self {
            Op::Create(name, len) => drop(model.insert(name.into(), bytes(n, len))),
            Op::Write(name, at, len, _) => {
                put(model.entry(name.into()).or_default(), at, &bytes(n, len))
            }
            Op::Truncate(name, len) => model
                .entry(name.into())
                .or_default()
                .resize(len as usize, 0),
            Op::Allocate(name, at, len) => grow(model.entry(name.into()).or_default(), at + len),
            Op::Zero(name, at, len) => {
                let file = model.entry(name.into()).or_default();
                grow(file, at + len);
                zero(file, at, len);
            }
            Op::Punch(name, at, len) => zero(model.entry(name.into()).or_default(), at, len),
            Op::Rename(from, to) => {
                let file = model.remove(from).unwrap_or_default();
                model.insert(to.into(), file);
            }
            Op::Remove(name) => drop(model.remove(name)),
        }
    }

    /// The one file that it changes, if it is no change of names.
    fn name(&self) -> Option<&'static str> {
        match *self {
            Op::Rename(..) => None,
            Op::Create(name, _)
            | Op::Write(name, ..)
            | Op::Truncate(name, _)
            | Op::Allocate(name, ..)
            | Op::Zero(name, ..)
            | Op::Punch(name, ..)
            | Op::Remove(name) => Some(name),
        }
    }

    /// Whether this may be there when it was begun and not acknowledged.
    pub fn check_begun(&self, before: &Model, found: &Model, n: u64) -> TestResult {
        let mut after = before.clone();
        self.apply(&mut after, n);
        let Some(name) = self.name() else {
            let is = found == before || *found == after;
            check!(is, "{self:?}: {}", difference(before, found));
            return Ok(());
        };
        let others = |model: &Model| {
            let mut model = model.clone();
            model.remove(name);
            model
        };
        let (rest, want) = (others(found), others(before));
        check!(rest == want, "{self:?}: {}", difference(&want, &rest));
        let (old, new) = (before.get(name), after.get(name));
        let Some(file) = found.get(name) else {
            check!(old.is_none() || new.is_none(), "{self:?}: {name} is gone");
            return Ok(());
        };
        if new.is_none() {
            check!(Some(file) == old, "{self:?}: {name} has changed");
            return Ok(());
        }
        let empty = Vec::new();
        let (old, new) = (old.unwrap_or(&empty), new.unwrap_or(&empty));
        let sizes = old.len().min(new.len())..=old.len().max(new.len());
        check!(
            sizes.contains(&file.len()),
            "{self:?}: {} bytes",
            file.len()
        );
        let of = |model: &[u8], at: usize| model.get(at).copied().unwrap_or(0);
        for (at, byte) in file.iter().enumerate() {
            if *byte != of(old, at) && *byte != of(new, at) {
                fail!("{self:?}: {name} has {byte:#x} at {at:#x}");
            }
        }
        Ok(())
    }
}

fn flags_of(how: How) -> i32 {
    match how {
        How::Dsync => libc::O_DSYNC,
        How::DirectDsync => libc::O_DSYNC | libc::O_DIRECT,
        _ => 0,
    }
}

fn write(f: &File, n: u64, at: u64, len: u64, how: How) -> TestResult {
    let bytes = bytes(n, len);
    match how {
        How::Mapping | How::Synchronous => {
            let size = f.metadata()?.len() as usize;
            let mut map = match how {
                How::Mapping => Map::shared(f, 0, size)?,
                _ => Map::sync(f, 0, size)?,
            };
            let (at, len) = (at as usize, len as usize);
            map.slice_mut()[at..at + len].copy_from_slice(&bytes);
            match how {
                How::Mapping => map.msync()?,
                _ => drop(map.persist(at, len)),
            }
        }
        _ => {
            let mut buf = Buf::page(bytes.len());
            buf.bytes_mut().copy_from_slice(&bytes);
            f.write_all_at(buf.bytes(), at)?;
        }
    }
    match how {
        How::Fsync => Ok(f.sync_all()?),
        How::Fdatasync => Ok(f.sync_data()?),
        _ => Ok(()),
    }
}

/// All files there are.
pub fn found(root: &str) -> TestResult<Model> {
    let mut all = Model::new();
    for directory in ["", "d/", "e/"] {
        for entry in fs::read_dir(format!("{root}/{directory}"))? {
            let entry = entry?;
            let name = format!("{directory}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_file() {
                all.insert(name, fs::read(entry.path())?);
            } else {
                let ours = DIRECTORIES.contains(&name.as_str()) || name == "lost+found";
                check!(ours, "a directory {name}");
            }
        }
    }
    Ok(all)
}

/// The first one, in words.
pub fn difference(want: &Model, found: &Model) -> String {
    for (name, want) in want {
        let Some(found) = found.get(name) else {
            return format!("{name} is not there");
        };
        if found.len() != want.len() {
            return format!("{name} has {} bytes of {}", found.len(), want.len());
        }
        if let Some(at) = (0..want.len()).find(|at| want[*at] != found[*at]) {
            return format!(
                "{name} has {:#x} at {at:#x}, not {:#x}",
                found[at], want[at]
            );
        }
    }
    let more = found.keys().find(|name| !want.contains_key(*name));
    more.map_or("nothing".into(), |name| format!("{name} is there"))
}
