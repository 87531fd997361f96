#!/usr/bin/env bash
# One whole run on this machine, from a clone of the course to the summary. See launch/README.md.
#
#   bash launch/run.sh -r recipe record -r price_per_hour 24     # parameters of runbooks/speedrun.ipynb
#   DRY_RUN=1 bash launch/run.sh                                 # only print the commands
#
# Run it again after any interruption: what is done is not repeated. Settings, from the environment:
#   NAME      name of the run (speedrun)
#   PROFILE   profile of the runbook (8xh100)
#   COPY_TO   a folder, or host:folder, that outlives this machine. The run is copied there every COPY_MINUTES (10), when
#             it is stopped, and at its end. A run that is there and not on this machine is first copied from there
#   TRIES     how often papermill is started if it is killed or its kernel dies (3); an error in a cell is not tried again
# Exit codes: 0 done; 75 stopped by a signal, with a checkpoint: run it again; others: of the command that failed.
set -euo pipefail
cd "$(dirname "$0")/.."
NAME=${NAME:-speedrun} PROFILE=${PROFILE:-8xh100} COPY_TO=${COPY_TO:-} COPY_MINUTES=${COPY_MINUTES:-10} TRIES=${TRIES:-3} DRY_RUN=${DRY_RUN:-}
RUNS=''
OUT=work/speedrun/$NAME.ipynb
PATH=$PWD/.venv/bin:$PATH
papermill='' copy='' copied=0 code=0

step() { # print a command, and run it unless this is a dry run
  printf '+ %s\n' "$*"
  [ -n "$DRY_RUN" ] || "$@"
}

copy_off() { # --delete-after: checkpoints that the run has deleted go at the copy too, once the new ones are whole
  copied=$SECONDS
  [ -n "$COPY_TO" ] && [ -n "$RUNS" ] || return 0
  local command=(rsync -rt --delete-after --exclude '.*.tmp' "$RUNS/$NAME" "$COPY_TO/")
  printf '+ %s\n' "${command[*]}"
  [ -z "$DRY_RUN" ] || return 0
  "${command[@]}" & # a signal interrupts `wait` at once, but not rsync
  copy=$!
  wait "$copy" || echo "warning: the copy to $COPY_TO failed; it is tried again later" >&2
  copy=''
}

# shellcheck disable=SC2329  # called by the traps
stopped() { # $1: the signal. This machine will be gone soon: save a checkpoint, copy the run, end
  trap '' TERM USR1
  echo "signal $1: stopping with a checkpoint"
  [ -z "$papermill" ] || kill "$papermill" 2>/dev/null || true
  [ -z "$copy" ] || kill "$copy" 2>/dev/null || true # the checkpoint first
  papermill=''
  step python -m gpt2course.ops.runbook stop "$NAME" --wait 240 || true
  copy_off
  # Slurm sends USR1 before the time limit. After TERM it queues a pre-empted job itself, and a cancelled job must not be queued
  [ "$1" != USR1 ] || [ -z "${SLURM_JOB_ID:-}" ] || step scontrol requeue "$SLURM_JOB_ID"
  exit 75
}
trap 'stopped TERM' TERM
trap 'stopped USR1' USR1
trap '[ -z "$papermill" ] || kill "$papermill" 2>/dev/null || true' EXIT # Ctrl-C, a lost terminal: training continues

if [ -n "$COPY_TO" ] && [ -z "$DRY_RUN" ] && ! command -v rsync >/dev/null; then
  echo "error: COPY_TO needs rsync: install it (apt-get install rsync), or unset COPY_TO" >&2
  exit 2
fi
step nvidia-smi -L
step make setup
if [ -n "$DRY_RUN" ]; then
  RUNS=${GPT2COURSE_HOME:-$HOME/.cache/gpt2course}/runs
else # the package knows where runs are
  RUNS=$(python -c 'from gpt2course.files import home; print(home())')/runs
fi
step mkdir -p "$RUNS" "$(dirname "$OUT")"
if [ -n "$COPY_TO" ] && [ ! -d "$RUNS/$NAME" ]; then
  step rsync -rt "$COPY_TO/$NAME" "$RUNS/" || echo "there is no run $NAME in $COPY_TO to resume"
fi

run=(papermill runbooks/speedrun.ipynb "$OUT" -k gpt2course --cwd . -r profile "$PROFILE" -r name "$NAME" "$@"
  --log-output --autosave-cell-every 30 --no-progress-bar)
for ((try = 1; try <= TRIES; try++)); do
  code=0
  printf '+ %s\n' "${run[*]}"
  [ -z "$DRY_RUN" ] || break
  "${run[@]}" &
  papermill=$!
  while kill -0 "$papermill" 2>/dev/null; do
    sleep 1 & # a signal interrupts `wait` at once, but not `sleep`
    wait $! || true
    ((SECONDS - copied < 60 * COPY_MINUTES)) || copy_off
  done
  wait "$papermill" || code=$?
  papermill=''
  ((code > 128)) || break
  echo "papermill ended with code $code: it was killed, or its kernel died (try $try of $TRIES)"
done
[ -z "$COPY_TO" ] || [ ! -f "$OUT" ] || step cp "$OUT" "$RUNS/$NAME/"
copy_off
if [ -n "$DRY_RUN" ]; then
  echo "dry run: nothing was done"
elif ((code)); then
  echo "papermill ended with code $code; $OUT shows where. The same command resumes the run" >&2
else
  echo "done: everything is in $RUNS/$NAME. Copy it to another machine, and shut this one down: it costs until then"
fi
exit "$code"
