/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the series of Linux, for C. The Rust side has
 * src/abstractions/compat.rs; nothing else of the driver knows a version.
 */
#ifndef RPMEM_COMPAT_H
#define RPMEM_COMPAT_H

#include <linux/version.h>

/* The oldest series. scripts/kbuild/check-kdir warns of those that are newer than known. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 2, 0)
#error "rpmem supports Linux 7.2 and later: build against such a kernel (make KDIR=...)"
#endif

/* From 7.3 on a kernel thread sees no files, but by the root of the first process. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#define rpmem_scoped_with_init_fs()	scoped_with_init_fs()
#else
#define rpmem_scoped_with_init_fs()
#endif

#endif /* RPMEM_COMPAT_H */
