"""A hostile, broken or strange file costs its own questions only, and so does one beyond a limit."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.stream import Disposition
from av.video.frame import VideoFrame

from tests.support.clip_table import FAST
from tests.support.clip_writer import QUIET_X265, picture, write_clip
from tests.support.odd_files import with_cover_first
from videobench.errors import VideoError
from videobench.video import container as container_module
from videobench.video.frames import sample_frames

PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclip.ts\n#EXT-X-ENDLIST\n"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", "libx264", options=FAST, gop=12)


def assert_refused(video: Path, reason: str) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        sample_frames(video, 8)
    assert str(video) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("empty.mp4", b"", "cannot be opened", id="empty"),
        pytest.param("text.mp4", b"This is not a video.\n" * 99, "cannot be opened", id="text"),
        pytest.param("text.txt", b"This is drawn as a picture by FFmpeg.\n" * 99, "cannot be opened", id="text-as-art"),
        pytest.param("zeros.avi", bytes(9999), "cannot be opened", id="zeros"),
        pytest.param("playlist.mp4", PLAYLIST.encode(), "cannot be opened", id="playlist-in-disguise"),
        pytest.param("playlist.m3u8", PLAYLIST.encode(), "cannot be opened", id="playlist"),
        pytest.param("list.ffconcat", b"ffconcat version 1.0\nfile clip.ts\n", "cannot be opened", id="list-of-files"),
    ],
)
def test_a_file_that_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    write_clip(tmp_path / "clip.ts", "mpeg2video")  # what the playlists name, and must not reach
    assert_refused(tmp_path / name, "no such file")
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, reason)


def test_tags_in_another_encoding_are_passed_over(tmp_path: Path) -> None:
    for suffix, codec in ((".mkv", "libx264"), (".avi", "mpeg4")):
        clip = write_clip(tmp_path / f"clip{suffix}", codec)
        expected = sample_frames(clip, 8).pixels
        assert clip.read_bytes().count(b"Lavf")  # the program that wrote it
        clip.write_bytes(clip.read_bytes().replace(b"Lavf", b"\xff\xfeaf"))
        np.testing.assert_array_equal(sample_frames(clip, 8).pixels, expected)


def test_broken_headers_of_the_decoder_are_refused(tmp_path: Path) -> None:
    """FFmpeg opens the file, but no decoder for it."""
    clip = write_clip(tmp_path / "clip.mp4", "libx265", options={"preset": "ultrafast", "x265-params": QUIET_X265})
    content = clip.read_bytes()
    headers = content.index(b"hvcC")
    clip.write_bytes(content[: headers + 26] + b"\xff" * 40 + content[headers + 66 :])
    assert_refused(clip, "no frame decodes")


def test_a_name_that_looks_like_an_address_is_a_files(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip.rename(tmp_path / "http:clip %d.mp4")
    monkeypatch.chdir(tmp_path)
    assert sample_frames(Path("http:clip %d.mp4"), 8).decoded == 60


def test_a_file_with_sound_alone_is_refused(tmp_path: Path) -> None:
    sound = tmp_path / "sound.m4a"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert_refused(sound, "no video stream")


def write_with_cover(path: Path, num_frames: int) -> None:
    """A film of `num_frames` frames, 96 x 64, and a cover picture, 32 x 32."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 32, 32, "yuvj420p", Disposition.attached_pic
        film = container.add_stream("mpeg4", rate=25)
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        still = VideoFrame.from_ndarray(picture(0, 32, 32), format="yuv420p").reformat(format="yuvj420p")
        still.pts = 0
        container.mux(cover.encode(still) + cover.encode(None))
        for index in range(num_frames):
            frame = VideoFrame.from_ndarray(picture(index, 96, 64), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(film.encode(frame))
        container.mux(film.encode(None))


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_with_cover(film, 30)
    film.write_bytes(with_cover_first(film.read_bytes()))
    with av.open(str(film)) as container:
        assert container.streams.video[0].width == 32
    assert sample_frames(film, 8).decoded == 30
    assert sample_frames(film, 8).pixels.shape == (8, 64, 96, 3)


@pytest.fixture
def two_sizes(tmp_path: Path) -> Path:
    """20 frames of 96 x 64, then 20 of 192 x 128."""
    small = write_clip(tmp_path / "small.ts", "mpeg2video", 20).read_bytes()
    large = write_clip(tmp_path / "large.ts", "mpeg2video", 20, (192, 128)).read_bytes()
    (tmp_path / "both.ts").write_bytes(small + large)
    return tmp_path / "both.ts"


def test_frames_of_two_sizes_are_refused(two_sizes: Path) -> None:
    assert_refused(two_sizes, "frames change from 96 x 64 to 192 x 128")


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        pytest.param("MAX_PIXELS", 96 * 64 - 1, "frames of 96 x 64 are larger than 6143 pixels", id="pixels"),
        pytest.param("MAX_ASPECT_RATIO", 1.4, "one side is more than 1.4 times the other", id="aspect"),
        pytest.param("MAX_PACKETS", 59, "more than 59 packets", id="packets"),
    ],
)
def test_a_video_beyond_a_limit_is_refused(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, reason: str
) -> None:
    decoded_whole = write_clip(tmp_path / "clip.ts", "mpeg2video")
    for video in (clip, decoded_whole):
        assert sample_frames(video, 8).decoded == 60
    monkeypatch.setattr(container_module, limit, value)
    for video in (clip, decoded_whole):
        assert_refused(video, reason)


def test_the_decoder_itself_refuses_a_frame_over_the_limit(two_sizes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may promise small frames and hold large ones: they are refused before memory is taken for them."""
    monkeypatch.setitem(
        container_module.DECODER_OPTIONS, "max_pixels", str(128 * 64)
    )  # FFmpeg counts padding of rows too
    frames = sample_frames(two_sizes, 8)
    assert frames.decoded == 19  # of 20: the decoder loses the one that it held when the size changed
    assert frames.pixels.shape == (8, 64, 96, 3)
