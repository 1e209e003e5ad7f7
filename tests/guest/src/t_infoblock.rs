// SPDX-License-Identifier: GPL-2.0
//! Info blocks that are not as they should be: no device, a message that says why, the medium
//! untouched, and a way back. rpmem only: nd_pmem offers the raw namespace in many of these cases.

use crate::support::ctx::{Ctx, Outcome, Test, TestResult};
use crate::support::disk::{self, errno, Buf, Marks, MIB};
use crate::support::infoblock::logic::info_block::{checksum, OFFSET, SIZE};
use crate::support::infoblock::{
    put, read_block, seal, u64_at, Block, ALIGN, CHECKSUM, DATA_OFFSET, END_TRUNC, FLAGS, MAJOR,
    MINOR, MODE, NPFNS, PAGE_SIZE, PAGE_STRUCT_SIZE, PARENT_UUID, START_PAD, UUID,
};
use crate::support::namespace::{active, bind_raw, fresh, release, unbind_raw};
use crate::{check, check_eq};
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    namespace_info_block_bit_flips => bit_flips,
    namespace_info_block_truncated => truncated,
    namespace_info_block_version => version,
    namespace_info_block_uuid => uuid,
    namespace_info_block_sizes => sizes,
    namespace_info_block_fields => fields,
    namespace_info_block_unlabelled => unlabelled,
    namespace_info_block_writers => writers,
    namespace_info_block_writers_unlabelled => writers_unlabelled,
    namespace_info_block_recreate => recreate,
    namespace_info_block_stale => stale,
    namespace_info_block_force_raw => force_raw,
};

/// A namespace in fsdax mode, its intact info block, and marks in its data. While it is treated it
/// is bound as a raw namespace; `heal` ends that.
struct Patient {
    ns: String,
    dev: String,
    good: Block,
    marks: Marks,
}

impl Patient {
    fn new(c: &Ctx, ns: String) -> TestResult<Patient> {
        let dev = format!("/dev/{}", c.disk_of(&active(c, &ns)?)?);
        let marks = Marks::new(4000);
        marks.write(&dev)?;
        bind_raw(c, &ns)?;
        let good = read_block(&dev)?;
        check_eq!(&good[..16], b"NVDIMM_PFN_INFO\0");
        check_eq!(u64_at(&good, CHECKSUM), checksum(&good));
        Ok(Patient {
            ns,
            dev,
            good,
            marks,
        })
    }

    fn labelled(c: &Ctx) -> TestResult<Patient> {
        fresh(c)?;
        let ns = c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "64M"])?;
        Patient::new(c, ns)
    }

    /// The namespace binds, as fsdax, and the data is there.
    fn works(&self, c: &Ctx) -> TestResult {
        unbind_raw(c, &self.ns)?;
        let r = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&self.ns);
        check_eq!(
            errno(&r),
            libc::ENXIO,
            "the personality takes the namespace"
        );
        c.settle();
        let holder = active(c, &self.ns)?;
        check!(holder.starts_with("pfn"), "holder of {}: {holder}", self.ns);
        let disk = c.disk_of(&holder)?;
        check_eq!(format!("/dev/{disk}"), self.dev);
        check_eq!(c.disk_attr(&disk, "queue/dax")?, "1");
        self.marks.check(&self.dev)
    }

    fn plant(&self, block: &Block) -> TestResult {
        plant(&self.dev, block)
    }

    /// What a damaged block must leave alone.
    fn start_of_medium(&self) -> TestResult<Buf> {
        let mut b = Buf::page(16 * MIB as usize);
        disk::direct(&self.dev)?.read_exact_at(b.bytes_mut(), 0)?;
        Ok(b)
    }

    /// Bind with `block` planted: it must be refused for `reason`, and nothing be written.
    fn refused(&self, c: &mut Ctx, what: &str, block: &Block, reason: &str) -> TestResult {
        println!("{what}");
        check!(*block != self.good, "{what}: not damaged at all");
        self.plant(block)?;
        let before = self.start_of_medium()?;
        unbind_raw(c, &self.ns)?;
        c.mark_dmesg();
        let r = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&self.ns);
        c.settle();
        check_eq!(errno(&r), libc::EOPNOTSUPP, "{what}: bind");
        check_eq!(c.disks(), Vec::<String>::new(), "{what}: disks");
        check_eq!(c.bound_to(&self.ns), None, "{what}: driver");
        check_eq!(active(c, &self.ns)?, self.ns, "{what}: holder");
        let log = c.dmesg()?;
        let said = log.lines().any(|l| {
            l.contains(&format!("{}: info block damaged", self.ns))
                && l.contains(&format!("nothing written: {reason}"))
        });
        check!(said, "{what}: no message {reason:?} in the log:\n{log}");

        // Look at the medium once more, by way of the raw namespace.
        bind_raw(c, &self.ns)?;
        let after = self.start_of_medium()?;
        let pairs = || before.bytes().iter().zip(after.bytes());
        check!(
            before.bytes() == after.bytes(),
            "{what}: the medium was written to, at {:?}",
            pairs().position(|(a, b)| a != b)
        );
        Ok(())
    }

    /// Put the intact block back: everything works again.
    fn heal(&self, c: &Ctx) -> TestResult {
        self.plant(&self.good)?;
        self.works(c)
    }

    /// `change` is made to the intact block, with a valid checksum.
    fn sealed(
        &self,
        c: &mut Ctx,
        what: &str,
        reason: &str,
        change: impl FnOnce(&mut Block),
    ) -> TestResult {
        let mut b = self.good;
        change(&mut b);
        seal(&mut b);
        self.refused(c, what, &b, reason)
    }
}

