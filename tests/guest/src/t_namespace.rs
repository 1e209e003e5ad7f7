// SPDX-License-Identifier: GPL-2.0
//! Namespaces in every mode the driver takes: what they offer, their sizes, that data stays
//! where it is whatever is unbound, disabled or unloaded.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, errno, Buf, Marks, MIB, PAGE};
use crate::support::namespace::{active, bind_raw, fresh, unbind_raw};
use crate::support::sys::{self, Map};
use crate::{check, check_eq};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    namespace_raw => raw,
    namespace_raw_survives => raw_survives,
    namespace_fsdax_mem => fsdax_mem,
    namespace_fsdax_dev => fsdax_dev,
    namespace_two_in_region => two_in_region,
    namespace_e820 => e820,
    namespace_e820_survives => e820_survives,
    namespace_too_small => too_small,
    namespace_range_claimed => range_claimed,
};

const MNT: &str = "/mnt/pmem";

/// Marks stay, and the disk keeps name and size, through everything that takes it away.
fn survives(c: &Ctx, ns: &str) -> TestResult {
    let disk = c.disk_of(&active(c, ns)?)?;
    let dev = format!("/dev/{disk}");
    let region = c.regions().first().cloned().unwrap_or_default();
    let size = disk::check_sizes(c, ns, &disk)?;
    let marks = Marks::new(3000);
    marks.write(&dev)?;

    let check = |how: &str| -> TestResult {
        println!("{how}");
        let again = c.disk_of(&active(c, ns)?)?;
        check_eq!(again, disk, "name after {how}");
        check_eq!(disk::check_sizes(c, ns, &disk)?, size, "size after {how}");
        marks.check(&dev)
    };
    let gone = |how: &str| -> TestResult {
        check_eq!(c.disks(), Vec::<String>::new(), "disks after {how}");
        Ok(())
    };

    let on = active(c, ns)?;
    c.unbind(&c.driver, &on)?;
    gone("unbind")?;
    c.bind(&c.driver, &on)?;
    check("unbind and bind")?;

    c.ok(&["ndctl", "disable-namespace", ns])?;
    gone("disable-namespace")?;
    c.ok(&["ndctl", "enable-namespace", ns])?;
    c.settle();
    check("disable-namespace and enable-namespace")?;

    c.ok(&["ndctl", "disable-region", &region])?;
    gone("disable-region")?;
    c.ok(&["ndctl", "enable-region", &region])?;
    c.settle();
    check("disable-region and enable-region")?;

    c.rmmod(&c.driver)?;
    gone("rmmod")?;
    c.load_driver()?;
    c.settle();
    check("rmmod and insmod")
}

fn listed(c: &Ctx, ns: &str) -> TestResult<String> {
    let text = c.ok(&["ndctl", "list", "-N", "-n", ns])?;
    println!("{text}");
    Ok(text)
}

fn raw(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let disk = c.disk_of(&ns)?;
    check_eq!(disk, "pmem0");
    let bytes = disk::check_sizes(c, &ns, &disk)?;
    check_eq!(
        bytes,
        c.read_u64(c.nd(&ns).join("size"))?,
        "raw: all of the namespace"
    );
    check_eq!(disk::json_str(&listed(c, &ns)?, "mode"), Some("raw"));
    check_eq!(c.bound_to(&ns).as_deref(), Some(c.driver_name()));
    check_eq!(c.disk_attr(&disk, "queue/dax")?, "0", "no pages, no DAX");
    // Claimed as one range, in the namespace's name.
    let iomem = c.read("/proc/iomem")?;
    check!(
        iomem
            .lines()
            .any(|l| l.trim_end().ends_with(&format!(": {ns}"))),
        "/proc/iomem has no {ns}:\n{iomem}"
    );
    // fs-dax needs pages; the file system is told, and works without.
    let dev = format!("/dev/{disk}");
    c.mkfs("ext4", &dev)?;
    fs::create_dir_all(MNT)?;
    c.fails(&["mount", "-o", "dax=always", &dev, MNT])?;
    c.mount(&dev, MNT, "defaults")?;
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(format!("{MNT}/f"))?;
    f.set_len(1 << 20)?;
    let r = Map::sync(&f, 0, 1 << 20).map(|_| ());
    check_eq!(errno(&r), libc::EOPNOTSUPP, "MAP_SYNC without DAX");
    drop(f);
    c.umount(MNT)
}

