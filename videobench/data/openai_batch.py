"""Lines of OpenAI batch output, as `vllm run-batch` and others write them -> rows.

The key of a question travels as `custom_id`. Option log-probabilities are those of the first token's top entries that
read as a letter; an option that is not among them is known to be at most as probable as the last of them: its bound.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from videobench.data.dataset import LETTERS

SAMPLED_GAP = 0.05  # nats; an engine that computes its log-probabilities apart from its choice rounds otherwise
SPACES = " \t\r\n\u2581\u0120\u010a"  # also as tokenizers write them: the letter is read as in model/engine.py
Entry = tuple[str, float]  # a token's text and its log-probability


def read_reply(line: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The question's key and its row; ValueError, naming the field, where one cannot be what it should be."""
    key = line["custom_id"]
    if not isinstance(key, str) or not key.strip():
        raise ValueError(f"custom_id is {key!r:.60}, not the key of a question; export the requests again")
    if reason := _failure(line):
        return key, {"output_sequence": [""], "error": reason}
    body = _object(_object(line["response"], "response").get("body"), "response.body")
    choice = _object(_list(body.get("choices"), "choices", 1)[0], "choices[0]")
    usage = _object(body.get("usage") or {}, "usage")
    content = _object(choice.get("message"), "message").get("content")
    if not isinstance(content, str | None):
        raise ValueError(f"message.content is {content!r:.60}, not a text; ask again")
    row = {
        "output_sequence": [content or ""],
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "num_output_tokens": usage.get("completion_tokens"),
        "run": {name: body[name] for name in ("model", "system_fingerprint") if isinstance(body.get(name), str)},
    }
    positions = _object(choice.get("logprobs") or {}, "logprobs").get("content") or []
    return key, row | _read_logprobs([_entries(each) for each in _list(positions, "logprobs.content")])


def _failure(line: Mapping[str, Any]) -> str:
    """Why there is no reply; "" where there is one."""
    response = line["response"]
    status = response.get("status_code", 200) if isinstance(response, Mapping) else None
    body = response.get("body") if isinstance(response, Mapping) else None
    is_empty = isinstance(body, Mapping) and not body.get("choices", "error" not in body)
    if line.get("error") is None and status == 200 and not is_empty:
        return ""
    text = _reason(line.get("error")) or _reason(body) or "no reason is given"
    return " ".join(f"{'' if status in (None, 200) else f'status {status}: '}{text}".split())


def _reason(found: Any) -> str:
    """Of an error's text or object: OpenAI's `message`, which vLLM has one object deeper, or FastAPI's `detail`."""
    while isinstance(found, Mapping | list) and found:
        names = ("error", "message", "detail", "msg")
        found = found[0] if isinstance(found, list) else next((found[name] for name in names if found.get(name)), None)
    return found.strip() if isinstance(found, str) else ""


def _entries(position: Any) -> list[tuple[str, float | None]]:
    """The chosen token first, then the top ones; the log-probability of a NaN is None."""
    position = _object(position, "logprobs.content")
    top = _list(position.get("top_logprobs") or [], "top_logprobs")
    return [_entry(position), *map(_entry, top)]


def _entry(value: Any) -> tuple[str, float | None]:
    entry = _object(value, "top_logprobs")
    token, logprob = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str):
        raise ValueError(f"a token of logprobs is {token!r:.60}, not a text; ask again")
    if token.startswith("token_id:"):
        raise ValueError("the tokens of logprobs are numbers; start the service so that it returns their texts")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float | None):
        raise ValueError(f"a logprob of token {token!r:.20} is {logprob!r:.60}, not a number; ask again")
    return token, logprob


def _read_logprobs(positions: Sequence[Sequence[tuple[str, float | None]]]) -> dict[str, Any]:
    if any(logprob is None for entries in positions for _, logprob in entries):
        return {"nonfinite": True, "error": "the logits hold NaN or infinity"}
    listed = [[(token, logprob) for token, logprob in entries if logprob is not None] for entries in positions]
    with_top = [entries for entries in listed if len(entries) > 1]
    if not with_top:
        return {}
    row: dict[str, Any] = {
        "is_greedy": all(entries[0][1] >= max(value for _, value in entries) - SAMPLED_GAP for entries in with_top)
    }
    chosen, *top = listed[0]
    if len(top) > 1:  # the chosen one alone bounds nothing
        entries = top if any(_is_same(chosen, each) for each in top) else [chosen, *top]
        found = letter_logprobs(entries)
        last = min(value for _, value in top)
        row |= {"letter_logprobs": found, "letter_bounds": {each: last for each in LETTERS if each not in found}}
    return row


def _is_same(one: Entry, other: Entry) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) <= SAMPLED_GAP


def letter_logprobs(entries: Iterable[Entry]) -> dict[str, float]:
    """Letter -> natural log of the summed probability of its spellings (`A`, ` A`) among the entries."""
    found: dict[str, list[float]] = {}
    for token, logprob in entries:
        letter = token.strip(SPACES)
        if len(letter) == 1 and letter in LETTERS:
            found.setdefault(letter, []).append(logprob)
    return {letter: _log_sum(values) for letter, values in sorted(found.items())}


def _log_sum(values: Sequence[float]) -> float:
    largest = max(values)
    return min(largest + math.log(math.fsum(math.exp(value - largest) for value in values)), max(largest, 0.0))


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r:.60}, not an object; ask again")
    return value


def _list(value: Any, name: str, length: int | None = None) -> Sequence[Any]:
    if not isinstance(value, list) or length not in (None, len(value)):
        wanted = "a list" if length is None else f"a list of {length}"
        raise ValueError(f"{name} is {value!r:.60}, not {wanted}; ask again, for one reply to a question")
    return value
