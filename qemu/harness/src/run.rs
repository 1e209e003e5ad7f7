// SPDX-License-Identifier: GPL-2.0
//! Runs scenarios: their boots one after the other on the same backing files.

use crate::boot::{self, interrupted, Booted, Env, Job, RECORDING};
use crate::crash::{self, Wish};
use crate::host::{self, Snapshots};
use crate::qemu;
use crate::record;
use crate::spec::{Boot, Fixture, HostAction, Scenario};
use crate::ui::Ui;
use crate::verdict::Status;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs whose logs are kept.
const KEEP_RUNS: usize = 100;

#[derive(Default, Debug, Clone, Copy)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
}

impl Counts {
    pub fn add(&mut self, c: Counts) {
        self.passed += c.passed;
        self.failed += c.failed;
    }

    pub fn write(&self, path: &Path) -> Result<(), String> {
        let dir = path.parent().expect("a file in a folder");
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        fs::write(path, format!("{} {}\n", self.passed, self.failed))
            .map_err(|e| format!("{}: {e}", path.display()))
    }
}

pub struct Outcome {
    pub counts: Counts,
    /// Reasons per boot, empty where it was green; fewer boots than the scenario has if one was red.
    pub boots: Vec<Vec<String>>,
    pub green: bool,
}

/// "20260131T235959Z"
pub fn utc() -> String {
    let t = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (days, secs) = ((t / 86400) as i64, t % 86400);
    // Civil date from days since 1970, by eras of 400 years.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        secs / 3600,
        secs / 60 % 60,
        secs % 60
    )
}

pub fn run_dir(env: &Env, name: &str) -> Result<PathBuf, String> {
    let runs = env.out.join("runs");
    prune(&runs);
    let stem = format!("{}-{name}", utc());
    fs::create_dir_all(&runs).map_err(|e| format!("{}: {e}", runs.display()))?;
    // Two runs of one name in one second get different folders.
    for n in 0..1000 {
        let dir = runs.join(if n == 0 {
            stem.clone()
        } else {
            format!("{stem}.{n}")
        });
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(format!("{}: {e}", dir.display())),
        }
    }
    Err(format!("{}: no free name", runs.display()))
}

/// Remove the oldest runs; names begin with the time.
fn prune(runs: &Path) {
    let mut dirs: Vec<PathBuf> = fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    dirs.sort();
    let surplus = dirs.len().saturating_sub(KEEP_RUNS);
    for d in &dirs[..surplus] {
        let _ = fs::remove_dir_all(d);
    }
}

fn actions(list: &[HostAction], dir: &Path, snaps: &mut Snapshots) -> Vec<String> {
    list.iter()
        .filter_map(|a| host::act(a, dir, snaps).err())
        .collect()
}

/// One line per test, and the counts of a boot.
fn report(name: &str, b: &Booted, extra: &[String], ui: &Ui) -> Counts {
    let mut c = Counts::default();
    for (test, status) in &b.verdict.tests {
        let time = b
            .times
            .get(test)
            .map_or(String::new(), |t| format!(" ({t:.1} s)"));
        match status {
            Status::Pass => {
                c.passed += 1;
                ui.line(&format!("  ok      {name}/{test}{time}"));
            }
            Status::Skip(why) => ui.line(&format!("  skip    {name}/{test}: {why}")),
            Status::Fail(why) => {
                c.failed += 1;
                ui.line(&format!("  FAILED  {name}/{test}{time}: {why}"));
            }
            Status::Missing => {
                c.failed += 1;
                ui.line(&format!("  MISSING {name}/{test}"));
            }
        }
    }
    for figure in &b.verdict.figures {
        ui.line(&format!("          {figure}"));
    }
    if c.failed == 0 && (!b.verdict.green() || !extra.is_empty()) {
        // Every test passed and the boot is red all the same.
        c.failed = 1;
    }
    c
}

/// The disk that a boot with states has them on.
const STATES: &str = "states.img";

