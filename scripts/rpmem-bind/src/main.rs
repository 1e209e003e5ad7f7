// SPDX-License-Identifier: GPL-2.0

//! `rpmem-bind`: which driver has which namespace of persistent memory, and moving them between nd_pmem
//! (dax_pmem in devdax mode) and rpmem. It needs sysfs, procfs and, where a driver is not loaded,
//! modprobe(8), so that it works in an initramfs, too. What it does not find in use it holds with O_EXCL
//! while it moves it.

#![forbid(unsafe_code)]

mod claim;
#[path = "../../../src/logic/exclude.rs"]
#[expect(
    dead_code,
    reason = "the module's own code, which also checks what is written"
)]
mod exclude;
mod give;
mod holder;
mod namespace;
mod parse;
mod show;
mod sys;
#[cfg(test)]
mod tests;

use clap::{
    Args,
    Parser, //
};
use clap_complete::Shell;
use give::{
    Driver,
    How,
    Refusal, //
};
use namespace::Namespace;
use show::Report;
use std::process::ExitCode;
use sys::Sys;

const USAGE: &str = "rpmem-bind [--json]
       rpmem-bind [-n] [--json] NAMESPACE DRIVER
       rpmem-bind [-n] [--json] --all DRIVER
       rpmem-bind [-n] [--json] --undo [NAMESPACE]";

/// Show which driver has which namespace of persistent memory, and give them to others.
///
/// Without arguments it shows the namespaces, their drivers, and what holds them.
#[derive(Parser)]
#[command(
    name = "rpmem-bind",
    version,
    override_usage = USAGE,
    after_help = "A namespace that is mounted, swap, mapped, open, or part of another device stays \
                  where it is: end that first. If the new driver does not take a namespace, it goes \
                  back to the old one.\n\n\
                  Exit status: 0 done, 1 refused or failed (with --all: some), 2 wrong usage. See \
                  rpmem-bind(8)."
)]
struct Command {
    #[command(flatten)]
    what: What,
    /// Print a completion script
    #[arg(long, value_name = "SHELL", value_parser = ["bash", "fish", "zsh"], hide = true, exclusive = true)]
    completion: Option<String>,
}

#[derive(Args)]
struct What {
    /// What to give away, such as namespace0.0
    #[arg(requires = "driver", conflicts_with_all = ["all", "undo"])]
    namespace: Option<String>,
    /// Who is to have it
    #[arg(value_enum)]
    driver: Option<Driver>,
    /// Give away each namespace that is not in use; nd_pmem stands for the kernel's own driver of each
    /// mode, and rpmem does not get what its parameter "exclude" excludes
    #[arg(long, value_name = "DRIVER", value_parser = ["rpmem", "nd_pmem"], conflicts_with = "undo")]
    all: Option<String>,
    /// Give it, or all, back to the driver that it had before this tool first moved it since the machine
    /// was booted
    #[arg(long, value_name = "NAMESPACE", num_args = 0..=1)]
    undo: Option<Option<String>>,
    /// Say what would be done and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Print JSON, as "ndctl list" does
    #[arg(long)]
    json: bool,
}

/// Lists the namespaces, in any shell.
const LIST: &str = "ls /sys/bus/nd/devices 2>/dev/null | grep ^namespace";
/// The word that clap writes into a script where a namespace can stand: it knows of fixed words only.
const NAMESPACE: &str = "@NAMESPACE@";

/// The completion script for a shell.
fn completion(shell: &str) -> String {
    let generator: Shell = shell.parse().expect("clap knows the shells");
    let command = clap::Command::new("rpmem-bind").version(env!("CARGO_PKG_VERSION"));
    let mut command = What::augment_args(command)
        .mut_arg("namespace", |arg| arg.value_parser([NAMESPACE]))
        .mut_arg("undo", |arg| arg.value_parser([NAMESPACE]));
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, "rpmem-bind", &mut script);
    let script = String::from_utf8(script).expect("shells read UTF-8");
    match generator {
        Shell::Fish => {
            let script = script.replace(&format!("{{{NAMESPACE}\\t''}}"), &format!("({LIST})"));
            let drivers = "rpmem nd_pmem dax_pmem";
            format!("{script}complete -c rpmem-bind -f -a \"({LIST}) {drivers}\"\n")
        }
        _ => script.replace(NAMESPACE, &format!("$({LIST})")),
    }
}

fn main() -> ExitCode {
    let Command {
        what,
        completion: shell,
    } = Command::parse();
    if let Some(shell) = shell {
        print!("{}", completion(&shell));
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new(what.json);
    if let Err(refusal) = run(&Sys::host(), what, &mut report) {
        report.error(None, &refusal);
    }
    report.end()
}

fn run(sys: &Sys, args: What, report: &mut Report) -> Result<(), Refusal> {
    let mut how = How {
        dry: args.dry_run,
        keep_excluded: false,
    };
    let all = Namespace::all(sys)
        .map_err(|why| Refusal::new(why, "Is /sys mounted, and may you read it?"))?;
    let moves: Vec<(String, Driver)> = if let Some(namespace) = args.namespace {
        let driver = args.driver.expect("clap requires it");
        vec![(namespace, driver)]
    } else if let Some(driver) = args.all {
        how.keep_excluded = true;
        let driver = Driver::of_name(&driver).expect("clap knows the names");
        if all.is_empty() {
            report.nothing(sys);
        }
        all.iter()
            .map(|space| (space.name.clone(), driver.for_mode(space.mode)))
            .collect()
    } else if let Some(namespace) = args.undo {
        recorded(sys, namespace.as_deref())?
    } else {
        report.show(sys, &all);
        return Ok(());
    };

    if !how.dry && !rustix::process::geteuid().is_root() && !moves.is_empty() {
        return Err(Refusal::new(
            "moving a namespace needs root",
            "Run it with sudo. What would be done: rpmem-bind -n ...",
        ));
    }
    for (name, driver) in moves {
        let result = give::give(sys, &name, driver, how);
        report.moved(sys, &name, driver, result);
    }
    Ok(())
}

/// What --undo is to do.
fn recorded(sys: &Sys, namespace: Option<&str>) -> Result<Vec<(String, Driver)>, Refusal> {
    let files = sys::entries(&sys.records()).map_err(|why| Refusal::new(why, "Run it as root."))?;
    let mut moves = Vec::new();
    for file in files {
        let name = sys::name_of(&file).unwrap_or_default();
        if namespace.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let driver = sys::read(&file).unwrap_or_default();
        let driver = Driver::of_name(&driver).ok_or_else(|| {
            let why = format!("{} names no driver: {driver:?}", file.display());
            Refusal::new(why, format!("Remove it: rm {}", file.display()))
        })?;
        moves.push((name, driver));
    }
    if moves.is_empty() {
        let of = namespace
            .map(|name| format!(" for {name}"))
            .unwrap_or_default();
        return Err(Refusal::new(
            format!("there is nothing to undo{of}"),
            "What was moved and is back already does not count.",
        ));
    }
    Ok(moves)
}
