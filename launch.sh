# Functions for run_pa_videobench.sh and run_pa_videobench_gpu.sh, which source this file.
[ "${BASH_SOURCE[0]}" != "$0" ] || { echo "error: start run_pa_videobench.sh or run_pa_videobench_gpu.sh instead" >&2; exit 2; }

# wrong WHY: prints the usage and an error, and exits with 2.
wrong() {
    { usage; echo "error: $1"; } >&2
    exit 2
}

# split_arguments LEAST MOST ARGUMENT...: fills the arrays `positional` and `flags` (everything from the first argument that
# begins with --). Prints the usage for --help; calls `wrong` if there are too few or too many positional ones, or an empty one.
split_arguments() {
    local least=$1 most=$2 each wanted
    shift 2
    positional=() flags=()
    for each in "$@"; do
        [ "$each" != --help ] && [ "$each" != -h ] || { usage; exit 0; }
        if [ ${#flags[@]} -gt 0 ] || [[ $each == --* ]]; then flags+=("$each"); else positional+=("$each"); fi
    done
    if [ ${#positional[@]} -lt "$least" ] || [ ${#positional[@]} -gt "$most" ]; then
        wanted=$least
        [ "$least" = "$most" ] || wanted="$least to $most"
        each="quote a path that holds a space"
        [ ${#positional[@]} != 0 ] || [ ${#flags[@]} = 0 ] || each="give the flags after them"
        wrong "${#positional[@]} arguments were given before the flags, $wanted are wanted; $each"
    fi
    for each in "${positional[@]}"; do [ -n "$each" ] || wrong "an argument is empty; is a variable not set?"; done
}

# on_cpu: whether the flags include `--device cpu`.
on_cpu() {
    [[ " ${flags[*]-} " == *" --device"[\ =]"cpu "* ]]
}

# count_processes CARDS CHOSEN: one per card in a list such as "0,2,5", at least 1, so that the script itself can report an
# empty list. 1 for `--device cpu`, unless the caller has CHOSEN the cards.
count_processes() {
    local cards
    IFS=, read -ra cards <<<"$1"
    [ -n "$2" ] || ! on_cpu || cards=()
    echo $((${#cards[@]} > 0 ? ${#cards[@]} : 1))
}

# cards_of PREFIX: "0,1,..." for the driver's files PREFIX0, PREFIX1, ...; empty if there are none. Only their number counts:
# in a container with only PREFIX3, that card is number 0.
cards_of() {
    local files=("$1"[0-9]*)
    [ ! -e "${files[0]}" ] || seq -s, 0 $((${#files[@]} - 1))
}

# visible_npus PREFIX: "0,1,...": as many as the driver shows; otherwise 8, with a warning.
visible_npus() {
    local cards
    cards=$(cards_of "$1")
    [ -n "$cards" ] || on_cpu ||
        echo "warning: no $1* is there: 8 cards are assumed; if there are others, set ASCEND_RT_VISIBLE_DEVICES" >&2
    echo "${cards:-0,1,2,3,4,5,6,7}"
}

# visible_gpus PREFIX: "0,1,...": all that nvidia-smi lists or the driver shows; empty if there are none.
visible_gpus() {
    local cards
    if cards=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null); then
        paste -sd, <<<"$cards"
    else
        cards_of "$1"
    fi
}

# The variables that choose cards and machines; a command to go on with repeats those that are set.
choosing=(ASCEND_RT_VISIBLE_DEVICES CUDA_VISIBLE_DEVICES NNODES NODE_RANK MASTER_ADDR MASTER_PORT LOCAL_ADDR)

# remember_typed WORD...: fills the array `typed` with the words of the command, after the variables above that are set.
remember_typed() {
    local each
    typed=()
    for each in "${choosing[@]}"; do
        [ -z "${!each+set}" ] || typed+=("$each=${!each}")
    done
    typed+=("$@")
}

# The typed command, for any folder.
typed_command() {
    local each
    printf "cd %s &&" "$(quoted "$PWD")"
    for each in "${typed[@]}"; do printf " %s" "$(quoted "$each")"; done
}

# Quotes a word for bash; printf's %q alone would also quote commas.
quoted() {
    if [[ $1 =~ ^[A-Za-z0-9_./,:=-]+$ ]]; then printf %s "$1"; else printf %q "$1"; fi
}

# Moves `--max_restarts N`, which is for torchrun and not for the script, out of the array `flags`.
take_max_restarts() {
    local kept=() each next=""
    max_restarts=3
    for each in ${flags[@]+"${flags[@]}"}; do  # bash before 4.4 treats an empty array as unset
        if [ -n "$next" ]; then
            max_restarts=$each next=""
        elif [ "$each" = --max_restarts ]; then
            next=1
        elif [[ $each == --max_restarts=* ]]; then
            max_restarts=${each#*=}
        else
            kept+=("$each")
        fi
    done
    flags=(${kept[@]+"${kept[@]}"})
    [ -z "$next" ] && [[ $max_restarts =~ ^[0-9]+$ ]] || wrong "--max_restarts wants a whole number"
}

# launch NUMBER_OF_PROCESSES SCRIPT ARGUMENT...: runs the script with torchrun and returns the script's own exit status.
# torchrun turns every status into 1 and treats a run with failed questions as a crash, so the first process of a machine
# writes its status to a file (videobench/cli.py), and the command to go on with to another as soon as answers are stored. Uses
# `typed` (the command), `max_restarts` (how often dead processes are restarted) and `default_port` (for several machines).
launch() {
    local processes=$1 folder status=0 own="" where python go_on
    shift
    python=$(command -v python3 || command -v python) &&
        "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null ||
        { echo "error: torch is not found; activate the environment that holds it" >&2; return 2; }
    if [ "${NNODES:-1}" != 1 ]; then
        # Several machines find each other through the first one; c10d is the only rendezvous that brings all of them
        # together again when one machine has to restart its processes.
        if [ -z "${MASTER_ADDR:-}" ]; then
            echo "error: NNODES is $NNODES: set MASTER_ADDR to the name of the first machine, on all of them" >&2
            return 2
        fi
        where=(--nnodes "$NNODES" --rdzv_backend c10d --rdzv_endpoint "$MASTER_ADDR:${MASTER_PORT:-$default_port}"
            --rdzv_id "${SLURM_JOB_ID:-videobench}")
        # torchrun recognises the first machine by its name or address, unless it has several.
        [ -z "${NODE_RANK:-}" ] || where+=(--rdzv_conf "is_host=$([ "$NODE_RANK" = 0 ] && echo true || echo false)")
        [ -z "${LOCAL_ADDR:-}" ] || where+=(--local_addr "$LOCAL_ADDR")
    elif [ -n "${MASTER_PORT:-}" ]; then
        if ! [[ $MASTER_PORT =~ ^[0-9]{1,5}$ ]]; then
            echo "error: MASTER_PORT is '$MASTER_PORT', not a port's number; unset it, or choose one" >&2
            return 2
        elif (: <>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; then
            echo "error: MASTER_PORT $MASTER_PORT is in use by another process; unset it, or choose another" >&2
            return 2
        fi
        where=(--master_port "$MASTER_PORT")
    else
        where=(--standalone)  # on a free port, since another job may be running
    fi
    # The status is later overwritten in place, which works even if the disk is full by then.
    folder=$(mktemp -d) && echo none >"$folder/status" ||
        { echo "error: no file can be made in ${TMPDIR:-/tmp}; free space or set TMPDIR" >&2; return 2; }
    # Share the cores among the processes: torchrun would give them one thread each, with a warning.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(($(nproc) > processes ? $(nproc) / processes : 1))}"
    # torchrun imports torch, which imports an installed torch_npu, which fails if CANN is missing: leave it to the scripts to
    # report that, or to do without.
    export TORCH_DEVICE_BACKEND_AUTOLOAD=0
    stopped=0 child=""
    trap 'stop 129' HUP
    trap 'stop 130' INT
    trap 'stop 143' TERM
    # Run torchrun with its own messages in a file, which is shown only after an unexpected end: its loggers use the stream
    # that they find when they are imported. Modules are not imported from the current folder.
    local torchrun='
import os, sys
sys.path[:] = filter(None, sys.path)
sys.stderr = open(os.environ["VIDEOBENCH_TORCHRUN_LOG"], "w", buffering=1)
from torch.distributed.run import main
main()'
    # In a separate session, so that a Ctrl-C reaches only this shell, which passes it on once. What a killed torchrun leaves
    # in TMPDIR is removed with the folder.
    TMPDIR="$folder" VIDEOBENCH_STATUS_FILE="$folder/status" VIDEOBENCH_TORCHRUN_LOG="$folder/torchrun" \
        VIDEOBENCH_COMMAND="$(printf "%s\x1f" "${typed[@]}")" \
        setsid "$python" -c "$torchrun" --nproc_per_node "$processes" "${where[@]}" \
        --max_restarts "$max_restarts" "$@" &
    child=$!
    [ "$stopped" = 0 ] || kill -TERM "$child" 2>/dev/null || true  # a signal came before the process id was known
    wait "$child" 2>/dev/null || status=$?  # bash would otherwise report a killed child
    while kill -0 "$child" 2>/dev/null; do  # a signal has interrupted `wait`
        status=0
        wait "$child" 2>/dev/null || status=$?
    done
    trap - HUP INT TERM
    read -r own <"$folder/status" || true
    [ "$stopped" != 0 ] || [ "${own:-none}" != none ] || [ "$status" = 0 ] || cat "$folder/torchrun" >&2 || true
    if read -r go_on <"$folder/status.command"; then
        go_on="what was answered is kept; to go on: $go_on"
    else
        go_on="to start again: $(typed_command)"
    fi 2>/dev/null
    rm -rf "$folder"
    if [ "$stopped" != 0 ]; then
        status=$stopped
        echo "stopped; $go_on" >&2
    elif [ "${own:-none}" != none ]; then
        status=$own
    elif [ "$status" != 0 ]; then
        local found="error: processes died and were not started again (--max_restarts $max_restarts), or torchrun could not begin:"
        found+=" see above;"
        [ "$status" -le 128 ] || found="error: torchrun was killed (status $status), as the system does if memory runs out;"
        status=70
        echo "$found $go_on" >&2
    fi
    return "$status"
}

# stop STATUS: ends the processes of `launch`, which then returns STATUS.
stop() {
    [ "$stopped" != 0 ] || [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true
    stopped=$1
}
