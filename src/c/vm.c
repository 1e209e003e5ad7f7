// SPDX-License-Identifier: GPL-2.0
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagemap.h>
#include <linux/pgalloc.h>
#include <linux/pgtable.h>
#include <linux/ratelimit.h>
#include <linux/srcu.h>

#include "arch.h"
#include "page_table.h"
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

/* A mapping of page frames, which the kernel has mapped at @addr. */
void rpmem_helper_vma_desc_set_pfnmap(struct vm_area_desc *desc, const void *addr)
{
	vma_desc_set_flags(desc, VMA_PFNMAP_BIT, VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT);
	desc->page_prot = rpmem_arch_agree(desc->page_prot, addr);
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
	/* Where the store is that this is for, if it is for one. */
	unsigned long store;
	/* Where stores are remembered, if they are, and the bit of the next page. */
	const struct rpmem_marks *marks;
	unsigned long bit;
};

/*
 * Under the lock of the table that the entry is in: who takes the bits out and unmaps
 * the pages then, under that lock, leaves no writable entry without a bit.
 */
static __always_inline void rpmem_mark(const struct rpmem_marks *marks, unsigned long bit)
{
	if (!test_bit(bit, marks->bits))
		set_bit(bit, marks->bits);
	/* The bit before what leads to it, */
	smp_mb__after_atomic();
	if (!READ_ONCE(*marks->any))
		WRITE_ONCE(*marks->any, 1);
	/* and both before the entry. */
	smp_wmb();
}

/*
 * An entry that is there is only ever made writable. Where stores are remembered,
 * entries are clean until there is one.
 */
static __always_inline void rpmem_insert_next(pte_t *pte, unsigned long addr,
					      struct rpmem_insert *ins)
{
	pte_t old = ptep_get(pte);
	pte_t new = ins->entry;

	if (ins->marks && ins->marks->step)
		rpmem_mark(ins->marks, ins->bit++);
	if (addr == ins->store)
		new = pte_mkdirty(new);
	if (pte_none(old)) {
		rpmem_arch_set_pte(ins->vma->vm_mm, addr, pte, new);
	} else if (ins->write && pte_pfn(old) == pte_pfn(new)) {
		if (!pte_write(old))
			rpmem_arch_set_pte(ins->vma->vm_mm, addr, pte, new);
		/* As ptep_set_access_flags(): this CPU may keep the old one, and fault for ever. */
		flush_tlb_fix_spurious_fault(ins->vma, addr, pte);
	}
	ins->entry = pte_next_pfn(ins->entry);
}

/*
 * The entry of PMDs for @addr, if there is a table of them. Sets @leaf to the bytes
 * that a huge entry there covers, or to 0. The VMA is locked, so that tables above
 * those of PTEs stay.
 */
static noinline pmd_t *rpmem_find_pmd(struct mm_struct *mm, unsigned long addr, unsigned long *leaf)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t pud;
	pmd_t *pmd;

	*leaf = 0;
	if (pgd_none(pgdp_get(pgd)))
		return NULL;
	p4d = p4d_offset(pgd, addr);
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

/*
 * Entries for @nr pages from @addr on in the page table at @pmd, if there is one; it
 * may be taken away, as pte_offset_map_lock() knows, which modules have not.
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
	if (!rpmem_is_table(table))
		goto out;
	ptl = pte_lockptr(ins->vma->vm_mm, &table);
	spin_lock(ptl);
	if (likely(pmd_same(table, pmdp_get_lockless(pmd)))) {
		if (ins->marks && !ins->marks->step)
			rpmem_mark(ins->marks, ins->bit);
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
 * Puts the page table that __do_fault() has allocated where there is nothing yet, as
 * pmd_install() does, which modules have not. apply_to_page_range() would allocate one
 * as well, but takes an entry of 1 GiB that another thread makes meanwhile for a
 * table.
 */
static noinline bool rpmem_install_table(struct vm_fault *vmf)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	bool done = false;
	spinlock_t *ptl;	/* of the entries of PMDs */

	if (!vmf->prealloc_pte)
		return false;
	ptl = pmd_lock(mm, vmf->pmd);
	if (pmd_none(*vmf->pmd) && !rpmem_is_moving(vmf->vma, vmf->pmd)) {
		mm_inc_nr_ptes(mm);
		/* The table is zeroed before it can be seen. */
		smp_wmb();
		pmd_populate(mm, vmf->pmd, vmf->prealloc_pte);
		vmf->prealloc_pte = NULL;
		done = true;
	}
	spin_unlock(ptl);
	return done;
}

