# demo   shows the whole idea on real data (ONCE=1 stops at the end; STORE=hdfs runs it on a real HDFS; NODES=3 shows a
#        cluster of so many nodes, and the end of one of them)
# test   proves it: every suite, with real FUSE and real HDFS
# soak   repeats the fault tests for an hour (SOAK_S seconds); in its first round hangs last for minutes
# bench  measures, and writes BENCHMARKS.md
# check  format, lints, documentation: what a change must pass before it is shown

SHELL := /bin/bash
PATH := $(PATH):$(HOME)/.cargo/bin
export PATH
export ONCE STORE NODES DEMO_DIR READ_PORT WRITE_PORT MANAGER_PORT

.PHONY: demo test soak bench check clean

demo:
	@rig/demo.sh

test:
	@rig/test.sh

soak:
	@rig/soak.sh

bench:
	@rig/bench.sh

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --quiet

clean:
	cargo clean
	rm -rf demo-data
