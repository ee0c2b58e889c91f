#!/bin/bash
# A study on a Slurm cluster without Ray: an array of tasks, each with a part and a file of its own.
#   mkdir -p runs && sbatch examples/slurm-array.sh
# When all tasks have ended, join the parts:
#   charprobe-lite study merge runs/smollm2-135m-seed0-part*.sqlite -o runs/whole.sqlite
#   charprobe-lite report runs/whole.sqlite
# A task that was stopped continues where it was: submit the same script again.
#SBATCH --job-name=charprobe-lite
#SBATCH --array=1-8
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=runs/slurm-%A-%a.log
##SBATCH --gres=gpu:1
set -euo pipefail
parts=${SLURM_ARRAY_TASK_COUNT:?submit this with sbatch}
part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))
# files are converted once: the tasks share this cache and wait for each other
export CHARPROBE_CACHE=${CHARPROBE_CACHE:-$HOME/.cache/charprobe-lite}
charprobe-lite eval --persona all --condition all --limit 24,50 \
    --shard "$part/$parts" --threads "$SLURM_CPUS_PER_TASK"
