// SPDX-License-Identifier: GPL-2.0
//! What differs between the architectures of guests, as data. What a kernel can do is for its
//! configuration to say, see `needs` in spec.rs.

#[derive(Debug)]
pub struct Arch {
    /// Debian's name, as RPMEM_ARCH and fixtures have it.
    pub name: &'static str,
    pub qemu: &'static str,
    /// Of `-machine`.
    pub machine: &'static str,
    /// Of `-cpu`, under TCG.
    pub cpu: &'static str,
    /// More of it, to address terabytes.
    pub wide: &'static str,
    /// Firmware, and by what the guest ends QEMU with a status of its own.
    pub board: &'static [&'static str],
    /// Where KTAP comes from; the console is the first serial port.
    pub channel: [&'static str; 2],
    /// The kernel's name of the console.
    pub console: &'static str,
    /// More for the kernel.
    pub cmdline: &'static str,
    /// More for it where durable.c follows stores, or instructions are counted: without those that do the
    /// work of many.
    pub followed: &'static str,
    /// There the guest's memory is a memfd of QEMU's, in which durable.c finds page tables.
    pub memfd: bool,
    /// The bars of benchmarks are for it.
    pub barred: bool,
    /// What writes a cache line back there, as the kernel does it.
    pub write_back: &'static str,
    /// Guests have the time-stamp counter of the host, and measure how fast that is.
    pub tsc: bool,
}

pub static ALL: [Arch; 2] = [
    Arch {
        name: "amd64",
        qemu: "qemu-system-x86_64",
        machine: "q35",
        // Everything TCG can emulate, except fast string instructions: it emulates those byte by
        // byte, and without them the kernel copies and clears by words, eight times faster.
        cpu: "max,-erms,-fsrm,-fsrs,-fzrm",
        wide: ",phys-bits=46",
        board: &["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"],
        channel: ["-serial", "chardev:ktap"],
        console: "ttyS0",
        // The kernel measures whether the timer ticks; on a busy host the emulated one can look dead.
        cmdline: "no_timer_check",
        followed: "",
        memfd: false,
        barred: true,
        write_back: "clwb",
        tsc: true,
    },
    Arch {
        name: "arm64",
        qemu: "qemu-system-aarch64",
        // NVDIMMs are described by ACPI alone, for which the firmware is there.
        machine: "virt,gic-version=3,acpi=on",
        // With an algorithm for the authentication of pointers that is no work to emulate.
        cpu: "max,pauth-impdef=on",
        wide: "",
        board: &[
            "-bios",
            "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
            "-semihosting-config",
            "enable=on,userspace=on,target=native",
        ],
        channel: ["-device", "pci-serial,chardev=ktap"],
        console: "ttyAMA0",
        cmdline: "",
        // Those that copy and set memory.
        followed: "arm64.nomops",
        memfd: true,
        barred: false,
        write_back: "dc cvap",
        tsc: false,
    },
];

/// The one of that name.
pub fn named(name: &str) -> Result<&'static Arch, String> {
    ALL.iter().find(|a| a.name == name).ok_or_else(|| {
        let all: Vec<&str> = ALL.iter().map(|a| a.name).collect();
        format!("no architecture {name}, there are {}", all.join(", "))
    })
}
