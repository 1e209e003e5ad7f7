// SPDX-License-Identifier: GPL-2.0
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/error-injection.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/nd.h>
#include <linux/page-flags.h>
#include <linux/set_memory.h>
#include <linux/suspend.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>

#include "arch.h"
#include "compat.h"
#include "nd_private.h"
#include "shim.h"

#if !IS_ENABLED(CONFIG_FS_DAX) || !IS_ENABLED(CONFIG_ZONE_DEVICE) || \
	!IS_ENABLED(CONFIG_LIBNVDIMM) || !IS_ENABLED(CONFIG_NVDIMM_PFN)
#error "rpmem needs CONFIG_FS_DAX, CONFIG_ZONE_DEVICE, CONFIG_LIBNVDIMM and CONFIG_NVDIMM_PFN"
#endif
#ifndef CONFIG_TRACEPOINTS
#error "rpmem needs CONFIG_TRACEPOINTS"
#endif
#ifdef CONFIG_HIGHMEM
#error "rpmem needs a kernel without CONFIG_HIGHMEM"
#endif

bool rpmem_helper_bdev_file_read_only(struct file *file)
{
	return bdev_read_only(file_bdev(file));
}

void *rpmem_helper_bvec_virt(struct bio_vec *bvec)
{
	return bvec_virt(bvec);
}

/* TRUE is 1: the last byte could not be read. */
unsigned long rpmem_helper_copy_mc_to_kernel(void *dst, const void *src, size_t len)
{
	return copy_mc_to_kernel(dst, src, len);
}
ALLOW_ERROR_INJECTION(rpmem_helper_copy_mc_to_kernel, TRUE);

void rpmem_helper_cond_resched(void)
{
	cond_resched();
}

int rpmem_helper_dev_to_node(struct device *dev)
{
	return dev_to_node(dev);
}

struct gendisk *rpmem_helper_dev_to_disk(struct device *dev)
{
	return dev_to_disk(dev);
}

bool rpmem_helper_disk_is_open(struct gendisk *disk)
{
	return disk_openers(disk) != 0;
}

void rpmem_helper_flush_dcache_page(struct page *page)
{
	flush_dcache_page(page);
}

/* Of a folio that nobody else has. */
void rpmem_helper_folio_clear_mapping(struct folio *folio)
{
	folio->mapping = NULL;
	folio->index = 0;
}

bool rpmem_helper_folio_maybe_dma_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

struct address_space *rpmem_helper_folio_mapping(const struct folio *folio)
{
	return READ_ONCE(folio->mapping);
}

unsigned long rpmem_helper_folio_nr_pages(const struct folio *folio)
{
	return folio_nr_pages(folio);
}

int rpmem_helper_folio_ref_count(const struct folio *folio)
{
	return folio_ref_count(folio);
}

unsigned long rpmem_helper_folio_share(const struct folio *folio)
{
	return READ_ONCE(folio->share);
}

void rpmem_helper_memcpy_flushcache(void *dst, const void *src, size_t len)
{
	memcpy_flushcache(dst, src, len);
}

int rpmem_helper_nvdimm_read_bytes(struct nd_namespace_common *ndns,
				   resource_size_t offset, void *buf, size_t size)
{
	return nvdimm_read_bytes(ndns, offset, buf, size, 0);
}
ALLOW_ERROR_INJECTION(rpmem_helper_nvdimm_read_bytes, ERRNO);

struct folio *rpmem_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

unsigned long rpmem_helper_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

struct page *rpmem_helper_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

void rpmem_helper_release_mem_region(resource_size_t start, resource_size_t n)
{
	release_mem_region(start, n);
}

int rpmem_helper_register_pm_notifier(struct notifier_block *nb)
{
	return register_pm_notifier(nb);
}

void rpmem_helper_unregister_pm_notifier(struct notifier_block *nb)
{
	unregister_pm_notifier(nb);
}

/*
 * A claim gets the description of what it is made in, and can outlive that, if
 * the NFIT driver goes: it is not to be taken for persistent memory then.
 */
struct resource *rpmem_helper_request_mem_region(resource_size_t start, resource_size_t n,
						 const char *name)
{
	struct resource *res = request_mem_region(start, n, name);

	if (res)
		res->desc = IORES_DESC_NONE;
	return res;
}
ALLOW_ERROR_INJECTION(rpmem_helper_request_mem_region, NULL);

