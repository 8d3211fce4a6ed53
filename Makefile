# Needs Python 3.10-3.12 with pip, no compiler. The packages go into .venv, or into the environment VENV names.
# A MindSpore 2.7 or 2.8 installed for PYTHON, as on an NPU host, is used as it is. MINDSPORE=2.7.1 asks for that version,
# in an environment of its own.
PYTHON ?= python3
MINDSPORE =
VENV = $(if $(MINDSPORE),.venv-mindspore-$(MINDSPORE),.venv)
TESTS =
# Flags of the web page.
APP =
# Tests run in parallel; one takes up to 4 GB. What a file's tests share is made once: a file stays with its worker.
WORKERS = 2
PYTEST = -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10

GLOG_v ?= 3
export GLOG_v

ENVIRONMENTS = $(sort $(VENV) .venv-dev)
INSTALL = -m pip install --disable-pip-version-check --no-input

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.11, VENV=an environment of yours, TESTS=tests/views, WORKERS=1, APP='--port 8000',"
	@echo "           MINDSPORE=2.7.1 (in an environment of its own)"

demo: $(VENV)/.requirements  ## one image to a mesh, on the small model that is in assets/
	$(VENV)/bin/python tools/demo.py

app: $(VENV)/.requirements-app  ## the web page: one image to a mesh in a browser, on this machine
	$(VENV)/bin/python tools/app.py $(APP)

test: $(VENV)/.requirements-test  ## the tests; no PyTorch, nothing slow
	$(VENV)/bin/python $(PYTEST) -m "not slow and not parity and not browser" $(TESTS)

test-all: .venv-dev/.requirements-dev  ## every test, also the slow ones and the comparison with PyTorch (.venv-dev)
	.venv-dev/bin/python $(PYTEST) $(TESTS)

lint: $(VENV)/.requirements-test  ## ruff
	$(VENV)/bin/python -m ruff check .

clean:  ## remove the environments and the caches; outputs/ and runs/ stay
	rm -rf .venv .venv-dev .venv-mindspore-* build *.egg-info .pytest_cache .ruff_cache .hypothesis kernel_meta rank_*
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +

# --- the embedded weights -----------------------------------------------------------------------------------------------

# Stages write into data/ and runs/ of the current folder. An interrupted one continues, a finished one is left out. RUN is
# the Python; TOYS and FORMS are numbers of procedural objects and of forms of a real one; FLAGS go to every training.
FURNITURE = furniture/usr/share/sweethome3d/furniture
HERE := $(dir $(abspath $(firstword $(MAKEFILE_LIST))))
RUN = $(VENV)/bin/python
READY = $(if $(filter file,$(origin RUN)),$(VENV)/.requirements)
TOYS = 1500
FORMS = 4
FLAGS =
RENDER = $(RUN) $(HERE)tools/render_orbits.py
VIEWS = --size 128 --elevation -5 45 --orbit dynamic --pack --out $(@D)
TRAIN = $(RUN) $(HERE)train.py --model_cfg sv3d_small --train_cfg $(notdir $(@D)) --output $(@D) $(FLAGS) \
	$(if $(wildcard $(@D)/state.safetensors),--resume)

embedded: runs/sv3d_small.safetensors  ## the weights of sv3d_small anew, into runs/ (FURNITURE=folder of *.sh3f; days)

