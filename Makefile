# `make demo` and `make test` set up a virtual environment of their own with pinned versions.
# `make test PYTHON=/path/to/python` uses that interpreter as it is instead: nothing is downloaded, the kernels are compiled
# in place. It needs torch and setuptools; the tests pytest, hypothesis and numpy, the demo rich and matplotlib.

VENV := .venv
SOURCES := setup.py pyproject.toml constraints.txt $(wildcard csrc/*.* csrc/*/*.*)

ifdef PYTHON
READY := build/.in-place
else
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

.PHONY: demo test test-slow lint clean

# The operator against its baselines on this machine: a table, and demo/attention_cpu.{json,png}.
demo: $(READY)
	$(PYTHON) -m benchmarks.compare --output demo

test: $(READY)
	$(PYTHON) -m pytest -m "not slow" --durations=10

test-slow: $(READY)
	$(PYTHON) -m pytest -m slow

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# torch and the build tools come first: the extension is compiled against the torch that will load it.
$(VENV)/.ready: $(SOURCES)
	test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt pip setuptools
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch numpy
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[tracker,training,test,benchmark,lint]"
	touch $@

build/.in-place: $(SOURCES)
	$(PYTHON) setup.py --quiet build_ext --inplace
	mkdir -p build && touch $@

clean:
	rm -rf $(VENV) build demo grm_kernels/_C*.so *.egg-info
