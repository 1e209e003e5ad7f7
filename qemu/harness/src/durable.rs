// SPDX-License-Identifier: GPL-2.0
//! What the plugin durable.c has seen of cache lines: whether what tests claim to be durable was.
//!
//! It fails closed: a boot that is to claim something and does not is red, as is one of which the
//! plugin, or this program, has not understood all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Claims that were wrong are shown up to this number, and so many lines of each.
const CLAIMS: usize = 12;
const SHOWN: usize = 4;

/// What QEMU gets. What is recorded goes to `record`; loads are counted with `tally`.
pub fn args(plugin: &Path, out: &Path, record: Option<&Path>, tally: bool) -> [String; 2] {
    let mut arg = format!("{},out={}", plugin.display(), out.display());
    if tally {
        arg += ",loads=on";
    }
    if let Some(record) = record {
        arg += &format!(",record={}", record.display());
    }
    ["-plugin".into(), arg]
}

/// Has QEMU keep so many bytes of the guest's memory, which are all of it, where the plugin finds them.
pub fn memfd(bytes: u64) -> [String; 4] {
    let object = format!("memory-backend-memfd,id=ram,size={bytes}");
    let machine = "memory-backend=ram";
    ["-object", &object, "-machine", machine].map(String::from)
}

/// Of one way of storing, acknowledgement and place.
#[derive(Default)]
struct Row {
    claims: u64,
    /// Claims, or counts, that were to be made when the guest went down.
    later: u64,
    /// Looked at, and nothing claimed.
    counts: u64,
    lines: u64,
    /// Not durable.
    bad: u64,
    /// Durable, but by no fence that is one by name.
    by_lock: u64,
    /// Times that a state was planted, and found as planted.
    planted: u64,
    found: u64,
    shown: Vec<String>,
}

#[derive(Debug, Default)]
pub struct Seen {
    pub reasons: Vec<String>,
    pub figures: Vec<String>,
    /// A line for each row.
    pub rows: String,
}

/// `N` numbers, and what follows.
pub fn numbers<const N: usize>(rest: &str) -> Option<([u64; N], &str)> {
    let mut all = [0; N];
    let mut rest = rest;
    for n in &mut all {
        let (word, more) = rest.split_once(' ')?;
        *n = word.parse().ok()?;
        rest = more;
    }
    Some((all, rest))
}

fn read(text: &str, seen: &mut Seen) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut shown = Vec::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let understood = match word {
            // tally.rs reads those.
            "follow" | "tally" => Some(()),
            "lost" => {
                seen.reasons.push(format!("durability: lost {rest}"));
                Some(())
            }
            "later" => {
                rows.entry(rest.into()).or_default().later += 1;
                Some(())
            }
            "line" => {
                shown.push(rest.to_string());
                Some(())
            }
            "claim" => numbers::<3>(rest).map(|([lines, bad, by_lock], name)| {
                let row = rows.entry(name.into()).or_default();
                row.claims += 1;
                row.lines += lines;
                row.bad += bad;
                row.by_lock += by_lock;
                row.shown.append(&mut shown);
            }),
            "planted" => numbers::<2>(rest).map(|([lines, bad], name)| {
                let row = rows.entry(name.into()).or_default();
                row.planted += 1;
                row.found += u64::from(bad == 0 && lines > 0);
                row.shown.append(&mut shown);
            }),
            "count" => numbers::<3>(rest).map(|([lines, stored, written], name)| {
                let row = rows.entry(name.into()).or_default();
                row.counts += 1;
                row.lines += lines;
                row.bad += stored + written;
            }),
            _ => None,
        };
        if understood.is_none() {
            let why = format!("durability: not understood: {line}");
            seen.reasons.push(why);
        }
    }
    rows
}

/// What one place has: its ways of storing, acknowledgements, lines, those not durable, those by lock.
#[derive(Default)]
struct Place<'a> {
    ways: BTreeSet<&'a str>,
    by: BTreeSet<&'a str>,
    lines: u64,
    bad: u64,
    by_lock: u64,
}

