// SPDX-License-Identifier: GPL-2.0
/*
 * The NVDIMMs of nfit_test are vmalloc() memory at physical addresses where
 * there is nothing. Their wrappers in nfit_test_iomap.ko know what nd_pmem
 * calls; these are for what rpmem calls beyond that. Everything else of the
 * driver is as it is.
 */
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/percpu-refcount.h>
#include <linux/pfn.h>
#include <linux/vmalloc.h>

#include "nfit_test.h"
#include "vm.h"

void *__wrap_memremap_pages(struct dev_pagemap *pgmap, int nid);
void __wrap_memunmap_pages(struct dev_pagemap *pgmap);
struct page *__wrap_rpmem_helper_pfn_to_page(unsigned long pfn);
int __wrap_rpmem_helper_folio_ref_count(const struct folio *folio);
unsigned long __wrap_rpmem_helper_folio_share(const struct folio *folio);
bool __wrap_rpmem_helper_insert_pfns(struct vm_area_struct *vma, struct vm_fault *vmf,
				     unsigned long addr, unsigned long pfn, unsigned long nr,
				     bool write, const struct rpmem_marks *marks);
vm_fault_t __wrap_rpmem_helper_insert_pmd(struct vm_fault *vmf, unsigned long pfn, bool write,
					  const struct rpmem_marks *marks);
vm_fault_t __wrap_rpmem_helper_insert_pud(struct vm_fault *vmf, unsigned long pfn, bool write);

struct page *__real_rpmem_helper_pfn_to_page(unsigned long pfn);
int __real_rpmem_helper_folio_ref_count(const struct folio *folio);
unsigned long __real_rpmem_helper_folio_share(const struct folio *folio);
bool __real_rpmem_helper_insert_pfns(struct vm_area_struct *vma, struct vm_fault *vmf,
				     unsigned long addr, unsigned long pfn, unsigned long nr,
				     bool write, const struct rpmem_marks *marks);

/* Where the byte at physical address @phys is, or NULL. */
static void *nfit_address(resource_size_t phys)
{
	struct nfit_test_resource *res = get_nfit_res(phys);

	return res ? res->buf + (phys - res->res.start) : NULL;
}

/* The pages have a struct page already, if not one for persistent memory. */
void *__wrap_memremap_pages(struct dev_pagemap *pgmap, int nid)
{
	void *addr = nfit_address(pgmap->range.start);

	return addr ?: memremap_pages(pgmap, nid);
}

void __wrap_memunmap_pages(struct dev_pagemap *pgmap)
{
	if (!nfit_address(pgmap->range.start))
		memunmap_pages(pgmap);
}

struct page *__wrap_rpmem_helper_pfn_to_page(unsigned long pfn)
{
	void *addr = nfit_address(PFN_PHYS(pfn));

	return addr ? vmalloc_to_page(addr) : __real_rpmem_helper_pfn_to_page(pfn);
}

/* The reference of vmalloc() is none that pages of a DAX device have. */
int __wrap_rpmem_helper_folio_ref_count(const struct folio *folio)
{
	return __real_rpmem_helper_folio_ref_count(folio) - !folio_is_zone_device(folio);
}

/* The count shares its place with ->index, where a page of vmalloc() has whatever its last user left. */
unsigned long __wrap_rpmem_helper_folio_share(const struct folio *folio)
{
	return folio_is_zone_device(folio) ? __real_rpmem_helper_folio_share(folio) : 0;
}

/* Consecutive addresses are pages anywhere, here. */
bool __wrap_rpmem_helper_insert_pfns(struct vm_area_struct *vma, struct vm_fault *vmf,
				     unsigned long addr, unsigned long pfn, unsigned long nr,
				     bool write, const struct rpmem_marks *marks)
{
	unsigned long i;
	bool done = true;

	for (i = 0; i < nr && done; i++) {
		struct rpmem_marks one = marks ? *marks : (struct rpmem_marks){};
		void *from = nfit_address(PFN_PHYS(pfn + i));

		one.first += i * one.step;

		done = __real_rpmem_helper_insert_pfns(vma, vmf, addr + (i << PAGE_SHIFT),
						       from ? vmalloc_to_pfn(from) : pfn + i,
						       1, write, marks ? &one : NULL);
	}
	return done;
}

vm_fault_t __wrap_rpmem_helper_insert_pmd(struct vm_fault *vmf, unsigned long pfn, bool write,
					  const struct rpmem_marks *marks)
{
	return VM_FAULT_FALLBACK;
}

vm_fault_t __wrap_rpmem_helper_insert_pud(struct vm_fault *vmf, unsigned long pfn, bool write)
{
	return VM_FAULT_FALLBACK;
}
