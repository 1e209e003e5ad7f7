// SPDX-License-Identifier: GPL-2.0
//! What tests are made of: results, commands, sysfs, modules, namespaces, waiting.

use crate::support::arch;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

#[derive(Debug)]
pub enum Outcome {
    Fail(String),
    Skip(String),
}

impl From<String> for Outcome {
    fn from(s: String) -> Self {
        Outcome::Fail(s)
    }
}

impl From<&str> for Outcome {
    fn from(s: &str) -> Self {
        Outcome::Fail(s.to_string())
    }
}

impl From<std::io::Error> for Outcome {
    fn from(e: std::io::Error) -> Self {
        Outcome::Fail(e.to_string())
    }
}

pub type TestResult<T = ()> = Result<T, Outcome>;

pub struct Test {
    pub name: &'static str,
    pub run: fn(&mut Ctx) -> TestResult,
}

/// The tests of an area, one a line: `area_behaviour => function,`, where a closure may give arguments to
/// one that several tests share.
#[macro_export]
macro_rules! tests {
    ($($name:ident => $run:expr,)*) => {
        &[$($crate::support::ctx::Test {
            name: stringify!($name),
            run: $run,
        },)*]
    };
}

/// Return a failure with the place it happened.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::support::ctx::Outcome::Fail(format!("{}:{}: {}", file!(), line!(), format!($($arg)*))))
    };
}

#[macro_export]
macro_rules! skip {
    ($($arg:tt)*) => {
        return Err($crate::support::ctx::Outcome::Skip(format!($($arg)*)))
    };
}

/// Fail unless the condition holds; more arguments are a message.
#[macro_export]
macro_rules! check {
    ($cond:expr) => {
        if !$cond {
            $crate::fail!("not true: {}", stringify!($cond));
        }
    };
    ($cond:expr, $($arg:tt)*) => {
        if !$cond {
            $crate::fail!("{}", format!($($arg)*));
        }
    };
}

#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr) => {
        $crate::check_eq!($left, $right, "not equal")
    };
    ($left:expr, $right:expr, $($arg:tt)*) => {
        match (&$left, &$right) {
            (l, r) => {
                if *l != *r {
                    $crate::fail!("{}: {} is {:?}, must be {:?}", format!($($arg)*), stringify!($left), l, r);
                }
            }
        }
    };
}

/// Status and output of a command.
pub struct Ran {
    pub line: String,
    /// Exit status; 128 + signal if it was killed.
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // The first line goes into the summary, so the tool's own word is in it.
        let said = self
            .err
            .lines()
            .chain(self.out.lines())
            .map(str::trim)
            .find(|l| !l.is_empty());
        write!(
            f,
            "$ {}: status {}: {}",
            self.line,
            self.status,
            said.unwrap_or("(no output)")
        )?;
        for l in self.out.lines().chain(self.err.lines()).take(30) {
            write!(f, "\n    {l}")?;
        }
        Ok(())
    }
}

/// For `mkfs.ext4 -E`: no thread of the kernel's goes on with it after the mount.
pub const EXT4_NOT_LAZY: &str = "lazy_itable_init=0,lazy_journal_init=0";

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

pub const EXIT_FAIL: i32 = 1;
pub const EXIT_SKIP: i32 = 4;
/// A line from a test to init, on the same pipe as its diagnostics.
pub const ASK_POWER_CUT: &str = "\u{1}power-cut";
/// The same, before a [`Down`].
pub const ASK_DOWN: &str = "\u{1}down ";
/// The first disk that is no persistent memory: the one that a boot with `resume` looks at.
pub const SWAP: &str = "vda";
/// Before the number of the test, on the command line of a kernel that a test has started.
pub const STARTED_BY: &str = "rpmem.started_by=";
pub const SKIP_PREFIX: &str = "\u{1}skip ";

/// Run one test in this process; the result is the exit status.
pub fn run(t: &Test) -> i32 {
    let mut c = Ctx::new();
    let r = (t.run)(&mut c);
    let _ = std::io::stdout().flush();
    match r {
        Ok(()) => 0,
        Err(Outcome::Fail(why)) => {
            println!("fail: {why}");
            EXIT_FAIL
        }
        Err(Outcome::Skip(why)) => {
            println!("{SKIP_PREFIX}{why}");
            EXIT_SKIP
        }
    }
}

pub struct Ctx {
    /// Driver under test, module parameters: as the scenario has them.
    pub driver: String,
    pub params: String,
    /// The kernel: stock, debug or kcsan.
    pub flavour: String,
    /// Whether the long form is asked for, of tests that have one.
    pub long: bool,
    /// For tests that draw numbers.
    pub seed: u64,
    dmesg_mark: String,
}

