// SPDX-License-Identifier: GPL-2.0
/*
 * persist NODE: copy to the device with the functions of rpmem.h, as
 * tests/guest/src/t_lib.rs does with the crate 8 MiB further on; compare the two.
 * Prints the instruction that was used, after it has used each that the CPU has.
 */
#include <fcntl.h>
#include <stdio.h>

#include <rpmem.h>

#define LEN	(8UL << 20)

static unsigned char bytes[70000];

static void copies(char *to)
{
	static const size_t lengths[] = { 0, 1, 7, 8, 63, 64, 65, 255, 256, 257, 1000, 70000 };
	static const size_t offsets[] = { 0, 1, 8, 63 };
	size_t slot = 0;

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		for (size_t j = 0; j < sizeof(offsets) / sizeof(offsets[0]); j++) {
			for (size_t n = 0; n < lengths[i]; n++)
				bytes[n] = (unsigned char)(n * 7 + slot);
			rpmem_memcpy_persist(to + (slot << 17) + offsets[j], bytes, lengths[i]);
			slot++;
		}
	}
}

/* Of this architecture. */
#ifdef __aarch64__
#define LAST	RPMEM_DC_CVAC
#else
#define LAST	RPMEM_CLFLUSH
#endif

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
	char *map = (char *)rpmem_mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE,
				       MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0, NULL);
	int how;

	if (map == MAP_FAILED) {
		perror(argv[0]);
		return 1;
	}
	memset(map, 0, LEN);
	rpmem_persist(map, LEN);
	copies(map);
	/* The better ones come first; who has one has those behind it. */
	for (how = rpmem_instruction(); how <= LAST; how++) {
		rpmem_flush_by((enum rpmem_instruction)how, map + 3, 4096);
		rpmem_drain();
	}
	if (memcmp(map, map + LEN, LEN)) {
		fprintf(stderr, "not what the crate has copied\n");
		return 1;
	}
	puts(rpmem_instruction_name(rpmem_instruction()));
	return 0;
}
