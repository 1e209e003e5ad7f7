// SPDX-License-Identifier: GPL-2.0

//! Pure logic: arithmetic and parsing without kernel types, allocation or I/O.
//!
//! These files are compiled into the module and, unchanged, into the host tests
//! (`tests/host/`). They use `core` alone, and every input is taken to be hostile.

#![deny(unsafe_code)]

pub mod btf;
pub mod dirty;
pub mod exclude;
pub mod extent;
pub mod fault;
pub mod geometry;
pub mod info_block;
pub mod ioctl;
pub mod lease;
pub mod mmap;
pub mod tracking;
