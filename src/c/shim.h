/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel as functions, one call each, for
 * Rust. Names are those of the kernel behind the prefix rpmem_helper_.
 */
#ifndef RPMEM_SHIM_H
#define RPMEM_SHIM_H

#include <linux/types.h>
#include <linux/uuid.h>

struct address_space;
struct badblocks;
struct bio_vec;
struct device;
struct file;
struct folio;
struct gendisk;
struct kernfs_node;
struct nd_namespace_common;
struct nd_namespace_io;
struct nd_pfn;
struct page;
struct super_block;

bool rpmem_helper_bdev_file_read_only(struct file *file);
void *rpmem_helper_bvec_virt(struct bio_vec *bvec);
unsigned long rpmem_helper_copy_mc_to_kernel(void *dst, const void *src, size_t len);
void rpmem_helper_cond_resched(void);
struct gendisk *rpmem_helper_dev_to_disk(struct device *dev);
int rpmem_helper_dev_to_node(struct device *dev);
bool rpmem_helper_disk_is_open(struct gendisk *disk);
void rpmem_helper_flush_dcache_page(struct page *page);
void rpmem_helper_folio_clear_mapping(struct folio *folio);
bool rpmem_helper_folio_maybe_dma_pinned(struct folio *folio);
struct address_space *rpmem_helper_folio_mapping(const struct folio *folio);
unsigned long rpmem_helper_folio_nr_pages(const struct folio *folio);
int rpmem_helper_folio_ref_count(const struct folio *folio);
unsigned long rpmem_helper_folio_share(const struct folio *folio);
void rpmem_helper_memcpy_flushcache(void *dst, const void *src, size_t len);
int rpmem_helper_nvdimm_read_bytes(struct nd_namespace_common *ndns,
				   resource_size_t offset, void *buf, size_t size);
struct folio *rpmem_helper_page_folio(struct page *page);
unsigned long rpmem_helper_page_to_pfn(struct page *page);
struct page *rpmem_helper_pfn_to_page(unsigned long pfn);
void rpmem_helper_release_mem_region(resource_size_t start, resource_size_t n);
int rpmem_helper_register_pm_notifier(struct notifier_block *nb);
void rpmem_helper_unregister_pm_notifier(struct notifier_block *nb);
struct resource *rpmem_helper_request_mem_region(resource_size_t start, resource_size_t n,
						 const char *name);
bool rpmem_helper_super_get(struct super_block *sb);
bool rpmem_helper_super_put_unless_last(struct super_block *sb);
void rpmem_helper_sysfs_put(struct kernfs_node *kn);
struct kernfs_node *rpmem_helper_sysfs_get_dirent(struct kernfs_node *parent, const char *name);
void rpmem_helper_sysfs_notify_dirent(struct kernfs_node *kn);
int rpmem_helper_test_and_clear_hwpoison(struct page *page);
int rpmem_helper_clear_mce_nospec(unsigned long pfn);
int rpmem_helper_nd_btt_probe(struct device *dev, struct nd_namespace_common *ndns);
bool rpmem_helper_is_nd_btt(struct device *dev);
int rpmem_helper_nd_dax_probe(struct device *dev, struct nd_namespace_common *ndns);
bool rpmem_helper_is_nd_dax(struct device *dev);
struct nd_pfn *rpmem_helper_nd_dax_to_pfn(struct device *dev);
int rpmem_helper_attach_btt(struct nd_namespace_common *ndns);
void rpmem_helper_detach_btt(struct device *dev);
struct gendisk *rpmem_helper_btt_disk(struct device *dev);
uuid_t *rpmem_helper_btt_uuid(struct device *dev);
struct nd_namespace_io *rpmem_helper_to_nd_namespace_io(struct nd_namespace_common *ndns);
void rpmem_helper_sync_instructions(const void *addr, size_t len);
void rpmem_helper_write_back_caches(void);
void *rpmem_helper_zero_page(void);

#endif /* RPMEM_SHIM_H */
