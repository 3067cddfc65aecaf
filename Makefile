# make demo    build the default model for a NUCLEO-F446RE, verify it bit for bit, talk to it in the emulator
# make test    the test suite
# make check   ruff and mypy
# make clean   remove what make made
#
# Each sets up a virtual environment in .venv first, once. Other names can be given:
#   make test VENV=../venv PYTHON=python3.12 PYTEST_ARGS="-n 4 -k kernels"

PYTHON = python3
VENV = .venv
PYTEST_ARGS = -n auto
DEMO = build/demo

RUN_READY = $(VENV)/ready-to-run
DEV_READY = $(VENV)/ready-to-develop
SOURCES = $(shell find mcugen templates boards firmware -type f -not -name '*.pyc')

.PHONY: demo test check clean

demo: $(DEMO)/build-info.json
	@cat $(DEMO)/verification.txt
	@echo
	@while read -r line; do \
	    echo "> $$line"; \
	    $(VENV)/bin/mcugen run --quiet --prompt "$$line" || exit; \
	done < tests/demo.txt
	@echo
	@echo "The firmware is in $(DEMO); its README.md says how to build it with make and use it as a library."

test: $(DEV_READY)
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

check: $(DEV_READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find mcugen tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(DEMO)/build-info.json: $(RUN_READY) $(SOURCES)
	@echo building and verifying $(DEMO)
	@$(VENV)/bin/mcugen build --out $(DEMO) > /dev/null

$(RUN_READY): pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[all]'
	@touch $@

$(DEV_READY): pyproject.toml | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "mcugen needs Python 3.11 or newer as $(PYTHON); another one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make virtual environments: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
