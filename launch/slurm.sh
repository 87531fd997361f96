#!/usr/bin/env bash
# One node of a Slurm cluster: sbatch launch/slurm.sh -r recipe record -r price_per_hour 24
# Submit it from the clone, on a disk that every node sees, after `TORCH_INDEX= make setup` on a node with internet. See launch/README.md.
#SBATCH --job-name=gpt2course
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=06:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@600
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this file with sbatch, in the folder of the course}"
# A job that is queued again may start on another node, so the run must be on a shared disk.
export GPT2COURSE_HOME=${GPT2COURSE_HOME:-$PWD/work/home}
exec bash launch/run.sh "$@" # in place of this shell, so that Slurm's signals reach it
