// SPDX-License-Identifier: GPL-2.0
//! What a module's ELF file says: where the kernel puts its code, and which lines of the source each
//! piece of it is made of.

use gimli::{AttributeValue, DebuggingInformationEntry, EndianSlice, LittleEndian};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use object::{RelocationFlags, RelocationKind, RelocationTarget, SectionFlags, SectionIndex};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the text that goes after init is taken to be; the other one is at 0.
pub const INIT: u64 = 1 << 32;

/// A piece of code, and a line of the source that it comes from: its own, or one with a call that was
/// inlined.
pub struct Row {
    pub start: u64,
    pub end: u64,
    /// With its folders, as the compiler was told.
    pub file: String,
    pub line: u64,
}

pub struct Module {
    /// Size of the text in the kernel's memory, and of that for init.
    pub text: u64,
    pub init: u64,
    /// `init_module()` and `cleanup_module()`, where there is one.
    pub init_module: u64,
    pub cleanup_module: Option<u64>,
    /// Fields of struct module, by the names that cover.c has for them.
    pub fields: Vec<(&'static str, u64)>,
    pub rows: Vec<Row>,
    /// Where each function begins, by file and line.
    functions: BTreeMap<String, BTreeMap<u64, String>>,
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;
type Unit<'a> = gimli::Unit<Slice<'a>>;
type Die<'a, 'u> = DebuggingInformationEntry<'u, 'u, Slice<'a>>;

fn told<T, E: std::fmt::Display>(r: Result<T, E>, what: &str) -> Result<T, String> {
    r.map_err(|e| format!("{what}: {e}"))
}

/// Sections with code where layout_sections() puts them, and how much they take.
fn place(file: &object::File) -> (HashMap<SectionIndex, u64>, u64, u64) {
    let (mut at, mut text, mut init) = (HashMap::new(), 0u64, 0u64);
    let code = u64::from(object::elf::SHF_ALLOC | object::elf::SHF_EXECINSTR);
    for s in file.sections() {
        let SectionFlags::Elf { sh_flags } = s.flags() else {
            continue;
        };
        if sh_flags & code != code {
            continue;
        }
        let is_init = s.name().is_ok_and(|n| n.starts_with(".init"));
        let (end, base) = match is_init {
            true => (&mut init, INIT),
            false => (&mut text, 0),
        };
        *end = end.next_multiple_of(s.align().max(1));
        at.insert(s.index(), base + *end);
        *end += s.size();
    }
    (at, text, init)
}

/// The bytes of a section, with its relocations done for sections that are placed like that.
fn relocated(
    file: &object::File,
    name: &str,
    at: &HashMap<SectionIndex, u64>,
) -> Result<Vec<u8>, String> {
    let Some(section) = file.section_by_name(name) else {
        return Ok(Vec::new());
    };
    let mut data = told(section.uncompressed_data(), name)?.into_owned();
    const NONE: RelocationFlags = RelocationFlags::Elf {
        r_type: object::elf::R_X86_64_NONE,
    };
    for (offset, r) in section.relocations().filter(|(_, r)| r.flags() != NONE) {
        let bad = || format!("{name}: a relocation of a kind that is not known: {r:?}");
        let RelocationTarget::Symbol(index) = r.target() else {
            return Err(bad());
        };
        if r.kind() != RelocationKind::Absolute {
            return Err(bad());
        }
        let symbol = told(file.symbol_by_index(index), name)?;
        let base = symbol.section_index().and_then(|i| at.get(&i));
        let value = base
            .copied()
            .unwrap_or(0)
            .wrapping_add(symbol.address())
            .wrapping_add_signed(r.addend());
        let len = usize::from(r.size() / 8);
        let from = usize::try_from(offset).map_err(|_| bad())?;
        let bytes = data.get_mut(from..from + len).ok_or_else(bad)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..len]);
    }
    Ok(data)
}

fn text_of(dwarf: &Dwarf, unit: &Unit, v: AttributeValue<Slice>) -> Option<String> {
    let s = dwarf.attr_string(unit, v).ok()?;
    Some(s.to_string_lossy().into_owned())
}

fn name_of(dwarf: &Dwarf, unit: &Unit, die: &Die) -> Option<String> {
    text_of(dwarf, unit, die.attr_value(gimli::DW_AT_name).ok()??)
}

fn number(die: &Die, what: gimli::DwAt) -> Option<u64> {
    die.attr_value(what).ok()??.udata_value()
}

fn path(dwarf: &Dwarf, unit: &Unit, index: u64) -> Option<String> {
    let header = unit.line_program.as_ref()?.header();
    let file = header.file(index)?;
    let name = text_of(dwarf, unit, file.path_name())?;
    let path = match file.directory(header) {
        Some(dir) if !name.starts_with('/') => Path::new(&text_of(dwarf, unit, dir)?).join(name),
        _ => name.into(),
    };
    // Without any `.` in it.
    let path: PathBuf = path.components().collect();
    Some(path.display().to_string())
}

