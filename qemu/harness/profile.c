// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that counts the instructions of the guest, by place. The guest
 * says when: a nop that nobody else uses (tests/guest/src/support/bench.rs) carries a
 * request, with its arguments where those of functions are.
 *
 *	-plugin profile.so,out=FILE[,stores=on]
 *
 * FILE gets, as text, for each window of time that the guest opens:
 *
 *	window NAME
 *	at PC INSTRUCTIONS INSIDE	of one piece of code, those INSIDE a scope too
 *	user INSTRUCTIONS
 *	scope ADDRESS CALLS INSTRUCTIONS without those of scopes inside of it
 *	shared PC LINE STORES INSIDE	to a cache line that several CPUs stored to
 *	stores INSIDE			all of them, inside of scopes
 *
 * without stores to the stack, of kernels whose stacks are of 16 KiB. Which CPU
 * it was is known where each has a thread (not with -icount).
 *
 * and, once, `symbol` lines with what the guest says its symbols are.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

#define LINE 6
#define CPUS 8
#define SCOPES 16
#define DEPTH 16
/* log2 of the size of kernel stacks. */
#define STACK 14

/* A piece of code without branches. */
struct code {
	uint64_t pc;
	uint64_t insns;
	uint64_t times;
	uint64_t inside;
	int scope;
	struct code *next;
};

/* Stores to a cache line, by the instruction at @pc. */
struct store {
	uint64_t pc;
	uint64_t line;
	uint64_t times;
	uint64_t inside;
	struct store *next;
};

struct line {
	uint64_t line;
	unsigned int cpus;
	struct line *next;
};

struct scope {
	uint64_t address;
	/* Not what is measured: what it calls, and is taken out of that. */
	bool excluded;
	uint64_t calls;
	uint64_t insns;
};

struct cpu {
	/* Where its stack is. */
	uint64_t stack;
	int depth;
	int scopes[DEPTH];
	uint64_t back[DEPTH];
};

#define BUCKETS (1u << 18)

static struct code *codes[BUCKETS];
static struct store *stores[BUCKETS];
static struct line *lines[BUCKETS];
static struct scope scopes[SCOPES];
static struct cpu cpus[CPUS];
static int n_scopes;
static bool active, with_stores;
static uint64_t user_insns, stores_inside;
static FILE *out;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Of arm64: the stack, and where a function that has just been called returns to. */
static void *sp, *link_register;

static unsigned int bucket(uint64_t a, uint64_t b)
{
	return ((a * 0x9e3779b97f4a7c15ull) ^ (b * 0xc2b2ae3d27d4eb4full)) >> 46;
}

static void *zalloc(size_t size)
{
	void *p = calloc(1, size);

	if (!p) {
		perror("profile");
		exit(1);
	}
	return p;
}

/* Where the function returns to that is about to be entered. */
static uint64_t return_address(void)
{
	uint64_t at, v = 0;

	if (link_register)
		return reg(link_register);
	at = reg(rsp);
	g_byte_array_set_size(bytes, 0);
	if (qemu_plugin_read_memory_vaddr(at, bytes, sizeof(v)))
		memcpy(&v, bytes->data, sizeof(v));
	return v;
}

static bool is_inside(const struct cpu *cpu)
{
	return cpu->depth && !scopes[cpu->scopes[cpu->depth - 1]].excluded;
}

static void run_kernel(unsigned int n, void *data)
{
	struct code *code = data;
	struct cpu *cpu = &cpus[n % CPUS];

	if (!active)
		return;
	pthread_mutex_lock(&lock);
	if (with_stores)
		cpu->stack = reg(sp ? sp : rsp) >> STACK;
	while (cpu->depth && code->pc == cpu->back[cpu->depth - 1])
		cpu->depth--;
	/* What is excluded counts where it is called from a scope. */
	if (code->scope >= 0 && cpu->depth < DEPTH &&
	    (!scopes[code->scope].excluded || is_inside(cpu))) {
		cpu->scopes[cpu->depth] = code->scope;
		cpu->back[cpu->depth++] = return_address();
		scopes[code->scope].calls++;
	}
	code->times++;
	if (cpu->depth)
		scopes[cpu->scopes[cpu->depth - 1]].insns += code->insns;
	if (is_inside(cpu))
		code->inside++;
	pthread_mutex_unlock(&lock);
}

