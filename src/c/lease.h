/* SPDX-License-Identifier: GPL-2.0 */
/* What the lease of direct mappings needs of the kernel's inline functions. */
#ifndef RPMEM_LEASE_H
#define RPMEM_LEASE_H

#include <linux/types.h>

struct fasync_struct;
struct file;
struct mm_struct;

pid_t rpmem_helper_process_of(const struct mm_struct *mm, char *comm);
bool rpmem_helper_fasync_closed(struct file *file, struct fasync_struct **list);
int rpmem_helper_lease_break_time(void);

#endif /* RPMEM_LEASE_H */
