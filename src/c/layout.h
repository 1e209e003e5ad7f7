/* SPDX-License-Identifier: GPL-2.0 */
/* What the module takes the members of libnvdimm's structures to be, for Rust. */
#ifndef RPMEM_LAYOUT_H
#define RPMEM_LAYOUT_H

#include <linux/types.h>

/* A member of a structure in nd_private.h. Names are padded with zeros. */
struct rpmem_member {
	char structure[16];
	char member[16];
	u32 offset;
};

const struct rpmem_member *rpmem_layout_members(size_t *count);
const char *const *rpmem_layout_modules(size_t *count);
ssize_t rpmem_layout_read(const char *module, void **data);
void rpmem_layout_free(void *data);

#endif /* RPMEM_LAYOUT_H */
