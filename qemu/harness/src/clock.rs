// SPDX-License-Identifier: GPL-2.0
//! How long a machine has had, and how long it may take.
//!
//! On a busy host a guest that is well takes many times as long as on an idle one. So limits are not on
//! the time that passes, but on that in which the machine could run: without that in which one of its
//! threads was ready to and waited for a CPU. A guest that hangs in its sleep waits for none, and is
//! found as soon as on an idle host; one that hangs in a loop gets its share of the host.

use crate::spec::{Boot, BOOT_TIMEOUT};
use crate::verdict::{CUT_MARKER, DOWN_MARKER, END_MARKER};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// However busy the host is: of the time that passes, the machine is taken to have had at least one
/// part in so many. A hang ends, whatever the host says.
const LEAST: u32 = 16;
/// Threads are looked at so often. Much longer than a CPU is given to one of them at a time.
const LOOK: Duration = Duration::from_millis(500);

/// The time of a machine.
pub struct Clock {
    began: Instant,
    looked: Instant,
    threads: PathBuf,
    /// Of each thread, how long it has waited for a CPU so far: nanoseconds.
    waited: HashMap<String, u64>,
    lost: Duration,
}

impl Clock {
    /// Of the process QEMU.
    pub fn new(pid: u32) -> Clock {
        let now = Instant::now();
        Clock {
            began: now,
            looked: now,
            threads: PathBuf::from(format!("/proc/{pid}/task")),
            waited: HashMap::new(),
            lost: Duration::ZERO,
        }
    }

    /// The time that the machine has had.
    pub fn now(&mut self) -> Duration {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            // A kernel that does not tell (CONFIG_SCHED_INFO) leaves the time that passes.
            let threads = fs::read_dir(&self.threads).into_iter().flatten().flatten();
            let told: Vec<(String, u64)> = threads
                .filter_map(|t| {
                    let text = fs::read_to_string(t.path().join("schedstat")).ok()?;
                    let waited = text.split_whitespace().nth(1)?.parse().ok()?;
                    Some((t.file_name().to_string_lossy().into_owned(), waited))
                })
                .collect();
            self.look(told);
        }
        had(self.began.elapsed(), self.lost)
    }

    /// What was lost since the last look: as much as by the thread that lost most, as others may have
    /// waited for it.
    fn look(&mut self, threads: Vec<(String, u64)>) {
        let mut most = 0;
        for (thread, waited) in threads {
            let before = self.waited.insert(thread, waited).unwrap_or(0);
            most = most.max(waited.saturating_sub(before));
        }
        self.lost += Duration::from_nanos(most);
    }
}

fn had(passed: Duration, lost: Duration) -> Duration {
    passed.saturating_sub(lost).max(passed / LEAST)
}

/// How fast the host's time-stamp counter is, in kHz: QEMU's TCG gives guests the same one. A kernel
/// measures it against a timer when it starts, which on a busy host can be wrong by a factor of 50; all of
/// its time is then.
pub fn tsc_khz() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        static KHZ: OnceLock<u64> = OnceLock::new();
        let khz = *KHZ.get_or_init(|| {
            let (start, began) = tsc_and_time();
            std::thread::sleep(Duration::from_millis(200));
            let (end, ended) = tsc_and_time();
            let ns = (ended - began).as_nanos();
            (u128::from(end - start) * 1_000_000 / ns) as u64
        });
        Some(khz)
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Both at one moment: those of many that were read with the least in between.
#[cfg(target_arch = "x86_64")]
fn tsc_and_time() -> (u64, Instant) {
    let read = || {
        // SAFETY: the instruction is part of the architecture.
        let before = unsafe { core::arch::x86_64::_rdtsc() };
        let now = Instant::now();
        // SAFETY: as above.
        let after = unsafe { core::arch::x86_64::_rdtsc() };
        (after - before, before, now)
    };
    let best = (0..100).map(|_| read()).min_by_key(|r| r.0);
    best.map(|(_, tsc, now)| (tsc, now)).expect("100 of them")
}

