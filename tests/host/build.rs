// SPDX-License-Identifier: GPL-2.0

//! Compiles functions of libnvdimm, unchanged, for the host: what the module's logic is compared
//! with. They are cut out of the kernel source at `RPMEM_KSRC`; a function that is not there any
//! more, or uses something new, ends the build.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A file of the kernel, and how the piece starts.
type Piece = (&'static str, &'static str);

const PFN_TYPES: &[Piece] = &[
    (
        "include/linux/mmzone.h",
        "#define SUBSECTION_ALIGN_DOWN(pfn)",
    ),
    ("include/linux/mmzone.h", "#define PAGE_SUBSECTION_MASK"),
    ("include/linux/mmzone.h", "#define PAGES_PER_SUBSECTION"),
    ("include/linux/mmzone.h", "#define PFN_SUBSECTION_SHIFT"),
    ("include/linux/mmzone.h", "#define SUBSECTION_SHIFT"),
    ("include/linux/memremap.h", "struct vmem_altmap {"),
    ("drivers/nvdimm/pfn.h", "#define PFN_SIG_LEN"),
    ("drivers/nvdimm/pfn.h", "#define PFN_SIG "),
    ("drivers/nvdimm/pfn.h", "#define DAX_SIG "),
    ("drivers/nvdimm/pfn.h", "struct nd_pfn_sb {"),
    ("drivers/nvdimm/nd.h", "#define MAX_STRUCT_PAGE_SIZE"),
    ("drivers/nvdimm/nd.h", "enum nd_pfn_mode {"),
    ("drivers/nvdimm/nd.h", "struct nd_pfn {"),
    ("drivers/nvdimm/nd.h", "struct nd_gen_sb {"),
    (
        "drivers/nvdimm/nd.h",
        "static inline u32 nd_info_block_reserve(void)",
    ),
];

const PMEM_TYPES: &[Piece] = &[("include/linux/dax.h", "enum dax_access_mode {")];

const PMEM_DEVICE: &[Piece] = &[("drivers/nvdimm/pmem.h", "struct pmem_device {")];

const PFN_FUNCTIONS: &[Piece] = &[
    ("drivers/nvdimm/core.c", "u64 nd_fletcher64("),
    ("drivers/nvdimm/claim.c", "u64 nd_sb_checksum("),
    (
        "drivers/nvdimm/pfn_devs.c",
        "static unsigned long *nd_pfn_supported_alignments(",
    ),
    (
        "drivers/nvdimm/pfn_devs.c",
        "static bool nd_supported_alignment(",
    ),
    ("drivers/nvdimm/pfn_devs.c", "int nd_pfn_validate("),
    (
        "drivers/nvdimm/pfn_devs.c",
        "static unsigned long init_altmap_base(",
    ),
    (
        "drivers/nvdimm/pfn_devs.c",
        "static unsigned long init_altmap_reserve(",
    ),
    (
        "drivers/nvdimm/pfn_devs.c",
        "static int __nvdimm_setup_pfn(",
    ),
    ("drivers/nvdimm/pfn_devs.c", "static int nd_pfn_init("),
    ("drivers/nvdimm/pfn_devs.c", "int nvdimm_setup_pfn("),
];

const PMEM_FUNCTIONS: &[Piece] = &[
    ("drivers/nvdimm/pmem.c", "static phys_addr_t pmem_to_phys("),
    ("drivers/nvdimm/pmem.c", "static phys_addr_t to_offset("),
    ("drivers/nvdimm/pmem.c", "__weak long __pmem_direct_access("),
];

/// Cuts pieces out of the kernel: a line if it is a macro, else all lines up to one that starts
/// with the closing brace.
fn cut(source: &Path, pieces: &[Piece], to: &Path) {
    let mut out = String::new();
    for (file, start) in pieces {
        let path = source.join(file);
        println!("cargo:rerun-if-changed={}", path.display());
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|err| panic!("{}: {err}; RPMEM_KSRC is wrong", path.display()));
        let from = text
            .lines()
            .position(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{}: no line starts with `{start}`", path.display()));
        let last = |line: &&str| start.starts_with('#') || line.starts_with('}');
        let len = text
            .lines()
            .skip(from)
            .position(|line| last(&line))
            .unwrap_or_else(|| panic!("{}: `{start}` does not end", path.display()));
        // Messages of the compiler name the kernel's file.
        out += &format!("#line {} \"{}\"\n", from + 1, path.display());
        for line in text.lines().skip(from).take(len + 1) {
            out += line;
            out += "\n";
        }
    }
    fs::write(to, out).expect("OUT_DIR is writable");
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn main() {
    for name in ["RPMEM_KSRC", "RPMEM_HOST_CC", "RPMEM_HOST_CFLAGS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=libnvdimm");
    let source = env::var_os("RPMEM_KSRC").map(PathBuf::from).expect(
        "RPMEM_KSRC, the kernel source, is not set: use scripts/cargo-tests, or scripts/in-root \
         after `. scripts/lib/env.sh`",
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for (pieces, name) in [
        (PFN_TYPES, "pfn_types.inc"),
        (PFN_FUNCTIONS, "pfn_functions.inc"),
        (PMEM_TYPES, "pmem_types.inc"),
        (PMEM_DEVICE, "pmem_device.inc"),
        (PMEM_FUNCTIONS, "pmem_functions.inc"),
    ] {
        cut(&source, pieces, &out.join(name));
    }

    let archive = out.join("liblibnvdimm.a");
    let _ = fs::remove_file(&archive);
    // struct page of production kernels, and a larger one as with memory debugging.
    for (file, page) in [("pfn", 64), ("pfn", 96), ("pmem", 64)] {
        let object = out.join(format!("{file}_{page}.o"));
        run(
            Command::new(env::var("RPMEM_HOST_CC").unwrap_or("cc".into()))
                // As the kernel's own build: signed numbers wrap, types may alias.
                .args(["-c", "-O2", "-g", "-std=gnu11", "-fPIC"])
                .args(["-fwrapv", "-fno-strict-aliasing", "-Wall", "-Werror"])
                .arg(format!("-DSTRUCT_PAGE_SIZE={page}"))
                .arg("-idirafter")
                .arg(source.join("include"))
                .arg("-I")
                .arg(&out)
                .args(
                    env::var("RPMEM_HOST_CFLAGS")
                        .unwrap_or_default()
                        .split_whitespace(),
                )
                .arg(format!("libnvdimm/{file}.c"))
                .arg("-o")
                .arg(&object),
        );
        run(Command::new("ar").arg("rcs").arg(&archive).arg(&object));
    }
    let object = out.join("uapi.o");
    println!("cargo:rerun-if-changed=../../include");
    run(
        Command::new(env::var("RPMEM_HOST_CC").unwrap_or("cc".into()))
            .args(["-c", "-O2", "-g", "-std=gnu11", "-fPIC", "-D_GNU_SOURCE"])
            .args(["-Wall", "-Wextra", "-Werror", "-I../../include/uapi"])
            .arg("libnvdimm/uapi.c")
            .arg("-o")
            .arg(&object),
    );
    run(Command::new("ar").arg("rcs").arg(&archive).arg(&object));
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static=libnvdimm");
}
