"""Read JSON lines of other engines into rows; the format is detected from the content.

OpenAI batch output carries a question's key as `custom_id`. AISBench's `id` depends on the order of files on the disk,
so its questions are matched by the video's file name and the exact text. Logs of lm-eval and lmms-eval have questions
of their own and are read by eval_logs.py.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from videobench.data.dataset import LETTERS
from videobench.data.rows import NONFINITE
from videobench.errors import InputError
from videobench.files import decode_json, open_regular, parse_json

MAX_LINE_BYTES = 1 << 26  # a line of AISBench may contain a video's frames: eight large ones take 40 MB

OWN, BATCH, AISBENCH, EVAL_LOG = "result file", "OpenAI batch output", "AISBench predictions", "sample log"
AISBENCH_FAILED = "AISBench's failed questions"
REQUESTS, FACTS = "OpenAI batch requests", "facts about exported requests"
# Keys that identify a line's kind: no other kind has all of them.
MARKS = {
    BATCH: {"custom_id", "response"},
    REQUESTS: {"custom_id", "body"},
    AISBENCH: {"data_abbr", "origin_prompt", "prediction"},
    AISBENCH_FAILED: {"data_abbr", "input", "error_info"},
    EVAL_LOG: {"doc_id", "doc_hash", "filtered_resps"},
    FACTS: {"custom_id", "prompt_sha256"},
}
KNOWN = (
    "a result file of this suite or of MindIE, OpenAI batch output, AISBench's predictions (videobench.jsonl) and the "
    "samples of lm-eval's or lmms-eval's --log_samples"
)
ROLES = re.compile(r"<[|\w]+>|</s>|\[/?inst\]|\b(?:user|assistant) *:", re.I)  # as a chat template writes them
SAMPLED_GAP = 0.05  # nats; engines may compute log-probabilities separately from the choice, with other rounding
SPACES = " \t\r\n\u2581\u0120\u010a"  # including the forms in tokenizer vocabularies, as in model/engine.py
Entry = tuple[str, float]  # a token's text and its log-probability
Kind = TypeVar("Kind", dict[str, Any], list[Any])


def kind_of(path: Path) -> str:
    """Detect a file's kind from its first line: a key of MARKS, otherwise OWN.

    Raises InputError if the file cannot be read, or has several lines of an unknown kind."""
    lines = _raw_lines(path)
    try:
        first = parse_json(next(lines, (0, b""))[1].decode("utf-8"))
    except ValueError:  # JSON over several lines, or invalid, which its own reader reports
        return OWN
    if not isinstance(first, dict):
        return OWN
    for kind, marks in MARKS.items():
        if marks <= first.keys():
            return kind
    if next(lines, None) is None:
        return OWN
    keys = ", ".join(repr(key)[:40] for key in list(first)[:8])
    raise InputError(f"{path}: its lines are of an unknown kind (the first has {keys}); name {KNOWN}")


def read_lines(path: Path, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place for messages, content) of all lines that are not blank.

    Raises InputError with file and line if a line is not valid JSON or not of this `kind`."""
    for number, line in _raw_lines(path):
        place = f"{path}: line {number}"
        content = decode_json(line, place)
        if not isinstance(content, dict) or not MARKS[kind] <= content.keys():
            wanted = ", ".join(sorted(MARKS[kind]))
            raise InputError(f"{place}: not {kind}, which has {wanted} in each line; get the file again")
        yield place, content


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open_regular(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{path}: line {number}: longer than {MAX_LINE_BYTES} bytes; get the file again")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def exact_name(video: str, question: str) -> tuple[str, str]:
    """Identify a question without a key: its video's file name, and its text without the chat's role markers."""
    return PurePosixPath(video.split("?")[0]).name, " ".join(ROLES.sub(" ", question).split())


def failed_file(path: Path) -> Path:
    """Path of the file next to the predictions that lists questions the service did not answer."""
    return path.with_name(f"{path.stem}_failed{path.suffix}")


def read_prediction(line: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Read a line of predictions or of failures: paths or addresses of the video, and the row, which has no key.

    ValueError, naming the field, if the line is invalid."""
    question, videos = _read_prompt(line["origin_prompt"] if "origin_prompt" in line else line["input"])
    if "prediction" not in line or line.get("success", True) is not True:
        return videos, {"question": question, "output_sequence": [""], "error": _stated(line)}
    prediction = line["prediction"]
    if not isinstance(prediction, str):
        raise ValueError(f"prediction is {prediction!r:.60}, not a text; predict again, one reply to a question")
    return videos, {"question": question, "output_sequence": [prediction]}


def _stated(line: Mapping[str, Any]) -> str:
    reason = line.get("error_info")
    return " ".join(reason.split()) if isinstance(reason, str) and reason.strip() else "no reason is given"


def _read_prompt(prompt: Any) -> tuple[str, list[str]]:
    """Return the text of all turns and the video paths they contain; inline frames have no path."""
    turns = prompt if isinstance(prompt, list) else [prompt]
    texts, videos = list[str](), list[str]()
    for turn in turns:
        content = turn.get("prompt") if isinstance(turn, Mapping) else turn
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                texts.append(part)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(part, Mapping) and isinstance(part.get("type"), str):
                videos += _paths(part.get(part["type"]))
            else:
                raise ValueError(f"its prompt holds {part!r:.60}, neither a text nor a video; predict again")
    return "\n".join(texts), videos


def _paths(value: Any) -> list[str]:
    url = value.get("url") if isinstance(value, Mapping) else value
    return [url] if isinstance(url, str) and not url.startswith("data:") else []


def read_reply(line: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the question's key and its row; ValueError, naming the field, if a field is invalid."""
    key = line["custom_id"]
    if not isinstance(key, str) or not key.strip():
        raise ValueError(f"custom_id is {key!r:.60}, not the key of a question; export the requests again")
    if reason := _failure(line):
        return key, {"output_sequence": [""], "error": reason}
    body = _require(dict, _require(dict, line["response"], "response").get("body"), "response.body")
    choices = _require(list, body.get("choices"), "choices")
    if len(choices) != 1:
        raise ValueError(f"choices holds {len(choices)} replies; ask again, for one reply to a question")
    choice = _require(dict, choices[0], "choices[0]")
    usage = _require(dict, body.get("usage") or {}, "usage")
    content = _require(dict, choice.get("message"), "message").get("content")
    if not isinstance(content, str | None):
        raise ValueError(f"message.content is {content!r:.60}, not a text; ask again")
    row = {
        "output_sequence": [content or ""],
        "finish_reason": choice.get("finish_reason"),
        "prompt_tokens": usage.get("prompt_tokens"),
        "num_output_tokens": usage.get("completion_tokens"),
        "run": {name: body[name] for name in ("model", "system_fingerprint") if isinstance(body.get(name), str)},
    }
    positions = _require(dict, choice.get("logprobs") or {}, "logprobs").get("content") or []
    return key, row | _read_logprobs([*map(_entries, _require(list, positions, "logprobs.content"))])


def _failure(line: Mapping[str, Any]) -> str:
    """Return why the request failed; "" if it has a reply."""
    response = line["response"]
    status = response.get("status_code", 200) if isinstance(response, Mapping) else None
    body = response.get("body") if isinstance(response, Mapping) else None
    is_empty = isinstance(body, Mapping) and not body.get("choices", "error" not in body)
    if line.get("error") is None and status == 200 and not is_empty:
        return ""
    text = _reason(line.get("error")) or _reason(body) or "no reason is given"
    return " ".join(f"{'' if status in (None, 200) else f'status {status}: '}{text}".split())


def _reason(found: Any) -> str:
    """Find an error's text: OpenAI's `message`, which vLLM nests one level deeper, or FastAPI's `detail`."""
    while isinstance(found, Mapping | list) and found:
        names = ("error", "message", "detail", "msg")
        found = found[0] if isinstance(found, list) else next((found[name] for name in names if found.get(name)), None)
    return found.strip() if isinstance(found, str) else ""


def _entries(position: Any) -> list[tuple[str, float | None]]:
    """List the chosen token, then the top ones; a log-probability of NaN is stored as None."""
    position = _require(dict, position, "logprobs.content")
    found = []
    for entry in (position, *_require(list, position.get("top_logprobs") or [], "top_logprobs")):
        token, logprob = _require(dict, entry, "top_logprobs").get("token"), entry.get("logprob")
        if not isinstance(token, str):
            raise ValueError(f"a token of logprobs is {token!r:.60}, not a text; ask again")
        if token.startswith("token_id:"):
            raise ValueError("the tokens of logprobs are numbers; start the service so that it returns their texts")
        if isinstance(logprob, bool) or not isinstance(logprob, int | float | None):
            raise ValueError(f"a logprob of token {token!r:.20} is {logprob!r:.60}, not a number; ask again")
        found.append((token, logprob))
    return found


def _read_logprobs(positions: Sequence[Sequence[tuple[str, float | None]]]) -> dict[str, Any]:
    """Read whether the reply is greedy, and the options' log-probabilities or bounds at its first position."""
    if any(logprob is None for entries in positions for _, logprob in entries):
        return NONFINITE
    listed = [[(token, logprob) for token, logprob in entries if logprob is not None] for entries in positions]
    with_top = [entries for entries in listed if len(entries) > 1]
    if not with_top:
        return {}
    row: dict[str, Any] = {
        "is_greedy": all(entries[0][1] >= max(value for _, value in entries) - SAMPLED_GAP for entries in with_top)
    }
    chosen, *top = listed[0]
    if len(top) > 1:  # the chosen token alone gives no bound for the others
        is_listed = any(token == chosen[0] and abs(value - chosen[1]) <= SAMPLED_GAP for token, value in top)
        found = letter_logprobs(top if is_listed else [chosen, *top])
        last = min(value for _, value in top)
        row |= {"letter_logprobs": found, "letter_bounds": {each: last for each in LETTERS if each not in found}}
    return row


def letter_logprobs(entries: Iterable[Entry]) -> dict[str, float]:
    """Map letters to the natural log of the summed probability of their spellings (`A`, ` A`) in the entries."""
    found: dict[str, list[float]] = {}
    for token, logprob in entries:
        letter = token.strip(SPACES)
        if len(letter) == 1 and letter in LETTERS:
            found.setdefault(letter, []).append(logprob)
    return {letter: _log_sum(values) for letter, values in sorted(found.items())}


def _log_sum(values: Sequence[float]) -> float:
    largest = max(values)
    return min(largest + math.log(math.fsum(math.exp(value - largest) for value in values)), max(largest, 0.0))


def _require(kind: type[Kind], value: Any, name: str) -> Kind:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r:.60}, not {'an object' if kind is dict else 'a list'}; ask again")
    return value
