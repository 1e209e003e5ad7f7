// SPDX-License-Identifier: GPL-2.0
//! System calls around a mapping, each by itself: open, mmap, munmap, mprotect, fork, exit, poll.

use super::{least, plain, Rows, Spaces, Target, AREA, SAMPLES};
use crate::support::bench::{
    bulk, calibrate, cost, each, each_mapping, median, quiet, report, Side, Window, HUGE, PAGE,
    TURNS,
};
use crate::support::ctx::{Ctx, TestResult};
use crate::support::{sys, tools};
use crate::{check, check_eq};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// The size of the large node of device-dax is for `plain`.
pub const SPACES: [(&str, &str); 2] = [("4K", "1280M"), ("2M", "256M")];
/// Entries of a mapping: bytes, and what rows call them.
const ENTRIES: [(usize, &str); 2] = [(PAGE, "4k"), (HUGE, "2m")];
/// Mappings of the process that forks and exits.
const MAPPINGS: usize = 100;

/// Mappings whose addresses the kernel chooses, all of the same bytes, so that none grows together with
/// its neighbour.
struct Many {
    len: usize,
    at: Vec<usize>,
}

impl Many {
    fn map(&mut self, t: &Target, flags: i32) -> TestResult {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the address.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                self.len,
                prot,
                flags,
                t.file.as_raw_fd(),
                0,
            )
        };
        check!(
            p != libc::MAP_FAILED,
            "mmap: {}",
            io::Error::last_os_error()
        );
        self.at.push(p as usize);
        Ok(())
    }

    fn of(t: &Target, len: usize, n: usize) -> TestResult<Many> {
        let mut all = Many {
            len,
            at: Vec::with_capacity(n),
        };
        for _ in 0..n {
            all.map(t, t.flags)?;
        }
        Ok(all)
    }

    fn store(&self) {
        for at in &self.at {
            // SAFETY: a mapping of this.
            unsafe { (*at as *mut u8).write_volatile(1) };
        }
    }

    /// The last one.
    fn unmap(&mut self) {
        if let Some(at) = self.at.pop() {
            // SAFETY: a mapping of this, which nobody has any more.
            unsafe { libc::munmap(at as *mut _, self.len) };
        }
    }

    fn protect(&self, i: usize, prot: i32) -> TestResult {
        // SAFETY: a mapping of this.
        let r = unsafe { libc::mprotect(self.at[i] as *mut _, self.len, prot) };
        check_eq!(r, 0, "mprotect: {}", io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for Many {
    fn drop(&mut self) {
        while !self.at.is_empty() {
            self.unmap();
        }
    }
}

/// mmap(2), munmap(2) of what was touched, mprotect(2), of mappings of one entry.
pub fn mapping(t: &Target, entry: usize, n: usize) -> TestResult<Rows> {
    let (len, size) = ENTRIES[entry];
    let mut rows = Rows::new();
    let plain = ("mmap.plain", libc::MAP_SHARED);
    for (row, flags) in [plain, ("mmap.sync", t.flags)] {
        let mut all = Many::of(t, len, 0)?;
        let row = format!("{row}.{size}");
        let value = each_mapping(&t.label(&row), n, |_| all.map(t, flags))?;
        rows.push((t.key(&row), value));
    }
    let mut all = Many::of(t, len, n)?;
    let row = format!("munmap.untouched.{size}");
    let value = each_mapping(&t.label(&row), n, |_| {
        all.unmap();
        Ok(())
    })?;
    rows.push((t.key(&row), value));
    let mut all = Many::of(t, len, n)?;
    all.store();
    let row = format!("mprotect.{size}");
    let value = each(&t.label(&row), n, |i| {
        all.protect(i, libc::PROT_READ)?;
        all.protect(i, libc::PROT_READ | libc::PROT_WRITE)
    })?;
    rows.push((t.key(&row), value));
    all.store();
    let row = format!("munmap.{size}");
    let value = each_mapping(&t.label(&row), n, |_| {
        all.unmap();
        Ok(())
    })?;
    rows.push((t.key(&row), value));
    Ok(rows)
}

/// As long as it lives this thread runs before its children, which are ordinary ones.
struct First;

impl First {
    fn new() -> TestResult<First> {
        First::schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 1)?;
        Ok(First)
    }

    fn schedule(policy: i32, priority: i32) -> TestResult {
        // SAFETY: a structure of integers.
        let mut param: libc::sched_param = unsafe { std::mem::zeroed() };
        param.sched_priority = priority;
        // SAFETY: this thread; the structure outlives the call.
        let r = unsafe { libc::sched_setscheduler(0, policy, &param) };
        check_eq!(r, 0, "sched_setscheduler: {}", io::Error::last_os_error());
        Ok(())
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = First::schedule(libc::SCHED_OTHER, 0);
    }
}

/// fork(2) of a process with many mappings that it has touched, the same and the child's stores to all of
/// them, and what passes from the child's exit(2) to the parent's wait(2).
fn processes(t: &Target, entry: usize, n: usize) -> TestResult<Rows> {
    let (len, size) = ENTRIES[entry];
    let all = Many::of(t, len, MAPPINGS)?;
    all.store();
    let shared = tools::anonymous(PAGE)?;
    // SAFETY: aligned and zeroed, for as long as `shared` lives.
    let said = unsafe { &*shared.as_ptr().cast::<[AtomicU64; 2]>() };
    let _first = First::new()?;
    let mut samples = [(); 3].map(|()| Vec::new());
    for _ in 0..n {
        // SAFETY: the child calls nothing but _exit(2).
        let (forked, pid) = cost(|| unsafe { libc::fork() });
        if pid == 0 {
            let (stores, ()) = cost(|| all.store());
            said[0].store(stores, SeqCst);
            said[1].store(crate::support::bench::now(), SeqCst);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        check!(pid > 0, "fork: {}", io::Error::last_os_error());
        // SAFETY: a child of this.
        let r = unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        let end = crate::support::bench::now();
        check_eq!(r, pid);
        samples[0].push(forked);
        samples[1].push(forked + said[0].load(SeqCst));
        samples[2].push(end - said[1].load(SeqCst));
    }
    let rows = ["fork", "fork.store", "exit"].into_iter().zip(samples);
    let row = |(row, mut of): (&str, Vec<u64>)| (t.key(&format!("{row}.{size}")), median(&mut of));
    Ok(rows.map(row).collect())
}

/// What is asked of the file alone, while another one of the node is open.
pub fn files(t: &Target, n: usize) -> TestResult<Rows> {
    let mut rows = Rows::new();
    let path = std::ffi::CString::new(t.node.as_str()).map_err(|e| e.to_string())?;
    let open = || {
        // SAFETY: a text that ends.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        check!(fd >= 0, "open: {}", io::Error::last_os_error());
        Ok(fd)
    };
    let row = "open";
    let mut fds = Vec::new();
    let value = each(&t.label(row), n, |_| {
        fds.push(open()?);
        Ok(())
    })?;
    rows.push((t.key(row), value));
    let row = "close";
    let value = each(&t.label(row), n, |i| {
        // SAFETY: a descriptor of this.
        check_eq!(unsafe { libc::close(fds[i]) }, 0);
        Ok(())
    })?;
    rows.push((t.key(row), value));
    let row = "poll";
    let value = each(&t.label(row), n, |_| {
        sys::poll(&t.file, libc::POLLIN, 0)?;
        Ok(())
    })?;
    rows.push((t.key(row), value));
    Ok(rows)
}

/// open(2) and close(2) of a node that nobody else has open, by its path.
fn first_open(t: Target, n: usize) -> TestResult<Rows> {
    let (node, row) = (t.node.clone(), "open.first");
    let (key, window) = (t.key(row), t.label(row));
    drop(t);
    let value = each(&window, n, |_| {
        drop(File::options().read(true).write(true).open(&node)?);
        Ok(())
    })?;
    Ok(vec![(key, value)])
}

/// Stores to what is mapped already, per entry.
fn mapped(t: &Target, entry: usize) -> TestResult<Rows> {
    let (entry, size) = ENTRIES[entry];
    let w = Window::new(AREA, HUGE, if entry == PAGE { PAGE } else { 0 })?;
    let row = format!("prefaulted.{size}");
    let value = least(|| {
        t.prefault("prefault", &w, entry)?;
        let (cost, ()) = bulk(&t.label(&row), AREA / entry, || {
            (0..AREA).step_by(entry).for_each(|at| w.store(at));
        });
        Ok(cost as f64 / (AREA / entry) as f64)
    })?;
    Ok(vec![(t.key(&row), value)])
}

/// All of a side, where `n` is the place in [`SPACES`].
pub fn group(t: &Target, n: usize, samples: usize) -> TestResult<Rows> {
    let mut rows = mapping(t, n, samples)?;
    rows.extend(processes(t, n, samples / 16 + 1)?);
    rows.extend(mapped(t, n)?);
    if n == 0 {
        rows.extend(files(t, samples)?);
    }
    Ok(rows)
}

pub fn calls(c: &mut Ctx) -> TestResult {
    calibrate()?;
    let spaces = Spaces::create(c, &SPACES)?;
    quiet(c)?;
    for (pass, side) in TURNS {
        for n in 0..SPACES.len() {
            let target = || -> TestResult<Target> {
                match side {
                    Side::Theirs => spaces.devdax(c, n, side),
                    Side::Ours => spaces.raw(c),
                }
            };
            let mut rows = group(&target()?, n, SAMPLES)?;
            if n == 0 {
                rows.extend(plain::group(&target()?, SAMPLES)?);
                rows.extend(first_open(target()?, SAMPLES)?);
            }
            for (row, value) in rows {
                report(pass, side, &row, value);
            }
        }
    }
    Ok(())
}
