# What every job does: settings of the site, a port of its own, signals, requeue. Sourced by the
# .sbatch files, in the checkout's root.
. launch/slurm/site.sh
read_site
load_site

restart=${SLURM_RESTART_COUNT:-0}
echo "== $(date -Is) job $SLURM_JOB_ID (${SLURM_JOB_NAME}), restart $restart," \
  "${SLURM_JOB_NUM_NODES} node(s): $SLURM_JOB_NODELIST"

# Jobs that share a node must not share a port.
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# The address, since a node's name need not resolve on the others.
MASTER_ADDR=$(scontrol -o show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
export MASTER_ADDR=${MASTER_ADDR:-$first}

# Runs a step and waits for it. On USR1, which --signal=B:USR1 sends before the time is over, the
# step's processes get it too, again and again: one that is still starting may miss the first.
# Returns the step's status.
run_step() {
  local status=0 new interrupted
  "$@" &
  local step=$!
  stop_step() {
    interrupted=1
    echo "== $(date -Is) stop signal: passed on to the step"
    (while kill -USR1 "$step" 2>/dev/null; do sleep 5; done) &
    trap 'interrupted=1' USR1 # Once is enough.
  }
  trap stop_step USR1
  while :; do
    interrupted=
    # A trap ends the first wait with a status that is not the step's: wait again.
    if wait "$step"; then new=0; else new=$?; fi
    [ "$new" = 127 ] || status=$new
    [ -n "$interrupted" ] || break
  done
  return "$status"
}

# Ends the job with a status; 85 asks for the same job again, which goes on where it stopped.
end_job() {
  local status=$1 state
  # An array's own number, which one of its tasks bears too, would mean all of them.
  local job=$SLURM_JOB_ID
  if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
  if [ "$status" = 85 ]; then
    state=$(scontrol -o show job "$job" | sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p')
    # One that is cancelled, or that Slurm requeues itself, is not running any more.
    if [ "$state" = RUNNING ]; then
      echo "== $(date -Is) stopped with a checkpoint: requeued"
      if scontrol requeue "$job"; then
        sleep 60 # Slurm ends this script meanwhile.
      fi
      echo "== could not be requeued: submit it again to go on"
    fi
  fi
  echo "== $(date -Is) ends with status $status"
  exit "$status"
}

# One task a node, each a launcher of that node's processes. Single quotes: SLURM_NODEID is the
# task's. USR1 must not end the launcher; its workers listen to it themselves.
launch_on_nodes() {
  export PROCESSES=$((SLURM_JOB_NUM_NODES * SITE_PROCESSES_PER_NODE))
  # With c10d, ranks that die are replaced within the job. All nodes meet at this endpoint.
  export PET_RDZV_ENDPOINT=$MASTER_ADDR:$MASTER_PORT PET_RDZV_ID=$SLURM_JOB_ID.$restart
  # shellcheck disable=SC2016
  run_step srun --kill-on-bad-exit=1 --nodes="$SLURM_JOB_NUM_NODES" \
    --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c '
    trap "" USR1
    exec launch/keep_status accelerate launch --config_file launch/slurm/accelerate.yaml \
      --num_machines "$SLURM_JOB_NUM_NODES" --num_processes "$PROCESSES" \
      --machine_rank "$SLURM_NODEID" \
      --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
      --max_restarts "${SITE_MAX_RESTARTS:-3}" "$@"' launch "$@"
}
