// SPDX-License-Identifier: GPL-2.0
//! Fixtures (machines) and scenarios (what runs on them), read from JSON.
//!
//! A fixture, `qemu/fixtures/NAME.json`:
//!
//! ```json
//! { "summary": "...", "memory": "1G", "cpus": 2, "cmdline": "for the kernel",
//!   "nvdimms": [{ "size": "1G", "label_size": "256K", "uuid": "...", "readonly": false,
//!                 "unarmed": false, "align": "2M", "node": 0 }],
//!   "persistence": "mem-ctrl", "files": [{ "name": "x.img", "size": "1G", "volatile": false,
//!                                           "hex": "first bytes" }],
//!   "extra": ["-object", "...{dir}/x.img..."], "icount": 0, "nfit_test": false, "ndctl": false,
//!   "monitor": { "name for `Ctx::ask_monitor()`": [{ "wait": "an event of QMP, or nothing" },
//!                                                  { "execute": "a command of QMP" }] } }
//! ```
//!
//! A scenario, `tests/scenarios/NAME.json`; its boots share the backing files of the NVDIMMs:
//!
//! ```json
//! { "summary": "...", "fixture": "nfit-raw", "driver": "rpmem", "params": ["a=1"],
//!   "kernels": ["stock", "debug", "kcsan"], "short": ["stock"], "stress": ["stock"],
//!   "needs": ["DEV_DAX"],
//!   "boots": [{ "tests": ["name", { "name": "x", "timeout": 30, "long_timeout": 300,
//!                           "allow_skip": true, "needs": ["TRANSPARENT_HUGEPAGE"] }],
//!               "end": "exit", "driver": "none", "params": [], "cmdline": "",
//!               "chained": false, "system": "dracut", "host": "installed", "repeat": 1, "long_repeat": 10, "expect_console": ["text"], "allow_splat": ["text"], "allow_trace": ["text"], "allow_core_races": false,
//!               "five_levels": false, "durable": false, "resume": "bound",
//!               "before": [{ "action": "patch", "nvdimm": 0, "offset": "4K", "hex": "00ff" },
//!                          { "action": "seal-info-block", "nvdimm": 0, "offset": "4K" },
//!                          { "action": "snapshot", "name": "s", "offset": 0, "length": "1M" }],
//!               "after": [{ "action": "assert-unchanged", "name": "s" }] }] }
//! ```
//!
//! Only `fixture`, `boots` and `tests` are required. `kernels` are those that the scenario can run
//! on (all by default), `short` those on which it is part of `make test` (stock by default), `stress`
//! those on which it is part of `make stress`: stock by default, or all of `kernels` if it cannot run
//! on that. `needs` are options of the kernel that not every kernel has, or the first series
//! that will do (LINUX_7_3); where one is off, the scenario or the test is not run, and the run says so.
//! `driver` is rpmem (the default), nd_pmem or
//! none; `end` is exit or power-cut; `chained` says that the tests of a boot need those before
//! them; `system` that it starts with an initramfs of scripts/hosts/system, made by dracut or initramfs-tools
//! on the Debian host `host` (a file of qemu/system/hosts), and finds what the boot before
//! put on its `/`; `repeat` how often it is done. In `extra`, `{system}` is the folder of
//! scripts/hosts/system, `{kernel}` its vmlinuz and `{initrd}` its initramfs, `{languages}` the image of scripts/stages/languages. With `resume` a boot goes on with
//! the system that has hibernated on the first disk, if there is one: before the driver is loaded (`bare`)
//! or when it has its namespaces (`bound`). Timeouts are seconds on hardware, see `TCG_FACTOR`, of the time that the machine had:
//! clock.rs. Host actions act on the medium
//! before and after the boot. A boot with `allow_splat` does not panic at a warning. After a line of
//! `allow_trace` a stack may be shown by the function that is its last word, and nothing else: file
//! systems do so. With `allow_core_races` KCSAN may report races in which no function of any module is on
//! either stack; the run shows which. A boot with `five_levels` starts the packed kernel, whose own loader
//! turns on five levels of page tables; that takes longer. In a boot with `durable` each cache line is
//! followed, and what tests claim to be durable has to be: durable.rs.
//!
//! Unknown keys are errors: a misspelt `allow_splat` must not go unnoticed.

