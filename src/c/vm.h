/* SPDX-License-Identifier: GPL-2.0 */
/* What user mappings need of the kernel's inline functions. */
#ifndef RPMEM_VM_H
#define RPMEM_VM_H

#include <linux/fs.h>
#include <linux/mm_types.h>
#include <linux/types.h>

/* It comes with a patch, see qemu/kernels/patches. */
#ifndef FOP_MMAP_DIRECT
#define FOP_MMAP_DIRECT		((__force fop_flags_t)0)
#endif

/* Whether there are entries of PUD_SIZE: on x86-64, and on arm64 not until it is taught. */
#define RPMEM_HAS_PUD_ENTRIES	(IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) && \
				 IS_ENABLED(CONFIG_HAVE_ARCH_TRANSPARENT_HUGEPAGE_PUD))

struct ida;
struct mm_struct;
struct srcu_struct;
struct vm_area_desc;
struct vm_area_struct;

/*
 * Where stores are remembered: a bit in @bits for each page from @first on if @step is
 * 1, or one for all of them if it is 0. @any becomes 1 after any bit.
 */
struct rpmem_marks {
	unsigned long *bits;
	unsigned long first;
	unsigned long step;
	int *any;
};

int rpmem_helper_init_srcu_struct(struct srcu_struct *ssp);
int rpmem_helper_srcu_read_lock(struct srcu_struct *ssp);
void rpmem_helper_srcu_read_unlock(struct srcu_struct *ssp, int idx);

bool rpmem_helper_vma_desc_shared(const struct vm_area_desc *desc);
bool rpmem_helper_vma_desc_sync(const struct vm_area_desc *desc);
bool rpmem_helper_vma_desc_write(const struct vm_area_desc *desc);
bool rpmem_helper_vma_desc_may_write(const struct vm_area_desc *desc);
void rpmem_helper_vma_desc_clear_may_write(struct vm_area_desc *desc);
bool rpmem_helper_vma_desc_direct(const struct vm_area_desc *desc);
void rpmem_helper_vma_desc_set_pfnmap(struct vm_area_desc *desc, const void *addr);
void rpmem_helper_vma_desc_set_dontexpand(struct vm_area_desc *desc);
bool rpmem_helper_insert_pfns(struct vm_area_struct *vma, struct vm_fault *vmf, unsigned long addr,
			      unsigned long pfn, unsigned long nr, bool write,
			      const struct rpmem_marks *marks);
vm_fault_t rpmem_helper_insert_pmd(struct vm_fault *vmf, unsigned long pfn, bool write,
				   const struct rpmem_marks *marks);
vm_fault_t rpmem_helper_insert_pud(struct vm_fault *vmf, unsigned long pfn, bool write);
void rpmem_helper_cut_pud(struct vm_area_struct *vma, unsigned long addr);
bool rpmem_helper_is_moved(const struct vm_area_struct *vma);
vm_fault_t rpmem_helper_insert_pages(struct vm_area_struct *vma, struct vm_fault *vmf,
				     unsigned long addr, unsigned long pfn, unsigned long nr,
				     bool write, unsigned long *done);
vm_fault_t rpmem_helper_insert_folio(struct vm_fault *vmf, unsigned long pfn, bool write);
unsigned long rpmem_helper_entry_size(struct mm_struct *mm, unsigned long addr, bool write);
pmd_t *rpmem_helper_find_pmd(struct vm_area_struct *vma, unsigned long addr);
bool rpmem_helper_is_huge(pmd_t *pmd);
unsigned long rpmem_helper_count_dirty(struct vm_fault *vmf, unsigned long addr,
				       const unsigned long *pages, unsigned long nr);
u64 rpmem_helper_tables_near(struct vm_fault *vmf, unsigned long *first);
bool rpmem_helper_move_table(struct vm_fault *vmf, unsigned long from);
int rpmem_helper_ratelimit(void);
void rpmem_helper_ida_init(struct ida *ida);

#endif /* RPMEM_VM_H */
