#!/usr/bin/env bash
# Train with several processes, without Slurm: mmseg's tools/dist_train.sh, found from any directory.
#   [PORT=…] tools/dist_train.sh CONFIG GPUS [train.py's arguments]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=ADDRESS [PORT=29500] tools/dist_train.sh CONFIG GPUS [train.py's arguments]    # on each node
# On one machine torchrun takes a free port, so two runs there never meet. Without a GPU, GPUS are processes.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
config=$1 gpus=$2
shift 2
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
  rendezvous=(--standalone)
else
  rendezvous=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
              --master_port="${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$gpus" \
  "$(dirname "${BASH_SOURCE[0]}")/${MMSEG_DAFT_SCRIPT:-train.py}" "$config" --launcher pytorch "$@"
