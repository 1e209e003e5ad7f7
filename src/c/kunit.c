// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the KUnit tests, built only for kernels that have KUnit built
 * in. It includes the private headers of libnvdimm and DAX before nd_private.h:
 * a prototype there that differs from the kernel's does not compile.
 */
#include <nvdimm/nd-core.h>
#include <nvdimm/btt.h>
#include <nvdimm/pfn.h>
#include <dax/dax-private.h>

#include <linux/badblocks.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/dax.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/io.h>
#include <linux/kprobes.h>
#include <linux/libnvdimm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/ndctl.h>
#include <linux/pgtable.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/set_memory.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include <kunit/test.h>

#include "compat.h"
#include "kunit.h"
#include "nd_private.h"
#include "vm.h"

#define VALUE(x)	{ #x, (u64)(x) }
#define FLAG(x)		{ #x, (__force u64)(x) }
#define SIZE(t)		{ "sizeof(struct " #t ")", sizeof(struct t) }
#define OFFSET(t, m)	{ "offsetof(struct " #t ", " #m ")", offsetof(struct t, m) }
#define LENGTH(t, m)	{ "sizeof_field(struct " #t ", " #m ")", sizeof_field(struct t, m) }

static const struct rpmem_kunit_value values[] = {
	VALUE(EBUSY),
	VALUE(EFAULT),
	VALUE(EHWPOISON),
	VALUE(EINVAL),
	VALUE(EIO),
	VALUE(ENODEV),
	VALUE(ENOMEM),
	VALUE(ENXIO),
	VALUE(EOPNOTSUPP),
	VALUE(ERANGE),

	FLAG(BLK_FEAT_DAX),
	FLAG(BLK_FEAT_FUA),
	FLAG(BLK_FEAT_IO_STAT),
	FLAG(BLK_FEAT_SYNCHRONOUS),
	FLAG(BLK_FEAT_WRITE_CACHE),
	FLAG(REQ_FUA),
	FLAG(REQ_OP_READ),
	FLAG(REQ_OP_WRITE),
	FLAG(REQ_PREFLUSH),

	VALUE(MAP_FIXED),
	VALUE(MAP_SHARED),
	VALUE(MAP_SHARED_VALIDATE),
	VALUE(MAP_SYNC),
	VALUE(MAP_TYPE),
	VALUE(PMD_ORDER),
	VALUE(PUD_ORDER),
	VALUE(VM_MAYWRITE),
	FLAG(BLK_OPEN_EXCL),
	FLAG(BLK_OPEN_READ),
	FLAG(DEFAULT_POLLMASK),
	FLAG(EPOLLERR),
	FLAG(EPOLLHUP),
	FLAG(EPOLLPRI),
	FLAG(FMODE_WRITE),
	FLAG(FOP_MMAP_DIRECT),
	FLAG(FOP_MMAP_SYNC),
	VALUE(S_DAX),
	VALUE(S_IFCHR),
	VALUE(MAP_DIRECT),
	VALUE(POLL_PRI),
	VALUE(SIGIO),
	VALUE(TASK_COMM_LEN),

	VALUE(ARCH_IMPLEMENTS_FLUSH_DCACHE_PAGE),
	VALUE(ARCH_MEMREMAP_PMEM),
	VALUE(BIT(ND_REGION_CXL)),
	VALUE(DAX_ACCESS),
	VALUE(DAX_RECOVERY_WRITE),
	VALUE(DISK_NAME_LEN),
	VALUE(MEMORY_DEVICE_FS_DAX),
	VALUE(MEMORY_DEVICE_GENERIC),
	VALUE(ND_DRIVER_DAX_PMEM),
	VALUE(ND_DRIVER_NAMESPACE_IO),
	VALUE(ND_DRIVER_NAMESPACE_PMEM),
	VALUE(NVDIMM_CCLASS_DAX),
	VALUE(NVDIMM_CCLASS_NONE),
	VALUE(NVDIMM_CCLASS_PFN),
	VALUE(NVDIMM_FLUSH_ASYNC),
	VALUE(NVDIMM_REVALIDATE_POISON),
	VALUE(NVDIMM_REVALIDATE_REGION),
	VALUE(PAGE_SHIFT),
	VALUE(PAGE_SIZE),
	VALUE(PGMAP_ALTMAP_VALID),
	VALUE(SECTOR_SHIFT),
	VALUE(SZ_4K),
	{ "nd_info_block_reserve()", ALIGN(SZ_8K, PAGE_SIZE) },

	SIZE(page),

	SIZE(address_space),
	OFFSET(address_space, host),
	OFFSET(address_space, invalidate_lock),

	SIZE(attribute),
	OFFSET(attribute, mode),
	OFFSET(attribute, name),

	SIZE(attribute_group),
	OFFSET(attribute_group, attrs),
	OFFSET(attribute_group, name),

	SIZE(badblocks),
	OFFSET(badblocks, count),
	OFFSET(badblocks, dev),
	LENGTH(badblocks, count),

	SIZE(bio),
	OFFSET(bio, bi_bdev),
	OFFSET(bio, bi_io_vec),
	OFFSET(bio, bi_iter),
	OFFSET(bio, bi_opf),
	OFFSET(bio, bi_status),

	SIZE(bio_vec),
	OFFSET(bio_vec, bv_len),
	OFFSET(bio_vec, bv_offset),
	OFFSET(bio_vec, bv_page),

	SIZE(block_device),
	OFFSET(block_device, bd_device),
	OFFSET(block_device, bd_disk),
	OFFSET(block_device, bd_queue),

	SIZE(block_device_operations),
	OFFSET(block_device_operations, owner),
	OFFSET(block_device_operations, submit_bio),

	SIZE(bvec_iter),
	OFFSET(bvec_iter, bi_idx),
	OFFSET(bvec_iter, bi_sector),
	OFFSET(bvec_iter, bi_size),

	SIZE(dax_operations),
	OFFSET(dax_operations, direct_access),
	OFFSET(dax_operations, recovery_write),
	OFFSET(dax_operations, zero_page_range),

	SIZE(dev_pagemap),
	OFFSET(dev_pagemap, altmap),
	OFFSET(dev_pagemap, flags),
	OFFSET(dev_pagemap, nr_range),
	OFFSET(dev_pagemap, ops),
	OFFSET(dev_pagemap, owner),
	OFFSET(dev_pagemap, range),
	OFFSET(dev_pagemap, type),
	OFFSET(dev_pagemap, vmemmap_shift),

	SIZE(dev_pagemap_ops),
	OFFSET(dev_pagemap_ops, memory_failure),

	SIZE(device),
	OFFSET(device, kobj.sd),
	OFFSET(device, parent),

	SIZE(device_attribute),
	OFFSET(device_attribute, attr),
	OFFSET(device_attribute, show),
	OFFSET(device_attribute, store),

	SIZE(gendisk),
	OFFSET(gendisk, bb),
	OFFSET(gendisk, disk_name),
	OFFSET(gendisk, fops),
	OFFSET(gendisk, part0),
	OFFSET(gendisk, private_data),

	SIZE(inode),
	OFFSET(inode, i_flags),
	OFFSET(inode, i_mapping),
	OFFSET(inode, i_mode),

	SIZE(nd_device_driver),
	OFFSET(nd_device_driver, drv),
	OFFSET(nd_device_driver, notify),
	OFFSET(nd_device_driver, probe),
	OFFSET(nd_device_driver, remove),
	OFFSET(nd_device_driver, shutdown),
	OFFSET(nd_device_driver, type),

	SIZE(nd_namespace_common),
	OFFSET(nd_namespace_common, claim_class),
	OFFSET(nd_namespace_common, dev),
	OFFSET(nd_namespace_common, force_raw),
	LENGTH(nd_namespace_common, force_raw),

	SIZE(nd_namespace_io),
	OFFSET(nd_namespace_io, bb),
	OFFSET(nd_namespace_io, common),
	OFFSET(nd_namespace_io, res),

	/* Of the kernel's own structure: nd_private.h has its head only. */
	OFFSET(nd_pfn, uuid),

	SIZE(nd_pfn_sb),
	OFFSET(nd_pfn_sb, uuid),

	/* As struct nd_pfn. */
	OFFSET(nd_region, flags),
	OFFSET(nd_region, ro),

	SIZE(queue_limits),
	OFFSET(queue_limits, features),
	OFFSET(queue_limits, logical_block_size),
	OFFSET(queue_limits, max_hw_sectors),
	OFFSET(queue_limits, physical_block_size),

	SIZE(range),
	OFFSET(range, end),
	OFFSET(range, start),

	OFFSET(request_queue, limits),

	SIZE(resource),
	OFFSET(resource, end),
	OFFSET(resource, start),

	{ "sizeof(uuid_t)", sizeof(uuid_t) },
};

