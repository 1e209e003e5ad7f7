// SPDX-License-Identifier: GPL-2.0
//! The cross product of modes, kinds of mappings, sizes of entries, calls and cuts: see `cross`. One of
//! a mode alone, by the number that a failure names, in `make shell FIXTURE=nfit-large`:
//!
//!     rpmem-guest cross cross_raw 1234

use crate::cross::run::{self, run};
use crate::cross::table;
use crate::support::ctx::{self, Test};

pub const TESTS: &[Test] = crate::tests! {
    cross_raw => |c| run(c, &table::RAW),
    cross_e820 => |c| run(c, &table::E820),
    cross_fsdax => |c| run(c, &table::FSDAX),
    cross_devdax_4k => |c| run(c, &table::DEVDAX_4K),
    cross_devdax_2m => |c| run(c, &table::DEVDAX_2M),
    cross_devdax_1g => |c| run(c, &table::DEVDAX_1G),
    cross_virtio => |c| run(c, &table::VIRTIO),
};

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
