/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * /dev/rpmemN for programs in C99 and C++11: mappings, and what makes stores to
 * them durable. Nothing has to be linked. The contract of the device is in
 * Documentation/mmap.md; lib/c/counter.c is an example.
 *
 *	synchronous and direct mappings (MAP_SYNC)	rpmem_persist()
 *	plain ones; virtio-pmem has no others		rpmem_msync()
 *
 * RPMEM_INFO_SYNC says whether there can be synchronous ones. rpmem_persist() of
 * a plain one makes nothing durable.
 *
 * After a power cut, what was stored before rpmem_persist() has returned is
 * there; of what was stored since, any part may be, in units of eight aligned
 * bytes, in any order.
 */
#ifndef RPMEM_H
#define RPMEM_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <linux/rpmem.h>

/* Strict C99 leaves them out. */
#ifndef MAP_POPULATE
#define MAP_POPULATE		0x8000
#endif
#ifndef MAP_TYPE
#ifdef __hppa__
#define MAP_TYPE		0x2b
#else
#define MAP_TYPE		0x0f
#endif
#endif

/* What made a mapping a direct one. */
#define RPMEM_VIA_FLAG		1
#define RPMEM_VIA_WINDOW	2

/* Whether the bytes of a file from @offset on are in its direct window as well. */
static inline int rpmem_has_window(int fd, off_t offset)
{
	struct rpmem_info info;

	info.argsz = sizeof(info);
	info.size = 0;
	/* Offsets of mmap(2) end at 1 << 44 in a program of 32 bits. */
	return sizeof(long) >= 8 && !ioctl(fd, RPMEM_INFO, &info) && offset >= 0 &&
	       (__u64)offset < info.size;
}

/*
 * mmap(2) of such a device, on a kernel that knows MAP_DIRECT or not. If it made
 * a direct mapping, *via says how, else it is 0; via may be NULL. Errors are those
 * of mmap(2). A file that is not such a device, and a program of 32 bits on a
 * kernel that does not know the flag, get EOPNOTSUPP for MAP_DIRECT.
 *
 * MAP_POPULATE, which the kernel skips for mappings without struct pages, maps
 * all pages ahead of any access, as far as possible.
 */
static inline void *rpmem_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset,
			       int *via)
{
	const off_t window = sizeof(off_t) >= 8 ? (off_t)RPMEM_DIRECT_WINDOW : 0;
	const int direct = (flags & MAP_DIRECT) == MAP_DIRECT;
	const __u64 page = (__u64)sysconf(_SC_PAGESIZE);
	const int saved = errno;
	struct rpmem_prefault prefault;
	int how = 0;
	void *ptr;

	if (via)
		*via = 0;
	/* Without validation the kernel ignores the flag for other files. */
	if (direct && (flags & MAP_TYPE) != MAP_SHARED_VALIDATE) {
		errno = EINVAL;
		return MAP_FAILED;
	}
	ptr = mmap(addr, len, prot, flags, fd, offset);
	if (direct && ptr != MAP_FAILED) {
		how = RPMEM_VIA_FLAG;
	} else if (direct && errno == EOPNOTSUPP) {
		if (window && offset >= window)
			offset -= window;
		if (!rpmem_has_window(fd, offset)) {
			errno = EOPNOTSUPP;
			return MAP_FAILED;
		}
		ptr = mmap(addr, len, prot, flags & ~MAP_DIRECT, fd, offset + window);
		how = RPMEM_VIA_WINDOW;
	} else if (window && offset >= window && ptr != MAP_FAILED &&
		   rpmem_has_window(fd, offset - window)) {
		how = RPMEM_VIA_WINDOW;
	}
	if (ptr == MAP_FAILED)
		return ptr;
	if (via)
		*via = how;
	if ((flags & MAP_POPULATE) && prot != PROT_NONE) {
		prefault.argsz = sizeof(prefault);
		prefault.flags = prot & PROT_WRITE ? RPMEM_PREFAULT_WRITE : 0;
		prefault.addr = (__u64)(unsigned long)ptr;
		prefault.len = ((__u64)len + page - 1) / page * page;
		prefault.done = 0;
		/* As with mmap(2), a page that cannot be populated is no error. */
		(void)ioctl(fd, RPMEM_PREFAULT, &prefault);
	}
	errno = saved;
	return ptr;
}

