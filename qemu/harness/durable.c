// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that follows each cache line of persistent memory: stored to,
 * written back by which CPU, fenced by that CPU. The guest says where that memory
 * is, and of which ranges it claims that they are durable.
 *
 *	-plugin durable.so,out=FILE[,record=FILE][,loads=on]
 *
 * FILE gets, as text, at the very moment, so that it is there when QEMU is killed:
 *
 *	follow START SIZE
 *	claim LINES BAD LOCKED TEXT	a range is durable, and was stored to before;
 *					LOCKED lines only by what is no fence by name
 *	planted LINES BAD TEXT		a range is in the state that the guest wants
 *	count LINES STORED WRITTEN TEXT	lines, those that wait for a write-back, and
 *					those that wait for a fence
 *	later TEXT			a claim follows, when the guest goes down
 *	tally LOADED STORED PAST FLUSHES AGAIN FENCES TEXT
 *					what one CPU did meanwhile: lines loaded from (with
 *					loads=on), stored to, stored to past the caches; flushes,
 *					those of lines flushed before and not stored to since; fences
 *	line ADDRESS STATE CPUS PC TEXT	one that is BAD: what it is, and the last store
 *	lost WHY			the plugin does not know what the CPUs do
 *
 * With record=FILE it also writes down, of a range that the guest names, all from which
 * the states follow that a power cut could leave it in: see `enum event`. That file is
 * complete up to the guest's last request. What the guest has firmware write to the label
 * area of an NVDIMM meanwhile is in it, too, in its place between the stores.
 *
 * The requests of the guest, by the nop that plugin.h knows, are those of `enum
 * what`. Documentation/durability.md has the model.
 *
 * The instructions that write a line back make no memory access that QEMU tells of:
 * their operands are decoded, and their addresses looked up in the guest's page
 * tables; what is found is kept until the CPU drops translations. All that differs
 * between architectures is in durable-x86.h and durable-arm64.h.
 *
 * What a host keeps in a file, for virtio-pmem, is durable when fsync(2) of that has
 * returned, and by nothing else: last-flush.c tells.
 *
 * FILE is written to at its end: a machine that hibernates has two of QEMU.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "plugin.h"

#define LINE 6
#define PAGE 12
/* As many bits as any code's address needs. */
#define PC 53
/* As many as there are bits in what a line has for CPUs. */
#define CPUS 16
/* The host that has a file for memory. */
#define HOST (CPUS - 1)
#define RANGES 16
#define CACHED 1024
/* Lines of one range that are shown. */
#define SHOWN 8
/* Claims that wait for a moment. */
#define LATER 256
/* That hold something at the same time. */
#define PROCESSES 64

/* Requests of the guest; their arguments. */
enum what {
	/* Physical address, length. */
	FOLLOW = 16,
	/* A text, for the next requests: address, length. */
	NAME,
	/* Physical address, length | 1 << 56 if no locked instruction is to do for a fence. */
	CLAIM,
	/* Physical address, length. */
	COUNT,
	/* Physical address, length | the state << 56. */
	PLANTED,
	/* Physical address, length: as CLAIM, of those lines that were stored to. */
	CLAIM_REST,
	/* Physical address, length: writes down what happens to it; to none, if length is 0. */
	RECORD,
	/* Address, length: what the next bytes of that range hold, in whole pages. */
	CONTENTS,
	/* A text, address and length: what it says is acknowledged. */
	ACKNOWLEDGED,
	/* As CLAIM, or as COUNT with 1 << 57, but when the guest goes down. */
	CLAIM_LATER = 32,
	/*
	 * That is when an instruction is about to be executed, here in the guest's memory, or, if
	 * it is 0, when QEMU ends. From then on nothing is followed, until FOLLOW.
	 */
	DOWN,
	/*
	 * Virtual address, length: what the process that is running has stored there. For its next
	 * CLAIM_HELD, since what acknowledges it may take it from the process.
	 */
	HOLD,
	/* 1 if it is acknowledged by instructions alone, which reach no file of the host's. */
	CLAIM_HELD,
	/* What this CPU does until the next one, whose argument is 0, is counted. */
	TALLY,
};

/*
 * The recording: after 8 bytes `RECORDING` come events, each a `struct head` and what
 * belongs to it. Numbers are little-endian.
 */
#define RECORDING "rpmemrec"

