// SPDX-License-Identifier: GPL-2.0
//! Reading and writing: the whole disk, any size and alignment, and no further.

use super::{fio, name, pwritev};
use crate::support::ctx::{Ctx, Test, TestResult};
use crate::support::disk::{self, errno, Buf, Rng, MIB, PAGE};
use crate::support::sys;
use crate::{check, check_eq};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = crate::tests! {
    block_whole_device => whole_device,
    block_odd_sizes => odd_sizes,
    block_direct_alignment => direct_alignment,
    block_vectored => vectored,
    block_multi_page_bvec => multi_page_bvec,
    block_beyond_end => beyond_end,
    block_fio_verify => fio_verify,
};

fn whole_device(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    let size = disk::size(&f)?;
    disk::fill(&f, 100, 0, size)?;
    disk::drop_cache(&f)?;
    // Once around the page cache and once through it.
    disk::verify(&f, 100, 0, size)?;
    disk::verify(&disk::open(&dev)?, 100, 0, size)?;
    // The very last sector, alone.
    let mut last = Buf::page(512);
    f.read_exact_at(last.bytes_mut(), size - 512)?;
    let tail = (size - 1) % MIB + 1;
    let mut want = vec![0; tail as usize];
    sys::pattern(100 + (size - 1) / MIB, &mut want);
    check_eq!(last.bytes(), &want[tail as usize - 512..]);
    Ok(())
}

/// Random writes against a copy in memory, around the middle of the device.
fn odd_sizes(c: &mut Ctx) -> TestResult {
    const LEN: usize = 1 << 20;
    let dev = c.pmem()?;
    let direct = disk::direct(&dev)?;
    let at = disk::size(&direct)? / 2 / 4096 * 4096;
    // A margin on both sides, which nothing may touch.
    let mut model = vec![0u8; LEN];
    sys::pattern(200, &mut model);
    let mut whole = Buf::page(LEN);
    whole.bytes_mut().copy_from_slice(&model);
    direct.write_all_at(whole.bytes(), at)?;

    let buffered = disk::open(&dev)?;
    let mut rng = Rng(12345);
    let mut data = vec![0; 40_000];
    for i in 0..150 {
        let sizes = [1, 7, 511, 513, 1000, 4095, 4097, 12_289, 39_999];
        let len = sizes[rng.below(sizes.len() as u64) as usize];
        let from = 8192 + rng.below((LEN - 16384 - len) as u64) as usize;
        sys::pattern(1000 + i, &mut data[..len]);
        buffered.write_all_at(&data[..len], at + from as u64)?;
        model[from..from + len].copy_from_slice(&data[..len]);
    }
    disk::drop_cache(&buffered)?;
    // O_DIRECT in sectors: every count from 1 to 17, every place in the page.
    let mut sectors = Buf::page(17 * 512);
    for i in 0..136u64 {
        let len = 512 * (1 + i as usize % 17);
        let from = 8192 + 512 * (i as usize % 8) + PAGE * rng.below(200) as usize;
        sys::pattern(5000 + i, &mut sectors.bytes_mut()[..len]);
        direct.write_all_at(&sectors.bytes()[..len], at + from as u64)?;
        model[from..from + len].copy_from_slice(&sectors.bytes()[..len]);
    }
    disk::drop_cache(&buffered)?;
    direct.read_exact_at(whole.bytes_mut(), at)?;
    check_eq!(
        whole.bytes().iter().zip(&model).position(|(a, b)| a != b),
        None,
        "first wrong byte, O_DIRECT"
    );
    // Odd reads through the page cache.
    let mut from = 0;
    while from < LEN {
        let len = (1 + rng.below(9999) as usize).min(LEN - from);
        buffered.read_exact_at(&mut data[..len], at + from as u64)?;
        check!(
            data[..len] == model[from..from + len],
            "{len} bytes at {from:#x} differ"
        );
        from += len;
    }
    Ok(())
}

