"""Open, demux and decode one video file within limits; used by frames.py and its helpers."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from videobench.errors import VideoError

VideoPacket: TypeAlias = "Packet[VideoStream]"  # quoted: at runtime the class takes no argument

# Limits against hostile files; videos of the benchmark stay far below them.
MAX_PIXELS = 2**25  # per frame, enough for 7680 x 4320
MAX_ASPECT_RATIO = 64  # the resize keeps the shape: with 336 pixels the longer edge becomes up to 21504
MAX_PACKETS = 2_000_000  # in the video stream: 22 hours at 25 frames per second

# FFmpeg's names of the formats that people film, download and share. It has hundreds more: some open further files
# (playlists), and nearly all bugs found in FFmpeg every year are in formats that nobody uses.
FORMATS = (
    *("mov", "matroska", "webm", "avi", "asf", "flv", "gif", "apng", "mpeg", "mpegts", "mpegvideo", "ogg", "nut"),
    *("dv", "rm", "ivf", "h264", "hevc", "m4v", "av1", "obu", "mjpeg", "yuv4mpegpipe"),
    *("jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe"),  # for folders of images
)
DECODERS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "vp6", "vp6f", "theora", "flv", "h263", "h263p", "gif"),
    *("mpeg4", "mpeg1video", "mpeg2video", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1"),
    *("rv10", "rv20", "rv30", "rv40", "svq1", "svq3", "cinepak", "dvvideo", "mjpeg", "png", "apng", "webp", "bmp"),
    *("prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo"),
)
DECODER_OPTIONS = {"codec_whitelist": ",".join(DECODERS), "max_pixels": str(MAX_PIXELS)}
# The list of decoders also applies when FFmpeg probes the file while opening it, including its unneeded audio.
CONTAINER_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS), **DECODER_OPTIONS}
# Before PyAV 19, tags that are not UTF-8 are an error without this option, which later versions do not have.
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
THUMBNAIL = Disposition.attached_pic | Disposition.timed_thumbnails
# Errors that PyAV raises for a broken file: its own, and Python's for sizes and texts that FFmpeg does not check.
BROKEN_FILE = (FFmpegError, OSError, ValueError, MemoryError)


@dataclass
class OpenVideo:
    """An open video file."""

    video: Path
    container: InputContainer
    stream: VideoStream  # the one to decode; its codec_context is the decoder

    def refuse(self, reason: str) -> VideoError:
        return VideoError(f"{self.video}: {reason}")


@contextmanager
def open_video(video: Path) -> Iterator[OpenVideo]:
    """Open a file's first video stream that is not a cover picture, with one decoder thread.

    Raises VideoError, naming the file, if it is missing, not a video, or over a limit."""
    if not video.is_file():
        raise VideoError(f"{video}: {'not a regular file' if video.exists() else 'no such file'}")
    try:
        # Absolute, so that FFmpeg cannot mistake it for an address such as `http:...`.
        container = av.open(str(video.absolute()), options=CONTAINER_OPTIONS, **METADATA)
    except BROKEN_FILE as error:
        found = f"{video}: cannot be opened as a video: {_describe_error(error)}"
        hint = f"; it has {video.stat().st_size} bytes: if that is not all of it, download it again"
        raise VideoError(found + hint) from error
    with container:
        stream = _video_stream(video, container)
        stream.codec_context.thread_count = 1  # fastest when many videos are decoded at once
        stream.codec_context.options = DECODER_OPTIONS
        yield OpenVideo(video, container, stream)


def _video_stream(video: Path, container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & THUMBNAIL:
            break
    else:
        raise VideoError(f"{video}: has no video stream")
    if stream.codec_context is None:
        raise VideoError(f"{video}: no decoder for its video stream")
    if (name := stream.codec_context.codec.name) not in DECODERS:
        raise VideoError(f"{video}: codec {name} is not supported; convert the video, e.g. to H.264")
    check_size(video, stream.width, stream.height)
    return stream


def check_size(video: Path, width: int, height: int) -> None:
    """Raises VideoError if a frame's size in pixels is over the limits; 0 means not known yet and passes."""
    if width * height > MAX_PIXELS:
        raise VideoError(f"{video}: frames of {width} x {height} are larger than {MAX_PIXELS} pixels")
    if max(width, height) > MAX_ASPECT_RATIO * max(1, min(width, height)):
        raise VideoError(
            f"{video}: frames of {width} x {height}: one side is more than {MAX_ASPECT_RATIO} times the other"
        )


def _describe_error(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def demux(opened: OpenVideo) -> Iterator[VideoPacket]:
    """Yield non-empty packets in decode order; VideoError over a limit, FFmpegError if the file is damaged."""
    count = 0
    # PyAV 18 raises IndexError at the end of a file whose streams appeared late, as in a damaged TS.
    with suppress(IndexError):
        for packet in opened.container.demux(opened.stream):
            count += 1
            if count > MAX_PACKETS:
                raise opened.refuse(f"has more than {MAX_PACKETS} packets")
            # An empty packet would end decoding; in AVI it means that a frame repeats.
            if packet.size:
                yield packet


def decode_tolerantly(opened: OpenVideo) -> Iterator[VideoFrame]:
    """Yield all frames that decode, in presentation order; packets that do not are skipped, as in players.

    Raises MemoryError if memory runs out: skipping packets for that reason would change the frames."""
    decoder = opened.stream.codec_context
    packets = demux(opened)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            if _memory_ended(error):
                raise
            packet = None  # the file ends here
        try:
            yield from decoder.decode(packet)
        except FFmpegError as error:
            if _memory_ended(error):
                raise
            if not decoder.is_open:  # broken headers: nothing can be decoded
                return
        if packet is None:
            return


def _memory_ended(error: FFmpegError) -> bool:
    """Whether memory really ran out: dav1d and demuxers report that for damaged packets, too."""
    if not isinstance(error, MemoryError):
        return False
    try:
        np.empty(8 * MAX_PIXELS, np.uint8)
    except MemoryError:
        return True
    return False


def to_rgb(video: Path, frame: VideoFrame) -> np.ndarray:
    """Convert to uint8 RGB (height, width, 3); raises VideoError, naming `video`."""
    check_size(video, frame.width, frame.height)
    try:
        return frame.to_ndarray(format="rgb24", threads=1)
    except BROKEN_FILE as error:
        raise VideoError(f"{video}: a frame cannot be converted to RGB: {_describe_error(error)}") from error
