// SPDX-License-Identifier: GPL-2.0
//! Tests of the harness: each misbehaves in one way, and the harness must notice.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::{durable, sys};
use crate::{check, check_eq, fail, skip};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

pub const TESTS: &[Test] = crate::tests! {
    self_pass => pass,
    self_pass2 => pass,
    self_fail => fails,
    self_skip => skips,
    self_crash => crash,
    self_rust_panic => rust_panic,
    self_hang => hang,
    self_kernel_panic => kernel_panic,
    self_splat => splat,
    self_exit_vm => exit_vm,
    self_cut => cut,
    self_durable => is_durable,
    self_not_durable => not_durable,
};

fn pass(c: &mut Ctx) -> TestResult {
    check_eq!(c.sh("echo a | tr a b")?, "b\n");
    println!("this is a diagnostic line");
    Ok(())
}

fn fails(c: &mut Ctx) -> TestResult {
    // What looks like a result in the output of a test must not be taken for one.
    println!("ok 2 self_fail");
    c.fails(&["false"])?;
    fail!("as intended")
}

fn skips(_: &mut Ctx) -> TestResult {
    skip!("as intended")
}

fn crash(_: &mut Ctx) -> TestResult {
    std::process::abort()
}

fn rust_panic(_: &mut Ctx) -> TestResult {
    panic!("as intended")
}

/// Hangs together with a descendant in another session that holds the output pipe.
fn hang(_: &mut Ctx) -> TestResult {
    std::process::Command::new("setsid")
        .args(["sleep", "3600"])
        .spawn()?;
    loop {
        // CLOCK: that of a test that hangs.
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn kernel_panic(c: &mut Ctx) -> TestResult {
    c.write("/proc/sysrq-trigger", "c")?;
    fail!("survived a panic")
}

fn splat(c: &mut Ctx) -> TestResult {
    c.write("/dev/kmsg", "<4>WARNING: CPU: 0 PID: 1 at self_splat\n")?;
    Ok(())
}

/// Ends the machine with the right exit code, but too early.
fn exit_vm(_: &mut Ctx) -> TestResult {
    sys::outb(0xf4, 0x10);
    fail!("survived the end of the machine")
}

/// A page of memory, as if it were persistent.
fn page() -> TestResult<(*mut u8, u64)> {
    let m = sys::locked_page()?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, m as u64 / 4096 * 8)?;
    let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
    check!(frame != 0, "the kernel hides where pages are");
    durable::follow(frame * 4096, 4096);
    Ok((m, frame * 4096))
}

fn is_durable(_: &mut Ctx) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: the page is this test's own.
    unsafe { m.write_volatile(1) };
    sys::persist(m, 1);
    durable::claim("a store; flushed; memory", phys, 64);
    Ok(())
}

/// Claims what is not so.
fn not_durable(_: &mut Ctx) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: as above.
    unsafe { m.add(64).write_volatile(1) };
    sys::persist(m, 1);
    durable::claim("a store; another line flushed; memory", phys + 64, 64);
    Ok(())
}

fn cut(c: &mut Ctx) -> TestResult {
    c.power_cut()
}