enum event {
	/* From here on it is of the range at `at`: its length in 8 bytes, its name. */
	E_RECORD = 1,
	/* A page at `at`; none of its bytes if all are zero. Those first told are the base. */
	E_CONTENTS,
	/* A store to `at`: its bytes, by what is an E_STORE_PAST past the caches. */
	E_STORE,
	E_STORE_PAST,
	/* clwb or clflushopt of the line at `at`; clflush. */
	E_WRITTEN_BACK,
	E_FLUSHED,
	/* Of the CPU: by name; by what else drains its buffers. */
	E_FENCE,
	E_LOCKED,
	/* A text. */
	E_ACKNOWLEDGED,
	/* What is written to the label area at `at`, an offset: as a whole, and durable. */
	E_LABELS,
};

struct head {
	uint64_t at;
	uint16_t len;
	uint8_t event;
	uint8_t cpu;
} __attribute__((packed));

enum state {
	/* By a fence that is one by name. */
	DURABLE,
	/* By a locked instruction or one that serializes. */
	BY_LOCK,
	WRITTEN,
	STORED,
	/* Not stored to since the last claim. */
	UNTOUCHED,
};
static const char *const states[] = { "durable", "durable-by-lock", "written-back", "stored",
				      "untouched" };

struct line {
	/* Of the last store: the lower bits of its pc, the CPU, and flags. */
	uint64_t pc : PC;
	uint64_t cpu : 4;
	/* Stored to and not written back. */
	uint64_t dirty : 1;
	/* Stored to since the last claim. */
	uint64_t touched : 1;
	/* Since the tally began. */
	uint64_t loaded_now : 1;
	uint64_t stored_now : 1;
	uint64_t past_now : 1;
	uint64_t flushed_now : 1;
	/* Written back by these, any one of which has to have a fence... */
	uint16_t back;
	/* ...and stored to past the caches by these, all of which have to. */
	uint16_t past;
	/* The same, if locked instructions were no fences. */
	uint16_t back_by_name;
	uint16_t past_by_name;
};

static struct range {
	uint64_t start;
	uint64_t size;
	struct line *lines;
	/* It is a file of the host's. */
	bool of_host;
} ranges[RANGES];
/* Those that there are, and those that are followed: all of them, or none. */
static unsigned int n_known, n_ranges;

static struct {
	char name[256];
	uint64_t start;
	uint64_t len;
} later[LATER];
static unsigned int n_later;

/* By page tables. */
static struct held {
	uint64_t space;
	struct {
		uint64_t phys;
		struct line *line;
	} *lines;
	size_t n, room;
} holds[PROCESSES];
/* When they are judged. */
static uint64_t down_at;

static struct cpu {
	/* Lines that wait for a fence of this CPU; the first ones for one by name only. */
	struct line **waiting;
	size_t n, room, locked;
	/* Pages that were looked up. */
	bool any_cached;
	unsigned int drops;
	struct {
		uint64_t from;
		uint64_t to;
	} cached[CACHED];
} cpus[CPUS];
/* How often all CPUs had to drop translations. */
static unsigned int drops;

/* What one CPU does, from one moment to another. */
static struct {
	bool active;
	unsigned int cpu;
	uint64_t loaded, stored, past, flushes, again, fences;
	struct line **lines;
	size_t n, room;
} tally;

static char name[256];
static FILE *out, *recording;
static bool with_loads;
/* What is recorded, and where the next contents are. */
static struct {
	uint64_t start;
	uint64_t size;
	uint64_t told;
} recorded;
static void *registers[40];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void lost(const char *why, uint64_t at)
{
	static unsigned int times;

	if (times++ < 20)
		fprintf(out, "lost %s %" PRIx64 "\n", why, at);
}

static uint64_t whole_pc(uint64_t pc)
{
	return pc & 1ull << (PC - 1) ? pc | ~0ull << PC : pc;
}

/* The recording. */

static void note(enum event event, unsigned int cpu, uint64_t at, const void *data, size_t len)
{
	struct head h = { .at = at, .len = len, .event = event, .cpu = cpu };

	if (fwrite(&h, sizeof(h), 1, recording) != 1 || fwrite(data, 1, len, recording) != len)
		lost("what is recorded, at", at);
}

static bool is_recorded(uint64_t phys)
{
	return phys - recorded.start < recorded.size;
}

static void note_store(unsigned int n, uint64_t phys, const unsigned char *data, unsigned int len,
		       bool past)
{
	while (len && !is_recorded(phys)) {
		phys++;
		data++;
		len--;
	}
	while (len && !is_recorded(phys + len - 1))
		len--;
	if (len)
		note(past ? E_STORE_PAST : E_STORE, n, phys, data, len);
}

/* Architectures. */

