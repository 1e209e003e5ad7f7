// SPDX-License-Identifier: GPL-2.0
//! Orders of removal: everything that a mapped page depends on, and the page itself, are taken away in
//! any order.
//!
//! A pair of steps is taken from a world in which all of it is there, then what is left; each step is
//! a process, and the model says whether it ends, is refused, or waits, and for whom. When all users
//! have gone nothing waits any more, and what was on the medium is there after the next bind.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::peer::Peer;
use crate::support::sys::Map;
use crate::support::tools::{self, Space, HUGE, PAGE};
use crate::support::{ctx, sys};
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub const TESTS: &[Test] = crate::tests! {
    removal_create => create,
    removal_ext4 => |c| orders(c, Mode::Files("ext4")),
    removal_xfs => |c| orders(c, Mode::Files("xfs")),
    removal_devdax => |c| orders(c, Mode::Devdax),
    removal_raw => |c| orders(c, Mode::Raw),
};

const MNT: &str = "/mnt/removal";
const KEPT: usize = 64 << 10;
/// Symbols that a task which waits has on its stack.
const WAITS: &[&str] = &[
    "[rpmem]",
    // The unmount of a file system that lives waits for pins by itself, and holds `s_umount`: who
    // has the disk removed waits for that.
    "dax_break_layout_final",
    "super_lock",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Files(&'static str),
    Devdax,
    Raw,
}

/// What is taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The namespace from the driver.
    Unbind,
    /// The same, by a process that is killed if it waits.
    UnbindKilled,
    /// The region from its driver: all namespaces go.
    Region,
    /// The bus, by its provider: regions and DIMMs go.
    Provider,
    /// A DIMM from its driver.
    Dimm,
    /// The driver.
    Module,
    /// The mount, at once (MNT_DETACH).
    FileSystem,
    /// A process that has a page mapped.
    Mapping,
    /// A page in a pipe; the mapping has gone, and the file is open or not.
    Pin,
    /// What another module holds.
    Range,
}

use Step::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Done,
    Refused,
    /// Until this has gone.
    Waits(Step),
}

/// What there is, as far as it matters for who waits.
struct Model {
    files: bool,
    /// The memory goes with its region.
    can_leave: bool,
    bound: bool,
    mounted: bool,
    mapped: bool,
    pinned: bool,
    /// Who has pinned the page has the file open as well.
    open: bool,
    /// Another module holds a range.
    held: bool,
    /// Somebody unmounts, and waits for the pin.
    unmounting: bool,
    /// The memory is given up, but in use.
    pending: bool,
    loaded: bool,
}

impl Model {
    fn new(mode: Mode, can_leave: bool, open: bool, held: bool) -> Model {
        let files = matches!(mode, Mode::Files(_));
        Model {
            files,
            can_leave,
            bound: true,
            mounted: files,
            mapped: true,
            pinned: mode != Mode::Raw,
            open: open && mode != Mode::Raw,
            held,
            unmounting: false,
            pending: false,
            loaded: true,
        }
    }

    /// The file system goes with the last who uses it: its idle files do, and that waits for pins. When
    /// the memory is pending, the driver has it until the pin ends.
    fn file_system_goes(&mut self) -> Answer {
        let used = self.mounted || self.mapped || self.open;
        if self.files && self.bound && self.pinned && !used {
            self.unmounting = true;
            return Answer::Waits(Pin);
        }
        Answer::Done
    }

    fn unbind(&mut self) -> Answer {
        if !self.bound {
            return Answer::Done;
        }
        self.bound = false;
        self.pending = self.pinned || self.held;
        match self.pending {
            true => Answer::Waits(self.user()),
            false => Answer::Done,
        }
    }

    /// Who uses memory that is pending.
    fn user(&self) -> Step {
        match self.pinned {
            true => Pin,
            false => Range,
        }
    }

