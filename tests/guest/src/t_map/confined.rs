// SPDX-License-Identifier: GPL-2.0
//! Mappings in a cgroup that has less memory than entries of 4 KiB would take.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::Node;
use crate::support::peer::Peer;
use crate::support::sys::{Map, RW, SYNC};
use crate::support::tools::HUGE;
use crate::{check, check_eq};
use libc::MAP_SHARED;
use std::fs;

pub const TESTS: &[Test] = crate::tests! {
    map_confined => confined,
};

const AT: &str = "/tmp/cgroup";
/// As much as page tables take for the range, if each store needs one of its own.
const MEMORY: u64 = 3 << 20;
const RANGE: usize = 3 << 29;

/// A cgroup, and the hierarchy that it is in.
struct Group {
    dir: String,
}

impl Group {
    fn new(c: &Ctx, memory: u64) -> TestResult<Group> {
        fs::create_dir_all(AT)?;
        c.ok(&["mount", "-t", "cgroup2", "none", AT])?;
        let group = Group {
            dir: format!("{AT}/confined"),
        };
        c.write(format!("{AT}/cgroup.subtree_control"), "+memory")?;
        fs::create_dir(&group.dir)?;
        c.write(group.file("memory.max"), &memory.to_string())?;
        Ok(group)
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir);
        let at = std::ffi::CString::new(AT).expect("no zero in it");
        // SAFETY: a text that ends.
        unsafe { libc::umount(at.as_ptr()) };
    }
}

/// A store to each 2 MiB of a mapping of each kind, by a process that has no room for a page table for each.
fn confined(c: &mut Ctx) -> TestResult {
    let h = Node::new(c)?;
    for (kind, flags) in [("synchronous", SYNC), ("plain", MAP_SHARED)] {
        let group = Group::new(c, MEMORY)?;
        let f = h.open()?;
        let procs = group.file("cgroup.procs");
        let p = Peer::start(|_| {
            if fs::write(&procs, "0").is_err() {
                return 1;
            }
            let Ok(m) = Map::new(&f, 0, RANGE, RW, flags) else {
                return 2;
            };
            (0..RANGE).step_by(HUGE).for_each(|at| m.write8(at, 1));
            let all = (0..RANGE).step_by(HUGE).all(|at| m.read8(at) == 1);
            i32::from(!all || m.msync().is_err()) * 3
        })?;
        check_eq!(p.wait()?, 0, "{kind} mapping: 137 is SIGKILL");
        let peak = c.read_u64(group.file("memory.peak"))?;
        println!("{kind} mapping: {peak} bytes at most");
        check!(peak > 0, "{kind} mapping: nothing was charged");
    }
    Ok(())
}