enum kind {
	OTHER,
	FENCE,
	LOCKED,
	/* Of a line: until a fence; at once. */
	WRITE_BACK,
	FLUSH,
	ALL_CACHES,
	NEW_TRANSLATIONS,
	/* On every CPU. */
	NEW_EVERYWHERE,
};

/* No register. */
#define NONE 0xff

struct operation {
	enum kind kind;
	/* Or else what is to be done before it. */
	void (*run)(unsigned int cpu, void *op);
	uint64_t pc;
	/* Its store goes past the caches. */
	bool past;
	/* The operand, as x86 has it. */
	unsigned char base, index, shift;
	char segment;
	bool short_address;
	int64_t more;
};

static const struct arch {
	/* As QEMU says it. */
	const char *name;
	/* A bit of every address of the kernel's, and of none else. */
	uint64_t kernel;
	/* Where a CPU starts, also after a sleep. */
	uint64_t reset;
	/* Those of operands, by number; others. */
	const char *const *registers;
	void (*decode)(struct operation *op, struct insn *insn);
	uint64_t (*operand)(const struct operation *op);
	/* Whether page tables can be read by now. */
	bool (*sees_tables)(void);
	/* So much is there, or not, in one piece: 1 << *piece bytes. */
	bool (*walk)(uint64_t from, uint64_t *to, unsigned int *piece);
	/* The page tables of the process that is running. */
	uint64_t (*space)(void);
	/* There is another kernel, maybe. */
	void (*forget)(void);
	/* A store to memory; one to a device, after which that has answered. */
	void (*store)(uint64_t from, uint64_t to);
	void (*device_store)(unsigned int n, uint64_t to, uint64_t value);
} *arch;

static void drop_translations(struct cpu *cpu)
{
	if (cpu->any_cached)
		memset(cpu->cached, 0, sizeof(cpu->cached));
	cpu->any_cached = false;
}

static bool translate(unsigned int n, uint64_t from, uint64_t *to)
{
	struct cpu *cpu = &cpus[n];
	unsigned int at = (from >> PAGE) % CACHED, piece;
	unsigned int now = __atomic_load_n(&drops, __ATOMIC_RELAXED);

	if (cpu->drops != now)
		drop_translations(cpu);
	cpu->drops = now;
	if (cpu->cached[at].from != (from >> PAGE | 1ull << 63)) {
		if (!arch->walk(from, to, &piece))
			return false;
		cpu->cached[at].from = from >> PAGE | 1ull << 63;
		cpu->cached[at].to = *to >> PAGE;
		cpu->any_cached = true;
	}
	*to = cpu->cached[at].to << PAGE | (from & ((1u << PAGE) - 1));
	return true;
}

/* Lines. */

static struct range *range_at(uint64_t phys)
{
	for (unsigned int i = 0; i < n_ranges; i++)
		if (phys - ranges[i].start < ranges[i].size)
			return &ranges[i];
	return NULL;
}

static struct line *line_at(uint64_t phys)
{
	struct range *r = range_at(phys);

	return r ? &r->lines[(phys - r->start) >> LINE] : NULL;
}

/* Adds to a list of @n that has room for @room. */
static void push(struct line ***list, size_t *n, size_t *room, struct line *l)
{
	if (*n == *room) {
		*room = *room ? 2 * *room : 1024;
		*list = realloc(*list, *room * sizeof(**list));
		if (!*list) {
			perror("durable");
			exit(1);
		}
	}
	(*list)[(*n)++] = l;
}

static void waits(unsigned int n, struct line *l)
{
	struct cpu *cpu = &cpus[n];

	push(&cpu->waiting, &cpu->n, &cpu->room, l);
}

/* The tally. */

static bool is_tallied(unsigned int n)
{
	return __atomic_load_n(&tally.active, __ATOMIC_RELAXED) && tally.cpu == n;
}

/* That the line has been seen, to be forgotten in the end. */
static void seen(struct line *l)
{
	if (!l->loaded_now && !l->stored_now && !l->past_now && !l->flushed_now)
		push(&tally.lines, &tally.n, &tally.room, l);
}

static void tally_load(struct line *l)
{
	seen(l);
	tally.loaded += !l->loaded_now;
	l->loaded_now = 1;
}

static void tally_store(struct line *l, bool past)
{
	seen(l);
	tally.stored += !past && !l->stored_now;
	tally.past += past && !l->past_now;
	if (past)
		l->past_now = 1;
	else
		l->stored_now = 1;
	l->flushed_now = 0;
}

static void tally_flush(struct line *l)
{
	seen(l);
	tally.flushes++;
	/* What has gone past the caches needs none either. */
	tally.again += l->flushed_now || (l->past_now && !l->stored_now);
	l->flushed_now = 1;
}