fn raw_survives(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    survives(c, &ns)
}

fn le(b: &[u8], at: usize, len: usize) -> u64 {
    (0..len)
        .rev()
        .fold(0, |v, i| (v << 8) | u64::from(b[at + i]))
}

/// A namespace with an info block: where the data is, and how much of it. Of whole sections of struct pages: on
/// arm64 `memremap_pages()` takes no part of one behind a whole one when they are on the medium.
fn fsdax(c: &Ctx, map: &str) -> TestResult {
    const SIZE: u64 = 256 * MIB;
    fresh(c)?;
    let ns = c.create_namespace(&["-m", "fsdax", "-M", map, "-s", "256M"])?;
    let on = active(c, &ns)?;
    check!(on.starts_with("pfn"), "{ns} is held by {on}");
    check_eq!(c.bound_to(&on).as_deref(), Some(c.driver_name()));
    check_eq!(c.bound_to(&ns), None, "driver of the claimed namespace");
    let disk = c.disk_of(&on)?;
    let dev = format!("/dev/{disk}");
    let bytes = disk::check_sizes(c, &ns, &disk)?;
    let list = listed(c, &ns)?;
    check_eq!(disk::json_str(&list, "mode"), Some("fsdax"));
    check_eq!(disk::json_str(&list, "map"), Some(map));
    check_eq!(c.disk_attr(&disk, "queue/dax")?, "1");

    let f = disk::direct(&dev)?;
    disk::fill(&f, 50, 0, 4 * MIB)?;
    disk::fill(&f, 60, bytes - 4 * MIB, 4 * MIB)?;
    f.sync_all()?;
    drop(f);

    // The data is where the info block says, up to the end, and nowhere else.
    bind_raw(c, &ns)?;
    check_eq!(
        c.disk_attr(&disk, "size")?,
        (SIZE / 512).to_string(),
        "raw size"
    );
    check_eq!(
        c.disk_attr(&disk, "queue/dax")?,
        "0",
        "force_raw is page-less"
    );
    let raw = disk::direct(&dev)?;
    let mut block = Buf::page(PAGE);
    raw.read_exact_at(block.bytes_mut(), 4096)?;
    let b = block.bytes();
    check_eq!(&b[..16], b"NVDIMM_PFN_INFO\0");
    let (offset, mode) = (le(b, 56, 8), le(b, 72, 4));
    let (pad, trunc) = (le(b, 76, 4), le(b, 80, 4));
    check_eq!(mode, if map == "mem" { 1 } else { 2 });
    // 64 bytes of struct page for each page are on the medium, or none is.
    let pages = if map == "dev" { SIZE / 4096 * 64 } else { 0 };
    check!(
        (8192 + pages..8192 + pages + 4 * MIB).contains(&offset),
        "data offset {offset:#x} with a page map of {pages:#x}"
    );
    check_eq!(
        pad + offset + bytes + trunc,
        SIZE,
        "info block and size of the disk"
    );
    disk::verify(&raw, 50, pad + offset, 4 * MIB)?;
    disk::verify(&raw, 60, SIZE - trunc - 4 * MIB, 4 * MIB)?;
    // And the other way round.
    let mark = Buf::pattern(PAGE, 70);
    raw.write_all_at(mark.bytes(), pad + offset + 8192)?;
    raw.sync_all()?;
    drop(raw);
    unbind_raw(c, &ns)?;
    let r = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&ns);
    check_eq!(
        errno(&r),
        libc::ENXIO,
        "the personality takes the namespace"
    );
    c.settle();
    check_eq!(c.disk_of(&active(c, &ns)?)?, disk);
    let mut back = Buf::page(PAGE);
    disk::direct(&dev)?.read_exact_at(back.bytes_mut(), 8192)?;
    check_eq!(sys::pattern_differs(70, back.bytes()), None);
    survives(c, &ns)
}

