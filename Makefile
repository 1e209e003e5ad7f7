# SPDX-License-Identifier: GPL-2.0
# The human front. The kernel's build reads Kbuild, not this.

KDIR ?= /lib/modules/$(shell uname -r)/build
FIXTURE ?= nfit-raw

all: modules ## (default) build rpmem.ko for the kernel tree KDIR

modules: ## the same
	+@scripts/kbuild/host-make $(KDIR) modules

modules_install: modules ## install it for that kernel
	+@scripts/kbuild/host-make $(KDIR) modules_install

module: ## build rpmem.ko for Debian's newest supported kernel, in the build root; RPMEM_SERIES chooses
	@scripts/build-module
	@. scripts/lib/env.sh && echo $$RPMEM_MODULE/rpmem.ko

tools: ## build rpmem-bind, in the build root
	@scripts/build-tools
	@. scripts/lib/env.sh && echo $$RPMEM_OUT/target/rpmem-bind/release/rpmem-bind

package: ## Debian packages: the driver for DKMS and built for that kernel, tools, headers; KREL= names a release
	@scripts/build-package

demo: ## the main job, shown in virtual machines
	@scripts/run-harness demo

test: ## all tests on Debian's kernel; SCENARIO=name and TEST=name choose
	@exec scripts/test "$(SCENARIO)" "$(TEST)"

test-debug: ## those that need an instrumented kernel, which this builds, or another architecture
	@exec scripts/test --debug "$(SCENARIO)" "$(TEST)"

stress: ## the long form of all tests: hours
	@exec scripts/test --long

test-the-tests: ## plant faults and see that the tests find them; FAULT=name chooses
	@exec scripts/test-the-tests $(FAULT)

bench: ## measure rpmem beside nd_pmem and device-dax, in guest instructions
	@scripts/bench

next-series: ## what a newer kernel changes for rpmem: KDIR=build tree or KSRC=source; TEXT=1: without building
	@scripts/next-series $(if $(KSRC),KSRC=$(KSRC),KDIR=$(KDIR)) $(if $(TEXT),text)

check: ## lint: shell, Rust, C style, unsafe counts
	@scripts/check

doc: ## the documentation of all crates, private items included
	@scripts/build-module
	@. scripts/lib/env.sh && scripts/lib/stage doc scripts/in-root --kernel scripts/checks/doc $$RPMEM_MODULE && \
		echo $$RPMEM_OUT/doc/rpmem_main/index.html

rust-analyzer: ## rust-project.json for editors
	@scripts/build-module
	@. scripts/lib/env.sh && scripts/lib/stage rust-analyzer scripts/in-root --kernel scripts/checks/rust-analyzer \
		$$RPMEM_MODULE $$PWD/rust-project.json

shell: ## a shell in a guest with the machine FIXTURE (nfit-raw), and FILE in /root
	@scripts/run-harness shell --fixture $(FIXTURE) $(foreach file,$(FILE),--file $(abspath $(file)))

prepare: ## make build root, kernel tree and guest image in the cache
	@scripts/prepare

kernel-tree: ## make a kernel tree with Rust metadata; prints it as KDIR
	@scripts/prepare kernel
	@. scripts/lib/env.sh && echo KDIR=$$RPMEM_KDIR

clean: ## remove what builds of this clone made
	@scripts/clean

clean-cache: ## remove the build root, kernels and images, too
	@scripts/clean all

help: ## this list
	@sed -n 's/^\([a-z_-]*\):.* ## /\1\t/p' Makefile | expand -t 20
	@echo 'KDIR=$(KDIR)'

.PHONY: all modules modules_install module tools package demo test test-debug stress test-the-tests bench next-series check doc rust-analyzer shell prepare kernel-tree clean clean-cache help