/*
 * Special entries for @nr consecutive frames in one page table: that of the fault
 * @vmf, which is made if there is none, or, without a fault, one that is there.
 * vmf_insert_pfn() does one entry, and looks up its memory type each time: here the
 * range is write-back for as long as it can be mapped.
 *
 * Return: false if there is a huge entry, or no table.
 */
bool rpmem_helper_insert_pfns(struct vm_area_struct *vma, struct vm_fault *vmf, unsigned long addr,
			      unsigned long pfn, unsigned long nr, bool write,
			      const struct rpmem_marks *marks)
{
	struct rpmem_insert ins = {
		.vma = vma,
		.entry = pte_mkyoung(pte_mkspecial(pfn_pte(pfn, vma->vm_page_prot))),
		.write = write,
		.store = vmf && write && marks ? vmf->address & PAGE_MASK : -1UL,
		.marks = marks,
		.bit = marks ? marks->first : 0,
	};
	unsigned long leaf;
	pmd_t *pmd;

	/* Without a fault all of them are going to be stored to. */
	if (write && (!marks || !vmf))
		ins.entry = pte_mkdirty(ins.entry);
	if (write)
		ins.entry = pte_mkwrite_novma(ins.entry);
	/* What the caller remembers of stores, before what leads to them; so below. */
	smp_wmb();
	pmd = vmf ? vmf->pmd : rpmem_find_pmd(vma->vm_mm, addr, &leaf);
	if (!pmd)
		return false;
	while (!likely(rpmem_insert_in_table(pmd, addr, nr, &ins))) {
		if (!vmf || !rpmem_install_table(vmf))
			return false;
	}
	return true;
}

/*
 * A huge entry is put where there is nothing; one that is there for the same frame is
 * only ever made writable. vmf_insert_pfn_pmd() and vmf_insert_pfn_pud() look up the
 * memory type, and for a store take what they find for an entry of that size, when
 * another thread may have put a table there; so does vmf_insert_folio_pmd(), which is
 * therefore called as for a load.
 *
 * A core without huge pages, as in RT kernels, takes no such entry away: it never gets
 * one.
 */
static pmd_t rpmem_mkwrite_pmd(const struct vm_area_struct *vma, pmd_t pmd)
{
	pmd = pmd_mkyoung(pmd_mkdirty(pmd));
	return vma->vm_flags & VM_WRITE ? pmd_mkwrite_novma(pmd) : pmd;
}

static bool rpmem_upgrade_pmd(struct vm_fault *vmf, unsigned long pfn)
{
	unsigned long addr = vmf->address & PMD_MASK;
	pmd_t old = *vmf->pmd;

	if (!pmd_present(old) || !pmd_leaf(old) || pmd_pfn(old) != pfn)
		return false;
	/* A folio's has had its tags and instructions seen to when it was made. */
	if (!pmd_write(old))
		rpmem_arch_set_pmd(vmf->vma->vm_mm, addr, vmf->pmd,
				   rpmem_mkwrite_pmd(vmf->vma, old));
	rpmem_arch_fix_spurious_fault_pmd(vmf->vma, addr);
	return true;
}

/*
 * A special entry of PMD_SIZE; if there is a table, the fault is tried again and uses
 * that. With @marks there is one mark for all of it.
 *
 * Return: VM_FAULT_RETRY if a page table is being moved there; no lock has been
 * dropped.
 */
