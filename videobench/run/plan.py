"""What a run will do, known before the weights are read: questions, prompts, certain failures, shared videos."""

import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.console import in_bytes, in_time, one_line, warn_once
from videobench.data.dataset import Question, build_question_text, load_questions, manifest_hash
from videobench.data.missing import place_hint
from videobench.device.devices import Device, kind_to_use, open_device
from videobench.errors import InputError
from videobench.files import sha256_of_file
from videobench.jobs.job import Job
from videobench.model.cost import DTYPE_BYTES, Tokens, device_seconds, question_bytes, rate_of, weights_per_card
from videobench.model.prompts import VIDEO_PLACEHOLDER, Prompt, PromptBuilder
from videobench.run.options import RunSettings

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

SKIPPED = "skipped: process 0 could not ask this question; its row holds the reason"


@dataclass(frozen=True)
class VideoWork:
    """One video and the questions on it that are to be answered."""

    video: Path
    questions: tuple[Question, ...]
    prompts: tuple[Prompt, ...]  # all with the same prefix

    @property
    def num_tokens(self) -> int:
        """Tokens to compute: the prefix once, and the rest of each prompt."""
        return len(self.prompts[0].prefix_ids) + sum(len(prompt.suffix_ids) for prompt in self.prompts)


@dataclass(frozen=True)
class Plan:
    prompts: dict[Question, Prompt]  # every question to ask, in the order of the files
    failures: dict[Question, str]  # those that cannot be asked, with the reason
    missing: frozenset[Path] = frozenset()  # missing videos
    beyond_limit: tuple[Question, ...] = ()  # not asked by this start; earlier replies stay in the result

    def works(self, questions: list[Question]) -> list[VideoWork]:
        """Group `questions` by video in order of first use, each video with all questions on it that can be asked.

        All, even those already answered: the last bits of an answer depend on what else is in its batch, and a resumed
        run must give the same results as one that was never stopped."""
        by_video: dict[Path, list[Question]] = {each.video: [] for each in questions if each not in self.failures}
        for question in self.prompts:
            if question not in self.failures and question.video in by_video:
                by_video[question.video].append(question)
        return [
            VideoWork(video, tuple(group), tuple(self.prompts[question] for question in group))
            for video, group in by_video.items()
        ]


def load_all_questions(settings: RunSettings) -> list[Question]:
    """Load all questions in the order of the files. Raises InputError if all their videos are missing."""
    questions: list[Question] = []
    for source in settings.sources:
        locate = cache(source.videos.locate)  # 17,036 questions are on 5,917 videos
        questions += load_questions(source.qa_path, source.name, locate)
    if not any(os.path.exists(video) for video in {each.video for each in questions}):
        hint = _place_hint(settings, questions) or "check the path of the videos"
        raise InputError(f"{questions[0].video}: no such video, nor any other of these sets; {hint}")
    return questions


def _place_hint(settings: RunSettings, missing: Iterable[Question]) -> str:
    roots = {source.name: source.videos for source in settings.sources}
    return place_hint((roots[each.source], each) for each in missing)


def open_run_device(settings: RunSettings, local_rank: int) -> Device:
    return open_device(kind_to_use(settings.device, settings.may_use_cpu), local_rank, settings.deterministic)


def build_plan(questions: list[Question], builder: PromptBuilder, positions: int, settings: RunSettings) -> Plan:
    """Build the prompts. Raises InputError if no question could be asked, as the frames alone fill the positions."""
    questions, beyond_limit = _split_at_limit(questions, settings.limit)
    texts = [build_question_text(each.text, each.options) for each in questions]
    for each, text in zip(questions, texts, strict=True):
        if VIDEO_PLACEHOLDER in text:
            raise InputError(
                f"question {each.key} of {each.source} holds {VIDEO_PLACEHOLDER}, which stands for the video; reword "
                "it in the QA file"
            )
    stated, limit = settings.max_input_length or 0, positions - settings.max_new_tokens
    found = f"{settings.max_new_tokens} are for the reply and the checkpoint has {positions} positions"
    if stated:
        limit, found = min(stated, limit), f"--max_input_length is {stated}, {found}"
    if stated > positions or builder.num_video_tokens >= limit:
        raise InputError(
            f"{settings.num_frames} frames take {builder.num_video_tokens} tokens of the prompt; {found}: use fewer "
            "--num_frames or --max_new_tokens, or another --max_input_length"
        )
    prompts = dict(zip(questions, builder.build(texts), strict=True))
    missing = {video for video in {each.video for each in questions} if not os.path.exists(video)}
    failures = {each: f"{each.video}: no such video" for each in questions if each.video in missing}
    if hint := _place_hint(settings, failures):
        warn_once(one_line(f"warning: {next(iter(failures)).video}: no such video; {hint}"))
    for question, prompt in prompts.items():
        if len(prompt) > limit:
            most = f"--max_input_length {limit}" if limit == stated else f"{limit}: {found}"
            failures[question] = f"the prompt has {len(prompt)} tokens, more than {most}"
    return Plan(prompts, failures, frozenset(missing), beyond_limit)


def _split_at_limit(questions: list[Question], limit: int | None) -> tuple[list[Question], tuple[Question, ...]]:
    """The first `limit` questions of each set, and the rest."""
    seen: Counter[str] = Counter()
    asked: list[Question] = []
    rest: list[Question] = []
    for question in questions:
        seen[question.source] += 1
        (asked if limit is None or seen[question.source] <= limit else rest).append(question)
    return asked, tuple(rest)


