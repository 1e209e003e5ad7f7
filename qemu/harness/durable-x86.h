/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What durable.c has to know of x86: instructions, page tables, and the firmware's port.
 *
 * Page tables are read through the kernel's linear mapping, whose place follows from any
 * store by the kernel.
 */

enum { CR3 = 16, CR4, FS_BASE, GS_BASE };
static const char *const x86_registers[] = {
	"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
	"cr3", "cr4", "fs_base", "gs_base", NULL
};

/* Where the kernel has all of the memory, less its physical address; 0: not known. */
static uint64_t linear;

#define ADDRESS 0x000ffffffffff000ull

static bool entry(uint64_t table, unsigned int at, uint64_t *e)
{
	g_byte_array_set_size(bytes, 0);
	if (!qemu_plugin_read_memory_vaddr(linear + (table & ADDRESS) + 8 * at, bytes, sizeof(*e)) ||
	    bytes->len < sizeof(*e))
		return false;
	memcpy(e, bytes->data, sizeof(*e));
	return *e & 1;
}

static bool x86_walk(uint64_t from, uint64_t *to, unsigned int *piece)
{
	uint64_t e = reg(registers[CR3]);
	unsigned int shift = reg(registers[CR4]) & 1 << 12 ? 48 : 39;

	*piece = shift;
	if (!linear)
		return false;
	for (;; shift -= 9) {
		uint64_t mask = (1ull << shift) - 1;

		*piece = shift;
		if (!entry(e, from >> shift & 511, &e))
			return false;
		if (shift == PAGE || (shift <= 30 && e & 1 << 7)) {
			*to = (e & ADDRESS & ~mask) | (from & mask);
			return true;
		}
	}
}

static bool x86_sees_tables(void)
{
	return linear;
}

static uint64_t x86_space(void)
{
	return reg(registers[CR3]) & ADDRESS;
}

/* The kernel that comes may have it elsewhere. */
static void x86_forget(void)
{
	linear = 0;
}

/* From a store by the kernel. What is no more than a coincidence finds no tables. */
static void learn(uint64_t from, uint64_t to)
{
	unsigned int piece;
	uint64_t found;

	if (from < 0xff00000000000000ull || from >= 0xffffffff80000000ull ||
	    (from - to) & ((1u << 30) - 1))
		return;
	linear = from - to;
	if (!x86_walk(from, &found, &piece) || found != to)
		linear = 0;
}

/*
 * QEMU's firmware interface for NVDIMMs: the physical address of a request goes to this
 * port, and is answered before the next instruction.
 */
#define NVDIMM_PORT 0x0a18

/* Where requests are, which is in no linear mapping; by what last stored to it. */
static uint64_t firmware, firmware_from;

static void run_port(unsigned int n, void *data)
{
	struct {
		uint32_t handle, revision;
		struct labels labels;
	} in;

	(void)data;
	pthread_mutex_lock(&lock);
	if ((reg(registers[2]) & 0xffff) != NVDIMM_PORT)
		goto out;
	__atomic_store_n(&firmware, (uint32_t)reg(registers[0]), __ATOMIC_RELAXED);
	if (!recorded.size)
		goto out;
	g_byte_array_set_size(bytes, 0);
	if (!firmware_from || !qemu_plugin_read_memory_vaddr(firmware_from, bytes, sizeof(in)) ||
	    bytes->len < sizeof(in)) {
		lost("a request to firmware at", firmware);
		goto out;
	}
	memcpy(&in, bytes->data, sizeof(in));
	if (!in.handle || in.labels.function != SET_LABELS)
		goto out;
	g_byte_array_set_size(bytes, 0);
	if (in.labels.length > LABELS ||
	    !qemu_plugin_read_memory_vaddr(firmware_from + sizeof(in), bytes, in.labels.length) ||
	    bytes->len < in.labels.length)
		lost("labels at", firmware);
	else
		note(E_LABELS, n, in.labels.offset, bytes->data, in.labels.length);
out:
	pthread_mutex_unlock(&lock);
}

/* A store by anybody, before it is looked at. */
static void x86_store(uint64_t from, uint64_t to)
{
	if (from & KERNEL && !__atomic_load_n(&linear, __ATOMIC_RELAXED)) {
		pthread_mutex_lock(&lock);
		learn(from, to);
		pthread_mutex_unlock(&lock);
	}
	if (to >> PAGE == __atomic_load_n(&firmware, __ATOMIC_RELAXED) >> PAGE)
		__atomic_store_n(&firmware_from, from & ~((1ull << PAGE) - 1), __ATOMIC_RELAXED);
}

