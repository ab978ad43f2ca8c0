"""A small Video-Bench with videos of a few bytes, and extract_dataset.py called as its users call it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import extract_dataset
from videobench.data.dataset import qa_file


def make_benchmark(folder: Path, sets: Mapping[str, tuple[int, int]]) -> Path:
    """`sets`: name -> (videos, questions on each). Ids and file names are the same in every set, as in the real data;
    a video holds its set's name and its number."""
    answers: dict[str, dict[str, Any]] = {}
    for name, (num_videos, per_video) in sets.items():
        rows = {}
        for number in range(num_videos * per_video):
            video = folder / "VideoBench" / "Eval_video" / name / f"{number // per_video}.mp4"
            video.parent.mkdir(parents=True, exist_ok=True)
            video.write_bytes(f"{name} {number // per_video}".encode())
            rows[str(number)] = {
                "vid_path": f"Eval_video/{name}/{video.name}",
                "video_id": str(number // per_video),
                "question": f"{name} question {number}",
                "choices": {"A": "yes", "B": None, "C": 3},
            }
            answers.setdefault(name, {})[str(number)] = {"answer": "AC"[number % 2]}
        path = qa_file(folder / "Video-Bench", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    (folder / "Video-Bench" / "ANSWER.json").write_text(json.dumps(answers))
    return folder


def extract(folder: Path, *flags: object, out: str = "sample") -> int:
    return extract_dataset.main(
        [
            *("--Eval_QA_root", f"{folder}/Video-Bench", "--Eval_Video_root", f"{folder}/VideoBench"),
            *("--sampling_output_folder", f"{folder}/{out}/Eval_video", "--json_output_path", f"{folder}/{out}/json"),
            *("--correct_answer_file", f"{folder}/Video-Bench/ANSWER.json", *map(str, flags)),
        ]
    )


def read(folder: Path, name: str, out: str = "sample") -> Any:
    return json.loads((folder / out / "json" / name).read_text())


def sampled(folder: Path, out: str = "sample") -> list[str]:
    """`<dataset>/<id>` in the order of the QA file."""
    return list(read(folder, "sampling_datasets_QA_new.json", out))
