// SPDX-License-Identifier: GPL-2.0

//! On a tree of files in the shape of sysfs and procfs: what a guest cannot be brought to. The rest is
//! tested in guests, by the scenario namespace-bind.

use crate::{
    claim::{
        Claim,
        Error, //
    },
    completion,
    give::{
        give,
        Done,
        Driver,
        How,
        Refusal, //
    },
    holder::{
        Holder,
        Look,
        Why, //
    },
    namespace::Namespace,
    Command,
    Sys, //
};
use clap::CommandFactory;
use std::{
    env,
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    }, //
};

/// A namespace in sector mode with one partition, at rpmem.
struct Host {
    top: PathBuf,
    sys: Sys,
}

/// Numbers that no device of the machine that runs the tests has.
const DISK: &str = "4000:16";
const PART: &str = "4000:17";
const BTT: &str = "sys/bus/nd/devices/btt0.0";

impl Host {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rpmem-bind-test-{}-{count}", process::id());
        let top = env::temp_dir().join(name);
        let host = Host {
            sys: Sys {
                sysfs: top.join("sys"),
                proc: top.join("proc"),
                dev: top.join("dev"),
                run: top.join("run"),
            },
            top,
        };
        let ns = "sys/bus/nd/devices/namespace0.0";
        for (file, text) in [
            ("size", "4096"),
            ("mode", "safe"),
            ("holder", "btt0.0"),
            ("uuid", ""),
        ] {
            host.file(&format!("{ns}/{file}"), text);
        }
        host.file(&format!("{BTT}/size"), "4000");
        host.file(&format!("{BTT}/block/pmem0s/dev"), DISK);
        host.file(&format!("{BTT}/block/pmem0s/pmem0s1/dev"), PART);
        host.file(&format!("{BTT}/block/pmem0s/pmem0s1/partition"), "1");
        host.file(&format!("{BTT}/block/pmem0s/queue/dax"), "0");
        for driver in ["rpmem", "nd_pmem"] {
            for file in ["bind", "unbind"] {
                host.file(&format!("sys/bus/nd/drivers/{driver}/{file}"), "");
            }
        }
        symlink("../../drivers/rpmem", host.top.join(BTT).join("driver")).unwrap();
        host.file("sys/class/block/none", "");
        host.file("proc/self/mountinfo", "");
        host
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.top.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn space(&self) -> Namespace {
        Namespace::read(&self.sys, "namespace0.0").unwrap()
    }

    fn look(&self) -> Look {
        Look::at(&self.sys, &self.space().nodes)
    }

    fn give(&self, to: Driver, how: How) -> Result<Done, Refusal> {
        give(&self.sys, "namespace0.0", to, how)
    }

    fn holders(&self) -> Vec<(Why, String, String)> {
        let look = self.look();
        assert_eq!(look.unseen, None);
        let short = |h: Holder| (h.why, h.dev, h.by);
        look.holders.into_iter().map(short).collect()
    }

