// SPDX-License-Identifier: GPL-2.0
//! Benchmarks: this driver and the kernel's own, in guest instructions. What is measured is in
//! tests/guest/src/t_bench; this boots the guests and makes the table. `rows.rs` says what is compared.
//!
//! A guest runs each driver twice, the second time in the other order, and prints a line for each
//! value: `bench PASS SIDE KEY VALUE`. The two passes have to agree. What cannot be measured there it says
//! by `without PART WHY`: rows whose keys have that part.

use crate::arch::Arch;
use crate::boot::{self, interrupted, Env, Job};
use crate::plot;
use crate::profile::Profile;
use crate::qemu::Accel;
use crate::rows::{Row, COARSE, GROWTH, ROWS, SHORT};
use crate::run;
use crate::spec::{Boot, Fixture};
use crate::ui::Ui;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

/// A machine and what is measured on it.
struct Bench {
    fixture: &'static str,
    test: &'static str,
    /// Under the plugin that counts by place, with these options.
    profile: Option<&'static str>,
    /// By a clock of time, not of instructions, on this.
    timed: Option<Accel>,
}

const fn plain(fixture: &'static str, test: &'static str) -> Bench {
    Bench {
        fixture,
        test,
        profile: None,
        timed: None,
    }
}

/// The longest first.
const BOOTS: [Bench; 10] = [
    plain("bench-smp", "bench_threads"),
    plain("bench", "bench_map"),
    Bench {
        fixture: "bench",
        test: "bench_profile",
        profile: Some(""),
        timed: None,
    },
    plain("bench", "bench_fs"),
    Bench {
        fixture: "bench-smp",
        test: "bench_lines",
        profile: Some(",stores=on"),
        timed: None,
    },
    plain("bench", "bench_calls"),
    plain("bench", "bench_many"),
    plain("bench", "bench_msync"),
    plain("bench", "bench_block"),
    plain("bench-large", "bench_probe"),
];
/// What is measured in time as well. Threads on virtual CPUs, and probes, which wait for others, would
/// tell nothing.
const TIMED: [&str; 4] = ["bench_map", "bench_fs", "bench_msync", "bench_block"];

fn timed(on: Accel) -> impl Iterator<Item = Bench> {
    TIMED.into_iter().map(move |test| Bench {
        timed: Some(on),
        ..plain("bench", test)
    })
}
/// Seconds on hardware for one of them.
const TIMEOUT: u64 = 240;
/// By how much two passes may differ. msync of 1 GiB by the page does by 0.56 % on Linux 7.3.
const AGREE: f64 = 0.01;
/// The same for what is coarse: rows.rs.
pub const AGREE_COARSE: f64 = 0.03;

pub fn tests_used() -> Vec<String> {
    BOOTS.iter().map(|b| b.test.to_string()).collect()
}

/// Values of the passes, by side and key.
type Values = BTreeMap<(bool, String), Vec<f64>>;

#[derive(Default)]
struct Measured {
    values: Values,
    /// In ticks of the time-stamp counter: by the emulator, and by hardware.
    wall: Values,
    cycles: Values,
    facts: BTreeMap<String, String>,
    /// Parts of the keys of rows that are left out, and why.
    without: BTreeMap<String, String>,
    commands: BTreeMap<String, String>,
    failures: Vec<String>,
}

