// SPDX-License-Identifier: GPL-2.0
/* For abstractions/layout.rs: what is compared with the kernel that runs. */
#include <linux/array_size.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/sizes.h>
#include <linux/stddef.h>
#include <linux/vmalloc.h>

#include "layout.h"
#include "nd_private.h"

#define MEMBER(s, m)	{ #s, #m, offsetof(struct s, m) },

static const struct rpmem_member members[] = {
	RPMEM_ND_MEMBERS(MEMBER)
	RPMEM_BTT_MEMBERS(MEMBER)
};

/* Who has the structures; the image first, on which the others' BTF builds. */
static const char *const modules[] = {
	"vmlinux",
#if IS_MODULE(CONFIG_LIBNVDIMM)
	"libnvdimm",
#endif
#if IS_MODULE(CONFIG_ND_BTT)
	"nd_btt",
#endif
};

const struct rpmem_member *rpmem_layout_members(size_t *count)
{
	*count = ARRAY_SIZE(members);
	return members;
}

const char *const *rpmem_layout_modules(size_t *count)
{
	*count = ARRAY_SIZE(modules);
	return modules;
}

/*
 * The BTF of the image or a module, for rpmem_layout_free(). The core exports no
 * function that names members; the file in sysfs is ABI. It is as the task sees
 * it that loads the module. (kernel_read_file() is for what security modules
 * know: IPE warns of other files.)
 */
ssize_t rpmem_layout_read(const char *module, void **data)
{
	struct file *file;
	char path[32];
	ssize_t ret;
	loff_t size, pos = 0;

	snprintf(path, sizeof(path), "/sys/kernel/btf/%s", module);
	file = filp_open(path, O_RDONLY, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	size = i_size_read(file_inode(file));
	ret = -EFBIG;
	if (size <= 0 || size > SZ_256M)
		goto out;
	*data = vmalloc(size);
	ret = -ENOMEM;
	if (!*data)
		goto out;
	while (pos < size) {
		ret = kernel_read(file, *data + pos, size - pos, &pos);
		if (ret <= 0)
			break;
	}
	if (pos == size) {
		ret = size;
	} else {
		vfree(*data);
		ret = ret < 0 ? ret : -EIO;
	}
out:
	fput(file);
	return ret;
}

void rpmem_layout_free(void *data)
{
	vfree(data);
}
