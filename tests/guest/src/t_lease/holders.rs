// SPDX-License-Identifier: GPL-2.0
//! Who holds the lease, and all the ways to let go of it.

use super::{
    become_a_user, direct, exec_sleep, gone, heard, lease, listen, noticed, still, unmap, works,
    How, Leased, ALL,
};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::DIRECT_WINDOW;
use crate::support::peer::{Link, Peer, GOT_SIGBUS};
use crate::support::sys::{self, Map, FOREVER, RW, SYNC};
use crate::support::tools::{errno, HUGE, PAGE};
use crate::support::trace::Probe;
use crate::support::uapi;
use crate::{check, check_eq};
use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, POLLPRI, PROT_NONE, PROT_READ};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

pub const TESTS: &[Test] = crate::tests! {
    lease_release => release,
    lease_fork => fork,
    lease_polite => polite,
    lease_holders_bounded => holders_bounded,
    lease_many => many,
};

/// Pages of `release`.
const PAGES: usize = 8;

/// A mapping of that many pages, of which the function given unmaps all but the last bit. It calls
/// the other one after each step that must not end the break.
type Way = fn(*mut u8, &dyn Fn(&str, usize) -> TestResult) -> TestResult;

const WAYS: &[(&str, Way)] = &[
    ("at once", |p, _| unmap(p, 0, PAGES)),
    ("a hole first", |p, still| {
        unmap(p, 2, 1)?;
        still("head and tail", 2)?;
        unmap(p, 0, 2)?;
        still("the tail", 1)?;
        unmap(p, 3, PAGES - 3)
    }),
    ("page by page", |p, still| {
        for page in (1..PAGES).rev() {
            unmap(p, page, 1)?;
        }
        still("one page", 1)?;
        unmap(p, 0, 1)
    }),
    ("mremap", |p, still| {
        // SAFETY: the mapping is given up, and the new place reserved just now.
        unsafe {
            let r = libc::mremap(p.cast(), PAGES * PAGE, PAGE, 0);
            check_eq!(r.cast::<u8>(), p, "mremap to one page");
            still("shrunk", 1)?;
            let to = libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS,
                -1,
                0,
            );
            check!(to != libc::MAP_FAILED, "room");
            let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let moved = libc::mremap(p.cast(), PAGE, PAGE, how, to);
            check_eq!(moved, to, "mremap to another place");
            still("moved", 1)?;
            moved.cast::<u8>().write_volatile(3);
            check_eq!(libc::munmap(moved, PAGE), 0);
        }
        Ok(())
    }),
    ("MAP_FIXED over it", |p, still| {
        let over = |page: usize, pages: usize| -> TestResult {
            // SAFETY: over a mapping that the test has given up.
            let r = unsafe {
                libc::mmap(
                    p.add(page * PAGE).cast(),
                    pages * PAGE,
                    RW,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                    -1,
                    0,
                )
            };
            check!(r != libc::MAP_FAILED, "MAP_FIXED");
            Ok(())
        };
        over(1, PAGES - 1)?;
        still("the first page", 1)?;
        over(0, 1)?;
        unmap(p, 0, PAGES)
    }),
    ("protected", |p, still| {
        // SAFETY: the mapping is given up.
        unsafe {
            check_eq!(libc::mprotect(p.cast(), PAGE, PROT_NONE), 0);
            check_eq!(libc::mprotect(p.add(PAGE).cast(), PAGE, PROT_READ), 0);
        }
        still("of three protections", 3)?;
        unmap(p, 2, PAGES - 2)?;
        still("that cannot be written to now", 2)?;
        unmap(p, 0, 2)
    }),
];

