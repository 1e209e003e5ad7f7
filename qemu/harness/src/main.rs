// SPDX-License-Identifier: GPL-2.0
//! Boots guests on machines described as data, runs tests in them, and gives a verdict that
//! fails closed. See `spec.rs` for fixtures and scenarios, `verdict.rs` for what green means.

mod arch;
mod bench;
mod boot;
mod clock;
mod cover;
mod cpio;
mod crash;
mod demo;
mod durable;
mod dwarf;
mod host;
mod image;
mod lines;
mod monitor;
mod plot;
mod profile;
mod qemu;
mod record;
mod rows;
mod run;
mod selftest;
mod spec;
mod tally;
mod ui;
mod verdict;
mod volatile;

use boot::{interrupted, Env, Job, INTERRUPTED};
use cover::Cover;
use lines::Lines;
use qemu::Accel;
use run::Counts;
use spec::{Boot, Fixture, Scenario};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use ui::Ui;

const USAGE: &str = "\
usage: rpmem-qemu [options] COMMAND

  test [--scenario S]... [--test T]   run scenarios, all by default; with --test only the
                                      boots that T needs
  selftest                            check the verdict on live guests that misbehave
  demo                                show the main job
  bench                               measure this driver and the kernel's own side by side
  shell --fixture F                   an interactive shell in a guest
  list                                fixtures, scenarios and their tests
  coverage [--check] [--doc]          which lines of the module no guest has executed, in boots
                                      under $RPMEM_COVERAGE; compare with the document; renew it
  check                               every registered test is in a scenario, and the reverse

options:
  --accel tcg|kvm|auto   default tcg; kvm only after a probe boot has proved it
  --driver rpmem|nd_pmem|none         for shell and demo; default rpmem
  --file PATH                         for shell: the guest has it in /root; may be repeated
  --jobs N                            guests at a time
  --long                              all scenarios, and the long form of their tests
  --seed N                            for tests that draw numbers; default: drawn, and printed
  --again DIR                         for a scenario with crash states that was red: with what that
                                      run has recorded; the seed and the length must be the same
  --state N                           that one alone of the states of each recording

environment: RPMEM_TOP RPMEM_OUT RPMEM_VMLINUZ RPMEM_GUEST_BASE RPMEM_GUEST_BIN RPMEM_BIND RPMEM_KREL
RPMEM_LAST_FLUSH RPMEM_NFIT_TEST RPMEM_NFIT_MODULE RPMEM_NDCTL RPMEM_PROFILE RPMEM_COVER RPMEM_KMODULES,
RPMEM_RUN (runs --list of the guest program, if the host cannot), RPMEM_ARCH (default: amd64),
RPMEM_KO (default: $RPMEM_OUT/module/rpmem.ko), RPMEM_FLAVOUR (default: stock) and
RPMEM_COVERAGE (default: what is executed is not noted)";

#[derive(Default)]
struct Options {
    command: String,
    scenarios: Vec<String>,
    test: Option<String>,
    fixture: Option<String>,
    accel: String,
    driver: Option<String>,
    files: Vec<PathBuf>,
    jobs: Option<usize>,
    long: bool,
    doc: bool,
    check: bool,
    seed: Option<u64>,
    state: Option<u64>,
    again: Option<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        accel: "tcg".into(),
        ..Default::default()
    };
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            "--scenario" => o.scenarios.push(value()?),
            "--test" => o.test = Some(value()?),
            "--fixture" => o.fixture = Some(value()?),
            "--accel" => o.accel = value()?,
            "--driver" => o.driver = Some(value()?),
            "--file" => o.files.push(value()?.into()),
            "--jobs" => {
                let n = value()?.parse().ok().filter(|n| *n > 0);
                o.jobs = Some(n.ok_or("--jobs needs a number above 0")?);
            }
            "--long" => o.long = true,
            "--doc" => o.doc = true,
            "--check" => o.check = true,
            "--seed" => {
                o.seed = Some(value()?.parse().map_err(|_| "--seed needs a number")?);
            }
            "--state" => {
                o.state = Some(value()?.parse().map_err(|_| "--state needs a number")?);
            }
            "--again" => o.again = Some(value()?.into()),
            "-h" | "--help" | "help" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            c if !c.starts_with('-') && o.command.is_empty() => o.command = c.into(),
            other => return Err(format!("unknown argument {other}\n{USAGE}")),
        }
    }
    if o.command.is_empty() {
        return Err(USAGE.into());
    }
    Ok(o)
}

