// SPDX-License-Identifier: GPL-2.0
//! Disks that may not be written to, or cannot be read everywhere.

use super::{name, MNT};
use crate::support::ctx::{Ctx, Test, TestResult, EXT4_NOT_LAZY};
use crate::support::disk::{self, errno, Buf, MIB, PAGE};
use crate::support::sys;
use crate::{check, check_eq};
use std::fs::File;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    block_badblocks => badblocks,
    block_region_read_only => region_read_only,
    block_unarmed_dimm => unarmed_dimm,
};

/// Sectors marked bad by hand: reads fail, so do writes where the platform clears no poison.
fn badblocks(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let dev = c.pmem()?;
    let path = format!("/sys/block/{}/badblocks", name(&dev));
    check_eq!(c.read(&path)?, "", "no platform reported errors");
    let f = disk::direct(&dev)?;
    disk::fill(&f, 900, 0, MIB)?;
    c.write(&path, "1001 2")?;
    check_eq!(c.read(&path)?, "1001 2");
    let mut b = Buf::page(MIB as usize);
    for (sector, count, want) in [
        (1000, 1, 0),
        (1001, 1, libc::EIO),
        (1002, 1, libc::EIO),
        (1003, 1, 0),
        (1000, 8, libc::EIO),
        (0, 2048, libc::EIO),
        (0, 1001, 0),
        (1003, 1045, 0),
    ] {
        let r = f.read_at(&mut b.bytes_mut()[..count * 512], sector * 512);
        check_eq!(errno(&r), want, "{count} sectors from {sector}");
    }
    let r = f.write_at(&b.bytes()[..512], 1001 * 512);
    check_eq!(errno(&r), libc::EIO, "nobody clears poison here");
    drop(f);
    // The list is the bus's: a new bind has none.
    let driver = c.driver.clone();
    c.unbind(&driver, &ns)?;
    c.bind(&driver, &ns)?;
    let dev = c.pmem()?;
    check_eq!(c.read(&path)?, "");
    disk::verify(&disk::direct(&dev)?, 900, 0, MIB)
}

fn is_ro(c: &Ctx, dev: &str) -> TestResult<bool> {
    let f = File::open(dev)?;
    let mut ro = -1i32;
    disk::ioctl(&f, disk::BLKROGET, &mut ro)?;
    let attr = c.disk_attr(dev, "ro")?;
    check_eq!(attr, ro.to_string(), "ro in sysfs and BLKROGET");
    Ok(ro == 1)
}

/// Nothing changes a disk that is read-only.
fn check_refuses_writes(c: &Ctx, dev: &str) -> TestResult {
    let r = File::options().read(true).write(true).open(dev);
    if let Ok(f) = &r {
        let b = Buf::pattern(PAGE, 666);
        check_eq!(
            errno(&f.write_at(b.bytes(), 0)),
            libc::EPERM,
            "buffered write"
        );
        let f = disk::direct(dev)?;
        check_eq!(
            errno(&f.write_at(b.bytes(), 0)),
            libc::EPERM,
            "O_DIRECT write"
        );
        let r = disk::ioctl(&f, disk::BLKZEROOUT, &mut [0u64, 4096]);
        check_eq!(errno(&r), libc::EPERM, "BLKZEROOUT");
    } else {
        check_eq!(errno(&r), libc::EACCES, "open for writing");
    }
    c.fails(&["mkfs.ext4", "-q", "-F", dev])?;
    // The user's own flag cannot override the region's.
    let f = File::open(dev)?;
    disk::ioctl(&f, disk::BLKROSET, &mut 0i32)?;
    check!(is_ro(c, dev)?, "BLKROSET made a read-only disk writable");
    Ok(())
}

fn region_read_only(c: &mut Ctx) -> TestResult {
    let r = toggle_region(c);
    // Whatever went wrong, the tests after this one can write.
    c.write("/sys/bus/nd/devices/region0/read_only", "0")?;
    r
}

