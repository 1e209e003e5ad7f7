// SPDX-License-Identifier: GPL-2.0

//! Each row of each table in `Documentation/mmap.md` names the guest tests that show it, in a last
//! column `shown by`, and they are run: by a scenario, and so in the registry of the guest's program,
//! which the harness compares with the scenarios. The pages in `Documentation/using` may have tables
//! without that column.

use crate::{rust::files, Findings};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

const PAGE: &str = "Documentation/mmap.md";
const USING: &str = "Documentation/using";
const COLUMN: &str = "shown by";
const SCENARIOS: &str = "tests/scenarios";

/// The cells of a line of a table; a bar after a backslash or in a backquoted `\|` separates none.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let mut cells = vec![String::new()];
    let mut escaped = false;
    for c in inner.chars() {
        match (c, escaped) {
            ('|', false) => cells.push(String::new()),
            _ => cells.last_mut()?.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    Some(cells.iter().map(|cell| cell.trim().to_string()).collect())
}

fn is_rule(cells: &[String]) -> bool {
    let rule = |cell: &String| !cell.is_empty() && cell.chars().all(|c| c == '-' || c == ':');
    cells.iter().all(rule)
}

/// The names in a cell: backquoted words with commas between, and nothing else.
fn names(cell: &str) -> Option<Vec<&str>> {
    cell.split(", ")
        .map(|name| name.strip_prefix('`')?.strip_suffix('`'))
        .map(|name| name.filter(|name| !name.is_empty() && !name.contains('`')))
        .collect()
}

/// What the page says wrongly, with the tests that there are. If `strict`, it has tables, and all of them have
/// the column.
fn rows(page: &str, text: &str, strict: bool, tests: &BTreeSet<String>) -> Vec<String> {
    let mut findings = Vec::new();
    // Cells of the head of the table that the line is in.
    let mut head: Option<usize> = None;
    let mut shown = false;
    let mut any = false;
    for (n, line) in text.lines().enumerate() {
        let mut say = |what: String| findings.push(format!("{page}:{}: {what}", n + 1));
        let Some(cells) = cells(line) else {
            if line.trim_start().starts_with('|') {
                say("a row that does not end with a bar".into());
            }
            head = None;
            continue;
        };
        let Some(columns) = head else {
            shown = cells.last().map(String::as_str) == Some(COLUMN);
            if strict && !shown {
                say(format!("the last column of this table is not `{COLUMN}`"));
            }
            head = Some(cells.len());
            continue;
        };
        if is_rule(&cells) || !(strict || shown) {
            continue;
        }
        any = true;
        if cells.len() != columns {
            say(format!("{} cells of {columns}", cells.len()));
        }
        let Some(names) = cells.last().and_then(|cell| names(cell)) else {
            say("no test shows this row: name some, as `map_flags`, `map_ranges`".into());
            continue;
        };
        for name in names.into_iter().filter(|name| !tests.contains(*name)) {
            say(format!(
                "no scenario runs a test `{name}`: see scripts/run-harness list"
            ));
        }
    }
    if strict && !any {
        findings.push(format!("{page}: there are no tables"));
    }
    findings
}

/// The tests that a scenario runs.
fn tests_of(scenario: &Value) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for boot in scenario["boots"].as_array()? {
        for test in boot["tests"].as_array()? {
            let name = test.as_str().or_else(|| test["name"].as_str())?;
            names.push(name.to_string());
        }
    }
    Some(names)
}

pub fn check(top: &Path) -> Findings {
    let mut tests = BTreeSet::new();
    for path in files(&top.join(SCENARIOS), |name| name.ends_with(".json"))? {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = fs::read_to_string(&path).map_err(|e| failed(&e))?;
        let scenario: Value = serde_json::from_str(&text).map_err(|e| failed(&e))?;
        tests.extend(tests_of(&scenario).ok_or_else(|| failed(&"no boots with tests"))?);
    }
    let text = fs::read_to_string(top.join(PAGE)).map_err(|e| format!("{PAGE}: {e}"))?;
    let mut findings = rows(PAGE, &text, true, &tests);
    for path in files(&top.join(USING), |name| name.ends_with(".md"))? {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let page = path.strip_prefix(top).unwrap_or(&path);
        findings.extend(rows(&page.to_string_lossy(), &text, false, &tests));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> usize {
        let tests = ["map_a", "map_b"].map(String::from).into();
        rows(PAGE, text, true, &tests).len()
    }

    #[test]
    fn tables_without_the_column() {
        let tests = ["map_a"].map(String::from).into();
        let loose = |text: &str| rows("using/x.md", text, false, &tests).len();
        assert_eq!(loose("No table.\n"), 0);
        assert_eq!(loose("| a | b |\n|---|---|\n| x | y |\n"), 0);
        let text =
            "| a | b |\n|---|---|\n| x | y |\n\n| a | shown by |\n|---|---|\n| x | `map_c` |\n";
        assert_eq!(loose(text), 1);
    }

    #[test]
    fn rows_that_are_fine() {
        let text = "Text.\n\n| a | | shown by |\n|---|--:|---|\n| `X \\| Y` | b | `map_a` |\n\
                    | c | d | `map_a`, `map_b` |\n\nMore `a | b` text.\n";
        assert_eq!(findings(text), 0);
    }

    #[test]
    fn rows_that_are_not() {
        let table = |rest: &str| format!("| a | shown by |\n|---|---|\n| x | `map_a` |\n{rest}");
        assert_eq!(findings(&table("")), 0);
        for bad in [
            "| y | |",
            "| y | map_a |",
            "| y | `map_c` |",
            "| y | `map_a` and so on |",
            "| y | `map_a`, |",
            "| y | z | `map_a` |",
            "| `map_a` |",
            "| y | `map_a`",
            "\n| a | b |\n|---|---|",
        ] {
            assert_eq!(findings(&table(bad)), 1, "{bad}");
        }
        assert_eq!(findings("No table.\n"), 1);
        assert_eq!(findings("| a | b |\n|---|---|\n| x | `map_a` |\n"), 1);
    }

    #[test]
    fn scenarios() {
        let tests = |text: &str| tests_of(&serde_json::from_str(text).unwrap());
        let text =
            r#"{"boots": [{"tests": ["a", {"name": "b", "timeout": 9}]}, {"tests": ["c"]}]}"#;
        assert_eq!(tests(text).unwrap(), ["a", "b", "c"]);
        assert!(tests(r#"{"boots": [{"tests": [{"timeout": 9}]}]}"#).is_none());
        assert!(tests(r#"{"boots": [{}]}"#).is_none());
    }
}
