// SPDX-License-Identifier: GPL-2.0
//! Who drives a namespace: `rpmem-bind` hands it over and back, and the module's aliases let
//! udev find it.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Marks};
use crate::support::namespace::{active, fresh, release};
use crate::support::peer::Peer;
use crate::support::sys::Map;
use crate::support::tools;
use crate::{check, check_eq, fail};
use libc::{MAP_SHARED, PROT_READ};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

pub const TESTS: &[Test] = crate::tests! {
    namespace_bind_status => status,
    namespace_bind_hand_over => hand_over,
    namespace_bind_hand_over_fsdax => hand_over_fsdax,
    namespace_bind_refusals => refusals,
    bind_nothing => nothing,
    bind_sector => sector,
    bind_no_probe => no_probe,
    bind_numbers => numbers,
    bind_elsewhere => elsewhere,
    bind_unprivileged => unprivileged,
    bind_json => json,
    bind_excluded => excluded,
    bind_devdax => devdax,
    namespace_module_alias => module_alias,
    namespace_module_load => module_load,
};

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

/// It says why it does not move a namespace, which stays.
fn refused(c: &Ctx, ns: &str, word: &str) -> TestResult {
    let on = active(c, ns)?;
    let driver = c.bound_to(&on);
    let to = match driver.as_deref() {
        Some("rpmem") => "nd_pmem",
        _ => "rpmem",
    };
    let excluded = c.read(EXCLUDE)?;
    let r = c.run(&[TOOL, ns, to])?;
    check_eq!(r.status, 1, "{r}");
    check!(r.err.contains(word), "without {word:?}: {r}");
    check_eq!(c.bound_to(&on), driver, "{word}");
    check_eq!(c.read(EXCLUDE)?, excluded, "{word}");
    Ok(())
}

/// To nd_pmem and back.
fn free(c: &Ctx, ns: &str) -> TestResult {
    for driver in ["nd_pmem", "rpmem"] {
        c.ok(&[TOOL, ns, driver])?;
        check_eq!(c.bound_to(&active(c, ns)?).as_deref(), Some(driver));
    }
    Ok(())
}

fn parse(text: &str) -> TestResult<Vec<Value>> {
    match serde_json::from_str(text) {
        Ok(Value::Array(all)) => Ok(all),
        other => fail!("no list but {other:?}: {text}"),
    }
}

/// No namespaces, and no drivers but rpmem: ndctl would choose among them.
fn alone(c: &Ctx) -> TestResult {
    fresh(c)?;
    for driver in ["nd_pmem", "dax_pmem"] {
        if c.module_loaded(driver) {
            c.rmmod(driver)?;
        }
    }
    Ok(())
}

/// A new namespace in this mode, and its disk.
fn created(c: &Ctx, mode: &str) -> TestResult<(String, String)> {
    alone(c)?;
    c.create_namespace(&["-m", mode, "-s", "64M"])?;
    let ns = c.namespace()?;
    let disk = c.disk_of(&active(c, &ns)?)?;
    Ok((ns, disk))
}

/// Ends with what it is of.
struct Undo(Vec<&'static str>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0[0]).args(&self.0[1..]).status();
    }
}

/// No namespace is no failure.
fn nothing(c: &mut Ctx) -> TestResult {
    fresh(c)?;
    for args in [&[][..], &["--all", "nd_pmem"]] {
        let r = c.run(&[&[TOOL], args].concat())?;
        check_eq!(r.status, 0, "{r}");
        check_eq!(r.out, "");
        check!(r.err.contains("there are no namespaces"), "{r}");
        let json = c.ok(&[&[TOOL, "--json"], args].concat())?;
        check!(parse(&json)?.is_empty(), "{json}");
    }
    let version = c.ok(&[TOOL, "--version"])?;
    check!(version.starts_with("rpmem-bind 0."), "{version}");
    let complete = "eval \"$(rpmem-bind --completion bash)\"; COMP_CWORD=1; \
                    COMP_WORDS=(rpmem-bind \"$1\"); _rpmem-bind rpmem-bind; echo ${COMPREPLY[@]}";
    c.create_namespace(&["-m", "raw", "-s", "64M"])?;
    for (word, want) in [("name", "namespace0.0"), ("--js", "--json")] {
        let out = c.ok(&["bash", "-c", complete, "bash", word])?;
        check!(out.split(' ').any(|w| w.trim() == want), "{word}: {out}");
    }
    Ok(())
}

