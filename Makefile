# Everything runs in .venv, which is made on first use and reused until one of its two lists changes.

PYTHON ?= python3
ARGS ?=
# The versions to install; empty for the newest. constraints-oldest.txt: see .github/scripts/oldest.py
CONSTRAINTS := constraints.txt
BIN := .venv/bin
INSTALLED := .venv/installed
# Tests of programs as XLA optimizes them for users: long training, and bits of different programs.
OPTIMIZED := tests/evaluation/test_ope.py tests/training/test_population.py \
  $(patsubst %,tests/truth/test_%.py,action_units auto discrete reward_units same_bits soft_value_iteration)

# pip takes the constraints for the packages from the one and for the build from the other,
# depending on its release; both are relative, because pip splits them at spaces.
export PIP_CONSTRAINT := $(CONSTRAINTS)
export PIP_BUILD_CONSTRAINT := $(CONSTRAINTS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Four processes import all tests, and commands that tests start the package: compiled once, not by each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test coverage nightly soak bench docs notebooks package-check install clean

help:
	@echo "make demo     learn a policy from data made here, and compare it (ARGS=... goes to xql demo)"
	@echo "make test     style, types, the import contract, and every test"
	@echo "make coverage every test, and which lines of the package none of them runs"
	@echo "make nightly  the tests that train for minutes"
	@echo "make soak     hundreds of bad inputs, random ones for many minutes, and 100 killed runs"
	@echo "make bench    speed and memory, as ratios (ARGS=... goes to benchmarks)"
	@echo "make docs     build the documentation in site/html; a warning is an error"
	@echo "make notebooks  execute docs/notebooks and keep their outputs (ARGS=... names some of them)"
	@echo "make package-check  build the sdist and the wheel, and try each extra in an empty environment"
	@echo "make install  only make .venv, with everything in it"
	@echo "make clean    remove .venv and every cache; runs stay"

demo: $(INSTALLED)
	$(BIN)/xql demo $(ARGS)

# $(1) and $(2) are options of the one part and of the other.
define every-test
$(BIN)/pytest -n 2 --dist worksteal $(1) $(OPTIMIZED:%=--ignore=%)
XQL_TEST_OPTIMIZED=1 $(BIN)/pytest -n 2 --dist worksteal $(2) $(OPTIMIZED)
endef

test: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(call every-test,,)

# Apart from `test`: before Python 3.12 it slows down all Python, JAX's too, by a quarter.
coverage: $(INSTALLED)
	$(call every-test,--cov --cov-report=,--cov --cov-append)

nightly: $(INSTALLED)
	XQL_TEST_OPTIMIZED=1 $(BIN)/pytest -m nightly

soak: $(INSTALLED)
	$(BIN)/pytest tests/soak -m "soak or not soak"
	$(BIN)/python tests/soak/kills.py --kills 100

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs site/html
	@echo "site/html/index.html"

notebooks: $(INSTALLED)
	$(BIN)/python docs/notebooks/execute.py $(ARGS)

package-check: $(INSTALLED)
	$(BIN)/python .github/scripts/check_package.py $(ARGS)

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "xql needs Python 3.11 or newer, which '$(PYTHON)' is not; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make a virtual environment; install its venv module (Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	@echo "making .venv: this happens once and takes a few minutes" >&2
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv site docs/repository .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
