// SPDX-License-Identifier: GPL-2.0
//! Has the plugin cover.c note what boots execute of the module.
//!
//! `$RPMEM_COVERAGE`, a folder for one state of the source, has for each build of the module (for a
//! kernel, or for nfit_test on it) `module.ko` and `boots/`, a file for each boot.

use crate::dwarf::Module;
use std::fs;
use std::path::{Path, PathBuf};

/// A build of the module, and what was seen of it.
#[derive(Clone, Debug)]
struct Build {
    dir: PathBuf,
    /// For the plugin.
    options: String,
    text: u64,
    init: u64,
    init_module: u64,
    cleanup_module: Option<u64>,
}

/// What boots need so that the plugin notes what they execute.
#[derive(Clone, Debug)]
pub struct Cover {
    plugin: PathBuf,
    plain: Build,
    nfit: Option<Build>,
}

fn ctx<T>(r: std::io::Result<T>, what: &Path) -> Result<T, String> {
    r.map_err(|e| format!("{}: {e}", what.display()))
}

impl Build {
    fn new(dir: PathBuf, ko: &Path) -> Result<Build, String> {
        let module = Module::read(ko)?;
        let own = dir.join("module.ko");
        let now = ctx(fs::read(ko), ko)?;
        if fs::read(&own).ok().as_ref() != Some(&now) {
            let _ = fs::remove_dir_all(&dir);
            ctx(fs::create_dir_all(dir.join("boots")), &dir)?;
            ctx(fs::write(&own, now), &own)?;
        }
        let mut options = format!("name=rpmem,text={},init={}", module.text, module.init);
        for (name, at) in &module.fields {
            options += &format!(",{name}={at}");
        }
        Ok(Build {
            dir,
            options,
            text: module.text,
            init: module.init,
            init_module: module.init_module,
            cleanup_module: module.cleanup_module,
        })
    }

    fn file(&self, label: &str) -> PathBuf {
        self.dir.join("boots").join(label.replace(' ', "-"))
    }

    /// The kernel has put the code where this program thinks it has.
    fn check_load(&self, line: &str) -> Result<(), String> {
        let words: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .filter_map(|w| u64::from_str_radix(w, 16).ok())
            .collect();
        let [text, text_size, init, init_size, init_module, exit] = words[..] else {
            return Err(format!("not understood: {line}"));
        };
        if text_size < self.text
            || init_size < self.init
            || init_module != init + self.init_module
            || exit != self.cleanup_module.map_or(0, |at| text + at)
        {
            return Err(format!("the module has another layout: {line}"));
        }
        Ok(())
    }
}

impl Cover {
    pub fn new(
        dir: &Path,
        plugin: &Path,
        flavour: &str,
        ko: &Path,
        nfit: &Path,
    ) -> Result<Cover, String> {
        let nfit = match nfit.is_file() {
            true => Some(Build::new(dir.join(format!("{flavour}-nfit")), nfit)?),
            false => None,
        };
        Ok(Cover {
            plugin: plugin.into(),
            plain: Build::new(dir.join(flavour), ko)?,
            nfit,
        })
    }

    fn build(&self, is_nfit: bool) -> Result<&Build, String> {
        match is_nfit {
            true => self.nfit.as_ref().ok_or("no module for nfit_test".into()),
            false => Ok(&self.plain),
        }
    }

    /// What QEMU gets for the boot `label`.
    pub fn args(&self, is_nfit: bool, label: &str) -> Result<[String; 2], String> {
        let b = self.build(is_nfit)?;
        let file = b.file(label);
        let _ = fs::remove_file(&file);
        let plugin = self.plugin.display();
        let arg = format!("{plugin},out={},{}", file.display(), b.options);
        Ok(["-plugin".into(), arg])
    }

    /// After that boot, in which a module was certainly loaded if `must_load`.
    pub fn check(&self, is_nfit: bool, label: &str, must_load: bool) -> Result<(), String> {
        let b = self.build(is_nfit)?;
        let file = b.file(label);
        let text = ctx(fs::read_to_string(&file), &file)?;
        let mut loads = 0;
        for line in text.lines() {
            if line.starts_with("bad ") {
                return Err(format!("coverage: {line}"));
            } else if line.starts_with("load ") {
                b.check_load(line).map_err(|e| format!("coverage: {e}"))?;
                loads += 1;
            }
        }
        if must_load && loads == 0 {
            return Err("coverage: the plugin has seen no load of the module".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_where_they_are_expected() {
        let b = Build {
            dir: PathBuf::new(),
            options: String::new(),
            text: 0x1500,
            init: 0x100,
            init_module: 0x10,
            cleanup_module: Some(0x1400),
        };
        let line = "load c0000000 2000 c0010000 1000 c0010010 c0001400";
        assert_eq!(b.check_load(line), Ok(()));
        assert!(b.check_load(&line.replace("c0001400", "c0001410")).is_err());
        assert!(b.check_load(&line.replace(" 2000", " 1000")).is_err());
        assert!(b.check_load("load 1 2").is_err());
    }
}