/* An active reference, if it has any. */
bool rpmem_helper_super_get(struct super_block *sb)
{
	return atomic_inc_not_zero(&sb->s_active);
}

bool rpmem_helper_super_put_unless_last(struct super_block *sb)
{
	return atomic_add_unless(&sb->s_active, -1, 1);
}

void rpmem_helper_sysfs_put(struct kernfs_node *kn)
{
	sysfs_put(kn);
}

struct kernfs_node *rpmem_helper_sysfs_get_dirent(struct kernfs_node *parent, const char *name)
{
	return sysfs_get_dirent(parent, name);
}
ALLOW_ERROR_INJECTION(rpmem_helper_sysfs_get_dirent, NULL);

void rpmem_helper_sysfs_notify_dirent(struct kernfs_node *kn)
{
	sysfs_notify_dirent(kn);
}

int rpmem_helper_test_and_clear_hwpoison(struct page *page)
{
#ifdef CONFIG_MEMORY_FAILURE
	return TestClearPageHWPoison(page);
#else
	return 0;
#endif
}

int rpmem_helper_clear_mce_nospec(unsigned long pfn)
{
	return clear_mce_nospec(pfn);
}

/*
 * Without CONFIG_BTT there are no btt devices, and without CONFIG_NVDIMM_DAX no
 * dax devices: nobody has one to ask for, and none is found on a namespace.
 */
int rpmem_helper_nd_btt_probe(struct device *dev, struct nd_namespace_common *ndns)
{
#if IS_ENABLED(CONFIG_BTT)
	return nd_btt_probe(dev, ndns);
#else
	return -ENODEV;
#endif
}

bool rpmem_helper_is_nd_btt(struct device *dev)
{
#if IS_ENABLED(CONFIG_BTT)
	return is_nd_btt(dev);
#else
	return false;
#endif
}

int rpmem_helper_nd_dax_probe(struct device *dev, struct nd_namespace_common *ndns)
{
#if IS_ENABLED(CONFIG_NVDIMM_DAX)
	return nd_dax_probe(dev, ndns);
#else
	return -ENODEV;
#endif
}

bool rpmem_helper_is_nd_dax(struct device *dev)
{
#if IS_ENABLED(CONFIG_NVDIMM_DAX)
	return is_nd_dax(dev);
#else
	return false;
#endif
}

/* Of a dax device, which is a pfn device and nothing more. */
struct nd_pfn *rpmem_helper_nd_dax_to_pfn(struct device *dev)
{
#if IS_ENABLED(CONFIG_NVDIMM_DAX)
	return &to_nd_dax(dev)->nd_pfn;
#else
	return NULL;
#endif
}

/* nd_btt.ko is built for nd_pmem only (CONFIG_ND_BTT). */
int rpmem_helper_attach_btt(struct nd_namespace_common *ndns)
{
#if IS_ENABLED(CONFIG_ND_BTT)
	return nvdimm_namespace_attach_btt(ndns);
#else
	return -ENXIO;
#endif
}

void rpmem_helper_detach_btt(struct device *dev)
{
#if IS_ENABLED(CONFIG_ND_BTT)
	nvdimm_namespace_detach_btt(to_nd_btt(dev));
#endif
}

struct gendisk *rpmem_helper_btt_disk(struct device *dev)
{
#if IS_ENABLED(CONFIG_ND_BTT)
	return to_nd_btt(dev)->btt->btt_disk;
#else
	return NULL;
#endif
}

/* NULL for other devices, and for one that has none yet. */
uuid_t *rpmem_helper_btt_uuid(struct device *dev)
{
#if IS_ENABLED(CONFIG_ND_BTT)
	return is_nd_btt(dev) ? to_nd_btt(dev)->uuid : NULL;
#else
	return NULL;
#endif
}

struct nd_namespace_io *rpmem_helper_to_nd_namespace_io(struct nd_namespace_common *ndns)
{
	return to_nd_namespace_io(&ndns->dev);
}

void rpmem_helper_sync_instructions(const void *addr, size_t len)
{
	rpmem_arch_sync_instructions(addr, len);
}

void rpmem_helper_write_back_caches(void)
{
	rpmem_arch_write_back_caches();
}

void *rpmem_helper_zero_page(void)
{
	return page_address(ZERO_PAGE(0));
}
