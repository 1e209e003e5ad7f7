// SPDX-License-Identifier: GPL-2.0
//! Namespaces in sector mode: libnvdimm's block translation table on top of ours.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Marks};
use crate::support::tools::{self, errno, Space, HUGE};
use crate::{check, check_eq, fail};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    sector_create => create,
    sector_data => data,
    sector_read_only => read_only,
    sector_busy => busy,
    sector_files => files,
    sector_cut => cut,
    sector_after_cut => after_cut,
};

const MARKS: u64 = 910;

fn spaces(c: &Ctx) -> TestResult<Vec<Space>> {
    let v = tools::spaces(c)?;
    check_eq!(v.len(), 2, "disks");
    for s in &v {
        check!(s.nd.starts_with("btt"), "{} has {}", s.nd, s.disk);
        check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"), "{}", s.nd);
    }
    Ok(v)
}

/// One with sectors of 512 bytes, and one with 4096.
fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for sector in ["512", "4096"] {
        c.create_namespace(&["-m", "sector", "-l", sector, "-s", "64M"])?;
    }
    // In the order of their names: pmem0.1s is before pmem0s.
    for (s, sector) in spaces(c)?.iter().zip(["4096", "512"]) {
        check!(s.disk.ends_with('s'), "name {}", s.disk);
        for file in ["queue/logical_block_size", "queue/hw_sector_size"] {
            check_eq!(c.disk_attr(&s.disk, file)?, sector, "{file}");
        }
        // A block of it is nowhere in one piece.
        check_eq!(c.disk_attr(&s.disk, "queue/dax")?, "0", "queue/dax");
        let node = format!("/dev/r{}", s.disk);
        check!(!Path::new(&node).exists(), "{node}");
    }
    let list = c.ok(&["ndctl", "list", "-N"])?;
    check_eq!(list.matches("\"mode\":\"sector\"").count(), 2, "{list}");
    check_eq!(list.matches("\"state\":\"disabled\"").count(), 0, "{list}");
    Ok(())
}

/// What was written is there, under this driver and after another bind.
fn data(c: &mut Ctx) -> TestResult {
    for s in spaces(c)? {
        let dev = disk::direct(&s.dev())?;
        disk::fill(&dev, 41, 0, 4 * HUGE as u64)?;
        Marks::new(MARKS).write(&s.dev())?;
        disk::fill(&dev, 42, HUGE as u64, HUGE as u64)?;
        drop(dev);
        for _ in 0..3 {
            s.unbind(c)?;
            check!(!Path::new(&s.dev()).exists(), "a disk without driver");
            s.bind(c)?;
            let dev = disk::direct(&s.dev())?;
            disk::verify(&dev, 42, HUGE as u64, HUGE as u64)?;
        }
    }
    // And after the driver was away.
    c.rmmod("rpmem")?;
    check!(c.disks().is_empty(), "disks without driver");
    c.insmod_rpmem("")?;
    for s in spaces(c)? {
        disk::verify(&disk::direct(&s.dev())?, 42, HUGE as u64, HUGE as u64)?;
    }
    Ok(())
}

/// The disk follows its region.
fn read_only(c: &mut Ctx) -> TestResult {
    let [region] = c
        .regions()
        .try_into()
        .map_err(|v| format!("regions: {v:?}"))?;
    let file = c.nd(&region).join("read_only");
    for s in spaces(c)? {
        for _ in 0..2 {
            c.write(&file, "1")?;
            check_eq!(c.disk_attr(&s.disk, "ro")?, "1", "ro");
            let dev = disk::direct(&s.dev())?;
            let buffer = disk::Buf::page(4096);
            check_eq!(
                errno(&dev.write_at(buffer.bytes(), 0)),
                libc::EPERM,
                "a write"
            );
            c.write(&file, "0")?;
            check_eq!(c.disk_attr(&s.disk, "ro")?, "0", "ro");
        }
        disk::fill(&disk::direct(&s.dev())?, 43, 0, HUGE as u64)?;
        // One that is bound while the region is read-only.
        c.write(&file, "1")?;
        s.unbind(c)?;
        s.bind(c)?;
        check_eq!(c.disk_attr(&s.disk, "ro")?, "1", "ro after bind");
        disk::verify(&disk::direct(&s.dev())?, 43, 0, HUGE as u64)?;
        c.write(&file, "0")?;
        check_eq!(c.disk_attr(&s.disk, "ro")?, "0", "ro, at last");
    }
    Ok(())
}

/// Unbinding under an open file: errors, and no harm.
fn busy(c: &mut Ctx) -> TestResult {
    for s in spaces(c)? {
        let dev = disk::direct(&s.dev())?;
        disk::fill(&dev, 44, 0, HUGE as u64)?;
        s.unbind(c)?;
        let mut b = disk::Buf::page(4096);
        match dev.read_at(b.bytes_mut(), 0) {
            // A disk that is gone has no bytes.
            Ok(0) => (),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::ENXIO)) => (),
            other => fail!("a read of a disk that is gone: {other:?}"),
        }
        drop(dev);
        s.bind(c)?;
        disk::verify(&disk::direct(&s.dev())?, 44, 0, HUGE as u64)?;
    }
    Ok(())
}

/// A file system, and no DAX.
fn files(c: &mut Ctx) -> TestResult {
    let Some(s) = spaces(c)?.into_iter().nth(1) else {
        fail!("no disk");
    };
    c.mkfs("ext4", &s.dev())?;
    check!(
        c.mount(&s.dev(), "/mnt/pmem", "dax").is_err(),
        "mounted with DAX"
    );
    c.mount(&s.dev(), "/mnt/pmem", "defaults")?;
    let f = tools::file_of("/mnt/pmem/file", HUGE)?;
    disk::fill(&f, 45, 0, HUGE as u64)?;
    f.sync_all()?;
    drop(f);
    c.umount("/mnt/pmem")?;
    s.unbind(c)?;
    s.bind(c)?;
    c.mount(&s.dev(), "/mnt/pmem", "defaults")?;
    disk::verify(&tools::open_flags("/mnt/pmem/file", 0)?, 45, 0, HUGE as u64)?;
    c.umount("/mnt/pmem")?;
    c.ok(&["fsck.ext4", "-n", "-f", &s.dev()])?;
    Ok(())
}

fn cut(c: &mut Ctx) -> TestResult {
    for s in spaces(c)? {
        Marks::new(MARKS).write(&s.dev())?;
    }
    c.power_cut()
}

fn after_cut(c: &mut Ctx) -> TestResult {
    for s in spaces(c)? {
        Marks::new(MARKS).check(&s.dev())?;
    }
    Ok(())
}
