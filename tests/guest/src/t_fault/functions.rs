// SPDX-License-Identifier: GPL-2.0
//! Functions of the kernel that fail on command.

use super::{io_works, must_rest, rest, space, Kind, BIND, DEBUG, IO_AT};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf};
use crate::support::tools::{errno, PAGE};
use crate::{check, check_eq};
use std::fs;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    fault_functions => functions,
};

// Failing functions.

/// One call of a function fails, the `nth` from now on.
struct FailingCall<'a> {
    c: &'a Ctx,
    name: &'static str,
}

impl FailingCall<'_> {
    fn new<'a>(
        c: &'a Ctx,
        name: &'static str,
        value: i64,
        nth: u64,
    ) -> TestResult<FailingCall<'a>> {
        let dir = format!("{DEBUG}/fail_function");
        c.write(format!("{dir}/inject"), name)
            .map_err(|_| format!("{name} has no error injection"))?;
        let this = FailingCall { c, name };
        c.write(format!("{dir}/{name}/retval"), &format!("{value:#x}"))?;
        // `space` is what may go through before, and one.
        for (attr, value) in [
            ("probability", 100),
            ("interval", 1),
            ("verbose", 0),
            ("space", nth),
            ("times", 1),
        ] {
            c.write(format!("{dir}/{attr}"), &value.to_string())?;
        }
        Ok(this)
    }

    /// Whether it has failed.
    fn hit(&self) -> TestResult<bool> {
        Ok(self.c.read_u64(format!("{DEBUG}/fail_function/times"))? == 0)
    }
}

impl Drop for FailingCall<'_> {
    fn drop(&mut self) {
        let _ = fs::write(format!("{DEBUG}/fail_function/probability"), "0");
        let _ = fs::write(
            format!("{DEBUG}/fail_function/inject"),
            format!("!{}", self.name),
        );
    }
}

const REQUEST_MEM_REGION: &str = "rpmem_helper_request_mem_region";
const READ_BYTES: &str = "rpmem_helper_nvdimm_read_bytes";
const COPY_MC: &str = "rpmem_helper_copy_mc_to_kernel";
const GET_DIRENT: &str = "rpmem_helper_sysfs_get_dirent";
const NO_INFO_BLOCK: &str = "info block cannot be read (-5), no device; \
                             write 1 to force_raw in sysfs to use the raw namespace";

fn functions(c: &mut Ctx) -> TestResult {
    let all = [
        space(c, Kind::Raw)?,
        space(c, Kind::Mem)?,
        space(c, Kind::Dev)?,
    ];
    for s in &all {
        s.unbind(c)?;
        let before = rest(c, &s.nd)?;
        let bind = c.try_write(BIND);
        let is_raw = s.nd.starts_with("namespace");

        // (function, its result, call, errno of the bind, message)
        let mut cases = vec![(
            REQUEST_MEM_REGION,
            0,
            1,
            libc::EBUSY,
            "could not reserve region",
        )];
        if is_raw {
            cases.push((READ_BYTES, -5, 1, libc::EOPNOTSUPP, NO_INFO_BLOCK));
        } else {
            // The uuid alone, which only decides how strictly the block is read.
            cases.push((READ_BYTES, -5, 1, 0, ""));
            cases.push((READ_BYTES, -5, 2, libc::EOPNOTSUPP, NO_INFO_BLOCK));
            // After libnvdimm has read it.
            cases.push((READ_BYTES, -5, 3, libc::EOPNOTSUPP, NO_INFO_BLOCK));
        }
        cases.push((GET_DIRENT, 0, 1, 0, "'badblocks' notification disabled"));
        // The partition scan, which can do without.
        cases.push((COPY_MC, 1, 1, 0, ""));
        for (name, value, nth, want, message) in cases {
            let what = format!("{}, {name} call {nth}", s.nd);
            c.mark_dmesg();
            let call = FailingCall::new(c, name, value, nth)?;
            check_eq!(errno(&bind(&s.nd)), want, "{what}");
            check!(call.hit()?, "{what}: has not failed");
            drop(call);
            c.dmesg_has(message)?;
            if want != 0 {
                must_rest(c, &s.nd, &before)?;
                s.bind(c)?;
            }
            io_works(c, s, nth)?;
            s.unbind(c)?;
            must_rest(c, &s.nd, &before)?;
        }

        // What the message says can be done.
        if is_raw {
            let force = c.nd(&s.nd).join("force_raw");
            let call = FailingCall::new(c, READ_BYTES, -5, 1)?;
            c.write(&force, "1")?;
            s.bind(c)?;
            check!(!call.hit()?, "{}: read in spite of force_raw", s.nd);
            io_works(c, s, 7)?;
            s.unbind(c)?;
            c.write(&force, "0")?;
        }
        s.bind(c)?;

        // On a live disk: the caller has the error, the next read the data.
        io_works(c, s, 8)?;
        let f = disk::direct(&s.dev())?;
        let mut page = Buf::page(PAGE);
        let call = FailingCall::new(c, COPY_MC, 1, 1)?;
        let read = f.read_exact_at(page.bytes_mut(), IO_AT);
        check_eq!(errno(&read), libc::EIO, "{}: a read that fails", s.nd);
        check!(call.hit()?);
        drop(call);
        f.read_exact_at(page.bytes_mut(), IO_AT)?;
        check!(page.bytes() == Buf::pattern(PAGE, 8).bytes(), "other data");
    }
    Ok(())
}
