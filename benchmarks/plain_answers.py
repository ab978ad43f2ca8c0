"""The original's way to answer, for comparison: each question by itself, each time with the whole video decoded on one
thread and encoded anew, by one plain `generate`; and whether the suite's engine answers the same."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlavaNextVideoForConditionalGeneration

from benchmarks.frame_readers import count_frames, decode_everything
from videobench.data.dataset import Question
from videobench.model.engine import Engine
from videobench.model.prompts import Answer, Prompt, VideoQuestions
from videobench.video.pixels import PixelSpec, normalise, resize_and_crop

Asked = Sequence[tuple[Question, Prompt]]
ReadPixels = Callable[[Path], torch.Tensor]  # uint8 (num_frames, 3, height, width)


@dataclass(frozen=True)
class PlainAnswer:
    token_ids: tuple[int, ...]
    logprobs: torch.Tensor  # float32 (vocabulary,), of the first position


def decode_whole(spec: PixelSpec, clips: Sequence[Path]) -> ReadPixels:
    """Of videos that are links to `clips`, whose frames are counted here: the original knows their number before."""
    counts = {path.stat().st_ino: count_frames(path) for path in clips}
    return lambda video: resize_and_crop(decode_everything(video, counts[video.stat().st_ino]), spec)


def keep_decoded(read: ReadPixels) -> ReadPixels:
    """Each clip decoded once, whatever the number of links to it."""
    decoded: dict[int, torch.Tensor] = {}

    def known(video: Path) -> torch.Tensor:
        inode = video.stat().st_ino
        if inode not in decoded:
            decoded[inode] = read(video)
        return decoded[inode]

    return known


def answer_plainly(
    model: LlavaNextVideoForConditionalGeneration,
    spec: PixelSpec,
    asked: Asked,
    read: ReadPixels,
    max_new_tokens: int,
) -> list[PlainAnswer]:
    answers = []
    for question, prompt in asked:
        ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids], device=model.device)
        pixels = read(question.video)[None].to(model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=normalise(pixels, spec, model.dtype),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
        )
        new = tuple(output.sequences[0, ids.shape[1] :].tolist())
        answers.append(PlainAnswer(new, output.logits[0][0].float().log_softmax(-1).cpu()))
    return answers


class NotingEngine(Engine):
    """Keeps its answers by what follows the video in their prompts, which is another for each question here."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.noted: dict[tuple[int, ...], Answer] = {}
        self.first_call = 0.0  # in seconds of the monotonic clock

    def answer(self, videos: Sequence[VideoQuestions], batch_size: int) -> list[list[Answer]]:
        self.first_call = self.first_call or time.monotonic()
        answers = super().answer(videos, batch_size)
        for video, own in zip(videos, answers, strict=True):
            self.noted |= zip((prompt.suffix_ids for prompt in video.prompts), own, strict=True)
        return answers

    def compare(self, asked: Asked, plain: Sequence[PlainAnswer]) -> tuple[bool, str]:
        """Whether all tokens are equal and log-probabilities within 1e-4; both in words."""
        equal, differences = 0, [0.0]
        for (_, prompt), expected in zip(asked, plain, strict=True):
            found = self.noted[prompt.suffix_ids]
            equal += found.token_ids == expected.token_ids
            for letter, logprob in found.letter_logprobs.items():
                own = expected.logprobs[self._letter_ids[letter]].logsumexp(-1)
                differences.append(abs(logprob - float(own)))
        words = f"{equal} of {len(plain)}, log-probabilities to {max(differences):.0e}"
        return equal == len(plain) and max(differences) < 1e-4, words
