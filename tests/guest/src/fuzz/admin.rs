// SPDX-License-Identifier: GPL-2.0
//! What an administrator does meanwhile.

use crate::fuzz::machine::{Machine, SPACES};
use crate::support::sys::call;
use libc::SYS_flock;
use std::ffi::CString;

// The administrator.

pub struct AdminKind {
    pub name: &'static str,
    pub often: u64,
    pub run: fn(&Machine, u64) -> i64,
}

const fn admin(name: &'static str, often: u64, run: fn(&Machine, u64) -> i64) -> AdminKind {
    AdminKind { name, often, run }
}

pub const ADMIN: &[AdminKind] = &[
    admin("unbind", 4, |m, n| unbind(m, place(n))),
    admin("bind", 4, |m, n| bind(m, place(n))),
    admin("unbind_and_bind", 4, |m, n| {
        let r = unbind(m, place(n));
        bind(m, place(n)).min(r)
    }),
    admin("mount", 5, |m, n| mount(m, 2 + n as usize % 2)),
    admin("umount", 3, |m, n| umount(m, 2 + n as usize % 2, 0)),
    admin("umount_lazily", 1, |m, n| {
        umount(m, 2 + n as usize % 2, libc::MNT_DETACH)
    }),
    admin("attribute_read", 3, attribute_read),
    admin("attribute_write", 4, attribute_write),
    admin("lease_break_time", 1, |m, n| {
        let values = ["0", "1", "0", "x"];
        let value = values[(n >> 8) as usize % values.len()];
        let disk = &m.disk[place(n)];
        put(
            &format!("/sys/class/rpmem/r{disk}/lease_break_time"),
            value.as_bytes(),
        )
    }),
    admin("open_to_all", 2, |m, n| open_to_all(m, place(n))),
    admin("read_only", 2, |m, n| {
        let region = &m.regions[n as usize % m.regions.len()];
        let file = format!("/sys/bus/nd/devices/{region}/read_only");
        put(&file, b"1").min(put(&file, b"0"))
    }),
    admin("region", 1, |m, n| {
        set_up_region(&m.regions[n as usize % m.regions.len()])
    }),
    admin("reload", 2, |m, _| reload(m)),
    admin("sync", 1, |_, _| call(libc::SYS_sync, [0; 6])),
    admin("drop_caches", 2, |_, _| {
        put("/proc/sys/vm/drop_caches", b"3")
    }),
];

/// Disable and enable a region, one administrator at a time and with its devices settled in
/// between. nd_region_remove() (drivers/nvdimm/region.c) does not see devices that
/// nd_device_register() (drivers/nvdimm/bus.c) has yet to add: they would stay, beside those of the
/// next time with the same labels, whatever the driver.
pub fn set_up_region(region: &str) -> i64 {
    use std::os::fd::AsRawFd;
    let dir = match std::fs::File::open(format!("/sys/bus/nd/devices/{region}")) {
        Ok(f) => f,
        Err(e) => return errno(e),
    };
    let lock = [dir.as_raw_fd() as u64, libc::LOCK_EX as u64, 0, 0, 0, 0];
    let r = call(SYS_flock, lock);
    if r < 0 {
        return r;
    }
    crate::support::ctx::settle();
    let dir = "/sys/bus/nd/drivers/nd_region";
    let r = put(&format!("{dir}/unbind"), region.as_bytes());
    let r = r.min(put(&format!("{dir}/bind"), region.as_bytes()));
    crate::support::ctx::settle();
    r
}

/// Everybody may open the node of a namespace, until it is bound anew.
pub fn open_to_all(m: &Machine, n: usize) -> i64 {
    use std::os::unix::fs::PermissionsExt;
    let all = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(format!("/dev/r{}", m.disk[n]), all).map_or_else(errno, |()| 0)
}

fn place(n: u64) -> usize {
    n as usize % SPACES.len()
}

fn errno(e: std::io::Error) -> i64 {
    -i64::from(e.raw_os_error().unwrap_or(1))
}

fn put(file: &str, text: &[u8]) -> i64 {
    use std::io::Write;
    let f = std::fs::OpenOptions::new().write(true).open(file);
    match f.and_then(|mut f| f.write(text)) {
        Ok(n) => n as i64,
        Err(e) => errno(e),
    }
}

/// The device that carries the disk of a namespace: it gets another name whenever the region is
/// set up anew.
pub fn carrier(n: usize) -> Option<String> {
    let dir = std::path::Path::new("/sys/bus/nd/devices");
    let word = |dev: &str, file: &str| -> Option<String> {
        let text = std::fs::read_to_string(dir.join(dev).join(file)).ok()?;
        Some(text.trim().to_string())
    };
    let name = format!("fuzz-{}", SPACES[n].name);
    std::fs::read_dir(dir).ok()?.flatten().find_map(|e| {
        let dev = e.file_name().to_string_lossy().into_owned();
        if word(&dev, "alt_name")? != name {
            return None;
        }
        let holder = word(&dev, "holder")?;
        Some(if holder.is_empty() { dev } else { holder })
    })
}

/// Write the name of the device of a namespace to a file of the driver.
fn tell_driver(m: &Machine, n: usize, file: &str) -> i64 {
    let Some(nd) = carrier(n) else {
        return -i64::from(libc::ENODEV);
    };
    put(
        &format!("/sys/bus/nd/drivers/{}/{file}", m.driver),
        nd.as_bytes(),
    )
}

