// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * counter NODE: count how often this was run, whatever happens to the power.
 * counter NODE --create: begin at 0, over whatever is there.
 *
 *	cc -std=c99 -o counter counter.c	with /usr/include/rpmem.h of rpmem-dev,
 *						or -I lib/c -I include/uapi of the clone
 */
#include <fcntl.h>
#include <stdio.h>

#include <rpmem.h>

struct counter {
	char magic[8];
	uint64_t count;
};

static const char magic[8] = { 'c', 'o', 'u', 'n', 't', 'e', 'r', '1' };

/* Whether mappings of the device can be synchronous. */
static int synchronous;

static int persist(const void *addr, size_t len)
{
	if (!synchronous)
		return rpmem_msync(addr, len);
	rpmem_persist(addr, len);
	return 0;
}

static int count(struct counter *counter, int create)
{
	if (create) {
		/* What makes it a counter comes last. */
		counter->count = 0;
		if (persist(&counter->count, sizeof(counter->count)))
			return -1;
		rpmem_memcpy_flush(counter->magic, magic, sizeof(magic));
		return persist(counter->magic, sizeof(magic));
	}
	if (memcmp(counter->magic, magic, sizeof(magic))) {
		fprintf(stderr, "there is no counter, but maybe something else\n");
		errno = EINVAL;
		return -1;
	}
	/* Eight aligned bytes: after a power cut it is the old or the new number. */
	counter->count++;
	if (persist(&counter->count, sizeof(counter->count)))
		return -1;
	/* Not before it is durable. */
	printf("%llu\n", (unsigned long long)counter->count);
	return 0;
}

int main(int argc, char **argv)
{
	const int create = argc == 3 && !strcmp(argv[2], "--create");
	struct rpmem_info info;
	int flags = MAP_SHARED;
	void *map;
	int fd;

	if (argc != 2 + create) {
		fprintf(stderr, "usage: counter NODE [--create]\n");
		return 2;
	}
	info.argsz = sizeof(info);
	fd = open(argv[1], O_RDWR);
	if (fd < 0 || ioctl(fd, RPMEM_INFO, &info)) {
		perror(argv[1]);
		return 1;
	}
	synchronous = !!(info.flags & RPMEM_INFO_SYNC);
	if (synchronous)
		flags = MAP_SHARED_VALIDATE | MAP_SYNC;
	map = rpmem_mmap(NULL, sizeof(struct counter), PROT_READ | PROT_WRITE, flags, fd, 0, NULL);
	if (map == MAP_FAILED || count((struct counter *)map, create)) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
