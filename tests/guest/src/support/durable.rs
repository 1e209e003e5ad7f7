// SPDX-License-Identifier: GPL-2.0
//! What tests claim to be durable, told to the plugin qemu/harness/durable.c, which follows each cache
//! line of the persistent memory in boots that ask for it. In others a claim is a nop.

use crate::support::arch::WRITES_BACK;
use crate::support::bench::{request, request_text};
use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk;
use crate::support::sys::{PAGE, SYNC};
use crate::support::tools::{self, Space};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::OnceLock;

/// What a line is, as the plugin names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// By a locked instruction, or one that serializes, and by no fence: on x86 alone.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    ByLock = 1,
    /// Written back, and waits for a fence.
    Written = 2,
    /// In a CPU cache.
    Stored = 3,
    /// Not stored to since the last claim.
    Untouched = 4,
}

/// Has the plugin follow this range of physical addresses. Nothing in it waits in a cache. Of a file of the
/// host's what that has flushed is durable, and nothing else.
pub fn follow(phys: u64, len: u64, of_host: bool) {
    request::<16>(phys, len | (u64::from(of_host) << 56));
}

/// All regions of libnvdimm, before any driver has them; and once more after [`down`].
pub fn follow_regions() -> Result<(), String> {
    const DIR: &str = "/sys/bus/nd/devices";
    for entry in fs::read_dir(DIR).into_iter().flatten().flatten() {
        let number = |file: &str| {
            let text = fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            match text.trim().strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => text.trim().parse(),
            }
            .map_err(|_| format!("{file} of {}: {text:?}", entry.path().display()))
        };
        if entry.file_name().to_string_lossy().starts_with("region") {
            let place = entry.path().canonicalize();
            let place = place.map_err(|e| format!("{}: {e}", entry.path().display()))?;
            let of_host = place.to_string_lossy().contains("/virtio");
            follow(number("resource")?, number("size")?, of_host);
        }
    }
    Ok(())
}

/// The plugin reads it where it is: no page of the program that nobody has touched yet.
fn name(text: &str) {
    let text = text.to_owned();
    request_text::<17>(&text);
}

/// Whatever has been stored to these physical addresses is durable, and something has been, to each
/// line, since the last claim. The text is "how it was stored; what acknowledged it; where".
pub fn claim(text: &str, phys: u64, len: u64) {
    name(text);
    request::<18>(phys, len);
}

/// The same, and not by the luck of a locked instruction behind a flush.
pub fn claim_fenced(text: &str, phys: u64, len: u64) {
    name(text);
    request::<18>(phys, len | (1 << 56));
}

/// As [`claim`], or [`claim_fenced`], at the moment that [`down`] names.
pub fn claim_later(text: &str, phys: u64, len: u64, fenced: bool) {
    name(text);
    request::<32>(phys, len | (u64::from(fenced) << 56));
}

/// As [`count`], at that moment.
pub fn count_later(text: &str, phys: u64, len: u64) {
    name(text);
    request::<32>(phys, len | (1 << 57));
}

/// Where the guest goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The end of QEMU.
    Off,
    /// When the CPU starts anew after a sleep.
    Reset,
    /// When this address of the kernel is reached.
    Reached(u64),
}

/// That is when the claims are judged that wait. From then on nothing is followed, until
/// [`follow_regions`] is called again.
pub fn down(when: Down) {
    let at = match when {
        Down::Off => 0,
        Down::Reset => 0xffff_fff0,
        Down::Reached(at) => at,
    };
    request::<33>(at, 0);
}

/// The test that this process belongs to, in boots that follow cache lines.
fn test() -> Option<&'static str> {
    static TEST: OnceLock<Option<String>> = OnceLock::new();
    let test = TEST.get_or_init(|| {
        std::env::var_os("RPMEM_DURABLE")?;
        std::env::args().nth(2)
    });
    test.as_deref()
}

/// What makes the stores of a process to a range of its memory durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Msync,
    /// The instructions of the CPU.
    Cpu,
}

/// What this process has stored there is durable when `make` has returned, if that is not an error.
pub fn stored<T, E>(
    p: *const u8,
    len: usize,
    by: By,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let Some(test) = test() else {
        return make();
    };
    request::<34>(p as u64, len as u64);
    let made = make()?;
    let by_name = match by {
        By::Msync => "msync(2)",
        By::Cpu => WRITES_BACK,
    };
    name(&format!("stores to a mapping; {by_name}; test {test}"));
    request::<35>(u64::from(by == By::Cpu), 0);
    Ok(made)
}