const struct rpmem_kunit_value *rpmem_kunit_values(size_t *count)
{
	*count = ARRAY_SIZE(values);
	return values;
}

phys_addr_t rpmem_kunit_virt_to_phys(const void *addr)
{
	return virt_to_phys((void *)addr);
}

int rpmem_kunit_fail_page(unsigned long pfn, unsigned long marked)
{
	SetPageHWPoison(pfn_to_page(marked));
	return set_mce_nospec(pfn);
}

bool rpmem_kunit_is_marked(unsigned long pfn)
{
	return PageHWPoison(pfn_to_page(pfn));
}

/* Whether the kernel can reach it. */
bool rpmem_kunit_is_mapped(unsigned long pfn)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)pfn_to_kaddr(pfn), &level);

	return pte && pte_present(*pte);
}

/*
 * Functions that set up and tear down, as the tests want to see them called:
 * probed while a test asks for it. KUnit runs one test at a time.
 */
static const char *const traced[] = {
	"badblocks_exit",
	"dax_add_host",
	"dax_remove_host",
	"del_gendisk",
	"device_add_disk",
	"driver_unregister",
	"kill_dax",
	"memunmap",
	"memunmap_pages",
	"put_dax",
	"put_disk",
	"__release_region",
	"__request_region",
};

static struct kprobe probes[ARRAY_SIZE(traced)];
static struct kprobe *probe_ptrs[ARRAY_SIZE(traced)];
static struct task_struct *traced_task;
static const char *calls[64];
static size_t nr_calls;

