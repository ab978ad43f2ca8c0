"""Other engines' files that are broken, cut short or of another kind, through the real script: one line, status 2."""

import json
import math

import pytest

from tests.support.engine_lines import MAKERS, aisbench_failure, batch_line, write_lines
from tests.support.fault_tools import Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    bench = Bench(tmp_path / "数据 set+@", capsys, record_property).shorten(6)
    rows = {f"MSVD/{key}": row | {"dataset": "MSVD", "output_sequence": ["A"]} for key, row in bench.rows().items()}
    (bench.folder / "gpu.json").write_text(json.dumps(rows))
    return bench


def replies(bench, kind):
    return [MAKERS[kind](f"MSVD/{key}", row) for key, row in bench.rows().items()]


def write(bench, kind):
    return write_lines(bench.folder / "npu.json", replies(bench, kind))


# What can be wrong with any file of lines: what it becomes, what is found in it.
DAMAGES = [
    pytest.param(lambda content: b"", "not JSON", id="empty"),
    pytest.param(lambda content: b"\n\n", "not JSON", id="blank-lines"),
    pytest.param(lambda content: b"<html>404</html>\n" + content, "not JSON", id="a-web-page"),
    pytest.param(lambda content: content[:-9], "line 6: not JSON: .*was the file cut short", id="cut-short"),
    pytest.param(lambda content: content.replace(b"\n", b"", 1), "not JSON", id="two-lines-in-one"),
    pytest.param(lambda content: content + b"[]\n", "line 7: not .*, which has", id="a-list-behind"),
    pytest.param(lambda content: content + b'{"a": 1}\n', "line 7: not .*, which has", id="another-line-behind"),
    pytest.param(lambda content: content + b'{"a": NaN}\n', "line 7: the number NaN is not JSON", id="NaN"),
    pytest.param(lambda content: content + b'{"a": 1, "a": 2}\n', "line 7: the key 'a' occurs twice", id="doubled-key"),
    pytest.param(lambda content: content + b'{"\xe9": 1}\n', "line 7: not UTF-8 at byte 2", id="Latin-1"),
    pytest.param(lambda content: content + b'{"a":' * 999, "line 7: nested too deeply", id="nested"),
    pytest.param(lambda content: b'{"a": 1}\n' + content, "an unknown kind .the first has 'a'.; known", id="unknown"),
    pytest.param(lambda content: content + content, "answers the same question as", id="twice"),
]  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(("damage", "found"), DAMAGES)
def test_a_broken_file_of_lines_is_refused(bench, kind, damage, found):
    path = write(bench, kind)
    path.write_bytes(damage(path.read_bytes()))
    before = bench.contents()
    assert_refused(bench.compare(), path, found)
    assert bench.contents() == before


@pytest.mark.parametrize("kind", MAKERS)
def test_the_whole_file_is_read(bench, kind):
    write(bench, kind)
    outcome = bench.compare()
    assert outcome.status == 0, outcome
    assert "(6 in both)" in outcome.out


@pytest.mark.parametrize(
    ("limit", "value", "found"),
    [
        pytest.param("MAX_LINE_BYTES", 100, "line 1: longer than 100 bytes", id="line"),
        pytest.param("MAX_LINES", 5, "more than 5 lines", id="lines"),
    ],
)
def test_a_file_over_a_limit_is_refused(bench, monkeypatch, limit, value, found):
    path = write(bench, "batch")
    monkeypatch.setattr(f"videobench.data.engines.{limit}", value)
    assert_refused(bench.compare(), path, found)


