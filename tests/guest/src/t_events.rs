// SPDX-License-Identifier: GPL-2.0
//! What happens to a disk while it is in use: I/O that is done in parts or not at all, a region
//! that is disabled and enabled, a machine that sleeps. Both drivers are asked the same, and answer
//! alike.

use crate::support::ctx::{Ctx, Test, TestResult, EXT4_NOT_LAZY};
use crate::support::facts::{self, Facts};
use crate::support::sys::{self, Map};
use crate::support::tools::{self, Space, PAGE};
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = crate::tests! {
    events_create => create,
    events_partial => |c| compare(c, 80, partial),
    events_region => |c| compare(c, 20, region),
    events_sleep => |c| compare(c, 10, sleep),
    events_poison => compare_poisoned,
    events_failure => compare_failure,
};

const MNT: &str = "/mnt/events";
const MIB: usize = 1 << 20;
/// Of a disk, where the memory is said to be bad.
const BAD: usize = 5 * MIB + 3 * PAGE;

fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "96M"])?;
    c.create_namespace(&["-m", "raw", "-s", "96M"])?;
    check_eq!(tools::spaces(c)?.len(), 2, "disks");
    Ok(())
}

/// Asks on each disk under rpmem and under nd_pmem, `least` things at least.
fn compare(
    c: &mut Ctx,
    least: usize,
    questions: fn(&mut Ctx, &Space, &mut Facts) -> TestResult,
) -> TestResult {
    // A test that failed may have left its mount behind.
    while c.run(&["umount", "-q", MNT])?.status == 0 {}
    c.modprobe("nd_pmem")?;
    let mut answers = Vec::new();
    for driver in ["rpmem", "nd_pmem"] {
        facts::hand_over(c, driver)?;
        let mut facts = Facts::new();
        for s in tools::spaces(c)? {
            check_eq!(c.bound_to(&s.nd).as_deref(), Some(driver), "{}", s.disk);
            let mut f = Facts::new();
            questions(c, &s, &mut f)?;
            facts.extend(f.into_iter().map(|(k, v)| (format!("{} {k}", s.disk), v)));
        }
        answers.push(facts);
    }
    facts::hand_over(c, "rpmem")?;
    println!("{} questions", answers[0].len());
    check!(answers[0].len() >= least, "{} questions", answers[0].len());
    facts::same(&answers[0], &answers[1])
}

fn count(r: io::Result<usize>) -> io::Result<String> {
    r.map(|n| n.to_string())
}

/// preadv2 or pwritev2 of many small pieces of a buffer.
fn pieces(f: &File, m: &Map, piece: usize, at: u64, flags: i32, write: bool) -> io::Result<String> {
    let v: Vec<libc::iovec> = (0..1024)
        .map(|n| libc::iovec {
            iov_base: m.as_ptr().wrapping_add(2 * n * piece).cast(),
            iov_len: piece,
        })
        .collect();
    // SAFETY: the kernel checks the addresses.
    let n = unsafe {
        if write {
            libc::pwritev2(f.as_raw_fd(), v.as_ptr(), 1024, at as i64, flags)
        } else {
            libc::preadv2(f.as_raw_fd(), v.as_ptr(), 1024, at as i64, flags)
        }
    };
    count(usize::try_from(n).map_err(|_| io::Error::last_os_error()))
}

