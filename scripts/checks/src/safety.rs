// SPDX-License-Identifier: GPL-2.0

//! Safety comments: each piece of unsafe code has one, bodies of macros included (clippy does not
//! see those), it says something, and what it names exists. The same for invariants and casts.

use crate::{
    kernel::Symbols,
    rust::{Comment, Declared, File},
};

const TAGS: &[&str] = &["SAFETY:", "INVARIANT:", "CAST:"];
const SECTIONS: &[&str] = &["# Safety", "# Invariants"];

/// Words of the language that are neither declared nor identifiers in scope.
const WORDS: &[&str] = &[
    "Self",
    "as",
    "bool",
    "char",
    "const",
    "crate",
    "dyn",
    "enum",
    "extern",
    "false",
    "fn",
    "for",
    "i16",
    "i32",
    "i64",
    "i8",
    "if",
    "impl",
    "in",
    "int",
    "isize",
    "let",
    "long",
    "match",
    "mut",
    "ref",
    "repr",
    "return",
    "self",
    "sizeof",
    "static",
    "str",
    "struct",
    "super",
    "transparent",
    "true",
    "u16",
    "u32",
    "u64",
    "u8",
    "union",
    "unsafe",
    "usize",
    "void",
    "where",
];

pub fn check(files: &[File], kernel: &Symbols) -> Vec<String> {
    let mut own = Declared::default();
    files.iter().for_each(|file| own.add(file));
    let mut findings = Vec::new();
    for file in files {
        findings.extend(uncommented(file));
        for comment in &file.comments {
            for part in parts(comment) {
                let at = format!("{}:{}", file.path.display(), part.line);
                if part.text.split_whitespace().nth(1).is_none() {
                    findings.push(format!(
                        "{at}: {} says nothing: name the invariant or the C caller \
                         that makes it sound",
                        part.tag
                    ));
                }
                for name in names(&part.text) {
                    if !exists(&name, file, comment, &own, kernel) {
                        findings.push(format!(
                            "{at}: {} names `{}`, which neither the kernel nor the module \
                             declares and the code below does not use: name what exists",
                            part.tag, name.shown
                        ));
                    }
                }
            }
        }
    }
    findings
}

/// Unsafe code without a comment.
fn uncommented(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    let text = |i: usize| file.tokens.get(i).map_or("", |t| t.text.as_str());
    for (i, token) in file.tokens.iter().enumerate() {
        if !token.ident || token.text != "unsafe" {
            continue;
        }
        let mut next = i + 1;
        // `extern "C"` in front of `fn`.
        while text(next) != "fn" && (text(next) == "extern" || text(next).starts_with('"')) {
            next += 1;
        }
        let (what, want) = match text(next) {
            "{" => ("block", "a `// SAFETY:` comment"),
            "impl" => ("impl", "a `// SAFETY:` comment"),
            // A type, not a function.
            "fn" if text(next + 1) == "(" => continue,
            // The trait says what is required.
            "fn" if in_trait_impl(file, i) => continue,
            "fn" => ("function", "a `# Safety` section"),
            "trait" => ("trait", "a `# Safety` section"),
            _ => ("code", "a `// SAFETY:` comment"),
        };
        let documented = |comment: &Comment| {
            parts(comment).iter().any(|part| {
                part.tag
                    == if want.contains('#') {
                        "# Safety"
                    } else {
                        "SAFETY:"
                    }
            })
        };
        // As far back as the statement or item reaches.
        let mut start = i;
        let found = loop {
            if file.comments_before(start).iter().any(documented) {
                break true;
            }
            if start == 0 || [";", "{", "}"].contains(&text(start - 1)) {
                break false;
            }
            start -= 1;
        };
        if !found {
            findings.push(format!(
                "{}:{}: unsafe {what} without {want}: say in front of it why it is sound",
                file.path.display(),
                file.line(token.range.start)
            ));
        }
    }
    findings
}

/// Whether the token `index` is directly in an `impl Trait for Type`.
fn in_trait_impl(file: &File, index: usize) -> bool {
    let text = |i: usize| file.tokens.get(i).map_or("", |t| t.text.as_str());
    let mut depth = 0;
    let Some(open) = (0..index).rev().find(|&i| {
        match text(i) {
            "}" => depth += 1,
            "{" if depth == 0 => return true,
            "{" => depth -= 1,
            _ => {}
        }
        false
    }) else {
        return false;
    };
    let head = (0..open)
        .rev()
        .take_while(|&i| ![";", "{", "}"].contains(&text(i)));
    // Not the `for<'a>` of a bound.
    head.clone().any(|i| text(i) == "impl")
        && head.clone().any(|i| text(i) == "for" && text(i + 1) != "<")
}

/// A tagged comment, or a section of a documentation comment.
struct Part {
    tag: &'static str,
    line: usize,
    text: String,
}

fn parts(comment: &Comment) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut open = false;
    for (line, text) in &comment.lines {
        let text = text.trim();
        let tag = if comment.doc {
            SECTIONS.iter().find(|tag| text == **tag)
        } else {
            TAGS.iter().find(|tag| text.starts_with(**tag))
        };
        if let Some(tag) = tag {
            open = true;
            parts.push(Part {
                tag,
                line: *line,
                text: text[tag.len()..].into(),
            });
        } else if comment.doc && text.starts_with("# ") {
            open = false;
        } else if let (true, Some(part)) = (open, parts.last_mut()) {
            part.text.push(' ');
            part.text.push_str(text);
        }
    }
    parts
}

