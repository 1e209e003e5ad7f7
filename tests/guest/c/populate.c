// SPDX-License-Identifier: GPL-2.0
/*
 * populate NODE: rpmem_mmap() with MAP_POPULATE, as an application uses the
 * header. Prints how many page faults it then takes to store to each page.
 *
 * populate FILE FLAGS OFFSET...: rpmem_mmap() of one page with these flags at
 * each offset. Prints for each how it became a direct mapping, and the error.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include <rpmem.h>

#define LEN (5UL << 20)

static long faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt + usage.ru_majflt;
}

static int each(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR);
	int flags = (int)strtoul(argv[2], NULL, 0);

	for (int i = 3; i < argc; i++) {
		int via = -1;
		void *p;

		errno = 0;
		p = rpmem_mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, fd,
			       (off_t)strtoull(argv[i], NULL, 0), &via);
		/* Success leaves errno alone, and nobody has to ask how. */
		if ((p == MAP_FAILED) != (errno != 0))
			return 1;
		printf("%d %d\n", via, errno);
		p = rpmem_mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, fd,
			       (off_t)strtoull(argv[i], NULL, 0), NULL);
		if ((p == MAP_FAILED) != (errno != 0))
			return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
	static const int flags[] = {
		MAP_SHARED_VALIDATE | MAP_SYNC | MAP_POPULATE,
		MAP_SHARED | MAP_POPULATE,
		MAP_SHARED_VALIDATE | MAP_SYNC,
	};

	if (argc > 3)
		return each(argc, argv);
	for (unsigned int i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		char *p = (char *)rpmem_mmap(NULL, LEN, PROT_READ | PROT_WRITE, flags[i], fd, 4096,
					    NULL);
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
	if (rpmem_mmap(NULL, LEN, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0, NULL) != MAP_FAILED)
		return 1;
	printf("%s\n", strerror(errno));
	return 0;
}
