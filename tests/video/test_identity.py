"""A video's hash is that of its bytes; its stamp changes whenever they may have changed."""

import hashlib
import os

from videobench.video.identity import sha256_of_video, stamp_of


def test_a_file_is_known_by_its_bytes_and_a_stamp_shows_a_change(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"some video")
    first = stamp_of(video)
    assert first[0] == len(b"some video")
    assert sha256_of_video(video) == hashlib.sha256(b"some video").hexdigest()
    video.write_bytes(b"same video")
    os.utime(video, ns=(first[1], first[1]))  # of the same size and time
    assert stamp_of(video) != first
    assert stamp_of(tmp_path / "missing.mp4") is None


def test_a_folder_of_images_is_known_by_its_images_in_order(tmp_path):
    for name, content in (("10.jpg", b"ten"), ("2.jpg", b"two"), ("._2.jpg", b"of another system"), ("notes", b"")):
        (tmp_path / name).write_bytes(content)
    stamp, digest = stamp_of(tmp_path), sha256_of_video(tmp_path)
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in (("2.jpg", b"two"), ("10.jpg", b"ten"))
    ]
    assert digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    (tmp_path / "2.jpg").rename(tmp_path / "3.jpg")
    assert sha256_of_video(tmp_path) != digest
    assert stamp_of(tmp_path) != stamp
