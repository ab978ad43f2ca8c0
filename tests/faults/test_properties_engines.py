"""Mutated files of other engines through the real script: never a traceback, never a reply more or less."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.engine_lines import MAKERS
from tests.support.fault_tools import Bench
from tests.support.mutations import changed_bytes, changed_values

EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
QUESTIONS = dict(list(json.loads((Bench.SOURCE / "Video-Bench/Eval_QA/MSVD_QA_new.json").read_bytes()).items())[:4])


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    bench = Bench(tmp_path, capsys, record_property)
    rows = {f"MSVD/{key}": row | {"dataset": "MSVD", "output_sequence": ["A"]} for key, row in QUESTIONS.items()}
    (bench.folder / "gpu.json").write_text(json.dumps(rows))
    return bench


@pytest.fixture
def statuses():
    """Of the examples some are read and some are not."""
    seen = set()
    yield seen
    assert seen == {0, 2}


def as_lines(content):
    return b"".join(json.dumps(each).encode() + b"\n" for each in json.loads(content))


def mutated_lines(kind):
    lines = [MAKERS[kind](f"MSVD/{key}", row) for key, row in QUESTIONS.items()]
    whole = json.dumps(lines).encode()
    return changed_values(lines).map(as_lines) | changed_bytes(as_lines(whole))


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("kind", MAKERS)
def test_lines(bench, statuses, kind, data):
    content = data.draw(mutated_lines(kind))
    path, report = bench.folder / "npu.json", bench.folder / "report.json"
    path.write_bytes(content)
    report.unlink(missing_ok=True)
    outcome = bench.compare("--output_json", report)
    statuses.add(outcome.status)
    if outcome.status == 2:
        assert outcome.err.splitlines()[-1].startswith("error: "), outcome
        assert not report.exists()
        return
    assert outcome.status == 0, outcome
    side, inputs = (json.loads(report.read_bytes())[name] for name in ("npu", "inputs"))
    left_out = sum(inputs["datasets_only_npu"].values()) + len(inputs["without_answer"])
    read = side["total"] - side["missing"] + left_out
    lines = sum(bool(line.strip()) for line in content.split(b"\n"))
    # A line without a key may answer none of the questions; it is then left out, which a line on stderr says.
    unknown = int(outcome.err.split(": ")[1].split(" of ")[0]) if "answer no question" in outcome.err else 0
    assert read + unknown == lines
