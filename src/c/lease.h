/* SPDX-License-Identifier: GPL-2.0 */
/* What the lease of direct mappings needs of the kernel's inline functions. */
#ifndef RPMEM_LEASE_H
#define RPMEM_LEASE_H

#include <linux/sched.h>
#include <linux/types.h>

#include "../../include/linux/rpmem.h"

struct fasync_struct;
struct file;

/* A process, by its address space. */
struct rpmem_process {
	unsigned long mm;
	pid_t pid;
	char comm[TASK_COMM_LEN];
};

void rpmem_helper_processes(struct rpmem_process *all, size_t count, bool first_ns);
bool rpmem_helper_fasync_closed(struct file *file, struct fasync_struct **list);
void rpmem_helper_lease_init(void);
void rpmem_helper_lease_exit(void);
int rpmem_helper_lease_break_time(void);
struct file *rpmem_helper_get_file(struct file *file);
const char *rpmem_helper_module_name(struct module *module);

/* In Rust. */
struct rpmem_range *rpmem_rust_range_get(struct file *file, u64 offset, u64 len, bool write,
					 const struct rpmem_range_ops *ops, void *private);
void rpmem_rust_range_put(struct rpmem_range *range);

#endif /* RPMEM_LEASE_H */
