// SPDX-License-Identifier: GPL-2.0

//! What is told: lines for people, or JSON.

use crate::{
    give::{
        Done,
        Driver,
        Refusal, //
    },
    holder::{
        Holder,
        Look, //
    },
    namespace::Namespace,
    sys::{
        self,
        Sys, //
    }, //
};
use serde::Serialize;
use std::{
    io::{
        self,
        Write, //
    },
    process::ExitCode, //
};

/// One namespace, with the names that `ndctl list` has.
#[derive(Serialize)]
struct Shown {
    dev: String,
    mode: &'static str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blockdev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chardev: Option<String>,
    driver: Option<String>,
    excluded: bool,
    held: Vec<Holder>,
    complete: bool,
}

/// One that was moved, or was not.
#[derive(Serialize)]
struct Moved {
    dev: String,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    blockdev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chardev: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<Holder>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Object {
    Shown(Shown),
    Moved(Moved),
}

/// What is told, until it is.
pub struct Report {
    is_json: bool,
    objects: Vec<Object>,
    out: String,
    failed: bool,
}

impl Report {
    pub fn new(is_json: bool) -> Self {
        Report {
            is_json,
            objects: Vec::new(),
            out: String::new(),
            failed: false,
        }
    }

    fn add(&mut self, object: Object, line: &str) {
        if self.is_json {
            self.objects.push(object);
        } else {
            self.out += line;
            self.out += "\n";
        }
    }

    /// What goes wrong; with JSON on standard error as well, where people look.
    pub fn error(&mut self, namespace: Option<&str>, refusal: &Refusal) {
        self.failed = true;
        let of = namespace
            .map(|name| format!("{name}: "))
            .unwrap_or_default();
        eprintln!("rpmem-bind: {of}{}", refusal.why);
        for line in refusal.advice.lines() {
            eprintln!("  {line}");
        }
    }

    /// There are no namespaces, which is no failure.
    pub fn nothing(&mut self, sys: &Sys) {
        eprintln!("rpmem-bind: there are no namespaces");
        eprintln!(
            "  {}",
            match sys.bus().exists() {
                true =>
                    "Is there persistent memory? Has ndctl made a namespace of it: ndctl list -Ri",
                false =>
                    "libnvdimm is not loaded. Is there persistent memory, and nfit, nd_e820, \
                          cxl_pmem or virtio_pmem for it?",
            }
        );
    }

    /// All namespaces.
    pub fn show(&mut self, sys: &Sys, all: &[Namespace]) {
        if all.is_empty() {
            self.nothing(sys);
        }
        let look = Look::at(sys, all.iter().flat_map(|space| &space.nodes));
        let list = sys::read(sys.exclude()).unwrap_or_default();
        for space in all {
            let held: Vec<Holder> = space
                .nodes
                .iter()
                .flat_map(|n| look.of(n))
                .cloned()
                .collect();
            let shown = Shown {
                dev: space.name.clone(),
                mode: space.mode_name(),
                size: space.size,
                uuid: space.uuid.clone(),
                blockdev: space.disk().map(|node| node.in_dev()),
                chardev: space.chardev().map(|node| node.in_dev()),
                driver: space.driver.clone(),
                excluded: space.is_excluded(&list),
                complete: look.unseen.is_none() && space.unseen.is_none(),
                held,
            };
            let mut line = format!(
                "{} {} driver={}",
                shown.dev,
                shown.mode,
                shown.driver.as_deref().unwrap_or("none")
            );
            if let Some(node) = shown.blockdev.as_ref().or(shown.chardev.as_ref()) {
                line += &format!(" /dev/{node}");
            }
            if shown.excluded {
                line += " excluded";
            }
            for (n, holder) in shown.held.iter().enumerate() {
                line += &format!("{} {holder}", if n == 0 { ":" } else { ";" });
            }
            self.add(Object::Shown(shown), &line);
        }
        if let Some(unseen) = look.unseen.filter(|_| !self.is_json) {
            eprintln!("rpmem-bind: not everything is shown: {unseen}");
            eprintln!("  What other users have open or mapped is seen by root alone; what only the kernel");
            eprintln!("  knows to be claimed shows when the namespace is moved.");
        }
    }

    /// The outcome for one namespace.
    pub fn moved(&mut self, sys: &Sys, name: &str, to: Driver, result: Result<Done, Refusal>) {
        let now = Namespace::read(sys, name);
        let node = |is_disk: bool| {
            let now = now.as_ref()?;
            let node = if is_disk { now.disk() } else { now.chardev() };
            node.map(|node| node.in_dev())
        };
        let (blockdev, chardev) = (node(true), node(false));
        let mut moved = Moved {
            dev: name.into(),
            result: "failed",
            from: now.as_ref().and_then(|now| now.driver.clone()),
            to: to.name(),
            blockdev,
            chardev,
            steps: Vec::new(),
            error: None,
            advice: None,
            held: Vec::new(),
        };
        let or_none = |driver: &Option<String>| driver.clone().unwrap_or("no driver".into());
        let line = match result {
            Ok(Done::Moved { from }) => {
                let node = match to {
                    Driver::DaxPmem => &moved.chardev,
                    _ => &moved.blockdev,
                };
                let node = node.as_ref().map(|node| format!(", /dev/{node}"));
                let to = match to {
                    Driver::None => "no driver",
                    to => to.name(),
                };
                let line = format!(
                    "{name}: {} -> {to}{}",
                    or_none(&from),
                    node.unwrap_or_default()
                );
                moved.result = "moved";
                moved.from = from;
                line
            }
            Ok(Done::WouldMove { from, steps }) => {
                moved.result = "would-move";
                moved.from = from;
                moved.steps = steps;
                moved.steps.join("\n")
            }
            Ok(Done::Unchanged) => {
                moved.result = "unchanged";
                format!("{name}: {to} has it already")
            }
            Ok(Done::Excluded { from }) => {
                moved.result = "excluded";
                let line = format!(
                    "{name}: stays with {}, as rpmem's parameter exclude says",
                    or_none(&from)
                );
                moved.from = from;
                line
            }
            Err(refusal) => {
                self.error(Some(name), &refusal);
                if !self.is_json {
                    return;
                }
                moved.error = Some(refusal.why);
                moved.advice = Some(refusal.advice);
                moved.held = refusal.held;
                String::new()
            }
        };
        self.add(Object::Moved(moved), &line);
        // What follows may take its time.
        self.flush();
    }

    fn flush(&mut self) {
        if !self.is_json {
            // Nobody may be listening any more.
            let _ = io::stdout().write_all(self.out.as_bytes());
            self.out.clear();
        }
    }

    /// Tells the rest.
    pub fn end(mut self) -> ExitCode {
        if self.is_json {
            let objects = serde_json::to_string_pretty(&self.objects).expect("text and numbers");
            self.out = format!("{objects}\n");
            self.is_json = false;
        }
        self.flush();
        match self.failed {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        }
    }
}
