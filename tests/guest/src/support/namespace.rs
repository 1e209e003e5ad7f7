// SPDX-License-Identifier: GPL-2.0
//! Namespaces: which device a driver binds, letting go of them, none at all.

use crate::support::ctx::{Ctx, TestResult};
use crate::{check, check_eq};

/// The device that a driver binds: the namespace, or the personality that claims it.
pub fn active(c: &Ctx, ns: &str) -> TestResult<String> {
    let holder = c.read(c.nd(ns).join("holder"))?;
    Ok(if holder.is_empty() { ns.into() } else { holder })
}

/// Let go of a namespace, and of the personality on top of it.
pub fn release(c: &Ctx, ns: &str) -> TestResult {
    let dev = active(c, ns)?;
    if let Some(driver) = c.bound_to(&dev) {
        c.unbind(&driver, &dev)?;
    }
    if dev != ns {
        c.write(c.nd(&dev).join("namespace"), "\n")?;
    }
    c.settle();
    check_eq!(active(c, ns)?, ns, "holder after the release");
    Ok(())
}

/// The whole namespace as a disk, whatever is in it.
pub fn bind_raw(c: &Ctx, ns: &str) -> TestResult {
    release(c, ns)?;
    c.write(c.nd(ns).join("force_raw"), "1")?;
    c.bind(&c.driver, ns)?;
    c.disk_of(ns)?;
    Ok(())
}

pub fn unbind_raw(c: &Ctx, ns: &str) -> TestResult {
    c.unbind(&c.driver, ns)?;
    c.write(c.nd(ns).join("force_raw"), "0")
}

/// No namespaces, and no info blocks of those that were.
pub fn fresh(c: &Ctx) -> TestResult {
    // Nothing to destroy is no error.
    c.ok(&["ndctl", "destroy-namespace", "-f", "all"])?;
    c.init_labels()?;
    check!(c.namespaces().is_empty(), "{:?}", c.namespaces());
    Ok(())
}
