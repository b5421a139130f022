#!/bin/sh
# The path of a stranger who has the wheel and an empty folder: install it, try it, train and serve.
#
#   sh tests/stranger.sh dist/seqvis-….whl FOLDER          as documented: 6 GB of packages, ten minutes
#   DEMO_FLAGS="--pairs 1500 …" sh tests/stranger.sh …     with a smaller demo
#   PACKAGES=…/site-packages sh tests/stranger.sh …        with the packages of that folder; fetches nothing
#
# PYTHON is the Python to begin with (default: python3). tests/ray/test_stranger.py runs it.
set -eu
wheel=$(realpath "$1")
tour=$(realpath "$(dirname "$0")/..")/docs/tour.ipynb
mkdir -p "$2"
cd "$2"
say() { printf '\n== %s\n' "$*"; }

say install
"${PYTHON:-python3}" -m venv venv
if [ -n "${PACKAGES:-}" ]; then
    # .pth files in a folder that is added like this are not read, so no checkout that is installed there for
    # development can be imported.
    echo "$PACKAGES" >"$(venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages.pth"
    venv/bin/python -m pip install --quiet --no-index --no-deps "$wheel"
else
    venv/bin/python -m pip install --quiet "$wheel[all]" ipykernel libretranslatepy nbclient
fi
export PATH="$PWD/venv/bin:$PATH"
python -c 'import jobs, seqvis, serve, sys, tune
for package in (jobs, seqvis, serve, tune):
    assert package.__file__.startswith(sys.prefix), package.__file__'

say help
seqvis --version
seqvis --help
seqvis train-translator --help | head -n 3

say the demo
seqvis demo --no-serve ${DEMO_FLAGS:-} >demo.json
seqvis search --collection runs/demo/collection --text "engine + boat"

say the notebook
python - "$tour" <<'END'
import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], 4)
for cell in notebook.cells:
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, "tour.ipynb")
END

say the server
port=$(python -c 'from serve.app import free_port; print(free_port())')
address=http://127.0.0.1:$port
seqvis serve --translator runs/demo/translator --collection runs/demo/collection --port "$port" 2>server.log &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until grep -q "Ctrl-C stops it" server.log; do
    kill -0 $server || { cat server.log; exit 1; }
    sleep 1
done
python - "$address" <<'END'
import json, sys, urllib.request

address = sys.argv[1]
request = urllib.request.Request(
    f"{address}/v1/translate",
    json.dumps({"text": "Où est le chat ?"}).encode(),
    {"content-type": "application/json"},
)
print(urllib.request.urlopen(request).read().decode())
with urllib.request.urlopen(f"{address}/") as page:
    assert b"<html" in page.read()
END

say its clients
python - "$address" <<'END'
import sys

from libretranslatepy import LibreTranslateAPI

from seqvis.client import Client

address = sys.argv[1]
with Client(address) as client:
    print(client.translate("Où est le chat ?"))
    matches = client.search_text("engine + boat").matches
    print(*(match.id for match in matches))
    assert matches
print(LibreTranslateAPI(f"{address}/").translate("Où est le chat ?", "fr", "en"))
END

kill -TERM $server
trap - EXIT
wait $server
say done
