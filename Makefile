# make demo            a brain through an embedded S3, and a picture of it
# make demo URL=...    the picture of any pyramid
# make test            every test
# make check           what CI runs: lint, types, test
# make docs            a site of the guide and the reference, in build/docs
# make bench           speed beside other tools: a table, and bench.json
# make bench ARGS=...  what `python -m benchmarks --help` says, such as --quick or ARGS="--only 'https 0, raw'"
# make bench PROFILE=1 with a profile of each workload that runs
#
# Each target works alone on a machine that has make and Python >= 3.11 with venv
# and pip: it installs what it needs into .venv the first time, and when
# pyproject.toml changes.

PYTHON ?= python3
PYTEST_ARGS ?= -n auto --dist worksteal

VENV := .venv
BIN := $(VENV)/bin

# Empty files; each says that the extra of its name is installed.
FOR_DEMO := $(VENV)/.demo
FOR_DOCS := $(VENV)/.docs
FOR_TEST := $(VENV)/.test

# The raw text of URL: a `$` in it is the URL's own, and the shell sees it only quoted.
export DEMO_URL := $(value URL)

# Tests and benchmarks start hundreds of interpreters, which without it compile each time what they import.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: demo test lint types check docs bench clean

demo: $(FOR_DEMO)
	@$(BIN)/python -m tests.demo $${DEMO_URL:+"$$DEMO_URL"}

# In two runs, as coverage doubles the time of what it measures; the second is made even if the first fails.
test: $(FOR_TEST)
	$(BIN)/python -m pytest -m "not unmeasured" --cov --cov-report=term $(PYTEST_ARGS); measured=$$?; \
	$(BIN)/python -m pytest -m unmeasured $(PYTEST_ARGS) && exit $$measured

lint: $(FOR_TEST)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(FOR_TEST)
	$(BIN)/mypy

check: lint types test

docs: $(FOR_DOCS)
	@$(BIN)/python -m tests.docs build/docs && echo "open build/docs/index.html"

bench: $(FOR_TEST)
	@$(BIN)/python -m benchmarks $(if $(PROFILE),--profile) $(ARGS)

$(FOR_DEMO) $(FOR_DOCS) $(FOR_TEST): $(VENV)/.%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "precomputed_fs needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing what 'make $*' needs into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m tests.install $*
	@touch $@

clean:
	rm -rf $(VENV) .azurite .neuroglancer-scripts .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* build dist demo.png bench.json bench-profiles
