"""--export_requests: write questions as OpenAI batch requests, with the frames that the model would see.

A second file beside them holds the facts: what a comparison must know about each request."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from videobench.console import StatusLine
from videobench.data.dataset import Question, build_question_text
from videobench.data.rows import Row, question_fields
from videobench.errors import InputError
from videobench.files import JsonLines, check_writable, replacing
from videobench.model.prompts import Prompt
from videobench.run.journals import SUITE_VERSION, source_hashes
from videobench.run.options import RunSettings
from videobench.run.plan import RunContext

if TYPE_CHECKING:
    import numpy as np

    from videobench.video.pool import PreparedVideo

TOP_LOGPROBS = 20  # the most that OpenAI's interface takes


def facts_path(path: Path) -> Path:
    return path.parent / f"{path.name.removesuffix('.jsonl')}.facts.jsonl"


def export_requests(context: RunContext, path: Path) -> tuple[int, dict[Question, str]]:
    """Write the requests and their facts; return how many, and why the other questions cannot be asked."""
    from videobench.video.pool import DecodePool

    settings, spec, plan = context.settings, context.checkpoint.pixel_spec, context.plan
    size = spec.crop_height, spec.crop_width
    if spec.resized(*size) != size:
        raise InputError(
            f"--export_requests: frames of {size[1]}x{size[0]} would be resized again to {spec.resized(*size)}; this "
            "checkpoint's frames cannot be sent as the model sees them"
        )
    # The settings that a request fixes. Which checkpoint the service has loaded is not among them.
    shared = {
        "model_asked": settings.model_path.resolve().name,
        "num_frames": settings.num_frames,
        "max_new_tokens": settings.max_new_tokens,
        "frame_format": "png",
    }
    runs = {source.name: shared | source_hashes(source.qa_path) for source in settings.sources}
    adds_special_tokens = context.checkpoint.prompt_builder(settings.num_frames).adds_special_tokens
    failures, count = dict(plan.failures), 0
    works = {work.video: work for work in plan.works(list(plan.prompts))}
    total = sum(len(work.questions) for work in works.values())
    with (
        _new_files(path, settings.overwrite) as (requests, facts),
        DecodePool(spec, settings.num_frames, min(settings.num_workers, len(works))) as pool,
        closing(StatusLine()) as status,
    ):
        for video in pool.prepare(works):
            questions = works[video.video].questions
            if video.pixels is None:
                failures |= dict.fromkeys(questions, str(video.error))
            else:
                url = _data_url(video.pixels.permute(0, 2, 3, 1).contiguous().numpy())
                for each in questions:
                    key = {"custom_id": f"{each.dataset}/{each.id}"}
                    requests.append([key | _request(each, url, settings, adds_special_tokens)])
                    facts.append([key | _facts(each, plan.prompts[each], video, runs)])
                count += len(questions)
            status.show(f"export: {count}/{total} questions")
    return count, failures


@contextmanager
def _new_files(path: Path, overwrite: bool) -> Iterator[tuple[JsonLines, JsonLines]]:
    """Open the files of requests and facts, which get their names when both are complete.

    Raises InputError if a file exists and --overwrite is not given."""
    targets = path, facts_path(path)
    for each in targets:
        if each.exists() and not (overwrite and each.is_file()):
            raise InputError(f"{each}: is there already; choose another name, or --overwrite a file")
        check_writable(each)
    with replacing(targets[0]) as first, replacing(targets[1]) as second:
        fix = f"free space for {path}, or choose another place"
        requests, facts = JsonLines(first, fix), JsonLines(second, fix)
        yield requests, facts
        for file in (requests, facts):
            file.force()
            file.close()


def _data_url(frames: "np.ndarray") -> str:
    """Join PNG files with commas, although the URL says JPEG: vLLM and others accept only this form, and recognise the
    format of each file by its first bytes."""
    from videobench.video.images import encode_png

    return "data:video/jpeg;base64," + ",".join(base64.b64encode(encode_png(each)).decode() for each in frames)


def _request(question: Question, url: str, settings: RunSettings, adds_special_tokens: bool) -> Row:
    """Build one request. `add_special_tokens` is vLLM's: without it a chat lacks the begin-of-text token if the
    template does not write it."""
    text = build_question_text(question.text, question.options)
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": text}]
    return {
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


def _facts(question: Question, prompt: Prompt, video: "PreparedVideo", runs: Mapping[str, Row]) -> Row:
    return {
        **question_fields(question),
        "prompt_tokens": len(prompt),
        "prompt_sha256": prompt.sha256,
        **video.row_fields,
        "run": runs[question.source],
        "suite": SUITE_VERSION,
    }
