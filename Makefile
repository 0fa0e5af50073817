# `make demo` and `make test` need Python >= 3.10 and nothing else: each sets itself up.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
OUT    ?= build/gpu

.PHONY: setup demo test check bench gpu pictures train-example serve
.DEFAULT_GOAL := demo

setup: $(STAMP)                ## create .venv and install everything the other targets need

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,bench]"
	touch $(STAMP)

demo: setup                    ## index the bundled pictures, search them, write demo.html
	$(PY) -m examples.demo

test: setup                    ## everything that can be proven without a GPU
	$(PY) -m pytest -n 2 --dist loadfile

check: setup                   ## style, types, import rules, what the Triton kernels compile to
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest tests/test_import_rules.py
	$(PY) -m kernels.audit --quick

bench: setup                   ## CPU search speed beside FAISS
	$(PY) -m benchmarks.coarse_cpu

gpu:                           ## on a CUDA machine, with its own python3: GPU tests, then benchmarks
	mkdir -p $(OUT)
	$(PYTHON) -m pytest -m gpu
	$(PYTHON) -m benchmarks.gpu --out $(OUT)

pictures: setup                ## fetch and render the full picture set into build/pictures
	$(PY) -m examples.build

train-example: pictures        ## train the example checkpoint from those pictures, measure it, put it in its place
	rm -rf build/checkpoint
	$(PY) -m engine train build/pictures --split style -o build/checkpoint \
	    --image-weights build/sources/efficientnet-lite0.safetensors --features build/features.safetensors --bf16 \
	    --json > build/training.json
	$(PY) -m engine evaluate build/checkpoint --dataset build/pictures --split style -o build/evaluation.json
	mv build/training.json build/evaluation.json build/checkpoint
	rm -rf examples/checkpoint
	mv build/checkpoint examples/checkpoint

serve:                         ## not built yet
	@echo "make serve: not yet; the server is a later issue" && exit 1
