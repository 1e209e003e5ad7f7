// SPDX-License-Identifier: GPL-2.0
/*
 * Compiled, but never linked: shows that nd_private.h says what the kernel says
 * that the module is built for. The compiler compares the prototypes, and
 * scripts/kbuild/check-layout the offsets that the assembler code has, of this file
 * compiled with and without the kernel's own headers.
 */
#ifdef RPMEM_KERNEL_SOURCE
#include <nvdimm/nd-core.h>
#include <nvdimm/btt.h>
#include <nvdimm/pfn.h>
#include <dax/dax-private.h>
#endif

#include <linux/kbuild.h>

#include "nd_private.h"
/* The prototypes of the kernel, by its BTF. */
#include "kernel_prototypes.h"

#define MEMBER(s, m)	OFFSET(s.m, s, m);

static void __used rpmem_offsets(void)
{
	RPMEM_ND_MEMBERS(MEMBER)
	RPMEM_BTT_MEMBERS(MEMBER)
}
