# From a bare clone: `make demo` or `make test` set up everything they need; a second call sets up nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.14.1 torchvision==0.29.1
NATIVE := $(shell find csrc cuda -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
LIBRARY := torch_convops/libtorch_convops.so

# The text halves of the notebooks: what is there without a kernel is a module that they import.
NOTEBOOKS := $(shell grep -ls '^\#   kernelspec:' notebooks/*.py)

.PHONY: demo test lint build check notebooks wheel repair compat clean

# Trains the ANN and the CNN on generated pictures and prints the comparison.
demo: $(VENV)/installed $(LIBRARY)
	$(BIN)/convops train --model ann --model cnn --fresh --out runs/demo

# Two processes of one thread each: threads that wait for a core that another process has cost more than they bring.
test: $(VENV)/installed $(LIBRARY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --nbmake tests notebooks

# The sdist is to have what git has: check-manifest builds it.
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/check-manifest --quiet --no-build-isolation

# gradcheck of every operator on this machine's devices.
check: $(VENV)/installed $(LIBRARY)
	$(BIN)/convops check

# Runs every notebook, as its text has it, and writes the outputs without what differs from run to run.
notebooks: $(VENV)/installed $(LIBRARY)
	$(BIN)/jupytext --quiet --to ipynb --update $(NOTEBOOKS)
	$(BIN)/jupyter-nbconvert --log-level=WARN --to notebook --inplace --execute --ExecutePreprocessor.record_timing=False \
		--Exporter.preprocessors='["nbconvert.preprocessors.CoalesceStreamsPreprocessor"]' \
		--ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask='["kernelspec"]' $(NOTEBOOKS:.py=.ipynb)

build: $(LIBRARY)

# Packs what is built. setuptools forgets no module that was ever in build/lib.
wheel: $(VENV)/installed $(LIBRARY)
	rm -rf build/lib* build/bdist* build/wheel dist/*.whl
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m build --quiet --wheel --no-isolation --outdir build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) repair WHEEL=build/wheel/*.whl DEST=dist

# Names the oldest Linux that the wheel runs on and strips the library. torch brings its own libraries.
repair:
	auditwheel repair --strip --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir $(DEST) $(WHEEL)

# That one wheel with the oldest torch and the newest, on the oldest Python found and the newest.
compat: wheel
	PYENV_VERSION=$$(ls $(HOME)/.pyenv/versions 2>/dev/null | paste -sd:) $(BIN)/nox

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" ninja
	$(BIN)/python -m pip install --quiet $(TORCH)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

# ninja compiles only what changed.
$(LIBRARY): $(NATIVE) setup.py | $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

clean:
	rm -rf build dist runs $(LIBRARY) *.egg-info
