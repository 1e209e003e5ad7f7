// SPDX-License-Identifier: GPL-2.0

//! What the KUnit tests of this module share: memory, devices and a libnvdimm bus to try things
//! on, and the tests that compare constants and layouts with C.
//!
//! C side: `src/c/kunit.c`. A test that fails is stopped without running destructors: what it had
//! made stays behind, on a kernel that is there for tests.

use super::{
    badblocks::Badblocks,
    bio::{
        Bio,
        Segment, //
    },
    block::{
        GenDisk,
        Limits,
        NewDisk,
        Operations, //
    },
    compat,
    dax::Source,
    file_operations,
    memremap::Mapping,
    resource::MemRegion, //
};
use crate::{
    bindings,
    logic::{
        geometry::Pfn,
        info_block, //
    }, //
};
use core::ptr::NonNull;
use kernel::{
    device::{
        Core,
        Device, //
    },
    error::to_result,
    faux,
    ffi::{
        c_ulong,
        c_void, //
    },
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
    ThisModule, //
};

/// Operations and flags of a bio.
pub(crate) const READ: u32 = bindings::req_op_REQ_OP_READ;
pub(crate) const WRITE: u32 = bindings::REQ_OP_WRITE;
pub(crate) const FUA: u32 = bindings::REQ_FUA;
pub(crate) const PREFLUSH: u32 = bindings::REQ_PREFLUSH;

/// The length of [`Ram`] in bytes.
pub(crate) const RAM_SIZE: usize = 16384;

/// Physically contiguous, page-aligned system memory: what tests map in place of an NVDIMM.
pub(crate) struct Ram(KBox<[u8; RAM_SIZE]>);

impl Ram {
    /// Memory full of `fill`.
    pub(crate) fn new(fill: u8) -> Result<Self> {
        let mut ram = KBox::init(pin_init::init_zeroed::<[u8; RAM_SIZE]>(), GFP_KERNEL)?;
        ram.fill(fill);
        Ok(Self(ram))
    }

    /// The physical address of the first byte. `kmalloc()` aligns powers of two naturally.
    pub(crate) fn phys(&self) -> u64 {
        // SAFETY: The address is of memory in the linear map.
        unsafe { bindings::rpmem_kunit_virt_to_phys(self.0.as_ptr().cast()) }
    }

    /// A mapping of all of the memory. It must not outlive `self`.
    pub(crate) fn map(&self) -> Result<Mapping> {
        Mapping::remap(self.phys(), RAM_SIZE)
    }

    /// The `N` bytes from `at` on, as they are now: others may have written them.
    pub(crate) fn peek<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at <= RAM_SIZE - N);
        // SAFETY: The bytes are in the allocation, and an array of bytes has no alignment. Nobody
        // writes while a test looks.
        unsafe { self.0.as_ptr().add(at).cast::<[u8; N]>().read_volatile() }
    }

    /// Whether the bytes from `from` to `to` (exclusive) all are `byte`.
    pub(crate) fn is(&self, from: usize, to: usize, byte: u8) -> bool {
        (from..to).all(|at| self.peek::<1>(at) == [byte])
    }

    /// The address of the byte at `at`, for the block layer.
    pub(super) fn at(&self, at: usize) -> *mut kernel::ffi::c_void {
        assert!(at < RAM_SIZE);
        self.0.as_ptr().wrapping_add(at).cast_mut().cast()
    }
}

/// Claims `len` bytes of physical address space where nothing is, far above memory and NVDIMMs.
pub(crate) fn claim_nothing(len: u64, name: &CStr) -> Result<(u64, MemRegion)> {
    for gib in 64..128 {
        let start = gib << 30;
        if let Ok(claim) = MemRegion::request(start, len, name) {
            return Ok((start, claim));
        }
    }
    Err(EBUSY)
}

/// A device of the test's own. Its name is not that of any other, so that a test that has failed
/// does not stand in the way of the next.
pub(crate) struct TestDevice(faux::Registration);

