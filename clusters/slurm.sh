#!/bin/bash
# One job on machines of a Slurm cluster: Ray's head on the first one, a worker on each of the others, the run on the head.
#   sbatch --nodes=2 clusters/slurm.sh jobs/hh_rlhf.yaml output=/shared/runs
# Start it in this folder, which all machines see. The first job makes .venv, for which its machine needs Python 3.11 and a
# way to a package index; where it has none, make .venv beforehand (clusters/README.md). When the time limit comes, Slurm
# warns the run, which ends as with Ctrl-C; the same command goes on from there.
#SBATCH --job-name=rayalign
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=rayalign-%j.log
set -euo pipefail

export PATH=$PWD/.venv/bin:$PATH
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN
port=$((20000 + SLURM_JOB_ID % 10000))  # two jobs may share no machine, but a service of another user may be there

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
# Set-up: this project with the tested versions. Of several jobs that start at once, the others wait for the first one.
srun --nodes=1 --ntasks=1 --nodelist="$head" flock constraints.txt bash -euc '
    [ -x .venv/bin/rayalign ] && exit
    python3.11 -m venv .venv
    .venv/bin/pip install --constraint constraints.txt uv
    .venv/bin/uv pip install --python .venv/bin/python --constraint constraints.txt --editable ".[gpu]"'
resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --block)

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" "${resources[@]}" &
for machine in "${machines[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$machine" ray start --address="$address:$port" "${resources[@]}" &
done

SECONDS=0  # set-up may have taken longer than a start
until ray status --address="$address:$port" > /dev/null 2>&1; do
    [ "$SECONDS" -lt 300 ] || { echo "Ray's head on $head did not start within 300 s; see its lines above" >&2; exit 1; }
    sleep 2
done
# The run waits by itself until as many machines have come as the job needs.
export RAY_ADDRESS=$address:$port
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" rayalign run "$@" &
run=$!
trap 'kill -TERM "$run"' TERM
code=0
wait "$run" || code=$?
wait "$run" 2>/dev/null || true  # after the trap, until it has ended
exit "$code"
