// SPDX-License-Identifier: GPL-2.0
//! Info blocks of fsdax and devdax namespaces, byte by byte.

use crate::support::ctx::TestResult;
use crate::support::disk::{self, Buf};
use logic::info_block::{checksum, OFFSET, SIZE};
use std::os::unix::fs::FileExt;

// The module's own parser and checksum.
#[allow(dead_code)]
#[rustfmt::skip]
#[path = "../../../../src/logic/mod.rs"]
pub mod logic;

pub type Block = [u8; SIZE];

pub const UUID: usize = 16;
pub const PARENT_UUID: usize = 32;
pub const FLAGS: usize = 48;
pub const MAJOR: usize = 52;
pub const MINOR: usize = 54;
pub const DATA_OFFSET: usize = 56;
pub const NPFNS: usize = 64;
pub const MODE: usize = 72;
pub const START_PAD: usize = 76;
pub const END_TRUNC: usize = 80;
pub const ALIGN: usize = 84;
pub const PAGE_SIZE: usize = 88;
pub const PAGE_STRUCT_SIZE: usize = 92;
pub const CHECKSUM: usize = SIZE - 8;

pub fn u64_at(b: &Block, at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().expect("8 bytes"))
}

pub fn put(b: &mut Block, at: usize, value: u64, len: usize) {
    b[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

pub fn seal(b: &mut Block) {
    let sum = checksum(b);
    put(b, CHECKSUM, sum, 8);
}

pub fn read_block(dev: &str) -> TestResult<Block> {
    let mut b = Buf::page(SIZE);
    disk::direct(dev)?.read_exact_at(b.bytes_mut(), OFFSET)?;
    let mut block = [0; SIZE];
    block.copy_from_slice(b.bytes());
    Ok(block)
}