def agree(plan: Plan, job: Job) -> Plan:
    """Use process 0's failures on all processes.

    A video that is missing on process 0's machine is skipped by all; one that is missing only on another machine fails
    there when it is decoded."""
    questions = list(plan.prompts)
    failing = job.broadcast("failing", [index for index, each in enumerate(questions) if each in plan.failures])
    return replace(plan, failures={questions[index]: plan.failures.get(questions[index], SKIPPED) for index in failing})


def costliest_first(plan: Plan, questions: list[Question]) -> list[Question]:
    """Sort videos for claiming, the costliest first, so that no long one is left for the end.

    The cost is the text tokens of all questions on a video (all videos have the same number of frame tokens), then the
    size of its file. Answered questions count, too, so that a resumed run keeps the order."""
    tokens: Counter[Path] = Counter()
    for question, prompt in plan.prompts.items():
        tokens[question.video] += len(prompt.suffix_ids)
    sizes: Counter[Path] = Counter()  # 0 for a folder of frames and for a missing video
    for video in {each.video for each in questions}:
        with suppress(OSError):
            sizes[video] = video.stat().st_size if video.is_file() else 0
    return sorted(questions, key=lambda each: (-tokens[each.video], -sizes[each.video], str(each.video)))


@dataclass(frozen=True)
class RunContext:
    """What stays the same throughout a run."""

    settings: RunSettings
    job: Job
    device: Device
    checkpoint: "Checkpoint"
    plan: Plan

    @property
    def weights_bytes(self) -> int:
        """Bytes of weights on each card."""
        numbers = weights_per_card(self.checkpoint.weights, self.settings.tensor_parallel)
        return numbers * DTYPE_BYTES[self.settings.dtype]


def print_plan(context: RunContext, left: list[Question], batch_size: int) -> None:
    """Print the lines of --dry_run; `left` are the questions without a stored reply.

    Raises InputError if a sample's manifest describes another QA file."""
    settings, plan = context.settings, context.plan
    question, prompt = next(iter(plan.prompts.items()))
    print(f"the first prompt, of {question.source}, question {question.key}, has {len(prompt)} tokens:")
    builder = context.checkpoint.prompt_builder(settings.num_frames)
    print(builder.render(build_question_text(question.text, question.options)))
    for source in settings.sources:
        _print_set(source.name, [each for each in plan.prompts if each.source == source.name], plan, left)
        for digest in manifest_hash(source.qa_path, sha256_of_file(source.qa_path)).values():
            print(f"{source.name}: as its manifest says ({digest}); --verify checks the videos too")
    if len(settings.sources) > 1:
        _print_set(f"all {len(settings.sources)} sets", list(plan.prompts), plan, left)
    if kept := len(plan.prompts) - len(left):
        print(f"{settings.output_folder}: {kept} answered already, {len(left)} to answer")
    if works := plan.works(left):
        _print_costs(_count_tokens(works), context, batch_size)


def _print_set(name: str, questions: list[Question], plan: Plan, left: list[Question]) -> None:
    failing = len(plan.failures.keys() & set(questions) & set(left))
    videos = {each.video for each in questions}
    missing = len(videos & plan.missing)
    note = f" ({missing} videos missing)" if missing else ""
    print(f"{name}: {len(questions)} questions on {len(videos)} videos, {failing} would fail{note}")


def _count_tokens(works: list[VideoWork]) -> Tokens:
    prompts = [prompt for work in works for prompt in work.prompts]
    return Tokens(
        videos=len(works),
        questions=len(prompts),
        prefix=sum(len(work.prompts[0].prefix_ids) for work in works),
        suffix=sum(len(prompt.suffix_ids) for prompt in prompts),
        longest_prompt=max(len(prompt) for prompt in prompts),
    )


def _print_costs(tokens: Tokens, context: RunContext, batch_size: int) -> None:
    settings, checkpoint, dtype = context.settings, context.checkpoint, context.settings.dtype
    length = tokens.longest_prompt + settings.max_new_tokens
    prefix = tokens.prefix // tokens.videos
    row = question_bytes(checkpoint, dtype, settings.num_frames, prefix, length, settings.tensor_parallel)
    rate, is_measured = rate_of(settings.device, context.device.name, dtype)
    print(f"{tokens.prefix + tokens.suffix} tokens to compute; each video's are shared by its questions")
    print(f"{settings.model_path}: on {settings.device} in {dtype}, {batch_size} questions at once")
    print(
        f"memory beside the weights: up to {in_bytes(row)} for each question of a batch "
        f"(at most {tokens.longest_prompt} + {settings.max_new_tokens} tokens), {in_bytes(batch_size * row)} in all"
    )
    seconds = device_seconds(checkpoint, settings.num_frames, tokens, rate)
    print(
        f"time: {f'about {in_time(seconds)}' if seconds > 60 else 'below a minute'} on one "
        f"{'core' if settings.device == 'cpu' else 'card'}, if it does {rate / 1e12:g} TFLOP/s "
        f"({'measured on such a card' if is_measured else 'assumed'}), not counting the start and videos that decode "
        "slower than that"
    )