impl TestDevice {
    pub(crate) fn new() -> Result<Self> {
        Self::child_of(None)
    }

    fn child_of(parent: Option<&Device>) -> Result<Self> {
        static COUNT: Atomic<i32> = Atomic::new(0);

        let number = COUNT.fetch_add(1, Relaxed);
        let name = CString::try_from_fmt(fmt!("rpmem-kunit.{number}"))?;
        Ok(Self(faux::Registration::new(&name, parent)?))
    }

    fn device(&self) -> &Device {
        compat::faux_device(&self.0)
    }

    pub(crate) fn name(&self) -> &CStr {
        self.device().name()
    }

    /// The device as it is in the callbacks of a driver.
    pub(crate) fn core(&self) -> &Device<Core<'_>> {
        let dev = self.device();
        // CAST: The context is a marker; the layout is the same.
        // SAFETY: A faux device is bound from its registration to its end, and nobody but the test
        // knows this one, so that it has the device to itself as a driver's callback has.
        unsafe { &*core::ptr::from_ref(dev).cast() }
    }

    pub(crate) fn get(&self) -> ARef<Device> {
        self.device().into()
    }
}

/// A libnvdimm bus whose firmware clears poison, with a region whose flush answers what it is told,
/// and a device on the bus.
pub(crate) struct TestBus {
    // Unregistered before the bus that is its parent.
    child: TestDevice,
    bus: NdBus,
}

/// # Invariants
///
/// The pointer is from `rpmem_kunit_bus_new()`.
struct NdBus(NonNull<bindings::rpmem_kunit_bus>);

impl NdBus {
    fn new() -> Result<Self> {
        // SAFETY: No conditions.
        let ptr = unsafe { bindings::rpmem_kunit_bus_new() };
        // INVARIANT: Made just now.
        Ok(Self(NonNull::new(ptr).ok_or(ENOMEM)?))
    }
}

impl Drop for NdBus {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the pointer is ours.
        unsafe { bindings::rpmem_kunit_bus_free(self.0.as_ptr()) };
    }
}

impl TestBus {
    pub(crate) fn new() -> Result<Self> {
        let bus = NdBus::new()?;
        // SAFETY: By the type invariants the bus is valid, hence has a device.
        let parent = unsafe { Device::from_raw(bindings::rpmem_kunit_bus_device(bus.0.as_ptr())) };
        let child = TestDevice::child_of(Some(parent))?;
        Ok(Self { child, bus })
    }

    /// The device on the bus.
    pub(crate) fn child(&self) -> &TestDevice {
        &self.child
    }

    /// The C region. It must not be used after `self` is gone.
    pub(super) fn region(&self) -> *mut bindings::nd_region {
        // SAFETY: By the type invariants the bus is valid.
        unsafe { bindings::rpmem_kunit_bus_region(self.bus.0.as_ptr()) }
    }

    /// Makes the region one of CXL memory.
    pub(crate) fn set_cxl(&self) {
        // SAFETY: By the type invariants the bus is valid.
        unsafe { bindings::rpmem_kunit_bus_set_cxl(self.bus.0.as_ptr()) };
    }

    /// What flushes from now on answer: 0, an errno, or 1 (`NVDIMM_FLUSH_ASYNC`).
    pub(crate) fn set_flush_result(&self, result: i32) {
        // SAFETY: By the type invariants the bus is valid.
        unsafe { bindings::rpmem_kunit_bus_flush_result(self.bus.0.as_ptr(), result) };
    }

    /// How often the region was flushed.
    pub(crate) fn flushes(&self) -> u32 {
        // SAFETY: By the type invariants the bus is valid.
        unsafe { bindings::rpmem_kunit_bus_flushes(self.bus.0.as_ptr()) }
    }

