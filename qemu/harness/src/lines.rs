// SPDX-License-Identifier: GPL-2.0
//! Which lines of the module no guest has executed: gives lines to what boots have noted (`cover.rs`),
//! and compares those that are left with `Documentation/coverage.md`. Boots and builds add up.

use crate::dwarf::{Module, INIT};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn ctx<T>(r: std::io::Result<T>, what: &Path) -> Result<T, String> {
    r.map_err(|e| format!("{}: {e}", what.display()))
}

/// What was executed, of all boots of a build.
fn executed(dir: &Path) -> Result<(BTreeSet<u64>, Vec<String>), String> {
    let (mut all, mut boots) = (BTreeSet::new(), Vec::new());
    let dir = dir.join("boots");
    for entry in ctx(fs::read_dir(&dir), &dir)? {
        let path = ctx(entry, &dir)?.path();
        let text = ctx(fs::read_to_string(&path), &path)?;
        // The last line may be half a line, where QEMU was killed.
        let whole = text.rfind('\n').map_or("", |at| &text[..at]);
        for line in whole.lines() {
            let (part, at) = line.split_once(' ').unwrap_or((line, ""));
            let base = match part {
                "text" => 0,
                "init" => INIT,
                "load" => continue,
                _ => return Err(format!("{}: {line}", path.display())),
            };
            let at = u64::from_str_radix(at, 16);
            all.insert(base + at.map_err(|_| format!("{}: {line}", path.display()))?);
        }
        boots.extend(path.file_name().map(|n| n.to_string_lossy().into_owned()));
    }
    boots.sort();
    Ok((all, boots))
}

