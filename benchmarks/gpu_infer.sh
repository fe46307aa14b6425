#!/bin/sh
# s/mm2, time shares and idle share of one GPU in slide inference, decoded by the host and on the GPU; --help tells the options.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
for decode_on_gpu in false true; do
  echo "decode_on_gpu=$decode_on_gpu"
  "$python" -m benchmarks.infer --device cuda --side 40000 --set "decode_on_gpu=$decode_on_gpu" "$@"
done