static void count_from_here(unsigned int n)
{
	tally.loaded = tally.stored = tally.past = tally.flushes = tally.again = tally.fences = 0;
	tally.cpu = n;
	__atomic_store_n(&tally.active, true, __ATOMIC_RELAXED);
}

static void count_to_here(void)
{
	if (!tally.active)
		return lost("a tally that has not begun", 0);
	__atomic_store_n(&tally.active, false, __ATOMIC_RELAXED);
	fprintf(out,
		"tally %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n",
		tally.loaded, tally.stored, tally.past, tally.flushes, tally.again, tally.fences,
		name);
	while (tally.n) {
		struct line *l = tally.lines[--tally.n];

		l->loaded_now = l->stored_now = l->past_now = l->flushed_now = 0;
	}
}

/* Lines again. */

static void stored(unsigned int n, uint64_t phys, uint64_t pc, bool past)
{
	struct line *l = line_at(phys);

	if (!l)
		return;
	if (is_tallied(n))
		tally_store(l, past);
	l->pc = pc;
	l->cpu = n;
	l->touched = 1;
	if (range_at(phys)->of_host) {
		if (!l->dirty)
			waits(HOST, l);
		past = false;
	}
	if (past && !l->dirty) {
		/* What was written back before and waits for a fence goes on waiting for that. */
		l->past |= 1u << n;
		l->past_by_name |= 1u << n;
		waits(n, l);
		return;
	}
	l->dirty = 1;
	l->back = l->back_by_name = 0;
}

static void written_back(unsigned int n, uint64_t phys, bool at_once)
{
	struct line *l = line_at(phys);

	if (l && is_tallied(n))
		tally_flush(l);
	if (!l || range_at(phys)->of_host || (!l->dirty && !l->back && !l->back_by_name))
		return;
	l->dirty = 0;
	if (is_recorded(phys))
		note(at_once ? E_FLUSHED : E_WRITTEN_BACK, n, phys & ~((1ull << LINE) - 1), NULL, 0);
	if (at_once) {
		l->back = l->back_by_name = 0;
		return;
	}
	/* One that is durable but for the name of the fence stays durable. */
	if (l->back || !l->back_by_name)
		l->back |= 1u << n;
	l->back_by_name |= 1u << n;
	waits(n, l);
}

static void fenced(unsigned int n, bool by_name)
{
	struct cpu *cpu = &cpus[n];
	uint16_t bit = 1u << n;

	if (recorded.size)
		note(by_name ? E_FENCE : E_LOCKED, n, 0, NULL, 0);
	for (size_t i = by_name ? 0 : cpu->locked; i < cpu->n; i++) {
		struct line *l = cpu->waiting[i];

		if (l->back & bit)
			l->back = 0;
		l->past &= ~bit;
		if (!by_name)
			continue;
		if (l->back_by_name & bit)
			l->back_by_name = 0;
		l->past_by_name &= ~bit;
	}
	if (by_name)
		cpu->n = 0;
	cpu->locked = cpu->n;
}

/* This CPU's caches are written back: what it was the last one to store to. */
static void all_written_back(unsigned int n)
{
	for (unsigned int i = 0; i < n_ranges; i++) {
		struct line *l = ranges[i].lines;

		for (uint64_t left = ranges[i].size >> LINE; left--; l++)
			if (!ranges[i].of_host && l->dirty && l->cpu == n)
				l->dirty = 0;
	}
	fenced(n, false);
}

/* The host has begun to flush, or it is done. */
static void host_flushes(bool done)
{
	static size_t under_way;
	struct cpu *host = &cpus[HOST];

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < (done ? under_way : host->n); i++) {
		struct line *l = host->waiting[i];

		if (done) {
			l->back = l->back_by_name = 0;
		} else if (l->dirty) {
			l->dirty = 0;
			l->back = l->back_by_name = 1u << HOST;
		}
	}
	if (done) {
		host->n -= under_way;
		memmove(host->waiting, host->waiting + under_way,
			host->n * sizeof(*host->waiting));
	}
	under_way = done ? 0 : host->n;
	pthread_mutex_unlock(&lock);
}

static enum state state_of(const struct line *l)
{
	if (l->dirty)
		return STORED;
	if (l->back || l->past)
		return WRITTEN;
	return l->back_by_name || l->past_by_name ? BY_LOCK : DURABLE;
}

/* What firmware is asked for when it is to write labels; these are behind it, in one page. */
struct labels {
	uint32_t function, offset, length;
};
#define SET_LABELS 6
#define LABELS 4076

