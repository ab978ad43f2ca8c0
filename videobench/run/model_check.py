"""`--check_model`: which module computes something else than the CPU? From FAIL to a name, on this one machine."""

import gc
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from videobench.console import StatusLine, in_bytes, one_line
from videobench.data.dataset import Question
from videobench.device.devices import (
    DEFAULT_DTYPES,
    LENGTH_MULTIPLES,
    Device,
    check_free_memory,
    describe_device,
    is_out_of_memory,
    memory_bytes,
    release_memory,
)
from videobench.errors import InputError, OutOfMemory
from videobench.files import write_json
from videobench.model.cost import DTYPE_BYTES
from videobench.model.prompts import Answer, VideoQuestions
from videobench.run.options import ModelCheckSettings, RunSettings
from videobench.run.plan import Plan, VideoWork, build_plan, load_all_questions, open_run_device
from videobench.tolerances import TOLERANCES

if TYPE_CHECKING:
    from videobench.locate.findings import Findings
    from videobench.model.checkpoint import Checkpoint
    from videobench.model.engine import Engine

QUESTIONS = 4  # without --check_questions
NEW_TOKENS = 3  # the first comes of the prompt, the others of decoding steps
ROOM = 1.3  # of the weights' bytes: what a card must have free for float32, with what a forward pass keeps


def check_model(settings: ModelCheckSettings) -> int:
    """The exit status: 0 where all agrees, 1 where something departs; InputError where the check is not possible."""
    if int(os.environ.get("RANK", "0")) > 0:
        return 0  # started by torchrun: the first process checks its card
    started = time.monotonic()
    questions = load_all_questions(settings.run)
    device = open_run_device(settings.run, 0)
    run = replace(settings.run, device=device.kind, dtype=settings.run.dtype or DEFAULT_DTYPES[device.kind])
    from videobench.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(run.model_path)
    plan = build_plan(questions, checkpoint.prompt_builder(run.num_frames), checkpoint.positions, run)
    works = choose(plan, settings.questions)
    videos = [read_video(work, run, checkpoint) for work in works]
    check = _Check(run, device, checkpoint, videos)
    check.announce(works)
    report = check.run()
    if settings.output_json:
        names = [f"{each.dataset}/{each.id}" for work in works for each in work.questions]
        description = {"device": str(device.torch_device), **describe_device(device)}
        write_json(settings.output_json, {**description, "questions": names, **report})
        print(f"wrote {settings.output_json}")
    print(f"{'all agrees' if report['agrees'] else 'something departs'}, in {time.monotonic() - started:.0f} s")
    return 0 if report["agrees"] else 1


def choose(plan: Plan, wanted: Sequence[str]) -> list[VideoWork]:
    """The videos of the wanted questions, each with those alone; InputError where there is none to ask.

    Without any: QUESTIONS, on the videos with the longest and the shortest prompts, each video's longest and shortest,
    so that a batch is padded."""
    asked = [each for each in plan.prompts if each not in plan.failures]
    if not asked:
        raise InputError(f"no question can be asked; the first: {next(iter(plan.failures.values()))}")
    chosen = [_named(name, plan) for name in dict.fromkeys(wanted)] if wanted else _spread(asked, plan)
    return [_narrowed(work, chosen) for work in plan.works(chosen)]


def _named(name: str, plan: Plan) -> Question:
    full = {f"{each.dataset}/{each.id}": each for each in plan.prompts}
    found = [full[name]] if name in full else [each for each in plan.prompts if each.key == name]
    if not found:
        fix = "check --dataset_name, and leave --limit out"
        raise InputError(f"--check_questions: {name}: no such question among the {len(full):,} of these sets; {fix}")
    if len(found) > 1:
        names = ", ".join(f"{each.dataset}/{each.id}" for each in found)
        raise InputError(f"--check_questions: {name}: stands in several sets; name one of {names}")
    if reason := plan.failures.get(found[0]):
        raise InputError(f"--check_questions: {name}: {reason}")
    return found[0]


def _spread(asked: list[Question], plan: Plan) -> list[Question]:
    by_length = sorted(asked, key=lambda each: len(plan.prompts[each]))
    chosen: list[Question] = []
    for video in dict.fromkeys(each.video for pair in zip(by_length[::-1], by_length, strict=True) for each in pair):
        own = [each for each in by_length if each.video == video]
        chosen += dict.fromkeys((own[-1], own[0]))
        if len(chosen) >= QUESTIONS:
            break
    return chosen[:QUESTIONS]


def _narrowed(work: VideoWork, chosen: list[Question]) -> VideoWork:
    pairs = [pair for pair in zip(work.questions, work.prompts, strict=True) if pair[0] in chosen]
    return VideoWork(work.video, tuple(each for each, _ in pairs), tuple(prompt for _, prompt in pairs))


def read_video(work: VideoWork, settings: RunSettings, checkpoint: "Checkpoint") -> VideoQuestions:
    """Raises InputError where it does not decode."""
    from videobench.video.pool import prepare_video

    video = prepare_video(work.video, checkpoint.pixel_spec, settings.num_frames)
    if video.pixels is None:
        raise InputError(f"{video.error}; choose other questions with --check_questions")
    return VideoQuestions(video.pixels, work.prompts, [tuple(each.options) for each in work.questions])


