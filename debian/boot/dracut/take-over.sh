#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Before / is mounted: rpmem takes over what drivers got that were there before udev could load it.
if [ -e /sys/bus/nd/drivers/rpmem ] && [ -x /usr/sbin/rpmem-bind ]; then
	if [ -e /sys/bus/nd/drivers/nd_pmem ] || [ -e /sys/bus/nd/drivers/dax_pmem ]; then
		rpmem-bind --all rpmem >/dev/null || :
		udevadm settle
	fi
fi
