// SPDX-License-Identifier: GPL-2.0
//! The QEMU command line for a fixture. Pure: names files, touches none.

use crate::arch::Arch;
use crate::monitor;
use crate::spec::Fixture;
use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Tcg,
    Kvm,
}

impl Accel {
    pub fn name(self) -> &'static str {
        match self {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        }
    }
}

pub enum Serial {
    /// printk goes to console.log, KTAP to QEMU's standard output.
    Logged,
    /// The console is the user's terminal.
    Interactive,
}

pub struct Machine<'a> {
    pub arch: &'static Arch,
    pub fixture: &'a Fixture,
    pub accel: Accel,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub cmdline: &'a str,
    /// Holds the backing files.
    pub dir: &'a Path,
    /// Where console.log goes.
    pub logs: &'a Path,
    /// The Debian host that has the package, see scripts/hosts/system.
    pub system: &'a Path,
    /// Programs in other languages, see scripts/stages/languages.
    pub languages: &'a Path,
    /// vmlinuz, for guests that start it themselves.
    pub packed: &'a Path,
    /// Shown to the guest by the firmware's configuration, where the initramfs is not ours.
    pub plan: Option<&'a Path>,
    pub serial: Serial,
}

/// Its name there, as tests/guest/src/init.rs knows it.
const PLAN: &str = "opt/rpmem/plan";

/// Bytes of devices that an emulated CPU may be too narrow to address.
const WIDE: u64 = 1 << 39;

fn path(p: &Path) -> String {
    // A comma in an option value is written twice.
    p.display().to_string().replace(',', ",,")
}

/// Backing files with their sizes.
pub fn backing(f: &Fixture) -> Vec<(String, u64)> {
    let dimms = f
        .nvdimms
        .iter()
        .enumerate()
        .map(|(i, d)| (format!("nvdimm{i}.img"), d.backing()));
    let files = f.files.iter().map(|i| (i.name.clone(), i.size));
    dimms.chain(files).collect()
}

