// SPDX-License-Identifier: GPL-2.0
//! What operations do to cache lines of the medium, by the plugin durable.c: how many they load from and store
//! to, what they flush, and how often they fence. This driver must not do more of any than the other one.
//!
//! It fails closed: an operation that one driver alone has done, or that has not moved as many lines as it
//! has to, is red.

use crate::durable::{numbers, Seen};
use std::collections::BTreeMap;

/// Of lines: loaded from, stored to, stored to past the caches. Flushes, and flushes of lines that needed
/// none. Fences.
type Counts = [u64; 6];
const AGAIN: usize = 4;
const NAMES: [&str; 6] = [
    "lines loaded",
    "lines stored",
    "lines stored past the caches",
    "flushes",
    "flushes of lines that needed none",
    "fences",
];
const OURS: &str = "rpmem";

/// What one operation does with each driver: the least of all times, as an interrupt only adds to it.
#[derive(Default)]
struct Row<'a> {
    /// Its place among all.
    number: usize,
    /// Lines that it has to move.
    lines: u64,
    ours: Option<Counts>,
    theirs: Option<(&'a str, Counts)>,
}

fn least(a: Option<Counts>, b: Counts) -> Counts {
    a.map_or(b, |a| std::array::from_fn(|i| a[i].min(b[i])))
}

fn read(text: &str) -> Result<BTreeMap<&str, Row<'_>>, String> {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("tally ") else {
            continue;
        };
        let bad = || format!("not understood: {line}");
        let (counts, name) = numbers::<6>(rest).ok_or_else(bad)?;
        let words: Vec<&str> = name.split("; ").collect();
        let [driver, what, lines] = words.as_slice() else {
            return Err(bad());
        };
        let number = rows.len();
        let row = rows.entry(what).or_insert_with(|| Row {
            number,
            ..Row::default()
        });
        row.lines = lines.parse().map_err(|_| bad())?;
        match (*driver, row.theirs) {
            (OURS, _) => row.ours = Some(least(row.ours, counts)),
            (other, Some((name, _))) if other != name => return Err(bad()),
            (other, was) => row.theirs = Some((other, least(was.map(|w| w.1), counts))),
        }
    }
    Ok(rows)
}

/// All operations, as rows of a table, which are shown if it is `long`.
pub fn judge(text: &str, long: bool) -> Seen {
    let mut seen = Seen::default();
    let rows = match read(text) {
        Ok(rows) if !rows.is_empty() => rows,
        Ok(_) => {
            seen.reasons.push("cache lines: nothing was counted".into());
            return seen;
        }
        Err(why) => {
            seen.reasons.push(format!("cache lines: {why}"));
            return seen;
        }
    };
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by_key(|(_, row)| row.number);
    for (what, row) in &rows {
        let mut red = |why: String| seen.reasons.push(format!("cache lines: {what}: {why}"));
        let (Some(ours), Some((other, theirs))) = (row.ours, row.theirs) else {
            red("by one of the drivers only".into());
            continue;
        };
        for (counts, driver) in [(ours, OURS), (theirs, other)] {
            let moved: u64 = counts[..3].iter().sum();
            if moved < row.lines {
                red(format!("{driver} has moved {moved} of {} lines", row.lines));
            }
        }
        for ((name, a), b) in NAMES.iter().zip(ours).zip(theirs) {
            if a > b {
                red(format!("{a} {name}, and {b} with {other}"));
            }
        }
        if ours[AGAIN] > 0 {
            red(format!("{} {}", ours[AGAIN], NAMES[AGAIN]));
        }
        let cells = [0, 1, 2, 3, 5].map(|i| format!(" {} |", two(ours[i], theirs[i])));
        seen.rows += &format!("| {what} | {other} |{}\n", cells.concat());
    }
    seen.figures.push(format!(
        "cache lines: {} operations beside the other driver's",
        rows.len()
    ));
    if long {
        seen.figures.extend(seen.rows.lines().map(String::from));
    }
    seen
}

fn two(ours: u64, theirs: u64) -> String {
    match ours == theirs {
        true => ours.to_string(),
        false => format!("{ours} ({theirs})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "follow 0 1\ntally 0 0 64 0 0 1 nd_pmem; write; 64\n\
        tally 0 0 64 0 0 2 rpmem; write; 64\ntally 0 0 64 0 0 1 rpmem; write; 64\n";

    fn red(from: &str, to: &str) -> Vec<String> {
        assert!(from.is_empty() || BOTH.contains(from));
        judge(&BOTH.replace(from, to), false).reasons
    }

    #[test]
    fn the_least_counts() {
        let seen = judge(BOTH, false);
        assert_eq!(seen.reasons, [""; 0]);
        assert_eq!(seen.rows, "| write | nd_pmem | 0 | 0 | 64 | 0 | 1 |\n");
    }

    #[test]
    fn more_than_the_other_is_red() {
        let why = red("tally 0 0 64 0 0 1 rpmem", "tally 0 0 64 0 0 3 rpmem");
        assert_eq!(why, ["cache lines: write: 2 fences, and 1 with nd_pmem"]);
        let flushes = BOTH
            .replace("64 0 0", "64 9 0")
            .replace("64 9 0 1 nd", "64 8 0 1 nd");
        assert_eq!(judge(&flushes, false).reasons.len(), 1);
        // A flush that is not needed is red, whatever the other one does.
        let twice = BOTH.replace("64 0 0", "64 1 1");
        assert_eq!(judge(&twice, false).reasons.len(), 1);
    }

    #[test]
    fn what_shows_nothing_is_red() {
        assert_eq!(judge("follow 0 1\n", false).reasons.len(), 1);
        assert!(red("nd_pmem", "rpmem")[0].contains("one of the drivers"));
        assert_eq!(red("; 64", "; 65").len(), 2);
        assert_eq!(red("; 64", "; x").len(), 1);
        assert_eq!(red("write; 64", "write").len(), 1);
    }
}
