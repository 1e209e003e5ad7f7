// SPDX-License-Identifier: GPL-2.0

//! What the kernels that are built here carry: patches that apply, are small, and are as kernel developers
//! would have them.

use crate::scratch::Scratch;
use crate::Findings;
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process::Command, //
};

/// Lines that a patch may add and remove together.
const MOST: usize = 40;

/// The files of the source that a patch changes.
fn changed_files(patch: &str) -> impl Iterator<Item = &str> {
    patch.lines().filter_map(|l| l.strip_prefix("--- a/"))
}

/// The lines that it adds and removes.
fn changed_lines(patch: &str) -> usize {
    patch
        .lines()
        .skip_while(|l| !l.starts_with("diff "))
        .filter(|l| l.starts_with(['+', '-']))
        .filter(|l| !l.starts_with("--- a/") && !l.starts_with("+++ b/"))
        .filter(|l| *l != "--- /dev/null" && *l != "+++ /dev/null")
        .count()
}

/// Runs it, and returns what it says if it fails.
fn complaint(command: &mut Command) -> Result<Option<String>, String> {
    let output = command
        .output()
        .map_err(|e| format!("{:?}: {e}", command.get_program()))?;
    if output.status.success() {
        return Ok(None);
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    Ok(Some(text.trim_end().to_string()))
}

pub fn check(dir: &Path, source: &Path) -> Findings {
    let scratch = Scratch::new("patches")?;
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut patches: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "patch"))
        .collect();
    patches.sort();
    if patches.is_empty() {
        return Err(format!("{} has no patches", dir.display()));
    }

    let mut findings = Vec::new();
    let mut files = Vec::new();
    for path in &patches {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|e| format!("{shown}: {e}"))?;
        for file in changed_files(&text) {
            let copy = scratch.path().join(file);
            // A patch before this one may have changed it.
            if !copy.exists() {
                let parent = copy.parent().unwrap_or(scratch.path());
                fs::create_dir_all(parent)
                    .and_then(|()| fs::copy(source.join(file), &copy))
                    .map_err(|e| format!("{shown}: {file}: {e}"))?;
                files.push(copy);
            }
        }
        let apply = complaint(
            Command::new("patch")
                .arg("-d")
                .arg(scratch.path())
                .args(["-p1", "-F0", "-s", "--no-backup-if-mismatch", "-i"])
                .arg(path),
        )?;
        if let Some(why) = apply {
            findings.push(format!(
                "{shown}:1: does not apply to {}: {why}",
                source.display()
            ));
        }
        let changed = changed_lines(&text);
        if changed == 0 || changed > MOST {
            findings.push(format!(
                "{shown}:1: changes {changed} lines: 1 to {MOST} may be changed"
            ));
        }
        let style = complaint(
            Command::new("perl")
                .arg(source.join("scripts/checkpatch.pl"))
                .arg(format!("--root={}", source.display()))
                .args(["--strict", "--show-types", "--no-summary", "--terse"])
                .arg(path),
        )?;
        findings.extend(style);
    }
    findings.extend(complaint(
        Command::new("python3")
            .arg(source.join("tools/docs/kernel-doc"))
            .args(["-none", "-Werror"])
            .args(&files),
    )?);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "Subject: x\n- a list\n---\n a | 2 +-\n\ndiff --git a/mm/a.c b/mm/a.c\n\
                         --- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,2 +1,2 @@\n context\n-old\n+new\n";

    #[test]
    fn what_a_patch_changes() {
        assert_eq!(changed_files(PATCH).collect::<Vec<_>>(), ["mm/a.c"]);
        assert_eq!(changed_lines(PATCH), 2);
        assert_eq!(changed_lines("Subject: x\n+ a list\n"), 0);
    }

    /// Of patches in the order of their names, with a kernel of one file.
    fn run(name: &str, patches: &[&str]) -> Vec<String> {
        let scratch = Scratch::new(name).unwrap();
        let (source, dir) = (
            scratch.path().join("source"),
            scratch.path().join("patches"),
        );
        for d in [
            &source.join("mm"),
            &source.join("scripts"),
            &source.join("tools/docs"),
            &dir,
        ] {
            fs::create_dir_all(d).unwrap();
        }
        fs::write(source.join("mm/a.c"), "context\nold\n").unwrap();
        fs::write(source.join("scripts/checkpatch.pl"), "exit 0;").unwrap();
        fs::write(source.join("tools/docs/kernel-doc"), "").unwrap();
        for (n, patch) in patches.iter().enumerate() {
            fs::write(dir.join(format!("{n}.patch")), patch).unwrap();
        }
        check(&dir, &source).unwrap()
    }

    #[test]
    fn applies_once() {
        assert_eq!(run("once", &[PATCH]), [""; 0]);
        let twice = run("twice", &[PATCH, PATCH]);
        assert_eq!(twice.len(), 1, "{twice:?}");
        assert!(
            twice[0].contains("1.patch:1: does not apply to"),
            "{twice:?}"
        );
    }

    #[test]
    fn is_small() {
        let lines = "+more\n".repeat(MOST);
        let patch = PATCH.replace("+1,2", &format!("+1,{}", MOST + 2)) + &lines;
        let findings = run("small", &[&patch]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("changes 42 lines"), "{findings:?}");
    }
}
