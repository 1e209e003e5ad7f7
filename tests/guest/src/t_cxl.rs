// SPDX-License-Identifier: GPL-2.0
//! CXL persistent memory: namespaces of each mode in a region of `cxl create-region`, and what their
//! users see when the region or the memory goes. Where nd_pmem is the driver, nothing is mapped meanwhile:
//! it oopses.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf, MIB};
use crate::support::namespace::{bind_raw, fresh, unbind_raw};
use crate::support::node::check_gone;
use crate::support::peer::Peer;
use crate::support::sys::{self, Map, RW, SYNC};
use crate::support::tools::{self, names, Space, PAGE};
use crate::{check, check_eq, fail};
use std::fs::File;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    cxl_region => region,
    cxl_modes => modes,
    cxl_pages => pages,
    cxl_pinned => pinned,
    cxl_region_disabled => |c| gone(c, &DISABLED),
    cxl_region_destroyed => |c| gone(c, &DESTROYED),
    cxl_memdev_removed => |c| gone(c, &REMOVED),
    cxl_unplugged => |c| gone(c, &UNPLUGGED),
    cxl_cut => cut,
    cxl_after_cut => after_cut,
};

const CXL: &str = "/sys/bus/cxl/devices";

/// The device on the CXL bus whose name is that and a number: there is one.
fn only(kind: &str) -> TestResult<String> {
    let is = |n: &String| {
        let number = n.strip_prefix(kind);
        number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    };
    let all: Vec<String> = names(CXL).into_iter().filter(is).collect();
    match all.as_slice() {
        [one] => Ok(one.clone()),
        other => fail!("one {kind} expected, there are {other:?}"),
    }
}

/// All of the memory device, as an administrator makes it.
fn create_region(c: &Ctx) -> TestResult {
    let mem = only("mem")?;
    c.sh(&format!(
        "cxl create-region -t pmem -m {mem} -d decoder0.0 -w 1"
    ))?;
    c.wait_for("its region of libnvdimm", || c.regions().len() == 1)?;
    c.settle();
    Ok(())
}

/// A region without namespaces.
fn region(c: &mut Ctx) -> TestResult {
    if c.regions().is_empty() {
        create_region(c)?;
    }
    fresh(c)
}

/// A namespace, and who uses it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    /// A file.
    File,
    /// A mapping of the node.
    Node,
    /// An open disk.
    Disk,
}

struct Kind {
    options: &'static [&'static str],
    user: User,
}

/// Those with struct pages on the medium come first: x86 has them there for whole sections alone, which are
/// of 128 MiB (`vmemmap_populate()`).
const KINDS: &[Kind] = &[
    Kind {
        options: &["-m", "fsdax", "-M", "dev", "-s", "128M"],
        user: User::File,
    },
    Kind {
        options: &["-m", "devdax", "-M", "dev", "-s", "128M"],
        user: User::Node,
    },
    Kind {
        options: &["-m", "fsdax", "-M", "mem", "-s", "64M"],
        user: User::File,
    },
    Kind {
        options: &["-m", "devdax", "-M", "mem", "-s", "64M"],
        user: User::Node,
    },
    Kind {
        options: &["-m", "raw", "-s", "64M"],
        user: User::Node,
    },
    Kind {
        options: &["-m", "sector", "-s", "64M"],
        user: User::Disk,
    },
];

/// Those of which the driver has a disk: nd_pmem leaves devdax mode to device-dax.
fn kinds(c: &Ctx) -> Vec<&'static Kind> {
    let has = |k: &&Kind| c.driver == "rpmem" || !k.options.contains(&"devdax");
    KINDS.iter().filter(has).collect()
}

