"""Lines of lmms-eval's --log_samples -> replies without a key.

`doc_id` counts the rows of the task's own data set, so that the question is found by its text, and by its video where
the line names one (joining.py): the task's `process_results` may add it to what it returns. No log-probabilities are
stored of tasks that generate.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from videobench.data.joining import Unnamed

NOT_VIDEOS = ("input", "resps", "filtered_resps", "target")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif")


def read_sample(line: Mapping[str, Any]) -> Unnamed:
    """ValueError, naming the field, where one cannot be what it should be."""
    asked = line.get("input")
    if not isinstance(asked, str):
        raise ValueError(f"input is {asked!r:.60}, not a text; evaluate with --log_samples again")
    reply = _only(line["filtered_resps"])  # what lmms-eval scores; `resps` is what the task's filters made it of
    if not isinstance(reply, str):
        raise ValueError(
            f"filtered_resps is {reply!r:.60}, not a text; a task with output_type generate_until gives one"
        )
    videos = [text for name, value in line.items() if name not in NOT_VIDEOS for text in _texts(value)]
    videos = [each for each in videos if each.lower().endswith(VIDEO_SUFFIXES)]
    return Unnamed(asked, videos, {"question": asked, "output_sequence": [reply]})


def _only(value: Any) -> Any:
    """What lists of one hold: lmms-eval wraps replies in them, by version and by filter."""
    while isinstance(value, list) and len(value) == 1:
        [value] = value
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)
