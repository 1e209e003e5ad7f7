// SPDX-License-Identifier: GPL-2.0

//! What a C compiler makes of `include/uapi/linux/rpmem.h` and of the kernel's headers.

/// Numbers of the headers.
#[repr(C)]
pub struct Header {
    pub direct_window: u64,
    pub map_direct: u64,
    pub map_sync: u64,
    pub map_shared: u64,
    pub map_shared_validate: u64,
    pub map_type: u64,
    pub info_size: usize,
    pub prefault_size: usize,
    pub prefault_done: usize,
    pub info: u32,
    pub prefault: u32,
    pub info_sync: u32,
    pub info_pages: u32,
    pub info_pinnable: u32,
    pub prefault_write: u32,
    pub lease_size: usize,
    pub lease: u32,
    /// Held, being broken for removal and for read-only, broken.
    pub lease_states: [u32; 4],
}

extern "C" {
    static rpmem_uapi: Header;
    fn rpmem_uapi_info(bytes: *mut u8, flags: u32, size: u64, huge_page: u64);
    fn rpmem_uapi_prefault(bytes: *mut u8, argsz: u32, flags: u32, addr: u64, len: u64);
    fn rpmem_uapi_lease(bytes: *mut u8, state: u32, breaks: u32, left: i64, holders: u64);
}

/// The numbers.
pub fn header() -> &'static Header {
    // SAFETY: A constant of `libnvdimm/uapi.c`, with the same layout.
    unsafe { &*core::ptr::addr_of!(rpmem_uapi) }
}

/// `struct rpmem_info` as the kernel has to fill it.
pub fn info(flags: u32, size: u64, huge_page: u64) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    // SAFETY: The size is asserted in C.
    unsafe { rpmem_uapi_info(bytes.as_mut_ptr(), flags, size, huge_page) };
    bytes
}

/// `struct rpmem_prefault` as an application fills it.
pub fn prefault(argsz: u32, flags: u32, addr: u64, len: u64) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    // SAFETY: As above.
    unsafe { rpmem_uapi_prefault(bytes.as_mut_ptr(), argsz, flags, addr, len) };
    bytes
}

/// `struct rpmem_lease` as the kernel has to fill it.
pub fn lease(state: u32, breaks: u32, left: i64, holders: u64) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    // SAFETY: As above.
    unsafe { rpmem_uapi_lease(bytes.as_mut_ptr(), state, breaks, left, holders) };
    bytes
}
