// SPDX-License-Identifier: GPL-2.0
//! Power cuts at random times while fio writes to every mode side by side: blocks, files and
//! mappings. A write counts from when it was acknowledged as durable; after the next boot fio finds
//! each of those.
//!
//! fio saves how many writes each job has begun ("verify state") on a disk that no power cut harms,
//! then the power fails. Each but the last one has been acknowledged, with its flush. Other programs
//! write on until the end.

use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{json_u64, Buf, Rng};
use crate::support::namespace::active;
use crate::support::tools;
use crate::{check, check_eq};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

pub const TESTS: &[Test] = crate::tests! {
    loss_prepare => prepare,
    loss_round => round,
    loss_end => end,
};

/// Where what must survive in any case is.
const SAFE: &str = "/mnt/safe";
const TRIGGER: &str = "/run/trigger";
const SAVED: &str = "/run/saved";
/// Followed by the name of a job that is ready.
const READY: &str = "/run/ready-";
/// A pipe with a line for each job that may begin.
const GATE: &str = "/run/gate";
/// After this many rounds the file systems are checked, too.
const FSCK: u64 = 20;
/// MiB that each job may write, and where on a disk the noise begins.
const SIZE: u64 = 8;
const BLOCK_SIZE: u64 = 4096;
const NOISE: u64 = 32;

/// What a job of fio writes to.
#[derive(Clone, Copy, PartialEq)]
enum On {
    /// The disk of the namespace of that name.
    Disk(&'static str),
    /// Its node.
    Node(&'static str),
    /// A file on the file system on it.
    File(&'static str),
}

struct Job {
    name: &'static str,
    on: On,
    how: &'static str,
}

const BLOCK: &str = "ioengine=psync\ndirect=1\nsync=1";
const MAP: &str = "ioengine=mmap\nfdatasync=1";
/// MAP_SYNC, with flushes by the CPU alone.
const PMEM: &str = "ioengine=libpmem\nsync=1";

/// The last one is for machines with virtio-pmem alone.
const JOBS: &[Job] = &[
    Job {
        name: "raw-block",
        on: On::Disk("raw"),
        how: BLOCK,
    },
    Job {
        name: "raw-map",
        on: On::Node("map"),
        how: MAP,
    },
    Job {
        name: "sector-block",
        on: On::Disk("sector"),
        how: BLOCK,
    },
    Job {
        name: "fsdax-ext4-write",
        on: On::File("ext4"),
        how: "ioengine=psync\nsync=1",
    },
    Job {
        name: "fsdax-ext4-map",
        on: On::File("ext4"),
        how: MAP,
    },
    Job {
        name: "fsdax-ext4-pmem",
        on: On::File("ext4"),
        how: PMEM,
    },
    Job {
        name: "fsdax-xfs-write",
        on: On::File("xfs"),
        how: "ioengine=psync\nsync=1",
    },
    Job {
        name: "fsdax-xfs-map",
        on: On::File("xfs"),
        how: MAP,
    },
    Job {
        name: "fsdax-xfs-pmem",
        on: On::File("xfs"),
        how: PMEM,
    },
    Job {
        name: "devdax-map",
        on: On::Node("devdax"),
        how: MAP,
    },
    Job {
        name: "virtio-block",
        on: On::Disk("virtio"),
        how: BLOCK,
    },
];

/// Those of this machine.
fn jobs() -> &'static [Job] {
    match tools::has_virtio_pmem() {
        true => JOBS,
        false => &JOBS[..JOBS.len() - 1],
    }
}

/// Namespaces that are made: name, mode, size. Whole sections of struct pages, 128 MiB: on arm64
/// `memremap_pages()` takes no part of one behind a whole one when they are on the medium.
const NAMESPACES: &[(&str, &str, &str)] = &[
    ("raw", "raw", "128M"),
    ("map", "raw", "128M"),
    ("sector", "sector", "128M"),
    ("ext4", "fsdax", "256M"),
    ("xfs", "fsdax", "384M"),
    ("devdax", "devdax", "128M"),
];

/// The devices that carry them, by name.
fn carriers(c: &Ctx) -> TestResult<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for ns in c.namespaces() {
        let name = c.read(c.nd(&ns).join("alt_name")).unwrap_or_default();
        let name = if name.is_empty() {
            "virtio".into()
        } else {
            name
        };
        all.insert(name, active(c, &ns)?);
    }
    let virtio = usize::from(tools::has_virtio_pmem());
    check_eq!(all.len(), NAMESPACES.len() + virtio, "{all:?}");
    Ok(all)
}

struct Place {
    /// By the name of the namespace.
    disk: BTreeMap<String, String>,
}

impl Place {
    fn find(c: &Ctx) -> TestResult<Place> {
        let mut disk = BTreeMap::new();
        for (name, device) in carriers(c)? {
            disk.insert(name, c.disk_of(&device)?);
        }
        Ok(Place { disk })
    }