/// Of a boot with this driver, and so many CPUs, that has to claim something if `claims`. All places are
/// shown if it is `long`.
pub fn judge(text: &str, driver: &str, cpus: u64, claims: bool, long: bool) -> Seen {
    let mut seen = Seen::default();
    let rows = read(text, &mut seen);
    let sum = |of: fn(&Row) -> u64| rows.values().map(of).sum::<u64>();
    if claims && sum(|r| r.claims) + sum(|r| r.planted) == 0 {
        let why = "durability: nothing was claimed to be durable";
        seen.reasons.push(why.into());
    }
    let mut wrongs = 0;
    let mut places: BTreeMap<(&str, bool), Place> = BTreeMap::new();
    for (name, row) in &rows {
        let wrong = match row.planted {
            0 if row.claims + row.counts < row.later => Some("the guest has not gone down".into()),
            0 if row.claims > 0 && row.bad > 0 => Some(format!(
                "{} of {} lines are not durable",
                row.bad, row.lines
            )),
            0 => None,
            // The kernel may fence at any moment, so that some of them are durable.
            _ if row.found == 0 => Some(format!("never so in {} times", row.planted)),
            _ => continue,
        };
        if let Some(wrong) = wrong {
            wrongs += 1;
            if wrongs <= CLAIMS {
                seen.reasons.push(format!("durability: {name}: {wrong}"));
                let lines = row.shown.iter().take(SHOWN);
                seen.reasons.extend(lines.map(|l| format!("    line {l}")));
            }
            if row.planted > 0 {
                continue;
            }
        }
        let mut words = name.split("; ");
        let (Some(way), Some(by), Some(place), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            let why = format!("durability: not a way, an acknowledgement and a place: {name}");
            seen.reasons.push(why);
            continue;
        };
        let claimed = row.claims > 0;
        seen.rows += &format!(
            "{way} | {by} | {place} | {} lines | {} not durable{} | {} by a locked instruction\n",
            row.lines,
            row.bad,
            if claimed { "" } else { ", nor claimed to be" },
            row.by_lock
        );
        let p = places.entry((place, claimed)).or_default();
        p.ways.insert(way);
        p.by.insert(by);
        p.lines += row.lines;
        p.bad += row.bad;
        p.by_lock += row.by_lock;
    }
    if wrongs > CLAIMS {
        let more = wrongs - CLAIMS;
        seen.reasons.push(format!("durability: {more} more"));
    }
    for claimed in [true, false] {
        let of: Vec<_> = rows.values().filter(|r| r.planted == 0).collect();
        let of = of.iter().filter(|r| (r.claims > 0) == claimed);
        let (n, lines, bad) = of.fold((0, 0, 0), |(n, lines, bad), r| {
            (n + 1, lines + r.lines, bad + r.bad)
        });
        let what = if claimed { "claimed" } else { "not claimed" };
        if n > 0 {
            seen.figures.push(format!(
                "durability {what} of {n} combinations: {bad} of {lines} lines are not durable \
                 ({driver}, CPUs: {cpus})"
            ));
        }
    }
    if long {
        for ((place, claimed), p) in &places {
            let (ways, by) = (p.ways.len(), p.by.len());
            let (lines, bad, by_lock) = (p.lines, p.bad, p.by_lock);
            let bad = match claimed {
                true => bad.to_string(),
                false => format!("({bad})"),
            };
            seen.figures.push(format!(
                "| {place} | {driver} | {cpus} | {ways} | {by} | {lines} | {bad} | {by_lock} |"
            ));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(text: &str) -> Vec<String> {
        judge(text, "rpmem", 2, true, true).reasons
    }

    #[test]
    fn what_is_not_durable_is_red() {
        assert_eq!(reasons("follow 0 1\nclaim 64 0 3 a; b; c"), [""; 0]);
        let red = reasons("line 40 stored cpu0/0/0 12 a; b; c\nclaim 64 1 0 a; b; c\n");
        assert_eq!(red.len(), 2, "{red:?}");
        assert!(red[0].contains("a; b; c: 1 of 64 lines are not durable"));
        assert!(red[1].contains("40 stored"));
    }

    #[test]
    fn a_boot_that_shows_nothing_is_red() {
        for text in ["", "follow 0 1\n", "count 1 0 0 x; y; z\n"] {
            assert_eq!(
                reasons(text),
                ["durability: nothing was claimed to be durable"]
            );
        }
        assert_eq!(judge("", "rpmem", 2, false, true).reasons, [""; 0]);
        assert_eq!(reasons("claim 1 0 0 a; b; c\nlost a store to 0").len(), 1);
        assert_eq!(reasons("claim 1 0 0 a; b; c\nclaim 1 0 a").len(), 1);
        assert_eq!(reasons("claim 1 0 0 a; b; c\nhello").len(), 1);
        let later = "claim 1 0 0 a; b; c\nlater a; b; d\n";
        assert_eq!(reasons(later).len(), 1);
        assert_eq!(reasons(&format!("{later}claim 1 0 0 a; b; d")), [""; 0]);
    }

    #[test]
    fn what_is_planted_is_found_once_at_least() {
        assert_eq!(reasons("planted 1 1 a\nplanted 1 0 a"), [""; 0]);
        assert_eq!(reasons("planted 1 1 a\nplanted 1 1 a").len(), 1);
        assert_eq!(reasons("planted 0 0 a").len(), 1);
    }

    #[test]
    fn rows() {
        let text = "claim 2 0 1 a; b; c\nclaim 3 0 0 a; x; c\ncount 4 1 1 d; b; c";
        let seen = judge(text, "x", 1, true, true);
        assert_eq!(seen.reasons, [""; 0]);
        assert_eq!(
            seen.figures[2..],
            [
                "| c | x | 1 | 1 | 1 | 4 | (2) | 0 |",
                "| c | x | 1 | 1 | 2 | 5 | 0 | 1 |"
            ]
        );
        assert_eq!(seen.rows.lines().count(), 3);
        assert_eq!(reasons("claim 1 0 0 a; b").len(), 1);
    }
}
