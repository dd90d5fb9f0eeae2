# setup · serve · test · check · bench: the commands of the README and of CI.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(shell find native -type f)

.PHONY: setup serve test check format bench quality registry adapters soak-kills soak-power-losses clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[starter]'
	touch $@

$(VENV)/developer: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

serve: setup
	$(BIN)/gemlora serve

check: $(VENV)/developer
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/developer
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

test: $(VENV)/developer
	tests/install
	$(BIN)/pytest

bench: $(VENV)/developer
	$(BIN)/python benchmarks/kernels.py

$(VENV)/peers: $(VENV)/developer
	$(BIN)/python -m pip install --quiet --group peers
	touch $@

quality: $(VENV)/peers
	$(BIN)/python benchmarks/quality.py

soak-kills: $(VENV)/developer
	tests/install
	$(BIN)/python -m tests.soaks.kills

soak-power-losses: $(VENV)/developer
	$(BIN)/python -m tests.soaks.power_losses

adapters: $(VENV)/developer
	$(BIN)/python -m benchmarks.adapters
	$(BIN)/python -m benchmarks.adapter_memory

registry: $(VENV)/developer
	$(BIN)/python -m benchmarks.registry --json benchmarks/results/registry.json

fuzz: $(VENV)/developer
	$(BIN)/python -m tests.fuzz.run

docs: $(VENV)/developer
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build
