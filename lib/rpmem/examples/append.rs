// SPDX-License-Identifier: MIT OR Apache-2.0
//! A log on persistent memory that a power cut cannot tear: `append DEVICE [TEXT]`.
//!
//! The first eight bytes are the length of what follows. A record is durable before the length that
//! covers it is stored, and a length is stored at once.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (path, text) = match args.as_slice() {
        [path] => (path, None),
        [path, text] => (path, Some(text)),
        _ => {
            eprintln!("usage: append DEVICE [TEXT]");
            std::process::exit(2);
        }
    };
    let device = rpmem::Device::open(path)?;
    let size = device.info()?.size.min(1 << 20) as usize;
    let map = device.map(0, size)?;

    let used = map.load_u64(0) as usize;
    if used > size - 8 {
        eprintln!("{path} holds no log; its first bytes have to be zero");
        std::process::exit(1);
    }
    if let Some(text) = text {
        let record = format!("{text}\n");
        if record.len() > size - 8 - used {
            eprintln!("the log is full");
            std::process::exit(1);
        }
        map.store(8 + used, record.as_bytes());
        map.persist(8 + used, record.len());
        map.store_u64(0, (used + record.len()) as u64);
        map.persist(0, 8);
    }
    let mut log = vec![0; map.load_u64(0) as usize];
    map.load(8, &mut log);
    io::stdout().write_all(&log)
}
