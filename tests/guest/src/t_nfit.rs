// SPDX-License-Identifier: GPL-2.0
//! Errors of the medium and locked DIMMs, with the kernel's own emulation of a bus that has them,
//! nfit_test. What does not need /dev/rpmemN is run with nd_pmem as well: its answers are ours.

use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::disk::{self, errno, Buf, MIB};
use crate::support::sys::{self, Map, PAGE};
use crate::support::tools;
use crate::support::trace;
use crate::support::uapi;
use crate::{check, check_eq};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    nfit_attributes => attributes,
    nfit_notify => notify,
    nfit_messages => messages,
    nfit_write_clears => write_clears,
    nfit_probe => probe,
    nfit_cut => cut,
    nfit_info_block => info_block,
    nfit_map => map,
    nfit_events => events,
    nfit_file => file,
    nfit_sector => sector,
    nfit_locked => locked,
};

/// Of the first bus: over all four DIMMs, and over two.
const LARGE: u64 = 64 * MIB;
const SMALL: u64 = 32 * MIB;

/// The DIMMs are in several regions, and ndctl gives them no labels.
const NO_LABELS: &str = "--no-autolabel";

/// A region of the first bus, by its size: names depend on the order of the probes.
fn region(c: &Ctx, bytes: u64) -> TestResult<String> {
    for r in c.regions() {
        let path = fs::canonicalize(c.nd(&r))?;
        if path.components().any(|p| p.as_os_str() == "nfit_test.0")
            && c.read_u64(c.nd(&r).join("size"))? == bytes
        {
            return Ok(r);
        }
    }
    Err(Outcome::Fail(format!("no region of {bytes} bytes")))
}

/// The namespace of a region, which has no labels: there is one.
fn namespace(region: &str) -> String {
    format!("{}.0", region.replace("region", "namespace"))
}

/// Until the bus has looked at its medium.
fn scrubbed(c: &Ctx) -> TestResult {
    c.ok(&["ndctl", "wait-scrub", "nfit_test.0"])?;
    c.settle();
    Ok(())
}

/// Errors in `count` sectors from `first` on, as the namespace counts them.
fn inject(c: &Ctx, ns: &str, first: u64, count: u64, more: &[&str]) -> TestResult {
    let (first, count) = (format!("--block={first}"), format!("--count={count}"));
    let mut argv = vec!["ndctl", "inject-error", &first, &count, "--saturate"];
    argv.extend_from_slice(more);
    argv.push(ns);
    c.ok(&argv)?;
    Ok(())
}

/// The watched file of bad sectors of a disk, or of a region.
struct Badblocks(File);

impl Badblocks {
    fn of_disk(disk: &str) -> TestResult<Badblocks> {
        let f = File::open(format!("/sys/block/{disk}/badblocks"))?;
        Ok(Badblocks(f))
    }

    /// Reading it also starts the next wait.
    fn get(&self) -> TestResult<Vec<(u64, u64)>> {
        let mut buf = [0; PAGE];
        let len = self.0.read_at(&mut buf, 0)?;
        let text = String::from_utf8_lossy(&buf[..len]);
        let pair = |line: &str| {
            let (a, b) = line.split_once(' ')?;
            Some((a.parse().ok()?, b.parse().ok()?))
        };
        text.lines()
            .map(|l| pair(l).ok_or_else(|| Outcome::Fail(format!("badblocks: {l}"))))
            .collect()
    }

    /// Waits for changes until the file says so.
    fn becomes(&self, want: &[(u64, u64)]) -> TestResult {
        loop {
            let now = self.get()?;
            if now == want {
                return Ok(());
            }
            println!("waiting for badblocks {want:?}, now {now:?}");
            sys::poll(&self.0, libc::POLLPRI, sys::FOREVER)?;
        }
    }
}

fn read(dev: &File, sector: u64, sectors: usize) -> i32 {
    errno(&dev.read_exact_at(Buf::page(sectors * 512).bytes_mut(), sector * 512))
}

fn write(dev: &File, sector: u64, sectors: usize, seed: u64) -> i32 {
    let data = Buf::pattern(sectors * 512, seed);
    errno(&dev.write_all_at(data.bytes(), sector * 512))
}

