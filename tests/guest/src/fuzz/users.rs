// SPDX-License-Identifier: GPL-2.0
//! Users of the fuzzer's machine who are not root: they run programs, and look at every file of the
//! driver from namespaces of their own, in which other things may stand in the place of files.

use crate::fuzz::calls::MUST_NOT;
use crate::fuzz::machine::{machine, value};
use crate::fuzz::program::{User, Val};
use crate::fuzz::run::{self, say};
use crate::support::sys::call;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const UID: u32 = 1000;
/// Longer than any read of a file of the driver's may take, also on a busy host.
const LIMIT: Duration = Duration::from_secs(300);

fn done(what: &str, r: i32) -> Result<(), String> {
    match r {
        -1 => Err(format!("{what}: {}", std::io::Error::last_os_error())),
        _ => Ok(()),
    }
}

/// Whether this process is root, and not of a namespace of its own only.
fn is_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    // SAFETY: no pointers.
    map.split_whitespace().nth(2) != Some("1") && unsafe { libc::getuid() } == 0
}

/// Who is not root has no way back.
fn drop_root() -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    // SAFETY: no pointers but to an empty list. What changed its user cannot be looked at by others of
    // the same user, until it says so.
    unsafe {
        done("setgroups", libc::setgroups(0, std::ptr::null()))?;
        done("setresgid", libc::setresgid(UID, UID, UID))?;
        done("setresuid", libc::setresuid(UID, UID, UID))?;
        done("prctl", libc::prctl(libc::PR_SET_DUMPABLE, 1))
    }
}

fn has(namespace: &str) -> bool {
    Path::new(&format!("/proc/self/ns/{namespace}")).exists()
}

