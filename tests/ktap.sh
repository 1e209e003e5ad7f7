# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Sourced by tests that run commands and look at what they say. They have $tmp, a directory that goes
# when they end, and $out, the output of the last command.
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 143' INT TERM HUP
chmod 755 "$tmp"
out=$tmp/out
n=0
passed=0
failed=0

# ktap_begin PLAN: that many tests follow.
ktap_begin() {
	ktap_plan=$1
	echo "KTAP version 1"
	echo "1..$ktap_plan"
}

# ktap_end TIER: write the counts of the tier; false if a test failed or is missing.
ktap_end() {
	[ "$n" -eq "$ktap_plan" ] || {
		echo "# $n tests ran, $ktap_plan are planned"
		failed=$((failed + 1))
	}
	mkdir -p "$RPMEM_OUT/results"
	echo "$passed $failed" >"$RPMEM_OUT/results/$1.counts"
	[ "$failed" -eq 0 ]
}

# expect NAME STATUS PATTERN... -- CMD...: CMD ends with STATUS and its output
# has a match of every PATTERN.
expect() {
	name=$1
	want=$2
	shift 2
	: >"$tmp/patterns"
	while [ "$1" != -- ]; do
		printf '%s\n' "$1" >>"$tmp/patterns"
		shift
	done
	shift
	n=$((n + 1))
	rc=0
	"$@" >"$out" 2>&1 </dev/null || rc=$?
	why=
	[ "$rc" -eq "$want" ] || why="status $rc, not $want"
	while read -r p; do
		grep -Eq -e "$p" "$out" || why="$why; no line matches: $p"
	done <"$tmp/patterns"
	if [ -z "$why" ]; then
		passed=$((passed + 1))
		echo "ok $n $name"
	else
		failed=$((failed + 1))
		sed 's/^/# /' "$out"
		echo "# $why"
		echo "not ok $n $name"
	fi
}
