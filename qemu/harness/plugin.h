/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the plugins for QEMU's TCG in this directory have in common. Debian has
 * no header for plugins; what is declared here is version 4 of the interface,
 * as in QEMU's documentation.
 */
#ifndef RPMEM_PLUGIN_H
#define RPMEM_PLUGIN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* What there is more of it is of no interest. */
struct info {
	const char *target;
};
struct tb;
struct insn;
struct hwaddr;
typedef struct {
	char *data;
	unsigned int len;
} array;
struct reg {
	void *handle;
	const char *name;
	const char *feature;
};
/* Of a kind that the size of the access says as well. */
struct mem_value {
	int kind;
	uint64_t low;
	uint64_t high;
};
enum { NO_REGS, R_REGS };
enum { MEM_R = 1, MEM_W = 2 };

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*cb)(uint64_t id, struct tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *tb, void (*cb)(unsigned int cpu, void *data),
					  int flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct insn *insn,
					    void (*cb)(unsigned int cpu, void *data), int flags,
					    void *data);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn,
				      void (*cb)(unsigned int cpu, uint32_t info, uint64_t addr,
						 void *data),
				      int flags, int rw, void *data);
void qemu_plugin_register_vcpu_init_cb(uint64_t id, void (*cb)(uint64_t id, unsigned int cpu));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*cb)(uint64_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t at);
size_t qemu_plugin_insn_data(const struct insn *insn, void *to, size_t len);
uint64_t qemu_plugin_insn_vaddr(const struct insn *insn);
size_t qemu_plugin_insn_size(const struct insn *insn);
unsigned int qemu_plugin_mem_size_shift(uint32_t info);
struct mem_value qemu_plugin_mem_get_value(uint32_t info);
struct hwaddr *qemu_plugin_get_hwaddr(uint32_t info, uint64_t addr);
bool qemu_plugin_hwaddr_is_io(const struct hwaddr *at);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct hwaddr *at);
array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(void *handle, array *to);
bool qemu_plugin_read_memory_vaddr(uint64_t addr, array *to, size_t len);
/* GLib, which QEMU brings. */
array *g_byte_array_new(void);
array *g_byte_array_set_size(array *a, unsigned int len);

EXPORT int qemu_plugin_version = 4;

#define KERNEL (1ull << 63)
#define MAGIC 0x52504d00u

static array *bytes;
/* The first two arguments of a function, or of a request. */
static void *arg0, *arg1;
static void *rsp;

static inline uint64_t reg(void *handle)
{
	uint64_t v = 0;

	g_byte_array_set_size(bytes, 0);
	if (qemu_plugin_read_register(handle, bytes) >= (int)sizeof(v))
		memcpy(&v, bytes->data, sizeof(v));
	return v;
}

/*
 * What the guest asks for by this instruction, see profile.c; 0 is nothing. On x86 it is a nop
 * of 7 bytes, on arm64 "movz xzr, #0x52xx, lsl #48".
 */
static inline unsigned int guest_request(struct insn *insn)
{
	unsigned char b[7];
	size_t len = qemu_plugin_insn_data(insn, b, sizeof(b));
	uint32_t what;

	if (len == sizeof(what)) {
		memcpy(&what, b, sizeof(what));
		return (what & ~(0xffu << 5)) == 0xd2ea401fu ? what >> 5 & 0xff : 0;
	}
	if (len != sizeof(b) || b[0] != 0x0f || b[1] != 0x1f || b[2] != 0x80)
		return 0;
	memcpy(&what, b + 3, sizeof(what));
	return (what & ~0xffu) == MAGIC ? what & 0xff : 0;
}

static void new_cpu(uint64_t id, unsigned int cpu)
{
	array *all = qemu_plugin_get_registers();
	struct reg *r = (struct reg *)all->data;

	(void)id;
	(void)cpu;
	for (unsigned int i = 0; i < all->len; i++) {
		if (!strcmp(r[i].name, "rdi") || !strcmp(r[i].name, "x0"))
			arg0 = r[i].handle;
		else if (!strcmp(r[i].name, "rsi") || !strcmp(r[i].name, "x1"))
			arg1 = r[i].handle;
		else if (!strcmp(r[i].name, "rsp"))
			rsp = r[i].handle;
	}
}

/* Of each CPU, from where it is made. */
static inline void know_registers(uint64_t id)
{
	bytes = g_byte_array_new();
	qemu_plugin_register_vcpu_init_cb(id, new_cpu);
}

#endif
