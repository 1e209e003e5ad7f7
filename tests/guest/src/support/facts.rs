// SPDX-License-Identifier: GPL-2.0
//! What a user can ask of a disk, as questions with answers that two drivers must share.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::disk::{BLKDISCARD, BLKROGET, BLKROSET, BLKZEROOUT, MIB};
use crate::support::tools::{self, Space, PAGE};
use crate::{check, check_eq, fail};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// Questions and answers.
pub type Facts = BTreeMap<String, String>;

/// Both drivers have given the same answers.
pub fn same(ours: &Facts, theirs: &Facts) -> TestResult {
    let mut bad = Vec::new();
    for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
        let (us, them) = (ours.get(key), theirs.get(key));
        if us != them {
            bad.push(format!("{key}: nd_pmem {them:?}, rpmem {us:?}"));
        }
    }
    if !bad.is_empty() {
        fail!("{} answers differ:\n{}", bad.len(), bad.join("\n"));
    }
    Ok(())
}

pub fn hand_over(c: &Ctx, to: &str) -> TestResult {
    for ns in c.namespaces() {
        println!("{}", c.ok(&["rpmem-bind", &ns, to])?.trim());
    }
    c.settle();
    Ok(())
}

/// Files that count, that depend on free memory, or that name a device number given out anew at
/// each bind: that they are there is compared, what they say is not.
const VARIES: &[&str] = &[
    "stat",
    "inflight",
    "dev",
    "diskseq",
    "max_bytes",
    "runtime_active_time",
    "runtime_suspended_time",
];

/// Every file and link below a folder, with its mode. Folders of other devices are left out: they
/// are asked for by their own name.
pub fn sysfs(dir: &str, as_name: &str, facts: &mut Facts) {
    let Ok(entries) = fs::read_dir(dir) else {
        facts.insert(format!("{as_name}/"), "no folder".into());
        return;
    };
    for e in entries.flatten() {
        let name = e.file_name().to_string_lossy().into_owned();
        let path = e.path();
        let key = format!("{as_name}/{name}");
        if VARIES.contains(&name.as_str()) {
            facts.insert(key, "there".into());
            continue;
        }
        let Ok(meta) = fs::symlink_metadata(&path) else {
            facts.insert(key, "no attributes".into());
            continue;
        };
        if meta.is_symlink() {
            let to = fs::read_link(&path).unwrap_or_default();
            facts.insert(key, numberless(&to.to_string_lossy()));
        } else if meta.is_dir() {
            if as_name != "nd" || name != "block" {
                sysfs(&path.to_string_lossy(), &key, facts);
            }
        } else {
            facts.insert(format!("{key} mode"), format!("{:o}", meta.mode()));
            match fs::read(&path) {
                Ok(b) if name == "uevent" => {
                    for l in String::from_utf8_lossy(&b).lines() {
                        let (k, v) = l.split_once('=').unwrap_or((l, ""));
                        if !["MAJOR", "MINOR", "DISKSEQ"].contains(&k) {
                            facts.insert(format!("{key} {k}"), v.into());
                        }
                    }
                }
                Ok(b) => {
                    facts.insert(key, String::from_utf8_lossy(&b).trim_end().into());
                }
                Err(e) => {
                    facts.insert(key, format!("{e}"));
                }
            }
        }
    }
}

/// A path without the device number at its end.
fn numberless(path: &str) -> String {
    let (head, tail) = path.rsplit_once('/').unwrap_or(("", path));
    match tail.split_once(':') {
        Some((major, minor)) if minor.parse::<u32>().is_ok() => format!("{head}/{major}:N"),
        _ => path.to_string(),
    }
}

pub fn ask(f: &mut Facts, name: &str, r: io::Result<String>) {
    let v = match r {
        Ok(v) => v,
        Err(e) => format!("errno {}", e.raw_os_error().unwrap_or(-1)),
    };
    f.insert(name.to_string(), v);
}

/// An ioctl with an argument of up to 64 bytes; its answer as a number of that size.
fn ioctl(file: &File, request: u64, argument: &[u64], bytes: usize) -> io::Result<String> {
    let mut a = [0u64; 8];
    a[..argument.len()].copy_from_slice(argument);
    // SAFETY: no request used here writes more than the 64 bytes that `a` has.
    let r = unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, a.as_mut_ptr()) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    let raw: Vec<u8> = a.iter().flat_map(|w| w.to_le_bytes()).take(bytes).collect();
    Ok(format!("{r} {raw:02x?}"))
}

