/* SPDX-License-Identifier: GPL-2.0 */
/* What vm.c and page_table.c know of page tables. */
#ifndef RPMEM_PAGE_TABLE_H
#define RPMEM_PAGE_TABLE_H

#include <linux/atomic.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

/* Whether there is a page table at @pmd. A huge entry is a bad one. */
static __always_inline bool rpmem_is_table(pmd_t pmd)
{
	return pmd_present(pmd) && !pmd_bad(pmd);
}

/*
 * Where the table of PMDs stands that a page table is moved in: those for @vma alone.
 * Under pmd_lock() of it, it says who may fill what the move has emptied: nobody else.
 */
static inline void **rpmem_moving(const struct vm_area_struct *vma)
{
	return &vma->vm_file->f_mapping->host->i_private;
}

static inline void *rpmem_table_of_pmds(pmd_t *pmd)
{
	return (void *)((unsigned long)pmd & PAGE_MASK);
}

/* How many tables are being moved anywhere: mostly none. */
extern atomic_t rpmem_moves;

static __always_inline bool rpmem_is_moving(const struct vm_area_struct *vma, pmd_t *pmd)
{
	return unlikely(atomic_read(&rpmem_moves)) &&
	       READ_ONCE(*rpmem_moving(vma)) == rpmem_table_of_pmds(pmd);
}

#endif /* RPMEM_PAGE_TABLE_H */
