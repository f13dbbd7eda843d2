# Reads and checks the site file. Sourced by submit and by the jobs, in the checkout's root.

site_refused() { # found, expected, remedy
  echo "error: $1, expected $2: $3" >&2
  exit 2
}

read_site() {
  export OPTICAL_SITE=${OPTICAL_SITE:-launch/slurm/site.env}
  [ -r "$OPTICAL_SITE" ] || site_refused "no site file $OPTICAL_SITE" "your cluster's settings" \
    "cp launch/slurm/site.env.example launch/slurm/site.env and edit it"
  bash -n "$OPTICAL_SITE" || site_refused "site file $OPTICAL_SITE" "shell assignments" "correct it"
  set -a
  # shellcheck disable=SC1090
  . "$OPTICAL_SITE"
  set +a
  : "${SITE_ENVIRONMENT:=}" "${SITE_MODULES:=}" "${SITE_GPUS_PER_NODE:=0}"
  : "${SITE_PROCESSES_PER_NODE:=1}"
  case $SITE_PROCESSES_PER_NODE in
    '' | 0 | *[!0-9]*) site_refused "$OPTICAL_SITE: SITE_PROCESSES_PER_NODE=$SITE_PROCESSES_PER_NODE" \
      "a number above 0" "one a GPU, or as many as the cores bear" ;;
  esac
  case $SITE_GPUS_PER_NODE in
    '' | *[!0-9]*) site_refused "$OPTICAL_SITE: SITE_GPUS_PER_NODE=$SITE_GPUS_PER_NODE" \
      "a number, 0 for none" "correct it" ;;
  esac
  if [ -n "$SITE_ENVIRONMENT" ] && [ ! -r "$SITE_ENVIRONMENT/bin/activate" ]; then
    site_refused "$OPTICAL_SITE: SITE_ENVIRONMENT=$SITE_ENVIRONMENT" "a virtual environment" \
      "make it with \`make test\`, or name yours"
  fi
  if [ -n "${SBATCH_PARTITION:-}" ] && ! scontrol show partition "$SBATCH_PARTITION" >/dev/null 2>&1
  then
    site_refused "$OPTICAL_SITE: SBATCH_PARTITION=$SBATCH_PARTITION" \
      "one of $(sinfo -h -o %R | paste -sd ' ')" "correct it"
  fi
  # sbatch reads the account itself and refuses a wrong one.
}

load_site() { # modules and environment, on a node
  local module
  for module in $SITE_MODULES; do
    module load "$module" || site_refused "$OPTICAL_SITE: module $module" \
      "one that \`module avail\` lists" "correct SITE_MODULES"
  done
  # shellcheck disable=SC1091
  if [ -n "$SITE_ENVIRONMENT" ]; then . "$SITE_ENVIRONMENT/bin/activate"; fi
}
