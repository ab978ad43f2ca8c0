"""--export_requests: the questions of a run as OpenAI batch requests, with the frames that the model would see.

Beside them a file of facts: for each request what a comparison must know of it. A request's line is written first, its
facts with the place where it ends second, so that a start after any end goes on behind the last whole pair.
"""

import base64
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tqdm import tqdm

from videobench.data.dataset import Question
from videobench.data.question_text import build_question_text
from videobench.data.rows import question_fields
from videobench.errors import InputError
from videobench.files import encode_json
from videobench.model.prompts import Prompt
from videobench.run.context import RunContext
from videobench.run.options import RunSettings
from videobench.run.provenance import SUITE_VERSION, source_facts
from videobench.video.spec import PixelSpec

if TYPE_CHECKING:
    import numpy as np

    from videobench.video.prepared import PreparedVideo

TOP_LOGPROBS = 20  # the most that OpenAI's interface takes
JPEG_QUANTISER, JPEG_PIXELS = 2, "yuvj444p"  # the best that the encoder has
FORMAT_NAMES = {"png": "png", "jpeg": f"jpeg, quantiser {JPEG_QUANTISER}, {JPEG_PIXELS}"}

FIRST_BYTES = b'{"custom_id":'  # of each line of facts

Facts = dict[str, Any]


def facts_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.facts.jsonl")


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
    with _writable(path), _Files(path, identity, runs_of, settings.overwrite) as files:
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
        "frames_decoded": video.frames_decoded,
        "frames_stated": video.frames_stated,
        "resolution": video.resolution,
        "run": runs[question.source],
        "suite": SUITE_VERSION,
    }


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); free space or choose another place") from None


class _Files:
    """The requests and their facts, of which whole pairs alone are kept."""

    def __init__(self, path: Path, identity: Facts, runs: Mapping[str, Facts], overwrite: bool) -> None:
        """`runs` are the facts of each request's run by its custom_id, which a request that is there already shares."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._identity, self._runs, self.done = path, identity, runs, set[str]()
        known = facts_path(path)
        for each in (path, known):
            if each.exists() and not each.is_file():
                raise InputError(f"{each}: not a regular file, which an export that goes on needs; choose another name")
        if not overwrite and path.exists() and path.stat().st_size and not known.exists():
            raise InputError(f"{path}: is there without its facts, {known.name}; choose another name, or --overwrite")
        self._facts = self._open(known)
        try:
            fcntl.flock(self._facts, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{path}: held by another export; wait for it, or choose another name") from None
        end, facts_end = (0, 0) if overwrite else self._find_end(path.stat().st_size if path.exists() else 0)
        self._requests = self._open(path)
        for file, size in ((self._requests, end), (self._facts, facts_end)):
            file.truncate(size)
            file.seek(size)

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._requests, self._facts):
            file.close()

    @staticmethod
    def _open(path: Path) -> BinaryIO:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "r+b")

    def _find_end(self, size: int) -> tuple[int, int]:
        """Of the requests, which are of that size, and of the facts, behind the last whole pair."""
        end = facts_end = 0
        for line in self._facts:
            facts = _parse(line)
            is_half = not facts and FIRST_BYTES.startswith(line[: len(FIRST_BYTES)])
            if not self.done and "identity" not in facts and not is_half:
                known = facts_path(self._path)
                raise InputError(f"{known}: holds something else; choose another name for the requests, or --overwrite")
            its_end, key = facts.get("request_end"), str(facts.get("custom_id"))
            if isinstance(its_end, int):
                self._check(facts.get("identity"), self._identity)
                self._check(facts.get("run"), self._runs.get(key, facts.get("run")))
            if not isinstance(its_end, int) or not end < its_end <= size:
                break  # half a line, or one whose request the disk lost: asked again from here on
            self.done.add(key)
            end, facts_end = its_end, facts_end + len(line)
        return end, facts_end

    def _check(self, found: Any, now: Any) -> None:
        if found != now:
            former = found if isinstance(found, dict) else {}
            name = next(each for each in (*now, *former) if former.get(each) != now.get(each))
            what = f"{name} {former.get(name)!r:.40}, now {now.get(name)!r:.40}"
            raise InputError(
                f"{self._path}: was begun with another {what}; use the former, another name, or --overwrite"
            )

    def append(self, pairs: Iterable[tuple[Facts, Facts]]) -> None:
        """Outlives this process when it returns."""
        facts = []
        for request, known in pairs:
            self._requests.write(encode_json(request) + b"\n")
            facts.append(known | {"request_end": self._requests.tell(), "identity": self._identity})
            self.done.add(known["custom_id"])
        self._flush(self._requests, os.fdatasync)
        self._facts.write(b"".join(encode_json(each) + b"\n" for each in facts))
        self._flush(self._facts, os.fdatasync)

    @staticmethod
    def _flush(file: BinaryIO, force: Callable[[int], None]) -> None:
        file.flush()
        force(file.fileno())


def _parse(line: bytes) -> Facts:
    try:
        facts = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}