/// The break waits for the last byte, and not longer.
fn release(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
    for how in ALL {
        for (what, way) in WAYS {
            let what = format!("{how:?}, {what}");
            n.grace(c, "-1")?;
            let (f, g) = (n.open()?, n.open()?);
            let m = direct(&g, HUGE - 2 * PAGE, PAGES * PAGE)?;
            m.write8(0, 1);
            let b = n.begin(how);
            noticed(&f)?;
            drop(g);
            still(&f, &b, &format!("{what}: close"))?;
            let p = m.as_ptr();
            std::mem::forget(m);
            way(p, &|step, holders| {
                still(&f, &b, &format!("{what}: {step}"))?;
                check_eq!(lease(&f)?.holders, holders as u64, "{what}: {step}");
                Ok(())
            })?;
            b.end(c)?;
            check_eq!(lease(&f)?.holders, 0, "{what}");
            n.again(c, how)?;
        }
        // Other processes.
        type End = fn() -> i32;
        let ends: &[(&str, Option<End>)] = &[
            ("exit", Some(|| 0)),
            ("exec", Some(exec_sleep)),
            ("SIGKILL", None),
        ];
        for (what, end) in ends {
            let what = format!("{how:?}, {what}");
            n.grace(c, "-1")?;
            let f = n.open()?;
            let p = Peer::start(|l| {
                let Ok(m) = direct(&f, 0, HUGE) else { return 1 };
                m.write8(0, 1);
                l.say();
                l.hear();
                m.write8(PAGE, 1);
                l.say();
                l.hear();
                end.map_or(2, |end| end())
            })?;
            p.hear()?;
            let b = n.begin(how);
            noticed(&f)?;
            p.say();
            p.hear()?;
            still(&f, &b, &what)?;
            match end {
                Some(_) => p.say(),
                // SAFETY: no pointers; a child of this process.
                None => check_eq!(unsafe { libc::kill(p.pid(), libc::SIGKILL) }, 0),
            }
            b.end(c)?;
            drop(p);
            n.again(c, how)?;
        }
    }
    Ok(())
}

/// Fork shares the lease.
fn fork(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let m = direct(&f, 0, HUGE)?;
    let plain = Map::new(&f, 0, HUGE, RW, MAP_SHARED)?;
    let apart = direct(&f, 2 * HUGE, HUGE)?;
    apart.madvise(libc::MADV_DONTFORK)?;
    for m in [&m, &plain, &apart] {
        m.write8(0, 1);
    }
    // A child that goes on with what it got, and gives it back when it is told to.
    let child = |l: &Link| {
        l.say();
        for _ in 0..2 {
            l.hear();
            m.write8(7, m.read8(6));
            m.write8(HUGE - 1, 1);
            l.say();
        }
        l.hear();
        unmap(m.as_ptr(), 0, HUGE / PAGE).map_or(1, |()| {
            l.say();
            l.hear();
            0
        })
    };
    let first = Peer::start(child)?;
    first.hear()?;
    check_eq!(lease(&f)?.holders, 3, "with that of a child");
    listen(&f)?;
    let b = n.begin(How::Remove);
    heard(&f)?;
    // One more, in the middle of it; what has ended stays so.
    let second = Peer::start(child)?;
    second.hear()?;
    check_eq!(lease(&f)?.holders, 4, "with a second child");
    gone(&plain, 0, "a plain one after fork")?;
    m.write8(6, 0x36);
    for p in [&first, &second] {
        p.say();
        p.hear()?;
    }
    check_eq!(m.read8(7), 0x36, "seen by all");
    let p = m.as_ptr();
    std::mem::forget(m);
    unmap(p, 0, HUGE / PAGE)?;
    drop(apart);
    still(&f, &b, "the children's")?;
    check_eq!(lease(&f)?.holders, 2, "the children's");
    for p in [&first, &second] {
        p.say();
        p.hear()?;
    }
    first.say();
    first.hear()?;
    still(&f, &b, "the second child's")?;
    second.say();
    second.hear()?;
    b.end(c)?;
    for p in [first, second] {
        p.say();
        check_eq!(p.wait()?, 0, "a child");
    }
    drop((f, plain));
    n.again(c, How::Remove)?;

    // A copy of what a break has ended is dead, and holds nothing.
    n.grace(c, "0")?;
    let f = n.open()?;
    let m = direct(&f, 0, 4 * PAGE)?;
    m.write8(0, 1);
    n.begin(How::ReadOnly).end(c)?;
    n.again(c, How::ReadOnly)?;
    let p = Peer::start(|l| {
        l.say();
        l.hear();
        m.write8(0, 1);
        1
    })?;
    p.hear()?;
    check_eq!(lease(&f)?.holders, 0, "copies of a dead one");
    let live = direct(&f, 0, PAGE)?;
    n.grace(c, "-1")?;
    let b = n.begin(How::Remove);
    noticed(&f)?;
    drop(live);
    b.end(c)?;
    p.say();
    check_eq!(p.wait()?, GOT_SIGBUS, "a copy of a dead one");
    n.again(c, How::Remove)
}

