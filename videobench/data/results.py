"""Read replies from result files and folders of this suite or of another engine."""

import glob
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videobench.commands import RUNS, Command, read_command
from videobench.console import warn_once
from videobench.data.dataset import DATASET_NAMES, REPLIES, SAMPLE_NAME, QuestionName, check_kind, folded
from videobench.data.engines import (
    AISBENCH,
    AISBENCH_FAILED,
    BATCH,
    EVAL_LOG,
    FACTS,
    KNOWN,
    OWN,
    exact_name,
    failed_file,
    kind_of,
    read_lines,
    read_prediction,
    read_reply,
)
from videobench.data.eval_logs import holds_logs, load_logs
from videobench.data.rows import Reply, build_reply
from videobench.errors import InputError
from videobench.files import read_json

RESULT_SUFFIX = "_eval.json"
OF_OUR_PROMPT = ("custom_id", "prompt_tokens", "prompt_sha256")  # a service builds and counts its own
MOST_MASS = 1.02  # sum of all options' probabilities: rounding may exceed 1 slightly, base-10 logarithms by more

Placed = tuple[str, str, Mapping[str, Any]]  # place for messages, key, row


@dataclass(frozen=True)
class Asked:
    """What is known about the questions from outside a file of replies."""

    replies: Collection[Reply] = ()  # to match replies without a key: the other side's, or those of a facts file
    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # custom_id -> row of a facts file


def load_results(
    path: Path, answers: Iterable[QuestionName], by_key: bool = False, asked: Asked | None = None
) -> dict[QuestionName, Reply]:
    """Read the replies of one result file, or of every `*_eval.json` in a folder.

    A row's data set is the one in its key (`MSVD/40810`), else its `dataset`, else its file's name (`MSVD_eval.json`),
    else the only set of `answers` that has its id. A row without a key is matched by video and exact text with `asked`.
    `by_key` is for the original scoring, which ignores data sets: replies are then named ("", key as in the file), and
    later files win. Raises InputError, naming file and row, if a row is invalid or its data set is not clear, or if two
    rows answer the same question."""
    find = _Finder(answers).find
    replies: dict[QuestionName, Reply] = {}
    places: dict[QuestionName, str] = {}
    for file in _files_of(path):
        for place, key, row in _rows_of(file, asked or Asked()):
            with _named(place):
                name = ("", key) if by_key else find(key, row, file.name)
                reply = build_reply(name, key, row)
            if name in replies and not by_key:
                raise InputError(f"{place} answers the same question as {places[name]}; remove one of them")
            replies[name], places[name] = reply, place
    _check_base(path, replies.values())
    return replies


def _check_base(path: Path, replies: Iterable[Reply]) -> None:
    """Raises InputError if the log-probabilities are not natural logarithms: if the probabilities exceed 1 in all."""
    totals = [math.fsum(map(math.exp, reply.logprobs.values())) for reply in replies if reply.logprobs]
    above = [total for total in totals if total > MOST_MASS]
    if len(above) > len(totals) / 10:
        raise InputError(
            f"{path}: the options' probabilities add up to more than 1 (to {max(above):.2f}) in {len(above)} of "
            f"{len(totals)} replies, so they are not natural logarithms; multiply those to base 10 by 2.302585, or "
            "leave the log-probabilities out"
        )


def read_replies(path: Path) -> tuple[str, list[Reply]]:
    """Return the kind of a file (or a folder's files) and all its replies, without matching them to questions."""
    if holds_logs(path):
        return EVAL_LOG, [*load_logs(path).values()]
    kind = OWN if path.is_dir() else kind_of(path)
    if kind != AISBENCH:
        return kind, [*load_results(path, []).values()]
    return kind, [build_reply(("", ""), "", row) for _, _, row in _predictions(path)]


