#!/bin/sh
# Installs the project, and what it needs by the hashes of the lock files, into a Python environment:
#
#   sh install.sh PYTHON                             what jobs and servers need, on every node
#   sh install.sh PYTHON --requirement dev.lock      what tests and benchmarks need besides
#
# `make lock` writes the lock files. What is built here is built with what build.lock has, since pip
# would fetch its own choice of build tools, without hashes, into an isolated environment.
set -eu
cd "$(dirname "$0")"
python=$1
shift
"$python" -m pip install --quiet --require-hashes --requirement build.lock
"$python" -m pip install --quiet --require-hashes --no-build-isolation --requirement requirements.lock "$@"
"$python" -m pip install --quiet --no-deps --no-build-isolation --editable .
