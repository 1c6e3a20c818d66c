# What a newcomer needs: `make demo` and `make test`. Everything goes into virtual environments here.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
SECONDS ?= 300
SEED ?= 0
KILLS ?= 165
PEERS ?= .peers
NPU ?= .npu
EXPORT ?= .export
BOARD ?= .board
# Two files of tests at a time.
IN_TWO = --numprocesses 2 --dist loadfile

.PHONY: demo test test-all test-types test-server test-page strokes load test-openvino test-rknn test-board \
	board-system test-container test-export mutants check bench export peers rewrites npu fuzz kill-test soak \
	throughput goldens pictures dist environments clean

demo: $(VENV)/.demo
	@mkdir -p $(OUT)
	@echo "Drawing $(OUT)/demo.png from docs/pictures/scribble.png"
	@$(BIN)/lcm img2img docs/pictures/scribble.png --seed 7 -o $(OUT)/demo.png \
		"a snowy landscape with mountains and a lake at night"

# The fast majority: all but those marked slow. Plain `pytest` runs all of them, like test-all.
test: $(VENV)/.installed
	@echo "The fast tests, about three minutes; make test-all runs all of them, in a quarter of an hour"
	@$(BIN)/python -m pytest $(IN_TWO) -m "not slow"

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest $(IN_TWO)

