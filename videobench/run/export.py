"""--export_requests: the questions of a run as OpenAI batch requests, with the frames that the model would see.

Beside them a file of facts: for each request what a comparison must know of it.
"""

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from videobench.data.dataset import Question
from videobench.data.question_text import build_question_text
from videobench.data.rows import question_fields
from videobench.errors import InputError
from videobench.model.prompts import Prompt
from videobench.run.context import RunContext
from videobench.run.options import RunSettings
from videobench.run.provenance import SUITE_VERSION, source_facts
from videobench.run.request_files import Facts, RequestFiles, writable
from videobench.run.store import SeenVideos
from videobench.video.spec import PixelSpec

if TYPE_CHECKING:
    import numpy as np

    from videobench.video.prepared import PreparedVideo

TOP_LOGPROBS = 20  # the most that OpenAI's interface takes
JPEG_QUANTISER, JPEG_PIXELS = 2, "yuvj444p"  # the best that the encoder has
FORMAT_NAMES = {"png": "png", "jpeg": f"jpeg, quantiser {JPEG_QUANTISER}, {JPEG_PIXELS}"}


def export_requests(context: RunContext, path: Path) -> tuple[int, dict[Question, str]]:
    """Writes what is not there yet, decoding ahead; how many requests the file then holds, and the questions that
    cannot be asked, with the reason.

    Raises InputError where the files cannot be written, or were begun with other settings."""
    from videobench.video.pool import DecodePool

    settings, spec, plan = context.settings, context.checkpoint.pixel_spec, context.plan
    _check_spec(spec)
    shared = _shared_facts(settings)
    runs = {source.name: shared | source_facts(source.qa_path) for source in settings.sources}
    identity = {"checkpoint_sha256": context.checkpoint.sha256, "model": settings.model_path.resolve().name, **shared}
    adds_special_tokens = context.checkpoint.prompt_builder(settings.num_frames).adds_special_tokens
    failures = dict(plan.failures)
    runs_of = {_custom_id(each): runs[each.source] for each in plan.prompts}
    is_seen = SeenVideos({_custom_id(each): each.video for each in plan.prompts})
    with writable(path), RequestFiles(path, identity, runs_of, is_seen, settings.overwrite) as files:
        left = [each for each in plan.prompts if each not in plan.failures and _custom_id(each) not in files.done]
        works = {work.video: work for work in plan.works(left)}
        bar = tqdm(total=len(left), desc="export", unit="question", file=sys.stderr, disable=None if left else True)
        with DecodePool(spec, settings.num_frames, min(settings.num_workers, len(works))) as pool, bar:
            for video in pool.prepare(works):
                questions = [each for each in works[video.video].questions if _custom_id(each) not in files.done]
                if video.pixels is None:
                    failures |= dict.fromkeys(questions, str(video.error))
                else:
                    url = _data_url(video.pixels.permute(0, 2, 3, 1).contiguous().numpy(), settings.frame_format)
                    files.append(
                        (
                            _request(each, url, settings, adds_special_tokens),
                            _facts(each, plan.prompts[each], video, settings, runs),
                        )
                        for each in questions
                    )
                bar.update(len(questions))
    return len(files.done), failures


def _check_spec(spec: PixelSpec) -> None:
    size = spec.crop_height, spec.crop_width
    if spec.resized(*size) != size:
        raise InputError(
            f"--export_requests: frames of {size[1]}x{size[0]} would be resized again to {spec.resized(*size)}; this "
            "checkpoint's frames cannot be sent as the model sees them"
        )


def _shared_facts(settings: RunSettings) -> Facts:
    """What all requests settle of the service's run; which checkpoint it has loaded is its own affair."""
    return {
        "num_frames": settings.num_frames,
        "max_new_tokens": settings.max_new_tokens,
        "frame_format": FORMAT_NAMES[settings.frame_format],
    }


def _custom_id(question: Question) -> str:
    return f"{question.dataset}/{question.id}"


def _data_url(frames: "np.ndarray", frame_format: str) -> str:
    """Frames joined by commas, as vLLM and others take them; it reads each by its own first bytes, PNG too."""
    from videobench.video.pictures import encode_jpeg, encode_png

    files = (
        encode_png(each) if frame_format == "png" else encode_jpeg(each, JPEG_QUANTISER, JPEG_PIXELS) for each in frames
    )
    return "data:video/jpeg;base64," + ",".join(base64.b64encode(each).decode() for each in files)


def _request(question: Question, url: str, settings: RunSettings, adds_special_tokens: bool) -> Facts:
    """`add_special_tokens` is vLLM's: without it a chat has no begin-of-text token where its template writes none."""
    text = build_question_text(question.text, question.options)
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]
    return {
        "custom_id": _custom_id(question),
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": settings.model_path.resolve().name,
            "temperature": 0,
            "max_tokens": settings.max_new_tokens,
            "logprobs": True,
            "top_logprobs": TOP_LOGPROBS,
            **({"add_special_tokens": True} if adds_special_tokens else {}),
            "messages": [{"role": "user", "content": content}],
        },
    }


def _facts(
    question: Question, prompt: Prompt, video: "PreparedVideo", settings: RunSettings, runs: Mapping[str, Facts]
) -> Facts:
    # A JPEG's pixels are not quite those that were encoded.
    pixels = {"pixels_sha256": video.pixels_sha256} if settings.frame_format == "png" else {}
    return {
        "custom_id": _custom_id(question),
        **question_fields(question),
        "prompt_tokens": len(prompt),
        "prompt_sha256": prompt.sha256,
        **pixels,
        "video_sha256": video.video_sha256,
        "stamp": video.stamp,
        "frames_decoded": video.frames_decoded,
        "frames_stated": video.frames_stated,
        "resolution": video.resolution,
        "run": runs[question.source],
        "suite": SUITE_VERSION,
    }
