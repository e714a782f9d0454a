#!/usr/bin/env bash
# Test on a Slurm cluster: mmseg's tools/slurm_test.sh, found from any directory.
#   tools/slurm_test.sh PARTITION JOB CONFIG CHECKPOINT [test.py's arguments]
# GPUS, GPUS_PER_NODE, CPUS_PER_TASK, SRUN_ARGS, PORT, DEVICE and PYTHON as in slurm_train.sh.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
MMSEG_DAFT_SCRIPT=test.py exec "$(dirname "${BASH_SOURCE[0]}")/slurm_train.sh" "$@"
