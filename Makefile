# Everything runs in a virtual environment of its own, made on first use.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# Empty: install a built wheel in place of the checkout, as a user would.
EDITABLE ?= --editable

.PHONY: soak crowd demo fuzz test test-quick coverage nightly test-mixes test-resume test-pythons test-javascript test-arm needed needed-kernels needed-clients needed-pythons needed-arm check wheel release rehearsal goldens llama-goldens tables demo-model bench figures proof site clean

# Quantize the embedded demo model to int4 and chat with it; its drafter makes several tokens a step.
demo: $(VENV)/.runtime
	$(BIN)/edge-lfm quantize edge_lfm/demo_model -o build/demo --force
	$(BIN)/edge-lfm chat build/demo --draft demo --max-drafts 4 --echo < examples/demo_chat.txt

# A file at a time on each core, in the order of tests/conftest.py: the longest first.
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The whole test suite.
test: $(VENV)/.installed
	$(BIN)/pytest -q $(WORKERS)

# The tests that take no seconds.
test-quick: $(VENV)/.installed
	$(BIN)/pytest -q $(WORKERS) -m "not slow"

# Which lines of Python the tests reach (compiled kernels are not traced): a table, and pages in build/coverage. TESTS is
# what pytest is told: TESTS="-m 'not slow'" takes a tenth of the time.
coverage: $(VENV)/.installed
	rm -rf build/coverage
	$(BIN)/pytest -q $(WORKERS) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(TESTS)

# What is too long for every change, one after the other, also after one that failed: some hours. Root: the emulated board.
nightly: $(VENV)/.installed
	$(MAKE) --keep-going --jobs=1 coverage fuzz test-mixes test-resume test-pythons test-javascript test-arm soak crowd \
	    FUZZ_SECONDS=$(or $(FUZZ),600) MINUTES=30 MIXES=300

# Every reader of files from outside, fuzzed by coverage for FUZZ_SECONDS each, one on each core (atheris: Python below
# 3.14). What reached new code is kept in build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.installed
	@$(BIN)/pip install --quiet atheris || { echo "no atheris for this Python: nothing is fuzzed"; test -z "$$EDGE_LFM_REQUIRED"; exit; }; \
	targets=$$($(BIN)/python tests/fuzz.py) && printf '%s\n' $$targets | xargs -P $$(nproc) -I TARGET \
	    $(BIN)/python tests/fuzz.py TARGET -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1

# Hundreds of mixes of answers, each answer compared with itself alone, on MIXES times six kinds of models (the suite
# draws six of each).
test-mixes: $(VENV)/.installed
	EDGE_LFM_MIXES=$(or $(MIXES),100) $(BIN)/pytest -q tests/test_company.py -k whatever

# A hundred kills of a quantization, resumed each time (the suite tries eight).
test-resume: $(VENV)/.installed
	EDGE_LFM_KILLS=100 $(BIN)/pytest -q tests/test_resume.py

# Every documented command line in each newer Python that this machine has (as root, also in Debian's Python 3.14).
test-pythons: $(VENV)/.installed
	EDGE_LFM_PYTHONS="$$(PYTHON=$(BIN)/python sh tools/pythons.sh build/pythons)" $(BIN)/pytest -q tests/test_documents.py

# The server against the official npm clients, and the ONNX export in transformers.js (needs Node and npm).
test-javascript: $(VENV)/.installed build/javascript/.complete
	$(BIN)/pytest -q tests/test_javascript.py

build/javascript/.complete: Makefile
	npm install --silent --no-audit --no-fund --ignore-scripts --prefix build/javascript openai@6 \
	    @anthropic-ai/sdk ollama axe-core @huggingface/transformers@4
	touch $@

# The whole engine and every kernel's tests in an arm64 Debian, on emulated processors (root; some minutes).
test-arm: $(VENV)/.installed
	sh tools/arm_root.sh build/arm64
	EDGE_LFM_ARM_ROOT=$(abspath build/arm64) $(BIN)/pytest -q tests/test_board.py

# All that tests need besides packages of this Python: make -j, for most of it waits for networks. What compiles kernels
# then finds those that several files of tests need.
needed: needed-kernels needed-clients needed-pythons needed-arm build/javascript/.complete

needed-kernels: $(VENV)/.installed
	$(BIN)/edge-lfm run --max-tokens 8 "What is the capital of France?"
	$(BIN)/edge-lfm compile --target cortex-a72 cortex-a76 apple-m2 -o build/kernels

needed-clients: $(VENV)/.installed
	$(BIN)/python benchmarks/clients/run.py --core --install

needed-pythons: $(VENV)/.installed
	mkdir -p build
	PYTHON=$(BIN)/python sh tools/pythons.sh build/pythons > build/pythons.list

needed-arm:
	mkdir -p build
	sh tools/arm_root.sh build/arm64 > build/arm_root.log 2>&1 || { tail build/arm_root.log; exit 1; }

# Lint, types and layer rules: the hooks of .pre-commit-config.yaml.
check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# A wheel with prebuilt kernels of every tier: a user's first run compiles nothing. They are compiled here and now.
wheel: $(VENV)/.installed
	rm -rf kernels/prebuilt build/lib build/cache
	EDGE_LFM_CACHE=build/cache $(BIN)/edge-lfm compile -o kernels/prebuilt --target portable ssse3 avx2 avxvnni avx512vnni amx neon dotprod i8mm
	$(BIN)/python -m build --wheel
	rm -rf kernels/prebuilt build/lib

