// SPDX-License-Identifier: GPL-2.0
//! A Debian host with / on persistent memory and rpmem by DKMS gets a new kernel by apt, and loses it:
//! scripts/hosts/upgrade has made the host and a repository of the packages.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::host::of_root;
use crate::support::kexec;
use crate::support::namespace::active;
use crate::support::tools;
use crate::{check, check_eq};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    upgrade_store => store,
    upgrade_before => before,
    upgrade_install => install,
    upgrade_reboot => reboot,
    upgrade_after => after,
    upgrade_reboot_into_old => reboot_into_old,
    upgrade_downgrade => downgrade,
    upgrade_purge => purge,
    upgrade_reboot_without => reboot_into_old,
    upgrade_without => without,
};

/// Where the repository is mounted, as the host's sources.list says.
const REPOSITORY: &str = "/mnt";

fn release(c: &Ctx) -> TestResult<String> {
    c.read("/proc/sys/kernel/osrelease")
}

/// The releases that the repository has, from old to new.
fn releases() -> TestResult<[String; 2]> {
    let mut all: Vec<String> = tools::names(REPOSITORY)
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter_map(|name| name.split_once('_'))
        .map(|(release, _)| release.to_string())
        .collect();
    all.sort();
    all.try_into()
        .map_err(|all| format!("two kernels are expected, there are {all:?}").into())
}

/// All of an apt run is in the log of the test, and its status is 0.
fn apt(c: &Ctx, args: &str) -> TestResult<String> {
    let out = c.ok(&[
        "sh",
        "-c",
        &format!("exec env DEBIAN_FRONTEND=noninteractive apt-get -y {args} 2>&1"),
    ])?;
    println!("{out}");
    // Every package is in order.
    check_eq!(c.ok(&["dpkg", "--audit"])?, "", "dpkg --audit");
    Ok(out)
}

fn store(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    let ns = c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "3584M"])?;
    let dev = format!("/dev/{}", c.disk_of(&active(c, &ns)?)?);
    c.modprobe("virtio_blk")?;
    c.wait_exists("/dev/vda")?;
    let from = "if=/dev/vda";
    c.ok(&["dd", from, &format!("of={dev}"), "bs=4M", "oflag=direct"])?;
    c.mount(&dev, "/mnt/pmem", "dax=always")?;
    let init = "/mnt/pmem/usr/lib/rpmem-guest";
    fs::copy("/proc/self/exe", init)?;
    fs::set_permissions(init, fs::Permissions::from_mode(0o755))?;
    c.umount("/mnt/pmem")?;
    for mode in ["devdax", "sector"] {
        c.create_namespace(&["-m", mode, "-s", "64M"])?;
    }
    Ok(())
}

/// Who has which namespace, by the kernel's names; `/` is on the one in fsdax mode.
fn drivers(c: &Ctx) -> TestResult<Vec<(String, String)>> {
    let mut all = Vec::new();
    for ns in c.namespaces() {
        let on = active(c, &ns)?;
        let mode = c.read(c.nd(&ns).join("mode"))?;
        all.push((mode, c.bound_to(&on).unwrap_or_default()));
    }
    all.sort();
    Ok(all)
}

fn served_by(c: &Ctx, driver: &str) -> TestResult {
    let (ns, _) = of_root(c)?;
    check_eq!(c.bound_to(&active(c, &ns)?).as_deref(), Some(driver));
    let options = c.ok(&["findmnt", "-n", "-o", "FSTYPE,OPTIONS", "/"])?;
    check!(
        options.starts_with("ext4") && options.contains("dax=always"),
        "{options}"
    );
    let want = [("dax", "dax_pmem"), ("memory", driver), ("safe", driver)];
    let want = want.map(|(mode, driver)| (mode.to_string(), driver.to_string()));
    check_eq!(drivers(c)?, want);
    for ns in c.namespaces() {
        let on = active(c, &ns)?;
        if c.bound_to(&on).as_deref() == Some("dax_pmem") {
            let names = tools::names(c.nd(&on));
            let node = names
                .iter()
                .find(|n| n.starts_with("dax") && n.contains('.'));
            let Some(node) = node else {
                crate::fail!("{ns} has no dax device: {names:?}")
            };
            c.wait_exists(format!("/dev/{node}"))?;
        }
    }
    Ok(())
}

/// The line of "dkms status" for that kernel.
fn dkms(c: &Ctx, release: &str) -> TestResult<Option<String>> {
    let all = c.ok(&["dkms", "status", "rpmem"])?;
    Ok(all
        .lines()
        .find(|line| line.contains(release))
        .map(str::to_string))
}

fn before(c: &mut Ctx) -> TestResult {
    c.ok(&["mount", "-o", "ro", "/dev/vdb", REPOSITORY])?;
    let [old, new] = releases()?;
    check_eq!(release(c)?, old);
    served_by(c, "rpmem")?;
    check!(!c.module_loaded("nd_pmem"), "nd_pmem was loaded");
    check_eq!(dkms(c, &new)?, None);
    let of_old = dkms(c, &old)?.unwrap_or_default();
    check!(of_old.ends_with(": installed"), "{of_old}");
    c.ok(&["rpmem-bind"])?;
    Ok(())
}

