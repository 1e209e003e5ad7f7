// SPDX-License-Identifier: GPL-2.0
//! KUnit results of the module.

use crate::ctx::Test;

pub const TESTS: &[Test] = &[];
