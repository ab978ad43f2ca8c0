"""Journals that are damaged: refused by line, and left as they were; what a power failure may leave goes on."""

import json

import pytest

from tests.support.fault_tools import Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "数据 set+@", capsys, record_property)


def change_line(number, change):
    def damage(content):
        lines = content.splitlines(keepends=True)
        lines[number] = change(lines[number])
        return b"".join(lines)

    return damage


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(change_line(0, lambda line: b"\n"), "line 1 .Expecting value", id="no-first-line"),
        pytest.param(change_line(0, lambda line: b'{"settings": 5}\n'), "line 1 .it holds no settings", id="settings"),
        pytest.param(change_line(1, lambda line: line[:40] + b"\n"), "line 2", id="line-cut-short"),
        pytest.param(change_line(1, lambda line: line[:40] + b"\xff" + line[40:]), "line 2", id="a-wrong-byte"),
        pytest.param(change_line(1, lambda line: line[:40] + b"\0" * 40 + line[80:]), "line 2", id="zeros"),
        pytest.param(change_line(1, lambda line: b"[" * 99_999 + b"\n"), "line 2 .nested", id="nested"),
        pytest.param(change_line(1, lambda line: b"[]\n"), "line 2 .it holds no reply", id="a-list"),
        pytest.param(
            change_line(1, lambda line: b'{"key": "1", "row": 5}\n'), "it holds no reply", id="row-is-a-number"
        ),
        pytest.param(change_line(1, lambda line: b'{"key": [], "row": {}}\n'), "it holds no reply", id="key-is-a-list"),
        pytest.param(
            change_line(1, lambda line: b'{"key": "1", "row": {}}\n'), "reply is not one of a run", id="empty-row"
        ),
        pytest.param(change_line(1, lambda line: b'{"key": "1", ' + line[1:]), "'key' occurs twice", id="doubled-key"),
        pytest.param(change_line(1, lambda line: line.replace(b'"rank": 0', b'"rank": NaN')), "NaN", id="NaN"),
        pytest.param(lambda content: content.decode().encode("utf-16"), "line 1", id="UTF-16"),
        pytest.param(change_line(0, lambda line: line.replace(b"float32", b"float16")), "dtype", id="other-settings"),
    ],
)
def test_a_broken_journal_is_refused_and_stays_as_it_was(bench, damage, found):
    bench.write_journal()
    bench.journal.write_bytes(damage(bench.journal.read_bytes()))
    before = bench.contents()
    assert_refused(bench.answer("--limit", 3), bench.journal, found)
    assert bench.contents() == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[:-1], id="last-line-cut-short"),
        pytest.param(lambda content: content + b"\0" * 4096, id="zeros-of-a-power-failure"),
        pytest.param(lambda content: content + b'{"key": "x", "ro', id="half-a-line"),
        pytest.param(lambda content: content + content.splitlines(keepends=True)[1], id="a-line-twice"),
    ],
)
def test_a_journal_that_a_power_failure_may_leave_goes_on(bench, damage):
    bench.write_journal()
    bench.journal.write_bytes(damage(bench.journal.read_bytes()))
    outcome = bench.answer("--limit", 3)
    assert outcome.status == 0
    assert len(json.loads(bench.result.read_bytes())) == 3