fn need(name: &str) -> Result<PathBuf, String> {
    match std::env::var_os(name) {
        Some(v) if !v.is_empty() => Ok(v.into()),
        _ => Err(format!("{name} is not set")),
    }
}

/// A seed that is short enough to be typed.
fn draw() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

fn environment(o: &Options) -> Result<Env, String> {
    let out = need("RPMEM_OUT")?;
    let env = Env {
        arch: arch::named(&std::env::var("RPMEM_ARCH").unwrap_or("amd64".into()))?,
        top: need("RPMEM_TOP")?,
        packed: need("RPMEM_VMLINUZ")?,
        kernel: need("RPMEM_VMLINUZ")?,
        base: need("RPMEM_GUEST_BASE")?,
        guest: need("RPMEM_GUEST_BIN")?,
        ko: need("RPMEM_KO").unwrap_or_else(|_| out.join("module/rpmem.ko")),
        bind: need("RPMEM_BIND")?,
        nfit_test: need("RPMEM_NFIT_TEST")?,
        nfit_ko: need("RPMEM_NFIT_MODULE")?.join("rpmem.ko"),
        ndctl: need("RPMEM_NDCTL")?,
        languages: need("RPMEM_LANGUAGES")?,
        system: need("RPMEM_SYSTEM_DIR").unwrap_or_else(|_| out.join("system")),
        last_flush: need("RPMEM_LAST_FLUSH")?,
        profile: need("RPMEM_PROFILE")?,
        durable: need("RPMEM_DURABLE")?,
        cover: None,
        modules: need("RPMEM_KMODULES")?,
        krel: std::env::var("RPMEM_KREL").unwrap_or_default(),
        flavour: std::env::var("RPMEM_FLAVOUR").unwrap_or("stock".into()),
        long: o.long,
        seed: o.seed.unwrap_or_else(draw),
        state: o.state,
        again: o.again.clone(),
        out,
        accel: Accel::Tcg,
    };
    for f in [&env.kernel, &env.base, &env.guest] {
        if !f.is_file() {
            return Err(format!("{}: no such file", f.display()));
        }
    }
    Ok(env)
}

/// Guests at a time: they wait little, so more than there are CPUs would gain nothing.
fn cpus() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4)
}

extern "C" fn on_signal(_: i32) {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

fn catch_signals() {
    for s in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(s, on_signal as extern "C" fn(i32) as libc::sighandler_t) };
    }
}

struct Tree {
    fixtures: BTreeMap<String, Fixture>,
    scenarios: Vec<Scenario>,
}

fn load(env: &Env) -> Result<Tree, String> {
    let mut fixtures = BTreeMap::new();
    for (name, text) in spec::load_dir(&env.top.join("qemu/fixtures"))? {
        fixtures.insert(name.clone(), spec::fixture(&name, &text)?);
    }
    let mut scenarios = Vec::new();
    for (name, text) in spec::load_dir(&env.top.join("tests/scenarios"))? {
        let s = spec::scenario(&name, &text)?;
        if !fixtures.contains_key(&s.fixture) {
            return Err(format!("scenario {name}: no fixture {}", s.fixture));
        }
        scenarios.push(s);
    }
    Ok(Tree {
        fixtures,
        scenarios,
    })
}

