// SPDX-License-Identifier: MIT OR Apache-2.0

//go:build cgo

package main

// #include <rpmem.h>
import "C"

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is a synchronous mapping, which instructions of the CPU make durable; or a plain one, which
// msync(2) does, where the device has no others.
type memory struct {
	bytes       []byte
	synchronous bool
}

func mapFile(file *os.File, length int) (memory, error) {
	const rights = unix.PROT_READ | unix.PROT_WRITE
	bytes, err := unix.Mmap(int(file.Fd()), 0, length, rights, unix.MAP_SHARED_VALIDATE|unix.MAP_SYNC)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return memory{bytes, true}, err
	}
	bytes, err = unix.Mmap(int(file.Fd()), 0, length, rights, unix.MAP_SHARED)
	return memory{bytes, false}, err
}

// flush makes what was stored there durable.
func (m memory) flush(at, length int) error {
	if m.synchronous {
		C.rpmem_persist(unsafe.Pointer(&m.bytes[at]), C.size_t(length))
		return nil
	}
	// msync(2) counts in pages.
	start := at &^ (os.Getpagesize() - 1)
	return unix.Msync(m.bytes[start:at+length], unix.MS_SYNC)
}
