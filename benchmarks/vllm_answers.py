"""The same questions through vLLM. It needs an environment of its own, with whose Python inference.py starts this file:

VLLM_PYTHON benchmarks/vllm_answers.py FOLDER: answers the questions of FOLDER/job.json on the frames of
FOLDER/frames.npz into FOLDER/answers.json.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def answer_by_vllm(
    python: str,
    folder: Path,
    prompts: Sequence[tuple[str, Sequence[int]]],
    frames: Mapping[str, np.ndarray],
    video_token: int,
    **job: Any,
) -> tuple[float, list[list[int]]]:
    """Seconds, and the token ids of each reply. `prompts` are pairs of (name in `frames`, token ids with one token for
    each part of the video); `frames` are uint8 (num_frames, height, width, 3); `job`: what else `main` reads."""
    asked = [(name, _with_one_token(ids, video_token)) for name, ids in prompts]
    np.savez(folder / "frames.npz", **frames)
    (folder / "job.json").write_text(json.dumps(job | {"prompts": asked}))
    command = [python, str(Path(__file__).resolve()), str(folder)]
    ended = subprocess.run(command, stdout=sys.stderr, check=False)  # stdout is the table's
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {ended.returncode}")
    answers = json.loads((folder / "answers.json").read_text())
    return answers["seconds"], answers["token_ids"]


def _with_one_token(ids: Sequence[int], video_token: int) -> list[int]:
    """vLLM puts in as many as the video takes."""
    first = ids.index(video_token)
    return [*ids[: first + 1], *(id for id in ids[first:] if id != video_token)]


def main(folder: Path) -> None:
    from vllm import LLM, SamplingParams

    job = json.loads((folder / "job.json").read_text())
    frames = dict(np.load(folder / "frames.npz"))
    llm = LLM(
        job["checkpoint"],
        dtype=job["dtype"],
        max_model_len=job["max_model_len"],
        limit_mm_per_prompt={"video": 1},
        **job["options"],
    )
    params = SamplingParams(temperature=0.0, max_tokens=job["max_tokens"])

    def requests(video: Any) -> list[Any]:
        return [{"prompt_token_ids": ids, "multi_modal_data": {"video": video(name)}} for name, ids in job["prompts"]]

    of_one_video = sum(name == job["prompts"][0][0] for name, _ in job["prompts"])
    llm.generate(requests(lambda name: np.zeros_like(frames[name]))[:of_one_video], params)  # warms up
    asked = requests(frames.__getitem__)
    begun = time.monotonic()
    outputs = llm.generate(asked, params)
    seconds = time.monotonic() - begun
    token_ids = [list(output.outputs[0].token_ids) for output in outputs]
    (folder / "answers.json").write_text(json.dumps({"seconds": seconds, "token_ids": token_ids}))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(Path(sys.argv[1]))
