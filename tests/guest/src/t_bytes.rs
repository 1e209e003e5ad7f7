// SPDX-License-Identifier: GPL-2.0
//! What operations do to cache lines of the medium, counted by the plugin qemu/harness/durable.c for each
//! driver in turn. The harness compares: qemu/harness/src/tally.rs.

use crate::check_eq;
use crate::support::bench::{create, dax_node, give, name, Side, Window, HUGE};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::durable;
use crate::support::sys::SYNC;
use crate::support::tools;
use std::fs::File;

pub const TESTS: &[Test] = crate::tests! {
    bytes_moved => moved,
};

const LINE: usize = 64;
const SECTOR: usize = 512;
const MIB: usize = 1 << 20;
const SIZES: [(usize, &str); 5] = [
    (LINE, "64 bytes"),
    (SECTOR, "512 bytes"),
    (4096, "4 KiB"),
    (64 << 10, "64 KiB"),
    (MIB, "1 MiB"),
];
/// An interrupt only adds to what is counted: the least of these is told.
const TIMES: usize = 3;

/// What is done, and by whom.
struct Work<'a> {
    side: Side,
    theirs: &'static str,
    data: &'a Buf,
}

impl Work<'_> {
    /// Counts what `make` does, which has to move so many bytes.
    fn count(&self, what: &str, len: usize, mut make: impl FnMut() -> TestResult) -> TestResult {
        let driver = name(self.side, self.theirs);
        let text = format!("{driver}; {what}; {}", len / LINE);
        // What is done for the first time is not like those that follow.
        make()?;
        (0..TIMES).try_for_each(|_| durable::tally(&text, &mut make))
    }

    /// read(2) and write(2) of a disk, or a file with DAX.
    fn transfers(&self, f: &File, what: &str, least: usize) -> TestResult {
        let mut to = Buf::page(MIB);
        let (to, from) = (to.bytes_mut().as_mut_ptr(), self.data.bytes().as_ptr());
        for (len, size) in SIZES.into_iter().filter(|(len, _)| *len >= least) {
            self.count(&format!("{what}: read of {size}"), len, || {
                check_eq!(tools::pread_raw(f, to, len, 0)?, len);
                Ok(())
            })?;
            for (flags, how) in [(0, ""), (libc::RWF_DSYNC, ", RWF_DSYNC")] {
                self.count(&format!("{what}: write of {size}{how}"), len, || {
                    check_eq!(tools::pwrite_flags(f, from, len, 0, flags)?, len);
                    Ok(())
                })?;
            }
        }
        self.count(&format!("{what}: fdatasync"), 0, || Ok(f.sync_data()?))
    }

    /// Stores to a plain mapping, and msync(2).
    fn msync(&self, f: &File, what: &str) -> TestResult {
        let w = Window::new(MIB, HUGE, 0)?;
        w.map(f, 0, 0, MIB, libc::MAP_SHARED)?;
        for (len, size) in SIZES {
            self.count(&format!("{what}: stores of {size}, msync"), len, || {
                let (from, to) = (self.data.bytes().as_ptr(), w.address() as *mut u8);
                // SAFETY: the window is mapped, and as long.
                unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
                w.msync(len.next_multiple_of(4096))
            })?;
        }
        Ok(())
    }

    /// Stores that no system call has to follow, and loads.
    fn copies(&self, f: &File, flags: i32, what: &str) -> TestResult {
        let w = Window::new(HUGE, HUGE, 0)?;
        w.map(f, 0, 0, HUGE, flags)?;
        let at = w.address() as *mut u8;
        let mut to = Buf::page(MIB);
        for (len, size) in SIZES {
            let from = &self.data.bytes()[..len];
            self.count(&format!("{what}: load of {size}"), len, || {
                // SAFETY: the window is mapped, and longer.
                unsafe { std::ptr::copy_nonoverlapping(at, to.bytes_mut().as_mut_ptr(), len) };
                Ok(())
            })?;
            self.count(&format!("{what}: store of {size}, durable"), len, || {
                // SAFETY: as above.
                unsafe { rpmem::cache::copy(at, from) };
                rpmem::cache::drain();
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn moved(c: &mut Ctx) -> TestResult {
    const AT: &str = "/tmp/bytes";
    c.init_labels()?;
    let raw = create(c, &["-m", "raw", "-s", "64M"])?;
    let files = create(c, &["-m", "fsdax", "-s", "384M"])?;
    let dax = create(c, &["-m", "devdax", "-a", "2M", "-s", "64M"])?;
    tools::mkfs_dax(c, "ext4", &format!("/dev/{}", c.disk_of(&files)?))?;
    for module in ["nd_pmem", "device_dax", "dax_pmem"] {
        c.modprobe(module)?;
    }
    let data = Buf::pattern(MIB, 1);
    for side in [Side::Theirs, Side::Ours] {
        let work = |theirs| Work {
            side,
            theirs,
            data: &data,
        };
        let w = work("nd_pmem");
        give(c, &raw, name(side, "nd_pmem"))?;
        let disk = c.disk_of(&raw)?;
        w.transfers(&disk::direct(&format!("/dev/{disk}"))?, "disk", SECTOR)?;
        give(c, &files, name(side, "nd_pmem"))?;
        c.mount(&format!("/dev/{}", c.disk_of(&files)?), AT, "dax=always")?;
        let f = tools::file_of(&format!("{AT}/file"), HUGE)?;
        check_eq!(tools::pwrite_raw(&f, data.bytes().as_ptr(), MIB, 0)?, MIB);
        f.sync_all()?;
        w.transfers(&f, "ext4", LINE)?;
        w.msync(&f, "ext4")?;
        // The node's own has nothing beside it in nd_pmem but this.
        match side {
            Side::Theirs => w.msync(&f, "node")?,
            Side::Ours => w.msync(&tools::open_rw(format!("/dev/r{disk}"))?, "node")?,
        }
        drop(f);
        c.umount(AT)?;
        let w = work("dax_pmem");
        give(c, &dax, name(side, "dax_pmem"))?;
        let (node, flags) = match side {
            Side::Theirs => (dax_node(c, &dax)?, libc::MAP_SHARED),
            Side::Ours => (format!("/dev/r{}", c.disk_of(&dax)?), SYNC),
        };
        c.wait_exists(&node)?;
        w.copies(&tools::open_rw(node)?, flags, "node, MAP_SYNC")?;
    }
    Ok(())
}