type World = Vec<(&'static Kind, Space)>;

/// What each namespace has in its first pages, or in a file.
const KEPT: usize = 16 * PAGE;

/// A namespace of each kind, with contents: those there are, or new ones.
fn world(c: &mut Ctx) -> TestResult<World> {
    if c.disks().len() == kinds(c).len() {
        return found(c);
    }
    region(c)?;
    for kind in kinds(c) {
        c.create_namespace(kind.options)?;
    }
    let world = found(c)?;
    for (n, (kind, space)) in world.iter().enumerate() {
        let mut bytes = vec![0; KEPT];
        sys::pattern(n as u64, &mut bytes);
        if kind.user == User::File {
            c.mkfs_ext4(&space.dev(), None)?;
            let at = mount(c, space)?;
            let f = tools::file_of(&format!("{at}/kept"), KEPT)?;
            f.write_all_at(&bytes, 0)?;
            f.sync_all()?;
            drop(f);
            c.umount(&at)?;
        } else {
            let f = tools::open_rw(space.dev())?;
            f.write_all_at(&bytes, 0)?;
            f.sync_all()?;
        }
    }
    Ok(world)
}

/// The namespaces of `world`, which libnvdimm numbers as they were made.
fn found(c: &Ctx) -> TestResult<World> {
    let kinds = kinds(c);
    c.wait_for("the disks", || c.disks().len() == kinds.len())?;
    let mut spaces = Vec::new();
    for space in tools::spaces(c)? {
        let driver = c.bound_to(&space.nd);
        check_eq!(driver.as_deref(), Some(c.driver_name()), "{space:?}");
        spaces.push((space.namespace(c)?, space));
    }
    spaces.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(kinds
        .into_iter()
        .zip(spaces.into_iter().map(|(_, space)| space))
        .collect())
}

fn mount(c: &Ctx, space: &Space) -> TestResult<String> {
    let at = format!("/mnt/{}", space.disk);
    c.mount(&space.dev(), &at, "dax=always")?;
    Ok(at)
}

fn node(space: &Space) -> TestResult<File> {
    tools::open_rw(format!("/dev/r{}", space.disk))
}

/// What `world` has put there is still there.
fn check_kept(c: &Ctx, world: &World) -> TestResult {
    for (n, (kind, space)) in world.iter().enumerate() {
        let mut bytes = vec![0; KEPT];
        if kind.user == User::File {
            let at = mount(c, space)?;
            File::open(format!("{at}/kept"))?.read_exact_at(&mut bytes, 0)?;
            c.umount(&at)?;
            c.ok(&["e2fsck", "-f", "-n", &space.dev()])?;
        } else {
            File::open(space.dev())?.read_exact_at(&mut bytes, 0)?;
        }
        let differs = sys::pattern_differs(n as u64, &bytes);
        check_eq!(differs, None, "{:?}", kind.options);
    }
    Ok(())
}

/// What is stored in the second page of a file or a node, in a synchronous mapping, is what the file or
/// the disk has.
fn check_stored(mapped: &File, disk: &File) -> TestResult {
    let m = Map::sync(mapped, 0, 2 * PAGE)?;
    let was = m.read8(PAGE);
    m.write8(PAGE, !was);
    m.persist(PAGE, 1);
    let mut page = Buf::page(PAGE);
    disk.read_exact_at(page.bytes_mut(), PAGE as u64)?;
    check_eq!(page.bytes()[0], !was);
    m.write8(PAGE, was);
    m.persist(PAGE, 1);
    Ok(())
}

/// Each mode does what it does elsewhere.
fn modes(c: &mut Ctx) -> TestResult {
    let world = world(c)?;
    for (kind, space) in &world {
        println!("{:?}: {space:?}", kind.options);
        let pageless = ["raw", "sector"].contains(&kind.options[1]);
        let dax = !pageless && kind.user == User::File;
        check_eq!(
            c.disk_attr(&space.disk, "queue/dax")?,
            u8::from(dax).to_string()
        );
        if kind.user == User::File {
            let at = mount(c, space)?;
            let f = tools::file_of(&format!("{at}/stored"), 2 * PAGE)?;
            check!(tools::is_dax(&f)?, "no DAX");
            check_stored(&f, &f)?;
            drop(f);
            c.umount(&at)?;
        }
        if c.driver != "rpmem" || kind.user == User::Disk {
            continue;
        }
        let attribute = |name| c.read_u64(format!("/sys/class/rpmem/r{}/{name}", space.disk));
        check_eq!(attribute("synchronous")?, 1);
        check_eq!(attribute("page_backed")?, u64::from(!pageless));
        check_stored(&node(space)?, &disk::direct(&space.dev())?)?;
    }
    check_kept(c, &world)
}

/// Where the info block of a namespace ends, and its data begins.
fn page_map(c: &Ctx, space: &Space) -> TestResult<(u64, u64)> {
    let start = |device: &str| c.read_u64(c.nd(device).join("resource"));
    let data = start(&space.nd)? - start(&space.namespace(c)?)?;
    check!(data >= 2 * MIB, "data from {data:#x} on");
    Ok((2 * PAGE as u64, data))
}

/// Binds a namespace, to see what claims it bound in its place: then the answer is ENXIO.
fn claimed(c: &Ctx, namespace: &str) {
    let _ = c.try_write("/sys/bus/nd/drivers/rpmem/bind")(namespace);
    c.settle();
}

/// Where an info block has the struct pages on the medium, nd_pmem writes there, and this driver does not:
/// they are in system memory. The data is the same.
fn pages(c: &mut Ctx) -> TestResult {
    let world = world(c)?;
    c.modprobe("nd_pmem")?;
    let (_, space) = &world[0];
    let namespace = space.namespace(c)?;
    let (from, to) = page_map(c, space)?;
    // All of that as one repeating pattern, on the raw namespace; how much of it has been written since.
    let raw = |c: &Ctx, act: &dyn Fn(&File) -> TestResult| -> TestResult {
        bind_raw(c, &namespace)?;
        act(&disk::direct(&format!("/dev/{}", c.disk_of(&namespace)?))?)?;
        unbind_raw(c, &namespace)
    };
    raw(c, &|f| disk::fill(f, 9, from, to - from))?;
    for (driver, written) in [("rpmem", false), ("nd_pmem", true)] {
        c.mark_dmesg();
        claimed(c, &namespace);
        if driver != "rpmem" {
            c.unbind("rpmem", &space.nd)?;
            c.bind(driver, &space.nd)?;
        }
        check_eq!(c.bound_to(&space.nd).as_deref(), Some(driver));
        if !written {
            c.dmesg_has("its struct pages are in system memory, not on the medium, 2 MiB")?;
        }
        let at = mount(c, space)?;
        let f = tools::open_rw(format!("{at}/kept"))?;
        let m = Map::sync(&f, 0, KEPT)?;
        let differs = sys::pattern_differs(0, m.slice());
        check_eq!(differs, None, "{driver}");
        drop((m, f));
        c.umount(&at)?;
        raw(c, &|f| {
            let is_intact = disk::verify(f, 9, from, to - from).is_ok();
            check_eq!(
                is_intact,
                !written,
                "{driver}: what is in front of the data"
            );
            Ok(())
        })?;
    }
    claimed(c, &namespace);
    check_kept(c, &world)
}

/// While a page is pinned the region stays: who destroys it waits.
fn pinned(c: &mut Ctx) -> TestResult {
    let world = world(c)?;
    let devdax = world
        .iter()
        .find(|(kind, _)| kind.options.starts_with(&["-m", "devdax", "-M", "mem"]));
    let (_, space) = devdax.ok_or("no devdax namespace")?;
    let m = Map::sync(&node(space)?, 0, KEPT)?;
    let was = m.slice()[PAGE..2 * PAGE].to_vec();
    let [reader, writer] = tools::pin_in_pipe(&m)?;
    let region = only("region")?;
    let mut going = Peer::start(|_| {
        let r = c.ok(&["cxl", "destroy-region", "-f", &region]);
        i32::from(r.is_err())
    })?;
    let mut ended = None;
    c.wait_for("the region to wait", || {
        ended = going.ended().ok().flatten();
        ended.is_some() || c.dmesg_has("its memory would go: waiting for").is_ok()
    })?;
    check_eq!(ended, None, "it has not waited");
    check_gone(&m, 0)?;
    let mut now = vec![0; PAGE];
    // SAFETY: a pipe of ours, into memory of ours, and its ends.
    let n = unsafe {
        let n = libc::read(reader, now.as_mut_ptr().cast(), PAGE);
        libc::close(reader);
        libc::close(writer);
        n
    };
    check_eq!(n, PAGE as isize);
    check!(now == was, "what was pinned has changed");
    check_eq!(going.wait()?, 0, "cxl destroy-region");
    drop(m);
    create_region(c)?;
    check_kept(c, &found(c)?)
}

/// How the memory goes, and how it comes back.
struct Way {
    go: fn(&Ctx) -> TestResult,
    come: fn(&Ctx) -> TestResult,
}

const DISABLED: Way = Way {
    go: |c| {
        c.sh(&format!("cxl disable-region {}", only("region")?))
            .map(drop)
    },
    come: |c| {
        c.sh(&format!("cxl enable-region {}", only("region")?))
            .map(drop)
    },
};

const DESTROYED: Way = Way {
    go: |c| {
        let region = only("region")?;
        c.fails(&["cxl", "destroy-region", &region])?;
        c.ok(&["cxl", "destroy-region", "-f", &region]).map(drop)
    },
    come: create_region,
};

/// What is left of a region whose memory has gone.
fn delete_region(c: &Ctx) -> TestResult {
    c.write(format!("{CXL}/decoder0.0/delete_region"), &only("region")?)
}

const REMOVED: Way = Way {
    go: |c| c.write("/sys/bus/cxl/drivers/cxl_mem/unbind", &only("mem")?),
    come: |c| {
        delete_region(c)?;
        c.write("/sys/bus/cxl/drivers/cxl_mem/bind", &only("mem")?)?;
        create_region(c)
    },
};

const UNPLUGGED: Way = Way {
    go: |c| {
        c.ask_monitor("unplug")?;
        // Not for an event of QEMU: it does not tell that a device of CXL is deleted.
        c.wait_for("an empty slot", || {
            c.read("/sys/bus/pci/slots/2/adapter")
                .is_ok_and(|on| on == "0")
        })
    },
    come: |c| {
        delete_region(c)?;
        c.ask_monitor("plug")?;
        c.wait_for("the memory device", || only("mem").is_ok())?;
        create_region(c)
    },
};

/// The memory goes while each mode is mapped: SIGBUS for who maps it, no more than an error for who
/// has its disk open, and all is there when it comes back.
fn gone(c: &mut Ctx, way: &Way) -> TestResult {
    let world = world(c)?;
    let (mut maps, mut mounts, mut disks) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, space) in &world {
        let mut file = None;
        if kind.user == User::File {
            let at = mount(c, space)?;
            let f = tools::file_of(&format!("{at}/mapped"), KEPT)?;
            f.write_all_at(&[7; KEPT], 0)?;
            file = Some(f);
            mounts.push(at);
        } else if kind.user == User::Node && c.driver == "rpmem" {
            file = Some(node(space)?);
        } else {
            disks.push(File::open(space.dev())?);
        }
        if let (Some(f), "rpmem") = (file, c.driver_name()) {
            let m = Map::new(&f, 0, KEPT, RW, SYNC)?;
            // The second half is not touched.
            m.write8(0, m.read8(0));
            maps.push((space.clone(), m));
        }
    }
    (way.go)(c)?;
    c.wait_for("the disks to go", || c.disks().is_empty())?;
    for (space, m) in &maps {
        println!("{space:?}");
        check_gone(m, 0)?;
        check_gone(m, KEPT / 2)?;
    }
    for disk in &disks {
        let read = disk.read_exact_at(&mut [0; PAGE], 0);
        check!(read.is_err(), "a disk that is gone is read");
    }
    drop((maps, disks));
    for at in &mounts {
        c.umount(at)?;
    }
    (way.come)(c)?;
    check_kept(c, &found(c)?)
}

fn cut(c: &mut Ctx) -> TestResult {
    world(c)?;
    c.power_cut()
}

/// The region does not come back by itself; made anew, it has the namespaces.
fn after_cut(c: &mut Ctx) -> TestResult {
    check!(c.regions().is_empty(), "{:?}", c.regions());
    create_region(c)?;
    check_kept(c, &found(c)?)
}
