// SPDX-License-Identifier: GPL-2.0
//! virtio-pmem: nothing is durable before the host has flushed it. The host of these tests loses
//! everything else in a power cut (qemu/harness/last-flush.c).

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{Buf, MIB};
use crate::support::durable;
use crate::support::node::{check_gone, Node, DIRECT_WINDOW};
use crate::support::sys::{Map, PAGE, RW, SYNC};
use crate::support::tools::{self, errno};
use crate::support::trace::Probe;
use crate::{check, check_eq, fail};
use libc::MAP_SHARED;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    virtio_namespace => namespace,
    virtio_flushes => flushes,
    virtio_many => many,
    virtio_map_sync_refused => map_sync_refused,
    virtio_cut_block => cut_block,
    virtio_after_block => after_block,
    virtio_cut_msync => cut_msync,
    virtio_after_msync => after_msync,
    virtio_cut_files => cut_files,
    virtio_after_files => after_files,
    virtio_removed => removed,
};

fn namespace(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"));
    for (file, want) in [
        ("queue/dax", "1"),
        // As with nd_pmem: libnvdimm knows of no DIMM behind it. A flush follows instead.
        ("queue/fua", "0"),
        ("queue/write_cache", "write back"),
        ("size", "786432"),
    ] {
        check_eq!(c.disk_attr(&h.space.disk, file)?, want, "{file}");
    }
    for (file, want) in [
        ("synchronous", 0),
        ("page_backed", 1),
        ("pinnable", 0),
        ("size", 384 * MIB),
    ] {
        check_eq!(h.attr(c, file)?, want, "{file}");
    }
    Ok(())
}

/// A disk, past the page cache.
fn direct(h: &Node, flags: i32) -> TestResult<File> {
    tools::open_flags(h.space.dev(), libc::O_DIRECT | flags)
}

/// The host is asked to flush when it must be, and not for anything else.
fn flushes(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let asked = Probe::new(c, "hostflush", "virtio_pmem_flush")?;
    let count = |what: &dyn Fn() -> TestResult| -> TestResult<usize> {
        asked.restart()?;
        what()?;
        asked.count(c)
    };
    let block = Buf::pattern(PAGE, 1);
    let plain = direct(&h, 0)?;
    let write = |f: &File| -> TestResult { Ok(f.write_all_at(block.bytes(), MIB)?) };
    check_eq!(count(&|| write(&plain))?, 0, "a write");
    check!(count(&|| Ok(plain.sync_all()?))? >= 1, "fsync");
    let durable = direct(&h, libc::O_DSYNC)?;
    check!(count(&|| write(&durable))? >= 1, "O_DSYNC");
    drop((plain, durable));

    let f = h.open()?;
    check!(count(&|| Ok(f.sync_all()?))? >= 1, "fsync of the node");
    let m = Map::new(&f, 0, 16 * PAGE, RW, MAP_SHARED)?;
    let store = || -> TestResult {
        m.write8(0, 1);
        Ok(())
    };
    check_eq!(count(&store)?, 0, "a store");
    check!(count(&|| Ok(m.msync()?))? >= 1, "msync");
    drop((m, f));
    check!(
        count(&|| {
            h.space.unbind(c)?;
            h.space.bind(c)
        })? >= 1,
        "unbind"
    );
    Ok(())
}

/// Many flushes at a time: each ends, with its write.
fn many(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let threads: Vec<_> = (0..16u64)
        .map(|n| {
            let dev = h.space.dev();
            std::thread::spawn(move || -> std::io::Result<()> {
                let f = File::options()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
                    .open(dev)?;
                for i in 0..3 {
                    let at = 64 * MIB + n * 64 * PAGE as u64 + i * PAGE as u64;
                    f.write_all_at(Buf::pattern(PAGE, n * 100 + i).bytes(), at)?;
                }
                Ok(())
            })
        })
        .collect();
    for t in threads {
        match t.join() {
            Ok(r) => r?,
            Err(_) => crate::fail!("a writer has panicked"),
        }
    }
    let f = direct(&h, 0)?;
    let mut b = Buf::page(PAGE);
    for n in 0..16u64 {
        for i in 0..3 {
            f.read_exact_at(
                b.bytes_mut(),
                64 * MIB + n * 64 * PAGE as u64 + i * PAGE as u64,
            )?;
            check!(
                b.bytes() == Buf::pattern(PAGE, n * 100 + i).bytes(),
                "write {i} of {n}"
            );
        }
    }
    Ok(())
}

