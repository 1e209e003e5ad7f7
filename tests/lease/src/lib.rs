// SPDX-License-Identifier: GPL-2.0

//! The lease (`src/logic/lease.rs`, compiled unchanged) and what the driver does around it, on
//! loom's locks and atomics: loom runs a test in every interleaving that makes a difference, and
//! reports threads that wait for each other or for nothing.

#[path = "../../../src/logic/lease.rs"]
pub mod lease;

pub mod device;
pub mod srcu;
