# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Sourced by every script: where things are. Changes nothing on disk.
#
# Every cached artefact is keyed by a hash of all that it is made from, so a
# changed package list or recipe names a new artefact and a stale one is
# never used.

# A script knows the clone by its own path; a shell that sources this, by RPMEM_TOP or where it is.
for rpmem_up in "${0%/*}/.." "${0%/*}/../.." "${RPMEM_TOP:-.}"; do
	[ ! -f "$rpmem_up/scripts/lib/top.sh" ] || break
done
. "$rpmem_up/scripts/lib/top.sh"
RPMEM_CACHE=${RPMEM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/rpmem}
case $RPMEM_CACHE in
/*) ;;
*) RPMEM_CACHE=$PWD/$RPMEM_CACHE ;;
esac

# rpmem_hash: short hash of stdin.
rpmem_hash() {
	sha256sum | cut -c1-12
}

# The table "artefacts": what is in the cache, and what it is made from.
# rpmem_artefact NAME: its row, as row_dir, row_mb and row_files.
rpmem_artefact() {
	# shellcheck disable=SC2034 # for prepare
	while read -r row_name row_dir row_mb row_files; do
		[ "$row_name" != "$1" ] || return 0
	done <"$RPMEM_TOP/scripts/artefacts"
	echo "error: scripts/artefacts has no $1" >&2
	exit 1
}
# rpmem_dir NAME: the directory that has it.
rpmem_dir() {
	rpmem_artefact "$1" && echo "$RPMEM_CACHE/$row_dir"
}
# rpmem_inputs NAME: what is in the files that it is made from.
rpmem_inputs() (
	cd "$RPMEM_TOP" && rpmem_artefact "$1" || exit
	# shellcheck disable=SC2086 # names without spaces, and patterns
	cat $row_files
)

RPMEM_OUT=$RPMEM_CACHE/out/$(printf '%s' "$RPMEM_TOP" | rpmem_hash)

# For which architecture, by Debian's name: a row of the table "architectures". The first one is that
# of the machines that build, and nothing of it is crossed.
RPMEM_ARCH=${RPMEM_ARCH:-amd64}
RPMEM_KARCH=
rpmem_crossed=
while read -r row_name row_karch row_triple row_cc32; do
	case $row_name in
	"#"* | "") ;;
	"$RPMEM_ARCH")
		RPMEM_KARCH=$row_karch
		RPMEM_TRIPLE=$row_triple
		RPMEM_CC32=$row_cc32
		break
		;;
	*) rpmem_crossed=1 ;;
	esac
done <"$RPMEM_TOP/scripts/architectures"
[ -n "$RPMEM_KARCH" ] || {
	echo "error: RPMEM_ARCH is '$RPMEM_ARCH'; use one of scripts/architectures:" \
		"$(sed -n 's/^\([a-z0-9]*\)[[:blank:]].*/\1/p' "$RPMEM_TOP/scripts/architectures" | xargs)" >&2
	exit 1
}
RPMEM_RUST_TARGET=${RPMEM_TRIPLE%%-*}-unknown-${RPMEM_TRIPLE#*-}

# Which kernel: nothing for the newest supported series of the first suite that
# has one, a series (7.2), one of Debian's variants of it (7.2-rt) or an exact
# release (7.2.11+deb13-amd64); RPMEM_SUITE for a certain suite.
RPMEM_SERIES=${RPMEM_SERIES:-}
RPMEM_SUITE=${RPMEM_SUITE:-}
rpmem_choice=${rpmem_crossed:+$RPMEM_ARCH-}${RPMEM_SUITE:+$RPMEM_SUITE-}${RPMEM_SERIES:-newest}
case $rpmem_choice in
*[!A-Za-z0-9.+~-]*)
	echo "error: RPMEM_SERIES and RPMEM_SUITE are '$RPMEM_SERIES' and '$RPMEM_SUITE';" >&2
	echo "       a series such as 7.2, a release such as 7.2.11+deb13-amd64, and a suite of Debian are meant" >&2
	exit 1
	;;
esac
# What "scripts/prepare" chose last, for those words and lists.
RPMEM_RESOLVED=${RPMEM_INFO:-$RPMEM_CACHE/resolved/$rpmem_choice-$(cd "$RPMEM_TOP" &&
	cat scripts/stages/resolve qemu/kernels/series qemu/kernels/suites | rpmem_hash)}
rpmem_resolved() {
	sed -n "s/^$1=//p" "$RPMEM_RESOLVED" 2>/dev/null
}
RPMEM_KREL=$(rpmem_resolved release) || RPMEM_KREL=
RPMEM_KVERSION=$(rpmem_resolved version) || RPMEM_KVERSION=
rpmem_base=$(rpmem_resolved base) || rpmem_base=
RPMEM_LLVM=$(rpmem_resolved llvm) || RPMEM_LLVM=

