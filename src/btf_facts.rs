// SPDX-License-Identifier: GPL-2.0

//! btf_facts STRUCTURE.MEMBER... FUNCTION... -- BASE [MODULE...]: what the BTF of a kernel says of
//! them. The base is that of the kernel's image, modules go by it.
//!
//! A program of the build: `offset STRUCTURE MEMBER BYTES` for each member, `prototype` and a
//! declaration in C for each function that is there.

#[allow(dead_code, unreachable_pub)]
#[path = "logic/btf.rs"]
mod btf;

use btf::{
    Btf,
    Place,
    Type, //
};
use std::{
    env,
    fs,
    process::ExitCode, //
};

const POINTER: u32 = 2;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FORWARD: u32 = 7;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// A module, or the image, with all types by their numbers.
struct Kernel<'a> {
    btf: Btf<'a>,
    types: Vec<Type<'a>>,
    own: usize,
}

impl<'a> Kernel<'a> {
    fn new(btf: Btf<'a>, base: &[Type<'a>]) -> Result<Self, String> {
        let mut types = base.to_vec();
        for one in btf.types() {
            types.push(one.map_err(|err| format!("BTF: {err:?}"))?);
        }
        Ok(Self {
            btf,
            types,
            own: base.len(),
        })
    }

    fn name(&self, one: &Type<'_>) -> String {
        String::from_utf8_lossy(self.btf.name(one.name)).into_owned()
    }

    /// The C text of a type; `None` for what no function of libnvdimm has.
    fn text(&self, id: u32) -> Option<String> {
        if id == 0 {
            return Some("void".into());
        }
        let one = self.types.get(id as usize - 1)?;
        let name = self.name(one);
        Some(match one.kind {
            POINTER => format!("{} *", self.text(one.size_or_type)?),
            // Behind what it is said of, so that it fits pointers, too.
            CONST => format!("{} const", self.text(one.size_or_type)?),
            VOLATILE => format!("{} volatile", self.text(one.size_or_type)?),
            RESTRICT | TYPE_TAG => self.text(one.size_or_type)?,
            btf::KIND_STRUCT => format!("struct {name}"),
            UNION => format!("union {name}"),
            ENUM | ENUM64 => format!("enum {name}"),
            FORWARD => format!("struct {name}"),
            1 | 8 | 16 if !name.is_empty() => name,
            _ => return None,
        })
    }

    /// The declaration of a function.
    fn prototype(&self, function: &str) -> Option<String> {
        let one = self.types[self.own..]
            .iter()
            .find(|one| one.kind == FUNC && self.btf.name(one.name) == function.as_bytes())?;
        let proto = self
            .types
            .get((one.size_or_type as usize).checked_sub(1)?)?;
        let mut parameters = Vec::new();
        for parameter in proto.rest.chunks_exact(8) {
            let id = u32::from_le_bytes(parameter[4..].try_into().ok()?);
            parameters.push(self.text(id)?);
        }
        if parameters.is_empty() {
            parameters.push("void".into());
        }
        let result = self.text(proto.size_or_type)?;
        Some(format!("{result} {function}({});", parameters.join(", ")))
    }
}

fn facts(wanted: &[String], files: &[String]) -> Result<(), String> {
    let mut data = Vec::new();
    for file in files {
        data.push(fs::read(file).map_err(|err| format!("{file}: {err}"))?);
    }
    let wrong = |file: &str, err| format!("{file}: no BTF that can be read: {err:?}");
    let (base_file, base_data) = (files.first().ok_or("no file")?, &data[0]);
    let base = Btf::parse(base_data, None).map_err(|err| wrong(base_file, err))?;
    let mut kernels = vec![Kernel::new(base, &[])?];
    for (file, data) in files.iter().zip(&data).skip(1) {
        let module = Btf::parse(data, Some(&base)).map_err(|err| wrong(file, err))?;
        let module = Kernel::new(module, &kernels[0].types)?;
        kernels.push(module);
    }
    let modules: Vec<Btf<'_>> = kernels.iter().skip(1).map(|kernel| kernel.btf).collect();
    for word in wanted {
        if let Some((structure, member)) = word.split_once('.') {
            let answer = Btf::place_in(&base, &modules, structure.as_bytes(), member.as_bytes())
                .map_err(|err| format!("struct {structure}: {err:?}"))?;
            match answer {
                Place::At(byte) => println!("offset {structure} {member} {byte}"),
                Place::NoStructure => println!("offset {structure} {member} no-structure"),
                Place::NoMember => println!("offset {structure} {member} no-member"),
                Place::BitField => println!("offset {structure} {member} bit-field"),
            }
        } else if let Some(text) = kernels.iter().find_map(|one| one.prototype(word)) {
            println!("prototype {text}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let at = words.iter().position(|word| word == "--");
    let (wanted, files) = words.split_at(at.unwrap_or(words.len()));
    match facts(wanted, files.get(1..).unwrap_or(&[])) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("btf_facts: {err}");
            ExitCode::FAILURE
        }
    }
}
