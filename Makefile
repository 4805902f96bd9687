# make demo: a tuned model in minutes.  make test: everything that must hold.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH := .venv-bench
BENCH_STAMP := $(BENCH)/.installed
SOURCES := pyproject.toml constraints.txt hatch_build.py $(wildcard proto/ftd/v1/*.proto)

.PHONY: install demo test lint format bench-install bench bench-upload bench-slow chaos advisories clean

install: $(STAMP)

$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ftd needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "$(PYTHON) has no venv module. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/ftd demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two processes of one thread each: threads of several processes that spin for each other stand still.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# What the benches compare with has an environment of its own: about 2 GB.
bench-install: install $(BENCH_STAMP)

$(BENCH_STAMP): bench/requirements.txt constraints.txt
	test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r bench/requirements.txt
	@touch $@

# All of them, one after the other, whatever one finds: hours. bench/README.md says what each measures.
bench: bench-install
	-$(BIN)/python -m bench.train_speed --against-reference
	-$(BIN)/python -m bench.train_speed
	-$(BIN)/python -m bench.submit_to_first_step
	-$(BIN)/python -m bench.daemon
	-$(BIN)/python -m bench.serve

# 25 GB through the REST face; it wants 27 GB of disk, and asks first.
bench-upload: install
	$(BIN)/python -m bench.upload

# 2 GB through the REST face beside 200 slow clients; it wants 4 GB of disk, and asks first.
bench-slow: install
	$(BIN)/python -m bench.slow_clients

# What must not be lost, whatever is killed: a thousand cycles, every durability call, real training.
chaos: install
	$(BIN)/python -m bench.chaos --cycles 1000
	$(BIN)/python -m bench.chaos --sweep
	$(BIN)/python -m bench.chaos --real 5

# What is installed against what is published: FILE is OSV's export, a folder or a file of advisories.
advisories: install
	$(BIN)/python -m bench.advisories $(FILE)

clean:
	rm -rf $(VENV) $(BENCH) ftd/v1 .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
