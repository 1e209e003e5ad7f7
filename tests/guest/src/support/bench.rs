// SPDX-License-Identifier: GPL-2.0
//! What benchmarks are made of: a clock that counts instructions, samples, and lines for the host.
//!
//! Under `-icount shift=0` the counter of the CPU counts the instructions that the guest executes, its
//! kernel included; `calibrate` proves it before anything is measured.

use crate::support::arch::{self, spin};
pub use crate::support::arch::{counter as now, request};
use crate::support::ctx::{Ctx, TestResult};
pub use crate::support::sys::{HUGE, PAGE};
use crate::support::tools::{self, Space};
use crate::{check, fail};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What measuring nothing costs.
fn overhead() -> u64 {
    (0..64)
        .map(|_| {
            let start = now();
            now() - start
        })
        .min()
        .unwrap_or(0)
}

/// Whether this is a boot whose clock is one of time, to which what is below does not apply. The kernel
/// hands what it does not know of its command line to init.
fn is_timed() -> bool {
    std::env::var_os("RPMEM_TIMED").is_some()
}

/// Fails unless the clock counts instructions.
pub fn calibrate() -> TestResult {
    if is_timed() {
        return Ok(());
    }
    const TURNS: u64 = 100_000;
    let best = (0..8)
        .map(|_| {
            let start = now();
            spin(TURNS);
            now() - start
        })
        .min()
        .unwrap_or(0);
    let want = 2 * TURNS;
    check!(
        best >= want && best <= want + want / 1000,
        "the clock does not count instructions: {best} for {want}"
    );
    Ok(())
}

/// Waits until nobody else uses this CPU for more than a timer interrupt.
pub fn quiet(c: &Ctx) -> TestResult {
    if is_timed() {
        return Ok(());
    }
    const SPIN: u64 = 2_000_000;
    let mut calm = 0;
    c.wait_for("a CPU of our own", || {
        for _ in 0..100 {
            let (cost, ()) = cost(|| spin(SPIN / 2));
            calm = if cost < SPIN + SPIN / 20 { calm + 1 } else { 0 };
        }
        calm >= 200
    })
}

/// Instructions of `f`.
pub fn cost<T>(f: impl FnOnce() -> T) -> (u64, T) {
    let start = now();
    let result = f();
    let end = now();
    (end - start, result)
}

/// The median of the instructions of `n` calls: what a timer interrupt hits now and then is not
/// in it. `window` is for the profile.
pub fn each(window: &str, n: usize, f: impl FnMut(usize) -> TestResult) -> TestResult<f64> {
    Ok(median(&mut samples(window, n, f)?))
}

/// The lower quartile, of calls that change which mappings the process has. Some of them split a node of the
/// kernel's tree of those, or join two, for 3000 instructions more. Where the mappings are decides whether
/// that is more than every second call, and so would the median be one or the other.
pub fn each_mapping(window: &str, n: usize, f: impl FnMut(usize) -> TestResult) -> TestResult<f64> {
    let mut samples = samples(window, n, f)?;
    samples.sort_unstable();
    Ok(samples[n / 4] as f64)
}

fn samples(window: &str, n: usize, mut f: impl FnMut(usize) -> TestResult) -> TestResult<Vec<u64>> {
    let none = overhead();
    let mut samples = vec![0; n];
    let profile = Profile::of(window, n);
    for (i, sample) in samples.iter_mut().enumerate() {
        let (cost, result) = cost(|| f(i));
        result?;
        *sample = cost.saturating_sub(none);
    }
    drop(profile);
    Ok(samples)
}

/// The same of something that lasts as long as timer interrupts are apart, or longer: it begins just
/// after one, so that there are always as many of them in it. `n` operations, in a window of the profile.
pub fn bulk<T>(window: &str, n: usize, f: impl FnOnce() -> T) -> (u64, T) {
    let window = Profile::text(window, n);
    let start = now();
    let mut last = start;
    // A machine without timer interrupts would be a surprise, but nothing to hang for.
    while last - start < 100_000_000 {
        let at = now();
        if at - last > 1000 {
            break;
        }
        last = at;
    }
    let profile = Profile::open(&window);
    let result = cost(f);
    drop(profile);
    result
}

