/* SPDX-License-Identifier: GPL-2.0 */
/* See arch.h. */
#ifndef RPMEM_ARCH_X86_H
#define RPMEM_ARCH_X86_H

#include <linux/cc_platform.h>
#include <linux/mem_encrypt.h>
#include <linux/pgtable.h>
#include <asm/smp.h>

/*
 * Encrypted or not as the kernel's mapping is: users have to see the same bytes. What
 * memremap() chooses depends on the machine (arch_memremap_wb()), so its entry is
 * looked at. The core keeps the bit when it makes vm_page_prot anew (pgprot_modify()).
 */
static inline pgprot_t rpmem_arch_agree(pgprot_t prot, const void *addr)
{
	/* The bit of AMD says encrypted, that of TDX the reverse. */
	pgprotval_t mask = sme_me_mask | cc_mkdec(0);
	unsigned int level;
	pte_t *pte;

	if (!cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		return prot;
	pte = lookup_address((unsigned long)addr, &level);
	if (pte)
		prot = __pgprot((pgprot_val(prot) & ~mask) | (pte_val(*pte) & mask));
	return prot;
}

static __always_inline void rpmem_arch_set_pte(struct mm_struct *mm, unsigned long addr,
					       pte_t *ptep, pte_t pte)
{
	set_pte_at(mm, addr, ptep, pte);
}

static __always_inline void rpmem_arch_set_pmd(struct mm_struct *mm, unsigned long addr,
					       pmd_t *pmdp, pmd_t pmd)
{
	set_pmd_at(mm, addr, pmdp, pmd);
}

#define RPMEM_ARCH_SYNCS_INSTRUCTIONS	false

static inline void rpmem_arch_sync_instructions(const void *addr, size_t len)
{
}

/* A fault has the CPU forget it. */
static inline void rpmem_arch_fix_spurious_fault_pmd(struct vm_area_struct *vma, unsigned long addr)
{
}

/* As ACPI_FLUSH_CPU_CACHE(), which the kernel does for S1 to S3, but not when the power goes. */
static inline void rpmem_arch_write_back_caches(void)
{
	if (!cpu_feature_enabled(X86_FEATURE_HYPERVISOR))
		wbinvd_on_all_cpus();
}

#endif /* RPMEM_ARCH_X86_H */
