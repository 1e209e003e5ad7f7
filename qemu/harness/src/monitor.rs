// SPDX-License-Identifier: GPL-2.0
//! QEMU's monitor (QMP), for what a test asks the machine to do while it runs: a line
//! `# rpmem: monitor NAME` from the guest has the commands sent that the fixture has by that name.
//! `{ "wait": "EVENT" }` among them has the rest wait for an event of QEMU's, such as SUSPEND.

use serde_json::{json, Value};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

/// What the guest's line begins with.
pub const REQUEST: &str = "# rpmem: monitor ";

/// QEMU's end of the socket, in QEMU. A path would have to fit into a socket's address.
const FD: i32 = 100;

pub fn args() -> [String; 4] {
    let socket = format!("socket,id=monitor,fd={FD}");
    let monitor = "chardev=monitor,mode=control".to_string();
    ["-chardev".into(), socket, "-mon".into(), monitor]
}

/// For a QEMU that hangs, on however busy a host.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Monitor {
    to: UnixStream,
    /// What QEMU says, line by line.
    from: Receiver<String>,
    /// Kept until QEMU has a copy.
    theirs: Option<OwnedFd>,
    /// Events that nothing has waited for yet.
    events: Vec<String>,
    /// Commands that wait for their turn.
    rest: VecDeque<Value>,
}

impl Monitor {
    pub fn new() -> std::io::Result<Monitor> {
        let (ours, theirs) = UnixStream::pair()?;
        let (said, from) = mpsc::channel();
        let lines = BufReader::new(ours.try_clone()?).lines();
        // It ends with QEMU.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| said.send(line))
        });
        Ok(Monitor {
            to: ours,
            from,
            theirs: Some(theirs.into()),
            events: Vec::new(),
            rest: VecDeque::new(),
        })
    }

    /// Gives the socket to the process that is started.
    pub fn prepare(&self, cmd: &mut Command) {
        let fd = self.theirs.as_ref().expect("not started yet").as_raw_fd();
        // SAFETY: dup2 is async-signal-safe and touches no memory of ours.
        unsafe {
            cmd.pre_exec(move || match libc::dup2(fd, FD) {
                FD => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
    }

    /// Has QEMU, which runs, listen and tell of its events.
    pub fn greet(&mut self, dir: &Path) -> Result<(), String> {
        self.theirs = None;
        self.command(&json!({ "execute": "qmp_capabilities" }), dir)
    }

    /// Keeps an event; gives an answer.
    fn take(&mut self, line: &str) -> Result<bool, String> {
        let v: Value = serde_json::from_str(line).map_err(|e| format!("monitor: {e}"))?;
        if let Some(e) = v.get("error") {
            return Err(format!("monitor: {}", e["desc"].as_str().unwrap_or(line)));
        }
        if let Some(event) = v["event"].as_str() {
            self.events.push(event.to_string());
        }
        Ok(v.get("return").is_some())
    }

    fn command(&mut self, v: &Value, dir: &Path) -> Result<(), String> {
        let text = v.to_string().replace("{dir}", &dir.display().to_string());
        writeln!(self.to, "{text}").map_err(|e| format!("monitor: {e}"))?;
        loop {
            let line = self.from.recv_timeout(PATIENCE);
            let line = line.map_err(|e| format!("no answer of the monitor: {e}"))?;
            match self.take(&line) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(e) => return Err(format!("{e}, to {text}")),
            }
        }
    }

    /// Each command must succeed. Those behind one that waits are run by `poll`.
    pub fn run(&mut self, commands: &[Value], dir: &Path) -> Result<(), String> {
        self.rest.extend(commands.iter().cloned());
        self.poll(dir)
    }

    /// Goes on with commands that have waited, if what they wait for has come.
    pub fn poll(&mut self, dir: &Path) -> Result<(), String> {
        while let Some(next) = self.rest.front().cloned() {
            if let Some(event) = next["wait"].as_str() {
                let at = loop {
                    match self.events.iter().position(|e| e == event) {
                        Some(at) => break at,
                        None => match self.from.try_recv() {
                            Ok(line) => self.take(&line).map(drop)?,
                            Err(_) => return Ok(()),
                        },
                    }
                };
                self.events.remove(at);
            } else {
                self.command(&next, dir)?;
            }
            self.rest.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let mut m = Monitor::new().unwrap();
        let mut qemu = UnixStream::from(m.theirs.as_ref().unwrap().try_clone().unwrap());
        let dir = Path::new("/d");
        let greeting = "{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"e\"}\n";
        write!(qemu, "{greeting}").unwrap();
        m.greet(dir).unwrap();
        let mut sent = BufReader::new(qemu.try_clone().unwrap()).lines();
        let mut next = || sent.next().unwrap().unwrap();
        assert!(next().contains("qmp_capabilities"));
        let commands = [json!({ "execute": "x", "arguments": { "path": "{dir}/f" } })];
        writeln!(qemu, "{{\"return\": {{}}}}").unwrap();
        m.run(&commands, dir).unwrap();
        assert!(next().contains("\"/d/f\""));
        writeln!(qemu, "{{\"error\": {{\"desc\": \"no\"}}}}").unwrap();
        let e = m.run(&commands, dir).unwrap_err();
        assert!(e.starts_with("monitor: no, to {"), "{e}");
    }

    #[test]
    fn waits() {
        let mut m = Monitor::new().unwrap();
        let mut qemu = UnixStream::from(m.theirs.take().unwrap());
        let dir = Path::new("/d");
        writeln!(qemu, "{{\"event\": \"OTHER\"}}").unwrap();
        let commands = [json!({ "wait": "SUSPEND" }), json!({ "execute": "x" })];
        m.run(&commands, dir).unwrap();
        assert_eq!(m.rest.len(), 2);
        writeln!(qemu, "{{\"event\": \"SUSPEND\"}}\n{{\"return\": {{}}}}").unwrap();
        while !m.rest.is_empty() {
            m.poll(dir).unwrap();
        }
        let mut sent = BufReader::new(qemu).lines();
        assert!(sent.next().unwrap().unwrap().contains("\"x\""));
        // One event is for one wait.
        m.run(&commands, dir).unwrap();
        assert_eq!(m.rest.len(), 2);
    }
}
