# Every target sets up what it needs. PYTHON: an interpreter of 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LAB := .demo/lab

.PHONY: install demo test lint format bench clean

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "autoresearch needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	@echo "Setting up $(VENV): PyTorch is large, this may take some minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.ready  ## The command, in .venv/bin

demo: $(VENV)/.ready  ## The whole loop for real, without GPU or key: three minutes after the install
	@rm -rf .demo
	@$(BIN)/autoresearch init $(LAB) > /dev/null
	@cd $(LAB) && $(CURDIR)/$(BIN)/autoresearch prepare --program programs/tiny.md
	@cd $(LAB) && $(CURDIR)/$(BIN)/autoresearch run --program programs/tiny.md --agent search --experiments 8
	@echo
	@cd $(LAB) && $(CURDIR)/$(BIN)/autoresearch status
	@echo
	@echo "The branch autoresearch/tiny, with what was kept:"
	@git -C $(LAB) log --oneline --decorate autoresearch/tiny
	@echo
	@echo "Look around: cd $(LAB), and ../../$(BIN)/autoresearch show 2"

test: lint  ## Lint, types, import contracts, and all tests
	$(BIN)/python -m pytest -n 4 --dist worksteal  # many of them mostly wait, and some long

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready  ## Scores of honest and cheating models (docs/scoring.md); each page of docs/ names the commands of its figures
	$(BIN)/python benchmarks/score.py

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
