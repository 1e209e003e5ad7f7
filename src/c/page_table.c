// SPDX-License-Identifier: GPL-2.0
/* What page tables tell of stores, and how few of them do. */
#include <linux/bitops.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pgtable.h>

#include "page_table.h"
#include "vm.h"

atomic_t rpmem_moves = ATOMIC_INIT(0);

/*
 * How many of the @nr pages from @addr on have an entry that is dirty; @pages has a
 * bit for each that counts. They are in the page table of @vmf.
 */
unsigned long rpmem_helper_count_dirty(struct vm_fault *vmf, unsigned long addr,
				       const unsigned long *pages, unsigned long nr)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	unsigned long dirty = 0;
	spinlock_t *ptl;	/* of the table */
	unsigned long n;
	pmd_t table;
	pte_t *pte;

	rcu_read_lock();
	table = pmdp_get_lockless(vmf->pmd);
	if (rpmem_is_table(table)) {
		ptl = pte_lockptr(mm, &table);
		spin_lock(ptl);
		if (pmd_same(table, pmdp_get_lockless(vmf->pmd))) {
			pte = pte_offset_kernel(&table, addr);
			for_each_set_bit(n, pages, nr)
				dirty += !!pte_dirty(ptep_get(pte + n));
		}
		spin_unlock(ptl);
	}
	rcu_read_unlock();
	return dirty;
}

/*
 * Which of 64 PMDs around that of @vmf have page tables, which are for its VMA alone:
 * a bit for each, from the one for @first on. The 32 of them that its own is in begin
 * at a multiple of that. None if @vmf needs no page table.
 */
u64 rpmem_helper_tables_near(struct vm_fault *vmf, unsigned long *first)
{
	struct vm_area_struct *vma = vmf->vma;
	unsigned long at = pmd_index(vmf->address);
	unsigned long block = round_down(at, 32);
	unsigned long from = block >= 16 ? block - 16 : 0;
	unsigned long nr = min(64UL, PTRS_PER_PMD - from);
	unsigned long addr = (vmf->address & PMD_MASK) - (at - from) * PMD_SIZE;
	pmd_t *pmd = vmf->pmd - (at - from);
	u64 tables = 0;
	unsigned long n;

	*first = addr;
	if (!vmf->prealloc_pte || !pmd_none(pmdp_get_lockless(vmf->pmd)))
		return 0;
	for (n = 0; n < nr; n++, addr += PMD_SIZE) {
		if (rpmem_is_table(pmdp_get_lockless(pmd + n)) &&
		    range_in_vma(vma, addr, addr + PMD_SIZE))
			tables |= BIT_ULL(n);
	}
	return tables;
}

/* Empties a page table that no CPU walks through any more; it was that for @addr. */
static void rpmem_clear_table(struct mm_struct *mm, unsigned long addr, pmd_t *table)
{
	pte_t *pte = pte_offset_kernel(table, addr);
	unsigned long n;

	if (!IS_ENABLED(CONFIG_PAGE_TABLE_CHECK)) {
		memset(pte, 0, PTRS_PER_PTE * sizeof(pte_t));
		return;
	}
	/* That counts entries. */
	for (n = 0; n < PTRS_PER_PTE; n++)
		ptep_clear(mm, addr + n * PAGE_SIZE, pte + n);
}

/*
 * Moves the page table for @from, with nothing in it, to where @vmf needs one; both
 * are in one table of PMDs, and the first is for the VMA of @vmf alone. What is mapped
 * by it loses its entries. The VMA is locked, so that nobody frees or moves either,
 * and the caller keeps others from unmapping here and from moving tables
 * (address_space.rs).
 *
 * Moved and not freed: who has looked it up without a lock finds that its entry has
 * changed, as after retract_page_tables(), and the table is one for as long as the
 * address space lives.
 *
 * Return: false if there is no table, or none is needed any more.
 */
bool rpmem_helper_move_table(struct vm_fault *vmf, unsigned long from)
{
	pmd_t *pmd = vmf->pmd - pmd_index(vmf->address) + pmd_index(from);
	struct vm_area_struct *vma = vmf->vma;
	struct mm_struct *mm = vma->vm_mm;
	spinlock_t *pml;	/* of the entries of PMDs */
	spinlock_t *ptl;	/* of the table */
	pmd_t table;

	/*
	 * By that, zap_special_vma_range() flushes, from all TLBs, also what leads to
	 * the table (tlb_finish_mmu()), and so does whoever unmaps meanwhile.
	 */
	inc_tlb_flush_pending(mm);
	pml = pmd_lock(mm, pmd);
	table = pmdp_get_lockless(pmd);
	if (!rpmem_is_table(table) || !pmd_none(pmdp_get_lockless(vmf->pmd))) {
		spin_unlock(pml);
		dec_tlb_flush_pending(mm);
		return false;
	}
	atomic_inc(&rpmem_moves);
	WRITE_ONCE(*rpmem_moving(vma), rpmem_table_of_pmds(pmd));
	/* Who has locked the table is done with it then. */
	ptl = pte_lockptr(mm, &table);
	if (ptl != pml)
		spin_lock_nested(ptl, SINGLE_DEPTH_NESTING);
	pmd_clear(pmd);
	if (ptl != pml)
		spin_unlock(ptl);
	spin_unlock(pml);

	zap_special_vma_range(vma, from & PMD_MASK, PMD_SIZE);
	dec_tlb_flush_pending(mm);
	rpmem_clear_table(mm, from & PMD_MASK, &table);

	pml = pmd_lock(mm, vmf->pmd);
	/* It is zeroed before it can be seen. */
	smp_wmb();
	set_pmd(vmf->pmd, table);
	WRITE_ONCE(*rpmem_moving(vma), NULL);
	atomic_dec(&rpmem_moves);
	spin_unlock(pml);
	return true;
}
