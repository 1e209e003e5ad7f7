// SPDX-License-Identifier: GPL-2.0
//! Binding, unbinding, loading and unloading, at rest and under I/O.

use super::holdings::{cycle, cycles};
use super::{
    disk_io, expected_error, flushes, refused_with_ebusy, seal, sealed, space, still_running, Kind,
    MNT,
};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::peer::Peer;
use crate::support::sys::Map;
use crate::support::tools::{self, PAGE};
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    life_create => create,
    life_create_mounted => create_mounted,
    life_flush => flush,
    life_bind_raw => |c| bind_cycles(c, Kind::Raw),
    life_bind_mem => |c| bind_cycles(c, Kind::Mem),
    life_bind_dev => |c| bind_cycles(c, Kind::Dev),
    life_load => load_cycles,
    life_busy => busy,
    life_readers => readers,
    life_region => region,
    life_read_only => read_only,
};

/// The namespaces of these tests, as small as may be: struct pages take their time.
fn create(c: &mut Ctx) -> TestResult {
    create_sized(c, "64M")
}

/// xfs wants more.
fn create_mounted(c: &mut Ctx) -> TestResult {
    create_sized(c, "384M")
}

fn create_sized(c: &Ctx, dev_size: &str) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "raw", "-s", "64M", "-n", "raw"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "64M", "-n", "mem"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", dev_size, "-n", "dev"])?;
    check_eq!(tools::spaces(c)?.len(), 3);
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        check_eq!(
            c.bound_to(&s.nd).as_deref(),
            Some(c.driver_name()),
            "driver of {}",
            s.nd
        );
    }
    Ok(())
}

/// Unbind and bind, over and over, with readers and writers on the disk.
fn bind_cycles(c: &mut Ctx, kind: Kind) -> TestResult {
    let s = space(c, kind)?;
    let at = seal(&s)?;
    let resting = c.read("/proc/iomem")?;
    cycle(c, cycles(c) / 2, |_| {
        s.unbind(c)?;
        check!(
            !Path::new(&format!("/sys/block/{}", s.disk)).exists(),
            "a disk without driver"
        );
        s.bind(c)
    })?;
    check_eq!(c.read("/proc/iomem")?, resting);
    let dev = s.dev();
    let mut workers = vec![
        Peer::start(|link| disk_io(&dev, true, link))?,
        Peer::start(|link| disk_io(&dev, false, link))?,
    ];
    for n in 0..cycles(c) {
        if n % 5 == 0 {
            // I/O is really going on.
            for w in &workers {
                w.hear()?;
            }
        }
        s.unbind(c)?;
        s.bind(c)?;
        still_running(&mut workers)?;
    }
    for w in &workers {
        w.hear()?;
    }
    drop(workers);
    sealed(&s, at)
}

/// The removal of the driver flushes, even a disk that nobody has written to.
fn flush(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        let flushes = flushes(c)?;
        s.unbind(c)?;
        check_eq!(
            flushes.count_by(c, std::process::id() as i32)?,
            1,
            "flushes by the unbind"
        );
        drop(flushes);
        s.bind(c)?;
    }
    Ok(())
}