/// The partition of pmem0s is pmem0s1, and no perl helps to find out who has it.
fn sector(c: &mut Ctx) -> TestResult {
    let (ns, disk) = created(c, "sector")?;
    c.sh(
        "p=$(readlink -f $(command -v perl)); mount --bind /dev/null $p; ! perl -e 1 2>/dev/null",
    )?;
    let _perl = Undo(vec![
        "bash",
        "-c",
        "umount $(readlink -f /usr/bin/perl || echo /usr/bin/perl)",
    ]);
    let (dev, part) = (format!("/dev/{disk}"), format!("/dev/{disk}1"));
    c.sh(&format!(
        "printf 'label: gpt\\nstart=256, size=8192\\n' | sfdisk -q {dev}"
    ))?;
    c.wait_exists(&part)?;
    c.mkfs("ext4", &part)?;
    c.mount(&part, MNT, "defaults")?;
    let why = format!("{part} is mounted at {MNT}");
    refused(c, &ns, &why)?;
    check!(c.ok(&[TOOL])?.contains(&format!(": {why}\n")), "shown");
    c.sh(&format!("echo here > {MNT}/f; sync; grep -q here {MNT}/f"))?;

    let file = File::open(format!("{MNT}/f"))?;
    c.ok(&["umount", "-l", MNT])?;
    check!(!c.ok(&[TOOL])?.contains(" is "), "a claim is not shown");
    refused(c, &ns, &format!("{dev} is claimed in the kernel"))?;
    drop(file);
    c.wait_for("the end of the file system", || is_free(&part))?;

    c.modprobe("dm_mod")?;
    let table = format!("0 2048 linear {part} 0");
    c.ok(&["dmsetup", "create", "over", "--table", &table])?;
    let why = format!("{part} is part of dm-0 (over)");
    refused(c, &ns, &why)?;
    check!(c.ok(&[TOOL])?.contains(&format!(": {why}\n")), "shown");
    c.ok(&["dmsetup", "remove", "over"])?;
    free(c, &ns)
}

fn is_free(dev: &str) -> bool {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_EXCL);
    options.open(dev).is_ok()
}

/// Nobody else is kept from mounting a disk by a look at it. While it is moved, everybody is.
fn no_probe(c: &mut Ctx) -> TestResult {
    let (ns, disk) = created(c, "fsdax")?;
    let dev = format!("/dev/{disk}");
    let traced = |args: &[&str]| {
        let strace = [
            "strace",
            "-f",
            "--seccomp-bpf",
            "-e",
            "trace=open,openat,openat2,close,mknodat",
            TOOL,
        ];
        c.run(&[&strace, args].concat())
    };
    for args in [&[][..], &["--json"], &["-n", &ns, "nd_pmem"]] {
        let r = traced(args)?;
        check_eq!(r.status, 0, "{r}");
        check!(r.err.contains("mountinfo"), "nothing was traced: {r}");
        check!(!r.err.contains("O_EXCL"), "{args:?} claims: {}", r.err);
        check!(!r.err.contains("\"/dev/pmem"), "{args:?} opens: {}", r.err);
    }
    let r = traced(&[&ns, "nd_pmem"])?;
    check_eq!(r.status, 0, "{r}");
    let at = |word: &str| r.err.find(word).ok_or(format!("no {word}: {}", r.err));
    let claim = at("O_EXCL")?;
    let unbind = at("drivers/rpmem/unbind")?;
    check!(claim < unbind, "unbound before it was claimed: {}", r.err);
    let number = r.err[claim..]
        .lines()
        .next()
        .and_then(|l| l.split("= ").nth(1));
    let close = format!("close({})", number.unwrap_or("none").trim());
    check!(
        !r.err[claim..unbind].contains(&close),
        "given up before: {}",
        r.err
    );
    c.ok(&[TOOL, &ns, "rpmem"])?;

    c.mkfs("ext4", &dev)?;
    let shows = std::thread::spawn(|| {
        (0..20).all(|_| {
            Command::new(TOOL)
                .output()
                .is_ok_and(|o| o.status.success())
        })
    });
    let mut mounts = 0;
    while !shows.is_finished() {
        c.mount(&dev, MNT, "defaults")?;
        c.umount(MNT)?;
        mounts += 1;
    }
    check!(shows.join().is_ok_and(|ok| ok), "a show failed");
    println!("{mounts} mounts beside 20 shows");
    check!(mounts > 1);
    free(c, &ns)
}

