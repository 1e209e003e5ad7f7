// SPDX-License-Identifier: GPL-2.0
//! What lib/ gives to applications, on a real device: the crate rpmem and its log, and the header for C.

use crate::log::{Error, Identity, Log};
use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::disk;
use crate::support::durable::{self, Medium};
use crate::support::memory::Faulty;
use crate::support::node::Node;
use crate::support::tools::{self, HUGE};
use crate::{check, check_eq, fail};
use rpmem::cache::Instruction;
use rpmem::{Device, LeaseState, Memory};
use std::os::unix::fs::FileExt;
use std::time::Duration;

pub const TESTS: &[Test] = crate::tests! {
    lib_lease => lease,
    lib_header => header,
    lib_counter => counter,
    lib_log => append,
    lib_log_cut => append_and_cut,
    lib_log_survives => survives,
    durable_log => durable_log,
    lib_log_refuses => refuses,
};

/// The lease, and the notice of its end: polled, and waited for.
fn lease(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    c.write(format!("{}/lease_break_time", h.sysfs), "-1")?;
    let device = Device::open(&h.path)?;
    let before = device.lease()?;
    check_eq!((before.state, before.holders), (LeaseState::Held, 0));
    check_eq!(before.left, Some(Duration::ZERO));
    let map = device.map_direct(0, HUGE)?;
    check_eq!(device.lease()?.holders, 1);
    // Nobody says anything.
    for timeout in [Duration::ZERO, Duration::from_millis(1)] {
        check_eq!(device.wait_for_notice(Some(timeout))?, None);
    }
    let unbinding = tools::unbind_beside(h.space.nd.clone());
    let Some(notice) = device.wait_for_notice(None)? else {
        fail!("no notice, and no end of waiting")
    };
    check_eq!(notice.state, LeaseState::Remove, "{notice:?}");
    check_eq!((notice.left, notice.holders), (None, 1), "{notice:?}");
    check_eq!(notice.breaks, before.breaks + 1, "{notice:?}");
    // It works on, until it is given back.
    map.store(0, b"to the end");
    map.persist(0, 10);
    drop(map);
    check!(unbinding.join().unwrap_or(false), "unbind");
    let Some(end) = device.wait_for_notice(Some(Duration::ZERO))? else {
        fail!("no notice of the end")
    };
    check_eq!(end.state, LeaseState::Broken, "{end:?}");
    drop(device);
    h.space.bind(c)?;
    c.wait_exists(&h.path)
}

/// Where the C program of tests/guest/c copies to, and where the crate does; how long it is.
const C: u64 = 0;
const RUST: u64 = 8 << 20;
const COPIES: usize = 8 << 20;

/// The functions of C and those of the crate do the same to the same bytes, with the same instruction.
fn header(c: &mut Ctx) -> TestResult {
    const LENGTHS: [usize; 12] = [0, 1, 7, 8, 63, 64, 65, 255, 256, 257, 1000, 70_000];
    let h = Node::nth(c, 0)?;
    let device = Device::open(&h.path)?;
    let map = device.map(RUST, COPIES)?;
    let mut want = vec![0; COPIES];
    map.copy_from_slice(0, &want);
    let places = LENGTHS
        .iter()
        .flat_map(|len| [0, 1, 8, 63].map(|at| (*len, at)));
    for (slot, (len, at)) in places.enumerate() {
        let to = (slot << 17) + at;
        let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + slot) as u8).collect();
        map.copy_from_slice(to, &bytes);
        want[to..to + len].copy_from_slice(&bytes);
    }
    map.drain();
    // It has memory of its own, copies to it, and compares with this.
    let out = c.ok(&["rpmem-persist", &h.path])?;
    check_eq!(out.trim(), Instruction::best().name());
    drop((map, device));
    let dev = disk::direct(&h.space.dev())?;
    for (who, at) in [("C", C), ("the crate", RUST)] {
        let mut buf = disk::Buf::page(COPIES);
        dev.read_exact_at(buf.bytes_mut(), at)?;
        check!(buf.bytes() == want, "what {who} has copied, on the disk");
    }
    Ok(())
}

/// The example for C, lib/c/counter.c.
fn counter(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    tools::file_of("/tmp/file", 4096)?;
    c.fails(&["rpmem-counter", "/tmp/file"])?;
    // An unmounted ext4 begins with zeroes.
    c.mkfs("ext4", &h.space.dev())?;
    c.fails(&["rpmem-counter", &h.path])?;
    c.ok(&["fsck.ext4", "-n", "-f", &h.space.dev()])?;
    c.ok(&["rpmem-counter", &h.path, "--create"])?;
    for want in ["1", "2", "3"] {
        check_eq!(c.ok(&["rpmem-counter", &h.path])?.trim(), want);
    }
    Ok(())
}

/// Where the log is, and how long.
const LOG: u64 = 32 << 20;
const LEN: usize = 1 << 20;
const IDENTITY: Identity = *b"the log of t_lib";
const RECORDS: usize = 200;

