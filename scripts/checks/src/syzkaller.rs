// SPDX-License-Identifier: GPL-2.0

//! `tests/syzkaller` describes what the header and the driver have, all of it and no more. The
//! header is read by the C compiler and by bindgen, the driver as tokens.

use crate::{
    rust::File,
    syzlang::{Call, Description, Field},
    Findings,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

const TEXT: &str = "tests/syzkaller/rpmem.txt";
const CONST: &str = "tests/syzkaller/rpmem.txt.const";
const HEADER: &str = "include/uapi/linux/rpmem.h";
const GUARD: &str = "_UAPI_LINUX_RPMEM_H";
/// The folder of an attribute of the node, of one of the disk, and of a file in debugfs.
const NODE: &str = "/sys/class/rpmem/rpmem0/";
const DISK: &str = "/sys/block/pmem0/dax/";
const DEBUG: &str = "/sys/kernel/debug/rpmem/";
const DRIVER: &[&str] = &[
    "/dev/rpmem0",
    "/dev/rpmem#",
    "/sys/bus/nd/drivers/rpmem/bind",
    "/sys/bus/nd/drivers/rpmem/unbind",
];

/// Runs a program of the build root with `input`; its output.
fn run(program: &str, args: &[&str], input: &str) -> Result<String, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{program}: {e}");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&e))?;
    let mut stdin = child.stdin.take().ok_or("no pipe")?;
    stdin.write_all(input.as_bytes()).map_err(|e| failed(&e))?;
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    String::from_utf8(output.stdout).map_err(|e| failed(&e))
}

/// Names and texts of the macros that the output of `gcc -E -dD` has from the header.
fn macros(preprocessed: &str) -> BTreeMap<String, String> {
    let mut ours = false;
    let mut found = BTreeMap::new();
    for line in preprocessed.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            ours = rest
                .split('"')
                .nth(1)
                .is_some_and(|path| path.ends_with(HEADER));
        } else if let Some(rest) = line.strip_prefix("#define ").filter(|_| ours) {
            let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
            found.insert(name.into(), value.into());
        }
    }
    found.remove(GUARD);
    found
}

/// Fields with their sizes of each structure in bindgen's output.
fn structs(text: &str) -> Result<BTreeMap<String, Vec<(String, u64)>>, String> {
    let file = File::parse(Path::new("bindgen"), text)?;
    let word = |at: usize| file.tokens.get(at).map_or("", |t| t.text.as_str());
    let mut found = BTreeMap::new();
    for at in (0..file.tokens.len()).filter(|at| word(*at) == "struct" && word(at + 2) == "{") {
        let mut fields = Vec::new();
        let mut i = at + 3;
        while word(i) != "}" {
            if word(i) != "pub" || word(i + 2) != ":" {
                return Err(format!("bindgen: {} has `{}`", word(at + 1), word(i)));
            }
            let name = word(i + 1).to_string();
            i += 3;
            let mut last = "";
            while word(i) != "," {
                if i >= file.tokens.len() {
                    return Err(format!("bindgen: {} does not end", word(at + 1)));
                }
                last = word(i);
                i += 1;
            }
            i += 1;
            let size = match last {
                "__u16" | "c_short" | "c_ushort" => 2,
                "__u32" | "__s32" | "c_int" | "c_uint" => 4,
                "__u64" | "__s64" => 8,
                other => return Err(format!("bindgen: {name} has the type `{other}`")),
            };
            fields.push((name, size));
        }
        found.insert(word(at + 1).to_string(), fields);
    }
    Ok(found)
}