fn direct_alignment(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    // The block layer's default: what the bus would need, not what memory needs.
    let mask = disk::attr_u64(c, name(&dev), "queue/dma_alignment")? as usize;
    check_eq!(mask, 511);
    let len = 5 * PAGE + 512;
    for (i, shift) in (0..PAGE).step_by(mask + 1).enumerate() {
        let mut out = Buf::new(len, shift);
        sys::pattern(300 + i as u64, out.bytes_mut());
        f.write_all_at(out.bytes(), 512 * i as u64)?;
        // Back into a buffer of another alignment.
        let mut back = Buf::new(len, (shift + 1536) % PAGE);
        f.read_exact_at(back.bytes_mut(), 512 * i as u64)?;
        check_eq!(
            sys::pattern_differs(300 + i as u64, back.bytes()),
            None,
            "buffer at {shift} in its page"
        );
    }
    for shift in [1, 4, 256, 511] {
        let b = Buf::new(PAGE, shift);
        let r = f.write_at(b.bytes(), 0);
        check_eq!(errno(&r), libc::EINVAL, "a buffer at {shift} in its page");
    }
    let b = Buf::page(PAGE);
    check_eq!(errno(&f.write_at(&b.bytes()[..100], 0)), libc::EINVAL);
    check_eq!(errno(&f.write_at(b.bytes(), 100)), libc::EINVAL);
    Ok(())
}

fn vectored(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    let lens = [
        512,
        PAGE,
        1536,
        3 * PAGE + 512,
        512,
        7 * 512,
        64 << 10,
        1024,
    ];
    let shifts = [0, 512, 3584, 1024, 2048, 512, 0, 3072];
    let total: usize = lens.iter().sum();
    let mut model = vec![0; total];
    sys::pattern(400, &mut model);
    let mut bufs = Vec::new();
    let mut done = 0;
    for (len, shift) in lens.iter().zip(shifts) {
        let mut b = Buf::new(*len, shift);
        b.bytes_mut().copy_from_slice(&model[done..done + len]);
        done += len;
        bufs.push(b);
    }
    let at = 3 * MIB + 512;
    let parts: Vec<IoSlice> = bufs.iter().map(|b| IoSlice::new(b.bytes())).collect();
    check_eq!(pwritev(&f, &parts, at, 0)?, total);
    let mut back = vec![0; total];
    disk::open(&dev)?.read_exact_at(&mut back, at)?;
    check!(back == model, "the parts were not written in order");

    // And back into parts of other sizes.
    let mut bufs: Vec<Buf> = lens.iter().rev().map(|l| Buf::new(*l, 512)).collect();
    let mut parts: Vec<libc::iovec> = bufs
        .iter_mut()
        .map(|b| libc::iovec {
            iov_base: b.bytes_mut().as_mut_ptr().cast(),
            iov_len: b.bytes().len(),
        })
        .collect();
    // SAFETY: the parts point into `bufs`, which lives on and is not touched meanwhile.
    let n = unsafe {
        libc::preadv(
            f.as_raw_fd(),
            parts.as_mut_ptr(),
            parts.len() as i32,
            at as libc::off_t,
        )
    };
    check_eq!(n, total as isize);
    let back: Vec<u8> = bufs.iter().flat_map(|b| b.bytes().to_vec()).collect();
    check!(back == model, "the parts were not read in order");
    Ok(())
}

