// SPDX-License-Identifier: GPL-2.0

//! A directory that goes with the value.

use std::{
    env,
    fs,
    path::{
        Path,
        PathBuf, //
    },
    process,
    sync::atomic::{
        AtomicUsize,
        Ordering, //
    }, //
};

pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Result<Scratch, String> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("rpmem-checks-{name}-{}-{number}", process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Scratch(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
