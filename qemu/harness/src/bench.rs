// SPDX-License-Identifier: GPL-2.0
//! Benchmarks: this driver and the kernel's own, in guest instructions. What is measured is in
//! tests/guest/src/t_bench.rs; this boots the guests and makes the table.
//!
//! A guest runs each driver twice, the second time in the other order, and prints a line for each
//! value: `bench PASS SIDE KEY VALUE`. The two passes have to agree.

use crate::boot::{self, interrupted, Env, Job};
use crate::plot;
use crate::qemu::Accel;
use crate::run;
use crate::spec::{Boot, Fixture};
use crate::ui::Ui;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// Fixture and test of each boot, the longest first.
const BOOTS: [(&str, &str); 2] = [("bench", "bench_map"), ("bench", "bench_block")];
/// Seconds on hardware for one of them.
const TIMEOUT: u64 = 120;
/// By how much two passes may differ.
const AGREE: f64 = 0.005;

/// What is compared with what: keys of the guest's lines.
struct Row {
    label: &'static str,
    ours: &'static str,
    theirs: &'static str,
    /// Who `theirs` is.
    against: &'static str,
    /// What the ratio should not exceed, if there is a bar.
    bar: Option<f64>,
}

const fn row(
    label: &'static str,
    ours: &'static str,
    theirs: &'static str,
    against: &'static str,
    bar: f64,
) -> Row {
    Row {
        label,
        ours,
        theirs,
        against,
        bar: Some(bar),
    }
}

const fn same(label: &'static str, key: &'static str, against: &'static str) -> Row {
    Row {
        label,
        ours: key,
        theirs: key,
        against,
        bar: None,
    }
}

const PMEM: &str = "nd_pmem";
const DAX: &str = "device-dax";

const ROWS: &[Row] = &[
    row(
        "4 KiB random read, O_DIRECT",
        "block.read4k",
        "block.read4k",
        PMEM,
        1.0,
    ),
    row(
        "4 KiB random write, O_DIRECT",
        "block.write4k",
        "block.write4k",
        PMEM,
        1.0,
    ),
    row(
        "1 MiB sequential read, O_DIRECT",
        "block.read1m",
        "block.read1m",
        PMEM,
        0.98,
    ),
    row(
        "1 MiB sequential write, O_DIRECT",
        "block.write1m",
        "block.write1m",
        PMEM,
        0.98,
    ),
    row(
        "FLUSH (fdatasync of the disk)",
        "block.flush",
        "block.flush",
        PMEM,
        1.0,
    ),
    row("4 KiB FUA write", "block.fua", "block.fua", PMEM, 1.0),
    row(
        "fault of 4 KiB, read",
        "raw.fault4k.read",
        "devdax.fault4k.read",
        DAX,
        0.75,
    ),
    row(
        "fault of 4 KiB, write",
        "raw.fault4k.write",
        "devdax.fault4k.write",
        DAX,
        0.75,
    ),
    row(
        "touch by 4 KiB, in order, per page",
        "raw.touch.sequential",
        "devdax.touch.sequential",
        DAX,
        0.08,
    ),
    row(
        "touch by 4 KiB, random order, per page",
        "raw.touch.random",
        "devdax.touch.random",
        DAX,
        0.85,
    ),
    row(
        "fault of 2 MiB, read",
        "raw.fault2m.read",
        "devdax.fault2m.read",
        DAX,
        1.0,
    ),
    row(
        "fault of 2 MiB, write",
        "raw.fault2m.write",
        "devdax.fault2m.write",
        DAX,
        1.0,
    ),
    row(
        "fault of 1 GiB, write",
        "raw.fault1g.write",
        "devdax.fault1g.write",
        DAX,
        1.0,
    ),
    row(
        "munmap of 128 MiB by 4 KiB",
        "raw.munmap4k",
        "devdax.munmap4k",
        DAX,
        0.33,
    ),
    row(
        "munmap of 128 MiB by 2 MiB",
        "raw.munmap2m",
        "devdax.munmap2m",
        DAX,
        0.40,
    ),
    row(
        "prefault by 4 KiB, per page",
        "raw.prefault4k",
        "devdax.prefault4k",
        DAX,
        0.05,
    ),
    row(
        "prefault by 2 MiB, per entry",
        "raw.prefault2m",
        "devdax.prefault2m",
        DAX,
        1.0,
    ),
    same("devdax: fault of 4 KiB, read", "devdax.fault4k.read", DAX),
    same("devdax: fault of 4 KiB, write", "devdax.fault4k.write", DAX),
    same(
        "devdax: touch by 4 KiB, in order, per page",
        "devdax.touch.sequential",
        DAX,
    ),
    same(
        "devdax: touch by 4 KiB, random order, per page",
        "devdax.touch.random",
        DAX,
    ),
    same("devdax: munmap of 128 MiB by 4 KiB", "devdax.munmap4k", DAX),
    same(
        "devdax: prefault by 4 KiB, per page",
        "devdax.prefault4k",
        DAX,
    ),
    same("devdax: fault of 2 MiB, read", "devdax.fault2m.read", DAX),
    same("devdax: fault of 2 MiB, write", "devdax.fault2m.write", DAX),
    same("devdax: munmap of 128 MiB by 2 MiB", "devdax.munmap2m", DAX),
    same(
        "devdax: prefault by 2 MiB, per entry",
        "devdax.prefault2m",
        DAX,
    ),
    same("devdax: fault of 1 GiB, write", "devdax.fault1g.write", DAX),
];

