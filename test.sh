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
python -m pytest -m "$selection" "$@"