static void run_user(unsigned int n, void *data)
{
	struct code *code = data;

	(void)n;
	if (active)
		__atomic_fetch_add(&user_insns, code->insns, __ATOMIC_RELAXED);
}

static void run_store(unsigned int n, uint32_t info, uint64_t addr, void *data)
{
	uint64_t pc = (uintptr_t)data | KERNEL, line = addr >> LINE;
	bool inside = is_inside(&cpus[n % CPUS]);
	struct store *s;
	struct line *l;

	(void)info;
	if (!active || !(addr & KERNEL) || addr >> STACK == cpus[n % CPUS].stack)
		return;
	pthread_mutex_lock(&lock);
	stores_inside += inside;
	for (s = stores[bucket(pc, line)]; s; s = s->next)
		if (s->pc == pc && s->line == line)
			break;
	if (!s) {
		s = zalloc(sizeof(*s));
		s->pc = pc;
		s->line = line;
		s->next = stores[bucket(pc, line)];
		stores[bucket(pc, line)] = s;
	}
	s->times++;
	s->inside += inside;
	for (l = lines[bucket(line, 0)]; l; l = l->next)
		if (l->line == line)
			break;
	if (!l) {
		l = zalloc(sizeof(*l));
		l->line = line;
		l->next = lines[bucket(line, 0)];
		lines[bucket(line, 0)] = l;
	}
	l->cpus |= 1u << n % 32;
	pthread_mutex_unlock(&lock);
}

static bool is_shared(uint64_t line)
{
	struct line *l;

	for (l = lines[bucket(line, 0)]; l; l = l->next)
		if (l->line == line)
			return l->cpus & (l->cpus - 1);
	return false;
}

static void forget(void)
{
	unsigned int i;
	int s;

	for (i = 0; i < BUCKETS; i++) {
		struct code *c;

		for (c = codes[i]; c; c = c->next)
			c->times = c->inside = 0;
		while (stores[i]) {
			struct store *next = stores[i]->next;

			free(stores[i]);
			stores[i] = next;
		}
		while (lines[i]) {
			struct line *next = lines[i]->next;

			free(lines[i]);
			lines[i] = next;
		}
	}
	for (s = 0; s < n_scopes; s++)
		scopes[s].calls = scopes[s].insns = 0;
	memset(cpus, 0, sizeof(cpus));
	user_insns = stores_inside = 0;
}

static void tell(void)
{
	unsigned int i;
	int n;

	for (i = 0; i < BUCKETS; i++) {
		struct code *c;
		struct store *s;

		for (c = codes[i]; c; c = c->next)
			if (c->times)
				fprintf(out, "at %" PRIx64 " %" PRIu64 " %" PRIu64 "\n", c->pc,
					c->times * c->insns, c->inside * c->insns);
		for (s = stores[i]; s; s = s->next)
			if (is_shared(s->line))
				fprintf(out, "shared %" PRIx64 " %" PRIx64 " %" PRIu64 " %" PRIu64 "\n",
					s->pc, s->line << LINE, s->times, s->inside);
	}
	for (n = 0; n < n_scopes; n++)
		fprintf(out, "scope %" PRIx64 " %" PRIu64 " %" PRIu64 "\n", scopes[n].address,
			scopes[n].calls, scopes[n].insns);
	fprintf(out, "user %" PRIu64 "\nstores %" PRIu64 "\n", user_insns, stores_inside);
	fflush(out);
}