def load_facts(path: Path) -> Asked:
    """Read the facts file that was written with exported requests; InputError if it is another file."""
    if kind_of(path) != FACTS:
        raise InputError(f"{path}: not a facts file; name the one that --export_requests wrote beside the requests")
    finder, facts, replies = _Finder([]), dict[str, Mapping[str, Any]](), list[Reply]()
    for place, row in read_lines(path, FACTS):
        key = str(row["custom_id"])
        if key in facts:
            raise InputError(f"{place}: {key} is in the file twice; export the requests again")
        with _named(place):
            replies.append(build_reply(finder.find(key, row, path.name), key, {**row, "output_sequence": [""]}))
        facts[key] = row
    return Asked(replies, facts)


def load_sides(
    paths: Sequence[Path], answers: Collection[QuestionName], by_key: bool = False, facts: Asked | None = None
) -> list[dict[QuestionName, Reply]]:
    """Read the replies of two sides. If one side has no keys, its lines are matched with the other side's or with
    `facts`; InputError if neither side has keys."""
    for path in paths:
        _check_finished(path)
    asked, loaded = facts or Asked(), dict[Path, dict[QuestionName, Reply]]()
    without_key = [path for path in paths if not path.is_dir() and kind_of(path) == AISBENCH]
    if len(without_key) == len(paths) and not asked.replies:
        raise InputError(
            f"{paths[0]} and {paths[1]}: predictions of AISBench, which name no questions; name the facts file that "
            "--export_requests writes by --requests_facts, or compare with a file that has keys"
        )
    for path in sorted(paths, key=without_key.__contains__):
        others = asked.replies or [reply for replies in loaded.values() for reply in replies.values()]
        loaded[path] = load_results(path, answers, by_key, Asked(others, asked.facts))
    return [loaded[path] for path in paths]


def kept_commands(path: Path) -> list[Command]:
    """Return the commands that made a result file, or those of a folder, if the runs stored them."""
    found = [read_command(each) for each in _in_journal(path, "command.json")]
    return [*{each.text: each for each in found if each and each.script in RUNS}.values()]


def _in_journal(path: Path, suffix: str) -> list[Path]:
    """List the files `<data set>.<suffix>` that belong to a result file, or to all of a folder."""
    folder, name = (path, "*") if path.is_dir() else (path.parent, glob.escape(path.name.removesuffix(RESULT_SUFFIX)))
    return sorted((folder / "journal").glob(f"{name}.{suffix}"))


def _check_finished(path: Path) -> None:
    """Raises InputError, with the command to go on, for the folder or file of a run that was stopped."""
    has_results = any(path.glob(f"*{RESULT_SUFFIX}")) if path.is_dir() else path.exists()
    if not has_results and _in_journal(path, "rank*.jsonl"):
        commands = kept_commands(path)
        again = "start it again" if commands else "start it again with the command that began it"
        if hosts := ", ".join({each.host: "" for each in commands if not each.is_local}):
            again += f" on {hosts}, in the suite's folder there, and copy its folder here"
        found = "this run is not finished, and has no result file yet"
        raise InputError(f"{path}: {found}; {again}", [each.text for each in commands])


def _files_of(path: Path) -> list[Path]:
    _check_finished(path)
    if not path.is_dir():
        return [path]
    files = sorted(path / name for name in os.listdir(path) if name.endswith(RESULT_SUFFIX))
    if not files:
        raise InputError(
            f"{path}: no result file (<data set>{RESULT_SUFFIX}) in this folder; name the run's output folder"
        )
    return files


def _rows_of(file: Path, asked: Asked) -> Iterator[Placed]:
    """Yield all rows of a file of any kind."""
    kind = kind_of(file)
    if kind == OWN:
        yield from _own_rows(file)
    elif kind == BATCH:
        yield from _batch_rows(file, asked.facts)
    elif kind == AISBENCH:
        yield from _joined(file, asked.replies)
    elif kind == EVAL_LOG:
        raise InputError(f"{file}: a log of lm-eval or lmms-eval; it can only be compared with another such log")
    elif kind == AISBENCH_FAILED:
        raise InputError(f"{file}: holds only {kind}; name the predictions beside it, with which it is read")
    else:
        raise InputError(f"{file}: holds what was asked ({kind}), not replies; name the service's output")


