// SPDX-License-Identifier: GPL-2.0
//! Requests that fail on a live disk.

use super::{io_works, space, Kind, DEBUG, MNT};
use crate::check_eq;
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, Buf, BLKRRPART};
use crate::support::tools::{errno, Space, PAGE};
use std::fs;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    fault_requests => requests,
};

// Failing requests.

/// Every request to a disk fails while this lives.
struct FailingDisk(String);

impl FailingDisk {
    fn new(c: &Ctx, s: &Space) -> TestResult<FailingDisk> {
        let dir = format!("{DEBUG}/fail_make_request");
        for (attr, value) in [("probability", "100"), ("interval", "1"), ("verbose", "0")] {
            c.write(format!("{dir}/{attr}"), value)?;
        }
        c.write(format!("{dir}/times"), "-1")?;
        let attr = format!("/sys/block/{}/make-it-fail", s.disk);
        c.write(&attr, "1")?;
        Ok(FailingDisk(attr))
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "0");
        let _ = fs::write(format!("{DEBUG}/fail_make_request/probability"), "0");
    }
}

fn requests(c: &mut Ctx) -> TestResult {
    for kind in [Kind::Raw, Kind::Mem] {
        let s = space(c, kind)?;
        let dev = s.dev();
        let part = format!("/sys/block/{0}/{0}p1", s.disk);
        c.sh(&format!(
            "printf 'label: dos\\nstart=2048, size=16384\\n' | sfdisk -q {dev}"
        ))?;
        c.wait_exists(&part)?;
        let mut page = Buf::pattern(PAGE, 1);
        let f = disk::direct(&dev)?;

        let failing = FailingDisk::new(c, &s)?;
        let at = 3 << 20;
        check_eq!(
            errno(&f.read_exact_at(page.bytes_mut(), at)),
            libc::EIO,
            "{kind:?}, read"
        );
        check_eq!(
            errno(&f.write_all_at(page.bytes(), at)),
            libc::EIO,
            "{kind:?}, write"
        );
        check_eq!(errno(&f.sync_all()), libc::EIO, "{kind:?}, flush");
        drop(f);
        let f = disk::open(&dev)?;
        let read = f.read_exact_at(page.bytes_mut(), 5 << 20);
        check_eq!(errno(&read), libc::EIO, "{kind:?}, buffered read");
        f.write_all_at(page.bytes(), 6 << 20)?;
        check_eq!(errno(&f.sync_all()), libc::EIO, "{kind:?}, fsync");
        disk::ioctl(&f, disk::BLKFLSBUF, &mut 0u64)?;
        // What cannot be read is not a partition table without partitions.
        let scan = disk::ioctl(&f, BLKRRPART, &mut 0u64);
        check_eq!(errno(&scan), libc::EIO, "{kind:?}, partition scan");
        drop(f);
        c.fails(&["mkfs.ext4", "-q", "-F", &dev])?;
        fs::create_dir_all(MNT)?;
        for fs in ["ext4", "xfs"] {
            c.fails(&["mount", "-t", fs, &dev, MNT])?;
        }

        s.unbind(c)?;
        s.bind(c)?;
        check_eq!(c.disk_attr(&s.disk, "make-it-fail")?, "0", "of a new disk");
        c.wait_exists(&part)?;
        drop(failing);
        io_works(c, &s, 2)?;
        c.ok(&["wipefs", "-aq", "-f", &dev])?;
        c.mkfs("ext4", &dev)?;
        c.mount(&dev, MNT, "defaults")?;
        c.umount(MNT)?;
    }
    Ok(())
}
