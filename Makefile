# Two commands do everything: `make demo` and `make test`. They share one .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# what looks at the environment is not in it
TOOLS := .tools
RUNS ?= $(HOME)/.cache/prescreen/runs

# all that the tests work with; npm fetches the viewer
APT := apt-get install -y dcmtk orthanc orthanc-dicomweb chromium systemd fonts-noto-cjk npm

# podman or docker; BASE is what the image is made on, IMAGE_FLAGS what else the engine is told
ENGINE ?= $(notdir $(shell command -v podman || command -v docker))
IMAGE ?= prescreen

.DEFAULT_GOAL := help
.PHONY: help install demo test check audit sbom peers viewers bench light soak train clean
.PHONY: engine image image-check

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(STAMP)  ## create .venv and install the pinned dependencies

# what a fresh Debian may lack is named before anything is made
$(STAMP): constraints.txt setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "missing: $(PYTHON); apt-get install -y python3 python3-venv" >&2; exit 3; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old: 3.11 or newer is needed; make PYTHON=python3.11 …" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "missing: Python's venv module; apt-get install -y python3-venv" >&2; exit 3; }
	@free=$$(df -Pm . | awk 'NR == 2 {print $$4}'); [ -d $(VENV) ] || [ "$$free" -ge 8000 ] || { \
	  echo "$$free MB are free here; the dependencies take 6 GB, and 2 GB more on their way" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	@echo "installing the dependencies (about 5 GB with torch; a few minutes)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,train,test]'
	@touch $@

# the path as it was typed: neither make nor the shell looks for anything in it
demo: export OWN_FILES := $(value DICOM)
unexport DICOM
demo: $(STAMP)  ## real radiographs through the node; DICOM=path takes your own files
	$(BIN)/prescreen demo --out demo-out $(if $(value DICOM),-- "$$OWN_FILES")

peers:
	@missing=; for peer in storescu storescp echoscu dsrdump dcmcjpeg Orthanc chromium systemd-analyze; do \
	  command -v $$peer >/dev/null 2>&1 || [ -x /usr/sbin/$$peer ] || missing="$$missing $$peer"; done; \
	[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] || missing="$$missing DICOMweb-for-Orthanc"; \
	ls /usr/share/fonts/*/noto/NotoSansCJK-Regular.ttc >/dev/null 2>&1 || missing="$$missing Noto-Sans-CJK"; \
	if [ -n "$$missing" ]; then echo "missing peers:$$missing; install them with: $(APT)" >&2; exit 3; fi
	@$(PYTHON) -c 'from tests.peers import ohif; ohif.require()'

viewers: peers $(STAMP)  ## what real viewers show, written into docs/viewers.md
	$(BIN)/python -m tests.e2e.viewers

check: $(STAMP)  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@.ci/audit $(TOOLS)

audit:  ## ask whether flaws are known of what is pinned; offline is said, and no failure
	@.ci/audit $(TOOLS)

sbom: $(STAMP)  ## sbom.json: what is installed, as CycloneDX
	@[ -x $(TOOLS)/bin/cyclonedx-py ] || $(PYTHON) -m venv $(TOOLS)
	@[ -x $(TOOLS)/bin/cyclonedx-py ] || $(TOOLS)/bin/python -m pip install --quiet cyclonedx-bom==7.5.0
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --output-format JSON --output-file sbom.json

test: peers $(STAMP) check  ## install, check, run the tests, two files at a time
	$(BIN)/python -m pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder

bench: peers $(STAMP)  ## rates, CPU per study, memory, latency: one JSON and one table
	$(BIN)/python -m bench --json bench.json

light:  ## training and the networks' bench with torch 2.6 and five others alone (4 GB to fetch)
	@.ci/light .light

soak: peers $(STAMP)  ## new examples for the property tests, atheris hunting, hundreds of kills, attacks side by side
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[soak]'
	HYPOTHESIS=random $(BIN)/python -m pytest tests/properties tests/unit
	$(BIN)/python -m pytest -m soak -s tests/e2e tests/peers
	$(BIN)/python -m bench.attacks --json attacks.json

engine:
	@[ -n "$(ENGINE)" ] || { echo "no container engine; install one with: apt-get install -y podman" >&2; exit 3; }

image: engine  ## the container image (6 GB, 24 GB while it is made); BASE=image, IMAGE_FLAGS=…
	$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker) $(IMAGE_FLAGS) \
	  $(if $(BASE),--build-arg BASE=$(BASE)) --file deploy/Dockerfile --tag $(IMAGE) .

image-check: engine $(STAMP)  ## the image at work as an administrator runs it, with DCMTK around it
	@command -v storescu >/dev/null || { echo "missing peer: DCMTK; apt-get install -y dcmtk" >&2; exit 3; }
	$(BIN)/python -m tests.e2e.container $(ENGINE) $(IMAGE)

train: $(STAMP)  ## train both networks on the data at hand (hours on a CPU)
	PRESCREEN_RUNS=$(RUNS) $(BIN)/python -m train.lungs_heart --run lungs_heart --fold -1
	PRESCREEN_RUNS=$(RUNS) $(BIN)/python -m train.findings --run findings --fold -1 \
	  --lungs-heart $(RUNS)/lungs_heart/last.pt

clean:
	rm -rf $(VENV) $(TOOLS) .light sbom.json build dist demo-out bench.json attacks.json
