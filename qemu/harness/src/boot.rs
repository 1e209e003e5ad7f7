// SPDX-License-Identifier: GPL-2.0
//! One boot: initramfs, QEMU, its logs, and the verdict.

use crate::arch::Arch;
use crate::clock::{self, Clock, Late, Watch};
use crate::cover::Cover;
use crate::cpio::Archive;
use crate::durable;
use crate::monitor::{self, Monitor};
use crate::qemu::{self, Accel, Machine, Serial};
use crate::record;
use crate::spec::{Boot, Fixture, TCG_FACTOR};
use crate::tally;
use crate::ui::Ui;
use crate::verdict::{self, End, Ended, Verdict, CUT_MARKER, KTAP_HEADER};
use crate::volatile;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Set by SIGINT and SIGTERM.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct Env {
    pub arch: &'static Arch,
    pub top: PathBuf,
    pub out: PathBuf,
    /// vmlinuz.
    pub packed: PathBuf,
    /// The same, or the vmlinux that is packed in it.
    pub kernel: PathBuf,
    pub base: PathBuf,
    pub guest: PathBuf,
    pub ko: PathBuf,
    /// The program rpmem-bind.
    pub bind: PathBuf,
    /// The modules of nfit_test, and rpmem.ko for it.
    pub nfit_test: PathBuf,
    pub nfit_ko: PathBuf,
    /// An archive with ndctl's own tests and what they need.
    pub ndctl: PathBuf,
    /// A disk with programs in other languages.
    pub languages: PathBuf,
    /// What scripts/hosts/system leaves.
    pub system: PathBuf,
    /// last-flush.c
    pub last_flush: PathBuf,
    /// profile.c
    pub profile: PathBuf,
    /// durable.c
    pub durable: PathBuf,
    /// Notes what boots execute of the module.
    pub cover: Option<Cover>,
    /// The kernel's modules.
    pub modules: PathBuf,
    pub krel: String,
    /// stock, debug or kcsan.
    pub flavour: String,
    /// The long form of tests that have one.
    pub long: bool,
    /// For tests that draw numbers.
    pub seed: u64,
    /// The one state that is wanted of those that a power cut may leave, by its number.
    pub state: Option<u64>,
    /// A run that was red, whose recording is used once more.
    pub again: Option<PathBuf>,
    pub accel: Accel,
}

impl Env {
    pub fn factor(&self) -> u64 {
        let instruments = if self.flavour == "stock" { 1 } else { 4 };
        match self.accel {
            Accel::Tcg => TCG_FACTOR * instruments,
            Accel::Kvm => instruments,
        }
    }
}

/// Seconds, on hardware, that a kernel has to start init.
const TO_INIT: u64 = 15;
/// The same for a Debian host, where the tests are a service.
const TO_SERVICE: u64 = 60;
/// The guest is about to be switched off by itself, and goes on when it is switched on again.
const OFF_AND_ON: &str = "# rpmem: power off and on";
/// A machine that counts its instructions is slower than others by this much, with a plugin.
const COUNTING: u64 = 8;

/// Name of what durable.c records, beside the backing files.
pub const RECORDING: &str = "recording";

pub struct Booted {
    pub verdict: Verdict,
    /// Seconds of each test that has a result.
    pub times: BTreeMap<String, f64>,
    pub seconds: f64,
    /// The kernel did not get as far as init: nothing was tested.
    ///
    /// QEMU's TCG with a thread per CPU breaks one boot in some hundreds: a kernel that patches its
    /// own code puts a breakpoint there for a moment, and the emulator may run it after it is gone.
    pub nothing_ran: bool,
}

fn ctx<T>(r: std::io::Result<T>, what: &Path) -> Result<T, String> {
    r.map_err(|e| format!("{}: {e}", what.display()))
}

/// The instructions for the guest's init, one per line.
pub fn plan(fixture: &Fixture, boot: &Boot, env: &Env, mode: &str) -> String {
    let mut p = format!(
        "mode {mode}\ndriver {}\nflavour {}\nseed {}\n",
        boot.driver, env.flavour, env.seed
    );
    if env.long {
        p += "long\n";
    }
    if fixture.nfit_test {
        p += "nfit-test\n";
        if fixture.ndctl {
            p += "ndctl\n";
        }
    }
    if env.cover.is_some() {
        p += "coverage\n";
    }
    if boot.durable {
        p += "durable\n";
    }
    if let Some(when) = boot.resume {
        p += &format!("resume {}\n", when.name());
    }
    if !boot.params.is_empty() {
        p += &format!("params {}\n", boot.params.join(" "));
    }
    p += match boot.end {
        End::Exit => "end exit\n",
        End::PowerCut => "end power-cut\n",
        End::Down => "end down\n",
    };
    if let Some(f) = &boot.fault {
        p += &format!("fault {f}\n");
    }
    for t in &boot.tests {
        p += &format!("test {}\n", t.name);
    }
    p
}

