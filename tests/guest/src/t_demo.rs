// SPDX-License-Identifier: GPL-2.0
//! The demonstration of the main job, in two boots with a power cut between them. What these
//! print is shown to the user as it comes: headings begin with "== ".
//!
//! The driver shown is the one in the parameters of the plan, "rpmem" or "nd_pmem".

use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::tools;
use crate::{check, check_eq, fail};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

pub const TESTS: &[Test] = crate::tests! {
    demo_store => store,
    demo_verify => verify,
};

/// Bytes that the application stores on each file system.
const BYTES: &str = "16777216";
const FILE_SYSTEMS: [&str; 2] = ["ext4", "xfs"];
/// DAX needs file system blocks of a page; mkfs.ext4 makes smaller ones on small disks.
// CLOCK: what users type; nothing is counted.
const MKFS: [&str; 2] = ["mkfs.ext4 -q -b 4096", "mkfs.xfs -q"];

/// Run a shell command the way a user would, for him to see; it must succeed.
fn show(c: &Ctx, script: &str) -> TestResult<String> {
    println!("$ {script}");
    let r = c.run(&["bash", "-o", "pipefail", "-c", script])?;
    for l in r.out.lines().chain(r.err.lines()) {
        println!("{l}");
    }
    if r.status != 0 {
        return Err(Outcome::Fail(format!("{script}: status {}", r.status)));
    }
    Ok(r.out)
}

/// The kernel log is not a terminal: keep ndctl's JSON short.
fn list(c: &Ctx, options: &str) -> TestResult<String> {
    show(c, &format!("ndctl list {options}"))
}

/// Devices that carry the disks: pfn devices where the mode is fsdax.
fn carriers(c: &Ctx, driver: &str) -> TestResult<Vec<String>> {
    let all: Vec<String> = c
        .nd_devices("pfn")
        .into_iter()
        .filter(|d| c.bound_to(d).is_some())
        .collect();
    check_eq!(all.len(), FILE_SYSTEMS.len(), "namespaces in fsdax mode");
    for d in &all {
        check_eq!(c.bound_to(d).as_deref(), Some(driver), "driver of {d}");
        c.disk_of(d)?;
    }
    show(
        c,
        &format!(
            "ls -d /sys/bus/nd/drivers/{driver}/*[0-9]*.* /sys/bus/nd/drivers/{driver}/*/block/*"
        ),
    )?;
    Ok(all)
}

/// Those for file systems.
fn disks(c: &Ctx) -> TestResult<Vec<String>> {
    let mut disks = c.disks();
    disks.retain(|d| c.disk_attr(d, "queue/dax").is_ok_and(|dax| dax == "1"));
    check_eq!(disks.len(), FILE_SYSTEMS.len(), "disks {disks:?}");
    Ok(disks)
}