pub fn tests_used() -> Vec<String> {
    BOOTS.iter().map(|b| b.1.to_string()).collect()
}

/// Values of the passes, by side and key.
type Values = BTreeMap<(bool, String), Vec<f64>>;

#[derive(Default)]
struct Measured {
    values: Values,
    facts: BTreeMap<String, String>,
    commands: BTreeMap<String, String>,
    failures: Vec<String>,
}

impl Measured {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#", "bench", _pass, side, key, value] => {
                let ours = match *side {
                    "ours" => true,
                    "theirs" => false,
                    _ => return Err(format!("bad line: {line}")),
                };
                let value: f64 = value.parse().map_err(|_| format!("bad line: {line}"))?;
                self.values
                    .entry((ours, key.to_string()))
                    .or_default()
                    .push(value);
            }
            ["#", "fact", key, rest @ ..] => {
                self.facts.insert(key.to_string(), rest.join(" "));
            }
            _ => {}
        }
        Ok(())
    }

    /// The mean of the passes.
    fn value(&self, ours: bool, key: &str) -> Option<f64> {
        let all = self.values.get(&(ours, key.to_string()))?;
        Some(all.iter().sum::<f64>() / all.len() as f64)
    }

    /// By how much the passes differ at most, and where.
    fn disagreement(&self) -> (f64, String) {
        let mut worst = (0.0, String::new());
        for ((ours, key), all) in &self.values {
            let max = all.iter().copied().fold(f64::MIN, f64::max);
            let min = all.iter().copied().fold(f64::MAX, f64::min);
            let by = if max > 0.0 { (max - min) / max } else { 0.0 };
            if by >= worst.0 {
                let side = if *ours { "ours" } else { "theirs" };
                worst = (by, format!("{side} {key}: {all:?}"));
            }
        }
        worst
    }
}

/// A line of the table.
pub struct Line {
    pub label: String,
    pub against: String,
    pub ours: f64,
    pub theirs: f64,
    pub bar: Option<f64>,
}

impl Line {
    pub fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }

    fn verdict(&self) -> &'static str {
        match self.bar {
            None => "",
            Some(bar) if self.ratio() <= bar => "met",
            Some(_) => "NOT MET",
        }
    }
}

/// Numbers with as many digits as mean something.
pub fn number(v: f64) -> String {
    if v >= 1e6 {
        format!("{:.2} M", v / 1e6)
    } else if v >= 100.0 {
        format!("{v:.0}")
    } else {
        format!("{v:.1}")
    }
}

pub fn ratio(v: f64) -> String {
    if v < 0.01 {
        format!("{v:.5}")
    } else {
        format!("{v:.3}")
    }
}

fn lines(m: &Measured) -> Result<Vec<Line>, String> {
    let mut all = Vec::new();
    for r in ROWS {
        let (Some(ours), Some(theirs)) = (m.value(true, r.ours), m.value(false, r.theirs)) else {
            return Err(format!("not measured: {} or {}", r.ours, r.theirs));
        };
        all.push(Line {
            label: r.label.into(),
            against: r.against.into(),
            ours,
            theirs,
            bar: r.bar,
        });
    }
    Ok(all)
}

