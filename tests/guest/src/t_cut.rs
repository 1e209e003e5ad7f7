// SPDX-License-Identifier: GPL-2.0
//! Power cuts between any two stores of what makes and destroys namespaces: info blocks, which CPUs write to the
//! medium, and labels, which firmware writes. Whatever is there then, the driver shows what was acknowledged,
//! or no namespace, or one that says that it is another; and ndctl can make new ones.

use crate::support::crash::{self, Alias};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::durable::Recording;
use crate::{check, check_eq, fail};
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    cut_record => record,
    cut_bind => bind,
};

/// What a namespace is made as: its name here, for ndctl, and in sysfs.
struct Kind {
    name: &'static str,
    create: &'static [&'static str],
    mode: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "raw",
        create: &["-m", "raw"],
        mode: "raw",
    },
    Kind {
        name: "fsdax-dev",
        create: &["-m", "fsdax", "-M", "dev"],
        mode: "memory",
    },
    Kind {
        name: "sector",
        create: &["-m", "sector", "-l", "4096"],
        mode: "safe",
    },
    Kind {
        name: "devdax",
        create: &["-m", "devdax", "-M", "mem"],
        mode: "dax",
    },
    Kind {
        name: "fsdax-mem",
        create: &["-m", "fsdax", "-M", "mem"],
        mode: "memory",
    },
];

const NAME: &str = "namespaces";
const BLOCK: usize = 4096;
/// Blocks of a disk with marks: the first and the last ones, and one in so many others.
const STEP: u64 = 509;
/// Of so many states, one is also made into a new namespace.
const RENEWED: u64 = 8;

fn kind(name: &str) -> TestResult<&'static Kind> {
    match KINDS.iter().find(|k| k.name == name) {
        Some(kind) => Ok(kind),
        None => fail!("no kind {name}"),
    }
}

fn marked(blocks: u64) -> impl Iterator<Item = u64> {
    (0..blocks).filter(move |b| *b < 4 || b % STEP == 0 || *b == blocks - 1)
}

/// Where it is, and of which namespace.
fn mark(generation: u64, block: u64) -> Buf {
    Buf::pattern(BLOCK, (generation << 32) | block)
}

fn write_marks(dev: &str, generation: u64) -> TestResult {
    let f = disk::direct(dev)?;
    for block in marked(disk::size(&f)? / BLOCK as u64) {
        f.write_all_at(mark(generation, block).bytes(), block * BLOCK as u64)?;
    }
    f.sync_all()?;
    Ok(())
}

fn check_marks(dev: &str, generation: u64) -> TestResult {
    let f = disk::direct(dev)?;
    let mut buf = Buf::page(BLOCK);
    for block in marked(disk::size(&f)? / BLOCK as u64) {
        f.read_exact_at(buf.bytes_mut(), block * BLOCK as u64)?;
        let is = buf.bytes() == mark(generation, block).bytes();
        check!(is, "{dev}: block {block} is not of generation {generation}");
    }
    Ok(())
}

/// The label area is empty in the beginning: what is recorded is all that it ever holds.
fn record(c: &mut Ctx) -> TestResult {
    let alias = Alias::new(c)?;
    let (start, len) = alias.range();
    c.sh("ndctl disable-region all; ndctl zero-labels all")?;
    let recording = Recording::begin(NAME, start, alias.get(start, len));
    c.sh("ndctl init-labels all; ndctl enable-region all")?;
    recording.acknowledged("none");
    for (kind, generation) in KINDS.iter().zip(1..) {
        recording.acknowledged(&format!("to {}", kind.name));
        c.create_namespace(kind.create)?;
        let disks = c.disks();
        let has_none = kind.mode == "dax" && c.driver == "nd_pmem";
        check_eq!(
            disks.len(),
            usize::from(!has_none),
            "disks of {}",
            kind.name
        );
        if let Some(disk) = disks.first() {
            write_marks(&format!("/dev/{disk}"), generation)?;
        }
        recording.acknowledged(&format!("is {} {generation}", kind.name));
        recording.acknowledged("to none");
        c.ok(&["ndctl", "destroy-namespace", "-f", "all"])?;
        recording.acknowledged("none");
    }
    c.ok(&["ndctl", "disable-region", "all"])?;
    recording.end(alias.get(start, len));
    Ok(())
}

