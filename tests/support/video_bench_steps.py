"""What Video-Bench's own second and third step do with a folder of result files, in a few lines."""

import json
import os
from pathlib import Path
from typing import Any

from videobench.data.letters import read_letter


def judge_all(results: Path, judged: Path) -> None:
    """Video-Bench's second step: each reply of each `*_eval.json` to a judge, each verdict to a file of its own.

    Its judge is a chat model that is shown the reply and the question; here one that reads the letter."""
    for file in results.glob("*_eval.json"):
        folder = judged / file.name.replace("_eval.json", "_chatgpt_eval")
        folder.mkdir(parents=True)
        for id, row in json.loads(file.read_text(encoding="utf-8")).items():
            assert row["question"]
            choice = read_letter(row["output_sequence"][0], row["choices"]) or "A"
            (folder / f"{id}.json").write_text(json.dumps({id: row | {"output_chatgpt_choice": choice}}))


def merge(judged: Path) -> dict[str, dict[str, Any]]:
    """Video-Bench's third step: all verdicts in one object, data set -> question id -> row."""
    submission: dict[str, dict[str, Any]] = {}
    for folder in os.listdir(judged):
        rows: dict[str, Any] = {}
        for file in (judged / folder).glob("*.json"):
            rows.update(json.loads(file.read_text()))
        submission[folder.replace("_chatgpt_eval", "")] = rows
    return submission
