"""`--check_model`: find the module whose results differ from the CPU's, on one machine."""

import gc
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from videobench.commands import CARDS, SAMPLER, Command, fold, interpreter
from videobench.console import StatusLine, in_bytes, one_line
from videobench.data.dataset import SAMPLE_MANIFEST_FILE, Question
from videobench.device.devices import (
    DEFAULT_BATCH_SIZES,
    DEFAULT_DTYPES,
    LENGTH_MULTIPLES,
    Device,
    describe_device,
    is_out_of_memory,
    memory_bytes,
    name_of,
    release_memory,
)
from videobench.errors import InputError, OutOfMemory
from videobench.files import write_json, write_whole
from videobench.model.cost import DTYPE_BYTES
from videobench.model.prompts import VideoQuestions
from videobench.run.options import ModelCheckSettings, RunSettings
from videobench.run.plan import Plan, VideoWork, build_plan, costliest_first, load_all_questions, open_run_device
from videobench.tolerances import TOLERANCES

if TYPE_CHECKING:
    from videobench.locate.batches import PlainAnswers
    from videobench.locate.check import Batch
    from videobench.locate.findings import Findings
    from videobench.locate.table import Table
    from videobench.model.checkpoint import Checkpoint
    from videobench.model.engine import Engine

QUESTIONS = 4  # without --check_questions
MOST_REPLAYED = 4  # rows of a batch
UNKNOWN_ROWS = "copies of the cache, rows that end and leave the batch; or it is nondeterministic"
ROOM = 1.3  # times the weights' bytes: what a card must have free for all of them and a forward pass
OFFLOAD_ROOM = 0.6  # share of the free memory that weights may take if not all of them fit


def check_model(settings: ModelCheckSettings) -> int:
    """Return the exit status: 0 if all agrees, 1 if something deviates. Raises InputError if it cannot be checked."""
    if int(os.environ.get("RANK", "0")) > 0:
        return 0  # started by torchrun: the first process checks its card
    started = time.monotonic()
    questions = load_all_questions(settings.run)
    device = open_run_device(settings.run, 0)
    dtype = settings.run.dtype or DEFAULT_DTYPES[device.kind]
    longest = max(settings.run.max_new_tokens, settings.decoding_steps + 1)
    run = replace(settings.run, device=device.kind, dtype=dtype, max_new_tokens=longest)
    from videobench.locate.table import Table
    from videobench.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(run.model_path)
    plan = build_plan(questions, checkpoint.prompt_builder(run.num_frames), checkpoint.positions, run)
    works = choose(plan, settings.questions)
    videos = [read_video(work, run, checkpoint) for work in works]
    together = read_batch(works, plan, run, checkpoint)
    table = Table() if settings.output_csv else None
    check = Check(run, device, checkpoint, videos, together, settings.decoding_steps, table)
    check.announce(works)
    report = check.run()
    if settings.output_csv and table:
        write_whole(settings.output_csv, table.text.encode())
        print(f"wrote {settings.output_csv}")
    if settings.output_json:
        names = [f"{each.dataset}/{each.id}" for work in works for each in work.questions]
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


def _narrowed(work: VideoWork, chosen: list[Question]) -> VideoWork:
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
    most = settings.batch_size or DEFAULT_BATCH_SIZES[settings.device]
    order = costliest_first(plan, [each for each in plan.prompts if each not in plan.failures])
    first = [work.video for work in works]
    every = plan.works(sorted(order, key=lambda each: first.index(each.video) if each.video in first else len(first)))
    batch: list[VideoQuestions] = []
    left = most
    for work in every:
        count = len(work.prompts) if batch else min(len(work.prompts), most)
        if count > left or len(work.prompts[0].prefix_ids) != len(works[0].prompts[0].prefix_ids):
            continue
        try:
            batch.append(read_video(_narrowed(work, [*work.questions[:count]]), settings, checkpoint))
        except InputError:
            continue  # read already
        left -= count
        if left == 0:
            break
    return batch


