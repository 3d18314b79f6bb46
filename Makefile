# ILGNet toolkit. `make` lists the targets; `make demo` does everything once on a small set; `make test` tests.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VARIANT ?= v1bn
ENGINE ?= torch
OUT ?= out
AVA ?=
GPU ?=
# BVLC GoogLeNet, or another caffemodel to start from (`ilgnet surgery`); none: start from random weights
WEIGHTS ?= weights/bvlc_googlenet.caffemodel
SNAPSHOT ?=
SEED ?= 1
HOURS ?= 1
PHOTOS ?=

VENV := .venv
PY := $(VENV)/bin/python
ILGNET := $(VENV)/bin/ilgnet
STAMP := $(VENV)/.installed
ILGNETS := v1 v1bn v3 v4 noinc
VARIANTS := $(ILGNETS) third two_thirds full

.DEFAULT_GOAL := help
.PHONY: help setup demo gallery teach lint test test-quick fuzz crash bvlc parity nets ava1-data ava1-delta1-data ava2-data ava1-train ava1-delta1-train \
        ava2-train ava1-test ava1-delta1-test ava2-test report benchmark clean

help:  ## print this list
	@grep -hE '^[a-z0-9 -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/; s/ ava1-delta1-data ava2-data/, ava2-data/' | \
	  awk -F'\t' '{printf "  %-21s %s\n", $$1, $$2}'
	@echo; printf '  %s\n' \
	  'AVA=               the folder with AVA.txt and images/' \
	  'VARIANT=$(VARIANT)       $(VARIANTS)' \
	  'GPU=               number of the GPU to train and test on (default: the CPU)' \
	  'ENGINE=$(ENGINE)       torch, or bvlc: a real pycaffe (make bvlc installs one)' \
	  'WEIGHTS=$(WEIGHTS)   weights to start from, or none' \
	  'SNAPSHOT=          a .solverstate to resume from; auto: the newest if there is one' \
	  'MODEL=             the caffemodel to test; several: seeds of one net' \
	  'TTA=               mirror, crops or both: average over views in tests' \
	  'OUT=$(OUT)           where results go'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || \
	  { echo "error: $(PYTHON) is older than Python 3.10; name a newer one, as in: make PYTHON=python3.11 setup"; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[test,tensorboard]'
	@touch $@

setup: $(STAMP)  ## make .venv and install the toolkit with the tested versions

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint  ## ruff, mypy and every test (needs no GPU and no data)
	$(PY) -m pytest -n 2

test-quick: lint  ## the same without the slow tests, in two minutes
	$(PY) -m pytest -n 2 -m 'not slow'

nets: $(STAMP)  ## write every file below prototxt/ and solvers/ again
	$(ILGNET) gen-net --all
	$(ILGNET) gen-solver --all

bvlc: $(STAMP)  ## install real BVLC Caffe for ENGINE=bvlc and parity (as root on Debian)
	$(ILGNET) setup-bvlc

fuzz: $(STAMP)  ## feed random input to every reader for HOURS (1)
	$(PY) -m tests.fuzz --hours $(HOURS)

crash: $(STAMP)  ## kill training and data preparation at random points, and compare the results
	$(PY) -m tests.crash --work $(OUT)/crash

parity: $(STAMP)  ## run both engines on the same scripts and print where they differ
	$(PY) -m tests.bvlc.parity --out $(OUT)/parity

# -- the demo: the steps below on a small set that it makes itself -----------------------------------------------------

DEMO := $(OUT)/demo

DEMO_COUNT ?= 900
DEMO_ITERATIONS ?= 200
DEMO_LR ?= 0.00002

demo: $(STAMP)  ## data, training, test and report on a small set, in minutes (PHOTOS=: a folder of real photos)
	mkdir -p $(DEMO)/snapshots
	rm -f $(DEMO)/snapshots/demo_iter_*
	$(ILGNET) demo --out $(DEMO)/ava --count $(DEMO_COUNT) $(if $(PHOTOS),--photos $(PHOTOS))
	$(ILGNET) prepare $(DEMO)/ava --dataset ava1 --lists $(DEMO)/ava/lists --out $(DEMO)/data
	$(ILGNET) gen-net --variant $(VARIANT) --batch-size 16 --source $(DEMO)/data --out $(DEMO)/net
	$(ILGNET) gen-solver --variant $(VARIANT) --net $(DEMO)/net/train_val.prototxt --base-lr $(DEMO_LR) \
	  --max-iter $(DEMO_ITERATIONS) --test-interval 100 --test-iter 4 --snapshot 100 --display 10 --random-seed 1 \
	  --snapshot-prefix $(DEMO)/snapshots/demo --out $(DEMO)/solver.prototxt
	$(ILGNET) train --solver $(DEMO)/solver.prototxt --tensorboard $(COMPUTE)
	$(ILGNET) evaluate --weights $(DEMO)/snapshots/demo_iter_$(DEMO_ITERATIONS).caffemodel \
	  --net $(DEMO)/net/deploy.prototxt --lmdb $(DEMO)/data/val_lmdb --name demo --out $(DEMO)/evaluation.json $(COMPUTE)
	$(if $(filter $(VARIANT),$(ILGNETS)),$(ILGNET) visualize \
	  --weights $(DEMO)/snapshots/demo_iter_$(DEMO_ITERATIONS).caffemodel --net $(DEMO)/net/deploy.prototxt \
	  --lmdb $(DEMO)/data/val_lmdb --name demo --out $(DEMO)/features.json $(COMPUTE))
	$(ILGNET) report --run random=$(DEMO)/snapshots/demo.log --eval $(DEMO)/evaluation.json \
	  $(if $(filter $(VARIANT),$(ILGNETS)),--features $(DEMO)/features.json) \
	  $(call given,--benchmark,$(OUT)/benchmark.json) --synthetic --out $(DEMO)/report.html
	@echo "Open $(DEMO)/report.html"

# OPTION FILE, if FILE exists
given = $(if $(wildcard $(2)),$(1) $(2))

# -- photos without AVA ------------------------------------------------------------------------------------------------

MODEL ?=
JUDGE ?= nima
TEACH := $(OUT)/teach
TEACH_ITERATIONS ?= 400
TEACH_LR ?= 0.003

define need_photos
	@test -d "$(PHOTOS)" || { echo "error: PHOTOS='$(PHOTOS)': name a folder of photos, as in: make $@ PHOTOS=/path/to/it"; exit 2; }
endef

gallery: $(STAMP)  ## rank PHOTOS= in an offline page (MODEL=: a caffemodel or a model's name)
	$(need_photos)
	$(ILGNET) rank "$(PHOTOS)" --out $(OUT)/gallery.html --top 10 $(if $(MODEL),--weights $(MODEL)) $(COMPUTE)

teach: $(STAMP)  ## teach VARIANT what JUDGE says of PHOTOS=: an ILGNet that predicts votes, without AVA
	$(need_photos)
	@test -f "$(WEIGHTS)" || { echo "error: WEIGHTS='$(WEIGHTS)' is missing: the net starts from BVLC GoogLeNet: $(ILGNET) fetch-weights --out $(dir $(WEIGHTS))"; exit 2; }
	mkdir -p $(TEACH)/snapshots
	rm -f $(TEACH)/snapshots/teach_iter_*
	$(ILGNET) rank "$(PHOTOS)" --weights $(JUDGE) --out $(TEACH)/judge.html
	$(ILGNET) prepare --labels $(TEACH)/judge.csv --images "$(PHOTOS)" --targets distribution mean --seed $(SEED) \
	  --out $(TEACH)/data
	$(ILGNET) gen-net --variant $(VARIANT) --trunk frozen --target distribution --batch-size 16 --source $(TEACH)/data \
	  --out $(TEACH)/net
	$(ILGNET) surgery --weights "$(WEIGHTS)" --net $(TEACH)/net/train_val.prototxt --seed $(SEED) \
	  --calibrate $(TEACH)/data/train_lmdb --balance --out $(TEACH)/start.caffemodel
	$(ILGNET) gen-solver --variant $(VARIANT) --net $(TEACH)/net/train_val.prototxt --base-lr $(TEACH_LR) \
	  --max-iter $(TEACH_ITERATIONS) --test-interval 100 --test-iter 5 --snapshot $(TEACH_ITERATIONS) --display 10 \
	  --random-seed $(SEED) --snapshot-prefix $(TEACH)/snapshots/teach --out $(TEACH)/solver.prototxt
	$(ILGNET) train --solver $(TEACH)/solver.prototxt --weights $(TEACH)/start.caffemodel $(COMPUTE)
	$(ILGNET) evaluate --weights $(TEACH)/snapshots/teach_iter_$(TEACH_ITERATIONS).caffemodel \
	  --lmdb $(TEACH)/data/val_lmdb --name taught --out $(TEACH)/evaluation.json $(COMPUTE)
	$(ILGNET) report --run taught=$(TEACH)/snapshots/teach.log --eval $(TEACH)/evaluation.json --out $(TEACH)/report.html
	@echo "Open $(TEACH)/report.html"
	@echo "Next: install it: $(ILGNET) fetch-weights taught --file $(TEACH)/snapshots/teach_iter_$(TEACH_ITERATIONS).caffemodel"

# -- AVA ---------------------------------------------------------------------------------------------------------------

COMPUTE = --engine $(ENGINE) $(if $(GPU),--gpu $(GPU))

.PHONY: need-ava
need-ava:
	@test -f "$(AVA)/AVA.txt" -a -d "$(AVA)/images" || { echo "error: AVA='$(AVA)': this target needs the AVA data set: a folder with \
	AVA.txt (the ratings, https://github.com/imfing/ava_downloader) and images/ (the 255,529 photos of DPChallenge.com); \
	then: make $(MAKECMDGOALS) AVA=/path/to/it"; exit 2; }

define need_data
	@for file in train_lmdb/data.mdb val_lmdb/data.mdb mean.binaryproto; do test -f data/$(1)/$$file || \
	{ echo "error: data/$(1)/$$file is missing; make it with: make $(subst _,-,$(1))-data AVA=/path/to/AVA"; exit 2; }; done
endef

ava1-data ava1-delta1-data ava2-data: need-ava $(STAMP)  ## LMDBs and mean of a data set in data/ (needs AVA=)
	$(ILGNET) prepare "$(AVA)" --dataset $(subst -,_,$(@:-data=)) --seed $(SEED) --out data/$(subst -,_,$(@:-data=))

# The starting weights that surgery makes of WEIGHTS; empty for WEIGHTS=none, and for a snapshot, which has its own.
# SNAPSHOT=auto uses them if there is no snapshot yet.
init = $(if $(filter-out auto,$(SNAPSHOT))$(filter none,$(WEIGHTS)),,out/snapshots/$(1)_$(VARIANT)_init.caffemodel)

define train
	$(call need_data,$(1))
	@test -z "$(init)" -o -f "$(WEIGHTS)" -o "$(SNAPSHOT)" = auto -a -f "$(init)" || { echo "error: WEIGHTS='$(WEIGHTS)' is missing; the paper starts from \
	BVLC GoogLeNet: $(ILGNET) fetch-weights --out $(dir $(WEIGHTS)), or start from random weights: make $@ WEIGHTS=none"; exit 2; }
	mkdir -p out/snapshots
	$(if $(init),$(if $(SNAPSHOT),test -f $(init) || )$(ILGNET) surgery --weights "$(WEIGHTS)" \
	  --net prototxt/$(VARIANT)/train_val$(2).prototxt --seed $(SEED) --out $(init))
	$(ILGNET) train --solver solvers/$(1)/$(VARIANT).prototxt --estimate $(COMPUTE) \
	  $(if $(SNAPSHOT),--snapshot $(SNAPSHOT)) $(if $(init),--weights $(init))
endef

ava1-train: $(STAMP)  ## train VARIANT on AVA1 by Table 1's schedule, from WEIGHTS
	$(call train,ava1,)

ava1-delta1-train: $(STAMP)  ## the same with delta = 1 (without ambiguous training photos)
	$(call train,ava1_delta1,_ava1_delta1)

ava2-train: $(STAMP)  ## the same on AVA2
	$(call train,ava2,_ava2)

define evaluate
	@test -d data/$(1)/val_lmdb || { echo "error: data/$(1)/val_lmdb is missing; make it with: make $(subst _,-,$(1))-data AVA=/path/to/AVA"; exit 2; }
	@test -n "$(MODEL)" && ls -- $(MODEL) > /dev/null 2>&1 || { echo "error: MODEL='$(MODEL)': name the caffemodel to test, as in: make $@ MODEL=out/snapshots/$(1)_$(VARIANT)_iter_N.caffemodel"; exit 2; }
	mkdir -p $(OUT)/evaluations
	$(ILGNET) evaluate --weights $(MODEL) --net $(VARIANT) --lmdb data/$(1)/val_lmdb --dataset $(1) --name $(VARIANT) \
	  --out $(OUT)/evaluations/$(1)_$(VARIANT).json $(if $(TTA),--tta $(TTA)) $(COMPUTE)
	$(if $(filter $(VARIANT),$(ILGNETS)),$(ILGNET) visualize --weights $(firstword $(MODEL)) --net $(VARIANT) \
	  --lmdb data/$(1)/val_lmdb --name "$(VARIANT) on $(1)" --out $(OUT)/features/$(1)_$(VARIANT).json $(COMPUTE))
endef

ava1-test: $(STAMP)  ## test MODEL= (several: seeds of one net) on AVA1's test set
	$(call evaluate,ava1)

ava1-delta1-test: $(STAMP)  ## the same for a net trained with delta = 1
	$(call evaluate,ava1_delta1)

ava2-test: $(STAMP)  ## the same on AVA2's test set
	$(call evaluate,ava2)

report: $(STAMP)  ## the paper's tables and figures beside your results in out/snapshots and OUT
	@compgen -G 'out/snapshots/*.log' > /dev/null || compgen -G '$(OUT)/evaluations/*.json' > /dev/null || \
	  { echo "error: nothing to report: no out/snapshots/*.log and no $(OUT)/evaluations/*.json; train and test first"; exit 2; }
	$(ILGNET) report $(foreach log,$(wildcard out/snapshots/*.log),--run $(basename $(notdir $(log)))=$(log)) \
	  $(foreach json,$(wildcard $(OUT)/evaluations/*.json),--eval $(json)) \
	  $(foreach json,$(wildcard $(OUT)/features/*.json),--features $(json)) \
	  $(call given,--benchmark,$(OUT)/benchmark.json) --out $(OUT)/report.html

benchmark: $(STAMP)  ## time the nets on this machine beside the paper's Table 4
	$(ILGNET) benchmark --out $(OUT)/benchmark.json $(if $(GPU),--gpu $(GPU))

clean:  ## remove out/ and caches (out/snapshots, data/, weights/ and .venv stay)
	test ! -d out || find out -mindepth 1 -maxdepth 1 -not -name snapshots -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
