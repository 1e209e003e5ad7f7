// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings, and what makes stores to each kind of them durable.

use crate::cache;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What a mapping can be: types without values, for the parameter of [`Map`].
///
/// The traits say what a kind can do. They are implemented here alone.
pub mod kind {
    /// A kind of mapping, any.
    pub trait Kind: sealed::Kind {}
    /// One that can be stored to: all but [`ReadOnly`].
    pub trait Write: Kind {}
    /// One whose stores are durable once they are out of the CPU caches: [`Sync`], [`Direct`].
    pub trait Synchronous: Write {}

    /// Durable after msync(2), on every device: [`Device::map_plain`](crate::Device::map_plain).
    #[derive(Debug)]
    pub enum Plain {}
    /// MAP_SYNC: durable after the cache lines have been written back. [`Device::map`](crate::Device::map).
    #[derive(Debug)]
    pub enum Sync {}
    /// MAP_DIRECT: as [`Sync`], and it holds a lease on the memory.
    /// [`Device::map_direct`](crate::Device::map_direct).
    #[derive(Debug)]
    pub enum Direct {}
    /// To be read alone: [`Device::map_read_only`](crate::Device::map_read_only).
    #[derive(Debug)]
    pub enum ReadOnly {}

    impl Kind for Plain {}
    impl Kind for Sync {}
    impl Kind for Direct {}
    impl Kind for ReadOnly {}
    impl Write for Plain {}
    impl Write for Sync {}
    impl Write for Direct {}
    impl Synchronous for Sync {}
    impl Synchronous for Direct {}

    pub(crate) mod sealed {
        pub trait Kind {
            const WRITE: bool = true;
        }
        impl Kind for super::Plain {}
        impl Kind for super::Sync {}
        impl Kind for super::Direct {}
        impl Kind for super::ReadOnly {
            const WRITE: bool = false;
        }
    }
}

use kind::{Direct, Kind, Plain, Sync as Synced, Synchronous, Write};

/// What made a mapping a direct one: [`Map::via`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The flag MAP_DIRECT: the kernel knows it.
    Flag,
    /// The direct window, as on any other kernel.
    Window,
}

/// Memory that can be made durable: for code that does not care how.
///
/// Offsets (`at`) and lengths are in bytes.
///
/// Each kind of [`Map`] that can be stored to is one; tests can have others, as those of the example
/// `append` do, in which power cuts are tried.
pub trait Memory {
    /// The length in bytes.
    fn size(&self) -> usize;

    /// Fills `bytes` from `at` on. Panics outside of the memory.
    fn load(&self, at: usize, bytes: &mut [u8]);

    /// Copies `bytes` to `at`: words of 8 bytes that are aligned at once, in order. Panics outside of the
    /// memory.
    fn store(&self, at: usize, bytes: &[u8]);

    /// Starts to make `len` bytes at `at` durable.
    ///
    /// # Errors
    ///
    /// Those of msync(2), for memory that needs it.
    fn flush(&self, at: usize, len: usize) -> io::Result<()>;

    /// Waits until what [`Memory::flush`] has started is done.
    ///
    /// # Errors
    ///
    /// Those of msync(2), for memory that needs it.
    fn drain(&self) -> io::Result<()>;

