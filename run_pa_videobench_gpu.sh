#!/usr/bin/env bash
# Answers Video-Bench on CUDA GPUs: starts one process per visible card.
# Variables that the caller has set are kept.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"  # called by sh
set -eu

usage() {
    cat <<EOF
usage: bash run_pa_videobench_gpu.sh dataset_name Eval_QA_root Eval_Video_root weight_path
                                     chat_conversation_output_folder [--flag value ...]

  dataset_name                     a data set, several with commas, or all, e.g. sampling_data
  Eval_QA_root                     folder that holds Eval_QA/, e.g. egs/Video-Bench/
  Eval_Video_root                  folder that holds Eval_video/, e.g. egs/VideoBench/
  weight_path                      checkpoint, e.g. LLaVA-NeXT-Video-7B-hf
  chat_conversation_output_folder  folder for the results, e.g. ./Chat_results
  --max_restarts N                 how often processes that died are started again (default: 3)
  further flags                    those of run_gpu.py (python run_gpu.py --help)
EOF
}

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/launch.sh"
remember_typed bash "$0" "$@"
split_arguments 5 5 "$@"
take_max_restarts

# The cards of this machine to use.
chosen=${CUDA_VISIBLE_DEVICES+yes}
cards=${CUDA_VISIBLE_DEVICES-$(visible_gpus /dev/nvidia)}
[ -z "$cards" ] || export CUDA_VISIBLE_DEVICES="$cards"
# Port for several machines if MASTER_PORT is not set. A single machine uses a free port.
default_port=20034

launch "$(count_processes "$cards" "$chosen")" "$here/run_gpu.py" \
    --dataset_name "${positional[0]}" --Eval_QA_root "${positional[1]}" --Eval_Video_root "${positional[2]}" \
    --model_path "${positional[3]}" --chat_conversation_output_folder "${positional[4]}" ${flags[@]+"${flags[@]}"}
