"""Answer questions on the device, repeat every module call on the CPU, and collect what deviates."""

import copy
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from transformers import LlavaNextVideoForConditionalGeneration

from videobench.device.devices import Device, is_out_of_memory
from videobench.errors import InputError
from videobench.locate.deviation import EXPLAINED, Deviation, deviation
from videobench.locate.findings import Finding, Findings, first_of_families
from videobench.locate.operators import OUTSIDE, first_deviating, watching
from videobench.locate.outside import Outside, OutsideCheck
from videobench.locate.recording import (
    DECODE,
    ENCODE,
    PREFIX,
    SUFFIX,
    VISION,
    Forward,
    Result,
    Rows,
    dtype_name,
    recording,
)
from videobench.locate.replay import Compared, ReadWeight, Replay
from videobench.locate.table import Table
from videobench.model.checkpoint import Checkpoint
from videobench.model.engine import Engine, batch_rows
from videobench.model.prompts import Answer, VideoQuestions

# Rounding cannot explain a deviation beyond so many times the tolerance, so the noise is not measured.
BEYOND_DOUBT = 100
LOOKED_INTO = 5  # kinds of modules whose operators are checked one by one
VISION_PARTS = ("vision_tower", "vision_resampler", "multi_modal_projector", ENCODE)

# For the time left: the share of a batch's work done when a forward pass of this kind begins, and the pass's own share.
PARTS = {VISION: (0.0, 0.3), PREFIX: (0.3, 0.5), SUFFIX: (0.8, 0.15), DECODE: (0.95, 0.05)}

Progress = Callable[[str, float], None]  # what is being computed, and how many batches are done


@dataclass(frozen=True)
class Batch:
    """Questions that the engine answers in one batch, their videos in one prefix."""

    name: str  # "video 1"
    videos: Sequence[VideoQuestions]
    rows: tuple[int, ...] = ()  # the CPU computes these alone; () for all

    @property
    def order(self) -> list[tuple[int, int]]:
        """For each row, the number of its video and of the question on it."""
        return batch_rows(self.videos)

    @property
    def recorded(self) -> Rows | None:
        """None for all rows."""
        if not self.rows:
            return None
        videos = tuple(dict.fromkeys(self.order[row][0] for row in self.rows))
        return Rows(self.rows, len(self.order), videos, len(self.videos))

    def answer(self, engine: Engine) -> list[list[Answer]]:
        """Answer the questions, grouped by video."""
        return engine.answer(self.videos, len(self.order))


def offload_map(checkpoint: Checkpoint, device: Device, dtype: str, room: int) -> dict[str, str]:
    """Map modules to the card, or to "disk", from which accelerate loads them whenever they compute.

    At most `room` bytes of weights are on the card at once."""
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # it warns that parameters are offloaded
    with init_empty_weights():
        model = LlavaNextVideoForConditionalGeneration(copy.deepcopy(checkpoint.config))
    whole = list(model._no_split_modules or ())
    numbered: dict[str, Any] = infer_auto_device_map(
        model, {0: room, "disk": 1 << 62}, no_split_module_classes=whole, dtype=getattr(torch, dtype)
    )
    if numbered.get("", 0) != 0 or next(iter(numbered.values())) != 0:  # the inputs go where the first weight is
        raise InputError(f"device {device.torch_device}: no room even for parts of the model; free some of its memory")
    return {name: str(device.torch_device) if place == 0 else place for name, place in numbered.items()}


def is_offloaded(model: torch.nn.Module) -> bool:
    return any(each.is_meta for each in model.parameters())


@contextmanager
def never_ending(engine: Engine) -> Iterator[None]:
    """Let rows continue after their end, so that all decoding steps are computed and no row leaves the batch."""
    config = engine.model.generation_config
    end_ids, of_config = engine.end_ids, config.eos_token_id
    engine.end_ids, config.eos_token_id = (), None
    try:
        yield
    finally:
        engine.end_ids, config.eos_token_id = end_ids, of_config


@dataclass
class _Suspect:
    place: tuple[int, int]  # event, and the tensor's number in it
    compared: Compared
    deviation: Deviation


