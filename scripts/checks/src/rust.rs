// SPDX-License-Identifier: GPL-2.0

//! Rust source as tokens and comments. The lexer is that of the procedural macros, so a keyword in
//! a string or a comment is none, and what stands in a macro's body is seen.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::{
    collections::HashSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// A token; groups are flattened to their delimiters.
pub struct Token {
    pub text: String,
    pub range: Range<usize>,
    pub ident: bool,
}

/// Lines of comment that follow one another and are of one kind.
pub struct Comment {
    /// `///`, `//!` and the like.
    pub doc: bool,
    /// Where it starts, in bytes.
    pub start: usize,
    /// Number from 1 on and text of each line, without the slashes.
    pub lines: Vec<(usize, String)>,
}

/// A stretch of source with the identifiers that are in scope there.
struct Region {
    range: Range<usize>,
    idents: HashSet<String>,
}

pub struct File {
    pub path: PathBuf,
    pub tokens: Vec<Token>,
    pub comments: Vec<Comment>,
    line_starts: Vec<usize>,
    regions: Vec<Region>,
}

/// Names that a crate declares.
#[derive(Default)]
pub struct Declared {
    pub functions: HashSet<String>,
    /// Types, constants, variants, macros, modules.
    pub names: HashSet<String>,
    pub fields: HashSet<String>,
}

impl File {
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(path, &text)
    }

    pub fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let stream: TokenStream = text.parse().map_err(|e| {
            format!(
                "{}: is not Rust that can be read as tokens: {e}",
                path.display()
            )
        })?;
        let mut tokens = Vec::new();
        flatten(stream.clone(), text, &mut tokens);
        let mut line_starts = vec![0];
        line_starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
        let mut regions = Vec::new();
        let all = 0..text.len() + 1;
        find_regions(stream, all, &HashSet::new(), text, &mut regions);
        let mut file = Self {
            path: path.into(),
            tokens,
            comments: Vec::new(),
            line_starts,
            regions,
        };
        file.find_comments(text);
        Ok(file)
    }

    /// The number of the line with the byte at `at`.
    pub fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= at)
    }

    /// The comments between the tokens `index - 1` and `index`.
    pub fn comments_before(&self, index: usize) -> &[Comment] {
        let end = self.tokens[index].range.start;
        let start = index.checked_sub(1).map_or(0, |i| self.tokens[i].range.end);
        let from = self.comments.partition_point(|c| c.start < start);
        let to = self.comments.partition_point(|c| c.start < end);
        &self.comments[from..to]
    }

    /// Whether `name` is an identifier of the function or item that a comment at `at` is about.
    pub fn in_scope(&self, at: usize, name: &str) -> bool {
        self.regions
            .iter()
            .filter(|region| region.range.contains(&at))
            .any(|region| region.idents.contains(name))
    }

    /// What is neither token nor white space is comment.
    fn find_comments(&mut self, text: &str) {
        let mut at = 0;
        let ends = self
            .tokens
            .iter()
            .map(|t| t.range.clone())
            .chain(std::iter::once(text.len()..text.len()));
        let mut lines = Vec::new();
        for token in ends {
            let mut offset = at;
            for line in text[at..token.start].split('\n') {
                let trimmed = line.trim_start();
                if trimmed.starts_with("//") {
                    lines.push((offset + line.len() - trimmed.len(), trimmed.trim_end()));
                }
                offset += line.len() + 1;
            }
            at = token.end;
        }
        for (start, line) in lines {
            let doc = line.starts_with("//!") || line.starts_with("///");
            let number = self.line(start);
            let line = line[2 + usize::from(doc)..].to_owned();
            match self.comments.last_mut() {
                Some(last)
                    if last.doc == doc && last.lines.last().is_some_and(|l| l.0 + 1 == number) =>
                {
                    last.lines.push((number, line));
                }
                _ => self.comments.push(Comment {
                    doc,
                    start,
                    lines: vec![(number, line)],
                }),
            }
        }
    }
}

/// Documentation comments are tokens for the lexer, all with the range of the comment.
fn is_doc_comment(text: &str, range: &Range<usize>) -> bool {
    ["///", "//!", "/**", "/*!"]
        .iter()
        .any(|start| text[range.clone()].starts_with(start))
}

fn flatten(stream: TokenStream, text: &str, to: &mut Vec<Token>) {
    for tree in stream {
        let range = tree.span().byte_range();
        if is_doc_comment(text, &range) {
            continue;
        }
        let mut push = |text: &str, range: Range<usize>, ident| {
            to.push(Token {
                text: text.into(),
                range,
                ident,
            });
        };
        match tree {
            TokenTree::Group(group) if group.delimiter() != Delimiter::None => {
                let (open, close) = (
                    group.span_open().byte_range(),
                    group.span_close().byte_range(),
                );
                push(&text[open.clone()], open, false);
                flatten(group.stream(), text, to);
                to.push(Token {
                    text: text[close.clone()].into(),
                    range: close,
                    ident: false,
                });
            }
            TokenTree::Group(group) => flatten(group.stream(), text, to),
            TokenTree::Ident(ident) => push(&ident.to_string(), range, true),
            other => push(&other.to_string(), range, false),
        }
    }
}