static int trace_call(struct kprobe *kp, struct pt_regs *regs)
{
	if (current == traced_task && nr_calls < ARRAY_SIZE(calls))
		calls[nr_calls++] = kp->symbol_name;
	return 0;
}

/* A probe with such a handler is not optimised, which takes longer than a test. */
static void trace_nothing(struct kprobe *kp, struct pt_regs *regs, unsigned long flags)
{
}

int rpmem_kunit_trace_start(void)
{
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(traced); i++) {
		memset(&probes[i], 0, sizeof(probes[i]));
		probes[i].symbol_name = traced[i];
		probes[i].pre_handler = trace_call;
		probes[i].post_handler = trace_nothing;
		probe_ptrs[i] = &probes[i];
	}
	nr_calls = 0;
	traced_task = current;
	ret = register_kprobes(probe_ptrs, ARRAY_SIZE(traced));
	if (ret)
		pr_err("functions cannot be traced: %d\n", ret);
	return ret;
}

void rpmem_kunit_trace_stop(void)
{
	/* All at once: each call waits for a grace period. */
	unregister_kprobes(probe_ptrs, ARRAY_SIZE(traced));
	traced_task = NULL;
}

const char *rpmem_kunit_trace_call(size_t i)
{
	return i < nr_calls ? calls[i] : NULL;
}

struct rpmem_kunit_bio {
	struct bio bio;
	struct bio_vec vecs[4];
	bool ended;
};

static void bio_ended(struct bio *bio)
{
	container_of(bio, struct rpmem_kunit_bio, bio)->ended = true;
}

struct rpmem_kunit_bio *rpmem_kunit_bio_new(blk_opf_t opf, sector_t sector)
{
	struct rpmem_kunit_bio *kbio = kzalloc_obj(*kbio);

	if (!kbio)
		return NULL;
	bio_init(&kbio->bio, NULL, kbio->vecs, ARRAY_SIZE(kbio->vecs), opf);
	kbio->bio.bi_iter.bi_sector = sector;
	kbio->bio.bi_end_io = bio_ended;
	return kbio;
}

