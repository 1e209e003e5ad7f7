// SPDX-License-Identifier: GPL-2.0
//! The shortest way through everything: namespace, disk, file system, DAX, MAP_SYNC, power cut.
//! Driver-independent: scenarios run these under rpmem and under nd_pmem.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::sys::{self, Caught, Map};
use crate::{check, check_eq};
use std::fs::File;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    smoke_namespace => namespace,
    smoke_layout_refused => layout_refused,
    smoke_read_write => read_write,
    smoke_ext4 => ext4,
    smoke_fsdax_create => fsdax_create,
    smoke_fsdax_map_sync => fsdax_map_sync,
    smoke_cut_ext4 => cut_ext4,
    smoke_after_cut_ext4 => after_cut_ext4,
    smoke_cut_xfs => cut_xfs,
    smoke_after_cut_xfs => after_cut_xfs,
};

const MNT: &str = "/mnt/pmem";
const FILE: &str = "/mnt/pmem/data";
const LEN: usize = 8 << 20;

fn namespace(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    check_eq!(
        c.bound_to(&ns).as_deref(),
        Some(c.driver_name()),
        "driver of {ns}"
    );
    let disk = c.disk_of(&ns)?;
    let sectors: u64 = c
        .disk_attr(&disk, "size")?
        .parse()
        .map_err(|_| "size is no number")?;
    check_eq!(sectors * 512, c.read_u64(c.nd(&ns).join("size"))?);
    let list = c.ok(&["ndctl", "list", "-N"])?;
    check!(
        list.contains(&format!("\"blockdev\":\"{disk}\"")),
        "ndctl list -N: {list}"
    );
    Ok(())
}

/// A module that takes members of libnvdimm's structures to be elsewhere is not loaded: that very
/// one, with another offset in its table.
fn layout_refused(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    check!(
        !c.ok(&["dmesg"])?.contains("it is not proven"),
        "this kernel's BTF was not read"
    );
    c.rmmod("rpmem")?;
    let ko = std::fs::read(crate::support::ctx::init_ko())?;
    for (structure, member) in [("nd_region", "ro"), ("nd_pfn", "uuid"), ("btt", "btt_disk")] {
        let mut entry = [0; 32];
        entry[..structure.len()].copy_from_slice(structure.as_bytes());
        entry[16..16 + member.len()].copy_from_slice(member.as_bytes());
        let at: Vec<usize> = (0..ko.len() - entry.len())
            .filter(|&at| ko[at..].starts_with(&entry))
            .collect();
        check_eq!(at.len(), 1, "entries of {structure}.{member}");
        let mut other = ko.clone();
        other[at[0] + entry.len()] ^= 4;
        let file = std::path::Path::new("/tmp/other.ko");
        std::fs::write(file, other)?;
        c.mark_dmesg();
        let Err(err) = crate::support::ctx::insmod(file, &c.params) else {
            crate::fail!("a module with another offset of {structure}.{member} was loaded");
        };
        check!(err.contains("os error 8"), "not ENOEXEC: {err}");
        c.dmesg_has(&format!(
            "struct {structure}: {member} is taken to be at byte "
        ))?;
        check!(!c.module_loaded("rpmem"));
    }
    c.insmod_rpmem(&c.params)?;
    check_eq!(c.bound_to(&ns).as_deref(), Some("rpmem"));
    Ok(())
}

fn read_write(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = File::options().read(true).write(true).open(&dev)?;
    let mut data = vec![0; 1 << 20];
    sys::pattern(1, &mut data);
    f.write_all_at(&data, 4096 * 3)?;
    f.sync_all()?;
    c.ok(&["blockdev", "--flushbufs", &dev])?;
    let mut back = vec![0; data.len()];
    f.read_exact_at(&mut back, 4096 * 3)?;
    check_eq!(sys::pattern_differs(1, &back), None);
    c.sh(&format!(
        "dd if={dev} of=/dev/null bs=1M count=4 iflag=direct 2>&1"
    ))?;
    Ok(())
}

fn ext4(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "defaults")?;
    c.sh(&format!(
        "echo hello > {MNT}/f; sync; umount {MNT}; mount {dev} {MNT}; grep hello {MNT}/f"
    ))?;
    c.umount(MNT)
}

fn fsdax_create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev"])?;
    let dev = c.pmem()?;
    check_eq!(c.disk_attr(&dev, "queue/dax")?, "1");
    Ok(())
}

fn fsdax_map_sync(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "dax")?;
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(FILE)?;
    f.set_len(LEN as u64)?;
    let mut m = Map::sync(&f, 0, LEN)?;
    sys::pattern(2, m.slice_mut());
    let how = m.persist(0, LEN);
    println!("flushed with {}", how.name());
    check_eq!(sys::pattern_differs(2, &std::fs::read(FILE)?), None);
    // Beyond the end of the file there is nothing to map.
    let beyond = Map::shared(&f, LEN as u64, 4096)?;
    match sys::caught(|| beyond.read8(0))? {
        Caught::Fault(f) => {
            check_eq!((f.signal, f.code), (libc::SIGBUS, sys::BUS_ADRERR));
            check_eq!(f.addr, beyond.as_ptr() as usize);
        }
        other => crate::fail!("{other:?} instead of SIGBUS"),
    }
    drop(beyond);
    drop(m);
    drop(f);
    c.umount(MNT)
}

/// On a fresh fsdax namespace: file system, MAP_SYNC, stores, and the power fails.
fn cut(c: &mut Ctx, fs: &str) -> TestResult {
    let dev = c.pmem()?;
    c.mkfs(fs, &dev)?;
    c.mount(&dev, MNT, "dax")?;
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(FILE)?;
    f.set_len(LEN as u64)?;
    let mut m = Map::sync(&f, 0, LEN)?;
    sys::pattern(3, m.slice_mut());
    m.persist(0, LEN);
    c.power_cut()
}

fn after_cut(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    c.mount(&dev, MNT, "dax")?;
    let data = std::fs::read(FILE)?;
    check_eq!(data.len(), LEN);
    check_eq!(sys::pattern_differs(3, &data), None);
    c.umount(MNT)
}

fn cut_ext4(c: &mut Ctx) -> TestResult {
    cut(c, "ext4")
}

fn cut_xfs(c: &mut Ctx) -> TestResult {
    cut(c, "xfs")
}

fn after_cut_ext4(c: &mut Ctx) -> TestResult {
    after_cut(c)?;
    c.ok(&["fsck.ext4", "-n", "-f", &c.pmem()?])?;
    Ok(())
}

fn after_cut_xfs(c: &mut Ctx) -> TestResult {
    after_cut(c)?;
    c.ok(&["xfs_repair", "-n", &c.pmem()?])?;
    Ok(())
}