fn check_written(dev: &File, sector: u64, sectors: usize, seed: u64) -> TestResult {
    let mut data = Buf::page(sectors * 512);
    dev.read_exact_at(data.bytes_mut(), sector * 512)?;
    check_eq!(
        sys::pattern_differs(seed, data.bytes()),
        None,
        "sector {sector}"
    );
    Ok(())
}

/// A raw disk without bad sectors, on the large region.
struct Raw {
    ns: String,
    disk: String,
    dev: File,
    bad: Badblocks,
}

impl Raw {
    fn new(c: &Ctx) -> TestResult<Raw> {
        scrubbed(c)?;
        let ns = namespace(&region(c, LARGE)?);
        let disk = c.disk_of(&ns)?;
        check_eq!(c.bound_to(&ns).as_deref(), Some(c.driver.as_str()));
        let bad = Badblocks::of_disk(&disk)?;
        let dev = disk::direct(&format!("/dev/{disk}"))?;
        // What a test before this one has left.
        for (sector, count) in bad.get()? {
            check_eq!(write(&dev, sector, count as usize, 0), 0);
        }
        bad.becomes(&[])?;
        Ok(Raw { dev, ns, disk, bad })
    }
}

/// Flush hints make a disk with FUA; a bus without firmware for its caches is said to be one.
fn attributes(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    for (attr, want) in [
        ("queue/fua", "1"),
        ("queue/write_cache", "write back"),
        ("queue/dax", "0"),
        ("dax/write_cache", "1"),
        ("ro", "0"),
        ("size", "131072"),
    ] {
        check_eq!(c.disk_attr(&raw.disk, attr)?, want, "{attr}");
    }
    // A DIMM that is not armed.
    let region = c
        .regions()
        .into_iter()
        .find(|r| {
            fs::canonicalize(c.nd(r)).is_ok_and(|p| p.display().to_string().contains("nfit_test.1"))
                && c.read_u64(c.nd(r).join("size")).ok() == Some(SMALL)
        })
        .ok_or("no region that is not armed")?;
    let disk = c.disk_of(&namespace(&region))?;
    check_eq!(c.disk_attr(&disk, "ro")?, "1", "not armed");
    Ok(())
}

/// Errors that come up later: the disk, its watchers, and reads.
fn notify(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    check_eq!(write(&raw.dev, 0, 4096, 5), 0);
    inject(c, &raw.ns, 8, 8, &[])?;
    raw.bad.becomes(&[(8, 8)])?;
    inject(c, &raw.ns, 1003, 1, &[])?;
    raw.bad.becomes(&[(8, 8), (1003, 1)])?;
    for (sector, sectors, want) in [
        (0, 8, 0),
        (7, 1, 0),
        (7, 2, libc::EIO),
        (8, 1, libc::EIO),
        (15, 1, libc::EIO),
        (16, 8, 0),
        (1000, 8, libc::EIO),
        (1000, 3, 0),
        (1003, 1, libc::EIO),
        (1004, 4, 0),
        (1008, 512, 0),
        (512, 2048, libc::EIO),
    ] {
        check_eq!(read(&raw.dev, sector, sectors), want, "{sector} +{sectors}");
    }
    // Through the page cache, too.
    let buffered = disk::open(&format!("/dev/{}", raw.disk))?;
    disk::drop_cache(&buffered)?;
    check_eq!(
        errno(&buffered.read_exact_at(&mut [0; 512], 8 * 512)),
        libc::EIO
    );
    check_eq!(errno(&buffered.read_exact_at(&mut [0; 512], 16 * 512)), 0);
    disk::drop_cache(&buffered)?;
    // ndctl and the region see the same.
    let list = c.ok(&["ndctl", "list", "-M", "-n", &raw.ns])?;
    check_eq!(disk::json_u64(&list, "badblock_count"), Some(9), "{list}");
    check_eq!(write(&raw.dev, 0, 1024, 6), 0);
    raw.bad.becomes(&[])?;
    check_written(&raw.dev, 0, 1024, 6)
}

