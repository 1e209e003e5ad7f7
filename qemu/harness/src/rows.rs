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

impl Row {
    /// Whether it is compared with another value of ours.
    pub fn is_own(&self) -> bool {
        [OFF, LEAST].contains(&self.against)
    }
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
/// By the instruction of the architecture.
const LOOP: &str = "WRITE-BACK of all of it";
/// Not another driver.
const OFF: &str = "rpmem, off";
const LEAST: &str = "rpmem, the least";
/// Threads that take turns on two CPUs cost something whatever they do.
const DAX_FAULT: &str = "device-dax, a fault";

/// What depends on where threads and processes are, what the allocators have at hand, and what is beside a name in
/// the kernel's table of them, by what its key has in it.
pub const COARSE: [&str; 7] = [
    "threads", "probe", "scale", "ring", ".fork", ".exit", ".open",
];

/// What grows, and with what: keys without their end, and their ends, the least first. The rows are of
/// percentages of that.
pub const GROWTH: &[(&str, &[&str])] = &[
    ("threads.", &["1", "2", "4", "8"]),
    ("threads.plain.", &["1", "2", "4", "8"]),
    ("scale.io.", &["1", "2", "4", "8"]),
    ("scale.msync.", &["1", "2", "4", "8"]),
    ("scale.fault.mappings.", &["1", "64", "4096"]),
    ("scale.msync.mappings.", &["1", "64", "4096"]),
    ("scale.munmap.mappings.", &["1", "64", "4096"]),
    ("scale.bind.spaces.", &["1", "16"]),
    ("scale.fault.spaces.", &["1", "16"]),
    ("probe.", &["1g", "64g", "1024g", "4096g"]),
    ("probe.fault.", &["1g", "64g", "1024g", "4096g"]),
    ("probe.msync.", &["1g", "64g", "1024g", "4096g"]),
    ("probe.fsync.", &["1g", "64g", "1024g", "4096g"]),
];

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
        "4 KiB random read, io_uring, fixed buffer",
        "ring.read4k",
        "ring.read4k",
        PMEM,
        1.0,
    ),
    row(
        "4 KiB random write, io_uring, fixed buffer",
        "ring.write4k",
        "ring.write4k",
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
        "ext4: store to a page, and msync",
        "ext4.msync",
        "ext4.msync",
        PMEM,
        1.0,
    ),
    row(
        "xfs: store to a page, and msync",
        "xfs.msync",
        "xfs.msync",
        PMEM,
        1.0,
    ),
    row(
        "plain: store to a page, and msync",
        "scale.msync.mappings.1",
        "xfs.msync",
        "xfs on nd_pmem",
        1.0,
    ),
    row(
        "msync of 1 GiB, one page dirty",
        "msync.one",
        "msync.whole",
        LOOP,
        0.001,
    ),
    row(
        "msync of 1 GiB, all pages dirty",
        "msync.all",
        "msync.whole",
        LOOP,
        1.05,
    ),
    row(
        "mmap(2) of 4 KiB, MAP_SYNC",
        "raw.mmap.sync.4k",
        "devdax.mmap.sync.4k",
        DAX,
        1.0,
    ),
    row(
        "mmap(2) of 4 KiB, plain",
        "raw.mmap.plain.4k",
        "devdax.mmap.plain.4k",
        DAX,
        1.0,
    ),
    row(
        "mmap(2) of 2 MiB, MAP_SYNC",
        "raw.mmap.sync.2m",
        "devdax.mmap.sync.2m",
        DAX,
        1.0,
    ),
    row(
        "mmap(2) of 2 MiB, plain",
        "raw.mmap.plain.2m",
        "devdax.mmap.plain.2m",
        DAX,
        1.0,
    ),
    row(
        "munmap of 4 KiB",
        "raw.munmap.4k",
        "devdax.munmap.4k",
        DAX,
        1.0,
    ),
    row(
        "munmap of 4 KiB, never touched",
        "raw.munmap.untouched.4k",
        "devdax.munmap.untouched.4k",
        DAX,
        1.0,
    ),
    row(
        "mprotect of 4 KiB, to read-only and back",
        "raw.mprotect.4k",
        "devdax.mprotect.4k",
        DAX,
        1.0,
    ),
    row(
        "munmap of 2 MiB",
        "raw.munmap.2m",
        "devdax.munmap.2m",
        DAX,
        1.0,
    ),
    row(
        "munmap of 2 MiB, never touched",
        "raw.munmap.untouched.2m",
        "devdax.munmap.untouched.2m",
        DAX,
        1.0,
    ),
    row(
        "mprotect of 2 MiB, to read-only and back",
        "raw.mprotect.2m",
        "devdax.mprotect.2m",
        DAX,
        1.0,
    ),
    row(
        "fork with 100 mappings of 4 KiB",
        "raw.fork.4k",
        "devdax.fork.4k",
        DAX,
        1.0,
    ),
    row(
        "the same, and a store of the child to each",
        "raw.fork.store.4k",
        "devdax.fork.store.4k",
        DAX,
        1.0,
    ),
    row(
        "exit of that child, to the return of wait(2)",
        "raw.exit.4k",
        "devdax.exit.4k",
        DAX,
        1.0,
    ),
    row(
        "fork with 100 mappings of 2 MiB",
        "raw.fork.2m",
        "devdax.fork.2m",
        DAX,
        1.0,
    ),
    row(
        "the same, and a store of the child to each",
        "raw.fork.store.2m",
        "devdax.fork.store.2m",
        DAX,
        1.0,
    ),
    row(
        "exit of that child, to the return of wait(2)",
        "raw.exit.2m",
        "devdax.exit.2m",
        DAX,
        1.0,
    ),
    row(
        "open, when it is open already",
        "raw.open",
        "devdax.open",
        DAX,
        1.0,
    ),
    row("close of that", "raw.close", "devdax.close", DAX, 1.0),
    row(
        "open and close, when nobody has it open",
        "raw.open.first",
        "devdax.open.first",
        DAX,
        1.0,
    ),
    row("poll", "raw.poll", "devdax.poll", DAX, 1.0),
    row(
        "store to what is prefaulted by 4 KiB",
        "raw.prefaulted.4k",
        "devdax.prefaulted.4k",
        DAX,
        1.0,
    ),
    row(
        "store to what is prefaulted by 2 MiB",
        "raw.prefaulted.2m",
        "devdax.prefaulted.2m",
        DAX,
        1.0,
    ),
    row(
        "plain: stores to 1 GiB, by 4 KiB, per page",
        "raw.plain.dense",
        "devdax.plain.dense",
        DAX,
        0.05,
    ),
    row(
        "plain: faults of that",
        "raw.plain.dense.faults",
        "devdax.plain.dense.faults",
        DAX,
        1.0 / 64.0,
    ),
    row(
        "plain: page tables of that, bytes",
        "raw.plain.dense.tables",
        "devdax.plain.dense.tables",
        DAX,
        0.01,
    ),
    row(
        "plain: stores to 1 GiB, by 2 MiB, per store",
        "raw.plain.sparse",
        "devdax.plain.sparse",
        DAX,
        1.0,
    ),
    row(
        "plain: page tables of that, bytes",
        "raw.plain.sparse.tables",
        "devdax.plain.sparse.tables",
        DAX,
        1.0,
    ),
    row(
        "plain: first store to a mapping of one page after msync",
        "raw.after_msync.one",
        "devdax.after_msync.one",
        DAX,
        1.0,
    ),
    row(
        "plain: stores to 128 MiB after msync, by 4 KiB, per page",
        "raw.after_msync.all",
        "devdax.after_msync.all",
        DAX,
        0.05,
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
        "growth of a fault, plain, with 2 threads on 2 CPUs",
        "growth.threads.plain.2",
        "growth.threads.2",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault, plain, with 4 threads on 2 CPUs",
        "growth.threads.plain.4",
        "growth.threads.4",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault, plain, with 8 threads on 2 CPUs",
        "growth.threads.plain.8",
        "growth.threads.8",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a 4 KiB read, O_DIRECT, with 2 threads on 2 CPUs",
        "growth.scale.io.2",
        "growth.scale.io.2",
        PMEM,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a 4 KiB read, O_DIRECT, with 4 threads on 2 CPUs",
        "growth.scale.io.4",
        "growth.scale.io.4",
        PMEM,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a 4 KiB read, O_DIRECT, with 8 threads on 2 CPUs",
        "growth.scale.io.8",
        "growth.scale.io.8",
        PMEM,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a store and msync with 2 threads on 2 CPUs",
        "growth.scale.msync.2",
        "growth.threads.2",
        DAX_FAULT,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a store and msync with 4 threads on 2 CPUs",
        "growth.scale.msync.4",
        "growth.threads.4",
        DAX_FAULT,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a store and msync with 8 threads on 2 CPUs",
        "growth.scale.msync.8",
        "growth.threads.8",
        DAX_FAULT,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault with 64 mappings of the device",
        "growth.scale.fault.mappings.64",
        "growth.scale.fault.mappings.64",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of msync of a page with 64 mappings of the device",
        "growth.scale.msync.mappings.64",
        "growth.scale.msync.mappings.1",
        LEAST,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of munmap with 64 mappings of the device",
        "growth.scale.munmap.mappings.64",
        "growth.scale.munmap.mappings.64",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault with 4096 mappings of the device",
        "growth.scale.fault.mappings.4096",
        "growth.scale.fault.mappings.4096",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of msync of a page with 4096 mappings of the device",
        "growth.scale.msync.mappings.4096",
        "growth.scale.msync.mappings.1",
        LEAST,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of munmap with 4096 mappings of the device",
        "growth.scale.munmap.mappings.4096",
        "growth.scale.munmap.mappings.4096",
        DAX,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of bind with 15 namespaces bound",
        "growth.scale.bind.spaces.16",
        "growth.scale.bind.spaces.16",
        PMEM,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault with 16 namespaces bound",
        "growth.scale.fault.spaces.16",
        "growth.scale.fault.spaces.1",
        LEAST,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of a fault, plain, 4 TiB / 1 GiB",
        "growth.probe.fault.4096g",
        "growth.probe.fault.1g",
        LEAST,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of msync of a page, 4 TiB / 1 GiB",
        "growth.probe.msync.4096g",
        "growth.probe.msync.1g",
        LEAST,
        1.0 + AGREE_COARSE,
    ),
    row(
        "growth of fsync, one page dirty, 4 TiB / 1 GiB",
        "growth.probe.fsync.4096g",
        "growth.probe.fsync.1g",
        LEAST,
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
    free("bind of 4 TiB", "probe.4096g", "probe.4096g", PMEM),
    row(
        "growth of bind, 1 TiB / 1 GiB",
        "growth.probe.1024g",
        "growth.probe.1024g",
        PMEM,
        1.0,
    ),
    row(
        "growth of bind, 4 TiB / 1 GiB",
        "growth.probe.4096g",
        "growth.probe.4096g",
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
    row(
        "devdax: fault of 4 KiB, read",
        "devdax.fault4k.read",
        "devdax.fault4k.read",
        DAX,
        1.0,
    ),
    row(
        "devdax: fault of 4 KiB, write",
        "devdax.fault4k.write",
        "devdax.fault4k.write",
        DAX,
        1.0,
    ),
    row(
        "devdax: touch by 4 KiB, in order, per page",
        "devdax.touch.sequential",
        "devdax.touch.sequential",
        DAX,
        1.0,
    ),
    free(
        "devdax: munmap of 128 MiB by 4 KiB",
        "devdax.munmap4k",
        "devdax.munmap4k",
        DAX,
    ),
    row(
        "devdax: prefault by 4 KiB, per page",
        "devdax.prefault4k",
        "devdax.prefault4k",
        DAX,
        0.95,
    ),
    row(
        "devdax: fault of 2 MiB, write",
        "devdax.fault2m.write",
        "devdax.fault2m.write",
        DAX,
        0.98,
    ),
    free(
        "devdax: munmap of 128 MiB by 2 MiB",
        "devdax.munmap2m",
        "devdax.munmap2m",
        DAX,
    ),
    row(
        "devdax: prefault by 2 MiB, per entry",
        "devdax.prefault2m",
        "devdax.prefault2m",
        DAX,
        0.95,
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
