// SPDX-License-Identifier: GPL-2.0
//! Runs the programs of a round: processes, threads, what they count, and faults that are caught.

use crate::fuzz::admin::ADMIN;
use crate::fuzz::calls::{self, Hope, KINDS};
use crate::fuzz::ioctls::IOCTLS;
use crate::fuzz::machine::{self, MACHINE};
use crate::fuzz::program::{calls, Deed, Group, Op, Rng, GROUPS};
use crate::fuzz::{others, users};
use crate::support::arch;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::SeqCst};

/// Room for the counters of calls, ioctls and deeds.
pub const COUNTERS: usize = 160;
const ERRNOS: usize = 134;
/// Groups, their threads and children, administrators.
const STRANDS: usize = 64;

/// What all processes of a run share.
pub struct Shared {
    pub ok: [AtomicU32; COUNTERS],
    pub failed: [AtomicU32; COUNTERS],
    pub errnos: [[AtomicU32; ERRNOS]; COUNTERS],
    /// Calls done in this round, by all programs.
    pub done: AtomicU32,
    /// Programs under way that are not an administrator's.
    pub running: AtomicU32,
    /// The first thing that must not happen: kind + 1, result, and what of it.
    wrong_kind: AtomicU32,
    wrong_result: AtomicU64,
    wrong_what: AtomicU32,
    /// By strand: process, and operation under way.
    at: [(AtomicU32, AtomicU32); STRANDS],
    /// By group: process, and where its mappings are.
    pub groups: [(AtomicU32, AtomicU64); GROUPS],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static TRACE: AtomicBool = AtomicBool::new(false);

pub fn trace(on: bool) {
    TRACE.store(on, SeqCst);
}

pub fn shared() -> &'static Shared {
    // SAFETY: set once by `share`, and never unmapped.
    unsafe { &*SHARED.load(SeqCst) }
}

/// Memory that the processes to come share with this one.
pub fn share() -> Result<(), String> {
    if !SHARED.load(SeqCst).is_null() {
        return Ok(());
    }
    const { assert!(KINDS.len() + IOCTLS.len() + ADMIN.len() <= COUNTERS) };
    // SAFETY: new memory, zeroed, which is a valid value of these atomics.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<Shared>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        return Err("mmap of the counters".into());
    }
    SHARED.store(p.cast(), SeqCst);
    Ok(())
}

pub fn counter_name(n: usize) -> &'static str {
    let deeds = KINDS.len() + IOCTLS.len();
    match n {
        n if n < KINDS.len() => KINDS[n].name,
        n if n < deeds => IOCTLS[n - KINDS.len()].name,
        n => ADMIN[n - deeds].name,
    }
}

pub fn counters() -> usize {
    KINDS.len() + IOCTLS.len() + ADMIN.len()
}

pub fn hope(n: usize) -> Hope {
    match n {
        n if n < KINDS.len() => KINDS[n].hope,
        n if n < KINDS.len() + IOCTLS.len() => IOCTLS[n - KINDS.len()].hope,
        _ => Hope::Success,
    }
}

const MUST_NOT: u32 = 1;
const NO_ERRNO: u32 = 2;

fn wrong(kind: usize, result: i64, what: u32) {
    let s = shared();
    let first = s
        .wrong_kind
        .compare_exchange(0, kind as u32 + 1, SeqCst, SeqCst);
    if first.is_ok() {
        s.wrong_result.store(result as u64, SeqCst);
        s.wrong_what.store(what, SeqCst);
    }
}

/// The first call that did what it must not.
pub fn verdict() -> Result<(), String> {
    let s = shared();
    let kind = s.wrong_kind.load(SeqCst) as usize;
    if kind == 0 {
        return Ok(());
    }
    let name = counter_name(kind - 1);
    let result = s.wrong_result.load(SeqCst) as i64;
    Err(match s.wrong_what.load(SeqCst) {
        NO_ERRNO => format!("{name} failed with {result}, which is no errno of user space"),
        _ => format!("{name} gave {result} where it has to fail"),
    })
}

/// Count a result.
pub fn count(kind: usize, r: i64) {
    let s = shared();
    if r >= 0 {
        s.ok[kind].fetch_add(1, SeqCst);
        return;
    }
    s.failed[kind].fetch_add(1, SeqCst);
    match s.errnos[kind].get(-r as usize) {
        Some(n) => {
            n.fetch_add(1, SeqCst);
        }
        None => wrong(kind, r, NO_ERRNO),
    }
}

/// A process that ended as none should.
pub fn lost(who: &str, status: i32) {
    say(&format!("{who} ended with wait status {status:#x}"));
    // SAFETY: ends this process; the round's parent sees it.
    unsafe { libc::_exit(97) };
}

/// A line in one piece, from any process or thread.
pub fn say(line: &str) {
    let l = format!("{line}\n");
    // SAFETY: a buffer with its length.
    unsafe { libc::write(1, l.as_ptr().cast(), l.len()) };
}

fn step(strand: usize, n: usize, what: &dyn Display, f: impl FnOnce() -> i64) -> i64 {
    let at = &shared().at[strand % STRANDS];
    at.0.store(std::process::id(), SeqCst);
    at.1.store(n as u32, SeqCst);
    let trace = TRACE.load(SeqCst);
    if trace {
        say(&format!("{strand:2} {n:3} {what} ..."));
    }
    let r = f();
    if trace {
        say(&format!("{strand:2} {n:3} {what} = {r}"));
    }
    r
}