/// libnvdimm says whose bad sectors it has found, when they come up and when the driver comes.
fn messages(c: &mut Ctx) -> TestResult {
    const CONTROL: &str = "/sys/kernel/debug/dynamic_debug/control";
    let raw = Raw::new(c)?;
    let ns = raw.ns.clone();
    let found = format!("{} {ns}: Found a bad range (0x8000, 0x200)", c.driver);
    c.write(CONTROL, "func set_badblock +p")?;
    c.mark_dmesg();
    inject(c, &ns, 64, 1, &[])?;
    raw.bad.becomes(&[(64, 1)])?;
    c.dmesg_has(&found)?;
    drop(raw);
    c.unbind(&c.driver, &ns)?;
    c.mark_dmesg();
    c.bind(&c.driver, &ns)?;
    let dev = disk::direct(&format!("/dev/{}", c.disk_of(&ns)?))?;
    c.dmesg_has(&found)?;
    c.write(CONTROL, "func set_badblock -p")?;
    check_eq!(write(&dev, 64, 1, 0), 0);
    let all = c.ok(&["dmesg"])?;
    check!(!all.contains("NULL device"), "{all}");
    Ok(())
}

/// Writes clear what they cover, and nothing else; so does zeroing.
fn write_clears(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    inject(c, &raw.ns, 2000, 4, &[])?;
    raw.bad.becomes(&[(2000, 4)])?;
    inject(c, &raw.ns, 4096, 64, &[])?;
    raw.bad.becomes(&[(2000, 4), (4096, 64)])?;
    // Each change wakes the watcher: `becomes` would wait for ever.
    check_eq!(write(&raw.dev, 2001, 1, 7), 0);
    raw.bad.becomes(&[(2000, 1), (2002, 2), (4096, 64)])?;
    check_written(&raw.dev, 2001, 1, 7)?;
    check_eq!(read(&raw.dev, 2000, 2), libc::EIO);
    check_eq!(write(&raw.dev, 1990, 11, 8), 0);
    raw.bad.becomes(&[(2002, 2), (4096, 64)])?;
    check_eq!(write(&raw.dev, 2003, 100, 9), 0);
    raw.bad.becomes(&[(2002, 1), (4096, 64)])?;
    check_written(&raw.dev, 2003, 100, 9)?;
    // A write that ends in the middle of what is bad, and one of many segments.
    check_eq!(write(&raw.dev, 4000, 100, 10), 0);
    raw.bad.becomes(&[(2002, 1), (4100, 60)])?;
    disk::ioctl(&raw.dev, disk::BLKZEROOUT, &mut [4100u64 * 512, 28 * 512])?;
    raw.bad.becomes(&[(2002, 1), (4128, 32)])?;
    check_eq!(write(&raw.dev, 2002, 4096, 11), 0);
    raw.bad.becomes(&[])?;
    check_written(&raw.dev, 2002, 4096, 11)?;
    // The firmware has forgotten them: another look finds none.
    c.ok(&["ndctl", "start-scrub", "nfit_test.0"])?;
    scrubbed(c)?;
    raw.bad.becomes(&[])
}

/// Errors that are known when the driver comes.
fn probe(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    check_eq!(write(&raw.dev, 0, 64, 12), 0);
    let Raw { ns, dev, .. } = raw;
    drop(dev);
    c.unbind(&c.driver, &ns)?;
    inject(c, &ns, 24, 2, &["--no-notify"])?;
    c.ok(&["ndctl", "start-scrub", "nfit_test.0"])?;
    scrubbed(c)?;
    c.bind(&c.driver, &ns)?;
    let disk = c.disk_of(&ns)?;
    let bad = Badblocks::of_disk(&disk)?;
    check_eq!(bad.get()?, [(24, 2)]);
    let dev = disk::direct(&format!("/dev/{disk}"))?;
    check_eq!(read(&dev, 24, 1), libc::EIO);
    check_eq!(read(&dev, 26, 1), 0);
    check_eq!(write(&dev, 24, 2, 13), 0);
    bad.becomes(&[])?;
    check_written(&dev, 24, 2, 13)
}