void rpmem_kunit_bio_add(struct rpmem_kunit_bio *kbio, void *addr, unsigned int len)
{
	bio_add_virt_nofail(&kbio->bio, addr, len);
}

void rpmem_kunit_bio_advance(struct rpmem_kunit_bio *kbio, unsigned int bytes)
{
	bio_advance(&kbio->bio, bytes);
}

struct bio *rpmem_kunit_bio_bio(struct rpmem_kunit_bio *kbio)
{
	return &kbio->bio;
}

/* An errno, or 1 for a bio that has not been ended. */
int rpmem_kunit_bio_result(struct rpmem_kunit_bio *kbio)
{
	return kbio->ended ? blk_status_to_errno(kbio->bio.bi_status) : 1;
}

void rpmem_kunit_bio_free(struct rpmem_kunit_bio *kbio)
{
	bio_uninit(&kbio->bio);
	kfree(kbio);
}

/* Poison can be cleared in units of this many bytes, as the NFIT has it. */
#define CLEAR_UNIT	256

struct rpmem_kunit_bus {
	struct nvdimm_bus_descriptor desc;
	struct nvdimm_bus *bus;
	/* Never registered: for its flush. */
	struct nd_region *region;
	u64 clear_limit;
	unsigned int flushes;
	int flush_result;
};

