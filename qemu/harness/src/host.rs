// SPDX-License-Identifier: GPL-2.0
//! What the host does to the medium between two boots.

use crate::spec::HostAction;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Size of a pfn or dax info block; its checksum is the last 8 bytes.
const INFO_BLOCK: usize = 4096;

#[derive(Default)]
pub struct Snapshots(BTreeMap<String, (PathBuf, u64, Vec<u8>)>);

fn err<T>(r: std::io::Result<T>, path: &Path) -> Result<T, String> {
    r.map_err(|e| format!("{}: {e}", path.display()))
}

fn read(path: &Path, offset: u64, length: u64) -> Result<Vec<u8>, String> {
    let mut buf = vec![0; length as usize];
    err(
        err(File::open(path), path)?.read_exact_at(&mut buf, offset),
        path,
    )?;
    Ok(buf)
}

fn write(path: &Path, offset: u64, bytes: &[u8]) -> Result<(), String> {
    let f = err(OpenOptions::new().write(true).open(path), path)?;
    if offset + bytes.len() as u64 > err(f.metadata(), path)?.len() {
        return Err(format!("{}: a patch beyond the end", path.display()));
    }
    err(f.write_all_at(bytes, offset), path)
}

/// Fletcher-64 over little-endian words, as libnvdimm computes it with the checksum field zero.
pub fn fletcher64(block: &[u8]) -> u64 {
    let (mut lo, mut hi) = (0u32, 0u64);
    for w in block.chunks_exact(4) {
        lo = lo.wrapping_add(u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        hi = hi.wrapping_add(u64::from(lo));
    }
    (hi << 32) | u64::from(lo)
}

pub fn act(a: &HostAction, dir: &Path, snaps: &mut Snapshots) -> Result<(), String> {
    match a {
        HostAction::Patch {
            file,
            offset,
            bytes,
        } => write(&dir.join(file), *offset, bytes),
        HostAction::SealInfoBlock { file, offset } => {
            let path = dir.join(file);
            let mut block = read(&path, *offset, INFO_BLOCK as u64)?;
            block[INFO_BLOCK - 8..].fill(0);
            write(
                &path,
                *offset + INFO_BLOCK as u64 - 8,
                &fletcher64(&block).to_le_bytes(),
            )
        }
        HostAction::Snapshot {
            name,
            file,
            offset,
            length,
        } => {
            let path = dir.join(file);
            let bytes = read(&path, *offset, *length)?;
            snaps.0.insert(name.clone(), (path, *offset, bytes));
            Ok(())
        }
        HostAction::AssertUnchanged { name } => {
            let (path, offset, old) = snaps
                .0
                .get(name)
                .ok_or_else(|| format!("no snapshot named {name}"))?;
            let new = read(path, *offset, old.len() as u64)?;
            match old.iter().zip(&new).position(|(a, b)| a != b) {
                None => Ok(()),
                Some(at) => Err(format!(
                    "the medium was written to: byte {:#x} of {} was {:#04x}, is {:#04x}",
                    offset + at as u64,
                    path.file_name().unwrap_or_default().to_string_lossy(),
                    old[at],
                    new[at]
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum() {
        // lo = 1, 3; hi = 1, 4.
        assert_eq!(fletcher64(&[1, 0, 0, 0, 2, 0, 0, 0]), (4 << 32) | 3);
        assert_eq!(fletcher64(&[0; 64]), 0);
        // The low sum wraps at 32 bits.
        assert_eq!(fletcher64(&[0xff; 8]) & 0xffff_ffff, 0xffff_fffe);
    }

    #[test]
    fn patch_and_snapshot() {
        let dir = std::env::temp_dir().join(format!("rpmem-host-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("f"), vec![0u8; 8192]).unwrap();
        let file = "f".to_string();
        let mut s = Snapshots::default();
        let snap = HostAction::Snapshot {
            name: "s".into(),
            file: file.clone(),
            offset: 0,
            length: 8192,
        };
        let same = HostAction::AssertUnchanged { name: "s".into() };
        act(&snap, &dir, &mut s).unwrap();
        act(&same, &dir, &mut s).unwrap();
        let patch = |offset| HostAction::Patch {
            file: "f".into(),
            offset,
            bytes: vec![1, 2],
        };
        act(&patch(4096), &dir, &mut s).unwrap();
        let e = act(&same, &dir, &mut s).unwrap_err();
        assert!(e.contains("byte 0x1000 of f was 0x00, is 0x01"), "{e}");
        assert!(act(&patch(8191), &dir, &mut s).is_err());
        act(
            &HostAction::SealInfoBlock { file, offset: 4096 },
            &dir,
            &mut s,
        )
        .unwrap();
        let b = std::fs::read(dir.join("f")).unwrap();
        assert_ne!(b[8184..], [0; 8]);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
