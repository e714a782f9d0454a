#!/usr/bin/env bash
# Test with several processes, without Slurm: mmseg's tools/dist_test.sh, found from any directory.
#   [PORT=…] tools/dist_test.sh CONFIG CHECKPOINT GPUS [test.py's arguments]
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=ADDRESS [PORT=29500] tools/dist_test.sh CONFIG CHECKPOINT GPUS [test.py's arguments]    # on each node
# On one machine torchrun takes a free port, so two runs there never meet. Without a GPU, GPUS are processes.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
config=$1 checkpoint=$2 gpus=$3
shift 3
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
  rendezvous=(--standalone)
else
  rendezvous=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
              --master_port="${PORT:-29500}")
fi
export PYTHONPATH=${tools%/*}${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$gpus" \
  "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