use crate::verdict::{End, Expected};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Emulation is slower than the hardware that timeouts are written for by about this much.
pub const TCG_FACTOR: u64 = 4;
/// Seconds, on hardware, for a test that names no timeout of its own.
pub const TEST_TIMEOUT: u64 = 15;
/// Seconds, on hardware, for each thing that init does between tests: to set the driver up, to clean up
/// after a test, to look for leaks.
pub const BOOT_TIMEOUT: u64 = 30;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nvdimm {
    /// What the guest has for data; the label area comes on top.
    pub size: u64,
    pub label_size: u64,
    pub uuid: Option<String>,
    pub readonly: bool,
    pub unarmed: bool,
    pub align: Option<u64>,
    pub node: Option<u64>,
}

impl Nvdimm {
    pub fn align(&self) -> u64 {
        self.align.unwrap_or(2 << 20)
    }

    /// Size of the backing file. QEMU takes the label area from its end and rounds what is left
    /// down to the alignment.
    pub fn backing(&self) -> u64 {
        self.size + self.label_size.next_multiple_of(self.align())
    }
}

#[derive(Clone, Debug, Default)]
pub struct Fixture {
    pub name: String,
    pub summary: String,
    pub memory: u64,
    pub cpus: u64,
    pub cmdline: String,
    pub nvdimms: Vec<Nvdimm>,
    /// Persistence domain that the firmware tells: "cpu", "mem-ctrl", or nothing.
    pub persistence: Option<String>,
    /// Sparse files in the run directory for devices in `extra`, where `{dir}` names it.
    pub files: Vec<(String, u64)>,
    /// What they begin with; the rest is zeroes.
    pub contents: Vec<(String, Vec<u8>)>,
    /// Those of them that a power cut takes back to their last flush.
    pub volatile: Vec<String>,
    pub extra: Vec<String>,
    /// Commands for QEMU's monitor, by the names that tests have for them.
    pub monitor: BTreeMap<String, Vec<Value>>,
    /// Run under `-icount shift=N`: guest time counts instructions.
    pub icount: Option<u64>,
    /// The NVDIMMs are those of the kernel's nfit_test, whose errors can be injected.
    pub nfit_test: bool,
    /// What was built from ndctl's source is there; with `nfit_test`, its own tests load that.
    pub ndctl: bool,
}

#[derive(Clone, Debug)]
pub struct TestRef {
    pub name: String,
    /// Seconds on hardware.
    pub timeout: u64,
    /// The same for the long form.
    pub long_timeout: Option<u64>,
    pub allow_skip: bool,
    /// As those of the scenario.
    pub needs: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum HostAction {
    Patch {
        file: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// Recompute the checksum of a pfn or dax info block after a patch.
    SealInfoBlock {
        file: String,
        offset: u64,
    },
    Snapshot {
        name: String,
        file: String,
        offset: u64,
        length: u64,
    },
    AssertUnchanged {
        name: String,
    },
}

/// When a boot looks for a system that has hibernated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Before the driver is loaded.
    Bare,
    /// When it has its namespaces.
    Bound,
}

impl Resume {
    pub fn name(self) -> &'static str {
        match self {
            Resume::Bare => "bare",
            Resume::Bound => "bound",
        }
    }
}

/// A Debian host that the package of rpmem is installed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// What has made its initramfs.
    pub initramfs: String,
    /// What has been done to it, a file of qemu/system/hosts.
    pub host: String,
}

impl System {
    /// The initramfs, as scripts/hosts/system names it.
    pub fn image(&self) -> String {
        format!("{}-{}.img", self.initramfs, self.host)
    }
}