fn fsdax_mem(c: &mut Ctx) -> TestResult {
    fsdax(c, "mem")
}

fn fsdax_dev(c: &mut Ctx) -> TestResult {
    fsdax(c, "dev")
}

fn two_in_region(c: &mut Ctx) -> TestResult {
    fresh(c)?;
    let a = c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "64M"])?;
    let b = c.create_namespace(&["-m", "raw", "-s", "32M"])?;
    check!(a != b);
    check_eq!(c.disks(), ["pmem0", "pmem0.1"]);
    let (da, db) = (c.disk_of(&active(c, &a)?)?, c.disk_of(&b)?);
    check_eq!((da.as_str(), db.as_str()), ("pmem0", "pmem0.1"));
    let (na, nb) = (format!("/dev/{da}"), format!("/dev/{db}"));
    check_eq!(c.disk_attr(&da, "queue/dax")?, "1");
    check_eq!(c.disk_attr(&db, "queue/dax")?, "0");
    check_eq!(disk::check_sizes(c, &b, &db)?, 32 * MIB);
    disk::check_sizes(c, &a, &da)?;

    // Each full of its own, and none in the other.
    let fill = |dev: &str, seed| -> TestResult {
        let f = disk::direct(dev)?;
        disk::fill(&f, seed, 0, disk::size(&f)?)?;
        f.sync_all()?;
        Ok(())
    };
    let verify = |dev: &str, seed| -> TestResult {
        let f = disk::direct(dev)?;
        disk::verify(&f, seed, 0, disk::size(&f)?)
    };
    fill(&na, 1000)?;
    fill(&nb, 2000)?;
    verify(&na, 1000)?;
    verify(&nb, 2000)?;

    // One goes, comes back, or is destroyed; the other does not notice.
    let open = disk::direct(&nb)?;
    let on = active(c, &a)?;
    c.unbind(&c.driver, &on)?;
    check_eq!(c.disks(), ["pmem0.1"]);
    disk::verify(&open, 2000, 0, 4 * MIB)?;
    c.bind(&c.driver, &on)?;
    c.wait_exists(&na)?;
    verify(&na, 1000)?;
    let r = c.try_rmmod(&c.driver);
    // The word of the module loader for "in use" where the caller does not want to wait.
    check_eq!(errno(&r), libc::EAGAIN, "rmmod while a disk is open");
    drop(open);
    c.ok(&["ndctl", "disable-region", "all"])?;
    check!(c.disks().is_empty());
    c.ok(&["ndctl", "enable-region", "all"])?;
    c.settle();
    c.wait_for("both disks", || c.disks() == ["pmem0", "pmem0.1"])?;
    c.wait_exists(&nb)?;
    verify(&na, 1000)?;
    verify(&nb, 2000)?;
    c.ok(&["ndctl", "destroy-namespace", "-f", &a])?;
    c.settle();
    check_eq!(c.disks(), ["pmem0.1"]);
    verify(&nb, 2000)
}

/// Legacy persistent memory has struct pages without an info block.
fn e820(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    let disk = c.disk_of(&ns)?;
    let dev = format!("/dev/{disk}");
    let bytes = disk::check_sizes(c, &ns, &disk)?;
    check_eq!(bytes, 256 * MIB, "the whole range of the command line");
    check_eq!(active(c, &ns)?, ns, "no personality");
    check_eq!(c.disk_attr(&disk, "queue/dax")?, "1");
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "dax=always")?;
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(format!("{MNT}/f"))?;
    let len = 8 << 20;
    f.set_len(len as u64)?;
    let mut m = Map::sync(&f, 0, len)?;
    sys::pattern(21, m.slice_mut());
    m.persist(0, len);
    // The mapping is the medium: read(2) sees it at once, and what write(2) puts there is seen.
    let mut b = vec![0; len];
    f.read_exact_at(&mut b, 0)?;
    check_eq!(sys::pattern_differs(21, &b), None);
    f.write_all_at(b"written", 5 << 20)?;
    check_eq!(&m.slice()[5 << 20..][..7], b"written");
    drop((m, f));
    c.umount(MNT)?;

    // The raw namespace on request: same bytes, no pages.
    c.ok(&["fsck.ext4", "-n", "-f", &dev])?;
    c.unbind(&c.driver, &ns)?;
    c.write(c.nd(&ns).join("force_raw"), "1")?;
    c.bind(&c.driver, &ns)?;
    check_eq!(
        c.disk_attr(&c.disk_of(&ns)?, "queue/dax")?,
        "0",
        "force_raw"
    );
    c.fails(&["mount", "-o", "dax=always", &dev, MNT])?;
    c.mount(&dev, MNT, "defaults")?;
    check_eq!(&fs::read(format!("{MNT}/f"))?[5 << 20..][..7], b"written");
    c.umount(MNT)?;
    c.unbind(&c.driver, &ns)?;
    c.write(c.nd(&ns).join("force_raw"), "0")?;
    c.bind(&c.driver, &ns)?;
    check_eq!(c.disk_attr(&c.disk_of(&ns)?, "queue/dax")?, "1");
    Ok(())
}

