// SPDX-License-Identifier: GPL-2.0

//! The part of syzkaller's description language that `tests/syzkaller/rpmem.txt` is written in. What
//! is not understood is an error: syzkaller itself is not here to say so.

use std::collections::{BTreeMap, BTreeSet};

/// `name[arg, arg]`; a number, a range and a string are types without arguments.
#[derive(Debug, PartialEq)]
pub struct Type {
    pub name: String,
    pub args: Vec<Type>,
}

/// An argument of a call or a field of a structure.
#[derive(Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub ty: Type,
}

pub struct Call {
    /// With the variant: `ioctl$RPMEM_INFO`.
    pub name: String,
    pub args: Vec<Field>,
    pub result: Option<String>,
}

#[derive(Default)]
pub struct Description {
    pub arches: Vec<String>,
    pub includes: Vec<String>,
    pub defines: BTreeMap<String, String>,
    /// What each is made of.
    pub resources: BTreeMap<String, String>,
    pub structs: BTreeMap<String, Vec<Field>>,
    pub flags: BTreeMap<String, Vec<String>>,
    /// Constants that are named and not used.
    pub unused: Vec<String>,
    pub calls: Vec<Call>,
}

/// What `sys/linux/sys.txt` and the language itself give: name and size in bytes.
const GIVEN: &[(&str, u64)] = &[
    ("fd", 4),
    ("pid", 4),
    ("int8", 1),
    ("int16", 2),
    ("int32", 4),
    ("int64", 8),
    ("intptr", 8),
    ("vma", 8),
    ("vma64", 8),
];

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A number or a string: nothing to look up.
fn is_literal(text: &str) -> bool {
    text.starts_with('"') || number(text).is_some()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Splits at commas outside of brackets and strings.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut quoted, mut start) = (0, false, 0);
    let mut parts = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '[' | '(' if !quoted => depth += 1,
            ']' | ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

impl Type {
    fn parse(text: &str) -> Result<Self, String> {
        let plain = |name: &str| Self {
            name: name.into(),
            args: Vec::new(),
        };
        let range = text
            .split_once(':')
            .is_some_and(|(from, to)| number(from).is_some() && number(to).is_some());
        if is_literal(text) || is_name(text) || range {
            return Ok(plain(text));
        }
        match text.strip_suffix(']').and_then(|t| t.split_once('[')) {
            Some((name, args)) if is_name(name) => Ok(Self {
                name: name.into(),
                args: split(args)
                    .into_iter()
                    .map(Self::parse)
                    .collect::<Result<_, _>>()?,
            }),
            _ => Err(format!("`{text}` is no type")),
        }
    }

    pub fn arg(&self, n: usize) -> Option<&str> {
        self.args.get(n).map(|t| t.name.as_str())
    }
}

impl Field {
    /// `name type (attributes)`.
    fn parse(text: &str) -> Result<Self, String> {
        let (name, rest) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("`{text}` has no type"))?;
        let rest = rest.trim();
        let ty = match rest.rsplit_once('(') {
            Some((ty, "in)" | "out)" | "inout)")) => ty.trim(),
            Some((_, other)) => return Err(format!("`({other}` is no attribute")),
            None => rest,
        };
        if !is_name(name) {
            return Err(format!("`{name}` is no name"));
        }
        Ok(Self {
            name: name.into(),
            ty: Type::parse(ty)?,
        })
    }
}

impl Call {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no call");
        let (name, rest) = text.split_once('(').ok_or_else(bad)?;
        let (args, result) = rest.rsplit_once(')').ok_or_else(bad)?;
        let (call, variant) = name.split_once('$').unwrap_or((name, "_"));
        if !is_name(call) || !is_name(variant) {
            return Err(bad());
        }
        let result = result.trim();
        Ok(Self {
            name: name.into(),
            args: split(args)
                .into_iter()
                .map(Field::parse)
                .collect::<Result<_, _>>()?,
            result: (!result.is_empty()).then(|| result.into()),
        })
    }

    /// The number is that of this system call; None for what syzkaller's executor has itself.
    pub fn number(&self) -> Option<String> {
        let call = self.name.split('$').next().unwrap_or(&self.name);
        (!call.starts_with("syz_")).then(|| format!("__NR_{call}"))
    }
}