fn plant(dev: &str, block: &Block) -> TestResult {
    let mut b = Buf::page(SIZE);
    b.bytes_mut().copy_from_slice(block);
    let f = disk::direct(dev)?;
    f.write_all_at(b.bytes(), OFFSET)?;
    f.sync_all()?;
    Ok(())
}

fn bit_flips(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    for at in [
        UUID,
        PARENT_UUID + 9,
        FLAGS,
        MINOR,
        DATA_OFFSET + 2,
        NPFNS,
        START_PAD + 3,
        PAGE_STRUCT_SIZE,
        2048,
        CHECKSUM - 1,
        SIZE - 1,
    ] {
        let mut b = p.good;
        b[at] ^= 1 << (at % 8);
        p.refused(c, &format!("bit {} of byte {at}", at % 8), &b, "checksum")?;
    }
    p.heal(c)
}

fn truncated(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    for keep in [SIZE / 2, 16, SIZE - 8] {
        let mut b = p.good;
        b[keep..].fill(0);
        p.refused(c, &format!("zeroes from byte {keep} on"), &b, "checksum")?;
    }
    // The tail of some other write.
    let mut b = p.good;
    b[SIZE / 2..].fill(0x5a);
    p.refused(c, "second half overwritten", &b, "checksum")?;
    p.heal(c)
}

fn version(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    p.heal(c)?;
    // A later minor version only adds fields; libnvdimm looks at no major one.
    for (major, minor) in [(1, 5), (0, 4), (2, 4), (0xffff, 0xffff)] {
        let mut b = p.good;
        put(&mut b, MAJOR, major, 2);
        put(&mut b, MINOR, minor, 2);
        seal(&mut b);
        bind_raw(c, &p.ns)?;
        p.plant(&b)?;
        p.works(c)?;
    }
    Ok(())
}

