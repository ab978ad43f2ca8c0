"""Clips to time with, and questions on them as a data set of Video-Bench."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.support.clip_writer import write_clip
from videobench.data.dataset import Question, load_questions, qa_file

SET = "MSVD"  # any of the 13 names
CLIP_SECONDS = (60, 10, 40, 20, 50, 30)  # so that the first two are as long as all in the mean
OPTIONS = {"A": "a red ball", "B": "a blue ball", "C": "a green ball", "D": "a white ball"}


def make_clips(folder: Path, size: tuple[int, int]) -> list[Path]:
    """H.264 with a key frame every ten seconds, but for those that are there already; `size` is (width, height)."""
    clips = {folder / f"{seconds} s, {size[0]}x{size[1]}.mp4": seconds for seconds in CLIP_SECONDS}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # a fork of a process with threads can hang
        for made in [pool.submit(_make_clip, *clip, size) for clip in clips.items() if not clip[0].is_file()]:
            made.result()
    return list(clips)


def _make_clip(path: Path, seconds: int, size: tuple[int, int]) -> None:
    unfinished = path.with_name(f"unfinished {path.name}")
    write_clip(unfinished, "libx264", 25 * seconds, size, gop=250, options={"preset": "veryfast"})
    unfinished.rename(path)


def make_questions(folder: Path, clips: Sequence[Path], count: int, per_video: int) -> list[Question]:
    """A QA file and the videos it names, which are links to the clips, each of them in turn."""
    videos = folder / "Eval_video" / SET
    videos.mkdir(parents=True, exist_ok=True)
    content = {}
    for number in range(count):
        video = number // per_video
        name = f"{video}.mp4"
        (videos / name).unlink(missing_ok=True)
        os.link(clips[video % len(clips)], videos / name)
        content[str(number)] = {
            "video_id": str(video), "vid_path": f"Eval_video/{SET}/{name}", "choices": OPTIONS,
            "question": f"Which color is the ball that moves in part {number} of the video?",
        }  # fmt: skip
    path = qa_file(folder, SET)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return load_questions(path, SET, folder.joinpath)
