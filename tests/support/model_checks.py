"""A check of a model's modules, without flags and files of questions: noise for a video, two questions on it."""

import torch

from videobench.data.question_text import build_question_text
from videobench.device.devices import LENGTH_MULTIPLES
from videobench.locate.host_weights import HostWeights
from videobench.locate.model_check import ModelCheck
from videobench.model.checkpoint import load_checkpoint
from videobench.model.engine import load_engine
from videobench.model.questions import VideoQuestions

OPTIONS = {"A": "red", "B": "blue", "C": "green"}


def noise_questions(checkpoint, num_frames=8):
    """One video with a short and a long question, so that a batch of both is padded."""
    size = (num_frames, 3, checkpoint.pixel_spec.crop_height, checkpoint.pixel_spec.crop_width)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = [build_question_text("Which color is it" + " now" * count, OPTIONS) for count in (0, 20)]
    prompts = checkpoint.prompt_builder(num_frames).build(texts)
    return VideoQuestions(pixels, prompts, [tuple(OPTIONS)] * len(prompts))


def check_model(path, device, dtype, num_frames=8):
    """The Findings on `device`, an open one."""
    checkpoint = load_checkpoint(path)
    engine = load_engine(checkpoint, device, dtype, 3, LENGTH_MULTIPLES[device.kind])
    weights = HostWeights(checkpoint, engine.model, getattr(torch, dtype))
    return ModelCheck(engine, weights, dtype, lambda *_: None).run([noise_questions(checkpoint, num_frames)])
