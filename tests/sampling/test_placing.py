"""A sample's files: byte-equal to the originals, or refused; what is right is kept, so an interrupted start goes on."""

import errno
import os
import shutil
from collections import namedtuple
from itertools import permutations

import pytest

from tests.support.stand_in import extract, read, sampled
from videobench.errors import InputError
from videobench.files import sha256_of_file


def videos(benchmark):
    """`<dataset>/<file>` -> path in the sample."""
    folder = benchmark / "sample" / "Eval_video" / "sampling_data"
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if not path.is_dir()}


def original(benchmark, name):
    return benchmark / "VideoBench" / "Eval_video" / name


@pytest.mark.parametrize("mode", ["copy", "hardlink", "symlink"])
def test_every_video_is_byte_equal_to_its_own_original(benchmark, mode):
    for _ in range(2):
        extract(benchmark, "--nums", "20", "--copy_mode", mode)
        assert len(videos(benchmark)) == 10
        for name, path in videos(benchmark).items():
            assert path.read_bytes() == original(benchmark, name).read_bytes() == f"{name[:-6]} {name[-5]}".encode()
            assert path.is_symlink() == (mode == "symlink")
            assert path.samefile(original(benchmark, name)) == (mode != "copy")


@pytest.mark.parametrize(("before", "after"), [*permutations(["copy", "hardlink", "symlink"], 2)])
def test_another_copy_mode_replaces_what_is_there(benchmark, before, after):
    for mode in (before, after):
        extract(benchmark, "--nums", "20", "--copy_mode", mode)
    path = videos(benchmark)["NBA/3.mp4"]
    assert path.is_symlink() == (after == "symlink")
    assert path.samefile(original(benchmark, "NBA/3.mp4")) == (after != "copy")
    if after == "copy":
        path.write_bytes(b"changed")
    assert original(benchmark, "NBA/3.mp4").read_bytes() == b"NBA 3"


@pytest.mark.parametrize("flags", [("--copy_mode", "copy"), ("--copy_mode", "symlink"), ("--overwrite",)])
def test_a_video_of_the_benchmark_is_never_written_over_or_removed(benchmark, flags):
    """If the sample's folder is a link to it. A link to itself would be all that is left of a video."""
    folder = benchmark / "sample/Eval_video"
    folder.mkdir(parents=True)
    (folder / "sampling_data").symlink_to(benchmark / "VideoBench/Eval_video")
    with pytest.raises(InputError, match="is itself a video of the benchmark"):
        extract(benchmark, "--nums", "4", *flags)
    assert {path.read_bytes() for path in (benchmark / "VideoBench").rglob("*.mp4")} == {
        f"{name} {number}".encode() for name in ("NBA", "Driving-decision-making") for number in range(5)
    }


def test_a_second_start_keeps_what_is_right_and_replaces_the_rest(benchmark):
    extract(benchmark, "--nums", "20")
    paths = videos(benchmark)
    paths["NBA/0.mp4"].write_bytes(b"NBA 9")  # of the right size
    paths["NBA/1.mp4"].write_bytes(b"NB")
    paths["NBA/2.mp4"].unlink()
    paths["NBA/3.mp4"].with_name("3.mp4.part").write_bytes(b"N")  # of a start that was killed
    touched = {f"NBA/{number}.mp4" for number in range(3)}
    kept = {name: path.stat() for name, path in paths.items() if name not in touched}
    extract(benchmark, "--nums", "20")
    for name, status in kept.items():
        assert (status.st_ino, status.st_mtime_ns) == (paths[name].stat().st_ino, paths[name].stat().st_mtime_ns)
    for name, path in paths.items():
        assert path.read_bytes() == original(benchmark, name).read_bytes()


def test_videos_of_another_sample_are_named_and_overwrite_removes_them(benchmark, capsys):
    extract(benchmark, "--nums", "4")
    extract(benchmark, "--nums", "12")  # holds the smaller one
    assert "are not of this sample" not in capsys.readouterr().err
    before = set(videos(benchmark))
    extract(benchmark, "--nums", "4", "--seed", "1")
    others = sorted(before - set(read_videos(benchmark)))
    named = f"sampling_data: {len(others)} files, first {others[0]}, are not of this sample"
    assert f"{named} (another --seed or --nums?) and stay" in capsys.readouterr().err
    assert before <= set(videos(benchmark))
    extract(benchmark, "--nums", "4", "--seed", "1", "--overwrite")
    assert capsys.readouterr().err.endswith(f"{len(others)} files removed that are not of this sample\n")
    assert sorted(videos(benchmark)) == read_videos(benchmark)


