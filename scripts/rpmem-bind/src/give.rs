// SPDX-License-Identifier: GPL-2.0

//! Giving a namespace to another driver.

use crate::{
    claim::{
        self,
        Claim, //
    },
    exclude::Mode,
    holder::{
        Holder,
        Look, //
    },
    namespace::Namespace,
    parse,
    sys::{
        self,
        Sys, //
    }, //
};
use clap::ValueEnum;
use std::{
    env,
    fmt,
    fs,
    io,
    path::Path,
    process::Command,
    thread,
    time::Duration, //
};

/// Who can have a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Driver {
    /// The driver that this is the tool of
    Rpmem,
    /// The kernel's own for modes raw, fsdax and sector
    NdPmem,
    /// The kernel's own for mode devdax
    DaxPmem,
    /// Nobody; only a record says so.
    #[value(skip)]
    None,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Driver::Rpmem => "rpmem",
            Driver::NdPmem => "nd_pmem",
            Driver::DaxPmem => "dax_pmem",
            Driver::None => "none",
        }
    }

    /// That of the record of a namespace.
    pub fn of_name(name: &str) -> Option<Self> {
        [Driver::Rpmem, Driver::NdPmem, Driver::DaxPmem, Driver::None]
            .into_iter()
            .find(|driver| driver.name() == name)
    }

    /// The kernel has two.
    pub fn for_mode(self, mode: Mode) -> Self {
        match (self, mode) {
            (Driver::NdPmem, Mode::Devdax) => Driver::DaxPmem,
            _ => self,
        }
    }
}

/// How to move namespaces.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// Says what would be done, and does nothing.
    pub dry: bool,
    /// What the parameter `exclude` excludes is not given to rpmem.
    pub keep_excluded: bool,
}

/// What became of it.
#[derive(Debug)]
pub enum Done {
    Moved {
        from: Option<String>,
    },
    WouldMove {
        from: Option<String>,
        steps: Vec<String>,
    },
    Unchanged,
    /// It stays where it is, as the parameter `exclude` says.
    Excluded {
        from: Option<String>,
    },
}

/// Why it was not moved.
#[derive(Debug)]
pub struct Refusal {
    pub why: String,
    pub advice: String,
    pub held: Vec<Holder>,
}

impl Refusal {
    pub fn new(why: impl Into<String>, advice: impl Into<String>) -> Self {
        Refusal {
            why: why.into(),
            advice: advice.into(),
            held: Vec::new(),
        }
    }

    fn held(held: Vec<Holder>) -> Option<Self> {
        let first = held.first()?;
        Some(Refusal {
            why: first.to_string(),
            advice: first.advice(),
            held,
        })
    }
}

const SEE_LOG: &str = "The kernel log says why: dmesg | tail";

/// How often, and how long after one another, a driver is asked to take a namespace: a device for what its
/// info block describes may come a moment later.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// Gives the namespace to that driver.
///
/// # Errors
///
/// It is in use, cannot be looked at, or the driver does not take it; then the former driver has it again.
pub fn give(sys: &Sys, name: &str, to: Driver, how: How) -> Result<Done, Refusal> {
    let find = || Namespace::read(sys, name).ok_or_else(|| no_namespace(sys, name));
    let space = find()?;
    match (space.mode, to) {
        (Mode::Devdax, Driver::NdPmem) => {
            return Err(Refusal::new(
                "it is in devdax mode",
                format!("The kernel's own driver for it: rpmem-bind {name} dax_pmem"),
            ))
        }
        (Mode::Raw | Mode::Fsdax | Mode::Sector, Driver::DaxPmem) => {
            return Err(Refusal::new(
                format!("it is in {} mode", space.mode_name()),
                format!("dax_pmem is for devdax mode; here it is: rpmem-bind {name} nd_pmem"),
            ))
        }
        _ => (),
    }
    if space.driver.as_deref().unwrap_or("none") == to.name() {
        return Ok(Done::Unchanged);
    }
    let missing = modules(sys, to);
    // Its parameter says what it leaves.
    if to == Driver::Rpmem && !how.dry {
        load(sys, to, &missing)?;
    }

    // If it was loaded just now, it has taken what was free.
    let from = space.driver;
    let space = find()?;
    if space.driver.as_deref() == Some(to.name()) {
        record(sys, name, &from, to);
        return Ok(Done::Moved { from });
    }
    let from = space.driver.clone();
    if how.keep_excluded && to == Driver::Rpmem && stays(sys, &space) {
        return Ok(Done::Excluded { from });
    }
    look(sys, &space)?;

    let list = sys::read(sys.exclude());
    let wanted = list.as_ref().map(|list| exclude_for(&space, to, list));
    if how.dry {
        let load = missing.iter().map(|module| format!("would load {module}"));
        let mut steps: Vec<_> = load.collect();
        let mut step = |text: &str, path: &Path| {
            steps.push(format!("would write {text} to {}", path.display()));
        };
        if let Some(wanted) = wanted.filter(|wanted| Some(wanted) != list.as_ref()) {
            step(&wanted, &sys.exclude());
        }
        if let Some(from) = &from {
            step(&space.device, &sys.driver(from).join("unbind"));
        }
        if to != Driver::None {
            step(&space.device, &sys.driver(to.name()).join("bind"));
        }
        return Ok(Done::WouldMove { from, steps });
    }

    if to != Driver::Rpmem {
        load(sys, to, &missing)?;
    }
    // First, or the bus asks rpmem again as soon as the namespace is free.
    write_exclude(sys, &space, to)?;
    let moved = let_go(sys, &space).and_then(|()| match to {
        Driver::None => Ok(()),
        _ => take(sys, name, to, how),
    });
    let Err(refusal) = moved else {
        record(sys, name, &from, to);
        return Ok(Done::Moved { from });
    };
    if let Some(list) = list.filter(|list| sys::read(sys.exclude()).as_ref() != Some(list)) {
        let _ = sys::write_line(&sys.exclude(), &list);
    }
    take_back(sys, name, from.as_deref());
    let now = Namespace::read(sys, name);
    match now {
        Some(now) if how.keep_excluded && to == Driver::Rpmem && stays(sys, &now) => {
            Ok(Done::Excluded { from: now.driver })
        }
        Some(now) if now.driver == from => Err(refusal),
        now => {
            let driver = now.and_then(|now| now.driver);
            let with = driver.as_deref().unwrap_or("no driver");
            let why = format!("{}; it is with {with} now", refusal.why);
            Err(Refusal { why, ..refusal })
        }
    }
}

