// SPDX-License-Identifier: GPL-2.0
//! The fuzzer, which `t_fuzz.rs` runs: what a program is, what it is made of, and who runs it. A new node
//! is a line of `NODES` in `machine.rs` (with a class of ioctls of its own, if it has them, in `IOCTLS`).
//!
//! Left out on purpose, as they are no interface of a node and end every program: FIFREEZE and
//! EXT4_IOC_SHUTDOWN (all wait for a thaw), MADV_HWPOISON and MADV_SOFT_OFFLINE (take memory of
//! the machine away), FS_IMMUTABLE_FL (the next round could not write its files).

pub mod admin;
pub mod calls;
pub mod ioctls;
pub mod machine;
pub mod others;
pub mod own;
pub mod program;
pub mod run;
pub mod users;
