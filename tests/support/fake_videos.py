"""Videos for engines that are none: a prompt is its own answer."""

import torch

from videobench.device.devices import Device
from videobench.model.prompts import Answer, VideoQuestions

DEVICE = Device("cpu", torch.device("cpu"), "a card")
PIXELS = torch.zeros(1)


def make_videos(*numbers_of_questions):
    return [
        VideoQuestions(PIXELS, [f"{video}.{number}" for number in range(count)], [()] * count)
        for video, count in enumerate(numbers_of_questions)
    ]


def answer_of(prompt):
    return Answer((), prompt, {}, True)
