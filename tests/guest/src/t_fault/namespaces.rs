// SPDX-License-Identifier: GPL-2.0
//! Namespaces that are bound, claimed, mounted and unbound while allocations fail.

use super::series::{series, Aim, Shot};
use super::{
    dax_works, io_works, mkfs, must_rest, rest, shape, space, writer, Kind, AUTOPROBE, BIND, DEBUG,
    MNT, UNBIND,
};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::namespace::{active, release};
use crate::support::tools::{self, errno, Space};
use crate::{check, check_eq};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    fault_start => start,
    fault_bind => |c| bind_series(c, Kind::Whole, (30, 25)),
    fault_create => create,
    fault_bind_raw => |c| bind_series(c, Kind::Raw, (40, 35)),
    fault_bind_mem => |c| bind_series(c, Kind::Mem, (20, 16)),
    fault_bind_dev => |c| bind_series(c, Kind::Dev, (22, 18)),
    fault_claim => claim_series,
    fault_mount => mount_series,
    fault_unbind => unbind_series,
    fault_load => load_series,
    fault_read_only => read_only_series,
};

fn start(c: &mut Ctx) -> TestResult {
    check_eq!(c.driver_name(), "rpmem");
    // From here on every leak counts; those of the boot are not ours.
    c.write(format!("{DEBUG}/kmemleak"), "clear")
}

fn create(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    c.create_namespace(&["-m", "raw", "-s", "16M", "-n", "raw"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "mem", "-s", "16M", "-n", "mem"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "16M", "-n", "dev"])?;
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"), "{}", s.nd);
        let dax = if kind == Kind::Raw { "0" } else { "1" };
        check_eq!(c.disk_attr(&s.disk, "queue/dax")?, dax, "{kind:?}");
    }
    Ok(())
}

fn bind_series(c: &mut Ctx, kind: Kind, floor: (usize, usize)) -> TestResult {
    let s = space(c, kind)?;
    s.unbind(c)?;
    s.bind(c)?;
    let whole = shape(&s);
    let has_pages = tools::has_pages(c, &s)?;
    if has_pages {
        mkfs(c, &s)?;
        dax_works(c, &s)?;
    }
    s.unbind(c)?;
    let before = rest(c, &s.nd)?;
    let mut op = writer(BIND, &s.nd)?;
    let unbind = || -> TestResult {
        s.unbind(c)?;
        must_rest(c, &s.nd, &before)
    };
    let mut judge = |n: usize, shot: &Shot| -> TestResult {
        if shot.result.is_err() {
            must_rest(c, &s.nd, &before)?;
            if !c.long && n % 8 != 0 {
                return Ok(());
            }
            s.bind(c)?;
            check_eq!(shape(&s), whole, "after a bind that failed");
        } else {
            check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"));
            let now = shape(&s);
            for lost in whole.difference(&now) {
                let allowed = (lost.starts_with("/dev/")
                    && shot.in_function("devtmpfs_create_node"))
                    || lost.starts_with(DEBUG);
                check!(allowed, "{lost} is missing");
            }
            // Later ones fail in the core, which does not know of direct access.
            let of_disk = shot.in_function("add_disk_fwnode");
            if has_pages && shot.hit && !of_disk && Path::new(&s.dev()).exists() {
                dax_works(c, &s)?;
            }
        }
        io_works(c, &s, n as u64)?;
        unbind()
    };
    let aim = Aim {
        what: &format!("bind {kind:?}"),
        floor,
        elsewhere: match kind {
            Kind::Mem | Kind::Dev => "add_disk_fwnode",
            Kind::Whole | Kind::Raw => "",
        },
        ..Aim::default()
    };
    series(c, &aim, &mut op, &mut judge)?;
    s.bind(c)
}

/// The namespace device finds the info block and hands over to a pfn device. It never has a disk
/// itself, however little memory there is.
///
/// Devices are not probed by themselves meanwhile: where `async_schedule_dev_domain()` lacks
/// memory, it registers the pfn device at once, and the probe of that waits for the lock of the
/// namespace, which the caller holds: a deadlock in the core, with any driver.
fn claim_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Mem)?;
    let mut ns = None;
    for n in c.namespaces() {
        if c.read(c.nd(&n).join("holder"))? == s.nd {
            ns = Some(n);
        }
    }
    let ns = ns.ok_or("no namespace is claimed")?;
    c.write(AUTOPROBE, "0")?;
    let resting = || -> TestResult<String> {
        release(c, &ns)?;
        c.read("/proc/iomem")
    };
    let before = resting()?;
    let mut bind = writer(BIND, &ns)?;
    let mut op = || match bind() {
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(()),
        other => other,
    };
    let mut judge = |n: usize, shot: &Shot| -> TestResult {
        c.settle();
        check_eq!(c.bound_to(&ns), None, "{ns}: info block and disk");
        if active(c, &ns)? == ns {
            check!(shot.hit, "{ns} was not claimed");
            check_eq!(c.read("/proc/iomem")?, before);
            if !c.long && n % 8 != 0 {
                return Ok(());
            }
            let again = c.try_write(BIND)(&ns);
            check_eq!(errno(&again), libc::ENXIO, "a second bind of {ns}");
            c.settle();
        }
        let s = Space {
            nd: active(c, &ns)?,
            disk: s.disk.clone(),
        };
        check!(s.nd != ns, "{ns} was not claimed");
        s.bind(c)?;
        io_works(c, &s, n as u64)?;
        check_eq!(resting()?, before);
        Ok(())
    };
    let aim = Aim {
        what: "claim",
        floor: (6, 4),
        // Fails with ENXIO, like a bind that has handed over.
        tolerant: &["devm_memremap"],
        ..Aim::default()
    };
    let r = series(c, &aim, &mut op, &mut judge);
    c.write(AUTOPROBE, "1")?;
    if active(c, &ns)? == ns {
        check_eq!(errno(&c.try_write(BIND)(&ns)), libc::ENXIO);
    }
    space(c, Kind::Mem)?;
    r
}

