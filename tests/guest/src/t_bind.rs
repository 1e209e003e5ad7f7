// SPDX-License-Identifier: GPL-2.0
//! Who drives a namespace: `rpmem-bind` hands it over and back, and the module's aliases let
//! udev find it.

use crate::ctx::{Ctx, Test, TestResult};
use crate::disk::{self, Marks};
use crate::t_namespace::{active, fresh};
use crate::{check, check_eq};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;

pub const TESTS: &[Test] = &[
    Test {
        name: "namespace_bind_status",
        run: status,
    },
    Test {
        name: "namespace_bind_hand_over",
        run: hand_over,
    },
    Test {
        name: "namespace_bind_hand_over_fsdax",
        run: hand_over_fsdax,
    },
    Test {
        name: "namespace_bind_refusals",
        run: refusals,
    },
    Test {
        name: "namespace_module_alias",
        run: module_alias,
    },
    Test {
        name: "namespace_module_load",
        run: module_load,
    },
];

const TOOL: &str = "rpmem-bind";
const MNT: &str = "/mnt/pmem";

fn status(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let disk = c.disk_of(&active(c, &ns)?)?;
    check_eq!(
        c.ok(&[TOOL])?,
        format!("{ns} raw driver=rpmem /dev/{disk}\n")
    );
    c.unbind("rpmem", &ns)?;
    check_eq!(c.ok(&[TOOL])?, format!("{ns} raw driver=none\n"));
    let out = c.ok(&[TOOL, &ns, "rpmem"])?;
    check_eq!(out, format!("{ns}: no driver -> rpmem, /dev/{disk}\n"));
    check_eq!(c.bound_to(&ns).as_deref(), Some("rpmem"));
    let out = c.ok(&[TOOL, &ns, "rpmem"])?;
    check_eq!(out, format!("{ns}: rpmem has it already\n"));
    check!(c.ok(&[TOOL, "--help"])?.contains("Usage: rpmem-bind"));
    Ok(())
}

/// There and back, and the data with it. The other driver reads the same bytes at the same places.
fn there_and_back(c: &Ctx, ns: &str) -> TestResult {
    let on = active(c, ns)?;
    check_eq!(c.bound_to(&on).as_deref(), Some("rpmem"));
    let disk = c.disk_of(&on)?;
    let dev = format!("/dev/{disk}");
    let size = disk::check_sizes(c, ns, &disk)?;
    let marks = Marks::new(6000);
    marks.write(&dev)?;

    // A dry run says what it would do, and does nothing.
    let out = c.ok(&[TOOL, "-n", ns, "nd_pmem"])?;
    check!(out.contains(&format!("would write {on} to")), "-n: {out}");
    check!(out.contains("drivers/rpmem/unbind"), "-n: {out}");
    check!(out.contains("drivers/nd_pmem/bind"), "-n: {out}");
    check_eq!(c.bound_to(&on).as_deref(), Some("rpmem"), "after -n");
    marks.check(&dev)?;

    for (driver, from, seed) in [("nd_pmem", "rpmem", 6000), ("rpmem", "nd_pmem", 6500)] {
        let out = c.ok(&[TOOL, ns, driver])?;
        check_eq!(out, format!("{ns}: {from} -> {driver}, {dev}\n"));
        let on = active(c, ns)?;
        check_eq!(c.bound_to(&on).as_deref(), Some(driver));
        check_eq!(c.disk_of(&on)?, disk);
        check_eq!(disk::check_sizes(c, ns, &disk)?, size);
        Marks::new(seed).check(&dev)?;
        // What this one writes, the next one finds.
        Marks::new(seed + 500).write(&dev)?;
    }
    Marks::new(7000).check(&dev)
}

fn hand_over(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    check_eq!(active(c, &ns)?, ns);
    there_and_back(c, &ns)
}

fn hand_over_fsdax(c: &mut Ctx) -> TestResult {
    fresh(c)?;
    let ns = c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "64M"])?;
    let out = c.ok(&[TOOL])?;
    check!(
        out.contains(&format!("{ns} fsdax driver=rpmem /dev/pmem0")),
        "status: {out}"
    );
    there_and_back(c, &ns)
}