/// Unload and load, with I/O in between: an unload that meets an open disk is refused with EBUSY
/// and does nothing.
fn load_cycles(c: &mut Ctx) -> TestResult {
    let all = [
        space(c, Kind::Raw)?,
        space(c, Kind::Mem)?,
        space(c, Kind::Dev)?,
    ];
    let ats: Vec<u64> = all.iter().map(seal).collect::<TestResult<_>>()?;
    let params = c.params.clone();
    cycle(c, cycles(c) / 2, |_| {
        c.rmmod(c.driver_name())?;
        check!(
            c.disks().is_empty(),
            "disks without driver: {:?}",
            c.disks()
        );
        c.insmod_rpmem(&params)?;
        for s in &all {
            c.wait_exists(s.dev())?;
        }
        Ok(())
    })?;
    // Each worker opens a disk, says so, and when it has been told to go on, reads and closes it.
    let mut workers = Vec::new();
    for s in &all {
        let dev = s.dev();
        workers.push(Peer::start(|link| loop {
            link.hear();
            let mut data = vec![0; 1 << 20];
            let r = File::open(&dev).and_then(|f| {
                link.say();
                link.hear();
                (0..4).try_for_each(|n| f.read_exact_at(&mut data, (8 + n) << 20))
            });
            if let Err(e) = r {
                println!("{dev}: {e}");
                return 1;
            }
        })?);
    }
    let mut refused = 0;
    for _ in 0..cycles(c) {
        for w in &workers {
            w.say();
        }
        for w in &workers {
            w.hear()?;
        }
        let r = c.try_rmmod(c.driver_name());
        check_eq!(tools::errno(&r), libc::EAGAIN, "rmmod with open disks");
        for w in &workers {
            w.say();
        }
        c.wait_for("an unload between two users", || {
            match c.try_rmmod(c.driver_name()) {
                Ok(()) => true,
                Err(_) => {
                    refused += 1;
                    false
                }
            }
        })?;
        c.insmod_rpmem(&params)?;
        for s in &all {
            c.wait_exists(s.dev())?;
        }
        for w in &mut workers {
            check_eq!(w.ended()?, None, "a worker has ended");
        }
    }
    println!("{refused} more refusals with workers on the disks");
    drop(workers);
    for (s, at) in all.iter().zip(ats) {
        c.wait_exists(s.dev())?;
        sealed(s, at)?;
    }
    Ok(())
}

/// rmmod is refused as long as anybody has the disk, and goes through afterwards.
fn busy(c: &mut Ctx) -> TestResult {
    let raw = space(c, Kind::Raw)?;
    let mem = space(c, Kind::Mem)?;
    let f = File::open(raw.dev())?;
    refused_with_ebusy(c, "an open disk")?;
    drop(f);
    c.mkfs("ext4", &mem.dev())?;
    c.mount(&mem.dev(), MNT, "dax")?;
    refused_with_ebusy(c, "a mounted file system")?;
    let g = tools::open_rw(format!("{MNT}/f"))?;
    g.set_len(4 << 20)?;
    let m = Map::sync(&g, 0, 4 << 20)?;
    m.write8(0, 1);
    // The file system of an unmounted but busy mount lives on, and so does the disk.
    c.ok(&["umount", "-l", MNT])?;
    drop(g);
    refused_with_ebusy(c, "a mapping of a detached file system")?;
    m.write8(PAGE, 2);
    check_eq!((m.read8(0), m.read8(PAGE)), (1, 2));
    drop(m);
    let name = c.driver_name().to_string();
    c.wait_for("rmmod after the last user", || c.try_rmmod(&name).is_ok())?;
    check!(c.disks().is_empty());
    c.insmod_rpmem(&c.params)?;
    check_eq!(tools::spaces(c)?.len(), 3);
    Ok(())
}