#[derive(Clone, Debug)]
pub struct Boot {
    pub tests: Vec<TestRef>,
    pub end: End,
    pub driver: String,
    pub params: Vec<String>,
    pub cmdline: String,
    pub expect_console: Vec<String>,
    pub allow_splat: Vec<String>,
    pub allow_trace: Vec<String>,
    pub allow_core_races: bool,
    /// Five levels of page tables, where there are four otherwise.
    pub five_levels: bool,
    /// Each cache line of the NVDIMMs is followed.
    pub durable: bool,
    pub resume: Option<Resume>,
    /// A test here needs what the tests before it in the same boot left behind.
    pub chained: bool,
    /// The initramfs is one of scripts/hosts/system.
    pub system: Option<System>,
    /// How often this is done, one after the other; and in the long form.
    pub repeat: u64,
    pub long_repeat: u64,
    pub before: Vec<HostAction>,
    pub after: Vec<HostAction>,
    /// Misbehaviour of init, for the harness's own tests.
    pub fault: Option<String>,
    /// Seconds on hardware for the whole boot, beside the limits on each step of it.
    pub total_timeout: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub summary: String,
    pub fixture: String,
    /// Kernel flavours that it can run on.
    pub kernels: Vec<String>,
    /// Kernel flavours that it runs on in the short form of the test run.
    pub short: Vec<String>,
    /// Those of the long form.
    pub stress: Vec<String>,
    /// Options of the kernel that it needs and that not every kernel has.
    pub needs: Vec<String>,
    pub boots: Vec<Boot>,
}

/// Kernel flavours, see scripts/lib/env.sh.
const FLAVOURS: [&str; 4] = ["stock", "debug", "kcsan", "direct"];

impl Scenario {
    /// The long form: each test gets the time that it needs for that.
    pub fn lengthen(&mut self) {
        for b in &mut self.boots {
            b.repeat = b.long_repeat;
        }
        for t in self.boots.iter_mut().flat_map(|b| &mut b.tests) {
            t.timeout = t.long_timeout.unwrap_or(t.timeout);
        }
    }
}

impl Boot {
    pub fn expected(&self) -> Vec<Expected> {
        self.tests
            .iter()
            .map(|t| Expected {
                name: t.name.clone(),
                allow_skip: t.allow_skip,
            })
            .collect()
    }

    /// Seconds, on hardware, that the whole boot takes at most.
    pub fn longest(&self) -> u64 {
        BOOT_TIMEOUT + self.tests.iter().map(|t| t.timeout).sum::<u64>()
    }

    pub fn named(tests: &[&str], driver: &str) -> Boot {
        Boot {
            tests: tests
                .iter()
                .map(|n| TestRef {
                    name: n.to_string(),
                    timeout: TEST_TIMEOUT,
                    long_timeout: None,
                    allow_skip: false,
                    needs: Vec::new(),
                })
                .collect(),
            end: End::Exit,
            driver: driver.to_string(),
            params: Vec::new(),
            cmdline: String::new(),
            expect_console: Vec::new(),
            allow_splat: Vec::new(),
            allow_trace: Vec::new(),
            allow_core_races: false,
            five_levels: false,
            durable: false,
            resume: None,
            chained: false,
            system: None,
            repeat: 1,
            long_repeat: 1,
            before: Vec::new(),
            after: Vec::new(),
            fault: None,
            total_timeout: None,
        }
    }
}

/// "128K", "1G", "0x1000" or "4096".
pub fn size(s: &str) -> Option<u64> {
    if let Some(hex) = s.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let (num, shift) = match s.chars().last()? {
        'K' => (&s[..s.len() - 1], 10),
        'M' => (&s[..s.len() - 1], 20),
        'G' => (&s[..s.len() - 1], 30),
        'T' => (&s[..s.len() - 1], 40),
        _ => (s, 0),
    };
    num.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A JSON object whose keys must all be used up.
struct Obj<'a> {
    what: String,
    map: &'a serde_json::Map<String, Value>,
}

type Res<T> = Result<T, String>;