/// The modules in these folders, by name; a later folder has the last word.
fn modules(dirs: &[&Path]) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut all = BTreeMap::new();
    for dir in dirs {
        for entry in ctx(fs::read_dir(dir), dir)? {
            let path = ctx(entry, dir)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".ko") {
                all.insert(name.into_owned(), path.clone());
            }
        }
    }
    Ok(all)
}

/// The base image with the files of this boot on top.
pub fn initrd(fixture: &Fixture, env: &Env, plan: &str, to: &Path) -> Result<(), String> {
    let mut a = Archive::new();
    a.dir("dev");
    a.chardev("dev/console", 5, 1);
    a.file("init", 0o755, &ctx(fs::read(&env.guest), &env.guest)?);
    a.file("plan", 0o644, plan.as_bytes());
    let ko = if fixture.nfit_test {
        // ndctl's tests have modprobe find them: here it looks first.
        let to = match fixture.ndctl {
            true => format!("usr/lib/modules/{}/updates", env.krel),
            false => "nfit".into(),
        };
        let mut from = vec![env.nfit_test.as_path()];
        if fixture.ndctl {
            // nd_pmem and dax_pmem without their drivers.
            from.extend(env.nfit_ko.parent());
        }
        a.dir(&to);
        for (name, from) in modules(&from)? {
            a.file(
                &format!("{to}/{name}"),
                0o644,
                &ctx(fs::read(&from), &from)?,
            );
        }
        &env.nfit_ko
    } else {
        &env.ko
    };
    if ko.exists() {
        a.file("rpmem.ko", 0o644, &ctx(fs::read(ko), ko)?);
        // Some self-tests have a driver of their own, and need no more.
        let user = env.ko.with_file_name("rpmem_user.ko");
        if user.exists() {
            a.file("rpmem_user.ko", 0o644, &ctx(fs::read(&user), &user)?);
        }
    }
    // ndctl loads drivers by alias; which driver gets a namespace is for the plan to say.
    a.dir("etc");
    a.dir("etc/modprobe.d");
    a.file(
        "etc/modprobe.d/rpmem-guest.conf",
        0o644,
        b"blacklist nd_pmem\nblacklist dax_pmem\n",
    );
    let bind = ctx(fs::read(&env.bind), &env.bind)?;
    a.file("usr/sbin/rpmem-bind", 0o755, &bind);
    ctx(fs::copy(&env.base, to), &env.base)?;
    let mut f = ctx(fs::OpenOptions::new().append(true).open(to), to)?;
    if fixture.ndctl {
        let tests = ctx(fs::read(&env.ndctl), &env.ndctl)?;
        ctx(f.write_all(&tests), to)?;
    }
    ctx(f.write_all(&a.finish()), to)
}

