// SPDX-License-Identifier: GPL-2.0
//! A Debian host, whose / is on a namespace.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::namespace::active;

/// The namespace that / is on, and its disk.
pub fn of_root(c: &Ctx) -> TestResult<(String, String)> {
    let dev = c.ok(&["findmnt", "-n", "-o", "SOURCE", "/"])?;
    let disk = dev.trim().trim_start_matches("/dev/").to_string();
    for ns in c.namespaces() {
        if c.disk_of(&active(c, &ns)?).is_ok_and(|d| d == disk) {
            return Ok((ns, disk));
        }
    }
    crate::fail!("/ is on {dev}, which is no namespace")
}