impl<'a> Obj<'a> {
    fn new(what: &str, v: &'a Value, known: &[&str]) -> Res<Self> {
        let map = v
            .as_object()
            .ok_or_else(|| format!("{what}: not an object"))?;
        for k in map.keys() {
            if !known.contains(&k.as_str()) {
                return Err(format!("{what}: unknown key \"{k}\""));
            }
        }
        Ok(Obj {
            what: what.to_string(),
            map,
        })
    }

    fn bad<T>(&self, key: &str, want: &str) -> Res<T> {
        Err(format!("{}: \"{key}\" is not {want}", self.what))
    }

    fn str(&self, key: &str, default: &str) -> Res<String> {
        match self.map.get(key) {
            None => Ok(default.to_string()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(_) => self.bad(key, "a string"),
        }
    }

    fn need(&self, key: &str) -> Res<String> {
        match self.map.get(key) {
            Some(Value::String(s)) => Ok(s.clone()),
            _ => self.bad(key, "a string, or is missing"),
        }
    }

    fn bool(&self, key: &str) -> Res<bool> {
        match self.map.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => self.bad(key, "true or false"),
        }
    }

    fn num(&self, key: &str) -> Res<Option<u64>> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Number(n)) if n.as_u64().is_some() => Ok(n.as_u64()),
            Some(Value::String(s)) if size(s).is_some() => Ok(size(s)),
            Some(_) => self.bad(key, "a number or a size like \"128K\""),
        }
    }

    fn list(&self, key: &str) -> Res<&'a [Value]> {
        match self.map.get(key) {
            None => Ok(&[]),
            Some(Value::Array(a)) => Ok(a),
            Some(_) => self.bad(key, "a list"),
        }
    }

    fn strings(&self, key: &str) -> Res<Vec<String>> {
        self.list(key)?
            .iter()
            .map(|v| v.as_str().map(str::to_string))
            .collect::<Option<_>>()
            .map_or_else(|| self.bad(key, "a list of strings"), Ok)
    }
}

pub fn fixture(name: &str, text: &str) -> Res<Fixture> {
    let v: Value = serde_json::from_str(text).map_err(|e| format!("fixture {name}: {e}"))?;
    let known = [
        "summary",
        "memory",
        "cpus",
        "cmdline",
        "nvdimms",
        "persistence",
        "files",
        "extra",
        "icount",
        "nfit_test",
        "ndctl",
        "monitor",
    ];
    let o = Obj::new(&format!("fixture {name}"), &v, &known)?;
    let mut monitor = BTreeMap::new();
    if let Some(m) = o.map.get("monitor") {
        let Some(m) = m.as_object() else {
            return o.bad("monitor", "an object");
        };
        for (name, commands) in m {
            match commands.as_array() {
                Some(c) if !c.is_empty() => monitor.insert(name.clone(), c.clone()),
                _ => return o.bad("monitor", "made of lists of commands"),
            };
        }
    }
    let mut nvdimms = Vec::new();
    for n in o.list("nvdimms")? {
        let known = [
            "size",
            "label_size",
            "uuid",
            "readonly",
            "unarmed",
            "align",
            "node",
        ];
        let d = Obj::new(&format!("fixture {name}: nvdimm"), n, &known)?;
        nvdimms.push(Nvdimm {
            size: d
                .num("size")?
                .ok_or_else(|| format!("fixture {name}: nvdimm without size"))?,
            label_size: d.num("label_size")?.unwrap_or(0),
            uuid: d.map.get("uuid").map(|_| d.need("uuid")).transpose()?,
            readonly: d.bool("readonly")?,
            unarmed: d.bool("unarmed")?,
            align: d.num("align")?,
            node: d.num("node")?,
        });
    }
    let (nfit_test, ndctl) = (o.bool("nfit_test")?, o.bool("ndctl")?);
    let (mut files, mut volatile, mut contents) = (Vec::new(), Vec::new(), Vec::new());
    for f in o.list("files")? {
        let known = ["name", "size", "volatile", "hex"];
        let d = Obj::new(&format!("fixture {name}: file"), f, &known)?;
        if d.map.contains_key("hex") {
            match hex(&d.need("hex")?) {
                Some(bytes) => contents.push((d.need("name")?, bytes)),
                None => return d.bad("hex", "bytes in hexadecimal"),
            }
        }
        if d.bool("volatile")? {
            volatile.push(d.need("name")?);
        }
        files.push((d.need("name")?, d.num("size")?.unwrap_or(0)));
    }
    Ok(Fixture {
        name: name.to_string(),
        summary: o.str("summary", "")?,
        memory: o.num("memory")?.unwrap_or(1 << 30),
        cpus: o.num("cpus")?.unwrap_or(2),
        cmdline: o.str("cmdline", "")?,
        nvdimms,
        persistence: o
            .map
            .get("persistence")
            .map(|_| o.need("persistence"))
            .transpose()?,
        files,
        contents,
        volatile,
        extra: o.strings("extra")?,
        monitor,
        icount: o.num("icount")?,
        nfit_test,
        ndctl,
    })
}