/// Transfers whose memory is physically contiguous over many pages: one bvec has them all.
fn multi_page_bvec(c: &mut Ctx) -> TestResult {
    const HUGE: usize = 2 << 20;
    let dev = c.pmem()?;
    let f = disk::direct(&dev)?;
    // SAFETY: an anonymous mapping at an address of the kernel's choice, unmapped at exit.
    let mem = unsafe {
        let p = libc::mmap(
            std::ptr::null_mut(),
            2 * HUGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        check!(p != libc::MAP_FAILED);
        let p = p.cast::<u8>();
        let p = p.add(p.align_offset(HUGE));
        check_eq!(libc::madvise(p.cast(), HUGE, libc::MADV_HUGEPAGE), 0);
        std::slice::from_raw_parts_mut(p, HUGE)
    };
    sys::pattern(500, mem);
    let smaps = c.read("/proc/self/smaps")?;
    let huge = smaps
        .lines()
        .filter_map(|l| l.strip_prefix("AnonHugePages:"))
        .any(|v| v.trim() != "0 kB");
    check!(huge, "no huge page: the test would prove nothing");

    for (len, skip, at) in [
        (HUGE, 0, 0),
        (1 << 20, 0, MIB),
        (1 << 20, 512, 5 * MIB + 512),
        (HUGE - 1536, 1024, 8 * MIB + 3584),
    ] {
        f.write_all_at(&mem[skip..skip + len], at)?;
        let mut back = vec![0; len];
        disk::open(&dev)?.read_exact_at(&mut back, at)?;
        check!(
            back == mem[skip..skip + len],
            "{len} bytes at {at:#x} differ"
        );
    }
    // Reads into contiguous memory.
    let mut want = Buf::page(HUGE);
    f.read_exact_at(want.bytes_mut(), 8 * MIB)?;
    mem.fill(0);
    f.read_exact_at(mem, 8 * MIB)?;
    check!(mem == want.bytes(), "a read of 2 MiB differs");
    Ok(())
}

fn beyond_end(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    let buffered = disk::open(&dev)?;
    let direct = disk::direct(&dev)?;
    let size = disk::size(&direct)?;
    check_eq!(disk::attr_u64(c, name(&dev), "size")? * 512, size);
    disk::fill(&direct, 600, size - MIB, MIB)?;
    disk::drop_cache(&buffered)?;

    let mut b = Buf::pattern(2 * PAGE, 7);
    for (f, how) in [(&buffered, "buffered"), (&direct, "O_DIRECT")] {
        for at in [size, size + 512, size + (1 << 40)] {
            let r = f.write_at(b.bytes(), at);
            check_eq!(errno(&r), libc::ENOSPC, "{how} write at {at:#x}");
            check_eq!(f.read_at(b.bytes_mut(), at)?, 0, "{how} read at {at:#x}");
        }
        // Across the end: only what is on the device.
        let at = size - 512;
        check_eq!(
            f.read_at(b.bytes_mut(), at)?,
            512,
            "{how} read across the end"
        );
        let keep = Buf::pattern(2 * PAGE, 8);
        check_eq!(
            f.write_at(keep.bytes(), at)?,
            512,
            "{how} write across the end"
        );
        f.sync_all()?;
        let mut last = Buf::page(512);
        direct.read_exact_at(last.bytes_mut(), at)?;
        check_eq!(last.bytes(), &keep.bytes()[..512]);
        disk::verify(&direct, 600, size - MIB, MIB - 512)?;
    }
    // Zeroing beyond the end, and discarding at all.
    let r = disk::ioctl(&direct, disk::BLKZEROOUT, &mut [size - 4096, 8192]);
    check_eq!(errno(&r), libc::EINVAL, "BLKZEROOUT across the end");
    let r = disk::ioctl(&direct, disk::BLKDISCARD, &mut [0u64, 4096]);
    check_eq!(errno(&r), libc::EOPNOTSUPP, "BLKDISCARD");
    disk::ioctl(&direct, disk::BLKZEROOUT, &mut [size - 4096, 4096])?;
    let mut end = Buf::pattern(2 * PAGE, 9);
    direct.read_exact_at(end.bytes_mut(), size - 2 * PAGE as u64)?;
    check!(end.bytes()[PAGE..].iter().all(|b| *b == 0), "BLKZEROOUT");
    check!(end.bytes()[..PAGE].iter().any(|b| *b != 0));
    Ok(())
}

fn fio_verify(c: &mut Ctx) -> TestResult {
    let dev = c.pmem()?;
    fio(c, &dev, "512-13k")
}
