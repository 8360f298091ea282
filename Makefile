# VENV=… uses an existing environment as it is.   PYTHON=… makes .venv with that Python.   TESTS=… takes these tests alone.
PYTHON ?= python3
TESTS ?= tests
SUBMISSION ?= assignment_3_submission.zip
# On two cores the third takes the time in which a test waits.
parallel := -n 3 --dist worksteal
EDITION ?= assignment
install := -m pip install --quiet --disable-pip-version-check

ifdef VENV
bin := $(VENV)/bin
ready := environment
tools := environment
else
bin := .venv/bin
ready := .venv/runtime.stamp
tools := .venv/development.stamp
endif
python := "$(bin)/python"

.PHONY: help figures test test-fast test-lowest test-gpu lint format bench check starter grade clean environment
help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 16

figures: $(ready)  ## the figures of all questions but 1.5, report.pdf
	$(python) writeup.py

test: lint  ## lint and all tests
	$(python) -m pytest $(parallel) $(TESTS)

test-fast: $(tools)  ## the tests that take less than half a second each
	$(python) -m pytest -m "not slow" $(parallel) $(TESTS)

test-lowest:  ## all tests with the oldest versions that requirements.txt allows
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python $(install) uv
	.venv-lowest/bin/python -m uv pip install --quiet --resolution lowest-direct -r requirements.txt
	.venv-lowest/bin/python -m pip freeze > .venv-lowest/constraints.txt
	.venv-lowest/bin/python $(install) -r requirements-dev.txt -c .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pytest $(parallel) $(TESTS)

test-gpu: $(tools)  ## on a CUDA GPU: its tests, and benchmarks/RESULTS_CUDA.md
	$(python) -m pytest -m gpu $(TESTS)
	$(python) benchmarks/run.py --device cuda --output benchmarks/RESULTS_CUDA.md

lint: $(tools)  ## ruff (rules and format) and mypy
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format: $(tools)  ## bring the code into shape
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

bench: $(tools)  ## measure speed and memory, and write benchmarks/RESULTS.md
	$(python) $(install) -r benchmarks/requirements.txt
	$(python) benchmarks/run.py

check: $(ready)  ## check a solution, question by question
	$(python) check.py

starter: $(tools)  ## staff: the students' edition, assignment_3_starter.zip; EDITION=homework: homework_starter.zip
	$(python) course/make_starter.py --edition $(EDITION)

grade: $(tools)  ## staff: the points of SUBMISSION=a.zip, by EDITION=homework those of notebooks
	$(python) course/grade.py --edition $(EDITION) $(SUBMISSION)

clean:  ## remove what the scripts and tests write, not the environment
	rm -rf visualization report.pdf homework.pdf notebooks/*.pdf assignment_3_submission.zip assignment_3_starter.zip homework_starter.zip autograder.zip .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -f styles_images/*.png
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

environment:
	@test -x $(python) || { echo "VENV=$(VENV): there is no bin/python in it" >&2; exit 2; }

.venv/runtime.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, this is %d.%d; make PYTHON=python3.11 takes another" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make environments: on Debian, apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	.venv/bin/python $(install) -r requirements.txt
	touch $@

.venv/development.stamp: requirements-dev.txt .venv/runtime.stamp
	.venv/bin/python $(install) -r requirements-dev.txt
	touch $@