class ModelCheck:
    """One pass, in the engine's dtype."""

    def __init__(
        self,
        engine: Engine,
        read_weight: ReadWeight,
        dtype: str,
        progress: Progress = lambda *_: None,
        table: Table | None = None,
        by_layer: bool = False,
    ) -> None:
        self._engine, self._model = engine, engine.model
        self._replay = Replay(self._model, read_weight)
        self._dtype, self._progress, self._table, self._by_layer = dtype, progress, table, by_layer
        names = [name for name, _ in self._model.named_modules()]
        in_vision = sum(any(part in name for part in VISION_PARTS) for name in names)
        self._events = {VISION: 2 * in_vision}, 2 * (len(names) - in_vision)
        self._calls = 0
        self._largest = 0.0
        self._found: list[Finding] = []
        self._batch, self._number = Batch("", ()), 0
        self._outside: OutsideCheck

    def run(self, batches: Sequence[Batch]) -> Findings:
        """Raises RuntimeError if not even one question fits the device."""
        with never_ending(self._engine):
            for self._number, self._batch in enumerate(batches):
                self._answer()
            self._found.sort(key=lambda each: each.order)
            self._look_into(batches)
        return Findings(self._dtype, self._calls, self._largest, tuple(self._found))

    def _answer(self) -> None:
        before = self._calls, len(self._found)
        try:
            self._record()
            return
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._by_layer:
                raise
        # Not in the handler: there the exception's traceback still holds what the failed try had kept.
        self._by_layer = True
        self._calls, self._found = before[0], self._found[: before[1]]
        print("warning: out of memory; from here on values are kept for one layer at a time", file=sys.stderr)
        self._record()

    def _record(self) -> None:
        videos, order, rows = self._batch.videos, self._batch.order, self._batch.recorded
        chosen = rows.videos if rows else range(len(videos))
        places = [chosen.index(order[row][0]) for row in (rows.rows if rows else range(len(order)))]
        self._outside = OutsideCheck(self._engine, [videos[each].pixels for each in chosen], places, rows)
        watching_letters = self._outside.watching_letters()
        with recording(self._model, self._compare, rows, self._by_layer), watching_letters:
            self._batch.answer(self._engine)
        for each in self._outside.letters():
            self._add((self._number, sys.maxsize, 0), each)

    def _compare(self, forward: Forward) -> None:
        """Compare at the end of each forward pass: the device is idle, and its memory is freed before the next one."""
        if not forward.is_layer:
            for each in self._outside.of(forward):
                self._add((self._number, forward.number, -1), each)
        self._calls += sum(
            isinstance(each, Result) and each.module != ENCODE and not each.is_compared for each in forward.events
        )
        suspects: list[_Suspect] = []
        rows: dict[tuple[int, int], list[Any]] = {}
        judged: dict[tuple[int, int], Deviation] = {}
        fields: Counter[int] = Counter()

        def compare(compared: Compared) -> None:
            place = (compared.number, fields[compared.number])
            fields[compared.number] += 1
            self._show(forward.kind, compared)
            found = deviation(compared.found, compared.expected, compared.dtype)
            judged[place] = found
            if self._table and compared.handed_to is None and compared.module != ENCODE and place[1] == 0:
                module = self._model.get_submodule(compared.module)
                rows[place] = self._table.row(compared, type(module).__name__)
            if found.deviates:
                suspects.append(_Suspect(place, compared, found))
            else:
                self._largest = max(self._largest, found.times)

        self._replay.run(forward, compare)
        for suspect in self._without_noise(forward, suspects):
            compared = suspect.compared
            in_vision = any(part in compared.module for part in VISION_PARTS)
            finding = Finding(
                (self._number, forward.number, compared.number),
                VISION if in_vision else forward.kind,
                self._batch.name,
                compared.module,
                compared.call,
                compared.handed_to,
                tuple(compared.found.shape),
                dtype_name(compared.dtype),
                suspect.deviation,
            )
            self._found.append(finding)
        judged |= {each.place: each.deviation for each in suspects}
        for place, row in rows.items():
            assert self._table
            self._table.add(row, judged[place])

    def _show(self, kind: str, compared: Compared) -> None:
        begin, part = PARTS[kind]
        events, others = self._events
        share = min(compared.number / events.get(kind, others), 1)
        self._progress(f"{kind}, {compared.module}", self._number + begin + part * share)

    def _add(self, order: tuple[int, int, int], outside: Outside) -> None:
        found = outside.deviation
        if found.deviates:
            name, shape, dtype = outside.name, outside.shape, outside.dtype
            self._found.append(Finding(order, outside.call, self._batch.name, name, 0, None, shape, dtype, found))
        else:
            self._largest = max(self._largest, found.times)

    def _without_noise(self, forward: Forward, suspects: list[_Suspect]) -> list[_Suspect]:
        """Drop what rounding of the inputs explains: compute everything again with the inputs rounded at random."""
        doubtful = {each.place: each for each in suspects if each.deviation.times <= BEYOND_DOUBT}
        if not doubtful:
            return suspects
        generator = torch.Generator().manual_seed(0)
        step = EXPLAINED[getattr(torch, self._dtype)]
        fields: Counter[int] = Counter()

        def shake(tensor: torch.Tensor) -> torch.Tensor:
            return tensor * (1 + step * (2 * torch.rand(tensor.shape, generator=generator) - 1))

        def compare(compared: Compared) -> None:
            place = (compared.number, fields[compared.number])
            fields[compared.number] += 1
            if suspect := doubtful.get(place):
                exact = suspect.compared
                noise = compared.expected - exact.expected
                suspect.deviation = deviation(exact.found, exact.expected, exact.dtype, noise)

        self._replay.run(forward, compare, shake)
        cleared = [each for each in suspects if not each.deviation.deviates]
        self._largest = max([self._largest, *(each.deviation.times for each in cleared)])
        return [each for each in suspects if each.deviation.deviates]

    def _look_into(self, batches: Sequence[Batch]) -> None:
        for index in first_of_families(self._found, LOOKED_INTO):
            finding = self._found[index]
            if finding.module in OUTSIDE:
                continue
            with watching(self._model, finding.module, finding.call) as computed:
                batches[finding.order[0]].answer(self._engine)
            self._progress(f"operators of {finding.module}", len(batches))
            self._found[index] = replace(finding, operator=first_deviating(computed))