pub fn unbind(m: &Machine, n: usize) -> i64 {
    tell_driver(m, n, "unbind")
}

pub fn bind(m: &Machine, n: usize) -> i64 {
    tell_driver(m, n, "bind")
}

/// Mount a disk, unless a file system of a disk of this name lives: if that disk has been unbound
/// and is back, the new file system would register in /proc and sysfs by the name that the old one
/// has still, of which proc_register() (fs/proc/generic.c, from jbd2_journal_init_inode()) and
/// sysfs_warn_dup() (fs/sysfs/dir.c) warn. That is so with any disk that is pulled out under ext4
/// or xfs, whatever its driver.
pub fn mount(m: &Machine, n: usize) -> i64 {
    let disk = &m.disk[n];
    let names = [
        format!("/proc/fs/jbd2/{disk}-8"),
        format!("/sys/fs/ext4/{disk}"),
        format!("/sys/fs/xfs/{disk}"),
    ];
    if names.iter().any(|n| std::path::Path::new(n).exists()) {
        return -i64::from(libc::EBUSY);
    }
    let c = |s: String| CString::new(s).unwrap_or_default();
    let fs = c(SPACES[n].fs.unwrap_or_default().to_string());
    let (dev, at) = (c(format!("/dev/{}", m.disk[n])), c(m.mount[n].clone()));
    let a = [
        dev.as_ptr() as u64,
        at.as_ptr() as u64,
        fs.as_ptr() as u64,
        0,
    ];
    call(
        libc::SYS_mount,
        [a[0], a[1], a[2], a[3], c"dax".as_ptr() as u64, 0],
    )
}

pub fn umount(m: &Machine, n: usize, flags: i32) -> i64 {
    let at = CString::new(m.mount[n].as_str()).unwrap_or_default();
    call(
        libc::SYS_umount2,
        [at.as_ptr() as u64, flags as u64, 0, 0, 0, 0],
    )
}

fn attribute_read(m: &Machine, n: u64) -> i64 {
    const OF_DISK: &[&str] = &[
        "badblocks",
        "dax/write_cache",
        "size",
        "ro",
        "stat",
        "inflight",
        "range",
        "queue/dax",
        "queue/write_cache",
        "queue/fua",
        "queue/logical_block_size",
        "queue/stable_writes",
        "integrity/format",
        "uevent",
    ];
    const OF_ND: &[&str] = &[
        "size",
        "resource",
        "uuid",
        "mode",
        "modalias",
        "holder",
        "numa_node",
    ];
    let (space, pick) = (place(n), (n >> 8) as usize);
    let file = match pick % (OF_DISK.len() + OF_ND.len()) {
        i if i < OF_DISK.len() => format!("/sys/block/{}/{}", m.disk[space], OF_DISK[i]),
        i => format!(
            "/sys/bus/nd/devices/{}/{}",
            carrier(space).unwrap_or_default(),
            OF_ND[i - OF_DISK.len()]
        ),
    };
    std::fs::read(file).map_or_else(errno, |b| b.len() as i64)
}

/// Attributes of the disk, valid values and others. Those of the namespace would make another one
/// of it.
fn attribute_write(m: &Machine, n: u64) -> i64 {
    const FILES: &[(&str, &[&str])] = &[
        (
            "dax/write_cache",
            &["0", "1", "1\n", "2", "x", "", "on", "-1"],
        ),
        ("queue/read_ahead_kb", &["0", "128", "4294967295", "x"]),
        ("queue/iostats", &["0", "1", "2"]),
        ("queue/nomerges", &["0", "2"]),
        ("queue/write_cache", &["write through", "write back", "x"]),
        ("queue/max_sectors_kb", &["4", "1280", "0", "99999999"]),
        ("queue/rotational", &["0", "1"]),
        ("uevent", &["change", "add", "x"]),
        ("badblocks", &["0 8", "x"]),
    ];
    let (space, pick) = (place(n), (n >> 8) as usize);
    let (file, values) = FILES[pick % FILES.len()];
    let value = values[(n >> 16) as usize % values.len()];
    put(
        &format!("/sys/block/{}/{file}", m.disk[space]),
        value.as_bytes(),
    )
}

/// rmmod, which is refused while anybody has a disk open, and insmod.
fn reload(m: &Machine) -> i64 {
    let name = CString::new(m.driver.as_str()).unwrap_or_default();
    let flags = libc::O_NONBLOCK as u64;
    let r = call(
        libc::SYS_delete_module,
        [name.as_ptr() as u64, flags, 0, 0, 0, 0],
    );
    if r < 0 {
        return r;
    }
    load(m)
}

pub fn load(m: &Machine) -> i64 {
    use std::os::fd::AsRawFd;
    if m.driver != "rpmem" {
        let r = std::process::Command::new("modprobe")
            .arg(&m.driver)
            .status();
        return r.map_or_else(errno, |s| -i64::from(s.code().unwrap_or(1)));
    }
    let params = CString::new(m.params.as_str()).unwrap_or_default();
    match std::fs::File::open(crate::support::ctx::init_ko()) {
        Ok(f) => {
            let f = f.as_raw_fd() as u64;
            call(
                libc::SYS_finit_module,
                [f, params.as_ptr() as u64, 0, 0, 0, 0],
            )
        }
        Err(e) => errno(e),
    }
}