fn record(n: usize) -> Vec<u8> {
    (0..n * 37 % 3000).map(|k| (n * 31 + k) as u8).collect()
}

/// The log, by the mapping that the device has for it.
fn log_memory(device: &Device) -> TestResult<Box<dyn Memory>> {
    Ok(match device.info()?.synchronous {
        true => Box::new(device.map(LOG, LEN)?),
        false => Box::new(device.map_plain(LOG, LEN)?),
    })
}

/// Records that are acknowledged, and one that is not: its flush is left out. Then `end`, with the device
/// open: closing it would make that one durable as well.
fn append_until(c: &Ctx, end: impl FnOnce(&Ctx) -> TestResult) -> TestResult {
    let h = Node::nth(c, 0)?;
    let device = Device::open(&h.path)?;
    let memory = log_memory(&device)?;
    let memory = Faulty::new(&*memory);
    check!(
        matches!(Log::open(&memory, |_| {}), Err(Error::NotALog)),
        "a log, before there is one"
    );
    let mut log = Log::format(&memory, IDENTITY)?;
    for n in 0..RECORDS {
        log.append(&record(n))?;
    }
    memory.flushes.set(false);
    memory.drains.set(false);
    log.append(&record(RECORDS))?;
    end(c)
}

fn append(c: &mut Ctx) -> TestResult {
    append_until(c, |_| Ok(()))
}

/// What the log acknowledges is durable, by cache line: the header, and each record as a whole.
fn durable_log(c: &mut Ctx) -> TestResult {
    /// Of the format: the header, where records begin, and what each has before its data.
    const HEADER: u64 = 56;
    const FIRST: u64 = 128;
    const HEAD: usize = 16;
    let h = Node::nth(c, 0)?;
    let start = Medium::of(c, &h.space)?.start;
    let device = Device::open(&h.path)?;
    for n in 0..3 {
        let at = LOG + n * LEN as u64;
        let (memory, kind): (Box<dyn Memory>, _) = match n {
            0 => (Box::new(device.map(at, LEN)?), "synchronous"),
            1 => (Box::new(device.map_direct(at, LEN)?), "direct"),
            _ => (Box::new(device.map_plain(at, LEN)?), "plain"),
        };
        let what = |what| format!("{what}; its return; the log of lib/rpmem, {kind} mapping");
        let mut log = Log::format(&*memory, IDENTITY)?;
        durable::claim_fenced(&what("format()"), start + at, HEADER);
        let mut end = FIRST;
        for n in 0..RECORDS {
            let data = record(n);
            log.append(&data)?;
            let len = (HEAD + data.len()).next_multiple_of(8) as u64;
            durable::claim_fenced(&what("append()"), start + at + end, len);
            end += len;
        }
    }
    Ok(())
}

fn append_and_cut(c: &mut Ctx) -> TestResult {
    append_until(c, Ctx::power_cut)
}

/// After the next boot.
fn survives(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let device = Device::open(&h.path)?;
    let memory = log_memory(&device)?;
    let replay = || -> TestResult<(usize, Log<&dyn Memory>)> {
        let mut found = 0;
        let mut wrong = None;
        let log = Log::open(&*memory, |bytes| {
            if bytes != record(found) {
                wrong.get_or_insert(found);
            }
            found += 1;
        })?;
        check_eq!(wrong, None, "a record");
        Ok((found, log))
    };
    let (found, mut log) = replay()?;
    // A host that loses what was not flushed has lost the last one; a file of QEMU has not.
    let lossy = !device.info()?.synchronous;
    println!("result: {found} records of {RECORDS} acknowledged and one that was not");
    check_eq!(found, RECORDS + usize::from(!lossy));
    check_eq!(log.identity(), IDENTITY);
    log.append(&record(found))?;
    check_eq!(replay()?.0, found + 1, "after another one");
    Ok(())
}

/// What is not a log of ours is left alone: a file system above all.
fn refuses(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let refused = |want: &str| -> TestResult {
        let device = Device::open(&h.path)?;
        let map = device.map(0, LEN)?;
        let mut before = vec![0; LEN];
        map.load(0, &mut before);
        let got = match Log::open(&map, |_| {}) {
            Ok(_) => fail!("it is taken for a log, and is {want}"),
            Err(err) => format!("{err:?}"),
        };
        check_eq!(got, want);
        let mut after = vec![0; LEN];
        map.load(0, &mut after);
        check!(before == after, "it was written to");
        Ok(())
    };
    c.mkfs("ext4", &h.space.dev())?;
    refused("NotALog")?;
    c.ok(&["fsck.ext4", "-n", "-f", &h.space.dev()])?;
    let device = Device::open(&h.path)?;
    let map = device.map(0, LEN)?;
    // Told to, it does it.
    Log::format(&map, IDENTITY)?;
    Log::open(&map, |_| {})?;
    map.store(8, &[7]);
    drop((map, device));
    refused("Version(7)")
}

impl From<Error> for Outcome {
    fn from(err: Error) -> Self {
        Outcome::Fail(err.to_string())
    }
}