    fn take(&mut self, step: Step) -> Answer {
        match step {
            Unbind | Region => self.unbind(),
            UnbindKilled if self.unmounting => self.unbind(),
            UnbindKilled => {
                self.unbind();
                Answer::Done
            }
            Provider => match self.unbind() {
                Answer::Done if self.can_leave && self.pending => Answer::Waits(self.user()),
                answer => answer,
            },
            Dimm => Answer::Done,
            Module => {
                let users = self.mounted || self.mapped || self.open || self.held;
                if users || self.unmounting || self.pending {
                    return Answer::Refused;
                }
                self.loaded = false;
                match self.unbind() {
                    Answer::Waits(what) => Answer::Waits(what),
                    _ => Answer::Done,
                }
            }
            FileSystem => {
                self.mounted = false;
                self.file_system_goes()
            }
            Mapping => {
                self.mapped = false;
                self.file_system_goes()
            }
            Pin => {
                self.pinned = false;
                self.open = false;
                self.pending &= self.held;
                self.unmounting = false;
                Answer::Done
            }
            Range => {
                self.held = false;
                self.pending &= self.pinned;
                Answer::Done
            }
        }
    }
}

/// The namespaces: as small as may be.
fn create(c: &mut Ctx) -> TestResult {
    if c.nd_devices("nmem").is_empty() {
        return Ok(());
    }
    c.init_labels()?;
    c.create_namespace(&["-m", "raw", "-s", "64M"])?;
    c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "384M"])?;
    c.create_namespace(&["-m", "devdax", "-M", "mem", "-s", "64M"])?;
    check_eq!(tools::spaces(c)?.len(), 3);
    Ok(())
}

fn space(c: &Ctx, mode: Mode) -> TestResult<Space> {
    for s in tools::spaces(c)? {
        let found = match mode {
            Mode::Files(_) => tools::has_pages(c, &s)?,
            Mode::Devdax => s.nd.starts_with("dax"),
            Mode::Raw => s.nd.starts_with("namespace") && !tools::has_pages(c, &s)?,
        };
        if found {
            return Ok(s);
        }
    }
    fail!("no namespace for {mode:?}")
}

/// The device of the provider of the bus, and its driver.
struct Bus {
    driver: PathBuf,
    device: String,
}

impl Bus {
    fn find(c: &Ctx) -> TestResult<Bus> {
        let mut dir = fs::canonicalize(c.nd("ndbus0"))?;
        while dir.pop() {
            if let Ok(driver) = fs::canonicalize(dir.join("driver")) {
                let device = dir.file_name().unwrap_or_default().to_string_lossy();
                return Ok(Bus {
                    driver,
                    device: device.into_owned(),
                });
            }
        }
        fail!("ndbus0 has no provider")
    }

    fn is_bound(&self) -> bool {
        self.driver.join(&self.device).exists()
    }
}

/// All that there is to take away.
struct World<'a> {
    c: &'a Ctx,
    bus: &'a Bus,
    space: Space,
    region: String,
    model: Model,
    mapping: Option<Peer>,
    pin: Option<Peer>,
    waiting: Vec<(Step, Step, Peer)>,
}

/// Opens what is to be mapped.
fn open(mode: Mode, s: &Space, name: &str) -> TestResult<File> {
    match mode {
        Mode::Files(_) => tools::file_of(&format!("{MNT}/{name}"), HUGE),
        _ => tools::open_rw(format!("/dev/r{}", s.disk)),
    }
}

fn map(f: &File) -> io::Result<Map> {
    Map::new(
        f,
        0,
        HUGE,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED,
    )
}

