#!/usr/bin/env bash
# usage: bash test.sh [--slow | --oldest | --cuda [--no_install]] [pytest arguments]
# Runs all tests except slow ones; --slow adds those. --oldest runs with the oldest supported versions (Python 3.10 to
# 3.12). --cuda runs those that need a CUDA card; --no_install uses the current python3.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"  # called by sh
set -eu
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/setup.sh"
cd "$here"

selection="not slow and not cuda" python=python
case "${1-}" in
    --slow) selection="not cuda"; shift ;;
    --oldest) oldest=yes; shift ;;
    --cuda) selection=cuda; shift ;;
esac
if [ "$selection" = cuda ] && [ "${1-}" = --no_install ]; then
    python=${PYTHON:-python3}
    shift
else
    install requirements.txt tests/requirements.txt
fi
if [ "$selection" = cuda ]; then
    "$python" -c 'import torch' 2>/dev/null ||
        { echo "error: $python has no torch; activate the environment that has, or set PYTHON" >&2; exit 2; }
    "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
        { echo "error: torch sees no CUDA card; check nvidia-smi and CUDA_VISIBLE_DEVICES" >&2; exit 2; }
    exec "$python" -m pytest -m cuda "$@"  # one process, since there is one card
fi
workers=$(($(nproc) + 1))  # one more, since some tests only wait; set before OMP_NUM_THREADS, which changes nproc
# One thread per test process: the small model does not gain from more.
export OMP_NUM_THREADS=1
python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder -m "$selection" "$@"
