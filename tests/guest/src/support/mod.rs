// SPDX-License-Identifier: GPL-2.0
//! What tests share. Nothing here knows of a test (`t_*.rs`), or of what one runs (`fuzz`, `cross`).

pub mod app;
pub mod arch;
pub mod bench;
pub mod crash;
pub mod ctx;
pub mod disk;
pub mod durable;
pub mod facts;
pub mod hibernate;
pub mod host;
pub mod infoblock;
pub mod kexec;
pub mod memory;
pub mod namespace;
pub mod node;
pub mod peer;
pub mod ring;
pub mod sys;
pub mod tools;
pub mod trace;
pub mod uapi;