const BLKSECDISCARD: u64 = 0x127d;

/// Ioctls that only ask, with the size of the answer.
const QUESTIONS: &[(&str, u64, usize)] = &[
    ("BLKGETSIZE64", 0x8008_1272, 8),
    ("BLKGETSIZE", 0x1260, 8),
    ("BLKSSZGET", 0x1268, 4),
    ("BLKPBSZGET", 0x127b, 4),
    ("BLKBSZGET", 0x8008_1270, 4),
    ("BLKIOMIN", 0x1278, 4),
    ("BLKIOOPT", 0x1279, 4),
    ("BLKALIGNOFF", 0x127a, 4),
    ("BLKROGET", BLKROGET, 4),
    ("BLKRAGET", 0x1263, 8),
    ("BLKFRAGET", 0x1265, 8),
    ("BLKSECTGET", 0x1267, 2),
    ("BLKROTATIONAL", 0x127e, 2),
    ("BLKDISCARDZEROES", 0x127c, 4),
    ("BLKGETZONESZ", 0x8004_1284, 4),
    ("BLKGETNRZONES", 0x8004_1285, 4),
    ("BLKREPORTZONE", 0xc010_1282, 16),
    ("BLKREPORTZONEV2", 0xc010_128e, 16),
    ("BLKRESETZONE", 0x4010_1283, 0),
    ("BLKOPENZONE", 0x4010_1286, 0),
    ("BLKCLOSEZONE", 0x4010_1287, 0),
    ("BLKFINISHZONE", 0x4010_1288, 0),
    ("BLKPG", 0x1269, 0),
    ("BLKTRACESTART", 0x1274, 0),
    ("BLKTRACESTOP", 0x1275, 0),
    ("BLKTRACETEARDOWN", 0x1276, 0),
    ("BLKCRYPTOIMPORTKEY", 0xc040_1289, 0),
    ("IOC_PR_REGISTER", 0x4018_70c8, 0),
    ("IOC_PR_RESERVE", 0x4010_70c9, 0),
    ("IOC_PR_RELEASE", 0x4010_70ca, 0),
    ("IOC_PR_PREEMPT", 0x4018_70cb, 0),
    ("IOC_PR_PREEMPT_ABORT", 0x4018_70cc, 0),
    ("IOC_PR_CLEAR", 0x4010_70cd, 0),
    ("IOC_PR_READ_KEYS", 0xc010_70ce, 16),
    ("IOC_PR_READ_RESERVATION", 0x8010_70cf, 16),
    ("BLKFLSBUF", 0x1261, 0),
    ("BLKRRPART", 0x125f, 0),
    ("HDIO_GETGEO", 0x0301, 16),
    ("HDIO_GET_IDENTITY", 0x030d, 0),
    ("CDROM_GET_CAPABILITY", 0x5331, 0),
    ("CDROMEJECT", 0x5309, 0),
    ("CDROM_DRIVE_STATUS", 0x5326, 0),
    ("CDROM_LOCKDOOR", 0x5329, 0),
    ("SG_GET_VERSION_NUM", 0x2282, 4),
    ("SG_IO", 0x2285, 0),
    ("SCSI_IOCTL_GET_IDLUN", 0x5382, 0),
    ("LOOP_GET_STATUS64", 0x4c05, 0),
    ("NVME_IOCTL_ID", 0x4e40, 0),
    ("FIONREAD", 0x541b, 4),
    ("FIGETBSZ", 0x2, 4),
    ("FITRIM", 0xc018_5879, 24),
    ("FIFREEZE", 0xc004_5877, 0),
    ("nonsense", 0x12ee, 0),
];

