// SPDX-License-Identifier: GPL-2.0
//! Fixtures (machines) and scenarios (what runs on them), read from JSON.
//!
//! A fixture, `qemu/fixtures/NAME.json`:
//!
//! ```json
//! { "summary": "...", "memory": "1G", "cpus": 2, "features": "-hypervisor", "cmdline": "for the kernel",
//!   "nvdimms": [{ "size": "1G", "label_size": "256K", "uuid": "...", "readonly": false,
//!                 "unarmed": false, "align": "2M", "node": 0 }],
//!   "persistence": "mem-ctrl", "files": [{ "name": "x.img", "size": "1G", "volatile": false,
//!                                           "hex": "first bytes" }],
//!   "extra": ["-object", "...{dir}/x.img..."], "icount": 0, "nfit_test": false, "ndctl": false,
//!   "architectures": ["amd64"],
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
//!               "five_levels": false, "durable": false, "record": false, "tally": false, "states": 0, "long_states": 0, "blocks": ["name"], "resume": "bound",
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
//! none; `end` is exit, power-cut, or down: the guest switches the machine off, or restarts it; `chained` says
//! that the tests of a boot need those before them; `system` that it starts with an initramfs of scripts/hosts/system, made by dracut or initramfs-tools
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
//! followed, and what tests claim to be durable has to be: durable.rs. With `record` as well it is written
//! down what tests do to ranges that they name, from which crash.rs tells what a power cut may leave of them: a later boot has `states` of each of those on the
//! file states.img of its fixture. What was written to a disk is there by the block in those of `blocks`.
//! With `tally` it is counted what operations do to lines: tally.rs.
//!
//! Unknown keys are errors: a misspelt `allow_splat` must not go unnoticed.

