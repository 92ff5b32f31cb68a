# Every target works on a fresh checkout that has only Python (3.11 or later) and make.
# `make help` lists them.

PYTHON  ?= python3
WORKERS ?= 2
THREADS ?= 1

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo cluster-demo test check bench bench-kernels bench-network bench-peer bench-scaling performance conformance accuracy clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create .venv and install the package in development mode (instant when nothing changed)

# The stamp is written last: an interrupted installation starts again.
$(STAMP): pyproject.toml constraints.txt native/pyproject.toml native/CMakeLists.txt $(wildcard native/src/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "torchveil needs Python 3.11 or later, which '$(PYTHON)' is not:" \
	         "name another one, as in make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "'$(PYTHON) -m venv' failed. Debian and Ubuntu keep it in a package of its own: python3-venv." >&2; exit 1; }
	$(PY) -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[test,examples,dev]'
	@$(PY) -m pip install --disable-pip-version-check -q ./native || \
	  echo "The native kernels could not be built (a C++17 compiler is needed): torchveil works without them, slower."
	@touch $@

demo: install ## two hospitals train a model together on data that neither can read
	$(PY) examples/hospitals.py

cluster-demo: install ## the same with every role a process of its own, over mutual TLS: who sees what, step by step
	$(PY) examples/hospitals_cluster.py

# One thread per worker: two workers that each start a thread per core slow each other down.
# Under -O pytest still checks the asserts of test files (it rewrites them); ours must not lean on any in src.
test: install ## run all tests, then the smoke tests once more on the reference kernels under python -O
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) -q tests
	TORCHVEIL_KERNELS=reference OMP_NUM_THREADS=1 $(PY) -O -m pytest -q -m smoke -W ignore::pytest.PytestConfigWarning tests

check: install ## lint, formatting, types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --strict src

conformance: install ## run torch's own samples on shares; writes docs/reference/conformance.md
	OMP_NUM_THREADS=1 $(PY) -W ignore -m conformance.run --page --workers $(WORKERS)

accuracy: install ## measure the error of every function over its range; writes docs/reference/operations.md
	OMP_NUM_THREADS=1 $(PY) -W ignore -m conformance.accuracy --page --workers $(WORKERS)

bench: install ## time the workloads against plain torch in the same run; bytes and rounds
	$(PY) -m benchmarks.run --threads $(THREADS) --json out/bench.json

# The page's tables hold the last figures of bench-peer until it is run again.
performance: install ## measure all figures of docs/explanation/performance.md and write them into it
	$(PY) -m benchmarks.kernels --json out/kernels.json
	$(PY) -m benchmarks.run --threads $(THREADS) --json out/bench.json
	$(PY) -m benchmarks.memory --json out/memory.json
	$(PY) -m benchmarks.report

bench-peer: install ## the workloads in turn with CrypTen, installed in an environment of its own; written into the same page
	$(PY) -m benchmarks.run --threads $(THREADS) --peer crypten --json out/bench-peer.json
	$(PY) -m benchmarks.memory --peer crypten --json out/memory-peer.json
	$(PY) -m benchmarks.report --peer

bench-scaling: install ## check that cost grows linearly with batch and parameters; times, bytes and a plot in out/
	$(PY) -m benchmarks.scaling --json out/scaling.json --plot out/scaling.svg

bench-network: install ## time a training step with every role a process of its own, beside lockstep, and across an emulated WAN
	$(PY) -m benchmarks.network --threads $(THREADS) --json out/bench-network.json

bench-kernels: install ## time each native kernel beside its reference twin (pytest-benchmark)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q benchmarks/test_kernels.py --benchmark-only --benchmark-columns=min,median,iqr

clean: ## remove everything that make created, .venv included
	rm -rf $(VENV) build dist out benchmarks/.peer-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .git -prune -o \( -name __pycache__ -o -name '*.egg-info' -o -name .ipynb_checkpoints \) \
	  -type d -prune -exec rm -rf {} +
