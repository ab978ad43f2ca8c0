"""Lines of AISBench's predictions, videobench.jsonl and videobench_failed.jsonl -> replies without a key.

Their `id` is a row of files in the order of the disk, which is another one on another machine: the question is found by
its text and its video (joining.py). Log-probabilities are not stored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videobench.data.joining import Unnamed

FAILED_SUFFIX = "_failed"


def failed_file(path: Path) -> Path:
    """Beside the predictions: the questions that the service did not answer."""
    return path.with_name(f"{path.stem}{FAILED_SUFFIX}{path.suffix}")


def read_prediction(line: Mapping[str, Any]) -> Unnamed:
    """ValueError, naming the field, where one cannot be what it should be."""
    text, videos = _read_prompt(line["origin_prompt"])
    if line.get("success", True) is not True:
        return Unnamed(text, videos, {"question": text, "output_sequence": [""], "error": _reason(line)})
    prediction = line["prediction"]
    if not isinstance(prediction, str):
        raise ValueError(f"prediction is {prediction!r:.60}, not a text; predict again, one reply to a question")
    return Unnamed(text, videos, {"question": text, "output_sequence": [prediction]})


def read_failure(line: Mapping[str, Any]) -> Unnamed:
    text, videos = _read_prompt(line["input"])
    return Unnamed(text, videos, {"question": text, "output_sequence": [""], "error": _reason(line)})


def _reason(line: Mapping[str, Any]) -> str:
    reason = line.get("error_info")
    return " ".join(reason.split()) if isinstance(reason, str) and reason.strip() else "no reason is given"


def _read_prompt(prompt: Any) -> tuple[str, list[str]]:
    """The texts of all turns, and the videos that they name by a path; frames within a line name none."""
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
