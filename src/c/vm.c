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
	/* What the entry of the next page is. */
	pte_t entry;
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
static __always_inline void rpmem_insert_next(pte_t *pte, unsigned long addr,
					      struct rpmem_insert *ins)
{
	pte_t old = ptep_get(pte);

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
	if (pte_none(old) ||
	    (ins->write && !pte_write(old) && pte_pfn(old) == pte_pfn(ins->entry)))
		set_pte_at(ins->vma->vm_mm, addr, pte, ins->entry);
	ins->entry = pte_next_pfn(ins->entry);
}

static int rpmem_insert_one(pte_t *pte, unsigned long addr, void *data)
{
	rpmem_insert_next(pte, addr, data);
	return 0;
}

/*
 * What has the entry for @addr at the level of PMDs, if there is a table for it. Sets @leaf to the
 * bytes that a huge entry covers, or to 0. The VMA is locked.
 */
static pmd_t *rpmem_find_pmd(struct mm_struct *mm, unsigned long addr, unsigned long *leaf)
{
	p4d_t *p4d = p4d_offset(pgd_offset(mm, addr), addr);
	pud_t pud;
	pmd_t *pmd;

	*leaf = 0;
	if (p4d_none(p4dp_get(p4d)))
		return NULL;
	pud = pudp_get(pud_offset(p4d, addr));
	if (pud_leaf(pud)) {
		*leaf = PUD_SIZE;
		return NULL;
	}
	if (pud_none(pud))
		return NULL;
	pmd = pmd_offset(&pud, addr);
	if (pmd_leaf(pmdp_get(pmd)))
		*leaf = PMD_SIZE;
	return pmd;
}

/* The bytes that a huge entry at @addr covers; 0 if there is none. The VMA is locked. */
unsigned long rpmem_helper_leaf_size(struct mm_struct *mm, unsigned long addr)
{
	unsigned long leaf;

	rpmem_find_pmd(mm, addr, &leaf);
	return leaf;
}

/* Whether the current task has a normal entry at @addr that lets it read or @write. */
bool rpmem_helper_is_mapped(unsigned long addr, bool write)
{
	struct page *page;

	if (get_user_pages_fast_only(addr, 1, write ? FOLL_WRITE : 0, &page) != 1)
		return false;
	put_page(page);
	return true;
}

/*
 * Entries for @nr pages from @addr on in the page table at @pmd, if there is one; it may be taken
 * away, as pte_offset_map_lock() knows, which modules have not.
 */
static __always_inline bool rpmem_insert_in_table(pmd_t *pmd, unsigned long addr,
						  unsigned long nr, struct rpmem_insert *ins)
{
	bool done = false;
	spinlock_t *ptl;	/* of the table */
	pmd_t table;
	pte_t *pte;

	rcu_read_lock();
	table = pmdp_get_lockless(pmd);
	/* A huge entry is a bad table. */
	if (!pmd_present(table) || pmd_bad(table))
		goto out;
	ptl = pte_lockptr(ins->vma->vm_mm, &table);
	spin_lock(ptl);
	if (likely(pmd_same(table, pmdp_get_lockless(pmd)))) {
		for (pte = pte_offset_kernel(&table, addr); nr; nr--, pte++, addr += PAGE_SIZE)
			rpmem_insert_next(pte, addr, ins);
		done = true;
	}
	spin_unlock(ptl);
out:
	rcu_read_unlock();
	return done;
}

/*
 * Special entries for @nr consecutive frames; a fault knows the @pmd. vmf_insert_pfn() does one,
 * and looks up its memory type each time: here the range is write-back for as long as it can be
 * mapped.
 */
int rpmem_helper_insert_pfns(struct vm_area_struct *vma, pmd_t *pmd, unsigned long addr,
			     unsigned long pfn, unsigned long nr, bool write,
			     unsigned long *bits, unsigned long first, int *any)
{
	struct rpmem_insert ins = {
		.vma = vma,
		.entry = pte_mkyoung(pte_mkspecial(pfn_pte(pfn, vma->vm_page_prot))),
		.write = write,
		.bits = bits,
		.bit = first,
		.any = any,
	};
	unsigned long leaf = 0;

	if (write)
		ins.entry = pte_mkwrite_novma(pte_mkdirty(ins.entry));
	if (!pmd)
		pmd = rpmem_find_pmd(vma->vm_mm, addr, &leaf);
	if (pmd && nr <= PTRS_PER_PTE - pte_index(addr) &&
	    rpmem_insert_in_table(pmd, addr, nr, &ins))
		return 0;
	/* apply_to_page_range() does not expect it. */
	if (leaf || rpmem_helper_leaf_size(vma->vm_mm, addr))
		return -EAGAIN;
	return apply_to_page_range(vma->vm_mm, addr, nr << PAGE_SHIFT, rpmem_insert_one, &ins);
}

/*
 * A special entry of 2^@order pages; vmf_insert_pfn_pmd() and _pud() look up the memory type, as
 * above. What is there already is for them.
 */
vm_fault_t rpmem_helper_insert_huge(struct vm_fault *vmf, unsigned long pfn, unsigned int order,
				    bool write)
{
	struct vm_area_struct *vma = vmf->vma;
	bool done = false;
	spinlock_t *ptl;	/* of the table that the entry is in */

	if (order == PMD_ORDER) {
		pmd_t pmd = pmd_mkspecial(pmd_mkhuge(pfn_pmd(pfn, vma->vm_page_prot)));

		if (write)
			pmd = pmd_mkyoung(pmd_mkdirty(pmd));
		if (write && vma->vm_flags & VM_WRITE)
			pmd = pmd_mkwrite_novma(pmd);
		ptl = pmd_lock(vma->vm_mm, vmf->pmd);
		if (pmd_none(*vmf->pmd) && !arch_needs_pgtable_deposit()) {
			set_pmd_at(vma->vm_mm, vmf->address & PMD_MASK, vmf->pmd, pmd);
			done = true;
		}
		spin_unlock(ptl);
		return done ? VM_FAULT_NOPAGE : vmf_insert_pfn_pmd(vmf, pfn, write);
	}
#ifdef CONFIG_HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD
	if (order == PUD_ORDER) {
		pud_t pud = pud_mkspecial(pud_mkhuge(pfn_pud(pfn, vma->vm_page_prot)));

		if (write)
			pud = pud_mkyoung(pud_mkdirty(pud));
		if (write && vma->vm_flags & VM_WRITE)
			pud = pud_mkwrite(pud);
		ptl = pud_lock(vma->vm_mm, vmf->pud);
		if (pud_none(*vmf->pud)) {
			set_pud_at(vma->vm_mm, vmf->address & PUD_MASK, vmf->pud, pud);
			done = true;
		}
		spin_unlock(ptl);
		return done ? VM_FAULT_NOPAGE : vmf_insert_pfn_pud(vmf, pfn, write);
	}
#endif
	return VM_FAULT_FALLBACK;
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