    fn dev(&self, name: &str) -> String {
        format!("/dev/{}", self.disk[name])
    }

    /// The files of a round are others than those of the round before: fio fills some when it starts.
    fn path(&self, job: &Job, round: u64) -> String {
        match job.on {
            On::Disk(name) => self.dev(name),
            On::Node(name) => format!("/dev/r{}", self.disk[name]),
            On::File(fs) => format!("/mnt/{fs}/{}-{}", job.name, round % 2),
        }
    }

    fn mount(&self, c: &Ctx) -> TestResult {
        for fs in ["ext4", "xfs"] {
            c.mount(&self.dev(fs), &format!("/mnt/{fs}"), "dax=always")?;
        }
        Ok(())
    }

    fn umount(&self, c: &Ctx) -> TestResult {
        c.umount("/mnt/ext4")?;
        c.umount("/mnt/xfs")?;
        c.ok(&["fsck.ext4", "-n", "-f", &self.dev("ext4")])?;
        c.ok(&["xfs_repair", "-n", &self.dev("xfs")])?;
        Ok(())
    }

    /// The program of a round for fio: to write, or to verify that many writes of each job, which
    /// are in the same order.
    fn program(&self, seed: u64, round: u64, written: Option<&[u64]>) -> String {
        let verify = written.is_some();
        let mut text = format!(
            "[global]\nthread=1\nbs=4k\nsize={SIZE}m\nrandseed={seed}\n{}\n",
            match verify {
                true => "rw=randread\nverify_fatal=1",
                false => "rw=randwrite\ndo_verify=0",
            }
        );
        for (n, job) in jobs().iter().enumerate() {
            // That engine would write before it reads.
            let how = match verify && job.how == PMEM {
                true => "ioengine=psync",
                false => job.how,
            };
            text += &format!(
                "[{}]\nfilename={}\n{how}\n",
                job.name,
                self.path(job, round)
            );
            text += &match written.map(|w| w[n]) {
                // The number of a job is part of its seed: it stays, but has nothing to verify.
                Some(0) => "number_ios=1\n".to_string(),
                Some(writes) => format!("verify=crc32c\nnumber_ios={writes}\n"),
                None => format!(
                    "verify=crc32c\nexec_prerun=: > {READY}{} && read go < {GATE}\n",
                    job.name
                ),
            };
        }
        text
    }

    /// Writers that nobody verifies: the media and the journals are busy until the end.
    fn noise(&self) -> TestResult {
        for (path, flags, start) in [
            ("/mnt/ext4/noise".to_string(), libc::O_CREAT, 0),
            ("/mnt/xfs/noise".to_string(), libc::O_CREAT, 0),
            (self.dev("raw"), libc::O_DIRECT, NOISE << 20),
            (self.dev("sector"), libc::O_DIRECT, NOISE << 20),
        ] {
            let f = tools::open_flags(path, flags)?;
            std::thread::spawn(move || {
                let buf = Buf::pattern(4096, start);
                for n in 0u64.. {
                    // No order that a log could follow.
                    let at = start + (n * 2_654_435_761 % 4096) * 4096;
                    if f.write_all_at(buf.bytes(), at).is_err()
                        || n % 8 == 0 && f.sync_all().is_err()
                    {
                        return;
                    }
                }
            });
        }
        Ok(())
    }