impl<'a> World<'a> {
    fn new(c: &'a Ctx, bus: &'a Bus, mode: Mode, model: Model) -> TestResult<World<'a>> {
        let space = space(c, mode)?;
        let region = fs::canonicalize(c.nd(&space.nd))?;
        let region = region.parent().and_then(Path::file_name);
        let region = region.unwrap_or_default().to_string_lossy().into_owned();
        if let Mode::Files(_) = mode {
            c.mount(&space.dev(), MNT, "dax")?;
            let kept = fs::read(format!("{MNT}/kept"))?;
            check_eq!(
                sys::pattern_differs(31, &kept),
                None,
                "the file that was kept"
            );
        } else {
            c.wait_exists(format!("/dev/r{}", space.disk))?;
            let f = open(mode, &space, "")?;
            let m = map(&f)?;
            let kept = &m.slice()[HUGE - KEPT..];
            check_eq!(
                sys::pattern_differs(31, kept),
                None,
                "the bytes that were kept"
            );
        }
        let holder = |name: &str, pins: bool| -> TestResult<Peer> {
            let peer = Peer::start(|l| {
                let pinned = || -> TestResult<(File, Map)> {
                    let f = open(mode, &space, name)?;
                    let m = map(&f)?;
                    m.write8(PAGE, 1);
                    if pins {
                        tools::pin_in_pipe(&m)?;
                    }
                    Ok((f, m))
                };
                match pinned() {
                    Ok(held) if !pins => {
                        l.say();
                        l.hear();
                        drop(held);
                        0
                    }
                    // The page, and what the file system or the node is held by.
                    Ok((f, m)) => {
                        drop(m);
                        let f = model.open.then_some(f);
                        l.say();
                        l.hear();
                        drop(f);
                        0
                    }
                    Err(e) => {
                        println!("{name}: {e:?}");
                        1
                    }
                }
            })?;
            peer.hear()?;
            Ok(peer)
        };
        let mapping = Some(holder("mapped", false)?);
        let pin = match model.pinned {
            true => Some(holder("pinned", true)?),
            false => None,
        };
        if model.held {
            let get = format!("/dev/r{} 0 4096 w", space.disk);
            c.write("/sys/module/rpmem_user/parameters/get", &get)?;
        }
        Ok(World {
            c,
            bus,
            space,
            region,
            model,
            mapping,
            pin,
            waiting: Vec::new(),
        })
    }

    /// Whether there is anything to do.
    fn has(&self, step: Step) -> bool {
        match step {
            Unbind | UnbindKilled => self.model.bound,
            Region => self.c.bound_to(&self.region).is_some(),
            Provider => self.bus.is_bound(),
            // The first to go with the bus.
            Dimm => self.c.bound_to("nmem0").is_some(),
            Module => self.model.loaded,
            FileSystem => self.model.mounted,
            Mapping => self.model.mapped,
            Pin => self.model.pinned,
            Range => self.model.held,
        }
    }

    fn start(&mut self, step: Step) -> TestResult<Peer> {
        let c = self.c;
        let write = |path: PathBuf, text: &str| -> TestResult<Peer> {
            Peer::start(|_| i32::from(fs::write(&path, text).is_err()))
        };
        let drivers = Path::new("/sys/bus/nd/drivers");
        match step {
            Unbind | UnbindKilled => write(drivers.join("rpmem/unbind"), &self.space.nd),
            Region => write(drivers.join("nd_region/unbind"), &self.region),
            Provider => write(self.bus.driver.join("unbind"), &self.bus.device),
            Dimm => write(drivers.join("nvdimm/unbind"), "nmem0"),
            Module => Peer::start(|_| i32::from(c.try_rmmod("rpmem").is_err())),
            FileSystem => Peer::start(|_| {
                // SAFETY: a string.
                let r = unsafe { libc::umount2(c"/mnt/removal".as_ptr(), libc::MNT_DETACH) };
                i32::from(r != 0)
            }),
            Range => write("/sys/module/rpmem_user/parameters/get".into(), "0"),
            Mapping | Pin => {
                let peer = match step {
                    Pin => self.pin.take(),
                    _ => self.mapping.take(),
                };
                let Some(peer) = peer else {
                    fail!("{step:?} twice");
                };
                peer.say();
                Ok(peer)
            }
        }
    }

    /// Takes a step; checks what the model says of it.
    fn take(&mut self, step: Step) -> TestResult {
        if !self.has(step) {
            return Ok(());
        }
        // Those who wait do so until now.
        for (who, what, peer) in &mut self.waiting {
            check_eq!(peer.ended()?, None, "{who:?}, which waits for {what:?}");
        }
        if step == Range {
            // The memory is there for as long as it is held, whatever has gone.
            let byte = "/sys/module/rpmem_user/parameters/byte";
            self.c.write(byte, "90")?;
            check_eq!(self.c.read_u64(byte)?, 90, "what is held");
        }
        let was_bound = self.model.bound;
        let answer = self.model.take(step);
        println!("  {step:?}: {answer:?}");
        let peer = self.start(step)?;
        if step == UnbindKilled && (self.model.pinned || self.model.held) {
            wait_for_wait(self.c, &peer)?;
            // SAFETY: no pointers; a child of this process.
            unsafe { libc::kill(peer.pid(), libc::SIGKILL) };
            if answer == Answer::Done {
                check_eq!(peer.wait()?, 128 + libc::SIGKILL, "{step:?}");
                return Ok(());
            }
        }
        match answer {
            Answer::Waits(what) => {
                wait_for_wait(self.c, &peer)?;
                self.waiting.push((step, what, peer));
            }
            Answer::Done => check_eq!(peer.wait()?, 0, "{step:?}"),
            Answer::Refused => check_eq!(peer.wait()?, 1, "{step:?} is refused"),
        }
        // Who unmounts is waited for before the disk goes.
        if was_bound && !self.model.bound && !self.model.unmounting {
            self.c
                .wait_gone(format!("/sys/block/{}", self.space.disk))?;
        }
        // Nobody waits for what has gone, but for the other user of the memory if there is one.
        let (mut ended, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(_, what, _)| *what == step);
        self.waiting = left;
        if self.model.pending {
            for (who, _, peer) in ended.drain(..) {
                self.waiting.push((who, self.model.user(), peer));
            }
        }
        for (who, what, peer) in ended {
            let status = peer.wait()?;
            let killed = who == UnbindKilled && status == 128 + libc::SIGKILL;
            check!(status == 0 || killed, "{who:?} after {what:?}: {status}");
        }
        Ok(())
    }
}