fn map_sync_refused(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    let f = h.open()?;
    for base in [0, DIRECT_WINDOW] {
        check_eq!(
            errno(&Map::new(&f, base, PAGE, RW, SYNC)),
            libc::EOPNOTSUPP,
            "the node, from {base:#x}"
        );
        Map::new(&f, base, PAGE, RW, MAP_SHARED)?.msync()?;
    }
    drop(f);
    for fs in ["ext4", "xfs"] {
        tools::mkfs_dax(c, fs, &h.space.dev())?;
        c.mount(&h.space.dev(), "/mnt/pmem", "dax")?;
        let f = tools::file_of("/mnt/pmem/file", PAGE)?;
        check!(tools::is_dax(&f)?, "{fs}: no DAX");
        check_eq!(
            errno(&Map::new(&f, 0, PAGE, RW, SYNC)),
            libc::EOPNOTSUPP,
            "{fs}"
        );
        let m = Map::new(&f, 0, PAGE, RW, MAP_SHARED)?;
        m.write8(0, 1);
        m.msync()?;
        drop((m, f));
        c.umount("/mnt/pmem")?;
    }
    Ok(())
}

// Before a cut: `OLD` everywhere, durable; then `NEW`, of which a part is flushed.
const OLD: u64 = 5;
const NEW: u64 = 6;
const FLUSHED: u64 = 8 * MIB;
const LOST: u64 = 16 * MIB;

fn is(h: &Node, at: u64, seed: u64) -> TestResult<bool> {
    let mut b = Buf::page(MIB as usize);
    direct(h, 0)?.read_exact_at(b.bytes_mut(), at)?;
    Ok(b.bytes() == Buf::pattern(MIB as usize, seed).bytes())
}

fn prepare(h: &Node) -> TestResult {
    let f = direct(h, 0)?;
    for at in [FLUSHED, LOST] {
        f.write_all_at(Buf::pattern(MIB as usize, OLD).bytes(), at)?;
    }
    f.sync_all()?;
    Ok(())
}

/// What was flushed is there. What was not is not: or this machine could not tell.
fn after(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    check!(is(&h, FLUSHED, NEW)?, "what was flushed is lost");
    check!(is(&h, LOST, OLD)?, "what was not flushed has survived");
    Ok(())
}

fn cut_block(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    prepare(&h)?;
    let new = Buf::pattern(MIB as usize, NEW);
    let durable = direct(&h, libc::O_DSYNC)?;
    for at in (0..MIB).step_by(64 << 10) {
        durable.write_all_at(&new.bytes()[at as usize..][..64 << 10], FLUSHED + at)?;
    }
    durable::written(&durable, FLUSHED, MIB, "O_DSYNC")?;
    direct(&h, 0)?.write_all_at(new.bytes(), LOST)?;
    c.power_cut()
}

fn after_block(c: &mut Ctx) -> TestResult {
    after(c)
}

fn cut_msync(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    prepare(&h)?;
    let new = Buf::pattern(MIB as usize, NEW);
    let f = h.open()?;
    // Half by an ordinary mapping, half by a direct one.
    let half = MIB as usize / 2;
    for (n, base) in [0, DIRECT_WINDOW].into_iter().enumerate() {
        let at = n * half;
        let mut m = Map::new(&f, base + FLUSHED + at as u64, half, RW, MAP_SHARED)?;
        m.slice_mut().copy_from_slice(&new.bytes()[at..at + half]);
        m.msync()?;
    }
    let mut lost = Map::new(&f, LOST, MIB as usize, RW, MAP_SHARED)?;
    lost.slice_mut().copy_from_slice(new.bytes());
    lost.persist(0, MIB as usize);
    c.power_cut()
}