fn collect_idents(tree: &TokenTree, to: &mut HashSet<String>) {
    match tree {
        TokenTree::Group(group) => {
            for tree in group.stream() {
                collect_idents(&tree, to);
            }
        }
        TokenTree::Ident(ident) => {
            to.insert(ident.to_string());
        }
        _ => {}
    }
}

fn ident_is(tree: &TokenTree, names: &[&str]) -> bool {
    matches!(tree, TokenTree::Ident(ident) if names.iter().any(|name| ident == name))
}

/// Splits the items of a module, trait or implementation: what is in a function sees all
/// identifiers of it, what is in an implementation or module its head.
fn find_regions(
    stream: TokenStream,
    range: Range<usize>,
    outer: &HashSet<String>,
    text: &str,
    to: &mut Vec<Region>,
) {
    let mut start = range.start;
    let mut item = Vec::new();
    for tree in stream {
        let span = tree.span().byte_range();
        let end = match &tree {
            TokenTree::Group(g) => g.delimiter() == Delimiter::Brace,
            TokenTree::Punct(p) => p.as_char() == ';',
            _ => false,
        };
        if !is_doc_comment(text, &span) {
            item.push(tree);
        }
        if !end {
            continue;
        }
        let mut idents = outer.clone();
        let holds_items = item
            .iter()
            .any(|t| ident_is(t, &["impl", "trait", "mod", "extern"]))
            && !item.iter().any(|t| ident_is(t, &["fn"]));
        match item.last() {
            Some(TokenTree::Group(body)) if holds_items => {
                for tree in &item[..item.len() - 1] {
                    collect_idents(tree, &mut idents);
                }
                let inner = body.span_open().byte_range().end..span.end;
                find_regions(body.stream(), inner, &idents, text, to);
                to.push(Region {
                    range: start..body.span_open().byte_range().end,
                    idents,
                });
            }
            _ => {
                for tree in &item {
                    collect_idents(tree, &mut idents);
                }
                to.push(Region {
                    range: start..span.end,
                    idents,
                });
            }
        }
        item.clear();
        start = span.end;
    }
}

impl Declared {
    /// Adds what `file` declares.
    pub fn add(&mut self, file: &File) {
        let tokens = &file.tokens;
        // For each open delimiter, whether fields or variants are declared in it.
        let mut open: Vec<Option<&str>> = Vec::new();
        let mut pending = None;
        for (i, token) in tokens.iter().enumerate() {
            let next = tokens.get(i + 1);
            let after = tokens.get(i + 2).map_or("", |t| t.text.as_str());
            match token.text.as_str() {
                "{" => open.push(pending.take()),
                "(" | "[" => open.push(None),
                "}" | ")" | "]" => {
                    open.pop();
                }
                ";" => pending = None,
                kind @ ("struct" | "union" | "enum") if next.is_some_and(|t| t.ident) => {
                    pending = Some(kind);
                }
                _ => {}
            }
            if !token.ident {
                continue;
            }
            let fields = open.last().copied().flatten();
            let declares = match token.text.as_str() {
                // A type or an operator: `*const T`, `&raw const place`.
                "const" if i > 0 && ["*", "raw"].contains(&tokens[i - 1].text.as_str()) => None,
                "fn" | "struct" | "union" | "enum" | "trait" | "type" | "const" | "static"
                | "mod" => next.filter(|t| t.ident),
                "macro_rules" if next.is_some_and(|t| t.text == "!") => tokens.get(i + 2),
                _ => None,
            };
            if let Some(name) = declares {
                let set = if token.text == "fn" {
                    &mut self.functions
                } else {
                    &mut self.names
                };
                set.insert(name.text.clone());
            }
            let field = next.is_some_and(|t| t.text == ":") && after != ":";
            let variant =
                next.is_some_and(|t| ["{", "(", ",", "}", "="].contains(&t.text.as_str()));
            if matches!(fields, Some("struct" | "union")) && field {
                self.fields.insert(token.text.clone());
            }
            if fields == Some("enum") && variant {
                self.names.insert(token.text.clone());
            }
        }
    }
}

/// All files below `dir` whose names are wanted, in order.
pub fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let failed = |e| format!("{}: {e}", dir.display());
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                dirs.push(entry.path());
            } else if wanted(&entry.file_name().to_string_lossy()) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
