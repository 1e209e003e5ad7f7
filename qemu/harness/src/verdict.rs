// SPDX-License-Identifier: GPL-2.0
//! The verdict on one boot, from its logs and the way it ended. Pure: no I/O.
//!
//! It fails closed: a boot is green only if everything that must be there is there and nothing
//! else. Whatever is not understood is red.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Exit status of QEMU when the guest wrote `0x10` to isa-debug-exit: (0x10 << 1) | 1.
/// A panic (with -no-reboot) ends QEMU with 0 and a start error with 1: neither can be success.
pub const EXIT_FINISHED: i32 = 33;
pub const KTAP_HEADER: &str = "KTAP version 1";
pub const END_MARKER: &str = "# rpmem: end of run";
pub const CUT_MARKER: &str = "# rpmem: cut the power now";
pub const DOWN_MARKER: &str = "# rpmem: the machine goes down now";
/// Prefix of the lines that the guest writes to the kernel log at the start of each test.
pub const KMSG_START: &str = "rpmem-test: start ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    Exit,
    PowerCut,
    /// The guest switches the machine off, or restarts it.
    Down,
}

/// How QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signalled(i32),
    /// Killed by the harness because the guest asked for it.
    PowerCut,
    /// Killed by the harness because it was late: where.
    Timeout(String),
    Interrupted,
    NotStarted(String),
    /// Killed by the harness because QEMU's monitor refused a command.
    Refused(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub name: String,
    pub allow_skip: bool,
}

pub struct Input<'a> {
    pub expected: &'a [Expected],
    pub end: End,
    pub ended: Ended,
    pub ktap: &'a str,
    pub console: &'a str,
    pub expect_console: &'a [String],
    pub allow_splat: &'a [String],
    /// What stacks may be shown after; the last word is the function that shows them.
    pub allow_trace: &'a [String],
    /// Data races that no module has a part in are no splats.
    pub allow_core_races: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Pass,
    Fail(String),
    Skip(String),
    Missing,
}

#[derive(Debug)]
pub struct Verdict {
    pub tests: Vec<(String, Status)>,
    /// Why the boot is red; empty means green.
    pub reasons: Vec<String>,
    /// What its tests print as `result: ...`, and what was let through: shown also when all is well.
    pub figures: Vec<String>,
}