    /// How many bytes the firmware clears at most in one call.
    pub(crate) fn set_clear_limit(&self, bytes: u64) {
        // SAFETY: By the type invariants the bus is valid.
        unsafe { bindings::rpmem_kunit_bus_clear_limit(self.bus.0.as_ptr(), bytes) };
    }

    /// Whether the libnvdimm bus has a driver of that name.
    pub(crate) fn has_driver(&self, name: &CStr) -> bool {
        // SAFETY: The bus device is valid and on the libnvdimm bus. The driver is not looked at.
        unsafe {
            let dev = bindings::rpmem_kunit_bus_device(self.bus.0.as_ptr());
            !bindings::driver_find(name.as_char_ptr(), (*dev).bus).is_null()
        }
    }
}

/// Which of the functions that set up and tear down were called, in order: see `traced[]` in
/// `src/c/kunit.c`.
pub(crate) struct Trace(());

impl Trace {
    /// Records what this task calls while `f` runs.
    pub(crate) fn of<R>(f: impl FnOnce() -> R) -> Result<(Self, R)> {
        // SAFETY: KUnit runs one test at a time, and this is the only user.
        to_result(unsafe { bindings::rpmem_kunit_trace_start() })?;
        let result = f();
        // SAFETY: Started above.
        unsafe { bindings::rpmem_kunit_trace_stop() };
        Ok((Self(()), result))
    }

    /// Whether these were the calls, all of them.
    pub(crate) fn is(&self, expected: &[&CStr]) -> bool {
        let mut same = true;
        for i in 0.. {
            // SAFETY: No conditions; names are static.
            let name = unsafe { bindings::rpmem_kunit_trace_call(i) };
            let call = if name.is_null() {
                None
            } else {
                // SAFETY: A null-terminated string.
                Some(unsafe { CStr::from_char_ptr(name) })
            };
            let want = expected.get(i).copied();
            if call != want {
                pr_err!("call {}: {:?}, expected {:?}\n", i, call, want);
                same = false;
            }
            if call.is_none() && want.is_none() {
                break;
            }
        }
        same
    }
}

/// A bio of the test's own.
///
/// # Invariants
///
/// The pointer is from `rpmem_kunit_bio_new()`.
pub(crate) struct TestBio(NonNull<bindings::rpmem_kunit_bio>);

impl TestBio {
    pub(crate) fn new(opf: u32, sector: u64) -> Result<Self> {
        // SAFETY: No conditions.
        let ptr = unsafe { bindings::rpmem_kunit_bio_new(opf, sector) };
        // INVARIANT: Made just now.
        Ok(Self(NonNull::new(ptr).ok_or(ENOMEM)?))
    }

    /// Adds `len` bytes of `ram` from `at` on, at most four times. `ram` must outlive `self`.
    pub(crate) fn add(&self, ram: &Ram, at: usize, len: usize) {
        assert!(at <= RAM_SIZE - len);
        // SAFETY: The range is in the memory, which is in the linear map; there is room for four.
        unsafe { bindings::rpmem_kunit_bio_add(self.0.as_ptr(), ram.at(at), len as u32) };
    }

    /// Skips the first `bytes` bytes, as a stacked device may have done.
    pub(crate) fn advance(&self, bytes: u32) {
        // SAFETY: By the type invariants the bio is valid.
        unsafe { bindings::rpmem_kunit_bio_advance(self.0.as_ptr(), bytes) };
    }

    /// The bio, for the driver to end. Call this once.
    pub(crate) fn submit(&self) -> Bio {
        // SAFETY: By the type invariants the bio is valid.
        let bio = unsafe { bindings::rpmem_kunit_bio_bio(self.0.as_ptr()) };
        // SAFETY: The bio has not been ended, and it stays valid after its end.
        unsafe { Bio::from_raw(NonNull::new_unchecked(bio)) }
    }