class _Check:
    def __init__(
        self, settings: RunSettings, device: Device, checkpoint: "Checkpoint", videos: list[VideoQuestions]
    ) -> None:
        self._settings, self._device, self._checkpoint, self._videos = settings, device, checkpoint, videos

    def announce(self, works: list[VideoWork]) -> None:
        questions, videos = sum(len(work.prompts) for work in works), len(works)
        asked = f"{questions} question{'s' * (questions > 1)} on {videos} video{'s' * (videos > 1)}"
        print(f"{asked}, on {self._device.torch_device} ({self._device.name}), and again on the host")
        for work in works:
            names = ", ".join(f"{each.dataset}/{each.id}" for each in work.questions)
            print(one_line(f"video {works.index(work) + 1}: {work.video}: {names}"))

    def run(self) -> dict[str, Any]:
        """Prints each result when it is there; what --output_json writes."""
        from videobench.locate.findings import as_json

        own = self._settings.dtype
        passes = [] if own == "float32" else self._float32_first()
        gc.collect()  # a model holds itself in circles; its weights would stay on the card beside the next ones
        release_memory(self._device)
        try:
            engine = self._load(own)
            passes.append(self._pass(engine, own))
            report = {"repeats": self._repeats(engine), "plain_generate": self._plain(engine)}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"device {self._device.torch_device}: out of memory in {own}; name fewer --check_questions, use "
                "fewer --num_frames, or a larger card"
            ) from None
        agrees = not any(each.departures for each in passes) and all(each["agrees"] for each in report.values())
        return {"agrees": agrees, "passes": [as_json(each) for each in passes], **report}

    def _float32_first(self) -> "list[Findings]":
        """The pass in float32, before the one in 16 bits; none where the card has no room for it, which is said."""
        needed = self._checkpoint.weights.total * DTYPE_BYTES["float32"]
        free = memory_bytes(self._device)[0]
        reason = f"the weights take {in_bytes(needed)}, {in_bytes(free)} of {self._device.torch_device} is free"
        if self._device.kind == "cpu" or needed * ROOM <= free:
            try:
                return [self._pass(self._load("float32"), "float32")]
            except (RuntimeError, OutOfMemory) as error:
                if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
                    raise
                reason = f"{self._device.torch_device} ran out of memory"
        print(f"float32: left out, since {reason}: small departures do not show in {self._settings.dtype}")
        return []

    def _load(self, dtype: str) -> "Engine":
        from transformers.utils import logging

        from videobench.model.engine import load_engine

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        check_free_memory(self._device, self._checkpoint.weights.total * DTYPE_BYTES[dtype], dtype)
        return load_engine(self._checkpoint, self._device, dtype, NEW_TOKENS, LENGTH_MULTIPLES[self._device.kind])

    def _pass(self, engine: "Engine", dtype: str) -> "Findings":
        """Raises RuntimeError where not even one question fits the device."""
        import torch

        from videobench.locate.findings import lines
        from videobench.locate.model_check import ModelCheck
        from videobench.locate.replay import HostWeights

        weights = HostWeights(self._checkpoint, engine.model, getattr(torch, dtype))

        def show(place: str, done: float) -> None:
            status.show(f"{dtype}: {100 * done / len(self._videos):.0f} % done, in {place}")

        with closing(StatusLine()) as status:
            found = ModelCheck(engine, weights, dtype, show).run(self._videos)
        print("\n".join(lines(found)))
        return found

    def _repeats(self, engine: "Engine") -> dict[str, Any]:
        video = self._videos[0]
        first, second = (engine.answer([video], len(video.prompts))[0] for _ in range(2))
        nats = max(_distance(*pair) for pair in zip(first, second, strict=True))
        how = "equal to the last bit" if nats == 0 else f"log-probabilities differ by up to {nats:.1e} nats"
        flag = "with --deterministic" if self._settings.deterministic else "without --deterministic"
        more = "" if nats == 0 or self._settings.deterministic else "; try it with --deterministic"
        print(f"the same questions twice, {flag}: {how}{more}")
        return self._result(nats, deterministic=self._settings.deterministic)

    def _plain(self, engine: "Engine") -> dict[str, Any]:
        video = self._videos[0]
        answers = engine.answer([video], len(video.prompts))[0]
        nats = max(_distance(each, engine.answer_plainly(video, number)) for number, each in enumerate(answers))
        result = self._result(nats)
        how = "hold" if result["agrees"] else "do not hold (look at masks of padded rows, and copies of the cache)"
        print(f"against one plain generate each, sharing, padding and batching {how}: up to {nats:.1e} nats")
        return result

    def _result(self, nats: float, **more: Any) -> dict[str, Any]:
        agrees = nats <= TOLERANCES[self._settings.dtype].one_device
        return {"agrees": agrees, "nats": nats if math.isfinite(nats) else None, **more}


def _distance(one: Answer, other: Answer) -> float:
    """The largest difference of a letter's log-probability, in nats; none where both are NaN, infinite where one is."""
    pairs = [(value, other.letter_logprobs[letter]) for letter, value in one.letter_logprobs.items()]
    known = [abs(first - second) for first, second in pairs if not math.isnan(first) or not math.isnan(second)]
    return max((math.inf if math.isnan(each) else each for each in known), default=0.0)
