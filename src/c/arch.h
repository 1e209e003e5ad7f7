/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between architectures: each has a header with all of the following, and nothing else
 * of the driver asks for one. What a kernel has or has not by its configuration is in
 * src/abstractions/platform.rs.
 *
 * rpmem_arch_agree()		@prot for users of memory that the kernel has mapped at @addr
 * rpmem_arch_set_pte()		a special entry for one page, under the lock of its table
 * rpmem_arch_set_pmd()		a special entry of PMD_SIZE, likewise
 * RPMEM_ARCH_SYNCS_INSTRUCTIONS	whether a CPU may fetch others than were stored,
 * rpmem_arch_sync_instructions()	and what has it fetch those, by their kernel address
 * rpmem_arch_fix_spurious_fault_pmd()	this CPU forgets one that could not be written to
 * rpmem_arch_write_back_caches()	all CPU caches to memory, before the power goes
 */
#ifndef RPMEM_ARCH_H
#define RPMEM_ARCH_H

#if defined(CONFIG_X86_64)
#include "arch_x86.h"
#elif defined(CONFIG_ARM64)
#include "arch_arm64.h"
#else
#error "rpmem is for x86-64 and arm64"
#endif

#endif /* RPMEM_ARCH_H */