pub fn limits(s: &Space, f: &mut Facts) -> TestResult {
    let file = File::open(s.dev())?;
    let writer = File::options().read(true).write(true).open(s.dev());
    for (name, request, bytes) in QUESTIONS {
        ask(
            f,
            &format!("ioctl {name}"),
            ioctl(&file, *request, &[], *bytes),
        );
        if let Ok(writer) = &writer {
            let answer = ioctl(writer, *request, &[], *bytes);
            ask(f, &format!("ioctl {name}, open for writing"), answer);
        }
    }
    // SAFETY: statx fills a structure of ours.
    unsafe {
        let mut x: libc::statx = std::mem::zeroed();
        let mask = libc::STATX_BASIC_STATS | 0x2000 | 0x1_0000 | 0x2_0000;
        let r = libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            mask,
            &mut x,
        );
        check!(r == 0, "statx: {}", io::Error::last_os_error());
        // The alignments of direct I/O and of atomic writes follow stx_mnt_id.
        let raw = (&raw const x).cast::<u32>();
        let tail: Vec<u32> = (38..46).map(|n| raw.add(n).read()).collect();
        f.insert(
            "statx".into(),
            format!(
                "mask {:x} attributes {:x} of {:x} block {} more {tail:?}",
                x.stx_mask, x.stx_attributes, x.stx_attributes_mask, x.stx_blksize
            ),
        );
    }
    Ok(())
}

