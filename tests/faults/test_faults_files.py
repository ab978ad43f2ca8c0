"""Files that are broken or hostile, through the real scripts: status 2, one line with file, fault and mend, nothing
written and nothing lost. The table with what each case gave: python tests/print_faults.py
"""

import gzip
import json

import pytest

from tests.support.fault_tools import SAMPLE, SET, Bench, assert_refused, manifest_to_run, manifest_to_verify


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "数据 set+@", capsys, record_property)


# What can be wrong with any JSON file, shown on a QA file: what it becomes, what is found in it. The parser's own cases
# are in tests/test_files.py; READERS below shows what each reader checks by itself.
DAMAGES = [
    pytest.param(lambda content: b"", "not JSON", id="empty"),
    pytest.param(lambda content: content[: len(content) // 2], "not JSON", id="cut-short"),
    pytest.param(lambda content: b"[]", "not a QA file", id="a-list"),
    pytest.param(lambda content: b"{}", "not a QA file", id="no-entry"),
    pytest.param(lambda content: b'{"a": {}, "a": {},' + content[1:], "'a' occurs twice", id="doubled-key"),
    pytest.param(lambda content: content.decode().encode("utf-16"), "not UTF-8 at byte 0", id="UTF-16"),
    pytest.param(gzip.compress, "compressed by gzip; unpack it", id="gzip"),
    pytest.param(lambda content: b'{"\xe9": {},' + content[1:], "not UTF-8 at byte 2", id="Latin-1"),
    pytest.param(lambda content: b'{"a":' * 99_999, "nested too deeply", id="nested"),
    pytest.param(lambda content: content + b"\0" * 4096, "not JSON", id="zeros-behind-it"),
]


def qa_to_run(bench):
    return bench.qa, bench.answer


def qa_to_extract(bench):
    return bench.qa, bench.sample


def answers_to_extract(bench):
    return bench.folder / "qa/ANSWER.json", bench.sample


def answers_to_compare(bench):
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    return bench.folder / "qa/ANSWER.json", bench.compare


def result_to_compare(bench):
    bench.write_replies("npu.json")
    bench.write_replies("gpu.json")
    return bench.folder / "npu.json", bench.compare


def result_to_leaderboard(bench):
    bench.write_replies("npu.json")
    flags = ("--eval_npu_path", bench.folder / "npu.json", "--export_leaderboard", bench.folder / "form.json")
    return bench.folder / "npu.json", lambda: bench.start("precision_test", *flags)


def sample_to_run(bench):
    assert bench.sample().status == 0
    return (
        bench.folder / "qa/Eval_QA/sampling_datasets_QA_new.json",
        lambda: bench.answer("--dataset_name", SAMPLE),
    )


def assert_refused_and_nothing_written(bench, start, path, found):
    before = bench.contents()
    assert_refused(start(), path, found)
    assert bench.contents() == before


@pytest.mark.parametrize(("damage", "found"), DAMAGES)
def test_a_broken_file_is_refused(bench, damage, found):
    path, start = qa_to_run(bench)
    path.write_bytes(damage(path.read_bytes()))
    assert_refused_and_nothing_written(bench, start, path, found)


READERS = [
    (qa_to_run, "a QA file"),
    (qa_to_extract, "a QA file"),
    (sample_to_run, "a QA file"),
    (answers_to_extract, "an answer file"),
    (answers_to_compare, "an answer file"),
    (result_to_compare, "a result file"),
    (result_to_leaderboard, "a result file"),
    (manifest_to_run, "the sampling_manifest.json of a sample"),
    (manifest_to_verify, "the sampling_manifest.json of a sample"),
]


@pytest.mark.parametrize("damage", ["cut short", "a list", "no entry"])
@pytest.mark.parametrize(("reader", "wanted"), READERS)
def test_each_reader_refuses_a_broken_file(bench, reader, wanted, damage):
    path, start = reader(bench)
    whole = path.read_bytes()
    content, found = {
        "cut short": (whole[: len(whole) // 2], "not JSON"),
        "a list": (b"[]", f"not {wanted}"),
        "no entry": (b"{}", f"not {wanted}"),
    }[damage]
    path.write_bytes(content)
    assert_refused_and_nothing_written(bench, start, path, found)


@pytest.mark.parametrize(
    ("reader", "found"),
    [
        (qa_to_run, "question 'a': is not an object but a number"),
        (answers_to_compare, "data set 'a' holds a number"),
        (result_to_compare, "row 'a' is no object"),
    ],
)
def test_an_entry_that_is_a_number_is_refused(bench, reader, found):
    path, start = reader(bench)
    path.write_bytes(b'{"a": 1,' + path.read_bytes()[1:])
    assert_refused(start(), path, found)


@pytest.mark.parametrize(
    ("reader", "missing", "folder"),
    [
        (qa_to_run, "missing; check --Eval_QA_root", "missing; check --Eval_QA_root"),
        (answers_to_compare, "cannot be read .No such file", "cannot be read .Is a directory"),
        (result_to_compare, "cannot be read .No such file", "no result file .* in this folder"),
        (manifest_to_verify, "cannot be read .No such file", "cannot be read .Is a directory"),
    ],
)
def test_a_file_that_is_missing_or_a_folder_is_refused(bench, reader, missing, folder):
    """A run answers a sample without a manifest: the original's have none (test_whole_benchmark.py)."""
    path, start = reader(bench)
    path.unlink()
    assert_refused(start(), path, missing)
    path.mkdir()
    assert_refused(start(), path, folder)


def test_a_file_over_the_limit_is_refused(bench, monkeypatch):
    monkeypatch.setattr("videobench.files.MAX_JSON_BYTES", 1000)
    assert_refused(bench.answer(), bench.qa, "larger than 1000 bytes")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        pytest.param({"vid_path": None}, "vid_path is missing", id="no-path"),
        pytest.param({"vid_path": 7}, "vid_path is a number", id="path-is-a-number"),
        pytest.param({"vid_path": "clip.avi"}, "is not Eval_video/<data set>/<file>", id="path-without-folders"),
        pytest.param({"vid_path": "Eval_video/MSVD/a\0.avi"}, "control character", id="path-with-a-zero"),
        pytest.param(
            {"vid_path": "Eval_video/MSVD/a\x1b[2J.avi"}, "control character", id="path-that-clears-the-screen"
        ),
        pytest.param({"vid_path": f"Eval_video/MSVD/{'a' * 256}"}, "longer than any", id="name-too-long"),
        pytest.param({"vid_path": "Eval_video/MSVD/" + "a/" * 600}, "longer than any", id="path-too-long"),
        pytest.param({"video_id": None}, "video_id is missing", id="no-video-id"),
        pytest.param({"video_id": [1]}, "video_id is a list", id="video-id-is-a-list"),
        pytest.param({"question": None}, "question is missing", id="no-question"),
        pytest.param({"question": "  "}, "question is an empty text", id="empty-question"),
        pytest.param({"question": {"en": "?"}}, "question is an object", id="question-is-an-object"),
        pytest.param({"choices": None}, "choices is missing", id="no-choices"),
        pytest.param({"choices": {}}, "no option has a text", id="empty-choices"),
        pytest.param({"choices": ["a", "b"]}, "choices is a list", id="choices-are-a-list"),
        pytest.param({"choices": {"A": "a", "a": "b"}}, "'a' is not a letter", id="small-letter"),
        pytest.param({"choices": {"A": ["a"]}}, "option A is a list", id="option-is-a-list"),
        pytest.param({"choices": {"A": True}}, "option A is true or false", id="option-is-true"),
    ],
)
def test_a_broken_question_is_refused(bench, fields, found):
    key = bench.change(**fields)
    assert_refused(bench.answer(), bench.qa, f"question '{key}': .*{found}")
    assert not (bench.folder / "out").exists()


@pytest.mark.parametrize("key", ["", " ", "a\nb", "a\x1b[2Jb", "\x00"])
def test_an_id_that_would_break_lines_is_refused(bench, key):
    rows = bench.rows()
    bench.qa.write_text(json.dumps({**rows, key: next(iter(rows.values()))}))
    assert_refused(bench.answer(), bench.qa, "the id is empty, or holds a line end")


def test_half_a_character_in_a_question_is_asked_and_stored_as_a_question_mark(bench):
    bench.shorten(4).change(question="Who is \ud83d?")
    assert bench.answer().status == 0
    result = bench.result.read_bytes()
    assert any("Who is ??" in row["question"] for row in json.loads(result).values())
    outcome = bench.answer()  # the stored reply counts
    assert "4 kept, 0 new" in outcome.out
    assert bench.result.read_bytes() == result


def test_strange_ids_are_ids(bench):
    rows = list(bench.rows().values())[:6]
    keys = ["../../etc/passwd", "/", "a/b", "🎬é中", "MSVD/1", "A" * 5000]
    bench.qa.write_text(json.dumps(dict(zip(keys, rows, strict=True)), ensure_ascii=False), encoding="utf-8")
    before = set(bench.contents())
    outcome = bench.answer()
    assert outcome.status == 0
    assert "answered 6, failed 0" in outcome.out
    assert list(json.loads(bench.result.read_bytes())) == keys
    assert set(bench.contents()) - before == {f"out/{SET}_eval.json", f"out/journal/{SET}.rank0.jsonl"}


@pytest.mark.parametrize(
    ("key", "found"),
    [
        pytest.param("NBA/7", "the key names NBA, but the row's dataset is MSVD", id="key-of-another-set"),
        pytest.param("MSVD/", "the key names MSVD", id="key-without-id"),
        pytest.param("first", "repeats question", id="bare-id-and-id-with-set"),
    ],
)
def test_a_sample_whose_keys_contradict_it_is_refused(bench, key, found):
    path, start = sample_to_run(bench)
    rows = json.loads(path.read_bytes())
    first = next(iter(rows))
    path.write_text(json.dumps({**rows, key.replace("first", first.split("/")[1]): rows[first]}))
    assert_refused(start(), path, found)


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        pytest.param([], "holds a list, not answers", id="set-is-a-list"),
        pytest.param({"1": "G"}, "MSVD/1: answer 'G' is not a letter", id="no-letter"),
        pytest.param({"1": None}, "answer None", id="null"),
        pytest.param({"1": {"right": "A"}}, "answer None", id="entry-without-answer"),
        pytest.param({"1": {"answer": ["A"]}}, r"answer \['A'\]", id="answer-is-a-list"),
        pytest.param({"1": 10**200}, "answer 1000", id="huge-number"),
        pytest.param({"1": "A", "MSVD/1": "B"}, "MSVD/1 is answered twice", id="two-spellings-of-one-id"),
        pytest.param({}, "holds no answer", id="no-answer"),
    ],
)
def test_a_broken_answer_is_refused(bench, answers, found):
    path, start = answers_to_compare(bench)
    path.write_text(json.dumps({SET: answers}))
    assert_refused(start(), path, found)


