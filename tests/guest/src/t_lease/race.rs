// SPDX-License-Identifier: GPL-2.0
//! Breaks, holders and new mappings at random.

use super::{kill, lease, unmap, Break, How, Leased, ALL};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::node::DIRECT_WINDOW;
use crate::support::peer::{Link, Peer, GOT_SIGBUS};
use crate::support::sys::{self, Map, RW, SYNC};
use crate::support::tools::{self, PAGE};
use crate::support::uapi::{self, LEASE_BROKEN, LEASE_HELD};
use crate::{check, check_eq};
use libc::{MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, POLLPRI, PROT_NONE, PROT_READ};
use std::fs::File;
use std::io;

pub const TESTS: &[Test] = crate::tests! {
    lease_race => race,
};

/// Random numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        // Seeds that are near each other are far apart.
        let mut r = Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        r.below(2);
        r
    }

    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// A process of `race`: does with its mappings what can be done, until it loses them.
struct Racer<'a> {
    f: &'a File,
    /// Not 0 once the break is over: from then on, no access may work.
    over: &'a Map,
    random: Random,
    /// Address and pages.
    maps: Vec<(*mut u8, usize)>,
}

/// What a racer says that it has seen wrong, by its exit status.
const WRONG: &[(i32, &str)] = &[
    (3, "an access worked when the break was over"),
    (4, "mmap: an unexpected errno"),
    (5, "munmap failed"),
    (6, "mremap failed"),
    (7, "a child ended in an unexpected way"),
];

impl Racer<'_> {
    fn run(&mut self, l: &Link) -> i32 {
        for _ in 0..3 {
            self.map();
        }
        l.say();
        loop {
            let over = self.over.read8(0) != 0;
            if over && self.maps.is_empty() {
                return 0;
            }
            let r = match self.random.below(12) {
                0 | 1 => self.map(),
                2 => self.unmap(),
                3 => self.remap(),
                4 => self.fork(),
                5 => self.call(),
                _ => self.touch(),
            };
            if r != 0 {
                return r;
            }
            if over && !self.maps.is_empty() {
                self.access(0, 0, true);
                return 3;
            }
        }
    }

    fn map(&mut self) -> i32 {
        if self.maps.len() > 8 {
            return 0;
        }
        let pages = 1 + self.random.below(700);
        let at = self.random.below(64 << 20 >> 12) as u64 * PAGE as u64;
        let kinds = [
            (DIRECT_WINDOW, SYNC),
            (DIRECT_WINDOW, SYNC),
            (0, SYNC),
            (0, MAP_SHARED),
        ];
        let (base, flags) = kinds[self.random.below(4)];
        match Map::new(self.f, base + at, pages * PAGE, RW, flags) {
            Ok(m) => {
                self.maps.push((m.as_ptr(), pages));
                std::mem::forget(m);
                0
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EBUSY | libc::ENXIO | libc::EACCES) => 0,
                _ => 4,
            },
        }
    }

    fn access(&self, map: usize, page: usize, write: bool) {
        let at = self.maps[map].0.wrapping_add(page * PAGE + 9);
        // SAFETY: a page of a mapping of this process; SIGBUS ends it.
        unsafe {
            if write {
                at.write_volatile(1);
            } else {
                at.read_volatile();
            }
        }
    }

    fn touch(&mut self) -> i32 {
        if self.maps.is_empty() {
            return 0;
        }
        let n = self.random.below(self.maps.len());
        for _ in 0..8 {
            let page = self.random.below(self.maps[n].1);
            let write = self.random.below(2) == 0;
            self.access(n, page, write);
        }
        0
    }

    /// A part of a mapping, or all of it.
    fn unmap(&mut self) -> i32 {
        if self.maps.is_empty() {
            return 0;
        }
        let n = self.random.below(self.maps.len());
        let (p, pages) = self.maps[n];
        let first = self.random.below(pages);
        let count = match self.random.below(3) {
            0 => pages - first,
            _ => 1 + self.random.below(pages - first),
        };
        if unmap(p, first, count).is_err() {
            return 5;
        }
        self.maps.swap_remove(n);
        let end = first + count;
        for (first, last) in [(0, first), (end, pages)] {
            if first < last {
                self.maps.push((p.wrapping_add(first * PAGE), last - first));
            }
        }
        0
    }

    /// A mapping moves and shrinks.
    fn remap(&mut self) -> i32 {
        if self.maps.is_empty() {
            return 0;
        }
        let n = self.random.below(self.maps.len());
        let (p, pages) = self.maps[n];
        let left = 1 + self.random.below(pages);
        let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: a mapping of this process, to a place that it has reserved.
        let to = unsafe {
            let to = libc::mmap(
                std::ptr::null_mut(),
                left * PAGE,
                PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS,
                -1,
                0,
            );
            if to == libc::MAP_FAILED {
                return 6;
            }
            libc::mremap(p.cast(), pages * PAGE, left * PAGE, how, to)
        };
        if to == libc::MAP_FAILED {
            // Without the device there is no new place for a dead mapping; it has shrunk before.
            self.maps[n].1 = left;
            return match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENXIO) => 0,
                _ => 6,
            };
        }
        self.maps[n] = (to.cast(), left);
        0
    }

    /// A child that uses what it got, or gives a part of it back, and ends.
    fn fork(&mut self) -> i32 {
        // SAFETY: one thread; the child is reaped.
        unsafe {
            match libc::fork() {
                -1 => 7,
                0 => {
                    self.random = Random::new(self.random.below(1 << 30) as u64);
                    self.touch();
                    self.unmap();
                    self.touch();
                    libc::_exit(0)
                }
                pid => {
                    let mut status = 0;
                    libc::waitpid(pid, &mut status, 0);
                    let ended = libc::WIFEXITED(status);
                    match libc::WEXITSTATUS(status) {
                        0 | GOT_SIGBUS if ended => 0,
                        _ => 7,
                    }
                }
            }
        }
    }

    /// Calls whose answers depend on the moment.
    fn call(&mut self) -> i32 {
        let _ = sys::poll(self.f, POLLPRI, 0);
        let _ = uapi::rpmem_lease(self.f, 32);
        if let Some((p, pages)) = self.maps.first().copied() {
            let len = pages * PAGE;
            // SAFETY: a mapping of this process, and no reference into it.
            unsafe {
                libc::msync(p.cast(), len, libc::MS_SYNC);
                // All of it: of a part, one mapping would become two, which mremap(2) refuses.
                libc::mprotect(p.cast(), len, PROT_READ);
                libc::mprotect(p.cast(), len, RW);
            }
            let mut prefault = uapi::Prefault {
                argsz: 32,
                flags: 1,
                addr: p as u64,
                len: len as u64,
                done: 0,
            };
            let _ = uapi::ioctl_raw(self.f, 0xbd01, &mut prefault);
        }
        0
    }
}

