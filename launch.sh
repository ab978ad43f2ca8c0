# What run_pa_videobench.sh and run_pa_videobench_gpu.sh share; sourced by them, not started.

# Fills the arrays `positional` and `flags` (everything from the first argument that begins with --).
# Fails where one of the first $1 arguments is empty or a flag.
split_arguments() {
    local required=$1 each
    shift
    positional=() flags=()
    for each in "$@"; do
        if [ ${#flags[@]} -gt 0 ] || [[ $each == --* ]]; then flags+=("$each"); else positional+=("$each"); fi
    done
    [ ${#positional[@]} -ge "$required" ] || return 1
    for each in "${positional[@]}"; do [ -n "$each" ] || return 1; done
}

# "0,2,5" -> 3; at least 1, so that the script itself can say what is wrong with an empty list.
count_cards() {
    local cards
    IFS=, read -ra cards <<<"$1"
    echo $((${#cards[@]} > 0 ? ${#cards[@]} : 1))
}

# "0,1,...": all that the driver shows; empty without one.
visible_gpus() {
    nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true
}

# launch NUMBER_OF_PROCESSES SCRIPT ARGUMENT...: the script's own exit status. torchrun turns every status into 1 and takes
# a run with failed questions for a crash, so the first process writes its status to a file (videobench/ranks.py).
launch() {
    local processes=$1 folder status=0 own
    shift
    folder=$(mktemp -d)
    # Shared out among the processes, as torchrun would not do by itself: it gives each of them one thread, with a warning.
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(($(nproc) > processes ? $(nproc) / processes : 1))}"
    # torchrun imports torch, which imports an installed torch_npu, which fails where CANN is missing: the scripts themselves
    # say what is wrong, or do without it.
    export TORCH_DEVICE_BACKEND_AUTOLOAD=0
    VIDEOBENCH_STATUS_FILE="$folder/status" torchrun --nproc_per_node "$processes" --master_port "$MASTER_PORT" "$@" ||
        status=$?
    if own=$(cat "$folder/status" 2>/dev/null); then status=$own; fi
    rm -rf "$folder"
    return "$status"
}
