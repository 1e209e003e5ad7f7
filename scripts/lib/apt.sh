# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
# Sourced by stages: a state of apt's own, which leaves the host's package lists alone and keeps its
# proxy and other settings.

# shellcheck disable=SC2034 # for those who source this
apt_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# apt_state DIR ARCHITECTURE: DIR/apt.conf for it, whose sources are to be in DIR/sources.list.
apt_state() {
	mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
	cat >"$1/apt.conf" <<-END
		Dir::State::lists "$1/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$1/cache";
		Dir::Etc::sourcelist "$1/sources.list";
		Dir::Etc::sourceparts "-";
		APT::Architecture "$2";
		APT::Architectures { "$2"; };
		APT::Sandbox::User "root";
		APT::Update::Error-Mode "any";
		Acquire::Languages "none";
		Acquire::Retries "2";
		Acquire::http::Timeout "20";
		Acquire::https::Timeout "20";
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
	END
}