/// An intact block of somebody else is contents: of a virtual machine that has the namespace, or of the
/// namespace that was here before. It is a raw disk, as for nd_pmem, and nothing in it changes.
fn uuid(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    let other = c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "64M"])?;
    bind_raw(c, &other)?;
    let dev = format!("/dev/{}", c.disk_of(&other)?);
    let theirs = read_block(&dev)?;
    unbind_raw(c, &other)?;
    check_eq!(u64_at(&theirs, CHECKSUM), checksum(&theirs));

    let mut one_bit = p.good;
    one_bit[PARENT_UUID + 15] ^= 0x80;
    let mut none = p.good;
    none[PARENT_UUID..PARENT_UUID + 16].fill(0);
    bind_raw(c, &p.ns)?;
    for (what, mut block) in [
        ("one bit", one_bit),
        ("none", none),
        ("the neighbour's", theirs),
    ] {
        println!("{what}");
        seal(&mut block);
        p.plant(&block)?;
        let before = p.start_of_medium()?;
        unbind_raw(c, &p.ns)?;
        c.mark_dmesg();
        c.bind(&c.driver, &p.ns)?;
        c.dmesg_has("the info block is of another namespace")?;
        check_eq!(active(c, &p.ns)?, p.ns, "{what}: holder");
        let size = c.read_u64(c.nd(&p.ns).join("size"))?;
        let disk = c.disk_of(&p.ns)?;
        check_eq!(c.read_u64(format!("/sys/block/{disk}/size"))? * 512, size);
        check!(
            p.start_of_medium()?.bytes() == before.bytes(),
            "{what}: the medium was written to"
        );
        c.unbind(&c.driver, &p.ns)?;
        bind_raw(c, &p.ns)?;
    }
    // With a wrong checksum it is nobody's.
    let mut b = theirs;
    b[NPFNS] ^= 1;
    p.refused(c, "the neighbour's, damaged", &b, "checksum")?;
    p.heal(c)
}

/// What a driver makes of a namespace: the errno of a bind, what holds it, the size and DAX of its disk, and
/// the first page of that.
#[derive(Debug, PartialEq)]
struct Served {
    errno: i32,
    holder: Option<String>,
    disk: Option<(String, u64, String, Vec<u8>)>,
}

/// Offers the namespace to `driver`, and to no other. Whatever comes of it is undone.
fn served(c: &Ctx, ns: &str, driver: &str) -> TestResult<Served> {
    let exclude = if driver == "rpmem" { "\n" } else { ns };
    c.write("/sys/module/rpmem/parameters/exclude", exclude)?;
    let r = c.try_write(format!("/sys/bus/nd/drivers/{driver}/bind"))(ns);
    c.settle();
    let on = active(c, ns)?;
    let disk = match c.bound_to(&on) {
        None => None,
        Some(by) => {
            check_eq!(by, driver, "{on}");
            let disk = c.disk_of(&on)?;
            let mut page = Buf::page(4096);
            disk::direct(&format!("/dev/{disk}"))?.read_exact_at(page.bytes_mut(), 0)?;
            Some((
                disk.clone(),
                c.read_u64(format!("/sys/block/{disk}/size"))?,
                c.disk_attr(&disk, "queue/dax")?,
                page.bytes().to_vec(),
            ))
        }
    };
    let kind = |name: &str| {
        name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
            .to_string()
    };
    let served = Served {
        errno: errno(&r),
        holder: (on != ns).then(|| kind(&on)),
        disk,
    };
    release(c, ns)?;
    c.write("/sys/module/rpmem/parameters/exclude", "\n")?;
    Ok(served)
}

/// Intact blocks as they are found in the field, changed from the one that this kernel has made. The last
/// column says why rpmem differs, if it does: there it gives no device.
type Writer = (&'static str, fn(&mut Block), Option<&'static str>);

