// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build !cgo

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// memory is a plain mapping, which msync(2) makes durable. Any device has it.
type memory struct {
	bytes []byte
}

func mapFile(file *os.File, length int) (memory, error) {
	bytes, err := unix.Mmap(int(file.Fd()), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return memory{bytes}, err
}

// flush makes what was stored there durable.
func (m memory) flush(at, length int) error {
	// msync(2) counts in pages.
	start := at &^ (os.Getpagesize() - 1)
	return unix.Msync(m.bytes[start:at+length], unix.MS_SYNC)
}
