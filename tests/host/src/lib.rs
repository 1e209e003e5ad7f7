// SPDX-License-Identifier: GPL-2.0

//! The module's pure logic, compiled on the host, unchanged.

#![no_std]

#[path = "../../../src/logic/mod.rs"]
pub mod logic;
