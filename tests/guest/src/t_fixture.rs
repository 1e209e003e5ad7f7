// SPDX-License-Identifier: GPL-2.0
//! Machines that users of nd_pmem have: what is particular to each, under both drivers. That all
//! answers are the same there is for `diff_drivers` to say, which follows in the same boot.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf, Marks, MIB};
use crate::support::facts::{self, Facts};
use crate::support::namespace::{active, release};
use crate::support::sys::Map;
use crate::support::tools::{self, Space, PAGE};
use crate::support::trace::Probe;
use crate::{check, check_eq, fail};
use std::fs;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    fixture_holes => holes,
    fixture_force_raw => force_raw,
    fixture_nodes => nodes,
    fixture_sections => sections,
    fixture_misaligned => misaligned,
    fixture_gigabyte => gigabyte,
    fixture_terabyte => terabyte,
    fixture_volatile => volatile,
    fixture_hot_plug => hot_plug,
};

/// An NVDIMM that is plugged into the running machine: its region and namespace appear, the driver
/// takes it, and what was there goes on undisturbed.
fn hot_plug(c: &mut Ctx) -> TestResult {
    let driver = c.driver.clone();
    let first = c.pmem()?;
    let file = disk::direct(&first)?;
    disk::fill(&file, 5, 0, MIB)?;
    c.ask_monitor("plug")?;
    c.wait_for("a second region", || c.regions().len() == 2)?;
    c.wait_for("its disk", || c.disks().len() == 2)?;
    check_eq!(c.nd_devices("nmem").len(), 2, "NVDIMMs");
    disk::verify(&file, 5, 0, MIB)?;
    let ns = "namespace1.0";
    c.wait_for("the driver", || c.bound_to(ns).as_ref() == Some(&driver))?;
    let disk = c.disk_of(ns)?;
    check_eq!(disk::check_sizes(c, ns, &disk)?, 256 * MIB);
    Marks::new(70).write(&format!("/dev/{disk}"))?;
    Marks::new(70).check(&format!("/dev/{disk}"))?;
    drop(file);
    // It is as good as one that was there from the start: labels, pages, a file system.
    c.init_labels()?;
    c.create_namespace(&["-m", "raw", "-r", "region0", "-s", "64M"])?;
    let paged = c.create_namespace(&["-m", "fsdax", "-M", "mem", "-r", "region1", "-s", "128M"])?;
    let on = active(c, &paged)?;
    check_eq!(c.bound_to(&on).as_deref(), Some(driver.as_str()));
    let dev = format!("/dev/{}", c.disk_of(&on)?);
    c.mkfs("ext4", &dev)?;
    c.mount(&dev, MNT, "dax=always")?;
    let f = tools::file_of(&format!("{MNT}/f"), 2 << 20)?;
    Map::sync(&f, 0, 2 << 20)?.write8(0, 1);
    drop(f);
    c.umount(MNT)
}

const MNT: &str = "/mnt/pmem";
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Runs a check under rpmem and under nd_pmem; the namespaces end with rpmem.
fn both(c: &mut Ctx, check: impl Fn(&mut Ctx, &str) -> TestResult) -> TestResult {
    c.modprobe("nd_pmem")?;
    for driver in ["rpmem", "nd_pmem"] {
        facts::hand_over(c, driver)?;
        println!("{driver}");
        check(c, driver)?;
    }
    facts::hand_over(c, "rpmem")
}

