// SPDX-License-Identifier: GPL-2.0

//! Files and symbols of the kernel that documentation refers to exist.

use crate::{
    rust::{files, File},
    Findings,
};
use std::{fs, path::Path};

const MARK: &str = "C counterpart:";
const LINK: &str = "](srctree/";

pub fn check(top: &Path, source: &Path, sources: &[File]) -> Findings {
    let mut findings = Vec::new();
    let missing = |at: &str, path: &str| {
        format!(
            "{at}: {path} is neither in the kernel ({}) nor in the clone: correct the path",
            source.display()
        )
    };
    let exists = |path: &str| {
        expand(path)
            .iter()
            .all(|path| source.join(path).is_file() || top.join(path).is_file())
    };
    for file in sources {
        for comment in &file.comments {
            for (line, text) in &comment.lines {
                let at = format!("{}:{line}", file.path.display());
                for (label, path) in links(text) {
                    if !source.join(path).exists() {
                        findings.push(format!(
                            "{at}: the link is to {path}, which the kernel ({}) has not: \
                             correct the path",
                            source.display()
                        ));
                    }
                    if label.trim_matches('`') != path {
                        findings.push(format!(
                            "{at}: the link to {path} is shown as {label}: show the path"
                        ));
                    }
                }
                for path in quoted(text).into_iter().filter(|quoted| is_path(quoted)) {
                    if !exists(path) {
                        findings.push(missing(&at, path));
                    }
                }
            }
            let at = format!("{}:{}", file.path.display(), comment.lines[0].0);
            findings.extend(counterparts(
                comment.lines.iter().map(|l| l.1.as_str()),
                source,
                &at,
            ));
        }
    }
    let mut pages = files(&top.join("Documentation"), |name| name.ends_with(".md"))?;
    pages.push(top.join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).map_err(|e| format!("{}: {e}", page.display()))?;
        let page = page.strip_prefix(top).unwrap_or(&page).display();
        for (i, line) in text.lines().enumerate() {
            for path in quoted(line).into_iter().filter(|quoted| is_path(quoted)) {
                if !exists(path) {
                    findings.push(missing(&format!("{page}:{}", i + 1), path));
                }
            }
        }
    }
    Ok(findings)
}

/// Label and path of each link into the kernel source.
fn links(text: &str) -> Vec<(&str, &str)> {
    text.match_indices(LINK)
        .map(|(at, _)| {
            let label = text[..at].rfind('[').map_or("", |open| &text[open + 1..at]);
            let path = &text[at + LINK.len()..];
            (label, &path[..path.find(')').unwrap_or(path.len())])
        })
        .collect()
}

/// What is in backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Whether it is the path of a source file, from the top of a tree.
fn is_path(text: &str) -> bool {
    text.contains('/')
        && !text.starts_with('/')
        && !text.contains([' ', '<', '*'])
        && [".c", ".h", ".rs"].iter().any(|end| text.ends_with(end))
}

/// `a/{b,c}.h` as the paths that it stands for.
fn expand(path: &str) -> Vec<String> {
    match (path.find('{'), path.find('}')) {
        (Some(open), Some(close)) if open < close => path[open + 1..close]
            .split(',')
            .map(|word| format!("{}{word}{}", &path[..open], &path[close + 1..]))
            .collect(),
        _ => vec![path.into()],
    }
}

/// Checks "C counterpart: `a()`, `b` in `file`": each symbol is a word of the next file named.
fn counterparts<'a>(lines: impl Iterator<Item = &'a str>, source: &Path, at: &str) -> Vec<String> {
    let text = lines.map(str::trim).collect::<Vec<_>>().join("\n");
    let Some(start) = text.find(MARK) else {
        return Vec::new();
    };
    let paragraph = &text[start..];
    let paragraph = &paragraph[..paragraph.find("\n\n").unwrap_or(paragraph.len())];
    let mut findings = Vec::new();
    let mut symbols = Vec::new();
    let mut any = false;
    for quote in quoted(paragraph) {
        if !is_path(quote) {
            symbols.push(
                quote
                    .trim_end_matches("()")
                    .rsplit(' ')
                    .next()
                    .unwrap_or(quote),
            );
            continue;
        }
        any |= !symbols.is_empty();
        // That it exists is checked elsewhere.
        let Ok(file) = fs::read_to_string(source.join(quote)) else {
            symbols.clear();
            continue;
        };
        for symbol in symbols.drain(..) {
            let found = file
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .any(|word| word == symbol);
            if !found {
                findings.push(format!(
                    "{at}: {MARK} `{symbol}` is not in {quote}: name what is there"
                ));
            }
        }
    }
    if !any {
        findings.push(format!(
            "{at}: {MARK} names no symbol and file: write `function()` in `path/file.c`"
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces() {
        assert_eq!(
            links("C header: [`include/a.h`](srctree/include/b.h), more"),
            [("`include/a.h`", "include/b.h")]
        );
        assert_eq!(expand("a/{b,c}.h"), ["a/b.h", "a/c.h"]);
        assert!(is_path("drivers/nvdimm/pmem.c"));
        assert!(!is_path("dax/write_cache") && !is_path("pmem.c"));
    }
}