impl Verdict {
    pub fn green(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// Lines that never occur in the log of a healthy kernel.
const SPLATS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "kernel BUG at",
    "KASAN:",
    "KCSAN:",
    "KFENCE:",
    "UBSAN:",
    "new suspected memory leaks",
    "Oops",
    "general protection",
    "Call Trace",
    "Kernel panic",
    "unable to handle",
    "Unable to handle",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "possible irq lock inversion",
    "lock held when returning",
    "self-detected stall",
    "detected stalls on CPUs",
    "rcu_preempt kthread starved",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    "Bad page",
    "bad page",
    "Bad rss-counter",
    // pgd_clear_bad() and its like: a table that is none.
    ": bad pgd ",
    ": bad p4d ",
    ": bad pud ",
    ": bad pmd ",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "stack-protector",
    "double fault",
    "Double fault",
    "invalid opcode",
    "nobody cared",
    "Objects remaining",
    "panicked at",
    "Out of memory",
    "Memory failure:",
    "segfault at",
    "trap invalid",
    "do_IRQ:",
    "page allocation failure",
    "DEBUG_LOCKS_WARN_ON",
];

/// Lines that only accompany a splat; they are accepted inside the report of an allowed one.
const ACCOMPANYING: &[&str] = &["Call Trace", "Oops"];

/// A stack comes at most this many lines after what it is shown for: other CPUs say things, too, and show
/// stacks of 40 lines.
const TRACE: usize = 100;
/// The function that shows a stack is among its first lines.
const TRACE_HEAD: usize = 8;

/// The titles of the reports of KCSAN about two accesses, both known, where no stack has a function of a
/// module; and the log without those lines. One about a single access may be the C side of a race with
/// Rust, which has no instrumentation.
fn core_races(console: &str) -> (Vec<&str>, String) {
    let mut lines: Vec<&str> = console.lines().map(str::trim_end).collect();
    let mut titles = Vec::new();
    let of_module = |l: &&str| l.ends_with(']');
    for n in 0..lines.len() {
        let title = lines[n];
        let Some((_, functions)) = title.split_once("BUG: KCSAN: ") else {
            continue;
        };
        let report = &lines[n + 1..];
        let Some(end) = report.iter().position(|l| l.contains("==========")) else {
            continue;
        };
        let frames = report[..end].iter().filter(|l| l.contains("+0x"));
        let frames: Vec<&str> = frames.copied().collect();
        let both = functions.contains(" / ") && !functions.contains('[');
        if both && !frames.is_empty() && !frames.iter().any(of_module) {
            titles.push(functions);
            lines[n] = "";
        }
    }
    (titles, lines.join("\n"))
}

fn splats(console: &str, allow: &[String], traces: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut test = "boot".to_string();
    let mut allowed_until: usize = 0;
    let mut traces_until = VecDeque::new();
    let lines: Vec<&str> = console.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        if let Some(at) = line.find(KMSG_START) {
            test = line[at + KMSG_START.len()..].trim().to_string();
            continue;
        }
        if line.contains("---[ end trace") {
            allowed_until = 0;
            continue;
        }
        if let Some(t) = traces.iter().find(|t| line.contains(t.as_str())) {
            let function = t.rsplit(' ').next().unwrap_or(t);
            traces_until.push_back((n + TRACE, format!(" {function}+0x")));
            continue;
        }
        let Some(hit) = SPLATS.iter().find(|s| line.contains(*s)) else {
            continue;
        };
        if allow.iter().any(|a| line.contains(a.as_str())) {
            // The report of an allowed splat, at most this long.
            allowed_until = n + 120;
            continue;
        }
        if n < allowed_until && ACCOMPANYING.contains(hit) {
            continue;
        }
        while traces_until.front().is_some_and(|(until, _)| n > *until) {
            traces_until.pop_front();
        }
        let mut head = lines[n + 1..].iter().take(TRACE_HEAD);
        let shown = |(_, f): &(usize, String)| head.any(|l| l.contains(f.as_str()));
        if *hit == "Call Trace" && traces_until.front().is_some_and(shown) {
            traces_until.pop_front();
            continue;
        }
        found.push(format!(
            "splat in the kernel log during {test}: {}",
            line.trim()
        ));
    }
    found
}

/// "ok 12 name # SKIP why" -> (true, 12, name, Some(why)).
fn result_line(line: &str) -> Option<(bool, usize, &str, Option<&str>)> {
    let (ok, rest) = if let Some(r) = line.strip_prefix("ok ") {
        (true, r)
    } else if let Some(r) = line.strip_prefix("not ok ") {
        (false, r)
    } else {
        return None;
    };
    let (num, rest) = rest.split_once(' ')?;
    let num = num.parse().ok()?;
    let rest = rest.trim_start_matches("- ");
    let (name, directive) = match rest.split_once(" # ") {
        Some((n, d)) => (n, Some(d)),
        None => (rest, None),
    };
    let skip = directive
        .and_then(|d| d.strip_prefix("SKIP"))
        .map(str::trim);
    Some((ok, num, name.trim(), skip))
}