    /// The result that the bio was ended with; `None` if it was not.
    pub(crate) fn result(&self) -> Option<Result> {
        // SAFETY: By the type invariants the bio is valid.
        match unsafe { bindings::rpmem_kunit_bio_result(self.0.as_ptr()) } {
            1 => None,
            ret => Some(to_result(ret)),
        }
    }
}

impl Drop for TestBio {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the bio is ours, and a test ends what it submits.
        unsafe { bindings::rpmem_kunit_bio_free(self.0.as_ptr()) };
    }
}

/// Calls `f` with `len` bytes of `ram` from `at` on, as a piece of a bio.
pub(crate) fn with_segment(
    ram: &Ram,
    at: usize,
    len: usize,
    f: impl Fn(Segment<'_>) -> Result,
) -> Result {
    let bio = TestBio::new(READ, 0)?;
    bio.add(ram, at, len);
    let submitted = bio.submit();
    let result = submitted.for_each_segment(|_, segment| f(segment));
    submitted.end(result);
    result
}

/// A mapping of a device node in an address space of the test's own, which ends with the test.
pub(crate) struct UserMapping {
    addr: usize,
    private: *mut c_void,
}

/// An entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pfn: Pfn,
    pub(crate) order: u32,
    pub(crate) special: bool,
    pub(crate) writable: bool,
    pub(crate) write_back: bool,
}

impl UserMapping {
    /// mmap(2), readable and writable.
    pub(crate) fn new(path: &CStr, len: usize, flags: u64, offset: u64) -> Result<Self> {
        let mut private = core::ptr::null_mut();
        // SAFETY: The path is a string, the out-pointer is to a local; this is a thread of KUnit.
        let addr = unsafe {
            bindings::rpmem_kunit_mmap(
                path.as_char_ptr(),
                len,
                flags as c_ulong,
                offset,
                &mut private,
            )
        };
        // The last page of addresses stands for errors.
        if (-4095..0).contains(&addr) {
            return Err(Error::from_errno(addr as i32));
        }
        Ok(Self {
            addr: addr as usize,
            private,
        })
    }

    /// Loads or stores a byte; `EFAULT` if that ends in a signal.
    pub(crate) fn touch(&self, at: usize, write: bool) -> Result {
        // SAFETY: An access to user memory, wherever it is.
        to_result(unsafe { bindings::rpmem_kunit_touch(self.addr + at, write) })
    }

    /// The entry of the page table for the byte at `at`.
    pub(crate) fn entry(&self, at: usize) -> Option<Entry> {
        let mut entry = bindings::rpmem_kunit_entry::default();
        // SAFETY: The thread has an address space, as `self` is in it.
        unsafe { bindings::rpmem_kunit_entry_at(self.addr + at, &mut entry) }.then_some(Entry {
            pfn: Pfn(entry.pfn as u64),
            order: entry.order,
            special: entry.special,
            writable: entry.writable,
            write_back: entry.write_back,
        })
    }

    /// The data of the device.
    ///
    /// The node has to be one that serves a `T`.
    pub(crate) fn data<T: file_operations::Operations>(&self) -> &T {
        // SAFETY: The file is open, as it is mapped; tests ask for the type that it has.
        unsafe { file_operations::data_of_private(self.private) }
    }
}

/// What a disk for tests serves: [`Ram`].
#[pin_data]
pub(crate) struct TestDisk {
    #[pin]
    badblocks: Badblocks,
    // Unmapped before the memory goes.
    mapping: Mapping,
    _ram: Ram,
    bios: Atomic<i32>,
    flag: Atomic<bool>,
}

impl TestDisk {
    /// Sectors of the disk.
    pub(crate) const SECTORS: u64 = (RAM_SIZE / 512) as u64;

    /// Properties that the block layer accepts, with DAX.
    pub(crate) const LIMITS: Limits = Limits {
        logical_block_size: 512,
        physical_block_size: 4096,
        write_cache: true,
        fua: true,
        dax: true,
        synchronous: true,
    };

