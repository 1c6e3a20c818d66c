# What a newcomer needs: `make demo` and `make test`. Everything goes into virtual environments here.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out

.PHONY: demo test check bench goldens pictures dist clean

demo: $(VENV)/.installed
	@mkdir -p $(OUT)
	$(BIN)/lcm img2img docs/pictures/scribble.png --seed 7 -o $(OUT)/demo.png \
		"a snowy landscape with mountains and a lake at night"
	@echo "The picture is $(OUT)/demo.png, made from docs/pictures/scribble.png"

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.light

# The references that the tests compare with, made anew by torch, diffusers and transformers.
goldens: .venv-build/.installed
	.venv-build/bin/python -m tests.goldens.make

pictures: $(VENV)/.installed
	$(BIN)/python docs/pictures/make.py

dist: $(VENV)/.installed
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[onnx,dev]'
	@touch $@

.venv-build/.installed: tests/goldens/requirements.txt
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/pip install --quiet --requirement tests/goldens/requirements.txt
	.venv-build/bin/pip install --quiet --no-deps open_clip_torch==3.3.0
	@touch $@

clean:
	rm -rf .venv .venv-* out dist build
