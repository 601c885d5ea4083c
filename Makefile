# Each of these installs the Debian packages it lacks, says which, and asks nothing. All but check and docs need root,
# for network namespaces; the machine's own network is not touched.

export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
PREFIX ?= /usr/local
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
LABS := openvz hetzner dedicated-xen xen-vnet

.PHONY: help demo test bench check docs install deb

help:
	@echo "make demo     hosts as examples/ describes them, in namespaces: who reaches whom"
	@echo "make test     everything that is tested"
	@echo "make bench    what guests and packets cost, beside the hand-made way"
	@echo "make check    formatting and lints"
	@echo "make docs     docs/configuration.md from the configuration's own descriptions"
	@echo "make deb      a Debian package"
	@echo "make install  the program, its units, man pages and completions into $(PREFIX)"

demo:
	@scripts/prepare.sh demo
	cargo build --release --locked --package viaduct
	@wrong=; for lab in $(LABS); do \
		echo; $(RELEASE)/viaduct lab run examples/$$lab || wrong="$$wrong $$lab"; \
	done; echo; \
	if [ -n "$$wrong" ]; then echo "Not as expected:$$wrong"; exit 1; fi; \
	echo "All as expected. Change examples/*/*.toml, and look again: $(RELEASE)/viaduct lab run examples/openvz"

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

deb:
	@scripts/prepare.sh deb
	cargo build --release --locked --package viaduct
	scripts/deb.sh release

install:
	@scripts/prepare.sh install
	cargo build --release --locked --package viaduct
	install -D $(RELEASE)/viaduct $(DESTDIR)$(PREFIX)/bin/viaduct
	$(RELEASE)/viaduct man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,share/bash-completion/completions share/zsh/site-functions \
		share/fish/vendor_completions.d lib/systemd/system)
	$(RELEASE)/viaduct completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/viaduct
	$(RELEASE)/viaduct completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_viaduct
	$(RELEASE)/viaduct completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/viaduct.fish
	for unit in viaduct viaduct-boot; do \
		sed 's,/usr/bin/,$(PREFIX)/bin/,' packaging/$$unit.service \
			> $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit.service || exit; \
	done
	install -D --mode 755 integrations/libvirt/viaduct $(DESTDIR)/etc/libvirt/hooks/qemu.d/viaduct
	install -D --mode 755 integrations/xen/vif-viaduct $(DESTDIR)/etc/xen/scripts/vif-viaduct
	install -D --mode 755 integrations/guest $(DESTDIR)$(PREFIX)/lib/viaduct/guest
	install -D --mode 755 integrations/lxc/hook $(DESTDIR)$(PREFIX)/lib/viaduct/lxc-hook
	install -D --mode 755 integrations/systemd-nspawn/nspawn $(DESTDIR)$(PREFIX)/lib/viaduct/nspawn
	install -d $(DESTDIR)$(PREFIX)/lib/viaduct/xen-compat
	for name in xm vn; do \
		ln -sfn ../../../bin/viaduct $(DESTDIR)$(PREFIX)/lib/viaduct/xen-compat/$$name || exit; \
	done
	install -d $(DESTDIR)$(PREFIX)/share/viaduct
	for manager in lxc systemd-nspawn; do \
		sed 's,/usr/,$(PREFIX)/,' integrations/$$manager/viaduct.conf \
			> $(DESTDIR)$(PREFIX)/share/viaduct/$$manager.conf || exit; \
	done
	install -D --mode 644 packaging/sysusers.conf $(DESTDIR)$(PREFIX)/lib/sysusers.d/viaduct.conf
