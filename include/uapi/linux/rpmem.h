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
/*
 * Flags of mmap(2). Where the bit means something else, they are all the bits of
 * the type of a mapping, which no kernel takes.
 *
 * MAP_DIRECT, with MAP_SHARED_VALIDATE, at an offset of the device is the same as
 * that offset in the direct window without it. Kernels that do not know the flag
 * say EOPNOTSUPP: take the window then, as rpmem_mmap() of lib/c/rpmem.h does.
 */
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE	0x03
#endif
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
#endif /* __KERNEL__ */

#endif /* _UAPI_LINUX_RPMEM_H */
