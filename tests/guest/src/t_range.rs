// SPDX-License-Identifier: GPL-2.0
//! include/linux/rpmem.h: a module of the kernel that holds memory (tests/module).

use crate::support::ctx::{self, Ctx, Test, TestResult};
use crate::support::node::DIRECT_WINDOW;
use crate::support::peer::Peer;
use crate::support::sys::{Map, MAP_SHARED_VALIDATE, MAP_SYNC};
use crate::support::tools::{self, errno, Space};
use crate::support::uapi::{self, LEASE_BROKEN, LEASE_READ_ONLY, LEASE_REMOVE};
use crate::{check, check_eq, fail};
use std::fs::File;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    range_user => user,
};

const PARAMETERS: &str = "/sys/module/rpmem_user/parameters";
const COUNTERS: &str = "/sys/kernel/debug/rpmem/enable";

fn parameter(name: &str) -> String {
    format!("{PARAMETERS}/{name}")
}

/// Asks the module for a range: 0 or an errno.
fn get(c: &Ctx, what: &str) -> i32 {
    errno(&c.try_write(parameter("get"))(what))
}

fn value(c: &Ctx, name: &str) -> TestResult<u64> {
    c.read_u64(parameter(name))
}

/// State and number of holders.
fn lease(f: &File) -> TestResult<(u32, u64)> {
    let mut lease = [32u32, 0, 0, 0, 0, 0, 0, 0];
    uapi::ioctl_raw(f, 0xbd02, &mut lease)?;
    Ok((lease[1], u64::from(lease[6])))
}

/// Waits until another task has begun a break.
fn wait_state(c: &Ctx, f: &File, state: u32) -> TestResult {
    c.wait_for("the break", || lease(f).is_ok_and(|(now, _)| now == state))
}

/// Unbinds in another task, when that is told to.
fn unbind(c: &Ctx, space: &Space) -> TestResult<Peer> {
    Peer::start(|l| {
        l.hear();
        i32::from(space.unbind(c).is_err())
    })
}