/// The number of a device counts, and not the name that it has in /dev.
fn numbers(c: &mut Ctx) -> TestResult {
    let (ns, disk) = created(c, "fsdax")?;
    let dev = format!("/dev/{disk}");
    let _other = Undo(vec!["rm", "-f", "/tmp/other"]);
    let temporary = || {
        tools::names("/dev")
            .iter()
            .any(|n| n.starts_with(".rpmem-bind"))
    };
    // The node is missing, or that of another device.
    for replace in ["true", "mknod /dev/pmem0 b 7 0"] {
        let number = c.read(format!("/sys/class/block/{disk}/dev"))?;
        let number = number.replace(':', " ");
        c.sh(&format!("rm -f /tmp/other; mknod /tmp/other b {number}"))?;
        let open = File::open("/tmp/other")?;
        refused(c, &ns, &format!("(pid {})", std::process::id()))?;
        drop(open);

        c.mkfs("ext4", &dev)?;
        c.mount(&dev, MNT, "defaults")?;
        let file = File::create(format!("{MNT}/f"))?;
        c.ok(&["umount", "-l", MNT])?;
        c.sh(&format!("rm {dev}; {replace}"))?;
        refused(c, &ns, "is claimed in the kernel")?;
        drop(file);
        c.wait_for("the end of the file system", || is_free("/tmp/other"))?;
        c.ok(&[TOOL, &ns, "nd_pmem"])?;
        check!(!temporary(), "a node is left: {:?}", tools::names("/dev"));
        // The kernel does not take the place of a node that is not its own.
        c.sh(&format!("rm -f {dev}"))?;
        c.ok(&[TOOL, &ns, "rpmem"])?;
        c.wait_exists(&dev)?;
    }
    Ok(())
}

/// Mounted, where only another process sees it.
fn elsewhere(c: &mut Ctx) -> TestResult {
    let (ns, disk) = created(c, "fsdax")?;
    let dev = format!("/dev/{disk}");
    c.mkfs("ext4", &dev)?;
    fs::create_dir_all(MNT)?;
    let mount = format!("mount --make-rprivate / && mount {dev} {MNT}");
    let peer = Peer::start(|link| {
        // SAFETY: of this process alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return 1;
        }
        let done = Command::new("bash").args(["-c", &mount]).status();
        if !done.is_ok_and(|s| s.success()) {
            return 1;
        }
        link.say();
        link.hear();
        0
    })?;
    peer.hear()?;
    let pid = peer.pid();
    let why = format!("is mounted at {MNT} (in the mount namespace of pid {pid})");
    check!(c.ok(&[TOOL])?.contains(&why), "not shown");
    refused(c, &ns, &why)?;
    peer.say();
    check_eq!(peer.wait()?, 0);
    c.wait_for("the end of the file system", || is_free(&dev))?;
    free(c, &ns)
}

fn unprivileged(c: &mut Ctx) -> TestResult {
    let (ns, disk) = created(c, "fsdax")?;
    let run = |args: &[&str]| -> TestResult<(i32, String, String)> {
        let out = Command::new(TOOL)
            .args(args)
            .uid(65534)
            .gid(65534)
            .output()?;
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        let status = out.status.code().unwrap_or(-1);
        Ok((status, text(out.stdout), text(out.stderr)))
    };
    let (status, out, err) = run(&[])?;
    check_eq!(
        (status, out),
        (0, format!("{ns} fsdax driver=rpmem /dev/{disk}\n"))
    );
    check!(err.contains("seen by root alone"), "{err}");
    let (status, out, _) = run(&["--json"])?;
    check_eq!(
        (status, &parse(&out)?[0]["complete"]),
        (0, &Value::Bool(false))
    );
    let (status, _, err) = run(&[&ns, "nd_pmem"])?;
    check_eq!(status, 1);
    check!(err.contains("needs root"), "{err}");
    let (status, _, err) = run(&["-n", &ns, "nd_pmem"])?;
    check_eq!(status, 1);
    check!(err.contains("may be in use"), "{err}");
    check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some("rpmem"));
    // A mount is no secret.
    c.mkfs("ext4", &format!("/dev/{disk}"))?;
    c.mount(&format!("/dev/{disk}"), MNT, "defaults")?;
    let (_, out, _) = run(&[])?;
    check!(out.contains("is mounted at"), "{out}");
    c.umount(MNT)
}

