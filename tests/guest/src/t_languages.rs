// SPDX-License-Identifier: GPL-2.0
//! The logs in lib/python, lib/go and lib/java: what they acknowledged before the power failed, they find after
//! the next boot, and so does the one in Rust, whose format is theirs. On virtio-pmem a power cut takes what
//! was not flushed; on an NVDIMM it shows that nothing else was needed.

use crate::log::Log;
use crate::support::ctx::{self, Ctx, Test, TestResult};
use crate::support::disk;
use crate::support::disk::{Buf, PAGE};
use crate::support::node::Node;
use crate::{check, check_eq, fail};
use rpmem::Device;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};

pub const TESTS: &[Test] = crate::tests! {
    language_python_size => python_size,
    language_python_cut => |c| cut(c, PYTHON),
    language_python_survives => |c| survives(c, PYTHON),
    language_go_fallback => go_fallback,
    language_go_cut => |c| cut(c, GO),
    language_go_survives => |c| survives(c, GO),
    language_java_channel => java_channel,
    language_java_cut => |c| cut(c, JAVA),
    language_java_survives => |c| survives(c, JAVA),
};

/// The programs that write to the NVDIMM and to virtio-pmem: by instructions of the CPU where the language
/// can call them, and by msync(2).
type Programs = [&'static [&'static str]; 2];

const PYTHON: Programs = [&["/usr/lib/rpmem/rpmem_log.py"]; 2];
const GO: Programs = [
    &["/usr/lib/rpmem/rpmem-log-cgo1"],
    &["/usr/lib/rpmem/rpmem-log-cgo0"],
];
// It starts often and does little: compilers would take longer than they save, on an emulated CPU.
const JAVA: Programs = [
    &[
        "java",
        "-Xint",
        "--enable-native-access=ALL-UNNAMED",
        "-Drpmem.library=/usr/lib/rpmem/libpersist.so",
        "-cp",
        "/usr/lib/rpmem",
        "RpmemLog",
    ],
    &[
        "java",
        "-Xint",
        "--enable-native-access=ALL-UNNAMED",
        "-cp",
        "/usr/lib/rpmem",
        "RpmemLog",
    ],
];

/// Where the image of scripts/stages/languages is, and what no power cut takes.
const ROOT: &str = "/mnt/languages";
const SAFE: &str = "/dev/vda";
/// Acknowledged records of each before the power fails. The next ones are under way then.
const RECORDS: usize = 100;
/// Bytes of a log.
const LEN: usize = 1 << 20;
/// Of its header, and of that of a record.
const FIRST: usize = 128;
const HEAD: usize = 16;

fn record(n: usize) -> String {
    format!("{n} {}", "x".repeat(n * 37 % 150))
}

/// Mounts what the programs need, once a boot.
fn set_up(c: &Ctx) -> TestResult {
    if Path::new(ROOT).join("usr").exists() {
        return Ok(());
    }
    c.modprobe("virtio_blk")?;
    c.wait_exists(SAFE)?;
    c.wait_exists("/dev/vdb")?;
    c.mount("/dev/vdb", ROOT, "ro")?;
    for dir in ["dev", "proc"] {
        c.ok(&[
            "mount",
            "--bind",
            &format!("/{dir}"),
            &format!("{ROOT}/{dir}"),
        ])?;
    }
    c.ok(&["mount", "-t", "tmpfs", "tmpfs", &format!("{ROOT}/tmp")])?;
    Ok(())
}

/// Without a length, Python goes by stat(2).
fn python_size(c: &mut Ctx) -> TestResult {
    const PROGRAM: &str = "import mmap, os, sys\n\
        fd = os.open(sys.argv[1], os.O_RDWR)\n\
        print(os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_END))\n\
        mmap.mmap(fd, os.lseek(fd, 0, os.SEEK_END)).close()\n\
        mmap.mmap(fd, 0)\n";
    set_up(c)?;
    let h = Node::nth(c, 0)?;
    let python = ["busybox", "chroot", ROOT, "python3", "-c", PROGRAM, &h.path];
    let said = c.fails(&python)?;
    let size = h.attr(c, "size")?;
    check!(said.starts_with(&format!("0 {size}\n")), "{said}");
    check!(said.contains("OSError: [Errno 22]"), "{said}");
    Ok(())
}