/* Makes stores to a plain mapping durable, and to all else in the pages: msync(2). */
static inline int rpmem_msync(const void *addr, size_t len)
{
	const uintptr_t before = (uintptr_t)addr % (uintptr_t)sysconf(_SC_PAGESIZE);

	return msync((char *)(uintptr_t)addr - before, len + before, MS_SYNC);
}

#if defined(__x86_64__) || defined(__i386__) || defined(__aarch64__)
#define RPMEM_HAVE_PERSIST	1

#ifdef __aarch64__
#include <sys/auxv.h>
#else
#include <cpuid.h>
#endif
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* How a cache line is written back. */
enum rpmem_instruction {
	RPMEM_CLWB = 1,		/* keeps the line in the cache; needs a fence */
	RPMEM_CLFLUSHOPT,	/* evicts the line; needs a fence */
	RPMEM_CLFLUSH,		/* evicts the line, one after the other */
	RPMEM_DC_CVADP,		/* cleans to the point of deep persistence; needs a barrier */
	RPMEM_DC_CVAP,		/* cleans to the point of persistence; needs a barrier */
	RPMEM_DC_CVAC		/* to the point of coherency: before ARMv8.2, as the kernel */
};

static inline enum rpmem_instruction rpmem_detect(void)
{
#ifdef __aarch64__
	/* HWCAP2_DCPODP, HWCAP_DCPOP */
	if (getauxval(AT_HWCAP2) & 1)
		return RPMEM_DC_CVADP;
	return getauxval(AT_HWCAP) & (1UL << 16) ? RPMEM_DC_CVAP : RPMEM_DC_CVAC;
#else
	unsigned int eax, ebx, ecx, edx;

	if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
		return RPMEM_CLFLUSH;
	if (ebx & (1U << 24))
		return RPMEM_CLWB;
	return ebx & (1U << 23) ? RPMEM_CLFLUSHOPT : RPMEM_CLFLUSH;
#endif
}

/* The best one that this CPU has. */
static inline enum rpmem_instruction rpmem_instruction(void)
{
	static int known;
	int best = __atomic_load_n(&known, __ATOMIC_RELAXED);

	if (!best) {
		best = rpmem_detect();
		__atomic_store_n(&known, best, __ATOMIC_RELAXED);
	}
	return (enum rpmem_instruction)best;
}

static inline const char *rpmem_instruction_name(enum rpmem_instruction how)
{
	switch (how) {
	case RPMEM_CLWB:
		return "clwb";
	case RPMEM_CLFLUSHOPT:
		return "clflushopt";
	case RPMEM_CLFLUSH:
		return "clflush";
	case RPMEM_DC_CVADP:
		return "dc cvadp";
	case RPMEM_DC_CVAP:
		return "dc cvap";
	case RPMEM_DC_CVAC:
		return "dc cvac";
	}
	return "?";
}

/*
 * Whether the CPU promises that what this has written back survives the end of
 * the power, where it is memory that does. Of dc cvac nothing says that it ends
 * behind every cache; msync(2) uses the same then.
 */
static inline int rpmem_reaches_persistence(enum rpmem_instruction how)
{
	return how != RPMEM_DC_CVAC;
}

/* Bytes of a cache line, as the instructions count them. */
static inline uintptr_t rpmem_line(void)
{
#ifdef __aarch64__
	uint64_t ctr;

	__asm__("mrs %0, ctr_el0" : "=r"(ctr));
	return (uintptr_t)4 << (ctr >> 16 & 0xf);
#else
	return 64;
#endif
}

