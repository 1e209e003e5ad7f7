// SPDX-License-Identifier: GPL-2.0
//! The Debian packages on a Debian host, with / on persistent memory: scripts/hosts/system has installed
//! them there, and the initramfs is what initramfs-tools or dracut made of it. Whatever is wrong with rpmem, or
//! done to it, each namespace has a driver.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::host::of_root;
use crate::support::namespace::active;
use crate::support::sys::{Map, MAP_SHARED_VALIDATE, MAP_SYNC};
use crate::support::tools;
use crate::{check, check_eq};
use libc::{PROT_READ, PROT_WRITE};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    package_store => store,
    package_rpmem => rpmem,
    package_all => all,
    package_excluded => excluded,
    package_kernel => kernel,
    package_root => root,
    package_bind => bind,
    package_udev => udev,
    package_ndctl => ndctl,
    package_plugged => plugged,
    package_unread => unread,
};

const TOOL: &str = "rpmem-bind";
/// What the host runs as a service, see scripts/stages/system.
const PROGRAM: &str = "usr/lib/rpmem-guest";
/// Of a namespace that the host `uuid` leaves to nd_pmem, see qemu/system/hosts.
const EXCLUDED: &str = "11111111-1111-4111-8111-111111111111";
/// What looks like a file system in devdax mode has this name.
const DECOY: &str = "decoy";

/// The host's file system, onto a namespace. Beside it one of each mode.
fn store(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    let ns = c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "640M"])?;
    let dev = format!("/dev/{}", c.disk_of(&active(c, &ns)?)?);
    c.modprobe("virtio_blk")?;
    c.wait_exists("/dev/vda")?;
    c.ok(&[
        "dd",
        "if=/dev/vda",
        &format!("of={dev}"),
        "bs=4M",
        "oflag=direct",
    ])?;
    // The disk has none, or / could be on that.
    c.ok(&["tune2fs", "-L", "rpmem", &dev])?;
    c.mount(&dev, "/mnt/pmem", "dax=always")?;
    let program = format!("/mnt/pmem/{PROGRAM}");
    fs::copy("/proc/self/exe", &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    c.umount("/mnt/pmem")?;
    c.ok(&["fsck.ext4", "-n", "-f", &dev])?;
    c.create_namespace(&["-m", "fsdax", "-s", "64M", "-u", EXCLUDED])?;
    for mode in ["devdax", "sector", "raw"] {
        c.create_namespace(&["-m", mode, "-s", "64M"])?;
    }
    for ns in of_mode(c, "dax")? {
        let dev = format!("/dev/{}", c.disk_of(&active(c, &ns)?)?);
        c.mkfs_ext4(&dev, None)?;
        c.ok(&["tune2fs", "-L", DECOY, &dev])?;
    }
    Ok(())
}

/// The namespaces that are in a mode, as sysfs calls it.
fn of_mode(c: &Ctx, mode: &str) -> TestResult<Vec<String>> {
    let mut found = Vec::new();
    for ns in c.namespaces() {
        if c.read(c.nd(&ns).join("mode"))? == mode {
            found.push(ns);
        }
    }
    check!(!found.is_empty(), "no namespace is in mode {mode}");
    Ok(found)
}

