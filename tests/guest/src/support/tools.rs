// SPDX-License-Identifier: GPL-2.0
//! Namespaces of a kind, file systems on them, page-aligned buffers, and calls that pin pages, pass
//! descriptors or make memory fail.

use crate::support::ctx::{Ctx, TestResult, EXT4_NOT_LAZY};
use crate::support::ring::Ring;
use crate::support::sys::{self, Map};
pub use crate::support::sys::{HUGE, PAGE};
use crate::{check, check_eq, fail};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The largest entry, below 1 GiB, of mappings of memory without struct pages: Documentation/mmap.md.
pub fn without_pages() -> usize {
    if sys::series() < (7, 3) {
        PAGE
    } else {
        HUGE
    }
}

/// A namespace that a driver has.
#[derive(Clone, Debug)]
pub struct Space {
    /// The device that the driver binds: namespace0.0, pfn0.1.
    pub nd: String,
    /// pmem0, pmem0.1
    pub disk: String,
}

impl Space {
    pub fn dev(&self) -> String {
        format!("/dev/{}", self.disk)
    }

    pub fn bind(&self, c: &Ctx) -> TestResult {
        c.write(
            format!("/sys/bus/nd/drivers/{}/bind", c.driver_name()),
            &self.nd,
        )?;
        c.wait_exists(self.dev())
    }

    pub fn unbind(&self, c: &Ctx) -> TestResult {
        c.unbind(c.driver_name(), &self.nd)
    }

    /// The namespace that the device claims, or is: what ndctl and rpmem-bind want to be told.
    pub fn namespace(&self, c: &Ctx) -> TestResult<String> {
        if self.nd.starts_with("namespace") {
            return Ok(self.nd.clone());
        }
        c.read(c.nd(&self.nd).join("namespace"))
    }
}

/// Every disk, with the nd device that carries it.
pub fn spaces(c: &Ctx) -> TestResult<Vec<Space>> {
    c.settle();
    let mut v = Vec::new();
    for disk in c.disks() {
        let parent = std::fs::read_link(format!("/sys/block/{disk}/device"))?;
        let nd = parent.file_name().unwrap_or_default().to_string_lossy();
        c.wait_exists(format!("/dev/{disk}"))?;
        v.push(Space {
            nd: nd.into_owned(),
            disk,
        });
    }
    Ok(v)
}

/// Whether it is virtio-pmem's.
pub fn is_of_host(s: &Space) -> TestResult<bool> {
    let place = std::fs::canonicalize(format!("/sys/block/{}", s.disk))?;
    Ok(place.to_string_lossy().contains("/virtio"))
}

pub fn has_pages(c: &Ctx, s: &Space) -> TestResult<bool> {
    Ok(c.disk_attr(&s.disk, "queue/dax")? == "1")
}

/// A namespace with struct pages, and its disk: the one there is, or a new one.
pub fn dax_space(c: &Ctx, create: &[&str]) -> TestResult<Space> {
    if let Some(s) = first_dax(c)? {
        return Ok(s);
    }
    if c.nd_devices("nmem").is_empty() {
        fail!("no namespace has struct pages, and there is no NVDIMM to make one on");
    }
    c.init_labels()?;
    let mut argv = vec!["-m", "fsdax", "-s", "768M"];
    argv.extend_from_slice(create);
    c.create_namespace(&argv)?;
    // A neighbour without pages, for I/O between the two.
    c.create_namespace(&["-m", "raw", "-s", "64M"])?;
    match first_dax(c)? {
        Some(s) => Ok(s),
        None => fail!("the new fsdax namespace has no DAX disk"),
    }
}

fn first_dax(c: &Ctx) -> TestResult<Option<Space>> {
    for s in spaces(c)? {
        if has_pages(c, &s)? {
            return Ok(Some(s));
        }
    }
    Ok(None)
}

/// mkfs with the geometry that huge pages need. xfs keeps its default, reflink.
pub fn mkfs_dax(c: &Ctx, fs: &str, dev: &str) -> TestResult {
    match fs {
        "ext4" => c.sh(&format!(
            "mkfs.ext4 -q -F -b 4096 -E stride=512,stripe_width=512,{EXT4_NOT_LAZY} {dev}"
        ))?,
        "xfs" => return mkfs_xfs(c, "", dev),
        other => fail!("unknown file system {other}"),
    };
    Ok(())
}

/// The same for xfs, with more options.
pub fn mkfs_xfs(c: &Ctx, options: &str, dev: &str) -> TestResult {
    c.sh(&format!(
        "mkfs.xfs -q -f -d su=2m,sw=1,agcount=2 {options} {dev}"
    ))?;
    Ok(())
}

