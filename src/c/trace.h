/* SPDX-License-Identifier: GPL-2.0 */
/* The events of tracefs below events/rpmem: Documentation/tracing.md. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rpmem
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

#if !defined(RPMEM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define RPMEM_TRACE_H

#include <linux/mm.h>
#include <linux/tracepoint.h>

/* What a fault can be answered with; VM_FAULT_RESULT_TRACE has it without casts. */
#define RPMEM_FAULT_RESULT(name)	{ (__force unsigned long)VM_FAULT_##name, #name }
#define RPMEM_FAULT_RESULTS							\
	RPMEM_FAULT_RESULT(OOM), RPMEM_FAULT_RESULT(SIGBUS),			\
	RPMEM_FAULT_RESULT(HWPOISON), RPMEM_FAULT_RESULT(NOPAGE),		\
	RPMEM_FAULT_RESULT(FALLBACK)

/* A fault has been answered; the lock of its VMA is still held. */
TRACE_EVENT(rpmem_fault,
	TP_PROTO(const char *name, const struct vm_fault *vmf, unsigned int order,
		 vm_fault_t result),
	TP_ARGS(name, vmf, order, result),
	TP_STRUCT__entry(
		__string(name, name)
		__field(unsigned long, address)
		__field(unsigned long, pgoff)
		__field(unsigned int, order)
		__field(bool, write)
		__field(unsigned int, result)
	),
	TP_fast_assign(
		__assign_str(name);
		__entry->address = vmf->address;
		__entry->pgoff = vmf->pgoff;
		__entry->order = order;
		__entry->write = vmf->flags & FAULT_FLAG_WRITE;
		__entry->result = (__force unsigned int)result;
	),
	TP_printk("%s %s address %#lx pgoff %#lx order %u %s",
		  __get_str(name), __entry->write ? "write" : "read", __entry->address,
		  __entry->pgoff, __entry->order,
		  __print_flags(__entry->result, "|", RPMEM_FAULT_RESULTS))
);

/* Something was done with @len bytes from @start on. */
DECLARE_EVENT_CLASS(rpmem_range,
	TP_PROTO(const char *name, u64 start, u64 len),
	TP_ARGS(name, start, len),
	TP_STRUCT__entry(
		__string(name, name)
		__field(u64, start)
		__field(u64, len)
	),
	TP_fast_assign(
		__assign_str(name);
		__entry->start = start;
		__entry->len = len;
	),
	TP_printk("%s start %#llx len %#llx", __get_str(name), __entry->start, __entry->len)
);

#define DEFINE_RPMEM_RANGE(event)				\
DEFINE_EVENT(rpmem_range, event,				\
	TP_PROTO(const char *name, u64 start, u64 len),	\
	TP_ARGS(name, start, len))

DEFINE_RPMEM_RANGE(rpmem_prefault);
DEFINE_RPMEM_RANGE(rpmem_write_back);
DEFINE_RPMEM_RANGE(rpmem_poison_notify);
DEFINE_RPMEM_RANGE(rpmem_poison_found);
DEFINE_RPMEM_RANGE(rpmem_poison_clear);

/* The lease on all of the device; @left is in milliseconds, -1 for ever. */
DECLARE_EVENT_CLASS(rpmem_lease,
	TP_PROTO(const char *name, const char *reason, u64 holders, s64 left),
	TP_ARGS(name, reason, holders, left),
	TP_STRUCT__entry(
		__string(name, name)
		__string(reason, reason)
		__field(u64, holders)
		__field(s64, left)
	),
	TP_fast_assign(
		__assign_str(name);
		__assign_str(reason);
		__entry->holders = holders;
		__entry->left = left;
	),
	TP_printk("%s %s holders %llu left %lld", __get_str(name), __get_str(reason),
		  __entry->holders, __entry->left)
);

#define DEFINE_RPMEM_LEASE(event)							\
DEFINE_EVENT(rpmem_lease, event,							\
	TP_PROTO(const char *name, const char *reason, u64 holders, s64 left),		\
	TP_ARGS(name, reason, holders, left))

DEFINE_RPMEM_LEASE(rpmem_lease_break);
DEFINE_RPMEM_LEASE(rpmem_lease_end);

#endif /* RPMEM_TRACE_H */

#include <trace/define_trace.h>
