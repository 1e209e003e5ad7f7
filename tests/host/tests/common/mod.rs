// SPDX-License-Identifier: GPL-2.0

//! What the properties share.

use proptest::prelude::*;

/// Cases that take seconds. One that fails is printed, and kept in no file.
pub fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 20000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
