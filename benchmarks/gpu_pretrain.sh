#!/bin/sh
# Views/s, MFU and memory of pretraining ViT-S/16, ViT-B/16 and LFoV ViT-B/16 on one GPU; --help tells the options.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" -m benchmarks.gpu_pretrain "$@"
