# Everything from a fresh clone, with Rust (and a C linker, as Rust needs one). On Linux `setup` looks for a Vulkan
# driver first and installs the software renderer where there is none; macOS and Windows bring their own API.

.PHONY: help demo demo-model test test-full test-portable soak soak-kills soak-memory soak-fuzz portability bench-gpu science \
	science-quick science-docs test-science fmt lint setup

help:
	@echo "make demo    teach the built-in model a task, with numbers from before and after"
	@echo "make test    the tests"
	@echo "make test-full      with those that take long: bugs planted in every kernel, other settings of the device"
	@echo "make test-portable  the kernels at WebGPU's default limits, and without optional features"
	@echo "make soak    what only long runs show: 200 kills (KILLS=20: fewer), memory that stays as it is over 2,000 steps,"
	@echo "             and every reader of files fuzzed for SOAK_SECONDS (an hour)"
	@echo "make portability    every shader through spirv-val and Tint, the kernels on two other drivers, where they can be had"
	@echo "make bench-gpu      what BENCHMARKS.md needs of a GPU, into target/bench-gpu (some twenty minutes)"
	@echo "make science-quick  RoSA beside LoRA, sparse and full training: a tiny model, some ten minutes on two cores (docs/science.md)"
	@echo "make science MODELS=DIR DATA=DIR JOBS=4   the same with real models; says first how long it takes: hours of a large GPU"
	@echo "make lint    format and lints, checked"
	@echo "make fmt     format, written"
	@echo "make demo-model  pretrain the built-in model again (about five minutes on two cores)"
	@echo "make setup   a Vulkan driver, where there is none (demo and test do this first)"

demo: setup
	@echo "building rugosa, which takes minutes the first time:" >&2
	cargo build --release
	cargo run --release --quiet -- demo

# Writes assets/demo, which is built into the program. The same device and the same rugosa give the same bytes.
DEMO_WORK ?= target/demo-model
demo-model: setup
	rm -rf $(DEMO_WORK)
	cargo run --release --quiet --example make_demo -- start $(DEMO_WORK)
	cargo run --release --quiet -- train --method full --model $(DEMO_WORK)/start --data $(DEMO_WORK)/pretrain.jsonl \
		--out $(DEMO_WORK)/run --steps 1000 --batch-size 4 --gradient-accumulation-steps 1 --seq-len 256 --lr 3e-3 \
		--lr-schedule cosine --warmup-steps 50 --max-grad-norm 1 --beta2 0.98 --seed 2026 --separator ""
	cargo run --release --quiet --example make_demo -- pack $(DEMO_WORK)/run assets/demo

# What no test needs after it has run (incremental builds) is not kept.
test test-full: export CARGO_INCREMENTAL ?= 0

test: setup
	cargo test -- --skip thorough::

test-full: setup
	cargo test

# What only shows in long runs; what was seen is in docs/notes/reliability.md.
soak: soak-kills soak-memory soak-fuzz

# A quarter of them in runs of each of four methods, and as many in three other kinds of runs.
KILLS ?= 200
soak-kills: setup
	RUGOSA_TEST_KILLS=$$(($(KILLS) / 4)) cargo test --test suite cli::kills

soak-memory: setup
	RUGOSA_TEST_SOAK_STEPS=2000 cargo test --test suite soak::memory -- --nocapture --test-threads=1

SOAK_SECONDS ?= 3600
soak-fuzz: setup
	RUGOSA_FUZZ_SECONDS=$(SOAK_SECONDS) cargo test --release --test suite -- --nocapture --test-threads 2 fuzz::

# What a browser would give, and what the poorest driver gives.
test-portable: setup
	RUGOSA_LIMITS=default cargo test --test suite kernels::
	RUGOSA_DISABLE=f16,subgroup,coop,timestamps,int64,images cargo test --test suite kernels::

portability:
	tests/portability/run.sh