/// An application that stays, with its mapping, and what it has to say.
struct Application {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// Start an application and wait until it says that it is ready.
fn start(args: &[&str]) -> TestResult<Application> {
    println!("$ rpmem-guest app {} &", args.join(" "));
    let mut child = Command::new("rpmem-guest")
        .arg("app")
        .args(args)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
    for line in lines.by_ref() {
        let line = line?;
        if line == "ready" {
            return Ok(Application { child, lines });
        }
        println!("{line}");
    }
    Err(format!("the application failed: {:?}", child.wait()).into())
}

/// One that has stored and flushed.
fn application(file: &str) -> TestResult<u32> {
    Ok(start(&["write-and-wait", file, BYTES])?.child.id())
}

fn store(c: &mut Ctx) -> TestResult {
    let driver = c.params.clone();
    println!("== the kernel: Debian's, unpatched");
    show(c, "uname -a")?;
    check_eq!(
        show(c, "cat /proc/sys/kernel/tainted")?.trim(),
        "0",
        "taint before any foreign module"
    );

    println!("== the NVDIMM, and two namespaces on it for file systems with DAX");
    show(c, "modprobe nd_pmem")?;
    c.settle();
    show(
        c,
        "dmesg | grep -iE 'nfit|nvdimm|nd_pmem' | tail -3 || true",
    )?;
    show(
        c,
        "ndctl disable-region all; ndctl init-labels -f all; ndctl enable-region all",
    )?;
    for fs in FILE_SYSTEMS {
        show(
            c,
            &format!("ndctl create-namespace -m fsdax -s 480M -n for-{fs} | tr -d ' \\n'; echo"),
        )?;
    }
    if driver == "rpmem" {
        show(
            c,
            "ndctl create-namespace -m raw -s 32M -n for-mmap | tr -d ' \\n'; echo",
        )?;
    }
    c.settle();
    list(c, "-DR")?;
    carriers(c, "nd_pmem")?;

    if driver == "rpmem" {
        println!("== nd_pmem gives the namespaces to rpmem");
        show(c, "insmod /rpmem.ko")?;
        for ns in c.namespaces() {
            show(c, &format!("rpmem-bind {ns} rpmem"))?;
        }
        c.settle();
        carriers(c, "rpmem")?;
        // Out of tree and unsigned, and nothing else.
        check_eq!(
            show(c, "cat /proc/sys/kernel/tainted")?.trim(),
            "12288",
            "taint: O and E"
        );
    }
    list(c, "-N")?;

    println!("== file systems, mounted with -o dax");
    let disks = disks(c)?;
    for ((disk, fs), mkfs) in disks.iter().zip(FILE_SYSTEMS).zip(MKFS) {
        std::fs::create_dir_all(format!("/mnt/{fs}"))?;
        show(c, &format!("{mkfs} /dev/{disk}"))?;
        show(c, &format!("mount -o dax /dev/{disk} /mnt/{fs}"))?;
    }
    show(c, "grep /mnt/ /proc/mounts")?;

    println!("== an application on each: MAP_SYNC, stores, cache-line flushes; no msync, no fsync");
    for fs in FILE_SYSTEMS {
        let pid = application(&format!("/mnt/{fs}/data"))?;
        let flags = show(
            c,
            &format!("grep -A30 /mnt/{fs}/data /proc/{pid}/smaps | grep -m1 VmFlags"),
        )?;
        check!(
            flags.split_whitespace().any(|f| f == "sf"),
            "the mapping is not synchronous: {flags}"
        );
    }
    if driver == "rpmem" {
        map_raw(c)?;
    }
    println!("== the applications still run, all they use is open and mapped: the power fails now");
    c.power_cut()
}

/// The node of the namespace without struct pages.
fn raw_node(c: &Ctx) -> TestResult<String> {
    for node in tools::names("/sys/class/rpmem") {
        if c.read(format!("/sys/class/rpmem/{node}/page_backed"))?
            .trim()
            == "0"
        {
            c.wait_exists(format!("/dev/{node}"))?;
            return Ok(node);
        }
    }
    fail!("no namespace without struct pages")
}

/// A namespace without file system and without struct pages, mapped.
fn map_raw(c: &Ctx) -> TestResult {
    println!("== a raw namespace: no file system, no struct pages; mapped all the same");
    let node = raw_node(c)?;
    let disk = node.trim_start_matches('r').to_string();
    show(
        c,
        &format!("ls -l /dev/{node}; cd /sys/class/rpmem/{node}; grep . size page_backed synchronous huge_page"),
    )?;
    println!("struct pages for it: 0 bytes");
    let pid = application(&format!("/dev/{node}"))?;
    let flags = show(
        c,
        &format!("grep -A30 /dev/{node} /proc/{pid}/smaps | grep -m1 VmFlags"),
    )?;
    check!(
        ["sf", "pf"]
            .iter()
            .all(|f| flags.split_whitespace().any(|g| g == *f)),
        "not a synchronous mapping of page frames: {flags}"
    );
    show(
        c,
        &format!("rpmem-guest app read-into /dev/{node} /dev/{disk}"),
    )?;
    show(c, &format!("! mount /dev/{disk} /mnt 2>&1"))?;
    Ok(())
}

fn verify(c: &mut Ctx) -> TestResult {
    let driver = c.params.clone();
    println!("== the machine is back; {driver} takes the namespaces");
    show(
        c,
        if driver == "rpmem" {
            "insmod /rpmem.ko"
        } else {
            "modprobe nd_pmem"
        },
    )?;
    c.settle();
    let all = FILE_SYSTEMS.len() + usize::from(driver == "rpmem");
    c.wait_for("the disks", || c.disks().len() == all)?;
    carriers(c, &driver)?;
    let disks = disks(c)?;
    println!("== the same file systems, mounted again, and every byte compared");
    for (disk, fs) in disks.iter().zip(FILE_SYSTEMS) {
        std::fs::create_dir_all(format!("/mnt/{fs}"))?;
        let kind = c.ok(&[
            "blkid",
            "-o",
            "value",
            "-s",
            "TYPE",
            &format!("/dev/{disk}"),
        ])?;
        check_eq!(kind.trim(), fs, "file system on {disk}");
        show(c, &format!("mount -o dax /dev/{disk} /mnt/{fs}"))?;
        let out = show(c, &format!("rpmem-guest app verify /mnt/{fs}/data {BYTES}"))?;
        check!(out.contains(&format!("all {BYTES} bytes")), "{out}");
        show(c, &format!("umount /mnt/{fs}"))?;
    }
    if driver == "rpmem" {
        println!("== and the namespace without a file system, compared through its mapping");
        let node = raw_node(c)?;
        let out = show(c, &format!("rpmem-guest app verify /dev/{node} {BYTES}"))?;
        check!(out.contains(&format!("all {BYTES} bytes")), "{out}");
        lease(c, &node)?;
    }
    Ok(())
}

/// Nobody takes the memory from a direct mapping without notice.
fn lease(c: &Ctx, node: &str) -> TestResult {
    println!("== a MAP_DIRECT mapping: the memory is not taken away without notice");
    let disk = node.trim_start_matches('r');
    let nd = std::fs::read_link(format!("/sys/block/{disk}/device"))?;
    let nd = nd.file_name().unwrap_or_default().to_string_lossy();
    let mut app = start(&["hold", &format!("/dev/{node}")])?;
    show(
        c,
        &format!("cd /sys/class/rpmem/{node}; grep . holders lease_break_time"),
    )?;
    show(c, &format!("! ndctl disable-namespace {nd} 2>&1"))?;
    show(c, "dmesg | tail -2")?;
    show(c, &format!("echo {nd} >/sys/bus/nd/drivers/rpmem/unbind"))?;
    for line in app.lines.by_ref() {
        println!("{}", line?);
    }
    check_eq!(app.child.wait()?.code(), Some(0), "the application");
    show(
        c,
        "dmesg | grep 'rpmem.*\\(wait\\|held\\|lease\\)' | tail -3",
    )?;
    check_eq!(c.bound_to(&nd), None, "the namespace");
    Ok(())
}
