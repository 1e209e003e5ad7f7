// SPDX-License-Identifier: GPL-2.0

//! Checks of the module's source that no compiler makes:
//!
//! - `symbols KSRC SYMVERS RUSTLIB`: prints the names that the kernel declares, for the others
//! - `unsafe TOP`: unsafe code in `src/abstractions` alone; prints the counts
//! - `layers TOP`: who may import whom, without circles, in the module and in the tests of guests
//! - `safety TOP SYMBOLS`: what is unsafe says why, and names only what exists
//! - `references TOP KSRC`: files and symbols of the kernel that documentation refers to exist
//! - `clocks TOP`: tests in guests depend neither on the speed of the host nor on lazy file systems
//! - `patches DIR KSRC`: patches of the kernel apply, are small, and are in the kernel's style
//! - `uapi TOP KSRC`: flags of mmap(2) in the header mean nothing else on any architecture
//! - `tables TOP`: each row of the tables in `Documentation/mmap.md` names tests that there are
//! - `syzkaller TOP`: the description for syzkaller is that of the header and the driver
//! - `syzkaller-const TOP`: prints the file of constants that goes with it
//!
//! Each prints `file:line: what is wrong: what to do` and fails if there is anything.

mod clocks;
mod kernel;
mod layers;
mod patches;
mod references;
mod rust;
mod safety;
mod scratch;
mod syzkaller;
mod syzlang;
mod tables;
mod uapi;
mod unsafe_code;

use kernel::Symbols;
use rust::File;
use std::{
    env,
    fs,
    path::Path,
    process::ExitCode, //
};

/// What was found, as lines to print.
pub type Findings = Result<Vec<String>, String>;

/// The module's own Rust files, with paths relative to the top of the clone.
fn sources(top: &Path) -> Result<Vec<File>, String> {
    sources_in(top, "src")
}

/// Those of the program inside the guests.
fn guest_sources(top: &Path) -> Result<Vec<File>, String> {
    sources_in(top, "tests/guest/src")
}

fn sources_in(top: &Path, dir: &str) -> Result<Vec<File>, String> {
    let files: Vec<_> = rust::files(&top.join(dir), |name| {
        name.ends_with(".rs") && name != "bindings_generated.rs"
    })?
    .iter()
    .map(|path| {
        let mut file = File::read(path)?;
        if let Ok(short) = path.strip_prefix(top) {
            file.path = short.into();
        }
        Ok(file)
    })
    .collect::<Result<_, String>>()?;
    if files.is_empty() {
        return Err(format!("{}/{dir} holds no Rust files", top.display()));
    }
    Ok(files)
}

fn run(args: &[&str]) -> Findings {
    match args {
        ["symbols", source, exported, rust] => {
            let symbols =
                Symbols::of_kernel(Path::new(source), Path::new(exported), Path::new(rust))?;
            print!("{}", symbols.to_text());
            Ok(Vec::new())
        }
        ["unsafe", top] => Ok(unsafe_code::check(&sources(Path::new(top))?)),
        ["layers", top] => {
            let top = Path::new(top);
            let mut findings = layers::check(&sources(top)?)?;
            findings.extend(layers::check_guest(&guest_sources(top)?));
            Ok(findings)
        }
        ["safety", top, symbols] => {
            let top = Path::new(top);
            let text = fs::read_to_string(symbols).map_err(|e| format!("{symbols}: {e}"))?;
            let mut symbols = Symbols::from_text(&text)?;
            symbols.scan_c_dir(&top.join("src/c"))?;
            Ok(safety::check(&sources(top)?, &symbols))
        }
        ["references", top, source] => {
            let top = Path::new(top);
            references::check(top, Path::new(source), &sources(top)?)
        }
        ["patches", dir, source] => patches::check(Path::new(dir), Path::new(source)),
        ["uapi", top, source] => uapi::check(Path::new(top), Path::new(source)),
        ["clocks", top] => Ok(clocks::check(&guest_sources(Path::new(top))?)),
        ["tables", top] => tables::check(Path::new(top)),
        ["syzkaller", top] => {
            let top = Path::new(top);
            syzkaller::check(top, &sources(top)?)
        }
        ["syzkaller-const", top] => {
            let top = Path::new(top);
            print!("{}", syzkaller::consts(top, &sources(top)?)?);
            Ok(Vec::new())
        }
        _ => Err(
            "usage: rpmem-checks symbols KSRC SYMVERS RUSTLIB | unsafe TOP | layers TOP | \
                  safety TOP SYMBOLS | references TOP KSRC | tables TOP | clocks TOP | \
                  patches DIR KSRC | uapi TOP KSRC | \
                  syzkaller TOP | syzkaller-const TOP"
                .into(),
        ),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            println!("{}", findings.join("\n"));
            ExitCode::FAILURE
        }
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::from(2)
        }
    }
}