/// Tests that the guest program knows.
fn registry(env: &Env) -> Result<BTreeSet<String>, String> {
    // One for another architecture takes a program to run it, with its arguments.
    let run = std::env::var("RPMEM_RUN").unwrap_or_default();
    let mut words = run.split_whitespace().map(OsStr::new);
    let words: Vec<&OsStr> = words.by_ref().chain([env.guest.as_os_str()]).collect();
    let out = std::process::Command::new(words[0])
        .args(&words[1..])
        .arg("--list")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}", env.guest.display()))?;
    if !out.status.success() {
        return Err(format!("{} --list: {}", env.guest.display(), out.status));
    }
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(str::to_string)
        .collect())
}

/// Scenarios and registry must name the same tests. What cannot run here need not be there.
fn check(env: &Env, tree: &Tree) -> Result<(), String> {
    let known = registry(env)?;
    let able = Able::new(env, tree)?;
    let tests = |s: &Scenario| -> Vec<String> {
        let all = s.boots.iter().flat_map(|b| &b.tests);
        all.map(|t| t.name.clone()).collect()
    };
    let used: BTreeSet<String> = tree.scenarios.iter().flat_map(tests).collect();
    let here = tree.scenarios.iter().filter(|s| able.why_not(s).is_none());
    let here: BTreeSet<String> = here.flat_map(tests).collect();
    // One of the harness's own cases names a test that does not exist, on purpose.
    let own: BTreeSet<String> = selftest::tests_used()
        .into_iter()
        .chain(demo::tests_used())
        .chain(bench::tests_used())
        .collect();
    let mut wrong: Vec<String> = Vec::new();
    wrong.extend(
        here.difference(&known)
            .map(|t| format!("in a scenario, but no such test: {t}")),
    );
    wrong.extend(
        known
            .iter()
            .filter(|t| !used.contains(*t) && !own.contains(*t))
            .map(|t| format!("in no scenario: {t}")),
    );
    if wrong.is_empty() {
        return Ok(());
    }
    Err(wrong.join("\n"))
}

/// The part of a scenario that `test` needs.
fn narrow(s: &Scenario, test: &str) -> Option<Scenario> {
    let at = s
        .boots
        .iter()
        .position(|b| b.tests.iter().any(|t| t.name == test))?;
    let mut s = s.clone();
    s.boots.truncate(at + 1);
    let b = s.boots.last_mut()?;
    let n = b.tests.iter().position(|t| t.name == test)?;
    if b.end != verdict::End::Exit {
        // The last test is the one that asks for it.
        let last = b.tests.len() - 1;
        if n != last && !b.chained {
            b.tests = vec![b.tests[n].clone(), b.tests[last].clone()];
        }
    } else {
        b.tests.truncate(n + 1);
        if !b.chained {
            b.tests.drain(..n);
        }
    }
    // A part of the tests need not write every line that the whole boot does.
    if !b.chained {
        b.expect_console.clear();
    }
    Some(s)
}

/// A guest that boots and passes under KVM is the only proof that KVM works.
fn probe_kvm(env: &Env, fixture: &Fixture, ui: &Ui) -> bool {
    if !std::path::Path::new("/dev/kvm").exists() {
        return false;
    }
    let env = Env {
        accel: Accel::Kvm,
        ..env.clone()
    };
    let mut b = Boot::named(&["self_pass"], "none");
    b.total_timeout = Some(20);
    let Ok(dir) = run::run_dir(&env, "probe-kvm") else {
        return false;
    };
    let job = Job {
        env: &env,
        fixture,
        boot: &b,
        dir: &dir,
        logs: &dir,
        label: "probing KVM",
    };
    boot::run(&job, ui, |_| {}).is_ok_and(|r| r.verdict.green())
}

fn choose_accel(env: &mut Env, wish: &str, tree: &Tree, ui: &Ui) -> Result<(), String> {
    let none = tree.fixtures.get("none").ok_or("no fixture \"none\"")?;
    env.accel = match wish {
        "tcg" => Accel::Tcg,
        "auto" if probe_kvm(env, none, ui) => Accel::Kvm,
        "auto" => Accel::Tcg,
        "kvm" if probe_kvm(env, none, ui) => Accel::Kvm,
        "kvm" => return Err("KVM does not boot a guest here".into()),
        other => return Err(format!("unknown accelerator {other}")),
    };
    Ok(())
}

