// SPDX-License-Identifier: GPL-2.0
//! Device mapper, LVM, md and swap on top of the disks: what they make of them is the same as over
//! nd_pmem, and where it is DAX, stores through files of the upper device land where its table
//! says.

use crate::support::ctx::{Ctx, Outcome, Test, TestResult, EXT4_NOT_LAZY};
use crate::support::facts::{self, Facts};
use crate::support::peer::{self, Peer};
use crate::support::sys::{self, Map};
use crate::support::tools::{self, Space, HUGE, PAGE};
use crate::support::trace;
use crate::{check, check_eq, fail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = crate::tests! {
    stack_create => create,
    stack_drivers => drivers,
    stack_unbind => unbind,
};

const MNT: &str = "/mnt/stack";
/// Of the upper device: dmsetup's, and what LVM makes of volume group and volume.
const NAME: &str = "rpmem-stack";
const UUID: &str = "6a3b5f0e-4c1d-4d0e-9d5a-0123456789ab";

enum Kind {
    /// Lines of a table, where P and Q are the disks with struct pages, R and S those without, and
    /// their small letters are how many sectors a target gets of them.
    Table(&'static str),
    /// Options of lvcreate, on a volume group of P and Q.
    Volume(&'static [&'static str]),
    Raid0,
}

struct Stack {
    name: &'static str,
    kind: Kind,
    /// Whether the upper device has DAX.
    dax: bool,
    /// File systems that it gets; xfs needs 300 MiB.
    fs: &'static [&'static str],
    /// Part of the short form.
    short: bool,
}

const STACKS: &[Stack] = &[
    Stack {
        name: "linear",
        kind: Kind::Table("0 p linear P 8192"),
        dax: true,
        fs: &["ext4", "xfs"],
        short: true,
    },
    Stack {
        name: "linear over two",
        kind: Kind::Table("0 p linear P 4096\np q linear Q 8192"),
        dax: true,
        fs: &["ext4"],
        short: false,
    },
    Stack {
        name: "striped",
        kind: Kind::Table("0 pq striped 2 512 P 0 Q 4096"),
        dax: true,
        fs: &["ext4", "xfs"],
        short: false,
    },
    Stack {
        name: "log-writes",
        kind: Kind::Table("0 p log-writes P Q"),
        dax: true,
        fs: &["ext4"],
        short: false,
    },
    Stack {
        name: "linear with a page-less part",
        kind: Kind::Table("0 p linear P 4096\np r linear R 0"),
        dax: false,
        fs: &["ext4"],
        short: false,
    },
    Stack {
        name: "page-less linear",
        kind: Kind::Table("0 r linear R 4096"),
        dax: false,
        fs: &["ext4"],
        short: true,
    },
    Stack {
        name: "page-less striped",
        kind: Kind::Table("0 rs striped 2 128 R 0 S 0"),
        dax: false,
        fs: &[],
        short: false,
    },
    Stack {
        name: "page-less flakey",
        kind: Kind::Table("0 r flakey R 0 60 0"),
        dax: false,
        fs: &[],
        short: false,
    },
    Stack {
        name: "linear volume",
        kind: Kind::Volume(&["-l", "100%FREE"]),
        dax: true,
        fs: &["ext4"],
        short: false,
    },
    Stack {
        name: "striped volume",
        kind: Kind::Volume(&["-l", "100%FREE", "-i", "2", "-I", "64k"]),
        dax: true,
        fs: &["xfs"],
        short: false,
    },
    Stack {
        name: "raid0",
        kind: Kind::Raid0,
        dax: false,
        fs: &["ext4"],
        short: false,
    },
];

/// The disks below, two with struct pages and two without.
struct Parts {
    paged: [Space; 2],
    plain: [Space; 2],
}