impl Description {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        let mut open: Option<(String, Vec<Field>)> = None;
        for (n, line) in text.lines().enumerate() {
            this.line(line.trim(), &mut open)
                .map_err(|e| format!("line {}: {e}", n + 1))?;
        }
        match open {
            Some((name, _)) => Err(format!("{name} does not end")),
            None => Ok(this),
        }
    }

    fn line(&mut self, line: &str, open: &mut Option<(String, Vec<Field>)>) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let twice = |name: &str| Err(format!("{name} is there twice"));
        if let Some((name, fields)) = open {
            if line == "}" {
                let old = self
                    .structs
                    .insert(name.clone(), std::mem::take(fields))
                    .is_some();
                let name = name.clone();
                *open = None;
                return if old { twice(&name) } else { Ok(()) };
            }
            fields.push(Field::parse(line)?);
            return Ok(());
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "meta" => match Type::parse(rest)? {
                Type { name, args } if name == "arches" => {
                    let names = args.iter().map(|t| t.name.trim_matches('"').into());
                    self.arches = names.collect();
                }
                other => return Err(format!("unknown: {other:?}")),
            },
            "include" => {
                let path = rest.strip_prefix('<').and_then(|p| p.strip_suffix('>'));
                self.includes
                    .push(path.ok_or_else(|| format!("`{rest}` is no header"))?.into());
            }
            "define" => {
                let (name, value) = rest
                    .split_once(char::is_whitespace)
                    .ok_or_else(|| format!("`{rest}` has no value"))?;
                if self
                    .defines
                    .insert(name.into(), value.trim().into())
                    .is_some()
                {
                    return twice(name);
                }
            }
            "resource" => {
                let Type { name, args } = Type::parse(rest)?;
                let [base] = args.as_slice() else {
                    return Err(format!("{name} has no type"));
                };
                if self
                    .resources
                    .insert(name.clone(), base.name.clone())
                    .is_some()
                {
                    return twice(&name);
                }
            }
            name if rest == "{" && is_name(name) => *open = Some((name.into(), Vec::new())),
            name if rest.starts_with('=') && is_name(name) => {
                let values: Vec<String> = split(&rest[1..]).into_iter().map(Into::into).collect();
                if let Some(bad) = values.iter().find(|v| !is_literal(v) && !is_name(v)) {
                    return Err(format!("`{bad}` is no value"));
                }
                if name == "_" {
                    self.unused.extend(values);
                } else if self.flags.insert(name.into(), values).is_some() {
                    return twice(name);
                }
            }
            _ => {
                let call = Call::parse(line)?;
                if self.calls.iter().any(|c| c.name == call.name) {
                    return twice(&call.name);
                }
                self.calls.push(call);
            }
        }
        Ok(())
    }

    /// The types of all arguments and fields, with what they are made of.
    fn types(&self) -> Vec<&Type> {
        let fields = self.structs.values().flatten();
        let mut all: Vec<&Type> = self
            .calls
            .iter()
            .flat_map(|c| &c.args)
            .chain(fields)
            .map(|f| &f.ty)
            .collect();
        let mut at = 0;
        while at < all.len() {
            let ty = all[at];
            all.extend(&ty.args);
            at += 1;
        }
        all
    }

    /// The names whose values the headers have to give, and those of the system calls.
    pub fn constants(&self) -> BTreeSet<String> {
        let named = |value: &&String| is_name(value);
        let mut names: BTreeSet<String> = self
            .flags
            .values()
            .flatten()
            .chain(&self.unused)
            .filter(named)
            .cloned()
            .collect();
        for ty in self.types() {
            if ty.name == "const" {
                names.extend(ty.arg(0).filter(|v| is_name(v)).map(Into::into));
            }
        }
        names.extend(self.calls.iter().filter_map(Call::number));
        names
    }

    /// Size and alignment in memory.
    pub fn size(&self, ty: &Type) -> Result<(u64, u64), String> {
        let base = match ty.name.as_str() {
            "const" | "flags" | "len" => ty
                .arg(1)
                .ok_or_else(|| format!("{} without the type of the field", ty.name))?,
            name => name,
        };
        if let Some((_, size)) = GIVEN.iter().find(|(name, _)| *name == base) {
            return Ok((*size, *size));
        }
        match self.resources.get(base) {
            Some(base) => self.size(&Type::parse(base)?),
            None => Err(format!("`{base}` has no size that is known")),
        }
    }

    /// What is named and not there, or there and not used.
    pub fn dangling(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let mut used = BTreeSet::new();
        let known = |name: &str| {
            is_literal(name)
                || name.contains(':')
                || GIVEN.iter().any(|(given, _)| *given == name)
                || self.resources.contains_key(name)
                || self.structs.contains_key(name)
        };
        for ty in self.types() {
            used.insert(ty.name.clone());
            let names = ty.args.iter().map(|t| t.name.as_str());
            used.extend(names.map(Into::into));
            let fine = match ty.name.as_str() {
                "flags" => ty.arg(0).is_some_and(|f| self.flags.contains_key(f)),
                "string" => ty
                    .arg(0)
                    .is_some_and(|s| s.starts_with('"') || self.flags.contains_key(s)),
                "ptr" => matches!(ty.arg(0), Some("in" | "out" | "inout")) && ty.args.len() == 2,
                "buffer" => matches!(ty.arg(0), Some("in" | "out")),
                "const" | "len" | "array" => !ty.args.is_empty(),
                _ => continue,
            };
            if !fine {
                findings.push(format!("{ty:?} is not what it should be"));
            }
        }
        // Arguments that are no types themselves were looked at with what they belong to.
        let fields = self.structs.values().flatten();
        let mut outer: Vec<&Type> = self
            .calls
            .iter()
            .flat_map(|c| &c.args)
            .chain(fields)
            .map(|f| &f.ty)
            .collect();
        while let Some(ty) = outer.pop() {
            match ty.name.as_str() {
                "ptr" => outer.extend(ty.args.get(1)),
                "array" => outer.extend(ty.args.first()),
                "flags" | "string" | "buffer" | "const" | "len" => {}
                name if known(name) => {}
                name => findings.push(format!("`{name}` is no type of this description")),
            }
        }
        for call in &self.calls {
            used.extend(call.result.clone());
            if let Some(result) = call.result.as_deref().filter(|r| !known(r)) {
                findings.push(format!("{} gives `{result}`, which is none", call.name));
            }
        }
        for name in self.flags.keys().chain(self.structs.keys()) {
            if !used.contains(name) {
                findings.push(format!("{name} is not used"));
            }
        }
        for name in self.resources.keys() {
            let made = self.calls.iter().any(|c| c.result.as_ref() == Some(name));
            if !made || !self.types().iter().any(|t| t.name == *name) {
                findings.push(format!("{name} is not both made and used"));
            }
        }
        findings
    }

    /// All strings: names of files and what is written to them.
    pub fn strings(&self) -> BTreeSet<&str> {
        let values = self.flags.values().flatten().map(String::as_str);
        values
            .chain(self.types().into_iter().map(|t| t.name.as_str()))
            .filter_map(|text| text.strip_prefix('"')?.strip_suffix('"'))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        # A comment.
        meta arches["amd64"]
        include <uapi/linux/a.h>
        define A_TWO (A_ONE + 1)
        resource fd_a[fd]
        openat$a(fd const[AT_FDCWD], file ptr[in, string["/dev/a,b"]], flags flags[a_flags]) fd_a
        ioctl$A_GET(fd fd_a, cmd const[A_GET], arg ptr[inout, a_get])
        poll$a(fds ptr[in, array[a_get, 1:4]], nfds len[fds], timeout int32[0:100])
        a_get {
            argsz len[parent, int32] (inout)
            fd fd_a
            addr vma64 (in)
        }
        a_flags = A_ONE, 0x10
        _ = A_TWO
    "#;

    #[test]
    fn parts() {
        let d = Description::parse(TEXT).unwrap();
        assert_eq!(d.arches, ["amd64"]);
        assert_eq!(d.includes, ["uapi/linux/a.h"]);
        assert_eq!(d.defines["A_TWO"], "(A_ONE + 1)");
        assert_eq!(d.calls.len(), 3);
        assert_eq!(d.calls[0].result.as_deref(), Some("fd_a"));
        assert_eq!(d.calls[1].args[2].ty.arg(1), Some("a_get"));
        assert_eq!(d.strings().into_iter().collect::<Vec<_>>(), ["/dev/a,b"]);
        let sizes: Vec<_> = d.structs["a_get"].iter().map(|f| d.size(&f.ty)).collect();
        assert_eq!(sizes, [Ok((4, 4)), Ok((4, 4)), Ok((8, 8))]);
        let constants: Vec<_> = d.constants().into_iter().collect();
        let want = "AT_FDCWD A_GET A_ONE A_TWO __NR_ioctl __NR_openat __NR_poll";
        assert_eq!(constants.join(" "), want);
        assert_eq!(d.dangling(), [""; 0]);
    }

    #[test]
    fn refused() {
        for (from, to) in [
            ("a_flags = A_ONE", "a_flags = A-ONE"),
            ("fd fd_a\n", "fd\n"),
            ("(inout)", "(sometimes)"),
            ("fd_a[fd]", "fd_a"),
            ("include <uapi/linux/a.h>", "include uapi/linux/a.h"),
            ("_ = A_TWO", "a_flags = A_TWO"),
            ("poll$a", "ioctl$A_GET"),
            ("        }\n", ""),
        ] {
            assert!(TEXT.contains(from), "{from}");
            assert!(
                Description::parse(&TEXT.replacen(from, to, 1)).is_err(),
                "{to}"
            );
        }
        for (from, to) in [
            ("flags[a_flags]", "flags[b_flags]"),
            ("inout, a_get", "inout, b_get"),
            ("inout, a_get", "both, a_get"),
            ("flags[a_flags]) fd_a", "flags[a_flags])"),
            ("flags[a_flags]) fd_a", "flags[a_flags]) fd_b"),
            ("vma64", "vma65"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let d = Description::parse(&TEXT.replacen(from, to, 1)).unwrap();
            assert!(!d.dangling().is_empty(), "{to}");
        }
    }
}