def _own_rows(file: Path) -> Iterator[Placed]:
    rows = read_json(file)
    check_kind(file, rows, REPLIES)
    if not isinstance(rows, dict) or not rows:
        raise InputError(f"{file}: not a result file (question -> reply), or empty; name {KNOWN}")
    for key, row in rows.items():
        if not isinstance(row, dict):
            raise InputError(f"{file}: row {key!r} is no object; name {KNOWN}")
        yield f"{file}: row {key!r}", key, row


def _batch_rows(file: Path, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Placed]:
    """Yield rows completed with `facts` about the request, except prompt tokens: the service counts its own."""
    for place, line in read_lines(file, BATCH):
        with _named(place):
            key, row = read_reply(line)
        asked = {name: value for name, value in facts.get(key, {}).items() if name not in OF_OUR_PROMPT}
        run = {**asked.get("run", {}), **row.get("run", {})}
        expected = {"expected_prompt_tokens": facts[key].get("prompt_tokens")} if key in facts else {}
        yield place, key, {**asked, **expected, **row, "run": run}


def _predictions(file: Path) -> Iterator[tuple[str, list[str], dict[str, Any]]]:
    """Yield place, candidate paths of the video, and row of all AISBench's lines: predictions, then failures."""
    failed = failed_file(file)
    for part, kind in ((file, AISBENCH), *([(failed, AISBENCH_FAILED)] if failed.exists() else [])):
        for place, line in read_lines(part, kind):
            with _named(place):
                videos, row = read_prediction(line)
            yield place, videos, row


def _joined(file: Path, asked: Iterable[Reply]) -> Iterator[Placed]:
    """Match predictions to the questions `asked` by video and text; equal questions on one video in their order. Skips
    lines that match none."""
    waiting: dict[tuple[str, str], list[Reply]] = {}
    for reply in asked:
        waiting.setdefault(exact_name(reply.vid_path, reply.question), []).append(reply)
    count = unknown = 0
    for place, videos, row in _predictions(file):
        count += 1
        names = [exact_name(video, row["question"]) for video in videos]
        found = next((waiting[each] for each in names if each in waiting), None)
        if found is None:
            unknown += 1
            continue
        reply = found.pop(0) if len(found) > 1 else found[0]
        yield (
            place,
            reply.key,
            {**row, "dataset": reply.dataset, "vid_path": reply.vid_path, "question": reply.question},
        )
    if count and unknown == count:
        raise InputError(
            f"{file}: none of its {count} lines has a question of the other side, word for word and with its video; "
            "name files of one sample"
        )
    if unknown:
        warn_once(f"{file}: {unknown} of {count} lines answer no question of the other side; they are left out")


@contextmanager
def _named(place: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None


class _Finder:
    """Finds out which question a row answers."""

    def __init__(self, answers: Iterable[QuestionName]) -> None:
        answers = list(answers)
        self.sets = {folded(name): name for name in (*DATASET_NAMES, *(dataset for dataset, _ in answers))}
        self.sets_of_id: dict[str, list[str]] = {}
        for dataset, id in answers:
            self.sets_of_id.setdefault(id, []).append(dataset)

    def find(self, key: str, row: Mapping[str, Any], file_name: str) -> QuestionName:
        head, slash, tail = key.partition("/")
        named = row.get("dataset")
        if not isinstance(named, str) or not named.strip() or folded(named) == folded(SAMPLE_NAME):
            named = ""
        if slash and folded(head) in self.sets:
            if named and folded(named) != folded(head):
                raise ValueError(f"its key names {head}, its dataset is {named!r:.60}; fix the one that is wrong")
            return self.sets[folded(head)], tail
        if named:
            return self.sets.get(folded(named), named), key
        stem = file_name.removesuffix(RESULT_SUFFIX)
        if file_name.endswith(RESULT_SUFFIX) and folded(stem) in self.sets:
            return self.sets[folded(stem)], key
        candidates = self.sets_of_id.get(key, [""])
        if len(candidates) > 1:
            raise ValueError(
                f"the id is ambiguous: {len(candidates)} data sets have it ({', '.join(candidates)}); "
                f"call the file <data set>{RESULT_SUFFIX}, or write the keys as <data set>/<id>"
            )
        return candidates[0], key
