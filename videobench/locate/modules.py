"""Answer questions on the device, repeat every module call on the CPU, and collect what deviates."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch

from videobench.device.devices import is_out_of_memory
from videobench.locate.batches import Batch
from videobench.locate.deviation import EXPLAINED, Deviation, deviation
from videobench.locate.findings import Finding, Findings, table_row
from videobench.locate.operators import OUTSIDE, first_deviating, watching
from videobench.locate.outside import Outside, OutsideCheck
from videobench.locate.recording import ENCODE, VISION, Forward, Result, dtype_name, recording
from videobench.locate.replay import Compared, ReadWeight, Replay
from videobench.model.engine import Engine

# Rounding cannot explain a deviation beyond so many times the tolerance, so the noise is not measured.
BEYOND_DOUBT = 100
LOOKED_INTO = 5  # kinds of modules whose operators are checked one by one
VISION_PARTS = ("vision_tower", "vision_resampler", "multi_modal_projector", ENCODE)


@contextmanager
def _never_ending(engine: Engine) -> Iterator[None]:
    """Let rows continue after their end, so that all decoding steps are computed and no row leaves the batch."""
    config = engine.model.generation_config
    end_ids, of_config = engine.end_ids, config.eos_token_id
    engine.end_ids, config.eos_token_id = (), None
    try:
        yield
    finally:
        engine.end_ids, config.eos_token_id = end_ids, of_config


class ModuleCheck:
    """Compares the module calls of some batches with the CPU's, in the engine's dtype."""

    def __init__(
        self,
        engine: Engine,
        read_weight: ReadWeight,
        dtype: str,
        progress: Callable[[str], None] = lambda _: None,  # gets what is being computed
        by_layer: bool = False,  # keep the device's values for one layer at a time
        with_table: bool = False,
    ) -> None:
        self._engine, self._model = engine, engine.model
        self._replay = Replay(self._model, read_weight)
        self._dtype, self._progress, self._by_layer, self._with_table = dtype, progress, by_layer, with_table

    def run(self, batches: Sequence[Batch]) -> Findings:
        """Raises RuntimeError if the device has no room for the values of one layer."""
        with _never_ending(self._engine):
            try:
                return self._run(batches)
            except RuntimeError as error:
                if not is_out_of_memory(error) or self._by_layer:
                    raise
            # Not in the handler: there the exception's traceback still holds what the failed try had kept.
            print("warning: out of memory; again, with values kept for one layer at a time", file=sys.stderr)
            self._by_layer = True
            return self._run(batches)

    def _run(self, batches: Sequence[Batch]) -> Findings:
        self._calls, self._largest = 0, 0.0
        self._found: list[Finding] = []
        self._rows: list[list[Any]] = []
        for self._number, self._batch in enumerate(batches):
            self._record()
        self._found.sort(key=lambda each: each.order)
        self._look_into(batches)
        return Findings(self._dtype, self._calls, self._largest, tuple(self._found), self._rows)

    def _record(self) -> None:
        rows = self._batch.recorded
        pixels = [self._batch.videos[each].pixels for each in rows.videos]
        self._outside = OutsideCheck(self._engine, pixels, rows)
        with recording(self._model, self._compare, rows, self._by_layer), self._outside.watching_letters():
            self._batch.answer(self._engine)
        for each in self._outside.letters():
            self._add_outside((self._number, sys.maxsize, 0), each)

    def _compare(self, forward: Forward) -> None:
        """Compare at the end of each forward pass: the device is idle, and its memory is freed before the next one."""
        if not forward.is_layer:
            for each in self._outside.of(forward):
                self._add_outside((self._number, forward.number, -1), each)
        self._calls += sum(
            isinstance(each, Result) and each.module != ENCODE and not each.is_compared for each in forward.events
        )
        judged: list[Deviation] = []
        suspects: dict[int, Compared] = {}  # by place in `judged`
        rows: dict[int, tuple[int, list[Any]]] = {}  # event -> place in `judged`, row of the table

        def compare(compared: Compared) -> None:
            self._progress(f"{self._batch.name}, {forward.kind}, {compared.module}")
            found = deviation(compared.found, compared.expected, compared.dtype)
            if found.deviates:
                suspects[len(judged)] = compared
            is_result = compared.passed_to is None and compared.module != ENCODE
            if self._with_table and is_result and compared.number not in rows:
                module = self._model.get_submodule(compared.module)
                rows[compared.number] = len(judged), table_row(compared, type(module).__name__)
            judged.append(found)

        self._replay.run(forward, compare)
        self._allow_rounding(forward, judged, suspects)
        for place, suspect in suspects.items():
            if judged[place].deviates:
                is_vision = any(part in suspect.module for part in VISION_PARTS)
                self._found.append(
                    Finding(
                        (self._number, forward.number, suspect.number),
                        VISION if is_vision else forward.kind,
                        self._batch.name,
                        suspect.module,
                        suspect.call,
                        suspect.passed_to,
                        tuple(suspect.found.shape),
                        dtype_name(suspect.dtype),
                        judged[place],
                    )
                )
        self._largest = max([self._largest, *(each.times for each in judged if not each.deviates)])
        for place, row in rows.values():
            self._rows.append([*row, "error" if judged[place].deviates else "pass", judged[place].times])

    def _add_outside(self, order: tuple[int, int, int], outside: Outside) -> None:
        judged = outside.deviation
        if judged.deviates:
            shape, dtype = tuple(outside.found.shape), dtype_name(outside.found.dtype)
            self._found.append(
                Finding(order, outside.kind, self._batch.name, outside.name, 0, None, shape, dtype, judged)
            )
        else:
            self._largest = max(self._largest, judged.times)

    def _allow_rounding(self, forward: Forward, judged: list[Deviation], suspects: dict[int, Compared]) -> None:
        """Judge again what rounding of the inputs may explain: compute it with inputs that are rounded at random."""
        doubtful = {place for place in suspects if judged[place].times <= BEYOND_DOUBT}
        if not doubtful:
            return
        generator = torch.Generator().manual_seed(0)
        step = EXPLAINED[getattr(torch, self._dtype)]
        places = count()

        def shake(tensor: torch.Tensor) -> torch.Tensor:
            return tensor * (1 + step * (2 * torch.rand(tensor.shape, generator=generator) - 1))

        def compare(compared: Compared) -> None:
            place = next(places)
            if place in doubtful:
                exact = suspects[place]
                noise = compared.expected - exact.expected
                judged[place] = deviation(exact.found, exact.expected, exact.dtype, noise)

        self._replay.run(forward, compare, shake)

    def _look_into(self, batches: Sequence[Batch]) -> None:
        """Find the operator for the first finding of each kind of module."""
        first: dict[str, int] = {}
        for index, each in enumerate(self._found):
            first.setdefault(each.family, index)
        for index in [*first.values()][:LOOKED_INTO]:
            finding = self._found[index]
            if finding.module in OUTSIDE:
                continue
            self._progress(f"operators of {finding.module}")
            with watching(self._model, finding.module, finding.call) as computed:
                batches[finding.order[0]].answer(self._engine)
            self._found[index] = replace(finding, operator=first_deviating(computed))
