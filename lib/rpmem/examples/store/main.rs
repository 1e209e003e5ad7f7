// SPDX-License-Identifier: MIT OR Apache-2.0
//! A key-value store on persistent memory: `store DEVICE [--format | KEY [VALUE] | --remove KEY]` makes an empty one,
//! shows or sets a value, removes it, or shows all of them.

mod store;

use rpmem::{Device, Memory};
use std::error::Error;
use std::fs::File;
use std::io::Read;
use store::Store;

/// Bytes of the store.
const SIZE: u64 = 1 << 20;

fn run(memory: impl Memory, args: &[&str]) -> Result<(), Box<dyn Error>> {
    if args == ["--format"] {
        let mut identity = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut identity)?;
        Store::format(memory, identity)?;
        return Ok(());
    }
    let mut store = Store::open(memory)?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match *args {
        [] => store
            .iter()
            .for_each(|(key, value)| println!("{}={}", text(key), text(value))),
        ["--remove", key] => drop(store.remove(key.as_bytes())?),
        [key] => match store.get(key.as_bytes()) {
            Some(value) => println!("{}", text(value)),
            None => return Err(format!("no {key}").into()),
        },
        [key, value] => store.put(key.as_bytes(), value.as_bytes())?,
        _ => return Err("usage: store DEVICE [--format | KEY [VALUE] | --remove KEY]".into()),
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((path, args)) = args.split_first() else {
        return Err("usage: store DEVICE [--format | KEY [VALUE] | --remove KEY]".into());
    };
    let device = Device::open(path)?;
    let info = device.info()?;
    let size = info.size.min(SIZE) as usize;
    if info.synchronous {
        run(device.map(0, size)?, args)
    } else {
        run(device.map_plain(0, size)?, args)
    }
    .map_err(|err| format!("{path}: {err}").into())
}