fn markdown(lines: &[Line]) -> String {
    let mut t = String::from(
        "| work | rpmem | the other | | ratio | bar | |\n|---|--:|--:|---|--:|--:|---|\n",
    );
    for l in lines {
        t += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            l.label,
            number(l.ours),
            number(l.theirs),
            l.against,
            ratio(l.ratio()),
            l.bar.map_or(String::new(), |b| format!("{b}")),
            l.verdict()
        );
    }
    t
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Boots the guests, two at a time if there are CPUs for it: their clocks do not tell.
fn measure(
    env: &Env,
    fixtures: &BTreeMap<String, Fixture>,
    jobs: usize,
    ui: &Ui,
) -> Result<Measured, String> {
    let measured = Mutex::new(Measured::default());
    let next = AtomicUsize::new(0);
    let one = |fixture: &str, test: &str| -> Result<(), String> {
        let fixture = fixtures
            .get(fixture)
            .ok_or_else(|| format!("no fixture {fixture}"))?;
        let mut b = Boot::named(&[test], "rpmem");
        b.tests[0].timeout = TIMEOUT;
        let dir = run::run_dir(env, test)?;
        boot::create_backing(fixture, &dir)?;
        let job = Job {
            env,
            fixture,
            boot: &b,
            dir: &dir,
            logs: &dir,
            label: test,
        };
        let booted = boot::run(&job, ui, |line| {
            let mut m = measured.lock().unwrap();
            if let Err(e) = m.line(line) {
                m.failures.push(e);
            }
        });
        boot::remove_backing(fixture, &dir);
        let booted = booted?;
        let mut m = measured.lock().unwrap();
        let command = fs::read_to_string(dir.join("cmd")).unwrap_or_default();
        let command = command.lines().last().unwrap_or_default().to_string();
        m.commands.insert(test.into(), command);
        for why in &booted.verdict.reasons {
            m.failures.push(format!("{test}: {why}"));
        }
        ui.stage(&format!(
            "{test}: {} ({}, {:.1} s): {}",
            if booted.verdict.green() {
                "done"
            } else {
                "RED"
            },
            fixture.name,
            booted.seconds,
            dir.display()
        ));
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((fixture, test)) = BOOTS.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if interrupted() {
                        break;
                    }
                    if let Err(e) = one(fixture, test) {
                        measured.lock().unwrap().failures.push(e);
                    }
                }
            });
        }
    });
    Ok(measured.into_inner().unwrap())
}

/// Measures everything; the table goes to standard output and, with all there is to know, to
/// `$RPMEM_OUT/bench`.
pub fn run(
    env: &Env,
    fixtures: &BTreeMap<String, Fixture>,
    jobs: usize,
    ui: &Ui,
) -> Result<bool, String> {
    if env.flavour != "stock" || env.accel != Accel::Tcg {
        return Err("benchmarks are for the stock kernel under TCG".into());
    }
    let out = env.out.join("bench");
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let m = measure(env, fixtures, jobs, ui)?;
    if interrupted() {
        return Ok(false);
    }
    if !m.failures.is_empty() {
        for f in &m.failures {
            ui.line(&format!("    {f}"));
        }
        return Ok(false);
    }
    let all = lines(&m)?;
    let (by, what) = m.disagreement();
    let table = markdown(&all);
    ui.line(&table);
    ui.line(&format!(
        "two passes differ by {:.2} % at most ({what})",
        by * 100.0
    ));
    write(&out.join("bench.md"), &table)?;
    write(&out.join("bench.svg"), &plot::svg(&all))?;
    let json = json!({
        "kernel": env.krel,
        "unit": "guest instructions",
        "agree": { "limit": AGREE, "worst": by, "where": what },
        "rows": all.iter().map(|l| json!({
            "work": l.label, "against": l.against, "ours": l.ours, "theirs": l.theirs,
            "ratio": l.ratio(), "bar": l.bar,
        })).collect::<Vec<_>>(),
        "values": m.values.iter().map(|((ours, key), v)| json!({
            "key": key, "side": if *ours { "ours" } else { "theirs" }, "passes": v,
        })).collect::<Vec<_>>(),
        "facts": m.facts,
        "commands": m.commands,
    });
    write(
        &out.join("bench.json"),
        &serde_json::to_string_pretty(&json).map_err(|e| e.to_string())?,
    )?;
    ui.stage(&format!("written: {}/bench.{{md,json,svg}}", out.display()));
    if by > AGREE {
        ui.line("FAILED: that is too much for the figures to mean anything");
    }
    Ok(by <= AGREE)
}
