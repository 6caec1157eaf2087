# `make demo` runs the main job, `make test` the tests. Each sets up what it needs in .venv from
# nothing but Python (with venv), make and a C compiler; a second run starts at once.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py $(wildcard cmf/_kernels/*.pyx cmf/_kernels/*.pxd cmf/_kernels/*.[ch])
SDIST := build/sdist/.built
# Tests, examples of the docstrings, and warnings as errors in both.
PYTEST := $(BIN)/pytest ./tests --pyargs cmf --doctest-modules
# A variant is installed from the sdist into a folder of its own, which goes before the editable
# install; PYTHONSAFEPATH keeps the source tree out of the way of subprocesses.
VARIANT = PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/build/variants/$(1)
PRELOAD = $(shell $(CC) -print-file-name=libasan.so) $(shell $(CC) -print-file-name=libubsan.so)

TSAN_PRELOAD = $(shell $(CC) -print-file-name=libtsan.so)
# The sanitizer wants addresses where they are by default; some systems shuffle them too far.
TSAN = $(call VARIANT,tsan) $(shell setarch -R true 2>/dev/null && echo setarch -R)

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench test-debug test-sanitize test-tsan test-neon test-abi3 test-wheel clean

help:
	@echo "make demo           train on a million ratings, report, recommend, draw"
	@echo "make test           all tests, on an editable install"
	@echo "make lint           ruff, mypy, cython-lint, numpydoc, stubs"
	@echo "make bench          speed, memory and accuracy beside other libraries (hours; BENCH=--quick: minutes)"
	@echo "make test-debug     all tests with bounds checks in the kernels"
	@echo "make test-sanitize  all tests under the address and undefined-behaviour sanitizers"
	@echo "make test-tsan      threaded training under the thread sanitizer"
	@echo "make test-neon      the baseline kernel on an emulated aarch64"
	@echo "make test-abi3      all tests on a cp311-abi3 wheel"
	@echo "make test-wheel     all tests on the wheel, in a new environment"
	@echo "make clean          remove everything that was built"

$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable ".[test,plot]"
	touch $@

$(VENV)/.lint: $(VENV)/.installed pyproject.toml
	$(BIN)/python -m pip install --quiet --group lint
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(PYTEST)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml --allowlist tests/typing/stubtest-allowlist.txt cmf._kernels
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint cmf
	$(BIN)/python -m numpydoc lint cmf/[a-z]*.py cmf/model_selection/[a-z]*.py

# Options for all programs: `make bench BENCH=--quick`.
BENCH ?=
BENCHMARKS = epoch fit target accuracy ablation scaling roofline memory recommend import defaults

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.bench_$$name $(BENCH); done

$(SDIST): $(VENV)/.installed $(SOURCES) $(wildcard cmf/*.py cmf/*/*.py cmf/_kernels/*.pyi) MANIFEST.in README.md
	rm -rf build/sdist
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --sdist --outdir build/sdist . >/dev/null
	touch $@

build/variants/%/.installed: $(SDIST)
	rm -rf build/variants/$*
	$(SWITCH_$*) $(BIN)/python -m pip install --quiet --no-cache-dir --no-deps --target build/variants/$* build/sdist/*.tar.gz
	touch $@

# Not exported: the editable install, which is made first where it is missing, must not have them.
SWITCH_debug = CMF_DEBUG=1
SWITCH_sanitize = CMF_SANITIZE=1
SWITCH_tsan = CMF_SANITIZE=thread
SWITCH_abi3 = CMF_LIMITED_API=1

test-debug: build/variants/debug/.installed
	$(call VARIANT,debug) $(PYTEST)

test-sanitize: build/variants/sanitize/.installed
	$(call VARIANT,sanitize) LD_PRELOAD="$(PRELOAD)" PYTHONMALLOC=malloc CMF_SANITIZE=1 \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 $(PYTEST)

# The second run, whose blocks share rows and columns at once, shows that races are found.
test-tsan: build/variants/tsan/.installed
	$(TSAN) env LD_PRELOAD="$(TSAN_PRELOAD)" TSAN_OPTIONS=exitcode=66 $(BIN)/python tests/tsan/training.py
	$(TSAN) env LD_PRELOAD="$(TSAN_PRELOAD)" TSAN_OPTIONS=exitcode=66:halt_on_error=1 \
	$(BIN)/python tests/tsan/training.py --racy >build/tsan-racy.log 2>&1; test $$? -eq 66

test-neon:
	tests/neon/run

test-abi3: build/variants/abi3/.installed
	ls build/variants/abi3/cmf/_kernels/*.abi3.so
	$(call VARIANT,abi3) $(PYTEST)

test-wheel: $(SDIST)
	rm -rf build/wheel build/wheel-venv
	$(BIN)/python -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir build/wheel build/sdist/*.tar.gz
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet --upgrade pip
	build/wheel-venv/bin/python -m pip install --quiet "$$(ls build/wheel/*.whl)[test,plot]"
	PYTHONSAFEPATH=1 build/wheel-venv/bin/pytest ./tests --pyargs cmf --doctest-modules

clean:
	rm -rf build dist *.egg-info demo-output $(VENV) cmf/_kernels/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +
