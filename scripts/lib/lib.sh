# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Sourced after env.sh: errors, stages with a display, locks.

# die MESSAGE...: each argument is one line; the first says what is wrong, the
# others what to do about it.
die() {
	printf 'error: %s\n' "$1" >&2
	shift
	for die_line; do
		printf '       %s\n' "$die_line" >&2
	done
	exit 1
}

# All stages of one command share one clock.
RPMEM_T0=${RPMEM_T0:-$(date +%s)}
export RPMEM_T0

elapsed() {
	elapsed_s=$(($(date +%s) - ${1:-$RPMEM_T0}))
	printf '%d:%02d' $((elapsed_s / 60)) $((elapsed_s % 60))
}

# One line, rewritten: stage, its time and the whole time, last line of output.
stage_ticker() {
	exec 3<&1
	ticker_width=$(stty size <&3 2>/dev/null | cut -d' ' -f2)
	[ "${ticker_width:-0}" -gt 20 ] || ticker_width=80
	while :; do
		ticker_last=$(tail -c 600 "$stage_log" 2>/dev/null | tr '\r\t' '\n ' |
			grep -v '^ *$' | tail -n 1 | tr -cd '[:print:]') || :
		ticker_line=$(printf '[%s] %s %s  %s' "$(elapsed)" "$stage_name" \
			"$(elapsed "$stage_t0")" "$ticker_last" | cut -c1-$((ticker_width - 1)))
		printf '\r\033[K%s' "$ticker_line"
		sleep 0.5
	done
}

stage_end() {
	if [ -n "$stage_tick" ]; then
		kill "$stage_tick" 2>/dev/null || :
		wait "$stage_tick" 2>/dev/null || :
		stage_tick=
		printf '\r\033[K'
	fi
}

# What is started runs as a process group of its own, so that an interruption
# ends all of it, compilers and package managers included. A shell that waits
# for a command in the foreground would die alone.
group_abort() {
	trap '' INT TERM HUP
	kill -TERM -"$group_pid" 2>/dev/null || :
	group_n=0
	while kill -0 -"$group_pid" 2>/dev/null && [ $group_n -lt 100 ]; do
		sleep 0.1
		group_n=$((group_n + 1))
	done
	kill -KILL -"$group_pid" 2>/dev/null || :
	if [ -n "${stage_running:-}" ]; then
		stage_end
		printf '[%s] %s: interrupted; run again to go on from here\n' "$(elapsed)" "$stage_name"
	fi
	exit "$1"
}

# group_wait PID: wait for what was started with setsid; returns its status.
group_wait() {
	group_pid=$1
	trap 'group_abort 130' INT
	trap 'group_abort 143' TERM
	trap 'group_abort 129' HUP
	group_rc=0
	wait "$group_pid" || group_rc=$?
	trap - INT TERM HUP
	return $group_rc
}

# group CMD...: run CMD, and end all of it when this process is told to end.
group() {
	setsid "$@" &
	group_wait $!
}

# stage NAME CMD...: run CMD with its output in a log, show progress, and the
# end of the log if it fails. Returns the status of CMD.
stage() {
	stage_name=$1
	shift
	mkdir -p "$RPMEM_OUT/log" 2>/dev/null ||
		die "cannot write to $RPMEM_OUT" \
			"Free some space there, or set RPMEM_CACHE to a directory on another disk."
	stage_log=$RPMEM_OUT/log/$stage_name.log
	stage_t0=$(date +%s)
	stage_tick=
	stage_rc=0
	if [ -t 1 ]; then
		stage_ticker &
		stage_tick=$!
	else
		printf '[%s] %s: started\n' "$(elapsed)" "$stage_name"
	fi
	stage_running=1
	setsid "$@" >"$stage_log" 2>&1 </dev/null &
	group_wait $! || stage_rc=$?
	stage_end
	stage_running=
	if [ $stage_rc -eq 0 ]; then
		printf '[%s] %s: done in %s\n' "$(elapsed)" "$stage_name" "$(elapsed "$stage_t0")"
		return 0
	fi
	[ -n "${stage_quiet:-}" ] || stage_failed
	return $stage_rc
}

# The report of the stage that failed last. With stage_quiet set, the caller
# of stage decides whether there is one.
stage_failed() {
	printf '[%s] %s: FAILED (status %d) after %s; end of %s:\n' "$(elapsed)" "$stage_name" \
		"$stage_rc" "$(elapsed "$stage_t0")" "$stage_log"
	tail -n 30 "$stage_log" | sed 's/^/    /'
	# The log is on that disk, too, and may lack the message.
	if grep -qi 'no space left on device' "$stage_log" ||
		[ "$(df -Pm "$RPMEM_CACHE" | awk 'NR == 2 { print $4 }')" -lt 2 ]; then
		printf 'error: the disk is full: %s\n' "$(df -h "$RPMEM_CACHE" | tail -n 1)" >&2
		printf '       Free some space, or set RPMEM_CACHE to a directory on another disk, and run again.\n' >&2
	fi
}

# lock NAME: one builder at a time; held until this process and all that it
# started have ended.
lock() {
	mkdir -p "$RPMEM_CACHE/lock" || die "cannot write to $RPMEM_CACHE" \
		"Set RPMEM_CACHE to a directory that can be written."
	exec 9>"$RPMEM_CACHE/lock/$1"
	flock -n 9 || {
		printf '[%s] %s: waiting for another run that is making it\n' "$(elapsed)" "$1"
		flock 9
	}
}

unlock() {
	exec 9>&-
}

# cargo_counts LOG STATUS: "passed failed" of what "cargo test" has said in LOG. One that ends badly without
# a test that failed is a failure; one that ran no tests, as it was not built, has no counts.
cargo_counts() {
	sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed;.*/\1 \2/p' "$1" |
		awk -v rc="$2" '{ p += $1; f += $2 } END { if (NR) print p, rc && !f ? 1 : f }'
}

# enter_crate DIR USER: go to where the crate in DIR is built; $locked is the
# option for its lock file. A library has none, and must not get that of
# Debian's crates, which no other cargo takes: it is built in a copy.
enter_crate() {
	cd "$1" || return
	# shellcheck disable=SC2034 # for the caller
	locked=--locked
	grep -qsx /Cargo.lock .gitignore || return 0
	# shellcheck disable=SC2034
	locked=
	crate_copy=$RPMEM_OUT/crate/$2
	rm -rf "$crate_copy"
	mkdir -p "$crate_copy"
	tar -c --exclude=./Cargo.lock --exclude=./target . | tar -x -C "$crate_copy"
	cd "$crate_copy" || return
}
