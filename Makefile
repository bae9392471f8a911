# Everything runs in .venv, built from requirements.lock. `make demo` and `make test` need nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: venv demo test lint unit docs bench bench-executors bench-bridge bench-parts chaos outages postgres simulate fuzz users matrix lock interrupts

venv: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: venv
	$(BIN)/python -m deploy.quickstart $(if $(ONCE),--once)

UNIT := tests/unit tests/property tests/contract tests/fuzz tests/architecture
# Whole programs wait more than they work: several files at a time.
SPREAD := -n 4

# The parts that only decide (protocol and the cores) must be covered to the last branch.
test: venv
	$(BIN)/coverage run -m pytest $(UNIT)
	$(BIN)/coverage report --fail-under=100 \
		--include='*/broker_bridge/protocol/*,*/broker_bridge/dispatch/core/*,*/worker/core/*'
	$(BIN)/python -m pytest $(SPREAD) tests/integration tests/harness tests/e2e

unit: venv
	$(BIN)/python -m pytest $(UNIT)

BENCH := .venv-bench

# By uv: pip 23 takes no extras of a package that is locked with hashes.
$(BENCH)/.ready: $(VENV)/.ready tests/benchmarks/requirements.lock pyproject.toml
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(BENCH)
	$(BIN)/uv pip install --quiet --python $(BENCH) --require-hashes -r tests/benchmarks/requirements.lock
	$(BIN)/uv pip install --quiet --python $(BENCH) --no-deps --no-build-isolation --editable .
	touch $@

# What docs/benchmarks.md is about: side by side with other executors (Debian: postgresql, redis-server), then the parts.
bench: bench-executors bench-bridge bench-parts

bench-executors: $(BENCH)/.ready
	$(BENCH)/bin/python -m tests.benchmarks.executors $(ARGS)

bench-bridge: $(BENCH)/.ready
	$(BENCH)/bin/python -m tests.benchmarks.bridge $(ARGS)

bench-parts: venv
	$(BIN)/python -m tests.benchmarks.relay
	$(BIN)/python -m tests.benchmarks.logs
	$(BIN)/python -m tests.benchmarks.calls
	$(BIN)/python -m tests.benchmarks.task_cost
	$(BIN)/python -m tests.benchmarks.startup
	$(BIN)/python -m tests.benchmarks.weight
	$(BIN)/python -m tests.benchmarks.websocket

# Ctrl-C at MOMENTS moments of each command, from its first instruction to the end of its interpreter.
interrupts: venv
	$(BIN)/python -m tests.support.interrupt_sweep --moments $(or $(MOMENTS),200)

# Long outages, crashes of workers, cancels and large things on a whole system, with the times scaled down.
outages: venv
	$(BIN)/python -m pytest $(SPREAD) tests/outages

# The real programs over a simulated network, clock and system, for up to 150 seeds or 40 s of CPU, and what the
# simulation catches when they are broken on purpose. As many seeds as you like: make simulate SEEDS=10000
simulate: venv
	$(BIN)/python -m $(if $(SEEDS),tests.simulation.run --seeds $(SEEDS),pytest tests/simulation)

# Odd messages to the bridge's parts as its program wires them, half of them with the ledger in SQLite, half in
# PostgreSQL where that is installed: make fuzz MESSAGES=1000000 SEED=7
fuzz: venv
	$(BIN)/python -m tests.fuzz.run --messages $(or $(MESSAGES),100000) $(if $(SEED),--seed $(SEED))

# The bridge's ledger in a real PostgreSQL (Debian: postgresql).
postgres: venv
	$(BIN)/python -m pytest tests/postgres

# Tasks of other users than the worker's, and control groups: as root, with sudo (Debian: sudo). Nothing of it stays.
users: venv
	$(BIN)/python -m pytest tests/users

# Kills and cuts at random while a real system works, on PostgreSQL (Debian: postgresql): make chaos MINUTES=10 SEED=7
# With an odd seed the bridge's ledger is in PostgreSQL too.
chaos: venv
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

# All of `make test` on the Pythons of other releases of Debian, as root (Debian: debootstrap). The systems are kept in
# MATRIX_DIR, build/matrix when it is not set; packages come from where apt has them, or from MATRIX_MIRROR.
# make matrix SUITES="bookworm trixie sid"
matrix: venv
	$(BIN)/python -m tests.matrix $(SUITES)

# The generated parts of docs/*.md: the settings, from the schema of [edge_mqtt], and the protocol.
docs: venv
	$(BIN)/python -m edge_mqtt.broker_bridge.program.settings docs
	$(BIN)/python -m edge_mqtt.broker_bridge.protocol docs docs

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Writes both lock files anew from pyproject.toml.
COMPILE := $(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links
lock: venv
	$(COMPILE) --group dev --output-file requirements.lock
	$(COMPILE) tests/benchmarks/requirements.in --constraint requirements.lock \
		--output-file tests/benchmarks/requirements.lock
