// SPDX-License-Identifier: GPL-2.0
//! Other people's programs and libraries on a device of ours, as Documentation/using has it.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::node::Node;
use crate::support::sys::{Map, PAGE, RW, SYNC};
use crate::support::tools::{self, HUGE};
use crate::{check, check_eq};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

pub const TESTS: &[Test] = crate::tests! {
    using_create => create,
    using_pmdk => pmdk,
    using_fio => fio,
    using_physical => physical,
    using_rdma => rdma,
    using_sqlite_wal => sqlite_wal,
    using_sqlite_delete => sqlite_delete,
    using_sqlite_survives => sqlite_survives,
    ndctl_patched_asks => ndctl_patched,
};

/// The namespaces of scenario `using`, in the order of their disks.
const MODES: [&str; 3] = ["raw", "devdax", "fsdax"];

fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for (n, mode) in MODES.into_iter().enumerate() {
        let size = if mode == "fsdax" { "256M" } else { "64M" };
        c.create_namespace(&["-m", mode, "-s", size])?;
        let h = Node::nth(c, n)?;
        check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"), "{mode}");
    }
    Ok(())
}

/// An ext4 on the namespace in fsdax mode, with a file of 2 MiB that has its blocks.
fn with_file(c: &Ctx, test: &dyn Fn(&Ctx, &str) -> TestResult) -> TestResult {
    let dev = Node::nth(c, 2)?.space.dev();
    tools::mkfs_dax(c, "ext4", &dev)?;
    c.mount(&dev, "/mnt", "dax=always")?;
    let path = "/mnt/file";
    c.ok(&["fallocate", "-l", "2M", path])?;
    c.ok(&[
        "dd",
        "if=/dev/zero",
        "of=/mnt/file",
        "bs=2M",
        "count=1",
        "conv=notrunc",
    ])?;
    let r = test(c, path);
    c.umount("/mnt")?;
    r
}

/// What the disk has at that place.
fn bytes_at(h: &Node, offset: u64, len: usize) -> TestResult<Vec<u8>> {
    let mut page = disk::Buf::page(PAGE);
    disk::direct(&h.space.dev())?.read_exact_at(page.bytes_mut(), offset)?;
    Ok(page.bytes()[..len].to_vec())
}

/// libpmem and libpmem2 take the files of a DAX file system, and refuse the node, but make durable what is
/// stored to a mapping of it that the program has made.
fn pmdk(c: &mut Ctx) -> TestResult {
    const LINE: &str = "a line that is durable";
    for (n, mode) in MODES.into_iter().enumerate().take(2) {
        let h = Node::nth(c, n)?;
        let out = c.ok(&["rpmem-pmdk", &h.path, LINE])?;
        check_eq!(
            out.lines().collect::<Vec<_>>(),
            [
                "pmem_map_file: Invalid argument",
                "pmem2_map_new: invalid file type",
                "pmem_persist: unknown",
                "pmem2_map_from_existing: by the cache line",
            ],
            "{mode}"
        );
        for offset in [0, HUGE as u64] {
            let got = bytes_at(&h, offset, LINE.len())?;
            check!(got == LINE.as_bytes(), "{mode}, {offset:#x}: {got:?}");
        }
    }
    with_file(c, &|c, path| {
        let out = c.ok(&["rpmem-pmdk", path, LINE])?;
        check_eq!(
            out,
            "pmem_map_file: persistent memory\npmem2_map_new: by the cache line\n"
        );
        Ok(())
    })
}

/// fio writes to the node and verifies by its engines `dev-dax` and `mmap`. Its engine `libpmem` is for
/// files: it ends in an assertion of fio's own, whatever the device is.
fn fio(c: &mut Ctx) -> TestResult {
    let run = |engine: &str, file: &str| {
        let (engine, file) = (format!("--ioengine={engine}"), format!("--filename={file}"));
        let job = ["fio", "--name=job", &engine, &file, "--rw=randwrite"];
        let how = ["--bs=4k", "--size=4M", "--verify=crc32c", "--thread=1"];
        c.run(&[&job[..], &how].concat())
    };
    for (n, mode) in MODES.into_iter().enumerate().take(2) {
        let h = Node::nth(c, n)?;
        for engine in ["dev-dax", "mmap"] {
            let r = run(engine, &h.path)?;
            check_eq!(r.status, 0, "{mode}: {r}");
            // As much was read as was written.
            for what in ["READ", "WRITE"] {
                let all = format!("{what}: ");
                let line = r.out.lines().find(|l| l.trim_start().starts_with(&all));
                let line = line.unwrap_or_default();
                check!(line.contains("io=4096KiB"), "{mode}, {engine}: {r}");
            }
        }
        let r = run("libpmem", &h.path)?;
        check_eq!(r.status, 128 + libc::SIGABRT, "{mode}: {r}");
        check!(
            r.err.contains("f->filetype == FIO_TYPE_FILE"),
            "{mode}: {r}"
        );
    }
    // What dev-dax maps is a plain mapping.
    let node = Node::nth(c, 0)?.path;
    let calls =
        "strace -f --seccomp-bpf -e trace=mmap -o /tmp/calls fio --name=job --ioengine=dev-dax --rw=write";
    c.sh(&format!("{calls} --filename={node} --size=64k"))?;
    let calls = c.read("/tmp/calls")?;
    check!(
        calls.contains(" 65536, PROT_WRITE, MAP_SHARED, "),
        "{calls}"
    );
    with_file(c, &|_, path| {
        let r = run("libpmem", path)?;
        check_eq!(r.status, 0, "{r}");
        Ok(())
    })
}

