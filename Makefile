# The whole project from a bare machine with Python 3.11+, gcc and make:
#
#   make demo    trains a translator of generated questions and a search of drawings, serves both
#                until Ctrl-C (make demo SERVE=0 ends after training)
#   make lesson  runs lesson 11 by its own settings (docs/lesson.md), on DATA=folder or without one
#                on generated questions and drawings; LESSON_ARGS="--epochs 1" and so on
#   make unit    runs the tests that need no Ray and no more than a few seconds each
#   make test    runs all tests, two at a time where they do not measure
#   make native  builds the C++ of seqvis/native anew, after a change of it or of PyTorch
#   make docs    writes the reference from the docstrings: build/reference/index.html
#   make tour    runs docs/tour.ipynb anew and keeps its outputs
#   make wheel   builds dist/seqvis-….whl, with the C++ built for the PyTorch of .venv
#   make count   counts files with code and lines of each package
#   make bench   measures each stage beside its reference (docs/results/speed.md);
#                BENCH_ARGS="--only training --only head --data DIR" and so on
#   make lock    pins anew, with hashes, what pyproject.toml asks for
#   make audit   looks for known vulnerabilities of what is locked
#   make ray     starts a Ray that jobs join by --address auto, until Ctrl-C (docs/start.md);
#                RAY_ARGS="--num-cpus=2 --include-dashboard=true" and so on
#   make submit JOB="train_translator --corpus s3://… --out s3://… --num-workers 4 --use-gpu"
#                sends a job to a cluster and shows its log (docs/operate/cluster.md)
#
# All install what they need into .venv once (some minutes, 7 GB); a second call starts at once.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO_OUT ?= runs/demo
DATA ?=
LESSON_ARGS ?=
SERVE ?= 1
BENCH_ARGS ?=
JOB ?=
SUBMIT_ARGS ?=
RAY_ARGS ?=
LOCK_ARGS ?=
LOCK = UV_CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url $(LOCK_ARGS)

# OpenMP's threads must not spin while they wait: see seqvis/process.py.
export OMP_WAIT_POLICY := PASSIVE
# Seconds that a Ray may take to start its head and its node: 30 are too few beside other tests.
export RAY_gcs_server_port_wait_time_s := 300
export RAY_raylet_start_wait_time_s := 300
# Tests and jobs start many processes; without bytecode each would compile every file again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo lesson unit test native docs tour wheel count bench lint setup lock audit ray submit clean

demo: $(VENV)/installed
	$(RUN) -m jobs.demo --out $(DEMO_OUT) $(if $(filter 0,$(SERVE)),--no-serve)

lesson: $(VENV)/installed
	$(RUN) -m jobs.lesson $(if $(DATA),--data $(DATA)) $(LESSON_ARGS)

# Three processes on two cores, since some tests wait for processes that they start.
unit: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/unit -m "not slow and not ray" \
		--numprocesses 3 --dist loadfile --durations 10

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest \
		tests/ray tests/browser tests/unit tests/faults/test_crashes.py \
		--numprocesses auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10
	$(RUN) -m pytest tests/faults --ignore=tests/faults/test_crashes.py --durations 10

native: $(VENV)/installed
	$(RUN) setup.py --quiet build_ext --inplace --force

docs: $(VENV)/installed
	$(RUN) docs/reference.py

# What an earlier build left would otherwise be packed as well.
wheel: $(VENV)/installed
	rm -rf build/lib* build/bdist*
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

tour: $(VENV)/installed
	$(VENV)/bin/jupyter execute --inplace docs/tour.ipynb

count:
	@for package in seqvis jobs serve tune benchmarks; do \
		files=$$(find $$package -name '*.py' -size +0); \
		printf '%-11s %4d files %6d lines\n' $$package $$(echo "$$files" | wc -l) \
			$$(cat $$files | wc -l); \
	done | awk '{ print; files += $$2; lines += $$4 } \
		END { printf "%-11s %4d files %6d lines\n", "all", files, lines }'

bench: $(VENV)/peers
	$(RUN) -m jobs.benchmark $(BENCH_ARGS)

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

setup: $(VENV)/installed

# Pins and hashes of all that pyproject.toml asks for; pins that still do are kept, unless
# LOCK_ARGS has --upgrade or --upgrade-package NAME.
lock: $(VENV)/installed
	$(LOCK) pyproject.toml --extra all --output-file requirements.lock
	$(LOCK) --group dev --constraint requirements.lock --output-file dev.lock
	$(LOCK) build.in --constraint requirements.lock --output-file build.lock

# Fails, too, if a package's advisories cannot be reached.
audit: $(VENV)/installed
	$(VENV)/bin/uv tool run pip-audit --strict --disable-pip --require-hashes -r requirements.lock

# On the loopback interface alone (docs/operate/security.md), with the token that the jobs use.
ray: $(VENV)/installed
	$(RUN) -m jobs.ray_token
	RAY_AUTH_MODE=token RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 $(VENV)/bin/ray start --head --block \
		--include-dashboard=false --object-store-memory=1000000000 --disable-usage-stats $(RAY_ARGS)

# To RAY_API_SERVER_ADDRESS, or to where `ray dashboard cluster.yaml` leads: http://localhost:8265.
# The token: ~/.ray/auth_token or RAY_AUTH_TOKEN. SUBMIT_ARGS: more flags of `ray job submit`.
submit: $(VENV)/installed
	@test -n "$(JOB)" || { echo 'error: JOB is needed: make submit JOB="NAME --flags"'; exit 2; }
	RAY_AUTH_MODE=token $(VENV)/bin/ray job submit --working-dir . \
		--runtime-env jobs/runtime_env.yaml $(SUBMIT_ARGS) \
		-- python -m $(if $(findstring .,$(firstword $(JOB))),,jobs.)$(JOB)

$(VENV)/installed: pyproject.toml setup.py install.sh build_nmslib.py build.lock requirements.lock dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; set PYTHON=python3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): this takes some minutes, once"
	sh install.sh $(RUN) --requirement dev.lock
	@touch $@

# JoeyNMT asks for a protobuf that Ray's other packages refuse, and does not use it.
$(VENV)/peers: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[peers]'
	$(RUN) -m pip install --quiet --no-deps joeynmt==2.3.0
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info seqvis/*/*.so