/// What a power cut can leave of a write over bad pages, which clears and stores them one after the other: so
/// many are cleared, and of those each sector is old or new. What is not cleared is still refused, and
/// the write can be done again.
fn cut(c: &mut Ctx) -> TestResult {
    const PAGES: u64 = 4;
    const OF_PAGE: u64 = (PAGE / 512) as u64;
    const ALL: u64 = PAGES * OF_PAGE;
    // Behind where info blocks may be.
    const BASE: u64 = 4096;
    let Raw { ns, disk, .. } = Raw::new(c)?;
    let dev = format!("/dev/{disk}");
    let seed = |new: bool, sector: u64| (u64::from(new) << 32) | sector;
    let mut states = 0;
    let long = c.rounds(0, 1) == 1;
    for cleared in if long { 0..=PAGES } else { 2..=2 } {
        // Sectors of a cleared page that are new: none, all, and every other one.
        for new in [0u64, 0xff, 0x55] {
            if new != 0x55 && !long {
                continue;
            }
            let is_new =
                |sector: u64| sector < cleared * OF_PAGE && (new >> (sector % OF_PAGE)) & 1 != 0;
            let file = disk::direct(&dev)?;
            for sector in 0..ALL {
                check_eq!(
                    write(&file, BASE + sector, 1, seed(is_new(sector), sector)),
                    0
                );
            }
            drop(file);
            c.unbind(&c.driver, &ns)?;
            let first = cleared * OF_PAGE;
            if first < ALL {
                inject(c, &ns, BASE + first, ALL - first, &["--no-notify"])?;
            }
            c.ok(&["ndctl", "start-scrub", "nfit_test.0"])?;
            scrubbed(c)?;
            c.bind(&c.driver, &ns)?;
            check_eq!(c.disk_of(&ns)?, disk);
            let bad = Badblocks::of_disk(&disk)?;
            let still: &[_] = &[(BASE + first, ALL - first)];
            check_eq!(bad.get()?, if first < ALL { still } else { &[] });
            let file = disk::direct(&dev)?;
            for sector in 0..ALL {
                if sector < first {
                    check_written(&file, BASE + sector, 1, seed(is_new(sector), sector))?;
                } else {
                    check_eq!(read(&file, BASE + sector, 1), libc::EIO, "sector {sector}");
                }
            }
            check_eq!(write(&file, BASE, ALL as usize, 14), 0);
            bad.becomes(&[])?;
            check_written(&file, BASE, ALL as usize, 14)?;
            states += 1;
        }
    }
    println!("result: {states} states");
    Ok(())
}

/// What is in a namespace whose info block cannot be read is not known: no disk, until somebody says
/// that it is raw, or has it written anew.
fn info_block(c: &mut Ctx) -> TestResult {
    let Raw { ns, dev, .. } = Raw::new(c)?;
    drop(dev);
    c.unbind(&c.driver, &ns)?;
    // It is the second page.
    inject(c, &ns, 8, 8, &["--no-notify"])?;
    c.ok(&["ndctl", "start-scrub", "nfit_test.0"])?;
    scrubbed(c)?;
    let bind = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&ns);
    check_eq!(errno(&bind), libc::EOPNOTSUPP);
    c.dmesg_has("info block cannot be read (-5), no device; write 1 to force_raw")?;
    check_eq!(c.bound_to(&ns), None);
    c.write(c.nd(&ns).join("force_raw"), "1")?;
    c.bind(&c.driver, &ns)?;
    let disk = c.disk_of(&ns)?;
    let bad = Badblocks::of_disk(&disk)?;
    check_eq!(bad.get()?, [(8, 8)]);
    let dev = disk::direct(&format!("/dev/{disk}"))?;
    check_eq!(write(&dev, 8, 8, 0), 0);
    bad.becomes(&[])?;
    drop(dev);
    c.unbind(&c.driver, &ns)?;
    c.write(c.nd(&ns).join("force_raw"), "0")?;
    c.bind(&c.driver, &ns)?;
    c.disk_of(&ns)?;
    Ok(())
}

