// SPDX-License-Identifier: GPL-2.0
//! What tests claim to be durable, told to the plugin qemu/harness/durable.c, which follows each cache
//! line of the persistent memory in boots that ask for it. In others a claim is a nop.

use crate::support::bench::{request, request_text};
use crate::support::ctx::{Ctx, TestResult};
use crate::support::tools::Space;
use std::fs;

/// What a line is, as the plugin names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// By a locked instruction, or one that serializes, and by no fence.
    ByLock = 1,
    /// Written back, and waits for a fence.
    Written = 2,
    /// In a CPU cache.
    Stored = 3,
    /// Not stored to since the last claim.
    Untouched = 4,
}

/// Has the plugin follow this range of physical addresses. Nothing in it waits in a cache.
pub fn follow(phys: u64, len: u64) {
    request::<16>(phys, len);
}

/// All regions of libnvdimm, before any driver has them.
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
            follow(number("resource")?, number("size")?);
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
}

impl Medium {
    pub fn of(c: &Ctx, space: &Space) -> TestResult<Medium> {
        let start = c.read_u64(c.nd(&space.nd).join("resource"))?;
        Ok(Medium { start })
    }

    /// `claim` by offset.
    pub fn acknowledged(&self, text: &str, offset: u64, len: usize) {
        claim(text, self.start + offset, len as u64);
    }
}