/// A namespace in a hole of the label area's free space, and one that does not fit in it: each is
/// one range, its neighbours stay as they are.
fn holes(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    let range = |c: &Ctx, ns: &str| -> TestResult<(u64, u64)> {
        let at = c.nd(ns);
        Ok((
            c.read_u64(at.join("resource"))?,
            c.read_u64(at.join("size"))?,
        ))
    };
    let mut names = Vec::new();
    for n in 0..3 {
        let ns = c.create_namespace(&["-m", "raw", "-s", "128M"])?;
        let dev = format!("/dev/{}", c.disk_of(&ns)?);
        Marks::new(100 * n).write(&dev)?;
        names.push(ns);
    }
    let before = [range(c, &names[0])?, range(c, &names[2])?];
    let (start, middle) = (before[0].0, range(c, &names[1])?);
    check_eq!(middle, (start + 128 * MIB, 128 * MIB));
    c.ok(&["ndctl", "destroy-namespace", "-f", &names[1]])?;
    c.settle();
    // What is larger than the hole is behind the last one, what fits is in the hole.
    let large = c.create_namespace(&["-m", "raw", "-s", "256M"])?;
    check_eq!(range(c, &large)?, (start + 384 * MIB, 256 * MIB), "large");
    let small = c.create_namespace(&["-m", "raw", "-s", "64M"])?;
    check_eq!(
        range(c, &small)?,
        (start + 128 * MIB, 64 * MIB),
        "in the hole"
    );
    // 64 MiB in the hole and 384 MiB at the end are free: no namespace is made of two ranges.
    let region = c.nd(&c.regions()[0]);
    check_eq!(c.read_u64(region.join("available_size"))?, 448 * MIB);
    check_eq!(c.read_u64(region.join("max_available_extent"))?, 384 * MIB);
    c.fails(&["ndctl", "create-namespace", "-m", "raw", "-s", "448M"])?;
    for (n, ns) in [&large, &small].into_iter().enumerate() {
        let dev = format!("/dev/{}", c.disk_of(ns)?);
        Marks::new(1000 + 100 * n as u64).write(&dev)?;
    }
    both(c, |c, driver| {
        for (ns, seed) in [
            (&names[0], 0),
            (&names[2], 200),
            (&large, 1000),
            (&small, 1100),
        ] {
            check_eq!(c.bound_to(ns).as_deref(), Some(driver));
            let disk = c.disk_of(ns)?;
            let bytes = disk::check_sizes(c, ns, &disk)?;
            check_eq!(bytes, range(c, ns)?.1, "size of {disk}");
            Marks::new(seed).check(&format!("/dev/{disk}"))?;
        }
        check_eq!([range(c, &names[0])?, range(c, &names[2])?], before);
        Ok(())
    })
}

/// With `force_raw` a namespace is raw whatever info block it has: all of it, the block included.
fn force_raw(c: &mut Ctx) -> TestResult {
    c.ok(&["ndctl", "destroy-namespace", "-f", "all"])?;
    let mut names = Vec::new();
    for mode in [
        &["-m", "fsdax", "-M", "dev"][..],
        &["-m", "sector", "-l", "4096"],
        &["-m", "devdax", "-M", "mem"],
    ] {
        names.push(c.create_namespace(&[&["-s", "64M"], mode].concat())?);
    }
    c.modprobe("nd_pmem")?;
    let mut answers: Vec<Facts> = Vec::new();
    for driver in ["rpmem", "nd_pmem"] {
        let mut f = Facts::new();
        for (ns, signature) in
            names
                .iter()
                .zip(["NVDIMM_PFN_INFO", "BTT_ARENA_INFO", "NVDIMM_DAX_INFO"])
        {
            release(c, ns)?;
            c.write(c.nd(ns).join("force_raw"), "1")?;
            c.bind(driver, ns)?;
            let disk = c.disk_of(ns)?;
            let size = c.read_u64(c.nd(ns).join("size"))?;
            check_eq!(
                disk::attr_u64(c, &disk, "size")? * 512,
                size,
                "{driver}: size of {ns}"
            );
            check_eq!(c.disk_attr(&disk, "queue/dax")?, "0");
            // Of a BTT at the start, of the others behind the first page.
            let mut block = Buf::page(2 * PAGE);
            disk::direct(&format!("/dev/{disk}"))?.read_exact_at(block.bytes_mut(), 0)?;
            let is = |at: usize| block.bytes()[at..].starts_with(signature.as_bytes());
            check!(is(0) || is(PAGE), "{driver}: no {signature} in {ns}");
            let s = Space {
                nd: ns.clone(),
                disk,
            };
            let mut more = Facts::new();
            facts::sysfs(&format!("/sys/block/{}/", s.disk), "disk", &mut more);
            facts::limits(&s, &mut more)?;
            f.extend(more.into_iter().map(|(k, v)| (format!("{ns} {k}"), v)));
            c.unbind(driver, ns)?;
            c.write(c.nd(ns).join("force_raw"), "0")?;
        }
        answers.push(f);
    }
    check!(answers[0].len() > 100, "{} questions", answers[0].len());
    facts::same(&answers[0], &answers[1])?;
    // Without it they are what they were.
    for (ns, holder) in names.iter().zip(["pfn", "btt", "dax"]) {
        // The answer is ENXIO: what claims the namespace is bound in its place.
        let _ = c.try_write("/sys/bus/nd/drivers/rpmem/bind")(ns);
        c.settle();
        let on = active(c, ns)?;
        check!(on.starts_with(holder), "{ns} is held by {on:?}");
    }
    Ok(())
}