/// Major and minor number of a release like 7.3.4+deb13-amd64, or of an underscored 7_3.
fn series(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What can run here.
struct Able<'a> {
    env: &'a Env,
    tree: &'a Tree,
    /// The kernel's configuration.
    config: BTreeSet<String>,
}

impl<'a> Able<'a> {
    fn new(env: &'a Env, tree: &'a Tree) -> Result<Self, String> {
        let config = need("RPMEM_KDIR")?.join(".config");
        let text =
            std::fs::read_to_string(&config).map_err(|e| format!("{}: {e}", config.display()))?;
        let on = |line: &str| {
            let option = line.strip_prefix("CONFIG_")?;
            let option = option.strip_suffix("=y").or(option.strip_suffix("=m"))?;
            Some(option.to_string())
        };
        Ok(Able {
            env,
            tree,
            config: text.lines().filter_map(on).collect(),
        })
    }

    /// What this kernel lacks of it: a later series, or an option that is off.
    fn lacks(&self, needs: &[String]) -> Option<String> {
        let lacks = |need: &String| match need.strip_prefix("LINUX_") {
            Some(since) => (series(&self.env.krel) < series(since))
                .then(|| format!("is not as new as Linux {}", since.replace('_', "."))),
            None => (!self.config.contains(need)).then(|| format!("has no CONFIG_{need}")),
        };
        let why = needs.iter().find_map(lacks)?;
        Some(format!("the kernel {} {why}", self.env.krel))
    }

    /// Why not the scenario, of which some tests may need more.
    fn why_not(&self, s: &Scenario) -> Option<String> {
        let fixture = self.tree.fixtures.get(&s.fixture)?;
        let all = &fixture.architectures;
        if !all.is_empty() && !all.iter().any(|a| a == self.env.arch.name) {
            let (name, all) = (&s.fixture, all.join(" or "));
            return Some(format!("the machine {name} is one of {all}"));
        }
        let mut needs = s.needs.clone();
        // It takes a part of device-dax.
        if fixture.nfit_test {
            needs.push("DEV_DAX".into());
        }
        self.lacks(&needs)
    }
}

/// Takes out what cannot run here, and says why.
fn leave_out(able: &Able, chosen: &mut Vec<Scenario>, ui: &Ui) {
    let stays = |name: &str, why: Option<String>| {
        if let Some(why) = &why {
            ui.line(&format!("  not run {name}: {why}"));
        }
        why.is_none()
    };
    chosen.retain_mut(|s| {
        let why = able.why_not(s);
        if why.is_none() {
            for b in &mut s.boots {
                b.tests
                    .retain(|t| stays(&format!("{}/{}", s.name, t.name), able.lacks(&t.needs)));
            }
            s.boots.retain(|b| !b.tests.is_empty());
        }
        stays(&s.name, why) && !s.boots.is_empty()
    });
}

