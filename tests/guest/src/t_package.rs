// SPDX-License-Identifier: GPL-2.0
//! The Debian package on a Debian host, with / on persistent memory: scripts/system has installed
//! it there, and the initramfs is what that made of it.

use crate::ctx::{Ctx, Test, TestResult};
use crate::sys::{Map, MAP_SHARED_VALIDATE, MAP_SYNC};
use crate::t_namespace::active;
use crate::tools;
use crate::{check, check_eq};
use libc::{PROT_READ, PROT_WRITE};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

pub const TESTS: &[Test] = &[
    Test {
        name: "package_store",
        run: store,
    },
    Test {
        name: "package_root",
        run: root,
    },
    Test {
        name: "package_bind",
        run: bind,
    },
    Test {
        name: "package_udev",
        run: udev,
    },
    Test {
        name: "package_taken_over",
        run: taken_over,
    },
];

const TOOL: &str = "rpmem-bind";
/// What starts the tests on the host, as init= in tests/scenarios/package.json names it.
const INIT: &str = "usr/lib/rpmem-guest";

/// The host's file system, onto a namespace. Beside it one of each other mode.
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
    c.mount(&dev, "/mnt/pmem", "dax=always")?;
    let init = format!("/mnt/pmem/{INIT}");
    fs::copy("/proc/self/exe", &init)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    c.umount("/mnt/pmem")?;
    c.ok(&["fsck.ext4", "-n", "-f", &dev])?;
    for mode in ["devdax", "sector"] {
        c.create_namespace(&["-m", mode, "-s", "64M"])?;
    }
    Ok(())
}

/// The namespace that / is on, and its disk.
fn of_root(c: &Ctx) -> TestResult<(String, String)> {
    let dev = c.ok(&["findmnt", "-n", "-o", "SOURCE", "/"])?;
    let disk = dev.trim().trim_start_matches("/dev/").to_string();
    for ns in c.namespaces() {
        if c.disk_of(&active(c, &ns)?).is_ok_and(|d| d == disk) {
            return Ok((ns, disk));
        }
    }
    crate::fail!("/ is on {dev}, which is no namespace")
}

fn root(c: &mut Ctx) -> TestResult {
    let (ns, disk) = of_root(c)?;
    check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some("rpmem"));
    check!(!c.module_loaded("nd_pmem"), "nd_pmem was loaded");
    check!(!c.module_loaded("dax_pmem"), "dax_pmem was loaded");
    let options = c.ok(&["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "/"])?;
    check!(
        options.starts_with("ext4") && options.contains("dax=always"),
        "{options}"
    );
    c.ok(&["dpkg", "-V", "rpmem"])?;

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
    let status = c.ok(&[TOOL])?;
    let line = format!("{ns} fsdax driver=rpmem /dev/{disk}: /dev/{disk} is mounted at /\n");
    check!(status.contains(&line), "{line}{status}");
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
    check_eq!(before.len(), 3);
    check!(before.iter().all(|d| d.1 == "rpmem"), "{before:?}");

    let why = format!("/dev/{disk} is mounted at /");
    let out = c.fails(&[TOOL, &ns, "nd_pmem"])?;
    check!(out.contains(&why), "{out}");
    let r = c.run(&[TOOL, "-n", "--all", "nd_pmem"])?;
    check_eq!(r.status, 1, "{r}");
    check_eq!(r.out.matches("would write").count(), 4, "{r}");
    check!(r.err.contains(&why), "{r}");
    check_eq!(drivers(c)?, before, "after -n");
    let out = c.fails(&[TOOL, "--undo"])?;
    check!(out.contains("there is nothing to undo"), "{out}");

    let r = c.run(&[TOOL, "--all", "nd_pmem"])?;
    check_eq!(r.status, 1, "{r}");
    check!(r.err.contains(&why), "{r}");
    for (other, driver) in drivers(c)? {
        let want = match c.read(c.nd(&other).join("mode"))?.as_str() {
            _ if other == ns => "rpmem",
            "dax" => "dax_pmem",
            _ => "nd_pmem",
        };
        check_eq!(driver, want, "{other}: {r}");
    }
    // What was moved away and back is not moved again.
    let sector = before
        .iter()
        .find(|d| c.read(c.nd(&d.0).join("mode")).is_ok_and(|m| m == "safe"));
    let Some((sector, _)) = sector else {
        crate::fail!("no sector namespace")
    };
    c.ok(&[TOOL, sector, "rpmem"])?;
    let out = c.ok(&[TOOL, "--undo"])?;
    check_eq!(out.lines().count(), 1, "{out}");
    check!(out.contains("dax_pmem -> rpmem"), "{out}");
    check_eq!(drivers(c)?, before, "after --undo");
    unload(c)
}

/// The kernel's own drivers.
fn unload(c: &Ctx) -> TestResult {
    c.rmmod("nd_pmem")?;
    c.rmmod("dax_pmem")
}

/// The links by UUID; and with a kernel that rpmem is not built for, the kernel's own drivers.
fn udev(c: &mut Ctx) -> TestResult {
    let mut daemon = Command::new("/usr/lib/systemd/systemd-udevd").spawn()?;
    c.wait_exists("/run/udev/control")?;
    let trigger = |subsystem: &str| -> TestResult {
        let only = format!("--subsystem-match={subsystem}");
        c.ok(&["udevadm", "trigger", "--action=add", &only])?;
        c.ok(&["udevadm", "settle"])?;
        Ok(())
    };
    trigger("rpmem")?;
    for ns in c.namespaces() {
        let dev = active(c, &ns)?;
        let node = tools::names(c.nd(&dev).join("rpmem"));
        let Some(node) = node.first() else {
            continue;
        };
        let uuid = c.read(c.nd(&dev).join("uuid"))?;
        let link = fs::canonicalize(format!("/dev/rpmem/by-uuid/{uuid}"))?;
        check_eq!(link, std::path::Path::new("/dev").join(node), "{ns}");
    }
    trigger("nd")?;
    check!(!c.module_loaded("nd_pmem"), "nd_pmem beside rpmem");

    let release = c.read("/proc/sys/kernel/osrelease")?;
    let ko = format!("/usr/lib/modules/{release}/updates/rpmem.ko");
    fs::rename(&ko, "/root/rpmem.ko")?;
    c.ok(&["depmod", &release])?;
    trigger("nd")?;
    for name in ["nd_pmem", "dax_pmem"] {
        check!(c.module_loaded(name), "no {name} without rpmem");
    }
    fs::rename("/root/rpmem.ko", &ko)?;
    c.ok(&["depmod", &release])?;
    daemon.kill()?;
    daemon.wait()?;
    unload(c)
}

/// nd_pmem was loaded before anything else: the initramfs has given / to rpmem all the same.
fn taken_over(c: &mut Ctx) -> TestResult {
    let (ns, disk) = of_root(c)?;
    check!(c.module_loaded("nd_pmem"), "nd_pmem was not loaded");
    check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some("rpmem"));
    check_eq!(c.read(format!("/run/rpmem-bind/{ns}"))?, "nd_pmem");
    let out = c.fails(&[TOOL, "--undo", &ns])?;
    check!(
        out.contains(&format!("/dev/{disk} is mounted at /")),
        "{out}"
    );
    Ok(())
}
