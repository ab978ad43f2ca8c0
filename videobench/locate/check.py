"""Check a model on one device: in float32 and in the run's dtype, question by question and in batches."""

import copy
import gc
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from transformers import LlavaNextVideoForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

from videobench.console import StatusLine, in_bytes
from videobench.device.devices import (
    LENGTH_MULTIPLES,
    Device,
    is_out_of_memory,
    memory_bytes,
    name_of,
    release_memory,
)
from videobench.errors import InputError, OutOfMemory
from videobench.locate.batches import Batch, PlainAnswers, distance, try_batch
from videobench.locate.findings import Findings, as_json, lines
from videobench.locate.modules import ModuleCheck
from videobench.locate.replay import HostWeights
from videobench.model.checkpoint import Checkpoint
from videobench.model.cost import DTYPE_BYTES
from videobench.model.engine import Engine, load_engine
from videobench.model.prompts import VideoQuestions
from videobench.tolerances import TOLERANCES

MOST_REPEATED = 4  # rows of a batch that are computed again on the CPU
UNKNOWN_ROWS = "copies of the cache, rows that end and leave the batch; or it is nondeterministic"
ROOM = 1.3  # times the weights' bytes: what a card must have free for all of them and a forward pass
OFFLOAD_ROOM = 0.6  # share of the free memory that weights may take if not all of them fit


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