fn user(c: &mut Ctx) -> TestResult {
    let Some(space) = tools::spaces(c)?.into_iter().next() else {
        fail!("no disk");
    };
    let node = format!("/dev/r{}", space.disk);
    let sysfs = format!("/sys/class/rpmem/r{}", space.disk);
    c.wait_exists(&node)?;
    let size = c.read_u64(format!("{sysfs}/size"))?;
    ctx::insmod(Path::new("/rpmem_user.ko"), "")?;

    for (what, want) in [
        ("/dev/null 0 4096 r".to_string(), libc::EINVAL),
        (format!("{} 0 4096 r", space.dev()), libc::EINVAL),
        // Another file of the same module.
        (format!("{COUNTERS} 0 4096 r"), libc::EINVAL),
        (format!("{node} 0 0 r"), libc::EINVAL),
        (format!("{node} 512 4096 r"), libc::EINVAL),
        (format!("{node} 0 512 r"), libc::EINVAL),
        (format!("{node} 4096 {size} r"), libc::EINVAL),
        (format!("{node} {size} 4096 r"), libc::EINVAL),
        (format!("{node} 0 4096 x"), libc::EBADF),
        (format!("{node} 0 {size} r"), 0),
        ("0".to_string(), 0),
    ] {
        check_eq!(get(c, &what), want, "{what}");
    }
    let before = c.read("/sys/module/rpmem/refcnt")?;

    // It is the memory that mappings see, at the place that libnvdimm says.
    let write = format!("{node} 4096 8192 w");
    check_eq!(get(c, &write), 0, "{write}");
    check_eq!(get(c, &write), libc::EEXIST, "again");
    c.write(parameter("byte"), "90")?;
    {
        let f = File::options().read(true).write(true).open(&node)?;
        let m = Map::new(
            &f,
            4096,
            4096,
            libc::PROT_READ,
            MAP_SHARED_VALIDATE | MAP_SYNC,
        )?;
        check_eq!(m.read8(0), 90, "through a mapping");
        check_eq!(lease(&f)?, (0, 1), "state, holders");
    }
    let start = c.read_u64(format!("/sys/bus/nd/devices/{}/resource", space.nd))?;
    check_eq!(value(c, "phys")?, start + 4096, "phys");
    let holders = c.read(format!("{sysfs}/holders"))?;
    check_eq!(holders.trim(), "0 1 1 rpmem_user", "holders");
    // Polite tools do not get past it.
    check!(c.try_rmmod("rpmem").is_err(), "rmmod");
    c.until_said("cannot be mounted, disabled or held", || {
        let out = c.fails(&["ndctl", "disable-namespace", &space.nd])?;
        check!(
            out.contains("busy") || out.contains("0 namespace"),
            "ndctl: {out}"
        );
        Ok(())
    })?;
    c.dmesg_has("held by rpmem_user (pid 0)")?;
    check_eq!(get(c, "0"), 0);
    check_eq!(c.read("/sys/module/rpmem/refcnt")?, before, "references");

    // Given back in the callback, by other work, or when the user likes: it has the memory till then,
    // although the namespace has gone.
    for (n, how) in ["0", "1", "2"].into_iter().enumerate() {
        c.write(parameter("put"), how)?;
        c.write(format!("{sysfs}/lease_break_time"), "-1")?;
        check_eq!(get(c, &write), 0, "{how}: {write}");
        let f = File::open(&node)?;
        let mut breaker = unbind(c, &space)?;
        // Not of the breaker, too.
        let direct = match how {
            "0" => Some(Map::new(
                &f,
                DIRECT_WINDOW,
                4096,
                libc::PROT_READ,
                MAP_SHARED_VALIDATE | MAP_SYNC,
            )?),
            _ => None,
        };
        breaker.say();
        if how == "0" {
            // The mapping is waited for, and then nobody.
            wait_state(c, &f, LEASE_REMOVE)?;
            c.wait_for("->broken", || value(c, "broken").is_ok_and(|n| n == 1))?;
            check_eq!(lease(&f)?, (LEASE_REMOVE, 2), "state, holders");
            check_eq!(get(c, &write), libc::EBUSY, "another range");
            drop(direct);
            c.wait_gone(format!("/sys/block/{}", space.disk))?;
            check_eq!(lease(&f)?, (LEASE_BROKEN, 1), "state, holders");
            c.wait_for("the log", || {
                c.dmesg_has("held by another module: waiting for it")
                    .is_ok()
            })?;
            check_eq!(value(c, "byte")?, 90, "while it is held");
            c.write(parameter("byte"), "91")?;
            // The lock of the device is free, and the memory is not.
            let bind = c.try_write("/sys/bus/nd/drivers/rpmem/bind");
            check_eq!(errno(&bind(&space.nd)), libc::EBUSY, "bind");
            check!(c.try_rmmod("rpmem").is_err(), "rmmod");
            check_eq!(breaker.ended()?, None, "unbind, while it is held");
            check_eq!(get(c, "0"), 0);
        }
        check_eq!(breaker.wait()?, 0, "{how}: unbind");
        check_eq!(value(c, "broken")?, n as u64 + 1, "{how}: ->broken");
        check_eq!(value(c, "get")?, 0, "{how}: given back");
        drop(f);
        space.bind(c)?;
        c.wait_exists(&node)?;
    }

    // Read-only: the one who writes is told, the one who reads is not.
    let region = space.nd.trim_start_matches("namespace");
    let region = region.split('.').next().unwrap_or_default();
    let read_only = format!("/sys/bus/nd/devices/region{region}/read_only");
    c.write(parameter("put"), "1")?;
    let read = format!("{node} 0 4096 r");
    check_eq!(get(c, &read), 0, "{read}");
    c.write(&read_only, "1")?;
    check_eq!((value(c, "get")?, value(c, "broken")?), (1, 3), "a reader");
    check_eq!(get(c, "0"), 0);
    c.write(&read_only, "0")?;
    check_eq!(get(c, &write), 0, "{write}");
    c.write(parameter("put"), "0")?;
    {
        let f = File::open(&node)?;
        let breaker = Peer::start(|_| i32::from(c.write(&read_only, "1").is_err()))?;
        wait_state(c, &f, LEASE_READ_ONLY)?;
        c.wait_for("->broken", || value(c, "broken").is_ok_and(|n| n == 4))?;
        check_eq!(get(c, "0"), 0);
        check_eq!(breaker.wait()?, 0, "read_only");
    }
    check_eq!(get(c, &write), libc::EROFS, "to write what is read-only");
    c.write(&read_only, "0")?;
    check_eq!(get(c, &write), 0, "{write}");
    check_eq!(get(c, "0"), 0);
    c.rmmod("rpmem_user")
}