impl Parts {
    fn find(c: &Ctx) -> TestResult<Parts> {
        let (mut paged, mut plain) = (Vec::new(), Vec::new());
        for s in tools::spaces(c)? {
            if tools::has_pages(c, &s)? {
                paged.push(s);
            } else {
                plain.push(s);
            }
        }
        match (paged.try_into(), plain.try_into()) {
            (Ok(paged), Ok(plain)) => Ok(Parts { paged, plain }),
            other => fail!("not two disks with pages and two without: {other:?}"),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Space> {
        self.paged.iter().chain(&self.plain)
    }

    /// A table in words that dmsetup knows.
    fn table(&self, c: &Ctx, template: &str) -> TestResult<String> {
        let mut sectors = Vec::new();
        for s in self.all() {
            // 8 MiB stay free for offsets; whole stripes of 2 MiB.
            let size: u64 = c.disk_attr(&s.disk, "size")?.parse().map_err(|_| "size")?;
            sectors.push((size - (16 << 10)) / 4096 * 4096);
        }
        let word = |w: &str| match w {
            "P" => self.paged[0].dev(),
            "Q" => self.paged[1].dev(),
            "R" => self.plain[0].dev(),
            "S" => self.plain[1].dev(),
            "p" => sectors[0].to_string(),
            "q" => sectors[1].to_string(),
            "r" => sectors[2].to_string(),
            "pq" => (2 * sectors[0].min(sectors[1])).to_string(),
            "rs" => (2 * sectors[2].min(sectors[3])).to_string(),
            other => other.to_string(),
        };
        let line = |l: &str| l.split(' ').map(word).collect::<Vec<_>>().join(" ");
        Ok(template.lines().map(line).collect::<Vec<_>>().join("\n"))
    }
}

fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    for options in [
        &["-m", "fsdax", "-M", "mem", "-s", "384M"][..],
        &["-m", "fsdax", "-M", "dev", "-s", "384M"],
        &["-m", "raw", "-s", "64M"],
        &["-m", "raw", "-s", "64M"],
    ] {
        c.create_namespace(options)?;
    }
    // There is no udev: LVM looks at the devices itself.
    fs::create_dir_all("/etc/lvm")?;
    fs::write(
        "/etc/lvm/lvm.conf",
        "devices { use_devicesfile=0 obtain_device_list_from_udev=0\n\
         external_device_info_source=\"none\" }\n\
         activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 monitoring=0 }\n\
         backup { backup=0 archive=0 }\n",
    )?;
    for module in ["dm_mod", "dm_log_writes", "dm_flakey", "raid0"] {
        c.modprobe(module)?;
    }
    Parts::find(c).map(|_| ())
}

fn drivers(c: &mut Ctx) -> TestResult {
    c.modprobe("nd_pmem")?;
    let ours = collect(c)?;
    facts::hand_over(c, "nd_pmem")?;
    let theirs = collect(c)?;
    facts::hand_over(c, "rpmem")?;
    println!("{} questions", ours.len());
    let enough = if c.long { 2000 } else { 400 };
    check!(
        ours.len() > enough,
        "there are only {} questions",
        ours.len()
    );
    facts::same(&ours, &theirs)
}

/// What each stack answers on top of the driver that has the namespaces.
fn collect(c: &mut Ctx) -> TestResult<Facts> {
    let parts = Parts::find(c)?;
    let mut facts = Facts::new();
    for s in parts.all() {
        facts::ask(&mut facts, &format!("{} swap", s.disk), swap(c, &s.dev())?);
    }
    let long = c.long;
    for stack in STACKS.iter().filter(|s| s.short || long) {
        let mut f = Facts::new();
        // CLOCK: only shown.
        let began = std::time::Instant::now();
        let on = up(c, stack, &parts)?;
        let r = questions(c, stack, &on, &parts, &mut f);
        let _ = c.run(&["umount", "-q", MNT])?;
        down(c, stack, &parts)?;
        r.map_err(|e| match e {
            Outcome::Fail(why) => Outcome::Fail(format!("{}: {why}", stack.name)),
            skip => skip,
        })?;
        for (k, v) in f {
            facts.insert(format!("{}: {k}", stack.name), v);
        }
        println!("{}: {:.1} s", stack.name, began.elapsed().as_secs_f64());
    }
    Ok(facts)
}

/// Makes the upper device, of disks without contents.
fn up(c: &Ctx, stack: &Stack, parts: &Parts) -> TestResult<Space> {
    for s in parts.all() {
        c.ok(&["wipefs", "-aq", &s.dev()])?;
        let to = format!("of={}", s.dev());
        c.ok(&[
            "dd",
            "if=/dev/zero",
            &to,
            "bs=1M",
            "count=5",
            "oflag=direct",
            "status=none",
        ])?;
    }
    over(c, stack, parts)
}

fn over(c: &Ctx, stack: &Stack, parts: &Parts) -> TestResult<Space> {
    let [p, q] = [parts.paged[0].dev(), parts.paged[1].dev()];
    match stack.kind {
        Kind::Table(table) => {
            let table = parts.table(c, table)?;
            c.ok(&["dmsetup", "create", NAME, "--table", &table])?;
        }
        Kind::Volume(options) => {
            // A name of volume group and volume that reads as NAME.
            let (group, volume) = ("rpmem", "stack");
            c.ok(&["lvm", "pvcreate", "-y", &p, &q])?;
            c.ok(&["lvm", "vgcreate", group, &p, &q])?;
            let mut argv = vec!["lvm", "lvcreate", "-y", "-Wn", "-Zn", "-n", volume];
            argv.extend_from_slice(options);
            argv.push(group);
            c.ok(&argv)?;
        }
        Kind::Raid0 => {
            c.ok(&[
                "mdadm",
                "--create",
                "/dev/md0",
                "--run",
                "--quiet",
                "--level=0",
                "--chunk=64",
                "--raid-devices=2",
                &p,
                &q,
            ])?;
        }
    }
    let mut disk = "md0".to_string();
    if !matches!(stack.kind, Kind::Raid0) {
        let named = |n: &&String| {
            fs::read_to_string(format!("/sys/block/{n}/dm/name")).is_ok_and(|s| s.trim() == NAME)
        };
        match tools::names("/sys/block").iter().find(named) {
            Some(found) => disk = found.clone(),
            None => fail!("no disk named {NAME}"),
        }
    }
    c.wait_exists(format!("/dev/{disk}"))?;
    Ok(Space {
        nd: String::new(),
        disk,
    })
}

fn down(c: &Ctx, stack: &Stack, parts: &Parts) -> TestResult {
    match stack.kind {
        Kind::Table(_) => {
            c.ok(&["dmsetup", "remove", NAME])?;
        }
        Kind::Volume(_) => {
            c.ok(&["lvm", "vgremove", "-qqfy", "rpmem"])?;
        }
        Kind::Raid0 => {
            c.ok(&["mdadm", "--stop", "--quiet", "/dev/md0"])?;
        }
    }
    for s in parts.all() {
        let above = tools::names(format!("/sys/block/{}/holders", s.disk));
        check!(above.is_empty(), "{} is part of {above:?}", s.disk);
    }
    Ok(())
}

fn questions(c: &mut Ctx, stack: &Stack, on: &Space, parts: &Parts, f: &mut Facts) -> TestResult {
    let dir = format!("/sys/block/{}", on.disk);
    facts::sysfs(&format!("{dir}/queue"), "queue", f);
    for file in [
        "size",
        "ro",
        "alignment_offset",
        "discard_alignment",
        "capability",
    ] {
        f.insert(file.into(), c.read(format!("{dir}/{file}"))?);
    }
    let slaves = tools::names(format!("{dir}/slaves"));
    check!(!slaves.is_empty(), "{} has nothing below", on.disk);
    f.insert("slaves".into(), format!("{slaves:?}"));
    check_eq!(tools::has_pages(c, on)?, stack.dax, "queue/dax");
    if !matches!(stack.kind, Kind::Raid0) {
        f.insert("table".into(), named(&c.ok(&["dmsetup", "table", NAME])?)?);
        f.insert(
            "deps".into(),
            c.ok(&["dmsetup", "deps", "-o", "devname", NAME])?,
        );
    }
    facts::limits(on, f)?;
    facts::access(c, on, f)?;
    facts::ask(f, "swap", swap(c, &on.dev())?);
    for fs in stack.fs {
        let mut more = Facts::new();
        file_system(c, stack, on, parts, fs, &mut more)?;
        for (k, v) in more {
            f.insert(format!("{fs} {k}"), v);
        }
    }
    Ok(())
}

/// swapon(2) of a node or a file, and what /proc/swaps says of it.
/// A table with the names of disks for their numbers, which nobody promises.
fn named(table: &str) -> TestResult<String> {
    let mut words = Vec::new();
    for word in table.split(' ') {
        let is_number = word.split(':').all(|n| n.parse::<u32>().is_ok());
        words.push(match word.contains(':') && is_number {
            true => {
                let disk = fs::read_link(format!("/sys/dev/block/{word}"))?;
                let name = disk.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
            false => word.to_string(),
        });
    }
    Ok(words.join(" "))
}

fn swap(c: &Ctx, path: &str) -> TestResult<io::Result<String>> {
    c.ok(&["busybox", "mkswap", path])?;
    let name = std::ffi::CString::new(path).map_err(|e| e.to_string())?;
    // SAFETY: a NUL-terminated name.
    if unsafe { libc::swapon(name.as_ptr(), 0) } != 0 {
        return Ok(Err(io::Error::last_os_error()));
    }
    // Not how much of it is in use: that is for the kernel to decide.
    let said: Vec<String> = c
        .read("/proc/swaps")?
        .lines()
        .map(|l| l.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    // SAFETY: as above.
    let r = unsafe { libc::swapoff(name.as_ptr()) };
    check_eq!(r, 0, "swapoff {path}: {}", io::Error::last_os_error());
    c.ok(&["wipefs", "-aq", path])?;
    Ok(Ok(said.join("\n")))
}

fn file_system(
    c: &mut Ctx,
    stack: &Stack,
    on: &Space,
    parts: &Parts,
    fs: &str,
    f: &mut Facts,
) -> TestResult {
    // What it says shows what it takes the geometry of the device for.
    let dev = on.dev();
    let seed = format!("hash_seed={UUID},{EXT4_NOT_LAZY}");
    let said = match fs {
        // CLOCK: without the progress, which depends on it; `seed` has EXT4_NOT_LAZY.
        "ext4" => c.ok(&[
            "env",
            "MKE2FS_SKIP_PROGRESS=1",
            "mkfs.ext4",
            "-F",
            "-b",
            "4096",
            "-U",
            UUID,
            "-E",
            &seed,
            &dev,
        ])?,
        _ => c.ok(&["mkfs.xfs", "-f", "-m", &format!("uuid={UUID}"), &dev])?,
    };
    f.insert("mkfs".into(), said);
    c.mark_dmesg();
    let mount = c.run(&["mount", "--mkdir", "-o", "dax=always", &dev, MNT])?;
    f.insert("mount -o dax=always".into(), mount.to_string());
    if mount.status != 0 {
        c.mount(&dev, MNT, "defaults")?;
    }
    let path = format!("{MNT}/file");
    let file = tools::file_of(&path, 2 * HUGE)?;
    let dax = tools::is_dax(&file)?;
    check_eq!(dax, stack.dax, "STATX_ATTR_DAX, {fs}: {mount}");
    match Map::sync(&file, 0, 2 * HUGE) {
        Ok(m) => {
            check!(dax, "MAP_SYNC without DAX, {fs}");
            f.insert("stores".into(), lands(c, on, parts, &file, m, &path)?);
        }
        Err(e) => {
            check!(!dax, "MAP_SYNC, {fs}: {e}");
            facts::ask(f, "MAP_SYNC", Err(e));
        }
    }
    for (what, mode, at, len) in [
        ("punch a page", 3, 4 * PAGE, PAGE),
        ("punch bytes", 3, 8 * PAGE + 100, 1000),
        ("zero", 0x10, 16 * PAGE + 100, 3 * PAGE),
        ("collapse", 8, 32 * PAGE, PAGE),
        ("insert", 0x20, 32 * PAGE, PAGE),
    ] {
        // SAFETY: an open file.
        let r = unsafe { libc::fallocate(file.as_raw_fd(), mode, at as i64, len as i64) };
        let r = match r {
            0 => Ok("0".into()),
            _ => Err(io::Error::last_os_error()),
        };
        facts::ask(f, &format!("fallocate {what}"), r);
    }
    file.sync_all()?;
    f.insert("sum".into(), c.ok(&["sha256sum", &path])?);
    drop(file);
    let swapped = format!("{MNT}/swap");
    c.ok(&[
        "dd",
        "if=/dev/zero",
        &format!("of={swapped}"),
        "bs=64k",
        "count=16",
        "status=none",
    ])?;
    fs::set_permissions(
        &swapped,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    facts::ask(f, "swap file", swap(c, &swapped)?);
    c.umount(MNT)?;
    let log: Vec<String> = c
        .dmesg()?
        .lines()
        .filter(|l| l.contains(&on.disk) || l.contains("DAX"))
        .map(|l| l.split_once("] ").map_or(l, |x| x.1).to_string())
        .collect();
    for bad in ["I/O error", "Corruption", "WARNING"] {
        check!(!log.iter().any(|l| l.contains(bad)), "{fs}: {log:#?}");
    }
    f.insert("kernel log".into(), log.join("\n"));
    Ok(())
}

/// Stores through a mapping are on the disks below, each page where the table has it. Says by what
/// faults.
fn lands(
    c: &Ctx,
    on: &Space,
    parts: &Parts,
    file: &File,
    mut m: Map,
    path: &str,
) -> TestResult<String> {
    let count = |t: &trace::Trace| -> TestResult<usize> { Ok(t.lines(c)?.len()) };
    let huge = trace::Trace::on(c, "fs_dax/dax_pmd_fault_done")?;
    let small = trace::Trace::on(c, "fs_dax/dax_pte_fault_done")?;
    // What is written back becomes read-only, and faults once more.
    let quiet = tools::Quiet::new(c)?;
    sys::pattern(77, m.slice_mut());
    let faults = format!("{} of 2 MiB, {} of 4 KiB", count(&huge)?, count(&small)?);
    drop((huge, small, quiet));
    m.persist(0, m.len());
    // The extents are those of now.
    file.sync_all()?;
    let table = Table::of(c)?;
    let buf = tools::anonymous(PAGE)?;
    let mut used = BTreeSet::new();
    let mut pages = 0;
    for (logical, physical, blocks) in extents(c, path)? {
        for n in 0..blocks {
            let (disk, at) = table.locate((physical + n) * PAGE as u64)?;
            check!(
                parts.all().any(|s| s.disk == disk),
                "{disk} is not below {}",
                on.disk
            );
            let below = tools::open_flags(format!("/dev/{disk}"), libc::O_DIRECT)?;
            check_eq!(tools::pread_raw(&below, buf.as_ptr(), PAGE, at)?, PAGE);
            let mine = (logical + n) as usize * PAGE;
            check!(
                buf.slice() == &m.slice()[mine..mine + PAGE],
                "page {} of the file is not at byte {at:#x} of {disk}",
                logical + n
            );
            used.insert(disk);
            pages += 1;
        }
    }
    check_eq!(pages, m.len() / PAGE, "pages found below");
    Ok(format!("{faults}; on {used:?}"))
}

/// Extents of a file, in blocks of 4 KiB: logical, physical, length.
fn extents(c: &Ctx, path: &str) -> TestResult<Vec<(u64, u64, u64)>> {
    let out = c.ok(&["filefrag", "-e", "-b4096", path])?;
    let mut found = Vec::new();
    for l in out.lines() {
        // "   0:        0..    1023:      34816..     35839:   1024:   last,eof"
        let words: Vec<&str> = l.split(['.', ':', ' ']).filter(|w| !w.is_empty()).collect();
        if let [n, logical, _, physical, _, blocks, ..] = words[..] {
            if n.parse::<u32>().is_ok() {
                let number = |w: &str| w.parse::<u64>().map_err(|_| format!("filefrag: {l}"));
                found.push((number(logical)?, number(physical)?, number(blocks)?));
            }
        }
    }
    check!(!found.is_empty(), "filefrag: {out}");
    Ok(found)
}

/// `dmsetup table`, as far as it is used here.
struct Table(Vec<Target>);

struct Target {
    start: u64,
    len: u64,
    /// Sectors that go to one disk before the next has its turn.
    chunk: u64,
    /// Names of disks, and sectors at which the target begins on them.
    disks: Vec<(String, u64)>,
}

impl Table {
    fn of(c: &Ctx) -> TestResult<Table> {
        let text = c.ok(&["dmsetup", "table", NAME])?;
        let mut targets = Vec::new();
        for l in text.lines() {
            let words: Vec<&str> = l.split_whitespace().collect();
            let number = |n: usize| -> TestResult<u64> {
                let w = words.get(n).and_then(|w| w.parse().ok());
                w.ok_or_else(|| Outcome::Fail(format!("word {n} of {l}")))
            };
            let disk = |n: usize| -> TestResult<String> {
                let dev = words.get(n).copied().unwrap_or_default();
                let to = fs::read_link(format!("/sys/dev/block/{dev}"))?;
                Ok(to
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned())
            };
            let (start, len) = (number(0)?, number(1)?);
            let (chunk, disks) = match words.get(2).copied().unwrap_or_default() {
                "linear" => (len, vec![(disk(3)?, number(4)?)]),
                // The second one is the log.
                "log-writes" => (len, vec![(disk(3)?, 0)]),
                "striped" => {
                    let mut disks = Vec::new();
                    for n in 0..number(3)? as usize {
                        disks.push((disk(5 + 2 * n)?, number(6 + 2 * n)?));
                    }
                    (number(4)?, disks)
                }
                _ => fail!("dmsetup table: {l}"),
            };
            targets.push(Target {
                start,
                len,
                chunk,
                disks,
            });
        }
        Ok(Table(targets))
    }

    /// The disk below and the byte there, of a byte above.
    fn locate(&self, byte: u64) -> TestResult<(String, u64)> {
        let sector = byte / 512;
        let inside = |t: &&Target| (t.start..t.start + t.len).contains(&sector);
        let Some(t) = self.0.iter().find(inside) else {
            fail!("no target has sector {sector}");
        };
        let (chunk, rest) = ((sector - t.start) / t.chunk, (sector - t.start) % t.chunk);
        let turns = t.disks.len() as u64;
        let (disk, start) = &t.disks[(chunk % turns) as usize];
        let at = start + chunk / turns * t.chunk + rest;
        Ok((disk.clone(), at * 512 + byte % 512))
    }
}

/// The driver is taken away under a file system on a device of device mapper, which nobody tells:
/// SIGBUS for who has its files mapped, and nothing worse; the data is there at the next bind.
fn unbind(c: &mut Ctx) -> TestResult {
    let parts = Parts::find(c)?;
    for stack in STACKS
        .iter()
        .filter(|s| ["linear", "striped"].contains(&s.name))
    {
        let on = up(c, stack, &parts)?;
        c.mkfs("ext4", &on.dev())?;
        c.mount(&on.dev(), MNT, "dax=always")?;
        let file = tools::file_of(&format!("{MNT}/file"), 2 * HUGE)?;
        let mut m = Map::sync(&file, 0, 2 * HUGE)?;
        sys::pattern(78, m.slice_mut());
        m.persist(0, m.len());
        file.sync_all()?;
        let mut peers = Vec::new();
        for at in [0, PAGE, HUGE] {
            for write in [false, true] {
                peers.push(Peer::start(|link| {
                    let before = m.read8(at);
                    link.say();
                    link.hear();
                    if write {
                        m.write8(at, before);
                    }
                    i32::from(m.read8(at) != before)
                })?);
            }
        }
        for p in &peers {
            p.hear()?;
        }
        // All disks below: half of a striped file would be served still.
        for s in &parts.paged {
            s.unbind(c)?;
        }
        for (n, p) in peers.into_iter().enumerate() {
            p.say();
            check_eq!(p.wait()?, peer::GOT_SIGBUS, "{}: access {n}", stack.name);
        }
        match sys::caught(|| m.read8(2 * HUGE - 1))? {
            sys::Caught::Fault(x) => check_eq!((x.signal, x.code), (libc::SIGBUS, sys::BUS_ADRERR)),
            other => fail!("{}: {other:?} instead of SIGBUS", stack.name),
        }
        check!(
            tools::open_rw(format!("{MNT}/new"))
                .and_then(|f| Ok(f.sync_all()?))
                .is_err(),
            "{}: a new file was written",
            stack.name
        );
        drop((m, file));
        c.ok(&["umount", MNT])?;
        down(c, stack, &parts)?;
        for s in &parts.paged {
            s.bind(c)?;
        }
        // What was persistent is.
        let on = over(c, stack, &parts)?;
        c.mount(&on.dev(), MNT, "dax=always")?;
        let file = File::open(format!("{MNT}/file"))?;
        let m = Map::new(&file, 0, 2 * HUGE, libc::PROT_READ, libc::MAP_SHARED)?;
        check_eq!(
            sys::pattern_differs(78, m.slice()),
            None,
            "{}: contents",
            stack.name
        );
        drop((m, file));
        c.umount(MNT)?;
        down(c, stack, &parts)?;
    }
    Ok(())
}
