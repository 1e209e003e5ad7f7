// SPDX-License-Identifier: GPL-2.0
//! The module parameter `exclude`: a namespace of each mode, offered to all drivers by the bus, and who
//! has it then, against a model of the list.

use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::namespace::{active, fresh};
use crate::{check, check_eq};
use std::fs;

pub const TESTS: &[Test] = crate::tests! {
    exclude_offered => offered,
    exclude_bind => bind,
    exclude_value => value,
};

const FILE: &str = "/sys/module/rpmem/parameters/exclude";
const MODES: [&str; 4] = ["raw", "fsdax", "sector", "devdax"];

/// A namespace, and the words that are true of it.
struct Space {
    name: String,
    mode: &'static str,
    words: Vec<String>,
}

impl Space {
    fn kernels_own(&self) -> &'static str {
        match self.mode {
            "devdax" => "dax_pmem",
            _ => "nd_pmem",
        }
    }

    /// Who has it if all drivers are there and rpmem is asked first.
    fn driver(&self, list: &[String]) -> &'static str {
        let last = list
            .iter()
            .rev()
            .find(|word| self.words.iter().any(|w| w == word.trim_start_matches('!')));
        match last {
            Some(word) if !word.starts_with('!') => self.kernels_own(),
            _ => "rpmem",
        }
    }
}

/// One namespace of each mode in the first region, and the kernel's own drivers, which come after rpmem.
fn spaces(c: &Ctx) -> TestResult<Vec<Space>> {
    fresh(c)?;
    for driver in ["nd_pmem", "device_dax", "dax_pmem"] {
        c.modprobe(driver)?;
    }
    let mut all = Vec::new();
    for mode in MODES {
        let name = c.create_namespace(&["-m", mode, "-s", "64M"])?;
        let holder = active(c, &name)?;
        let mut words = vec![mode.into(), name.clone(), "region0".into()];
        for dev in [&name, &holder] {
            let uuid = c.read(c.nd(dev).join("uuid"))?;
            check!(!uuid.is_empty(), "{dev} has no uuid");
            words.push(uuid);
        }
        all.push(Space { name, mode, words });
    }
    offer(c)?;
    Ok(all)
}

/// The namespaces of the region come anew, and each is offered to one driver after the other. ndctl itself
/// binds them in the order of the folders in sysfs.
fn offer(c: &Ctx) -> TestResult {
    c.ok(&["ndctl", "disable-region", "region0"])?;
    c.ok(&["ndctl", "enable-region", "region0"])?;
    c.settle();
    Ok(())
}

/// All lists of one word and of two, the second one taking back or excluding once more.
fn lists(spaces: &[Space]) -> Vec<Vec<String>> {
    let mut kinds: Vec<String> = Vec::new();
    for word in spaces.iter().flat_map(|s| &s.words) {
        if !kinds.contains(word) {
            kinds.push(word.clone());
        }
    }
    let mut lists = vec![vec![]];
    lists.extend(kinds.iter().map(|word| vec![word.clone()]));
    lists.push(MODES.iter().map(|m| (*m).to_string()).collect());
    for (n, word) in kinds.iter().enumerate() {
        for first in ["devdax", "region0"] {
            lists.push(vec![first.into(), format!("!{word}")]);
        }
        // And some other one after it.
        let next = &kinds[(n + 3) % kinds.len()];
        lists.push(vec![format!("!{word}"), next.clone()]);
    }
    lists
}

fn offered(c: &mut Ctx) -> TestResult {
    let spaces = spaces(c)?;
    let lists = lists(&spaces);
    let step = c.rounds(3, 1) as usize;
    let mut taken = 0;
    for list in lists.iter().step_by(step) {
        let text = list.join(",");
        c.write(FILE, &text)?;
        check_eq!(c.read(FILE)?, text);
        offer(c)?;
        for space in &spaces {
            let want = space.driver(list);
            let mut on = String::new();
            c.wait_for(&format!("{want} on {} ({text})", space.name), || {
                on = active(c, &space.name).unwrap_or_default();
                c.bound_to(&on).is_some()
            })?;
            check_eq!(
                c.bound_to(&on).as_deref(),
                Some(want),
                "{} {} with exclude={text}",
                space.name,
                space.mode
            );
            taken += u32::from(want != "rpmem");
        }
    }
    println!(
        "{} lists, {} namespaces, {taken} times left to another driver",
        lists.len().div_ceil(step),
        spaces.len()
    );
    c.write(FILE, "\n")
}