class Check:
    """Prints each result as soon as it is known."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: Device,
        dtype: str,
        videos: Sequence[VideoQuestions],  # the chosen questions
        together: Sequence[VideoQuestions],  # what a run answers in one batch
        decoding_steps: int,
        is_deterministic: bool = False,
        with_table: bool = False,
    ) -> None:
        self._checkpoint, self._device, self._own_dtype = checkpoint, device, dtype
        self._videos, self._together, self._new_tokens = videos, together, decoding_steps + 1
        self._is_deterministic, self._with_table = is_deterministic, with_table
        self.rows: list[Sequence[Any]] = []  # of the table

    def run(self) -> dict[str, Any]:
        """Return what --output_json writes."""
        passes = []
        for dtype in dict.fromkeys(("float32", self._own_dtype)):  # most deviations show in float32 alone
            if found := self._try_dtype(dtype):
                passes.append(found)
            elif dtype == self._own_dtype:
                fix = "name fewer --check_questions, use fewer --num_frames, or a larger card"
                raise InputError(f"{name_of(self._device)}: out of memory in {dtype}; {fix}")
            else:
                print(f"float32: left out, {name_of(self._device)} ran out of memory; 16 bits hide small deviations")
        return {"agrees": all(each["agrees"] for each in passes), "passes": passes}

    def _try_dtype(self, dtype: str) -> dict[str, Any] | None:
        """Check in one dtype; None if the card has too little memory."""
        rows = len(self.rows)
        try:
            return self.in_dtype(self.load(dtype), dtype)
        except (RuntimeError, OutOfMemory) as error:
            if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
                raise
        finally:
            gc.collect()  # a model has reference cycles: its weights would stay on the card beside the next ones
            release_memory(self._device)
        del self.rows[rows:]
        return None

    def load(self, dtype: str) -> Engine:
        """Load the weights; if they do not fit the card, leave the others in the files."""
        if not sys.stderr.isatty():
            disable_progress_bar()
        free, needed = memory_bytes(self._device)[0], self._checkpoint.weights.total * DTYPE_BYTES[dtype]
        device_map = None
        if self._device.kind != "cpu" and needed * ROOM > free:
            room = int(free * OFFLOAD_ROOM)
            device_map = offload_map(self._checkpoint, self._device, dtype, room)
            print(
                f"{dtype}: the weights take {in_bytes(needed)}, and {in_bytes(free)} of {name_of(self._device)} is "
                f"free: at most {in_bytes(room)} of them are on the card at a time, the others come module by module. "
                "Values are kept for one layer at a time, which can hide a timing fault"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # accelerate warns about a weight that is in no module
            multiple = LENGTH_MULTIPLES[self._device.kind]
            return load_engine(self._checkpoint, self._device, dtype, self._new_tokens, multiple, device_map=device_map)

    def in_dtype(self, engine: Engine, dtype: str) -> dict[str, Any]:
        """Check the chosen questions video by video, and a batch as a run answers it.

        Raises RuntimeError if not even one question fits the device."""
        found = self._repeat(engine, dtype, [Batch(f"video {n + 1}", [each]) for n, each in enumerate(self._videos)])
        print("\n".join(lines(found)))
        plain, batches, is_known = PlainAnswers(engine), list[dict[str, Any]](), bool(found.found)
        # Each plain answer loads all offloaded weights again, in float32 twice the bytes: its batches are left out.
        is_spared = dtype != self._own_dtype and is_offloaded(engine.model)
        for batch in () if is_spared else self.batches():
            batches.append(self._try_batch(engine, dtype, batch, plain, is_known))
            is_known = is_known or "replayed" in batches[-1]
        repeats = {"repeats": self._answer_twice(engine)} if dtype == self._own_dtype else {}
        agrees = not found.found and all(each["agrees"] for each in [*batches, *repeats.values()])
        return {"agrees": agrees, **as_json(found), "batches": batches, **repeats}

    def batches(self) -> Iterator[Batch]:
        """Yield a batch of several videos in one prefix, and one video with many questions, whose rows begin with
        copies of one cache."""
        yield Batch("", self._together)
        most = max(self._together, key=lambda each: len(each.prompts))
        if len(self._together) > 1 and len(most.prompts) > 1:
            yield Batch("", [most])

    def _repeat(self, engine: Engine, dtype: str, batches: list[Batch]) -> Findings:
        """Repeat the batches' module calls on the CPU."""
        weights = HostWeights(self._checkpoint, engine.model, getattr(torch, dtype))
        with closing(StatusLine()) as status:
            check = ModuleCheck(
                engine,
                weights,
                dtype,
                lambda place: status.show(f"{dtype}: {place}"),
                is_offloaded(engine.model),
                self._with_table,
            )
            found = check.run(batches)
        self.rows += found.rows
        return found

    def _try_batch(
        self, engine: Engine, dtype: str, batch: Batch, plain: PlainAnswers, is_known: bool
    ) -> dict[str, Any]:
        """Compare one batch with plain `generate`; if rows differ and the cause is not yet known (`is_known`), repeat
        them on the CPU."""
        tried = try_batch(engine, batch, plain)
        rows, nats = tried.differing(TOLERANCES[dtype].one_device), max(tried.nats)
        result = {"tried": tried.shape, "rows_that_differ": rows, **_result(nats, dtype)}
        if not rows:
            print(f"{dtype}: {tried.shape}: each row agrees with a plain generate (up to {nats:.2g} nats)")
            return result
        differ = f"{_listed(rows)} differ{'s' * (len(rows) == 1)} from a plain generate"
        print(f"{dtype}: {tried.shape}: {differ} (up to {nats:.2g} nats)")
        if is_known:
            return result
        rows = rows[:MOST_REPEATED]
        named = replace(tried.batch, name=f"the batch of {tried.size}, its {_listed(rows)}", rows=tuple(rows))
        found = self._repeat(engine, dtype, [named])
        if found.found:
            print("\n".join(lines(found)))
        else:
            print(f"  {named.name}: all {found.calls:,} module calls agree; look at: {UNKNOWN_ROWS}")
        return {**result, "replayed": as_json(found)}

    def _answer_twice(self, engine: Engine) -> dict[str, Any]:
        """Answer the first video's questions twice: same log-probabilities, same tokens?"""
        video, dtype = self._videos[0], self._own_dtype
        pairs = [*zip(*(engine.answer([video], len(video.prompts))[0] for _ in range(2)), strict=True)]
        nats = max(distance(first, second) for first, second in pairs)
        other = sum(first.token_ids != second.token_ids for first, second in pairs)
        found = [f"log-probabilities differ by up to {nats:.1e} nats"] if nats else []
        found += [f"{other} of {len(pairs)} replies differ in their tokens"] if other else []
        flag = "with --deterministic" if self._is_deterministic else "without --deterministic"
        more = "; try it with --deterministic" if found and not self._is_deterministic else ""
        print(f"the same questions twice, {flag}: {', '.join(found) or 'equal log-probabilities and tokens'}{more}")
        result = _result(nats, dtype)
        return {**result, "agrees": result["agrees"] and not other, "deterministic": self._is_deterministic}


def _result(nats: float, dtype: str) -> dict[str, Any]:
    return {"agrees": nats <= TOLERANCES[dtype].one_device, "nats": nats if math.isfinite(nats) else None}


def _listed(rows: Sequence[int]) -> str:
    """ "row 3", "rows 2, 3, 4, 5 and 26 more"; counted from 0."""
    shown = ", ".join(map(str, rows[:MOST_REPEATED]))
    more = f" and {len(rows) - MOST_REPEATED} more" if len(rows) > MOST_REPEATED else ""
    return f"row{'s' * (len(rows) > 1)} {shown}{more}"
