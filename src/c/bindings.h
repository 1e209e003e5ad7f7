/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: the headers that kernel::bindings does not cover. */
#include <linux/anon_inodes.h>
#include <linux/badblocks.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/dax.h>
#include <linux/io.h>
#include <linux/libnvdimm.h>
#include <linux/memory-failure.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/nd.h>
#include <linux/notifier.h>
#include <linux/poll.h>
#include <linux/suspend.h>

#include "arch.h"
#include "counters.h"
#include "layout.h"
#include "lease.h"
#include "nd_private.h"
#include "param.h"
#include "shim.h"
#include "trace.h"
#include "vm.h"
#if IS_BUILTIN(CONFIG_KUNIT)
#include "kunit.h"
#endif

/* Macros with casts, which bindgen cannot evaluate. */
const u32 RPMEM_CONST_BLK_FEAT_WRITE_CACHE = (__force u32)BLK_FEAT_WRITE_CACHE;
const u32 RPMEM_CONST_BLK_FEAT_FUA = (__force u32)BLK_FEAT_FUA;
const u32 RPMEM_CONST_BLK_FEAT_DAX = (__force u32)BLK_FEAT_DAX;
const u32 RPMEM_CONST_BLK_FEAT_SYNCHRONOUS = (__force u32)BLK_FEAT_SYNCHRONOUS;
const u32 RPMEM_CONST_BLK_FEAT_IO_STAT = (__force u32)BLK_FEAT_IO_STAT;
const u32 RPMEM_CONST_REQ_PREFLUSH = (__force u32)REQ_PREFLUSH;
const u32 RPMEM_CONST_REQ_FUA = (__force u32)REQ_FUA;
const u32 RPMEM_CONST_REQ_OP_WRITE = (__force u32)REQ_OP_WRITE;
const unsigned long RPMEM_CONST_ARCH_MEMREMAP_PMEM = ARCH_MEMREMAP_PMEM;
const int RPMEM_CONST_NVDIMM_FLUSH_ASYNC = NVDIMM_FLUSH_ASYNC;
const unsigned long RPMEM_CONST_REGION_CXL = BIT(ND_REGION_CXL);
const u32 RPMEM_CONST_DEFAULT_POLLMASK = (__force u32)DEFAULT_POLLMASK;
const u32 RPMEM_CONST_EPOLLPRI = (__force u32)EPOLLPRI;
const u32 RPMEM_CONST_EPOLLERR = (__force u32)EPOLLERR;
const u32 RPMEM_CONST_EPOLLHUP = (__force u32)EPOLLHUP;
const u32 RPMEM_CONST_FOP_MMAP_SYNC = (__force u32)FOP_MMAP_SYNC;
const u32 RPMEM_CONST_FOP_MMAP_DIRECT = (__force u32)FOP_MMAP_DIRECT;
const u32 RPMEM_CONST_FMODE_WRITE = (__force u32)FMODE_WRITE;
const u32 RPMEM_CONST_BLK_OPEN_EXCL = (__force u32)BLK_OPEN_EXCL;
const u32 RPMEM_CONST_BLK_OPEN_READ = (__force u32)BLK_OPEN_READ;
const unsigned long RPMEM_CONST_MAP_FIXED = MAP_FIXED;
const unsigned int RPMEM_CONST_RPMEM_PMD_ORDER = PMD_ORDER;
const unsigned int RPMEM_CONST_RPMEM_PUD_ORDER = PUD_ORDER;
const bool RPMEM_CONST_HAS_PUD_ENTRIES = RPMEM_HAS_PUD_ENTRIES;
const size_t RPMEM_CONST_PAGE_STRUCT_SIZE = sizeof(struct page);
const int RPMEM_CONST_NOTIFY_BUSY = NOTIFY_STOP_MASK | (NOTIFY_OK + EBUSY);
const bool RPMEM_CONST_FLUSH_DCACHE = ARCH_IMPLEMENTS_FLUSH_DCACHE_PAGE;
const bool RPMEM_CONST_SYNCS_INSTRUCTIONS = RPMEM_ARCH_SYNCS_INSTRUCTIONS;
const unsigned long RPMEM_CONST_DRIVER_DAX_PMEM = ND_DRIVER_DAX_PMEM;
const unsigned long RPMEM_CONST_DRIVER_NAMESPACE_IO = ND_DRIVER_NAMESPACE_IO;
const unsigned long RPMEM_CONST_DRIVER_NAMESPACE_PMEM = ND_DRIVER_NAMESPACE_PMEM;
