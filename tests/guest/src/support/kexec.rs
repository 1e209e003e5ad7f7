// SPDX-License-Identifier: GPL-2.0
//! A kernel that a test starts.

use crate::support::ctx::{Ctx, TestResult};
use crate::support::tools;
use crate::{check, fail};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

/// Loads a kernel that goes on with the next test, with `more` on its command line, by kexec_file_load(2).
pub fn load(c: &Ctx, kernel: &File, initrd: &File, more: &str, flags: u64) -> TestResult {
    let line = CString::new(c.next_kernel()? + more).map_err(|e| e.to_string())?;
    // SAFETY: open files, and a string of that length with its NUL.
    let r = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            line.as_bytes_with_nul().len(),
            line.as_ptr(),
            flags,
        )
    };
    check!(r == 0, "kexec_file_load: {}", io::Error::last_os_error());
    Ok(())
}

/// What the firmware's disks have: the kernel and its initramfs, as files, which kexec wants.
fn copy_of(c: &Ctx, serial: &str) -> TestResult<File> {
    for disk in tools::names("/sys/block") {
        let dir = format!("/sys/block/{disk}");
        if fs::read_to_string(format!("{dir}/serial")).is_ok_and(|s| s.trim() == serial) {
            let to = format!("/tmp/{serial}");
            c.ok(&[
                "dd",
                &format!("if=/dev/{disk}"),
                &format!("of={to}"),
                "bs=1M",
                "status=none",
            ])?;
            return Ok(File::open(to)?);
        }
    }
    fail!("no disk {serial}")
}

pub const KEXEC_FILE_ON_CRASH: u64 = 2;

/// Loads this kernel once more, to go on with the next test.
pub fn load_again(c: &Ctx, more: &str, flags: u64) -> TestResult {
    c.modprobe("virtio_blk")?;
    let (kernel, initrd) = (copy_of(c, "kernel")?, copy_of(c, "initrd")?);
    load(c, &kernel, &initrd, more, flags)?;
    for file in ["kernel", "initrd"] {
        fs::remove_file(format!("/tmp/{file}"))?;
    }
    Ok(())
}

/// Starts the kernel that has been loaded, at once.
pub fn start() -> TestResult {
    // SAFETY: as said.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    fail!("kexec: {}", io::Error::last_os_error())
}
