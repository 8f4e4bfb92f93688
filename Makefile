# The one door, for people and CI alike. `make` lists what it opens.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet --quiet
SOURCES := cellar models service training examples benchmarks tests
# cellar.v1 as it was last released; a change may add to it, and break nothing.
RELEASED := proto/cellar.v1.binpb
PROTOS := $(shell find proto/cellar -name '*.proto' | sort)
# The generator of the stubs has an environment of its own: see proto/requirements.txt.
PROTO_VENV := .venv-proto
PROTOC = $(PROTO_VENV)/bin/python -m grpc_tools.protoc -Iproto
VARIANT ?= cpu
ENGINE ?= $(firstword $(foreach tool,docker podman buildah,$(shell command -v $(tool) 2>/dev/null)))

# ONNX Runtime's own wheels report home unless told not to.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up ----

.PHONY: setup
setup: $(VENV)/.ready ## make .venv with everything the other targets need
	@:

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Cellar needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another one: make setup PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(VENV) (minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt -e '.[serve,train,dev]'
	@touch $@

$(VENV)/.deploy-ready: $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[deploy]'
	@touch $@

$(VENV)/.supply-ready: $(VENV)/.ready
	@$(PIP) install -c constraints.txt -e '.[supply]'
	@touch $@

$(PROTO_VENV)/.ready: proto/requirements.txt
	@test -x $(PROTO_VENV)/bin/python || $(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/pip --disable-pip-version-check --quiet --quiet install -r proto/requirements.txt
	@touch $@

node_modules/.ready: package.json
	@npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts
	@touch $@

# ---- use ----

.PHONY: demo
demo: setup ## train, serve and use a small model; TEXT=file, CSV=file for data of your own
	@$(BIN)/python -m examples.demo $(if $(TEXT),--text '$(TEXT)') $(if $(CSV),--csv '$(CSV)') $(if $(VALUE),--value '$(VALUE)') $(ARGS)

.PHONY: serve
serve: setup ## start the server; ARGS='--port 8001'
	@exec $(BIN)/cellar-serve $(ARGS)

.PHONY: zoo
zoo: setup ## train the models of models/zoo anew (some 5 minutes)
	@rm -rf models/zoo
	@$(BIN)/cellar-train char --stdlib --name stdlib-text --steps 6000 --models models/zoo
	@$(BIN)/cellar-train series --synthetic 5000 --name synthetic-prices --steps 400 --models models/zoo

.PHONY: bench
bench: setup ## measure speed and memory (some 8 minutes); ARGS='--quick', ARGS='--save NAME'
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-compare
bench-compare: setup ## hold CPU per step against another commit's (some 11 minutes); BASE=commit, ARGS='--only frames'
	@test -n "$(BASE)" || { echo "name a commit: make bench-compare BASE=main" >&2; exit 1; }
	@$(BIN)/python -m benchmarks.compare '$(BASE)' $(ARGS)

.PHONY: bench-triton
bench-triton: setup ## measure beside NVIDIA Triton, which it installs in .bench-triton; ARGS='--quick'
	@$(BIN)/python -m benchmarks.triton $(ARGS)

.PHONY: load
load: setup ## steps at fixed rates, up to three times what the server can, by h2load; ARGS='--seconds 3'
	@$(BIN)/python -m benchmarks.h2load $(ARGS)

.PHONY: gpu-check
ifdef WHEELS
gpu-check: ## check and time everything on an NVIDIA GPU; fails where there is none; ARGS='--quick', WHEELS=folder on a bare machine
	@PYTHON=$(PYTHON) bash benchmarks/gpu/bare/check.sh '$(WHEELS)' $(ARGS)
else
gpu-check: setup
	@$(BIN)/python -m benchmarks.gpu $(ARGS)
endif

.PHONY: gpu-wheels
gpu-wheels: setup ## bring together the wheels that gpu-check takes on a bare machine; WHEELS=folder
	@bash benchmarks/gpu/bare/wheels.sh '$(or $(WHEELS),build/gpu-wheels)'

.PHONY: hops
hops: setup ## count the files of service/ that one call goes through; ARGS='--show step'
	@$(BIN)/python -m benchmarks.hops $(ARGS)

.PHONY: scores
scores: setup ## train and score on public data (some 25 minutes); ARGS='--only labels --seeds 1'
	@$(BIN)/python -m benchmarks.scores $(ARGS)

# ---- check ----

.PHONY: test
test: setup ## run the tests side by side; ARGS='-k arena'
	@$(BIN)/pytest -n auto --dist worksteal $(ARGS)

.PHONY: test-long
test-long: setup ## run the tests that take minutes, or install packages
	@$(BIN)/pytest -n 2 --dist worksteal -m 'long and not gpu' $(ARGS)

.PHONY: test-gpu
test-gpu: setup ## run the tests that need an NVIDIA GPU; they fail where there is none
	@$(BIN)/pytest -m gpu $(ARGS) || { \
	  status=$$?; test $$status != 5 || echo "test-gpu: no test was run" >&2; exit $$status; }

.PHONY: fuzz
fuzz: setup ## send 100,000 hostile messages to a server (some 3 minutes); ARGS='--seed 2', ARGS='--case 1:0:36'
	@$(BIN)/python -m benchmarks.fuzz $(ARGS)

.PHONY: attack
attack: setup ## attack a server in every way, and hold who is polite against what he feels alone (some 15 minutes); ARGS='--quick'
	@$(BIN)/python -m benchmarks.attack $(ARGS)

.PHONY: fault-plays
fault-plays: setup ## play everything at once, and faults at random lines of the engine; PLAYS=10 times as long
	@PLAYS=$(or $(PLAYS),10) $(BIN)/pytest -q -m long tests/service/engine/test_faults.py tests/service/engine/test_everything_at_once.py

.PHONY: read-fuzz
read-fuzz: setup ## write 5,000 random files of known series, and hold what training reads against them; ARGS='--seed 9'
	@$(BIN)/python -m tests.training.data.series.read_fuzz $(ARGS)

.PHONY: file-fuzz
file-fuzz: setup ## have a server load 5,000 bad model files, and bad stores be read; ARGS='--seed 2', ARGS='--case 36'
	@$(BIN)/python -m tests.models.untrusted.file_fuzz $(ARGS)
	@$(BIN)/pytest -q -m long tests/service/engine/log/test_foreign_stores.py

.PHONY: snapshot-fuzz
snapshot-fuzz: setup ## have an engine import 20,000 snapshots that were changed; ARGS='--seed 2'
	@$(BIN)/python -m tests.service.engine.calls.snapshots.snapshot_fuzz $(ARGS)

.PHONY: soak
soak: setup ## let callers come and vanish for 10 minutes, and see what grows; ARGS='--minutes 1'
	@$(BIN)/python -m benchmarks.soak $(ARGS)

.PHONY: chaos
chaos: setup ## hurt a server for 10 minutes, and hold every reply against an oracle; ARGS='--minutes 1'
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

.PHONY: crash-points
crash-points: setup ## end the engine at 10,000 points of its writes, and ask what it knows (some 8 minutes); ARGS='--points 500'
	@$(BIN)/python -m benchmarks.crash $(ARGS)

.PHONY: restart
restart: setup ## kill a server with 100,000 sessions, and see how soon they are back (some 3 minutes)
	@$(BIN)/python -m benchmarks.restart $(ARGS)

.PHONY: lint
lint: lint-style lint-types lint-imports lint-proto lint-stubs lint-sync lint-deploy ## style, types, imports, protos, manifests and what is generated

.PHONY: lint-style
lint-style: setup
	@$(BIN)/ruff check --quiet $(SOURCES) deploy
	@$(BIN)/ruff format --check --quiet $(SOURCES) deploy || { \
	  $(BIN)/ruff format --check $(SOURCES) deploy; echo "mend it with: make format" >&2; exit 1; }
	@echo "style: ok"

.PHONY: lint-types
lint-types: setup
	@$(BIN)/mypy --no-error-summary $(SOURCES)
	@echo "types: ok"

.PHONY: lint-imports
lint-imports: setup
	@$(BIN)/lint-imports --no-logo

.PHONY: lint-proto
ifneq ($(shell command -v npm 2>/dev/null),)
lint-proto: node_modules/.ready
	@node_modules/.bin/buf lint proto
	@node_modules/.bin/buf breaking proto --against $(RELEASED) || { \
	  echo "cellar.v1 is released: add to it, and change nothing that is there" >&2; exit 1; }
	@echo "protos: ok"
else
lint-proto:
	@echo "protos: NOT linted: buf comes from npm, and there is no npm here"
endif

.PHONY: lint-stubs
lint-stubs: $(PROTO_VENV)/.ready
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --pyi_out="$$fresh" --grpc_python_out="$$fresh" $(PROTOS) && \
	diff --recursive --brief --exclude=__init__.py --exclude=__pycache__ \
	  "$$fresh/cellar/v1" cellar/v1 || { \
	  echo "cellar/v1 is not what proto/ says; mend it with: make proto" >&2; exit 1; }
	@echo "stubs: ok"

.PHONY: lint-sync
lint-sync: setup
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(BIN)/python -m deploy.sync_client "$$fresh" && \
	for file in $$(grep --files-with-matches '^# Generated from cellar/aio/' cellar/sync/*.py "$$fresh"/*.py); do \
	  name=$$(basename "$$file") && diff --brief --new-file "$$fresh/$$name" "cellar/sync/$$name" || { \
	  echo "cellar/sync/$$name is not what cellar/aio says; mend it with: make sync-client" >&2; exit 1; }; \
	done
	@echo "synchronous client: ok"

.PHONY: lint-deploy
lint-deploy: $(VENV)/.deploy-ready
	@deploy/check.sh $(BIN)

.PHONY: docker-check
docker-check: lint-deploy ## lint Dockerfile and manifests; build, start and probe what the image holds
	@deploy/replay.sh $(VARIANT)

.PHONY: audit
audit: $(VENV)/.supply-ready ## ask for known vulnerabilities of what the images hold; fails where it cannot tell
	@$(BIN)/python -m deploy.supply.audit

.PHONY: prometheus
prometheus: .prometheus/usr/bin/promtool ## unpack Debian's Prometheus, with which tests try dashboard and alerts
	@:

.prometheus/usr/bin/promtool:
	@command -v apt-get >/dev/null && command -v dpkg >/dev/null || { \
	  echo "there is no apt-get: put prometheus and promtool on PATH" >&2; exit 1; }
	@mkdir -p .prometheus
	@cd .prometheus && apt-get download -q -q -o APT::Sandbox::User=root prometheus
	@dpkg -x .prometheus/prometheus_*.deb .prometheus
	@rm .prometheus/prometheus_*.deb
	@touch $@

# ---- make ----

.PHONY: proto
proto: $(PROTO_VENV)/.ready ## write cellar/v1 and the table of docs/errors.md anew from proto/
	@rm -f cellar/v1/*_pb2.py cellar/v1/*_pb2.pyi cellar/v1/*_pb2_grpc.py
	@$(PROTOC) --python_out=. --pyi_out=. --grpc_python_out=. $(PROTOS)
	@touch cellar/v1/__init__.py
	@$(PYTHON) -m tests.reasons

.PHONY: release-proto
release-proto: lint-proto ## what proto/ has gained is released: from now on it may not change
	@node_modules/.bin/buf build proto --exclude-source-info --output $(RELEASED)

.PHONY: lock
lock: $(VENV)/.supply-ready ## write deploy/locks anew: what the images hold, by version and hash
	@deploy/supply/lock.sh $(BIN)

.PHONY: licences
licences: $(VENV)/.supply-ready ## write docs/licences.md anew; fails where a licence may not be in an image
	@$(BIN)/python -m deploy.supply.licences

.PHONY: sbom
sbom: $(VENV)/.supply-ready ## write build/sbom-VARIANT.json: what the image holds, as CycloneDX
	@deploy/supply/sbom.sh $(BIN) $(VARIANT)

.PHONY: sync-client
sync-client: setup ## write the synchronous client anew from cellar/aio
	@$(BIN)/python -m deploy.sync_client

.PHONY: format
format: setup ## lay out the code and mend what can be mended
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES) deploy
	@$(BIN)/ruff format --quiet $(SOURCES) deploy

.PHONY: image
image: ## build the container image; VARIANT=cpu or cuda
	@test -n "$(ENGINE)" || { echo "building an image needs docker, podman or buildah" >&2; exit 1; }
	$(ENGINE) build --build-arg VARIANT=$(VARIANT) --tag cellar:$(VARIANT) .

.PHONY: clean
clean: ## remove everything that can be made again
	@rm -rf $(VENV) $(PROTO_VENV) .bench-triton .bench-h2load .prometheus node_modules build dist *.egg-info \
	  examples/node/node_modules \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
