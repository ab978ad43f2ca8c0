"""Sample logs of lm-eval and lmms-eval (--log_samples) -> replies, each scored by the log's own metric.

A document is identified by its task, taken from the file name, and its `doc_id`. `results_<date>.json` next to a log
says how the task was run, how many documents it had and what the tool's own table shows: a metric is used only if the
table's value equals the mean of the lines.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videobench.data.dataset import ALPHABET, QuestionName
from videobench.data.engines import EVAL_LOG, kind_of, read_lines
from videobench.data.rows import Logged, Reply, build_reply
from videobench.errors import InputError
from videobench.files import read_json

# File names of lm-eval and lmms-eval: the log, and the results next to it.
NAMES = (
    (re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl"), "results_{}.json"),
    (re.compile(r"(?P<date>\d{8}_\d{6})_samples_(?P<task>.+)\.jsonl"), "{}_results.json"),
)
NO_METRICS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "input", "token_counts"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
TOOLS = {"lm-eval": "lm_eval_version", "lmms-eval": "lmms_eval_version"}  # tool -> key of its version
OF_RIGHT = re.compile(r"(.+_)?(acc|accuracy|exact_match)(_norm)?")  # metrics for which 1 means right
# Model arguments that are stored as separate settings.
OWN_ROWS = {"pretrained", "model", "dtype", "device", "batch_size", "max_batch_size"}
SAME_MEAN = 1e-6  # largest difference between the table's value and the mean of the lines, both 0 to 1


@dataclass(frozen=True)
class _Line:
    """One document under one filter."""

    place: str  # for messages
    id: str
    row: Mapping[str, Any]  # what a row of this suite would hold: question, hash of the prompt, reply, cluster
    generation: str  # the settings of a generated reply
    doc_hash: str
    target: str
    options: Sequence[str]
    values: Sequence[float]  # the options' log-likelihoods; empty if the reply is a text
    metrics: Mapping[str, Any]

    @property
    def is_finite(self) -> bool:
        return not self.row["nonfinite"]


def holds_logs(path: Path) -> bool:
    return bool(logs_in(path)) if path.is_dir() else path.exists() and kind_of(path) == EVAL_LOG


def load_logs(path: Path, filter_name: str = "", cluster_by: str = "") -> dict[QuestionName, Reply]:
    """Read the replies of one log, or of all logs in a folder; each task counts as a data set.

    `filter_name` selects among a task's filters; by default the first in the file is used. `cluster_by` is a field of
    the documents: those with equal values share a video, an image or a passage. Raises InputError, naming the file, if
    it is damaged or shorter than its results say, if a folder has two logs of one task, or if no metric marks every
    document as right or wrong."""
    files: dict[str, Path] = {}
    for file in logs_in(path) if path.is_dir() else [path]:
        task, _ = _names(file)
        if task in files:
            raise InputError(f"{files[task]} and {file} are logs of one task; name one of them, or move one away")
        files[task] = file
    return {name: reply for file in files.values() for name, reply in _load_task(file, filter_name, cluster_by)}


def logs_in(folder: Path) -> list[Path]:
    """List the logs in a folder, or in its subfolders: lm-eval creates one per model."""
    return sorted(folder.glob("*samples_*.jsonl")) or sorted(folder.glob("*/*samples_*.jsonl"))


def _names(file: Path) -> tuple[str, Path]:
    """Return a log's task, and where its results would be."""
    for pattern, results in NAMES:
        if found := pattern.fullmatch(file.name):
            return found["task"], file.with_name(results.format(found["date"]))
    raise InputError(
        f"{file}: its name does not say the task; call it samples_<task>_<date>.jsonl or <date>_samples_<task>.jsonl, "
        "as lm-eval and lmms-eval do"
    )


