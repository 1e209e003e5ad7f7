// SPDX-License-Identifier: GPL-2.0

//! Which namespaces the driver leaves to the kernel's own drivers: the module parameter `exclude`.
//!
//! A list of words with commas between them. A word is a mode as `ndctl` calls it, the name of a
//! namespace (`namespace0.0`) or of a region (`region0`), or a UUID of a namespace; with `!` in front it
//! takes back what the words before it exclude. The last word that is true of a namespace decides.

/// The mode of a namespace, as `ndctl` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The medium as it is, without struct pages.
    Raw,
    /// For file systems with DAX.
    Fsdax,
    /// Atomic sectors, by libnvdimm's BTT.
    Sector,
    /// For mappings alone.
    Devdax,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Raw, Mode::Fsdax, Mode::Sector, Mode::Devdax];

    fn name(self) -> &'static [u8] {
        match self {
            Mode::Raw => b"raw",
            Mode::Fsdax => b"fsdax",
            Mode::Sector => b"sector",
            Mode::Devdax => b"devdax",
        }
    }
}

/// What a word can be true of.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Of the namespace device.
    pub name: &'a [u8],
    /// Of the region that it is in.
    pub region: &'a [u8],
    /// That of its label, and that of its info block; all zero is none.
    pub uuids: [[u8; 16]; 2],
}

/// A word without its `!`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word<'a> {
    Mode(Mode),
    Namespace(&'a [u8]),
    Region(&'a [u8]),
    Uuid([u8; 16]),
}

impl<'a> Word<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        if let Some(mode) = Mode::ALL.into_iter().find(|mode| mode.name() == text) {
            return Some(Self::Mode(mode));
        }
        if let Some(numbers) = text.strip_prefix(b"namespace") {
            let dot = numbers.iter().position(|&c| c == b'.')?;
            let (region, rest) = numbers.split_at(dot);
            return (is_number(region) && is_number(rest.get(1..)?))
                .then_some(Self::Namespace(text));
        }
        if let Some(number) = text.strip_prefix(b"region") {
            return is_number(number).then_some(Self::Region(text));
        }
        parse_uuid(text).map(Self::Uuid)
    }

    fn is_true_of(self, namespace: &Namespace<'_>, mode: Mode) -> bool {
        match self {
            Self::Mode(wanted) => wanted == mode,
            Self::Namespace(name) => name == namespace.name,
            Self::Region(region) => region == namespace.region,
            // All zero stands for none.
            Self::Uuid(uuid) => uuid != [0; 16] && namespace.uuids.contains(&uuid),
        }
    }
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// The bytes of a UUID in the form 8-4-4-4-12, in their order in the text, as `uuid_t` has them.
fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let mut digits = 0;
    for (at, &c) in text.iter().enumerate() {
        if matches!(at, 8 | 13 | 18 | 23) {
            if c != b'-' {
                return None;
            }
            continue;
        }
        let digit = char::from(c).to_digit(16)? as u8;
        let byte: &mut u8 = uuid.get_mut(digits / 2)?;
        *byte = (*byte << 4) | digit;
        digits += 1;
    }
    (digits == 32).then_some(uuid)
}

/// The words of a list.
fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&c| c == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|text| !text.is_empty())
}

/// Whether a word excludes, and what it is, if it is any.
fn parse(text: &[u8]) -> Option<(bool, Word<'_>)> {
    match text.strip_prefix(b"!") {
        Some(text) => Word::parse(text).map(|word| (false, word)),
        None => Word::parse(text).map(|word| (true, word)),
    }
}

/// Whether all words of a list are known.
///
/// # Errors
///
/// The first one that is not.
pub fn check(list: &[u8]) -> Result<(), &[u8]> {
    words(list)
        .find(|text| parse(text).is_none())
        .map_or(Ok(()), Err)
}

/// Whether a list excludes a namespace that is in the mode `mode`.
pub fn excludes(list: &[u8], namespace: &Namespace<'_>, mode: Mode) -> bool {
    words(list)
        .filter_map(parse)
        .filter(|(_, word)| word.is_true_of(namespace, mode))
        .last()
        .is_some_and(|(excluded, _)| excluded)
}

/// Whether it does so in whatever mode the namespace may turn out to be.
pub fn excludes_in_any_mode(list: &[u8], namespace: &Namespace<'_>) -> bool {
    Mode::ALL
        .into_iter()
        .all(|mode| excludes(list, namespace, mode))
}
