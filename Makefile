# `make demo` and `make test` set up a virtual environment of their own with pinned versions.
# `make test PYTHON=/path/to/python` uses that interpreter as it is instead: nothing is downloaded, the kernels are compiled
# in place. It needs torch and setuptools; the tests pytest, hypothesis and numpy, the demo what the extra `tracker` lists.

VENV := .venv
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard .ci/*.txt) $(wildcard csrc/*.* csrc/*/*.*)

ifdef PYTHON
READY := build/.in-place
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

# A process for each core, where pytest-xdist is there; the tests of a file share what they compile.
PARALLEL = $(if $(shell $(PYTHON) -c "import xdist" 2>/dev/null && echo there),--numprocesses auto --dist loadfile)

GRM := $(PYTHON) -m grm

# Those that the operator is run with before a release, the oldest first: docs/benchmarks.md, "Versions".
TORCH_VERSIONS := 2.11.0 2.12.1 2.13.0 2.14.1 2.15.0
VERSION ?= $(firstword $(TORCH_VERSIONS))
OTHER := .venv-torch-$(VERSION)

.PHONY: demo test test-slow test-torch torch-headers coverage lint docs hashes clean

# The operator against its baselines on this machine: a table, and demo/attention_cpu.{json,png}. Then the tracker on a
# rendered clip with distractors: demo/tracked.mp4, with what every layer makes of the search region below the frame, and
# demo/division.png of one frame.
demo: $(READY)
	$(PYTHON) -m benchmarks.compare --output demo
	rm -rf demo/clip
	$(GRM) data render demo/clip --held-out --seed 104 --set data.synthetic.width=640 --set data.synthetic.height=480 \
		--set data.synthetic.size=[60,110] --set data.synthetic.frames=150
	$(GRM) track demo/clip --weights tiny --output demo/tracked.mp4 --show-division
	$(PYTHON) examples/readme_picture.py demo/clip demo/tracked.jpg
	$(GRM) division demo/clip --weights tiny --frame 40 --output demo/division.png

test: $(READY)
	$(PYTHON) -m pytest -m "not slow" --durations=10 $(PARALLEL)

test-slow: $(READY)
	$(PYTHON) -m pytest -m slow

# Which lines the normal tests run. It takes them about a third longer.
coverage: $(READY)
	$(PYTHON) -m pytest -m "not slow" --quiet --cov --cov-report=term $(PARALLEL)

# The operator with another torch, in an environment and a copy of the tree of its own: make test-torch VERSION=2.11.0
# (The interpreter of Triton 3.6, which comes with torch 2.11, does not run with a later numpy.) PyPI's torch is a build with
# CUDA: without a GPU, to compile those kernels for every architecture would take most of the time.
test-torch: export GRM_KERNELS_CUDA ?= 0
test-torch:
	test -x $(OTHER)/bin/python || python3 -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --quiet torch==$(VERSION) hypothesis "numpy<2.4" pytest "setuptools>=77"
	rm -rf build/torch-$(VERSION) && mkdir -p build/torch-$(VERSION)
	git ls-files -z | xargs -0 cp --parents --target-directory=build/torch-$(VERSION)
	cd build/torch-$(VERSION) && $(CURDIR)/$(OTHER)/bin/python setup.py --quiet build_ext --inplace
	cd build/torch-$(VERSION) && $(CURDIR)/$(OTHER)/bin/python -m grm_kernels
	cd build/torch-$(VERSION) && $(CURDIR)/$(OTHER)/bin/python -m pytest -m "not slow" tests/grm_kernels

# What tests/grm_kernels/test_versions.py compiles the bindings against. A wheel is thrown away when its headers are out.
torch-headers: $(TORCH_VERSIONS:%=build/torch-headers/%)

build/torch-headers/%:
	python3 -m pip download --quiet --no-deps --dest $@.wheel torch==$*
	python3 -c 'import glob, zipfile; wheel = zipfile.ZipFile(glob.glob("$@.wheel/*.whl")[0]); \
		wheel.extractall("$@", [name for name in wheel.namelist() if name.startswith("torch/include/")])'
	rm -r $@.wheel

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The documentation as a site, build/site/index.html. What is wrong with a page, a link or a reference is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# Files are checked by the hashes in .ci, all but torch's, whose builds differ, and of what comes with its CUDA builds. What is
# built here is built with the tools that were checked; the extension is compiled against the torch that will load it.
CHECKED := install --quiet --require-hashes --no-deps --no-build-isolation
$(VENV)/.ready: $(SOURCES)
	test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip $(CHECKED) --requirement .ci/tools.txt
	$(VENV)/bin/python -m pip $(CHECKED) --requirement .ci/packages.txt
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(VENV)/bin/python -m pip check
	touch $@

# The hashes of all files of the releases in constraints.txt. Needs uv: pip install uv
HASHES := uv pip compile --quiet --no-deps --universal --python-version 3.11.5 --generate-hashes --no-annotate --no-header \
	--default-index https://pypi.org/simple
hashes:
	grep -E "^(pip|setuptools)=" constraints.txt | $(HASHES) --output-file .ci/tools.txt -
	$(HASHES) --no-emit-package torch --no-emit-package pip --no-emit-package setuptools --output-file .ci/packages.txt \
		constraints.txt

build/.in-place: $(SOURCES)
	$(PYTHON) setup.py --quiet build_ext --inplace
	mkdir -p build && touch $@

clean:
	rm -rf $(VENV) .venv-torch-* build demo grm_kernels/_C*.so *.egg-info