/* The arguments of a request are two words, or a piece of the guest's memory. */
static void request(unsigned int n, void *data)
{
	uint64_t a, b;

	(void)n;
	pthread_mutex_lock(&lock);
	a = reg(arg0);
	b = reg(arg1);
	switch ((uintptr_t)data) {
	case 1:
	case 3:
		g_byte_array_set_size(bytes, 0);
		if (!qemu_plugin_read_memory_vaddr(a, bytes, b)) {
			fprintf(stderr, "profile: cannot read the guest's memory\n");
			exit(1);
		}
		fprintf(out, (uintptr_t)data == 1 ? "window %.*s\n" : "%.*s", (int)b, bytes->data);
		if ((uintptr_t)data == 1) {
			forget();
			active = true;
		}
		break;
	case 2:
		active = false;
		tell();
		break;
	case 4:
		if (n_scopes < SCOPES) {
			scopes[n_scopes].address = a;
			scopes[n_scopes++].excluded = b;
		}
		for (unsigned int i = 0; i < BUCKETS; i++)
			for (struct code *c = codes[i]; c; c = c->next)
				if (c->pc == a)
					c->scope = n_scopes - 1;
		break;
	}
	pthread_mutex_unlock(&lock);
}

static struct code *find(uint64_t pc, uint64_t insns)
{
	unsigned int at = bucket(pc, insns);
	struct code *c;
	int s;

	for (c = codes[at]; c; c = c->next)
		if (c->pc == pc && c->insns == insns)
			return c;
	c = zalloc(sizeof(*c));
	c->pc = pc;
	c->insns = insns;
	c->scope = -1;
	for (s = 0; s < n_scopes; s++)
		if (scopes[s].address == pc)
			c->scope = s;
	c->next = codes[at];
	codes[at] = c;
	return c;
}

static void translated(uint64_t id, struct tb *tb)
{
	uint64_t pc = qemu_plugin_tb_vaddr(tb);
	size_t i, n = qemu_plugin_tb_n_insns(tb);
	struct code *code;

	(void)id;
	pthread_mutex_lock(&lock);
	code = find(pc, n);
	pthread_mutex_unlock(&lock);
	if (pc & KERNEL) {
		qemu_plugin_register_vcpu_tb_exec_cb(tb, run_kernel, R_REGS, code);
		for (i = 0; with_stores && i < n; i++) {
			struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
			uint64_t at = qemu_plugin_insn_vaddr(insn) & ~KERNEL;

			qemu_plugin_register_vcpu_mem_cb(insn, run_store, NO_REGS, MEM_W,
							 (void *)(uintptr_t)at);
		}
		return;
	}
	qemu_plugin_register_vcpu_tb_exec_cb(tb, run_user, NO_REGS, code);
	for (i = 0; i < n; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		unsigned int what = guest_request(insn);

		if (what)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, request, R_REGS,
							       (void *)(uintptr_t)what);
	}
}

static void registers(uint64_t id, unsigned int cpu)
{
	array *all = qemu_plugin_get_registers();
	struct reg *r = (struct reg *)all->data;

	new_cpu(id, cpu);
	for (unsigned int i = 0; i < all->len; i++) {
		if (!strcmp(r[i].name, "sp"))
			sp = r[i].handle;
		else if (!strcmp(r[i].name, "x30"))
			link_register = r[i].handle;
	}
}

static void ended(uint64_t id, void *data)
{
	(void)id;
	(void)data;
	fclose(out);
}

EXPORT int qemu_plugin_install(uint64_t id, const struct info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out = fopen(argv[i] + 4, "w");
		else if (!strcmp(argv[i], "stores=on"))
			with_stores = true;
	}
	if (!out) {
		fprintf(stderr, "profile: out=FILE is missing, or cannot be written\n");
		return -1;
	}
	know_registers(id);
	qemu_plugin_register_vcpu_init_cb(id, registers);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
