// SPDX-License-Identifier: GPL-2.0
//! Tests of the harness: each misbehaves in one way, and the harness must notice.

use crate::support::arch;
use crate::support::ctx::{Ctx, Down, Test, TestResult};
use crate::support::durable::Recording;
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
    self_recorded => recorded,
    self_recorded_in_part => recorded_in_part,
    self_recorded_too_late => recorded_too_late,
    self_not_flushed => not_flushed,
    self_down => |c| goes_down(c, 0),
    self_down_not_durable => |c| goes_down(c, 64),
    self_never_down => never_down,
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
    arch::end_machine(0x10);
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
    durable::follow(frame * 4096, 4096, false);
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

/// A page that is recorded, and what happens to it meanwhile.
fn record(f: impl FnOnce(*mut u8, &Recording)) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: the page is this test's own, and nothing else refers to it.
    let contents = || unsafe { std::slice::from_raw_parts(m, 4096) };
    let recording = Recording::begin("a page", phys, contents());
    f(m, &recording);
    recording.end(contents());
    Ok(())
}

fn recorded(_: &mut Ctx) -> TestResult {
    record(|m, recording| {
        // SAFETY: stores to that page, with and without alignment, and a locked one.
        unsafe {
            m.write_volatile(1);
            m.add(60)
                .cast::<u64>()
                .write_unaligned(0x0102_0304_0506_0708);
            m.add(104).cast::<u128>().write_unaligned(u128::MAX / 7);
            m.add(256).cast::<u32>().write_volatile(5);
            arch::repeated_and_locked_stores(m.add(200), m.add(256).cast());
        }
        sys::persist(m, 4096);
        recording.acknowledged("all");
    })
}

/// A store that is taken back unseen: the page is looked at through another one.
fn recorded_in_part(_: &mut Ctx) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: as above.
    let mut contents = unsafe { std::slice::from_raw_parts(m, 4096) }.to_vec();
    let recording = Recording::begin("a page", phys, &contents);
    contents[64] = 1;
    recording.end(&contents);
    Ok(())
}

fn recorded_too_late(_: &mut Ctx) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: as above.
    unsafe { m.write_volatile(1) };
    let contents = vec![0; 4096];
    Recording::begin("a page", phys, &contents).end(&contents);
    Ok(())
}

/// Claims what it has stored to a mapping, wherever that is, and has forgotten to flush it.
fn not_flushed(_: &mut Ctx) -> TestResult {
    let (m, _) = page()?;
    // SAFETY: as above.
    unsafe { m.write_volatile(1) };
    durable::stored(m, 4096, durable::By::Cpu, || Ok(()))
}

/// Stores to this line, flushes the first one, and claims of it that it is durable when the power is off.
fn goes_down(c: &mut Ctx, at: u64) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: as above.
    unsafe { m.add(at as usize).write_volatile(1) };
    sys::persist(m, 1);
    let text = "a store; the first line flushed, power off; memory";
    durable::claim_later(text, phys + at, 64, true);
    durable::down(durable::Down::Off);
    c.goes_down(Down::PowerOff)
}

/// Claims something for a moment that never comes.
fn never_down(_: &mut Ctx) -> TestResult {
    let (m, phys) = page()?;
    // SAFETY: as above.
    unsafe { m.write_volatile(1) };
    sys::persist(m, 1);
    durable::claim_later("a store; flushed, no end; memory", phys, 64, true);
    durable::down(durable::Down::Reached(1));
    Ok(())
}

fn cut(c: &mut Ctx) -> TestResult {
    c.power_cut()
}