vm_fault_t rpmem_helper_insert_pmd(struct vm_fault *vmf, unsigned long pfn, bool write,
				   const struct rpmem_marks *marks)
{
	struct vm_area_struct *vma = vmf->vma;
	pmd_t pmd = pmd_mkspecial(pmd_mkhuge(pfn_pmd(pfn, vma->vm_page_prot)));
	vm_fault_t ret = VM_FAULT_NOPAGE;
	spinlock_t *ptl;	/* of the entries of PMDs */

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) || arch_needs_pgtable_deposit())
		return VM_FAULT_FALLBACK;
	if (write)
		pmd = rpmem_mkwrite_pmd(vma, pmd);
	/* A mark of what it maps is seen before the entry. */
	smp_wmb();
	ptl = pmd_lock(vma->vm_mm, vmf->pmd);
	if (marks)
		rpmem_mark(marks, marks->first);
	if (!pmd_none(*vmf->pmd)) {
		if (write)
			rpmem_upgrade_pmd(vmf, pfn);
	} else if (!rpmem_is_moving(vma, vmf->pmd)) {
		rpmem_arch_set_pmd(vma->vm_mm, vmf->address & PMD_MASK, vmf->pmd, pmd);
	} else {
		ret = VM_FAULT_RETRY;
	}
	spin_unlock(ptl);
	return ret;
}

/* The same of PUD_SIZE. The caller keeps unmap_mapping_pages() away, see address_space.rs. */
vm_fault_t rpmem_helper_insert_pud(struct vm_fault *vmf, unsigned long pfn, bool write)
{
#if RPMEM_HAS_PUD_ENTRIES
	struct vm_area_struct *vma = vmf->vma;
	pud_t pud = pud_mkspecial(pud_mkhuge(pfn_pud(pfn, vma->vm_page_prot)));
	spinlock_t *ptl;	/* of the entries of PUDs */
	pud_t old;

	if (write)
		pud = pud_mkyoung(pud_mkdirty(pud));
	if (write && vma->vm_flags & VM_WRITE)
		pud = pud_mkwrite(pud);
	/* A mark of what it maps is seen before the entry. */
	smp_wmb();
	ptl = pud_lock(vma->vm_mm, vmf->pud);
	old = *vmf->pud;
	if (pud_none(old) || (write && pud_leaf(old) && pud_pfn(old) == pfn && !pud_write(old)))
		set_pud_at(vma->vm_mm, vmf->address & PUD_MASK, vmf->pud, pud);
	spin_unlock(ptl);
	return VM_FAULT_NOPAGE;
#else
	return VM_FAULT_FALLBACK;
#endif
}

/*
 * Takes an entry of PUD_SIZE away through which @vma is to be cut at @addr: the core
 * would look in it for entries of PMD_SIZE (split_huge_pmd_if_needed()), or leave it
 * across two VMAs. For ->may_split: the mmap lock is held for writing, and until that
 * ends no fault brings the entry back.
 */
void rpmem_helper_cut_pud(struct vm_area_struct *vma, unsigned long addr)
{
	unsigned long start = addr & PUD_MASK;
	unsigned long leaf;

	vma_start_write(vma);
	rpmem_find_pmd(vma->vm_mm, addr, &leaf);
	if (leaf == PUD_SIZE && addr != start)
		zap_special_vma_range(vma, start, PUD_SIZE);
}

/*
 * Whether @vma, for which ->open is called, is where mremap(2) moves another one to.
 * The copy that fork makes is of another address space, and that of a cut is where the
 * first one still is.
 */
bool rpmem_helper_is_moved(const struct vm_area_struct *vma)
{
	return vma->vm_mm == current->mm && !vma_lookup(vma->vm_mm, vma->vm_start);
}

/*
 * The bytes that the entry at @addr covers, if it is one that lets its users read, or
 * @write; else 0. The VMA is locked.
 */
unsigned long rpmem_helper_entry_size(struct mm_struct *mm, unsigned long addr, bool write)
{
	unsigned long size = 0;
	unsigned long leaf;
	spinlock_t *ptl;	/* of the table */
	pmd_t table;
	pmd_t *pmd;
	pte_t pte;

	pmd = rpmem_find_pmd(mm, addr, &leaf);
	/* If it is not writable, the next store makes it so. */
	if (leaf || !pmd)
		return leaf;
	rcu_read_lock();
	table = pmdp_get_lockless(pmd);
	if (rpmem_is_table(table)) {
		ptl = pte_lockptr(mm, &table);
		spin_lock(ptl);
		if (pmd_same(table, pmdp_get_lockless(pmd))) {
			pte = ptep_get(pte_offset_kernel(&table, addr));
			if (pte_present(pte) && (!write || pte_write(pte)))
				size = PAGE_SIZE;
		}
		spin_unlock(ptl);
	}
	rcu_read_unlock();
	return size;
}

