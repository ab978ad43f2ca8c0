"""Mutated files through the real scripts: never a traceback, never status 0 with a wrong count.

Each example is a file as the suite or Video-Bench writes it, with bytes or values changed at random. What a script
counts is compared with what plain `json.loads` sees in the same bytes.
"""

import copy
import json
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import videobench.model.checkpoint
from tests.support.fault_tools import SET, Bench

EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,  # the same examples on every machine: a failure there is a failure here
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Values that a careless reader stumbles over, beside any that hypothesis makes up.
NASTY = [None, True, 0, -1, 1e308, 10**299, [], {}, "", " ", "A", "F"]
NASTY += ["MSVD", "MSVD/1", "../x", "a\nb", "\x1b[2J", "é🎬"]
VALUES = st.sampled_from(NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def places(content, path=()):
    """The path to every value of a JSON tree, outermost first."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def changed_values(draw, content):
    """JSON text of `content` with one to three values replaced, removed or renamed."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([*places(content)] or [("x",)]))
        holder = content
        for each in parents:
            holder = holder[each]
        action = draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "replace" or (last not in range(len(holder)) and last not in holder):
            holder[last] = draw(VALUES)
        elif action == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(st.text(max_size=8) | st.sampled_from(["MSVD/1", "NBA/1", "answer"]))] = holder.pop(last)
    return json.dumps(content).encode()


@st.composite
def changed_bytes(draw, content):
    """The bytes of `content`, cut short, with a part taken out, doubled, or bytes replaced."""
    at, length = draw(st.integers(0, len(content) - 1)), draw(st.integers(1, 40))
    part, new = content[at : at + length], draw(st.binary(min_size=1, max_size=4))
    middle = draw(st.sampled_from([b"", part * 2, new, new + part, None]))
    return content[:at] if middle is None else content[:at] + middle + content[at + length :]


def mutated(content):
    return changed_values(content) | changed_bytes(json.dumps(content).encode())


def count(content):
    """Entries as plain `json.loads` sees them: doubled keys count twice."""
    return len(json.loads(content, object_pairs_hook=list))


@pytest.fixture
def understood():
    """Whether a script has read a mutated file. If not, it has said so in one line: status 2.

    Of the examples of each test some are read and some are not."""
    seen = set()

    def was_read(outcome):
        seen.add(outcome.status)
        if outcome.status != 2:
            return True
        assert outcome.err.splitlines()[-1].startswith("error: "), outcome
        assert outcome.err.count("\n") <= 2, outcome.err
        return False

    yield was_read
    assert seen in ({0, 2}, {0, 1, 2})


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path, capsys)


def some_questions(number=6):
    rows = json.loads((Bench.SOURCE / f"Video-Bench/Eval_QA/{SET}_QA_new.json").read_bytes())
    return dict(list(rows.items())[:number])


def some_replies():
    """A result file with every field that a run writes."""
    random_ = random.Random(0)
    rows = {}
    for key, row in some_questions().items():
        logprobs = {letter: random_.uniform(-9, -1.5) for letter in row["choices"]}
        rows[key] = {name: row[name] for name in ("video_id", "vid_path", "question", "choices")} | {
            "dataset": SET, "output_sequence": ["B"], "letter_logprobs": logprobs, "num_output_tokens": 2,
            "option_mass": sum(map(math.exp, logprobs.values())), "prompt_tokens": 130, "prompt_sha256": "0" * 64,
            "pixels_sha256": "1" * 64, "frames_decoded": 10, "frames_stated": 10, "resolution": "320x240", "rank": 0,
            "run": {"device": "cpu", "dtype": "float32", "num_frames": 8, "batch_size": 8, "torch": "2.13.0"},
        }  # fmt: skip
    return rows


@EXAMPLES
@given(content=mutated(some_questions()))
def test_questions(bench, understood, content, monkeypatch):
    loaded = videobench.model.checkpoint.load_checkpoint(bench.model)
    monkeypatch.setattr("videobench.model.checkpoint.load_checkpoint", lambda path: loaded)
    bench.qa.write_bytes(content)
    outcome = bench.answer("--dry_run")
    if understood(outcome):
        assert f"{SET}: {count(content)} questions on " in outcome.out


@EXAMPLES
@given(content=mutated(some_replies()), scoring=st.sampled_from(["strict", "logprob", "mindie"]))
def test_replies(bench, understood, content, scoring):
    report = bench.folder / "report.json"
    report.unlink(missing_ok=True)
    (bench.folder / "npu.json").write_bytes(content)
    (bench.folder / "gpu.json").write_text(json.dumps(some_replies()))
    flags = ("--output_json", report, "--report_html", bench.folder / "report.html", "--scoring", scoring)
    assert understood(bench.compare(*flags)) == report.exists()
    if report.exists() and scoring != "mindie":  # which takes what both sides have alone, as the original does
        side, inputs = (json.loads(report.read_bytes())[name] for name in ("npu", "inputs"))
        left_out = sum(inputs["datasets_only_npu"].values()) + len(inputs["without_answer"])
        assert side["total"] - side["missing"] + left_out == count(content)


@settings(EXAMPLES, max_examples=40)
@given(data=st.data())
def test_manifests(bench, understood, data):
    path = bench.folder / "qa/Eval_QA/sampling_manifest.json"
    if not path.exists():
        assert bench.sample().status == 0
        path.rename(path.with_suffix(".good"))
    content = data.draw(mutated(json.loads(path.with_suffix(".good").read_bytes())))
    path.write_bytes(content)
    videos = bench.folder / "videos/Eval_video"
    outcome = bench.start("extract_dataset", "--verify", path, "--sampling_output_folder", videos)
    if understood(outcome):
        assert f"{len(json.loads(content)['videos_sha256'])} videos" in outcome.out
    path.unlink()


@settings(EXAMPLES, max_examples=15)
@given(data=st.data())
def test_journals(bench, understood, data):
    """A reply that is lost is given again, one that is damaged is named: never fewer in the result."""
    keep = bench.folder / "good.jsonl"
    if not keep.exists():
        bench.write_journal()
        keep.write_bytes(bench.journal.read_bytes())
    bench.journal.write_bytes(data.draw(changed_bytes(keep.read_bytes())))
    outcome = bench.answer("--limit", 2)
    if understood(outcome):
        assert "answered 2, failed 0" in outcome.out
        assert list(json.loads(bench.result.read_bytes())) == list(some_questions(2))