/// Each namespace has the driver that `want` names for it and its mode, and what that driver offers; and the
/// machine is well.
fn served(c: &Ctx, want: impl Fn(&str, &str) -> &'static str) -> TestResult {
    let state = c.run(&["systemctl", "is-system-running", "--wait"])?;
    c.ok(&["udevadm", "settle"])?;
    let log = c.ok(&["journalctl", "-b", "-q", "-o", "cat", "-p", "warning"])?;
    println!("{log}");
    // Of udev, about the rules and their program.
    check!(
        !log.contains("59-rpmem") && !log.contains("rpmem-alone"),
        "{log}"
    );
    if state.out.trim() != "running" {
        let failed = c.ok(&["systemctl", "--failed", "--no-legend"])?;
        crate::fail!("the system is {state}: {failed}");
    }
    check_eq!(c.namespaces().len(), 5);
    let (of_root, _) = of_root(c)?;
    for ns in c.namespaces() {
        let dev = active(c, &ns)?;
        let mode = c.read(c.nd(&ns).join("mode"))?;
        let driver = c.bound_to(&dev).unwrap_or_default();
        check_eq!(driver, want(&ns, &mode), "{ns} in mode {mode}");
        println!("result: {ns} {mode} {driver}");
        if driver == "dax_pmem" {
            let devices = tools::names(c.nd(&dev));
            let own = devices
                .iter()
                .find(|d| d.starts_with("dax") && d.contains('.'));
            let own = own.ok_or("no device of device-dax")?;
            check!(fs::metadata(format!("/dev/{own}"))?
                .file_type()
                .is_char_device());
            continue;
        }
        c.disk_of(&dev)?;
        let nodes = tools::names(c.nd(&dev).join("rpmem"));
        // Sectors of a BTT have no place of their own on the medium that could be mapped.
        let mapped = driver == "rpmem" && mode != "safe";
        check_eq!(nodes.len(), usize::from(mapped), "{ns}: {nodes:?}");
        for node in nodes {
            check!(fs::metadata(format!("/dev/{node}"))?
                .file_type()
                .is_char_device());
        }
    }
    let options = c.ok(&["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "/"])?;
    check!(
        options.starts_with("ext4") && options.contains("dax=always"),
        "{of_root} has {options}"
    );
    Ok(())
}

/// As installed.
fn rpmem(c: &mut Ctx) -> TestResult {
    served(c, |_, mode| match mode {
        "dax" => "dax_pmem",
        _ => "rpmem",
    })
}

/// rpmem has devdax mode as well.
fn all(c: &mut Ctx) -> TestResult {
    served(c, |_, _| "rpmem")
}

/// rpmem has all but one.
fn excluded(c: &mut Ctx) -> TestResult {
    let mut found = None;
    for ns in c.namespaces() {
        let uuids = [c.nd(&ns), c.nd(&active(c, &ns)?)].map(|dev| c.read(dev.join("uuid")));
        if uuids.iter().any(|u| matches!(u, Ok(u) if u == EXCLUDED)) {
            found = Some(ns);
        }
    }
    check!(found.is_some(), "no namespace has that UUID");
    served(c, |ns, _| match found.as_deref() == Some(ns) {
        true => "nd_pmem",
        false => "rpmem",
    })
}

/// The kernel's own drivers have all.
fn kernel(c: &mut Ctx) -> TestResult {
    served(c, |_, mode| match mode {
        "dax" => "dax_pmem",
        _ => "nd_pmem",
    })
}

/// On / as rpmem has it.
fn root(c: &mut Ctx) -> TestResult {
    let (ns, disk) = of_root(c)?;
    check!(!c.module_loaded("nd_pmem"), "nd_pmem was loaded");
    let f = tools::file_of("/root/file", 4096)?;
    check!(tools::is_dax(&f)?, "no DAX on /");
    let m = Map::new(
        &f,
        0,
        4096,
        PROT_READ | PROT_WRITE,
        MAP_SHARED_VALIDATE | MAP_SYNC,
    )?;
    m.write8(0, 1);
    m.persist(0, 1);
    let out = c.fails(&[TOOL, &ns, "nd_pmem"])?;
    check!(
        out.contains(&format!("/dev/{disk} is mounted at /")),
        "{out}"
    );
    Ok(())
}

/// All namespaces to the kernel's own drivers and back, but for the one that is /.
fn bind(c: &mut Ctx) -> TestResult {
    let (ns, disk) = of_root(c)?;
    let drivers = |c: &Ctx| -> TestResult<Vec<(String, String)>> {
        c.namespaces()
            .into_iter()
            .map(|ns| {
                let driver = c.bound_to(&active(c, &ns)?).unwrap_or_default();
                Ok((ns, driver))
            })
            .collect()
    };
    let before = drivers(c)?;
    let r = c.run(&[TOOL, "--all", "nd_pmem"])?;
    check_eq!(r.status, 1, "{r}");
    check!(
        r.err.contains(&format!("/dev/{disk} is mounted at /")),
        "{r}"
    );
    for (other, driver) in drivers(c)? {
        let want = match c.read(c.nd(&other).join("mode"))?.as_str() {
            _ if other == ns => "rpmem",
            "dax" => "dax_pmem",
            _ => "nd_pmem",
        };
        check_eq!(driver, want, "{other}: {r}");
    }
    c.ok(&[TOOL, "--undo"])?;
    check_eq!(drivers(c)?, before, "after --undo");
    Ok(())
}

/// ndctl, which loads what the alias of a namespace names and asks that first, changes nothing of it.
fn ndctl(c: &mut Ctx) -> TestResult {
    let (root, _) = of_root(c)?;
    for ns in c.namespaces() {
        if ns != root {
            c.ok(&["ndctl", "disable-namespace", &ns])?;
            c.ok(&["ndctl", "enable-namespace", &ns])?;
            c.ok(&["ndctl", "destroy-namespace", "-f", &ns])?;
        }
        c.ok(&["udevadm", "settle"])?;
    }
    for mode in ["fsdax", "devdax", "sector", "raw"] {
        c.create_namespace(&["-m", mode, "-s", "32M"])?;
        c.ok(&["udevadm", "settle"])?;
    }
    for ns in c.namespaces() {
        let want = match c.read(c.nd(&ns).join("mode"))?.as_str() {
            "dax" => "dax_pmem",
            _ => "rpmem",
        };
        check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some(want), "{ns}");
    }
    check!(!c.module_loaded("nd_pmem"), "nd_pmem was loaded");
    Ok(())
}

/// An NVDIMM that comes later is served by whom / is served by.
fn plugged(c: &mut Ctx) -> TestResult {
    let (root, _) = of_root(c)?;
    let want = c.bound_to(&active(c, &root)?);
    c.ask_monitor("plug")?;
    c.wait_for("a second region", || c.regions().len() == 2)?;
    let ns = "namespace1.0";
    c.wait_for("a driver", || c.bound_to(ns).is_some())?;
    check_eq!(c.bound_to(ns), want);
    c.disk_of(ns)?;
    Ok(())
}

/// What a device has in udev's database.
fn properties(c: &Ctx, device: &str) -> TestResult<String> {
    c.ok(&["udevadm", "info", "-q", "property", device])
}

/// Nodes that the group of disks may use, that units can need, and that have names which stay.
fn udev(c: &mut Ctx) -> TestResult {
    c.run(&["systemctl", "is-system-running", "--wait"])?;
    let group = fs::read_to_string("/etc/group")?;
    let disk = group.lines().find(|l| l.starts_with("disk:"));
    let disk = disk.and_then(|l| l.split(':').nth(2)?.parse().ok());
    let disk: u32 = disk.ok_or("no group disk")?;
    let mut looked_at = 0;
    for ns in c.namespaces() {
        let dev = active(c, &ns)?;
        for node in tools::names(c.nd(&dev).join("rpmem")) {
            looked_at += 1;
            let path = format!("/dev/{node}");
            let meta = fs::metadata(&path)?;
            check_eq!((meta.mode() & 0o777, meta.gid()), (0o660, disk), "{path}");
            let region = fs::canonicalize(c.nd(&ns))?;
            let region = region
                .parent()
                .and_then(Path::file_name)
                .unwrap_or_default();
            let by_path = format!("by-path/{}-{ns}", region.to_string_lossy());
            for link in [
                by_path,
                format!("by-uuid/{}", c.read(c.nd(&dev).join("uuid"))?),
            ] {
                let link = format!("/dev/rpmem/{link}");
                check_eq!(fs::canonicalize(&link)?, Path::new(&path), "{link}");
            }
            let unit = format!("dev-{node}.device");
            check_eq!(
                c.ok(&["systemctl", "is-active", &unit])?.trim(),
                "active",
                "{unit}"
            );
        }
    }
    check!(looked_at > 0, "no node");
    Ok(())
}

/// Nothing looks into the disk of a namespace in devdax mode, where something is that looks like a file system.
fn unread(c: &mut Ctx) -> TestResult {
    c.run(&["systemctl", "is-system-running", "--wait"])?;
    let mut looked_at = 0;
    for ns in c.namespaces() {
        let Ok(disk) = c.disk_of(&active(c, &ns)?) else {
            continue;
        };
        let dev = format!("/dev/{disk}");
        let known = properties(c, &dev)?;
        println!("{known}");
        let has = |what: &str| known.lines().any(|l| l == what);
        let unit = format!("dev-{disk}.device");
        let unit = c.run(&["systemctl", "is-active", &unit])?;
        if c.read(c.nd(&ns).join("mode"))? != "dax" {
            check!(!has("SYSTEMD_READY=0"), "{dev}: {known}");
            check_eq!(unit.status, 0, "{dev}: {unit}");
            continue;
        }
        looked_at += 1;
        let probed = c.ok(&["blkid", "-p", "-o", "export", &dev])?;
        check!(probed.contains(DECOY), "{probed}");
        check!(!known.contains("ID_FS_"), "{known}");
        check!(has("UDISKS_IGNORE=1") && has("SYSTEMD_READY=0"), "{known}");
        check!(has("DM_UDEV_DISABLE_OTHER_RULES_FLAG=1"), "{known}");
        check!(unit.status != 0, "{dev}: {unit}");
    }
    check_eq!(looked_at, 1);
    check!(!Path::new("/dev/disk/by-label").join(DECOY).exists());
    Ok(())
}
