// SPDX-License-Identifier: GPL-2.0
//! What the processes of a run share: the contents of all pages in use. And the one among them that
//! looks at the device from elsewhere.

use super::table::PAGE;
use crate::check_eq;
use crate::support::ctx::TestResult;
use crate::support::peer::Peer;
use crate::support::sys::Map;
use crate::support::tools;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

pub(super) const WORDS: u64 = PAGE / 8;
/// In the upper half of every word that stays.
pub(super) const MAGIC: u64 = 0x7270_6d78;

pub(super) type Check<T = ()> = Result<T, String>;

/// A failed system call, in words.
pub(super) fn os(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

/// What a word of a page is; the first one changes.
fn word(page: u64, n: u64) -> u64 {
    (MAGIC << 32) | ((page / PAGE) << 9) | n
}

/// Whether the words of a page that stay are right; the first of them that is not.
pub(super) fn damage(page: u64, words: &[u64]) -> Option<(usize, u64)> {
    let same = |(n, w): (usize, &u64)| n == 0 || *w == word(page, n as u64);
    let n = words.iter().enumerate().position(|x| !same(x))?;
    Some((n, words[n]))
}

/// What the processes of a run share: the contents of the pages that are in use, and the words to the
/// witness.
pub(super) struct Board {
    pub(super) map: Map,
    /// Where on the device they are.
    pub(super) pages: Vec<u64>,
}

const COMMAND: usize = 0;
const FROM: usize = 1;
const TO: usize = 2;
const RESULT: usize = 3;
const SERIAL: usize = 4;
const VALUES: usize = 8;

/// For the witness: write what all pages have from then on; look at all of them; store to those in a
/// range, and msync it, and look.
const FILL: u64 = 0;
pub(super) const VERIFY: u64 = 1;
pub(super) const STORE: u64 = 2;

impl Board {
    pub(super) fn new(pages: Vec<u64>) -> TestResult<Board> {
        let bytes = (VALUES + pages.len()) * 8;
        let map = tools::anonymous(bytes.next_multiple_of(PAGE as usize))?;
        let board = Board { map, pages };
        board.cell(COMMAND).store(FILL, SeqCst);
        board.cell(TO).store(u64::MAX, SeqCst);
        Ok(board)
    }

    pub(super) fn cell(&self, n: usize) -> &AtomicU64 {
        assert!((n + 1) * 8 <= self.map.len());
        // SAFETY: inside of the mapping, aligned, and never accessed in another way.
        unsafe { AtomicU64::from_ptr(self.map.as_ptr().cast::<u64>().add(n)) }
    }

    /// The cell with the first word of a page.
    pub(super) fn value(&self, page: u64) -> Option<&AtomicU64> {
        let n = self.pages.binary_search(&page).ok()?;
        Some(self.cell(VALUES + n))
    }

    /// Has the witness do something.
    pub(super) fn ask(&self, witness: &Peer, command: u64, range: Range<u64>) -> Check {
        self.cell(COMMAND).store(command, SeqCst);
        self.cell(FROM).store(range.start, SeqCst);
        self.cell(TO).store(range.end, SeqCst);
        witness.say();
        witness
            .hear()
            .map_err(|e| format!("the witness has ended: {e:?}"))?;
        match self.cell(RESULT).load(SeqCst) {
            0 => Ok(()),
            _ => Err("the witness sees something else".into()),
        }
    }

    /// A first word that there was not yet.
    pub(super) fn fresh(&self, page: u64) -> u64 {
        let serial = self.cell(SERIAL).fetch_add(1, SeqCst) + 1;
        ((page / PAGE) << 40) | serial
    }
}

pub(super) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(-1)
}

/// Runs `f` in a child, which says what was wrong, and ends.
pub(super) fn in_child(f: impl FnOnce() -> Check) -> Check<i32> {
    // SAFETY: a process of one thread; the child runs `f` and ends.
    match unsafe { libc::fork() } {
        -1 => Err(os("fork")),
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            let status = match done {
                Ok(Ok(())) => 0,
                Ok(Err(why)) => {
                    println!("{why}");
                    1
                }
                Err(_) => 2,
            };
            // SAFETY: ends this process.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid),
    }
}

/// The status of a child that has ended or stopped.
pub(super) fn wait(pid: i32) -> Check<i32> {
    let mut status = 0;
    loop {
        // SAFETY: a child of this process.
        if unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) } == pid {
            return Ok(status);
        }
        if errno() != libc::EINTR {
            return Err(os("waitpid"));
        }
    }
}

/// The process that looks at the device from elsewhere.
pub(super) fn witness(node: &str, size: u64, board: &Board) -> TestResult<Peer> {
    let peer = Peer::start(|link| {
        let Ok(file) = File::options().read(true).write(true).open(node) else {
            println!("the witness cannot open {node}");
            return 1;
        };
        // Its stores are tracked by the page, so that msync takes away what is stored to.
        let Ok(map) = Map::shared(&file, 0, size as usize) else {
            println!("the witness has no mapping");
            return 1;
        };
        let at = |page: u64| map.as_ptr().wrapping_add(page as usize).cast::<u64>();
        // SAFETY: pages of the mapping, which others change between commands alone.
        unsafe {
            loop {
                let command = board.cell(COMMAND).load(SeqCst);
                let range = board.cell(FROM).load(SeqCst)..board.cell(TO).load(SeqCst);
                let mut wrong = 0;
                if command == FILL {
                    for page in &board.pages {
                        for n in 1..WORDS {
                            at(*page).add(n as usize).write_volatile(word(*page, n));
                        }
                    }
                }
                if command == STORE || command == FILL {
                    for page in board.pages.iter().filter(|p| range.contains(p)) {
                        let value = board.fresh(*page);
                        at(*page).write_volatile(value);
                        if let Some(cell) = board.value(*page) {
                            cell.store(value, SeqCst);
                        }
                    }
                    let len = (range.end.min(size) - range.start) as usize;
                    if libc::msync(at(range.start).cast(), len, libc::MS_SYNC) != 0 {
                        println!("{}", os("the witness: msync"));
                        wrong = 1;
                    }
                }
                for page in &board.pages {
                    let words = std::slice::from_raw_parts(at(*page), WORDS as usize);
                    let want = board.value(*page).map_or(0, |cell| cell.load(SeqCst));
                    let bad = damage(*page, words);
                    if words[0] != want || bad.is_some() {
                        let first = words[0];
                        println!("the witness: {page:#x} has {first:#x} for {want:#x}, {bad:x?}");
                        wrong = 1;
                    }
                }
                board.cell(RESULT).store(wrong, SeqCst);
                link.say();
                link.hear();
            }
        }
    })?;
    peer.hear()?;
    check_eq!(board.cell(RESULT).load(SeqCst), 0, "the witness");
    // Whoever comes next finds it so.
    board.cell(COMMAND).store(VERIFY, SeqCst);
    Ok(peer)
}
