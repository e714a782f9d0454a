#!/usr/bin/env bash
# Train on a Slurm cluster: mmseg's tools/slurm_train.sh, found from any directory.
#   [GPUS=4] [GPUS_PER_NODE=4] [CPUS_PER_TASK=5] [SRUN_ARGS='…'] [PORT=…] tools/slurm_train.sh PARTITION JOB CONFIG [train.py's arguments]
# One task a GPU. DEVICE=cpu asks for no GPUs: GPUS are then tasks. PYTHON=… names another interpreter. Two jobs on one
# node get ports of their own. With a time limit that a run may not fit into: slurm_requeue.sh.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
partition=$1 job=$2 config=$3
shift 3
gpus=${GPUS:-4}
per_node=${GPUS_PER_NODE:-$((gpus < 4 ? gpus : 4))}
gres=(--gres="gpu:$per_node")
[ "${DEVICE:-gpu}" != cpu ] || gres=()
words=$(xargs -n 1 printf '%s\n' <<< "${SRUN_ARGS:-}") ||  # honors quotes
  { echo "SRUN_ARGS=${SRUN_ARGS}: a quote in it has no end" >&2; exit 2; }
mapfile -t srun_args < <(sed '/^$/d' <<< "$words")
[ -z "${PORT:-}" ] || export MASTER_PORT=$PORT
exec srun -p "$partition" --job-name="$job" "${gres[@]}" --ntasks="$gpus" --ntasks-per-node="$per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 "${srun_args[@]}" \
  "${PYTHON:-python}" -u "$tools/${MMSEG_DAFT_SCRIPT:-train.py}" "$config" --launcher slurm "$@"
