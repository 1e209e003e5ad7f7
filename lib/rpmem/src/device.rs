// SPDX-License-Identifier: MIT OR Apache-2.0
//! The device node: what it is, its mappings, its lease.

use crate::kind::{self, Kind};
use crate::map::{Map, Via};
use core::mem::size_of;
use core::time::Duration;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// Offset at which the bytes of a device appear a second time, for direct mappings.
pub const DIRECT_WINDOW: u64 = 1 << 60;

/// `MAP_DIRECT`, where its bit is free: Rust knows no machine on which it is not.
const MAP_DIRECT: i32 = 0x20_0000;

const INFO: u64 = 0xbd00;
const PREFAULT: u64 = 0xbd01;
const LEASE: u64 = 0xbd02;

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

/// `struct rpmem_lease`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RawLease {
    argsz: u32,
    state: u32,
    breaks: u32,
    reserved: u32,
    left: i64,
    holders: u64,
}

/// What a device is: [`Device::info`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Bytes that can be mapped.
    pub size: u64,
    /// The largest entry that a mapping can have, in bytes.
    pub huge_page: u64,
    /// Whether [`Device::map`] works: stores are durable once they are out of the CPU caches. Where it
    /// does not, as on virtio-pmem, there is [`Device::map_plain`].
    pub synchronous: bool,
    /// Whether there are struct pages.
    pub page_backed: bool,
    /// Whether mappings can be pinned, as O_DIRECT, io_uring and RDMA do: devdax mode.
    pub pinnable: bool,
}

/// How far the platform itself takes what has been stored when the power fails, as the kernel says in
/// `persistence_domain` of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Domain {
    /// From the CPU caches on: eADR. Nothing has to be written back; a fence will do.
    CpuCache,
    /// From the memory controller on: ADR.
    MemoryController,
    /// The platform does not say. Cache lines are written back.
    Unknown,
}

/// What is going on with the memory of a device: a part of [`Lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// Nothing.
    Held,
    /// It goes away: let go of direct mappings in time.
    Remove,
    /// It becomes read-only: let go of direct mappings that can be stored to.
    ReadOnly,
    /// It has gone, for good. The device may be back under the same name: open it again.
    Broken,
}

/// The lease that direct mappings hold: [`Device::lease`], [`Device::wait_for_notice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// What is going on.
    pub state: LeaseState,
    /// How often notice was given since the namespace was bound.
    pub breaks: u32,
    /// How long direct mappings are left to their holders; [`None`]: for ever. Zero if they are not to
    /// be taken.
    pub left: Option<Duration>,
    /// Direct mappings, and users in the kernel.
    pub holders: u64,
}

/// An open device: `/dev/rpmemN`.
///
/// The node belongs to root, and with the package rpmem-tools to the group disk. As long as the device is open
/// or mapped nobody else gets its disk, `/dev/pmemN`: mount and mkfs are refused. Mappings outlive it.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// use rpmem::{Device, Memory};
///
/// let device = Device::open("/dev/rpmem0")?;
/// let info = device.info()?;
/// println!("{} bytes", info.size);
/// // Whatever the device can: virtio-pmem has plain mappings alone.
/// let memory: Box<dyn Memory> = match info.synchronous {
///     true => Box::new(device.map(0, 1 << 20)?),
///     false => Box::new(device.map_plain(0, 1 << 20)?),
/// };
/// memory.store(0, b"hello");
/// memory.persist(0, 5)?;
/// # Ok(())
/// # }
/// ```
///
/// It is a descriptor, too, for poll(2), epoll and async runtimes: [`Device::wait_for_notice`] says for
/// which event.
#[derive(Debug)]
pub struct Device {
    file: File,
    domain: Domain,
}

