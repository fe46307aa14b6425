#!/bin/sh
# s/mm2, time shares and idle share of one GPU in slide inference; --help tells the options.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m benchmarks.infer --device cuda --side 40000 "$@"
