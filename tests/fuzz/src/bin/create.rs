// SPDX-License-Identifier: GPL-2.0

//! Info blocks that libnvdimm makes, for any namespace and configuration.

#![no_main]

use rpmem_fuzz::{fuzz_target, Input};
use rpmem_host_tests::{
    check,
    libnvdimm::{Libnvdimm, StructPage},
    logic::info_block::{Namespace, PageMapLocation},
};

/// Flags; start and size of the namespace.
fn run(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.byte();
    // In pages: the bus gives nothing finer.
    let start = input.number() & !4095;
    let size = input.number().min(u64::MAX - start) & !4095;
    let map = match flags & 1 {
        0 => PageMapLocation::Ram,
        _ => PageMapLocation::Pmem,
    };
    let struct_page = match flags & 2 {
        0 => StructPage::Bytes64,
        _ => StructPage::Bytes96,
    };
    let libnvdimm = Libnvdimm {
        namespace: Namespace {
            start,
            size,
            uuid: [0x5a; 16],
        },
        compat_align: 1 << [21, 12, 24, 30][usize::from((flags >> 2) & 3)],
        struct_page,
        devdax: flags & 0x10 != 0,
    };
    // What sysfs takes for a device.
    let align = 1 << [21, 12, 30][usize::from((flags >> 5) & 3) % 3];
    check::create_as_libnvdimm(&libnvdimm, map, align);
}

fuzz_target!(run);
