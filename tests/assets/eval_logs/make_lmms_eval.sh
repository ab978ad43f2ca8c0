#!/usr/bin/env bash
# How lmms_eval.tar.xz was made: real logs of lmms-eval 0.7.3, of the model and questions of make_lm_eval.sh.
#   python3 -m venv env && env/bin/pip install --no-deps lmms-eval==0.7.3    # it pins an old PyAV
#   env/bin/pip install torch loguru sacrebleu evaluate pytz pillow tenacity pytablewriter \
#       accelerate transformers datasets requests packaging sqlitedict zstandard jinja2 pyyaml httpx openai "filelock<3.20"
#   bash make_lmms_eval.sh env/bin work     # work: where make_lm_eval.sh left model, broken and data.jsonl
set -eu
bin=$(readlink -f "$1")
cd "$2"
mkdir -p small/models small/tasks
touch small/__init__.py small/tasks/__init__.py
echo 'AVAILABLE_MODELS = {"llama": "Llama"}' > small/models/__init__.py
cat > small/models/llama.py <<'PYTHON'
"""The small Llama, which sees the text only."""
import torch
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from transformers import AutoModelForCausalLM, AutoTokenizer


@register_model("llama")
class Llama(lmms):
    def __init__(self, pretrained, dtype="float32", **kwargs):
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(pretrained)
        self.model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=getattr(torch, dtype)).eval()

    def generate_until(self, requests):
        replies = []
        for text, options, *_ in (each.args for each in requests):
            inputs = self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
            with torch.no_grad():
                ids = self.model.generate(**inputs, max_new_tokens=6, do_sample=False)
            replies.append(self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
        return replies

    def loglikelihood(self, requests):
        raise NotImplementedError

    generate_until_multi_round = loglikelihood
PYTHON
cat > small/tasks/words.yaml <<YAML
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.no_visual
doc_to_text: "{{video}}: {{question}} ({{choices|join(', ')}})\nAnswer:"
doc_to_target: word
generation_kwargs: {until: ["\n"], max_new_tokens: 6}
process_results: !function utils.process_results
metric_list:
  - {metric: right, aggregation: mean, higher_is_better: true}
  - {metric: overlap, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
YAML
cat > small/tasks/utils.py <<'PYTHON'
def no_visual(doc):
    return []


def process_results(doc, results):
    words = results[0].split()
    return {"overlap": words.count(doc["word"]) / max(1, len(words)), "right": float(words[:1] == [doc["word"]])}
PYTHON
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 LMMS_EVAL_PLUGINS=small PYTHONPATH=.
rm -rf lmms && mkdir lmms
evaluate() {  # folder, model, dtype, more flags
    HF_DATASETS_CACHE=$(mktemp -d) "$bin/python" -m lmms_eval --model llama --model_args "pretrained=$2,dtype=$3" \
        --include_path small/tasks --tasks words --log_samples --output_path "lmms/$1" --batch_size 1 "${@:4}" > "lmms/$1.out" 2>&1
    folder=$(dirname "$(find "lmms/$1" -name '*_samples_*')")
    sed -n '/^|/p' "lmms/$1.out" > "$folder/table.txt"
    [ "$folder" = "lmms/$1" ] || { mv "$folder"/* "lmms/$1/"; rmdir "$folder"; }
    rm "lmms/$1.out"
}
evaluate float32 model float32
evaluate bfloat16 model bfloat16
evaluate float16 model float16
evaluate broken broken float32
sed -i "/\"pretty_env_info\":/d; s|$PWD/||" lmms/*/*_results.json  # what is the machine's own
tar -C lmms --sort=name --owner=0 --group=0 --mtime=2026-01-01 -cJf lmms_eval.tar.xz .
