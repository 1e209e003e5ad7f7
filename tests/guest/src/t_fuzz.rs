// SPDX-License-Identifier: GPL-2.0
//! Random system calls on the device nodes.

use crate::ctx::Test;

pub const TESTS: &[Test] = &[];