/// Who binds by hand is told why it fails; what is bound stays.
fn bind(c: &mut Ctx) -> TestResult {
    for space in spaces(c)? {
        let on = active(c, &space.name)?;
        check_eq!(c.bound_to(&on).as_deref(), Some("rpmem"));
        c.write(FILE, &space.name)?;
        check_eq!(c.bound_to(&on).as_deref(), Some("rpmem"), "still");
        c.unbind("rpmem", &on)?;
        c.mark_dmesg();
        let refused = c.try_write("/sys/bus/nd/drivers/rpmem/bind")(&on);
        check_eq!(
            refused.map_err(|e| e.raw_os_error()),
            Err(Some(libc::ENODEV))
        );
        c.dmesg_has(&format!(
            "rpmem {on}: left to another driver by the parameter exclude"
        ))?;
        c.bind(space.kernels_own(), &on)?;
        c.unbind(space.kernels_own(), &on)?;
        c.write(FILE, &format!("{0},!{0}", space.name))?;
        c.bind("rpmem", &on)?;
    }
    c.write(FILE, "\n")
}

/// What the parameter takes, and that a module with a wrong one does not load.
fn value(c: &mut Ctx) -> TestResult {
    c.load_driver()?;
    let good = " raw,,!namespace0.0 ,region12,0F0E0D0C-0b0a-0908-0706-050403020100,";
    c.write(FILE, &format!("{good}\n"))?;
    check_eq!(
        fs::read_to_string(FILE).unwrap_or_default(),
        format!("{good}\n")
    );
    for (text, word) in [
        ("fsdax,ext4", "ext4"),
        ("!", "!"),
        ("pmem0", "pmem0"),
        ("namespace0", "namespace0"),
    ] {
        c.mark_dmesg();
        let refused = c.try_write(FILE)(text);
        check_eq!(
            refused.map_err(|e| e.raw_os_error()),
            Err(Some(libc::EINVAL)),
            "{text}"
        );
        c.dmesg_has(&format!(
            "rpmem: exclude: '{word}' is no mode, namespace, region or UUID"
        ))?;
        check_eq!(
            fs::read_to_string(FILE).unwrap_or_default(),
            format!("{good}\n"),
            "{text}"
        );
    }
    // As long as it can be shown, and no longer.
    let longest = "raw,".repeat(1023) + "!r";
    check_eq!(longest.len(), 4094);
    let longest = longest.replace("!r", "  ");
    c.write(FILE, &longest)?;
    check_eq!(
        fs::read_to_string(FILE).unwrap_or_default(),
        format!("{longest}\n")
    );
    let refused = c.try_write(FILE)(&(longest + " "));
    check_eq!(
        refused.map_err(|e| e.raw_os_error()),
        Err(Some(libc::ENOSPC))
    );

    c.rmmod("rpmem")?;
    match c.insmod_rpmem("exclude=devdax,nonsense") {
        Err(Outcome::Fail(why)) => check!(why.contains("Invalid argument"), "{why}"),
        _ => check!(false, "loaded with a word that is none"),
    }
    check!(!c.module_loaded("rpmem"), "loaded");
    c.insmod_rpmem("exclude=devdax,!region3")?;
    check_eq!(c.read(FILE)?, "devdax,!region3");
    c.rmmod("rpmem")?;
    c.load_driver()?;
    check_eq!(c.read(FILE)?, "");
    let mode =
        fs::metadata(FILE).map(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()));
    check_eq!(mode.ok().map(|m| m & 0o777), Some(0o644));
    Ok(())
}
