// SPDX-License-Identifier: GPL-2.0
//! An application as a user of persistent memory writes it: maps a file with MAP_SYNC, stores,
//! flushes the CPU caches, and calls neither msync nor fsync.

use crate::sys::{self, Map};
use std::fs::File;
use std::io;
use std::time::Duration;

pub const SEED: u64 = 0x72706d656d;

pub fn main(args: &[&str]) -> i32 {
    let r = match args {
        ["write", file, size] => size
            .parse()
            .map_err(io::Error::other)
            .and_then(|n| write(file, n)),
        ["write-and-wait", file, size] => size
            .parse()
            .map_err(io::Error::other)
            .and_then(|n| write_and_wait(file, n)),
        ["verify", file, size] => size
            .parse()
            .map_err(io::Error::other)
            .and_then(|n| verify(file, n)),
        _ => {
            eprintln!("usage: app write|write-and-wait|verify FILE BYTES");
            return 2;
        }
    };
    match r {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("app: {e}");
            1
        }
    }
}

fn map_and_store(file: &str, len: usize) -> io::Result<(File, Map)> {
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)?;
    f.set_len(len as u64)?;
    let mut m = Map::sync(&f, 0, len)?;
    println!("{file}: {len} bytes mapped with MAP_SHARED_VALIDATE | MAP_SYNC");
    sys::pattern(SEED, m.slice_mut());
    let how = m.persist(0, len);
    println!(
        "stored, flushed with {} and sfence; no msync, no fsync",
        how.name()
    );
    Ok((f, m))
}

fn write(file: &str, len: usize) -> io::Result<()> {
    map_and_store(file, len).map(|_| ())
}

/// Keeps the file open and mapped, as it is when the power fails.
fn write_and_wait(file: &str, len: usize) -> io::Result<()> {
    let _held = map_and_store(file, len)?;
    println!("ready");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn verify(file: &str, len: usize) -> io::Result<()> {
    let data = std::fs::read(file)?;
    if data.len() != len {
        return Err(io::Error::other(format!(
            "{file}: {} bytes, must be {len}",
            data.len()
        )));
    }
    match sys::pattern_differs(SEED, &data) {
        None => {
            println!("{file}: all {len} bytes are what the application stored");
            Ok(())
        }
        Some(at) => Err(io::Error::other(format!(
            "{file}: byte {at} of {len} differs"
        ))),
    }
}