data/cat128/dynamic/clips.npy: | $(READY)
	$(RENDER) catalogue $(FURNITURE)/*.sh3f --split train --variations $(FORMS) $(VIEWS)

data/cat128/val/clips.npy: | $(READY)
	$(RENDER) catalogue $(FURNITURE)/*.sh3f --split val $(VIEWS)

data/proc128/clips.npy: | $(READY)
	$(RENDER) procedural --count $(TOYS) $(VIEWS)

data/side128/clips.npy: | $(READY)
	$(RENDER) procedural --family one_sided --count $(TOYS) $(VIEWS)

runs/vae_small/finished: data/cat128/dynamic/clips.npy data/cat128/val/clips.npy data/proc128/clips.npy
	$(TRAIN)
	@touch $@

runs/sv3d_small/finished: runs/vae_small/finished data/side128/clips.npy
	$(TRAIN) --init runs/vae_small/averaged.safetensors
	@touch $@

runs/decoder_small/finished: runs/sv3d_small/finished
	$(TRAIN) --init runs/sv3d_small/averaged.safetensors
	@touch $@

runs/sv3d_small.safetensors: runs/decoder_small/finished
	$(RUN) $(HERE)tools/convert.py runs/decoder_small/averaged.safetensors $@ --to safetensors --dtype fp16

.PHONY: help demo app test test-all lint clean embedded
.DELETE_ON_ERROR:

# Which Python: that of an environment that is there; else PYTHON if the user has set it; else the first that fits.
candidates = $(or $(wildcard $*/bin/python),$(PYTHON) $(if $(filter file,$(origin PYTHON)),python3.11 python3.12 python3.10))
version = $(or $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null),missing)
python = $(firstword $(foreach p,$(candidates),$(if $(filter 3.10 3.11 3.12,$(call version,$p)),$p)))
found = $(foreach p,$(candidates),$p is $(call version,$p),)
remedy = $(if $(wildcard $*/bin/python),remove $* and try again,install one and name it: make $(MAKECMDGOALS) PYTHON=python3.11)
require = $(if $(python),,$(error $(found) but Python 3.10, 3.11 or 3.12 is needed. To do: $(remedy)))
has = $(shell $(python) -c 'import $(1); print("yes")' 2>/dev/null)

# The MindSpore of that Python. A virtual environment's cannot be seen from another one, only used in its own.
host = $(shell $(python) -c 'import sys, importlib.metadata as m; print(m.version("mindspore"), sys.prefix != sys.base_prefix)' 2>/dev/null)
usable = $(filter 2.7 2.7.% 2.8 2.8.%,$(host))
asked = $(filter .venv-mindspore-%,$*)
kept = $(and $(usable),$(filter False,$(host)),$(if $(asked),,yes))
note = $(if $(kept),uses the mindspore $(usable) of $(python),gets a mindspore of its own$(if \
	$(usable),; to use the $(usable) of $(python): make $(MAKECMDGOALS) VENV=its folder,$(if \
	$(host),; the $(firstword $(host)) of $(python) is neither 2.7 nor 2.8)))

$(ENVIRONMENTS:=/bin/python): %/bin/python:
	$(require)
	$(if $(and $(call has,venv),$(or $(call has,ensurepip),$(call has,pip))),,$(error $(python) has no venv or no pip: install \
		them (python3-venv on Debian and Ubuntu) or name another Python, make $(MAKECMDGOALS) PYTHON=python3.11))
	@echo "$* $(note)"
	$(python) -m venv $(if $(kept),--system-site-packages) $(if $(call has,ensurepip),,--without-pip) $*
	$(if $(call has,ensurepip),,$(python) $(INSTALL) --target $*/lib/python$(call version,$(python))/site-packages pip)

$(ENVIRONMENTS:=/.requirements): %/.requirements: requirements.txt | %/bin/python
	$(require)
	$*/bin/python $(INSTALL) -r requirements.txt $(asked:.venv-mindspore-%=mindspore==%)
	@$*/bin/python -c 'import mindspore' || { echo "MindSpore does not start, see above. If libgomp.so.1 is missing:" \
		"apt-get install libgomp1, or dnf install libgomp"; exit 2; }
	@touch $@

$(VENV)/.requirements-test: requirements-test.txt $(VENV)/.requirements
	$(VENV)/bin/python $(INSTALL) -r requirements-test.txt
	@touch $@

$(VENV)/.requirements-app: requirements-app.txt requirements.txt $(VENV)/.requirements
	$(VENV)/bin/python $(INSTALL) -r requirements.txt -r requirements-app.txt
	@touch $@

.venv-dev/.requirements-dev: requirements-dev.txt requirements-test.txt requirements-app.txt .venv-dev/.requirements
	.venv-dev/bin/python $(INSTALL) -r requirements.txt -r requirements-test.txt -r requirements-dev.txt -r requirements-app.txt
	@touch $@
