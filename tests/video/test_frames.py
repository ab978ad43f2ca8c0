"""Frames are bit-equal to those of decoding everything, for every kind of file."""

from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import pytest
from av.error import FFmpegError

from tests.support.clip_table import AV1, CLIPS, ENCODER_CASES, ENCODER_SIZES, FAST, REAL_TIME, REFUSED_CASES, X265
from tests.support.clip_writer import QUIET_X265, write_clip
from tests.support.odd_files import damaged, replaced_once, with_edits, with_rotation
from videobench.errors import VideoError
from videobench.video import frames as frames_module
from videobench.video.container import DECODERS, FORMATS, METADATA, demux, open_video, to_rgb
from videobench.video.frames import (
    Frames,
    NotSparseError,
    decode_sparsely,
    may_be_sparse,
    read_timeline,
    sample_frames,
    spread,
)

NUM_FRAMES = 8


def decode_everything(video: Path) -> list[np.ndarray]:
    """The plainest reader: every packet goes to the decoder, every frame is kept; what does not decode is skipped."""
    frames = []
    with av.open(str(video), **METADATA) as container:
        for packet in container.demux(video=0):
            try:
                frames += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except FFmpegError:
                continue
    return frames


def sample_whole(video: Path, num_frames: int) -> Frames:
    """As if no codec were decoded sparsely."""
    with patch.object(frames_module, "CODECS", ()):
        return sample_frames(video, num_frames)


def assert_exact(video: Path, num_frames: int = NUM_FRAMES) -> Frames:
    everything = decode_everything(video)
    expected = np.stack([everything[k * len(everything) // num_frames] for k in range(num_frames)])
    for sample in (sample_whole, sample_frames):
        found = sample(video, num_frames)
        assert found.decoded == len(everything)
        np.testing.assert_array_equal(found.pixels, expected)
    return found


def frame_alone(video: Path, index: int) -> np.ndarray:
    """Decodes as little as this one frame needs; raises NotSparseError."""
    with open_video(video) as opened:
        timeline = read_timeline(opened)
        (frame,) = decode_sparsely(video, timeline, timeline.shown[[index]])
        return to_rgb(video, frame)


def is_sparse(video: Path) -> bool:
    with open_video(video) as opened:
        try:
            timeline = read_timeline(opened)
            decode_sparsely(video, timeline, timeline.shown[spread(len(timeline.shown), NUM_FRAMES)])
        except NotSparseError:
            return False
        return may_be_sparse(opened)


@pytest.mark.parametrize(("suffix", "codec", "arguments", "sparse"), [pytest.param(*c[1:], id=c[0]) for c in CLIPS])
def test_the_frames_of_each_clip_are_exact(
    tmp_path: Path, suffix: str, codec: str, arguments: dict, sparse: bool
) -> None:
    clip = write_clip(tmp_path / f"clip{suffix}", codec, **arguments)
    assert_exact(clip)
    assert_exact(clip, 32)
    assert is_sparse(clip) == sparse
    for index, expected in enumerate(decode_everything(clip)[:61] if sparse else []):
        np.testing.assert_array_equal(frame_alone(clip, index), expected, err_msg=f"frame {index}")


def write_with(folder: Path, suffix: str, codec: str, pix_fmt: str) -> Path:
    if codec not in av.codecs_available:
        pytest.skip("this build of PyAV lacks the encoder")
    options = {"strict": "-2"} | ({"x265-params": QUIET_X265} if codec == "libx265" else {})
    size = ENCODER_SIZES.get(codec, (128, 96))
    return write_clip(folder / f"clip{suffix}", codec, 20, size, pix_fmt=pix_fmt, options=options, gop=6)


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt"), [pytest.param(*c, id=c[1]) for c in ENCODER_CASES])
def test_every_encoders_frames_are_exact(tmp_path: Path, suffix: str, codec: str, pix_fmt: str) -> None:
    assert_exact(write_with(tmp_path, suffix, codec, pix_fmt))


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt"), [pytest.param(*c, id=c[1]) for c in REFUSED_CASES])
def test_what_nobody_uses_is_refused(tmp_path: Path, suffix: str, codec: str, pix_fmt: str) -> None:
    clip = write_with(tmp_path, suffix, codec, pix_fmt)
    with pytest.raises(VideoError, match=r"codec \w+ is not supported; |cannot be opened as a"):
        sample_frames(clip, NUM_FRAMES)


def test_names_of_formats_and_decoders_are_those_of_ffmpeg() -> None:
    assert set(DECODERS) <= av.codecs_available
    assert set(FORMATS) <= {name for each in av.formats_available for name in each.split(",")}


def test_indices_are_those_of_the_original() -> None:
    for total in range(1, 3000):
        assert spread(total, 8) == np.arange(0, total, total / 8).astype(int)[:8].tolist()
    assert spread(3, 8) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_no_count_of_frames_is_needed(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", "libx264", options=FAST)
    assert (assert_exact(clip).stated, assert_exact(clip).decoded) == (0, 60)


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])  # decoded sparsely, and whole
@pytest.mark.parametrize("stated", [4, 59, 61, 100_000])
def test_a_wrong_count_of_frames_is_seen_through(tmp_path: Path, codec: str, stated: int) -> None:
    clip = write_clip(tmp_path / "clip.avi", codec, pix_fmt="yuv420p" if codec == "mpeg4" else "yuvj420p")
    header = clip.read_bytes()
    at = header.index(b"strh") + 8 + 32  # the length of the stream in frames
    clip.write_bytes(header[:at] + stated.to_bytes(4, "little") + header[at + 4 :])
    found = assert_exact(clip)
    assert (found.decoded, found.stated) == (60, stated)


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        pytest.param(".mp4", "libx264", {"movflags": "faststart"}, id="mp4"),
        pytest.param(".mkv", "libx264", {}, id="mkv"),
        pytest.param(".avi", "mpeg4", {}, id="avi"),
        pytest.param(".ts", "mpeg2video", {}, id="ts"),
        pytest.param(".gif", "gif", {}, id="gif"),
        pytest.param(".webm", "libvpx-vp9", {}, id="webm"),
    ],
)
def test_a_cut_file_gives_what_decodes(tmp_path: Path, suffix: str, codec: str, options: dict) -> None:
    pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
    size = (192, 128)  # larger than the header that AVI reserves
    clip = write_clip(tmp_path / f"whole{suffix}", codec, 60, size, pix_fmt=pix_fmt, gop=12, container_options=options)
    whole = clip.read_bytes()
    for part in (0.5, 0.75, 0.9):
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(whole[: int(len(whole) * part)])
        assert 3 < assert_exact(cut).decoded < 60