use crate::arch;
use crate::verdict::{End, Expected};
use serde::de::{self, value::MapAccessDeserializer, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Emulation is slower than the hardware that timeouts are written for by about this much.
pub const TCG_FACTOR: u64 = 4;
/// Seconds, on hardware, for a test that names no timeout of its own.
pub const TEST_TIMEOUT: u64 = 15;
/// Seconds, on hardware, for each thing that init does between tests: to set the driver up, to clean up
/// after a test, to look for leaks.
pub const BOOT_TIMEOUT: u64 = 30;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nvdimm {
    /// What the guest has for data; the label area comes on top.
    #[serde(deserialize_with = "bytes")]
    pub size: u64,
    #[serde(default, deserialize_with = "bytes")]
    pub label_size: u64,
    pub uuid: Option<String>,
    #[serde(default)]
    pub readonly: bool,
    #[serde(default)]
    pub unarmed: bool,
    #[serde(default, deserialize_with = "some_bytes")]
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

/// A file in the run directory, sparse where it says nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    pub name: String,
    #[serde(default, deserialize_with = "bytes")]
    pub size: u64,
    /// A power cut takes it back to its last flush.
    #[serde(default)]
    pub volatile: bool,
    /// What it begins with; the rest is zeroes.
    #[serde(default, rename = "hex", deserialize_with = "hex")]
    pub contents: Vec<u8>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fixture {
    #[serde(skip)]
    pub name: String,
    pub summary: String,
    #[serde(deserialize_with = "bytes")]
    pub memory: u64,
    pub cpus: u64,
    /// Features of the CPU to leave out, "-hypervisor", or to add, "+x", with commas in between.
    pub features: Option<String>,
    pub cmdline: String,
    pub nvdimms: Vec<Nvdimm>,
    /// Persistence domain that the firmware tells: "cpu", "mem-ctrl", or nothing.
    pub persistence: Option<String>,
    /// For devices in `extra`, where `{dir}` names the run directory.
    pub files: Vec<Image>,
    pub extra: Vec<String>,
    /// Those that it can be a machine of (arch.rs), by Debian's names; all, if none is named.
    pub architectures: Vec<String>,
    /// Commands for QEMU's monitor, by the names that tests have for them.
    pub monitor: BTreeMap<String, Vec<Value>>,
    /// Run under `-icount shift=N`: guest time counts instructions.
    pub icount: Option<u64>,
    /// The NVDIMMs are those of the kernel's nfit_test, whose errors can be injected.
    pub nfit_test: bool,
    /// What was built from ndctl's source is there; with `nfit_test`, its own tests load that.
    pub ndctl: bool,
}

impl Default for Fixture {
    fn default() -> Self {
        Fixture {
            name: String::new(),
            summary: String::new(),
            memory: 1 << 30,
            cpus: 2,
            features: None,
            cmdline: String::new(),
            nvdimms: Vec::new(),
            persistence: None,
            files: Vec::new(),
            extra: Vec::new(),
            architectures: Vec::new(),
            monitor: BTreeMap::new(),
            icount: None,
            nfit_test: false,
            ndctl: false,
        }
    }
}

/// A test of a boot: a string that is its name, or an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct TestRef {
    pub name: String,
    /// Seconds on hardware.
    #[serde(default = "test_timeout")]
    pub timeout: u64,
    /// The same for the long form.
    pub long_timeout: Option<u64>,
    #[serde(default)]
    pub allow_skip: bool,
    /// As those of the scenario.
    #[serde(default)]
    pub needs: Vec<String>,
}

fn test_timeout() -> u64 {
    TEST_TIMEOUT
}

impl TestRef {
    fn named(name: &str) -> TestRef {
        TestRef {
            name: name.to_string(),
            timeout: TEST_TIMEOUT,
            long_timeout: None,
            allow_skip: false,
            needs: Vec::new(),
        }
    }
}

impl<'de> Deserialize<'de> for TestRef {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct NameOrObject;

        impl<'de> Visitor<'de> for NameOrObject {
            type Value = TestRef;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a test, or an object with its name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<TestRef, E> {
                Ok(TestRef::named(name))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TestRef, A::Error> {
                // The derived one, which `remote` has made a function of the type.
                TestRef::deserialize(MapAccessDeserializer::new(map))
            }
        }

        d.deserialize_any(NameOrObject)
    }
}

/// What is done to the medium, that of the first NVDIMM unless `nvdimm` says which.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "action", rename_all = "kebab-case")]
pub enum HostAction {
    Patch {
        #[serde(
            default = "first_nvdimm",
            rename = "nvdimm",
            deserialize_with = "nvdimm"
        )]
        file: String,
        #[serde(default, deserialize_with = "bytes")]
        offset: u64,
        #[serde(rename = "hex", deserialize_with = "hex")]
        bytes: Vec<u8>,
    },
    /// Recompute the checksum of a pfn or dax info block after a patch.
    SealInfoBlock {
        #[serde(
            default = "first_nvdimm",
            rename = "nvdimm",
            deserialize_with = "nvdimm"
        )]
        file: String,
        #[serde(default, deserialize_with = "bytes")]
        offset: u64,
    },
    Snapshot {
        name: String,
        #[serde(
            default = "first_nvdimm",
            rename = "nvdimm",
            deserialize_with = "nvdimm"
        )]
        file: String,
        #[serde(default, deserialize_with = "bytes")]
        offset: u64,
        #[serde(deserialize_with = "bytes")]
        length: u64,
    },
    AssertUnchanged {
        name: String,
    },
}

/// When a boot looks for a system that has hibernated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

/// What makes the initramfs of a Debian host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initramfs {
    Dracut,
    InitramfsTools,
}

impl Initramfs {
    fn name(self) -> &'static str {
        match self {
            Initramfs::Dracut => "dracut",
            Initramfs::InitramfsTools => "initramfs-tools",
        }
    }
}

/// A Debian host that the package of rpmem is installed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// What has made its initramfs.
    pub initramfs: Initramfs,
    /// What has been done to it, a file of qemu/system/hosts.
    pub host: String,
}