const WRITERS: [Writer; 17] = [
    ("this kernel, 1.4", |_| (), None),
    ("Linux 5.0 to 5.3, 1.3", |b| minor(b, 3, PAGE_SIZE), None),
    ("Linux 4.13 to 4.20, 1.2", |b| minor(b, 2, PAGE_SIZE), None),
    ("Linux 4.5 to 4.12, 1.1", |b| minor(b, 1, ALIGN), None),
    ("Linux 4.4, 1.0", |b| minor(b, 0, START_PAD), None),
    (
        "Kata Containers, PMEM-CSI, 0.2",
        |b| {
            minor(b, 2, PAGE_SIZE);
            put(b, MAJOR, 0, 2);
            put(b, NPFNS, 0, 8);
            b[UUID..UUID + 16].fill(0);
        },
        None,
    ),
    (
        "the same with 0.4",
        |b| {
            put(b, MAJOR, 0, 2);
            put(b, NPFNS, 0, 8);
        },
        None,
    ),
    (
        "4.7, of a kernel to come",
        |b| {
            put(b, MAJOR, 4, 2);
            put(b, MINOR, 7, 2);
        },
        None,
    ),
    (
        "end_trunc of 16 MiB",
        |b| {
            put(b, END_TRUNC, 16 * MIB, 4);
            put(b, NPFNS, u64_at(b, NPFNS) - 4096, 8);
        },
        None,
    ),
    ("fewer pages than there are", |b| put(b, NPFNS, 1, 8), None),
    ("flags", |b| put(b, FLAGS, u64::from(u32::MAX), 4), None),
    (
        "padding that is not zero",
        |b| b[2048..3000].fill(0xff),
        None,
    ),
    (
        "a virtual machine, another parent uuid",
        |b| b[PARENT_UUID] ^= 1,
        None,
    ),
    (
        "an unknown mode",
        |b| put(b, MODE, 3, 4),
        Some("the contents are not known"),
    ),
    (
        "a page map for smaller pages, on a device map",
        |b| put(b, PAGE_STRUCT_SIZE, 16, 2),
        None,
    ),
    (
        "a namespace that was larger",
        |b| put(b, NPFNS, u64_at(b, NPFNS) + 1, 8),
        Some("its end is missing"),
    ),
    (
        "no alignment that there is",
        |b| put(b, ALIGN, 3 * MIB, 4),
        None,
    ),
];

/// A version in which what begins at `from` had not been thought of.
fn minor(b: &mut Block, version: u64, from: usize) {
    put(b, MINOR, version, 2);
    b[from..CHECKSUM].fill(0);
}

/// Each of them, in the place of the block that ndctl made: rpmem and nd_pmem make the same of it.
fn each_writer(c: &mut Ctx, labelled: bool) -> TestResult {
    c.modprobe("nd_pmem")?;
    for map in ["mem", "dev"] {
        let ns = if labelled {
            fresh(c)?;
            c.create_namespace(&["-m", "fsdax", "-M", map, "-s", "64M"])?
        } else {
            let ns = c.namespace()?;
            c.create_namespace(&["-f", "-e", &ns, "-m", "fsdax", "-M", map])?
        };
        // ndctl may have given it to the other one.
        release(c, &ns)?;
        bind_raw(c, &ns)?;
        let dev = format!("/dev/{}", c.disk_of(&ns)?);
        let good = read_block(&dev)?;
        unbind_raw(c, &ns)?;
        for (what, change, differs) in WRITERS {
            let mut block = good;
            change(&mut block);
            seal(&mut block);
            bind_raw(c, &ns)?;
            plant(&dev, &block)?;
            unbind_raw(c, &ns)?;
            let [ours, theirs] = ["rpmem", "nd_pmem"].map(|driver| served(c, &ns, driver));
            let (ours, theirs) = (ours?, theirs?);
            println!(
                "map={map}, {what}: {} {:?} {:?}",
                theirs.errno,
                theirs.holder,
                theirs.disk.as_ref().map(|d| (&d.0, d.1, &d.2))
            );
            match differs {
                None => check_eq!(ours, theirs, "map={map}, {what}"),
                Some(_) => {
                    check_eq!(ours.errno, libc::EOPNOTSUPP, "map={map}, {what}");
                    check_eq!(ours.disk, None, "map={map}, {what}");
                    check!(
                        ours != theirs,
                        "map={map}, {what}: nd_pmem has no disk, either"
                    );
                }
            }
        }
    }
    Ok(())
}