/// On a machine with two nodes: the devices, the disk's queue and the struct pages are on the node of
/// the NVDIMM.
fn nodes(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    // The first NVDIMM, of node 0, is at the lower address; the firmware may name it last.
    let mut order = Vec::new();
    for region in c.regions() {
        c.create_namespace(&["-m", "fsdax", "-M", "mem", "-r", &region])?;
        let number = region.trim_start_matches("region").to_string();
        order.push((c.read_u64(c.nd(&region).join("resource"))?, number));
    }
    order.sort();
    check_eq!(order.len(), 2, "regions");
    both(c, |c, driver| {
        let spaces = tools::spaces(c)?;
        check_eq!(spaces.len(), 2, "disks");
        for (n, (_, number)) in order.iter().enumerate() {
            let disk = format!("pmem{number}");
            let Some(s) = spaces.iter().find(|s| s.disk == disk) else {
                fail!("no {disk}: {spaces:?}");
            };
            for nd in [
                &format!("region{number}"),
                &format!("namespace{number}.0"),
                &s.nd,
            ] {
                let node = c.read(c.nd(nd).join("numa_node"))?;
                check_eq!(node, n.to_string(), "numa_node of {nd}");
            }
            c.unbind(driver, &s.nd)?;
            let disk = Probe::new(c, "disk_node", "__blk_alloc_disk node=$arg2:s32")?;
            let pages = Probe::new(c, "pages_node", "memremap_pages node=$arg2:s32")?;
            c.bind(driver, &s.nd)?;
            c.wait_exists(s.dev())?;
            check_eq!(
                disk.values(c, "node")?,
                [n as u64],
                "{driver}: node of {}",
                s.disk
            );
            check_eq!(
                pages.values(c, "node")?,
                [n as u64],
                "{driver}: pages of {}",
                s.disk
            );
            drop((disk, pages));
            check!(
                device_pages(c, n)? >= 60000,
                "zone Device of node {n}: {}",
                device_pages(c, n)?
            );
        }
        Ok(())
    })
}

/// How many pages the zone of device memory of a node spans.
fn device_pages(c: &Ctx, node: usize) -> TestResult<u64> {
    let all = c.read("/proc/zoneinfo")?;
    let words: Vec<&str> = all.split_whitespace().collect();
    let zone = ["Node", &format!("{node},"), "zone", "Device"];
    let at = words.windows(4).position(|w| w == zone);
    let rest = &words[at.ok_or("no zone Device")?..];
    let spanned = rest.windows(2).find(|w| w[0] == "spanned");
    let n = spanned.and_then(|w| w[1].parse().ok());
    Ok(n.ok_or("zoneinfo without spanned")?)
}

/// Ranges that share a section of memory, with struct pages of the whole namespace, and of fsdax
/// namespaces of sizes that no alignment divides.
fn sections(c: &mut Ctx) -> TestResult {
    let names = c.namespaces();
    check_eq!(names.len(), 3, "namespaces");
    for (n, ns) in names.iter().enumerate() {
        let size = c.read_u64(c.nd(ns).join("size"))?;
        let start = c.read_u64(c.nd(ns).join("resource"))?;
        println!("{ns}: {size:#x} at {start:#x}");
        check!(start % (128 * MIB) != 0, "{ns} begins with a section");
        let s = tools::spaces(c)?.swap_remove(n);
        check!(tools::has_pages(c, &s)?, "{ns} has no pages");
    }
    // By default namespaces are whole multiples of 16 MiB.
    c.write(c.nd("region2").join("align"), "0x200000")?;
    let mut answers = Vec::new();
    for driver in ["rpmem", "nd_pmem"] {
        let mut f = Facts::new();
        for options in [
            &["-M", "dev", "-a", "2M"][..],
            &["-M", "dev", "-a", "4K"],
            &["-M", "mem", "-a", "2M"],
            &["-M", "mem", "-a", "4K"],
        ] {
            let ns = &names[2];
            let argv = [
                &["ndctl", "create-namespace", "-f", "-m", "fsdax", "-e", ns][..],
                options,
            ]
            .concat();
            c.ok(&argv)?;
            c.settle();
            if c.module_loaded("nd_pmem") {
                c.ok(&["rpmem-bind", ns, driver])?;
            }
            let on = active(c, ns)?;
            check_eq!(c.bound_to(&on).as_deref(), Some(driver), "{options:?}");
            let disk = c.disk_of(&on)?;
            let name = options.join(" ");
            f.insert(format!("{name} disk size"), c.disk_attr(&disk, "size")?);
            f.insert(format!("{name} dax"), c.disk_attr(&disk, "queue/dax")?);
            for file in ["size", "resource", "mode"] {
                f.insert(format!("{name} {file}"), c.read(c.nd(&on).join(file))?);
            }
            // With a map in memory the namespace is as good as it is, and stays raw.
            check_eq!(
                on.starts_with("pfn"),
                options[1] == "dev",
                "{on}, {options:?}"
            );
            let dev = format!("/dev/{disk}");
            Marks::new(40).write(&dev)?;
            c.mkfs("ext4", &dev)?;
            c.mount(&dev, MNT, "dax=always")?;
            c.sh("cp /init /mnt/pmem/f; cmp /init /mnt/pmem/f")?;
            c.umount(MNT)?;
        }
        c.modprobe("nd_pmem")?;
        answers.push(f);
    }
    facts::same(&answers[0], &answers[1])?;
    facts::hand_over(c, "rpmem")
}