    /// Nothing was written anywhere.
    fn is_untouched(&self) -> bool {
        let empty = |file: &str| {
            let file = self.top.join("sys/bus/nd/drivers").join(file);
            fs::read(file).unwrap().is_empty()
        };
        empty("rpmem/unbind") && empty("nd_pmem/bind") && !self.sys.records().exists()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

const DRY: How = How {
    dry: true,
    keep_excluded: false,
};

#[test]
fn nodes_by_their_attributes() {
    let host = Host::new();
    host.file(&format!("{BTT}/rpmem/rpmem0/dev"), "511:0");
    host.file(&format!("{BTT}/dax1.0/dev"), "252:0");
    host.file(&format!("{BTT}/power/control"), "auto");
    // Another device's.
    host.file("sys/devices/other/dev", "1:3");
    symlink(
        "../../../../devices/other",
        host.top.join(BTT).join("other"),
    )
    .unwrap();
    let space = host.space();
    let names: Vec<_> = space.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["pmem0s", "pmem0s1", "dax1.0", "rpmem0"]);
    assert_eq!(space.disks().count(), 1);
    assert_eq!((space.device.as_str(), space.size), ("btt0.0", 4000));
    assert_eq!(space.driver.as_deref(), Some("rpmem"));
}

/// What is not understood may be a holder.
#[test]
fn what_cannot_be_read_stays() {
    for spoil in [
        |host: &Host| host.file(&format!("{BTT}/block/pmem0s/pmem0s1/dev"), "none"),
        |host: &Host| host.file("proc/self/mountinfo", "mounts"),
        |host: &Host| fs::remove_file(host.top.join("proc/self/mountinfo")).unwrap(),
        |host: &Host| host.file("proc/12/fd", ""),
        |host: &Host| host.file(&format!("{BTT}/block/pmem0s/holders"), ""),
    ] {
        let host = Host::new();
        assert!(host.give(Driver::NdPmem, DRY).is_ok());
        spoil(&host);
        let refusal = host.give(Driver::NdPmem, How::default()).unwrap_err();
        assert!(refusal.why.starts_with("it may be in use"), "{refusal:?}");
        assert!(host.is_untouched());
    }
}

#[test]
fn holders() {
    let host = Host::new();
    assert_eq!(host.holders(), []);
    let line = |number: &str, at: &str| format!("30 1 {number} / {at} rw - ext4 /dev/x rw\n");
    host.file("proc/12/mountinfo", &line(PART, "/there"));
    fs::create_dir_all(host.top.join("proc/12/fd")).unwrap();
    host.file("proc/12/maps", "");
    let part = |why, by: &str| (why, "pmem0s1".to_string(), by.to_string());
    assert_eq!(host.holders(), [part(Why::Mounted, "/there")]);
    assert_eq!(host.look().holders[0].pid, Some(12));
    // The copy of a mount that is here as well.
    host.file("proc/self/mountinfo", &line(PART, "/here\\040too"));
    assert_eq!(host.holders(), [part(Why::Mounted, "/here too")]);
    host.file("proc/self/mountinfo", &line("4000:18", "/other"));
    host.file("proc/12/mountinfo", "");

    host.file("proc/swaps", "Filename\n/dev/pmem0s1 partition 4 0 -1\n");
    assert_eq!(host.holders(), [part(Why::Swap, "")]);
    host.file("proc/swaps", "Filename\n/dev/pmem0s11 partition 4 0 -1\n");
    assert_eq!(host.holders(), []);

    let held = format!("{BTT}/block/pmem0s/pmem0s1/holders/dm-3");
    host.file(&format!("{held}/dm/name"), "vg-lv");
    assert_eq!(host.holders(), [part(Why::Part, "dm-3 (vg-lv)")]);
    fs::remove_dir_all(host.top.join(held)).unwrap();

    // A node that was removed since.
    let back = "sys/class/block/loop7/loop/backing_file";
    host.file(back, "/dev/pmem0s1 (deleted)");
    assert_eq!(host.holders(), [part(Why::Part, "loop7")]);
    host.file(back, "/srv/pmem0s1");
    assert_eq!(host.holders(), []);

    let target = "sys/kernel/config/nvmet/subsystems/nqn.x/namespaces/1";
    host.file(&format!("{target}/device_path"), "/dev/pmem0s1");
    host.file(&format!("{target}/enable"), "0");
    assert_eq!(host.holders(), []);
    host.file(&format!("{target}/enable"), "1");
    assert_eq!(host.holders(), [part(Why::Exported, "nqn.x")]);
}

#[test]
fn system_ram() {
    let host = Host::new();
    host.file(&format!("{BTT}/dax0.0/dev"), "252:0");
    let dir = host.top.join("sys/bus/dax/devices/dax0.0");
    fs::create_dir_all(&dir).unwrap();
    symlink("../../drivers/device_dax", dir.join("driver")).unwrap();
    assert_eq!(host.holders(), []);
    fs::remove_file(dir.join("driver")).unwrap();
    symlink("../../drivers/kmem", dir.join("driver")).unwrap();
    let dax = "dax0.0".to_string();
    assert_eq!(host.holders(), [(Why::SystemRam, dax, String::new())]);
}

/// Only EBUSY means that somebody else has it.
#[test]
fn errors_are_not_claims() {
    let host = Host::new();
    host.file("dev/pmem0s", "a file, and no device");
    fs::create_dir_all(&host.sys.run).unwrap();
    let space = host.space();
    match Claim::new(&host.sys, space.disk().unwrap()) {
        Err(Error::Other(why)) => assert!(!why.is_empty()),
        other => panic!("{other:?}"),
    }
    let refusal = host.give(Driver::NdPmem, How::default()).unwrap_err();
    assert!(
        refusal.why.starts_with("cannot hold /dev/pmem0s"),
        "{refusal:?}"
    );
    assert!(refusal.held.is_empty());
    assert!(host.is_untouched());
    // Nor is a node left behind.
    assert_eq!(fs::read_dir(&host.sys.dev).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&host.sys.run).unwrap().count(), 0);
}

