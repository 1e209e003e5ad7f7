// SPDX-License-Identifier: GPL-2.0
//! What the plugin profile.c has counted, with names.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Symbols of a window that are shown.
const SHOWN: usize = 60;

#[derive(Default)]
pub struct Window {
    pub ours: bool,
    pub row: String,
    pub operations: u64,
    /// Instructions by address: all, and those inside a scope.
    code: Vec<(u64, u64, u64)>,
    /// Address, calls and instructions of each scope.
    scopes: Vec<(u64, u64, u64)>,
    /// Stores to cache lines that several CPUs stored to: address, line, all, inside a scope.
    shared: Vec<(u64, u64, u64, u64)>,
    user: u64,
    /// All stores inside of scopes.
    stores: u64,
}

#[derive(Default)]
pub struct Profile {
    pub windows: Vec<Window>,
    symbols: BTreeMap<u64, String>,
}

fn parse(text: &str) -> Result<Profile, String> {
    let mut p = Profile::default();
    for line in text.lines() {
        let bad = || format!("bad line: {line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |n: usize| {
            let word = words.get(n).ok_or_else(bad)?;
            u64::from_str_radix(word, 16).map_err(|_| bad())
        };
        let number = |n: usize| {
            let word = words.get(n).ok_or_else(bad)?;
            word.parse::<u64>().map_err(|_| bad())
        };
        match words.first() {
            Some(&"window") => {
                let [_, side, row, operations] = words.as_slice() else {
                    return Err(bad());
                };
                p.windows.push(Window {
                    ours: *side == "rpmem",
                    row: row.to_string(),
                    operations: operations.parse().map_err(|_| bad())?,
                    ..Window::default()
                });
                continue;
            }
            Some(&"symbol") => {
                let [_, _, name, module] = words.as_slice() else {
                    return Err(bad());
                };
                let name = match *module {
                    "[kernel]" => name.to_string(),
                    module => format!("{} {module}", plain(name)),
                };
                p.symbols.insert(hex(1)?, name);
                continue;
            }
            _ => {}
        }
        let w = p.windows.last_mut().ok_or_else(bad)?;
        match words.first() {
            Some(&"at") => w.code.push((hex(1)?, number(2)?, number(3)?)),
            Some(&"scope") => w.scopes.push((hex(1)?, number(2)?, number(3)?)),
            Some(&"shared") => w.shared.push((hex(1)?, hex(2)?, number(3)?, number(4)?)),
            Some(&"user") => w.user = number(1)?,
            Some(&"stores") => w.stores = number(1)?,
            _ => return Err(bad()),
        }
    }
    Ok(p)
}

/// The identifiers in a mangled Rust name, which is enough to find the function.
fn plain(name: &str) -> String {
    let Some(rest) = name.strip_prefix("_R") else {
        return name.to_string();
    };
    let mut found: Vec<String> = Vec::new();
    let mut rest = rest;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        rest = &rest[at..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let len: usize = rest[..digits].parse().unwrap_or(0);
        rest = rest[digits..].trim_start_matches('_');
        match rest.get(..len) {
            Some(word) if len > 2 => {
                found.push(word.to_string());
                rest = &rest[len..];
            }
            _ => {}
        }
    }
    let first = found.len().saturating_sub(3);
    found[first..].join("::")
}

impl Profile {
    pub fn read(path: &Path) -> Result<Profile, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let p = parse(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        if p.windows.is_empty() || p.symbols.is_empty() {
            return Err(format!("{}: the guest told nothing", path.display()));
        }
        Ok(p)
    }

    fn symbol(&self, at: u64) -> &str {
        let found = self.symbols.range(..=at).next_back();
        found.map_or("?", |(_, name)| name.as_str())
    }

