// SPDX-License-Identifier: GPL-2.0
//! Unpacks the vmlinux in a vmlinuz, once. QEMU starts it by its PVH entry, which saves the
//! guest a second of emulated decompression per boot. The code that runs is the same.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

/// Compressed payload of a bzImage (Documentation/arch/x86/boot.rst) and its unpacked size.
fn payload(image: &[u8]) -> Option<(&[u8], usize)> {
    let word =
        |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let start = (usize::from(image[0x1f1]) + 1) * 512 + word(0x248)?;
    let end = start.checked_add(word(0x24c)?)?;
    // The build appends the unpacked size to the compressed stream; a gzip stream ends with it.
    let stream = if image.get(start..)?.starts_with(&[0x1f, 0x8b]) {
        end
    } else {
        end - 4
    };
    Some((image.get(start..stream)?, word(end - 4)?))
}

fn tool(payload: &[u8]) -> Option<&'static str> {
    match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', ..] => Some("xz"),
        [0x1f, 0x8b, ..] => Some("gzip"),
        _ => None,
    }
}

fn unpack(vmlinuz: &Path, to: &Path) -> Option<()> {
    let image = fs::read(vmlinuz).ok()?;
    let (data, size) = payload(&image)?;
    let partial = to.with_extension(format!("partial.{}", std::process::id()));
    fs::create_dir_all(to.parent()?).ok()?;
    let mut child = Command::new(tool(data)?)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(File::create(&partial).ok()?)
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let written = child.stdin.take()?.write_all(data);
    let done = child.wait().ok()?;
    let out = fs::read(&partial).ok()?;
    if written.is_err() || !done.success() || out.len() != size || !out.starts_with(b"\x7fELF") {
        let _ = fs::remove_file(&partial);
        return None;
    }
    fs::rename(&partial, to).ok()
}

/// The unpacked kernel, or `vmlinuz` itself if it is of a kind not known here.
pub fn unpacked(vmlinuz: &Path, cache: &Path) -> PathBuf {
    let Ok(meta) = fs::metadata(vmlinuz) else {
        return vmlinuz.into();
    };
    let time = meta
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    let stamp = time.map_or(0, |d| d.as_nanos());
    let name = vmlinuz
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .replace("vmlinuz", "vmlinux");
    let to = cache.join(format!("{name}-{}-{stamp:x}", meta.len()));
    if to.is_file() || unpack(vmlinuz, &to).is_some() {
        return to;
    }
    vmlinuz.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header() {
        let mut image = vec![0u8; 4096];
        assert!(payload(&image).is_none());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x1f1] = 3;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&24u32.to_le_bytes());
        image[2048 + 16..2048 + 18].copy_from_slice(&[0x1f, 0x8b]);
        image[2048 + 16 + 20..2048 + 16 + 24].copy_from_slice(&77u32.to_le_bytes());
        let (data, size) = payload(&image).unwrap();
        assert_eq!((data.len(), size, tool(data)), (24, 77, Some("gzip")));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(payload(&image).is_none());
    }

    #[test]
    fn unknown_kinds_are_left_alone() {
        let me = Path::new("/proc/self/exe");
        assert_eq!(unpacked(me, &std::env::temp_dir().join("rpmem-image")), me);
        let none = Path::new("/nonexistent");
        assert_eq!(unpacked(none, none), none);
    }
}
