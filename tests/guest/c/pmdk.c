// SPDX-License-Identifier: GPL-2.0
/*
 * pmdk FILE LINE: what libpmem and libpmem2 make of a node of ours, or of a file, and
 * a line that is made durable by each of their ways, one a page. Prints a row for each way.
 */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <libpmem.h>
#include <libpmem2.h>
#include <stdio.h>
#include <sys/stat.h>

#include <rpmem.h>

#define LEN	(2UL << 20)

static const char *line;
static size_t len;

static const char *refusal(int r)
{
	static char number[32];

	if (r == PMEM2_E_INVALID_FILE_TYPE)
		return "invalid file type";
	snprintf(number, sizeof(number), "error %d", r);
	return number;
}

static void row(const char *way, const char *result)
{
	printf("%s: %s\n", way, result);
}

/* libpmem opens and maps the file. */
static void pmem_file(const char *path)
{
	size_t mapped;
	int is_pmem;
	char *p = pmem_map_file(path, 0, 0, 0, &mapped, &is_pmem);

	if (!p) {
		row("pmem_map_file", strerror(errno));
		return;
	}
	if (is_pmem)
		pmem_memcpy_persist(p, line, len);
	row("pmem_map_file", is_pmem ? "persistent memory" : "not persistent memory");
	pmem_unmap(p, mapped);
}

/* libpmem makes stores to a mapping durable that it has not made. */
static void pmem_stores(char *map)
{
	pmem_memcpy_persist(map, line, len);
	row("pmem_persist", pmem_is_pmem(map, LEN) ? "known" : "unknown");
}

static const char *granularity(struct pmem2_map *map)
{
	switch (pmem2_map_get_store_granularity(map)) {
	case PMEM2_GRANULARITY_BYTE:
		return "by the byte";
	case PMEM2_GRANULARITY_CACHE_LINE:
		return "by the cache line";
	default:
		return "by the page";
	}
}

/* libpmem2 maps the file. */
static void pmem2_file(int fd)
{
	struct pmem2_config *config = NULL;
	struct pmem2_source *source = NULL;
	struct pmem2_map *map = NULL;
	int r;

	r = pmem2_source_from_fd(&source, fd);
	if (!r)
		r = pmem2_config_new(&config);
	if (!r)
		r = pmem2_config_set_required_store_granularity(config,
								PMEM2_GRANULARITY_CACHE_LINE);
	if (!r)
		r = pmem2_map_new(&map, config, source);
	if (r) {
		row("pmem2_map_new", refusal(r));
	} else {
		pmem2_get_memcpy_fn(map)(pmem2_map_get_address(map), line, len, 0);
		row("pmem2_map_new", granularity(map));
		pmem2_map_delete(&map);
	}
	pmem2_config_delete(&config);
	pmem2_source_delete(&source);
}

/* libpmem2 is told of a mapping, and of what makes it durable. */
static void pmem2_existing(char *mapping)
{
	struct pmem2_source *source = NULL;
	struct pmem2_map *map = NULL;
	int r;

	r = pmem2_source_from_anon(&source, LEN);
	if (!r)
		r = pmem2_map_from_existing(&map, source, mapping, LEN,
					    PMEM2_GRANULARITY_CACHE_LINE);
	if (r) {
		row("pmem2_map_from_existing", refusal(r));
	} else {
		pmem2_get_memcpy_fn(map)(mapping, line, len, 0);
		row("pmem2_map_from_existing", granularity(map));
		pmem2_map_delete(&map);
	}
	pmem2_source_delete(&source);
}

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDWR) : -1;
	struct stat st;
	char *map;

	if (fd < 0 || fstat(fd, &st)) {
		perror(argv[0]);
		return 1;
	}
	line = argv[2];
	len = strlen(line);
	pmem_file(argv[1]);
	pmem2_file(fd);
	if (!S_ISCHR(st.st_mode))
		return 0;
	map = (char *)rpmem_mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE,
				 MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0, NULL);
	if (map == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	pmem_stores(map);
	pmem2_existing(map + LEN);
	return 0;
}