# The build root, of Debian 13: package lists and recipe. One that builds for another architecture has
# more, and beside it, in RPMEM_SYSROOT, what programs for that are built with and linked to.
rpmem_root_lists=${rpmem_crossed:+qemu/$RPMEM_ARCH/packages}
# shellcheck disable=SC2086 # a name without spaces, or none
rpmem_root_key=$({ rpmem_inputs root; [ -z "$rpmem_crossed" ] || cat "$RPMEM_TOP/"$rpmem_root_lists; } | rpmem_hash)
RPMEM_ROOT=$(rpmem_dir root)/${rpmem_crossed:+$RPMEM_ARCH-}$rpmem_root_key
RPMEM_SYSROOT=
if [ -n "$rpmem_crossed" ]; then
	rpmem_sysroot_lists="qemu/guest/packages qemu/$RPMEM_ARCH/sysroot.packages"
	# shellcheck disable=SC2086 # names without spaces
	RPMEM_SYSROOT=$(rpmem_dir sysroot)/sysroot-$RPMEM_ARCH-$({ cd "$RPMEM_TOP" &&
		cat $rpmem_sysroot_lists && rpmem_inputs sysroot; } | rpmem_hash)
fi

# The root with the tools of the kernel: the same, or one of the kernel's suite
# and of the compilers that this has now.
RPMEM_KROOT=$RPMEM_ROOT
case $rpmem_base in
trixie | "") ;;
*)
	rpmem_kroot_lists="qemu/kernels/packages qemu/kernels/toolchains/$rpmem_base"
	# shellcheck disable=SC2086 # names without spaces
	RPMEM_KROOT=$(rpmem_dir kernel-root)/$rpmem_base-$({ rpmem_resolved toolchain; cd "$RPMEM_TOP" &&
		cat $rpmem_kroot_lists && rpmem_inputs kernel-root; } | rpmem_hash)
	;;
esac

# rpmem_kernel_dir RELEASE VERSION: the directory of that kernel. The compilers
# of the root are part of the key: metadata made by another rustc is useless.
rpmem_kernel_dir() {
	printf '%s/%s-%s\n' "$(rpmem_dir kernel)" "$1" "$({ echo "$1 $2"; rpmem_inputs kernel
		cat "$RPMEM_KROOT/etc/rpmem-toolchain" 2>/dev/null; } | rpmem_hash)"
}

RPMEM_KERNEL=$(rpmem_kernel_dir "${RPMEM_KREL:-none}" "${RPMEM_KVERSION:-none}")
RPMEM_KDIR=$RPMEM_KERNEL/build
RPMEM_KSRC=$RPMEM_KERNEL/source
RPMEM_KIMAGE=$RPMEM_KERNEL/image

# Which kernel the module is built for and the guests boot: Debian's own
# ("stock"), or one built here from the same source with the patches of
# qemu/kernels/patches: "debug" and "kcsan" from fragments of a configuration
# and by clang, "direct" with Debian's configuration and compiler.
RPMEM_FLAVOUR=${RPMEM_FLAVOUR:-stock}
# Arguments that every make on the kernel tree gets.
RPMEM_KMAKE=
# What configures it (scripts/stages), and the files that does it with.
rpmem_configure=configure-fragments
rpmem_configs=
case $RPMEM_FLAVOUR in
stock) ;;
debug) rpmem_configs="qemu/kernels/debug.config" ;;
kcsan) rpmem_configs="qemu/kernels/debug.config qemu/kernels/kcsan.config" ;;
direct)
	rpmem_configure=configure-debian
	rpmem_configs="qemu/guest/modules"
	;;
*)
	echo "error: RPMEM_FLAVOUR is '$RPMEM_FLAVOUR'; use stock, debug, kcsan or direct" >&2
	exit 1
	;;
esac
# Those of the newest series that is not newer than the kernel's.
RPMEM_PATCHES=$(cd "$RPMEM_TOP/qemu/kernels/patches" && printf '%s\n' * "$(rpmem_resolved series).z" |
	sort -V | sed '/\.z$/q' | tail -n 2 | head -n 1)
