/* SPDX-License-Identifier: GPL-2.0 */
/* See arch.h, and Documentation/arm64.md. */
#ifndef RPMEM_ARCH_ARM64_H
#define RPMEM_ARCH_ARM64_H

#include <linux/page_table_check.h>
#include <linux/pgtable.h>
#include <asm/cacheflush.h>
#include <asm/tlbflush.h>

/* Memory is the same for the kernel and for users, outside of realms, which have no NVDIMMs. */
static inline pgprot_t rpmem_arch_agree(pgprot_t prot, const void *addr)
{
	return prot;
}

/*
 * set_pte_at() and set_pmd_at() would make the memory's tags fit as well, by
 * mte_sync_tags(), which modules have not, and have instructions seen. What is special
 * has no tags, and __sync_cache_and_tags() leaves it alone, too. It is never part of a
 * contiguous range (contpte_try_fold()).
 */
static __always_inline void rpmem_arch_set_pte(struct mm_struct *mm, unsigned long addr,
					       pte_t *ptep, pte_t pte)
{
	page_table_check_ptes_set(mm, addr, ptep, pte, 1);
	set_pte(ptep, pte);
}

static __always_inline void rpmem_arch_set_pmd(struct mm_struct *mm, unsigned long addr,
					       pmd_t *pmdp, pmd_t pmd)
{
	page_table_check_pmds_set(mm, addr, pmdp, pmd, 1);
	set_pmd(pmdp, pmd);
}

#define RPMEM_ARCH_SYNCS_INSTRUCTIONS	true

/* As sync_icache_aliases(), which the core calls for pages and modules have not. */
static inline void rpmem_arch_sync_instructions(const void *addr, size_t len)
{
	caches_clean_inval_pou((unsigned long)addr, (unsigned long)addr + len);
	/* By the addresses of users, too, where those decide which line it is. */
	icache_inval_all_pou();
}

/*
 * As flush_tlb_fix_spurious_fault_pmd(), of which the compiler cannot tell that it is
 * one entry, and never goes to what modules have not.
 */
static inline void rpmem_arch_fix_spurious_fault_pmd(struct vm_area_struct *vma, unsigned long addr)
{
	__do_flush_tlb_range(vma, addr, addr + PMD_SIZE, PMD_SIZE, 2,
			     TLBF_NOBROADCAST | TLBF_NONOTIFY | TLBF_NOWALKCACHE);
}

/*
 * There is no instruction for all of them; firmware that says that the caches are
 * persistent sees to it (EFI_MEMORY_NV, flush on fail).
 */
static inline void rpmem_arch_write_back_caches(void)
{
}

#endif /* RPMEM_ARCH_ARM64_H */