fn hex(s: &str) -> Option<Vec<u8>> {
    let s: String = s.chars().filter(|c| !c.is_whitespace()).collect();
    if s.is_empty() || s.len() % 2 != 0 || !s.is_ascii() {
        return None;
    }
    (0..s.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&s[i..i + 2], 16).ok())
        .collect()
}

fn action(what: &str, v: &Value) -> Res<HostAction> {
    let known = [
        "action", "file", "nvdimm", "offset", "length", "hex", "name",
    ];
    let o = Obj::new(&format!("{what}: host action"), v, &known)?;
    let file = match o.num("nvdimm")? {
        Some(n) => format!("nvdimm{n}.img"),
        None => o.str("file", "nvdimm0.img")?,
    };
    let offset = o.num("offset")?.unwrap_or(0);
    match o.need("action")?.as_str() {
        "patch" => Ok(HostAction::Patch {
            file,
            offset,
            bytes: hex(&o.need("hex")?).ok_or_else(|| format!("{what}: bad hex"))?,
        }),
        "seal-info-block" => Ok(HostAction::SealInfoBlock { file, offset }),
        "snapshot" => Ok(HostAction::Snapshot {
            name: o.str("name", "snapshot")?,
            file,
            offset,
            length: o
                .num("length")?
                .ok_or_else(|| format!("{what}: snapshot without length"))?,
        }),
        "assert-unchanged" => Ok(HostAction::AssertUnchanged {
            name: o.str("name", "snapshot")?,
        }),
        other => Err(format!("{what}: unknown host action \"{other}\"")),
    }
}