#[test]
fn excluded() {
    let host = Host::new();
    let steps = |to| match host.give(to, DRY).unwrap() {
        Done::WouldMove { steps, .. } => steps,
        other => panic!("{other:?}"),
    };
    let exclude = "sys/module/rpmem/parameters/exclude";
    assert_eq!(steps(Driver::NdPmem).len(), 2, "a module without it");
    for (list, want) in [
        ("devdax", Some("devdax,namespace0.0")),
        ("devdax,!namespace0.0", Some("devdax,namespace0.0")),
        ("sector,!namespace0.0", Some("sector")),
        ("sector", None),
    ] {
        host.file(exclude, &format!("{list}\n"));
        let steps = steps(Driver::NdPmem);
        let wrote = steps[0].strip_prefix("would write ").unwrap();
        let wrote = wrote.split(' ').next().filter(|_| steps.len() == 3);
        assert_eq!(wrote, want, "{list}: {steps:?}");
    }

    fs::remove_file(host.top.join(BTT).join("driver")).unwrap();
    symlink("../../drivers/nd_pmem", host.top.join(BTT).join("driver")).unwrap();
    for (list, want) in [
        ("", None),
        ("sector", Some("sector,!namespace0.0")),
        ("namespace0.0,raw", Some("raw")),
        ("sector,!namespace0.0", None),
    ] {
        host.file(exclude, &format!("{list}\n"));
        let steps = steps(Driver::Rpmem);
        let wrote = steps[0].strip_prefix("would write ").unwrap();
        let wrote = wrote.split(' ').next().filter(|_| steps.len() == 3);
        assert_eq!(wrote, want, "{list}: {steps:?}");
        let all = How {
            keep_excluded: true,
            ..DRY
        };
        let stays = matches!(host.give(Driver::Rpmem, all), Ok(Done::Excluded { .. }));
        assert_eq!(
            stays,
            !matches!(list, "" | "sector,!namespace0.0"),
            "{list}"
        );
    }

    // The word that a move from rpmem has left is not the administrator's.
    let all = How {
        keep_excluded: true,
        ..DRY
    };
    for (first, list, stays) in [
        ("rpmem", "namespace0.0", false),
        ("rpmem", "sector,namespace0.0", true),
        ("nd_pmem", "namespace0.0", true),
    ] {
        host.file("run/rpmem-bind/namespace0.0", first);
        host.file(exclude, list);
        let done = host.give(Driver::Rpmem, all);
        let stayed = matches!(done, Ok(Done::Excluded { .. }));
        assert_eq!(stayed, stays, "{first}, {list}");
    }
}

/// Nobody has read its info block: it may be in any mode.
#[test]
fn excluded_in_any_mode() {
    let host = Host::new();
    let ns = "sys/bus/nd/devices/namespace0.0";
    host.file(&format!("{ns}/mode"), "raw");
    host.file(&format!("{ns}/holder"), "");
    for (list, want) in [
        ("raw", "raw,namespace0.0"),
        ("raw,fsdax,sector,devdax", "raw,fsdax,sector,devdax"),
        ("", "namespace0.0"),
    ] {
        host.file("sys/module/rpmem/parameters/exclude", list);
        let done = host.give(Driver::NdPmem, DRY);
        let Ok(Done::WouldMove { steps, .. }) = done else {
            panic!("{done:?}");
        };
        let wrote = steps.len() == 2;
        assert_eq!(wrote, list != want, "{steps:?}");
        let step = format!("would write {want} to ");
        assert!(!wrote || steps[0].starts_with(&step), "{steps:?}");
    }
}

#[test]
fn other_devices_are_no_namespaces() {
    let host = Host::new();
    for name in [
        "btt0.0",
        "../devices/namespace0.0",
        "namespace0.0/.",
        "namespace0.1",
    ] {
        assert!(Namespace::read(&host.sys, name).is_none(), "{name}");
    }
    let refusal = give(&host.sys, "/dev/pmem0s1", Driver::NdPmem, DRY).unwrap_err();
    assert_eq!(refusal.advice, "/dev/pmem0s1 belongs to namespace0.0.");
    // The seed of one that is to be made.
    host.file("sys/bus/nd/devices/namespace0.0/size", "0");
    assert!(Namespace::all(&host.sys).unwrap().is_empty());
}

#[test]
fn command_line() {
    Command::command().debug_assert();
    for shell in ["bash", "fish", "zsh"] {
        let script = completion(shell);
        assert!(script.contains("grep ^namespace"), "{script}");
        assert!(!script.contains("NAMESPACE"), "{script}");
        assert!(!script.contains("completion"), "{script}");
    }
}
