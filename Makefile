# Needs Python 3.11 or newer, make and a package index. `make help` lists what can be made.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

PY := $(VENV)/bin/python
PACKAGE := __init__.py __main__.py py.typed cli pipeline stores
INSTALLED := $(VENV)/.kdpipe-installed
LINKED := $(VENV)/.kdpipe-linked

# Strict editable mode links every file of the package under build/: the only editable form in which type checkers find
# `kdpipe`. A file that comes or goes needs new links, hence the list of files kept in $(LINKED).
EDITABLE := --config-settings editable_mode=strict --editable .
PIP := PYTHONWARNINGS=ignore $(PY) -m pip --disable-pip-version-check
# keeps glibc from handing every large buffer back to the kernel
KEEP_BUFFERS := MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=4000000000
LIST_FILES = { echo $(CURDIR); find $(PACKAGE) -type f ! -path '*/__pycache__/*' | LC_ALL=C sort; }
UNLINK = rm -rf build/__editable__.kdpipe-* $(LINKED)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench bench-quick first-runs faults results views codecs sweeps scale plan-check lint types check \
	install clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12      the Python a new environment is made with (default: python3)"
	@echo "  VENV=DIR               the environment to use, an existing one too (default: .venv)"
	@echo "  ARGS='-k losses'       further arguments for demo, test, bench, sweeps and plan-check"

demo: install ## run the whole story on embedded data
	$(VENV)/bin/kdpipe demo $(ARGS)

# One thread a worker: two workers with a thread pool each fight for the same cores.
test: install ## run the tests
	OMP_NUM_THREADS=1 $(KEEP_BUFFERS) \
		$(PY) -m pytest --numprocesses auto --maxprocesses 4 $(ARGS)

lint: install ## ruff (rules and format) and the import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

types: install ## pyright over the package and its tests
	$(PY) -m pyright --pythonpath $(PY)

bench: install ## measure everything; writes benchmarks/results and docs/performance.md (about 20 minutes)
	$(PIP) install --quiet --group bench --group proofs
	$(KEEP_BUFFERS) $(PY) benchmarks/bench $(ARGS)

bench-quick: install ## measure what matters most in small, against twice its target (about 2 minutes)
	$(KEEP_BUFFERS) $(PY) benchmarks/bench/quick.py

first-runs: install ## run real teachers on real data; writes docs/first-runs.md (about 20 minutes)
	$(PIP) install --quiet --group proofs
	$(KEEP_BUFFERS) $(PY) benchmarks/first_runs.py

faults: install ## kill, starve and damage kdpipe in every way; writes docs/reliability.md (about 10 minutes)
	OMP_NUM_THREADS=1 $(PY) benchmarks/faults

GLYPHS := build/results/glyph100.npz
$(GLYPHS): | install
	$(PIP) install --quiet --group proofs
	mkdir -p $(@D) && $(PY) benchmarks/glyph100.py $@

results: install ## compare twelve losses, five seeds; writes docs/results.md (about 14 minutes; RESULTS_SCALE=3: two hours)
	$(PIP) install --quiet --group proofs
	$(KEEP_BUFFERS) $(PY) benchmarks/accuracy.py

views: install $(GLYPHS) ## students from 1, 8 and all views against the live teacher; writes tables of docs/views.md (about 10 minutes)
	$(KEEP_BUFFERS) $(PY) benchmarks/views.py --write $(GLYPHS)

codecs: install $(GLYPHS) ## what each codec changes, also of real logits, and its students; writes tables of docs/codecs.md (about 12 minutes)
	$(KEEP_BUFFERS) $(PY) benchmarks/codec_fidelity.py --write
	$(KEEP_BUFFERS) $(PY) benchmarks/codec_students.py --write $(GLYPHS)

sweeps: install $(GLYPHS) ## a sweep of 24 trials killed three times; what a cohort costs, into docs/sweeps.md (about 20 minutes)
	$(PY) benchmarks/sweep_proof.py --write $(GLYPHS)
	$(PY) benchmarks/sweep_cohort.py --write $(ARGS)

scale: install ## what very many chunks cost; writes the tables of docs/scale.md (2 minutes)
	$(PY) benchmarks/scale.py --write

plan-check: install ## predicted and real time and bytes of extractions; writes the table of docs/plan.md (about 25 minutes)
	$(PY) benchmarks/plan_check.py --write $(ARGS)

check: test lint types ## all three

install: $(INSTALLED) ## make .venv, or bring it up to date; quick when nothing changed
	@if $(LIST_FILES) | cmp -s - $(LINKED) && ls -d build/__editable__.kdpipe-* >/dev/null 2>&1; then :; else \
		echo "the package's files changed: linking them anew"; $(UNLINK); \
		$(PIP) install --quiet --no-deps --no-build-isolation $(EDITABLE) && $(LIST_FILES) > $(LINKED); \
	fi

# The first line is a sentence, not a traceback, for a Python that is missing or too old.
$(INSTALLED): pyproject.toml
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		command -v $(PYTHON) >/dev/null || { echo "kdpipe: no $(PYTHON) here; name a Python 3.11 or newer: make PYTHON=..." >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("kdpipe: needs Python 3.11 or newer, and $(PYTHON) is %d.%d; name another: make PYTHON=..." % sys.version_info[:2])' && \
		$(PYTHON) -m venv $(if $(filter .venv,$(VENV)),--clear) $(VENV); }
	$(PIP) install --quiet --upgrade "pip>=25.1"
	@$(UNLINK)
	$(PIP) install $(if $(wildcard $@),--quiet) --group dev $(EDITABLE)
	@$(LIST_FILES) > $(LINKED)
	@touch $@

clean: ## remove build outputs and caches, keep .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

distclean: clean ## the same, and remove .venv
	rm -rf .venv