/// A range that neither begins nor ends where struct pages can: libnvdimm refuses it to both drivers,
/// who say so; by force it is a namespace without pages.
fn misaligned(c: &mut Ctx) -> TestResult {
    const SIZE: u64 = 33 * MIB;
    let names = c.namespaces();
    let of_size = |ns: &&String| c.read_u64(c.nd(ns).join("size")).is_ok_and(|n| n == SIZE);
    let Some(ns) = names.iter().find(of_size) else {
        fail!("no namespace of 33 MiB: {names:?}");
    };
    c.modprobe("nd_pmem")?;
    let mut answers = Vec::new();
    for driver in ["rpmem", "nd_pmem"] {
        let mut f = Facts::new();
        let bind = format!("/sys/bus/nd/drivers/{driver}/bind");
        let r = c.try_write(&bind)(ns).map(|()| "0".into());
        check!(r.is_err(), "{driver} has {ns}");
        facts::ask(&mut f, "bind", r);
        check_eq!(c.bound_to(ns), None, "{driver}");
        check_eq!(c.disks().len(), names.len() - 1, "disks, {driver}");
        c.write(c.nd(ns).join("force_raw"), "1")?;
        c.bind(driver, ns)?;
        let disk = c.disk_of(ns)?;
        check_eq!(c.disk_attr(&disk, "queue/dax")?, "0");
        check_eq!(disk::check_sizes(c, ns, &disk)?, SIZE, "{driver}");
        Marks::new(50).write(&format!("/dev/{disk}"))?;
        Marks::new(50).check(&format!("/dev/{disk}"))?;
        let mut more = Facts::new();
        facts::sysfs(&format!("/sys/block/{disk}/"), "disk", &mut more);
        f.extend(more);
        c.unbind(driver, ns)?;
        c.write(c.nd(ns).join("force_raw"), "0")?;
        answers.push(f);
    }
    facts::same(&answers[0], &answers[1])
}

/// Namespaces aligned to 1 GiB: where they begin, and where their data does.
fn gigabyte(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    let paged = c.create_namespace(&["-m", "fsdax", "-M", "mem", "-a", "1G", "-s", "2G"])?;
    let raw = c.create_namespace(&["-m", "raw", "-s", "1G"])?;
    println!("{paged} {raw}");
    both(c, |c, driver| {
        for s in tools::spaces(c)? {
            let ns = if s.nd.starts_with("pfn") {
                c.read(c.nd(&s.nd).join("namespace"))?
            } else {
                s.nd.clone()
            };
            let start = c.read_u64(c.nd(&ns).join("resource"))?;
            check_eq!(start % GIB, 0, "start of {ns}");
            let bytes = disk::attr_u64(c, &s.disk, "size")? * 512;
            if s.nd.starts_with("pfn") {
                // The info block costs 1 GiB.
                check_eq!(c.read_u64(c.nd(&s.nd).join("align"))?, GIB);
                check_eq!(c.read_u64(c.nd(&s.nd).join("resource"))?, start + GIB);
                check_eq!(bytes, GIB, "{driver}: size of {}", s.disk);
            } else {
                check_eq!(bytes, GIB, "{driver}: size of {}", s.disk);
            }
        }
        Ok(())
    })
}

/// 1 TiB without struct pages: it costs no memory, and every byte of it is there.
fn terabyte(c: &mut Ctx) -> TestResult {
    both(c, |c, driver| {
        let ns = c.namespace()?;
        let disk = c.disk_of(&ns)?;
        let dev = format!("/dev/{disk}");
        check_eq!(disk::check_sizes(c, &ns, &disk)?, TIB);
        Marks::new(9000).write(&dev)?;
        Marks::new(9000).check(&dev)?;
        // What the driver takes: nothing that grows with the size.
        let free = |c: &Ctx| -> TestResult<u64> {
            let all = c.sh("sync; echo 3 >/proc/sys/vm/drop_caches; grep MemFree /proc/meminfo")?;
            let n = all.split_whitespace().nth(1).and_then(|n| n.parse().ok());
            Ok(n.ok_or("MemFree")?)
        };
        // What others take meanwhile is not there each time.
        let mut least = u64::MAX;
        for _ in 0..4 {
            c.unbind(driver, &ns)?;
            let without = free(c)?;
            c.bind(driver, &ns)?;
            least = least.min(without.saturating_sub(free(c)?));
        }
        println!("{driver}: {least} KiB");
        check!(least < 4096, "{driver} takes {least} KiB");
        Marks::new(9000).check(&dev)?;
        if driver == "rpmem" {
            let node = disk::open(&format!("/dev/{}", disk.replace("pmem", "rpmem")))?;
            let f = disk::direct(&dev)?;
            for at in [0, TIB / 2, TIB - 2 * MIB] {
                let m = Map::sync(&node, at, 2 * MIB as usize)?;
                m.write8(2 * MIB as usize - 1, 0x99);
                m.persist(2 * MIB as usize - 1, 1);
                let mut b = Buf::page(PAGE);
                f.read_exact_at(b.bytes_mut(), at + 2 * MIB - PAGE as u64)?;
                check_eq!(b.bytes()[PAGE - 1], 0x99, "store at {at:#x}");
            }
            check!(
                Map::sync(&node, TIB, PAGE).is_err(),
                "a mapping beyond the end"
            );
        }
        c.ok(&["mkfs.xfs", "-q", "-f", "-l", "size=64m", &dev])?;
        // xfs mounts without DAX then, and says so.
        c.mount(&dev, MNT, "dax=always")?;
        let f = tools::open_rw("/mnt/pmem/f")?;
        check!(!tools::is_dax(&f)?, "{driver}: DAX without pages");
        drop(f);
        c.sh("cp /init /mnt/pmem/f; sync; cmp /init /mnt/pmem/f")?;
        c.umount(MNT)
    })
}

/// A volatile region: there is nothing to flush, and stores are as durable as they get.
fn volatile(c: &mut Ctx) -> TestResult {
    let region = c.nd(&c.regions()[0]);
    check_eq!(c.read(region.join("devtype"))?, "nd_volatile");
    both(c, |c, driver| {
        for s in tools::spaces(c)? {
            check_eq!(c.bound_to(&s.nd).as_deref(), Some(driver));
            check_eq!(c.disk_attr(&s.disk, "queue/write_cache")?, "write back");
            check_eq!(c.disk_attr(&s.disk, "queue/fua")?, "0");
            check_eq!(c.disk_attr(&s.disk, "dax/write_cache")?, "0");
        }
        Ok(())
    })?;
    // With struct pages as well, and a synchronous file system.
    let ns = c.namespace()?;
    c.ok(&[
        "ndctl",
        "create-namespace",
        "-f",
        "-e",
        &ns,
        "-m",
        "fsdax",
        "-M",
        "mem",
    ])?;
    c.settle();
    both(c, |c, driver| {
        let [s] = &tools::spaces(c)?[..] else {
            return Err("not one disk".into());
        };
        check_eq!(c.bound_to(&s.nd).as_deref(), Some(driver));
        c.mkfs("ext4", &s.dev())?;
        c.mount(&s.dev(), MNT, "dax=always")?;
        let f = tools::file_of("/mnt/pmem/f", 2 << 20)?;
        Map::sync(&f, 0, 2 << 20)?.write8(0, 1);
        drop(f);
        c.umount(MNT)
    })?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    Ok(())
}