/// Large I/O, pieces of sectors, no waiting, a buffer with a hole, the end of the disk in the
/// middle.
fn partial(c: &mut Ctx, s: &Space, f: &mut Facts) -> TestResult {
    let size = 512 * c.read_u64(format!("/sys/block/{}/size", s.disk))?;
    let len = 16 * MIB;
    let mut m = tools::anonymous(len)?;
    sys::pattern(5, m.slice_mut());
    let torn = tools::anonymous(len)?;
    // SAFETY: pages of this mapping alone, which only system calls touch from here on.
    let r = unsafe {
        libc::mprotect(
            torn.as_ptr().add(3 * MIB + PAGE).cast(),
            PAGE,
            libc::PROT_NONE,
        )
    };
    check_eq!(r, 0, "mprotect");
    for (how, flags) in [
        ("cached", 0),
        ("direct", libc::O_DIRECT),
        ("sync", libc::O_DIRECT | libc::O_SYNC),
    ] {
        let file = tools::open_flags(s.dev(), flags)?;
        let mut put =
            |what: &str, r: io::Result<String>| facts::ask(f, &format!("{how} {what}"), r);
        for (what, at) in [
            ("whole", 0),
            ("across the end", size - 8 * MIB as u64),
            ("odd", 512),
        ] {
            put(
                &format!("write {what}"),
                count(tools::pwrite_raw(&file, m.as_ptr(), len, at)),
            );
            put(
                &format!("read {what}"),
                count(tools::pread_raw(&file, m.as_ptr(), len, at)),
            );
            put(
                &format!("write {what}, torn buffer"),
                count(tools::pwrite_raw(&file, torn.as_ptr(), len, at)),
            );
            put(
                &format!("read {what}, torn buffer"),
                count(tools::pread_raw(&file, torn.as_ptr(), len, at)),
            );
        }
        for (what, flags) in [
            ("", 0),
            (" without waiting", libc::RWF_NOWAIT),
            (" polled", libc::RWF_HIPRI),
            (" DSYNC", libc::RWF_DSYNC),
        ] {
            // Whether the cache has it is chance.
            if how == "cached" && flags == libc::RWF_NOWAIT {
                continue;
            }
            for piece in [512, 4096, 100] {
                for write in [true, false] {
                    let verb = if write { "write" } else { "read" };
                    put(
                        &format!("{verb} 1024 pieces of {piece}{what}"),
                        pieces(&file, &m, piece, 32 << 20, flags, write),
                    );
                }
            }
        }
    }
    let file = tools::open_rw(s.dev())?;
    let zero = tools::anonymous(len)?;
    for at in (0..size).step_by(len) {
        let n = len.min((size - at) as usize);
        check_eq!(tools::pread_raw(&file, zero.as_ptr(), n, at)?, n);
        f.insert(format!("sum at {at:#x}"), sum(&zero.slice()[..n]));
    }
    Ok(())
}