fn test(env: &Env, tree: &Tree, o: &Options, ui: &Ui) -> Result<bool, String> {
    let whole = o.scenarios.is_empty() && o.test.is_none();
    if let Err(e) = check(env, tree) {
        if whole {
            return Err(e);
        }
        ui.line(&format!("note: {e}"));
    }
    for s in &o.scenarios {
        if !tree.scenarios.iter().any(|t| t.name == *s) {
            return Err(format!("no scenario {s}"));
        }
    }
    let mut chosen: Vec<Scenario> = tree
        .scenarios
        .iter()
        .filter(|s| o.scenarios.is_empty() || o.scenarios.contains(&s.name))
        .filter(|s| s.kernels.contains(&env.flavour))
        .filter(|s| !whole || if env.long { &s.stress } else { &s.short }.contains(&env.flavour))
        .filter(|s| o.fixture.as_ref().is_none_or(|f| s.fixture == *f))
        .filter_map(|s| match &o.test {
            None => Some(s.clone()),
            Some(t) => narrow(s, t),
        })
        .collect();
    leave_out(&Able::new(env, tree)?, &mut chosen, ui);
    if env.long {
        chosen.iter_mut().for_each(Scenario::lengthen);
    }
    // The longest first, so that none is left over for one job alone.
    let longest = |s: &Scenario| s.boots.iter().map(|b| b.longest() * b.repeat).sum::<u64>();
    chosen.sort_by_key(|s| std::cmp::Reverse(longest(s)));
    if chosen.is_empty() {
        return Err(format!(
            "no scenario that can run on the kernel {} ({}) has that test and fixture",
            env.flavour, env.krel
        ));
    }
    let tier = match (env.flavour.as_str(), env.arch.name) {
        ("stock", "amd64") => "guest".to_string(),
        ("stock", arch) => format!("guest-{arch}"),
        (flavour, _) => format!("guest-{flavour}"),
    };
    let file = env.out.join(format!("results/{tier}.counts"));
    let _ = std::fs::remove_file(&file);
    if !env.ko.is_file()
        && chosen
            .iter()
            .any(|s| s.boots.iter().any(|b| b.driver == "rpmem"))
    {
        return Err(format!("{}: no such file", env.ko.display()));
    }
    ui.stage(&format!(
        "{} scenarios on kernel {}, {}, seed {}",
        chosen.len(),
        env.krel,
        env.accel.name(),
        env.seed
    ));

    let next = std::sync::atomic::AtomicUsize::new(0);
    let total = std::sync::Mutex::new((Counts::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..o.jobs.unwrap_or_else(cpus) {
            scope.spawn(|| loop {
                let Some(s) = chosen.get(next.fetch_add(1, Ordering::SeqCst)) else {
                    break;
                };
                if interrupted() {
                    break;
                }
                let r = run::scenario(env, s, &tree.fixtures, ui);
                let mut t = total.lock().unwrap();
                match r {
                    Ok(out) => {
                        t.0.add(out.counts);
                        if !out.green {
                            t.1.push(s.name.clone());
                        }
                    }
                    Err(e) => {
                        ui.line(&format!("  FAILED  {}: {e}", s.name));
                        t.0.failed += s.boots.iter().map(|b| b.tests.len()).sum::<usize>();
                        t.1.push(s.name.clone());
                    }
                }
            });
        }
    });
    let (counts, red) = total.into_inner().unwrap();
    if interrupted() {
        return Ok(false);
    }
    counts.write(&file)?;
    let which = if red.is_empty() {
        String::new()
    } else {
        format!("; red: {}", red.join(" "))
    };
    ui.stage(&format!(
        "guest tests: {} passed, {} failed{which}",
        counts.passed, counts.failed
    ));
    Ok(red.is_empty() && counts.failed == 0 && counts.passed > 0)
}

/// What guests have executed so far, against the document.
fn coverage(env: &Env, check: bool, renew: bool) -> Result<bool, String> {
    let lines = Lines::read(&need("RPMEM_COVERAGE")?, &env.top)?;
    print!("{}", lines.report());
    let doc = env.top.join("Documentation/coverage.md");
    if renew {
        lines.renew(&doc)?;
    }
    let wrong = if check {
        lines.check(&doc)?
    } else {
        Vec::new()
    };
    for w in &wrong {
        println!("{w}");
    }
    Ok(wrong.is_empty())
}

