// SPDX-License-Identifier: GPL-2.0
//! Crash states: programs, sectors and file systems are recorded while they acknowledge what they do; the next boot
//! has states that a power cut could have left at any moment of it, recovers each, and finds all that was
//! acknowledged by then. Documentation/durability.md.

pub mod files;
mod operations;
pub mod programs;
pub mod sectors;

use crate::fail;
use crate::support::crash::Alias;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::durable::Recording;
use crate::support::tools::{self, Space};

pub const TESTS: &[Test] = crate::tests! {
    crash_create => create,
};

/// Namespaces, by name: whole multiples of what the region is aligned to.
fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for (name, options) in [
        ("programs", "-m raw -s 16M"),
        ("ext4", "-m fsdax -s 32M"),
        ("xfs", "-m fsdax -s 32M"),
        ("sectors-512", "-m sector -l 512 -s 32M"),
        ("sectors-4096", "-m sector -l 4096 -s 32M"),
    ] {
        let mut argv = vec!["-n", name];
        argv.extend(options.split(' '));
        c.create_namespace(&argv)?;
    }
    Ok(())
}

/// The namespace of that name.
fn named(c: &Ctx, name: &str) -> TestResult<String> {
    for namespace in c.namespaces() {
        if c.read(c.nd(&namespace).join("alt_name"))? == name {
            return Ok(namespace);
        }
    }
    fail!("no namespace {name}")
}

/// And what has its disk.
fn space(c: &Ctx, name: &str) -> TestResult<Space> {
    let namespace = named(c, name)?;
    for space in tools::spaces(c)? {
        if space.namespace(c)? == namespace {
            return Ok(space);
        }
    }
    fail!("{name} has no disk")
}

/// Physical address and length of what a device of the bus has.
fn range(c: &Ctx, device: &str) -> TestResult<(u64, usize)> {
    let number = |file: &str| c.read_u64(c.nd(device).join(file));
    Ok((number("resource")?, number("size")? as usize))
}

/// Records what `f` does to the range.
fn record(
    c: &Ctx,
    name: &str,
    (phys, len): (u64, usize),
    f: impl FnOnce(&Recording) -> TestResult,
) -> TestResult {
    let alias = Alias::new(c)?;
    let recording = Recording::begin(name, phys, alias.get(phys, len));
    f(&recording)?;
    recording.end(alias.get(phys, len));
    Ok(())
}
