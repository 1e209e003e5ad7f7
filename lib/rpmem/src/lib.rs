// SPDX-License-Identifier: MIT OR Apache-2.0
//! Persistent memory through `/dev/rpmemN`: map it, store to it, make it durable.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! let device = rpmem::Device::open("/dev/rpmem0")?;
//! let map = device.map(0, 1 << 20)?;
//! map.store(0, b"hello");
//! map.persist(0, 5); // durable, without a system call
//! # Ok(())
//! # }
//! ```
//!
//! `Documentation/mmap.md` is the contract of the device. A page with a bad block, and a device that is
//! taken away, end accesses in SIGBUS.

#![warn(missing_docs)]

mod cache;

pub use cache::Instruction;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;

/// Offset at which the bytes of a device appear a second time, for direct mappings.
pub const DIRECT_WINDOW: u64 = 1 << 60;

/// `MAP_DIRECT`, where its bit is free: Rust knows no machine on which it is not.
const MAP_DIRECT: i32 = 0x20_0000;

const PREFAULT: u64 = 0xbd01;
const INFO: u64 = 0xbd00;

/// `struct rpmem_info`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RawInfo {
    argsz: u32,
    flags: u32,
    size: u64,
    huge_page: u64,
    reserved: u64,
}

/// `struct rpmem_prefault`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RawPrefault {
    argsz: u32,
    flags: u32,
    addr: u64,
    len: u64,
    done: u64,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bytes that can be mapped.
    pub size: u64,
    /// The largest entry that a mapping can have, in bytes.
    pub huge_page: u64,
    /// Whether [`Device::map`] works: stores are durable once they are out of the CPU caches.
    pub synchronous: bool,
    /// Whether there are struct pages.
    pub page_backed: bool,
    /// Whether mappings can be pinned, as O_DIRECT, io_uring and RDMA do: devdax mode.
    pub pinnable: bool,
}

/// What made a mapping a direct one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The flag MAP_DIRECT: the kernel knows it.
    Flag,
    /// The direct window, as on any other kernel.
    Window,
}

