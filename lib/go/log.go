// SPDX-License-Identifier: MIT OR Apache-2.0

// Command log is a log on persistent memory that no power cut tears.
//
//	log DEVICE             show its records
//	log DEVICE --format    make an empty log, whatever is there
//	log DEVICE --append    a record of each line of standard input
//
// The format is that of lib/rpmem/examples/append/log.rs. There is one writer at a time.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
)

const (
	size    = 1 << 20
	magic   = "rpmemlog"
	version = 1

	// The header; how far the log is known to reach; records: checksum, length, data.
	header = 56
	known  = 64
	first  = 128
	head   = 16
)

var (
	errNoLog   = errors.New("no log; what is there may be in use by somebody else")
	errHeader  = errors.New("a log with a damaged header")
	errLogFull = errors.New("the log is full")

	// With Go's inversions it is the CRC-64 of xz.
	table = crc64.MakeTable(crc64.ECMA)
	word  = binary.LittleEndian
)

// Log is the log in the first megabyte of a device.
type Log struct {
	memory memory
	bytes  []byte
	end    uint64
	last   uint64 // the checksum of the last record
}

// Open maps the device; Format or Replay comes next.
func Open(path string) (*Log, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	// The mapping lives on without it.
	defer file.Close()
	// Stat says 0 of a character device.
	length, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	memory, err := mapFile(file, int(min(length, size)))
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &Log{memory: memory, bytes: memory.bytes}, nil
}

// Format makes an empty log.
func (l *Log) Format() error {
	if len(l.bytes) < first {
		return errLogFull
	}
	new := make([]byte, first)
	copy(new, magic)
	word.PutUint64(new[8:], version)
	word.PutUint64(new[16:], uint64(len(l.bytes)))
	rand.Read(new[24:40])
	word.PutUint64(new[header:], crc64.Checksum(new[:header], table))
	copy(l.bytes, new)
	return l.memory.flush(0, first)
}

// Replay finds the end of the log, and gives each record on the way.
func (l *Log) Replay(record func([]byte)) error {
	if len(l.bytes) < first || string(l.bytes[:8]) != magic {
		return errNoLog
	}
	if v := word.Uint64(l.bytes[8:]); v != version {
		return fmt.Errorf("a log of version %d, not %d", v, version)
	}
	l.last = word.Uint64(l.bytes[header:])
	if l.last != crc64.Checksum(l.bytes[:header], table) {
		return errHeader
	}
	all := word.Uint64(l.bytes[16:])
	if all > uint64(len(l.bytes)) {
		return fmt.Errorf("a log of %d bytes, which are not all there", all)
	}
	l.bytes = l.bytes[:all]
	for l.end = first; l.end+head <= all; {
		rest := l.bytes[l.end:]
		sum, length := word.Uint64(rest), word.Uint64(rest[8:])
		// Of a torn record it is any number.
		if length > uint64(len(rest)-head) {
			break
		}
		data := rest[head : head+length]
		if sum != l.checksum(data) {
			break
		}
		record(data)
		l.end, l.last = l.end+taken(length), sum
	}
	if word.Uint64(l.bytes[known:]) > l.end {
		return fmt.Errorf("the record at %d is damaged", l.end)
	}
	return nil
}

// checksum is that of a record after the last one. What an older log has left does not have it.
func (l *Log) checksum(data []byte) uint64 {
	before := word.AppendUint64(nil, l.last)
	before = word.AppendUint64(before, uint64(len(data)))
	return crc64.Update(crc64.Checksum(before, table), table, data)
}

// Append appends a record. When it returns nil, no power cut takes it away.
func (l *Log) Append(data []byte) error {
	length := taken(uint64(len(data)))
	if length > uint64(len(l.bytes))-l.end {
		return errLogFull
	}
	sum := l.checksum(data)
	record := make([]byte, 0, length)
	record = word.AppendUint64(record, sum)
	record = word.AppendUint64(record, uint64(len(data)))
	record = append(record, data...)
	copy(l.bytes[l.end:], record[:length])
	if err := l.memory.flush(int(l.end), int(length)); err != nil {
		return err
	}
	l.end, l.last = l.end+length, sum
	// Not before the record is durable: it says that it is. Durable with the next one.
	if err := l.memory.flush(known, 8); err != nil {
		return err
	}
	word.PutUint64(l.bytes[known:], l.end)
	return nil
}

func taken(length uint64) uint64 {
	return head + (length+7)/8*8
}

func run(path, what string) error {
	log, err := Open(path)
	if err != nil {
		return err
	}
	if what == "--format" {
		return log.Format()
	}
	err = log.Replay(func(data []byte) {
		if what == "" {
			fmt.Printf("%s\n", data)
		}
	})
	if err != nil || what == "" {
		return err
	}
	lines := bufio.NewReader(os.Stdin)
	for count := 1; ; count++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := log.Append(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
		fmt.Println("acknowledged", count)
	}
}

func main() {
	args := append(os.Args[1:], "")
	if len(args) < 2 || len(args) > 3 || args[1] != "" && args[1] != "--format" && args[1] != "--append" {
		fmt.Fprintln(os.Stderr, "usage: log DEVICE [--format | --append]")
		os.Exit(2)
	}
	if err := run(args[0], args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		os.Exit(1)
	}
}
