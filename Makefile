# The commands of the project. Python tools live in .venv, made when missing; everything else made here is
# under build/ and dist/. How a C program is made from the engine is in tests/c/Makefile.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
PACKAGE := $(shell find include src -type f -not -path '*.egg-info/*' -not -path '*/__pycache__/*' 2>/dev/null)
CTEST  := $(MAKE) --no-print-directory -j$(JOBS) -C tests/c
BUILD  := $(CURDIR)/build/c
CROSS  := aarch64-linux-gnu-
ASV    := $(VENV)/bin/asv --config benchmarks/asv.conf.json
ASV_RUN = $(ASV) machine --yes >/dev/null && $(ASV) run --show-stderr --environment existing:"$(abspath $(PY))" \
    --set-commit-hash "$$(git rev-parse HEAD)"

.PHONY: help demo test ctest asan exhaustive lint aarch64 bench bench-report wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     see it run"
	@echo "make test     C tests, then Python tests"
	@echo "make ctest    C tests alone, on every instruction set of this machine"
	@echo "make asan     C tests under the address and undefined-behaviour sanitizers"
	@echo "make exhaustive  C tests with every float32 through the activations (minutes)"
	@echo "make aarch64  C tests cross-compiled for aarch64, under qemu"
	@echo "make lint     ruff; C with warnings as errors; the header alone as C99 and as C++"
	@echo "make bench    every benchmark once (asv)"
	@echo "make bench-report  every benchmark measured properly, and a report to browse"
	@echo "make wheel    dist/*.whl and dist/*.tar.gz"
	@echo "make clean    remove what make made"

demo: $(VENV)/.installed
	$(PY) -m fastlstm demo

test: ctest $(VENV)/.installed
	$(PY) -m pytest -n $(JOBS)

ctest:
	@$(CTEST) check

asan:
	@$(CTEST) check OUT=$(BUILD)/asan WARNINGS= LDFLAGS=-fsanitize=address,undefined \
	    CFLAGS="-O1 -g -UNDEBUG -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"

exhaustive:
	@$(CTEST) check ARGS=--all

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	@$(CTEST) lint OUT=$(BUILD)/lint
	@if command -v $(CROSS)gcc >/dev/null; then \
	    $(CTEST) lint OUT=$(BUILD)/lint-aarch64 CC=$(CROSS)gcc RUN=true; fi

# The bits must be those of the machine at hand too, hence ctest.
aarch64: ctest
	@command -v $(CROSS)gcc >/dev/null && command -v qemu-aarch64 >/dev/null || { \
	    apt-get update -q && apt-get install -q -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user; }
	@$(CTEST) check OUT=$(BUILD)/aarch64 CC=$(CROSS)gcc LDFLAGS=-static RUN=qemu-aarch64
	@if test -s $(BUILD)/native/hashes; then \
	    diff $(BUILD)/native/hashes $(BUILD)/aarch64/hashes && echo "activations: same bits on aarch64 as here"; fi

bench: $(VENV)/.bench
	$(ASV_RUN) --quick

# A report of a first look: make bench-report QUICK=--quick
bench-report: $(VENV)/.bench
	$(ASV_RUN) $(QUICK)
	$(ASV) publish
	@echo "the report: benchmarks/.asv/html; to browse it: $(ASV) preview"

wheel: $(VENV)/.tools
	rm -rf build/lib* dist
	$(PIP) install -q build
	$(PY) -m build --no-isolation --outdir dist .
	ls -l dist

clean:
	rm -rf build dist $(VENV) src/*.egg-info benchmarks/.asv .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- .venv: stamps say what is installed --------------------------------------------------------------

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tools: pyproject.toml | $(PY)
	$(PIP) install -q --upgrade pip "setuptools>=77" wheel "cython>=3.0" "numpy>=2.0"
	@touch $@

# Modules that were deleted would survive in build/lib and enter the package; the engine's objects may stay.
# Of aeon and statsmodels the tests of examples/ read data alone.
$(VENV)/.installed: $(VENV)/.tools $(PACKAGE) setup.py pyproject.toml
	@find build/lib* -name '*.py*' -delete 2>/dev/null || true
	$(PIP) install -q --no-build-isolation ".[test,demo]"
	$(PIP) install -q --no-deps aeon statsmodels
	@touch $@

$(VENV)/.lint: pyproject.toml | $(PY)
	$(PIP) install -q "ruff>=0.6"
	@touch $@

$(VENV)/.bench: $(VENV)/.installed
	$(PIP) install -q "asv>=0.6" virtualenv
	@touch $@
