/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What durable.c has to know of arm64: instructions, page tables, and the firmware's device.
 *
 * Code of user space cannot read the kernel's memory, nor can a plugin on its behalf. So page
 * tables are read where QEMU has them: in the memory of the guest, for which qemu.rs asks a
 * memfd.
 */

enum { TTBR0 = 31, TTBR1, TCR };
static const char *const arm64_registers[] = {
	"x0",  "x1",  "x2",  "x3",  "x4",  "x5",  "x6",	 "x7",
	"x8",  "x9",  "x10", "x11", "x12", "x13", "x14", "x15",
	"x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23",
	"x24", "x25", "x26", "x27", "x28", "x29", "x30", "TTBR0_EL1",
	"TTBR1_EL1", "TCR_EL1", NULL
};

/* Where QEMU's machine has its memory. */
#define RAM 0x40000000ull
/* Of the two trees of page tables, it is the kernel's. */
#define UPPER (1ull << 55)
/* Of tables, and of what they lead to, but for the bits of 52 that are elsewhere. */
#define TABLE 0x0000ffffffffffc0ull
#define OUTPUT 0x0000fffffffff000ull

static const char *ram;
static uint64_t ram_size;

static void find_ram(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	uint64_t from, to, offset;
	char line[512];
	int n;

	while (maps && fgets(line, sizeof(line), maps)) {
		n = sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %" SCNx64, &from, &to, &offset);
		if (n == 3 && !offset && strstr(line, "/memfd:memory-backend-memfd")) {
			ram = (const char *)(uintptr_t)from;
			ram_size = to - from;
		}
	}
	if (maps)
		fclose(maps);
}

static bool look(uint64_t phys, void *to, size_t len)
{
	if (!ram)
		find_ram();
	if (phys < RAM || phys - RAM > ram_size || len > ram_size - (phys - RAM)) {
		lost("what is no memory, at", phys);
		return false;
	}
	memcpy(to, ram + (phys - RAM), len);
	return true;
}

static bool arm64_sees_tables(void)
{
	return true;
}

static uint64_t arm64_space(void)
{
	return reg(registers[TTBR0]) & TABLE;
}

static void arm64_forget(void)
{
}

/* Also what has it there, @e. */
static bool find_entry(uint64_t from, uint64_t *to, unsigned int *piece, uint64_t *e)
{
	bool upper = from & UPPER;
	uint64_t tcr = reg(registers[TCR]), ttbr = reg(registers[upper ? TTBR1 : TTBR0]);
	unsigned int bits = 64 - (tcr >> (upper ? 16 : 0) & 63);
	unsigned int shift = PAGE + (bits - PAGE - 1) / 9 * 9;
	/* Physical addresses of 52 bits, the upper ones of which are where there was room. */
	bool wide = tcr & 1ull << 59;
	uint64_t mask;

	*piece = PAGE;
	/* Of 4 KiB: each half has a code of its own for that. */
	if ((upper ? tcr >> 30 & 3 : (tcr >> 14 & 3) + 2) != 2) {
		lost("page tables of other pages, by", tcr);
		return false;
	}
	/* Above it may be a tag, and nothing else; tables can be turned off. */
	if ((int64_t)(from << 8) >> (8 + bits) != (upper ? -1 : 0) ||
	    tcr & (upper ? 1 << 23 : 1 << 7))
		return false;
	*to = ttbr & TABLE;
	if (wide)
		*to = (*to & ~0x3full) | (ttbr & 0x3c) << 46;
	from &= (1ull << bits) - 1;
	do {
		*piece = shift;
		if (!look(*to + 8 * (from >> shift & 511), e, sizeof(*e)) || !(*e & 1))
			return false;
		*to = *e & OUTPUT;
		if (wide)
			*to |= (*e & 3ull << 48) | (*e & 3 << 8) << 42;
		shift -= 9;
	} while (*piece > PAGE && *e & 2);
	mask = (1ull << *piece) - 1;
	*to = (*to & ~mask) | (from & mask);
	return *piece > PAGE || *e & 2;
}

static bool arm64_walk(uint64_t from, uint64_t *to, unsigned int *piece)
{
	uint64_t e;

	return find_entry(from, to, piece, &e);
}

static uint64_t arm64_operand(const struct operation *op)
{
	return op->base == NONE ? 0 : reg(registers[op->base]);
}

