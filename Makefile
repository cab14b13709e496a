# make demo: everything from nothing to two compared results; make test: the checks. README has the plain commands.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo/out
TEST_FLAGS := --parquet-dir demo/data/eval --num-samples 1000 --checkpoint CLAP/tiny --device cpu

.PHONY: demo test test-cuda mutants clean

$(VENV)/installed: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt -c constraints.txt
	touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-plot.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt -c constraints.txt
	touch $@

demo/data: $(VENV)/installed demo/synthesise.py
	$(BIN)/python demo/synthesise.py --output-dir demo/data --seed 0
	touch $@

demo: demo/data
	rm -rf $(DEMO)
	$(BIN)/python train_hyperbolic_clap.py --parquet-dir demo/data/train_balanced --checkpoint CLAP/tiny --device cpu \
		--output-dir $(DEMO)/checkpoints
	$(BIN)/python test_clap_modelscope.py $(TEST_FLAGS) --output-json $(DEMO)/results_original.json \
		--save-scores $(DEMO)/results_original.safetensors
	$(BIN)/python test_clap_modelscope.py $(TEST_FLAGS) --use-hyperbolic --projection-checkpoint $(DEMO)/checkpoints \
		--output-json $(DEMO)/results_use_hyperbolic.json
	$(BIN)/python test_hyperbolic_clap_modelscope.py $(TEST_FLAGS) --projection-checkpoint $(DEMO)/checkpoints \
		--output-json $(DEMO)/results_hyperbolic.json --save-scores $(DEMO)/results_hyperbolic.safetensors
	$(BIN)/python compare_results.py $(DEMO)/results_original.json $(DEMO)/results_hyperbolic.json \
		--report $(DEMO)/report.html

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest  # else each process of the tests compiles the product anew

# On a machine with a GPU: the tests that need one, each with its measured figures.
test-cuda: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/test_cuda.py -n 0 -rsP

# Mistakes put into the code one at a time, each to be noticed: a list made by hand, then a sample of what cosmic-ray
# makes, by room. It can be broken off and goes on where it was; at its end it says what it took.
SAMPLE ?= 12
mutants: $(VENV)/installed-dev
	$(BIN)/python tests/mutants.py
	$(BIN)/python tests/mutants.py --tool $(SAMPLE)

clean:
	rm -rf $(VENV) demo/data $(DEMO)