/// The physical address of the first byte of a disk, or of a node, that is the memory itself.
fn start_of(dev: u64, kind: &str) -> Option<u64> {
    // SAFETY: arithmetic.
    let (major, minor) = unsafe { (libc::major(dev), libc::minor(dev)) };
    let device = fs::canonicalize(format!("/sys/dev/{kind}/{major}:{minor}/device")).ok()?;
    // Where the blocks of these are, nobody can say.
    if device.file_name()?.to_string_lossy().starts_with("btt") {
        return None;
    }
    let text = fs::read_to_string(device.join("resource")).ok()?;
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// All of this range has been written to a disk or file, and is durable by what has returned.
pub fn written(f: &File, offset: u64, len: u64, by: &str) -> TestResult {
    let Some(test) = test() else {
        return Ok(());
    };
    let meta = f.metadata()?;
    let text = format!("write(2); {by}; test {test}");
    if meta.file_type().is_block_device() {
        if let Some(start) = start_of(meta.rdev(), "block") {
            claim(&text, start + offset, len);
        }
        return Ok(());
    }
    let Some(start) = start_of(meta.dev(), "block") else {
        return Ok(());
    };
    let mut at = offset;
    while at < offset + len {
        let end = (at / PAGE as u64 + 1) * PAGE as u64;
        let n = end.min(offset + len) - at;
        claim(&text, start + disk::block_of(f, at)?, n);
        at += n;
    }
    Ok(())
}

/// Nothing that was stored to these addresses waits in a cache; something has been since the last claim.
pub fn claim_rest(text: &str, phys: u64, len: u64) {
    name(text);
    request::<21>(phys, len);
}

/// Shows how many lines are not durable.
pub fn count(text: &str, phys: u64, len: u64) {
    name(text);
    request::<19>(phys, len);
}

/// What this CPU does to lines while `make` runs is counted, for a boot with `tally`. The text is "driver; what
/// is done; lines that it has to move".
pub fn tally<T>(text: &str, make: impl FnOnce() -> T) -> T {
    name(text);
    request::<36>(1, 0);
    let made = make();
    request::<36>(0, 0);
    made
}

/// `make` leaves all of these lines in this state, but for the times that the kernel fences by chance.
pub fn planted(text: &str, phys: u64, len: u64, state: State, make: impl FnOnce()) {
    name(text);
    make();
    request::<20>(phys, len | ((state as u64) << 56));
}

/// What happens to a range of physical addresses, written down by the plugin in boots with `record`. All of the
/// range is durable before and quiet at both ends.
pub struct Recording;

impl Recording {
    /// Of the range that holds `contents`, in whole pages.
    pub fn begin(text: &str, phys: u64, contents: &[u8]) -> Recording {
        name(text);
        request::<22>(phys, contents.len() as u64);
        request::<23>(contents.as_ptr() as u64, contents.len() as u64);
        Recording
    }

    /// What the text says is durable now.
    pub fn acknowledged(&self, text: &str) {
        let text = text.to_owned();
        request_text::<24>(&text);
    }

    /// What the range holds now, with which the harness compares what it makes of the recording.
    pub fn end(self, contents: &[u8]) {
        request::<23>(contents.as_ptr() as u64, contents.len() as u64);
        request::<22>(0, 0);
    }
}

/// What a disk and its node show.
pub struct Medium {
    /// Physical address of its first byte.
    pub start: u64,
    /// It is a file of the host's, as for virtio-pmem.
    pub of_host: bool,
}

impl Medium {
    pub fn of(c: &Ctx, space: &Space) -> TestResult<Medium> {
        let start = c.read_u64(c.nd(&space.nd).join("resource"))?;
        let of_host = tools::is_of_host(space)?;
        Ok(Medium { start, of_host })
    }

    /// Flags of mmap(2) for mappings that need no system call, or, where there are none, for ordinary ones.
    pub fn synchronous(&self) -> i32 {
        if self.of_host {
            libc::MAP_SHARED
        } else {
            SYNC
        }
    }

    /// `claim` by offset.
    pub fn acknowledged(&self, text: &str, offset: u64, len: usize) {
        claim(text, self.start + offset, len as u64);
    }
}