/// An open device, readable and writable.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens a device, and so claims its disk.
    ///
    /// # Errors
    ///
    /// EBUSY if the disk is mounted or held; EROFS if it is read-only; those of open(2).
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self(file))
    }

    /// What it is.
    ///
    /// # Errors
    ///
    /// ENOTTY if it is no such device.
    pub fn info(&self) -> io::Result<Info> {
        let mut raw = RawInfo {
            argsz: size_of::<RawInfo>() as u32,
            ..Default::default()
        };
        self.ioctl(INFO, &mut raw)?;
        Ok(Info {
            size: raw.size,
            huge_page: raw.huge_page,
            synchronous: raw.flags & 1 != 0,
            page_backed: raw.flags & 2 != 0,
            pinnable: raw.flags & 4 != 0,
        })
    }

    /// Maps `len` bytes at `offset`, a multiple of the page size, synchronously:
    /// [`Map::persist`] makes stores durable.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP if the device is not synchronous: use [`Device::map_plain`]. EINVAL for a range that
    /// is not on the device.
    pub fn map(&self, offset: u64, len: usize) -> io::Result<Map> {
        let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
        self.map_at(offset, len, flags)
    }

    /// As the kernel has it: in the direct window, a mapping is direct without asking for it.
    fn map_at(&self, offset: u64, len: usize, flags: i32) -> io::Result<Map> {
        let map = Map::new(&self.0, offset, len, flags)?;
        let window = offset.checked_sub(DIRECT_WINDOW);
        let direct = window.is_some_and(|offset| self.has_window(offset));
        Ok(map.made_by(direct.then_some(Via::Window)))
    }

    /// As [`Device::map`], and direct: with the flag MAP_DIRECT, or in the direct window on a kernel
    /// that does not know it. [`Map::via`] says which. An offset may also be one of that window.
    ///
    /// # Errors
    ///
    /// As above. EOPNOTSUPP also for what is no such device, and for a program of 32 bits on a kernel
    /// that does not know the flag: it cannot name offsets of the window.
    pub fn map_direct(&self, offset: u64, len: usize) -> io::Result<Map> {
        let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
        let unsupported = match Map::new(&self.0, offset, len, flags | MAP_DIRECT) {
            Ok(map) => return Ok(map.made_by(Some(Via::Flag))),
            Err(err) if err.raw_os_error() == Some(libc::EOPNOTSUPP) => err,
            Err(err) => return Err(err),
        };
        let offset = offset.checked_sub(DIRECT_WINDOW).unwrap_or(offset);
        if !self.has_window(offset) {
            return Err(unsupported);
        }
        let map = Map::new(&self.0, DIRECT_WINDOW + offset, len, flags)?;
        Ok(map.made_by(Some(Via::Window)))
    }

    /// Whether the bytes from `offset` on are in the direct window as well.
    fn has_window(&self, offset: u64) -> bool {
        cfg!(target_pointer_width = "64") && self.info().is_ok_and(|info| offset < info.size)
    }

    /// Maps such that [`Map::sync`] makes stores durable.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not on the device.
    pub fn map_plain(&self, offset: u64, len: usize) -> io::Result<Map> {
        self.map_at(offset, len, libc::MAP_SHARED)
    }

    /// Maps the pages of a mapping of this device ahead of any access, for stores. Gives the number
    /// of bytes for which that was done.
    ///
    /// # Errors
    ///
    /// If it was not done for a single page: EHWPOISON at a bad one, EINVAL if the mapping is not of
    /// this device.
    pub fn prefault(&self, map: &Map) -> io::Result<usize> {
        let mut raw = RawPrefault {
            argsz: size_of::<RawPrefault>() as u32,
            flags: 1,
            addr: map.ptr.as_ptr() as u64,
            len: map.pages() as u64,
            done: 0,
        };
        match self.ioctl(PREFAULT, &mut raw) {
            Err(err) if raw.done == 0 => Err(err),
            _ => Ok(raw.done as usize),
        }
    }

    fn ioctl<T>(&self, request: u64, arg: &mut T) -> io::Result<()> {
        // SAFETY: The structure is the one that the request stands for, and says its size.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, std::ptr::from_mut(arg)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Mapped persistent memory; unmapped when dropped. The device stays claimed until then.
///
/// Others may change the bytes at any time, so that there are no references to them: they are copied.
#[derive(Debug)]
pub struct Map {
    ptr: NonNull<u8>,
    len: usize,
    via: Option<Via>,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for Map {}
// SAFETY: Bytes are copied in and out with volatile accesses; what threads do at the same time to the
// same bytes may tear, as with any shared memory.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &File, offset: u64, len: usize, flags: i32) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset)
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        // SAFETY: The kernel chooses the address, so that nothing of this process is replaced.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
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
        })
    }

    fn made_by(mut self, via: Option<Via>) -> Self {
        self.via = via;
        self
    }

    /// What made it a direct mapping, if it is one.
    pub fn via(&self) -> Option<Via> {
        self.via
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
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The length in whole pages, in bytes.
    fn pages(&self) -> usize {
        // SAFETY: No conditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        self.len.next_multiple_of(page as usize)
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

    /// Copies `bytes` to `at`.
    ///
    /// # Panics
    ///
    /// If they do not fit.
    pub fn store(&self, at: usize, bytes: &[u8]) {
        let to = self.check(at, bytes.len());
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: Inside of the mapping, checked above.
            unsafe { to.add(i).write_volatile(*byte) };
        }
    }

    /// Fills `bytes` from `at` on.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    pub fn load(&self, at: usize, bytes: &mut [u8]) {
        let from = self.check(at, bytes.len());
        for (i, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: Inside of the mapping, checked above.
            *byte = unsafe { from.add(i).read_volatile() };
        }
    }

    /// Stores a number at once, not byte by byte: after a power cut it is the old or the new one.
    ///
    /// # Panics
    ///
    /// If `at` is not a multiple of 8, or it does not fit.
    pub fn store_u64(&self, at: usize, value: u64) {
        assert!(at % 8 == 0, "{at} is not a multiple of 8");
        // SAFETY: Inside of the mapping, checked by `check`; a mapping starts at a page.
        unsafe { self.check(at, 8).cast::<u64>().write_volatile(value) };
    }

    /// Loads a number at once.
    ///
    /// # Panics
    ///
    /// As above.
    pub fn load_u64(&self, at: usize) -> u64 {
        assert!(at % 8 == 0, "{at} is not a multiple of 8");
        // SAFETY: As above.
        unsafe { self.check(at, 8).cast::<u64>().read_volatile() }
    }

    /// Starts to write `len` bytes at `at` back from the CPU caches; [`drain`] waits for it.
    ///
    /// # Panics
    ///
    /// If they are not in the mapping.
    pub fn flush(&self, at: usize, len: usize) {
        cache::write_back(self.check(at, len), len);
    }

    /// Makes `len` bytes at `at` of a synchronous mapping durable.
    ///
    /// # Panics
    ///
    /// As above.
    pub fn persist(&self, at: usize, len: usize) {
        self.flush(at, len);
        drain();
    }

    /// Makes all stores to the mapping durable by msync(2), of whatever kind it is.
    ///
    /// # Errors
    ///
    /// EIO if the device has gone.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: The range is this mapping.
        match unsafe { libc::msync(self.ptr.as_ptr().cast(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: Mapped by `new`, and unmapped once.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

/// Makes stores to memory durable that is mapped synchronously, by whatever means.
pub fn persist(memory: &[u8]) {
    cache::write_back(memory.as_ptr().cast_mut(), memory.len());
    drain();
}

/// Waits until what [`Map::flush`] has started is done.
pub fn drain() {
    cache::fence();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64) -> File {
        let path = std::env::temp_dir().join(format!("rpmem-test-{}-{len}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn stores_are_loaded() {
        let device = Device(file(8192));
        let map = device.map_plain(4096, 4096).unwrap();
        map.store(1, b"hello");
        map.store_u64(8, 0x0102_0304_0506_0708);
        map.persist(0, 4096);
        map.sync().unwrap();
        let mut bytes = [0; 7];
        map.load(0, &mut bytes);
        assert_eq!(&bytes, b"\0hello\0");
        assert_eq!(map.load_u64(8), 0x0102_0304_0506_0708);
        let again = device.map_plain(0, 8192).unwrap();
        assert_eq!(again.load_u64(4096 + 8), 0x0102_0304_0506_0708);
        assert_eq!((map.len(), map.is_empty()), (4096, false));
    }

    #[test]
    #[should_panic(expected = "4 bytes at 4093")]
    fn the_end_is_the_end() {
        Device(file(4096))
            .map_plain(0, 4096)
            .unwrap()
            .store(4093, b"four");
    }

    #[test]
    fn other_files_are_refused() {
        let device = Device(file(4096));
        let errno = |err: io::Error| err.raw_os_error();
        assert_eq!(device.info().map_err(errno), Err(Some(libc::ENOTTY)));
        let map = device.map_plain(0, 4096).unwrap();
        assert_eq!(
            device.prefault(&map).map_err(errno),
            Err(Some(libc::ENOTTY))
        );
        assert!(device.map(0, 4096).is_err());
        assert!(device.map_direct(u64::MAX, 4096).is_err());
        // Not in the window of a file that has none, at an offset that it could have.
        for offset in [0, 4096, DIRECT_WINDOW] {
            let got = device.map_direct(offset, 4096).map(|_| ()).map_err(errno);
            assert_eq!(got, Err(Some(libc::EOPNOTSUPP)), "{offset:#x}");
        }
        assert_eq!(device.map_plain(0, 4096).unwrap().via(), None);
        let far = device.map_plain(DIRECT_WINDOW, 4096).unwrap();
        assert_eq!(far.via(), None);
    }
}