impl System {
    /// The initramfs, as scripts/hosts/system names it.
    pub fn image(&self) -> String {
        format!("{}-{}.img", self.initramfs.name(), self.host)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Boot {
    pub tests: Vec<TestRef>,
    pub end: End,
    #[serde(rename = "driver")]
    own_driver: Option<String>,
    #[serde(rename = "params")]
    own_params: Option<Vec<String>>,
    /// Its own, or those of the scenario.
    #[serde(skip)]
    pub driver: String,
    #[serde(skip)]
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
    /// And what happens to those that tests name is written down.
    pub record: bool,
    /// What operations do to them is counted, beside another driver.
    pub tally: bool,
    /// How many states of each recording that was made before it gets; and in the long form, if that is different.
    pub states: u64,
    long_states: Option<u64>,
    /// Names of those recordings of which a block is whole.
    pub blocks: Vec<String>,
    pub resume: Option<Resume>,
    /// A test here needs what the tests before it in the same boot left behind.
    pub chained: bool,
    #[serde(rename = "system")]
    initramfs: Option<Initramfs>,
    host: Option<String>,
    /// The initramfs is one of scripts/hosts/system.
    #[serde(skip)]
    pub system: Option<System>,
    /// How often this is done, one after the other; and in the long form, if that is different.
    pub repeat: u64,
    long_repeat: Option<u64>,
    pub before: Vec<HostAction>,
    pub after: Vec<HostAction>,
    /// Misbehaviour of init, for the harness's own tests.
    #[serde(skip)]
    pub fault: Option<String>,
    /// Seconds on hardware for the whole boot, beside the limits on each step of it.
    #[serde(skip)]
    pub total_timeout: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    #[serde(skip)]
    pub name: String,
    #[serde(default)]
    pub summary: String,
    pub fixture: String,
    #[serde(default = "rpmem")]
    driver: String,
    #[serde(default)]
    params: Vec<String>,
    /// Kernel flavours that it can run on.
    #[serde(default = "all_flavours")]
    pub kernels: Vec<String>,
    /// Kernel flavours that it runs on in the short form of the test run.
    #[serde(rename = "short")]
    own_short: Option<Vec<String>>,
    #[serde(skip)]
    pub short: Vec<String>,
    /// Those of the long form.
    #[serde(rename = "stress")]
    own_stress: Option<Vec<String>>,
    #[serde(skip)]
    pub stress: Vec<String>,
    /// Options of the kernel that it needs and that not every kernel has.
    #[serde(default)]
    pub needs: Vec<String>,
    pub boots: Vec<Boot>,
}

fn rpmem() -> String {
    "rpmem".into()
}

const DRIVERS: [&str; 3] = ["rpmem", "nd_pmem", "none"];

/// Kernel flavours, see scripts/lib/env.sh.
const FLAVOURS: [&str; 4] = ["stock", "debug", "kcsan", "direct"];

fn all_flavours() -> Vec<String> {
    FLAVOURS.map(String::from).into()
}

impl Scenario {
    /// The long form: each test gets the time that it needs for that.
    pub fn lengthen(&mut self) {
        for b in &mut self.boots {
            b.repeat = b.long_repeat.unwrap_or(b.repeat);
            b.states = b.long_states.unwrap_or(b.states);
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
            tests: tests.iter().map(|name| TestRef::named(name)).collect(),
            driver: driver.to_string(),
            ..Boot::default()
        }
    }
}

impl Default for Boot {
    fn default() -> Self {
        Boot {
            tests: Vec::new(),
            end: End::Exit,
            own_driver: None,
            own_params: None,
            driver: String::new(),
            params: Vec::new(),
            cmdline: String::new(),
            expect_console: Vec::new(),
            allow_splat: Vec::new(),
            allow_trace: Vec::new(),
            allow_core_races: false,
            five_levels: false,
            durable: false,
            record: false,
            tally: false,
            states: 0,
            long_states: None,
            blocks: Vec::new(),
            resume: None,
            chained: false,
            initramfs: None,
            host: None,
            system: None,
            repeat: 1,
            long_repeat: None,
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

/// A number, or a text that `size` takes.
fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    struct Size;

    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a number of bytes, or text such as \"4K\" or \"1G\"")
        }

        fn visit_u64<E: de::Error>(self, n: u64) -> Result<u64, E> {
            Ok(n)
        }

        fn visit_str<E: de::Error>(self, s: &str) -> Result<u64, E> {
            size(s).ok_or_else(|| E::invalid_value(Unexpected::Str(s), &self))
        }
    }

    d.deserialize_any(Size)
}

fn some_bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    bytes(d).map(Some)
}