/// The attributes that the driver makes, and how many there are.
fn attributes(file: &File) -> (Vec<String>, usize) {
    let word = |at: usize| file.tokens.get(at).map_or("", |t| t.text.as_str());
    let literal = |at: usize| word(at).strip_prefix("c\"")?.strip_suffix('"');
    let is = |at: usize, words: &[&str]| words.iter().enumerate().all(|(i, w)| word(at + i) == *w);
    let mut names = Vec::new();
    let mut made = 0;
    let mut table = 0;
    for at in 0..file.tokens.len() {
        if is(at, &["attributes", "!", "{"]) {
            table = 1;
        } else if table > 0 {
            table += usize::from(word(at) == "{" && !is(at - 2, &["attributes", "!"]));
            table -= usize::from(word(at) == "}");
            // `Size: c"size", ...` of the macro.
            if table == 1 && word(at + 1) == ":" && file.tokens[at].ident {
                names.extend(literal(at + 2).map(Into::into));
            }
        }
        if is(at, &["const", "NAME", ":"]) {
            let end = (at..file.tokens.len()).find(|i| word(*i) == ";");
            names.extend(end.and_then(|end| literal(end - 1)).map(Into::into));
        }
        if is(at, &["=", "attribute", "["]) {
            let list = (at + 3..file.tokens.len()).take_while(|i| word(*i) != "]");
            made += list.filter(|i| file.tokens[*i].ident).count();
        }
    }
    (names, made)
}

/// The files in debugfs that a C file makes: the first string of each call.
fn debugfs(text: &str) -> Vec<&str> {
    text.match_indices("debugfs_create_file")
        .filter_map(|(at, _)| text[at..].split('"').nth(1))
        .collect()
}

/// Where what the driver makes is to be found.
fn files(top: &Path, sources: &[File], findings: &mut Vec<String>) -> Result<Vec<String>, String> {
    let mut files: Vec<String> = DRIVER.iter().map(|f| f.to_string()).collect();
    let mut any = false;
    for file in sources.iter().filter(|f| f.path.starts_with("src/driver")) {
        let (names, made) = attributes(file);
        if names.len() != made {
            findings.push(format!(
                "{}: {made} attributes are made, and {} names of such found ({}): teach \
                 scripts/checks/src/syzkaller.rs how they are written",
                file.path.display(),
                names.len(),
                names.join(" ")
            ));
        }
        any |= made > 0;
        let folder = match file.path.ends_with("sysfs.rs") {
            true => DISK,
            false => NODE,
        };
        files.extend(names.iter().map(|name| format!("{folder}{name}")));
    }
    if !any {
        findings.push("src/driver: no attributes are found".into());
    }
    let trace = "src/c/trace.c";
    let text = fs::read_to_string(top.join(trace)).map_err(|e| format!("{trace}: {e}"))?;
    let made = debugfs(&text);
    if made.is_empty() {
        findings.push(format!("{trace}: no files in debugfs are found"));
    }
    files.extend(made.iter().map(|name| format!("{DEBUG}{name}")));
    Ok(files)
}

/// What the C compiler makes of all names, and of the sizes of the structures.
fn values(
    top: &Path,
    description: &Description,
    names: &BTreeSet<String>,
    sizes: &[&str],
) -> Result<BTreeMap<String, u64>, String> {
    let mut program = String::from("#include <asm/unistd.h>\n");
    for header in &description.includes {
        let header = header.strip_prefix("uapi/").unwrap_or(header);
        let _ = writeln!(program, "#include <{header}>");
    }
    for (name, value) in &description.defines {
        let _ = writeln!(program, "#define {name} {value}");
    }
    program += "int printf(const char *, ...);\nint main(void)\n{\n";
    for (name, value) in names
        .iter()
        .map(|name| (name.as_str(), name.clone()))
        .chain(sizes.iter().map(|s| (*s, format!("sizeof(struct {s})"))))
    {
        let _ = writeln!(
            program,
            "printf(\"{name} %llu\\n\", (unsigned long long)({value}));"
        );
    }
    program += "return 0;\n}\n";
    let exe = std::env::temp_dir().join(format!("rpmem-syzkaller-{}", std::process::id()));
    let path = exe.to_string_lossy();
    let include = format!("-I{}", top.join("include/uapi").display());
    let args = [
        "-ffreestanding",
        "-Wall",
        "-Werror",
        &include,
        "-x",
        "c",
        "-",
        "-o",
        &path,
    ];
    let out = run("gcc", &args, &program).and_then(|_| run(&path, &[], ""));
    let _ = fs::remove_file(&exe);
    out?.lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').ok_or("no value")?;
            Ok((name.into(), value.parse().map_err(|_| "no number")?))
        })
        .collect::<Result<_, &str>>()
        .map_err(Into::into)
}

