#!/usr/bin/env bash
# How lm_eval.tar.xz was made: real logs of lm-eval 0.4.13, whose tables are kept beside them as table.txt.
#   python3 -m venv env && env/bin/pip install torch "lm-eval[hf]==0.4.13"     # the CPU build of torch
#   bash make_lm_eval.sh env/bin work       # 6 minutes on two cores; leaves lm_eval.tar.xz in work
set -eu
bin=$(readlink -f "$1"); here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
mkdir -p "$2/tasks" && cd "$2"
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1

write_task() {  # name, what differs
    { printf 'task: %s\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\n' "$1"
      printf 'test_split: test\nfewshot_split: test\nmetadata: {version: 1.0}\n'
      printf '%s\n' "doc_to_text: \"{{video}}: {{question}} ({{choices|join(', ')}})\\nAnswer:\""; printf '%s\n' "${@:2}"; } > "tasks/$1.yaml"
}
pick() {
    printf '{name: %s, filter: [{function: regex, regex_pattern: "[a-z]+", group_select: %s}, {function: take_first}]}' "$@"
}
options=("output_type: multiple_choice" "doc_to_choice: choices" "doc_to_target: answer")
write_task shapes "${options[@]}" "metric_list: [{metric: acc}, {metric: acc_norm}]"
write_task words "output_type: generate_until" "doc_to_target: word" "metric_list: [{metric: exact_match}]" \
    'generation_kwargs: {until: ["\n"], max_gen_toks: 6, do_sample: false}' \
    "filter_list: [$(pick first-word 0), $(pick last-word -1)]"
write_task rolling "output_type: loglikelihood_rolling" 'doc_to_target: "{{question}}"' \
    "metric_list: [{metric: word_perplexity}]"

make_data() { "$bin/python" - "$here/.." "$@" <<'PYTHON'
"""The questions of the small data set, and a small Llama with random weights; its own answers are right in 7 of 10."""
import glob, json, random, sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

assets, *logs = sys.argv[1:]
docs = []
for path in sorted(glob.glob(f"{assets}/egs/Video-Bench/Eval_QA/*_QA_new.json")):
    for row in json.load(open(path)).values():
        choices = [str(each) for each in row["choices"].values() if each not in (None, "")]
        docs.append({"question": row["question"], "choices": choices, "answer": 0, "word": "", "video": row["video_id"]})
rng = random.Random(0)
if logs:
    sampled = [{line["doc_id"]: line for line in map(json.loads, open(path))} for path in logs]
    for index, doc in enumerate(docs):
        found = [float(each[0]) for each in sampled[0][index]["filtered_resps"]]
        doc["answer"] = found.index(max(found)) if rng.random() < 0.7 else rng.randrange(len(found))
        doc["word"] = sampled[1][index]["filtered_resps"][0] if rng.random() < 0.7 else "square"
open("data.jsonl", "w").writelines(json.dumps(each) + "\n" for each in docs)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=f"{assets}/tiny-llava-next-video/tokenizer.json", eos_token="</s>", pad_token="<pad>", bos_token="<s>"
)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
    max_position_embeddings=1024, pad_token_id=3, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
)
model = LlamaForCausalLM(config)
with torch.no_grad():
    for weight in model.parameters():
        weight.mul_(4 if weight.ndim > 1 else 1)
    model.save_pretrained("model"), tokenizer.save_pretrained("model")
    model.model.layers[2].mlp.down_proj.weight.mul_(1.5)  # the broken port
    model.save_pretrained("broken"), tokenizer.save_pretrained("broken")
PYTHON
}
evaluate() {  # folder, model, dtype, tasks, more flags
    HF_DATASETS_CACHE=$(mktemp -d) "$bin/lm_eval" --model hf --model_args "pretrained=$2,dtype=$3" --device cpu \
        --tasks "$4" --include_path tasks --log_samples --output_path "logs/$1" --batch_size 16 "${@:5}" \
        2> "logs/$1.err" | sed -n '/^|/p' > "logs/$1.txt"
    mv "logs/$1.txt" "$(dirname "$(find "logs/$1" -name 'samples_*' | head -1)")/table.txt"
}
rm -rf logs && mkdir logs
make_data
evaluate first model float32 shapes,words
make_data logs/first/*/samples_shapes_*.jsonl <(grep -h first-word logs/first/*/samples_words_*.jsonl)
rm -r logs/first*
evaluate float32 model float32 shapes,words
evaluate bfloat16 model bfloat16 shapes,words
evaluate broken broken float32 shapes,words
evaluate shots model float32 shapes --num_fewshot 5
evaluate limit model bfloat16 shapes --limit 100
evaluate rolling model float32 rolling --limit 20
evaluate dates model float32 shapes --limit 20
sleep 1
evaluate dates model float32 shapes --limit 20
sed -i 's/version: 1.0/version: 2.0/' tasks/shapes.yaml
evaluate version model bfloat16 shapes
for folder in logs/*/*/; do mv "$folder"* "${folder%/*/}/"; rmdir "$folder"; done
rm logs/*.err
sed -i '/"pretty_env_info":/d' logs/*/results_*.json  # of the machine
tar -C logs --sort=name --owner=0 --group=0 --mtime=2026-01-01 -cJf lm_eval.tar.xz .