def test_a_broken_answer_is_refused_by_the_sampling_too(bench):
    path, start = answers_to_extract(bench)
    path.write_text(json.dumps({SET: {"1": "G"}}))
    assert_refused(start(), path, "MSVD/1: answer 'G' is not a letter")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        pytest.param({"output_sequence": None}, "output_sequence is None", id="no-reply"),
        pytest.param({"output_sequence": []}, r"output_sequence is \[\]", id="empty-list"),
        pytest.param({"output_sequence": [7]}, r"output_sequence is \[7\]", id="reply-is-a-number"),
        pytest.param({"output_sequence": {"0": "A"}}, "output_sequence is {", id="reply-is-an-object"),
        pytest.param({"choices": ["a"]}, r"choices is \['a'\]", id="choices-are-a-list"),
        pytest.param({"choices": {"AB": "a"}}, "choices is {'AB'", id="letter-of-two"),
        pytest.param({"letter_logprobs": [1]}, r"letter_logprobs is \[1\]", id="logprobs-are-a-list"),
        pytest.param({"letter_logprobs": {"A": "x"}}, "letter_logprobs is {'A'", id="logprob-is-a-text"),
        pytest.param({"letter_logprobs": {" A": -1}}, "letter_logprobs calls an option ' A'; write 'A'", id="spaced"),
        pytest.param({"letter_logprobs": {"b": -1}}, "letter_logprobs calls an option 'b'; write 'B'", id="lower-case"),
        pytest.param({"letter_bounds": {"(A)": -1}}, r"letter_bounds calls an option '\(A\)'; write 'A'", id="bracket"),
        pytest.param({"frames_decoded": "many"}, "frames_decoded is 'many'", id="frames-are-a-text"),
        pytest.param({"prompt_tokens": {}}, "prompt_tokens is {}", id="tokens-are-an-object"),
        pytest.param({"rank": True}, "rank is True", id="rank-is-true"),
        pytest.param({"run": "yesterday"}, "run is 'yesterday'", id="run-is-a-text"),
    ],
)
def test_a_broken_reply_is_refused(bench, fields, found):
    path, start = result_to_compare(bench)
    rows = bench.write_replies("npu.json", **fields)
    assert_refused(start(), path, f"row '{list(rows)[1]}': {found}")