/// The file of constants as syzkaller writes it.
fn const_text(description: &Description, values: &BTreeMap<String, u64>) -> String {
    let mut text = format!(
        "# Code generated by syz-sysgen. DO NOT EDIT.\narches = {}\n",
        description.arches.join(", ")
    );
    for name in description.constants() {
        let value = values.get(&name).map_or("???".into(), u64::to_string);
        let _ = writeln!(text, "{name} = {value}");
    }
    text
}

fn compare_fields(
    description: &Description,
    name: &str,
    fields: &[Field],
    want: &[(String, u64)],
    size: u64,
) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    let (mut end, mut largest, mut got) = (0u64, 1, Vec::new());
    for field in fields {
        let (len, align) = description
            .size(&field.ty)
            .map_err(|e| format!("{name}.{}: {e}", field.name))?;
        end = end.next_multiple_of(align) + len;
        largest = largest.max(align);
        got.push((field.name.clone(), len));
    }
    if got != want {
        findings.push(format!(
            "{TEXT}: {name} has the fields and sizes {got:?}, the header {want:?}"
        ));
    }
    if end.next_multiple_of(largest) != size {
        findings.push(format!("{TEXT}: {name} is of {end} bytes, in C of {size}"));
    }
    Ok(findings)
}

/// Whether `call` is how the ioctl is called.
fn is_ioctl(call: &Call, ioctl: &str) -> bool {
    let [fd, cmd, arg] = call.args.as_slice() else {
        return false;
    };
    call.name == format!("ioctl${ioctl}")
        && fd.ty.name == "fd_rpmem"
        && (cmd.ty.name.as_str(), cmd.ty.arg(0)) == ("const", Some(ioctl))
        && (arg.ty.name.as_str(), arg.ty.arg(0)) == ("ptr", Some("inout"))
        && arg.ty.arg(1) == Some(ioctl.to_lowercase().as_str())
}

struct Compared {
    findings: Vec<String>,
    consts: String,
}

