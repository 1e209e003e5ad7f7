// SPDX-License-Identifier: GPL-2.0
/*
 * answers NODE: the answers of the device to a fixed list of calls, as numbers of
 * 64 bits on standard output. Built for 64 and for 32 bits, without a C library:
 * the two must say the same.
 */
#include <linux/mman.h>
#include <linux/rpmem.h>
#include <linux/types.h>

#include <asm/unistd.h>

#define PAGE	4096
#define LEN	(4 << 20)
#define RW	3
#define SYNC	(0x03 | 0x80000)	/* MAP_SHARED_VALIDATE | MAP_SYNC */

#if defined(__i386__)
/* Not on the stack, which moves before it is read. */
__attribute__((used)) static long sixth;

static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	long ret;

	sixth = f;
	__asm__ volatile("pushl %%ebp\n\tmovl sixth, %%ebp\n\tint $0x80\n\tpopl %%ebp"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return ret;
}

static long map(long fd, long len, long prot, long flags, long page)
{
	return call(__NR_mmap2, 0, len, prot, flags, fd, page);
}
#elif defined(__arm__)
static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r7 __asm__("r7") = nr;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	register long r4 __asm__("r4") = e;
	register long r5 __asm__("r5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(r0)
			 : "r"(r7), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
			 : "memory");
	return r0;
}

static long map(long fd, long len, long prot, long flags, long page)
{
	return call(__NR_mmap2, 0, len, prot, flags, fd, page);
}
#elif defined(__aarch64__)
static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

static long map(long fd, long len, long prot, long flags, long page)
{
	return call(__NR_mmap, 0, len, prot, flags, fd, page * PAGE);
}
#else
static long call(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

static long map(long fd, long len, long prot, long flags, long page)
{
	return call(__NR_mmap, 0, len, prot, flags, fd, page * PAGE);
}
#endif

static __s64 out[64];
static int count;

static void say(__s64 value)
{
	out[count++] = value;
}

/* An address differs, an error does not. */
static long say_map(long ret)
{
	unsigned long error = -(unsigned long)ret;

	say(error && error < PAGE ? -(__s64)error : 0);
	return ret;
}

static long command(long fd, unsigned long nr, void *arg)
{
	long ret = call(__NR_ioctl, fd, nr, (long)arg, 0, 0, 0);

	say(ret);
	return ret;
}

static void prefault(long fd, __u32 argsz, __u32 flags, unsigned long addr, __u64 len)
{
	struct rpmem_prefault arg = { argsz, flags, addr, len, ~0ULL };

	command(fd, RPMEM_PREFAULT, &arg);
	say(arg.done);
}

static void answers(const char *node)
{
	long fd = call(__NR_openat, -100, (long)node, 02, 0, 0, 0);
	struct rpmem_info info = { sizeof(info), ~0U, ~0ULL, ~0ULL, ~0ULL };
	unsigned long at;

	say(fd < 0 ? fd : 0);
	command(fd, RPMEM_INFO, &info);
	say(info.argsz);
	say(info.flags);
	say(info.size);
	say(info.huge_page);
	say(info.reserved);
	info.argsz = sizeof(info) - 1;
	command(fd, RPMEM_INFO, &info);
	command(fd, RPMEM_INFO, 0);
	command(fd, _IO(RPMEM_IOC, 99), &info);

	say_map(map(fd, PAGE, RW, 2, 0));		/* private */
	say_map(map(fd, PAGE, RW, 1 | 0x80000, 0));	/* sync, not validated */
	say_map(map(fd, PAGE, RW, SYNC | 0x800000, 0));	/* unknown */
	say_map(map(fd, PAGE, RW, SYNC, 0x7ffffff));	/* behind the end */
	at = say_map(map(fd, LEN, RW, SYNC, 1));
	prefault(fd, 32, RPMEM_PREFAULT_WRITE, at, LEN);
	prefault(fd, 32, 0, at + PAGE, PAGE);
	prefault(fd, 31, 0, at, PAGE);
	prefault(fd, 32, 4, at, PAGE);
	prefault(fd, 32, 0, at + 1, PAGE);
	prefault(fd, 32, 0, at, ~0ULL - PAGE + 1);
	call(__NR_munmap, at + PAGE, PAGE, 0, 0, 0, 0);
	prefault(fd, 32, 0, at, LEN);
	say(call(__NR_msync, at + 2 * PAGE, PAGE, 4, 0, 0, 0));
	say(call(__NR_fsync, fd, 0, 0, 0, 0, 0));

	say_map(map(fd, PAGE, RW, 2 | MAP_DIRECT, 0));		/* private */
	say_map(map(fd, PAGE, RW, 1 | MAP_DIRECT, 0));		/* not validated */
	say_map(map(fd, PAGE, RW, 3 | MAP_DIRECT, 0));
	at = say_map(map(fd, PAGE, RW, SYNC | MAP_DIRECT, 1));
	prefault(fd, 32, 0, at, PAGE);
	/* The direct window is behind what 32 bits can name; so is this page. */
	say_map(map(fd, PAGE, RW, SYNC | MAP_DIRECT, 0x7fffffff));
}

__attribute__((used)) static void start(long *stack)
{
	char **argv = (char **)(stack + 1);

	answers(argv[1]);
	call(__NR_write, 1, (long)out, count * sizeof(out[0]), 0, 0, 0);
	call(__NR_exit, 0, 0, 0, 0, 0, 0);
}

#if defined(__i386__)
__asm__(".globl _start\n_start:\n\tmovl %esp, %eax\n\tandl $-16, %esp\n\tsubl $12, %esp\n"
	"\tpushl %eax\n\tcall start\n");
#elif defined(__arm__)
__asm__(".globl _start\n_start:\n\tmov r0, sp\n\tbl start\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl start\n");
#else
__asm__(".globl _start\n_start:\n\tmovq %rsp, %rdi\n\tandq $-16, %rsp\n\tcall start\n");
#endif
