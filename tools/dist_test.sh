#!/usr/bin/env bash
# Test with several processes, without Slurm: mmseg's tools/dist_test.sh, found from any directory.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [test.py's arguments]
# Ports, nodes and machines without a GPU as in dist_train.sh.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
MMSEG_DAFT_SCRIPT=test.py exec "$(dirname "${BASH_SOURCE[0]}")/dist_train.sh" "$1" "$3" "$2" "${@:4}"