fn file_of(dwarf: &Dwarf, unit: &Unit, die: &Die, what: gimli::DwAt) -> Option<String> {
    match die.attr_value(what).ok()?? {
        AttributeValue::FileIndex(n) => path(dwarf, unit, n),
        v => path(dwarf, unit, v.udata_value()?),
    }
}

fn rows(dwarf: &Dwarf, unit: &Unit, to: &mut Vec<Row>) -> gimli::Result<()> {
    let Some(program) = unit.line_program.clone() else {
        return Ok(());
    };
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut rows = program.rows();
    // Of the row before: it ends where the next one begins.
    let mut open: Option<(u64, u64, u64)> = None;
    while let Some((_, row)) = rows.next_row()? {
        if let Some((start, file, line)) = open.take() {
            if start < row.address() {
                let file = names
                    .entry(file)
                    .or_insert_with(|| path(dwarf, unit, file).unwrap_or_default());
                to.push(Row {
                    start,
                    end: row.address(),
                    file: file.clone(),
                    line,
                });
            }
        }
        if let (false, Some(line)) = (row.end_sequence(), row.line()) {
            open = Some((row.address(), row.file_index(), line.get()));
        }
    }
    Ok(())
}

/// A call that was inlined: all of the function's code is that line's, too.
fn inlined(dwarf: &Dwarf, unit: &Unit, die: &Die, to: &mut Vec<Row>) -> gimli::Result<()> {
    let file = file_of(dwarf, unit, die, gimli::DW_AT_call_file);
    let line = number(die, gimli::DW_AT_call_line);
    let (Some(file), Some(line)) = (file, line) else {
        return Ok(());
    };
    let mut ranges = dwarf.die_ranges(unit, die)?;
    while let Some(range) = ranges.next()? {
        if range.begin < range.end && line != 0 {
            to.push(Row {
                start: range.begin,
                end: range.end,
                file: file.clone(),
                line,
            });
        }
    }
    Ok(())
}

/// Offsets of the fields of a struct, and its size.
type Struct = (BTreeMap<String, u64>, u64);

impl Module {
    pub fn read(ko: &Path) -> Result<Module, String> {
        let name = ko.display().to_string();
        let bytes = told(fs::read(ko), &name)?;
        Module::parse(&bytes).map_err(|e| format!("{name}: {e}"))
    }

    fn parse(bytes: &[u8]) -> Result<Module, String> {
        let file = told(object::File::parse(bytes), "ELF")?;
        let (at, text, init) = place(&file);
        let sections = gimli::DwarfSections::load(|id| relocated(&file, id.name(), &at))?;
        let dwarf = sections.borrow(|s| EndianSlice::new(s, LittleEndian));
        let address = |name: &str| {
            let symbol = file.symbols().find(|s| s.name() == Ok(name))?;
            Some(at.get(&symbol.section_index()?)? + symbol.address())
        };
        let mut m = Module {
            text,
            init,
            init_module: address("init_module").ok_or("it has no init_module()")? - INIT,
            cleanup_module: address("cleanup_module"),
            fields: Vec::new(),
            rows: Vec::new(),
            functions: BTreeMap::new(),
        };
        told(m.debug_info(&dwarf), "DWARF")?;
        if m.rows.is_empty() || m.fields.is_empty() {
            return Err("it has no debugging information".into());
        }
        Ok(m)
    }