/* As "dc zva" has it on the CPU that arch.rs names, and a test confirms. */
#define BLOCK 64

/* "dc zva" is no access to memory that QEMU tells of. */
static void run_zero(unsigned int n, void *data)
{
	/* As much as is whole, see crash.rs. */
	static const unsigned char zeroes[8];
	const struct operation *op = data;
	uint64_t at, phys, e;
	unsigned int piece;

	if (!__atomic_load_n(&n_ranges, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&lock);
	at = arm64_operand(op) & ~(BLOCK - 1ull);
	if (!find_entry(at, &phys, &piece, &e)) {
		if (at & UPPER)
			lost("zeroes at", at);
	} else if (!(e & 1 << 7) || e & 1ull << 51) {
		/* It is writable, by now or as soon as it is dirty; otherwise it faults. */
		stored(n % CPUS, phys, op->pc, false);
		for (unsigned int i = 0; recorded.size && i < BLOCK; i += sizeof(zeroes))
			note_store(n % CPUS, phys + i, zeroes, sizeof(zeroes), false);
	}
	pthread_mutex_unlock(&lock);
}

/* Nor are the instructions that copy and set memory, which the kernel is told to hide. */
static void run_unseen(unsigned int n, void *data)
{
	const struct operation *op = data;

	(void)n;
	if (!__atomic_load_n(&n_ranges, __ATOMIC_RELAXED))
		return;
	pthread_mutex_lock(&lock);
	lost("the stores of an instruction at", whole_pc(op->pc));
	pthread_mutex_unlock(&lock);
}

/*
 * QEMU's firmware interface for NVDIMMs: the physical address of a request is stored here, and
 * the answer is in its place then.
 */
#define NVDIMM_DEVICE 0x09090000ull

static void arm64_device_store(unsigned int n, uint64_t to, uint64_t value)
{
	struct {
		uint32_t length, status;
		struct labels labels;
	} answer;
	unsigned char data[LABELS];

	if (to != NVDIMM_DEVICE)
		return;
	pthread_mutex_lock(&lock);
	if (recorded.size && look(value, &answer, sizeof(answer)) && !answer.status &&
	    answer.labels.function == SET_LABELS) {
		if (answer.labels.length > LABELS ||
		    !look(value + sizeof(answer), data, answer.labels.length))
			lost("labels at", value);
		else
			note(E_LABELS, n, answer.labels.offset, data, answer.labels.length);
	}
	pthread_mutex_unlock(&lock);
}

static void arm64_decode(struct operation *op, struct insn *insn)
{
	uint32_t w;

	if (qemu_plugin_insn_data(insn, &w, sizeof(w)) != sizeof(w))
		return;
	op->base = w & 31;
	if (op->base == 31)
		op->base = NONE;
	switch (w & ~31u) {
	case 0xd50b7c20:
	case 0xd50b7d20:
		/* dc cvap, dc cvadp. Others end where CPUs agree, and that may be a cache. */
		op->kind = WRITE_BACK;
		return;
	case 0xd50b7420:
		/* dc zva */
		op->run = run_zero;
		return;
	case 0xd5182000:
	case 0xd5182020:
	case 0xd5182040:
		/* msr ttbr0_el1, ttbr1_el1, tcr_el1 */
		op->kind = NEW_TRANSLATIONS;
		return;
	}
	/* dsb sy: for loads and stores, as cache maintenance is both, and behind all caches. */
	if (w == 0xd5033f9f)
		op->kind = FENCE;
	/* tlbi, also without waiting for all accesses */
	else if ((w & 0xfff8e000) == 0xd5088000)
		op->kind = NEW_EVERYWHERE;
	/* setp, cpyp and their kind */
	else if ((w & 0xfb200c00) == 0x19000400)
		op->run = run_unseen;
}

static const struct arch arm64 = {
	.name = "aarch64",
	.kernel = UPPER,
	/* Nothing sleeps there. */
	.reset = UINT64_MAX,
	.registers = arm64_registers,
	.decode = arm64_decode,
	.operand = arm64_operand,
	.sees_tables = arm64_sees_tables,
	.walk = arm64_walk,
	.space = arm64_space,
	.forget = arm64_forget,
	.device_store = arm64_device_store,
};
