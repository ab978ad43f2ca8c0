"""Questions through the engine on the device, every module call again on the CPU: what departs?"""

import math
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from videobench.device.devices import is_out_of_memory
from videobench.locate.deviation import EXPLAINED, LIMIT, Deviation, deviation
from videobench.locate.findings import Departure, Findings, first_of_families
from videobench.locate.operators import (
    COPIES,
    LETTERS,
    OUTSIDE,
    PIXELS,
    POSITIONS,
    TOKENS,
    first_departing,
    watching,
)
from videobench.locate.recording import (
    DECODE,
    ENCODE,
    PREFIX,
    SUFFIX,
    VISION,
    Forward,
    Given,
    Result,
    dtype_name,
    held_states,
    on_host,
    recording,
)
from videobench.locate.replay import Compared, ReadWeight, Replay
from videobench.model.engine import Engine
from videobench.model.prompts import VideoQuestions
from videobench.video.pixels import normalise


@dataclass(frozen=True)
class Outside:
    """One thing of them."""

    name: str  # of operators.OUTSIDE
    call: str  # of recording.KINDS: the forward pass that is given it, or gave what it is computed from
    shape: tuple[int, ...]
    dtype: str
    deviation: Deviation


class OutsideCheck:
    """Of one video's questions, answered in one batch."""

    def __init__(self, engine: Engine, pixels: torch.Tensor) -> None:
        self._engine = engine
        self._pixels = pixels  # uint8 (num_frames, 3, height, width), on the host
        self._left: list[tuple[torch.Tensor, torch.Tensor]] = []  # keys and values after the last forward pass
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # its last ids (rows) and logits (rows, vocabulary)
        self._letters: list[tuple[torch.Tensor, list[list[float]]]] = []

    @contextmanager
    def watching_letters(self) -> Iterator[None]:
        """Keeps what the device makes of the first position's logits."""

        def watch(logits: torch.Tensor) -> list[list[float]]:
            found = compute(logits)
            self._letters.append((logits.cpu(), found))
            return found

        compute = self._engine.letter_logprobs
        self._engine.letter_logprobs = watch  # type: ignore[method-assign]
        try:
            yield
        finally:
            del self._engine.letter_logprobs

    def letters(self) -> Iterator[Outside]:
        """Once the batch is answered."""
        for logits, found in self._letters:
            yield _compared(LETTERS, SUFFIX, torch.tensor(found), torch.tensor(self._engine.letter_logprobs(logits)))

    def of(self, forward: Forward) -> Iterator[Outside]:
        """What this forward pass was given. In their order, since each is compared with the one before."""
        given, result = forward.events[0], forward.events[-1]
        assert isinstance(given, Given)
        assert isinstance(result, Result)
        yield from self._prepared(forward.kind, given)
        if forward.kind == VISION:
            return
        yield from self._copies(forward)
        self._left = held_states((*given.args, *given.kwargs.values()))
        yield from _positions(forward.kind, given)
        ids = given.kwargs["input_ids"][:, -1].cpu()
        if forward.kind == DECODE:
            yield from self._chosen(ids)
        self._last = ids, result.output.logits[:, -1].cpu()

    def _prepared(self, kind: str, given: Given) -> Iterator[Outside]:
        for found in (*given.args, *given.kwargs.values()):
            if isinstance(found, torch.Tensor) and found.is_floating_point() and found.dim() == 5:
                expected = normalise(self._pixels[None], self._engine.pixel_spec, torch.float32)
                yield _compared(PIXELS, kind, found, expected)

    def _copies(self, forward: Forward) -> Iterator[Outside]:
        """Keys and values that a pass begins with are those that the one before it left, or copies of them, to the last
        bit; rows of the batch that have ended may have left it meanwhile."""
        for layer, (left, begun) in enumerate(zip(self._left, forward.cache, strict=False)):
            for one, other in zip(left, begun, strict=True):
                if not _is_copy(one, other):
                    where = Deviation(math.inf, where=f"in layer {layer}")
                    yield Outside(COPIES, forward.kind, tuple(other.shape), dtype_name(other.dtype), where)
                    return

    def _chosen(self, ids: torch.Tensor) -> Iterator[Outside]:
        """A row's next token is one of its largest logits. Not where rows have left the batch meanwhile, where a row
        has ended, which is given padding from then on, and where a logit is NaN or infinite."""
        assert self._last is not None
        before, logits = self._last
        if len(before) != len(ids):
            return
        behind_an_end = torch.tensor([*self._engine.end_ids, self._engine.pad_id])
        goes_on = ~torch.isin(before, behind_an_end) & logits.isfinite().all(-1)
        is_largest = logits.gather(1, ids[:, None])[:, 0] == logits.amax(-1)
        yield _compared(TOKENS, DECODE, is_largest | ~goes_on, torch.ones_like(goes_on))


