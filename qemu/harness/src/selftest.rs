// SPDX-License-Identifier: GPL-2.0
//! Live guests that misbehave, and the verdict that each must get.

use crate::boot::{interrupted, Env, Job};
use crate::run::{self, Counts};
use crate::spec::{Boot, Fixture};
use crate::ui::Ui;
use crate::verdict::End;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Empty: must be green. Else red, with each of these in the reasons.
type Want = &'static [&'static str];

struct Case {
    name: &'static str,
    boot: Boot,
    want: Want,
    /// Replaces parts of the environment.
    twist: fn(&mut Env),
}

fn case(name: &'static str, tests: &[&str], want: Want, change: impl FnOnce(&mut Boot)) -> Case {
    let mut boot = Boot::named(tests, "none");
    change(&mut boot);
    Case {
        name,
        boot,
        want,
        twist: |_| {},
    }
}

fn fault(f: &str) -> impl FnOnce(&mut Boot) + '_ {
    move |b| b.fault = Some(f.to_string())
}

fn cases() -> Vec<Case> {
    let plain = |_: &mut Boot| {};
    let mut all =
        vec![
        case(
            "guest-hangs",
            &["self_pass", "self_pass2"],
            &["timeout of the whole boot", "no result: self_pass2"],
            |b| {
                b.fault = Some("hang".into());
                b.total_timeout = Some(5);
            },
        ),
        case("pass", &["self_pass", "self_pass2"], &[], plain),
        case(
            "fail",
            &[
                "self_pass",
                "self_fail",
                "self_skip",
                "self_crash",
                "self_rust_panic",
                "self_unknown",
            ],
            &[
                "not ok: self_fail: fail: ",
                "skipped, and the scenario does not allow it: self_skip",
                "not ok: self_crash: fail: the test was killed by signal 6",
                "not ok: self_rust_panic",
                "not ok: self_unknown: fail: no such test",
            ],
            plain,
        ),
        case(
            "kernel-panic",
            &["self_pass", "self_kernel_panic"],
            &[
                "QEMU ended with 0",
                "no result: self_kernel_panic",
                "splat in the kernel log during self_kernel_panic",
            ],
            plain,
        ),
        case(
            "test-hangs",
            &["self_hang", "self_pass"],
            &["not ok: self_hang: rpmem: timeout"],
            |b| b.tests[0].timeout = 1,
        ),
        case(
            "half-a-plan",
            &["self_pass", "self_exit_vm", "self_pass2"],
            &[
                "1 results for a plan of 3",
                "no result: self_exit_vm",
                "no end marker",
            ],
            plain,
        ),
        case(
            "splat",
            &["self_pass", "self_splat"],
            &["splat in the kernel log during self_splat"],
            plain,
        ),
        case("allowed-splat", &["self_pass", "self_splat"], &[], |b| {
            b.allow_splat = vec!["at self_splat".into()];
            b.expect_console = vec!["at self_splat".into()];
        }),
        case(
            "missing-test",
            &["self_pass", "self_pass2"],
            &["no result: self_pass2"],
            fault("drop-last"),
        ),
        case(
            "wrong-exit-code",
            &["self_pass"],
            &["QEMU ended with 35", "the kernel log lacks: no such line"],
            |b| {
                b.fault = Some("wrong-code".into());
                b.expect_console = vec!["no such line".into()];
            },
        ),
        case("durable", &["self_durable"], &[], |b| b.durable = true),
        case(
            "not-durable",
            &["self_durable", "self_not_durable"],
            &[
                "a store; another line flushed; memory: 1 of 1 lines are not durable",
                " stored cpu",
            ],
            |b| b.durable = true,
        ),
        case(
            "not-flushed",
            &["self_durable", "self_not_flushed"],
            &["; test self_not_flushed: 1 of 1 lines are not durable"],
            |b| b.durable = true,
        ),
        case("down", &["self_down"], &[], |b| {
            b.durable = true;
            b.end = End::Down;
        }),
        case(
            "down-not-durable",
            &["self_down_not_durable"],
            &["the first line flushed, power off; memory: 1 of 1 lines are not durable"],
            |b| {
                b.durable = true;
                b.end = End::Down;
            },
        ),
        case(
            "down-not-agreed",
            &["self_down"],
            &["the guest went down where it was not agreed", "QEMU ended with 0"],
            plain,
        ),
        case(
            "never-down",
            &["self_durable", "self_never_down"],
            &["no end; memory: the guest has not gone down"],
            |b| b.durable = true,
        ),
        case(
            "nothing-claimed",
            &["self_pass"],
            &["nothing was claimed to be durable"],
            |b| b.durable = true,
        ),
        case("recorded", &["self_recorded"], &[], |b| {
            b.durable = true;
            b.record = true;
        }),
        case(
            "recorded-in-part",
            &["self_recorded_in_part"],
            &["recording: a page: there is something that the recording does not have, at 0x40"],
            |b| {
                b.durable = true;
                b.record = true;
            },
        ),
        case(
            "recorded-too-late",
            &["self_recorded_too_late"],
            &["durability: lost a recording that begins with what is not durable"],
            |b| {
                b.durable = true;
                b.record = true;
            },
        ),
        case(
            "nothing-recorded",
            &["self_pass"],
            &["recording: nothing was recorded"],
            |b| {
                b.durable = true;
                b.record = true;
            },
        ),
        case("power-cut", &["self_pass", "self_cut"], &[], |b| {
            b.end = End::PowerCut
        }),
        case(
            "power-cut-not-agreed",
            &["self_pass", "self_cut"],
            &["power cut where none was agreed"],
            plain,
        ),
    ];
    let mut broken = case(
        "driver-does-not-load",
        &["self_pass"],
        &["Bail out!", "QEMU ended with 35"],
        |b| b.driver = "rpmem".into(),
    );
    broken.twist = |e| e.ko = "/bin/true".into();
    all.push(broken);
    let mut dead = case(
        "qemu-dies-early",
        &["self_pass"],
        &["QEMU ended with 1", "kernel log is empty"],
        plain,
    );
    dead.twist = |e| e.kernel = "/nonexistent".into();
    all.push(dead);
    all
}