/// A process with mappings, and what `holders` says of it.
fn holder(f: &File, name: &std::ffi::CStr, direct_ones: usize, others: usize) -> TestResult<Peer> {
    let p = Peer::start(|l| {
        // SAFETY: a name that ends with a zero byte.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        let mut maps = Vec::new();
        for n in 0..direct_ones + others {
            let base = if n < direct_ones { DIRECT_WINDOW } else { 0 };
            match Map::new(f, base + (n * PAGE) as u64, PAGE, RW, SYNC) {
                Ok(m) => maps.push(m),
                Err(_) => return 1,
            }
        }
        l.say();
        l.hear();
        0
    })?;
    p.hear()?;
    Ok(p)
}

/// Tools that ask are told no; administrators are told who has the memory.
fn polite(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
    let f = n.open()?;
    let m = direct(&f, 0, HUGE)?;
    drop(f);
    let ns = n.space.namespace(c)?;
    let out = c.fails(&["ndctl", "disable-namespace", &ns])?;
    check!(out.contains("busy"), "{ns}: {out}");
    check_eq!(c.bound_to(&n.space.nd).as_deref(), Some("rpmem"));
    let got = c.try_rmmod("rpmem");
    check_eq!(errno(&got), libc::EAGAIN, "rmmod");
    works(&m, 0, "after that")?;
    drop(m);

    let f = n.open()?;
    check_eq!(lease(&f)?.breaks, 0, "no break was begun");
    check_eq!(n.holders(c)?, [""; 0], "nobody");
    let first = holder(&f, c"holder one", 2, 3)?;
    let second = holder(&f, c"holder-two", 0, 1)?;
    let want = |lines: &[(i32, &str)]| {
        let mut v: Vec<String> = lines.iter().map(|(p, l)| format!("{p} {l}")).collect();
        v.sort();
        v
    };
    let (a, b) = (first.pid(), second.pid());
    let two = want(&[(a, "2 5 holder one"), (b, "0 1 holder-two")]);
    check_eq!(n.holders(c)?, two);
    check_eq!(n.text(c, "mappings")?, "6");
    // A child has its own line, and its own name.
    let own = std::process::id() as i32;
    let comm = c.read("/proc/self/comm")?;
    let m = direct(&f, 0, HUGE)?;
    let child = Peer::start(|l| {
        // SAFETY: a name that ends with a zero byte.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"a child".as_ptr()) };
        // Cut in three.
        if unmap(m.as_ptr(), 5, 1).is_err() {
            return 1;
        }
        l.say();
        l.hear();
        0
    })?;
    child.hear()?;
    let mine = format!("1 1 {comm}");
    let four = want(&[
        (a, "2 5 holder one"),
        (b, "0 1 holder-two"),
        (own, &mine),
        (child.pid(), "2 2 a child"),
    ]);
    check_eq!(n.holders(c)?, four);
    check_eq!(lease(&f)?.holders, 5);
    drop((second, child));
    check_eq!(
        n.holders(c)?,
        want(&[(a, "2 5 holder one"), (own, &mine)]),
        "after exit"
    );

    // More of them than the log names.
    let mut many = Vec::new();
    for _ in 0..8 {
        many.push(holder(&f, c"one of many", 1, 0)?);
    }
    // Their copies of the test's own.
    for p in &many {
        let line = format!("{} 2 2 one of many", p.pid());
        check!(n.holders(c)?.contains(&line), "no line {line}");
    }
    n.grace(c, "1000")?;
    c.mark_dmesg();
    let brk = n.begin(How::Remove);
    noticed(&f)?;
    let first_says = n.holders(c)?;
    check_eq!(first_says.len(), 10, "in a break");
    n.grace(c, "0")?;
    brk.end(c)?;
    let log = c.dmesg()?;
    for text in [
        "the namespace is being unbound: waiting up to 1000 s for 19 holders",
        "(pid ",
        "and by 2 others: see holders in sysfs",
        "lease broken with 19 mappings left",
    ] {
        check!(log.contains(text), "the log lacks {text:?}:\n{log}");
    }
    let named: Vec<&str> = log.lines().filter(|l| l.contains("held by ")).collect();
    check_eq!(named.len(), 8, "lines: {named:#?}");
    for l in named {
        let known = many
            .iter()
            .map(|p| format!("held by one of many (pid {}): 2 direct of 2", p.pid()))
            .chain([
                format!("held by holder one (pid {a}): 2 direct of 5"),
                format!("held by {comm} (pid {own}): 1 direct of 1"),
            ])
            .any(|want| l.contains(&want));
        check!(known, "a line of the log: {l}");
    }
    drop((first, many, m, f));
    n.again(c, How::Remove)?;
    check_eq!(n.holders(c)?, [""; 0], "a fresh device");
    Ok(())
}