#include "durable-arm64.h"
#include "durable-x86.h"

/* Beside the pc of a store. */
#define PAST (1ull << 63)

/* What the guest executes. */

static void run_flush(unsigned int n, void *data)
{
	struct operation *op = data;
	uint64_t phys, at;

	if (!__atomic_load_n(&n_ranges, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&lock);
	at = arch->operand(op);
	/*
	 * QEMU takes no fault where a CPU would, and goes on: what a program has not mapped yet
	 * is not written back.
	 */
	if (translate(n % CPUS, at, &phys))
		written_back(n % CPUS, phys, op->kind == FLUSH);
	else if (at & arch->kernel || !arch->sees_tables())
		lost("a write-back of", at);
	pthread_mutex_unlock(&lock);
}

static void run_fence(unsigned int n, void *data)
{
	struct cpu *cpu = &cpus[n % CPUS];
	enum kind kind = (uintptr_t)data;

	/* All of this is the CPU's own. */
	if (kind == NEW_TRANSLATIONS) {
		drop_translations(cpu);
		return;
	}
	if (kind == NEW_EVERYWHERE) {
		__atomic_add_fetch(&drops, 1, __ATOMIC_RELAXED);
		return;
	}
	if (kind == FENCE && is_tallied(n % CPUS))
		tally.fences++;
	if (kind != ALL_CACHES && cpu->n == (kind == FENCE ? 0 : cpu->locked))
		return;
	pthread_mutex_lock(&lock);
	if (kind == ALL_CACHES)
		all_written_back(n % CPUS);
	else
		fenced(n % CPUS, kind == FENCE);
	pthread_mutex_unlock(&lock);
}

union value {
	unsigned char bytes[16];
	uint64_t words[2];
};

static union value value_of(uint32_t info)
{
	struct mem_value v = qemu_plugin_mem_get_value(info);
	union value value = { .words = { v.low, v.high } };

	return value;
}

static void run_store(unsigned int n, uint32_t info, uint64_t addr, void *data)
{
	uint64_t pc = (uintptr_t)data & ~PAST;
	bool past = (uintptr_t)data & PAST;
	unsigned int size = 1u << qemu_plugin_mem_size_shift(info);
	uint64_t last = addr + size - 1, phys, other;
	unsigned int first = size;
	union value value = { 0 };
	struct hwaddr *at;
	bool two;

	if (!__atomic_load_n(&n_ranges, __ATOMIC_RELAXED))
		return;
	at = qemu_plugin_get_hwaddr(info, addr);
	two = addr >> LINE != last >> LINE;
	if (at) {
		phys = qemu_plugin_hwaddr_phys_addr(at);
		if (qemu_plugin_hwaddr_is_io(at)) {
			if (arch->device_store)
				arch->device_store(n % CPUS, phys, value_of(info).words[0]);
			return;
		}
		if (arch->store)
			arch->store(addr, phys);
		if (!two && !line_at(phys))
			return;
	}
	pthread_mutex_lock(&lock);
	if (!at && !translate(n % CPUS, addr, &phys)) {
		lost("a store to", addr);
	} else {
		if (recorded.size)
			value = value_of(info);
		stored(n % CPUS, phys, pc, past);
		if (two && addr >> PAGE == last >> PAGE) {
			stored(n % CPUS, phys + size - 1, pc, past);
		} else if (two && translate(n % CPUS, last, &other)) {
			stored(n % CPUS, other, pc, past);
			/* Of the other page, to its last byte. */
			first = size - 1 - (last & ((1u << PAGE) - 1));
			if (recorded.size)
				note_store(n % CPUS, other - (size - 1 - first), value.bytes + first,
					   size - first, past);
		} else if (two && arch->sees_tables()) {
			lost("a store to", last);
		}
		if (recorded.size)
			note_store(n % CPUS, phys, value.bytes, first, past);
	}
	pthread_mutex_unlock(&lock);
}

static void run_load(unsigned int n, uint32_t info, uint64_t addr, void *data)
{
	uint64_t last = addr + (1u << qemu_plugin_mem_size_shift(info)) - 1, phys;
	struct hwaddr *at;
	struct line *l;

	(void)data;
	if (!is_tallied(n % CPUS))
		return;
	at = qemu_plugin_get_hwaddr(info, addr);
	if (!at || qemu_plugin_hwaddr_is_io(at))
		return;
	phys = qemu_plugin_hwaddr_phys_addr(at);
	pthread_mutex_lock(&lock);
	l = line_at(phys);
	if (l)
		tally_load(l);
	if (l && addr >> LINE != last >> LINE && addr >> PAGE == last >> PAGE)
		tally_load(l + 1);
	pthread_mutex_unlock(&lock);
}

/* What the guest wants to know. */

static void show(uint64_t phys, const struct line *l, enum state is)
{
	fprintf(out, "line %" PRIx64 " %s cpu%u/%x/%x %" PRIx64 " %s\n", phys, states[is],
		(unsigned int)l->cpu, l->back | l->past, l->back_by_name | l->past_by_name,
		whole_pc(l->pc), name);
}

static void look_at(enum what what, uint64_t start, uint64_t len, enum state want)
{
	uint64_t at, lines = 0, bad = 0, by_lock = 0, of[UNTOUCHED + 1] = { 0 };
	bool claim = what == CLAIM || what == CLAIM_REST;

	for (at = start & ~((1ull << LINE) - 1); at < start + len; at += 1u << LINE) {
		struct line *l = line_at(at);
		enum state is;
		bool wrong;

		if (!l) {
			lost("no persistent memory at", at);
			return;
		}
		is = state_of(l);
		/* Not stored to, and nothing to wait for. */
		if (what == CLAIM_REST && !l->touched && is <= BY_LOCK)
			continue;
		lines++;
		of[is]++;
		if (what == COUNT)
			continue;
		if (what != CLAIM_REST && !l->touched)
			is = UNTOUCHED;
		wrong = claim ? is > want : is != want;
		by_lock += is == BY_LOCK;
		if (wrong && bad++ < SHOWN)
			show(at, l, is);
		if (claim)
			l->touched = 0;
	}
	if (claim && !lines)
		lost("a claim of nothing at", start);
	if (claim)
		fprintf(out, "claim %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", lines, bad, by_lock,
			name);
	else if (what == PLANTED)
		fprintf(out, "planted %" PRIu64 " %" PRIu64 " %s\n", lines, bad, name);
	else
		fprintf(out, "count %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", lines, of[STORED],
			of[WRITTEN], name);
}

/* Once more of a kernel that has been started by another one, or was asleep: it may be elsewhere. */
static bool followed_before(uint64_t start, uint64_t size)
{
	for (unsigned int i = 0; i < n_known; i++) {
		if (ranges[i].start != start || ranges[i].size != size)
			continue;
		arch->forget();
		__atomic_store_n(&n_ranges, n_known, __ATOMIC_RELEASE);
		return true;
	}
	return false;
}

static void follow(uint64_t start, uint64_t size, bool of_host)
{
	struct range *r = &ranges[n_known];
	void (*watch)(void (*flushes)(bool done));

	if (followed_before(start, size))
		return;
	if (n_known == RANGES)
		return lost("more ranges than there is room for, at", start);
	if (of_host) {
		watch = (void (*)(void (*)(bool)))dlsym(RTLD_DEFAULT, "rpmem_watch_flushes");
		if (!watch)
			return lost("no last-flush.so for", start);
		watch(host_flushes);
	}
	r->of_host = of_host;
	r->start = start;
	r->size = size;
	r->lines = mmap(NULL, (size >> LINE) * sizeof(*r->lines), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (r->lines == MAP_FAILED) {
		perror("durable");
		exit(1);
	}
	fprintf(out, "follow %" PRIx64 " %" PRIx64 "\n", start, size);
	__atomic_store_n(&n_ranges, ++n_known, __ATOMIC_RELEASE);
}

static void claim_later(uint64_t start, uint64_t len)
{
	if (n_later == LATER)
		return lost("more claims than there is room for, at", start);
	memcpy(later[n_later].name, name, sizeof(name));
	later[n_later].start = start;
	later[n_later++].len = len;
	fprintf(out, "later %s\n", name);
}

static void judge_claim(uint64_t start, uint64_t len)
{
	look_at(len & 1ull << 57 ? COUNT : CLAIM, start, len & ~(0xffull << 56),
		len >> 56 ? DURABLE : BY_LOCK);
}

static void goes_down(void)
{
	for (unsigned int i = 0; i < n_later; i++) {
		memcpy(name, later[i].name, sizeof(name));
		judge_claim(later[i].start, later[i].len);
	}
	n_later = 0;
	__atomic_store_n(&n_ranges, 0, __ATOMIC_RELEASE);
	fflush(out);
}

static struct held *held_by_this(void)
{
	uint64_t space = arch->space();
	struct held *idle = NULL;

	for (int i = 0; i < PROCESSES; i++) {
		if (holds[i].n && holds[i].space == space)
			return &holds[i];
		if (!holds[i].n)
			idle = &holds[i];
	}
	if (idle)
		idle->space = space;
	return idle;
}

static void hold(uint64_t start, uint64_t len)
{
	struct held *h = held_by_this();
	uint64_t at, next, phys, end;
	unsigned int piece;

	if (!h)
		return lost("too many hold something, as", start);
	h->n = 0;
	for (at = start; at < start + len; at = next) {
		bool there = arch->walk(at, &phys, &piece);

		next = (at | ((1ull << piece) - 1)) + 1;
		end = next < start + len ? next : start + len;
		for (phys &= ~((1ull << LINE) - 1); there && at < end;
		     at = (at | ((1u << LINE) - 1)) + 1, phys += 1u << LINE) {
			struct line *l = line_at(phys);

			if (!l || !l->touched)
				continue;
			if (h->n == h->room) {
				h->room = h->room ? 2 * h->room : 1024;
				h->lines = realloc(h->lines, h->room * sizeof(*h->lines));
				if (!h->lines) {
					perror("durable");
					exit(1);
				}
			}
			h->lines[h->n].phys = phys;
			h->lines[h->n++].line = l;
		}
	}
}

/* They may be claimed once more, by somebody who knows which they are. */
static void claim_held(bool by_cpu)
{
	struct held *h = held_by_this();
	uint64_t lines = 0, bad = 0, by_lock = 0;

	for (size_t i = 0; h && i < h->n; i++) {
		struct line *l = h->lines[i].line;
		enum state is = state_of(l);

		if (by_cpu && range_at(h->lines[i].phys)->of_host)
			continue;
		lines++;
		by_lock += is == BY_LOCK;
		if (is > BY_LOCK && bad++ < SHOWN)
			show(h->lines[i].phys, l, is);
	}
	if (lines)
		fprintf(out, "claim %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", lines, bad, by_lock,
			name);
	if (h)
		h->n = 0;
}

/* Where it may be that the guest goes down. */
static void run_there(unsigned int n, void *data)
{
	(void)n;
	pthread_mutex_lock(&lock);
	if ((uintptr_t)data == down_at) {
		goes_down();
		down_at = 0;
	}
	pthread_mutex_unlock(&lock);
}

static void record(uint64_t start, uint64_t len)
{
	struct {
		uint64_t len;
		char name[sizeof(name)];
	} range = { .len = len };

	if (!recording)
		return lost("nothing is recorded, nor is", start);
	if (len && (!line_at(start) || !line_at(start + len - 1)))
		return lost("no persistent memory at", start);
	for (uint64_t at = start; at < start + len; at += 1u << LINE)
		if (state_of(line_at(at)) > BY_LOCK)
			return lost("a recording that begins with what is not durable, at", at);
	recorded.start = recorded.told = start;
	recorded.size = len;
	if (!len)
		return;
	memcpy(range.name, name, sizeof(name));
	note(E_RECORD, 0, start, &range, sizeof(len) + strlen(name));
}

static void contents(uint64_t at, uint64_t len)
{
	static const char zeroes[1u << PAGE];

	for (; len >> PAGE; at += 1u << PAGE, len -= 1u << PAGE, recorded.told += 1u << PAGE) {
		g_byte_array_set_size(bytes, 0);
		if (!is_recorded(recorded.told) ||
		    !qemu_plugin_read_memory_vaddr(at, bytes, sizeof(zeroes)) ||
		    bytes->len < sizeof(zeroes))
			return lost("contents at", at);
		note(E_CONTENTS, 0, recorded.told, bytes->data,
		     memcmp(bytes->data, zeroes, sizeof(zeroes)) ? sizeof(zeroes) : 0);
	}
	if (recorded.told == recorded.start + recorded.size)
		recorded.told = recorded.start;
}

static bool text(uint64_t at, uint64_t len, char *to, size_t room)
{
	g_byte_array_set_size(bytes, 0);
	if (len >= room || !qemu_plugin_read_memory_vaddr(at, bytes, len) || bytes->len < len) {
		lost("a text at", at);
		return false;
	}
	memcpy(to, bytes->data, len);
	to[len] = 0;
	return true;
}

static void request(unsigned int n, void *data)
{
	enum what what = (uintptr_t)data;
	char said[sizeof(name)];
	uint64_t a, b;

	pthread_mutex_lock(&lock);
	a = reg(arg0);
	b = reg(arg1);
	switch (what) {
	case FOLLOW:
		follow(a, b & ~(0xffull << 56), b >> 56);
		break;
	case NAME:
		text(a, b, name, sizeof(name));
		break;
	case RECORD:
		record(a, b);
		break;
	case CONTENTS:
		contents(a, b);
		break;
	case ACKNOWLEDGED:
		if (recorded.size && text(a, b, said, sizeof(said)))
			note(E_ACKNOWLEDGED, n % CPUS, 0, said, b);
		break;
	case PLANTED:
		look_at(what, a, b & ~(0xffull << 56), b >> 56);
		break;
	case CLAIM:
		judge_claim(a, b);
		break;
	case CLAIM_LATER:
		claim_later(a, b);
		break;
	case DOWN:
		down_at = a;
		break;
	case HOLD:
		hold(a, b);
		break;
	case CLAIM_HELD:
		claim_held(a);
		break;
	case TALLY:
		if (a)
			count_from_here(n % CPUS);
		else
			count_to_here();
		break;
	default:
		look_at(what, a, b, BY_LOCK);
	}
	fflush(out);
	if (recording && fflush(recording))
		lost("what is recorded", 0);
	pthread_mutex_unlock(&lock);
}

static void translated(uint64_t id, struct tb *tb)
{
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	for (i = 0; i < n; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint64_t pc = qemu_plugin_insn_vaddr(insn) & ((1ull << PC) - 1);
		unsigned int what = guest_request(insn);
		struct operation op = { .pc = pc }, *kept;

		if (qemu_plugin_insn_vaddr(insn) == arch->reset ||
		    qemu_plugin_insn_vaddr(insn) == __atomic_load_n(&down_at, __ATOMIC_RELAXED))
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, run_there, NO_REGS,
				(void *)(uintptr_t)qemu_plugin_insn_vaddr(insn));
		if ((what >= FOLLOW && what <= ACKNOWLEDGED) || (what >= CLAIM_LATER && what <= TALLY))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, request, R_REGS,
							       (void *)(uintptr_t)what);
		arch->decode(&op, insn);
		if (op.kind == WRITE_BACK || op.kind == FLUSH || op.run) {
			/* For as long as QEMU may run this translation: for good. */
			kept = malloc(sizeof(*kept));
			if (!kept) {
				perror("durable");
				exit(1);
			}
			*kept = op;
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, op.run ? op.run : run_flush, R_REGS, kept);
		} else if (op.kind != OTHER) {
			qemu_plugin_register_vcpu_insn_exec_cb(insn, run_fence, NO_REGS,
							       (void *)(uintptr_t)op.kind);
		}
		qemu_plugin_register_vcpu_mem_cb(insn, run_store, NO_REGS, MEM_W,
						 (void *)(uintptr_t)(pc | (op.past ? PAST : 0)));
		if (with_loads)
			qemu_plugin_register_vcpu_mem_cb(insn, run_load, NO_REGS, MEM_R, NULL);
	}
}

