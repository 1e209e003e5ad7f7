// SPDX-License-Identifier: GPL-2.0
/*
 * Holds a range of /dev/rpmemN, as a driver would that does DMA to it, and says
 * in its parameters what it sees:
 *
 * get	writing "PATH OFFSET LEN r|w" gets a range, and 0 gives it back
 * put	when it is given back after ->broken: 0 when 0 is written to get, 1 in
 *	->broken itself, 2 later, by a work item
 * byte	reading and writing it is reading and writing the first byte of the range
 * phys, broken	where it is; how often ->broken was called
 * follow	writing "ADDRESS r|w" looks up an address of the writer as VFIO type 1
 *	and KVM do in mappings of page frames; reading says where that is
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/libnvdimm.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include <linux/rpmem.h>

static DEFINE_MUTEX(lock);
static struct rpmem_range *range;
static int broken;
static int put;

static void give_back(void)
{
	struct rpmem_range *old;

	mutex_lock(&lock);
	old = range;
	range = NULL;
	mutex_unlock(&lock);
	if (old)
		rpmem_range_put(old);
}

static void later(struct work_struct *work)
{
	give_back();
}
static DECLARE_WORK(work, later);

static void range_broken(struct rpmem_range *old)
{
	WRITE_ONCE(broken, broken + 1);
	if (WARN_ON(old->private != &work))
		return;
	if (put == 1)
		give_back();
	else if (put == 2)
		schedule_work(&work);
}

static const struct rpmem_range_ops ops = {
	.owner = THIS_MODULE,
	.broken = range_broken,
};

static int get_set(const char *text, const struct kernel_param *kp)
{
	struct rpmem_range *new;
	struct file *file;
	char path[64], mode;
	u64 offset, len;

	if (sysfs_streq(text, "0")) {
		give_back();
		return 0;
	}
	if (sscanf(text, "%63s %lli %lli %c", path, &offset, &len, &mode) != 4)
		return -EINVAL;
	file = filp_open(path, mode == 'w' ? O_RDWR : O_RDONLY, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	/* "x": to write what is open for reading. */
	new = rpmem_range_get(file, offset, len, mode != 'r', &ops, &work);
	fput(file);
	if (IS_ERR(new))
		return PTR_ERR(new);

	mutex_lock(&lock);
	if (range) {
		mutex_unlock(&lock);
		rpmem_range_put(new);
		return -EEXIST;
	}
	range = new;
	mutex_unlock(&lock);
	return 0;
}

static int get_get(char *text, const struct kernel_param *kp)
{
	return sysfs_emit(text, "%d\n", !!READ_ONCE(range));
}

static const struct kernel_param_ops get_ops = { .set = get_set, .get = get_get };
module_param_cb(get, &get_ops, NULL, 0600);

static int byte_set(const char *text, const struct kernel_param *kp)
{
	u8 value;
	int err;

	err = kstrtou8(text, 0, &value);
	if (err)
		return err;
	mutex_lock(&lock);
	if (range && range->writable) {
		*(u8 *)range->addr = value;
		arch_wb_cache_pmem(range->addr, 1);
	} else {
		err = -EROFS;
	}
	mutex_unlock(&lock);
	return err;
}

static int byte_get(char *text, const struct kernel_param *kp)
{
	int ret = -ENXIO;

	mutex_lock(&lock);
	if (range)
		ret = sysfs_emit(text, "%u\n", *(u8 *)range->addr);
	mutex_unlock(&lock);
	return ret;
}

static const struct kernel_param_ops byte_ops = { .set = byte_set, .get = byte_get };
module_param_cb(byte, &byte_ops, NULL, 0600);

static int phys_get(char *text, const struct kernel_param *kp)
{
	int ret = -ENXIO;

	mutex_lock(&lock);
	if (range)
		ret = sysfs_emit(text, "%llu\n", range->phys);
	mutex_unlock(&lock);
	return ret;
}

static const struct kernel_param_ops phys_ops = { .get = phys_get };
module_param_cb(phys, &phys_ops, NULL, 0400);
module_param(broken, int, 0400);
module_param(put, int, 0600);

static u64 followed;

static int follow_set(const char *text, const struct kernel_param *kp)
{
	struct follow_pfnmap_args args = {};
	struct mm_struct *mm = current->mm;
	bool unlocked;
	u64 addr;
	char mode;
	int err;

	if (sscanf(text, "%lli %c", &addr, &mode) != 2)
		return -EINVAL;
	mmap_read_lock(mm);
	do {
		unlocked = false;
		err = -EFAULT;
		args.address = addr;
		args.vma = vma_lookup(mm, addr);
		if (!args.vma || !(args.vma->vm_flags & VM_PFNMAP))
			break;
		err = follow_pfnmap_start(&args);
		if (!err)
			break;
		err = fixup_user_fault(mm, addr,
				       FAULT_FLAG_REMOTE | (mode == 'w' ? FAULT_FLAG_WRITE : 0),
				       &unlocked);
		if (!err && !unlocked)
			err = follow_pfnmap_start(&args);
	} while (!err && unlocked);
	if (!err) {
		WRITE_ONCE(followed, PFN_PHYS(args.pfn));
		if (mode == 'w' && !args.writable)
			err = -EFAULT;
		follow_pfnmap_end(&args);
	}
	mmap_read_unlock(mm);
	return err;
}

static int follow_get(char *text, const struct kernel_param *kp)
{
	return sysfs_emit(text, "%llu\n", READ_ONCE(followed));
}

static const struct kernel_param_ops follow_ops = { .set = follow_set, .get = follow_get };
module_param_cb(follow, &follow_ops, NULL, 0600);

static int __init user_init(void)
{
	return 0;
}

static void __exit user_exit(void)
{
	give_back();
	flush_work(&work);
}

module_init(user_init);
module_exit(user_exit);
MODULE_DESCRIPTION("Holds a range of persistent memory, for the tests of rpmem");
MODULE_LICENSE("GPL");
