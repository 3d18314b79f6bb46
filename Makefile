# ILGNet toolkit. `make` prints the targets; `make demo` runs the whole road on a small set; `make test` tests.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VARIANT ?= v1bn
ENGINE ?= torch
OUT ?= out
AVA ?=
GPU ?=
# BVLC GoogLeNet (or another source that tools/surgery.py takes); none: start from random weights
WEIGHTS ?= weights/bvlc_googlenet.caffemodel
SNAPSHOT ?=
SEED ?= 1
HOURS ?= 1

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
ILGNETS := v1 v1bn v3 v4 noinc
VARIANTS := $(ILGNETS) third two_thirds full

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz crash bvlc parity nets ava1-data ava1-delta1-data ava2-data ava1-train ava1-delta1-train \
        ava2-train ava1-test ava1-delta1-test ava2-test report benchmark clean

help:  ## print this list
	@grep -hE '^[a-z0-9 -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/; s/ ava1-delta1-data ava2-data/, ava2-data/' | \
	  awk -F'\t' '{printf "  %-21s %s\n", $$1, $$2}'
	@echo; printf '  %s\n' \
	  'AVA=               the folder with AVA.txt and images/' \
	  'VARIANT=$(VARIANT)       $(VARIANTS)' \
	  'GPU=               number of the GPU to train and test on (default: the CPU)' \
	  'ENGINE=$(ENGINE)       torch, or bvlc: a real pycaffe (make bvlc sets one up)' \
	  'WEIGHTS=$(WEIGHTS)   weights to start from, or none' \
	  'SNAPSHOT=          a .solverstate to go on from; auto: the newest, or a fresh start where there is none' \
	  'MODEL=             the caffemodel to test; several: seeds of one net' \
	  'TTA=               mirror, crops or both: average over views in tests' \
	  'OUT=$(OUT)           where results go'

$(STAMP): setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2])' || \
	  { echo "error: $(PYTHON) is older than Python 3.10; name a newer one, as in: make PYTHON=python3.11 setup"; exit 2; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[test,tensorboard]'
	@touch $@

setup: $(STAMP)  ## make .venv and install the toolkit with the tested versions

test: $(STAMP)  ## ruff and every test (no GPU, no data needed)
	$(VENV)/bin/ruff check .
	$(PY) -m pytest -n 2

nets: $(STAMP)  ## write every committed prototxt below prototxt/ and solvers/ anew
	$(PY) tools/gen_net.py --all
	$(PY) tools/gen_solver.py --all

bvlc: $(STAMP)  ## set up real BVLC Caffe (Debian 11's, as root on a Debian machine) for ENGINE=bvlc and parity
	$(PY) tools/setup_bvlc.py

fuzz: $(STAMP)  ## feed every reader made-up input for HOURS (1), with limits on time and memory
	$(PY) -m tests.fuzz --hours $(HOURS)

crash: $(STAMP)  ## kill training and data preparation at random points, fill their disk, and compare what comes of it
	$(PY) -m tests.crash --work $(OUT)/crash

parity: $(STAMP)  ## run both engines live on the same scripts and print where they differ
	$(PY) -m tests.bvlc.parity --out $(OUT)/parity

# -- the demo: the road below on a small set that it makes itself ------------------------------------------------------

DEMO := $(OUT)/demo
PHOTOS ?=
DEMO_COUNT ?= 900
DEMO_ITERATIONS ?= 200
DEMO_LR ?= 0.00002

demo: $(STAMP)  ## the whole road on two cores in minutes: photos, LMDB, training, test, report (PHOTOS=: real ones)
	mkdir -p $(DEMO)/snapshots
	rm -f $(DEMO)/snapshots/demo_iter_*
	$(PY) data_prep/demo.py --out $(DEMO)/ava --count $(DEMO_COUNT) $(if $(PHOTOS),--photos $(PHOTOS))
	$(PY) data_prep/prepare.py $(DEMO)/ava --dataset ava1 --lists $(DEMO)/ava/lists --out $(DEMO)/data
	$(PY) tools/gen_net.py --variant $(VARIANT) --batch-size 16 --source $(DEMO)/data --out $(DEMO)/net
	$(PY) tools/gen_solver.py --variant $(VARIANT) --net $(DEMO)/net/train_val.prototxt --base-lr $(DEMO_LR) \
	  --max-iter $(DEMO_ITERATIONS) --test-interval 100 --test-iter 4 --snapshot 100 --display 10 --random-seed 1 \
	  --snapshot-prefix $(DEMO)/snapshots/demo --out $(DEMO)/solver.prototxt
	$(PY) tools/train.py --solver $(DEMO)/solver.prototxt --tensorboard $(COMPUTE)
	$(PY) tools/evaluate.py --weights $(DEMO)/snapshots/demo_iter_$(DEMO_ITERATIONS).caffemodel \
	  --net $(DEMO)/net/deploy.prototxt --lmdb $(DEMO)/data/val_lmdb --name demo --out $(DEMO)/evaluation.json $(COMPUTE)
	$(if $(filter $(VARIANT),$(ILGNETS)),$(PY) tools/visualize.py \
	  --weights $(DEMO)/snapshots/demo_iter_$(DEMO_ITERATIONS).caffemodel --net $(DEMO)/net/deploy.prototxt \
	  --lmdb $(DEMO)/data/val_lmdb --name demo --out $(DEMO)/features.json $(COMPUTE))
	$(PY) tools/report.py --run random=$(DEMO)/snapshots/demo.log --eval $(DEMO)/evaluation.json \
	  $(if $(filter $(VARIANT),$(ILGNETS)),--features $(DEMO)/features.json) \
	  $(call given,--benchmark,$(OUT)/benchmark.json) --synthetic --out $(DEMO)/report.html
	@echo "Open $(DEMO)/report.html"

