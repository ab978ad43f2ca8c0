"""Missing videos: the message says where they are, or gives the command that unpacks them."""

import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.fault_tools import SET, Bench
from videobench.commands import interpreter, quote


@pytest.fixture
def bench(tmp_path, capsys):
    return Bench(tmp_path / "数据 set", capsys).shorten(8)


def zip_of(folder, archive, root):
    with zipfile.ZipFile(archive, "w") as file:
        for each in sorted(folder.iterdir()):
            file.write(each, each.relative_to(root))


def tar_of(folder, archive):
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as file:
        file.add(folder, folder.name)


def split(archive, suffixes):
    content = archive.read_bytes()
    size = -(-len(content) // len(suffixes))
    for number, suffix in enumerate(suffixes):
        Path(f"{archive}{suffix}").write_bytes(content[number * size : (number + 1) * size])
    archive.unlink()


# Each packs the folder of the set below Eval_video.
PACKED = {
    "zip-with-its-folder": lambda folder, up: zip_of(folder, up / f"{SET}.zip", up),
    "zip-of-bare-files": lambda folder, up: zip_of(folder, up / f"{SET}.zip", folder),
    "zip-of-all-in-the-root": lambda folder, up: zip_of(folder, up.parent / "all videos.zip", up.parent),
    "tar": lambda folder, up: tar_of(folder, up / f"{SET}.tar"),
    "tar-gz": lambda folder, up: tar_of(folder, up / f"{SET}.tar.gz"),
    "split-zip": lambda folder, up: (
        zip_of(folder, up / f"{SET}.zip", up), split(up / f"{SET}.zip", [".001", ".002", ".003"])
    ),
    "split-tar": lambda folder, up: (
        tar_of(folder, up / f"{SET}.tar.gz"), split(up / f"{SET}.tar.gz", [".part-aa", ".part-ab"])
    ),
}  # fmt: skip


def run_printed(command):
    subprocess.run(["bash", "-ec", command], env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, "two  spaces it's") for kind in PACKED), ("split-tar", "全角\u3000空格")]
)
def test_the_command_that_is_printed_unpacks_them(tmp_path, capsys, kind, name):
    bench = Bench(tmp_path / name, capsys).shorten(8)
    PACKED[kind](bench.videos, bench.videos.parent)
    shutil.rmtree(bench.videos)
    said = [bench.sample().err, bench.answer("--dry_run").err, bench.answer().err]
    commands = {line.partition(" may hold it: ")[2].strip() for line in said}
    assert len(commands) == 1, said
    run_printed(commands.pop())
    assert bench.sample().status == bench.answer("--dry_run").status == 0


def test_some_are_still_packed(bench):
    packed = bench.videos / "rest.zip"
    first = bench.videos.parents[1] / next(iter(bench.rows().values()))["vid_path"]
    with zipfile.ZipFile(packed, "w") as file:
        file.write(first, first.name)
    first.unlink()
    for outcome in (bench.sample("--nums", 1), bench.answer("--dry_run"), bench.answer()):
        [line] = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
        assert (
            f"{packed} may hold it: {interpreter()} -m zipfile -e {quote(str(packed))} {quote(str(bench.videos))}"
            in line
        )
    run_printed(line.partition(" may hold it: ")[2])
    assert bench.answer().status == 0


def test_a_folder_of_a_set_that_is_still_packed(bench):
    PACKED["zip-with-its-folder"](bench.videos, bench.videos.parent)
    shutil.rmtree(bench.videos)
    flags = bench.run_flags()
    at = flags.index("--Eval_Video_root")
    flags[at : at + 2] = ["--image_or_video_path", str(bench.videos)]
    outcome = bench.start("run_gpu", *flags)
    assert outcome.status == 2
    assert (
        f"{bench.videos}: no such folder of videos; {bench.videos}.zip may hold it: {interpreter()} -m zipfile"
        in outcome.err
    )


@pytest.mark.parametrize("name", ["MOT.zip", "MOT.tar.gz", "notes.tar", "MSVD.zip.part", "MSVD.mp4"])
def test_an_archive_of_something_else_is_not_named(bench, name):
    other = bench.videos.parent / "MOT"
    bench.videos.rename(other)
    if name.startswith("MOT."):
        (
            zip_of(other, other.parent / name, other.parent)
            if name.endswith("zip")
            else tar_of(other, other.parent / name)
        )
    else:
        (other.parent / name).write_bytes(b"PK\x03\x04")
    outcome = bench.sample()
    assert outcome.status == 2
    assert "check --Eval_Video_root, the folder that holds Eval_video/" in outcome.err
    assert "hold it" not in outcome.err


BELOW = "the videos are below {root}: give that in place of {given}"


@pytest.mark.parametrize(
    ("given", "moved", "found"),
    [
        pytest.param("Eval_video", None, BELOW, id="too-deep"),
        pytest.param(f"Eval_video/{SET}", None, BELOW, id="the-set"),
        pytest.param("..", None, BELOW, id="too-high"),
        pytest.param(".", "{set}/{set}", "there is a folder {root}/{set}/{set}: move what it ho", id="unpacked-twice"),
        pytest.param(".", "../{set}", "the folders of the sets are in {top} itself: move them", id="no-Eval_video"),
    ],
)
def test_a_wrong_level_of_folders_is_explained(bench, given, moved, found):
    top = bench.videos.parents[1]
    if moved:
        place = bench.videos.parent / moved.format(set=SET)
        bench.videos.rename(bench.folder / "aside")
        place.parent.mkdir(exist_ok=True)
        (bench.folder / "aside").rename(place)
    root = top if moved is None else bench.videos.parent
    expected = found.format(root=root, given=top / given, set=SET, top=top)
    for outcome in (bench.sample("--Eval_Video_root", top / given), bench.answer("--Eval_Video_root", top / given)):
        assert outcome.status == 2
        assert expected in outcome.err
