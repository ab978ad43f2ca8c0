"""A check of a model's modules on noise for a video, and --check_model on the small data."""

from dataclasses import replace

import torch

from tests.support.paths import ASSETS
from videobench.data.dataset import build_question_text
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.locate.batches import Batch
from videobench.locate.check import Check
from videobench.locate.modules import ModuleCheck
from videobench.locate.replay import HostWeights
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import load_engine
from videobench.model.prompts import VideoQuestions
from videobench.run.model_check import choose, read_batch, read_video
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


def small_check(device, num_frames=8, steps=2, rows=6, dtype="float32"):
    """--check_model of the small model and data on `device`, an open one."""
    flags = ["--model_path", SMALL_MODEL, "--Eval_QA_root", ASSETS / "egs/Video-Bench", "--dataset_name", "MSVD"]
    flags += ["--Eval_Video_root", ASSETS / "egs/VideoBench", "--num_frames", num_frames]
    flags += ["--batch_size", rows]
    settings = replace(parse_args([str(each) for each in flags], "npu"), device=device.kind, dtype=dtype)
    checkpoint = load_checkpoint(SMALL_MODEL)
    builder = checkpoint.prompt_builder(num_frames)
    plan = build_plan(load_all_questions(settings), builder, checkpoint.positions, settings)
    works = choose(plan, ())
    videos = [read_video(work, settings, checkpoint) for work in works]
    return Check(checkpoint, device, dtype, videos, read_batch(works, plan, settings, checkpoint), steps)


def first_named(report):
    """The first finding of what Check.in_dtype returns, as JSON; None if there is none."""
    replayed = [each["replayed"] for each in report["batches"] if "replayed" in each]
    return next((each["first"] for each in (report, *replayed) if each["first"]), None)


def check_model(path, device, dtype, num_frames=8, steps=2, **options):
    """The Findings for a checkpoint."""
    checkpoint = load_checkpoint(path)
    engine = load_engine(checkpoint, device, dtype, steps + 1, LENGTH_MULTIPLES[device.kind])
    weights = HostWeights(checkpoint, engine.model, getattr(torch, dtype))
    batch = Batch("video 1", [noise_questions(checkpoint, num_frames)])
    return ModuleCheck(engine, weights, dtype, **options).run([batch])