/*
 * The entry of PMDs for @addr, if there is a table of them and @vma may have huge
 * entries. The VMA is locked.
 */
pmd_t *rpmem_helper_find_pmd(struct vm_area_struct *vma, unsigned long addr)
{
	unsigned long leaf;

	if (vma_thp_disabled(vma, vma->vm_flags, false))
		return NULL;
	return rpmem_find_pmd(vma->vm_mm, addr, &leaf);
}

/* Whether that is a huge entry now. */
bool rpmem_helper_is_huge(pmd_t *pmd)
{
	return pmd_leaf(pmdp_get_lockless(pmd));
}

/* By these, memory failure finds who has mapped a page; the VMA starts at a page of the device. */
static noinline void rpmem_set_mapping(struct vm_area_struct *vma, unsigned long addr,
				       struct folio *folio, struct page *page)
{
	/* Whoever else is here writes the same. */
	WRITE_ONCE(folio->index, linear_page_index(vma, addr) - folio_page_idx(folio, page));
	/* Who sees the mapping sees the index. */
	smp_store_release(&folio->mapping, vma->vm_file->f_mapping);
}

static __always_inline void rpmem_need_mapping(struct vm_area_struct *vma, unsigned long addr,
					       struct folio *folio, struct page *page)
{
	/* The usual case: it has been mapped before. */
	if (!READ_ONCE(folio->mapping))
		rpmem_set_mapping(vma, addr, folio, page);
}

/*
 * Normal entries for @nr consecutive pages in one page table, as above. That is there
 * before vmf_insert_page_mkwrite() looks, which would take a huge entry for one. @done
 * is how many it was.
 */
vm_fault_t rpmem_helper_insert_pages(struct vm_area_struct *vma, struct vm_fault *vmf,
				     unsigned long addr, unsigned long pfn, unsigned long nr,
				     bool write, unsigned long *done)
{
	vm_fault_t ret = VM_FAULT_NOPAGE;
	unsigned long leaf;
	unsigned long n;
	pmd_t *pmd;

	*done = 0;
	if (vmf)
		rpmem_install_table(vmf);
	pmd = vmf ? vmf->pmd : rpmem_find_pmd(vma->vm_mm, addr, &leaf);
	if (!pmd || !rpmem_is_table(pmdp_get_lockless(pmd)))
		return ret;
	for (n = 0; n < nr; n++, addr += PAGE_SIZE) {
		struct vm_fault one = { .vma = vma, .address = addr };
		struct page *page = pfn_to_page(pfn + n);

		rpmem_need_mapping(vma, addr, page_folio(page), page);
		/* A mark of what it maps is seen before the entry. */
		smp_wmb();
		ret = vmf_insert_page_mkwrite(&one, page, write);
		if (ret != VM_FAULT_NOPAGE)
			break;
	}
	*done = n;
	return ret;
}

static noinline bool rpmem_upgrade_folio(struct vm_fault *vmf, unsigned long pfn)
{
	spinlock_t *ptl = pmd_lock(vmf->vma->vm_mm, vmf->pmd);
	bool done = rpmem_upgrade_pmd(vmf, pfn);

	spin_unlock(ptl);
	return done;
}

/* One entry of PMD_SIZE for the folio that begins at @pfn, and is as large. */
vm_fault_t rpmem_helper_insert_folio(struct vm_fault *vmf, unsigned long pfn, bool write)
{
	struct page *page = pfn_to_page(pfn);
	struct folio *folio = (struct folio *)page;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		return VM_FAULT_FALLBACK;
	rpmem_need_mapping(vmf->vma, vmf->address & PMD_MASK, folio, page);
	/* A mark of what it maps is seen before the entry. */
	smp_wmb();
	if (write && unlikely(!pmd_none(pmdp_get_lockless(vmf->pmd))) &&
	    rpmem_upgrade_folio(vmf, pfn))
		return VM_FAULT_NOPAGE;
	/* As for a load: what is there stays, and what comes is writable if the VMA is. */
	return vmf_insert_folio_pmd(vmf, folio, false);
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