/// apt brings the new kernel, DKMS the module for it, and both are in the initramfs.
fn install(c: &mut Ctx) -> TestResult {
    let [_, new] = releases()?;
    apt(c, "update")?;
    let out = apt(
        c,
        &format!("install linux-image-{new} linux-headers-{new} linux-lib-rust-{new}"),
    )?;
    check!(!out.contains("skipped"), "something was skipped");
    let of_new = dkms(c, &new)?.unwrap_or_default();
    check!(of_new.ends_with(": installed"), "{of_new}");
    let list = c.ok(&["lsinitramfs", &format!("/boot/initrd.img-{new}")])?;
    for file in [
        "updates/dkms/rpmem.ko",
        "rules.d/59-rpmem.rules",
        "sbin/rpmem-bind",
    ] {
        check!(list.contains(file), "no {file} in the initramfs");
    }
    Ok(())
}

/// Starts another kernel of this host, as its boot loader would: none knows persistent memory.
fn start(c: &Ctx, release: &str) -> TestResult {
    let kernel = File::open(format!("/boot/vmlinuz-{release}"))?;
    let initrd = File::open(format!("/boot/initrd.img-{release}"))?;
    kexec::load(c, &kernel, &initrd, "", 0)?;
    c.ok(&["sync"])?;
    kexec::start()
}

fn reboot(c: &mut Ctx) -> TestResult {
    let [_, new] = releases()?;
    start(c, &new)
}

fn after(c: &mut Ctx) -> TestResult {
    c.ok(&["mount", "-o", "ro", "/dev/vdb", REPOSITORY])?;
    let [_, new] = releases()?;
    check_eq!(release(c)?, new);
    served_by(c, "rpmem")?;
    check!(!c.module_loaded("nd_pmem"), "nd_pmem was loaded");
    Ok(())
}

fn reboot_into_old(c: &mut Ctx) -> TestResult {
    let [old, _] = releases()?;
    start(c, &old)
}

/// The new kernel goes; what was made for it goes with it.
fn downgrade(c: &mut Ctx) -> TestResult {
    c.ok(&["mount", "-o", "ro", "/dev/vdb", REPOSITORY])?;
    let [old, new] = releases()?;
    check_eq!(release(c)?, old);
    served_by(c, "rpmem")?;
    let kernel = ["image", "headers", "lib-rust", "modules", "binary", "base"]
        .map(|part| format!("linux-{part}-{new}"))
        .join(" ");
    apt(c, &format!("purge {kernel}"))?;
    check_eq!(dkms(c, &new)?, None);
    let left = c.ok(&[
        "find",
        "/boot",
        "/usr/lib/modules",
        "/usr/src",
        "/var/cache/linux-lib-rust",
        "/var/lib/dkms",
        "/var/lib/rpmem-dkms",
        "-name",
        &format!("*{new}*"),
    ])?;
    check_eq!(left, "", "left of {new}");
    let of_old = dkms(c, &old)?.unwrap_or_default();
    check!(of_old.ends_with(": installed"), "{of_old}");
    Ok(())
}

/// What puts the kernel's own drivers into the initramfs after rpmem's hook has gone.
const ROOT_HOOK: &str = "/etc/initramfs-tools/hooks/nvdimm-root";

/// rpmem goes while `/` is on its disk, and leaves what the next boot needs: one file, which it names.
fn purge(c: &mut Ctx) -> TestResult {
    let [old, _] = releases()?;
    check!(!Path::new(ROOT_HOOK).exists(), "{ROOT_HOOK} is there");
    let out = apt(
        c,
        &format!("purge rpmem-dkms rpmem-tools linux-lib-rust linux-lib-rust-{old}"),
    )?;
    check!(out.contains(ROOT_HOOK), "nothing is said of {ROOT_HOOK}");
    check!(Path::new(ROOT_HOOK).exists(), "{ROOT_HOOK} is not there");
    // But for the program of these tests.
    let left = c.ok(&[
        "sh",
        "-c",
        "find / -xdev '(' -name '*rpmem*' -o -path '*linux-lib-rust*' ')' \
            ! -name 'rpmem-guest*' ! -path '/var/lib/apt/*' ! -path '/tmp/*'",
    ])?;
    check_eq!(left, "", "left of rpmem");
    let list = c.ok(&["lsinitramfs", &format!("/boot/initrd.img-{old}")])?;
    check!(!list.contains("rpmem"), "rpmem is in the initramfs");
    check!(list.contains("nvdimm/nd_pmem.ko"), "nd_pmem is not");
    Ok(())
}

fn without(c: &mut Ctx) -> TestResult {
    c.ok(&["mount", "-o", "ro", "/dev/vdb", REPOSITORY])?;
    let [old, _] = releases()?;
    check_eq!(release(c)?, old);
    check!(!c.module_loaded("rpmem"), "rpmem is loaded");
    // What systemd does on a host: the initramfs has no drivers of device-dax now.
    c.ok(&["/usr/lib/systemd/systemd-udevd", "--daemon"])?;
    c.ok(&["udevadm", "trigger", "--action=add"])?;
    c.ok(&["udevadm", "settle"])?;
    served_by(c, "nd_pmem")
}
