"""Files that are broken, hostile or of no kind, given to the scripts: status 2, one line with the file, what was found
and the fix; nothing is written and nothing lost. One case for each reader: what the parser refuses is in
tests/test_files.py, what a row, a reply, a manifest or a line may not hold in tests/data and tests/sampling.
"""

import json

import pytest

from tests.support.engine_lines import MAKERS, aisbench_failure, asked_text, write_lines
from tests.support.fault_tools import SAMPLE, SET, Bench, assert_refused


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path / "数据 set+@", capsys)


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
    return bench.folder / "npu.json", answers_to_compare(bench)[1]


def result_to_leaderboard(bench):
    bench.write_replies("npu.json")
    flags = ("--eval_npu_path", bench.folder / "npu.json", "--export_leaderboard", bench.folder / "form.json")
    return bench.folder / "npu.json", lambda: bench.start("precision_test", *flags)


def sample_to_run(bench):
    assert bench.sample().status == 0
    qa = bench.folder / "qa/Eval_QA/sampling_datasets_QA_new.json"
    return qa, lambda: bench.answer("--dataset_name", SAMPLE)


def manifest_to_run(bench):
    return bench.folder / "qa/Eval_QA/sampling_manifest.json", sample_to_run(bench)[1]


def manifest_to_verify(bench):
    path, _ = manifest_to_run(bench)
    flags = ("--verify", path, "--sampling_output_folder", bench.folder / "videos/Eval_video")
    return path, lambda: bench.start("extract_dataset", *flags)


def lines_to_compare(kind):
    def reader(bench):
        path, start = result_to_compare(bench)
        reply = {"output_sequence": ["A"]}
        asked = {f"{SET}/{key}": row | reply | {"question": asked_text(row)} for key, row in bench.rows().items()}
        (bench.folder / "gpu.json").write_text(json.dumps(asked))
        lines = [MAKERS[kind](f"{SET}/{key}", row) for key, row in bench.rows().items()]
        return write_lines(path, *lines), start

    return reader


READERS = {
    "questions-run": qa_to_run,
    "questions-extract": qa_to_extract,
    "answers-extract": answers_to_extract,
    "answers-compare": answers_to_compare,
    "result-compare": result_to_compare,
    "result-leaderboard": result_to_leaderboard,
    "sample-run": sample_to_run,
    "manifest-run": manifest_to_run,
    "manifest-verify": manifest_to_verify,
    **{f"{kind}-compare": lines_to_compare(kind) for kind in MAKERS},
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_file_that_was_cut_short_is_refused_and_nothing_written(bench, reader):
    path, start = reader(bench)
    path.write_bytes(path.read_bytes()[:-9])
    before = bench.contents()
    assert_refused(start(), path, "not JSON: .*cut short")
    assert bench.contents() == before


def exclusions(bench):
    path = bench.folder / "not these"
    path.write_text(f"{SET}/{next(iter(bench.rows()))}\n")
    return path, lambda: bench.sample("--exclude", path)


# The sample's own bytes are known to its manifest.
WITHOUT_HASH = {name: reader for name, reader in READERS.items() if name != "sample-run"} | {"exclusions": exclusions}


@pytest.mark.parametrize("reader", WITHOUT_HASH.values(), ids=WITHOUT_HASH)
def test_a_byte_order_mark_changes_nothing(bench, reader):
    """As Notepad and Excel write it."""
    path, start = reader(bench)
    before = start()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    after = start()
    assert (before.status, after.status, after.err) == (0, 0, before.err)


@pytest.mark.parametrize("reader", WITHOUT_HASH.values(), ids=WITHOUT_HASH)
def test_a_page_that_a_download_gave_in_place_of_the_file_is_named_as_one(bench, reader):
    path, start = reader(bench)
    path.write_text("<!DOCTYPE html>\n<html lang='en'><head><title>Sign in</title></head></html>\n")
    assert_refused(start(), path, r"a web page in place of the file \(to log in, or an error\?\); download it again")


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
    """A run accepts a sample without a manifest, since the original's have none (test_whole_benchmark.py)."""
    path, start = reader(bench)
    path.unlink()
    assert_refused(start(), path, missing)
    path.mkdir()
    assert_refused(start(), path, folder)


def test_an_id_may_be_any_text_and_names_no_file(bench):
    rows = list(bench.rows().values())[:6]
    keys = ["../../etc/passwd", "/", "a/b", "🎬é中", "MSVD/1", "A" * 5000]
    bench.qa.write_text(json.dumps(dict(zip(keys, rows, strict=True)), ensure_ascii=False), encoding="utf-8")
    before = set(bench.contents())
    outcome = bench.answer()
    assert outcome.status == 0
    assert "answered 6, failed 0" in outcome.out
    assert list(json.loads(bench.result.read_bytes())) == keys
    written = {f"out/{SET}_eval.json", f"out/journal/{SET}.rank0.jsonl", f"out/journal/{SET}.command.json"}
    assert set(bench.contents()) - before == written


def test_a_journal_with_zeros_at_its_end_goes_on(bench):
    bench.write_journal()
    bench.journal.write_bytes(bench.journal.read_bytes()[:-9] + b"\0" * 4096)
    assert bench.answer("--limit", 3).status == 0
    assert len(json.loads(bench.result.read_bytes())) == 3


def test_a_broken_file_of_failures_beside_predictions_is_refused(bench):
    path, start = lines_to_compare("aisbench")(bench.shorten(6))
    key, row = next(iter(bench.rows().items()))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    failed = bench.folder / "npu_failed.json"
    failed.write_text('{"data_abbr": "videobench"}\n')
    assert_refused(start(), failed, "line 1: not AISBench's failed questions")
    write_lines(failed, aisbench_failure(row["vid_path"], asked_text(row)))
    assert f"npu failed 1: {SET}/{key}" in start().out
    failed.rename(path)
    assert_refused(start(), path, "holds only AISBench's failed questions; name the predictions")
