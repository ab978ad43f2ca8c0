# usage: bash demo.sh, or bash test.sh: they source this file, which makes an environment with pinned versions.
# On a machine that answers questions, install requirements.txt or requirements-npu.txt instead (README.md).
case "${1-}" in -h | --help) sed -n '/^#!/d; /^#/!q; s/^# //p' "$0" && exit ;; esac  # prints the running script's help
[ "${BASH_SOURCE[0]}" != "$0" ] || { echo "error: start demo.sh or test.sh; see --help" >&2; exit 2; }

# install REQUIREMENTS...: into .venv, unless exactly these files are already installed there. With oldest=yes, and on
# Python 3.10, which has no newer ones, it installs the oldest supported versions into .venv-oldest.
install() {
    local python=${PYTHON:-python3} venv=.venv constraints=tests/constraints.txt
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' ||
        { echo "error: Python 3.10 to 3.13 is needed, $python is $("$python" -V 2>&1); set PYTHON" >&2; exit 2; }
    if [ "${oldest-}" = yes ] || "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 11))'; then
        venv=.venv-oldest constraints=tests/constraints-oldest.txt
    fi
    if ! cat "$@" $constraints | cmp -s - "$venv/installed"; then
        echo "Installing torch, transformers, PyAV and what they need into $PWD/$venv, in the versions of $constraints:"
        echo "2 GB with a CPU build of torch, several more where the package index has the CUDA build. Once; minutes."
        [ -x $venv/bin/python ] || "$python" -m venv $venv
        $venv/bin/python -m pip install --disable-pip-version-check \
            -c $constraints $(printf -- '-r %s ' "$@") || exit 2
        cat "$@" $constraints >"$venv/installed"
    fi
    export PATH="$PWD/$venv/bin:$PATH"
}
