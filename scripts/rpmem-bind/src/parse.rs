// SPDX-License-Identifier: GPL-2.0

//! The texts of procfs and of the parameter `exclude`.

use crate::sys::Number;

/// One line of `/proc/PID/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Of the file system: that of its block device, for most of those that have one.
    pub number: Number,
    pub at: String,
    /// A block device, a server, or any word.
    pub source: String,
}

/// The mounts of `/proc/PID/mountinfo`; `Err` with a line that is none.
pub fn mounts(text: &str) -> Result<Vec<Mount>, &str> {
    text.lines().map(|l| mount(l).ok_or(l)).collect()
}

fn mount(line: &str) -> Option<Mount> {
    // Optional fields end with a single hyphen.
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(2);
    let number = Number::parse(fields.next()?)?;
    let at = unescape(fields.nth(1)?);
    let source = file_system.split(' ').nth(1)?;
    Some(Mount {
        number,
        at,
        source: unescape(source),
    })
}

/// The paths in `/proc/swaps`.
pub fn swaps(text: &str) -> Vec<String> {
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_ascii_whitespace().next())
        .map(unescape)
        .collect()
}

/// Space, tab, newline and backslash are written as octal numbers.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, digits) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One line of `/proc/PID/maps` that has a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// The name in `/proc/PID/map_files`.
    pub range: String,
    /// Device and inode of the file, which are those of the node and not of its device.
    pub inode: (&'a str, &'a str),
    pub path: &'a str,
}

/// The mappings of files in `/proc/PID/maps`.
pub fn mappings(text: &str) -> impl Iterator<Item = Mapping<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let mut fields = fields.skip(2);
        let (dev, inode, path) = (fields.next()?, fields.next()?, fields.next()?);
        (inode != "0").then_some(Mapping {
            range: format!("{:x}-{:x}", hex(start)?, hex(end)?),
            inode: (dev, inode),
            path: path.trim_start(),
        })
    })
}

/// The list `exclude` without the words that are `name` and nothing else, and with `more` at its end.
pub fn with_word(list: &str, name: &str, more: Option<&str>) -> String {
    list.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty() && word.strip_prefix('!').unwrap_or(word) != name)
        .chain(more)
        .collect::<Vec<_>>()
        .join(",")
}

/// The bytes of a UUID; all zero if it is none.
pub fn uuid(text: &str) -> [u8; 16] {
    let digits = text.replace('-', "");
    let number = match digits.len() {
        32 => u128::from_str_radix(&digits, 16).unwrap_or_default(),
        _ => 0,
    };
    number.to_be_bytes()
}

/// The numbers of a name such as `namespace10.2`, to sort by.
pub fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo() {
        let text =
            "36 35 259:1 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/pmem0s1 rw,dax\n\
                    37 35 0:44 /sub /mnt rw - btrfs /dev/pmem1 rw\n\
                    38 35 0:5 / /dev rw - devtmpfs udev rw\n";
        let found = mounts(text).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(
            found[0],
            Mount {
                number: Number {
                    major: 259,
                    minor: 1
                },
                at: "/mnt/a b".into(),
                source: "/dev/pmem0s1".into()
            }
        );
        assert_eq!(found[1].source, "/dev/pmem1");
        // What is not understood is not passed over.
        assert_eq!(
            mounts("36 35 259:1 / /mnt rw"),
            Err("36 35 259:1 / /mnt rw")
        );
        assert!(mounts("36 35 259 / /mnt rw - ext4 /dev/pmem0 rw").is_err());
        assert_eq!(mounts(""), Ok(Vec::new()));
    }

    #[test]
    fn swap() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/pmem0s1                            partition\t65532\t\t0\t\t-2\n\
                    /dev/x\\040(deleted) partition\t4\t0\t-3\n";
        assert_eq!(swaps(text), ["/dev/pmem0s1", "/dev/x (deleted)"]);
        assert!(swaps("").is_empty());
    }

    #[test]
    fn escapes() {
        for (text, want) in [
            ("a", "a"),
            ("\\134", "\\"),
            ("a\\", "a\\"),
            ("\\9", "\\9"),
            ("\\04", "\\04"),
            ("é\\012", "é\n"),
        ] {
            assert_eq!(unescape(text), want);
        }
    }

    #[test]
    fn maps() {
        let text = "00400000-00452000 r-xp 00000000 08:02 173521      /usr/bin/dbus daemon\n\
                    7f0000000000-7f0000200000 rw-s 00000000 00:05 83                         /dev/rpmem0 (deleted)\n\
                    7ffd0000-7ffe0000 rw-p 00000000 00:00 0                          [stack]\n\
                    7fff0000-7fff1000 rw-p 00000000 00:00 0 \n";
        let found: Vec<_> = mappings(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].range, "400000-452000");
        assert_eq!(found[0].path, "/usr/bin/dbus daemon");
        assert_eq!(found[1].inode, ("00:05", "83"));
        assert_eq!(found[1].path, "/dev/rpmem0 (deleted)");
    }

    #[test]
    fn words() {
        let ns = "namespace0.0";
        for (list, more, want) in [
            ("", Some(ns), ns),
            ("devdax", Some("!namespace0.0"), "devdax,!namespace0.0"),
            ("devdax,!namespace0.0", None, "devdax"),
            (
                "namespace0.0, raw ,,!namespace0.0,namespace0.01",
                None,
                "raw,namespace0.01",
            ),
            ("namespace0.0", None, ""),
        ] {
            assert_eq!(with_word(list, ns, more), want);
        }
    }

    #[test]
    fn uuids() {
        let bytes = uuid("00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(bytes[..3], [0, 0x11, 0x22]);
        assert_eq!(bytes[15], 0xff);
        assert_eq!(uuid(""), [0; 16]);
        assert_eq!(uuid("00112233-4455-6677-8899-aabbccddeefg"), [0; 16]);
    }

    #[test]
    fn order() {
        let mut names = ["namespace10.0", "namespace2.1", "namespace2.0"];
        names.sort_by_key(|n| numbers(n));
        assert_eq!(names, ["namespace2.0", "namespace2.1", "namespace10.0"]);
    }
}
