// SPDX-License-Identifier: GPL-2.0
/*
 * What nfit_test and ndctl's own tests want of dax_pmem.ko, and no driver: whatever
 * loads it, the namespaces are rpmem's.
 */
#include <linux/module.h>
#include <linux/printk.h>

#include "watermark.h"

nfit_test_watermark(dax_pmem);

MODULE_DESCRIPTION("dax_pmem of nfit_test without its driver");
MODULE_LICENSE("GPL");