impl Device {
    /// Opens a device to be read and stored to, and so claims its disk.
    ///
    /// # Errors
    ///
    /// EBUSY if the disk is mounted or held by somebody else; EROFS if it is read-only; ENXIO if the device
    /// has gone; the other ones of open(2). A file of another kind is opened, and refused later: see
    /// [`Device::info`].
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self::from(file))
    }

    /// Opens a device to be read alone: [`Device::map_read_only`]. That claims its disk as well.
    ///
    /// # Errors
    ///
    /// Those of [`Device::open`], but for EROFS.
    pub fn open_read_only(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::from(File::open(path)?))
    }

    /// What it is.
    ///
    /// # Errors
    ///
    /// ENOTTY if it is no such device, but a file of another kind.
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

    /// How far the platform takes what has been stored. Synchronous mappings heed it: nothing is written back
    /// where that is not needed.
    pub fn persistence_domain(&self) -> Domain {
        self.domain
    }

    /// Maps `len` bytes at `offset` synchronously (MAP_SYNC): [`Map::persist`](Map#method.persist-1) makes
    /// stores durable without a system call.
    ///
    /// `offset` is a multiple of the page size; `len` is not zero, and otherwise as you like.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP if the device is not synchronous: use [`Device::map_plain`]. EINVAL for a range that
    /// is not on the device. EACCES if it was opened to be read alone, or became read-only. ENXIO if it has
    /// gone.
    pub fn map(&self, offset: u64, len: usize) -> io::Result<Map<kind::Sync>> {
        let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
        let map = Map::new(&self.file, on_device(offset)?, len, flags)?;
        Ok(map.writing_back(self.domain != Domain::CpuCache))
    }

    /// As [`Device::map`], and direct: with the flag MAP_DIRECT, or in the direct window on a kernel
    /// that does not know it. [`Map::via`] says which. An offset may also be one of that window.
    ///
    /// # Errors
    ///
    /// Those of [`Device::map`]. EBUSY while direct mappings are being taken back. EOPNOTSUPP also for what is no such
    /// device, and for a program of 32 bits on a kernel that does not know the flag: it cannot name
    /// offsets of the window.
    pub fn map_direct(&self, offset: u64, len: usize) -> io::Result<Map<kind::Direct>> {
        let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
        let write_back = self.domain != Domain::CpuCache;
        let made = |map: Map<kind::Direct>, via| map.made_by(via).writing_back(write_back);
        let unsupported = match Map::new(&self.file, offset, len, flags | MAP_DIRECT) {
            Ok(map) => return Ok(made(map, Via::Flag)),
            Err(err) if err.raw_os_error() == Some(libc::EOPNOTSUPP) => err,
            Err(err) => return Err(err),
        };
        let offset = offset.checked_sub(DIRECT_WINDOW).unwrap_or(offset);
        if !self.has_window(offset) {
            return Err(unsupported);
        }
        let map = Map::new(&self.file, DIRECT_WINDOW + offset, len, flags)?;
        Ok(made(map, Via::Window))
    }

    /// Whether the bytes from `offset` on are in the direct window as well.
    fn has_window(&self, offset: u64) -> bool {
        cfg!(target_pointer_width = "64") && self.info().is_ok_and(|info| offset < info.size)
    }

    /// Maps such that msync(2), which is what [`Map::persist`](Map#method.persist) is then, makes stores
    /// durable: on every device. Takes what [`Device::map`] takes.
    ///
    /// # Errors
    ///
    /// Those of [`Device::map`], but for EOPNOTSUPP.
    pub fn map_plain(&self, offset: u64, len: usize) -> io::Result<Map<kind::Plain>> {
        Map::new(&self.file, on_device(offset)?, len, libc::MAP_SHARED)
    }

    /// Maps to be read alone, on every device and however it was opened. Takes what [`Device::map`] takes.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not on the device. ENXIO if it has gone.
    pub fn map_read_only(&self, offset: u64, len: usize) -> io::Result<Map<kind::ReadOnly>> {
        Map::new(&self.file, on_device(offset)?, len, libc::MAP_SHARED)
    }

    /// Maps the pages of a mapping of this device ahead of any access, for stores if it can be stored to.
    /// Gives the number of bytes for which that was done, in whole pages.
    ///
    /// # Errors
    ///
    /// If it was not done for a single page: EHWPOISON at a bad one, EINVAL if the mapping is not of
    /// this device.
    pub fn prefault<K: Kind>(&self, map: &Map<K>) -> io::Result<usize> {
        let mut raw = RawPrefault {
            argsz: size_of::<RawPrefault>() as u32,
            flags: K::WRITE.into(),
            addr: map.as_ptr() as u64,
            len: map.pages() as u64,
            done: 0,
        };
        match self.ioctl(PREFAULT, &mut raw) {
            Err(err) if raw.done == 0 => Err(err),
            _ => Ok(raw.done as usize),
        }
    }

    /// The state of the lease that direct mappings hold.
    ///
    /// # Errors
    ///
    /// ENOTTY if it is no such device.
    pub fn lease(&self) -> io::Result<Lease> {
        let mut raw = RawLease {
            argsz: size_of::<RawLease>() as u32,
            ..Default::default()
        };
        self.ioctl(LEASE, &mut raw)?;
        Ok(Lease {
            state: match raw.state {
                0 => LeaseState::Held,
                1 => LeaseState::Remove,
                2 => LeaseState::ReadOnly,
                _ => LeaseState::Broken,
            },
            breaks: raw.breaks,
            left: u64::try_from(raw.left).ok().map(Duration::from_millis),
            holders: raw.holders,
        })
    }

    /// Waits for notice: until the lease is being broken, or has been. [`None`] if that does not happen
    /// within `timeout`; without one it waits for ever. While a break goes on it returns at once.
    ///
    /// To wait in an event loop, watch the descriptor ([`AsFd`]) for POLLPRI (EPOLLPRI; tokio's
    /// `Interest::PRIORITY`), and for nothing else, as the file always counts as readable and writable.
    /// Then ask [`Device::lease`].
    ///
    /// # Errors
    ///
    /// ENOTTY if it is no such device; those of poll(2), but for EINTR.
    pub fn wait_for_notice(&self, timeout: Option<Duration>) -> io::Result<Option<Lease>> {
        // A file of another kind would never say so, or say other things by it.
        self.lease()?;
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let ms = left.map_or(-1, |left| {
                let ms = left.as_nanos().div_ceil(1_000_000);
                i32::try_from(ms).unwrap_or(i32::MAX)
            });
            let mut event = libc::pollfd {
                fd: self.file.as_raw_fd(),
                events: libc::POLLPRI,
                revents: 0,
            };
            // SAFETY: One structure, which lives through the call.
            match unsafe { libc::poll(&mut event, 1, ms) } {
                1.. => return self.lease().map(Some),
                0 if left.is_some_and(|left| left.as_millis() <= ms as u128) => return Ok(None),
                0 => {}
                _ => {
                    let err = io::Error::last_os_error();
                    if err.kind() != io::ErrorKind::Interrupted {
                        return Err(err);
                    }
                }
            }
        }
    }

    fn ioctl<T>(&self, request: u64, arg: &mut T) -> io::Result<()> {
        // SAFETY: The structure is the one that the request stands for, and says its size.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request as _, arg as *mut T) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl From<File> for Device {
    /// A file that is open already, as one that was handed over. Whether it is such a device,
    /// [`Device::info`] says.
    fn from(file: File) -> Self {
        let domain = domain_of(&file).unwrap_or(Domain::Unknown);
        Self { file, domain }
    }
}

impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// In the direct window a mapping is direct without asking for it, whatever its type would say.
fn on_device(offset: u64) -> io::Result<u64> {
    match offset < DIRECT_WINDOW {
        true => Ok(offset),
        false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

/// What the region says, in which the device is somewhere.
fn domain_of(file: &File) -> Option<Domain> {
    let rdev = file.metadata().ok()?.rdev();
    // Newer versions of libc know that they are safe.
    #[allow(unused_unsafe)]
    // SAFETY: No conditions.
    let (major, minor) = unsafe { (libc::major(rdev), libc::minor(rdev)) };
    let device = std::fs::canonicalize(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    let domain = device
        .ancestors()
        .find_map(|dir| std::fs::read_to_string(dir.join("persistence_domain")).ok())?;
    Some(match domain.trim() {
        "cpu_cache" => Domain::CpuCache,
        "memory_controller" => Domain::MemoryController,
        _ => Domain::Unknown,
    })
}

// Miri knows no mappings of files.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    fn file(len: u64) -> Device {
        let path = std::env::temp_dir().join(format!("rpmem-test-{}-{len}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(len).unwrap();
        Device::from(file)
    }

    #[test]
    fn stores_are_loaded() {
        let device = file(8192 + 512);
        let map = device.map_plain(4096, 4096).unwrap();
        map.store(1, b"hello");
        map.store_u64(8, 0x0102_0304_0506_0708);
        map.persist(5, 10).unwrap();
        let mut bytes = [0; 7];
        map.load(0, &mut bytes);
        assert_eq!(&bytes, b"\0hello\0");
        assert_eq!(map.load_u64(8), 0x0102_0304_0506_0708);
        let again = device.map_read_only(0, 8192).unwrap();
        assert_eq!(again.load_u64(4096 + 8), 0x0102_0304_0506_0708);
        assert_eq!((map.len(), map.is_empty()), (4096, false));
    }

    /// What is true of the medium is not of a file; the instructions are the same.
    #[test]
    fn kinds_store_alike() {
        let device = file(8192 + 1024);
        for write_back in [true, false] {
            let flags = libc::MAP_SHARED;
            let map: Map<kind::Sync> = Map::new(&device.file, 0, 8192, flags).unwrap();
            let map = map.writing_back(write_back);
            for len in [1, 100, 1000] {
                let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
                map.copy_from_slice(4090, &bytes);
                map.drain();
                map.persist(0, 1);
                let mut back = vec![0; len];
                map.load(4090, &mut back);
                assert_eq!(back, bytes);
            }
        }
    }

    #[test]
    #[should_panic(expected = "4 bytes at 4093")]
    fn the_end_is_the_end() {
        file(4096).map_plain(0, 4096).unwrap().store(4093, b"four");
    }

    #[test]
    #[should_panic(expected = "at 18446744073709551615")]
    fn offsets_do_not_wrap() {
        let map = file(4096 + 1).map_plain(0, 4096).unwrap();
        map.load(usize::MAX, &mut [0; 2]);
    }

    #[test]
    fn other_files_are_refused() {
        fn errno<T>(got: io::Result<T>) -> Option<i32> {
            got.err().and_then(|err| err.raw_os_error())
        }
        let device = file(4096 + 2);
        assert_eq!(device.persistence_domain(), Domain::Unknown);
        assert_eq!(errno(device.info()), Some(libc::ENOTTY));
        assert_eq!(errno(device.lease()), Some(libc::ENOTTY));
        assert_eq!(errno(device.wait_for_notice(None)), Some(libc::ENOTTY));
        let map = device.map_plain(0, 4096).unwrap();
        assert_eq!(errno(device.prefault(&map)), Some(libc::ENOTTY));
        assert!(device.map(0, 4096).is_err());
        assert!(device.map_direct(u64::MAX, 4096).is_err());
        // Not in the window of a file that has none, at an offset that it could have.
        for offset in [0, 4096, DIRECT_WINDOW] {
            let got = errno(device.map_direct(offset, 4096));
            assert_eq!(got, Some(libc::EOPNOTSUPP), "{offset:#x}");
        }
        for offset in [DIRECT_WINDOW, u64::MAX] {
            assert_eq!(errno(device.map(offset, 4096)), Some(libc::EINVAL));
            assert_eq!(errno(device.map_plain(offset, 4096)), Some(libc::EINVAL));
            assert_eq!(errno(device.map_read_only(offset, 1)), Some(libc::EINVAL));
        }
    }
}
