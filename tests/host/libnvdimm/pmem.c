// SPDX-License-Identifier: GPL-2.0
/*
 * The translation of offsets in pmem.c, behind functions that tests can call.
 */
#include "kernel.h"
#include "pmem_types.inc"

struct dev_pagemap {
	int unused;
};

#include "pmem_device.inc"

/* What badblocks_check() is to answer, and what it was asked. */
static _Thread_local struct {
	bool bad;
	sector_t first_bad, asked;
	u64 asked_num;
} host;

static int badblocks_check(struct badblocks *bb, sector_t s, u64 sectors, sector_t *first_bad,
			   sector_t *bad_sectors)
{
	host.asked = s;
	host.asked_num = sectors;
	*first_bad = host.first_bad;
	*bad_sectors = 1;
	return host.bad;
}

#include "pmem_functions.inc"

/* As in tests/host/src/libnvdimm.rs. */
struct device_memory {
	u64 phys, data_offset, size;
	u32 pfn_pad;
};

struct dax_answer {
	u64 offset, pfn, asked, asked_num;
};

/* first_bad is NULL: there are bad sectors, if at all, elsewhere. */
long pmem_direct_access(const struct device_memory *m, u64 pgoff, long nr_pages, u32 recovery,
			u32 any_bad, const u64 *first_bad, struct dax_answer *out)
{
	struct pmem_device pmem = {
		.phys_addr = m->phys,
		.data_offset = m->data_offset,
		.size = m->size,
		.pfn_pad = m->pfn_pad,
		.bb.count = any_bad,
	};
	unsigned long pfn;
	void *kaddr;
	long rc;

	host.bad = first_bad;
	host.first_bad = first_bad ? *first_bad : 0;
	host.asked = 0;
	host.asked_num = 0;
	rc = __pmem_direct_access(&pmem, pgoff, nr_pages,
				  recovery ? DAX_RECOVERY_WRITE : DAX_ACCESS, &kaddr, &pfn);
	out->offset = (u64)kaddr;
	out->pfn = pfn;
	out->asked = host.asked;
	out->asked_num = host.asked_num;
	return rc;
}

u64 pmem_to_offset(const struct device_memory *m, u64 sector)
{
	struct pmem_device pmem = { .data_offset = m->data_offset };

	return to_offset(&pmem, sector);
}

u64 pmem_offset_to_phys(const struct device_memory *m, u64 offset)
{
	struct pmem_device pmem = { .phys_addr = m->phys };

	return pmem_to_phys(&pmem, offset);
}
