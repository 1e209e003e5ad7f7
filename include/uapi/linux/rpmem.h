/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/rpmemN: persistent memory mapped by applications without a file system.
 * The contract is in Documentation/mmap.md.
 */
#ifndef _UAPI_LINUX_RPMEM_H
#define _UAPI_LINUX_RPMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * The bytes of the device appear a second time from this file offset on. What
 * is mapped there is a direct mapping for as long as it lives.
 */
#define RPMEM_DIRECT_WINDOW	(1ULL << 60)

#define RPMEM_IOC		0xbd

/*
 * What the device is. The caller sets argsz to sizeof(struct rpmem_info); the
 * kernel fills in as much as it knows, at most that, and says in argsz how much
 * it knows.
 */
struct rpmem_info {
	__u32 argsz;
	__u32 flags;		/* RPMEM_INFO_* */
	__u64 size;		/* bytes that can be mapped */
	__u64 huge_page;	/* largest entry that a mapping can have, bytes */
	__u64 reserved;		/* 0 */
};

#define RPMEM_INFO_SYNC		(1U << 0)	/* MAP_SYNC is possible */
#define RPMEM_INFO_PAGES	(1U << 1)	/* there are struct pages */
#define RPMEM_INFO_PINNABLE	(1U << 2)	/* mappings can be pinned: O_DIRECT, RDMA, ... */

#define RPMEM_INFO		_IO(RPMEM_IOC, 0)

/*
 * Map pages of this device in this process ahead of any access, with the
 * largest entries that are possible. addr and len are in whole pages. done says
 * how many bytes were mapped, also when it fails: EINVAL for an unknown flag, a
 * bad argsz, or a range that is not a mapping of this device; ENOMEM where
 * nothing is mapped or memory is short; EFAULT without access to it; EHWPOISON
 * at a bad page; EAGAIN if entries are taken away as fast as they are made; EINTR.
 */
struct rpmem_prefault {
	__u32 argsz;
	__u32 flags;		/* RPMEM_PREFAULT_* */
	__u64 addr;
	__u64 len;
	__u64 done;
};

#define RPMEM_PREFAULT_WRITE	(1U << 0)	/* as if it was stored to */

#define RPMEM_PREFAULT		_IO(RPMEM_IOC, 1)

/*
 * Direct mappings hold a lease: the memory is not taken from them without
 * notice (EPOLLPRI on the file; SIGIO, or what F_SETSIG asked for, with O_ASYNC)
 * and time to end them. The caller sets argsz as for RPMEM_INFO.
 */
struct rpmem_lease {
	__u32 argsz;
	__u32 state;		/* RPMEM_LEASE_* */
	__u32 breaks;		/* notices since the namespace was bound */
	__u32 reserved;		/* 0 */
	__s64 left;		/* ms until it is taken, -1: for ever; 0 if it is not to be */
	__u64 holders;		/* direct mappings, and users in the kernel */
};

#define RPMEM_LEASE_HELD	0	/* nothing to say */
#define RPMEM_LEASE_REMOVE	1	/* being broken: the memory goes away */
#define RPMEM_LEASE_READ_ONLY	2	/* being broken: it becomes read-only */
#define RPMEM_LEASE_BROKEN	3	/* the memory has gone, for good */

#define RPMEM_LEASE		_IO(RPMEM_IOC, 2)

#ifndef __KERNEL__
/* With a C library. */
#if __STDC_HOSTED__
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>
#endif

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE	0x03
#endif
#ifndef MAP_POPULATE
#define MAP_POPULATE		0x8000
#endif

/*
 * Flags of mmap(2). Where the bit means something else, they are all the bits of
 * the type of a mapping, which no kernel takes.
 *
 * MAP_DIRECT, with MAP_SHARED_VALIDATE, at an offset of the device is the same as
 * that offset in the direct window without it. Kernels that do not know the flag
 * say EOPNOTSUPP: rpmem_mmap() then takes the window.
 */
#ifndef MAP_SYNC
#if defined(__alpha__) || defined(__hppa__) || defined(__mips__) || defined(__xtensa__)
#define MAP_SYNC		MAP_TYPE
#else
#define MAP_SYNC		0x80000
#endif
#endif
#ifndef MAP_DIRECT
#if defined(__alpha__) || defined(__hppa__)
#define MAP_DIRECT		MAP_TYPE
#else
#define MAP_DIRECT		0x200000
#endif
#endif

/* What made a mapping a direct one. */
#define RPMEM_VIA_FLAG		1
#define RPMEM_VIA_WINDOW	2

#if __STDC_HOSTED__
/* Whether the bytes of a file from @offset on are in its direct window as well. */
static inline int rpmem_has_window(int fd, off_t offset)
{
	struct rpmem_info info;

	info.argsz = sizeof(info);
	info.size = 0;
	/* Offsets of mmap(2) end at 1 << 44 in a program of 32 bits. */
	return sizeof(long) >= 8 && !ioctl(fd, RPMEM_INFO, &info) && offset >= 0 &&
	       (__u64)offset < info.size;
}

/*
 * mmap(2) of such a device, on a kernel that knows MAP_DIRECT or not. If it made
 * a direct mapping, *via says how, else it is 0; via may be NULL. Errors are those
 * of mmap(2). A file that is not such a device, and a program of 32 bits on a
 * kernel that does not know the flag, get EOPNOTSUPP for MAP_DIRECT.
 *
 * MAP_POPULATE, which the kernel skips for mappings without struct pages, maps
 * all pages ahead of any access, as far as possible.
 */
static inline void *rpmem_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset,
			       int *via)
{
	const off_t window = sizeof(off_t) >= 8 ? (off_t)RPMEM_DIRECT_WINDOW : 0;
	const int direct = (flags & MAP_DIRECT) == MAP_DIRECT;
	const int saved = errno;
	struct rpmem_prefault prefault;
	int how = 0;
	void *ptr;

	if (via)
		*via = 0;
	/* Without validation the kernel ignores the flag for other files. */
	if (direct && (flags & MAP_TYPE) != MAP_SHARED_VALIDATE) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	ptr = mmap(addr, len, prot, flags, fd, offset);
	if (direct && ptr != MAP_FAILED) {
		how = RPMEM_VIA_FLAG;
	} else if (direct && errno == EOPNOTSUPP) {
		if (window && offset >= window)
			offset -= window;
		if (!rpmem_has_window(fd, offset)) {
			errno = EOPNOTSUPP;
			return MAP_FAILED;
		}
		ptr = mmap(addr, len, prot, flags & ~MAP_DIRECT, fd, offset + window);
		how = RPMEM_VIA_WINDOW;
	} else if (window && offset >= window && ptr != MAP_FAILED &&
		   rpmem_has_window(fd, offset - window)) {
		how = RPMEM_VIA_WINDOW;
	}
	if (ptr == MAP_FAILED)
		return ptr;
	if (via)
		*via = how;
	if ((flags & MAP_POPULATE) && prot != PROT_NONE) {
		prefault.argsz = sizeof(prefault);
		prefault.flags = prot & PROT_WRITE ? RPMEM_PREFAULT_WRITE : 0;
		prefault.addr = (__u64)(unsigned long)ptr;
		prefault.len = (len + 4095) / 4096 * 4096;
		prefault.done = 0;
		/* As with mmap(2), a page that cannot be populated is no error. */
		(void)ioctl(fd, RPMEM_PREFAULT, &prefault);
	}
	errno = saved;
	return ptr;
}
#endif
#endif /* __KERNEL__ */

#endif /* _UAPI_LINUX_RPMEM_H */
