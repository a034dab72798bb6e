# Thin on purpose: what a target does stands in the script or the cargo command it calls.
.DEFAULT_GOAL := help
.PHONY: flood help test soak lint docs demo clean
BUDGET ?= 20m

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

test: ## every test, against a broker of its own
	@tests/run.sh

soak: ## the proofs in their long forms, within BUDGET=20m
	@tests/soak.sh $(BUDGET)

lint: ## formatting and clippy
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

docs: ## the API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

demo: ## the worked report, end to end
	cargo run --release -- demo

flood: ## a million random events of 500 tenants, judged
	FLOOD_EVENTS=1000000 cargo test --release --test flood -- --nocapture

clean: ## removes what was built
	cargo clean