fn compare(top: &Path, sources: &[File]) -> Result<Compared, String> {
    let read = |name: &str| fs::read_to_string(top.join(name)).map_err(|e| format!("{name}: {e}"));
    let description = Description::parse(&read(TEXT)?).map_err(|e| format!("{TEXT}: {e}"))?;
    let mut findings: Vec<String> = description
        .dangling()
        .into_iter()
        .map(|what| format!("{TEXT}: {what}"))
        .collect();

    // What the kernel sees of the header, and what programs see as well.
    let include = format!("-I{}", top.join("include/uapi").display());
    let preprocess = |kernel: &[&str]| {
        let mut args = vec!["-E", "-dD", "-ffreestanding", &include, "-x", "c", "-"];
        args.extend(kernel);
        run("gcc", &args, "#include <linux/rpmem.h>\n").map(|text| macros(&text))
    };
    let kernel = preprocess(&["-D__KERNEL__"])?;
    let all = preprocess(&[])?;
    if !kernel.keys().any(|name| name == "RPMEM_INFO") {
        return Err(format!("{HEADER}: no macros are found"));
    }
    let constants = description.constants();
    for name in kernel.keys() {
        if !constants.contains(name) {
            findings.push(format!("{TEXT}: {name} of the header is missing"));
        }
    }
    let mut names = constants.clone();
    for name in all.keys().filter(|name| !kernel.contains_key(*name)) {
        let own = format!("RPMEM_{name}");
        if description.defines.contains_key(&own) {
            names.insert(name.clone());
        } else if !constants.contains(name) {
            findings.push(format!(
                "{TEXT}: {name} of the header is missing: use it, or define {own}"
            ));
        }
    }
    for (name, value) in &kernel {
        let wanted = value.trim_start().starts_with("_IO");
        if wanted && !description.calls.iter().any(|call| is_ioctl(call, name)) {
            findings.push(format!(
                "{TEXT}: no ioctl${name}(fd fd_rpmem, cmd const[{name}], arg ptr[inout, {}])",
                name.to_lowercase()
            ));
        }
    }

    let input = "#include <linux/rpmem.h>\n#include <linux/poll.h>\n";
    let header = std::env::temp_dir().join(format!("rpmem-syzkaller-{}.h", std::process::id()));
    fs::write(&header, input).map_err(|e| format!("{}: {e}", header.display()))?;
    let args = [
        &*header.to_string_lossy(),
        "--no-layout-tests",
        "--allowlist-type",
        "rpmem_.*|pollfd",
        "--",
        &include,
        "-ffreestanding",
    ];
    let bound = run("bindgen", &args, "");
    let _ = fs::remove_file(&header);
    let in_c = structs(&bound?)?;
    // A structure of the kernel with a file of ours in it has our name in front.
    let of = |name: &str| match in_c.contains_key(name) {
        true => name.to_string(),
        false => name.trim_start_matches("rpmem_").to_string(),
    };
    let sizes: Vec<&str> = in_c.keys().map(String::as_str).collect();
    let values = values(top, &description, &names, &sizes)?;
    for (name, fields) in &description.structs {
        match in_c.get(&of(name)) {
            Some(want) => findings.extend(compare_fields(
                &description,
                name,
                fields,
                want,
                values[&of(name)],
            )?),
            None => findings.push(format!("{TEXT}: C has no struct {name}")),
        }
    }
    for name in in_c.keys().filter(|name| name.starts_with("rpmem_")) {
        if !description.structs.contains_key(name) {
            findings.push(format!("{TEXT}: struct {name} of the header is missing"));
        }
    }
    for name in names.difference(&constants) {
        let own = &format!("RPMEM_{name}");
        if values.get(own) != values.get(name) {
            findings.push(format!(
                "{TEXT}: {own} is {:?}, and {name} of the header {:?}",
                values.get(own),
                values.get(name)
            ));
        }
    }

    let strings = description.strings();
    let files = files(top, sources, &mut findings)?;
    for file in files.iter().filter(|file| !strings.contains(file.as_str())) {
        findings.push(format!("{TEXT}: {file} is missing"));
    }
    for name in strings {
        let ours = [NODE, DISK, DEBUG].iter().any(|dir| name.starts_with(dir));
        if ours && !files.iter().any(|file| file == name) {
            findings.push(format!("{TEXT}: the driver has no {name}"));
        }
    }
    Ok(Compared {
        findings,
        consts: const_text(&description, &values),
    })
}

/// The file of constants that belongs to the description.
pub fn consts(top: &Path, sources: &[File]) -> Result<String, String> {
    Ok(compare(top, sources)?.consts)
}

