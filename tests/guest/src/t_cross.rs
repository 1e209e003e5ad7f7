// SPDX-License-Identifier: GPL-2.0
//! The cross product of modes, kinds of mappings, sizes of entries, calls and cuts: see `cross`. One of
//! a mode alone, by the number that a failure names, in `make shell FIXTURE=nfit-large`:
//!
//!     rpmem-guest cross cross_raw 1234

use crate::cross::run::{self, run};
use crate::cross::table;
use crate::support::ctx::{self, Test};

pub const TESTS: &[Test] = &[
    Test {
        name: "cross_raw",
        run: |c| run(c, &table::RAW),
    },
    Test {
        name: "cross_e820",
        run: |c| run(c, &table::E820),
    },
    Test {
        name: "cross_fsdax",
        run: |c| run(c, &table::FSDAX),
    },
    Test {
        name: "cross_devdax_4k",
        run: |c| run(c, &table::DEVDAX_4K),
    },
    Test {
        name: "cross_devdax_2m",
        run: |c| run(c, &table::DEVDAX_2M),
    },
    Test {
        name: "cross_devdax_1g",
        run: |c| run(c, &table::DEVDAX_1G),
    },
    Test {
        name: "cross_virtio",
        run: |c| run(c, &table::VIRTIO),
    },
];

/// The sub-command.
pub fn one(test: &str, number: &str) -> i32 {
    let Some(test) = TESTS.iter().find(|t| t.name == test) else {
        eprintln!("there is no {test}");
        return 2;
    };
    std::env::set_var(run::ONE, number);
    if std::env::var_os("RPMEM_DRIVER").is_none() {
        std::env::set_var("RPMEM_DRIVER", "rpmem");
    }
    ctx::run(test)
}
