// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * rpmem_persist() for what can call C and not compile it:
 *
 *	cc -O2 -shared -fPIC -o libpersist.so persist.c
 */
#include <rpmem.h>

void persist(const void *addr, size_t len);

void persist(const void *addr, size_t len)
{
	rpmem_persist(addr, len);
}