# All that must hold before a version is tagged, tests included, and what is published, in dist/ (docs/releasing.md). KEY, a
# private key of OpenSSH, signs the checksums.
release: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m release $(if $(KEY),--key $(KEY))

# The same without the tests, which take most of the time.
rehearsal: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m release --rehearsal $(if $(KEY),--key $(KEY))

# Remake the golden logits with transformers, in an environment of its own.
goldens:
	$(PYTHON) -m venv .venv-goldens
	.venv-goldens/bin/pip install --quiet "torch>=2.6" "transformers>=5.24" numpy jinja2
	.venv-goldens/bin/python tools/make_goldens.py
	.venv-goldens/bin/python tools/make_vocabulary_goldens.py
	.venv-goldens/bin/python tools/make_demo_goldens.py

# Remake what llama.cpp computes from GGUF files of the demo model and of the tiny random ones (builds llama.cpp: a C++
# compiler, some minutes; its build for browsers: npm).
llama-goldens: $(VENV)/.installed
	$(BIN)/pip install --quiet llama-cpp-python==0.3.36
	npm install --silent --prefix build/llama_wasm @wllama/wllama@3.13.0 node@26
	$(BIN)/python tools/make_llama_goldens.py
	PYTHONPATH=tests $(BIN)/python tools/make_llama_case_goldens.py

# Embed the model of the training run RUN and its TOKENIZER (tools/demo/README.md), and remake all that depends on it: some
# two hours. LOG: the name under which the run's log is kept.
demo-model: $(VENV)/.installed
	test -f $(RUN)/checkpoint.pt && test -f $(TOKENIZER)/tokenizer.json
	$(PYTHON) -m venv .venv-goldens
	.venv-goldens/bin/pip install --quiet "torch>=2.6" numpy tokenizers safetensors
	PYTHONPATH=tools .venv-goldens/bin/python -m demo.export $(RUN) --tokenizer $(TOKENIZER) -o edge_lfm/demo_model
	cp $(RUN)/log.txt tools/demo/$(or $(LOG),train.log)
	PYTHONPATH=tools $(BIN)/python -m demo.evaluate edge_lfm/demo_model --tasks edge_lfm/demo_model/tasks.jsonl
	$(MAKE) goldens llama-goldens tables

# Make the documents' tables anew that are of the demo model (and of LLVM's analyser): CORPORA as in tools/demo/README.md,
# WIKITEXT wiki.test.raw, CALIBRATION a text. About an hour on two cores.
tables: $(VENV)/.installed
	PYTHONPATH=tools $(BIN)/python -m demo.texts --corpora $(CORPORA) --wikitext $(WIKITEXT) -o build/tables/texts
	WORK=build/tables TEXTS=build/tables/texts CALIBRATION=$(CALIBRATION) \
	    $(BIN)/python tools/remake_tables.py docs/quality.md README.md docs/abilities.md docs/paging.md \
	    docs/boards.md docs/server.md edge_lfm/demo_model/README.md
	$(BIN)/python tools/remake_tables.py --only lookup.py docs/performance.md

# A server under good and hostile requests of 64 clients for MINUTES: what fails, and whether anything grows.
soak: $(VENV)/.installed
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),5)

# A server that 64 clients ask for answers for MINUTES, of whom half leave: what is lost, changed, or grows.
crowd: $(VENV)/.installed
	$(BIN)/python benchmarks/soak.py --crowd --minutes $(or $(MINUTES),10)

# Speed beside llama.cpp, built from its source package (needs a C++ compiler and some gigabytes of disk).
bench: $(VENV)/.installed
	$(BIN)/pip install --quiet gguf cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/llama_cpp.py

# The tables of speeds of docs/performance.md, of this machine (root, a C++ compiler, 60 GB of disk, an hour); ONLY: those
# whose command has this text; TRACE: a recorded routing of 32 experts, 4 a token (benchmarks/recorded.py).
figures: $(VENV)/.installed
	$(BIN)/pip install --quiet gguf cmake ninja
	mkdir -p build/figures
	WORK=build/figures TRACE=$(TRACE) PATH="$(abspath $(BIN)):$$PATH" \
	    $(BIN)/python tools/remake_tables.py --stamp --only "$(ONLY)" docs/performance.md

# A page about this machine, in 15 minutes and the time that llama.cpp takes to build: edge-lfm beside llama.cpp on a shape that fits it (needs a C++ compiler).
proof: $(VENV)/.installed
	$(BIN)/pip install --quiet gguf cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python benchmarks/proof.py

# The documentation as pages that can be read offline, from build/site/index.html; a dead link is an error.
site: $(VENV)/.installed
	$(BIN)/python tools/documentation.py

# All that development needs.
$(VENV)/.installed: $(VENV)/.runtime
	$(BIN)/pip install --quiet $(EDITABLE) ".[dev]"
	touch $@

# What running a model needs, and no more.
$(VENV)/.runtime: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edge-lfm needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "install venv: sudo apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile $(EDITABLE) .
	touch $@

clean:
	rm -rf $(VENV) .venv-goldens build dist *.egg-info
