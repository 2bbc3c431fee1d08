# The commands of fmhub. Each sets up a virtual environment in .venv first, if there is none.

PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 8000
SEEDS ?= 5
BACKEND ?= ray
# Two workers halve the time on two cores; PYTEST='-k NAME' and the like replace this.
PYTEST ?= -n 2
# Torch and Ray would each start a thread a core in every process; one apiece is faster on a small machine.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: serve demo test test-slow lint audit fuzz bench reproduce-graphmae constraints clean

## serve: start the embedding server with the built-in models and print a curl line that works
serve: $(VENV)/.ready
	$(BIN)/fmhub serve --host $(HOST) --port $(PORT) --backend $(BACKEND)

## demo: start the server, send it one native file of each domain, print what came back, stop
demo: $(VENV)/.ready
	$(BIN)/fmhub demo --backend $(BACKEND)

## test: every test but the slow ones
test: $(VENV)/.ready
	$(BIN)/pytest $(PYTEST)

## test-slow: the tests that take minutes each
test-slow: $(VENV)/.ready
	$(BIN)/pytest -m slow $(PYTEST)

## lint: style, types, and the arrows between packages
lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## audit: known holes in the pinned packages, and patterns in the code that make some
audit: $(VENV)/.ready
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml hub domains serving \
		|| { echo 'audit: failed at bandit, which read our own code: see above' >&2; exit 1; }
	@echo 'audit: bandit found nothing in hub, domains and serving'
	# --strict: a package that could not be looked up is a failure, not a pass.
	@$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off \
		|| { echo 'audit: failed at pip-audit: a pinned package has a known hole, or its service was out of reach' >&2; \
		exit 1; }

## fuzz: FILES=50000 mutated files through all readers (DATA=FOLDER adds real ones, JOBS=1)
fuzz: $(VENV)/.ready
	$(BIN)/python -m tests.fuzz --files $(or $(FILES),50000) --jobs $(or $(JOBS),1) $(if $(DATA),--data $(DATA))

## bench: loop overhead, batching and serving beside their peers
bench: $(VENV)/.ready
	$(BIN)/python benchmarks/run.py $(ONLY)

## reproduce-graphmae: GraphMAE's tables from the raw sets in DATA=FOLDER (SETS='mutag cora', SEEDS=5)
reproduce-graphmae: $(VENV)/.ready
	$(BIN)/python benchmarks/reproduce/graphmae.py $(SETS) $(if $(DATA),--data $(DATA)) --seeds $(SEEDS)

## constraints: pin what is installed now
constraints: $(VENV)/.ready
	$(BIN)/pip freeze --exclude-editable | grep -v '^fmhub' > constraints.txt

clean:
	rm -rf $(VENV) build dist

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[all,dev]'
	touch $@
