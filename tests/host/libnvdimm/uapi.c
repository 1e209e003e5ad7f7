// SPDX-License-Identifier: GPL-2.0
/* The header for applications, as a C compiler reads it: see src/uapi.rs. */
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/rpmem.h>

#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#define MAP_SYNC 0x80000
#endif

const struct {
	unsigned long long direct_window, map_direct;
	unsigned long long map_sync, map_shared, map_shared_validate, map_type;
	size_t info_size, prefault_size, prefault_done;
	unsigned int info, prefault, info_sync, info_pages, info_pinnable, prefault_write;
	size_t lease_size;
	unsigned int lease, lease_states[4];
} rpmem_uapi = {
	.direct_window = RPMEM_DIRECT_WINDOW,
	.map_direct = MAP_DIRECT,
	.map_sync = MAP_SYNC,
	.map_shared = MAP_SHARED,
	.map_shared_validate = MAP_SHARED_VALIDATE,
	.map_type = MAP_TYPE,
	.info_size = sizeof(struct rpmem_info),
	.prefault_size = sizeof(struct rpmem_prefault),
	.prefault_done = offsetof(struct rpmem_prefault, done),
	.info = RPMEM_INFO,
	.prefault = RPMEM_PREFAULT,
	.info_sync = RPMEM_INFO_SYNC,
	.info_pages = RPMEM_INFO_PAGES,
	.info_pinnable = RPMEM_INFO_PINNABLE,
	.prefault_write = RPMEM_PREFAULT_WRITE,
	.lease_size = sizeof(struct rpmem_lease),
	.lease = RPMEM_LEASE,
	.lease_states = {
		RPMEM_LEASE_HELD, RPMEM_LEASE_REMOVE, RPMEM_LEASE_READ_ONLY, RPMEM_LEASE_BROKEN,
	},
};

_Static_assert(sizeof(struct rpmem_info) == 32 && sizeof(struct rpmem_prefault) == 32 &&
	       sizeof(struct rpmem_lease) == 32,
	       "the tests have buffers of this size");

void rpmem_uapi_info(void *bytes, unsigned int flags, unsigned long long size,
		     unsigned long long huge_page)
{
	struct rpmem_info info = {
		.argsz = sizeof(info),
		.flags = flags,
		.size = size,
		.huge_page = huge_page,
	};

	memcpy(bytes, &info, sizeof(info));
}

void rpmem_uapi_prefault(void *bytes, unsigned int argsz, unsigned int flags,
			 unsigned long long addr, unsigned long long len)
{
	struct rpmem_prefault prefault = {
		.argsz = argsz,
		.flags = flags,
		.addr = addr,
		.len = len,
	};

	memcpy(bytes, &prefault, sizeof(prefault));
}

void rpmem_uapi_lease(void *bytes, unsigned int state, unsigned int breaks, long long left,
		      unsigned long long holders)
{
	struct rpmem_lease lease = {
		.argsz = sizeof(lease),
		.state = state,
		.breaks = breaks,
		.left = left,
		.holders = holders,
	};

	memcpy(bytes, &lease, sizeof(lease));
}
