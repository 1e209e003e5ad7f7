// SPDX-License-Identifier: GPL-2.0
//! Benchmarks: this driver and the kernel's own on the same machine in the same boot, in guest
//! instructions. The host makes the table: qemu/harness/src/bench.rs, which has the names of the rows.

use crate::bench::{
    calibrate, cost, dax_node, each, fact, give, median, report, shuffled, Side, Window, HUGE,
    PAGE, TURNS,
};
use crate::ctx::{Ctx, Test, TestResult};
use crate::disk::{self, Buf};
use crate::sys::{MAP_SHARED_VALIDATE, MAP_SYNC};
use crate::tools::{self, Space};
use crate::{check, check_eq};
use std::fs::File;
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    Test {
        name: "bench_block",
        run: block,
    },
    Test {
        name: "bench_map",
        run: map,
    },
];

const SYNC: i32 = MAP_SHARED_VALIDATE | MAP_SYNC;
/// RPMEM_PREFAULT_WRITE
const PREFAULT_WRITE: u32 = 1;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Bytes of the mappings that are touched page by page.
const AREA: usize = 128 * MIB;
/// Samples of one operation.
const SAMPLES: usize = 512;

/// A new namespace; the nd device that a driver binds.
fn create(c: &Ctx, options: &[&str]) -> TestResult<String> {
    let before: Vec<String> = tools::spaces(c)?.into_iter().map(|s| s.nd).collect();
    c.create_namespace(options)?;
    let new = |s: &Space| !before.contains(&s.nd);
    match tools::spaces(c)?.into_iter().find(new) {
        Some(s) => Ok(s.nd),
        None => Err("there is no disk on the new namespace".into()),
    }
}

