# Everything anyone needs; `make` alone lists it. Each target sets itself up first.

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# vLLM's versions are its own, so it has a venv of its own; the tests that need it skip without.
VLLM   := .venv-vllm
# LiteLLM is what the benchmarks compare with; it pins dozens of packages of its own.
LITELLM := .venv-litellm
PARTS  := scheduler training integrations
# One worker for each of up to two cores: more only adds imports of torch.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -gt 2 ] && n=2; echo $$n)

.DEFAULT_GOAL := help
.PHONY: help setup links vllm litellm clients demo test lint format docs real bench pins clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | sort | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with everything at pinned versions (nothing to do when it is up to date)

links:
	@for part in $(PARTS); do \
	  test -d elastic_agent/$$part || { echo "elastic_agent/$$part should be a symbolic link but is not: this clone was made without symlink support; run \`git config core.symlinks true && git checkout -- elastic_agent\` (on Windows: enable Developer Mode first, or use WSL)" >&2; exit 1; }; \
	done

# The stamp is written last: an interrupted set-up is gone on with. A venv whose Python doesn't start is made anew.
$(READY): pyproject.toml constraints.txt tools/setup_env.py | links
	@python=$$(tools/find-python.sh) || exit 1; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "Setting up $(VENV) with $$python (once; a few minutes at most)"; $$python -m venv --clear $(VENV) || exit 1; \
	fi
	@$(BIN)/python tools/setup_env.py
	@touch $@

vllm: $(VLLM)/.ready ## make .venv-vllm with a vLLM server for the tests that need a real one (3 GB; CPU build without a GPU)

$(VLLM)/.ready: constraints-vllm.txt tools/setup_env.py tools/setup_vllm.py
	@python=$$(tools/find-python.sh) || exit 1; \
	if ! $(VLLM)/bin/python -m pip --version >/dev/null 2>&1; then \
	  echo "Setting up $(VLLM) with $$python (once; a few minutes at most)"; $$python -m venv --clear $(VLLM) || exit 1; \
	fi
	@$(VLLM)/bin/python tools/setup_vllm.py
	@touch $@

litellm: $(LITELLM)/.ready ## make .venv-litellm with LiteLLM and its proxy, for the benchmarks that compare with it (0.8 GB)

$(LITELLM)/.ready: constraints-litellm.txt tools/setup_env.py tools/setup_litellm.py
	@python=$$(tools/find-python.sh) || exit 1; \
	if ! $(LITELLM)/bin/python -m pip --version >/dev/null 2>&1; then \
	  echo "Setting up $(LITELLM) with $$python (once; a minute or two)"; $$python -m venv --clear $(LITELLM) || exit 1; \
	fi
	@$(LITELLM)/bin/python tools/setup_litellm.py
	@touch $@

clients: links $(READY) ## install a dozen clients of the gateway, each apart (1.5 GB), and try them; ARGS=openai_chat for one
	@$(BIN)/python tools/setup_clients.py
	@$(BIN)/python -m tests.integrations.clients.matrix $(ARGS)

demo: links $(READY) ## an agent solves word problems under a money cap and a deadline (no GPU, key or server)
	@$(BIN)/elastic-agent demo $(ARGS)

test: links $(READY) ## all tests; ARGS="-k ledger" for some
	@HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# A file that is ignored and in the repository replaces, at the next checkout, what each machine has there.
lint: links $(READY) ## ruff and mypy --strict; nothing ignored is in the repository
	@kept=$$(git ls-files --cached --ignored --exclude-standard 2>/dev/null); test -z "$$kept" || { \
	  echo "in the repository, although .gitignore says that each machine has its own: $$kept (git rm --cached takes it out)" >&2; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy examples

format: links $(READY) ## let ruff fix and format what it can
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: links $(READY) ## the documentation as a site, in build/site
	@$(BIN)/python -m tools.build_docs

real: links $(READY) ## from a pretrained model to an E1, e.g. make real BASE=./SmolLM2-135M-Instruct OUT=./smol
	@test -n "$(BASE)" && test -n "$(OUT)" || { echo "make real BASE=FOLDER OUT=DIR [RECIPE=e1-gym-135m] [ARGS=--resume]: FOLDER holds the pretrained model" >&2; exit 1; }
	@$(BIN)/elastic-agent train --recipe $(or $(RECIPE),e1-gym-135m) --base $(BASE) --output $(OUT) $(ARGS)

bench: links $(READY) ## every benchmark, in its quick form; one JSON line each
	@status=0; for script in benchmarks/[a-z]*.py; do \
	  echo "== $$script"; $(BIN)/python $$script --quick --json || status=1; \
	done; exit $$status

pins: links $(READY) ## write the versions that are installed now into constraints.txt
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m uv pip freeze --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//'; } > $(VENV)/pins && mv $(VENV)/pins constraints.txt && touch $(READY)

clean: ## remove caches and build results; the venvs stay
	@rm -rf .cache .hypothesis .benchmarks dist build
	@find . -name __pycache__ -not -path './$(VENV)*/*' -prune -exec rm -rf {} +
