# One command per habit. Each is complete from a fresh clone on a machine that has only python3 (>= 3.11) and make:
# it makes .venv, installs what it needs in the versions of constraints.txt, and runs. A second call starts at once;
# editing pyproject.toml or constraints.txt installs again. ARGS passes options on: make test ARGS="-k recommender".

PYTHON ?= python3
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
# -qq leaves errors only. The constraints stand on every line, so that no install replaces the tested torch.
INSTALL := $(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:  # two installs into one .venv at the same time spoil it
.PHONY: help demo test soak lint format doc bench clean

help:  ## list these targets
	@awk -F ':.*##' '/^[a-z]+:.*##/ { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.with-viz  ## tune a recommender on data that is on every machine (ARGS="--data ml-1m" for MovieLens)
	@$(PY) examples/1_quickstart/tune_recommender.py $(ARGS)

test: $(VENV)/.with-test  ## run every test, on every core (ARGS=-n0: in one process)
	@$(PY) -m pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

soak: $(VENV)/.with-test  ## kill fits at random moments, twenty times, and see that they end bit-equal (ARGS=100: more)
	@$(PY) tests/checkpoints/soak.py $(or $(ARGS),20)

lint: $(VENV)/.with-ruff  ## check style and formatting
	@$(PY) -m ruff check . $(ARGS)
	@$(PY) -m ruff format --check .

format: $(VENV)/.with-ruff  ## format all files, and mend what the linter can mend
	@$(PY) -m ruff check --fix --quiet . $(ARGS) || true  # `make lint` tells what is left
	@$(PY) -m ruff format .

doc: $(VENV)/.with-docs  ## build the documentation, warnings as errors, into doc/_build/html
	@$(PY) -m docutils --halt=warning README.rst doc/_readme_check.html && rm doc/_readme_check.html
	@rm -rf doc/generated  # pages of names that are gone
	@$(PY) -m sphinx -W --keep-going -b html doc doc/_build/html $(ARGS)

bench: $(VENV)/.with-bench  ## run the benchmarks, each peer side by side
	@for script in benchmarks/bench_*.py; do echo "== $$script" && $(PY) $$script $(ARGS) || exit 1; done

clean:  ## remove everything that make made, .venv included
	rm -rf $(VENV) doc/_build doc/gallery doc/generated doc/sg_execution_times.rst build skvae.egg-info .pytest_cache .ruff_cache .hypothesis
	find skvae tests examples benchmarks doc -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written only after success: what was interrupted half-way is done again by the next call.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("skvae needs Python 3.11 or newer, but $(PYTHON) is %d.%d; name another: make PYTHON=python3.12 ..." % v[:2])'
	@echo "Making $(VENV) ..."
	@{ $(PYTHON) -m venv $(VENV) && $(PY) -m pip --version; } >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.with-ruff: $(VENV)/.made constraints.txt
	@$(INSTALL) ruff
	@touch $@

# The plain form of an editable install, a path: with setuptools' import hook, a script in the folder that holds the clone
# would take the clone itself for the package.
$(VENV)/.with-%: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing skvae[$*] into $(VENV) (minutes the first time: torch is large) ..."
	@$(INSTALL) --config-settings editable_mode=compat -e '.[$*]'
	@touch $@