/// Openers and readers of sysfs, as udev is one, while the disk comes and goes.
fn readers(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem] {
        let s = space(c, kind)?;
        let sys = format!("/sys/block/{}", s.disk);
        let mut workers = Vec::new();
        workers.push(Peer::start(|link| {
            let files = [
                "badblocks",
                "dax/write_cache",
                "size",
                "ro",
                "stat",
                "queue/dax",
                "uevent",
            ];
            loop {
                let mut all = true;
                for f in files {
                    match fs::read(format!("{sys}/{f}")) {
                        Ok(_) => {}
                        Err(e) if expected_error(&e) => all = false,
                        Err(e) => {
                            println!("{f}: {e}");
                            return 1;
                        }
                    }
                }
                if all {
                    link.say();
                }
            }
        })?);
        workers.push(Peer::start(|link| loop {
            for v in ["0", "1"] {
                match fs::OpenOptions::new()
                    .write(true)
                    .open(format!("{sys}/dax/write_cache"))
                {
                    Ok(f) => match f.write_at(v.as_bytes(), 0) {
                        Ok(_) => link.say(),
                        Err(e) if expected_error(&e) => {}
                        Err(e) => {
                            println!("write_cache: {e}");
                            return 1;
                        }
                    },
                    Err(e) if expected_error(&e) => {}
                    // The folder is there, the attribute is not yet or no longer.
                    Err(e) => {
                        println!("write_cache: {e}");
                        return 1;
                    }
                }
            }
        })?);
        let dev = s.dev();
        workers.push(Peer::start(|link| loop {
            match File::open(&dev) {
                Ok(f) => {
                    link.say();
                    drop(f);
                }
                Err(e) if expected_error(&e) => {}
                Err(e) => {
                    println!("open: {e}");
                    return 1;
                }
            }
        })?);
        for n in 0..30 {
            if n % 10 == 0 {
                for w in &workers {
                    w.hear()?;
                }
            }
            s.unbind(c)?;
            s.bind(c)?;
            still_running(&mut workers)?;
        }
        drop(workers);
        // A file of a disk that is gone, kept open: nothing but errors, and a new disk beside it.
        let old = File::open(s.dev())?;
        let attr = File::open(format!("{sys}/badblocks"))?;
        s.unbind(c)?;
        let mut b = vec![0; PAGE];
        let r = old.read_at(&mut b, 1 << 20);
        check!(
            matches!(&r, Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::ENXIO | libc::ENODEV)))
                || matches!(&r, Ok(0)),
            "read of a disk that is gone: {r:?}"
        );
        check_eq!(
            tools::errno(&attr.read_at(&mut b, 0)),
            libc::ENODEV,
            "sysfs of a disk that is gone"
        );
        s.bind(c)?;
        let new = File::open(s.dev())?;
        new.read_exact_at(&mut b, 1 << 20)?;
        check!(
            old.read_at(&mut b, 1 << 20).is_err() || old.read_at(&mut b, 1 << 20)? == 0,
            "the old file works again"
        );
    }
    Ok(())
}

/// A region that is disabled takes its disks along, and they come back with it.
fn region(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Mem)?;
    let at = seal(&s)?;
    let region = match c.regions().as_slice() {
        [one] => one.clone(),
        other => fail!("one region expected: {other:?}"),
    };
    let opened = File::open(s.dev())?;
    for n in 0..10 {
        c.write("/sys/bus/nd/drivers/nd_region/unbind", &region)?;
        check!(
            c.disks().is_empty(),
            "disks without region: {:?}",
            c.disks()
        );
        c.write("/sys/bus/nd/drivers/nd_region/bind", &region)?;
        c.settle();
        check_eq!(tools::spaces(c)?.len(), 3, "disks, round {n}");
    }
    drop(opened);
    // The polite way.
    c.ok(&["ndctl", "disable-region", &region])?;
    c.ok(&["ndctl", "enable-region", &region])?;
    let s = space(c, Kind::Mem)?;
    sealed(&s, at)
}

/// Read-only of the region reaches the disks of a bound driver, there and back; a disk that is
/// bound while the region is read-only is so from the start.
fn read_only(c: &mut Ctx) -> TestResult {
    let region = c.nd(&c.regions()[0]).join("read_only");
    let all = [
        space(c, Kind::Raw)?,
        space(c, Kind::Mem)?,
        space(c, Kind::Dev)?,
    ];
    let expect = |want: &str| -> TestResult {
        for s in &all {
            let ro = format!("/sys/block/{}/ro", s.disk);
            c.wait_for(&format!("{ro} to be {want}"), || {
                c.read(&ro).is_ok_and(|v| v == want)
            })?;
        }
        Ok(())
    };
    expect("0")?;
    let f = tools::open_rw(all[0].dev())?;
    c.write(&region, "1")?;
    expect("1")?;
    // A file that was open for writing before is refused, too.
    let page = vec![0x5a; PAGE];
    check_eq!(
        tools::errno(&f.write_at(&page, 0)),
        libc::EPERM,
        "write to a disk that has become read-only"
    );
    drop(f);
    all[1].unbind(c)?;
    all[1].bind(c)?;
    expect("1")?;
    c.write(&region, "0")?;
    expect("0")?;
    let f = tools::open_rw(all[1].dev())?;
    f.write_all_at(&page, 16 << 20)?;
    f.sync_all()?;
    Ok(())
}