/// What reading, writing, discarding and mapping say: at the end, beyond it, misaligned.
pub fn access(c: &Ctx, s: &Space, f: &mut Facts) -> TestResult {
    let size: u64 = c.disk_attr(&s.disk, "size")?.parse().map_err(|_| "size")?;
    let end = size * 512;
    check!(end > 32 * MIB, "{} has {end} bytes", s.disk);
    let mut buf = tools::anonymous(4 * PAGE)?;
    let p = buf.as_ptr();
    // What an earlier test left there is no answer.
    if c.disk_attr(&s.disk, "ro")? == "0" {
        tools::pwrite_raw(&tools::open_flags(s.dev(), libc::O_DIRECT)?, p, PAGE, 0)?;
    }
    let open = |flags: i32, write: bool| {
        File::options()
            .read(true)
            .write(write)
            .custom_flags(flags)
            .open(s.dev())
    };
    let n = |r: io::Result<usize>| r.map(|n| n.to_string());
    for write in [false, true] {
        let mode = if write { "rw" } else { "r" };
        // Not what was read: that may be anything.
        buf.slice_mut().fill(0);
        for (how, flags) in [
            ("cached", 0),
            ("direct", libc::O_DIRECT),
            ("sync", libc::O_DSYNC),
        ] {
            let file = match open(flags, write) {
                Ok(file) => file,
                Err(e) => {
                    ask(f, &format!("open {mode} {how}"), Err(e));
                    continue;
                }
            };
            for (what, at, len, skew) in [
                ("start", 0, PAGE, 0),
                ("last sector", end - 4096, 4096, 0),
                ("last 512 bytes", end - 512, 512, 0),
                ("the end", end, 4096, 0),
                ("across the end", end - 4096, 8192, 0),
                ("beyond the end", end + 4096, 4096, 0),
                ("far beyond", 1 << 62, 4096, 0),
                ("odd offset", 16 * MIB + 100, 4096, 0),
                ("512 offset", 16 * MIB + 512, 512, 0),
                ("odd length", 16 * MIB, 1000, 0),
                ("odd buffer", 16 * MIB, 4096, 4),
                ("nothing", 16 * MIB, 0, 0),
            ] {
                let name = format!("{how} {mode} {what}");
                if write {
                    ask(
                        f,
                        &format!("write {name}"),
                        n(tools::pwrite_raw(&file, p.wrapping_add(skew), len, at)),
                    );
                } else {
                    ask(
                        f,
                        &format!("read {name}"),
                        n(tools::pread_raw(&file, p.wrapping_add(skew), len, at)),
                    );
                }
            }
            ask(
                f,
                &format!("fsync {how} {mode}"),
                file.sync_all().map(|()| "0".into()),
            );
            for (what, flag) in [
                ("HIPRI", 1),
                ("NOWAIT", 8),
                ("ATOMIC", 0x40),
                ("DONTCACHE", 0x80),
            ] {
                let v = libc::iovec {
                    iov_base: p.cast(),
                    iov_len: PAGE,
                };
                // SAFETY: one buffer of that length.
                let r = unsafe {
                    if write {
                        libc::pwritev2(file.as_raw_fd(), &v, 1, 16 * MIB as i64, flag)
                    } else {
                        libc::preadv2(file.as_raw_fd(), &v, 1, 16 * MIB as i64, flag)
                    }
                };
                let r = usize::try_from(r).map_err(|_| io::Error::last_os_error());
                // Whether the cache has the page is chance.
                if how == "direct" || flag != 8 {
                    ask(f, &format!("{how} {mode} RWF_{what}"), n(r));
                }
            }
        }
        let file = open(0, write)?;
        for (what, request) in [
            ("BLKDISCARD", BLKDISCARD),
            ("BLKSECDISCARD", BLKSECDISCARD),
            ("BLKZEROOUT", BLKZEROOUT),
        ] {
            for (place, at, len) in [
                ("inside", 20 * MIB, MIB),
                ("odd", 20 * MIB + 100, 4096),
                ("across the end", end - 4096, 8192),
                ("empty", 20 * MIB, 0),
            ] {
                ask(
                    f,
                    &format!("ioctl {what} {mode} {place}"),
                    ioctl(&file, request, &[at, len], 0),
                );
            }
        }
        for (what, flags) in [
            ("allocate", 0),
            ("zero", libc::FALLOC_FL_ZERO_RANGE),
            (
                "zero and keep size",
                libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
            ),
            (
                "punch",
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
            ),
            (
                "punch, no fallback",
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE | 4,
            ),
            ("write zeroes", 0x80),
        ] {
            // SAFETY: an open file.
            let r = unsafe { libc::fallocate(file.as_raw_fd(), flags, 24 << 20, 1 << 20) };
            let r = if r == 0 {
                Ok("0".into())
            } else {
                Err(io::Error::last_os_error())
            };
            ask(f, &format!("fallocate {mode} {what}"), r);
        }
        for (what, flags) in [
            ("shared", libc::MAP_SHARED),
            ("private", libc::MAP_PRIVATE),
            (
                "sync",
                crate::support::sys::MAP_SHARED_VALIDATE | crate::support::sys::MAP_SYNC,
            ),
        ] {
            let r = crate::support::sys::Map::new(&file, 0, PAGE, libc::PROT_READ, flags);
            ask(
                f,
                &format!("mmap {mode} {what}"),
                r.map(|m| format!("byte {}", m.read8(0))),
            );
        }
    }
    let one = open(libc::O_EXCL, false)?;
    ask(
        f,
        "second exclusive open",
        open(libc::O_EXCL, false).map(|_| "0".into()),
    );
    ask(
        f,
        "exclusive open again",
        open(0, false).map(|_| "0".into()),
    );
    drop(one);
    // Set read-only by hand, there and back (a read-only region stays so).
    let file = open(0, true).or_else(|_| open(0, false))?;
    for value in [1u64, 0] {
        ask(
            f,
            &format!("ioctl BLKROSET {value}"),
            ioctl(&file, BLKROSET, &[value], 0),
        );
        ask(
            f,
            &format!("ioctl BLKROGET after {value}"),
            ioctl(&file, BLKROGET, &[], 4),
        );
        ask(
            f,
            &format!("ro after {value}"),
            Ok(c.disk_attr(&s.disk, "ro")?),
        );
        ask(
            f,
            &format!("write after BLKROSET {value}"),
            n(tools::pwrite_raw(&file, p, PAGE, 0)),
        );
    }
    drop(file);
    // As libnvdimm has it, for the next driver to find.
    let region = c.nd(&c.regions()[0]).join("read_only");
    let value = c.read(&region)?;
    if value == "1" {
        ask(
            f,
            "region read_only again",
            c.write(&region, "1")
                .map(|()| "0".into())
                .map_err(|_| io::Error::from_raw_os_error(libc::EIO)),
        );
    }
    let zeroes = tools::anonymous(MIB as usize)?;
    let file = open(0, false)?;
    check_eq!(
        tools::pread_raw(&file, zeroes.as_ptr(), MIB as usize, 24 * MIB)?,
        MIB as usize
    );
    let sum = zeroes.slice().iter().map(|b| u64::from(*b)).sum::<u64>();
    f.insert("sum of the bytes zeroed".into(), sum.to_string());
    Ok(())
}