fn unbind_series(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem] {
        let s = space(c, kind)?;
        s.unbind(c)?;
        let before = rest(c, &s.nd)?;
        s.bind(c)?;
        let mut op = writer(UNBIND, &s.nd)?;
        let mut judge = |n: usize, shot: &Shot| -> TestResult {
            if shot.result.is_ok() {
                must_rest(c, &s.nd, &before)?;
                s.bind(c)?;
            }
            check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"));
            io_works(c, &s, n as u64)
        };
        let aim = Aim {
            what: &format!("unbind {kind:?}"),
            floor: (4, 3),
            ..Aim::default()
        };
        series(c, &aim, &mut op, &mut judge)?;
    }
    Ok(())
}

/// Loading the module, with nothing bound by it: what binding needs is in the other series.
fn load_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Raw)?;
    c.rmmod("rpmem")?;
    let before = rest(c, &s.nd)?;
    let ko = File::open(crate::support::ctx::init_ko())?;
    let params = std::ffi::CString::new(c.params.as_str()).map_err(|e| e.to_string())?;
    c.write(AUTOPROBE, "0")?;
    let mut op = || -> io::Result<()> {
        // SAFETY: an open descriptor and a NUL-terminated string that live through the call.
        match unsafe { libc::syscall(libc::SYS_finit_module, ko.as_raw_fd(), params.as_ptr(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let mut judge = |_: usize, shot: &Shot| -> TestResult {
        if shot.result.is_ok() {
            check!(Path::new("/sys/bus/nd/drivers/rpmem").exists());
            c.rmmod("rpmem")?;
        }
        check!(!Path::new("/sys/module/rpmem").exists(), "half a module");
        check!(
            !Path::new("/sys/bus/nd/drivers/rpmem").exists(),
            "half a driver"
        );
        must_rest(c, &s.nd, &before)
    };
    let aim = Aim {
        what: "load",
        floor: (15, 4),
        // The driver's part comes last.
        tail: 40,
        // Files bind and unbind of the driver; instruments of the kernel, of which lockdep has a name
        // for a queue; fs.lease-break-time, without which leases have the time that is its default.
        tolerant: &[
            "bus_add_driver",
            "ei_module_callback",
            "kunit_module_notify",
            "trace_module_notify",
            "alloc_workqueue_noprof",
            "rpmem_helper_lease_init",
        ],
        ..Aim::default()
    };
    let r = series(c, &aim, &mut op, &mut judge);
    c.write(AUTOPROBE, "1")?;
    r?;
    for kind in [Kind::Raw, Kind::Mem, Kind::Dev] {
        let s = space(c, kind)?;
        check_eq!(c.bound_to(&s.nd).as_deref(), Some("rpmem"));
        io_works(c, &s, 1)?;
    }
    Ok(())
}

/// A change of the region's state reaches the driver by notify().
fn read_only_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Raw)?;
    let region = c.nd(&c.regions()[0]).join("read_only");
    let region = region.to_string_lossy().into_owned();
    let mut op = writer(&region, "1")?;
    let mut judge = |_: usize, shot: &Shot| -> TestResult {
        let want = if shot.result.is_ok() { "1" } else { "0" };
        check_eq!(c.read(&region)?, want, "the region's read_only");
        check_eq!(c.disk_attr(&s.disk, "ro")?, want, "the disk's ro");
        c.write(&region, "0")?;
        check_eq!(c.disk_attr(&s.disk, "ro")?, "0", "the disk's ro");
        Ok(())
    };
    let aim = Aim {
        what: "read_only",
        floor: (2, 0),
        ..Aim::default()
    };
    series(c, &aim, &mut op, &mut judge)
}

/// Whatever a file system makes of it, the disk below is as before.
fn mount_series(c: &mut Ctx) -> TestResult {
    let s = space(c, Kind::Mem)?;
    mkfs(c, &s)?;
    fs::create_dir_all(MNT)?;
    let dev = std::ffi::CString::new(s.dev()).map_err(|e| e.to_string())?;
    let at = std::ffi::CString::new(MNT).map_err(|e| e.to_string())?;
    let mut op = || -> io::Result<()> {
        // SAFETY: NUL-terminated strings that live through the call.
        match unsafe {
            libc::mount(
                dev.as_ptr(),
                at.as_ptr(),
                c"ext4".as_ptr(),
                0,
                c"dax=always".as_ptr().cast(),
            )
        } {
            0 => Ok(()),
            // A file system says what it likes if memory is short.
            _ => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        }
    };
    let mut judge = |n: usize, shot: &Shot| -> TestResult {
        if shot.result.is_err() {
            return Ok(());
        }
        let path = format!("{MNT}/f");
        fs::write(&path, n.to_string())?;
        check!(tools::is_dax(&File::open(&path)?)?, "no DAX");
        check_eq!(fs::read_to_string(&path)?, n.to_string());
        c.umount(MNT)
    };
    let aim = Aim {
        what: "mount",
        floor: (20, 0),
        // Mounts are judged by whether they work.
        tolerant: &["do_new_mount"],
        ..Aim::default()
    };
    series(c, &aim, &mut op, &mut judge)?;
    s.unbind(c)?;
    s.bind(c)?;
    io_works(c, &s, 1)
}