/// Where each strand is, for the report of a hang.
pub fn positions() -> String {
    let mut t = String::new();
    for (n, (pid, op)) in shared().at.iter().enumerate() {
        let pid = pid.load(SeqCst);
        if pid != 0 {
            t += &format!(" {n}:{}@{pid}", op.load(SeqCst));
        }
    }
    t
}

pub fn forget_positions() {
    let pids = shared().at.iter().map(|(pid, _)| pid);
    for pid in pids.chain(shared().groups.iter().map(|(pid, _)| pid)) {
        pid.store(0, SeqCst);
    }
    shared().done.store(0, SeqCst);
}

fn run(strand: usize, ops: &[Op]) {
    for (n, o) in ops.iter().enumerate() {
        let k = &KINDS[o.kind];
        let mut bad = false;
        let r = step(strand, n, o, || {
            let (r, b) = calls::run(k, &o.vals[..k.args.len()]);
            bad = b;
            r
        });
        count(o.kind, r);
        if bad {
            wrong(o.kind, r, MUST_NOT);
        }
        shared().done.fetch_add(1, SeqCst);
    }
}

/// The program of a child that a call made.
pub fn offspring(seed: u64) {
    run(STRANDS - 1, &calls(&mut Rng::new(seed, 0, 0), 6));
}

// Faults.

/// Read or change a byte; false if there is no memory, of whatever kind.
pub fn touch(addr: u64, write: bool) -> bool {
    // SAFETY: `on_fault` has it go on at its end. A write is to the arena, or to where there is
    // nothing to be written; nothing of Rust's is there.
    unsafe { arch::touch(addr, write) }
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        if let Some(end) = arch::end_of_touch(context) {
            arch::go_on_at(context, end);
            return;
        }
        let addr = (*info).si_addr();
        lost(&format!("a process (signal {signal} at {addr:?})"), signal);
    }
}

fn catch_faults() {
    // SAFETY: a handler that returns only to `touch`.
    unsafe {
        let mut sa: libc::sigaction = std::mem::zeroed();
        sa.sa_sigaction = on_fault as usize;
        sa.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        for s in [libc::SIGBUS, libc::SIGSEGV] {
            libc::sigaction(s, &sa, std::ptr::null_mut());
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

// Processes.

/// Fork; the child runs `f` and ends with what it returns.
pub fn process(f: impl FnOnce() -> i32) -> Result<i32, String> {
    // SAFETY: the caller has one thread, or the child only runs programs.
    match unsafe { libc::fork() } {
        -1 => Err(format!("fork: {}", std::io::Error::last_os_error())),
        // SAFETY: the child does not return into the code of its parent.
        0 => unsafe { libc::_exit(f()) },
        pid => Ok(pid),
    }
}

/// The wait status of a child that has ended.
pub fn end_of(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of this process.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    status
}

/// A group of processes and threads, in a process of its own. `start` tells when all are ready.
pub fn group(g: usize, group: &Group, start: impl FnOnce()) -> i32 {
    catch_faults();
    if let Err(e) = machine::set_up_process(group.high) {
        say(&e);
        return 96;
    }
    if let Err(e) = users::become_user(group.user, false) {
        say(&e);
        return 94;
    }
    others::register(g);
    let strand = g * 16;
    run(strand, &group.first);
    if let Err(e) = users::become_user(group.user, true) {
        say(&e);
        return 94;
    }
    start();
    let mut children = Vec::new();
    for (n, [first, second]) in group.children.iter().enumerate() {
        let child = || {
            std::thread::scope(|s| {
                s.spawn(|| run(strand + 8 + 2 * n, second));
                run(strand + 9 + 2 * n, first);
                // In the middle of whatever the other thread does.
                shared().running.fetch_sub(1, SeqCst);
                // SAFETY: ends the process.
                unsafe { libc::_exit(0) }
            })
        };
        shared().running.fetch_add(1, SeqCst);
        match process(child) {
            Ok(pid) => children.push(pid),
            Err(e) => {
                say(&e);
                return 95;
            }
        }
    }
    std::thread::scope(|s| {
        for (n, ops) in group.threads.iter().enumerate() {
            s.spawn(move || run(strand + 1 + n, ops));
        }
    });
    for pid in children {
        let status = end_of(pid);
        if status != 0 {
            lost("a child", status);
        }
    }
    others::unregister(g);
    shared().running.fetch_sub(1, SeqCst);
    0
}

/// An administrator, who is in step with the programs: of `total` calls, as many are done between
/// two of his deeds.
pub fn admin(a: usize, deeds: &[Deed], total: usize) -> i32 {
    let m = MACHINE.get().expect("set before the first program runs");
    let s = shared();
    for (n, d) in deeds.iter().enumerate() {
        let due = (n * total / (deeds.len() + 1)) as u32;
        // Below 0 when some have been killed.
        while s.done.load(SeqCst) < due && s.running.load(SeqCst) as i32 > 0 {
            // CLOCK: how often it is looked at.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        perform(STRANDS - 4 + a, n, d, m);
    }
    0
}

pub fn perform(strand: usize, n: usize, d: &Deed, m: &machine::Machine) -> i64 {
    let r = step(strand, n, d, || (ADMIN[d.kind].run)(m, d.arg));
    count(KINDS.len() + IOCTLS.len() + d.kind, r);
    r
}
