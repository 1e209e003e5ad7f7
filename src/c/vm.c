// SPDX-License-Identifier: GPL-2.0
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/ratelimit.h>
#include <linux/srcu.h>

#include "vm.h"

int rpmem_helper_init_srcu_struct(struct srcu_struct *ssp)
{
	return init_srcu_struct(ssp);
}

int rpmem_helper_srcu_read_lock(struct srcu_struct *ssp)
{
	return srcu_read_lock(ssp);
}

void rpmem_helper_srcu_read_unlock(struct srcu_struct *ssp, int idx)
{
	srcu_read_unlock(ssp, idx);
}

bool rpmem_helper_vma_desc_shared(const struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_MAYSHARE_BIT);
}

bool rpmem_helper_vma_desc_sync(const struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_SYNC_BIT);
}

bool rpmem_helper_vma_desc_write(const struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_WRITE_BIT);
}

bool rpmem_helper_vma_desc_may_write(const struct vm_area_desc *desc)
{
	return vma_desc_test(desc, VMA_MAYWRITE_BIT);
}

void rpmem_helper_vma_desc_clear_may_write(struct vm_area_desc *desc)
{
	vma_desc_clear_flags(desc, VMA_MAYWRITE_BIT);
}

/* Without the patch, nobody gets this far with MAP_DIRECT. */
bool rpmem_helper_vma_desc_direct(const struct vm_area_desc *desc)
{
#ifdef VM_DIRECT
	return vma_desc_test(desc, VMA_DIRECT_BIT);
#else
	return false;
#endif
}

void rpmem_helper_vma_desc_set_pfnmap(struct vm_area_desc *desc)
{
	vma_desc_set_flags(desc, VMA_PFNMAP_BIT, VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
}

void rpmem_helper_vma_desc_set_dontexpand(struct vm_area_desc *desc)
{
	vma_desc_set_flags(desc, VMA_DONTEXPAND_BIT);
}

struct rpmem_insert {
	struct vm_area_struct *vma;
	unsigned long pfn;
	bool write;
	/* Where stores are remembered: a bit per page, and whether there are any. */
	unsigned long *bits;
	unsigned long bit;
	int *any;
};

/*
 * Under the page table lock, and that is where stores to a page are remembered, too: who takes
 * the bits out and unmaps the pages then, under that lock, leaves no writable entry without a bit.
 * An entry that is there is only ever made writable.
 */
static int rpmem_insert_one(pte_t *pte, unsigned long addr, void *data)
{
	struct rpmem_insert *ins = data;
	pte_t old = ptep_get(pte);
	pte_t new = pte_mkyoung(pte_mkspecial(pfn_pte(ins->pfn, ins->vma->vm_page_prot)));

	if (ins->bits) {
		if (!test_bit(ins->bit, ins->bits))
			set_bit(ins->bit, ins->bits);
		/* The bit before what leads to it, */
		smp_mb__after_atomic();
		if (!READ_ONCE(*ins->any))
			WRITE_ONCE(*ins->any, 1);
		/* and both before the entry. */
		smp_wmb();
		ins->bit++;
	}
	if (ins->write)
		new = pte_mkwrite_novma(pte_mkdirty(new));
	if (pte_none(old) || (ins->write && !pte_write(old) && pte_pfn(old) == ins->pfn))
		set_pte_at(ins->vma->vm_mm, addr, pte, new);
	ins->pfn++;
	return 0;
}

/* The bytes that a huge entry at @addr covers; 0 if there is none. The VMA is locked. */
unsigned long rpmem_helper_leaf_size(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4d = p4d_offset(pgd_offset(mm, addr), addr);
	pud_t pud;

	if (p4d_none(p4dp_get(p4d)))
		return 0;
	pud = pudp_get(pud_offset(p4d, addr));
	if (pud_leaf(pud))
		return PUD_SIZE;
	if (pud_none(pud))
		return 0;
	return pmd_leaf(pmdp_get(pmd_offset(&pud, addr))) ? PMD_SIZE : 0;
}

/*
 * Special entries for @nr consecutive frames. vmf_insert_pfn() does one, and looks up its memory
 * type each time: here the range is write-back for as long as it can be mapped.
 */
int rpmem_helper_insert_pfns(struct vm_area_struct *vma, unsigned long addr,
			     unsigned long pfn, unsigned long nr, bool write,
			     unsigned long *bits, unsigned long first, int *any)
{
	struct rpmem_insert ins = {
		.vma = vma,
		.pfn = pfn,
		.write = write,
		.bits = bits,
		.bit = first,
		.any = any,
	};

	/* apply_to_page_range() does not expect it. */
	if (rpmem_helper_leaf_size(vma->vm_mm, addr))
		return -EAGAIN;
	return apply_to_page_range(vma->vm_mm, addr, nr << PAGE_SHIFT, rpmem_insert_one, &ins);
}

/* By these, memory failure finds who has mapped a page; the VMA starts at a page of the device. */
static void rpmem_set_mapping(struct vm_area_struct *vma, unsigned long addr, struct page *page)
{
	struct folio *folio = page_folio(page);

	if (READ_ONCE(folio->mapping))
		return;
	/* Whoever else is here writes the same. */
	WRITE_ONCE(folio->index, linear_page_index(vma, addr) - folio_page_idx(folio, page));
	WRITE_ONCE(folio->mapping, vma->vm_file->f_mapping);
}

/* Normal entries for @nr consecutive pages, in one page table. */
vm_fault_t rpmem_helper_insert_pages(struct vm_area_struct *vma, unsigned long addr,
				     unsigned long pfn, unsigned long nr, bool write)
{
	vm_fault_t ret = VM_FAULT_NOPAGE;

	if (rpmem_helper_leaf_size(vma->vm_mm, addr))
		return ret;
	while (nr-- && ret == VM_FAULT_NOPAGE) {
		struct vm_fault vmf = { .vma = vma, .address = addr };
		struct page *page = pfn_to_page(pfn++);

		rpmem_set_mapping(vma, addr, page);
		ret = vmf_insert_page_mkwrite(&vmf, page, write);
		addr += PAGE_SIZE;
	}
	return ret;
}

/* One entry for the whole folio at @pfn, of 2^@order pages. */
vm_fault_t rpmem_helper_insert_folio(struct vm_fault *vmf, unsigned long pfn,
				     unsigned int order, bool write)
{
	struct page *page = pfn_to_page(pfn);

	if (folio_order(page_folio(page)) != order)
		return VM_FAULT_FALLBACK;
	rpmem_set_mapping(vmf->vma, vmf->address & ~((PAGE_SIZE << order) - 1), page);
	if (order == PMD_ORDER)
		return vmf_insert_folio_pmd(vmf, page_folio(page), write);
#ifdef CONFIG_HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD
	if (order == PUD_ORDER)
		return vmf_insert_folio_pud(vmf, page_folio(page), write);
#endif
	return VM_FAULT_FALLBACK;
}

void rpmem_helper_ida_init(struct ida *ida)
{
	ida_init(ida);
}

int rpmem_helper_ratelimit(void)
{
	static DEFINE_RATELIMIT_STATE(rs, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&rs);
}
