// SPDX-License-Identifier: GPL-2.0

//! The flags of the header against those of every architecture's own headers: a bit that means something
//! else there would be taken for that, not refused. What an architecture does not have for user space
//! is generic.

use crate::scratch::Scratch;
use crate::Findings;
use std::{
    fs,
    path::Path,
    process::Command, //
};

/// What the header adds to the flags of mmap(2).
const NEW: [&str; 2] = ["MAP_SYNC", "MAP_DIRECT"];

/// The macro by which compilers for that architecture are known.
fn compiler_macro(arch: &str) -> String {
    match arch {
        "parisc" => "__hppa__".into(),
        arch => format!("__{arch}__"),
    }
}

/// The names of the flags among macros as `gcc -dM` prints them.
fn flags(macros: &str) -> Vec<&str> {
    macros
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split_once(' '))
        .map(|(name, _)| name)
        .filter(|name| {
            let rest = name.strip_prefix("MAP_");
            rest.is_some_and(|r| {
                r.bytes()
                    .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            })
        })
        .collect()
}

/// A program that the preprocessor refuses if a new flag has a bit of another one.
fn program(arch: &str, flags: &[&str]) -> String {
    let mut text = String::from("#include <asm/mman.h>\n#include <linux/rpmem.h>\n");
    for other in flags.iter().filter(|f| **f != "MAP_TYPE") {
        for new in NEW.iter().filter(|n| *n != other) {
            text += &format!(
                "#if ({new}) != (MAP_TYPE) && ({new}) & ({other})\n#error {new} is {other}\n#endif\n"
            );
        }
    }
    // There the type has no bit left, and the flag is a type.
    if matches!(arch, "alpha" | "parisc") {
        text += "#if MAP_DIRECT != MAP_TYPE\n#error MAP_DIRECT has a bit\n#endif\n";
    }
    text + "int end = MAP_DIRECT | MAP_SYNC | MAP_TYPE | MAP_FIXED_NOREPLACE;\n"
}

/// The preprocessor went through all of it, and each flag is a number.
fn ended(output: &str) -> bool {
    output.lines().any(|line| {
        let numbers = line
            .strip_prefix("int end = ")
            .and_then(|l| l.strip_suffix(';'));
        numbers.is_some_and(|n| {
            n.split(" | ").all(|n| n.starts_with("0x")) && n.matches("0x").count() == 4
        })
    })
}

pub fn check(top: &Path, source: &Path) -> Findings {
    let scratch = Scratch::new("uapi")?;
    let generic = source.join("include/uapi/asm-generic");
    std::os::unix::fs::symlink(&generic, scratch.path().join("asm"))
        .map_err(|e| format!("{}: {e}", scratch.path().display()))?;
    let dir = source.join("arch");
    let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut arches: Vec<_> = entries
        .flatten()
        .filter(|e| e.path().join("include/uapi").is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        // Linux as a process of another one.
        .filter(|name| name != "um")
        .collect();
    arches.sort();
    if arches.len() < 15 {
        return Err(format!(
            "{} has few architectures: {arches:?}",
            dir.display()
        ));
    }

    let mut findings = Vec::new();
    for arch in &arches {
        let preprocess = |text: &str, more: &[&str]| -> Result<(bool, String), String> {
            let file = scratch.path().join("test.c");
            fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
            let output = Command::new("gcc")
                .args([
                    "-E",
                    "-P",
                    "-nostdinc",
                    "-ffreestanding",
                    "-undef",
                    "-Wno-cpp",
                ])
                .arg(format!("-D{}", compiler_macro(arch)))
                .arg("-I")
                .arg(top.join("include/uapi"))
                .arg("-I")
                .arg(dir.join(arch).join("include/uapi"))
                .arg("-I")
                .arg(source.join("include/uapi"))
                .arg("-I")
                .arg(scratch.path())
                .args(more)
                .arg(&file)
                .output()
                .map_err(|e| format!("gcc: {e}"))?;
            let text = if output.status.success() {
                output.stdout
            } else {
                output.stderr
            };
            Ok((
                output.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        };
        let (fine, macros) = preprocess("#include <asm/mman.h>\n", &["-dM"])?;
        if !fine {
            findings.push(format!("arch/{arch}: asm/mman.h: {macros}"));
            continue;
        }
        let (fine, output) = preprocess(&program(arch, &flags(&macros)), &[])?;
        if !fine || !ended(&output) {
            findings.push(format!(
                "include/uapi/linux/rpmem.h: a flag means something else on {arch}:\n{output}"
            ));
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_among_macros() {
        let macros =
            "#define MAP_SHARED 0x01\n#define MAP_x 1\n#define PROT_READ 1\n#define MAP_TYPE 0xf";
        assert_eq!(flags(macros), ["MAP_SHARED", "MAP_TYPE"]);
    }

    #[test]
    fn each_new_flag_meets_each_other() {
        let text = program("x86", &["MAP_A", "MAP_SYNC", "MAP_TYPE"]);
        for line in [
            "#error MAP_SYNC is MAP_A",
            "#error MAP_DIRECT is MAP_A",
            "#error MAP_DIRECT is MAP_SYNC",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(!text.contains("MAP_SYNC is MAP_SYNC") && !text.contains("is MAP_TYPE"));
        assert!(!text.contains("has a bit") && program("alpha", &[]).contains("has a bit"));
    }

    #[test]
    fn the_end_is_four_numbers() {
        assert!(ended("\nint end = 0x4 | 0x80000 | 0x0f | 0x100000;\n"));
        assert!(!ended("int end = MAP_DIRECT | 0x80000 | 0x0f | 0x100000;"));
        assert!(!ended("int end = 0x80000 | 0x0f | 0x100000;"));
        assert!(!ended(""));
    }
}
