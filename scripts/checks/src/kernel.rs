// SPDX-License-Identifier: GPL-2.0

//! The names that the kernel declares, for comments to be compared with.
//!
//! A scan that knows the kernel's style, not a C parser: what matters is that a name that is in the
//! set exists, and that the names of parameters and local variables are not in it.

use crate::rust::{files, Declared, File};
use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write,
    fs,
    path::Path,
};

/// Where declarations are looked for; a comment that names a function of another place asks for
/// that to be added here.
const C_DIRS: &[&str] = &[
    "arch/x86",
    "block",
    "drivers/acpi",
    "drivers/base",
    "drivers/dax",
    "drivers/md",
    "drivers/nvdimm",
    "fs",
    "include",
    "init",
    "kernel",
    "lib",
    "mm",
    "rust/helpers",
];
/// Parts of the names of macros that declare, outside of structures, what their arguments name.
const DECLARING: &[&str] = &["DEFINE_", "DECLARE_", "_HEAD"];
const RUST_DIRS: &[&str] = &["rust/kernel", "rust/pin-init/src"];
const RUST_LIBRARY_DIRS: &[&str] = &["core/src", "alloc/src"];

#[derive(Default)]
pub struct Symbols {
    pub functions: HashSet<String>,
    /// What stands behind `struct`, `union` or `enum`.
    pub tags: HashSet<String>,
    /// Typedefs, enumeration constants, macros, variables, configuration symbols.
    pub names: HashSet<String>,
    /// Fields of structures.
    pub members: HashSet<String>,
}

impl Symbols {
    /// Scans a kernel source, its list of exported symbols, and the Rust library.
    pub fn of_kernel(source: &Path, exported: &Path, rust: &Path) -> Result<Self, String> {
        let mut this = Self::default();
        for dir in C_DIRS {
            this.scan_c_dir(&source.join(dir))?;
            for path in files(&source.join(dir), |name| name.starts_with("Kconfig"))? {
                this.scan_kconfig(&read(&path)?);
            }
        }
        let exported = read(exported)?;
        this.functions.extend(
            exported
                .lines()
                .filter_map(|l| l.split('\t').nth(1))
                .map(String::from),
        );

        let mut declared = Declared::default();
        let dirs = RUST_DIRS.iter().map(|dir| source.join(dir));
        for dir in dirs.chain(RUST_LIBRARY_DIRS.iter().map(|dir| rust.join(dir))) {
            for path in files(&dir, |name| name.ends_with(".rs"))? {
                declared.add(&File::read(&path)?);
            }
        }
        this.functions.extend(declared.functions);
        this.names.extend(declared.names);
        this.members.extend(declared.fields);
        Ok(this)
    }

    /// Adds the C files below `dir`.
    pub fn scan_c_dir(&mut self, dir: &Path) -> Result<(), String> {
        for path in files(dir, is_c)? {
            self.scan_c(&read(&path)?);
        }
        Ok(())
    }

    /// One line for each name, with its kind in front.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (kind, set) in [
            ('f', &self.functions),
            ('t', &self.tags),
            ('n', &self.names),
            ('m', &self.members),
        ] {
            for name in set.iter().collect::<BTreeSet<_>>() {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{kind} {name}");
            }
        }
        text
    }

    pub fn from_text(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("f", name)) => this.functions.insert(name.into()),
                Some(("t", name)) => this.tags.insert(name.into()),
                Some(("n", name)) => this.names.insert(name.into()),
                Some(("m", name)) => this.members.insert(name.into()),
                _ => return Err(format!("not a list of symbols: '{line}'")),
            };
        }
        Ok(this)
    }

    fn scan_kconfig(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some("config" | "menuconfig"), Some(name)) = (words.next(), words.next()) {
                self.names.insert(format!("CONFIG_{name}"));
            }
        }
    }

    fn scan_c(&mut self, text: &str) {
        Scan {
            symbols: self,
            open: Vec::new(),
            parens: 0,
            tagged: None,
            assigned: false,
            list_macro: false,
            before: ["", ""],
        }
        .run(&strip(text));
    }
}

