# Two commands do all the set-up: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BOX := .venv
TEST := .venv-test
# Wheels are checked against hashes, and nothing is resolved at install time: what the lock says is what is installed.
PIP_FLAGS := --disable-pip-version-check --no-deps --require-hashes

.PHONY: help run demo test unit check format lock clean bench bench-quick bench-peers
help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(BOX)/ready  ## build the starter models once, then serve: a box and a billing node on this machine
	@exec $(BOX)/bin/nukkad up

demo: $(BOX)/ready  ## the same, then real requests in five languages, a sync and the statement in rupees
	@exec $(BOX)/bin/nukkad demo

# The slow tests build models and start machines; the others wait much, so three run side by side on two cores.
SLOW := workbench or models or e2e or browser or system

test: $(TEST)/ready debian  ## lint, types, contracts, then every test
	$(MAKE) check unit
	$(TEST)/bin/python -m pytest -m "$(SLOW)"

unit: $(TEST)/ready  ## the fast tests only (about a minute)
	$(TEST)/bin/python -m pytest -n 3 -m "not ($(SLOW))"

check: $(TEST)/ready  ## ruff, mypy --strict and the import contracts
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports

format: $(TEST)/ready  ## let ruff rewrite what it can
	$(TEST)/bin/ruff check --fix .
	$(TEST)/bin/ruff format .

bench-peers: $(TEST)/ready  ## build what the engine is compared with, once (ten minutes)
	$(TEST)/bin/python -m tests.bench peers

bench: $(TEST)/ready  ## the engine beside its peers, in turns: table and build/bench.json
	$(TEST)/bin/python -m tests.bench

bench-quick: $(TEST)/ready  ## the same, two rounds of prefill and decoding only
	$(TEST)/bin/python -m tests.bench --quick --rounds 2 --no-fail

# A machine whose pip is told of PyTorch's CPU index names it to uv too, by UV_FIND_LINKS or UV_EXTRA_INDEX_URL.
LOCK := $(TEST)/bin/uv pip compile pyproject.toml --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --upgrade
lock: $(TEST)/ready  ## resolve the newest versions into locks/, with hashes and no index addresses
	$(LOCK) --excludes locks/excluded-box.txt -o locks/box.txt
	UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(LOCK) --extra test --extra workbench \
		--excludes locks/excluded-test.txt --constraints locks/box.txt -o locks/test.txt

.PHONY: debian
debian:
	@packaging/debian-packages.sh

# The operators are compiled where they run; without a C compiler the engine does without them.
OPERATORS := $(wildcard kernels/source/*) kernels/compile.py
kernels/compiled/ready: $(OPERATORS)
	-$(PYTHON) -m kernels.compile
	@mkdir -p $(@D) && touch $@

$(BOX)/ready: locks/box.txt pyproject.toml kernels/compiled/ready
	@echo "Making the box's own Python environment in $(BOX) (about 140 MB to download, once)"
	$(PYTHON) -m venv $(BOX)
	$(BOX)/bin/python -m pip install $(PIP_FLAGS) -r locks/box.txt
	$(BOX)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(TEST)/ready: locks/test.txt pyproject.toml kernels/compiled/ready
	$(PYTHON) -m venv $(TEST)
	@$(TEST)/bin/python -m pip install $(PIP_FLAGS) --quiet -r locks/test.txt || { \
		echo "If torch==2.13.0+cpu was not found: tell pip of PyTorch's CPU builds (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL)."; exit 1; }
	$(TEST)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

clean:  ## remove the environments and caches; state in .nukkad stays
	rm -rf $(BOX) $(TEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache kernels/compiled *.egg-info