pub fn open_rw(path: impl AsRef<Path>) -> TestResult<File> {
    open_flags(path, 0)
}

/// Created if it is not there; the contents stay.
pub fn open_flags(path: impl AsRef<Path>, flags: i32) -> TestResult<File> {
    let p = path.as_ref();
    let f = File::options()
        .read(true)
        .write(true)
        .create(!p.starts_with("/dev"))
        .truncate(false)
        .custom_flags(flags)
        .open(p);
    f.map_err(|e| format!("open {}: {e}", p.display()).into())
}

/// A file of `len` bytes whose blocks are allocated, aligned for huge pages where that is possible.
pub fn file_of(path: &str, len: usize) -> TestResult<File> {
    let f = open_rw(path)?;
    f.set_len(0)?;
    // SAFETY: an open file.
    let r = unsafe { libc::fallocate(f.as_raw_fd(), 0, 0, len as libc::off_t) };
    check!(r == 0, "fallocate {path}: {}", io::Error::last_os_error());
    Ok(f)
}

/// Memory of this process alone, zeroed, page-aligned.
pub fn anonymous(len: usize) -> TestResult<Map> {
    // SAFETY: memfd_create with a literal; the descriptor is owned by the File at once.
    let f = unsafe {
        use std::os::fd::FromRawFd;
        let fd = libc::memfd_create(c"rpmem-test".as_ptr(), 0);
        check!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    f.set_len(len as u64)?;
    Ok(Map::shared(&f, 0, len)?)
}

/// The errno of a failed call, 0 of a success.
pub fn errno<T>(r: &io::Result<T>) -> i32 {
    match r {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

/// pread into raw memory (a mapping): the kernel, not the program, touches it.
pub fn pread_raw(f: &File, at: *mut u8, len: usize, offset: u64) -> io::Result<usize> {
    // SAFETY: the kernel checks the range, EFAULT tells.
    let n = unsafe { libc::pread(f.as_raw_fd(), at.cast(), len, offset as libc::off_t) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

pub fn pwrite_raw(f: &File, at: *const u8, len: usize, offset: u64) -> io::Result<usize> {
    // SAFETY: as above.
    let n = unsafe { libc::pwrite(f.as_raw_fd(), at.cast(), len, offset as libc::off_t) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// With flags as `RWF_DSYNC`.
pub fn pwrite_flags(
    f: &File,
    at: *const u8,
    len: usize,
    offset: u64,
    flags: i32,
) -> io::Result<usize> {
    let io = libc::iovec {
        iov_base: at.cast_mut().cast(),
        iov_len: len,
    };
    let (fd, offset) = (f.as_raw_fd(), offset as libc::off_t);
    // SAFETY: one vector; the kernel tells whether the memory is there.
    match unsafe { libc::pwritev2(fd, &io, 1, offset, flags) } {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done as usize),
    }
}

/// A number from /proc/self/smaps for the mapping that starts at `addr`, in KiB.
pub fn smaps(c: &Ctx, addr: usize, field: &str) -> TestResult<u64> {
    let v = smaps_text(c, addr, field)?;
    let n = v.trim_end_matches("kB").trim().parse();
    n.map_err(|_| format!("smaps {field}: {v:?}").into())
}

pub fn smaps_text(c: &Ctx, addr: usize, field: &str) -> TestResult<String> {
    let all = c.read("/proc/self/smaps")?;
    let mut here = false;
    for l in all.lines() {
        let word = l.split(' ').next().unwrap_or_default();
        if let Some((start, _)) = word.split_once('-') {
            here = usize::from_str_radix(start, 16) == Ok(addr);
        } else if here && word.trim_end_matches(':') == field {
            return Ok(l.split_once(':').map_or("", |x| x.1).trim().to_string());
        }
    }
    fail!("no {field} of {addr:#x} in smaps:\n{all}")
}

/// Where the first byte of a file is on its disk, in sectors.
pub fn first_sector(c: &Ctx, path: &str) -> TestResult<u64> {
    let map = c.ok(&["filefrag", "-b512", "-v", path])?;
    let first = map
        .lines()
        .find(|l| l.trim_start().starts_with("0:"))
        .and_then(|l| l.split(':').nth(2))
        .and_then(|l| l.split('.').next())
        .and_then(|l| l.trim().parse().ok());
    Ok(first.ok_or(map)?)
}

/// Whether the kernel has the file for a DAX one (STATX_ATTR_DAX).
pub fn is_dax(f: &File) -> TestResult<bool> {
    // SAFETY: statx fills a structure of ours for an open file.
    unsafe {
        let mut s: libc::statx = std::mem::zeroed();
        let r = libc::statx(
            f.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_BASIC_STATS,
            &mut s,
        );
        if r != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(s.stx_attributes & 0x0020_0000 != 0)
    }
}

/// The names of what is in a folder, sorted; none if there is no such folder.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut v: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    v.sort();
    v
}

/// Nothing dirty is written back because it is old, while this lives: where a test counts what its own
/// calls do, the kernel's threads would do some of it for them, or once more, on a host that is slow
/// enough for that.
pub struct Quiet(String);

impl Quiet {
    pub fn new(c: &Ctx) -> TestResult<Quiet> {
        let was = c.read(WRITEBACK)?;
        c.write(WRITEBACK, "0")?;
        Ok(Quiet(was))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = fs::write(WRITEBACK, &self.0);
    }
}

const WRITEBACK: &str = "/proc/sys/vm/dirty_writeback_centisecs";

/// Faults for `pages` huge pages of such memory: one for an entry, or for 64 pages.
pub fn faults_without_pages(pages: usize) -> i64 {
    (pages * HUGE / without_pages().max(64 * PAGE)) as i64
}

/// process_vm_readv or process_vm_writev between `theirs` and `mine`.
pub fn process_vm(
    pid: i32,
    theirs: *mut u8,
    mine: *mut u8,
    len: usize,
    write: bool,
) -> io::Result<usize> {
    let io = |p: *mut u8| libc::iovec {
        iov_base: p.cast(),
        iov_len: len,
    };
    let (theirs, mine) = (io(theirs), io(mine));
    // SAFETY: the kernel checks the addresses, EFAULT tells.
    let n = unsafe {
        if write {
            libc::process_vm_writev(pid, &mine, 1, &theirs, 1, 0)
        } else {
            libc::process_vm_readv(pid, &mine, 1, &theirs, 1, 0)
        }
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// A pipe with the second page of a mapping spliced into it: pinned until both ends are closed.
pub fn pin_in_pipe(m: &Map) -> TestResult<[i32; 2]> {
    let mut pipe = [0; 2];
    // SAFETY: a pipe, and a page of the mapping.
    let n = unsafe {
        check!(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) == 0, "pipe");
        let v = libc::iovec {
            iov_base: m.as_ptr().add(PAGE).cast(),
            iov_len: PAGE,
        };
        libc::vmsplice(pipe[1], &v, 1, 0)
    };
    check_eq!(n, PAGE as isize, "vmsplice: {}", io::Error::last_os_error());
    Ok(pipe)
}

/// Gives pages to a pipe.
pub fn vmsplice(p: *mut u8, len: usize) -> io::Result<usize> {
    let mut fds = [0; 2];
    let io = libc::iovec {
        iov_base: p.cast(),
        iov_len: len,
    };
    // SAFETY: as above; the pipe is closed here.
    unsafe {
        if libc::pipe(fds.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let n = libc::vmsplice(fds[1], &io, 1, 0);
        let e = io::Error::last_os_error();
        libc::close(fds[0]);
        libc::close(fds[1]);
        usize::try_from(n).map_err(|_| e)
    }
}

/// Registers a fixed buffer with a new io_uring, which ends here: a long-term pin.
pub fn uring_register(p: *mut u8, len: usize) -> io::Result<()> {
    match Ring::new().map_or_else(|e| e, |ring| ring.register(p, len)) {
        0 => Ok(()),
        e => Err(io::Error::from_raw_os_error(-e as i32)),
    }
}

/// Wakes who waits for a futex that is shared between processes.
pub fn futex_wake_shared(p: *mut u8) -> io::Result<()> {
    // SAFETY: as above.
    let r = unsafe { libc::syscall(libc::SYS_futex, p, libc::FUTEX_WAKE, 1) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Passes a descriptor through a socket.
pub fn send_fd(s: &std::os::unix::net::UnixStream, f: &File) -> io::Result<()> {
    let fd = f.as_raw_fd();
    fd_message(s, Some(fd)).map(|_| ())
}

pub fn receive_fd(s: &std::os::unix::net::UnixStream) -> io::Result<File> {
    use std::os::fd::FromRawFd;
    let fd = fd_message(s, None)?;
    // SAFETY: received just now, and ours alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Sends or receives one byte with a descriptor.
fn fd_message(s: &std::os::unix::net::UnixStream, send: Option<i32>) -> io::Result<i32> {
    let mut byte = 0u8;
    let mut io = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 8];
    // SAFETY: the message refers to locals; there is room for one descriptor.
    unsafe {
        let mut m: libc::msghdr = std::mem::zeroed();
        m.msg_iov = &mut io;
        m.msg_iovlen = 1;
        m.msg_control = control.as_mut_ptr().cast();
        m.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let head = libc::CMSG_FIRSTHDR(&m);
        let data = libc::CMSG_DATA(head).cast::<i32>();
        let n = match send {
            Some(fd) => {
                (*head).cmsg_level = libc::SOL_SOCKET;
                (*head).cmsg_type = libc::SCM_RIGHTS;
                (*head).cmsg_len = libc::CMSG_LEN(4) as usize;
                data.write_unaligned(fd);
                libc::sendmsg(s.as_raw_fd(), &m, 0)
            }
            None => libc::recvmsg(s.as_raw_fd(), &mut m, 0),
        };
        if n != 1 {
            return Err(io::Error::last_os_error());
        }
        Ok(data.read_unaligned())
    }
}

/// A load from a bad page of a mapping gets the signal that says which address it was.
pub fn check_poisoned(m: &Map, at: usize) -> TestResult {
    let want = (
        libc::SIGBUS,
        sys::BUS_MCEERR_AR,
        m.as_ptr() as usize + at,
        12,
    );
    match sys::caught(|| m.read8(at))? {
        sys::Caught::Fault(f) => {
            check_eq!((f.signal, f.code, f.addr, f.addr_lsb), want, "at {at:#x}");
            Ok(())
        }
        other => fail!("bad page at {at:#x}: {other:?}"),
    }
}

/// Unbinds a namespace in a thread that no signal reaches: one ends the wait for others, and commands
/// that the test runs meanwhile end with SIGCHLD.
pub fn unbind_beside(nd: String) -> std::thread::JoinHandle<bool> {
    std::thread::spawn(move || {
        sys::block_all_signals();
        std::fs::write("/sys/bus/nd/drivers/rpmem/unbind", nd).is_ok()
    })
}

/// Waits until a page that is in the list of bad ones has lost its entries, which comes after it.
pub fn wait_poisoned(c: &Ctx, m: &Map, at: usize) -> TestResult {
    c.wait_for("the entry to go", || check_poisoned(m, at).is_ok())
}

/// Whether there is a PCI device whose attribute is that.
pub fn has_pci(attribute: &str, value: &str) -> bool {
    let devices = fs::read_dir("/sys/bus/pci/devices");
    devices.into_iter().flatten().flatten().any(|d| {
        fs::read_to_string(d.path().join(attribute)).is_ok_and(|read| read.trim() == value)
    })
}

/// Whether the machine has virtio-pmem, bound or not.
pub fn has_virtio_pmem() -> bool {
    // 0x1040 + VIRTIO_ID_PMEM.
    has_pci("device", "0x105b")
}

/// Tells the kernel of an uncorrected memory error at a physical address, by its own means for tests
/// of that (mce-inject): in software, so that what listens to machine checks hears of it.
pub fn inject_mce(c: &Ctx, phys: u64) -> TestResult {
    c.modprobe("mce_inject")?;
    let dir = "/sys/kernel/debug/mce-inject";
    c.wait_exists(dir)?;
    // Valid, uncorrected, enabled, misc and address valid; a memory error for Intel (bit 7) and for
    // AMD (extended code 8, in bank 4).
    c.write(format!("{dir}/status"), "0xbc0000000008009f")?;
    c.write(format!("{dir}/addr"), &format!("{phys:#x}"))?;
    // The address is exact to its page, and physical.
    c.write(format!("{dir}/misc"), "0x8c")?;
    c.write(format!("{dir}/cpu"), "0")?;
    c.write(format!("{dir}/flags"), "sw\n")?;
    c.write(format!("{dir}/bank"), "4")
}

/// Has this thread run on one CPU.
pub fn pin_to(cpu: usize) {
    // SAFETY: a set of ours.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set);
    }
}

/// Has the CPUs give back the free pages that each keeps for itself, some megabytes, and add up what
/// they have counted: compaction does the former, of the CPU that it runs on.
pub fn drain_lists(c: &Ctx) -> TestResult {
    let cpus = std::thread::available_parallelism()?.get();
    for cpu in 0..cpus {
        pin_to(cpu);
        c.write("/proc/sys/vm/compact_memory", "1")?;
    }
    // SAFETY: a set of ours.
    unsafe {
        let mut all: libc::cpu_set_t = std::mem::zeroed();
        for cpu in 0..cpus {
            libc::CPU_SET(cpu, &mut all);
        }
        libc::sched_setaffinity(0, std::mem::size_of_val(&all), &all);
    }
    c.read("/proc/sys/vm/stat_refresh")?;
    Ok(())
}
