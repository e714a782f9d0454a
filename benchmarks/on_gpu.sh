#!/usr/bin/env bash
# Show on a machine with one NVIDIA GPU what only a GPU can show, in under 8 minutes; exit status 1 on a wrong number.
#   benchmarks/on_gpu.sh [--results DIR] [CHECK ...]
# It needs this checkout, with benchmarks/wheels filled by gpu_wheels.sh where there is a network, and a Python
# (PYTHON=python3) with torch, torchvision, opencv, matplotlib, scipy, PyYAML, regex, rich, Jinja2 and safetensors.
# Nothing is downloaded and nothing stays installed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
wheels=("$here"/wheels/*.whl)
[ -e "${wheels[0]}" ] || { echo "benchmarks/wheels is empty: run benchmarks/gpu_wheels.sh where there is a network" >&2; exit 1; }
for module in torch torchvision cv2 matplotlib scipy yaml regex rich jinja2 safetensors; do
  "$python" -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$module'))" || missing="${missing-} $module"
done
[ -z "${missing-}" ] || { echo "$python lacks${missing}: add wheels for them (gpu_wheels.sh PACKAGE ...)" >&2; exit 1; }
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
"$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "${wheels[@]}"
PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} "$python" "$here/on_gpu.py" "$@"
