// SPDX-License-Identifier: GPL-2.0

//! Bios.
//!
//! C header: [`include/linux/bio.h`](srctree/include/linux/bio.h)
//!
//! Staging module until it can move to `kernel::block::bio`.
//!
//! # Invariants
//!
//! Each bio is ended once: [`Bio`] owns it, and ending takes it. Memory of a bio is read and written through
//! [`Segment`], and never by reference: others may change it at any time.
//!
//! # Examples
//!
//! The KUnit tests at the end of this file, on a `TestBio` of `kunit.rs`.

use super::compat;
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// A bio that the driver owns and has to end: dropping it without [`Bio::end`] fails it with an I/O
/// error.
///
/// # Invariants
///
/// The pointer is to a bio that was submitted to a disk of this driver and has not been ended.
pub(crate) struct Bio(NonNull<bindings::bio>);

/// A physically contiguous piece of memory that belongs to a bio.
///
/// # Invariants
///
/// `addr` is valid for reads and writes of `len` bytes for the lifetime `'bio`. The bytes may
/// change at any time (user memory under O_DIRECT), so no Rust reference to them is made.
pub(crate) struct Segment<'bio> {
    addr: NonNull<u8>,
    len: usize,
    _bio: PhantomData<&'bio Bio>,
}

impl Segment<'_> {
    /// A piece of memory that is not a bio's.
    ///
    /// # Safety
    ///
    /// `addr` is valid for reads and writes of `len` bytes for as long as the result lives.
    pub(super) unsafe fn from_raw(addr: NonNull<u8>, len: usize) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self {
            addr,
            len,
            _bio: PhantomData,
        }
    }

    /// The address of the first byte.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.addr.as_ptr()
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Cuts off and returns the first `len` bytes, or all if there are fewer.
    pub(crate) fn split_to(&mut self, len: usize) -> Self {
        let len = len.min(self.len);
        // INVARIANT: The two parts do not overlap and lie inside the old segment.
        let head = Segment {
            addr: self.addr,
            len,
            _bio: PhantomData,
        };
        // SAFETY: `len` is at most `self.len`, and the segment is one allocation for that length.
        self.addr = unsafe { self.addr.add(len) };
        self.len -= len;
        head
    }
}

/// Token of a bio whose I/O is being accounted; see [`Bio::start_accounting`].
#[must_use]
pub(crate) struct Accounting(Option<usize>);

impl Bio {
    /// Takes ownership of a bio.
    ///
    /// # Safety
    ///
    /// `bio` was submitted to a disk of this driver, has not been ended, and the caller gives it
    /// up.
    pub(super) unsafe fn from_raw(bio: NonNull<bindings::bio>) -> Self {
        // INVARIANT: Guaranteed by the caller.
        Self(bio)
    }

    /// Gives up ownership: whoever has the pointer ends the bio.
    pub(super) fn into_raw(self) -> NonNull<bindings::bio> {
        core::mem::ManuallyDrop::new(self).0
    }

    fn opf(&self) -> u32 {
        // SAFETY: By the type invariants the bio is valid; `bi_opf` does not change while we own
        // it.
        unsafe { (*self.0.as_ptr()).bi_opf }
    }

    /// Whether data goes to the device (`op_is_write()`).
    pub(crate) fn is_write(&self) -> bool {
        self.opf() & bindings::REQ_OP_WRITE != 0
    }

    /// Whether earlier writes have to be durable before this bio starts.
    pub(crate) fn is_preflush(&self) -> bool {
        self.opf() & bindings::REQ_PREFLUSH != 0
    }

    /// Whether this write has to be durable before the bio ends.
    pub(crate) fn is_fua(&self) -> bool {
        self.opf() & bindings::REQ_FUA != 0
    }

    /// Starts I/O accounting, where the queue has it switched on and the kernel counts such bios.
    pub(crate) fn start_accounting(&self) -> Accounting {
        if !compat::FLUSH_IS_A_WRITE && self.len() == 0 {
            return Accounting(None);
        }
        let bio = self.0.as_ptr();
        // SAFETY: By the type invariants the bio is valid, and the queue it was submitted to stays
        // alive while it is not ended.
        let on = unsafe {
            (*(*(*bio).bi_bdev).bd_queue).limits.features & bindings::BLK_FEAT_IO_STAT != 0
        };
        // SAFETY: As above.
        Accounting(on.then(|| unsafe { bindings::bio_start_io_acct(bio) }))
    }

