// SPDX-License-Identifier: GPL-2.0
//! ndctl's own tests, on nfit_test, with every namespace served by rpmem: nd_pmem and dax_pmem have
//! no driver there. scripts/stages/ndctl builds them from Debian's source and makes the list of them.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::{check, check_eq, fail};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tests here by ndctl's names.
macro_rules! of_ndctl {
    ($($name:ident => $theirs:literal,)*) => {
        pub const TESTS: &[Test] = crate::tests! {
            $($name => |c| upstream(c, $theirs),)*
            ndctl_all => all,
        };
        const RUN: &[&str] = &[$($theirs,)*];
    };
}

of_ndctl! {
    ndctl_ack_shutdown_count => "ack-shutdown-count-set",
    ndctl_btt_check => "btt-check.sh",
    ndctl_btt_errors => "btt-errors.sh",
    ndctl_btt_pad_compat => "btt-pad-compat.sh",
    ndctl_clear => "clear.sh",
    ndctl_create => "create.sh",
    ndctl_daxdev_errors => "daxdev-errors.sh",
    ndctl_dsm_fail => "dsm-fail",
    ndctl_firmware_update => "firmware-update.sh",
    ndctl_inject_error => "inject-error.sh",
    ndctl_inject_smart => "inject-smart.sh",
    ndctl_label_compat => "label-compat.sh",
    ndctl_max_extent => "max_extent_ns",
    ndctl_monitor => "monitor.sh",
    ndctl_multi_dax => "multi-dax.sh",
    ndctl_pfn_meta_errors => "pfn-meta-errors.sh",
    ndctl_pmem_errors => "pmem-errors.sh",
    ndctl_rescan_partitions => "rescan-partitions.sh",
    ndctl_sector_mode => "sector-mode.sh",
    ndctl_track_uuid => "track-uuid.sh",
}

/// Those that are not run, but for CXL's, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("align.sh", NVDIMM),
    ("dax-dev", E820),
    ("dax-ext4.sh", E820),
    ("dax-xfs.sh", E820),
    ("daxctl-create.sh", DEVICE_DAX),
    ("daxctl-devices.sh", DEVICE_DAX),
    ("device-dax", DEVICE_DAX),
    ("device-dax-fio.sh", DEVICE_DAX),
    ("dm.sh", NVDIMM),
    ("hugetlb", "of hugetlbfs, not of persistent memory"),
    ("libndctl", DEVICE_DAX),
    ("mmap.sh", E820),
    ("nfit-security.sh", "needs CONFIG_NVDIMM_SECURITY_TEST"),
    (
        "pmem-ns",
        "on nfit_test it clears the labels that it needs; with nd_pmem as well",
    ),
    ("revoke-devmem", E820),
    ("sub-section.sh", NVDIMM),
];
const E820: &str = "wants a namespace that memmap= made";
const NVDIMM: &str = "wants the firmware's NVDIMMs, with gigabytes of room";
const DEVICE_DAX: &str = "wants a region and a node of device-dax, where rpmem has /dev/rpmemN";

const HOME: &str = "/usr/lib/ndctl";
/// Of a test that found something missing.
const SKIPPED: i32 = 77;

/// The tests that there are: ndctl's name, and the program.
fn list(c: &Ctx) -> TestResult<Vec<(String, String)>> {
    let text = c.read(format!("{HOME}/tests"))?;
    let pair = |l: &str| l.split_once(' ').map(|(a, b)| (a.into(), b.into()));
    Ok(text.lines().filter_map(pair).collect())
}

/// No driver can have had a namespace but ours.
fn only_ours() -> TestResult {
    let is_there = |name: &str| Path::new("/sys/bus/nd/drivers").join(name).exists();
    check!(is_there("rpmem"), "there is no driver rpmem");
    for other in ["nd_pmem", "dax_pmem"] {
        check!(!is_there(other), "there is a driver {other}");
    }
    Ok(())
}

/// Whatever the test before has left of nfit_test. Nothing may hold the driver then.
fn clean(c: &Ctx) -> TestResult {
    if c.module_loaded("nfit_test") {
        c.settle();
        c.ok(&["ndctl", "disable-region", "all"])?;
        c.rmmod("nfit_test")?;
    }
    check_eq!(c.disks(), Vec::<String>::new());
    c.wait_unused("rpmem")
}

/// Gives the medium, which is vmalloc() memory, pages that were page cache. Of that there is something
/// left in them, as on a machine that has been in use.
fn used_memory() -> TestResult {
    let path = "/tmp/used";
    let mut f = fs::File::create(path)?;
    for _ in 0..512 {
        f.write_all(&[0; 1 << 20])?;
    }
    fs::remove_file(path)?;
    Ok(())
}

fn upstream(c: &mut Ctx, name: &str) -> TestResult {
    let Some((_, program)) = list(c)?.into_iter().find(|t| t.0 == name) else {
        fail!("ndctl has no test {name} any more");
    };
    clean(c)?;
    used_memory()?;
    // With it come all that the test could load; some tests unload all of them in the end.
    c.modprobe("nfit_test")?;
    only_ours()?;
    let dir = "/tmp/ndctl";
    fs::create_dir_all(dir)?;
    // Where the kernel's log is, here.
    fs::write("/usr/bin/journalctl", "#!/bin/sh\nexec dmesg\n")?;
    fs::set_permissions("/usr/bin/journalctl", fs::Permissions::from_mode(0o755))?;
    let mut command = Command::new(format!("{HOME}/test/{program}"));
    for tool in ["ndctl", "daxctl", "cxl"] {
        command.env(tool.to_uppercase(), format!("{HOME}/{tool}/{tool}"));
    }
    let status = command
        .env("TEST_PATH", format!("{HOME}/test"))
        .env("DATA_PATH", format!("{HOME}/test"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .status()?;
    check!(status.code() != Some(SKIPPED), "it skipped itself");
    check!(status.success(), "{status}");
    only_ours()?;
    clean(c)
}

/// What ndctl has is run, or stands in the list with the reason; and the reverse.
fn all(c: &mut Ctx) -> TestResult {
    let theirs: BTreeSet<String> = list(c)?.into_iter().map(|t| t.0).collect();
    let cxl = |name: &String| name.starts_with("cxl-");
    let theirs: BTreeSet<&str> = theirs.iter().filter(|n| !cxl(n)).map(|n| &**n).collect();
    let ours: Vec<&str> = RUN
        .iter()
        .copied()
        .chain(NOT_RUN.iter().map(|n| n.0))
        .collect();
    check_eq!(ours.iter().copied().collect::<BTreeSet<_>>(), theirs);
    check_eq!(ours.len(), theirs.len(), "one is in both lists");
    for (name, why) in NOT_RUN {
        println!("{name} is not run: {why}");
    }
    Ok(())
}