impl Ctx {
    fn new() -> Self {
        let env = |n: &str| std::env::var(n).unwrap_or_default();
        let mut c = Ctx {
            driver: env("RPMEM_DRIVER"),
            params: env("RPMEM_PARAMS"),
            flavour: env("RPMEM_FLAVOUR"),
            long: !env("RPMEM_LONG").is_empty(),
            seed: env("RPMEM_SEED").parse().unwrap_or(0),
            dmesg_mark: String::new(),
        };
        c.mark_dmesg();
        c
    }

    /// How often a test does something: `short`, or `long` in the long form, of which a kernel with
    /// instruments does a quarter in the same time.
    pub fn rounds(&self, short: u64, long: u64) -> u64 {
        match (self.long, self.flavour.as_str()) {
            (false, _) => short,
            (true, "stock") => long,
            (true, _) => short.max(long / 4),
        }
    }

    // Commands.

    /// Run a command to its end, with its output captured.
    pub fn run(&self, argv: &[&str]) -> TestResult<Ran> {
        let line = argv.join(" ");
        let out = Command::new(argv[0])
            .args(&argv[1..])
            .stdin(Stdio::null())
            .output()
            .map_err(|e| format!("$ {line}: {e}"))?;
        use std::os::unix::process::ExitStatusExt;
        let status = out
            .status
            .code()
            .unwrap_or_else(|| 128 + out.status.signal().unwrap_or(0));
        Ok(Ran {
            line,
            status,
            out: String::from_utf8_lossy(&out.stdout).into_owned(),
            err: String::from_utf8_lossy(&out.stderr).into_owned(),
        })
    }

    /// Run a command that must succeed; its standard output.
    pub fn ok(&self, argv: &[&str]) -> TestResult<String> {
        let r = self.run(argv)?;
        if r.status != 0 {
            return Err(Outcome::Fail(r.to_string()));
        }
        Ok(r.out)
    }

    /// Run a command that must fail; all of its output.
    pub fn fails(&self, argv: &[&str]) -> TestResult<String> {
        let r = self.run(argv)?;
        if r.status == 0 {
            return Err(Outcome::Fail(format!("must fail: {r}")));
        }
        Ok(r.out + &r.err)
    }

    /// A shell script (bash, -e, pipefail) that must succeed; its standard output.
    pub fn sh(&self, script: &str) -> TestResult<String> {
        self.ok(&["bash", "-eo", "pipefail", "-c", script])
    }

    // Files, sysfs.

    pub fn read(&self, path: impl AsRef<Path>) -> TestResult<String> {
        let p = path.as_ref();
        let s = fs::read_to_string(p).map_err(|e| format!("read {}: {e}", p.display()))?;
        Ok(s.trim_end().to_string())
    }

    pub fn read_u64(&self, path: impl AsRef<Path>) -> TestResult<u64> {
        let p = path.as_ref();
        let s = self.read(p)?;
        let v = match s.strip_prefix("0x") {
            Some(h) => u64::from_str_radix(h, 16),
            None => s.parse(),
        };
        v.map_err(|_| Outcome::Fail(format!("{}: not a number: {s:?}", p.display())))
    }

    pub fn write(&self, path: impl AsRef<Path>, text: &str) -> TestResult {
        self.try_write(&path)(text).map_err(|e| {
            Outcome::Fail(format!(
                "write {text:?} to {}: {e}",
                path.as_ref().display()
            ))
        })
    }

    /// A writer that gives the bare error, for tests that want a certain errno.
    pub fn try_write(&self, path: impl AsRef<Path>) -> impl Fn(&str) -> std::io::Result<()> {
        let p = path.as_ref().to_path_buf();
        move |text| {
            fs::OpenOptions::new()
                .write(true)
                .open(&p)?
                .write_all(text.as_bytes())
        }
    }

    // Waiting: always for a condition. How long a test may take is for the harness to say, which knows
    // how busy the host is; a deadline in the guest's time would be one in the host's.