/// Code of the module, by file and line.
#[derive(Default)]
pub struct Lines {
    files: BTreeMap<String, BTreeMap<u64, Line>>,
    /// What boots it is from, by build.
    boots: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Line {
    reached: bool,
    function: String,
    /// As `Documentation/coverage.md` names it: neither edits elsewhere in the file nor those in other
    /// functions change that.
    key: String,
}

impl Lines {
    /// All that is in `dir`. Which lines have code is what the builds for Debian's kernel say: others
    /// have tests in them.
    pub fn read(dir: &Path, top: &Path) -> Result<Lines, String> {
        let mut builds: Vec<PathBuf> = ctx(fs::read_dir(dir), dir)?
            .flatten()
            .map(|e| e.path())
            .collect();
        // Those of "stock" come first.
        let name = |p: &PathBuf| {
            p.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        builds.sort_by_key(|p| (!name(p).starts_with("stock"), name(p)));
        let mut lines = Lines::default();
        for build in &builds {
            let module = Module::read(&build.join("module.ko"))?;
            let (all, boots) = executed(build)?;
            lines.add(&module, &all, top, name(build).starts_with("stock"))?;
            lines.boots.push((name(build), boots));
        }
        if lines.files.is_empty() {
            return Err(format!("{}: no boots were noted", dir.display()));
        }
        Ok(lines)
    }

    fn add(
        &mut self,
        module: &Module,
        all: &BTreeSet<u64>,
        top: &Path,
        first: bool,
    ) -> Result<(), String> {
        let mut texts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for row in &module.rows {
            let Ok(short) = Path::new(&row.file).strip_prefix(top) else {
                continue;
            };
            let short = short.display().to_string();
            if !short.starts_with("src/") {
                continue;
            }
            let reached = all.range(row.start..row.end).next().is_some();
            let file = self.files.entry(short.clone()).or_default();
            if let Some(line) = file.get_mut(&row.line) {
                line.reached |= reached;
                continue;
            }
            if !first {
                continue;
            }
            if !texts.contains_key(row.file.as_str()) {
                let text = ctx(fs::read_to_string(&row.file), Path::new(&row.file))?;
                texts.insert(
                    &row.file,
                    text.lines().map(|l| l.trim().to_string()).collect(),
                );
            }
            let at = usize::try_from(row.line - 1).ok();
            let text = at.and_then(|at| texts[row.file.as_str()].get(at));
            let text = text.ok_or_else(|| format!("{}: it has no line {}", row.file, row.line))?;
            if !text.contains(char::is_alphanumeric) {
                continue;
            }
            let function = module.function_at(&row.file, row.line);
            let line = Line {
                reached,
                function: function.to_string(),
                key: format!("{short} {function}: {text}"),
            };
            file.insert(row.line, line);
        }
        self.files.retain(|_, lines| !lines.is_empty());
        Ok(())
    }

    /// Keys of lines that were not executed. Lines of a function that read the same have one key, and
    /// each of them counts.
    fn missed(&self) -> BTreeSet<&str> {
        let lines = self.files.values().flat_map(|f| f.values());
        lines
            .filter(|l| !l.reached)
            .map(|l| l.key.as_str())
            .collect()
    }

    fn known(&self) -> BTreeSet<&str> {
        let lines = self.files.values().flat_map(|f| f.values());
        lines.map(|l| l.key.as_str()).collect()
    }

    /// Of each file: lines with code, those reached, and the ranges that are left.
    pub fn report(&self) -> String {
        let mut out = String::new();
        for (build, boots) in &self.boots {
            out += &format!("{build}: {} boots: {}\n", boots.len(), boots.join(" "));
        }
        for (name, lines) in &self.files {
            let reached = lines.values().filter(|l| l.reached).count();
            out += &format!("{name}: {} lines, {reached} reached\n", lines.len());
            for (first, last, function) in ranges(lines) {
                let range = if first == last {
                    format!("{first}")
                } else {
                    format!("{first}-{last}")
                };
                out += &format!("  {name}:{range} {function}\n");
            }
        }
        out + &format!("{}\n", self.total())
    }

    fn total(&self) -> String {
        let all: Vec<&Line> = self.files.values().flat_map(|f| f.values()).collect();
        let reached = all.iter().filter(|l| l.reached).count();
        let percent = 100.0 * reached as f64 / all.len().max(1) as f64;
        format!(
            "{} lines with code, {reached} reached, {percent:.1} %",
            all.len()
        )
    }

    fn table(&self) -> String {
        let mut out =
            String::from("| file | lines with code | reached | not reached |\n|---|--:|--:|--:|\n");
        let mut sum = (0, 0);
        for (name, lines) in &self.files {
            let reached = lines.values().filter(|l| l.reached).count();
            let all = lines.len();
            out += &format!("| `{name}` | {all} | {reached} | {} |\n", all - reached);
            sum = (sum.0 + all, sum.1 + reached);
        }
        out + &format!("| all | {} | {} | {} |\n", sum.0, sum.1, sum.0 - sum.1)
    }
}

/// First and last line, and the function, of what was not reached in one piece: no line with code
/// between them was.
fn ranges(lines: &BTreeMap<u64, Line>) -> Vec<(u64, u64, &str)> {
    let mut found: Vec<(u64, u64, &str)> = Vec::new();
    let mut open = false;
    for (&at, line) in lines {
        match found.last_mut() {
            Some(last) if open && !line.reached && last.2 == line.function => last.1 = at,
            _ if !line.reached => found.push((at, at, &line.function)),
            _ => {}
        }
        open = !line.reached;
    }
    found
}

const BEGIN: &str = "<!-- coverage: begin -->";
const END: &str = "<!-- coverage: end -->";
/// Lists of keys stand in such blocks.
const LIST: &str = "```lines";
const LIST_END: &str = "```";
/// What stands under this heading has none yet.
const WITHOUT: &str = "## Without a reason";
/// Not every run reaches what stands under this one.
const CHANCE: &str = "## Reached by chance";

/// `Documentation/coverage.md`: keys with the heading that they stand under, and headings with lists
/// and no words.
#[derive(Debug, Default, PartialEq)]
struct Reasons {
    listed: BTreeMap<String, String>,
    wordless: Vec<String>,
}

fn reasons(doc: &str) -> Reasons {
    let mut r = Reasons::default();
    let (mut heading, mut words, mut inside) = (String::new(), false, false);
    for line in doc.lines() {
        match line {
            LIST => {
                inside = true;
                if !words {
                    r.wordless.push(heading.clone());
                }
            }
            LIST_END => inside = false,
            _ if inside => {
                r.listed.insert(line.to_string(), heading.clone());
            }
            _ if line.starts_with('#') => {
                heading = line.to_string();
                words = false;
            }
            _ => words |= !line.trim().is_empty(),
        }
    }
    r
}

/// What is wrong with the document, given what was seen.
fn judge(doc: &str, missed: &BTreeSet<&str>, known: &BTreeSet<&str>) -> Vec<String> {
    let r = reasons(doc);
    let mut wrong = Vec::new();
    for key in missed {
        match r.listed.get(*key) {
            None => wrong.push(format!("not reached, and not listed: {key}")),
            Some(h) if h == WITHOUT => wrong.push(format!("not reached, without a reason: {key}")),
            Some(_) => {}
        }
    }
    for key in r.listed.keys().filter(|k| !known.contains(k.as_str())) {
        wrong.push(format!("listed, and no such line has code: {key}"));
    }
    for heading in r.wordless {
        wrong.push(format!("a list without words: {heading}"));
    }
    wrong
}

/// The document with the table made anew, without lines that are reached, and with those that are new
/// at its end.
fn renew(doc: &str, table: &str, missed: &BTreeSet<&str>) -> Result<String, String> {
    let head = doc.find(BEGIN).ok_or(format!("it lacks {BEGIN}"))?;
    let tail = doc.find(END).ok_or(format!("it lacks {END}"))?;
    let (before, after) = (&doc[..head], doc.get(tail..).unwrap_or_default());
    let mut out = format!("{before}{BEGIN}\n{table}");
    let listed = reasons(doc).listed;
    let stays = |key: &str| {
        missed.contains(key) || listed.get(key).is_some_and(|heading| heading == CHANCE)
    };
    let fresh: Vec<&str> = missed
        .iter()
        .copied()
        .filter(|k| !listed.contains_key(*k))
        .collect();
    let mut inside = false;
    for line in after.lines() {
        inside = (inside || line == LIST) && line != LIST_END;
        if !inside || line == LIST || stays(line) {
            out += line;
            out.push('\n');
        }
    }
    if !fresh.is_empty() {
        if !out.contains(WITHOUT) {
            out += &format!("\n{WITHOUT}\n\nTo be looked at.\n");
        }
        out += &format!("\n{LIST}\n{}\n{LIST_END}\n", fresh.join("\n"));
    }
    Ok(out)
}

/// Lines of the document that were reached after all: by chance, or since it was written.
fn reached_after_all(doc: &str, missed: &BTreeSet<&str>, known: &BTreeSet<&str>) -> Vec<String> {
    let listed = reasons(doc).listed.into_iter();
    listed
        .filter(|(_, heading)| heading != CHANCE)
        .map(|(key, _)| key)
        .filter(|k| known.contains(k.as_str()) && !missed.contains(k.as_str()))
        .collect()
}

impl Lines {
    /// Compares with the document; what is wrong with it.
    pub fn check(&self, doc: &Path) -> Result<Vec<String>, String> {
        let text = ctx(fs::read_to_string(doc), doc)?;
        let (missed, known) = (self.missed(), self.known());
        for key in reached_after_all(&text, &missed, &known) {
            println!("listed, and reached: {key}");
        }
        Ok(judge(&text, &missed, &known))
    }

