# make figures: every figure.   make test: lint and tests.   VENV=… uses an existing environment as it is.
PYTHON ?= python3

ifdef VENV
bin := $(VENV)/bin
else
bin := .venv/bin
runtime := .venv/runtime.stamp
development := .venv/development.stamp
endif

.PHONY: figures test
figures: $(runtime)
	$(bin)/python writeup.py

test: $(development)
	$(bin)/python -m ruff check .
	$(bin)/python -m ruff format --check .
	$(bin)/python -m pytest

.venv/runtime.stamp: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/development.stamp: requirements-dev.txt .venv/runtime.stamp
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
