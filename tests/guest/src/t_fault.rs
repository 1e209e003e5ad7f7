// SPDX-License-Identifier: GPL-2.0
//! Fault injection on the probe path.

use crate::ctx::Test;

pub const TESTS: &[Test] = &[];
