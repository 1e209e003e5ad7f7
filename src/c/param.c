// SPDX-License-Identifier: GPL-2.0
/*
 * The module parameter "exclude": a text that can be changed while the module
 * is loaded, for which the module! macro of Rust has no type.
 */
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "param.h"

/* What sysfs can show, with the newline. */
#define MAX_LEN (PAGE_SIZE - 2)

/* Under kernel_param_lock(). */
static char *exclude;

static int exclude_set(const char *val, const struct kernel_param *kp)
{
	char *text;
	int err;

	if (strlen(val) > MAX_LEN)
		return -ENOSPC;
	err = rpmem_rust_exclude_check(val);
	if (err)
		return err;
	text = kstrndup(val, strcspn(val, "\n"), GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	kfree(exclude);
	exclude = text;
	return 0;
}

static int exclude_get(char *buffer, const struct kernel_param *kp)
{
	return scnprintf(buffer, PAGE_SIZE, "%s\n", exclude ?: "");
}

static void exclude_free(void *arg)
{
	kfree(exclude);
	exclude = NULL;
}

static const struct kernel_param_ops exclude_ops = {
	.set = exclude_set,
	.get = exclude_get,
	.free = exclude_free,
};
module_param_cb(exclude, &exclude_ops, NULL, 0644);
/* For sparse, __builtin_strlen() of a literal is no constant. */
#ifndef __CHECKER__
__MODULE_PARM_TYPE(exclude, "string");
MODULE_PARM_DESC(exclude, "namespaces that are left to the kernel's own drivers: modes (raw, fsdax, sector, devdax), names, regions, UUIDs; !word takes back");
#endif

const char *rpmem_helper_exclude_lock(void)
{
	kernel_param_lock(THIS_MODULE);
	return exclude ?: "";
}

void rpmem_helper_exclude_unlock(void)
{
	kernel_param_unlock(THIS_MODULE);
}