# OPTION FILE, where FILE is there
given = $(if $(wildcard $(2)),$(1) $(2))

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

ava1-data ava1-delta1-data ava2-data: need-ava $(STAMP)  ## LMDBs and mean of AVA1 or AVA2 in data/ (needs AVA=; ava1-delta1-data too)
	$(PY) data_prep/prepare.py "$(AVA)" --dataset $(subst -,_,$(@:-data=)) --seed $(SEED) --out data/$(subst -,_,$(@:-data=))

# Where a fresh start's weights lie that surgery makes of WEIGHTS; nothing where a snapshot brings its own, or for none.
# SNAPSHOT=auto starts with them where there is no snapshot yet, and later with the same ones.
init = $(if $(filter-out auto,$(SNAPSHOT))$(filter none,$(WEIGHTS)),,out/snapshots/$(1)_$(VARIANT)_init.caffemodel)

define train
	$(call need_data,$(1))
	@test -z "$(init)" -o -f "$(WEIGHTS)" -o "$(SNAPSHOT)" = auto -a -f "$(init)" || { echo "error: WEIGHTS='$(WEIGHTS)' is missing; the paper starts from \
	BVLC GoogLeNet: $(PY) tools/fetch_weights.py, or start from random weights: make $@ WEIGHTS=none"; exit 2; }
	mkdir -p out/snapshots
	$(if $(init),$(if $(SNAPSHOT),test -f $(init) || )$(PY) tools/surgery.py --weights "$(WEIGHTS)" \
	  --net prototxt/$(VARIANT)/train_val$(2).prototxt --seed $(SEED) --out $(init))
	$(PY) tools/train.py --solver solvers/$(1)/$(VARIANT).prototxt --estimate $(COMPUTE) \
	  $(if $(SNAPSHOT),--snapshot $(SNAPSHOT)) $(if $(init),--weights $(init))
endef

ava1-train: $(STAMP)  ## train VARIANT on AVA1 by Table 1's schedule, from GoogLeNet's weights (WEIGHTS=)
	$(call train,ava1,)

ava1-delta1-train: $(STAMP)  ## the same with delta = 1 (ambiguous photos left out of training)
	$(call train,ava1_delta1,_ava1_delta1)

ava2-train: $(STAMP)  ## the same on AVA2
	$(call train,ava2,_ava2)

define evaluate
	@test -d data/$(1)/val_lmdb || { echo "error: data/$(1)/val_lmdb is missing; make it with: make $(subst _,-,$(1))-data AVA=/path/to/AVA"; exit 2; }
	@test -n "$(MODEL)" && ls -- $(MODEL) > /dev/null 2>&1 || { echo "error: MODEL='$(MODEL)': name the caffemodel to test, as in: make $@ MODEL=out/snapshots/$(1)_$(VARIANT)_iter_N.caffemodel"; exit 2; }
	mkdir -p $(OUT)/evaluations
	$(PY) tools/evaluate.py --weights $(MODEL) --net $(VARIANT) --lmdb data/$(1)/val_lmdb --dataset $(1) --name $(VARIANT) \
	  --out $(OUT)/evaluations/$(1)_$(VARIANT).json $(if $(TTA),--tta $(TTA)) $(COMPUTE)
	$(if $(filter $(VARIANT),$(ILGNETS)),$(PY) tools/visualize.py --weights $(firstword $(MODEL)) --net $(VARIANT) \
	  --lmdb data/$(1)/val_lmdb --name "$(VARIANT) on $(1)" --out $(OUT)/features/$(1)_$(VARIANT).json $(COMPUTE))
endef

ava1-test: $(STAMP)  ## test MODEL= (several: seeds of one net) on AVA1's whole test set
	$(call evaluate,ava1)

ava1-delta1-test: $(STAMP)  ## the same of a net trained with delta = 1
	$(call evaluate,ava1_delta1)

ava2-test: $(STAMP)  ## test MODEL= on AVA2's whole test set
	$(call evaluate,ava2)

report: $(STAMP)  ## the paper's tables and figures beside ours: out/snapshots' logs, OUT's results; HTML, Markdown, CSV
	@compgen -G 'out/snapshots/*.log' > /dev/null || compgen -G '$(OUT)/evaluations/*.json' > /dev/null || \
	  { echo "error: nothing to report: no out/snapshots/*.log and no $(OUT)/evaluations/*.json; train and test first"; exit 2; }
	$(PY) tools/report.py $(foreach log,$(wildcard out/snapshots/*.log),--run $(basename $(notdir $(log)))=$(log)) \
	  $(foreach json,$(wildcard $(OUT)/evaluations/*.json),--eval $(json)) \
	  $(foreach json,$(wildcard $(OUT)/features/*.json),--features $(json)) \
	  $(call given,--benchmark,$(OUT)/benchmark.json) --out $(OUT)/report.html

benchmark: $(STAMP)  ## time the nets on this machine beside the paper's Table 4
	$(PY) tools/benchmark.py --out $(OUT)/benchmark.json $(if $(GPU),--gpu $(GPU))

clean:  ## remove what was generated in out/ and caches (out/snapshots, data/, weights/ and .venv stay)
	test ! -d out || find out -mindepth 1 -maxdepth 1 -not -name snapshots -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
