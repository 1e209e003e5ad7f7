// SPDX-License-Identifier: GPL-2.0
//! States that a power cut could have left persistent memory in, as qemu/harness/src/crash.rs makes them of a
//! recording: they are put into place one after the other, and looked at.
//!
//! What is put there does not pass the driver. The machine has the file of its NVDIMM a second time, as the memory
//! of a PCI device (ivshmem), so that a range can be read and written whoever has it, and while nobody does.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::sys::Map;
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};

const PAGE: usize = 4096;
const LINE: usize = 64;
/// The harness's file, as a disk.
const STATES: &str = "/dev/vda";

/// The NVDIMM, past all drivers.
pub struct Alias {
    map: Map,
    /// Physical address of the NVDIMM's own first byte.
    start: u64,
    /// Its bytes, without the label area, and those of that, once they are known.
    size: usize,
    labels: usize,
}

impl Alias {
    pub fn new(c: &Ctx) -> TestResult<Alias> {
        const DEVICES: &str = "/sys/bus/pci/devices";
        let is = |dir: &str, file: &str, id: &str| {
            fs::read_to_string(format!("{dir}/{file}")).is_ok_and(|text| text.trim() == id)
        };
        let devices = fs::read_dir(DEVICES)?.flatten();
        let mut dirs = devices.map(|e| e.path().display().to_string());
        let ours = |dir: &String| is(dir, "vendor", "0x1af4") && is(dir, "device", "0x1110");
        let Some(dir) = dirs.find(ours) else {
            fail!("no device of ivshmem");
        };
        c.write(format!("{dir}/enable"), "1")?;
        let f = File::options()
            .read(true)
            .write(true)
            .open(format!("{dir}/resource2"))?;
        let len = f.metadata()?.len() as usize;
        let [region] = c
            .regions()
            .try_into()
            .map_err(|v| format!("regions: {v:?}"))?;
        Ok(Alias {
            map: Map::shared(&f, 0, len)?,
            start: c.read_u64(c.nd(&region).join("resource"))?,
            size: c.read_u64(c.nd(&region).join("size"))? as usize,
            labels: 0,
        })
    }

    fn offset(&self, phys: u64) -> usize {
        (phys - self.start) as usize
    }

    /// All of it: physical address and length.
    pub fn range(&self) -> (u64, usize) {
        (self.start, self.size)
    }

    /// Has these bytes, and zeroes after them, in the label area: the end of the file.
    fn set_labels(&mut self, c: &Ctx, labels: &[u8]) -> TestResult {
        const COPY: &str = "/run/labels";
        if self.labels == 0 {
            c.ok(&["ndctl", "read-labels", "all", "-o", COPY])?;
            self.labels = fs::metadata(COPY)?.len() as usize;
        }
        let start = self.map.len() - self.labels;
        let area = &mut self.map.slice_mut()[start..];
        area[..labels.len()].copy_from_slice(labels);
        area[labels.len()..].fill(0);
        Ok(())
    }

    pub fn get(&self, phys: u64, len: usize) -> &[u8] {
        &self.map.slice()[self.offset(phys)..][..len]
    }

    pub fn get_mut(&mut self, phys: u64, len: usize) -> &mut [u8] {
        let at = self.offset(phys);
        &mut self.map.slice_mut()[at..][..len]
    }
}

/// Those of one recording.
pub struct States {
    input: BufReader<std::io::Take<File>>,
    /// What is durable at the moment of the next state.
    image: Vec<u8>,
    pub acknowledged: Vec<String>,
    /// The label area, as long as has been written to; it was zeroes.
    labels: Vec<u8>,
}

/// Which one it is: its number, and how many events came before it.
#[derive(Clone, Copy, Debug)]
pub struct Which {
    pub number: u64,
    pub moment: u64,
}

fn word(input: &mut impl Read, len: usize) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes[..len])?;
    Ok(u64::from_le_bytes(bytes))
}

