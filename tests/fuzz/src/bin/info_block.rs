// SPDX-License-Identifier: GPL-2.0

//! Hostile info blocks on hostile namespaces, against libnvdimm's own code.

#![no_main]

use rpmem_fuzz::{fuzz_target, Input};
use rpmem_host_tests::{
    check,
    libnvdimm::{Libnvdimm, StructPage},
    logic::info_block::{Namespace, Platform, SIZE},
};

/// Flags; log2 of another platform's page size and alignment, and its struct page; start and size
/// of the namespace; the block, whose rest is zero.
fn run(input: &[u8]) {
    let mut input = Input(input);
    let flags = input.byte();
    let other = Platform {
        page_size: 1 << (input.byte() % 64),
        compat_align: 1 << (input.byte() % 64),
        page_struct_size: input.byte().into(),
    };
    let start = input.number();
    // A namespace does not wrap.
    let size = input.number().min(u64::MAX - start);
    let mut block = [0; SIZE];
    for (to, from) in block.iter_mut().zip(input.rest()) {
        *to = *from;
    }

    let mut namespace = Namespace {
        start,
        size,
        uuid: [0; 16],
    };
    if flags & 1 == 0 {
        namespace.uuid.copy_from_slice(&block[32..48]);
    }
    if flags & 2 == 0 {
        check::seal(&mut block);
    }
    let struct_page = match flags & 4 {
        0 => StructPage::Bytes64,
        _ => StructPage::Bytes96,
    };
    let compat_align = 1 << [21, 12, 24, 30][usize::from((flags >> 3) & 3)];
    check::parse_anywhere(&block, &namespace, &other);
    check::parse_as_libnvdimm(
        &block,
        &Libnvdimm {
            namespace,
            compat_align,
            struct_page,
            devdax: false,
        },
    );
}

fuzz_target!(run);
