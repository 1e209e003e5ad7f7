/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the series of Linux, for C. The Rust side has
 * src/abstractions/compat.rs; nothing else of the driver knows a version.
 */
#ifndef RPMEM_COMPAT_H
#define RPMEM_COMPAT_H

#include <linux/version.h>

/* Oldest series; Kbuild and scripts warn of those that are newer than known. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 2, 0)
#error "rpmem supports Linux 7.2 and later: build against such a kernel (make KDIR=...)"
#endif

#endif /* RPMEM_COMPAT_H */
