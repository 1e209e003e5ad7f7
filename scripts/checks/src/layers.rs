// SPDX-License-Identifier: GPL-2.0

//! Who may import whom: `src` the driver, that `src/abstractions`, these `src/logic`, and none the
//! other way. In `src/abstractions` a file imports those alone that stand above it in the table of
//! `mod.rs`, so that there is no circle. KUnit modules stand above all: they may import what they test
//! it with.

use crate::rust::{File, Token};
use std::collections::BTreeMap;

/// From below to above.
const LAYERS: [&str; 3] = ["logic", "abstractions", "driver"];

/// The folder of `src` that the file is in, as an index of [`LAYERS`]; those of `src` itself are above.
fn layer(file: &File) -> usize {
    let mut folders = file.path.iter().skip_while(|name| *name != "src").skip(1);
    let folder = folders.next();
    LAYERS
        .iter()
        .position(|name| folder.is_some_and(|folder| folder == *name))
        .unwrap_or(LAYERS.len())
}

fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// The index behind the group that opens at `at`.
fn behind(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i + 1;
        }
    }
    tokens.len()
}

/// The paths of the tree at `at`, after `prefix`; gives the index behind it.
fn paths(tokens: &[Token], at: usize, prefix: &[String], to: &mut Vec<Vec<String>>) -> usize {
    if text(tokens, at) == "{" {
        let end = behind(tokens, at);
        let mut i = at + 1;
        while i + 1 < end {
            i = paths(tokens, i, prefix, to);
            // `, ` or ` as name,`.
            while i + 1 < end && text(tokens, i) != "," {
                i += 1;
            }
            i += 1;
        }
        return end;
    }
    let mut path = prefix.to_vec();
    path.push(text(tokens, at).into());
    if text(tokens, at + 1) == ":" && text(tokens, at + 2) == ":" {
        return paths(tokens, at + 3, &path, to);
    }
    to.push(path);
    at + 1
}

/// What the file names by `crate::` and `super::` outside of its KUnit modules: from the crate's root
/// on, with the line.
fn imports(file: &File) -> Vec<(usize, Vec<String>)> {
    let tokens = &file.tokens;
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let token = &tokens[i];
        if token.text == "kunit_tests" {
            while i < tokens.len() && text(tokens, i) != "{" {
                i += 1;
            }
            i = behind(tokens, i);
            continue;
        }
        let start = matches!(token.text.as_str(), "crate" | "super") && token.ident;
        if !start || text(tokens, i + 1) != ":" || text(tokens, i + 2) != ":" {
            i += 1;
            continue;
        }
        let prefix = match (token.text.as_str(), LAYERS.get(layer(file))) {
            ("super", Some(layer)) => vec![String::from(*layer)],
            _ => Vec::new(),
        };
        let mut all = Vec::new();
        i = paths(tokens, i + 3, &prefix, &mut all);
        let line = file.line(token.range.start);
        found.extend(all.into_iter().map(|path| (line, path)));
    }
    found
}

/// The files of the table in the documentation of `mod.rs`, with their places.
fn order(module: &File) -> BTreeMap<String, usize> {
    let lines = module.comments.iter().flat_map(|comment| &comment.lines);
    lines
        .filter_map(|(_, line)| line.trim().strip_prefix("| `"))
        .filter_map(|line| line.split_once(".rs`"))
        .enumerate()
        .map(|(place, (name, _))| (name.to_string(), place))
        .collect()
}

pub fn check(files: &[File]) -> Result<Vec<String>, String> {
    let module = files
        .iter()
        .find(|file| file.path.ends_with("abstractions/mod.rs"))
        .ok_or("there is no src/abstractions/mod.rs")?;
    let order = order(module);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path != module.path) {
        let own = file.path.file_stem().unwrap_or_default().to_string_lossy();
        let place = order.get(own.as_ref()).copied();
        let of_table = LAYERS.get(layer(file)) == Some(&"abstractions");
        if of_table && place.is_none() {
            findings.push(format!(
                "{}:1: not in the table of src/abstractions/mod.rs: add it, below all that it imports",
                file.path.display()
            ));
        }
        for (line, path) in imports(file) {
            let Some(of) = LAYERS.iter().position(|layer| path[0] == *layer) else {
                continue;
            };
            let name = path[..path.len().min(2)].join("::");
            if of > layer(file) {
                findings.push(format!(
                    "{}:{line}: imports {name}, of a layer above: \
                     move what both need down, or pass it as an argument",
                    file.path.display(),
                ));
                continue;
            }
            if !of_table || path[0] != "abstractions" || path.len() < 2 || path[1] == own {
                continue;
            }
            if order.get(&path[1]).copied() > place {
                findings.push(format!(
                    "{}:{line}: imports {name}, which does not stand above it in the table of \
                     src/abstractions/mod.rs: cut the circle, or order the table",
                    file.path.display(),
                ));
            }
        }
    }
    // By several names of one file.
    findings.dedup();
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const TABLE: &str = "//! | `low.rs` | x |\n//! | `high.rs` | x |\n";

    fn findings(path: &str, text: &str) -> usize {
        let parse = |path, text| File::parse(Path::new(path), text).unwrap();
        let files = [parse("src/abstractions/mod.rs", TABLE), parse(path, text)];
        check(&files).unwrap().len()
    }

    #[test]
    fn a_layer_imports_those_below() {
        let text = "use crate::{abstractions::{low::X, high}, logic::y, bindings};";
        assert_eq!(findings("src/driver/a.rs", text), 0);
        assert_eq!(findings("src/rpmem_main.rs", text), 0);
        assert_eq!(findings("src/logic/a.rs", text), 2);
        assert_eq!(findings("src/logic/a/b.rs", text), 2);
        let up = "fn f() { crate::driver::g() }";
        assert_eq!(findings("src/abstractions/low.rs", up), 1);
        assert_eq!(findings("src/logic/a.rs", up), 1);
        assert_eq!(findings("src/rpmem_main.rs", up), 0);
    }

    #[test]
    fn abstractions_keep_the_order_of_the_table() {
        for path in [
            "super::low",
            "crate::abstractions::low",
            "super::{low::{self, B as C}, x}",
        ] {
            let text = format!("use {path};");
            assert_eq!(findings("src/abstractions/high.rs", &text), 0, "{path}");
            let text = text.replace("low", "high");
            assert_eq!(findings("src/abstractions/low.rs", &text), 1, "{path}");
            assert_eq!(findings("src/abstractions/high.rs", &text), 0, "{path}");
        }
        assert_eq!(findings("src/abstractions/new.rs", ""), 1);
    }

    #[test]
    fn kunit_modules_stand_above() {
        let text =
            "#[kernel::macros::kunit_tests(a)]\nmod tests { use crate::abstractions::high; }";
        assert_eq!(findings("src/abstractions/low.rs", text), 0);
        let both = format!("{text} use super::high::X;");
        assert_eq!(findings("src/abstractions/low.rs", &both), 1);
    }
}