/// What is known at the time of a power cut.
struct Known {
    /// The namespace that is there, and whose marks it has.
    is: Option<(&'static Kind, u64)>,
    /// What is being made, if anything is being done.
    to: Option<Option<&'static Kind>>,
}

impl Known {
    fn new(acknowledged: &[String]) -> TestResult<Known> {
        // Until there are labels, all of the region is a namespace.
        let mut known = Known {
            is: None,
            to: Some(Some(&KINDS[0])),
        };
        for text in acknowledged {
            let mut words = text.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("none"), None, None) => {
                    known = Known { is: None, to: None };
                }
                (Some("to"), Some("none"), None) => known.to = Some(None),
                (Some("to"), Some(name), None) => known.to = Some(Some(kind(name)?)),
                (Some("is"), Some(name), Some(generation)) => {
                    known = Known {
                        is: Some((kind(name)?, generation.parse().unwrap_or(0))),
                        to: None,
                    };
                }
                _ => fail!("acknowledged: {text}"),
            }
        }
        Ok(known)
    }

    /// Whether a power cut may leave these namespaces, by their modes and disks.
    fn allows(&self, found: &[(String, Option<String>)], driver: &str) -> TestResult {
        let Known { is, to } = self;
        check!(found.len() < 2, "{found:?}");
        let Some((mode, disk)) = found.first() else {
            check!(is.is_none() || to.is_some(), "it is not there");
            return Ok(());
        };
        match is {
            Some((kind, generation)) if kind.mode == mode => {
                return match disk {
                    // To destroy it, ndctl writes zeroes to where info blocks of other modes are.
                    Some(_) if to.is_some() && kind.mode == "raw" => Ok(()),
                    Some(disk) => check_marks(&format!("/dev/{disk}"), *generation),
                    None => {
                        let has_none = kind.mode == "dax" && driver == "nd_pmem";
                        check!(has_none || to.is_some(), "it has no disk");
                        Ok(())
                    }
                };
            }
            Some(_) => check!(to.is_some(), "it is {mode}"),
            None => {}
        }
        // One that is begun says that it is raw, until it is what it is to be.
        let may = match to {
            Some(Some(kind)) => mode == "raw" || kind.mode == mode,
            Some(None) => mode == "raw",
            None => false,
        };
        check!(may, "{mode} is there");
        Ok(())
    }
}

fn look(c: &Ctx, number: u64, acknowledged: &[String], region: &str, dimm: &str) -> TestResult {
    let known = Known::new(acknowledged)?;
    c.bind("nvdimm", dimm)?;
    c.bind("nd_region", region)?;
    c.read(c.nd("ndbus0").join("wait_probe"))?;
    let disks = c.disks();
    check!(disks.len() < 2, "{disks:?}");
    let mut found = Vec::new();
    for namespace in c.namespaces() {
        let mode = c.read(c.nd(&namespace).join("mode"))?;
        found.push((mode, disks.first().cloned()));
    }
    known.allows(&found, &c.driver)?;
    if number % RENEWED == 0 {
        c.ok(&["ndctl", "destroy-namespace", "-f", "all"])?;
        c.init_labels()?;
        c.create_namespace(&["-m", "fsdax"])?;
        let disk = c.disks().first().cloned().unwrap_or_default();
        write_marks(&format!("/dev/{disk}"), 99)?;
        check_marks(&format!("/dev/{disk}"), 99)?;
    }
    Ok(())
}

fn bind(c: &mut Ctx) -> TestResult {
    let (start, len) = Alias::new(c)?.range();
    let (regions, dimms) = (c.regions(), c.nd_devices("nmem"));
    let ([region], [dimm]) = (&regions[..], &dimms[..]) else {
        fail!("{regions:?}, {dimms:?}");
    };
    let away = || -> TestResult {
        for (driver, device) in [("nd_region", region), ("nvdimm", dimm)] {
            if c.bound_to(device).is_some() {
                c.unbind(driver, device)?;
            }
        }
        Ok(())
    };
    away()?;
    let all = crash::explore(c, NAME, start, len, |number, acknowledged| {
        let looked = look(c, number, acknowledged, region, dimm);
        away()?;
        looked
    })?;
    all.is_right()
}
