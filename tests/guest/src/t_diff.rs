// SPDX-License-Identifier: GPL-2.0
//! The same namespaces under rpmem and under nd_pmem, in one boot: everything that a user can ask
//! has the same answer. What differs is listed in `DIFFERENCES`, with the reason.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::MIB;
use crate::support::facts::{access, hand_over, limits, sysfs, Facts};
use crate::support::tools::{self, Space};
use crate::{check, check_eq, fail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    diff_create => create,
    diff_drivers => |c| drivers(c, false),
    diff_read_only => |c| drivers(c, true),
};

/// A question, the two answers, and why they differ.
struct Difference {
    /// End of the question's name, and of each answer.
    question: &'static str,
    nd_pmem: &'static str,
    rpmem: &'static str,
    /// For the reader of this list and of a report.
    why: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        question: "nd/driver",
        nd_pmem: "/bus/nd/drivers/nd_pmem",
        rpmem: "/bus/nd/drivers/rpmem",
        why: "the link names the driver",
    },
    Difference {
        question: "nd/uevent DRIVER",
        nd_pmem: "nd_pmem",
        rpmem: "rpmem",
        why: "the event names the driver",
    },
];

/// Labelled namespaces of each kind: pages or none, in memory or on the medium, a block translation
/// table, both sector sizes.
fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for options in [
        &["-m", "raw"][..],
        &["-m", "raw", "-l", "4096"],
        &["-m", "fsdax", "-M", "mem"],
        &["-m", "fsdax", "-M", "dev"],
        &["-m", "fsdax", "-M", "dev", "-l", "4096"],
        &["-m", "sector", "-l", "512"],
        &["-m", "sector", "-l", "4096"],
    ] {
        let mut argv = vec!["-s", "64M"];
        argv.extend_from_slice(options);
        c.create_namespace(&argv)?;
    }
    check_eq!(tools::spaces(c)?.len(), 7, "disks");
    Ok(())
}

fn drivers(c: &mut Ctx, read_only: bool) -> TestResult {
    // Both are loaded; the script that users have moves the namespaces.
    if !c.module_loaded("nd_pmem") {
        c.modprobe("nd_pmem")?;
    }
    let regions = c.regions();
    if read_only {
        for r in &regions {
            c.write(c.nd(r).join("read_only"), "1")?;
        }
    }
    let ours = collect(c, "rpmem")?;
    hand_over(c, "nd_pmem")?;
    let theirs = collect(c, "nd_pmem")?;
    hand_over(c, "rpmem")?;
    let again = collect(c, "rpmem")?;
    if read_only {
        for r in &regions {
            c.write(c.nd(r).join("read_only"), "0")?;
        }
    }
    println!("{} questions", ours.len());
    check!(ours.len() > 200, "there are only {} questions", ours.len());

    let mut bad = Vec::new();
    let mut used = BTreeSet::new();
    let mut nodes = 0;
    for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (us, them) = (ours.get(key), theirs.get(key));
        if us == them {
            continue;
        }
        // The folder of the node, which nd_pmem does not have.
        if key.contains("/rpmem/rpmem") && them.is_none() {
            nodes += 1;
            continue;
        }
        let listed = DIFFERENCES.iter().position(|d| {
            key.ends_with(&format!(" {}", d.question))
                && us.is_some_and(|v| v.ends_with(d.rpmem))
                && them.is_some_and(|v| v.ends_with(d.nd_pmem))
        });
        match listed {
            Some(n) => {
                used.insert(n);
            }
            None => bad.push(format!("{key}: nd_pmem {them:?}, rpmem {us:?}")),
        }
    }
    println!("differs: {nodes} answers about the folder of /dev/rpmemN");
    check!(nodes > 0, "no folder of /dev/rpmemN");
    for (n, d) in DIFFERENCES.iter().enumerate() {
        println!(
            "differs: {}: {} and {}: {}",
            d.question, d.nd_pmem, d.rpmem, d.why
        );
        if !used.contains(&n) {
            bad.push(format!("{} is listed as different and is not", d.question));
        }
    }
    // Having been with the other driver leaves no trace.
    for key in ours.keys().chain(again.keys()).collect::<BTreeSet<_>>() {
        if ours.get(key) != again.get(key) {
            bad.push(format!(
                "{key}: rpmem at first {:?}, then {:?}",
                ours.get(key),
                again.get(key)
            ));
        }
    }
    if !bad.is_empty() {
        fail!("{} answers differ:\n{}", bad.len(), bad.join("\n"));
    }
    Ok(())
}