RPMEM_PATCHES=$RPMEM_TOP/qemu/kernels/patches/$RPMEM_PATCHES
RPMEM_MODULE=$RPMEM_OUT/module
if [ "$RPMEM_FLAVOUR" != stock ]; then
	# Words about a patch do not count.
	rpmem_source_key=$({ echo "${RPMEM_KERNEL##*/}"; cd "$RPMEM_TOP" && rpmem_inputs source &&
		awk 'FNR == 1 { on = 0 } /^diff / { on = 1 } on' "$RPMEM_PATCHES"/*.patch; } | rpmem_hash)
	# shellcheck disable=SC2086 # a list of names without spaces
	rpmem_flavour_key=$({ echo "$rpmem_source_key"; cd "$RPMEM_TOP" &&
		rpmem_inputs flavour && cat scripts/stages/$rpmem_configure $rpmem_configs; } | rpmem_hash)
	RPMEM_KSRC=$(rpmem_dir source)/patched-$rpmem_source_key
	RPMEM_FLAVOUR_DIR=$(rpmem_dir flavour)/$RPMEM_FLAVOUR-$rpmem_flavour_key
	RPMEM_KDIR=$RPMEM_FLAVOUR_DIR/build
	RPMEM_KIMAGE=$RPMEM_FLAVOUR_DIR/image
	RPMEM_KREL=$(cat "$RPMEM_FLAVOUR_DIR/release" 2>/dev/null || :)
	# With debugging information, which those kernels do without: scripts/guest-coverage.
	RPMEM_MODULE=$RPMEM_OUT/module-$RPMEM_FLAVOUR${RPMEM_COVERAGE:+-lines}
	[ $rpmem_configure = configure-debian ] || RPMEM_KMAKE=LLVM=-$RPMEM_LLVM
fi
[ "$rpmem_choice" = newest ] || RPMEM_MODULE=$RPMEM_MODULE-$rpmem_choice
RPMEM_VMLINUZ=$RPMEM_KIMAGE/boot/vmlinuz-$RPMEM_KREL
RPMEM_KMODULES=$RPMEM_KIMAGE/usr/lib/modules/$RPMEM_KREL

# The kernel's emulation of NVDIMMs with errors, and rpmem.ko for it.
RPMEM_NFIT_TEST=$(rpmem_dir nfit-test)/$({ echo "${RPMEM_KERNEL##*/} ${RPMEM_FLAVOUR_DIR:-}"
	rpmem_inputs nfit-test; } | rpmem_hash)
RPMEM_NFIT_MODULE=$RPMEM_MODULE-nfit

# A Debian host without rpmem, to install the package on.
RPMEM_SYSTEM=$(rpmem_dir system)/$({ echo "${RPMEM_KERNEL##*/}"; rpmem_inputs system; } | rpmem_hash)

# A Debian host without a kernel, and the kernel's packages as a repository for its apt: tests/package.
RPMEM_HOST=$(rpmem_dir host)/$(rpmem_inputs host | rpmem_hash)
RPMEM_UPGRADE=$(rpmem_dir upgrade)/upgrade-$(rpmem_inputs upgrade | rpmem_hash)
RPMEM_KERNEL_DEBS=$(rpmem_dir kernel-debs)/${RPMEM_KREL:-none}-$({ echo "$RPMEM_KVERSION"
	rpmem_inputs kernel-debs; } | rpmem_hash)

# ndctl's own tests, which go on top of the guest image.
RPMEM_NDCTL=$(rpmem_dir ndctl)/$(rpmem_inputs ndctl | rpmem_hash).cpio

# Programs in other languages than C and Rust, and what runs them: a disk of the guest.
# They have a root of their own, in which nothing is configured.
rpmem_languages_key=$(rpmem_inputs languages-root | rpmem_hash)
RPMEM_LANGUAGES_ROOT=$(rpmem_dir languages-root)/languages-$rpmem_languages_key
RPMEM_LANGUAGES=$(rpmem_dir languages)/$({ echo "$rpmem_languages_key"; rpmem_inputs languages; } | rpmem_hash).img

# The guest image: programs of the root, modules of the kernel.
RPMEM_GUEST_BASE=$(rpmem_dir guest)/$({ echo "$rpmem_root_key ${RPMEM_KERNEL##*/} ${RPMEM_FLAVOUR_DIR:-}"
	[ -z "$rpmem_crossed" ] || echo "${RPMEM_SYSROOT##*/}"
	rpmem_inputs guest; } | rpmem_hash).cpio

export RPMEM_TOP RPMEM_CACHE RPMEM_OUT RPMEM_ROOT RPMEM_KROOT RPMEM_LLVM
# What runs its programs on the machine that builds.
RPMEM_RUN=${rpmem_crossed:+qemu-${RPMEM_TRIPLE%%-*} -L $RPMEM_SYSROOT}
export RPMEM_ARCH RPMEM_KARCH RPMEM_TRIPLE RPMEM_RUST_TARGET RPMEM_SYSROOT RPMEM_CC32 RPMEM_RUN
export RPMEM_SERIES RPMEM_SUITE RPMEM_PATCHES RPMEM_RESOLVED RPMEM_KERNEL RPMEM_KREL RPMEM_KVERSION
export RPMEM_KDIR RPMEM_KSRC RPMEM_VMLINUZ RPMEM_KMODULES RPMEM_GUEST_BASE
export RPMEM_FLAVOUR RPMEM_MODULE RPMEM_KMAKE RPMEM_NFIT_TEST RPMEM_NFIT_MODULE RPMEM_SYSTEM RPMEM_NDCTL
export RPMEM_HOST RPMEM_UPGRADE RPMEM_KERNEL_DEBS RPMEM_LANGUAGES RPMEM_LANGUAGES_ROOT