def test_tail_of_zeros_counts_what_decodes(tmp_path: Path) -> None:
    """As an interrupted download leaves it: the index in front names packets that were never written."""
    clip = write_clip(
        tmp_path / "clip.mp4", "libx264", options=FAST, gop=12, container_options={"movflags": "faststart"}
    )
    whole = clip.read_bytes()
    clip.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    found = assert_exact(clip)
    assert 10 < found.decoded < 50
    assert found.stated == 60


DAMAGED_CLIPS = [
    ("h264.mp4", "libx264", {"options": FAST, "gop": 8}),
    ("h264-no-b.mkv", "libx264", {"options": FAST, "gop": 12, "b_frames": 0}),
    ("h264.avi", "libx264", {"options": FAST, "gop": 12, "b_frames": 0}),
    ("h264.ts", "libx264", {"options": FAST, "gop": 12}),
    ("hevc.mp4", "libx265", {"options": X265, "gop": 8}),
    ("vp9.webm", "libvpx-vp9", {"options": REAL_TIME, "gop": 8}),
    ("vp8.webm", "libvpx", {"options": REAL_TIME, "gop": 8}),
    ("av1.mp4", "libsvtav1", {"options": AV1, "gop": 8}),
    ("mpeg4.mp4", "mpeg4", {"gop": 8, "b_frames": 2}),
    ("clip.gif", "gif", {"pix_fmt": "rgb8"}),
]


def sampled_or_refused(sample: Callable[[Path, int], Frames], video: Path) -> Frames | None:
    try:
        return sample(video, NUM_FRAMES)
    except VideoError:
        return None


@pytest.mark.parametrize("num_files", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "codec", "arguments"), [pytest.param(*each, id=each[0]) for each in DAMAGED_CLIPS])
def test_a_damaged_file_gives_the_same_frames_twice(
    tmp_path: Path, name: str, codec: str, arguments: dict, num_files: int
) -> None:
    """Or it is refused twice, which few files are. The frames are those of decoding everything, unless the damage is
    in a part that is not decoded."""
    video = write_clip(tmp_path / name, codec, **arguments)
    whole = video.read_bytes()
    refused = differ = 0
    for seed in range(num_files):
        video.write_bytes(damaged(whole, seed))
        ways = (sample_whole, sample_frames, sample_frames)
        expected, found, again = (sampled_or_refused(way, video) for way in ways)
        assert (found is None) == (again is None) == (expected is None), seed
        if found is None or again is None or expected is None:
            refused += 1
            continue
        assert found.pixels.shape[0] == NUM_FRAMES
        assert found.decoded == again.decoded
        assert np.array_equal(found.pixels, again.pixels), seed
        if found.decoded != expected.decoded or not np.array_equal(found.pixels, expected.pixels):
            assert is_sparse(video), seed
            differ += 1
    assert refused < num_files / 2
    assert differ <= 1 + 0.03 * num_files


