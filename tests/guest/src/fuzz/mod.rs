// SPDX-License-Identifier: GPL-2.0
//! The fuzzer, which `t_fuzz.rs` runs: what a program is, what it is made of, and who runs it.

pub mod calls;
pub mod others;
pub mod program;
pub mod run;
pub mod users;