/// One whose arguments are a text.
pub fn request_text<const WHAT: u32>(text: &str) {
    request::<WHAT>(text.as_ptr() as u64, text.len() as u64);
}

/// A window of the profile: from here to where it is dropped.
pub struct Profile;

impl Profile {
    /// In which `n` operations are made.
    pub fn of(name: &str, n: usize) -> Profile {
        Profile::open(&Profile::text(name, n))
    }

    fn text(name: &str, n: usize) -> String {
        format!("{name} {n}")
    }

    fn open(text: &str) -> Profile {
        request_text::<1>(text);
        Profile
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        request::<2>(0, 0);
    }
}

/// Tells the profile the kernel's symbols.
pub fn tell_symbols(c: &Ctx) -> TestResult {
    let mut text = String::new();
    for line in c.read("/proc/kallsyms")?.lines() {
        let mut words = line.split_whitespace();
        if let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) =
            (words.next(), words.next(), words.next())
        {
            let module = words.next().unwrap_or("[kernel]");
            text += &format!("symbol {address} {name} {module}\n");
        }
    }
    check!(text.contains(" [rpmem]\n"), "no symbols of the module");
    request_text::<3>(&text);
    Ok(())
}

/// Has the profile count what functions of a module with such a name do until they return. If it is
/// `excluded`, that is taken out of the function that calls it.
pub fn tell_scope(c: &Ctx, name: &str, module: &str, excluded: bool) -> TestResult {
    let mut found = false;
    for line in c.read("/proc/kallsyms")?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, symbol, place @ ..] = words.as_slice() else {
            continue;
        };
        let is_it = match place.first() {
            None => module.is_empty() && *symbol == name,
            Some(place) => *place == format!("[{module}]") && symbol.contains(name),
        };
        if is_it {
            let address = u64::from_str_radix(address, 16).map_err(|e| format!("{line}: {e}"))?;
            check!(address != 0, "addresses of symbols are hidden");
            request::<4>(address, u64::from(excluded));
            println!("profile: scope {line}");
            found = true;
        }
    }
    check!(found, "no function {name} in {module:?}");
    Ok(())
}

pub fn median(samples: &mut [u64]) -> f64 {
    samples.sort_unstable();
    let n = samples.len();
    (samples[(n - 1) / 2] + samples[n / 2]) as f64 / 2.0
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The kernel's own driver.
    Theirs,
    Ours,
}

/// Each driver twice, the second time in the other order.
pub const TURNS: [(usize, Side); 4] = [
    (1, Side::Theirs),
    (1, Side::Ours),
    (2, Side::Ours),
    (2, Side::Theirs),
];

/// A line that the host reads; see qemu/harness/src/bench.rs.
pub fn report(pass: usize, side: Side, key: &str, value: f64) {
    let side = match side {
        Side::Theirs => "theirs",
        Side::Ours => "ours",
    };
    println!("bench {pass} {side} {key} {value:.3}");
}

/// A fact that is not measured by instructions.
pub fn fact(key: &str, value: &str) {
    println!("fact {key} {value}");
}

/// Rows whose keys have this in them are not measured here, and why.
pub fn without(part: &str, why: &str) {
    println!("without {part} {why}");
}

/// A range of user addresses, and what is mapped there.
pub struct Window {
    start: usize,
    len: usize,
}

impl Window {
    /// Room for `len` bytes from an address on that is `skew` above a multiple of `align`.
    pub fn new(len: usize, align: usize, skew: usize) -> TestResult<Window> {
        let whole = len + align + skew;
        // SAFETY: the kernel chooses the address.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                whole,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if p == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let start = (p as usize).next_multiple_of(align) + skew;
        // SAFETY: unmaps what was mapped just now. Nobody else maps anything in between: the
        // programs that use this have one thread.
        unsafe { libc::munmap(p, whole) };
        Ok(Window { start, len })
    }

