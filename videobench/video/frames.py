"""Sample uint8 RGB frames from a video: always as many as requested.

Frame k of a sample is frame k * total // num_frames in presentation order. `total` is the number of frames that really
decode. Rotation metadata is ignored. Only this folder reads videos with av; report/page.py scales pictures with it.

Sparse decoding: for CODECS, the file is read once without decoding, to learn the time of every packet. Then only the
groups of pictures that hold a wanted frame are decoded. The frames are bit-equal to those of decoding everything: if
the times are doubtful, or the decoder reports anything, the whole file is decoded.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import av.logging
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from videobench.errors import VideoError
from videobench.video.container import OpenVideo, VideoPacket, decode_tolerantly, demux, open_video, to_rgb
from videobench.video.identity import IMAGE_SUFFIXES, images_in

# FFmpeg's names. Codecs whose decoders may hide damage are left out: HEVC, VP8 and MPEG-2 may end a picture early
# without an error, leaving old memory in the rest; AV1 may drop a damaged picture and those after it. VP9 gains too
# little: 6 %.
CODECS = ("h264", "mpeg4")
# In other containers the times of a stream with B-frames are missing or guessed.
REORDERING_CONTAINERS = ("mov", "matroska")
SMALLEST_MPEG4_PICTURE = 20  # bytes; a smaller packet may be a placeholder that gives no frame
# FFmpeg flags other H.264 pictures as key frames, too, but the decoder forgets all earlier ones only at an IDR picture
# (type 5).
ONLY_IDR = "filter_units=pass_types=5"
# Make any damage an error: concealing it would depend on frames that were not decoded.
STRICT_DECODER = {"err_detect": "crccheck+bitstream+buffer+explode"}

Shrink = Callable[[np.ndarray], np.ndarray]
Found = tuple[list[VideoFrame], int, int]  # the wanted frames, how many the video has, how many its file states


@dataclass(frozen=True)
class Frames:
    """A sample of the frames of one video, in presentation order."""

    pixels: np.ndarray  # uint8 RGB (num_frames, height, width, 3), or what `shrink` made of each frame
    width: int  # of a frame as decoded, in pixels
    height: int
    decoded: int  # how many frames the video really has
    stated: int  # how many its container states; 0 if it states none


def sample_frames(video: Path, num_frames: int, shrink: Shrink | None = None) -> Frames:
    """Sample frames from a video file or a folder of images; raises VideoError, naming the file, if it has none.

    `shrink` turns a frame, uint8 RGB (height, width, 3), into a smaller uint8 array, so that only one frame at a time
    is in memory at full size. Damage in a part that is not decoded is not noticed, and its packets count as frames."""
    frames, decoded, stated = _find_images(video, num_frames) if video.is_dir() else _find_frames(video, num_frames)
    size: tuple[int, int] | None = None
    pixels: list[np.ndarray] = []
    for frame, repeats in groupby(frames):  # a short video repeats frames
        if size and size != (frame.width, frame.height):
            raise VideoError(f"{video}: frames change from {size[0]} x {size[1]} to {frame.width} x {frame.height}")
        size = frame.width, frame.height
        rgb = to_rgb(video, frame)
        pixels += [shrink(rgb) if shrink else rgb] * sum(1 for _ in repeats)
    if size is None:
        raise VideoError(f"{video}: no frame decodes")
    return Frames(np.stack(pixels), *size, decoded, stated)


def spread(total: int, num_frames: int) -> list[int]:
    """Indices of the frames to take from `total`, ascending; some repeat if there are fewer than `num_frames`."""
    return [k * total // num_frames for k in range(num_frames)]


def _find_images(folder: Path, num_frames: int) -> Found:
    try:
        images = images_in(folder)
    except OSError as error:
        raise VideoError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    if not images:
        raise VideoError(f"{folder}: the folder holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    wanted = spread(len(images), num_frames)
    found = {index: _decode_image(images[index]) for index in dict.fromkeys(wanted)}
    return [found[index] for index in wanted], len(images), len(images)


def _decode_image(image: Path) -> VideoFrame:
    with open_video(image) as opened:
        for frame in decode_tolerantly(opened):
            return frame
        raise opened.refuse("the image does not decode")


def _find_frames(video: Path, num_frames: int) -> Found:
    with open_video(video) as opened:
        if not may_be_sparse(opened):
            return _decode_whole(opened, num_frames)
        with suppress(NotSparseError):
            timeline = read_timeline(opened)
            total = len(timeline.shown)
            frames = decode_sparsely(video, timeline, timeline.shown[spread(total, num_frames)])
            return frames, total, opened.stream.frames
    with open_video(video) as opened:
        return _decode_whole(opened, num_frames)


def _decode_whole(opened: OpenVideo, num_frames: int) -> Found:
    """Decode everything, and once more if the number of frames was not as expected."""
    expected = opened.stream.frames or _count_packets(opened.video)
    found, total = _frames_at(opened, spread(expected, num_frames))
    if total not in (0, expected):
        found.clear()  # frees their memory
        with open_video(opened.video) as again:
            found, total = _frames_at(again, spread(total, num_frames))
    wanted = spread(total, num_frames) if total else []
    return [found[index] for index in wanted], total, opened.stream.frames


def _frames_at(opened: OpenVideo, wanted: Sequence[int]) -> tuple[dict[int, VideoFrame], int]:
    """Return the frames at these indices, if they exist, and how many frames decode."""
    found, total = {}, 0
    for index, frame in enumerate(decode_tolerantly(opened)):
        total = index + 1
        if index in wanted:
            found[index] = frame
    return found, total


def _count_packets(video: Path) -> int:
    """Count packets up to the end of the file, or until demuxing fails."""
    count = 0
    with open_video(video) as opened, suppress(FFmpegError):
        for _ in demux(opened):
            count += 1
    return count


class NotSparseError(Exception):
    """The file has to be decoded whole."""


@dataclass(frozen=True)
class Timeline:
    """The packets of a video stream, numbered in decode order from 0; every shown packet is one frame."""

    pts: np.ndarray  # int64, of every packet, in the stream's time base
    shown: np.ndarray  # numbers of the shown packets, in presentation order
    starts: np.ndarray  # numbers of packets at which decoding may start, ascending from 0


def may_be_sparse(opened: OpenVideo) -> bool:
    """Whether the times of this codec in this container can be trusted; reads no packets."""
    context = opened.stream.codec_context
    in_known_container = any(name in opened.container.format.name for name in REORDERING_CONTAINERS)
    return context.codec.canonical_name in CODECS and (in_known_container or not context.reorder_depth)


def read_timeline(opened: OpenVideo) -> Timeline:
    """Demux the whole file without decoding. Raises NotSparseError."""
    pts, is_key, is_shown = array("q"), array("b"), array("b")
    is_h264 = opened.stream.codec_context.codec.canonical_name == "h264"
    try:
        idr_filter = BitStreamFilterContext(ONLY_IDR, opened.stream) if is_h264 else None
        for packet in demux(opened):
            if packet.pts is None or packet.is_corrupt:
                raise NotSparseError(f"packet {len(pts)} has no time or is damaged")
            if not is_h264 and packet.size < SMALLEST_MPEG4_PICTURE:
                raise NotSparseError(f"packet {len(pts)} may hold no picture")
            if pts and packet.has_sidedata("new_extradata"):
                raise NotSparseError(f"packet {len(pts)} brings headers on which later ones depend")
            pts.append(packet.pts)
            is_shown.append(not packet.is_discard)
            is_key.append(packet.is_keyframe and (not idr_filter or bool(idr_filter.filter(packet))))
    except FFmpegError as error:
        raise NotSparseError(f"packet {len(pts)} cannot be read: {error}") from error
    times = np.array(pts, np.int64)
    _check_times(times, opened.stream.codec_context.reorder_depth)
    order = np.argsort(times)
    places = np.flatnonzero(np.array(is_shown, bool)[order])
    if not len(places) or (np.diff(places) > 1).any():
        raise NotSparseError("the shown packets do not follow each other: several edits, or none")
    starts = _clean_starts(times, np.array(is_key, bool))
    if starts[:1].tolist() != [0]:
        raise NotSparseError("the first packet does not start the video")
    return Timeline(times, order[places], starts)


def _check_times(pts: np.ndarray, reorder_depth: int) -> None:
    """Raises NotSparseError if two times are equal, or if their order does not fit the decoder's reordering."""
    if len(np.unique(pts)) < len(pts):
        raise NotSparseError("two packets have one time")
    in_decode_order = bool((np.diff(pts) > 0).all())
    if in_decode_order == (reorder_depth > 0):
        raise NotSparseError("the times do not fit the order of decoding")


