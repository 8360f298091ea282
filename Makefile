# VENV=… uses an existing environment as it is.   TESTS=… takes these tests alone.
PYTHON ?= python3
TESTS ?= tests

ifdef VENV
bin := $(VENV)/bin
else
bin := .venv/bin
runtime := .venv/runtime.stamp
development := .venv/development.stamp
endif

.PHONY: help figures test test-fast lint format bench clean
help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 16

figures: $(runtime)  ## every figure, and report.pdf
	$(bin)/python writeup.py

test: lint  ## lint and all tests
	$(bin)/python -m pytest $(TESTS)

test-fast: $(development)  ## the tests that take less than half a second each
	$(bin)/python -m pytest -m "not slow" $(TESTS)

lint: $(development)  ## ruff (rules and format) and mypy
	$(bin)/python -m ruff check .
	$(bin)/python -m ruff format --check .
	$(bin)/python -m mypy

format: $(development)  ## bring the code into shape
	$(bin)/python -m ruff check --fix .
	$(bin)/python -m ruff format .

bench: $(development)  ## measure speed and memory, and write benchmarks/RESULTS.md
	$(bin)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(bin)/python benchmarks/run.py

clean:  ## remove what the scripts write, not the environment
	rm -rf visualization styles_images/*.png report.pdf assignment_3_submission.zip .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/runtime.stamp: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/development.stamp: requirements-dev.txt .venv/runtime.stamp
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