fn sum(bytes: &[u8]) -> String {
    let fold = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    format!("{:x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// The region goes and comes back while a file of the disk is open.
fn region(c: &mut Ctx, s: &Space, f: &mut Facts) -> TestResult {
    let driver = c.bound_to(&s.nd).unwrap_or_default();
    let region = c.regions()[0].clone();
    let direct = tools::open_flags(s.dev(), libc::O_DIRECT)?;
    let cached = tools::open_rw(s.dev())?;
    let m = tools::anonymous(PAGE)?;
    m.write8(7, 0x70);
    check_eq!(tools::pwrite_raw(&direct, m.as_ptr(), PAGE, 0)?, PAGE);
    let mut ask = |when: &str| {
        for (how, file) in [("direct", &direct), ("cached", &cached)] {
            for at in [0, 24 << 20, 1 << 40] {
                let what = format!("{when}: {how} at {at:#x}");
                facts::ask(
                    f,
                    &format!("{what} read"),
                    count(tools::pread_raw(file, m.as_ptr(), PAGE, at)),
                );
                facts::ask(
                    f,
                    &format!("{what} write"),
                    count(tools::pwrite_raw(file, m.as_ptr(), PAGE, at)),
                );
            }
            let r = file.sync_all().map(|()| "0".into());
            facts::ask(f, &format!("{when}: {how} fsync"), r);
        }
    };
    ask("before");
    let out = c.ok(&["ndctl", "disable-region", &region])?;
    ask("without region");
    let left = c.disks();
    let enabled = c.ok(&["ndctl", "enable-region", &region])?;
    c.settle();
    ask("with it again");
    f.insert("disable-region".into(), out);
    f.insert("disks without region".into(), format!("{left:?}"));
    f.insert("enable-region".into(), enabled);
    drop((direct, cached));
    // Whichever driver was loaded first has it now.
    facts::hand_over(c, &driver)?;
    // Not what carries them: pfn devices are numbered as they come.
    f.insert("disks".into(), format!("{:?}", c.disks()));
    let again = tools::open_flags(s.dev(), libc::O_DIRECT)?;
    check_eq!(tools::pread_raw(&again, m.as_ptr(), PAGE, 0)?, PAGE);
    f.insert("contents".into(), m.read8(7).to_string());
    Ok(())
}

/// The machine goes to sleep as far as the kernel's test of that goes (nothing would wake it up),
/// under a file system with a synchronous mapping, or one without DAX.
fn sleep(c: &mut Ctx, s: &Space, f: &mut Facts) -> TestResult {
    c.mark_dmesg();
    c.mkfs("ext4", &s.dev())?;
    let paged = tools::has_pages(c, s)?;
    c.mount(&s.dev(), MNT, if paged { "dax=always" } else { "defaults" })?;
    let file = tools::file_of(&format!("{MNT}/f"), 2 * MIB)?;
    let flags = if paged {
        sys::MAP_SHARED_VALIDATE | sys::MAP_SYNC
    } else {
        libc::MAP_SHARED
    };
    let mut m = Map::new(&file, 0, 2 * MIB, libc::PROT_READ | libc::PROT_WRITE, flags)?;
    c.write("/sys/module/suspend/parameters/pm_test_delay", "0")?;
    for (n, test) in ["freezer", "devices", "platform"].iter().enumerate() {
        let seed = 30 + n as u64;
        sys::pattern(seed, m.slice_mut());
        c.write("/sys/power/pm_test", test)?;
        let r = c.try_write("/sys/power/state")("freeze");
        facts::ask(f, &format!("sleep, {test}"), r.map(|()| "0".into()));
        c.write("/sys/power/pm_test", "none")?;
        check_eq!(sys::pattern_differs(seed, m.slice()), None, "after {test}");
        file.sync_all()?;
    }
    drop((m, file));
    let text = c.sh(&format!("echo awake >{MNT}/g; sync; cat {MNT}/g"))?;
    f.insert("file after sleep".into(), text);
    c.umount(MNT)?;
    let r = c.run(&["e2fsck", "-f", "-n", &s.dev()])?;
    f.insert("e2fsck".into(), r.status.to_string());
    let log = c.dmesg()?;
    for driver in ["rpmem", "nd_pmem", &s.disk] {
        let said: Vec<&str> = log
            .lines()
            .filter(|l| l.contains(driver) && l.contains("PM:"))
            .collect();
        check!(said.is_empty(), "{said:?}");
    }
    for stat in ["success", "fail"] {
        let n = c.read(format!("/sys/power/suspend_stats/{stat}"))?;
        println!("{stat}: {n}");
        if stat == "fail" {
            f.insert("failures".into(), n);
        }
    }
    for what in ["control", "runtime_status", "wakeup", "async"] {
        let file = format!("/sys/block/{}/power/{what}", s.disk);
        f.insert(
            format!("power/{what}"),
            fs::read_to_string(file).unwrap_or("none".into()),
        );
    }
    Ok(())
}

/// Has the machine report a memory error in each disk.
fn poison(c: &mut Ctx) -> TestResult {
    for s in tools::spaces(c)? {
        let start = c.read_u64(c.nd(&s.nd).join("resource"))?;
        tools::inject_mce(c, start + BAD as u64)?;
        c.wait_for("the bad sector", || {
            c.disk_attr(&s.disk, "badblocks")
                .is_ok_and(|t| !t.is_empty())
        })?;
    }
    Ok(())
}

fn compare_poisoned(c: &mut Ctx) -> TestResult {
    poison(c)?;
    compare(c, 30, poisoned)
}

/// I/O across bad sectors, which nothing can clear on this machine.
fn poisoned(c: &mut Ctx, s: &Space, f: &mut Facts) -> TestResult {
    let len = 8 * MIB;
    let m = tools::anonymous(len)?;
    for round in 0..2 {
        for (how, flags) in [("direct", libc::O_DIRECT), ("cached", 0)] {
            let file = tools::open_flags(s.dev(), flags)?;
            // SAFETY: no pointer is passed on.
            unsafe { libc::ioctl(file.as_raw_fd(), 0x1261, 0) };
            for (what, at, n) in [
                ("whole", 0, len),
                ("in front", BAD - 4 * PAGE, 4 * PAGE),
                ("across", BAD - 2 * PAGE, 4 * PAGE),
                ("first sector", BAD, 512),
                ("last sector", BAD + PAGE - 512, 512),
                ("page", BAD, PAGE),
                ("behind", BAD + PAGE, PAGE),
            ] {
                let name = format!("{round}: {how} {what}");
                facts::ask(
                    f,
                    &format!("{name} read"),
                    count(tools::pread_raw(&file, m.as_ptr(), n, at as u64)),
                );
                if how == "direct" && round == 1 {
                    facts::ask(
                        f,
                        &format!("{name} write"),
                        count(tools::pwrite_raw(&file, m.as_ptr(), n, at as u64)),
                    );
                    f.insert(
                        format!("{name} badblocks"),
                        c.disk_attr(&s.disk, "badblocks")?,
                    );
                }
            }
        }
    }
    let bad = c.disk_attr(&s.disk, "badblocks")?;
    if bad.is_empty() {
        fail!("the machine has cleared the error: the next driver would find none");
    }
    Ok(())
}

fn compare_failure(c: &mut Ctx) -> TestResult {
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "400M"])?;
    compare(c, 27, failure)
}