/// Names of the tests that only these cases run.
pub fn tests_used() -> Vec<String> {
    cases()
        .iter()
        .flat_map(|c| c.boot.tests.iter().map(|t| t.name.clone()))
        .collect()
}

fn judge(c: &Case, reasons: &[String]) -> Result<(), String> {
    if c.want.is_empty() && !reasons.is_empty() {
        return Err(format!("must be green, is red: {}", reasons.join("; ")));
    }
    if !c.want.is_empty() && reasons.is_empty() {
        return Err("must be red, is green".into());
    }
    for w in c.want {
        if !reasons.iter().any(|r| r.contains(w)) {
            return Err(format!("red, but not for \"{w}\": {}", reasons.join("; ")));
        }
    }
    Ok(())
}

pub fn run(
    env: &Env,
    fixtures: &BTreeMap<String, Fixture>,
    jobs: usize,
    ui: &Ui,
) -> Result<bool, String> {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    let file = env.out.join("results/selftest.counts");
    let _ = std::fs::remove_file(&file);
    let fixture = fixtures.get("none").ok_or("no fixture \"none\"")?;
    std::thread::scope(|s| {
        for _ in 0..jobs {
            s.spawn(|| loop {
                let Some(c) = cases.get(next.fetch_add(1, Ordering::SeqCst)) else {
                    break;
                };
                if interrupted() {
                    break;
                }
                let began = ui.elapsed();
                let r = one(env, fixture, c, ui).and_then(|reasons| judge(c, &reasons));
                let took = ui.elapsed() - began;
                let colour = if c.want.is_empty() { "green" } else { "red" };
                let mut counts = counts.lock().unwrap();
                match r {
                    Ok(()) => {
                        counts.passed += 1;
                        ui.line(&format!(
                            "  ok      selftest/{}: {colour}, as it must be ({took:.1} s)",
                            c.name
                        ));
                    }
                    Err(e) => {
                        counts.failed += 1;
                        ui.line(&format!("  FAILED  selftest/{}: {e}", c.name));
                    }
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    if interrupted() {
        return Ok(false);
    }
    counts.write(&file)?;
    ui.stage(&format!(
        "selftest: {} passed, {} failed",
        counts.passed, counts.failed
    ));
    Ok(counts.failed == 0 && counts.passed == cases.len())
}

fn one(env: &Env, fixture: &Fixture, c: &Case, ui: &Ui) -> Result<Vec<String>, String> {
    let mut env = env.clone();
    (c.twist)(&mut env);
    let dir = run::run_dir(&env, &format!("selftest-{}", c.name))?;
    let job = Job {
        env: &env,
        fixture,
        boot: &c.boot,
        dir: &dir,
        logs: &dir,
        label: c.name,
    };
    let b = crate::boot::run(&job, ui, |_| {})?;
    Ok(b.verdict.reasons)
}