/// With cgo on virtio-pmem, which has no synchronous mappings.
fn go_fallback(c: &mut Ctx) -> TestResult {
    set_up(c)?;
    let Some(p) = Place::all(c, [GO[0]; 2])?
        .into_iter()
        .find(|p| p.number == 1)
    else {
        fail!("no virtio-pmem")
    };
    c.ok(&p.argv(&["--format"]))?;
    check_eq!(p.rust_finds()?, 0);
    Ok(())
}

/// Java's own mapping of files wants to make the device longer.
fn java_channel(c: &mut Ctx) -> TestResult {
    set_up(c)?;
    let h = Node::nth(c, 0)?;
    let java = ["busybox", "chroot", ROOT, "java"];
    let argv = ["-cp", "/usr/lib/rpmem", "MapChannel", &h.path];
    let said = c.ok(&[&java[..], &argv].concat())?;
    check_eq!(said, "size 0\nInvalid argument\n");
    Ok(())
}

/// A program, with its device, and what works on that.
struct Place {
    here: Node,
    argv: Vec<String>,
    number: usize,
}

impl Place {
    /// On the NVDIMM, and on virtio-pmem.
    fn all(c: &Ctx, programs: Programs) -> TestResult<Vec<Place>> {
        let mut places = Vec::new();
        for number in 0..2 {
            let here = Node::nth(c, number)?;
            let synchronous = Device::open(&here.path)?.info()?.synchronous;
            let argv = ["busybox", "chroot", ROOT]
                .iter()
                .chain(programs[usize::from(!synchronous)])
                .copied()
                .chain([&*here.path]);
            places.push(Place {
                argv: argv.map(str::to_string).collect(),
                number: usize::from(!synchronous),
                here,
            });
        }
        check!(places[0].number != places[1].number, "one device of each");
        Ok(places)
    }

    fn argv<'a>(&'a self, what: &'a [&'a str]) -> Vec<&'a str> {
        let mut argv: Vec<&str> = self.argv.iter().map(String::as_str).collect();
        argv.extend(what);
        argv
    }

    /// It says so. Java takes its time to start: this is asked as seldom as possible.
    fn refuses(&self, c: &Ctx, want: &str) -> TestResult {
        let said = c.fails(&self.argv(&["--append"]))?;
        let node = format!("{}: ", self.here.path);
        let is_it = |l: &str| l.strip_prefix(&node).is_some_and(|l| l.contains(want));
        check!(said.lines().any(is_it), "{want:?} is not in: {said}");
        Ok(())
    }

    /// Starts it; what it appends comes in by a pipe.
    fn append(&self) -> TestResult<Child> {
        let argv = self.argv(&["--append"]);
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]);
        Ok(command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?)
    }

    /// How many records it had acknowledged.
    fn acknowledged(&self) -> TestResult<usize> {
        let mut buf = Buf::page(PAGE);
        disk::direct(SAFE)?.read_exact_at(buf.bytes_mut(), self.safe())?;
        let text = String::from_utf8_lossy(buf.bytes()).into_owned();
        let number = text.lines().next().and_then(|l| l.parse().ok());
        number.ok_or_else(|| format!("{SAFE} has no number for {}", self.here.path).into())
    }

    fn safe(&self) -> u64 {
        (self.number * PAGE) as u64
    }

    /// Has it append one record after the other, and notes each that it acknowledges. When there are enough
    /// it waits for the others. It does not end before the program does.
    fn go_on(&self, enough: &Barrier) -> TestResult {
        let mut program = self.append()?;
        let (Some(mut to), Some(from)) = (program.stdin.take(), program.stdout.take()) else {
            fail!("no pipes")
        };
        let mut lines = BufReader::new(from).lines();
        let safe = disk::direct(SAFE)?;
        for n in 1.. {
            writeln!(to, "{}", record(n - 1))?;
            let Some(line) = lines.next() else { break };
            check_eq!(line?, format!("acknowledged {n}"));
            let mut buf = Buf::page(PAGE);
            writeln!(buf.bytes_mut(), "{n}")?;
            safe.write_all_at(buf.bytes(), self.safe())?;
            if n == RECORDS {
                enough.wait();
            }
        }
        fail!("{} has ended: {}", self.argv.join(" "), program.wait()?)
    }

    /// The records that it finds are those that were appended.
    fn finds(&self, c: &Ctx) -> TestResult<usize> {
        let text = c.ok(&self.argv(&[]))?;
        for (n, line) in text.lines().enumerate() {
            check_eq!(line, record(n), "record {n} of {}", self.here.path);
        }
        Ok(text.lines().count())
    }

    /// As the log in Rust finds them.
    fn rust_finds(&self) -> TestResult<usize> {
        let device = Device::open(&self.here.path)?;
        let map = device.map_plain(0, LEN)?;
        let mut found = 0;
        let mut wrong = None;
        Log::open(map, |bytes| {
            if bytes != record(found).as_bytes() {
                wrong.get_or_insert(found);
            }
            found += 1;
        })?;
        check_eq!(wrong, None, "a record");
        Ok(found)
    }
}

