# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Sourced by env.sh, and by the scripts that are all that a host has of the clone when DKMS builds
# the module: where that is, and what those lists hold. Changes nothing on disk.

for rpmem_up in "${0%/*}/.." "${0%/*}/../.." "${RPMEM_TOP:-.}"; do
	[ ! -f "$rpmem_up/scripts/lib/top.sh" ] || break
done
RPMEM_TOP=$(cd -P "$rpmem_up" && pwd -P)
[ -f "$RPMEM_TOP/scripts/lib/top.sh" ] || {
	echo "error: $RPMEM_TOP is not a clone of rpmem; set RPMEM_TOP or run the scripts by path" >&2
	exit 1
}
export RPMEM_TOP

# rpmem_list FILE...: lists without their comments.
rpmem_list() {
	sed 's/#.*//' "$@" | grep .
}

# rpmem_is_later SERIES OTHER: of two like 7.2.
rpmem_is_later() {
	[ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | tail -n 1)" = "$1" ]
}
