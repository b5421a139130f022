#!/bin/sh
# Installs the project, and what it needs by the hashes of the lock files, into a Python environment:
#
#   sh install.sh PYTHON                             what jobs, searches and servers need, on every node
#   sh install.sh PYTHON --requirement dev.lock      what tests and benchmarks need besides
#   TORCH_INDEX=URL sh install.sh PYTHON             the same without CUDA: PyTorch from an index of CPU builds,
#                                                    whose versions are locked, but not their hashes
#
# Where the project is not beside this file, only its packages. `make lock` writes the lock files. What is built
# here is built with what build.lock has, since pip would fetch its own choice of build tools, without hashes, into
# an isolated environment.
set -eu
cd "$(dirname "$0")"
python=$1
shift
install() { "$python" -m pip install --quiet "$@"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
requirements=requirements.lock
if [ -n "${TORCH_INDEX:-}" ]; then
    # torchvision imports only beside the torch that it was built for, so both come from there.
    install --no-deps --index-url "$TORCH_INDEX" \
        $(sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock)
    requirements=$work/requirements.lock
    awk '/^[a-z]/ { kept = !/^(torch|torchvision|triton|cuda-[^ ]+|nvidia-[^ ]+)==/ } kept' \
        requirements.lock >"$requirements"
fi
install --require-hashes --requirement build.lock
"$python" build_nmslib.py "$work" >"$work/log" 2>&1 &
building=$!
install --require-hashes --no-build-isolation --requirement "$requirements" "$@"
if ! wait "$building"; then
    tail -n 20 "$work/log"
    echo "nmslib could not be compiled, so that searches take a third longer: the registry's is installed"
elif [ -e "$work"/nmslib-*.whl ]; then
    install --no-deps --force-reinstall "$work"/nmslib-*.whl
fi
if [ -e pyproject.toml ]; then
    install --no-deps --no-build-isolation --editable .
fi
