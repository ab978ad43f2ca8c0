"""Mutated files through the real scripts: never a traceback, never status 0 with a wrong count.

Each example is a file as the suite or Video-Bench writes it, with bytes or values changed at random. What a script
counts is compared with what plain `json.loads` sees in the same bytes.
"""

import json
import math
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import videobench.model.checkpoint
from tests.support.engine_lines import MAKERS, asked_text
from tests.support.fault_tools import SET, Bench
from tests.support.mutations import Pairs, changed_bytes, changed_values, mutated, plain

EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,  # the same examples on every machine: a failure there is a failure here
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEWER = settings(EXAMPLES, max_examples=40)


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


def some_answers():
    answers = json.loads((Bench.SOURCE / "Video-Bench/ANSWER.json").read_bytes())
    return {SET: {key: answers[SET][key] for key in some_questions()}}


def some_replies():
    """A result file with every field that a run writes."""
    random_ = random.Random(0)
    rows = {}
    for key, row in some_questions().items():
        logprobs = {letter: random_.uniform(-9, -1.5) for letter in row["choices"]}
        rows[key] = {name: row[name] for name in ("video_id", "vid_path", "question", "choices")} | {
            "dataset": SET,
            "output_sequence": ["B"],
            "letter_logprobs": logprobs,
            "option_mass": sum(map(math.exp, logprobs.values())),
            "num_output_tokens": 2,
            "prompt_tokens": 130,
            "prompt_sha256": "0" * 64,
            "pixels_sha256": "1" * 64,
            "frames_decoded": 10,
            "frames_stated": 10,
            "resolution": "320x240",
            "rank": 0,
            "run": {"device": "cpu", "dtype": "float32", "num_frames": 8, "batch_size": 8, "torch": "2.13.0"},
        }
    return rows


@EXAMPLES
@given(content=mutated(some_questions()))
def test_questions(bench, understood, content, monkeypatch):
    loaded = videobench.model.checkpoint.load_checkpoint(bench.model)
    monkeypatch.setattr("videobench.model.checkpoint.load_checkpoint", lambda path: loaded)
    bench.qa.write_bytes(content)
    outcome = bench.answer("--dry_run")
    if understood(outcome):
        assert f"{SET}: {len(plain(content))} questions on " in outcome.out


@EXAMPLES
@given(content=mutated(some_answers()))
def test_answers_of_a_sample(bench, understood, content):
    (bench.folder / "qa/ANSWER.json").write_bytes(content)
    if understood(bench.sample("--nums", 3)):
        drawn = json.loads((bench.folder / "qa/Eval_QA/sampling_answer.json").read_bytes())
        given_answers = {}
        for _, entries in [pair for pair in plain(content) if pair[0] == SET]:
            for key, entry in entries:
                given_answers[key.removeprefix(f"{SET}/")] = (
                    dict(entry)["answer"] if isinstance(entry, Pairs) else entry
                )
        assert len(drawn[SET]) == 3
        for key, entry in drawn[SET].items():
            assert entry["answer"] == given_answers[key.removeprefix(f"{SET}/")].strip()


def compare(bench, understood, npu, answers, *flags):
    """The report; None where a file was not read."""
    report = bench.folder / "report.json"
    report.unlink(missing_ok=True)
    (bench.folder / "npu.json").write_bytes(npu)
    (bench.folder / "gpu.json").write_text(json.dumps(some_replies()))
    (bench.folder / "qa/ANSWER.json").write_bytes(answers)
    outcome = bench.compare("--output_json", report, "--report_html", bench.folder / "report.html", *flags)
    assert understood(outcome) == report.exists()
    return json.loads(report.read_bytes()) if report.exists() else None


@EXAMPLES
@given(content=mutated(some_replies()), scoring=st.sampled_from(["strict", "logprob", "mindie"]))
def test_replies(bench, understood, content, scoring):
    report = compare(bench, understood, content, json.dumps(some_answers()).encode(), "--scoring", scoring)
    if report:
        side, inputs = report["npu"], report["inputs"]
        left_out = sum(inputs["datasets_only_npu"].values()) + len(inputs["without_answer"])
        assert side["total"] - side["missing"] + left_out == len(plain(content))


@FEWER
@given(content=mutated(some_answers()))
def test_answers_of_a_comparison(bench, understood, content):
    report = compare(bench, understood, json.dumps(some_replies()).encode(), content)
    if report:
        assert report["npu"]["total"] + len(report["inputs"]["without_answer"]) == len(some_replies())


@FEWER
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
        count = len(dict(plain(content))["videos_sha256"])
        assert f"{count} videos" in outcome.out
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


def as_lines(content):
    return b"".join(json.dumps(each).encode() + b"\n" for each in json.loads(content))


@settings(EXAMPLES, max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("kind", MAKERS)
def test_lines_of_other_engines(bench, understood, kind, data):
    lines = [MAKERS[kind](f"{SET}/{key}", row) for key, row in some_questions(4).items()]
    content = data.draw(changed_values(lines).map(as_lines) | changed_bytes(as_lines(json.dumps(lines))))
    report = bench.folder / "report.json"
    report.unlink(missing_ok=True)
    (bench.folder / "npu.json").write_bytes(content)
    reply = {"output_sequence": ["A"]}
    asked = {f"{SET}/{key}": row | reply | {"question": asked_text(row)} for key, row in some_questions(4).items()}
    (bench.folder / "gpu.json").write_text(json.dumps(asked))
    outcome = bench.compare("--output_json", report)
    assert understood(outcome) == report.exists()
    if report.exists():
        side, inputs = (json.loads(report.read_bytes())[name] for name in ("npu", "inputs"))
        left_out = sum(inputs["datasets_only_npu"].values()) + len(inputs["without_answer"])
        # A line without a key may answer none of the questions; it is then left out, which a line on stderr says.
        unknown = int(outcome.err.split(": ")[1].split(" of ")[0]) if "answer no question" in outcome.err else 0
        assert side["total"] - side["missing"] + left_out + unknown == sum(
            map(bool, map(bytes.strip, content.split(b"\n")))
        )