@pytest.mark.parametrize("damaged_packet", [6, 7])  # frame 6 is wanted, frame 7 is not
def test_a_damaged_frame_is_left_out_if_it_is_wanted(tmp_path: Path, damaged_packet: int) -> None:
    """If damage is met, everything is decoded and the frame is left out; otherwise it is not noticed."""
    clip = write_clip(tmp_path / "clip.avi", "mpeg4", 16, gop=1)
    with open_video(clip) as opened:
        packet = [bytes(each) for each in demux(opened)][damaged_packet]
    sound = sample_frames(clip, NUM_FRAMES)
    # Bits 14 to 18 behind the start code of an intra picture are its quantiser, which is never 0.
    at = packet.index(b"\0\0\1\xb6") + 5
    no_quantiser = bytes((packet[at] & 0xFC, packet[at + 1] & 0x1F))
    clip.write_bytes(replaced_once(clip.read_bytes(), packet, at=at, change=no_quantiser))
    assert len(decode_everything(clip)) == 15
    if damaged_packet == 6:
        assert assert_exact(clip).decoded == 15
    else:
        np.testing.assert_array_equal(sample_frames(clip, NUM_FRAMES).pixels, sound.pixels)


def test_rotation_is_ignored(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "libx264", options=FAST)
    upright = sample_frames(clip, NUM_FRAMES)
    rotated = tmp_path / "rotated.mp4"
    rotated.write_bytes(with_rotation(clip.read_bytes()))
    with av.open(str(rotated)) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90
    np.testing.assert_array_equal(sample_frames(rotated, NUM_FRAMES).pixels, upright.pixels)


def copy_packets(clip: Path, copy: Path, change: Callable[[int, av.Packet], av.Packet]) -> Path:
    """Copy the packets, each as `change` returns it, with their times."""
    with av.open(str(clip)) as source, av.open(str(copy), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(filter(lambda each: each.size, source.demux(video=0))):
            changed = change(number, packet)
            changed.stream, changed.time_base, changed.duration = stream, packet.time_base, packet.duration
            changed.pts, changed.dts = packet.pts, packet.dts
            container.mux(changed)
    return copy


def test_frames_whose_times_are_those_of_decoding_are_exact(tmp_path: Path) -> None:
    """If the two wanted of 62 frames are no B-frames, no frame comes out of order and betrays it."""

    def shown_when_decoded(_: int, packet: av.Packet) -> av.Packet:
        packet.pts = packet.dts
        changed = av.Packet(bytes(packet))
        changed.is_keyframe = packet.is_keyframe
        return changed

    options = {"preset": "veryfast", "x264-params": "b-adapt=0:scenecut=0"}
    clip = write_clip(tmp_path / "clip.mp4", "libx264", 62, options=options, gop=99, b_frames=1)
    copy = copy_packets(clip, tmp_path / "copy.mp4", shown_when_decoded)
    assert_exact(copy, 2)
    assert_exact(copy)


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_placeholders_are_no_frames(tmp_path: Path, suffix: str) -> None:
    """MPEG-4 has pictures that are "not coded", of a few bytes, for which the decoder gives nothing."""

    def not_coded(number: int, packet: av.Packet) -> av.Packet:
        if number not in (7, 31):
            return av.Packet(bytes(packet))
        before, start, picture = bytes(packet).partition(b"\0\0\1\xb6")
        bits = f"{int.from_bytes(picture[:4], 'big'):032b}"
        is_coded_at = bits.index("0", 2) + 8  # behind type, seconds, a marker, the time in 5 bits and another marker
        return av.Packet(before + start + int(bits[:is_coded_at].ljust(32, "0"), 2).to_bytes(4, "big"))

    clip = write_clip(tmp_path / f"clip{suffix}", "mpeg4", gop=12)
    copy = copy_packets(clip, tmp_path / f"copy{suffix}", not_coded)
    assert len(decode_everything(copy)) == 58
    assert_exact(copy)


def test_frames_that_are_wrongly_called_key_frames_are_exact(tmp_path: Path) -> None:
    def call_key_frame(_: int, packet: av.Packet) -> av.Packet:
        changed = av.Packet(bytes(packet))
        changed.is_keyframe = True
        return changed

    clip = write_clip(tmp_path / "clip.mp4", "mpeg4", gop=12)
    copy = copy_packets(clip, tmp_path / "copy.mp4", call_key_frame)
    with open_video(copy) as opened:
        assert len(read_timeline(opened).starts) == 60
    assert_exact(copy)


@pytest.mark.parametrize(
    "edits",
    [
        pytest.param([(1.0, 0.5)], id="one"),
        pytest.param([(0.4, None), (1.0, 0.52)], id="after-a-pause"),
        pytest.param([(0.6, 0.2), (0.6, 1.4)], id="a-part-left-out"),
        pytest.param([(0.6, 1.4), (0.6, 0.2)], id="backwards"),
        pytest.param([(0.6, 0.2), (0.6, 0.2)], id="one-part-twice"),
        pytest.param([(1.4794522549843965, 0.84), (0.24, 0.08)], id="parts-that-overlap-in-time"),
    ],
)
@pytest.mark.parametrize("b_frames", [0, 3])
def test_an_edit_list_changes_no_frame(tmp_path: Path, edits: list[tuple[float, float | None]], b_frames: int) -> None:
    clip = write_clip(tmp_path / "clip.mp4", "libx264", options=FAST, gop=12, b_frames=b_frames)
    clip.write_bytes(with_edits(clip.read_bytes(), edits))
    assert_exact(clip)
    assert_exact(clip, 37)