pub fn args(m: &Machine) -> Vec<String> {
    let f = m.fixture;
    let mut a: Vec<String> = Vec::new();
    let mut push = |s: &[&str]| a.extend(s.iter().map(|s| s.to_string()));
    let mib = f.memory >> 20;

    push(&[
        "-name",
        "rpmem",
        "-no-user-config",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
    ]);
    let mut machine = String::from(m.arch.machine);
    if !f.nvdimms.is_empty() {
        machine += ",nvdimm=on";
    }
    if let Some(p) = &f.persistence {
        machine += &format!(",nvdimm-persistence={p}");
    }
    push(&["-machine", &machine]);
    let features = f.features.iter().fold(String::new(), |s, f| s + "," + f);
    let size: u64 = backing(f).iter().map(|(_, size)| size).sum();
    let wide = if size < WIDE { "" } else { m.arch.wide };
    let (accel, cpu, wide) = match m.accel {
        Accel::Tcg => ("tcg", m.arch.cpu, wide),
        Accel::Kvm => ("kvm", "host", ""),
    };
    push(&["-accel", accel, "-cpu", &format!("{cpu}{wide}{features}")]);
    if let Some(shift) = f.icount {
        // An idle machine does not wait: its clock goes on to the next timer.
        push(&["-icount", &format!("shift={shift},sleep=off")]);
    }
    if f.nvdimms.is_empty() && f.files.is_empty() {
        push(&["-m", &format!("{mib}M")]);
    } else {
        // Devices are placed at their own alignment: leave room between them.
        let devices: u64 = backing(f).iter().map(|(_, s)| (s + (4 << 30)) >> 20).sum();
        let slots = f.nvdimms.len() + f.files.len() + 2;
        push(&[
            "-m",
            &format!("{mib}M,slots={slots},maxmem={}M", mib + devices),
        ]);
    }
    push(&["-smp", &f.cpus.to_string()]);
    push(&["-kernel", &m.kernel.display().to_string()]);
    push(&["-initrd", &m.initrd.display().to_string()]);
    push(&["-append", m.cmdline]);
    push(m.arch.board);
    if let Some(plan) = m.plan {
        push(&["-fw_cfg", &format!("name={PLAN},file={}", path(plan))]);
    }

    match m.serial {
        Serial::Logged => {
            let con = path(&m.logs.join("console.log"));
            let con = format!("file,id=con,append=on,path={con}");
            push(&["-chardev", &con, "-serial", "chardev:con"]);
            push(&["-chardev", "stdio,id=ktap,signal=off"]);
            push(&m.arch.channel);
        }
        Serial::Interactive => push(&["-serial", "mon:stdio"]),
    }
    if matches!(m.serial, Serial::Logged) && !f.monitor.is_empty() {
        push(&monitor::args().each_ref().map(String::as_str));
    }

    for (i, d) in f.nvdimms.iter().enumerate() {
        let file = path(&m.dir.join(format!("nvdimm{i}.img")));
        let mut obj = format!(
            "memory-backend-file,id=nv{i},share=on,mem-path={file},size={}",
            d.backing()
        );
        obj += &format!(",align={}", d.align());
        if d.readonly {
            obj += ",readonly=on";
        }
        let mut dev = format!("nvdimm,id=dimm{i},memdev=nv{i}");
        if d.label_size > 0 {
            dev += &format!(",label-size={}", d.label_size);
        }
        if let Some(u) = &d.uuid {
            dev += &format!(",uuid={u}");
        }
        if let Some(n) = d.node {
            dev += &format!(",node={n}");
        }
        if d.readonly || d.unarmed {
            dev += ",unarmed=on";
        }
        push(&["-object", &obj, "-device", &dev]);
    }
    for e in &f.extra {
        push(&[&e
            .replace("{dir}", &path(m.dir))
            .replace("{kernel}", &path(m.packed))
            .replace("{initrd}", &path(m.initrd))
            .replace("{languages}", &path(m.languages))
            .replace("{system}", &path(m.system))]);
    }
    a
}

