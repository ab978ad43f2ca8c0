#!/usr/bin/env bash
# Once on a machine with a CUDA card: bash benchmarks/on_card.sh check | bench [FOLDER]
# check: is everything right on it (4 minutes)? bench: how fast is it (7 minutes)? Both print to FOLDER/check.log or
# bench.log too (default: on_card/). Uses the python3 that is there, which needs what requirements.txt and
# tests/requirements.txt name; nothing is installed or downloaded.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"  # called by sh
set -u
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
case "${1-}" in
    check | bench) ;;
    *) sed -n 2,5p "$0" >&2; exit 2 ;;
esac
out=${2:-on_card} room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
mkdir -p "$out"
exec > >(tee "$out/$1.log") 2>&1
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
failed=0
assets=tests/assets

# step SECONDS COMMAND...: prints the command, how it ended, and when; stops it after so many seconds.
step() {
    local limit=$1 status
    shift
    echo "=== [$SECONDS s] $*"
    timeout "$limit" "$@"
    status=$?
    echo "--- status $status [$SECONDS s]"
    [ $status -eq 0 ] || failed=1
}

# answer NAME FLAGS...: all 339 questions of the small data with the small model.
answer() {
    step 120 python3 run_gpu.py --model_path $assets/tiny-llava-next-video --dataset_name all \
        --Eval_QA_root $assets/egs/Video-Bench --Eval_Video_root $assets/egs/VideoBench \
        --chat_conversation_output_folder "$room/$1" "${@:2}"
}

# compare NAME: with the CPU's float32, in the place of an NPU's results.
compare() {
    step 60 python3 precision_test.py --eval_npu_path "$room/cpu" --eval_gpu_path "$room/$1" --margin 2 \
        --sampling_answer_path $assets/egs/Video-Bench/ANSWER.json --output_json "$out/$1.json"
}

if [ "$1" = check ]; then
    step 30 nvidia-smi --query-gpu=name,memory.used,memory.total,driver_version --format=csv
    step 60 python3 -c 'import torch, transformers, av, numpy; print("torch", torch.__version__, "transformers",
        transformers.__version__, "av", av.__version__, "numpy", numpy.__version__)'
    step 90 python3 run_gpu.py --check_device
    answer cpu --device cpu --dtype float32
    for dtype in float32 float16 bfloat16; do
        answer $dtype --device cuda --dtype $dtype
        compare $dtype
    done
    step 300 bash test.sh --cuda --no_install -q -p no:cacheprovider --durations=10
else
    step 150 python3 benchmarks/on_card.py --rows 32 64
    step 60 python3 benchmarks/on_card.py --questions 3 --repeats 1 --profile
    step 420 python3 benchmarks/inference.py --device cuda --shape 7b --num_questions 480 --plain_questions 2 --folder "$out/clips"
fi
exit $failed
