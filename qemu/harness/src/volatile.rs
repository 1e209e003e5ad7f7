// SPDX-License-Identifier: GPL-2.0
//! Files that a power cut takes back to what they held at their last flush, as virtio-pmem's are on
//! a host: see last-flush.c, which keeps that beside them.

use crate::spec::Fixture;
use crate::verdict::Ended;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn flushed(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".flushed");
    name.into()
}

fn ctx<T>(r: std::io::Result<T>, file: &Path) -> Result<T, String> {
    r.map_err(|e| format!("{}: {e}", file.display()))
}

/// Those of the fixture's files that a power cut takes back.
fn files<'a>(fixture: &'a Fixture, dir: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let volatile = fixture.files.iter().filter(|file| file.volatile);
    volatile.map(|file| dir.join(&file.name))
}

/// What is there before the boot is flushed.
pub fn before(fixture: &Fixture, dir: &Path) -> Result<(), String> {
    for file in files(fixture, dir) {
        ctx(fs::copy(&file, flushed(&file)), &file)?;
    }
    Ok(())
}

/// Has QEMU keep what is flushed.
pub fn prepare(fixture: &Fixture, dir: &Path, library: &Path, qemu: &mut Command) {
    let list: Vec<String> = files(fixture, dir)
        .map(|file| file.display().to_string())
        .collect();
    if list.is_empty() {
        return;
    }
    qemu.env("LD_PRELOAD", library);
    qemu.env("RPMEM_VOLATILE", list.join(":"));
}

/// What a boot that ended so has left.
pub fn after(fixture: &Fixture, dir: &Path, ended: &Ended) -> Result<(), String> {
    for file in files(fixture, dir) {
        if *ended == Ended::PowerCut {
            ctx(fs::rename(flushed(&file), &file), &file)?;
        } else {
            ctx(fs::remove_file(flushed(&file)), &file)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Image;

    #[test]
    fn a_power_cut_takes_back_what_was_not_flushed() {
        let dir = std::env::temp_dir().join(format!("rpmem-volatile-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let fixture = Fixture {
            files: vec![Image {
                name: "x.img".into(),
                volatile: true,
                ..Image::default()
            }],
            ..Fixture::default()
        };
        let file = dir.join("x.img");
        for (ended, want) in [(Ended::PowerCut, "old"), (Ended::Exited(33), "new")] {
            fs::write(&file, "old").unwrap();
            before(&fixture, &dir).unwrap();
            fs::write(&file, "new").unwrap();
            after(&fixture, &dir, &ended).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), want);
            assert!(!flushed(&file).exists());
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
