// SPDX-License-Identifier: GPL-2.0
/*
 * Events, and counters of them in debugfs: those are probes of the tracepoints,
 * so that a place in the code has one static key for both, and nothing is there
 * to be tested while they are off.
 */
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/pgtable.h>
#include <linux/seq_file.h>

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"

#include "counters.h"

enum counter {
	FAULT_PTE,
	FAULT_PMD,
	FAULT_PUD,
	FAULT_FALLBACK,
	FAULT_SIGBUS,
	FAULT_HWPOISON,
	FAULT_OOM,
	PREFAULT_PAGES,
	WRITE_BACK_PAGES,
	NR_COUNTERS,
};

static const char *const names[] = {
	[FAULT_PTE] = "fault_pte",
	[FAULT_PMD] = "fault_pmd",
	[FAULT_PUD] = "fault_pud",
	[FAULT_FALLBACK] = "fault_fallback",
	[FAULT_SIGBUS] = "fault_sigbus",
	[FAULT_HWPOISON] = "fault_hwpoison",
	[FAULT_OOM] = "fault_oom",
	[PREFAULT_PAGES] = "prefault_pages",
	[WRITE_BACK_PAGES] = "write_back_pages",
};

struct counters {
	u64 count[NR_COUNTERS];
};

/* Of all devices: nothing has to live as long as files of one that is unbound. */
static DEFINE_PER_CPU(struct counters, counters);
static struct dentry *dir;
static DEFINE_MUTEX(switching);
static bool on;

static void count_fault(void *data, const char *name, const struct vm_fault *vmf,
			unsigned int order, vm_fault_t result)
{
	enum counter counter;

	if (result & VM_FAULT_HWPOISON)
		counter = FAULT_HWPOISON;
	else if (result & VM_FAULT_SIGBUS)
		counter = FAULT_SIGBUS;
	else if (result & VM_FAULT_OOM)
		counter = FAULT_OOM;
	else if (result & VM_FAULT_FALLBACK)
		counter = FAULT_FALLBACK;
	else if (order == PUD_ORDER)
		counter = FAULT_PUD;
	else if (order == PMD_ORDER)
		counter = FAULT_PMD;
	else
		counter = FAULT_PTE;
	this_cpu_inc(counters.count[counter]);
}

static void count_prefault(void *data, const char *name, u64 start, u64 len)
{
	this_cpu_add(counters.count[PREFAULT_PAGES], len >> PAGE_SHIFT);
}

static void count_write_back(void *data, const char *name, u64 start, u64 len)
{
	this_cpu_add(counters.count[WRITE_BACK_PAGES], len >> PAGE_SHIFT);
}

static void remove_probes(void)
{
	unregister_trace_rpmem_write_back(count_write_back, NULL);
	unregister_trace_rpmem_prefault(count_prefault, NULL);
	unregister_trace_rpmem_fault(count_fault, NULL);
}

static int add_probes(void)
{
	int ret = register_trace_rpmem_fault(count_fault, NULL);

	if (ret)
		return ret;
	ret = register_trace_rpmem_prefault(count_prefault, NULL);
	if (ret)
		goto fault;
	ret = register_trace_rpmem_write_back(count_write_back, NULL);
	if (ret)
		goto prefault;
	return 0;

prefault:
	unregister_trace_rpmem_prefault(count_prefault, NULL);
fault:
	unregister_trace_rpmem_fault(count_fault, NULL);
	return ret;
}

static int enable_get(void *data, u64 *value)
{
	*value = READ_ONCE(on);
	return 0;
}

static int enable_set(void *data, u64 value)
{
	int ret = 0;

	if (value > 1)
		return -EINVAL;
	guard(mutex)(&switching);
	if (value == on)
		return 0;
	if (value)
		ret = add_probes();
	else
		remove_probes();
	if (!ret)
		WRITE_ONCE(on, value);
	return ret;
}
DEFINE_DEBUGFS_ATTRIBUTE(enable_fops, enable_get, enable_set, "%llu\n");

static int counters_show(struct seq_file *seq, void *unused)
{
	for (unsigned int i = 0; i < NR_COUNTERS; i++) {
		u64 sum = 0;
		int cpu;

		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu(counters, cpu).count[i]);
		seq_printf(seq, "%s %llu\n", names[i], sum);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(counters);

/* debugfs may be missing; nobody is told. */
void rpmem_helper_counters_init(void)
{
	dir = debugfs_create_dir("rpmem", NULL);
	debugfs_create_file_unsafe("enable", 0644, dir, NULL, &enable_fops);
	debugfs_create_file("counters", 0444, dir, NULL, &counters_fops);
}

/* Nothing that has a tracepoint runs any more. */
void rpmem_helper_counters_exit(void)
{
	/* Waits for those who switch. */
	debugfs_remove(dir);
	if (on)
		remove_probes();
	/* For those who have seen the probes. */
	tracepoint_synchronize_unregister();
}