/// A page of a file fails: who has it mapped is told, by the file system if that knows whose page it
/// is (xfs with a reverse map), by the page otherwise.
fn failure(c: &mut Ctx, s: &Space, f: &mut Facts) -> TestResult {
    // A small disk has no room for xfs.
    let size = 512 * c.read_u64(format!("/sys/block/{}/size", s.disk))?;
    if size < 300 * MIB as u64 {
        return Ok(());
    }
    let start = c.read_u64(c.nd(&s.nd).join("resource"))?;
    let ext4 = format!("mkfs.ext4 -q -F -b 4096 -E {EXT4_NOT_LAZY}");
    for (n, (fs, mkfs)) in [
        ("ext4", ext4.as_str()),
        ("xfs", "mkfs.xfs -q -f -m rmapbt=1,reflink=0"),
        ("xfs without a map", "mkfs.xfs -q -f -m rmapbt=0,reflink=0"),
    ]
    .into_iter()
    .enumerate()
    {
        c.sh(&format!("{mkfs} {}", s.dev()))?;
        c.mount(&s.dev(), MNT, "dax=always")?;
        let path = format!("{MNT}/f");
        let file = tools::file_of(&path, 4 * MIB)?;
        file.sync_all()?;
        let flags = sys::MAP_SHARED_VALIDATE | sys::MAP_SYNC;
        let m = Map::new(&file, 0, 4 * MIB, libc::PROT_READ | libc::PROT_WRITE, flags)?;
        // Another one each time: the struct page stays poisoned until the driver goes.
        let bad = (3 + n) * PAGE;
        let phys = start + 512 * tools::first_sector(c, &path)? + bad as u64;
        for (what, at, fails) in [
            ("page", bad, true),
            ("it again", bad, false),
            ("next", 0, false),
        ] {
            let got = sys::caught(|| {
                m.write8(at, 1);
                if fails {
                    let offline = "/sys/devices/system/memory/hard_offline_page";
                    let _ = fs::write(offline, format!("{phys:#x}"));
                }
                m.read8(at)
            })?;
            let text = match got {
                sys::Caught::Fault(got) => format!(
                    "signal {} code {} at {:#x} lsb {}",
                    got.signal,
                    got.code,
                    got.addr.wrapping_sub(m.as_ptr() as usize),
                    got.addr_lsb
                ),
                other => format!("{other:?}"),
            };
            println!("{fs} {what}: {text}");
            check!(!fails || text.starts_with("signal 7 "), "{fs}: {text}");
            f.insert(format!("{fs} {what}"), text);
        }
        let buf = tools::anonymous(PAGE)?;
        for (what, at) in [("bad", bad), ("good", 0)] {
            let r = count(tools::pread_raw(&file, buf.as_ptr(), PAGE, at as u64));
            facts::ask(f, &format!("{fs} read of the {what} page"), r);
            let r = count(tools::pwrite_raw(&file, buf.as_ptr(), PAGE, at as u64));
            facts::ask(f, &format!("{fs} write of the {what} page"), r);
        }
        facts::ask(
            f,
            &format!("{fs} fsync"),
            file.sync_all().map(|()| "0".into()),
        );
        let new = fs::write(format!("{MNT}/new"), "x").map(|()| "0".into());
        facts::ask(f, &format!("{fs} new file"), new);
        drop((m, file));
        c.umount(MNT)?;
    }
    Ok(())
}