class Check:
    def __init__(
        self,
        settings: RunSettings,
        device: Device,
        checkpoint: "Checkpoint",
        videos: list[VideoQuestions],
        together: list[VideoQuestions],
        decoding_steps: int,
        table: "Table | None" = None,
    ) -> None:
        self._settings, self._device, self._checkpoint = settings, device, checkpoint
        self._videos, self._together, self._new_tokens = videos, together, decoding_steps + 1
        self._table = table

    def announce(self, works: list[VideoWork]) -> None:
        questions, videos = sum(len(work.prompts) for work in works), len(works)
        asked = f"{questions} question{'s' * (questions > 1)} on {videos} video{'s' * (videos > 1)}"
        print(f"{asked}, on {name_of(self._device)}, and again on the host")
        for work in works:
            names = ", ".join(f"{each.dataset}/{each.id}" for each in work.questions)
            print(one_line(f"video {works.index(work) + 1}: {work.video}: {names}"))

    def run(self) -> dict[str, Any]:
        """Print each result as soon as it is known; return what --output_json writes."""
        own, passes = self._settings.dtype, []
        for dtype in dict.fromkeys(("float32", own)):  # most deviations show in float32 alone
            found = next(filter(None, (self._try_dtype(dtype, each) for each in self._ways(dtype))), None)
            if found:
                passes.append(found)
            elif dtype == own:
                fix = "name fewer --check_questions, use fewer --num_frames, or a larger card"
                raise InputError(f"{name_of(self._device)}: out of memory in {dtype}; {fix}")
            else:
                print(f"float32: left out: small deviations do not show in {own}")
        return {"agrees": all(each["agrees"] for each in passes), "passes": passes}

    def _ways(self, dtype: str) -> tuple[bool, ...]:
        """The values of `is_offloaded` (weights stay in the files) to try, in this order."""
        if self._device.kind == "cpu":
            return (False,)
        needed = self._checkpoint.weights.total * DTYPE_BYTES[dtype]
        return (False, True) if needed * ROOM <= memory_bytes(self._device)[0] else (True,)

    def _try_dtype(self, dtype: str, is_offloaded: bool) -> dict[str, Any] | None:
        """Check in one dtype; if the card has too little memory, say so and return None."""
        try:
            return self.in_dtype(self.load(dtype, is_offloaded), dtype)
        except (RuntimeError, OutOfMemory) as error:
            if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
                raise
        finally:
            gc.collect()  # a model has reference cycles: its weights would stay on the card beside the next ones
            release_memory(self._device)
        print(f"{dtype}: {name_of(self._device)} ran out of memory")
        return None

    def load(self, dtype: str, is_offloaded: bool = False) -> "Engine":
        from transformers.utils import logging

        from videobench.locate.check import offload_map
        from videobench.model.engine import load_engine

        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        device_map = None
        if is_offloaded:
            free = memory_bytes(self._device)[0]
            device_map = offload_map(self._checkpoint, self._device, dtype, int(free * OFFLOAD_ROOM))
            needed = in_bytes(self._checkpoint.weights.total * DTYPE_BYTES[dtype])
            print(
                f"{dtype}: the weights take {needed}, {in_bytes(free)} of {name_of(self._device)} is free: what does "
                "not fit comes to the card module by module, and values are kept for one layer at a time, which can "
                "hide a fault of timing"
            )
        multiple = LENGTH_MULTIPLES[self._device.kind]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # accelerate warns about a weight that is in no module
            return load_engine(self._checkpoint, self._device, dtype, self._new_tokens, multiple, device_map=device_map)

    def in_dtype(self, engine: "Engine", dtype: str) -> dict[str, Any]:
        """Check the chosen questions video by video, and a batch as a run answers it.

        Raises RuntimeError if not even one question fits the device."""
        from videobench.locate.batches import PlainAnswers
        from videobench.locate.check import Batch, is_offloaded
        from videobench.locate.findings import as_json, lines

        found = self._replay(engine, dtype, [Batch(f"video {n + 1}", [each]) for n, each in enumerate(self._videos)])
        print("\n".join(lines(found)))
        plain, batches, is_known = PlainAnswers(engine), list[dict[str, Any]](), bool(found.found)
        # Each plain answer loads all offloaded weights again, in float32 twice the bytes: its batches are left out.
        is_spared = dtype != self._settings.dtype and is_offloaded(engine.model)
        for batch in () if is_spared else self.batches():
            batches.append(self._try(engine, dtype, batch, plain, is_known))
            is_known = is_known or "replayed" in batches[-1]
        repeats = {"repeats": self._repeats(engine)} if dtype == self._settings.dtype else {}
        agrees = not found.found and all(each["agrees"] for each in [*batches, *repeats.values()])
        return {"agrees": agrees, **as_json(found), "batches": batches, **repeats}

    def batches(self) -> "Iterator[Batch]":
        """Yield a batch of several videos in one prefix, and one video with many questions, whose rows begin with
        copies of one cache."""
        from videobench.locate.check import Batch

        yield Batch("", self._together)
        most = max(self._together, key=lambda each: len(each.prompts))
        if len(self._together) > 1 and len(most.prompts) > 1:
            yield Batch("", [most])

    def _replay(self, engine: "Engine", dtype: str, batches: "list[Batch]") -> "Findings":
        import torch

        from videobench.locate.check import ModelCheck, is_offloaded
        from videobench.locate.replay import HostWeights

        weights = HostWeights(self._checkpoint, engine.model, getattr(torch, dtype))

        def show(place: str, done: float) -> None:
            status.show(f"{dtype}: {100 * done / len(batches):.0f} % done, in {place}")

        with closing(StatusLine()) as status:
            return ModelCheck(engine, weights, dtype, show, self._table, is_offloaded(engine.model)).run(batches)

    def _try(
        self, engine: "Engine", dtype: str, batch: "Batch", plain: "PlainAnswers", is_known: bool
    ) -> dict[str, Any]:
        """Compare one batch with plain `generate`; if rows differ and the cause is not yet known (`is_known`), compute
        them again on the host."""
        from videobench.locate.batches import try_batch
        from videobench.locate.findings import as_json, lines

        tried = try_batch(engine, batch, plain)
        rows, nats = tried.differing(TOLERANCES[dtype].one_device), max(tried.nats)
        result = {"tried": tried.shape, "rows_that_differ": rows, **_result(nats, dtype)}
        if not rows:
            print(f"{dtype}: {tried.shape}: each row agrees with one plain generate (up to {nats:.2g} nats)")
            return result
        print(f"{dtype}: {tried.shape}: unlike plain generate: {_listed(rows)} (up to {nats:.2g} nats)")
        if is_known:
            return result
        rows = rows[:MOST_REPLAYED]
        named = replace(tried.batch, name=f"the batch of {tried.size}, its {_listed(rows)}", rows=tuple(rows))
        found = self._replay(engine, dtype, [named])
        if found.found:
            print("\n".join(lines(found)))
        else:
            print(f"  {named.name}: all {found.calls:,} module calls agree; look at: {UNKNOWN_ROWS}")
        return {**result, "replayed": as_json(found)}

    def _repeats(self, engine: "Engine") -> dict[str, Any]:
        from videobench.locate.batches import distance

        video = self._videos[0]
        first, second = (engine.answer([video], len(video.prompts))[0] for _ in range(2))
        nats = max(distance(*pair) for pair in zip(first, second, strict=True))
        how = "equal to the last bit" if nats == 0 else f"log-probabilities differ by up to {nats:.1e} nats"
        flag = "with --deterministic" if self._settings.deterministic else "without --deterministic"
        more = "" if nats == 0 or self._settings.deterministic else "; try it with --deterministic"
        print(f"the same questions twice, {flag}: {how}{more}")
        return {**_result(nats, self._settings.dtype), "deterministic": self._settings.deterministic}


