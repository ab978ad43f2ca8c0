# Makes the files in this folder. Run it in the repository at commit 84608fe (before the release of 0.2.0).
data=tests/assets/egs out=/tmp/earlier
python extract_dataset.py --Eval_QA_root $data/Video-Bench --Eval_Video_root $data/VideoBench --nums 12 \
    --correct_answer_file $data/Video-Bench/ANSWER.json \
    --sampling_output_folder $out/Eval_video --json_output_path $out/Eval_QA
run="python run_gpu.py --device cpu --model_path tests/assets/tiny-llava-next-video --Eval_QA_root $out
    --image_or_video_path $out/Eval_video/sampling_data"
$run --chat_conversation_output_folder $out/whole          # sampling_data_eval.json
$run --chat_conversation_output_folder $out/part --limit 5  # journal/sampling_data.rank0.jsonl