static void decode_operand(struct operation *op, const unsigned char *b, unsigned int rex,
			   uint64_t end)
{
	unsigned int mod = b[0] >> 6, rm = b[0] & 7, at = 1;
	int32_t more = 0;

	op->base = rm | (rex & 1) << 3;
	op->index = NONE;
	if (rm == 4) {
		op->base = (b[1] & 7) | (rex & 1) << 3;
		op->index = (b[1] >> 3 & 7) | (rex & 2) << 2;
		op->shift = b[1] >> 6;
		if (op->index == 4)
			op->index = NONE;
		at = 2;
		rm = b[1] & 7;
	}
	if (mod == 1) {
		more = (signed char)b[at];
	} else if (mod == 2 || (mod == 0 && rm == 5)) {
		memcpy(&more, b + at, 4);
		if (mod == 0)
			op->base = NONE;
	}
	op->more = more;
	/* Relative to what follows. */
	if (mod == 0 && (b[0] & 7) == 5)
		op->more += end;
}

static void x86_decode(struct operation *op, struct insn *insn)
{
	unsigned char b[32] = { 0 };
	size_t i = 0, len = qemu_plugin_insn_size(insn);
	unsigned int rex = 0;
	bool data = false, locked = false, rep = false, in_memory;
	uint64_t end = qemu_plugin_insn_vaddr(insn) + len;

	if (len > 15)
		return;
	qemu_plugin_insn_data(insn, b, len);
	for (;; i++) {
		if (b[i] == 0x66)
			data = true;
		else if (b[i] == 0x67)
			op->short_address = true;
		else if (b[i] == 0xf0)
			locked = true;
		else if (b[i] == 0xf2 || b[i] == 0xf3)
			rep = true;
		else if (b[i] == 0x64 || b[i] == 0x65)
			op->segment = b[i] == 0x64 ? 'f' : 'g';
		else if (b[i] != 0x2e && b[i] != 0x36 && b[i] != 0x3e && b[i] != 0x26)
			break;
	}
	if ((b[i] & 0xf0) == 0x40)
		rex = b[i++];
	if (locked) {
		op->kind = LOCKED;
		return;
	}
	/* out dx, eax */
	if (b[i] == 0xef && !data) {
		op->run = run_port;
		return;
	}
	if ((b[i] == 0x86 || b[i] == 0x87) && b[i + 1] < 0xc0) {
		op->kind = LOCKED;
		return;
	}
	/* VEX, in 64-bit code: vmovntps, vmovntpd, vmovntdq. vmaskmovdqu. */
	if (b[i] == 0xc5 || (b[i] == 0xc4 && (b[i + 1] & 0x1f) == 1)) {
		unsigned char opcode = b[i + (b[i] == 0xc5 ? 2 : 3)];

		op->past = opcode == 0x2b || opcode == 0xe7 || opcode == 0xf7;
		return;
	}
	if (b[i] != 0x0f)
		return;
	i++;
	in_memory = b[i + 1] < 0xc0;
	switch (b[i]) {
	case 0x01:
		/* invlpg */
		if (in_memory && (b[i + 1] >> 3 & 7) == 7)
			op->kind = NEW_TRANSLATIONS;
		break;
	case 0x09:
		/* wbinvd, wbnoinvd */
		op->kind = ALL_CACHES;
		break;
	case 0x22:
		/* mov to a control register */
		op->kind = NEW_TRANSLATIONS;
		break;
	case 0x38:
		/* invpcid */
		if (data && b[i + 1] == 0x82)
			op->kind = NEW_TRANSLATIONS;
		break;
	case 0xa2:
		/* cpuid */
		op->kind = LOCKED;
		break;
	case 0x2b:
	case 0xc3:
	case 0xe7:
	case 0xf7:
		/* movntps, movntpd, movnti, movntq, movntdq, maskmovq, maskmovdqu */
		op->past = true;
		break;
	case 0xae:
		if (!in_memory) {
			/* mfence, sfence */
			if (!data && !rep && (b[i + 1] >= 0xf0))
				op->kind = FENCE;
		} else if (!rep && (b[i + 1] >> 3 & 7) == 7) {
			op->kind = data ? WRITE_BACK : FLUSH;
		} else if (!rep && data && (b[i + 1] >> 3 & 7) == 6) {
			op->kind = WRITE_BACK;
		}
		if (op->kind == WRITE_BACK || op->kind == FLUSH)
			decode_operand(op, b + i + 1, rex, end);
		break;
	}
}

static uint64_t x86_operand(const struct operation *op)
{
	uint64_t at = op->more;

	if (op->base != NONE)
		at += reg(registers[op->base]);
	if (op->index != NONE)
		at += reg(registers[op->index]) << op->shift;
	if (op->short_address)
		at = (uint32_t)at;
	if (op->segment)
		at += reg(registers[op->segment == 'f' ? FS_BASE : GS_BASE]);
	return at;
}

static const struct arch x86 = {
	.name = "x86_64",
	.kernel = KERNEL,
	.reset = 0xfffffff0ull,
	.registers = x86_registers,
	.decode = x86_decode,
	.operand = x86_operand,
	.sees_tables = x86_sees_tables,
	.walk = x86_walk,
	.space = x86_space,
	.forget = x86_forget,
	.store = x86_store,
};