fn shell(env: &Env, tree: &Tree, o: &Options) -> Result<bool, String> {
    let name = o.fixture.as_deref().ok_or("shell needs --fixture F")?;
    let fixture = tree
        .fixtures
        .get(name)
        .ok_or_else(|| format!("no fixture {name}"))?;
    let driver = o.driver.as_deref().unwrap_or("rpmem");
    if driver == "rpmem" && !env.ko.is_file() {
        return Err(format!("{}: no such file", env.ko.display()));
    }
    let mut b = Boot::named(&[], driver);
    // A user may provoke whatever he likes without losing the machine.
    b.allow_splat = vec!["".into()];
    let dir = run::run_dir(env, &format!("shell-{name}"))?;
    boot::create_backing(fixture, &dir)?;
    let image = dir.join("initrd");
    boot::initrd(fixture, env, &boot::plan(fixture, &b, env, "shell"), &image)?;
    boot::add_files(&image, &o.files)?;
    let args = qemu::args(&qemu::Machine {
        arch: env.arch,
        fixture,
        accel: env.accel,
        kernel: &env.kernel,
        initrd: &image,
        cmdline: &boot::cmdline(fixture, &b, env),
        dir: &dir,
        logs: &dir,
        system: &env.system,
        languages: &env.languages,
        packed: &env.packed,
        plan: None,
        serial: qemu::Serial::Interactive,
    });
    // In the foreground group of the terminal: the keys are for the guest.
    let status = boot::spawn(env.arch, &args, false, |_| {})
        .and_then(|mut c| c.wait())
        .map_err(|e| format!("{}: {e}", env.arch.qemu));
    let _ = std::fs::remove_dir_all(&dir);
    // Ctrl-A X ends QEMU with 0.
    Ok(matches!(status?.code(), Some(0 | verdict::EXIT_FINISHED)))
}

fn list(tree: &Tree) {
    println!("fixtures:");
    for f in tree.fixtures.values() {
        println!("  {:<14} {}", f.name, f.summary);
    }
    println!("scenarios:");
    for s in &tree.scenarios {
        println!("  {:<14} {} [{}]", s.name, s.summary, s.fixture);
        for (n, b) in s.boots.iter().enumerate() {
            let end = match b.end {
                verdict::End::Exit => "",
                verdict::End::PowerCut => ", ends with a power cut",
                verdict::End::Down => ", goes down by itself",
            };
            println!(
                "    boot {} ({} {}{end})",
                n + 1,
                b.driver,
                b.params.join(" ")
            );
            for t in &b.tests {
                println!("      {}", t.name);
            }
        }
    }
}

fn real_main(ui: &Ui) -> Result<bool, String> {
    let o = options()?;
    let mut env = environment(&o)?;
    let tree = load(&env)?;
    if o.command != "shell" {
        catch_signals();
    }
    if ["test", "selftest", "demo", "bench", "shell"].contains(&o.command.as_str()) {
        env.kernel = image::unpacked(
            &env.kernel,
            &env.out.join(format!("vmlinux-{}", env.flavour)),
        );
        choose_accel(&mut env, &o.accel, &tree, ui)?;
    }
    match o.command.as_str() {
        "test" => {
            if let Ok(dir) = need("RPMEM_COVERAGE") {
                let (plugin, flavour) = (need("RPMEM_COVER")?, env.flavour.clone());
                let cover = Cover::new(&dir, &plugin, &flavour, &env.ko, &env.nfit_ko)?;
                env.cover = Some(cover);
            }
            test(&env, &tree, &o, ui)
        }
        "coverage" => coverage(&env, o.check, o.doc),
        "selftest" => selftest::run(&env, &tree.fixtures, o.jobs.unwrap_or_else(cpus), ui),
        "demo" => demo::run(
            &env,
            &tree.fixtures,
            o.driver.as_deref().unwrap_or("rpmem"),
            ui,
        ),
        "bench" => {
            let none = tree.fixtures.get("none").ok_or("no fixture \"none\"")?;
            bench::run(
                &env,
                &tree.fixtures,
                o.test.as_deref(),
                probe_kvm(&env, none, ui),
                o.jobs.unwrap_or_else(cpus),
                ui,
            )
        }
        "shell" => shell(&env, &tree, &o),
        "list" => {
            list(&tree);
            Ok(true)
        }
        "check" => check(&env, &tree).map(|()| true),
        other => Err(format!("unknown command {other}\n{USAGE}")),
    }
}

fn main() {
    let ui = Ui::new();
    let status = match real_main(&ui) {
        _ if interrupted() => {
            ui.line("interrupted");
            130
        }
        Ok(true) => 0,
        Ok(false) => 1,
        Err(e) => {
            eprintln!("rpmem-qemu: {e}");
            2
        }
    };
    std::process::exit(status);
}