/// Bytes in hexadecimal, with blanks anywhere between their digits.
fn hex<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(d)?;
    let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |i: usize| u8::from_str_radix(digits.get(i..i + 2)?, 16).ok();
    let all: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
    all.filter(|all| !all.is_empty())
        .ok_or_else(|| de::Error::invalid_value(Unexpected::Str(&text), &"bytes in hexadecimal"))
}

/// The file of an NVDIMM, by its number.
fn nvdimm<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(format!("nvdimm{}.img", u64::deserialize(d)?))
}

fn first_nvdimm() -> String {
    "nvdimm0.img".into()
}

type Res<T> = Result<T, String>;

pub fn fixture(name: &str, text: &str) -> Res<Fixture> {
    let what = format!("fixture {name}");
    let mut f: Fixture = serde_json::from_str(text).map_err(|e| format!("{what}: {e}"))?;
    if let Some((name, _)) = f.monitor.iter().find(|(_, commands)| commands.is_empty()) {
        return Err(format!("{what}: \"monitor\": \"{name}\" has no commands"));
    }
    for name in &f.architectures {
        arch::named(name).map_err(|e| format!("{what}: \"architectures\": {e}"))?;
    }
    f.name = name.to_string();
    Ok(f)
}

pub fn scenario(name: &str, text: &str) -> Res<Scenario> {
    let what = format!("scenario {name}");
    let mut s: Scenario = serde_json::from_str(text).map_err(|e| format!("{what}: {e}"))?;
    s.name = name.to_string();
    let stock = || vec![String::from("stock")];
    s.short = s.own_short.clone().unwrap_or_else(stock);
    s.stress = match (&s.own_stress, s.kernels.contains(&stock()[0])) {
        (Some(own), _) => own.clone(),
        (None, true) => stock(),
        (None, false) => s.kernels.clone(),
    };
    let lists = [
        ("kernels", Some(&s.kernels)),
        ("short", s.own_short.as_ref()),
        ("stress", s.own_stress.as_ref()),
    ];
    for (key, list) in lists {
        for flavour in list.into_iter().flatten() {
            if !FLAVOURS.contains(&flavour.as_str()) {
                let all = FLAVOURS.join(", ");
                return Err(format!(
                    "{what}: \"{key}\": no kernel {flavour}, there are {all}"
                ));
            }
            if !s.kernels.contains(flavour) {
                return Err(format!("{what}: \"{key}\": it cannot run on {flavour}"));
            }
        }
    }
    if s.boots.is_empty() {
        return Err(format!("{what}: no boots"));
    }
    for (n, b) in s.boots.iter_mut().enumerate() {
        let bad = |why: String| Err(format!("{what}: boot {}: {why}", n + 1));
        if b.tests.is_empty() {
            return bad("no tests".into());
        }
        b.driver = b.own_driver.clone().unwrap_or_else(|| s.driver.clone());
        if !DRIVERS.contains(&b.driver.as_str()) {
            let all = DRIVERS.join(", ");
            return bad(format!("no driver {}, there are {all}", b.driver));
        }
        b.params = b.own_params.clone().unwrap_or_else(|| s.params.clone());
        if b.repeat == 0 {
            return bad("\"repeat\" is not at least 1".into());
        }
        for (needs, name) in [(b.record, "record"), (b.tally, "tally")] {
            if needs && !b.durable {
                return bad(format!("\"{name}\" without \"durable\""));
            }
        }
        b.system = match (b.initramfs, b.host.clone()) {
            (Some(initramfs), host) => Some(System {
                initramfs,
                host: host.unwrap_or_else(|| "installed".into()),
            }),
            (None, None) => None,
            (None, Some(_)) => return bad("a \"host\" without \"system\"".into()),
        };
    }
    Ok(s)
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

    /// What is said of a fixture, which stands on its own, or of a scenario.
    fn refused(text: &str) -> String {
        match text.contains("boots") {
            true => scenario("s", text).unwrap_err(),
            false => fixture("f", text).unwrap_err(),
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let boot = |of_boot: &str| format!(r#"{{"fixture":"f","boots":[{{{of_boot}}}]}}"#);
        let of = |key: &str| format!(r#"{{"fixture":"f",{key},"boots":[{{"tests":["a"]}}]}}"#);
        let act = |keys: &str| boot(&format!(r#""tests":["a"],"before":[{{{keys}}}]"#));
        let file = |keys: &str| format!(r#"{{"files":[{{{keys}}}]}}"#);
        for (text, words) in [
            (
                r#"{"memroy":"1G"}"#.into(),
                &["fixture f", "memroy", "`memory`"][..],
            ),
            (r#"{"memory":"1Q"}"#.into(), &["1Q", "4K"]),
            (r#"{"memory":true}"#.into(), &["true", "4K", "line 1"]),
            (
                r#"{"nvdimms":[{"size":"1G","lable":1}]}"#.into(),
                &["lable", "`label_size`"],
            ),
            (r#"{"nvdimms":[{}]}"#.into(), &["size"]),
            (r#"{"monitor":{"x":[]}}"#.into(), &["monitor", "x"]),
            (
                r#"{"architectures":["x86"]}"#.into(),
                &["no architecture x86", "arm64"],
            ),
            (file(r#""name":"x","hex":"0""#), &["hexadecimal"]),
            (file(r#""name":"x","hex":"é0""#), &["hexadecimal"]),
            (file(r#""size":1"#), &["name"]),
            (
                boot(r#""tests":["a"],"allow-splat":[]"#),
                &["scenario s", "allow-splat", "`allow_splat`"],
            ),
            (
                boot(r#""tests":["a"],"tests":["b"]"#),
                &["duplicate", "tests"],
            ),
            (boot(r#""tests":[]"#), &["boot 1", "no tests"]),
            (
                boot(r#""tests":[{"name":"a","timout":1}]"#),
                &["timout", "`timeout`"],
            ),
            (boot(r#""tests":[{"timeout":1}]"#), &["name"]),
            (boot(r#""tests":[1]"#), &["name of a test"]),
            (
                boot(r#""tests":["a"],"end":"crash""#),
                &["crash", "`power-cut`"],
            ),
            (
                boot(r#""tests":["a"],"resume":"soon""#),
                &["soon", "`bare`"],
            ),
            (
                boot(r#""tests":["a"],"system":"mkinitcpio""#),
                &["mkinitcpio", "`dracut`"],
            ),
            (
                boot(r#""tests":["a"],"host":"installed""#),
                &["host", "system"],
            ),
            (
                boot(r#""tests":["a"],"driver":"pmem""#),
                &["no driver pmem", "nd_pmem"],
            ),
            (boot(r#""tests":["a"],"repeat":0"#), &["repeat"]),
            (
                boot(r#""tests":["a"],"record":true"#),
                &["record", "durable"],
            ),
            (boot(r#""tests":["a"],"tally":true"#), &["tally", "durable"]),
            (act(r#""action":"wipe""#), &["wipe", "`patch`"]),
            (
                act(r#""action":"patch","hex":"00","name":"x""#),
                &["name", "`hex`"],
            ),
            (act(r#""action":"patch","hex":"""#), &["hexadecimal"]),
            (act(r#""action":"snapshot","name":"x""#), &["length"]),
            (of(r#""driver":"pmem""#), &["no driver pmem", "nd_pmem"]),
            (
                of(r#""kernels":["stck"]"#),
                &["kernels", "no kernel stck", "kcsan"],
            ),
            (
                of(r#""kernels":["stock"],"stress":["stock","debug"]"#),
                &["stress", "debug"],
            ),
            (
                of(r#""kernels":["debug"],"short":["stock"]"#),
                &["short", "stock"],
            ),
            (r#"{"boots":[{"tests":["a"]}]}"#.into(), &["fixture"]),
            (r#"{"fixture":"f","boots":[]}"#.into(), &["no boots"]),
        ] {
            let said = refused(&text);
            for word in words {
                assert!(said.contains(word), "{text}: {said}: no {word:?}");
            }
        }
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
        assert_eq!(
            (&*s.short, &*s.stress),
            (&["stock".into()][..], &["stock".into()][..])
        );
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