    /// Poll until the condition holds. `what` completes "waiting for ...", the last that is heard of a
    /// test that waits in vain. A result, as most callers end with one.
    pub fn wait_for(&self, what: &str, mut cond: impl FnMut() -> bool) -> TestResult {
        let mut turns = 0;
        while !cond() {
            if turns == 100 {
                println!("waiting for {what}");
            }
            turns += 1;
            // CLOCK: how often it is looked at, and no more.
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    pub fn wait_exists(&self, path: impl AsRef<Path>) -> TestResult {
        let p = path.as_ref();
        self.wait_for(&p.display().to_string(), || p.exists())
    }

    pub fn wait_gone(&self, path: impl AsRef<Path>) -> TestResult {
        let p = path.as_ref();
        self.wait_for(&format!("{} to go away", p.display()), || !p.exists())
    }

    /// Let libnvdimm finish every probe that it runs in the background.
    pub fn settle(&self) {
        settle();
    }

    // Modules.

    pub fn module_loaded(&self, name: &str) -> bool {
        Path::new("/sys/module").join(name).join("refcnt").exists()
    }

    /// Nobody has the module: files, mounts and pinned pages end a little later than their last user.
    pub fn wait_unused(&self, name: &str) -> TestResult {
        let file = format!("/sys/module/{name}/refcnt");
        self.wait_for("the module to be unused", || {
            self.read(&file).is_ok_and(|n| n == "0")
        })
    }

    /// insmod of the module under test, with parameters like `a=1 b=2`.
    pub fn insmod_rpmem(&self, params: &str) -> TestResult {
        insmod(Path::new(init_ko()), params).map_err(Outcome::Fail)?;
        self.settle();
        Ok(())
    }

    /// rmmod; the errno of a refusal is the inner error (EBUSY: in use).
    pub fn try_rmmod(&self, name: &str) -> std::io::Result<()> {
        let n = std::ffi::CString::new(name).expect("no NUL in a module name");
        // SAFETY: a NUL-terminated string that lives through the call.
        let r = unsafe { libc::syscall(libc::SYS_delete_module, n.as_ptr(), libc::O_NONBLOCK) };
        if r == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    }

    pub fn rmmod(&self, name: &str) -> TestResult {
        self.try_rmmod(name)
            .map_err(|e| Outcome::Fail(format!("rmmod {name}: {e}")))
    }

    pub fn modprobe(&self, name: &str) -> TestResult {
        self.ok(&["modprobe", name])?;
        self.settle();
        Ok(())
    }

    /// Load the driver that the scenario names, if it is not there yet.
    pub fn load_driver(&self) -> TestResult {
        match self.driver.as_str() {
            "rpmem" if !self.module_loaded("rpmem") => self.insmod_rpmem(&self.params),
            "nd_pmem" if !self.module_loaded("nd_pmem") => self.modprobe("nd_pmem"),
            _ => Ok(()),
        }
    }

    /// Name of the driver in /sys/bus/nd/drivers.
    pub fn driver_name(&self) -> &str {
        &self.driver
    }

    // The nd bus.

    /// Names of the devices on the nd bus that start with `prefix`, sorted.
    pub fn nd_devices(&self, prefix: &str) -> Vec<String> {
        let mut v: Vec<String> = fs::read_dir("/sys/bus/nd/devices")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with(prefix))
            .collect();
        v.sort();
        v
    }

    pub fn nd(&self, device: &str) -> PathBuf {
        Path::new("/sys/bus/nd/devices").join(device)
    }

    /// Namespaces that have a size (libnvdimm keeps empty seeds as well).
    pub fn namespaces(&self) -> Vec<String> {
        let sized =
            |n: &String| fs::read_to_string(self.nd(n).join("size")).is_ok_and(|s| s.trim() != "0");
        self.nd_devices("namespace")
            .into_iter()
            .filter(sized)
            .collect()
    }

    /// The only namespace with a size.
    pub fn namespace(&self) -> TestResult<String> {
        match self.namespaces().as_slice() {
            [one] => Ok(one.clone()),
            other => Err(Outcome::Fail(format!(
                "one namespace expected, there are {other:?}"
            ))),
        }
    }

    pub fn regions(&self) -> Vec<String> {
        self.nd_devices("region")
    }

    /// Driver that an nd device is bound to.
    pub fn bound_to(&self, device: &str) -> Option<String> {
        let l = fs::read_link(self.nd(device).join("driver")).ok()?;
        Some(l.file_name()?.to_string_lossy().into_owned())
    }

    pub fn bind(&self, driver: &str, device: &str) -> TestResult {
        self.write(format!("/sys/bus/nd/drivers/{driver}/bind"), device)?;
        self.settle();
        Ok(())
    }

    pub fn unbind(&self, driver: &str, device: &str) -> TestResult {
        self.write(format!("/sys/bus/nd/drivers/{driver}/unbind"), device)
    }

    /// Names like "pmem0" of the disks there are, sorted.
    pub fn disks(&self) -> Vec<String> {
        let mut v: Vec<String> = fs::read_dir("/sys/block")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with("pmem"))
            .collect();
        v.sort();
        v
    }

