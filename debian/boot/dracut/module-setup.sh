#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Puts into the initramfs what / on persistent memory needs, also where it is made for other hosts: rpmem
# where there is one for that kernel, the buses, the kernel's own drivers, the rules that choose between
# them with what they are told by, and rpmem-bind.

# called by dracut
check() {
	return 0
}

# called by dracut
depends() {
	echo udev-rules
}

# called by dracut
installkernel() {
	# Those that there are.
	hostonly='' instmods rpmem libnvdimm nd_btt nfit nd_e820 nd_virtio virtio_pmem \
		nd_pmem dax_pmem device_dax
}

# called by dracut
# shellcheck disable=SC2154 # its variables
install() {
	inst_rules 59-rpmem.rules
	inst_multiple -o "$udevdir/rpmem-alone" /etc/modprobe.d/rpmem.conf rpmem-bind mkdir
	inst_hook pre-trigger 10 "$moddir/take-over.sh"
}