# PARTS="smollm2 first" runs a few of them; see benches/gpu.sh
bench-gpu: setup
	RUGOSA_COMMIT=$$(git rev-parse --short=10 HEAD 2>/dev/null) cargo build --release
	benches/gpu.sh target/bench-gpu $(PARTS)

# What is tested there, and what lies in MODELS and DATA, is in docs/science.md. Stopped, both go on where they were.
MODELS ?= models
DATA ?= data
JOBS ?= 1
SCIENCE = target/science
science: setup
	cargo build --release
	python3 benches/science/run.py --models $(MODELS) --data $(DATA) --jobs $(JOBS)
	python3 benches/science/report.py --manifest benches/science/manifest.toml --results $(SCIENCE)/manifest/results.jsonl \
		--html $(SCIENCE)/results.html --markdown $(SCIENCE)/results.md

science-quick: setup
	cargo build --release
	python3 benches/science/run.py --manifest benches/science/quick.toml --jobs 2
	python3 benches/science/report.py --manifest benches/science/quick.toml --results $(SCIENCE)/quick/results.jsonl \
		--html $(SCIENCE)/quick/results.html --markdown $(SCIENCE)/quick/results.md

# docs/results.md, of the lines that are recorded here
science-docs:
	python3 benches/science/report.py --manifest benches/science/quick.toml --results benches/science/results/quick.jsonl \
		--manifest benches/science/manifest.toml --results benches/science/results/full.jsonl \
		--notes benches/science/first-pass.toml --notes benches/science/first-figures.toml --markdown docs/results.md

test-science:
	python3 -m unittest discover -s benches/science

fmt:
	cargo fmt

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# The loader finds drivers as JSON files in a few folders, or where VK_DRIVER_FILES says.
DRIVER_FOLDERS ?= /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d $(HOME)/.local/share/vulkan/icd.d

setup:
	@set -eu; \
	PATH="$$PATH:/usr/sbin:/sbin"; \
	[ "$$(uname -s)" = Linux ] || exit 0; \
	has() { command -v "$$1" >/dev/null 2>&1; }; \
	has cargo || { echo "setup: there is no cargo: install Rust with rustup first" >&2; exit 1; }; \
	chosen="$${VK_DRIVER_FILES:-$${VK_ICD_FILENAMES:-}}"; \
	driver() { \
		if [ -n "$$chosen" ]; then echo "$$chosen" | tr ':' '\n' | while read -r f; do ls -d "$$f"; done; \
		else for d in $(DRIVER_FOLDERS); do ls "$$d"/*.json; done; fi 2>/dev/null | grep -q .; \
	}; \
	loader() { ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; }; \
	if driver && loader; then exit 0; fi; \
	if [ -n "$$chosen" ] && ! driver; then \
		echo "setup: VK_DRIVER_FILES names no file that exists ($$chosen): unset it, or point it to a driver's JSON file" >&2; \
		exit 1; \
	fi; \
	if has apt-get; then \
		install='apt-get -qq update && apt-get -qq install -y --no-install-recommends libvulkan1 mesa-vulkan-drivers'; \
	elif has dnf; then install='dnf -q -y install vulkan-loader mesa-vulkan-drivers'; \
	elif has pacman; then install='pacman -Sy --noconfirm --needed vulkan-icd-loader vulkan-swrast'; \
	else \
		echo "setup: no Vulkan driver found, and no apt-get, dnf or pacman to install one: install your GPU's Vulkan driver or Mesa's software renderer (lavapipe), and the Vulkan loader" >&2; \
		exit 1; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif has sudo; then as_root=sudo; \
	else \
		echo "setup: no Vulkan driver found: as root, run: $$install" >&2; \
		exit 1; \
	fi; \
	echo "setup: no Vulkan driver found, installing the software renderer" >&2; \
	log=$$($$as_root env DEBIAN_FRONTEND=noninteractive sh -c "$$install" 2>&1) || { \
		echo "$$log" >&2; \
		echo "setup: that failed: install your GPU's Vulkan driver or Mesa's software renderer by hand" >&2; \
		exit 1; \
	}
