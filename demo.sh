#!/usr/bin/env bash
# usage: bash demo.sh
# Runs all steps on the CPU with this repository's small model and data: its 339 questions are answered in bfloat16 by the
# NPU's script and in float32 by the GPU's script, then compared. Results go to demo_results/.
[ -n "${BASH_VERSION-}" ] || exec bash "$0" "$@"  # called by sh
set -eu -o pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$here/setup.sh"
[ $# = 0 ] || { echo "error: demo.sh takes no arguments; see --help" >&2; exit 2; }
cd "$here"
echo "This demo asks the small model of this repository its 339 questions twice on the CPU, in bfloat16 as the NPU's run and in"
echo "float32 as the GPU's, and compares the answers. It takes a few minutes; everything it writes goes to demo_results/."
install requirements.txt

data=tests/assets/egs model=tests/assets/tiny-llava-next-video out=demo_results
step() { printf '\n== %s\n' "$*"; }

step "1. extract_dataset.py: sample questions, videos and answers"
python extract_dataset.py --Eval_QA_root $data/Video-Bench --Eval_Video_root $data/VideoBench \
    --sampling_output_folder $out/VideoBench/Eval_video --json_output_path $out/Video-Bench/Eval_QA \
    --correct_answer_file $data/Video-Bench/ANSWER.json --nums 339

step "2. run_pa_videobench.sh: what an NPU would answer, here the CPU in bfloat16"
bash run_pa_videobench.sh $model $out/VideoBench/Eval_video/sampling_data \
    $out/Video-Bench $out/npu --device cpu --dtype bfloat16 --overwrite

step "3. run_pa_videobench_gpu.sh: what a GPU would answer, here the CPU in float32"
bash run_pa_videobench_gpu.sh sampling_data $out/Video-Bench $out/VideoBench \
    $model $out/gpu --device cpu --overwrite

step "4. precision_test.py: the comparison"
echo "The margin is 2 points, not 1 as by default: 339 questions on 90 videos can show 1.6 points at best, however alike."
python precision_test.py --eval_npu_path $out/npu/sampling_data_eval.json --eval_gpu_path $out/gpu/sampling_data_eval.json \
    --sampling_answer_path $out/Video-Bench/Eval_QA/sampling_answer.json --margin 2 --report_html $out/report.html \
    --Eval_Video_root $out/VideoBench | tee $out/report.txt

step "What it means"
sed '/^$/q' $out/report.txt  # the first paragraph: what to do
echo "The same as a page, with plots and the frames of what differs: $out/report.html"
