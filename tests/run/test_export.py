"""--export_requests: the very frames and question of a run, whole after any end."""

import base64
import hashlib
import json
import shutil

import av
import numpy as np
import pytest

from tests.support.fault_tools import Bench, assert_refused
from tests.support.runs import results
from videobench.data.lines import FACTS, REQUESTS, kind_of
from videobench.data.results import load_facts
from videobench.video.pictures import encode_jpeg, encode_png

FACTS_AS_IN_A_ROW = (
    "vid_path",
    "question",
    "choices",
    "prompt_tokens",
    "prompt_sha256",
    "pixels_sha256",
    "video_sha256",
)


@pytest.fixture
def bench(tmp_path, capsys, record_property):
    return Bench(tmp_path / "数据 set", capsys, record_property).shorten(6)


def export(bench, *more):
    return bench.answer("--export_requests", bench.folder / "asked/requests.jsonl", *more)


def files(bench):
    return [bench.folder / "asked" / name for name in ("requests.jsonl", "requests.facts.jsonl")]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def decode(picture, name):
    codec = av.CodecContext.create(name, "r")
    [frame] = [*codec.decode(av.Packet(picture)), *codec.decode(None)]
    return frame.to_ndarray(format="rgb24")


def frames_of(request, name="png"):
    """uint8 (frames, height, width, 3)."""
    url = request["body"]["messages"][0]["content"][0]["video_url"]["url"]
    start, *rest = url.split(",")
    assert start == "data:video/jpeg;base64"
    return np.stack([decode(base64.b64decode(each), name) for each in rest])


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


def test_the_files_are_told_from_replies(bench):
    export(bench)
    requests, facts = files(bench)
    assert (kind_of(requests), kind_of(facts)) == (REQUESTS, FACTS)
    assert len(load_facts(facts).facts) == 6


@pytest.mark.parametrize("size", [(36, 36), (7, 5), (1, 1)])
def test_a_png_gives_the_same_bytes(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert (decode(encode_png(picture), "png") == picture).all()


def test_a_jpeg_is_near(bench):
    picture = np.tile(np.arange(35, dtype=np.uint8)[:, None, None] * 7, (1, 35, 3))
    assert np.abs(decode(encode_jpeg(picture, 2, "yuvj444p"), "mjpeg").astype(int) - picture).max() <= 8
    export(bench, "--frame_format", "jpeg")
    requests, facts = map(lines, files(bench))
    assert frames_of(requests[0], "mjpeg").shape == (8, 36, 36, 3)
    assert facts[0]["run"]["frame_format"].startswith("jpeg, quantiser 2")
    assert not any("pixels_sha256" in each for each in facts)


@pytest.mark.parametrize(
    ("requests_kept", "facts_kept", "left"),
    [
        pytest.param(1.0, 1.0, 0, id="all-there"),
        pytest.param(0.5, 0.5, 3, id="both-cut"),
        pytest.param(1.0, 0.4, 4, id="facts-lag-behind"),
        pytest.param(0.4, 1.0, 4, id="requests-lost-by-the-disk"),
        pytest.param(0.0, 1.0, 6, id="requests-gone"),
    ],
)
def test_an_end_at_any_place_leaves_no_trace(bench, requests_kept, facts_kept, left, monkeypatch):
    export(bench)
    whole = [path.read_bytes() for path in files(bench)]
    for path, content, kept in zip(files(bench), whole, (requests_kept, facts_kept), strict=True):
        path.write_bytes(content[: int(len(content) * kept)])
    written = []
    monkeypatch.setattr("videobench.run.export._request", count(written))
    assert export(bench).status == 0
    assert [path.read_bytes() for path in files(bench)] == whole
    assert len(written) == left


def count(written):
    from videobench.run.export import _request

    def request(question, *more):
        written.append(question)
        return _request(question, *more)

    return request


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        pytest.param(["--num_frames", 4], "was begun with another num_frames 8, now 4", id="frames"),
        pytest.param(["--frame_format", "jpeg"], "was begun with another frame_format 'png'", id="format"),
    ],
)
def test_other_settings_are_refused(bench, flags, found):
    export(bench)
    before = bench.contents()
    assert_refused(export(bench, *flags), files(bench)[0], found)
    assert bench.contents() == before
    assert export(bench, *flags, "--overwrite").status == 0


