# Makes .venv with the versions that the tests pin; sourced by demo.sh and test.sh, not started.
# On a machine that answers questions, install requirements.txt or requirements-npu.txt instead (README.md).

# install REQUIREMENTS...: into .venv, unless the same files have been installed there before.
install() {
    local python=${PYTHON:-python3} stamp=.venv/installed
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
        { echo "error: Python 3.10 to 3.13 is needed, $python is $("$python" -V 2>&1); set PYTHON" >&2; exit 2; }
    if ! cat "$@" tests/constraints.txt | cmp -s - "$stamp"; then
        [ -x .venv/bin/python ] || "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            -c tests/constraints.txt $(printf -- '-r %s ' "$@") || exit 2
        cat "$@" tests/constraints.txt >"$stamp"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}