/// C, but no test of another part: those have variables with names like `len`.
fn is_c(name: &str) -> bool {
    (name.ends_with(".c") || name.ends_with(".h")) && !name.contains("test")
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces comments and the contents of literals by spaces; lines stay lines.
fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let rest = &bytes[i..];
        let skipped = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            let end = rest[2..].windows(2).position(|w| w == b"*/");
            end.map_or(rest.len(), |end| end + 4)
        } else if rest[0] == b'"' || rest[0] == b'\'' {
            literal(rest)
        } else {
            out.push(char::from(rest[0]));
            i += 1;
            continue;
        };
        out.push(' ');
        out.extend(
            rest[..skipped]
                .iter()
                .filter(|&&b| b == b'\n')
                .map(|&b| char::from(b)),
        );
        i += skipped;
    }
    out
}

/// The length of the literal at the start of `rest`. One that does not end on its line is an
/// apostrophe in text for the preprocessor.
fn literal(rest: &[u8]) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != b'\n' {
        match rest[i] {
            b'\\' => i += 2,
            b if b == rest[0] => return i + 1,
            _ => i += 1,
        }
    }
    1
}

#[derive(Clone, Copy, PartialEq)]
enum Body {
    Fields,
    Constants,
    /// Statements, initialisers.
    Other,
}

struct Scan<'a, 't> {
    symbols: &'a mut Symbols,
    /// Open braces, each with the parentheses around it.
    open: Vec<(Body, usize)>,
    parens: usize,
    /// What the statement so far says that its braces are.
    tagged: Option<Body>,
    assigned: bool,
    /// In the parentheses of a macro that declares what they name.
    list_macro: bool,
    /// The two tokens before.
    before: [&'t str; 2],
}

impl<'t> Scan<'_, 't> {
    fn run(mut self, text: &'t str) {
        let mut directive = false;
        for line in text.split_inclusive('\n') {
            let continues = line.trim_end().ends_with('\\');
            let trimmed = line.trim_start();
            if directive {
                directive = continues;
                continue;
            }
            if let Some(rest) = trimmed.strip_prefix('#') {
                if let Some(macro_) = rest.trim_start().strip_prefix("define") {
                    let name = macro_.trim_start();
                    let end = name.find(|c| !is_ident(c)).unwrap_or(name.len());
                    let set = if name[end..].starts_with('(') {
                        &mut self.symbols.functions
                    } else {
                        &mut self.symbols.names
                    };
                    set.insert(name[..end].into());
                }
                directive = continues;
                continue;
            }
            if line.starts_with('}') {
                // The kernel's style: whatever was open ends here. Branches of the
                // preprocessor open braces twice.
                self.open.truncate(1);
                self.parens = 0;
            }
            self.line(line);
        }
    }

    fn line(&mut self, line: &'t str) {
        let mut rest = line.trim_start();
        while let Some(c) = rest.chars().next() {
            let len = if is_ident(c) {
                rest.find(|c| !is_ident(c)).unwrap_or(rest.len())
            } else {
                c.len_utf8()
            };
            let (token, tail) = rest.split_at(len);
            rest = tail.trim_start();
            if is_ident(c) {
                self.ident(token, rest.chars().next());
            } else {
                self.punct(c);
            }
            self.before = [self.before[1], token];
        }
    }

    fn body(&self) -> Option<Body> {
        self.open.last().map(|open| open.0)
    }