fn sizes(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    let size = c.read_u64(c.nd(&p.ns).join("size"))?;
    let good = p.good;
    let npfns = u64_at(&good, NPFNS);
    let too_many = "size, more pages than the namespace holds";
    for n in [npfns + 1, 1 << 52, u64::MAX] {
        p.sealed(c, &format!("{n:#x} pages"), too_many, |b| {
            put(b, NPFNS, n, 8)
        })?;
    }
    for at in [size, u64::MAX - 4095] {
        p.sealed(
            c,
            &format!("data at {at:#x}"),
            "data offset beyond the namespace",
            |b| put(b, DATA_OFFSET, at, 8),
        )?;
    }
    p.sealed(
        c,
        "end_trunc of the whole",
        "data offset beyond the mapped range",
        |b| put(b, END_TRUNC, size, 4),
    )?;
    p.sealed(
        c,
        "end_trunc of more",
        "padding beyond the namespace",
        |b| put(b, END_TRUNC, size + 4096, 4),
    )?;
    p.sealed(
        c,
        "start_pad and end_trunc",
        "padding beyond the namespace",
        |b| {
            put(b, START_PAD, size / 2, 4);
            put(b, END_TRUNC, size / 2 + 4096, 4);
        },
    )?;
    p.sealed(
        c,
        "end_trunc of a page",
        "end of the mapped range, misaligned",
        |b| {
            put(b, END_TRUNC, 4096, 4);
            put(b, NPFNS, npfns - 1, 8);
        },
    )?;
    p.sealed(c, "start_pad of 2 MiB", too_many, |b| {
        put(b, START_PAD, 2 * MIB, 4)
    })?;
    p.heal(c)
}

fn fields(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    for mode in [0u64, 3] {
        p.sealed(c, &format!("mode {mode:#x}"), "mode", |b| {
            put(b, MODE, mode, 4)
        })?;
    }
    let offset = u64_at(&p.good, DATA_OFFSET);
    p.sealed(c, "data a sector later", "data offset, misaligned", |b| {
        put(b, DATA_OFFSET, offset + 512, 8);
        put(b, NPFNS, u64_at(b, NPFNS) - 1, 8);
    })?;
    p.sealed(
        c,
        "data over the info block",
        "data offset inside the info block",
        |b| put(b, DATA_OFFSET, 4096, 8),
    )?;
    p.sealed(c, "alignment 3 MiB", "alignment, not a power of two", |b| {
        put(b, ALIGN, 3 * MIB, 4)
    })?;
    p.sealed(
        c,
        "alignment 1 GiB",
        "alignment beyond the namespace",
        |b| put(b, ALIGN, 1 << 30, 4),
    )?;
    p.sealed(
        c,
        "struct pages of 32 bytes",
        "struct page size of the page map",
        |b| put(b, PAGE_STRUCT_SIZE, 32, 2),
    )?;
    p.sealed(c, "pages of 8 KiB", "page size of the page map", |b| {
        put(b, PAGE_SIZE, 8192, 4)
    })?;
    p.heal(c)
}

/// Without labels the namespace has no uuid: parent_uuid must be zero.
fn unlabelled(c: &mut Ctx) -> TestResult {
    let ns = c.namespace()?;
    c.create_namespace(&["-f", "-e", &ns, "-m", "fsdax", "-M", "mem"])?;
    let p = Patient::new(c, ns)?;
    check!(p.good[PARENT_UUID..PARENT_UUID + 16]
        .iter()
        .all(|b| *b == 0));
    let mut b = p.good;
    b[NPFNS] ^= 1;
    p.refused(c, "npfns", &b, "checksum")?;
    p.heal(c)
}

fn writers(c: &mut Ctx) -> TestResult {
    each_writer(c, true)
}

fn writers_unlabelled(c: &mut Ctx) -> TestResult {
    each_writer(c, false)
}

