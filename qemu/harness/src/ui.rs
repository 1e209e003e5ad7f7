// SPDX-License-Identifier: GPL-2.0
//! Progress: plain lines, and on a terminal one more line that is rewritten.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Instant;

pub struct Ui {
    start: Instant,
    tty: bool,
    shown: Mutex<bool>,
}

impl Ui {
    pub fn new() -> Self {
        Ui {
            start: Instant::now(),
            tty: std::io::stdout().is_terminal(),
            shown: Mutex::new(false),
        }
    }

    pub fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        let mut shown = self.shown.lock().unwrap();
        let mut out = std::io::stdout().lock();
        let clear = if *shown { "\r\x1b[K" } else { "" };
        *shown = false;
        let _ = writeln!(out, "{clear}{text}");
        let _ = out.flush();
    }

    pub fn stage(&self, text: &str) {
        self.line(&format!("[{:5.1}s] {text}", self.elapsed()));
    }

    /// A line that the next one replaces; nothing at all when the output is not a terminal.
    pub fn progress(&self, text: &str) {
        if !self.tty {
            return;
        }
        let mut shown = self.shown.lock().unwrap();
        *shown = true;
        let mut out = std::io::stdout().lock();
        let text: String = format!("[{:5.1}s] {text}", self.elapsed())
            .chars()
            .take(100)
            .collect();
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}