    /// Zeroes where the jobs will write: what an earlier round left there does not count for it.
    fn wipe(&self, c: &Ctx, round: u64) -> TestResult {
        let len = format!("{}", SIZE << 20);
        for job in jobs() {
            match job.on {
                On::Disk(name) | On::Node(name) => {
                    c.ok(&["blkdiscard", "-z", "-l", &len, &self.dev(name)])?;
                }
                On::File(_) => {
                    let path = self.path(job, round);
                    let _ = fs::remove_file(&path);
                    fs::File::create(&path)?.set_len(SIZE << 20)?;
                }
            }
        }
        c.ok(&["sync"])?;
        Ok(())
    }
}

fn mount_safe(c: &Ctx) -> TestResult {
    c.modprobe("virtio_blk")?;
    c.wait_exists("/dev/vda")?;
    c.mount("/dev/vda", SAFE, "sync")
}

fn prepare(c: &mut Ctx) -> TestResult {
    c.init_labels()?;
    // The other one is virtio-pmem's.
    let labelled = |r: &String| c.read(c.nd(r).join("nstype")).is_ok_and(|t| t == "5");
    let Some(region) = c.regions().into_iter().find(labelled) else {
        crate::fail!("no region with labels")
    };
    for (name, mode, size) in NAMESPACES {
        c.create_namespace(&["-r", &region, "-n", name, "-m", mode, "-s", size])?;
    }
    let place = Place::find(c)?;
    c.mkfs("ext4", &place.dev("ext4"))?;
    c.ok(&["mkfs.xfs", "-q", "-f", &place.dev("xfs")])?;
    c.modprobe("virtio_blk")?;
    c.wait_exists("/dev/vda")?;
    c.mkfs("ext4", "/dev/vda")?;
    mount_safe(c)?;
    fs::create_dir(format!("{SAFE}/state"))?;
    fs::write(format!("{SAFE}/round"), "0")?;
    c.umount(SAFE)
}

/// The seed of a round, which fio takes its numbers from.
fn seed(c: &Ctx, round: u64) -> u64 {
    (c.seed << 16) + round
}

/// How many writes of each job had been acknowledged before the cut: struct verify_state_hdr and
/// struct thread_io_list of fio 3.39 (verify-state.h) say how many had begun, one at a time. (The
/// option verify_state_load goes by the last one, which may have to wait for its flush.)
fn acknowledged() -> TestResult<Vec<u64>> {
    let of = |(n, job): (usize, &Job)| {
        let state = fs::read(format!("{SAFE}/state/local-{}-{n}-verify.state", job.name))?;
        // After it come those that were the last to end, if any has.
        check!(state.len() >= 184, "a state of {} bytes", state.len());
        let word = |at: usize| state[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        check_eq!(word(0), 4, "a state of another fio");
        Ok(word(48).saturating_sub(1))
    };
    jobs().iter().enumerate().map(of).collect()
}

/// Verify what the round before the cut has acknowledged, and add it up.
fn verify(c: &Ctx, place: &Place, round: u64) -> TestResult {
    let writes = acknowledged()?;
    let program = place.program(seed(c, round), round, Some(&writes));
    fs::write("/run/verify", program)?;
    let r = c.run(&["fio", "/run/verify", "--output-format=json"])?;
    let mut done = Vec::new();
    let answer = r.out.replace("\" : ", "\":");
    let told = answer.split("\"jobname\"").skip(1);
    for ((job, text), writes) in jobs().iter().zip(told).zip(&writes) {
        check!(text.contains(job.name), "fio's answer: {r}");
        check_eq!(json_u64(text, "error"), Some(0), "{} lost: {r}", job.name);
        // The first one is that of reads.
        let Some(bytes) = json_u64(text, "io_bytes") else {
            crate::fail!("fio's answer: {r}")
        };
        check_eq!(bytes, (*writes).max(1) * BLOCK_SIZE, "{}: {r}", job.name);
        done.push(writes * BLOCK_SIZE);
    }
    check_eq!(done.len(), jobs().len(), "{r}");
    check_eq!(r.status, 0, "round {round}: {r}");
    let file = format!("{SAFE}/verified");
    let mut sums: Vec<u64> = fs::read_to_string(&file)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    sums.resize(jobs().len(), 0);
    for (sum, bytes) in sums.iter_mut().zip(&done) {
        *sum += bytes;
    }
    let text: Vec<String> = sums.iter().map(u64::to_string).collect();
    fs::write(&file, text.join(" "))?;
    println!("round {round}: bytes verified {done:?}");
    Ok(())
}

fn last_round(c: &Ctx) -> TestResult<u64> {
    c.read_u64(format!("{SAFE}/round"))
}

/// Starts the writers of a round. They wait at the gate, a pipe, when they are ready.
fn writers(c: &Ctx, place: &Place, round: u64) -> TestResult<Child> {
    fs::write("/run/write", place.program(seed(c, round), round, None))?;
    for file in [GATE, TRIGGER].into_iter().map(String::from).chain(ready()) {
        let _ = fs::remove_file(file);
    }
    let gate = CString::new(GATE).unwrap_or_default();
    // SAFETY: a NUL-terminated string that lives through the call.
    let r = unsafe { libc::mkfifo(gate.as_ptr(), 0o600) };
    check_eq!(r, 0, "{GATE}: {}", std::io::Error::last_os_error());
    let writers = Command::new("fio")
        .args(["/run/write", "--output=/run/fio"])
        .arg(format!("--aux-path={SAFE}/state"))
        .arg(format!("--trigger-file={TRIGGER}"))
        .arg(format!("--trigger=: > {SAVED}"))
        .spawn()?;
    Ok(writers)
}

/// The files that say that a job is ready.
fn ready() -> impl Iterator<Item = String> {
    jobs().iter().map(|j| format!("{READY}{}", j.name))
}

fn wait_ready(c: &Ctx, writers: &mut Child) -> TestResult {
    let mut ended = None;
    c.wait_for("the jobs to be ready", || {
        ended = writers.try_wait().ok().flatten();
        ended.is_some() || ready().all(|file| Path::new(&file).exists())
    })?;
    match ended {
        None => Ok(()),
        Some(status) => {
            let said = c.read("/run/fio").unwrap_or_default();
            crate::fail!("fio does not begin: {status}: {said}")
        }
    }
}

/// Opens the gate, and pulls the trigger after a random time. Whether what was acknowledged by then
/// has been saved.
fn write(
    c: &Ctx,
    place: &Place,
    writers: &mut Child,
    rng: &mut Rng,
    round: u64,
) -> TestResult<bool> {
    wait_ready(c, writers)?;
    place.wipe(c, round)?;
    for state in fs::read_dir(format!("{SAFE}/state"))?.flatten() {
        fs::remove_file(state.path())?;
    }
    let mut gate = fs::OpenOptions::new().write(true).open(GATE)?;
    gate.write_all(&vec![b'\n'; jobs().len()])?;
    // CLOCK: the random time.
    std::thread::sleep(Duration::from_millis(200 + rng.below(1200)));
    check!(writers.try_wait()?.is_none(), "the writers have ended");
    fs::write(TRIGGER, "")?;
    let mut ended = None;
    while ended.is_none() && !Path::new(SAVED).exists() {
        // CLOCK: how often it is looked at.
        std::thread::sleep(Duration::from_millis(1));
        ended = writers.try_wait()?;
    }
    let Some(status) = ended.filter(|_| !Path::new(SAVED).exists()) else {
        return Ok(true);
    };
    // get_all_io_list() of fio 3.39 tells the jobs to stop, and reads lists that a job frees when
    // it has: at times fio dies of it before it has saved anything.
    let said = c.read("/run/fio").unwrap_or_default();
    check_eq!(
        status.signal(),
        Some(libc::SIGSEGV),
        "fio: {status}: {said}"
    );
    check!(!said.contains("error="), "fio: {said}");
    Ok(false)
}

fn round(c: &mut Ctx) -> TestResult {
    // Or the log of the kernel has it when fio dies: see `write`.
    c.write("/proc/sys/debug/exception-trace", "0")?;
    // Large modules: one CPU loads the one, the other the other.
    let xfs = Command::new("modprobe").arg("xfs").spawn();
    mount_safe(c)?;
    let place = Place::find(c)?;
    check!(xfs?.wait()?.success(), "modprobe xfs");
    place.mount(c)?;
    let last = last_round(c)?;
    let now = last + 1;
    // fio takes its time to start: what was written is verified meanwhile.
    let mut first = writers(c, &place, now)?;
    if last > 0 {
        verify(c, &place, last)?;
    }
    if last > 0 && last % FSCK == 0 {
        wait_ready(c, &mut first)?;
        place.umount(c)?;
        place.mount(c)?;
    }
    fs::write(format!("{SAFE}/round"), now.to_string())?;

    place.noise()?;
    let mut rng = Rng(seed(c, now) | 1);
    for _ in 0..8 {
        rng.below(2);
    }
    let mut saved = write(c, &place, &mut first, &mut rng, now)?;
    for _ in 0..2 {
        if !saved {
            println!("result: round {now}: fio died before it had saved anything: once more");
            let mut next = writers(c, &place, now)?;
            saved = write(c, &place, &mut next, &mut rng, now)?;
        }
    }
    check!(saved, "fio dies each time");
    c.power_cut()
}

fn end(c: &mut Ctx) -> TestResult {
    mount_safe(c)?;
    let place = Place::find(c)?;
    place.mount(c)?;
    let rounds = last_round(c)?;
    verify(c, &place, rounds)?;
    place.umount(c)?;
    println!(
        "result: {rounds} power cuts, seed {}: every byte acknowledged as durable was there",
        c.seed
    );
    let sums = c.read(format!("{SAFE}/verified"))?;
    let sums: Vec<u64> = sums.split(' ').filter_map(|n| n.parse().ok()).collect();
    check_eq!(sums.len(), jobs().len());
    for (job, sum) in jobs().iter().zip(sums) {
        println!("result: {}: {sum} bytes verified", job.name);
        check!(sum > 0, "{}: nothing was ever acknowledged", job.name);
    }
    c.umount(SAFE)
}