pub fn scenario(name: &str, text: &str) -> Res<Scenario> {
    let what = format!("scenario {name}");
    let v: Value = serde_json::from_str(text).map_err(|e| format!("{what}: {e}"))?;
    let o = Obj::new(
        &what,
        &v,
        &[
            "summary", "fixture", "driver", "params", "kernels", "short", "stress", "needs",
            "boots",
        ],
    )?;
    let flavours = |key: &str, default: &[&str]| -> Res<Vec<String>> {
        let list = match o.map.get(key) {
            None => default.iter().map(|s| s.to_string()).collect(),
            Some(_) => o.strings(key)?,
        };
        match list.iter().find(|f| !FLAVOURS.contains(&f.as_str())) {
            Some(f) => Err(format!("{what}: \"{key}\": no kernel {f}")),
            None => Ok(list),
        }
    };
    let kernels = flavours("kernels", &FLAVOURS)?;
    let short = flavours("short", &["stock"])?;
    let all: Vec<&str> = kernels.iter().map(String::as_str).collect();
    let stress = match all.contains(&"stock") {
        true => flavours("stress", &["stock"])?,
        false => flavours("stress", &all)?,
    };
    for (key, list) in [("short", &short), ("stress", &stress)] {
        let cannot = list.iter().find(|f| !all.contains(&f.as_str()));
        if let (Some(f), true) = (cannot, o.map.contains_key(key)) {
            return Err(format!("{what}: \"{key}\": it cannot run on {f}"));
        }
    }
    let driver = o.str("driver", "rpmem")?;
    let params = o.strings("params")?;
    let mut boots = Vec::new();
    for b in o.list("boots")? {
        let known = [
            "tests",
            "end",
            "driver",
            "params",
            "cmdline",
            "expect_console",
            "allow_splat",
            "allow_trace",
            "allow_core_races",
            "five_levels",
            "durable",
            "resume",
            "chained",
            "system",
            "host",
            "repeat",
            "long_repeat",
            "before",
            "after",
        ];
        let b = Obj::new(&format!("{what}: boot"), b, &known)?;
        let mut tests = Vec::new();
        for t in b.list("tests")? {
            tests.push(match t {
                Value::String(s) => TestRef {
                    name: s.clone(),
                    timeout: TEST_TIMEOUT,
                    long_timeout: None,
                    allow_skip: false,
                    needs: Vec::new(),
                },
                t => {
                    let t = Obj::new(
                        &format!("{what}: test"),
                        t,
                        &["name", "timeout", "long_timeout", "allow_skip", "needs"],
                    )?;
                    TestRef {
                        name: t.need("name")?,
                        timeout: t.num("timeout")?.unwrap_or(TEST_TIMEOUT),
                        long_timeout: t.num("long_timeout")?,
                        allow_skip: t.bool("allow_skip")?,
                        needs: t.strings("needs")?,
                    }
                }
            });
        }
        if tests.is_empty() {
            return Err(format!("{what}: boot without tests"));
        }
        let own_driver = b.str("driver", &driver)?;
        if !["rpmem", "nd_pmem", "none"].contains(&own_driver.as_str()) {
            return Err(format!("{what}: unknown driver {own_driver}"));
        }
        let end = match b.str("end", "exit")?.as_str() {
            "exit" => End::Exit,
            "power-cut" => End::PowerCut,
            other => return Err(format!("{what}: unknown end \"{other}\"")),
        };
        let resume = match b.str("resume", "")?.as_str() {
            "" => None,
            "bare" => Some(Resume::Bare),
            "bound" => Some(Resume::Bound),
            other => return Err(format!("{what}: unknown resume \"{other}\"")),
        };
        let system = match b.str("system", "")?.as_str() {
            "" => None,
            initramfs @ ("dracut" | "initramfs-tools") => Some(System {
                initramfs: initramfs.to_string(),
                host: b.str("host", "installed")?,
            }),
            other => return Err(format!("{what}: unknown system \"{other}\"")),
        };
        let acts = |key: &str| {
            b.list(key)?
                .iter()
                .map(|a| action(&what, a))
                .collect::<Res<Vec<_>>>()
        };
        let repeat = b.num("repeat")?.unwrap_or(1);
        if repeat == 0 {
            return b.bad("repeat", "at least 1");
        }
        boots.push(Boot {
            tests,
            end,
            driver: own_driver,
            params: if b.map.contains_key("params") {
                b.strings("params")?
            } else {
                params.clone()
            },
            cmdline: b.str("cmdline", "")?,
            expect_console: b.strings("expect_console")?,
            allow_splat: b.strings("allow_splat")?,
            allow_trace: b.strings("allow_trace")?,
            allow_core_races: b.bool("allow_core_races")?,
            five_levels: b.bool("five_levels")?,
            durable: b.bool("durable")?,
            resume,
            chained: b.bool("chained")?,
            system,
            repeat,
            long_repeat: b.num("long_repeat")?.unwrap_or(repeat),
            before: acts("before")?,
            after: acts("after")?,
            fault: None,
            total_timeout: None,
        });
    }
    if boots.is_empty() {
        return Err(format!("{what}: no boots"));
    }
    Ok(Scenario {
        kernels,
        short,
        stress,
        needs: o.strings("needs")?,
        name: name.to_string(),
        summary: o.str("summary", "")?,
        fixture: o.need("fixture")?,
        boots,
    })
}

