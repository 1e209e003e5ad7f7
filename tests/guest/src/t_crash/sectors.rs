// SPDX-License-Identifier: GPL-2.0
//! Sectors of a BTT: each write that was acknowledged is there, and no sector is torn.

use super::{named, range, record, space};
use crate::check;
use crate::support::crash;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf, Rng};
use crate::support::sys;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    crash_record_sectors => record_sectors,
    crash_sectors => sectors,
};

const SIZES: [usize; 2] = [512, 4096];
/// Sectors that are written to, over and over.
const SECTORS: u64 = 48;

/// First sector, how many.
fn write_of(c: &Ctx, n: u64) -> (u64, u64) {
    let mut rng = Rng((c.seed ^ ((n + 1) << 20)) | 1);
    let (first, count) = (rng.below(SECTORS), 1 + rng.below(4));
    (first, count.min(SECTORS - first))
}

/// What the sector holds after the write with this number.
fn sector(n: u64, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    sys::pattern(1 + n * SECTORS + at, &mut bytes);
    bytes
}

fn record_sectors(c: &mut Ctx) -> TestResult {
    for size in SIZES {
        let name = format!("sectors-{size}");
        let space = space(c, &name)?;
        let dev = disk::open_flags(&space.dev(), libc::O_DIRECT | libc::O_SYNC)?;
        record(c, &name, range(c, &named(c, &name)?)?, |recording| {
            for n in 0..c.rounds(60, 400) {
                let (first, count) = write_of(c, n);
                let mut buf = Buf::page(size * count as usize);
                for at in 0..count {
                    let to = at as usize * size;
                    let bytes = sector(n, first + at, size);
                    buf.bytes_mut()[to..to + size].copy_from_slice(&bytes);
                }
                dev.write_all_at(buf.bytes(), first * size as u64)?;
                recording.acknowledged(&format!("{n}"));
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn sectors(c: &mut Ctx) -> TestResult {
    for size in SIZES {
        let name = format!("sectors-{size}");
        let space = space(c, &name)?;
        let (phys, len) = range(c, &named(c, &name)?)?;
        space.unbind(c)?;
        let all = crash::explore(c, &name, phys, len, |_, acknowledged| {
            let done = acknowledged.len() as u64;
            let mut want: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for n in 0..done {
                let (first, count) = write_of(c, n);
                for at in first..first + count {
                    want.insert(at, sector(n, at, size));
                }
            }
            let (first, count) = write_of(c, done);
            space.bind(c)?;
            let look = || -> TestResult {
                let dev = disk::direct(&space.dev())?;
                let mut buf = Buf::page(size * SECTORS as usize);
                dev.read_exact_at(buf.bytes_mut(), 0)?;
                for (at, found) in buf.bytes().chunks(size).enumerate() {
                    let at = at as u64;
                    let is = match want.get(&at) {
                        Some(want) => found == want,
                        None => found.iter().all(|b| *b == 0),
                    };
                    let next = (first..first + count).contains(&at);
                    let is_next = next && found == sector(done, at, size);
                    check!(is || is_next, "sector {at}");
                }
                Ok(())
            };
            let looked = look();
            space.unbind(c)?;
            looked
        })?;
        all.is_right()?;
        space.bind(c)?;
    }
    Ok(())
}
