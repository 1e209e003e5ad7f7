// SPDX-License-Identifier: GPL-2.0

//! The module's pure logic, compiled on the host, unchanged, and what it is compared with.

#![no_std]

#[path = "../../../src/logic/mod.rs"]
pub mod logic;

pub mod check;
pub mod libnvdimm;
pub mod sample;
pub mod uapi;