def test_a_copy_that_differs_from_its_original_is_refused(benchmark, monkeypatch):
    copy = shutil.copyfile

    def corrupting(source, target):
        copy(source, target)
        if source == original(benchmark, "NBA/3.mp4"):
            target.write_bytes(b"NBA 8")

    monkeypatch.setattr(shutil, "copyfile", corrupting)
    with pytest.raises(InputError, match=r"sampling_data/NBA/3\.mp4: the copy differs from .*Eval_video/NBA/3\.mp4"):
        extract(benchmark, "--nums", "20")
    assert not [name for name in videos(benchmark) if name.startswith("NBA/3") or name.endswith(".part")]
    assert not list((benchmark / "sample/json").iterdir())


def test_too_little_room_is_found_before_anything_is_written(benchmark, monkeypatch):
    needed = 5 * sum(len(f"{name} 0") for name in ("NBA", "Driving-decision-making"))
    free = needed - 1
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - free, free))
    with pytest.raises(InputError, match=rf"sample/Eval_video: .* take {needed} bytes, but only {free} are free"):
        extract(benchmark, "--nums", "20")
    assert not (benchmark / "sample").exists()
    free += 1
    extract(benchmark, "--nums", "20")
    free = 0  # what is there already needs none
    extract(benchmark, "--nums", "20")


@pytest.mark.parametrize(
    ("error", "flags"),
    [
        pytest.param(errno.EXDEV, ["--copy_mode", "hardlink"], id="another-file-system"),
        pytest.param(errno.ENOSPC, [], id="disk-full"),
    ],
)
def test_a_disk_that_refuses_a_video_is_named(benchmark, monkeypatch, error, flags):
    def refuse(*paths):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", refuse)
    found = rf"sampling_data/Driving-decision-making/\d\.mp4: cannot be made from .*\({os.strerror(error)}\)"
    with pytest.raises(InputError, match=found):
        extract(benchmark, "--nums", "20", *flags)
    assert videos(benchmark) == {}  # nor is a .part left


def test_the_manifest_describes_what_the_sample_was_made_from(benchmark):
    extract(benchmark, "--nums", "20", "--seed", "4", "--strategy", "proportional")
    manifest = read(benchmark, "sampling_manifest.json")
    assert (manifest["seed"], manifest["nums"], manifest["strategy"]) == (4, 20, "proportional")
    assert manifest["datasets"] == {name: {"questions": 10, "videos": 5} for name in ("NBA", "Driving-decision-making")}
    assert manifest["inputs_sha256"]["ANSWER.json"] == sha256_of_file(benchmark / "Video-Bench/ANSWER.json")
    assert list(manifest["videos_sha256"]) == list(manifest["videos_bytes"]) == sorted(videos(benchmark))
    for name, path in videos(benchmark).items():
        assert manifest["videos_sha256"][name] == sha256_of_file(path)
        assert manifest["videos_bytes"][name] == path.stat().st_size
    for name, digest in manifest["outputs_sha256"].items():
        assert sha256_of_file(benchmark / "sample/json" / name) == digest


def test_a_video_that_does_not_decode_is_replaced_and_named(benchmark, video_root, capsys):
    clip = next((video_root / "Eval_video").rglob("*.mp4"))
    for path in (benchmark / "VideoBench").rglob("*.mp4"):
        if path.name not in ("1.mp4", "2.mp4") or "NBA" not in path.parts:
            shutil.copy(clip, path)
    extract(benchmark, "--nums", "12", "--check_videos", "--strategy", "stratified", "--num_workers", "1")
    assert not {f"NBA/{number}" for number in (2, 3, 4, 5)} & set(sampled(benchmark))
    captured = capsys.readouterr()
    left_out = sorted(line for line in captured.err.splitlines() if line.startswith("left out: "))
    assert len(left_out) == 2
    assert "NBA/1.mp4: " in left_out[0]
    assert "NBA/2.mp4: " in left_out[1]
    assert "2 undecodable videos replaced" in captured.out
    manifest = read(benchmark, "sampling_manifest.json")
    assert manifest["check_videos"] is True
    assert manifest["undecodable"] == ["NBA/1.mp4", "NBA/2.mp4"]
    assert {name: each["questions"] for name, each in manifest["datasets"].items()} == {
        "NBA": 6,
        "Driving-decision-making": 6,
    }


def read_videos(benchmark):
    return list(read(benchmark, "sampling_manifest.json")["videos_sha256"])
