"""--export_requests: the very frames and question of a run; whole files or none."""

import base64
import hashlib
import json
import resource
from contextlib import suppress

import av
import numpy as np
import pytest

from tests.support.fault_tools import Bench, assert_refused
from tests.support.runs import results
from videobench.files import replacing

FACTS_AS_IN_A_ROW = ["vid_path", "question", "choices", "prompt_tokens"]
FACTS_AS_IN_A_ROW += ["prompt_sha256", "pixels_sha256", "video_sha256"]


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path / "数据 set", capsys).shorten(6)


def export(bench, *more):
    return bench.answer("--export_requests", bench.folder / "asked/requests.jsonl", *more)


def files(bench):
    return [bench.folder / "asked" / name for name in ("requests.jsonl", "requests.facts.jsonl")]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def decode(picture):
    codec = av.CodecContext.create("png", "r")
    [frame] = [*codec.decode(av.Packet(picture)), *codec.decode(None)]
    return frame.to_ndarray(format="rgb24")


def frames_of(request):
    """uint8 (frames, height, width, 3)."""
    url = request["body"]["messages"][0]["content"][0]["video_url"]["url"]
    start, *rest = url.split(",")
    assert start == "data:video/jpeg;base64"
    return np.stack([decode(base64.b64decode(each)) for each in rest])


def test_a_request_holds_what_a_run_would_see(bench):
    outcome = export(bench)
    assert outcome.status == 0, outcome
    assert "requests.jsonl: 6 requests, 0 questions failed" in outcome.out
    assert bench.answer().status == 0
    rows = results(bench.folder)
    requests, facts = map(lines, files(bench))
    assert [each["custom_id"] for each in requests] == [each["custom_id"] for each in facts]
    assert {each["custom_id"] for each in requests} == {f"MSVD/{key}" for key in rows}
    for request, known in zip(requests, facts, strict=True):
        row, body = rows[request["custom_id"].split("/")[1]], request["body"]
        assert {name: known[name] for name in FACTS_AS_IN_A_ROW} == {name: row[name] for name in FACTS_AS_IN_A_ROW}
        seen = np.ascontiguousarray(frames_of(request).transpose(0, 3, 1, 2))
        assert seen.shape == (8, 3, 36, 36)
        assert hashlib.sha256(seen.tobytes()).hexdigest() == row["pixels_sha256"]
        assert body["messages"][0]["content"][1] == {"type": "text", "text": row["question"]}
        settings = {name: body[name] for name in ("temperature", "max_tokens", "logprobs", "top_logprobs")}
        assert settings == {"temperature": 0, "max_tokens": 60, "logprobs": True, "top_logprobs": 20}


@pytest.mark.parametrize("name", ["requests.jsonl", "requests.facts.jsonl"])
def test_a_file_that_is_there_is_replaced_only_if_asked(bench, name):
    path = bench.folder / "asked" / name
    path.parent.mkdir()
    path.write_text("kept")
    assert_refused(export(bench), path, "is there already; choose another name, or --overwrite")
    assert [each.name for each in path.parent.iterdir()] == [name]
    assert path.read_text() == "kept"
    assert export(bench, "--overwrite").status == 0
    assert [len(lines(each)) for each in files(bench)] == [6, 6]


def test_an_export_that_was_killed_starts_again(bench):
    requests, facts = files(bench)
    export(bench)
    whole = requests.read_bytes(), facts.read_bytes()
    for path in (requests, facts):
        with suppress(FileNotFoundError), replacing(path) as part:
            pass
        path.rename(part)
    with part.open("ab") as file:
        file.write(b'{"custom_id": "MSVD/')
    assert export(bench).status == 0
    assert (requests.read_bytes(), facts.read_bytes()) == whole
    assert sorted(requests.parent.iterdir()) == sorted((requests, facts))


def test_an_export_that_cannot_go_on_leaves_nothing(bench):
    requests, _ = files(bench)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # the disk takes less than one request
    try:
        assert_refused(export(bench), requests, "cannot be written .File too large.; free space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*requests.parent.iterdir()] == []


def test_a_video_that_fails_costs_its_own_questions(bench):
    video = bench.folder / "videos" / next(iter(bench.rows().values()))["vid_path"]
    questions = sum(row["vid_path"].endswith(video.name) for row in bench.rows().values())
    video.write_bytes(b"none")
    outcome = export(bench)
    assert outcome.status == 1
    assert f"{6 - questions} requests, {questions} questions failed" in outcome.out
    assert f"{video}: " in outcome.err
    assert len(lines(files(bench)[0])) == 6 - questions


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (".", "is there already; choose another name"),
        ("/", "is there already; choose another name"),
        ("{}/qa/ANSWER.json/requests.jsonl", "cannot be written .*; free space or choose"),
    ],
)
def test_requests_cannot_be_written_over_a_folder_or_below_a_file(bench, name, found):
    name = name.format(bench.folder)
    assert_refused(bench.answer("--export_requests", name), f"{name}:", found)
