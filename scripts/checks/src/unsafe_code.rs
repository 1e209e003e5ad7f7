// SPDX-License-Identifier: GPL-2.0

//! Unsafe code is in `src/abstractions` alone.

use crate::rust::File;
use std::collections::BTreeMap;

/// Prints the counts; gives what is where it must not be.
pub fn check(files: &[File]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files {
        let dir = file.path.parent().unwrap_or(&file.path).display();
        let count = counts.entry(dir.to_string()).or_default();
        for token in &file.tokens {
            if !token.ident || token.text != "unsafe" {
                continue;
            }
            *count += 1;
            if !file.path.starts_with("src/abstractions") {
                findings.push(format!(
                    "{}:{}: unsafe outside of src/abstractions: \
                     put it behind a safe function there",
                    file.path.display(),
                    file.line(token.range.start)
                ));
            }
        }
    }
    println!("unsafe blocks, functions and impls:");
    for (dir, count) in counts {
        println!("  {dir:<20} {count}");
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn findings(path: &str, text: &str) -> usize {
        check(&[File::parse(Path::new(path), text).unwrap()]).len()
    }

    #[test]
    fn comments_and_strings_are_not_code() {
        let text = "//! unsafe { }\n/* unsafe { } */ // unsafe\n/// unsafe\n\
                    #![deny(unsafe_code)]\nconst S: &str = \"unsafe { }\";\n";
        assert_eq!(findings("src/driver/a.rs", text), 0);
    }

    #[test]
    fn bodies_of_macros_and_other_folders_are_seen() {
        let text = "m! { /* */ unsafe\n{ f() } }\nunsafe impl Send for X {}\n";
        assert_eq!(findings("src/driver/a.rs", text), 2);
        assert_eq!(findings("src/rpmem_main.rs", text), 2);
        assert_eq!(findings("src/abstractions_not/a.rs", text), 2);
        assert_eq!(findings("src/abstractions/a.rs", text), 0);
    }
}
