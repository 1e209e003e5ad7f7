/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What libnvdimm's checks use of the kernel, as far as they use it, for a
 * host program. What computes is the kernel's own: align.h, pfn.h, range.h and
 * const.h are included from its source, the rest of it is cut out by build.rs.
 */
#include <errno.h>
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef u64 phys_addr_t, resource_size_t, sector_t;
typedef unsigned long pgoff_t;
typedef struct {
	u8 b[16];
} uuid_t;

#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#define HPAGE_PMD_SIZE (1UL << 21)
#define HPAGE_PUD_SIZE (1UL << 30)
#define SECTOR_SHIFT 9
#define SZ_4K 4096
#define SZ_8K 8192
#define MAX_NVDIMM_ALIGN 4

#include <linux/align.h>
#include <linux/pfn.h>
#include <linux/range.h>

#define PAGE_ALIGN(x) ALIGN(x, PAGE_SIZE)
#define max(a, b) ((a) > (b) ? (a) : (b))
#define BUILD_BUG_ON(cond) _Static_assert(!(cond), #cond)
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))
#define __weak

/* Both only ever run on x86, hence little-endian. */
#define le64_to_cpu(x) (x)
#define le32_to_cpu(x) (x)
#define le16_to_cpu(x) (x)
#define __le32_to_cpu(x) (x)
#define __le16_to_cpu(x) (x)
#define cpu_to_le64(x) (x)
#define cpu_to_le32(x) (x)
#define cpu_to_le16(x) (x)

/* A shift by ilog2(0), -1, is one by 63 on x86. */
#define ilog2(n) ((n) ? 63 - __builtin_clzll(n) : 63)

#define GFP_KERNEL 0
#define kmemdup(from, len, gfp) memcpy(&host.pfn_uuid, from, len)
#define devm_kmalloc(dev, len, gfp) ((void)(dev), &host.sb)

#define dev_err(dev, ...) ((void)(dev))
#define dev_info(dev, ...) ((void)(dev))
#define dev_dbg(dev, ...) ((void)(dev))
#define dev_name(dev) ((void)(dev), "")

struct device {
	struct device *parent;
};

struct resource {
	resource_size_t start, end;
};

static inline resource_size_t resource_size(const struct resource *res)
{
	return res->end - res->start + 1;
}

struct page {
	char bytes[STRUCT_PAGE_SIZE];
};

struct btt_sb {
	char bytes[SZ_4K];
};

struct nd_region {
	struct device dev;
	int ro;
};

struct nd_namespace_common {
	struct device dev;
};

struct nd_namespace_io {
	struct nd_namespace_common common;
	struct resource res;
};

struct kernfs_node;
struct dax_device;
struct gendisk;

struct badblocks {
	struct device *dev;
	int count;
};

/* config NVDIMM_KMSAN is not set in any kernel of ours. */
static const bool page_struct_override;
