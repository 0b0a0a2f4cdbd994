# `make up` shows Crofter at work on this machine; `make test` checks everything. CI calls these same targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps tools build up up-check dev cluster image plugin test fmt lint doc unit integration tests fuzz deny crds manifests openapi attacks-page llms reference sqlx bench simulate

CARGO ?= cargo
# Go as its own archive installs it, where PATH does not have it yet.
export PATH := $(PATH):/usr/local/go/bin
# Incremental compilation helps the next build only, and CI has none.
ifdef CI
export CARGO_INCREMENTAL := 0
endif
# Cluster tests wait far more than they work: more of them at once than there are cores.
export RUST_TEST_THREADS ?= 4
DEMO = $(CARGO) run --quiet --package crofter-demo --
CLUSTER = $(CARGO) run --quiet --package crofter-test-cluster --

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

deps: ## Install what is missing on Debian, or say what it is
	@scripts/deps

build: ## Build the operator, the demo and the test cluster
	$(CARGO) build --workspace --bins

tools: ## Build the control plane's programs from their Go modules, install the API fuzzer and the generators of clients, once
	$(CLUSTER) build
	@scripts/fuzzer >/dev/null
	@scripts/clients install

##@ See it

up: deps build ## Bring everything up, run the examples and show them until Ctrl-C (NODES=auto|real|kwok)
	@$(DEMO) up --nodes $(or $(NODES),auto)

up-check: deps build ## The same, but end when the examples have, and fail unless each ended as it should
	@$(DEMO) up --nodes $(or $(NODES),auto) --until-done

##@ Work on it

dev: deps build ## Keep a cluster up; rebuild and restart the operator whenever a source changes (NODES=kwok|real)
	@$(DEMO) dev --nodes $(or $(NODES),kwok)

cluster: deps ## Only a control plane and Postgres, until Ctrl-C
	@$(CLUSTER) up

image: ## Build the operator's image for a release, without a daemon: target/image (about ten minutes)
	@scripts/image

plugin: ## Build kubectl crofter, small and without symbols: target/plugin/kubectl-crofter
	$(CARGO) build --profile plugin --bin kubectl-crofter

unit: ## The tests that need no cluster and no database; seconds
	$(CARGO) test --workspace --lib --bins

crds: ## Write crds/ and the chart's copy from src/api_types
	$(CARGO) run --quiet --bin crofter -- crd --dir crds
	$(CARGO) run --quiet --bin crofter -- crd --dir charts/crofter/files/crds

manifests: ## Write what is generated of the chart: charts/manifests, and the table of values in its README
	WRITE_GENERATED=1 $(CARGO) test --quiet --test chart -- current

openapi: ## Write docs/openapi.json from src/http
	$(CARGO) run --quiet --bin crofter -- openapi > target/openapi.json
	mv target/openapi.json docs/openapi.json

attacks-page: ## Write the list of attacks in docs/security.md from src/check/attacks
	WRITE_GENERATED=1 $(CARGO) test --quiet --lib -- check::attacks::tests::the_page

llms: ## Write docs/llms.txt, the list of the pages for programs that read
	WRITE_GENERATED=1 $(CARGO) test --quiet --lib -- docs_tests::llms::llms_txt_is_current

reference: ## Write the pages of docs/reference: resources, routes, command line and files from src, alerts from the chart
	WRITE_GENERATED=1 $(CARGO) test --quiet --lib -- reference_tests::the_page

sqlx: deps ## Write .sqlx/: check the queries of src/db against a real Postgres
	@scripts/sqlx

bench: deps tools ## Measure the release-built operator and a bare client (S=core|drain|contended|churn|big|rest|kueue ARGS="--scale 0.1")
	$(CARGO) build --release --package crofter --package crofter-bench
	target/release/crofter-bench $(S) $(ARGS)

simulate: ## Try a plan table: a month of 1,000 tenants in virtual time (ARGS="--plans plans.yaml --load 1.1")
	$(CARGO) build --release --package crofter --bin crofter
	target/release/crofter simulate $(ARGS)

##@ Check it

test: deps fmt lint doc book tools tests deny ## Everything: format, lints, unit, mock API, Postgres and cluster tests (T=name: only tests of that name)

fmt: ## Check the format
	$(CARGO) fmt --all --check

lint: ## Clippy, shellcheck, markdownlint and actionlint, where every warning is an error
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	@scripts/lint

doc: ## The documentation of the Rust code, where every warning is an error
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --document-private-items

book: ## The pages of docs/ as a book: target/book/index.html
	@scripts/book

fuzz: ## Long runs of the fuzz targets (CASES=20000 each), which `make test` runs for moments
	PROPTEST_CASES=$(or $(CASES),20000) $(CARGO) test --lib -- fuzz

tests: ## All tests, or those whose names hold T: make tests T=drift
	$(CARGO) test --workspace --no-fail-fast -- $(T)

integration: ## The tests that `make unit` leaves out: mock API, Postgres and clusters
	$(CARGO) test --workspace --no-fail-fast --test '*' -- $(T)

deny: ## Licences, sources and advisories of the dependencies (ADVISORIES=required: fail without the database)
	@scripts/deny
