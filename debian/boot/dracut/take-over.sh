#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Before udev looks for devices: rpmem comes before drivers that were loaded earlier still. systemd mounts /
# when its device is there, and later would be too late.
if [ -e /sys/bus/nd/drivers/nd_pmem ] || [ -e /sys/bus/nd/drivers/dax_pmem ]; then
	modprobe -bq rpmem
	if ! ls /sys/bus/nd/devices/namespace* >/dev/null 2>&1; then
		# Nobody has anything yet. udev loads what rpmem leaves something to, or all if there is no rpmem.
		modprobe -rq nd_pmem
		modprobe -rq dax_pmem
	elif [ -e /sys/bus/nd/drivers/rpmem ] && [ -x /usr/sbin/rpmem-bind ]; then
		rpmem-bind --all rpmem >/dev/null
	fi
fi
:
