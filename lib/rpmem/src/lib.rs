// SPDX-License-Identifier: MIT OR Apache-2.0
#![doc = include_str!("../README.md")]
#![cfg_attr(feature = "std", doc = include_str!("items.md"))]
#![cfg_attr(not(feature = "std"), no_std)]
#![warn(missing_docs, unsafe_op_in_unsafe_fn)]

pub mod cache;
#[cfg(feature = "std")]
mod device;
#[cfg(feature = "std")]
mod map;

#[cfg(feature = "std")]
pub use device::{Device, Domain, Info, Lease, LeaseState, DIRECT_WINDOW};
#[cfg(feature = "std")]
pub use map::{kind, Map, Memory, Via};
