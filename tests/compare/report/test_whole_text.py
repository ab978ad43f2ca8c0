"""The whole page of the terminal for each verdict: texts/ holds it to the letter.

After a wanted change `python tests/compare/report/test_whole_text.py` writes them again: read the difference first.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # called as a script

from videobench.compare.comparison import compare_runs
from videobench.compare.report.build import build_report
from videobench.compare.report.terminal import build_text
from videobench.compare.settings import ComparisonSettings, Margin

TEXTS = Path(__file__).parent / "texts"
RUN = {"dtype": "float16", "num_frames": 8, "checkpoint": "7b", "checkpoint_sha256": "c" * 64, "torch": "2.6.0"}
DEVICES = {"npu": {"device": "npu", "torch_npu": "2.6.0", "cann": "8.1.RC1"}, "gpu": {"device": "cuda", "cuda": "12.4"}}


def row(number, side, lead, text=None):
    """A question whose right answer is A; `lead` is by how many nats A leads, below 0 trails."""
    logprobs = {"A": -0.2 + min(0.0, lead), "B": -0.2 - max(0.0, lead), "C": -4.0}
    dataset = "TVQA" if number % 3 == 0 else "MSVD"
    return {
        "dataset": dataset,
        "video_id": f"v{number // 2}",
        "vid_path": f"Eval_video/{dataset}/v{number // 2}.avi",
        "question": f"What is number {number}? A.a cat B.a dog C.a tree",
        "choices": {"A": "a cat", "B": "a dog", "C": "a tree"},
        "output_sequence": [("A" if lead > 0 else "B") if text is None else text],
        "letter_logprobs": logprobs,
        "prompt_tokens": 1200 + number % 50,
        "prompt_sha256": f"p{number}",
        "pixels_sha256": f"x{number // 2}",
        "rank": number % 2 if side == "npu" else 0,
        "run": RUN | DEVICES[side],
    }


def sound(number):
    """Right in two of three, ties among them; a little noise, which flips the ties, half of them each way."""
    noise = 0.004 * ((number * 7) % 11 - 5) or 0.002
    if number % 25 == 0:
        lead = 0.001 if number % 100 < 50 else -0.001
        return lead, -lead
    lead = -2.0 if number % 3 == 2 else 2.0
    return lead, lead + noise


def rows_of(count, change=None):
    rows = {}
    for number in range(count):
        gpu_lead, npu_lead = sound(number)
        rows[number] = [row(number, "npu", npu_lead), row(number, "gpu", gpu_lead)]
        if change:
            change(number, *rows[number])
    return rows


def lose_on_card_1(number, npu, gpu):
    if npu["rank"] == 1 and number % 5 == 0:
        npu |= {"letter_logprobs": {"A": -3.0, "B": -0.1, "C": -4.0}, "output_sequence": ["B"]}
    elif npu["rank"] == 1:
        npu["letter_logprobs"] = {
            letter: each - 0.3 * (letter == "B") for letter, each in npu["letter_logprobs"].items()
        }


def other_frames(number, npu, gpu):
    npu["run"] = npu["run"] | {"num_frames": 16}


def unreadable_and_failed(number, npu, gpu):
    if number == 7:
        npu["output_sequence"] = ["no idea"]
    if number == 8:
        npu |= {"output_sequence": [""], "error": "v4.avi: cannot be decoded", "letter_logprobs": None}
    if number == 9:
        gpu.clear()


CASES = {
    "pass": (900, unreadable_and_failed, Margin()),
    "fail": (600, lose_on_card_1, Margin()),
    "inconclusive": (250, None, Margin(one_sided=True)),
    "not-comparable": (600, other_frames, Margin(99, is_relative=True)),
}


def report_of(folder, case):
    count, change, margin = CASES[case]
    rows = rows_of(count, change)
    answers = {}
    for number, (npu, _) in rows.items():
        answers.setdefault(npu["dataset"], {})[str(number)] = "A"
    contents = {
        side: {f"{pair[0]['dataset']}/{number}": pair[index] for number, pair in rows.items() if pair[index]}
        for index, side in enumerate(("npu_eval", "gpu_eval"))
    } | {"ANSWER": answers}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return build_report(
        compare_runs(ComparisonSettings(*(folder / f"{name}.json" for name in contents), margin=margin))
    )


@pytest.mark.parametrize("case", CASES)
def test_the_whole_text(tmp_path, case):
    report = report_of(tmp_path, case)
    text = build_text(report)
    assert text + "\n" == (TEXTS / f"{case}.txt").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split(":")[0] for line in text.splitlines() if line[:1].isupper()][:3] == [
        report["verdict"], "Numbers", "Next"
    ]  # fmt: skip


if __name__ == "__main__":
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            report = report_of(Path(folder), case)
        (TEXTS / f"{case}.txt").write_text(build_text(report) + "\n")
