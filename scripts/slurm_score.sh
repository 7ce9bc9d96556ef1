#!/usr/bin/env bash
# Score slides in one SLURM allocation: a Dask scheduler, one worker per task, and the run itself.
#
#   sbatch --ntasks=8 --cpus-per-task=8 --mem-per-cpu=4G --time=12:00:00 \
#       scripts/slurm_score.sh SLIDES --model MODEL --out OUT [more options of pathology score]
#
# With one GPU per task:  sbatch --ntasks=4 --gpus-per-task=1 --cpus-per-task=16 ... scripts/slurm_score.sh ...
# Slides and OUT must be on storage shared by all nodes.  If killed, requeued or out of time, the same command resumes.
# PYTHON is the interpreter of the environment in which pathology is installed.
#SBATCH --job-name=pathology
#SBATCH --requeue
set -euo pipefail

if [ $# -eq 0 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
fi
python=${PYTHON:-python}
meeting=$(mktemp -d "${SLURM_SUBMIT_DIR:-$PWD}/.pathology-dask-XXXXXX") # on shared storage
trap 'kill $(jobs -p) 2> /dev/null || true; wait; rm -rf "$meeting"' EXIT

"$python" -m distributed.cli.dask_scheduler --scheduler-file "$meeting/scheduler.json" --port 0 --no-dashboard \
    > "$meeting/scheduler.log" 2>&1 &

gpu=()
[ -n "${SLURM_GPUS_PER_TASK:-}" ] && gpu=(--resources GPU=1)
export PATHOLOGY_THREADS=${SLURM_CPUS_PER_TASK:-1}
# Two tasks at once: while one predicts, the first blocks of the next are read.
srun --ntasks="${SLURM_NTASKS:-1}" --cpus-per-task="$PATHOLOGY_THREADS" \
    "$python" -m distributed.cli.dask_worker --scheduler-file "$meeting/scheduler.json" --nworkers 1 --nthreads 2 \
    --no-dashboard --local-directory "${TMPDIR:-/tmp}" --death-timeout 120 "${gpu[@]}" > "$meeting/workers.log" 2>&1 &

"$python" - "$meeting/scheduler.json" << 'END'
import pathlib, sys, time
from distributed import Client

while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.2)
with Client(scheduler_file=sys.argv[1], timeout="120s") as client:
    client.wait_for_workers(1, timeout=300)
END
"$python" -m pathology score "$@" --scheduler "$meeting/scheduler.json"
