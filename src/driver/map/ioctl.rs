// SPDX-License-Identifier: GPL-2.0

//! ioctl(2) of the node: `include/uapi/linux/rpmem.h`.

use super::Node;
use crate::{
    abstractions::{
        prefault,
        trace, //
    },
    logic::{
        geometry::{
            PAGE_SHIFT,
            PAGE_SIZE, //
        },
        ioctl::{
            self,
            Prefault, //
        }, //
    }, //
};
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// Carries out a command. Context: may sleep.
///
/// # Errors
///
/// `ENOTTY` for one that is not known; `EFAULT`, `EINVAL` for arguments; those of the command.
pub(super) fn call(node: &Node, command: u32, argument: UserPtr) -> Result {
    match command {
        ioctl::PREFAULT => prefault(node, argument),
        ioctl::INFO => info(node, argument),
        ioctl::LEASE => lease(node, argument),
        _ => Err(ENOTTY),
    }
}

fn prefault(node: &Node, argument: UserPtr) -> Result {
    let mut raw = [0u8; ioctl::PREFAULT_SIZE];
    UserSlice::new(argument, raw.len())
        .reader()
        .read_slice(&mut raw)?;
    let request = Prefault::parse(&raw, PAGE_SIZE).map_err(|_| EINVAL)?;
    let (end, result) = prefault::prefault(node, request.start, request.end, request.write);
    trace::prefault(&node.name, request.start, end - request.start);
    let done = argument.wrapping_byte_add(ioctl::PREFAULT_DONE);
    UserSlice::new(done, size_of::<u64>())
        .writer()
        .write(&(end - request.start))?;
    result
}

fn info(node: &Node, argument: UserPtr) -> Result {
    let info = ioctl::Info {
        size: node.limits.pages << PAGE_SHIFT,
        huge_page: PAGE_SIZE << node.largest_order(),
        synchronous: node.limits.synchronous,
        page_backed: node.page_backed,
        pinnable: node.folios.is_some(),
    };
    copy_struct_to_user(argument, &info.to_bytes())
}

fn lease(node: &Node, argument: UserPtr) -> Result {
    let info = node.lease.info();
    let lease = ioctl::Lease {
        status: info.status,
        breaks: info.breaks,
        holders: info.holders,
        left: info.left,
    };
    copy_struct_to_user(argument, &lease.to_bytes())
}

/// Copies a structure to a caller who has said in its first word that there is room.
fn copy_struct_to_user(argument: UserPtr, raw: &[u8]) -> Result {
    let argsz: u32 = UserSlice::new(argument, size_of::<u32>()).reader().read()?;
    if (argsz as usize) < raw.len() {
        return Err(EINVAL);
    }
    UserSlice::new(argument, raw.len())
        .writer()
        .write_slice(raw)
}