fn toggle_region(c: &mut Ctx) -> TestResult {
    // Behind the file system.
    const AT: u64 = 80 * MIB;
    let ns = c.namespace()?;
    let dev = c.pmem()?;
    let disk = name(&dev).to_string();
    let ro = |c: &Ctx, v: &str| c.write("/sys/bus/nd/devices/region0/read_only", v);
    c.ok(&["mkfs.ext4", "-q", "-F", "-E", EXT4_NOT_LAZY, &dev, "64M"])?;
    c.sh(&format!(
        "mkdir -p {MNT}; mount {dev} {MNT}; echo content > {MNT}/f; umount {MNT}"
    ))?;
    let marks = disk::Buf::pattern(PAGE, 77);
    let f = disk::direct(&dev)?;
    f.write_all_at(marks.bytes(), AT)?;
    check!(!is_ro(c, &dev)?);
    let open_before = disk::direct(&dev)?;

    ro(c, "1")?;
    check!(is_ro(c, &dev)?, "the region went read-only, {disk} did not");
    c.dmesg_has("read-only, marking")?;
    check_refuses_writes(c, &dev)?;
    let r = open_before.write_at(Buf::pattern(PAGE, 78).bytes(), AT);
    check_eq!(errno(&r), libc::EPERM, "a descriptor that was open before");
    let mut b = Buf::page(PAGE);
    open_before.read_exact_at(b.bytes_mut(), AT)?;
    check_eq!(sys::pattern_differs(77, b.bytes()), None);
    drop((f, open_before));
    let out = c.sh(&format!(
        "mount -o ro {dev} {MNT}; cat {MNT}/f; findmnt -n -o OPTIONS {MNT}; umount {MNT}"
    ))?;
    check!(out.starts_with("content\nro"), "a mount with -o ro: {out}");
    // mount(8) falls back to a read-only mount and says so.
    let out = c.sh(&format!(
        "mount -o rw {dev} {MNT} 2>&1; findmnt -n -o OPTIONS {MNT}; umount {MNT}"
    ))?;
    check!(
        out.contains("mounted read-only")
            && out.lines().last().is_some_and(|l| l.starts_with("ro")),
        "a mount with -o rw: {out}"
    );

    // A disk that is made while the region is read-only.
    let driver = c.driver.clone();
    c.unbind(&driver, &ns)?;
    c.bind(&driver, &ns)?;
    check!(is_ro(c, &c.pmem()?)?, "bound on a read-only region");
    check_refuses_writes(c, &dev)?;

    ro(c, "0")?;
    check!(
        !is_ro(c, &dev)?,
        "the region is writable again, {disk} is not"
    );
    let f = disk::direct(&dev)?;
    f.write_all_at(Buf::pattern(PAGE, 79).bytes(), AT)?;
    // The user's own flag, on a writable region.
    disk::ioctl(&f, disk::BLKROSET, &mut 1i32)?;
    check!(is_ro(c, &dev)?, "BLKROSET 1");
    check_eq!(errno(&f.write_at(b.bytes(), AT)), libc::EPERM);
    disk::ioctl(&f, disk::BLKROSET, &mut 0i32)?;
    check!(!is_ro(c, &dev)?, "BLKROSET 0");
    f.read_exact_at(b.bytes_mut(), AT)?;
    check_eq!(sys::pattern_differs(79, b.bytes()), None);
    Ok(())
}

/// A DIMM that reports that it cannot save its contents: its region starts read-only.
fn unarmed_dimm(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let dev = format!("/dev/{}", c.disk_of(&ns)?);
    check_eq!(c.read("/sys/bus/nd/devices/region0/read_only")?, "1");
    check!(is_ro(c, &dev)?, "{dev} is writable");
    check_refuses_writes(c, &dev)?;
    let mut b = Buf::pattern(PAGE, 1);
    File::open(&dev)?.read_exact_at(b.bytes_mut(), 0)?;
    check!(
        b.bytes().iter().all(|b| *b == 0),
        "the medium was written to"
    );
    Ok(())
}