/// For the log, such that it can be pasted into a shell.
pub fn quoted(args: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/@%".contains(c);
    let quote = |s: &String| {
        if !s.is_empty() && s.chars().all(plain) {
            s.clone()
        } else {
            format!("'{}'", s.replace('\'', "'\\''"))
        }
    };
    args.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch;
    use crate::spec::{self, Image, Nvdimm};

    fn line(f: &Fixture, accel: Accel) -> String {
        line_of("amd64", f, accel)
    }

    fn line_of(name: &str, f: &Fixture, accel: Accel) -> String {
        let m = Machine {
            arch: arch::named(name).unwrap(),
            fixture: f,
            accel,
            kernel: Path::new("/k"),
            initrd: Path::new("/i"),
            cmdline: "a b",
            dir: Path::new("/d"),
            logs: Path::new("/d/l"),
            system: Path::new("/s"),
            languages: Path::new("/l"),
            packed: Path::new("/z"),
            plan: None,
            serial: Serial::Logged,
        };
        quoted(&args(&m))
    }

    #[test]
    fn nvdimms() {
        let f = spec::fixture(
            "f",
            r#"{"memory":"512M","cpus":1,"nvdimms":[{"size":"1G","label_size":"128K"},{"size":"64M","readonly":true}]}"#,
        )
        .unwrap();
        let l = line(&f, Accel::Tcg);
        assert!(l.contains("-machine q35,nvdimm=on -accel tcg -cpu max,-erms,-fsrm,-fsrs,-fzrm -m 512M,slots=4,maxmem=9794M -smp 1"), "{l}");
        assert!(l.contains("memory-backend-file,id=nv0,share=on,mem-path=/d/nvdimm0.img,size=1075838976,align=2097152 -device nvdimm,id=dimm0,memdev=nv0,label-size=131072"), "{l}");
        assert!(
            l.contains(",readonly=on -device nvdimm,id=dimm1,memdev=nv1,unarmed=on"),
            "{l}"
        );
        assert!(l.contains("-append 'a b'"), "{l}");
        assert!(
            l.contains("-no-reboot") && l.contains("isa-debug-exit,iobase=0xf4"),
            "{l}"
        );
    }

    #[test]
    fn arm64() {
        let f = spec::fixture("f", r#"{"nvdimms":[{"size":"1G"}],"persistence":"cpu"}"#).unwrap();
        let l = line_of("arm64", &f, Accel::Tcg);
        assert!(
            l.contains("-machine virt,gic-version=3,acpi=on,nvdimm=on,nvdimm-persistence=cpu "),
            "{l}"
        );
        assert!(l.contains("-cpu max,pauth-impdef=on "), "{l}");
        assert!(
            l.contains("-bios /usr/share/qemu-efi-aarch64/QEMU_EFI.fd "),
            "{l}"
        );
        assert!(
            l.contains("-serial chardev:con ") && l.contains("-device pci-serial,chardev=ktap "),
            "{l}"
        );
        assert!(!l.contains("isa-debug-exit"), "{l}");
    }

    #[test]
    fn without_nvdimm() {
        let mut f = spec::fixture("f", "{}").unwrap();
        f.icount = Some(0);
        let l = line(&f, Accel::Tcg);
        assert!(
            l.contains("-machine q35 ") && l.contains("-icount shift=0,sleep=off"),
            "{l}"
        );
        assert!(!l.contains("slots"), "{l}");
        assert!(line(&f, Accel::Kvm).contains("-accel kvm -cpu host"));
        f.features = Some("-x,+y".into());
        assert!(line(&f, Accel::Tcg).contains(",-fzrm,-x,+y "), "{f:?}");
    }

    #[test]
    fn terabytes() {
        let f = spec::fixture("f", r#"{"nvdimms":[{"size":"1T"}]}"#).unwrap();
        assert!(line(&f, Accel::Tcg).contains(",-fzrm,phys-bits=46 "));
        assert!(line(&f, Accel::Kvm).contains("-cpu host "));
        assert!(line_of("arm64", &f, Accel::Tcg).contains("-cpu max,pauth-impdef=on "));
    }

    #[test]
    fn commas_and_files() {
        let f = Fixture {
            memory: 1 << 30,
            cpus: 1,
            nvdimms: vec![Nvdimm {
                size: 1 << 20,
                ..Default::default()
            }],
            files: vec![Image {
                name: "v.img".into(),
                size: 1 << 20,
                ..Default::default()
            }],
            extra: vec![
                "mem-path={dir}/v.img".into(),
                "file={system}/x.img".into(),
                "file={kernel},{initrd},{languages}".into(),
            ],
            ..Default::default()
        };
        let m = Machine {
            arch: arch::named("amd64").unwrap(),
            fixture: &f,
            accel: Accel::Tcg,
            kernel: Path::new("/k"),
            initrd: Path::new("/i"),
            cmdline: "",
            dir: Path::new("/a,b"),
            logs: Path::new("/a,b"),
            system: Path::new("/s"),
            languages: Path::new("/l"),
            packed: Path::new("/z"),
            plan: Some(Path::new("/a,b/plan")),
            serial: Serial::Interactive,
        };
        let a = args(&m);
        assert!(a.contains(&"mem-path=/a,,b/v.img".to_string()), "{a:?}");
        assert!(a.contains(&"file=/s/x.img".to_string()), "{a:?}");
        assert!(a.contains(&"file=/z,/i,/l".to_string()), "{a:?}");
        let plan = "name=opt/rpmem/plan,file=/a,,b/plan".to_string();
        assert!(a.contains(&plan), "{a:?}");
        assert_eq!(backing(&f).len(), 2);
        assert_eq!(quoted(&["it's".to_string()]), r"'it'\''s'");
    }
}
