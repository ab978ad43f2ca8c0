"""The kinds of video files with which test_frames.py proves that frames are exact."""

from tests.support.clip_writer import QUIET_X265

FAST = {"preset": "veryfast"}
OPEN_GOP = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=12:bframes=3"}
# Some key frames have no pictures before them in presentation order, and still leave references to earlier ones.
OPEN_GOP_ONE_B = {"preset": "slow", "x264-params": "open-gop=1:keyint=7:bframes=1:b-adapt=0"}
OPEN_GOP_PYRAMID = {"preset": "slow", "x264-params": "open-gop=1:keyint=13:bframes=8:b-adapt=0:ref=8"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
HIDDEN_FRAMES = {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}
REFRESH = {**FAST, "intra-refresh": "1"}
X265 = {"preset": "ultrafast", "x265-params": QUIET_X265}
AV1 = {"preset": "12", "svtav1-params": "lp=1"}
GROWING, UNEVEN = [i * i // 7 + 3 * i for i in range(60)], [5 * i + i % 3 for i in range(60)]  # times
REAL_TIME = {"deadline": "realtime", "cpu-used": "8"}

# Name, suffix, encoder, arguments of write_clip, whether it is decoded sparsely.
CLIPS = [
    ("h264-b-frames", ".mp4", "libx264", {"options": FAST, "gop": 12}, True),
    ("h264-no-b-frames", ".mp4", "libx264", {"options": FAST, "gop": 12, "b_frames": 0}, True),
    ("h264-open-gop", ".mp4", "libx264", {"options": OPEN_GOP}, True),
    ("h264-open-gop-one-b", ".mov", "libx264", {"options": OPEN_GOP_ONE_B}, True),
    ("h264-open-gop-no-b", ".mp4", "libx264", {"options": OPEN_GOP_ONE_B, "b_frames": 0}, True),
    ("h264-open-gop-pyramid", ".mkv", "libx264", {"options": OPEN_GOP_PYRAMID}, True),
    ("h264-gop-250", ".mkv", "libx264", {"options": FAST, "gop": 250, "num_frames": 300}, True),
    ("h264-gop-7", ".mkv", "libx264", {"options": FAST, "gop": 7}, True),
    ("h264-all-intra", ".mp4", "libx264", {"options": FAST, "gop": 1}, True),
    ("h264-intra-refresh", ".mp4", "libx264", {"options": REFRESH, "gop": 20}, True),
    ("h264-refresh-no-b", ".mkv", "libx264", {"options": REFRESH, "gop": 20, "b_frames": 0}, True),
    ("h264-slices", ".mp4", "libx264", {"options": {**FAST, "slices": "3"}, "gop": 12}, True),
    ("h264-interlaced", ".mp4", "libx264", {"options": {**FAST, "x264-params": "tff=1"}, "gop": 12}, False),
    ("h264-scaling-lists", ".mp4", "libx264", {"options": {**FAST, "x264-params": "cqm=jvt"}, "gop": 12}, True),
    ("h264-10-bit", ".mkv", "libx264", {"options": FAST, "gop": 12, "pix_fmt": "yuv444p10le"}, True),
    ("h264-fragmented", ".mp4", "libx264", {"options": FAST, "gop": 12, "container_options": FRAGMENTED}, True),
    ("h264-avi", ".avi", "libx264", {"options": FAST, "gop": 12, "b_frames": 0}, True),
    ("h264-avi-b-frames", ".avi", "libx264", {"options": FAST, "gop": 12}, False),
    ("h264-ts", ".ts", "libx264", {"options": FAST, "gop": 12}, False),
    ("h264-flv", ".flv", "libx264", {"options": FAST, "gop": 12}, False),
    ("h264-raw", ".h264", "libx264", {"options": FAST, "gop": 12}, False),
    ("hevc-open-gop", ".mp4", "libx265", {"options": X265, "gop": 12}, False),
    ("hevc-mkv", ".mkv", "libx265", {"options": X265, "gop": 250}, False),
    ("vp9", ".webm", "libvpx-vp9", {"options": REAL_TIME, "gop": 12}, False),
    ("vp9-hidden-frames", ".webm", "libvpx-vp9", {"options": HIDDEN_FRAMES, "gop": 30}, False),
    ("vp8", ".webm", "libvpx", {"options": REAL_TIME, "gop": 12}, False),
    ("vp8-hidden-frames", ".webm", "libvpx", {"options": HIDDEN_FRAMES, "gop": 30}, False),
    ("av1", ".mp4", "libsvtav1", {"options": AV1, "gop": 16}, False),
    ("av1-mkv", ".mkv", "libsvtav1", {"options": AV1, "gop": 32}, False),
    ("mpeg4", ".mp4", "mpeg4", {"gop": 12}, True),
    ("mpeg4-b-frames", ".mp4", "mpeg4", {"gop": 12, "b_frames": 2}, True),
    ("mpeg4-avi", ".avi", "mpeg4", {"gop": 12}, True),
    ("mpeg4-avi-b-frames", ".avi", "mpeg4", {"gop": 12, "b_frames": 2}, False),
    ("mpeg2-ts", ".ts", "mpeg2video", {"gop": 12, "b_frames": 2}, False),
    ("mpeg1", ".mpg", "mpeg1video", {"gop": 12}, False),
    ("wmv", ".wmv", "wmv2", {"gop": 12}, False),
    ("flv", ".flv", "flv", {"gop": 12}, False),
    ("gif", ".gif", "gif", {"pix_fmt": "rgb8"}, False),
    ("mjpeg", ".avi", "mjpeg", {"pix_fmt": "yuvj420p"}, False),
    ("odd-numbers-of-frames", ".mp4", "libx264", {"options": FAST, "gop": 12, "num_frames": 61}, True),
    ("one-frame", ".mp4", "libx264", {"options": FAST, "num_frames": 1}, False),
    ("three-frames", ".mp4", "libx264", {"options": FAST, "num_frames": 3, "b_frames": 0}, True),
    ("nine-frames", ".mp4", "mpeg4", {"num_frames": 9}, True),
    ("nine-frames-vp9", ".webm", "libvpx-vp9", {"options": REAL_TIME, "num_frames": 9}, False),
    ("one-frame-gif", ".gif", "gif", {"pix_fmt": "rgb8", "num_frames": 1}, False),
    ("variable-rate", ".mkv", "libx264", {"options": FAST, "gop": 12, "pts": GROWING}, True),
    ("variable-rate-mp4", ".mp4", "libx264", {"options": FAST, "gop": 12, "pts": UNEVEN}, True),
    ("negative-times", ".nut", "libx264", {"options": FAST, "gop": 12, "pts": list(range(-20, 40))}, False),
    ("edit-list", ".mp4", "libx264", {"options": FAST, "gop": 12, "pts": list(range(-20, 40))}, True),
    ("edit-list-no-b-frames", ".mov", "mpeg4", {"gop": 8, "pts": list(range(-13, 47))}, True),
]

# Every encoder of the wheel that fits into a file of video: suffix, pixel format. Left out are those of pictures only.
ENCODERS = {
    ".mkv": "ffv1 yuv420p, libsvtav1 yuv420p, libvpx yuv420p, libvpx-vp9 yuv420p, libx264 yuv420p, libx264rgb bgr0, "
    "libx265 yuv420p, mjpeg yuvj420p, mpeg1video yuv420p, mpeg2video yuv420p, mpeg4 yuv420p, msmpeg4 yuv420p, "
    "prores yuv422p10le, prores_aw yuv422p10le, prores_ks yuv422p10le, rawvideo yuv420p",
    ".mov": "cinepak rgb24, dvvideo yuv420p, gif rgb8, h263 yuv420p, png rgb24, svq1 yuv410p, "
    "v308 yuv444p, v408 yuva444p, v410 yuv444p10le",
    ".avi": "ffvhuff yuv420p, flv yuv420p, h263p yuv420p, huffyuv yuv422p, ljpeg yuv420p, msmpeg4v2 yuv420p, "
    "utvideo yuv420p, wmv1 yuv420p, wmv2 yuv420p",
    ".apng": "apng rgb24",
    ".rm": "rv10 yuv420p, rv20 yuv420p",
}
REFUSED_ENCODERS = {
    ".mkv": "jpeg2000 yuv420p, snow yuv420p",
    ".mov": "cfhd yuv422p10le, exr grayf32le, qtrle rgb24, rpza rgb555le, tiff yuv420p, v210 yuv422p10le",
    ".avi": "asv1 yuv420p, h261 yuv420p, msvideo1 rgb555le, zlib bgr24",
    ".flv": "flashsv2 bgr24",
}


def _cases(encoders):
    return [(suffix, *each.split()) for suffix, listed in encoders.items() for each in listed.split(", ")]


ENCODER_CASES, REFUSED_CASES = _cases(ENCODERS), _cases(REFUSED_ENCODERS)
ENCODER_SIZES = {"dvvideo": (720, 576), "h261": (176, 144), "h263": (176, 144)}