static int bus_ndctl(struct nvdimm_bus_descriptor *desc, struct nvdimm *nvdimm,
		     unsigned int cmd, void *buf, unsigned int buf_len, int *cmd_rc)
{
	struct rpmem_kunit_bus *kbus = container_of(desc, struct rpmem_kunit_bus, desc);
	struct nd_cmd_clear_error *clear = buf;
	struct nd_cmd_ars_cap *cap = buf;

	*cmd_rc = 0;
	switch (cmd) {
	case ND_CMD_ARS_CAP:
		cap->clear_err_unit = CLEAR_UNIT;
		return 0;
	case ND_CMD_CLEAR_ERROR:
		clear->cleared = min(clear->length, kbus->clear_limit);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int region_flush(struct nd_region *region, struct bio *bio)
{
	struct rpmem_kunit_bus *kbus = region->provider_data;

	kbus->flushes++;
	return kbus->flush_result;
}

struct rpmem_kunit_bus *rpmem_kunit_bus_new(void)
{
	struct rpmem_kunit_bus *kbus = kzalloc_obj(*kbus);

	if (!kbus)
		return NULL;
	kbus->region = kzalloc_obj(*kbus->region);
	if (!kbus->region)
		goto free;
	kbus->region->flush = region_flush;
	kbus->region->provider_data = kbus;
	kbus->clear_limit = U64_MAX;
	kbus->desc.provider_name = "rpmem-kunit";
	kbus->desc.module = THIS_MODULE;
	kbus->desc.ndctl = bus_ndctl;
	kbus->bus = nvdimm_bus_register(NULL, &kbus->desc);
	if (!kbus->bus)
		goto free;
	return kbus;
free:
	kfree(kbus->region);
	kfree(kbus);
	return NULL;
}

struct device *rpmem_kunit_bus_device(struct rpmem_kunit_bus *kbus)
{
	return &kbus->bus->dev;
}

struct nd_region *rpmem_kunit_bus_region(struct rpmem_kunit_bus *kbus)
{
	return kbus->region;
}

void rpmem_kunit_bus_set_cxl(struct rpmem_kunit_bus *kbus)
{
	set_bit(ND_REGION_CXL, &kbus->region->flags);
}

void rpmem_kunit_bus_flush_result(struct rpmem_kunit_bus *kbus, int result)
{
	kbus->flush_result = result;
}

unsigned int rpmem_kunit_bus_flushes(struct rpmem_kunit_bus *kbus)
{
	return kbus->flushes;
}

void rpmem_kunit_bus_clear_limit(struct rpmem_kunit_bus *kbus, u64 bytes)
{
	kbus->clear_limit = bytes;
}

void rpmem_kunit_bus_free(struct rpmem_kunit_bus *kbus)
{
	nvdimm_bus_unregister(kbus->bus);
	kfree(kbus->region);
	kfree(kbus);
}

u64 rpmem_kunit_info_block(const struct rpmem_kunit_info *info, u8 *block)
{
	struct nd_pfn_sb *sb = (struct nd_pfn_sb *)block;
	u64 sum;

	memset(sb, 0, sizeof(*sb));
	memcpy(sb->signature, info->devdax ? DAX_SIG : PFN_SIG, PFN_SIG_LEN);
	memcpy(sb->uuid, info->uuid, sizeof(sb->uuid));
	memcpy(sb->parent_uuid, info->parent_uuid, sizeof(sb->parent_uuid));
	sb->version_major = cpu_to_le16(info->version_major);
	sb->version_minor = cpu_to_le16(info->version_minor);
	sb->dataoff = cpu_to_le64(info->dataoff);
	sb->npfns = cpu_to_le64(info->npfns);
	sb->mode = cpu_to_le32(info->mode);
	sb->start_pad = cpu_to_le32(info->start_pad);
	sb->end_trunc = cpu_to_le32(info->end_trunc);
	sb->align = cpu_to_le32(info->align);
	sb->page_size = cpu_to_le32(info->page_size);
	sb->page_struct_size = cpu_to_le16(info->page_struct_size);
	sum = nd_sb_checksum((struct nd_gen_sb *)sb);
	sb->checksum = cpu_to_le64(sum);
	return sum;
}

long rpmem_kunit_mmap(const char *path, size_t len, unsigned long flags, u64 offset,
		      void **private)
{
	struct file *file;
	long addr;
	int ret;

	/* It goes with the thread of this test. */
	ret = kunit_attach_mm();
	if (ret)
		return ret;
	rpmem_scoped_with_init_fs()
		file = filp_open(path, O_RDWR, 0);
	if (IS_ERR(file))
		return PTR_ERR(file);
	*private = file->private_data;
	addr = vm_mmap(file, 0, len, PROT_READ | PROT_WRITE, flags, offset);
	/* The mapping holds it. */
	fput(file);
	return addr;
}

int rpmem_kunit_touch(unsigned long addr, bool write)
{
	u8 __user *byte = (u8 __user *)addr;
	u8 value;

	return write ? put_user(0x5a, byte) : get_user(value, byte);
}

/* With neither bit the entry of the PAT is 0 or 4, both write-back. */
static bool rpmem_kunit_is_wb(pgprot_t prot)
{
	return !(pgprot_val(prot) & (_PAGE_PCD | _PAGE_PWT));
}

/* Nobody else changes the page tables of the test's address space. */
bool rpmem_kunit_entry_at(unsigned long addr, struct rpmem_kunit_entry *entry)
{
	pud_t *pud;
	pmd_t *pmd;
	pte_t *pte;

	pud = pud_offset(p4d_offset(pgd_offset(current->mm, addr), addr), addr);
	if (pud_none(*pud))
		return false;
	if (pud_leaf(*pud)) {
		*entry = (struct rpmem_kunit_entry) {
			.pfn = pud_pfn(*pud),
			.order = PUD_ORDER,
			.special = pud_special(*pud),
			.writable = pud_write(*pud),
			.write_back = rpmem_kunit_is_wb(pud_pgprot(*pud)),
		};
		return true;
	}
	pmd = pmd_offset(pud, addr);
	if (pmd_none(*pmd))
		return false;
	if (pmd_leaf(*pmd)) {
		*entry = (struct rpmem_kunit_entry) {
			.pfn = pmd_pfn(*pmd),
			.order = PMD_ORDER,
			.special = pmd_special(*pmd),
			.writable = pmd_write(*pmd),
			.write_back = rpmem_kunit_is_wb(pmd_pgprot(*pmd)),
		};
		return true;
	}
	pte = pte_offset_kernel(pmd, addr);
	*entry = (struct rpmem_kunit_entry) {
		.pfn = pte_pfn(*pte),
		.special = pte_special(*pte),
		.writable = pte_write(*pte),
		.write_back = rpmem_kunit_is_wb(pte_pgprot(*pte)),
	};
	return pte_present(*pte);
}