/// Puts files of the clone into `/root` of the guest, as programs.
pub fn add_files(initrd: &Path, files: &[PathBuf]) -> Result<(), String> {
    let mut a = Archive::new();
    a.dir("root");
    for file in files {
        let bytes = fs::read(file)
            .map_err(|e| format!("{}: {e}; it has to be in the clone", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        a.file(&format!("root/{name}"), 0o755, &bytes);
    }
    let mut f = ctx(fs::OpenOptions::new().append(true).open(initrd), initrd)?;
    ctx(f.write_all(&a.finish()), initrd)
}

pub fn cmdline(fixture: &Fixture, boot: &Boot, env: &Env) -> String {
    // Early boot is quiet because every character on an emulated UART is slow; init turns
    // the console up before it loads the driver.
    let mut c = format!(
        "console={} loglevel=5 panic=-1 oops=panic {}",
        env.arch.console, env.arch.cmdline
    );
    // Two fifths of the instructions of a boot are the kernel's tests of its ciphers.
    c += " cryptomgr.notests";
    // A CPU of a busy host's guest makes no progress for longer than on any hardware; what hangs is
    // found by clock.rs. These are as long as the kernel allows, or longer than that takes.
    c += " watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300";
    c += " workqueue.watchdog_thresh=300 sysctl.kernel.hung_task_timeout_secs=600";
    if boot.allow_splat.is_empty() && !boot.allow_core_races {
        c += " panic_on_warn=1";
    }
    // Where it is not measured by instructions.
    let measured = env.arch.tsc && env.accel == Accel::Tcg && fixture.icount.is_none();
    if let Some(khz) = measured.then(clock::tsc_khz).flatten() {
        c += &format!(" tsc_early_khz={khz}");
    }
    if env.flavour != "stock" {
        // identify_cpu() forgets for a moment that there are five levels of page tables; KASAN then
        // takes an address in an interrupt for a wild one. The suites run where they are looked at.
        if !boot.five_levels {
            c += " no5lvl";
        }
        c += " kunit.autorun=0";
    }
    if let Some(system) = &boot.system {
        c += &format!(" host={}", system.host);
    }
    let followed = match boot.durable || fixture.icount.is_some() {
        true => env.arch.followed,
        false => "",
    };
    for more in [followed, fixture.cmdline.as_str(), boot.cmdline.as_str()] {
        if !more.is_empty() {
            c += " ";
            c += more;
        }
    }
    c
}

/// Sparse backing files, fresh.
pub fn create_backing(fixture: &Fixture, dir: &Path) -> Result<(), String> {
    for (name, size) in qemu::backing(fixture) {
        let path = dir.join(name);
        let f = ctx(File::create(&path), &path)?;
        ctx(f.set_len(size), &path)?;
    }
    for image in &fixture.files {
        let path = dir.join(&image.name);
        let f = ctx(fs::OpenOptions::new().write(true).open(&path), &path)?;
        ctx(f.write_all_at(&image.contents, 0), &path)?;
    }
    Ok(())
}

pub fn remove_backing(fixture: &Fixture, dir: &Path) {
    for (name, _) in qemu::backing(fixture) {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// Start QEMU so that it cannot outlive this thread, not even after SIGKILL of the harness.
pub fn spawn(
    arch: &Arch,
    args: &[String],
    own_group: bool,
    setup: impl Fn(&mut Command),
) -> std::io::Result<Child> {
    let mut cmd = Command::new(arch.qemu);
    cmd.args(args);
    setup(&mut cmd);
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        cmd.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    if own_group {
        // Ctrl-C is for the harness, which then kills QEMU and cleans up.
        cmd.process_group(0);
    }
    cmd.spawn()
}

pub struct Job<'a> {
    pub env: &'a Env,
    pub fixture: &'a Fixture,
    pub boot: &'a Boot,
    /// Has the backing files.
    pub dir: &'a Path,
    /// Gets everything else.
    pub logs: &'a Path,
    /// For the progress display.
    pub label: &'a str,
}

/// `on_line` sees each line of the KTAP channel as it comes.
pub fn run(job: &Job, ui: &Ui, mut on_line: impl FnMut(&str)) -> Result<Booted, String> {
    let Job {
        env,
        fixture,
        boot,
        dir,
        logs,
        label,
    } = *job;
    let began = Instant::now();
    ctx(fs::create_dir_all(logs), logs)?;
    let plan = plan(fixture, boot, env, "test");
    let plan_file = logs.join("plan");
    ctx(fs::write(&plan_file, &plan), logs)?;
    let own_image = logs.join("initrd");
    let image = match &boot.system {
        Some(system) => env.system.join(system.image()),
        None => {
            initrd(fixture, env, &plan, &own_image)?;
            own_image.clone()
        }
    };
    let cmdline = cmdline(fixture, boot, env);
    let mut args = qemu::args(&Machine {
        arch: env.arch,
        fixture,
        accel: env.accel,
        // The PVH entry of what is unpacked knows four levels of page tables only.
        kernel: if boot.five_levels {
            &env.packed
        } else {
            &env.kernel
        },
        initrd: &image,
        cmdline: &cmdline,
        dir,
        logs,
        system: &env.system,
        languages: &env.languages,
        packed: &env.packed,
        plan: boot.system.as_ref().map(|_| plan_file.as_path()),
        serial: Serial::Logged,
    });
    // Debian's initramfs would load the module before the guest can say anything.
    let cover = env.cover.as_ref().filter(|_| boot.system.is_none());
    if let Some(cover) = cover {
        args.extend(cover.args(fixture.nfit_test, label)?);
    }
    let lines = logs.join("lines.log");
    let recording = boot.record.then(|| dir.join(RECORDING));
    if boot.durable {
        let recording = recording.as_deref();
        args.extend(durable::args(&env.durable, &lines, recording, boot.tally));
        if env.arch.memfd {
            args.extend(durable::memfd(fixture.memory));
        }
        // Nothing of a boot before this one.
        ctx(fs::write(&lines, ""), &lines)?;
    }
    let about = format!(
        "# kernel {}\n# fixture {}\n# driver {} {}\n# seed {}\n# accelerator {}\n{} {}\n",
        env.krel,
        fixture.name,
        boot.driver,
        boot.params.join(" "),
        env.seed,
        env.accel.name(),
        env.arch.qemu,
        qemu::quoted(&args)
    );
    ctx(fs::write(logs.join("cmd"), about), logs)?;
    ctx(fs::write(logs.join("console.log"), ""), logs)?;
    let stderr = ctx(File::create(logs.join("qemu.log")), logs)?;
    let mut ktap = ctx(File::create(logs.join("ktap.log")), logs)?;

    let mut ktap_text = String::new();
    let mut times = BTreeMap::new();
    let counting = match fixture.icount.is_some() || boot.durable {
        true => COUNTING,
        false => 1,
    };
    let limit = match boot.system {
        Some(_) => TO_SERVICE,
        None => TO_INIT,
    };
    let mut watch = Watch::new(boot, env.factor(), limit, counting);
    volatile::before(fixture, dir)?;
    // What a machine that hibernates goes on with, started once more.
    let mut resumes = false;
    let ended = loop {
        let mut off_and_on = false;
        let mut monitor = match fixture.monitor.is_empty() {
            true => None,
            false => Some(ctx(Monitor::new(), logs)?),
        };
        let child = spawn(env.arch, &args, true, |c| {
            if let Some(m) = &monitor {
                m.prepare(c);
            }
            volatile::prepare(fixture, dir, &env.last_flush, c);
            let err = stderr.try_clone().expect("dup of a log file");
            c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(err);
        });
        let ended = match child {
            Err(e) => Ended::NotStarted(format!("{}: {e}", env.arch.qemu)),
            Ok(mut child) => {
                let stdout = child.stdout.take().expect("piped");
                let mut to_init = child.stdin.take().expect("piped");
                let mut clock = Clock::new(child.id());
                let (tx, rx) = mpsc::channel();
                let reader = std::thread::spawn(move || {
                    let mut r = BufReader::new(stdout);
                    let mut buf = Vec::new();
                    while matches!(r.read_until(b'\n', &mut buf), Ok(n) if n > 0) {
                        let line = String::from_utf8_lossy(&buf)
                            .trim_end_matches(['\r', '\n'])
                            .to_string();
                        buf.clear();
                        if tx.send(line).is_err() {
                            break;
                        }
                    }
                });
                // A QEMU that does not listen has ended, or will not answer the guest either.
                let mut kill_for = monitor
                    .as_mut()
                    .and_then(|m| m.greet(dir).err())
                    .map(Ended::Refused);
                if kill_for.is_some() {
                    let _ = child.kill();
                }
                let mut started: Option<(String, Instant)> = None;
                let mut done = 0;
                let status = loop {
                    match rx.recv_timeout(Duration::from_millis(50)) {
                        Ok(line) => {
                            if line == CUT_MARKER && kill_for.is_none() {
                                kill_for = Some(Ended::PowerCut);
                                let _ = child.kill();
                            }
                            if let Some(name) = line.strip_prefix(monitor::REQUEST) {
                                let asked = match (fixture.monitor.get(name), &mut monitor) {
                                    (Some(commands), Some(m)) => m.run(commands, dir),
                                    _ => Err(format!("the fixture has no commands {name}")),
                                };
                                if let Err(e) = asked {
                                    kill_for = Some(Ended::Refused(e));
                                    let _ = child.kill();
                                }
                            }
                            off_and_on |= line == OFF_AND_ON;
                            if resumes && line == KTAP_HEADER && kill_for.is_none() {
                                let why = "the machine was started again and did not resume";
                                kill_for = Some(Ended::Refused(why.into()));
                                let _ = child.kill();
                            }
                            let _ = writeln!(ktap, "{line}");
                            ktap_text += &line;
                            ktap_text.push('\n');
                            if let Some(name) = line.strip_prefix("# rpmem: start ") {
                                started = Some((name.to_string(), Instant::now()));
                            } else if line.starts_with("ok ") || line.starts_with("not ok ") {
                                done += 1;
                                if let Some((name, at)) = started.take() {
                                    times.insert(name, at.elapsed().as_secs_f64());
                                }
                            }
                            watch.line(&line, clock.now());
                            on_line(&line);
                        }
                        Err(RecvTimeoutError::Timeout) => {
                            let now = started.as_ref().map_or("booting", |s| s.0.as_str());
                            ui.progress(&format!("{label}: {done}/{} {now}", boot.tests.len()));
                        }
                        Err(RecvTimeoutError::Disconnected) => {
                            // Standard output is closed: QEMU is ending, or stuck and killed below.
                            std::thread::sleep(Duration::from_millis(5));
                            if let Some(s) = ctx(child.try_wait(), logs)? {
                                break s;
                            }
                        }
                    }
                    if kill_for.is_none() {
                        if interrupted() {
                            kill_for = Some(Ended::Interrupted);
                        }
                        if let Some(Err(e)) = monitor.as_mut().map(|m| m.poll(dir)) {
                            kill_for = Some(Ended::Refused(e));
                        }
                        match watch.look(clock.now()) {
                            Late::No => {}
                            // QEMU that takes no input is killed later.
                            Late::Tell(number) => drop(writeln!(to_init, "timeout {number}")),
                            Late::Kill(why) => kill_for = Some(Ended::Timeout(why)),
                        }
                        if kill_for.is_some() {
                            let _ = child.kill();
                        }
                    }
                };
                let _ = reader.join();
                match (kill_for, status.code()) {
                    (Some(why), None) => why,
                    (_, Some(code)) => Ended::Exited(code),
                    (None, None) => Ended::Signalled(status.signal().unwrap_or(0)),
                }
            }
        };
        if !off_and_on || ended != Ended::Exited(0) {
            break ended;
        }
        // Without power the host of virtio-pmem keeps no more than in a cut.
        volatile::after(fixture, dir, &Ended::PowerCut)?;
        volatile::before(fixture, dir)?;
        resumes = true;
    };
    let _ = fs::remove_file(&own_image);
    volatile::after(fixture, dir, &ended)?;
    let console = ctx(fs::read(logs.join("console.log")), logs)?;
    let console = String::from_utf8_lossy(&console);
    let mut verdict = verdict::judge(&verdict::Input {
        expected: &boot.expected(),
        end: boot.end,
        ended,
        ktap: &ktap_text,
        console: &console,
        expect_console: &boot.expect_console,
        allow_splat: &boot.allow_splat,
        allow_trace: &boot.allow_trace,
        allow_core_races: boot.allow_core_races,
    });
    if let Some(cover) = cover {
        let loaded = boot.driver == "rpmem" && !ktap_text.is_empty();
        let checked = cover.check(fixture.nfit_test, label, loaded);
        verdict.reasons.extend(checked.err());
    }
    if boot.durable {
        let text = ctx(fs::read_to_string(&lines), &lines)?;
        let claims = !boot.record && !boot.tally;
        let mut seen = durable::judge(&text, &boot.driver, fixture.cpus, claims, env.long);
        if boot.tally {
            let tallies = tally::judge(&text, env.long);
            seen.reasons.extend(tallies.reasons);
            seen.figures.extend(tallies.figures);
            seen.rows += &tallies.rows;
        }
        verdict.reasons.extend(seen.reasons);
        verdict.figures.extend(seen.figures);
        ctx(fs::write(logs.join("durable.txt"), seen.rows), logs)?;
    }
    match recording.map(|file| record::read(&file)) {
        None => {}
        Some(Ok(all)) => verdict.figures.extend(record::figures(&all)),
        Some(Err(why)) => verdict.reasons.push(format!("recording: {why}")),
    }
    Ok(Booted {
        nothing_ran: env.accel == Accel::Tcg && ktap_text.is_empty() && !interrupted(),
        verdict,
        times,
        seconds: began.elapsed().as_secs_f64(),
    })
}