def _load_task(file: Path, filter_name: str, cluster_by: str) -> Iterator[tuple[QuestionName, Reply]]:
    results = _Results(file)
    task = results.task
    name, lines = _read_lines(file, filter_name, cluster_by)
    results.check_count(len(lines))
    metric = _choose_metric(lines, results, name)
    if all(len(each.values) < 2 for each in lines):  # one continuation per document: not multiple choice
        lines = [replace(each, values=()) for each in lines]
    # lmms-eval may hash nothing, so that all lines have the same hash; with a single line this cannot be told.
    has_hashes = len({each.doc_hash for each in lines}) > 1
    run = results.settings() | {"filter": f"{task} {name}", "metric": f"{task} {metric}"}
    if generation := lines[0].generation:
        run["generation"] = f"{task} {generation}"
    for line, right in zip(lines, _right_options(lines, metric), strict=True):
        logged = Logged(
            is_right=bool(line.metrics[metric]),
            right=right,
            doc_sha256=line.doc_hash if has_hashes else "",
            target_sha256=_sha256(line.target),
        )
        reply = build_reply((task, line.id), f"{task}/{line.id}", {**line.row, "run": run})
        options, logprobs = _options(line)
        yield (task, line.id), replace(reply, logged=logged, options=options, logprobs=logprobs)


def _read_lines(file: Path, filter_name: str, cluster_by: str) -> tuple[str, list[_Line]]:
    """Return a filter's name and its lines: those of `filter_name` if the log has several filters, else the first's."""
    by_filter: dict[str, dict[str, _Line]] = {}
    for place, content in read_lines(file, EVAL_LOG):
        try:
            line = _read_line(place, content, cluster_by)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        own = by_filter.setdefault(str(content.get("filter", "none")), {})
        if line.id in own:
            raise InputError(f"{place}: the same document as {own[line.id].place}; remove one of them")
        own[line.id] = line
    if not by_filter:
        raise InputError(f"{file}: holds no line; get the file again")
    name = filter_name if filter_name and len(by_filter) > 1 else next(iter(by_filter))
    if name not in by_filter:
        raise InputError(f"{file}: has no filter {name!r}; --filter takes one of {', '.join(by_filter)}")
    return name, [*by_filter[name].values()]


def _options(line: _Line) -> tuple[dict[str, str], dict[str, float]]:
    """Map letters to option texts, and to log-probabilities normalised over the options."""
    if not line.values or not line.is_finite or len(line.values) > len(ALPHABET):
        return {}, {}
    largest = max(line.values)
    total = largest + math.log(math.fsum(math.exp(each - largest) for each in line.values))
    logprobs = [each - total for each in line.values]
    return dict(zip(ALPHABET, line.options, strict=False)), dict(zip(ALPHABET, logprobs, strict=False))


def _read_line(place: str, content: Mapping[str, Any], cluster_by: str) -> _Line:
    """Parse one line of a log. ValueError, naming the field, if a field is invalid."""
    requests = _requests(content.get("arguments"))
    prompt = requests[0][0] if requests else content.get("input")
    if not isinstance(prompt, str):
        raise ValueError(f"it holds no prompt (`arguments` or `input`, which is {prompt!r:.60}); get the file again")
    prompts = dict.fromkeys(str(each[0]) for each in requests) or [prompt]  # options may have different ones
    settings = requests[0][1] if requests and len(requests[0]) > 1 else None
    values, options, text = _read_reply(content["filtered_resps"], requests)
    row = {
        "question": prompt,
        "prompt_sha256": _sha256("\0".join(prompts)),
        "video_id": _cluster(content.get("doc") or _fields(content), cluster_by) if cluster_by else "",
        "output_sequence": [text],
        "nonfinite": None if all(map(math.isfinite, values)) else True,
    }
    names = content.get("metrics")
    if not isinstance(names, list):
        names = [name for name in content if name not in NO_METRICS]
    return _Line(
        place=place,
        id=str(content["doc_id"]),
        row=row,
        generation=json.dumps(settings, sort_keys=True) if isinstance(settings, Mapping) else "",
        doc_hash="" if " at 0x" in str(content.get("doc")) else str(content["doc_hash"]),  # hashed with an address
        target=_as_text(content.get("target")),
        options=options,
        values=values,
        metrics={name: _score(content.get(name)) for name in names if isinstance(name, str)},
    )