/// Breaks, while processes do what they can with their mappings.
fn race(c: &mut Ctx) -> TestResult {
    let n = Leased::new(c)?;
    let rounds = if c.long { 500 } else { 10 };
    println!("seed {}, {rounds} rounds", c.seed);
    // What the kernel sends to a group of processes without a parent in which some are stopped.
    sys::block_signals(&[libc::SIGHUP]);
    let over = tools::anonymous(PAGE)?;
    for round in 0..rounds {
        one_race(c, &n, &over, round).map_err(|e| match e {
            crate::support::ctx::Outcome::Fail(why) => format!("round {round}: {why}").into(),
            skip => skip,
        })?;
    }
    // No file, mapping or process holds the module, once those that were killed have ended.
    c.wait_unused("rpmem")?;
    c.rmmod("rpmem")?;
    c.insmod_rpmem("")?;
    Leased::new(c)?.open()?;
    Ok(())
}

fn one_race(c: &Ctx, n: &Leased, over: &Map, round: u64) -> TestResult {
    let mut random = Random::new(c.seed.wrapping_mul(1000).wrapping_add(round));
    let how = ALL[random.below(3)];
    // At times another one wants it as well.
    let also = (random.below(3) == 0).then(|| ALL[random.below(3)]);
    let grace = ["0", "0", "-1", "-1", "-1", "1"][random.below(6)];
    over.write8(0, 0);
    n.grace(c, grace)?;
    let f = n.open()?;
    let before = lease(&f)?.breaks;
    let mut peers = Vec::new();
    for _ in 0..2 + random.below(3) {
        let seed = random.below(1 << 30) as u64;
        peers.push(Peer::start(|l| {
            let mut racer = Racer {
                f: &f,
                over,
                random: Random::new(seed),
                maps: Vec::new(),
            };
            racer.run(l)
        })?);
    }
    for p in &peers {
        p.hear()?;
    }
    let breaks: Vec<Break> = [Some(how), also]
        .into_iter()
        .flatten()
        .map(|how| n.begin(how))
        .collect();
    let mut killed = vec![false; peers.len()];
    for _ in 0..random.below(4) {
        let victim = random.below(peers.len());
        match random.below(4) {
            0 => {
                kill(peers[victim].pid(), libc::SIGKILL)?;
                killed[victim] = true;
            }
            1 => kill(peers[victim].pid(), libc::SIGSTOP)?,
            2 => kill(peers[victim].pid(), libc::SIGCONT)?,
            // CLOCK: the notice, the end, or some time.
            _ => {
                sys::poll(&f, POLLPRI, 5)?;
            }
        }
    }
    if grace == "-1" {
        // Unless it is over: who has held it was killed.
        let _ = n.grace(c, "0");
    }
    // Where it is unbound, nothing may be left for the other one.
    let unbound = how == How::Remove || also == Some(How::Remove);
    for b in breaks {
        match b.outcome(c)? {
            Err(e) if !unbound => return Err(e.into()),
            _ => {}
        }
    }
    over.write8(0, 1);
    for (p, killed) in peers.into_iter().zip(killed) {
        kill(p.pid(), libc::SIGCONT)?;
        let end = p.wait()?;
        let fine = end == 0 || end == GOT_SIGBUS || (killed && end == 128 + libc::SIGKILL);
        let why = WRONG.iter().find(|w| w.0 == end).map_or("", |w| w.1);
        check!(
            fine,
            "{how:?}, {also:?}, grace {grace}: a process ended with {end} {why}"
        );
    }
    let state = lease(&f)?;
    let want = if unbound { LEASE_BROKEN } else { LEASE_HELD };
    check_eq!((state.state, state.holders), (want, 0), "{state:?}");
    check!(state.breaks <= before + 2, "{state:?}");
    // The node first.
    if unbound {
        n.again(c, How::Remove)?;
    }
    for how in [Some(how), also].into_iter().flatten() {
        if how != How::Remove {
            n.again(c, how)?;
        }
    }
    // Children of those that were killed need not have ended yet.
    c.wait_for("the end of all mappings", || {
        n.text(c, "mappings").is_ok_and(|s| s == "0")
    })?;
    check_eq!(n.holders(c)?, [""; 0], "holders");
    Ok(())
}