    /// Makes `len` bytes at `at` durable: [`Memory::flush`], and [`Memory::drain`].
    ///
    /// # Errors
    ///
    /// Those of msync(2), for memory that needs it. Nothing is known to be durable then.
    fn persist(&self, at: usize, len: usize) -> io::Result<()> {
        self.flush(at, len)?;
        self.drain()
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn size(&self) -> usize {
        (**self).size()
    }

    fn load(&self, at: usize, bytes: &mut [u8]) {
        (**self).load(at, bytes);
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        (**self).store(at, bytes);
    }

    fn flush(&self, at: usize, len: usize) -> io::Result<()> {
        (**self).flush(at, len)
    }

    fn drain(&self) -> io::Result<()> {
        (**self).drain()
    }
}

/// Mapped persistent memory; unmapped when dropped. The device stays claimed until then.
///
/// [`Device::map`](crate::Device::map) makes one, and its siblings others. Offsets (`at`) and lengths are in
/// bytes, from the start of the mapping.
///
/// Others may change the bytes at any time, so that there are no references to them: they are copied.
/// A page with a bad block, and a device that is taken away, end accesses in SIGBUS.
///
/// What kind of mapping it is stands in the type, since `persist` of another kind would do nothing:
///
/// ```compile_fail
/// fn no_flush_for_msync(map: &rpmem::Map<rpmem::kind::Plain>) {
///     map.flush(0, 8); // needs msync(2)
/// }
/// ```
#[derive(Debug)]
pub struct Map<K: Kind> {
    ptr: NonNull<u8>,
    len: usize,
    via: Option<Via>,
    /// Whether the lines have to be written back: what is in the caches is durable on some platforms.
    write_back: bool,
    kind: PhantomData<K>,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl<K: Kind> Send for Map<K> {}
// SAFETY: Bytes are copied in and out with volatile accesses; what threads do at the same time to the
// same bytes may tear, as with any shared memory.
unsafe impl<K: Kind> Sync for Map<K> {}

impl<K: Kind> Map<K> {
    pub(crate) fn new(file: &File, offset: u64, len: usize, flags: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let write = if K::WRITE { libc::PROT_WRITE } else { 0 };
        // SAFETY: The kernel chooses the address, so that nothing of this process is replaced.
        let ptr = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | write,
                flags,
                file.as_raw_fd(),
                offset,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ptr = NonNull::new(ptr.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            ptr,
            len,
            via: None,
            write_back: true,
            kind: PhantomData,
        })
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty; it is not.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, for code that does its own accesses.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// The length in whole pages, in bytes.
    pub(crate) fn pages(&self) -> usize {
        self.len.div_ceil(page()) * page()
    }

    fn check(&self, at: usize, len: usize) -> *mut u8 {
        assert!(
            at <= self.len && len <= self.len - at,
            "{len} bytes at {at} of a mapping of {}",
            self.len
        );
        // SAFETY: Inside of the mapping, checked just now.
        unsafe { self.ptr.as_ptr().add(at) }
    }

    /// Fills `bytes` from `at` on: words of 8 bytes that are aligned at once, in order.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn load(&self, at: usize, bytes: &mut [u8]) {
        let from = self.check(at, bytes.len());
        // SAFETY: Inside of the mapping, checked above, to which there are no references.
        unsafe { cache::load(from, bytes) };
    }

    /// Loads a number at once, in the byte order of the machine.
    ///
    /// # Panics
    ///
    /// If `at` is not a multiple of 8, or it is not inside.
    pub fn load_u64(&self, at: usize) -> u64 {
        assert!(at % 8 == 0, "{at} is not a multiple of 8");
        // SAFETY: Inside of the mapping, checked by `check`; a mapping starts at a page.
        unsafe { self.check(at, 8).cast::<u64>().read_volatile() }
    }
}

impl<K: Write> Map<K> {
    /// As [`Map::as_ptr`], to store to. What is stored is durable as with [`Map::store`].
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Copies `bytes` to `at`: words of 8 bytes that are aligned at once, in order. They are durable after
    /// `persist`, and may be before.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn store(&self, at: usize, bytes: &[u8]) {
        let to = self.check(at, bytes.len());
        // SAFETY: Inside of the mapping, checked above, to which there are no references.
        unsafe { cache::store(to, bytes) };
    }

    /// Stores a number at once, in the byte order of the machine: after a power cut it is the old or the new
    /// one.
    ///
    /// # Panics
    ///
    /// If `at` is not a multiple of 8, or it does not fit.
    pub fn store_u64(&self, at: usize, value: u64) {
        assert!(at % 8 == 0, "{at} is not a multiple of 8");
        // SAFETY: Inside of the mapping, checked by `check`; a mapping starts at a page.
        unsafe { self.check(at, 8).cast::<u64>().write_volatile(value) };
    }