/// Where a byte is in physical memory, as drivers in user space ask: /proc/self/pagemap knows pages alone,
/// and `resource` of the device is there for every mode.
fn physical(c: &mut Ctx) -> TestResult {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let pagemap = std::fs::File::open("/proc/self/pagemap")?;
    for (n, mode) in MODES.into_iter().enumerate().take(2) {
        let h = Node::nth(c, n)?;
        let f = h.open()?;
        let start = h.attr(c, "resource")?;
        let m = Map::new(&f, HUGE as u64, HUGE, RW, SYNC)?;
        for at in [0, 7 * PAGE] {
            m.write8(at, 1);
            let page = (m.as_ptr() as usize + at) / PAGE;
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, page as u64 * 8)?;
            let entry = u64::from_le_bytes(entry);
            if mode == "raw" {
                check_eq!(entry & (PRESENT | FRAME), 0, "{entry:#x}");
                continue;
            }
            check!(entry & PRESENT != 0, "{entry:#x}");
            let frame = (start + (HUGE + at) as u64) / PAGE as u64;
            check_eq!(entry & FRAME, frame, "{entry:#x}");
        }
    }
    Ok(())
}

/// The kernel's RDMA by software, with an address of its own.
fn soft_roce(c: &Ctx) -> TestResult {
    for module in ["dummy", "rdma_rxe", "ib_uverbs"] {
        c.modprobe(module)?;
    }
    c.sh("ip link set lo up
        ip link add roce0 type dummy
        ip address add 192.0.2.1/24 dev roce0
        ip link set roce0 up
        rdma link add rxe0 type rxe netdev roce0")?;
    c.wait_exists("/dev/infiniband/uverbs0")
}

/// A device of RDMA writes to a mapping of a devdax namespace, and unbinding waits for it. What cannot be
/// pinned cannot be registered.
fn rdma(c: &mut Ctx) -> TestResult {
    const TEXT: &str = "by a queue pair";
    soft_roce(c)?;
    let refused = |path: &str| {
        let r = c.run(&["rpmem-rdma", path, TEXT])?;
        check_eq!(r.status, 3, "{path}: {r}");
        Ok(r.out)
    };
    let raw = Node::nth(c, 0)?;
    check_eq!(refused(&raw.path)?, "not registered: Bad address\n");

    let h = Node::nth(c, 1)?;
    c.mark_dmesg();
    let mut user = Command::new("rpmem-rdma")
        .args([&h.path, TEXT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    if let Some(out) = user.stdout.take() {
        BufReader::new(out).read_line(&mut said)?;
    }
    check_eq!(said, "written\n");
    let got = bytes_at(&h, 0, TEXT.len())?;
    check!(got == TEXT.as_bytes(), "{got:?}");
    let unbind = tools::unbind_beside(h.space.nd.clone());
    c.wait_for("a message", || {
        c.dmesg_has("waiting for pinned pages").is_ok()
    })?;
    check!(!unbind.is_finished(), "unbound in spite of pins");
    drop(user.stdin.take());
    check!(user.wait()?.success());
    check!(unbind.join().unwrap_or(false), "unbind");
    h.space.bind(c)?;
    with_file(c, &|c, path| {
        let r = c.run(&["rpmem-rdma", path, TEXT])?;
        check_eq!(r.status, 3, "{path}: {r}");
        check_eq!(r.out, "not registered: Operation not supported\n");
        Ok(())
    })
}

const ROWS: usize = 10;

fn mount_database(c: &Ctx) -> TestResult {
    c.mount(&Node::new(c)?.space.dev(), "/mnt", "dax=always")
}

/// SQLite commits to a database on a DAX file system, and the power is cut while it has it open. The host
/// loses what was not flushed.
fn sqlite(c: &Ctx, journal: &str, synchronous: &str) -> TestResult {
    tools::mkfs_dax(c, "ext4", &Node::new(c)?.space.dev())?;
    mount_database(c)?;
    let file = tools::file_of("/mnt/empty", PAGE)?;
    check!(tools::is_dax(&file)?, "files are not mapped directly");
    c.ok(&["sync"])?;
    let mut script = format!(
        "PRAGMA journal_mode={journal}; PRAGMA synchronous={synchronous}; PRAGMA mmap_size=16777216;
        CREATE TABLE t(n INTEGER, bytes BLOB);\n"
    );
    for n in 0..ROWS {
        script += &format!("INSERT INTO t VALUES({n}, randomblob(3000));\n");
    }
    script += "SELECT 'committed';\n";
    let mut database = Command::new("sqlite3")
        .arg("/mnt/database")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(to) = &mut database.stdin {
        to.write_all(script.as_bytes())?;
    }
    let mut said = Vec::new();
    if let Some(from) = &mut database.stdout {
        for line in BufReader::new(from).lines() {
            said.push(line?);
            if said.last().is_some_and(|l| l == "committed") {
                break;
            }
        }
    }
    check_eq!(said, [journal, "16777216", "committed"]);
    c.power_cut()
}

fn sqlite_wal(c: &mut Ctx) -> TestResult {
    sqlite(c, "wal", "FULL")
}

/// FULL leaves it to the file system when the end of a journal is durable that is deleted: the last row is
/// lost then.
fn sqlite_delete(c: &mut Ctx) -> TestResult {
    sqlite(c, "delete", "EXTRA")
}

fn sqlite_survives(c: &mut Ctx) -> TestResult {
    mount_database(c)?;
    let script = "PRAGMA integrity_check; SELECT count(*), sum(n), sum(length(bytes)) FROM t;";
    let out = c.ok(&["sqlite3", "/mnt/database", script])?;
    let want = format!("ok\n{ROWS}|{}|{}\n", ROWS * (ROWS - 1) / 2, ROWS * 3000);
    check_eq!(out, want);
    c.umount("/mnt")
}

/// ndctl with the patch of Documentation/using does not take a devdax namespace away from those who have it
/// open or mapped. Debian's does: test `devdax_ndctl`.
fn ndctl_patched(c: &mut Ctx) -> TestResult {
    const NDCTL: &str = "/usr/lib/ndctl/patched/ndctl";
    /// -EBUSY as an exit status.
    const BUSY: i32 = 256 - libc::EBUSY;
    c.init_labels()?;
    c.create_namespace(&["-m", "devdax", "-s", "64M"])?;
    let h = Node::new(c)?;
    let ns = h.space.namespace(c)?;
    check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"));
    let region = c.regions().remove(0);
    for mapped in [false, true] {
        let f = h.open()?;
        let map = mapped
            .then(|| Map::new(&f, 0, HUGE, RW, SYNC))
            .transpose()?;
        if let Some(m) = &map {
            m.write8(3, 0x5c);
        }
        let f = (!mapped).then_some(f);
        for (argv, want, says) in [
            (&["disable-namespace", &ns][..], BUSY, "resource busy"),
            (&["destroy-namespace", "-f", &ns], BUSY, "resource busy"),
            // That is how it says so in any mode.
            (&["disable-region", &region], 0, "disabled 0 regions"),
        ] {
            let r = c.run(&[&[NDCTL], argv].concat())?;
            check_eq!(r.status, want, "{r}");
            check!(r.err.contains(says), "{r}");
            check_eq!(c.bound_to(&h.space.nd).as_deref(), Some("rpmem"), "{r}");
        }
        if let Some(m) = &map {
            check_eq!(m.read8(3), 0x5c);
        }
        drop((map, f));
    }
    // Nobody has it.
    c.ok(&[NDCTL, "disable-namespace", &ns])?;
    check_eq!(c.bound_to(&h.space.nd), None);
    c.ok(&[NDCTL, "enable-namespace", &ns])?;
    let h = Node::new(c)?;
    let f = h.open()?;
    let m = Map::new(&f, 0, HUGE, RW, SYNC)?;
    check_eq!(m.read8(3), 0x5c);
    drop((m, f));
    c.ok(&[NDCTL, "destroy-namespace", "-f", &ns])?;
    check!(c.namespaces().is_empty(), "{:?}", c.namespaces());
    Ok(())
}