/// Every answer about every namespace.
fn collect(c: &Ctx, driver: &str) -> TestResult<Facts> {
    let mut facts = Facts::new();
    let spaces = tools::spaces(c)?;
    check_eq!(spaces.len(), c.namespaces().len(), "disks");
    for s in &spaces {
        check_eq!(
            c.bound_to(&s.nd).as_deref(),
            Some(driver),
            "driver of {}",
            s.nd
        );
        let mut f = Facts::new();
        sysfs(&format!("/sys/block/{}", s.disk), "disk", &mut f);
        sysfs(&format!("/sys/block/{}/bdi/", s.disk), "bdi", &mut f);
        sysfs(&format!("/sys/bus/nd/devices/{}/", s.nd), "nd", &mut f);
        node(s, &mut f)?;
        limits(s, &mut f)?;
        access(c, s, &mut f)?;
        accounting(c, s, &mut f)?;
        tools_say(c, s, &mut f)?;
        for (k, v) in f {
            facts.insert(format!("{} {k}", s.disk), v);
        }
    }
    for region in c.regions() {
        // What its namespaces say, they are asked for themselves.
        for name in tools::names(c.nd(&region)) {
            let dir = c.nd(&region).join(&name);
            if fs::symlink_metadata(&dir)?.is_dir() && !dir.join("devtype").exists() {
                sysfs(
                    &dir.to_string_lossy(),
                    &format!("{region}/{name}"),
                    &mut facts,
                );
            } else if let Ok(text) = fs::read_to_string(&dir) {
                facts.insert(format!("{region}/{name}"), text);
            }
        }
    }
    for ns in c.namespaces() {
        sysfs(
            &format!("/sys/bus/nd/devices/{ns}/"),
            &format!("{ns} namespace"),
            &mut facts,
        );
        // The driver is told for the device that it binds.
        facts.retain(|k, _| !(k.starts_with(&ns) && k.contains("namespace/driver")));
        facts.retain(|k, _| !(k.starts_with(&ns) && k.ends_with("namespace/uevent DRIVER")));
    }
    facts.insert(
        "bus ndctl list".into(),
        c.ok(&["ndctl", "list", "-BDNRiu"])?,
    );
    facts.insert(
        "bus ndctl list -v".into(),
        c.ok(&["ndctl", "list", "-Nivv"])?,
    );
    facts.insert(
        "bus daxctl list".into(),
        c.ok(&["daxctl", "list", "-RDiu"])?,
    );
    for l in c.read("/proc/iomem")?.lines() {
        let name = l.rsplit(" : ").next().unwrap_or_default();
        if ["namespace", "pfn", "btt", "Persistent", "dax"]
            .iter()
            .any(|p| name.starts_with(p))
        {
            let range = l.split(" : ").next().unwrap_or_default();
            facts.insert(format!("iomem {range}"), name.into());
        }
    }
    Ok(facts)
}

fn node(s: &Space, f: &mut Facts) -> TestResult {
    let m = fs::metadata(s.dev())?;
    // SAFETY: arithmetic on a number.
    let major = unsafe { libc::major(m.rdev()) };
    f.insert(
        "node".into(),
        format!(
            "mode {:o} owner {}:{} major {major}",
            m.mode(),
            m.uid(),
            m.gid()
        ),
    );
    Ok(())
}

/// What /sys/block/NAME/stat counts for a known amount of work: all but times.
fn accounting(c: &Ctx, s: &Space, f: &mut Facts) -> TestResult {
    let counts = || -> TestResult<Vec<u64>> {
        let v: Vec<u64> = c
            .disk_attr(&s.disk, "stat")?
            .split_whitespace()
            .filter_map(|w| w.parse().ok())
            .collect();
        check!(v.len() >= 17, "stat has {} fields", v.len());
        Ok(v)
    };
    let ro = c.disk_attr(&s.disk, "ro")? == "1";
    // Off by default, for both.
    let iostats = format!("/sys/block/{}/queue/iostats", s.disk);
    let usual = c.read(&iostats)?;
    c.write(&iostats, "1")?;
    let file = File::options()
        .read(true)
        .write(!ro)
        .custom_flags(libc::O_DIRECT)
        .open(s.dev())?;
    let buf = tools::anonymous(MIB as usize)?;
    let before = counts()?;
    for n in 0..5 {
        tools::pread_raw(&file, buf.as_ptr(), 64 << 10, n << 20)?;
        if !ro {
            tools::pwrite_raw(&file, buf.as_ptr(), 32 << 10, 16 * MIB + (n << 18))?;
        }
    }
    file.sync_all()?;
    let after = counts()?;
    c.write(&iostats, &usual)?;
    let names = [
        "reads",
        "reads merged",
        "sectors read",
        "",
        "writes",
        "writes merged",
        "sectors written",
        "",
        "in flight",
        "",
        "",
        "discards",
        "discards merged",
        "sectors discarded",
        "",
        "flushes",
        "",
    ];
    for (n, name) in names.iter().enumerate() {
        if !name.is_empty() {
            f.insert(format!("stat {name}"), (after[n] - before[n]).to_string());
        }
    }
    check!(
        after[2] - before[2] == 640,
        "sectors read: {}",
        after[2] - before[2]
    );
    Ok(())
}

/// What the tools that users run make of the disk.
fn tools_say(c: &Ctx, s: &Space, f: &mut Facts) -> TestResult {
    let all = c.ok(&["lsblk", "-dbPO", &s.dev()])?;
    for part in all.trim().split("\" ") {
        let (k, v) = part.split_once('=').unwrap_or((part, ""));
        if !["MAJ:MIN", "MIN", "DISK-SEQ"].contains(&k) {
            f.insert(format!("lsblk {k}"), v.trim_matches('"').into());
        }
    }
    f.insert(
        "blockdev".into(),
        strip_node(&c.run(&["blockdev", "--report", &s.dev()])?.out),
    );
    f.insert(
        "blkid".into(),
        c.run(&["blkid", "-p", "-o", "export", &s.dev()])?.out,
    );
    f.insert("sfdisk".into(), c.run(&["sfdisk", "-l", &s.dev()])?.out);
    let parts = c.read("/proc/partitions")?;
    let line = parts
        .lines()
        .find(|l| l.ends_with(&format!(" {}", s.disk)))
        .unwrap_or_default();
    f.insert(
        "/proc/partitions".into(),
        line.split_whitespace().nth(2).unwrap_or("none").into(),
    );
    f.insert("slaves and holders".into(), {
        let mut v = Vec::new();
        for d in ["holders", "slaves"] {
            for e in fs::read_dir(Path::new("/sys/block").join(&s.disk).join(d))?.flatten() {
                v.push(format!("{d}/{}", e.file_name().to_string_lossy()));
            }
        }
        v.sort();
        format!("{v:?}")
    });
    Ok(())
}

/// The last line of `blockdev --report`.
fn strip_node(report: &str) -> String {
    report
        .lines()
        .last()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
