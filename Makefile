# Each target makes .venv first where it is missing or older than the lock, so that any of them is one command on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

TESTS := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 10
SEED := $(shell date +%s)

.PHONY: setup demo test test-slow test-shuffled check bench docs lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, found ' + sys.version.split()[0] + ': make setup PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.lock -e '.[dev,docs,train]'
	touch $(STAMP)

demo: setup
	PREFECT_SERVER_ANALYTICS_ENABLED=false PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS=180 $(BIN)/python -m flows.demo --out demo

# Those marked slow or gpu are left out: see the markers in pyproject.toml.
test: setup
	$(TESTS) -m 'not slow and not gpu'

test-slow: setup
	$(TESTS) -m 'slow and not gpu'

# As test, files and the tests in them in an order that the seed makes: make test-shuffled SEED=7 repeats one.
test-shuffled: setup
	@echo "seed $(SEED): make test-shuffled SEED=$(SEED)"
	$(TESTS) -m 'not slow and not gpu' --random-order-bucket=module --random-order-seed=$(SEED)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

bench: setup
	$(BIN)/python -m benchmarks

# The documentation as a site: docs/_build/index.html. A warning, such as a dead link, is an error.
docs: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build

# The tested set of versions: installed fresh, tested, then frozen.
lock: setup
	$(BIN)/python -m pip freeze --exclude-editable | grep -v '^muse-nuclei' > requirements.lock

clean:
	rm -rf .venv build demo docs/_build *.egg-info