    /// Ends the accounting that [`Bio::start_accounting`] began.
    pub(crate) fn end_accounting(&self, accounting: Accounting) {
        if let Accounting(Some(start)) = accounting {
            let bio = self.0.as_ptr();
            // SAFETY: By the type invariants the bio is valid; `start` is from
            // `bio_start_io_acct()`.
            unsafe { bindings::bio_end_io_acct_remapped(bio, start, (*bio).bi_bdev) };
        }
    }

    /// The first sector (512 bytes) of the device that the bio is about.
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: By the type invariants the bio is valid, and nobody else changes its iterator.
        unsafe { (*self.0.as_ptr()).bi_iter.bi_sector }
    }

    /// The length of the bio's data in bytes.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: As in `sector`.
        unsafe { (*self.0.as_ptr()).bi_iter.bi_size as usize }
    }

    /// Calls `f` with each piece of the bio's data and its position in bytes from the start of the
    /// bio, until it fails.
    ///
    /// Pieces are as long as they are physically contiguous, not cut at pages as by
    /// `bio_for_each_segment()`.
    pub(crate) fn for_each_segment(
        &self,
        mut f: impl FnMut(usize, Segment<'_>) -> Result,
    ) -> Result {
        // SAFETY: By the type invariants the bio is valid, and nobody else changes its iterator.
        let (vecs, iter) = unsafe { ((*self.0.as_ptr()).bi_io_vec, (*self.0.as_ptr()).bi_iter) };
        let (mut idx, mut skip) = (iter.bi_idx as usize, compat::bvec_offset(&iter));
        let (mut left, mut done) = (iter.bi_size, 0);

        while left != 0 {
            // SAFETY: While `bi_size` bytes are left, `bi_idx` is an index into the bio's table.
            let vec = unsafe { vecs.add(idx) };
            // SAFETY: As above, and entries do not change while the bio is in flight.
            let len = unsafe { (*vec).bv_len }.saturating_sub(skip).min(left);

            if bindings::FLUSH_DCACHE {
                // SAFETY: `vec` is a valid entry.
                unsafe { flush_dcache(vec) };
            }
            // SAFETY: `vec` is a valid entry. There is no highmem (checked in shim.c), so its pages
            // have one contiguous kernel mapping; `skip` is at most its length.
            let addr = unsafe {
                bindings::rpmem_helper_bvec_virt(vec)
                    .cast::<u8>()
                    .add(skip as usize)
            };
            // INVARIANT: The bio owns its pages until it is ended, and it outlives this call.
            let segment = Segment {
                addr: NonNull::new(addr).ok_or(EIO)?,
                len: len as usize,
                _bio: PhantomData,
            };
            f(done, segment)?;

            left -= len;
            done += len as usize;
            skip = 0;
            idx += 1;
        }
        Ok(())
    }

    /// Ends the bio with the given result.
    pub(crate) fn end(self, result: Result) {
        let bio = self.into_raw().as_ptr();
        if let Err(err) = result {
            // SAFETY: We own the bio. The function is pure.
            unsafe { (*bio).bi_status = bindings::errno_to_blk_status(err.to_errno()) };
        }
        // SAFETY: We own the bio and give it up.
        unsafe { bindings::bio_endio(bio) };
    }
}

impl Drop for Bio {
    fn drop(&mut self) {
        // INVARIANT: The bio is ours to end, and `self` is not used afterwards.
        Bio(self.0).end(Err(EIO));
    }
}

/// Keeps data caches coherent, on architectures where that takes a call (not x86).
///
/// # Safety
///
/// `vec` is a valid entry of a bio in flight.
unsafe fn flush_dcache(vec: *mut bindings::bio_vec) {
    // SAFETY: Guaranteed by the caller.
    let vec = unsafe { *vec };
    let pages = (vec.bv_offset as usize + vec.bv_len as usize).div_ceil(bindings::PAGE_SIZE);
    for i in 0..pages {
        // SAFETY: The entry covers that many consecutive pages.
        unsafe { bindings::rpmem_helper_flush_dcache_page(vec.bv_page.add(i)) };
    }
}

#[kernel::macros::kunit_tests(rpmem_bio)]
mod tests {
    use super::*;
    use crate::abstractions::{
        errno::eopnotsupp,
        kunit::{
            Ram,
            TestBio,
            FUA,
            PREFLUSH,
            READ,
            WRITE, //
        }, //
    };