/* Starts to write the lines of memory that is mapped back by one that the CPU has. */
static inline void rpmem_flush_by(enum rpmem_instruction how, const void *addr, size_t len)
{
	const uintptr_t step = rpmem_line();
	const uintptr_t end = (uintptr_t)addr + len;
	uintptr_t line;

	if (!len)
		return;
	for (line = (uintptr_t)addr & ~(step - 1); line < end; line += step) {
#ifdef __aarch64__
		/* By number: assemblers know these for CPUs that have them alone. */
		if (how == RPMEM_DC_CVADP)
			__asm__ volatile("sys #3, c7, c13, #1, %0" : : "r"(line) : "memory");
		else if (how == RPMEM_DC_CVAP)
			__asm__ volatile("sys #3, c7, c12, #1, %0" : : "r"(line) : "memory");
		else
			__asm__ volatile("dc cvac, %0" : : "r"(line) : "memory");
#else
		if (how == RPMEM_CLWB)
			__asm__ volatile("clwb (%0)" : : "r"(line) : "memory");
		else if (how == RPMEM_CLFLUSHOPT)
			__asm__ volatile("clflushopt (%0)" : : "r"(line) : "memory");
		else
			__asm__ volatile("clflush (%0)" : : "r"(line) : "memory");
#endif
	}
}

/* Starts to write memory back from the CPU caches; rpmem_drain() waits for it. */
static inline void rpmem_flush(const void *addr, size_t len)
{
	rpmem_flush_by(rpmem_instruction(), addr, len);
}

/*
 * Waits until what this thread has started by rpmem_flush() and
 * rpmem_memcpy_flush() is done. Where the caches are durable themselves (eADR:
 * persistence_domain of the region is cpu_cache) it is all that is needed.
 */
static inline void rpmem_drain(void)
{
#ifdef __aarch64__
	__asm__ volatile("dsb sy" : : : "memory");
#else
	__asm__ volatile("sfence" : : : "memory");
#endif
}

/* Makes stores to a synchronous or direct mapping durable, without a system call. */
static inline void rpmem_persist(const void *addr, size_t len)
{
	rpmem_flush(addr, len);
	rpmem_drain();
}

/*
 * From this length on copies go past the caches where that can be done. The
 * crate's example threshold measures it; cache.rs has the numbers.
 */
#define RPMEM_NON_TEMPORAL	256

#ifdef __SSE2__
/* 16 bytes past the caches, to an aligned address. */
static inline void rpmem_stream_16(void *to, const void *from)
{
	_mm_stream_si128((__m128i *)to, _mm_loadu_si128((const __m128i *)from));
}
#endif

/* memcpy(3), and rpmem_flush(); rpmem_drain() waits for it. */
static inline void *rpmem_memcpy_flush(void *to, const void *from, size_t len)
{
	char *d = (char *)to;
	const char *s = (const char *)from;

#ifdef __SSE2__
	if (len >= RPMEM_NON_TEMPORAL) {
		/* Whole lines; what is before and behind them goes by the caches. */
		const size_t head = (size_t)(-(uintptr_t)d % 64);
		int i;

		memcpy(d, s, head);
		rpmem_flush(d, head);
		for (d += head, s += head, len -= head; len >= 64; d += 64, s += 64, len -= 64)
			for (i = 0; i < 64; i += 16)
				rpmem_stream_16(d + i, s + i);
	}
#endif
	memcpy(d, s, len);
	rpmem_flush(d, len);
	return to;
}

/* memcpy(3) to a synchronous or direct mapping; durable when it returns. */
static inline void *rpmem_memcpy_persist(void *to, const void *from, size_t len)
{
	rpmem_memcpy_flush(to, from, len);
	rpmem_drain();
	return to;
}
#endif /* RPMEM_HAVE_PERSIST */

#endif /* RPMEM_H */