    /// Maps `len` bytes of a file in it.
    pub fn map(&self, f: &File, at: usize, offset: u64, len: usize, flags: i32) -> TestResult {
        check!(at + len <= self.len, "{at:#x} + {len:#x}");
        // SAFETY: the range was free, or has a mapping made by this.
        let p = unsafe {
            libc::mmap(
                (self.start + at) as *mut _,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_FIXED,
                f.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if p == libc::MAP_FAILED {
            fail!(
                "mmap of {len:#x} at {offset:#x}, flags {flags:#x}: {}",
                io::Error::last_os_error()
            );
        }
        Ok(())
    }

    pub fn unmap(&self) {
        self.unmap_at(0, self.len);
    }

    pub fn unmap_at(&self, at: usize, len: usize) {
        // SAFETY: the range is this window's own.
        unsafe { libc::munmap((self.start + at) as *mut _, len) };
    }

    pub fn address(&self) -> usize {
        self.start
    }

    pub fn load(&self, at: usize) {
        // SAFETY: the caller has mapped it.
        unsafe { ((self.start + at) as *const u8).read_volatile() };
    }

    pub fn store(&self, at: usize) {
        // SAFETY: as above.
        unsafe { ((self.start + at) as *mut u8).write_volatile(1) };
    }

    /// Write all lines back from the CPU caches, as the kernel does.
    pub fn write_back(&self, len: usize) {
        // SAFETY: the caller has mapped it; nothing is read or written.
        unsafe { arch::write_back(self.start, self.start + len) };
    }

    pub fn msync(&self, len: usize) -> TestResult {
        self.msync_at(0, len)
    }

    pub fn msync_at(&self, at: usize, len: usize) -> TestResult {
        // SAFETY: the range is this window's own.
        match unsafe { libc::msync((self.start + at) as *mut _, len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error().into()),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.unmap();
    }
}

/// Numbers below `n`, a power of two, each once, in an order without any locality.
pub fn shuffled(n: usize) -> impl Iterator<Item = usize> {
    assert!(n.is_power_of_two());
    let mut at = 0;
    (0..n).map(move |_| {
        at = (at * 1_664_525 + 1_013_904_223) & (n - 1);
        at
    })
}

/// A new namespace; the nd device that a driver binds.
pub fn create(c: &Ctx, options: &[&str]) -> TestResult<String> {
    let before: Vec<String> = tools::spaces(c)?.into_iter().map(|s| s.nd).collect();
    c.create_namespace(options)?;
    let new = |s: &Space| !before.contains(&s.nd);
    match tools::spaces(c)?.into_iter().find(new) {
        Some(s) => Ok(s.nd),
        None => Err("there is no disk on the new namespace".into()),
    }
}

/// Who has the device.
pub fn name(side: Side, theirs: &'static str) -> &'static str {
    match side {
        Side::Theirs => theirs,
        Side::Ours => "rpmem",
    }
}

/// Gives an nd device to another driver.
pub fn give(c: &Ctx, nd: &str, driver: &str) -> TestResult {
    match c.bound_to(nd) {
        Some(now) if now == driver => return Ok(()),
        Some(now) => c.unbind(&now, nd)?,
        None => {}
    }
    c.bind(driver, nd)?;
    check!(
        c.bound_to(nd).as_deref() == Some(driver),
        "{driver} does not take {nd}"
    );
    Ok(())
}

/// The device of device-dax on top of an nd device.
pub fn dax_node(c: &Ctx, nd: &str) -> TestResult<String> {
    let find = || {
        let names = tools::names(c.nd(nd));
        let is_node = |n: &String| n.starts_with("dax") && c.nd(nd).join(n).join("dev").exists();
        names.into_iter().find(is_node)
    };
    c.wait_for(&format!("device-dax on {nd}"), || find().is_some())?;
    let node = format!("/dev/{}", find().ok_or("it went away")?);
    c.wait_exists(&node)?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3]), 3.0);
        assert_eq!(median(&mut [9, 1, 2]), 2.0);
        assert_eq!(median(&mut [4, 1, 9, 2]), 3.0);
    }

    #[test]
    fn every_number_once() {
        let mut all: Vec<usize> = shuffled(4096).collect();
        assert!(all.windows(2).filter(|w| w[1] == w[0] + 1).count() < 8);
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..4096));
    }
}