# A user's script, read by mypy and pyright beside the installed wheel: by explicit bases, for tests is a
# package, and mypy would else read the sources beside it.
test-types: dist $(VENV)/.installed .venv-types/.installed
	.venv-types/bin/pip uninstall --quiet --yes lcmcore
	.venv-types/bin/pip install --quiet dist/*.whl
	cd tests/typing && $(abspath $(BIN))/mypy --strict --config-file= --explicit-package-bases \
		--python-executable $(abspath .venv-types/bin/python) script.py
	cd tests/typing && $(abspath .venv-types/bin)/pyright \
		--pythonpath $(abspath .venv-types/bin/python) script.py

# The OpenVINO runtime, whose package, 180 MB, is not in the environment of the other tests.
test-openvino: .venv-openvino/.installed
	.venv-openvino/bin/python -m pytest $(IN_TWO) tests/openvino \
		"tests/fuzz/test_fuzz.py::test_nothing_is_found[openvino]"

# The server, asked by the clients that people have: the packages openai and webuiapi.
test-server: .venv-server/.installed
	.venv-server/bin/python -m pytest tests/server/clients tests/server/test_docs.py

# The page of the server in a browser; Debian's chromium.
test-page: $(VENV)/.browser
	$(BIN)/python -m pytest tests/server/page

# How long after a stroke on the page its picture is there.
strokes: $(VENV)/.browser
	$(BIN)/python -m benchmarks.strokes

# Two hundred clients ask the server for SECONDS; a tenth hang up, a tenth send rubbish.
load: $(VENV)/.installed
	$(BIN)/python -m benchmarks.serve_load --seconds $(SECONDS)

# Rockchip's converter and simulator; x86-64 Linux.
test-rknn: .venv-rknn/.installed
	.venv-rknn/bin/python -m pytest $(IN_TWO) tests/rknn/converter

# An emulated RK3588 with Rockchip's own Python package; root, x86-64 Linux, Debian's packages. With --jobs,
# its system and its models are made side by side.
test-board: board-system $(foreach name,256x256 192x128 tiles,$(BOARD)/models/$(name).built)
	BOARD=$(BOARD) PYTHON=$(BIN)/python tests/board/run.sh $(BOARD)/models

board-system: $(VENV)/.installed
	tests/board/root.sh $(BOARD) $(BIN)/python

# The container's root, made in an empty folder; root, Debian or Ubuntu, Python of the same version.
test-container: dist $(VENV)/.installed
	$(BIN)/python -m pytest tests/container

# `lcm build onnx` and the demo model's recipe, beside torch and diffusers.
test-export: .venv-build/.installed
	.venv-build/bin/python -m pytest $(IN_TWO) tests/onnx/exporter tests/recipe

# Small faults put into the code: does a module's own test find them? About 20 minutes on 2 cores.
mutants: $(VENV)/.installed .venv-rknn/.installed
	$(BIN)/pip install --quiet --requirement tests/mutants/requirements.txt
	$(BIN)/python -m tests.mutants.run $(MUTANTS)

# Changed and generated files for everything that reads files of strangers, SECONDS in all. Items that
# fail are kept in OUT/fuzz; another SEED brings other items.
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED) --out $(OUT)/fuzz

# SIGKILL at random moments, and what is left afterwards; Linux.
kill-test: $(VENV)/.installed
	$(BIN)/python -m tests.kill --kills $(KILLS) --seed $(SEED)

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.light

# Beside diffusers, optimum and others, at full size; Linux, 30 GB of disk, 12 GB of memory, two hours.
peers: $(VENV)/.installed
	$(BIN)/python -m benchmarks.peers --dir $(PEERS)

# What each rewrite of a graph and each other optimization brings, with the model of `make peers`.
rewrites: $(VENV)/.installed
	$(BIN)/python -m benchmarks.rewrites $(PEERS)/bundle
	LCM_CACHE=$(PEERS)/cache $(BIN)/python -m benchmarks.habits $(PEERS)/bundle --size 512

# What full-size networks take on the NPU, as they are and rewritten: predictions, by the converter. An hour
# or two, 16 GB of memory, 12 GB of disk.
npu: $(NPU)/.built .venv-rknn/.installed
	.venv-rknn/bin/python -m benchmarks.npu $(NPU)/bundle $(NPU)/records

# A full-size checkpoint in one file, exported as it is and with LoRAs: memory, and whether the networks
# compute what diffusers' from_single_file and fuse_lora do. 15 GB of disk, 10 GB of memory.
export: .venv-build/.installed
	.venv-build/bin/python -m benchmarks.export $(EXPORT)
	.venv-build/bin/python -m benchmarks.export $(EXPORT) --lora

soak: $(VENV)/.installed
	$(BIN)/python -m benchmarks.soak

throughput: $(VENV)/.installed
	$(BIN)/python -m benchmarks.throughput

# The values that tests expect (tests/goldens/data), made anew by torch, diffusers and transformers.
goldens: .venv-build/.installed
	.venv-build/bin/python -m tests.goldens.make

pictures: $(VENV)/.browser
	$(BIN)/python docs/pictures/make.py
	$(BIN)/python -m tests.server.page.screenshots docs/pictures/page.jpg

# What goes to a package index: an archive of the sources, and the wheel built from it.
dist: .venv-dist/.installed
	rm -rf dist
	.venv-dist/bin/python -m build --outdir dist .
	.venv-dist/bin/twine check --strict dist/*

# All environments of the suites; with --jobs, side by side.
environments: $(VENV)/.browser .venv-server/.installed .venv-openvino/.installed .venv-rknn/.installed \
	.venv-build/.installed .venv-dist/.installed .venv-types/.installed

# What the demo needs, and on top of it what developers need.
$(VENV)/.demo: pyproject.toml
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing lcmcore and ONNX Runtime in it, about 200 MB"
	@$(BIN)/pip install --quiet --editable '.[onnx]'
	@touch $@

$(VENV)/.installed: $(VENV)/.demo
	@echo "Installing the tests' and developers' tools in $(VENV), about 200 MB more"
	@$(BIN)/pip install --quiet --editable '.[onnx,dev]'
	@touch $@

$(VENV)/.browser: $(VENV)/.installed tests/server/page/requirements.txt
	@$(BIN)/pip install --quiet --requirement tests/server/page/requirements.txt
	@touch $@

.venv-dist/.installed:
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/pip install --quiet build twine
	@touch $@

.venv-types/.installed:
	$(PYTHON) -m venv .venv-types
	.venv-types/bin/pip install --quiet 'pyright[nodejs]'
	@touch $@

.venv-openvino/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-openvino
	.venv-openvino/bin/pip install --quiet --editable '.[onnx,openvino,dev]'
	@touch $@

.venv-server/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-server
	.venv-server/bin/pip install --quiet --editable '.[onnx,dev]' openai webuiapi
	@touch $@

# rknn-toolkit2 last, and without its needs: docs/rk3588.md.
.venv-rknn/.installed: tests/rknn/requirements.txt runtimes/rknn/toolkit.py pyproject.toml
	$(PYTHON) -m venv .venv-rknn
	.venv-rknn/bin/pip install --quiet --requirement tests/rknn/requirements.txt --editable '.[rknn-build]'
	.venv-rknn/bin/pip install --quiet --no-deps \
		"$$(.venv-rknn/bin/python -c 'from runtimes.rknn.toolkit import PACKAGE; print(PACKAGE)')"
	@touch $@

# The demo model for the board, in two sizes; and in the first with the VAE compiled for tiles.
$(BOARD)/models/%.built: .venv-rknn/.installed \
		$(wildcard assets/demo/*/* runtimes/rknn/*.py runtimes/rknn/rewrites/*.py)
	.venv-rknn/bin/lcm build rknn assets/demo $(basename $@) --platform rk3588 --size $*
	@touch $@

$(BOARD)/models/tiles.built: $(BOARD)/models/256x256.built
	mkdir -p $(basename $@) && cp -r $(BOARD)/models/256x256/. $(basename $@)
	.venv-rknn/bin/lcm build rknn assets/demo $(basename $@) --platform rk3588 --size 256x256 \
		--tile vae_encoder=256x128 --tile vae_decoder=256x128
	@touch $@

# Random weights, scaled to outputs like a trained model's.
$(NPU)/.built: .venv-build/.installed
	.venv-build/bin/python -m benchmarks.peers.checkpoint $(NPU)/checkpoint
	.venv-build/bin/lcm build onnx $(NPU)/checkpoint $(NPU)/bundle
	@touch $@

.venv-build/.installed: tests/goldens/requirements.txt
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/pip install --quiet --requirement tests/goldens/requirements.txt
	.venv-build/bin/pip install --quiet --no-deps open_clip_torch==3.3.0 --editable .
	@touch $@

clean:
	rm -rf .venv .venv-* .board $(PEERS) $(NPU) $(EXPORT) out dist build
