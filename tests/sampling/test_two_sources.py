"""Two source videos never become one: each has its own place, the same for every team, or the sample is refused."""

import json

import pytest

import extract_dataset
from tests.support.stand_in import extract, make_benchmark, read
from videobench.data.dataset import qa_file
from videobench.errors import InputError


@pytest.fixture
def benchmark(tmp_path):
    """Ten questions, each on a video of its own, 0.mp4 to 9.mp4 in MSVD's folder."""
    return make_benchmark(tmp_path, {"MSVD": (10, 1)})


def move_video(benchmark, number, vid_path, content=None):
    """Question `number` names another video from now on, which is there."""
    path = qa_file(benchmark / "Video-Bench", "MSVD")
    rows = json.loads(path.read_text())
    rows[str(number)]["vid_path"] = vid_path
    path.write_text(json.dumps(rows))
    video = benchmark / "VideoBench" / vid_path
    video.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        video.write_text(content)
    return video


def placed(benchmark, number):
    """(place below sampling_data, content) of a question's video in the sample."""
    vid_path = read(benchmark, "sampling_datasets_QA_new.json")[f"MSVD/{number}"]["vid_path"]
    return vid_path.removeprefix("Eval_video/sampling_data/"), (benchmark / "sample" / vid_path).read_text()


def verify(benchmark):
    return extract_dataset.main(["--verify", f"{benchmark}/sample/json/sampling_manifest.json"])


@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink"])
def test_videos_of_one_name_in_two_folders_stay_two(benchmark, mode, capsys):
    move_video(benchmark, 4, "Eval_video/Other/3.mp4", "of another folder")
    move_video(benchmark, 5, "Eval_video/MSVD/part 2/3.mp4", "of a folder below")
    link = move_video(benchmark, 6, "Eval_video/Other/link.mp4")
    link.symlink_to(benchmark / "VideoBench/Eval_video/MSVD/3.mp4")
    for num in (7, 10, 10):  # a place does not depend on what else is drawn, and a second start keeps what is there
        extract(benchmark, "--nums", num, "--copy_mode", mode)
    assert placed(benchmark, 3) == ("MSVD/3.mp4", "MSVD 3")
    assert placed(benchmark, 4) == ("Other/3.mp4", "of another folder")
    assert placed(benchmark, 5) == ("MSVD/part 2/3.mp4", "of a folder below")
    assert placed(benchmark, 6) == ("Other/link.mp4", "MSVD 3")
    assert verify(benchmark) == 0
    assert "10 videos" in capsys.readouterr().out
    manifest = read(benchmark, "sampling_manifest.json")
    assert len(manifest["videos_sha256"]) == 10
    assert manifest["datasets"] == {"MSVD": {"questions": 10, "videos": 10}}


@pytest.mark.parametrize(
    "vid_path",
    [
        pytest.param("Eval_video_2/MSVD/3.mp4", id="folder-of-sets"),
        pytest.param("Eval_video/msvd/3.MP4", id="case"),
        pytest.param("Eval_video/MSVD/e\u0301.mp4", id="form-of-unicode"),
    ],
)
def test_videos_that_would_become_one_are_refused(benchmark, vid_path):
    other = "Eval_video/MSVD/\u00e9.mp4" if "\u0301" in vid_path else "Eval_video/MSVD/3.mp4"
    move_video(benchmark, 3, other, "one")
    move_video(benchmark, 4, vid_path, "two")
    found = r"MSVD_QA_new\.json: question '(3|4)' of MSVD: its video {} would get the same place .* as {} of MSVD/(3|4)"
    with pytest.raises(InputError, match="|".join((found.format(other, vid_path), found.format(vid_path, other)))):
        extract(benchmark, "--nums", 10)
    assert not (benchmark / "sample").exists()
    (benchmark / "exclude").write_text("MSVD/4")  # one of the fixes that the line names
    extract(benchmark, "--nums", 9, "--exclude", benchmark / "exclude")
    assert verify(benchmark) == 0