/// Every `*.json` of a folder, in the order of names, as (stem, text).
pub fn load_dir(dir: &Path) -> Res<Vec<(String, String)>> {
    let mut all = Vec::new();
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_some_and(|e| e == "json") {
            let stem = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let text =
                std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            all.push((stem, text));
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("128K"), Some(128 << 10));
        assert_eq!(size("1T"), Some(1 << 40));
        assert_eq!(size("0x1000"), Some(4096));
        assert_eq!(size("12x"), None);
        assert_eq!(size(""), None);
        assert_eq!(size("99999999999999T"), None);
    }

    #[test]
    fn fixtures_in_the_tree() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
        let all = load_dir(&dir).unwrap();
        assert!(!all.is_empty());
        for (name, text) in all {
            fixture(&name, &text).unwrap();
        }
    }

    #[test]
    fn scenarios_in_the_tree() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let fixtures: Vec<String> = load_dir(&top.join("qemu/fixtures"))
            .unwrap()
            .into_iter()
            .map(|f| f.0)
            .collect();
        let all = load_dir(&top.join("tests/scenarios")).unwrap();
        assert!(!all.is_empty());
        for (name, text) in all {
            let s = scenario(&name, &text).unwrap();
            assert!(
                fixtures.contains(&s.fixture),
                "{name}: no fixture {}",
                s.fixture
            );
            for system in s.boots.iter().filter_map(|b| b.system.as_ref()) {
                let host = top.join("qemu/system/hosts").join(&system.host);
                assert!(host.exists(), "{name}: no {}", host.display());
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(fixture("f", r#"{"memroy":"1G"}"#).is_err());
        assert!(fixture("f", r#"{"nvdimms":[{"size":"1G","lable":1}]}"#).is_err());
        assert!(scenario(
            "s",
            r#"{"fixture":"f","boots":[{"tests":["a"],"allow-splat":[]}]}"#
        )
        .is_err());
        assert!(scenario("s", r#"{"fixture":"f","boots":[{"tests":[]}]}"#).is_err());
        assert!(scenario("s", r#"{"fixture":"f","boots":[]}"#).is_err());
        assert!(scenario(
            "s",
            r#"{"fixture":"f","kernels":["stock"],"stress":["stock","debug"],"boots":[{"tests":["a"]}]}"#
        )
        .is_err());
        assert!(scenario(
            "s",
            r#"{"fixture":"f","driver":"pmem","boots":[{"tests":["a"]}]}"#
        )
        .is_err());
        assert!(scenario(
            "s",
            r#"{"fixture":"f","boots":[{"tests":["a"],"resume":"soon"}]}"#
        )
        .is_err());
        assert!(scenario(
            "s",
            r#"{"fixture":"f","boots":[{"tests":["a"],"system":"mkinitcpio"}]}"#
        )
        .is_err());
    }

    #[test]
    fn a_scenario() {
        let s = scenario(
            "s",
            r#"{"fixture":"f","params":["a=1"],"boots":[
                {"tests":["x",{"name":"y","timeout":3,"allow_skip":true}],"end":"power-cut"},
                {"tests":["z"],"driver":"nd_pmem","params":[],
                 "resume":"bare",
                 "before":[{"action":"patch","nvdimm":1,"offset":"4K","hex":"00 ff"}]}]}"#,
        )
        .unwrap();
        assert_eq!(s.boots[0].end, End::PowerCut);
        assert_eq!(s.boots[0].params, ["a=1"]);
        assert_eq!(s.boots[0].longest(), BOOT_TIMEOUT + TEST_TIMEOUT + 3);
        assert_eq!(s.boots[1].driver, "nd_pmem");
        assert_eq!(s.boots[1].resume, Some(Resume::Bare));
        assert!(s.boots[1].params.is_empty());
        assert_eq!(s.boots[1].system, None);
        match &s.boots[1].before[0] {
            HostAction::Patch {
                file,
                offset,
                bytes,
            } => {
                assert_eq!(
                    (file.as_str(), *offset, bytes.as_slice()),
                    ("nvdimm1.img", 4096, &[0, 255][..])
                )
            }
            other => panic!("{other:?}"),
        }
    }
}
