// SPDX-License-Identifier: GPL-2.0
//! QEMU's monitor (QMP), for what a test asks the machine to do while it runs: a line
//! `# rpmem: monitor NAME` from the guest has the commands sent that the fixture has by that name.

use serde_json::{json, Value};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
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

pub struct Monitor {
    to: UnixStream,
    from: BufReader<UnixStream>,
    /// Kept until QEMU has a copy.
    theirs: OwnedFd,
    greeted: bool,
}

impl Monitor {
    pub fn new() -> std::io::Result<Monitor> {
        let (ours, theirs) = UnixStream::pair()?;
        // For a QEMU that hangs, on however busy a host.
        ours.set_read_timeout(Some(Duration::from_secs(600)))?;
        Ok(Monitor {
            from: BufReader::new(ours.try_clone()?),
            to: ours,
            theirs: theirs.into(),
            greeted: false,
        })
    }

    /// Gives the socket to the process that is started.
    pub fn prepare(&self, cmd: &mut Command) {
        let fd = self.theirs.as_raw_fd();
        // SAFETY: dup2 is async-signal-safe and touches no memory of ours.
        unsafe {
            cmd.pre_exec(move || match libc::dup2(fd, FD) {
                FD => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
    }

    /// The next answer; events may come in between.
    fn answer(&mut self) -> Result<Value, String> {
        loop {
            let mut line = String::new();
            match self.from.read_line(&mut line) {
                Ok(0) => return Err("the monitor is closed".into()),
                Ok(_) => {}
                Err(e) => return Err(format!("no answer of the monitor: {e}")),
            }
            let v: Value = serde_json::from_str(&line).map_err(|e| format!("monitor: {e}"))?;
            if v.get("return").is_some() {
                return Ok(v);
            }
            if let Some(e) = v.get("error") {
                return Err(format!("monitor: {}", e["desc"].as_str().unwrap_or(&line)));
            }
        }
    }

    fn command(&mut self, v: &Value, dir: &Path) -> Result<(), String> {
        let text = v.to_string().replace("{dir}", &dir.display().to_string());
        writeln!(self.to, "{text}").map_err(|e| format!("monitor: {e}"))?;
        self.answer()
            .map_err(|e| format!("{e}, to {text}"))
            .map(|_| ())
    }

    /// Each command must succeed.
    pub fn run(&mut self, commands: &[Value], dir: &Path) -> Result<(), String> {
        if !self.greeted {
            self.command(&json!({ "execute": "qmp_capabilities" }), dir)?;
            self.greeted = true;
        }
        commands.iter().try_for_each(|v| self.command(v, dir))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let mut m = Monitor::new().unwrap();
        let mut qemu = UnixStream::from(m.theirs.try_clone().unwrap());
        let commands = [json!({ "execute": "x", "arguments": { "path": "{dir}/f" } })];
        let greeting = "{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"e\"}\n";
        writeln!(qemu, "{greeting}{{\"return\": {{}}}}").unwrap();
        m.run(&commands, Path::new("/d")).unwrap();
        let mut sent = BufReader::new(qemu.try_clone().unwrap()).lines();
        assert!(sent.next().unwrap().unwrap().contains("qmp_capabilities"));
        assert!(sent.next().unwrap().unwrap().contains("\"/d/f\""));
        writeln!(qemu, "{{\"error\": {{\"desc\": \"no\"}}}}").unwrap();
        let e = m.run(&commands, Path::new("/d")).unwrap_err();
        assert!(e.starts_with("monitor: no, to {"), "{e}");
    }
}
