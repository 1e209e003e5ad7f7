/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The memory of /dev/rpmemN for users in the kernel: the lease that direct
 * mappings hold, on a range. Documentation/map_direct.md is the contract.
 */
#ifndef _LINUX_RPMEM_H
#define _LINUX_RPMEM_H

#include <linux/types.h>

struct file;
struct module;
struct rpmem_range;

/**
 * struct rpmem_range_ops - what a user of a range implements
 * @owner: the user's module; holders are named after it
 * @broken: the device is about to go away, or to become read-only. Called once,
 *	also before rpmem_range_get() has returned, in process context, under
 *	the lock of the device that libnvdimm takes for its attributes; it may
 *	sleep. The user has to end all use of the range and to call
 *	rpmem_range_put(), here or soon after: what the kernel uses cannot be
 *	revoked. Until then the range stays what and where it is, also when the
 *	device has gone: the memory cannot be bound again, nor leave the
 *	machine, and the task that unbinds waits, without locks, for as long as
 *	no signal ends that. To make it read-only waits for a range that can be
 *	written to, however long that takes, and may do so under that lock.
 */
struct rpmem_range_ops {
	struct module *owner;
	void (*broken)(struct rpmem_range *range);
};

/**
 * struct rpmem_range - memory of a device that a user in the kernel holds
 * @addr: where the kernel has it mapped, write-back cached
 * @phys: physical address of its first byte
 * @len: length in bytes
 * @writable: whether it may be written to
 * @private: the user's own
 */
struct rpmem_range {
	void *addr;
	phys_addr_t phys;
	u64 len;
	bool writable;
	void *private;
};

struct rpmem_range *rpmem_range_get(struct file *file, u64 offset, u64 len, bool write,
				    const struct rpmem_range_ops *ops, void *private);
void rpmem_range_put(struct rpmem_range *range);

#endif /* _LINUX_RPMEM_H */