pub fn judge(input: &Input) -> Verdict {
    let mut reasons = Vec::new();
    let mut results: BTreeMap<String, Status> = BTreeMap::new();
    let mut plan = None;
    let mut seen = 0;
    let mut header = false;
    let mut end_marker = false;
    let mut cut_marker = false;
    let mut down_marker = false;
    let mut diag: Vec<&str> = Vec::new();
    let mut figures = Vec::new();

    for line in input.ktap.lines().map(|l| l.trim_end_matches('\r')) {
        if (end_marker || cut_marker || down_marker) && !line.trim().is_empty() {
            reasons.push(format!("output after the end of the run: {line}"));
        }
        if line == KTAP_HEADER {
            if header {
                reasons.push("second KTAP header".into());
            }
            header = true;
        } else if let Some(n) = line.strip_prefix("1..") {
            match n.parse::<usize>() {
                Ok(n) if plan.is_none() => plan = Some(n),
                _ => reasons.push(format!("bad or second plan line: {line}")),
            }
        } else if line == END_MARKER {
            end_marker = true;
        } else if line == CUT_MARKER {
            cut_marker = true;
        } else if line == DOWN_MARKER {
            down_marker = true;
        } else if line.starts_with("Bail out!") {
            reasons.push(line.to_string());
        } else if let Some((ok, num, name, skip)) = result_line(line) {
            seen += 1;
            if num != seen {
                reasons.push(format!("result number {num} where {seen} was due: {line}"));
            }
            let status = match (ok, skip) {
                (true, Some(why)) => Status::Skip(why.to_string()),
                (true, None) => Status::Pass,
                (false, _) => Status::Fail(diag.last().map(|d| d.to_string()).unwrap_or_default()),
            };
            if results.insert(name.to_string(), status).is_some() {
                reasons.push(format!("two results for {name}"));
            }
            diag.clear();
        } else if line.starts_with("ok") || line.starts_with("not ok") {
            reasons.push(format!("malformed result line: {line}"));
        } else if let Some(d) = line.strip_prefix("# ") {
            if d.starts_with("fail: ") || d.starts_with("rpmem: timeout") {
                diag.push(d);
            } else if let Some(figure) = d.strip_prefix("result: ") {
                figures.push(figure.to_string());
            }
        }
    }

    if input.expected.is_empty() {
        reasons.push("no test was expected: nothing can be green".into());
    }
    if !header {
        reasons.push("no KTAP header".into());
    }
    match plan {
        None => reasons.push("no KTAP plan".into()),
        Some(n) if n != input.expected.len() => reasons.push(format!(
            "the plan says {n} tests, the scenario {}",
            input.expected.len()
        )),
        Some(n) if n != seen => reasons.push(format!("{seen} results for a plan of {n}")),
        Some(_) => {}
    }

    let names: BTreeSet<&str> = input.expected.iter().map(|e| e.name.as_str()).collect();
    if names.len() != input.expected.len() {
        reasons.push("the scenario names a test twice in one boot".into());
    }
    for name in results.keys().filter(|n| !names.contains(n.as_str())) {
        reasons.push(format!("result of a test that was not asked for: {name}"));
    }
    let mut tests = Vec::new();
    for e in input.expected {
        let mut status = results.get(&e.name).cloned().unwrap_or(Status::Missing);
        match &status {
            Status::Pass => {}
            Status::Fail(why) if why.is_empty() => reasons.push(format!("not ok: {}", e.name)),
            Status::Fail(why) => reasons.push(format!("not ok: {}: {why}", e.name)),
            Status::Skip(why) if !e.allow_skip => {
                reasons.push(format!(
                    "skipped, and the scenario does not allow it: {}: {why}",
                    e.name
                ));
                status = Status::Fail(format!("skipped: {why}"));
            }
            Status::Skip(_) => {}
            Status::Missing => reasons.push(format!("no result: {}", e.name)),
        }
        tests.push((e.name.clone(), status));
    }
    if !results.is_empty() && results.values().all(|s| matches!(s, Status::Skip(_))) {
        reasons.push("every test was skipped".into());
    }

    match (&input.end, &input.ended) {
        (End::Exit, Ended::Exited(EXIT_FINISHED))
        | (End::PowerCut, Ended::PowerCut)
        | (End::Down, Ended::Exited(0)) => {}
        (_, Ended::Exited(0)) => {
            reasons.push("QEMU ended with 0: reset or panic of the guest".into())
        }
        (_, Ended::Exited(c)) => reasons.push(format!("QEMU ended with {c}")),
        (_, Ended::Signalled(s)) => reasons.push(format!("QEMU was killed by signal {s}")),
        (_, Ended::PowerCut) => reasons.push("power cut where none was agreed".into()),
        (_, Ended::Timeout(why)) => reasons.push(why.clone()),
        (_, Ended::Interrupted) => reasons.push("interrupted".into()),
        (_, Ended::Refused(e)) => reasons.push(e.clone()),
        (_, Ended::NotStarted(e)) => reasons.push(format!("QEMU did not start: {e}")),
    }
    match input.end {
        End::Exit => {
            if !end_marker {
                reasons.push("no end marker".into());
            }
            if cut_marker {
                reasons.push("the guest asked for a power cut where none was agreed".into());
            }
            if down_marker {
                reasons.push("the guest went down where it was not agreed".into());
            }
        }
        End::Down => {
            if !down_marker {
                reasons.push("the guest did not say that it goes down".into());
            }
        }
        End::PowerCut => {
            if !cut_marker {
                reasons.push("no power-cut marker".into());
            }
            if end_marker {
                reasons.push("end marker where a power cut was agreed".into());
            }
        }
    }

    let rest;
    let mut console = input.console;
    if input.allow_core_races {
        let (titles, without) = core_races(console);
        figures.extend(titles.iter().map(|t| format!("let through: {t}")));
        rest = without;
        console = &rest;
    }
    reasons.extend(splats(console, input.allow_splat, input.allow_trace));
    for want in input.expect_console {
        if !input.console.lines().any(|l| l.contains(want.as_str())) {
            reasons.push(format!("the kernel log lacks: {want}"));
        }
    }
    if input.console.trim().is_empty() {
        reasons.push("the kernel log is empty".into());
    }

    Verdict {
        tests,
        reasons,
        figures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = include_str!("../testdata/console-pass.log");

    fn expected(names: &[&str]) -> Vec<Expected> {
        names
            .iter()
            .map(|n| Expected {
                name: n.to_string(),
                allow_skip: false,
            })
            .collect()
    }

    fn run(names: &[&str], ktap: &str, console: &str, ended: Ended) -> Verdict {
        judge(&Input {
            expected: &expected(names),
            end: End::Exit,
            ended,
            ktap,
            console,
            expect_console: &[],
            allow_splat: &[],
            allow_trace: &[],
            allow_core_races: false,
        })
    }

    fn red(v: &Verdict, why: &str) {
        assert!(!v.green(), "must be red");
        assert!(
            v.reasons.iter().any(|r| r.contains(why)),
            "{why:?} not in {:?}",
            v.reasons
        );
    }

    const FIN: Ended = Ended::Exited(EXIT_FINISHED);
    const TWO: &[&str] = &["self_pass", "self_pass2"];

    #[test]
    fn pass() {
        let v = run(TWO, include_str!("../testdata/ktap-pass.log"), CONSOLE, FIN);
        assert!(v.green(), "{:?}", v.reasons);
        assert_eq!(v.tests[1], ("self_pass2".to_string(), Status::Pass));
    }

    #[test]
    fn fail() {
        let names = [
            "self_pass",
            "self_fail",
            "self_skip",
            "self_crash",
            "self_rust_panic",
            "self_unknown",
        ];
        let v = run(
            &names,
            include_str!("../testdata/ktap-fail.log"),
            CONSOLE,
            FIN,
        );
        red(&v, "not ok: self_fail: fail: ");
        red(&v, "self_skip: as intended");
        red(
            &v,
            "not ok: self_crash: fail: the test was killed by signal 6",
        );
        red(&v, "not ok: self_unknown: fail: no such test");
        assert_eq!(v.reasons.len(), 5, "{:?}", v.reasons);
        assert_eq!(v.tests[0].1, Status::Pass);
    }

    #[test]
    fn panic() {
        let v = run(
            &["self_pass", "self_kernel_panic"],
            include_str!("../testdata/ktap-panic.log"),
            include_str!("../testdata/console-panic.log"),
            Ended::Exited(0),
        );
        red(&v, "QEMU ended with 0");
        red(&v, "no end marker");
        red(&v, "splat in the kernel log during self_kernel_panic");
        red(&v, "no result: self_kernel_panic");
    }

    #[test]
    fn splat() {
        let ktap = include_str!("../testdata/ktap-splat.log");
        let console = include_str!("../testdata/console-splat.log");
        let v = run(&["self_pass", "self_splat"], ktap, console, FIN);
        red(&v, "splat in the kernel log during self_splat: ");
    }

    #[test]
    fn allowed_splat() {
        let e = expected(&["self_pass", "self_splat"]);
        let mut input = Input {
            expected: &e,
            end: End::Exit,
            ended: FIN,
            ktap: include_str!("../testdata/ktap-splat.log"),
            console: include_str!("../testdata/console-splat.log"),
            expect_console: &[],
            allow_splat: &["WARNING: CPU: 0 PID: 1 at self_splat".to_string()],
            allow_trace: &[],
            allow_core_races: false,
        };
        let v = judge(&input);
        assert!(v.green(), "{:?}", v.reasons);
        let other = ["WARNING: at something else".to_string()];
        input.allow_splat = &other;
        red(&judge(&input), "splat");
    }

    #[test]
    fn a_stack_after_an_allowed_line() {
        let traces = ["Internal error in cancel".to_string()];
        let message = "XFS: Internal error in cancel at line 1";
        let stack = "Call Trace:\n <TASK>\n dump_stack+0x5/0x8\n cancel+0x1/0x2";
        let found = |log: &str| splats(log, &[], &traces).len();
        let log = format!("{message}\nCPU: 0\n{stack}");
        assert_eq!(found(&log), 0);
        assert_eq!(splats(&log, &[], &[]).len(), 1);
        assert_eq!(found(&format!("{log}\nWARNING: CPU: 0\n{stack}")), 2);
        // Of another function.
        assert_eq!(found(&log.replace(" cancel+", " other_cancel+")), 1);
        assert_eq!(found(&log.replace(" cancel+", " cancel_other+")), 1);
        // Two at once.
        let log = format!("{message}\n{message}\n{stack}\n{stack}");
        assert_eq!(found(&log), 0);
        assert_eq!(found(&format!("{log}\n{stack}")), 1);
        for (between, splats) in [(TRACE - 1, 0), (TRACE, 1)] {
            let log = format!("{message}{}\n{stack}", "\nx".repeat(between));
            assert_eq!(found(&log), splats);
        }
    }

    #[test]
    fn splats_after_an_allowed_report_count() {
        let allow = ["WARNING: fine".to_string()];
        let log = "WARNING: fine\nCall Trace:\n---[ end trace 0 ]---\nCall Trace:\n";
        assert_eq!(splats(log, &allow, &[]).len(), 1);
        let log = "WARNING: fine\nBUG: KASAN: slab-use-after-free\n";
        assert_eq!(splats(log, &allow, &[]).len(), 1);
    }

    #[test]
    fn races_of_the_core() {
        let report = include_str!("../testdata/console-race.log");
        let e = expected(&TWO[..1]);
        let judged = |console: &str, allow_core_races: bool| {
            judge(&Input {
                expected: &e,
                end: End::Exit,
                ended: FIN,
                ktap: "KTAP version 1\n1..1\nok 1 self_pass\n# rpmem: end of run\n",
                console,
                expect_console: &[],
                allow_splat: &[],
                allow_trace: &[],
                allow_core_races,
            })
        };
        red(&judged(report, false), "KCSAN: data-race in");
        let v = judged(report, true);
        assert!(v.green(), "{:?}", v.reasons);
        assert_eq!(
            v.figures,
            ["let through: data-race in folio_mark_accessed / lru_add"]
        );
        // One side is a module's, or was called by one.
        for (core, module) in [
            (" / lru_add", " / rpmem_lru_add [rpmem]"),
            ("in folio_mark_accessed", "in f [rpmem]"),
            ("blkdev_read_iter+0x191/0x210", "f+0x191/0x210 [rpmem]"),
        ] {
            assert!(report.contains(core));
            red(&judged(&report.replacen(core, module, 1), true), "KCSAN");
        }
        // One side only, half a report, one without stacks, another instrument.
        red(&judged(&report.replace(" / lru_add", ""), true), "KCSAN");
        let half = report.trim_end().trim_end_matches('=');
        red(&judged(half, true), "KCSAN");
        red(&judged(&report.replace("+0x", ""), true), "KCSAN");
        red(&judged(&report.replace("KCSAN", "KASAN"), true), "KASAN");
        // What others say in between.
        let more = report.replacen("\n\n", "\nWARNING: CPU: 0\n", 1);
        red(&judged(&more, true), "WARNING");
    }

    #[test]
    fn hang_of_a_test() {
        let v = run(
            &["self_hang", "self_pass"],
            include_str!("../testdata/ktap-hang.log"),
            CONSOLE,
            FIN,
        );
        red(&v, "not ok: self_hang");
        assert_eq!(v.tests[1].1, Status::Pass);
    }

    #[test]
    fn hang_of_the_guest() {
        let v = run(
            TWO,
            "KTAP version 1\n1..2\nok 1 self_pass\n",
            CONSOLE,
            Ended::Timeout("timeout: no answer".into()),
        );
        red(&v, "timeout: no answer");
        red(&v, "no result: self_pass2");
    }

    #[test]
    fn half_a_plan() {
        let names = ["self_pass", "self_exit_vm", "self_pass2"];
        let v = run(
            &names,
            include_str!("../testdata/ktap-half.log"),
            CONSOLE,
            FIN,
        );
        red(&v, "1 results for a plan of 3");
        red(&v, "no end marker");
    }

    #[test]
    fn missing_and_surplus() {
        let ktap = "KTAP version 1\n1..1\nok 1 self_pass\n# rpmem: end of run\n";
        red(&run(TWO, ktap, CONSOLE, FIN), "the plan says 1 tests");
        let ktap = "KTAP version 1\n1..2\nok 1 self_pass\nok 2 other\n# rpmem: end of run\n";
        let v = run(TWO, ktap, CONSOLE, FIN);
        red(&v, "not asked for: other");
        red(&v, "no result: self_pass2");
        let ktap = "KTAP version 1\n1..2\nok 1 self_pass\nok 2 self_pass\n# rpmem: end of run\n";
        red(&run(TWO, ktap, CONSOLE, FIN), "two results");
    }

    #[test]
    fn skips() {
        let ktap = "KTAP version 1\n1..2\nok 1 self_pass\nok 2 self_pass2 # SKIP no disk\n# rpmem: end of run\n";
        red(&run(TWO, ktap, CONSOLE, FIN), "does not allow");
        let mut e = expected(TWO);
        e[1].allow_skip = true;
        let mut input = Input {
            expected: &e,
            end: End::Exit,
            ended: FIN,
            ktap,
            console: CONSOLE,
            expect_console: &[],
            allow_splat: &[],
            allow_trace: &[],
            allow_core_races: false,
        };
        assert!(judge(&input).green());
        let e: Vec<_> = TWO
            .iter()
            .map(|n| Expected {
                name: n.to_string(),
                allow_skip: true,
            })
            .collect();
        input.expected = &e;
        input.ktap = "KTAP version 1\n1..2\nok 1 self_pass # SKIP\nok 2 self_pass2 # SKIP no\n# rpmem: end of run\n";
        red(&judge(&input), "every test was skipped");
    }

    #[test]
    fn figures_are_what_tests_call_results() {
        let ktap = "KTAP version 1\n1..1\n# result: 5 cuts\n# other: 6\nok 1 self_pass\n# rpmem: end of run\n";
        let v = run(&TWO[..1], ktap, CONSOLE, FIN);
        assert!(v.green());
        assert_eq!(v.figures, ["5 cuts"]);
    }

    #[test]
    fn nothing_is_red() {
        red(&run(TWO, "", "", Ended::Exited(1)), "no KTAP header");
        red(&run(TWO, "", "", Ended::Exited(1)), "kernel log is empty");
        red(
            &run(
                &[],
                "KTAP version 1\n1..0\n# rpmem: end of run\n",
                CONSOLE,
                FIN,
            ),
            "nothing can be green",
        );
    }

    #[test]
    fn wrong_exit() {
        let ktap = include_str!("../testdata/ktap-pass.log");
        red(
            &run(TWO, ktap, CONSOLE, Ended::Exited(0)),
            "QEMU ended with 0",
        );
        red(
            &run(TWO, ktap, CONSOLE, Ended::Exited(35)),
            "QEMU ended with 35",
        );
        red(&run(TWO, ktap, CONSOLE, Ended::Signalled(6)), "signal 6");
        red(
            &run(TWO, ktap, CONSOLE, Ended::NotStarted("x".into())),
            "did not start",
        );
        red(&run(TWO, ktap, CONSOLE, Ended::PowerCut), "none was agreed");
    }

    #[test]
    fn power_cut() {
        let e = expected(&["self_cut"]);
        let mut input = Input {
            expected: &e,
            end: End::PowerCut,
            ended: Ended::PowerCut,
            ktap: "KTAP version 1\n1..1\nok 1 self_cut\n# rpmem: cut the power now\n",
            console: CONSOLE,
            expect_console: &[],
            allow_splat: &[],
            allow_trace: &[],
            allow_core_races: false,
        };
        assert!(judge(&input).green());
        input.ended = FIN;
        red(&judge(&input), "QEMU ended with 33");
        input.ended = Ended::PowerCut;
        input.ktap = "KTAP version 1\n1..1\nok 1 self_cut\n";
        red(&judge(&input), "no power-cut marker");
        input.end = End::Down;
        input.ended = Ended::Exited(0);
        red(&judge(&input), "did not say that it goes down");
        input.ktap = "KTAP version 1\n1..1\nok 1 self_cut\n# rpmem: the machine goes down now\n";
        assert!(judge(&input).green());
        input.ended = FIN;
        red(&judge(&input), "QEMU ended with 33");
        input.end = End::Exit;
        red(&judge(&input), "where it was not agreed");
    }

    #[test]
    fn console_lines() {
        let e = expected(TWO);
        let want = ["no such line".to_string()];
        let input = Input {
            expected: &e,
            end: End::Exit,
            ended: FIN,
            ktap: include_str!("../testdata/ktap-pass.log"),
            console: CONSOLE,
            expect_console: &want,
            allow_splat: &[],
            allow_trace: &[],
            allow_core_races: false,
        };
        red(&judge(&input), "the kernel log lacks: no such line");
    }

    #[test]
    fn garbage() {
        let ktap = "KTAP version 1\n1..2\nok 1 self_pass\nok two self_pass2\n# rpmem: end of run\n";
        red(&run(TWO, ktap, CONSOLE, FIN), "malformed");
        let ktap = include_str!("../testdata/ktap-pass.log").to_string() + "ok 3 more\n";
        red(&run(TWO, &ktap, CONSOLE, FIN), "after the end");
        let ktap = include_str!("../testdata/ktap-pass.log").replace("ok 2", "ok 3");
        red(&run(TWO, &ktap, CONSOLE, FIN), "result number 3");
    }
}
