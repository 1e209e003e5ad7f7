// SPDX-License-Identifier: GPL-2.0
//! Partitions.

use super::{name, MNT};
use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::disk::{self, errno, Buf, MIB, PAGE};
use crate::support::sys::{self, Map};
use crate::{check, check_eq};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const TESTS: &[Test] = crate::tests! {
    block_partitions => partitions,
    block_partition_dax => partition_dax,
};

/// Wait until partition devices are there, or gone.
fn wait_partitions(c: &Ctx, disk: &str, want: &[&str]) -> TestResult {
    let have = || {
        let mut v: Vec<String> = fs::read_dir(format!("/sys/block/{disk}"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| n.starts_with(disk))
            .collect();
        v.sort();
        v
    };
    c.wait_for(&format!("partitions {want:?}"), || have() == want)?;
    for p in want {
        c.wait_exists(format!("/dev/{p}"))?;
    }
    Ok(())
}

fn partitions(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let disk = name(&dev).to_string();
    let part = |n: u32| format!("{dev}p{n}");
    // The second begins and ends inside a page.
    let table =
        "label: gpt\nstart=2048, size=40960\nstart=43009, size=8191\nstart=53248, size=40960\n";
    c.sh(&format!("printf '{table}' | sfdisk -q --wipe=always {dev}"))?;
    let names = [
        format!("{disk}p1"),
        format!("{disk}p2"),
        format!("{disk}p3"),
    ];
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    wait_partitions(c, &disk, &names)?;
    let listed = c.ok(&["partx", "--show", "-g", "-o", "NR,START,SECTORS", &dev])?;
    let listed: Vec<Vec<&str>> = listed
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    check_eq!(
        listed,
        [
            ["1", "2048", "40960"],
            ["2", "43009", "8191"],
            ["3", "53248", "40960"]
        ]
    );

    let whole = disk::direct(&dev)?;
    let end3 = (53248 + 40960) * 512;
    disk::fill(&whole, 700, MIB, end3 - MIB)?;
    // What is written to a partition is at its place on the disk, and nothing else is.
    let p2 = disk::direct(&part(2))?;
    check_eq!(disk::size(&p2)?, 8191 * 512);
    disk::fill(&p2, 800, 0, 8191 * 512)?;
    p2.sync_all()?;
    let r = p2.write_at(Buf::page(512).bytes(), 8191 * 512);
    check_eq!(errno(&r), libc::ENOSPC, "beyond the end of a partition");
    check_eq!(p2.write_at(Buf::pattern(PAGE, 1).bytes(), 8190 * 512)?, 512);
    disk::fill(&p2, 800, 0, 8191 * 512)?;
    disk::verify(&whole, 800, 43009 * 512, 8191 * 512)?;
    let mut all = Buf::page((end3 - MIB) as usize);
    whole.read_exact_at(all.bytes_mut(), MIB)?;
    for (i, chunk) in all.bytes().chunks(MIB as usize).enumerate() {
        let at = MIB * (1 + i as u64);
        let mut want = vec![0; chunk.len()];
        sys::pattern(700 + i as u64, &mut want);
        let (lo, hi) = (43009 * 512, (43009 + 8191) * 512);
        for (n, (a, b)) in chunk.iter().zip(&want).enumerate() {
            let pos = at + n as u64;
            if a != b && !(lo..hi).contains(&pos) {
                crate::fail!("byte {pos:#x} outside of the partition changed");
            }
        }
    }
    // Accounted at the partition, with the disk's totals.
    let stat = |p: &str| c.read(format!("/sys/block/{disk}/{p}/stat"));
    let writes = |s: &str| {
        s.split_whitespace()
            .nth(4)
            .and_then(|n| n.parse::<u64>().ok())
    };
    c.write(format!("/sys/block/{disk}/queue/iostats"), "1")?;
    let before = writes(&stat(names[1])?);
    p2.write_all_at(Buf::page(PAGE).bytes(), 0)?;
    check_eq!(
        writes(&stat(names[1])?),
        before.map(|n| n + 1),
        "writes of p2"
    );
    drop(p2);

    c.mkfs("ext4", &part(1))?;
    c.mount(&part(1), MNT, "defaults")?;
    c.sh(&format!(
        "head -c 3000000 /dev/urandom > {MNT}/f; sync; s=$(cksum < {MNT}/f); umount {MNT}; mount {} {MNT}; [ \"$s\" = \"$(cksum < {MNT}/f)\" ]",
        part(1)
    ))?;
    // While one is mounted, the table cannot be read again; others go on.
    c.fails(&["blockdev", "--rereadpt", &dev])?;
    c.umount(MNT)?;
    c.ok(&["fsck.ext4", "-n", "-f", &part(1)])?;

    // Partitions come back with a new bind, and go with the table.
    let ns = c.namespace()?;
    let driver = c.driver.clone();
    drop(whole);
    c.unbind(&driver, &ns)?;
    check!(!Path::new(&format!("/dev/{}", names[0])).exists());
    c.bind(&driver, &ns)?;
    wait_partitions(c, &disk, &names)?;
    c.ok(&["sfdisk", "-q", "--delete", &dev, "2"])?;
    wait_partitions(c, &disk, &[names[0], names[2]])?;
    c.ok(&["wipefs", "-aq", "-f", &dev])?;
    c.ok(&["blockdev", "--rereadpt", &dev])?;
    wait_partitions(c, &disk, &[])
}

/// fs-dax on a partition that begins at a page; not on one that does not.
fn partition_dax(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let disk = name(&dev).to_string();
    let table = "label: gpt\nstart=4096, size=131072\nstart=143361, size=65536\n";
    c.sh(&format!("printf '{table}' | sfdisk -q --wipe=always {dev}"))?;
    let (p1, p2) = (format!("{disk}p1"), format!("{disk}p2"));
    wait_partitions(c, &disk, &[&p1, &p2])?;
    let (p1, p2) = (format!("/dev/{p1}"), format!("/dev/{p2}"));

    c.mkfs("ext4", &p1)?;
    c.mount(&p1, MNT, "dax=always")?;
    let path = format!("{MNT}/f");
    let f = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    let len = 4 << 20;
    f.set_len(len as u64)?;
    let mut m = Map::sync(&f, 0, len)?;
    sys::pattern(11, m.slice_mut());
    m.persist(0, len);
    drop(m);
    drop(f);
    c.umount(MNT)?;
    // Where the file system says the file is, counted from the start of the partition, it is.
    let blocks = c.ok(&["debugfs", "-R", "bmap /f 1000", &p1])?;
    let block: u64 = blocks
        .trim()
        .parse()
        .map_err(|_| Outcome::Fail(format!("bmap: {blocks}")))?;
    let mut want = vec![0; len];
    sys::pattern(11, &mut want);
    let mut b = Buf::page(PAGE);
    disk::direct(&dev)?.read_exact_at(b.bytes_mut(), 4096 * 512 + block * 4096)?;
    check!(
        b.bytes() == &want[1000 * PAGE..1001 * PAGE],
        "block 1000 of the file is elsewhere"
    );

    c.mkfs("ext4", &p2)?;
    c.fails(&["mount", "-o", "dax=always", &p2, MNT])?;
    c.mount(&p2, MNT, "defaults")?;
    c.umount(MNT)?;
    c.ok(&["wipefs", "-aq", "-f", &dev])?;
    c.ok(&["blockdev", "--rereadpt", &dev])?;
    wait_partitions(c, &disk, &[])
}