    fn msync(&self, at: usize, len: usize) -> io::Result<()> {
        let first = self.check(at, len);
        let before = first as usize % page();
        // SAFETY: Pages of this mapping: it starts at one.
        match unsafe {
            libc::msync(
                first.wrapping_sub(before).cast(),
                before + len,
                libc::MS_SYNC,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Map<Plain> {
    /// Makes `len` bytes at `at` durable by msync(2), with all else in their pages.
    ///
    /// # Errors
    ///
    /// EIO if the device has gone.
    ///
    /// # Panics
    ///
    /// If they are not in the mapping.
    pub fn persist(&self, at: usize, len: usize) -> io::Result<()> {
        self.msync(at, len)
    }
}

impl<K: Synchronous> Map<K> {
    pub(crate) fn writing_back(mut self, write_back: bool) -> Self {
        self.write_back = write_back;
        self
    }

    /// Starts to write `len` bytes at `at` back from the CPU caches; [`Map::drain`] waits for it. Where
    /// the caches are durable ([`Domain::CpuCache`](crate::Domain::CpuCache)) there is nothing to do.
    ///
    /// # Panics
    ///
    /// If they are not in the mapping.
    pub fn flush(&self, at: usize, len: usize) {
        let from = self.check(at, len);
        if self.write_back {
            // SAFETY: Inside of the mapping, checked above.
            unsafe { cache::flush_ptr(from, len) };
        }
    }

    /// Waits until what [`Map::flush`] and [`Map::copy_from_slice`] of this thread have started is done,
    /// for all mappings.
    pub fn drain(&self) {
        cache::drain();
    }

    /// Makes `len` bytes at `at` durable, without a system call: [`Map::flush`], and [`Map::drain`].
    ///
    /// # Panics
    ///
    /// If they are not in the mapping.
    pub fn persist(&self, at: usize, len: usize) {
        self.flush(at, len);
        self.drain();
    }

    /// As [`Map::store`] and [`Map::flush`] in one, and faster for much: [`cache::NON_TEMPORAL`].
    /// [`Map::drain`] waits for it.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn copy_from_slice(&self, at: usize, bytes: &[u8]) {
        let to = self.check(at, bytes.len());
        // SAFETY: Inside of the mapping, checked above, to which there are no references.
        unsafe {
            if self.write_back {
                cache::copy(to, bytes);
            } else {
                cache::store(to, bytes);
            }
        }
    }
}

impl Map<Direct> {
    pub(crate) fn made_by(mut self, via: Via) -> Self {
        self.via = Some(via);
        self
    }

    /// What made it a direct mapping.
    pub fn via(&self) -> Via {
        self.via.unwrap_or(Via::Window)
    }
}

impl<K: Kind> Drop for Map<K> {
    fn drop(&mut self) {
        // SAFETY: Mapped by `new`, and unmapped once.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

impl Memory for Map<Plain> {
    fn size(&self) -> usize {
        self.len
    }

    fn load(&self, at: usize, bytes: &mut [u8]) {
        Map::load(self, at, bytes);
    }

    fn store(&self, at: usize, bytes: &[u8]) {
        Map::store(self, at, bytes);
    }

    fn flush(&self, at: usize, len: usize) -> io::Result<()> {
        self.persist(at, len)
    }

    fn drain(&self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! synchronous_memory {
    ($($kind:ty),*) => {$(
        impl Memory for Map<$kind> {
            fn size(&self) -> usize {
                self.len
            }

            fn load(&self, at: usize, bytes: &mut [u8]) {
                Map::load(self, at, bytes);
            }

            fn store(&self, at: usize, bytes: &[u8]) {
                Map::store(self, at, bytes);
            }

            fn flush(&self, at: usize, len: usize) -> io::Result<()> {
                Map::flush(self, at, len);
                Ok(())
            }

            fn drain(&self) -> io::Result<()> {
                Map::drain(self);
                Ok(())
            }
        }
    )*};
}

synchronous_memory!(Synced, Direct);

/// Bytes of a page.
fn page() -> usize {
    // SAFETY: No conditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}