impl Measured {
    fn line(&mut self, line: &str, timed: Option<Accel>) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["#", "bench", _pass, side, key, value] => {
                let ours = match *side {
                    "ours" => true,
                    "theirs" => false,
                    _ => return Err(format!("bad line: {line}")),
                };
                let value: f64 = value.parse().map_err(|_| format!("bad line: {line}"))?;
                let values = match timed {
                    None => &mut self.values,
                    Some(Accel::Tcg) => &mut self.wall,
                    Some(Accel::Kvm) => &mut self.cycles,
                };
                values
                    .entry((ours, key.to_string()))
                    .or_default()
                    .push(value);
            }
            ["#", "without", part, why @ ..] => {
                self.without.insert(part.to_string(), why.join(" "));
            }
            ["#", "fact", key, rest @ ..] if timed.is_none() => {
                self.facts.insert(key.to_string(), rest.join(" "));
            }
            _ => {}
        }
        Ok(())
    }

    /// What the plugin has counted: the driver's share of a bio, and stores to cache lines that several
    /// CPUs store to.
    fn take(&mut self, p: &Profile) {
        for w in &p.windows {
            let key = (w.ours, w.row.clone());
            if let Some(insns) = p.driver_share(w) {
                // Of the last window, as below.
                let key = (w.ours, format!("share.{}", w.row));
                self.values.insert(key, vec![insns]);
            }
            if w.row.starts_with("lines") {
                // Of the last window: what is done for the first time is over.
                let shared = p.shared_by_driver(w) as f64 / w.operations as f64;
                self.values.insert(key, vec![shared]);
            }
        }
    }

    /// What follows from what was measured: how costs grow, in percent of the least.
    fn derive(&mut self) {
        for (prefix, sizes) in GROWTH {
            for ours in [true, false] {
                let at = |n: &str| self.value(ours, &format!("{prefix}{n}"));
                let Some(least) = at(sizes[0]) else {
                    continue;
                };
                let grown = sizes.iter().filter_map(|n| Some((n, at(n)? / least)));
                for (n, value) in grown.collect::<Vec<_>>() {
                    let key = (ours, format!("growth.{prefix}{n}"));
                    self.values.insert(key, vec![value * 100.0]);
                }
            }
        }
    }

    /// The mean of the passes.
    fn value(&self, ours: bool, key: &str) -> Option<f64> {
        let all = self.values.get(&(ours, key.to_string()))?;
        Some(all.iter().sum::<f64>() / all.len() as f64)
    }

    /// By how much the passes differ at most, and where: of operations, or of what is coarse.
    fn disagreement(&self, coarse: bool) -> (f64, String) {
        let mut worst = (0.0, "nothing".to_string());
        for ((ours, key), all) in &self.values {
            // Which CPU comes first to a cache line is up to the host.
            let is_coarse = COARSE.iter().any(|part| key.contains(part));
            if key.starts_with("lines") || is_coarse != coarse {
                continue;
            }
            let max = all.iter().copied().fold(f64::MIN, f64::max);
            let min = all.iter().copied().fold(f64::MAX, f64::min);
            let by = if max > 0.0 { (max - min) / max } else { 0.0 };
            if by > worst.0 {
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
    /// The same ratio in time, under TCG and under KVM.
    pub wall: Option<f64>,
    pub cycles: Option<f64>,
    /// What the README shows.
    pub short: bool,
}

impl Line {
    pub fn ratio(&self) -> f64 {
        if self.ours == 0.0 {
            return 0.0;
        }
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

/// The ratio of the lesser of the passes: what else the host does only adds to time.
fn time_ratio(values: &Values, r: &Row) -> Option<f64> {
    let least = |ours: bool, key: &str| {
        let all = values.get(&(ours, key.to_string()))?;
        all.iter().copied().min_by(f64::total_cmp)
    };
    Some(least(true, r.ours)? / least(r.is_own(), r.theirs)?)
}

fn lines(m: &Measured, only: bool, arch: &Arch) -> Result<Vec<Line>, String> {
    let mut all = Vec::new();
    for r in ROWS {
        let other = m.value(r.is_own(), r.theirs);
        let (Some(ours), Some(theirs)) = (m.value(true, r.ours), other) else {
            if only || m.without.keys().any(|part| r.ours.contains(part)) {
                continue;
            }
            return Err(format!("not measured: {} or {}", r.ours, r.theirs));
        };
        all.push(Line {
            label: r.label.into(),
            against: r.against.replace("WRITE-BACK", arch.write_back),
            ours,
            theirs,
            bar: r.bar.filter(|_| arch.barred),
            wall: time_ratio(&m.wall, r),
            cycles: time_ratio(&m.cycles, r),
            short: SHORT.contains(&r.ours),
        });
    }
    Ok(all)
}

fn markdown(lines: &[Line], kvm: bool) -> String {
    let bars = lines.iter().any(|l| l.bar.is_some());
    let mut t = String::from("| work | rpmem | the other | | ratio |");
    t += if bars { " bar | |" } else { "" };
    t += if kvm {
        " wall time | cycles |\n"
    } else {
        " wall time |\n"
    };
    t += "|---|--:|--:|---|--:|";
    t += if bars { "--:|---|" } else { "" };
    t += if kvm { "--:|--:|\n" } else { "--:|\n" };
    let time = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.2}"));
    for l in lines {
        t += &format!(
            "| {} | {} | {} | {} | {} |",
            l.label,
            number(l.ours),
            number(l.theirs),
            l.against,
            ratio(l.ratio())
        );
        if bars {
            let bar = l.bar.map_or(String::new(), |b| format!("{b}"));
            t += &format!(" {bar} | {} |", l.verdict());
        }
        t += &format!(" {} |", time(l.wall));
        if kvm {
            t += &format!(" {} |", time(l.cycles));
        }
        t.push('\n');
    }
    t
}

/// For the README.
fn short_markdown(lines: &[Line]) -> String {
    let mut t = String::from("| work | rpmem | the other | | ratio |\n|---|--:|--:|---|--:|\n");
    for l in lines.iter().filter(|l| l.short) {
        t += &format!(
            "| {} | {} | {} | {} | {} |\n",
            l.label,
            number(l.ours),
            number(l.theirs),
            l.against,
            ratio(l.ratio())
        );
    }
    t
}

/// Where all of it is written.
fn out(env: &Env) -> PathBuf {
    env.out.join(match env.arch.name {
        "amd64" => "bench".to_string(),
        arch => format!("bench-{arch}"),
    })
}

/// Bytes of text and data of a module, as size(1) has them.
fn size(env: &Env, name: &str) -> Result<f64, String> {
    let script = "f=$1; case $f in *.xz) xz -dc \"$f\" >\"$2\" && f=$2 ;; esac; size -B \"$f\"";
    let file = match name {
        "rpmem" => env.ko.clone(),
        _ => {
            let dir = match name {
                "nd_pmem" => "nvdimm",
                _ => "dax",
            };
            let dir = env.modules.join("kernel/drivers").join(dir);
            let names = [format!("{name}.ko.xz"), format!("{name}.ko")];
            let found = names.iter().map(|n| dir.join(n)).find(|f| f.is_file());
            found.ok_or_else(|| format!("{}: no {name}", dir.display()))?
        }
    };
    let plain = out(env).join("module.ko");
    let out = Command::new("sh")
        .args(["-c", script, "sh"])
        .args([&file, &plain])
        .output()
        .map_err(|e| format!("sh: {e}"))?;
    let _ = fs::remove_file(plain);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    // Titles; text data bss ...
    let words = text.lines().nth(1).unwrap_or_default().split_whitespace();
    let words: Vec<f64> = words.filter_map(|w| w.parse().ok()).collect();
    match words.as_slice() {
        [text, data, ..] if out.status.success() => Ok(text + data),
        _ => Err(format!("size of {}: {text}", file.display())),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Boots the guests, those whose clocks do not tell two at a time if there are CPUs for it.
fn measure(
    env: &Env,
    fixtures: &BTreeMap<String, Fixture>,
    only: Option<&str>,
    kvm: bool,
    jobs: usize,
    ui: &Ui,
) -> Result<Measured, String> {
    let measured = Mutex::new(Measured::default());
    let one = |bench: &Bench| -> Result<(), String> {
        let test = bench.test;
        let (label, env) = match bench.timed {
            None => (test.to_string(), env.clone()),
            Some(accel) => {
                let env = Env {
                    accel,
                    ..env.clone()
                };
                (format!("{test}-{}", accel.name()), env)
            }
        };
        let env = &env;
        let mut fixture = fixtures
            .get(bench.fixture)
            .ok_or_else(|| format!("no fixture {}", bench.fixture))?
            .clone();
        let mut b = Boot::named(&[test], "rpmem");
        b.tests[0].timeout = TIMEOUT;
        if bench.timed.is_some() {
            fixture.icount = None;
            b.cmdline = format!("RPMEM_TIMED=1 {}", env.arch.followed);
        }
        let dir = run::run_dir(env, &label)?;
        boot::create_backing(&fixture, &dir)?;
        let counts = dir.join("counts");
        if let Some(options) = bench.profile {
            let plugin = env.profile.display();
            let plugin = format!("{plugin},out={}{options}", counts.display());
            fixture.extra.extend(["-plugin".into(), plugin]);
            if options.contains("stores") {
                // With a clock that counts, CPUs take turns in one thread, and QEMU does not tell
                // a plugin which of them it is.
                fixture.icount = None;
            }
        }
        let job = Job {
            env,
            fixture: &fixture,
            boot: &b,
            dir: &dir,
            logs: &dir,
            label: &label,
        };
        let booted = boot::run(&job, ui, |line| {
            let mut m = measured.lock().unwrap();
            if let Err(e) = m.line(line, bench.timed) {
                m.failures.push(e);
            }
        });
        boot::remove_backing(&fixture, &dir);
        let booted = booted?;
        let profile = match bench.profile {
            Some(_) if booted.verdict.green() => Some(Profile::read(&counts)?),
            _ => None,
        };
        let mut m = measured.lock().unwrap();
        let command = fs::read_to_string(dir.join("cmd")).unwrap_or_default();
        let command = command.lines().last().unwrap_or_default().to_string();
        m.commands.insert(label.clone(), command);
        if let Some(p) = profile {
            m.take(&p);
            let text = p.to_string();
            write(&out(env).join(format!("{test}.txt")), &text)?;
        }
        for why in &booted.verdict.reasons {
            m.failures.push(format!("{label}: {why}"));
        }
        ui.stage(&format!(
            "{label}: {} ({}, {:.1} s): {}",
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
    let all = |benches: &[Bench], jobs: usize| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(bench) = benches.get(next.fetch_add(1, Ordering::SeqCst)) {
                        if interrupted() {
                            break;
                        }
                        if only.is_some_and(|test| test != bench.test) {
                            continue;
                        }
                        if let Err(e) = one(bench) {
                            measured.lock().unwrap().failures.push(e);
                        }
                    }
                });
            }
        });
    };
    all(&BOOTS, jobs);
    // One after the other: these tell when others run.
    let on_kvm = kvm.then(|| timed(Accel::Kvm)).into_iter().flatten();
    all(&timed(Accel::Tcg).chain(on_kvm).collect::<Vec<_>>(), 1);
    Ok(measured.into_inner().unwrap())
}

/// Measures everything; the table goes to standard output and, with all there is to know, to
/// `$RPMEM_OUT/bench`. With `only` it is the rows of that test, on standard output. With `kvm`, which
/// has to work, there are cycles as well.
pub fn run(
    env: &Env,
    fixtures: &BTreeMap<String, Fixture>,
    only: Option<&str>,
    kvm: bool,
    jobs: usize,
    ui: &Ui,
) -> Result<bool, String> {
    if env.flavour != "stock" || env.accel != Accel::Tcg {
        return Err("benchmarks are for the stock kernel under TCG".into());
    }
    let out = out(env);
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let mut m = measure(env, fixtures, only, kvm, jobs, ui)?;
    if interrupted() {
        return Ok(false);
    }
    if !m.failures.is_empty() {
        for f in &m.failures {
            ui.line(&format!("    {f}"));
        }
        return Ok(false);
    }
    let apart = [(false, AGREE), (true, AGREE_COARSE)]
        .map(|(coarse, limit)| (m.disagreement(coarse), limit));
    let agree = apart.iter().all(|((by, _), limit)| by <= limit);
    m.derive();
    for (ours, files) in [(true, &["rpmem"][..]), (false, &["nd_pmem", "device_dax"])] {
        let sizes = files.iter().map(|name| size(env, name));
        let sum = sizes.sum::<Result<f64, String>>()?;
        m.values.insert((ours, "size".into()), vec![sum]);
    }
    let all = lines(&m, only.is_some(), env.arch)?;
    let mut table = format!(
        "Linux {}, Debian's configuration. Guest instructions per operation, unless it says \
         otherwise.\n\n",
        env.krel
    );
    table += &markdown(&all, kvm);
    for (part, why) in &m.without {
        table += &format!("\nWithout `{part}`: {why}.");
    }
    for ((by, _), limit) in &apart {
        table += &format!(
            "\nTwo passes differ by {:.2} % at most ({:.1} % are allowed{}).",
            by * 100.0,
            limit * 100.0,
            if *limit == AGREE {
                ""
            } else {
                " for processes, threads, io_uring, bind, open and what grows"
            }
        );
    }
    table += "\nWall time is the ratio in time under TCG, without -icount; it is that of the emulator and of \
              this run, and has no weight.";
    table += if kvm {
        " Cycles are those of the time-stamp counter under KVM.\n"
    } else {
        " A boot under KVM did not pass here, so that there are no cycles.\n"
    };
    ui.line(&table);
    for ((by, what), limit) in &apart {
        ui.line(&format!(
            "two passes differ by {:.2} % at most, {:.1} % are allowed ({what})",
            by * 100.0,
            limit * 100.0
        ));
    }
    if !agree {
        ui.line("FAILED: that is too much for the figures to mean anything");
    }
    if only.is_some() {
        return Ok(agree);
    }
    write(&out.join("bench.md"), &table)?;
    write(&out.join("short.md"), &short_markdown(&all))?;
    write(&out.join("bench.svg"), &plot::svg(&all))?;
    let json = json!({
        "kernel": env.krel,
        "config": "Debian's",
        "unit": "guest instructions",
        "agree": apart.iter().map(|((by, what), limit)| json!({
            "limit": limit, "worst": by, "where": what,
        })).collect::<Vec<_>>(),
        "rows": all.iter().map(|l| json!({
            "work": l.label, "against": l.against, "ours": l.ours, "theirs": l.theirs,
            "ratio": l.ratio(), "bar": l.bar, "wall": l.wall, "cycles": l.cycles,
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
    Ok(agree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch;

    /// As if all of it cost the same.
    fn measured() -> Measured {
        let mut m = Measured::default();
        for r in ROWS {
            for (ours, key) in [(true, r.ours), (r.is_own(), r.theirs)] {
                m.values.insert((ours, key.into()), vec![1.0]);
            }
        }
        m
    }

    #[test]
    fn rows_are_left_out_with_a_reason_only() {
        let (amd64, arm64) = (arch::named("amd64").unwrap(), arch::named("arm64").unwrap());
        let mut m = measured();
        let all = lines(&m, false, amd64).unwrap();
        assert_eq!(all.len(), ROWS.len());
        assert!(all.iter().any(|l| l.against == "clwb of all of it"));
        assert!(markdown(&all, false).contains("| bar | | wall time |"));
        m.values.remove(&(true, "raw.fault1g.write".into()));
        assert!(lines(&m, false, arm64).is_err());
        m.line("# without fault1g there are none", None).unwrap();
        let some = lines(&m, false, arm64).unwrap();
        assert_eq!(some.len(), ROWS.len() - 1);
        assert!(some.iter().any(|l| l.against == "dc cvap of all of it"));
        assert!(markdown(&some, false).contains("| ratio | wall time |"));
    }
}