/// Where the record of that number begins.
fn place_of(number: usize) -> usize {
    let taken = |n| HEAD + record(n).len().next_multiple_of(8);
    FIRST + (0..number).map(taken).sum::<usize>()
}

fn cut(c: &mut Ctx, programs: Programs) -> TestResult {
    set_up(c)?;
    let places = Place::all(c, programs)?;
    for p in &places {
        // What is read does not differ by the place, and a program takes seconds to start.
        if p.number == 0 {
            let disk = p.here.space.dev();
            c.mkfs("ext4", &disk)?;
            p.refuses(c, "no log")?;
            c.ok(&["fsck.ext4", "-n", "-f", &disk])?;
        }
        c.ok(&p.argv(&["--format"]))?;
    }
    let enough = Arc::new(Barrier::new(places.len() + 1));
    for p in places {
        let enough = enough.clone();
        std::thread::spawn(move || {
            println!("fail: {:?}", p.go_on(&enough));
            std::process::exit(ctx::EXIT_FAIL);
        });
    }
    enough.wait();
    // They go on meanwhile.
    c.power_cut()
}

fn survives(c: &mut Ctx, programs: Programs) -> TestResult {
    set_up(c)?;
    for p in Place::all(c, programs)? {
        let acknowledged = p.acknowledged()?;
        check!(acknowledged >= RECORDS);
        let found = p.rust_finds()?;
        println!(
            "result: {}: {found} records of {acknowledged} acknowledged",
            p.argv[3..].join(" ")
        );
        check!(
            found >= acknowledged,
            "{}: {found} records are there of {acknowledged} acknowledged",
            p.here.path
        );
        let end = place_of(found);
        let store = |at: usize, word: u64| -> TestResult {
            let map = Device::open(&p.here.path)?.map_plain(0, LEN)?;
            map.store(at, &word.to_le_bytes());
            Ok(())
        };
        // What a torn record can leave.
        store(end, 1)?;
        let lengths: &[u64] = match p.number {
            0 => &[u64::MAX, 64],
            _ => &[64],
        };
        for &length in lengths {
            store(end + 8, length)?;
            check_eq!(p.finds(c)?, found, "before a record of {length} bytes");
        }
        let mut program = p.append()?;
        for n in found..found + 2 {
            let Some(to) = &mut program.stdin else {
                fail!("no pipe")
            };
            writeln!(to, "{}", record(n))?;
        }
        check!(program.wait()?.success());
        check_eq!(p.finds(c)?, found + 2);
        check_eq!(p.rust_finds()?, found + 2);
        if p.number != 0 {
            continue;
        }
        // That is not the end of the log.
        store(place_of(found / 2) + HEAD, 7)?;
        p.refuses(c, "is damaged")?;
        // In the identity, and the length.
        store(24, 7)?;
        p.refuses(c, "damaged header")?;
        store(8, 7)?;
        p.refuses(c, "of version 7")?;
    }
    Ok(())
}
