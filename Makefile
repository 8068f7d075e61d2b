# The two commands of the README, and the benchmarks. Everything is built in one profile (release) into one folder outside
# the checkout, because DataFusion takes long to compile and a second checkout should not do it again.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/zql/target
CARGO ?= cargo
NODE_DIR := testdata/node

BENCH ?=

.PHONY: help checkout demo test chaos bench bench-suite bench-wire conformance conformance-zero-cache check fmt postgres node browser build clean

help:
	@echo "make demo        build and run the demo: private Postgres, sample data, sync server, live terminal view"
	@echo "make test        run every test; installs and starts what they need"
	@echo "make chaos       the long run of the test in which everything goes wrong (some minutes; CHAOS_SEED=n repeats choices)"
	@echo "make bench       measure hydration and maintenance; writes benches/results (BENCH=planning for one part)"
	@echo "make bench-suite measure first answers to every query of the conformance suite (half an hour)"
	@echo "make bench-wire  measure the published zero-cache and this server side by side; writes benches/results"
	@echo "make conformance             run the test suite of ZQL on everything here: naive, in process, Postgres, the server"
	@echo "make conformance-zero-cache  run it on the published zero-cache 1.9.0"
	@echo "make check       formatting and lints"

# Checkouts that share the folder share what is compiled in it, and cargo tells their sources apart by age alone. So the
# first command in another checkout than the last makes its sources the newest.
checkout:
	@mkdir -p $(CARGO_TARGET_DIR)
	@if [ "$$(cat $(CARGO_TARGET_DIR)/checkout 2>/dev/null)" != "$(CURDIR)" ]; then \
		find . \( -name '*.rs' -o -name Cargo.toml \) -not -path '*/node_modules/*' -exec touch {} + && \
		echo "$(CURDIR)" > $(CARGO_TARGET_DIR)/checkout; \
	fi

demo: postgres build
	@exec $(CARGO_TARGET_DIR)/release/zql demo

build: checkout
	$(CARGO) build --release --workspace --bin zql

test: checkout postgres node browser
	$(CARGO) test --release --workspace --no-fail-fast

chaos: checkout postgres
	CHAOS_FULL=1 $(CARGO) test --release --workspace --test binary -- chaos --nocapture

bench: checkout postgres
	@.ci/need valgrind valgrind
	$(CARGO) build --release --workspace --bin bench
	@$(CARGO_TARGET_DIR)/release/bench $(BENCH)

bench-suite: checkout
	$(CARGO) build --release --workspace --bin bench
	@$(CARGO_TARGET_DIR)/release/bench suite --name suite --budget 20 --output benches/results

bench-wire: checkout postgres node
	$(CARGO) build --release --workspace --bin zql --bin bench-wire
	@$(CARGO_TARGET_DIR)/release/bench-wire

conformance: postgres build
	@$(CARGO_TARGET_DIR)/release/zql conformance --server zql

conformance-zero-cache: postgres node build
	@$(CARGO_TARGET_DIR)/release/zql conformance --on none --server zero-cache --instances 2

check: checkout
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

# The Postgres server. Only Debian's package is known here; elsewhere install Postgres 15 or later by hand.
postgres:
	@.ci/need initdb postgresql

# One test runs the real client in a real browser.
browser:
	@.ci/need chromium chromium

# The JavaScript packages exactly as the lock files say. No install script runs: Node 22 itself comes as a package with the
# binary inside, and with it the npm that installs the others, because an older Node's npm leaves out what that Node cannot
# run. The stamps make this free when the lock files have not changed.
NPM_CI := ci --ignore-scripts --no-audit --no-fund --loglevel=error

node: $(NODE_DIR)/node_modules/.stamp

$(NODE_DIR)/tools/node_modules/.stamp: $(NODE_DIR)/tools/package-lock.json
	@.ci/need npm npm
	cd $(NODE_DIR)/tools && npm $(NPM_CI)
	@touch $@

$(NODE_DIR)/node_modules/.stamp: $(NODE_DIR)/package-lock.json $(NODE_DIR)/tools/node_modules/.stamp
	cd $(NODE_DIR) && tools/node_modules/node-linux-*/bin/node tools/node_modules/npm/bin/npm-cli.js $(NPM_CI)
	@touch $@

clean:
	rm -rf $(NODE_DIR)/node_modules $(NODE_DIR)/tools/node_modules
	$(CARGO) clean