def _positions(kind: str, given: Given) -> Iterator[Outside]:
    """Of the tokens that are seen: how many seen ones stand before."""
    given_both = [given.kwargs.get(name) for name in ("position_ids", "attention_mask")]
    tensors = [each.cpu() for each in given_both if isinstance(each, torch.Tensor) and each.dim() == 2]
    if len(tensors) < 2:
        return  # the model's own code makes them, which is compared with the modules
    positions, mask = tensors
    expected = (mask.long().cumsum(-1) - 1)[:, -positions.shape[1] :]
    is_seen = mask[:, -positions.shape[1] :] != 0
    found, expected = (each.expand_as(is_seen).where(is_seen, 0) for each in (positions, expected))
    wrong = deviation(found[..., None], expected[..., None], found.dtype)  # a column, so that it says from where on
    yield Outside(POSITIONS, kind, tuple(found.shape), dtype_name(found.dtype), wrong)


def _compared(name: str, kind: str, found: torch.Tensor, expected: torch.Tensor) -> Outside:
    wrong = deviation(on_host(found), expected, found.dtype)
    return Outside(name, kind, tuple(found.shape), dtype_name(found.dtype), wrong)


def _is_copy(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Of keys or values (rows, heads, length, size of a head); also where `other` has lost rows."""
    if one.shape[0] > 1 and one.shape != other.shape:
        return True
    if one.shape[1:] != other.shape[1:]:
        return False
    return torch.allclose(one.cpu().expand(other.shape), other.cpu(), 0, 0, equal_nan=True)


# Beyond this nothing that rounding does explains it, and it is not asked.
BEYOND_DOUBT = 100 * LIMIT
LOOKED_INTO = 5  # kinds of modules whose operators are taken one by one
VISION_PARTS = ("vision_tower", "vision_resampler", "multi_modal_projector", ENCODE)

# Where one video's work stands when a forward pass of a kind begins, and how much of it that is: for the time left.
PARTS = {VISION: (0.0, 0.3), PREFIX: (0.3, 0.5), SUFFIX: (0.8, 0.15), DECODE: (0.95, 0.05)}

Progress = Callable[[str, float], None]  # where it is, and how many videos are done


@dataclass
class _Suspect:
    place: tuple[int, int]  # event, and the how-manieth number field there
    compared: Compared
    deviation: Deviation


class ModelCheck:
    """One pass, in the engine's dtype."""

    def __init__(self, engine: Engine, read_weight: ReadWeight, dtype: str, progress: Progress) -> None:
        self._engine, self._model = engine, engine.model
        self._replay = Replay(self._model, read_weight)
        self._dtype, self._progress = dtype, progress
        self._to_host = False
        self._calls: Counter[str] = Counter()  # of each module
        self._largest = 0.0
        self._departures: list[Departure] = []
        self._video = 0
        self._outside: OutsideCheck

    def run(self, videos: Sequence[VideoQuestions]) -> Findings:
        """Video by video, its questions in one batch. RuntimeError where not even one question fits the device."""
        for self._video, video in enumerate(videos):
            self._answer(video)
        self._look_into(videos)
        calls = sum(count for name, count in self._calls.items() if name != ENCODE)
        return Findings(self._dtype, calls, self._largest, tuple(self._departures))

    def _answer(self, video: VideoQuestions) -> None:
        before = self._calls.copy(), len(self._departures)
        try:
            self._record(video)
            return
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._to_host:
                raise
        # Only here, since the exception's traceback held what the failed try had kept.
        self._to_host = True
        self._calls, self._departures = before[0], self._departures[: before[1]]
        print("warning: out of memory; from here on values go to the host at once, which takes longer", file=sys.stderr)
        self._record(video)

    def _record(self, video: VideoQuestions) -> None:
        keep = _HostCopies() if self._to_host else (lambda tensor: tensor)
        self._outside = OutsideCheck(self._engine, video.pixels)
        with recording(self._model, self._compare, keep), self._outside.watching_letters():
            self._engine.answer([video], len(video.prompts))
        for each in self._outside.letters():
            self._add(each)

    def _compare(self, forward: Forward) -> None:
        """At the end of each: the device is idle, and what was kept is given back before the next begins."""
        for each in self._outside.of(forward):
            self._add(each)
        suspects: list[_Suspect] = []
        ordinals = self._count(forward)
        fields: Counter[int] = Counter()

        def compare(compared: Compared) -> None:
            place = (compared.number, fields[compared.number])
            fields[compared.number] += 1
            begin, part = PARTS[forward.kind]
            done = self._video + begin + part * compared.number / len(forward.events)
            self._progress(f"{forward.kind}, {compared.module}", done)
            found = deviation(compared.found, compared.expected, compared.dtype)
            if found.departs:
                suspects.append(_Suspect(place, compared, found))
            else:
                self._largest = max(self._largest, found.times)

        self._replay.run(forward, compare)
        for suspect in self._without_noise(forward, suspects):
            module = suspect.compared.module
            in_vision = any(part in module for part in VISION_PARTS)
            departure = Departure(
                VISION if in_vision else forward.kind,
                self._video,
                module,
                ordinals[suspect.compared.number, module],
                suspect.compared.handed_to,
                tuple(suspect.compared.found.shape),
                dtype_name(suspect.compared.dtype),
                suspect.deviation,
            )
            self._departures.append(departure)

    def _add(self, outside: Outside) -> None:
        found = outside.deviation
        if found.departs:
            departure = Departure(outside.call, self._video, outside.name, 0, None, outside.shape, outside.dtype, found)
            self._departures.append(departure)
        else:
            self._largest = max(self._largest, found.times)

    def _count(self, forward: Forward) -> dict[tuple[int, str], int]:
        """(event, module that is computing then) -> the how-manieth call of that module it is."""
        running: list[str] = []
        ordinals: dict[tuple[int, str], int] = {}
        for number, event in enumerate(forward.events):
            if running:
                ordinals[number, running[-1]] = self._calls[running[-1]] - 1
            if isinstance(event, Given):
                running.append(event.module)
                self._calls[event.module] += 1
            else:
                running.pop()
        return ordinals

    def _without_noise(self, forward: Forward, suspects: list[_Suspect]) -> list[_Suspect]:
        """Leaves out what rounding of the inputs explains: computes all once more with inputs rounded at random."""
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
        cleared = [each for each in suspects if not each.deviation.departs]
        self._largest = max([self._largest, *(each.deviation.times for each in cleared)])
        return [each for each in suspects if each.deviation.departs]

    def _look_into(self, videos: Sequence[VideoQuestions]) -> None:
        for index in first_of_families(self._departures, LOOKED_INTO):
            departure = self._departures[index]
            if departure.module in OUTSIDE:
                continue
            with watching(self._model, departure.module, departure.ordinal) as computed:
                for video in videos[: departure.video + 1]:  # its calls are counted from the first on
                    self._engine.answer([video], len(video.prompts))
            self._progress(f"operators of {departure.module}", len(videos))
            operator = first_departing(computed)
            self._departures[index] = replace(departure, operator=operator)


class _HostCopies:
    """Copies a tensor to the host, once while it lives."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[weakref.ref[torch.Tensor], weakref.ref[torch.Tensor]]] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        original, copy = self._copies.get(id(tensor), (None, None))
        found = copy() if original and copy and original() is tensor else None
        if found is None:
            found = tensor.cpu()
            self._copies[id(tensor)] = weakref.ref(tensor), weakref.ref(found)
        return found
