#!/usr/bin/env bash
# Answers Video-Bench on Ascend NPUs: sets the environment, then starts one process per visible card.
# Variables that the caller has set are kept.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"  # called by sh
set -eu

usage() {
    cat <<EOF
usage: bash run_pa_videobench.sh weight_path video_path eval_qa_root chat_conversation_output_folder
                                 [max_batch_size [max_input_length [max_output_length]]] [--flag value ...]

  weight_path                      checkpoint, e.g. LLaVA-NeXT-Video-7B-hf
  video_path                       folder of one data set, e.g. egs/VideoBench/Eval_video/sampling_data
  eval_qa_root                     folder that holds Eval_QA/, e.g. egs/Video-Bench/
  chat_conversation_output_folder  folder for the results, e.g. ./Chat_results
  --max_restarts N                 how often processes that died are started again (default: 3)
  further flags                    those of run_npu.py (python run_npu.py --help)
EOF
}

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/launch.sh"
remember_typed bash "$0" "$@"
split_arguments 4 7 "$@"
take_max_restarts
for each in "${positional[@]:4}"; do
    [[ $each =~ ^[0-9]+$ ]] || wrong "after the four paths come numbers, not '$each'; quote a path that holds a space"
done

# The cards to use, in ascending order: with any other order, CANN and torch_npu see no card. One process per card is
# started.
chosen=${ASCEND_RT_VISIBLE_DEVICES+yes}
export ASCEND_RT_VISIBLE_DEVICES="${ASCEND_RT_VISIBLE_DEVICES:-$(visible_npus /dev/davinci)}"
# Port for several machines if MASTER_PORT is not set (20000 to 20050). A single machine uses a free port.
default_port=20030

# Read by torch_npu.
# Queue operators in a separate thread; 1 is also the default.
export TASK_QUEUE_ENABLE="${TASK_QUEUE_ENABLE:-1}"
# 0: overflows become the largest number; 1: infinity or NaN, as on a GPU. MindIE's launchers export 0, which torch_npu
# refuses on Atlas A2 and A3; older cards support only 0. The suite therefore always starts the card with 1, unless
# INF_NAN_MODE_FORCE_DISABLE=1 asks for 0 (videobench/device/devices.py).
export INF_NAN_MODE_ENABLE="${INF_NAN_MODE_ENABLE:-0}"

# Read only by MindIE's ATB runtime and its LCCL; torch_npu 2.13.0 ignores these names. They are set so that MindIE and this
# suite can run in one environment.
export ATB_LAYER_INTERNAL_TENSOR_REUSE="${ATB_LAYER_INTERNAL_TENSOR_REUSE:-1}"
export ATB_OPERATION_EXECUTE_ASYNC="${ATB_OPERATION_EXECUTE_ASYNC:-1}"
export ATB_CONVERT_NCHW_TO_ND="${ATB_CONVERT_NCHW_TO_ND:-1}"
export ATB_WORKSPACE_MEM_ALLOC_GLOBAL="${ATB_WORKSPACE_MEM_ALLOC_GLOBAL:-1}"
export ATB_CONTEXT_WORKSPACE_SIZE="${ATB_CONTEXT_WORKSPACE_SIZE:-0}"
export LCCL_ENABLE_FALLBACK="${LCCL_ENABLE_FALLBACK:-1}"

arguments=(--model_path "${positional[0]}" --image_or_video_path "${positional[1]}"
    --Eval_QA_root "${positional[2]}" --chat_conversation_output_folder "${positional[3]}")
[ ${#positional[@]} -lt 5 ] || arguments+=(--batch_size "${positional[4]}")
[ ${#positional[@]} -lt 6 ] || arguments+=(--max_input_length "${positional[5]}")
[ ${#positional[@]} -lt 7 ] || arguments+=(--max_new_tokens "${positional[6]}")

launch "$(count_processes "$ASCEND_RT_VISIBLE_DEVICES" "$chosen")" "$here/run_npu.py" "${arguments[@]}" ${flags[@]+"${flags[@]}"}