@pytest.mark.parametrize(
    ("base", "found"),
    [
        pytest.param(10, "add up to more than 1 .to 1.86. in 12 of 12 replies, .* by 2.302585", id="10"),
        pytest.param(2, "the log-probabilities of 12 of 12 replies are to base 2, .*by 0.693147", id="2"),
    ],
)
def test_logarithms_to_another_base_are_refused(bench, base, found):
    rows = list(bench.rows().values()) * 2
    lines = [batch_line(f"MSVD/{number}", row) for number, row in enumerate(rows)]
    for line in lines:
        [choice] = line["response"]["body"]["choices"]
        [position] = choice["logprobs"]["content"]
        for entry, natural in zip(position["top_logprobs"], (-0.6, -1.0, -2.9, -4.3, -7.0), strict=True):
            entry["logprob"] = natural / math.log(base)
        position["logprob"] = position["top_logprobs"][0]["logprob"]
    path = write_lines(bench.folder / "npu.json", lines)
    assert_refused(bench.compare(), path, found)


@pytest.mark.parametrize("replaced", [0, 1], ids=["the-chosen", "another"])
def test_a_logarithm_of_400_digits_is_refused(bench, replaced):
    lines = [batch_line(f"MSVD/{key}", row) for key, row in bench.rows().items()]
    [choice] = lines[1]["response"]["body"]["choices"]
    choice["logprobs"]["content"][0]["top_logprobs"][replaced]["logprob"] = -int("7" * 400)
    path = write_lines(bench.folder / "npu.json", lines)
    assert_refused(bench.compare(), path, "line 2: the number -7777777777777777777 is not JSON, or too large")


def test_a_broken_file_of_failures_is_refused(bench):
    lines = replies(bench, "aisbench")
    write_lines(bench.folder / "npu.json", lines[1:])
    failed = bench.folder / "npu_failed.json"
    failed.write_text('{"data_abbr": "videobench"}\n')
    assert_refused(bench.compare(), failed, "line 1: not AISBench's failed questions")
    key, row = next(iter(bench.rows().items()))
    write_lines(failed, [aisbench_failure(key, row)])
    assert f"npu failed 1: MSVD/{key}" in bench.compare().out


def test_the_failed_questions_alone_are_refused(bench):
    key, row = next(iter(bench.rows().items()))
    path = write_lines(bench.folder / "npu.json", [aisbench_failure(key, row)])
    assert_refused(bench.compare(), path, "holds AISBench's failed questions alone; name the predictions")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param({"custom_id": "MSVD/1", "body": {}}, "holds what was asked .OpenAI batch req", id="requests"),
        pytest.param({"custom_id": "MSVD/1", "prompt_sha256": "0"}, "holds what was asked .facts of", id="facts"),
        pytest.param(batch_line("MSVD/1", {}) | {"body": {}}, "fit OpenAI batch output and OpenAI", id="two-kinds"),
    ],
)  # fmt: skip
def test_another_file_of_a_service_is_refused(bench, content, found):
    path = write_lines(bench.folder / "npu.json", [content])
    assert_refused(bench.compare(), path, found)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        pytest.param([], "not the facts of exported requests", id="empty"),
        pytest.param([batch_line("MSVD/1", {})], "not the facts of exported requests", id="replies"),
        pytest.param([{"custom_id": "MSVD/1", "prompt_sha256": 7}], "line 1: prompt_sha256 is 7", id="hash"),
        pytest.param([{"custom_id": "NBA/1", "prompt_sha256": "", "dataset": "MOT"}], "its key names NBA", id="key"),
        pytest.param([{"custom_id": "NBA/1", "prompt_sha256": ""}] * 2, "line 2: a second line of NBA/1", id="twice"),
    ],
)
def test_other_facts_are_refused(bench, content, found):
    write(bench, "batch")
    path = write_lines(bench.folder / "facts.jsonl", content)
    assert_refused(bench.compare("--requests_facts", path), path, found)


def test_requests_go_to_no_folder_and_below_no_file(bench):
    assert_refused(bench.answer("--export_requests", bench.folder), bench.folder, "is there already; choose")
    path = bench.folder / "gpu.json/requests.jsonl"
    assert_refused(bench.answer("--export_requests", path), path, "cannot be written .*; free space or choose")