fn no_namespace(sys: &Sys, name: &str) -> Refusal {
    let why = "there is no such namespace";
    let bare = name.strip_prefix("/dev/").unwrap_or(name);
    let all = Namespace::all(sys).unwrap_or_default();
    let meant = all.iter().find(|space| {
        space.device == bare
            || space.uuid.as_deref() == Some(bare)
            || space.nodes.iter().any(|node| node.in_dev() == bare)
    });
    match meant {
        Some(meant) => Refusal::new(why, format!("{name} belongs to {}.", meant.name)),
        None => Refusal::new(why, "See: rpmem-bind"),
    }
}

/// Who holds it, without opening anything.
fn look(sys: &Sys, space: &Namespace) -> Result<(), Refusal> {
    let look = Look::at(sys, &space.nodes);
    if let Some(refusal) = Refusal::held(look.holders) {
        return Err(refusal);
    }
    match space.unseen.clone().or(look.unseen) {
        None => Ok(()),
        Some(unseen) => Err(Refusal::new(
            format!("it may be in use: {unseen}"),
            "What cannot be looked at is not moved. Is this root, with all of /proc and /sys?",
        )),
    }
}

/// Whether the administrator has excluded it. The word of a namespace that this tool has taken from rpmem is
/// the tool's own.
fn stays(sys: &Sys, space: &Namespace) -> bool {
    let Some(list) = sys::read(sys.exclude()) else {
        return false;
    };
    let first = sys::read(sys.record(&space.name));
    match first.as_deref() == Some(Driver::Rpmem.name()) {
        true => space.is_excluded(&parse::with_word(&list, &space.name, None)),
        false => space.is_excluded(&list),
    }
}

/// The parameter `exclude` with which the namespace stays with that driver.
fn exclude_for(space: &Namespace, to: Driver, list: &str) -> String {
    let without = parse::with_word(list, &space.name, None);
    let more = match to {
        Driver::None => return list.into(),
        Driver::Rpmem => space
            .is_excluded(&without)
            .then(|| format!("!{}", space.name)),
        _ => (!space.stays_excluded(&without)).then(|| space.name.clone()),
    };
    parse::with_word(list, &space.name, more.as_deref())
}

/// Makes it so, where the module has that parameter.
fn write_exclude(sys: &Sys, space: &Namespace, to: Driver) -> Result<(), Refusal> {
    let Some(list) = sys::read(sys.exclude()) else {
        return Ok(());
    };
    let wanted = exclude_for(space, to, &list);
    if wanted == list {
        return Ok(());
    }
    sys::write_line(&sys.exclude(), &wanted).map_err(|e| {
        let path = sys.exclude();
        let why = format!("cannot write {wanted} to {}: {e}", path.display());
        Refusal::new(why, SEE_LOG)
    })
}

/// What has to be loaded for that driver.
fn modules(sys: &Sys, driver: Driver) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if driver != Driver::None && !sys.driver(driver.name()).exists() {
        missing.push(driver.name());
    }
    // Its devices come by a driver of their own.
    let dax = sys.sysfs.join("bus/dax/drivers/device_dax");
    if driver == Driver::DaxPmem && !dax.exists() {
        missing.push("device_dax");
    }
    missing
}