    /// The disk of an nd device (namespace, btt, pfn), once it is there.
    pub fn disk_of(&self, device: &str) -> TestResult<String> {
        let dir = self.nd(device).join("block");
        let first = || {
            fs::read_dir(&dir)
                .ok()?
                .flatten()
                .next()
                .map(|e| e.file_name())
        };
        self.wait_for(&format!("a disk of {device}"), || first().is_some())?;
        let name = first()
            .ok_or("the disk went away")?
            .to_string_lossy()
            .into_owned();
        self.wait_exists(format!("/dev/{name}"))?;
        Ok(name)
    }

    /// The only pmem disk, once it is there: "/dev/pmem0".
    pub fn pmem(&self) -> TestResult<String> {
        self.wait_for("a pmem disk", || !self.disks().is_empty())?;
        match self.disks().as_slice() {
            [one] => {
                let dev = format!("/dev/{one}");
                self.wait_exists(&dev)?;
                Ok(dev)
            }
            other => Err(Outcome::Fail(format!(
                "one disk expected, there are {other:?}"
            ))),
        }
    }

    /// Queue attribute or other file below /sys/block/NAME; `disk` may be "/dev/pmem0".
    pub fn disk_attr(&self, disk: &str, attr: &str) -> TestResult<String> {
        let name = disk.trim_start_matches("/dev/");
        self.read(format!("/sys/block/{name}/{attr}"))
    }

    /// Give a fresh label area its index blocks: until then libnvdimm takes the DIMM for one
    /// without labels and the whole region for one raw namespace.
    pub fn init_labels(&self) -> TestResult {
        self.sh("ndctl disable-region all; ndctl init-labels -f all; ndctl enable-region all")?;
        self.settle();
        Ok(())
    }

    /// `ndctl create-namespace` with more options; the name of the namespace or of the device on
    /// top of it that carries the disk.
    pub fn create_namespace(&self, options: &[&str]) -> TestResult<String> {
        let mut argv = vec!["ndctl", "create-namespace"];
        argv.extend_from_slice(options);
        let out = self.ok(&argv)?;
        println!("{out}");
        self.settle();
        let name = out
            .split("\"dev\":\"")
            .nth(1)
            .and_then(|s| s.split('"').next());
        name.map(str::to_string)
            .ok_or_else(|| Outcome::Fail(format!("ndctl names no device: {out}")))
    }

    // Kernel log.