    fn debug_info(&mut self, dwarf: &Dwarf) -> gimli::Result<()> {
        let mut headers = dwarf.units();
        let mut structs: BTreeMap<&str, Struct> = BTreeMap::new();
        while let Some(header) = headers.next()? {
            let unit = dwarf.unit(header)?;
            rows(dwarf, &unit, &mut self.rows)?;
            let mut within: Option<(&str, isize)> = None;
            let mut depth = 0;
            let mut entries = unit.entries();
            while let Some((delta, die)) = entries.next_dfs()? {
                depth += delta;
                if within.is_some_and(|w| depth <= w.1) {
                    within = None;
                }
                let name = || name_of(dwarf, &unit, die);
                match die.tag() {
                    gimli::DW_TAG_subprogram => self.function(dwarf, &unit, die),
                    gimli::DW_TAG_inlined_subroutine => {
                        inlined(dwarf, &unit, die, &mut self.rows)?;
                    }
                    gimli::DW_TAG_structure_type => {
                        let wanted = ["module", "module_memory"];
                        let name = name().unwrap_or_default();
                        let size = number(die, gimli::DW_AT_byte_size);
                        let found = wanted.into_iter().find(|w| *w == name).zip(size);
                        if let Some((name, size)) = found {
                            structs.entry(name).or_default().1 = size;
                            within = Some((name, depth));
                        }
                    }
                    gimli::DW_TAG_member => {
                        let at = number(die, gimli::DW_AT_data_member_location);
                        if let (Some((parent, level)), Some(field), Some(at)) = (within, name(), at)
                        {
                            if depth == level + 1 {
                                structs.entry(parent).or_default().0.insert(field, at);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        self.fields = fields(&structs).unwrap_or_default();
        Ok(())
    }

    fn function(&mut self, dwarf: &Dwarf, unit: &Unit, die: &Die) {
        let file = file_of(dwarf, unit, die, gimli::DW_AT_decl_file);
        let line = number(die, gimli::DW_AT_decl_line);
        let (Some(file), Some(line), Some(name)) = (file, line, name_of(dwarf, unit, die)) else {
            return;
        };
        // Closures have braces instead of a name; they belong to the function around them.
        let name = name.split('<').next().unwrap_or_default();
        if !name.is_empty() && !name.starts_with('{') {
            let of_file = self.functions.entry(file).or_default();
            of_file.entry(line).or_insert_with(|| name.to_string());
        }
    }

    /// The function that a line is in.
    pub fn function_at(&self, file: &str, line: u64) -> &str {
        let before = self.functions.get(file).map(|f| f.range(..=line));
        let found = before.and_then(|mut f| f.next_back());
        found.map_or("?", |(_, name)| name.as_str())
    }
}

/// What cover.c is told. That the kernel means these, each load shows, see `cover.rs`.
fn fields(structs: &BTreeMap<&str, Struct>) -> Option<Vec<(&'static str, u64)>> {
    // enum mod_mem_type; clang leaves it out of the DWARF.
    const MOD_TEXT: u64 = 0;
    const MOD_INIT_TEXT: u64 = 4;
    let (module, _) = structs.get("module")?;
    let (memory, stride) = structs.get("module_memory")?;
    let at = |kind: u64, field: &str| Some(module.get("mem")? + kind * stride + memory.get(field)?);
    Some(vec![
        ("at_name", *module.get("name")?),
        ("at_text", at(MOD_TEXT, "base")?),
        ("at_text_size", at(MOD_TEXT, "size")?),
        ("at_init_text", at(MOD_INIT_TEXT, "base")?),
        ("at_init_text_size", at(MOD_INIT_TEXT, "size")?),
        ("at_init", *module.get("init")?),
        ("at_exit", *module.get("exit")?),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// As a module is, before it is linked to the kernel's own part.
    const C: &str = "\
struct module_memory { void *base; unsigned int size; unsigned long rest[3]; };
struct module {
	int state; char name[56]; int (*init)(void); struct module_memory mem[7];
	void (*exit)(void);
} __this_module;
int last;
static inline __attribute__((always_inline)) int twice(int n)
{
	return 2 * n + last;
}
int used(int n)
{
	return twice(n);
}
__attribute__((section(\".init.text\"))) int init_module(void)
{
	return used(1);
}
__attribute__((section(\".exit.text\"))) void cleanup_module(void)
{
	last = 0;
}
";

    #[test]
    fn lines_of_an_object() {
        let dir = std::env::temp_dir().join(format!("rpmem-dwarf-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("m.c"), C).unwrap();
        let status = Command::new("cc")
            .args(["-g", "-O1", "-c", "m.c"])
            .current_dir(&dir)
            .status();
        assert!(status.unwrap().success());
        let m = Module::read(&dir.join("m.o")).unwrap();
        let source = dir.join("m.c").display().to_string();
        fs::remove_dir_all(&dir).unwrap();
        let exit = m.cleanup_module.unwrap();
        assert!(exit > 0 && exit < m.text, "{exit} of {}", m.text);
        assert_eq!(m.init_module, 0);
        let fields: BTreeMap<_, _> = m.fields.iter().copied().collect();
        assert_eq!((fields["at_name"], fields["at_init"]), (4, 64));
        let (text, init) = (fields["at_text"], fields["at_init_text"]);
        assert_eq!((text, init), (72, 72 + 4 * 40));
        assert_eq!(fields["at_text_size"], text + 8);
        assert_eq!(fields["at_exit"], 72 + 7 * 40);

        let at = |line| -> Vec<&Row> {
            let of_line = |r: &&Row| r.file == source && r.line == line;
            m.rows.iter().filter(of_line).collect()
        };
        // The call that was inlined is a line with code, and so is what it calls.
        for line in [9, 13] {
            assert!(at(line).iter().any(|r| r.end <= exit), "{line}");
        }
        assert!(at(17).iter().all(|r| r.start >= INIT) && !at(17).is_empty());
        assert!(at(21).iter().all(|r| r.start >= exit && r.end <= m.text));
        assert!(!at(21).is_empty());
        assert_eq!(m.function_at(&source, 9), "twice");
        assert_eq!(m.function_at(&source, 13), "used");
        assert_eq!(m.function_at(&source, 1), "?");
    }
}