impl Drop for World<'_> {
    /// A step that has failed leaves nobody who waits, and whom no signal reaches.
    fn drop(&mut self) {
        if self.model.held {
            let _ = fs::write("/sys/module/rpmem_user/parameters/get", "0");
        }
    }
}

/// Until the process sleeps where somebody else has to act.
fn wait_for_wait(c: &Ctx, peer: &Peer) -> TestResult {
    let file = |name: &str| {
        c.read(format!("/proc/{}/{name}", peer.pid()))
            .unwrap_or_default()
    };
    let mut ended = false;
    c.wait_for("the wait", || {
        ended = file("status").contains("Z (zombie)");
        let stack = file("stack");
        ended || WAITS.iter().any(|symbol| stack.contains(symbol))
    })?;
    check!(!ended, "it has not waited");
    Ok(())
}

/// Everything back to where it was: provider, DIMM, region, driver, namespace.
fn restore(c: &Ctx, bus: &Bus) -> TestResult {
    if !bus.is_bound() {
        c.write(bus.driver.join("bind"), &bus.device)?;
    }
    if !c.module_loaded("rpmem") {
        c.insmod_rpmem(&c.params)?;
    }
    c.settle();
    for (kind, driver) in [("nmem", "nvdimm"), ("region", "nd_region")] {
        for nd in c.nd_devices(kind) {
            if c.bound_to(&nd).is_none() {
                c.bind(driver, &nd)?;
            }
        }
        c.settle();
    }
    // Who is in use for a moment longer refuses. Binding a namespace can give it a holder instead.
    for (attribute, devices) in [
        (
            "namespace",
            [c.nd_devices("pfn"), c.nd_devices("dax")].concat(),
        ),
        ("size", c.namespaces()),
    ] {
        for nd in devices {
            // Seeds have none.
            let is = c.read(c.nd(&nd).join(attribute)).unwrap_or_default();
            if is.is_empty() || is == "0" {
                continue;
            }
            let bind = c.try_write("/sys/bus/nd/drivers/rpmem/bind");
            let claimed = || {
                !c.read(c.nd(&nd).join("holder"))
                    .unwrap_or_default()
                    .is_empty()
            };
            c.wait_for("the bind", || {
                c.bound_to(&nd).is_some() || claimed() || bind(&nd).is_ok()
            })?;
        }
        c.settle();
    }
    c.settle();
    Ok(())
}

