# glmbox: `make demo` shows it, `make test` proves it. `make help` lists the rest.
SHELL := /bin/bash
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/collections:$(CURDIR)/local_box
export PYTHONDONTWRITEBYTECODE := 1
INVENTORY ?= inventory/local_box
CACHE := ansible_collections.glmbox.box.plugins.module_utils.packs_cache
CACHE_DIR ?= ~/.cache/glmbox/builds
MIB ?= 10240
# In this order: the last two find in the cache what autodl has built.
SCENARIOS ?= debian-11 autodl vast runpod

.PHONY: help demo demo-clean check test molecule test-box test-long test-pythons bench-fetch bench-prepare bench-reprovision bench-serve bench-finetune bench-toolchain cache-list cache-prune verify lock miniature-table clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

.venv/.ready: requirements.txt
	@if ! python3 -c 'import ensurepip' 2>/dev/null; then \
		echo "Installing with apt on this machine: python3-venv"; \
		$(SUDO) apt-get -qq update && $(SUDO) apt-get -qq install --yes --no-install-recommends python3-venv >/dev/null; fi
	@echo "Making .venv from requirements.txt"
	@rm -rf .venv && python3 -m venv .venv
	@$(BIN)/python -m pip install --quiet --require-hashes --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv/.ready ## a bare box on this machine, deployed by site.yml and asked
	@$(BIN)/python local_box/demo.py

demo-clean: .venv/.ready ## remove the demo's box, image, key, token and bundle
	@$(BIN)/python local_box/box.py clean
	@rm -rf local_box/.bundle

check: .venv/.ready ## the gates and the unit tests: two minutes
	ansible-config validate -t all
	ansible-galaxy collection install -r requirements.yml
	yamllint .
	ruff check .
	ruff format --check .
	mypy collections/ansible_collections/glmbox/box/plugins local_box/*.py benches/*.py
	mypy roles/demos/files/demo_host roles/finetune/files/training_job roles/lease/files/glmbox_lease
	mypy roles/service/files/glmbox_ctl
	ansible-playbook site.yml -i inventory/local_box --syntax-check
	ansible-lint
	pytest tests/unit tests/contract --numprocesses 2

test: check molecule test-box ## everything: gates, units, a real deployment, accidents

molecule: .venv/.ready ## fresh boxes with systemd and as three providers rent them, from first to last: testinfra
	$(BIN)/python local_box/fill_bundle.py
	@mkdir -p .boxes && rm -rf .cache/builds
	@echo "Two scenarios run at a time; what one prints comes when it ends."
	@printf '%s\n' $(SCENARIOS) | xargs --max-procs 2 --replace sh -c \
		'echo "{} begins" && molecule test --scenario-name {} >.boxes/{}.log 2>&1 || bad=1; \
		cat .boxes/{}.log; echo "{} $${bad:+FAILED}"; exit $${bad:-0}'

test-box: .venv/.ready ## accidents on boxes: bad input, damaged files, killed runs
	$(BIN)/python local_box/fill_bundle.py
	pytest tests/box -m "not long" --numprocesses 2 --dist loadscope --no-loadscope-reorder

test-long: .venv/.ready ## AdvertiseGen; a lease, a training and a restart in mid-run without systemd: eight minutes
	$(BIN)/python local_box/fill_bundle.py
	pytest tests/box -m long

test-pythons: .venv/.ready ## CPython 3.9, 3.11 and 3.13 on Debian 11 and 12: twenty minutes
	pytest tests/pythons

bench-fetch: .venv/.ready ## transfers and checks against wget, curl, aria2c, sha256sum: quarter of an hour
	$(BIN)/python benches/fetch.py

bench-prepare: .venv/.ready ## the whole of prepare over its longest branch: seven minutes
	$(BIN)/python local_box/fill_bundle.py
	$(BIN)/python benches/prepare.py

bench-reprovision: .venv/.ready ## a reset system disk, activation, a boot without systemd: quarter of an hour
	$(BIN)/python local_box/fill_bundle.py
	$(BIN)/python benches/reprovision.py

bench-serve: .venv/.ready ## the demos on one model: memory, overhead, health, fifty clients: seven minutes
	$(BIN)/python local_box/fill_bundle.py
	$(BIN)/python benches/serve.py

bench-finetune: .venv/.ready ## a training by the playbook over main.py alone, and who asks meanwhile: quarter of an hour
	$(BIN)/python local_box/fill_bundle.py
	$(BIN)/python benches/finetune.py

bench-toolchain: .venv/.ready ## OpenSSL and Python, built and cached, against the manual way: quarter of an hour
	$(BIN)/python local_box/fill_bundle.py
	$(BIN)/python benches/toolchain.py

cache-list: .venv/.ready ## the finished builds that new boxes of the same kind need not compile
	@$(BIN)/python -m $(CACHE) list $(CACHE_DIR)

cache-prune: .venv/.ready ## remove the longest unused of them: MIB=0 removes all
	@$(BIN)/python -m $(CACHE) prune $(CACHE_DIR) --mib $(MIB)

verify: .venv/.ready ## testinfra against INVENTORY=inventory/...
	pytest tests/verify --inventory $(INVENTORY)

lock: .venv/.ready ## make the lock files anew from their .in files
	local_box/lock.sh

miniature-table: .venv/.ready ## list the miniature's files in artifacts/miniature.yml
	$(BIN)/python local_box/miniature/table.py

clean: ## remove what make made here, the boxes aside
	rm -rf .venv .cache .hypothesis .mypy_cache .ruff_cache .pytest_cache