def _score(metric: Any) -> Any:
    """Take the `score` of an object, as video tasks of lmms-eval write it beside the predicted and the right answer."""
    return metric.get("score", metric) if isinstance(metric, Mapping) else metric


def _fields(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a line without document, and those of its metrics that are objects, such as `videoID`."""
    objects = [each for each in content.values() if isinstance(each, Mapping)]
    return {name: value for each in (*objects, content) for name, value in each.items()}


def _requests(arguments: Any) -> list[list[Any]]:
    """List the requests, one per option: prompt and continuation, or prompt and settings. Leaves out pictures, which
    the log shows only as memory addresses."""
    listed = [*arguments.values()] if isinstance(arguments, Mapping) else arguments
    if not isinstance(listed, list):
        return []
    given = [[*each.values()] if isinstance(each, Mapping) else each for each in listed]
    return [each[:2] for each in given if isinstance(each, list) and each]


def _read_reply(reply: Any, requests: Sequence[Sequence[Any]]) -> tuple[list[float], list[str], str]:
    """Return the options' log-likelihoods and texts, and the reply's text: the best option's, or what was generated."""
    if isinstance(reply, list) and reply and all(isinstance(each, list) and len(each) == 2 for each in reply):
        values = [_number(each[0]) for each in reply]
        texts = [str(each[1]).strip() or "(empty)" for each in requests if len(each) == 2]
        options = texts if len(texts) == len(values) else [*map(str, range(len(values)))]
        # With a single continuation, whether the model would have generated it.
        return values, options, options[_best(values)] if len(values) > 1 else str(reply[0][1])
    while isinstance(reply, list) and len(reply) == 1:  # by version and filter
        reply = reply[0]
    return [], [], _as_text(reply)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"a log-likelihood is {value!r:.60}, not a number; get the file again") from None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cluster(doc: Any, field: str) -> str:
    """Read the cluster field from the document, or from the line if it has no document, as in lmms-eval."""
    if not isinstance(doc, Mapping) or doc.get(field) in (None, ""):
        names = ", ".join(map(str, doc)) if isinstance(doc, Mapping) else "no document"
        raise ValueError(f"its document has no field {field!r}; --cluster_by takes one of: {names:.200}")
    return _as_text(doc[field])


def _best(values: Sequence[float]) -> int:
    """Index of the largest value; the first one if several are equal, as in the tools."""
    return max(range(len(values)), key=values.__getitem__)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _choose_metric(lines: Sequence[_Line], results: "_Results", filter_name: str) -> str:
    """Return the first metric whose values are all 0 or 1, with 1 for right, and whose mean is in the tool's table."""
    reasons = []
    for name in lines[0].metrics:
        reason = _why_unfit(name, lines, results, filter_name)
        if not reason:
            return name
        reasons.append(reason)
    raise InputError(
        f"{results.log}: no metric says for each document whether its reply is right: "
        f"{'; '.join(reasons) or 'it has none'}; compare a task that has one, such as acc or exact_match"
    )


def _why_unfit(metric: str, lines: Sequence[_Line], results: "_Results", filter_name: str) -> str:
    """Say why a metric does not tell right from wrong; "" if it does."""
    values = [each.metrics.get(metric) for each in lines]
    strange = next((each for each in lines if each.metrics.get(metric) not in (0, 1)), None)
    if strange:
        return f"{metric} is {_as_text(strange.metrics.get(metric)):.40} in document {strange.id}, not 0 or 1"
    is_better = results.is_better_if_higher(metric)
    if is_better is None:
        return f"nothing says that {metric} is 1 for a right reply"
    if not is_better:
        return f"a lower {metric} is better"
    stated = results.value(metric, filter_name)
    if stated is None:
        return f"{metric} is not in the tool's table" if results.has_table else ""
    return (
        "" if _is_mean(stated, values) else f"{metric} is {stated:.6g} in the tool's table, not the mean of the lines"
    )


def _is_mean(stated: float, values: Sequence[Any]) -> bool:
    mean = math.fsum(values) / len(values)
    return any(abs(each - mean) <= SAME_MEAN for each in (stated, stated / 100))