/// Puts on the medium what is to be there afterwards.
fn fill(c: &Ctx, mode: Mode) -> TestResult {
    let s = space(c, mode)?;
    match mode {
        Mode::Files(fs) => {
            tools::mkfs_dax(c, fs, &s.dev())?;
            c.mount(&s.dev(), MNT, "dax")?;
            let mut kept = vec![0; KEPT];
            sys::pattern(31, &mut kept);
            fs::write(format!("{MNT}/kept"), &kept)?;
            for name in ["mapped", "pinned"] {
                // What is written is allocated.
                fs::write(format!("{MNT}/{name}"), vec![0; HUGE])?;
            }
            c.umount(MNT)?;
        }
        _ => {
            let f = open(mode, &s, "")?;
            let mut m = map(&f)?;
            sys::pattern(31, &mut m.slice_mut()[HUGE - KEPT..]);
            m.msync()?;
        }
    }
    Ok(())
}

/// Each pair of steps, in both orders.
fn orders(c: &mut Ctx, mode: Mode) -> TestResult {
    let mut steps = vec![Unbind, UnbindKilled, Region, Provider, Module, Mapping];
    steps.extend(match mode {
        Mode::Files(_) => &[FileSystem, Pin][..],
        Mode::Devdax => &[Pin, Range],
        Mode::Raw => &[Range],
    });
    if !c.nd_devices("nmem").is_empty() {
        steps.push(Dimm);
    }
    let bus = Bus::find(c)?;
    // No firmware has described the memory of these.
    let can_leave = ["virtio_pmem", "nfit_test"]
        .iter()
        .any(|driver| bus.driver.ends_with(driver));
    let ranges = !matches!(mode, Mode::Files(_));
    if ranges {
        ctx::insmod(Path::new("/rpmem_user.ko"), "")?;
        c.write("/sys/module/rpmem_user/parameters/put", "0")?;
    }
    fill(c, mode)?;
    let mut pairs: Vec<(Step, Step)> = Vec::new();
    for first in &steps {
        for second in steps.iter().filter(|second| *second != first) {
            pairs.push((*first, *second));
        }
    }
    // A slice: who removes what is pinned, and who lets go of it.
    let removes = |step| [UnbindKilled, Region, Provider].contains(&step);
    let all = pairs.len();
    if c.rounds(0, 1) == 0 {
        pairs.retain(|(first, second)| {
            let user = |step| [Pin, Range, FileSystem].contains(&step);
            removes(*first) && user(*second)
                || user(*first) && removes(*second)
                || *first == UnbindKilled && *second == Provider
        });
    }
    for (n, (first, second)) in pairs.iter().enumerate() {
        // In the long form with the file open and closed.
        let open = n % 2 == 0;
        for open in if c.rounds(0, 1) == 0 {
            vec![open]
        } else {
            vec![open, !open]
        } {
            println!("{first:?}, {second:?}, file open: {open}");
            // Where both are, the range hides the pin.
            let held = mode == Mode::Raw || *first == Range || *second == Range;
            let model = Model::new(mode, can_leave, open, held);
            let mut world = World::new(c, &bus, mode, model)?;
            for step in [*first, *second] {
                world.take(step)?;
            }
            // The bus comes back while its memory is in use: what the machine says of that memory
            // (`described`) is not the old claim's to say.
            if !can_leave && *first == UnbindKilled && *second == Provider {
                c.write(bus.driver.join("bind"), &bus.device)?;
            }
            // Users, then the rest: the last to go is not always the pin.
            for step in [Range, FileSystem, Mapping, Unbind, Pin] {
                world.take(step)?;
            }
            check!(
                world.waiting.is_empty(),
                "{} still wait",
                world.waiting.len()
            );
            restore(c, &bus)?;
            if !can_leave {
                let described = c.read("/proc/iomem")?.contains("Persistent Memory");
                check!(described, "firmware's memory is not in /proc/iomem");
            }
            // Its memory goes when it does.
            if bus.driver.ends_with("nfit_test") && [*first, *second].contains(&Provider) {
                fill(c, mode)?;
            }
        }
    }
    println!("{} of {all} pairs", pairs.len());
    if ranges {
        c.rmmod("rpmem_user")?;
    }
    Ok(())
}