fn name(side: Side, theirs: &'static str) -> &'static str {
    match side {
        Side::Theirs => theirs,
        Side::Ours => "rpmem",
    }
}

/// Block I/O on a namespace without struct pages, past the page cache.
fn block(c: &mut Ctx) -> TestResult {
    calibrate()?;
    c.init_labels()?;
    let nd = create(c, &["-m", "raw", "-s", "256M"])?;
    c.modprobe("nd_pmem")?;
    for (pass, side) in TURNS {
        give(c, &nd, name(side, "nd_pmem"))?;
        let dev = format!("/dev/{}", c.disk_of(&nd)?);
        let f = disk::direct(&dev)?;
        let size = disk::size(&f)? as usize;
        let mut buf = Buf::pattern(MIB, 1);
        let at = buf.bytes_mut().as_mut_ptr();
        let offset = |i: usize| (i.wrapping_mul(2_654_435_761) % (size / PAGE) * PAGE) as u64;

        let rows: [(&str, usize, bool); 4] = [
            ("read4k", PAGE, false),
            ("write4k", PAGE, true),
            ("read1m", MIB, false),
            ("write1m", MIB, true),
        ];
        for (row, len, write) in rows {
            let n = if len == PAGE { SAMPLES } else { 65 };
            let value = each(n, |i| {
                let offset = if len == PAGE {
                    offset(i)
                } else {
                    (i * MIB) as u64
                };
                let done = if write {
                    tools::pwrite_raw(&f, at, len, offset)?
                } else {
                    tools::pread_raw(&f, at, len, offset)?
                };
                check_eq!(done, len);
                Ok(())
            })?;
            report(pass, side, &format!("block.{row}"), value);
        }
        let value = each(SAMPLES, |_| Ok(f.sync_data()?))?;
        report(pass, side, "block.flush", value);
        let io = libc::iovec {
            iov_base: at.cast(),
            iov_len: PAGE,
        };
        let value = each(SAMPLES, |i| {
            // SAFETY: one vector of a buffer of that length.
            let n = unsafe {
                libc::pwritev2(
                    f.as_raw_fd(),
                    &io,
                    1,
                    offset(i) as libc::off_t,
                    libc::RWF_DSYNC,
                )
            };
            check_eq!(n, PAGE as isize, "{}", std::io::Error::last_os_error());
            Ok(())
        })?;
        report(pass, side, "block.fua", value);
    }
    Ok(())
}

/// A device to map, and how.
struct Target {
    file: File,
    flags: i32,
    side: Side,
}

impl Target {
    fn open(node: &str, side: Side) -> TestResult<Target> {
        Ok(Target {
            file: tools::open_rw(node)?,
            // device-dax has no MAP_SYNC, and is as if it had.
            flags: match side {
                Side::Theirs => libc::MAP_SHARED,
                Side::Ours => SYNC,
            },
            side,
        })
    }

    /// All of `w` mapped and nothing touched.
    fn fresh(&self, w: &Window, len: usize) -> TestResult {
        w.unmap();
        w.map(&self.file, 0, 0, len, self.flags)
    }

    /// One fault of one page that nothing around is mapped with: the mapping ends at the page.
    fn one_page(&self, write: bool) -> TestResult<f64> {
        let w = Window::new(SAMPLES * PAGE, HUGE, PAGE)?;
        for i in 0..SAMPLES {
            w.map(&self.file, i * PAGE, (i * PAGE) as u64, PAGE, self.flags)?;
        }
        each(SAMPLES, |i| {
            if write {
                w.store(i * PAGE)
            } else {
                w.load(i * PAGE)
            }
            Ok(())
        })
    }

    /// Per page.
    fn touch(&self, w: &Window, order: impl Iterator<Item = usize>) -> TestResult<f64> {
        self.fresh(w, AREA)?;
        let order: Vec<usize> = order.collect();
        let (cost, ()) = cost(|| order.iter().for_each(|page| w.store(page * PAGE)));
        Ok(cost as f64 / order.len() as f64)
    }

    /// The whole munmap(2) of what has been touched.
    fn unmap(&self, w: &Window, step: usize) -> TestResult<f64> {
        self.fresh(w, AREA)?;
        (0..AREA).step_by(step).for_each(|at| w.store(at));
        let (cost, ()) = cost(|| w.unmap());
        Ok(cost as f64)
    }

    /// mmap(2) with everything mapped when it returns, per entry.
    fn prefault(&self, w: &Window, entry: usize) -> TestResult<f64> {
        w.unmap();
        let (cost, result) = cost(|| -> TestResult {
            match self.side {
                Side::Theirs => w.map(&self.file, 0, 0, AREA, self.flags | libc::MAP_POPULATE),
                Side::Ours => {
                    w.map(&self.file, 0, 0, AREA, self.flags)?;
                    let (done, err) = prefault(&self.file, w.address(), AREA);
                    check_eq!((done, err), (AREA as u64, 0));
                    Ok(())
                }
            }
        });
        result?;
        Ok(cost as f64 / (AREA / entry) as f64)
    }

    /// One fault of a large entry.
    fn one_huge(&self, len: usize, entry: usize, write: bool) -> TestResult<f64> {
        let w = Window::new(len, entry.max(HUGE), 0)?;
        let mut samples = Vec::new();
        while samples.len() < 16 {
            self.fresh(&w, len)?;
            // The first one makes the page table, too.
            for at in (0..len).step_by(entry) {
                let (cost, ()) = cost(|| if write { w.store(at) } else { w.load(at) });
                samples.push(cost);
            }
        }
        Ok(median(&mut samples))
    }
}

fn prefault(f: &File, address: usize, len: usize) -> (u64, i32) {
    tools::prefault_at(f, address, len as u64, PREFAULT_WRITE)
}

/// The same three times; the median.
fn thrice(mut f: impl FnMut() -> TestResult<f64>) -> TestResult<f64> {
    let mut all = [f()?, f()?, f()?];
    all.sort_by(f64::total_cmp);
    Ok(all[1])
}

fn small_pages(t: &Target, pass: usize, prefix: &str) -> TestResult {
    let key = |row: &str| format!("{prefix}.{row}");
    for (row, write) in [("fault4k.read", false), ("fault4k.write", true)] {
        report(pass, t.side, &key(row), t.one_page(write)?);
    }
    // Not congruent with the medium, so that there can be no large entries.
    let w = Window::new(AREA, HUGE, PAGE)?;
    let pages = AREA / PAGE;
    let value = thrice(|| t.touch(&w, 0..pages))?;
    report(pass, t.side, &key("touch.sequential"), value);
    let value = thrice(|| t.touch(&w, shuffled(pages)))?;
    report(pass, t.side, &key("touch.random"), value);
    let value = thrice(|| t.unmap(&w, PAGE))?;
    report(pass, t.side, &key("munmap4k"), value);
    let value = thrice(|| t.prefault(&w, PAGE))?;
    report(pass, t.side, &key("prefault4k"), value);
    Ok(())
}

fn huge_pages(t: &Target, pass: usize, prefix: &str) -> TestResult {
    let key = |row: &str| format!("{prefix}.{row}");
    for (row, write) in [("fault2m.read", false), ("fault2m.write", true)] {
        report(pass, t.side, &key(row), t.one_huge(AREA, HUGE, write)?);
    }
    let w = Window::new(AREA, HUGE, 0)?;
    let value = thrice(|| t.unmap(&w, HUGE))?;
    report(pass, t.side, &key("munmap2m"), value);
    let value = thrice(|| t.prefault(&w, HUGE))?;
    report(pass, t.side, &key("prefault2m"), value);
    Ok(())
}

fn gigantic_pages(t: &Target, pass: usize, prefix: &str) -> TestResult {
    let value = t.one_huge(GIB, GIB, true)?;
    report(pass, t.side, &format!("{prefix}.fault1g.write"), value);
    Ok(())
}

/// Mappings: this driver without struct pages against device-dax, which cannot do without; and the
/// two of them on the same namespaces.
fn map(c: &mut Ctx) -> TestResult {
    calibrate()?;
    c.init_labels()?;
    let raw = create(c, &["-m", "raw", "-s", "2G"])?;
    let mut dax = Vec::new();
    for (align, size) in [("4K", "256M"), ("2M", "256M"), ("1G", "3G")] {
        dax.push(create(c, &["-m", "devdax", "-a", align, "-s", size])?);
    }
    c.modprobe("device_dax")?;
    c.modprobe("dax_pmem")?;
    let groups = [small_pages, huge_pages, gigantic_pages];
    for (pass, side) in TURNS {
        for (nd, group) in dax.iter().zip(groups) {
            give(c, nd, name(side, "dax_pmem"))?;
            let node = match side {
                Side::Theirs => dax_node(c, nd)?,
                Side::Ours => format!("/dev/r{}", c.disk_of(nd)?),
            };
            c.wait_exists(&node)?;
            let t = Target::open(&node, side)?;
            group(&t, pass, "devdax")?;
            if side == Side::Theirs {
                continue;
            }
            let node = format!("/dev/r{}", c.disk_of(&raw)?);
            group(&Target::open(&node, side)?, pass, "raw")?;
        }
    }
    fact("map.area", &AREA.to_string());
    Ok(())
}