/// The names and values of `ndctl list`, and what only this tool knows.
fn json(c: &mut Ctx) -> TestResult {
    alone(c)?;
    for mode in ["raw", "fsdax", "sector", "devdax"] {
        c.create_namespace(&["-m", mode, "-s", "64M"])?;
    }
    let theirs = parse(&c.ok(&["ndctl", "list"])?)?;
    let ours = parse(&c.ok(&[TOOL, "--json"])?)?;
    check_eq!((theirs.len(), ours.len()), (4, 4));
    for ours in &ours {
        let theirs = theirs.iter().find(|t| t["dev"] == ours["dev"]);
        let theirs = theirs.ok_or("ndctl does not list it")?;
        for key in ["mode", "size", "uuid", "blockdev"] {
            if key != "blockdev" || !theirs[key].is_null() {
                check_eq!(ours[key], theirs[key], "{key} of {}", ours["dev"]);
            }
        }
        check_eq!(ours["driver"], "rpmem");
        check_eq!(ours["excluded"], false);
        check_eq!(ours["complete"], true);
        check_eq!(ours["held"], Value::Array(Vec::new()));
        let has_node = ours["chardev"]
            .as_str()
            .is_some_and(|n| n.starts_with("rpmem"));
        check_eq!(has_node, ours["mode"] != "sector", "{ours}");
    }

    let dev = format!("/dev/{}", ours[1]["blockdev"].as_str().unwrap_or_default());
    let ns = ours[1]["dev"].as_str().unwrap_or_default();
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "defaults")?;
    let open = File::open(&dev)?;
    let shown = parse(&c.ok(&[TOOL, "--json"])?)?;
    let held = shown[1]["held"].as_array().cloned().unwrap_or_default();
    check_eq!(held.len(), 2, "{shown:?}");
    check_eq!(
        (&held[0]["why"], &held[0]["by"]),
        (&"mounted".into(), &MNT.into())
    );
    check_eq!(
        (&held[1]["why"], &held[1]["pid"]),
        (&"in-use".into(), &std::process::id().into())
    );
    check_eq!(shown[2]["held"], Value::Array(Vec::new()));
    let r = c.run(&[TOOL, "--json", ns, "nd_pmem"])?;
    check_eq!(r.status, 1, "{r}");
    let moved = &parse(&r.out)?[0];
    check_eq!(
        (&moved["result"], &moved["held"]),
        (&"failed".into(), &held.into())
    );
    check!(
        moved["error"]
            .as_str()
            .is_some_and(|e| e.contains("is mounted")),
        "{r}"
    );
    drop(open);
    c.umount(MNT)?;

    for (args, result) in [
        (&["-n", ns, "nd_pmem"][..], "would-move"),
        (&[ns, "nd_pmem"], "moved"),
        (&[ns, "nd_pmem"], "unchanged"),
        (&["--undo"], "moved"),
    ] {
        let moved = parse(&c.ok(&[&[TOOL, "--json"], args].concat())?)?;
        check_eq!(moved.len(), 1, "{moved:?}");
        check_eq!(
            (&moved[0]["dev"], &moved[0]["result"]),
            (&ns.into(), &result.into())
        );
        let steps = moved[0]["steps"].as_array().map_or(0, Vec::len);
        check_eq!(steps > 0, result == "would-move", "{moved:?}");
    }
    Ok(())
}

const EXCLUDE: &str = "/sys/module/rpmem/parameters/exclude";

