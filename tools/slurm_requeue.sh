#!/usr/bin/env bash
# A training that outlives its time limit and preemption. Edit the lines below, or give the same options to sbatch:
#   sbatch [-p PARTITION] [--time=…] tools/slurm_requeue.sh CONFIG [train.py's arguments]
# Some minutes before the limit Slurm signals; the run saves a checkpoint (CheckpointOnSignalHook, in every config here)
# and ends, the job goes back into the queue by itself and resumes. A run that fails of itself is not requeued. A new job
# must not find a run in its work directory, unless --resume asks to go on with that.
#SBATCH --job-name=daft
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=5
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
#SBATCH --signal=B:USR2@300
set -euo pipefail
patience=${PATIENCE:-240}            # seconds for saving the checkpoint; less than --signal's
most_requeues=${MAX_REQUEUES:-100}
[ $# -ge 1 ] && [ -n "${SLURM_JOB_ID:-}" ] || { sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2; }

# Slurm runs a copy of this file, so its place is where sbatch found it.
script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p')
root=${MMSEG_DAFT_ROOT:-$(dirname "${script%% *}")/..}
[ -f "$root/tools/train.py" ] || { echo "No tools/train.py in $root: export MMSEG_DAFT_ROOT, the folder that holds tools" >&2; exit 2; }

# A restarted job resumes what there is; the first start of another run must not go on with what its folder holds.
resume=()
if ! held=$("${PYTHON:-python}" "$root/tools/train.py" --check-work-dir "$@" 2>&1); then
  [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || { echo "$held" >&2; exit 2; }
  resume=(--resume)
fi

signaled='' sent=''
trap 'signaled=${signaled:-$SECONDS}' USR2
srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "${PYTHON:-python}" -u "$root/tools/train.py" "$1" --launcher slurm "${resume[@]}" "${@:2}" &
step=$! started=$SECONDS
status=''
while kill -0 "$step" 2> /dev/null; do
  # srun passes the signal on to every task; in its first moments it would die of it.
  if [ -n "$signaled" ] && [ -z "$sent" ] && [ $((SECONDS - started)) -ge 5 ]; then
    kill -USR2 "$step" && sent=1
  fi
  if [ -n "$signaled" ] && [ $((SECONDS - signaled)) -ge "$patience" ]; then
    echo "slurm_requeue: no checkpoint within $patience s; the job will resume from an earlier one" >&2
    status=75
    break
  fi
  sleep 1
done
[ -n "$status" ] || { status=0; wait "$step" || status=$?; }
[ -n "$signaled" ] && [ "$status" != 0 ] || exit "$status"
if [ "${SLURM_RESTART_COUNT:-0}" -ge "$most_requeues" ]; then
  echo "slurm_requeue: requeued $SLURM_RESTART_COUNT times already; MAX_REQUEUES=… allows more" >&2
  exit "$status"
fi
echo "slurm_requeue: stopped by signal, back into the queue"
scontrol requeue "$SLURM_JOB_ID"
sleep 60                             # Slurm ends this script
