"""A run that was stopped keeps its answers; other settings are refused by name."""

import errno
import json
import os
import resource
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videobench.data.journal import QUESTION_CHANGED, UNFIT, Journal
from videobench.errors import InputError

SETTINGS = {"dtype": "float32", "num_frames": 8}


def journals(folder, rank=0, asked=None, **changes):
    asked = asked or {key: {} for key in "12345"}
    seen = {"same": True, "changed": False, "gone": None}
    return Journal(folder, "MSVD", SETTINGS | changes, rank, asked, lambda key, sha256, stamp: seen[stamp[0]])


def write(folder, rows, rank=0):
    journal = journals(folder, rank)
    journal.open()
    journal.append(rows)
    journal.close()


def answered(text):
    return {"output_sequence": [text]}


def failed(reason):
    return {"output_sequence": [""], "error": reason}


def test_replies_of_several_starts_and_ranks_are_joined_in_the_order_of_the_questions(tmp_path):
    write(tmp_path, {"3": answered("C"), "1": answered("A")})
    write(tmp_path, {"2": answered("B")}, rank=1)
    write(tmp_path, {"4": answered("D")})
    rows = journals(tmp_path).write_results()
    assert list(rows) == ["1", "2", "3", "4"]
    assert json.loads((tmp_path / "MSVD_eval.json").read_text()) == rows


def test_a_later_failure_replaces_an_earlier_one(tmp_path):
    write(tmp_path, {"1": failed("first")})
    write(tmp_path, {"1": failed("second")})
    assert journals(tmp_path).read() == {"1": failed("second")}


def test_a_reply_to_a_question_that_has_changed_does_not_count(tmp_path, capsys):
    write(tmp_path, {"1": {"question": "Who?"} | answered("A"), "2": {"question": "Where?"} | answered("B")})
    now = {"1": {"question": "Who?"}, "2": {"question": "When?"}}
    assert journals(tmp_path, asked=now).read(report=True) == {
        "1": {"question": "Who?"} | answered("A"),
        "2": {"question": "When?"} | failed(QUESTION_CHANGED),
    }
    assert capsys.readouterr().err == (
        "MSVD: 1 questions, first 2: the question has changed since it was answered; it is asked again\n"
    )
    write(tmp_path, {"2": {"question": "When?"} | answered("C")})
    assert journals(tmp_path, asked=now).read(report=True)["2"]["output_sequence"] == ["C"]
    assert capsys.readouterr().err == ""
    assert list(journals(tmp_path, asked={"1": now["1"]}).read()) == ["1"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["answer", "failure"]), st.sampled_from("ab")), min_size=1, max_size=6),
    st.sampled_from(["a", "b", None]),
)
def test_no_reply_to_another_video_than_the_present_or_the_last_one_counts(stored, video):
    """Each answer or failure was stored while the video was a or b; now it is `video`, or it is gone. An answer counts
    before a failure."""
    with TemporaryDirectory() as folder:

        def journal():
            is_seen = lambda key, sha256, stamp: None if video is None else sha256 == video * 64  # noqa: E731
            return Journal(Path(folder), "MSVD", SETTINGS, 0, {"1": {}}, is_seen)

        writer = journal()
        writer.open()
        for number, (kind, seen) in enumerate(stored):
            row = answered(str(number)) | {"video_sha256": seen * 64} if kind == "answer" else failed("damaged")
            writer.append({"1": row})
        writer.close()
        [text] = journal().read()["1"]["output_sequence"]
    fitting = [str(number) for number, each in enumerate(stored) if each == ("answer", video)]
    last = str(len(stored) - 1) if stored[-1][0] == "answer" else ""
    assert text == (last if video is None else fitting[-1] if fitting else "")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"output_sequence": [7]}, id="no-text"),
        pytest.param({"output_sequence": None}, id="no-reply"),
        pytest.param({"letter_logprobs": {"A": 3.5}}, id="probability-above-1"),
        pytest.param({"letter_logprobs": None}, id="null"),
        pytest.param({"video_sha256": "zz"}, id="no-hash"),
    ],
)
def test_a_stored_row_with_unfit_fields_is_no_answer(tmp_path, fields):
    write(tmp_path, {"1": answered("A") | fields})
    assert journals(tmp_path).read() == {"1": failed(UNFIT)}


@pytest.mark.parametrize("cut", [1, 20])
def test_a_half_written_last_line_is_dropped_and_does_not_swallow_the_next(tmp_path, cut):
    write(tmp_path, {"1": answered("A"), "2": answered("B")})
    path = tmp_path / "journal" / "MSVD.rank0.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert journals(tmp_path).read() == {"1": answered("A")}
    write(tmp_path, {"3": answered("C")})
    assert journals(tmp_path).read() == {"1": answered("A"), "3": answered("C")}
    path.write_bytes(path.read_bytes()[:7])  # not even its first line is whole
    assert journals(tmp_path).read() == {}
    write(tmp_path, {"1": answered("A")})
    assert journals(tmp_path).read() == {"1": answered("A")}


