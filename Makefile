# Thin on purpose: every target is one cargo command that works without make.

.PHONY: run test bench soak lint fmt

# Serves on 127.0.0.1:8881 with SQLite in ./agentry-data.
run:
	cargo run --release -p agentry -- serve

# Every test, with the PostgreSQL cluster, the Python clients and the shims that they need.
test:
	cargo xtask test

# Throughput and latency beside a bare server and a FastAPI service; writes bench/results.
bench:
	cargo xtask bench

# The tests that have a long form, in that form.
soak:
	cargo xtask soak

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all
