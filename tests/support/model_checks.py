"""A check of a model's modules: noise for a video, or the questions that --check_model chooses of the small data."""

import torch

from tests.support.paths import ASSETS
from videobench.data.dataset import build_question_text
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.locate.model_check import ModelCheck
from videobench.locate.replay import HostWeights
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import load_engine
from videobench.model.prompts import VideoQuestions
from videobench.run.model_check import choose, read_video
from videobench.run.options import parse_args
from videobench.run.plan import build_plan, load_all_questions

SMALL_MODEL = ASSETS / "tiny-llava-next-video"
OPTIONS = {"A": "red", "B": "blue", "C": "green"}


def noise_questions(checkpoint, num_frames=8):
    """One video with a short and a long question, so that a batch of both is padded."""
    size = (num_frames, 3, checkpoint.pixel_spec.crop_height, checkpoint.pixel_spec.crop_width)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = [build_question_text("Which color is it" + " now" * count, OPTIONS) for count in (0, 20)]
    prompts = checkpoint.prompt_builder(num_frames).build(texts)
    return VideoQuestions(pixels, prompts, [tuple(OPTIONS)] * len(prompts))


def small_questions(num_frames=8):
    """(checkpoint, videos)"""
    flags = ["--model_path", SMALL_MODEL, "--Eval_QA_root", ASSETS / "egs/Video-Bench", "--dataset_name", "MSVD"]
    flags += ["--Eval_Video_root", ASSETS / "egs/VideoBench", "--num_frames", num_frames]
    settings = parse_args([str(each) for each in flags], "npu")
    checkpoint = load_checkpoint(SMALL_MODEL)
    builder = checkpoint.prompt_builder(num_frames)
    plan = build_plan(load_all_questions(settings), builder, checkpoint.positions, settings)
    return checkpoint, [read_video(work, settings, checkpoint) for work in choose(plan, ())]


def check_videos(device, dtype, checkpoint, videos):
    """The answers and the Findings on `device`, an open one."""
    engine = load_engine(checkpoint, device, dtype, 3, LENGTH_MULTIPLES[device.kind])
    weights = HostWeights(checkpoint, engine.model, getattr(torch, dtype))
    answers = [engine.answer([video], len(video.prompts))[0] for video in videos]
    return answers, ModelCheck(engine, weights, dtype, lambda *_: None).run(videos)


def check_model(path, device, dtype, num_frames=8):
    """The Findings for a checkpoint."""
    checkpoint = load_checkpoint(path)
    return check_videos(device, dtype, checkpoint, [noise_questions(checkpoint, num_frames)])[1]