fn refusals(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let disk = c.disk_of(&ns)?;
    let dev = format!("/dev/{disk}");
    let refused = |how: &str, word: &str| -> TestResult {
        let out = c.fails(&[TOOL, &ns, "nd_pmem"])?;
        check!(out.contains(word), "{how}: {out}");
        check_eq!(c.bound_to(&ns).as_deref(), Some("rpmem"), "{how}: driver");
        check!(fs::exists(&dev)?, "{how}: no {dev}");
        Ok(())
    };

    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "defaults")?;
    refused("mounted", &format!("is mounted at {MNT}"))?;
    c.sh(&format!(
        "echo still here > {MNT}/f; sync; grep -q here {MNT}/f"
    ))?;
    // Detached, and alive as long as the file is open: no table of mounts has it.
    let file = fs::File::open(format!("{MNT}/f"))?;
    c.ok(&["umount", "-l", MNT])?;
    refused("detached", "is claimed in the kernel")?;
    drop(file);
    c.wait_for("the end of the file system", || {
        fs::File::options()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(&dev)
            .is_ok()
    })?;

    let open = fs::File::open(&dev)?;
    refused("open", &format!("(pid {})", std::process::id()))?;
    drop(open);

    c.modprobe("loop")?;
    let back = c.ok(&["losetup", "--show", "-f", &dev])?;
    refused("under a loop device", "is part of loop")?;
    c.ok(&["losetup", "-d", back.trim()])?;

    c.sh(&format!(
        "wipefs -aq {dev}; busybox mkswap {dev} >/dev/null; busybox swapon {dev}"
    ))?;
    refused("swap", "is swap")?;
    c.ok(&["busybox", "swapoff", &dev])?;
    c.ok(&["wipefs", "-aq", &dev])?;

    c.modprobe("dm_mod")?;
    c.ok(&[
        "dmsetup",
        "create",
        "over",
        "--table",
        &format!("0 2048 linear {dev} 0"),
    ])?;
    refused("under device mapper", "is part of dm-")?;
    c.ok(&["dmsetup", "remove", "over"])?;

    c.sh(&format!(
        "printf 'label: gpt\\nstart=2048, size=65536\\n' | sfdisk -q {dev}"
    ))?;
    let part = format!("{dev}p1");
    c.wait_exists(&part)?;
    c.mkfs("ext4", &part)?;
    c.mount(&part, MNT, "defaults")?;
    refused(
        "a partition mounted",
        &format!("{disk}p1 is mounted at {MNT}"),
    )?;
    c.umount(MNT)?;
    c.ok(&["wipefs", "-aq", "-f", &dev])?;

    for (args, word, status) in [
        (
            &["namespace9.9", "rpmem"][..],
            "namespace9.9: there is no such namespace",
            1,
        ),
        (&[&disk, "rpmem"], &format!("{disk} belongs to {ns}"), 1),
        (&[&ns, "pmem"], "invalid value 'pmem'", 2),
        (&[&ns], "Usage:", 2),
        (&[&ns, "rpmem", "x"], "Usage:", 2),
    ] {
        let mut argv = vec![TOOL];
        argv.extend_from_slice(args);
        let r = c.run(&argv)?;
        check_eq!(r.status, status, "{r}");
        check!((r.out + &r.err).contains(word), "{args:?} without {word:?}");
    }
    check_eq!(c.bound_to(&ns).as_deref(), Some("rpmem"));
    Ok(())
}

fn module_alias(c: &mut Ctx) -> TestResult {
    let aliases = c.ok(&["modinfo", "-F", "alias", crate::ctx::init_ko()])?;
    let aliases: Vec<&str> = aliases.lines().collect();
    for want in ["nd:t4*", "nd:t5*", "nd:t7*"] {
        check!(aliases.contains(&want), "no alias {want}: {aliases:?}");
    }
    check_eq!(
        c.ok(&["modinfo", "-F", "license", crate::ctx::init_ko()])?,
        "GPL v2\n"
    );
    // The same devices as the driver that it stands in for.
    let theirs = c.ok(&["modinfo", "-F", "alias", "nd_pmem"])?;
    for a in theirs.lines().filter(|a| a.starts_with("nd:")) {
        check!(
            aliases.contains(&a),
            "nd_pmem has {a}, rpmem has {aliases:?}"
        );
    }
    Ok(())
}

/// What udev does with a new namespace: `modprobe` its modalias.
fn module_load(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let alias = c.read(c.nd(&ns).join("modalias"))?;
    check_eq!(alias, "nd:t4", "type of an unlabelled namespace");
    let release = c.read("/proc/sys/kernel/osrelease")?;
    let dir = format!("/usr/lib/modules/{release}/updates");
    fs::create_dir_all(&dir)?;
    fs::copy(crate::ctx::init_ko(), format!("{dir}/rpmem.ko"))?;
    c.ok(&["depmod", &release])?;

    // As installed: nd_pmem is blacklisted.
    let conf = fs::read_dir("/etc/modprobe.d")?
        .flatten()
        .filter_map(|e| fs::read_to_string(e.path()).ok())
        .any(|t| t.contains("blacklist nd_pmem"));
    check!(conf, "nd_pmem is not blacklisted in this guest");
    c.rmmod("rpmem")?;
    check!(c.disks().is_empty());
    let would = c.ok(&["modprobe", "-b", "-n", "-v", &alias])?;
    check!(would.contains("/updates/rpmem.ko"), "modprobe -n: {would}");
    check!(!would.contains("nd_pmem"), "modprobe -n: {would}");
    c.ok(&["modprobe", "-b", &alias])?;
    c.settle();
    check!(!c.module_loaded("nd_pmem"), "nd_pmem was loaded");
    check_eq!(c.bound_to(&ns).as_deref(), Some("rpmem"));
    c.disk_of(&ns)?;

    // Without the blacklist both answer to the alias: hence the blacklist.
    c.rmmod("rpmem")?;
    fs::create_dir_all("/tmp/empty.d")?;
    let would = c.ok(&["modprobe", "-C", "/tmp/empty.d", "-b", "-n", "-v", &alias])?;
    check!(
        would.contains("nd_pmem") && would.contains("rpmem.ko"),
        "{would}"
    );
    fs::remove_file(format!("{dir}/rpmem.ko"))?;
    c.ok(&["depmod", &release])?;
    c.load_driver()?;
    c.disk_of(&ns)?;
    Ok(())
}
