// SPDX-License-Identifier: GPL-2.0

//! libnvdimm's own C code (see `build.rs`), callable.

use crate::logic::info_block::{Namespace, PageMapLocation, SIZE};

/// `struct machine` in `libnvdimm/pfn.c`.
#[repr(C)]
struct Machine {
    start: u64,
    size: u64,
    compat_align: u64,
    uuid: [u8; 16],
    devdax: u32,
}

/// What libnvdimm makes of an info block; `struct layout` in `libnvdimm/pfn.c`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// First byte of the mapped range.
    pub start: u64,
    /// Last byte of the mapped range.
    pub end: u64,
    /// From `start` to the data.
    pub data_offset: u64,
    /// Pages of data.
    pub npfns: u64,
    /// Alignment of the data in bytes.
    pub align: u64,
    /// Pages in front of the page map.
    pub altmap_reserve: u64,
    /// Pages for the page map.
    pub altmap_free: u64,
    /// `enum nd_pfn_mode`.
    pub mode: u32,
    /// Whether an info block was written.
    pub written: u32,
}

/// `struct device_memory` in `libnvdimm/pmem.c`: the part of `struct pmem_device` that translates.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    /// Physical address of the mapping.
    pub phys: u64,
    /// From there to the data.
    pub data_offset: u64,
    /// Size of the namespace.
    pub size: u64,
    /// How much of it is not mapped.
    pub pfn_pad: u32,
}

/// `struct dax_answer` in `libnvdimm/pmem.c`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaxAnswer {
    /// Offset in the kernel mapping.
    pub offset: u64,
    /// Physical page frame number.
    pub pfn: u64,
    /// First sector that badblocks were looked for in.
    pub asked: u64,
    /// How many sectors they were looked for in.
    pub asked_num: u64,
}

extern "C" {
    fn libnvdimm_open_64(m: *const Machine, block: *const u8, out: *mut Layout) -> i32;
    fn libnvdimm_open_96(m: *const Machine, block: *const u8, out: *mut Layout) -> i32;
    fn libnvdimm_create_64(
        m: *const Machine,
        uuid: *const u8,
        mode: u32,
        align: u64,
        block: *mut u8,
        out: *mut Layout,
    ) -> i32;
    fn libnvdimm_create_96(
        m: *const Machine,
        uuid: *const u8,
        mode: u32,
        align: u64,
        block: *mut u8,
        out: *mut Layout,
    ) -> i32;
    fn libnvdimm_checksum_64(block: *const u8) -> u64;
    fn pmem_direct_access(
        m: *const DeviceMemory,
        pgoff: u64,
        nr_pages: i64,
        recovery: u32,
        any_bad: u32,
        first_bad: *const u64,
        out: *mut DaxAnswer,
    ) -> i64;
    fn pmem_to_offset(m: *const DeviceMemory, sector: u64) -> u64;
    fn pmem_offset_to_phys(m: *const DeviceMemory, offset: u64) -> u64;
}

/// The kernels that libnvdimm is compiled for, by `sizeof(struct page)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StructPage {
    /// Production kernels.
    Bytes64,
    /// Larger, as with memory debugging.
    Bytes96,
}

impl StructPage {
    /// `sizeof(struct page)`.
    pub fn size(self) -> u64 {
        match self {
            Self::Bytes64 => 64,
            Self::Bytes96 => 96,
        }
    }
}

/// libnvdimm on a kernel and a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Libnvdimm {
    /// The namespace.
    pub namespace: Namespace,
    /// `memremap_compat_align()`.
    pub compat_align: u64,
    /// `sizeof(struct page)`.
    pub struct_page: StructPage,
    /// Whether a devdax device is asked for, not an fsdax one.
    pub devdax: bool,
}

impl Libnvdimm {
    fn machine(&self) -> Machine {
        Machine {
            start: self.namespace.start,
            size: self.namespace.size,
            compat_align: self.compat_align,
            uuid: self.namespace.uuid,
            devdax: self.devdax.into(),
        }
    }

    /// `nd_pfn_validate()` as `nd_pfn_probe()` calls it, then `nvdimm_setup_pfn()`.
    ///
    /// # Errors
    ///
    /// The negative errno of the one that failed.
    pub fn open(&self, block: &[u8; SIZE]) -> Result<Layout, i32> {
        let (machine, mut layout) = (self.machine(), Layout::default());
        let open = match self.struct_page {
            StructPage::Bytes64 => libnvdimm_open_64,
            StructPage::Bytes96 => libnvdimm_open_96,
        };
        // SAFETY: The structs are laid out as in C, where `block` is read for SIZE bytes; nothing
        // is kept.
        match unsafe { open(&machine, block.as_ptr(), &mut layout) } {
            0 => Ok(layout),
            rc => Err(rc),
        }
    }

    /// `nvdimm_setup_pfn()` for a device that userspace has configured, on a namespace without
    /// info block: the info block that libnvdimm writes.
    ///
    /// # Errors
    ///
    /// The negative errno.
    pub fn create(
        &self,
        uuid: &[u8; 16],
        map: PageMapLocation,
        align: u64,
    ) -> Result<([u8; SIZE], Layout), i32> {
        let (machine, mut layout) = (self.machine(), Layout::default());
        let mut block = [0; SIZE];
        let mode = match map {
            PageMapLocation::Ram => 1,
            PageMapLocation::Pmem => 2,
        };
        let create = match self.struct_page {
            StructPage::Bytes64 => libnvdimm_create_64,
            StructPage::Bytes96 => libnvdimm_create_96,
        };
        // SAFETY: The structs are laid out as in C, where 16 bytes of `uuid` are read and SIZE
        // bytes of `block` written; nothing is kept.
        let rc = unsafe {
            create(
                &machine,
                uuid.as_ptr(),
                mode,
                align,
                block.as_mut_ptr(),
                &mut layout,
            )
        };
        match rc {
            0 => Ok((block, layout)),
            rc => Err(rc),
        }
    }
}

/// `nd_sb_checksum()`.
pub fn checksum(block: &[u8; SIZE]) -> u64 {
    // SAFETY: C reads SIZE bytes.
    unsafe { libnvdimm_checksum_64(block.as_ptr()) }
}

impl DeviceMemory {
    /// `__pmem_direct_access()`. `first_bad` is what `badblocks_check()` finds; `any_bad`: there
    /// are bad sectors, maybe elsewhere.
    ///
    /// # Errors
    ///
    /// The negative errno.
    pub fn direct_access(
        &self,
        pgoff: u64,
        pages: i64,
        recovery: bool,
        any_bad: bool,
        first_bad: Option<u64>,
    ) -> (Result<u64, i64>, DaxAnswer) {
        let mut answer = DaxAnswer::default();
        let first_bad = first_bad
            .as_ref()
            .map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: The structs are laid out as in C; `first_bad` is NULL or points to a number.
        let rc = unsafe {
            pmem_direct_access(
                self,
                pgoff,
                pages,
                recovery.into(),
                any_bad.into(),
                first_bad,
                &mut answer,
            )
        };
        (u64::try_from(rc).map_err(|_| rc), answer)
    }

    /// `to_offset()`.
    pub fn to_offset(&self, sector: u64) -> u64 {
        // SAFETY: The struct is laid out as in C.
        unsafe { pmem_to_offset(self, sector) }
    }

    /// `pmem_to_phys()`.
    pub fn to_phys(&self, offset: u64) -> u64 {
        // SAFETY: The struct is laid out as in C.
        unsafe { pmem_offset_to_phys(self, offset) }
    }
}
