// SPDX-License-Identifier: MIT OR Apache-2.0
//! A log on persistent memory: `append DEVICE [--format | TEXT]` makes an empty one, appends a line, or
//! shows the lines.

#[cfg(test)]
mod crash;
mod log;

use log::Log;
use rpmem::{Device, Memory};
use std::error::Error;
use std::fs::File;
use std::io::Read;

/// Bytes of the log.
const SIZE: u64 = 1 << 20;

fn run(memory: impl Memory, what: Option<&str>) -> Result<(), Box<dyn Error>> {
    if what == Some("--format") {
        let mut identity = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut identity)?;
        Log::format(memory, identity)?;
        return Ok(());
    }
    let show = |line: &[u8]| println!("{}", String::from_utf8_lossy(line));
    match what {
        None => {
            let log = Log::open(memory, show)?;
            eprintln!("log {:032x}", u128::from_be_bytes(log.identity()));
        }
        Some(line) => Log::open(memory, |_| {})?.append(line.as_bytes())?,
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (path, what) = match args.as_slice() {
        [path] => (path, None),
        [path, what] => (path, Some(what.as_str())),
        _ => return Err("usage: append DEVICE [--format | TEXT]".into()),
    };
    let device = Device::open(path)?;
    let info = device.info()?;
    let size = info.size.min(SIZE) as usize;
    if info.synchronous {
        run(device.map(0, size)?, what)
    } else {
        run(device.map_plain(0, size)?, what)
    }
    .map_err(|err| format!("{path}: {err}").into())
}
