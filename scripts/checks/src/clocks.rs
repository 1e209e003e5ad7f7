// SPDX-License-Identifier: GPL-2.0

//! What a test in a guest may not depend on, as far as its text shows: how fast the host is, and what
//! the kernel does in the background. `Documentation/testing.md`, "What a test may depend on".

use crate::rust::{File, Token};

/// What makes a use of the clock right is said in a comment that begins so, beside or above it.
const MARK: &str = "CLOCK:";
/// A statement may begin that many lines above.
const ABOVE: usize = 4;
/// What has mkfs.ext4 leave nothing for later.
const NOT_LAZY: &str = "EXT4_NOT_LAZY";

/// Gives what depends on a clock without saying why.
pub fn check(files: &[File]) -> Vec<String> {
    files.iter().flat_map(of_file).collect()
}

fn of_file(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for (n, token) in file.tokens.iter().enumerate() {
        let wrong = if reads_clock(&file.tokens, n) {
            "a clock or a fixed wait decides: wait for the condition (Ctx::wait_for, sys::FOREVER)"
        } else if token.text.contains("mkfs.ext4") && !is_eager(&file.tokens, n) {
            "the kernel initialises the file system while the test runs: give mkfs.ext4 EXT4_NOT_LAZY"
        } else {
            continue;
        };
        let line = file.line(token.range.start);
        if !excused(file, line) {
            findings.push(format!(
                "{}:{line}: {wrong}, or say what makes it right in a comment \"{MARK} ...\"",
                file.path.display(),
            ));
        }
    }
    findings
}

fn excused(file: &File, line: usize) -> bool {
    let near = line.saturating_sub(ABOVE)..=line;
    let lines = file.comments.iter().flat_map(|c| &c.lines);
    lines
        .filter(|(n, _)| near.contains(n))
        .any(|(_, text)| text.trim_start().starts_with(MARK))
}

/// Whether the token `n` is that of a call that waits for a time, or asks what time it is.
fn reads_clock(tokens: &[Token], n: usize) -> bool {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    if !tokens[n].ident {
        return false;
    }
    let called = text(n + 1) == "(";
    let of = |kind: &str| n >= 3 && text(n - 1) == ":" && text(n - 2) == ":" && text(n - 3) == kind;
    match text(n) {
        "sleep" | "sleep_ms" | "park_timeout" => called && of("thread"),
        "usleep" | "nanosleep" | "clock_nanosleep" | "alarm" => called && of("libc"),
        "now" => called && (of("Instant") || of("SystemTime")),
        "recv_timeout" | "wait_timeout" | "set_read_timeout" => called,
        // poll(file, events, milliseconds): neither at once nor for ever.
        "poll" if called && of("sys") => {
            let mut depth = 0;
            let end = (n + 1..tokens.len()).find(|&i| {
                match text(i) {
                    "(" | "[" | "{" => depth += 1,
                    ")" | "]" | "}" => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            let last = end.map_or("", |end| text(end - 1));
            last != "0" && last != "FOREVER"
        }
        _ => false,
    }
}

/// Whether mkfs.ext4 in the string `n` has nothing left for later, or is to fail.
fn is_eager(tokens: &[Token], n: usize) -> bool {
    if tokens[n].text.contains(NOT_LAZY) {
        return true;
    }
    let ends = |t: &&Token| matches!(t.text.as_str(), ";" | "{" | "}");
    let before = tokens[..n].iter().rev().take_while(|t| !ends(t));
    let after = tokens[n..].iter().take_while(|t| !ends(t));
    let mut statement = before.chain(after);
    statement.any(|t| t.text == NOT_LAZY || t.text == "fails" || t.text == "assert")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn findings(body: &str) -> usize {
        let text = format!("fn f() {{\n{body}\n}}\n");
        of_file(&File::parse(Path::new("t.rs"), &text).unwrap()).len()
    }

    #[test]
    fn clocks_are_seen() {
        for wrong in [
            "std::thread::sleep(Duration::from_secs(1));",
            "let end = Instant::now() + LIMIT;",
            "let t = std::time::SystemTime::now();",
            "unsafe { libc::usleep(5) };",
            "check_eq!(sys::poll(&f, POLLPRI, 60_000)?, POLLPRI);",
            "sys::poll(&f, events(1, 2), A_WHILE)?;",
            "rx.recv_timeout(LIMIT)?;",
        ] {
            assert_eq!(findings(wrong), 1, "{wrong}");
            assert_eq!(findings(&format!("// CLOCK: only shown.\n{wrong}")), 0);
            assert_eq!(findings(&format!("// The clock: no.\n{wrong}")), 1);
            let far = "\n".repeat(ABOVE);
            assert_eq!(findings(&format!("// CLOCK: of others.\n{far}{wrong}")), 1);
        }
    }

    #[test]
    fn what_is_no_clock() {
        for right in [
            "sys::poll(&f, POLLPRI, FOREVER)?;",
            "sys::poll(&f, POLLPRI, sys::FOREVER)?;",
            "sys::poll(&f, 0, 0)?;",
            "let sleep = sleep(c);",
            "// Instant::now()",
            "let s = \"thread::sleep(1)\";",
            "let now = bench::now();",
        ] {
            assert_eq!(findings(right), 0, "{right}");
        }
    }

    #[test]
    fn lazy_file_systems() {
        assert_eq!(findings("c.ok(&[\"mkfs.ext4\", \"-q\", &dev])?;"), 1);
        assert_eq!(findings("c.sh(&format!(\"mkfs.ext4 -q {dev}\"))?;"), 1);
        assert_eq!(findings("c.fails(&[\"mkfs.ext4\", &dev])?;"), 0);
        let eager = "c.ok(&[\"mkfs.ext4\", \"-E\", EXT4_NOT_LAZY, &dev])?;";
        assert_eq!(findings(eager), 0);
        let other = format!("{eager}\nc.ok(&[\"mkfs.ext4\", &dev])?;");
        assert_eq!(findings(&other), 1);
        let text = "c.sh(&format!(\"mkfs.ext4 -E {EXT4_NOT_LAZY} {dev}\"))?;";
        assert_eq!(findings(text), 0);
    }
}