    fn ident(&mut self, name: &str, next: Option<char>) {
        if name.starts_with(|c: char| c.is_ascii_digit()) || self.body() == Some(Body::Other) {
            return;
        }
        match name {
            "struct" | "union" => {
                self.tagged = Some(Body::Fields);
                return;
            }
            "enum" => {
                self.tagged = Some(Body::Constants);
                return;
            }
            _ => {}
        }
        let body = self.body();
        let set = match body {
            Some(Body::Constants) if self.before[1] == "{" || self.before[1] == "," => {
                &mut self.symbols.names
            }
            Some(Body::Fields) => &mut self.symbols.members,
            None => &mut self.symbols.names,
            _ => return,
        };
        let pointer = self.before == ["(", "*"] && next == Some(')');
        let argument = self.parens == 1
            && ["(", ","].contains(&self.before[1])
            && matches!(next, Some(',' | ')'));
        let listed = self.list_macro && (argument || body.is_some());
        if listed || pointer {
            set.insert(name.into());
        } else if self.parens != 0 {
            // A parameter.
        } else if ["struct", "union", "enum"].contains(&self.before[1]) {
            self.symbols.tags.insert(name.into());
        } else if next == Some('(') {
            self.list_macro = match body {
                None => DECLARING.iter().any(|part| name.contains(part)) && !name.contains("CALL"),
                _ => !name.contains(|c: char| c.is_ascii_lowercase()) || name.contains("_group"),
            };
            self.symbols.functions.insert(name.into());
        } else if body == Some(Body::Constants) || matches!(next, Some(';' | ',' | '[' | '=' | ':'))
        {
            set.insert(name.into());
        }
    }

    fn punct(&mut self, c: char) {
        match c {
            '(' => self.parens += 1,
            ')' => {
                self.parens = self.parens.saturating_sub(1);
                self.list_macro &= self.parens != 0;
            }
            '{' => {
                let body = match self.tagged {
                    Some(body) if self.before[1] != ")" && !self.assigned => body,
                    _ => Body::Other,
                };
                self.open.push((body, self.parens));
                self.statement_ends();
            }
            '}' => {
                self.statement_ends();
                self.parens = self.open.pop().map_or(0, |open| open.1);
            }
            ';' if self.parens == 0 => self.statement_ends(),
            '=' => self.assigned = true,
            _ => {}
        }
    }

    fn statement_ends(&mut self) {
        self.tagged = None;
        self.assigned = false;
        self.list_macro = false;
        self.parens = 0;
    }
}

fn is_ident(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Symbols {
        let mut symbols = Symbols::default();
        symbols.scan_c(text);
        symbols
    }

    #[test]
    fn declarations_and_no_locals() {
        let s = scan(
            "/* int in_comment(void); */\n\
             #define SIZE 4\n#define twice(x) \\\n\tmake(x)\n\
             struct tag {\n\tint field, other[SIZE];\n\tint (*op)(int param);\n\
             \tstruct { u8 inner; } in;\n\tDECLARE_BITMAP(bits, 4);\n};\n\
             enum kind { FIRST, SECOND = 1 };\n\
             typedef struct { int x; } made_t;\n\
             static DEFINE_MUTEX(some_mutex);\n\
             static int counter = 1;\n\
             int function(struct arg *parameter)\n{\n#if A\n\tif (x) {\n#else\n\tif (y) {\n#endif\n\
             \t\tint local = \"s}\"[0];\n\t}\n}\n\
             TRACE_EVENT(event, TP_ENTRY(int a;), { x = 1; }, TP(in_event = 1;));\n\
             void after(void);\n",
        );
        assert!(s.tags.contains("tag") && s.tags.contains("kind"));
        for name in ["SIZE", "FIRST", "SECOND", "made_t", "some_mutex", "counter"] {
            assert!(s.names.contains(name), "{name}");
        }
        for name in ["twice", "function", "after"] {
            assert!(s.functions.contains(name), "{name}");
        }
        for name in ["field", "other", "op", "inner", "in", "bits"] {
            assert!(s.members.contains(name), "{name}");
        }
        for name in [
            "in_comment",
            "in_event",
            "parameter",
            "param",
            "local",
            "make",
        ] {
            let found = [&s.functions, &s.tags, &s.names, &s.members];
            assert!(found.iter().all(|set| !set.contains(name)), "{name}");
        }
    }

    #[test]
    fn text_round_trip() {
        let s = scan("struct a { int b; }; void c(void);\n");
        let read = Symbols::from_text(&s.to_text()).unwrap();
        assert_eq!(read.to_text(), s.to_text());
        assert!(Symbols::from_text("x y\n").is_err());
    }
}
