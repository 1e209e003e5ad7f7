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

/// What is there before the boot is flushed.
pub fn before(fixture: &Fixture, dir: &Path) -> Result<(), String> {
    for name in &fixture.volatile {
        let file = dir.join(name);
        ctx(fs::copy(&file, flushed(&file)), &file)?;
    }
    Ok(())
}

/// Has QEMU keep what is flushed.
pub fn prepare(fixture: &Fixture, dir: &Path, library: &Path, qemu: &mut Command) {
    if fixture.volatile.is_empty() {
        return;
    }
    let list: Vec<String> = fixture
        .volatile
        .iter()
        .map(|name| dir.join(name).display().to_string())
        .collect();
    qemu.env("LD_PRELOAD", library);
    qemu.env("RPMEM_VOLATILE", list.join(":"));
}

/// What a boot that ended so has left.
pub fn after(fixture: &Fixture, dir: &Path, ended: &Ended) -> Result<(), String> {
    for name in &fixture.volatile {
        let file = dir.join(name);
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

    #[test]
    fn a_power_cut_takes_back_what_was_not_flushed() {
        let dir = std::env::temp_dir().join(format!("rpmem-volatile-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let fixture = Fixture {
            volatile: vec!["x.img".into()],
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