    #[test]
    fn operations_and_flags_are_told_apart() -> Result {
        for (opf, write, preflush, fua) in [
            (READ, false, false, false),
            (WRITE, true, false, false),
            (WRITE | FUA, true, false, true),
            (WRITE | PREFLUSH, true, true, false),
            (WRITE | PREFLUSH | FUA, true, true, true),
        ] {
            let test = TestBio::new(opf, 77)?;
            let bio = test.submit();
            assert_eq!(
                (bio.is_write(), bio.is_preflush(), bio.is_fua()),
                (write, preflush, fua)
            );
            assert_eq!(bio.sector(), 77);
            assert_eq!(bio.len(), 0);
            bio.end(Ok(()));
        }
        Ok(())
    }

    /// Position, place in the memory, and length of each piece of the bio.
    fn pieces(bio: &Bio, ram: &Ram) -> Result<KVec<(usize, usize, usize)>> {
        let mut found = KVec::new();
        bio.for_each_segment(|done, segment| {
            let at = segment.as_ptr() as usize - ram.at(0) as usize;
            found.push((done, at, segment.len()), GFP_KERNEL)?;
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn segments_are_the_pieces_in_their_order() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        // The second one spans pages.
        test.add(&ram, 8192, 512);
        test.add(&ram, 1024, 6000);
        test.add(&ram, 0, 488);
        let bio = test.submit();
        assert_eq!(bio.len(), 7000);
        assert!(*pieces(&bio, &ram)? == [(0, 8192, 512), (512, 1024, 6000), (6512, 0, 488)]);
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn what_is_done_already_is_left_out() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        test.add(&ram, 8192, 512);
        test.add(&ram, 1024, 6144);
        test.add(&ram, 0, 512);
        test.advance(1024);
        let bio = test.submit();
        assert_eq!((bio.sector(), bio.len()), (2, 6144));
        assert!(*pieces(&bio, &ram)? == [(0, 1536, 5632), (5632, 0, 512)]);
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn the_first_failure_ends_the_walk() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        test.add(&ram, 8192, 512);
        test.add(&ram, 0, 512);
        let bio = test.submit();
        let mut calls = 0;
        let result = bio.for_each_segment(|_, _| {
            calls += 1;
            Err(ENXIO)
        });
        assert_eq!((result, calls), (Err(ENXIO), 1));
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn segments_are_split_without_loss() -> Result {
        let ram = Ram::new(0)?;
        let test = TestBio::new(READ, 0)?;
        test.add(&ram, 4096, 1000);
        let bio = test.submit();
        bio.for_each_segment(|_, mut segment| {
            let at = |segment: &Segment<'_>| segment.as_ptr() as usize - ram.at(0) as usize;
            let head = segment.split_to(600);
            assert_eq!((at(&head), head.len()), (4096, 600));
            assert_eq!((at(&segment), segment.len()), (4696, 400));
            let rest = segment.split_to(4096);
            assert_eq!((at(&rest), rest.len(), segment.len()), (4696, 400, 0));
            assert_eq!(segment.split_to(1).len(), 0);
            Ok(())
        })?;
        bio.end(Ok(()));
        Ok(())
    }

    #[test]
    fn results_reach_the_submitter() -> Result {
        for result in [Ok(()), Err(EIO), Err(eopnotsupp()), Err(ENOMEM)] {
            let test = TestBio::new(WRITE, 0)?;
            let bio = test.submit();
            assert_eq!(test.result(), None);
            bio.end(result);
            assert_eq!(test.result(), Some(result));
        }
        Ok(())
    }

    #[test]
    fn a_forgotten_bio_fails() -> Result {
        let test = TestBio::new(WRITE, 0)?;
        drop(test.submit());
        assert_eq!(test.result(), Some(Err(EIO)));
        Ok(())
    }

    #[test]
    fn a_bio_given_away_is_not_ended() -> Result {
        let test = TestBio::new(WRITE, 0)?;
        let raw = test.submit().into_raw();
        assert_eq!(test.result(), None);
        // SAFETY: Given up just now.
        unsafe { Bio::from_raw(raw) }.end(Ok(()));
        assert_eq!(test.result(), Some(Ok(())));
        Ok(())
    }
}