/// Mappings of /dev/rpmemN: the bad page is told, and comes back when it was written.
fn map(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    let node = format!("/dev/r{}", raw.disk);
    let bad = 5 * PAGE;
    check_eq!(write(&raw.dev, 0, 256, 14), 0);
    let f = File::options().read(true).write(true).open(&node)?;
    let m = Map::sync(&f, 0, 64 * PAGE)?;
    check_eq!(sys::pattern_differs(14, &m.slice()[..32 * PAGE]), None);
    m.write8(bad, 1);
    // Half of a page.
    inject(c, &raw.ns, 5 * 8 + 2, 4, &[])?;
    raw.bad.becomes(&[(5 * 8 + 2, 4)])?;
    for at in [bad, bad + 2000, bad + PAGE - 1] {
        tools::wait_poisoned(c, &m, at)?;
    }
    for page in (0..64).filter(|p| *p != 5) {
        m.write8(page * PAGE, 2);
    }
    let done = uapi::rpmem_prefault(&f, &m, 0, 64 * PAGE as u64, 1);
    check_eq!(done, (bad as u64, libc::EHWPOISON), "prefault");
    // The data is lost, the page is not: it serves as soon as there is new data, also in mappings
    // that were there before.
    check_eq!(write(&raw.dev, 5 * 8, 8, 15), 0);
    raw.bad.becomes(&[])?;
    check_eq!(sys::pattern_differs(15, &m.slice()[bad..bad + PAGE]), None);
    m.write8(bad, 0x5a);
    m.persist(bad, 1);
    drop(m);
    let mut data = Buf::page(PAGE);
    raw.dev.read_exact_at(data.bytes_mut(), bad as u64)?;
    check_eq!(data.bytes()[0], 0x5a);
    Ok(())
}

/// What tracefs has of poison that comes up, is met and cleared.
fn events(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    let node = format!("r{}", raw.disk);
    let f = tools::open_rw(format!("/dev/{node}"))?;
    let m = Map::sync(&f, 0, 64 * PAGE)?;
    let bad = 5 * PAGE;
    let start = bad + 2 * 512;
    // Before those that follow: each empties the buffer.
    let on = |event: &str| trace::Trace::on(c, &format!("rpmem/rpmem_{event}"));
    let notify = on("poison_notify")?;
    let found = on("poison_found")?;
    let clear = on("poison_clear")?;
    let fault = on("fault")?;
    inject(c, &raw.ns, 5 * 8 + 2, 4, &[])?;
    raw.bad.becomes(&[(5 * 8 + 2, 4)])?;
    let range =
        |name: &str, start: usize, len: usize| format!("{name} start {start:#x} len {len:#x}");
    let whole = range(&raw.ns, 0, LARGE as usize);
    c.wait_for("the page to be taken", || {
        found.said(c).is_ok_and(|said| !said.is_empty())
    })?;
    // The bus tells all of its namespaces.
    check!(notify.said(c)?.contains(&whole), "{:?}", notify.said(c)?);
    // Once more with each notice, of which the bus gives more than one.
    let mut where_found = found.said(c)?;
    where_found.dedup();
    check_eq!(where_found, [range(&node, bad, PAGE)]);
    tools::check_poisoned(&m, bad + 9)?;
    let at = m.as_ptr() as usize + bad;
    let want = format!("{node} read address {at:#x} pgoff 0x5 order 0 HWPOISON");
    check_eq!(fault.said(c)?.last(), Some(&want));
    check_eq!(clear.said(c)?.len(), 0, "nothing is cleared yet");
    // Only what is bad of a write is cleared, or all of it, as the firmware likes.
    check_eq!(write(&raw.dev, 5 * 8 + 2, 4, 16), 0);
    raw.bad.becomes(&[])?;
    check_eq!(clear.said(c)?, [range(&raw.ns, start, 4 * 512)]);
    Ok(())
}

/// The device of that kind that has a driver; which is the one under test, whatever of those that
/// are loaded ndctl has bound to it.
fn bound(c: &Ctx, kind: &str) -> TestResult<String> {
    for nd in c.nd_devices(kind) {
        match c.bound_to(&nd) {
            Some(driver) if driver == c.driver => return Ok(nd),
            Some(driver) => {
                c.unbind(&driver, &nd)?;
                c.bind(&c.driver, &nd)?;
                return Ok(nd);
            }
            None => (),
        }
    }
    Err(Outcome::Fail(format!("no {kind} device")))
}

