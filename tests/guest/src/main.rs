// SPDX-License-Identifier: GPL-2.0
//! The program inside the test guests: init, test runner and the tests themselves.
//!
//! How to add a test:
//!
//! 1. Write `fn name(c: &mut Ctx) -> TestResult` in a file `t_<area>.rs`, or in one of a folder of that
//!    name, with the helpers of `support/`: `ctx.rs` (commands, sysfs, modules, namespaces, waiting),
//!    `sys.rs` (mappings, flushing, signals). Return `Ok(())`, `fail!("why")`, `skip!("why")`, or use
//!    `check!`, `check_eq!` and `?`. What it prints becomes a diagnostic line of the log; `result: ...`
//!    is shown also when all is well. It runs as root in a child process of its own; whatever it
//!    leaves running is killed.
//! 2. Name it in the `TESTS` of that file, as `area_name => name,`; a new file is added to `mod` and
//!    to `registry()` below. What another area needs too belongs in `support/`: an area imports no
//!    other, and `scripts/check layers` sees to it.
//! 3. Name it in a scenario, `tests/scenarios/*.json`: a test that no scenario runs is an error.
//!    The scenario says which fixture, driver, module parameters and timeout it gets.
//!
//! A test that wants the power to fail calls `c.power_cut()` in the last place of a boot with
//! `"end": "power-cut"`; the tests of the next boot find the medium as it was.

mod cross;
mod fuzz;
mod init;
/// What people copy is what is tested.
#[path = "../../../lib/rpmem/examples/append/log.rs"]
mod log;
/// As is this.
#[path = "../../../lib/rpmem/examples/store/store.rs"]
mod store;
mod support;
mod t_bench;
mod t_bind;
mod t_block;
mod t_bytes;
mod t_calls;
mod t_crash;
mod t_cross;
mod t_cut;
mod t_cxl;
mod t_demo;
mod t_devdax;
mod t_diff;
mod t_durable;
mod t_events;
mod t_exclude;
mod t_fault;
mod t_fixture;
mod t_fsdax;
mod t_fuzz;
mod t_gigantic;
mod t_infoblock;
mod t_kunit;
mod t_languages;
mod t_layout;
mod t_lease;
mod t_lib;
mod t_life;
mod t_loss;
mod t_map;
mod t_namespace;
mod t_ndctl;
mod t_nfit;
mod t_package;
mod t_power;
mod t_range;
mod t_removal;
mod t_sector;
mod t_selftest;
mod t_smoke;
mod t_stack;
mod t_trace;
mod t_upgrade;
mod t_using;
mod t_virtio;
mod t_ways;

use support::ctx::Test;

/// Every test, by area.
fn registry() -> Vec<&'static Test> {
    let areas: &[&'static [Test]] = &[
        t_bench::TESTS,
        t_bytes::TESTS,
        t_bind::TESTS,
        t_block::io::TESTS,
        t_block::flush::TESTS,
        t_block::limits::TESTS,
        t_block::read_only::TESTS,
        t_block::partitions::TESTS,
        t_calls::TESTS,
        t_crash::TESTS,
        t_crash::programs::TESTS,
        t_crash::sectors::TESTS,
        t_crash::files::TESTS,
        t_cross::TESTS,
        t_cut::TESTS,
        t_cxl::TESTS,
        t_demo::TESTS,
        t_devdax::TESTS,
        t_diff::TESTS,
        t_durable::TESTS,
        t_events::TESTS,
        t_exclude::TESTS,
        t_fault::namespaces::TESTS,
        t_fault::requests::TESTS,
        t_fault::functions::TESTS,
        t_fault::leaks::TESTS,
        t_fixture::TESTS,
        t_fsdax::TESTS,
        t_fuzz::TESTS,
        t_gigantic::TESTS,
        t_infoblock::TESTS,
        t_kunit::TESTS,
        t_languages::TESTS,
        t_layout::TESTS,
        t_lease::notice::TESTS,
        t_lease::holders::TESTS,
        t_lease::grace::TESTS,
        t_lease::read_only::TESTS,
        t_lease::race::TESTS,
        t_lib::TESTS,
        t_life::bind::TESTS,
        t_life::mounted::TESTS,
        t_life::shutdown::TESTS,
        t_loss::TESTS,
        t_map::request::TESTS,
        t_map::access::TESTS,
        t_map::prefault::TESTS,
        t_map::write_back::TESTS,
        t_map::confined::TESTS,
        t_map::revoke::TESTS,
        t_map::tracking::TESTS,
        t_namespace::TESTS,
        t_range::TESTS,
        t_removal::TESTS,
        t_sector::TESTS,
        t_nfit::TESTS,
        t_ndctl::TESTS,
        t_package::TESTS,
        t_power::TESTS,
        t_selftest::TESTS,
        t_smoke::TESTS,
        t_stack::TESTS,
        t_trace::TESTS,
        t_upgrade::TESTS,
        t_using::TESTS,
        t_virtio::TESTS,
        t_ways::down::TESTS,
        t_ways::TESTS,
        t_ways::block::TESTS,
    ];
    areas.iter().flat_map(|a| a.iter()).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let status = match rest.as_slice() {
        ["--list"] => {
            for t in registry() {
                println!("{}", t.name);
            }
            0
        }
        ["run-test", name] => match registry().into_iter().find(|t| t.name == *name) {
            Some(t) => support::ctx::run(t),
            None => {
                println!("fail: no such test in the registry");
                1
            }
        },
        ["app", rest @ ..] => support::app::main(rest),
        ["cross", test, number] => t_cross::one(test, number),
        ["fuzz", rest @ ..] => t_fuzz::main(rest),
        ["init"] => init::main(),
        _ if std::process::id() == 1 => init::main(),
        _ => {
            eprintln!("usage: rpmem-guest --list | run-test NAME | app COMMAND FILE BYTES");
            2
        }
    };
    std::process::exit(status);
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_unique_and_plain() {
        let mut names: Vec<_> = super::registry().iter().map(|t| t.name).collect();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        for n in &names {
            assert!(!n.is_empty() && n.chars().all(plain), "{n}");
        }
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