/// A namespace stays where it was put, also when the bus asks again.
fn excluded(c: &mut Ctx) -> TestResult {
    let (ns, disk) = created(c, "fsdax")?;
    c.modprobe("nd_pmem")?;
    let driver = |c: &Ctx| -> TestResult<Option<String>> { Ok(c.bound_to(&active(c, &ns)?)) };
    let offered_again = |c: &Ctx, want: &str| -> TestResult {
        let on = active(c, &ns)?;
        c.unbind(want, &on)?;
        c.write("/sys/bus/nd/drivers_probe", &on)?;
        c.settle();
        check_eq!(driver(c)?.as_deref(), Some(want), "offered again");
        Ok(())
    };
    for (list, at_nd_pmem, at_rpmem) in [
        ("", "namespace0.0", ""),
        ("fsdax", "fsdax", "fsdax,!namespace0.0"),
        ("region0,!namespace0.0", "region0", "region0,!namespace0.0"),
        (
            "sector,!region1",
            "sector,!region1,namespace0.0",
            "sector,!region1",
        ),
    ] {
        c.write(EXCLUDE, &format!("{list}\n"))?;
        for (to, want) in [("nd_pmem", at_nd_pmem), ("rpmem", at_rpmem)] {
            c.ok(&[TOOL, &ns, to])?;
            check_eq!(driver(c)?.as_deref(), Some(to), "{list}");
            check_eq!(c.read(EXCLUDE)?, want, "{list}, to {to}");
            offered_again(c, to)?;
        }
    }

    // What is excluded stays if all are given to rpmem.
    c.write(EXCLUDE, "fsdax\n")?;
    c.ok(&[TOOL, &ns, "nd_pmem"])?;
    let shown = c.ok(&[TOOL])?;
    check_eq!(
        shown,
        format!("{ns} fsdax driver=nd_pmem /dev/{disk} excluded\n")
    );
    let all = parse(&c.ok(&[TOOL, "--json", "--all", "rpmem"])?)?;
    check_eq!(all[0]["result"], "excluded", "{all:?}");
    check_eq!(driver(c)?.as_deref(), Some("nd_pmem"));
    check_eq!(c.read(EXCLUDE)?, "fsdax");

    // Nobody has read its info block: it looks like a raw one.
    release(c, &ns)?;
    check!(c.ok(&[TOOL])?.contains(" raw driver=none"), "released");
    let all = parse(&c.ok(&[TOOL, "--json", "--all", "rpmem"])?)?;
    check_eq!(all[0]["result"], "excluded", "{all:?}");
    release(c, &ns)?;
    c.ok(&[TOOL, &ns, "rpmem"])?;
    check_eq!(driver(c)?.as_deref(), Some("rpmem"));
    check_eq!(c.read(EXCLUDE)?, "fsdax,!namespace0.0");

    // A move that fails leaves the list as it was.
    c.write(EXCLUDE, "sector\n")?;
    let open = File::open(format!("/dev/{disk}"))?;
    refused(c, &ns, "is in use by")?;
    drop(open);
    check_eq!(c.read(EXCLUDE)?, "sector");
    c.write(EXCLUDE, "\n")
}

/// What device-dax offers, by whatever name it is mapped.
fn devdax(c: &mut Ctx) -> TestResult {
    let (ns, _) = created(c, "devdax")?;
    c.ok(&[TOOL, &ns, "dax_pmem"])?;
    c.wait_exists("/dev/dax0.0")?;
    let shown = c.ok(&[TOOL])?;
    check!(shown.contains("driver=dax_pmem /dev/dax0.0"), "{shown}");
    let json = parse(&c.ok(&[TOOL, "--json"])?)?;
    let theirs = parse(&c.ok(&["ndctl", "list"])?)?;
    for key in ["mode", "size", "uuid", "chardev"] {
        check_eq!(json[0][key], theirs[0][key], "{key}");
    }
    let number = c.read("/sys/bus/dax/devices/dax0.0/dev")?.replace(':', " ");
    c.sh(&format!("mknod /tmp/other c {number}"))?;
    let _other = Undo(vec!["rm", "-f", "/tmp/other"]);
    // Under the name "exe", as init starts tests.
    let comm = c.read("/proc/self/comm")?;
    let pid = std::process::id();
    let why = format!("/dev/dax0.0 is in use by {comm} (pid {pid})");
    let open = File::open("/tmp/other")?;
    refused(c, &ns, &why)?;
    let map = Map::new(&open, 0, tools::HUGE, PROT_READ, MAP_SHARED)?;
    drop(open);
    refused(c, &ns, &why)?;
    fs::remove_file("/tmp/other")?;
    refused(c, &ns, &why)?;
    drop(map);
    c.ok(&[TOOL, &ns, "rpmem"])?;
    c.ok(&[TOOL, "--all", "nd_pmem"])?;
    check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some("dax_pmem"));
    c.ok(&[TOOL, "--all", "rpmem"])?;
    check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some("rpmem"));
    Ok(())
}

fn module_alias(c: &mut Ctx) -> TestResult {
    let aliases = c.ok(&["modinfo", "-F", "alias", crate::support::ctx::init_ko()])?;
    let aliases: Vec<&str> = aliases.lines().collect();
    for want in ["nd:t4*", "nd:t5*", "nd:t7*"] {
        check!(aliases.contains(&want), "no alias {want}: {aliases:?}");
    }
    check_eq!(
        c.ok(&["modinfo", "-F", "license", crate::support::ctx::init_ko()])?,
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
    fs::copy(crate::support::ctx::init_ko(), format!("{dir}/rpmem.ko"))?;
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