const MNT: &str = "/mnt/nfit";

/// Files on a DAX file system: a read fails, a write of whole pages recovers.
fn file(c: &mut Ctx) -> TestResult {
    let raw = Raw::new(c)?;
    let ns = raw.ns.clone();
    drop(raw);
    c.ok(&["ndctl", "disable-namespace", &ns])?;
    c.create_namespace(&["-f", "-e", &ns, "-m", "fsdax", "-M", "mem", NO_LABELS])?;
    let disk = c.disk_of(&bound(c, "pfn")?)?;
    let dev = format!("/dev/{disk}");
    let bad = Badblocks::of_disk(&disk)?;
    check_eq!(c.disk_attr(&disk, "queue/dax")?, "1");
    tools::mkfs_dax(c, "ext4", &dev)?;
    c.mount(&dev, MNT, "dax=always")?;
    let path = format!("{MNT}/f");
    let f = tools::open_flags(&path, libc::O_CREAT | libc::O_TRUNC)?;
    check!(tools::is_dax(&f)?, "not a DAX file");
    let mut data = vec![0; 64 * PAGE];
    sys::pattern(21, &mut data);
    f.write_all_at(&data, 0)?;
    f.sync_all()?;
    let first = tools::first_sector(c, &path)?;
    let at = |page: u64| first + page * 8;
    inject(c, &ns, at(3) + 1, 1, &[])?;
    bad.becomes(&[(at(3) + 1, 1)])?;
    inject(c, &ns, at(10), 24, &[])?;
    bad.becomes(&[(at(3) + 1, 1), (at(10), 24)])?;
    let page = |n: u64| n * PAGE as u64;
    let read = |from: u64, len: usize| {
        let mut b = vec![0; len];
        match f.read_at(&mut b, from) {
            Ok(n) => n as i64,
            Err(e) => -i64::from(e.raw_os_error().unwrap_or(0)),
        }
    };
    let write = |from: u64, len: usize| {
        let mut b = vec![0; len];
        sys::pattern(22, &mut b);
        match f.write_at(&b, from) {
            Ok(n) => n as i64,
            Err(e) => -i64::from(e.raw_os_error().unwrap_or(0)),
        }
    };
    let (eio, efault) = (-i64::from(libc::EIO), -i64::from(libc::EFAULT));
    let all = PAGE as i64;
    check_eq!(read(page(2), PAGE), all, "in front of it");
    check_eq!(read(page(3), PAGE), eio, "a bad page");
    check_eq!(read(page(3), 100), eio, "of it, what is not bad");
    check_eq!(read(page(2), 3 * PAGE), eio, "with a bad page in it");
    // What fs/dax.c makes of a recovery that wrote nothing.
    check_eq!(write(page(3), 100), efault, "part of a bad page");
    check_eq!(write(page(3) + 100, PAGE), efault, "across two pages");
    check_eq!(bad.get()?, [(at(3) + 1, 1), (at(10), 24)], "untouched");
    check_eq!(write(page(3), PAGE), all, "a bad page");
    bad.becomes(&[(at(10), 24)])?;
    check_eq!(read(page(3), PAGE), all);
    // Several, with good ones around them.
    let n = write(page(8), 8 * PAGE);
    check_eq!(n, 8 * all, "pages good and bad");
    bad.becomes(&[])?;
    let mut got = vec![0; 8 * PAGE];
    f.read_exact_at(&mut got, page(8))?;
    check_eq!(sys::pattern_differs(22, &got), None);
    f.sync_all()?;
    drop(f);
    c.umount(MNT)?;
    c.ok(&["ndctl", "destroy-namespace", "-f", &ns])?;
    c.settle();
    Ok(())
}

