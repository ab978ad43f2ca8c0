#!/usr/bin/env bash
# Every test: bash test.sh [--slow | --oldest] [pytest arguments]
# --slow adds the longer proofs. --oldest runs with the oldest versions that are supported (Python 3.10 to 3.12).
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"  # called by sh
set -eu
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
source ./setup.sh

selection="not slow"
case "${1-}" in
    --slow) selection="slow or not slow"; shift ;;
    --oldest) oldest=yes; shift ;;
esac
install requirements.txt tests/requirements.txt
workers=$(nproc)  # before the next variable, which it heeds
# One thread for each of the processes that run tests: the small model is too small to gain from more.
export OMP_NUM_THREADS=1
python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder -m "$selection" "$@"
