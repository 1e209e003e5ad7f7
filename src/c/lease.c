// SPDX-License-Identifier: GPL-2.0
#include <linux/bsearch.h>
#include <linux/cred.h>
#include <linux/err.h>
#include <linux/export.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>

#include "lease.h"

static int compare_mm(const void *key, const void *element)
{
	unsigned long mm = *(const unsigned long *)key;
	const struct rpmem_process *process = element;

	if (mm == process->mm)
		return 0;
	return mm < process->mm ? -1 : 1;
}

/*
 * Finds a process for each of @count address spaces, in the order of ->mm, which is only compared:
 * its number, in the first pid namespace or as the caller sees it, and its name. ->pid stays 0 for
 * those that there is none for, or none that the caller can see.
 */
void rpmem_helper_processes(struct rpmem_process *all, size_t count, bool first_ns)
{
	struct task_struct *leader, *task;
	size_t left = count;

	rcu_read_lock();
	for_each_process(leader) {
		struct rpmem_process *process;
		unsigned long mm = 0;

		if (leader->flags & PF_KTHREAD)
			continue;
		/* The leader can be the first to end. */
		for_each_thread(leader, task) {
			mm = (unsigned long)READ_ONCE(task->mm);
			if (mm)
				break;
		}
		process = mm ? bsearch(&mm, all, count, sizeof(*all), compare_mm) : NULL;
		if (!process || process->pid)
			continue;
		process->pid = first_ns ? task_tgid_nr(leader) : task_tgid_vnr(leader);
		strscpy(process->comm, leader->comm, sizeof(process->comm));
		if (process->pid && !--left)
			break;
	}
	rcu_read_unlock();
}

/*
 * Whether the descriptor that a signal about @file would name is not @file any more, in the process
 * that gets the signal, which is the current one: a file lives on in its mappings. What others have
 * open is not known here.
 */
bool rpmem_helper_fasync_closed(struct file *file, struct fasync_struct **list)
{
	struct fown_struct *owner = file_f_owner(file);
	struct fasync_struct *fa;
	struct task_struct *task;
	bool ours, closed = false;

	if (!owner)
		return false;
	/* F_SETOWN drops the old pid as soon as it has the lock: RCU alone does not keep it. */
	read_lock_irq(&owner->lock);
	rcu_read_lock();
	task = owner->pid_type == PIDTYPE_PGID ? NULL : pid_task(owner->pid, PIDTYPE_PID);
	ours = task && same_thread_group(task, current);
	rcu_read_unlock();
	read_unlock_irq(&owner->lock);
	if (!ours)
		return false;

	rcu_read_lock();
	for (fa = READ_ONCE(*list); fa; fa = READ_ONCE(fa->fa_next)) {
		bool found;
		int fd;

		read_lock_irq(&fa->fa_lock);
		found = fa->fa_file == file;
		fd = fa->fa_fd;
		read_unlock_irq(&fa->fa_lock);
		if (!found)
			continue;
		closed = !current->files || files_lookup_fd_raw(current->files, fd) != file;
		break;
	}
	rcu_read_unlock();
	return closed;
}

/* fs.lease-break-time, or NULL if there is none. */
static struct file *break_time;

/*
 * A module gets at fs.lease-break-time by procfs alone. It is opened once, with the rights of the
 * kernel, on a mount of procfs that nobody else has: what a path leads to is up to whoever has a
 * mount namespace, and may be anything, a FIFO or a dead server as well. The file keeps the mount.
 */
void rpmem_helper_lease_init(void)
{
	struct file_system_type *type = get_fs_type("proc");
	struct vfsmount *mnt;
	struct file *file;

	if (!type)
		return;
	mnt = kern_mount(type);
	module_put(type->owner);
	if (IS_ERR(mnt))
		return;
	scoped_with_kernel_creds()
		file = file_open_root_mnt(mnt, "sys/fs/lease-break-time", O_RDONLY, 0);
	kern_unmount(mnt);
	if (!IS_ERR(file))
		break_time = file;
}

void rpmem_helper_lease_exit(void)
{
	if (break_time)
		fput(break_time);
	break_time = NULL;
}

/* fs.lease-break-time in seconds, or an errno: opens nothing, and waits for nobody. */
int rpmem_helper_lease_break_time(void)
{
	char text[16];
	loff_t pos = 0;
	ssize_t len;
	int value;
	int err;

	if (!break_time)
		return -ENOENT;
	scoped_with_kernel_creds()
		len = kernel_read(break_time, text, sizeof(text) - 1, &pos);
	if (len < 0)
		return len;
	text[len] = '\0';
	err = kstrtoint(strim(text), 10, &value);
	return err ?: value;
}

struct file *rpmem_helper_get_file(struct file *file)
{
	return get_file(file);
}

/* The name of a module, also of one that is built in. */
const char *rpmem_helper_module_name(struct module *module)
{
	return module_name(module);
}

/**
 * rpmem_range_get() - hold memory of a device
 * @file: /dev/rpmemN, open; the range keeps it open
 * @offset: first byte on the device, in whole pages
 * @len: bytes, in whole pages
 * @write: whether the memory will be written to
 * @ops: how to tell that it is about to go away
 * @private: put into the range
 *
 * The range stays where it is until rpmem_range_put(), also when the device has gone. Poison in it
 * is not looked at: use copy_mc_to_kernel(). Stores are durable after arch_wb_cache_pmem() and a
 * fence.
 *
 * Context: may sleep.
 * Return: the range, or an error: EINVAL if @file is no such device, or the range not inside of it
 * or not in pages; EBADF if it is to be written and @file is not open for that; EBUSY while the
 * device is being unbound, ENXIO after that; EACCES if it is read-only; ENOMEM.
 */
struct rpmem_range *rpmem_range_get(struct file *file, u64 offset, u64 len, bool write,
				    const struct rpmem_range_ops *ops, void *private)
{
	return rpmem_rust_range_get(file, offset, len, write, ops, private);
}
EXPORT_SYMBOL_GPL(rpmem_range_get);

/**
 * rpmem_range_put() - give memory of a device back
 * @range: from rpmem_range_get(); freed
 *
 * Waits for a call of the range's ->broken that is under way, unless it is made from there.
 *
 * Context: may sleep.
 */
void rpmem_range_put(struct rpmem_range *range)
{
	rpmem_rust_range_put(range);
}
EXPORT_SYMBOL_GPL(rpmem_range_put);
