// SPDX-License-Identifier: GPL-2.0
/*
 * libnvdimm's own validation and creation of info blocks, behind functions
 * that tests can call. Compiled once for each size of struct page.
 */
#include "kernel.h"
#include "pfn_types.inc"

struct dev_pagemap {
	struct vmem_altmap altmap;
	struct range range;
	int nr_range;
	int flags;
};

#define PGMAP_ALTMAP_VALID 1

/* The machine that the functions run on. Tests run in parallel. */
static _Thread_local struct {
	struct nd_region region;
	struct nd_namespace_io namespace;
	uuid_t namespace_uuid;
	struct nd_pfn pfn;
	uuid_t pfn_uuid;
	struct nd_pfn_sb sb;
	bool devdax;
	unsigned long compat_align;
	/* The medium at SZ_4K. */
	u8 block[SZ_4K];
	bool written;
} host;

#define to_nd_region(dev) ((void)(dev), &host.region)
#define to_nd_namespace_io(d) container_of(d, struct nd_namespace_io, common.dev)
#define nd_dev_to_uuid(dev) ((void)(dev), (const uuid_t *)&host.namespace_uuid)
#define nvdimm_namespace_capacity(ndns) ((void)(ndns), resource_size(&host.namespace.res))
#define is_memory(dev) ((void)(dev), true)
#define is_nd_dax(dev) ((void)(dev), host.devdax)
#define has_transparent_hugepage() true
#define has_transparent_pud_hugepage() true
#define memremap_compat_align() (host.compat_align)
/* I/O to the page map: nothing that is decided here depends on it. */
#define nd_pfn_clear_memmap_errors(nd_pfn) 0

static int nvdimm_read_bytes(struct nd_namespace_common *ndns, resource_size_t offset, void *buf,
			     size_t size, unsigned long flags)
{
	if (offset != SZ_4K || size != SZ_4K)
		return -EIO;
	memcpy(buf, host.block, size);
	return 0;
}

static int nvdimm_write_bytes(struct nd_namespace_common *ndns, resource_size_t offset, void *buf,
			      size_t size, unsigned long flags)
{
	if (offset != SZ_4K || size != SZ_4K)
		return -EIO;
	memcpy(host.block, buf, size);
	host.written = true;
	return 0;
}

/* Linked more than once. */
static u64 nd_fletcher64(void *addr, size_t len, bool le);
static u64 nd_sb_checksum(struct nd_gen_sb *sb);
static int nd_pfn_validate(struct nd_pfn *nd_pfn, const char *sig);
static int nvdimm_setup_pfn(struct nd_pfn *nd_pfn, struct dev_pagemap *pgmap);

#include "pfn_functions.inc"

#define PASTE(a, b) a##b
#define NAME(a, b) PASTE(a, b)

/* As in tests/host/src/libnvdimm.rs. */
struct machine {
	u64 start, size, compat_align;
	u8 uuid[16];
	u32 devdax;
};

struct layout {
	u64 start, end, data_offset, npfns, align, altmap_reserve, altmap_free;
	u32 mode, written;
};

static void set_up(const struct machine *m)
{
	memset(&host, 0, sizeof(host));
	host.namespace.res.start = m->start;
	host.namespace.res.end = m->start + m->size - 1;
	host.namespace.common.dev.parent = &host.region.dev;
	memcpy(&host.namespace_uuid, m->uuid, 16);
	host.compat_align = m->compat_align;
	host.devdax = m->devdax;
	host.pfn.dev.parent = &host.region.dev;
	host.pfn.ndns = &host.namespace.common;
	host.pfn.pfn_sb = &host.sb;
}

static int set_up_pfn(struct layout *out)
{
	struct dev_pagemap pgmap = { };
	int rc = nvdimm_setup_pfn(&host.pfn, &pgmap);

	if (rc)
		return rc;
	*out = (struct layout) {
		.start = pgmap.range.start,
		.end = pgmap.range.end,
		.data_offset = le64_to_cpu(host.sb.dataoff),
		.npfns = host.pfn.npfns,
		.align = host.pfn.align,
		.altmap_reserve = pgmap.altmap.reserve,
		.altmap_free = pgmap.altmap.free,
		.mode = host.pfn.mode,
		.written = host.written,
	};
	return 0;
}

/* As for a namespace with an info block: nd_pfn_probe(), then the pfn device. */
int NAME(libnvdimm_open_, STRUCT_PAGE_SIZE)(const struct machine *m, const u8 *block,
					    struct layout *out)
{
	int rc;

	set_up(m);
	memcpy(host.block, block, SZ_4K);
	rc = nd_pfn_validate(&host.pfn, host.devdax ? DAX_SIG : PFN_SIG);
	return rc ? rc : set_up_pfn(out);
}

/* As for a pfn device that userspace has configured on an empty namespace. */
int NAME(libnvdimm_create_, STRUCT_PAGE_SIZE)(const struct machine *m, const u8 *uuid, u32 mode,
					      u64 align, u8 *block, struct layout *out)
{
	int rc;

	set_up(m);
	memcpy(&host.pfn_uuid, uuid, 16);
	host.pfn.uuid = &host.pfn_uuid;
	host.pfn.mode = mode;
	host.pfn.align = align;
	rc = set_up_pfn(out);
	memcpy(block, host.block, SZ_4K);
	return rc;
}

u64 NAME(libnvdimm_checksum_, STRUCT_PAGE_SIZE)(const u8 *block)
{
	struct nd_pfn_sb sb;

	memcpy(&sb, block, sizeof(sb));
	return nd_sb_checksum((struct nd_gen_sb *)&sb);
}
