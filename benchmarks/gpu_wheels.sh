#!/usr/bin/env bash
# Fill benchmarks/wheels with what on_gpu.sh installs: this checkout and the pure-Python packages of the default stack.
#   benchmarks/gpu_wheels.sh [PACKAGE ...]
# PACKAGE are more that the machine lacks, such as opencv-python-headless: wheels for Python 3.12 on x86-64 Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
pure=(mmengine mmcv-lite mmsegmentation addict yapf platformdirs termcolor prettytable wcwidth ftfy
      fvcore iopath yacs portalocker tabulate tqdm packaging)
rm -rf benchmarks/wheels
"${PYTHON:-python3}" -m pip wheel -q --no-deps -c constraints/torch-2.11.txt -w benchmarks/wheels . "${pure[@]}"
if [ $# -gt 0 ]; then
  platforms=(); for glibc in 17 27 28 34; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
  "${PYTHON:-python3}" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 -d benchmarks/wheels "$@"
fi
du -sh benchmarks/wheels
