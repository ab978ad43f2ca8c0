"""`--check_model`: choose questions, have them checked, and say what is left if all agrees."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from videobench.commands import CARDS, SAMPLER, Command, fold, interpreter
from videobench.console import one_line
from videobench.data.dataset import SAMPLE_MANIFEST_FILE, Question
from videobench.device.devices import DEFAULT_BATCH_SIZES, DEFAULT_DTYPES, describe_device, name_of
from videobench.errors import InputError
from videobench.files import write_json, write_whole
from videobench.model.prompts import VideoQuestions
from videobench.run.options import ModelCheckSettings, RunSettings
from videobench.run.plan import Plan, VideoWork, build_plan, costliest_first, load_all_questions, open_run_device

if TYPE_CHECKING:
    from videobench.model.checkpoint import Checkpoint

QUESTIONS = 4  # without --check_questions


def check_model(settings: ModelCheckSettings) -> int:
    """Return the exit status: 0 if all agrees, 1 if something deviates. Raises InputError if it cannot be checked."""
    if int(os.environ.get("RANK", "0")) > 0:
        return 0  # started by torchrun: the first process checks its card
    started = time.monotonic()
    # 1. The questions, on an open device.
    questions = load_all_questions(settings.run)
    device = open_run_device(settings.run, 0)
    from videobench.locate.check import Check
    from videobench.locate.findings import as_csv
    from videobench.model.checkpoint import load_checkpoint

    dtype = settings.run.dtype or DEFAULT_DTYPES[device.kind]
    longest = max(settings.run.max_new_tokens, settings.decoding_steps + 1)
    run = replace(settings.run, device=device.kind, dtype=dtype, max_new_tokens=longest)
    checkpoint = load_checkpoint(run.model_path)
    plan = build_plan(questions, checkpoint.prompt_builder(run.num_frames), checkpoint.positions, run)
    works = choose(plan, settings.questions)
    # 2. Their videos, and those of a batch.
    videos = [read_video(work, run, checkpoint) for work in works]
    together = read_batch(works, plan, run, checkpoint)
    # 3. The check.
    names = [f"{each.dataset}/{each.id}" for work in works for each in work.questions]
    asked = f"{len(names)} question{'s' * (len(names) > 1)} on {len(works)} video{'s' * (len(works) > 1)}"
    print(f"{asked}, computed on {name_of(device)}, and again on the CPU in float32")
    for number, work in enumerate(works, 1):
        keys = ", ".join(f"{each.dataset}/{each.id}" for each in work.questions)
        print(one_line(f"video {number}: {work.video}: {keys}"))
    wants_table = settings.output_csv is not None
    check = Check(checkpoint, device, dtype, videos, together, settings.decoding_steps, run.deterministic, wants_table)
    report = check.run()
    # 4. The files, and what is left.
    if settings.output_csv:
        write_whole(settings.output_csv, as_csv(check.rows).encode())
        print(f"wrote {settings.output_csv}")
    if settings.output_json:
        description = {"device": name_of(device), **describe_device(device)}
        write_json(settings.output_json, {**description, "questions": names, **report})
        print(f"wrote {settings.output_json}")
    print(f"{'all agrees' if report['agrees'] else 'something deviates'}, in {time.monotonic() - started:.0f} s")
    if report["agrees"] and settings.questions:  # those of a comparison
        print("\n".join(what_else(run)))
    return 0 if report["agrees"] else 1


def choose(plan: Plan, wanted: Sequence[str]) -> list[VideoWork]:
    """Return the videos of the wanted questions, with no other questions. Raises InputError if none can be asked.

    If no question is named, choose QUESTIONS: the longest and the shortest prompt on the videos with the longest and
    the shortest prompts, so that a batch is padded."""
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
        raise InputError(f"--check_questions: {name}: is in several data sets; name one of {names}")
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


def _narrowed(work: VideoWork, chosen: Sequence[Question]) -> VideoWork:
    pairs = [pair for pair in zip(work.questions, work.prompts, strict=True) if pair[0] in chosen]
    return VideoWork(work.video, tuple(each for each, _ in pairs), tuple(prompt for _, prompt in pairs))


def read_video(work: VideoWork, settings: RunSettings, checkpoint: "Checkpoint") -> VideoQuestions:
    """Decode the video and prepare its questions. Raises InputError if it does not decode."""
    from videobench.video.pool import prepare_video

    video = prepare_video(work.video, checkpoint.pixel_spec, settings.num_frames)
    if video.pixels is None:
        raise InputError(f"{video.error}; choose other questions with --check_questions")
    return VideoQuestions(video.pixels, work.prompts, [tuple(each.options) for each in work.questions])


def read_batch(
    works: list[VideoWork], plan: Plan, settings: RunSettings, checkpoint: "Checkpoint"
) -> list[VideoQuestions]:
    """Read what a run answers in one batch: whole videos with up to --batch_size questions, those of `works` first."""
    left = settings.batch_size or DEFAULT_BATCH_SIZES[settings.device]
    first = [each for work in works for each in work.questions]
    batch: list[VideoQuestions] = []
    for work in plan.works([*first, *costliest_first(plan, list(plan.prompts))]):
        count = len(work.questions) if batch else min(len(work.questions), left)
        if count <= left:
            with suppress(InputError):  # a video that does not decode; those of `works` do
                batch.append(read_video(_narrowed(work, work.questions[:count]), settings, checkpoint))
                left -= count
        if left == 0:
            break
    return batch


def what_else(settings: RunSettings) -> Iterator[str]:
    """Yield lines on what to try if a comparison fails but the check finds nothing: a command for each cause."""
    yield "If a comparison has found a difference all the same, its cause is not in these modules. What is left:"
    for cause, command in _causes(settings, settings.command):
        yield f"- {cause}:"
        yield fold(command)


def _causes(settings: RunSettings, check: Command) -> Iterator[tuple[str, str]]:
    run = check.without("check_questions", "output_json", "output_csv", switches=["check_model"])
    results = settings.output_folder.absolute()

    def into(name: str, changed: Command) -> str:
        """Send the results to another folder, to be compared with the other side's."""
        return changed.with_flag("chat_conversation_output_folder", f"{results}_{name}").text

    inputs = "other pixels or prompts (the comparison's table of inputs)"
    manifest = settings.sources[0].qa_path.with_name(SAMPLE_MANIFEST_FILE).absolute()
    if manifest.is_file():
        verify = Command(SAMPLER, ("--verify", str(manifest))).text
        yield f"{inputs}: see whether the sample is whole, on both machines", verify
    else:
        yield f"{inputs}: see whether the first prompt is the same on both machines", run.with_flag("dry_run").text
    if settings.device in CARDS:
        name = CARDS[settings.device]
        card = os.environ.get(name, "0").split(",")[0].strip() or "0"
        alone = "links between cards, or another card: answer on this card alone, and compare that"
        yield alone, into("one_card", run.without("tensor_parallel").with_variable(name, card))
    yield (
        "a library that device and CPU share: install the other side's RELEASE (table of inputs), check again",
        f"{interpreter()} -m pip install transformers==RELEASE",
    )
    repeated = run.with_flag("deterministic")
    yield (
        "numbers that differ from run to run: answer again with --deterministic, and compare that",
        into("deterministic", repeated),
    )
    exported = run.without(switches=["overwrite"]).with_flag("export_requests", f"{results}_requests.jsonl")
    yield "a service's own kernels, which this check does not see: send it these requests one by one", exported.text
