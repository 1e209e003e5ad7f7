// SPDX-License-Identifier: GPL-2.0

//! Who may import whom: `src` the driver, that `src/abstractions`, these `src/logic`, and none the
//! other way. In `src/abstractions` a file imports those alone that stand above it in the table of
//! `mod.rs`, so that there is no circle. KUnit modules stand above all: they may import what they test
//! it with.
//!
//! In the program inside the guests, `tests/guest/src`: what tests share (`support`), then what one of them
//! runs (`fuzz`, `cross`), then the tests (`t_*`), each of which is a file or a folder and imports no other.

use crate::rust::{File, Token};
use std::collections::{BTreeMap, BTreeSet};

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
/// on, with the line. `parent` is the path of what `super` is.
fn imports(file: &File, parent: &[String]) -> Vec<(usize, Vec<String>)> {
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
        let prefix = match token.text.as_str() {
            "super" => parent,
            _ => &[],
        };
        let mut all = Vec::new();
        i = paths(tokens, i + 3, prefix, &mut all);
        let line = file.line(token.range.start);
        found.extend(all.into_iter().map(|path| (line, path)));
    }
    found
}

/// The files that are to move to the kernel crate, as the table says.
fn staged(module: &File) -> Vec<String> {
    let lines = module.comments.iter().flat_map(|comment| &comment.lines);
    lines
        .filter_map(|(_, line)| line.trim().strip_prefix("| `"))
        .filter_map(|line| line.split_once(".rs` | `kernel::"))
        .map(|(name, _)| name.to_string())
        .collect()
}

/// What the documentation of such a file has not: the C source that it mirrors, an example that is
/// compiled.
fn undocumented(file: &File) -> Vec<&'static str> {
    let start = file
        .tokens
        .first()
        .map_or(usize::MAX, |token| file.line(token.range.start));
    let lines = file.comments.iter().flat_map(|comment| &comment.lines);
    let head: Vec<_> = lines
        .filter(|(line, _)| *line < start)
        .map(|(_, text)| text.trim())
        .collect();
    let needed = [
        ("](srctree/", "a link to the C source that it mirrors"),
        ("# Examples", "a section \"# Examples\""),
    ];
    needed
        .into_iter()
        .filter(|(mark, _)| !head.iter().any(|line| line.contains(mark)))
        .map(|(_, what)| what)
        .collect()
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
    let staged = staged(module);
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
        if of_table && staged.iter().any(|name| *name == own) {
            findings.extend(undocumented(file).iter().map(|what| {
                format!(
                    "{}:1: is to move to the kernel crate, and its documentation lacks {what}",
                    file.path.display()
                )
            }));
        }
        let parent: Vec<String> = LAYERS
            .get(layer(file))
            .map(|name| name.to_string())
            .into_iter()
            .collect();
        for (line, path) in imports(file, &parent) {
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

/// What a file of the guests' program is part of, from below to above.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Guest {
    Support,
    /// What a test runs.
    Engine,
    Test,
    Init,
    /// The registry.
    Main,
}

impl Guest {
    fn of(area: &str) -> Guest {
        match area {
            "support" => Guest::Support,
            "init" => Guest::Init,
            "main" => Guest::Main,
            test if test.starts_with("t_") => Guest::Test,
            _ => Guest::Engine,
        }
    }
}

