// SPDX-License-Identifier: GPL-2.0
//! What tracepoints and probes say.

use crate::support::ctx::{Ctx, TestResult};
use crate::{check, fail};
use std::fs::{self, File};

/// Events of a tracepoint, while it lives.
pub struct Trace {
    dir: &'static str,
    event: String,
}

impl Trace {
    pub fn on(c: &Ctx, event: &str) -> TestResult<Trace> {
        let t = Trace {
            dir: "/sys/kernel/tracing",
            event: event.to_string(),
        };
        // Truncation empties the buffer.
        std::fs::write(format!("{}/trace", t.dir), "")?;
        c.write(format!("{}/events/{event}/enable", t.dir), "1")?;
        Ok(t)
    }

    /// What they say, without who and when.
    pub fn said(&self, c: &Ctx) -> TestResult<Vec<String>> {
        said(c, self.event.rsplit('/').next().unwrap_or_default())
    }

    pub fn lines(&self, c: &Ctx) -> TestResult<Vec<String>> {
        let name = self
            .event
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_string();
        let all = c.read(format!("{}/trace", self.dir))?;
        let tag = format!(" {name}:");
        Ok(all
            .lines()
            .filter(|l| l.contains(&tag))
            .map(str::to_string)
            .collect())
    }
}

/// What events with that name have said, whoever has them switched on.
pub fn said(c: &Ctx, event: &str) -> TestResult<Vec<String>> {
    let all = c.read(format!("{TRACING}/trace"))?;
    check!(!all.contains("LOST"), "the trace has lost events");
    let tag = format!(" {event}: ");
    let after = |l: &str| l.split_once(&tag).map(|(_, said)| said.to_string());
    Ok(all.lines().filter_map(after).collect())
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = std::fs::write(format!("{}/events/{}/enable", self.dir, self.event), "0");
    }
}

/// A probe on a kernel function, while it lives.
pub struct Probe {
    name: &'static str,
}

pub const TRACING: &str = "/sys/kernel/tracing";

impl Probe {
    /// `what` is the function and the arguments to fetch, as in `kprobe_events`.
    pub fn new(c: &Ctx, name: &'static str, what: &str) -> TestResult<Probe> {
        use std::io::Write;
        File::options()
            .append(true)
            .open(format!("{TRACING}/kprobe_events"))?
            .write_all(format!("p:{name} {what}\n").as_bytes())
            .map_err(|e| format!("kprobe on {what}: {e}"))?;
        let p = Probe { name };
        c.write(format!("{TRACING}/events/kprobes/{name}/enable"), "1")?;
        p.restart()?;
        Ok(p)
    }

    /// Of what this thread does, and nobody else.
    pub fn own(c: &Ctx, name: &'static str, what: &str) -> TestResult<Probe> {
        let p = Probe::new(c, name, what)?;
        // SAFETY: no arguments.
        let filter = format!("common_pid == {}", unsafe { libc::gettid() });
        c.write(format!("{TRACING}/events/kprobes/{name}/filter"), &filter)?;
        p.restart()?;
        Ok(p)
    }

    /// Forget what was seen, by this and other probes.
    pub fn restart(&self) -> TestResult {
        // Truncation empties the buffer.
        Ok(fs::write(format!("{TRACING}/trace"), "")?)
    }

    fn lines(&self, c: &Ctx) -> TestResult<Vec<String>> {
        let all = c.read(format!("{TRACING}/trace"))?;
        check!(!all.contains("LOST"), "the trace has lost events");
        let tag = format!(" {}: ", self.name);
        Ok(all
            .lines()
            .filter(|l| l.contains(&tag))
            .map(str::to_string)
            .collect())
    }

    pub fn count(&self, c: &Ctx) -> TestResult<usize> {
        Ok(self.lines(c)?.len())
    }

    /// Those by one thread.
    pub fn count_by(&self, c: &Ctx, tid: i32) -> TestResult<usize> {
        let tag = format!("-{tid} ");
        Ok(self.lines(c)?.iter().filter(|l| l.contains(&tag)).count())
    }

    /// The values of one argument.
    pub fn values(&self, c: &Ctx, argument: &str) -> TestResult<Vec<u64>> {
        let tag = format!("{argument}=");
        let mut found = Vec::new();
        for l in self.lines(c)? {
            let value = l.split(' ').find_map(|w| w.strip_prefix(&tag));
            match value.and_then(|v| v.parse().ok()) {
                Some(v) => found.push(v),
                None => fail!("no {argument} in {l}"),
            }
        }
        Ok(found)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        use std::io::Write;
        let _ = fs::write(
            format!("{TRACING}/events/kprobes/{}/enable", self.name),
            "0",
        );
        if let Ok(mut f) = File::options()
            .append(true)
            .open(format!("{TRACING}/kprobe_events"))
        {
            let _ = f.write_all(format!("-:{}\n", self.name).as_bytes());
        }
    }
}