def _clean_starts(pts: np.ndarray, is_key: np.ndarray) -> np.ndarray:
    """Return key frames that separate all earlier packets from all later ones in both decode and presentation order.

    Other key frames begin an open group of pictures, whose first frames refer to the previous group."""
    newest_so_far = np.maximum.accumulate(pts)
    oldest_from_here = np.minimum.accumulate(pts[::-1])[::-1]
    return np.flatnonzero(is_key & (newest_so_far == pts) & (oldest_from_here == pts))


def decode_sparsely(video: Path, timeline: Timeline, wanted: np.ndarray) -> list[VideoFrame]:
    """Decode the groups that have these packets, numbers in presentation order, and return their frames.

    Raises NotSparseError."""
    firsts = timeline.starts[np.searchsorted(timeline.starts, wanted, side="right") - 1]
    found: dict[int, VideoFrame] = {}  # by time
    try:
        with open_video(video) as opened, _decoder_messages() as messages:
            decoder = opened.stream.codec_context
            decoder.options = decoder.options | STRICT_DECODER
            decoder.open(strict=False)  # opening resets skip_frame, which is set later
            packets = enumerate(demux(opened))
            for first in np.unique(firsts):
                numbers = wanted[firsts == first]
                decoder.flush_buffers()
                wanted_pts = set(timeline.pts[numbers].tolist())
                frames = _decode_group(decoder, packets, first, numbers.max(), wanted_pts)
                found |= _wanted_frames(frames, wanted_pts)
    except FFmpegError as error:
        raise NotSparseError(f"a group does not decode: {error}") from error
    if messages:
        raise NotSparseError(f"the decoder reports: {messages[0][2]}")
    return [found[pts] for pts in timeline.pts[wanted].tolist()]


