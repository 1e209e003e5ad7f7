// SPDX-License-Identifier: GPL-2.0
//! The demonstration of the main job: two boots of one machine, the first of which ends with
//! SIGKILL for QEMU. What the guest does is in tests/guest/src/t_demo.rs; this shows it as it
//! happens and judges it like any test.

use crate::boot::{self, interrupted, Env, Job};
use crate::run;
use crate::spec::{Boot, Fixture};
use crate::ui::Ui;
use crate::verdict::End;
use std::collections::BTreeMap;

const FIXTURE: &str = "nfit-label";
const STORE: &str = "demo_store";
const VERIFY: &str = "demo_verify";
/// Seconds, on hardware, for each half.
const TIMEOUT: u64 = 30;

pub fn tests_used() -> Vec<String> {
    vec![STORE.into(), VERIFY.into()]
}

fn boots(driver: &str) -> [Boot; 2] {
    [(STORE, End::PowerCut), (VERIFY, End::Exit)].map(|(test, end)| {
        // The guest loads drivers itself, by commands that the user sees.
        let mut b = Boot::named(&[test], "none");
        b.tests[0].timeout = TIMEOUT;
        b.params = vec![driver.to_string()];
        b.end = end;
        b
    })
}

fn show(ui: &Ui, line: &str) {
    let Some(text) = line.strip_prefix("# ") else {
        return;
    };
    match text.strip_prefix("== ") {
        Some(heading) => ui.stage(heading),
        None if text.starts_with("rpmem: ") => {}
        None => ui.line(&format!("    {text}")),
    }
}

pub fn run(
    env: &Env,
    fixtures: &BTreeMap<String, Fixture>,
    driver: &str,
    ui: &Ui,
) -> Result<bool, String> {
    if !["rpmem", "nd_pmem"].contains(&driver) {
        return Err(format!("there is no demo with driver {driver}"));
    }
    if driver == "rpmem" && !env.ko.is_file() {
        return Err(format!("{}: no such file", env.ko.display()));
    }
    let fixture = fixtures
        .get(FIXTURE)
        .ok_or_else(|| format!("no fixture {FIXTURE}"))?;
    let dir = run::run_dir(env, "demo")?;
    boot::create_backing(fixture, &dir)?;
    let mut green = true;
    for (n, b) in boots(driver).iter().enumerate() {
        ui.stage(&format!(
            "boot {}: {} with {}",
            n + 1,
            env.krel,
            fixture.summary
        ));
        let logs = dir.join(format!("boot{}", n + 1));
        let label = format!("boot {}", n + 1);
        let job = Job {
            env,
            fixture,
            boot: b,
            dir: &dir,
            logs: &logs,
            label: &label,
        };
        let booted = boot::run(&job, ui, |l| show(ui, l))?;
        if interrupted() {
            break;
        }
        if !booted.verdict.green() {
            green = false;
            ui.stage("the demonstration FAILED:");
            for r in &booted.verdict.reasons {
                ui.line(&format!("    {r}"));
            }
            ui.line(&format!("    logs and backing files: {}", dir.display()));
            break;
        }
        if b.end == End::PowerCut {
            ui.stage("QEMU was killed (SIGKILL): no shutdown, no unmount, no sync");
            ui.line("    What this shows: no shutdown, unmount, msync or fsync was needed.");
            ui.line(
                "    What it cannot show: QEMU's medium keeps every store that the guest made, so",
            );
            ui.line("    nobody sees what a real CPU cache would have lost without the flushes.");
        }
    }
    if green || interrupted() {
        boot::remove_backing(fixture, &dir);
    }
    if interrupted() {
        return Ok(false);
    }
    if green {
        ui.stage(&format!(
            "proven: on an unpatched Debian kernel {}, {driver} serves an NVDIMM to ext4 and xfs with -o dax; \
             2 x 16 MiB stored through MAP_SYNC mappings, flushed, never synced, were there byte for byte after \
             the machine was killed",
            env.krel
        ));
    }
    Ok(green)
}