def test_a_journal_without_a_setting_of_now_is_refused(tmp_path):
    write(tmp_path, {"1": answered("A")})
    with pytest.raises(InputError, match="deterministic None, now it is True"):
        journals(tmp_path, deterministic=True).read()


def change_line(number, change):
    def damage(content):
        lines = content.splitlines(keepends=True)
        lines[number] = change(lines[number])
        return b"".join(lines)

    return damage


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(
            change_line(0, lambda line: b"\n"), "line 1 .not JSON: Expecting value, column 1", id="no-first-line"
        ),
        pytest.param(change_line(0, lambda line: b'{"settings": 5}\n'), "line 1 .it holds no settings", id="settings"),
        pytest.param(change_line(1, lambda line: line[:20] + b"\n"), "line 2", id="line-cut-short"),
        pytest.param(change_line(1, lambda line: line[:20] + bytes(20) + line[40:]), "line 2", id="zeros"),
        pytest.param(change_line(1, lambda line: b"[]\n"), "line 2 .it is not an object", id="a-list"),
        pytest.param(change_line(1, lambda line: b'{"key": "1", "row": 5}\n'), "it holds no reply", id="row"),
        pytest.param(lambda content: content.decode().encode("utf-16"), "line 1", id="UTF-16"),
    ],
)
def test_a_damaged_journal_is_named(tmp_path, damage, found):
    write(tmp_path, {"1": answered("A"), "2": answered("B")})
    path = tmp_path / "journal" / "MSVD.rank0.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"MSVD\.rank0\.jsonl: damaged at .*{found}"):
        journals(tmp_path).read()


def test_overwrite_keeps_the_complete_result_until_the_new_one_is_complete(tmp_path):
    write(tmp_path, {"1": answered("old")})
    journals(tmp_path).write_results()
    old = (tmp_path / "MSVD_eval.json").read_bytes()

    for attempt in ("killed", "killed again", "complete"):
        journals(tmp_path).set_aside()
        assert not (tmp_path / "MSVD_eval.json").exists()
        assert (tmp_path / "MSVD_eval.json.old").read_bytes() == old
        assert journals(tmp_path).read() == {}
        write(tmp_path, {"1": answered(attempt)})
    journals(tmp_path).write_results()
    assert json.loads((tmp_path / "MSVD_eval.json").read_text()) == {"1": answered("complete")}
    assert not list(tmp_path.rglob("*.old"))


def test_overwrite_keeps_an_old_result_that_has_more_answers(tmp_path, capsys):
    """It gets a name of its own, so the next --overwrite can set the new result aside."""
    write(tmp_path, {"1": answered("old"), "2": answered("old")})
    journals(tmp_path).write_results()
    old = (tmp_path / "MSVD_eval.json").read_bytes()
    for attempt in ("new", "newer"):
        journals(tmp_path).set_aside()
        write(tmp_path, {"1": answered(attempt), "2": failed("no such video")})
        journals(tmp_path).write_results()
        assert (tmp_path / "MSVD_eval.json.kept").read_bytes() == old
        assert ("which has more answers than the new one" in capsys.readouterr().err) == (attempt == "new")
        assert json.loads((tmp_path / "MSVD_eval.json").read_text())["1"] == answered(attempt)
        assert not list(tmp_path.rglob("*.old"))


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path):
    journal = journals(tmp_path)
    journal.open()
    journal.append({"1": answered("A")})
    size = (tmp_path / "journal/MSVD.rank0.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # the disk takes ten bytes more
    try:
        with pytest.raises(InputError, match=r"rank0\.jsonl: cannot be written .*what was answered is kept"):
            journal.append({"2": answered("B")})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "journal/MSVD.rank0.jsonl").stat().st_size == size
    journal.append({"3": answered("C")})
    journal.close()
    assert journals(tmp_path).read() == {"1": answered("A"), "3": answered("C")}


def test_a_disk_that_fails_later_loses_only_what_it_may_not_have(tmp_path, monkeypatch):
    journal = journals(tmp_path)
    journal.open()
    journal.append({"1": answered("A")})
    journal.force()
    journal.append({"2": answered("B")})

    def fail(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(InputError, match=r"rank0\.jsonl: cannot be written \(Input/output error\)"):
            journal.force()
    journal.append({"3": answered("C")})  # before anybody has looked at what became of the second
    journal.close()
    assert list(journals(tmp_path).read()) == ["1", "3"]


def test_another_ranks_journal_that_was_deleted_is_brought_back(tmp_path):
    first, second = journals(tmp_path, 0), journals(tmp_path, 1)
    for number, each in enumerate((first, second)):
        each.open()
        each.append({str(number): answered("A")})
    (tmp_path / "journal/MSVD.rank1.jsonl").unlink()
    second.bring_back()  # as each rank does before it says that it has finished
    assert list(journals(tmp_path, asked={"0": {}, "1": {}}).read()) == ["0", "1"]