    /// Forget the kernel log up to now.
    pub fn mark_dmesg(&mut self) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.dmesg_mark = format!("rpmem-test: mark {}.{n}", std::process::id());
        let _ = fs::write("/dev/kmsg", format!("<6>{}\n", self.dmesg_mark));
    }

    /// The kernel log since the last mark (the start of the test, if none was set).
    pub fn dmesg(&self) -> TestResult<String> {
        let all = self.ok(&["dmesg"])?;
        Ok(match all.split_once(&self.dmesg_mark) {
            Some((_, after)) => after.split_once('\n').map_or("", |x| x.1).to_string(),
            None => all,
        })
    }

    pub fn dmesg_has(&self, text: &str) -> TestResult {
        let log = self.dmesg()?;
        if log.contains(text) {
            return Ok(());
        }
        Err(Outcome::Fail(format!(
            "the kernel log lacks {text:?}; it says:\n{log}"
        )))
    }

    /// Does it until the log has the text: what users can make it say, the driver says ten times in
    /// five seconds, and tests before this one have had their share.
    pub fn until_said(&self, text: &str, mut act: impl FnMut() -> TestResult) -> TestResult {
        let mut failed = Ok(());
        self.wait_for(&format!("the kernel log to have {text:?}"), || {
            failed = act();
            failed.is_err() || self.dmesg_has(text).is_ok()
        })?;
        failed
    }

    // File systems.

    /// An ext4 of that size, or of the whole device. It gets all of its tables now, and not by a thread of
    /// the kernel's that writes while the test counts.
    pub fn mkfs_ext4(&self, dev: &str, size: Option<&str>) -> TestResult<String> {
        let mut cmd = vec!["mkfs.ext4", "-q", "-F", "-b", "4096", "-E", EXT4_NOT_LAZY];
        cmd.push(dev);
        cmd.extend(size);
        self.ok(&cmd)
    }

    /// mkfs with the tool's usual quiet options; `fs` is "ext4" or "xfs".
    pub fn mkfs(&self, fs: &str, dev: &str) -> TestResult {
        match fs {
            "ext4" => self.mkfs_ext4(dev, None)?,
            // Reflink and DAX go together on newer kernels only for some uses; keep it plain.
            "xfs" => self.ok(&["mkfs.xfs", "-q", "-f", "-m", "reflink=0", dev])?,
            other => return Err(Outcome::Fail(format!("unknown file system {other}"))),
        };
        Ok(())
    }

    pub fn mount(&self, dev: &str, at: &str, opts: &str) -> TestResult {
        fs::create_dir_all(at)?;
        self.ok(&["mount", "-o", opts, dev, at])?;
        Ok(())
    }

    pub fn umount(&self, at: &str) -> TestResult {
        self.ok(&["umount", at])?;
        Ok(())
    }

    /// Have the harness send commands of the fixture to QEMU's monitor. What they do to the machine
    /// is for the caller to wait for.
    pub fn ask_monitor(&self, name: &str) -> TestResult {
        self.tell(&format!("monitor {name}"))
    }

    /// Tells the harness something, past init, which the kernel may stop before it has passed it on.
    fn tell(&self, what: &str) -> TestResult {
        use std::os::fd::AsRawFd;
        let mut tap = fs::OpenOptions::new().write(true).open(arch::CHANNEL)?;
        tap.write_all(format!("# rpmem: {what}\n").as_bytes())?;
        // SAFETY: an open terminal.
        match unsafe { libc::tcdrain(tap.as_raw_fd()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error().into()),
        }
    }

    /// Have the harness switch the machine on again when it has switched itself off. It must then resume.
    pub fn off_and_on(&self) -> TestResult {
        self.tell("power off and on")
    }

    /// Command line for a kernel that this test starts. It runs the tests behind this one, which has passed
    /// when that kernel runs.
    pub fn next_kernel(&self) -> TestResult<String> {
        let number = std::env::var("RPMEM_TEST").map_err(|e| e.to_string())?;
        // This kernel may have been started by one, too.
        let line = self.read("/proc/cmdline")?;
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.retain(|word| !word.starts_with(STARTED_BY));
        Ok(format!("{} {STARTED_BY}{number}", words.join(" ")))
    }

    /// The machine goes down in good order, but for the processes: those live on until it does. The test is
    /// over, and so is the guest.
    pub fn goes_down(&self, how: Down) -> TestResult {
        println!("{ASK_DOWN}{}", how as i32);
        let _ = std::io::stdout().flush();
        // CLOCK: until the power goes.
        std::thread::sleep(Duration::from_secs(3600));
        Err("the machine did not go down".into())
    }

    /// Cut the power here and now: the test is over, and so is the guest.
    pub fn power_cut(&self) -> TestResult {
        println!("{ASK_POWER_CUT}");
        let _ = std::io::stdout().flush();
        // CLOCK: until the power fails.
        std::thread::sleep(Duration::from_secs(3600));
        Err("the power was not cut".into())
    }
}

/// How a machine goes down, for reboot(2).
#[derive(Clone, Copy, Debug)]
pub enum Down {
    Restart = libc::RB_AUTOBOOT as isize,
    PowerOff = libc::RB_POWER_OFF as isize,
}

pub fn init_ko() -> &'static str {
    "/rpmem.ko"
}

/// The kernel's own rearrangement of memory, in the background: khugepaged and proactive compaction take
/// pages of a process out of its page tables for a moment, and on a slow host a moment is long. It would
/// have one fault more than a test counts. Off but for tests of what happens by chance.
pub fn rearrange_memory(on: bool) {
    let [sleep, compact] = match on {
        true => ["10000", "20"],
        false => ["4294967295", "0"],
    };
    // Not every kernel has both.
    let huge = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
    let _ = fs::write(huge, sleep);
    let _ = fs::write("/proc/sys/vm/compaction_proactiveness", compact);
}

/// Reading `wait_probe` returns once the probes that libnvdimm runs in the background are done.
pub fn settle() {
    for class in fs::read_dir("/sys/class/nd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let _ = fs::read_to_string(class.path().join("device/wait_probe"));
    }
}

/// finit_module with the errno in words; the kernel log has the details.
pub fn insmod(ko: &Path, params: &str) -> Result<(), String> {
    use std::os::fd::AsRawFd;
    let f = fs::File::open(ko).map_err(|e| format!("{}: {e}", ko.display()))?;
    let p = std::ffi::CString::new(params).map_err(|e| e.to_string())?;
    // SAFETY: an open descriptor and a NUL-terminated string that live through the call.
    let r = unsafe { libc::syscall(libc::SYS_finit_module, f.as_raw_fd(), p.as_ptr(), 0) };
    if r == 0 {
        return Ok(());
    }
    Err(format!(
        "insmod {} {params}: {}",
        ko.display(),
        std::io::Error::last_os_error()
    ))
}