def test_other_questions_of_any_set_are_refused(bench):
    second = bench.qa.with_name(bench.qa.name.replace("MSVD", "TGIF"))
    second.write_bytes(bench.qa.read_bytes())
    assert export(bench, "--dataset_name", "MSVD,TGIF").status == 0
    second.write_text(second.read_text().replace('"question": "', '"question": "Now: '))
    assert_refused(export(bench, "--dataset_name", "MSVD,TGIF"), files(bench)[0], "was begun with another qa_sha256")
    assert export(bench).status == 0  # the other set does not matter to this one


def test_another_model_folder_is_refused(bench):
    """A service takes requests to one model's name."""
    export(bench)
    bench.model = shutil.copytree(bench.model, bench.folder / "renamed")
    assert_refused(export(bench), files(bench)[0], "another model 'tiny-llava-next-video', now 'renamed'")


def test_requests_that_were_changed_are_refused(bench):
    """As by somebody who writes the service's own name of the model into them: their places are then others."""
    requests, _ = files(bench)
    export(bench, "--limit", 3)
    changed = requests.read_bytes().replace(b"tiny-llava-next-video", b"the-name-that-my-service-has")
    requests.write_bytes(changed)
    assert_refused(
        export(bench), requests, f"changed since it was written, at the request of MSVD/{next(iter(bench.rows()))}"
    )
    assert requests.read_bytes() == changed


def test_an_exchanged_video_is_refused(bench):
    requests, facts = files(bench)
    export(bench, "--limit", 3)
    named = lines(facts)[0]["vid_path"]
    video = bench.folder / "videos" / named
    content = video.read_bytes()
    video.write_bytes(next(each for each in video.parent.iterdir() if each.name != video.name).read_bytes())
    assert_refused(export(bench), requests, f"{named}, has changed since; bring it back")
    video.write_bytes(content)
    assert export(bench).status == 0  # the same bytes at another time


@pytest.mark.parametrize("content", ["hello", '{"a": 1}\n', '{"custom_id": "MSVD/1", "response": null}\n'])
def test_a_foreign_file_in_the_place_of_the_facts_is_left_alone(bench, content):
    requests, facts = files(bench)
    facts.parent.mkdir()
    facts.write_text(content)
    assert_refused(export(bench), facts, "holds something else")
    assert (facts.read_text(), requests.exists()) == (content, False)
    assert export(bench, "--overwrite").status == 0


def test_names_with_another_suffix_have_facts_of_their_own(bench):
    export(bench)
    before = bench.contents()
    other = bench.folder / "asked/requests.json"
    assert bench.answer("--export_requests", other, "--frame_format", "jpeg").status == 0
    assert before.items() <= bench.contents().items()
    assert len(lines(other.with_name("requests.json.facts.jsonl"))) == 6


def test_all_requests_of_the_file_are_counted(bench):
    export(bench)
    assert "requests.jsonl: 6 requests" in export(bench, "--limit", 2).out


def test_requests_without_their_facts_are_refused(bench):
    export(bench)
    files(bench)[1].unlink()
    assert_refused(export(bench), files(bench)[0], "is there without its facts")


def test_a_video_that_fails_costs_its_own_questions(bench):
    video = bench.folder / "videos" / next(iter(bench.rows().values()))["vid_path"]
    questions = sum(row["vid_path"].endswith(video.name) for row in bench.rows().values())
    video.write_bytes(b"none")
    outcome = export(bench)
    assert outcome.status == 1
    assert f"{6 - questions} requests, {questions} questions failed" in outcome.out
    assert f"{video}: " in outcome.err
    assert len(lines(files(bench)[0])) == 6 - questions


def test_a_format_for_no_export_is_refused(bench):
    outcome = bench.answer("--frame_format", "jpeg")
    assert outcome.status == 2
    assert "--frame_format is of the requests that --export_requests writes" in outcome.err
