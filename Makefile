# Everything starts here: `make run` for the default experiment, `make test` for all checks.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the experiments whose pages begin RESULTS.md
SUMMED := digits_full mnist5k cifar100_animals_fitted tiny_imagenet_10
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install run report results page docs test test-faults test-mutants test-slurm lock clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

run: install
	snakemake --cores all

report: run
	snakemake --report results/digits/workflow.html

# RESULTS.md, and docs/results/ with all tables: both findings and BAT on digits (44 minutes of CPU time) and on MNIST
# (95 minutes). CIFAR-100 and Tiny ImageNet need downloads: their pages are there already, and `make page` writes them anew
# from another run.
results: install
	snakemake --cores all --configfile config/digits_full.yaml
	snakemake --cores all --configfile config/mnist5k.yaml
	for experiment in digits_full mnist5k; do $(MAKE) --no-print-directory page EXPERIMENT=$$experiment; done

# an experiment that has run as a page of docs/results/ with its figures, and RESULTS.md from the beginnings of these pages
page:
	@test -f results/$(EXPERIMENT)/results.md || (echo "results/$(EXPERIMENT)/results.md is not there: run that experiment first"; exit 2)
	mkdir -p docs/results
	page=results/$(EXPERIMENT)/results.md; for figure in $$(sed -n 's#.*(figures/\(.*\)\.svg).*#\1#p' $$page); do \
	cp results/$(EXPERIMENT)/figures/$$figure.svg docs/$(EXPERIMENT)-$$figure.svg; done; \
	sed "s#(figures/#(../$(EXPERIMENT)-#" $$page > docs/results/$(EXPERIMENT).md
	cp docs/results.md RESULTS.md
	for page in $(SUMMED:%=docs/results/%.md); do (echo; \
	sed '/^<!-- all tables -->/,$$d; /^- intervals: /d; /^- .*near-duplicate/d; /^!\[/{N;N;s/\n\n!/ !/;}; s#(../#(docs/#g' $$page; \
	echo "All tables: [$$page]($$page)") >> RESULTS.md; done

test: install
	ruff format --check bat tests benchmarks docs
	ruff check bat tests benchmarks docs
	snakefmt --check workflow
	snakemake --lint
	mypy
	OMP_NUM_THREADS=1 python -m slipcover --source bat --json --out .coverage -m pytest -n 2 --dist worksteal
	python -m slipcover --merge .coverage --out .coverage --skip-covered --fail-under 90

# site/README.html; fails where a link leads nowhere
docs: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	sphinx-build --quiet --fail-on-warning --keep-going -c docs -b html . site

# kills, full disks, flipped bits and made-up files: minutes, no part of `make test`
test-faults: install
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile tests/faults

# which changes of the package its tests do not see, `make test-mutants MODULE=training.losses`; no part of `make test`
test-mutants: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,mutants]'
	OMP_NUM_THREADS=1 python tests/mutants/run.py $(MODULE)

# a cluster of one machine, on Debian as root; no part of `make test`
test-slurm: install
	$(BIN)/python -m pip install --quiet --editable '.[dev,slurm]'
	python tests/slurm/check.py

# the versions of this environment; its head says of what machine and Python
lock: install
	(grep '^#' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable) > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV)