/// Who asks for the holders gets a page of them, by one look at the processes, and is root.
fn holders_bounded(c: &mut Ctx) -> TestResult {
    const NAMED: usize = 64;
    const PROCESSES: usize = NAMED + 6;
    let n = Leased::new(c)?;
    let file = format!("{}/holders", n.sysfs);
    let meta = std::fs::metadata(&file)?;
    check_eq!(meta.mode() & 0o7777, 0o400, "mode");
    check_eq!((meta.uid(), meta.gid()), (0, 0), "owner");
    let user = Peer::start(|_| match become_a_user().and_then(|()| File::open(&file)) {
        Err(e) => e.raw_os_error().unwrap_or(0),
        Ok(_) => 0,
    })?;
    check_eq!(user.wait()?, libc::EACCES, "for others");

    let look = Probe::new(c, "processes", "rpmem_helper_processes")?;
    check_eq!(n.holders(c)?, [""; 0], "nobody");
    check_eq!(look.count(c)?, 0, "looks at the processes, for nobody");
    let f = n.open()?;
    let mut all = Vec::new();
    for _ in 0..PROCESSES {
        all.push(holder(&f, c"one of many", 1, 0)?);
    }
    let lines = n.holders(c)?;
    check_eq!(lines.len(), NAMED + 1, "{lines:#?}");
    check!(
        lines.contains(&format!("and {} others", PROCESSES - NAMED)),
        "{lines:#?}"
    );
    for line in lines.iter().filter(|l| !l.starts_with("and ")) {
        let known = all
            .iter()
            .any(|p| *line == format!("{} 1 1 one of many", p.pid()));
        check!(known, "{line}");
    }
    check_eq!(look.count(c)?, 1, "looks at the processes");
    drop(look);
    // One that has died is not named, nor is a zombie.
    all.truncate(2);
    check_eq!(n.holders(c)?.len(), 2, "after exit");
    Ok(())
}

/// Half of many processes give the memory back in time.
fn many(c: &mut Ctx) -> TestResult {
    const PROCESSES: usize = 8;
    const EACH: usize = 100;
    let n = Leased::new(c)?;
    n.grace(c, "-1")?;
    let f = n.open()?;
    let mut peers = Vec::new();
    for number in 0..PROCESSES {
        peers.push(Peer::start(|l| {
            let mut maps = Vec::new();
            for i in 0..EACH {
                let len = if i % 10 == 0 { HUGE } else { 3 * PAGE };
                let Ok(m) = direct(&f, (number * EACH + i) * PAGE, len) else {
                    return 1;
                };
                m.write8(2 * PAGE, 1);
                maps.push(m);
            }
            l.say();
            if sys::poll(&f, POLLPRI, FOREVER).ok() != Some(POLLPRI) {
                return 2;
            }
            if number % 2 == 0 {
                drop(maps);
                return 0;
            }
            // Uses them for as long as it can.
            loop {
                for m in &maps {
                    m.write8(PAGE, 2);
                }
                // CLOCK: whether this one ever runs is nobody's business.
                let _ = sys::poll(&f, 0, 1);
            }
        })?);
    }
    for p in &peers {
        p.hear()?;
    }
    check_eq!(lease(&f)?.holders, (PROCESSES * EACH) as u64, "holders");
    c.mark_dmesg();
    let b = n.begin(How::Remove);
    c.wait_for("half of the holders", || {
        uapi::rpmem_lease(&f, 32).is_ok_and(|l| l.holders == (PROCESSES * EACH / 2) as u64)
    })?;
    still(&f, &b, "with the other half")?;
    check_eq!(n.holders(c)?.len(), PROCESSES / 2, "processes");
    n.grace(c, "1")?;
    let took = b.end(c)?;
    check!(took >= Duration::from_secs(1), "took {took:?}");
    for (number, p) in peers.into_iter().enumerate() {
        let want = if number % 2 == 0 { 0 } else { GOT_SIGBUS };
        check_eq!(p.wait()?, want, "process {number}");
    }
    c.dmesg_has(&format!(
        "lease broken with {} mappings left",
        PROCESSES * EACH / 2
    ))?;
    drop(f);
    n.again(c, How::Remove)
}