/// Loads modules, also what is blacklisted, which an initramfs would not.
fn load(sys: &Sys, driver: Driver, modules: &[&str]) -> Result<(), Refusal> {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let mut said = String::new();
    for module in modules {
        let run = Command::new("modprobe")
            .arg(module)
            .env("PATH", &path)
            .env_remove("MODPROBE_OPTIONS")
            .output();
        match run {
            Ok(run) => said += &String::from_utf8_lossy(&run.stderr),
            Err(e) => said += &format!("modprobe: {e}\n"),
        }
    }
    settle(sys);
    if driver == Driver::None || sys.driver(driver.name()).exists() {
        return Ok(());
    }
    let name = driver.name();
    let mut advice = format!("Load it: modprobe {name}, or insmod with the path of {name}.ko");
    for line in said.lines() {
        advice += &format!("\n{line}");
    }
    Err(Refusal::new(
        format!("the driver {name} is not loaded"),
        advice,
    ))
}

/// Unbinds the driver of the namespace, while nobody else can claim its disks.
fn let_go(sys: &Sys, space: &Namespace) -> Result<(), Refusal> {
    let Some(driver) = &space.driver else {
        return Ok(());
    };
    let mut claims = Vec::new();
    for disk in space.disks() {
        match Claim::new(sys, disk) {
            Ok(claim) => claims.push(claim),
            Err(claim::Error::Held) => {
                // Since it was looked at; or it is what cannot be seen.
                look(sys, space)?;
                return Err(Refusal::held(vec![Holder::claimed(disk)]).expect("one"));
            }
            Err(claim::Error::Other(why)) => {
                return Err(Refusal::new(
                    format!(
                        "cannot hold /dev/{} while it is moved: {why}",
                        disk.in_dev()
                    ),
                    "Without that somebody could mount it meanwhile. Nothing was moved.",
                ))
            }
        }
    }
    // Those who do not claim what they open.
    look(sys, space)?;
    let unbind = sys.driver(driver).join("unbind");
    sys::write_line(&unbind, &space.device).map_err(|e| {
        let why = format!("{driver} does not let go of {}: {e}", space.device);
        Refusal::new(why, SEE_LOG)
    })
}

/// Has the driver take a namespace that is free, or the device of the mode that it turns out to be in.
fn take(sys: &Sys, name: &str, to: Driver, how: How) -> Result<(), Refusal> {
    let mut refusal = Refusal::new(format!("{} does not take it", to.name()), SEE_LOG);
    for _ in 0..TRIES {
        let Some(space) = Namespace::read(sys, name) else {
            return Err(Refusal::new("the namespace is gone", SEE_LOG));
        };
        let driver = to.for_mode(space.mode);
        if space.driver.as_deref() == Some(driver.name()) {
            return Ok(());
        }
        if to == Driver::Rpmem {
            if how.keep_excluded && stays(sys, &space) {
                break;
            }
            write_exclude(sys, &space, to)?;
        }
        // The bus may have asked another driver first.
        match let_go(sys, &space) {
            // A namespace with an info block answers ENXIO: the device that claims it is bound in its
            // place. The outcome counts.
            Ok(()) => {
                let bind = sys.driver(driver.name()).join("bind");
                if let Err(e) = sys::write_line(&bind, &space.device) {
                    refusal.why = format!("{} does not take it: {e}", driver.name());
                }
            }
            Err(held) => refusal = held,
        }
        settle(sys);
        let now = Namespace::read(sys, name);
        if now.is_some_and(|now| now.driver.as_deref() == Some(driver.name())) {
            return Ok(());
        }
        thread::sleep(BETWEEN_TRIES);
    }
    Err(refusal)
}

/// The same with the former driver, as far as that can be done.
fn take_back(sys: &Sys, name: &str, driver: Option<&str>) {
    let (Some(driver), Some(space)) = (driver, Namespace::read(sys, name)) else {
        return;
    };
    if space.driver.is_none() {
        let _ = sys::write_line(&sys.driver(driver).join("bind"), &space.device);
        settle(sys);
    }
}

/// Waits for the probes that libnvdimm runs in the background.
fn settle(sys: &Sys) {
    for bus in sys::entries(&sys.sysfs.join("class/nd")).unwrap_or_default() {
        let _ = sys::read(bus.join("device/wait_probe"));
    }
}

/// Notes where the namespace was at first; nothing once it is there again.
fn record(sys: &Sys, name: &str, from: &Option<String>, to: Driver) {
    let file = sys.record(name);
    let note = || -> io::Result<()> {
        fs::create_dir_all(sys.records())?;
        match fs::read_to_string(&file) {
            Ok(first) if first.trim() == to.name() => fs::remove_file(&file),
            Ok(_) => Ok(()),
            Err(_) => fs::write(
                &file,
                format!("{}\n", from.as_deref().unwrap_or(Driver::None.name())),
            ),
        }
    };
    if let Err(e) = note() {
        eprintln!(
            "rpmem-bind: {}: {e}: --undo does not know of {name}",
            file.display()
        );
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