def _right_options(lines: Sequence[_Line], metric: str) -> list[str]:
    """Return the right option's letter per line, or the right text for generated replies. All empty if the metric
    cannot be derived from them: one normalised by length (acc_norm) may disagree with the log-likelihoods."""
    if not any(each.values for each in lines):
        return [each.target for each in lines]
    for read in (_by_number, _by_text):
        found = [read(each) for each in lines]
        pairs = [(each, right) for each, right in zip(lines, found, strict=True) if each.is_finite]
        if all(right >= 0 and (right == _best(each.values)) == bool(each.metrics[metric]) for each, right in pairs):
            return [ALPHABET[each] if 0 <= each < len(ALPHABET) else "" for each in found]
    return [""] * len(lines)


def _by_number(line: _Line) -> int:
    return int(line.target) if line.target.isdecimal() and int(line.target) < len(line.values) else -1


def _by_text(line: _Line) -> int:
    return [*line.options].index(line.target.strip()) if line.target.strip() in line.options else -1


class _Results:
    """The tool's own results next to a log, if there are any."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.task, self._path = _names(log)
        content = read_json(self._path) if self._path.exists() else {}
        self._content = content if isinstance(content, Mapping) else {}

    def _get(self, *names: str) -> Any:
        value: Any = self._content
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def check_count(self, lines: int) -> None:
        expected = self._get("n-samples", self.task, "effective")
        if isinstance(expected, int) and expected != lines:
            found = f"has {lines:,} documents, of {expected:,} in {self._path.name}"
            raise InputError(f"{self.log}: {found}; was it cut short? copy it again")

    def value(self, metric: str, filter_name: str) -> float | None:
        value = self._get("results", self.task, f"{metric},{filter_name}")
        return float(value) if isinstance(value, int | float) else None

    @property
    def has_table(self) -> bool:
        return self._get("results", self.task) is not None

    def is_better_if_higher(self, metric: str) -> bool | None:
        """Whether higher is better; None if neither the results nor the metric's name tells."""
        stated = self._get("higher_is_better", self.task, metric)
        return stated if isinstance(stated, bool) else True if OF_RIGHT.fullmatch(metric) else None

    def settings(self) -> dict[str, Any]:
        """Return the tool's settings in the form in which this suite stores its own."""
        if not self._content:
            return {}
        arguments = _model_arguments(self._get("config", "model_args"))
        dtype = str(self._get("config", "model_dtype") or arguments.get("dtype"))
        device, limit = self._get("config", "device"), self._get("config", "limit")
        model = self._get("model_name")
        tools = (f"{name} {version}" for name, key in TOOLS.items() if (version := self._get(key)))
        found = {
            "device": device.split(":")[0] if isinstance(device, str) else None,
            "dtype": None if dtype in ("None", "auto") else dtype.removeprefix("torch."),
            "checkpoint": _model_name(model) if isinstance(model, str) else None,
            "model_args": json.dumps({k: v for k, v in arguments.items() if k not in OWN_ROWS}, sort_keys=True),
            "task_version": f"{self.task} {self._get('versions', self.task)}",
            "num_fewshot": f"{self.task} {self._get('n-shot', self.task)}",
            "limit": f"{limit:g}" if isinstance(limit, int | float) else "none",
            "chat_template": str(self._get("chat_template_sha") or "none"),
            "batch_size": str(self._get("config", "batch_size")),
            "tool": next(tools, "").removesuffix(" unknown@unknown") or None,
            "transformers": self._get("transformers_version"),
        }
        return {name: value for name, value in found.items() if value is not None}


def _model_name(path: str) -> str:
    """Last part of the path, or the hub's model name if it is in the hub's cache."""
    parts = path.rstrip("/").split("/")
    cached = next((each for each in parts if each.startswith("models--")), parts[-1])
    return cached.rsplit("--", 1)[-1]


def _model_arguments(arguments: Any) -> Mapping[str, Any]:
    """Parse model_args: an object in lm-eval, "name=value,..." in lmms-eval."""
    if isinstance(arguments, str):
        return dict(each.split("=", 1) for each in arguments.split(",") if "=" in each)
    return arguments if isinstance(arguments, Mapping) else {}
