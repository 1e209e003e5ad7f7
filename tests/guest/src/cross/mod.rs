// SPDX-License-Identifier: GPL-2.0
//! Every kind of mapping of /dev/rpmemN, with every size of entry, under every call on it, cut at
//! every kind of place: `table.rs` is what there is, `model.rs` what it must do, `run.rs` and `work.rs` do
//! it. Documentation/testing.md has more.

mod board;
mod model;
pub mod run;
pub mod table;
mod work;
