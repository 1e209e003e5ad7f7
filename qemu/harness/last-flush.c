// SPDX-License-Identifier: GPL-2.0
/*
 * Preloaded into QEMU: what a file holds when fsync(2) or fdatasync(2) of it
 * returns is kept as FILE.flushed. That is what a host would find that loses
 * its power afterwards. RPMEM_VOLATILE names the files, with ':' in between.
 * A file that cannot be copied makes the flush fail.
 *
 * The plugin durable.c is told when such a flush begins, and when it is done: one at a
 * time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The data of it, and holes where it has holes. */
static int copy(int from, const char *to, off_t size)
{
	int out = open(to, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	off_t at = 0;

	if (out < 0 || ftruncate(out, size))
		goto fail;
	while (at < size) {
		off_t end, pos;

		at = lseek(from, at, SEEK_DATA);
		if (at < 0 && errno == ENXIO)
			break;
		end = at < 0 ? -1 : lseek(from, at, SEEK_HOLE);
		if (end < 0)
			goto fail;
		for (pos = at; at < end;) {
			ssize_t n = copy_file_range(from, &at, out, &pos, end - at, 0);

			if (n <= 0)
				goto fail;
		}
	}
	return close(out);
fail:
	if (out >= 0)
		close(out);
	return -1;
}

static void (*watcher)(bool done);

void rpmem_watch_flushes(void (*flushes)(bool done))
{
	watcher = flushes;
}

/* Which of those files it is. */
static bool is_kept(int fd, char *file, size_t room)
{
	const char *list = getenv("RPMEM_VOLATILE");
	char *names, *name, *rest = NULL;
	struct stat is, st;
	bool found = false;

	if (!list || fstat(fd, &is))
		return false;
	names = strdup(list);
	if (!names)
		abort();
	for (name = strtok_r(names, ":", &rest); name && !found;
	     name = strtok_r(NULL, ":", &rest)) {
		found = !stat(name, &st) && st.st_dev == is.st_dev && st.st_ino == is.st_ino;
		if (found)
			snprintf(file, room, "%s", name);
	}
	free(names);
	return found;
}

static int keep(const char *name)
{
	char part[4096 + 16], whole[4096 + 16];
	/* An offset of its own. */
	int ret = 0, from = open(name, O_RDONLY | O_CLOEXEC);
	struct stat st;

	snprintf(part, sizeof(part), "%s.partial", name);
	snprintf(whole, sizeof(whole), "%s.flushed", name);
	if (from < 0 || fstat(from, &st) || copy(from, part, st.st_size) || rename(part, whole))
		ret = -1;
	if (from >= 0)
		close(from);
	return ret;
}

static int flush(const char *function, int fd)
{
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, function);
	char name[4096];
	int ret;

	if (!is_kept(fd, name, sizeof(name)))
		return real(fd);
	pthread_mutex_lock(&lock);
	if (watcher)
		watcher(false);
	ret = real(fd);
	if (!ret && keep(name)) {
		errno = EIO;
		ret = -1;
	}
	if (!ret && watcher)
		watcher(true);
	pthread_mutex_unlock(&lock);
	return ret;
}

int fsync(int fd)
{
	return flush("fsync", fd);
}

int fdatasync(int fd)
{
	return flush("fdatasync", fd);
}
