# `make demo` and `make test` need Python >= 3.11 and nothing else: each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# uv installs in seconds. pip brings PyTorch: where a CPU build of it is at hand, pip alone finds it.
PIP    := $(PY) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt
UV     := $(PY) -m uv pip install --python $(PY) --compile-bytecode -c constraints.txt
OUT    ?= build/gpu
SMOKE  ?= tests/test_import_rules.py tests/test_readme.py tests/engine/test_retriever.py

.PHONY: setup setup-demo demo test coverage mutants check style types wheel docs resolve floors bench gpu index-long pictures train-example recipes serve
.DEFAULT_GOAL := demo

setup: $(VENV)/.everything     ## create .venv and install everything the targets need

setup-demo: $(VENV)/.demo      ## create .venv and install what encoding and searching pictures need

$(PY):
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); \
	    ok or sys.exit("Python >= 3.11 expected, got " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(PY)
	@echo "installing what the demo needs: PyTorch, transformers, Pillow, PyArrow (once)"
	@$(PIP) torch uv
	@$(UV) -e ".[models,metadata]"
	@touch $@

$(VENV)/.everything: pyproject.toml constraints.txt | $(PY)
	@echo "installing what all targets need: peers, exporters, test tools (once)"
	@$(PIP) torch uv
	@$(UV) -e ".[dev,bench]"
	@touch $(VENV)/.demo $@

demo: setup-demo               ## index the bundled pictures, search them, write demo.html
	$(PY) -m examples.demo

test: setup                    ## everything that can be proven without a GPU
	$(PY) -m pytest -n 2 --dist loadfile

coverage: setup                ## the same tests, slower, and the lines that they do not reach
	mkdir -p build/coverage
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -n 2 --dist loadfile
	$(PY) -m coverage combine -q
	$(PY) -m coverage report

mutants: setup                 ## break the search and the index in one place at a time: which faults does no test see?
	$(PY) -m tests.mutants --sample 100 $(MUTANTS)

check: setup                   ## style, types, import rules, the site, the wheel, what the kernels compile to, whether all can install it
	$(MAKE) -j2 -O wheel types resolve style docs
	$(PY) -m benchmarks.kernel_audit --quick

style: setup                   ## how the code is written
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup                   ## mypy over everything
	$(PY) -m mypy

wheel: setup                   ## import rules, and the wheel built, installed and used
	$(PY) -m pytest tests/test_import_rules.py tests/wheel.py

docs: setup                    ## build the documentation as a site, in build/site; a broken link or docstring is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

resolve: setup                 ## do pins and floors fit together on every Python and platform that we promise?
	$(PY) -m tests.resolve

floors: setup                  ## install the lowest versions that we admit (gigabytes), and run a few tests on them
	$(PY) -m uv venv --clear build/floors
	$(PY) -m uv pip install --python build/floors --resolution lowest-direct -e ".[dev]"
	build/floors/bin/python -m pytest $(SMOKE)

bench: setup                   ## what is timed is tested, then timed: kernels, searches, encoders, the index
	mkdir -p build
	$(PY) -m pytest benchmarks --benchmark-json build/bench.json --benchmark-columns median,min,max,rounds $(BENCH)

gpu:                           ## on a CUDA machine, with its own python3: GPU tests, then kernels, search and encoders beside their peers
	mkdir -p $(OUT)
	$(PYTHON) -m pytest -m gpu -n auto -p no:benchmark $$(grep -rl mark.gpu tests)  # these alone: such a machine may lack what others need
	$(PYTHON) -m benchmarks.gpu --out $(OUT) $(GPU)

index-long: setup              ## the index's long proofs: 10,000 steps, 2,000 kills, 60 s of readers beside a writer
	$(PY) -m tests.engine.index.machine --steps 10000
	$(PY) -m tests.engine.index.crash $$(mktemp -d) --kills 2000
	$(PY) -m tests.engine.index.readers $$(mktemp -d)/index --seconds 60

pictures: setup                ## fetch and render the full picture set into build/pictures
	$(PY) -m examples.build

train-example: pictures        ## train the example checkpoint from those pictures, measure it, put it in its place
	rm -rf build/checkpoint
	$(PY) -m engine train build/pictures --split style -o build/checkpoint \
	    --image-weights build/sources/efficientnet-lite0.safetensors --features build/features.safetensors \
	    --batch-size 2048 --steps 800 --bf16
	$(PY) -m engine evaluate build/checkpoint --dataset build/pictures --split style -o build/evaluation.json
	mv build/evaluation.json build/checkpoint
	rm -rf examples/checkpoint
	mv build/checkpoint examples/checkpoint

recipes: pictures              ## the hierarchy beside other recipes, three seeds: takes hours, goes on where it was
	$(PY) -m benchmarks.recipes

serve:                         ## not built yet
	@echo "make serve: not yet; the server is a later issue" && exit 1