/// A damaged block, and the user gives its contents up: ndctl makes a new one in its place.
fn recreate(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    let mut b = p.good;
    b[NPFNS] ^= 1;
    p.refused(c, "npfns", &b, "checksum")?;
    unbind_raw(c, &p.ns)?;
    // What it is, as the user sees it.
    let told = c.ok(&["ndctl", "read-infoblock", &p.ns, "-j"])?;
    check!(
        told.contains("NVDIMM_PFN_INFO"),
        "ndctl read-infoblock: {told}"
    );
    check_eq!(active(c, &p.ns)?, p.ns, "holder after read-infoblock");

    let ns = c.create_namespace(&["-f", "-e", &p.ns, "-m", "fsdax", "-M", "dev"])?;
    check_eq!(ns, p.ns);
    let disk = c.disk_of(&active(c, &ns)?)?;
    check_eq!(c.disk_attr(&disk, "queue/dax")?, "1");
    Marks::new(4100).write(&p.dev)?;
    Marks::new(4100).check(&p.dev)?;
    // Or destroys it.
    bind_raw(c, &p.ns)?;
    p.refused(c, "npfns", &b, "checksum")?;
    unbind_raw(c, &p.ns)?;
    c.ok(&["ndctl", "destroy-namespace", "-f", &ns])?;
    c.settle();
    check!(c.namespaces().is_empty(), "{:?}", c.namespaces());
    Ok(())
}

/// New labels over old contents: the block of the namespace that was is in the way of nobody who
/// asks for a new one.
fn stale(c: &mut Ctx) -> TestResult {
    let p = Patient::labelled(c)?;
    p.heal(c)?;
    c.ok(&["ndctl", "disable-namespace", "all"])?;
    c.init_labels()?;
    check!(c.namespaces().is_empty(), "{:?}", c.namespaces());
    let ns = c.create_namespace(&["-m", "fsdax", "-M", "dev", "-s", "64M"])?;
    let disk = c.disk_of(&active(c, &ns)?)?;
    check_eq!(format!("/dev/{disk}"), p.dev);
    Marks::new(4200).write(&p.dev)?;
    bind_raw(c, &ns)?;
    let b = read_block(&p.dev)?;
    unbind_raw(c, &ns)?;
    check!(
        b[UUID..FLAGS] != p.good[UUID..FLAGS],
        "the block is the old one"
    );
    let uuid = c.read(c.nd(&ns).join("uuid"))?;
    let digits: Vec<u32> = uuid.chars().filter_map(|d| d.to_digit(16)).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|d| (d[0] * 16 + d[1]) as u8).collect();
    check_eq!(b[PARENT_UUID..FLAGS], bytes, "parent uuid of the new block");
    let r = c.try_write(format!("/sys/bus/nd/drivers/{}/bind", c.driver))(&ns);
    if errno(&r) != libc::ENXIO {
        return Err(Outcome::Fail(format!("bind {ns}: {r:?}")));
    }
    c.settle();
    c.disk_of(&active(c, &ns)?)?;
    Marks::new(4200).check(&p.dev)
}

/// `force_raw` is for namespaces: the device that has claimed one before is bound with its block, as by
/// nd_pmem, and the block has to be as it should be.
fn force_raw(c: &mut Ctx) -> TestResult {
    c.modprobe("nd_pmem")?;
    for (mode, drivers) in [("fsdax", &["rpmem", "nd_pmem"][..]), ("devdax", &["rpmem"])] {
        fresh(c)?;
        let ns = c.create_namespace(&["-m", mode, "-M", "dev", "-s", "64M"])?;
        let holder = active(c, &ns)?;
        check!(holder != ns, "{mode}: nobody has claimed {ns}");
        let dev = format!("/dev/{}", c.disk_of(&holder)?);
        let marks = Marks::new(4001);
        marks.write(&dev)?;
        // Whichever of them it was.
        let first = c.bound_to(&holder).unwrap_or_default();
        c.unbind(&first, &holder)?;
        c.write(c.nd(&ns).join("force_raw"), "1")?;
        let mut answers = Vec::new();
        for driver in drivers {
            c.bind(driver, &holder)?;
            let disk = c.disk_of(&holder)?;
            check_eq!(format!("/dev/{disk}"), dev, "{mode}, {driver}");
            marks.check(&dev)?;
            answers.push(["size", "queue/dax"].map(|attr| c.disk_attr(&disk, attr)));
            c.unbind(driver, &holder)?;
        }
        let answers = answers
            .into_iter()
            .map(|[size, dax]| Ok((size?, dax?)))
            .collect::<TestResult<Vec<_>>>()?;
        check!(
            answers.iter().all(|a| *a == answers[0]),
            "{mode}: {answers:?}"
        );
    }
    Ok(())
}
