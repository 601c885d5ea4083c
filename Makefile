# Each of these installs the Debian packages it lacks, says which, and asks nothing. All but check and docs need root,
# for network namespaces; the machine's own network is not touched.

export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
PREFIX ?= /usr/local
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
LABS := openvz hetzner dedicated-xen

.PHONY: help demo test bench check docs install

help:
	@echo "make demo     three hosts as examples/ describes them, in namespaces: who reaches whom"
	@echo "make test     everything that is tested"
	@echo "make bench    what guests and packets cost, beside the hand-made way"
	@echo "make check    formatting and lints"
	@echo "make docs     docs/configuration.md from the configuration's own descriptions"
	@echo "make install  the program, its man pages and completions into $(PREFIX)"

demo:
	@scripts/prepare.sh demo
	cargo build --release --locked --package viaduct
	@wrong=; for lab in $(LABS); do \
		echo; $(RELEASE)/viaduct lab run examples/$$lab || wrong="$$wrong $$lab"; \
	done; echo; \
	if [ -n "$$wrong" ]; then echo "Not as expected:$$wrong"; exit 1; fi; \
	echo "All as expected. Change examples/*/viaduct.toml, and look again: $(RELEASE)/viaduct lab run examples/openvz"

test:
	@scripts/prepare.sh test
	cargo xtask test

bench:
	@scripts/prepare.sh bench
	cargo xtask bench

check:
	@scripts/prepare.sh check
	cargo xtask check

docs:
	cargo xtask docs

install:
	@scripts/prepare.sh install
	cargo build --release --locked --package viaduct
	install -D $(RELEASE)/viaduct $(DESTDIR)$(PREFIX)/bin/viaduct
	$(RELEASE)/viaduct man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(RELEASE)/viaduct completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/viaduct
