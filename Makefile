# Everything starts here: `make run` for the default experiment, `make test` for all checks.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install run report test test-slurm clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

run: install
	snakemake --cores all

report: run
	snakemake --report results/digits/report.html

test: install
	ruff format --check bat tests benchmarks
	ruff check bat tests benchmarks
	snakefmt --check workflow
	snakemake --lint
	mypy
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=90

# a cluster of one machine, on Debian as root; no part of `make test`
test-slurm: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,slurm]'
	python tests/slurm/check.py

clean:
	rm -rf $(VENV)
