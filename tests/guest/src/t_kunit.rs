// SPDX-License-Identifier: GPL-2.0
//! KUnit results of the module, against the list of what there must be: a test that vanished, is
//! new and not listed, was skipped or failed is an error, as is anything that is not understood.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::{check, check_eq};
use std::fs;

pub const TESTS: &[Test] = crate::tests! {
    kunit_results => results,
    kunit_again => again,
};

const DIR: &str = "/sys/kernel/debug/kunit";
/// Lines `suite test`, in the order in which the tests of a suite run.
const LISTED: &str = include_str!("../../kunit-suites");

/// A suite and its tests.
#[derive(Debug, PartialEq)]
struct Suite {
    name: String,
    tests: Vec<String>,
}

/// The checked list: suites sorted, each in one piece.
fn listed(text: &str) -> Result<Vec<Suite>, String> {
    let mut suites: Vec<Suite> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (suite, test) = line
            .split_once(' ')
            .filter(|(suite, test)| !suite.is_empty() && !test.is_empty() && !test.contains(' '))
            .ok_or(format!("kunit-suites: not 'suite test': {line:?}"))?;
        match suites.last_mut() {
            Some(last) if last.name == suite => {
                if last.tests.iter().any(|t| t == test) {
                    return Err(format!("kunit-suites: twice: {line}"));
                }
                last.tests.push(test.into());
            }
            Some(last) if last.name.as_str() > suite => {
                return Err(format!("kunit-suites: {suite} is behind {}", last.name));
            }
            _ => suites.push(Suite {
                name: suite.into(),
                tests: vec![test.into()],
            }),
        }
    }
    Ok(suites)
}

/// The results of the suite `name`, KTAP, all tests passed; an error quotes what is wrong.
fn passed(name: &str, ktap: &str) -> Result<Suite, String> {
    // What tests and KUnit say between the results; totals are looked at below.
    let is_diagnostic = |l: &&str| l.trim_start().starts_with("# ");
    let stats = format!("# {name}: ");
    let told: Vec<&str> = ktap.lines().filter(|l| l.starts_with(&stats)).collect();
    let subtests: Vec<&str> = ktap.lines().filter(|l| l.contains("# Subtest: ")).collect();
    if subtests != [format!("    # Subtest: {name}")] {
        return Err(format!("subtests are {subtests:?}"));
    }

    let mut lines = ktap.lines().filter(|l| !is_diagnostic(l));
    let mut expect = |want: &str| match lines.next() {
        Some(line) if line == want => Ok(()),
        other => Err(format!("{other:?}, must be {want:?}")),
    };
    expect("KTAP version 1")?;
    expect("1..1")?;
    expect("    KTAP version 1")?;
    let plan = lines.next().unwrap_or_default();
    let planned: usize = plan
        .strip_prefix("    1..")
        .and_then(|n| n.parse().ok())
        .ok_or(format!("{plan:?} is not the plan of the suite"))?;
    if planned == 0 {
        return Err("there are no tests".into());
    }
    let mut tests = Vec::new();
    for number in 1..=planned {
        let line = lines.next().unwrap_or("nothing");
        let test = line
            .strip_prefix(&format!("    ok {number} "))
            .ok_or(format!("test {number} of {planned}: {line:?}"))?;
        // "name # SKIP why" is an ok line, too.
        if test.is_empty() || test.contains(|c: char| c == '#' || c.is_whitespace()) {
            return Err(format!("test {number} of {planned}: {line:?}"));
        }
        tests.push(test.to_string());
    }
    // KUnit sums up where there is more than one test.
    let sum = format!("{stats}pass:{planned} fail:0 skip:0 total:{planned}");
    if told != [sum.as_str()] && (planned > 1 || !told.is_empty()) {
        return Err(format!("summary is {told:?}, must be {sum:?}"));
    }
    match (lines.next(), lines.next()) {
        (Some(line), None) if line == format!("ok 1 {name}") => Ok(Suite {
            name: name.into(),
            tests,
        }),
        other => Err(format!("{other:?} in place of the result of the suite")),
    }
}

/// The suites of the module, sorted.
fn suites() -> TestResult<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(DIR)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("rpmem") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn compare(c: &Ctx) -> TestResult {
    let listed = listed(LISTED)?;
    let wanted: Vec<&str> = listed.iter().map(|s| s.name.as_str()).collect();
    check_eq!(suites()?, wanted, "suites");
    for suite in &listed {
        let name = &suite.name;
        let text = c.read(format!("{DIR}/{name}/results"))?;
        let found = passed(name, &text).map_err(|e| format!("{name}: {e}\n{text}"))?;
        check_eq!(found.tests, suite.tests, "tests of {name}");
    }
    let tests: usize = listed.iter().map(|s| s.tests.len()).sum();
    println!("{} suites, {tests} tests", listed.len());
    Ok(())
}

/// What ran when the module was loaded.
fn results(c: &mut Ctx) -> TestResult {
    check!(c.module_loaded("rpmem"), "the module is not loaded");
    compare(c)
}

/// All suites once more, beside bound namespaces: the first run has left nothing behind.
fn again(c: &mut Ctx) -> TestResult {
    let disks = c.disks();
    check!(!disks.is_empty(), "no namespace is bound");
    for name in suites()? {
        c.write(format!("{DIR}/{name}/run"), "1")?;
    }
    compare(c)?;
    check_eq!(c.disks(), disks);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: s
    # module: rpmem
    1..2
    ok 1 a
    ok 2 b
# s: pass:2 fail:0 skip:0 total:2
# Totals: pass:2 fail:0 skip:0 total:2
ok 1 s";

    #[test]
    fn good_results_are_taken() {
        let s = passed("s", GOOD).unwrap();
        assert_eq!(s.tests, ["a", "b"]);
    }

    #[test]
    fn whatever_is_not_as_it_must_be_is_refused() {
        for (from, to) in [
            ("    ok 2 b", "    not ok 2 b"),
            ("    ok 2 b", "    ok 2 b # SKIP why"),
            ("    ok 2 b", "    ok 3 b"),
            ("    ok 2 b", "    ok 2 "),
            ("    ok 2 b\n", ""),
            ("    ok 2 b", "    ok 2 b\n    ok 3 c"),
            ("    1..2", "    1..3"),
            ("    1..2", "    1..0"),
            ("    1..2\n", ""),
            ("pass:2 fail:0", "pass:1 fail:1"),
            ("# s: pass:2 fail:0 skip:0 total:2\n", ""),
            ("ok 1 s", "not ok 1 s"),
            ("ok 1 s", "ok 1 t"),
            ("\nok 1 s", ""),
            ("# Subtest: s", "# Subtest: t"),
            ("KTAP version 1\n1..1", "KTAP version 2\n1..1"),
            ("ok 1 s", "ok 1 s\nok 2 t"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            assert!(passed("s", &text).is_err(), "{from} -> {to}");
        }
        assert!(passed("s", "").is_err());
    }

    #[test]
    fn the_list_is_well_formed() {
        assert!(!listed(LISTED).unwrap().is_empty());
        for bad in ["a", "a ", "a b c", "a b\na b", "b a\na a", "a b\nb c\na d"] {
            assert!(listed(bad).is_err(), "{bad:?}");
        }
    }
}
