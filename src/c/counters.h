/* SPDX-License-Identifier: GPL-2.0 */
/* Counters in debugfs. */
#ifndef RPMEM_COUNTERS_H
#define RPMEM_COUNTERS_H

void rpmem_helper_counters_init(void);
void rpmem_helper_counters_exit(void);

#endif /* RPMEM_COUNTERS_H */
