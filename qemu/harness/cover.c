// SPDX-License-Identifier: GPL-2.0
/*
 * A TCG plugin that notes which instructions of a module the guest executes, at
 * whatever address each of its loads puts it.
 *
 *	-plugin cover.so,out=FILE,name=NAME,text=SIZE,init=SIZE,FIELD=OFFSET...
 *
 * SIZE is what the sections of the module with code take in the kernel's memory
 * for its text, and in that for the text of its init. FIELDs are those of struct
 * module, see fields[]. FILE gets, as text, at the very moment, so that it is
 * there when QEMU is killed:
 *
 *	load TEXT SIZE INIT_TEXT SIZE INIT EXIT		where the module is loaded
 *	text OFFSET					executed, in the former
 *	init OFFSET					and in the latter
 *	bad WHY
 *
 * all numbers in hex, each place once. The guest says where three functions of
 * its kernel are, before it loads any module: by the nop that plugin.h knows,
 * with the address in rdi (tests/guest/src/init.rs). No kernel calls them but
 * for modules, so none was translated before.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "plugin.h"

enum field { NAME, TEXT, TEXT_SIZE, INIT_TEXT, INIT_TEXT_SIZE, INIT, EXIT, FIELDS };
static const char *const fields[FIELDS] = {
	"at_name", "at_text", "at_text_size", "at_init_text", "at_init_text_size", "at_init", "at_exit",
};
static uint64_t field_at[FIELDS];

/* Requests of the guest. */
enum hook {
	/* do_init_module(): its code begins to run. */
	STARTS = 5,
	/* module_enable_rodata_ro_after_init(): its init has run, and goes. */
	STARTED,
	/* free_module(): all of it goes. */
	GOES,
	HOOKS,
};
static uint64_t hooks[HOOKS];

enum part { IN_TEXT, IN_INIT, PARTS };
static const char *const parts[PARTS] = { "text", "init" };

/* Modules of that name there at a time: one that lives, others that fail to load. */
#define LOADS 8
#define MODULE_NAME_LEN 56

static struct load {
	uint64_t module;
	/* 0: not there. */
	uint64_t base[PARTS];
} loads[LOADS];
static size_t size[PARTS];
static unsigned char *seen[PARTS];
static const char *name;
static FILE *out;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void bad(const char *why)
{
	fprintf(out, "bad %s\n", why);
}

static bool read_guest(uint64_t at, void *to, size_t len)
{
	g_byte_array_set_size(bytes, 0);
	if (!qemu_plugin_read_memory_vaddr(at, bytes, len) || bytes->len < len)
		return false;
	memcpy(to, bytes->data, len);
	return true;
}

static void starts(uint64_t module)
{
	uint64_t v[FIELDS] = { 0 };
	char its_name[MODULE_NAME_LEN];
	int i;

	if (!read_guest(module + field_at[NAME], its_name, sizeof(its_name)))
		return bad("the name of a module cannot be read");
	if (strncmp(its_name, name, sizeof(its_name)))
		return;
	for (i = TEXT; i < FIELDS; i++)
		if (!read_guest(module + field_at[i], &v[i],
				i == TEXT_SIZE || i == INIT_TEXT_SIZE ? 4 : 8))
			return bad("the module cannot be read");
	for (i = 0; i < LOADS && loads[i].module; i++)
		;
	if (i == LOADS)
		return bad("more loads than there is room for");
	loads[i].module = module;
	loads[i].base[IN_TEXT] = v[TEXT];
	loads[i].base[IN_INIT] = v[INIT_TEXT];
	fprintf(out, "load");
	for (i = TEXT; i < FIELDS; i++)
		fprintf(out, " %" PRIx64, v[i]);
	fprintf(out, "\n");
}

static void hooked(unsigned int cpu, void *data)
{
	uint64_t module;
	int i;

	(void)cpu;
	pthread_mutex_lock(&lock);
	module = reg(arg0);
	if ((uintptr_t)data == STARTS) {
		starts(module);
	} else {
		for (i = 0; i < LOADS; i++) {
			if (loads[i].module != module)
				continue;
			loads[i].base[IN_INIT] = 0;
			if ((uintptr_t)data == GOES)
				loads[i] = (struct load){ 0 };
		}
	}
	pthread_mutex_unlock(&lock);
}

static void request(unsigned int cpu, void *data)
{
	(void)cpu;
	pthread_mutex_lock(&lock);
	hooks[(uintptr_t)data] = reg(arg0);
	pthread_mutex_unlock(&lock);
}

static void executed(unsigned int cpu, void *data)
{
	unsigned char *place = data;
	enum part part = IN_INIT;

	(void)cpu;
	if (place >= seen[IN_TEXT] && place < seen[IN_TEXT] + size[IN_TEXT])
		part = IN_TEXT;
	if (!__atomic_load_n(place, __ATOMIC_RELAXED) && !__atomic_exchange_n(place, 1, __ATOMIC_RELAXED))
		fprintf(out, "%s %zx\n", parts[part], (size_t)(place - seen[part]));
}

/* Where it is noted that the instruction at @pc was executed. */
static unsigned char *place_of(uint64_t pc)
{
	for (int i = 0; i < LOADS; i++)
		for (int part = 0; part < PARTS; part++)
			if (loads[i].base[part] && pc - loads[i].base[part] < size[part])
				return seen[part] + (pc - loads[i].base[part]);
	return NULL;
}

static void translated(uint64_t id, struct tb *tb)
{
	uint64_t pc = qemu_plugin_tb_vaddr(tb);
	size_t n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	pthread_mutex_lock(&lock);
	for (uintptr_t hook = STARTS; hook < HOOKS; hook++)
		if (hooks[hook] == pc)
			qemu_plugin_register_vcpu_tb_exec_cb(tb, hooked, R_REGS, (void *)hook);
	for (size_t i = 0; i < n; i++) {
		struct insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (pc & KERNEL) {
			unsigned char *place = place_of(qemu_plugin_insn_vaddr(insn));

			if (place)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, executed, NO_REGS, place);
		} else if (!hooks[GOES]) {
			uintptr_t what = guest_request(insn);

			if (what >= STARTS && what < HOOKS)
				qemu_plugin_register_vcpu_insn_exec_cb(insn, request, R_REGS,
								       (void *)what);
		}
	}
	pthread_mutex_unlock(&lock);
}

EXPORT int qemu_plugin_install(uint64_t id, const struct info *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			continue;
		*value++ = 0;
		if (!strcmp(argv[i], "out"))
			out = fopen(value, "w");
		else if (!strcmp(argv[i], "name"))
			name = strdup(value);
		for (int part = 0; part < PARTS; part++)
			if (!strcmp(argv[i], parts[part]))
				size[part] = strtoull(value, NULL, 0);
		for (int field = 0; field < FIELDS; field++)
			if (!strcmp(argv[i], fields[field]))
				field_at[field] = strtoull(value, NULL, 0);
	}
	for (int field = 0; field < FIELDS; field++)
		if (!field_at[field])
			out = NULL;
	for (int part = 0; part < PARTS; part++) {
		seen[part] = calloc(1, size[part]);
		if (!size[part] || !seen[part])
			out = NULL;
	}
	if (!out || !name) {
		fprintf(stderr, "cover: an option is missing, or out cannot be written\n");
		return -1;
	}
	setvbuf(out, NULL, _IOLBF, BUFSIZ);
	know_registers(id);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	return 0;
}
