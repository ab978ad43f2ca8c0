"""What a run computes outside of the model's modules, and the same on the host: pixels, copies of the cache, positions,
tokens that are chosen, the options' log-probabilities."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from videobench.model.engine import Engine
from videobench.model.locate.deviation import Deviation, deviation
from videobench.model.locate.look_at import COPIES, LETTERS, PIXELS, POSITIONS, TOKENS
from videobench.model.locate.recording import DECODE, SUFFIX, VISION, Forward, Given, Result, held_states
from videobench.video.pixels import normalise


@dataclass(frozen=True)
class Outside:
    """One thing of them."""

    name: str  # of look_at.OUTSIDE
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
                    yield Outside(COPIES, forward.kind, tuple(other.shape), _name(other.dtype), where)
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
    yield Outside(POSITIONS, kind, tuple(found.shape), _name(found.dtype), wrong)


def _compared(name: str, kind: str, found: torch.Tensor, expected: torch.Tensor) -> Outside:
    host = found.cpu().float() if found.is_floating_point() else found.cpu()
    return Outside(name, kind, tuple(found.shape), _name(found.dtype), deviation(host, expected, found.dtype))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_copy(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Of keys or values (rows, heads, length, size of a head); also where `other` has lost rows."""
    if one.shape[0] > 1 and one.shape != other.shape:
        return True
    if one.shape[1:] != other.shape[1:]:
        return False
    return torch.allclose(one.cpu().expand(other.shape), other.cpu(), 0, 0, equal_nan=True)