pub fn check(top: &Path, sources: &[File]) -> Findings {
    let Compared {
        mut findings,
        consts,
    } = compare(top, sources)?;
    let there = fs::read_to_string(top.join(CONST)).map_err(|e| format!("{CONST}: {e}"))?;
    let lines = |text: &str| text.lines().map(Into::into).collect::<BTreeSet<String>>();
    for line in lines(&there).difference(&lines(&consts)) {
        findings.push(format!("{CONST}: `{line}` is wrong, or too much"));
    }
    for line in lines(&consts).difference(&lines(&there)) {
        findings.push(format!("{CONST}: `{line}` is missing"));
    }
    if findings.is_empty() && there != consts {
        findings.push(format!("{CONST}: the lines are not in order"));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_of_the_header_alone() {
        let text = "# 1 \"/usr/include/linux/ioctl.h\" 1\n#define _IO(a,b) 1\n\
                    # 5 \"/top/include/uapi/linux/rpmem.h\" 2\n#define _UAPI_LINUX_RPMEM_H \n\
                    #define RPMEM_INFO _IO(RPMEM_IOC, 0)\n# 3 \"<stdin>\" 2\n#define X 1\n";
        let found = macros(text);
        let names: Vec<_> = found.keys().collect();
        assert_eq!(names, ["RPMEM_INFO"]);
        assert_eq!(found["RPMEM_INFO"], "_IO(RPMEM_IOC, 0)");
    }

    #[test]
    fn structs_of_bindgen() {
        let text = "pub type __u32 = ::std::os::raw::c_uint;\n#[repr(C)]\n#[derive(Copy)]\n\
                    pub struct a { pub argsz: __u32, pub fd: ::std::os::raw::c_int, pub s: __s64, }";
        let fields = &structs(text).unwrap()["a"];
        let want = [("argsz", 4), ("fd", 4), ("s", 8)].map(|(n, s)| (n.to_string(), s));
        assert_eq!(*fields, want);
        assert!(structs("pub struct a { pub b: [__u8; 4], }").is_err());
    }

    #[test]
    fn attributes_as_they_are_written() {
        let text = r#"
            macro_rules! attributes { ($($file:literal)*) => {
                impl A for B { const NAME: &'static CStr = $file; } } }
            attributes! {
                Size: c"size", "Bytes.", |node| { u32::from(x) };
                Align: c"align", "Bytes.", |node| 1;
            }
            impl A for C { const NAME: &'static CStr = c"holders"; }
            sysfs::attributes! {
                static ATTRIBUTES: Node = attribute[Size, Align, Holders,];
            }
        "#;
        let file = File::parse(Path::new("x.rs"), text).unwrap();
        let (names, made) = attributes(&file);
        assert_eq!(names, ["size", "align", "holders"]);
        assert_eq!(made, 3);
        let c = "debugfs_create_file_unsafe(\"enable\", 0644); debugfs_create_file(\"counters\");";
        assert_eq!(debugfs(c), ["enable", "counters"]);
    }

    #[test]
    fn fields_have_to_agree() {
        let text = "resource fd_rpmem[fd]\nrpmem_a {\n\tone int32\n\ttwo int64\n}\n";
        let d = Description::parse(text).unwrap();
        let want = |two: &str, size| [("one".to_string(), 4), (two.to_string(), size)];
        let with = |want: &[(String, u64)], size| {
            compare_fields(&d, "rpmem_a", &d.structs["rpmem_a"], want, size)
                .unwrap()
                .len()
        };
        assert_eq!(with(&want("two", 8), 16), 0);
        assert_eq!(with(&want("three", 8), 16), 1);
        assert_eq!(with(&want("two", 4), 8), 2);
        assert_eq!(with(&want("two", 8), 24), 1);
    }

    #[test]
    fn ioctls() {
        let call = |text: &str| Description::parse(text).unwrap().calls.remove(0);
        let good = "ioctl$RPMEM_A(fd fd_rpmem, cmd const[RPMEM_A], arg ptr[inout, rpmem_a])";
        assert!(is_ioctl(&call(good), "RPMEM_A"));
        for (from, to) in [
            ("fd_rpmem", "fd"),
            ("[RPMEM_A]", "[RPMEM_B]"),
            ("rpmem_a", "rpmem_b"),
            ("$RPMEM_A", "$RPMEM_B"),
        ] {
            assert!(!is_ioctl(&call(&good.replace(from, to)), "RPMEM_A"), "{to}");
        }
    }
}