    /// Instructions of a bio between the entry of the driver and its return, without the copy and
    /// without the completion that the issuer gave the bio.
    pub fn driver_share(&self, w: &Window) -> Option<f64> {
        let is_entry = |at: u64| self.symbol(at).contains("submit_bio");
        let (calls, insns) = w
            .scopes
            .iter()
            .filter(|s| is_entry(s.0))
            .fold((0, 0), |sum, s| (sum.0 + s.1, sum.1 + s.2));
        (calls > 0).then(|| insns as f64 / calls as f64)
    }

    /// Stores by the fault handler to cache lines that several CPUs stored to: by the driver's own
    /// code, and by what it calls to keep its data alive. Interrupts that hit it are not in it.
    pub fn shared_by_driver(&self, w: &Window) -> u64 {
        let own = ["[rpmem]", "[device_dax]", "__srcu_read", "rust_helper_"];
        let is_own = |at: u64| own.iter().any(|name| self.symbol(at).contains(name));
        let stores = w.shared.iter().filter(|s| is_own(s.0));
        stores.map(|s| s.3).sum()
    }

    /// Sums by symbol, the largest first.
    fn by_symbol<T>(&self, list: &[T], f: impl Fn(&T) -> (u64, u64, u64)) -> Vec<(&str, u64, u64)> {
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for item in list {
            let (at, all, inside) = f(item);
            let sum = sums.entry(self.symbol(at)).or_default();
            sum.0 += all;
            sum.1 += inside;
        }
        let mut all: Vec<_> = sums.into_iter().map(|(n, (a, i))| (n, a, i)).collect();
        all.sort_by_key(|s| std::cmp::Reverse(s.1));
        all
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for w in &self.windows {
            let per = |n: u64| n as f64 / w.operations.max(1) as f64;
            let kernel: u64 = w.code.iter().map(|c| c.1).sum();
            let side = if w.ours { "rpmem" } else { "the other" };
            writeln!(f, "== {} of {side}, per operation", w.row)?;
            writeln!(
                f,
                "{:10.1} all, {:.1} of user space",
                per(kernel + w.user),
                per(w.user)
            )?;
            for (at, calls, insns) in &w.scopes {
                if *calls > 0 {
                    let name = self.symbol(*at);
                    writeln!(f, "{:10.1} inside {name}, {calls} calls", per(*insns))?;
                }
            }
            for (name, all, inside) in self.by_symbol(&w.code, |c| *c).into_iter().take(SHOWN) {
                writeln!(f, "{:10.1} {:8.1} {name}", per(all), per(inside))?;
            }
            if w.stores > 0 {
                writeln!(f, "{:10.3} stores inside; to shared lines:", per(w.stores))?;
            }
            let shared = self.by_symbol(&w.shared, |s| (s.0, s.2, s.3));
            for (name, all, inside) in shared.into_iter().take(SHOWN) {
                writeln!(f, "{:10.3} {:8.3} {name}", per(all), per(inside))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "window rpmem block.read4k 2\n\
        at ffffffff00000010 30 10\nat ffffffff00000024 8 8\n\
        scope ffffffff00000020 2 18\nuser 4\nstores 0\n\
        symbol ffffffff00000010 vfs_read [kernel]\n\
        symbol ffffffff00000020 _RNvMs_5rpmem5block19submit_bio_callback [rpmem]\n";

    #[test]
    fn counts_get_names() {
        let p = parse(TEXT).unwrap();
        assert_eq!(
            p.symbol(0xffff_ffff_0000_0024),
            "rpmem::block::submit_bio_callback [rpmem]"
        );
        assert_eq!(p.driver_share(&p.windows[0]), Some(9.0));
        let text = p.to_string();
        assert!(text.contains("== block.read4k of rpmem"), "{text}");
        assert!(text.contains("      21.0 all, 2.0 of user space"), "{text}");
        assert!(text.contains("15.0      5.0 vfs_read"), "{text}");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        assert!(parse("at 1 2 3\n").is_err());
        assert!(parse("window rpmem x\n").is_err());
        assert!(parse(&TEXT.replace("user 4", "usr 4")).is_err());
    }
}