/// A user namespace in which this process is root, and the others of `flags`.
fn leave(flags: i32) -> Result<(), String> {
    // SAFETY: no pointers; this process has one thread.
    let (uid, r) = unsafe { (libc::getuid(), libc::unshare(flags | libc::CLONE_NEWUSER)) };
    done("unshare", r)?;
    for (file, text) in [
        ("setgroups", "deny".to_string()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {uid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text).map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(())
}

/// The user of a group, before it opens its first descriptors or after.
pub fn become_user(user: User, opened: bool) -> Result<(), String> {
    match (user, opened) {
        (User::Heir, true) | (User::Other, false) => drop_root(),
        (User::Apart, false) => {
            drop_root()?;
            // Debug kernels have none.
            if has("user") {
                leave(libc::CLONE_NEWNS)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn c_string(s: &str) -> CString {
    CString::new(s).unwrap_or_default()
}

fn mount(from: &str, to: &str, kind: &CStr, flags: u64) -> i64 {
    let (from, to) = (c_string(from), c_string(to));
    call(
        libc::SYS_mount,
        [
            from.as_ptr() as u64,
            to.as_ptr() as u64,
            kind.as_ptr() as u64,
            flags,
            0,
            0,
        ],
    )
}

/// Puts a FIFO, a file with a large number, or a directory where the driver, or who uses it, expects
/// something else.
fn disguise(draw: u64) -> Result<(), String> {
    mount("none", "/", c"", libc::MS_REC | libc::MS_PRIVATE);
    if mount("tmpfs", "/mnt", c"tmpfs", 0) < 0 {
        return Err("no tmpfs".into());
    }
    call(
        libc::SYS_mknodat,
        [
            libc::AT_FDCWD as u64,
            c"/mnt/fifo".as_ptr() as u64,
            u64::from(libc::S_IFIFO | 0o666),
            0,
            0,
            0,
        ],
    );
    let made = fs::write("/mnt/file", "86400\n").and_then(|()| fs::create_dir("/mnt/dir"));
    made.map_err(|e| format!("/mnt: {e}"))?;
    let disk = &machine().disk[(draw >> 8) as usize % machine().disk.len()];
    // Mostly the file that the driver looks up by its name.
    let lease = "/proc/sys/fs/lease-break-time";
    let (what, at) = match draw % 8 {
        0..=2 => ("fifo", lease.to_string()),
        3 => ("file", lease.to_string()),
        4 => ("fifo", format!("/dev/r{disk}")),
        5 => ("file", format!("/dev/r{disk}")),
        6 => ("dir", "/sys".into()),
        _ => ("dir", format!("/sys/class/rpmem/r{disk}")),
    };
    mount(&format!("/mnt/{what}"), &at, c"", libc::MS_BIND);
    Ok(())
}

/// What became of the files of a driver.
#[derive(Default)]
struct Seen {
    root: bool,
    read: u32,
    written: u32,
}

impl Seen {
    fn file(&mut self, path: &Path) {
        // For who asks where this process is.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // SAFETY: a string that ends.
        unsafe { libc::prctl(libc::PR_SET_NAME, c_string(&name).as_ptr()) };
        let mut text = Vec::new();
        let limit = 1 << 20;
        let read = fs::File::open(path).and_then(|f| f.take(limit).read_to_end(&mut text));
        self.read += u32::from(read.is_ok());
        if !self.root && fs::OpenOptions::new().write(true).open(path).is_ok() {
            say(&format!("{} can be written to by anybody", path.display()));
            self.written += 1;
        }
    }

    fn dir(&mut self, dir: &Path, follow: bool, depth: u32) {
        for e in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = e.file_type() else { continue };
            let path = e.path();
            if kind.is_file() {
                self.file(&path);
            } else if depth > 0 && (kind.is_dir() || kind.is_symlink() && follow) {
                self.dir(&path, false, depth - 1);
            }
        }
    }
}

/// Every file of the driver. The working directory is /sys as it was.
fn look() -> i32 {
    let driver = &machine().driver;
    let mut seen = Seen {
        root: is_root(),
        ..Seen::default()
    };
    for (dir, follow) in [
        ("class/rpmem".to_string(), true),
        (format!("bus/nd/drivers/{driver}"), false),
        (format!("module/{driver}"), false),
        (format!("kernel/debug/{driver}"), false),
        (format!("kernel/tracing/events/{driver}"), false),
    ] {
        seen.dir(Path::new(&dir), follow, 5);
    }
    for e in fs::read_dir("block").into_iter().flatten().flatten() {
        if e.file_name().to_string_lossy().starts_with("pmem") {
            seen.dir(&e.path(), false, 5);
        }
    }
    match seen {
        Seen { written: 1.., .. } => 2,
        Seen { read: 0, .. } => 1,
        _ => 0,
    }
}

fn visitor(draw: u64) -> Result<i32, String> {
    let (user, apart) = (!is_root() || draw & 3 != 0, draw & 12 != 0);
    std::env::set_current_dir("/sys").map_err(|e| format!("/sys: {e}"))?;
    // Without user namespaces, root makes the others for him.
    let own = user && has("user");
    if own {
        drop_root()?;
    }
    if apart {
        let pid = if has("pid") { libc::CLONE_NEWPID } else { 0 };
        if own {
            leave(libc::CLONE_NEWNS | pid)?;
        } else {
            // SAFETY: no pointers; this process has one thread.
            done("unshare", unsafe { libc::unshare(libc::CLONE_NEWNS | pid) })?;
        }
        disguise(draw >> 4)?;
    }
    if user && !own {
        drop_root()?;
    }
    // The first process of a new namespace is the next one.
    let pid = run::process(|| {
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        look()
    })?;
    Ok(libc::WEXITSTATUS(run::end_of(pid)))
}

/// Somebody who looks at all files of the driver, and comes back.
pub fn visit(v: &[Val]) -> i64 {
    let draw = value(v[0], v[0]);
    let child = run::process(|| {
        visitor(draw).unwrap_or_else(|e| {
            say(&format!("visit: {e}"));
            3
        })
    });
    let Ok(pid) = child else {
        return -i64::from(libc::EAGAIN);
    };
    // CLOCK: long, and only to say who hangs.
    let end = Instant::now() + LIMIT;
    let mut status = 0;
    // SAFETY: a child of this process.
    while unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0 {
        // CLOCK: as above.
        if Instant::now() > end {
            say(&format!("visit({draw:#x}) does not come back:"));
            tell(pid);
            // SAFETY: the same child.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            run::end_of(pid);
            return MUST_NOT;
        }
        // CLOCK: how often it is looked at.
        std::thread::sleep(Duration::from_millis(2));
    }
    match libc::WEXITSTATUS(status) {
        0 => 0,
        // A module that is not loaded has no files.
        1 => -i64::from(libc::ENOENT),
        2 => MUST_NOT,
        _ => -i64::from(libc::EPERM),
    }
}

/// Where a visitor is, or his child.
fn tell(pid: i32) {
    for p in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let stat = fs::read_to_string(p.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, r)| r.split(' ').nth(1));
        if parent == Some(&pid.to_string()) || p.file_name().to_string_lossy() == pid.to_string() {
            say(stat.trim_end());
            let stack = fs::read_to_string(p.path().join("stack"));
            say(stack.unwrap_or_default().trim_end());
        }
    }
}