static void cpu_made(uint64_t id, unsigned int cpu)
{
	array *all = qemu_plugin_get_registers();
	struct reg *r = (struct reg *)all->data;

	new_cpu(id, cpu);
	for (int n = 0; arch->registers[n]; n++) {
		for (unsigned int i = 0; i < all->len; i++)
			if (!strcmp(r[i].name, arch->registers[n]))
				registers[n] = r[i].handle;
		if (!registers[n])
			lost("registers of CPU", cpu);
	}
	if (cpu >= HOST)
		lost("more CPUs than there is room for", cpu);
}

static void ended(uint64_t id, void *data)
{
	(void)id;
	(void)data;
	pthread_mutex_lock(&lock);
	if (!down_at)
		goes_down();
	pthread_mutex_unlock(&lock);
	fclose(out);
	if (recording)
		fclose(recording);
}

EXPORT int qemu_plugin_install(uint64_t id, const struct info *info, int argc, char **argv)
{
	static const struct arch *const all[] = { &x86, &arm64 };

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (!strcmp(all[i]->name, info->target))
			arch = all[i];
	if (!arch) {
		fprintf(stderr, "durable: it does not know %s\n", info->target);
		return -1;
	}
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4)) {
			out = fopen(argv[i] + 4, "a");
		} else if (!strcmp(argv[i], "loads=on")) {
			with_loads = true;
		} else if (!strncmp(argv[i], "record=", 7)) {
			recording = fopen(argv[i] + 7, "w");
			if (!recording || fputs(RECORDING, recording) == EOF) {
				fprintf(stderr, "durable: %s cannot be written\n", argv[i] + 7);
				return -1;
			}
		}
	}
	if (!out) {
		fprintf(stderr, "durable: out=FILE is missing, or cannot be written\n");
		return -1;
	}
	bytes = g_byte_array_new();
	qemu_plugin_register_vcpu_init_cb(id, cpu_made);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, ended, NULL);
	return 0;
}
