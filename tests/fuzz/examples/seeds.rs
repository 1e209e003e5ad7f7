// SPDX-License-Identifier: GPL-2.0

//! seeds DIR: writes the corpus below DIR, one file for each kind of input that is interesting;
//! `scripts/fuzz --seeds` runs it. The fuzzer finds the ways from one to another.

use rpmem_host_tests::sample::{Fields, NAMESPACE};
use std::{env, fs, path::Path};

fn numbers(flags: u8, numbers: &[u64]) -> Vec<u8> {
    let mut out = vec![flags];
    for number in numbers {
        out.extend(number.to_le_bytes());
    }
    out
}

/// The target `info_block` seals blocks, and takes their end for zero.
fn block(flags: u8, start: u64, size: u64, change: &dyn Fn(&mut Fields)) -> Vec<u8> {
    let mut fields = Fields::default();
    change(&mut fields);
    // Another platform of 4 KiB, 2 MiB and 64 bytes.
    let mut out = vec![flags, 12, 21, 64];
    out.extend(start.to_le_bytes());
    out.extend(size.to_le_bytes());
    out.extend(&fields.bytes()[..96]);
    out
}

fn main() {
    let dir = env::args_os().nth(1).expect("usage: seeds DIR");
    let write = |target: &str, name: &str, input: Vec<u8>| {
        let dir = Path::new(&dir).join(target);
        fs::create_dir_all(&dir).expect("DIR is writable");
        fs::write(dir.join(name), input).expect("DIR is writable");
    };

    let (start, size) = (NAMESPACE.start, NAMESPACE.size);
    let info = |name: &str, flags: u8, change: &dyn Fn(&mut Fields)| {
        write("info_block", name, block(flags, start, size, change));
    };
    info("fsdax-map-mem", 0, &|_| ());
    info("fsdax-map-dev", 0, &|f| {
        (f.mode, f.data_offset, f.npfns) = (2, 6 << 20, (250 << 20) / 4096);
    });
    info("fsdax-larger-struct-page", 4, &|f| {
        (f.mode, f.page_struct_size) = (2, 96);
    });
    info("devdax", 0, &|f| f.signature = *b"NVDIMM_DAX_INFO\0");
    // What a later minor version brought in is not to be looked at.
    for minor in 0..4 {
        info(&format!("minor-{minor}"), 0, &|f| {
            (f.minor, f.page_size, f.page_struct_size) = (minor, 65536, 1);
            if minor < 2 {
                f.align = 3;
            }
            if minor < 1 {
                (f.start_pad, f.end_trunc) = (4096, 4096);
            }
        });
    }
    info("minor-1-align-ignored", 0, &|f| {
        (f.minor, f.align) = (1, 4096)
    });
    info("minor-3-map-dev", 0, &|f| {
        (f.minor, f.mode, f.page_size, f.page_struct_size) = (3, 2, 65536, 1);
    });
    info("data-in-info-block", 0, &|f| {
        (f.align, f.data_offset) = (4096, 4096);
    });
    info("no-data", 0, &|f| (f.end_trunc, f.npfns) = (254 << 20, 0));
    info("odd-align", 0, &|f| f.align = 3 << 20);
    info("align-4k", 8, &|f| {
        (f.align, f.data_offset, f.npfns) = (4096, 8192, (size - 8192) / 4096);
    });
    info("padded", 0, &|f| {
        (f.start_pad, f.end_trunc) = (2 << 20, 4 << 20);
        f.npfns = (248 << 20) / 4096;
    });
    info("too-many-pages", 0, &|f| f.npfns += 1);
    info("padding-beyond-end", 0, &|f| f.end_trunc = u32::MAX);
    info("major-2", 0, &|f| f.major = 2);
    info("other-parent", 1, &|_| ());
    info("bad-checksum", 2, &|_| ());
    info("no-signature", 0, &|f| f.signature = [0; 16]);
    let last = u64::MAX - size;
    write(
        "info_block",
        "end-of-address-space",
        block(0, last & !((2 << 20) - 1), size, &|_| ()),
    );

    let create = |name: &str, flags: u8, start: u64, size: u64| {
        write("create", name, numbers(flags, &[start, size]));
    };
    create("map-mem-2m", 0, start, size);
    create("map-dev-2m", 1, start, size);
    create("map-dev-larger-struct-page", 3, start, size);
    create("map-dev-4k", 0x21, start, size);
    create("map-mem-1g-devdax", 0x50, 1 << 30, 4 << 30);
    create("map-mem-1g-too-small", 0x40, 2 << 20, 2 << 20);
    create("odd-end", 0, start, size + (1 << 20));
    create("odd-start", 0, start + 4096, size);
    create("end-of-address-space", 0, last, size);

    let device = |name: &str, flags: u8, of: [u64; 7]| {
        write("geometry", name, numbers(flags, &of));
    };
    let offset = 2 << 20;
    device(
        "middle",
        0,
        [start, size, offset, 8, 4096, start / 4096 + 513, 2 << 20],
    );
    device(
        "last-page",
        0,
        [
            start,
            size,
            offset,
            (size - offset) / 512 - 8,
            4096,
            (start + size) / 4096 - 1,
            size - 1,
        ],
    );
    device(
        "behind-the-end",
        0,
        [
            start,
            size,
            offset,
            (size - offset) / 512,
            0,
            (start + size) / 4096,
            size,
        ],
    );
    device("odd-start", 0, [start + 512, size, 0, 7, 512, 1, 1]);
    device("partial-sector", 0, [start, 513, 0, 0, 513, 0, 512]);
    device("nothing", 0, [start, 511, 0, 0, 0, 0, 0]);
    device(
        "wraps",
        0,
        [u64::MAX - 4095, 8192, 0, 0, 0, u64::MAX >> 12, 0],
    );
    device(
        "far",
        0,
        [start, size, offset, u64::MAX, u64::MAX, u64::MAX, u64::MAX],
    );
    device("near", 3, [start, size, offset, 77, 99, 5, 6]);

    let access = |name: &str, flags: u8, of: [u64; 5]| {
        write("extent", name, numbers(flags, &of));
    };
    access("all-good", 0, [3, 4, 0, 0, 0]);
    access("refused", 1, [3, 4, 30, 1 << 8, 0]);
    access("recovery-good-in-front", 5, [3, 4, 41, 1 << 17, 0]);
    access("recovery-bad-first", 5, [3, 4, 24, 1, 0]);
    access("recovery-bad-in-front-of-start", 5, [3, 4, 2, 1, 0]);
    access("recovery-many", 6, [1 << 20, 16, 9, u64::MAX / 255, 0x80]);
    access(
        "largest",
        6,
        [u64::MAX >> 12, u64::MAX, u64::MAX, u64::MAX, 1],
    );
}