@contextmanager
def _decoder_messages() -> Iterator[list[tuple[int, str, str]]]:
    """Collect FFmpeg's messages about this thread's decoding as (level, part, text), instead of printing them.

    A picture that ends early is not an error: the only sign is an INFO message about "concealing"."""
    level, skips_repeated = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.INFO)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips_repeated)


def _wanted_frames(frames: Iterator[VideoFrame], wanted_pts: set[int]) -> dict[int, VideoFrame]:
    """Return the wanted frames of a group by their times. Raises NotSparseError if one is missing or doubtful."""
    found: dict[int, VideoFrame] = {}
    newest = None
    for frame in frames:
        # Packets of an interlaced stream may be single fields, two per frame.
        if (
            frame.pts is None
            or frame.is_corrupt
            or frame.interlaced_frame
            or (newest is not None and frame.pts <= newest)
        ):
            raise NotSparseError(f"a frame at {frame.pts} follows one at {newest}, is damaged or interlaced")
        newest = frame.pts
        if frame.pts in wanted_pts:
            found[frame.pts] = frame
            if len(found) == len(wanted_pts):
                return found
    raise NotSparseError(f"{len(wanted_pts) - len(found)} frames did not come out")


def _decode_group(
    decoder: VideoCodecContext, packets: Iterator[tuple[int, VideoPacket]], first: int, last: int, wanted_pts: set[int]
) -> Iterator[VideoFrame]:
    """Decode packets `first` to `last`, but not the frames that are neither wanted nor needed for others."""
    for number, packet in packets:
        if number < first:
            continue
        # Both CODECS allow skipping frames that no other frame refers to.
        decoder.skip_frame = "DEFAULT" if packet.pts in wanted_pts else "NONREF"
        yield from decoder.decode(packet)
        if number == last:
            break
    yield from decoder.decode(None)  # frames held back for reordering
