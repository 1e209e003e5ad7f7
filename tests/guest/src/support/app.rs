// SPDX-License-Identifier: GPL-2.0
//! An application as a user of persistent memory writes it: maps a file, or the device itself, with
//! MAP_SYNC, stores, flushes the CPU caches, and calls neither msync nor fsync.

use crate::support::node::DIRECT_WINDOW;
use crate::support::sys::{self, Map};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
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
        ["read-into", device, disk] => read_into(device, disk),
        ["hold", device] => hold(device),
        _ => {
            eprintln!("usage: app write|write-and-wait|verify FILE BYTES");
            eprintln!("       app read-into DEVICE DISK");
            eprintln!("       app hold DEVICE");
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
    let device = std::fs::metadata(file).is_ok_and(|m| m.file_type().is_char_device());
    let f = File::options()
        .read(true)
        .write(true)
        .create(!device)
        .truncate(!device)
        .open(file)?;
    if !device {
        f.set_len(len as u64)?;
    }
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
        // CLOCK: until the power fails.
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Direct I/O into a mapping of the device: refused, as there are no pages to pin.
fn read_into(device: &str, disk: &str) -> io::Result<()> {
    let f = File::options().read(true).write(true).open(device)?;
    let map = Map::sync(&f, 0, 4096)?;
    let disk = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk)?;
    match crate::support::tools::pread_raw(&disk, map.as_ptr(), 4096, 0) {
        Err(e) if e.raw_os_error() == Some(libc::EFAULT) => {
            println!("O_DIRECT read into the mapping: EFAULT");
            Ok(())
        }
        other => Err(io::Error::other(format!("O_DIRECT read: {other:?}"))),
    }
}

/// Holds a direct mapping until the memory is wanted back, and lets go of it then.
fn hold(device: &str) -> io::Result<()> {
    let f = File::options().read(true).write(true).open(device)?;
    let map = Map::sync(&f, DIRECT_WINDOW, 4096)?;
    println!("{device}: mapped in the direct window");
    println!("ready");
    let mut poll = libc::pollfd {
        fd: f.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    while unsafe { libc::poll(&mut poll, 1, -1) } != 1 {}
    println!(
        "POLLPRI: the memory is wanted back; the mapping still works: {}",
        map.read8(0)
    );
    drop(map);
    println!("unmapped");
    Ok(())
}

fn verify(file: &str, len: usize) -> io::Result<()> {
    let data = if std::fs::metadata(file)?.file_type().is_char_device() {
        let f = File::options().read(true).write(true).open(file)?;
        Map::sync(&f, 0, len)?.slice().to_vec()
    } else {
        std::fs::read(file)?
    };
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