/// What a guest is at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// The kernel has yet to start init.
    Kernel,
    /// Init loads drivers, cleans up after a test, or looks for leaks.
    Init,
    /// The test of that number.
    Test(usize),
    /// That test was told to end.
    Late(usize),
    /// It waits for the end of its machine.
    Done,
}

/// What has to be done about a guest that is late.
#[derive(Debug, PartialEq, Eq)]
pub enum Late {
    No,
    /// Init is to end the test of that number.
    Tell(usize),
    /// Nothing helps: kill it, for this.
    Kill(String),
}

/// Each step of a boot has its own limit, so that a hang is found where it is.
pub struct Watch<'a> {
    boot: &'a Boot,
    /// Seconds that one on hardware is worth, and seconds for the kernel.
    factor: u64,
    kernel: u64,
    /// For what init does.
    init: u64,
    stage: Stage,
    since: Duration,
    started: usize,
}

impl<'a> Watch<'a> {
    pub fn new(boot: &'a Boot, factor: u64, kernel: u64, counting: u64) -> Watch<'a> {
        Watch {
            boot,
            factor,
            kernel: kernel * counting * factor,
            init: BOOT_TIMEOUT * counting * factor,
            stage: Stage::Kernel,
            since: Duration::ZERO,
            started: 0,
        }
    }

    fn enter(&mut self, stage: Stage, now: Duration) {
        self.stage = stage;
        self.since = now;
    }

    /// A line from the guest.
    pub fn line(&mut self, line: &str, now: Duration) {
        if line.starts_with("# rpmem: start ") {
            self.started += 1;
            self.enter(Stage::Test(self.started), now);
        } else if [END_MARKER, CUT_MARKER, DOWN_MARKER].contains(&line) {
            self.enter(Stage::Done, now);
        } else if self.stage == Stage::Kernel
            || line.starts_with("ok ")
            || line.starts_with("not ok ")
        {
            self.enter(Stage::Init, now);
        }
    }

    pub fn look(&mut self, now: Duration) -> Late {
        let (boot, factor) = (self.boot, self.factor);
        let had = now.saturating_sub(self.since).as_secs();
        let test = |n: usize| boot.tests.get(n - 1);
        let name = |n: usize| test(n).map_or("a test", |t| t.name.as_str());
        if let Some(all) = boot.total_timeout.map(|all| all * factor) {
            if now.as_secs() >= all {
                return Late::Kill(format!("timeout of the whole boot ({all} s)"));
            }
        }
        match self.stage.clone() {
            Stage::Kernel if had >= self.kernel => {
                Late::Kill(format!("timeout: no init after {} s", self.kernel))
            }
            Stage::Init | Stage::Done if had >= self.init => {
                let after = match self.started {
                    0 => "the driver is set up".to_string(),
                    n => name(n).to_string() + " ended",
                };
                Late::Kill(format!(
                    "timeout: nothing for {} s since {after}",
                    self.init
                ))
            }
            Stage::Test(n) if had >= test(n).map_or(0, |t| t.timeout * factor) => {
                self.enter(Stage::Late(n), now);
                Late::Tell(n)
            }
            Stage::Late(n) if had >= self.init => Late::Kill(format!(
                "timeout: the guest does not end {} in {} s",
                name(n),
                self.init
            )),
            _ => Late::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn what_a_machine_has_had() {
        assert_eq!(had(seconds(60), seconds(0)), seconds(60));
        assert_eq!(had(seconds(60), seconds(45)), seconds(15));
        // A hang ends, whatever the host says.
        assert_eq!(had(seconds(160), seconds(160)), seconds(10));
        assert_eq!(had(seconds(160), seconds(1600)), seconds(10));
    }

    #[test]
    fn the_thread_that_lost_most() {
        let mut c = Clock::new(0);
        let told = |all: &[(&str, u64)]| all.iter().map(|(t, n)| (t.to_string(), *n)).collect();
        c.look(told(&[("1", 100), ("2", 30)]));
        assert_eq!(c.lost, Duration::from_nanos(100));
        c.look(told(&[("1", 110), ("2", 90), ("3", 5)]));
        assert_eq!(c.lost, Duration::from_nanos(160));
        // One that has ended.
        c.look(told(&[("2", 90)]));
        assert_eq!(c.lost, Duration::from_nanos(160));
    }

    #[test]
    fn a_busy_host_is_seen() {
        // Two threads for each CPU: about half of them wait.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let end = std::sync::atomic::AtomicBool::new(false);
        let (passed, had) = std::thread::scope(|s| {
            for _ in 0..4 * cpus {
                s.spawn(|| {
                    while !end.load(std::sync::atomic::Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let mut clock = Clock::new(std::process::id());
            // What other tests have lost.
            std::thread::sleep(LOOK);
            clock.now();
            let (began, lost) = (Instant::now(), clock.lost);
            while began.elapsed() < 4 * LOOK {
                std::thread::sleep(LOOK / 4);
                clock.now();
            }
            end.store(true, std::sync::atomic::Ordering::Relaxed);
            (began.elapsed(), clock.lost - lost)
        });
        if fs::read_to_string("/proc/self/schedstat").is_ok() {
            assert!(had > passed / 4, "lost {had:?} of {passed:?}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_counter_of_this_host() {
        let khz = tsc_khz().unwrap();
        assert!((100_000..20_000_000).contains(&khz), "{khz} kHz");
        // Measured once more, it is the same.
        let (start, began) = tsc_and_time();
        std::thread::sleep(Duration::from_millis(300));
        let (end, ended) = tsc_and_time();
        let again = u128::from(end - start) * 1_000_000 / (ended - began).as_nanos();
        let off = again.abs_diff(u128::from(khz));
        assert!(off * 1000 < u128::from(khz), "{khz} kHz, then {again}");
    }

    #[test]
    fn each_step_has_its_limit() {
        let mut boot = Boot::named(&["a", "b"], "none");
        boot.tests[0].timeout = 5;
        let fresh = || Watch::new(&boot, 2, 10, 1);
        let mut w = fresh();
        assert_eq!(w.look(seconds(19)), Late::No);
        assert!(matches!(w.look(seconds(20)), Late::Kill(why) if why.contains("no init")));

        w.line("KTAP version 1", seconds(19));
        let init = BOOT_TIMEOUT * 2;
        assert_eq!(w.look(seconds(19 + init - 1)), Late::No);
        assert!(matches!(w.look(seconds(19 + init)), Late::Kill(why) if why.contains("set up")));

        w.line("# rpmem: start a", seconds(30));
        w.line("# waiting", seconds(35));
        assert_eq!(w.look(seconds(39)), Late::No);
        assert_eq!(w.look(seconds(40)), Late::Tell(1));
        // Once.
        assert_eq!(w.look(seconds(41)), Late::No);
        let dead = w.look(seconds(40 + init));
        assert!(matches!(dead, Late::Kill(why) if why.contains("does not end a")));
        w.line("not ok 1 a", seconds(42));
        w.line("# rpmem: start b", seconds(42));
        assert_eq!(w.look(seconds(50)), Late::No);
        w.line("ok 2 b", seconds(50));
        w.line(END_MARKER, seconds(51));
        assert_eq!(w.look(seconds(51 + init - 1)), Late::No);
        assert!(matches!(w.look(seconds(51 + init)), Late::Kill(why) if why.contains("b ended")));

        boot.total_timeout = Some(4);
        let mut w = Watch::new(&boot, 2, 10, 1);
        assert_eq!(w.look(seconds(7)), Late::No);
        assert!(matches!(w.look(seconds(8)), Late::Kill(why) if why.contains("whole boot")));
    }
}