/// The module that the file is, from the crate's root on: its first name is the area.
fn guest_module(file: &File) -> Vec<String> {
    let path = file.path.with_extension("");
    let names = path.iter().map(|name| name.to_string_lossy().into_owned());
    let mut module: Vec<String> = names.skip_while(|name| name != "src").skip(1).collect();
    if module.len() > 1 && module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

/// The same for the program inside the guests.
pub fn check_guest(files: &[File]) -> Vec<String> {
    let modules: Vec<Vec<String>> = files.iter().map(guest_module).collect();
    let areas: BTreeSet<&String> = modules.iter().filter_map(|module| module.first()).collect();
    let mut findings = Vec::new();
    for (file, module) in files.iter().zip(&modules) {
        let Some((own, parent)) = module.first().zip(module.split_last()) else {
            continue;
        };
        for (line, mut path) in imports(file, parent.1) {
            // `super::super::x`
            while let Some(at) = path.iter().position(|name| name == "super") {
                path.drain(at.saturating_sub(1)..=at);
            }
            let Some(area) = path.first().filter(|area| areas.contains(area)) else {
                continue;
            };
            if area == own || Guest::of(area) < Guest::of(own) {
                continue;
            }
            let what = match (Guest::of(own), Guest::of(area)) {
                (Guest::Test, Guest::Test) => "another test: move what both need to support",
                (Guest::Support, _) => "but what tests share knows of none, nor of what one runs",
                _ => "which does not stand below it: move what both need to support",
            };
            findings.push(format!(
                "{}:{line}: imports {area}, {what}",
                file.path.display()
            ));
        }
    }
    findings.dedup();
    findings
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
    fn what_is_to_move_is_documented() {
        let table = "//! | `low.rs` | `kernel::low` | x |\n//! | `own.rs` | driver's own | x |\n";
        let found = |name: &str, text: &str| {
            let parse = |path: &str, text| File::parse(Path::new(path), text).unwrap();
            let path = format!("src/abstractions/{name}.rs");
            let files = [parse("src/abstractions/mod.rs", table), parse(&path, text)];
            check(&files).unwrap().len()
        };
        let good = "//! [`a.h`](srctree/a.h)\n//!\n//! # Examples\n\nuse core::a;\n";
        assert_eq!(found("low", good), 0);
        assert_eq!(found("low", &good.replace("# Examples", "Examples")), 1);
        assert_eq!(
            found("low", "//! Low.\nfn f() {}\n/// # Examples](srctree/\n"),
            2
        );
        assert_eq!(found("own", "//! Own.\n"), 0);
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

    /// Of a file of the guests' program, among others.
    fn in_guest(path: &str, text: &str) -> Vec<String> {
        let parse = |path: &str, text| {
            let path = format!("tests/guest/src/{path}");
            File::parse(Path::new(&path), text).unwrap()
        };
        let others = [
            "main.rs",
            "init.rs",
            "support/mod.rs",
            "support/sys.rs",
            "fuzz/mod.rs",
            "fuzz/run.rs",
            "cross/mod.rs",
            "t_map/mod.rs",
            "t_map/access.rs",
            "t_fsdax.rs",
        ];
        let mut files: Vec<File> = others
            .iter()
            .filter(|other| **other != path)
            .map(|other| parse(other, ""))
            .collect();
        files.push(parse(path, text));
        check_guest(&files)
    }

    #[test]
    fn a_test_imports_no_other() {
        for path in ["t_fsdax.rs", "t_new.rs", "t_new/mod.rs", "t_new/part.rs"] {
            for text in [
                "use crate::t_map;",
                "use crate::{support::sys, t_map::access::X};",
                "fn f() { crate::t_map::g() }",
            ] {
                let found = in_guest(path, text);
                assert_eq!(found.len(), 1, "{path}: {text}");
                assert!(found[0].contains("another test"), "{found:?}");
            }
            let below = "use crate::{check, support::sys::Map, fuzz::run, cross}; use super::X;";
            assert!(in_guest(path, below).is_empty(), "{path}");
        }
        assert_eq!(in_guest("t_new.rs", "use super::t_map::X;").len(), 1);
        let up = "use super::super::t_map::X;";
        assert_eq!(in_guest("t_new/part.rs", up).len(), 1);
        let own = "use super::{access, X}; use crate::t_map::Y; use super::super::t_map::Z;";
        assert!(in_guest("t_map/new.rs", own).is_empty());
    }

    #[test]
    fn support_knows_no_test_and_no_engine() {
        for text in [
            "use crate::t_map::X;",
            "use crate::fuzz::run;",
            "use crate::init;",
        ] {
            assert_eq!(in_guest("support/new.rs", text).len(), 1, "{text}");
        }
        let text = "use crate::support::sys::X; use super::sys; use crate::check;";
        assert!(in_guest("support/new.rs", text).is_empty());
        assert_eq!(in_guest("fuzz/new.rs", "use crate::cross;").len(), 1);
        assert_eq!(in_guest("cross/new.rs", "use crate::t_map;").len(), 1);
        let text = "use crate::{support::sys, fuzz::run}; use super::run;";
        assert!(in_guest("fuzz/new.rs", text).is_empty());
        let text = "use crate::{support::sys, t_map, init};";
        assert!(in_guest("main.rs", text).is_empty());
    }
}