/// Blocks of a BTT in bad places.
fn sector(c: &mut Ctx) -> TestResult {
    scrubbed(c)?;
    let ns = namespace(&region(c, SMALL)?);
    c.ok(&["ndctl", "disable-namespace", &ns])?;
    c.create_namespace(&["-f", "-e", &ns, "-m", "sector", "-l", "4096", NO_LABELS])?;
    let btt = bound(c, "btt")?;
    let disk = c.disk_of(&btt)?;
    let count = disk::attr_u64(c, &disk, "size")? / 8;
    let dev = disk::direct(&format!("/dev/{disk}"))?;
    for block in 0..count {
        check_eq!(write(&dev, block * 8, 8, block), 0, "block {block}");
    }
    drop(dev);
    c.unbind(&c.driver, &btt)?;
    // In the middle of the data.
    c.ok(&["ndctl", "disable-namespace", &ns])?;
    c.write(c.nd(&ns).join("force_raw"), "1")?;
    c.bind(&c.driver, &ns)?;
    inject(c, &ns, SMALL / 2 / 512, 16 * 8, &["--no-notify"])?;
    c.unbind(&c.driver, &ns)?;
    c.write(c.nd(&ns).join("force_raw"), "0")?;
    // The probe finds the BTT, makes a device for it, and leaves the namespace to that.
    let bind = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&ns);
    check_eq!(errno(&bind), libc::ENXIO);
    c.settle();
    let dev = disk::direct(&format!("/dev/{}", c.disk_of(&bound(c, "btt")?)?))?;
    for block in 0..count {
        check_written(&dev, block * 8, 8, block)?;
    }
    // The bus finds them and says so while the disk is in use.
    c.ok(&["ndctl", "start-scrub", "nfit_test.0"])?;
    scrubbed(c)?;
    let failed: Vec<u64> = (0..count)
        .filter(|block| read(&dev, block * 8, 8) == libc::EIO)
        .collect();
    println!("{count} blocks, of which fail: {failed:?}");
    check_eq!(failed.len(), 16, "blocks that fail");
    // A write goes to another place, and clears the one that it left at some time.
    for block in &failed {
        check_eq!(write(&dev, block * 8, 8, *block), 0, "block {block}");
    }
    for block in 0..count {
        check_written(&dev, block * 8, 8, block)?;
    }
    Ok(())
}

/// A DIMM that firmware has locked: its region has no namespace until it is unlocked.
fn locked(c: &mut Ctx) -> TestResult {
    const GET_CONFIG_SIZE: u32 = 4;
    let region = region(c, SMALL)?;
    let mapping = c.read(c.nd(&region).join("mapping0"))?;
    let dimm = mapping.split(',').next().unwrap_or_default();
    let handle = c.read_u64(c.nd(dimm).join("nfit/handle"))?;
    let knobs = fs::read_dir("/sys/class/nfit_test_dimm")?
        .flatten()
        .map(|e| e.path())
        .find(|p| c.read_u64(p.join("handle")).ok() == Some(handle))
        .ok_or("no such DIMM")?;
    let ns = namespace(&region);
    check_eq!(c.bound_to(&ns).as_deref(), Some(c.driver.as_str()));
    c.ok(&["ndctl", "disable-region", "all"])?;
    c.ok(&["ndctl", "disable-dimm", dimm])?;
    c.write(knobs.join("fail_cmd_code"), &(-libc::EACCES).to_string())?;
    c.write(
        knobs.join("fail_cmd"),
        &format!("{:#x}", 1 << GET_CONFIG_SIZE),
    )?;
    c.run(&["ndctl", "enable-dimm", dimm])?;
    c.run(&["ndctl", "enable-region", &region])?;
    c.settle();
    c.dmesg_has(&format!(
        "probe with driver {} failed with error -{}",
        c.driver,
        libc::EACCES
    ))?;
    check_eq!(c.bound_to(&ns), None);
    check!(c.disks().is_empty(), "disks: {:?}", c.disks());

    c.write(knobs.join("fail_cmd"), "0")?;
    c.ok(&["ndctl", "disable-region", "all"])?;
    c.ok(&["ndctl", "disable-dimm", dimm])?;
    c.ok(&["ndctl", "enable-dimm", dimm])?;
    c.ok(&["ndctl", "enable-region", "all"])?;
    c.settle();
    check_eq!(c.bound_to(&ns).as_deref(), Some(c.driver.as_str()));
    let disk = c.disk_of(&ns)?;
    check_eq!(read(&disk::direct(&format!("/dev/{disk}"))?, 0, 8), 0);
    Ok(())
}
