// SPDX-License-Identifier: GPL-2.0
//! The rows of the table of benchmarks: what is compared with what, and the bars.

use crate::bench::AGREE_COARSE;

/// What is compared with what: keys of the guest's lines.
pub struct Row {
    pub label: &'static str,
    pub ours: &'static str,
    pub theirs: &'static str,
    /// Who `theirs` is.
    pub against: &'static str,
    /// What the ratio should not exceed, if there is a bar.
    pub bar: Option<f64>,
}

const fn row(
    label: &'static str,
    ours: &'static str,
    theirs: &'static str,
    against: &'static str,
    bar: f64,
) -> Row {
    Row {
        label,
        ours,
        theirs,
        against,
        bar: Some(bar),
    }
}

/// Without a bar.
const fn free(
    label: &'static str,
    ours: &'static str,
    theirs: &'static str,
    against: &'static str,
) -> Row {
    Row {
        bar: None,
        ..row(label, ours, theirs, against, 0.0)
    }
}

const PMEM: &str = "nd_pmem";
const DAX: &str = "device-dax";
const BOTH: &str = "nd_pmem and device-dax";
const CLWB: &str = "clwb of all of it";
/// Not another driver.
pub const OFF: &str = "rpmem, off";

pub const ROWS: &[Row] = &[
    row(
        "4 KiB random read, O_DIRECT: the driver, without the copy",
        "share.block.read4k",
        "share.block.read4k",
        PMEM,
        0.85,
    ),
    row(
        "4 KiB random write, O_DIRECT: the driver, without the copy",
        "share.block.write4k",
        "share.block.write4k",
        PMEM,
        0.85,
    ),
    row(
        "4 KiB random read, O_DIRECT",
        "block.read4k",
        "block.read4k",
        PMEM,
        1.0,
    ),
    row(
        "4 KiB random write, O_DIRECT",
        "block.write4k",
        "block.write4k",
        PMEM,
        1.0,
    ),
    row(
        "1 MiB sequential read, O_DIRECT",
        "block.read1m",
        "block.read1m",
        PMEM,
        0.98,
    ),
    row(
        "1 MiB sequential write, O_DIRECT",
        "block.write1m",
        "block.write1m",
        PMEM,
        0.98,
    ),
    row(
        "FLUSH: fdatasync of the disk",
        "block.flush",
        "block.flush",
        PMEM,
        1.0,
    ),
    row("4 KiB FUA write", "block.fua", "block.fua", PMEM, 1.0),
    row(
        "ext4: 4 KiB pwrite and fdatasync",
        "ext4.write_sync",
        "ext4.write_sync",
        PMEM,
        1.0,
    ),
    row(
        "ext4: fault of 4 KiB, write, MAP_SYNC",
        "ext4.fault_sync",
        "ext4.fault_sync",
        PMEM,
        1.0,
    ),
    row(
        "xfs: 4 KiB pwrite and fdatasync",
        "xfs.write_sync",
        "xfs.write_sync",
        PMEM,
        1.0,
    ),
    row(
        "xfs: fault of 4 KiB, write, MAP_SYNC",
        "xfs.fault_sync",
        "xfs.fault_sync",
        PMEM,
        1.0,
    ),
    row(
        "fault of 4 KiB, read",
        "raw.fault4k.read",
        "devdax.fault4k.read",
        DAX,
        0.75,
    ),
    row(
        "fault of 4 KiB, write",
        "raw.fault4k.write",
        "devdax.fault4k.write",
        DAX,
        0.75,
    ),
    row(
        "touch by 4 KiB, in order, per page",
        "raw.touch.sequential",
        "devdax.touch.sequential",
        DAX,
        0.08,
    ),
    row(
        "touch by 4 KiB, random order, per page",
        "raw.touch.random",
        "devdax.touch.random",
        DAX,
        0.85,
    ),
    row(
        "fault of 2 MiB, read",
        "raw.fault2m.read",
        "devdax.fault2m.read",
        DAX,
        1.0,
    ),
    row(
        "fault of 2 MiB, write",
        "raw.fault2m.write",
        "devdax.fault2m.write",
        DAX,
        1.0,
    ),
    row(
        "fault of 1 GiB, write",
        "raw.fault1g.write",
        "devdax.fault1g.write",
        DAX,
        1.0,
    ),
    free(
        "fault of 4 KiB, read, with tracepoint rpmem_fault on",
        "raw.fault4k.read.event",
        "raw.fault4k.read",
        OFF,
    ),
    free(
        "fault of 4 KiB, read, with counters on",
        "raw.fault4k.read.counters",
        "raw.fault4k.read",
        OFF,
    ),
    free(
        "fault of 2 MiB, read, with tracepoint rpmem_fault on",
        "raw.fault2m.read.event",
        "raw.fault2m.read",
        OFF,
    ),
    free(
        "fault of 2 MiB, read, with counters on",
        "raw.fault2m.read.counters",
        "raw.fault2m.read",
        OFF,
    ),
    row(
        "munmap of 128 MiB by 4 KiB",
        "raw.munmap4k",
        "devdax.munmap4k",
        DAX,
        0.33,
    ),
    row(
        "munmap of 128 MiB by 2 MiB",
        "raw.munmap2m",
        "devdax.munmap2m",
        DAX,
        0.40,
    ),
    row(
        "prefault by 4 KiB, per page",
        "raw.prefault4k",
        "devdax.prefault4k",
        DAX,
        0.05,
    ),
    row(
        "prefault by 2 MiB, per entry",
        "raw.prefault2m",
        "devdax.prefault2m",
        DAX,
        1.0,
    ),
    row(
        "msync of 1 GiB, one page dirty",
        "msync.one",
        "msync.whole",
        CLWB,
        0.001,
    ),
    row(
        "msync of 1 GiB, all pages dirty",
        "msync.all",
        "msync.whole",
        CLWB,
        1.05,
    ),
    row(
        "growth of a fault with 2 threads on 2 CPUs",
        "growth.threads.2",
        "growth.threads.2",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault with 4 threads on 2 CPUs",
        "growth.threads.4",
        "growth.threads.4",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault with 8 threads on 2 CPUs",
        "growth.threads.8",
        "growth.threads.8",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "stores per fault by the driver to lines of several CPUs",
        "lines.sync",
        "lines.sync",
        DAX,
        0.0,
    ),
    row(
        "the same, plain mapping",
        "lines.plain",
        "lines.sync",
        DAX,
        0.0,
    ),
    free("bind of 1 GiB", "probe.1g", "probe.1g", PMEM),
    free("bind of 64 GiB", "probe.64g", "probe.64g", PMEM),
    free("bind of 1 TiB", "probe.1024g", "probe.1024g", PMEM),
    row(
        "growth of bind, 1 TiB / 1 GiB",
        "growth.probe.1024g",
        "growth.probe.1024g",
        PMEM,
        1.0,
    ),
    row(
        "text and data of the module, bytes",
        "size",
        "size",
        BOTH,
        1.5,
    ),
    free(
        "devdax: fault of 4 KiB, read",
        "devdax.fault4k.read",
        "devdax.fault4k.read",
        DAX,
    ),
    free(
        "devdax: fault of 4 KiB, write",
        "devdax.fault4k.write",
        "devdax.fault4k.write",
        DAX,
    ),
    free(
        "devdax: touch by 4 KiB, in order, per page",
        "devdax.touch.sequential",
        "devdax.touch.sequential",
        DAX,
    ),
    free(
        "devdax: munmap of 128 MiB by 4 KiB",
        "devdax.munmap4k",
        "devdax.munmap4k",
        DAX,
    ),
    free(
        "devdax: prefault by 4 KiB, per page",
        "devdax.prefault4k",
        "devdax.prefault4k",
        DAX,
    ),
    free(
        "devdax: fault of 2 MiB, write",
        "devdax.fault2m.write",
        "devdax.fault2m.write",
        DAX,
    ),
    free(
        "devdax: munmap of 128 MiB by 2 MiB",
        "devdax.munmap2m",
        "devdax.munmap2m",
        DAX,
    ),
    free(
        "devdax: prefault by 2 MiB, per entry",
        "devdax.prefault2m",
        "devdax.prefault2m",
        DAX,
    ),
    free(
        "devdax, align=1G: stores to 1 GiB, by 2 MiB",
        "devdax.fill1g",
        "devdax.fill1g",
        DAX,
    ),
];

/// What the README shows: the rows of these keys, those that are no gain included.
pub const SHORT: [&str; 12] = [
    "block.read4k",
    "block.write1m",
    "ext4.fault_sync",
    "raw.fault4k.read",
    "raw.fault4k.write",
    "raw.touch.sequential",
    "raw.fault2m.write",
    "raw.munmap4k",
    "raw.prefault2m",
    "msync.one",
    "msync.all",
    "size",
];