/// Gives a boot the states that a power cut could have left in what one before it has recorded.
fn states(env: &Env, b: &Boot, dir: &Path, ui: &Ui) -> Result<(), String> {
    let wish = Wish {
        states: b.states,
        seed: env.seed,
        only: env.state,
        blocks: &b.blocks,
    };
    let recordings = record::read(&dir.join(RECORDING))?;
    for figure in crash::make(&recordings, &wish, &dir.join(STATES))? {
        ui.line(&format!("          {figure}"));
    }
    Ok(())
}

/// The files of a run that was red, with which one goes on from the boot that has the states.
fn copy_run(from: &Path, fixture: &Fixture, dir: &Path) -> Result<(), String> {
    let backing = qemu::backing(fixture).into_iter().map(|f| f.0);
    let backing = backing.filter(|name| name != STATES);
    for file in backing.chain([RECORDING.into()]) {
        let ctx = |e| format!("{}: {e}", from.join(&file).display());
        fs::copy(from.join(&file), dir.join(&file)).map_err(ctx)?;
    }
    Ok(())
}

/// `fixtures` has every machine by name.
pub fn scenario(
    env: &Env,
    s: &Scenario,
    fixtures: &BTreeMap<String, Fixture>,
    ui: &Ui,
) -> Result<Outcome, String> {
    let fixture = fixtures
        .get(&s.fixture)
        .ok_or_else(|| format!("{}: no fixture {}", s.name, s.fixture))?;
    let dir = run_dir(env, &s.name)?;
    boot::create_backing(fixture, &dir)?;
    if let Some(from) = &env.again {
        copy_run(from, fixture, &dir)?;
    }
    let mut out = Outcome {
        counts: Counts::default(),
        boots: Vec::new(),
        green: true,
    };
    let mut snaps = Snapshots::default();
    let boots: Vec<&Boot> = s
        .boots
        .iter()
        .flat_map(|b| std::iter::repeat_n(b, b.repeat as usize))
        .collect();
    for (n, &b) in boots.iter().enumerate() {
        let label = if boots.len() > 1 {
            format!("{} boot {}", s.name, n + 1)
        } else {
            s.name.clone()
        };
        if env.again.is_some() && b.states == 0 {
            continue;
        }
        let mut extra = actions(&b.before, &dir, &mut snaps);
        if b.states > 0 {
            extra.extend(states(env, b, &dir, ui).err());
        }
        let boot_in = |logs: &Path| {
            boot::run(
                &Job {
                    env,
                    fixture,
                    boot: b,
                    dir: &dir,
                    logs,
                    label: &label,
                },
                ui,
                |_| {},
            )
        };
        let mut booted = boot_in(&dir.join(format!("boot{}", n + 1)))?;
        if booted.nothing_ran {
            ui.line(&format!(
                "  {label}: the kernel did not get as far as init: {}; booting once more",
                booted.verdict.reasons.join(", ")
            ));
            booted = boot_in(&dir.join(format!("boot{}-again", n + 1)))?;
        }
        if interrupted() {
            out.green = false;
            break;
        }
        extra.extend(actions(&b.after, &dir, &mut snaps));
        out.counts.add(report(&s.name, &booted, &extra, ui));
        let mut reasons = booted.verdict.reasons;
        reasons.extend(extra);
        let green = reasons.is_empty();
        ui.stage(&format!(
            "{label}: {} ({}, {} {}, {:.1} s)",
            if green { "green" } else { "RED" },
            s.fixture,
            b.driver,
            b.params.join(" "),
            booted.seconds
        ));
        for r in &reasons {
            ui.line(&format!("    {r}"));
        }
        out.boots.push(reasons);
        if !green {
            out.green = false;
            // Later boots build on this one; their tests count as failed.
            for later in &boots[n + 1..] {
                out.counts.failed += later.tests.len();
                for t in &later.tests {
                    ui.line(&format!("  NOT RUN {}/{}", s.name, t.name));
                }
            }
            ui.line(&format!("    logs and backing files: {}", dir.display()));
            break;
        }
    }
    if out.green || interrupted() {
        boot::remove_backing(fixture, &dir);
        let _ = fs::remove_file(dir.join(RECORDING));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn time() {
        let t = super::utc();
        assert_eq!(t.len(), 16);
        assert!(t.starts_with("20") && t.ends_with('Z'), "{t}");
    }
}