    /// A disk full of zeroes.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let ram = Ram::new(0)?;
        let mapping = ram.map()?;
        Arc::pin_init(
            try_pin_init!(Self {
                badblocks <- Badblocks::new(),
                mapping,
                _ram: ram,
                bios: Atomic::new(0),
                flag: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// A disk that nobody sees yet.
    pub(crate) fn disk(dev: &TestDevice, data: Arc<Self>) -> Result<NewDisk<Self>> {
        let mut disk = NewDisk::new(dev.core(), &Self::LIMITS, Self::SECTORS, data)?;
        disk.set_name(dev.name());
        Ok(disk)
    }

    /// How many bios there were.
    pub(crate) fn bios(&self) -> i32 {
        self.bios.load(Relaxed)
    }

    /// A property for an attribute to show.
    pub(crate) fn flag(&self) -> bool {
        self.flag.load(Relaxed)
    }

    pub(crate) fn set_flag(&self, value: bool) {
        self.flag.store(value, Relaxed);
    }
}

impl Operations for TestDisk {
    const OWNER: &'static ThisModule = compat::THIS_MODULE;

    fn submit_bio(this: ArcBorrow<'_, Self>, bio: Bio) {
        this.bios.fetch_add(1, Relaxed);
        let start = bio.sector() as usize * 512;
        let accounting = bio.start_accounting();
        let result = bio.for_each_segment(|done, segment| {
            if bio.is_write() {
                this.mapping.write(start + done, &segment)
            } else {
                this.mapping.read(start + done, &segment)
            }
        });
        bio.end_accounting(accounting);
        bio.end(result);
    }

    fn badblocks(&self) -> &Badblocks {
        &self.badblocks
    }
}

/// Reads or writes `len` bytes of `ram` from `at` on through the block layer.
pub(crate) fn transfer<T: Operations>(
    disk: &GenDisk<T>,
    sector: u64,
    ram: &Ram,
    at: usize,
    len: usize,
    op: u32,
) -> Result {
    assert!(at <= RAM_SIZE - len);
    // SAFETY: The disk is live; the range is in the memory, which is in the linear map.
    to_result(unsafe {
        bindings::bdev_rw_virt((*disk.as_raw()).part0, sector, ram.at(at), len, op)
    })
}

/// Calls `f` with an iterator over the first `len` bytes of `ram`.
pub(super) fn with_iter<R>(
    ram: &Ram,
    len: usize,
    f: impl FnOnce(&mut bindings::iov_iter) -> R,
) -> R {
    assert!(len <= RAM_SIZE);
    let vec = bindings::kvec {
        iov_base: ram.at(0),
        iov_len: len,
    };
    let mut iter = bindings::iov_iter::default();
    // SAFETY: `vec` describes memory of `ram`, and both outlive the iterator.
    unsafe { bindings::iov_iter_kvec(&mut iter, bindings::ITER_SOURCE, &vec, 1, len) };
    f(&mut iter)
}

/// Calls `f` with the first `len` bytes of `ram`, as a recovery write gets them.
pub(crate) fn with_source<R>(ram: &Ram, len: usize, f: impl FnOnce(Source<'_>) -> R) -> R {
    with_iter(ram, len, |iter| f(Source::new(iter)))
}

/// What an info block says, see [`info_block_of`].
pub(crate) type Info = bindings::rpmem_kunit_info;

/// An info block as libnvdimm lays it out and sums it up, and that sum.
pub(crate) fn info_block_of(info: &Info) -> Result<(KBox<[u8; info_block::SIZE]>, u64)> {
    let mut block = KBox::init(
        pin_init::init_zeroed::<[u8; info_block::SIZE]>(),
        GFP_KERNEL,
    )?;
    // SAFETY: The block has the size of `struct nd_pfn_sb`, which the test of layouts checks, and
    // `kmalloc()`'s alignment.
    let sum = unsafe { bindings::rpmem_kunit_info_block(info, block.as_mut_ptr()) };
    Ok((block, sum))
}

#[kernel::macros::kunit_tests(rpmem_c)]
mod tests {
    use super::*;
    use crate::{
        abstractions::{
            errno,
            nd,
            platform,
            vma, //
        },
        logic::{
            geometry,
            mmap, //
        }, //
    };
    use bindings::*;
    use core::mem::{
        offset_of,
        size_of, //
    };
    use kernel::error::code;

    type Value = (&'static str, u64);

    /// What the C compiler says.
    fn c_values() -> &'static [rpmem_kunit_value] {
        let mut count = 0;
        // SAFETY: `count` is a local.
        let values = unsafe { rpmem_kunit_values(&mut count) };
        // SAFETY: A static table of that length.
        unsafe { core::slice::from_raw_parts(values, count) }
    }

    /// Whether C knows each of the values under its name, and says the same.
    fn agree(ours: &[Value]) -> bool {
        let mut same = true;
        for (name, value) in ours {
            let c = c_values()
                .iter()
                // SAFETY: The name is a static, null-terminated string.
                .find(|c| unsafe { CStr::from_char_ptr(c.name) }.to_bytes() == name.as_bytes())
                .map(|c| c.value);
            if c != Some(*value) {
                pr_err!("{}: {:#x}, C has {:x?}\n", name, value, c);
                same = false;
            }
        }
        same
    }

    macro_rules! values {
        ($($c:literal => $rust:expr,)*) => { &[$(($c, $rust as u64),)*] };
    }

    macro_rules! sizes {
        ($($ty:ident)*) => {
            &[$((
                concat!("sizeof(struct ", stringify!($ty), ")"),
                size_of::<$ty>() as u64,
            ),)*]
        };
    }

    macro_rules! offsets {
        ($($ty:ident { $($field:ident)* })*) => {
            &[$($((
                concat!("offsetof(struct ", stringify!($ty), ", ", stringify!($field), ")"),
                offset_of!($ty, $field) as u64,
            ),)*)*]
        };
    }

    const fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
        size_of::<F>()
    }

    const CONSTANTS: &[Value] = values! {
        "ARCH_IMPLEMENTS_FLUSH_DCACHE_PAGE" => FLUSH_DCACHE,
        "ARCH_MEMREMAP_PMEM" => ARCH_MEMREMAP_PMEM,
        "BIT(ND_REGION_CXL)" => REGION_CXL,
        "BLK_FEAT_DAX" => BLK_FEAT_DAX,
        "BLK_FEAT_FUA" => BLK_FEAT_FUA,
        "BLK_FEAT_IO_STAT" => BLK_FEAT_IO_STAT,
        "BLK_FEAT_SYNCHRONOUS" => BLK_FEAT_SYNCHRONOUS,
        "BLK_FEAT_WRITE_CACHE" => BLK_FEAT_WRITE_CACHE,
        "DAX_ACCESS" => dax_access_mode_DAX_ACCESS,
        "DAX_RECOVERY_WRITE" => dax_access_mode_DAX_RECOVERY_WRITE,
        "DISK_NAME_LEN" => DISK_NAME_LEN,
        "MEMORY_DEVICE_FS_DAX" => memory_type_MEMORY_DEVICE_FS_DAX,
        "MEMORY_DEVICE_GENERIC" => memory_type_MEMORY_DEVICE_GENERIC,
        "ND_DRIVER_DAX_PMEM" => nd::DAX_PMEM,
        "ND_DRIVER_NAMESPACE_IO" => nd::NAMESPACE_IO,
        "BLK_OPEN_EXCL" => BLK_OPEN_EXCL,
        "BLK_OPEN_READ" => BLK_OPEN_READ,
        "DEFAULT_POLLMASK" => DEFAULT_POLLMASK,
        "EPOLLERR" => EPOLLERR,
        "EPOLLHUP" => EPOLLHUP,
        "EPOLLPRI" => EPOLLPRI,
        "FMODE_WRITE" => FMODE_WRITE,
        "FOP_MMAP_DIRECT" => FOP_MMAP_DIRECT,
        "FOP_MMAP_SYNC" => FOP_MMAP_SYNC,
        "S_DAX" => S_DAX,
        "S_IFCHR" => S_IFCHR,
        "MAP_DIRECT" => mmap::MAP_DIRECT,
        "POLL_PRI" => POLL_PRI,
        "SIGIO" => SIGIO,
        "TASK_COMM_LEN" => TASK_COMM_LEN,
        "MAP_FIXED" => MAP_FIXED,
        "MAP_SHARED" => mmap::MAP_SHARED,
        "MAP_SHARED_VALIDATE" => mmap::MAP_SHARED_VALIDATE,
        "MAP_SYNC" => mmap::MAP_SYNC,
        "MAP_TYPE" => mmap::MAP_TYPE,
        "PMD_ORDER" => vma::PMD_ORDER,
        "PUD_ORDER" => vma::PUD_ORDER,
        "VM_MAYWRITE" => VM_MAYWRITE,
        "ND_DRIVER_NAMESPACE_PMEM" => nd::NAMESPACE_PMEM,
        "NVDIMM_CCLASS_DAX" => nvdimm_claim_class_NVDIMM_CCLASS_DAX,
        "NVDIMM_CCLASS_NONE" => nvdimm_claim_class_NVDIMM_CCLASS_NONE,
        "NVDIMM_CCLASS_PFN" => nvdimm_claim_class_NVDIMM_CCLASS_PFN,
        "NVDIMM_FLUSH_ASYNC" => NVDIMM_FLUSH_ASYNC,
        "NVDIMM_REVALIDATE_POISON" => nvdimm_event_NVDIMM_REVALIDATE_POISON,
        "NVDIMM_REVALIDATE_REGION" => nvdimm_event_NVDIMM_REVALIDATE_REGION,
        "PAGE_SHIFT" => PAGE_SHIFT,
        "PAGE_SHIFT" => geometry::PAGE_SHIFT,
        "PAGE_SIZE" => PAGE_SIZE,
        "PAGE_SIZE" => geometry::PAGE_SIZE,
        "PGMAP_ALTMAP_VALID" => PGMAP_ALTMAP_VALID,
        "REQ_FUA" => REQ_FUA,
        "REQ_OP_READ" => req_op_REQ_OP_READ,
        "REQ_OP_WRITE" => REQ_OP_WRITE,
        "REQ_PREFLUSH" => REQ_PREFLUSH,
        "SECTOR_SHIFT" => geometry::SECTOR_SHIFT,
        "SZ_4K" => info_block::OFFSET,
        "nd_info_block_reserve()" => info_block::RESERVE,
        "offsetof(struct nd_pfn_sb, uuid)" => info_block::UUID_AT,
        "sizeof(struct nd_pfn_sb)" => info_block::SIZE,
        "sizeof(struct page)" => platform::PAGE_STRUCT_SIZE,
    };

    const SIZES: &[Value] = sizes! {
        address_space attribute attribute_group badblocks bio bio_vec block_device
        block_device_operations bvec_iter dax_operations dev_pagemap dev_pagemap_ops device
        device_attribute gendisk inode nd_device_driver nd_namespace_common nd_namespace_io
        queue_limits range resource
    };

    const OFFSETS: &[Value] = offsets! {
        address_space { host invalidate_lock }
        attribute { mode name }
        attribute_group { name }
        badblocks { count dev }
        bio { bi_bdev bi_io_vec bi_iter bi_opf bi_status }
        bio_vec { bv_len bv_offset bv_page }
        block_device { bd_device bd_disk bd_queue }
        block_device_operations { owner submit_bio }
        bvec_iter { bi_idx bi_sector bi_size }
        dax_operations { direct_access recovery_write zero_page_range }
        dev_pagemap { altmap flags nr_range ops owner vmemmap_shift }
        dev_pagemap_ops { memory_failure }
        device { parent }
        device_attribute { attr }
        gendisk { bb disk_name fops part0 private_data }
        inode { i_flags i_mapping i_mode }
        nd_device_driver { drv notify probe remove shutdown }
        nd_namespace_common { claim_class dev force_raw }
        nd_namespace_io { bb common res }
        nd_pfn { uuid }
        nd_region { flags ro }
        queue_limits { features logical_block_size max_hw_sectors physical_block_size }
        range { end start }
        request_queue { limits }
        resource { end start }
    };

    /// What has another name in Rust.
    const RENAMED: &[Value] = values! {
        "offsetof(struct attribute_group, attrs)" =>
            offset_of!(attribute_group, __bindgen_anon_2),
        "offsetof(struct dev_pagemap, range)" => offset_of!(dev_pagemap, __bindgen_anon_1),
        "offsetof(struct dev_pagemap, type)" => offset_of!(dev_pagemap, type_),
        "offsetof(struct device, kobj.sd)" => offset_of!(device, kobj.sd),
        "offsetof(struct device_attribute, show)" =>
            offset_of!(device_attribute, __bindgen_anon_1),
        "offsetof(struct device_attribute, store)" =>
            offset_of!(device_attribute, __bindgen_anon_2),
        "offsetof(struct nd_device_driver, type)" => offset_of!(nd_device_driver, type_),
        "sizeof(uuid_t)" => size_of::<uuid_t>(),
        "sizeof_field(struct badblocks, count)" => field_size(|b: &badblocks| &b.count),
        "sizeof_field(struct nd_namespace_common, force_raw)" =>
            field_size(|n: &nd_namespace_common| &n.force_raw),
    };

    /// Error codes: the kernel crate's, and those that it lacks.
    fn errnos() -> [Value; 10] {
        let value = |name, err: Error| (name, (-err.to_errno()) as u64);
        [
            value("EBUSY", code::EBUSY),
            value("EFAULT", code::EFAULT),
            value("EHWPOISON", errno::ehwpoison()),
            value("EINVAL", code::EINVAL),
            value("EIO", code::EIO),
            value("ENODEV", code::ENODEV),
            value("ENOMEM", code::ENOMEM),
            value("ENXIO", code::ENXIO),
            value("EOPNOTSUPP", errno::eopnotsupp()),
            value("ERANGE", code::ERANGE),
        ]
    }

    #[test]
    fn constants_are_those_of_c() {
        assert!(agree(CONSTANTS));
    }

    #[test]
    fn error_codes_are_those_of_c() {
        assert!(agree(&errnos()));
    }

    #[test]
    fn sizes_are_those_of_c() {
        assert!(agree(SIZES));
    }

    #[test]
    fn offsets_are_those_of_c() {
        assert!(agree(OFFSETS));
        assert!(agree(RENAMED));
    }

    #[test]
    fn all_that_c_has_is_compared() {
        let errnos = errnos();
        let ours = || {
            [CONSTANTS, SIZES, OFFSETS, RENAMED, &errnos]
                .into_iter()
                .flatten()
        };
        for c in c_values() {
            // SAFETY: The name is a static, null-terminated string.
            let name = unsafe { CStr::from_char_ptr(c.name) };
            if !ours().any(|(ours, _)| ours.as_bytes() == name.to_bytes()) {
                pr_err!("{:?} is compared with nothing\n", name);
                assert!(false);
            }
        }
    }

    #[test]
    fn ram_is_contiguous_and_aligned() -> Result {
        let ram = Ram::new(7)?;
        assert_eq!(ram.phys() % geometry::PAGE_SIZE, 0);
        assert!(ram.is(0, RAM_SIZE, 7));
        Ok(())
    }
}
