// SPDX-License-Identifier: GPL-2.0
//! Writer of newc archives, the format of an initramfs.
//!
//! The kernel unpacks concatenated archives one after the other, so a small one written here puts
//! the files of one boot on top of the big base image.

pub struct Archive {
    buf: Vec<u8>,
    inode: u32,
}

impl Archive {
    pub fn new() -> Self {
        Archive {
            buf: Vec::new(),
            inode: 0,
        }
    }

    pub fn dir(&mut self, path: &str) {
        self.entry(path, 0o040755, &[]);
    }

    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entry(path, 0o100000 | mode, data);
    }

    /// Character device node; the kernel opens /dev/console before init mounts anything.
    pub fn chardev(&mut self, path: &str, major: u32, minor: u32) {
        self.raw(path, 0o020600, &[], major, minor);
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.raw(path, mode, data, 0, 0);
    }

    fn raw(&mut self, path: &str, mode: u32, data: &[u8], major: u32, minor: u32) {
        self.inode += 1;
        // High inode numbers: they must not be taken for hard links into the base image.
        let ino = 0x4000_0000 + self.inode;
        let name = path.trim_start_matches('/');
        let nlink = if mode & 0o170000 == 0o040000 { 2 } else { 1 };
        let fields = [
            ino,
            mode,
            0,
            0,
            nlink,
            0,
            u32::try_from(data.len()).expect("file below 4 GiB"),
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        self.buf.extend_from_slice(b"070701");
        for f in fields {
            self.buf.extend_from_slice(format!("{f:08X}").as_bytes());
        }
        self.buf.extend_from_slice(name.as_bytes());
        self.buf.push(0);
        self.pad(4);
        self.buf.extend_from_slice(data);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        while self.buf.len() % to != 0 {
            self.buf.push(0);
        }
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.raw("TRAILER!!!", 0, &[], 0, 0);
        self.pad(512);
        self.buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(b: &[u8], n: usize) -> u32 {
        let at = 6 + n * 8;
        u32::from_str_radix(std::str::from_utf8(&b[at..at + 8]).unwrap(), 16).unwrap()
    }

    #[test]
    fn layout() {
        let mut a = Archive::new();
        a.file("/init", 0o755, b"hello");
        let out = a.finish();
        assert_eq!(&out[..6], b"070701");
        assert_eq!(field(&out, 1), 0o100755);
        assert_eq!(field(&out, 6), 5);
        assert_eq!(field(&out, 11), 5);
        // 110 bytes of header, "init\0", padded to 116, then the data padded to 124.
        assert_eq!(&out[110..115], b"init\0");
        assert_eq!(&out[116..121], b"hello");
        assert_eq!(&out[124..130], b"070701");
        assert_eq!(&out[124 + 110..124 + 120], b"TRAILER!!!");
        assert_eq!(out.len() % 512, 0);
    }

    #[test]
    fn empty_file_and_directory() {
        let mut a = Archive::new();
        a.dir("etc");
        a.file("etc/x", 0o644, b"");
        a.chardev("dev/console", 5, 1);
        let out = a.finish();
        assert_eq!(field(&out, 1), 0o040755);
        let second = 116;
        assert_eq!(&out[second..second + 6], b"070701");
        assert_eq!(field(&out[second..], 6), 0);
        let third = second + 116;
        assert_eq!(field(&out[third..], 1), 0o020600);
        assert_eq!((field(&out[third..], 9), field(&out[third..], 10)), (5, 1));
    }
}