/// How a comment speaks of a name.
#[derive(Debug, PartialEq)]
enum Use {
    Function,
    Member,
    /// A structure, union or enumeration of C.
    Tag,
    Other,
}

#[derive(Debug)]
struct Name {
    name: String,
    used: Use,
    /// As it stands in the comment.
    shown: String,
}

/// The identifiers in backquotes, and the functions (`name()`) outside of them.
fn names(text: &str) -> Vec<Name> {
    let mut found = Vec::new();
    for (i, piece) in text.split('`').enumerate() {
        let code = i % 2 == 1;
        let (mut last_start, mut last_end) = (0, 0);
        let mut rest = 0;
        while let Some(start) = piece[rest..].find(is_start).map(|at| at + rest) {
            let end = piece[start..]
                .find(|c: char| !is_start(c) && !c.is_ascii_digit())
                .map_or(piece.len(), |len| start + len);
            rest = end;
            let before = &piece[last_end..start];
            let previous = &piece[last_start..start];
            (last_start, last_end) = (start, end);
            let name = &piece[start..end];
            // A lifetime, or the letters of a number.
            let skipped = before.ends_with('\'') || before.ends_with(|c: char| c.is_ascii_digit());
            let used = if piece[end..].starts_with('(') {
                Use::Function
            } else if before.ends_with('.') || before.ends_with("->") {
                Use::Member
            } else if ["struct ", "union ", "enum ", "bindings::"].contains(&previous) {
                Use::Tag
            } else {
                Use::Other
            };
            let called = piece[end..].starts_with("()");
            if skipped || WORDS.contains(&name) || !(code || called) {
                continue;
            }
            found.push(Name {
                name: name.into(),
                used,
                shown: if code { piece } else { name }.into(),
            });
        }
    }
    found
}

fn is_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn exists(name: &Name, file: &File, comment: &Comment, own: &Declared, kernel: &Symbols) -> bool {
    let n = name.name.as_str();
    if file.in_scope(comment.start, n) || own.functions.contains(n) || kernel.functions.contains(n)
    {
        return true;
    }
    match name.used {
        Use::Function => kernel.names.contains(n) && !n.contains(|c: char| c.is_ascii_lowercase()),
        Use::Member => own.fields.contains(n) || kernel.members.contains(n),
        Use::Tag => own.names.contains(n) || kernel.tags.contains(n),
        Use::Other => own.names.contains(n) || own.fields.contains(n) || kernel.names.contains(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn findings(text: &str) -> Vec<String> {
        let mut kernel = Symbols::default();
        kernel.functions.insert("kill_dax".into());
        kernel.tags.insert("dax_device".into());
        kernel.members.insert("private".into());
        check(
            &[File::parse(Path::new("src/abstractions/a.rs"), text).unwrap()],
            &kernel,
        )
    }

    #[test]
    fn what_exists_is_accepted() {
        let text = "
            struct Held { field: u32 }
            /// # Safety
            ///
            /// `ptr` is of a live `struct dax_device`.
            unsafe fn take(ptr: *mut u8) {}
            fn f() {
                // SAFETY: `local` is valid until kill_dax(), see `Held` and `self.field`,
                // `take->private`, `take()` and `'static`.
                let local = unsafe { take(0 as *mut u8) };
                m!(|p| {
                    // SAFETY: `p` is pinned here.
                    unsafe { p.write() }
                });
            }
            type Callback = unsafe extern \"C\" fn();
            // SAFETY: No conditions.
            unsafe impl Trait for Held {
                unsafe fn documented_by_the_trait() { g(|x| { x }) }
                unsafe fn this_one_too() {}
            }
        ";
        assert_eq!(findings(text), [""; 0]);
    }

    #[test]
    fn what_does_not_exist_is_found() {
        for (comment, name) in [
            ("`kill_dox()` waits.", "kill_dox()"),
            ("After kill_dox() nobody asks.", "kill_dox"),
            ("`struct dax_devise` is ours.", "struct dax_devise"),
            ("`dax_device` is ours.", "dax_device"),
            ("`other` is of another function.", "other"),
            ("`x->privat` is set.", "x->privat"),
            // A member of some C structure is no name of its own.
            ("`private` is set.", "private"),
        ] {
            let text = format!(
                "fn g() {{ let other = 1; }}\nfn f(x: u8) {{\n// SAFETY: {comment}\nunsafe {{ }}\n}}"
            );
            let found = findings(&text);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].contains(&format!(":3: SAFETY: names `{name}`")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn missing_and_empty_comments_are_found() {
        for text in [
            "fn f() { unsafe { } }",
            "fn f() { // SAFETY: That one.\n unsafe { }; unsafe { } }",
            "m! { unsafe { } }",
            "unsafe impl Send for X {}",
            "const S: &str = \"// SAFETY: a string\"; unsafe impl Send for X {}",
            "/// Documented.\nunsafe extern \"C\" fn f() {}",
            "// SAFETY:\nunsafe impl Send for X {}",
            "// SAFETY: Yes.\nunsafe impl Send for X {}",
        ] {
            assert_eq!(findings(text).len(), 1, "{text}");
        }
    }
}