def _result(nats: float, dtype: str) -> dict[str, Any]:
    return {"agrees": nats <= TOLERANCES[dtype].one_device, "nats": nats if math.isfinite(nats) else None}


def _listed(rows: Sequence[int]) -> str:
    """ "row 3", "rows 2, 3, 4, 5 and 26 more"; counted from 0."""
    shown = ", ".join(map(str, rows[:MOST_REPLAYED]))
    more = f" and {len(rows) - MOST_REPLAYED} more" if len(rows) > MOST_REPLAYED else ""
    return f"row{'s' * (len(rows) > 1)} {shown}{more}"


def what_else(settings: RunSettings) -> Iterator[str]:
    """Yield lines on what to try if a comparison fails but the check finds nothing: a command for each cause."""
    if settings.command is None:
        return
    yield "If a comparison has found a difference all the same, its cause is not in these modules. What is left:"
    for cause, command in _causes(settings, settings.command):
        yield f"- {cause}:"
        yield fold(command)


def _causes(settings: RunSettings, check: Command) -> Iterator[tuple[str, str]]:
    run = check.without("check_questions", "output_json", "output_csv", switches=["check_model"])
    manifest = settings.sources[0].qa_path.with_name(SAMPLE_MANIFEST_FILE).absolute()

    def into(name: str, changed: Command) -> str:
        """Send the results to another folder, to be compared with the other side's."""
        folder = f"{settings.output_folder.absolute()}_{name}"
        return changed.with_flag("chat_conversation_output_folder", folder).text

    inputs = "other pixels or prompts (the comparison's table of inputs)"
    if manifest.is_file():
        verify = Command(SAMPLER, ("--verify", str(manifest))).text
        yield f"{inputs}: see whether the sample is whole, on both machines", verify
    else:
        yield f"{inputs}: see whether the first prompt is the same on both machines", run.with_flag("dry_run").text
    if settings.device in CARDS:
        name = CARDS[settings.device]
        card = os.environ.get(name, "0").split(",")[0].strip() or "0"
        alone = run.without("tensor_parallel").with_variable(name, card)
        yield (
            "links between cards, or another card: answer on this one alone, and compare that",
            into("one_card", alone),
        )
    release = f"{interpreter()} -m pip install transformers==RELEASE"
    yield (
        "a library that device and CPU share: install the other side's RELEASE (table of inputs), check again",
        release,
    )
    repeated = into("deterministic", run.with_flag("deterministic"))
    yield "numbers that differ from run to run: answer again with fixed ones, and compare that", repeated
    requests = f"{settings.output_folder.absolute()}_requests.jsonl"
    exported = run.without(switches=["overwrite"]).with_flag("export_requests", requests).text
    yield "a service's own kernels, which this check does not see: ask it what this writes, one by one", exported