fn text(input: &mut impl Read) -> TestResult<String> {
    let mut bytes = vec![0; word(input, 2)? as usize];
    input.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl States {
    /// Of the recording with this name, of a range of `size` bytes.
    pub fn of(c: &Ctx, name: &str, size: usize) -> TestResult<States> {
        c.ok(&["modprobe", "virtio_blk"])?;
        c.wait_exists(STATES)?;
        let mut f = File::open(STATES)?;
        let mut magic = [0; 8];
        f.read_exact(&mut magic)?;
        check!(&magic == b"rpmemsts", "no states");
        loop {
            let len = word(&mut f, 8)?;
            if len == 0 {
                fail!("no states of {name}");
            }
            let end = f.stream_position()? + len;
            if text(&mut f)? == name {
                check_eq!(word(&mut f, 8)?, size as u64, "its size");
                let left = end - f.stream_position()?;
                return Ok(States {
                    input: BufReader::with_capacity(1 << 20, f.take(left)),
                    image: vec![0; size],
                    acknowledged: Vec::new(),
                    labels: Vec::new(),
                });
            }
            f.seek(SeekFrom::Start(end))?;
        }
    }

    /// Puts the next one into `medium`, which holds the one before and what has come of that.
    pub fn next(&mut self, medium: &mut [u8]) -> TestResult<Option<Which>> {
        loop {
            let mut kind = [0];
            if self.input.read(&mut kind)? == 0 {
                return Ok(None);
            }
            match kind[0] {
                b'b' => self.load(PAGE)?,
                b'd' => self.load(LINE)?,
                b'a' => {
                    let text = text(&mut self.input)?;
                    self.acknowledged.push(text);
                }
                b'l' => {
                    let at = word(&mut self.input, 8)? as usize;
                    let end = at + word(&mut self.input, 2)? as usize;
                    if self.labels.len() < end {
                        self.labels.resize(end, 0);
                    }
                    self.input.read_exact(&mut self.labels[at..end])?;
                }
                b's' => break,
                other => fail!("not an event: {other}"),
            }
        }
        let which = Which {
            number: word(&mut self.input, 8)?,
            moment: word(&mut self.input, 8)?,
        };
        let mut durable = Vec::new();
        for _ in 0..word(&mut self.input, 4)? {
            let at = word(&mut self.input, 8)? as usize;
            durable.push((at, self.image[at..at + LINE].to_vec()));
            self.input.read_exact(&mut self.image[at..at + LINE])?;
        }
        for (to, from) in medium.chunks_mut(PAGE).zip(self.image.chunks(PAGE)) {
            if to != from {
                to.copy_from_slice(from);
            }
        }
        for (at, line) in durable {
            self.image[at..at + LINE].copy_from_slice(&line);
        }
        Ok(Some(which))
    }

    fn load(&mut self, len: usize) -> TestResult {
        let at = word(&mut self.input, 8)? as usize;
        self.input.read_exact(&mut self.image[at..at + len])?;
        Ok(())
    }
}

/// What came of all states of a recording.
pub struct Explored {
    name: String,
    states: u64,
    wrong: Vec<String>,
}

/// Puts each state in place, and has `look` at it, given its number and what was acknowledged by then.
pub fn explore(
    c: &Ctx,
    name: &str,
    phys: u64,
    len: usize,
    mut look: impl FnMut(u64, &[String]) -> TestResult,
) -> TestResult<Explored> {
    let mut alias = Alias::new(c)?;
    let mut states = States::of(c, name, len)?;
    let mut all = Explored {
        name: name.into(),
        states: 0,
        wrong: Vec::new(),
    };
    while let Some(which) = states.next(alias.get_mut(phys, len))? {
        if !states.labels.is_empty() {
            alias.set_labels(c, &states.labels)?;
        }
        all.states += 1;
        if let Err(why) = look(which.number, &states.acknowledged) {
            all.wrong.push(format!(
                "state {} (before event {}, {} acknowledged, seed {}): {why:?}",
                which.number,
                which.moment,
                states.acknowledged.len(),
                c.seed
            ));
        }
    }
    check!(all.states > 0, "no states of {name}");
    Ok(all)
}

impl Explored {
    fn say(&self) {
        for why in self.wrong.iter().take(8) {
            println!("{}: {why}", self.name);
        }
        let (states, wrong) = (self.states, self.wrong.len());
        println!(
            "result: {}: {states} crash states, {wrong} violations",
            self.name
        );
    }

    /// Each has all that was acknowledged.
    pub fn is_right(&self) -> TestResult {
        self.say();
        match self.wrong.first() {
            None => Ok(()),
            Some(why) => fail!("{}: {} violations; {why}", self.name, self.wrong.len()),
        }
    }

    /// A fault was planted in what was recorded, and shows.
    pub fn is_wrong(&self) -> TestResult {
        self.say();
        check!(!self.wrong.is_empty(), "{}: it does not show", self.name);
        Ok(())
    }
}
