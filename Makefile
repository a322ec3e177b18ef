# Two commands do everything on a fresh machine with Python 3.11 and git:
#   make up      starts the whole system
#   make test    runs every check there is
# Both make their environment in .venv, from the hash-locked files in requirements/, once per change of those files.

SHELL  := /bin/sh
export PYTHON
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The checkout's place is part of the stamp: an environment does not survive being moved.
PLACE  := $(shell printf '%s' '$(CURDIR)' | cksum | cut -d' ' -f1)
BASE   := $(VENV)/base-$(PLACE).stamp
DEV    := $(VENV)/dev-$(PLACE).stamp
PEERS  := .venv-peers
PEERED := $(PEERS)/peers-$(PLACE).stamp
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
           --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.DEFAULT_GOAL := help
.PHONY: help up test proof lint engines bench bench-peers lock proto venv dev clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# `exec`: the shell becomes the server. Ctrl-C reaches it from the terminal. A SIGTERM to make alone is passed on by make,
# which waits until the server has drained and then ends by that signal. A SIGINT to make alone is not: send SIGTERM.
up: $(BASE) ## start the system: make up ARGS="--port 8080 --data var"
	@exec $(BIN)/millstream up $(ARGS)

test: $(DEV) ## run every check and every suite, and print how long each took: make test ARGS="pyright tests"
	@exec $(BIN)/python scripts/check.py $(ARGS)

proof: $(DEV) ## look for rare failures, for hours: make proof ARGS="--minutes 30", goes on where it was
	@exec $(BIN)/python scripts/proof.py $(ARGS)

lint: $(DEV) ## run the static checks alone
	@exec $(BIN)/python scripts/check.py --static

engines: $(DEV) ## start real engines on free ports: make engines ARGS="nats postgresql"; URLs in var/engines.json
	@exec $(BIN)/python scripts/engines.py $(ARGS)

bench: $(DEV) ## run the benchmarks: make bench ARGS="--help"
	@exec $(BIN)/python bench/run.py $(ARGS)

bench-peers: $(DEV) $(PEERED) ## measure Millstream beside its peers: make bench-peers ARGS="millstream pgqueuer"
	@exec $(BIN)/python -m bench.peers $(ARGS)

proto: $(DEV) ## generate the Python code of proto/
	@$(BIN)/python scripts/proto.py

lock: $(DEV) ## compile requirements/*.txt anew: make lock ARGS="--upgrade"
	cd requirements && ../$(COMPILE) $(ARGS) --output-file base.txt base.in
	cd requirements && ../$(COMPILE) $(ARGS) --output-file dev.txt dev.in
	cd requirements && ../$(COMPILE) $(ARGS) --output-file peers.txt peers.in

venv: $(BASE) ## make the environment that `make up` needs
dev: $(DEV) ## make the environment that `make test` needs

clean: ## remove the environment and the caches; data in var/ stays
	rm -rf $(VENV) $(PEERS) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find framework services scripts bench examples tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BASE): requirements/base.txt framework/pyproject.toml services/pyproject.toml scripts/python.sh
	@test -e $@ || { python=$$(sh scripts/python.sh) && echo "making $(VENV) with $$python" && "$$python" -m venv --clear $(VENV); }
	@$(PIP) install --require-hashes --requirement requirements/base.txt
	@$(PIP) install --no-deps --no-build-isolation --editable framework --editable services
	@touch $@

$(DEV): $(BASE) requirements/dev.txt
	@$(PIP) install --require-hashes --requirement requirements/dev.txt
	@touch $@

# The peers' pins shall not decide ours: they live in an environment of their own.
$(PEERED): requirements/peers.txt scripts/python.sh
	@test -e $@ || { python=$$(sh scripts/python.sh) && echo "making $(PEERS) with $$python" && "$$python" -m venv --clear $(PEERS); }
	@$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --requirement requirements/peers.txt
	@touch $@
