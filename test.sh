#!/usr/bin/env bash
# Every test: bash test.sh [--slow] [pytest arguments]. --slow adds the longer proofs.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./setup.sh
install requirements.txt tests/requirements.txt

selection="not slow"
if [ "${1-}" = --slow ]; then
    selection="slow or not slow"
    shift
fi
# One thread for each of the processes that run tests: the small model is too small to gain from more.
export OMP_NUM_THREADS=1
python -m pytest -n "$(nproc)" --dist loadfile -m "$selection" "$@"
