// SPDX-License-Identifier: GPL-2.0

//! Fuzz targets for the module's pure logic, with libFuzzer: `scripts/fuzz`. What they assert is in
//! `tests/host/src/check.rs`; here is what their input means.
//!
//! The first byte of a `create`, `geometry` or `extent` input is a set of flags, each number after
//! it has 8 bytes, little-endian; what is missing is 0.

/// Defines the entry of libFuzzer, which calls the function with each input.
#[macro_export]
macro_rules! fuzz_target {
    ($run:path) => {
        /// # Safety
        ///
        /// `data` is valid for `size` bytes.
        #[no_mangle]
        unsafe extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
            // An empty input may come with NULL.
            let input = match size {
                0 => &[],
                // SAFETY: By the contract of libFuzzer.
                _ => unsafe { core::slice::from_raw_parts(data, size) },
            };
            $run(input);
            0
        }
    };
}

/// Takes an input apart, from its start on.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next `N` bytes.
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        let (head, rest) = self.0.split_at(n);
        out[..n].copy_from_slice(head);
        self.0 = rest;
        out
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// What has not been taken.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }
}
