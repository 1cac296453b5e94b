#!/usr/bin/env bash
# Everything from nothing: installs what is missing (needs Python 3.11 or newer with pip), then does what is asked.
#   bash dev.sh quickstart   run experiments/quickstart.yaml and report
#   bash dev.sh test         format, lint, types, tests
#   bash dev.sh setup        only install
#   bash dev.sh lock         resolve the dependencies of pyproject.toml anew into requirements.lock
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

die() { echo "dev.sh: $*" >&2; exit 3; }

find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      command -v "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer is needed and was not found; on Debian: apt-get install python3 python3-pip"
}

# uv comes from the lock file too, with its hash. --target leaves the system's Python alone, whoever manages it.
install_uv() {
  [ -x .tools/bin/uv ] && return
  mkdir -p .tools
  awk '/^uv==/ { found = 1 } found { print } found && !/\\$/ { exit }' requirements.lock > .tools/uv.txt
  "$1" -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --require-hashes --target .tools --requirement .tools/uv.txt || die "uv could not be installed; is pip there and the package index reachable?"
}

setup() {
  local python lock_digest
  python=$(find_python)
  lock_digest=$(cat requirements.lock pyproject.toml | sha256sum | cut -c1-64)
  if [ "$(cat .venv/installed 2>/dev/null)" = "$lock_digest" ]; then
    return
  fi
  install_uv "$python"
  export UV_PYTHON_DOWNLOADS=never
  [ -x .venv/bin/python ] || .tools/bin/uv venv --quiet --python "$python" .venv
  # Bytecode is compiled once, here: without it every start would compile torch anew where caches are switched off.
  .tools/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes --compile-bytecode requirements.lock
  .tools/bin/uv pip install --quiet --python .venv/bin/python --no-deps --editable .
  echo "$lock_digest" > .venv/installed
}

case "${1:-}" in
  setup) setup ;;
  quickstart)
    setup
    exec .venv/bin/sweep run experiments/quickstart.yaml "${@:2}"
    ;;
  test)
    setup
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/mypy
    if [ $# -gt 1 ]; then
      exec .venv/bin/pytest "${@:2}"
    fi
    # Tests on clusters mostly wait, for grace times, holds and nodes that are missed; the others run beside them, and
    # those that only compute give way.
    export OMP_NUM_THREADS=1
    logs=$(mktemp -d)
    declare -A queues=(
      [computing]="tests/unit tests/integration/test_learning.py"
      [slurm]="tests/integration/slurm tests/e2e/test_slurm_quickstart.py"
      [ray]="tests/integration/ray tests/e2e/test_ray_quickstart.py"
    )
    declare -A running
    for queue in "${!queues[@]}"; do
      # shellcheck disable=SC2086 # several paths
      nice -n "$([ "$queue" = computing ] && echo 10 || echo 0)" \
        .venv/bin/pytest -p no:cacheprovider --durations=15 ${queues[$queue]} > "$logs/$queue" 2>&1 &
      running[$queue]=$!
    done
    status=0
    .venv/bin/pytest --durations=15 tests/integration tests/e2e --ignore-glob='*/integration/slurm' \
      --ignore-glob='*/integration/ray' --ignore-glob='*/integration/test_learning.py' \
      --ignore-glob='*/e2e/test_*_quickstart.py' || status=$?
    for queue in "${!queues[@]}"; do
      wait "${running[$queue]}" || status=$?
      echo "--- $queue: ${queues[$queue]} ---"
      cat "$logs/$queue"
    done
    rm -r "$logs"
    exit "$status"
    ;;
  lock)
    install_uv "$(find_python)"
    .tools/bin/uv lock --upgrade
    .tools/bin/uv export --quiet --format requirements-txt --no-emit-project --all-groups --no-header \
      --output-file requirements.lock
    ;;
  *) sed -n '2,6p' "$0"; exit 2 ;;
esac