fn e820_survives(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    survives(c, &ns)
}

/// The smallest namespace is a page, less than an info block needs; without a size there is none.
fn too_small(c: &mut Ctx) -> TestResult {
    fresh(c)?;
    let seed = c.read("/sys/bus/nd/devices/region0/namespace_seed")?;
    let align = "/sys/bus/nd/devices/region0/align";
    let old_align = c.read(align)?;
    c.write(align, "0x1000")?;
    let bind = || c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&seed);
    let r = bind();
    check_eq!(errno(&r), libc::ENODEV, "a namespace without size");
    check!(c.disks().is_empty());
    check_eq!(c.bound_to(&seed), None);

    c.write(
        c.nd(&seed).join("uuid"),
        "11223344-5566-7788-99aa-bbccddeeff00",
    )?;
    for size in [4096, 12288] {
        c.write(c.nd(&seed).join("size"), &size.to_string())?;
        bind()?;
        let disk = c.disk_of(&seed)?;
        check_eq!(disk::check_sizes(c, &seed, &disk)?, size);
        let f = disk::direct(&format!("/dev/{disk}"))?;
        disk::fill(&f, size, 0, size)?;
        disk::verify(&f, size, 0, size)?;
        let r = f.write_at(Buf::page(512).bytes(), size);
        check_eq!(errno(&r), libc::ENOSPC, "beyond the end");
        drop(f);
        c.unbind(&c.driver, &seed)?;
    }
    c.ok(&["ndctl", "destroy-namespace", "-f", &seed])?;
    c.write(align, &old_align)
}

/// Two regions over one range (the command line makes the second): who comes second gets nothing,
/// and harms nobody.
fn range_claimed(c: &mut Ctx) -> TestResult {
    let all = c.namespaces();
    check_eq!(all.len(), 2, "namespaces over one range: {all:?}");
    let bound: Vec<&String> = all.iter().filter(|n| c.bound_to(n).is_some()).collect();
    check_eq!(bound.len(), 1, "namespaces that are bound: {bound:?}");
    let first = bound[0].clone();
    let second = all
        .iter()
        .find(|n| **n != first)
        .cloned()
        .unwrap_or_default();
    let disk = c.disk_of(&first)?;
    let marks = Marks::new(5000);
    marks.write(&format!("/dev/{disk}"))?;

    c.mark_dmesg();
    let r = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&second);
    check_eq!(errno(&r), libc::EBUSY, "bind of {second}");
    c.dmesg_has("could not reserve region")?;
    check_eq!(c.disks(), [disk.clone()]);
    marks.check(&format!("/dev/{disk}"))?;

    // Once the first is gone, the second may have the range, and the same data.
    c.unbind(&c.driver, &first)?;
    c.bind(&c.driver, &second)?;
    let disk = c.disk_of(&second)?;
    marks.check(&format!("/dev/{disk}"))?;
    let r = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&first);
    check_eq!(errno(&r), libc::EBUSY, "bind of {first}");
    c.unbind(&c.driver, &second)?;
    c.bind(&c.driver, &first)
}
