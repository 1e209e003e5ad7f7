// SPDX-License-Identifier: GPL-2.0

//! Error codes that `kernel::error::code` lacks.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)
//!
//! # Examples
//!
//! `Pmem::sector_to_pfn()` in `src/driver/daxops.rs` refuses poison with one.

use crate::bindings;
use kernel::prelude::*;

/// Operation not supported. Not `ENOTSUPP`, which is for the inside of the kernel.
pub(crate) fn eopnotsupp() -> Error {
    Error::from_errno(-(bindings::EOPNOTSUPP as i32))
}

/// Memory page has a hardware error.
pub(crate) fn ehwpoison() -> Error {
    Error::from_errno(-(bindings::EHWPOISON as i32))
}