    pub fn renew(&self, doc: &Path) -> Result<(), String> {
        let text = ctx(fs::read_to_string(doc), doc)?;
        let text = renew(&text, &self.table(), &self.missed());
        let text = text.map_err(|e| format!("{}: {e}", doc.display()))?;
        ctx(fs::write(doc, text), doc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str =
        "# C\n\n<!-- coverage: begin -->\nold\n<!-- coverage: end -->\n\n## Memory\n\n\
        There was some.\n\n```lines\na.rs f: x\na.rs f: y\n```\n";

    fn set<'a>(keys: &[&'a str]) -> BTreeSet<&'a str> {
        keys.iter().copied().collect()
    }

    #[test]
    fn every_line_has_a_reason() {
        let known = set(&["a.rs f: x", "a.rs f: y", "a.rs g: z"]);
        assert!(judge(DOC, &set(&["a.rs f: x"]), &known).is_empty());
        assert!(judge(DOC, &set(&["a.rs g: z"]), &known)[0].starts_with("not reached, and not"));
        assert!(judge(DOC, &set(&[]), &set(&["a.rs f: x"]))[0].contains("no such line"));
        let without = DOC.replace("## Memory", WITHOUT);
        assert!(judge(&without, &set(&["a.rs f: x"]), &known)[0].contains("without a reason"));
        let wordless = DOC.replace("There was some.", "");
        assert_eq!(
            judge(&wordless, &set(&[]), &known),
            ["a list without words: ## Memory"]
        );
    }

    #[test]
    fn renewed() {
        let new = renew(DOC, "| t |\n", &set(&["a.rs f: x", "a.rs g: z"])).unwrap();
        assert!(
            new.contains("begin -->\n| t |\n<!-- coverage: end"),
            "{new}"
        );
        assert!(!new.contains("a.rs f: y") && !new.contains("old"), "{new}");
        assert!(
            new.ends_with("To be looked at.\n\n```lines\na.rs g: z\n```\n"),
            "{new}"
        );
        assert_eq!(reasons(&new).listed["a.rs f: x"], "## Memory");
        assert_eq!(reasons(&new).listed["a.rs g: z"], WITHOUT);
        let chance = DOC.replace("## Memory", CHANCE);
        let new = renew(&chance, "| t |\n", &set(&[])).unwrap();
        assert!(new.contains("a.rs f: x\na.rs f: y"), "{new}");
        assert!(renew("", "", &set(&[])).is_err());
    }

    #[test]
    fn ranges_end_where_a_line_was_reached() {
        let line = |reached, function: &str| Line {
            reached,
            function: function.into(),
            key: String::new(),
        };
        let lines = BTreeMap::from([
            (1, line(false, "a")),
            (4, line(false, "a")),
            (5, line(true, "a")),
            (6, line(false, "a")),
            (7, line(false, "b")),
        ]);
        assert_eq!(ranges(&lines), [(1, 4, "a"), (6, 6, "a"), (7, 7, "b")]);
    }
}
