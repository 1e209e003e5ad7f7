// SPDX-License-Identifier: GPL-2.0
//! Disks under test: O_DIRECT, buffers of a chosen alignment, ioctls, repeatable contents.

use crate::support::ctx::{Ctx, Outcome, TestResult};
use crate::support::durable;
use crate::support::sys;
pub use crate::support::sys::PAGE;
use crate::{check, check_eq};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

pub const MIB: u64 = 1 << 20;

pub const BLKROSET: u64 = 0x125d;
pub const BLKROGET: u64 = 0x125e;
pub const BLKRRPART: u64 = 0x125f;
pub const BLKFLSBUF: u64 = 0x1261;
pub const BLKSSZGET: u64 = 0x1268;
pub const BLKPBSZGET: u64 = 0x127b;
pub const BLKDISCARD: u64 = 0x1277;
pub const BLKZEROOUT: u64 = 0x127f;
pub const BLKGETSIZE64: u64 = 0x8008_1272;

/// Memory that begins `shift` bytes after the start of a page.
pub struct Buf {
    mem: Vec<u8>,
    at: usize,
    len: usize,
}

impl Buf {
    pub fn new(len: usize, shift: usize) -> Buf {
        let mem = vec![0; len + shift + PAGE];
        let at = mem.as_ptr().align_offset(PAGE) + shift;
        Buf { mem, at, len }
    }

    pub fn page(len: usize) -> Buf {
        Buf::new(len, 0)
    }

    pub fn pattern(len: usize, seed: u64) -> Buf {
        let mut b = Buf::page(len);
        sys::pattern(seed, b.bytes_mut());
        b
    }

    pub fn bytes(&self) -> &[u8] {
        &self.mem[self.at..self.at + self.len]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.mem[self.at..self.at + self.len]
    }
}

/// xorshift64*: repeatable choices.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

pub fn open(path: &str) -> TestResult<File> {
    open_flags(path, 0)
}

pub fn direct(path: &str) -> TestResult<File> {
    open_flags(path, libc::O_DIRECT)
}

pub fn open_flags(path: &str, flags: i32) -> TestResult<File> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|e| Outcome::Fail(format!("open {path}: {e}")))
}

/// An ioctl whose argument is a pointer to `arg`.
pub fn ioctl<T>(f: &File, request: u64, arg: &mut T) -> io::Result<()> {
    // SAFETY: every request of this file takes a pointer to the type that its callers pass.
    match unsafe {
        libc::ioctl(
            f.as_raw_fd(),
            request as libc::Ioctl,
            std::ptr::from_mut(arg),
        )
    } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Errno of a failure; 0 if it was none.
pub fn errno<T>(r: &io::Result<T>) -> i32 {
    match r {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

pub fn size(f: &File) -> TestResult<u64> {
    let mut n = 0u64;
    ioctl(f, BLKGETSIZE64, &mut n)?;
    Ok(n)
}

/// Write back and forget what the page cache has of the device.
pub fn drop_cache(f: &File) -> TestResult {
    f.sync_all()?;
    ioctl(f, BLKFLSBUF, &mut 0u64)?;
    Ok(())
}

/// Fill `len` bytes at `offset` with contents that are different for each MiB.
pub fn fill(f: &File, seed: u64, offset: u64, len: u64) -> TestResult {
    let mut b = Buf::page(MIB as usize);
    let mut at = 0;
    while at < len {
        let n = (len - at).min(MIB) as usize;
        sys::pattern(seed + at / MIB, &mut b.bytes_mut()[..n]);
        f.write_all_at(&b.bytes()[..n], offset + at)?;
        at += n as u64;
    }
    Ok(())
}

/// What `fill` wrote must be there.
pub fn verify(f: &File, seed: u64, offset: u64, len: u64) -> TestResult {
    let mut b = Buf::page(MIB as usize);
    let mut at = 0;
    while at < len {
        let n = (len - at).min(MIB) as usize;
        f.read_exact_at(&mut b.bytes_mut()[..n], offset + at)?;
        if let Some(bad) = sys::pattern_differs(seed + at / MIB, &b.bytes()[..n]) {
            crate::fail!(
                "byte {:#x} differs from what was written",
                offset + at + bad as u64
            );
        }
        at += n as u64;
    }
    Ok(())
}

/// Marks at both ends and in the middle of a disk: written once, looked for again and again.
pub struct Marks {
    pub seed: u64,
    len: u64,
}

impl Marks {
    pub fn new(seed: u64) -> Marks {
        Marks {
            seed,
            len: 256 << 10,
        }
    }

    fn places(&self, size: u64) -> [u64; 3] {
        [0, size / 2 / MIB * MIB, size - self.len]
    }

    pub fn write(&self, dev: &str) -> TestResult {
        let f = direct(dev)?;
        for (i, at) in self.places(size(&f)?).iter().enumerate() {
            fill(&f, self.seed + 1000 * i as u64, *at, self.len)?;
        }
        f.sync_all()?;
        for at in self.places(size(&f)?) {
            durable::written(&f, at, self.len, "fsync(2)")?;
        }
        Ok(())
    }

    pub fn check(&self, dev: &str) -> TestResult {
        let f = direct(dev)?;
        for (i, at) in self.places(size(&f)?).iter().enumerate() {
            verify(&f, self.seed + 1000 * i as u64, *at, self.len)?;
        }
        Ok(())
    }
}

/// Where a byte of a file is on its disk.
pub fn block_of(f: &File, at: u64) -> TestResult<u64> {
    // struct fiemap: start, length, flags, mapped, room; then extents of seven words.
    let mut map = [at, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    const FS_IOC_FIEMAP: u64 = 0xc020_660b;
    ioctl(f, FS_IOC_FIEMAP, &mut map)?;
    if map[2] >> 32 != 1 {
        crate::fail!("no block at {at:#x}");
    }
    let [logical, physical] = [map[4], map[5]];
    Ok(physical + at - logical)
}

/// A sysfs attribute of a disk as a number.
pub fn attr_u64(c: &Ctx, disk: &str, attr: &str) -> TestResult<u64> {
    c.read_u64(format!("/sys/block/{disk}/{attr}"))
}

/// The disk is there, with the size that `ndctl list` and sysfs agree on.
pub fn check_sizes(c: &Ctx, ns: &str, disk: &str) -> TestResult<u64> {
    let list = c.ok(&["ndctl", "list", "-N", "-n", ns])?;
    let told = json_u64(&list, "size");
    let bytes = attr_u64(c, disk, "size")? * 512;
    check_eq!(
        Some(bytes),
        told,
        "size of {disk} and of ndctl list: {list}"
    );
    check_eq!(bytes, size(&open(&format!("/dev/{disk}"))?)?);
    check!(
        list.contains(&format!("\"blockdev\":\"{disk}\"")),
        "no {disk} in: {list}"
    );
    Ok(bytes)
}

/// The number after `"key":`.
pub fn json_u64(text: &str, key: &str) -> Option<u64> {
    let rest = text.split(&format!("\"{key}\":")).nth(1)?.trim_start();
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The string after `"key":`.
pub fn json_str<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let rest = text.split(&format!("\"{key}\":\"")).nth(1)?;
    rest.split('"').next()
}