fn after_msync(c: &mut Ctx) -> TestResult {
    after(c)
}

fn cut_files(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    tools::mkfs_dax(c, "ext4", &h.space.dev())?;
    c.mount(&h.space.dev(), "/mnt/pmem", "dax")?;
    let f = tools::file_of("/mnt/pmem/file", 2 * MIB as usize)?;
    f.sync_all()?;
    let mut m = Map::new(&f, 0, 2 * MIB as usize, RW, MAP_SHARED)?;
    let new = Buf::pattern(MIB as usize, NEW);
    m.slice_mut()[..MIB as usize].copy_from_slice(new.bytes());
    m.msync()?;
    let mut g = File::create("/mnt/pmem/written")?;
    g.write_all(new.bytes())?;
    g.sync_all()?;
    durable::written(&g, 0, MIB, "fsync(2)")?;
    // After the last flush of anything.
    m.slice_mut()[MIB as usize..].copy_from_slice(new.bytes());
    c.power_cut()
}

fn after_files(c: &mut Ctx) -> TestResult {
    let h = Node::nth(c, 0)?;
    c.mount(&h.space.dev(), "/mnt/pmem", "dax")?;
    let new = Buf::pattern(MIB as usize, NEW);
    let file = std::fs::read("/mnt/pmem/file")?;
    check!(
        &file[..MIB as usize] == new.bytes(),
        "what msync has flushed"
    );
    check!(
        &file[MIB as usize..] != new.bytes(),
        "what was not flushed has survived"
    );
    check!(
        std::fs::read("/mnt/pmem/written")? == new.bytes(),
        "what fsync has flushed"
    );
    c.umount("/mnt/pmem")?;
    c.ok(&["fsck.ext4", "-n", "-f", &h.space.dev()])?;
    Ok(())
}

/// The device goes away while its memory is mapped and its disk open, and comes back. Linux 7.3 ends its
/// queue before it has the disk unbound, which then cannot be flushed any more; with nd_pmem neither.
fn removed(c: &mut Ctx) -> TestResult {
    let driver = Path::new("/sys/bus/virtio/drivers/virtio_pmem");
    let entries = std::fs::read_dir(driver)?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let Some(device) = entries.filter(|name| name.starts_with("virtio")).min() else {
        fail!("no device in {}", driver.display());
    };
    let new = Buf::pattern(MIB as usize, NEW);
    for round in 0..3 {
        let h = Node::nth(c, 0)?;
        let f = h.open()?;
        let disk = direct(&h, 0)?;
        let mut m = Map::new(&f, FLUSHED, MIB as usize, RW, MAP_SHARED)?;
        m.slice_mut().copy_from_slice(new.bytes());
        m.msync()?;
        // Something that no flush has reached.
        m.write8(0, round);
        c.write(driver.join("unbind"), &device)?;
        c.wait_gone(&h.path)?;
        check_gone(&m, 0)?;
        check_eq!(errno(&m.msync()), libc::EIO, "msync");
        let mut page = Buf::page(PAGE);
        let read = disk.read_exact_at(page.bytes_mut(), FLUSHED);
        check!(errno(&read) != 0, "the disk is still there");
        drop((m, f, disk));
        c.write(driver.join("bind"), &device)?;
        let again = Node::nth(c, 0)?;
        check_eq!(c.bound_to(&again.space.nd).as_deref(), Some("rpmem"));
        let mut back = Buf::page(MIB as usize);
        direct(&again, 0)?.read_exact_at(back.bytes_mut(), FLUSHED)?;
        check!(
            back.bytes()[1..] == new.bytes()[1..],
            "what msync has flushed"
        );
        let g = again.open()?;
        let fresh = Map::new(&g, FLUSHED, PAGE, RW, MAP_SHARED)?;
        fresh.write8(0, 1);
        fresh.msync()?;
    }
    Ok(())
}
