#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""A log on persistent memory that no power cut tears.

    rpmem_log.py DEVICE             show its records
    rpmem_log.py DEVICE --format    make an empty log, whatever is there
    rpmem_log.py DEVICE --append    a record of each line of standard input

The format is that of lib/rpmem/examples/append/log.rs. There is one writer at a time.
"""

import mmap
import os
import sys

SIZE = 1 << 20
MAGIC = b"rpmemlog"
VERSION = 1
# The header; how far the log is known to reach; records: checksum, length, data.
HEADER, KNOWN, FIRST, HEAD = 56, 64, 128, 16
ALL = (1 << 64) - 1


def crc_of_byte(n):
    for _ in range(8):
        n = n >> 1 ^ (0xC96C5795D7870F42 if n & 1 else 0)
    return n


TABLE = [crc_of_byte(n) for n in range(256)]


def checksum(data):
    """CRC-64 of xz."""
    crc = ALL
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ ALL


def word(n):
    return n.to_bytes(8, "little")


class NotOurs(Exception):
    """What is there is no log, or a damaged one."""


class Log:
    """The log in the first megabyte of a device."""

    def __init__(self, path):
        fd = os.open(path, os.O_RDWR)
        try:
            # stat(2) says 0 of a character device, and mmap(fd, 0) would go by that.
            self.size = min(os.lseek(fd, 0, os.SEEK_END), SIZE)
            # MAP_SHARED, to be read and written: a plain mapping.
            self.map = mmap.mmap(fd, self.size)
        finally:
            os.close(fd)

    def word(self, at):
        return int.from_bytes(self.map[at : at + 8], "little")

    def flush(self, at, length):
        """Make what was stored there durable: msync(2), which counts in pages."""
        start = at - at % mmap.PAGESIZE
        self.map.flush(start, at + length - start)

    def format(self):
        """Make an empty log."""
        header = MAGIC + word(VERSION) + word(self.size) + os.urandom(16)
        header = header.ljust(HEADER, b"\0")
        header += word(checksum(header))
        self.map[:FIRST] = header.ljust(FIRST, b"\0")
        self.flush(0, FIRST)

    def records(self):
        """Find the end; give each record on the way."""
        if self.map[:8] != MAGIC:
            raise NotOurs("no log; what is there may be in use by somebody else")
        if self.word(8) != VERSION:
            raise NotOurs(f"a log of version {self.word(8)}, not {VERSION}")
        if self.word(HEADER) != checksum(self.map[:HEADER]):
            raise NotOurs("a log with a damaged header")
        if self.word(16) > self.size:
            raise NotOurs(f"a log of {self.word(16)} bytes, which are not all there")
        self.size = self.word(16)
        self.end, self.last = FIRST, self.word(HEADER)
        while self.end + HEAD <= self.size:
            total, length = self.word(self.end), self.word(self.end + 8)
            # Of a torn record it is any number.
            if length > self.size - self.end - HEAD:
                break
            data = self.map[self.end + HEAD : self.end + HEAD + length]
            if total != self.checksum(data):
                break
            yield data
            self.end, self.last = self.end + taken(length), total
        if self.word(KNOWN) > self.end:
            raise NotOurs(f"the record at {self.end} is damaged")

    def checksum(self, data):
        """Of a record after the last one. What an older log has left does not have it."""
        return checksum(word(self.last) + word(len(data)) + data)

    def append(self, data):
        """Append a record. When this returns, no power cut takes it away."""
        length = taken(len(data))
        if length > self.size - self.end:
            raise NotOurs("the log is full")
        total = self.checksum(data)
        record = word(total) + word(len(data)) + data
        self.map[self.end : self.end + length] = record.ljust(length, b"\0")
        self.flush(self.end, length)
        self.end, self.last = self.end + length, total
        # Not before the record is durable: it says that it is. Durable with the next one.
        self.flush(KNOWN, 8)
        self.map[KNOWN : KNOWN + 8] = word(self.end)


def taken(length):
    return HEAD + (length + 7) // 8 * 8


def main(path, what=None):
    log = Log(path)
    if what == "--format":
        log.format()
        return
    for data in log.records():
        if what is None:
            sys.stdout.buffer.write(data + b"\n")
    if what == "--append":
        for count, line in enumerate(sys.stdin.buffer, 1):
            log.append(line.rstrip(b"\n"))
            print("acknowledged", count, flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--format"], ["--append"]):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except (OSError, NotOurs) as err:
        sys.exit(f"{sys.argv[1]}: {err}")
