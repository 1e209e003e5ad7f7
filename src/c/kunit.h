/* SPDX-License-Identifier: GPL-2.0 */
/* What the KUnit tests alone need from C. */
#ifndef RPMEM_KUNIT_H
#define RPMEM_KUNIT_H

#include <linux/blk_types.h>
#include <linux/types.h>

struct nd_region;
struct rpmem_kunit_bio;
struct rpmem_kunit_bus;

/* A constant, size or offset as the C compiler sees it, under its C name. */
struct rpmem_kunit_value {
	const char *name;
	u64 value;
};

const struct rpmem_kunit_value *rpmem_kunit_values(size_t *count);

phys_addr_t rpmem_kunit_virt_to_phys(const void *addr);

/* What a machine check does to @pfn, whose failure is marked at @marked. */
int rpmem_kunit_fail_page(unsigned long pfn, unsigned long marked);
bool rpmem_kunit_is_marked(unsigned long pfn);
bool rpmem_kunit_is_mapped(unsigned long pfn);

/* Which of the functions that set up or tear down this task calls, in order. */
int rpmem_kunit_trace_start(void);
void rpmem_kunit_trace_stop(void);
const char *rpmem_kunit_trace_call(size_t i);

/* A bio of the test's own, which is not freed when it ends. */
struct rpmem_kunit_bio *rpmem_kunit_bio_new(blk_opf_t opf, sector_t sector);
void rpmem_kunit_bio_add(struct rpmem_kunit_bio *kbio, void *addr, unsigned int len);
void rpmem_kunit_bio_advance(struct rpmem_kunit_bio *kbio, unsigned int bytes);
struct bio *rpmem_kunit_bio_bio(struct rpmem_kunit_bio *kbio);
int rpmem_kunit_bio_result(struct rpmem_kunit_bio *kbio);
void rpmem_kunit_bio_free(struct rpmem_kunit_bio *kbio);

/* A bus and a region that answer as they are told. */
struct rpmem_kunit_bus *rpmem_kunit_bus_new(void);
struct device *rpmem_kunit_bus_device(struct rpmem_kunit_bus *kbus);
struct nd_region *rpmem_kunit_bus_region(struct rpmem_kunit_bus *kbus);
void rpmem_kunit_bus_set_cxl(struct rpmem_kunit_bus *kbus);
void rpmem_kunit_bus_flush_result(struct rpmem_kunit_bus *kbus, int result);
unsigned int rpmem_kunit_bus_flushes(struct rpmem_kunit_bus *kbus);
void rpmem_kunit_bus_clear_limit(struct rpmem_kunit_bus *kbus, u64 bytes);
void rpmem_kunit_bus_free(struct rpmem_kunit_bus *kbus);

/* An info block made by the kernel's own structure and checksum. */
struct rpmem_kunit_info {
	u64 dataoff;
	u64 npfns;
	u32 mode;
	u32 start_pad;
	u32 end_trunc;
	u32 align;
	u32 page_size;
	u16 page_struct_size;
	u16 version_major;
	u16 version_minor;
	bool devdax;
	u8 uuid[16];
	u8 parent_uuid[16];
};

u64 rpmem_kunit_info_block(const struct rpmem_kunit_info *info, u8 *block);

/* An entry of a page table. */
struct rpmem_kunit_entry {
	unsigned long pfn;
	/* Of the pages that it covers: 0, that of a PMD, or that of a PUD. */
	unsigned int order;
	bool special;
	bool writable;
	bool write_back;
};

/*
 * Map @len bytes at @offset of a device node into an address space of the
 * calling test's own. An address, or an errno; @private is what its driver keeps
 * with the open file.
 */
long rpmem_kunit_mmap(const char *path, size_t len, unsigned long flags, u64 offset,
		      void **private);
int rpmem_kunit_touch(unsigned long addr, bool write);
bool rpmem_kunit_entry_at(unsigned long addr, struct rpmem_kunit_entry *entry);

#endif /* RPMEM_KUNIT_H */
