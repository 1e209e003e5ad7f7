// SPDX-License-Identifier: GPL-2.0
/*
 * populate NODE: rpmem_mmap() with MAP_POPULATE, as an application uses the
 * header. Prints how many page faults it then takes to store to each page.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <linux/rpmem.h>

#define LEN (5UL << 20)

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
	static const int flags[] = {
		MAP_SHARED_VALIDATE | MAP_SYNC | MAP_POPULATE,
		MAP_SHARED | MAP_POPULATE,
		MAP_SHARED_VALIDATE | MAP_SYNC,
	};

	for (unsigned int i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		char *p = (char *)rpmem_mmap(NULL, LEN, PROT_READ | PROT_WRITE, flags[i], fd, 4096);
		long before;

		if (p == MAP_FAILED) {
			perror(argv[0]);
			return 1;
		}
		before = faults();
		for (unsigned long at = 0; at < LEN; at += 4096)
			p[at] = 1;
		printf("%ld\n", faults() - before);
		munmap(p, LEN);
	}
	/* Refused as mmap(2) does. */
	if (rpmem_mmap(NULL, LEN, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0) != MAP_FAILED)
		return 1;
	printf("%s\n", strerror(errno));
	return 0;
}
