/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What libnvdimm has for its drivers and declares in drivers/nvdimm/nd.h, which
 * kernel header packages do not carry. Nothing versions it. When the module is
 * built, c/offsets.c compares all of this with the BTF of the kernel that it is
 * for, and with its source, whichever is there; when it is loaded,
 * abstractions/layout.rs compares the structures once more.
 */
#ifndef RPMEM_ND_PRIVATE_H
#define RPMEM_ND_PRIVATE_H

#include <linux/blkdev.h>
#include <linux/dax.h>
#include <linux/idr.h>
#include <linux/libnvdimm.h>
#include <linux/memremap.h>
#include <linux/nd.h>
#include <linux/range.h>
#include <linux/uuid.h>

/*
 * The heads of the structures in drivers/nvdimm/nd.h and btt.h; more follows.
 * Some files include those headers, too.
 */
#ifndef __ND_H__
struct nd_pfn {
	int id;
	uuid_t *uuid;
};

struct nd_dax {
	struct nd_pfn nd_pfn;
};

struct nd_region {
	struct device dev;
	struct ida ns_ida;
	struct ida btt_ida;
	struct ida pfn_ida;
	struct ida dax_ida;
	unsigned long flags;
	struct device *ns_seed;
	struct device *btt_seed;
	struct device *pfn_seed;
	struct device *dax_seed;
	unsigned long align;
	u16 ndr_mappings;
	u64 ndr_size;
	u64 ndr_start;
	int id, num_lanes, ro;
};

struct nd_btt {
	struct device dev;
	struct nd_namespace_common *ndns;
	struct btt *btt;
	unsigned long lbasize;
	u64 size;
	uuid_t *uuid;
};
#endif
#ifndef _LINUX_BTT_H
struct btt {
	struct gendisk *btt_disk;
};
#endif

/* All members of them that are used. */
#define RPMEM_ND_MEMBERS(MEMBER)	\
	MEMBER(nd_dax, nd_pfn)		\
	MEMBER(nd_pfn, uuid)		\
	MEMBER(nd_region, flags)	\
	MEMBER(nd_region, ro)
#if IS_ENABLED(CONFIG_ND_BTT)
#define RPMEM_BTT_MEMBERS(MEMBER)	\
	MEMBER(btt, btt_disk)		\
	MEMBER(nd_btt, btt)		\
	MEMBER(nd_btt, uuid)
#else
#define RPMEM_BTT_MEMBERS(MEMBER)
#endif

struct nd_namespace_common *nvdimm_namespace_common_probe(struct device *dev);
int devm_namespace_enable(struct device *dev, struct nd_namespace_common *ndns,
			  resource_size_t size);
void devm_namespace_disable(struct device *dev, struct nd_namespace_common *ndns);
int nd_pfn_probe(struct device *dev, struct nd_namespace_common *ndns);
bool is_nd_pfn(struct device *dev);
struct nd_pfn *to_nd_pfn(struct device *dev);
int nvdimm_setup_pfn(struct nd_pfn *nd_pfn, struct dev_pagemap *pgmap);
#if IS_ENABLED(CONFIG_BTT)
int nd_btt_probe(struct device *dev, struct nd_namespace_common *ndns);
bool is_nd_btt(struct device *dev);
struct nd_btt *to_nd_btt(struct device *dev);
#endif
#if IS_ENABLED(CONFIG_ND_BTT)
int nvdimm_namespace_attach_btt(struct nd_namespace_common *ndns);
int nvdimm_namespace_detach_btt(struct nd_btt *nd_btt);
#endif
#if IS_ENABLED(CONFIG_NVDIMM_DAX)
int nd_dax_probe(struct device *dev, struct nd_namespace_common *ndns);
bool is_nd_dax(const struct device *dev);
struct nd_dax *to_nd_dax(struct device *dev);
#endif
const char *nvdimm_namespace_disk_name(struct nd_namespace_common *ndns, char *name);
long nvdimm_clear_poison(struct device *dev, phys_addr_t phys, unsigned int len);
void nvdimm_badblocks_populate(struct nd_region *nd_region, struct badblocks *bb,
			       const struct range *range);
void nvdimm_check_and_set_ro(struct gendisk *disk);
unsigned int pmem_sector_size(struct nd_namespace_common *ndns);
bool pmem_should_map_pages(struct device *dev);
const uuid_t *nd_dev_to_uuid(struct device *dev);

/* From drivers/dax/dax-private.h. */
struct inode *dax_inode(struct dax_device *dax_dev);

#endif /* RPMEM_ND_PRIVATE_H */
